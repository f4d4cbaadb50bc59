"""The network rests where nothing changes, and nowhere else: however slow, however noisy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

import rtseg
from rtseg.backends import open_backend
from rtseg.cli.app import main
from rtseg.contracts import Rendered, Sink, Source, SourceInfo
from rtseg.effects.hud import hud_lines, mark_lines
from rtseg.frame import Carried, Frame, Segmentation
from rtseg.labels import LabelSet
from rtseg.nets import find_model
from rtseg.segmenter import Pair, Segmenter
from rtseg.session.inference import KeyframeNetwork, carried_live, idling, one_by_one
from rtseg.sinks import open_sink
from rtseg.stats import Stats
from rtseg.temporal import TemporalOptions
from rtseg.temporal.idle import MAX_IDLE_SECONDS, SETTLING_FRAMES, IdleDetector

HEIGHT, WIDTH = 360, 640
RATE = 30
IDLE = TemporalOptions(idle=True)


def room(seed: int = 0) -> np.ndarray:
    """A picture with light, dark and edges, as of a room."""
    dice = np.random.default_rng(seed)
    coarse = dice.integers(60, 200, (9, 16, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        x, y = dice.integers(0, WIDTH - 60), dice.integers(0, HEIGHT - 60)
        colour = tuple(map(int, dice.integers(40, 220, 3)))
        cv2.rectangle(picture, (int(x), int(y)), (int(x) + 50, int(y) + 40), colour, -1)
    return picture


def with_figure(x: float, contrast: int = 40) -> np.ndarray:
    """The room with an upright figure at `x`, to a fraction of a pixel."""
    figure = np.full((200, 90, 3), contrast, np.float32)
    move = np.array([[1, 0, x], [0, 1, 100]], np.float32)
    over = cv2.warpAffine(figure, move, (WIDTH, HEIGHT))
    return np.clip(room() + over, 0, 255).astype(np.uint8)


def camera(
    pictures: Iterable[np.ndarray], noise: float, quality: int | None = None
) -> Iterator[np.ndarray]:
    """What a camera makes of them: sensor noise, and the JPEG that comes over the cable."""
    dice = np.random.default_rng(7)
    bank = dice.normal(0, noise, (4, HEIGHT, WIDTH, 3)).astype(np.float32)
    for picture in pictures:
        shift = dice.integers(0, 300, 2)
        grain = np.roll(bank[dice.integers(4)], tuple(shift), (0, 1))
        seen = np.clip(picture + grain, 0, 255).astype(np.uint8)
        if quality is not None:
            packed = cv2.imencode(".jpg", seen, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            seen = cv2.imdecode(packed, cv2.IMREAD_COLOR)
        yield seen


def looks(pictures: Iterable[np.ndarray], rate: float = RATE) -> list[int]:
    """For each picture, the number of the one whose mask it has."""
    detector, last, taken = IdleDetector(), 0, []
    for index, picture in enumerate(pictures):
        if not detector.is_idle(picture, index / rate):
            detector.mark_reference()
            last = index
        taken.append(last)
    return taken


def rested(taken: list[int]) -> float:
    return float(np.mean([last != index for index, last in enumerate(taken)]))


CAMERAS = [(0.0, None), (5.0, None), (1.0, 80), (3.0, 80)]
"""(noise in grey levels, quality of the JPEG)"""


@pytest.mark.parametrize(("noise", "quality"), CAMERAS)
def test_a_still_room_is_hardly_looked_at(noise: float, quality: int | None) -> None:
    taken = looks(camera([room()] * 60, noise, quality))
    assert rested(taken) > 0.8


@pytest.mark.parametrize("contrast", [15, 40])
@pytest.mark.parametrize(("noise", "quality"), CAMERAS)
def test_a_figure_that_drifts_is_never_frozen(
    noise: float, quality: int | None, contrast: int
) -> None:
    """A fifth of a pixel from frame to frame is less than any two of them can tell."""
    step = 0.2
    pictures = (with_figure(150 + step * index, contrast) for index in range(60))
    taken = looks(camera(pictures, noise, quality))
    behind = [step * (index - last) for index, last in enumerate(taken)]
    assert max(behind) <= (1.5 if contrast == 40 else 3.0), "pixels"
    assert rested(taken) > 0, "or nothing was tried"


@pytest.mark.parametrize("speed", [0.5, 2.0, 8.0])
def test_what_moves_all_the_time_is_not_taken_for_noise(speed: float) -> None:
    """A hand that waves for seconds: its blocks are never calm, those around it are."""
    at = [200 + 60 * np.sin(speed * index / 60) for index in range(90)]
    taken = looks(camera(map(with_figure, at), 3.0, 85))
    behind = [abs(at[index] - at[last]) for index, last in enumerate(taken)]
    assert max(behind) <= 2.0


def test_a_scene_that_keeps_moving_is_compared_one_picture_in_eight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[int] = []
    difference = cv2.absdiff

    def counted(*pictures: np.ndarray) -> np.ndarray:
        compared.append(index)
        return difference(*pictures)

    monkeypatch.setattr(cv2, "absdiff", counted)
    detector, held = IdleDetector(), []
    for index in range(110):  # moves for 80 pictures, then stands still
        held.append(detector.is_idle(with_figure(100 + 3 * min(index, 80)), index / RATE))
        if not held[-1]:
            detector.mark_reference()
    assert sorted(set(compared))[:20] == [*range(1, 16), 23, 31, 39, 47, 55]
    assert not any(held[:81])
    rests_by = 80 + 8 + SETTLING_FRAMES
    assert all(held[rests_by : rests_by + 15]), "it rests soon after the motion ends"


def test_after_so_long_the_network_looks_anyhow() -> None:
    taken = looks([room()] * 100)
    seen = sorted(set(taken))
    assert max(np.diff(seen)) == MAX_IDLE_SECONDS * RATE
    assert len(seen) == SETTLING_FRAMES + 1 + 3


def test_a_small_thing_in_a_corner_is_seen_at_once() -> None:
    before, after = room(), room()
    after[340:350, 620:632] = 255 - after[340:350, 620:632]
    taken = looks(camera([before] * 40 + [after] * 20, 2.0))
    assert taken[39] < 39, "it rested until then"
    assert taken[40 : 40 + SETTLING_FRAMES + 1] == list(range(40, 41 + SETTLING_FRAMES))
    assert taken[-1] < 59, "and rests again"


def test_a_change_of_colour_alone_is_a_change() -> None:
    def painted(colour: tuple[int, int, int]) -> np.ndarray:
        picture = room()
        picture[100:200, 100:200] = colour
        return picture

    red, green = (80, 80, 180), (80, 131, 80)  # of the same light
    assert np.isclose(*(np.dot(c, (0.114, 0.587, 0.299)) for c in (red, green)), atol=0.5)
    taken = looks([painted(red)] * 20 + [painted(green)] * 3)
    assert taken[19] < 19
    assert taken[20] == 20


def test_a_picture_that_is_all_noise_is_always_looked_at() -> None:
    dice = np.random.default_rng(0)
    storm = (dice.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(20))
    assert rested(looks(storm)) == 0


@pytest.mark.parametrize("after", range(14, 32))
@pytest.mark.parametrize("size", [(320, 240), (360, 640), (33, 17)])
def test_the_size_may_change_while_everything_moves(after: int, size: tuple[int, int]) -> None:
    dice = np.random.default_rng(1)
    shapes = [(60, 80)] * after + [size] * 20
    moving = [dice.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    assert looks(moving) == list(range(len(moving)))


def test_another_size_and_a_step_back_in_time_are_looked_at() -> None:
    detector = IdleDetector()
    big, small = room(), cv2.resize(room(), (320, 180))
    times = [index / RATE for index in range(10)]

    def holds(picture: np.ndarray, pts: float) -> bool:
        known = detector.is_idle(picture, pts)
        if not known:
            detector.mark_reference()
        return known

    assert [holds(big, pts) for pts in times][-1]
    assert not holds(small, times[-1] + 1 / RATE)
    for pts in times:
        known = holds(small, 1 + pts)
    assert known
    assert not holds(small, 0.5)


class Pictures(Source):
    """A live source of pictures that are given."""

    def __init__(self, pictures: Iterable[np.ndarray]) -> None:
        super().__init__()
        self.info = SourceInfo("pictures", WIDTH, HEIGHT, Fraction(RATE))
        self._left = enumerate(pictures)

    def _read(self) -> Frame | None:
        found = next(self._left, None)
        if found is None:
            return None
        return Frame(found[1].copy(), found[0], found[0] / RATE, self.clock.now())


class Listing(Sink):
    """Remembers what was shown."""

    def __init__(self) -> None:
        self.seen: list[Segmentation] = []

    def write(self, rendered: Rendered) -> None:
        self.seen.append(rendered.segmentation)


def stub() -> Segmenter:
    return Segmenter(open_backend("stub", find_model("stub")))


def plain(frame: Frame, segmentation: Segmentation) -> np.ndarray:
    return frame.image


def test_frames_at_which_it_rested_are_counted_and_marked(tmp_path: Path) -> None:
    stats, listing, path = Stats(), Listing(), tmp_path / "x.jsonl"
    source = Pictures([room()] * 60)
    segmenter = stub()
    with open_sink(f"json:{path}", source.info, segmenter.labels) as lines:
        report = rtseg.run(source, segmenter, plain, [listing, lines], stats=stats, temporal=IDLE)
    looked = [index for index, said in enumerate(listing.seen) if said.carried is None]
    assert looked == [0, 1, 2, 3, 33]
    assert report.frames == 60
    assert report.idle == 55
    assert report.propagated == 0
    assert stats.stages["infer"].count == len(looked)
    assert report.network_fps == pytest.approx(report.fps * 5 / 60, rel=0.05)
    assert listing.seen[20].carried == Carried(3, 17, idle=True)
    assert (listing.seen[20].mask == listing.seen[3].mask).all()
    told = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["frame"] for line in told if "idle" not in line] == looked
    assert told[20]["idle"] is True
    assert told[20]["key"] == 3
    assert "propagated" not in told[20]


def test_every_frame_comes_once_and_in_order() -> None:
    pictures = [room()] * 20 + [room(1)] * 20 + [room()] * 20
    pairs = list(rtseg.stream(Pictures(pictures), stub(), temporal=IDLE))
    assert [frame.index for frame, _ in pairs] == list(range(60))
    assert pairs[20][1].carried is None
    assert pairs[19][1].carried is not None


def test_a_network_that_is_replaced_or_told_other_classes_looks_again() -> None:
    segmenter, asked = stub(), []

    def frames() -> Iterator[Frame]:
        for frame in Pictures([room()] * 30):
            if frame.index == 10:
                segmenter.selected = frozenset({1})
            if frame.index == 20:
                segmenter.backend = open_backend("stub", find_model("stub"))
            yield frame

    for frame, said in idling(frames(), segmenter, Stats(), lambda pairs: pairs):
        if said.carried is None:
            asked.append(frame.index)
    assert asked == [0, 1, 2, 3, 10, 20]


def test_what_smooths_over_time_is_not_told_of_the_time_between() -> None:
    """A rest of a second is no gap after which the past no longer counts."""
    seen: list[float] = []

    def tie(pairs: Iterator[Pair]) -> Iterator[Pair]:
        for frame, said in pairs:
            seen.append(frame.pts)
            yield frame, said

    given = list(idling(Pictures([room()] * 70), stub(), Stats(), tie))
    assert seen == pytest.approx([index / RATE for index in range(len(seen))])
    assert len(seen) == 6
    assert [frame.pts for frame, _ in given] == pytest.approx([i / RATE for i in range(70)])


class AtOnce:
    """Stands for the network's thread: answers before the next frame."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.asked: list[Frame] = []
        self.answered = 0

    def put(self, frame: Frame) -> None:
        self.asked.append(frame)

    def poll(self, seconds: float) -> Iterator[Pair | None]:
        while True:
            fresh = self.asked[self.answered :]
            self.answered += len(fresh)
            yield next(one_by_one(fresh, self.segmenter, Stats())) if fresh else None


