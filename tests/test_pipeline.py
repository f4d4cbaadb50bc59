"""The loop: order, policy, drops, errors, stopping, numbers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rtseg import threads
from rtseg.contracts import Backend, BackendInfo, Rendered, Sink, Source, SourceInfo
from rtseg.effects import ViewOptions, open_effect
from rtseg.errors import BackendError, SinkError, SourceError, UsageError
from rtseg.frame import Frame
from rtseg.options import keeps_newest
from rtseg.segmenter import Segmenter
from rtseg.session import inference
from rtseg.session.loop import Control, run, stream
from rtseg.stats import Stats
from rtseg.zoo import ModelSpec


class Numbered(Source):
    """Frames whose pixels hold their number; `before` is called ahead of each read."""

    def __init__(
        self,
        count: int,
        *,
        live: bool = False,
        before: Callable[[int], None] = lambda index: None,
        skip: int = 1,
    ) -> None:
        super().__init__()
        self.info = SourceInfo("numbers", 48, 32, Fraction(30), count, live)
        self.count, self.before, self.skip, self.next = count, before, skip, 0

    def _read(self) -> Frame | None:
        if self.next >= self.count:
            return None
        self.before(self.next)
        index, self.next = self.next, self.next + self.skip
        image = np.full((32, 48, 3), index % 256, np.uint8)
        return Frame(image, index, index / 30, self.clock.now())


class Echo(Backend):
    """Scores that say the frame's number: class n wins where the picture's value is n."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.spec = ModelSpec("echo", "stub")
        self.input_size = (16, 16)
        self.info = BackendInfo("stub", "cpu", "fp32")
        self.before = before

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.before()
        scores = np.zeros((1, 21, 2, 2), np.float32)
        scores[0, int(batch[0, 0, 0, 0]) % 21] = 1
        return scores


class Listing(Sink):
    """Remembers frame numbers and what their segmentation says; may close itself or fail."""

    def __init__(self, close_at: int = 10**9, fail_at: int = 10**9) -> None:
        self.seen: list[tuple[int, int]] = []
        self.notices: list[str | None] = []
        self.images = 0
        self.close_at, self.fail_at = close_at, fail_at

    @property
    def alive(self) -> bool:
        return len(self.seen) < self.close_at

    def write(self, rendered: Rendered) -> None:
        if len(self.seen) == self.fail_at:
            raise SinkError("disk full")
        self.seen.append((rendered.frame.index, int(rendered.segmentation.mask[0, 0])))
        self.images += rendered.image.shape == (32, 48, 3)

    def idle(self, notice: str | None) -> None:
        self.notices.append(notice)


def plain(frame: Frame, segmentation: object) -> np.ndarray:
    return frame.image


@pytest.mark.parametrize("count", [0, 1, 500])
def test_a_file_gives_every_frame_in_order_with_its_own_mask(count) -> None:
    sink = Listing()
    report = run(Numbered(count), Segmenter(Echo()), plain, [sink])
    # pixel values wrap at 256, classes at 21
    assert sink.seen == [(i, i % 256 % 21) for i in range(count)]
    assert (report.frames, report.produced, report.dropped) == (count, count, 0)
    assert sink.images == count


def test_live_keeps_the_newest_and_counts_every_drop() -> None:
    """The network waits until the source is through: all but the first and last are replaced."""
    through = threading.Event()
    source = Numbered(100, live=True, before=lambda i: through.set() if i == 99 else None)
    source.count = 100
    sink = Listing()
    report = run(source, Segmenter(Echo(lambda: through.wait(5) and None)), plain, [sink])
    assert sink.seen[-1][0] == 99
    assert report.produced == 100
    assert report.frames + report.dropped == report.produced
    assert report.dropped_by["capture"] >= 90
    assert [index for index, _ in sink.seen] == sorted(index for index, _ in sink.seen)


