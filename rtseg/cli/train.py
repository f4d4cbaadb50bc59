"""The verb `train`: settings from flags and files, and the report on stderr."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from rtseg.cli.process import Stop, leave
from rtseg.cli.report import DownloadProgress, Progress, length, say
from rtseg.cli.train_flags import CHANGEABLE, TrainFlags
from rtseg.errors import UsageError, counted
from rtseg.stats import Clock
from rtseg.train import Callback, Row, RunFolder, Settings, is_main, require_extra
from rtseg.train.settings import flag, read_toml

if TYPE_CHECKING:
    from rtseg.train.program import Result

FIRST_LINE_SECONDS = 10.0


def train(flags: TrainFlags, stop: Stop) -> int:
    """Train; returns 0, or the exit code of the signal that ended it.

    Raises:
        RtsegError: as `rtseg.train.program.train`.
    """
    settings = settings_of(flags)
    require_extra()
    if is_main() and not flags.run.resume:  # before torch and Lightning are imported
        RunFolder(Path(settings.out).expanduser()).check_free(overwrite=flags.run.overwrite)
    with TrainProgress(stop, quiet=flags.run.quiet) as progress:
        from rtseg.train import program

        result = program.train(
            settings,
            callback=progress,
            stop=stop,
            resume=flags.run.resume,
            overwrite=flags.run.overwrite,
        )
    if not result.is_main:
        # With several processes, library threads can abort one as its interpreter ends; Lightning
        # would then kill the main process, which is still measuring.
        leave(stop.exit_code)
    if not flags.run.quiet:
        report(result)
    return stop.exit_code


def settings_of(flags: TrainFlags) -> Settings:
    """The settings of the command line, over those of a file or of the resumed run.

    Raises:
        UsageError: a setting has a wrong value, or the run cannot be resumed with it.
    """
    given, run = flags.given(), flags.run
    if run.resume and run.overwrite:
        raise UsageError("--resume and -y exclude each other", do="Give one of them")
    if not run.resume:
        return Settings.of({**(read_toml(Path(run.config)) if run.config else {}), **given})
    if run.config:
        raise UsageError("--resume and --config exclude each other", do="Give one of them")
    out = given.setdefault("out", Settings.out)
    earlier = RunFolder(Path(out).expanduser()).read_settings()
    before, now = Settings.of(earlier), Settings.of({**earlier, **given})
    for name in (field.name for field in fields(Settings) if field.name not in CHANGEABLE):
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
        """Print a line."""
        if not self._quiet:
            self._progress.clear()
            say(heading, text)

    def on_problem(self, text: str) -> None:
        """Print a line, even with --quiet."""
        self._progress.clear()
        say("problem", text)

    def on_check(self, done: int, total: int) -> None:
        """Update the progress; raises Interrupted after a signal: nothing has been written yet."""
        self._stop.check()
        self._progress.update(done, total, unit="labelled images", heading="checking")

    def on_download(self, title: str, done: int, total: int) -> None:
        """As `DownloadProgress`."""
        self._progress.clear()
        self._download(title, done, total)

    def on_step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """Update the progress."""
        self._progress.update(
            step, steps, f"loss {loss:.4f}", unit=f"steps of epoch {epoch}", heading="training"
        )

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
