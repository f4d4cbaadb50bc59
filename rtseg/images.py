"""Read image files, for every edge: upright, over white, 8 bits of sRGB; or a mask as stored.

A file is what its first bytes say, whatever its name. OpenCV decodes JPEG and other files that
cannot be transparent, as it is twice as fast and gives the same values. Pillow decodes everything
else, as it handles transparency and orientation in every format; OpenCV tries what Pillow cannot.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtseg.errors import RtsegError
from rtseg.files import reason
from rtseg.frame import Image
from rtseg.limits import IMAGE_PIXELS, too_large
from rtseg.system import hush_opencv

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage
    from PIL.ImageCms import ImageCmsTransform

HEIF_SUFFIXES = frozenset((".heic", ".heif"))
"""Read only where the package pillow-heif is installed."""

IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .bmp .dib .webp .tif .tiff .ppm .pgm .pbm .pnm"
    " .jp2 .j2k .jpx .jpc .avif .tga .qoi .pcx .sgi .dds".split()
) | (HEIF_SUFFIXES if find_spec("pillow_heif") else frozenset())
"""Names of image files. GIF is not among them: it may be a video."""

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .m2v .ts .mts .m2ts .vob .wmv .asf .flv .f4v .ogv"
    " .ogg .3gp .3g2 .mxf .dv .mjpg .mjpeg .y4m .gif .h264 .264 .h265 .265 .hevc .ivf .rm"
    " .rmvb".split()
)
"""Names of video files."""

FORMATS = (
    "JPEG MPO PNG GIF BMP DIB WEBP TIFF PPM JPEG2000 AVIF HEIF TGA QOI PCX SGI DDS ICO".split()
)
"""Pillow's names of these. For some others it starts programs, as Ghostscript for EPS."""

ANIMATED_WEBP = re.compile(rb"RIFF....WEBPVP8X........(...)(...)", re.DOTALL)
"""With its width and height less 1, for which Pillow makes room before anything else."""

PAPER = "white"
"""What transparent pixels are laid over."""

SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|II[*+]\0|MM\0[*+]|RIFF....WEBP|GIF8[79]a|qoif"
    rb"|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0|P[1-6]\s+[\d#]"
    rb"|\0\0[\1\2]\0[^\0]\0|\0\0\0\x0cjP  |\xff\x4f\xff\x51"
    rb"|....ftyp(?:avi[fs]|hei[cfxms]|hev[cxms]|mif1|msf1)",
    re.DOTALL,
)
DEEP = "its pixels have {} bits, whose range is not known; save it with 8 or 16"
TGA_FOOTER = b"TRUEVISION-XFILE.\0"

FOREIGN = {
    "a raw photo; develop it to JPEG or PNG": re.compile(
        rb"....ftypcrx|II\*\0....CR|IIR[OS]|MMOR|IIU\0|FUJIFILMCCD-RAW", re.DOTALL
    ),
    "a JPEG XL image; convert it to JPEG or PNG": re.compile(
        rb"\xff\x0a|\0\0\0\x0cJXL ", re.DOTALL
    ),
    "an image of linear light; save it as JPEG or PNG, as it is to be seen": re.compile(
        rb"#\?(?:RADIANCE|RGBE)|v/1\x01|P[Ff]4?\s"
    ),
    "a Photoshop document; save it as PNG": re.compile(rb"8BPS\0"),
    "a document or drawing; export its pages as PNG": re.compile(
        rb"%PDF-|%!PS|\W*<(?:svg|\?xml.{0,170}<svg|!--.{0,170}<svg|!DOCTYPE svg)\b", re.DOTALL
    ),
}
"""Images that are refused -> what their first bytes are; FFmpeg would show parts of some."""

VIDEO = re.compile(
    rb"....(?:ftyp|moov|mdat|wide|free|skip)|\x1a\x45\xdf\xa3|RIFF....AVI |OggS|FLV|GIF8"
    rb"|\0\0\x01[\xb0\xb3\xb5\xba]|G.{187}G|\x30\x26\xb2\x75|\0\0\0?\x01[\x09\x67\x40\x42]",
    re.DOTALL,
)
"""First bytes of videos, also of those that images share; `is_image` decides."""

