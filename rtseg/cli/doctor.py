"""The verb `doctor`: what this machine has, and what to do about what it lacks."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from rtseg import __version__
from rtseg.sinks.display import display_available

Finding = tuple[str, str, str]
"""(what, found, what to do about it or "")."""

PACKAGES = "torch torchvision onnx opencv-python av numba numpy".split()
RUNTIMES = "onnxruntime-gpu onnxruntime onnxruntime-directml".split()
"""ONNX Runtime comes under several names; one of them is enough."""
CODECS = {"libx264": "H.264 in .mp4 and .mkv", "libvpx-vp9": "VP9 in .webm", "aac": "AAC audio"}


def examine() -> int:
    """Print every finding, and what to do where something is amiss; always 0."""
    advice = []
    for heading, check in CHECKS.items():
        print(f"\n{heading}")
        for what, found, do in _findings(check):
            print(f"  {'!' if do else ' '} {what:<28}{_short(found)}")
            advice += [f"{what}: {do}"] if do else []
    print()
    for line in advice or ["all is well"]:
        print(f"{'! ' if advice else ''}{line}")
    return 0


def _findings(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check finds; a library that fails to load is a finding too."""
    try:
        yield from check()
    except (ImportError, OSError, RuntimeError) as error:
        yield type(error).__name__, str(error), "reinstall rtseg in a fresh environment"


def _versions() -> Iterator[Finding]:
    yield "rtseg", __version__, ""
    yield "python", f"{platform.python_version()} on {platform.platform()}", ""
    for package in PACKAGES:
        version = _version(package)
        yield package, version or "not installed", "" if version else f"pip install {package}"
    runtimes = [f"{name} {version}" for name in RUNTIMES if (version := _version(name))]
    do = "" if runtimes else "pip install onnxruntime"
    yield "onnxruntime", ", ".join(runtimes) or "not installed", do
    yield "openvino", _version("openvino") or "not installed (an extra)", ""


def _version(package: str) -> str:
    """The installed version, or ""."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _short(text: str) -> str:
    """The end of a long text: libraries begin with where in their sources they were."""
    words = " ".join(text.split())
    return words if len(words) <= _WIDE else f"...{words[-_WIDE:]}"


_WIDE = 100


def _torch() -> Iterator[Finding]:
    """Asked in a process of its own: a broken driver may take a process down."""
    done = subprocess.run(
        [sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, check=False
    )
    for line in done.stdout.splitlines():
        what, _, found = line.partition("\t")
        yield what, found, ""
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        yield "torch", last, "reinstall torch, or run networks with --backend onnx"


_ASK_TORCH = """
import torch
print(f"device\tcpu, {torch.get_num_threads()} threads")
for number in range(torch.cuda.device_count()):
    print(f"device\tcuda:{number}, {torch.cuda.get_device_name(number)}")
if torch.backends.mps.is_available():
    print("device\tmps")
try:
    import torchvision
    torch.ops.torchvision.nms
    print("torchvision operators\tload")
except Exception as error:
    print("torchvision operators\tdo not load; no network of rtseg needs them")
"""


def _onnx() -> Iterator[Finding]:
    from rtseg.backends.ort_session import available_providers_that_run

    for provider, found in available_providers_that_run().items():
        yield provider, found, ""


def _display() -> Iterator[Finding]:
    reason = display_available()
    do = "outputs go to files: rtseg clip.mp4 -o out.mp4" if reason else ""
    yield "window", reason or "can be opened", do


def _codecs() -> Iterator[Finding]:
    import av

    for codec, use in CODECS.items():
        there = codec in av.codecs_available
        do = "" if there else "reinstall av from its own wheel: pip install --force-reinstall av"
        yield codec, use if there else "missing", do


def _cache() -> Iterator[Finding]:
    from rtseg.nets.cache import cache_dir

    folder = cache_dir()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    yield "folder", f"{folder} ({size / 1e6:.0f} MB)", _writable(folder)


def _auto() -> Iterator[Finding]:
    from rtseg.backends.remembered import remembered

    for choice in remembered():
        best, *others = [row for row in choice.rows if row.seconds is not None]
        times = [f"{row.backend} {(row.seconds or 0) * 1e3:.1f}" for row in others]
        before = f" ({', '.join(times)})" if times else ""
        lanes = f", {choice.lanes} at once" if choice.lanes > 1 else ""
        found = f"{best.backend} {best.precision} {(best.seconds or 0) * 1e3:.1f} ms{before}"
        yield choice.about, f"{found}{lanes}, {choice.date}", ""


def _writable(folder: Path) -> str:
    import os

    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    ok = os.access(nearest, os.W_OK)
    return "" if ok else f"{nearest} cannot be written; set RTSEG_CACHE to a folder that can"


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "versions": _versions,
    "torch": _torch,
    "onnxruntime, a tiny graph on each provider": _onnx,
    "display": _display,
    "codecs": _codecs,
    "cache": _cache,
    "fastest backends, as --backend auto measured them (--remeasure does it again)": _auto,
}
