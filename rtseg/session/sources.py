"""Several sources of one session: opened at once, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

import numpy as np

from rtseg.contracts import Source, SourceInfo
from rtseg.errors import RtsegError, SourceError
from rtseg.frame import Frame
from rtseg.threads import parallel_map


class Unopened(Source):
    """Stands for a source that could not be opened: it is lost before its first frame.

    Raises:
        SourceError: when it is read, the one that opening raised.
    """

    def __init__(self, name: str, error: SourceError) -> None:
        super().__init__()
        self.info = SourceInfo(name, 640, 360, live=True)
        self.error = error

    def _read(self) -> Frame | None:
        raise self.error


def open_all(openers: Sequence[tuple[str, Callable[[], Source]]]) -> list[Source]:
    """Open several sources at once; one that fails with a SourceError becomes `Unopened`.

    Args:
        openers: the name of each, and what opens it.

    Raises:
        RtsegError: of another kind; the sources that were opened are closed.
    """
    found = list(parallel_map(openers, _attempt, lanes=max(1, len(openers)), name="open"))
    failures = [each for each in found if isinstance(each, RtsegError)]
    opened = [each for each in found if isinstance(each, Source)]
    if failures:
        for source in opened:
            source.close()
        raise failures[0]
    return opened


def _attempt(opener: tuple[str, Callable[[], Source]]) -> Source | RtsegError:
    name, open_one = opener
    try:
        return open_one()
    except SourceError as error:
        return Unopened(name, error)
    except RtsegError as error:
        return error


def common_shape(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(width, height) to which frames of several shapes are stretched with the least distortion.

    The geometric mean of their shapes minimises the sum of the squared logarithms of the
    stretches; the area is the largest of theirs.
    """
    shapes = np.array([width / height for width, height in sizes])
    shape = float(np.exp(np.log(shapes).mean()))
    area = max(width * height for width, height in sizes)
    return max(1, round(sqrt(area * shape))), max(1, round(sqrt(area / shape)))


def common_info(sources: Sequence[Source]) -> SourceInfo:
    """The frames that suit all open sources, as if of one."""
    infos = [source.info for source in sources if not isinstance(source, Unopened)]
    width, height = common_shape([(info.width, info.height) for info in infos])
    return SourceInfo(f"{len(sources)} sources", width, height, live=True)


def any_live(sources: Sequence[Source]) -> bool:
    """Whether one of them is live; one that could not be opened delays nobody."""
    return any(source.info.live and not isinstance(source, Unopened) for source in sources)


def has_own_speed(info: SourceInfo) -> bool:
    """Whether its frames can be paced: live ones come when they come, and an image has no rate."""
    return not info.live and info.frame_count != 1
