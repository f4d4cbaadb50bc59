"""Networks that other libraries build: exported once, and the same masks as theirs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from colour_network import make_network
from safetensors.numpy import save_file
from test_nets_hub import shake

import rtseg
from rtseg.backends import open_backend
from rtseg.decode import decode
from rtseg.errors import ModelError
from rtseg.evaluation.networks import Network
from rtseg.evaluation.scoring import score
from rtseg.evaluation.sets import SetSpec, open_set
from rtseg.nets import exported, find_model
from rtseg.nets.build import segmentation

segmentation()  # imports torchvision, whatever its build, before transformers does
transformers: Any = pytest.importorskip("transformers")

SIZE = (64, 64)
CLASSES = 5
LABELS = {"id2label": {index: f"class {index}" for index in range(CLASSES)}}
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 16,
    "use_auxiliary_head": False,
}


def networks() -> dict[str, tuple[str, dict[str, Any], str]]:
    """By type: prefix of the classes, a small configuration, and the image processor."""
    convnext = transformers.ConvNextConfig(
        depths=[1] * 4,
        hidden_sizes=[8, 16, 24, 32],
        out_features=[f"stage{i}" for i in (1, 2, 3, 4)],
    )
    return {
        "segformer": (
            "Segformer",
            {
                "depths": [1] * 4,
                "hidden_sizes": [8, 16, 32, 32],
                "num_attention_heads": [1, 2, 4, 4],
                "decoder_hidden_size": 32,
            },
            "Segformer",
        ),
        "mobilenet_v2": ("MobileNetV2", {"depth_multiplier": 0.35}, "MobileNetV2"),
        "mobilevit": (
            "MobileViT",
            {
                "hidden_sizes": [16, 24, 32],
                "neck_hidden_sizes": [8, 8, 16, 24, 32, 32, 48],
                "num_attention_heads": 2,
                "aspp_out_channels": 16,
            },
            "MobileViT",
        ),
        "mobilevitv2": (
            "MobileViTV2",
            {"width_multiplier": 0.5, "n_attn_blocks": [1, 1, 1], "aspp_out_channels": 16},
            "MobileViT",
        ),
        "upernet": (
            "UperNet",
            {"backbone_config": convnext, "hidden_size": 16, "use_auxiliary_head": False},
            "Segformer",
        ),
        "beit": ("Beit", {**VIT, "out_indices": [0, 1, 2, 3]}, "Beit"),
        "dpt": (
            "DPT",
            {
                **VIT,
                "backbone_out_indices": [0, 1, 2, 3],
                "neck_hidden_sizes": [8, 16, 24, 32],
                "fusion_hidden_size": 16,
            },
            "DPT",
        ),
    }


def write(folder: Path, kind: str) -> tuple[Any, Any]:
    """A folder with a small network, as transformers writes it; the network and the processor."""
    name, numbers, processor = networks()[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**numbers, **LABELS)
    network = getattr(transformers, f"{name}ForSemanticSegmentation")(config).eval()
    shake(network)
    image = torch.randn(1, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    last = [m for m in network.modules() if getattr(m, "out_channels", 0) == CLASSES][-1]
    with (
        torch.no_grad()
    ):  # every class is to win somewhere, though small random networks say little
        logits = network(image).logits
        last.weight.div_(logits.std((0, 2, 3)).view(-1, 1, 1, 1))
        last.bias.zero_()
        last.bias.sub_(network(image).logits.mean((0, 2, 3)))
    network.save_pretrained(folder)
    sides = {"height": SIZE[0], "width": SIZE[1]}
    options = {"size": sides, "crop_size": sides} if processor == "MobileNetV2" else {"size": sides}
    images = getattr(transformers, f"{processor}ImageProcessor")(**options, do_center_crop=False)
    images.save_pretrained(folder)
    return network, images


KINDS = [name for name, row in exported.TYPES.items() if not row.masks and ":" not in name]

TIE = 1e-4
"""Logits that differ by less are a tie, which rounding decides; they are some 1 apart."""


def scores_of(network: Any, processor: Any, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(C, H, W) logits of transformers for an RGB image, enlarged as its post-processing does."""
    with torch.no_grad():
        taken = processor(image, return_tensors="pt", input_data_format="channels_last")
        given = network(**taken)
        large = torch.nn.functional.interpolate(given.logits, size, mode="bilinear")[0]
    masks = processor.post_process_semantic_segmentation(given, [size])
    assert torch.equal(large.argmax(0), masks[0])
    found: np.ndarray = large.numpy()
    return found


