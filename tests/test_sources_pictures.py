"""Pictures: order, names, turning, transparency, depth; and files that are not pictures."""

from __future__ import annotations

import json
import os
import struct
import sys
import zlib
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from zlib import crc32

import cv2  # isort: skip - ahead of av
import av
import numpy as np
import pytest
from PIL import Image as Pillow
from test_images import as_stored, exif_of

from rtseg.cli.app import main
from rtseg.errors import SourceError, UsageError
from rtseg.files import cut_name
from rtseg.images import HEIF_SUFFIXES, IMAGE_SUFFIXES, decode_image
from rtseg.sources import SourceOptions, open_source
from rtseg.text import natural_key


def save(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


def flat(value: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def only(path: Path) -> np.ndarray:
    with open_source(path) as source:
        (frame,) = source
    assert frame.size == (source.info.height, source.info.width)
    return frame.image


def with_exif(jpeg: bytes, orientation: int) -> bytes:
    """Insert an EXIF block that holds nothing but the orientation."""
    tiff = b"II*\x00\x08\x00\x00\x00" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    block = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


def test_one_picture(tmp_path: Path) -> None:
    with open_source(save(tmp_path / "a picture.png", flat(7))) as source:
        info = source.info
        (frame,) = source
    assert (info.name, info.width, info.height, info.frame_count) == ("a picture.png", 30, 20, 1)
    assert (info.frame_rate, info.live, info.media) == (None, False, None)
    assert (frame.index, frame.pts, frame.name) == (0, 0.0, "a picture")


def test_colours_are_bgr(tmp_path: Path) -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 2] = 255
    assert only(save(tmp_path / "red.png", red))[0, 0].tolist() == [0, 0, 255]


def test_a_folder_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9, 1, 100):
        save(tmp_path / f"img{number}.png", flat(number))
    save(tmp_path / "Img2.JPG", flat(2))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes(b"left by a file manager")
    (tmp_path / "inner").mkdir()
    save(tmp_path / "inner" / "img3.png", flat(3))
    with open_source(tmp_path) as source:
        frames = list(source)
    assert [f.name for f in frames] == ["img1", "Img2", "img9", "img10", "img100"]
    assert [round(f.image.mean()) for f in frames] == [1, 2, 9, 10, 100]
    assert [f.index for f in frames] == list(range(5))
    assert [f.pts for f in frames] == pytest.approx([i / 25 for i in range(5)])
    assert source.info.frame_count == 5


