"""Video files, and recordings behind an address: every frame, at its own time."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from pathlib import Path

from rtseg.contracts import Source, SourceInfo
from rtseg.frame import Frame, Picture
from rtseg.planes import converted
from rtseg.player import SAME_TIME_SECONDS, Place, Timeline, without_frames
from rtseg.sources.options import SourceOptions
from rtseg.sources.probe import check_file, display_name, fault_of, open_player, packet_places
from rtseg.stats import Clock

SEEK_AHEAD_SECONDS = 1.0
"""A seek aims this much before the start; the frames between are decoded and dropped."""


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
        self._begin()
        is_part = options.start is not None or options.end is not None
        places = packet_places(target, options) if is_part else ()
        zero = self._timeline.zero
        self.times = tuple(at - zero for at, _ in places if at > zero - SAME_TIME_SECONDS)
        self.info = self._describe()
        if options.start and self.times:
            self._seek(options.start, frozenset(places))

    def _begin(self) -> None:
        """Open the file and read its first frame."""
        self._player = open_player(self._target, self._options)
        self._index, self._held = -1, self._player.read(planar=True)
        if self._held is None:
            self._player.release()
            raise without_frames(display_name(self._target), self._player.trouble)
        self._timeline = Timeline(self._held, self._player.header.frame_rate)

    def _describe(self) -> SourceInfo:
        assert self._held is not None
        height, width = self._held.picture.shape[:2]
        header, aspect = self._player.header, self._player.header.sample_aspect_ratio
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
            seconds=header.seconds,
        )

    def _seek(self, seconds: float, places: frozenset[Place]) -> None:
        """Read a frame at or before `seconds`; the first one where seeking fails.

        A packet that has another time than it had when the file was read from its beginning shows
        that seeking misleads: the index of the file is damaged, or times are counted.
        """
        aim = seconds - SEEK_AHEAD_SECONDS
        if aim <= 0 or seconds > self.times[-1]:
            return
        place = self._player.seek(aim)
        self._held = self._player.read(planar=True)
        at = None if self._held is None else self._held.at
        landed = float("inf") if at is None else at - self._timeline.zero
        index = bisect_left(self.times, landed - SAME_TIME_SECONDS)
        found = index < len(self.times) and abs(self.times[index] - landed) < SAME_TIME_SECONDS
        if landed > seconds or not found or place not in places:
            self._player.release()
            self._begin()
            return
        self._index = index - 1
        if index:
            self._timeline.pts = self.times[index - 1]

    def _read(self) -> Frame | None:
        shot, self._held = self._held or self._player.read(planar=self.planar), None
        self._report(None if shot else self._index + 1)
        if shot is None:
            return None
        self._index += 1
        lasts = self._timeline.advance(shot)
        self._check_size(shot.picture)
        picture = shot.picture if self.planar else converted(shot.picture)  # of the first frame
        return Frame(picture, self._index, self._timeline.pts, self.clock.now(), lasts=lasts)

    def _check_size(self, picture: Picture) -> None:
        height, width = picture.shape[:2]
        if (width, height) != (self.info.width, self.info.height):
            self.warnings.append(
                f"{self.info.name} is {width}x{height} from frame {self._index} on, "
                f"{self.info.width}x{self.info.height} before"
            )
            self.info = replace(self.info, width=width, height=height)

    def _report(self, count: int | None) -> None:
        """Warn of what could not be read or shown as it is, of `count` frames at the end."""
        name = self.info.name
        found = [f"{name}: {note}" for note in self._player.notes if note not in self.info.notes]
        if fault := fault_of(self._player, name, self._target, self._options, count):
            found.append(fault)
        kept = (text for text in self.warnings if not text.startswith(f"{name} is damaged: "))
        self.warnings[:] = dict.fromkeys((*kept, *found))

    def _release(self) -> None:
        self._player.release()
