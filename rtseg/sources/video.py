"""Video files, and recordings behind an address: every frame, at its own time."""

from __future__ import annotations

from bisect import bisect_left
from fractions import Fraction
from pathlib import Path

from rtseg.contracts import Source, SourceInfo
from rtseg.errors import SourceError
from rtseg.frame import Frame
from rtseg.sources.capture import open_player
from rtseg.sources.options import SourceOptions
from rtseg.sources.probe import display_name, missing_bytes, packet_times, probe, shown_count
from rtseg.stats import Clock

SEEK_AHEAD_SECONDS = 1.0
"""A seek aims this much before the start; the frames between are decoded and dropped."""

SAME_TIME_SECONDS = 1e-3


class VideoSource(Source):
    """A video file, upright: its rotation is applied.

    `info` comes from the header, the times from each frame, at constant or variable rate; pts is 0
    at the first frame wherever the file starts. With `options.start`, frames before it may be
    missing. A file that ends before its declared count is reported in `warnings`.

    Attributes:
        times: presentation times of all frames in seconds; empty when the whole file is wanted or
            the file does not hold them.

    Raises:
        SourceError: it is missing, empty, unreadable, not a video, or has no frame.
    """

    def __init__(
        self,
        target: str,
        options: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
        clock: Clock | None = None,
    ) -> None:
        super().__init__(clock)
        self._target, self._options = target, options
        self._header = probe(target, options.timeout)
        is_part = options.start is not None or options.end is not None
        self.times = packet_times(target, options.timeout) if is_part else ()
        self._begin()
        self.info = self._describe()
        if options.start and self.times:
            self._seek(options.start)

    def _begin(self) -> None:
        """Open the file and read its first frame."""
        self._player = open_player(self._target, self._options)
        self._index, self._pts = 0, 0.0
        self._held = self._player.read()
        if self._held is None:
            self._player.release()
            raise SourceError(
                f"cannot play {display_name(self._target)}",
                found="none of its frames can be decoded",
                do="Check that it plays elsewhere",
            )
        self._zero = self._player.position()

    def _describe(self) -> SourceInfo:
        assert self._held is not None
        height, width = self._held.shape[:2]
        header, aspect = self._header, self._header.sample_aspect_ratio
        if self._player.turned:
            aspect = 1 / aspect
        return SourceInfo(
            display_name(self._target),
            width,
            height,
            header.frame_rate,
            len(self.times) or header.frame_count,
            media=self._target if "://" in self._target else Path(self._target),
            sample_aspect_ratio=aspect,
            colour_tags=header.colour_tags,
            notes=(self._player.note,) if self._player.note else (),
        )

    def _seek(self, seconds: float) -> None:
        """Read a frame at or before `seconds`; the first one where seeking fails."""
        aim = seconds - SEEK_AHEAD_SECONDS
        if aim <= 0 or seconds > self.times[-1]:
            return
        self._player.seek(aim)
        self._held = self._player.read()
        landed = self._player.position() - self._zero
        index = bisect_left(self.times, landed - SAME_TIME_SECONDS)
        found = index < len(self.times) and abs(self.times[index] - landed) < SAME_TIME_SECONDS
        if self._held is None or landed > seconds or not found:
            self._player.release()
            self._begin()
            return
        self._index, self._pts = index, landed

    def _read(self) -> Frame | None:
        image, self._held = self._held, None
        if image is None:
            image = self._player.read()
            if image is None:
                self._check_count()
                return None
            self._pts = self._next_pts()
        frame = Frame(image, self._index, self._pts, self.clock.now())
        self._index += 1
        return frame

    def _next_pts(self) -> float:
        """The time of this frame; one frame after the last where it is not later."""
        pts = self._player.position() - self._zero
        if pts > self._pts:
            return pts
        return self._pts + float(1 / (self._header.frame_rate or Fraction(25)))

    def _check_count(self) -> None:
        count = self._header.frame_count
        if count is not None and self._index < count and not self.warnings:
            shown = shown_count(self._target, self._options.timeout)
            # fewer than were read: the file has no index, and lists packets as they are read
            count = count if shown < self._index else shown
            if self._index < count:
                self.warnings.append(
                    f"{self.info.name} ended after {self._index} of its {count} frames: "
                    "it is damaged or cut off"
                )
        missing = 0 if "://" in self._target else missing_bytes(Path(self._target))
        if missing and not self.warnings:
            self.warnings.append(
                f"{self.info.name} ended after {self._index} frames: "
                f"it is cut off, {missing} bytes are missing"
            )

    def _release(self) -> None:
        self._player.release()
