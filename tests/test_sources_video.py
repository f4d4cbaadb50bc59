"""Video files: facts, times, rotation, aspect; parts of them; and files that are not videos."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import _data_folder

from rtseg.contracts import Source
from rtseg.errors import SourceError, UsageError
from rtseg.sources import SourceOptions, open_source
from rtseg.sources.synthetic import read_number

LONG = {
    "intel_one-by-one-person-detection.mp4",
    "liveportrait_d13.mp4",
    "liveportrait_d9.mp4",
    "omz_human_pose_video.avi",
    "pyscenedetect_aspect-ratio.mp4",
    "pyscenedetect_testvideo.mp4",
}
"""Real clips of hundreds of frames."""


def clips(names: Iterable[str]) -> list[Any]:
    """Parameters of a test, slow for long clips."""
    return [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in names]


CLIPS = sorted(p.name for p in (_data_folder() / "videos").glob("*.*"))


def numbered(path: Path, frames: int = 60, rate: int = 30, times: list[int] | None = None) -> Path:
    """Write a clip whose frames carry their numbers; `times` in milliseconds, for variable rate."""
    source = open_source(f"test://?size=320x180&fps={rate}&frames={frames}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"g": "20", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for frame in source:
            picture = av.VideoFrame.from_ndarray(frame.image, format="bgr24")
            if times is not None:
                picture.pts, picture.time_base = times[frame.index], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def packet_times(path: Path) -> list[float]:
    """Seconds from the first frame, by PyAV's packets: nothing of OpenCV's is in them."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
        times = sorted(p.pts * p.time_base for p in packets)
    return [float(time - times[0]) for time in times]


def numbers(source: Source) -> list[int]:
    return [read_number(frame.image) for frame in source]


@pytest.mark.needs_data
@pytest.mark.parametrize("clip", clips(CLIPS))
def test_every_frame_of_real_clips_at_its_own_time(data: Path, clip: str) -> None:
    path = data / "videos" / clip
    with open_source(path) as source:
        info = source.info
        pts, sizes, indices = [], set(), []
        for frame in source:
            pts.append(frame.pts)
            indices.append(frame.index)
            sizes.add(frame.size)
    assert source.warnings == []
    assert pts == pytest.approx(packet_times(path), abs=1e-6)
    assert indices == list(range(len(pts)))
    assert sizes == {(info.height, info.width)}
    assert info.frame_count in (None, len(pts))
    assert info.media == path
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        turned = next(container.decode(video)).rotation % 180 == 90
        stored = (video.codec_context.width, video.codec_context.height)
        aspect = Fraction(video.sample_aspect_ratio or 1)
        assert info.frame_rate == video.average_rate
        assert info.colour_tags == (
            video.codec_context.colorspace,
            video.codec_context.color_primaries,
            video.codec_context.color_trc,
            video.codec_context.color_range,
        )
    assert (info.width, info.height) == (stored[::-1] if turned else stored)
    assert info.sample_aspect_ratio == (1 / aspect if turned else aspect)


@pytest.mark.needs_data
def test_known_facts_of_known_clips(data: Path) -> None:
    def info(clip: str):
        with open_source(data / "videos" / clip) as source:
            return source.info

    assert info("imageio_realshort.mp4").frame_rate == Fraction(45000, 1499)
    assert info("pyscenedetect_testvideo.mp4").frame_rate == Fraction(30000, 1001)
    assert info("pyscenedetect_aspect-ratio.mp4").sample_aspect_ratio == Fraction(16, 11)
    rotated = info("torchcodec_nasa_13013_rotated.mp4")
    assert (rotated.width, rotated.height) == (270, 480)
    assert info("intel_asl_bird.mkv").frame_count is None


