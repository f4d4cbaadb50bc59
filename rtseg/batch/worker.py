"""One worker: runs clip after clip as `rtseg run` would, with networks that stay loaded."""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from rtseg.addresses import without_secrets
from rtseg.backends.base import fit_size
from rtseg.batch.bucket import Bucket, scheme_of
from rtseg.batch.tasks import OnEvent, Outcome, Task, one_run
from rtseg.cli.options import Flags
from rtseg.cli.plan import Plan, make_plan
from rtseg.cli.process import Stop, refused
from rtseg.cli.run import load_segmenter, run_plan
from rtseg.contracts import SourceInfo
from rtseg.errors import BackendError, DeviceError, RtsegError, SourceError
from rtseg.segmenter import Segmenter
from rtseg.stats import Stats

KEPT_LOADED = 4
"""Networks at once, one for each input size; the one that was used longest ago is closed."""

REPORT_SECONDS = 0.5
"""Between two reports of the frames that are done."""


class Worker:
    """Runs clips, one after another.

    Args:
        flags: of the run, without inputs and outputs.
        on_event: called with what happens.

    Attributes:
        hung: a thread never came back from its driver: the process is to be replaced.
    """

    def __init__(self, flags: Flags, on_event: OnEvent) -> None:
        self._flags, self._on_event = flags, on_event
        self.hung = False
        self._networks = Networks(lambda: on_event("loaded", None))

    def run(self, task: Task) -> Outcome:
        """Do a task, and record it; never raises for what is wrong with the clip.

        Raises:
            RtsegError: the record cannot be written.
        """
        since = time.monotonic()
        error: Exception | None = None
        report: dict[str, Any] = {}
        work = Path(task.work)
        begun = False
        try:
            work.mkdir(parents=True)
            begun = True
            report = self._segment(task, work)
        except Exception as failure:
            error = failure
        if error is not None and begun and not work.is_dir():
            return Outcome(None)  # a later batch has removed it, as this one's parent is gone
        if isinstance(error, (BackendError, DeviceError)):
            self._networks.close()  # what failed once is loaded anew
        try:
            return self._record(task, report, error, time.monotonic() - since)
        except OSError as failure:
            words = f"cannot record {task.clip.name}"
            raise RtsegError(words, found=refused(failure) or str(failure)) from failure
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _segment(self, task: Task, work: Path) -> dict[str, Any]:
        """Write the outputs into the folder `work`; returns the figures of the run."""
        metrics = work / "metrics.json"
        outputs = [str(_unfinished(work, *each)) for each in enumerate(task.clip.outputs)]
        source = task.clip.source
        if scheme_of(source):
            source = str(_fetched(work, source))
            (work / "clip").mkdir()
            try:
                Bucket(task.clip.source).fetch(task.clip.source, Path(source))
            except OSError as failure:
                found = "there is none" if isinstance(failure, FileNotFoundError) else str(failure)
                raise SourceError(f"cannot read {task.clip.source}", found=found) from failure
        flags = one_run(self._flags, source, task.roles, outputs)
        flags = replace(flags, run=replace(flags.run, metrics=str(metrics)))
        self._networks.failed = False

        def progress(info: SourceInfo, stats: Stats, **_: Any) -> Ticking:
            return Ticking(info, stats, self._on_event)

        stop = Stop()
        try:
            run_plan(flags, make_plan(flags), stop, load=self._networks, progress=progress)
        finally:
            self.hung = self.hung or stop.hung
        report: dict[str, Any] = json.loads(metrics.read_text("utf-8"))
        return report

    def _record(
        self, task: Task, report: dict[str, Any], error: Exception | None, seconds: float
    ) -> Outcome:
        """Give the outputs their names, and write down what became of the clip."""
        ledger, clip = task.ledger, task.clip
        if not ledger.holds(task.claim):
            return Outcome(None)
        facts = {"attempts": task.attempt, "seconds": round(seconds, 3)}
        if error is None:
            ledger.write(clip, ledger.new(clip, "started", **facts))
            try:
                for number, output in enumerate(clip.outputs):
                    ledger.put(_unfinished(Path(task.work), number, output), output)
            except OSError as failure:
                error = failure
        if error is None:
            record = ledger.new(clip, "done", report=report, **facts)
        else:
            code = error.exit_code if isinstance(error, RtsegError) else 1
            record = ledger.new(
                clip, "failed", error=self._words(task, error), exit_code=code, **facts
            )
        ledger.write(clip, record)
        loading = error is not None and self._networks.failed
        return Outcome(record, loading=loading, full=_is_full(error))

    def _words(self, task: Task, error: Exception) -> str:
        """An error in one line, with the names that outputs would have had."""
        if isinstance(error, RtsegError):
            text = str(error)
        else:
            text = refused(error) or f"internal error: {type(error).__name__}: {error}"
        work, source = Path(task.work), task.clip.source
        text = text.replace(str(_fetched(work, source)), source)
        for number, output in enumerate(task.clip.outputs):
            text = text.replace(str(_unfinished(work, number, output)), output)
        return without_secrets(" ".join(text.split()))


