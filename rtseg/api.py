"""The calls that most programs need: load a network, iterate one source through it, or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

from rtseg.backends import open_backend
from rtseg.backends.base import fit_size
from rtseg.contracts import Source
from rtseg.errors import RtsegError, UsageError
from rtseg.frame import Frame
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
    weights: str | Path | None = None,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    imgsz: tuple[int, int] | None = None,
    frame_size: tuple[int, int] | None = None,
    classes: Iterable[str | int] | None = None,
    refine: bool = False,
    threads: int | None = None,
    lanes: int = 1,
    strict_device: bool = False,
) -> Segmenter:
    """Load a network, ready and warm: `load()(image).mask`.

    Args:
        name_or_path: a name of `rtseg models`, an ONNX file or a checkpoint; None is the default.
        weights: a file, or "random" to time a network whose weights cannot be had.
        backend: of `rtseg.backends.BACKENDS`; "auto" is the usual one for network and device;
            "fastest" times what is installed, once for network, size and machine, as the command
            line does.
        imgsz: (height, width) of the network's input; None is what the network was made for.
        frame_size: (height, width) of the pictures to come; shapes the input after them.
        classes: names or ids to keep.
        refine: let the edges of masks follow the picture's, see `rtseg.matte.refine`.
        lanes: frames of a recording to work on at once, where the backend gains by it; the number
            of cores is best for whole files, 1 for anything live.
        strict_device: raise DeviceError instead of falling back.

    Raises:
        UsageError: a size is no (height, width), or another value makes no sense.
        ModelError: the network or its weights are not what was named.
        DownloadError: the weights are not in the cache and cannot be fetched.
        DeviceError: the device failed, or is not the one required.
    """
    _check_size("imgsz", imgsz)
    _check_size("frame_size", frame_size)
    model = find_model(name_or_path or default_model(), weights=weights)
    if imgsz is None and frame_size is not None:
        imgsz = fit_size(model.spec, frame_size[1], frame_size[0])
    open_it = open_measured if backend == "fastest" else partial(open_backend, backend)
    loaded = open_it(
        model,
        input_size=imgsz,
        device=device,
        precision=precision,
        threads=threads,
        lanes=lanes,
        strict=strict_device,
    )
    selected = None if classes is None else loaded.spec.labels.select(classes)
    return Segmenter(loaded, selected=selected, refine=refine)


def _check_size(name: str, size: object) -> None:
    """Raise UsageError for what is neither None nor (height, width)."""
    sides = list(size) if isinstance(size, Iterable) else [size]
    whole = all(isinstance(side, Integral) and int(side) > 0 for side in sides)
    if size is not None and not (whole and len(sides) == 2):
        raise UsageError(
            f"{name}={size!r}",
            found="it is no (height, width) in pixels",
            do="Give two whole numbers, as (360, 640)",
        )


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
