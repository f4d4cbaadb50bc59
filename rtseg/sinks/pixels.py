"""Pixels as encoders take them, and what their numbers mean in colour."""

from __future__ import annotations

from typing import Any

import cv2  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np
from numpy.typing import NDArray

from rtseg.contracts import SourceInfo
from rtseg.sinks.fit import even

BT601 = (6, 6, 6)
"""SMPTE 170M: matrix, primaries, transfer, as FFmpeg numbers them."""

UNSAID = (0, 2, 3)
"""RGB, unspecified, reserved: no matrix that a YUV picture can carry."""

LIMITED, FULL = 1, 2
"""Ranges, as FFmpeg numbers them."""


def colours(info: SourceInfo) -> tuple[int, int, int]:
    """(matrix, primaries, transfer): the source's own, or what pictures are really written in.

    OpenCV decodes every source with the BT.601 matrix and pictures are encoded with it, so the
    numbers in the file are the source's own, and so is what they mean.
    """
    tags = info.colour_tags
    if tags is None or tags[0] in UNSAID:
        return BT601
    return tags[0], tags[1], tags[2]


def encodable(image: NDArray[np.uint8], pix_fmt: str) -> Any:
    """(H, W, 3) uint8 BGR, (H, W, 4) BGRA, or (H, W) indices, as an `av.VideoFrame` for `pix_fmt`.

    Formats with halved chroma get an odd last row or column doubled.
    """
    if image.ndim == 2:
        if pix_fmt == "gray":
            return av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "gray")
        return av.VideoFrame.from_ndarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), "bgr24")
    if pix_fmt.startswith("yuv") and "444" not in pix_fmt:
        image = even(image)
    if image.shape[2] == 4:
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "bgra")
    if pix_fmt == "yuv420p":
        # ten times as fast as swscale, and exact where a source's own 4:2:0 comes back
        return av.VideoFrame.from_ndarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), pix_fmt)
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "bgr24")
