"""Networks run by ONNX Runtime: processor, CUDA, TensorRT, DirectML, CoreML."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from rtseg.backends.base import Feed, as_scores, check_batch, noise
from rtseg.backends.options import BackendOptions, first_line, nvidia_driver
from rtseg.backends.providers import (
    CHAINS,
    FAMILY_OF,
    PROVIDERS,
    REPLAYED,
    check_device,
    compare,
    fallbacks,
    for_file,
    provider_options,
    tiny_graph,
    wanted_precision,
    why_not,
    without_replay,
)
from rtseg.contracts import Backend, BackendInfo
from rtseg.errors import MORE_MEMORY, BackendError, DeviceError, ModelError
from rtseg.nets.onnx_file import cached_onnx, exported_spec
from rtseg.threads import physical_cores
from rtseg.zoo import Model


class BoundRun:
    """One session whose input and output stay where they are from run to run.

    Spares an allocation and a copy on the host for each, and is what a CUDA graph needs: its
    launches name fixed addresses.

    Args:
        session: with one input and one output in use, of shapes known in advance.
        shapes: of the input and the output.
        dtypes: of both.
        device: as ONNX Runtime calls it: "cuda", "cpu".
    """

    def __init__(
        self,
        session: Any,
        names: tuple[str, str],
        shapes: tuple[tuple[int, ...], tuple[int, ...]],
        dtypes: tuple[np.dtype, np.dtype],
        device: str,
        number: int = 0,
    ) -> None:
        self._session, self._shared = session, device == "cpu"
        given, wanted = names
        self._input, self._output = (
            onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype), device, number)
            for shape, dtype in zip(shapes, dtypes, strict=True)
        )
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(given, self._input)
        self._binding.bind_ortvalue_output(wanted, self._output)
        self._run()

    def __call__(self, values: NDArray) -> NDArray:
        """The output for an input of the shape and dtype given at the start, contiguous."""
        self._input.update_inplace(values)
        self._run()
        output: NDArray = self._output.numpy()
        return output.copy() if self._shared else output

    def _run(self) -> None:
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()


FATAL = 4

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
if sys.platform == "win32":  # elsewhere a variable of `rtseg/__init__.py` does more, and earlier
    onnxruntime.disable_telemetry_events()


def available_providers_that_run() -> dict[str, str]:
    """Every provider that this build has, and "runs" or why not."""
    return {provider: provider_found(provider) for provider in built_in()}


def provider_found(provider: str) -> str:
    """ "runs", or why it does not: a tiny graph is run on it."""
    if provider not in built_in():
        return why_not(provider, built_in())
    try:
        preload(FAMILY_OF.get(provider, ""))
        session = open_session(tiny_graph(), [provider], threads=1)
        session.run(None, {"x": np.ones((1, 1, 4, 4), np.float32)})
        real = session.get_providers()[0]
        return "runs" if real == provider else why_not(provider, built_in())
    except DeviceError:  # its own words name lines of C++
        return why_not(provider, built_in())
    except Failure as error:
        return first_line(error)


def open_session(
    network: Path | bytes, providers: list[Any], threads: int
) -> onnxruntime.InferenceSession:
    """Load a network; where none of the `providers` but the last can be had, some raise, and others
    are left out in silence.

    Raises:
        ModelError: it is no network, or one that this ONNX Runtime does not know.
        DeviceError: a provider failed.
    """
    name = network.name if isinstance(network, Path) else "the graph"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its threads spin while an operator of the run is awaited: to wake one that sleeps costs more
    # than most operators of a small network do (22.2 ms a frame instead of 25.1, person at 288x512
    # on two cores). Between runs they would spin on the cores that decoding and drawing need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
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
                f"{names_of(providers)[0]} cannot load {name}", found=first_line(error)
            ) from error
        raise ModelError(f"cannot load the network {name}", found=first_line(error)) from error


def chain_of(family: str, number: int) -> list[Any]:
    """What to hand to the session: the device's provider where this build has it, then the CPU."""
    there = built_in()
    chain: list[Any] = []
    for name in CHAINS.get(family, (family,)):
        nvidia = name in ("cuda", "tensorrt")
        if name == "cpu" or PROVIDERS[name] not in there or (nvidia and not nvidia_driver()):
            continue
        preload(name)
        chain.append((PROVIDERS[name], provider_options(name, number)))
    return [*chain, PROVIDERS["cpu"]]


