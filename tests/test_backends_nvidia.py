"""What ONNX Runtime is asked of NVIDIA's providers, and its bound runs; none needs a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from rtseg.backends import open_backend, ort, providers
from rtseg.backends.ort import BoundRun
from rtseg.backends.providers import (
    PROVIDERS,
    check_engines,
    engine_prefix,
    fallbacks,
    for_file,
    keep_engines,
    provider_options,
    without_graphs,
)
from rtseg.errors import BackendError, DeviceError
from rtseg.nets import find_model
from rtseg.nets.onnx_file import cached_onnx

NAME = "lraspp_mobilenet_v3_large"
SIZE = (64, 96)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RTSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        return cached_onnx(find_model(NAME, weights="random"), SIZE, "fp32")


def batch(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, *SIZE, 3)).astype(np.uint8)


def test_a_bound_run_gives_what_a_plain_run_gives_and_keeps_no_result(network: Path) -> None:
    session = onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    names = session.get_inputs()[0].name, session.get_outputs()[0].name
    shapes = (1, *SIZE, 3), tuple(session.get_outputs()[0].shape)
    bound = BoundRun(session, names, shapes, (np.dtype(np.uint8), np.dtype(np.float32)), "cpu")
    first = bound(batch(1))
    second = bound(batch(2))
    for values, found in ((batch(1), first), (batch(2), second)):
        np.testing.assert_array_equal(found, session.run([names[1]], {names[0]: values})[0])
    assert not np.shares_memory(first, second)


def test_a_backend_whose_provider_replays_runs_bound(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The processor stands in for the GPU: the same calls, in places of its own memory."""
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path))
    plain = open_backend("onnx", find_model(NAME, weights="random"), input_size=SIZE, device="cpu")
    expected = plain(np.concatenate([batch(3), batch(4)]))
    monkeypatch.setattr(ort, "GRAPH_PROVIDERS", {PROVIDERS["cpu"]})
    bound_on_processor = BoundRun

    def on_processor(session, names, shapes, dtypes, device, number) -> BoundRun:
        assert (device, number) == ("cuda", 0)
        return bound_on_processor(session, names, shapes, dtypes, "cpu")

    monkeypatch.setattr(ort, "BoundRun", on_processor)
    backend = open_backend(
        "onnx", find_model(NAME, weights="random"), input_size=SIZE, device="cpu"
    )
    assert backend._bound is not None
    np.testing.assert_array_equal(backend(np.concatenate([batch(3), batch(4)])), expected)
    for opened in (plain, backend):
        opened.close()


def test_a_network_that_cannot_be_bound_is_opened_again_without_graphs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path))
    asked: list[list] = []
    real = ort.open_session

    def session(network, providers, threads) -> object:
        asked.append(providers)
        return real(network, [PROVIDERS["cpu"]], threads)

    def fails(*_: object) -> BoundRun:
        raise RuntimeError("This session cannot use the graph capture feature")

    chain = [(PROVIDERS["cuda"], provider_options("cuda", 0)), PROVIDERS["cpu"]]
    monkeypatch.setattr(ort, "chain_of", lambda family, number: chain)
    monkeypatch.setattr(ort, "GRAPH_PROVIDERS", {PROVIDERS["cpu"]})
    monkeypatch.setattr(ort, "open_session", session)
    monkeypatch.setattr(ort, "BoundRun", fails)
    model = find_model(NAME, weights="random")
    backend = open_backend("onnx", model, input_size=SIZE, precision="fp32")
    assert asked == [chain, without_graphs(chain)]
    assert backend(batch(1)).shape[0] == 1
    backend.close()


def test_what_cannot_be_captured_still_runs_on_the_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """ONNX Runtime refuses the session itself, where a node would be the processor's."""
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path))
    asked: list[list] = []
    real = ort.open_session

    def session(network, providers, threads) -> object:
        asked.append(providers)
        if len(asked) < 4:
            raise DeviceError("TensorRT and the graph", found="not all nodes are partitioned")
        return real(network, [PROVIDERS["cpu"]], threads)

    cuda = (PROVIDERS["cuda"], provider_options("cuda", 0))
    chain = [(PROVIDERS["tensorrt"], provider_options("tensorrt", 0)), cuda, PROVIDERS["cpu"]]
    monkeypatch.setattr(ort, "chain_of", lambda family, number: chain)
    monkeypatch.setattr(ort, "open_session", session)
    model = find_model(NAME, weights="random")
    open_backend("onnx", model, input_size=SIZE, precision="fp32").close()
    path = cached_onnx(model, SIZE, "fp32")
    first = for_file(chain, path)
    assert asked == [first, without_graphs(first), chain[1:], without_graphs(chain[1:])]
    assert list(fallbacks(chain))[-1] == [PROVIDERS["cpu"]]


