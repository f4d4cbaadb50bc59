"""Networks as files of their own, which prove themselves before they get their name."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from rtseg.backends.base import input_size_of
from rtseg.errors import ModelError, ThresholdError, UsageError
from rtseg.export.frames import Samples, Watch, parity_samples, quantising_samples
from rtseg.export.options import LEAST_AGREEMENT, ExportOptions
from rtseg.export.work import Exported, Work
from rtseg.files import OutputFile, cannot_write
from rtseg.zoo import Model

__all__ = ["LEAST_AGREEMENT", "ExportOptions", "Exported", "RejectedError", "export_network"]


class RejectedError(ThresholdError):
    """The file agrees with its original less than it must.

    Attributes:
        exported: all that was found; its path is None unless the file was kept.
    """

    def __init__(self, asked: str, exported: Exported, *, found: str, do: str = "") -> None:
        super().__init__(asked, found=found, do=do)
        self.exported = exported


def export_network(
    model: Model, path: Path, options: ExportOptions, watch: Watch = lambda *_: None
) -> Exported:
    """Write a network as an ONNX file that rtseg, or plain ONNX Runtime, runs without a setting.

    Input "image" (1, h, w, 3) uint8 RGB; output "logits" (1, C, h/s, w/s) float32 at the network's
    own stride; the normalisation inside, the `ModelSpec` in the metadata. It is compared with
    the original on real frames, always, and gets its name only if the masks agree.

    Raises:
        UsageError: the options make no sense, or the file exists.
        ModelError: the network cannot be exported so.
        RejectedError: the masks agree less than asked; nothing is left, or what `keep` left.
        SourceError: the frames cannot be read.
        SinkError: the file cannot be written.
    """
    _require_exportable(model, path, options)
    size = input_size_of(model.spec, options.size)
    with ExitStack() as stack:
        target = OutputFile(path, overwrite=options.overwrite)
        stack.callback(target.discard)
        samples = _samples(options, watch)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rtseg-")))
        try:
            exported = Work(model, size, options, folder, target.part, watch).do(samples)
        except OSError as error:
            raise cannot_write(path, error) from error
        if exported.parity.mean < options.threshold:
            raise _rejected(exported, target, options)
        target.commit()
    return replace(exported, path=path)


def _require_exportable(model: Model, path: Path, options: ExportOptions) -> None:
    if path.suffix != ".onnx":
        raise UsageError(f"cannot export to {path}", found="files are ONNX", do="End it in .onnx")
    if model.format == "none":
        raise ModelError(f"cannot export {model.spec.name}", found="it is no network")
    if model.format == "onnx" and options.opset is not None:
        raise UsageError(
            f"opset {options.opset} for {model.spec.name}",
            found="an ONNX file keeps its own",
            do="Convert it with onnx.version_converter first",
        )
    if model.file is not None and path.exists() and path.samefile(model.file):
        raise UsageError(f"{path} is the network itself", do="Give the output another name")


def _samples(options: ExportOptions, watch: Watch) -> Samples:
    if options.precision == "int8":
        return quantising_samples(options.samples, options.calibration, watch)
    return parity_samples(options.samples, watch)


def _rejected(exported: Exported, target: OutputFile, options: ExportOptions) -> RejectedError:
    """The error, once the file has got the name that `keep` gives it, if any."""
    rejected = None
    if options.keep:
        rejected = target.path.with_name(f"{target.path.stem}.rejected{target.path.suffix}")
        target.part.replace(rejected)
    parity = exported.parity
    return RejectedError(
        f"{options.precision} gives {parity.mean:.3%} of the pixels the class that "
        f"{exported.original} gives them, {parity.worst:.3%} in the worst frame",
        replace(exported, path=rejected),
        found=f"{options.threshold:.3%} was the least",
        do=f"The file is kept as {rejected}" if rejected else "No file was left",
    )
