"""Pixels as encoders take them, and what their numbers mean in colour."""

from __future__ import annotations

from typing import Any

import cv2  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np
from numpy.typing import NDArray

from rtseg.contracts import SourceInfo
from rtseg.sinks.fit import even
from rtseg.yuv import BT601, LIMITED, Tags, i420, luma, written


def colours(info: SourceInfo, pix_fmt: str) -> Tags:
    """What is written of a source's colours; JPEG knows BT.601 alone."""
    return written(None if pix_fmt.startswith("yuvj") else info.colour_tags)


def encodable(image: NDArray[np.uint8], pix_fmt: str, matrix: int = BT601) -> Any:
    """(H, W, 3) uint8 BGR, (H, W, 4) BGRA, or (H, W) indices, as an `av.VideoFrame` for `pix_fmt`.

    Formats with halved chroma get an odd last row or column doubled. `matrix` is FFmpeg's number
    of the one that YUV is made by, as the source was read by it.
    """
    if image.ndim == 2:
        if pix_fmt == "gray":
            return av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "gray")
        return av.VideoFrame.from_ndarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), "bgr24")
    if pix_fmt.startswith("yuv") and "444" not in pix_fmt:
        image = even(image)
    if pix_fmt == "yuv420p" and image.shape[2] == 3:
        if luma(matrix) != luma(BT601):
            return av.VideoFrame.from_ndarray(i420(image, matrix), pix_fmt)
        # twice as fast, and exact where a source's own 4:2:0 comes back
        return av.VideoFrame.from_ndarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), pix_fmt)
    order = "bgra" if image.shape[2] == 4 else "bgr24"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), order)
    if not pix_fmt.startswith("yuv") or luma(matrix) == luma(BT601):
        return frame  # the encoder converts it, by that of BT.601
    return frame.reformat(format=pix_fmt, dst_colorspace=matrix, dst_color_range=LIMITED)
