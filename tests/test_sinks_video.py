"""Video files: count, times, size, colours, failures; read back by PyAV, OpenCV and ffmpeg."""

from __future__ import annotations

import gc
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import psutil
import pytest
from av.codec import codecs_available
from sink_frames import clip, clip_info, info, packets, picture, pictures, rendered, times, write

from rtseg import files
from rtseg.contracts import Sink
from rtseg.errors import SinkError, UsageError
from rtseg.labels import VOC
from rtseg.sinks import SinkOptions, muxing, open_sink, video
from rtseg.sinks.encoding import CONTAINERS, HARDWARE, Encoder, Timeline, find_encoder, video_frame
from rtseg.sinks.muxing import Muxer, count_frames
from rtseg.sources import open_source

RATES = [
    Fraction(24000, 1001), Fraction(30000, 1001), Fraction(30), Fraction(45000, 1499),
    Fraction(25, 2), Fraction(60000, 1001), Fraction(1),
]  # fmt: skip
BARS = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0), "skin": (96, 140, 205)}


def at(rate: Fraction, count: int, jitter: float = 0.0) -> list:
    """Frames at a constant rate, times rounded to whole `jitter`s as Matroska does."""
    exact = [float(index / rate) for index in range(count)]
    seconds = [round(t / jitter) * jitter if jitter else t for t in exact]
    return [rendered(index, t) for index, t in enumerate(seconds)]


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("rate", RATES)
def test_constant_rates(rate, suffix, tmp_path) -> None:
    path = tmp_path / f"out{suffix}"
    write(str(path), at(rate, 20), info(rate))
    with av.open(str(path)) as container:
        read = container.streams.video[0].average_rate
        duration = container.duration / 1e6
    # Matroska tells a frame's length in nanoseconds, and FFmpeg looks for a small fraction
    exact = rate == read or (suffix in (".mkv", ".webm") and abs(read / rate - 1) < 1e-6)
    assert exact, read
    assert duration == pytest.approx(20 / rate, abs=0.0011)
    assert len(pictures(path)) == 20
    if suffix == ".mp4":
        assert times(path) == [index / rate for index in range(20)]


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_pictures_without_a_rate_last_as_long_as_their_source_says(suffix, tmp_path) -> None:
    for number in range(10):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((48, 64, 3), 20 * number, np.uint8))
    path = tmp_path / f"out{suffix}"
    with open_source(tmp_path) as source:
        frames = [rendered(frame.index, frame.pts) for frame in source]
    write(str(path), frames, source.info)
    assert len(pictures(path)) == 10
    with av.open(str(path)) as container:
        assert container.duration / 1e6 == pytest.approx(0.4, abs=0.0011)
        assert container.streams.video[0].average_rate == pytest.approx(25, rel=1e-3)


@pytest.mark.parametrize("rate", RATES[:5])
def test_milliseconds_of_matroska_give_the_exact_rate(rate, tmp_path) -> None:
    path = tmp_path / "out.mp4"
    write(str(path), at(rate, 100, jitter=0.001), info(rate))
    assert times(path) == [index / rate for index in range(100)]


def test_gaps_of_a_constant_rate_stay_on_the_grid(tmp_path) -> None:
    path = tmp_path / "out.mp4"
    kept = [0, 1, 2, 7, 8, 20]
    rate = Fraction(30000, 1001)
    write(str(path), [rendered(i, float(i / rate)) for i in kept], info(rate))
    assert times(path) == [i / rate for i in kept]


def test_variable_times_are_kept_to_the_tick(tmp_path) -> None:
    seconds = np.cumsum([0, 0.04, 0.011, 0.25, 0.0333, 0.1234567, 0.002, 0.5, 0.04]).tolist()
    path = tmp_path / "out.mp4"
    about = info(Fraction(20))
    write(str(path), [rendered(i, t) for i, t in enumerate(seconds)], about)
    tick = float(Timeline(about).time_base)
    assert [float(t) for t in times(path)] == pytest.approx(seconds, abs=tick)
    with av.open(str(path)) as container:
        assert container.duration / 1e6 == pytest.approx(seconds[-1] + 0.04, abs=0.002)


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("rate", [Fraction(25, 8388609), Fraction(1, 10**9)])
def test_rates_of_damaged_headers(suffix, rate, tmp_path) -> None:
    path = tmp_path / f"out{suffix}"
    write(str(path), [rendered(i, i / 25) for i in range(3)], info(rate))
    assert len(times(path)) == (1 if suffix == ".avi" else 3)


