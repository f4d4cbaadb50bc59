"""A camera: opened in the format that keeps up, and found again when it was unplugged."""

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
from rtseg.sources.capture import LiveSource, ask, fourcc_text, nominal_rate, open_capture
from rtseg.sources.options import SourceOptions
from rtseg.stats import Clock

ENUM_FMT, ENUM_SIZES, ENUM_INTERVALS = 0xC0405602, 0xC02C564A, 0xC034564B
"""The request codes of linux/videodev2.h; they hold the sizes of the three structs below."""

FORMAT = struct.Struct("=3I32s5I")
"""v4l2_fmtdesc: index, type, flags, description, pixelformat, and what is not used here."""

SIZE = struct.Struct("=11I")
"""v4l2_frmsizeenum: index, pixel_format, type, then width and height or (min, max, step) twice."""

INTERVAL = struct.Struct("=13I")
"""v4l2_frmivalenum: index, pixel_format, width, height, type, then seconds as a fraction."""

VIDEO_CAPTURE = 1
DISCRETE = 1
MOST_ENTRIES = 1000
"""A driver that never ends its list is not believed for longer."""

COMMON_FOURCCS = ("MJPG", "YUYV")
COMMON_SIZES = (
    *((3840, 2160), (2560, 1440), (1920, 1080), (1280, 720)),
    *((1024, 768), (800, 600), (640, 480), (640, 360), (320, 240)),
)


@dataclass(frozen=True)
class Mode:
    """A picture that a camera can give, as it says itself.

    Attributes:
        fourcc: of the pixels; "" when it does not say.
        width, height: in pixels.
        rates: frames per second, the highest first; empty when it does not say.
    """

    fourcc: str
    width: int
    height: int
    rates: tuple[Fraction, ...] = ()


def listed_modes(device: Path) -> tuple[Mode, ...]:
    """Every mode that the driver of a device file lists, the largest first; none if it will not.

    A driver that takes any size within limits is told of by the common ones, and its largest.
    """
    try:
        with device.open("rb+", buffering=0) as file:
            modes = list(_modes(file.fileno()))
    except OSError:
        return ()
    return tuple(sorted(modes, key=lambda mode: -mode.width * mode.height))


def _modes(device: int) -> Iterator[Mode]:
    for _, _, _, _, code, *_ in _entries(device, ENUM_FMT, FORMAT, VIDEO_CAPTURE):
        for width, height in _sizes(device, code):
            rates = tuple(sorted(set(_rates(device, code, width, height)), reverse=True))
            yield Mode(fourcc_text(code), width, height, rates)


def _sizes(device: int, code: int) -> Iterator[tuple[int, int]]:
    for _, _, kind, width, *rest in _entries(device, ENUM_SIZES, SIZE, code):
        if kind == DISCRETE:
            yield width, rest[0]
            continue
        (widest, step, low, tallest, step_down), narrow = rest[:5], width
        for w, h in dict.fromkeys([(widest, tallest), *COMMON_SIZES]):
            fits = narrow <= w <= widest and low <= h <= tallest
            if fits and (w - narrow) % max(1, step) == 0 and (h - low) % max(1, step_down) == 0:
                yield w, h
        return


def _rates(device: int, code: int, width: int, height: int) -> Iterator[Fraction]:
    """Rates of one size; of a range of them the highest."""
    asked = (code, width, height)
    for *_, kind, numerator, denominator, _, _, _, _, _, _ in _entries(
        device, ENUM_INTERVALS, INTERVAL, *asked
    ):
        if numerator and denominator:
            yield Fraction(denominator, numerator)
        if kind != DISCRETE:
            return


def _entries(
    device: int, request: int, layout: struct.Struct, *asked: int
) -> Iterator[tuple[int, ...]]:
    """What the driver fills in for index 0, 1, 2 and on, until it refuses one."""
    for index in range(MOST_ENTRIES):
        buffer = bytearray(layout.size)
        struct.pack_into(f"={1 + len(asked)}I", buffer, 0, index, *asked)
        try:
            ioctl(device, request, buffer)
        except OSError:
            return
        yield layout.unpack(buffer)


def ioctl(device: int, request: int, buffer: bytearray) -> None:
    """The system's call of that name: the driver fills `buffer`, or refuses with OSError."""
    if sys.platform == "win32":
        raise OSError("Windows has no such call")
    import fcntl

    fcntl.ioctl(device, request, buffer)


def tried_modes(capture: cv2.VideoCapture) -> tuple[Mode, ...]:
    """The different modes that an open camera takes when asked for common ones, largest first."""
    modes: dict[Mode, None] = {}
    for fourcc in COMMON_FOURCCS:
        for width, height in COMMON_SIZES:
            ask(capture, width=width, height=height, fourcc=fourcc)
            modes[current_mode(capture)] = None
    return tuple(sorted(modes, key=lambda mode: -mode.width * mode.height))


def current_mode(capture: cv2.VideoCapture) -> Mode:
    """What an open camera says that it is set to."""
    rate = nominal_rate(capture)
    return Mode(
        fourcc_text(capture.get(cv2.CAP_PROP_FOURCC)),
        int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        () if rate is None else (rate,),
    )


