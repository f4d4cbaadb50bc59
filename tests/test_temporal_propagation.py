"""The network on keyframes only: nothing lost, nothing late, nothing unmarked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import threads_left

import rtseg
from rtseg.backends import open_backend
from rtseg.cli.app import main
from rtseg.contracts import Rendered, Sink, Source, SourceInfo
from rtseg.effects.hud import mark_lines
from rtseg.errors import BackendError, SourceError
from rtseg.frame import Carried, Frame, Segmentation
from rtseg.labels import VOID, LabelSet
from rtseg.nets import find_model
from rtseg.segmenter import Pair, Segmenter
from rtseg.session.inference import KeyframeNetwork, carried_live, one_by_one
from rtseg.sources.synthetic import Scene, SyntheticSource, read_number
from rtseg.stats import Clock, Stats
from rtseg.temporal import TemporalOptions
from rtseg.threads import Flow, Slot

SIZE = (320, 180)
TEN = TemporalOptions(propagate=True, key_every=10)


class Scenes(Source):
    """Frames of scenes one after the other, each of (seed, frames, size); may fail at the end."""

    def __init__(self, *scenes: tuple[int, int, tuple[int, int]], fails: bool = False) -> None:
        super().__init__()
        self.info = SourceInfo("scenes", *SIZE, Fraction(30))
        self.truth: list[np.ndarray] = []
        self._left = self._frames(scenes, fails)

    def _frames(
        self, scenes: tuple[tuple[int, int, tuple[int, int]], ...], fails: bool
    ) -> Iterator:
        index = 0
        for seed, count, size in scenes:
            scene = Scene(*size, seed)
            for _ in range(count):
                image = scene.image_of(index)
                # scenes differ in their light, too
                image = (
                    image if seed % 2 == 0 else np.where(image == image[..., :1], image // 4, image)
                )
                self.truth.append(scene.mask_of(index))
                yield Frame(image.astype(np.uint8), index, index / 30, self.clock.now())
                index += 1
        if fails:
            raise SourceError("the cable is out")

    def _read(self) -> Frame | None:
        return next(self._left, None)


class Failing(Segmenter):
    """Fails at the nth look."""

    def __init__(self, at: int) -> None:
        super().__init__(open_backend("stub", find_model("stub")))
        self.at, self.looks = at, 0

    def together(self, frames: Sequence[Frame], clock: Clock) -> tuple[list[Pair], float, float]:
        if self.looks == self.at:
            raise BackendError("out of memory")
        self.looks += 1
        return super().together(frames, clock)


class Listing(Sink):
    """Remembers what was shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, Segmentation]] = []

    def write(self, rendered: Rendered) -> None:
        self.seen.append((rendered.frame.index, rendered.segmentation))


def stub(size: tuple[int, int] | None = None) -> Segmenter:
    return Segmenter(open_backend("stub", find_model("stub"), input_size=size))


def plain(frame: Frame, segmentation: object) -> np.ndarray:
    return frame.image


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return float(((mask == truth) & (truth > 0)).sum() / ((mask > 0) | (truth > 0)).sum())


def test_carried_masks_go_with_the_shapes() -> None:
    """At 30 frames from one keyframe to the next, holding the last mask would be far off."""
    options = TemporalOptions(propagate=True, key_every=30)
    with rtseg.open_source("test://?size=640x360&frames=91") as source:
        assert isinstance(source, SyntheticSource)
        last, carried, held = None, [], []
        for frame, said in rtseg.stream(source, stub(), temporal=options):
            truth = source.mask_of(read_number(frame.image))
            if said.carried is None:
                last = said.mask
            else:
                carried.append(iou(said.mask, truth))
                held.append(iou(last, truth))
    assert len(carried) == 87
    assert np.mean(carried) > np.mean(held) + 0.15
    assert np.mean(carried) > 0.8


def test_every_frame_comes_once_in_order_and_the_counts_add_up() -> None:
    sink, stats = Listing(), Stats()
    with rtseg.open_source("test://?size=320x180&frames=53") as source:
        report = rtseg.run(source, stub(), plain, [sink], stats=stats, temporal=TEN)
    assert [index for index, _ in sink.seen] == list(range(53))
    own = [index for index, said in sink.seen if said.carried is None]
    assert own == [0, 10, 20, 30, 40, 50, 52]
    assert report.keyframes == {"first": 1, "age": 5, "end": 1}
    assert report.frames == report.propagated + sum(report.keyframes.values()) == 53
    assert report.stages_ms["infer"]["p50"] > 0
    assert stats.stages["infer"].count == 7
    assert report.network_fps == pytest.approx(report.fps * 7 / 53, rel=0.01)
    assert sink.seen[3][1].carried == Carried(0, 3)
    assert sink.seen[8][1].carried == Carried(10, -2)


