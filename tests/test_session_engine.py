"""Several sources, one network: fair, batched, each with its own frames, errors and numbers."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from rtseg import threads
from rtseg.contracts import Backend, BackendInfo, Source, SourceInfo
from rtseg.errors import BackendError, SourceError, UsageError
from rtseg.frame import Frame
from rtseg.labels import LabelSet
from rtseg.segmenter import Pair, Segmenter
from rtseg.session import inference, sharing
from rtseg.session.controls import ReplaceableSegmenter
from rtseg.session.engine import (
    Channel,
    Engine,
    Result,
)
from rtseg.session.sources import Unopened, common_shape, open_all
from rtseg.stats import Clock
from rtseg.temporal import TemporalOptions
from rtseg.text import distinct
from rtseg.zoo import ModelSpec


class Numbered(Source):
    """Frames of one colour, (source, number, 0) in BGR; `before` is called ahead of each read."""

    def __init__(
        self,
        source: int,
        count: int,
        *,
        live: bool = False,
        size: tuple[int, int] = (32, 48),
        before: Callable[[int], None] = lambda index: None,
        fps: int = 30,
    ) -> None:
        super().__init__()
        self.info = SourceInfo(f"source {source}", size[1], size[0], Fraction(fps), count, live)
        self.source, self.count, self.before, self.next = source, count, before, 0

    def _read(self) -> Frame | None:
        if self.next >= self.count:
            return None
        self.before(self.next)
        index, self.next = self.next, self.next + 1
        image = np.empty((self.info.height, self.info.width, 3), np.uint8)
        image[:] = (self.source, index % 256, 0)
        return Frame(image, index, index / float(self.info.frame_rate or 30), self.clock.now())


class Moving(Numbered):
    """The same, each picture quite unlike the one before."""

    def _read(self) -> Frame | None:
        frame = super()._read()
        return frame and replace(frame, picture=np.full_like(frame.image, 90 * (frame.index % 3)))


class Echo(Backend):
    """Scores whose first plane is the source's colour, whose second is the frame's number."""

    def __init__(self, *, batches: bool = False, lanes: int = 1) -> None:
        self.spec = ModelSpec("echo", "stub")
        self.input_size = (16, 16)
        self.info = BackendInfo("stub", "cpu", "fp32")
        self.batches, self.lanes = batches, lanes
        self.sizes: list[int] = []
        self.order: list[int] = []
        self.before: Callable[[], None] = lambda: None

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.before()
        self.sizes.append(len(batch))
        self.order += [int(picture[0, 0, 2]) for picture in batch]
        scores = np.zeros((len(batch), 21, 2, 2), np.float32)
        scores[:, 0] = batch[:, :2, :2, 2]
        scores[:, 1] = batch[:, :2, :2, 1]
        return scores


def channels(*sources: Source, newest: bool = False) -> list[Channel]:
    return [Channel(source, source.info.name, newest=newest) for source in sources]


def collected(engine: Engine) -> list[Result]:
    found: list[Result] = []
    with engine:
        for results in engine.poll(0.05):
            for result in results:
                engine.done(result)
            found += results
    return found


KINDS = [Echo, lambda: Echo(batches=True), lambda: Echo(lanes=2)]


@pytest.mark.parametrize("kind", KINDS, ids=["one by one", "batches", "lanes"])
def test_every_frame_of_every_source_comes_in_order_with_its_own_scores(kind) -> None:
    counts = [40, 7, 0, 25]
    sizes = [(32, 48), (60, 20), (32, 32), (17, 90)]
    some = channels(*(Numbered(i, n, size=sizes[i]) for i, n in enumerate(counts)))
    results = collected(Engine(some, Segmenter(kind())))
    for source, count in enumerate(counts):
        mine = [result for result in results if result.source == source]
        assert [result.frame.index for result in mine] == list(range(count))
        for result in mine:
            assert result.segmentation.scores[0, 0, 0] == source
            assert result.segmentation.scores[1, 0, 0] == result.frame.index
            assert result.segmentation.size == sizes[source] == result.frame.size
    for channel, count in zip(some, counts, strict=True):
        assert (channel.ended, channel.error) == (True, None)
        assert (channel.stats.produced, channel.stats.stages["infer"].count) == (count, count)


def test_what_all_have_newest_makes_one_batch_and_nobody_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two sources stand ready, the third is held up: batches have two; then they have three.

    No thread is too slow for its batch: one that used its result is waited for as long as it takes.
    """
    monkeypatch.setattr(sharing, "LINGER_SECONDS", 60.0)
    monkeypatch.setattr(sharing.Shared, "GRACE_SECONDS", 60.0)
    gate = threading.Event()
    late = Numbered(2, 10**6, before=lambda index: gate.wait(60) and None)
    some = channels(Numbered(0, 10**6), Numbered(1, 10**6), late)
    backend = Echo(batches=True)
    with Engine(some, Segmenter(backend)) as engine:
        coming = engine.poll(0.05)

        def until(batches: int) -> list[int]:
            """The sizes of all batches, once there are so many."""
            while len(backend.sizes) < batches:
                for result in next(coming):
                    engine.done(result)
            return backend.sizes[:batches]

        start = len(until(8))  # each may have come alone at first
        assert until(start + 4)[start:] == [2] * 4
        gate.set()
        start = len(backend.sizes)
        while until(start)[-1] != 3:
            start += 1
        assert until(start + 4)[start:] == [3] * 4