def test_gaps_of_a_live_source_are_drops_of_the_camera() -> None:
    report = run(Numbered(30, live=True, skip=3), Segmenter(Echo()), plain, [], policy="all")
    assert report.dropped_by == {"camera": 18}
    assert report.frames == 10
    assert report.produced == 28


def test_gaps_of_a_replay_are_not_the_fault_of_a_camera() -> None:
    source = Numbered(30, live=True, skip=3)
    source.info = replace(source.info, replayed=True)
    assert run(source, Segmenter(Echo()), plain, [], policy="all").dropped_by == {"reading": 18}


def test_policy() -> None:
    assert keeps_newest("auto", live=True)
    assert not keeps_newest("auto", live=False)
    assert not keeps_newest("all", live=True)
    assert keeps_newest("newest", live=False)
    with pytest.raises(UsageError, match="choices are auto, newest, all"):
        keeps_newest("some", live=True)


def failing_source() -> Numbered:
    def before(index: int) -> None:
        if index == 5:
            raise SourceError("camera 0 is gone")

    return Numbered(10, before=before)


def failing_backend() -> Echo:
    calls = iter(range(100))

    def before() -> None:
        if next(calls) == 5:
            raise BackendError("the network failed")

    return Echo(before)


@pytest.mark.parametrize(
    ("source", "backend", "sink", "error"),
    [
        (failing_source, Echo, Listing, SourceError),
        (lambda: Numbered(10), failing_backend, Listing, BackendError),
        (lambda: Numbered(10), Echo, lambda: Listing(fail_at=5), SinkError),
    ],
)
def test_an_error_anywhere_comes_out_and_loses_nothing_before_it(
    source, backend, sink, error
) -> None:
    kept, stats = sink(), Stats()
    with pytest.raises(error):
        run(source(), Segmenter(backend()), plain, [kept], stats=stats)
    assert [index for index, _ in kept.seen] == [0, 1, 2, 3, 4]
    assert stats.shown == 5
    assert stats.shown + stats.dropped == stats.produced


def test_a_closed_sink_ends_the_run() -> None:
    sink = Listing(close_at=3)
    source = Numbered(10**6)
    report = run(source, Segmenter(Echo()), plain, [sink])
    assert report.frames == 3
    assert report.dropped_by.keys() == {"stop"}
    assert report.frames + report.dropped == report.produced


def test_stop_is_heard_while_nothing_comes() -> None:
    asked = []
    release = threading.Event()
    source = Numbered(10, before=lambda index: release.wait(10) and None)
    sink = Listing()

    def stop() -> bool:
        asked.append(1)
        if len(asked) == 3:
            release.set()
        return len(asked) >= 3

    source.notice = "reconnecting"
    report = run(source, Segmenter(Echo()), plain, [sink], stop=stop)
    assert report.frames == 0
    assert sink.notices[:3] == ["reconnecting"] * 3


def test_a_hung_source_is_left_behind_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "JOIN_SECONDS", 0.1)
    release = threading.Event()
    source = Numbered(100, before=lambda i: i == 5 and release.wait(30) and None)
    released = []
    source._release = lambda: released.append(1)  # type: ignore[method-assign]
    sink = Listing()
    with source:
        report = run(source, Segmenter(Echo()), plain, [sink], stop=lambda: len(sink.seen) == 5)
    assert report.hung == ["capture"]
    assert released == [], "a device is never released under a thread that is still reading it"
    release.set()


def test_nothing_is_drawn_when_no_sink_wants_a_picture() -> None:
    class Counting(Sink):
        wants_image = False

        def write(self, rendered: Rendered) -> None:
            pass

    def effect(frame: Frame, segmentation: object) -> np.ndarray:
        raise AssertionError("drawn for nobody")

    report = run(Numbered(5), Segmenter(Echo()), effect, [Counting()])
    assert report.frames == 5
    assert "draw" not in report.stages_ms


