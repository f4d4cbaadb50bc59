"""Clips whose pictures, times and tags are known, written by PyAV alone."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.filter import Graph

PATCHES = ((200, 60, 40), (40, 180, 60), (50, 70, 210), (180, 180, 180))
"""RGB of four patches: top left, top right, bottom left, bottom right."""


def patches(height: int = 96, width: int = 128) -> np.ndarray:
    """(H, W, 3) uint8 RGB: four quarters in the colours of `PATCHES`."""
    image = np.empty((height, width, 3), np.uint8)
    for place, colour in enumerate(PATCHES):
        row, column = divmod(place, 2)
        image[
            row * height // 2 : (row + 1) * height // 2,
            column * width // 2 : (column + 1) * width // 2,
        ] = colour
    return image


def seen(image: np.ndarray) -> list[tuple[int, ...]]:
    """RGB in the middle of each quarter of a BGR image, in the order of `PATCHES`."""
    height, width = image.shape[:2]
    middle = [
        image[y, x, ::-1] for y in (height // 4, -height // 4) for x in (width // 4, -width // 4)
    ]
    return [tuple(map(int, pixel)) for pixel in middle]


def close(found: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]], by: int = 6) -> bool:
    """Whether colours are equal up to `by` levels, for compression."""
    return bool(np.abs(np.array(found) - np.array(wanted)).max() <= by)


def filtered(frame: av.VideoFrame, *filters: str) -> av.VideoFrame:
    """A frame through a chain of FFmpeg's filters, written as "name=arguments"."""
    graph = Graph()
    nodes = [
        graph.add(
            "buffer",
            video_size=f"{frame.width}x{frame.height}",
            pix_fmt=frame.format.name,
            time_base="1/1000",
            pixel_aspect="1/1",
        )
    ]
    for one in filters:
        name, _, arguments = one.partition("=")
        nodes.append(graph.add(name, arguments or None))
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    graph.push(frame)
    graph.push(None)
    return graph.pull()


def write_clip(
    path: Path,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    images: Sequence[np.ndarray] | None = None,
    frames: int = 10,
    rate: int = 25,
    times: Sequence[int] | None = None,
    tags: tuple[int, int, int, int] | None = None,
    interlaced: bool = False,
    display: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write RGB images, by default `patches`, as a video.

    Args:
        times: of the frames in milliseconds; None is the rate.
        tags: (matrix, primaries, transfer, range); the picture is converted by the matrix where
            FFmpeg can.
        interlaced: whether frames are flagged so, the upper field first.
        display: (a, b, c, d) of a display matrix.
    """
    images = images if images is not None else [patches()] * frames
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        context = stream.codec_context
        if times is not None:
            context.time_base = Fraction(1, 1000)
        if interlaced:
            context.flags |= Flags.interlaced_dct | Flags.interlaced_me
        if tags is not None:
            context.colorspace, context.color_primaries, context.color_trc, context.color_range = (
                tags
            )
        if display is not None:
            stream.set_display_matrix(display_numbers(display, stream.width, stream.height))
        for number, image in enumerate(images):
            order = "rgba" if image.ndim == 3 and image.shape[2] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), order)
            frame = converted(frame, pix_fmt, tags)
            if interlaced:
                frame = filtered(frame, "setfield=tff")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, rate) if times is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def converted(
    frame: av.VideoFrame, pix_fmt: str, tags: tuple[int, int, int, int] | None
) -> av.VideoFrame:
    """A frame in another pixel format, by the matrix and range of `tags`."""
    if tags is None:
        return frame.reformat(format=pix_fmt)
    matrix = tags[0] if tags[0] in (1, 4, 5, 6, 7, 9) else 6
    frame = frame.reformat(
        format=pix_fmt, dst_colorspace=5 if matrix == 6 else matrix, dst_color_range=tags[3] or 1
    )
    frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range = tags
    return frame


def display_numbers(display: Sequence[float], width: int, height: int) -> list[int]:
    """The nine numbers of a display matrix that moves the picture back into view."""
    a, b, c, d = display
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)]) @ np.array(
        [(a, b), (c, d)]
    )
    x, y = -corners.min(0)
    one = 1 << 16
    return [
        *(round(n * one) for n in (a, b)),
        0,
        *(round(n * one) for n in (c, d)),
        0,
        round(x * one),
        round(y * one),
        1 << 30,
    ]


def joined(path: Path, *parts: Path) -> Path:
    """A file of the bytes of others, as `cat` joins them."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


SAMPLE_ENTRY = ("moov", "trak", "mdia", "minf", "stbl", "stsd")
"""Boxes of an MP4 file around what describes its first track."""

HEADS = {"stsd": 16, "avc1": 86, "hev1": 86}
"""Bytes before the boxes inside these; others have 8."""


def with_box(content: bytes, path: Sequence[str], kind: str, inside: bytes) -> bytes:
    """An MP4 file whose index lies at its end, with one more box.

    Args:
        path: names of the boxes around the new one, from the outermost.
    """
    changed, at, end, box = bytearray(content), 0, len(content), kind.encode() + inside
    box = (4 + len(box)).to_bytes(4, "big") + box
    for name in path:
        while changed[at + 4 : at + 8] != name.encode():
            at += int.from_bytes(changed[at : at + 4], "big")
            assert at < end, name
        size = int.from_bytes(changed[at : at + 4], "big")
        changed[at : at + 4] = (size + len(box)).to_bytes(4, "big")
        at, end = at + HEADS.get(name, 8), at + size
    changed[end:end] = box
    return bytes(changed)
