"""The verb `train`: settings out of flags and files, and what is said on stderr."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from rtseg.cli.process import Stop, leave
from rtseg.cli.report import DownloadProgress, Progress, counted, length, say
from rtseg.cli.train_flags import CHANGEABLE, TrainFlags
from rtseg.errors import UsageError
from rtseg.stats import Clock
from rtseg.train import Row, RunFolder, Settings, Watch, leads, require_extra
from rtseg.train.settings import flag, read_toml

if TYPE_CHECKING:
    from rtseg.train.program import Result

FIRST_LINE_SECONDS = 10.0


def train(flags: TrainFlags, stop: Stop) -> int:
    """Do what the command line asked; returns 0, or the code of the signal that ended it.

    Raises:
        RtsegError: whatever failed first.
    """
    settings = settings_of(flags)
    require_extra()
    if leads() and not flags.run.resume:  # also before libraries are loaded, which takes a while
        RunFolder(Path(settings.out).expanduser()).check_free(overwrite=flags.run.overwrite)
    with TrainingShown(stop, quiet=flags.run.quiet) as shown:
        from rtseg.train import program

        result = program.train(
            settings,
            watch=shown,
            stop=stop,
            resume=flags.run.resume,
            overwrite=flags.run.overwrite,
        )
    if not result.leads:
        # Threads of its libraries can abort a process of several as its interpreter ends; Lightning
        # then kills the first one too, which still measures.
        leave(stop.exit_code)
    if not flags.run.quiet:
        report(result)
    return stop.exit_code


def settings_of(flags: TrainFlags) -> Settings:
    """The settings asked for: of the command line, over those of a file or of an earlier run.

    Raises:
        UsageError: they make no sense, or a run cannot be resumed with them.
    """
    given, run = flags.given(), flags.run
    if run.resume and run.overwrite:
        raise UsageError("--resume and -y contradict", do="Give one")
    if not run.resume:
        return Settings.of({**(read_toml(Path(run.config)) if run.config else {}), **given})
    if run.config:
        raise UsageError("--resume and --config contradict", do="Give one")
    out = given.setdefault("out", Settings.out)
    earlier = RunFolder(Path(out).expanduser()).read_settings()
    before, now = Settings.of(earlier), Settings.of({**earlier, **given})
    for name in (field.name for field in fields(Settings) if field.name not in CHANGEABLE):
        if getattr(before, name) != getattr(now, name):
            raise UsageError(
                f"cannot resume {out} with {flag(name)} {getattr(now, name)}",
                found=f"the run has {getattr(before, name)}",
                do="Only " + ", ".join(map(flag, sorted(CHANGEABLE - {"out"}))) + " may change",
            )
    return now


class TrainingShown(Watch):
    """How training goes, on stderr: a bar on a terminal, a line now and then in a log."""

    def __init__(self, stop: Stop, *, quiet: bool, clock: Clock | None = None) -> None:
        self._stop, self._quiet = stop, quiet
        self._progress = Progress(quiet=quiet, first_line=FIRST_LINE_SECONDS, clock=clock)
        self._download = DownloadProgress(stop, quiet=quiet)

    def note(self, heading: str, text: str) -> None:
        """A line."""
        if not self._quiet:
            self._progress.clear()
            say(heading, text)

    def wrong(self, text: str) -> None:
        """A line, also when quiet."""
        self._progress.clear()
        say("problem", text)

    def checked(self, done: int, total: int) -> None:
        """Raises Interrupted if a signal asked for the end: nothing has been written yet."""
        self._stop.check()
        self._show("checking", done, total, "labelled pictures")

    def fetched(self, title: str, done: int, total: int) -> None:
        """As `DownloadProgress`."""
        self._progress.clear()
        self._download(title, done, total)

    def stepped(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """Redraw, if it is time."""
        self._show("training", step, steps, f"steps of epoch {epoch}, loss {loss:.4f}")

    def validated(self, row: Row) -> None:
        """A line for the epoch."""
        self.note("epoch", describe_row(row))

    def tested(self, done: int, total: int) -> None:
        """Redraw, if it is time."""
        self._show("testing", done, total, "pictures of the test split")

    def _show(self, heading: str, done: int, total: int, text: str) -> None:
        self._progress.update(done, total, text, heading=heading)

    def __enter__(self) -> TrainingShown:
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
    """Say what came of the run, and what to do with it."""
    folder, best = result.folder, result.best
    if result.early and not result.stopped:
        say("stopped", "early: nothing became better any more (--patience)")
    if best is not None:
        figures = f"validation loss {best.val_loss:.4f}, mIoU {best.miou:.4f}"
        say("done", f"{counted(len(result.rows), 'epoch')}; best is {best.epoch}: {figures}")
    if result.test is not None:
        test = result.test
        say(
            "test",
            f"{counted(test.pictures, 'picture')} never trained on, at their own size: mIoU "
            f"{test.miou:.4f}, mean accuracy {test.mean_accuracy:.4f}, pixel accuracy "
            f"{test.pixel_accuracy:.4f}",
        )
    say("wrote", f"{folder.path}/: {', '.join(file.name for file in folder.written())}")
    if result.stopped:
        say("resume", f"rtseg train --out {folder.path} --resume")
    if best is not None:
        say("try", f"rtseg --camera 0 -m {folder.best}")
