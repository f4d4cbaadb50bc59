"""Folders as the Hugging Face hub has them: what their JSON files say, and what is refused."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rtseg.backends import open_backend
from rtseg.decode import decode
from rtseg.errors import DownloadError, ModelError
from rtseg.labels import ADE20K
from rtseg.nets import find_model
from rtseg.nets.build import segmentation
from rtseg.nets.hub import NVIDIA

NAMES = ("wall", "person", "car")
CONFIG: dict[str, Any] = {
    "architectures": ["SegformerForSemanticSegmentation"],
    "model_type": "segformer",
    "id2label": {str(index): name for index, name in enumerate(NAMES)},
    "hidden_sizes": [8, 16, 32, 32],
}
PREPROCESSOR: dict[str, Any] = {
    "image_processor_type": "SegformerImageProcessor",
    "do_normalize": True,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
    "size": {"height": 64, "width": 96},
    "do_reduce_labels": True,
    "resample": 2,
}


def write_onnx(path: Path, classes: int = 3, sides: tuple[Any, Any] = ("height", "width")) -> None:
    """A network whose class scores are the sums of its input's channels, times 1, 2, 3 ..."""
    weight = np.arange(1, classes + 1, dtype=np.float32)[:, None, None, None] * np.ones(
        (1, 3, 1, 1)
    )
    graph = helper.make_graph(
        [helper.make_node("Conv", ["pixel_values", "weight"], ["logits"])],
        "net",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ("n", "c", *sides))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("n", "k", "h", "w"))],
        [onnx.numpy_helper.from_array(weight.astype(np.float32), "weight")],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(content, path)


def write(folder: Path, config: object = CONFIG, images: object = PREPROCESSOR) -> Path:
    write_onnx(folder / "onnx" / "model.onnx")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    return folder


def test_a_folder_describes_its_network(tmp_path: Path) -> None:
    model = find_model(write(tmp_path / "tiny-segformer"))
    spec, taken = model.spec, model.spec.input
    assert spec.name == "tiny-segformer"
    assert spec.labels.names == NAMES
    assert spec.labels.background is None
    assert (taken.size, taken.fixed, taken.layout, taken.colour) == ((64, 96), False, "NCHW", "RGB")
    assert (taken.mean, taken.std, taken.scale) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 1 / 255)
    assert model.notes == (
        "model.onnx does not describe itself fully; assumed: an output of logits",
    )


def test_pixels_reach_the_network_as_the_folder_says(tmp_path: Path) -> None:
    """Against the arithmetic of the image processor, written down here once more."""
    images = PREPROCESSOR | {"rescale_factor": 1 / 128}
    backend = open_backend("onnx", find_model(write(tmp_path, images=images)), device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    usual = (pixels / 128 - PREPROCESSOR["image_mean"]) / PREPROCESSOR["image_std"]
    wanted = usual.sum(-1)[:, None] * np.array([1, 2, 3])[:, None, None]
    np.testing.assert_allclose(backend(pixels), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "wanted"),
    [
        ({"size": 48}, {"size": (48, 48)}),
        ({"size": {"shortest_edge": 80}}, {"size": (80, 80)}),
        ({"do_center_crop": True, "crop_size": 32}, {"size": (32, 32)}),
        ({"do_normalize": False}, {"mean": (0, 0, 0), "std": (1, 1, 1), "scale": 1 / 255}),
        ({"do_rescale": False, "image_mean": 128}, {"scale": 1, "mean": (128, 128, 128)}),
        ({"do_flip_channel_order": True, "do_normalize": False}, {"colour": "BGR"}),
    ],
)  # fmt: skip
def test_forms_of_preprocessing(
    tmp_path: Path, images: dict[str, Any], wanted: dict[str, Any]
) -> None:
    found = find_model(write(tmp_path, images=PREPROCESSOR | images)).spec.input
    assert {name: getattr(found, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("SegformerFeatureExtractor", ((512, 512), "RGB", (0.485, 0.456, 0.406))),
        ("BeitImageProcessorFast", ((224, 224), "RGB", (0.5, 0.5, 0.5))),
        ("DPTImageProcessor", ((384, 384), "RGB", (0.5, 0.5, 0.5))),
        ("MobileNetV2ImageProcessor", ((224, 224), "RGB", (0.5, 0.5, 0.5))),
        ("MobileViTImageProcessor", ((256, 256), "BGR", (0, 0, 0))),
    ],
)
def test_what_the_file_leaves_out_is_as_its_processor_does(
    tmp_path: Path, kind: str, wanted: tuple[object, ...]
) -> None:
    found = find_model(write(tmp_path, images={"feature_extractor_type": kind})).spec.input
    assert (found.size, found.colour, found.mean) == wanted


