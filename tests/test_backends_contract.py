"""What every backend promises, and where torch and ONNX Runtime must agree."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from rtseg.backends import BACKENDS, open_backend, ort
from rtseg.backends.base import fit_size
from rtseg.backends.ladder import ladder_sizes
from rtseg.backends.ort import OnnxBackend
from rtseg.contracts import Backend
from rtseg.decode import decode
from rtseg.errors import BackendError, DeviceError, ModelError, UsageError
from rtseg.frame import Frame
from rtseg.nets import find_model
from rtseg.segmenter import Segmenter
from rtseg.session.inference import several_at_once
from rtseg.stats import ManualClock, Stats
from rtseg.zoo import MODELS, InputSpec, Model, ModelSpec

NAME = "lraspp_mobilenet_v3_large"
SIZE = (96, 144)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RTSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def model_for(backend: str) -> Model:
    if backend == "openvino":
        pytest.importorskip("openvino")
    return find_model("stub") if backend == "stub" else find_model(NAME, weights="random")


def opened(backend: str, **options) -> Backend:
    return open_backend(backend, model_for(backend), input_size=SIZE, **options)


def pictures(count: int = 1, size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    """Blots of colour with noise on them."""
    random = np.random.default_rng(seed)
    blots = random.integers(0, 200, (count, -(-size[0] // 16), -(-size[1] // 16), 3))
    large = blots.repeat(16, 1).repeat(16, 2)[:, : size[0], : size[1]]
    return (large + random.integers(0, 56, large.shape)).astype(np.uint8)


COMPILES = "torch-compile"
QUICK = [name for name in BACKENDS if name != COMPILES]


@pytest.mark.parametrize("name", [*QUICK, pytest.param(COMPILES, marks=pytest.mark.slow)])
def test_contract(name: str) -> None:
    backend = opened(name, threads=1, device="cpu", strict_device=True)
    assert backend.input_size == SIZE
    batch = pictures(2)
    before = batch.copy()
    scores = backend(batch)
    assert np.array_equal(batch, before)
    assert scores.shape == (2, len(backend.spec.labels), SIZE[0] // 8, SIZE[1] // 8)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert scores.argmax(1).max() < len(backend.spec.labels)
    # each picture of a batch is what it is alone
    for picture, result in zip(batch, scores, strict=True):
        np.testing.assert_allclose(backend(picture[None])[0], result, rtol=1e-3, atol=1e-2)
    sealed = pictures(1)
    sealed.flags.writeable = False
    assert backend(sealed).shape[0] == 1
    info = backend.info
    assert (info.name, info.device, info.precision, info.kept) == (name, "cpu", "fp32", True)
    assert info.provider
    backend.close()
    backend.close()


@pytest.mark.parametrize("name", QUICK)
def test_batches_of_another_shape_are_refused(name: str) -> None:
    backend = opened(name)
    for wrong in (pictures(size=(96, 96)), pictures()[0]):
        with pytest.raises(BackendError, match="a batch of shape"):
            backend(wrong)


@pytest.mark.parametrize("name", QUICK)
def test_an_absent_device_is_said_or_refused(name: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    backend = opened(name, device="cuda:0")
    assert (backend.info.device, backend.info.kept) == ("cpu", False)
    assert backend.info.precision == "fp32"  # half precision is for the device that is not there
    assert any("was requested" in note for note in backend.info.notes)
    with pytest.raises(DeviceError, match="was required") as caught:
        opened(name, device="cuda", strict_device=True)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", [*BACKENDS, "auto"])
def test_nonsense_is_refused(name: str) -> None:
    model = model_for(name)
    for device in ("gpu", "cuda:x", "cpu:1", "", "cuda:"):
        with pytest.raises(UsageError, match="unknown device"):
            open_backend(name, model, device=device)
    with pytest.raises(UsageError, match="--precision fp8"):
        open_backend(name, model, precision="fp8")
    with pytest.raises(UsageError, match="--threads 5000: it must be 1 to 1024"):
        open_backend(name, model, threads=5000)
    with pytest.raises(UsageError, match="--threads 0"):
        open_backend(name, model, threads=0)
    with pytest.raises(UsageError, match="each side is"):
        open_backend(name, model, input_size=(8, 640))


def test_what_is_compiled_is_what_torch_would_run_and_its_seconds_are_told(monkeypatch) -> None:
    compiled = []

    def compile_(network: torch.nn.Module, dynamic: bool) -> torch.nn.Module:
        compiled.append((network, dynamic))
        return network

    monkeypatch.setattr(torch, "compile", compile_)
    backend, plain = (opened(name, threads=1, device="cpu") for name in (COMPILES, "torch"))
    assert [dynamic for _, dynamic in compiled] == [False], "it has one input size for life"
    assert re.search(r"compiled in [\d.]+ s", " ".join(backend.info.notes))
    np.testing.assert_array_equal(backend(pictures()), plain(pictures()))
    strides = set()
    compiled[0][0].register_forward_pre_hook(lambda _, taken: strides.add(taken[0].stride()))
    for batch in (pictures(), pictures()[0][np.newaxis]):
        backend(batch)
    assert len(strides) == 1, "for others it would be compiled again"


def test_a_machine_that_cannot_compile_says_what_to_do(monkeypatch) -> None:
    def fail(*_: object) -> object:
        raise torch._dynamo.exc.TorchDynamoException("No working C++ compiler found\nat line 3")

    def compile_(network: torch.nn.Module, dynamic: bool) -> torch.nn.Module:
        network.forward = fail
        return network

    monkeypatch.setattr(torch, "compile", compile_)
    with pytest.raises(DeviceError, match=r"No working C\+\+ compiler found.*--backend torch"):
        opened(COMPILES, device="cpu")


def test_unknown_backend_and_wrong_pairs() -> None:
    with pytest.raises(
        UsageError, match=r"unknown backend 'trt'.*auto, torch, torch-compile, onnx, openvino, stub"
    ):
        open_backend("trt", find_model("stub"))
    for name in ("torch", "onnx"):
        with pytest.raises(UsageError, match="cannot load it; stub can"):
            open_backend(name, find_model("stub"))
    with pytest.raises(UsageError, match="--backend torch"):
        open_backend("stub", find_model(NAME, weights="random"))
    with pytest.raises(UsageError, match="device tensorrt for the torch backend"):
        opened("torch", device="tensorrt")
    with pytest.raises(UsageError, match="device mps for the onnx backend"):
        opened("onnx", device="mps")
    with pytest.raises(UsageError, match=r"bf16 .*--backend torch"):
        opened("onnx", precision="bf16")
    with pytest.raises(UsageError, match="precision int8"):
        opened("torch", precision="int8")


def test_auto_takes_what_fits() -> None:
    assert open_backend("auto", find_model("stub")).info.name == "stub"
    expected = "torch" if torch.cuda.is_available() else "onnx"
    assert opened_auto().info.name == expected
    assert (
        open_backend("auto", model_for("onnx"), input_size=SIZE, device="cpu").info.name == "onnx"
    )


def opened_auto() -> Backend:
    return open_backend("auto", find_model(NAME, weights="random"), input_size=SIZE)


@pytest.mark.parametrize(
    "architecture",
    [NAME, pytest.param("deeplabv3_mobilenet_v3_large", marks=pytest.mark.slow)],
)
def test_torch_and_onnx_give_the_same_mask(architecture: str) -> None:
    model = find_model(architecture, weights="random")
    masks = []
    for name in ("torch", "onnx"):
        backend = open_backend(name, model, input_size=(160, 224), device="cpu")
        assert "random weights" in backend.info.notes[0]
        masks.append(
            [decode(backend(pictures(1, (160, 224), s))[0], (480, 640))[0] for s in (1, 2)]
        )
    assert len(np.unique(masks[0])) > 2
    assert np.mean(np.array(masks[0]) == np.array(masks[1])) >= 0.9999


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_other_precisions_are_read_back(precision: str) -> None:
    exact = opened("torch")(pictures())
    backend = opened("torch", precision=precision)
    assert backend.info.precision == precision
    assert np.mean(backend(pictures()).argmax(1) == exact.argmax(1)) > 0.9


def test_onnx_in_half_precision_is_read_back() -> None:
    exact = opened("onnx")(pictures())
    backend = opened("onnx", precision="fp16", device="cpu")
    assert backend.info.precision == "fp16"
    scores = backend(pictures())
    assert scores.dtype == np.float32
    assert np.mean(scores.argmax(1) == exact.argmax(1)) > 0.9


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_overflow_in_half_precision_falls_back_aloud(name: str, tmp_path: Path) -> None:
    from rtseg.nets.build import build_random
    from rtseg.nets.state import save_checkpoint

    network = build_random(NAME, 4)
    network.classifier.low_classifier.weight.data *= 1e6  # type: ignore[union-attr,operator]
    spec = ModelSpec("loud", NAME, MODELS["stub"].labels, InputSpec(SIZE))
    save_checkpoint(tmp_path / "loud.safetensors", spec, network.state_dict())
    backend = open_backend(
        name, find_model(tmp_path / "loud.safetensors"), precision="fp16", device="cpu"
    )
    assert backend.info.precision == "fp32"
    assert "fp16 gave infinite scores" in backend.info.notes[0]
    assert np.isfinite(backend(pictures())).all()


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_undefined_weights_are_refused(name: str, tmp_path: Path) -> None:
    from rtseg.nets.build import build
    from rtseg.nets.state import save_checkpoint

    network = build(NAME, 4)
    network.classifier.low_classifier.bias.data[:] = float("nan")  # type: ignore[union-attr,index]
    spec = ModelSpec("nan", NAME, MODELS["stub"].labels, InputSpec(SIZE))
    save_checkpoint(tmp_path / "nan.safetensors", spec, network.state_dict())
    with pytest.raises(ModelError, match=r"low_classifier\.bias.*undefined numbers \(NaN\)"):
        open_backend(name, find_model(tmp_path / "nan.safetensors"), device="cpu")


def test_failures_while_running_are_of_one_type(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = opened("torch")
    monkeypatch.setattr(backend, "_network", lambda image: torch.zeros(2) @ torch.zeros(3))
    monkeypatch.setattr(type(backend), "_offset", torch.zeros(1))
    with pytest.raises(BackendError, match="failed on cpu"):
        backend(pictures())
    closed = opened("onnx")
    closed.close()
    with pytest.raises(BackendError, match="after it was closed"):
        closed(pictures())
    broken = opened("onnx")
    monkeypatch.setattr(broken, "_encode", lambda batch: np.zeros((1, 2), np.uint8))
    with pytest.raises(BackendError, match="failed on CPUExecutionProvider"):
        broken(pictures())


# --- the stub ----------------------------------------------------------------------------------


def test_the_stub_finds_flat_colours_and_takes_grey_for_background() -> None:
    labels = MODELS["stub"].labels
    picture = np.full((64, 96, 3), 128, np.uint8)
    for index in (1, 2, 3):
        picture[16:48, 24 * index - 8 : 24 * index + 8] = labels.colours[index]
    backend = open_backend("stub", find_model("stub"), input_size=(64, 96))
    found = backend(picture[None])[0].argmax(0)
    expected = np.zeros((8, 12), int)
    for index in (1, 2, 3):
        expected[2:6, 3 * index - 1 : 3 * index + 1] = index
    assert np.array_equal(found, expected)


def test_the_stub_waits_on_its_clock() -> None:
    from rtseg.backends.stub import StubBackend

    clock = ManualClock()
    backend = StubBackend(find_model("stub?delay=100ms"), (33, 70), clock=clock)
    assert backend(pictures(1, (33, 70))).shape == (1, 4, 5, 9)
    assert clock.now() == pytest.approx(0.1)


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame", [(1280, 720), (720, 1280), (640, 480), (1920, 1080), (333, 777), (1, 1), (9000, 20)]
)
def test_fit_size_keeps_shape_and_area(frame: tuple[int, int]) -> None:
    spec = MODELS[NAME]
    height, width = fit_size(spec, *frame)
    assert height % 16 == width % 16 == 0
    area = 520 * 520
    assert 0.85 * area < height * width <= area
    shape = min(max(frame[0] / frame[1], 0.25), 4)
    assert abs(width / height / shape - 1) < 0.04


@pytest.mark.parametrize("frame", [(1280, 720), (480, 640), (513, 513)])
def test_a_network_made_for_one_pixel_more_runs_at_such_sizes(frame: tuple[int, int]) -> None:
    spec = ModelSpec("odd", "onnx", input=InputSpec((513, 513)))
    height, width = fit_size(spec, *frame)
    assert height % 16 == width % 16 == 1
    assert height * width <= 513 * 513
    for rung in ladder_sizes(spec, (height, width)):
        assert {side % 16 for side in rung} == {1}


def test_fixed_networks_keep_their_size() -> None:
    spec = ModelSpec("fixed", "onnx", input=InputSpec((144, 256), fixed=True))
    assert fit_size(spec, 640, 480) == (144, 256)
    with pytest.raises(UsageError, match=r"144x256 and no other"):
        open_backend("onnx", Model(spec, Path("x.onnx"), "onnx"), input_size=(256, 256))


def test_small_networks_get_small_sizes() -> None:
    spec = ModelSpec("small", "onnx", input=InputSpec((64, 64)))
    for frame in ((1280, 720), (480, 640)):
        height, width = fit_size(spec, *frame)
        assert height * width <= 64 * 64


def test_missing_weights_for_torch() -> None:
    broken = Model(MODELS[NAME], None, "torch")
    with pytest.raises(ModelError, match="no weights that torch can load"):
        open_backend("torch", broken)


def test_frames_of_a_recording_are_segmented_side_by_side_with_the_same_masks() -> None:
    model = find_model(NAME, weights="random")
    images = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8) for i in range(7)]
    frames = [Frame(image, i, i / 30, 0.0) for i, image in enumerate(images)]
    alone = Segmenter(open_backend("onnx", model, input_size=(64, 96), device="cpu"))
    many = Segmenter(open_backend("onnx", model, input_size=(64, 96), device="cpu", lanes=3))
    with alone, many:
        assert (alone.backend.lanes, many.backend.lanes) == (1, 3)
        for frame, segmentation in several_at_once(iter(frames), many, Stats()):
            assert (segmentation.mask == alone(images[frame.index]).mask).all()
        assert frame.index == 6


def test_threads_of_the_network_leave_the_cores_alone_between_frames() -> None:
    model, batch = find_model(NAME, weights="random"), np.zeros((1, 64, 96, 3), np.uint8)
    backend = open_backend("onnx", model, input_size=(64, 96), device="cpu", threads=2)
    assert min(_busy_after(backend, batch) for _ in range(5)) < 0.01  # 0.05 if they spin on
    backend.close()


@pytest.mark.parametrize(("asked", "threads"), [({}, 6), ({"lanes": 2}, 1), ({"threads": 3}, 3)])
def test_threads_of_the_network_are_counted_and_so_not_tied_to_cores(
    asked: dict[str, int], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "physical_cores", lambda: 6)
    model = find_model(NAME, weights="random")
    backend = open_backend("onnx", model, input_size=(64, 96), device="cpu", **asked)
    assert isinstance(backend, OnnxBackend)
    assert backend._session.get_session_options().intra_op_num_threads == threads
    backend.close()


def _busy_after(backend: Backend, batch: np.ndarray) -> float:
    """Seconds of processor time in the 0.1 s after a run."""
    backend(batch)
    since = time.process_time()
    time.sleep(0.1)
    return time.process_time() - since