HEAD_BYTES = 192
"""Enough for all of these."""

OPAQUE = re.compile(rb"\xff\xd8|RIFF....WEBPVP8 |BM.{26}\x18", re.DOTALL)
"""JPEG, simple WebP and 24-bit BMP: without transparency, and decoded twice as fast by OpenCV."""

ANIMATIONS = ("WEBP", "PNG", "AVIF")
"""Pillow's names of the formats whose frames it plays; GIFs are videos."""

SHORTEST_DELAY, DEFAULT_DELAY = 0.010, 0.100
"""Seconds: a frame that declares no more than the first is shown for the other, as in browsers."""

PNG, JPEG = b"\x89PNG", b"\xff\xd8"
HEIF = re.compile(rb"....ftyp(?:hei[cfxms]|hev[cxms]|mif1|msf1)", re.DOTALL)
NEEDS_HEIF = (
    "a HEIC image, which needs the package pillow-heif: pip install pillow-heif, "
    "or convert it to JPEG"
)

NEXT_JPEG = b"\xff\xd9\xff\xd8\xff"
"""The end of a JPEG and the start of the next one, as in a stream of them."""
SEARCHED_BYTES = 4 << 20
"""In which the second image of such a stream is looked for."""

ORIENTATION, WIDTH, LENGTH = 0x0112, 0x0100, 0x0101
SUBFILE, SUBFILES, DNG_VERSION = 0x00FE, 0x014A, 0xC612
BITS_PER_SAMPLE, PHOTOMETRIC = 0x0102, 0x0106
"""Tags of EXIF and TIFF."""
WHITE_IS_ZERO = 0
"""A value of `PHOTOMETRIC`."""

DAMAGE = (
    SyntaxError,
    EOFError,
    RuntimeError,
    LookupError,
    TypeError,
    ZeroDivisionError,
    struct.error,
    zlib.error,
)
"""What Pillow raises for damaged files, beside OSError and ValueError."""

ROUNDING = 2
"""Levels by which profiles of sRGB differ from one another."""

SWAPS_SIDES = (5, 6, 7, 8)
"""EXIF orientations at which width and height change places."""


class StoredImage(NamedTuple):
    """The pixels of a file as they are stored.

    Attributes:
        values: (H, W) palette indices or grey levels, uint8 or wider; (H, W, 3) uint8 RGB of a
            file in full colour.
        lossy: whether its compression changes values (JPEG).
        transparent: whether any of it is.
        palette: (N, 3) uint8 RGB of the indices, of a file that has one.
    """

    values: NDArray[Any]
    lossy: bool
    transparent: bool
    palette: NDArray[np.uint8] | None = None


