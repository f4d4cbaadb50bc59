"""The verb `batch`: list the clips, hand them to workers, remember each, and report."""

from __future__ import annotations

import csv
import io
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rtseg._version import __version__
from rtseg.addresses import clean_values, public_name
from rtseg.batch.bucket import scheme_of
from rtseg.batch.clips import STATE, Clip, Target, find_clips, target_of, with_outputs
from rtseg.batch.ledger import Ledger, Record, is_gone, is_token, open_ledger
from rtseg.batch.options import ENGINES
from rtseg.batch.tasks import Event, Outcome, Pool, Task, one_run
from rtseg.cache import cache_dir, sha256
from rtseg.cli.options import BatchFlags, Flags
from rtseg.cli.plan import FLAGS, Plan, make_plan
from rtseg.cli.process import Stop
from rtseg.cli.report import (
    DownloadProgress,
    Progress,
    length,
    print_table,
    say,
    unused,
    write_json,
)
from rtseg.errors import RtsegError, SourceError, UsageError
from rtseg.files import check_file, reason, write_file
from rtseg.nets import default_model, find_model
from rtseg.nets.ir import digest_of
from rtseg.options import imported
from rtseg.outputs import Output, check_apart, is_file, read_by
from rtseg.text import counted, listed, user_path

POLL_SECONDS = 0.1
BEATS = 5
"""Signs of life in a lease."""

LONGEST_WAIT = 5.0
"""Seconds between looks at the clips that others work on."""

ATTEMPTS = 2
"""Workers that may die with one clip."""

MOST_DEATHS = 3
"""Workers that may die one after the other before any has loaded its network."""

MOST_NAMED = 5


def batch(flags: BatchFlags, stop: Stop) -> int:
    """Do what is left to do of every clip.

    Returns:
        0; the code of the signal that ended it; 3 if clips could not be read, 1 if others failed.

    Raises:
        UsageError: flags that make no sense, or an output that was not made by a batch.
        SourceError: there are no clips.
        RtsegError: the network cannot be loaded, or outputs cannot be recorded.
    """
    options, run = flags.batch, flags.run
    if run.quiet and options.verbose:
        raise UsageError("--quiet with --verbose", do="Use only one of them")
    if options.report is not None:
        _check_report(options.report, flags)
    targets = _targets(flags)
    alone = _alone(flags)
    plan = _check(alone, targets)
    if not run.quiet:
        for note in unused(alone, plan, replace(plan, source="clip.png")):
            say("note", note)
    listing = stop.attend(lambda: find_clips(_inputs(flags), [t.folder for t in targets]))
    with_outputs(listing, targets)
    if listing.left_out and not run.quiet:
        what = counted(len(listing.left_out), "file is", "files are")
        names = listed([Path(name).name for name in listing.left_out], 3)
        say("note", f"{what} neither video nor image, and left out: {names}")
    settings = stop.attend(lambda: _settings(alone, targets, stop))
    ledger = open_ledger(targets[0].folder, settings, options.lease)
    with _in_words(targets[0].folder):
        todo = stop.attend(lambda: sort_out(listing.clips, ledger, flags))
        if options.dry_run:
            _print_plan(todo)
            return 0
        engine = ENGINES[options.engine]
        count = options.workers or imported(engine.count)(alone, options)
        with Progress(quiet=run.quiet) as progress:
            if todo.left and (claim := ledger.rival()):
                raise _rival(flags, f"it has claimed {claim.rpartition('.claim-')[0]}")
            spread = Spread(todo, ledger, targets, flags, stop, progress)
            if todo.left:
                pool: Pool = imported(engine.open)(alone, options, min(count, todo.left))
                try:
                    spread.run(pool, min(count, todo.left))
                finally:
                    pool.close()
                    spread.tidy()
        if not todo.left:
            ledger.sweep(todo.clips)
        _report(todo, ledger, flags, stop)
    return stop.exit_code or todo.exit_code


def _rival(flags: BatchFlags, how: str) -> UsageError:
    """Each of the two would replace the other's outputs."""
    return UsageError(
        f"the outputs of {flags.batch.output[0] if flags.batch.output else 'this batch'}",
        found=f"a batch with other flags is writing them: {how}",
        do="Wait until it has ended, or use another folder",
    )


@contextmanager
def _in_words(folder: str) -> Iterator[None]:
    """Raise what the file system refuses as an error of the batch."""
    try:
        yield
    except OSError as error:
        words = f"cannot keep records in {public_name(folder)}"
        raise RtsegError(words, found=reason(error).lower()) from error


