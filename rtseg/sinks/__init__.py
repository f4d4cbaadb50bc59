"""Where finished frames go: files, folders, pipes and windows.

out.mp4 .mov .mkv .webm .avi  video           -           raw frames on stdout
folder/, frames_%06d.png   pictures           null:       nowhere
window:                    a window           json:FILE   one line per frame, "-" for stdout
mask:TARGET                index masks        figure:FILE side-by-side figure of one picture
virtual, virtual:DEVICE    a virtual camera
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rtseg.errors import UsageError

if TYPE_CHECKING:
    from rtseg.contracts import Sink, SourceInfo
    from rtseg.labels import LabelSet

SINKS: dict[str, str] = {
    "video": "rtseg.sinks.video:VideoSink",
    "pictures": "rtseg.sinks.pictures:PictureSink",
    "raw": "rtseg.sinks.raw:RawSink",
    "null": "rtseg.sinks.pictures:NullSink",
    "window": "rtseg.sinks.window:WindowSink",
    "mask": "rtseg.sinks.masks:MaskSink",
    "json": "rtseg.sinks.jsonl:JsonLinesSink",
    "figure": "rtseg.sinks.figure:FigureSink",
    "virtual": "rtseg.sinks.virtual:VirtualSink",
}
"""Every sink is called as `(path, info, labels, options)`."""

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")

_ROLES = {"window", "null", "mask", "json", "figure", "virtual"}


@dataclass(frozen=True)
class SinkOptions:
    """How to write.

    Attributes:
        overwrite: whether a target that exists may be replaced.
        codec: of a video, "h264"; None is the container's usual one.
        crf: constant rate factor of the codec, lower is better; None is its usual one.
        audio: "copy" keeps the sound of the source's file, "none" leaves it out.
        rle: whether JSON lines carry COCO run-length masks.
        title: of the window.
        pix_fmt: of raw frames.
    """

    overwrite: bool = False
    codec: str | None = None
    crf: int | None = None
    audio: Literal["copy", "none"] = "copy"
    rle: bool = False
    title: str = "rtseg"
    pix_fmt: str = "bgr24"


def open_sink(
    target: str, info: SourceInfo, labels: LabelSet, options: SinkOptions = SinkOptions()
) -> Sink:
    """Open what `target` names, for frames of the source that `info` describes.

    Raises:
        UsageError: no sink takes such a target, or it exists and may not be replaced.
        SinkError: it cannot be written, or shown.
    """
    kind, path = find_kind(target)
    if path.is_file() and os.path.realpath(path) in map(os.path.realpath, info.pictures):
        raise UsageError(f"{path} is of the source itself", do="Give the output another name")
    return _resolve(SINKS[kind])(path, info, labels, options)


def find_kind(target: str) -> tuple[str, Path]:
    """The key of `SINKS` for a target, and the path it names.

    Raises:
        UsageError: no sink takes such a target.
    """
    role, colon, rest = target.partition(":")
    if colon and role in _ROLES:
        if role in ("mask", "json", "figure") and not rest:
            raise UsageError(f"output {target!r} names no file", do=f"Write {role}:FILE.")
        return role, Path(rest)
    if target == "virtual":
        return "virtual", Path()
    if target == "-":
        return "raw", Path(target)
    suffix = Path(target).suffix.lower()
    if is_folder(target) or suffix in PICTURE_SUFFIXES:
        return "pictures", Path(target)
    if suffix in VIDEO_SUFFIXES:
        return "video", Path(target)
    raise UsageError(
        f"cannot write {target!r}",
        found=(f"{suffix} is" if suffix else "it ends in")
        + f" none of {' '.join(VIDEO_SUFFIXES + PICTURE_SUFFIXES)}",
        do="A folder of pictures ends in '/', raw frames go to '-', nowhere is 'null:'.",
    )


def is_folder(target: str) -> bool:
    """Whether a target means a folder: it ends in a slash, or is one."""
    return target.endswith(("/", "\\")) or (bool(target) and Path(target).is_dir())


def _resolve(place: str) -> Callable[[Path, SourceInfo, LabelSet, SinkOptions], Sink]:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
