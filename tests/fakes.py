"""Doubles of devices, scripted by the tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from rtseg.stats import Clock


@dataclass
class Plugged:
    """One time that a device is plugged in: what it gives, and for how many pictures.

    `frames` None never fails. `takes` False ignores every setting, as many cameras do. `formats`
    are those it has, each with the rate at which its pictures come on `clock`. `damaged` are the
    numbers of pictures that come but cannot be decoded, from 1.
    """

    size: tuple[int, int] = (640, 480)
    frames: int | None = None
    fps: float = 30.0
    fourcc: str = "YUYV"
    takes: bool = True
    sizes: tuple[tuple[int, int], ...] | None = None
    formats: dict[str, float] | None = None
    clock: Clock | None = None
    damaged: frozenset[int] = frozenset()


@dataclass
class FakeDevice:
    """Stands for `cv2.VideoCapture` itself: each opening takes the next of `plugs`.

    None in `plugs` is an opening that fails; so is every opening after the last.
    """

    plugs: list[Plugged | None]
    opened: list[object] = field(default_factory=list)
    asked: list[tuple[int, float]] = field(default_factory=list)
    released: int = 0

    def __call__(self, target: object, *rest: object) -> FakeCapture:
        self.opened.append((target, *rest))
        return FakeCapture(self, self.plugs.pop(0) if self.plugs else None)


class FakeCapture:
    """What `cv2.VideoCapture(...)` returns; stands for a `LivePlayer`, too."""

    is_recorded = is_image = False
    declared_bytes = 0

    def __init__(self, device: FakeDevice, plug: Plugged | None) -> None:
        self.device, self.plug, self.count = device, plug, 0

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return self.plug is not None

    def set(self, what: int, value: float) -> bool:
        assert self.plug is not None
        self.device.asked.append((what, value))
        plug = self.plug
        if not plug.takes:
            return False
        if what == cv2.CAP_PROP_FRAME_WIDTH:
            plug.size = self._nearest(int(value), plug.size[1])
        elif what == cv2.CAP_PROP_FRAME_HEIGHT:
            plug.size = self._nearest(plug.size[0], int(value))
        elif what == cv2.CAP_PROP_FPS:
            plug.fps = value
        elif what == cv2.CAP_PROP_FOURCC:
            fourcc = "".join(chr(int(value) >> shift & 0xFF) for shift in (0, 8, 16, 24))
            if plug.formats is not None and fourcc not in plug.formats:
                return False
            plug.fourcc = fourcc
        return True

    def _nearest(self, width: int, height: int) -> tuple[int, int]:
        assert self.plug is not None
        if self.plug.sizes is None:
            return width, height
        return min(self.plug.sizes, key=lambda s: abs(s[0] - width) + abs(s[1] - height))

    def get(self, what: int) -> float:
        assert self.plug is not None
        return {
            cv2.CAP_PROP_FRAME_WIDTH: float(self.plug.size[0]),
            cv2.CAP_PROP_FRAME_HEIGHT: float(self.plug.size[1]),
            cv2.CAP_PROP_FPS: self.plug.fps,
            cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*self.plug.fourcc)),
        }.get(what, 0.0)

    def grab(self) -> bool:
        if self.plug is None or self.count == self.plug.frames:
            return False
        if self.plug.clock is not None and self.plug.formats is not None:
            self.plug.clock.sleep(1 / self.plug.formats[self.plug.fourcc])
        self.count += 1
        return True

    def retrieve(self) -> tuple[bool, np.ndarray | None]:
        if self.plug is None or self.count in self.plug.damaged:
            return False, None
        width, height = self.plug.size
        return True, np.full((height, width, 3), self.count % 256, np.uint8)

    def read(self) -> tuple[bool, np.ndarray | None]:
        return self.retrieve() if self.grab() else (False, None)

    def release(self) -> None:
        self.device.released += self.plug is not None
        self.plug = None


class FakeVirtualCameras:
    """Stands for the module `pyvirtualcam`: remembers what was opened, sent and closed.

    `refuses` is what opening says instead of working; `breaks` what sending does.
    """

    PixelFormat = SimpleNamespace(RGB="RGB", BGR="BGR")

    def __init__(self, refuses: str = "", breaks: str = "") -> None:
        self.refuses, self.breaks = refuses, breaks
        self.opened: list[dict[str, Any]] = []
        self.sent: list[np.ndarray] = []
        self.closed = 0

    def Camera(self, width: int, height: int, fps: float, **more: Any) -> FakeVirtualCameras:  # noqa: N802
        if self.refuses:
            raise RuntimeError(self.refuses)
        self.opened.append({"size": (width, height), "fps": fps, **more})
        return self

    @property
    def device(self) -> str:
        return self.opened[-1]["device"] or "/dev/video0"

    def send(self, frame: np.ndarray) -> None:
        if self.breaks:
            raise RuntimeError(self.breaks)
        assert frame.dtype == np.uint8
        assert frame.flags.c_contiguous
        width, height = self.opened[-1]["size"]
        assert frame.shape == (height, width, 3)
        self.sent.append(frame.copy())

    def close(self) -> None:
        self.closed += 1
