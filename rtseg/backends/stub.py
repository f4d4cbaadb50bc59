"""No network: classes are told by their flat colours.

It finds the shapes of the `test://` source, which are drawn in the colours of `SHAPE_LABELS`. A
test double for all that stands around a network, a demonstration without weights, and, since it
costs next to nothing, the measure of rtseg's own overhead; "stub?delay=100ms" is a slow network.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtseg.backends.base import check_batch
from rtseg.backends.options import BackendOptions, not_there
from rtseg.contracts import Backend, BackendInfo
from rtseg.stats import Clock
from rtseg.zoo import Model

STRIDE = 8
SURE = 8.0
"""The logit of the class that is seen; the others have 0."""

NEAR = 60.0
"""How far from a shape's colour, in RGB, a pixel still belongs to it; beyond is background."""


class StubBackend(Backend):
    """Looks at the middle pixel of every 8 x 8 block.

    Args:
        clock: sleeps the model's delay.
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
        notes = () if kept else (not_there(family, "the stub has no network", options.strict),)
        self.info = BackendInfo("stub", "cpu", "fp32", "numpy", (*model.notes, *notes), kept)
        self.batches = True  # its delay is that of a call, as on a GPU that is far from full
        self._rows, self._columns = (_middles(side) for side in input_size)
        self._colours = np.array(model.spec.labels.colours, np.float32)

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As the contract says."""
        check_batch(batch, self.input_size)
        self._clock.sleep(self._delay)
        pixels = batch[:, self._rows[:, None], self._columns].astype(np.float32)
        distance = np.linalg.norm(pixels[:, None] - self._colours[:, None, None], axis=-1)
        background = self.spec.labels.background or 0
        distance[:, background] = NEAR
        seen = distance.argmin(1)
        classes = np.arange(len(self._colours))[:, None, None]
        return np.where(seen[:, None] == classes, np.float32(SURE), np.float32(0))


def _middles(side: int) -> NDArray[np.int64]:
    """The middle pixel of each block of 8, or of as many as the side has."""
    count = -(-side // STRIDE)
    return ((np.arange(count) + 0.5) * side / count).astype(np.int64)