def test_times_that_stand_still_or_go_back_still_increase(tmp_path) -> None:
    path = tmp_path / "out.mp4"
    write(str(path), [rendered(i, t) for i, t in enumerate([0, 0.1, 0.1, 0.05, 0.3])], info(None))
    read = times(path)
    assert len(read) == 5
    assert all(a < b for a, b in pairwise(read))


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_live_recording_lasts_as_long_as_it_took(suffix, tmp_path) -> None:
    """A camera that calls itself 30 fps and gives ten, with a pause: the wall clock counts."""
    taken = [100.0, 100.1, 100.21, 100.3, 102.3, 102.4, 102.5]
    path = tmp_path / f"out{suffix}"
    frames = [rendered(3 * i, i / 30, captured_at=t) for i, t in enumerate(taken)]
    write(str(path), frames, info(live=True))
    with av.open(str(path)) as container:
        assert container.duration / 1e6 == pytest.approx(2.6, abs=0.1)
    if suffix != ".avi":
        assert [float(t) for t in times(path)] == pytest.approx([t - 100 for t in taken], abs=0.001)


def test_avi_repeats_across_a_gap_and_leaves_out_what_comes_too_fast(tmp_path) -> None:
    seconds = [0, 0.1, 0.11, 0.5, 0.6]
    path = tmp_path / "out.avi"
    summary = write(
        str(path), [rendered(10 * i, t) for i, t in enumerate(seconds)], info(Fraction(10))
    )
    values = [round(float(image.mean())) for image in pictures(path)]
    shown = [picture(10 * i)[0, 0, 0] for i in (0, 1, 1, 1, 1, 3, 4)]
    assert values == pytest.approx(shown, abs=2)
    assert "1 left out" in summary


def test_avi_repeats_the_last_image_for_as_long_as_it_lasts(tmp_path) -> None:
    path = tmp_path / "out.avi"
    frames = [rendered(i, i / 10) for i in range(3)]
    frames[-1].frame = replace(frames[-1].frame, lasts=0.42)
    write(str(path), frames, info(Fraction(10)))
    values = [round(float(image.mean())) for image in pictures(path)]
    assert values == pytest.approx([picture(i)[0, 0, 0] for i in (0, 1, 2, 2, 2, 2)], abs=2)


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_odd_sizes_lose_no_row(suffix, tmp_path) -> None:
    image = np.full((77, 101, 3), 60, np.uint8)
    image[-1], image[:, -1] = 220, 220
    path = tmp_path / f"out{suffix}"
    write(str(path), [rendered(i, image=image) for i in range(3)], info(), crf=4)
    read = pictures(path)[1]
    assert read.shape == (78, 102, 3)
    assert read[76:].mean() == pytest.approx(220, abs=4)
    assert read[:, 100:].mean() == pytest.approx(220, abs=4)
    assert read[:74, :98].mean() == pytest.approx(60, abs=4)


def test_a_new_size_is_fitted_into_the_first_undistorted(tmp_path) -> None:
    path = tmp_path / "out.mp4"
    wide = np.full((60, 240, 3), 200, np.uint8)
    write(str(path), [rendered(0), rendered(1, image=wide)], info())
    first, second = pictures(path)
    assert first.shape == second.shape == (96, 128, 3)
    assert second[40:56].mean() == pytest.approx(200, abs=4)  # 128x32, in the middle
    assert second[:28].mean() < 8
    assert second[-28:].mean() < 8


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(suffix, codec) for suffix, container in CONTAINERS.items() for codec in container.codecs],
)
@pytest.mark.parametrize("aspect", [Fraction(16, 11), Fraction(8, 9)])
def test_pixels_that_are_not_square(suffix, codec, aspect, tmp_path) -> None:
    path = tmp_path / f"out{suffix}"
    write(str(path), map(rendered, range(3)), info(sample_aspect_ratio=aspect), codec=codec)
    with av.open(str(path)) as container:
        (video,) = container.streams.video
        *_, last = container.decode(video)
        shape = Fraction(last.width, last.height) * (video.sample_aspect_ratio or 1)
        assert float(shape) == pytest.approx(float(aspect * 128 / 96), rel=0.01)
        assert min(last.width - 128, last.height - 96) >= 0


