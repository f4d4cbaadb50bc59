"""What the system lacks, in a person's words: libraries that do not load, places not written."""

from __future__ import annotations

OPENCV_NEEDS = "OpenCV needs it; on Debian and Ubuntu: apt-get install libgl1 libglib2.0-0"
SYSTEM_LIBRARIES = dict.fromkeys(
    ("libGL", "libglib", "libgthread", "libxcb", "libX11"), OPENCV_NEEDS
)
"""What bare systems and containers lack, by the names in the loader's words."""


def refused(error: ImportError | OSError) -> str:
    """What the system said no to, where nobody nearer to it had words of its own."""
    # ctypes raises an OSError without a number
    if isinstance(error, ImportError) or error.errno is None:
        return f"a library does not load: {error}. {advice(error)}"
    words = "cannot write stdout" if error.filename is None else f"cannot use {error.filename}"
    return f"{words}: {error.strerror or error}"


def advice(error: Exception) -> str:
    """What to do about a library that fails to load."""
    for library, do in SYSTEM_LIBRARIES.items():
        if library in str(error):
            return do
    return "Install rtseg again in a fresh environment; rtseg doctor shows what loads"
