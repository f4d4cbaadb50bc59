"""A recording that starts and stops while the run goes on."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from rtseg.contracts import Rendered, Sink, SourceInfo
from rtseg.errors import RtsegError
from rtseg.files import atomic, cannot_write
from rtseg.labels import LabelSet
from rtseg.session.state import Notices
from rtseg.sinks import SinkOptions, open_sink
from rtseg.sinks.masks import palette, palette_png
from rtseg.sinks.pictures import encode
from rtseg.stats import Clock
from rtseg.system import trim_memory
from rtseg.threads import Flow

T = TypeVar("T")

Report = Callable[[], None]
"""Reports what became of a job; called in the run's own thread."""

FOREVER_SECONDS = 3600.0


class BackgroundWorker:
    """Does one job after another in a thread of its own; `turn` reports what became of each.

    The thread starts with the first job and ends with `finish`.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], Report] | None] = SimpleQueue()
        self._flow: Flow[Report] | None = None
        self._reports: Iterator[Report | None] = iter(())
        self._pending = 0

    def begin(
        self,
        work: Callable[[], T],
        then: Callable[[T], None],
        failed: Callable[[RtsegError], None],
    ) -> None:
        """Queue a job.

        Args:
            work: called in the other thread.
            then: called with its result, in the thread of `turn`.
            failed: called there with an RtsegError that it raised; any other error is raised by
                `turn` or `finish`. Later jobs are done all the same.
        """
        if self._flow is None:
            reports = (do() for do in iter(self._jobs.get, None))
            self._flow = Flow(reports, name="background")
            self._flow.__enter__()
            self._reports = self._flow.poll(0.0)
        self._pending += 1
        self._jobs.put(partial(_done, work, then, failed))

    @property
    def pending(self) -> int:
        """Number of jobs that have not been reported."""
        return self._pending

    def turn(self) -> None:
        """Report the jobs that are done; does not wait."""
        while self._pending and (report := next(self._reports, None)) is not None:
            self._pending -= 1
            report()

    def finish(self) -> None:
        """Wait for all jobs, however long they take, and report them; may be called again."""
        flow, self._flow = self._flow, None
        if flow is None:
            return
        self._jobs.put(None)
        reports = [report for report in flow.poll(FOREVER_SECONDS) if report is not None]
        self._pending = 0
        flow.__exit__(None, None, None)
        for report in reports:  # now that all is done, one may raise
            report()


def _done(
    work: Callable[[], T], then: Callable[[T], None], failed: Callable[[RtsegError], None]
) -> Report:
    try:
        return partial(then, work())
    except RtsegError as error:
        return partial(failed, error)
    except Exception as error:  # in the thread it would end all later jobs
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
    """Writes what is shown into a new video between `start` and `stop`; otherwise does nothing.

    A recording is a file like that of `-o`: of a live source it lasts as long as the world did, of
    a file it has that file's times and its sound. No frame waits for a file to be finished. An
    error ends the recording, not the run.

    Args:
        info: of the source.
        folder: where the videos go.
        worker: finishes them.

    Attributes:
        on_written: called with a summary once a file is finished.
        on_error: called with an error; what was written until then is finished.
    """

    def __init__(
        self,
        info: SourceInfo,
        clock: Clock,
        labels: LabelSet,
        folder: Path,
        options: SinkOptions,
        *,
        worker: BackgroundWorker,
        now: Now = datetime.now,
    ) -> None:
        self.on_written: Callable[[str], None] = lambda words: None
        self.on_error: Callable[[RtsegError], None] = lambda error: None
        self.path: Path | None = None
        self._worker = worker
        self._finishing: set[Path] = set()
        self._info, self._clock, self._labels, self._folder = info, clock, labels, folder
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
        return self._clock.now() - self._began if self.recording else 0.0

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
        self._began = self._clock.now()
        return self.path

    def stop(self) -> bool:
        """Finish the file, while the run goes on; then calls `on_written` or `on_error`.

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

        self._worker.begin(finished, self.on_written, self.on_error)
        return True

    def write(self, rendered: Rendered) -> None:
        """Record one frame, if it is recording."""
        if self.path is None:
            return
        try:
            if self._sink is None:
                self._sink = self._open(self.path)
            self._sink.write(rendered)
        except RtsegError as error:
            self._give_up()
            self.on_error(error)

    def encoded(self) -> Iterable[float]:
        """Seconds of each frame of the present recording."""
        return self._sink.encoded() if self._sink is not None else ()

    def close(self) -> None:
        """Finish what is being recorded, and wait for all files to be finished.

        Raises:
            SinkError: the last one is not whole; the message names what is left.
        """
        sink, _ = self._detach()
        try:
            if sink is not None:
                sink.close()
                self._last_words = sink.summary()
        finally:
            self._worker.finish()

    def summary(self) -> str:
        """What was still being recorded at the end; `on_written` reported the others."""
        return self._last_words

    def _open(self, path: Path) -> Sink:
        info = replace(self._info, frame_count=None, seconds=None)
        return open_sink(str(path), info, self._labels, self._options)

    def _give_up(self) -> None:
        """Finish after an error, ignoring a second one."""
        sink, _ = self._detach()
        try:
            if sink is not None:
                sink.close()
        except RtsegError:
            return

    def _detach(self) -> tuple[Sink | None, Path | None]:
        """Stop recording; returns what was being recorded."""
        sink, self._sink, path, self.path = self._sink, None, self.path, None
        return sink, path


