"""Wrappers that select, loop, replay, turn and mirror the frames of any source."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil

import cv2

from rtseg.contracts import Source, SourceInfo
from rtseg.errors import SourceError, UsageError
from rtseg.frame import Frame
from rtseg.planes import converted
from rtseg.sources.options import SourceOptions, cannot_loop

DEFAULT_RATE = 25
"""Of a source that has none, where a frame needs a duration."""

SLACK_SECONDS = 5e-4
"""Tolerance of times: 1/30 typed as 0.0333 means the frame at 0.03333."""

WHOLE_SECONDS = 0.1
"""An image that lasts no longer is not cut short by the end of a span."""

TICK_SECONDS = 0.05
"""How long a replay sleeps at once: it may be interrupted or held meanwhile."""

EARLY_SHARE = 0.25
"""Share of the interval by which a frame may come early: else jitter would drop many frames."""

ROTATIONS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
"""Clockwise degrees -> OpenCV's code."""


def select(source: Source, again: Callable[[], Source] | None, options: SourceOptions) -> Source:
    """Wrap `source` as the options that apply to any source say.

    Args:
        again: opens it again, for `options.loop`; None where it can be read only once.
    """
    try:
        if options.loop:
            source = Loop(source, again)
        if options.every > 1:
            source = Every(source, options.every)
        if options.fps_cap is not None and not source.keeps_cap:
            source = Capped(source, options.fps_cap)
        if options.max_frames is not None:
            source = Limit(source, options.max_frames)
        if options.live and not source.info.live:
            source = Replay(source)
        if options.rotate or options.mirror:
            source = Rotated(source, options.rotate, options.mirror)
    except UsageError:
        source.close()
        raise
    return source


def span(source: Source, start: float | None, end: float | None) -> Source:
    """`source` from `start` to before `end`, in seconds of its own time."""
    if not start and end is None:
        return source
    try:
        return Span(source, start or 0.0, end)
    except BaseException:
        source.close()
        raise


class Wrapper(Source):
    """A source made of another one, to which it passes interrupts, notices and closing."""

    def __init__(self, inner: Source) -> None:
        super().__init__(inner.clock)
        self.warnings = inner.warnings
        self._wrap(inner)

    def _wrap(self, inner: Source) -> None:
        self._inner, self._frames = inner, iter(inner)
        self._described = inner.info
        self.info = self._describe(inner.info)

    @abstractmethod
    def _describe(self, info: SourceInfo) -> SourceInfo:
        """The info of this source, from that of the inner one."""

    def _next(self) -> Frame | None:
        """The next frame of the inner source, whose info may change after an outage."""
        frame = next(self._frames, None)
        if self._inner.info is not self._described:
            self._described = self._inner.info
            self.info = self._describe(self._inner.info)
        return frame

    @property
    def planar(self) -> bool:
        """Of the inner source."""
        return self._inner.planar

    @planar.setter
    def planar(self, value: bool) -> None:
        self._inner.planar = value

    @property
    def notice(self) -> str | None:  # type: ignore[override]  # read-only
        """Of the inner source."""
        return self._inner.notice

    @property
    def outages(self) -> int:  # type: ignore[override]  # read-only
        """Of the inner source."""
        return self._inner.outages

    @property
    def capped(self) -> int:  # type: ignore[override]  # read-only
        """Of the inner source."""
        return self._inner.capped

    @property
    def keeps_cap(self) -> bool:  # type: ignore[override]  # read-only
        """Of the inner source."""
        return self._inner.keeps_cap

    def interrupt(self) -> None:
        """Interrupt the inner source as well."""
        super().interrupt()
        self._inner.interrupt()

    def hold(self, held: bool) -> None:
        """Hold the inner source."""
        self._inner.hold(held)

    def _release(self) -> None:
        self._inner.close()


