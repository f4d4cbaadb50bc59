"""The main thread's part of a run: draw, show, write, listen; and rest when a person says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from rtseg.contracts import Effect, Rendered, Sink, Source
from rtseg.frame import Frame
from rtseg.segmenter import Pair
from rtseg.stats import Pace, Stats
from rtseg.threads import Flow

TICK_SECONDS = 0.05
"""How long the main thread waits for a frame before it turns once with nothing."""

PACE_SECONDS = 0.01
"""As long, while a frame waits for its time or a person has paused: keys are heard soon."""


class Flows(NamedTuple):
    """The two threads of a run: frames as they are captured, and pairs as they are segmented."""

    frames: Flow[Frame]
    pairs: Flow[Pair]


class Control:
    """What a person decides about a run while it goes on; by itself, to let it run."""

    def rests(self) -> bool:
        """Whether no further frame is to be shown for now."""
        return False

    def look(self) -> object:
        """What pictures are drawn by; one that was drawn by another is drawn again."""
        return None

    def shows(self, rendered: Rendered) -> None:
        """One more frame goes to the sinks now."""


@dataclass
class Loop:
    """Takes pairs to the sinks as they come, in the thread that calls `drain`.

    Attributes:
        pace: makes every frame wait for its pts; None does not.
        over: whether the run is to end; asked at least every 50 ms.
        on_tick: called as often.
        control: asked before every frame.
    """

    flows: Flows
    source: Source
    effect: Effect
    sinks: Sequence[Sink]
    stats: Stats
    pace: Pace | None
    over: Callable[[], bool]
    on_tick: Callable[[], None]
    control: Control
    _resting: bool = field(default=False, init=False)

    def drain(self) -> None:
        """Until the source ends or the run is over."""
        ends = 0.0
        for pair in self._turns():
            self.count()
            if pair is None:
                self._idle(self.source.notice)
            else:
                self._resting = False
                rendered = Rendered(*pair, self.effect)
                if not self._take(rendered):
                    return
                ends = rendered.frame.pts + 1 / float(self.source.info.frame_rate or 25)
            self.on_tick()
            if self.over():
                return
        if self.pace is not None and ends:
            self._wait(self.pace, ends)  # the last frame has its time too

    def count(self) -> None:
        """Bring the run's numbers of frames up to date; what is lost has its cause."""
        frames, pairs = self.flows
        replaced = {"capture": frames.replaced, "display": pairs.replaced}
        self.stats.count(frames.produced, replaced, resting=self._resting)

    def _turns(self) -> Iterator[Pair | None]:
        """The pairs, and None whenever none came for a moment or a person wants none."""
        coming = self.flows.pairs.poll(TICK_SECONDS)
        while True:
            if self.control.rests():
                yield from self._rest()
            try:
                pair = next(coming)
            except StopIteration:
                return
            yield pair

    def _rest(self) -> Iterator[None]:
        """Turn with nothing while the picture is paused; then a live source gives its newest.

        A camera is still read meanwhile, or old frames would wait in its driver; the network rests.
        """
        held = [flow for flow in self._braked() if flow.latest]
        since, self._resting = self.stats.clock.now(), True
        for flow in held:
            flow.hold()
        while self.control.rests():
            yield None
            self.stats.clock.sleep(PACE_SECONDS)
        for flow in held:
            flow.release()
        self.stats.waited(since)

    def _braked(self) -> Sequence[Flow[Any]]:
        frames, pairs = self.flows
        return (pairs,) if self.source.info.live else (pairs, frames)

    def _take(self, rendered: Rendered) -> bool:
        """Draw one frame, at its time show and write it; False when the run ended before that."""
        look = self.control.look()
        self._draw(rendered)
        self.flows.pairs.go_on()
        if self.pace is not None:
            self._wait(self.pace, rendered.frame.pts)
            if self.over():
                return False
            if self.control.look() != look:
                rendered = replace(rendered)  # drawn before somebody chose another look
        self.control.shows(rendered)
        self._write(rendered)
        return True

    def _idle(self, notice: str | None) -> None:
        for sink in self.sinks:
            sink.idle(notice)

    def _wait(self, pace: Pace, pts: float) -> None:
        """Turn with nothing until `pts` is due, or the run is over."""
        clock = self.stats.clock
        since = clock.now()
        while pace.left(pts) and not self.over():
            self._idle(None)
            self.on_tick()
            clock.sleep(min(pace.left(pts), PACE_SECONDS))
        self.stats.waited(since)

    def _draw(self, rendered: Rendered) -> None:
        # first the picture: most views decode the mask in the pass that draws it, and nothing
        # is left to do
        if any(sink.wants_image for sink in self.sinks):
            with self.stats.stage("draw"):
                _ = rendered.image
        with self.stats.stage("decode"):
            _ = rendered.segmentation.mask

    def _write(self, rendered: Rendered) -> None:
        with self.stats.stage("write"):
            for sink in self.sinks:
                sink.write(rendered)
        for sink in self.sinks:
            self.stats.add_each("encode", sink.encoded())
        carried = rendered.segmentation.carried
        idle = carried is not None and carried.idle
        propagated = carried is not None and not idle
        self.stats.show(rendered.frame.captured_at, propagated=propagated, idle=idle)
