"""Pictures brought to the size that a file asks for."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.frame import VOID


def letterbox(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W[, n]) uint8 fitted into (height, width), whole and undistorted, with bars around.

    Index masks keep their indices; their bars are VOID. Those of BGRA are transparent.
    """
    height, width = picture.shape[:2]
    if (height, width) == size:
        return picture
    scale = min(size[0] / height, size[1] / width)
    inner_h = max(1, min(size[0], round(height * scale)))
    inner_w = max(1, min(size[1], round(width * scale)))
    mask = picture.ndim == 2
    how = cv2.INTER_NEAREST if mask else cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    top, left = (size[0] - inner_h) // 2, (size[1] - inner_w) // 2
    shape = (*size, *picture.shape[2:])
    fitted = np.full(shape, VOID if mask else 0, np.uint8)
    inner = cv2.resize(picture, (inner_w, inner_h), interpolation=how)
    fitted[top : top + inner_h, left : left + inner_w] = inner
    return fitted


def even(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, n) uint8 with an odd last row or column doubled: 4:2:0 loses none that way."""
    bottom, right = picture.shape[0] % 2, picture.shape[1] % 2
    if not (bottom or right):
        return picture
    return cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
