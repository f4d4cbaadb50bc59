"""Videos as the world has them: what is shown is right, or refused; never stray memory."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from fractions import Fraction
from io import BytesIO
from itertools import product
from math import ceil
from pathlib import Path

import av
import numpy as np
import pytest
from clips import (
    PATCHES,
    SAMPLE_ENTRY,
    close,
    joined,
    patches,
    seen,
    with_box,
    write_clip,
)
from fuzz import rewrite
from PIL import Image, ImageOps

from rtseg.errors import SourceError, UsageError
from rtseg.frame import Frame
from rtseg.media import Converter, Cropping, believed_rate, choose_video, mastering_peak
from rtseg.sources import SourceOptions, open_source
from rtseg.yuv import graded, grading


def frames_of(path: Path, **options: object) -> list[Frame]:
    with open_source(path, SourceOptions(**options)) as source:
        return list(source)


INTERLACED = [
    ("libx264", "mp4", "yuv420p"),
    ("mpeg2video", "mpg", "yuv420p"),
    ("mpeg2video", "ts", "yuv422p"),
    ("mpeg4", "avi", "yuv420p"),
    ("prores_ks", "mov", "yuv422p10le"),
    ("ffv1", "mkv", "yuv420p"),
]


@pytest.mark.parametrize(("codec", "suffix", "pix_fmt"), INTERLACED)
def test_interlaced_frames_are_deinterlaced_one_picture_for_each(
    tmp_path: Path, codec: str, suffix: str, pix_fmt: str
) -> None:
    path = write_clip(
        tmp_path / f"i.{suffix}", codec=codec, pix_fmt=pix_fmt, images=fields_of_a_bar(8),
        interlaced=True,
        options={"crf": "5"} if codec == "libx264" else {"qscale": "2", "flags": "+qscale"},
    )  # fmt: skip
    with open_source(path) as source:
        pictures = list(source)
        assert any("deinterlaced" in note for note in source.info.notes)
        assert not source.warnings
    assert [frame.pts for frame in pictures] == pytest.approx([n / 25 for n in range(8)], abs=1e-3)
    woven = frames_of(path, deinterlace="off")
    assert len(woven) == 8
    comb, picture = (
        np.abs(np.diff(f[4].image[20:-20].astype(int), axis=0)) for f in (woven, pictures)
    )
    assert comb.mean() > 20 > 8 > picture.mean()


def fields_of_a_bar(count: int) -> list[np.ndarray]:
    """Interlaced pictures of a white bar that moves by 8 pixels from field to field."""
    images = [np.full((96, 128, 3), 40, np.uint8) for _ in range(count)]
    for number, image in enumerate(images):
        for field in range(2):
            at = 8 * (2 * number + field) % 96
            image[field::2, at : at + 24] = 220
    return images


def test_progressive_frames_are_left_alone(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "p.mkv", codec="ffv1", pix_fmt="bgr0")
    with open_source(path) as source:
        assert source.info.notes == ()
        assert close(seen(next(iter(source)).image), PATCHES, by=0)
    assert close(seen(frames_of(path, deinterlace="on")[3].image), PATCHES, by=1)


@pytest.mark.parametrize("matrix", [1, 2, 4, 5, 6, 7, 9])
@pytest.mark.parametrize("full", [1, 2])
def test_colours_by_the_matrix_and_range_of_the_file(
    tmp_path: Path, matrix: int, full: int
) -> None:
    tags = (matrix, 2, 2, full)
    path = write_clip(tmp_path / "c.mkv", codec="ffv1", pix_fmt="yuv444p", tags=tags)
    (frame, *_) = frames_of(path)
    assert close(seen(frame.image), PATCHES, by=3)


@pytest.mark.parametrize("matrix", [8, 10, 11, 12, 13, 14, 15])
def test_a_matrix_that_cannot_be_converted_is_said_and_approximated(
    tmp_path: Path, matrix: int
) -> None:
    path = write_clip(tmp_path / "c.mkv", codec="ffv1", tags=(matrix, 2, 2, 1))
    with open_source(path) as source:
        assert any(f"number {matrix}" in note for note in source.info.notes)
        assert close(seen(next(iter(source)).image), PATCHES, by=40)


TO_BT709 = {  # of BT.2020 (ITU-R BT.2087) and Display P3 (SMPTE EG 432), to more digits
    9: [
        [1.660491, -0.587641, -0.072850],
        [-0.124550, 1.132900, -0.008349],
        [-0.018151, -0.100579, 1.118730],
    ],
    12: [[1.224940, -0.224940, 0.0], [-0.042057, 1.042057, 0.0], [-0.019638, -0.078636, 1.098274]],
    1: [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
}


def pq(nits: np.ndarray) -> np.ndarray:
    power = (nits / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def nits_of_pq(signal: np.ndarray) -> np.ndarray:
    root = signal ** (1 / 78.84375)
    return 10000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (
        1 / 0.1593017578125
    )


def in_bt709(signal: np.ndarray, primaries: int, transfer: int, peak: float = 1000) -> np.ndarray:
    """(n, 3) RGB in 0..255 of signals in 0..1, by the formulas of BT.2100, BT.2390 and BT.2408."""
    if transfer == 18:
        low, high = signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12
        scene = np.where(signal <= 0.5, low, high)
        luma = scene @ ((0.2627, 0.6780, 0.0593) if primaries == 9 else (0.2126, 0.7152, 0.0722))
        light = scene * 1000 * luma[:, None] ** 0.2
    else:
        light = nits_of_pq(signal) if transfer == 16 else 203 * signal**2.4
    light = np.maximum(light @ np.array(TO_BT709[primaries]).T, 0)
    if transfer in (16, 18):
        largest = np.maximum(light.max(1), 1e-6)
        e1, most = np.minimum(pq(largest) / pq(peak), 1), pq(203.0) / pq(peak)
        knee = 1.5 * most - 0.5
        t = (e1 - knee) / (1 - knee)
        bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee)
        bent += (-2 * t**3 + 3 * t**2) * most
        light = light * (nits_of_pq(np.where(e1 < knee, e1, bent) * pq(peak)) / largest)[:, None]
    return 255 * np.minimum(light / 203, 1) ** (1 / 2.4)


GRADINGS = [
    (9, 16, None),
    (9, 16, 4000),
    (9, 18, None),
    (1, 18, None),
    (9, 14, None),
    (12, 1, None),
]


@pytest.mark.parametrize(("primaries", "transfer", "peak"), GRADINGS)
def test_wide_and_high_dynamic_range_colours_become_bt709(
    primaries: int, transfer: int, peak: int | None
) -> None:
    greys = np.linspace(0, 1, 64)[:, None].repeat(3, 1)
    rgb = np.vstack([greys, np.random.default_rng(0).random((4000, 3)), np.eye(3), 1 - np.eye(3)])
    codes = np.rint(rgb * 65535).astype(np.uint16)[None]
    found = graded(codes, grading(primaries, transfer, peak or 1000))[0, :, ::-1]
    assert np.abs(found - in_bt709(rgb, primaries, transfer, peak or 1000)).max() <= 2


@pytest.mark.parametrize("pix_fmt", ["yuv444p10le", "yuv444p16le", "full", "gbrp10le"])
@pytest.mark.parametrize(("primaries", "transfer", "peak"), GRADINGS)
def test_a_frame_of_such_colours_is_converted_by_its_tags(
    primaries: int, transfer: int, peak: int | None, pix_fmt: str
) -> None:
    greys = np.linspace(0, 1, 64)[:, None].repeat(3, 1)
    muted = 0.4 + 0.2 * np.random.default_rng(0).random((448, 3))  # FFmpeg's matrix is rounded
    rgb, luma = np.vstack([greys, muted]), np.array((0.2627, 0.6780, 0.0593))
    one = 1 << (8 if pix_fmt.endswith("16le") else 2)
    black, white, middle, chroma = (n * one for n in (16, 219, 128, 224))
    if is_full := pix_fmt == "full":
        black, white, middle, chroma = 0, 1023, 512, 1023
    if is_rgb := pix_fmt.startswith("gbrp"):
        planes = np.rint(1023 * rgb[:, (1, 2, 0)].T)
        rgb = planes[[2, 0, 1]].T / 1023
    else:
        y = rgb @ luma
        blue, red = ((rgb[:, n] - y) / (2 - 2 * luma[n]) for n in (2, 0))
        planes = np.rint([black + white * y, middle + chroma * blue, middle + chroma * red])
        y = (planes[0] - black) / white
        blue, red = (
            y + (plane - middle) / chroma * (2 - 2 * luma[n])
            for n, plane in zip((2, 0), planes[1:], strict=True)
        )
        rgb = np.stack([red, (y - luma[0] * red - luma[2] * blue) / luma[1], blue], 1).clip(0, 1)
    frame = av.VideoFrame(len(rgb), 2, "yuv444p10le" if is_full else pix_fmt)
    for plane, row in zip(frame.planes, planes, strict=True):
        lines = np.zeros((2, plane.line_size // 2), np.uint16)
        lines[:, : len(rgb)] = row
        plane.update(lines.tobytes())
    frame.colorspace, frame.color_range = 0 if is_rgb else 9, 2 if is_full else 1
    frame.color_primaries, frame.color_trc = primaries, transfer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rtseg.media.mastering_peak", lambda _: peak)
        found = Converter()(frame)[0, :, ::-1]
    off = np.abs(found - in_bt709(rgb, primaries, transfer, peak or 1000))
    assert off.max() <= (5 if is_rgb else 3)


@pytest.mark.parametrize("transfer", [16, 18])
def test_transparent_high_dynamic_range_is_laid_over_white(transfer: int) -> None:
    rgba = np.full((16, 16, 4), 30000, np.uint16)
    rgba[:8, :, 3] = 0
    frame = av.VideoFrame.from_ndarray(rgba, "rgba64le")
    frame.color_primaries, frame.color_trc = 9, transfer
    image = Converter()(frame)
    assert (image[:8] == 255).all()
    assert np.ptp(image[8:]) == 0
    assert image.max() == 255 > image[8, 0, 0] > 50


def test_the_peak_that_a_video_was_mastered_for_is_read(tmp_path: Path) -> None:
    master = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(40000000,50)"
    path = write_clip(
        tmp_path / "m.mkv",
        codec="libx265",
        pix_fmt="yuv420p10le",
        tags=(9, 9, 16, 1),
        options={"x265-params": f"log-level=none:hdr10=1:master-display={master}"},
    )
    with av.open(str(path)) as container:
        assert mastering_peak(next(container.decode(video=0))) == 4000


TURNS = [
    turn
    for turn in product((-1, 0, 1), repeat=4)
    if abs(turn[0] * turn[3] - turn[1] * turn[2]) == 1 and sum(map(abs, turn)) == 2
]


@pytest.mark.parametrize("turn", TURNS)
def test_display_matrices_turn_and_mirror(tmp_path: Path, turn: tuple[int, ...]) -> None:
    a, b, c, d = turn
    path = write_clip(tmp_path / "t.mp4", display=turn, options={"crf": "5"})
    with open_source(path) as source:
        image = next(iter(source)).image
        assert (source.info.height, source.info.width) == image.shape[:2]
    assert image.shape[:2] == ((96, 128) if a else (128, 96))
    corners = {}  # where each quarter's middle comes to lie, around the middle
    for place in range(4):
        x, y = 2 * (place % 2) - 1, 2 * (place // 2) - 1
        corners[a * x + c * y, b * x + d * y] = PATCHES[place]
    wanted = [corners[-1, -1], corners[1, -1], corners[-1, 1], corners[1, 1]]
    assert close(seen(image), wanted)


CROPS = {"left": 6, "right": 26, "top": 4, "bottom": 12}


def cropped_clip(path: Path, display: tuple[int, ...] | None = None) -> Path:
    """A clip of `PATCHES` with white edges that its container says are not to be shown."""
    left, right, top, bottom = CROPS.values()
    image = np.pad(patches(80, 96), ((top, bottom), (left, right), (0, 0)), constant_values=255)
    write_clip(path, images=[image] * 6, display=display, tags=(1, 1, 1, 1), options={"crf": "5"})
    content = path.read_bytes()
    if path.suffix == ".mkv":  # PixelCrop... and a Void in place of Colour
        elements = b"".join(
            bytes([0x54, number, 0x81, CROPS[side]])
            for side, number in (("bottom", 0xAA), ("top", 0xBB), ("left", 0xCC), ("right", 0xDD))
        )
        at = content.index(b"\x55\xb0")
        end = at + 3 + (content[at + 2] & 0x7F)
        room = end - at - len(elements)
        void = bytes([0xEC, 0x80 | (room - 2)]) + bytes(room - 2)
        content = content[:at] + elements + void + content[end:]
    else:
        offset = (left - right, 2, top - bottom, 2)  # of the middle, as fractions
        inside = struct.pack(">8i", 96, 1, 80, 1, *offset)
        content = with_box(content, [*SAMPLE_ENTRY, "avc1"], "clap", inside)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_what_a_container_crops_is_not_shown(tmp_path: Path, suffix: str) -> None:
    path = cropped_clip(tmp_path / f"c.{suffix}")
    with open_source(path) as source:
        frames = list(source)
        assert (source.info.width, source.info.height) == (96, 80)
    whole = frames[3].image
    assert len(frames) == 6
    assert whole.shape == (80, 96, 3)
    assert whole.min(2).max() < 225
    assert close(seen(whole), PATCHES)
    with pytest.raises(SourceError, match="crop"):
        open_source(path, SourceOptions(decoder="opencv"))


def test_a_video_is_cropped_before_it_is_turned(tmp_path: Path) -> None:
    path = cropped_clip(tmp_path / "c.mp4", display=(0, 1, -1, 0))
    image = frames_of(path)[0].image
    assert image.shape == (96, 80, 3)
    assert image.min(2).max() < 225


def test_a_crop_that_leaves_nothing_is_ignored() -> None:
    frame = av.VideoFrame.from_ndarray(patches(), "rgb24")
    assert Converter(Cropping(64, 64, 0, 0))(frame).shape == (96, 128, 3)
    assert Converter(Cropping(0, 200, 0, 0))(frame).shape == (96, 128, 3)


@pytest.mark.parametrize(("profile", "compatible", "played"), [(5, 0, False), (8, 1, True)])
def test_dolby_vision_without_a_layer_that_can_be_converted_is_refused(
    tmp_path: Path, profile: int, compatible: int, played: bool
) -> None:
    path = write_clip(tmp_path / "d.mp4", codec="libx265", options={"x265-params": "log-level=0"})
    flags = profile << 9 | 6 << 3 | 0b101  # level 6, with metadata and base layer
    inside = struct.pack(">BBHB19x", 1, 0, flags, compatible << 4)
    path.write_bytes(with_box(path.read_bytes(), [*SAMPLE_ENTRY, "hev1"], "dvcC", inside))
    if played:
        assert close(seen(frames_of(path)[0].image), PATCHES)
    else:
        with pytest.raises(SourceError, match="Dolby Vision profile 5"):
            open_source(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["avi", "mov", "mkv", "mjpeg"])
def test_frames_with_exif_are_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif, content = Image.Exif(), BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(patches()).save(content, "JPEG", quality=95, exif=exif)
    path = tmp_path / f"exif.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuvj420p"
        for number in range(3):
            packet = av.Packet(content.getvalue())
            packet.pts = packet.dts = number
            packet.time_base, packet.stream = Fraction(1, 25), stream
            packet.is_keyframe = True
            container.mux(packet)
    with Image.open(content) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    images = [frame.image for frame in frames_of(path)]
    assert [image.shape for image in images] == [upright.shape] * 3
    assert close(seen(images[0]), seen(upright[..., ::-1]), by=2)


def test_a_skewed_display_matrix_is_the_nearest_quarter_turn(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "s.mp4", display=(1, 0, 0.5, 1), options={"crf": "5"})
    with open_source(path) as source:
        assert close(seen(next(iter(source)).image), PATCHES)
        assert "display matrix" in source.info.notes[0]


@pytest.mark.parametrize(
    ("codec", "suffix", "pix_fmt"),
    [
        ("libvpx-vp9", "webm", "yuva420p"),
        ("libvpx", "webm", "yuva420p"),
        ("prores_ks", "mov", "yuva444p10le"),
        ("qtrle", "mov", "argb"),
        ("png", "mov", "rgba"),
        ("ffv1", "mkv", "bgra"),
    ],
)
def test_transparent_pixels_lie_over_white(
    tmp_path: Path, codec: str, suffix: str, pix_fmt: str
) -> None:
    image = np.dstack([patches(), np.full((96, 128), 255, np.uint8)])
    image[:48, :64, 3], image[:48, 64:, 3] = 0, 128
    path = write_clip(
        tmp_path / f"a.{suffix}", codec=codec, pix_fmt=pix_fmt, images=[image] * 4,
        options={"auto-alt-ref": "0"} if codec.startswith("libvpx") else {},
    )  # fmt: skip
    found = seen(frames_of(path)[1].image)
    half = tuple((127 * 255 + 128 * n) // 255 for n in PATCHES[1])
    assert close(found, [(255, 255, 255), half, *PATCHES[2:]], by=12)


def test_a_size_that_changes_gives_frames_of_their_own_size(tmp_path: Path) -> None:
    small = write_clip(tmp_path / "a.ts", frames=5)
    large = write_clip(tmp_path / "b.ts", images=[patches(180, 120)] * 5)
    path = joined(tmp_path / "both.ts", small, large)
    with open_source(path) as source:
        sizes = [frame.size for frame in source]
        assert source.warnings == ["both.ts is 120x180 from frame 5 on, 128x96 before"]
        assert (source.info.width, source.info.height) == (120, 180)
    assert sizes == [(96, 128)] * 5 + [(180, 120)] * 5


@pytest.mark.parametrize(
    ("rates", "reordered"),
    [
        ((25, 50), "22"),
        ((25, 50), "20"),
        ((50, 25), "20"),
        ((25, 10), "20"),
        ((25, 25), "22"),
        ((50, 25), "22"),
        ((25, 25), "02"),
        ((60, 24), "02"),
    ],
)
def test_recordings_of_other_rates_are_joined_without_a_gap(
    tmp_path: Path, rates: tuple[int, int], reordered: str
) -> None:
    """Frames are decoded earlier than they are shown; the second recording's by less, or more."""
    parts = [
        write_clip(tmp_path / f"{n}.ts", frames=20, rate=rate, options={"bf": between})
        for n, (rate, between) in enumerate(zip(rates, reordered, strict=True))
    ]
    pts = [frame.pts for frame in frames_of(joined(tmp_path / "joined.ts", *parts))]
    first = [n / rates[0] for n in range(20)]
    second = [20 / rates[0] + n / rates[1] for n in range(20)]
    assert pts == pytest.approx([*first, *second], abs=1e-3)


