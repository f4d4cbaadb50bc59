"""What a run measured: counts, and the distribution of every duration in constant memory."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from rtseg.system import usable_cores


class Clock:
    """The machine's monotonic clock, in seconds."""

    def now(self) -> float:
        """Monotonic seconds; only differences mean anything."""
        return time.perf_counter()

    def worked(self) -> float:
        """Seconds that processors have spent on this program until now, all threads together."""
        return time.process_time()

    def sleep(self, seconds: float) -> None:
        """Return after at least `seconds`; at once for zero or less."""
        if seconds > 0:
            time.sleep(seconds)


class ManualClock(Clock):
    """A clock that moves only when told to, or when somebody sleeps on it."""

    def __init__(self, now: float = 0.0) -> None:
        self.time = now

    def now(self) -> float:
        """The time it was last moved to, in seconds."""
        return self.time

    def sleep(self, seconds: float) -> None:
        """Move forward by `seconds` and return at once."""
        self.time += max(0.0, seconds)


LATE_SECONDS = 0.05
"""A frame that is later than this puts off those after it; a smaller delay is made good."""


class Pace:
    """When the frames of a recording are due, so that it plays at its own speed and no faster.

    The first frame asked for is due at once. What is shown too slowly is never made up for by a
    rush: a frame that is late sets the time anew.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._zero: float | None = None

    def left(self, pts: float) -> float:
        """Seconds until the frame at `pts` is due; 0 once it is."""
        now = self._clock.now()
        if self._zero is None or now - (self._zero + pts) > LATE_SECONDS:
            self._zero = now - pts
        return max(0.0, self._zero + pts - now)


STAGES = (
    *("capture", "compare", "preprocess", "infer", "follow", "carry", "smooth"),
    *("decode", "draw", "wait", "write", "encode"),
)
"""The stages of one frame's story, in order; each is timed where it runs.

"compare" finds whether the picture has changed, where the network rests otherwise. "follow" finds
a frame in a keyframe, "carry" brings its scores over, "smooth" averages them.
"write" ends when every sink has the frame; what a video file then does with it in a thread of its
own is "encode", which is no part of the age. "wait" is for a frame's own time to come, in a paced
run; it is part of no other, nor of the age.
"""


class Durations:
    """The distribution of a duration, within 0.5 %, however many there are.

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
        """The duration that `share` (0..1) of them do not exceed; NaN when there are none."""
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
    """What happened to the frames of one run; every stage writes its own entry.

    Each entry has a single writer, so nothing here needs a lock.
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
        self.keyframes: dict[str, int] = {}
        self.missed = 0
        self.dropped_by: dict[str, int] = {}
        self.recent: dict[str, float] = {}
        self.hung: list[str] = []
        self.inputs: dict[tuple[int, int], int] = {}
        self.steps = 0
        self.input: tuple[int, int] | None = None
        self._started: float | None = None
        self._worked = 0.0
        self._finished = 0.0
        self._moments: deque[float] = deque(maxlen=61)
        self._waits: deque[tuple[float, float]] = deque(maxlen=32)  # more than frames on their way
        self._replaced: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as one pass of a stage."""
        since = self.clock.now()
        yield
        self.add(name, self.clock.now() - since)

    def add(self, name: str, seconds: float) -> None:
        """Count one pass of a stage."""
        self.stages[name].add(seconds)
        self.recent[name] = 0.9 * self.recent.get(name, seconds) + 0.1 * seconds

    def add_each(self, name: str, durations: Iterable[float]) -> None:
        """Count passes of a stage in another thread, in the one that counts all others."""
        for seconds in durations:
            self.add(name, seconds)

    def waited(self, since: float) -> None:
        """Count the time from `since` until now as waiting on purpose."""
        self._waits.append((since, self.clock.now()))
        self.add("wait", self._waits[-1][1] - since)

    def count_input(self, size: tuple[int, int]) -> None:
        """Count one frame that a network saw at this (height, width), of several that it has."""
        self.steps += self.input not in (None, size)
        self.input = size
        self.inputs[size] = self.inputs.get(size, 0) + 1

    def start(self) -> None:
        """Begin the clock of the whole loop; models are loaded and warm by now."""
        self._started = self.clock.now()
        self._worked = self.clock.worked()

    def show(self, captured_at: float, *, propagated: bool = False, idle: bool = False) -> None:
        """Count one frame that has reached every sink; its age leaves out waits on purpose.

        Args:
            propagated: whether its scores come from a keyframe.
            idle: whether the network rested, as the picture had not changed.
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

    def count(self, read: int, replaced: Mapping[str, int], *, resting: bool = False) -> None:
        """Bring the numbers of frames up to date; what is lost has its cause.

        Args:
            read: frames that the source has given by now.
            replaced: how many of them, by now, made way for newer ones, by where they waited.
            resting: whether nobody looked since the last call: the pause is the cause then.
        """
        self.produced = read + self.missed + self.capped
        for where, number in replaced.items():
            self._lost["pause" if resting else where] += number - self._replaced[where]
            self._replaced[where] = number
        drops = {"camera": self.missed, "cap": self.capped, **self._lost}
        self.dropped_by = {cause: number for cause, number in drops.items() if number}

    def lose(self, cause: str) -> None:
        """Count a frame that nobody will see, with the next `count`."""
        self._lost[cause] += 1

    def settle(self) -> None:
        """After the last `count`: what was still on its way was lost by the stop."""
        if left := self.produced - self.shown - self.dropped:
            self.dropped_by["stop"] = left

    @property
    def dropped(self) -> int:
        """Frames the source produced, or missed, that nobody saw."""
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
        """Frames per second that the network looked at: keyframes only, where there are such,
        and none at which it rested."""
        if not (self.keyframes or self.idle):
            return self.fps
        looks = sum(self.keyframes.values()) or self.stages["infer"].count
        return looks / self.seconds if self.seconds else 0.0

    @property
    def cpu_share(self) -> float:
        """Share (0..1) of all usable cores that the program kept busy since the start."""
        if self._started is None:
            return 0.0
        lasted = self.clock.now() - self._started
        return (self.clock.worked() - self._worked) / (lasted * usable_cores()) if lasted else 0.0

    @property
    def fps_now(self) -> float:
        """Frames per second over the last 60 frames."""
        if len(self._moments) < 2:
            return 0.0
        return (len(self._moments) - 1) / max(self._moments[-1] - self._moments[0], 1e-9)


@dataclass
class Report:
    """The figures of a run, as `--metrics` writes them.

    `fps` is that of the whole loop; `frames` were shown or written, of `produced` that the source
    gave; the rest were `dropped`, by cause. Durations are in milliseconds. `hung` names threads
    that were still inside a driver when the run was over. Of the frames, `propagated` show what a
    keyframe's scores became; `keyframes` counts by cause what the network looked at instead, and
    `network_fps` is its rate, which is that of the loop where nothing is propagated. Where the
    input's size follows the speed, `inputs` counts frames by size (HxW), and `steps` its changes.
    At `idle` frames the network rested, as the picture had not changed; they are no part of
    `network_fps`. `refine` is whether edges of masks follow the picture's. `cpu_share` (0..1) is
    what the program took of all `cores` it may use.
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
