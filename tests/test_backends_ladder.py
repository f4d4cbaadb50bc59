"""`--target-fps`: which input size keeps a frame rate, by times that a script gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from rtseg.backends import open_backend
from rtseg.backends.base import fit_size
from rtseg.backends.ladder import (
    SETTLE_SECONDS,
    WINDOW,
    AdaptiveBackend,
    Ladder,
    ladder_sizes,
    open_adaptive,
)
from rtseg.contracts import Backend, BackendInfo
from rtseg.effects.hud import hud_lines
from rtseg.errors import ModelError, UsageError
from rtseg.frame import Frame, Picture
from rtseg.nets import find_model
from rtseg.segmenter import Segmenter
from rtseg.session.inference import one_by_one
from rtseg.stats import ManualClock, Stats
from rtseg.zoo import MODELS, ModelSpec

SPEC = MODELS["lraspp_mobilenet_v3_large"]
SIZES = [(384, 672), (304, 544), (240, 432), (192, 336)]
FULL = SIZES[0][0] * SIZES[0][1]


def area(rung: int) -> float:
    """Of a rung, as a share of the first's."""
    return SIZES[rung][0] * SIZES[rung][1] / FULL


class Camera:
    """A ladder fed by a camera of 30 frames a second, and a machine of some speed."""

    def __init__(self, rate: float = 30.0) -> None:
        self.ladder, self.now, self.rungs = Ladder(SIZES, rate), 0.0, [0]

    def run(self, seconds: float, at_full_size: Callable[[float], float]) -> list[int]:
        """The rungs it went through, for so long, where a frame at full size takes so long."""
        ends = self.now + seconds
        while self.now < ends:
            took = at_full_size(self.now) * area(self.ladder.rung)
            self.now += max(took, 1 / 30)
            self.rungs.append(self.ladder.take(took, self.now))
        return self.rungs

    @property
    def steps(self) -> int:
        return sum(a != b for a, b in pairwise(self.rungs))


def test_the_sizes_keep_the_shape_in_multiples_of_the_stride() -> None:
    sizes = ladder_sizes(SPEC, (384, 672))
    assert sizes[0] == (384, 672)
    assert len(sizes) == 4
    for (height, width), factor in zip(sizes, (1, 0.8, 0.64, 0.5), strict=True):
        assert height % 16 == width % 16 == 0
        assert width / height == pytest.approx(672 / 384, rel=0.08)
        assert (height * width / FULL) ** 0.5 == pytest.approx(factor, rel=0.08)


def test_a_network_of_one_size_has_one_and_small_ones_have_fewer() -> None:
    fixed = replace(SPEC, input=replace(SPEC.input, fixed=True))
    assert ladder_sizes(fixed, (384, 672)) == [(384, 672)]
    small = ladder_sizes(SPEC, (48, 64))
    areas = [height * width for height, width in small]
    assert areas == sorted(set(areas), reverse=True)
    assert min(min(size) for size in small) >= 32


def test_a_machine_that_is_quick_enough_stays_at_full_size() -> None:
    assert set(Camera().run(60, lambda now: 0.030)) == {0}


def test_a_hiccup_moves_nothing() -> None:
    camera = Camera()
    assert set(camera.run(60, lambda now: 0.2 if now % 1 < 0.07 else 0.025)) == {0}


def test_it_goes_at_once_to_the_size_that_keeps_the_rate() -> None:
    camera = Camera()
    camera.run(5, lambda now: 0.055)
    assert camera.rungs.index(2) * 0.055 < 0.5
    assert camera.ladder.rung == 2
    assert camera.steps == 1
    assert 0.055 * area(2) < 1 / 30 < 0.055 * area(1)


def test_a_hopeless_machine_has_the_smallest_size_and_no_rest_is_lost() -> None:
    camera = Camera()
    camera.run(30, lambda now: 0.5)
    assert camera.ladder.rung == 3
    assert camera.steps == 1


