"""Networks run by ONNX Runtime: CPU, CUDA, TensorRT, DirectML, CoreML."""

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

from rtseg.backends.base import InputEncoder, as_scores, check_batch, infinite_scores, warm_up
from rtseg.backends.options import BackendOptions
from rtseg.backends.providers import (
    CHAINS,
    FAMILY_OF,
    GRAPH_PROVIDERS,
    PROVIDERS,
    check_engines,
    compare,
    fallbacks,
    for_file,
    keep_engines,
    provider_options,
    resolve_precision,
    tiny_graph,
    why_missing,
    without_graphs,
)
from rtseg.contracts import Backend, BackendInfo
from rtseg.errors import MORE_MEMORY, BackendError, DeviceError, ModelError, first_line
from rtseg.nets.onnx_file import cached_onnx, exported_spec, runnable_onnx
from rtseg.system import nvidia_driver, physical_cores
from rtseg.zoo import Model

FATAL = 4
"""Log severity: ONNX Runtime writes to stderr what we read back and report in one line."""

# ONNX Runtime's errors are separate subclasses of Exception
Failure: tuple[type[Exception], ...] = (
    *(
        value
        for value in vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ),
    RuntimeError,
    ValueError,
)

onnxruntime.set_default_logger_severity(FATAL)
if sys.platform == "win32":  # elsewhere rtseg/__init__.py sets a variable, which acts earlier
    onnxruntime.disable_telemetry_events()

NUMPY: dict[str, np.dtype] = {
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
}


