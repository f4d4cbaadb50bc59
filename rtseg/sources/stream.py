"""Network streams: RTSP, RTMP, HTTP, UDP and what else FFmpeg reads from an address."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from rtseg.contracts import Source, SourceInfo
from rtseg.errors import SourceError, UsageError
from rtseg.files import reason
from rtseg.sources.capture import LiveSource
from rtseg.sources.ffmpeg import LivePlayer
from rtseg.sources.options import SourceOptions, check_address, check_decoder, public_name
from rtseg.sources.video import VideoSource
from rtseg.stats import Clock

PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "http": 80, "https": 443}


def open_stream(target: str, options: SourceOptions, clock: Clock | None = None) -> Source:
    """A live stream; or a recording or an image, where an HTTP server gives one.

    A recording is read like a file: every frame, at its own time, ending at its end.

    Raises:
        SourceError: nothing answers, or what answers is not video.
    """
    check_address(target)
    if urlsplit(target).scheme.lower() not in ("http", "https"):
        return _by_ffmpeg(target, options, clock, is_http=False)
    try:
        return _by_ffmpeg(target, options, clock, is_http=True)
    except SourceError as error:
        given = error  # not the context of what follows: the answer of the server is the reason
    return _by_http(target, options, clock, given)


def _by_ffmpeg(
    target: str, options: SourceOptions, clock: Clock | None, *, is_http: bool
) -> Source:
    asked = f"cannot open {public_name(target)}"
    player = _player(target, options)
    if player is None:
        if is_http:
            raise SourceError(asked, found="what it sends is not video")
        raise cannot_open(target, options.timeout)
    if is_http and player.is_recorded:
        player.release()
        return VideoSource(target, options, clock)
    try:
        check_decoder(options, f"{public_name(target)} is a live stream")
        if is_http and not (player.grab() and player.grab()):
            raise SourceError(asked, found="no video came")  # or one image
    except (SourceError, UsageError):
        player.release()
        raise
    return StreamSource(target, options, clock, player, partial(_player, target, options))


def _player(target: str, options: SourceOptions) -> LivePlayer | None:
    """An open stream; None where nothing comes, or nothing that is video."""
    try:
        return LivePlayer(target, options)
    except SourceError:
        return None


def _by_http(
    target: str, options: SourceOptions, clock: Clock | None, given: SourceError
) -> Source:
    """What FFmpeg does not show of a web server.

    Args:
        given: FFmpeg's reason, raised where there is no better one.
    """
    from rtseg.sources.http import NETWORK_ERRORS, Parts, open_answer, request

    def parts() -> Parts | None:
        try:
            answer = request(target, options.timeout)
        except (SourceError, *NETWORK_ERRORS):
            return None
        if answer.is_multipart:
            return Parts(answer, options.timeout, clock)
        answer.response.close()
        return None

    try:
        answer = request(target, options.timeout)
        if not answer.is_multipart:
            return open_answer(answer, target, options, clock, given)
    except NETWORK_ERRORS:
        raise cannot_open(target, options.timeout) from None
    capture = Parts(answer, options.timeout, clock)
    try:
        check_decoder(options, f"{public_name(target)} is a live stream")
        return StreamSource(target, options, clock, capture, parts)
    except SourceError as error:
        if capture.others:
            raise SourceError(
                f"cannot open {public_name(target)}",
                found=f"its parts are {capture.others}, not images",
            ) from error
        raise
    except UsageError:
        capture.release()
        raise


class StreamSource(LiveSource):
    """A live stream that is already open; when lost, it is reopened until it is back.

    Args:
        capture: a `cv2.VideoCapture`, or what has its `grab`, `retrieve` and `release`.
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
        self._capture = capture
        self._reopener = reopen
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
        return self._reopener()


def cannot_open(address: str, timeout: float) -> SourceError:
    """Why an address gives no video, as far as a connection to its port tells."""
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

    answer = refusal(address, min(timeout, 3.0))
    return SourceError(
        asked,
        found=f"{parts.hostname} answers"
        + (f": {answer}" if answer else f", but gave no video within {timeout:g} s"),
        do="Check the path, the user and the password",
    )