def test_an_unknown_processor_that_says_nothing_is_assumed_with_a_note(tmp_path: Path) -> None:
    config = CONFIG | {"model_type": "newnet"}
    model = find_model(write(tmp_path, config, {"image_processor_type": "NewImageProcessor"}))
    assert "ImageNet's mean and std" in model.notes[0]


def test_classes_without_names_are_told_by_their_count(tmp_path: Path) -> None:
    unnamed = {str(index): f"LABEL_{index}" for index in range(150)}
    folder = write(tmp_path, CONFIG | {"id2label": unnamed})
    write_onnx(folder / "onnx" / "model.onnx", classes=150)
    model = find_model(folder)
    assert model.spec.labels.names == ADE20K.names
    assert model.spec.labels.colours == ADE20K.colours
    assert "the 150 classes of ADE20K" in model.notes[0]


def test_a_size_of_the_file_wins_and_a_toml_file_overrides_the_folder(tmp_path: Path) -> None:
    folder = write(tmp_path)
    write_onnx(folder / "onnx" / "model.onnx", sides=(32, 32))
    (folder / "onnx" / "model.toml").write_text('colour = "BGR"\nname = "mine"')
    spec = find_model(folder / "onnx" / "model.onnx").spec
    assert (spec.input.size, spec.input.fixed) == ((32, 32), True)
    assert (spec.name, spec.input.colour, spec.input.mean) == ("mine", "BGR", (0.1, 0.2, 0.3))


def test_numbers_of_other_types_of_networks_do_not_matter(tmp_path: Path) -> None:
    config = CONFIG | {"model_type": "beit", "num_attention_heads": 12, "hidden_act": {}}
    assert find_model(write(tmp_path, config)).spec.labels.names == NAMES


def test_another_file_of_the_folder_is_described_too(tmp_path: Path) -> None:
    write_onnx(write(tmp_path) / "onnx" / "model_fp16.onnx")
    assert find_model(tmp_path / "onnx" / "model_fp16.onnx").spec.labels.names == NAMES


