"""Masks with edges refined from image colours.

A mask is only as fine as the network's scores, whose cells are 8 or 16 pixels of its input. Here
the matte (`rtseg.matte`) decides near that edge, by the colours on both sides of it: a pixel whose
alpha is at least one half is foreground, and the scores decide its class. Edges between two
foreground classes do not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from rtseg.decode import BlendTable, decode
from rtseg.draw import resized
from rtseg.frame import Image, Mask, Picture, Segmentation, in_memory
from rtseg.labels import PERSON, VOID
from rtseg.matte import Matting
from rtseg.matte.fit import kept_classes

_idle: SimpleQueue[Matting] = SimpleQueue()
"""Mattings that no thread is using; each thread takes one at a time."""


class Refined(Segmentation):
    """A segmentation whose mask edges are refined from image colours.

    Args:
        plain: the segmentation to refine.
        picture: its image, (H, W, 3) uint8 BGR.

    Attributes:
        plain: as given.
    """

    def __init__(self, plain: Segmentation, picture: Picture) -> None:
        super().__init__(
            plain.given,
            plain.labels,
            plain.size,
            kind=plain.kind,
            selected=plain.selected,
            align_corners=plain.align_corners,
            carried=plain.carried,
        )
        self.plain = plain
        self.picture: Picture = picture

    @cached_property
    def mask(self) -> Mask:
        """(H, W) uint8 class indices at frame size, computed once; read-only."""
        mask = self._refined()
        mask.flags.writeable = False
        return mask

    def over(
        self, picture: Picture, table: BlendTable, canvas: Image | None = None, left: int = 0
    ) -> Image:
        """The mask drawn over an image, as `blend` does."""
        _ = self.mask  # a refined mask is not decoded row by row
        return super().over(picture, table, canvas, left)

    def _refined(self) -> Mask:
        classes = np.flatnonzero(kept_classes(self))
        if len(classes) == len(self.labels):  # everything is foreground
            return super().mask
        nothing = VOID if self.labels.background is None else self.labels.background
        if not len(classes):
            return np.full(self.size, nothing, np.uint8)
        single = len(classes) == 1
        with _matting() as matting:
            matte = matting(in_memory(self.picture), self)
            mask = matte.mask(nothing, int(classes[0])) if single else matte.mask(0, 1)
        if single:
            return mask
        table = np.zeros(256, np.uint8)
        table[: len(classes)] = classes
        which, _ = decode(self.scores[classes], self.size, table, align_corners=self.align_corners)
        return np.where(mask, which, np.uint8(nothing))

    def _like(self, **others: Any) -> Segmentation:
        plain, picture = super()._like(**others), self.picture
        if plain.size != picture.shape[:2]:
            picture = resized(in_memory(picture), plain.size)
        return Refined(plain, picture)


def with_edges(segmentation: Segmentation, picture: Picture, *, refine: bool) -> Segmentation:
    """The segmentation with refined or plain mask edges; the same object if it already has them."""
    if isinstance(segmentation, Refined):
        return segmentation if refine else segmentation.plain
    return Refined(segmentation, picture) if refine else segmentation


def warm_up() -> None:
    """Compile the passes, or load them compiled, before the first frame."""
    scores, image = np.zeros((2, 4, 4), np.float32), np.zeros((32, 32, 3), np.uint8)
    scores[1, :2] = 1
    _ = Refined(Segmentation(scores, PERSON, (32, 32)), image).mask


@contextmanager
def _matting() -> Iterator[Matting]:
    """A matting for exclusive use; it keeps its memory from frame to frame."""
    try:
        matting = _idle.get_nowait()
    except Empty:
        matting = Matting()
    yield matting
    _idle.put(matting)
