"""Network streams: RTSP, RTMP, UDP and what else FFmpeg reads from an address, but HTTP."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from rtseg.addresses import public_name
from rtseg.contracts import Source, SourceInfo
from rtseg.errors import SourceError, UsageError
from rtseg.files import reason
from rtseg.sources.capture import LiveSource
from rtseg.sources.ffmpeg import LivePlayer
from rtseg.sources.options import SourceOptions, check_address, check_decoder
from rtseg.stats import Clock, Pace
from rtseg.text import counted

PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "http": 80, "https": 443}

LATE_SECONDS = 0.2
"""A frame of HLS later than this moves all that follow; smaller delays are caught up with, as each
would add to the delay of the stream for good."""

JUMP_SECONDS = 2.0
"""A frame of HLS due later than this after the one before follows segments that are gone."""


def open_stream(target: str, options: SourceOptions, clock: Clock | None = None) -> Source:
    """A live stream.

    Raises:
        SourceError: nothing answers, or what answers is not video.
    """
    check_address(target)
    try:
        player = LivePlayer(target, options)
    except SourceError as error:
        given = error
    else:
        return StreamSource(target, options, clock, player, partial(live_player, target, options))
    if given.__cause__ is None:  # FFmpeg has opened it: it has no video, or none that can be shown
        raise SourceError(f"cannot open {public_name(target)}", found=given.found, do=given.do)
    raise cannot_open(target, options.timeout, given.__cause__)


def live_player(target: str, options: SourceOptions) -> LivePlayer | None:
    """An open stream; None where nothing comes, or nothing that is video."""
    try:
        return LivePlayer(target, options)
    except SourceError:
        return None


class StreamSource(LiveSource):
    """A live stream that is already open; when lost, it is reopened until it is back.

    Args:
        capture: a `cv2.VideoCapture`, or what has its `grab`, `retrieve` and `release`, and `due`
            where frames come sooner than they are to be shown (see `LivePlayer`).
        reopen: opens another one; None where there is none.
    """

    def __init__(
        self,
        target: str,
        options: SourceOptions,
        clock: Clock | None,
        capture: Any,
        reopen: Callable[[], Any],
    ) -> None:
        super().__init__(options, clock)
        self._lost = [0, 0]
        self._capture = self._attached(capture)
        self._reopener = reopen
        try:
            check_decoder(options, f"{public_name(target)} is a live stream")
        except UsageError:
            self._release()
            raise
        # the first image is discarded: it will be old when a frame is needed
        first = self._grab()
        if first is None:
            self._release()
            raise cannot_open(target, options.timeout)
        height, width = first[0].shape[:2]
        rate = getattr(capture, "frame_rate", None)
        notes = tuple(getattr(capture, "notes", ()))
        self.info = SourceInfo(public_name(target), width, height, rate, live=True, notes=notes)

    def _open(self) -> Any:
        return self._attached(self._reopener())

    def _attached(self, capture: Any) -> Any:
        """A capture, of which damage before its first frame does not count: it began anywhere."""
        self._before = damage(capture)
        self._pace = Pace(self.clock, LATE_SECONDS)
        return capture

    def _arrived(self, capture: Any) -> float:
        if (due := getattr(capture, "due", None)) is not None:
            left = self._pace.seconds_left(due)
            if left > JUMP_SECONDS:
                self._pace = Pace(self.clock, LATE_SECONDS)
                left = self._pace.seconds_left(due)
            self.wait(left)
        return self.clock.now()

    def _release(self) -> None:
        if self._capture is not None and self._first_at is not None:
            self._report(self._capture)
        super()._release()

    def _report(self, capture: Any) -> None:
        """Warn of what was lost, and what is known of the stream since it was opened."""
        name = self.info.name
        notes = [f"{name}: {n}" for n in getattr(capture, "notes", ()) if n not in self.info.notes]
        self.warnings += [note for note in notes if note not in self.warnings]
        lost = [
            n + now - then
            for n, now, then in zip(self._lost, damage(capture), self._before, strict=True)
        ]
        if lost != self._lost:
            packets, frames = counted(lost[0], "packet"), counted(lost[1], "frame")
            text = f"{name} was damaged: {packets} could not be decoded, {frames} concealed"
            old = f"{name} was damaged"
            self.warnings[:] = [each for each in self.warnings if not each.startswith(old)] + [text]
            self._lost = lost


def damage(capture: Any) -> list[int]:
    """Packets that could not be decoded, and frames of which parts were guessed."""
    return [getattr(capture, "damaged", 0), getattr(capture, "concealed", 0)]


def cannot_open(address: str, timeout: float, given: BaseException | None = None) -> SourceError:
    """Why an address gives no video, as far as a connection to its port tells.

    Args:
        given: what FFmpeg raised.
    """
    asked = f"cannot open {public_name(address)}"
    parts = urlsplit(address)
    port = parts.port or PORTS.get(parts.scheme.lower())
    if not parts.hostname or port is None or parts.scheme in ("udp", "rtp", "srt"):
        return SourceError(asked, found=f"no video came within {timeout:g} s")
    try:
        socket.create_connection((parts.hostname, port), min(timeout, 3.0)).close()
    except socket.gaierror:
        return SourceError(asked, found=f"there is no host called {parts.hostname}")
    except TimeoutError:
        return SourceError(asked, found=f"{parts.hostname} does not answer on port {port}")
    except OSError as error:
        return SourceError(asked, found=f"port {port} of {parts.hostname}: {reason(error).lower()}")
    from rtseg.sources.probe import refusal

    answer = refusal(given, parts.scheme)
    return SourceError(
        asked,
        found=f"{parts.hostname} answers"
        + (f": {answer}" if answer else f", but gave no video within {timeout:g} s"),
        do="Check the path, the user and the password",
    )
