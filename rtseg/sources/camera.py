"""Cameras: opened in the order that works, read back, and waited for when unplugged."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import cv2

from rtseg.clock import Clock
from rtseg.contracts import SourceInfo
from rtseg.errors import SourceError
from rtseg.sources.capture import fourcc_text, open_capture
from rtseg.sources.live import LiveSource
from rtseg.sources.options import SourceOptions
from rtseg.sources.stream import nominal_rate

BACKEND = cv2.CAP_V4L2 if sys.platform.startswith("linux") else cv2.CAP_ANY

SYS_FOLDER = Path("/sys/class/video4linux")

LAST_INDEX = 9
"""Where the system does not list its cameras, indices up to this are tried."""

COMMON_FOURCCS = ("MJPG", "YUYV")
COMMON_SIZES = ((3840, 2160), (1920, 1080), (1280, 720), (800, 600), (640, 480), (320, 240))

FIRST_TRIES = 10
"""Some cameras give nothing for the first few reads after they were set."""


class CameraSource(LiveSource):
    """A camera by its index or device path; `info.notes` says what was asked of it and what came.

    Raises:
        SourceError: it is absent, in use or not permitted, or gives no picture.
    """

    def __init__(
        self,
        target: str,
        options: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
        clock: Clock | None = None,
    ) -> None:
        super().__init__(options.reconnect, clock)
        self._target, self._options = target, options
        name = f"camera {target}"
        self._capture = self._open()
        if self._capture is None:
            raise cannot_open(target)
        # Read and left: by the time that anybody wants a frame, it would be an old one.
        picture = next(filter(None, (self._grab() for _ in range(FIRST_TRIES))), None)
        if picture is None:
            self._release()
            raise SourceError(
                f"cannot use {name}",
                found="it opened, but gave no picture",
                do="Try another --width, --height or --fourcc",
            )
        height, width = picture[0].shape[:2]
        self.info = SourceInfo(name, width, height, nominal_rate(self._capture), live=True)
        self.info = replace(self.info, notes=_notes(options, self.info, self._capture))

    def _open(self) -> cv2.VideoCapture | None:
        target = int(self._target) if self._target.isdecimal() else self._target
        capture = open_capture(target, BACKEND)
        if capture is not None:
            configure(capture, self._options)
        return capture


def configure(capture: cv2.VideoCapture, options: SourceOptions) -> None:
    """Ask for format, size, rate and a short queue: a later one may depend on those before it."""
    if options.fourcc is not None:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*options.fourcc))
    if options.width is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, options.width)
    if options.height is not None:
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, options.height)
    if options.fps is not None:
        capture.set(cv2.CAP_PROP_FPS, options.fps)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)


def _notes(options: SourceOptions, info: SourceInfo, capture: cv2.VideoCapture) -> tuple[str, ...]:
    """What was asked and what came, in one line; only what came when nothing was asked."""
    got = _words(
        info.width, info.height, info.frame_rate, fourcc_text(capture.get(cv2.CAP_PROP_FOURCC))
    )
    asked = _words(options.width, options.height, options.fps, options.fourcc)
    return (f"asked {asked}, got {got}" if asked else f"got {got}",)


def _words(
    width: int | None, height: int | None, fps: float | Fraction | None, fourcc: str | None
) -> str:
    size = f"{width or '?'}x{height or '?'}" if width or height else ""
    rate = f"at {float(fps):g} fps" if fps else ""
    return " ".join(filter(None, (size, rate, fourcc)))


def device_path(target: str) -> Path | None:
    """The device file of a camera, where systems have such files."""
    if not target.isdecimal():
        return Path(target)
    return Path(f"/dev/video{target}") if sys.platform.startswith("linux") else None


def cannot_open(target: str) -> SourceError:
    """Why a camera does not open, as far as its device file tells."""
    asked = f"cannot open camera {target}"
    path = device_path(target)
    if path is not None and not path.exists():
        return SourceError(
            asked,
            found=f"there is no {path}",
            do="Plug it in; `rtseg cameras` lists those that are there",
        )
    if path is not None and not os.access(path, os.R_OK | os.W_OK):
        return SourceError(
            asked,
            found=f"no permission for {path}",
            do="Join its group, as with `sudo usermod -aG video $USER`, and log in again",
        )
    return SourceError(
        asked,
        found="it is absent, or in use by another program",
        do="Close other programs that show it; `rtseg cameras` lists those that are there",
    )


@dataclass(frozen=True)
class Mode:
    """A picture that a camera can give, as it said itself.

    Attributes:
        fourcc: of the pixels; "" when it does not say.
        width, height: in pixels.
        fps: nominal frames per second; None when it does not say.
    """

    fourcc: str
    width: int
    height: int
    fps: float | None


@dataclass(frozen=True)
class Camera:
    """A camera of this machine.

    Attributes:
        index: what `--camera` takes.
        path: its device file; None where systems have none.
        name: as the system calls it; "" when it does not.
        modes: what it gave when common formats and sizes were asked for, largest first.
        measured_rate: frames per second that really came in its first mode; None when none came.
        problem: why it cannot be used now; "" when it can.
    """

    index: int
    path: Path | None
    name: str
    modes: tuple[Mode, ...] = ()
    measured_rate: float | None = None
    problem: str = ""


def list_cameras(
    *, seconds: float = 1.0, clock: Clock | None = None, sys_folder: Path = SYS_FOLDER
) -> list[Camera]:
    """The cameras of this machine, each opened, asked for its modes, and timed for `seconds`.

    By the system's own list on Linux; elsewhere by trying indices 0 to 9.
    """
    if sys.platform.startswith("linux"):
        named = list(_listed(sys_folder))
        return [_examine(Camera(i, Path(f"/dev/video{i}"), n), seconds, clock) for i, n in named]
    tried = (_examine(Camera(i, None, ""), seconds, clock) for i in range(LAST_INDEX + 1))
    return [camera for camera in tried if not camera.problem]


def _listed(folder: Path) -> Iterator[tuple[int, str]]:
    """(index, name) of each camera; a camera's further nodes carry no pictures."""
    for entry in sorted(folder.glob("video*"), key=lambda path: (len(path.name), path.name)):
        number, node = entry.name.removeprefix("video"), entry / "index"
        if number.isdecimal() and (not node.exists() or node.read_text().strip() == "0"):
            name = entry / "name"
            yield int(number), name.read_text().strip() if name.exists() else ""


