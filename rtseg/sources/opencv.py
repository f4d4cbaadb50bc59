"""Video files decoded by OpenCV, for comparison: it does not read all that FFmpeg does."""

from __future__ import annotations

from itertools import islice

import cv2

from rtseg.errors import SourceError
from rtseg.files import reason
from rtseg.media import TRACK_ERRORS, choose_video, open_media
from rtseg.player import Header, Shot, header_of, not_a_video
from rtseg.sources.capture import network_params, open_capture
from rtseg.sources.options import SourceOptions
from rtseg.sources.probe import display_name
from rtseg.yuv import DECODED

DECODE_TRIES = 8
"""Reads that must fail before a file counts as ended: after damage, more frames may come."""

CHECKED_FRAMES = 4
"""First frames that are held against what OpenCV cannot convert."""


class OpenCVPlayer:
    """A `rtseg.sources.probe.Player` of the video track that OpenCV takes.

    OpenCV reports success, and gives stray memory, for frames that it cannot convert: interlaced
    ones, and those of rare colour matrices. Files that begin with such frames are refused.

    Raises:
        SourceError: it is not a video, or OpenCV cannot decode or convert it.
    """

    notes: tuple[str, ...] = ()
    damaged = concealed = 0
    trouble = ""

    def __init__(self, target: str, options: SourceOptions) -> None:
        self.header = _checked(target, options)
        params = network_params(options.timeout) if "://" in target else {}
        params.pop(cv2.CAP_PROP_N_THREADS, None)
        capture = open_capture(target, cv2.CAP_FFMPEG, params)
        if capture is None:
            raise _refused(target, "OpenCV has no decoder for it")
        self._capture = capture
        self.turned = capture.get(cv2.CAP_PROP_ORIENTATION_META) in (90, 270)

    def read(self) -> Shot | None:
        """As `Player`; OpenCV reports damage like the end."""
        for _ in range(DECODE_TRIES):
            good, image = self._capture.read()
            if good:
                return Shot(image, float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000.0)
        return None

    def seek(self, seconds: float) -> None:
        """As `Player`."""
        self._capture.set(cv2.CAP_PROP_POS_MSEC, seconds * 1000)

    def release(self) -> None:
        """As `Player`."""
        self._capture.release()


def _checked(target: str, options: SourceOptions) -> Header:
    """The header of a video that OpenCV can show.

    Raises:
        SourceError: it is not a video, or OpenCV cannot convert it.
    """
    try:
        with open_media(target, options.timeout) as container:
            stream = choose_video(container, display_name(target), options.stream)
            header = header_of(stream)
            for frame in islice(container.decode(stream), CHECKED_FRAMES):
                if frame.interlaced_frame:
                    raise _refused(target, "OpenCV cannot convert interlaced frames")
                if frame.colorspace not in DECODED:
                    raise _refused(target, "OpenCV cannot convert its colour matrix")
    except TRACK_ERRORS as error:
        raise not_a_video(display_name(target), reason(error)) from error
    return header


def _refused(target: str, found: str) -> SourceError:
    return SourceError(
        f"cannot play {display_name(target)}", found=found, do="Use --decoder ffmpeg"
    )
