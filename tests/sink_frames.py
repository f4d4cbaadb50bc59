"""What the tests of the sinks write: frames with known pixels, masks and times."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np

from rtseg.contracts import Rendered, SourceInfo
from rtseg.frame import Frame, Segmentation
from rtseg.labels import VOC
from rtseg.sinks import SinkOptions, open_sink
from rtseg.system import QUIET

os.environ.update(QUIET)  # OpenCV's FFmpeg asks once, whichever test opens the first video

SIZE = (96, 128)


def picture(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A flat grey whose value is the number, so that the order can be read back."""
    return np.full((*size, 3), 40 + index % 50 * 4, np.uint8)


def segmentation(index: int, size: tuple[int, int] = SIZE) -> Segmentation:
    """Person in a block that moves, background elsewhere."""
    scores = np.zeros((21, 8, 8), np.float32)
    scores[0] = 1
    scores[15, 2:5, index % 4 : index % 4 + 3] = 4
    return Segmentation(scores, VOC, size)


def rendered(
    index: int,
    pts: float | None = None,
    *,
    image: np.ndarray | None = None,
    name: str = "",
    captured_at: float = 0.0,
) -> Rendered:
    image = picture(index) if image is None else image
    frame = Frame(image.copy(), index, index / 30 if pts is None else pts, captured_at, name)
    return Rendered(frame, segmentation(index, frame.size), lambda frame, _: frame.image)


def info(rate: Fraction | None = Fraction(30), **more: Any) -> SourceInfo:
    return SourceInfo("made", SIZE[1], SIZE[0], rate, **more)


def write(target: str, frames: Iterable[Rendered], about: SourceInfo, **options: Any) -> str:
    """Write all, close, and return the summary."""
    with open_sink(target, about, VOC, SinkOptions(**options)) as sink:
        for frame in frames:
            sink.write(frame)
    return sink.summary()


def clip(path: Path, start: float = 0.0, end: float = 1e9) -> Iterator[Rendered]:
    """The frames of a real clip, pts from `start`."""
    capture = cv2.VideoCapture(str(path))
    index = 0
    while True:
        ok, image = capture.read()
        seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if not ok or seconds >= end:
            break
        if seconds >= start - 1e-6:
            yield rendered(index, seconds - start, image=image)
            index += 1
    capture.release()


def clip_info(path: Path, start: float = 0.0) -> SourceInfo:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        context = video.codec_context
        tags = (
            context.colorspace,
            context.color_primaries,
            context.color_trc,
            context.color_range,
        )
        return SourceInfo(
            path.name,
            video.width,
            video.height,
            Fraction(video.average_rate),
            media=path,
            media_start=start,
            sample_aspect_ratio=Fraction(video.sample_aspect_ratio or 1),
            colour_tags=tags,
        )


def packets(path: Path, kind: str) -> list[Any]:
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [packet for packet in container.demux(stream) if packet.size]


def times(path: Path) -> list[Fraction]:
    """Presentation times of all pictures, in seconds."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def sound(path: Path) -> tuple[np.ndarray, int, float]:
    """(samples of the first channel, rate, time of the first one)."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    start = float(frames[0].pts * frames[0].time_base)
    return np.concatenate([_mono(frame) for frame in frames]), frames[0].sample_rate, start


def _mono(frame: Any) -> np.ndarray:
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    scale = 32768.0 if samples.dtype == np.int16 else 1.0
    return samples[0].astype(np.float32) / scale