AUTO = "auto"

PREFERRED = "MJPG"
"""A cable that carries ten raw pictures of 1280x720 a second carries thirty compressed ones."""

USUAL_RATE = 30.0
"""What is wanted where a size is asked for, but no rate."""

ENOUGH = 0.9
"""Of the asked rate: half a second of pictures does not tell it better."""

MEASURED_SECONDS = 0.5
MEASURED_PICTURES = 600
"""A device that gives pictures quicker than any camera is not listened to for longer."""


@dataclass(frozen=True)
class Trial:
    """What came when a camera was asked for a format.

    Attributes:
        asked: its fourcc; None when it was left alone.
        mode: what it says of itself then.
        measured: frames per second that came; None when that was not looked at, or nothing came.
    """

    asked: str | None
    mode: Mode
    measured: float | None = None

    @property
    def rate(self) -> float:
        """Frames per second: measured, else as it says itself, else 0."""
        claimed = float(self.mode.rates[0]) if self.mode.rates else 0.0
        return claimed if self.measured is None else self.measured

    def words(self) -> str:
        """ "1280x720 at 30 fps MJPG, measured 29.9 fps"."""
        rates = f"at {float(self.mode.rates[0]):g} fps" if self.mode.rates else ""
        size = f"{self.mode.width}x{self.mode.height}"
        text = " ".join(filter(None, (size, rates, self.mode.fourcc)))
        return text if self.measured is None else f"{text}, measured {self.measured:.1f} fps"

    def shortfall(self, options: SourceOptions, rate: float) -> str:
        """In what it is less than what was asked for, and `rate`, in words; "" when it is not."""
        size = f"{self.mode.width}x{self.mode.height}"
        missed = [f"it gave {size}"] if _distance(self.mode, options) else []
        if options.fourcc not in (None, AUTO, self.mode.fourcc):
            missed.append(f"it gave {self.mode.fourcc or 'no format that it tells'}")
        if self.rate < ENOUGH * rate:
            missed.append(f"{self.rate:.1f} fps came")
        return ", ".join(missed)


def settle(capture: cv2.VideoCapture, options: SourceOptions, clock: Clock) -> list[Trial]:
    """Ask for what is wanted, and leave the camera in the best of the formats tried.

    A named format is the only one; else, or with "auto", MJPG goes first, and the camera's own is
    tried where that falls short. Where nothing is wanted the camera keeps its own, and is not
    measured.

    Returns:
        The trial that is used, then the others.
    """
    own = fourcc_text(capture.get(cv2.CAP_PROP_FOURCC))
    if not (options.width or options.height or options.fps or options.fourcc):
        ask(capture)
        return [Trial(None, current_mode(capture))]
    named = options.fourcc not in (None, AUTO)
    trials = [_tried(capture, options.fourcc if named else PREFERRED, options, clock)]
    enough = not trials[0].shortfall(options, options.fps or USUAL_RATE)
    if not (enough or named or trials[0].mode.fourcc == own):
        trials.append(_tried(capture, own, options, clock))
    best = min(trials, key=lambda trial: _rank(trial, options))
    if best is not trials[-1]:
        _tried(capture, best.asked, options, None)
    return [best, *(trial for trial in trials if trial is not best)]


def ask_for(capture: cv2.VideoCapture, options: SourceOptions) -> None:
    """Ask a camera for what the options say; what they leave open stays as it is."""
    size = {"width": options.width, "height": options.height}
    ask(capture, **size, fps=options.fps, fourcc=options.fourcc)


def _tried(
    capture: cv2.VideoCapture, fourcc: str | None, options: SourceOptions, clock: Clock | None
) -> Trial:
    ask_for(capture, replace(options, fourcc=fourcc))
    measured = measure_rate(capture, MEASURED_SECONDS, clock) if clock else None
    return Trial(fourcc, current_mode(capture), measured)


def _rank(trial: Trial, options: SourceOptions) -> tuple[int, float]:
    """Less is better: first the size, then the rate as far as it is wanted."""
    return _distance(trial.mode, options), -min(trial.rate, options.fps or USUAL_RATE)


def _distance(mode: Mode, options: SourceOptions) -> int:
    """Pixels between the sides asked for and those that came."""
    width, height = options.width or mode.width, options.height or mode.height
    return abs(mode.width - width) + abs(mode.height - height)


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
    while clock.now() - begun < seconds and count < MEASURED_PICTURES and capture.grab():
        count += 1
    elapsed = clock.now() - begun
    return count / elapsed if count and elapsed > 0 else None


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


BACKEND = cv2.CAP_V4L2 if sys.platform.startswith("linux") else cv2.CAP_ANY

FIRST_TRIES = 10
"""Some cameras give nothing for the first few reads after they were set."""


