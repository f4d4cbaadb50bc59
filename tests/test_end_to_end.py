"""From a real source to a real file and back: nothing lost, nothing moved, nothing invented."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import rtseg
from rtseg.backends import open_backend
from rtseg.contracts import Rendered, Sink
from rtseg.nets import find_model
from rtseg.segmenter import Segmenter
from rtseg.sources.synthetic import read_number
from rtseg.stats import Clock, Stats

CLIPS = """
imageio_realshort.mp4 intel_asl_again.mkv intel_asl_bird.mkv intel_asl_book.mkv
intel_asl_brother.mkv intel_asl_eat.mkv intel_asl_help.mkv intel_asl_hungry.mkv
intel_asl_learn.mkv intel_asl_milk.mkv intel_asl_night.mkv intel_car-detection.mp4
intel_one-by-one-person-detection.mp4 liveportrait_d13.mp4 liveportrait_d18.mp4 liveportrait_d9.mp4
omz_human_pose_video.avi paddleseg_humanseg_test.avi pyscenedetect_aspect-ratio.mp4
pyscenedetect_fades.mp4 pyscenedetect_testvideo.mp4 torchcodec_bt709_full_range.mp4
torchcodec_dog_eating.mp4 torchcodec_nasa_13013_rotated.mp4 torchcodec_test_non_zero_start.mp4
torchcodec_var_fps_video.mp4
""".split()
QUICK = {"intel_asl_again.mkv", "torchcodec_nasa_13013_rotated.mp4", "torchcodec_var_fps_video.mp4",
         "torchcodec_test_non_zero_start.mp4", "imageio_realshort.mp4",
         "paddleseg_humanseg_test.avi"}  # fmt: skip


@dataclass
class Facts:
    """What PyAV reads back from a clip."""

    frames: int
    seconds: list[float]
    rate: Fraction
    size: tuple[int, int]
    aspect: Fraction
    audio: list[tuple[str, int, float]]

    @property
    def duration(self) -> float:
        return self.seconds[-1] - self.seconds[0] + float(1 / self.rate)


def facts(path: Path) -> Facts:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        frames = [(float(f.pts * video.time_base), f.rotation) for f in container.decode(video)]
        turned = frames[0][1] % 180 != 0
        size = (video.codec_context.width, video.codec_context.height)
        aspect = Fraction(video.sample_aspect_ratio or 1)
        found = Facts(
            len(frames),
            [seconds for seconds, _ in frames],
            Fraction(video.average_rate),
            size[::-1] if turned else size,
            1 / aspect if turned else aspect,
            [],
        )
    with av.open(str(path)) as container:
        for stream in container.streams.audio:
            packets = [p for p in container.demux(stream) if p.pts is not None]
            start = float(packets[0].pts * stream.time_base) - found.seconds[0]
            found.audio.append((stream.codec_context.name, len(packets), start))
    return found


def segmenter() -> Segmenter:
    return Segmenter(open_backend("stub", find_model("stub")))


def plain(frame: rtseg.Frame, segmentation: rtseg.Segmentation) -> np.ndarray:
    return frame.image


def write(source: str | Path, target: Path, **options) -> rtseg.Report:
    with rtseg.open_source(source, rtseg.SourceOptions(**options)) as opened:
        network = segmenter()
        with rtseg.open_sink(str(target), opened.info, network.labels) as sink:
            return rtseg.run(opened, network, plain, [sink])


@pytest.mark.needs_data
def test_the_list_is_every_clip(data: Path) -> None:
    assert sorted(CLIPS) == sorted(path.name for path in (data / "videos").iterdir())


@pytest.mark.needs_data
@pytest.mark.parametrize(
    "clip",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CLIPS],
)
def test_a_written_clip_matches_its_source(data: Path, tmp_path: Path, clip: str) -> None:
    source, target = data / "videos" / clip, tmp_path / "out.mp4"
    report = write(source, target)
    was, now = facts(source), facts(target)
    assert now.frames == was.frames == report.frames
    assert report.dropped == 0
    assert now.size == tuple(side + side % 2 for side in was.size)
    assert now.aspect == was.aspect
    assert now.duration == pytest.approx(was.duration, abs=float(1 / was.rate))
    gaps = np.diff(was.seconds)
    if gaps.max() - gaps.min() < 0.0021:  # a constant rate, but for a container's milliseconds
        assert now.rate == was.rate
    np.testing.assert_allclose(
        np.subtract(now.seconds, now.seconds[0]),
        np.subtract(was.seconds, was.seconds[0]),
        atol=0.0011,
    )
    assert [(name, packets) for name, packets, _ in now.audio] == [
        (name, packets) for name, packets, _ in was.audio
    ]
    for (_, _, start_now), (_, _, start_was) in zip(now.audio, was.audio, strict=True):
        assert start_now == pytest.approx(start_was, abs=0.002)


@pytest.mark.parametrize("target", ["out.mp4", "out.mkv", "out.webm", "out.avi"])
def test_frame_n_of_the_output_shows_frame_n_of_the_source(tmp_path: Path, target: str) -> None:
    write("test://?size=640x360&fps=30000/1001&frames=90", tmp_path / target)
    with av.open(str(tmp_path / target)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == Fraction(30000, 1001)
        numbers = [read_number(f.to_ndarray(format="bgr24")) for f in container.decode(stream)]
    assert numbers == list(range(90))


def test_the_mask_belongs_to_its_frame() -> None:
    """The mask decoded for frame N is the known mask of frame N, and of no other."""
    with rtseg.open_source("test://?size=640x360&frames=60") as source:
        for frame, segmentation in rtseg.stream(source, segmenter()):
            number = read_number(frame.image)
            assert number == frame.index
            known = source.mask_of(number)
            inside = known > 0
            overlap = (segmentation.mask[inside] == known[inside]).mean()
            assert overlap > 0.9
            far = source.mask_of(number + 30)
            moved = (segmentation.mask[far > 0] == far[far > 0]).mean()
            assert moved < overlap


def test_start_end_every_and_max_frames_choose_frames_exactly(tmp_path: Path) -> None:
    write(
        "test://?size=640x360&fps=25&frames=100",
        tmp_path / "out.mkv",
        start=1.0,
        end=3.0,
        every=5,
        max_frames=7,
    )
    with av.open(str(tmp_path / "out.mkv")) as container:
        numbers = [read_number(f.to_ndarray(format="bgr24")) for f in container.decode(video=0)]
    assert numbers == [25, 30, 35, 40, 45, 50, 55]


class Forgetting(Sink):
    """Takes every picture and keeps nothing but the process's memory now and then."""

    def __init__(self) -> None:
        self.memory: dict[int, int] = {}

    def write(self, rendered: Rendered) -> None:
        assert rendered.image.size
        if rendered.frame.index % 500 == 0:
            import psutil

            self.memory[rendered.frame.index] = psutil.Process(os.getpid()).memory_info().rss


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_is_flat_from_frame_500_to_10000() -> None:
    sink = Forgetting()
    with rtseg.open_source("test://?size=320x180&frames=10001") as source:
        network, stats = segmenter(), Stats()
        effect = rtseg.open_effect(
            rtseg.ViewOptions(legend=True, hud=True), network.labels, stats=stats, source=source
        )
        report = rtseg.run(source, network, effect, [sink], stats=stats)
    assert report.frames == 10001
    growth = (sink.memory[10000] - sink.memory[500]) / 2**20
    assert growth < 20, f"{growth:.1f} MiB of growth: {sink.memory}"


