"""ONNX files of others: layout, colours, numbers and outputs, as files and people say them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from rtseg.backends import open_backend
from rtseg.backends.base import InputEncoder, as_scores
from rtseg.decode import decode
from rtseg.errors import BackendError, DeviceError, ModelError, UsageError
from rtseg.frame import Segmentation
from rtseg.labels import PERSON, VOC, LabelSet
from rtseg.nets import find_model
from rtseg.zoo import MODELS, InputSpec, ModelSpec

SIDECARS = {
    "selfie_segmentation": """
        scale = 0.00392156862745098
        mean = 0
        std = 1
        colour = "RGB"
        labels = "person"
        activation = "sigmoid"
    """,
    "mediapipe": """
        scale = "1/255"
        mean = [0, 0, 0]
        std = [1, 1, 1]
        colour = "RGB"
        labels = ["background", "person"]
        activation = "none"
    """,
    "SINet_Softmax_simple": """
        layout = "NCHW"
        colour = "BGR"
        scale = 1
        mean = [102.890434, 111.25247, 126.91212]
        std = [15896.7, 15940.0, 16550.5]
        labels = ["background", "person"]
        activation = "softmax"
    """,
    "deeplabv3_mobilenet_v2_voc": """
        colour = "RGB"
        labels = "voc"
        activation = "none"
        output = "logits"
    """,
}
PEOPLE = {
    "selfie_segmentation": (256, 256),
    "mediapipe": (144, 256),
    "SINet_Softmax_simple": (320, 320),
    "deeplabv3_mobilenet_v2_voc": (513, 513),
}


def beside(data: Path, name: str, folder: Path) -> Path:
    """The network with the sidecar that describes it, in a folder of the test's."""
    path = folder / f"{name}.onnx"
    path.symlink_to(data / "networks" / f"{name}.onnx")
    path.with_suffix(".toml").write_text(SIDECARS[name])
    return path


def rgb(data: Path, size: tuple[int, int]) -> np.ndarray:
    """(1, h, w, 3) uint8 RGB of the astronaut."""
    path = next((data / "pictures").glob("*astronaut*"))
    picture = cv2.imread(str(path))
    small = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_BGR2RGB)[None]


@pytest.mark.needs_data
@pytest.mark.parametrize("name", SIDECARS)
def test_real_networks_run_with_their_sidecars(data: Path, tmp_path: Path, name: str) -> None:
    model = find_model(beside(data, name, tmp_path))
    assert model.notes == ()  # nothing was assumed
    backend = open_backend("auto", model, device="cpu", strict_device=True)
    assert backend.input_size == PEOPLE[name] == model.spec.input.size
    scores = backend(rgb(data, PEOPLE[name]))
    assert (scores.dtype, scores.shape[:2]) == (np.float32, (1, len(model.spec.labels)))
    if model.spec.output == "probabilities":
        assert scores.min() > -1e-3
        np.testing.assert_allclose(scores.sum(1), 1, atol=1e-3)
    mask = decode(scores[0], (512, 512))[0]
    person = model.spec.labels.index("person")
    assert 0.25 < (mask == person).mean() < 0.65
    assert mask[120, 230] == mask[330, 150] == person  # her face, her suit
    assert (mask[:100, 330:] != person).all()  # the rocket behind her


MATTING = {
    "modnet": """
        layout = "NCHW"
        colour = "RGB"
        size = [512, 512]
        scale = 1
        mean = 127.5
        std = 127.5
        labels = ["background", "person"]
        activation = "sigmoid"
    """,
    "u2netp": """
        layout = "NCHW"
        colour = "RGB"
        scale = "1/255"
        mean = [0.485, 0.456, 0.406]
        std = [0.229, 0.224, 0.225]
        labels = ["background", "person"]
        output = "1959"
        activation = "sigmoid"
    """,
}