def test_keyframes_are_what_the_network_says_and_two_runs_are_the_same() -> None:
    runs = []
    for _ in range(2):
        source = Scenes((0, 24, SIZE))
        runs.append([said.scores for _, said in rtseg.stream(source, stub(), temporal=TEN)])
    alone = [said.scores for _, said in rtseg.stream(Scenes((0, 24, SIZE)), stub())]
    assert all((a == b).all() for a, b in zip(*runs, strict=True))
    assert (runs[0][10] == alone[10]).all()
    assert not (runs[0][15] == alone[15]).all()


def test_a_cut_takes_nothing_along() -> None:
    source = Scenes((0, 15, SIZE), (1, 15, SIZE))
    pairs = list(rtseg.stream(source, stub(), temporal=TEN))
    assert pairs[15][1].carried is None
    assert [said.carried for _, said in pairs[11:15]] == [Carried(10, n) for n in (1, 2, 3, 4)]
    for frame, said in pairs:
        assert iou(said.mask, source.truth[frame.index]) > 0.6


def test_the_size_of_the_frames_may_change_on_the_way() -> None:
    source = Scenes((0, 7, SIZE), (0, 7, (240, 240)), (2, 7, SIZE))
    options = TemporalOptions(smooth=0.5, propagate=True)
    pairs = list(rtseg.stream(source, stub(), temporal=options))
    assert [said.mask.shape for _, said in pairs] == [truth.shape for truth in source.truth]
    assert [frame.index for frame, said in pairs if said.carried is None] == [0, 7, 14, 20]


@pytest.mark.parametrize("options", [TEN, TemporalOptions(0.5, True, 1), TemporalOptions(1.0)])
def test_a_lost_source_gives_all_frames_before_it(options: TemporalOptions) -> None:
    seen = []
    with pytest.raises(SourceError, match="the cable is out"):  # noqa: PT012
        for frame, _ in rtseg.stream(Scenes((0, 37, SIZE), fails=True), stub(), temporal=options):
            seen.append(frame.index)
    assert seen == list(range(37))


def test_a_network_that_fails_gives_the_frames_before_the_keyframe_it_failed_at() -> None:
    seen = []
    with pytest.raises(BackendError, match="out of memory"):  # noqa: PT012
        for frame, said in rtseg.stream(Scenes((0, 60, SIZE)), Failing(2), temporal=TEN):
            seen.append((frame.index, said.carried))
    assert [index for index, _ in seen] == list(range(20))
    assert seen[-1][1] == Carried(10, 9)


def test_leaving_early_ends_every_thread() -> None:
    for options in (TEN, TemporalOptions(propagate=True)):
        pairs = rtseg.stream(Scenes((0, 10**6, SIZE)), stub(), temporal=options)
        assert [next(pairs)[0].index for _ in range(25)] == list(range(25))
        pairs.close()
        assert threads_left(2.0) == []


def test_a_run_that_is_stopped_counts_every_frame() -> None:
    sink = Listing()
    report = rtseg.run(
        Scenes((0, 10**6, SIZE)), stub(), plain, [sink], temporal=TEN,
        stop=lambda: len(sink.seen) > 30,
    )  # fmt: skip
    assert report.frames + report.dropped == report.produced
    assert report.frames == 31
    assert report.hung == []


class Late:
    """Stands for the network's thread: answers after so many frames of the source."""

    def __init__(self, segmenter: Segmenter, frames: int) -> None:
        self.segmenter, self.frames, self.now = segmenter, frames, 0
        self.asked: list[Frame] = []

    def put(self, frame: Frame) -> None:
        self.asked.append(frame)

    def poll(self, seconds: float) -> Iterator[Pair | None]:
        assert seconds == 0
        while True:
            due = self.asked and self.now >= self.asked[0].index + self.frames
            yield next(one_by_one([self.asked.pop(0)], self.segmenter, Stats())) if due else None


def live(source: Source, delay: int, every: int | None = None) -> tuple[list[Pair], Stats]:
    """What a live run gives when the network answers `delay` frames later."""
    segmenter, stats = stub(), Stats()
    late = Late(segmenter, delay)

    def frames() -> Iterator[Frame]:
        for frame in source:
            late.now = frame.index
            yield frame

    network = KeyframeNetwork(segmenter, late, late, stats)  # type: ignore[arg-type]
    return list(carried_live(frames(), network, every)), stats


def test_live_the_last_answer_is_carried_to_the_newest_frame() -> None:
    source = Scenes((0, 60, SIZE))
    pairs, stats = live(source, 9)
    assert [said.carried for _, said in pairs[:9]] == [Carried(None)] * 9
    assert pairs[9][1].carried == Carried(0, 9)
    assert pairs[17][1].carried == Carried(0, 17)
    assert pairs[18][1].carried == Carried(9, 9)
    assert stats.keyframes == {"first": 1, "free": 5}
    carried = [iou(said.mask, source.truth[frame.index]) for frame, said in pairs[9:]]
    held = [
        iou(source.truth[said.carried.key], source.truth[frame.index]) for frame, said in pairs[9:]
    ]
    assert np.mean(carried) > np.mean(held) + 0.03