def test_rotation_inverts_the_pixel_aspect(tmp_path: Path) -> None:
    plain, turned = tmp_path / "plain.mp4", tmp_path / "turned.mp4"
    for path, degrees in ((plain, 0), (turned, 90)):
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
            stream.sample_aspect_ratio = Fraction(4, 3)
            stream.set_display_rotation(degrees)
            for frame in open_source("test://?size=160x96&frames=5"):
                picture = av.VideoFrame.from_ndarray(frame.image, format="bgr24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
    with open_source(plain) as upright, open_source(turned) as source:
        assert upright.info.sample_aspect_ratio == Fraction(4, 3)
        assert (source.info.width, source.info.height) == (96, 160)
        assert source.info.sample_aspect_ratio == Fraction(3, 4)
        first, expected = next(iter(source)), next(iter(upright))
        # x264 may encode a clip in two ways that differ by a level or two
        assert np.abs(first.image.astype(int) - np.rot90(expected.image)).max() < 8


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, 0.5, range(15)),
        (0.5, None, range(15, 60)),
        (1.01, 1.5, range(31, 45)),
        (0.0333, 0.0667, range(1, 2)),
        (1.9, 99.0, range(57, 60)),
        (0.0, None, range(60)),
    ],
)
def test_a_part_is_exact(
    tmp_path: Path, start: float | None, end: float | None, expected: range
) -> None:
    path = numbered(tmp_path / "clip.mp4")
    with open_source(path, SourceOptions(start=start, end=end)) as source:
        frames = list(source)
        info = source.info
    assert [read_number(f.image) for f in frames] == list(expected)
    assert [f.index for f in frames] == list(expected)
    assert [f.pts for f in frames] == pytest.approx([i / 30 for i in range(len(expected))])
    assert info.frame_count == len(expected)
    assert info.media_start == pytest.approx(expected[0] / 30)


def test_a_part_of_a_variable_rate_clip_is_exact(tmp_path: Path) -> None:
    times = [0, 40, 80, 400, 410, 1000, 1033, 1066, 2500, 2540, 2580, 3000]
    path = numbered(tmp_path / "vfr.mp4", 12, times=times)
    assert packet_times(path) == pytest.approx([t / 1000 for t in times])
    with open_source(path, SourceOptions(start=1.02, end=2.56)) as source:
        frames = list(source)
    assert [read_number(f.image) for f in frames] == [6, 7, 8, 9]
    assert [f.index for f in frames] == [6, 7, 8, 9]
    assert [f.pts for f in frames] == pytest.approx([0.0, 0.033, 1.467, 1.507])
    assert source.info.frame_count == 4
    assert source.info.media_start == pytest.approx(1.033)


@pytest.mark.needs_data
@pytest.mark.parametrize(
    "clip",
    clips(
        [
            "torchcodec_test_non_zero_start.mp4",
            "torchcodec_var_fps_video.mp4",
            "intel_asl_bird.mkv",
            "omz_human_pose_video.avi",
            "pyscenedetect_testvideo.mp4",
        ]
    ),
)
def test_a_part_of_a_real_clip_holds_the_same_frames(data: Path, clip: str) -> None:
    path = data / "videos" / clip
    times = packet_times(path)
    wanted = len(times) * 2 // 3
    with open_source(path) as whole:
        expected = next(frame for frame in whole if frame.index == wanted)
    with open_source(path, SourceOptions(start=times[wanted])) as part:
        first = next(iter(part))
        assert part.info.frame_count == len(times) - wanted
    assert (first.index, first.pts) == (wanted, 0.0)
    assert part.info.media_start == pytest.approx(times[wanted], abs=1e-6)
    assert np.array_equal(first.image, expected.image)


def test_a_last_frame_stands_as_long_after_a_seek(tmp_path: Path) -> None:
    """At a variable rate, with B-frames: decoded out of order, the last one's duration misleads."""
    path = tmp_path / "late.mp4"
    steps = [40, 40, 120, 40, 40, 220, 40, 60, 40, 360] * 3
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"bf": "2", "b-adapt": "0", "g": "8"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        packets = []
        for number, at in enumerate(np.cumsum([0, *steps])):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), number, np.uint8), "bgr24")
            frame.pts, frame.time_base = int(at), Fraction(1, 1000)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in packets:
            packet.duration = 5000 if packet is max(packets, key=lambda p: p.pts) else 40
        file.mux(packets)

    def end(**options: float) -> float:
        with open_source(path, SourceOptions(**options)) as source:
            *_, last = source
            return source.info.media_start + last.pts + last.lasts

    whole = end()
    assert whole > sum(steps) / 1000 + 4
    assert end(start=1.6) == pytest.approx(whole)


