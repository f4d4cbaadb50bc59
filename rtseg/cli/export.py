"""The verb `export`: write a model as an ONNX file, and report how it compares."""

from __future__ import annotations

from pathlib import Path

from rtseg.cli.options import ExportFlags
from rtseg.cli.process import Stop, out
from rtseg.cli.report import DownloadProgress, Progress, left_behind, say
from rtseg.errors import UsageError
from rtseg.exporting import ExportOptions
from rtseg.exporting.int8 import Attempt
from rtseg.exporting.program import Exported, RejectedError, export_network
from rtseg.nets import default_model, find_model
from rtseg.text import counted, listed
from rtseg.zoo import Model

LAYERS_SHOWN = 8
"""Float layers named in the report."""


def export_file(flags: ExportFlags, stop: Stop) -> int:
    """Export the model; figures go to stdout.

    Raises:
        RtsegError: as `exported`; the figures of a rejected file are printed first.
    """
    try:
        out("\n".join(exported(flags, stop).lines()))
    except RejectedError as error:
        out("\n".join(error.exported.lines()))
        raise
    return stop.exit_code


def exported(flags: ExportFlags, stop: Stop) -> Exported:
    """Export the model, and report how the file compares.

    Raises:
        RtsegError: as `export_network`.
    """
    options, network, quiet = flags.options, flags.network, flags.report.quiet
    if flags.report.output is None:
        raise UsageError("no output file", do="Name one with -o net.onnx")
    model = find_model(
        network.model or default_model(),
        weights=network.weights,
        progress=DownloadProgress(stop, quiet=quiet),
    )
    if not quiet:
        left_behind([Path(flags.report.output)])
    try:
        with ExportProgress(stop, quiet=quiet) as progress:
            done = export_network(model, Path(flags.report.output), options, progress)
    except RejectedError as error:
        if not quiet:
            _report(model, error.exported, options)
        raise
    if not quiet:
        _report(model, done, options)
    return done


class ExportProgress:
    """Progress of an export: a bar on a terminal, a line for each step in a log."""

    def __init__(self, stop: Stop, *, quiet: bool) -> None:
        self._stop, self._quiet, self._step = stop, quiet, ""
        self._progress = Progress(quiet=quiet)

    def __call__(self, step: str, done: int, total: int) -> None:
        """Show that `done` of `total` parts of the step are done; 0 is an unknown total.

        Raises:
            Interrupted: a signal asked for the end.
        """
        self._stop.check()
        if self._progress.draws:
            self._progress.update(done, total, heading=step, redraw=step != self._step)
        elif step != self._step and not self._quiet:
            say("export", step)
        self._step = step

    def __enter__(self) -> ExportProgress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.clear()


def _report(model: Model, exported: Exported, options: ExportOptions) -> None:
    batch = "N" if options.dynamic_batch else "1"
    height, width = exported.size
    say("model", f"{model.spec.name}, input {batch} x {height}x{width} (HxW)")
    for attempt in exported.attempts:
        say("int8", describe_attempt(attempt, exported.layers))
    if exported.attempts and (kept := exported.attempts[-1].kept):
        say("", f"float layers, most sensitive first: {listed(kept, LAYERS_SHOWN)}")
    say("parity", describe_parity(exported))
    for note in exported.notes:
        say("note", note)
    if exported.path is not None:
        say("wrote", str(exported.path))


def describe_attempt(attempt: Attempt, layers: int) -> str:
    """One line: "2 of 66 layers in float: 98.412% agree"."""
    return f"{len(attempt.kept)} of {layers} layers in float: {attempt.agreement:.3%} agree"


def describe_parity(exported: Exported) -> str:
    """One line on how the file compares with its original."""
    parity = exported.parity
    frames = counted(parity.frames, "frame")
    return (
        f"with {exported.original} on {frames} of {exported.samples}: scores differ "
        f"by at most {parity.largest:.2g}; {parity.mean:.3%} of the pixels have the same class, "
        f"{parity.worst:.3%} in the worst frame"
    )
