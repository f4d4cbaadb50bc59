"""Damaged videos: what can be decoded is shown, and nothing that no decoder wrote."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import write_clip
from fuzz import KINDS, moving, rewrite, stray_share, write_whole
from PIL import Image

from rtseg.cli.app import main
from rtseg.media import described
from rtseg.player import Shot, Tail, Timeline
from rtseg.sources import SourceOptions, open_source
from rtseg.sources.ffmpeg import FilePlayer


def shown(path: Path) -> tuple[dict[int, np.ndarray], list[str]]:
    """Images by the number of the frame in the whole file, and warnings."""
    with open_source(path) as source:
        images = {round(frame.pts * 25): frame.image for frame in source}
        return images, source.warnings


def off(image: np.ndarray, number: int) -> float:
    """Mean difference from the frame that was written."""
    height, width = image.shape[:2]
    return float(np.abs(image[..., ::-1].astype(int) - moving(number, width, height)).mean())


def damaged(tmp_path: Path, name: str, keep: Callable[[int], int]) -> Path:
    """A clip of 20 frames without sound, of the tenth of which so many bytes are kept."""

    def change(contents: list[bytes]) -> None:
        contents[9] = contents[9][: keep(len(contents[9]))]

    kind = replace(KINDS[name], sound="", frames=20)
    whole = write_whole(tmp_path / f"whole.{kind.suffix}", kind)
    return rewrite(whole, tmp_path / f"damaged.{kind.suffix}", change)


@pytest.mark.parametrize("name", ["mov", "mjpeg"])
def test_a_frame_of_which_a_part_is_lost_is_left_out(tmp_path: Path, name: str) -> None:
    images, warnings = shown(damaged(tmp_path, name, lambda size: size // 3))
    assert set(images) == set(range(20)) - {9}
    assert "damaged" in warnings[0]
    assert max(off(image, number) for number, image in images.items()) < 6


@pytest.mark.parametrize(
    ("name", "keep"), [("vp8", lambda size: size // 3), ("wmv", lambda _: 2), ("mxf", lambda _: 22)]
)
def test_memory_that_no_decoder_wrote_is_not_shown(
    tmp_path: Path, name: str, keep: Callable[[int], int]
) -> None:
    images, _ = shown(damaged(tmp_path, name, keep))
    assert set(range(8)) <= set(images)
    assert max(map(stray_share, images.values())) < 0.01


def test_concealed_frames_are_kept_and_reported(tmp_path: Path) -> None:
    images, warnings = shown(damaged(tmp_path, "avi", lambda size: size // 2))
    assert set(images) == set(range(20))
    assert warnings == ["damaged.avi is damaged: 1 frame was concealed"]


@pytest.mark.parametrize("options", [{"end": 0.6}, {"max_frames": 12}, {"every": 2, "end": 0.6}])
def test_a_part_of_a_file_that_lacks_a_frame_says_so(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    path = damaged(tmp_path, "mov", lambda size: size // 3)
    with open_source(str(path), SourceOptions(**options)) as source:
        assert 9 not in [round(frame.pts * 25) for frame in source]
    assert source.warnings == ["damaged.mov is damaged: 1 packet could not be decoded"]


def test_a_gif_that_is_cut_off_says_so(tmp_path: Path) -> None:
    first, *others = [Image.fromarray(moving(number, 64, 48)) for number in range(10)]
    path = tmp_path / "cut.gif"
    first.save(path, save_all=True, append_images=others, duration=40)
    with open_source(path) as source:
        assert len(list(source)) == 10
    assert not source.warnings
    whole = path.read_bytes()
    for size in range(len(whole) // 2, len(whole), len(whole) // 40):
        path.write_bytes(whole[:size])
        with open_source(path) as source:
            count = len(list(source))
        (warning,) = source.warnings
        assert warning.startswith(f"cut.gif ended after {count} ")


def pause(content: bytes) -> bytes:
    """The frame of MPEG-4 in the place of another that shows the one before on (vop_coded is 0)."""
    at = content.index(b"\0\0\1\xb6") + 4
    bits = "".join(f"{byte:08b}" for byte in content[at : at + 8])
    until = bits.index("0", 2) + 2  # seconds, as ones, and a marker
    bits = "01" + bits[2 : until + 5] + "10"  # a fifth of 25 in five bits, a marker
    bits += "0" + "1" * (-len(bits) % 8 - 1)
    return b"\0\0\1\xb6" + int(bits, 2).to_bytes(len(bits) // 8, "big")


@pytest.mark.parametrize(
    ("b_frames", "packets", "left_out"),
    [("0", (5, 6, 7, 13), {5, 6, 7, 13}), ("2", (5, 6, 14, 15), {4, 5, 13, 14})],
)
def test_the_frames_of_avi_after_a_pause_keep_their_times(
    tmp_path: Path, b_frames: str, packets: tuple[int, ...], left_out: set[int]
) -> None:
    """AVI has decoding times only; those of packets without a frame became the next frames'."""

    def change(contents: list[bytes]) -> None:
        for number in packets:
            contents[number] = pause(contents[number])

    kind = replace(KINDS["avi"], sound="", frames=20, options={"g": "6", "bf": b_frames})
    images, _ = shown(rewrite(write_whole(tmp_path / "a.avi", kind), tmp_path / "b.avi", change))
    assert set(images) == set(range(20)) - left_out
    assert min(range(20), key=lambda number: off(images[18], number)) == 18