def test_sources_do_not_part_into_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two come while the first two are in the network: from then on all four go together, though
    results are taken only a while after the network is free."""
    monkeypatch.setattr(sharing, "LINGER_SECONDS", 5.0)
    backend, busy, nobody = Echo(batches=True), threading.Event(), threading.Event()

    def work() -> None:
        busy.set()
        nobody.wait(0.02)

    late = [Numbered(n, 40, live=True, before=lambda i: busy.wait(5) and None) for n in (2, 3)]
    some = channels(Numbered(0, 40, live=True), Numbered(1, 40, live=True), *late)
    with Engine(some, Segmenter(backend)) as engine:
        backend.sizes.clear()  # of warming up
        backend.before = work
        for results in engine.poll(0.05):
            nobody.wait(0.01)
            for result in results:
                engine.done(result)
    assert np.median(backend.sizes) == 4


def test_batches_of_every_size_are_tried_before_the_first_frame() -> None:
    backend = Echo(batches=True)
    with Engine(channels(*(Numbered(i, 0) for i in range(6))), Segmenter(backend)):
        assert backend.sizes == [2, 4, 6, 5, 3]  # what 2, 4 and 6 prepare can serve 5 and 3


def test_no_source_starves_beside_one_that_is_always_ready() -> None:
    """A source of a thousand frames a second and two slow ones: they share the network equally."""
    backend = Echo()
    gate = threading.Event()
    backend.before = lambda: gate.wait(0.002) and None
    some = channels(*(Numbered(i, 60, live=True) for i in range(3)), newest=False)
    engine = Engine(some, Segmenter(backend))
    collected(engine)
    served = Counter(backend.order[:120])
    assert all(abs(count - 40) <= 4 for count in served.values()), served


def test_live_sources_keep_their_newest_and_count_their_own_drops() -> None:
    """The network waits until one source is through: its frames are replaced, the other's not."""
    through = threading.Event()
    quick = Numbered(0, 100, live=True, before=lambda i: through.set() if i == 99 else None)
    slow = Numbered(1, 3, live=True, before=lambda i: through.wait(5) and None)
    backend = Echo()
    backend.before = lambda: through.wait(5) and None
    some = [Channel(quick, "quick"), Channel(slow, "slow", newest=False)]
    results = collected(Engine(some, Segmenter(backend)))
    assert max(result.frame.index for result in results if result.source == 0) == 99
    assert [result.frame.index for result in results if result.source == 1] == [0, 1, 2]
    assert some[0].stats.dropped_by.keys() <= {"capture", "stop"}
    assert some[0].stats.dropped_by["capture"] >= 90
    assert some[1].stats.dropped_by.get("capture", 0) == 0