def save(
    rendered: Rendered, view: str | None, folder: Path, moment: datetime
) -> Callable[[], list[Path]]:
    """Draw a frame now; returns a function that encodes and writes it, in any thread.

    It writes `rtseg-YYYYmmdd-HHMMSS.png`, `...-mask.png` and `...-VIEW.png`, replaces no file, and
    returns the paths. The mask is a palette PNG whose pixels are class indices. Without a view it
    writes the image only.

    Raises:
        SinkError: by that function: they cannot be written; none is left half written.
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
            with atomic(path, new=True) as part:
                part.write_bytes(content)
            written.append(path)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        do = "Name another folder with --screenshots"
        raise cannot_write(folder / "a screenshot", error, do) from error
    return written


MAX_PENDING = 8
"""Screenshots that a key held down may keep in memory."""


class Captures:
    """Screenshots and recordings: written beside the run, and reported on the image.

    Args:
        recorder: one of the run's sinks.
        worker: encodes screenshots.
        folder: where these go.
        now: the wall clock, for file names.
    """

    def __init__(
        self,
        recorder: Recorder,
        worker: BackgroundWorker,
        notices: Notices,
        folder: Path = Path(),
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.recorder = recorder
        recorder.on_written, recorder.on_error = notices.wrote, self._recording_failed
        self._worker, self._notices = worker, notices
        self._folder, self._now = folder, now

    def turn(self) -> None:
        """Between frames: report the files that are finished."""
        self._worker.turn()

    def screenshot(self, rendered: Rendered, view: str | None) -> None:
        """Write a frame as image, mask and `view`, unless many are still being written.

        Without a view only the image is written.
        """
        if self._worker.pending >= MAX_PENDING:
            self._notices.show("the last screenshots are still being written")
            return
        self._worker.begin(
            save(rendered, view, self._folder, self._now()),
            lambda paths: self._notices.wrote(", ".join(map(str, paths))),
            lambda error: self._notices.warn(str(error)),
        )

    def record(self, *, transparent: bool) -> None:
        """Start recording, or finish the file."""
        if self.recorder.recording:
            if not self.recorder.stop():
                self._notices.show("nothing was recorded")
            return
        try:
            path = self.recorder.start(transparent=transparent)
            self._notices.show(f"recording {path}, r stops")
        except (RtsegError, OSError) as error:
            self._notices.warn(f"cannot record: {error}")

    def _recording_failed(self, error: RtsegError) -> None:
        self._notices.warn(f"the recording has ended: {error}")
