"""Several sources, one network: fair, batched, each with its own frames, errors and numbers."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from rtseg.contracts import Backend, BackendInfo, Source, SourceInfo
from rtseg.errors import BackendError, SourceError, UsageError
from rtseg.frame import Frame
from rtseg.segmenter import Segmenter
from rtseg.session.many import Crowd, Feed, Look, Unopened, common_shape, open_all
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


def feeds(*sources: Source, newest: bool = False) -> list[Feed]:
    return [Feed(source, source.info.name, newest=newest) for source in sources]


def collected(crowd: Crowd) -> list[Look]:
    found: list[Look] = []
    with crowd:
        for looks in crowd.poll(0.05):
            for look in looks:
                crowd.back(look)
            found += looks
    return found


KINDS = [Echo, lambda: Echo(batches=True), lambda: Echo(lanes=2)]


@pytest.mark.parametrize("kind", KINDS, ids=["one by one", "batches", "lanes"])
def test_every_frame_of_every_source_comes_in_order_with_its_own_scores(kind) -> None:
    counts = [40, 7, 0, 25]
    sizes = [(32, 48), (60, 20), (32, 32), (17, 90)]
    some = feeds(*(Numbered(i, n, size=sizes[i]) for i, n in enumerate(counts)))
    looks = collected(Crowd(some, Segmenter(kind())))
    for source, count in enumerate(counts):
        mine = [look for look in looks if look.source == source]
        assert [look.frame.index for look in mine] == list(range(count))
        for look in mine:
            assert look.segmentation.scores[0, 0, 0] == source
            assert look.segmentation.scores[1, 0, 0] == look.frame.index
            assert look.segmentation.size == sizes[source] == look.frame.size
    for feed, count in zip(some, counts, strict=True):
        assert (feed.ended, feed.error) == (True, None)
        assert (feed.stats.produced, feed.stats.stages["infer"].count) == (count, count)


def next_round(crowd: Crowd, coming: Iterator[list[Look]], expected: set[int]) -> list[int]:
    """Wait for a look of each of these, give them back at once, and see what makes one batch."""
    held: list[Look] = []
    while {look.source for look in held} != expected:
        held += next(coming)
    turns = crowd._frames
    with turns._changed:
        ready = [turns.flows[index] for index in expected]
        assert turns._changed.wait_for(lambda: all(flow._buffer for flow in ready), 10)
        for look in held:
            crowd.back(look)
    while not (looks := next(coming)):
        pass
    for look in looks:
        crowd.back(look)
    return sorted(look.source for look in looks)


def test_what_all_have_newest_makes_one_batch_and_nobody_is_waited_for() -> None:
    """Two sources stand ready, the third is held up: the batch has two; then it has three."""
    gate = threading.Event()
    late = Numbered(2, 10**6, before=lambda index: gate.wait(20) and None)
    some = feeds(Numbered(0, 10**6), Numbered(1, 10**6), late)
    with Crowd(some, Segmenter(Echo(batches=True))) as crowd:
        coming = crowd.poll(0.05)
        assert next_round(crowd, coming, {0, 1}) == [0, 1]
        gate.set()
        assert next_round(crowd, coming, {0, 1, 2}) == [0, 1, 2]


def test_sources_do_not_part_into_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two come while the first two are in the network: from then on all four go together, though
    looks are taken only a while after the network is free."""
    monkeypatch.setattr("rtseg.session.many.LINGER_SECONDS", 5.0)
    backend, busy, nobody = Echo(batches=True), threading.Event(), threading.Event()

    def work() -> None:
        busy.set()
        nobody.wait(0.02)

    late = [Numbered(n, 40, live=True, before=lambda i: busy.wait(5) and None) for n in (2, 3)]
    some = feeds(Numbered(0, 40, live=True), Numbered(1, 40, live=True), *late)
    with Crowd(some, Segmenter(backend)) as crowd:
        backend.sizes.clear()  # of warming up
        backend.before = work
        for looks in crowd.poll(0.05):
            nobody.wait(0.01)
            for look in looks:
                crowd.back(look)
    assert np.median(backend.sizes) == 4


def test_batches_of_every_size_are_tried_before_the_first_frame() -> None:
    backend = Echo(batches=True)
    with Crowd(feeds(*(Numbered(i, 0) for i in range(6))), Segmenter(backend)):
        assert backend.sizes == [2, 4, 6, 5, 3]  # what 2, 4 and 6 prepare can serve 5 and 3


def test_no_source_starves_beside_one_that_is_always_ready() -> None:
    """A source of a thousand frames a second and two slow ones: they share the network equally."""
    backend = Echo()
    gate = threading.Event()
    backend.before = lambda: gate.wait(0.002) and None
    some = feeds(*(Numbered(i, 60, live=True) for i in range(3)), newest=False)
    crowd = Crowd(some, Segmenter(backend))
    collected(crowd)
    served = Counter(backend.order[:120])
    assert all(abs(count - 40) <= 4 for count in served.values()), served


