"""Image files of every kind: the same pixels, upright, over white; masks with their values."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageCms

from rtseg import images
from rtseg.errors import DatasetError, SourceError
from rtseg.images import (
    decode_image,
    holds_several,
    image_size,
    is_image,
    read_animation,
    read_image,
    read_stored,
)

H, W = 24, 32
RED, GREEN = (0, 0, 255), (0, 180, 0)  # BGR


def painted() -> np.ndarray:
    """(H, W, 3) BGR: red above, green below, white to the right: no two orientations are alike."""
    image = np.full((H, W, 3), 255, np.uint8)
    image[:12, :20] = RED
    image[12:, :20] = GREEN
    return image


def as_pillow(mode: str = "RGB") -> Pillow.Image:
    return Pillow.fromarray(painted()[..., ::-1]).convert(mode)


def coded(image: Pillow.Image, kind: str, **more: object) -> bytes:
    buffer = BytesIO()
    exact = {"WEBP": {"lossless": True, "exact": True}, "JPEG": {"quality": 100}}
    exact["AVIF"] = {"quality": 100, "subsampling": "4:4:4"}
    image.save(buffer, kind, **{**exact.get(kind, {}), **more})
    return buffer.getvalue()


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels of a file that is upright by its EXIF orientation."""
    stored = upright
    if orientation in (5, 6, 7, 8):
        stored = np.rot90(stored, {5: 1, 6: 1, 7: -1, 8: -1}[orientation])
    if orientation in (3, 4):
        stored = np.rot90(stored, 2)
    if orientation in (2, 4):
        stored = stored[:, ::-1]
    if orientation in (5, 7):
        stored = stored[::-1]
    return stored


def exif_of(kind: str, orientation: int) -> dict[str, object]:
    """Options of Pillow that save an orientation in a file."""
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    return {"tiffinfo": exif} if kind == "TIFF" else {"exif": exif.tobytes()}


def difference(image: np.ndarray, wanted: np.ndarray) -> int:
    assert image.shape == wanted.shape
    assert image.dtype == np.uint8
    inside = np.abs(image.astype(int) - wanted)[2:10, 2:18]  # away from edges, which JPEG smears
    return int(inside.max())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"])
def test_every_format_gives_the_same_pixels(kind: str) -> None:
    assert difference(decode_image(coded(as_pillow(), kind)), painted()) <= 3


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("P", "PNG"), ("P", "BMP"), ("P", "TIFF")],
)
def test_every_colour_mode_gives_the_same_pixels(mode: str, kind: str) -> None:
    assert difference(decode_image(coded(as_pillow(mode), kind)), painted()) <= 3


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_lie_on_white(kind: str, mode: str) -> None:
    image = Pillow.fromarray(painted()[..., ::-1])
    alpha = np.zeros((H, W), np.uint8)
    alpha[:, 10:] = 255
    image.putalpha(Pillow.fromarray(alpha))
    got = decode_image(coded(image.convert(mode), kind))
    assert got[5, 5].tolist() == [255, 255, 255]
    assert np.abs(got[5, 15].astype(int) - (RED if mode == "RGBA" else 76)).max() <= 2


def test_a_transparent_grey_level_lies_on_white() -> None:
    got = decode_image(coded(as_pillow("L"), "PNG", transparency=76))
    assert got[5, 5].tolist() == [255, 255, 255]
    assert got[20, 5].tolist() == [106, 106, 106]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), *((k, m) for k in ("PNG", "WEBP", "TIFF", "AVIF") for m in ("RGB", "RGBA"))],
)
def test_every_orientation_is_upright(
    tmp_path: Path, kind: str, mode: str, orientation: int
) -> None:
    stored = as_stored(painted(), orientation)
    image = Pillow.fromarray(np.ascontiguousarray(stored[..., ::-1])).convert(mode)
    path = tmp_path / "image"
    path.write_bytes(coded(image, kind, **exif_of(kind, orientation)))
    assert difference(read_image(path, SourceError), painted()) <= 3
    assert image_size(path, SourceError) == (H, W)


