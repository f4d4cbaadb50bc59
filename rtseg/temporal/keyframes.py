"""Where the keyframes of a recording are: every so often, and where a picture is a new one."""

from __future__ import annotations

from dataclasses import dataclass, field

from rtseg.frame import Frame
from rtseg.temporal.motion import Grey, Match, Motion, is_cut, small_grey

KEY_SECONDS = 1.5
"""Without a number of frames: from one keyframe to the next, in seconds of the recording."""

LOST_SHARE = 0.45
"""A frame of which more is not to be found in the last keyframe becomes one itself."""

LOST_AT_ONCE = 0.6
"""A frame that loses so much more than the one before it is the first of another scene."""

SPAN_BYTES = 128 * 2**20
"""Of pictures that wait for a keyframe's scores; more of them are not held back."""


@dataclass
class Step:
    """A frame between two keyframes, found in the first of them."""

    frame: Frame
    match: Match


@dataclass
class Span:
    """A keyframe, and the frames between the one before and it.

    Attributes:
        cause: why it is one: "first", "age", "motion", "cut", or "end" for the last frame.
        before: number of the keyframe before; its own for the first.
    """

    key: Frame
    grey: Grey
    cause: str
    before: int
    steps: list[Step] = field(default_factory=list)

    def ahead(self) -> list[Match]:
        """Each step, found in the keyframe at the end; none where that is another scene."""
        if self.cause in ("first", "cut"):
            return []
        motion = Motion(self.grey)
        return [motion.follow(step.match.grey) for step in reversed(self.steps)][::-1]


class Keyframes:
    """Finds the keyframes of a recording; which they are, its pictures and times alone decide.

    Args:
        every: frames from one keyframe to the next at the most; None goes by `KEY_SECONDS`.
    """

    def __init__(self, every: int | None = None) -> None:
        self._every = every
        self._key: Frame | None = None
        self._motion: Motion | None = None
        self._steps: list[Step] = []
        self._lost = 0.0

    def take(self, frame: Frame) -> Span | None:
        """The next frame; the span that it ends, if it is a keyframe."""
        grey = small_grey(frame.image)
        if self._motion is None:
            return self._end(frame, grey, "first")
        if is_cut(self._motion.match.grey, grey):
            return self._end(frame, grey, "cut")
        if self._is_due(frame):
            return self._end(frame, grey, "age")
        match = self._motion.follow(grey)
        before, self._lost = self._lost, match.lost
        if self._lost > LOST_SHARE:
            is_new = self._lost - before > LOST_AT_ONCE
            return self._end(frame, grey, "cut" if is_new else "motion")
        self._steps.append(Step(frame, match))
        return None

    def rest(self) -> Span | None:
        """What is left at the end: the last frame is a keyframe, too."""
        if not self._steps:
            return None
        last = self._steps.pop()
        return self._end(last.frame, last.match.grey, "end")

    def _is_due(self, frame: Frame) -> bool:
        count = len(self._steps) + 1
        if count * frame.image.nbytes > SPAN_BYTES:
            return True
        if self._every is not None:
            return count >= self._every
        return self._key is None or not 0 <= frame.pts - self._key.pts < KEY_SECONDS

    def _end(self, frame: Frame, grey: Grey, cause: str) -> Span:
        before = frame.index if self._key is None else self._key.index
        span = Span(frame, grey, cause, before, self._steps)
        self._key, self._motion, self._steps, self._lost = frame, Motion(grey), [], 0.0
        return span
