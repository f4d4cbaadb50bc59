"""Real frames to compare models on, and others to calibrate on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rtseg.errors import UsageError
from rtseg.frame import Image
from rtseg.sources import SourceOptions, open_source

OnProgress = Callable[[str, int, int], None]
"""Called as on_progress(step, done, total), total 0 if unknown; may raise to end the export."""

MAX_FRAMES = 24
"""Frames of each kind; a clip gives between half of this and all of it."""

DEMO = "demo:4"


@dataclass(frozen=True)
class Samples:
    """Frames (H, W, 3) uint8 BGR of recordings.

    Attributes:
        names: the sources of `parity`.
        parity: frames to compare on.
        calibration: frames to calibrate on; none of them is in `parity`.
    """

    names: str
    parity: tuple[Image, ...]
    calibration: tuple[Image, ...] = ()


def parity_samples(target: str | None, on_progress: OnProgress) -> Samples:
    """Frames of `target`, or of the demo clip, to compare on.

    Raises:
        UsageError: the source is live.
        SourceError: it cannot be opened, or holds no frame.
    """
    name, frames = spread(target or DEMO, MAX_FRAMES, on_progress)
    return Samples(name, tuple(frames))


def quantising_samples(
    target: str | None, calibration: Sequence[str], on_progress: OnProgress
) -> Samples:
    """Frames to compare on and to calibrate on.

    If one source serves for both, each gets every second frame. Calibration frames that are equal
    to one to compare on are left out.

    Args:
        target: source to compare on; None is `calibration`.
        calibration: sources to calibrate on; () is `target`.

    Raises:
        UsageError: a source is live, or too few frames are left.
        SourceError: a source cannot be opened, or holds no frame.
    """
    if target is not None and calibration:
        name, compared = spread(target, MAX_FRAMES, on_progress)
        given = _of_all(calibration, MAX_FRAMES, on_progress)[1]
    else:
        name, both = _of_all(calibration or [target or DEMO], 2 * MAX_FRAMES, on_progress)
        compared, given = both[1::2], both[::2]
    known = {frame.tobytes() for frame in compared}
    apart = tuple(frame for frame in given if frame.tobytes() not in known)
    if not compared or not apart:
        raise UsageError(
            f"cannot calibrate on {', '.join(calibration) or name}",
            found="all its frames are needed for the comparison",
            do="Use --calibration for one clip or folder, and --samples for another",
        )
    return Samples(name, tuple(compared), apart)


def spread(target: str, most: int, on_progress: OnProgress) -> tuple[str, list[Image]]:
    """The source's name, and `most` / 2 to `most` evenly spaced frames, or all if it has fewer.

    Raises:
        UsageError: the source is live.
        SourceError: it cannot be opened.
    """
    with open_source(target, SourceOptions()) as source:
        if source.info.live:
            raise UsageError(
                f"cannot sample frames from {target}",
                found="it is live, so that results could not be repeated",
                do="Use a clip, a folder or an image",
            )
        kept: list[Image] = []
        step = 1
        for index, frame in enumerate(source):
            if index % step:
                continue
            on_progress(f"reading {source.info.name}", index, source.info.frame_count or 0)
            if len(kept) == most:  # more than expected: keep every second frame from here on
                kept, step = kept[::2], 2 * step
                if index % step:
                    continue
            kept.append(frame.image)
        return source.info.name, kept


def _of_all(targets: Sequence[str], most: int, on_progress: OnProgress) -> tuple[str, list[Image]]:
    """The names of several sources, and their frames in order."""
    each = max(2, most // len(targets))
    found = [spread(target, each, on_progress) for target in targets]
    return ", ".join(name for name, _ in found), [frame for _, frames in found for frame in frames]
