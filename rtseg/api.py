"""The calls that most programs need: load a network, iterate one source through it, or several;
train, evaluate and export one.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakSet

import numpy as np

from rtseg.addresses import public_name
from rtseg.backends import open_backend
from rtseg.backends.averaged import Averaged
from rtseg.backends.base import fit_size
from rtseg.backends.fitted import fitted
from rtseg.backends.options import NetworkOptions
from rtseg.contracts import Backend, Source
from rtseg.documents import shown
from rtseg.errors import RtsegError, UsageError
from rtseg.frame import Frame, Segmentation
from rtseg.labels import palette
from rtseg.nets import default_model, find_model
from rtseg.options import Policy, check_size, keeps_newest, made
from rtseg.segmenter import Segmenter
from rtseg.session.engine import Channel, Engine
from rtseg.session.fastest import open_measured
from rtseg.session.loop import TICK_SECONDS, check_unread
from rtseg.session.loop import stream as stream_source
from rtseg.session.sources import open_all
from rtseg.sources import SourceOptions, open_source
from rtseg.stats import Stats
from rtseg.temporal import TemporalOptions

if TYPE_CHECKING:
    from rtseg.evaluation.report import Evaluation
    from rtseg.exporting.program import Exported
    from rtseg.training.program import Result

Names = str | Path | Sequence[str | Path]
"""One name or path, or several."""


def load(
    name_or_path: str | Path | None = None,
    *,
    frame_size: tuple[int, int] | None = None,
    **options: Any,
) -> Segmenter:
    """Load a network, ready and warm: `load()(image).mask`.

    Args:
        name_or_path: a name of `rtseg models`, an ONNX file or a checkpoint; None is the default.
        frame_size: (height, width) of the images to come, whose input is then ready; without it
            the first image waits for its own. Images of other shapes get theirs, unless there is
            an `imgsz`.
        options: of `NetworkOptions`: weights, backend, device, precision, imgsz, classes, refine,
            tta, window, threads, lanes, strict_device, ... `backend` "auto" is the usual one for
            network and device; "fastest" measures what is installed, once for network, size and
            machine, as the command line does. `lanes` are best as many as cores for whole
            files, 1 for anything live.

    Raises:
        UsageError: a size is not (height, width), or another value makes no sense.
        ModelError: the network or its weights are not what was named.
        DownloadError: the weights are not in the cache and cannot be fetched.
        DeviceError: the device failed, or is missing and `strict_device` is set.
    """
    fastest = options.get("backend") == "fastest"
    if fastest:
        options["backend"] = "auto"
    classes = options.get("classes")
    if isinstance(classes, np.ndarray):
        classes = classes.ravel().tolist()
    if isinstance(classes, (list, set, frozenset)):
        classes = tuple(classes)
    options["classes"] = (
        (classes,) if isinstance(classes, (str, int, np.integer)) else classes or ()
    )
    options = {n: str(each) if isinstance(each, Path) else each for n, each in options.items()}
    model_name = None if name_or_path is None else str(name_or_path)
    if model_name is not None and not model_name.strip():
        raise UsageError("no model was named", do="Name one of `rtseg models`, or None")
    asked = made(NetworkOptions, {"model": model_name, **options})
    check_size("frame_size", frame_size)
    model = find_model(
        asked.model or default_model(), weights=asked.weights, input_flags=asked.foreign
    )
    imgsz = asked.imgsz
    shape = asked.window or frame_size
    if imgsz is None and shape is not None:
        imgsz = fit_size(model.spec, shape[1], shape[0])
    open_it = open_measured if fastest else partial(open_backend, asked.backend)
    loaded = open_it(model, input_size=imgsz, **asked.running())
    if asked.imgsz is None or asked.tta:
        loaded = fitted(loaded, model, size=asked.imgsz, **asked.running())
    if asked.averaging:
        loaded = Averaged(loaded, **asked.averaging)
    labels = loaded.spec.labels
    if asked.palette is not None:
        labels = labels.with_colours(palette(asked.palette, len(labels), labels.names))
    selected = labels.select(asked.classes) if asked.classes else None
    segmenter = Segmenter(loaded, labels=labels, selected=selected, refine=asked.refine)
    _LOADED.add(segmenter)
    return segmenter


_LOADED: WeakSet[Segmenter] = WeakSet()


class _Forked(Backend):
    """Stands for a network in a process that was forked after it was loaded: without the threads of
    the library that runs it, it would wait for them for ever."""

    def __init__(self, inner: Backend) -> None:
        self.spec, self.input_size, self.info = inner.spec, inner.input_size, inner.info
        # freed, even as this process ends, it would wait for its threads
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(inner))

    def __call__(self, batch: Any) -> NoReturn:
        raise UsageError(
            f"{self.spec.name} was used in a forked process",
            found="it was loaded before the fork, and its threads are in the other process",
            do='Load it in each process, or use multiprocessing.get_context("spawn")',
        )


def _after_fork() -> None:
    for segmenter in list(_LOADED):
        segmenter.backend = _Forked(segmenter.backend)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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
    _check(segmenter, temporal)
    if isinstance(source, Source):
        yield from stream_source(source, segmenter, policy=policy, temporal=temporal)
        return
    with open_source(source, made(SourceOptions, options)) as opened:
        yield from stream_source(opened, segmenter, policy=policy, temporal=temporal)


def _check(segmenter: object, temporal: object) -> None:
    if not isinstance(segmenter, Segmenter):
        raise UsageError(f"{segmenter!r} is not a segmenter", do="Load one with rtseg.load()")
    if not isinstance(temporal, TemporalOptions):
        raise UsageError(f"temporal={temporal!r}", found="it is not an rtseg.TemporalOptions")


OnEnd = Callable[[int, "RtsegError | None"], None]
"""Called with the number of a source that ended, and its error; None at a normal end."""


def stream_many(
    sources: Sequence[Source | str | int | Path],
    segmenter: Segmenter,
    *,
    policy: Policy = "auto",
    temporal: TemporalOptions = TemporalOptions(),  # noqa: B008 - frozen
    on_end: OnEnd | None = None,
    **options: Any,
) -> Iterator[tuple[int, Frame, Segmentation]]:
    """Iterate (number of the source, frame, segmentation) of several sources at once.

    All share the network: those that have a frame when it is free go through it in one batch where
    the backend gains by that, otherwise in fair turns; no source waits for another. Live sources
    give their newest frame, files every frame in order. Frames have their own size, and those of
    one shape share a batch. Ends when all sources have ended.

    Args:
        sources: open sources, which stay open, or what `open_source` takes, closed at the end.
        segmenter: faster with as many lanes as there are sources, at most one per core:
            `load(lanes=2)`.
        temporal: smoothing, propagation, and idling while an image does not change, for each
            source by itself; off by default.
        on_end: called when a source ends, also if it could not be opened; the others go on.
            Without it, the first such error is raised once all others have ended.
        options: of `SourceOptions`, for sources that are still to be opened.

    Raises:
        SourceError: a source cannot be opened, or was lost for good, and there is no `on_end`.
        UsageError: an option makes no sense.
        BackendError: the network failed.
    """
    _check(segmenter, temporal)
    if isinstance(sources, (str, bytes)) or not isinstance(sources, Sequence):
        raise UsageError(f"{sources!r} is not a list of sources", do="Write [source, ...]")
    opened_ones = [id(source) for source in sources if isinstance(source, Source)]
    if len(set(opened_ones)) < len(opened_ones):
        raise UsageError("one open source was given twice", do="Open it twice, or name it twice")
    for source in sources:
        if isinstance(source, Source):
            check_unread(source)
    if on_end is not None and not callable(on_end):
        raise UsageError(f"on_end={on_end!r}", found="it is not a function")
    with ExitStack() as stack:
        opened = _all_open(sources, made(SourceOptions, options), stack)
        channels = [
            Channel(
                source,
                source.info.name,
                newest=keeps_newest(policy, source.info.live),
                temporal=temporal,
                stats=Stats(source.clock),
            )
            for source in opened
        ]
        engine = stack.enter_context(Engine(channels, segmenter, shared=True))
        ended: set[int] = set()
        for results in engine.poll(TICK_SECONDS):
            for result in results:
                result.segmentation.picture = result.frame.picture
                engine.done(result)
            yield from results
            _report_ends(channels, ended, on_end)
        _report_ends(channels, ended, on_end)
        errors = [channel.error for channel in channels if channel.error is not None]
        if errors and on_end is None:
            raise errors[0]


def _all_open(
    sources: Sequence[Source | str | int | Path], options: SourceOptions, stack: ExitStack
) -> list[Source]:
    """The sources, opened if they are not; those are closed with the stack."""
    names = [source for source in sources if not isinstance(source, Source)]
    openers = [(public_name(str(name)), partial(open_source, name, options)) for name in names]
    opened = iter([stack.enter_context(source) for source in open_all(openers)])
    return [source if isinstance(source, Source) else next(opened) for source in sources]


def _report_ends(channels: Sequence[Channel], ended: set[int], on_end: OnEnd | None) -> None:
    """Call `on_end` for the sources that have ended since."""
    for number, channel in enumerate(channels):
        if channel.ended and number not in ended:
            ended.add(number)
            if on_end is not None:
                on_end(number, channel.error)


# --- the programs --------------------------------------------------------------------------------


def train(dataset: str | Path | None = None, **options: Any) -> Result:
    """Fine-tune a network on labelled images, as `rtseg train` does; prints its progress.

    An interrupt (Ctrl-C, or a notebook's stop button) saves the run, then raises
    KeyboardInterrupt; `resume=True` continues it.

    Args:
        dataset: folder or file of labelled images, or a suite that mixes several; None with
            `config` or `resume`.
        options: of `rtseg train --help`, with underscores: model, size, epochs, out, resume,
            overwrite, quiet, ... They are the fields of `TrainOptions`.

    Returns:
        The folder, the figures of every epoch, which one is best, and those of the test split.

    Raises:
        UsageError: an option has a wrong value, or the folder is not empty.
        DatasetError: the dataset has problems, all of which are printed.
        RtsegError: as `rtseg train` ends with an error.
    """
    from rtseg.cli.process import CallStop
    from rtseg.cli.train import trained

    given = _given("train", {"dataset": dataset, **options})
    with CallStop().listening() as stop, _in_words():
        return trained(given, stop)


def evaluate(data: Names = (), model: Names = (), **options: Any) -> Evaluation:
    """Measure networks on labelled images, as `rtseg eval` does; prints its progress.

    Args:
        data: folders or files of labelled images.
        model: names of `rtseg models`, or files; the default network if there is none.
        options: of `rtseg eval --help`, with underscores: split, classes, imgsz, clip, suite,
            boundary, backend, device, json, quiet, ...

    Returns:
        The figures, which print as tables: `scores[0].matrix.mean_iou`, `scores[0].ious["person"]`.

    Raises:
        UsageError: an option has a wrong value.
        DatasetError: the images cannot be measured.
        ThresholdError: a mean IoU is below `min_miou`.
        RtsegError: as `rtseg eval` ends with an error.
    """
    from rtseg.cli.eval import measured
    from rtseg.cli.flags import collect
    from rtseg.cli.options import EVAL, EvalFlags
    from rtseg.cli.process import CallStop

    given = _given("eval", {"data": data, "model": model, **options})
    with CallStop().listening() as stop, _in_words():
        return measured(collect(EvalFlags, EVAL, given), stop, tables=False)


def export(
    model: str | Path | None = None, output: str | Path | None = None, **options: Any
) -> Exported:
    """Write a network as an ONNX file, as `rtseg export` does, and compare it with its original.

    Args:
        model: a name of `rtseg models`, a checkpoint or an ONNX file; the default network if None.
        output: the file to write, .onnx.
        options: of `rtseg export --help`, with underscores: precision, imgsz, dynamic_batch, opset,
            calibration, samples, overwrite, quiet, ...

    Returns:
        The file, how its masks compare, its size and time.

    Raises:
        UsageError: an option has a wrong value, or the file exists.
        ModelError: the network cannot be exported so.
        ThresholdError: its masks agree too little with the original's; its `exported` has the
            figures.
        RtsegError: as `rtseg export` ends with an error.
    """
    from rtseg.cli.export import exported
    from rtseg.cli.flags import collect
    from rtseg.cli.options import EXPORT, ExportFlags
    from rtseg.cli.process import CallStop

    given = _given("export", {"model": model, "output": output, **options})
    with CallStop().listening() as stop, _in_words():
        return exported(collect(ExportFlags, EXPORT, given), stop)


@contextmanager
def _in_words() -> Iterator[None]:
    """Raise what the system refuses as the command line would say it."""
    from rtseg.cli.process import refused

    try:
        yield
    except OSError as error:
        if (words := refused(error)) is None:
            raise
        raise (UsageError if error.errno == errno.ENAMETOOLONG else RtsegError)(words) from error


def _given(verb: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a verb, read as those of its `--config` file: paths may be text, one value stand
    for a list, and a size be text or two numbers.

    Raises:
        UsageError: there is no such option, or a value has another type.
    """
    from rtseg.cli.flags import flags_of
    from rtseg.cli.options import LAYOUTS

    flags = {flag.name: flag for flag in flags_of(LAYOUTS[verb])}
    if unknown := [name for name in values if name not in flags]:
        raise UsageError(
            f"unknown option {shown(unknown[0])}", found="options are " + ", ".join(flags)
        )
    given = {}
    for name, value in values.items():
        plain = _as_in_a_file(value)
        if flags[name].hint is str and isinstance(plain, list):  # an input size
            plain = "x".join(map(str, plain))
        if plain is not None and plain != []:
            given[name] = flags[name].from_file(plain)
    return given


def _as_in_a_file(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Mapping):
        return [f"{name}={share}" for name, share in value.items()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_as_in_a_file(each) for each in value]
    return value