P3 = np.array(
    [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
"""XYZ (D50) of red, green and blue, in columns: of Display P3 and of sRGB."""
GAMMA = 2.2


def profile_of(primaries: np.ndarray, space: bytes = b"RGB ") -> bytes:
    """An ICC profile of version 2 with these primaries and `GAMMA`."""

    def xyz(values: np.ndarray) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(GAMMA * 256)) + b"\0\0"
    tags = {b"wtpt": xyz(np.array([0.9642, 1.0, 0.8249]))}
    for name, column in zip((b"r", b"g", b"b"), primaries.T, strict=True):
        tags |= {name + b"XYZ": xyz(column), name + b"TRC": curve}
    tags |= {b"kTRC": curve}
    at, table, content = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += name + struct.pack(">II", at + len(content), len(tag))
        content += tag
    head = struct.pack(
        ">I4sI4s4s4s", at + len(content), b"lcms", 0x02400000, b"mntr", space, b"XYZ "
    )
    head = (head + bytes(12) + b"acsp").ljust(68, b"\0")
    head += struct.pack(">3i", round(0.9642 * 65536), 65536, round(0.8249 * 65536))
    return head.ljust(128, b"\0") + table + content


def from_p3(rgb: tuple[int, int, int]) -> np.ndarray:
    """What a colour of Display P3, here with `GAMMA`, is in sRGB: by the definition of both."""
    linear = np.linalg.solve(SRGB, P3 @ (np.array(rgb) / 255) ** GAMMA).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_colours_with_a_profile_become_srgb(kind: str, mode: str, tmp_path: Path) -> None:
    if (kind, mode) in {("JPEG", "RGBA"), ("JPEG", "P"), ("WEBP", "P"), ("AVIF", "P")}:
        pytest.skip("there is no such file")
    colour, path = (180, 90, 60), tmp_path / "image"
    image = Pillow.new("RGB", (W, H), colour)
    image = image.quantize() if mode == "P" else image.convert(mode)
    path.write_bytes(coded(image, kind, icc_profile=profile_of(P3)))
    wanted = from_p3(colour)
    assert np.abs(wanted - colour).max() > 12
    got = read_image(path, SourceError)[H // 2, W // 2, ::-1]
    assert np.abs(got - wanted).max() <= 3
    stored = read_stored(path, DatasetError)  # of masks nothing is converted
    values = stored.values if stored.palette is None else stored.palette[stored.values]
    assert np.abs(values[H // 2, W // 2].astype(int) - colour).max() <= 3


def test_frames_of_an_animation_become_srgb(tmp_path: Path) -> None:
    path, colours = tmp_path / "image.png", [(180, 90, 60), (60, 120, 200)]
    frames = [Pillow.new("RGB", (W, H), colour) for colour in colours]
    frames[0].save(path, save_all=True, append_images=frames[1:], icc_profile=profile_of(P3))
    for (image, _), colour in zip(read_animation(path, SourceError), colours, strict=True):
        assert np.abs(image[0, 0, ::-1] - from_p3(colour)).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        profile_of(P3, space=b"GRAY"),
        profile_of(P3, space=b"CMYK"),
        profile_of(P3)[:150],
        b"nothing of the kind",
    ],
)
def test_other_profiles_change_nothing(kind: str, profile: bytes) -> None:
    plain, image = coded(as_pillow(), kind), coded(as_pillow(), kind, icc_profile=profile)
    assert np.array_equal(decode_image(image), decode_image(plain))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_become_eight(suffix: str, channels: int) -> None:
    deep = np.full((4, 5, channels), 0x80FF, np.uint16).squeeze()
    content = cv2.imencode(".pgm" if (suffix, channels) == (".ppm", 1) else suffix, deep)[1]
    assert set(decode_image(content.tobytes()).ravel().tolist()) == {0x80}


def test_pixels_without_a_known_range_are_refused() -> None:
    content = coded(Pillow.fromarray(np.ones((4, 5), np.float32)), "TIFF")
    with pytest.raises(ValueError, match="32 bits"):
        decode_image(content)


def test_a_file_is_what_its_bytes_say(tmp_path: Path) -> None:
    for name, kind in {"a.png": "JPEG", "b.jpg": "PNG", "c.jfif": "JPEG", "d": "WEBP"}.items():
        (tmp_path / name).write_bytes(coded(as_pillow(), kind))
        assert is_image(tmp_path / name)
        assert difference(read_image(tmp_path / name, SourceError), painted()) <= 3
    (tmp_path / "words.jpg").write_text("words")
    assert not is_image(tmp_path / "words.jpg")
    assert not is_image(tmp_path / "absent.jpg")


def test_heic_names_the_package_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_formats", lambda: ["JPEG", "PNG"])
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    with pytest.raises(SourceError, match="pillow-heif"):
        read_image(tmp_path / "a.heic", SourceError)


def test_heic_is_read_upright_and_in_its_primary_image(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    path = tmp_path / "a.heic"
    smooth = Pillow.fromarray(np.repeat(np.repeat(painted()[..., ::-1], 8, 0), 8, 1))
    plain = np.asarray(smooth)[..., ::-1]

    smooth.save(path, quality=95)
    assert difference(read_image(path, SourceError), plain) <= 6

    turned = smooth.copy()
    turned.getexif()[0x0112] = 6  # the box `irot` of the file, which its EXIF repeats
    turned.save(path, quality=95)
    assert b"irot" in path.read_bytes()
    assert difference(read_image(path, SourceError), np.rot90(plain, -1)) <= 6

    several = pillow_heif.from_pillow(Pillow.new("RGB", smooth.size))
    several.add_from_pillow(smooth)
    several.save(path, quality=95, primary_index=1)
    assert difference(read_image(path, SourceError), plain) <= 6

    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SourceError, match="damaged"):
        read_image(path, SourceError)


@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "PNG", "AVIF"])
def test_files_of_several_images_are_known(tmp_path: Path, kind: str) -> None:
    pages = [as_pillow(), Pillow.new("RGB", (W, H))]
    path = tmp_path / "a"
    path.write_bytes(coded(pages[0], kind, save_all=True, append_images=pages[1:]))
    assert holds_several(path)
    path.write_bytes(coded(pages[0], kind))
    assert not holds_several(path)