def test_where_seeking_goes_astray_frames_are_read_and_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    path = numbered(tmp_path / "clip.mp4")
    real = cv2.VideoCapture

    class Astray:
        """Seeks more than a second too far."""

        def __init__(self, *args: object) -> None:
            self._real = real(*args)

        def set(self, what: int, value: float) -> bool:
            return self._real.set(what, value + 1200)

        def __getattr__(self, name: str):
            return getattr(self._real, name)

    monkeypatch.setattr(cv2, "VideoCapture", Astray)
    with open_source(path, SourceOptions(start=1.5, end=1.6)) as source:
        assert numbers(source) == [45, 46, 47]


def test_a_start_beyond_the_end_says_where_the_end_is(tmp_path: Path) -> None:
    path = numbered(tmp_path / "clip.mp4")
    with pytest.raises(UsageError, match=r"clip.mp4 from 9 s: its last frame is at 1.967 s"):
        open_source(path, SourceOptions(start=9))


def test_a_file_cut_off_says_how_much_is_missing(tmp_path: Path) -> None:
    path = numbered(tmp_path / "whole.mp4", 120)
    fast = tmp_path / "fast.mp4"
    move = ["ffmpeg", "-v", "error", "-i", path, "-c", "copy", "-movflags", "faststart", fast]
    subprocess.run(move, check=True)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(fast.read_bytes()[: fast.stat().st_size * 2 // 3])
    with open_source(cut) as source:
        assert source.info.frame_count == 120
        count = len(list(source))
        assert list(source) == []
    assert 20 < count < 120
    assert source.warnings == [
        f"cut.mp4 ended after {count} of its 120 frames: it is damaged or cut off"
    ]


def test_a_trimmed_file_is_not_called_cut_off_for_the_frames_it_hides(tmp_path: Path) -> None:
    whole, trimmed, cut = (tmp_path / f"{name}.mp4" for name in ("whole", "trimmed", "cut"))
    numbered(whole, 120)
    start = ["ffmpeg", "-v", "error", "-ss", "1.3", "-i", whole, "-c", "copy"]
    subprocess.run([*start, "-movflags", "faststart", trimmed], check=True)
    cut.write_bytes(trimmed.read_bytes()[: trimmed.stat().st_size * 2 // 3])
    with av.open(str(trimmed)) as container:
        assert container.streams.video[0].frames > 81
    with open_source(trimmed) as source:
        assert (numbers(source), source.warnings) == (list(range(39, 120)), [])
    with open_source(cut) as source:
        count = len(list(source))
    assert source.warnings == [
        f"cut.mp4 ended after {count} of its 81 frames: it is damaged or cut off"
    ]


def test_the_empty_chunks_of_an_avi_file_are_no_frames(tmp_path: Path) -> None:
    times = [33 * n + 1000 * (n >= 20) for n in range(60)]
    path = numbered(tmp_path / "gap.mp4", times=times)
    whole, cut = tmp_path / "whole.avi", tmp_path / "cut.avi"
    command = ["ffmpeg", "-v", "error", "-i", path, "-r", "30", "-fps_mode", "vfr"]
    subprocess.run([*command, "-c:v", "mpeg4", whole], check=True)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with av.open(str(whole)) as container:
        declared = container.streams.video[0].frames
    assert declared > 80
    with open_source(whole) as source:
        assert (len(list(source)), source.warnings) == (60, [])
    with open_source(cut) as source:
        count = len(list(source))
    assert source.warnings == [
        f"cut.avi ended after {count} of its {declared} frames: it is damaged or cut off"
    ]


@pytest.mark.parametrize("suffix", ["mkv", "webm", "flv"])
def test_a_file_without_a_count_says_what_was_cut_off(tmp_path: Path, suffix: str) -> None:
    codec = ["-c:v", "libvpx", "-b:v", "1M"] if suffix == "webm" else ["-c:v", "libx264"]
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    lavfi = ["-f", "lavfi", "-i", "testsrc2=size=160x120:duration=2"]
    subprocess.run(["ffmpeg", "-v", "error", *lavfi, *codec, str(whole)], check=True)
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) * 2 // 3])
    missing = len(content) - cut.stat().st_size
    with open_source(whole) as source:
        assert (len(list(source)), source.warnings) == (50, [])
    with open_source(cut) as source:
        count = len(list(source))
    assert 0 < count < 50
    (warning,) = source.warnings
    assert warning.startswith(f"cut.{suffix} ended after {count} frames: it is cut off, at least ")
    found = int(re.findall(r"least (\d+) bytes", warning)[0])
    assert 0 < found <= missing
    assert found == missing or suffix == "flv"  # of which only the last tag can be missed


def test_a_recording_of_open_length_is_not_called_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "live.mkv"
    with path.open("wb") as file:
        lavfi = ["-f", "lavfi", "-i", "testsrc2=size=160x120:duration=1"]
        command = ["ffmpeg", "-v", "error", *lavfi, "-f", "matroska", "-"]
        subprocess.run(command, check=True, stdout=file)
    with open_source(path) as source:
        assert (len(list(source)), source.warnings) == (25, [])


@pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    plain, odd = numbered(tmp_path / "plain.mp4", 5), tmp_path / os.fsdecode(b"lat\xe9in.mp4")
    plain.rename(odd)
    with open_source(odd) as source:
        assert numbers(source) == [0, 1, 2, 3, 4]


def test_a_damaged_middle_does_not_stop_the_rest(tmp_path: Path) -> None:
    path = numbered(tmp_path / "clip.mkv", 120)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    with open_source(path) as source:
        frames = list(source)
    assert len(frames) > 60
    assert read_number(frames[-1].image) == 119
    pts = [frame.pts for frame in frames]
    assert all(later > earlier for earlier, later in pairwise(pts))


def test_a_stream_without_times_counts_them_by_its_rate(tmp_path: Path) -> None:
    path = numbered(tmp_path / "clip.mp4", 40, rate=25)
    bare = tmp_path / "bare.h264"
    subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-c", "copy", bare], check=True)
    with open_source(bare) as source:
        frames = list(source)
    assert [read_number(f.image) for f in frames] == list(range(40))
    pts = [f.pts for f in frames]
    assert pts[0] == 0.0
    assert all(later > earlier for earlier, later in pairwise(pts))


def test_a_missing_file() -> None:
    with pytest.raises(SourceError, match=r"cannot open nowhere/clip.mp4: there is no such file"):
        open_source("nowhere/clip.mp4")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_told_from_a_damaged_video(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(SourceError, match="it is a pipe"):
        open_source(path)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(SourceError, match=r"empty.mp4: the file is empty"):
        open_source(tmp_path / "empty.mp4")


@pytest.mark.parametrize("content", [b"hello, I am text\n" * 500, b"\x00" * 5000, b"\xff" * 5000])
def test_a_file_that_is_no_video(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(SourceError, match=r"cannot play clip.mp4: ") as caught:
        open_source(tmp_path / "clip.mp4")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # one line is ours to say, none is the libraries'


def test_a_video_cut_off_before_its_index(tmp_path: Path) -> None:
    path = numbered(tmp_path / "clip.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError, match="it is not a video, or it is cut off"):
        open_source(path)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    sine = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=duration=0.2", path]
    subprocess.run(sine, check=True)
    with pytest.raises(SourceError, match="it has no video stream"):
        open_source(path)


def test_a_video_without_a_frame(tmp_path: Path) -> None:
    path = tmp_path / "none.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(SourceError, match=r"none.mkv"):
        open_source(path)


def test_a_picture_named_as_a_video_is_one_frame(tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "x.png"), np.full((48, 64, 3), 200, np.uint8))
    (tmp_path / "x.png").rename(tmp_path / "x.mp4")
    with open_source(tmp_path / "x.mp4") as source:
        (frame,) = source
    assert frame.size == (48, 64)
    assert abs(int(frame.image.mean()) - 200) <= 1


def test_damage_is_not_chattered_about(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = numbered(tmp_path / "clip.mkv", 60)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    path.write_bytes(content)
    with open_source(path) as source:
        assert list(source)
    assert capfd.readouterr() == ("", "")
