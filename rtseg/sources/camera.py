"""Cameras: listed with their modes, opened in the format that keeps up, found again after a replug.

Names and numbers come from cv2-enumerate-cameras. It knows no modes, which the V4L2 ioctl lists
here, and no serial numbers, by which udev's links tell two cameras of one model apart.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import cv2

from rtseg.contracts import SourceInfo
from rtseg.errors import SourceError
from rtseg.sources.capture import LiveSource, configure, fourcc_text, nominal_rate, open_capture
from rtseg.sources.options import SourceOptions, cannot_loop
from rtseg.stats import Clock

BACKEND = cv2.CAP_V4L2 if sys.platform.startswith("linux") else cv2.CAP_ANY

FIRST_TRIES = 10
"""Some cameras give nothing for the first few reads after they were configured."""

AUTO = "auto"

PREFERRED = "MJPG"
"""USB 2 carries 10 raw images of 1280x720 per second, or 30 compressed ones."""

DEFAULT_RATE = 30.0
"""The rate to aim for when a size is requested without one."""

TOLERANCE = 0.9
"""Share of the requested rate that counts as met: half a second does not measure more exactly."""

MEASURED_SECONDS = 0.5

MAX_MEASURED_FRAMES = 600
"""Ends the measurement of a device that is faster than any camera."""

COMMON_FOURCCS = ("MJPG", "YUYV")
COMMON_SIZES = (
    *((3840, 2160), (2560, 1440), (1920, 1080), (1280, 720)),
    *((1024, 768), (800, 600), (640, 480), (640, 360), (320, 240)),
)

SYS_FOLDER = Path("/sys/class/video4linux")

LINK_FOLDER = Path("/dev/v4l/by-id")
"""Links whose names hold maker, model and, where there is one, the serial number."""

# linux/videodev2.h: request codes, which hold the sizes of the structs that follow
VIDIOC_ENUM_FMT = 0xC0405602
VIDIOC_ENUM_FRAMESIZES = 0xC02C564A
VIDIOC_ENUM_FRAMEINTERVALS = 0xC034564B
V4L2_BUF_TYPE_VIDEO_CAPTURE = 1
DISCRETE = 1

FMTDESC = struct.Struct("=3I32s5I")
"""v4l2_fmtdesc: index, type, flags, description, pixelformat, reserved."""

FRMSIZEENUM = struct.Struct("=11I")
"""v4l2_frmsizeenum: index, pixel_format, type, then width and height or (min, max, step) twice."""

FRMIVALENUM = struct.Struct("=13I")
"""v4l2_frmivalenum: index, pixel_format, width, height, type, then seconds as a fraction."""

MAX_ENTRIES = 1000
"""Ends the list of a driver that does not."""


@dataclass(frozen=True)
class Mode:
    """A format and size that a camera offers.

    Attributes:
        fourcc: of the pixels; "" when the driver does not say.
        width, height: in pixels.
        rates: frames per second, the highest first; empty when the driver does not say.
    """

    fourcc: str
    width: int
    height: int
    rates: tuple[Fraction, ...] = ()


@dataclass(frozen=True)
class Camera:
    """A camera of this machine.

    Attributes:
        index: what `--camera` takes.
        path: its device file; None where systems have none.
        name: as the system calls it; "" when it does not.
        modes: largest first: those the driver lists, else those it accepted when common ones were
            requested.
        listed: whether the driver listed them.
        measured: the mode that was measured: the largest that promises the highest rate.
        measured_rate: frames per second that it delivered; None when none came.
        problem: why it cannot be used now; "" when it can.
    """

    index: int
    path: Path | None
    name: str
    modes: tuple[Mode, ...] = ()
    listed: bool = False
    measured: Mode | None = None
    measured_rate: float | None = None
    problem: str = ""


class CameraSource(LiveSource):
    """A camera by its index or device path; `info.notes` says what was requested and delivered.

    After it is unplugged, it is reopened when it is back, on Linux also under another number, and
    configured as before.

    Raises:
        SourceError: it is absent, in use or not permitted, or delivers no image.
        UsageError: it is to be looped.
    """

    def __init__(
        self,
        target: str,
        options: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
        clock: Clock | None = None,
    ) -> None:
        super().__init__(options, clock)
        self._locator, self._opened = CameraLocator(target), target
        self._name = f"camera {target}"
        if options.loop:
            raise cannot_loop(self._name)
        self._capture = capture = open_camera(target)
        if capture is None:
            raise cannot_open(target)
        trials = choose_format(capture, options, self.clock)
        self._requested = replace(options, fourcc=trials[0].requested)
        width, height = self._first_size()
        self.info = SourceInfo(
            self._name,
            width,
            height,
            nominal_rate(capture),
            live=True,
            notes=tuple(describe(options, trials, (width, height))),
        )

    def _first_size(self) -> tuple[int, int]:
        """(width, height) of the first image, which is discarded: it will be old when needed."""
        first = next(filter(None, (self._grab() for _ in range(FIRST_TRIES))), None)
        if first is None:
            self._release()
            raise SourceError(
                f"cannot use {self._name}",
                found="it opened, but gave no image",
                do="Try another --width, --height or --fourcc",
            )
        height, width = first[0].shape[:2]
        return width, height

    def _open(self) -> cv2.VideoCapture | None:
        target = self._locator.find()
        capture = None if target is None else open_camera(target)
        if target is None or capture is None:
            return None
        if target != self._opened:
            self._opened = target
            self.warnings.append(f"{self._name} came back as camera {target}")
        _request(capture, self._requested)
        return capture


def list_cameras(*, seconds: float = 1.0, clock: Clock | None = None) -> list[Camera]:
    """The cameras of this machine with their modes, each opened and measured for `seconds`.

    With 0 seconds none is measured, and none is opened whose driver lists its modes.
    """
    return [_examined(camera, seconds, clock) for camera in _attached()]


def open_camera(target: str) -> cv2.VideoCapture | None:
    """A camera by its number or device path, as it is; None when it does not open."""
    return open_capture(int(target) if target.isdecimal() else target, BACKEND)


def cannot_open(target: str) -> SourceError:
    """Why a camera does not open, as far as its device file tells."""
    asked = f"cannot open camera {target}"
    path = device_path(target)
    if path is not None and not path.exists():
        return SourceError(
            asked,
            found=f"there is no {path}",
            do="Plug it in; `rtseg cameras` lists the cameras",
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
        do="Close other programs that use it; `rtseg cameras` lists the cameras",
    )


def device_path(target: str) -> Path | None:
    """The device file of a camera, where systems have such files."""
    if not target.isdecimal():
        return Path(target)
    return Path(f"/dev/video{target}") if sys.platform.startswith("linux") else None


# Choice of a format


@dataclass(frozen=True)
class Trial:
    """What a camera delivered when a format was requested.

    Attributes:
        requested: fourcc; None when none was.
        mode: what the camera reports.
        measured: frames per second; None when not measured, or nothing came.
    """

    requested: str | None
    mode: Mode
    measured: float | None = None

    @property
    def rate(self) -> float:
        """Frames per second: measured, else reported, else 0."""
        return _rate(self.mode) if self.measured is None else self.measured

    def __str__(self) -> str:
        """ "1280x720 at 30 fps MJPG, measured 29.9 fps"."""
        rate = f"at {_rate(self.mode):g} fps" if self.mode.rates else ""
        size = f"{self.mode.width}x{self.mode.height}"
        text = " ".join(filter(None, (size, rate, self.mode.fourcc)))
        return text if self.measured is None else f"{text}, measured {self.measured:.1f} fps"

    def shortfall(self, options: SourceOptions, rate: float) -> str:
        """How it falls short of the options and of `rate`; "" when it does not."""
        size = f"{self.mode.width}x{self.mode.height}"
        missed = [f"it gave {size}"] if _distance(self.mode, options) else []
        if options.fourcc not in (None, AUTO, self.mode.fourcc):
            missed.append(f"it gave {self.mode.fourcc or 'an unnamed format'}")
        if self.rate < TOLERANCE * rate:
            missed.append(f"{self.rate:.1f} fps came")
        return ", ".join(missed)


def choose_format(capture: cv2.VideoCapture, options: SourceOptions, clock: Clock) -> list[Trial]:
    """Leave the camera in the best of the formats tried.

    A named format is the only one tried. Without a name, or with "auto", MJPG is tried first, and
    the camera's own format where MJPG falls short. Where nothing is requested the camera is
    neither configured nor measured.

    Returns:
        The trial that is used, then the others.
    """
    own = fourcc_text(capture.get(cv2.CAP_PROP_FOURCC))  # "" where the driver names none
    if not (options.width or options.height or options.fps or options.fourcc):
        configure(capture)
        return [Trial(None, current_mode(capture))]
    named = options.fourcc not in (None, AUTO)
    trials = [_tried(capture, options.fourcc if named else PREFERRED, options, clock)]
    enough = not trials[0].shortfall(options, options.fps or DEFAULT_RATE)
    if own and not (enough or named or trials[0].mode.fourcc == own):
        trials.append(_tried(capture, own, options, clock))
    best = min(trials, key=lambda trial: _rank(trial, options))
    if best is not trials[-1]:
        _tried(capture, best.requested, options, None)
    return [best, *(trial for trial in trials if trial is not best)]


def measure_rate(
    capture: cv2.VideoCapture, seconds: float, clock: Clock | None = None
) -> float | None:
    """Frames per second that really come; None when none or only one comes.

    The first frame starts the count: the time a camera takes to wake up is not its rate.
    """
    clock = clock or Clock()
    if not capture.grab():
        return None
    begun, count = clock.now(), 0
    while clock.now() - begun < seconds and count < MAX_MEASURED_FRAMES and capture.grab():
        count += 1
    elapsed = clock.now() - begun
    return count / elapsed if count and elapsed > 0 else None


def current_mode(capture: cv2.VideoCapture) -> Mode:
    """The mode that an open camera reports."""
    rate = nominal_rate(capture)
    return Mode(
        fourcc_text(capture.get(cv2.CAP_PROP_FOURCC)),
        int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        () if rate is None else (rate,),
    )


def describe(options: SourceOptions, trials: list[Trial], size: tuple[int, int]) -> list[str]:
    """What was requested and what came; only what came where nothing was requested.

    Args:
        trials: the one that is used, then those that were not.
        size: (width, height) of the images that really come.
    """
    used = replace(trials[0], mode=replace(trials[0].mode, width=size[0], height=size[1]))
    requested = _in_words(options)
    if not requested:
        return [f"got {used}"]
    notes = [f"asked for {requested}, got {used}"]
    for trial in trials[1:]:
        missed = trial.shortfall(options, options.fps or DEFAULT_RATE)
        notes.append(f"{trial.mode.fourcc} was not used: {missed}")
    if missed := used.shortfall(options, options.fps or 0.0):
        notes.append(f"not as requested: {missed}; `rtseg cameras` lists the modes it has")
    return notes


def _tried(
    capture: cv2.VideoCapture, fourcc: str | None, options: SourceOptions, clock: Clock | None
) -> Trial:
    _request(capture, replace(options, fourcc=fourcc))
    measured = measure_rate(capture, MEASURED_SECONDS, clock) if clock else None
    return Trial(fourcc, current_mode(capture), measured)


def _request(capture: cv2.VideoCapture, options: SourceOptions) -> None:
    size = {"width": options.width, "height": options.height}
    configure(capture, **size, fps=options.fps, fourcc=options.fourcc)


def _rank(trial: Trial, options: SourceOptions) -> tuple[int, float]:
    """Less is better: first the size, then the rate as far as it is wanted."""
    return _distance(trial.mode, options), -min(trial.rate, options.fps or DEFAULT_RATE)


def _distance(mode: Mode, options: SourceOptions) -> int:
    """Pixels between the sides requested and those delivered."""
    width, height = options.width or mode.width, options.height or mode.height
    return abs(mode.width - width) + abs(mode.height - height)


def _in_words(options: SourceOptions) -> str:
    size = f"{options.width or '?'}x{options.height or '?'}"
    rate = f"at {options.fps:g} fps" if options.fps else ""
    sized = options.width or options.height
    return " ".join(filter(None, (size if sized else "", rate, options.fourcc)))


# Modes


def listed_modes(device: Path) -> tuple[Mode, ...]:
    """The modes that the driver of a V4L2 device file lists, the largest first; () if none.

    Of a driver that accepts any size within limits: its largest, and the common ones.
    """
    try:
        with device.open("rb+", buffering=0) as file:
            modes = list(_modes(file.fileno()))
    except OSError:
        return ()
    return tuple(sorted(modes, key=lambda mode: -mode.width * mode.height))


def accepted_modes(capture: cv2.VideoCapture) -> tuple[Mode, ...]:
    """The modes that an open camera takes when common ones are requested, largest first."""
    modes: dict[Mode, None] = {}
    for fourcc in COMMON_FOURCCS:
        for width, height in COMMON_SIZES:
            configure(capture, width=width, height=height, fourcc=fourcc)
            modes[current_mode(capture)] = None
    return tuple(sorted(modes, key=lambda mode: -mode.width * mode.height))


def fastest(modes: tuple[Mode, ...]) -> Mode:
    """The largest of the modes that promise 30 frames per second, or else the highest rate."""
    return max(modes, key=lambda mode: (min(30.0, _rate(mode)), mode.width * mode.height))


def ioctl(device: int, request: int, buffer: bytearray) -> None:
    """The system call: the driver fills `buffer`, or refuses with OSError."""
    if sys.platform == "win32":
        raise OSError("not available on Windows")
    import fcntl

    fcntl.ioctl(device, request, buffer)


def _examined(camera: Camera, seconds: float, clock: Clock | None) -> Camera:
    modes = listed_modes(camera.path) if camera.path else ()
    camera = replace(camera, modes=modes, listed=bool(modes))
    if modes and not seconds:
        return camera
    capture = open_camera(str(camera.index))
    if capture is None:
        return replace(camera, problem=cannot_open(str(camera.index)).found)
    try:
        modes = modes or accepted_modes(capture)
        camera = replace(camera, modes=modes)
        if not seconds:
            return camera
        best = fastest(modes)
        rate = float(best.rates[0]) if best.rates else None
        configure(capture, width=best.width, height=best.height, fps=rate, fourcc=best.fourcc)
        measured = measure_rate(capture, seconds, clock)
    finally:
        capture.release()
    problem = "" if measured is not None else "it opened, but gave no image"
    return replace(camera, measured=best, measured_rate=measured, problem=problem)


def _modes(device: int) -> Iterator[Mode]:
    for _, _, _, _, code, *_ in _entries(
        device, VIDIOC_ENUM_FMT, FMTDESC, V4L2_BUF_TYPE_VIDEO_CAPTURE
    ):
        for width, height in _sizes(device, code):
            rates = tuple(sorted(set(_rates(device, code, width, height)), reverse=True))
            yield Mode(fourcc_text(code), width, height, rates)


def _sizes(device: int, code: int) -> Iterator[tuple[int, int]]:
    for _, _, kind, width, *rest in _entries(device, VIDIOC_ENUM_FRAMESIZES, FRMSIZEENUM, code):
        if kind == DISCRETE:
            yield width, rest[0]
            continue
        (max_width, step_x, min_height, max_height, step_y), min_width = rest[:5], width
        for w, h in dict.fromkeys([(max_width, max_height), *COMMON_SIZES]):
            fits = min_width <= w <= max_width and min_height <= h <= max_height
            on_grid = (w - min_width) % max(1, step_x) == 0 == (h - min_height) % max(1, step_y)
            if fits and on_grid:
                yield w, h
        return


def _rates(device: int, code: int, width: int, height: int) -> Iterator[Fraction]:
    """Rates of one size; of a range of them the highest."""
    for *_, kind, numerator, denominator, _, _, _, _, _, _ in _entries(
        device, VIDIOC_ENUM_FRAMEINTERVALS, FRMIVALENUM, code, width, height
    ):
        if numerator and denominator:
            yield Fraction(denominator, numerator)
        if kind != DISCRETE:
            return


def _entries(
    device: int, request: int, layout: struct.Struct, *arguments: int
) -> Iterator[tuple[int, ...]]:
    """What the driver fills in for index 0, 1, 2 and on, until it refuses one."""
    for index in range(MAX_ENTRIES):
        buffer = bytearray(layout.size)
        struct.pack_into(f"={1 + len(arguments)}I", buffer, 0, index, *arguments)
        try:
            ioctl(device, request, buffer)
        except OSError:
            return
        yield layout.unpack(buffer)


def _rate(mode: Mode) -> float:
    return float(mode.rates[0]) if mode.rates else 0.0


# Which cameras there are


@dataclass(frozen=True)
class Node:
    """A V4L2 device file that captures video.

    Attributes:
        number: N of /dev/videoN.
        name: as the driver calls the camera.
        index: of this device among those of the camera, "0" for the first; "" if unknown.
        link: its name in `LINK_FOLDER`; "" when it has none there.
    """

    number: int
    name: str
    index: str = ""
    link: str = ""


class CameraLocator:
    """Finds a camera again: one that was unplugged often comes back under another number.

    Args:
        target: its number or device file at the time it was opened.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        name = f"video{target}" if target.isdecimal() else Path(target).resolve().name
        nodes = video_nodes()
        self._node = next((node for node in nodes if f"video{node.number}" == name), None)
        self._others = {node.number for node in nodes if node is not self._node}

    def find(self) -> str | None:
        """What to open: the target, or the number under which the same camera came back.

        None when it is not there, or when several may be it. Where the system lists no devices it
        is always the target.
        """
        known = self._node
        if known is None:
            return self._target
        numbers = {node.number for node in video_nodes() if self._is_same(known, node)}
        if known.number in numbers:
            return self._target
        return str(numbers.pop()) if len(numbers) == 1 else None

    def _is_same(self, known: Node, node: Node) -> bool:
        if known.link:
            return node.link == known.link
        # a twin that was there all the time is not the one that was unplugged
        same = (node.name, node.index) == (known.name, known.index)
        return same and node.number not in self._others


