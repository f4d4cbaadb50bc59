"""Exported files: what is in them, how they are compared, and what is refused."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rtseg import system
from rtseg.backends import open_backend
from rtseg.errors import ModelError, SinkError, SourceError, ThresholdError, UsageError
from rtseg.exporting import ExportOptions, program
from rtseg.exporting import int8 as int8_module
from rtseg.exporting.int8 import Quantiser, quantise
from rtseg.exporting.program import Exported, RejectedError, _Reference, export_network
from rtseg.exporting.samples import MAX_FRAMES, parity_samples, quantising_samples, spread
from rtseg.labels import PERSON
from rtseg.nets import find_model
from rtseg.nets.build import build_random
from rtseg.nets.onnx_file import cached_onnx, precision_of, write_onnx
from rtseg.nets.state import save_checkpoint
from rtseg.zoo import InputSpec, Model, ModelSpec

NAME = "lraspp_mobilenet_v3_large"
SIZE = (64, 96)
CLIP = "test://?size=96x64&frames=6&fps=10"


def unwatched(step: str, done: int, total: int) -> None:
    pass


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RTSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(program, "SECONDS", 0.0)
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # small pictures: on a busy machine threads wait for one another
        yield
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> Model:
    return find_model(NAME, weights="random")


def pictures(count: int = 3, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Blots of colour with noise on them."""
    random = np.random.default_rng(5)
    blots = random.integers(0, 200, (count, -(-size[0] // 16), -(-size[1] // 16), 3))
    large = blots.repeat(16, 1).repeat(16, 2)[:, : size[0], : size[1]]
    return list((large + random.integers(0, 56, large.shape)).astype(np.uint8))


def export(model: Model, path: Path, **options: Any):
    given = {"imgsz": SIZE, "samples": CLIP, **options}
    if model.spec.input.fixed:
        given["imgsz"] = None
    return export_network(model, path, ExportOptions(**given))


# --- our own networks --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The network as net.onnx in fp32, in a folder of its own."""
    return export(model, tmp_path_factory.mktemp("exported") / "net.onnx")


def test_the_file_agrees_with_torch_and_needs_no_flag(exported: Exported) -> None:
    assert (exported.path.name, exported.size) == ("net.onnx", SIZE)
    assert (exported.original, exported.parity.frames) == ("torch fp32", 6)
    assert exported.parity.mean >= 0.999
    assert exported.parity.worst <= exported.parity.mean
    assert list(exported.milliseconds) == ["torch fp32", "onnx fp32"]
    assert min(exported.milliseconds.values()) > 0
    assert list(exported.path.parent.iterdir()) == [exported.path]
    found = find_model(exported.path)
    assert (found.spec.name, found.spec.input.size, found.notes) == (NAME, SIZE, ())
    size = exported.path.stat().st_size / 1e6
    assert exported.megabytes == {"onnx fp32": size}


@pytest.mark.slow
def test_half_precision_is_half_as_large_and_takes_bytes(model: Model, tmp_path: Path) -> None:
    exported = export(model, tmp_path / "net.onnx", precision="fp16")
    assert precision_of(tmp_path / "net.onnx") == "fp16"
    assert 1.9 < exported.megabytes["onnx fp32"] / exported.megabytes["onnx fp16"] < 2.1
    assert list(exported.milliseconds) == ["torch fp32", "onnx fp32", "onnx fp16"]
    graph = onnx.load(tmp_path / "net.onnx").graph
    kinds = [v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)]
    assert kinds == [TensorProto.UINT8, TensorProto.FLOAT]


@pytest.mark.slow
def test_int8_is_per_channel_and_says_which_layers_stayed_in_float(
    model: Model, tmp_path: Path
) -> None:
    exported = export(model, tmp_path / "net.onnx", precision="int8", min_agreement=0.5)
    assert exported.attempts[-1].agreement == exported.parity.mean >= 0.5
    assert precision_of(tmp_path / "net.onnx") == "int8"
    assert exported.megabytes["onnx int8"] < 0.4 * exported.megabytes["onnx fp32"]
    content = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(content, full_check=True)
    operators = Counter(node.op_type for node in content.graph.node)
    assert exported.layers == operators["Conv"]
    kept = exported.attempts[-1].kept
    weights = [
        tensor
        for tensor in content.graph.initializer
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4
    ]
    assert len(weights) == exported.layers - len(kept)
    scales = {t.name: t.dims for t in content.graph.initializer}
    first = weights[0]
    assert list(scales[first.name.replace("_quantized", "_scale")]) == [first.dims[0]]
    # seven bits: the sum of two products fits into 16 bits on any processor
    assert max(np.abs(numpy_helper.to_array(t).astype(int)).max() for t in weights) <= 64
    assert {node.domain for node in content.graph.node} <= {"", "ai.onnx"}
    assert find_model(tmp_path / "net.onnx").spec.name == NAME


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=pytest.mark.slow)])
def test_dynamic_batch_takes_several_pictures_at_once(
    model: Model, tmp_path: Path, precision: str
) -> None:
    export(
        model,
        tmp_path / "net.onnx",
        precision=precision,
        dynamic_batch=True,
        min_agreement=0.0,
    )
    shape = onnx.load(tmp_path / "net.onnx").graph.input[0].type.tensor_type.shape
    assert [d.dim_value or d.dim_param for d in shape.dim] == ["batch", *SIZE, 3]
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"]
    )
    both = np.stack(pictures(2))
    together = session.run(None, {"image": both})[0]
    alone = np.concatenate([session.run(None, {"image": both[i : i + 1]})[0] for i in (0, 1)])
    assert together.shape == (2, 21, 8, 12)
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-3 * np.abs(alone).max())


