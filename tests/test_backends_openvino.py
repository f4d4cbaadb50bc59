"""OpenVINO gives what ONNX Runtime gives, and says what it really computes in."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from colour_network import make_network
from dataset_folders import NAMES, draw

from rtseg.backends import open_backend
from rtseg.backends.providers import engine_prefix
from rtseg.errors import BackendError, DeviceError, ModelError, UsageError
from rtseg.frame import Frame
from rtseg.nets import default_model, find_model
from rtseg.nets.ir import digest_of
from rtseg.nets.onnx_file import write_onnx
from rtseg.segmenter import Segmenter
from rtseg.session.inference import several_at_once
from rtseg.stats import Stats

SIZE = (96, 160)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    pytest.importorskip("openvino")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RTSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def blots(seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 10, 3), np.uint8)
    return small.repeat(16, 0).repeat(16, 1)


def shipped(**options) -> Segmenter:
    return Segmenter(open_backend(model=find_model(default_model()), input_size=SIZE, **options))


SIGNALLED = """
import faulthandler, gc, signal
from rtseg.backends import open_backend
from rtseg.nets import default_model, find_model

faulthandler.enable()  # which brings a stack for signals of its own, as pytest does
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))

def opened():
    return open_backend("openvino", find_model(default_model()), input_size=(96, 160))

first = opened()
second = opened()
for one in (first, second):
    one.close()