@pytest.mark.parametrize(
    ("suffix", "codecs"),
    [
        (".mkv", ("libx264", "libx264")),
        (".mkv", ("ffv1", "mpeg4")),
        (".webm", ("libvpx", "libvpx-vp9")),
        (".mp4", ("libx264", "mpeg4")),
        (".mov", ("mpeg4", "libx264")),
        (".flv", ("flv", "libx264")),
        (".wmv", ("wmv2", "msmpeg4")),
        (".ogv", ("libvpx", "libvpx")),
    ],
)
def test_each_of_joined_files_is_decoded_by_its_own_header(
    tmp_path: Path, suffix: str, codecs: tuple[str, str]
) -> None:
    """Parts of another size or codec whose times begin anew."""
    images = [patches(), patches(180, 120)]
    parts = [
        write_clip(tmp_path / f"{n}{suffix}", codec=codec, images=[image] * 9)
        for n, (codec, image) in enumerate(zip(codecs, images, strict=True))
    ]
    path = joined(tmp_path / f"joined{suffix}", *parts, parts[0])
    with open_source(path) as source:
        frames = list(source)
        assert source.warnings == [
            f"{path.name} is 120x180 from frame 9 on, 128x96 before",
            f"{path.name} is 128x96 from frame 18 on, 120x180 before",
        ]
    assert [frame.pts for frame in frames] == pytest.approx([n / 25 for n in range(27)], abs=2e-3)
    assert all(close(seen(frame.image), PATCHES, 12) for frame in frames)
    with open_source(path, SourceOptions(start=0.5)) as source:
        assert len(list(source)) == 27 - 13
    with pytest.raises(SourceError, match="OpenCV plays the first"):
        open_source(path, SourceOptions(decoder="opencv"))


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg command")
def test_a_last_frame_of_theora_that_is_shown_on_lasts_to_the_end(tmp_path: Path) -> None:
    """Packets without content stand for the frame before."""
    moving = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=2", "-c:v", "libtheora"]
    command = ["ffmpeg", "-v", "error", *moving, str(tmp_path / "moving.ogv")]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("this ffmpeg has no encoder of Theora")
    path = tmp_path / "still.ogv"
    with av.open(str(tmp_path / "moving.ogv")) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            empty = av.Packet(0)
            empty.pts, empty.dts, empty.time_base = packet.pts, packet.dts, packet.time_base
            kept = packet if number < 10 else empty
            kept.stream = stream
            target.mux(kept)
    frames = frames_of(path)
    assert len(frames) == 10
    assert frames[-1].pts + frames[-1].lasts == pytest.approx(2.0)