def test_opset_is_the_one_asked_for(model: Model, tmp_path: Path) -> None:
    export(model, tmp_path / "net.onnx", opset=13)
    assert onnx.load(tmp_path / "net.onnx").opset_import[0].version == 13


# --- the comparison ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_below_the_threshold_gets_no_name(model: Model, tmp_path: Path, monkeypatch) -> None:
    def spoiled(model: Model, size, path: Path, *rest: Any, **options: Any) -> None:
        write_onnx(model, size, path, *rest, **options)
        content = onnx.load(path)
        for tensor in content.graph.initializer:
            if tensor.name == "classifier.high_classifier.weight":
                values = -numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        onnx.save(content, path)

    monkeypatch.setattr(program, "write_onnx", spoiled)
    with pytest.raises(
        ThresholdError, match=r"at least 99\.900% is required.*No file was kept"
    ) as caught:
        export(model, tmp_path / "net.onnx")
    assert caught.value.exit_code == 5
    assert isinstance(caught.value, RejectedError)
    assert caught.value.exported.parity.mean < 0.9
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RejectedError, match=r"kept as .*net\.rejected\.onnx"):
        export(model, tmp_path / "net.onnx", keep=True)
    assert [path.name for path in tmp_path.iterdir()] == ["net.rejected.onnx"]
    export(model, tmp_path / "net.onnx", min_agreement=0.0)
    assert (tmp_path / "net.onnx").is_file()