@pytest.mark.parametrize(
    ("config", "images", "found"),
    [
        ({"auto_map": {"AutoModel": "evil.Net"}}, {}, "auto_map"),
        ({}, {"auto_map": {"AutoImageProcessor": "evil.P"}}, "auto_map"),
        ({"model_type": "mask2former"}, {}, "mask2former returns masks"),
        ({"architectures": ["BeitForImageClassification"]}, {}, "it is for ImageClassification"),
        ({"id2label": {"0": "a", "2": "b"}}, {}, "no class 1"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, {}, "two classes"),
        ({"id2label": {"0": "a", "1": "\u001b[2J", "2": "b"}}, {}, "plain characters"),
        ({"id2label": {"0": "a", "1": 7}}, {}, "got whole number"),
        ({"id2label": {str(i): f"c{i}" for i in range(300)}}, {}, "2 to 255 classes"),
        ({}, {"image_mean": [0.5, 0.5]}, "one number or three"),
        ({}, {"image_std": 0}, "greater than 0"),
        ({}, {"rescale_factor": -1}, "greater than 0"),
        ({}, {"image_mean": "0.5"}, "image_mean"),
        ({}, {"size": {"height": 10**9, "width": 2}}, "8192"),
        ({}, {"size": {"long": 3}}, "without height and width"),
        ({}, {"size": True}, "size"),
        ({}, {"do_flip_channel_order": True}, "in an order"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, config: dict[str, Any], images: dict[str, Any], found: str
) -> None:
    folder = write(tmp_path, CONFIG | config, PREPROCESSOR | images)
    with pytest.raises(ModelError) as caught:
        find_model(folder)
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1, "a": 2}', "[" * 100_000, "\0", ""])
def test_damaged_descriptions_are_refused(tmp_path: Path, text: str) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        (write(tmp_path) / name).write_text(text)
        with pytest.raises(ModelError):
            find_model(tmp_path)


def test_a_folder_without_an_onnx_file_or_description(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither"):
        find_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04 a pickle, never read")
    with pytest.raises(ModelError, match="neither"):
        find_model(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_masks_equal_those_of_transformers(tmp_path: Path, size: tuple[int, int]) -> None:
    """A folder that transformers wrote, and its own image processor and post-processing.

    The image has the network's size, so that nobody's resizing is compared.
    """
    segmentation()  # imports torchvision, whatever its build, before transformers does
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    network = transformers.SegformerForSemanticSegmentation(segformer(classes=5)).eval()
    shake(network)
    network.save_pretrained(tmp_path)
    processor = transformers.SegformerImageProcessor(
        size=dict(zip(("height", "width"), size, strict=True)), do_reduce_labels=True
    )
    processor.save_pretrained(tmp_path)
    export(network, tmp_path / "onnx" / "model.onnx", size)
    model = find_model(tmp_path)
    assert model.spec.labels.names == ("wall", "person", "car", "sky", "road")
    pixels = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3), np.uint8)
    pixels = pixels.repeat(size[0] // 8, 1).repeat(size[1] // 8, 2)
    with torch.no_grad():
        taken = processor(pixels[0], return_tensors="pt", input_data_format="channels_last")
        wanted = processor.post_process_semantic_segmentation(network(**taken), [size])[0].numpy()
    scores = open_backend("onnx", model, device="cpu", input_size=size)(pixels)
    np.testing.assert_array_equal(decode(scores[0], size)[0], wanted)
    assert len(np.unique(wanted)) > 2


def segformer(classes: int) -> Any:
    from transformers import SegformerConfig

    names = ("wall", "person", "car", "sky", "road")[:classes]
    return SegformerConfig(
        depths=[1] * 4,
        hidden_sizes=[8, 16, 32, 32],
        num_attention_heads=[1, 2, 4, 4],
        decoder_hidden_size=32,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )


def shake(network: Any) -> None:
    """Give batch norms statistics and every weight some size, so that all of it counts."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
        elif isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.weight.data.mul_(6)


def export(network: Any, path: Path, size: tuple[int, int]) -> None:
    """The network as optimum exports it: scores at the network's own stride."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.network(pixel_values).logits

    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits().eval(),  # or the exporter leaves the network training
            (torch.zeros(1, 3, *size),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_axes={"pixel_values": {0: "n", 1: "c", 2: "h", 3: "w"}, "logits": {0: "n"}},
        )


# --- repositories --------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/tiny-segformer"


@dataclass
class Hub:
    """A server that answers as the hub does, with the files of a folder."""

    folder: Path
    card: dict[str, Any] = field(default_factory=lambda: {"license": "mit"})
    sha: str = COMMIT
    lies: dict[str, bytes] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)

    def answer(self, path: str) -> bytes | None:
        self.paths.append(path)
        if path.startswith(f"/api/models/{REPO}/revision/"):
            files = [one for one in self.folder.rglob("*") if one.is_file()]
            siblings = [self._entry(one) for one in files]
            listing = {"id": REPO, "sha": self.sha, "siblings": siblings, "cardData": self.card}
            return json.dumps(listing).encode()
        name = path.removeprefix(f"/{REPO}/resolve/{COMMIT}/")
        file = self.folder / name
        return self.lies.get(name) or (file.read_bytes() if file.is_file() else None)

    def _entry(self, file: Path) -> dict[str, Any]:
        name = file.relative_to(self.folder).as_posix()
        content = file.read_bytes()
        entry = {
            "rfilename": name,
            "size": self.lengths.get(name, len(content)),
            "blobId": "0" * 40,
        }
        if file.suffix == ".onnx":
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
        return entry


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub(write(tmp_path / "published"))
    (state.folder / "evil.py").write_text("raise SystemExit")
    (state.folder / "pytorch_model.bin").write_bytes(b"a pickle")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = state.answer(self.path.partition("?")[0])
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    for name in ("RTSEG_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("rtseg.nets.weights.PAUSE_SECONDS", 0.0)
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_repository_is_fetched_once_by_its_commit(hub: Hub, tmp_path: Path) -> None:
    shown: list[str] = []
    model = find_model(f"hf:{REPO}", progress=lambda title, done, total: shown.append(title))
    assert model.spec.name == REPO
    assert model.spec.labels.names == NAMES
    assert model.spec.licence == "licence: mit"
    assert model.notes[0] == f"{REPO} at commit 0123456789ab; licence: mit"
    assert model.file is not None
    assert COMMIT in model.file.parts
    assert hub.paths[0] == f"/api/models/{REPO}/revision/main"
    wanted = ("config.json", "preprocessor_config.json", "onnx/model.onnx")
    assert hub.paths[1:] == [f"/{REPO}/resolve/{COMMIT}/{name}" for name in wanted]
    assert f"config.json of {REPO} (licence: mit)" in shown
    asked = len(hub.paths)
    hub.sha = "f" * 40  # a later commit
    assert find_model(f"hf:{REPO}") == model
    assert len(hub.paths) == asked
    kept = [path.name for path in (tmp_path / "cache" / "hub").rglob("*") if path.is_file()]
    assert len(kept) == 4  # with the record
    assert {"config.json", "model.onnx", "preprocessor_config.json"} < set(kept)


@pytest.mark.parametrize("ending", ["_data", ".data", "_data_1"])
def test_weights_in_another_file_are_fetched(hub: Hub, ending: str) -> None:
    (hub.folder / "onnx" / f"model.onnx{ending}").write_bytes(b"weights")
    (hub.folder / "onnx" / "model.onnx.txt").write_bytes(b"no weights")
    file = find_model(f"hf:{REPO}").file
    assert file is not None
    others = {path.name for path in file.parent.iterdir()} - {"model.onnx"}
    assert others == {f"model.onnx{ending}"}


def test_two_that_fetch_at_the_same_time_both_get_it(hub: Hub, tmp_path: Path) -> None:
    """Of what one fetches, the other removes nothing, and it takes nothing for its own."""
    place = tmp_path / "cache" / "hub" / REPO.replace("/", "--")
    place.mkdir(parents=True)
    (place / ".listing.json").write_text(json.dumps({"sha": "f" * 40, "siblings": []}))
    together = Barrier(4)
    whole = hub.answer

    def answer(path: str) -> bytes | None:
        if "config.json" in path or "/api/" in path:
            together.wait(20)
        return whole(path)

    hub.answer = answer  # type: ignore[method-assign]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: find_model(f"hf:{REPO}"), range(4)))
    assert found == found[:1] * 4
    left = {path.name for path in (tmp_path / "cache" / "hub").rglob("*") if path.is_file()}
    assert len(left - {".listing.json"}) == 4, left


def test_a_revision_and_a_file_are_asked_for(hub: Hub) -> None:
    write_onnx(hub.folder / "onnx" / "model_fp16.onnx")
    model = find_model(f"hf:{REPO}@v1.0:onnx/model_fp16.onnx")
    assert hub.paths[0] == f"/api/models/{REPO}/revision/v1.0"
    assert model.file is not None
    assert model.file.name == "model_fp16.onnx"


def test_a_file_that_was_changed_since_is_fetched_again_from_its_commit(hub: Hub) -> None:
    model = find_model(f"hf:{REPO}")
    config = model.file.parents[1] / "config.json"  # type: ignore[union-attr]
    whole = config.read_bytes()
    config.write_bytes(whole.replace(b"wall", b"wail"))
    assert find_model(f"hf:{REPO}").spec.labels.names == NAMES
    assert f"/api/models/{REPO}/revision/{COMMIT}" in hub.paths
    config.write_bytes(b"{}")
    hub.lies["config.json"] = whole.replace(b"wall", b"wail")  # the server changed too
    with pytest.raises(DownloadError, match="was published"):
        find_model(f"hf:{REPO}")


@pytest.mark.parametrize("variable", ["RTSEG_OFFLINE", "HF_HUB_OFFLINE"])
def test_nothing_is_downloaded_offline(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(DownloadError, match=f"{variable} forbids downloads") as caught:
        find_model(f"hf:{REPO}")
    assert "FOLDER" in caught.value.do  # no file that is put somewhere would be enough
    with pytest.raises(DownloadError, match=f"{variable} forbids downloads"):
        find_model("fcn_resnet50")
    assert hub.paths == []
    monkeypatch.setenv(variable, "0")
    model = find_model(f"hf:{REPO}")
    monkeypatch.setenv(variable, "1")
    assert find_model(f"hf:{REPO}") == model


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ({"license": "other", "license_name": "my-terms"}, "licence: my-terms"),
        ({"license": "mit", "base_model": "nvidia/mit-b0"}, NVIDIA),
        ({"base_model": ["nvidia/segformer-b0-finetuned-ade-512-512"]}, NVIDIA),
        ({}, "no licence named"),
    ],
)
def test_the_licence_is_that_of_the_card_or_of_its_base(
    hub: Hub, card: dict[str, Any], licence: str
) -> None:
    hub.card = card
    assert find_model(f"hf:{REPO}").spec.licence == licence


@pytest.mark.parametrize(
    "name",
    [
        "hf:tiny",
        "hf:a/b/c",
        "hf:../b",
        "hf:a/b@../../x",
        "hf:a/b:../../x.onnx",
        "hf:a/b:/etc/x.onnx",
        "hf:a/b:model.bin",
        "hf:a/b?x=y",
        "hf:",
    ],
)
def test_what_is_not_an_address_is_refused_without_a_request(hub: Hub, name: str) -> None:
    with pytest.raises(ModelError, match="not the address"):
        find_model(name)
    assert hub.paths == []


def test_servers_that_lie_are_refused(hub: Hub) -> None:
    hub.lies = {"onnx/model.onnx": b"another network"}
    with pytest.raises(DownloadError, match="was published"):
        find_model(f"hf:{REPO}")
    hub.lies, hub.lengths = {}, {"config.json": 10}
    with pytest.raises(DownloadError, match=r"at most|not the file"):
        find_model(f"hf:{REPO}")
    hub.lengths = {"onnx/model.onnx": 10**15}
    with pytest.raises(DownloadError, match="bytes"):
        find_model(f"hf:{REPO}")
    hub.lengths, hub.sha = {}, "../../../etc"
    with pytest.raises(DownloadError, match="names no commit"):
        find_model(f"hf:{REPO}")


def test_a_repository_without_that_file_names_others(hub: Hub) -> None:
    (hub.folder / "onnx" / "model.onnx").rename(hub.folder / "onnx" / "net.onnx")
    with pytest.raises(ModelError, match=r"but 'onnx/net\.onnx'"):
        find_model(f"hf:{REPO}")
    with pytest.raises(DownloadError, match="404"):
        find_model("hf:someone/else")


def test_weights_of_a_network_that_nobody_here_builds_are_not_downloaded(hub: Hub) -> None:
    (hub.folder / "onnx" / "model.onnx").unlink()
    (hub.folder / "model.safetensors").write_bytes(bytes(100))
    for change, kind in (({"model_type": "bert"}, "bert"), ({"_model_class": "MyNet"}, "MyNet")):
        (hub.folder / "config.json").write_text(json.dumps(CONFIG | change))
        with pytest.raises(ModelError, match=rf"does not build its network \({kind}\)"):
            find_model(f"hf:{REPO}")
    assert not any("safetensors" in path for path in hub.paths)


def test_weights_of_a_segformer_are(hub: Hub) -> None:
    from safetensors.torch import save_file

    from rtseg.nets.build import build

    (hub.folder / "onnx" / "model.onnx").unlink()
    save_file(build("segformer_b0", 3).state_dict(), hub.folder / "model.safetensors")
    config = {key: value for key, value in CONFIG.items() if key != "hidden_sizes"}
    (hub.folder / "config.json").write_text(json.dumps(config))
    spec = find_model(f"hf:{REPO}").spec
    assert (spec.name, spec.architecture, spec.labels.names) == (REPO, "segformer_b0", NAMES)


def sharded(hub: Hub) -> Any:
    """Two files of weights of a SegFormer, as the hub has large ones; the weights."""
    from safetensors.torch import save_file

    from rtseg.nets.build import build

    (hub.folder / "onnx" / "model.onnx").unlink()
    state = build("segformer_b0", 3).state_dict()
    files = {}
    for number in (0, 1):
        name = f"model-{number + 1:05}-of-00002.safetensors"
        own = dict(list(state.items())[number::2])
        save_file(own, hub.folder / name)
        files |= dict.fromkeys(own, name)
    (hub.folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    config = {key: value for key, value in CONFIG.items() if key != "hidden_sizes"}
    (hub.folder / "config.json").write_text(json.dumps(config))
    return state


def test_weights_in_several_files_are_fetched_and_joined(hub: Hub) -> None:
    import torch
    from safetensors.torch import load_file

    state = sharded(hub)
    model = find_model(f"hf:{REPO}")
    spec = model.spec
    assert (spec.name, spec.architecture, spec.labels.names) == (REPO, "segformer_b0", NAMES)
    assert model.file is not None
    found = load_file(model.file)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    asked = len(hub.paths)
    assert find_model(f"hf:{REPO}") == model
    assert len(hub.paths) == asked
    for part in model.file.parents[3].rglob("model-00001-of-00002.safetensors"):
        part.write_bytes(b"damaged")
    assert find_model(f"hf:{REPO}") == model
    assert any("model-00001-of-00002" in path for path in hub.paths[asked:])


def test_files_of_weights_that_are_not_there_or_too_large_are_not_fetched(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharded(hub)
    (hub.folder / "model-00002-of-00002.safetensors").rename(hub.folder / "other.safetensors")
    with pytest.raises(ModelError, match="model-00002-of-00002"):
        find_model(f"hf:{REPO}")
    (hub.folder / "other.safetensors").rename(hub.folder / "model-00002-of-00002.safetensors")
    monkeypatch.setenv("RTSEG_MAX_MODEL_GB", "0.001")
    with pytest.raises(ModelError, match="more than"):
        find_model(f"hf:{REPO}")
    index = {"weight_map": {"a": "../../evil.safetensors"}}
    (hub.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="not a file of weights"):
        find_model(f"hf:{REPO}@other")
    assert not any(path.endswith(".safetensors") for path in hub.paths)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["openvino_model.xml", "openvino/openvino_model.xml"])
def test_the_network_of_openvino_in_a_folder_or_repository(hub: Hub, place: str) -> None:
    openvino: Any = pytest.importorskip("openvino")
    network = openvino.convert_model(hub.folder / "onnx" / "model.onnx")
    (hub.folder / "onnx" / "model.onnx").unlink()
    (hub.folder / place).parent.mkdir(exist_ok=True)
    openvino.save_model(network, hub.folder / place, compress_to_fp16=False)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    usual = (pixels / 255 - PREPROCESSOR["image_mean"]) / PREPROCESSOR["image_std"]
    wanted = usual.sum(-1)[:, None] * np.array([1, 2, 3])[:, None, None]
    for name in (hub.folder, f"hf:{REPO}", f"hf:{REPO}:{place}"):
        model = find_model(name)
        assert (model.format, model.spec.labels.names) == ("openvino", NAMES)
        backend = open_backend("openvino", model, device="cpu", input_size=(64, 96))
        np.testing.assert_allclose(backend(pixels), wanted, rtol=1e-4, atol=1e-4)
