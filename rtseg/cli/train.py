"""The verb `train`: settings from flags and files, and the report on stderr."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from rtseg.cli.flags import of_class, with_config
from rtseg.cli.options import TRAIN, TrainRun
from rtseg.cli.process import Stop, leave
from rtseg.cli.report import DownloadProgress, Progress, length, say
from rtseg.errors import UsageError
from rtseg.labels import palette_file
from rtseg.options import flag
from rtseg.stats import Clock
from rtseg.text import counted, user_path
from rtseg.training import TrainOptions, is_main, require_extra
from rtseg.training.folder import Callback, Row, RunFolder

if TYPE_CHECKING:
    from rtseg.training.program import Result

FIRST_LINE_SECONDS = 10.0

CHANGEABLE = {
    *("epochs", "max_steps", "patience", "save_every"),
    *("out", "export", "logger", "device", "workers"),
}
"""Options that a run may be resumed with."""


def train(given: dict[str, Any], stop: Stop) -> int:
    """Train; returns 0, or the exit code of the signal that ended it.

    Raises:
        RtsegError: as `rtseg.training.program.train`.
    """
    trained(given, stop)
    return stop.exit_code


def trained(given: dict[str, Any], stop: Stop) -> Result:
    """Train and report the result.

    Raises:
        RtsegError: as `rtseg.training.program.train`.
    """
    given = with_config(TRAIN, given)
    run = TrainRun(**of_class(TrainRun, given))
    options = options_of(given, run)
    require_extra()
    if is_main() and not run.resume:  # before torch and Lightning are imported
        RunFolder(user_path(options.out)).check_free(overwrite=run.overwrite)
    with TrainProgress(stop, quiet=run.quiet) as progress:
        from rtseg.training import program

        result = program.train(
            options,
            callback=progress,
            stop=stop,
            resume=run.resume,
            overwrite=run.overwrite,
        )
    if not result.is_main:
        # With several processes, library threads can abort one as its interpreter ends; Lightning
        # would then kill the main process, which is still measuring.
        leave(stop.exit_code)
    if not run.quiet:
        report(result)
    if options.export == "onnx" and result.best is not None and not result.stopped:
        _export(result, stop, quiet=run.quiet)
    return result


def _export(result: Result, stop: Stop, *, quiet: bool) -> None:
    from rtseg.cli.export import ExportProgress, describe_parity
    from rtseg.training.program import export_best

    with ExportProgress(stop, quiet=quiet) as progress:
        exported = export_best(result, progress)
    if not quiet:
        say("parity", describe_parity(exported))
        say("wrote", str(exported.path))


def options_of(given: dict[str, Any], run: TrainRun) -> TrainOptions:
    """The options of the command line, over those of a file or of the resumed run.

    Raises:
        UsageError: an option has a wrong value, or the run cannot be resumed with it.
    """
    for other in ("overwrite", "config"):
        if run.resume and getattr(run, other):
            raise UsageError(f"--resume with --{other}", do="Use only one of them")
    asked = of_class(TrainOptions, given)
    if "dataset" in asked:  # so that the run can be resumed from another folder
        asked["dataset"] = str(user_path(asked["dataset"]).absolute())
    file = palette_file(asked.get("palette") or "names")
    if file is not None and file.is_file():
        asked["palette"] = str(file.absolute())
    if not run.resume:
        return TrainOptions(**asked)
    out = asked.setdefault("out", TrainOptions.out)
    before = RunFolder(user_path(out)).read_options()
    now = replace(before, **asked)
    for name in (one.name for one in fields(TrainOptions) if one.name not in CHANGEABLE):
        if getattr(before, name) != getattr(now, name):
            raise UsageError(
                f"cannot resume {out} with {flag(name)} {getattr(now, name)}",
                found=f"the run has {getattr(before, name)}",
                do="Only " + ", ".join(map(flag, sorted(CHANGEABLE - {"out"}))) + " can change",
            )
    return now


class TrainProgress(Callback):
    """Reports training on stderr, with a progress bar on a terminal."""

    def __init__(self, stop: Stop, *, quiet: bool, clock: Clock | None = None) -> None:
        self._stop, self._quiet = stop, quiet
        self._progress = Progress(quiet=quiet, first_line=FIRST_LINE_SECONDS, clock=clock)
        self._download = DownloadProgress(stop, quiet=quiet)

    def note(self, heading: str, text: str) -> None:
        """Print a line; with --quiet, warnings only."""
        if heading == "warning" or not self._quiet:
            self._progress.clear()
            say(heading, text)

    def on_problem(self, text: str) -> None:
        """Print a line, even with --quiet."""
        self._progress.clear()
        say("problem", text)

    def on_clip(self, clip: str, done: int, total: int) -> None:
        """Update the progress; raises Interrupted after a signal."""
        self._stop.check()
        self._progress.update(done, total, unit=f"frames of {clip}", heading="reading")

    def on_check(self, done: int, total: int) -> None:
        """Update the progress; raises Interrupted after a signal: nothing has been written yet."""
        self._stop.check()
        self._progress.update(done, total, unit="labelled images", heading="checking")

    def on_teach(self, done: int, total: int) -> None:
        """Update the progress; raises Interrupted after a signal, and what was computed is kept."""
        self._stop.check()
        self._progress.update(done, total, unit="images seen by teachers", heading="teaching")

    def on_download(self, title: str, done: int, total: int) -> None:
        """As `DownloadProgress`."""
        self._progress.clear()
        self._download(title, done, total)

    def on_step(self, epoch: int, step: int, steps: int, loss: float, seconds_left: float) -> None:
        """Update the progress."""
        text = f"loss {loss:.4f}, {length(seconds_left)} left in all"
        self._progress.update(step, steps, text, unit=f"steps of epoch {epoch}", heading="training")

    def on_epoch(self, row: Row) -> None:
        """Print a line for the epoch."""
        self.note("epoch", describe_row(row))

    def on_test(self, done: int, total: int) -> None:
        """Update the progress."""
        self._progress.update(done, total, unit="images of the test split", heading="testing")

    def __enter__(self) -> TrainProgress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.clear()


def describe_row(row: Row) -> str:
    """An epoch in one line."""
    parts = [
        f"{row.epoch}: loss {row.train_loss:.4f}",
        f"validation loss {row.val_loss:.4f}",
        f"mIoU {row.miou:.4f}",
        f"mean accuracy {row.mean_accuracy:.4f}",
        f"pixel accuracy {row.pixel_accuracy:.4f}",
        length(row.seconds),
    ]
    return ", ".join(parts) + (" (best)" if row.best else "")


def report(result: Result) -> None:
    """Report the result, and how to use it."""
    folder, best = result.folder, result.best
    if result.early and not result.stopped:
        say("stopped", "early: no improvement (--patience)")
    if best is not None:
        figures = f"validation loss {best.val_loss:.4f}, mIoU {best.miou:.4f}"
        if result.monitor not in ("loss", "miou"):
            figures += f", {result.monitor} {best.figure(result.monitor, result.classes):.4f}"
        say("done", f"{counted(len(result.rows), 'epoch')}; best is {best.epoch}: {figures}")
    if result.test is not None:
        test = result.test
        say(
            "test",
            f"{counted(test.pictures, 'image')} not used in training, at their own size: mIoU "
            f"{test.miou:.4f}, mean accuracy {test.mean_accuracy:.4f}, pixel accuracy "
            f"{test.pixel_accuracy:.4f}",
        )
    say("wrote", f"{folder.path}/: {', '.join(file.name for file in folder.written())}")
    if result.stopped:
        say("resume", f"rtseg train --out {folder.path} --resume")
    if best is not None:
        say("try", f"rtseg --camera 0 -m {folder.best}")