# --- what is asked for ---------------------------------------------------------------------------


def _inputs(flags: BatchFlags) -> tuple[str, ...]:
    if not flags.batch.input:
        raise UsageError("no clips given", do="Try rtseg batch FOLDER -o OUTPUT")
    return flags.batch.input


def _targets(flags: BatchFlags) -> list[Target]:
    """The outputs of each clip, `-o` first."""
    batch = flags.batch
    roles = {"mask": batch.mask_output, "json": batch.json, "figure": batch.figure}
    named = [target_of("-o", text) for text in batch.output]
    named += [
        target_of(FLAGS[f"{role}:"], f"{role}:{text}")
        for role, text in roles.items()
        if text is not None
    ]
    if not named:
        raise UsageError("no output given", do="Name a folder, as -o out/")
    return named


def _alone(flags: BatchFlags) -> Flags:
    """The flags of one run, without inputs and outputs."""
    parts = flags.source, flags.network, flags.view, flags.sink, flags.temporal, flags.run
    return Flags(*parts, given=flags.given)


def _check(alone: Flags, targets: Sequence[Target]) -> Plan:
    """The plan of a clip, which refuses what `rtseg run` would for every clip; raises as
    `make_plan`."""
    with TemporaryDirectory() as folder:
        examples = [Path(target.of("clip", still=False)).suffix for target in targets]
        outputs = [str(Path(folder) / f"{n}{suffix}") for n, suffix in enumerate(examples)]
        return make_plan(one_run(alone, "clip.mp4", [target.role for target in targets], outputs))


def _check_report(report: str, flags: BatchFlags) -> None:
    """Refuse a report that cannot be written, or would replace what the batch reads."""
    check_file(Path(report), True)
    read = {
        "--model": flags.network.model,
        "--weights": flags.network.weights,
        "--labels": flags.network.labels,
        "--palette": flags.network.palette,
        "--background": flags.view.background,
        "--config": flags.run.config,
    }
    check_apart([Output.file(f"--report {report}", Path(report))], read_by(read))


def _settings(alone: Flags, targets: Sequence[Target], stop: Stop) -> dict[str, Any]:
    """All that the outputs depend on beside the clip: version, network, flags, files they name."""
    network = alone.network
    model = find_model(
        network.model or default_model(),
        weights=network.weights,
        input_flags=network.foreign,
        progress=DownloadProgress(stop, quiet=alone.run.quiet),
    )
    named = {
        "--background": alone.view.background,
        "--labels": network.labels,
        "--palette": network.palette,
    }
    files = {flag: sha256(user_path(v)) for flag, v in named.items() if v and is_file(v)}
    parts = {
        "source": asdict(alone.source),
        "network": {**asdict(network), "threads": None, "lanes": 1, "weights": None},
        "view": asdict(alone.view),
        "sink": {**asdict(alone.sink), "overwrite": False},
        "temporal": asdict(alone.temporal),
        "half": alone.run.half,
        "no_smooth": alone.run.no_smooth,
    }
    return {
        "rtseg": __version__,
        "model": [model.spec.to_json(), digest_of(model.file) if model.file else model.format],
        "flags": parts,
        "files": files,
        "outputs": [[target.role, target.form, target.suffix] for target in targets],
    }


# --- what is there already -----------------------------------------------------------------------


@dataclass
class Todo:
    """Every clip, by what is known of it.

    Attributes:
        waiting: to be done, in order.
        why: of these clips, by name: "new", "changed", "retried", "unfinished".
        others: of records that these clips had before this batch, `settings` that are not its own.
        done, failed: names; `codes` are the exit codes of those that failed.
        before: how many of these were so before this batch began.
        frames: written by this batch.
    """

    clips: Sequence[Clip]
    waiting: deque[Clip] = field(default_factory=deque)
    why: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    failed: dict[str, int] = field(default_factory=dict)
    before: int = 0
    frames: int = 0

    @property
    def left(self) -> int:
        """Clips that are neither done nor failed."""
        return len(self.clips) - len(self.done) - len(self.failed)

    @property
    def exit_code(self) -> int:
        """3 if every failure is of a clip that cannot be read, else 1; 0 without failures."""
        codes = set(self.failed.values())
        return 0 if not codes else SourceError.exit_code if codes == {SourceError.exit_code} else 1


