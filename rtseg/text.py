"""Counts, lists and tables as plain text, natural order of names, and text files."""

from __future__ import annotations

import codecs
import difflib
import errno
import os
import re
import sys
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from rtseg.errors import UsageError

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order mark -> encoding; UTF-32 first, as its mark begins with that of UTF-16."""


def read_text(path: Path, most_bytes: int | None = 1 << 26) -> str:
    """The text of a file in UTF-8, or in the encoding that its byte order mark names.

    PowerShell, .NET and Notepad begin their files with such a mark.

    Args:
        most_bytes: refuse longer files, and devices that never end.

    Raises:
        OSError: it cannot be read, or is too long.
        UnicodeDecodeError: it is not text.
    """
    with path.open("rb") as file:
        content = file.read() if most_bytes is None else file.read(most_bytes + 1)
    if most_bytes is not None and len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"it is longer than {most_bytes / 1e6:.3g} MB", str(path))
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def first_characters(path: Path, count: int = 65536) -> str:
    """The beginning of a text file, and its end if it is longer; "" if it is not text.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(count)
        rest = path.stat().st_size - len(content)
        if rest > 0:
            file.seek(-min(rest, 4096), 2)
            content += file.read()
    mark = next((mark for mark in _MARKS if content.startswith(mark)), b"")
    if mark and _MARKS[mark] != "utf-8-sig":
        return content[: count // 4 * 4].decode(_MARKS[mark], "ignore")
    return "" if b"\0" in content else content.removeprefix(mark).decode("utf-8", "ignore")


def user_path(text: str | Path) -> Path:
    """A path in which "~" and "~name" are the folders of users.

    Raises:
        UsageError: the user is unknown, or no file can have this name.
    """
    file_name(text)
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        found = "there is no such user, or it has no home"
        raise UsageError(f"cannot find {text}", found=found, do="Write the whole path") from error


MAX_FILE_NAME, MAX_PATH = 255, 4095
"""Bytes that the common file systems allow; of a name under Windows, units of UTF-16."""

SCHEME = re.compile(r"[a-z][\w+.-]{1,30}:", re.IGNORECASE)


def file_name(path: str | Path, *, is_address: bool = False) -> str:
    """The text of a path, or of an address, which may be of any length.

    Raises:
        UsageError: it is neither text nor a path, or no file can have this name.
    """
    if not isinstance(path, (str, Path)):
        raise UsageError(f"{path!r:.80} is not a path", do="Name a file or a folder")
    # an address that is cut could not be recognised as one, and its secrets would be shown
    scheme = SCHEME.search(str(path)[:4096])
    shown = f"{str(path)[: scheme.end()]}..." if scheme else str(path)[:100]
    asked = f"{shown!r:.80} is not a path"
    try:
        raw = os.fsencode(path)
        if b"\0" in raw:
            raise ValueError
    except ValueError as error:
        found = "it holds NUL or half a character"
        raise UsageError(asked, found=found) from error
    if not is_address and (len(raw) > MAX_PATH or _longest_name(str(path)) > MAX_FILE_NAME):
        found = f"its {len(raw)} bytes are too many for the name of a file"
        raise UsageError(asked, found=found)
    return str(path)


def _longest_name(path: str) -> int:
    if sys.platform == "win32":
        return max(
            len(name.encode("utf-16-le", "surrogatepass")) // 2 for name in re.split(r"[/\\]", path)
        )
    return max(map(len, os.fsencode(path).split(b"/")))


UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    r"\U000e0000-\U000e007f]"
)
"""Control characters; what turns or hides the text beside it; the bytes of file names that are not
valid text."""


def printable(text: str) -> str:
    """A text in which `UNPRINTABLE` characters are escaped, as "\\n"."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters, its middle left out: "a begin ... its end"."""
    kept = most - 5
    return text if len(text) <= most else f"{text[: kept - kept // 4]} ... {text[-(kept // 4) :]}"


def counted(count: int, what: str, many: str = "") -> str:
    """ "1 frame", "2 frames"; `many` is the plural if it is not formed with s, as "classes"."""
    return f"{count} {what if count == 1 else many or what + 's'}"


def listed(words: Sequence[object], most: int = 5) -> str:
    """The first `most` words, and how many more there are: "a, b and 3 more"."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(str(word) for word in words[:most]) + more


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """A question that offers the two or three of `known` most like `name`, else `otherwise`."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else otherwise


def aligned(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()
) -> list[str]:
    """The lines of a table, heads first; columns numbered in `right` are right-aligned."""
    lines = [tuple(heads), *(tuple(map(printable, row)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return [
        "  ".join(
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def distinct(names: Iterable[str], form: str = "{} ({})") -> list[str]:
    """The names; one that was there before gets a number, in this form."""
    found: list[str] = []
    for name in names:
        number, other = 2, name
        while other in found:
            number, other = number + 1, form.format(name, number)
        found.append(other)
    return found


def composed(name: str) -> str:
    """A name with "é" as one character, which macOS writes as two."""
    return unicodedata.normalize("NFC", name)


def spellings(name: str) -> tuple[str, ...]:
    """The name as it is, composed, and decomposed as macOS writes it."""
    return tuple(dict.fromkeys((name, composed(name), unicodedata.normalize("NFD", name))))


def natural_key(name: object) -> tuple[list[str | int], str]:
    """A sort key that compares numbers by value: img2 before img10."""
    text = str(name)
    parts = re.split(r"(\d+)", text.casefold())
    # Python reads no more than 4300 digits
    return [int(part[:4000]) if part.isdecimal() else part for part in parts], text
