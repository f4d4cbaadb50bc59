"""What the network said about one frame."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rtseg.frame import VOID, Mask
from rtseg.labels import LabelSet

ScoreKind = Literal["logits", "probabilities"]


class Segmentation:
    """The scores of one frame and the names of their classes; the mask is decoded on demand.

    Args:
        scores: (C, h, w) float32 at the network's output stride.
        labels: the C classes.
        size: (height, width) of the frame, and so of the mask.
        kind: what the scores are; both decode alike, they differ in `probability`.
        selected: classes to keep; the others become background, or VOID where there is none.
        align_corners: where the scores lie on the frame; see `decode_mask`.
    """

    def __init__(
        self,
        scores: NDArray[np.float32],
        labels: LabelSet,
        size: tuple[int, int],
        *,
        kind: ScoreKind = "logits",
        selected: frozenset[int] | None = None,
        align_corners: bool = False,
    ) -> None:
        self.scores = scores
        self.labels = labels
        self.size = size
        self.kind = kind
        self.selected = selected
        self.align_corners = align_corners

    @cached_property
    def mask(self) -> Mask:
        """(H, W) uint8 class indices at frame size, decoded once; read-only."""
        from rtseg.decode import decode_mask

        table = self.labels.kept(self.selected)
        mask = decode_mask(self.scores, self.size, table, align_corners=self.align_corners)
        mask.flags.writeable = False
        return mask

    @cached_property
    def shares(self) -> dict[int, float]:
        """Share of the frame's pixels per class that is present and is not background."""
        counts = np.bincount(self.mask.reshape(-1), minlength=256)
        skip = {self.labels.background, VOID}
        return {
            int(index): float(counts[index]) / self.mask.size
            for index in np.flatnonzero(counts)
            if int(index) not in skip
        }

    def probability(self, name_or_id: str | int) -> NDArray[np.float32]:
        """(H, W) float32 in 0..1: how much of each pixel is this class, with soft edges.

        The class's margin over all others is enlarged, then squashed: exact for two classes,
        exact at the network's own samples for more.

        Raises:
            UsageError: there is no such class.
        """
        index = self.labels.index(name_or_id)
        if self.kind == "probabilities":
            return np.clip(self._enlarged(self.scores[index]), 0.0, 1.0)
        others = np.delete(self.scores, index, axis=0)
        top = others.max(0)
        rest = top + np.log(np.exp(others - top).sum(0))
        margin = self._enlarged(self.scores[index] - rest)
        return (0.5 * (1.0 + np.tanh(0.5 * margin))).astype(np.float32)

    def _enlarged(self, plane: NDArray[np.float32]) -> NDArray[np.float32]:
        from rtseg.decode import enlarge

        return enlarge(plane, self.size, align_corners=self.align_corners)

    def __repr__(self) -> str:
        classes, height, width = self.scores.shape
        return (
            f"<Segmentation {self.size[1]}x{self.size[0]} of {classes} classes, "
            f"decoded from {width}x{height}>"
        )

    def _repr_png_(self) -> bytes:
        """The mask in its colours, for notebooks."""
        import cv2

        colours = np.zeros((256, 3), np.uint8)
        colours[: len(self.labels)] = np.array(self.labels.colours, np.uint8)[:, ::-1]
        return cv2.imencode(".png", colours[self.mask])[1].tobytes()