@pytest.mark.slow
@pytest.mark.needs_data
@pytest.mark.parametrize("name", MATTING)
def test_real_matting_networks_run_with_their_sidecars(
    data: Path, tmp_path: Path, name: str
) -> None:
    """MODNet and U2-Net-p, against their own arithmetic in ONNX Runtime."""
    source = data / "networks" / f"{name}.onnx"
    if not source.is_file():
        pytest.skip(f"no {source}")
    path = tmp_path / f"{name}.onnx"
    path.symlink_to(source)
    path.with_suffix(".toml").write_text(MATTING[name])
    model = find_model(path)
    assert model.notes == ()
    taken = model.spec.input
    assert (taken.size, taken.fixed) == {
        "modnet": ((512, 512), False),
        "u2netp": ((320, 320), True),
    }[name]
    pixels = rgb(data, taken.size)
    session = onnxruntime.InferenceSession(source)
    values = (pixels * taken.scale - np.array(taken.mean)) / np.array(taken.std)
    given = {session.get_inputs()[0].name: values.transpose(0, 3, 1, 2).astype(np.float32)}
    alpha = session.run([session.get_outputs()[0].name], given)[0]
    scores = open_backend("onnx", model, device="cpu")(pixels)
    np.testing.assert_allclose(scores[:, 1:], alpha, atol=1e-3)
    mask = decode(scores[0], (512, 512))[0]
    assert mask[120, 230] == mask[330, 150] == 1  # her face, her suit
    assert 0.25 < mask.mean() < 0.75


@pytest.mark.needs_data
def test_without_a_sidecar_the_assumptions_are_said(data: Path) -> None:
    model = find_model(data / "networks" / "deeplabv3_mobilenet_v2_voc.onnx")
    assert model.spec.labels == VOC
    assert model.spec.input.dtype == "uint8"
    assert "21 classes of Pascal VOC" in model.notes[0]
    assert "RGB" in model.notes[0]
    flags = {"colour": "BGR", "labels": "voc", "activation": "none", "mean": None}
    assert (
        find_model(data / "networks" / "deeplabv3_mobilenet_v2_voc.onnx", input_flags=flags).notes
        == ()
    )
    selfie = find_model(data / "networks" / "selfie_segmentation.onnx")
    assert selfie.spec.output_layout == selfie.spec.input.layout == "NHWC"
    assert selfie.spec.labels == PERSON
    assert selfie.spec.output == "probabilities"


# --- made by hand --------------------------------------------------------------------------------


def network(
    path: Path,
    *,
    taken: list,
    given: list,
    nodes: list,
    dtype: int = TensorProto.FLOAT,
    out: int = TensorProto.FLOAT,
    numbers: tuple = (),
    metadata: str | None = None,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, taken)],
        [helper.make_tensor_value_info("y", out, given)],
        numbers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if metadata is not None:
        entry = model.metadata_props.add()
        entry.key, entry.value = "rtseg", metadata
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def echo(path: Path, **changes) -> Path:
    """Gives what it is fed: three "classes" that are the three channels."""
    options = {
        "taken": [1, 3, 32, 48],
        "given": [1, 3, 32, 48],
        "nodes": [helper.make_node("Identity", ["x"], ["y"])],
    }
    return network(path, **{**options, **changes})


@pytest.mark.parametrize(
    ("taken", "given", "layout"),
    [
        ([1, 3, 512, 512], [1, 150, 128, 128], "NCHW"),  # more classes than rows or columns
        ([1, 512, 512, 3], [1, 128, 128, 150], "NHWC"),
        ([1, 3, 512, 512], [1, 128, 128, 150], "NHWC"),
        ([1, 3, 256, 256], [1, 21, 16, 16], "NCHW"),
        ([1, 3, 375, 500], [1, 60, 12, 16], "NCHW"),
        ([1, 3, 480, 640], [1, 60, 80, 7], "NHWC"),
        ([1, 3, 256, 256], [1, 17, 16, 16], "NCHW"),  # both readings are nearly square
        ([1, 3, "h", "w"], [1, 150, "y", "x"], "NCHW"),
        ([1, 3, "h", "w"], [1, "y", "x", 150], "NHWC"),
        ([1, "h", "w", 3], [1, 64, 64, 80], "NHWC"),
    ],
)
def test_which_axis_of_the_output_holds_the_classes(
    tmp_path: Path, taken: list, given: list, layout: str
) -> None:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, taken)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, given)],
    )
    onnx.save(helper.make_model(graph), tmp_path / "net.onnx")
    spec = find_model(tmp_path / "net.onnx").spec
    assert spec.output_layout == layout
    assert len(spec.labels) == given[1 if layout == "NCHW" else 3]


