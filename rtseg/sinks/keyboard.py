"""What OpenCV calls a key, in words: its numbers are those of the window system beneath it."""

from __future__ import annotations

FULL_SCREEN_KEYS = {0xFFC8, 0x7A0000, 0xF70E}
"""F11, as X, Windows and macOS number it."""

MODIFIERS = {0xFE03, 0xFF14, 0xFF7E, 0xFF7F, *range(0xFFE1, 0xFFEF)}
"""Keys that mean nothing alone: Shift, Ctrl, Alt and the locks, as X numbers them."""


def key_name(code: int) -> str | None:
    """A character, "F11", "other" for a key that has neither; None for no key.

    Args:
        code: as `cv2.waitKeyEx` gives it.
    """
    if code < 0 or code & 0xFFFF in MODIFIERS:
        return None
    if code in FULL_SCREEN_KEYS or code & 0xFFFF == 0xFFC8:
        return "F11"
    plain = code & 0xFFFF if code < 1 << 24 and code & 0xFFFF else 0  # without GTK's modifiers
    if 0xFF00 < plain < 0xFF20 or 0xFF80 <= plain < 0xFFBA:  # Tab and Esc, and the keypad
        return chr(plain & 0x7F)
    return chr(plain) if 0 < plain < 0x100 else "other"
