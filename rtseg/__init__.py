"""Real-time semantic segmentation of webcams, videos, streams and pictures.

    segmenter = rtseg.load()
    mask = segmenter(image).mask

    for frame, segmentation in rtseg.stream("clip.mp4", segmenter):
        ...

    rtseg.train("dataset/", epochs=20)
    rtseg.evaluate("dataset/", "run/")
    rtseg.export("run/", "net.onnx")

Importing this package loads no heavy library; each name below is imported on first use.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rtseg._version import __version__

# What libraries look for when they load. Without, ONNX Runtime (since 1.29) tells its makers of
# each session, and OpenCV takes up to a minute to open a camera on Windows (opencv/opencv#17687).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS", "0")
# torch's OpenMP threads spin for milliseconds at the end of each operator, and take the cores from
# the threads that decode, draw and encode, and from those they wait for: GNU's runtime then spins
# as briefly as it does by itself where it knows of more threads than cores.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from rtseg.api import evaluate as evaluate
    from rtseg.api import export as export
    from rtseg.api import load as load
    from rtseg.api import stream as stream
    from rtseg.api import stream_many as stream_many
    from rtseg.api import train as train
    from rtseg.contracts import Backend as Backend
    from rtseg.contracts import Effect as Effect
    from rtseg.contracts import Rendered as Rendered
    from rtseg.contracts import Sink as Sink
    from rtseg.contracts import Source as Source
    from rtseg.contracts import SourceInfo as SourceInfo
    from rtseg.effects import ViewOptions as ViewOptions
    from rtseg.effects import open_effect as open_effect
    from rtseg.errors import RtsegError as RtsegError
    from rtseg.frame import Frame as Frame
    from rtseg.frame import Segmentation as Segmentation
    from rtseg.labels import LabelSet as LabelSet
    from rtseg.segmenter import Segmenter as Segmenter
    from rtseg.session.loop import run as run
    from rtseg.sinks import SinkOptions as SinkOptions
    from rtseg.sinks import open_sink as open_sink
    from rtseg.sources import SourceOptions as SourceOptions
    from rtseg.sources import open_source as open_source
    from rtseg.stats import Report as Report
    from rtseg.stats import Stats as Stats
    from rtseg.temporal import TemporalOptions as TemporalOptions
    from rtseg.zoo import ModelSpec as ModelSpec

_HOME = {
    "Backend": "contracts",
    "Effect": "contracts",
    "Frame": "frame",
    "LabelSet": "labels",
    "ModelSpec": "zoo",
    "Rendered": "contracts",
    "Report": "stats",
    "RtsegError": "errors",
    "Segmentation": "frame",
    "Segmenter": "segmenter",
    "Sink": "contracts",
    "SinkOptions": "sinks",
    "Source": "contracts",
    "SourceInfo": "contracts",
    "SourceOptions": "sources",
    "Stats": "stats",
    "TemporalOptions": "temporal",
    "ViewOptions": "effects",
    "evaluate": "api",
    "export": "api",
    "load": "api",
    "open_effect": "effects",
    "open_sink": "sinks",
    "open_source": "sources",
    "run": "session.loop",
    "stream": "api",
    "stream_many": "api",
    "train": "api",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rtseg' has no attribute {name!r}")
    return getattr(import_module(f"rtseg.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