def test_it_climbs_back_one_by_one_once_the_machine_is_free() -> None:
    camera = Camera()
    camera.run(5, lambda now: 0.120)
    assert camera.ladder.rung == 3
    camera.run(20, lambda now: 0.020)
    assert camera.ladder.rung == 0
    climbs = camera.rungs[camera.rungs.index(3) :]
    assert [b - a for a, b in pairwise(climbs) if a != b] == [-1, -1, -1]


def test_it_stays_a_while_at_a_size_before_it_tries_a_larger_one() -> None:
    camera = Camera()
    while camera.ladder.rung == 0:
        camera.run(1 / 30, lambda now: 0.120)
    fallen = camera.now
    while camera.ladder.rung == 3:
        camera.run(1 / 30, lambda now: 0.010)
    assert SETTLE_SECONDS <= camera.now - fallen < SETTLE_SECONDS + 0.2


def test_just_under_the_rate_it_does_not_swing() -> None:
    # full size takes a bit too long, and the next a bit less than the rate: no room to climb
    camera = Camera()
    camera.run(300, lambda now: 0.0345)
    assert camera.steps == 1


def test_a_size_that_fails_again_and_again_is_tried_ever_more_seldom() -> None:
    # small inputs cost less than their share here: full size looks as if there were room
    camera = Camera()

    def took(now: float) -> float:
        return 0.040 if camera.ladder.rung == 0 else 0.024

    camera.run(600, took)
    tries = [i for i, (a, b) in enumerate(pairwise(camera.rungs)) if a == 1 and b == 0]
    gaps = [b - a for a, b in pairwise(tries)]
    assert all(later > 0.99 * sooner for sooner, later in pairwise(gaps))
    assert gaps[-1] > 100 * 30
    assert gaps[0] < 12 * 30
    assert len(tries) <= 10


def test_with_times_that_jitter_it_settles() -> None:
    rng, camera = np.random.default_rng(0), Camera()
    camera.run(120, lambda now: float(rng.gamma(20, 0.045 / 20)))
    share = sum(rung == camera.ladder.rung for rung in camera.rungs) / len(camera.rungs)
    assert share > 0.8
    assert camera.steps <= 8


# --- the backend ---------------------------------------------------------------------------------


