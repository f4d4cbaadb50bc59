"""A connection of the server, which a client may not hold without asking for anything."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""In which the head of a request must have arrived, from the start or from the last answer."""


class Connection(H11Protocol):
    """HTTP/1.1, closed if the head of a request does not come in time, byte by byte or at all.

    Where there are as many as may be, a new one takes the place of that which has been without a
    request for the longest: whoever opens thousands keeps nobody out.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As asyncio says."""
        super().connection_made(transport)
        self._expect_head()
        most = self.config.limit_concurrency
        if most is not None and len(self.connections) >= most:
            others = [each for each in self.connections if isinstance(each, Connection)]
            idle = [each for each in others if each is not self and each._is_idle]
            if idle:
                min(idle, key=lambda each: each._since).transport.close()

    def on_response_complete(self) -> None:
        """As uvicorn says."""
        super().on_response_complete()
        self._expect_head()

    def _expect_head(self) -> None:
        self._since = self.loop.time()
        self.loop.call_later(HEAD_SECONDS, self._check_head, self.cycle)

    def _check_head(self, last: Any) -> None:
        mine = self.transport.get_protocol() is self  # else it is a WebSocket by now
        if mine and self.cycle is last and not self.transport.is_closing():
            self.transport.close()

    @property
    def _is_idle(self) -> bool:
        done = self.cycle is None or self.cycle.response_complete
        return done and not self.transport.is_closing()