class CameraSource(LiveSource):
    """A camera by its index or device path; `info.notes` says what was asked of it and what came.

    Unplugged, it is waited for, also under another number where the system tells that it is the
    same device, and asked again for what it gave before.

    Raises:
        SourceError: it is absent, in use or not permitted, or gives no picture.
    """

    def __init__(
        self,
        target: str,
        options: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
        clock: Clock | None = None,
    ) -> None:
        super().__init__(options, clock)
        self._where, self._opened = Whereabouts(target), target
        self._name = f"camera {target}"
        self._capture = capture = open_camera(target)
        if capture is None:
            raise cannot_open(target)
        trials = settle(capture, options, self.clock)
        self._wanted = replace(options, fourcc=trials[0].asked)
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
        """(width, height) of the first picture, which is left: nobody wants one so old."""
        picture = next(filter(None, (self._grab() for _ in range(FIRST_TRIES))), None)
        if picture is None:
            self._release()
            raise SourceError(
                f"cannot use {self._name}",
                found="it opened, but gave no picture",
                do="Try another --width, --height or --fourcc",
            )
        height, width = picture[0].shape[:2]
        return width, height

    def _open(self) -> cv2.VideoCapture | None:
        target = self._where.now()
        capture = None if target is None else open_camera(target)
        if target is None or capture is None:
            return None
        if target != self._opened:
            self._opened = target
            self.warnings.append(f"{self._name} came back as camera {target}")
        ask_for(capture, self._wanted)
        return capture


def open_camera(target: str) -> cv2.VideoCapture | None:
    """A camera by its number or device path, as it is; None when it does not open."""
    return open_capture(int(target) if target.isdecimal() else target, BACKEND)


def describe(options: SourceOptions, trials: list[Trial], size: tuple[int, int]) -> list[str]:
    """What was asked and what came; only what came where nothing was asked.

    Args:
        trials: the one that is used, then those that were not.
        size: (width, height) of the pictures that really come.
    """
    used = replace(trials[0], mode=replace(trials[0].mode, width=size[0], height=size[1]))
    asked = _asked(options)
    if not asked:
        return [f"got {used.words()}"]
    notes = [f"asked {asked}, got {used.words()}"]
    for trial in trials[1:]:
        missed = trial.shortfall(options, options.fps or USUAL_RATE)
        notes.append(f"{trial.mode.fourcc} was left: {missed}")
    if missed := used.shortfall(options, options.fps or 0.0):
        notes.append(f"not what was asked: {missed}; `rtseg cameras` lists the modes it has")
    return notes


def _asked(options: SourceOptions) -> str:
    size = f"{options.width or '?'}x{options.height or '?'}"
    rate = f"at {options.fps:g} fps" if options.fps else ""
    sized = options.width or options.height
    return " ".join(filter(None, (size if sized else "", rate, options.fourcc)))


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


LAST_INDEX = 9
"""Where the system does not list its cameras, indices up to this are tried."""


@dataclass(frozen=True)
class Camera:
    """A camera of this machine.

    Attributes:
        index: what `--camera` takes.
        path: its device file; None where systems have none.
        name: as the system calls it; "" when it does not.
        modes: largest first: those its driver lists, else those it took when common ones were
            asked for.
        listed: whether the driver listed them.
        measured: the mode that was looked at: the largest that should give the highest rate.
        measured_rate: frames per second that really came in it; None when none came.
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


def list_cameras(*, seconds: float = 1.0, clock: Clock | None = None) -> list[Camera]:
    """The cameras of this machine, each asked for its modes, opened, and timed for `seconds`.

    By the system's own list on Linux; elsewhere by trying indices 0 to 9. With 0 seconds none is
    timed, and on Linux none is opened whose driver lists its modes.
    """
    if sys.platform.startswith("linux"):
        nodes = plugged_in()
        found = [Camera(n.number, Path(f"/dev/video{n.number}"), n.name) for n in nodes]
        return [_examined(camera, seconds, clock) for camera in found]
    tried = (_examined(Camera(i, None, ""), seconds, clock) for i in range(LAST_INDEX + 1))
    return [camera for camera in tried if not camera.problem]


def _examined(camera: Camera, seconds: float, clock: Clock | None) -> Camera:
    modes = listed_modes(camera.path) if camera.path else ()
    camera = replace(camera, modes=modes, listed=bool(modes))
    if modes and not seconds:
        return camera
    capture = open_camera(str(camera.index))
    if capture is None:
        return replace(camera, problem=cannot_open(str(camera.index)).found)
    try:
        modes = modes or tried_modes(capture)
        camera = replace(camera, modes=modes)
        if not seconds:
            return camera
        best = quickest(modes)
        rate = float(best.rates[0]) if best.rates else None
        ask(capture, width=best.width, height=best.height, fps=rate, fourcc=best.fourcc)
        measured = measure_rate(capture, seconds, clock)
    finally:
        capture.release()
    problem = "" if measured is not None else "it opened, but gave no picture"
    return replace(camera, measured=best, measured_rate=measured, problem=problem)


def quickest(modes: tuple[Mode, ...]) -> Mode:
    """The largest of the modes that promise 30 frames per second, or else the highest rate."""
    return max(modes, key=lambda mode: (min(30.0, _rate(mode)), mode.width * mode.height))


def _rate(mode: Mode) -> float:
    return float(mode.rates[0]) if mode.rates else 0.0
