"""Network streams: RTSP, RTMP, HTTP, UDP and what else FFmpeg reads from an address."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import cv2

from rtseg.contracts import Source, SourceInfo
from rtseg.errors import SourceError, UsageError
from rtseg.files import reason
from rtseg.sources.capture import LiveSource, network_params, nominal_rate, open_capture
from rtseg.sources.options import SourceOptions, check_decoder, public_name
from rtseg.stats import Clock

PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "http": 80, "https": 443}

MAX_RECORDED_FRAMES = 1e9
"""FFmpeg's guess for an endless stream is negative or above this."""


def open_stream(target: str, options: SourceOptions, clock: Clock | None = None) -> Source:
    """A live stream; or a recording, where an HTTP server gives a frame count.

    A recording is read like a file: every frame, at its own time, ending at its end.

    Raises:
        SourceError: nothing answers, or what answers is not video.
    """
    capture = open_capture(target, cv2.CAP_FFMPEG, network_params(options.timeout))
    if capture is None:
        raise cannot_open(target, options.timeout)
    may_be_recorded = urlsplit(target).scheme.lower() in ("http", "https")
    if may_be_recorded and 0 < capture.get(cv2.CAP_PROP_FRAME_COUNT) < MAX_RECORDED_FRAMES:
        from rtseg.sources.video import VideoSource

        capture.release()
        return VideoSource(target, options, clock)
    try:
        check_decoder(options, f"{public_name(target)} is a live stream")
    except UsageError:
        capture.release()
        raise
    return StreamSource(target, options, clock, capture)


class StreamSource(LiveSource):
    """A live stream that is already open; when lost, it is reopened until it is back."""

    def __init__(
        self,
        target: str,
        options: SourceOptions,
        clock: Clock | None,
        capture: cv2.VideoCapture,
    ) -> None:
        super().__init__(options, clock)
        self._target = target
        self._timeout = options.timeout
        self._capture = capture
        # the first image is discarded: it will be old when a frame is needed
        first = self._grab()
        if first is None:
            self._release()
            raise cannot_open(target, options.timeout)
        height, width = first[0].shape[:2]
        rate = nominal_rate(capture)
        self.info = SourceInfo(public_name(target), width, height, rate, live=True)

    def _open(self) -> cv2.VideoCapture | None:
        return open_capture(self._target, cv2.CAP_FFMPEG, network_params(self._timeout))


def cannot_open(address: str, timeout: float) -> SourceError:
    """Why an address gives no video, as far as a connection to its port tells."""
    asked = f"cannot open {public_name(address)}"
    try:
        parts = urlsplit(address)
        port = parts.port or PORTS.get(parts.scheme.lower())
    except ValueError as error:
        return SourceError(asked, found=str(error))
    if not parts.hostname:
        return SourceError(asked, found="the address names no host")
    if port is None or parts.scheme in ("udp", "rtp", "srt"):
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
