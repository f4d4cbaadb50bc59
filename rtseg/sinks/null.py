"""Nowhere."""

from __future__ import annotations

from pathlib import Path

from rtseg.contracts import Rendered, Sink, SourceInfo
from rtseg.labels import LabelSet
from rtseg.sinks import SinkOptions


class NullSink(Sink):
    """Takes frames and keeps none: runs for the numbers alone."""

    wants_image = False

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        pass

    def write(self, rendered: Rendered) -> None:
        """Do nothing."""
