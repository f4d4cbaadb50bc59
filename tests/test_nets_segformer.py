"""SegFormer: the same network as that of transformers, from its files, on every backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from dataset_folders import SIZE, make_folder
from test_nets_hub import PREPROCESSOR, shake
from training import quick

import rtseg
from rtseg.backends import open_backend
from rtseg.decode import decode
from rtseg.errors import ModelError
from rtseg.evaluation.networks import InputPolicy, Network
from rtseg.evaluation.scoring import score
from rtseg.evaluation.sets import SetSpec, open_set
from rtseg.exporting import ExportOptions
from rtseg.exporting.program import export_network
from rtseg.nets import find_model
from rtseg.nets.build import build, segmentation
from rtseg.nets.segformer import MergedHead
from rtseg.nets.state import read_checkpoint
from rtseg.temporal import TemporalOptions
from rtseg.training.program import train
from rtseg.zoo import SEGFORMERS

CONFIG: dict[str, Any] = {
    "architectures": ["SegformerForSemanticSegmentation"],
    "model_type": "segformer",
    "id2label": {"0": "wall", "1": "person", "2": "car"},
}


def write(folder: Path, config: dict[str, Any]) -> Path:
    """A folder with B0's weights, under our names."""
    from safetensors.torch import save_file

    save_file(build("segformer_b0", 3).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


def test_the_merged_head_gives_the_same_logits() -> None:
    torch.manual_seed(0)
    network = build("segformer_b0", 7)
    shake(network)
    with torch.no_grad():
        features = network.get_submodule("backbone")(torch.randn(2, 3, 96, 64))
        head = network.get_submodule("classifier")
        wanted, found = head(features), MergedHead(head)(features)
    assert wanted.shape == (2, 7, 24, 16)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    assert (found.argmax(1) == wanted.argmax(1)).all()


def test_training_leaves_branches_out() -> None:
    network = build("segformer_b0", 3)
    image = torch.randn(1, 3, 64, 64)
    torch.manual_seed(0)
    with torch.no_grad():
        assert torch.equal(network(image)["out"], network(image)["out"])
        network.train()
        assert not torch.equal(network(image)["out"], network(image)["out"])


def test_a_folder_with_weights_is_told_by_its_numbers(tmp_path: Path) -> None:
    model = find_model(write(tmp_path, CONFIG))
    spec = model.spec
    assert (spec.architecture, spec.labels.names) == ("segformer_b0", ("wall", "person", "car"))
    assert (spec.input.size, spec.input.mean) == ((64, 96), (0.1, 0.2, 0.3))
    assert (spec.weights, spec.miou, spec.licence) == (None, None, "")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"model_type": "bert", "architectures": []}, "does not build"),
        ({"auto_map": {"AutoModel": "evil.Net"}}, "auto_map"),
    ],
)
def test_folders_of_other_networks_are_refused(
    tmp_path: Path, change: dict[str, Any], found: str
) -> None:
    with pytest.raises(ModelError) as caught:
        find_model(write(tmp_path, CONFIG | change))
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)


def split(folder: Path) -> None:
    """Put a folder's weights into two files, as the hub has large ones."""
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {}
    for number in (0, 1):
        name = f"model-{number + 1:05}-of-00002.safetensors"
        own = dict(list(state.items())[number::2])
        save_file(own, folder / name)
        files |= dict.fromkeys(own, name)
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_weights_in_several_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "net"
    folder.mkdir()
    whole = load_file(write(folder, CONFIG) / "model.safetensors")
    spec = find_model(folder).spec
    split(folder)
    model = find_model(folder)
    assert model.spec == spec
    assert model.file is not None
    found = load_file(model.file)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    index = folder / "model.safetensors.index.json"
    for name in ("../model.safetensors", "model-00003-of-00002.safetensors", "pytorch_model.bin"):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(ModelError, match="not a file of weights beside it") as caught:
            find_model(folder)
        assert "\n" not in str(caught.value)
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"\xff" * 99)
    index.write_text(json.dumps({"weight_map": {"a": "model-00002-of-00002.safetensors"}}))
    with pytest.raises(ModelError, match="Download it again"):
        find_model(folder)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    kind = SEGFORMERS["segformer_b1"]
    change = {"hidden_sizes": list(kind.channels), "depths": list(kind.depths)}
    model = find_model(write(tmp_path, CONFIG | change))
    assert model.spec.architecture == "segformer_b1"
    with pytest.raises(ModelError, match="of another shape"):
        open_backend("torch", model, input_size=(32, 32), device="cpu")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_masks_equal_those_of_transformers_on_every_backend(tmp_path: Path) -> None:
    segmentation()  # imports torchvision, whatever its build, before transformers does
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    names = {index: f"class {index}" for index in range(9)}
    network = transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(id2label=names)
    ).eval()
    shake(network)
    for module in network.modules():  # six times would drown the images in the last layer's bias
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            module.weight.data.div_(2)
    network.save_pretrained(tmp_path)
    size = (64, 96)
    processor = transformers.SegformerImageProcessor(size={"height": 64, "width": 96})
    processor.save_pretrained(tmp_path)
    model = find_model(tmp_path)
    assert model.spec.architecture == "segformer_b0"
    pixels = np.random.default_rng(1).integers(0, 256, (1, 8, 12, 3), np.uint8)
    pixels = pixels.repeat(8, 1).repeat(8, 2)
    with torch.no_grad():
        taken = processor(pixels[0], return_tensors="pt", input_data_format="channels_last")
        wanted = processor.post_process_semantic_segmentation(network(**taken), [size])[0].numpy()
    assert len(np.unique(wanted)) > 3
    for name in ("torch", "onnx", "openvino"):
        scores = open_backend(name, model, device="cpu", input_size=size)(pixels)
        np.testing.assert_array_equal(decode(scores[0], size)[0], wanted)