def test_pictures_take_the_rate_they_are_given(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.png", flat(number))
    with open_source(tmp_path, SourceOptions(fps=10)) as source:
        assert [f.pts for f in source] == pytest.approx([0, 0.1, 0.2])
        assert source.info.frame_rate == Fraction(10)


def test_numbers_and_letters_sort_together() -> None:
    names = ["b", "1", "a10", "a2", "a", "2b", "²", "A1"]
    assert [p.name for p in sorted(map(Path, names), key=natural_key)][:2] == ["1", "2b"]


def test_a_glob(tmp_path: Path) -> None:
    for name in ("cat_2.png", "cat_10.png", "dog_1.png"):
        save(tmp_path / name, flat(50))
    with open_source(f"{tmp_path}/cat_*.png") as source:
        assert [f.name for f in source] == ["cat_2", "cat_10"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    save(tmp_path / "a[1].png", flat(1))
    save(tmp_path / "a1.png", flat(200))
    assert only(tmp_path / "a[1].png").mean() == 1


def test_a_glob_in_a_folder_whose_name_looks_like_one(tmp_path: Path) -> None:
    for folder in ("takes [1]", "takes 1"):
        (tmp_path / folder).mkdir()
    save(tmp_path / "takes [1]" / "a.png", flat(1))
    save(tmp_path / "takes 1" / "b.png", flat(200))
    with open_source(f"{tmp_path}/takes [1]/*.png") as source:
        assert [f.name for f in source] == ["a"]
    with open_source(f"{tmp_path}/takes [12]/*.png") as source:
        assert [f.name for f in source] == ["b"], "brackets are a glob where there is no such name"


def test_a_numbered_pattern_is_read_as_it_was_written(tmp_path: Path) -> None:
    for name in ("f_2.png", "f_000010.png", "f_x.png", "f_3_.png", "g_1.png"):
        save(tmp_path / name, flat(50))
    with open_source(f"{tmp_path}/f_%06d.png") as source:
        assert [f.name for f in source] == ["f_2", "f_000010"]
    with pytest.raises(SourceError, match="no file matches"):
        open_source(f"{tmp_path}/h_%06d.png")


def test_sizes_may_differ(tmp_path: Path) -> None:
    save(tmp_path / "1.png", flat(1, 10, 12))
    save(tmp_path / "2.png", flat(1, 30, 22))
    with open_source(tmp_path) as source:
        assert [f.size for f in source] == [(10, 12), (30, 22)]
        assert (source.info.width, source.info.height) == (12, 10)


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, turns: int) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = (0, 0, 255)
    upright[16:, 32:] = (0, 255, 0)
    jpeg = cv2.imencode(".jpg", upright, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    path = tmp_path / "turned.jpg"
    path.write_bytes(with_exif(jpeg, orientation))
    expected = np.rot90(upright, turns)
    got = only(path)
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).mean() < 5


def test_grey_becomes_bgr(tmp_path: Path) -> None:
    image = only(save(tmp_path / "grey.png", np.full((9, 11), 77, np.uint8)))
    assert image.shape == (9, 11, 3)
    assert (image == 77).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_become_eight(tmp_path: Path, channels: int) -> None:
    deep = np.full((9, 11, channels), 200 * 257, np.uint16).squeeze()
    image = only(save(tmp_path / "deep.png", deep))
    assert image.dtype == np.uint8
    assert (image == 200).all()


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_transparent_pixels_lie_on_white(tmp_path: Path, dtype: type, top: int) -> None:
    image = np.zeros((4, 3, 4), dtype)
    image[..., 2] = top  # red
    image[:, 1, 3] = top // 2
    image[:, 2, 3] = top
    got = only(save(tmp_path / "alpha.png", image))
    assert got[0, 0].tolist() == [255, 255, 255]
    assert got[0, 1].tolist() == pytest.approx([128, 128, 255], abs=1)
    assert got[0, 2].tolist() == [0, 0, 255]


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
@pytest.mark.parametrize("size", [(12, 12), (12, 20)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_transparent_pictures_are_turned_too(
    tmp_path: Path, suffix: str, size: tuple[int, int], orientation: int
) -> None:
    """As those that are not transparent are, with the transparency where it belongs."""
    height, width = size
    stored = np.full((*size, 4), 255, np.uint8)
    stored[: height // 2, : width // 3, :3] = (0, 0, 255)
    stored[height // 2 :, width // 2 :, :3] = (0, 200, 0)
    plain, clear = tmp_path / f"plain{suffix}", tmp_path / f"clear{suffix}"
    save_turned(plain, Pillow.fromarray(stored[..., :3]), orientation)
    stored[stored[..., 1] == 255] = (90, 30, 60, 0)  # what was white is now seen through
    save_turned(clear, Pillow.fromarray(stored), orientation)
    assert np.array_equal(only(clear), only(plain))


def save_turned(path: Path, picture: Pillow.Image, orientation: int) -> None:
    more = exif_of("TIFF" if path.suffix == ".tif" else "", orientation)
    picture.save(path, lossless=True, exact=True, **more)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_of_a_file_of_several_pictures_the_first_is_taken_and_said(
    tmp_path: Path, suffix: str
) -> None:
    pages = [Pillow.fromarray(flat(value)) for value in (10, 120, 240)]
    for name in ("1", "2"):
        more = {"append_images": pages[1:], "lossless": True}
        pages[0].save(tmp_path / f"{name}{suffix}", save_all=True, **more)
    with open_source(tmp_path) as source:
        assert [frame.image.mean() for frame in source] == [10, 10]
    assert source.warnings == [
        f"1{suffix} holds several images, of which only the first is used: "
        "save them as files in a folder, or as a video"
    ]


@pytest.mark.parametrize("suffix", [".webp", ".png", ".apng", ".avif"])
@pytest.mark.parametrize("alpha", [False, True])
def test_animations_are_played_at_their_own_times(tmp_path: Path, suffix: str, alpha: bool) -> None:
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40)]
    images = [Pillow.new("RGBA" if alpha else "RGB", (64, 48), colour) for colour in colours]
    if alpha:
        images[2] = Pillow.new("RGBA", (64, 48), (9, 9, 9, 0))
        colours[2] = (255, 255, 255)
    path = tmp_path / f"moving{suffix}"
    more = {"append_images": images[1:], "lossless": True, "quality": 100, "disposal": 1}
    images[0].save(
        path, {".apng": "PNG"}.get(suffix), save_all=True, duration=[100, 40, 500, 250], **more
    )
    with open_source(path) as source:
        frames = list(source)
    assert [frame.pts for frame in frames] == pytest.approx([0, 0.1, 0.14, 0.64])
    assert [frame.lasts for frame in frames] == pytest.approx([0.1, 0.04, 0.5, 0.25])
    found = np.array([frame.image[10, 10, ::-1] for frame in frames]).astype(int)
    assert np.abs(found - colours).max() <= 8
    assert not source.warnings


def test_a_first_frame_that_stands_for_long_is_not_the_rate(tmp_path: Path) -> None:
    title, *others = [Pillow.fromarray(flat(value)) for value in range(0, 250, 25)]
    path, out = tmp_path / "a.webp", tmp_path / "a.avi"
    delays = [1000] + [100] * len(others)
    title.save(path, save_all=True, append_images=others, duration=delays, lossless=True)
    with open_source(path) as source:
        assert source.info.frame_rate == 10
    assert main([str(path), "-m", "stub", "--classes", "background", "-o", str(out), "-q"]) == 0
    with open_source(out) as written:
        levels = {round(frame.image.mean() / 25) for frame in written}
    assert levels == set(range(10))


def tiff(bits: int, photometric: int, data: bytes, width: int, height: int) -> bytes:
    """A grey TIFF that is not compressed."""
    shorts = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 277: 1, 278: height}
    longs = {273: 8 + 2 + 12 * 9 + 4, 279: len(data)}
    rows = {tag: struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in shorts.items()}
    rows |= {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in longs.items()}
    entries = b"".join(rows[tag] for tag in sorted(rows))
    return b"II*\0" + struct.pack("<IH", 8, len(rows)) + entries + bytes(4) + data


@pytest.mark.parametrize(("bits", "photometric"), [(12, 1), (16, 0), (16, 1)])
def test_grey_of_more_than_8_bits_has_its_whole_range(bits: int, photometric: int) -> None:
    ramp = np.tile(np.linspace(0, 1, 16), (8, 1))
    values = np.rint(ramp * (2**bits - 1)).astype(np.uint16)
    if bits == 16:
        data = values.astype("<u2").tobytes()
    else:
        one, two = values.reshape(-1, 2).T.astype(int)
        data = np.stack([one >> 4, (one & 15) << 4 | two >> 8, two & 255], 1).astype("u1").tobytes()
    image = decode_image(tiff(bits, photometric, data, 16, 8))
    expected = 255 * (ramp if photometric else 1 - ramp)
    assert np.abs(image[..., 0] - expected).max() <= 1


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3)])
def test_a_transparent_colour_of_16_bits_is_over_white(kind: int, channels: int) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc32(name + data))

    clear, other = (
        struct.pack(">3H", *each)[: 2 * channels] for each in ((4660, 9, 7), (257, 9, 7))
    )
    rows = 4 * (b"\0" + 2 * clear + 2 * other)
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0)),
            chunk(b"tRNS", clear),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )
    image = decode_image(content)
    assert (image[:, :2] == 255).all()
    assert (image[:, 2:] < 2).all()


