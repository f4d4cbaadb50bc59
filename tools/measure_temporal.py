"""What `--smooth` and `--propagate` buy and cost, on clips: the figures in docs/.

    python tools/measure_temporal.py smooth -m person CLIP ... --strengths 0.3,0.5,0.7
    python tools/measure_temporal.py propagate -m net.onnx CLIP ... --every 8,16,0 --live 30

A clip is a video, or a folder with frames/ and masks/ (0 and 255) in which the masks say where
the object of --show-class is. The network sees every frame once; its scores are kept in --cache.

Flicker is the share of pixels that change their class between frames for no reason: where the
labels stay the same or, without labels, the picture does. A mask that trails what moves has little
of it, so the share of pixels is told beside it that have another class than the scores' mean over
five frames, two of them yet to come. Agreement is the share of pixels with
the class that the network itself gives, over the frames that were propagated. `--every 0` is what
`--propagate` does by itself; `--live 30` is a network that answers after 30 frames.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from time import thread_time
from typing import Any

import cv2
import numpy as np

import rtseg
from rtseg.decode import decode
from rtseg.frame import Frame, Segmentation
from rtseg.metrics import Flicker, static_in_images, static_in_labels
from rtseg.segmenter import Pair, Segmenter
from rtseg.session.inference import KeyframeNetwork, carried_live
from rtseg.session.loop import stream
from rtseg.stats import Stats
from rtseg.temporal import keyframes
from rtseg.temporal.smooth import Smoother


class Recorded:
    """Stands for a segmenter: says of each frame again what the network said once."""

    def __init__(self, said: list[Segmentation]) -> None:
        self.said, self.labels = said, said[0].labels

    def stream(self, frames: Iterable[Frame], stats: Stats | None = None) -> Iterator[Pair]:
        """As of a segmenter."""
        return ((frame, self.said[frame.index]) for frame in frames)


class Late:
    """Stands for the network's thread and the slot before it: answers after so many frames."""

    def __init__(self, recorded: Recorded, frames: int) -> None:
        self.recorded, self.frames = recorded, frames
        self.asked: list[Frame] = []
        self.now = 0

    def put(self, frame: Frame) -> None:
        """As of a slot."""
        self.asked.append(frame)

    def poll(self, seconds: float) -> Iterator[Pair | None]:
        """As of a flow."""
        while True:
            due = self.asked and self.now >= self.asked[0].index + self.frames
            yield next(self.recorded.stream([self.asked.pop(0)])) if due else None

    def watch(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The frames; how many went by is the time."""
        for frame in frames:
            self.now = frame.index
            yield frame


class Clip:
    """The frames of a clip, their labels if there are any, and what the network says of them."""

    def __init__(self, path: Path, asked: argparse.Namespace, segmenter: Segmenter) -> None:
        self.name = path.stem
        pictures = path / "frames" if path.is_dir() else path
        options: dict[str, Any] = {"max_frames": asked.frames}
        with rtseg.open_source(pictures, rtseg.SourceOptions(**options)) as source:
            self.frames = list(source)
        names = sorted((path / "masks").glob("*.png")) if path.is_dir() else []
        labelled = names[: len(self.frames)]
        self.labels = [cv2.imread(str(name), cv2.IMREAD_GRAYSCALE) // 255 for name in labelled]
        self.recorded = Recorded(self._look(segmenter, asked.cache))
        self.masks = [said.mask for said in self.recorded.said]

    def _look(self, segmenter: Segmenter, cache: Path | None) -> list[Segmentation]:
        size = "x".join(map(str, segmenter.input_size))
        said = [segmenter(self.frames[0].image)]
        digest = sha256(said[0].scores)  # networks of one name differ, and clips
        for frame in self.frames:
            digest.update(frame.image)
        kept = cache and cache / f"{segmenter.spec.name}_{size}_{digest.hexdigest()[:16]}.npy"
        if kept is not None and kept.exists():
            return [said[0].with_scores(scores) for scores in np.load(kept)]
        said += [segmenter(frame.image) for frame in self.frames[1:]]
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.save(kept, np.stack([one.scores for one in said]))
        return said

    def quiet(self, index: int) -> np.ndarray:
        """Where a class has no reason to change from frame `index` to the next."""
        if self.labels:
            return static_in_labels(self.labels[index], self.labels[index + 1])
        return static_in_images(self.frames[index].image, self.frames[index + 1].image)

    def flicker(self, masks: list[np.ndarray]) -> float:
        """Share of the quiet pixels that changed their class."""
        flicker = Flicker()
        for index, (before, after) in enumerate(pairwise(masks)):
            flicker.update(before, after, self.quiet(index))
        return flicker.share

    @cached_property
    def centred(self) -> list[np.ndarray]:
        """Masks of each frame's scores averaged with those of two frames before and after."""
        scores = np.stack([said.scores for said in self.recorded.said])
        align = self.recorded.said[0].align_corners
        means = (scores[max(0, i - 2) : i + 3].mean(0) for i in range(len(scores)))
        return [decode(mean, self.frames[0].size, align_corners=align)[0] for mean in means]

    def off(self, masks: list[np.ndarray]) -> float:
        """Share of pixels with another class than in the middle of what comes before and after."""
        return float(np.mean([(a != b).mean() for a, b in zip(masks, self.centred, strict=True)]))

    def iou(self, masks: list[np.ndarray], shown: int) -> float:
        """Of the object, over all frames."""
        both = either = 0
        for mask, label in zip(masks, self.labels, strict=True):
            both += int(((mask == shown) & (label == 1)).sum())
            either += int(((mask == shown) | (label == 1)).sum())
        return both / max(1, either)


def smooth(clip: Clip, asked: argparse.Namespace) -> Iterator[str]:
    """One line for each strength, the first without."""
    plain = clip.flicker(clip.masks)
    shown = clip.recorded.labels.index(asked.show_class)
    for strength in [0.0, *map(float, asked.strengths.split(","))]:
        smoother, seconds, masks = Smoother(strength), 0.0, []
        for frame, said in zip(clip.frames, clip.recorded.said, strict=True):
            since = thread_time()
            scores = smoother(said.scores, frame.image, frame.pts)
            seconds += thread_time() - since
            masks.append(decode(scores, frame.size, align_corners=said.align_corners)[0])
        flicker = clip.flicker(masks)
        iou = f"{clip.iou(masks, shown):8.2%}" if clip.labels else "       -"
        milliseconds = 1e3 * seconds / len(masks)
        less = flicker / plain if plain else 1.0
        yield (
            f"{clip.name:<24}{strength:>5}  flicker {flicker:7.3%} x{less:4.2f}  "
            f"off {clip.off(masks):7.3%}  IoU {iou}  {milliseconds:5.2f} ms"
        )


def propagate(clip: Clip, asked: argparse.Namespace) -> Iterator[str]:
    """One line for each interval, then for each delay of a live network."""
    following = [float((a == b).mean()) for a, b in pairwise(clip.masks)]
    yield f"{clip.name:<24}consecutive frames of the network agree {np.mean(following):6.2%}"
    for every in map(int, filter(None, asked.every.split(","))):
        options = rtseg.TemporalOptions(propagate=True, key_every=every or None)
        source = _Replay(clip)
        pairs = stream(source, clip.recorded, temporal=options)  # type: ignore[arg-type]
        yield _row(clip, f"every {every or 'auto'}", pairs)
    for delay in map(int, filter(None, asked.live.split(","))):
        late = Late(clip.recorded, delay)
        network = KeyframeNetwork(clip.recorded, late, late, Stats())  # type: ignore[arg-type]
        yield _row(clip, f"live {delay}", carried_live(late.watch(clip.frames), network, None))


class _Replay(rtseg.Source):
    """Frames that are in memory."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        height, width = clip.frames[0].size
        self.info = rtseg.SourceInfo(clip.name, width, height)
        self._left = iter(clip.frames)

    def _read(self) -> Frame | None:
        return next(self._left, None)


def _row(clip: Clip, what: str, pairs: Iterator[Pair]) -> str:
    carried: list[float] = []
    held: list[float] = []
    keys, last = 0, 0
    for frame, said in pairs:
        keys += said.carried is None
        if said.carried is None:
            last = frame.index
        elif said.carried.key is not None:
            last = min(said.carried.key, frame.index) if keys == 0 else last
            carried.append(float((said.mask == clip.masks[frame.index]).mean()))
            held.append(float((clip.masks[last] == clip.masks[frame.index]).mean()))
    one_in = f"one key in {len(clip.frames) / keys:5.1f}" if keys else ""
    if not carried:
        return f"{clip.name:<24}{what:<12}{one_in:<17}  nothing was carried"
    return (
        f"{clip.name:<24}{what:<12}{one_in:<17}  agreement {np.mean(carried):7.2%}  "
        f"5 % below {np.percentile(carried, 5):7.2%}  not carried {np.mean(held):7.2%}"
    )


def main() -> None:
    """Print the lines of one of the two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["smooth", "propagate"])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("-m", "--model", default="person")
    parser.add_argument("--frames", type=int, default=90, help="of each clip, at the most")
    parser.add_argument("--cache", type=Path, help="folder for the network's scores")
    parser.add_argument("--show-class", default="person", help="of the labels")
    parser.add_argument("--strengths", default="0.5,0.8,1")
    parser.add_argument("--every", default="8,16,0")
    parser.add_argument("--live", default="")
    parser.add_argument("--lost", type=float, default=keyframes.LOST_SHARE)
    asked = parser.parse_args()
    keyframes.LOST_SHARE = asked.lost
    for path in asked.clips:
        first = next(iter(rtseg.open_source(path / "frames" if path.is_dir() else path)))
        with rtseg.load(asked.model, frame_size=first.size) as segmenter:
            clip = Clip(path, asked, segmenter)
        for line in globals()[asked.what](clip, asked):
            print(line, flush=True)


if __name__ == "__main__":
    main()
