"""The calls that most programs need: load a network, iterate one source through it, or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from rtseg.backends import open_backend
from rtseg.backends.base import fit_size
from rtseg.backends.options import NetworkOptions, check_size
from rtseg.contracts import Source
from rtseg.errors import RtsegError, UsageError
from rtseg.frame import Frame
from rtseg.labels import palette
from rtseg.nets import default_model, find_model
from rtseg.segmentation import Segmentation
from rtseg.segmenter import Segmenter
from rtseg.session.fastest import open_measured
from rtseg.session.loop import TICK_SECONDS
from rtseg.session.many import Crowd, Feed, open_all
from rtseg.session.pipeline import Policy, keeps_newest
from rtseg.session.pipeline import stream as stream_source
from rtseg.sources import SourceOptions, open_source
from rtseg.sources.options import public_name
from rtseg.temporal import TemporalOptions


def load(
    name_or_path: str | Path | None = None,
    *,
    frame_size: tuple[int, int] | None = None,
    **options: Any,
) -> Segmenter:
    """Load a network, ready and warm: `load()(image).mask`.

    Args:
        name_or_path: a name of `rtseg models`, an ONNX file or a checkpoint; None is the default.
        frame_size: (height, width) of the images to come; shapes the input after them.
        options: of `NetworkOptions`: weights, backend, device, precision, imgsz, classes, refine,
            threads, lanes, strict_device, ... `backend` "auto" is the usual one for network and
            device; "fastest" measures what is installed, once for network, size and machine, as
            the command line does. `lanes` are best as many as cores for whole files, 1 for
            anything live.

    Raises:
        UsageError: a size is not (height, width), or another value makes no sense.
        ModelError: the network or its weights are not what was named.
        DownloadError: the weights are not in the cache and cannot be fetched.
        DeviceError: the device failed, or is missing and `strict_device` is set.
    """
    fastest = options.get("backend") == "fastest"
    if fastest:
        options["backend"] = "auto"
    options["classes"] = tuple(options.get("classes") or ())
    asked = NetworkOptions(model=None if name_or_path is None else str(name_or_path), **options)
    check_size("frame_size", frame_size)
    model = find_model(
        asked.model or default_model(), weights=asked.weights, input_flags=asked.foreign
    )
    imgsz = asked.imgsz
    if imgsz is None and frame_size is not None:
        imgsz = fit_size(model.spec, frame_size[1], frame_size[0])
    open_it = open_measured if fastest else partial(open_backend, asked.backend)
    loaded = open_it(model, input_size=imgsz, **asked.running())
    labels = loaded.spec.labels
    if asked.palette is not None:
        labels = labels.recoloured(palette(asked.palette, len(labels)))
    selected = labels.select(asked.classes) if asked.classes else None
    return Segmenter(loaded, labels=labels, selected=selected, refine=asked.refine)


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


Ended = Callable[[int, "RtsegError | None"], None]
"""Told the number of a source, and what ended it if not itself."""


def stream_many(
    sources: Sequence[Source | str | int | Path],
    segmenter: Segmenter,
    *,
    policy: Policy = "auto",
    temporal: TemporalOptions = TemporalOptions(),  # noqa: B008 - frozen
    on_end: Ended | None = None,
    **options: Any,
) -> Iterator[tuple[int, Frame, Segmentation]]:
    """Iterate (number of the source, frame, segmentation) of several sources at once.

    All share the network. Whatever each has when it is free goes through it, in one batch where
    the backend gains by that, else in fair turns; no source waits for another. Of live sources
    that is the newest frame, of files every one, in order; frames come at their own size. For the
    network they are all stretched to its one input size. Ends when all sources have ended.

    Args:
        sources: open sources, which stay open, or what `open_source` takes, closed at the end.
        segmenter: with as many lanes as there are sources, at most one per core, it is quicker:
            `load(lanes=2)`.
        temporal: smoothing over time, and rest of the network while a picture does not change, of
            each source by itself; off by default. Propagation is for one source.
        on_end: told the number of a source that ended, and None or the error that ended it, also
            where it could not be opened; the others go on. Without it, the first such error is
            raised once all others have ended.
        options: of `SourceOptions`, for sources that are still to be opened.

    Raises:
        SourceError: a source cannot be opened, or was lost for good, and there is no `on_end`.
        UsageError: propagation is asked for, or an option makes no sense.
        BackendError: the network failed.
    """
    if temporal.propagate:
        raise UsageError("propagation for several sources", found="it is for one", do="Use stream")
    with ExitStack() as stack:
        opened = _all_open(sources, SourceOptions(**options), stack)
        feeds = [
            Feed(
                source,
                source.info.name,
                newest=keeps_newest(policy, source.info.live),
                temporal=temporal,
            )
            for source in opened
        ]
        crowd = stack.enter_context(Crowd(feeds, segmenter))
        told: set[int] = set()
        for looks in crowd.poll(TICK_SECONDS):
            for look in looks:
                crowd.back(look)
            yield from looks
            _tell(feeds, told, on_end)
        _tell(feeds, told, on_end)
        errors = [feed.error for feed in feeds if feed.error is not None]
        if errors and on_end is None:
            raise errors[0]


def _all_open(
    sources: Sequence[Source | str | int | Path], options: SourceOptions, stack: ExitStack
) -> list[Source]:
    """The sources, opened where they are not; these are closed with the stack."""
    names = [source for source in sources if not isinstance(source, Source)]
    openers = [(public_name(str(name)), partial(open_source, name, options)) for name in names]
    opened = iter([stack.enter_context(source) for source in open_all(openers)])
    return [source if isinstance(source, Source) else next(opened) for source in sources]


def _tell(feeds: Sequence[Feed], told: set[int], on_end: Ended | None) -> None:
    """Call `on_end` for those that have ended since."""
    for number, feed in enumerate(feeds):
        if feed.ended and number not in told:
            told.add(number)
            if on_end is not None:
                on_end(number, feed.error)