def is_image(path: Path) -> bool:
    """Whether a file is an image by its content, also one that is refused when it is read.

    An animated GIF and a stream of JPEGs are videos. False if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            if head.startswith(JPEG):
                return not _is_motion_jpeg(head + file.read(SEARCHED_BYTES))
            if SIGNATURES.match(head) or _foreign(head):
                return not (head.startswith(b"GIF8") and is_animated(path))
            if len(head) == HEAD_BYTES:
                file.seek(-len(TGA_FOOTER), 2)
                return file.read() == TGA_FOOTER
            return head.endswith(TGA_FOOTER)
    except OSError:
        return False


def is_image_content(content: bytes) -> bool:
    """Whether the content of a file, or the beginning of it, is that of an image."""
    return SIGNATURES.match(content) is not None or bool(_foreign(content))


def holds_video(path: Path) -> bool:
    """Whether the first bytes of a file that is not an image are those of a common video."""
    try:
        head = _head(path)
    except OSError:
        return False
    return VIDEO.match(head) is not None


def refusal(path: Path) -> str:
    """Why a file cannot be used as an image, such as "not an image"; "" if its header is right."""
    if path.suffix.lower() == ".gif" and is_animated(path):
        return "animated"
    try:
        head = _head(path)
        if foreign := _foreign(head):
            return foreign
        if not is_image(path):
            return "not an image"
        with _opened(path):
            return ""
    except OSError as error:
        return reason(error).lower()
    except ValueError as error:
        return str(error).removeprefix("it is ")


def is_animated(path: Path) -> bool:
    """Whether an image file holds more than one frame; False if it cannot be read."""
    try:
        with _opened(path) as image:
            return bool(getattr(image, "is_animated", False))
    except (OSError, ValueError):
        return False


def is_animation(path: Path) -> bool:
    """Whether a file is an animation that Pillow plays: WebP, PNG or AVIF of several frames."""
    try:
        with _opened(path) as image:
            return image.format in ANIMATIONS and getattr(image, "n_frames", 1) > 1
    except (OSError, ValueError):
        return False


def read_animation(path: Path, failure: type[RtsegError]) -> Generator[tuple[Image, float]]:
    """Each frame of an animation as `read_image` reads it, and the seconds that it is shown.

    Raises:
        failure: as `read_image`.
    """
    import cv2

    with _failing_as(failure, f"cannot read the image {path}"), _opened(path) as image:
        orientation = _orientation(image)
        for index in range(image.info.get("default_image", 0), getattr(image, "n_frames", 1)):
            image.seek(index)  # a default image is shown by what does not play it
            image.load()
            rgb = np.asarray(_rgb(_upright(image, orientation)))
            seconds = image.info.get("duration", 0) / 1000
            lasts = seconds if seconds > SHORTEST_DELAY else DEFAULT_DELAY
            yield cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), lasts


def _is_motion_jpeg(content: bytes) -> bool:
    """Whether JPEGs follow one another; those of a camera's multi-picture file are listed in it."""
    end = content.find(NEXT_JPEG)
    return end >= 0 and b"MPF\0" not in content[:end]


def _foreign(head: bytes) -> str:
    return next((words for words, start in FOREIGN.items() if start.match(head)), "")


def read_image(path: Path, failure: type[RtsegError]) -> Image:
    """(H, W, 3) uint8 BGR, upright by EXIF, transparent pixels over white; 16 bits become 8.

    Colours with a profile of another RGB than sRGB, such as Display P3, are converted. Of a file
    that holds several images, the first.

    Raises:
        failure: the file cannot be read, is damaged or cut off, or is not an image.
    """
    with _failing_as(failure, f"cannot read the image {path}"):
        return decode_image(path.read_bytes())


def decode_image(content: bytes) -> Image:
    """As `read_image`, of the content of a file.

    Raises:
        ValueError: it is damaged, cut off, or not an image; its text says which.
    """
    if not content:
        raise ValueError("the file is empty")
    if _has_wrong_checksum(content):
        raise ValueError("it is damaged: a checksum in it is wrong")
    if _is_cut_off(content):
        raise ValueError("the file is cut off")
    if foreign := _foreign(content[:HEAD_BYTES]):
        raise ValueError(f"it is {foreign}")
    if OPAQUE.match(content):
        orientation, to_srgb = None, None
        try:
            with _opened(BytesIO(content)) as image:
                orientation, to_srgb = _orientation(image), _conversion(image)
        except _TooLargeError:
            raise
        except ValueError:
            pass  # OpenCV reads some that Pillow does not
        pixels = _decoded_by_opencv(content, orientation)
        return pixels if to_srgb is None else _converted(pixels, to_srgb)
    return _decoded_by_pillow(content)


def image_size(path: Path, failure: type[RtsegError]) -> tuple[int, int]:
    """(height, width) of the upright image, from its header alone.

    Raises:
        failure: the file cannot be read, or is not an image.
    """
    (height, width), orientation = stored_size(path, failure)
    return (width, height) if orientation in SWAPS_SIDES else (height, width)


def content_size(content: bytes) -> tuple[int, int]:
    """(height, width) of the pixels as stored, from the header in the content of a file.

    Raises:
        OSError, ValueError: it is not an image, or beyond `IMAGE_PIXELS`.
    """
    with _opened(BytesIO(content)) as image:
        return image.height, image.width


