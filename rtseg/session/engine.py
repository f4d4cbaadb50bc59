"""The engine: any number of sources through one network, iterated in the caller's thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from rtseg.contracts import Source
from rtseg.errors import RtsegError
from rtseg.frame import Frame, Segmentation
from rtseg.segmenter import Pair, Segmenter
from rtseg.session.inference import crowded, inferring, read_ahead, warm_up
from rtseg.session.sharing import RoundRobin, SharedNetwork, SharedSegmenter
from rtseg.stats import Pace, Stats
from rtseg.temporal import TemporalOptions
from rtseg.threads import Flow


class Result(NamedTuple):
    """A frame of one of the sources, and its segmentation.

    Attributes:
        source: number of the source, from 0.
    """

    source: int
    frame: Frame
    segmentation: Segmentation


@dataclass(eq=False)
class Channel:
    """One source of a session, its options, and its state.

    Attributes:
        source: open; closed by whoever opened it.
        name: for people; unique in a session.
        newest: whether newer frames replace unread ones.
        paced: whether every frame of a recording waits for its time before it is segmented.
        temporal: how the masks of consecutive frames are tied together.
        stats: counts and durations of its frames.
        paused: whether frames that are lost at the moment are lost to a pause.
        ended: whether no more frames will come.
        error: what ended it, if it was lost.
    """

    source: Source
    name: str = ""
    newest: bool = True
    paced: bool = False
    temporal: TemporalOptions = TemporalOptions()  # noqa: RUF009 - frozen
    stats: Stats = field(default_factory=Stats)
    paused: bool = False
    ended: bool = False
    error: RtsegError | None = None

    def frames(self) -> Iterator[Frame]:
        """The frames of the source, each at its time if `paced`; times each read, and counts gaps
        in a live source's numbers."""
        source, stats, clock = self.source, self.stats, self.stats.clock
        pace = Pace(source.clock)
        expected = None
        since = clock.now()
        for frame in source:
            stats.add("capture", clock.now() - since)
            if source.info.live and expected is not None:
                stats.missed += max(0, frame.index - expected)
                stats.missed_by = "reading" if source.info.replayed else "camera"
            expected = frame.index + 1
            stats.capped = source.capped
            if self.paced:
                source.wait(pace.seconds_left(frame.pts))
                frame = replace(frame, captured_at=source.clock.now())
            yield frame
            since = clock.now()
        stats.capped = source.capped


class _Lane:
    """The threads of one channel: its capture, and its inference."""

    def __init__(
        self, number: int, channel: Channel, engine: Engine, ready: RoundRobin[Pair]
    ) -> None:
        source, several = channel.source, engine.shared is not None
        mark = f"-{number}" if several else ""
        self.channel, self.several = channel, several
        self.frames = Flow(
            channel.frames(),
            latest=channel.newest,
            capacity=read_ahead(engine.segmenter, source.info),
            name=f"capture{mark}",
            interrupt=source.interrupt,
        )
        self.segmenter, turn = engine.segmenter, None
        if engine.shared is not None:
            newer = channel.newest and not channel.temporal.propagate
            shared = SharedSegmenter(engine.shared, self.frames if newer else None)
            self.segmenter, turn = shared, shared.turn
        self._inferring = inferring(
            self.frames,
            self.segmenter,
            channel.stats,
            channel.temporal,
            latest=channel.newest,
            in_step=several
            or (channel.newest and engine.crowded and not channel.temporal.propagate),
            turn=turn,
            name=f"inference{mark}",
            prepare=partial(ready.add, number),
        )
        self._stack = ExitStack()
        self.results: Flow[Pair]

    def start(self) -> None:
        """Start the threads."""
        self.channel.stats.start()
        self._stack.enter_context(self.frames)
        self.results = self._stack.enter_context(self._inferring)

    def stop(self) -> None:
        """Ask the threads to end; does not wait."""
        self.frames.stop()
        self.results.stop()

    def close(self) -> None:
        """Join the threads, count what was still on its way, and name threads that hang."""
        self.stop()
        self._stack.close()
        self.count()
        stats = self.channel.stats
        if self.frames.hung:
            stats.hung.append(f"capture of {self.channel.name}" if self.several else "capture")
        if self.results.hung:
            stats.hung.append(self.results.name)
        stats.finish()

    def count(self) -> None:
        """Bring the channel's numbers of frames up to date; every loss has its cause."""
        replaced = {"capture": self.frames.replaced, "display": self.results.replaced}
        self.channel.stats.count(self.frames.produced, replaced, paused=self.channel.paused)

    def pause(self, paused: bool) -> None:
        """Begin or end a pause. A camera is still read, or old frames would wait in its driver; a
        replay holds itself, and a flow that keeps everything waits for its reader anyway."""
        self.count()
        info, self.channel.paused = self.channel.source.info, paused
        self.channel.source.hold(paused)
        if self.channel.newest and not info.replayed:
            for flow in (self.results,) if info.live else (self.results, self.frames):
                flow.hold(paused)


