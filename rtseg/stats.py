"""Clocks, pacing, and the statistics of a run: counts and distributions of durations."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from rtseg.system import usable_cores

LATE_SECONDS = 0.05
"""A frame later than this delays all frames after it; a smaller delay is made up for."""

STAGES = (
    *("capture", "compare", "preprocess", "infer", "follow", "carry", "smooth"),
    *("decode", "draw", "wait", "write", "encode"),
)
"""The stages of a frame in order; each is timed where it runs.

"compare" detects an unchanged image, "follow" matches a frame to a keyframe, "carry" warps the
keyframe's scores to it, "smooth" averages scores over time. "wait" is the wait for a frame's time
in a paced run. "write" ends when every sink has the frame; a video file encodes it later in a
thread of its own, in "encode". The age of a frame includes neither "wait" nor "encode".
"""


class Clock:
    """The machine's monotonic clock, in seconds."""

    def now(self) -> float:
        """Monotonic seconds; only differences mean anything."""
        return time.perf_counter()

    def cpu_seconds(self) -> float:
        """Processor time of this process so far, over all threads."""
        return time.process_time()

    def sleep(self, seconds: float) -> None:
        """Return after at least `seconds`; at once for zero or less."""
        if seconds > 0:
            time.sleep(seconds)


class ManualClock(Clock):
    """A clock that advances only by `sleep`, or when `time` is set."""

    def __init__(self, now: float = 0.0) -> None:
        self.time = now

    def now(self) -> float:
        """The time in seconds."""
        return self.time

    def sleep(self, seconds: float) -> None:
        """Advance by `seconds` and return at once."""
        self.time += max(0.0, seconds)


class Pace:
    """When the frames of a recording are due, so that it plays at its own speed.

    The first frame is due at once. A frame later than `late` seconds restarts the schedule, so that
    no frames are rushed to catch up.
    """

    def __init__(self, clock: Clock, late: float = LATE_SECONDS) -> None:
        self._clock, self._late = clock, late
        self._zero: float | None = None

    def seconds_left(self, pts: float) -> float:
        """Seconds until the frame at `pts` is due; 0 if it is due already."""
        now = self._clock.now()
        if self._zero is None or now - (self._zero + pts) > self._late:
            self._zero = now - pts
        return max(0.0, self._zero + pts - now)


