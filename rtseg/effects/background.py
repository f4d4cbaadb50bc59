"""Background replacement: a blur, a colour, an image, a video or transparency behind the matte."""

from __future__ import annotations

import cv2  # isort: skip - ahead of av, see rtseg/sinks/window.py
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtseg.contracts import Effect
from rtseg.errors import SourceError, UsageError
from rtseg.frame import Frame, Image, Segmentation
from rtseg.images import is_animation, is_image, read_animation, read_image
from rtseg.matte import Matte, MatteOptions, Matting
from rtseg.matte.fit import weigh_background
from rtseg.player import FFmpegPlayer, Timeline, without_frames

DEFAULT_BLUR = 3.0
MAX_BLUR = 20.0

FORMS = f"none, blur, blur:1 to blur:{MAX_BLUR:g}, transparent, a colour, an image or a video"

BLUR_PIXELS = 2.0
"""Standard deviation at which a shrunk image is blurred; with less, its pixels would show."""

ROUNDING_SECONDS = 0.0005
"""Times that differ by less are equal: containers round them."""

MAX_STEP_SECONDS = 10.0
"""After a larger gap between two frames the video pauses: the source was lost, or has changed."""


class BackgroundSpec(NamedTuple):
    """A background as parsed from its text.

    Attributes:
        strength: of a blur: standard deviation in percent of the frame's shorter side.
        colour: BGR.
        path: of an image or video that exists.
    """

    kind: Literal["none", "transparent", "blur", "colour", "file"]
    strength: float = 0.0
    colour: tuple[int, int, int] = (0, 0, 0)
    path: Path = Path()


def parse_background(text: str) -> BackgroundSpec:
    """Parse what `--background` takes; a file is not opened, but must exist.

    Raises:
        UsageError: it is none of the forms.
    """
    word, _, rest = text.strip().lower().partition(":")
    if word in ("none", "transparent") and not rest:
        return BackgroundSpec("none" if word == "none" else "transparent")
    if word == "blur":
        return BackgroundSpec("blur", strength=_parse_strength(text, rest))
    if (colour := _parse_colour(text.strip())) is not None:
        return BackgroundSpec("colour", colour=colour)
    if Path(text).is_file():
        return BackgroundSpec("file", path=Path(text))
    found = "it is a folder" if text and Path(text).is_dir() else "no colour or file has this name"
    raise UsageError(f"background {text!r}", found=found, do=f"Use {FORMS}")


def _parse_strength(text: str, number: str) -> float:
    try:
        strength = float(number) if ":" in text else DEFAULT_BLUR
    except ValueError:
        strength = 0.0
    if not 1 <= strength <= MAX_BLUR:
        raise UsageError(
            f"background {text!r}", found=f"a blur has a strength of 1 to {MAX_BLUR:g}"
        )
    return strength


def _parse_colour(text: str) -> tuple[int, int, int] | None:
    """BGR of a CSS colour name, #rgb or #rrggbb; None for anything else."""
    from PIL import ImageColor

    if text.lower() not in ImageColor.colormap and not re.fullmatch(
        r"#([0-9a-f]{3}|[0-9a-f]{6})", text.lower()
    ):
        return None
    red, green, blue = ImageColor.getrgb(text)[:3]
    return blue, green, red


def check_background(spec: BackgroundSpec) -> None:
    """Open the background's file, if it has one.

    Raises:
        UsageError: it cannot be read as an image or a video.
    """
    if spec.kind == "file":
        _open_file(spec.path)


class Background:
    """Replaces everything but the selected classes, with soft edges.

    Args:
        background: as `parse_background` takes it; black for "none".
        view: draws over the image with its background replaced; None draws nothing.

    Raises:
        UsageError: the background's file cannot be read.
    """

    def __init__(self, background: str, options: MatteOptions, view: Effect | None = None) -> None:
        self._matting = Matting(options)
        spec = parse_background(background)
        self._backdrop = None if spec.kind == "transparent" else open_backdrop(spec)
        self._view = view

    def __call__(self, frame: Frame, segmentation: Segmentation) -> Image:
        """(H, W, 3) uint8 BGR; (H, W, 4) uint8 BGRA, not premultiplied, if transparent."""
        matte = self._matting(frame.image, segmentation)
        if self._backdrop is not None:
            image = matte.over(self._backdrop(frame, matte))
            return self._draw_view(frame, segmentation, image)
        alpha, image = matte.cutout()
        return with_alpha(self._draw_view(frame, segmentation, image), alpha)

    def _draw_view(self, frame: Frame, segmentation: Segmentation, image: Image) -> Image:
        if self._view is None:
            return image
        width = image.shape[1]
        drawn = self._view(replace(frame, picture=image), segmentation)
        drawn[:, :-width] = frame.image[:, : drawn.shape[1] - width]  # "side": left is the original
        return drawn


