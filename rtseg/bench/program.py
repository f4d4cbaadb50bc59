"""Run a benchmark: load every combination in its process, then rounds of A B C A B C."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from rtseg.bench.clocks import Block, Limit
from rtseg.bench.options import BenchOptions
from rtseg.bench.record import Record, Row, keep_best, peak_place, peak_share, summarise
from rtseg.bench.worker import Combination, Loaded, Remote, RemoteObject, Stopped
from rtseg.effects import ViewOptions
from rtseg.errors import RtsegError
from rtseg.zoo import Model

SUBJECT = "rtseg.bench.worker:Subject"
YARDSTICK = "rtseg.bench.worker:Yardstick"


OpenRemote = Callable[[str, dict[str, Any]], RemoteObject]
OnStep = Callable[[int, int, str], None]
"""Called before each step as on_step(done, total, text)."""


class Entry:
    """A row of the record in progress, and its combination's process."""

    def __init__(self, combination: Combination) -> None:
        self.combination = combination
        self.row = new_row(combination)
        self.remote: RemoteObject | None = None
        self.failure: RtsegError | None = None
        self.blocks: dict[str, list[Block]] = defaultdict(list)

    @property
    def name(self) -> str:
        """Model and backend, for progress messages."""
        return f"{self.row.model} {self.row.runs_on}"


def new_row(combination: Combination) -> Row:
    """The empty row of a combination."""
    return Row(
        combination.name or combination.model.spec.name,
        {
            "backend": combination.backend,
            "precision": combination.precision,
            "device": combination.device,
        },
        combination.input_size,
        random_weights=combination.model.format == "random",
    )


def measure(
    combinations: Iterable[Combination],
    options: BenchOptions,
    record: Record,
    *,
    view: ViewOptions = ViewOptions(),  # noqa: B008 - frozen
    on_step: OnStep = lambda done, total, text: None,
    stop: Callable[[], bool] = lambda: False,
    open_remote: OpenRemote | None = None,
) -> RtsegError | None:
    """Append a row to the record for each combination, and fill them.

    A combination that cannot be loaded, or fails later, has the reason in its row; the others go
    on. If `stop` returns True, the record keeps what is done and is `partial`.

    Returns:
        The first error of a row, or None.
    """

    def opened(place: str, arguments: dict[str, Any]) -> RemoteObject:
        return Remote(place, arguments, stop=stop)

    entries = [Entry(combination) for combination in combinations]
    record.rows += [entry.row for entry in entries]
    with ExitStack() as stack:
        try:
            bench = _Bench(entries, options, view, record, open_remote or opened, on_step, stack)
            bench.load()
            bench.run_rounds()
            bench.take_processor_time()
            bench.score()
        except Stopped:
            record.partial = True
    return next((entry.failure for entry in entries if entry.failure is not None), None)