class Durations:
    """The distribution of durations in constant memory, accurate to 0.5 %.

    Buckets grow by 1 % from a microsecond to a quarter of an hour, as in an HDR histogram.
    """

    _FLOOR = 1e-6
    _STEP = math.log(1.01)
    _BUCKETS = math.ceil(math.log(1e9) / _STEP) + 1

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.max = 0.0
        self._counts = np.zeros(self._BUCKETS, np.int64)

    def add(self, seconds: float) -> None:
        """Count one duration."""
        bucket = int(math.log(max(seconds, self._FLOOR) / self._FLOOR) / self._STEP)
        self._counts[min(bucket, self._BUCKETS - 1)] += 1
        self.count += 1
        self.total += seconds
        self.max = max(self.max, seconds)

    def quantile(self, share: float) -> float:
        """The duration that a share (0..1) of them do not exceed; NaN if there are none."""
        if not self.count:
            return math.nan
        rank = max(1, math.ceil(share * self.count))
        bucket = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(self._FLOOR * math.exp((bucket + 0.5) * self._STEP), self.max)

    def milliseconds(self) -> dict[str, float]:
        """p50, p95, p99, max and mean in milliseconds, rounded to a microsecond."""
        if not self.count:
            return {}
        row = {name: self.quantile(q) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
        row |= {"max": self.max, "mean": self.total / self.count}
        return {name: round(seconds * 1e3, 3) for name, seconds in row.items()}


class Stats:
    """Counts and durations of the frames of one run.

    Each entry is written by one thread, so nothing here needs a lock.

    Attributes:
        stages: durations by stage.
        age: from capture to the last sink, in seconds.
        produced: frames that the source gave or missed.
        shown: frames that reached every sink.
        propagated: of these, frames with scores of a keyframe.
        idle: of these, frames at which the network rested.
        capped: frames left out by a frame rate limit.
        missed: frames that a camera lost, or that were read too late to be shown.
        missed_by: the cause of these.
        keyframes: their number by cause.
        dropped_by: frames that were not shown, by cause.
        recent: a running mean of each stage, and the last age, in seconds.
        hung: names of threads that did not stop.
        inputs: frames by the network's input size (height, width), if it has several.
        input: the size in use.
        steps: changes of that size.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.stages = {stage: Durations() for stage in STAGES}
        self.age = Durations()
        self.produced = 0
        self.shown = 0
        self.propagated = 0
        self.idle = 0
        self.capped = 0
        self.missed = 0
        self.missed_by = "camera"
        self.keyframes: dict[str, int] = {}
        self.dropped_by: dict[str, int] = {}
        self.recent: dict[str, float] = {}
        self.hung: list[str] = []
        self.inputs: dict[tuple[int, int], int] = {}
        self.input: tuple[int, int] | None = None
        self.steps = 0
        self._started: float | None = None
        self._cpu_started = 0.0
        self._finished = 0.0
        self._moments: deque[float] = deque(maxlen=61)
        self._waits: deque[tuple[float, float]] = deque(maxlen=32)  # more than frames in flight
        self._replaced: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a `with` block as one pass of a stage."""
        since = self.clock.now()
        yield
        self.add(name, self.clock.now() - since)

    def add(self, name: str, seconds: float) -> None:
        """Count one pass of a stage."""
        self.stages[name].add(seconds)
        self.recent[name] = 0.9 * self.recent.get(name, seconds) + 0.1 * seconds

    def add_encoded(self, durations: Iterable[float]) -> None:
        """Count passes of "encode", which the thread of a sink timed."""
        for seconds in durations:
            self.add("encode", seconds)

    def add_wait(self, since: float) -> None:
        """Count the time from `since` until now as "wait", which the age leaves out."""
        self._waits.append((since, self.clock.now()))
        self.add("wait", self._waits[-1][1] - since)

    def add_pause(self, since: float) -> None:
        """Count a pause from `since` until now as waiting; `fps_now` begins anew after it."""
        self.add_wait(since)
        self._moments.clear()

    def count_input(self, size: tuple[int, int], frames: int = 1) -> None:
        """Count frames by their input size (height, width), of a network that has several."""
        self.steps += self.input not in (None, size)
        self.input = size
        self.inputs[size] = self.inputs.get(size, 0) + frames

    @property
    def started(self) -> bool:
        """Whether the loop runs."""
        return self._started is not None

    def start(self) -> None:
        """Start the clock of the whole loop; models are loaded and warm by now."""
        self._started = self.clock.now()
        self._cpu_started = self.clock.cpu_seconds()

    def show(self, captured_at: float, *, propagated: bool = False, idle: bool = False) -> None:
        """Count one frame that has reached every sink.

        Args:
            captured_at: monotonic seconds.
            propagated: whether its scores come from a keyframe.
            idle: whether the network rested because the image had not changed.
        """
        self._finished = self.clock.now()
        self.shown += 1
        self.propagated += propagated
        self.idle += idle
        waits = (until - max(since, captured_at) for since, until in self._waits)
        age = self._finished - captured_at - sum(max(0.0, wait) for wait in waits)
        self.recent["age"] = age
        self.age.add(age)
        self._moments.append(self._finished)

    def count(self, read: int, replaced: Mapping[str, int], *, paused: bool = False) -> None:
        """Update the counts of frames produced and dropped.

        Args:
            read: frames that the source has given so far.
            replaced: how many of these were replaced by newer ones so far, by buffer.
            paused: whether the run was paused since the last call, which is then the cause.
        """
        self.produced = read + self.missed + self.capped
        for where, number in replaced.items():
            self._lost["pause" if paused else where] += number - self._replaced[where]
            self._replaced[where] = number
        drops = {self.missed_by: self.missed, "cap": self.capped, **self._lost}
        self.dropped_by = {cause: number for cause, number in drops.items() if number}

    def add_up(self, parts: Iterable[Stats]) -> None:
        """Make the numbers of frames the sums of those of several sources."""
        produced, causes = 0, Counter[str]()
        for stats in parts:
            produced += stats.produced
            causes.update(stats.dropped_by)
        self.produced, self.dropped_by = produced, dict(causes)

    def finish(self) -> None:
        """After the last `count`: frames still in flight were dropped by the stop."""
        if left := self.produced - self.shown - self.dropped:
            self.dropped_by["stop"] = left

    @property
    def dropped(self) -> int:
        """Frames that were produced, or missed, but not shown."""
        return sum(self.dropped_by.values())

    @property
    def seconds(self) -> float:
        """From the start of the loop to the last frame written."""
        return max(0.0, self._finished - self._started) if self._started is not None else 0.0

    @property
    def fps(self) -> float:
        """Frames per second of the whole loop, over `seconds`."""
        return self.shown / self.seconds if self.seconds else 0.0

    @property
    def network_fps(self) -> float:
        """Frames per second that the network segmented: keyframes only, if there are any, and
        without those at which it rested.
        """
        if not (self.keyframes or self.idle):
            return self.fps
        segmented = sum(self.keyframes.values()) or self.stages["infer"].count
        return segmented / self.seconds if self.seconds else 0.0

    @property
    def cpu_share(self) -> float:
        """Share (0..1) of all usable cores that this process has used since the start."""
        if self._started is None:
            return 0.0
        lasted = self.clock.now() - self._started
        spent = self.clock.cpu_seconds() - self._cpu_started
        return spent / (lasted * usable_cores()) if lasted else 0.0

    @property
    def fps_now(self) -> float:
        """Frames per second over the last 60 frames."""
        if len(self._moments) < 2:
            return 0.0
        return (len(self._moments) - 1) / max(self._moments[-1] - self._moments[0], 1e-9)


@dataclass
class Report:
    """The figures of a run, as `--metrics` writes them.

    Attributes:
        fps: frames per second of the whole loop.
        frames: frames that were shown or written, of `produced` that the source gave.
        dropped: the rest, in `dropped_by` by cause.
        outages: how often the source was lost.
        seconds: from the start of the loop to the last frame.
        age_ms: from capture to the last sink, as of `Durations.milliseconds`.
        stages_ms: the same for each stage.
        notes: what the network and the sources reported.
        hung: threads that were still inside a driver at the end.
        propagated: frames with scores of a keyframe.
        keyframes: frames that the network segmented instead, by cause.
        network_fps: their rate; `fps` if every frame is segmented.
        inputs: frames by input size (HxW), if that follows the frames or the speed.
        steps: changes of that size.
        idle: frames at which the network rested; not part of `network_fps`.
        cpu_share: share (0..1) of all `cores` that the process used.
        refine: whether mask edges were refined from image colours.
    """

    fps: float
    frames: int
    produced: int
    dropped: int
    dropped_by: dict[str, int]
    outages: int
    backend: str
    device: str
    precision: str
    provider: str
    imgsz: tuple[int, int]
    model: str
    source: str
    seconds: float
    age_ms: dict[str, float]
    stages_ms: dict[str, dict[str, float]]
    notes: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    propagated: int = 0
    keyframes: dict[str, int] = field(default_factory=dict)
    network_fps: float = 0.0
    inputs: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    idle: int = 0
    cpu_share: float = 0.0
    cores: int = 0
    refine: bool = False