def stored_size(path: Path, failure: type[RtsegError]) -> tuple[tuple[int, int], int]:
    """(height, width) of the pixels as stored, and the EXIF orientation (1 is upright).

    Raises:
        failure: the file cannot be read, or is not an image.
    """
    from PIL.TiffImagePlugin import TiffImageFile

    with _failing_as(failure, f"cannot read the image {path}"), _opened(path) as image:
        orientation = _orientation(image)
        if isinstance(image, TiffImageFile):  # Pillow may give the upright size
            return (image.tag_v2[LENGTH], image.tag_v2[WIDTH]), orientation
        return (image.height, image.width), orientation


def holds_several(path: Path) -> bool:
    """Whether a readable file holds several images: frames of an animation, pages of a TIFF.

    The further images that cameras put into a JPEG (previews, depth) do not count, those of a
    stream of JPEGs do. They are not counted: Pillow's time for it grows with the square of pages.
    """
    try:
        with _opened(path) as image:
            if image.format not in ("JPEG", "MPO"):
                return bool(getattr(image, "is_animated", False))
        with path.open("rb") as file:
            return _is_motion_jpeg(file.read(SEARCHED_BYTES))
    except (OSError, ValueError):  # or it was removed meanwhile
        return False


def read_stored(path: Path, failure: type[RtsegError]) -> StoredImage:
    """The values of a mask: palette indices and grey levels of any depth, not turned.

    A GIF whose palette is grey has grey levels.

    Raises:
        failure: the file cannot be read, is damaged or cut off, or is not an image.
    """
    with _failing_as(failure, f"cannot read the mask {path}"), _opened(path) as image:
        lossy = image.format in ("JPEG", "MPO")
        transparent = "A" in image.mode and image.getchannel("A").getextrema() != (255, 255)
        image.load()
        if image.format == "GIF" and image.mode == "P":
            image = _grey_levels(image)
        if image.mode in ("P", "L", "1"):
            values = np.asarray(image).astype(np.uint8) // _grey_scale(path)
        elif image.mode.startswith(("I", "F")):
            values = np.array(image)
        else:
            values = np.array(image.convert("RGB"))
        palette = np.array(image.getpalette() or (), np.uint8).reshape(-1, 3)
        return StoredImage(values, lossy, transparent, palette if image.mode == "P" else None)


def read_shape(content: bytes) -> NDArray[np.bool_]:
    """(H, W) bool of the content of an image: opaque pixels, else those above 0.

    Raises:
        OSError, ValueError: it is not an image.
    """
    with _opened(BytesIO(content)) as image:
        opaque = image.mode in ("RGBA", "LA") or "transparency" in image.info
        plane = image.convert("RGBA").getchannel("A") if opaque else image.convert("L")
        return np.asarray(plane) > 0


def _grey_levels(image: PillowImage) -> PillowImage:
    """A GIF of grey levels, which it cannot store but in a palette; others as they are."""
    used: list[Any] = [colour for _, colour in image.convert("RGB").getcolors() or ()]
    return image.convert("L") if all(len({*colour}) == 1 for colour in used) else image