class Fixed:
    """A backend that gives the same scores for every picture, and adds to the third."""

    input_size = (32, 32)
    segment = None

    def __init__(self, model: Model, add: float = 0.0) -> None:
        self._inner = open_backend("stub", model, input_size=(32, 32))
        self.spec, self.info, self._add, self._calls = self._inner.spec, self._inner.info, add, 0

    def size_for(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        return self.input_size

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self._calls += 1
        scores = np.zeros((1, 4, 2, 2), np.float32)
        scores[:, 1, :, :1] = 1
        if self._calls == 3:
            scores[:, 2, 0] += self._add
        return scores


def test_parity_counts_pixels_and_names_the_worst_frame() -> None:
    images = [np.zeros((40, 40, 3), np.uint8)] * 4
    stub = find_model("stub")
    reference = _Reference(Fixed(stub), images, unwatched)  # type: ignore[arg-type]
    assert reference.variety == pytest.approx(0.25)
    same = reference.compare(Fixed(stub), unwatched)  # type: ignore[arg-type]
    assert (same.largest, same.mean, same.worst, same.frames) == (0, 1, 1, 4)
    other = reference.compare(Fixed(stub, add=3.0), unwatched)  # type: ignore[arg-type]
    assert (other.largest, other.worst_frame) == (3, 2)
    assert 0.3 < other.worst < 0.7
    assert other.mean == pytest.approx((3 + other.worst) / 4)
    undefined = reference.compare(Fixed(stub, add=np.nan), unwatched)  # type: ignore[arg-type]
    assert undefined.largest == np.inf


# --- int8: what is kept in float -----------------------------------------------------------------


class Ladder:
    """A quantiser of ten layers; those in float are its whole file."""

    layers = tuple("abcdefghij")

    def write(self, path: Path, kept) -> None:
        path.write_text(",".join(kept))

    def most_sensitive_first(self) -> tuple[str, ...]:
        return tuple("jihgfedcba")


@pytest.mark.parametrize(
    ("needed", "kept"), [(0, [0]), (1, [0, 2]), (3, [0, 2, 4]), (9, [0, 2, 4, 5])]
)
def test_more_layers_stay_in_float_until_it_agrees(tmp_path: Path, needed: int, kept) -> None:
    def agreement(path: Path) -> float:
        return 1.0 if len([k for k in path.read_text().split(",") if k]) >= needed else 0.4

    attempts = quantise(Ladder(), tmp_path / "net", agreement, 0.9)  # type: ignore[arg-type]
    assert [len(attempt.kept) for attempt in attempts] == kept
    assert (tmp_path / "net").read_text() == ",".join("jihgfedcba"[: kept[-1]])
    assert attempts[-1].agreement == (0.4 if needed == 9 else 1.0)


def two_convolutions(path: Path) -> None:
    """Bytes -> a layer whose channels differ wildly in size -> one that is harmless."""
    random = np.random.default_rng(0)
    first = random.normal(size=(4, 3, 3, 3)).astype(np.float32)
    second = random.normal(size=(2, 4, 1, 1)).astype(np.float32)
    first[0] *= 1000  # so that eight bits of what it gives leave nothing of the other channels
    second[:, 0] = 0
    nodes = [
        helper.make_node("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["c", "w1"], ["y"], name="wild", pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["y"], ["z"]),
        helper.make_node("Conv", ["z", "w2"], ["logits"], name="tame"),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 32, 32, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2, 32, 32])],
        [numpy_helper.from_array(first, "w1"), numpy_helper.from_array(second, "w2")],
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)


def swishes(opset: int) -> onnx.ModelProto:
    """Gates of every kind: three that are a HardSwish, one of other slope, one of another tensor,
    one that is used twice."""
    third = {"alpha": 1 / 6, "beta": 0.5}
    nodes = []
    for name, slopes, factors in (
        ("a", third, ["{x}", "{g}"]),
        ("b", third, ["{g}", "{x}"]),
        ("c", {}, ["{x}", "{g}"]),
        ("d", third, ["x", "{g}"]),
        ("e", third, ["{x}", "{g}"]),
        ("f", third, ["{x}", "{g}"]),
    ):
        x, gate = nodes[-1].output[0] if nodes else "x", f"{name}_gate"
        nodes.append(helper.make_node("HardSigmoid", [x], [gate], name=gate, **slopes))
        inputs = [one.format(x=x, g=gate) for one in factors]
        nodes.append(helper.make_node("Mul", inputs, [name], name=name))
        if name == "e":
            nodes.append(helper.make_node("Add", [name, gate], ["e2"], name="e2"))
    shape = [1, 64]
    graph = helper.make_graph(
        nodes,
        "swishes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("f", TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_hard_swish_is_one_layer_again_and_the_numbers_stay() -> None:
    content = swishes(18)
    before = onnx.ModelProto()
    before.CopyFrom(content)
    int8_module._join_hard_swish(content.graph)
    onnx.checker.check_model(content, full_check=True)
    kinds = [(node.op_type, node.output[0]) for node in content.graph.node]
    assert [name for kind, name in kinds if kind == "HardSwish"] == ["a", "b", "f"]
    assert [name for kind, name in kinds if kind == "HardSigmoid"] == ["c_gate", "d_gate", "e_gate"]
    x = np.linspace(-6, 6, 64, dtype=np.float32)[None]
    runs = [
        onnxruntime.InferenceSession(
            each.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, {"x": x})[0]
        for each in (before, content)
    ]
    assert np.allclose(*runs, atol=1e-6)


def test_hard_swishes_side_by_side_are_all_joined() -> None:
    nodes = [
        helper.make_node("HardSigmoid", [x], [f"{x}_gate"], alpha=1 / 6, beta=0.5) for x in "ab"
    ]
    nodes += [helper.make_node("Mul", [x, f"{x}_gate"], [f"{x}_out"]) for x in "ab"]
    nodes.append(helper.make_node("Add", ["a_out", "b_out"], ["y"]))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "aby"]
    graph = helper.make_graph(nodes, "two", values[:2], values[2:])
    int8_module._join_hard_swish(graph)
    assert [node.op_type for node in graph.node] == ["HardSwish", "HardSwish", "Add"]