@pytest.mark.parametrize("offsets", [(0, 0), (0, 100), (100, 0), (50, 49)])
def test_times_of_joined_recordings_go_on(tmp_path: Path, offsets: tuple[int, int]) -> None:
    parts = [
        write_clip(
            tmp_path / f"{number}.ts",
            frames=50,
            container_options={"output_ts_offset": str(offset)},
        )
        for number, offset in enumerate(offsets)
    ]
    path = joined(tmp_path / "joined.ts", *parts)
    times = [frame.pts for frame in frames_of(path)]
    assert times == pytest.approx([n / 25 for n in range(100)], abs=0.041)
    tail = frames_of(path, start=3.0)
    assert len(tail) == pytest.approx(25, abs=1)
    assert tail[0].index == pytest.approx(75, abs=1)


def levels_clip(path: Path, codec: str, size: tuple[int, int], level: int, count: int) -> Path:
    """Noise over a grey of one level, a keyframe in every 25 frames."""
    rng, images = np.random.default_rng(level), []
    for _ in range(count):
        image = np.full((*size, 3), level, np.uint8)
        image[: size[0] // 4] = rng.integers(0, 256, (size[0] // 4, size[1], 3), np.uint8)
        images.append(image)
    options = {"b": "4000000", "g": "25", "preset": "ultrafast"}
    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    return write_clip(path, codec=codec, images=images, options=options | quiet)


def lower_levels(frames: Sequence[Frame]) -> list[int]:
    """Mean of the lower half of each; -1 where it is not of one level."""
    halves = [frame.image[len(frame.image) // 2 :] for frame in frames]
    return [round(float(half.mean())) if half.std() < 4 else -1 for half in halves]


@pytest.mark.parametrize("size", [(96, 128), (144, 192)])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
def test_nothing_is_mixed_where_a_recording_was_cut_between_keyframes(
    tmp_path: Path, codec: str, size: tuple[int, int]
) -> None:
    first = levels_clip(tmp_path / "a.ts", codec, (96, 128), 50, 40)
    second = levels_clip(tmp_path / "b.ts", codec, size, 200, 60)
    content = second.read_bytes()
    second.write_bytes(content[len(content) // 10 // 188 * 188 :])
    with open_source(joined(tmp_path / "j.ts", first, second)) as source:
        frames = list(source)
    levels = lower_levels(frames)
    assert all(abs(level - 50) < 8 or abs(level - 200) < 8 for level in levels)
    assert levels == sorted(levels) or np.diff(levels).min() > -8
    before = sum(level < 100 for level in levels)
    assert before >= 38
    assert len(levels) - before == 35  # from its second keyframe on
    assert frames[-1].size == size
    assert any("could not be decoded" in text for text in source.warnings)


def test_where_times_alone_jump_between_keyframes_nothing_is_lost(tmp_path: Path) -> None:
    whole = levels_clip(tmp_path / "w.ts", "libx264", (96, 128), 50, 60)
    path = tmp_path / "t.ts"
    with av.open(str(whole)) as source, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            packet.stream = stream
            for name in ("pts", "dts"):
                setattr(packet, name, getattr(packet, name) + 90_000 * (60 if number > 30 else 0))
            output.mux(packet)
    found, frames = frames_of(path), frames_of(whole)
    assert [f.image.tobytes() for f in found] == [f.image.tobytes() for f in frames]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "webm"])
def test_a_part_far_into_a_file_is_exact(tmp_path: Path, suffix: str) -> None:
    images = [np.full((48, 64, 3), 20 + n % 200, np.uint8) for n in range(250)]
    codec = "libvpx" if suffix == "webm" else "libx264"
    path = write_clip(
        tmp_path / f"long.{suffix}", codec=codec, images=images, options={"g": "50", "bf": "2"}
    )
    whole = frames_of(path)
    part = frames_of(path, start=7.0, end=8.0)
    assert [frame.index for frame in part] == list(range(175, 200))
    assert [f.pts for f in part] == pytest.approx([f.pts - whole[175].pts for f in whole[175:200]])
    for frame in part:
        assert np.array_equal(frame.image, whole[frame.index].image)


def test_a_variable_rate_keeps_its_times_and_the_last_duration(tmp_path: Path) -> None:
    times = [0, 100, 133, 400, 460, 2000]
    path = write_clip(tmp_path / "v.mkv", times=times, frames=6, options={"bf": "2"})
    assert [frame.pts for frame in frames_of(path)] == pytest.approx([t / 1000 for t in times])


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("reordered", [0, 3])
@pytest.mark.parametrize("lasts", [400, 1000])
def test_the_last_frame_of_a_variable_rate_lasts_as_long_as_its_file_says(
    tmp_path: Path, suffix: str, reordered: int, lasts: int
) -> None:
    times = [0, 40, 80, 180, 220, 300, 340, 380, 480, 520, 560, 600]
    until = dict(zip(times, [*times[1:], 600 + lasts], strict=True))
    path = tmp_path / f"v.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": str(reordered)})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        packets = []
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), time // 4, np.uint8), "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            packets += stream.encode(frame)
        for packet in [*packets, *stream.encode()]:
            packet.duration = until[packet.pts] - packet.pts
            container.mux(packet)
    frames = frames_of(path)
    assert [frame.pts for frame in frames] == pytest.approx([time / 1000 for time in times])
    assert frames[-1].lasts == pytest.approx(lasts / 1000)