def ties(logits: np.ndarray) -> np.ndarray:
    """(H, W) bool: where the two largest logits are a tie."""
    second, first = np.sort(logits, 0)[-2:]
    return np.asarray(first - second < TIE)


def assert_masks_equal(found: np.ndarray, logits: np.ndarray, what: str) -> None:
    """Every pixel has the class of the largest logit, except at ties, which are few."""
    wrong = (found != logits.argmax(0)) & ~ties(logits)
    assert not wrong.any(), f"{what}: {wrong.sum()} pixels"
    assert ties(logits).mean() < 1e-3


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_masks_equal_those_of_transformers(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    network, processor = write(tmp_path / "net", kind)
    model = find_model(tmp_path / "net")
    assert model.spec.labels.names == tuple(LABELS["id2label"].values())
    assert model.spec.input.fixed != exported.TYPES[kind].open
    assert model.spec.input.size == SIZE
    pixels = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3), np.uint8)
    pixels = pixels.repeat(8, 1).repeat(8, 2)
    wanted = {SIZE: scores_of(network, processor, pixels[0], SIZE)}
    if kind not in ENLARGES:
        wanted[90, 150] = scores_of(network, processor, pixels[0], (90, 150))
    assert len(np.unique(wanted[SIZE].argmax(0))) > 1
    for name in ("onnx", "openvino"):
        scores = open_backend(name, model, device="cpu", input_size=SIZE)(pixels)
        for size, logits in wanted.items():
            found = decode(scores[0], size, align_corners=model.spec.align_corners)[0]
            assert_masks_equal(found, logits, f"{name} at {size}")
    again = "import sys; from rtseg.nets import find_model; find_model(sys.argv[1])\n"
    again += "assert not {'transformers', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", again, str(tmp_path / "net")], check=True)
    check_live_and_eval(tmp_path, lambda image: scores_of(network, processor, image, SIZE))


def check_live_and_eval(folder: Path, logits_of: Callable[[Any], Any]) -> None:
    """Masks of the live loop, and figures of `eval` with the reference's masks as labels."""
    seen = check_live(folder, logits_of)
    assert len(np.unique([logits.argmax(0) for _, logits in seen])) > 1
    (folder / "set" / "images").mkdir(parents=True)
    (folder / "set" / "masks").mkdir()
    model = find_model(folder / "net")
    (folder / "set" / "classes.json").write_text(json.dumps(model.spec.labels.names))
    for index, (image, logits) in enumerate(seen):
        labels = np.where(ties(logits), 255, logits.argmax(0)).astype(np.uint8)
        cv2.imwrite(str(folder / "set" / "images" / f"{index}.png"), image)
        cv2.imwrite(str(folder / "set" / "masks" / f"{index}.png"), labels)
    figures = score(Network("net", model), open_set(SetSpec(folder / "set")))
    counts = figures.matrix.counts[:, :CLASSES]
    assert counts.sum() == np.trace(counts) > 0


def check_live(folder: Path, logits_of: Callable[[Any], Any]) -> list[tuple[Any, Any]]:
    """Masks of the live loop; returns the images (BGR) and the reference's logits.

    Args:
        folder: has the network in `net`.
        logits_of: the reference: an RGB image of SIZE to (classes, *SIZE).
    """
    height, width = SIZE
    seen = []
    with rtseg.load(folder / "net", frame_size=SIZE, device="cpu") as segmenter:
        source = f"test://?size={width}x{height}&frames=5&live=1&fps=100"
        for frame, segmentation in rtseg.stream(source, segmenter):
            logits = logits_of(frame.image[..., ::-1].copy())
            assert_masks_equal(segmentation.mask, logits, f"frame {frame.index}")
            seen.append((frame.image.copy(), logits))
    assert seen
    return seen


