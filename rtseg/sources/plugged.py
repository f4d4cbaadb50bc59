"""The cameras that are plugged in, as Linux lists them, and one of them after it was away."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SYS_FOLDER = Path("/sys/class/video4linux")

LINK_FOLDER = Path("/dev/v4l/by-id")
"""Links whose names hold maker, model and, where there is one, the serial number."""


@dataclass(frozen=True)
class Node:
    """A device file that gives pictures.

    Attributes:
        number: N of /dev/videoN.
        name: as the driver calls the camera; "" when it does not.
        link: its name in `LINK_FOLDER`; "" when it has none there.
    """

    number: int
    name: str
    link: str = ""


def plugged_in() -> list[Node]:
    """Every camera, by number; a camera's further nodes carry no pictures and are left out."""
    links = {link.resolve().name: link.name for link in sorted(LINK_FOLDER.glob("*"))}
    return sorted(
        (
            Node(int(entry.name[5:]), _text(entry / "name"), links.get(entry.name, ""))
            for entry in SYS_FOLDER.glob("video*")
            if entry.name[5:].isdecimal() and _text(entry / "index") in ("", "0")
        ),
        key=lambda node: node.number,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:  # it is not told, or the camera has just gone
        return ""


class Whereabouts:
    """Where a camera is: a device that was unplugged often comes back under another number.

    Args:
        target: its number or device file, as it was when it was opened.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        name = f"video{target}" if target.isdecimal() else Path(target).resolve().name
        nodes = plugged_in()
        self._node = next((node for node in nodes if f"video{node.number}" == name), None)
        self._others = {node.number for node in nodes if node is not self._node}

    def now(self) -> str | None:
        """What to open: the target, or the number under which the same camera came back.

        None when it is not there, or when it cannot be told which of several it is. Where the
        system lists no cameras it is always the target.
        """
        known = self._node
        if known is None:
            return self._target
        numbers = {node.number for node in plugged_in() if self._is_same(known, node)}
        if known.number in numbers:
            return self._target
        return str(numbers.pop()) if len(numbers) == 1 else None

    def _is_same(self, known: Node, node: Node) -> bool:
        if known.link:
            return node.link == known.link
        # a twin that was there all the time is not the one that went away
        return node.name == known.name and node.number not in self._others