def with_times_ahead(path: Path, hours: int, astray: Sequence[int], frames: int = 30) -> Path:
    """An FLV file of greys that tell their number, some of whose times are about so far ahead."""
    images = [np.full((48, 64, 3), 20 + 7 * number, np.uint8) for number in range(frames)]
    write_clip(path, codec="flv1", images=images, options={"g": "10"})
    ahead = 1 << (hours * 3_600_000).bit_length()
    data, at, number = bytearray(path.read_bytes()), 13, 0
    while at < len(data):  # a tag: kind, its size, its time in 24 bits and 8 above, stream
        if data[at] == 9:
            if number in astray:
                time = int.from_bytes(data[at + 4 : at + 7], "big") + (data[at + 7] << 24) + ahead
                data[at + 4 : at + 7] = (time & 0xFFFFFF).to_bytes(3, "big")
                data[at + 7] = time >> 24
            number += 1
        at += 15 + int.from_bytes(data[at + 1 : at + 4], "big")
    assert number >= frames
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("hours", [1, 100])
@pytest.mark.parametrize("astray", [[1], [4], [29], [28, 29], [3, 4], [20, 21, 22, 23]])
def test_times_far_ahead_that_a_later_frame_takes_back_are_wrong(
    tmp_path: Path, astray: list[int], hours: int
) -> None:
    path = with_times_ahead(tmp_path / "f.flv", hours, astray)
    whole = frames_of(path)
    assert [frame.pts for frame in whole] == pytest.approx([n / 25 for n in range(30)], abs=2e-3)
    part = frames_of(path, start=0.6, end=1.0)
    assert [frame.index for frame in part] == list(range(15, 25))
    assert [round((frame.image.mean() - 20) / 7) for frame in part] == list(range(15, 25))


