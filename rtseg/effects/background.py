"""What is kept, over another background."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.contracts import Effect
from rtseg.effects.backdrops import open_backdrop
from rtseg.effects.options import ViewOptions, parse_background
from rtseg.frame import Frame, Image
from rtseg.matte import MatteOptions, Matting
from rtseg.segmentation import Segmentation


class Background:
    """Replaces all that is not a class that was asked for, with soft edges.

    Args:
        view: draws over the picture with its background replaced; None leaves it as it is.

    Raises:
        UsageError: the background's file cannot be read.
    """

    def __init__(self, options: ViewOptions, view: Effect | None = None) -> None:
        self._matting = Matting(MatteOptions(options.matte_threshold, options.feather))
        wanted = parse_background(options.background)
        self._backdrop = None if wanted.kind == "transparent" else open_backdrop(wanted)
        self._view = view

    def __call__(self, frame: Frame, segmentation: Segmentation) -> Image:
        """(H, W, 3) uint8 BGR; (H, W, 4) uint8 BGRA, not premultiplied, where it is transparent."""
        matte = self._matting(frame.image, segmentation)
        if self._backdrop is not None:
            picture = matte.over(self._backdrop(frame, matte))
            return self._viewed(frame, segmentation, picture)
        alpha, picture = matte.cut()
        return with_alpha(self._viewed(frame, segmentation, picture), alpha)

    def _viewed(self, frame: Frame, segmentation: Segmentation, picture: Image) -> Image:
        if self._view is None:
            return picture
        width = picture.shape[1]
        drawn = self._view(replace(frame, picture=picture), segmentation)
        drawn[:, :-width] = frame.image[:, : drawn.shape[1] - width]  # side by side: as it was
        return drawn


def with_alpha(picture: Image, alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W', 4) uint8 BGRA: a picture (H, W', 3) whose right gets alpha (H, W), all else 255."""
    result = cv2.cvtColor(picture, cv2.COLOR_BGR2BGRA)
    result[:, picture.shape[1] - alpha.shape[1] :, 3] = alpha
    return result