def test_a_toml_file_of_other_things_beside_a_file_of_ours_does_not_change_it(
    tmp_path: Path,
) -> None:
    spec = replace(
        MODELS["stub"],
        name="ours",
        input=InputSpec((32, 48)),
        labels=LabelSet(tuple("abc"), VOC.colours[:3]),
    )
    path = echo(tmp_path / "ours.onnx", metadata=spec.to_json())
    path.with_suffix(".toml").write_text('dataset = "voc"\n')
    assert find_model(path).spec == spec


@pytest.mark.parametrize("colour", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_what_a_network_is_fed(tmp_path: Path, layout: str, colour: str) -> None:
    dims = [1, 3, 32, 48] if layout == "NCHW" else [1, 32, 48, 3]
    path = echo(tmp_path / "echo.onnx", taken=dims, given=dims)
    flags = {"colour": colour, "mean": "0.1,0.2,0.3", "std": [0.5, 0.25, 2], "scale": "1/255",
             "labels": "red,green,blue", "activation": "logits"}  # fmt: skip
    model = find_model(path, input_flags=flags)
    picture = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
    found = open_backend("onnx", model, device="cpu")(picture)
    channels = picture[..., ::-1] if colour == "BGR" else picture
    expected = (channels / 255 - (0.1, 0.2, 0.3)) / (0.5, 0.25, 2)
    assert found.shape == (2, 3, 32, 48)  # a file for one picture takes two, one by one
    np.testing.assert_allclose(found, expected.transpose(0, 3, 1, 2), atol=1e-5)


def test_flags_go_over_the_sidecar(tmp_path: Path) -> None:
    path = echo(tmp_path / "net.onnx")
    path.with_suffix(".toml").write_text(
        'labels = ["a", "b", "c"]\ncolour = "BGR"\nname = "mine"\n'
    )
    spec = find_model(path, input_flags={"colour": "RGB", "background": "b"}).spec
    assert (spec.name, spec.labels.names, spec.input.colour) == ("mine", ("a", "b", "c"), "RGB")
    assert spec.labels.background == 1
    (tmp_path / "names.txt").write_text("sky\nground\nsea\n")
    named = find_model(path, input_flags={"labels": str(tmp_path / "names.txt")}).spec
    assert named.labels.names == ("sky", "ground", "sea")
    assert named.labels.background is None


def test_labels_in_a_file_lie_beside_the_toml_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a, b").mkdir()
    path = echo(tmp_path / "a, b" / "net.onnx")
    path.with_suffix(".toml").write_text('labels = "names.txt"')
    path.with_name("names.txt").write_text("sky\nground\nsea\n")
    monkeypatch.chdir(tmp_path)
    assert find_model(path).spec.labels.names == ("sky", "ground", "sea")


@pytest.mark.parametrize(
    ("flags", "scale"),
    [
        ({"mean": "104,117,123"}, 1),
        ({"mean": -128}, 1),
        ({"std": 58}, 1),
        ({"mean": 1, "std": 2}, 1 / 255),
        ({"mean": 127.5, "scale": 0.5}, 0.5),
    ],
)
def test_the_scale_follows_mean_and_std(tmp_path: Path, flags: dict, scale: float) -> None:
    assert find_model(echo(tmp_path / "net.onnx"), input_flags=flags).spec.input.scale == scale


def test_an_output_without_a_shape_gets_one(tmp_path: Path) -> None:
    path = echo(tmp_path / "net.onnx")
    content = onnx.load(path)
    content.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(content, path)
    assert len(find_model(path).spec.labels) == 3
    content.graph.node[0].domain = "unknown"
    onnx.save(content, path)
    with pytest.raises(ModelError):
        find_model(path)


def test_open_dimensions_and_half_precision(tmp_path: Path) -> None:
    dims = ["n", 3, "h", "w"]
    half = TensorProto.FLOAT16
    path = echo(tmp_path / "open.onnx", taken=dims, given=dims, dtype=half, out=half)
    model = find_model(path, input_flags={"labels": "a,b,c", "size": "64x96"})
    assert (model.spec.input.size, model.spec.input.fixed) == ((64, 96), False)
    backend = open_backend("onnx", model, input_size=(40, 56), device="cpu")
    scores = backend(np.zeros((2, 40, 56, 3), np.uint8))
    assert (scores.shape, scores.dtype) == ((2, 3, 40, 56), np.float32)
    assert "size 512x512" in find_model(path).notes[0]


@pytest.mark.parametrize("activation", ["none", "sigmoid"])
def test_one_channel_becomes_two(tmp_path: Path, activation: str) -> None:
    first = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    path = network(
        tmp_path / "one.onnx",
        taken=[1, 3, 32, 48],
        given=[1, 1, 32, 48],
        nodes=[helper.make_node("Gather", ["x", "i"], ["y"], axis=1)],
        numbers=(first,),
    )
    flags = {"activation": activation, "scale": "1/255", "labels": "person", "colour": "RGB"}
    model = find_model(path, input_flags=flags)
    assert model.spec.labels.names == ("background", "person")
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    scores = open_backend("onnx", model, device="cpu")(picture)
    value = picture[..., 0] / 255
    other = 1 - value if activation == "sigmoid" else 0 * value
    np.testing.assert_allclose(scores, np.stack([other, value], 1), atol=1e-6)


@pytest.mark.parametrize("dims", [[1, 32, 48], [1, 1, 32, 48]])
def test_class_indices_become_scores(tmp_path: Path, dims: list[int]) -> None:
    nodes = [helper.make_node("ArgMax", ["x"], ["y"], axis=1, keepdims=int(len(dims) == 4))]
    path = network(
        tmp_path / "arg.onnx", taken=[1, 3, 32, 48], given=dims, nodes=nodes, out=TensorProto.INT64
    )
    model = find_model(path, input_flags={"labels": "r,g,b", "scale": 1})
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    scores = open_backend("onnx", model, device="cpu")(picture)
    assert np.array_equal(scores.argmax(1), picture.argmax(3))


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_class_indices_of_any_dtype_become_scores(tmp_path: Path, dtype: int, layout: str) -> None:
    nodes = [
        helper.make_node("ArgMax", ["x"], ["i"], axis=1, keepdims=1),
        helper.make_node("Cast", ["i"], ["c"], to=dtype),
        helper.make_node("Transpose", ["c"], ["y"], perm=[0, 2, 3, 1])
        if layout == "NHWC"
        else helper.make_node("Identity", ["c"], ["y"]),
    ]
    given = [1, 32, 48, 1] if layout == "NHWC" else [1, 1, 32, 48]
    path = network(tmp_path / "arg.onnx", taken=[1, 3, 32, 48], given=given, nodes=nodes, out=dtype)
    with pytest.raises(ModelError, match=r"cannot tell the classes .*--labels"):
        find_model(path)
    model = find_model(path, input_flags={"labels": "r,g,b", "scale": 1})
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    scores = open_backend("onnx", model, device="cpu")(picture)
    assert np.array_equal(scores.argmax(1), picture.argmax(3))


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64])
def test_masks_of_0_and_255_are_two_classes(tmp_path: Path, dtype: int) -> None:
    first = helper.make_tensor("f", TensorProto.INT64, [1], [0])
    half = helper.make_tensor("h", TensorProto.FLOAT, [], [127.5])
    full = helper.make_tensor("s", TensorProto.FLOAT, [], [255.0])
    nodes = [
        helper.make_node("Gather", ["x", "f"], ["r"], axis=1),
        helper.make_node("Greater", ["r", "h"], ["b"]),
        helper.make_node("Cast", ["b"], ["n"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["n", "s"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=dtype),
    ]
    path = network(
        tmp_path / "mask.onnx", taken=[1, 3, 32, 48], given=[1, 1, 32, 48], nodes=nodes,
        numbers=(first, half, full), out=dtype,
    )  # fmt: skip
    model = find_model(path, input_flags={"labels": "background,person", "scale": 1})
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    scores = open_backend("onnx", model, device="cpu")(picture)
    assert np.array_equal(scores.argmax(1), picture[..., 0] > 127)


@pytest.mark.parametrize("highest", [1, 255])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int64])
def test_masks_are_certain(dtype: type, highest: int) -> None:
    """So that a background is replaced as a whole, not shown through."""
    spec = ModelSpec("net", "onnx", PERSON, InputSpec((4, 6)))
    mask = np.zeros((1, 1, 4, 6), dtype)
    mask[..., 3:] = highest
    scores = as_scores(mask, spec)
    person = Segmentation(scores[0], PERSON, (4, 6)).probability("person")
    assert (person[:, :3] < 1e-6).all()
    assert (person[:, 3:] > 1 - 1e-6).all()
    kept = as_scores(mask, replace(spec, output="probabilities"))
    assert np.array_equal(kept[0, 1], mask[0, 0] > 0)