def test_times_of_days_ahead_are_wrong_however_many(tmp_path: Path) -> None:
    path = with_times_ahead(tmp_path / "f.flv", 100, range(5, 25))
    times = [frame.pts for frame in frames_of(path)]
    assert times == pytest.approx([n / 25 for n in range(30)], abs=2e-3)


@pytest.mark.parametrize("start", [0.3, 1.9, 2.1, 3.5])
@pytest.mark.parametrize("offsets", [(0, 0), (0, 100), (100, 0)])
def test_a_part_of_joined_recordings_holds_the_frames_of_the_whole(
    tmp_path: Path, offsets: tuple[int, int], start: float
) -> None:
    parts = [
        write_clip(
            tmp_path / f"{number}.ts",
            images=[np.full((48, 64, 3), 20 + 2 * (50 * number + n), np.uint8) for n in range(50)],
            options={"g": "10"},
            container_options={"output_ts_offset": str(offset)},
        )
        for number, offset in enumerate(offsets)
    ]
    path = joined(tmp_path / "joined.ts", *parts)
    wanted = [frame for frame in frames_of(path) if frame.pts >= start - 5e-4]
    found = frames_of(path, start=start)
    assert [frame.index for frame in found] == [frame.index for frame in wanted]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("start", [0.5, 2.5])