@pytest.mark.slow
@pytest.mark.alone
def test_live_at_60_fps_with_a_network_of_100_ms() -> None:
    """A second of it; `test_live_window.py` has a minute."""
    ages: list[float] = []

    class Watching(Sink):
        def write(self, rendered: Rendered) -> None:
            assert rendered.image.size
            ages.append(time.perf_counter() - rendered.frame.captured_at)

    def watched(target: str) -> rtseg.Report:
        ages.clear()
        with rtseg.open_source(target) as source:
            network = Segmenter(open_backend("stub", find_model("stub?delay=100ms")))
            return rtseg.run(source, network, plain, [Watching()])

    watched("test://?size=1280x720&frames=1")  # compiles what draws
    report = watched("test://?size=1280x720&fps=60&frames=60&live=1")
    assert report.frames == len(ages) >= 6
    assert report.frames + report.dropped == report.produced == 60
    # a queue would be seconds long by the end; the machine may take its processor away for moments
    assert np.median(ages) < 0.25, f"oldest {max(ages):.3f} s of {len(ages)}"
    assert max(ages) < 1.5


def test_a_run_on_the_manual_clock_needs_no_time(tmp_path: Path) -> None:
    """Time is passed in: an hour of a live camera passes in the time its frames take to draw."""
    from rtseg.stats import ManualClock

    clock: Clock = ManualClock()
    with rtseg.open_source("test://?size=64x64&fps=1&frames=60&live=1", clock=clock) as source:
        report = rtseg.run(source, segmenter(), plain, [], policy="all")
    assert clock.now() >= 59
    assert report.frames + report.dropped == report.produced


def test_report_is_json(tmp_path: Path) -> None:
    from dataclasses import asdict

    report = write("test://?size=64x64&frames=5", tmp_path / "a.mp4")
    assert json.loads(json.dumps(asdict(report)))["frames"] == 5
