"""What is recorded of a camera lasts as long as the world did, whatever rate it claims."""

from __future__ import annotations

from pathlib import Path

import cv2  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np
import pytest
from fakes import FakeCapture, FakeDevice, Plugged

from rtseg.backends import open_backend
from rtseg.clock import ManualClock
from rtseg.frame import Frame, Image
from rtseg.nets import find_model
from rtseg.pipeline import run
from rtseg.segmentation import Segmentation
from rtseg.segmenter import Segmenter
from rtseg.sinks import open_sink
from rtseg.sources import open_source


class Ticking(FakeDevice):
    """A camera whose every picture takes its time on a clock that nobody waits for."""

    def __init__(self, clock: ManualClock, claimed: float, true: float, jitter: float) -> None:
        super().__init__([Plugged((64, 48), fps=claimed)])
        self.clock, self.true, self.jitter = clock, true, jitter
        self.dice = np.random.default_rng(1)

    def __call__(self, target: object, *rest: object) -> FakeCapture:
        capture = super().__call__(target, *rest)
        began = self.clock.now()
        grab = capture.grab

        def timed() -> bool:
            late = self.dice.uniform(0, self.jitter)
            due = began + (capture.count + 1) / self.true + late
            self.clock.sleep(due - self.clock.now())
            return grab()

        capture.grab = timed  # type: ignore[method-assign]
        return capture


CAMERAS = [(17.0, 30.0), (29.97, 30.0), (59.94, 60.0), (59.94, 30.0), (17.0, 0.0)]
"""(true rate, claimed rate)"""


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(("true", "claimed"), CAMERAS)
def test_a_recording_lasts_as_long_as_the_world(
    true: float, claimed: float, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, path = ManualClock(50.0), tmp_path / f"out{suffix}"
    monkeypatch.setattr(cv2, "VideoCapture", Ticking(clock, claimed, true, 0.4 / true))
    taken: list[float] = []

    def effect(frame: Frame, segmentation: Segmentation) -> Image:
        taken.append(frame.captured_at)
        return frame.image

    with (
        open_source("0", clock=clock) as source,
        Segmenter(open_backend("stub", find_model("stub"))) as segmenter,
        open_sink(str(path), source.info, segmenter.labels) as sink,
    ):
        run(
            source, segmenter, effect, [sink],
            policy="all", stop=lambda: taken[-1] - taken[0] > 20.0,
        )  # fmt: skip
    lasted = taken[-1] - taken[0] + 1 / true
    with av.open(path) as container:
        duration = container.duration / av.time_base
        stream = container.streams.video[0]
        rate = float(stream.average_rate)
        frames = sum(1 for _ in container.decode(stream))
    assert frames == len(taken)
    assert duration == pytest.approx(lasted, rel=0.02)
    # Matroska writes its rate ahead of the first frame, and so the camera's claim
    assert rate == pytest.approx(true if suffix == ".mp4" else claimed or 30, rel=0.02)