def sort_out(clips: Sequence[Clip], ledger: Ledger, flags: BatchFlags) -> Todo:
    """What is to be done, from the records of all clips.

    Raises:
        UsageError: an output is there that no batch has made of its clip.
    """
    todo = Todo(clips)
    foreign = []
    for clip, record in zip(clips, ledger.read_all(clips), strict=True):
        if ledger.is_done(clip, record):
            todo.done.add(clip.name)
            continue
        if record is not None and record.state == "failed" and ledger.is_current(clip, record):
            if not flags.batch.retry_failed:
                todo.failed[clip.name] = record.exit_code
                continue
            why = "retried"
        elif record is None:
            why = "new"
        else:
            why = "changed" if record.state != "started" else "unfinished"
            todo.others[clip.name] = record.settings
        if not flags.sink.overwrite and (output := ledger.foreign(clip, record)):
            foreign.append(output)
        todo.why[clip.name] = why
        todo.waiting.append(clip)
    if foreign:
        more = f" and {counted(len(foreign) - 1, 'more output')}" if len(foreign) > 1 else ""
        raise UsageError(
            f"{public_name(foreign[0])}{more} exists",
            found="it was not made of this clip by rtseg batch",
            do="Use another folder, or pass -y to overwrite",
        )
    todo.before = len(todo.done) + len(todo.failed)
    return todo


def _print_plan(todo: Todo) -> None:
    """What would be done, as a table."""
    states = dict.fromkeys(todo.failed, "failed before") | dict.fromkeys(todo.done, "done")
    rows = [
        [
            states.get(clip.name) or f"to do ({todo.why[clip.name]})",
            public_name(clip.source),
            ", ".join(map(public_name, clip.outputs)),
        ]
        for clip in todo.clips
    ]
    print_table(("state", "clip", "outputs"), rows)
    say("batch", _summary(todo))


def _summary(todo: Todo) -> str:
    parts = [counted(len(todo.clips), "clip"), f"{len(todo.done)} done", f"{todo.left} to do"]
    if todo.failed:
        parts.append(f"{len(todo.failed)} failed before (--retry-failed)")
    return ", ".join(parts)


# --- the work ------------------------------------------------------------------------------------


@dataclass
class _Job:
    """A task that a worker has.

    Attributes:
        frames: that are done of it, as it was last reported.
    """

    task: Task
    frames: int = 0