def names_of(providers: list[Any]) -> list[str]:
    """Providers without their options."""
    return [entry if isinstance(entry, str) else entry[0] for entry in providers]


def preload(family: str) -> None:
    """Load the libraries that NVIDIA's own wheels, and torch's, bring of CUDA, cuDNN and TensorRT,
    where the system has none; nothing for other devices.
    """
    if family not in ("cuda", "tensorrt") or not nvidia_driver():
        return
    load = getattr(onnxruntime, "preload_dlls", None)  # since 1.21
    if load is not None:
        with redirect_stdout(io.StringIO()):  # it prints what it does not find
            load()
    if family == "tensorrt":
        with suppress(ImportError, OSError):
            import_module("tensorrt")  # its wheel's libraries lie where no loader looks


def built_in() -> list[str]:
    """The providers that this build of ONNX Runtime has, loadable or not."""
    return list(onnxruntime.get_available_providers())


NUMPY: dict[str, np.dtype] = {
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
}
WARM_UP_RUNS = 3


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
        providers = chain_of(options.family, options.number)
        if options.beside:  # it records for all threads at once, which breaks what the others do
            providers = without_replay(providers)
        wanted = wanted_precision(options.precision, model, names_of(providers)[0])
        # told none, it ties each thread to a core, and what else runs on that core holds up a frame
        threads = options.threads or (1 if options.lanes > 1 else physical_cores())
        session = self._open(model, wanted, providers, threads)
        running = session.get_providers()[0]
        kept, lost = compare(options, running, built_in())
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
            raise self._failed(error) from error
        return as_scores(output, self.spec)

    def _failed(self, error: Exception) -> BackendError | DeviceError:
        running, words = self._session.get_providers()[0], first_line(error)
        asked = f"{self.spec.name} failed on {running}"
        if running == PROVIDERS["cpu"]:
            return BackendError(asked, found=words)
        full = any(word in str(error).lower() for word in ("out of memory", "failed to allocate"))
        return DeviceError(asked, found=words, do=MORE_MEMORY if full else "")

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
        self, model: Model, precision: str, providers: list[Any], threads: int
    ) -> onnxruntime.InferenceSession:
        own = model.format != "onnx"
        path = cached_onnx(model, self.input_size, precision) if own else model.file
        assert path is not None
        session = _first_that_opens(path, for_file(providers, path), threads)
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
        given = self._session.get_inputs()[0]
        wanted = next(out for out in self._session.get_outputs() if out.name == self._output)
        sides = (*given.shape, *wanted.shape)
        known = all(isinstance(side, int) for side in sides) and wanted.type in NUMPY
        if running not in REPLAYED or not known:
            return None
        number = int(self._session.get_provider_options()[running].get("device_id", 0))
        try:
            return BoundRun(
                self._session,
                (given.name, wanted.name),
                (tuple(given.shape), tuple(wanted.shape)),
                (self._feed.dtype, NUMPY[wanted.type]),
                "cuda",
                number,
            )
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
            raise ModelError(error.asked, found=error.found, do=error.do) from error
        return bool(np.isfinite(scores).all())


def _first_that_opens(
    path: Path, providers: list[Any], threads: int
) -> onnxruntime.InferenceSession:
    """A session of the chain, or of what is left of it; some providers raise where they cannot be
    had, others are left out in silence.
    """
    for chain in fallbacks(providers):
        try:
            return open_session(path, chain, threads)
        except DeviceError:
            continue
    raise AssertionError("the processor's failures are others")
