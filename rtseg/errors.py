"""Everything rtseg raises on purpose.

    RtsegError                 1  runtime failure
    +-- UsageError             2  what was asked for makes no sense
    |   +-- ModelError         2  a network or its weights are not what was named
    |   +-- DatasetError       2  labelled pictures are not what was named, or are broken
    +-- SourceError            3  a source cannot be opened, or was lost for good
    +-- SinkError              1  something could not be written
    +-- BackendError           1  the network failed while running
    +-- DownloadError          1  weights could not be fetched
    +-- DeviceError            4  the device is not what was required
    +-- ThresholdError         5  a measured figure missed its threshold

The number is the exit code of the command line.
"""

from __future__ import annotations

MORE_MEMORY = "Take a smaller --imgsz or network, or --device cpu"
"""What to do where a device has not the memory."""


class RtsegError(Exception):
    """A failure with words for a person: what was asked, what was found, what to do.

    `asked` alone is enough where the rest would repeat it.
    """

    exit_code = 1

    def __init__(self, asked: str, *, found: str = "", do: str = "") -> None:
        super().__init__(asked)
        self.asked, self.found, self.do = asked, found, do

    def __str__(self) -> str:
        text = f"{self.asked}: {self.found}" if self.found else self.asked
        return f"{text.rstrip('.')}. {self.do}" if self.do else text


class UsageError(RtsegError):
    """What was asked for makes no sense, whatever the machine."""

    exit_code = 2


class ModelError(UsageError):
    """A network, its labels or its weights are not what was named."""


class DatasetError(UsageError):
    """Labelled pictures are not what was named, or are broken."""


class SourceError(RtsegError):
    """A source cannot be opened, or was lost for good."""

    exit_code = 3


class SinkError(RtsegError):
    """Something could not be written."""


class BackendError(RtsegError):
    """The network failed while running."""


class DownloadError(RtsegError):
    """Weights could not be fetched."""


class DeviceError(RtsegError):
    """The device that runs is not the one that was required."""

    exit_code = 4


class ThresholdError(RtsegError):
    """A measured figure missed the threshold it was given."""

    exit_code = 5


def counted(count: int, what: str, many: str = "") -> str:
    """ "1 frame", "2 frames"; `many` where the plural is not made with an s, as "classes"."""
    return f"{count} {what if count == 1 else many or what + 's'}"


def first_line(error: Exception) -> str:
    """A library's message without the trace of its own that may follow."""
    return (str(error).splitlines() or [type(error).__name__])[0]