class Span(Wrapper):
    """From the first frame at or after `start` to before `end`; that first frame has pts 0.

    Raises:
        UsageError: the source ends before `start`, or no frame lies before `end`.
    """

    def __init__(self, inner: Source, start: float, end: float | None) -> None:
        self._start, self._end = start, float("inf") if end is None else end
        self._zero: float | None = None if start else 0.0
        super().__init__(inner)
        # a file is read up to `start` now, which sets `info.media_start`; a live source is not
        self._held = None if inner.info.live or not start else self._first()
        self.info = self._describe(inner.info)
        self._empty = True
        if self.info.frame_count == 0:
            raise self._nothing()

    def _nothing(self) -> UsageError:
        return UsageError(
            f"{self._inner.info.name} from {self._start:g} to {self._end:g} s",
            found="it has no frame in this time",
        )

    def _first(self) -> Frame:
        self.planar = True  # none before it is converted, and it only once it is known as what
        try:
            return self._sought()
        finally:
            self.planar = False

    def _sought(self) -> Frame:
        last = 0.0
        while (frame := self._next()) is not None:
            if frame.pts >= self._start - SLACK_SECONDS:
                self._zero = frame.pts
                return frame
            last = frame.pts
        raise UsageError(
            f"{self._inner.info.name} from {self._start:g} s",
            found=f"its last frame is at {last:.3f} s",
        )

    def _describe(self, info: SourceInfo) -> SourceInfo:
        count = count_between(info, getattr(self._inner, "times", ()), self._start, self._end)
        return replace(
            info,
            frame_count=count,
            seconds=None,
            media_start=info.media_start + (self._zero or 0.0),
        )

    def _read(self) -> Frame | None:
        frame, self._held = self._held, None
        if frame is not None and not self.planar:
            frame = replace(frame, picture=converted(frame.picture))
        while frame is None or frame.pts < self._start - SLACK_SECONDS:
            frame = self._next()
            if frame is None:
                return None
        if frame.pts >= self._end - SLACK_SECONDS:
            if self._empty:
                raise self._nothing()
            return None
        self._empty = False
        if self._zero is None:
            self._zero = frame.pts
        at = frame.captured_at if self.info.live else self.clock.now()
        lasts = min(frame.lasts, max(WHOLE_SECONDS, self._end - frame.pts))
        return replace(frame, pts=frame.pts - self._zero, captured_at=at, lasts=lasts)


def count_between(info: SourceInfo, times: Sequence[float], start: float, end: float) -> int | None:
    """The number of frames from `start` to before `end`: exact by `times`, else by the rate."""
    low, high = start - SLACK_SECONDS, end - SLACK_SECONDS
    if times:
        return sum(low <= time < high for time in times)
    if info.frame_count == 1 and low <= 0:
        return 1
    if info.frame_count is None or info.frame_rate is None:
        return None
    last = info.frame_count if end == float("inf") else ceil(high * info.frame_rate)
    return max(0, min(last, info.frame_count) - max(0, ceil(low * info.frame_rate)))


class Loop(Wrapper):
    """Repeats a source; frame numbers and times go on.

    Args:
        again: opens the source again; None where it can be read only once.

    Raises:
        UsageError: it never ends, or can be read only once.
    """

    def __init__(self, inner: Source, again: Callable[[], Source] | None) -> None:
        if inner.info.live or again is None:
            raise cannot_loop(inner.info.name)
        self._again = again
        self._yielded = 0  # in this round: an empty source is not repeated
        self._first: int | None = None  # number of the first frame of each round
        self._index, self._pts = 0, 0.0
        self._next_index, self._next_pts = 0, 0.0
        super().__init__(inner)

    def _describe(self, info: SourceInfo) -> SourceInfo:
        # the audio of one round does not fit several
        return replace(info, frame_count=None, seconds=None, media=None)

    def _read(self) -> Frame | None:
        frame = self._next()
        if frame is None and self._yielded and not self._interrupted:
            self._restart()
            frame = self._next()
        if frame is None:
            return None
        self._yielded += 1
        if self._first is None:
            self._first = frame.index
        index, pts = self._index + frame.index, self._pts + frame.pts
        step = frame.lasts or float(1 / (self.info.frame_rate or DEFAULT_RATE))
        self._next_index, self._next_pts = index + 1, pts + step
        return replace(frame, index=index, pts=pts)

    def _restart(self) -> None:
        self._keep_warnings()
        self._inner.close()
        self._index = self._next_index - (self._first or 0)
        self._pts, self._yielded = self._next_pts, 0
        inner = self._again()
        inner.planar = self.planar
        self._wrap(inner)

    def _keep_warnings(self) -> None:
        if self._inner.warnings is not self.warnings:
            self.warnings += [w for w in self._inner.warnings if w not in self.warnings]