def test_live_sources_keep_their_newest_and_count_their_own_drops() -> None:
    """The network waits until one source is through: its frames are replaced, the other's not."""
    through = threading.Event()
    quick = Numbered(0, 100, live=True, before=lambda i: through.set() if i == 99 else None)
    slow = Numbered(1, 3, live=True, before=lambda i: through.wait(5) and None)
    backend = Echo()
    backend.before = lambda: through.wait(5) and None
    some = [Feed(quick, "quick"), Feed(slow, "slow", newest=False)]
    looks = collected(Crowd(some, Segmenter(backend)))
    assert max(look.frame.index for look in looks if look.source == 0) == 99
    assert [look.frame.index for look in looks if look.source == 1] == [0, 1, 2]
    assert some[0].stats.dropped_by.keys() <= {"capture", "stop"}
    assert some[0].stats.dropped_by["capture"] >= 90
    assert some[1].stats.dropped_by.get("capture", 0) == 0


def test_a_source_that_is_lost_keeps_its_error_and_stops_no_other() -> None:
    error = SourceError("camera 0 is gone")

    def lose(index: int) -> None:
        if index == 5:
            raise error

    some = feeds(Numbered(0, 100, before=lose), Numbered(1, 50))
    looks = collected(Crowd(some, Segmenter(Echo())))
    assert Counter(look.source for look in looks) == {0: 5, 1: 50}
    assert some[0].error is error
    assert some[1].error is None


def test_a_source_that_never_opened_is_one_that_is_lost_at_once() -> None:
    error = SourceError("cannot open camera 7")
    some = feeds(Unopened("camera 7", error), Numbered(1, 5))
    assert len(collected(Crowd(some, Segmenter(Echo())))) == 5
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
        collected(Crowd(feeds(Numbered(0, 5, before=fault), Numbered(1, 5)), Segmenter(Echo())))


@pytest.mark.parametrize("kind", KINDS, ids=["one by one", "batches", "lanes"])
def test_a_network_that_fails_ends_the_run(kind) -> None:
    backend = kind()
    calls = itertools.count()

    def fail() -> None:
        if next(calls) == 8:
            raise BackendError("the network failed")

    backend.before = fail
    with pytest.raises(BackendError, match="the network failed"):
        collected(Crowd(feeds(Numbered(0, 10**6), Numbered(1, 10**6)), Segmenter(backend)))


def test_leaving_early_joins_the_threads_and_counts_what_was_on_its_way() -> None:
    some = feeds(Numbered(0, 10**6), Numbered(1, 10**6))
    shown = 0
    with Crowd(some, Segmenter(Echo())) as crowd:
        for looks in crowd.poll(0.05):
            for look in looks:
                crowd.back(look)
                some[look.source].stats.show(look.frame.captured_at)
                shown += 1
            if shown >= 20:
                break
    for feed in some:
        assert feed.stats.shown + feed.stats.dropped == feed.stats.produced
        assert feed.stats.hung == []
    assert sum(feed.stats.shown for feed in some) == shown


def test_a_hung_source_is_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtseg.threads.JOIN_SECONDS", 0.1)
    release = threading.Event()
    hung = Numbered(0, 5, live=True, before=lambda i: i == 2 and release.wait(30) and None)
    some = feeds(hung, Numbered(1, 30))
    with Crowd(some, Segmenter(Echo())) as crowd:
        for looks in crowd.poll(0.02):
            for look in looks:
                crowd.back(look)
            if some[1].ended:
                break
    assert some[0].stats.hung == ["capture of source 0"]
    assert some[1].stats.hung == []
    release.set()


def test_a_paced_recording_takes_its_own_time() -> None:
    feed = Feed(Numbered(0, 11, fps=50), "clip", newest=False, paced=True)
    with Crowd([feed], Segmenter(Echo())) as crowd:
        at = []
        for looks in crowd.poll(0.05):
            for look in looks:
                crowd.back(look)
                at.append(look.frame.captured_at)
    assert len(at) == 11
    assert at[-1] - at[0] >= 0.19


def tied(options: TemporalOptions, *sources: Source) -> list[Feed]:
    return [Feed(s, s.info.name, newest=False, temporal=options) for s in sources]


def test_each_source_is_smoothed_by_itself() -> None:
    """Scores that stand still within a source are as they were, whatever the others say."""
    some = tied(TemporalOptions(smooth=0.9), *(Numbered(i * 40, 6) for i in range(3)))
    for look in collected(Crowd(some, Segmenter(Echo()))):
        assert look.segmentation.scores[0] == pytest.approx(look.source * 40)
    assert all(feed.stats.stages["smooth"].count == 6 for feed in some)


@pytest.mark.parametrize("kind", KINDS, ids=["one by one", "batches", "lanes"])
def test_the_network_rests_at_the_source_that_stands_still_and_at_no_other(kind) -> None:
    """One picture never changes, the other always does, while both share the network."""

    class Standing(Numbered):
        def _read(self) -> Frame | None:
            frame = super()._read()
            return frame and replace(frame, picture=np.full_like(frame.image, 7))

    some = tied(TemporalOptions(idle=True), Standing(0, 25), Moving(1, 25))
    looks = collected(Crowd(some, Segmenter(kind())))
    rested = Counter(look.source for look in looks if look.segmentation.carried)
    assert rested.keys() == {0}
    assert rested[0] >= 15
    for source in (0, 1):
        mine = [look for look in looks if look.source == source]
        assert [look.frame.index for look in mine] == list(range(25))
    assert all((x.segmentation.scores[:2] == 7).all() for x in looks if x.source == 0)
    assert some[0].stats.stages["infer"].count == 25 - rested[0]
    assert some[1].stats.stages["infer"].count == 25


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