def bars() -> np.ndarray:
    return np.concatenate([np.full((64, 48, 3), colour, np.uint8) for colour in BARS.values()], 1)


def centres(image: np.ndarray) -> np.ndarray:
    return image[32, [24 + 48 * i for i in range(len(BARS))]].astype(int)


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("codec", [None, "mjpeg", "hevc", "vp8", "ffv1"])
def test_colours_come_back(suffix, codec, tmp_path) -> None:
    path = tmp_path / f"out{suffix}"
    if codec and codec not in CONTAINERS[suffix].codecs:
        pytest.skip(f"{suffix} holds no {codec}")
    write(str(path), [rendered(i, image=bars()) for i in range(3)], info(), codec=codec)
    wanted = np.array(list(BARS.values()))
    assert np.abs(centres(pictures(path)[0]) - wanted).max() <= 6
    capture = cv2.VideoCapture(str(path))
    assert np.abs(centres(capture.read()[1]) - wanted).max() <= 6
    capture.release()
    if shutil.which("ffmpeg"):  # which honours the tags
        command = ["ffmpeg", "-v", "error", "-i", str(path), "-frames:v", "1"]
        command += ["-f", "rawvideo", "-pix_fmt", "bgr24", "-"]
        raw = subprocess.run(command, capture_output=True, check=True).stdout
        image = np.frombuffer(raw, np.uint8).reshape(64, -1, 3)
        assert np.abs(centres(image) - wanted).max() <= 6


