"""The default network on clips of people, on one picture for its card.

    python tools/person_clips.py [--data ../shared/data] [--out docs/pictures/person_clips.jpg]

Four frames of each clip, evenly spread, with the mask over them. The clips are of
intel-iot-devkit/sample-videos (CC BY 4.0) and of OpenVINO's open_model_zoo (Apache-2.0).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

import rtseg
from rtseg.effects import ViewOptions, open_effect
from rtseg.frame import Image
from rtseg.sources import SourceOptions
from rtseg.sources.probe import packet_places

TOOLS = Path(__file__).resolve().parent
CLIPS = (
    "intel_asl_book.mkv",
    "intel_asl_night.mkv",
    "intel_one-by-one-person-detection.mp4",
    "omz_human_pose_video.avi",
    "torchcodec_dog_eating.mp4",
)
COLUMNS, HEIGHT, GAP = 4, 190, 4


def overlays(clip: Path) -> list[Image]:
    """COLUMNS frames of the clip, spread over its middle, (H, W, 3) uint8 BGR, drawn over."""
    count = len(packet_places(str(clip), SourceOptions()))
    wanted = np.linspace(0, count - 1, COLUMNS + 2).astype(int)[1:-1].tolist()
    drawn: list[Image] = []
    with rtseg.open_source(str(clip), rtseg.SourceOptions()) as source:
        size = (source.info.height, source.info.width)
        with rtseg.load(frame_size=size) as segmenter:
            effect = open_effect(ViewOptions(), segmenter.labels)
            for frame in source:
                if frame.index in wanted:
                    drawn.append(effect(frame, segmenter(frame.image)))
    return drawn


def row(pictures: list[Image]) -> Image:
    """The pictures side by side, all HEIGHT high."""
    width = round(pictures[0].shape[1] * HEIGHT / pictures[0].shape[0])
    small = [cv2.resize(p, (width, HEIGHT), interpolation=cv2.INTER_AREA) for p in pictures]
    return np.hstack([np.pad(p, ((0, GAP), (0, GAP), (0, 0))) for p in small])


def main() -> None:
    """Read the command line and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=TOOLS.parents[1] / "shared" / "data")
    parser.add_argument(
        "--out", type=Path, default=TOOLS.parent / "docs" / "pictures" / "person_clips.jpg"
    )
    args = parser.parse_args()
    rows = [row(overlays(args.data / "videos" / name)) for name in CLIPS]
    widest = max(r.shape[1] for r in rows)
    sheet = np.vstack([np.pad(r, ((0, 0), (0, widest - r.shape[1]), (0, 0))) for r in rows])
    cv2.imwrite(str(args.out), sheet, (cv2.IMWRITE_JPEG_QUALITY, 82))


if __name__ == "__main__":
    main()
