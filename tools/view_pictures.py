"""The README's pictures of the views and of a live run, with the default network.

    python tools/view_pictures.py [--data ../shared/data] [--out tools/pictures]

views.jpg: overlay, contours, mask and cut-out of one frame. live.jpg: the picture of a run whose
clip comes as from a camera, with its figures and the names of classes. refine.jpg: parts of that
frame and of a portrait, with the network's own edges and refined, enlarged. The clip is of
intel-iot-devkit/sample-videos (CC BY 4.0), the portrait of NASA (public domain).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

import rtseg
from rtseg.contracts import Rendered, Sink
from rtseg.effects import ViewOptions, open_effect
from rtseg.frame import Image
from rtseg.stats import Stats

TOOLS = Path(__file__).resolve().parent
CLIP, FRAME = "intel_asl_book.mkv", 39
PORTRAIT = "astronaut.jpg"
PARTS = (290, 90, 110), (150, 20, 130)
"""(left, top, side) of what is enlarged, of the frame and of the portrait."""

VIEWS = ("overlay", "contours", "mask", "cutout")
PANE = 400, 300
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 88]


class Last(Sink):
    """Keeps the last picture."""

    def __init__(self) -> None:
        self.picture: Image | None = None

    def write(self, rendered: Rendered) -> None:
        """Keep it."""
        self.picture = rendered.image


def views(clip: Path) -> Image:
    """One frame in all views, side by side, (H, W, 3) uint8 BGR."""
    with rtseg.open_source(str(clip)) as source:
        frame = next(frame for frame in source if frame.index == FRAME)
    with rtseg.load(frame_size=frame.size) as segmenter:
        seen = segmenter(frame.image)
    drawn = (open_effect(ViewOptions(view), seen.labels)(frame, seen) for view in VIEWS)
    return np.hstack([cv2.resize(one, PANE, interpolation=cv2.INTER_AREA) for one in drawn])


def live(clip: Path) -> Image:
    """The last picture of a run over the first frames of the clip."""
    options = rtseg.SourceOptions(live=True, max_frames=FRAME + 1)
    with rtseg.open_source(str(clip), options) as source:
        size = source.info.height, source.info.width
        with rtseg.load(frame_size=size, backend="fastest") as segmenter:
            stats, sink = Stats(source.clock), Last()
            effect = open_effect(
                ViewOptions(hud=True, legend=True), segmenter.labels, stats=stats, source=source,
                backend=segmenter.info, model=segmenter.spec.name, imgsz=segmenter.input_size,
            )  # fmt: skip
            rtseg.run(source, segmenter, effect, [sink], stats=stats)
    assert sink.picture is not None
    return sink.picture


def refined(clip: Path, portrait: Path) -> Image:
    """Parts of both pictures, exact and refined in turn, side by side, (H, W, 3) uint8 BGR."""
    panes = []
    for path, index, part in ((clip, FRAME, PARTS[0]), (portrait, 0, PARTS[1])):
        with rtseg.open_source(str(path)) as source:
            frame = next(frame for frame in source if frame.index == index)
        for refine in (False, True):
            with rtseg.load(frame_size=frame.size, refine=refine) as segmenter:
                seen = segmenter(frame.image)
            drawn = open_effect(ViewOptions(alpha=0.55), seen.labels)(frame, seen)
            left, top, side = part
            cut = drawn[top : top + side, left : left + side]
            panes.append(cv2.resize(cut, (320, 320), interpolation=cv2.INTER_CUBIC))
    return np.hstack(panes)


def main() -> None:
    """Draw all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=TOOLS.parents[1] / "shared" / "data")
    parser.add_argument("--out", type=Path, default=TOOLS / "pictures")
    asked = parser.parse_args()
    clip = asked.data / "videos" / CLIP
    refine = refined(clip, asked.data / "pictures" / PORTRAIT)
    for name, picture in (("views", views(clip)), ("live", live(clip)), ("refine", refine)):
        path = asked.out / f"{name}.jpg"
        cv2.imwrite(str(path), picture, QUALITY)
        print(f"{path}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
