"""Live sources: every frame at once, with the last scores that the network gave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from rtseg.frame import Frame
from rtseg.propagation.network import Network
from rtseg.segmentation import Carried, Segmentation
from rtseg.segmenter import Pair
from rtseg.temporal.carry import carry
from rtseg.temporal.idle import Stillness
from rtseg.temporal.keyframes import LOST_SHARE
from rtseg.temporal.motion import Grey, Motion, is_cut, small_grey

LOST_SCENE = 0.6
"""A live frame of which more is not to be found in the last look shows nothing of that scene."""


def carried_on(
    frames: Iterable[Frame], network: Network, key_every: int | None, *, idle: bool = False
) -> Iterator[Pair]:
    """Every frame of a live source, at once, with the network's last word carried to it.

    Until there is one, at the beginning and after a cut, no class is known.

    Args:
        idle: whether the network rests while the picture is what it last looked at.
    """
    newest = _Newest(network, key_every, Stillness() if idle else None)
    for frame in frames:
        newest.compare(frame)
        with network.stats.stage("follow"):
            newest.follow(frame)
        with network.stats.stage("carry"):
            segmentation = newest.segmentation_of(frame)
        yield frame, segmentation


@dataclass
class _Look:
    """A frame that the network was asked about, and, once it answered, what it said."""

    frame: Frame
    motion: Motion
    cause: str
    said: Segmentation | None = None
    of_another_scene: bool = False


class _Newest:
    """What is known of the scene of a live source: the last look, and the one under way."""

    def __init__(
        self, network: Network, key_every: int | None, still: Stillness | None = None
    ) -> None:
        self._network, self._every, self._still = network, key_every, still
        self._nothing_new = False
        self._answers = network.keys.poll(0.0)
        self._grey: Grey | None = None
        self._last: _Look | None = None
        self._under_way: _Look | None = None
        self._cause = "first"

    def compare(self, frame: Frame) -> None:
        """Whether the next frame shows anything new, where the network rests otherwise."""
        if self._still is not None:
            with self._network.stats.stage("compare"):
                self._nothing_new = self._still.holds(frame.image, frame.pts)

    def follow(self, frame: Frame) -> None:
        """Take the frame; ask the network about it if it is free."""
        grey = small_grey(frame.image)
        if self._grey is not None and is_cut(self._grey, grey):
            self._forget()
        self._grey = grey
        self._hear()
        if self._last is not None and self._last.motion.follow(grey).lost > LOST_SCENE:
            self._last, self._cause = None, "motion"
        if self._under_way is not None and not self._under_way.of_another_scene:
            self._under_way.motion.follow(grey)
        if self._under_way is None and self._is_due(frame):
            self._under_way = _Look(frame, Motion(grey), self._cause)
            self._cause = "free"
            self._network.asked.put(frame)
            if self._still is not None:
                self._still.looked()

    def segmentation_of(self, frame: Frame) -> Segmentation:
        """What the last look says of this frame."""
        segmenter, look = self._network.segmenter, self._last
        if look is None or look.said is None:
            nothing = np.zeros((len(segmenter.labels), 1, 1), np.float32)
            return Segmentation(
                nothing,
                segmenter.labels,
                frame.size,
                selected=frozenset(),
                carried=Carried(None),
            )
        scores = carry(look.said.scores, look.motion.match.field)
        age = frame.index - look.frame.index
        return look.said.with_scores(scores, Carried(look.frame.index, age))

    def _forget(self) -> None:
        """A cut: what the network saw before, or is still looking at, is gone."""
        self._last, self._cause = None, "cut"
        if self._under_way is not None:
            self._under_way.of_another_scene = True

    def _hear(self) -> None:
        """Take the network's answer, if it has come."""
        answer = next(self._answers, None)
        look = self._under_way
        if answer is None or look is None:
            return
        self._under_way = None
        self._network.count(look.cause)
        if not look.of_another_scene:
            look.said = answer[1]
            self._last = look

    def _is_due(self, frame: Frame) -> bool:
        if self._last is not None and self._nothing_new:
            return False
        if self._every is None or self._last is None:
            return True
        age = frame.index - self._last.frame.index
        return age >= self._every or self._last.motion.match.lost > LOST_SHARE