@pytest.mark.parametrize("idle", [False, True])
def test_live_keyframes_are_not_taken_of_what_is_known(idle: bool) -> None:
    at_once = AtOnce(stub())
    network = KeyframeNetwork(at_once.segmenter, at_once, at_once, Stats())  # type: ignore[arg-type]
    pictures = [room()] * 30 + [room(1)] * 20
    pairs = list(carried_live(Pictures(pictures), network, None, idle=idle))
    assert [frame.index for frame, _ in pairs] == list(range(50))
    asked = [frame.index for frame in at_once.asked]
    expected = [0, 1, 2, 3, 30, 31, 32, 33] if idle else list(range(50))
    assert asked[: len(expected)] == expected
    assert all(said.carried.key == 3 for _, said in pairs[5:30]) or not idle
    assert all(said.carried.idle == idle for _, said in pairs[6:30])


def test_the_hud_says_since_when_the_network_rests() -> None:
    stats = Stats()
    labels = LabelSet(("a", "b"), ((0, 0, 0), (1, 1, 1)))
    carried = Carried(4, 3, idle=True)
    said = Segmentation(np.zeros((2, 1, 1), np.float32), labels, (9, 9), carried=carried)
    assert mark_lines(stats, said) == ["idle, model ran 3 frames ago"]
    stats.start()
    for idle in (False, True, True, True):
        stats.show(0.0, idle=idle)
    assert any(line.endswith("idle\t75%") for line in hud_lines(stats))


