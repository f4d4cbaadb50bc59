"""A video file: every frame at its own time, with the sound and colours of its source."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rtseg.contracts import Rendered, Sink, SourceInfo
from rtseg.labels import LabelSet
from rtseg.sinks import SinkOptions
from rtseg.sinks.audio import Sound
from rtseg.sinks.containers import find_encoder
from rtseg.sinks.video_file import VideoFile


class VideoSink(Sink):
    """Encodes the finished pictures; `info.media`'s audio goes along unless told otherwise.

    Raises:
        UsageError: the codec does not fit the container, or the file exists.
        SinkError: the file cannot be written; frames until then are kept.
    """

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        self._suffix, self._codec, self._crf = path.suffix.lower(), options.codec, options.crf
        encoder, settings = find_encoder(self._suffix, self._codec, self._crf)
        self._alpha: bool | None = None
        self._flattened = 0
        sound = None
        self._file = VideoFile(path, info, encoder, settings, overwrite=options.overwrite)
        if options.audio != "none" and info.media is not None and not info.live:
            sound = Sound(info.media, info.media_start)
        self._file.sound = sound

    def write(self, rendered: Rendered) -> None:
        """Encode one picture; the first decides whether the file has an alpha channel.

        In a file without one, later pictures lie over black where they are transparent.

        Raises:
            UsageError: the first picture is transparent, and the file cannot be.
        """
        transparent = rendered.picture.shape[2] == 4
        if self._alpha is None:
            if transparent:
                self._file.encode_with(
                    *find_encoder(self._suffix, self._codec, self._crf, alpha=True)
                )
            self._alpha = transparent
        self._flattened += transparent and not self._alpha
        self._file.add(rendered.picture if self._alpha else rendered.image, rendered.frame)

    def encoded(self) -> Iterable[float]:
        """Seconds of each picture."""
        return self._file.took()

    def close(self) -> None:
        """Finish the file, check it, and put it in place."""
        self._file.close()

    def summary(self) -> str:
        """What was written, and what is missing."""
        text = self._file.summary()
        if text and self._flattened:
            text += f"; {self._flattened} of them transparent, over black, as the first was not"
        return text
