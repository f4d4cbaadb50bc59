"""The clip that everything is timed on, and the frames taken from it."""

from __future__ import annotations

from pathlib import Path

from rtseg.backends import open_backend
from rtseg.contracts import SourceInfo
from rtseg.errors import SourceError, UsageError
from rtseg.frame import Frame
from rtseg.nets import find_model
from rtseg.segmenter import Segmenter
from rtseg.session.pipeline import run
from rtseg.sinks import open_sink
from rtseg.sources import SourceOptions, open_source

SAMPLES = 16
"""Frames in memory, for the clocks that need no file, and for the comparison of masks."""

SPAN = 480
"""Frames of the clip over which the samples are spread; reading on would only take time."""

PORTRAIT_SECONDS = 8


def clip_info(clip: str) -> SourceInfo:
    """What the clip says of itself.

    Raises:
        UsageError: it is live: its own speed would be measured, and not ours.
        SourceError: it cannot be opened.
    """
    with open_source(clip) as source:
        if source.info.live:
            raise UsageError(
                f"a benchmark on {source.info.name}",
                found="it is live, so its own speed would be measured",
                do="Name a file",
            )
        return source.info


def samples(clip: str, count: int = SAMPLES) -> list[Frame]:
    """Frames spread evenly over the clip's beginning: always the same ones.

    Raises:
        SourceError: there are none.
    """
    with open_source(clip) as source:
        length = min(source.info.frame_count or SPAN, SPAN)
    options = SourceOptions(every=max(1, length // count), max_frames=count)
    with open_source(clip, options) as source:
        found = list(source)
    if not found:
        raise SourceError(f"{clip} has no frame")
    return found


def write_portrait(folder: Path) -> Path:
    """The clip of `rtseg demo` as an H.264 file: a natural picture that everybody has.

    Raises:
        SinkError: it cannot be written.
    """
    path = folder / "portrait.mp4"
    stub = open_backend("stub", find_model("stub"), input_size=(64, 64))
    with (
        open_source(f"demo:{PORTRAIT_SECONDS}") as source,
        Segmenter(stub) as segmenter,
        open_sink(str(path), source.info, segmenter.labels) as sink,
    ):
        run(source, segmenter, lambda frame, _: frame.image, [sink])
    return path
