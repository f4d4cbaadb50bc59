"""Networks run by ONNX Runtime: processor, CUDA, TensorRT, DirectML, CoreML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from rtseg.backends.devices import first_line, nvidia_driver
from rtseg.backends.feed import Feed, as_scores
from rtseg.backends.options import BackendOptions
from rtseg.backends.ort_binding import BoundRun
from rtseg.backends.providers import (
    CHAINS,
    FAMILY_OF,
    PROVIDERS,
    REPLAYED,
    check_device,
    compare,
    provider_options,
    tiny_graph,
    wanted_precision,
    why_not,
    without_replay,
)
from rtseg.backends.sizes import check_batch, noise
from rtseg.contracts import Backend, BackendInfo
from rtseg.errors import BackendError, DeviceError, ModelError
from rtseg.nets.onnx_file import cached_onnx, exported_spec
from rtseg.zoo import Model

NUMPY: dict[str, np.dtype] = {
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
}
FATAL = 4
WARM_UP_RUNS = 3

# Errors of ONNX Runtime are bare subclasses of Exception, one by one.
Failure: tuple[type[Exception], ...] = (
    *(
        value
        for value in vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ),
    RuntimeError,
    ValueError,
)

# It writes to stderr what we read back and say in one line.
onnxruntime.set_default_logger_severity(FATAL)


class OnnxBackend(Backend):
    """One network in an ONNX Runtime session; our own are exported to the cache on first use.

    Args:
        options: precision is of our own networks: auto is fp16 on CUDA, else fp32; an ONNX file
            has its own. Threads work within an operator; None is the number of physical cores, or
            one where there are several lanes: on processors, whole frames share cores better than
            the operators of one frame do.

    Raises:
        UsageError: ONNX Runtime has no such device, or the file no such precision.
        ModelError: the file is not a network, or not the one its settings describe.
        DeviceError: the device failed, or is not there and `strict` is set.
    """

    def __init__(
        self,
        model: Model,
        input_size: tuple[int, int],
        options: BackendOptions = BackendOptions(),  # noqa: B008 - frozen
    ) -> None:
        check_device(options.family)
        self.spec, self.input_size = model.spec, input_size
        providers = _providers(options.family, options.number)
        wanted = wanted_precision(options.precision, model, _names(providers)[0])
        threads = options.threads or (1 if options.lanes > 1 else None)
        session = self._open(model, wanted, providers, threads)
        running = session.get_providers()[0]
        kept, lost = compare(options, running, _there())
        notes = [*model.notes, *lost]
        own = model.format != "onnx"
        fallen = wanted != "fp32" and running == PROVIDERS["cpu"]
        if own and options.precision == "auto" and fallen:
            wanted = "fp32"  # half precision was for the device that did not come
            self._open(model, wanted, providers, threads)
        finite = self._warm_up()
        if not finite and own and wanted != "fp32":
            notes.append(f"{wanted} gave infinite scores, so fp32 runs instead")
            wanted = "fp32"
            self._open(model, wanted, providers, threads)
            finite = self._warm_up()
        if not finite:
            notes.append("the network gives infinite or undefined scores")
        self.info = BackendInfo("onnx", self._device(), wanted, running, tuple(notes), kept)
        self.gains_by_lanes = running == PROVIDERS["cpu"]
        self.lanes = options.lanes if self.gains_by_lanes else 1

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As the contract says; a file for one picture at a time gets them one after the other."""
        check_batch(batch, self.input_size)
        if self._one_by_one and len(batch) > 1:
            return np.concatenate([self(batch[i : i + 1]) for i in range(len(batch))])
        if self._session is None:
            raise BackendError(f"{self.spec.name} was used after it was closed")
        try:
            output = self._run(self._feed(batch))
        except Failure as error:
            asked = f"{self.spec.name} failed on {self._session.get_providers()[0]}"
            raise BackendError(asked, found=first_line(error)) from error
        return as_scores(output, self.spec)

    def close(self) -> None:
        """Free the session and its memory."""
        self._session: Any = None
        self._bound: BoundRun | None = None

    def _run(self, values: NDArray) -> NDArray:
        if self._bound is not None:
            return self._bound(values)
        output: NDArray = self._session.run([self._output], {self._input: values})[0]
        return output

    def _open(
        self, model: Model, precision: str, providers: list[Any], threads: int | None
    ) -> onnxruntime.InferenceSession:
        own = model.format != "onnx"
        path = cached_onnx(model, self.input_size, precision) if own else model.file
        assert path is not None
        try:
            session = _session(path, providers, threads)
        except DeviceError:  # some providers raise, others are left out in silence: one path
            session = _session(path, [PROVIDERS["cpu"]], threads)
        declared = session.get_inputs()[0]
        if declared.type not in NUMPY:
            raise ModelError(f"cannot use {path}", found=f"its input is a {declared.type}")
        if isinstance(declared.shape[0], int) and declared.shape[0] > 1:
            found = f"it takes {declared.shape[0]} pictures at a time"
            raise ModelError(f"cannot use {path}", found=found, do="Export it for one")
        feeds = exported_spec(model.spec, self.input_size).input if own else model.spec.input
        self._feed = Feed(feeds, NUMPY[declared.type])
        self._input = declared.name
        self._output = ("" if own else model.spec.output_name) or session.get_outputs()[0].name
        self._one_by_one = declared.shape[0] == 1
        self._session = session
        self._bound = self._bind()
        plain = without_replay(providers)
        if self._bound is None and plain != providers and session.get_providers()[0] in REPLAYED:
            return self._open(model, precision, plain, threads)
        return session

    def _bind(self) -> BoundRun | None:
        """Fixed places on the device, where it is NVIDIA's and the network takes them."""
        running = self._session.get_providers()[0]
        shape = self._session.get_inputs()[0].shape
        if running not in REPLAYED or not all(isinstance(side, int) for side in shape):
            return None
        number = int(self._session.get_provider_options()[running].get("device_id", 0))
        try:
            names = (self._input, self._output)
            return BoundRun(self._session, names, tuple(shape), self._feed.dtype, "cuda", number)
        except Failure:  # an operator that the device lacks, as a rule: then launch by launch
            return None

    def _device(self) -> str:
        """The device of the session's first provider, with its number where it has one."""
        running = self._session.get_providers()[0]
        family = FAMILY_OF.get(running, running)
        options = self._session.get_provider_options().get(running, {})
        return f"cuda:{options.get('device_id', 0)}" if family in ("cuda", "tensorrt") else family

    def _warm_up(self) -> bool:
        """Run at the real shape; whether all scores are finite.

        Raises:
            ModelError: the network cannot take this shape, or gives something else than scores.
            DeviceError: the device failed.
        """
        batch = noise(self.input_size)
        try:
            scores = [self(batch) for _ in range(WARM_UP_RUNS)][-1]
        except BackendError as error:
            if self._session.get_providers()[0] != PROVIDERS["cpu"]:
                raise DeviceError(error.asked, found=error.found, do=error.do) from error
            raise ModelError(error.asked, found=error.found, do=error.do) from error
        return bool(np.isfinite(scores).all())