def test_int8_files_keep_hard_swish(tmp_path: Path) -> None:
    model = find_model(NAME, weights="random")
    source = cached_onnx(model, SIZE, notes=[])
    quantiser = Quantiser(source, tmp_path, [p[None] for p in pictures(2, SIZE)], unwatched)
    quantiser.write(tmp_path / "net8.onnx", quantiser.layers[2:])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "net8.onnx").graph.node)
    original = Counter(node.op_type for node in onnx.load(source).graph.node)
    assert kinds["HardSwish"] == original["HardSwish"] > 10


def test_the_layer_that_hurts_most_comes_first(tmp_path: Path) -> None:
    two_convolutions(tmp_path / "net.onnx")
    batches = [picture[None] for picture in pictures(4, (32, 32))]
    steps = []
    quantiser = Quantiser(
        tmp_path / "net.onnx", tmp_path, batches, lambda step, done, total: steps.append(step)
    )
    assert sorted(quantiser.layers) == ["tame", "wild"]
    assert quantiser.most_sensitive_first() == quantiser.most_sensitive_first()
    exact = int8_module._scores(tmp_path / "net.onnx", batches)
    errors = {}
    for kept in quantiser.layers:
        quantiser.write(tmp_path / "one.onnx", {kept})
        errors[kept] = np.abs(int8_module._scores(tmp_path / "one.onnx", batches) - exact).mean()
    assert quantiser.most_sensitive_first()[0] == min(errors, key=lambda layer: errors[layer])
    assert {"calibrating", "ranking layers by sensitivity"} <= set(steps)


def test_nothing_to_quantise(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["image"], ["logits"], to=TensorProto.FLOAT)],
        "none",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 8, 8, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 8, 8, 3])],
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="no layer that can be quantised"):
        Quantiser(tmp_path / "none.onnx", tmp_path, [], unwatched)


# --- frames --------------------------------------------------------------------------------------


def test_frames_are_spread_over_the_whole_recording() -> None:
    def numbers(most: int, frames: int) -> list[int]:
        target = f"test://?size=320x240&frames={frames}"
        from rtseg.sources import open_source

        with open_source(target) as source:
            every = [frame.image.tobytes() for frame in source]
        return [every.index(image.tobytes()) for image in spread(target, most, unwatched)[1]]

    assert numbers(24, 5) == [0, 1, 2, 3, 4]
    assert numbers(4, 4) == [0, 1, 2, 3]
    assert numbers(4, 9) == [0, 4, 8]
    assert numbers(4, 15) == [0, 4, 8, 12]


def test_calibration_never_sees_what_is_compared() -> None:
    def apart(samples) -> None:
        seen = {image.tobytes() for image in samples.parity}
        assert seen
        assert samples.calibration
        assert not [image for image in samples.calibration if image.tobytes() in seen]

    long = "test://?size=320x240&frames=60"
    apart(quantising_samples(None, (long,), unwatched))
    apart(quantising_samples(long, (), unwatched))
    apart(quantising_samples(long, ("test://?size=320x240&frames=90",), unwatched))
    assert len(parity_samples(long, unwatched).parity) <= MAX_FRAMES