def test_the_default_image_of_an_animation_is_not_a_frame(tmp_path: Path) -> None:
    first, *others = [Pillow.fromarray(flat(value)) for value in (10, 120, 240)]
    path = tmp_path / "a.png"
    first.save(path, save_all=True, append_images=others, default_image=True, duration=0)
    with open_source(path) as source:
        assert [frame.image.mean() for frame in source] == [120, 240]
        assert source.info.frame_rate == 10, "as browsers play a delay of 0"


def test_a_damaged_animation_keeps_the_frames_before(tmp_path: Path) -> None:
    first, *others = [Pillow.fromarray(flat(value)) for value in (10, 120, 240)]
    path = tmp_path / "a.png"
    first.save(path, save_all=True, append_images=others, duration=40)
    path.write_bytes(path.read_bytes()[:-60])
    shown: list[float] = []
    with open_source(path) as source, pytest.raises(SourceError):
        shown.extend(frame.image.mean() for frame in source)
    assert shown == [10, 120]


def test_bytes_that_fill_a_jpeg_are_stepped_over(tmp_path: Path) -> None:
    jpeg = cv2.imencode(".jpg", flat(120))[1].tobytes()
    (tmp_path / "x.jpg").write_bytes(jpeg[:2] + b"\xff" * 3 + jpeg[2:])
    assert abs(only(tmp_path / "x.jpg").mean() - 120) < 3
    cut = with_exif(jpeg, 1)
    (tmp_path / "x.jpg").write_bytes((cut[:2] + b"\xff" * 3 + cut[2:])[:-2])
    with pytest.raises(SourceError, match="the file is cut off"):
        open_source(tmp_path / "x.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm"])