def available_providers_that_run() -> dict[str, str]:
    """Every provider that this build has, and "runs" or why not: a tiny graph is run on each."""
    graph = tiny_graph()
    found = {}
    for provider in _there():
        try:
            session = _session(graph, [provider], threads=1)
            session.run(None, {"x": np.ones((1, 1, 4, 4), np.float32)})
            real = session.get_providers()[0]
            found[provider] = "runs" if real == provider else why_not(provider, _there())
        except DeviceError:  # its own words name lines of C++
            found[provider] = why_not(provider, _there())
        except Failure as error:
            found[provider] = first_line(error)
    return found


def _session(
    network: Path | bytes, providers: list[Any], threads: int | None
) -> onnxruntime.InferenceSession:
    name = network.name if isinstance(network, Path) else "the graph"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    # Its threads spin between operators by default, also between frames, on the cores that
    # decoding and drawing need: live video lets them sleep.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(
            str(network) if isinstance(network, Path) else network,
            options,
            providers=providers,
            enable_fallback=0,  # its own fallback prints; ours is read back and said
        )
    except Failure as error:
        if any(kind in type(error).__name__ for kind in ("Protobuf", "Graph", "NoSuch", "NoModel")):
            # "..., Error No Op registered for X" is worth knowing; other words are C++'s own
            words = first_line(error).partition(", Error ")[2] or "it is no ONNX file, or damaged"
            raise ModelError(f"cannot load the network {name}", found=words) from error
        if providers != [PROVIDERS["cpu"]]:
            raise DeviceError(
                f"{_names(providers)[0]} cannot load {name}", found=first_line(error)
            ) from error
        raise ModelError(f"cannot load the network {name}", found=first_line(error)) from error


def _providers(family: str, number: int) -> list[Any]:
    """What to hand to the session: the device's provider where this build has it, then the CPU."""
    there = _there()
    chain: list[Any] = []
    for name in CHAINS.get(family, (family,)):
        nvidia = name in ("cuda", "tensorrt")
        if name == "cpu" or PROVIDERS[name] not in there or (nvidia and not nvidia_driver()):
            continue
        if nvidia:
            _preload_cuda()
        chain.append((PROVIDERS[name], provider_options(name, number)))
    return [*chain, PROVIDERS["cpu"]]


def _names(providers: list[Any]) -> list[str]:
    return [entry if isinstance(entry, str) else entry[0] for entry in providers]


def _preload_cuda() -> None:
    """Load the CUDA and cuDNN libraries that torch's wheels bring, where the system has none."""
    import contextlib
    import io

    preload = getattr(onnxruntime, "preload_dlls", None)  # since 1.21
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            preload()


def _there() -> list[str]:
    """The providers that this build of ONNX Runtime has, loadable or not."""
    return list(onnxruntime.get_available_providers())