def _examine(camera: Camera, seconds: float, clock: Clock | None) -> Camera:
    capture = open_capture(camera.index, BACKEND)
    if capture is None:
        return replace(camera, problem=cannot_open(str(camera.index)).found)
    try:
        modes = probe_modes(capture)
        configure(capture, _asking_for(modes[0]))
        rate = measure_rate(capture, seconds, clock)
    finally:
        capture.release()
    problem = "" if rate is not None else "it opened, but gave no picture"
    return replace(camera, modes=modes, measured_rate=rate, problem=problem)


def _asking_for(mode: Mode) -> SourceOptions:
    return SourceOptions(width=mode.width, height=mode.height, fourcc=mode.fourcc or None)


def probe_modes(capture: cv2.VideoCapture) -> tuple[Mode, ...]:
    """The different modes that an open camera takes when asked for common ones."""
    modes: dict[Mode, None] = {}
    for fourcc in COMMON_FOURCCS:
        for width, height in COMMON_SIZES:
            configure(capture, SourceOptions(width=width, height=height, fourcc=fourcc))
            modes[_mode_of(capture)] = None
    return tuple(sorted(modes, key=lambda mode: -mode.width * mode.height))


def _mode_of(capture: cv2.VideoCapture) -> Mode:
    rate = nominal_rate(capture)
    return Mode(
        fourcc_text(capture.get(cv2.CAP_PROP_FOURCC)),
        int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        None if rate is None else float(rate),
    )


def measure_rate(
    capture: cv2.VideoCapture, seconds: float = 1.0, clock: Clock | None = None
) -> float | None:
    """Frames per second that really come; None when none or only one comes.

    The first frame starts the count: what a camera needs to wake up is not its rate.
    """
    clock = clock or Clock()
    if not capture.grab():
        return None
    begun, count = clock.now(), 0
    while clock.now() - begun < seconds and capture.grab():
        count += 1
    elapsed = clock.now() - begun
    return count / elapsed if count and elapsed > 0 else None