def blended(pictures: list[np.ndarray], slower: int) -> Iterator[np.ndarray]:
    """The clip so many times as slow, each picture fading into the next."""
    for before, after in pairwise(pictures):
        for part in range(slower):
            yield cv2.addWeighted(before, 1 - part / slower, after, part / slower, 0)


def panned(pictures: list[np.ndarray], step: float) -> Iterator[np.ndarray]:
    """The first picture, moving by `step` pixels a frame."""
    height, width = pictures[0].shape[:2]
    for index in range(70):
        move = np.array([[1, 0, -step * index], [0, 1, 0]], np.float32)
        yield cv2.warpAffine(pictures[0], move, (width, height), borderMode=cv2.BORDER_REFLECT)


def clip(path: Path, first: int, count: int) -> list[np.ndarray]:
    """Frames of a video, or of a folder of pictures."""
    if path.is_dir():
        return [cv2.imread(str(p)) for p in sorted(path.glob("*.jpg"))[first : first + count]]
    capture = cv2.VideoCapture(str(path))
    frames = [capture.read()[1] for _ in range(first + count)][first:]
    capture.release()
    return frames


SLOW: dict[str, Callable[[list[np.ndarray]], Iterator[np.ndarray]]] = {
    "8 times as slow": lambda pictures: blended(pictures, 8),
    "0.2 pixels a frame": lambda pictures: panned(pictures, 0.2),
}