def test_a_source_that_is_lost_keeps_its_error_and_stops_no_other() -> None:
    error = SourceError("camera 0 is gone")

    def lose(index: int) -> None:
        if index == 5:
            raise error

    some = channels(Numbered(0, 100, before=lose), Numbered(1, 50))
    results = collected(Engine(some, Segmenter(Echo())))
    assert Counter(result.source for result in results) == {0: 5, 1: 50}
    assert some[0].error is error
    assert some[1].error is None


def test_a_source_that_never_opened_is_one_that_is_lost_at_once() -> None:
    error = SourceError("cannot open camera 7")
    some = channels(Unopened("camera 7", error), Numbered(1, 5))
    assert len(collected(Engine(some, Segmenter(Echo())))) == 5
    assert some[0].error is error


def test_what_makes_no_sense_closes_the_sources_that_did_open() -> None:
    opened = Numbered(0, 5)

    def nonsense() -> Source:
        raise UsageError("size 0x0")

    with pytest.raises(UsageError, match="size 0x0"):
        open_all([("a", lambda: opened), ("b", nonsense)])
    assert opened._closed


def test_sources_are_opened_beside_each_other() -> None:
    both = threading.Barrier(2)

    def slow(number: int) -> Source:
        both.wait(10)
        return Numbered(number, 1)

    found = open_all([("a", lambda: slow(0)), ("b", lambda: slow(1))])
    assert [source.info.name for source in found] == ["source 0", "source 1"]


def test_a_fault_in_a_source_that_is_no_source_error_is_not_hidden() -> None:
    def fault(index: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        collected(Engine(channels(Numbered(0, 5, before=fault), Numbered(1, 5)), Segmenter(Echo())))


@pytest.mark.parametrize("kind", KINDS, ids=["one by one", "batches", "lanes"])
def test_a_network_that_fails_ends_the_run(kind) -> None:
    backend = kind()
    calls = itertools.count()

    def fail() -> None:
        if next(calls) == 8:
            raise BackendError("the network failed")

    backend.before = fail
    with pytest.raises(BackendError, match="the network failed"):
        collected(Engine(channels(Numbered(0, 10**6), Numbered(1, 10**6)), Segmenter(backend)))


def test_leaving_early_joins_the_threads_and_counts_what_was_on_its_way() -> None:
    some = channels(Numbered(0, 10**6), Numbered(1, 10**6))
    shown = 0
    with Engine(some, Segmenter(Echo())) as engine:
        for results in engine.poll(0.05):
            for result in results:
                engine.done(result)
                some[result.source].stats.show(result.frame.captured_at)
                shown += 1
            if shown >= 20:
                break
    for channel in some:
        assert channel.stats.shown + channel.stats.dropped == channel.stats.produced
        assert channel.stats.hung == []
    assert sum(channel.stats.shown for channel in some) == shown


def test_a_hung_source_is_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "JOIN_SECONDS", 0.1)
    release = threading.Event()
    hung = Numbered(0, 5, live=True, before=lambda i: i == 2 and release.wait(30) and None)
    some = channels(hung, Numbered(1, 30))
    with Engine(some, Segmenter(Echo())) as engine:
        for results in engine.poll(0.02):
            for result in results:
                engine.done(result)
            if some[1].ended:
                break
    assert some[0].stats.hung == ["capture of source 0"]
    assert some[1].stats.hung == []
    release.set()