def test_a_part_of_a_recording_that_begins_between_keyframes(tmp_path: Path, start: float) -> None:
    images = [np.full((48, 64, 3), 20 + 2 * n, np.uint8) for n in range(100)]
    whole = write_clip(tmp_path / "w.mkv", codec="mpeg4", images=images, options={"g": "20"})
    path = tmp_path / "late.mkv"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            if number >= 7:
                packet.stream = stream
                target.mux(packet)
    wanted = [frame for frame in frames_of(path) if frame.pts >= start - 5e-4]
    first = 20 + ceil(25 * start)  # the keyframe, and those up to `start`
    assert wanted[0].image.mean() == pytest.approx(20 + 2 * first, abs=3)
    with open_source(path, SourceOptions(start=start)) as source:
        found = list(source)
        assert source.info.frame_count == len(found)
    assert [frame.index for frame in found] == [frame.index for frame in wanted]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(found, wanted, strict=True))


def test_a_gif_lasts_as_long_as_its_delays(tmp_path: Path) -> None:
    import PIL.Image

    path = tmp_path / "a.gif"
    images = [PIL.Image.fromarray(np.full((48, 64, 3), n * 60, np.uint8)) for n in range(4)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=[100, 100, 100, 3000])
    frames = frames_of(path)
    assert [frame.pts for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert frames[-1].lasts == pytest.approx(3.0)


@pytest.mark.parametrize(("suffix", "codec"), [("avi", "libx264"), ("avi", "mpeg4")])
def test_avi_frames_that_are_reordered_have_the_times_of_their_places(
    tmp_path: Path, suffix: str, codec: str
) -> None:
    path = write_clip(tmp_path / "b.avi", codec=codec, frames=30, options={"bf": "2"})
    times = [frame.pts for frame in frames_of(path)]
    assert times == pytest.approx([n / 25 for n in range(30)])


@pytest.mark.parametrize("rate", [1000, 90000, 60000])
def test_a_rate_of_ticks_is_not_believed(rate: int) -> None:
    class Stream:
        average_rate = guessed_rate = Fraction(rate)

    assert believed_rate(Stream(), [0.0, 0.04, 0.081, 0.12, 0.16]) == pytest.approx(25, rel=0.02)
    assert believed_rate(Stream(), []) == (rate if rate <= 1000 else None)


def test_a_rate_that_the_times_agree_with_is_exact() -> None:
    class Stream:
        average_rate, guessed_rate = Fraction(30000, 1001), Fraction(30)

    assert believed_rate(Stream(), [n / 29.97 for n in range(20)]) == Fraction(30000, 1001)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video", "mpeg1video", "mpeg4"])
def test_a_raw_stream_has_the_rate_of_its_header_or_of_the_flag(tmp_path: Path, codec: str) -> None:
    suffix = {"libx264": "h264", "libx265": "hevc", "mpeg2video": "m2v", "mpeg1video": "m1v"}
    path = write_clip(
        tmp_path / f"r.{suffix.get(codec, 'm4v')}",
        codec=codec,
        frames=30,
        rate=50,
        options={"bf": "2"} if codec != "libx265" else None,
    )
    pts = [frame.pts for frame in frames_of(path)]
    assert pts == pytest.approx([n / 50 for n in range(30)], abs=1e-3)
    if codec != "mpeg4":  # whose frames have times
        assert frames_of(path, fps=10)[-1].pts == pytest.approx(2.9)


def test_the_delay_of_an_encoder_does_not_prolong_the_first_frame_of_avi(tmp_path: Path) -> None:
    """XviD reorders frames, and writes its first packet earlier by the delay of that."""
    whole = write_clip(tmp_path / "whole.avi", codec="mpeg4", frames=30, options={"bf": "2"})
    path = tmp_path / "delayed.avi"
    with av.open(str(whole)) as source, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux():
            if packet.size:
                packet.dts += 2 * (packet.dts > 0)
                packet.pts, packet.stream = packet.dts, stream
                output.mux(packet)
    pts = [frame.pts for frame in frames_of(path)]
    assert pts == pytest.approx([n / 25 for n in range(30)], abs=1e-3)
    with open_source(path, SourceOptions(start=0.4)) as source:
        assert [frame.index for frame in source] == list(range(10, 30))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".flv"])
