"""Networks side by side on clips, one frame of each, on one picture for the card of `person`.

    python tools/person_clips.py [-m BEFORE.safetensors] [--data ../shared/data] [--out FILE]

Columns are `person`, the networks of `-m`, and MediaPipe's selfie network as `person_sets.toml`
has it. The clips are those whose licences allow to show them: of intel-iot-devkit/sample-videos
(CC BY 4.0), OpenVINO's open_model_zoo and PaddleSeg (Apache-2.0), PySceneDetect and torchcodec
(BSD-3-Clause).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

import rtseg
from rtseg.effects import ViewOptions, open_effect
from rtseg.evaluation.networks import Network
from rtseg.evaluation.sets import read_suite
from rtseg.frame import Image
from rtseg.nets import find_model
from rtseg.sources import SourceOptions
from rtseg.sources.probe import packet_places

TOOLS = Path(__file__).resolve().parent
CLIPS = ("intel_*", "omz_*", "paddleseg_*", "pyscenedetect_aspect*", "torchcodec_dog_*")
HEIGHT, GAP, CLIPS_ACROSS = 120, 4, 2


def middle(clip: Path) -> rtseg.Frame:
    """The frame in the middle of a clip."""
    wanted = len(packet_places(str(clip), SourceOptions())) // 2
    with rtseg.open_source(str(clip), rtseg.SourceOptions()) as source:
        for frame in source:
            if frame.index == wanted:
                break
    return frame


def row(clip: Path, networks: Sequence[Network]) -> Image:
    """The middle of a clip with every network's mask over it, (HEIGHT + GAP, W, 3) uint8 BGR."""
    frame = middle(clip)
    tiles = []
    for network in networks:
        segmentation = network(frame.image)
        drawn = open_effect(ViewOptions(), segmentation.labels)(frame, segmentation)
        width = round(drawn.shape[1] * HEIGHT / drawn.shape[0])
        tiles.append(cv2.resize(drawn, (width, HEIGHT), interpolation=cv2.INTER_AREA))
    return np.hstack([np.pad(tile, ((0, GAP), (0, GAP), (0, 0))) for tile in tiles])


def main() -> None:
    """Read the command line and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", dest="others", type=Path, action="append", default=[])
    parser.add_argument("--data", type=Path, default=TOOLS.parents[1] / "shared" / "data")
    parser.add_argument(
        "--out", type=Path, default=TOOLS.parent / "docs" / "pictures" / "person_clips.jpg"
    )
    args = parser.parse_args()
    selfie = read_suite(TOOLS / "person_sets.toml", args.data).networks[0]
    models = [find_model(name) for name in ("person", *map(str, args.others))]
    models.append(find_model(selfie.model, input_flags=selfie.settings))
    networks = [Network(model.spec.name, model) for model in models]
    clips = sorted(clip for kind in CLIPS for clip in (args.data / "videos").glob(kind))
    rows = [row(clip, networks) for clip in clips]
    rows.sort(key=lambda r: r.shape[1])  # beside each other, what is about as wide
    pairs = [rows[i : i + CLIPS_ACROSS] for i in range(0, len(rows), CLIPS_ACROSS)]
    lines = [np.hstack(pair) for pair in pairs]
    widest = max(line.shape[1] for line in lines)
    sheet = np.vstack([np.pad(n, ((0, 0), (0, widest - n.shape[1]), (0, 0))) for n in lines])
    cv2.imwrite(str(args.out), sheet, (cv2.IMWRITE_JPEG_QUALITY, 82))


if __name__ == "__main__":
    main()