def test_a_hung_propagation_is_named_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "JOIN_SECONDS", 0.1)
    release, entered = threading.Event(), threading.Event()

    def hang(*args: object, **options: object) -> Iterator[Pair]:
        entered.set()
        release.wait(30)
        yield from ()

    monkeypatch.setattr(inference, "carried_live", hang)
    some = [
        Channel(Numbered(n, 5, live=True), f"{n}", temporal=TemporalOptions(propagate=n == 1))
        for n in (0, 1)
    ]
    with Engine(some, Segmenter(Echo())):
        assert entered.wait(10)
    release.set()
    assert [channel.stats.hung for channel in some] == [[], ["propagation-1"]]


def test_sources_that_hang_are_waited_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "JOIN_SECONDS", 0.5)
    release = threading.Event()

    def hang(index: int) -> None:
        release.wait(30)

    some = channels(*(Numbered(n, 5, live=True, before=hang) for n in range(4)))
    with Engine(some, Segmenter(Echo())):
        since = time.monotonic()
    took = time.monotonic() - since
    release.set()
    assert 0.4 < took < 1.5  # one after the other takes 2 s
    assert [channel.stats.hung for channel in some] == [
        [f"capture of source {n}"] for n in range(4)
    ]


def test_a_paced_recording_takes_its_own_time() -> None:
    channel = Channel(Numbered(0, 11, fps=50), "clip", newest=False, paced=True)
    with Engine([channel], Segmenter(Echo())) as engine:
        at = []
        for results in engine.poll(0.05):
            for result in results:
                engine.done(result)
                at.append(result.frame.captured_at)
    assert len(at) == 11
    assert at[-1] - at[0] >= 0.19


def tied(options: TemporalOptions, *sources: Source) -> list[Channel]:
    return [Channel(s, s.info.name, newest=False, temporal=options) for s in sources]


def test_each_source_is_smoothed_by_itself() -> None:
    """Scores that stand still within a source are as they were, whatever the others say."""
    some = tied(TemporalOptions(smooth=0.9), *(Numbered(i * 40, 6) for i in range(3)))
    for result in collected(Engine(some, Segmenter(Echo()))):
        assert result.segmentation.scores[0] == pytest.approx(result.source * 40)
    assert all(channel.stats.stages["smooth"].count == 6 for channel in some)


@pytest.mark.parametrize("kind", KINDS, ids=["one by one", "batches", "lanes"])
def test_the_network_rests_at_the_source_that_stands_still_and_at_no_other(kind) -> None:
    """One picture never changes, the other always does, while both share the network."""

    class Standing(Numbered):
        def _read(self) -> Frame | None:
            frame = super()._read()
            return frame and replace(frame, picture=np.full_like(frame.image, 7))

    some = tied(TemporalOptions(idle=True), Standing(0, 25), Moving(1, 25))
    results = collected(Engine(some, Segmenter(kind())))
    rested = Counter(result.source for result in results if result.segmentation.carried)
    assert rested.keys() == {0}
    assert rested[0] >= 15
    for source in (0, 1):
        mine = [result for result in results if result.source == source]
        assert [result.frame.index for result in mine] == list(range(25))
    assert all((x.segmentation.scores[:2] == 7).all() for x in results if x.source == 0)
    assert some[0].stats.stages["infer"].count == 25 - rested[0]
    assert some[1].stats.stages["infer"].count == 25


class Device(Echo):
    """Takes whole frames, as a GPU does, and counts the threads that are in it at once."""

    def __init__(self) -> None:
        super().__init__(batches=True)
        self.inside = self.most = 0
        self.counting = threading.Lock()
        self.segment = self._segment

    def _segment(self, pictures: Sequence[Any]) -> list[Any]:
        with self.counting:
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(0.002)
        with self.counting:
            self.inside -= 1
            self.sizes.append(len(pictures))
        return [_Held(np.full((21, 2, 2), picture[0, 0, 0], np.float32)) for picture in pictures]


