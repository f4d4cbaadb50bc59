"""Video files, and recordings behind an address: every frame, at its own time."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from pathlib import Path

from rtseg.contracts import Source, SourceInfo
from rtseg.frame import Frame, Picture
from rtseg.sources.options import SourceOptions
from rtseg.sources.probe import (
    Shot,
    check_file,
    display_name,
    fault_of,
    open_player,
    packet_times,
    without_frames,
)
from rtseg.stats import Clock

SEEK_AHEAD_SECONDS = 1.0
"""A seek aims this much before the start; the frames between are decoded and dropped."""

SAME_TIME_SECONDS = 1e-3

SHORTEST_SECONDS = 5e-3
"""A duration below this is a tick that stands for an unknown one."""


class VideoSource(Source):
    """A video file, upright: its rotation is applied.

    `info` comes from the header and the first frame, the times from each frame, at constant or
    variable rate; pts is 0 at the first frame wherever the file starts. With `options.start`,
    frames before it may be missing. Damage, a file that ends before its declared count, and a size
    that changes are reported in `warnings`.

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
        if "://" not in target:
            check_file(Path(target))
        is_part = options.start is not None or options.end is not None
        self.times = packet_times(target, options) if is_part else ()
        self._begin()
        self.info = self._describe()
        if options.start and self.times:
            self._seek(options.start)

    def _begin(self) -> None:
        """Open the file and read its first frame."""
        self._player = open_player(self._target, self._options)
        self._index, self._pts, self._lasts, self._lasts_hold = -1, 0.0, 0.0, True
        self._held = self._player.read()
        if self._held is None:
            self._player.release()
            raise without_frames(self._target, self._player.trouble)
        self._zero = self._held.at or 0.0

    def _describe(self) -> SourceInfo:
        assert self._held is not None
        height, width = self._held.picture.shape[:2]
        header = self._player.header
        aspect = header.sample_aspect_ratio
        return SourceInfo(
            display_name(self._target),
            width,
            height,
            header.frame_rate,
            len(self.times) or header.frame_count,
            media=self._target if "://" in self._target else Path(self._target),
            media_start=header.late,
            track=header.track,
            sample_aspect_ratio=1 / aspect if self._player.turned else aspect,
            colour_tags=header.colour_tags,
            notes=tuple(self._player.notes),
        )

    def _seek(self, seconds: float) -> None:
        """Read a frame at or before `seconds`; the first one where seeking fails."""
        aim = seconds - SEEK_AHEAD_SECONDS
        if aim <= 0 or seconds > self.times[-1]:
            return
        self._player.seek(aim)
        self._held = self._player.read()
        at = None if self._held is None else self._held.at
        landed = float("inf") if at is None else at - self._zero
        index = bisect_left(self.times, landed - SAME_TIME_SECONDS)
        found = index < len(self.times) and abs(self.times[index] - landed) < SAME_TIME_SECONDS
        if landed > seconds or not found:
            self._player.release()
            self._begin()
            return
        self._index, self._pts = index - 1, self.times[index - 1] if index else 0.0

    def _read(self) -> Frame | None:
        shot, self._held = self._held, None
        shot = shot or self._player.read()
        if shot is None:
            self._report_faults()
            return None
        self._index += 1
        lasts = self._time(shot)
        self._check_size(shot.picture)
        return Frame(shot.picture, self._index, self._pts, self.clock.now(), lasts=lasts)

    def _time(self, shot: Shot) -> float:
        """Move on to the time of a frame; returns how long it is shown, 0 if that is not known.

        A time that is not later than the last is taken for one frame later. A declared duration is
        believed as long as those before it were what the times say.
        """
        step = 1 / float(self.info.frame_rate or 25)
        pts = None if shot.at is None else shot.at - self._zero
        if self._index and (pts is None or pts <= self._pts):
            pts = self._pts + step
        gap, self._pts = (pts or 0.0) - self._pts, pts or 0.0
        if self._lasts and abs(gap - self._lasts) > max(SAME_TIME_SECONDS, gap / 50):
            self._lasts_hold = False
        self._lasts = shot.lasts
        return shot.lasts if self._lasts_hold and shot.lasts > SHORTEST_SECONDS else 0.0

    def _check_size(self, picture: Picture) -> None:
        height, width = picture.shape[:2]
        if (width, height) != (self.info.width, self.info.height):
            self.warnings.append(
                f"{self.info.name} is {width}x{height} from frame {self._index} on, "
                f"{self.info.width}x{self.info.height} before"
            )
            self.info = replace(self.info, width=width, height=height)

    def _report_faults(self) -> None:
        """Warn of what could not be read or shown as it is."""
        notes = [f"{self.info.name}: {n}" for n in self._player.notes if n not in self.info.notes]
        fault = fault_of(self._player, self._target, self._options, self._index + 1)
        found = [*notes, *([fault] if fault else [])]
        self.warnings += [text for text in found if text not in self.warnings]

    def _release(self) -> None:
        self._player.release()