def test_the_report_has_every_figure() -> None:
    report = run(Numbered(20), Segmenter(Echo()), plain, [Listing()])
    assert set(report.stages_ms) == {
        "capture", "preprocess", "infer", "decode", "draw", "write",
    }  # fmt: skip
    for row in [report.age_ms, *report.stages_ms.values()]:
        assert row["p50"] <= row["p95"] <= row["p99"] <= row["max"]
    assert report.fps > 0
    assert (report.backend, report.device, report.precision) == ("stub", "cpu", "fp32")
    assert report.imgsz == (16, 16)


def test_stream_pairs_and_stops_early() -> None:
    pairs = stream(Numbered(10**6), Segmenter(Echo()))
    for frame, segmentation in pairs:
        assert segmentation.mask[0, 0] == frame.image[0, 0, 0] % 21
        if frame.index == 50:
            break
    pairs.close()


@pytest.mark.parametrize("live", [False, True])
def test_a_source_that_a_run_has_ended_is_not_empty_but_refused(live: bool) -> None:
    source, segmenter = Numbered(600, live=live), Segmenter(Echo())
    next(stream(source, segmenter))
    with pytest.raises(UsageError, match=r"cannot read numbers again.*Open it again"):
        next(stream(source, segmenter))
    with pytest.raises(UsageError, match="again"):
        run(source, segmenter, plain, [Listing()])


def test_a_slow_network_is_never_given_an_old_frame() -> None:
    """Six frames come during each call: the next call gets the newest, or the one before it."""
    count, given = 61, []
    tickets, reads = threading.Semaphore(1), threading.Semaphore(0)

    def read(index: int) -> None:
        assert tickets.acquire(timeout=10)
        reads.release()

    class Slow(Echo):
        def __call__(self, batch: np.ndarray) -> np.ndarray:
            due = min(6, count - 1 - 6 * len(given))
            given.append(int(batch[0, 0, 0, 0]))
            for _ in range(due):
                tickets.release()
            # the first call also finds the read of its own frame
            for _ in range(due + (len(given) == 1)):
                assert reads.acquire(timeout=10)
            return super().__call__(batch)

    report = run(Numbered(count, live=True, before=read), Segmenter(Slow()), plain, [])
    assert report.frames + report.dropped == report.produced == count
    assert [index >= 6 * call - 1 for call, index in enumerate(given)] == [True] * len(given)
    assert len(given) >= 11


@pytest.mark.parametrize(("live", "at_once"), [(False, 2), (True, 1)])
def test_lanes_are_for_files_and_a_live_frame_has_the_network_alone(live, at_once) -> None:
    class Lanes(Echo):
        lanes = 2
        inside = most = 0

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            with lock:
                self.inside += 1
                self.most = max(self.most, self.inside)
            if not live:
                both.wait(10)
            with lock:
                self.inside -= 1
            return super().__call__(batch)

    lock, both, backend, sink = threading.Lock(), threading.Barrier(2), Lanes(), Listing()
    report = run(Numbered(40, live=live), Segmenter(backend), plain, [sink], policy="auto")
    assert backend.most == at_once
    assert report.frames + report.dropped == report.produced == 40
    if not live:
        assert sink.seen == [(i, i % 21) for i in range(40)]


@pytest.mark.parametrize(
    ("cores", "device", "live", "in_turns"),
    [(2, "cpu", True, True), (8, "cpu", True, False), (2, "cuda", True, False),
     (2, "cpu", False, False)],
)  # fmt: skip
def test_where_cores_are_few_a_live_network_waits_for_the_drawing(
    cores: int, device: str, live: bool, in_turns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "usable_cores", lambda: cores)
    calls, begun, stretched = [], threading.Condition(), []

    def see() -> None:
        with begun:
            calls.append(1)
            begun.notify_all()

    def draw(frame: Frame, segmentation: object) -> np.ndarray:
        if frame.index < 30:
            with begun:
                before = len(calls)
                meanwhile = begun.wait_for(lambda: len(calls) > before, 0.01 if in_turns else 5)
                stretched.append(meanwhile)
        return frame.image

    backend = Echo(see)
    backend.info = BackendInfo("stub", device, "fp32")
    source = Numbered(40, live=live, before=lambda index: time.sleep(0.002))
    report = run(source, Segmenter(backend), draw, [Listing()])
    assert report.frames + report.dropped == report.produced == 40
    assert stretched
    assert any(stretched) is not in_turns


