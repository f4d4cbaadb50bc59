"""A recording that starts and stops while the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from rtseg.contracts import Rendered, Sink, Source
from rtseg.errors import RtsegError
from rtseg.labels import LabelSet
from rtseg.sinks import SinkOptions, open_sink

Now = Callable[[], datetime]


def free_name(folder: Path, moment: datetime, *endings: str) -> Path:
    """`rtseg-YYYYmmdd-HHMMSS` in a folder, numbered where a file of that name has such an ending.

    Raises:
        OSError: the folder is not there and cannot be made.
    """
    folder.mkdir(exist_ok=True)
    stem = f"rtseg-{moment:%Y%m%d-%H%M%S}"
    number = 1
    while True:
        name = stem if number == 1 else f"{stem}-{number}"
        if not any((folder / f"{name}{ending}").exists() for ending in endings):
            return folder / name
        number += 1


class Recorder(Sink):
    """Writes what is shown into a new video from `start` to `stop`; else takes frames and waits.

    A recording is a file like that of `-o`: a live source's lasts as long as the world did, a
    file's has that file's times, and its sound. An error ends the recording, not the run.

    Args:
        folder: where the videos go.
        failed: told of an error; what was written until then is finished.
    """

    def __init__(
        self,
        source: Source,
        labels: LabelSet,
        folder: Path,
        options: SinkOptions,
        *,
        now: Now = datetime.now,
        failed: Callable[[RtsegError], None] = lambda error: None,
    ) -> None:
        self.failed = failed
        self.path: Path | None = None
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
        name = free_name(self._folder, self._now(), suffix)
        self.path = name.with_name(f"{name.name}{suffix}")
        self._began = self._source.clock.now()
        return self.path

    def stop(self) -> str:
        """Finish the file; gives what was written, in words.

        Raises:
            SinkError: it is not whole; the message says what is left.
        """
        sink, self._sink, self.path = self._sink, None, None
        if sink is None:
            return "nothing was recorded"
        sink.close()
        return sink.summary()

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

    def close(self) -> None:
        """Finish what is being recorded."""
        if self.recording:
            self._last_words = self.stop()

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
        try:
            self.stop()
        except RtsegError:
            return
