"""What ONNX Runtime is asked of NVIDIA's providers, and its bound runs; none needs a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from rtseg.backends import open_backend, ort
from rtseg.backends.ort_binding import BoundRun
from rtseg.backends.providers import PROVIDERS, provider_options, without_replay
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
    bound = BoundRun(session, names, (1, *SIZE, 3), np.dtype(np.uint8), "cpu")
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
    monkeypatch.setattr(ort, "REPLAYED", {PROVIDERS["cpu"]})
    bound_on_processor = BoundRun

    def on_processor(session, names, shape, dtype, device, number) -> BoundRun:
        assert (device, number) == ("cuda", 0)
        return bound_on_processor(session, names, shape, dtype, "cpu")

    monkeypatch.setattr(ort, "BoundRun", on_processor)
    backend = open_backend(
        "onnx", find_model(NAME, weights="random"), input_size=SIZE, device="cpu"
    )
    assert backend._bound is not None
    np.testing.assert_array_equal(backend(np.concatenate([batch(3), batch(4)])), expected)
    for opened in (plain, backend):
        opened.close()


def test_a_network_that_cannot_be_bound_is_opened_again_without_replay(
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
    monkeypatch.setattr(ort, "REPLAYED", {PROVIDERS["cpu"]})
    monkeypatch.setattr(ort, "open_session", session)
    monkeypatch.setattr(ort, "BoundRun", fails)
    model = find_model(NAME, weights="random")
    backend = open_backend("onnx", model, input_size=SIZE, precision="fp32")
    assert asked == [chain, without_replay(chain)]
    assert backend(batch(1)).shape[0] == 1
    backend.close()


def test_cuda_times_all_methods_and_replays() -> None:
    asked = provider_options("cuda", 1)
    assert asked["device_id"] == "1"
    assert asked["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    assert asked["enable_cuda_graph"] == "1"
    (changed,) = without_replay([(PROVIDERS["cuda"], asked)])
    assert changed[1] == {**asked, "enable_cuda_graph": "0"}
    assert provider_options("cuda", 1, graph=False) == changed[1]


def test_tensorrt_keeps_its_engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path))
    asked = provider_options("tensorrt", 0)
    assert asked["trt_engine_cache_enable"] == "1"
    assert Path(asked["trt_engine_cache_path"]).is_relative_to(tmp_path)
    assert asked["trt_cuda_graph_enable"] == "1"


def test_a_processor_has_nothing_to_set() -> None:
    assert provider_options("cpu", 0) == {}
    assert without_replay(["CPUExecutionProvider"]) == ["CPUExecutionProvider"]