@pytest.mark.parametrize("policy", ["auto", "newest"])
def test_a_file_is_not_read_while_the_picture_rests(policy) -> None:
    class Resting(Control):
        def __init__(self) -> None:
            self.asked = 0
            self.reads: list[int] = []

        def rests(self) -> bool:
            if not sink.seen or self.asked > 40:
                return False
            self.asked += 1
            self.reads.append(source.next)
            return True

    source, sink, control = Numbered(10**9), Listing(close_at=30), Resting()
    report = run(source, Segmenter(Echo()), plain, [sink], policy=policy, control=control)
    assert control.asked == 41
    settled = control.reads[10:]  # what is on its way when it begins to rest comes to a stop soon
    assert settled[-1] == settled[0]
    assert report.frames + report.dropped == report.produced
    if policy == "auto":
        assert [index for index, _ in sink.seen] == list(range(30))


def test_drops_while_the_picture_rests_are_counted_as_such() -> None:
    class Resting(Control):
        def rests(self) -> bool:
            return 0 < len(sink.seen) < 5 and source.next < 500

    def pace(index: int) -> None:
        tick.wait(0.0005)

    tick = threading.Event()
    sink = Listing()
    source = Numbered(600, live=True, before=pace)
    report = run(source, Segmenter(Echo()), plain, [sink], control=Resting())
    assert report.dropped_by["pause"] > 300
    assert report.frames + report.dropped == report.produced == 600
    assert sink.seen[-1][0] == 599


class Held(Echo):
    """Keeps frames and scores as a device does, and counts the masks that are fetched from it."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched = 0
        self.segment = self._segment

    def _segment(self, pictures: Sequence[Any]) -> list[Any]:
        return [self._scores(np.array(picture)) for picture in pictures]

    def _scores(self, image: np.ndarray) -> Any:
        mask = np.full(image.shape[:2], 15, np.uint8)

        def fetch() -> np.ndarray:
            self.fetched += 1
            return mask

        counts = np.bincount(mask.ravel(), minlength=256)
        drawn = SimpleNamespace(image=image, counts=counts, mask=fetch)
        return SimpleNamespace(
            shape=(21, 2, 2),
            over=lambda *args, **how: drawn,
            decode=lambda *args, **how: (fetch(), counts),
            wait=lambda: 0.0,
        )


@pytest.mark.parametrize(("reads", "fetched"), [("image", 0), ("shares", 0), ("mask", 3)])
def test_a_mask_is_fetched_from_a_device_only_for_who_reads_it(reads: str, fetched: int) -> None:
    class Reader(Sink):
        def __init__(self) -> None:
            self.found: list[Any] = []

        def write(self, rendered: Rendered) -> None:
            _ = rendered.image
            if reads != "image":
                self.found.append(getattr(rendered.segmentation, reads))

    backend, sink = Held(), Reader()
    segmenter = Segmenter(backend)
    effect = open_effect(ViewOptions(), segmenter.labels)
    backend.fetched = 0
    report = run(Numbered(3), segmenter, effect, [sink])
    # one is of a blank frame, before the first
    assert (report.frames, backend.fetched) == (3, fetched + 1)
    if reads == "shares":
        assert sink.found == [{segmenter.labels.names[15]: 1.0}] * 3
    if reads == "mask":
        assert all((mask == 15).all() for mask in sink.found)