# --- trained -------------------------------------------------------------------------------------

CLIP = "test://?size=96x96&frames=13"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with "run", B0 trained from scratch for a few steps, and its set in "data"."""
    place = tmp_path_factory.mktemp("trained")
    data = make_folder(place / "data")
    result = train(quick(data, "segformer_b0", place / "run", epochs=4, lr=3e-4))
    assert result.rows[-1].train_loss < result.rows[0].train_loss
    return place


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_checkpoint_is_the_same_on_every_backend(trained: Path) -> None:
    model = find_model(trained / "run")
    assert model.spec.architecture == "segformer_b0"
    assert read_checkpoint(trained / "run" / "best.pth")[0] == model.spec
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    scores = {
        name: open_backend(name, model, device="cpu", input_size=(64, 64))(pixels)
        for name in ("torch", "onnx", "openvino")
    }
    for found in scores.values():
        np.testing.assert_allclose(found, scores["torch"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_figures_are_those_of_its_masks(trained: Path) -> None:
    """`eval`, against masks of the same segmenter counted here."""
    network = Network("b0", find_model(trained / "run"))
    network.policy = InputPolicy("exact")
    found = score(network, open_set(SetSpec(trained / "data")))
    wanted = np.zeros((3, 3), np.int64)
    with rtseg.load(trained / "run", frame_size=SIZE, device="cpu") as segmenter:
        for sample in open_set(SetSpec(trained / "data")).samples:
            mask = segmenter(sample.read_image()).mask
            np.add.at(wanted, (sample.read_mask().ravel(), mask.ravel()), 1)
    assert (found.matrix.counts[:, :3] == wanted).all()
    assert np.trace(wanted) / wanted.sum() > 0.5, "four epochs teach it some of the background"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_its_int8_form_agrees_and_runs(trained: Path, tmp_path: Path) -> None:
    size = (64, 96)
    options = ExportOptions(
        precision="int8", imgsz=size, samples=str(trained / "data" / "images"), min_agreement=0.9
    )
    model = find_model(trained / "run")
    exported = export_network(model, tmp_path / "b0-int8.onnx", options)
    assert exported.attempts[-1].agreement >= 0.9
    kinds = [node.op_type for node in onnx.load(tmp_path / "b0-int8.onnx").graph.node]
    assert kinds.count("QuantizeLinear") > 20
    assert exported.megabytes["onnx int8"] < 0.4 * exported.megabytes["onnx fp32"]
    made = find_model(tmp_path / "b0-int8.onnx")
    assert made.spec.labels == model.spec.labels
    pixels = next(iter(rtseg.open_source(CLIP))).image[..., ::-1]
    pixels = cv2.resize(pixels, size[::-1])[None]
    masks = [
        decode(open_backend(name, each, device="cpu", input_size=size)(pixels)[0], size)[0]
        for name, each in (("onnx", made), ("torch", model))
    ]
    assert (masks[0] == masks[1]).mean() > 0.85


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_live_source_gives_the_masks_of_its_frames(trained: Path) -> None:
    with rtseg.load(trained / "run", frame_size=(96, 96), device="cpu") as segmenter:
        own = {frame.index: found.mask for frame, found in rtseg.stream(CLIP, segmenter)}
        assert list(own) == list(range(13))
        seen = 0
        for frame, found in rtseg.stream(f"{CLIP}&live=1&fps=2", segmenter):
            assert np.array_equal(found.mask, own[frame.index])
            seen += 1
        assert seen > 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_propagation_carries_its_masks(trained: Path) -> None:
    """Keyframes have the masks of a plain run; those between come from them."""
    options = TemporalOptions(propagate=True, key_every=4)
    with rtseg.load(trained / "run", frame_size=(96, 96), device="cpu") as segmenter:
        plain = {frame.index: found.mask for frame, found in rtseg.stream(CLIP, segmenter)}
        runs = rtseg.stream(CLIP, segmenter, temporal=options)
        found = {frame.index: (one.carried, one.mask) for frame, one in runs}
    assert list(found) == list(range(13))
    keys = [index for index, (carried, _) in found.items() if carried is None]
    assert keys == [0, 4, 8, 12]
    for index in keys:
        assert np.array_equal(found[index][1], plain[index])
    between = [(mask == plain[i]).mean() for i, (carried, mask) in found.items() if carried]
    assert len(between) == 9
    assert np.mean(between) > 0.85
