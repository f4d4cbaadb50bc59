"""How steady the masks of a clip without labels are."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rtseg.contracts import BackendInfo, SourceInfo
from rtseg.errors import UsageError
from rtseg.evaluate.networks import Network, Size
from rtseg.evaluate.scoring import smoothed_name
from rtseg.frame import Frame
from rtseg.metrics import Flicker, still_picture
from rtseg.segmenter import Pair
from rtseg.sources import SourceOptions, open_source
from rtseg.temporal.smooth import Smoother
from rtseg.threads import Flow

AHEAD = 4
"""Frames read before their turn."""

POLL_SECONDS = 0.05


@dataclass
class ClipScore:
    """What was measured of one network on one clip.

    Attributes:
        clip: the source's name.
        network: its name, with the strength of smoothing where there is one.
        flicker: where the picture stands still.
        of: how many frames there are to measure, as far as the clip says.
        complete: whether the clip was measured to its end, or to the frames that were asked for.
        steadied: the same frames smoothed over time, where that was asked for.
        seconds: from the first frame to the last.
    """

    clip: str
    network: str
    smooth: float = 0.0
    frames: int = 0
    of: int | None = None
    flicker: Flicker = field(default_factory=Flicker)
    complete: bool = False
    steadied: ClipScore | None = None
    input_size: Size | None = None
    info: BackendInfo | None = None
    seconds: float = math.nan


class Steadiness:
    """Counts the flicker of consecutive frames where the picture itself stands still."""

    def __init__(self) -> None:
        self.flicker = Flicker()
        self._last: Pair | None = None

    def take(self, pair: Pair) -> None:
        """The next frame; one that does not follow the last, or has another size, begins anew."""
        last, self._last = self._last, pair
        frame, segmentation = pair
        if last is not None and last[0].index + 1 == frame.index and last[0].size == frame.size:
            quiet = still_picture(last[0].image, frame.image)
            self.flicker.update(last[1].mask, segmentation.mask, quiet)


def clip_flicker(pairs: Iterable[Pair]) -> Flicker:
    """Flicker where the picture itself stands still, over consecutive frames of one clip.

    It compares networks on one clip, and no clip with another; see `still_picture`.

    Args:
        pairs: (frame, segmentation), as `rtseg.stream("clip.mp4", segmenter)` gives them. Frames
            that do not follow one another, or change their size, are not compared.
    """
    steadiness = Steadiness()
    for pair in pairs:
        steadiness.take(pair)
    return steadiness.flicker


def score_clip(
    network: Network,
    target: str,
    *,
    smooth: float = 0.0,
    max_frames: int | None = None,
    on_frame: Callable[[ClipScore], None] = lambda score: None,
    stop: Callable[[], bool] = lambda: False,
) -> ClipScore:
    """Measure a network's flicker on a clip without labels.

    Args:
        target: a video, a folder or a pattern, as `open_source` takes it.
        smooth: measure it once more with scores smoothed at this strength; the network sees each
            frame once.
        max_frames: of the clip, from its start; None takes all.
        on_frame: called at the start and after each frame.
        stop: asked all the time; ends it early, and what was measured is returned.

    Raises:
        UsageError: the source is live.
        RtsegError: it cannot be opened or read, or the network failed.
    """
    with open_source(target, SourceOptions(max_frames=max_frames)) as source:
        if source.info.live:
            raise UsageError(
                f"the flicker of {source.info.name}",
                found="it is live, and would be another one each time",
                do="Name a recording",
            )
        measuring = _Measuring(network, source.info, smooth)
        on_frame(measuring.result)
        with Flow(source, capacity=AHEAD, name="read", interrupt=source.interrupt) as flow:
            for frame in flow.poll(POLL_SECONDS):
                if stop():
                    return measuring.ended(complete=False)
                if frame is not None:
                    measuring.take(frame)
                    on_frame(measuring.result)
    return measuring.ended(complete=True)


class _Measuring:
    """Two scores of one clip in the making: plain, and steadied where that was asked for."""

    def __init__(self, network: Network, clip: SourceInfo, smooth: float) -> None:
        self._network, self._smoother = network, Smoother(smooth)
        self._since = time.perf_counter()
        self.result = ClipScore(clip.name, network.name, of=clip.frame_count)
        self._ways = [(self.result, Steadiness())]
        if smooth:
            name = smoothed_name(network.name, smooth)
            self.result.steadied = ClipScore(clip.name, name, smooth, of=clip.frame_count)
            self._ways.append((self.result.steadied, Steadiness()))

    def take(self, frame: Frame) -> None:
        said = self._network(frame.image)
        for score, steadiness in self._ways:
            if score.smooth:
                said = said.with_scores(self._smoother(said.scores, frame.image, frame.pts))
            steadiness.take((frame, said))
            score.frames += 1
            score.input_size = self._network.input_size(*frame.size)

    def ended(self, *, complete: bool) -> ClipScore:
        for score, steadiness in self._ways:
            score.flicker, score.info = steadiness.flicker, self._network.info
            score.complete = complete and score.frames > 0
            score.seconds = time.perf_counter() - self._since
        return self.result
