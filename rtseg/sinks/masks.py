"""Index masks: the class of every pixel, exactly, as a lossless video or as palette PNGs."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image as PaletteImage

from rtseg.contracts import Rendered, Sink, SourceInfo
from rtseg.errors import UsageError
from rtseg.frame import Mask
from rtseg.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from rtseg.labels import VOID, LabelSet
from rtseg.sinks.encoding import Encoder
from rtseg.sinks.options import PICTURE_SUFFIXES, SinkOptions
from rtseg.sinks.pictures import PictureFiles
from rtseg.sinks.video import VideoFile

LOSSLESS = {
    ".mkv": Encoder("ffv1", "gray", {"level": "3"}),
    ".avi": Encoder("ffv1", "gray", {"level": "3"}),
    # FFmpeg decodes grey H.264 as limited-range YUV; three equal RGB planes come back exactly
    ".mp4": Encoder("libx264rgb", "bgr24", {"preset": "veryfast", "qp": "0", "bf": "0"}),
}
"""FFmpeg, PyAV and OpenCV read them back with the class index in every channel of a pixel."""

OTHERS = {*VIDEO_SUFFIXES, *IMAGE_SUFFIXES} - {*LOSSLESS, ".png"}
"""Suffixes that masks are not written with."""

VOID_COLOUR = (224, 224, 192)
"""Pascal VOC's colour for "no class"."""


class MaskSink(Sink):
    """Writes index masks: `.mkv .avi .mp4` videos, or PNGs in the palette of the classes."""

    wants_image = False
    medium = "file"

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        suffix = path.suffix.lower()
        if str(path) == "-":
            raise UsageError("masks cannot go to stdout", do="Write them to a file or a folder")
        self._palette = palette(labels)
        self._video: VideoFile | None = None
        self._files: PictureFiles | None = None
        if suffix in LOSSLESS and not path.is_dir():
            self._video = VideoFile(path, info, LOSSLESS[suffix], overwrite=options.overwrite)
        elif suffix in OTHERS and not path.is_dir():
            lossy = suffix in (*VIDEO_SUFFIXES, *PICTURE_SUFFIXES)
            raise UsageError(
                f"cannot write masks to {path}",
                found=f"{suffix} would change the indices" if lossy else f"not as {suffix}",
                do=f"Use {' '.join(LOSSLESS)}, .png or a folder",
            )
        else:
            self._files = PictureFiles(path, info, overwrite=options.overwrite)

    def write(self, rendered: Rendered) -> None:
        """Write the mask of one frame."""
        mask = rendered.segmentation.mask
        if self._video is not None:
            self._video.add(mask, rendered.frame)
        elif self._files is not None:
            self._files.write(rendered.frame, lambda suffix: palette_png(mask, self._palette))

    def encoded(self) -> Iterable[float]:
        """Seconds that each mask took in a video."""
        return self._video.encoded() if self._video is not None else ()

    def close(self) -> None:
        """Finish the file, check it, and give it its name."""
        for target in (self._video, self._files):
            if target is not None:
                target.close()

    def summary(self) -> str:
        """Number of masks and where they are."""
        if self._video is not None:
            return self._video.summary().replace("frame", "mask", 1)
        return self._files.summary("mask") if self._files is not None else ""


def palette(labels: LabelSet) -> list[int]:
    """256 RGB colours, flat: those of the classes, black for unused indices, VOC's for VOID."""
    colours = [*labels.colours, *[(0, 0, 0)] * (VOID - len(labels)), VOID_COLOUR]
    return [channel for colour in colours for channel in colour]


def palette_png(mask: Mask, colours: list[int]) -> bytes:
    """(H, W) uint8 indices as a PNG whose pixels are the indices, shown in `colours`."""
    picture = PaletteImage.fromarray(mask).convert("L")
    picture.putpalette(colours)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def quick_png(mask: Mask, colours: list[int], opacity: bytes) -> bytes:
    """The same to look at, with the opacity of each index, 0 to 255.

    One bit a pixel where no index is above 1, without filters: for a mask of 1280x720 a fifth of
    the time of Pillow's, and half the bytes."""
    height, width = mask.shape
    bits = 1 if mask.max(initial=0) < 2 else 8
    rows = np.packbits(mask, axis=1) if bits == 1 else mask
    lines = np.zeros((height, rows.shape[1] + 1), np.uint8)  # each begins with its filter: none
    lines[:, 1:] = rows
    most = 1 << bits
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, bits, 3, 0, 0, 0),
        b"PLTE": bytes(colours[: 3 * most]),
        b"tRNS": opacity[:most],
        b"IDAT": zlib.compress(lines, 1),
        b"IEND": b"",
    }
    chunks = (
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
        for kind, part in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
