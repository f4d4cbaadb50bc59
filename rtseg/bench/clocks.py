"""The clocks: what each of them times, one block of passes at a time; and the clips they use."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import cv2  # noqa: F401  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np
from numpy.typing import NDArray

from rtseg.backends import open_backend
from rtseg.contracts import Backend, Effect, Rendered, Sink, Source, SourceInfo
from rtseg.errors import SourceError, UsageError
from rtseg.frame import Frame, Picture
from rtseg.measure import batch_of
from rtseg.nets import find_model
from rtseg.segmenter import Pair, Segmenter
from rtseg.session.loop import Outlet, offer_planes, run
from rtseg.sinks import open_sink
from rtseg.sinks.encoding import find_encoder, fitted_frame
from rtseg.sources import SourceOptions, open_source
from rtseg.sources.wrappers import Wrapper
from rtseg.stats import Clock

CLOCKS = {
    "model": "a batch in memory to its logits in memory: the model alone; torch on a GPU keeps "
    "both there and is timed by CUDA events, ONNX Runtime copies them",
    "pipeline": "a frame in memory to the finished image in memory, in one thread: preprocess, "
    "infer, decode, draw",
    "worst": "the pipeline with its logits replaced by a checkerboard: no two neighbouring cells "
    "agree, the worst case of decoding",
    "loop": "the whole program: decode the file, segment, draw, encode and finish an H.264 file; "
    "stages overlap; ms from one finished frame to the next",
}
"""Name of a clock -> what it measures; figures of different clocks are never mixed."""

UNCOUNTED = 2
"""Passes before each block that are not counted: caches are cold after a pause."""

LEAST_PASSES = 3


@dataclass(frozen=True)
class Limit:
    """How long a block lasts: `seconds`, but at least three passes; or `passes`, if done sooner."""

    seconds: float
    passes: int | None = None

    def over(self, done: int, seconds: float) -> bool:
        """Whether a block with `done` passes in `seconds` is over."""
        if self.passes is not None and done >= self.passes:
            return True
        return done >= LEAST_PASSES and seconds >= self.seconds


@dataclass
class Block:
    """One round of one clock.

    Attributes:
        seconds: from its start to its end.
        count: finished frames, or batches.
        passes: seconds of each; of the loop, from one finished frame to the next.
        counts: of the loop: frames produced, shown, dropped, propagated.
        age_ms, stages_ms: of the loop, as in the report of a run.
    """

    seconds: float
    count: int
    passes: list[float]
    counts: dict[str, int] = field(default_factory=dict)
    age_ms: dict[str, float] = field(default_factory=dict)
    stages_ms: dict[str, dict[str, float]] = field(default_factory=dict)


def timed(call: Callable[[int], object], limit: Limit, clock: Clock) -> Block:
    """Call `call(number of the pass)` until the block is over."""
    for number in range(UNCOUNTED):
        call(number)
    passes: list[float] = []
    start = since = clock.now()
    while not limit.over(len(passes), since - start):
        call(len(passes))
        now = clock.now()
        passes.append(now - since)
        since = now
    return Block(since - start, len(passes), passes)


def time_model(backend: Backend, frames: Sequence[Frame], limit: Limit, clock: Clock) -> Block:
    """The clock `model`.

    A backend returns numpy arrays, so that the result has arrived when the call returns, on every
    device. A backend that keeps frames on its device times the model there, without copies.
    """
    if backend.device_seconds(UNCOUNTED) is not None:
        return _by_device(backend, limit)
    batches = [batch_of(frame.image, backend.input_size) for frame in frames]
    return timed(lambda number: backend(batches[number % len(batches)]), limit, clock)


def _by_device(backend: Backend, limit: Limit) -> Block:
    passes: list[float] = []
    while not limit.over(len(passes), sum(passes)):
        passes += backend.device_seconds(LEAST_PASSES) or []
    return Block(sum(passes), len(passes), passes)


def time_pipeline(
    segmenter: Segmenter, effect: Effect, frames: Sequence[Frame], limit: Limit, clock: Clock
) -> Block:
    """The clocks `pipeline` and `worst`."""

    def once(number: int) -> object:
        frame = frames[number % len(frames)]
        return Rendered(frame, segmenter(frame.image), effect).image

    return timed(once, limit, clock)


def time_loop(
    segmenter: Segmenter,
    effect: Effect,
    source: Source,
    open_sink: Callable[[], Sink],
    limit: Limit,
) -> Block:
    """The clock `loop`: from reading the first frame until the sink is closed."""
    clock = source.clock
    times = FrameTimes(clock)
    bounded = Bounded(source, limit)
    sink = open_sink()
    start = clock.now()
    with sink:
        report = run(bounded, segmenter, effect, [sink, times])
    seconds = clock.now() - start
    counts = {
        "produced": report.produced,
        "shown": report.frames,
        "dropped": report.dropped,
        "propagated": int(getattr(report, "propagated", 0)),
    }
    passes = np.diff(times.moments).tolist() or [seconds]
    return Block(seconds, report.frames, passes, counts, report.age_ms, report.stages_ms)


PROCESSOR_FRAMES, PROCESSOR_BYTES = 64, 256 << 20
"""Frames of the clip whose processor time is taken; fewer where they would fill the memory."""

PROCESSOR_ROUNDS = 3


def processor_ms(
    clip: str, segmenter: Segmenter, effect: Effect, open_sink: Callable[[SourceInfo], Sink]
) -> dict[str, list[float | None]]:
    """Processor time per frame over all threads, in milliseconds, by stage.

    Unlike wall time it hardly depends on what else the machine does. Medians of three rounds, in
    each of which everything is done once with the same frames.

    Args:
        clip: a video file, or what else `open_source` takes.
        open_sink: opens one for the H.264 file.

    Returns:
        For each of decode (to BGR, where the run needs that), network (shrink and infer), draw
        (decode the mask too) and encode (convert, encode and write), and for the whole loop: ours,
        and that of the bare library (FFmpeg to YUV, the backend, x264), None if there is none. The
        whole loop's is the sum of the bare libraries.
    """
    with open_source(clip) as source:
        size = source.info.width * source.info.height * 3
    count = max(2, min(PROCESSOR_FRAMES, PROCESSOR_BYTES // size))
    rounds = [
        _processor_round(clip, segmenter, effect, open_sink, count) for _ in range(PROCESSOR_ROUNDS)
    ]
    ours = {name: float(np.median([each[0][name] for each in rounds])) for name in rounds[0][0]}
    bare = {name: float(np.median([each[1][name] for each in rounds])) for name in rounds[0][1]}
    whole = sum(bare.values()) if {"decode", "network", "encode"} <= bare.keys() else None
    return {
        name: [ms, bare.get(name, whole if name == "loop" else None)] for name, ms in ours.items()
    }


def _processor_round(
    clip: str,
    segmenter: Segmenter,
    effect: Effect,
    open_sink: Callable[[SourceInfo], Sink],
    count: int,
) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of our stages, and of the bare libraries."""
    ours, bare = dict[str, float](), dict[str, float]()
    frames: list[Frame] = []

    @contextmanager
    def timed(stage: str, into: dict[str, float]) -> Iterator[None]:
        since = time.process_time()
        yield
        into[stage] = (time.process_time() - since) / len(frames) * 1e3

    def segmented(frames: Sequence[Frame]) -> list[Pair]:
        return [segmenter.together((frame,), Clock())[0][0] for frame in frames]

    with open_source(clip) as source:
        info, sink = source.info, open_sink(source.info)
        offer_planes(source, segmenter, Outlet(effect, [sink]))
        with timed("decode", ours):
            frames += islice(source, count)
    segmented(frames[:UNCOUNTED])
    with timed("network", ours):
        found = segmented(frames)
    rendered = [Rendered(*segmenter.finished(pair), effect) for pair in found]
    with timed("draw", ours):
        drawn = [each.drawn for each in rendered]
    with timed("encode", ours), sink:
        for each in rendered:
            sink.write(each)
    with open_source(clip) as source:
        bounded, sink = Bounded(source, Limit(math.inf, len(frames))), open_sink(info)
        with timed("loop", ours), sink:
            run(bounded, segmenter, effect, [sink])
    batches = [batch_of(frame.image, segmenter.backend.input_size) for frame in frames]
    with timed("network", bare):
        for batch in batches:
            segmenter.backend(batch)
    encoder = find_encoder(".mp4", "h264", None)
    pictures = [
        fitted_frame(image, (image.shape[0], image.shape[1]), encoder, info)
        for image in drawn
        if image.shape[2] == 3
    ]
    if pictures:
        context: Any = av.CodecContext.create(encoder.library, "w")
        context.width, context.height = pictures[0].width, pictures[0].height
        context.pix_fmt, context.options = encoder.pix_fmt, dict(encoder.options)
        context.time_base = 1 / (info.frame_rate or Fraction(25))
        for number, picture in enumerate(pictures):
            picture.pts = number
        with timed("encode", bare):
            for picture in [*pictures, None]:
                context.encode(picture)
    if Path(clip).is_file():
        with av.open(clip) as container, timed("decode", bare):
            container.streams.video[0].thread_type = "AUTO"
            for _ in islice(container.decode(video=0), len(frames)):
                pass
    return ours, bare