def with_alpha(image: Image, alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W', 4) uint8 BGRA: `image` (H, W', 3), its right W columns with alpha (H, W), 255 left
    of them.
    """
    result = cv2.cvtColor(image, cv2.COLOR_BGR2BGRA)
    result[:, image.shape[1] - alpha.shape[1] :, 3] = alpha
    return result


Backdrop = Callable[[Frame, Matte], Image]
"""(frame, its matte) -> (H, W, 3) uint8 BGR of the frame's size; not to be changed, and valid until
the next call."""


def open_backdrop(spec: BackgroundSpec) -> Backdrop:
    """The backdrop of a background; black for "none".

    Raises:
        UsageError: the file cannot be read as an image or a video.
    """
    if spec.kind == "blur":
        return BlurBackdrop(spec.strength)
    if spec.kind == "file":
        return _open_file(spec.path)
    return ImageBackdrop(np.full((1, 1, 3), spec.colour, np.uint8))


def _open_file(path: Path) -> Backdrop:
    if is_animation(path):
        return AnimationBackdrop(path)
    if is_image(path):
        return ImageBackdrop(read_image(path, UsageError))
    return VideoBackdrop(path)


class ImageBackdrop:
    """One image, scaled to cover the frame and cropped to its centre."""

    def __init__(self, image: Image) -> None:
        self._image = self._fitted = image

    def __call__(self, frame: Frame, matte: Matte) -> Image:
        """The image, fitted once per frame size."""
        if self._fitted.shape[:2] != frame.size:
            self._fitted = cover(self._image, frame.size)
        return self._fitted


class BlurBackdrop:
    """A Gaussian blur of the background alone: what is kept does not bleed into it.

    It is the blur of the image times each pixel's weight, over the blur of the weights (normalised
    convolution, Knutsson & Westin 1993).

    Args:
        strength: standard deviation in percent of the frame's shorter side.
    """

    def __init__(self, strength: float) -> None:
        self._strength = strength
        self._image = np.empty((0, 0, 3), np.uint8)
        self._planes = np.empty((0, 0, 4), np.float32)

    def __call__(self, frame: Frame, matte: Matte) -> Image:
        """(H, W, 3) uint8 BGR of the frame's size; valid until the next call."""
        if self._image.shape[:2] != frame.size:
            self._image = np.empty((*frame.size, 3), np.uint8)
            self._planes = np.empty((*matte.small_alpha.shape, 4), np.float32)
        weigh_background(matte.small, matte.small_alpha, self._planes)
        blurred = _blurred(self._planes, self._strength / 100 * min(matte.small_alpha.shape))
        return cv2.resize(blurred, frame.size[::-1], dst=self._image)


