"""Young frames: when the next one is worth waiting for, and when it is not."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from rtseg.frame import Frame
from rtseg.session.inference import PATIENCE, youngest
from rtseg.stats import ManualClock
from rtseg.threads import Flow

PICTURE = np.zeros((2, 2, 3), np.uint8)
INTERVAL = 1 / 30


class Camera(Flow[Frame]):
    """A flow that keeps the newest of a camera's frames, without a thread: time is the clock's."""

    def __init__(self, clock: ManualClock, *, stops_after: float = math.inf) -> None:
        super().__init__(())
        self.clock, self.stops_after = clock, stops_after
        self.read, self.passed_over = -1, 0

    def newest(self) -> int:
        return math.floor(min(self.clock.now(), self.stops_after) / INTERVAL + 1e-9)

    def __iter__(self) -> Iterator[Frame]:
        while True:
            if self.newest() == self.read:  # wait for the next one
                if self.clock.now() > self.stops_after:
                    return
                self.clock.time = (self.read + 1) * INTERVAL
            yield self.frame()

    def newer(self, seconds: float) -> Frame | None:
        due = (self.read + 1) * INTERVAL
        if due > min(self.clock.now() + seconds, self.stops_after):
            self.clock.sleep(seconds)
            return None
        self.clock.time = max(self.clock.now(), due)
        self.passed_over += 1
        return self.frame()

    def frame(self) -> Frame:
        self.read = self.newest()
        self.produced = self.read + 1
        return Frame(PICTURE, self.read, self.read * INTERVAL, self.read * INTERVAL)


def ages(camera: Camera, works: float, frames: int = 200) -> list[float]:
    """How old each frame is when work on it begins, as shares of the time between two."""
    found = []
    for frame in youngest(camera, camera.clock):
        found.append((camera.clock.now() - frame.captured_at) / INTERVAL)
        if len(found) == frames:
            break
        camera.clock.sleep(works * INTERVAL)
    return found


@pytest.mark.parametrize("works", [0.2, 0.9, 1.0, 1.15])
def test_whoever_keeps_up_loses_no_frame(works: float) -> None:
    camera = Camera(ManualClock())
    ages(camera, works)
    assert camera.passed_over == 0


@pytest.mark.parametrize("works", [1.27, 1.9, 3.3, 8.71])
def test_whoever_is_slower_gets_young_frames_for_little_time(works: float) -> None:
    camera = Camera(ManualClock())
    found = ages(camera, works)[10:]
    assert camera.passed_over > 10
    assert max(found) <= 1 - PATIENCE + 1e-6
    turns = camera.clock.now() / INTERVAL / 200
    assert turns < works + PATIENCE


def test_what_does_not_come_in_time_is_not_waited_for_longer() -> None:
    clock = ManualClock()
    camera = Camera(clock, stops_after=100 * INTERVAL)
    taken = [frame.index for frame in youngest(camera, clock) if not clock.sleep(1.9 * INTERVAL)]
    assert taken[-1] == 100
    assert clock.now() < (100 + 3) * INTERVAL


def test_a_flow_gives_a_newer_item_and_counts_the_one_before_as_replaced() -> None:
    goes_on, asked = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 1
        assert asked.wait(5)
        yield 2
        assert goes_on.wait(5)

    with Flow(items(), latest=True) as flow:
        numbers = iter(flow)
        assert next(numbers) == 1
        assert flow.newer(0.0) is None
        assert (flow.delivered, flow.replaced) == (1, 0)
        asked.set()
        assert flow.newer(5.0) == 2
        assert (flow.produced, flow.delivered, flow.replaced) == (2, 1, 1)
        goes_on.set()
        assert flow.newer(5.0) is None  # it has ended