class FrameTimes(Sink):
    """Records when each frame was finished; uses its image, so that it is always drawn."""

    takes_planes = True

    def __init__(self, clock: Clock) -> None:
        self.moments: list[float] = []
        self._clock = clock

    def write(self, rendered: Rendered) -> None:
        """Record the time."""
        _ = rendered.drawn
        self.moments.append(self._clock.now())


class Bounded(Wrapper):
    """A source that ends at the block's limit; frames in progress are finished."""

    def __init__(self, inner: Source, limit: Limit) -> None:
        super().__init__(inner)
        self._limit = limit
        self._given = 0
        self._start: float | None = None

    def _describe(self, info: SourceInfo) -> SourceInfo:
        return info

    def _read(self) -> Frame | None:
        now = self.clock.now()
        self._start = now if self._start is None else self._start
        if self._limit.over(self._given, now - self._start):
            return None
        self._given += 1
        return self._next()


class Checkerboard(Backend):
    """Runs the model, and returns a checkerboard of its first two classes in its logits' shape."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.spec, self.input_size, self.info = inner.spec, inner.input_size, inner.info
        if inner.segment is not None:
            self.segment = self._segment

    def _segment(self, pictures: Sequence[Picture]) -> list[Any]:
        assert self._inner.segment is not None
        seen: Sequence[Any] = self._inner.segment(pictures)
        return [scores.replaced(_board) for scores in seen]

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As `Backend`, except for the values of the scores."""
        return np.stack([_board(scores.shape) for scores in self._inner(batch)])


def _board(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Scores (C, h, w) in which the first two classes alternate."""
    rows, columns = np.indices(shape[1:])
    board = np.zeros(shape, np.float32)
    board[0] = (rows + columns) % 2
    board[1] = 1 - board[0]
    return board


SAMPLES = 16
"""Frames in memory, for the clocks that need no file and for the comparison of masks."""

SPAN = 480
"""The samples are spread over this many frames of the clip."""

PORTRAIT_SECONDS = 8


def clip_info(clip: str) -> SourceInfo:
    """Size, rate and length of the clip.

    Raises:
        UsageError: it is live: its own rate would be measured.
        SourceError: it cannot be opened.
    """
    with open_source(clip) as source:
        if source.info.live:
            raise UsageError(
                f"cannot benchmark on {source.info.name}",
                found="it is live, so that its own rate would be measured",
                do="Use a file",
            )
        return source.info


def samples(clip: str, count: int = SAMPLES) -> list[Frame]:
    """Evenly spaced frames of the clip's beginning, always the same ones.

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
    """Write the clip of `rtseg demo` as an H.264 file.

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