def turned_upright(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Pixels as stored with an EXIF orientation, or a mask drawn on these, turned upright."""
    from PIL import Image as Pillow

    return np.array(_upright(Pillow.fromarray(stored), orientation))


@contextmanager
def _failing_as(failure: type[RtsegError], asked: str) -> Iterator[None]:
    """Turn an OSError or ValueError into `failure`."""
    try:
        yield
    except OSError as error:
        raise failure(asked, found=reason(error).lower()) from error
    except ValueError as error:
        raise failure(asked, found=str(error)) from error


@contextmanager
def _opened(file: Path | BytesIO) -> Iterator[PillowImage]:
    """A file as Pillow opens it.

    Raises:
        OSError: it cannot be opened.
        ValueError: Pillow cannot make sense of it, here or in what is done with it.
    """
    from PIL import Image as Pillow

    formats = _formats()
    if animated := ANIMATED_WEBP.match(_first_bytes(file)):
        width, height = (1 + int.from_bytes(side, "little") for side in animated.groups())
        _check_pixels(width * height)
    try:
        with warnings.catch_warnings():
            # damaged EXIF does not matter, damaged pixels raise; 100 megapixels are not an attack
            warnings.filterwarnings("ignore", module=r"PIL\.")
            with Pillow.open(file, formats=formats) as image:
                _check_pixels(image.width * image.height)
                if _is_raw(image):
                    raise ValueError(f"it is {next(iter(FOREIGN))}")
                yield image
    except Pillow.UnidentifiedImageError as error:
        raise ValueError(_unidentified(file)) from error
    except Pillow.DecompressionBombError as error:
        # Pillow has a lower limit of its own, and tells the number of pixels in its text alone
        found = re.search(r"\((\d+) pixels", str(error))
        pixels = int(found[1]) if found else 0
        _check_pixels(pixels)
        raise ValueError(
            f"its {pixels / 1e6:.1f} megapixels are more than Pillow reads, which has its own limit"
        ) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"it is damaged: {error}".lower()) from error
    except DAMAGE as error:
        raise ValueError(f"it is damaged: {error}".lower()) from error


def _is_raw(image: PillowImage) -> bool:
    """Whether it is the preview in a raw photo, whose full image follows."""
    tags = getattr(image, "tag_v2", {})
    return DNG_VERSION in tags or (tags.get(SUBFILE, 0) == 1 and SUBFILES in tags)


class _TooLargeError(ValueError):
    """An image is beyond `IMAGE_PIXELS`; no other decoder is to try it."""


def _check_pixels(pixels: int) -> None:
    if why := too_large(pixels, IMAGE_PIXELS):
        raise _TooLargeError(f"{why}. {IMAGE_PIXELS.advice}")


@cache
def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow has."""
    from PIL import Image as Pillow

    Pillow.init()
    if find_spec("pillow_heif"):
        import_module("pillow_heif").register_heif_opener()
    return [name for name in FORMATS if name in Pillow.OPEN]


def _first_bytes(file: Path | BytesIO) -> bytes:
    return file.getvalue()[:HEAD_BYTES] if isinstance(file, BytesIO) else _head(file)


def _unidentified(file: Path | BytesIO) -> str:
    head = _first_bytes(file)
    if not head:
        return "the file is empty"
    if HEIF.match(head) and "HEIF" not in _formats():
        return f"it is {NEEDS_HEIF}"
    return "it is damaged, or not an image"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _decoded_by_opencv(content: bytes, orientation: int | None = None) -> Image:
    """Without transparency.

    Args:
        orientation: as Pillow reads it, from XMP where there is no EXIF; None leaves it to OpenCV.

    Raises:
        ValueError: OpenCV cannot read it.
    """
    import cv2

    hush_opencv()
    as_stored = orientation is not None
    flags = cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if as_stored else 0)
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(str(error.err or error).strip().splitlines()[0]) from error
    if image is None:
        raise ValueError("it is damaged, or not an image")
    return image if orientation in (None, 1) else turned_upright(image, orientation)


def _refuse_deep(content: bytes) -> None:
    """Raise ValueError for an image of 32-bit or larger values, which only OpenCV opens."""
    import cv2

    with suppress(cv2.error):
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is not None and image.itemsize > 2:
            raise ValueError(DEEP.format(8 * image.itemsize))


def _decoded_by_pillow(content: bytes) -> Image:
    import cv2
    from PIL import Image as Pillow

    try:
        with _opened(BytesIO(content)) as image:
            image.load()
            rgb = np.asarray(_rgb(_upright(image, _orientation(image))))
    except ValueError as error:
        # not a format of Pillow's, or larger than Pillow reads
        if is_image_content(content) and isinstance(
            error.__cause__, Pillow.UnidentifiedImageError | Pillow.DecompressionBombError
        ):
            try:
                return _decoded_by_opencv(content)
            except ValueError:
                _refuse_deep(content)
        raise
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)