def test_what_fails_is_the_caller_s_error(tmp_path: Path) -> None:
    for failure in (SourceError, DatasetError):
        with pytest.raises(failure, match=r"cannot read the image .*absent: no such file"):
            read_image(tmp_path / "absent", failure)


def test_an_image_larger_than_pillow_reads_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 100)
    assert difference(decode_image(coded(as_pillow(), "PNG")), painted()) == 0


@pytest.mark.parametrize("values", [(0, 1), (0, 2), (0, 255), (0, 5, 9), (3,)])
def test_gifs_of_grey_levels_keep_them(tmp_path: Path, values: tuple[int, ...]) -> None:
    mask = np.repeat(np.array(values, np.uint8), 40).reshape(-1, 8)
    Pillow.fromarray(mask).save(tmp_path / "m.gif")
    assert (read_stored(tmp_path / "m.gif", SourceError).values == mask).all()


def test_masks_keep_their_values(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    indices = (np.arange(48, dtype=np.uint8) % 5).reshape(6, 8)
    palette = Pillow.fromarray(indices).convert("P")
    palette.putdata(indices.ravel().tolist())
    palette.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200, 1, 2, 3])
    palette.save(path)
    stored = read_stored(path, DatasetError)
    assert np.array_equal(stored.values, indices)
    assert (stored.lossy, stored.transparent) == (False, False)
    deep = indices.astype(np.uint16) * 300
    cv2.imwrite(str(path), deep)
    assert np.array_equal(read_stored(path, DatasetError).values, deep)
    path.write_bytes(coded(as_pillow(), "JPEG"))
    assert read_stored(path, DatasetError).lossy


@pytest.mark.parametrize(("kind", "bits"), [(np.float32, 32), (np.float64, 64), (np.int32, 32)])
@pytest.mark.parametrize("shape", [(20, 30, 3), (20, 30)])
def test_values_whose_range_is_not_known_are_refused_as_such(
    kind: type, bits: int, shape: tuple[int, ...]
) -> None:
    content = cv2.imencode(".tiff", np.ones(shape, kind))[1].tobytes()
    with pytest.raises(ValueError, match=f"its pixels have {bits} bits"):
        decode_image(content)