def test_the_length_of_a_variable_rate_is_the_declared_one(tmp_path: Path, suffix: str) -> None:
    times = [*range(0, 2000, 40), *range(2000, 8000, 400), *range(8000, 8400, 40)]
    path = write_clip(tmp_path / f"v{suffix}", images=[patches()] * len(times), times=times)
    with open_source(path) as source:
        assert source.info.seconds == pytest.approx(8.4, abs=0.2)
    with open_source(path, SourceOptions(end=1.0)) as source:
        assert source.info.seconds is None


def test_a_rate_is_not_for_videos_that_have_times(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv")
    with open_source(path, SourceOptions(fps=10)) as source:
        assert source.info.frame_rate == 25
        assert source.info.notes == ("--fps has no effect on a video with times of its own",)


def two_tracks(path: Path, sizes: list[tuple[int, int]], default: int | None) -> Path:
    with av.open(str(path), "w") as container:
        streams = []
        for number, (height, width) in enumerate(sizes):
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            if default is not None:
                flag = av.stream.Disposition.default if number == default else 0
                stream.disposition = av.stream.Disposition(flag)
            streams.append(stream)
        for number in range(6):
            for stream, (height, width) in zip(streams, sizes, strict=True):
                frame = av.VideoFrame.from_ndarray(patches(height, width), "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("default", "width"), [(None, 320), (0, 160), (1, 320), (2, 64)])
def test_the_default_track_is_played_else_the_largest(
    tmp_path: Path, default: int | None, width: int
) -> None:
    path = two_tracks(tmp_path / "m.mkv", [(120, 160), (240, 320), (48, 64)], default)
    with open_source(path) as source:
        assert source.info.width == width
        assert "3 video tracks" in source.info.notes[0]
        assert len(list(source)) == 6
    with open_source(path, SourceOptions(stream=2)) as source:
        assert source.info.width == 64
    with pytest.raises(UsageError, match=r"it has 3 video tracks: 0 \(160x120\)") as caught:
        open_source(path, SourceOptions(stream=3))
    assert caught.value.exit_code == 2


def test_a_cover_picture_is_not_a_video(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(patches(64, 64), "rgb24").reformat(format="yuvj420p")
        container.mux(cover.encode(picture))
        container.mux(cover.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(SourceError, match="no video stream but sound"):
        open_source(path)


@pytest.mark.parametrize(
    "name", ["12:30:05.mkv", "Talk: part 1.mkv", "a%03d.mkv", "-x.mkv", "ünï 名.mkv"]
)
def test_names_that_ffmpeg_would_take_for_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_clip(tmp_path / name, frames=3)
    monkeypatch.chdir(tmp_path)
    assert len(frames_of(Path(name))) == 3


def test_files_without_an_ending_are_read_by_their_content(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=3).rename(tmp_path / "clip")
    assert len(frames_of(path)) == 3


def jpeg(image: np.ndarray) -> bytes:
    written = BytesIO()
    Image.fromarray(image).save(written, "jpeg")
    return written.getvalue()


NOISE = np.random.default_rng(22).bytes(200_000)
FOREIGN = {
    "noise": NOISE,
    "start code": b"\0\0\0\1" + NOISE,
    "steps": bytes(range(256)) * 800,
    "document": b"%PDF-1.7\n" + b"an image: " + jpeg(patches()) * 3 + b"\nendstream\n" * 5000,
}
"""Content that is not a video; FFmpeg shows frames of it under some of the names below."""


@pytest.mark.parametrize("content", FOREIGN)
@pytest.mark.parametrize(
    "suffix",
    "cdg CDG h261 h263 h264 hevc m4v mjpeg mjpg avs vc1 yuv rgb cif v210 sub adp idf dv v".split(),
)
def test_a_name_does_not_make_a_video(tmp_path: Path, suffix: str, content: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(FOREIGN[content])
    with pytest.raises(SourceError):
        open_source(path)


def test_raw_streams_are_read_by_their_content_under_any_name(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.h261", codec="h261", images=[patches(144, 176)] * 4)
    for name in ("a.h261", "a.cdg", "a"):
        path = path.rename(tmp_path / name)
        frames = frames_of(path)
        assert len(frames) == 4
        assert close(seen(frames[2].image), PATCHES, by=12)


@pytest.mark.parametrize(("suffix", "codec"), [("h264", "libx264"), ("hevc", "libx265")])
def test_a_raw_stream_too_damaged_to_be_told_is_what_its_name_says(
    tmp_path: Path, suffix: str, codec: str
) -> None:
    images = [np.roll(patches(), 3 * number, axis=1) for number in range(128)]
    path = write_clip(tmp_path / f"a.{suffix}", codec=codec, images=images, options={"bf": "0"})
    stream = path.read_bytes()
    second = stream.index(b"\0\0\1", len(stream) // 5)
    # a forbidden bit, by which FFmpeg holds the whole for something else
    path.write_bytes(stream[:second] + b"\0\0\1\xff\1\2" + stream[second:])
    with pytest.raises(SourceError):
        open_source(path.rename(tmp_path / "a"))
    frames = frames_of((tmp_path / "a").rename(path))
    assert 120 <= len(frames) <= 129
    assert close(seen(frames[0].image), PATCHES, by=12)


@pytest.mark.parametrize("suffix", ["mkv", "webm"])
@pytest.mark.parametrize("size", [(1 << 40) + (1 << 20), (1 << 56) - 2])
def test_a_damaged_size_does_not_hide_what_is_there(tmp_path: Path, suffix: str, size: int) -> None:
    codec = "libvpx-vp9" if suffix == "webm" else "libx264"
    path = write_clip(tmp_path / f"a.{suffix}", codec=codec, images=[patches()] * 8)
    content = path.read_bytes()
    segment = content.index(b"\x18\x53\x80\x67")  # its size takes 8 bytes
    assert content[segment + 4] == 1
    wrong = (1 << 56 | size).to_bytes(8, "big")
    path.write_bytes(content[: segment + 4] + wrong + content[segment + 12 :])
    with open_source(path) as source:
        assert len(list(source)) == 8
    assert not any(str(size)[:9] in text for text in source.warnings)


@pytest.mark.parametrize("codec", ["libsvtav1", "libaom-av1"])
def test_av1_is_read(tmp_path: Path, codec: str) -> None:
    if codec not in av.codec.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    path = write_clip(tmp_path / "a.mp4", codec=codec, frames=4, options={"crf": "20"})
    assert close(seen(frames_of(path)[1].image), PATCHES, by=10)


@pytest.mark.parametrize("kind", ["interlaced", "matrix"])
def test_opencv_refuses_what_it_would_show_as_stray_memory(tmp_path: Path, kind: str) -> None:
    path = write_clip(
        tmp_path / "x.mp4",
        interlaced=kind == "interlaced",
        tags=(8, 2, 2, 1) if kind == "matrix" else None,
    )
    with pytest.raises(SourceError, match="OpenCV cannot convert") as caught:
        open_source(path, SourceOptions(decoder="opencv"))
    assert "--decoder ffmpeg" in caught.value.do
    plain = write_clip(tmp_path / "p.mp4")
    assert close(seen(frames_of(plain, decoder="opencv")[0].image), PATCHES)


def test_damage_in_the_middle_is_counted_and_the_rest_kept(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "d.mkv", codec="ffv1", pix_fmt="bgr0", frames=20)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    at, size = packets[10]
    content[at + size // 3 : at + size // 3 + 40] = bytes(40)
    path.write_bytes(content)
    with open_source(path) as source:
        frames = list(source)
        assert len(frames) >= 18
        assert frames[-1].pts == pytest.approx(19 / 25)


def test_frames_are_converted_or_refused_but_never_left_unwritten() -> None:
    convert = Converter()
    for pix_fmt in sorted(av.codec.Codec("ffv1", "w").video_formats, key=lambda f: f.name):
        if "f32" in pix_fmt.name or "f16" in pix_fmt.name or pix_fmt.name == "rgb48le":
            continue  # FFmpeg makes none of these itself
        frame = av.VideoFrame.from_ndarray(patches(), "rgb24").reformat(format=pix_fmt.name)
        image = convert(frame)
        assert image.flags.c_contiguous
        assert image.shape == (96, 128, 3)
        grey = "gray" in pix_fmt.name or pix_fmt.name.startswith("ya")
        assert grey or close(seen(image), PATCHES, by=8), pix_fmt.name


def test_choosing_names_what_there_is(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "one.mkv", frames=2)
    with av.open(str(path)) as container:
        assert choose_video(container, "one.mkv", 0).index == 0
        with pytest.raises(UsageError, match="it has 1 video track: 0"):
            choose_video(container, "one.mkv", 1)


def progressive_then(folder: Path, **later: object) -> Path:
    first = write_clip(folder / "p.ts", frames=10)
    second = write_clip(folder / "q.ts", frames=10, **later)
    return joined(folder / "both.ts", first, second)


def with_alpha(folder: Path) -> Path:
    image = np.dstack([patches(), np.full((96, 128), 128, np.uint8)])
    return write_clip(
        folder / "a.webm",
        codec="libvpx-vp9",
        pix_fmt="yuva420p",
        images=[image] * 4,
        options={"auto-alt-ref": "0"},
    )


def damaged(folder: Path) -> Path:
    def change(contents: list[bytes]) -> None:
        contents[9] = contents[9][: len(contents[9]) // 3]

    whole = write_clip(folder / "w.avi", codec="mjpeg", pix_fmt="yuvj420p", frames=20)
    return rewrite(whole, folder / "d.avi", change)


@pytest.mark.parametrize(
    ("write", "shown", "found"),
    [
        (lambda f: progressive_then(f, interlaced=True), 10, "interlaced"),
        (lambda f: progressive_then(f, tags=(8, 1, 1, 1)), 10, "matrix"),
        (lambda f: progressive_then(f, images=[patches(180, 120)] * 9), 10, "size"),
        (lambda f: write_clip(f / "m.mov", display=(-1, 0, 0, 1)), 0, "mirror"),
        (lambda f: two_tracks(f / "t.mkv", [(64, 96), (128, 160)], 1), 0, "another track"),
        (with_alpha, 0, "transparency"),
        (damaged, 9, "damaged"),
    ],
)
def test_opencv_shows_nothing_that_it_cannot_show(
    tmp_path: Path, write: Callable[[Path], Path], shown: int, found: str
) -> None:
    path, frames = write(tmp_path), []
    with (
        pytest.raises(SourceError) as raised,
        open_source(path, SourceOptions(decoder="opencv")) as source,
    ):
        frames += source
    assert found in raised.value.found
    assert raised.value.do == "Use --decoder ffmpeg"
    assert shown - 3 <= len(frames) <= shown
    wanted = frames_of(path)
    for frame in frames:
        assert close(seen(frame.image), seen(wanted[frame.index].image), by=4)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
@pytest.mark.parametrize("start", [None, 2.6])
def test_opencv_shows_the_same_frames_as_ffmpeg(
    tmp_path: Path, suffix: str, start: float | None
) -> None:
    images = [np.full((48, 64, 3), 20 + 2 * n, np.uint8) for n in range(100)]
    path = write_clip(tmp_path / f"a.{suffix}", images=images, options={"g": "20"})
    wanted, found = (frames_of(path, start=start, decoder=name) for name in ("ffmpeg", "opencv"))
    assert [frame.index for frame in found] == [frame.index for frame in wanted]
    assert [f.pts for f in found] == pytest.approx([f.pts for f in wanted], abs=2e-3)
    for one, other in zip(found, wanted, strict=True):
        assert np.abs(one.image.astype(int) - other.image).max() <= 2
