"""The verb `cameras`."""

from __future__ import annotations

from rtseg.sources.camera import Camera, Mode, list_cameras


def print_cameras() -> int:
    """Print every camera, its modes and its measured rate; 0 also when there is none."""
    cameras = list_cameras()
    for camera in cameras:
        print("\n".join(describe_camera(camera)))
    if not cameras:
        print("no cameras found")
    return 0


def describe_camera(camera: Camera) -> list[str]:
    """A camera in a few lines: what `--camera` takes, what it can do, what is wrong."""
    where = f" ({camera.path})" if camera.path else ""
    lines = [f"{camera.index}: {camera.name or 'camera'}{where}"]
    lines += [f"   {_mode(mode)}" for mode in camera.modes]
    if camera.measured_rate is not None:
        lines.append(f"   measured {camera.measured_rate:.1f} fps in the first of these")
    return [*lines, *([f"   not usable: {camera.problem}"] if camera.problem else [])]


def _mode(mode: Mode) -> str:
    rate = f" at {mode.fps:g} fps" if mode.fps else ""
    return f"{mode.width}x{mode.height} {mode.fourcc}{rate}".replace("  ", " ")
