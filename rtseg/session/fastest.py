"""The fastest backend here, its masks compared on frames of the demo and of recordings."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from rtseg.backends.auto import Samples, open_fastest
from rtseg.cache import short_digest
from rtseg.contracts import Backend
from rtseg.errors import RtsegError
from rtseg.measure import Batch, batch_of
from rtseg.sources import SourceOptions, open_source
from rtseg.zoo import Model

DEMO = "demo:0.3"
"""Nine frames of the portrait, from the whole figure to the face and back."""

FRAMES, APART = 6, 25
"""Of a recording: every 25th frame, and every one of still images."""


def open_measured(
    model: Model,
    *,
    input_size: tuple[int, int] | None = None,
    remeasure: bool = False,
    one_size: bool = True,
    on_measure: Callable[[str], None] = lambda candidates: None,
    recordings: Sequence[tuple[str, SourceOptions]] = (),
    **options: Any,
) -> Backend:
    """Load a network in the backend that runs it fastest here; measured once, then remembered.

    Args:
        input_size: (height, width) of the network's input; None is the size it was made for.
        remeasure: ignore a remembered measurement.
        one_size: whether the input keeps this size; else a file in int8 takes no part.
        on_measure: called with the candidates before they are measured.
        recordings: the sources of the run, as `open_source` takes them; masks are compared on
            frames of those that are local files or folders, too.
        options: of `BackendOptions`.

    Raises:
        RtsegError: as `open_backend`, if no backend can load the network.
    """
    return open_fastest(
        model,
        input_size=input_size,
        samples=[Samples("the demo", demo_batches), *map(_samples, filter(_is_local, recordings))],
        remeasure=remeasure,
        one_size=one_size,
        on_measure=on_measure,
        **options,
    )


def demo_batches(size: tuple[int, int]) -> Sequence[Batch]:
    """Frames of the demo clip at `size` (height, width), as a segmenter feeds a network."""
    with open_source(DEMO) as source:
        return [batch_of(frame.image, size) for frame in source]


def _is_local(recording: tuple[str, SourceOptions]) -> bool:
    """Whether it can be read twice without a network or a device."""
    path = Path(recording[0])
    return path.is_file() or path.is_dir()


def _samples(recording: tuple[str, SourceOptions]) -> Samples:
    path, options = os.path.realpath(recording[0]), recording[1]
    seen = short_digest((_state(Path(path)), options.start))  # another recording may get its name
    return Samples(f"{seen}:{path}", partial(_recording_batches, *recording))


def _state(path: Path) -> Any:
    """The size and time of a file; the names in a folder; None of what cannot be read."""
    try:
        if path.is_dir():
            return sorted(each.name for each in path.iterdir())
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _recording_batches(
    target: str, options: SourceOptions, size: tuple[int, int]
) -> Sequence[Batch]:
    """Frames of a recording, as `demo_batches`; the run reports one that cannot be read."""
    batches: list[Batch] = []
    # at once, where the run would wait for each frame's time
    options = replace(options, live=False, loop=False, every=1, fps_cap=None)
    try:
        with open_source(target, options) as source:
            step = APART if source.info.frame_rate else 1
            for frame in islice(source, 0, FRAMES * step, step):
                batches.append(batch_of(frame.image, size))
    except RtsegError:
        return batches
    return batches
