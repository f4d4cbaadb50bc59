"""The fastest backend here, its masks compared on frames of the demo clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rtseg.backends.auto import open_fastest
from rtseg.contracts import Backend
from rtseg.measure import Batch, batch_of
from rtseg.sources import open_source
from rtseg.zoo import Model

DEMO = "demo:0.3"
"""Nine frames of the portrait, from the whole figure to the face and back."""


def open_measured(
    model: Model,
    *,
    input_size: tuple[int, int] | None = None,
    remeasure: bool = False,
    on_measure: Callable[[str], None] = lambda candidates: None,
    **options: Any,
) -> Backend:
    """Load a network in the backend that runs it fastest here; measured once, then remembered.

    Args:
        input_size: (height, width) of the network's input; None is the size it was made for.
        remeasure: ignore a remembered measurement.
        on_measure: called with the candidates before they are measured.
        options: of `BackendOptions`.

    Raises:
        RtsegError: as `open_backend`, if no backend can load the network.
    """
    return open_fastest(
        model,
        input_size=input_size,
        frames=demo_batches,
        remeasure=remeasure,
        on_measure=on_measure,
        **options,
    )


def demo_batches(size: tuple[int, int]) -> Sequence[Batch]:
    """Frames of the demo clip at `size` (height, width), as a segmenter feeds a network."""
    with open_source(DEMO) as source:
        return [batch_of(frame.image, size) for frame in source]
