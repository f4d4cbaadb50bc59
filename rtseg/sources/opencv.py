"""Video files decoded by OpenCV, for comparison: it does not read all that FFmpeg does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cv2

from rtseg.errors import SourceError
from rtseg.frame import Image
from rtseg.media import JoinedFile, display_matrix, has_alpha, is_skewed, mirrors, swaps_sides
from rtseg.player import SAME_TIME_SECONDS, Place, Shot
from rtseg.sources.capture import network_params, open_capture
from rtseg.sources.ffmpeg import FilePlayer
from rtseg.sources.options import SourceOptions
from rtseg.sources.probe import display_name
from rtseg.yuv import DECODED

DECODE_TRIES = 8
"""Reads that must fail before a file counts as ended: after damage, more frames may come."""


class Beside(FilePlayer):
    """The same file as FFmpeg decodes it, which tells what OpenCV does not."""

    def until(self, seconds: float) -> Iterator[Any]:
        """The next `av.VideoFrame`, and those after it up to `seconds` from the first one."""
        while (frame := self._next()) is not None:
            yield frame
            if frame.pts is None or frame.time - self._zero > seconds - SAME_TIME_SECONDS:
                return

    @property
    def joined(self) -> bool:
        """Whether it is several files, joined byte for byte."""
        return isinstance(self._container, JoinedFile)

    @property
    def zero(self) -> float:
        """Time of the first frame, in seconds."""
        return self._zero


class OpenCVPlayer:
    """A `rtseg.sources.probe.Player` of the video track that OpenCV takes.

    OpenCV reports success, and gives an old image or stray memory, for frames that it cannot
    convert. So FFmpeg decodes the same frames beside it, and what OpenCV cannot show is refused.

    Raises:
        SourceError: it is not a video, or OpenCV cannot decode or convert it.
    """

    notes: tuple[str, ...] = ()
    damaged = concealed = 0
    trouble = ""

    def __init__(self, target: str, options: SourceOptions) -> None:
        self._name = display_name(target)
        self._beside = Beside(target, replace(options, deinterlace="off"))
        if self._beside.cropping or self._beside.joined:
            self._beside.release()
            how = "does not crop it" if self._beside.cropping else "plays the first of joined files"
            raise self._refused(f"OpenCV {how}")
        self.header = self._beside.header
        params = network_params(options.timeout) if "://" in target else {}
        params.pop(cv2.CAP_PROP_N_THREADS, None)
        capture = open_capture(target, cv2.CAP_FFMPEG, params)
        if capture is None:
            self._beside.release()
            raise self._refused("OpenCV has no decoder for it")
        self._capture = capture
        self._first: float | None = None
        self.turned = capture.get(cv2.CAP_PROP_ORIENTATION_META) in (90, 270)

    def read(self, *, planar: bool = False) -> Shot | None:
        """As `Player`; OpenCV reports damage like the end.

        Raises:
            SourceError: it is a frame that OpenCV cannot show.
        """
        for _ in range(DECODE_TRIES):
            good, image = self._capture.read()
            if good:
                at = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000.0
                self._first = at if self._first is None else self._first
                for frame in self._beside.until(at - self._first):
                    if reason := unshown(frame, image):
                        raise self._refused(reason)
                if self._beside.damaged:
                    raise self._refused("it is damaged, and OpenCV does not tell where")
                return Shot(image, at - self._first + self._beside.zero)
        return None

    def seek(self, seconds: float) -> Place | None:
        """As `Player`."""
        self._capture.set(cv2.CAP_PROP_POS_MSEC, seconds * 1000)
        return self._beside.seek(seconds)

    def release(self) -> None:
        """As `Player`."""
        self._capture.release()
        self._beside.release()

    def _refused(self, found: str) -> SourceError:
        return SourceError(f"cannot play {self._name}", found=found, do="Use --decoder ffmpeg")


def unshown(frame: Any, image: Image) -> str:
    """Why OpenCV does not show an `av.VideoFrame` as it is; "" if it does.

    Args:
        image: what it made of it, or of one after it.
    """
    matrix = display_matrix(frame)
    size = (frame.width, frame.height) if swaps_sides(matrix) else (frame.height, frame.width)
    if frame.interlaced_frame:
        return "OpenCV cannot convert interlaced frames"
    if frame.colorspace not in DECODED:
        return "OpenCV cannot convert its colour matrix"
    if has_alpha(frame):
        return "OpenCV does not read its transparency"
    if matrix is not None and (is_skewed(matrix) or mirrors(matrix)):
        return "OpenCV does not mirror it"
    if size != image.shape[:2]:
        return "OpenCV plays another track, or changes the size of its frames"
    return ""
