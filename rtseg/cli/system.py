"""What the system lacks, in a person's words: libraries that do not load, places not written."""

from __future__ import annotations

import re

OPENCV_NEEDS = "OpenCV needs it; on Debian and Ubuntu: apt-get install libgl1 libglib2.0-0"
SYSTEM_LIBRARIES = dict.fromkeys(
    ("libGL", "libglib", "libgthread", "libxcb", "libX11"), OPENCV_NEEDS
)
"""What bare systems and containers lack, by the names in the loader's words."""

LIBRARY = re.compile(r"\.(?:so|dll|dylib)\b", re.IGNORECASE)


def refused(error: Exception) -> str | None:
    """What the system said no to, where nobody nearer to it had words of its own; None if it is
    not the system that did.
    """
    if not isinstance(error, (ImportError, OSError)):
        return None
    # ctypes raises an OSError without a number, as others do for things of their own
    if isinstance(error, ImportError) or (error.errno is None and LIBRARY.search(str(error))):
        return f"a library does not load: {error}. {advice(error)}"
    if error.errno is None:
        return None
    words = "cannot write stdout" if error.filename is None else f"cannot use {error.filename}"
    return f"{words}: {error.strerror or error}"


def advice(error: Exception) -> str:
    """What to do about a library that fails to load."""
    for library, do in SYSTEM_LIBRARIES.items():
        if library in str(error):
            return do
    return "Install rtseg again in a fresh environment; rtseg doctor shows what loads"
