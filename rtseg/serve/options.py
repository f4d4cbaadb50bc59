"""How the server listens, whom it lets in, and what a client may ask of it."""

from __future__ import annotations

import ipaddress
import re
import secrets
from dataclasses import dataclass
from importlib.util import find_spec

from rtseg.errors import UsageError
from rtseg.options import check, option

MIN_TOKEN = 8
"""Characters of a token."""

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ServeOptions:
    """How the server listens, and what a client may ask of it.

    Attributes:
        host: Address to listen on; 0.0.0.0 is every network of this machine.
        port: Port to listen on; 0 is any free one.
        token: What clients must present: a text, none, or auto, which makes one up unless only
            this machine can connect.
        allow_host: Name under which clients may reach the server, such as that of a proxy;
            repeatable.
        allow_origin: Address of a web page elsewhere that may call the server; repeatable.
        tls_cert: Certificate for https, a PEM file; with --tls-key.
        tls_key: Private key of the certificate, a PEM file.
        max_clients: Live streams at once.
        max_pictures: Images of /v1/segment at once, with those that wait; more are refused.
        max_megabytes: Largest image in megabytes (1e6 bytes).
        max_megapixels: Largest image in megapixels, of any kind of request.
        max_jobs: Videos that are kept at once, with those that are done; 0 takes none.
        max_video_megabytes: Largest video in megabytes.
        max_job_minutes: Minutes that a video may take.
        job_gigabytes: Disk space of all videos and their results in gigabytes.
        keep_hours: Hours after which an unfinished upload or a result is removed.
        job_dir: Folder of videos and their results; default is one of the port in the user's cache.

    Raises:
        UsageError: a number is out of its range, or values contradict one another.
    """

    host: str = "127.0.0.1"
    port: int = option(8765, least=0, most=65535)
    token: str = "auto"
    allow_host: tuple[str, ...] = ()
    allow_origin: tuple[str, ...] = ()
    tls_cert: str | None = None
    tls_key: str | None = None
    max_clients: int = option(8, least=1, most=256)
    max_pictures: int = option(16, least=1, most=1024)
    max_megabytes: float = option(32.0, least=0.001, most=1024)
    max_megapixels: float = option(50.0, least=0.001, most=256)
    max_jobs: int = option(16, least=0, most=1000)
    max_video_megabytes: float = option(512.0, least=0.001, most=1e6)
    max_job_minutes: float = option(60.0, least=0.001, most=1e5)
    job_gigabytes: float = option(10.0, least=0.001, most=1e6)
    keep_hours: float = option(24.0, least=0.0001, most=1e5)
    job_dir: str | None = None

    def __post_init__(self) -> None:
        check(self)
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = "--tls-cert", "--tls-key"
            if self.tls_cert is None:
                given, missing = missing, given
            raise UsageError(f"{given} without {missing}", do="Use both")
        if not (self.token.isascii() and self.token.isprintable()) or " " in self.token:
            raise UsageError("--token", found="it has other than plain ASCII characters")
        if self.token not in ("auto", "none") and len(self.token) < MIN_TOKEN:
            raise UsageError("--token", found=f"it is shorter than {MIN_TOKEN} characters")
        for origin in self.allow_origin:
            if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
                raise UsageError(
                    f"--allow-origin {origin}",
                    found="it is not the address of a site",
                    do="Write scheme and host alone, such as https://example.org",
                )

    @property
    def is_private(self) -> bool:
        """Whether only this machine can connect, and under its own name."""
        return is_loopback(self.host) and not self.allow_host

    def settled_token(self) -> str | None:
        """The token that clients must present, made up for "auto"; None if there is none."""
        if self.token == "auto":
            return None if self.is_private else secrets.token_urlsafe(18)
        return None if self.token == "none" else self.token

    def allows_host(self, name: str) -> bool:
        """Whether a request may name the server so; without a port.

        Names that are not listed are refused, as a page elsewhere can have its own name point
        here (DNS rebinding). An IP address cannot be made to, and is the server's own.
        """
        folded = name.casefold().rstrip(".")
        known = (*LOOPBACK_NAMES, self.host, *self.allow_host)
        if folded in {each.casefold() for each in known}:
            return True
        return not is_loopback(self.host) and _address(folded) is not None


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own, which no other can reach."""
    address = _address(host)
    return host.casefold() == "localhost" if address is None else address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def place_options(place: str) -> ServeOptions:
    """Where HOST:PORT, or :PORT, listens.

    Raises:
        UsageError: it is something else.
    """
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]*):(\d{1,5})", place)
    if found is None or int(found[2]) > 65535:
        raise UsageError(
            f"--web {place}", found="it is not HOST:PORT", do="Write it as 127.0.0.1:8765 or :8765"
        )
    host = found[1].strip("[]") or "127.0.0.1"
    return ServeOptions(host=host, port=int(found[2]))


def check_installed() -> None:
    """Raise UsageError unless the libraries of the extra can be imported."""
    for library in ("starlette", "uvicorn", "websockets", "segno"):
        if find_spec(library) is None:
            raise UsageError(
                "rtseg serve needs the extra rtseg[serve]",
                found=f"{library} is not installed",
                do='Install it: python -m pip install "rtseg[serve]"',
            )
