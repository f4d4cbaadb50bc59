"""Where frames come from: one table, one `open_source`, one small file per kind."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rtseg.errors import SourceError, UsageError
from rtseg.sources.options import SourceOptions, check_decoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from rtseg.contracts import Source
    from rtseg.stats import Clock

    Opener = Callable[[str, SourceOptions, Clock | None], Source]

__all__ = ["SOURCES", "SourceOptions", "kind_of", "open_source"]

SOURCES: dict[str, str] = {
    "camera": "rtseg.sources.camera:CameraSource",
    "video": "rtseg.sources.video:VideoSource",
    "pictures": "rtseg.sources.pictures:PictureSource",
    "stream": "rtseg.sources.stream:open_stream",
    "stdin": "rtseg.sources.raw:RawSource",
    "test": "rtseg.sources.synthetic:SyntheticSource",
    "demo": "rtseg.sources.portrait:PortraitSource",
}
"""Kind of source -> what opens it, called as (target, options, clock)."""

SCHEMES = frozenset("rtsp rtsps rtmp rtmps http https udp rtp tcp srt".split())


def kind_of(target: str | int | Path) -> str:
    """The row of `SOURCES` that a target belongs to.

    Raises:
        UsageError: it is empty, or an address of a kind that cannot be read.
    """
    text = str(target)
    if not text.strip():
        raise UsageError("no source was named", do="Name a camera, a file, a folder or an address")
    if text.isdecimal() or text.startswith(("/dev/video", "/dev/v4l/")):
        return "camera"
    if text == "-":
        return "stdin"
    scheme = urlsplit(text).scheme if "://" in text or text.startswith(("test:", "demo:")) else ""
    if scheme in ("test", "demo"):
        return scheme
    if scheme and scheme.lower() not in SCHEMES:
        raise UsageError(
            f"cannot read {scheme}:// addresses",
            found="there are " + ", ".join(sorted(SCHEMES | {"test", "demo"})),
        )
    return "stream" if scheme else _kind_of_path(text)


def _kind_of_path(text: str) -> str:
    from rtseg.images import IMAGE_SUFFIXES

    path = Path(text)
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:  # it cannot even be asked for: too long a name, a closed folder
        raise SourceError(
            f"cannot open {text}", found=(error.strerror or str(error)).lower()
        ) from error
    if path.is_file():
        return "pictures" if path.suffix.lower() in IMAGE_SUFFIXES else "video"
    looks_like_pictures = text.endswith(("/", "\\")) or re.search(r"[*?\[]", text)
    if path.is_dir() or looks_like_pictures or path.suffix.lower() in IMAGE_SUFFIXES:
        return "pictures"
    return "video"


def open_source(
    target: str | int | Path,
    options: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
    *,
    clock: Clock | None = None,
) -> Source:
    """Open what a person named: the frames they asked for, turned and mirrored as asked.

    Args:
        target: a camera's index or device, a video file, a picture, a folder or glob of
            pictures, an address, "-" for raw frames on standard input, "test://..." for the
            synthetic scene.

    Raises:
        UsageError: the request makes no sense.
        SourceError: it cannot be opened.
    """
    from rtseg.sources.wrappers import select, span

    kind = kind_of(target)
    if kind not in ("video", "stream"):
        check_decoder(options, f"{target} is not one")
    opener = _resolve(SOURCES[kind])

    def opened() -> Source:
        return span(opener(str(target), options, clock), options.start, options.end)

    return select(opened(), opened, options)


def _resolve(place: str) -> Opener:
    module, _, name = place.partition(":")
    opener: Opener = getattr(import_module(module), name)
    return opener
