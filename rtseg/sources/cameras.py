"""The cameras of this machine: what they are called, what they can do, what they really give."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from rtseg.clock import Clock
from rtseg.sources.camera import cannot_open, open_camera
from rtseg.sources.capture import ask
from rtseg.sources.formats import measure_rate
from rtseg.sources.modes import Mode, listed_modes, tried_modes
from rtseg.sources.plugged import plugged_in

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