def _is_full(error: BaseException | None) -> bool:
    """Whether an error comes of a full disk."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _unfinished(work: Path, number: int, output: str) -> Path:
    """Where an output is until it is finished; in a folder that exists from then on. Its name is
    not the clip's, which may look like a pattern."""
    folder = work / str(number)
    with suppress(FileExistsError):
        folder.mkdir()
    return folder / f"output{PurePosixPath(output).suffix}"


def _fetched(work: Path, source: str) -> Path:
    """Where a clip of a bucket is while it is read, under its own name, which outputs may show."""
    return work / "clip" / source.rpartition("/")[2]


class Networks:
    """Stands for `load_segmenter`, and keeps what it loaded: `rtseg run` would load the same for
    frames that need the same input size.

    Attributes:
        failed: whether loading failed since this was set to False.
    """

    def __init__(self, on_loaded: Any) -> None:
        self._on_loaded = on_loaded
        self._loaded: OrderedDict[tuple[Any, ...], Segmenter] = OrderedDict()
        self.failed = False

    def __call__(
        self, flags: Flags, plan: Plan, info: SourceInfo, stop: Stop, **how: Any
    ) -> AbstractContextManager[Segmenter]:
        """A network that is not closed at the end of the `with`."""
        key = self._key(plan, info)
        if key not in self._loaded:
            self.failed = True
            segmenter = load_segmenter(flags, plan, info, stop, **how)
            self.failed = False
            while len(self._loaded) >= KEPT_LOADED:
                self._loaded.popitem(last=False)[1].close()
            key = self._key(plan, info, segmenter)
            self._loaded[key] = segmenter
        self._loaded.move_to_end(key)
        self._on_loaded()
        return nullcontext(self._loaded[key])

    def close(self) -> None:
        """Close them; the next clip loads its own again."""
        while self._loaded:
            self._loaded.popitem()[1].close()

    def _key(self, plan: Plan, info: SourceInfo, loaded: Segmenter | None = None) -> Any:
        """What of a clip decides how the network is loaded."""
        known = loaded or next(iter(self._loaded.values()), None)
        height, width = plan.network.window or (info.height, info.width)
        size: Any = plan.network.imgsz
        if size is None and known is not None:
            size = fit_size(known.backend.spec, width, height)
        return size, info.frame_count == 1


class Ticking:
    """Takes the place of `RunProgress`: reports the frames that are done."""

    def __init__(self, info: SourceInfo, stats: Stats, on_event: OnEvent) -> None:
        self._info, self._stats, self._on_event = info, stats, on_event
        self._next = 0.0

    def tick(self) -> None:
        """Report if it is time."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + REPORT_SECONDS
            self._on_event("frames", (self._stats.shown, self._info.frame_count or 0))

    def __enter__(self) -> Ticking:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Nothing to remove."""