def test_the_first_frame_of_avi_whose_chunks_are_fields_lasts_as_long_as_the_others(
    tmp_path: Path,
) -> None:
    """As `ffmpeg -c copy` writes H.264: every other chunk is empty, and a duration is a field's."""
    path = tmp_path / "fields.avi"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=50, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(moving(number, 64, 48), "rgb24")
            frame.pts, frame.time_base = 2 * number, Fraction(1, 50)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with open_source(path) as source:
        assert [frame.pts for frame in source] == pytest.approx([n / 25 for n in range(8)])
    with open_source(path, SourceOptions(start=0.12)) as source:
        assert len(list(source)) == 5


def test_the_duration_in_the_header_of_ivf_is_no_count_of_frames(tmp_path: Path) -> None:
    """FFmpeg 4.3 to 7 write it, in ticks, where others have the count."""
    path = write_whole(tmp_path / "a.ivf", replace(KINDS["vp8"], suffix="ivf", frames=5))
    content = bytearray(path.read_bytes())
    content[24:28] = (5 * 512).to_bytes(4, "little")
    content[16:20] = (25 * 512).to_bytes(4, "little")
    at = 32
    for number in range(5):
        content[at + 4 : at + 12] = (512 * number).to_bytes(8, "little")
        at += 12 + int.from_bytes(content[at : at + 4], "little")
    path.write_bytes(content)
    with open_source(path) as source:
        assert source.info.frame_count is None
        assert [frame.pts for frame in source] == pytest.approx([n / 25 for n in range(5)])
    assert source.warnings == []


@pytest.mark.parametrize("codecs", [("mpeg2video", "libx264"), ("libx264", "mpeg2video")])
def test_a_part_in_another_codec_is_reported(tmp_path: Path, codecs: tuple[str, str]) -> None:
    """FFmpeg keeps the first codec of a stream, whose decoder may say nothing of the rest."""
    parts = [
        write_clip(
            tmp_path / f"{codec}.ts", codec=codec, frames=60, options={"g": "10"}
        ).read_bytes()
        for codec in codecs
    ]
    (tmp_path / "joined.ts").write_bytes(b"".join([*parts, parts[0]]))
    images, warnings = shown(tmp_path / "joined.ts")
    assert 100 < len(images) <= 120
    assert re.fullmatch(r"joined\.ts is damaged: [567]\d packets could not be decoded", warnings[0])
    (tmp_path / "same.ts").write_bytes(parts[0] * 2)
    with open_source(tmp_path / "same.ts") as source:
        assert sum(1 for _ in source) == 120
        assert source.warnings == []


@pytest.mark.parametrize("name", ["ffv1", "webm", "avi"])
@pytest.mark.parametrize("lost", [1, 3])
def test_frames_before_damage_at_the_end_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, lost: int
) -> None:
    monkeypatch.setattr(FilePlayer, "threads", 8)

    def change(contents: list[bytes]) -> None:
        contents[-lost] = b"\xff" * 5

    kind = KINDS[name]
    whole = write_whole(tmp_path / f"w.{kind.suffix}", type(kind)(kind.suffix, kind.codec))
    images, _ = shown(rewrite(whole, tmp_path / f"d.{kind.suffix}", change))
    assert set(range(40 - lost)) <= set(images)


class Packet:
    def __init__(self, *, key: bool) -> None:
        self.is_keyframe, self.size = key, 10