@pytest.mark.parametrize(
    ("tags", "written"),
    [(None, (6, 6, 6, 1)), ((1, 1, 1, 2), (1, 1, 1, 1)),
     ((9, 9, 14, 1), (1, 1, 1, 1)), ((0, 1, 13, 2), (6, 6, 6, 1))],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_colour_tags(tags, written, suffix, tmp_path) -> None:
    path = tmp_path / f"out{suffix}"
    write(str(path), map(rendered, range(2)), info(colour_tags=tags))
    with av.open(str(path)) as container:
        c = container.streams.video[0].codec_context
        next(container.decode(video=0))
        assert (c.colorspace, c.color_primaries, c.color_trc, c.color_range) == written


def test_what_a_player_shows_of_a_tagged_source_is_what_it_shows_of_ours(data, tmp_path) -> None:
    """liveportrait_d9 says BT.709: the numbers in our file are its own, and so is the tag."""
    source, path = data / "videos/liveportrait_d9.mp4", tmp_path / "out.mp4"
    write(str(path), list(clip(source, end=0.1)), clip_info(source), audio="none", crf=8)
    with av.open(str(source)) as a, av.open(str(path)) as b:
        theirs, ours = next(a.decode(video=0)), next(b.decode(video=0))
        assert (ours.colorspace, ours.color_range) == (theirs.colorspace, theirs.color_range)
        for plane in range(3):
            x, y = (np.frombuffer(f.planes[plane], np.uint8)[:100_000] for f in (theirs, ours))
            assert np.abs(x.astype(int) - y).mean() < 1.5


@pytest.mark.parametrize(
    "name",
    ["imageio_realshort.mp4", "intel_asl_eat.mkv", "torchcodec_test_non_zero_start.mp4",
     "torchcodec_bt709_full_range.mp4", "torchcodec_var_fps_video.mp4"],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_real_clips(name, suffix, data, tmp_path) -> None:
    source, path = data / "videos" / name, tmp_path / f"out{suffix}"
    about = clip_info(source)
    write(str(path), clip(source), about)
    assert len(packets(path, "video")) == len(packets(source, "video"))
    theirs = times(source)
    theirs = [t - theirs[0] for t in theirs]
    assert [float(t) for t in times(path)] == pytest.approx(list(map(float, theirs)), abs=0.0011)
    with av.open(str(source)) as a, av.open(str(path)) as b:
        frame = 1 / float(about.frame_rate)
        assert b.duration / 1e6 == pytest.approx(a.duration / 1e6, abs=frame)
        assert b.streams.video[0].sample_aspect_ratio == about.sample_aspect_ratio


@pytest.mark.parametrize(
    ("suffix", "options", "says"),
    [
        (".mp4", {"codec": "vp9"}, ".mp4 files are written as h264, hevc"),
        (".webm", {"codec": "h264"}, ".webm files are written as vp9, vp8"),
        (".mkv", {"codec": "theora"}, "codec 'theora' for .mkv"),
        (".mp4", {"crf": 52}, "h264 takes 0 to 51"),
        (".webm", {"crf": -1}, "vp9 takes 0 to 63"),
        (".avi", {"codec": "mjpeg", "crf": 20}, "mjpeg has no constant rate factor"),
    ],
)
def test_codecs_and_qualities_that_do_not_fit(suffix, options, says, tmp_path) -> None:
    with pytest.raises(UsageError) as caught:
        write(str(tmp_path / f"out{suffix}"), [rendered(0)], info(), **options)
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_crf_is_heard(tmp_path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    sizes = []
    for crf in (10, 40):
        path = tmp_path / f"{crf}.mp4"
        write(str(path), [rendered(i, image=noise) for i in range(5)], info(), crf=crf)
        sizes.append(path.stat().st_size)
    assert sizes[0] > 2 * sizes[1]


@pytest.mark.parametrize("name", HARDWARE)
def test_an_encoder_of_a_gpu_that_is_not_there(name: str, tmp_path: Path) -> None:
    """It is refused if FFmpeg lacks it; else x264 writes the file, and the summary says why."""
    path = tmp_path / "out.mp4"
    if HARDWARE[name].library not in codecs_available:
        with pytest.raises(UsageError, match=f"--encoder {name}.* lacks {HARDWARE[name].library}"):
            write(str(path), [rendered(0)], info(), encoder=name)
        assert not path.exists()
        return
    said = write(str(path), map(rendered, range(3)), info(), encoder=name)
    assert len(pictures(path)) == 3
    if "cannot start" in said:
        assert f"; encoded by x264, as {name} cannot start here (" in said
        assert b"x264" in path.read_bytes()


@pytest.mark.parametrize("pix_fmt", ["nv12", "yuv420p"])
def test_an_encoder_of_a_gpu_gets_the_frames_in_its_format(
    pix_fmt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x264 stands for it."""
    row = Encoder("libx264", pix_fmt, {"preset": "medium", "bf": "0"}, 9, crf_options=("crf",))
    monkeypatch.setitem(HARDWARE, "qsv", row)
    path = tmp_path / "out.mp4"
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8), (130, 90))
    about = info(colour_tags=(1, 1, 1, 1))
    said = write(str(path), [rendered(i, image=image) for i in range(3)], about, encoder="qsv")
    assert "x264" not in said
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (1, 1)
        found = frame.to_ndarray().astype(float)
    error = found - video_frame(image, Encoder("", "yuv420p"), about).to_ndarray()
    for plane in np.split(error.reshape(-1), [130 * 90, 130 * 90 * 5 // 4]):
        assert 10 * np.log10(255**2 / np.mean(plane**2)) > 40


def test_the_quality_goes_to_the_option_that_an_encoder_has() -> None:
    assert find_encoder(".mp4", None, 30, encoder="nvenc").options["cq"] == "30"
    amf = find_encoder(".mp4", None, None, encoder="amf").options
    assert amf["qp_i"] == amf["qp_p"] == "23"
    assert "crf" not in amf
    for name in ("auto", "x264"):
        assert find_encoder(".mkv", None, 7, encoder=name).library == "libx264"


@pytest.mark.parametrize(
    ("suffix", "options", "says"),
    [
        (".webm", {"encoder": "nvenc"}, "--encoder nvenc with codec vp9"),
        (".mp4", {"encoder": "x264", "codec": "hevc"}, "--encoder x264 with codec hevc"),
        (".mp4", {"encoder": "vaapi"}, "--encoder vaapi"),
        (".mp4", {"encoder": "nvenc", "crf": 99}, "encoder nvenc takes 0 to 51"),
    ],
)
def test_encoders_that_do_not_fit(suffix, options, says, tmp_path) -> None:
    with pytest.raises(UsageError) as caught:
        write(str(tmp_path / f"out{suffix}"), [rendered(0)], info(), **options)
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_mp4_begins_with_its_index(tmp_path) -> None:
    path = tmp_path / "out.mp4"
    write(str(path), map(rendered, range(5)), info())
    content = path.read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_a_file_with_missing_frames_is_not_put_in_place(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(video, "count_frames", lambda path: 4)
    with pytest.raises(SinkError, match=r"4 of 5 frames .*kept as .*/\.out-\w{16}\.part\.mp4"):
        write(str(tmp_path / "out.mp4"), map(rendered, range(5)), info())
    assert len(list(tmp_path.iterdir())) == 1


def write_all(sink: Sink, numbers: Iterable[int]) -> None:
    """Write frames, and close."""
    with sink:
        for index in numbers:
            sink.write(rendered(index))


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_full_disk_keeps_the_frames_until_then(suffix, tmp_path, monkeypatch) -> None:
    path = tmp_path / f"out{suffix}"
    sink = open_sink(str(path), info(), VOC)
    for index in range(7):
        sink.write(rendered(index))
    encoded = 0
    while encoded < 7:
        encoded += len(list(sink.encoded()))
    monkeypatch.setattr(files, "RESERVE_BYTES", 1 << 62)
    with pytest.raises(SinkError, match=r"No space left on device.* The 7 frames") as caught:
        write_all(sink, range(7, 14))
    assert caught.value.exit_code == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert count_frames(path) == 7
    with av.open(str(path)) as container:
        lasts = float(container.duration / av.time_base)
    assert lasts == pytest.approx(7 / 30, abs=0.01), "not as if those after it were there too"


def test_an_error_at_the_last_frame_is_raised_at_the_end(tmp_path, monkeypatch) -> None:
    path = tmp_path / "out.mp4"
    monkeypatch.setattr(files, "RESERVE_BYTES", 1 << 62)
    sink = open_sink(str(path), info(), VOC)
    sink.write(rendered(0))
    with pytest.raises(SinkError, match="No space left on device"):
        sink.close()
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_handed_over_while_one_is_encoded(tmp_path, monkeypatch) -> None:
    goes_on, encoded = threading.Event(), Muxer.encode

    def slowly(self, image, tick):
        goes_on.wait()
        return encoded(self, image, tick)

    monkeypatch.setattr(Muxer, "encode", slowly)
    with open_sink(str(tmp_path / "out.mp4"), info(), VOC) as sink:
        for index in range(3):
            sink.write(rendered(index))
        assert list(sink.encoded()) == []
        goes_on.set()
    assert len(list(sink.encoded())) == 3
    assert count_frames(tmp_path / "out.mp4") == 3


def test_a_picture_may_be_drawn_over_once_it_is_handed_over(tmp_path) -> None:
    buffer = np.empty((96, 128, 3), np.uint8)
    with open_sink(str(tmp_path / "out.mkv"), info(), VOC, SinkOptions(codec="ffv1")) as sink:
        for index in range(12):
            buffer[:] = 20 * index
            sink.write(rendered(index, image=buffer))
    levels = [one[0, 0, 0] for one in pictures(tmp_path / "out.mkv")]
    assert levels == [20 * index for index in range(12)]


def test_an_encoder_is_freed_with_its_file(tmp_path) -> None:
    """A recording after the other, live, would else fill the memory until cycles are collected."""
    picture = np.zeros((720, 1280, 3), np.uint8)
    megabytes = []
    gc.disable()
    try:
        for _ in range(8):
            write(str(tmp_path / "out.mp4"), [rendered(0, image=picture)], info(), overwrite=True)
            megabytes.append(psutil.Process().memory_info().rss / 1e6)
    finally:
        gc.enable()
    assert megabytes[-1] - megabytes[1] < 40  # six encoders that stay take 87


LIMITED = """
import resource, sys
import numpy as np
from rtseg.errors import SinkError
from sink_frames import info, rendered, write
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
noise = np.random.default_rng(0)
frames = (rendered(i, image=noise.integers(0, 255, (480, 640, 3), np.uint8)) for i in range(60))
try:
    write(sys.argv[1], frames, info())
except SinkError as error:
    sys.stdout.write(str(error))
"""


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_write_that_the_system_refuses(suffix, tmp_path) -> None:
    assert resource.RLIMIT_FSIZE is not None
    path = tmp_path / f"out{suffix}"
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{here}:{here.parent}", "PATH": "/usr/bin:/bin"},
    )
    assert "cannot write" in done.stdout, done.stderr
    assert "File too large" in done.stdout
    assert "kept as" in done.stdout
    assert not path.exists(), "nothing half-made under the name that was asked for"


def test_a_target_that_appears_meanwhile_is_not_replaced(tmp_path) -> None:
    path = tmp_path / "out.mp4"
    sink = open_sink(str(path), info(), VOC)
    sink.write(rendered(0))
    path.write_text("somebody else's")
    with pytest.raises(SinkError, match="appeared while it was being written"):
        sink.close()
    assert path.read_text() == "somebody else's"


def test_writing_over_the_file_that_is_read(data, tmp_path) -> None:
    path = tmp_path / "clip.mp4"
    shutil.copyfile(data / "videos/imageio_realshort.mp4", path)
    write(str(path), clip(path), clip_info(path), overwrite=True)
    assert len(packets(path, "video")) == 36
    assert len(packets(path, "audio")) == 55


def test_options_default() -> None:
    assert SinkOptions() == SinkOptions(False, None, None, "auto", "copy", False, "rtseg", "bgr24")


@pytest.mark.parametrize(
    ("target", "size", "words"),
    [
        ("out.mp4", (2, 20_000), "libx264 does not support 20000x2"),
        ("out.webm", (2, 70_000), "libvpx-vp9 does not support 70000x2"),
        ("mask:out.mkv", (300, 1), "ffv1 does not support 1x300"),
    ],
)
def test_a_size_that_the_encoder_refuses_is_named(target, size, words, tmp_path) -> None:
    role, _, name = target.rpartition(":")
    frame = rendered(0, image=np.zeros((*size, 3), np.uint8))
    with pytest.raises(SinkError, match=words):
        write(f"{role}:{tmp_path}/{name}" if role else f"{tmp_path}/{name}", [frame], info())
    assert list(tmp_path.iterdir()) == []


def test_the_index_stays_at_the_end_if_there_is_no_room_for_a_copy(tmp_path, monkeypatch) -> None:
    path = tmp_path / "out.mp4"
    monkeypatch.setattr(muxing, "free_bytes", lambda folder: 0.0)
    write(str(path), map(rendered, range(5)), info())
    content = path.read_bytes()
    assert 0 < content.index(b"mdat") < content.index(b"moov")
    assert [item.name for item in tmp_path.iterdir()] == ["out.mp4"]


def test_positions_that_need_more_bytes_leave_the_index_at_the_end(tmp_path, monkeypatch) -> None:
    path = tmp_path / "out.mp4"
    monkeypatch.setattr(muxing, "free_bytes", lambda folder: 0.0)
    write(str(path), map(rendered, range(5)), info())
    content = bytearray(path.read_bytes())
    place = content.rindex(b"stco") + 12
    content[place : place + 4] = (2**32 - 5).to_bytes(4, "big")
    path.write_bytes(content)
    monkeypatch.undo()
    muxing.index_first(path)
    assert path.read_bytes() == content


def test_a_file_is_closed_when_one_with_its_index_first_replaces_it(tmp_path, monkeypatch) -> None:
    path = tmp_path / "out.mp4"
    monkeypatch.setattr(muxing, "free_bytes", lambda folder: 0.0)
    write(str(path), map(rendered, range(5)), info())
    monkeypatch.undo()
    opened: list[list[str]] = []
    replace = Path.replace

    def replaces(part: Path, target: Path) -> None:
        opened.append([each.path for each in psutil.Process().open_files()])
        replace(part, target)

    monkeypatch.setattr(Path, "replace", replaces)
    muxing.index_first(path)
    content = path.read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")
    assert [str(path) in each for each in opened] == [False]


def test_a_finished_mp4_is_an_ordinary_one(tmp_path) -> None:
    """No fragments, and the same packets and times wherever the index is."""
    path = tmp_path / "out.mp4"
    write(str(path), map(rendered, range(90)), info())
    with path.open("rb") as file:
        boxes = [kind for kind, _, _ in muxing._boxes(file, 0, path.stat().st_size)]
    assert boxes == ["ftyp", "moov", "free", "mdat"]
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 90
        assert [round(frame.time * 30) for frame in container.decode(video=0)] == list(range(90))
