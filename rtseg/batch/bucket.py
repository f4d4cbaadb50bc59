"""Clips and outputs in buckets: s3://, gs:// and whatever else fsspec reads.

Who may read and write is known to the libraries behind it, from the environment or their own files
(AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS, ...); rtseg neither takes nor keeps credentials.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import has_magic
from pathlib import Path
from typing import Any

from rtseg.addresses import is_address, public_name, remember
from rtseg.errors import RtsegError, UsageError, first_line
from rtseg.files import reason
from rtseg.sources import SOURCES
from rtseg.threads import parallel_map

REQUESTS = 16
"""At once, where many objects are looked up."""

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""The extra of rtseg that reads a scheme."""


def scheme_of(text: str) -> str:
    """The scheme of an address in a bucket; "" for paths, and for what rtseg opens by itself."""
    if not is_address(text):
        return ""
    scheme = text.partition(":")[0].lower()
    own = frozenset().union(*(kind.schemes for kind in SOURCES.values()))
    return "" if scheme in own or scheme == "file" else scheme


class Bucket:
    """A `Store` in a bucket, and what else is done with its objects.

    Args:
        root: address of the folder of the records.

    Raises:
        UsageError: nothing that is installed reads such addresses, or it has a user in it.
        RtsegError: its server cannot be reached.
    """

    def __init__(self, root: str) -> None:
        self._root = root.rstrip("/")
        self._opened: Any = None
        _ = self._files

    def __getstate__(self) -> dict[str, Any]:
        return {"_root": self._root, "_opened": None}

    @property
    def _files(self) -> Any:
        """fsspec's file system."""
        if self._opened is None:
            self._opened = _file_system(self._root)
        return self._opened

    # --- records

    def read(self, name: str) -> bytes | None:
        """As `Store`."""
        try:
            with _in_words(self._root):
                content: bytes = self._files.cat_file(self._path(name))
                return content
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """As `Store`."""
        with _in_words(self._root):
            self._files.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """As `Store`; S3 and Google's store refuse a second one by themselves."""
        try:
            with _in_words(self._root):
                self._files.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            return False
        return True

    def touch(self, name: str) -> None:
        """As `Store`."""
        content = self.read(name)
        if content is not None:
            self.write(name, content)

    def age(self, name: str) -> float | None:
        """As `Store`; to a second."""
        probe = f"clock-{secrets.token_hex(4)}"
        try:
            with _in_words(self._root):
                modified = self._files.modified(self._path(name))
                self.write(probe, b"")
                now = self._files.modified(self._path(probe))
        except FileNotFoundError:
            return None
        finally:
            self.remove(probe)
        return float((now - modified).total_seconds())

    def remove(self, name: str) -> None:
        """As `Store`."""
        try:
            with _in_words(self._root):
                self._files.rm_file(self._path(name))
        except FileNotFoundError:
            return

    def read_all(self, names: Iterable[str]) -> Iterator[bytes | None]:
        """As `Store`."""
        return parallel_map(names, self.read, REQUESTS, "records")

    def names(self, mark: str) -> list[str]:
        """As `Store`."""
        with _in_words(self._root):
            found = self._files.find(self._root)
        root = self._files._strip_protocol(self._root)
        names = (name.removeprefix(root).lstrip("/") for name in found)
        return [name for name in names if mark in name]

    # --- outputs and clips

    def has(self, address: str) -> bool:
        """As `Store`."""
        with _in_words(address):
            return bool(self._files.exists(address))

    def put(self, path: Path, address: str) -> None:
        """As `Store`."""
        with _in_words(address):
            self._files.put_file(str(path), address)
        path.unlink()

    def fetch(self, address: str, path: Path) -> None:
        """Copy an object to a new local file.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        with _in_words(address):
            self._files.get_file(address, str(path))

    def find(self, address: str) -> dict[str, str]:
        """The objects that an address means, one, a glob or all below, with their identities.

        Returns:
            What follows the part without wildcards, "" for the address itself -> identity.

        Raises:
            OSError: it cannot be listed.
        """
        with _in_words(address):
            if has_magic(address):
                found = self._files.glob(address, detail=True)
            else:
                found = self._files.find(address, detail=True)
        root = self._files._strip_protocol(steady_part(address)).rstrip("/")
        files = (facts for facts in found.values() if facts.get("type") != "directory")
        return {facts["name"].removeprefix(root).lstrip("/"): identity_of(facts) for facts in files}

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def steady_part(address: str) -> str:
    """The folder of an address above its first wildcard; without one the address."""
    while has_magic(address):
        address = address.rstrip("/").rpartition("/")[0]
    return address.rstrip("/")


def identity_of(facts: dict[str, Any]) -> str:
    """What changes where an object does: its size, and its ETag or the time of change."""
    names = ("ETag", "etag", "md5Hash", "LastModified", "updated", "mtime", "created")
    mark = next((facts[name] for name in names if facts.get(name)), "")
    return f"{facts.get('size')} bytes, {mark}"


def _file_system(address: str) -> Any:
    remember([address])
    scheme = scheme_of(address)
    if "@" in address:
        raise UsageError(
            f"an address of {scheme}:// with a user in it",
            do="Leave credentials to the environment, such as AWS_PROFILE",
        )
    import fsspec

    extra = EXTRAS.get(scheme)
    try:
        # what lists a bucket again must see what others have written since
        files, _ = fsspec.url_to_fs(address, use_listings_cache=False, skip_instance_cache=True)
        return files
    except ImportError as error:
        do = f'python -m pip install "rtseg[{extra}]"' if extra else "Install it"
        found = f"its library is not installed ({first_line(error)})"
        raise UsageError(f"cannot use {scheme}:// addresses", found=found, do=do) from error
    except OSError as error:
        asked = f"cannot reach {public_name(address)}"
        raise RtsegError(asked, found=reason(error).lower()) from error
    except (ValueError, TypeError) as error:  # what it is called with is not all that it needs
        raise UsageError(
            f"cannot use {scheme}:// addresses",
            found="nothing reads them",
            do="There are s3://, gs://, https:// and others of fsspec",
        ) from error


@contextmanager
def _in_words(address: str) -> Iterator[None]:
    """Raise what a store's library raises as OSError; one that is missing, or there, by its type.

    Raises:
        OSError: without a word of the library that may hold more than its message.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, RtsegError):
        raise
    except Exception as error:
        bucket = "/".join(address.split("/")[:3])
        raise OSError(0, f"{first_line(error) or type(error).__name__}", bucket) from error