class Thinned(Wrapper):
    """Leaves frames out.

    Frames of a file keep their numbers; those of a live source are renumbered, as a gap would count
    as a drop.

    A frame of a file lasts until the next one that is kept: behind the last one, up to where those
    that were left out end. So it is read on up to there, and what is written lasts as long as its
    source, with all of its audio. Pipes, whose frames have no known duration, are not read ahead.
    """

    def __init__(self, inner: Source) -> None:
        self._held: Frame | None = None
        self._failure: SourceError | None = None
        self._left_out = 0
        super().__init__(inner)

    @abstractmethod
    def _takes(self, frame: Frame) -> bool:
        """Whether to keep the next frame of the inner source."""

    def _read(self) -> Frame | None:
        frame, self._held = self._held, None
        if self._failure is not None:
            raise self._failure
        while frame is None:
            frame = self._next()
            if frame is None:
                return None
            if not self._takes(frame):
                self._left_out, frame = self._left_out + 1, None
        if self.info.live:
            return replace(frame, index=frame.index - self._left_out)
        return self._until_next(frame) if frame.lasts or self.info.media else frame

    def _until_next(self, frame: Frame) -> Frame:
        step = frame.lasts or float(1 / (self._inner.info.frame_rate or DEFAULT_RATE))
        end = frame.pts + step
        try:
            while (after := self._next()) is not None and not self._takes(after):
                self._left_out += 1
                end = after.pts + (after.lasts or step)
        except SourceError as error:  # raised once this frame was delivered
            self._failure, after = error, None
        self._held = after
        lasts = (end if after is None else after.pts) - frame.pts
        return replace(frame, lasts=lasts, captured_at=self.clock.now())


class Every(Thinned):
    """Keeps every Nth frame."""

    def __init__(self, inner: Source, every: int) -> None:
        self._every, self._count = every, 0
        super().__init__(inner)

    def _describe(self, info: SourceInfo) -> SourceInfo:
        count = None if info.frame_count is None else ceil(info.frame_count / self._every)
        rate = None if info.frame_rate is None else info.frame_rate / self._every
        return replace(info, frame_count=count, frame_rate=rate)

    def _takes(self, frame: Frame) -> bool:
        self._count += 1
        return (self._count - 1) % self._every == 0


class RateCap:
    """Decides which frames to take for at most `rate` per second on average."""

    def __init__(self, rate: float) -> None:
        self._step = 1 / rate
        self._due: float | None = None

    def takes(self, at: float) -> bool:
        """Whether to take the frame of time `at`, in seconds; to be called once for each frame."""
        if self._due is None or not self._due - 2 * self._step < at < self._due + self._step:
            self._due = at  # the first one, or the first after a pause or a step back
        elif at < self._due - EARLY_SHARE * self._step:
            return False
        self._due += self._step
        return True


