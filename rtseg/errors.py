"""The exceptions of rtseg.

    RtsegError                 1  runtime failure
    +-- UsageError             2  an option or argument is not valid
    |   +-- ModelError         2  a network or its weights cannot be used
    |   +-- DatasetError       2  labelled images are missing or broken
    +-- SourceError            3  a source cannot be opened, or was lost
    +-- SinkError              1  an output cannot be written
    +-- BackendError           1  the network failed while running
    +-- DownloadError          1  weights cannot be downloaded
    +-- DeviceError            4  a required device cannot be used, or failed
    +-- ThresholdError         5  a measured figure missed its threshold

The number is the exit code of the command line.
"""

from __future__ import annotations

from typing import TypeVar

MORE_MEMORY = "Use a smaller --imgsz or model, or --device cpu"
"""Advice if a device runs out of memory."""


class RtsegError(Exception):
    """A failure, and the base class of all others.

    Attributes:
        asked: what was requested, or what failed.
        found: what is the matter; may be empty.
        do: what the user can do; may be empty.
        later: what failed after it, as outputs that were closed because of it.
        exit_code: of the command line.
    """

    exit_code = 1

    def __init__(self, asked: str, *, found: str = "", do: str = "") -> None:
        super().__init__(asked)
        self.asked, self.found, self.do = asked, found, do
        self.later: list[RtsegError] = []

    def __str__(self) -> str:
        text = f"{self.asked}: {self.found}" if self.found else self.asked
        return f"{text.rstrip('.')}. {self.do}" if self.do else text


T = TypeVar("T", bound="Closing")


class Closing:
    """What is closed at the end of a `with`; if that fails too, the error that ended it is raised,
    with the other one in its `later`."""

    def close(self) -> None:
        """Finish."""

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except RtsegError as later:
            if not isinstance(error, RtsegError):
                raise
            if later is not error:
                error.later.append(later)


class UsageError(RtsegError):
    """An option or argument is not valid, on any machine."""

    exit_code = 2


class ModelError(UsageError):
    """A network, its labels or its weights cannot be used."""


class DatasetError(UsageError):
    """Labelled images are missing or broken."""


class SourceError(RtsegError):
    """A source cannot be opened, or was lost."""

    exit_code = 3


class SinkError(RtsegError):
    """An output cannot be written."""


class BackendError(RtsegError):
    """The network failed while running."""


class DownloadError(RtsegError):
    """Weights cannot be downloaded."""


class DeviceError(RtsegError):
    """A required device cannot be used, or failed."""

    exit_code = 4


class ThresholdError(RtsegError):
    """A measured figure missed its threshold."""

    exit_code = 5


def first_line(error: Exception) -> str:
    """The first line of a library's message, without the trace that may follow it."""
    return (str(error).splitlines() or [type(error).__name__])[0]