del first, second, one
gc.collect()
signal.raise_signal(signal.SIGTERM)
assert heard == [1]
print("alive")
"""
"""Networks one after the other, as the race of backends and the key m open them; then a signal."""


def test_signals_are_still_heard_when_networks_have_come_and_gone() -> None:
    done = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr


def test_its_masks_are_those_of_onnx_runtime() -> None:
    with shipped(name="openvino") as ours, shipped(name="onnx", device="cpu") as theirs:
        for seed in range(4):
            first, second = ours(blots(seed)), theirs(blots(seed))
            np.testing.assert_allclose(first.scores, second.scores, rtol=1e-3, atol=1e-3)
            assert np.mean(first.mask != second.mask) < 1e-3


def test_every_lane_gives_what_one_gives() -> None:
    frames = [Frame(blots(i), i, i / 30, 0.0) for i in range(7)]
    with shipped(name="openvino", lanes=3) as many, shipped(name="openvino") as alone:
        assert many.backend.lanes == 3
        found = [segmentation for _, segmentation in several_at_once(iter(frames), many, Stats())]
        for frame, segmentation in zip(frames, found, strict=True):
            np.testing.assert_allclose(
                segmentation.scores, alone(frame.image).scores, rtol=1e-3, atol=1e-3
            )


def test_a_precision_that_the_processor_lacks_is_said() -> None:
    with shipped(name="openvino", precision="bf16") as segmenter:
        info = segmenter.info
        assert info.precision in ("bf16", "fp32")
        assert any("bf16 was requested" in note for note in info.notes) == (
            info.precision == "fp32"
        )


def test_it_quantises_nothing_and_has_no_gpu() -> None:
    with pytest.raises(UsageError, match=r"Use -m .*person-int8\.onnx"):
        shipped(name="openvino", precision="int8")
    name = "lraspp_mobilenet_v3_large"
    with pytest.raises(UsageError, match="int8 file with rtseg export"):
        open_backend("openvino", find_model(name, weights="random"), precision="int8")
    with pytest.raises(DeviceError, match="cuda was required"):
        shipped(name="openvino", device="cuda", strict_device=True)


def test_closed_is_closed() -> None:
    segmenter = shipped(name="openvino")
    segmenter.close()
    with pytest.raises(BackendError, match="after it was closed"):
        segmenter(blots(0))


def test_without_the_package_the_command_that_installs_it_is_given(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match=r'pip install "rtseg\[openvino\]"') as caught:
        shipped(name="openvino")
    assert caught.value.exit_code == 2


def test_a_foreign_file_runs_with_its_settings(data: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(data / "networks" / "selfie_segmentation.onnx", tmp_path))
    path.with_suffix(".toml").write_text(
        'layout = "NHWC"\ncolour = "RGB"\nsize = [256, 256]\nscale = 0.00392156862745098\n'
        'mean = 0\nstd = 1\nlabels = ["background", "person"]\nactivation = "sigmoid"\n'
    )
    model = find_model(path)
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    with (
        Segmenter(open_backend("openvino", model)) as ours,
        Segmenter(open_backend("onnx", model, device="cpu")) as theirs,
    ):
        np.testing.assert_allclose(ours(image).scores, theirs(image).scores, rtol=1e-2, atol=1e-3)


def test_other_weights_in_another_file_of_onnx_are_not_taken_from_the_cache(tmp_path: Path) -> None:
    path = make_network(tmp_path / "net.onnx")
    picture = np.zeros((1, *SIZE, 3), np.uint8)
    content = onnx.load(path)
    for each in content.graph.initializer:
        array = onnx.numpy_helper.to_array(each)
        each.CopyFrom(onnx.numpy_helper.from_array(array, each.name))
    onnx.save(content, path, save_as_external_data=True, location="net.data", size_threshold=0)
    graph, data, found = path.read_bytes(), tmp_path / "net.data", []
    for factor in (1, 2):
        numbers = np.frombuffer(data.read_bytes(), np.float32)
        data.unlink()  # which may be mapped
        data.write_bytes((factor * numbers).tobytes())
        digests = {digest_of(path), engine_prefix(path)}
        found.append(
            (digests, open_backend("openvino", find_model(path), input_size=SIZE)(picture))
        )
    assert path.read_bytes() == graph
    assert found[0][0].isdisjoint(found[1][0])
    np.testing.assert_allclose(found[1][1], 2 * found[0][1], rtol=1e-6)


def test_weights_in_another_file_are_known_inside_branches_too(tmp_path: Path) -> None:
    kept = onnx.TensorProto(name="w", dims=[1], data_type=onnx.TensorProto.FLOAT)
    kept.data_location = onnx.TensorProto.EXTERNAL
    kept.external_data.add(key="location", value="inner.data")
    branch = onnx.GraphProto(name="branch", initializer=[kept])
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    path, data = tmp_path / "net.onnx", tmp_path / "inner.data"
    path.write_bytes(onnx.ModelProto(graph=onnx.GraphProto(node=[node])).SerializeToString())
    digests = set()
    for content in b"1234", b"5678":
        data.write_bytes(content)
        digests.add(digest_of(path))
    assert len(digests) == 2


# --- OpenVINO's own files ------------------------------------------------------------------------


def converted(folder: Path, **options: object) -> Path:
    """The network that knows colours as OpenVINO's files, with its TOML file."""
    import openvino

    source = make_network(folder / "source.onnx", **options)  # type: ignore[arg-type]
    path = folder / "colours.xml"
    openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)
    shutil.move(source.with_suffix(".toml"), path.with_suffix(".toml"))
    source.unlink()
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_openvino_s_own_files_run_as_they_are(tmp_path: Path) -> None:
    path = converted(tmp_path)
    model = find_model(path)
    assert (model.format, model.notes) == ("openvino", ())
    assert (model.spec.labels.names, model.spec.input.size) == (NAMES, (48, 64))
    assert not model.spec.input.fixed
    picture = next(draw(1, SIZE))
    backend = open_backend("auto", model, input_size=SIZE)
    assert (backend.info.name, backend.info.precision) == ("openvino", "fp32")
    scores = backend(picture.image[None, ..., ::-1].copy())
    assert np.array_equal(scores[0].argmax(0), picture.mask)
    with pytest.raises(UsageError, match="openvino can"):
        open_backend("onnx", model)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_other_weights_beside_the_same_graph_are_not_taken_from_the_cache(tmp_path: Path) -> None:
    path = converted(tmp_path)
    picture = np.zeros((1, *SIZE, 3), np.uint8)
    first = open_backend("openvino", find_model(path), input_size=SIZE)(picture)
    weights = path.with_suffix(".bin")
    numbers = np.frombuffer(weights.read_bytes()[:48], np.float32)
    assert np.allclose(first[0, :, 0, 0], numbers[9:])  # black: what is left are the shifts
    weights.write_bytes((2 * numbers).tobytes() + weights.read_bytes()[48:])
    second = open_backend("openvino", find_model(path), input_size=SIZE)(picture)
    np.testing.assert_allclose(second, 2 * first, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_the_graph_says_of_its_outputs_is_read(tmp_path: Path) -> None:
    import openvino
    from openvino import opset13 as ops

    image = ops.parameter([1, 32, 48, 3], np.uint8, name="x")
    values = ops.convert(image, "f32")
    best = ops.topk(values, ops.constant(1), 3, "max", "value", "i64").output(1)
    outputs = {"all": ops.softmax(values, 3).output(0), "best": best}
    for name, each in outputs.items():
        each.get_tensor().set_names({name})
    network = openvino.Model(list(outputs.values()), [image], "net")
    openvino.save_model(network, tmp_path / "net.xml")
    spec = find_model(tmp_path / "net.xml").spec
    assert (spec.output, spec.output_name, spec.output_layout) == ("probabilities", "all", "NHWC")
    assert (spec.input.layout, spec.input.dtype, spec.input.fixed) == ("NHWC", "uint8", True)
    assert (spec.input.size, len(spec.labels)) == ((32, 48), 3)
    (tmp_path / "net.toml").write_text('output = "best"\nlabels = ["r", "g", "b"]\n')
    model = find_model(tmp_path / "net.xml")
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    scores = open_backend("openvino", model)(picture)
    assert np.array_equal(scores.argmax(1), picture.argmax(3))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_file_of_ours_describes_itself_after_conversion(tmp_path: Path) -> None:
    import openvino

    model = find_model(default_model())
    write_onnx(model, SIZE, tmp_path / "person.onnx")
    network = openvino.convert_model(tmp_path / "person.onnx")
    openvino.save_model(network, tmp_path / "person.xml", compress_to_fp16=False)
    found = find_model(tmp_path / "person.xml")
    assert found.spec == find_model(tmp_path / "person.onnx").spec
    with pytest.raises(UsageError, match="describes its own"):
        find_model(tmp_path / "person.xml", input_flags={"labels": "a,b"})
    picture = blots(0)[None]
    wanted = open_backend("onnx", model, input_size=SIZE, device="cpu")(picture)
    scores = open_backend("openvino", found)(picture)
    np.testing.assert_allclose(scores, wanted, atol=2e-3)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda p: p.with_suffix(".bin").unlink(), r"colours\.bin beside it, are missing"),
        (lambda p: p.with_suffix(".bin").write_bytes(b"12"), "2 bytes of"),
        (lambda p: p.write_text(p.read_text()[:900]), "not valid XML"),
        (lambda p: p.write_text("<html></html>"), "not an OpenVINO model"),
        (lambda p: p.write_text('<!DOCTYPE a [<!ENTITY b "c">]><net/>'), "document type"),
        (lambda p: p.write_text(p.read_text().replace('"Parameter"', '"Result"')), "0 inputs"),
        (lambda p: p.write_text(p.read_text().replace('offset="0"', 'offset="9999"')), "bytes of"),
    ],
)
def test_damaged_files_of_openvino_get_one_line(
    tmp_path: Path, change: Callable[[Path], object], found: str
) -> None:
    path = converted(tmp_path)
    change(path)
    with pytest.raises(ModelError, match=found) as caught:
        find_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("before", "after"),
    [("Convolution", "Evil"), ('size="36"', 'size="20"'), ('to-layer="2"', 'to-layer="92"')],
)
def test_graphs_that_openvino_refuses_get_one_line(tmp_path: Path, before: str, after: str) -> None:
    path = converted(tmp_path)
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(ModelError) as caught:
        open_backend("auto", find_model(path))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_files_that_nncf_quantised_run_as_they_are(tmp_path: Path) -> None:
    import openvino
    import torch  # noqa: F401 - nncf imports it in part, in a circle

    nncf = pytest.importorskip("nncf")

    path = converted(tmp_path)
    pictures = [each.image for each in draw(8, (48, 64))]
    values = [np.float32(p[None, ..., ::-1] / 255).transpose(0, 3, 1, 2).copy() for p in pictures]
    network = openvino.Core().read_model(path)
    quantised = nncf.quantize(network, nncf.Dataset(values))
    openvino.save_model(quantised, tmp_path / "int8.xml")
    shutil.copy(path.with_suffix(".toml"), tmp_path / "int8.toml")
    model = find_model(tmp_path / "int8.xml")
    picture = next(draw(1, SIZE, seed=1))
    backend = open_backend("auto", model, input_size=SIZE)
    assert (backend.info.name, backend.info.precision) == ("openvino", "int8")
    scores = backend(picture.image[None, ..., ::-1].copy())
    assert (scores[0].argmax(0) == picture.mask).mean() > 0.99
    exact = open_backend("auto", find_model(path), input_size=SIZE)
    assert not np.allclose(scores, exact(picture.image[None, ..., ::-1].copy()), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_files_that_onnx_runtime_quantised_run_as_they_are(tmp_path: Path, name: str) -> None:
    """In pairs of QuantizeLinear and DequantizeLinear, by its own program."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    path = make_network(tmp_path / "colours.onnx")
    key = onnxruntime.InferenceSession(path).get_inputs()[0].name
    images = [each.image[None, ..., ::-1] / 255 for each in draw(8, (48, 64))]
    values = iter([{key: each.transpose(0, 3, 1, 2).astype(np.float32)} for each in images])

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(values, None)

    quantize_static(path, tmp_path / "int8.onnx", Reader(), QuantFormat.QDQ, per_channel=True)
    kinds = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert kinds.count("DequantizeLinear") >= 3
    shutil.copy(path.with_suffix(".toml"), tmp_path / "int8.toml")
    model = find_model(tmp_path / "int8.onnx")
    backend = open_backend(name, model, input_size=SIZE, device="cpu")
    assert (backend.info.name, backend.info.precision) == (name, "int8")
    picture = next(draw(1, SIZE, seed=1))
    scores = backend(picture.image[None, ..., ::-1].copy())
    assert (scores[0].argmax(0) == picture.mask).mean() > 0.99
    exact = open_backend("onnx", find_model(path), input_size=SIZE, device="cpu")
    assert not np.allclose(scores, exact(picture.image[None, ..., ::-1].copy()), atol=1e-4)


def test_operators_that_openvino_computes_wrongly_are_refused(tmp_path: Path) -> None:
    """A sum of bytes beyond 255 stays 255 in ONNX Runtime; OpenVINO made 1 of 257."""
    helper, kinds = onnx.helper, onnx.TensorProto
    added = helper.make_node("QLinearAdd", [*"qszqszsz"], ["r"], domain="com.microsoft")
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            added,
            helper.make_node("DequantizeLinear", ["r", "s", "z"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", kinds.FLOAT, [1, 3, 32, 48])],
        [helper.make_tensor_value_info("y", kinds.FLOAT, [1, 3, 32, 48])],
        [
            helper.make_tensor("s", kinds.FLOAT, [], [1]),
            helper.make_tensor("z", kinds.UINT8, [], [0]),
        ],
    )
    domains = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=8), tmp_path / "sum.onnx")
    raw = {"scale": 1, "mean": 0, "std": 1, "colour": "RGB"}
    model = find_model(tmp_path / "sum.onnx", input_flags=raw)
    image = np.full((1, 32, 48, 3), (200, 100, 50), np.uint8)
    scores = open_backend("onnx", model, device="cpu")(image)
    assert np.array_equal(scores[0, :, 0, 0], [255, 200, 100])
    with pytest.raises(ModelError, match="computes QLinearAdd wrongly"):
        open_backend("openvino", model)


def test_probabilities_are_seen_behind_an_identity(tmp_path: Path) -> None:
    """With which files from TensorFlow end, in OpenVINO's files since 2025 too."""
    import openvino

    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Sigmoid", ["x"], ["p"]), helper.make_node("Identity", ["p"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, [1, 3, 32, 48])],
        [helper.make_tensor_value_info("y", kind, [1, 3, 32, 48])],
    )
    onnx.save(helper.make_model(graph, ir_version=8), tmp_path / "net.onnx")
    openvino.save_model(openvino.Core().read_model(tmp_path / "net.onnx"), tmp_path / "net.xml")
    assert find_model(tmp_path / "net.xml").spec.output == "probabilities"