class Spread:
    """Hands the clips to the workers of a pool until nothing is left to do."""

    def __init__(
        self,
        todo: Todo,
        ledger: Ledger,
        targets: Sequence[Target],
        flags: BatchFlags,
        stop: Stop,
        progress: Progress,
    ) -> None:
        self._todo, self._ledger, self._flags, self._stop = todo, ledger, flags, stop
        self._progress = progress
        self._roles = tuple(target.role for target in targets)
        self._work = workspace(targets[0].folder)
        self._mine = self._work / ledger.token
        self._jobs: dict[int, _Job] = {}
        self._elsewhere: deque[Clip] = deque()
        self._again: deque[tuple[Clip, str]] = deque()
        self._loaded = False
        self._deaths = 0
        self._tasks = 0
        self._begun = time.monotonic()
        self._next_beat = self._next_look = 0.0

    def run(self, pool: Pool, workers: int) -> None:
        """Do it.

        Raises:
            RtsegError: no worker can load the network.
        """
        self._mine.mkdir(parents=True, exist_ok=True)
        sweep_work(self._mine, self._flags.batch.lease)
        if not self._flags.run.quiet:
            words = f"{counted(workers, 'worker')}, {self._flags.batch.engine}"
            say("batch", f"{_summary(self._todo)}; {words}")
        noted = False
        while True:
            if self._stop() and not noted and not self._flags.run.quiet:
                noted = True
                self._progress.clear()
                clips = counted(len(self._jobs), "clip")
                say("stopping", f"finishing {clips}; Ctrl-C again stops at once")
            # the first network is loaded alone: one that cannot be loaded fails once, and what
            # --backend auto measures is not disturbed
            for worker in range(workers if self._loaded else 1):
                if worker not in self._jobs and not self._stop():
                    self._give(pool, worker)
            if not self._jobs and (self._stop() or not self._open()):
                return
            for event in pool.poll(POLL_SECONDS):
                self._take(event)
            self._beat()
            self._draw()

    def tidy(self) -> None:
        """Give up what is not finished, and remove what is left of it."""
        for job in self._jobs.values():
            self._ledger.release(job.task.claim)
        for _, claim in self._again:
            self._ledger.release(claim)
        _remove(self._mine)
        with suppress(OSError):
            self._work.rmdir()  # of the last process that used it

    def _open(self) -> bool:
        """Whether clips are left, here or with others."""
        return bool(self._again or self._todo.waiting or self._elsewhere)

    def _give(self, pool: Pool, worker: int) -> None:
        """Give a worker the next clip that can be claimed, if there is one."""
        attempt = 2
        if self._again:
            clip, claim = self._again.popleft()
        elif (found := self._claimed()) is not None:
            attempt, (clip, claim) = 1, found
        else:
            return
        self._tasks += 1
        work = str(self._mine / str(self._tasks))
        task = Task(clip, claim, work, self._roles, self._ledger, attempt)
        self._jobs[worker] = _Job(task)
        pool.give(worker, task)

    def _claimed(self) -> tuple[Clip, str] | None:
        """The next clip that is still to be done, claimed; None if there is none now."""
        while self._todo.waiting:
            clip = self._todo.waiting.popleft()
            if (claim := self._try(clip)) is not None:
                return clip, claim
        now = time.monotonic()
        if now < self._next_look:
            return None
        self._next_look = now + min(LONGEST_WAIT, self._flags.batch.lease / BEATS)
        for _ in range(len(self._elsewhere)):
            clip = self._elsewhere.popleft()
            if (claim := self._try(clip)) is not None:
                return clip, claim
        return None

    def _try(self, clip: Clip) -> str | None:
        """Claim a clip; None if it is another's, or was finished by another since."""
        claim = self._ledger.claim(clip)
        record = self._ledger.read(clip)
        retried = self._todo.why[clip.name] == "retried" and claim is not None
        over = record is not None and (
            self._ledger.is_done(clip, record)
            or (record.state == "failed" and self._ledger.is_current(clip, record) and not retried)
        )
        if claim is not None and over:
            self._ledger.release(claim)
        if record is not None and record.settings not in (
            self._ledger.digest,
            self._todo.others.get(clip.name, ""),
        ):
            if claim is not None:
                self._ledger.release(claim)
            raise _rival(self._flags, f"{record.worker} has done {clip.name}")
        if over and record is not None:
            self._finish(clip, record, "another machine")
            return None
        if claim is None:
            self._elsewhere.append(clip)
        return claim

    def _take(self, event: Event) -> None:
        """Note what a worker reports."""
        job = self._jobs.get(event.worker)
        if event.kind == "loaded":
            self._loaded = True
            self._deaths = 0
        elif event.kind == "frames" and job is not None:
            job.frames = event.content[0]
        elif event.kind == "done" and job is not None:
            del self._jobs[event.worker]
            self._done(event.worker, job.task, event.content)
        elif event.kind == "died" and job is not None:
            del self._jobs[event.worker]
            self._died(job.task, event.content)

    def _done(self, worker: int, task: Task, outcome: Outcome) -> None:
        record = outcome.record
        if record is None:  # another machine took over
            self._elsewhere.append(task.clip)
            return
        self._ledger.release(task.claim)
        if outcome.full or (outcome.loading and not self._loaded):
            self._ledger.forget(task.clip)
            error = RtsegError(record.error)
            error.exit_code = record.exit_code
            raise error
        self._todo.frames += record.frames
        self._finish(task.clip, record, f"worker {worker + 1}")

    def _died(self, task: Task, how: str) -> None:
        """Do its clip once more; one with which two workers died has failed."""
        _remove(Path(task.work))
        self._deaths += 1
        if not self._loaded and self._deaths >= MOST_DEATHS:
            self._again.append((task.clip, task.claim))
            raise RtsegError(
                f"{self._deaths} workers died before they had loaded the network",
                found=how,
                do="Try the flags with rtseg run and one clip",
            )
        if task.attempt < ATTEMPTS or not self._loaded:
            self._again.append((task.clip, task.claim))
            return
        record = self._ledger.new(
            task.clip,
            "failed",
            error=f"{counted(task.attempt, 'worker')} died with it, the last one {how}",
            exit_code=1,
            attempts=task.attempt,
        )
        self._ledger.write(task.clip, record)
        self._ledger.release(task.claim)
        self._finish(task.clip, record, "")

    def _finish(self, clip: Clip, record: Record, who: str) -> None:
        """Count a clip, and print its line: with --verbose, or if it failed."""
        if record.state == "failed":
            self._todo.failed[clip.name] = record.exit_code
            self._progress.clear()
            say("failed", f"{clip.name}: {record.error}")
            return
        self._todo.done.add(clip.name)
        if self._flags.batch.verbose:
            self._progress.clear()
            fps = record.report.get("fps", 0.0)
            words = f"{counted(record.frames, 'frame')} in {length(record.seconds)}"
            say(who, f"{clip.name}: {words}, {fps:.1f} fps")

    def _beat(self) -> None:
        """Show others that this process lives."""
        now = time.monotonic()
        if now < self._next_beat:
            return
        self._next_beat = now + self._flags.batch.lease / BEATS
        with suppress(OSError):
            os.utime(self._mine)
        held = [job.task.claim for job in self._jobs.values()]
        self._ledger.beat([*held, *(claim for _, claim in self._again)])

    def _draw(self) -> None:
        if not self._progress.due:
            return
        todo = self._todo
        over = len(todo.clips) - todo.left
        seconds = time.monotonic() - self._begun
        frames = todo.frames + sum(job.frames for job in self._jobs.values())
        parts = [counted(frames, "frame"), f"{frames / max(seconds, 1e-3):.1f} fps"]
        if self._jobs and not self._loaded:
            parts = ["loading the network"]
        if (here := over - todo.before) and not self._progress.draws:
            parts.append(f"about {length(todo.left * seconds / here)} left")
        if todo.failed:
            parts.append(f"{len(todo.failed)} failed")
        if not self._jobs and self._elsewhere:
            parts.append(f"waiting for {counted(len(self._elsewhere), 'clip')} of other machines")
        self._progress.update(over, len(todo.clips), ", ".join(parts), unit="clips")


