"""The verb `cameras`: list cameras with their modes and measured rates."""

from __future__ import annotations

from typing import Any

from rtseg.cli.process import out
from rtseg.cli.report import rate, write_json
from rtseg.sources.camera import Camera, Mode, list_cameras


def print_cameras(*, measure: bool, as_json: bool) -> int:
    """Print every camera, its modes and its measured rate; returns 0 even without cameras."""
    cameras = list_cameras(seconds=1.0 if measure else 0.0)
    if as_json:
        write_json("-", [record(camera) for camera in cameras])
        return 0
    for camera in cameras:
        out("\n".join(describe_camera(camera)))
    if not cameras:
        out("no cameras found")
    return 0


def describe_camera(camera: Camera) -> list[str]:
    """A camera in a few lines: its number for `--camera`, its modes, its problem if any."""
    where = f" ({camera.path})" if camera.path else ""
    lines = [f"{camera.index}: {camera.name or 'camera'}{where}"]
    lines += [f"   {_mode(mode)}" for mode in camera.modes]
    if camera.modes and not camera.listed:
        lines.append("   (found by trying common sizes: the driver lists none)")
    if camera.measured is not None and camera.measured_rate is not None:
        requested = _mode(at_its_best(camera.measured))
        lines.append(f"   measured {camera.measured_rate:.1f} fps, requested {requested}")
    return [*lines, *([f"   not usable: {camera.problem}"] if camera.problem else [])]


def at_its_best(mode: Mode) -> Mode:
    """The mode with its highest rate only, which is the one measured."""
    return Mode(mode.fourcc, mode.width, mode.height, mode.rates[:1])


def _mode(mode: Mode) -> str:
    rates = ", ".join(map(rate, mode.rates))
    words = (f"{mode.width}x{mode.height}", mode.fourcc, f"at {rates} fps" if rates else "")
    return " ".join(filter(None, words))


def record(camera: Camera) -> dict[str, Any]:
    """A camera for JSON; rates in frames per second."""
    return {
        "index": camera.index,
        "path": camera.path and str(camera.path),
        "name": camera.name,
        "modes": [_mode_record(mode) for mode in camera.modes],
        "listed_by_driver": camera.listed,
        "measured_mode": camera.measured and _mode_record(at_its_best(camera.measured)),
        "measured_fps": camera.measured_rate and round(camera.measured_rate, 2),
        "problem": camera.problem or None,
    }


def _mode_record(mode: Mode) -> dict[str, Any]:
    return {
        "fourcc": mode.fourcc,
        "width": mode.width,
        "height": mode.height,
        "fps": [round(float(each), 3) for each in mode.rates],
    }