def test_common_formats(tmp_path: Path, suffix: str) -> None:
    assert abs(only(save(tmp_path / f"x{suffix}", flat(120))).mean() - 120) < 3


@pytest.mark.needs_data
def test_real_pictures(data: Path) -> None:
    with open_source(data / "pictures") as source:
        frames = {frame.name: frame.size for frame in source}
    assert frames["astronaut"] == (512, 512)
    assert list(frames) == sorted(frames)


@pytest.mark.parametrize("pattern", ["", "*.png"])
def test_pictures_of_a_folder_that_cannot_be_read_cost_no_other(
    tmp_path: Path, pattern: str
) -> None:
    for number in (2, 4, 6):
        save(tmp_path / f"{number}.png", flat(1))
    (tmp_path / "1.png").write_bytes(b"not a picture")
    (tmp_path / "3.png").touch()
    (tmp_path / "5.png").symlink_to("missing.png")
    (tmp_path / "7.png").write_bytes((tmp_path / "6.png").read_bytes()[:-20])
    got = []
    with (
        open_source(str(tmp_path / pattern)) as source,
        pytest.raises(SourceError, match="cannot read 4 of 7 images"),
    ):
        got.extend((f.name, f.index) for f in source)
    assert got == [("2", 1), ("4", 3), ("6", 5)]
    assert len(source.warnings) == 4
    for number, warning in zip((1, 3, 5, 7), source.warnings, strict=True):
        assert f"{number}.png" in warning