def _blurred(planes: NDArray[np.float32], deviation: float) -> Image:
    """Blur (h, w, 4) float32, weighted BGR and weight, and divide the colours by the weight.

    Returns:
        uint8 BGR, smaller than the input if the blur is wide.
    """
    if (halvings := int(math.log2(max(1.0, deviation / BLUR_PIXELS)))) > 0:
        factor = 2**halvings
        size = max(1, planes.shape[1] // factor), max(1, planes.shape[0] // factor)
        planes = cv2.resize(planes, size, interpolation=cv2.INTER_AREA)
        deviation /= factor
    planes = cv2.GaussianBlur(planes, (0, 0), max(deviation, 0.1))
    return np.rint(planes[..., :3] / planes[..., 3:]).astype(np.uint8)


class TimedPicture(NamedTuple):
    """A decoded `av.VideoFrame`, its seconds from the first one, and those it is shown for."""

    seconds: float
    frame: Any
    lasts: float


class VideoBackdrop:
    """A video that covers the frame and loops, played by the frames' pts.

    Raises:
        UsageError: the file cannot be read as a video.
        SourceError: later, when decoding fails.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last_pts = self._last_lasts = self._seconds = 0.0
        self._length: float | None = None  # in seconds, known once the end was reached
        self._drawn: tuple[Any, Image] | None = None
        self._player: FFmpegPlayer | None = None
        try:
            self._rewind()
        except SourceError as error:
            raise UsageError(
                f"background {path}",
                found=f"it cannot be read as an image or a video: {error.found}",
                do="Use another file",
            ) from error

    def __call__(self, frame: Frame, matte: Matte) -> Image:
        """The picture that is due: the video advances as much as the pts of the frames do."""
        step = frame.pts - self._last_pts
        most = max(MAX_STEP_SECONDS, self._last_lasts + ROUNDING_SECONDS)
        self._seconds += step if 0 < step <= most else 0.0
        self._last_pts, self._last_lasts = frame.pts, frame.lasts
        return self._fitted(self._due(self._seconds).frame, frame.size)

    def _rewind(self) -> None:
        if self._player is not None:
            self._player.release()
        self._player = FFmpegPlayer(str(self._path), self._path.name)
        self._pictures = timed_pictures(self._player)
        first = next(self._pictures, None)
        if first is None:
            raise without_frames(self._path.name, self._player.trouble)
        self._current, self._next = first, next(self._pictures, None)

    def _due(self, seconds: float) -> TimedPicture:
        """The last picture at or before `seconds`, taken modulo the length of the video."""
        at = seconds if self._length is None else (seconds + ROUNDING_SECONDS) % self._length
        if at < self._current.seconds:
            self._rewind()
        while self._next is not None and self._next.seconds <= at + ROUNDING_SECONDS:
            self._current, self._next = self._next, next(self._pictures, None)
        if self._next is None and self._length is None:
            self._length = self._current.seconds + self._current.lasts
            return self._due(seconds)
        return self._current

    def _fitted(self, frame: Any, size: tuple[int, int]) -> Image:
        drawn = self._drawn
        if drawn is None or drawn[0] is not frame or drawn[1].shape[:2] != size:
            assert self._player is not None
            aspect = float(self._player.header.sample_aspect_ratio)
            aspect = 1 / aspect if self._player.turned else aspect
            image = self._player.picture(frame)
            assert isinstance(image, np.ndarray)
            self._drawn = drawn = frame, cover(image, size, aspect)
        return drawn[1]


class AnimationBackdrop(VideoBackdrop):
    """An animated WebP, PNG or AVIF that covers the frame and loops.

    Raises:
        UsageError: the file cannot be read.
    """

    def _rewind(self) -> None:
        self._pictures = timed_images(self._path)
        self._current = next(self._pictures)
        self._next = next(self._pictures, None)

    def _fitted(self, frame: Any, size: tuple[int, int]) -> Image:
        return cover(frame, size)


def timed_images(path: Path) -> Iterator[TimedPicture]:
    """The images of an animation, as `TimedPicture.frame`, the first at 0 seconds."""
    seconds = 0.0
    for image, lasts in read_animation(path, SourceError):
        yield TimedPicture(seconds, image, lasts)
        seconds += lasts


def timed_pictures(player: FFmpegPlayer) -> Iterator[TimedPicture]:
    """The frames of a video, the first at 0 seconds."""
    timeline: Timeline | None = None
    while (shot := player.take()) is not None:
        timeline = timeline or Timeline(shot, player.header.frame_rate)
        lasts = timeline.advance(shot) or timeline.step
        yield TimedPicture(timeline.pts, shot.picture, lasts)


def cover(image: Image, size: tuple[int, int], aspect: float = 1.0) -> Image:
    """(H, W, 3) uint8 scaled, undistorted, to cover `size` (height, width), centre crop.

    Args:
        aspect: width of its pixels over their height.
    """
    height, width = _cover_size((image.shape[0], image.shape[1] * aspect), size)
    how = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    return _crop_centre(cv2.resize(image, (width, height), interpolation=how), size)


def _cover_size(image: tuple[float, float], size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which an image of (height, width) just covers `size`."""
    scale = max(size[0] / image[0], size[1] / image[1])
    return max(size[0], round(image[0] * scale)), max(size[1], round(image[1] * scale))


def _crop_centre(image: Image, size: tuple[int, int]) -> Image:
    """The centre of an image that covers `size` (height, width)."""
    top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
    return np.ascontiguousarray(image[top : top + size[0], left : left + size[1]])
