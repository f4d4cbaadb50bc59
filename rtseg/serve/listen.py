"""Where a server listens, and what it says of that."""

from __future__ import annotations

import asyncio
import io
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rtseg.errors import RtsegError, UsageError
from rtseg.files import reason
from rtseg.serve.options import ServeOptions, is_loopback

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

MOST_CONNECTIONS = 512

SEND_BYTES, UNSENT_BYTES = 1 << 18, 1 << 16
"""What the system keeps for a client that does not read, and of that what is not on its way; more
would be old news."""

UNREAD_SECONDS = 60
"""After which it ends the connection to such a client, on Linux. Closing alone waits for ever for
what is left to be read, with a connection of `MOST_CONNECTIONS` held."""


@contextmanager
def listening(options: ServeOptions) -> Iterator[socket.socket]:
    """A socket at the address, bound before the network is loaded.

    Raises:
        RtsegError: it is in use, or not this machine's.
    """
    asked = f"cannot listen on {options.host}, port {options.port}"
    try:
        found = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UsageError(asked, found=_reason(error)) from error
    with listener:
        try:
            # Windows would let a second server bind the port with the option that others need
            option = "SO_EXCLUSIVEADDRUSE" if sys.platform == "win32" else "SO_REUSEADDR"
            listener.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
            for option, value in (
                ("TCP_NOTSENT_LOWAT", UNSENT_BYTES),
                ("TCP_USER_TIMEOUT", 1000 * UNREAD_SECONDS),
            ):
                with suppress(AttributeError, OSError):  # not every system has it
                    listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
            listener.bind(address)
        except OSError as error:
            do = "Use another --port; 0 is any free one"
            raise RtsegError(asked, found=_reason(error), do=do) from error
        yield listener


def _reason(error: Exception) -> str:
    return reason(error).lower() if isinstance(error, OSError) else "it is not a name"


def server_config(app: Starlette, options: ServeOptions, drain_seconds: int) -> uvicorn.Config:
    """How uvicorn serves the application.

    Args:
        drain_seconds: in which requests must be answered at the end.
    """
    import uvicorn

    return uvicorn.Config(
        app,
        http="rtseg.serve.connection:Connection",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=drain_seconds,
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
    )


class CutOff(logging.Filter):
    """Counts the requests that uvicorn cuts off at the end, in place of its own lines on them.

    Attributes:
        count: requests so far, in this `with`.
    """

    def __enter__(self) -> CutOff:
        self.count = 0
        logging.getLogger("uvicorn.error").addFilter(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        logging.getLogger("uvicorn.error").removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """As logging says."""
        if record.msg.startswith("Cancel %s running task") and isinstance(record.args, tuple):
            self.count = int(str(record.args[0]))
            return False
        return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def greeting(
    options: ServeOptions, address: tuple[Any, ...], token: str | None
) -> Iterator[tuple[str, str]]:
    """What is open to whom."""
    host, port = address[:2]
    scheme = "http" if options.tls_cert is None else "https"
    name = _reachable(host)
    name = f"[{name}]" if ":" in name else name
    fragment = f"/#token={token}" if token else "/"
    yield "serving", f"{scheme}://{name}:{port}{fragment}"
    whom = "programs and browsers on this machine"
    if not is_loopback(host):
        whom = "everyone who can reach this machine"
    elif options.allow_host:
        whom += f", and who comes through {', '.join(options.allow_host)}"
    yield "open to", f"{whom}, {'with the token' if token else 'without a token'}"
    if not is_loopback(host) and scheme == "http":
        yield "warning", "http is not encrypted: others on the network can read images and token"


def qr_code(address: str) -> str:
    """The address for the camera of a telephone, in half blocks for a dark terminal.

    Returns:
        "" for an address that only this machine reaches.
    """
    if is_loopback(urlsplit(address).hostname or ""):
        return ""
    import segno

    text = io.StringIO()
    segno.make_qr(address).terminal(out=text, compact=True, border=2)
    return text.getvalue().rstrip()


def _reachable(host: str) -> str:
    """The address of this machine that others see, for one that means every network."""
    if host not in ("0.0.0.0", "::"):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks which way out there is
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