def test_too_few_frames_to_calibrate(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "one.png"), pictures(1)[0])
    one = str(tmp_path / "one.png")
    for samples, calibration in ((one, ()), (one, (one,)), (None, (one,))):
        with pytest.raises(UsageError, match="cannot calibrate"):
            quantising_samples(samples, calibration, unwatched)


def test_live_sources_are_no_samples() -> None:
    with pytest.raises(UsageError, match="it is live"):
        spread("test://?live=1", 4, unwatched)


# --- foreign files -------------------------------------------------------------------------------


def foreign(
    folder: Path,
    *,
    planes: bool = True,
    colour: str = "RGB",
    channels: int = 2,
    sides: tuple[Any, Any] = (32, 48),
    probable: bool = False,
) -> Model:
    """A padded convolution with ImageNet's normalisation outside, called as ours would be."""
    weight = np.random.default_rng(1).normal(size=(channels, 3, 3, 3)).astype(np.float32)
    shape = [1, 3, *sides] if planes else [1, *sides, 3]
    picture = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    given = [1, channels, *sides] if planes else [1, *sides, channels]
    result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, given)
    turn, back = [0, 3, 1, 2], [0, 2, 3, 1]
    nodes = [
        helper.make_node("Identity", ["image"], ["a"])
        if planes
        else helper.make_node("Transpose", ["image"], ["a"], perm=turn),
        helper.make_node("Conv", ["a", "w"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["b"], ["c"])
        if probable
        else helper.make_node("Identity", ["b"], ["c"]),
        helper.make_node("Identity", ["c"], ["logits"])
        if planes
        else helper.make_node("Transpose", ["c"], ["logits"], perm=back),
    ]
    graph = helper.make_graph(
        nodes, "foreign", [picture], [result], [numpy_helper.from_array(weight, "w")]
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(content, folder / "theirs.onnx")
    (folder / "theirs.toml").write_text(
        f'colour = "{colour}"\nlabels = "person"\nactivation = '
        f'"{"sigmoid" if probable else "none"}"\nsize = [32, 48]\n'
        "scale = 0.00392156862745098\nmean = [0.4, 0.5, 0.6]\nstd = [0.2, 0.3, 0.4]\n"
    )
    return find_model(folder / "theirs.onnx")


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"planes": False},
        {"colour": "BGR"},
        {"channels": 1},
        {"channels": 1, "probable": True, "planes": False, "colour": "BGR"},
        {"sides": ("h", "w")},
    ],
)
def test_a_foreign_file_is_brought_into_our_form(tmp_path: Path, shape: dict) -> None:
    model = foreign(tmp_path, **shape)
    exported = export(model, tmp_path / "ours.onnx")
    assert exported.original == "original file"
    assert exported.parity.mean >= 0.9999
    ours = find_model(tmp_path / "ours.onnx")
    taken = ours.spec.input
    assert (taken.dtype, taken.layout, taken.scale, taken.fixed) == ("uint8", "NHWC", 1, True)
    assert (ours.spec.labels, ours.notes, ours.spec.output) == (PERSON, (), model.spec.output)
    batch = np.stack(pictures(1, (32, 48) if model.spec.input.fixed else SIZE))
    size = batch.shape[1:3]
    ours_says = open_backend("onnx", ours, device="cpu")(batch)
    theirs_says = open_backend("onnx", model, input_size=size, device="cpu")(batch)
    np.testing.assert_allclose(ours_says, theirs_says, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_foreign_file_in_other_precisions(tmp_path: Path, precision: str) -> None:
    exported = export(
        foreign(tmp_path), tmp_path / "ours.onnx", precision=precision, min_agreement=0.97
    )
    assert precision_of(tmp_path / "ours.onnx") == precision
    assert 0.97 <= exported.parity.mean < 1  # of noise, whose pixels nearly tie
    again = find_model(tmp_path / "ours.onnx")
    with pytest.raises(ModelError, match=f"its file is in {precision}.*Start from the fp32"):
        export(again, tmp_path / "again.onnx", precision="int8")


def test_class_indices_cast_to_float_are_not_scores(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ArgMax", ["x"], ["best"], axis=1),
        helper.make_node("Cast", ["best"], ["y"], to=TensorProto.FLOAT),
    ]
    sides = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 48])]
    given = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 32, 48])]
    graph = helper.make_graph(nodes, "g", sides, given)
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(content, tmp_path / "best.onnx")
    model = find_model(tmp_path / "best.onnx", input_flags={"labels": "a,b"})
    with pytest.raises(ModelError, match="returns class indices, not scores"):
        export(model, tmp_path / "net.onnx", min_agreement=0)