def test_a_toml_file_overrides_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = make_network(tmp_path / "written.onnx")
    written.with_suffix(".toml").unlink()
    monkeypatch.setattr(exported, "exported", lambda *_: written)
    folder = tmp_path / "net"
    folder.mkdir()
    config = {"model_type": "upernet", "id2label": {0: "a", 1: "b", 2: "c"}}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"w": np.zeros(1, np.float32)}, folder / "model.safetensors")
    (folder / "model.toml").write_text(
        'name = "mine"\nlabels = ["sky", "ground", "sea"]\ncolour = "BGR"\nmean = 0.5\nstd = 0.5\n'
    )
    spec = find_model(folder).spec
    assert (spec.name, spec.labels.names) == ("mine", ("sky", "ground", "sea"))
    assert (spec.input.colour, spec.input.mean, spec.input.std) == ("BGR", (0.5,) * 3, (0.5,) * 3)
    known = {"rescale_factor": 1 / 255, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(known))
    for text, scale in ("mean = 123\nstd = 58", 1.0), ('colour = "BGR"', 1 / 255):
        (folder / "model.toml").write_text(text)
        assert find_model(folder).spec.input.scale == pytest.approx(scale)


def write_mask2former(folder: Path) -> tuple[Any, Any]:
    """As `write`, of a Mask2Former, which gives masks with a class each."""
    torch.manual_seed(0)
    swin = transformers.SwinConfig(
        embed_dim=16,
        depths=[1] * 4,
        num_heads=[1, 1, 2, 2],
        window_size=4,
        image_size=64,
        out_features=[f"stage{i}" for i in (1, 2, 3, 4)],
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=swin,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=32,
        decoder_layers=3,
        num_queries=8,
        **LABELS,
    )
    network = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    processor = transformers.Mask2FormerImageProcessor(
        size={"height": SIZE[0], "width": SIZE[1]}, ignore_index=255
    )
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return network, processor


def write_eomt(folder: Path) -> tuple[Any, Any]:
    """The same of an EoMT."""
    torch.manual_seed(0)
    vit = {key: each for key, each in VIT.items() if key != "use_auxiliary_head"}
    options = {"num_blocks": 1, "num_upscale_blocks": 2, "num_queries": 8}
    config = transformers.EomtConfig(**vit, **options, **LABELS)
    network = transformers.EomtForUniversalSegmentation(config).eval()
    size = {"shortest_edge": SIZE[0], "longest_edge": SIZE[0]}
    processor = transformers.EomtImageProcessor(size=size)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return network, processor


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("write_masks", [write_eomt, write_mask2former])
def test_masks_with_a_class_each_are_added_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_masks: Any
) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    network, processor = write_masks(tmp_path / "net")
    model = find_model(tmp_path / "net")
    assert model.spec.labels.names == tuple(LABELS["id2label"].values())
    assert (model.spec.output, model.spec.input.size) == ("probabilities", SIZE)
    assert model.spec.input.fixed
    pixels = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3), np.uint8)
    pixels = pixels.repeat(8, 1).repeat(8, 2)

    @torch.no_grad()
    def sums_of(image: Any) -> tuple[Any, Any]:
        """What the network says, and its sums (1, classes, h, w)."""
        taken = processor(image, return_tensors="pt", input_data_format="channels_last")
        given = network(taken["pixel_values"])
        classes = given.class_queries_logits.softmax(-1)[..., :-1]
        masks = given.masks_queries_logits.sigmoid()
        return given, torch.einsum("bqc,bqhw->bchw", classes, masks)

    given, sums = sums_of(pixels[0])
    given.patch_offsets = None
    reference = processor.post_process_semantic_segmentation(given, [SIZE])[0].numpy()
    for name in ("onnx", "openvino"):
        scores = open_backend(name, model, device="cpu", input_size=SIZE)(pixels)
        np.testing.assert_allclose(scores, sums.numpy(), atol=1e-4)
        found = decode(scores[0], SIZE)[0]
        agreement = (found == reference).mean()
        assert agreement > 0.9, f"transformers enlarges the masks first: {agreement:.4f} agree"
    enlarge = partial(torch.nn.functional.interpolate, size=SIZE, mode="bilinear")
    check_live(tmp_path, lambda image: enlarge(sums_of(image)[1])[0].numpy())


