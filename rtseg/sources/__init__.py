"""Where frames come from: cameras, videos, pictures, streams, raw frames and synthetic clips.

A new source is one file with a class, and one row of `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rtseg.errors import UsageError
from rtseg.options import expect, imported
from rtseg.sources.options import SourceOptions as SourceOptions
from rtseg.sources.options import (
    address_stem,
    camera_stem,
    check_decoder,
    is_animated,
    is_camera,
    is_pictures,
    is_stdin,
    is_video,
    path_stem,
    trimmed,
)

if TYPE_CHECKING:
    from rtseg.contracts import Source
    from rtseg.stats import Clock


@dataclass(frozen=True)
class SourceKind:
    """A row of `SOURCES`: what opens a kind of source, and what others need to know of it.

    Attributes:
        open: "module:class", imported when needed; called as (target, options, clock).
        match: whether a target is of this kind.
        schemes: addresses of this kind begin with one of these and a colon.
        help: how `rtseg` takes it; empty for kinds that have a verb of their own.
        options: fields of `SourceOptions` that it reads and some other kinds do not.
        is_path: the target is a file, a folder or a glob.
        is_pictures: each frame is a file of its own.
        is_piped: it can be read once, at the speed of the program that writes it.
        stem: what files written from a target are called; by default the key in `SOURCES`.
    """

    open: str
    match: Callable[[str], bool] = lambda target: False
    schemes: frozenset[str] = frozenset()
    help: str = ""
    options: frozenset[str] = frozenset()
    is_path: bool = False
    is_pictures: bool = False
    is_piped: bool = False
    stem: Callable[[str], str] | None = None

    def matches(self, target: str) -> bool:
        """Whether a target is of this kind, by its scheme or by `match`.

        Raises:
            SourceError: the target is a path that cannot be looked up.
        """
        scheme, colon, _ = target.partition(":")
        return bool(colon and scheme.lower() in self.schemes) or self.match(target)


SOURCES: dict[str, SourceKind] = {
    "video": SourceKind(
        "rtseg.sources.video:VideoSource",
        match=is_video,
        help="video",
        options=frozenset({"decoder", "stream", "deinterlace", "fps"}),
        is_path=True,
        stem=path_stem,
    ),
    "pictures": SourceKind(
        "rtseg.sources.pictures:PictureSource",
        match=is_pictures,
        help="image, folder, glob",
        options=frozenset({"fps"}),
        is_path=True,
        is_pictures=True,
        stem=path_stem,
    ),
    "animation": SourceKind(
        "rtseg.sources.pictures:AnimationSource",
        match=is_animated,
        is_path=True,
        stem=path_stem,
    ),
    "camera": SourceKind(
        "rtseg.sources.camera:CameraSource",
        match=is_camera,
        help="camera number",
        options=frozenset("width height fps fourcc reconnect timeout".split()),
        stem=camera_stem,
    ),
    "stream": SourceKind(
        "rtseg.sources.stream:open_stream",
        schemes=frozenset("rtsp rtsps rtmp rtmps udp rtp tcp srt".split()),
        help="URL",
        options=frozenset("decoder stream deinterlace reconnect timeout".split()),
        stem=address_stem,
    ),
    "http": SourceKind(
        "rtseg.sources.http:open_http",
        schemes=frozenset({"http", "https"}),
        options=frozenset("decoder stream deinterlace reconnect timeout".split()),
        stem=address_stem,
    ),
    "stdin": SourceKind(
        "rtseg.sources.raw:RawSource",
        match=is_stdin,
        help="- (raw frames on stdin)",
        options=frozenset({"size", "pix_fmt", "fps"}),
        is_piped=True,
    ),
    "test": SourceKind(
        "rtseg.sources.synthetic:SyntheticSource",
        schemes=frozenset({"test"}),
        help="test:// (synthetic)",
    ),
    "demo": SourceKind("rtseg.sources.portrait:PortraitSource", schemes=frozenset({"demo"})),
}
"""Name of a kind -> its row. The last row that matches a target wins; the first takes any path."""


def kind_of(target: str | int | Path) -> str:
    """The key in `SOURCES` of a target.

    Raises:
        UsageError: it is empty, or an address of no kind.
        SourceError: it is a path that cannot be looked up.
    """
    text = trimmed(target)
    if not text.strip():
        raise UsageError("no source was named", do="Name a camera, a file, a folder or an address")
    for name, kind in reversed(SOURCES.items()):
        if kind.matches(text):
            return name
    schemes = sorted(scheme for kind in SOURCES.values() for scheme in kind.schemes)
    found = "there are " + ", ".join(schemes)
    raise UsageError(f"cannot read {text.partition('://')[0]}:// addresses", found=found)


def source_kind(target: str | int | Path) -> SourceKind:
    """The row of `SOURCES` of a target; raises as `kind_of`."""
    return SOURCES[kind_of(target)]


def target_help() -> str:
    """What `rtseg` takes as a source, for `--help`."""
    return ", ".join(kind.help for kind in SOURCES.values() if kind.help)


def file_stem(target: str) -> str:
    """What files written from a source are called: "camera_0", "clip", "host_stream"."""
    name = kind_of(target)
    stem = SOURCES[name].stem
    return name if stem is None else stem(target)


def open_source(
    target: str | int | Path,
    options: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
    *,
    clock: Clock | None = None,
) -> Source:
    """Open a source and select, turn and mirror its frames as the options say.

    Args:
        target: a camera's index or device, a video file, a picture, a folder or glob of
            pictures, an address, "-" for raw frames on standard input, "test://..." for the
            synthetic scene.

    Raises:
        UsageError: the request makes no sense.
        SourceError: it cannot be opened.
    """
    from rtseg.sources.wrappers import select, span

    expect((options, "rtseg.sources:SourceOptions"))
    kind = source_kind(target)
    if "decoder" not in kind.options:
        check_decoder(options, f"{target} is not one")
    text = trimmed(target)
    constructor: Callable[..., Source] = imported(kind.open)

    def opened() -> Source:
        return span(constructor(text, options, clock), options.start, options.end)

    return select(opened(), None if kind.is_piped else opened, options)
