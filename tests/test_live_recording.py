"""What is recorded of a camera lasts as long as the world did, whatever rate it claims."""

from __future__ import annotations

from pathlib import Path

import cv2  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np
import pytest
from fakes import FakeCapture, FakeDevice, Plugged

from rtseg import contracts
from rtseg.backends import open_backend
from rtseg.cli.app import main
from rtseg.frame import Frame, Image, Segmentation
from rtseg.nets import find_model
from rtseg.segmenter import Segmenter
from rtseg.session.loop import run
from rtseg.sinks import open_sink
from rtseg.sources import open_source
from rtseg.stats import ManualClock


class Ticking(FakeDevice):
    """A camera whose every picture takes its time on a clock that nobody waits for."""

    def __init__(
        self,
        clock: ManualClock,
        claimed: float,
        true: float,
        jitter: float,
        *plugs: Plugged | None,
    ) -> None:
        super().__init__(list(plugs) or [Plugged((64, 48), fps=claimed)])
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
            policy="all", stop=lambda: taken[-1] - taken[0] > 8.0,
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


@pytest.mark.parametrize("true", [17.0, 29.97, 59.94])
def test_an_outage_is_as_long_in_the_recording_as_it_was(
    true: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unplugged after a while, back after two tries in another size: one file, one size."""
    clock, path = ManualClock(50.0), tmp_path / "out.mp4"
    first = Plugged((64, 48), fps=30.0, frames=round(6 * true))
    back = Plugged((32, 32), fps=30.0)
    monkeypatch.setattr(
        cv2, "VideoCapture", Ticking(clock, 30.0, true, 0.4 / true, first, None, None, back)
    )
    taken: list[tuple[float, tuple[int, int]]] = []

    def effect(frame: Frame, segmentation: Segmentation) -> Image:
        taken.append((frame.captured_at, frame.size))
        return np.full_like(frame.image, 200)

    with (
        open_source("0", clock=clock) as source,
        Segmenter(open_backend("stub", find_model("stub"))) as segmenter,
        open_sink(str(path), source.info, segmenter.labels) as sink,
    ):
        report = run(
            source, segmenter, effect, [sink],
            policy="all", stop=lambda: taken[-1][0] - taken[0][0] > 15.0,
        )  # fmt: skip
    at = [when for when, _ in taken]
    away = int(np.argmax(np.diff(at)))
    assert report.outages == 1
    assert np.diff(at)[away] > 3.0
    assert (taken[away][1], taken[away + 1][1]) == ((48, 64), (32, 32))
    assert "camera 0 gives 32x32 since frame" in report.notes[0]
    with av.open(path) as container:
        stream = container.streams.video[0]
        duration = container.duration / av.time_base
        shown = [(float(picture.pts * stream.time_base), picture.to_ndarray(format="gray"))
                 for picture in container.decode(stream)]  # fmt: skip
    assert duration == pytest.approx(at[-1] - at[0] + 1 / true, rel=0.02)
    times = np.array([when for when, _ in shown])
    assert times == pytest.approx(np.array(at) - at[0], abs=0.002)
    assert {picture.shape for _, picture in shown} == {(48, 64)}
    after = shown[away + 1][1]
    assert after[:, 10:54].min() > 180, "the whole picture, scaled"
    assert after[:, :6].max() < 40, "between bars"


def test_a_camera_lost_while_it_is_recorded_leaves_a_file_that_plays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = ManualClock(50.0)
    plug = Plugged((64, 48), frames=40, formats={"YUYV": 50.0}, clock=clock)
    monkeypatch.setattr(cv2, "VideoCapture", FakeDevice([plug]))
    monkeypatch.setattr(contracts, "Clock", lambda: clock)
    path = tmp_path / "out.mp4"
    arguments = ("--no-reconnect", "--policy", "all", "-m", "stub", "-o", str(path))
    assert main(["--camera", "0", *arguments]) == 3
    said = capsys.readouterr().err
    assert "camera 0 was lost" in said
    assert f"39 frames to {path}" in said  # the first was used to open it
    with av.open(path) as container:
        frames = sum(1 for _ in container.decode(video=0))
        duration = container.duration / av.time_base
    assert frames == 39
    assert duration == pytest.approx(39 / 50, abs=0.002)
