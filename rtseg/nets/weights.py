"""Published weights: downloaded once, verified at every use."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol
from urllib.parse import urlsplit

from rtseg.cache import cache_path, safe_name, sha256
from rtseg.errors import DownloadError
from rtseg.files import atomic
from rtseg.zoo import WeightsSpec

if TYPE_CHECKING:
    from requests import HTTPError, Response

TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 16
TRIES, PAUSE_SECONDS = 6, 1.0
"""How often a connection is made for one file, each going on where the last one broke off, and what
lies between; one that brings nothing is the last."""


class Progress(Protocol):
    """What shows a download to a person; given from outside, since only the command line prints."""

    def __call__(self, title: str, done: int, total: int) -> None:
        """`done` of `total` bytes are here; 0 is an unknown total. Called last with done == total.

        Args:
            title: the file's name.
        """


def weights_path(weights: WeightsSpec) -> Path:
    """Where the file is, or will be once it is downloaded."""
    return cache_path("weights", safe_name(Path(urlsplit(weights.url).path).name))


def is_intact(path: Path, weights: WeightsSpec) -> bool:
    """Whether the file is there and has the digest, or the prefix of it, that was published."""
    return path.is_file() and sha256(path).startswith(weights.sha256.lower())


def fetch(weights: WeightsSpec, progress: Progress | None = None) -> Path:
    """The weights on this machine: from the cache if intact there, else downloaded.

    A file in the cache that is not what was published is downloaded again. A connection that breaks
    off is made again, and goes on where it ended if the server can; what fails in the end leaves
    what has come beside the file's place, and the next call goes on from there.

    Raises:
        DownloadError: no answer, a wrong answer, or a file with another digest.
    """
    path = weights_path(weights)
    try:
        if not is_intact(path, weights):
            with atomic(path) as temporary:
                _fetch_into(temporary, path, weights, progress)
                _verify(temporary, weights, path)
    except OSError as error:  # what requests raises is an OSError too
        raise _failed(weights, path, _reason(error)) from error
    return path


def _fetch_into(
    temporary: Path, path: Path, weights: WeightsSpec, progress: Progress | None
) -> None:
    """Download to `temporary`, beginning with what an earlier call has left of it."""
    rest = path.with_name(f"{path.name}.part")
    with suppress(FileNotFoundError):
        rest.replace(temporary)  # so nobody else has it too
        with _kept(temporary, rest):
            _download(weights.url, temporary, path.name, progress)
        if is_intact(temporary, weights):
            return
        temporary.unlink()  # it was the beginning of another file
    with _kept(temporary, rest):
        _download(weights.url, temporary, path.name, progress)


@contextmanager
def _kept(temporary: Path, rest: Path) -> Iterator[None]:
    """Whatever interrupts the block, keep what has come; not on a disk that is full."""
    try:
        yield
    except BaseException as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if not full and temporary.is_file() and temporary.stat().st_size:
            temporary.replace(rest)
        raise


def _download(url: str, to: Path, title: str, progress: Progress | None) -> None:
    import requests

    broken = (requests.exceptions.ChunkedEncodingError, requests.ConnectionError, requests.Timeout)
    bar = _Bar(title, progress or (lambda title, done, total: None))
    with to.open("ab") as file:
        for again in reversed(range(TRIES)):
            here = bar.before = file.tell()
            try:
                _download_rest(url, file, bar)
                return
            except broken:
                if not again or file.tell() == bar.before:
                    raise
                time.sleep(PAUSE_SECONDS)
            except requests.HTTPError as error:
                if not again or not here or not _is_past_the_end(error):
                    raise
            except ValueError as error:  # of urllib3, for an address that is none
                raise OSError(str(error)) from error


def _download_rest(url: str, file: BinaryIO, bar: _Bar) -> None:
    """What comes after the bytes that `file` has; all of it, where the server gives no part."""
    import pooch

    def answered(response: Response, *_: object, **__: object) -> None:
        closing.callback(response.close)  # pooch leaves one open that is an error
        status = response.status_code
        if status in (HTTPStatus.OK, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
            file.seek(0)
            file.truncate()
        bar.before = file.tell()

    here = file.tell()
    part = {"Range": f"bytes={here}-"} if here else {}
    download = pooch.HTTPDownloader(
        progressbar=bar,
        chunk_size=CHUNK_BYTES,
        timeout=TIMEOUT_SECONDS,
        headers={"Accept-Encoding": "identity", **part},
        hooks={"response": answered},
    )
    with ExitStack() as closing:
        download(url, file, None)


def _is_past_the_end(error: HTTPError) -> bool:
    """Whether the server's file is no longer than what is here: then it is another one."""
    status = getattr(error.response, "status_code", None)
    return bool(status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)


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
        do=f"Put the file at {path}, or take a network that ships (rtseg models lists them), "
        "or time this one with --weights random",
    )


def _reason(error: OSError) -> str:
    """One line for what requests says in many."""
    import requests

    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answers {response.status_code} {response.reason}"
    if isinstance(error, requests.Timeout):
        return "the server does not answer"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off before the end of the file"
    if isinstance(error, requests.ConnectionError):
        return "no connection to the server"
    return " ".join(str(error).split()) or type(error).__name__


class _Bar:
    """What pooch reports to, in the manner of tqdm.

    Attributes:
        before: how many bytes earlier connections have brought.
    """

    def __init__(self, title: str, progress: Progress) -> None:
        self.before = 0
        self._title, self._progress, self._done, self._total = title, progress, 0, 0

    @property
    def total(self) -> int:
        """Bytes of the whole file; 0 is unknown. Set to those that are still to come."""
        return self._total

    @total.setter
    def total(self, left: int) -> None:
        self._total = self.before + left if left else 0
        self._done = self.before

    def update(self, count: int) -> None:
        """`count` more bytes; pooch counts whole chunks, also where the last one is shorter."""
        self._done = min(self._done + count, self.total) if self.total else self._done + count
        self._progress(self._title, self._done, self.total)

    def reset(self) -> None:
        """Begin to count again; pooch does so to report the whole once more at the end."""
        self._done = self.before

    def close(self) -> None:
        """The end."""