class OnnxBackend(Backend):
    """One network in an ONNX Runtime session; checkpoints are exported to the cache on first use.

    Args:
        options: precision auto is fp16 on CUDA, else fp32; an ONNX file has its own. Threads work
            within an operator; None is the number of physical cores, or one with several lanes:
            on a CPU, whole frames share cores better than the operators of one frame do.

    Raises:
        UsageError: the network cannot have the precision.
        ModelError: the file is not a valid network, or not the one its settings describe.
        DeviceError: the device failed, or is missing and `strict_device` is set.
    """

    def __init__(
        self,
        model: Model,
        input_size: tuple[int, int],
        options: BackendOptions = BackendOptions(),  # noqa: B008 - frozen
    ) -> None:
        self.spec, self.input_size = model.spec, input_size
        providers = chain_of(options.family, options.number)
        if options.beside:  # capturing a graph breaks what other threads do on the GPU meanwhile
            providers = without_graphs(providers)
        precision = resolve_precision(options.precision, model, names_of(providers)[0])
        # without a number it pins its threads to cores, where other work delays a frame
        threads = options.threads or (1 if options.lanes > 1 else physical_cores())
        notes = list(model.notes)
        session = self._open(model, precision, providers, threads, notes)
        running = session.get_providers()[0]
        kept, lost = compare(options, running, built_in_providers())
        notes += lost
        exported = model.format != "onnx"
        fell_back = precision != "fp32" and running == PROVIDERS["cpu"]
        if exported and options.precision == "auto" and fell_back:
            precision = "fp32"  # half precision was for the device that is missing
            self._open(model, precision, providers, threads, notes)
        finite = warm_up(self)
        if not finite and exported and precision != "fp32":
            notes.append(f"{precision} gave infinite scores; running in fp32")
            precision = "fp32"
            self._open(model, precision, providers, threads, notes)
            finite = warm_up(self)
        if not finite:
            raise infinite_scores(self.spec)
        if self._makes_engines:
            keep_engines(self._file)
        self.info = BackendInfo("onnx", self._device(), precision, running, tuple(notes), kept)
        self.gains_by_lanes = running == PROVIDERS["cpu"]
        self.lanes = options.lanes if self.gains_by_lanes else 1

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As the contract says; a file that takes one image at a time gets them one by one."""
        check_batch(batch, self.input_size)
        if self._one_by_one and len(batch) > 1:
            return np.concatenate([self(batch[i : i + 1]) for i in range(len(batch))])
        if self._session is None:
            raise BackendError(f"{self.spec.name} was used after it was closed")
        try:
            output = self._run(self._encode(batch))
        except Failure as error:
            raise self._failed(error) from error
        return as_scores(output, self.spec)

    def _failed(self, error: Exception) -> BackendError | DeviceError:
        running, found = self._session.get_providers()[0], first_line(error)
        asked = f"{self.spec.name} failed on {running}"
        if running == PROVIDERS["cpu"]:
            return BackendError(asked, found=found)
        full = any(word in str(error).lower() for word in ("out of memory", "failed to allocate"))
        return DeviceError(asked, found=found, do=MORE_MEMORY if full else "")

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
        self, model: Model, precision: str, providers: list[Any], threads: int, notes: list[str]
    ) -> onnxruntime.InferenceSession:
        exported = model.format != "onnx"
        path = (
            cached_onnx(model, self.input_size, precision, notes)
            if exported
            else runnable_onnx(model, self.input_size, notes)
        )
        self._makes_engines = PROVIDERS["tensorrt"] in names_of(providers)
        if self._makes_engines:
            check_engines(path, notes)
        session = _open_first(path, for_file(providers, path, precision), threads)
        self._file = path
        declared = session.get_inputs()[0]
        if declared.type not in NUMPY:
            raise ModelError(f"cannot use {path}", found=f"its input is {declared.type}")
        if isinstance(declared.shape[0], int) and declared.shape[0] > 1:
            found = f"it takes {declared.shape[0]} images at a time"
            raise ModelError(f"cannot use {path}", found=found, do="Export it for one")
        spec = exported_spec(model.spec, self.input_size) if exported else model.spec
        self._encode = InputEncoder(spec.input, NUMPY[declared.type])
        self._input = declared.name
        self._output = ("" if exported else model.spec.output_name) or session.get_outputs()[0].name
        self._one_by_one = declared.shape[0] == 1
        self._session = session
        self._bound = self._bind()
        plain = without_graphs(providers)
        running = session.get_providers()[0]
        if self._bound is None and plain != providers and running in GRAPH_PROVIDERS:
            return self._open(model, precision, plain, threads, notes)
        return session

    def _bind(self) -> BoundRun | None:
        """Fixed buffers on an NVIDIA GPU; None elsewhere, or if a shape is open."""
        running = self._session.get_providers()[0]
        source = self._session.get_inputs()[0]
        result = next(out for out in self._session.get_outputs() if out.name == self._output)
        sides = (*source.shape, *result.shape)
        fixed = all(isinstance(side, int) for side in sides) and result.type in NUMPY
        if running not in GRAPH_PROVIDERS or not fixed:
            return None
        number = int(self._session.get_provider_options()[running].get("device_id", 0))
        try:
            return BoundRun(
                self._session,
                (source.name, result.name),
                (tuple(source.shape), tuple(result.shape)),
                (self._encode.dtype, NUMPY[result.type]),
                "cuda",
                number,
            )
        except Failure:  # mostly an operator that the device lacks
            return None

    def _device(self) -> str:
        """The device of the session's first provider, with its index if it has one."""
        running = self._session.get_providers()[0]
        family = FAMILY_OF.get(running, running)
        options = self._session.get_provider_options().get(running, {})
        return f"cuda:{options.get('device_id', 0)}" if family in ("cuda", "tensorrt") else family


