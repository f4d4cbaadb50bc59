"""How steady the masks of a clip without labels are."""

from __future__ import annotations

from collections.abc import Iterable

from rtseg.metrics import Flicker, still_picture
from rtseg.segmenter import Pair


def clip_flicker(pairs: Iterable[Pair]) -> Flicker:
    """Flicker where the picture itself stands still, over consecutive frames of one clip.

    It compares networks on one clip, and no clip with another; see `still_picture`.

    Args:
        pairs: (frame, segmentation), as `rtseg.stream("clip.mp4", segmenter)` gives them. Frames
            that do not follow one another, or change their size, are not compared.
    """
    flicker = Flicker()
    last: Pair | None = None
    for frame, segmentation in pairs:
        if last is not None and last[0].index + 1 == frame.index and last[0].size == frame.size:
            quiet = still_picture(last[0].image, frame.image)
            flicker.update(last[1].mask, segmentation.mask, quiet)
        last = frame, segmentation
    return flicker