def video_nodes() -> list[Node]:
    """Every device that captures video, by number; on Linux alone."""
    if not sys.platform.startswith("linux"):
        return []
    from cv2_enumerate_cameras import enumerate_cameras

    links = {link.resolve().name: link.name for link in sorted(LINK_FOLDER.glob("*"))}
    nodes = []
    for found in enumerate_cameras(cv2.CAP_V4L2):
        file = f"video{found.index}"
        index = _text(SYS_FOLDER / file / "index")
        nodes.append(Node(found.index, found.name, index, links.get(file, "")))
    return sorted(nodes, key=lambda node: node.number)


def _attached() -> list[Camera]:
    """Index, device file and name of every camera.

    On other systems than Linux several backends may list a camera; OpenCV opens an index with the
    first that has it.
    """
    if sys.platform.startswith("linux"):
        nodes = video_nodes()
        return [Camera(n.number, Path(f"/dev/video{n.number}"), n.name) for n in nodes]
    import cv2_enumerate_cameras as library

    names: dict[int, str] = {}
    for backend in library.supported_backends:
        for found in library.enumerate_cameras(backend):
            names.setdefault(found.index, found.name)
    return [Camera(index, None, name) for index, name in sorted(names.items())]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:  # not there, or the camera has just gone
        return ""