@pytest.mark.parametrize(
    ("values", "labels", "output", "found"),
    [
        ([0, 5], PERSON, "logits", "gave class 5"),
        ([0, 15, 3], PERSON, "logits", "gave class 15"),
        ([0, 21], VOC, "logits", "gave class 21"),
        ([-1, 3], VOC, "logits", "gave class -1"),
        ([0, 255], VOC, "logits", "gave class 255"),
        ([0.0, 200.0, 31.5], PERSON, "probabilities", "from 0 to 200"),
    ],
)
def test_values_that_the_labels_do_not_have_are_refused(
    values: list[float], labels: LabelSet, output: Literal["logits", "probabilities"], found: str
) -> None:
    """As background alone, or as one person, they would be a wrong picture."""
    spec = ModelSpec("net", "onnx", labels, InputSpec((1, 1)), output)
    dtype = np.float32 if output == "probabilities" else np.int64
    with pytest.raises(BackendError, match=found):
        as_scores(np.array(values, dtype).reshape(1, 1, 1, -1), spec)


def test_of_several_outputs_the_first_with_scores_is_read(tmp_path: Path) -> None:
    def written(name: str, *given: tuple[str, list]) -> Path:
        nodes = [helper.make_node("Identity", ["x"], [output]) for output, _ in given]
        values = [helper.make_tensor_value_info(o, TensorProto.FLOAT, dims) for o, dims in given]
        image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 48])
        onnx.save(
            helper.make_model(helper.make_graph(nodes, "g", [image], values)), tmp_path / name
        )
        return tmp_path / name

    maps, flat = [1, 3, 32, 48], [1, 10]
    model = find_model(written("a.onnx", ("boxes", flat), ("scores", maps)))
    assert model.spec.output_name == "scores"
    assert "boxes" not in model.notes[0]
    model = find_model(written("b.onnx", ("d0", maps), ("d1", maps)))
    assert model.spec.output_name == "d0"
    assert "output d0 of d0, d1" in model.notes[0]