@pytest.mark.parametrize(("every", "least"), [(1, 32), (12, 32), (250, 32)])
def test_a_tail_keeps_whole_intervals_and_not_much_more(every: int, least: int) -> None:
    tail = Tail(threads=8)
    for number in range(600):
        tail.sent(Packet(key=number % every == 0))
    kept = tail.packets()
    assert kept[0].is_keyframe
    assert least <= len(kept) < least + 2 * every


def test_a_tail_without_keyframes_keeps_nothing_for_ever() -> None:
    tail = Tail(threads=8)
    for number in range(5000):
        tail.sent(Packet(key=number == 0))
    assert not tail.packets()


def test_a_track_without_a_decoder_has_no_size_to_describe() -> None:
    class Unknown:
        codec_context = None

    class Known:
        codec_context, width, height = object(), 64, 48

    assert described([Known(), Unknown()]) == "2 video tracks: 0 (64x48), 1 (unknown)"


def test_a_track_whose_only_time_is_far_off_is_not_padded_up_to_it(tmp_path: Path) -> None:
    whole, path, out = (tmp_path / name for name in ("whole.avi", "far.mkv", "out.mkv"))
    write_whole(whole, KINDS["avi"])
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        other = target.add_stream("pcm_u8", rate=8000, layout="mono")
        for number, packet in enumerate(p for p in source.demux() if p.size):
            if number == 30:
                late = av.Packet(bytes(800))
                late.pts = late.dts = 40 * 86_400_000
                late.time_base, late.stream = Fraction(1, 1000), other
                target.mux(late)
            packet.stream = streams[packet.stream_index]
            target.mux(packet)
    assert main([str(path), "-m", "stub", "--alpha", "0", "--no-show", "-o", str(out)]) == 0
    with av.open(str(out)) as container:
        assert container.duration < 3 * av.time_base


def test_audio_that_makes_the_file_fail_at_its_end_loses_no_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_whole(tmp_path / "whole.mp4", KINDS["mp4"])
    path.write_bytes(path.read_bytes().replace(b"esds", b"xsds"))
    out = tmp_path / "out.mkv"
    assert main([str(path), "-m", "stub", "--alpha", "0", "--no-show", "-o", str(out)]) == 0
    assert "sound incomplete" in capsys.readouterr().err
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 40


@pytest.mark.parametrize("start", [0.5, 2.2])
@pytest.mark.parametrize("name", ["mxf", "mjpeg", "mkv", "ts"])
@pytest.mark.parametrize("damage", ["cut", "zeros"])
def test_a_part_of_a_damaged_file_holds_the_frames_of_the_whole(
    tmp_path: Path, name: str, damage: str, start: float
) -> None:
    kind = replace(KINDS[name], frames=100)
    path = write_whole(tmp_path / f"a.{kind.suffix}", kind)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) * 3 // 4 :]
    else:
        third = len(content) // 3
        content[third : third + 8000] = bytes(8000)
    path.write_bytes(content)
    with open_source(path) as source:
        wanted = [frame for frame in source if frame.pts >= start - 5e-4]
    with open_source(path, SourceOptions(start=start)) as source:
        found = list(source)
    assert found
    for one, other in zip(found, wanted, strict=True):
        assert one.pts == pytest.approx(other.pts - wanted[0].pts, abs=2e-3)
        assert np.array_equal(one.image, other.image)


def test_frames_that_come_out_of_order_do_not_delay_those_after_them() -> None:
    shots = [Shot(np.empty((1, 1, 3), np.uint8), at) for at in (0.0, 0.04, 0.4, 0.08, 0.44, 0.48)]
    timeline, times = Timeline(shots[0], Fraction(25)), []
    for shot in shots:
        timeline.advance(shot)
        times.append(timeline.pts)
    assert times == pytest.approx([0, 0.04, 0.4, 0.42, 0.44, 0.48])


@pytest.mark.parametrize("again", [0.0, 5.0])
def test_times_that_begin_again_go_on_by_the_rate(again: float) -> None:
    picture = np.empty((1, 1, 3), np.uint8)
    shots = [Shot(picture, n / 25 + (again if n < 100 else 0) - 4 * (n >= 100)) for n in range(200)]
    timeline = Timeline(shots[0], Fraction(25))
    for shot in shots:
        timeline.advance(shot)
    assert timeline.pts == pytest.approx(199 / 25)