class Capped(Thinned):
    """Drops the frames that exceed a rate, by their pts."""

    def __init__(self, inner: Source, rate: float) -> None:
        self._rate, self._cap = rate, RateCap(rate)
        super().__init__(inner)

    @property
    def capped(self) -> int:  # type: ignore[override]  # read-only
        """Frames dropped so far."""
        return self._left_out

    def _describe(self, info: SourceInfo) -> SourceInfo:
        if info.frame_rate is None or info.frame_rate <= self._rate or info.frame_count == 1:
            return info
        rate = Fraction(self._rate).limit_denominator(1001)
        return replace(info, frame_rate=rate, frame_count=None, seconds=None)

    def _takes(self, frame: Frame) -> bool:
        return self._cap.takes(frame.pts)


class Limit(Wrapper):
    """Ends after `count` frames."""

    def __init__(self, inner: Source, count: int) -> None:
        self._count = self._left = count
        super().__init__(inner)

    def _describe(self, info: SourceInfo) -> SourceInfo:
        count = info.frame_count
        if count is None and self._count == 1:  # an open source has one
            count = 1
        return replace(info, frame_count=count and min(count, self._count), seconds=None)

    def _read(self) -> Frame | None:
        if self._left == 0:
            return None
        self._left -= 1
        return self._next()


class Replay(Wrapper):
    """Plays a recording by the clock, like a camera: a frame is dropped when the next one is due.

    Frames are stamped with the time at which they were due, so that a late replay counts in their
    age. Drops leave gaps in the numbers, as a camera's do; frames left out by `every` leave none.
    While it is held its time stands still.
    """

    def __init__(self, inner: Source) -> None:
        self._zero: float | None = None
        self._index: int | None = None
        self._held_at: float | None = None
        self._rested = 0.0
        super().__init__(inner)

    def hold(self, held: bool) -> None:
        """Stop its time, or let it go on."""
        if held:
            self._held_at = self.clock.now()
        elif self._held_at is not None:
            self._rested += self.clock.now() - self._held_at
            self._held_at = None  # last: a reader never sees its time go too far

    def _describe(self, info: SourceInfo) -> SourceInfo:
        return replace(info, live=True, replayed=True, frame_count=None, seconds=None)

    def _read(self) -> Frame | None:
        frame = self._counted()
        while frame is not None and self._due(frame) + self._step(frame) <= self._now():
            frame = self._counted()
        if frame is None:
            return None
        due = self._due(frame)
        while not self._interrupted and (left := due - self._now()) > SLACK_SECONDS:
            self.clock.sleep(min(left, TICK_SECONDS))
        return None if self._interrupted else replace(frame, captured_at=due + self._rested)

    def _now(self) -> float:
        """Monotonic seconds without those for which it was held."""
        held_at = self._held_at
        return (self.clock.now() if held_at is None else held_at) - self._rested

    def _counted(self) -> Frame | None:
        """The next frame, numbered one above the frame before."""
        frame = self._next()
        if frame is None:
            return None
        self._index = frame.index if self._index is None else self._index + 1
        return replace(frame, index=self._index)

    def _due(self, frame: Frame) -> float:
        """The time of `_now` at which a frame is due; the first one is due at once."""
        if self._zero is None:
            self._zero = self._now() - frame.pts
        return self._zero + frame.pts

    def _step(self, frame: Frame) -> float:
        return frame.lasts or float(1 / (self.info.frame_rate or DEFAULT_RATE))


class Rotated(Wrapper):
    """Rotates clockwise by `degrees`, then flips left and right."""

    def __init__(self, inner: Source, degrees: int, mirror: bool) -> None:
        self._degrees, self._mirror = degrees, mirror
        super().__init__(inner)

    def _describe(self, info: SourceInfo) -> SourceInfo:
        if self._degrees not in (90, 270):
            return info
        return replace(
            info,
            width=info.height,
            height=info.width,
            sample_aspect_ratio=Fraction(1) / info.sample_aspect_ratio,
        )

    def _read(self) -> Frame | None:
        frame = self._next()
        if frame is None:
            return None
        image = frame.image
        if self._degrees:
            image = cv2.rotate(image, ROTATIONS[self._degrees])
        if self._mirror:
            image = cv2.flip(image, 1)
        return replace(frame, picture=image)
