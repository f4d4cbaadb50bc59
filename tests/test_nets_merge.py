"""Heads of SegFormer's kind in ONNX files: rewritten, faster in arithmetic, the same in results."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from rtseg.backends import open_backend
from rtseg.exporting.program import write_foreign
from rtseg.nets import find_model
from rtseg.nets.flops import onnx_flops
from rtseg.nets.merge import read_merged
from rtseg.nets.onnx_file import runnable_onnx

CHANNELS, STRIDES, WIDTH, CLASSES = (8, 12, 16, 20), (4, 8, 16, 32), 24, 5


def shake(network: nn.Module) -> nn.Module:
    """Give batch norms statistics, and biases values, so that all of it counts."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
        elif isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            module.bias.data.normal_(0, 0.3)
    return network.eval()


class Net(nn.Module):
    """Features of four strides, and a head over them.

    Args:
        level: makes the projection of so many channels; (N, C, h, w) -> (N, WIDTH, h, w).
        quarter: the size of the mixing is computed from the image's, as
            segmentation_models_pytorch does.
    """

    def __init__(
        self,
        level: Any,
        corners: bool | None = False,
        bias: bool = False,
        quarter: bool = False,
    ) -> None:
        super().__init__()
        pairs = list(zip(CHANNELS, STRIDES, strict=True))
        self.stems = nn.ModuleList(nn.Conv2d(3, c, s, stride=s) for c, s in pairs)
        self.levels = nn.ModuleList(level(c) for c in CHANNELS)
        self.fuse = nn.Conv2d(4 * WIDTH, WIDTH, 1, bias=bias)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.classifier = nn.Conv2d(WIDTH, CLASSES, 1)
        self.corners, self.quarter = corners, quarter

    def forward(self, image: Tensor) -> Tensor:
        maps = [one(stem(image)) for one, stem in zip(self.levels, self.stems, strict=True)]
        mode = {"mode": "nearest"} if self.corners is None else {"mode": "bilinear"}
        options = mode | ({} if self.corners is None else {"align_corners": self.corners})
        size = [side // 4 for side in image.shape[2:]] if self.quarter else maps[0].shape[2:]
        large = [nn.functional.interpolate(each, size=size, **options) for each in maps]
        return self.classifier(self.norm(self.fuse(torch.cat(large[::-1], 1))).relu())


class Tokens(nn.Module):
    """As transformers and segmentation_models_pytorch project: points in rows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        batch, _, height, width = features.shape
        rows = self.proj(features.flatten(2).transpose(1, 2))
        return rows.transpose(1, 2).reshape(batch, -1, height, width)


class Last(nn.Module):
    """Channels last, as a Swin-like network would have them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, WIDTH, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return self.proj(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Scrambled(Tokens):
    """Not a projection of points: height and width change places on the way."""

    def forward(self, features: Tensor) -> Tensor:
        batch, _, height, width = features.shape
        rows = self.proj(features.transpose(2, 3).flatten(2).transpose(1, 2))
        return rows.transpose(1, 2).reshape(batch, -1, height, width)


def pointwise(channels: int) -> nn.Module:
    return nn.Conv2d(channels, WIDTH, 1)


def mmseg(channels: int) -> nn.Module:
    """As OpenMMLab projects: normalised and rectified, which does not commute with a product."""
    return nn.Sequential(
        nn.Conv2d(channels, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()
    )


def write(path: Path, network: nn.Module, *, opset: int = 17, fold: bool = True) -> Path:
    """Export with open sides; `fold` folds batch normalisation."""
    training = torch.onnx.TrainingMode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            shake(network),
            (torch.zeros(1, 3, 64, 96),),
            str(path),
            dynamo=False,
            opset_version=opset,
            training=training.EVAL if fold else training.PRESERVE,
            do_constant_folding=fold,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_axes={"pixels": {0: "n", 2: "h", 3: "w"}, "logits": {0: "n"}},
        )
    return path


def run(content: Any, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(content.SerializeToString())
    return session.run(None, {"pixels": pixels})[0]


FORMS = {
    "tokens": lambda: Net(Tokens),
    "quarter": lambda: Net(Tokens, quarter=True),
    "corners": lambda: Net(Tokens, corners=True),
    "nearest": lambda: Net(Tokens, corners=None),
    "last": lambda: Net(Last, bias=True),
    "pointwise": lambda: Net(pointwise),
    "mmseg": lambda: Net(mmseg),
    "scrambled": lambda: Net(Scrambled),
}


@pytest.mark.parametrize("size", [(64, 96), (100, 72)], ids=str)
@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_merged_heads_give_the_same_logits(
    tmp_path: Path, form: str, fold: bool, size: tuple[int, int]
) -> None:
    path = write(tmp_path / "net.onnx", FORMS[form](), fold=fold)
    merged = read_merged(path, size)
    if form == "nearest" and size != (64, 96):
        assert merged is None  # with rounded factors, other points would be nearest
        return
    onnx.checker.check_model(merged, full_check=True)
    kinds = [node.op_type for node in merged.graph.node]
    assert not any(n.op_type == "Concat" and n.attribute[0].i == 1 for n in merged.graph.node)
    assert "BatchNormalization" not in kinds or form == "mmseg"
    assert ("MatMul" in kinds) == (form == "scrambled")
    pixels = np.random.default_rng(0).normal(size=(2, 3, *size)).astype(np.float32)
    usual, ours = run(onnx.load(path), pixels), run(merged, pixels)
    np.testing.assert_allclose(ours, usual, atol=2e-6 * np.abs(usual).max())
    np.testing.assert_array_equal(ours.argmax(1), usual.argmax(1))


@pytest.mark.parametrize("corners", [False, None])
def test_factors_that_are_no_quotients_of_sides_stay_as_they_are(
    tmp_path: Path, corners: bool | None
) -> None:
    """They decide where points lie, though sides are rounded down to the same."""
    size = 64, 96
    path = write(tmp_path / "net.onnx", Net(pointwise, corners))
    content = onnx.load(path)
    resizes = [node for node in content.graph.node if node.op_type == "Resize"]
    for node, stride in zip(resizes, STRIDES, strict=True):
        factors = [1, 1, *((side // 4 + 0.6) / (side // stride) for side in size)]
        name = f"factors_{stride}"
        content.graph.initializer.append(
            numpy_helper.from_array(np.array(factors, np.float32), name)
        )
        node.input[:] = [node.input[0], "", name]
    onnx.save(content, path)
    pixels = np.random.default_rng(0).normal(size=(2, 3, *size)).astype(np.float32)
    usual, ours = run(content, pixels), run(read_merged(path, size), pixels)
    np.testing.assert_allclose(ours, usual, atol=2e-6 * np.abs(usual).max())


@pytest.mark.parametrize("quarter", [False, True])
@pytest.mark.parametrize("opset", [11, 12, 13])
def test_heads_in_files_of_older_opsets_are_merged(
    tmp_path: Path, opset: int, quarter: bool
) -> None:
    network = Net(Tokens, quarter=quarter)
    path = write(tmp_path / "net.onnx", network, opset=opset)
    merged = read_merged(path, (64, 96))
    assert merged.opset_import[0].version == opset
    pixels = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32)
    usual, ours = run(onnx.load(path), pixels), run(merged, pixels)
    np.testing.assert_allclose(ours, usual, atol=2e-6 * np.abs(usual).max())
    np.testing.assert_array_equal(ours.argmax(1), usual.argmax(1))


def test_the_mixing_takes_a_fraction_of_the_arithmetic(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", Net(Tokens))
    shares = [1 / (s // 4) ** 2 for s in STRIDES]
    stems = sum(3 * 16 * c for c in CHANNELS) + WIDTH * CLASSES
    inside = sum(c * WIDTH * share for c, share in zip(CHANNELS, shares, strict=True))
    assert onnx_flops(path, (128, 128)) == pytest.approx(2 * 32 * 32 * (stems + inside))


def resized(content: Any) -> Any:
    return next(node for node in content.graph.node if node.op_type == "Resize")


def set_attribute(node: Any, name: str, value: str) -> None:
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def shared(content: Any) -> None:
    """The concatenated features are an output too."""
    name = next(n for n in content.graph.node if n.op_type == "Conv" and "fuse" in n.name).input[0]
    content.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


def halved(content: Any) -> None:
    for tensor in content.graph.initializer:
        if tensor.dims == [WIDTH, 4 * WIDTH, 1, 1]:
            tensor.CopyFrom(
                numpy_helper.from_array(
                    numpy_helper.to_array(tensor).astype(np.float16), tensor.name
                )
            )


def outside(content: Any) -> None:
    for node in content.graph.node:
        if node.op_type == "Resize":
            set_attribute(node, "coordinate_transformation_mode", "tf_crop_and_resize")


@pytest.mark.parametrize("change", [shared, halved, outside])
def test_what_does_not_commute_stays_as_it_is(tmp_path: Path, change: Any) -> None:
    path = write(tmp_path / "net.onnx", Net(Tokens))
    assert read_merged(path, (64, 96)) is not None
    content = onnx.load(path)
    change(content)
    onnx.save(content, path)
    assert read_merged(path, (64, 96)) is None


def test_an_enlargement_of_channels_is_not_one_of_the_picture(tmp_path: Path) -> None:
    """6 channels stretched to 24: as many as the mixing wants, but not their own."""
    weight = np.ones((4, 48, 1, 1), np.float32)
    factors = np.array([1, 4, 2, 2], np.float32)
    nodes = [
        helper.make_node("Conv", ["pixels", "stem"], ["six"], strides=[2, 2]),
        helper.make_node("Resize", ["six", "", "factors"], ["a"], mode="linear"),
        helper.make_node("Relu", ["six"], ["other"]),
        helper.make_node("Resize", ["other", "", "factors"], ["b"], mode="linear"),
        helper.make_node("Concat", ["a", "b"], ["both"], axis=1),
        helper.make_node("Conv", ["both", "weight"], ["logits"]),
    ]
    values = {"stem": np.ones((6, 3, 2, 2), np.float32), "factors": factors, "weight": weight}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, (1, 3, 32, 32))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, 4, 32, 32))],
        [numpy_helper.from_array(each, name) for name, each in values.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        tmp_path / "net.onnx",
    )
    assert read_merged(tmp_path / "net.onnx", (32, 32)) is None


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_backends_run_the_merged_file_from_the_cache(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    model = find_model(write(tmp_path / "net.onnx", Net(Tokens)))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    scores = open_backend(backend, model, input_size=(64, 96), device="cpu")(pixels)
    taken = model.spec.input
    image = (pixels * taken.scale - taken.mean) / taken.std
    wanted = run(onnx.load(model.file), image.transpose(0, 3, 1, 2).astype(np.float32))
    np.testing.assert_allclose(scores, wanted, atol=1e-4)
    made = list((tmp_path / "cache" / "onnx").glob("net-64x96-merged-*.onnx"))
    assert made == [runnable_onnx(model, (64, 96))]
    before = made[0].stat().st_mtime_ns
    made[0].write_bytes(b"damaged")
    notes: list[str] = []
    assert runnable_onnx(model, (64, 96), notes) == made[0]
    assert "damaged" in notes[0]
    assert made[0].stat().st_mtime_ns != before


def test_without_a_cache_the_file_runs_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = find_model(write(tmp_path / "net.onnx", Net(Tokens)))
    (tmp_path / "file").touch()
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "file"))
    notes: list[str] = []
    assert runnable_onnx(model, (64, 96), notes) == model.file
    assert "runs as it is" in notes[0]


def test_weights_in_another_file_are_merged_and_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    path = write(tmp_path / "net.onnx", Net(Tokens))
    content = onnx.load(path)
    onnx.save(content, path, save_as_external_data=True, location="net.data", size_threshold=0)
    model = find_model(path)
    first = runnable_onnx(model, (64, 96))
    assert first != path
    assert not onnx.load(first, load_external_data=False).graph.initializer[0].external_data
    data = tmp_path / "net.data"
    data.write_bytes(bytes(len(data.read_bytes())))
    assert runnable_onnx(model, (64, 96)) != first


@pytest.mark.parametrize("place", ["/dev/zero", "../net.data", "none.data"])
def test_weights_elsewhere_are_not_read(tmp_path: Path, place: str) -> None:
    (tmp_path / "in").mkdir()
    path = write(tmp_path / "in" / "net.onnx", Net(Tokens))
    model = find_model(path)
    content = onnx.load(path)
    onnx.save(content, path, save_as_external_data=True, location="net.data", size_threshold=0)
    (tmp_path / "in" / "net.data").rename(tmp_path / "net.data")
    content = onnx.load(path, load_external_data=False)
    for tensor in content.graph.initializer:
        for entry in tensor.external_data:
            entry.value = place if entry.key == "location" else entry.value
    path.write_bytes(content.SerializeToString())
    notes: list[str] = []
    assert runnable_onnx(model, (64, 96), notes) == path
    assert "not a file beside it" in notes[0]


def test_an_exported_file_has_the_merged_head(tmp_path: Path) -> None:
    model = find_model(write(tmp_path / "net.onnx", Net(Tokens)))
    write_foreign(model, (64, 96), tmp_path / "out.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node]
    assert kinds.count("Add") == 3
    assert "MatMul" not in kinds
