"""Pictures: order, names, turning, transparency, depth; and files that are not pictures."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from rtseg.errors import SourceError, UsageError
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
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    more = {"tiffinfo": exif} if path.suffix == ".tif" else {"exif": exif.tobytes()}
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
        f"1{suffix} holds 3 images, of which only the first is used: "
        "save them as files in a folder, or as a video"
    ]


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


def test_an_unreadable_picture_in_a_folder_is_named(tmp_path: Path) -> None:
    save(tmp_path / "1.png", flat(1))
    save(tmp_path / "3.png", flat(1))
    (tmp_path / "2.png").write_bytes(b"not a picture")
    got = []
    words = r"cannot read the image .*2\.png: it is damaged"
    with pytest.raises(SourceError, match=words), open_source(tmp_path) as source:
        got.extend(f.name for f in source)
    assert got == ["1"]


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
    with pytest.raises(UsageError, match=r"it matches a.mp4 and 1 more. Name one video at a time"):
        open_source(f"{tmp_path}/*.mp4")


def test_a_damaged_png_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    content = bytearray(cv2.imencode(".png", noise)[1].tobytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(SourceError, match="a checksum in it is wrong"):
        open_source(path)
    assert capfd.readouterr().err == ""
