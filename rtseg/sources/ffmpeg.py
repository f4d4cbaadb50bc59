"""Video files, recordings and live streams, decoded as their options say by FFmpeg on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rtseg.frame import Picture
from rtseg.player import FFmpegPlayer
from rtseg.sources.options import SourceOptions, exact_rate
from rtseg.sources.probe import display_name

MAX_RATE = 240
"""Above this, a live stream's rate is ticks."""

IMAGE_FORMATS = ("gif", "apng", "webp_pipe", "webp")
LIST_FORMATS = ("hls", "dash", "concat", "sdp", "rtsp")
IMAGE_BRANDS = frozenset("avif avis heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
"""Of AVIF and HEIC, which FFmpeg takes for videos."""


class FilePlayer(FFmpegPlayer):
    """A `rtseg.sources.probe.Player` of files and recordings, by options."""

    def __init__(self, target: str, options: SourceOptions, hwaccel: Any = None) -> None:
        super().__init__(
            target,
            display_name(target),
            stream=options.stream,
            fps=None if options.fps is None else exact_rate(options.fps),
            deinterlace=options.deinterlace,
            timeout=options.timeout,
            hwaccel=hwaccel,
        )


class LivePlayer(FilePlayer):
    """A live stream as `rtseg.sources.capture.LiveSource` reads it, decoded without delay.

    Attributes:
        frame_rate: as it declares; None if it does not, or nonsense.
    """

    threads = 1  # each further frame thread holds a frame back
    peeked_packets = 0

    def __init__(self, target: str, options: SourceOptions) -> None:
        super().__init__(target, options)
        rate = self.header.frame_rate
        self.frame_rate = rate if rate and 0.1 <= rate <= MAX_RATE else None

    @property
    def is_recorded(self) -> bool:
        """Whether it has an end, as a recording on a web server has."""
        return self._container.duration is not None

    @property
    def declared_bytes(self) -> int:
        """The size of the file that it is, by its server; 0 for streams, and lists of files."""
        container = self._container
        return 0 if container.format.name in LIST_FORMATS else max(0, container.size)

    @property
    def is_image(self) -> bool:
        """Whether it is of a format for images, which may be animated; JPEG is one for videos."""
        brand = self._container.metadata.get("major_brand", "")
        return self._container.format.name in IMAGE_FORMATS or brand in IMAGE_BRANDS

    @property
    def due(self) -> float | None:
        """When the grabbed frame is due, in seconds of the stream; None for now.

        HLS comes in segments of seconds, whose frames would all be of the moment they arrive.
        """
        if self._container.format.name != "hls" or self._read.dts is None:
            return None
        return float(self._read.dts * self._read.time_base)  # frames are in the order of packets

    def _demux(self) -> Iterator[Any]:
        for self._read in super()._demux():
            yield self._read

    def grab(self) -> bool:
        """Decode the next frame; False if there is none, or it does not come in time."""
        self._grabbed = self._next()
        return self._grabbed is not None

    def retrieve(self) -> tuple[bool, Picture]:
        """True, and the frame that was grabbed, (H, W, 3) uint8 BGR."""
        return True, self.picture(self._grabbed)
