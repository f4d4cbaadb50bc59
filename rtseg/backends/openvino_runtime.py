"""Networks run by OpenVINO on a processor."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtseg.backends.base import Feed, as_scores, check_batch, noise
from rtseg.backends.options import BackendOptions, first_line, not_there
from rtseg.cache import COMPILED, cache_dir, make_room
from rtseg.contracts import Backend, BackendInfo
from rtseg.errors import BackendError, ModelError, UsageError
from rtseg.nets.foreign import precision_of
from rtseg.nets.onnx_file import cached_onnx, exported_spec
from rtseg.threads import limited_cores
from rtseg.zoo import Model

HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}
"""The arithmetic that OpenVINO is allowed; what is quantised in a file stays so beside it."""

WARM_UP_RUNS = 3
TELEMETRY = "openvino_telemetry"


class OpenVinoBackend(Backend):
    """One network in OpenVINO's compiled form, kept in the cache; our own pass through ONNX.

    Args:
        options: precision auto is fp32; bf16 and fp16 take effect where the processor has them,
            and what it really takes is read back. Each lane is an inference request of its own.

    Raises:
        UsageError: OpenVINO is not installed, or the file has no such precision.
        ModelError: the file is not a network that OpenVINO can run.
        DeviceError: another device than the processor was required.
    """

    def __init__(
        self,
        model: Model,
        input_size: tuple[int, int],
        options: BackendOptions = BackendOptions(),  # noqa: B008 - frozen
    ) -> None:
        self.spec, self.input_size = model.spec, input_size
        notes = list(model.notes)
        self._kept = options.family in ("auto", "cpu")
        if not self._kept:
            found = "the openvino backend runs on processors only"
            notes.append(not_there(options.device, found, options.strict))
        wanted = _wanted(model, options.precision if self._kept else "auto")
        own = model.format != "onnx"
        path = cached_onnx(model, input_size) if own else model.file
        assert path is not None
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self.lanes, self.gains_by_lanes = options.lanes, True
        compiled = self._compile(path, wanted, options)
        feeds = exported_spec(model.spec, input_size).input if own else model.spec.input
        self._feed = Feed(feeds, compiled.input(0).element_type.to_dtype())
        self._output = 0 if own else _index(compiled, model.spec.output_name)
        running = _running(compiled, wanted)
        if running != wanted:
            notes.append(f"{wanted} was asked for, but this processor runs {running}")
        if not self._warm_up():
            notes.append("the network gives infinite or undefined scores")
        self.info = BackendInfo(
            "openvino", "cpu", running, "OpenVINO CPU", tuple(notes), self._kept
        )

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As the contract says; pictures of a batch go one after the other."""
        check_batch(batch, self.input_size)
        if len(batch) != 1:
            return np.concatenate([self(batch[i : i + 1]) for i in range(len(batch))])
        if self._compiled is None:
            raise BackendError(f"{self.spec.name} was used after it was closed")
        request = self._requests.get()
        try:
            request.infer([self._feed(batch)])
            # a request writes its next result over this one
            output = request.get_output_tensor(self._output).data.copy()
        except RuntimeError as error:
            asked = f"{self.spec.name} failed in OpenVINO"
            raise BackendError(asked, found=first_line(error)) from error
        finally:
            self._requests.put(request)
        return as_scores(output, self.spec)

    def close(self) -> None:
        """Free the compiled network and its requests."""
        self._compiled: Any = None
        self._requests = SimpleQueue()

    def _compile(self, path: Path, precision: str, options: BackendOptions) -> Any:
        """The compiled network, with one request per lane."""
        core = _core(_openvino())
        make_room(compiled := cache_dir() / "openvino", COMPILED)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY" if options.lanes == 1 else "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "CACHE_DIR": str(compiled),
            # decoding and encoding want the same cores: 31 against 28 frames per second, file to
            # file on two of them
            "ENABLE_CPU_PINNING": False,
        }
        if options.lanes > 1:
            settings["NUM_STREAMS"] = options.lanes
        if (threads := options.threads or limited_cores()) is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            network = core.read_model(str(path))
            if network.is_dynamic():
                network.reshape(self._shape(network))
            self._compiled = core.compile_model(network, "CPU", settings)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot load {path.name}", found=_last(error)) from error
        for _ in range(options.lanes):
            self._requests.put(self._compiled.create_infer_request())
        return self._compiled

    def _shape(self, network: Any) -> list[int]:
        """One picture of the input's size, in the layout of the file."""
        height, width = self.input_size
        planes = self.spec.input.layout == "NCHW"
        return [1, 3, height, width] if planes else [1, height, width, 3]

    def _warm_up(self) -> bool:
        """Run at the real shape; whether all scores are finite.

        Raises:
            ModelError: the network cannot take this shape, or gives something else than scores.
        """
        batch = noise(self.input_size)
        try:
            scores = [self(batch) for _ in range(WARM_UP_RUNS)][-1]
        except BackendError as error:
            raise ModelError(error.asked, found=error.found, do=error.do) from error
        return bool(np.isfinite(scores).all())


@cache
def _core(openvino: Any) -> Any:
    """OpenVINO's one core of this process, which is never taken down.

    With a core its CPU plugin gives the thread another stack for signals, and with the core it puts
    back the one before, which may be that of a core that is gone: the next signal, Ctrl-C say, then
    ends the program without a word.
    """
    return openvino.Core()


def _openvino() -> Any:
    try:
        with _in_private():
            import openvino
    except ImportError as error:
        raise UsageError(
            "the openvino backend was asked for",
            found="OpenVINO is not installed",
            do='Install it: python -m pip install "rtseg[openvino]"',
        ) from error
    return openvino


@contextmanager
def _in_private() -> Iterator[None]:
    """OpenVINO tells its makers when it is imported, by a package that it can do without."""
    if TELEMETRY in sys.modules or "openvino" in sys.modules:  # somebody else's choice
        yield
        return
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[TELEMETRY]


def _wanted(model: Model, asked: str) -> str:
    """The precision to ask for: what was, else that of the file."""
    if model.format == "onnx":
        assert model.file is not None
        found = precision_of(model.file)
        if asked == "int8" and found != "int8":
            raise UsageError(f"precision int8 for {model.spec.name}", found=f"its file is {found}")
        return found if asked == "auto" else asked
    if asked == "int8":
        raise UsageError(
            f"precision int8 for {model.spec.name}",
            found="the openvino backend quantises nothing itself",
            do="Make an int8 file with rtseg export, and name it",
        )
    return "fp32" if asked == "auto" else asked


def _running(compiled: Any, wanted: str) -> str:
    """The precision that the compiled network says it computes in."""
    if wanted == "int8":
        return wanted
    said = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}.get(said, said)


def _index(compiled: Any, name: str) -> int:
    """Which output is called `name`; "" is the first."""
    names = [output.get_names() for output in compiled.outputs]
    return next((i for i, own in enumerate(names) if name in own), 0)


def _last(error: RuntimeError) -> str:
    """OpenVINO's own words come after the places in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
