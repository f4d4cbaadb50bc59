"""How a segmentation shows itself in a notebook, and as one line."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from html import escape
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rtseg.labels import VOID, LabelSet

LONGEST = 1024
"""Pixels of the longer side of an image in a notebook, which keeps it."""

ALPHA = 0.55


class Segmented(Protocol):
    """What is shown: a mask, its classes, and the image that it belongs to, if that is known."""

    labels: LabelSet
    picture: Any
    size: tuple[int, int]

    @property
    def mask(self) -> NDArray[np.uint8]:
        """(H, W) uint8 class indices."""

    @property
    def shares(self) -> Mapping[str, float]:
        """Share of each class in view, by name."""


def over_picture(shown: Segmented) -> bytes:
    """A PNG of the mask in the class colours, over its image if that is known."""
    import cv2

    labels, mask = shown.labels, shown.mask
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(labels)] = np.array(labels.colours, np.uint8)[:, ::-1]
    drawn: Any = colours[mask]
    if shown.picture is not None:
        array = isinstance(shown.picture, np.ndarray)
        image = shown.picture if array else shown.picture.numpy()
        blended = cv2.addWeighted(image, 1 - ALPHA, drawn, ALPHA, 0)
        plain = np.isin(mask, [VOID if labels.background is None else labels.background, VOID])
        drawn = np.where(plain[..., None], image, blended)
    if (factor := LONGEST / max(mask.shape)) < 1:
        drawn = cv2.resize(drawn, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".png", drawn)[1].tobytes()


def with_names(shown: Segmented) -> str:
    """`over_picture` as HTML, above the names, colours and shares of the classes in view."""
    png = b64encode(over_picture(shown)).decode("ascii")
    names = [
        f'<span style="white-space: nowrap; margin-right: 1em">'
        f'<span style="color: rgb{colour}">&#9632;</span> {escape(name)} '
        f"{max(100 * share, 0.1):.1f} %</span>"
        for name, share, colour in shown.labels.by_share(shown.shares)
    ]
    below = " ".join(names) or "only background"
    return (
        f'<div><img src="data:image/png;base64,{png}" style="max-width: 100%">'
        f"<div>{below}</div></div>"
    )