def workspace(folder: str) -> Path:
    """Where unfinished outputs lie: beside finished ones, so that a rename moves them; in the cache
    folder if those go to a bucket."""
    if scheme_of(folder):
        return cache_dir() / "batch"
    return Path(folder) / STATE / "unfinished"


def sweep_work(mine: Path, lease: float) -> None:
    """Remove what processes that are gone have left unfinished beside this one's new folder, whose
    age is nothing by the clock of the file server. Records of clips may lie there too."""
    now = mine.stat().st_mtime
    for place in filter(lambda each: is_token(each.name), mine.parent.iterdir()):
        with suppress(OSError):
            if is_gone(place.name) or now - place.stat().st_mtime > max(lease, 3600):
                _remove(place)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


# --- the report ----------------------------------------------------------------------------------


def _report(todo: Todo, ledger: Ledger, flags: BatchFlags, stop: Stop) -> None:
    """Print the result, and write the rows."""
    if not flags.run.quiet:
        parts = [f"{len(todo.done)} of {counted(len(todo.clips), 'clip')}"]
        parts += [f"{todo.frames} frames in this run"] if todo.frames else []
        parts += [f"{len(todo.failed)} failed"] if todo.failed else []
        parts += [f"{todo.left} left"] if todo.left else []
        say("done" if not todo.left else "stopped", ", ".join(parts))
        if todo.before and todo.failed and not flags.batch.retry_failed:
            names = listed(list(todo.failed), MOST_NAMED)
            say("note", f"what failed is tried again with --retry-failed: {names}")
    if flags.batch.report is not None:
        write_rows(flags.batch.report, [_row(clip, ledger) for clip in todo.clips])
        if not flags.run.quiet:
            say("report", flags.batch.report)


COLUMNS = (
    "clip",
    "state",
    "frames",
    "seconds",
    "fps",
    "attempts",
    "exit_code",
    "error",
    "worker",
    "backend",
    "device",
    "precision",
    "source",
    "outputs",
)
"""Of a report's rows."""


def _row(clip: Clip, ledger: Ledger) -> dict[str, Any]:
    record = ledger.read(clip)
    if record is None or not ledger.is_current(clip, record) or record.state == "started":
        facts: dict[str, Any] = {"state": "to do"}
    else:
        names = ("state", "frames", "seconds", "attempts", "exit_code", "error", "worker")
        facts = {name: getattr(record, name) for name in names}
        facts |= {n: record.report.get(n) for n in ("fps", "backend", "device", "precision")}
    place = {
        "clip": clip.name,
        "source": public_name(clip.source),
        "outputs": [public_name(output) for output in clip.outputs],
    }
    return dict.fromkeys(COLUMNS) | facts | place


def write_rows(path: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write a row for each clip as JSON or CSV, by the suffix.

    Raises:
        SinkError: it cannot be written.
    """
    if Path(path).suffix.lower() == ".json":
        write_json(path, {"clips": list(rows)})
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    for row in rows:
        writer.writerow(clean_values({**row, "outputs": " ".join(row["outputs"])}))
    content = text.getvalue().encode("utf-8", "backslashreplace")
    write_file(Path(path), content)  # a name that is not text keeps its bytes as escapes
