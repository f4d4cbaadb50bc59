"""HTTP answers that must arrive in time, however their bytes are spread over it.

The timeout of a connection begins anew with every byte, so a server that sends one now and then
would hold a reader for days: in its headers, between chunks, or within a line.
"""

from __future__ import annotations

import io
import time
from http.client import HTTPResponse
from socket import socket
from typing import Any


class TimedResponse(HTTPResponse):
    """An answer whose status and headers must arrive within the timeout of its connection, in all.

    So must what is read after them, until `allow` sets another time: all that is read raises
    TimeoutError once it is over. It is the `response_class` of a connection.
    """

    def __init__(self, sock: socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._timed = _Timed(sock, self.fp)
        self.fp = io.BufferedReader(self._timed)
        self.allow(sock.gettimeout())

    def allow(self, seconds: float | None) -> None:
        """What is read from now on must have arrived within `seconds`; None is without a limit."""
        self._timed.limit(seconds)


class _Timed(io.RawIOBase):
    """What a socket receives, up to a point in time (monotonic seconds), if there is one."""

    def __init__(self, sock: socket, received: Any) -> None:
        self._sock, self._received, self._seconds = sock, received, sock.gettimeout()
        self._until: float | None = None

    def limit(self, seconds: float | None) -> None:
        self._until = None if seconds is None else time.monotonic() + seconds
        if not self.closed:
            self._sock.settimeout(self._seconds)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._until is not None:
            left = self._until - time.monotonic()
            if left <= 0:
                raise TimeoutError("the answer takes too long")
            self._sock.settimeout(left if self._seconds is None else min(left, self._seconds))
        count: int = self._received.raw.readinto(buffer)
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._received.close()