def test_one_channel_of_scores_is_refused_for_more_than_two_labels(tmp_path: Path) -> None:
    first = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    path = network(
        tmp_path / "one.onnx", taken=[1, 3, 32, 48], given=[1, 1, 32, 48],
        nodes=[helper.make_node("Gather", ["x", "i"], ["y"], axis=1)], numbers=(first,),
    )  # fmt: skip
    model = find_model(path, input_flags={"labels": "a,b,c", "scale": "1/255"})
    with pytest.raises(ModelError, match="3 labels need 3 channels, or whole class indices"):
        open_backend("onnx", model, device="cpu")


def test_softmax_is_seen(tmp_path: Path) -> None:
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=1)]
    assert find_model(echo(tmp_path / "soft.onnx", nodes=nodes)).spec.output == "probabilities"
    moved = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Transpose", ["s"], ["y"], perm=[0, 2, 3, 1]),
    ]
    path = echo(tmp_path / "moved.onnx", nodes=moved, given=[1, 32, 48, 3])
    assert find_model(path).spec.output == "probabilities"


SCALE = (
    helper.make_tensor("s", TensorProto.FLOAT, [], [1 / 255]),
    helper.make_tensor("z", TensorProto.UINT8, [], [0]),
)
SECOND = tuple(helper.make_tensor(n, TensorProto.INT64, [1], [v]) for n, v in (("a", 1), ("b", 2)))