class BoundRun:
    """One session with fixed buffers for its input and output.

    Spares an allocation and a host copy per run, and is what a CUDA graph needs: its launches name
    fixed addresses.

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
        source, result = names
        self._input, self._output = (
            onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype), device, number)
            for shape, dtype in zip(shapes, dtypes, strict=True)
        )
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(source, self._input)
        self._binding.bind_ortvalue_output(result, self._output)
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


# --- sessions ------------------------------------------------------------------------------------


def open_session(
    network: Path | bytes, providers: list[Any], threads: int
) -> onnxruntime.InferenceSession:
    """Load a network; of the `providers` but the last, one that is missing raises or is left out.

    Raises:
        ModelError: the file is not a network, or not one that this ONNX Runtime knows.
        DeviceError: a provider failed.
    """
    name = network.name if isinstance(network, Path) else "the graph"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its threads spin while they wait for an operator: waking one costs more than most operators of
    # a small network (22.2 ms a frame instead of 25.1, person at 288x512 on two cores). Between
    # runs they would spin on the cores that decoding and drawing need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(
            str(network) if isinstance(network, Path) else network,
            options,
            providers=providers,
            enable_fallback=0,  # its own fallback prints; ours is read back and reported
        )
    except Failure as error:
        if any(kind in type(error).__name__ for kind in ("Protobuf", "Graph", "NoSuch", "NoModel")):
            # of "..., Error No Op registered for X" the end is for people
            found = first_line(error).partition(", Error ")[2] or "not a valid ONNX file"
            raise ModelError(f"cannot load the model {name}", found=found) from error
        if providers != [PROVIDERS["cpu"]]:
            raise DeviceError(
                f"{names_of(providers)[0]} cannot load {name}", found=first_line(error)
            ) from error
        raise ModelError(f"cannot load the model {name}", found=first_line(error)) from error


def _open_first(path: Path, providers: list[Any], threads: int) -> onnxruntime.InferenceSession:
    """A session with the first provider of the chain that works."""
    for chain in fallbacks(providers):
        try:
            return open_session(path, chain, threads)
        except DeviceError:
            continue
    raise AssertionError("on the CPU alone, a failure is a ModelError")


def chain_of(family: str, number: int) -> list[Any]:
    """Providers for a session: the device's, if this build has it, then the CPU."""
    built_in = built_in_providers()
    chain: list[Any] = []
    for name in CHAINS.get(family, (family,)):
        nvidia = name in ("cuda", "tensorrt")
        if name == "cpu" or PROVIDERS[name] not in built_in or (nvidia and not nvidia_driver()):
            continue
        preload(name)
        chain.append((PROVIDERS[name], provider_options(name, number)))
    return [*chain, PROVIDERS["cpu"]]


def names_of(providers: list[Any]) -> list[str]:
    """Providers without their options."""
    return [entry if isinstance(entry, str) else entry[0] for entry in providers]


def preload(family: str) -> None:
    """Load CUDA, cuDNN and TensorRT from NVIDIA's wheels or torch's, if the system has none."""
    if family not in ("cuda", "tensorrt") or not nvidia_driver():
        return
    load = getattr(onnxruntime, "preload_dlls", None)  # since 1.21
    if load is not None:
        with redirect_stdout(io.StringIO()):  # it prints what is missing
            load()
    if family == "tensorrt":
        with suppress(ImportError, OSError):
            import_module("tensorrt")  # no loader searches where its wheel puts its libraries


def built_in_providers() -> list[str]:
    """The providers that this build of ONNX Runtime has, loadable or not."""
    return list(onnxruntime.get_available_providers())


def provider_statuses() -> dict[str, str]:
    """ "runs", or why not, of every provider that this build has."""
    return {provider: provider_status(provider) for provider in built_in_providers()}


def provider_status(provider: str) -> str:
    """ "runs", or why not, found by running a tiny graph on it."""
    built_in = built_in_providers()
    if provider not in built_in:
        return why_missing(provider, built_in)
    try:
        preload(FAMILY_OF.get(provider, ""))
        session = open_session(tiny_graph(), [provider], threads=1)
        session.run(None, {"x": np.ones((1, 1, 4, 4), np.float32)})
        real = session.get_providers()[0]
        return "runs" if real == provider else why_missing(provider, built_in)
    except DeviceError:  # ONNX Runtime's own message names lines of C++
        return why_missing(provider, built_in)
    except Failure as error:
        return first_line(error)