def test_beside_a_decoder_on_the_gpu_nothing_is_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path))
    asked: list[list] = []
    real = ort.open_session

    def session(network, providers, threads) -> object:
        asked.append(providers)
        return real(network, [PROVIDERS["cpu"]], threads)

    chain = [(PROVIDERS["cuda"], provider_options("cuda", 0)), PROVIDERS["cpu"]]
    monkeypatch.setattr(ort, "chain_of", lambda family, number: chain)
    monkeypatch.setattr(ort, "open_session", session)
    model = find_model(NAME, weights="random")
    for beside in (False, True):
        options = {"input_size": SIZE, "precision": "fp32", "beside": beside}
        open_backend("onnx", model, **options).close()
    assert asked == [chain, without_graphs(chain)]


def test_an_engine_in_the_cache_is_of_this_very_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    chain = [(PROVIDERS["tensorrt"], provider_options("tensorrt", 0)), PROVIDERS["cpu"]]
    assert (tmp_path / "cache" / "tensorrt").is_dir()
    network = tmp_path / "net.onnx"
    prefixes = []
    for weights in (b"some", b"others"):
        network.write_bytes(weights)
        prefixes.append(for_file(chain, network)[0][1]["trt_engine_cache_prefix"])
    assert prefixes[0] != prefixes[1]
    assert all(prefix.startswith("net-") for prefix in prefixes)
    assert for_file(chain[1:], network) == chain[1:]


def test_an_engine_that_was_changed_is_removed_with_a_note(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    provider_options("tensorrt", 0)
    network = tmp_path / "net.onnx"
    network.write_bytes(b"some")
    folder, notes = tmp_path / "cache" / "tensorrt", []
    mine = folder / f"{engine_prefix(network)}_1_0_fp32_sm90.engine"
    other = folder / "another_network.engine"
    for path in (mine, other):
        path.write_bytes(b"an engine")
    keep_engines(network)
    check_engines(network, notes)
    assert mine.is_file()
    assert not notes
    mine.write_bytes(b"another engine")
    check_engines(network, notes)
    assert not mine.exists()
    assert len(notes) == 1
    assert other.is_file()


def test_tensorrt_runs_without_a_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "file"))
    settings = provider_options("tensorrt", 0)
    assert settings["trt_cuda_graph_enable"] == "1"
    assert "trt_engine_cache_enable" not in settings


@pytest.mark.parametrize(
    ("provider", "words", "kind", "advice"),
    [
        ("cpu", "bad node", BackendError, ""),
        ("cuda", "CUDA failure 719: unspecified launch failure", DeviceError, ""),
        ("cuda", "BFCArena::AllocateRawInternal Failed to allocate memory", DeviceError, "--imgsz"),
    ],
)
def test_a_failure_while_it_runs_is_the_devices_where_that_is_a_gpu(
    network: Path, provider: str, words: str, kind: type, advice: str
) -> None:
    class Broken:
        def get_providers(self) -> list[str]:
            return [PROVIDERS[provider]]

        def run(self, *_: object) -> None:
            raise RuntimeError(words)

    backend = open_backend("onnx", find_model(str(network)), device="cpu")
    backend._session = Broken()
    with pytest.raises(kind, match=words.split()[0]) as caught:
        backend(np.zeros((1, *SIZE, 3), np.uint8))
    assert type(caught.value) is kind
    assert advice in caught.value.do
    backend.close()


def test_cuda_times_all_methods_and_replays() -> None:
    asked = provider_options("cuda", 1)
    assert asked["device_id"] == "1"
    assert asked["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    assert asked["enable_cuda_graph"] == "1"
    assert asked["use_tf32"] == "0"  # what is called fp32 is
    (changed,) = without_graphs([(PROVIDERS["cuda"], asked)])
    assert changed[1] == {**asked, "enable_cuda_graph": "0"}


def test_tensorrt_keeps_its_engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path))
    asked = provider_options("tensorrt", 0)
    assert asked["trt_engine_cache_enable"] == "1"
    assert Path(asked["trt_engine_cache_path"]).is_relative_to(tmp_path)
    assert asked["trt_cuda_graph_enable"] == "1"


def test_a_processor_has_nothing_to_set() -> None:
    assert provider_options("cpu", 0) == {}
    assert without_graphs(["CPUExecutionProvider"]) == ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("precision", "installed", "told"),
    [
        ("fp16", "1.26.3", True),
        ("fp16", "1.27.0", False),
        ("fp32", "1.26.3", False),
        ("fp16", "1.9.0", True),
    ],
)
def test_tensorrt_is_told_to_compute_in_half_precision_where_it_needs_that(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: str, installed: str, told: bool
) -> None:
    monkeypatch.setattr(providers, "package_versions", lambda: {"onnxruntime-gpu": installed})
    network = tmp_path / "network.onnx"
    network.write_bytes(b"any")
    chain = [(PROVIDERS["tensorrt"], {}), (PROVIDERS["cuda"], {}), PROVIDERS["cpu"]]
    first, *rest = for_file(chain, network, precision)
    assert ("trt_fp16_enable" in first[1]) == told
    assert rest == chain[1:]