class _Held:
    def __init__(self, scores: np.ndarray) -> None:
        self.scores, self.shape = scores, scores.shape

    def numpy(self) -> np.ndarray:
        return self.scores

    def with_scores(self, scores: np.ndarray) -> _Held:
        return _Held(scores)

    def wait(self) -> float:
        return 0.0

    def decode(self, size: tuple[int, int], *_: object, **__: object) -> tuple[Any, Any]:
        return np.zeros(size, np.uint8), np.zeros(256, np.int64)

    def over(self, *_: object, **__: object) -> None:
        """Draws nothing."""


@pytest.mark.parametrize(
    "options",
    [TemporalOptions(), TemporalOptions(smooth=0.8, idle=True), TemporalOptions(propagate=True)],
    ids=["plain", "smooth and idle", "propagated"],
)
def test_a_device_has_the_frames_of_one_thread_at_a_time(options: TemporalOptions) -> None:
    def camera(number: int) -> Channel:
        source = Moving(number, 60, live=True, before=lambda _: time.sleep(0.003))
        return Channel(source, source.info.name, temporal=options)

    device = Device()
    with Engine([camera(n) for n in range(3)], Segmenter(device), shared=True) as engine:
        device.sizes.clear()  # of the warm-up
        for turn, results in enumerate(engine.poll(0.05)):
            if turn == 5:
                engine.add(camera(3))
            for result in results:
                engine.done(result)
    assert device.most == 1
    if not options.propagate:  # whose keyframes come one by one
        assert max(device.sizes) > 1


def test_a_frame_that_a_device_has_keeps_its_classes_while_the_model_is_replaced() -> None:
    two = LabelSet(("a", "b"), ((0, 0, 0), (9, 9, 9)))

    class Replacing(Device):
        def _segment(self, pictures: Sequence[Any]) -> list[Any]:
            replaceable.replace_by(Segmenter(Echo(), labels=two))
            return super()._segment(pictures)

    first = Segmenter(Replacing())
    replaceable = ReplaceableSegmenter(first)
    frame = Frame(np.zeros((32, 48, 3), np.uint8), 0, 0.0, 0.0)
    ((_, segmentation),), _, _ = replaceable.begin([frame], Clock())
    assert segmentation.labels == first.labels


def test_names_are_told_apart() -> None:
    assert distinct(["a", "b", "a", "a", "a (2)"]) == ["a", "b", "a (2)", "a (3)", "a (2) (2)"]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(1280, 720)], (1280, 720)),
        ([(1280, 720), (640, 360)], (1280, 720)),
        ([(1280, 720), (720, 1280)], (960, 960)),
    ],
)
def test_the_common_shape_is_the_mean_of_shapes_at_the_largest_area(sizes, expected) -> None:
    assert common_shape(sizes) == expected


@pytest.mark.parametrize("kind", KINDS, ids=["one by one", "batches", "lanes"])
def test_sources_come_and_go_while_it_runs(kind) -> None:
    some = channels(Numbered(0, 10**6, live=True), newest=True)
    with Engine(some, Segmenter(kind()), shared=True) as engine:
        coming = engine.poll(0.05)

        def until(source: int) -> None:
            """Use results until one of this source was among them."""
            for results in coming:
                for result in results:
                    engine.done(result)
                if source in [result.source for result in results]:
                    return

        until(0)
        for number in (1, 2, 3):
            added = channels(Numbered(number, 10**6, live=True), newest=True)[0]
            assert engine.add(added) == number
            until(number)
            until(0)
        engine.remove(1)
        assert engine.channels[1].ended
        seen = set()
        for results in itertools.islice(coming, 20):
            for result in results:
                seen.add(result.source)
                engine.done(result)
        assert 1 not in seen
        until(2)
        for number in (0, 2, 3):
            engine.remove(number)
        assert [results for results in coming if results] == []
    for channel in engine.channels:
        assert channel.stats.hung == []


def test_an_engine_of_one_source_takes_no_other() -> None:
    with (
        Engine(channels(Numbered(0, 3)), Segmenter(Echo())) as engine,
        pytest.raises(ValueError, match="shared=True"),
    ):
        engine.add(channels(Numbered(1, 3))[0])
