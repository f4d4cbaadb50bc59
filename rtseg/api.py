"""The two calls that most programs need: load a network, iterate a source through it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rtseg.backends import fit_size, open_backend
from rtseg.contracts import Source
from rtseg.frame import Frame
from rtseg.nets import default_model, find_model
from rtseg.pipeline import Policy
from rtseg.pipeline import stream as stream_source
from rtseg.segmentation import Segmentation
from rtseg.segmenter import Segmenter
from rtseg.sources import SourceOptions, open_source
from rtseg.temporal import TemporalOptions


def load(
    name_or_path: str | Path | None = None,
    *,
    weights: str | Path | None = None,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    imgsz: tuple[int, int] | None = None,
    frame_size: tuple[int, int] | None = None,
    classes: Iterable[str | int] | None = None,
    threads: int | None = None,
    lanes: int = 1,
    strict_device: bool = False,
) -> Segmenter:
    """Load a network, ready and warm: `load()(image).mask`.

    Args:
        name_or_path: a name of `rtseg models`, an ONNX file or a checkpoint; None is the default.
        weights: a file, or "random" to time a network whose weights cannot be had.
        imgsz: (height, width) of the network's input; None is what the network was made for.
        frame_size: (height, width) of the pictures to come; shapes the input after them.
        classes: names or ids to keep.
        lanes: frames of a recording to work on at once, where the backend gains by it; the number
            of cores is best for whole files, 1 for anything live.
        strict_device: raise DeviceError instead of falling back.

    Raises:
        ModelError: the network or its weights are not what was named.
        DownloadError: the weights are not in the cache and cannot be fetched.
        DeviceError: the device failed, or is not the one required.
    """
    model = find_model(name_or_path or default_model(), weights=weights)
    if imgsz is None and frame_size is not None:
        imgsz = fit_size(model.spec, frame_size[1], frame_size[0])
    loaded = open_backend(
        backend,
        model,
        input_size=imgsz,
        device=device,
        precision=precision,
        threads=threads,
        lanes=lanes,
        strict=strict_device,
    )
    selected = None if classes is None else loaded.spec.labels.select(classes)
    return Segmenter(loaded, selected=selected)


def stream(
    source: Source | str | int | Path,
    segmenter: Segmenter,
    *,
    policy: Policy = "auto",
    temporal: TemporalOptions = TemporalOptions(),  # noqa: B008 - frozen
    **options: Any,
) -> Iterator[tuple[Frame, Segmentation]]:
    """Iterate (frame, segmentation) of a source; files give every frame, live sources the newest.

    Args:
        source: an open source, which stays open, or what `open_source` takes, closed at the end.
        temporal: smoothing over time, and the network on keyframes only; off by default.
        options: of `SourceOptions`, when `source` is still to be opened.

    Raises:
        SourceError: the source cannot be opened, or was lost for good.
        BackendError: the network failed.
    """
    if isinstance(source, Source):
        yield from stream_source(source, segmenter, policy=policy, temporal=temporal)
        return
    with open_source(source, SourceOptions(**options)) as opened:
        yield from stream_source(opened, segmenter, policy=policy, temporal=temporal)
