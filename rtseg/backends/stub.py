"""No network: finds classes by their flat colours.

It segments the shapes of the `test://` source, which are drawn in the colours of `SHAPE_LABELS`. It
is a test double, a demo without weights and, as it costs next to nothing, the measure of rtseg's
own overhead; "stub?delay=100ms" stands in for a slow network.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtseg.backends.base import check_batch, fallback_note
from rtseg.backends.options import BackendOptions
from rtseg.contracts import Backend, BackendInfo
from rtseg.stats import Clock
from rtseg.zoo import Model

STRIDE = 8
LOGIT = 8.0
"""Of the class that is found; the others have 0."""

MAX_DISTANCE = 60.0
"""From a shape's colour, in RGB, to a pixel that still belongs to it; beyond is background."""


class StubBackend(Backend):
    """Classifies the middle pixel of every 8 x 8 block.

    Args:
        clock: sleeps for the model's delay.
    """

    def __init__(
        self,
        model: Model,
        input_size: tuple[int, int],
        options: BackendOptions = BackendOptions(),  # noqa: B008 - frozen
        *,
        clock: Clock | None = None,
    ) -> None:
        self.spec, self.input_size = model.spec, input_size
        self._clock, self._delay = clock or Clock(), model.delay_seconds
        family = options.family
        kept = family in ("auto", "cpu")
        notes = (
            () if kept else (fallback_note(family, "the stub runs on cpu", options.strict_device),)
        )
        self.info = BackendInfo("stub", "cpu", "fp32", "numpy", (*model.notes, *notes), kept)
        self.batches = True  # the delay is per call, as on a GPU that is far from full
        self._rows, self._columns = (_middles(side) for side in input_size)
        self._colours = np.array(model.spec.labels.colours, np.float32)

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As the contract says."""
        check_batch(batch, self.input_size)
        self._clock.sleep(self._delay)
        pixels = batch[:, self._rows[:, None], self._columns].astype(np.float32)
        distance = np.linalg.norm(pixels[:, None] - self._colours[:, None, None], axis=-1)
        background = self.spec.labels.background or 0
        distance[:, background] = MAX_DISTANCE
        found = distance.argmin(1)
        classes = np.arange(len(self._colours))[:, None, None]
        return np.where(found[:, None] == classes, np.float32(LOGIT), np.float32(0))


def _middles(side: int) -> NDArray[np.int64]:
    """The middle pixel of each block of 8, or of as many as the side has."""
    count = -(-side // STRIDE)
    return ((np.arange(count) + 0.5) * side / count).astype(np.int64)
