"""A recording that starts and stops while the run goes on."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from rtseg.contracts import Rendered, Sink, Source
from rtseg.errors import RtsegError
from rtseg.files import cannot_write
from rtseg.labels import LabelSet
from rtseg.session.state import Notices
from rtseg.sinks import SinkOptions, open_sink
from rtseg.sinks.masks import palette, palette_png
from rtseg.sinks.pictures import encode
from rtseg.system import trim_memory
from rtseg.threads import Flow

T = TypeVar("T")

Ending = Callable[[], None]
"""Tells what came of a piece of work; called in the run's own thread."""

LONG = 3600.0


class Aside:
    """Does one thing after the other in a thread of its own; what came of each is told by `turn`.

    The thread begins with the first piece of work, and ends with `finish`.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[Callable[[], Ending] | None] = SimpleQueue()
        self._flow: Flow[Ending] | None = None
        self._endings: Iterator[Ending | None] = iter(())
        self._left = 0

    def begin(
        self,
        work: Callable[[], T],
        then: Callable[[T], None],
        failed: Callable[[RtsegError], None],
    ) -> None:
        """Have `work` done soon.

        Args:
            work: called in the other thread.
            then: told what it gave, in the thread of `turn`.
            failed: told there of an RtsegError that it raised; others come out of `turn` or
                `finish`, and what was asked for after it is done all the same.
        """
        if self._flow is None:
            ended = (do() for do in iter(self._asked.get, None))
            self._flow = Flow(ended, name="aside")
            self._flow.__enter__()
            self._endings = self._flow.poll(0.0)
        self._left += 1
        self._asked.put(partial(_done, work, then, failed))

    @property
    def left(self) -> int:
        """How many pieces of work have not been told of."""
        return self._left

    def turn(self) -> None:
        """Tell of what has ended; returns at once."""
        while self._left and (ending := next(self._endings, None)) is not None:
            self._left -= 1
            ending()

    def finish(self) -> None:
        """Wait for all of it, however long it takes, and tell of it; may be called again."""
        flow, self._flow = self._flow, None
        if flow is None:
            return
        self._asked.put(None)
        endings = [ending for ending in flow.poll(LONG) if ending is not None]
        self._left = 0
        flow.__exit__(None, None, None)
        for ending in endings:  # now that all is done, one may raise
            ending()


def _done(
    work: Callable[[], T], then: Callable[[T], None], failed: Callable[[RtsegError], None]
) -> Ending:
    try:
        return partial(then, work())
    except RtsegError as error:
        return partial(failed, error)
    except Exception as error:  # in the thread it would end all that is still to be done
        return partial(_raise, error)
    finally:
        trim_memory()


def _raise(error: Exception) -> None:
    raise error


Now = Callable[[], datetime]


def free_name(folder: Path, moment: datetime, *endings: str, taken: Container[Path] = ()) -> Path:
    """`rtseg-YYYYmmdd-HHMMSS` in a folder, numbered where a file of that name has such an ending.

    Args:
        taken: files that will be there soon.

    Raises:
        OSError: the folder is not there and cannot be made.
    """
    folder.mkdir(exist_ok=True)
    stem = f"rtseg-{moment:%Y%m%d-%H%M%S}"
    number = 1
    while True:
        name = stem if number == 1 else f"{stem}-{number}"
        paths = [folder / f"{name}{ending}" for ending in endings]
        if not any(path.exists() or path in taken for path in paths):
            return folder / name
        number += 1


class Recorder(Sink):
    """Writes what is shown into a new video from `start` to `stop`; else takes frames and waits.

    A recording is a file like that of `-o`: a live source's lasts as long as the world did, a
    file's has that file's times, and its sound. No frame waits for a file to be finished. An error
    ends the recording, not the run.

    Args:
        folder: where the videos go.
        aside: finishes them.

    Attributes:
        told: told what was written, in words, once a file is finished.
        failed: told of an error; what was written until then is finished.
    """

    def __init__(
        self,
        source: Source,
        labels: LabelSet,
        folder: Path,
        options: SinkOptions,
        *,
        aside: Aside,
        now: Now = datetime.now,
    ) -> None:
        self.told: Callable[[str], None] = lambda words: None
        self.failed: Callable[[RtsegError], None] = lambda error: None
        self.path: Path | None = None
        self._aside = aside
        self._finishing: set[Path] = set()
        self._source, self._labels, self._folder = source, labels, folder
        self._options = replace(options, overwrite=False, codec=None, crf=None)
        self._now = now
        self._sink: Sink | None = None
        self._began = 0.0
        self._last_words = ""

    @property
    def recording(self) -> bool:
        """Whether it is between `start` and `stop`."""
        return self.path is not None

    @property
    def seconds(self) -> float:
        """How long it has been recording."""
        return self._source.clock.now() - self._began if self.recording else 0.0

    def start(self, *, transparent: bool = False) -> Path:
        """Record from the next frame on; gives the file's name.

        Args:
            transparent: whether the file must hold transparent pictures, which MP4 cannot.

        Raises:
            OSError: the folder cannot be used.
        """
        suffix = ".mov" if transparent else ".mp4"
        name = free_name(self._folder, self._now(), suffix, taken=self._finishing)
        self.path = name.with_name(f"{name.name}{suffix}")
        self._began = self._source.clock.now()
        return self.path

    def stop(self) -> bool:
        """Finish the file, while the run goes on; `told` or `failed` hears of it.

        Returns:
            Whether anything was recorded.
        """
        sink, path = self._detach()
        if sink is None or path is None:
            return False
        self._finishing.add(path)

        def finished() -> str:
            try:
                sink.close()
            finally:
                self._finishing.discard(path)
            return sink.summary()

        self._aside.begin(finished, self.told, self.failed)
        return True

    def write(self, rendered: Rendered) -> None:
        """Record one frame, if it is recording."""
        if self.path is None:
            return
        try:
            if self._sink is None:
                self._sink = self._open(self.path, rendered.frame.pts)
            self._sink.write(rendered)
        except RtsegError as error:
            self._give_up()
            self.failed(error)

    def encoded(self) -> Iterable[float]:
        """Seconds of each frame of the present recording."""
        return self._sink.encoded() if self._sink is not None else ()

    def close(self) -> None:
        """Finish what is being recorded, and wait for all that was to be finished.

        Raises:
            SinkError: the last one is not whole; the message says what is left.
        """
        sink, _ = self._detach()
        try:
            if sink is not None:
                sink.close()
                self._last_words = sink.summary()
        finally:
            self._aside.finish()

    def summary(self) -> str:
        """What was still being recorded at the end; of others `stop` told."""
        return self._last_words

    def _open(self, path: Path, pts: float) -> Sink:
        info = self._source.info
        # the sound of a file begins where the recording does
        info = replace(info, media_start=info.media_start + pts, frame_count=None)
        return open_sink(str(path), info, self._labels, self._options)

    def _give_up(self) -> None:
        """Finish after an error; a second one says nothing new."""
        sink, _ = self._detach()
        try:
            if sink is not None:
                sink.close()
        except RtsegError:
            return

    def _detach(self) -> tuple[Sink | None, Path | None]:
        """What is being recorded, which it no longer is."""
        sink, self._sink, path, self.path = self._sink, None, self.path, None
        return sink, path


def save(
    rendered: Rendered, view: str | None, folder: Path, moment: datetime
) -> Callable[[], list[Path]]:
    """Draw a frame now; gives what packs and writes it, which any thread may call.

    That writes `rtseg-YYYYmmdd-HHMMSS.png`, `...-mask.png` and `...-VIEW.png`, replaces nothing,
    and gives the files. The mask is a palette PNG whose pixels are class indices. Without a view
    there is the picture alone.

    Raises:
        SinkError: by what is given: they cannot be written; none is left half written.
    """
    if view is None:
        image = rendered.picture
        return lambda: _write({".png": encode(image, ".png")}, folder, moment)
    shown = f"-{view}.png" if view != "mask" else "-view.png"
    segmentation, picture = rendered.segmentation, rendered.picture
    mask, colours = segmentation.mask, palette(segmentation.labels)

    def write() -> list[Path]:
        contents = {
            ".png": encode(rendered.frame.image, ".png"),
            "-mask.png": palette_png(mask, colours),
            shown: encode(picture, ".png"),
        }
        return _write(contents, folder, moment)

    return write


def _write(contents: dict[str, bytes], folder: Path, moment: datetime) -> list[Path]:
    """Write files by their endings; all of them or none."""
    written: list[Path] = []
    try:
        name = free_name(folder, moment, *contents)
        for ending, content in contents.items():
            path = name.with_name(f"{name.name}{ending}")
            written.append(path)
            path.write_bytes(content)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        do = "Name another folder with --screenshots"
        raise cannot_write(folder / "a screenshot", error, do) from error
    return written


MOST_WAITING = 8
"""Frames that a key held down may keep in memory."""


class Keeping:
    """Writes files beside the run, and says what came of them.

    Args:
        recorder: one of the run's sinks.
        aside: packs screenshots.
        folder: where these go.
        now: the wall clock, for file names.
    """

    def __init__(
        self,
        recorder: Recorder,
        aside: Aside,
        notices: Notices,
        folder: Path = Path(),
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.recorder = recorder
        recorder.told, recorder.failed = notices.wrote, self._recording_failed
        self._aside, self._notices = aside, notices
        self._folder, self._now = folder, now

    def turn(self) -> None:
        """Between frames: tell of files that are finished."""
        self._aside.turn()

    def screenshot(self, rendered: Rendered, view: str | None) -> None:
        """Write a frame as picture, mask and `view`; not while many are still being written.

        Without a view the picture is all there is.
        """
        if self._aside.left >= MOST_WAITING:
            self._notices.say("the last screenshots are still being written")
            return
        self._aside.begin(
            save(rendered, view, self._folder, self._now()),
            lambda paths: self._notices.wrote(", ".join(map(str, paths))),
            lambda error: self._notices.warn(str(error)),
        )

    def record(self, *, transparent: bool) -> None:
        """Start to record, or finish the file."""
        if self.recorder.recording:
            if not self.recorder.stop():
                self._notices.say("nothing was recorded")
            return
        try:
            path = self.recorder.start(transparent=transparent)
            self._notices.say(f"recording {path}, r finishes it")
        except (RtsegError, OSError) as error:
            self._notices.warn(f"cannot record: {error}")

    def _recording_failed(self, error: RtsegError) -> None:
        self._notices.warn(f"the recording has ended: {error}")