@pytest.mark.needs_data
@pytest.mark.slow
@pytest.mark.parametrize("motion", SLOW)
@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("videos/liveportrait_d13.mp4", 0),
        ("videos/liveportrait_d18.mp4", 0),
        ("videos/intel_asl_book.mkv", 40),
        ("davis/dance-twirl/frames", 0),
    ],
)
def test_masks_of_slow_clips_are_those_of_a_network_that_never_rests(
    name: str, first: int, motion: str, data: Path
) -> None:
    pictures = clip(data / name, first, 10)
    with rtseg.load("person", backend="onnx", frame_size=pictures[0].shape[:2]) as segmenter:
        detector, shown, same = IdleDetector(), None, []
        for index, picture in enumerate(SLOW[motion](pictures)):
            own = segmenter(picture).mask > 0
            if shown is None or not detector.is_idle(picture, index / RATE):
                detector.mark_reference()
                shown = own
            union = (own | shown).sum()
            same.append((own & shown).sum() / union if union else 1.0)
    assert np.mean(same) > 0.995
    assert min(same) > 0.97


@pytest.mark.parametrize(
    ("asked", "rests"),
    [
        (["--live"], True),
        (["--live", "--no-idle"], False),
        ([], False),
        (["--idle"], True),
        (["--live", "--propagate"], True),
        (["--idle", "--propagate"], False),
    ],
)
def test_the_network_rests_by_default_where_the_source_is_live(
    asked: list[str], rests: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = "test://?size=64x48&fps=60&frames=5"
    assert main([clip, "-m", "stub", "-o", "null:", *asked]) == 0
    report = capsys.readouterr().err
    assert ("compare  " in report) == rests, "its stage is timed"
    assert ("the model pauses" in report) == rests
