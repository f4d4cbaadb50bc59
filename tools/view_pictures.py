"""The pictures of the README and of docs/: views and live runs of the default network.

    python tools/view_pictures.py [--data ../shared/data] [--out docs/pictures]

rtseg.webp: a clip replayed as a camera, as overlay, contours and over a blurred background.
views.jpg: overlay, contours, mask and cut-out of one frame. live.jpg: the last picture of a live
run, with figures and class names. refine.jpg: enlarged parts of that frame and of a portrait, with
the network's own edges and refined. The clip is from intel-iot-devkit/sample-videos (CC BY 4.0),
the portrait from NASA (public domain).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PillowImage

import rtseg
from rtseg.contracts import Rendered, Sink
from rtseg.effects import ViewOptions, open_effect
from rtseg.frame import Frame, Image, Segmentation
from rtseg.stats import Stats

TOOLS = Path(__file__).resolve().parent
CLIP, FRAMES, FRAME = "intel_asl_book.mkv", 109, 39
PORTRAIT = "astronaut.jpg"
PARTS = (290, 90, 110), (150, 20, 130)
"""(left, top, side) of what is enlarged, of the frame and of the portrait."""

VIEWS = ("overlay", "contours", "mask", "cutout")
ANIMATED = (
    ViewOptions(hud=True, legend=True),
    ViewOptions("contours", hud=True),
    ViewOptions(background="blur", view="cutout", hud=True),
)
"""Thirds of the animated picture."""

ANIMATED_FPS = 10
PANE = 400, 300
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 88]


class Album(Sink):
    """Keeps pictures and their times in seconds, at most `fps` of them a second."""

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self.pictures: list[Image] = []
        self.times: list[float] = []

    def write(self, rendered: Rendered) -> None:
        """Keep this one, if it is time for one."""
        if not self.times or rendered.frame.pts > self.times[-1] + 0.95 / self.fps:
            self.pictures.append(rendered.image)
            self.times.append(rendered.frame.pts)


def replay(clip: Path, views: Sequence[ViewOptions], album: Album, last: int | None = None) -> None:
    """Run a clip as if a camera gave it, each of the views for an equal part of its length."""
    options = rtseg.SourceOptions(live=True, max_frames=last)
    with rtseg.open_source(str(clip), options) as source:
        info = source.info
        size = info.height, info.width
        with rtseg.load(frame_size=size, backend="fastest") as segmenter:
            stats = Stats(source.clock)
            effects = [
                open_effect(
                    view, segmenter.labels, stats=stats, source=source,
                    backend=segmenter.info, model=segmenter.spec.name, imgsz=segmenter.input_size,
                )
                for view in views
            ]  # fmt: skip
            part = (last or FRAMES) / len(views)

            def effect(frame: Frame, segmentation: Segmentation) -> Image:
                return effects[min(int(frame.index / part), len(effects) - 1)](frame, segmentation)

            rtseg.run(source, segmenter, effect, [album], stats=stats)


def animation(clip: Path, path: Path) -> None:
    """Write the animated picture."""
    album = Album(ANIMATED_FPS)
    replay(clip, ANIMATED, album)
    ends = [*album.times[1:], album.times[-1] + 1 / ANIMATED_FPS]
    first, *others = [PillowImage.fromarray(one[..., ::-1]) for one in album.pictures]
    first.save(
        path, save_all=True, append_images=others, loop=0, quality=60, method=6,
        duration=[round(1000 * (end - at)) for at, end in zip(album.times, ends, strict=True)],
    )  # fmt: skip


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
    album = Album(1000)
    replay(clip, [ViewOptions(hud=True, legend=True)], album, FRAME + 1)
    return album.pictures[-1]


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
    parser.add_argument("--out", type=Path, default=TOOLS.parent / "docs" / "pictures")
    asked = parser.parse_args()
    clip = asked.data / "videos" / CLIP
    animation(clip, asked.out / "rtseg.webp")
    refine = refined(clip, asked.data / "pictures" / PORTRAIT)
    for name, picture in (("views", views(clip)), ("live", live(clip)), ("refine", refine)):
        path = asked.out / f"{name}.jpg"
        cv2.imwrite(str(path), picture, QUALITY)
        print(f"{path}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
