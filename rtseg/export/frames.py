"""Real frames to compare networks on, and others to calibrate on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rtseg.errors import UsageError
from rtseg.frame import Image
from rtseg.sources import SourceOptions, open_source

Watch = Callable[[str, int, int], None]
"""Told (what is being done, how many, of how many) all along; what it raises ends the work."""

MOST = 24
"""Frames of each kind; a clip gives between half of them and all."""

DEMO = "demo:4"


@dataclass(frozen=True)
class Samples:
    """Frames (H, W, 3) uint8 BGR of recordings.

    Attributes:
        names: where those to compare on come from, for people.
        parity: to compare on.
        calibration: to calibrate on; none of them is among the others.
    """

    names: str
    parity: tuple[Image, ...]
    calibration: tuple[Image, ...] = ()


def parity_samples(target: str | None, watch: Watch) -> Samples:
    """Frames of `target`, or of the demo's portrait, to compare on.

    Raises:
        UsageError: the source is live.
        SourceError: it cannot be opened, or holds no frame.
    """
    name, frames = spread(target or DEMO, MOST, watch)
    return Samples(name, tuple(frames))


def quantising_samples(target: str | None, calibration: Sequence[str], watch: Watch) -> Samples:
    """Frames to compare on and to calibrate on.

    What serves for both is dealt out, every second frame to each. Frames of the calibration that
    are equal to one of the others are left out.

    Args:
        target: where to compare; None is where the calibration comes from.
        calibration: sources; none is where to compare.

    Raises:
        UsageError: a source is live, or too few frames are left.
        SourceError: a source cannot be opened, or holds no frame.
    """
    if target is not None and calibration:
        name, seen = spread(target, MOST, watch)
        given = _of_all(calibration, MOST, watch)[1]
    else:
        name, both = _of_all(calibration or [target or DEMO], 2 * MOST, watch)
        seen, given = both[1::2], both[::2]
    known = {frame.tobytes() for frame in seen}
    apart = tuple(frame for frame in given if frame.tobytes() not in known)
    if not seen or not apart:
        raise UsageError(
            f"cannot calibrate on {', '.join(calibration) or name}",
            found="no frame is left that the result is not compared on",
            do="Name a clip or folder with --calibration, and another with --samples",
        )
    return Samples(name, tuple(seen), apart)


def spread(target: str, most: int, watch: Watch) -> tuple[str, list[Image]]:
    """The source's name, and frames in even steps over all of it; between `most` / 2 and `most`.

    A source with fewer gives all it has.

    Raises:
        UsageError: the source is live.
        SourceError: it cannot be opened.
    """
    with open_source(target, SourceOptions()) as source:
        if source.info.live:
            raise UsageError(
                f"sample frames from {target}",
                found="it is live, and would be another one each time",
                do="Name a clip, a folder or a picture",
            )
        kept: list[Image] = []
        step = 1
        for index, frame in enumerate(source):
            if index % step:
                continue
            watch(f"reading {source.info.name}", index, source.info.frame_count or 0)
            if len(kept) == most:  # more than expected: every second one, from here on too
                kept, step = kept[::2], 2 * step
                if index % step:
                    continue
            kept.append(frame.image)
        return source.info.name, kept


def _of_all(targets: Sequence[str], most: int, watch: Watch) -> tuple[str, list[Image]]:
    """Frames of several sources, one after the other, and all their names."""
    each = max(2, most // len(targets))
    found = [spread(target, each, watch) for target in targets]
    return ", ".join(name for name, _ in found), [frame for _, frames in found for frame in frames]