class _Bench:
    """The parts of a benchmark, in order."""

    def __init__(
        self,
        entries: Sequence[Entry],
        options: BenchOptions,
        view: ViewOptions,
        record: Record,
        open_remote: OpenRemote,
        on_step: OnStep,
        stack: ExitStack,
    ) -> None:
        self._entries, self._options, self._record = entries, options, record
        self._view, self._clip = view, options.input or ""
        self._open, self._on_step, self._stack = open_remote, on_step, stack
        folder = tempfile.TemporaryDirectory(prefix="rtseg-bench-")
        self._folder = Path(stack.enter_context(folder))
        self._references: dict[tuple[Model, tuple[int, int]], Path | None] = {}
        self._done = 0
        self._total = len(entries) * (1 + options.rounds * len(options.clocks))
        self._total += len(entries) if options.data else 0
        self._total += len(entries) if "loop" in options.clocks and options.encode else 0

    @cached_property
    def _yardstick(self) -> RemoteObject:
        return self._started(YARDSTICK, {})

    def load(self) -> None:
        """Load every combination and compare its masks with the reference."""
        for entry in self._entries:
            self._step(f"loading {entry.name}")
            self._attempt(entry, self._load)

    def run_rounds(self) -> None:
        """All rounds: in each, every clock, and for each clock every combination in turn."""
        for number in range(1, self._options.rounds + 1):
            for clock in self._options.clocks:
                for entry in self._entries:
                    self._step(f"round {number}, {clock}: {entry.name}")
                    self._attempt(entry, lambda entry: self._block(entry, clock))  # noqa: B023
                self._measure_peaks()
            for entry in self._entries:
                self._attempt(entry, self._end_round)

    def take_processor_time(self) -> None:
        """The processor time of each stage of the loop, if it encodes."""
        if not ("loop" in self._options.clocks and self._options.encode):
            return
        for entry in self._entries:
            self._step(f"processor time: {entry.name}")
            self._attempt(entry, self._processor)

    def score(self) -> None:
        """The mean IoU, which loads every model once more and therefore comes last."""
        if self._options.data is None:
            return
        for entry in self._entries:
            self._step(f"mean IoU: {entry.name}")
            if not entry.row.random_weights:
                self._attempt(entry, self._score)

    def _started(self, place: str, arguments: dict[str, Any]) -> RemoteObject:
        remote = self._open(place, arguments)
        self._stack.callback(remote.close)
        return remote

    def _step(self, text: str) -> None:
        self._on_step(self._done, self._total, text)
        self._done += 1

    def _attempt(self, entry: Entry, act: Callable[[Entry], None]) -> None:
        """Call `act` unless the entry has failed before; a failure goes into its row."""
        if entry.row.error:
            return
        try:
            act(entry)
        except RtsegError as error:
            entry.row.error, entry.failure = str(error), error
            if entry.remote is not None:
                entry.remote.close()

    def _load(self, entry: Entry) -> None:
        row = entry.row
        since = time.perf_counter()
        entry.remote = self._started(
            SUBJECT,
            {
                "combination": entry.combination,
                "clip": self._clip,
                "view": self._view,
                "encoded": self._options.encode,
                "folder": self._folder,
            },
        )
        started = time.perf_counter() - since
        loaded: Loaded = entry.remote.call("describe")
        row.ran, row.load_seconds = loaded.info, loaded.seconds
        row.first_seconds = entry.remote.call("first")
        row.cold_start_seconds = started + row.first_seconds
        model, size = entry.combination.model, entry.combination.input_size
        if model.format != "none":
            flops = self._yardstick.call("flops", model, size)
            row.gflop = None if flops is None else flops / 1e9
        if reference := self._reference(entry.combination):
            row.agreement = entry.remote.call("agreement", reference)

    def _reference(self, combination: Combination) -> Path | None:
        """The file of the reference masks, made at first use; None if torch cannot run it."""
        model, size = combination.model, combination.input_size
        if model.format not in ("torch", "random"):
            return None
        key = (model, size)
        if key not in self._references:
            path = self._folder / f"reference-{len(self._references)}.npy"
            self._yardstick.call("reference", model, size, self._clip, path)
            self._references[key] = path
        return self._references[key]

    def _block(self, entry: Entry, clock: str) -> None:
        assert entry.remote is not None
        limit = Limit(self._options.duration, self._options.frames)
        entry.blocks[clock].append(entry.remote.call("measure", clock, limit))
        entry.row.clocks[clock] = summarise(entry.blocks[clock])

    def _end_round(self, entry: Entry) -> None:
        assert entry.remote is not None
        entry.row.peak_memory_mb = entry.remote.call("memory")
        entry.row.peak_share = peak_share(entry.row, self._record.peaks)

    def _processor(self, entry: Entry) -> None:
        assert entry.remote is not None
        entry.row.processor_ms = entry.remote.call("processor")

    def _score(self, entry: Entry) -> None:
        assert entry.remote is not None
        data, most = self._options.data, self._options.max_pictures
        allowed = self._options.allow_outside
        entry.row.miou = entry.remote.call("mean_iou", Path(data or ""), most or 0, allowed)

    def _measure_peaks(self) -> None:
        """Measure the peak of each device in use once more; the best is kept."""
        threads = self._record.settings.get("threads")
        counted = [e.row for e in self._entries if e.row.gflop is not None and not e.row.error]
        for place in sorted(set(map(peak_place, counted))):
            product = self._yardstick.call("peak", *place, threads)
            copy = self._yardstick.call("copies", place[0], threads)
            if product is not None and copy is not None:
                found = {"gflops": product / 1e9, "copy_gb_s": copy / 1e9}
                keep_best(self._record.peaks, place, threads, **found)