def test_live_nothing_is_known_after_a_cut_until_the_network_has_looked() -> None:
    """The look that was under way at the cut is of the scene before it."""
    pairs, stats = live(Scenes((0, 20, SIZE), (1, 30, SIZE)), 7)
    keys = [said.carried.key for _, said in pairs]
    assert keys[20:28] == [None] * 8
    first = keys.index(next(key for key in keys[20:] if key is not None), 20)
    assert keys[first] >= 20
    assert stats.keyframes["cut"] == 1
    assert (pairs[20][1].mask == 0).all()


def test_where_nothing_is_known_and_there_is_no_background_the_mask_is_void() -> None:
    segmenter = stub()
    segmenter.labels = LabelSet(("sky", "road", "car", "tree"), ((0, 0, 0),) * 4, background=None)
    late = Late(segmenter, 99)
    network = KeyframeNetwork(segmenter, late, late, Stats())  # type: ignore[arg-type]
    _, said = next(carried_live(Scenes((0, 3, SIZE)), network, None))
    assert (said.mask == VOID).all()
    assert said.shares == {}


def test_live_the_network_may_be_asked_less_often() -> None:
    _, stats = live(Scenes((0, 61, SIZE)), 2, every=20)
    assert sum(stats.keyframes.values()) == 3


@pytest.mark.slow
def test_a_live_run_waits_for_no_slow_network() -> None:
    model = find_model("stub?delay=300ms")
    segmenter = Segmenter(open_backend("stub", model))
    options = TemporalOptions(propagate=True)
    with rtseg.open_source("test://?size=320x180&fps=20&frames=40&live=1") as source:
        report = rtseg.run(source, segmenter, plain, [Listing()], temporal=options)
    assert report.produced == 40
    assert report.frames == report.propagated
    assert report.frames + report.dropped == report.produced
    assert 2 <= sum(report.keyframes.values()) <= 8
    assert report.age_ms["p50"] < 150
    assert report.network_fps < 0.5 * report.fps


@pytest.mark.parametrize("more", ["--every=3", "--loop", "--policy=newest", "--smooth=0.7"])
def test_it_goes_with_other_flags(
    more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clip = ["test://?size=320x180&frames=30", "-m", "stub", "-q", "--max-frames", "24"]
    asked = ["--propagate", "--key-every", "5", more]
    assert main([*clip, *asked, "--json", "x.jsonl", "--metrics", "m.json"]) == 0
    lines = [json.loads(line) for line in Path("x.jsonl").read_text().splitlines()]
    figures = json.loads(Path("m.json").read_text())
    assert len(lines) == figures["frames"]
    carried = [line for line in lines if "propagated" in line]
    assert len(carried) == figures["propagated"] > 0
    assert all(line["propagated"] is True for line in carried)
    if more != "--policy=newest":
        keys = {line["frame"] for line in lines} - {line["frame"] for line in carried}
        assert {line["key"] for line in carried} <= keys
        assert len(lines) == len(carried) + sum(figures["keyframes"].values())


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--key-every", "5"], "Add --propagate"),
        (["--propagate", "--key-every", "0"], "--key-every 0"),
        (["--smooth", "1.2"], "it must be 0 to 1"),
        (["--smooth", "-0.1"], "it must be 0 to 1"),
    ],
)
def test_what_makes_no_sense_is_refused(
    asked: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test://", "-m", "stub", "-o", "null:", *asked]) == 2
    assert words in capsys.readouterr().err


def test_the_report_tells_the_network_s_frames_from_those_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clip = ["test://?size=320x180&frames=30", "-m", "stub", "-o", "null:"]
    assert main([*clip, "--propagate", "--key-every", "10"]) == 0
    said = capsys.readouterr().err
    assert "26 of them propagated" in said
    assert "(keyframes: first 1, age 2, end 1)" in said


@pytest.mark.parametrize(
    ("carried", "words"),
    [
        (None, ["keyframe"]),
        (Carried(4, 3), ["propagated, key 3 frames ago"]),
        (Carried(4, 1), ["propagated, key 1 frame ago"]),
        (Carried(4, -2), ["propagated, key 2 frames ahead"]),
        (Carried(None), ["!no keyframe yet"]),
    ],
)
def test_the_hud_marks_every_frame(carried: Carried | None, words: list[str]) -> None:
    stats = Stats()
    labels = LabelSet(("a", "b"), ((0, 0, 0), (1, 1, 1)))
    said = Segmentation(np.zeros((2, 1, 1), np.float32), labels, (9, 9), carried=carried)
    assert mark_lines(stats, said) == ([] if carried is None else words)
    stats.keyframes["first"] = 1
    assert mark_lines(stats, said) == words


def test_a_slot_hands_over_the_newest_and_ends_when_closed() -> None:
    slot: Slot[int] = Slot()
    slot.put(1)
    slot.put(2)
    with Flow(slot, interrupt=slot.close) as flow:
        taken = iter(flow)
        assert next(taken) == 2
        slot.put(3)
        assert next(taken) == 3
        slot.close()
        assert list(taken) == []
    assert flow.produced == 2
