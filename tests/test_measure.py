"""Comparing networks: whose masks agree, and which is quicker."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rtseg.contracts import Backend, BackendInfo
from rtseg.errors import DeviceError
from rtseg.measure import backend_agreement, mask_agreement, time_each
from rtseg.nets import find_model
from rtseg.stats import ManualClock

SIZE = (64, 96)
BATCH = np.zeros((1, *SIZE, 3), np.uint8)


class Fake(Backend):
    """Sleeps on its clock, and gives the left `left` of 12 columns class 1.

    Args:
        seconds: of each call, or a function of its number.
    """

    def __init__(
        self,
        clock: ManualClock,
        seconds: float | Callable[[int], float],
        *,
        left: int = 6,
        name: str = "",
        order: list[str] | None = None,
    ) -> None:
        self.spec = find_model("stub").spec
        self.input_size = SIZE
        self.info = BackendInfo("fake", "cpu", "fp32")
        self.calls = 0
        self._clock, self._seconds, self._left = clock, seconds, left
        self._name, self._order = name, order

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        if self._order is not None:
            self._order.append(self._name)
        cost = self._seconds(self.calls) if callable(self._seconds) else self._seconds
        self.calls += 1
        self._clock.sleep(cost)
        scores = np.zeros((1, 4, 8, 12), np.float32)
        scores[:, 1, :, : self._left] = 5
        return scores


def test_a_busy_moment_at_the_start_changes_no_figure() -> None:
    clock = ManualClock()

    def busy(base: float) -> Callable[[int], float]:
        return lambda call: base * (10 if clock.now() < 0.3 else 1)

    backends = {1: Fake(clock, busy(0.020)), 2: Fake(clock, busy(0.019))}
    times, failures = time_each(backends, BATCH, seconds=1.5, clock=clock)
    assert times[1] == pytest.approx(0.020, rel=0.05)
    assert times[2] == pytest.approx(0.019, rel=0.05)
    assert failures == {}


def test_slow_backends_are_dropped_after_two_rounds_and_the_budget_holds() -> None:
    clock = ManualClock()
    near, rival, far = (Fake(clock, seconds) for seconds in (0.010, 0.011, 0.100))
    backends = {1: near, 2: far, 3: rival}
    time_each(backends, BATCH, seconds=1.0, drop_factor=1.4, clock=clock)
    assert far.calls == 2
    assert near.calls > 20
    assert 1.0 <= clock.now() < 1.2


def test_the_least_rounds_are_done_however_long_they_take() -> None:
    clock = ManualClock()
    heavy = [Fake(clock, 2.0), Fake(clock, 1.9)]
    time_each(dict(enumerate(heavy)), BATCH, seconds=1.5, clock=clock)
    assert [one.calls for one in heavy] == [2, 2]
    time_each(dict(enumerate(heavy)), BATCH, seconds=1.5, least_rounds=3, clock=clock)
    assert [one.calls for one in heavy] == [5, 5]


def test_rounds_are_counted_and_end_at_the_most() -> None:
    clock, rounds = ManualClock(), list[int]()
    backends = {1: Fake(clock, 0.01), 2: Fake(clock, 0.01)}
    time_each(backends, BATCH, seconds=60, most_rounds=4, on_round=rounds.append, clock=clock)
    assert rounds == [0, 1, 2, 3]


def test_backends_take_turns_and_none_always_follows_the_same_one() -> None:
    clock, order = ManualClock(), list[str]()
    backends = {name: Fake(clock, 1.0, name=name, order=order) for name in "ab"}
    times, _ = time_each(backends, BATCH, seconds=0, least_rounds=3, clock=clock)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert times == {"a": 1.0, "b": 1.0}


def test_with_lanes_the_figure_is_throughput() -> None:
    clock = ManualClock()
    one, two = Fake(clock, 0.010), Fake(clock, 0.010)
    two.lanes = 2
    time_each({1: one, 2: two}, BATCH, seconds=0.0, clock=clock)
    assert two.calls >= 2 * 4  # each block fills both lanes twice


def test_a_backend_that_fails_is_reported_and_the_others_are_timed() -> None:
    clock = ManualClock()

    def fail(call: int) -> float:
        raise DeviceError("lost")

    times, failures = time_each(
        {1: Fake(clock, fail), 2: Fake(clock, 0.02)}, BATCH, seconds=0.1, clock=clock
    )
    assert times == {2: pytest.approx(0.02)}
    assert failures[1].asked == "lost"
    assert time_each({1: Fake(clock, fail)}, BATCH, seconds=0.1, clock=clock)[0] == {}


def test_agreement_is_the_share_of_pixels_over_all_frames() -> None:
    clock = ManualClock()
    found = backend_agreement(Fake(clock, 0, left=6), Fake(clock, 0, left=9), [BATCH] * 3)
    assert found.mean == pytest.approx(0.75, abs=0.01)
    assert len(found.shares) == 3


def test_the_worst_frame_is_named() -> None:
    zeros = np.zeros((4, 4), np.uint8)
    half = zeros.copy()
    half[:2] = 1
    found = mask_agreement([(zeros, zeros), (half, zeros), (zeros, zeros)])
    assert (found.worst, found.worst_frame) == (0.5, 1)
    assert found.mean == pytest.approx(2.5 / 3)


def test_the_iou_of_a_class_is_pooled_over_frames_and_leaves_out_specks() -> None:
    one, other = np.zeros((2, 40, 40), np.uint8)
    one[:10, :10], other[:10, :5] = 1, 1
    one[20, 20] = 2  # below half a percent
    zeros = np.zeros_like(one)
    whole = zeros.copy()
    whole[:10, :5] = 1
    found = mask_agreement([(one, other), (whole, whole), (zeros, zeros)])
    assert set(found.ious) == {0, 1}
    assert found.ious[1] == found.worst_iou == pytest.approx(100 / 150)
    assert mask_agreement([(zeros, zeros)]).worst_iou == 1
