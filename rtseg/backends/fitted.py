"""One network open at the input sizes that frames of several shapes need."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtseg.backends import open_backend
from rtseg.backends.base import fit_size
from rtseg.contracts import Backend
from rtseg.errors import BackendError
from rtseg.frame import HeldScores, Picture
from rtseg.options import Size
from rtseg.stats import Stats
from rtseg.zoo import Model

KEPT_OPEN = 8
"""Input sizes open at once; the one that was used longest ago is closed for another."""


def fitted(first: Backend, model: Model, *, size: Size | None = None, **options: Any) -> Backend:
    """`first`, and the same network at the input sizes that frames of other shapes need.

    Args:
        size: (height, width) of the input for all frames; None follows their shape.
        options: of `BackendOptions`, with which `first` was opened.
    """
    if model.spec.input.fixed:
        return first
    same = {**options, "precision": first.info.precision}
    if first.info.precision == "int8":  # of a file, which may be for its own size alone
        same = options

    def opened(at: Size) -> Backend:
        return open_backend(first.info.name, model, input_size=at, **same)

    def fit(height: int, width: int) -> Size:
        return size or fit_size(first.spec, width, height)

    return FittedBackend(first, opened, fit)


class FittedBackend(Backend):
    """Runs the network on every frame at the input size that the frame gets alone.

    A size is opened when the first frame needs it, and `KEPT_OPEN` stay open. `input_size` is that
    of the newest frame; what else it says is that of the first size.

    Args:
        first: the network at one size; closed with the others.
        load: opens it at another (height, width).
        fit: from the height and width of a frame to the (height, width) of the input.
    """

    def __init__(
        self, first: Backend, load: Callable[[Size], Backend], fit: Callable[[int, int], Size]
    ) -> None:
        self.spec, self.info, self.input_size = first.spec, first.info, first.input_size
        self.lanes, self.gains_by_lanes = first.lanes, first.gains_by_lanes
        self.batches, self.frames_at_once = first.batches, first.frames_at_once
        self._load, self._fit = load, lru_cache(maxsize=256)(fit)
        self._open = OrderedDict({first.input_size: _Opened(first)})
        self._lock = threading.Lock()
        self._stats: Stats | None = None
        self._sources: Sequence[Stats] = ()
        self._uncounted: dict[Size, int] = {}
        if first.segment is not None:
            self.segment = self._segment

    def size_for(self, frame_size: Size) -> Size:
        """(height, width) of the input for a frame of this (height, width)."""
        return self._fit(*frame_size)

    def prepare(self, frame_sizes: Sequence[Size]) -> None:
        """Open the sizes for frames of these (height, width), the first `KEPT_OPEN` of them.

        Raises:
            RtsegError: as `open_backend`.
        """
        for size in list(dict.fromkeys(map(self.size_for, frame_sizes)))[:KEPT_OPEN]:
            with self._using(size):
                pass

    def attend(self, stats: Stats, sources: Sequence[Stats] = ()) -> None:
        """Count frames by input size in a run's figures, once there are several.

        Args:
            sources: figures of each source, which start before those of all; empty is `stats`.
        """
        self._stats, self._sources, self._uncounted = stats, sources or (stats,), {}

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As the contract says, for a batch of any size that `size_for` gives."""
        with self._using((batch.shape[1], batch.shape[2]), len(batch)) as opened:
            return opened.backend(batch)

    def device_seconds(self, passes: int) -> list[float] | None:
        """Of the network at the size of the newest frame."""
        with self._using(self.input_size) as opened:
            return opened.backend.device_seconds(passes)

    def close(self) -> None:
        """Free all sizes; the next frame opens its own again."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _segment(self, pictures: Sequence[Picture]) -> list[HeldScores]:
        sizes = [self.size_for((picture.shape[0], picture.shape[1])) for picture in pictures]
        held: dict[int, HeldScores] = {}
        for size in dict.fromkeys(sizes):
            places = [place for place, each in enumerate(sizes) if each == size]
            with self._using(size, len(places)) as opened:
                if opened.backend.segment is None:
                    height, width = size
                    raise BackendError(
                        f"{self.spec.name} at {height}x{width} cannot keep frames on the device",
                        found="; ".join(opened.backend.info.notes),
                        do=f"Give all frames one input size: --imgsz {height}x{width}",
                    )
                scores = opened.backend.segment([pictures[place] for place in places])
                opened.last = scores[-1]
            held.update(zip(places, scores, strict=True))
        return [held[place] for place in range(len(pictures))]

    @contextmanager
    def _using(self, size: Size, frames: int = 0) -> Iterator[_Opened]:
        """The network at a size, which stays open as long as the `with` lasts."""
        with self._lock:
            opened = self._open.get(size) or self._opened(size)
            self._open.move_to_end(size)
            opened.users += 1
            if frames:
                self._count(size, frames)
        try:
            yield opened
        finally:
            with self._lock:
                opened.users -= 1

    def _count(self, size: Size, frames: int) -> None:
        self.input_size = size
        if self._stats is not None and not any(each.started for each in self._sources):
            return  # to warm up
        self._uncounted[size] = self._uncounted.get(size, 0) + frames
        if self._stats is not None and (self._stats.inputs or len(self._uncounted) > 1):
            for each, count in self._uncounted.items():
                self._stats.count_input(each, count)
            self._uncounted.clear()

    def _opened(self, size: Size) -> _Opened:
        """Open a size, after closing what was used longest ago and is not in use."""
        idle = [each for each, opened in self._open.items() if not opened.users]
        for each in idle[: max(0, len(self._open) + 1 - KEPT_OPEN)]:
            self._open.pop(each).close()
        opened = self._open[size] = _Opened(self._load(size))
        info = opened.backend.info
        if (info.device, info.precision, info.provider) != (
            self.info.device,
            self.info.precision,
            self.info.provider,
        ):
            height, width = size
            where = f"input {height}x{width} runs on {info.device} in {info.precision}"
            notes = dict.fromkeys((*self.info.notes, where, *info.notes))
            self.info = replace(self.info, notes=tuple(notes))
        return opened


class _Opened:
    """The network at one size.

    Attributes:
        users: calls that are inside it.
        last: of the scores that it left on the device.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend, self.users = backend, 0
        self.last: HeldScores | None = None

    def close(self) -> None:
        if self.last is not None:
            self.last.wait()
        self.backend.close()