def _orientation(image: PillowImage) -> int:
    """By EXIF: 1 to 8; 1 where it does not say, or is damaged."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except (OSError, ValueError, *DAMAGE):
        return 1


def _upright(image: PillowImage, orientation: int) -> PillowImage:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _rgb(image: PillowImage) -> PillowImage:
    """8-bit RGB, over white.

    Raises:
        ValueError: its values have no range that is known, as those of 32-bit pixels.
    """
    from PIL import Image as Pillow

    key = image.info.get("transparency")  # the colour that is transparent in a PNG
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        image = _grey(image, key)
    elif image.mode in ("I", "F"):
        raise ValueError(DEEP.format(32))
    elif image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:  # of 16 bits
        image.info["transparency"] = tuple(value >> 8 for value in key)
    to_srgb = _conversion(image)
    if image.has_transparency_data:
        paper = Pillow.new("RGBA", image.size, PAPER)
        rgb = Pillow.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    else:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
    return rgb if to_srgb is None else to_srgb.apply(rgb)


def _grey(image: PillowImage, key: Any) -> PillowImage:
    """8-bit grey of an image of 9 to 16 bits, with alpha if levels of `key` are transparent."""
    from PIL import Image as Pillow

    tags = getattr(image, "tag_v2", {})  # of TIFF, whose values Pillow leaves as they are
    bits = max(8, *tags.get(BITS_PER_SAMPLE, (16,)))
    levels = np.asarray(image)
    grey = (levels >> (bits - 8)).astype(np.uint8)
    result = Pillow.fromarray(255 - grey if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else grey)
    if isinstance(key, int):
        result.putalpha(Pillow.fromarray(np.where(levels == key, 0, 255).astype(np.uint8)))
    return result


def _conversion(image: PillowImage) -> ImageCmsTransform | None:
    """From the colours of an image to sRGB, both RGB; None if nothing is to be done."""
    profile = image.info.get("icc_profile")
    return _from_profile(profile) if isinstance(profile, bytes) else None


@lru_cache(maxsize=8)
def _from_profile(profile: bytes) -> ImageCmsTransform | None:
    """As `_conversion`; None for profiles of grey or CMYK, of sRGB itself, and damaged ones."""
    from PIL import Image as Pillow
    from PIL import ImageCms

    try:
        own = ImageCms.ImageCmsProfile(BytesIO(profile))
        if own.profile.xcolor_space.strip() != "RGB":
            return None
        to_srgb = ImageCms.buildTransform(own, ImageCms.createProfile("sRGB"), "RGB", "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    difference = np.asarray(to_srgb.apply(Pillow.fromarray(colours))) - colours.astype(int)
    return to_srgb if np.abs(difference).max() > ROUNDING else None


def _converted(image: Image, to_srgb: ImageCmsTransform) -> Image:
    import cv2
    from PIL import Image as Pillow

    rgb = to_srgb.apply(Pillow.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)))
    return cv2.cvtColor(np.asarray(rgb), cv2.COLOR_RGB2BGR)


def _grey_scale(path: Path) -> int:
    """By how much Pillow multiplies the values of a grey PNG of 2 or 4 bits, to fill 8."""
    head = _head(path)
    if head.startswith(PNG) and head[25] == 0:  # grey, not palette
        return {2: 85, 4: 17}.get(head[24], 1)
    return 1


def _has_wrong_checksum(content: bytes) -> bool:
    """Whether a PNG is damaged in a chunk that it cannot be shown without."""
    at = 8
    while content.startswith(PNG) and at + 12 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        needed = content[at + 4 : at + 5].isupper() and end + 4 <= len(content)
        stored = int.from_bytes(content[end : end + 4], "big")
        if needed and zlib.crc32(content[at + 4 : end]) != stored:
            return True
        at = end + 4
    return False


def _is_cut_off(content: bytes) -> bool:
    """Whether a PNG or JPEG lacks its end; OpenCV fills what a JPEG lacks with grey."""
    if content.startswith(PNG):
        return b"IEND" not in content
    if not content.startswith(JPEG):
        return False
    at = 2  # over the header's segments, one of which may be a whole image, the thumbnail
    while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] != b"\xda":
        if content[at + 1 : at + 2] == b"\xff":  # a marker may be preceded by any number of these
            at += 1
            continue
        at += 2 + max(2, int.from_bytes(content[at + 2 : at + 4], "big"))
    return b"\xff\xd9" not in content[at:]