@pytest.mark.parametrize(
    ("nodes", "numbers"),
    [
        (["Sigmoid x p", "QuantizeLinear p,s,z q", "DequantizeLinear q,s,z y"], SCALE),
        (
            ["QuantizeLinear x,s,z q", "QLinearSigmoid q,s,z,s,z p", "DequantizeLinear p,s,z y"],
            SCALE,
        ),
        (["Softmax x p", "Slice p,a,b,a y"], SECOND),
        (["Softmax x p", "Clip p y"], ()),
        (["HardSigmoid x y"], ()),
    ],
)
def test_probabilities_are_seen_behind_what_moves_or_quantises_them(
    tmp_path: Path, nodes: list[str], numbers: tuple
) -> None:
    """One channel of them taken for a logit would be foreground everywhere."""
    made = []
    for operator, inputs, output in (node.split() for node in nodes):
        domain = "com.microsoft" if operator.startswith("QLinear") else ""
        taken = inputs.split(",")
        made.append(helper.make_node(operator, taken, [output], domain=domain))
    graph = helper.make_graph(
        made,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 48])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 32, 48])],
        numbers,
    )
    domains = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains), tmp_path / "net.onnx")
    assert find_model(tmp_path / "net.onnx").spec.output == "probabilities"


def test_normalisation_of_bytes() -> None:
    as_it_is = InputSpec((2, 2), layout="NHWC", scale=1, mean=(0, 0, 0), std=(1, 1, 1))
    plain = InputEncoder(as_it_is, np.dtype(np.uint8))
    picture = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    assert np.array_equal(plain(picture), picture)
    shifted = InputSpec((2, 2), layout="NHWC", scale=1, mean=(128,) * 3, std=(1, 1, 1))
    assert np.array_equal(
        InputEncoder(shifted, np.dtype(np.int8))(picture), picture.astype(int) - 128
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels = ", r"cannot read .*net\.toml"),
        ("lables = 3", r"net\.toml: unknown field 'lables'.*labels"),
        ('layout = "HWC"', r"net\.toml: layout is 'HWC'.*NCHW, NHWC"),
        ('labels = ["a", "b"]', r"2 labels for .*its output has 3 classes"),
        ('labels = "missing.txt"', r"cannot read the labels '.*missing.txt'.*voc, person, "),
        ("labels = 7", r"labels is 7: expected text or list, got whole number"),
        ("labels = []", r"0 labels"),
        ('labels = ["a", "b", "c"]\nbackground = "d"', r"unknown class 'd'"),
        ("background = 1", r"background = 1 for net\.onnx: its classes are not named"),
        ('dtype = "uint8"', r"unknown field 'dtype'"),
        ("std = [1, 0, 1]", r"std = \[1.0, 0.0, 1.0\].*greater than 0"),
        ("mean = [1, 2]", r"mean = \[1.0, 2.0\].*one number or three"),
        ('scale = "1/0"', r"scale = '1/0'.*not a number"),
        ("size = [64, 64]", r"size \(64, 64\) for .*32x48 and no other"),
        ('size = "big"', r"size = 'big'"),
        ('output = "z"', r"output 'z' of .*its outputs are y"),
        ('layout = "NHWC"', r"its images have 48 channels"),
    ],
)
def test_wrong_settings_give_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = echo(tmp_path / "net.onnx")
    path.with_suffix(".toml").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        find_model(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_segmentation_networks(tmp_path: Path) -> None:
    flat = [helper.make_node("Flatten", ["x"], ["y"])]
    with pytest.raises(ModelError, match="its output y has 2 axes"):
        find_model(echo(tmp_path / "a.onnx", given=[1, 4608], nodes=flat))
    with pytest.raises(ModelError, match="its input has 2 axes"):
        find_model(echo(tmp_path / "b.onnx", taken=[1, 5], given=[1, 5]))
    with pytest.raises(ModelError, match="cannot tell the classes"):
        find_model(echo(tmp_path / "c.onnx", given=["n", "c", "h", "w"]))
    with pytest.raises(ModelError, match=r"cannot read the metadata of .*d\.onnx"):
        find_model(echo(tmp_path / "d.onnx", metadata="{}"))


def test_damaged_files_and_wrong_labels_fail_before_the_first_frame(tmp_path: Path) -> None:
    path = echo(tmp_path / "net.onnx", given=["n", "c", "h", "w"])
    model = find_model(path, input_flags={"labels": "a,b"})
    with pytest.raises(ModelError, match=r"output of shape \(1, 3, 32, 48\).*2 labels"):
        open_backend("onnx", model, device="cpu")
    path.write_bytes(b"\x08\x07" + path.read_bytes()[:40])
    for precision in ("auto", "fp32"):
        with pytest.raises(ModelError):
            open_backend("onnx", model, device="cpu", precision=precision)


def test_networks_that_cannot_run_say_why(tmp_path: Path) -> None:
    several = find_model(echo(tmp_path / "several.onnx", taken=[4, 3, 8, 8], given=[4, 3, 8, 8]))
    with pytest.raises(ModelError, match="it takes 4 images at a time"):
        open_backend("onnx", several, device="cpu")
    path = echo(tmp_path / "strange.onnx")
    strange = onnx.load(path)
    strange.graph.node[0].op_type = "Nonsense"
    onnx.save(strange, path)
    with pytest.raises(ModelError, match="No Op registered for Nonsense"):
        open_backend("onnx", find_model(path), device="cpu")


def test_a_file_keeps_its_precision(tmp_path: Path) -> None:
    model = find_model(echo(tmp_path / "net.onnx"))
    with pytest.raises(UsageError, match=r"precision fp16 for net: its file is in fp32"):
        open_backend("onnx", model, precision="fp16")


def test_providers_are_really_run() -> None:
    from rtseg.backends.ort import provider_statuses

    found = provider_statuses()
    assert found["CPUExecutionProvider"] == "runs"
    assert all(text and "\n" not in text for text in found.values())


@pytest.mark.parametrize("family", ["cuda", "tensorrt"])
def test_a_provider_that_does_not_load_is_found_out(
    tmp_path: Path, monkeypatch, family: str
) -> None:
    """CUDA is left out in silence, TensorRT raises: both are one to a person."""
    from rtseg.backends import ort as ort_session
    from rtseg.backends import providers

    for module in (ort_session, providers):
        monkeypatch.setattr(module, "nvidia_driver", lambda: True)
    provider = providers.PROVIDERS[family]
    if provider not in ort_session.built_in_providers():
        pytest.skip("this ONNX Runtime is built without CUDA")
    if ort_session.provider_statuses()[provider] == "runs":
        pytest.skip("this machine has a GPU")
    model = find_model(echo(tmp_path / "net.onnx"))
    info = open_backend("onnx", model, device=family).info
    assert (info.device, info.provider, info.kept) == ("cpu", "CPUExecutionProvider", False)
    assert "does not load" in info.notes[-1]
    with pytest.raises(DeviceError, match=f"{family}:0 was required"):
        open_backend("onnx", model, device=family, strict_device=True)
    automatic = open_backend("onnx", model).info
    assert automatic.kept
    assert "the GPU is not used" in automatic.notes[-1]
