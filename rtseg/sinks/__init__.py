"""Where finished frames go: files, folders, pipes, windows and virtual cameras.

A new sink is one file with a class, and one row of `SINKS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rtseg.errors import UsageError
from rtseg.options import expect, imported
from rtseg.sinks.options import VIDEO_SUFFIXES, pictures_path, stdout_path, video_path, virtual_path
from rtseg.sinks.options import SinkOptions as SinkOptions
from rtseg.text import file_name

if TYPE_CHECKING:
    from rtseg.contracts import Sink, SourceInfo
    from rtseg.labels import LabelSet


@dataclass(frozen=True)
class SinkKind:
    """A row of `SINKS`: what opens a kind of sink, and all that the rest of rtseg needs to know.

    Attributes:
        open: "module:class", imported when needed; called as (path, info, labels, options).
        match: returns the path that a target without a prefix names; None for other targets.
        prefix: whether targets are written "NAME:PATH", NAME being the key in `SINKS`.
        help: how `-o` takes it; empty for kinds that have a flag of their own.
        is_file: the path is a file, a folder of files, or "-" for stdout.
        many_files: the path may be a folder or a numbered pattern.
        folder_suffix: of the video that each of several sources gets in a folder; "" for none.
        needs_display: cannot be opened without a display.
        is_watched: frames are only looked at, so that recordings play at their own speed.
        fixed_labels: output holds class names or numbers, so all frames need the same labels.
        first_frame_only: uses one frame.
        options: fields of `SinkOptions` that it reads, beside `overwrite`.
        checker: "module:function", called by `check`.
    """

    open: str
    match: Callable[[str], Path | None] = lambda target: None
    prefix: bool = False
    help: str = ""
    is_file: bool = False
    many_files: bool = False
    folder_suffix: str = ""
    needs_display: bool = False
    is_watched: bool = False
    fixed_labels: bool = False
    first_frame_only: bool = False
    options: frozenset[str] = frozenset()
    checker: str = ""

    def check(self, path: Path, options: SinkOptions, alpha: bool) -> None:
        """Check what can be checked before a frame exists, without creating anything.

        Args:
            alpha: whether images will be transparent, which not every sink can hold.

        Raises:
            UsageError: it cannot be opened with these options, or cannot hold transparency.
        """
        if self.checker:
            imported(self.checker)(path, options, alpha)


SINKS: dict[str, SinkKind] = {
    "video": SinkKind(
        "rtseg.sinks.video:VideoSink",
        match=video_path,
        help="out" + " ".join(VIDEO_SUFFIXES),
        is_file=True,
        options=frozenset({"codec", "crf", "encoder", "audio"}),
        checker="rtseg.sinks.encoding:check_video",
    ),
    "pictures": SinkKind(
        "rtseg.sinks.pictures:PictureSink",
        match=pictures_path,
        help="image.png .jpg, folder/, frames_%06d.png",
        is_file=True,
        many_files=True,
        folder_suffix=".mp4",
        checker="rtseg.sinks.pictures:check_pictures",
    ),
    "raw": SinkKind(
        "rtseg.sinks.raw:RawSink",
        match=stdout_path,
        help="- (raw)",
        is_file=True,
        options=frozenset({"pix_fmt"}),
        checker="rtseg.sinks.raw:check_raw",
    ),
    "virtual": SinkKind(
        "rtseg.sinks.virtual:VirtualSink",
        match=virtual_path,
        prefix=True,
        help="virtual[:DEVICE] (a virtual camera)",
        is_watched=True,
        checker="rtseg.sinks.virtual:check_virtual",
    ),
    "window": SinkKind(
        "rtseg.sinks.window:WindowSink",
        prefix=True,
        needs_display=True,
        is_watched=True,
        options=frozenset({"title"}),
    ),
    "mask": SinkKind(
        "rtseg.sinks.masks:MaskSink",
        prefix=True,
        is_file=True,
        many_files=True,
        folder_suffix=".mkv",
        fixed_labels=True,
    ),
    "json": SinkKind(
        "rtseg.sinks.jsonl:JsonLinesSink",
        prefix=True,
        is_file=True,
        fixed_labels=True,
        options=frozenset({"rle"}),
    ),
    "figure": SinkKind(
        "rtseg.sinks.figure:FigureSink",
        prefix=True,
        is_file=True,
        fixed_labels=True,
        first_frame_only=True,
    ),
    "null": SinkKind("rtseg.sinks.pictures:NullSink", prefix=True),
}


def open_sink(
    target: str | Path,
    info: SourceInfo,
    labels: LabelSet,
    options: SinkOptions = SinkOptions(),  # noqa: B008 - frozen
) -> Sink:
    """Open the sink that `target` names, for frames of the source that `info` describes.

    Raises:
        UsageError: no sink takes such a target, or it exists and may not be replaced.
        SinkError: it cannot be written, or shown.
    """
    expect((options, "rtseg.sinks:SinkOptions"), (labels, "rtseg.labels:LabelSet"))
    expect((info, "rtseg.contracts:SourceInfo"))
    kind, path = find_kind(file_name(target))
    if path.is_file() and os.path.realpath(path) in map(os.path.realpath, info.pictures):
        raise UsageError(f"{path} is part of the source itself", do="Give the output another name")
    kind.check(path, options, False)
    return imported(kind.open)(path, info, labels, options)


def find_kind(target: str) -> tuple[SinkKind, Path]:
    """The row of `SINKS` for a target, and the path in it.

    Raises:
        UsageError: no sink takes such a target.
    """
    prefix, rest = split_prefix(target)
    if prefix:
        kind = SINKS[prefix[:-1]]
        if kind.is_file and not rest:
            raise UsageError(f"output {target!r} names no file", do=f"Write {prefix}FILE.")
        return kind, Path(rest)
    for kind in SINKS.values():
        path = kind.match(target)
        if path is not None:
            return kind, path
    suffix = Path(target).suffix
    raise UsageError(
        f"cannot write {target!r}",
        found=f"unknown suffix {suffix}" if suffix else "it has no suffix",
        do=f"Outputs are {target_help()}",
    )


def split_prefix(target: str) -> tuple[str, str]:
    """("mask:", "folder/") for "mask:folder/"; ("", target) for a target without a prefix."""
    name, colon, rest = target.partition(":")
    if colon and name in SINKS and SINKS[name].prefix:
        return f"{name}:", rest
    return "", target


def target_help() -> str:
    """The forms of target that `-o` takes."""
    return ", ".join(kind.help for kind in SINKS.values() if kind.help)