def test_a_folder_of_which_no_picture_can_be_read(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.png").touch()
    with pytest.raises(SourceError, match="cannot read 2 of 2 images"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "the file is empty"), (b"text" * 99, "not an image")]
)
def test_a_file_that_is_no_picture(
    tmp_path: Path, content: bytes, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(SourceError, match=words):
        open_source(tmp_path / "x.jpg")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm"])
def test_a_picture_cut_off_is_not_half_shown(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    path = save(tmp_path / f"x{suffix}", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError, match=r"it is damaged|the file is cut off"):
        open_source(path)
    assert capfd.readouterr() == ("", "")


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no pictures in .*: it has no file ending in"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["missing.png", "missing/", "missing*.png"])
def test_what_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="missing"):
        open_source(f"{tmp_path}/{name}")


def test_a_glob_of_videos_is_refused(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=r"it matches a.mp4 and 1 more"):
        open_source(f"{tmp_path}/*.mp4")


def painted() -> np.ndarray:
    """(40, 60, 3) BGR: red above left, green below right, else white."""
    image = np.full((40, 60, 3), 255, np.uint8)
    image[:20, :30] = (0, 0, 255)
    image[20:, 30:] = (0, 180, 0)
    return image


def encoded(kind: str, *more: np.ndarray, **options: object) -> bytes:
    """`painted`, and further images, as a file of Pillow's `kind`."""
    images = [Pillow.fromarray(each[..., ::-1]) for each in (painted(), *more)]
    buffer = BytesIO()
    if more:
        options |= {"save_all": True, "append_images": images[1:]}
    images[0].save(buffer, kind, **options)
    return buffer.getvalue()


def is_painted(image: np.ndarray) -> bool:
    if image.shape != (40, 60, 3):
        return False
    difference = np.abs(image.astype(int) - painted())
    return bool(max(difference[4:16, 4:26].max(), difference[24:36, 34:56].max()) <= 6)


KINDS = {
    "JPEG": {"quality": 95, "subsampling": 0},
    **{kind: {} for kind in ("PNG", "GIF", "TGA", "QOI", "BMP", "TIFF", "PPM", "JPEG2000")},
    "WEBP": {"quality": 100},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
}


@pytest.mark.parametrize("name", ["a", "a.dat", "a.jfif", "a.jpg", "a.png", "a.mp4", "a.gif"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_known_by_its_content(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / name).write_bytes(encoded(kind, **KINDS[kind]))
    with open_source(tmp_path / name) as source:
        assert source.info.frame_count == 1
        assert source.info.pictures == (tmp_path / name,)
        (frame,) = source
    assert is_painted(frame.image)
    out = tmp_path / "out.png"
    assert main([str(tmp_path / name), "-m", "stub", "--alpha", "0", "-o", str(out), "-q"]) == 0
    assert is_painted(cv2.imread(str(out)))


@pytest.mark.parametrize("kind", ["PCX", "SGI", "DDS", "TGA"])
def test_formats_without_a_signature_are_known_by_their_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    content = encoded(kind)
    path.write_bytes(content.removesuffix(b"TRUEVISION-XFILE.\0"))
    assert is_painted(only(path))


@pytest.mark.parametrize("name", ["a", "a.dat", "a.JFIF", "a.mp4"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_of_any_name_is_upright(tmp_path: Path, name: str, orientation: int) -> None:
    stored = as_stored(painted(), orientation)
    jpeg = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    (tmp_path / name).write_bytes(with_exif(jpeg, orientation))
    assert is_painted(only(tmp_path / name))


@pytest.mark.parametrize("name", ["clip.jpg", "clip.png", "clip.heic", "clip", "clip.tga"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts", ".gif"])
def test_a_video_that_is_called_an_image_is_a_video(tmp_path: Path, suffix: str, name: str) -> None:
    path = tmp_path / f"clip{suffix}"
    if suffix == ".gif":
        path.write_bytes(encoded("GIF", 255 - painted(), duration=[200, 600]))
    else:
        source = "test://?size=96x64&fps=5&frames=8"
        codec = ["--codec", "mjpeg"] if suffix == ".avi" else []
        written = path.with_suffix(".mp4") if suffix == ".ts" else path
        assert main([source, "-m", "stub", *codec, "-o", str(written), "-q"]) == 0
        if suffix == ".ts":
            remux(written, path)
    path.rename(tmp_path / name)
    with open_source(tmp_path / name) as source:
        assert not source.info.pictures
        times = [frame.pts for frame in source]
    expected = [0.0, 0.2] if suffix == ".gif" else [number / 5 for number in range(8)]
    assert times == pytest.approx(expected, abs=2e-3)


def remux(path: Path, copy: Path) -> None:
    with av.open(str(path)) as old, av.open(str(copy), "w", format="mpegts") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)


def test_a_stream_of_jpegs(tmp_path: Path) -> None:
    content = b"".join(cv2.imencode(".jpg", flat(level))[1].tobytes() for level in (20, 90, 160))
    for name in ("a.mjpeg", "a.dat"):
        (tmp_path / name).write_bytes(content)
        with open_source(tmp_path / name) as source:
            means = [frame.image.mean() for frame in source]
        assert means == pytest.approx([20, 90, 160], abs=3)
    (tmp_path / "a.jpg").write_bytes(content)  # FFmpeg takes one image from a file of this name
    with open_source(tmp_path / "a.jpg") as source:
        assert len(list(source)) == 1
    assert source.warnings[0].startswith(
        "a.jpg holds several images, of which only the first is used"
    )
    (tmp_path / "b.mjpeg").write_bytes(encoded("JPEG"))
    assert only(tmp_path / "b.mjpeg").shape == (40, 60, 3)
    (tmp_path / "mpo.dat").write_bytes(encoded("MPO", 255 - painted(), quality=95))
    assert is_painted(only(tmp_path / "mpo.dat"))


def test_the_largest_image_of_an_icon_is_read(tmp_path: Path) -> None:
    rgba = np.full((64, 64, 4), (30, 60, 90, 255), np.uint8)
    rgba[:32, :, 3] = 0
    from PIL import Image

    Image.fromarray(rgba).save(tmp_path / "a.ico", sizes=[(16, 16), (64, 64), (32, 32)])
    image = only(tmp_path / "a.ico")
    assert image.shape == (64, 64, 3)
    assert (image[:32] == 255).all()
    assert (image[32:] == (90, 60, 30)).all()


def test_text_is_not_drawn_as_a_video(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a video\n" * 100)
    with pytest.raises(SourceError) as caught:
        open_source(tmp_path / "notes.txt")
    assert caught.value.found.startswith("it is not a video")


def raw_photo() -> bytes:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2()
    tags[254], tags[330] = 1, 8  # a preview; the photo itself is in a sub-file
    return encoded("TIFF", tiffinfo=tags)


FOREIGN = {
    "a.nef": (raw_photo(), "a raw photo"),
    "a.cr3": (b"\0\0\0\x18ftypcrx " + bytes(300), "a raw photo"),
    "a.raf": (b"FUJIFILMCCD-RAW 0201" + bytes(300), "a raw photo"),
    "a.jxl": (b"\xff\x0a" + bytes(300), "a JPEG XL image"),
    "a.jpg": (b"\0\0\0\x0cJXL \r\n" + bytes(300), "a JPEG XL image"),
    "a.hdr": (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n" + bytes(300), "linear light"),
    "a.exr": (b"v/1\x01\2\0\0\0" + bytes(300), "linear light"),
    "a.pfm": (b"PF\n1 1\n-1.0\n" + bytes(300), "linear light"),
    "a.pdf": (encoded("PDF"), "a document"),  # FFmpeg finds the JPEG within
    "a.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n" + bytes(300), "a document"),
    "a.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>' + b" " * 200, "a document or drawing"),
    "b.svg": (b'<?xml version="1.0"?>\n<svg/>' + b" " * 200, "a document or drawing"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_would_show_a_preview_is_refused(tmp_path: Path, name: str) -> None:
    content, words = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=words):
        open_source(tmp_path / name)


@pytest.mark.parametrize("brand", ["heic", "heix", "mif1", "hevc", "msf1", "heim"])
@pytest.mark.parametrize("name", ["a.heic", "a.HEIF", "a.jpg", "a", "a.mp4"])
def test_heic_is_refused_whole_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, brand: str
) -> None:
    monkeypatch.setattr("rtseg.images._formats", lambda: ["JPEG", "PNG"])
    content = b"\0\0\0\x18ftyp" + brand.encode() + bytes(300)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match="pip install pillow-heif, or convert it to JPEG"):
        open_source(tmp_path / name)


def mixed(folder: Path) -> None:
    for number, (kind, suffix) in enumerate(
        [("JPEG", ".JPG"), ("PNG", ".jfif"), ("GIF", ".gif"), ("AVIF", ".avif"), ("JPEG", "")]
    ):
        (folder / f"{number}{suffix}").write_bytes(encoded(kind))
    (folder / "moving.gif").write_bytes(encoded("GIF", 255 - painted()))
    (folder / "words.txt").write_text("BM are the first letters of a bitmap")
    (folder / "P1.csv").write_text("P1 is a name")
    (folder / "clip.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(300))
    (folder / "empty").touch()
    (folder / ".hidden").touch()


def test_a_folder_reports_what_it_leaves_out(tmp_path: Path) -> None:
    mixed(tmp_path)
    (tmp_path / "sub").mkdir()
    if not HEIF_SUFFIXES <= IMAGE_SUFFIXES:
        (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(300))
    with open_source(tmp_path) as source:
        assert [frame.name for frame in source] == ["0", "1", "2", "3", "4"]
    (note,) = source.info.notes
    assert note.startswith(f"left out {6 if 'phone' in note else 5} files: ")
    assert "clip.mp4, empty, P1.csv and 1 more (not an image)" in note
    assert "moving.gif (animated)" in note
    assert "sub (subfolders)" in note
    if "phone" in note:
        assert "phone.heic (a HEIC image, which needs the package pillow-heif" in note


@pytest.mark.skipif(sys.platform == "win32", reason="has no named pipes")
def test_named_pipes_in_a_folder_are_left_out(tmp_path: Path) -> None:
    mixed(tmp_path)
    os.mkfifo(tmp_path / "0a.png")
    os.mkfifo(tmp_path / "pipe")
    with open_source(tmp_path) as source:
        assert [frame.name for frame in source] == ["0", "1", "2", "3", "4"]
    assert "0a.png, pipe (not a regular file)" in source.info.notes[0]


def test_a_glob_reports_what_it_leaves_out(tmp_path: Path) -> None:
    mixed(tmp_path)
    with open_source(f"{tmp_path}/[0-9mw]*") as source:
        assert len(list(source)) == 5
    assert source.info.notes == (
        "left out 2 files: moving.gif (animated); words.txt (not an image)",
    )
    with open_source(f"{tmp_path}/[0-9]*") as source:
        assert source.info.notes == ()
    with pytest.raises(SourceError, match=r"no pictures match .*moving.gif \(animated\)"):
        open_source(f"{tmp_path}/*.gif*"[:-1].replace("*.gif", "m*.gif"))


@pytest.mark.parametrize("length", [10, 200, 251, 255])
@pytest.mark.parametrize("letter", ["n", "\u957f"])
def test_names_of_any_legal_length(tmp_path: Path, letter: str, length: int) -> None:
    name = cut_name(letter * length, "", length)
    (tmp_path / name).write_bytes(encoded("JPEG"))
    out = tmp_path / "out"
    assert main([str(tmp_path / name), "-m", "stub", "-o", f"{out}/", "-q"]) == 0
    (written,) = out.iterdir()
    assert written.name == cut_name(name, ".png")
    assert len(os.fsencode(written.name)) <= 255


@pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
def test_a_name_in_another_encoding(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"caf\xe9\xff")
    for folder, suffix in ((tmp_path, ""), (tmp_path, ".jpg")):
        (folder / f"{name}{suffix}").write_bytes(encoded("JPEG"))
    one, two = f"{tmp_path}/{name}", f"{tmp_path}/{name}.jpg"
    stub = ["-m", "stub", "--no-show"]
    assert main([one, *stub, "-o", f"{one}.png", "--json", f"{one}.jsonl"]) == 0
    assert main([one, two, *stub, "-o", f"{one}-out/", "--json", f"{one}-2.jsonl"]) == 0
    strange = tmp_path / "new\nline\x1b[31m.jpg"
    strange.write_bytes(encoded("JPEG"))
    assert main([str(strange), *stub, "-o", f"{one}-3.png"]) == 0
    assert main([f"{one}.none", *stub]) == 3
    printed = capfd.readouterr().err
    assert r"caf\udce9" in printed
    assert r"new\nline\x1b[31m.jpg" in printed
    assert "\x1b" not in printed
    lines = Path(f"{one}-2.jsonl").read_text("utf-8").splitlines()
    assert sorted(json.loads(line)["source"][:3] for line in lines) == ["caf", "caf"]
    assert len(list(Path(f"{one}-out").iterdir())) == 2


def test_a_damaged_png_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    content = bytearray(cv2.imencode(".png", noise)[1].tobytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(SourceError, match="a checksum in it is wrong"):
        open_source(path)
    assert capfd.readouterr().err == ""
