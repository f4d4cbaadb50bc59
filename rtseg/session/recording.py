"""A recording that starts and stops while the run goes on."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from rtseg.contracts import Rendered, Sink, Source
from rtseg.errors import RtsegError
from rtseg.labels import LabelSet
from rtseg.live.aside import Aside
from rtseg.sinks import SinkOptions, open_sink

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