ENLARGES = ("upernet", "dpt")
"""Networks that enlarge their logits to the input themselves: transformers enlarges them again."""


def assert_refused(folder: Path, change: dict[str, Any], found: str) -> None:
    """With that change of its configuration, in one line."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=found) as caught:
        find_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"depths": [10**9] * 4}, "more than"),
        ({"hidden_sizes": [60000] * 4}, "parameters|shape|size"),
        ({"auto_map": {"AutoModel": "evil.Net"}}, "auto_map"),
        ({"backbone": "microsoft/resnet-50"}, "elsewhere"),
        ({"depths": [2] * 4}, "missing"),
        ({"depths": [1, 1, 0, 1]}, "too many"),
        ({"decoder_hidden_size": 16}, r"decode_head\..* is \[32.*, and by .* \[16"),
        ({"id2label": {"0": "a", "1": "b"}}, r"classifier\..* is \[5.*, and by .* \[2"),
        ({"num_attention_heads": "two"}, "num_attention_heads"),
    ],
)
def test_folders_that_lie_are_refused(tmp_path: Path, change: dict[str, Any], found: str) -> None:
    write(tmp_path, "segformer")
    assert_refused(tmp_path, change, found)


@pytest.mark.slow
def test_without_transformers_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "mobilenet_v2")
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"rtseg\[transformers\]"):
        find_model(tmp_path)


# --- segmentation_models_pytorch -----------------------------------------------------------------

HALF = {"mean": [0.5] * 3, "std": [0.25] * 3, "max_pixel_value": 255.0}


def write_smp(
    folder: Path, name: str, encoder: str, size: tuple[int, int] = SIZE, classes: int = CLASSES
) -> Any:
    """A folder as that library saves it, with the file of albumentations; the network."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    small = {"decoder_intermediate_channels": (8, 8, 16, 16), "decoder_fusion_channels": 16}
    options = small if name == "DPT" else {}
    network = getattr(smp, name)(encoder, encoder_weights=None, classes=classes, **options).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    image = torch.randn(1, 3, 8, 8).repeat_interleave(size[0] // 8, 2)
    image = image.repeat_interleave(size[1] // 8, 3)
    last = [m for m in network.segmentation_head.modules() if isinstance(m, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight.div_(network(image).std((0, 2, 3)).view(-1, 1, 1, 1))
        last.bias.zero_()
        last.bias.sub_(network(image).mean((0, 2, 3)))
    network.save_pretrained(folder)
    steps = [
        {"__class_fullname__": "Resize", "height": size[0], "width": size[1], "interpolation": 1},
        {"__class_fullname__": "Normalize", **HALF, "normalization": "standard", "p": 1.0},
        {"__class_fullname__": "ToTensorV2", "transpose_mask": True},
    ]
    (folder / "albumentations_config_eval.json").write_text(
        json.dumps({"transform": {"__class_fullname__": "Compose", "transforms": steps}})
    )
    return network


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("Segformer", "mit_b0"),
        ("Unet", "resnet18"),
        ("DeepLabV3Plus", "mobilenet_v2"),
        ("DeepLabV3", "resnet18"),
        ("FPN", "resnet18"),
        ("UnetPlusPlus", "mobilenet_v2"),
        ("MAnet", "resnet18"),
        ("Linknet", "resnet18"),
        ("PSPNet", "resnet18"),
        ("PAN", "resnet18"),
        ("UPerNet", "resnet18"),
        ("Unet", "tu-resnet10t"),
        ("DPT", "tu-vit_tiny_patch16_224"),
    ],
)
def test_folders_of_smp_give_its_masks(
    tmp_path: Path, name: str, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    small = {"DPT": (224, 224), "PAN": (128, 128)}
    size = small.get(name, SIZE)
    network = write_smp(tmp_path / "net", name, encoder, size)
    model = find_model(tmp_path / "net")
    spec = model.spec
    assert "5 classes without names" in model.notes[0]
    assert (spec.input.mean, spec.input.std, spec.input.size) == ((0.5,) * 3, (0.25,) * 3, size)
    opened = exported.TYPES[f"smp:{name}"].open and not encoder.startswith("tu-")
    assert spec.input.fixed != opened

    @torch.no_grad()
    def logits_of(image: Any) -> Any:
        taken = torch.from_numpy((image / 255 - 0.5) / 0.25).float().permute(2, 0, 1)
        return network(taken[None])[0].numpy()

    monkeypatch.setattr(network, "check_input_shape", lambda _: None)
    # a side of 16 more is not one that smp takes itself
    for each in (size, (96, 160), (80, 112)) if opened else (size,):
        pixels = np.random.default_rng(1).integers(0, 256, (1, each[0] // 8, each[1] // 8, 3))
        pixels = pixels.repeat(8, 1).repeat(8, 2).astype(np.uint8)
        logits = logits_of(pixels[0])
        assert len(np.unique(logits.argmax(0))) > 1
        for backend in ("onnx", "openvino"):
            scores = open_backend(backend, model, device="cpu", input_size=each)(pixels)
            found = decode(scores[0], each, align_corners=spec.align_corners)[0]
            assert_masks_equal(found, logits, f"{backend} at {each}")
    if name in ("Unet", "Segformer"):
        check_live_and_eval(tmp_path, logits_of)


@pytest.mark.slow
def test_one_class_of_smp_is_what_stands_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    network = write_smp(tmp_path / "net", "Unet", "resnet18", classes=1)
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    config |= {"activation": "sigmoid", "encoder_weights": "imagenet"}  # nothing is fetched
    (tmp_path / "net" / "config.json").write_text(json.dumps(config))
    model = find_model(tmp_path / "net")
    assert model.spec.labels.names == ("background", "foreground")
    assert "assumed: the classes background and foreground" in model.notes[0]
    pixels = np.random.default_rng(1).integers(0, 256, (1, *SIZE, 3), np.uint8)
    taken = torch.from_numpy((pixels / 255 - 0.5) / 0.25).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        wanted = network(taken)[0, 0].numpy()
    scores = open_backend("onnx", model, device="cpu", input_size=SIZE)(pixels)
    found = decode(scores[0], SIZE, align_corners=True)[0]
    sure = np.abs(wanted) > TIE
    np.testing.assert_array_equal(found[sure], (wanted > 0)[sure])
    assert 0 < found.mean() < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"_model_class": "Evil"}, "Evil"),
        ({"in_channels": 4}, "4 channels"),
        ({"activation": "argmax2d"}, "argmax2d"),
        ({"activation": "sigmoid"}, "5 classes and the activation"),
        ({"encoder_name": "hf-hub:evil/net"}, "not a name"),
        ({"encoder_name": "none_such"}, "none_such', which smp does not have. See"),
        ({"encoder_name": "resnet-18"}, "does not have. Did you mean resnet18"),
        ({"encoder_name": "tu-resnet18x"}, "does not have. Did you mean tu-resnet18"),
        ({"checkpoint_path": "/etc/passwd"}, "checkpoint_path"),
        ({"decoder_channels": [10**6] * 5}, "more than 2048"),
        ({"decoder_channels": [64, 32, 16, 8, 4]}, "of another shape"),
        ({"encoder_name": "resnet34"}, "missing"),
        ({"classes": "five"}, "'five' classes"),
    ],
)
def test_folders_of_smp_that_lie_are_refused(
    tmp_path: Path, change: dict[str, Any], found: str
) -> None:
    write_smp(tmp_path, "Unet", "resnet18")
    assert_refused(tmp_path, change, found)


@pytest.mark.slow
def test_without_smp_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_smp(tmp_path, "Unet", "resnet18")
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ModelError, match=r"rtseg\[smp\]"):
        find_model(tmp_path)


def test_a_network_that_takes_one_size_only_is_refused_at_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a transformer of timm, with an assertion."""

    class OneSize(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.segmentation_head = torch.nn.Identity()
            self.segmentation_head.head = torch.nn.Identity()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            assert image.shape[2] == 224, "Input height (64) doesn't match model (224)."
            return image

    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(exported, "_load_smp", lambda folder, kind: OneSize())
    (tmp_path / "config.json").write_text('{"encoder_name": "tu-vit"}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match=r"doesn't match model \(224\).*model.toml"):
        exported.exported(tmp_path / "model.safetensors", "smp:DPT", SIZE, [])