class Rung(Backend):
    """Takes its share of a second per full-size picture."""

    def __init__(
        self,
        size: tuple[int, int],
        clock: ManualClock,
        seconds: list[float],
        spec: ModelSpec = SPEC,
    ) -> None:
        self.spec, self.input_size = spec, size
        self.info = BackendInfo("fake", "cpu", "fp32")
        self.closed = False
        self._clock, self._seconds = clock, seconds

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        assert batch.shape == (1, *self.input_size, 3)
        self._clock.sleep(self._seconds[0] * self.input_size[0] * self.input_size[1] / FULL)
        return np.zeros((1, 21, self.input_size[0] // 8, self.input_size[1] // 8), np.float32)

    def close(self) -> None:
        self.closed = True


def adaptive(seconds: list[float]) -> tuple[AdaptiveBackend, Stats]:
    clock = ManualClock()
    stats = Stats(clock)
    rungs = [Rung(size, clock, seconds) for size in SIZES]
    backend = AdaptiveBackend(rungs, 30.0, clock=clock)
    backend.attend(stats)
    return backend, stats


def test_the_segmenter_follows_the_size_between_frames() -> None:
    seconds = [0.055]
    backend, stats = adaptive(seconds)
    segmenter, picture = Segmenter(backend), np.zeros((720, 1280, 3), np.uint8)
    sizes = [segmenter(picture).scores.shape[1:] for _ in range(2 * WINDOW)]
    assert sizes[0] == (48, 84)
    assert sizes[-1] == (30, 54)
    assert segmenter.input_size == SIZES[2]
    assert sum(stats.inputs.values()) == 2 * WINDOW
    assert list(stats.inputs) == [SIZES[0], SIZES[2]]
    assert stats.steps == 1
    lines = hud_lines(stats, model="person", imgsz=SIZES[0])
    assert "input\t240x432\tsteps\t1" in lines
    assert "person" in lines, "the size is said once"


class Held:
    """Scores of a device whose time passes while they are waited for."""

    def __init__(self, scores: np.ndarray, seconds: float, clock: ManualClock) -> None:
        self.shape, self._scores = scores.shape, scores
        self._seconds, self._clock = seconds, clock

    def wait(self) -> float:
        self._clock.sleep(self._seconds)
        return self._seconds

    def numpy(self) -> np.ndarray:
        return self._scores


class DeviceRung(Rung):
    """Keeps its frames, as a GPU does."""

    def __init__(self, size: tuple[int, int], clock: ManualClock, seconds: list[float]) -> None:
        super().__init__(size, clock, seconds)
        self.segment = self._segment

    def _segment(self, pictures: Sequence[Picture]) -> list[Held]:
        height, width = self.input_size
        scores = np.zeros((21, height // 8, width // 8), np.float32)
        took = self._seconds[0] * height * width / FULL
        return [Held(scores, took, self._clock) for _ in pictures]


def test_frames_that_stay_on_a_device_count_by_the_time_it_took() -> None:
    seconds = [0.055]
    clock = ManualClock()
    backend = AdaptiveBackend([DeviceRung(size, clock, seconds) for size in SIZES], 30.0)
    stats = Stats(clock)
    backend._clock = clock
    backend.attend(stats)
    picture = np.zeros((72, 128, 3), np.uint8)
    frames = [Frame(picture, index, index / 30, 0.0) for index in range(2 * WINDOW)]
    pairs = list(one_by_one(iter(frames), Segmenter(backend), stats))
    sizes = [segmentation.scores.shape[1:] for _, segmentation in pairs]
    assert (sizes[0], sizes[-1]) == ((48, 84), (30, 54))
    assert dict(stats.inputs) == {
        SIZES[0]: sizes.count((48, 84)),
        SIZES[2]: sizes.count((30, 54)),
    }
    assert sum(stats.inputs.values()) == 2 * WINDOW
    held = backend.segment([picture])[0]
    assert held.wait() == held.wait() > 0  # of which one counts
    assert sum(stats.inputs.values()) == 2 * WINDOW + 1


def test_where_not_every_size_keeps_its_frames_none_does() -> None:
    clock = ManualClock()
    rungs = [DeviceRung(SIZES[0], clock, [0.01]), Rung(SIZES[1], clock, [0.01])]
    assert AdaptiveBackend(rungs, 30.0, clock=clock).segment is None


def test_what_a_frame_takes_beside_the_network_counts_too() -> None:
    backend, stats = adaptive([0.030])
    picture = np.zeros((1, *SIZES[0], 3), np.uint8)
    for _ in range(2 * WINDOW):
        backend(picture)
    assert stats.steps == 0
    stats.add("smooth", 0.006)
    for _ in range(4 * WINDOW):
        size = backend.input_size
        backend(np.zeros((1, *size, 3), np.uint8))
    assert backend.input_size == SIZES[1]


def test_several_lanes_share_the_rate_and_what_a_size_left_behind_does_not_count() -> None:
    clock = ManualClock()
    rungs = [Rung(size, clock, [0.055]) for size in SIZES]
    for rung in rungs:
        rung.lanes = 2
    backend = AdaptiveBackend(rungs, 30.0, clock=clock)
    stats, sources = Stats(clock), [Stats(clock), Stats(clock)]
    backend.attend(stats, sources)
    assert backend.lanes == 2
    for _ in range(2 * WINDOW):
        backend(np.zeros((1, *SIZES[0], 3), np.uint8))
    assert backend.input_size == SIZES[0], "two at once take half of 55 ms each"
    sources[0].add("preprocess", 0.03)
    sources[1].add("smooth", 0.05)  # 40 ms on average: 48 ms a frame
    for _ in range(2 * WINDOW):
        backend(np.zeros((1, *backend.input_size, 3), np.uint8))
    found = backend.input_size
    assert found != SIZES[0]
    for _ in range(WINDOW):  # of a lane that began before the change
        backend(np.zeros((1, *SIZES[0], 3), np.uint8))
    assert backend.input_size == found
    assert sum(stats.inputs.values()) == 5 * WINDOW


def test_a_lower_rate_brings_the_larger_size_back() -> None:
    backend, _ = adaptive([0.055])

    def run(frames: int) -> tuple[int, int]:
        for _ in range(frames):
            backend(np.zeros((1, *backend.input_size, 3), np.uint8))
        return backend.input_size

    assert run(2 * WINDOW) == SIZES[2]
    backend.keep(15.0)
    assert run(20 * WINDOW) == SIZES[0]


def test_all_sizes_are_closed_also_when_one_cannot_be_opened() -> None:
    clock, opened = ManualClock(), []

    def open_one(size: tuple[int, int]) -> Backend:
        if len(opened) == 2:
            raise ModelError("no")
        opened.append(Rung(size, clock, [0.01]))
        return opened[-1]

    first = open_one(SIZES[0])
    with pytest.raises(ModelError):
        open_adaptive(first, open_one, 30)
    assert [rung.closed for rung in opened] == [True, True]
    opened.clear()
    backend = open_adaptive(Rung(SIZES[0], clock, [0.01]), lambda s: Rung(s, clock, [0.01]), 30)
    assert [size[0] * size[1] for size in backend.sizes] == sorted(
        (size[0] * size[1] for size in backend.sizes), reverse=True
    )


def test_a_network_of_one_size_cannot_keep_a_rate() -> None:
    rung = Rung((64, 64), ManualClock(), [0.01])
    rung.spec = replace(SPEC, input=replace(SPEC.input, fixed=True, size=(64, 64)))
    with pytest.raises(UsageError, match="there is no smaller one"):
        open_adaptive(rung, lambda size: rung, 30)
    assert rung.closed


def test_frames_of_every_shape_keep_it_at_every_rung() -> None:
    model, clock, seconds, opened = find_model("stub"), ManualClock(), [0.01], []
    frames = [np.zeros((90, 160, 3), np.uint8), np.zeros((160, 90, 3), np.uint8)]
    fitting = [fit_size(model.spec, shape[1], shape[0]) for shape in ((90, 160), (160, 90))]
    assert fitting[0] == fitting[1][::-1]

    def load(size: tuple[int, int]) -> Backend:
        opened.append(size)
        return Rung(size, clock, seconds, model.spec)

    backend = open_adaptive(load(fitting[0]), load, 30.0)
    backend._clock = clock
    backend.prepare([frame.shape[:2] for frame in frames])
    prepared = list(opened)
    segmenter = Segmenter(backend)

    def inputs() -> list[tuple[int, int]]:
        sizes = []
        for frame in frames:
            segmenter(frame)
            sizes.append(backend.input_size)
        return sizes

    assert inputs() == fitting
    seconds[0] = 100.0  # no size is fast enough
    while backend.input_size not in [ladder_sizes(model.spec, size)[-1] for size in fitting]:
        inputs()
    assert inputs() == [ladder_sizes(model.spec, size)[-1] for size in fitting]
    assert opened == prepared, "none is opened while frames wait"
    backend.close()


def test_the_stub_runs_at_every_rung() -> None:
    model = find_model("stub")
    first = open_backend("stub", model, input_size=(96, 160))
    backend = open_adaptive(
        first, lambda s: open_backend("stub", model, input_size=s), 1e6, (96, 160)
    )
    segmenter = Segmenter(backend)
    for _ in range(10_000):
        assert segmenter(np.zeros((90, 160, 3), np.uint8)).mask.shape == (90, 160)
        if backend.input_size == backend.sizes[-1]:
            break
    assert backend.input_size == backend.sizes[-1]


# --- from the command line -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--target-fps", "20"), "it is not live"),
        (("--target-fps", "0", "--live"), "--target-fps 0: it must be"),
        (
            ("--target-fps", "20", "--live", "--propagate"),
            "propagation already keeps the frame rate",
        ),
    ],
)
def test_it_is_refused_where_it_makes_no_sense(
    flags: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from rtseg.cli.app import main

    clip = "test://?size=96x64&frames=4"
    assert main([clip, "-m", "stub", "-o", "null:", "--no-show", *flags]) == 2
    assert words in capsys.readouterr().err
