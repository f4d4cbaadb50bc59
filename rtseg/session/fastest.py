"""The backend that is fastest here, its masks compared on frames of the demo's clip."""

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
    again: bool = False,
    on_measure: Callable[[str], None] = lambda candidates: None,
    **options: Any,
) -> Backend:
    """Load a network in whatever runs it fastest here; measured once, and remembered.

    Args:
        input_size: (height, width) of the network's input; None is what it was made for.
        again: measure, whatever is remembered.
        on_measure: told what is about to be measured.
        options: of `BackendOptions`.

    Raises:
        RtsegError: as `open_backend`, where nothing can load it.
    """
    return open_fastest(
        model,
        input_size=input_size,
        frames=demo_batches,
        again=again,
        on_measure=on_measure,
        **options,
    )


def demo_batches(size: tuple[int, int]) -> Sequence[Batch]:
    """Frames of the demo's clip at `size` (height, width), as a segmenter feeds a network."""
    with open_source(DEMO) as source:
        return [batch_of(frame.image, size) for frame in source]