class Engine:
    """Runs sources and the network in threads for as long as the `with` lasts.

    Every source has a capture thread and an inference thread of its own. One source alone has the
    network to itself: a recording gives it several frames at once, a camera its newest. Several
    share it: all that have a frame go through it in one batch where the backend gains by batches;
    otherwise one after another, the one served longest ago first, on as many lanes as there are. A
    source of several starts on its next frame once its last result was used, see `done`.

    Args:
        channels: the sources to begin with; numbered from 0.
        shared: whether more may be added while it runs, even if there is only one now.
        held: whether the reader keeps results for a while before it uses them.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        segmenter: Segmenter,
        *,
        shared: bool = False,
        held: bool = False,
    ) -> None:
        self.channels = list(channels)
        self.segmenter = segmenter
        self.crowded = crowded(segmenter)
        several = shared or len(self.channels) > 1
        self.shared = SharedNetwork(segmenter, len(self.channels), held=held) if several else None
        self._ready: RoundRobin[Pair] = RoundRobin()
        self._lanes: dict[int, _Lane] = {}

    def __enter__(self) -> Engine:
        for channel in self.channels:
            at_once = self.shared is None and not channel.newest
            warm_up(channel.temporal, self.segmenter, channel.source.info, at_once=at_once)
        if self.shared is not None:
            self.shared.warm_up([channel.source.info for channel in self.channels])
        lanes = [self._lane(number) for number in range(len(self.channels))]
        for lane in lanes:
            lane.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.shared is not None:
            self.shared.stop()
        for lane in self._lanes.values():
            lane.stop()  # all of them, before any is waited for
        for lane in self._lanes.values():
            lane.close()

    def add(self, channel: Channel) -> int:
        """Take in one more source while it runs; returns its number, or that of one removed before.

        Raises:
            ValueError: the engine was not made to be `shared`.
        """
        if self.shared is None:
            raise ValueError("an engine of one source takes no other; make it with shared=True")
        number = next(n for n in range(len(self._lanes) + 1) if n not in self._lanes)
        self.channels[number : number + 1] = [channel]
        self.shared.widen(len(self.channels))
        with self.shared.turn(channel):  # not beside the frames of others
            warm_up(channel.temporal, self.segmenter, channel.source.info)
        self._lane(number).start()
        return number

    def remove(self, number: int) -> None:
        """Stop reading a source, whose channel then counts as ended."""
        self._end(number)
        self._lanes.pop(number).close()
        self._ready.remove(number)

    def poll(self, seconds: float) -> Iterator[list[Result]]:
        """What arrived, at most one result of each source; [] if nothing does for `seconds`.

        Ends when every source has ended. A source that was lost keeps its error in its channel,
        and the others go on.

        Raises:
            RtsegError: the network failed.
        """
        while not all(channel.ended for channel in self.channels):
            results = [Result(n, *pair) for n, pair in self._ready.take(seconds)]
            self.count()
            yield results
            self.note_ends()

    def done(self, result: Result) -> None:
        """Let a source start on its next frame, as this result of it was used."""
        if (lane := self._lanes.get(result.source)) is not None:
            lane.results.go_on()
            if self.shared is not None:
                self.shared.finished(lane.segmenter)

    def pause(self) -> None:
        """Show nothing for a while: recordings stand still, and so does the network; cameras and
        streams are read on, and `resume` goes on with what is newest then."""
        for lane in self._lanes.values():
            lane.pause(True)

    def resume(self) -> None:
        """Go on after `pause`."""
        for lane in self._lanes.values():
            lane.pause(False)

    def count(self) -> None:
        """Bring the numbers of frames of all channels up to date."""
        for lane in self._lanes.values():
            lane.count()

    def _lane(self, number: int) -> _Lane:
        lane = _Lane(number, self.channels[number], self, self._ready)
        self._lanes[number] = lane
        return lane

    def note_ends(self) -> None:
        """Note which sources have ended; one that is lost during a pause is not waited for."""
        for number, lane in self._lanes.items():
            channel, error = lane.channel, lane.results.error or lane.frames.error
            waits = channel.paused and channel.newest and not channel.source.info.replayed
            lost = waits and error is not None
            if channel.ended or not (lost or lane.results.over):
                continue
            if error is not None and (
                error is not lane.frames.error or not isinstance(error, RtsegError)
            ):
                raise error
            channel.error = error
            lane.stop()
            self._end(number)

    def _end(self, number: int) -> None:
        lane = self._lanes[number]
        lane.channel.ended = True
        if self.shared is not None:
            self.shared.gone(lane.segmenter)
