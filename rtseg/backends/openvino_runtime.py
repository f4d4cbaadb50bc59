"""Networks run by OpenVINO on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtseg.backends.base import (
    InputEncoder,
    as_scores,
    check_batch,
    fallback_note,
    infinite_scores,
    int8_advice,
    warm_up,
)
from rtseg.backends.dilated import with_separate_taps
from rtseg.backends.options import BackendOptions
from rtseg.cache import (
    COMPILED,
    add_checksum,
    cache_path,
    is_intact,
    make_room,
    safe_name,
    short_digest,
)
from rtseg.contracts import Backend, BackendInfo
from rtseg.errors import BackendError, ModelError, UsageError, first_line
from rtseg.files import atomic, reason
from rtseg.nets.ir import digest_of, precision_in
from rtseg.nets.onnx_file import cached_onnx, exported_spec, quantised_operators, runnable_onnx
from rtseg.system import limited_cores, multiplies_tiles, processor
from rtseg.zoo import Model

HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}
"""OpenVINO's names of the precisions; what is quantised in a file stays so beside it."""

TELEMETRY = "openvino_telemetry"
"""Package that reports to OpenVINO's makers when OpenVINO is imported, which works without it."""


class OpenVinoBackend(Backend):
    """One network compiled by OpenVINO and kept in the cache; checkpoints pass through ONNX.

    Args:
        options: precision auto is fp32; bf16 and fp16 take effect if the CPU has them, and what it
            really runs is read back. Each lane is an inference request.

    Raises:
        UsageError: the network cannot have the precision.
        ModelError: the file is not a network that OpenVINO can run.
        DeviceError: another device than the CPU was required.
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
            found = "the openvino backend runs on the CPU only"
            notes.append(fallback_note(options.device, found, options.strict_device))
        wanted = _resolve_precision(model, options.precision if self._kept else "auto")
        exported = model.format not in ("onnx", "openvino")
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self.lanes, self.gains_by_lanes = options.lanes, True
        if model.format == "openvino":
            assert model.file is not None
            path = model.file
        else:
            _check_operators(model)
            path = (cached_onnx if exported else runnable_onnx)(model, input_size, notes=notes)
        self._compiled: Any = self._open(path, wanted, options, notes)
        compiled = self._compiled
        for _ in range(options.lanes):
            self._requests.put(compiled.create_infer_request())
        spec = exported_spec(model.spec, input_size) if exported else model.spec
        self._encode = InputEncoder(spec.input, compiled.input(0).element_type.to_dtype())
        self._output = 0 if exported else _index(compiled, model.spec.output_name)
        running = _running(compiled, wanted)
        if running != wanted:
            notes.append(f"{wanted} was requested, but this CPU runs {running}")
        if not warm_up(self):
            raise infinite_scores(self.spec)
        self.info = BackendInfo(
            "openvino", "cpu", running, "OpenVINO CPU", tuple(notes), self._kept
        )

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As the contract says; the images of a batch run one by one."""
        check_batch(batch, self.input_size)
        if len(batch) != 1:
            return np.concatenate([self(batch[i : i + 1]) for i in range(len(batch))])
        if self._compiled is None:
            raise BackendError(f"{self.spec.name} was used after it was closed")
        request = self._requests.get()
        try:
            # its own tensor: to hand over another costs more than this copy
            request.get_input_tensor(0).data[...] = self._encode(batch)
            request.start_async()
            request.wait()
            # a request writes its next result over this one
            output = request.get_output_tensor(self._output).data.copy()
        except (RuntimeError, ValueError) as error:
            asked = f"{self.spec.name} failed in OpenVINO"
            raise BackendError(asked, found=first_line(error)) from error
        finally:
            self._requests.put(request)
        return as_scores(output, self.spec)

    def close(self) -> None:
        """Free the compiled network and its requests."""
        self._compiled = None
        self._requests = SimpleQueue()

    def _open(self, path: Path, precision: str, options: BackendOptions, notes: list[str]) -> Any:
        """The compiled network, from the cache if it is intact there.

        OpenVINO's own cache runs whatever lies in it, damaged or not.
        """
        core = _core(_import_openvino())
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY" if options.lanes == 1 else "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            # decoding and encoding need the same cores: 31 instead of 28 frames per second, file to
            # file on two of them
            "ENABLE_CPU_PINNING": False,
        }
        if options.lanes > 1:
            settings["NUM_STREAMS"] = options.lanes
        if (threads := options.threads or limited_cores()) is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        taps = precision == "bf16" and multiplies_tiles()
        kept = self._kept_as(path, precision, settings, taps)
        if is_intact(kept, notes):
            with suppress(RuntimeError, OSError):  # of another machine
                return core.import_model(kept.read_bytes(), "CPU", settings)
        try:
            network = core.read_model(str(path))
            if network.is_dynamic():
                network.reshape(self._shape(network))
            if taps:
                with_separate_taps(network)
            compiled = core.compile_model(network, "CPU", settings)
        except RuntimeError as error:
            raise ModelError(
                f"OpenVINO cannot load {path.name}", found=_last_line(error)
            ) from error
        try:
            with atomic(kept) as temporary:
                temporary.write_bytes(compiled.export_model().getvalue())
            add_checksum(kept)
            make_room(kept.parent, COMPILED)
        except (OSError, RuntimeError) as error:
            note = f"cannot write to the cache {kept.parents[1]} ({reason(error)})"
            if note not in notes:
                notes.append(note)
        return compiled

    def _kept_as(self, path: Path, precision: str, settings: dict[str, Any], taps: bool) -> Path:
        """Where the cache has a network compiled from a file, by all that shapes it."""
        height, width = self.input_size
        parts = [digest_of(path), self.input_size, settings, processor(), version("openvino")]
        parts += ["separate taps"] if taps else []
        size = f"{height}x{width}"
        name = f"{safe_name(self.spec.name)}-{size}-{precision}-{short_digest(parts)}.blob"
        return cache_path("openvino", name)

    def _shape(self, network: Any) -> list[int]:
        """Shape of one image of the input's size, in the file's layout."""
        height, width = self.input_size
        planes = self.spec.input.layout == "NCHW"
        return [1, 3, height, width] if planes else [1, height, width, 3]