def old_and_shared(folder: Path) -> Model:
    """Opset 11, and two Resize operators that share an input which neither needs."""
    weight = np.random.default_rng(1).normal(size=(2, 3, 3, 3)).astype(np.float32)
    sizes = [[1, 2, side, side] for side in (16, 32)]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("Resize", ["a", "none", "none", "half"], ["b"], mode="linear"),
            helper.make_node("Resize", ["b", "none", "none", "full"], ["y"], mode="linear"),
        ],
        "old",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 32, 32])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.zeros(0, np.float32), "none"),
            *(
                numpy_helper.from_array(np.array(size, np.int64), name)
                for size, name in zip(sizes, ("half", "full"), strict=True)
            ),
        ],
    )
    opset = helper.make_opsetid("", 11)
    content = helper.make_model(graph, opset_imports=[opset], ir_version=6)
    onnx.save(content, folder / "old.onnx")
    return find_model(folder / "old.onnx")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_old_opset_is_raised_where_the_precision_asks_for_it(
    tmp_path: Path, precision: str
) -> None:
    export(old_and_shared(tmp_path), tmp_path / "o.onnx", precision=precision, min_agreement=0.95)
    found = onnx.load(tmp_path / "o.onnx").opset_import[0].version
    assert found == 11 if precision == "fp32" else found >= 13


def test_an_exported_file_can_be_exported_again(exported: Exported, tmp_path: Path) -> None:
    one = find_model(exported.path)
    assert export(one, tmp_path / "two.onnx").parity.largest == 0
    assert find_model(tmp_path / "two.onnx").spec == one.spec


# --- refused -------------------------------------------------------------------------------------


