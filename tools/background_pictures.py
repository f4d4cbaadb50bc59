"""The picture of soft edges in docs/run.md: a hard mask and rtseg's matte, side by side, enlarged.

    python tools/background_pictures.py DATA [-m NETWORK]

DATA holds `videos/intel_asl_book.mkv` (intel-iot-devkit/sample-videos, CC BY 4.0) and
`pictures/astronaut.jpg` (NASA, public domain). Writes docs/pictures/background.jpg.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

import rtseg
from rtseg.draw import put_text
from rtseg.frame import Frame, Image, Segmentation

OUT = Path(__file__).parents[1] / "docs" / "pictures" / "background.jpg"
COLOUR = "#2878c8"
BLUR = "blur"
PANE = 320
CAPTIONS = ("hard mask", "rtseg", "hard mask, plain blur", "rtseg")


class Look(NamedTuple):
    """A part of one frame: its file, the frame's number, and where the square starts and ends."""

    file: str
    index: int
    left: int
    top: int
    side: int


LOOKS = (
    Look("videos/intel_asl_book.mkv", 39, 190, 80, 240),
    Look("pictures/astronaut.jpg", 0, 130, 10, 200),
)


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the pictures")
    parser.add_argument("-m", "--model", default=None, help="another network than the default")
    asked = parser.parse_args()
    rows = [row(asked.data, look, asked.model) for look in LOOKS]
    sheet = np.vstack([captions(), *rows])
    cv2.imwrite(str(OUT), sheet, [cv2.IMWRITE_JPEG_QUALITY, 88])
    print(f"{OUT}, {OUT.stat().st_size / 1000:.0f} kB")


def row(data: Path, look: Look, model: str | None) -> Image:
    """Four panes of one look: each background cut out hard, then as rtseg does."""
    with rtseg.open_source(str(data / look.file)) as source:
        frame = next(frame for frame in source if frame.index == look.index)
    with rtseg.load(model, frame_size=frame.size) as segmenter:
        segmentation = segmenter(frame.image)
        soft = [replaced(frame, segmentation, background) for background in (COLOUR, BLUR)]
    flat = np.full_like(frame.image, (0xC8, 0x78, 0x28))
    plain = cv2.GaussianBlur(frame.image, (0, 0), 0.03 * min(frame.size))
    hard = [np.where((segmentation.mask > 0)[..., None], frame.image, b) for b in (flat, plain)]
    return np.hstack([pane(p, look) for p in (hard[0], soft[0], hard[1], soft[1])])


def replaced(frame: Frame, segmentation: Segmentation, background: str) -> Image:
    """What `--background` gives."""
    options = rtseg.ViewOptions("cutout", background=background)
    return rtseg.open_effect(options, segmentation.labels)(frame, segmentation)


def pane(picture: Image, look: Look) -> Image:
    """The part that is looked at, enlarged."""
    part = picture[look.top : look.top + look.side, look.left : look.left + look.side]
    return cv2.resize(part, (PANE, PANE), interpolation=cv2.INTER_CUBIC)


def captions() -> Image:
    """A strip of words over the columns."""
    strip = np.full((32, PANE * len(CAPTIONS), 3), 255, np.uint8)
    for column, text in enumerate(CAPTIONS):
        put_text(strip, text, column * PANE + 8, 16, 18, (40, 40, 40))
    return strip


if __name__ == "__main__":
    main()