@cache
def _core(openvino: Any) -> Any:
    """The one core of this process, which is never released.

    With a core, OpenVINO's CPU plugin sets an alternate signal stack; releasing it restores the one
    before, which may belong to a core that is gone: the next signal, such as Ctrl-C, would then
    kill the process.
    """
    return openvino.Core()


def _import_openvino() -> Any:
    with _without_telemetry():
        import openvino
    return openvino


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Make OpenVINO's telemetry package look absent."""
    if TELEMETRY in sys.modules or "openvino" in sys.modules:  # somebody else imported it
        yield
        return
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[TELEMETRY]


def _check_operators(model: Model) -> None:
    """Raise ModelError for operators that OpenVINO computes wrongly.

    It lets the int8 results of QLinearAdd, QLinearConcat and their like wrap around instead of
    saturate, and differs in QLinearConv with a scale per channel (seen with 2026.4).
    """
    if model.format == "onnx" and model.file and (found := quantised_operators(model.file)):
        raise ModelError(
            f"OpenVINO cannot run {model.file.name}",
            found=f"it computes {min(found)} wrongly",
            do="Use --backend onnx, or quantise it to QuantizeLinear and DequantizeLinear (QDQ)",
        )


def _resolve_precision(model: Model, asked: str) -> str:
    """The precision to request: as asked, else the file's."""
    if model.format in ("onnx", "openvino"):
        assert model.file is not None
        found = precision_in(model.file)
        if asked == "int8" and found != "int8":
            raise UsageError(f"precision int8 for {model.spec.name}", found=f"its file is {found}")
        return found if asked == "auto" else asked
    if asked == "int8":
        raise UsageError(
            f"precision int8 for {model.spec.name}",
            found="the openvino backend does not quantise",
            do=int8_advice(model),
        )
    return "fp32" if asked == "auto" else asked


def _running(compiled: Any, wanted: str) -> str:
    """The precision that the compiled network runs in, read back."""
    if wanted == "int8":
        return wanted
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}.get(hint, hint)


def _index(compiled: Any, name: str) -> int:
    """Index of the output called `name`; "" is the first."""
    names = [o.get_names() or {f"output {i}"} for i, o in enumerate(compiled.outputs)]
    return next((i for i, own in enumerate(names) if name in own), 0)


def _last_line(error: RuntimeError) -> str:
    """OpenVINO's message, which follows the places in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