def test_nonsense_is_refused(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    for options, words in (
        ({"precision": "bf16"}, "--precision bf16: choices are fp32, fp16, int8"),
        ({"calibration": ("a",)}, "only int8 needs it"),
        ({"min_agreement": 99.0}, "it must be 0 to 1"),
        ({"opset": 9}, "13 to 20"),
        ({"imgsz": (8, 8)}, "each side is"),
    ):
        with pytest.raises(UsageError, match=words):
            export(model, path, **options)
    with pytest.raises(UsageError, match=r"Name it NAME\.onnx"):
        export(model, tmp_path / "net.pth")
    with pytest.raises(ModelError, match="it is not a model with weights"):
        export(find_model("stub"), path)
    with pytest.raises(SourceError):
        export(model, path, samples=str(tmp_path / "absent.mp4"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("precious")
    with pytest.raises(UsageError, match="Pass -y"):
        export(model, path)
    theirs = foreign(tmp_path)
    with pytest.raises(UsageError, match="is the model itself"):
        export(theirs, tmp_path / "theirs.onnx", overwrite=True)
    with pytest.raises(UsageError, match="keeps its own"):
        export(theirs, tmp_path / "o.onnx", opset=18)
    with pytest.raises(ModelError, match="its file takes 1"):
        export(theirs, tmp_path / "o.onnx", dynamic_batch=True)
    assert path.read_text() == "precious"
    # nor is anything replaced that is read
    clip = str(path)
    for flags in ({"samples": clip}, {"precision": "int8", "calibration": (clip,)}):
        with pytest.raises(UsageError, match=r"it would replace .*part of --(samples|calib)"):
            export(model, path, overwrite=True, **flags)
    rejected = theirs.file.rename(tmp_path / "net.rejected.onnx")
    with pytest.raises(UsageError, match="is the model itself"):
        export(replace(theirs, file=rejected), path, overwrite=True, keep=True)
    assert path.read_text() == "precious"


def test_a_full_disk_is_said(model: Model, tmp_path: Path, monkeypatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(program, "write_onnx", full)
    with pytest.raises(SinkError, match="No space left"):
        export(model, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_trained_network_keeps_its_identity(tmp_path: Path) -> None:
    spec = ModelSpec("mine", NAME, PERSON, InputSpec(SIZE))
    save_checkpoint(tmp_path / "mine.safetensors", spec, build_random(NAME, 2).state_dict())
    exported = export(find_model(tmp_path / "mine.safetensors"), tmp_path / "mine.onnx", imgsz=None)
    found = find_model(tmp_path / "mine.onnx").spec
    assert (found.name, found.labels, exported.size) == ("mine", PERSON, SIZE)
    assert replace(found, input=spec.input, output_name="") == spec


# --- plain ONNX Runtime --------------------------------------------------------------------------


def documented_code() -> str:
    """The Python that docs/export.md shows."""
    page = Path(__file__).resolve().parents[1] / "docs" / "export.md"
    code = re.search(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    assert code, "docs/export.md shows no Python"
    return code[1]


def test_the_documented_lines_run_what_we_export(
    exported: Exported, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import rtseg

    code = documented_code()
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    assert "rtseg" not in re.sub(r'"rtseg"', "", code), "plain ONNX Runtime, and the metadata"
    shutil.copy(exported.path, tmp_path)
    picture = pictures(1, (120, 200))[0]
    cv2.imwrite(str(tmp_path / "photo.png"), picture)
    monkeypatch.chdir(tmp_path)
    told: dict[str, Any] = {}
    exec(code.replace("photo.jpg", "photo.png"), told)
    small = cv2.resize(picture, SIZE[::-1])
    segmenter = rtseg.Segmenter(open_backend("onnx", find_model("net.onnx"), device="cpu"))
    scores = segmenter(small).scores
    expected = rtseg.Segmentation(scores, segmenter.labels, (120, 200)).mask
    assert told["mask"].shape == (120, 200)
    assert (told["mask"] == expected).mean() > 0.999
    assert segmenter.labels.names[expected[0, 0]] in capsys.readouterr().out


X86 = "model name\t: A sse avx_vnni processor\nflags\t\t: fpu avx2 {}\nbugs\t\t: i8mm\n"
ARM = "Features\t: fp asimd {}\nCPU part\t: 0xd0c\n"


@pytest.mark.parametrize(
    ("info", "found", "words"),
    [
        (X86.format("avx512f avx512_vnni"), ("AVX-512 VNNI",), "although"),
        (X86.format("avx_vnni"), ("AVX-VNNI",), "although"),
        (X86.format("avx512_vnni amx_int8"), ("AVX-512 VNNI", "AMX"), "(AVX-512 VNNI, AMX)"),
        (X86.format("avx512f"), (), "has no instructions"),
        (ARM.format("asimddp"), ("Arm dot products",), "although"),
        (ARM.format("asimddp i8mm"), ("Arm dot products", "Arm int8 matrix products"), "although"),
        (ARM.format("asimdhp"), (), "has no instructions"),
        ("", None, "it needs a processor"),
    ],
)
def test_a_slow_int8_file_is_explained_by_what_the_processor_has(
    info: str, found: tuple[str, ...] | None, words: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(system.platform, "system", lambda: "Linux")
    monkeypatch.setattr(system, "CPU_INFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(info)
    system.int8_instructions.cache_clear()
    try:
        assert system.int8_instructions() == found
    finally:
        system.int8_instructions.cache_clear()
    assert words in program.why_slow(found)


def test_an_apple_processor_has_dot_products(monkeypatch) -> None:
    monkeypatch.setattr(system.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(system.platform, "machine", lambda: "arm64")
    system.int8_instructions.cache_clear()
    try:
        assert system.int8_instructions() == ("Arm dot products",)
    finally:
        system.int8_instructions.cache_clear()
