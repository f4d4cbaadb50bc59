"""How frames are written, and what a target names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rtseg.errors import UsageError
from rtseg.options import check
from rtseg.outputs import NUMBER

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class SinkOptions:
    """How to write.

    Attributes:
        overwrite: Replace existing files.
        codec: Video codec: h264, hevc, vp9, vp8, mjpeg, ffv1 or prores.
        crf: Video quality; lower means better quality and a larger file.
        encoder: H.264 encoder: auto (x264), x264, or of the GPU: nvenc, qsv, amf, videotoolbox.
        audio: copy keeps the source's audio, none drops it.
        rle: Include COCO run-length masks in the JSON lines.
        title: Window title.
        pix_fmt: Pixel format of raw frames.

    Raises:
        UsageError: a value is of the wrong type, or not one of the choices.
    """

    overwrite: bool = False
    codec: str | None = None
    crf: int | None = None
    encoder: Literal["auto", "x264", "nvenc", "qsv", "amf", "videotoolbox"] = "auto"
    audio: Literal["copy", "none"] = "copy"
    rle: bool = False
    title: str = "rtseg"
    pix_fmt: str = "bgr24"

    def __post_init__(self) -> None:
        check(self)


def is_folder(target: str) -> bool:
    """Whether a target means a folder: it ends in a slash, is one, or is new and has no suffix."""
    if target.endswith(("/", "\\")):
        return True
    if not target or target in ("-", "virtual"):
        return False
    path = Path(target)
    return path.is_dir() or (not path.suffix and not path.exists())


def is_many(path: Path) -> bool:
    """Whether a path means several files: a folder, or a numbered pattern."""
    folder = path.is_dir() or (not path.suffix and not path.exists())
    return folder or NUMBER.search(path.name) is not None


def video_path(target: str) -> Path | None:
    """The path of a target that is a video file."""
    path = Path(target)
    return path if path.suffix.lower() in VIDEO_SUFFIXES and not is_folder(target) else None


def pictures_path(target: str) -> Path | None:
    """The path of a target that is a picture, a folder or a numbered pattern."""
    path = Path(target)
    return path if is_folder(target) or path.suffix.lower() in PICTURE_SUFFIXES else None


def stdout_path(target: str) -> Path | None:
    """The path of standard output."""
    return Path(target) if target == "-" else None


def virtual_path(target: str) -> Path | None:
    """The path, empty, of the virtual camera."""
    return Path() if target == "virtual" else None


def opaque(place: str) -> UsageError:
    """The error for frames with alpha and a place where no format could hold it."""
    return UsageError(
        f"a transparent background in {place}",
        found="it cannot hold transparency",
        do="Give a colour, as --background '#00b140'",
    )
