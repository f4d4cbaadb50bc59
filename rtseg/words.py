"""Numbers in sentences."""

from __future__ import annotations


def counted(count: int, what: str, many: str = "") -> str:
    """ "1 frame", "2 frames"; `many` where the plural is not made with an s, as "classes"."""
    return f"{count} {what if count == 1 else many or what + 's'}"
