"""The verb `doctor`: check libraries, devices, display and cache, and suggest fixes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from rtseg._version import __version__
from rtseg.backends import BACKENDS
from rtseg.cli.process import advice, out
from rtseg.sinks.display import display_available
from rtseg.system import PACKAGES, installed_version, installed_versions, python_command


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        do: what to do about it; "" if all is well.
    """

    what: str
    found: str
    do: str = ""


MODULES = "cv2 av onnx numba onnxruntime".split()
"""Modules that are imported as well: system libraries they need may be missing."""
CODECS = {"libx264": "H.264 in .mp4 and .mkv", "libvpx-vp9": "VP9 in .webm", "aac": "AAC audio"}


def examine(*, as_json: bool) -> int:
    """Print every finding, and what to do about problems; always returns 0."""
    if as_json:
        checks = {heading: _findings(check) for heading, check in CHECKS.items()}
        rows = {heading: [one._asdict() for one in found] for heading, found in checks.items()}
        out(json.dumps(rows, indent=2))
        return 0
    to_do = []
    for heading, check in CHECKS.items():
        out(f"\n{heading}")
        for what, found, do in _findings(check):
            out(f"  {'!' if do else ' '} {what:<27} {_short(found)}")
            to_do += [f"{what}: {do}"] if do else []
    out()
    for line in to_do or ["no problems found"]:
        out(f"{'! ' if to_do else ''}{line}")
    return 0


def _findings(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; a library that fails to load is a finding too."""
    try:
        yield from check()
    except (ImportError, OSError, RuntimeError) as error:
        yield Finding(type(error).__name__, str(error), advice(error))


def _versions() -> Iterator[Finding]:
    yield Finding("rtseg", __version__)
    yield Finding("python", f"{platform.python_version()} on {platform.platform()}")
    for package in PACKAGES:
        version = installed_version(package)
        do = "" if version else f"pip install {package}"
        yield Finding(package, version or "not installed", do)
    for kind in {kind.module: kind for kind in BACKENDS.values() if kind.module}.values():
        versions = [f"{name} {found}" for name, found in installed_versions(kind.packages).items()]
        missing = "not installed (optional)" if kind.extra else "not installed"
        do = "" if versions or kind.extra else kind.install
        yield Finding(kind.module, ", ".join(versions) or missing, do)
    for module in MODULES:
        try:
            import_module(module)
        except (ImportError, OSError) as error:
            yield Finding(f"import {module}", str(error), advice(error))


def _short(text: str) -> str:
    """The end of a long text: libraries start with a place in their sources."""
    words = " ".join(text.split())
    return words if len(words) <= _WIDE else f"...{words[-_WIDE:]}"


_WIDE = 160


def _torch() -> Iterator[Finding]:
    """In a process of its own, which a broken driver may crash."""
    do = "reinstall torch, or run models with --backend onnx"
    try:
        done = subprocess.run(
            python_command(_TORCH_SCRIPT),
            capture_output=True,
            text=True,
            check=False,
            timeout=_TORCH_SECONDS,
        )
    except subprocess.TimeoutExpired:
        yield Finding("torch", f"does not load within {_TORCH_SECONDS:g} s", do)
        return
    for line in done.stdout.splitlines():
        if "\t" in line:  # others are of libraries
            yield Finding(*line.split("\t", 2))
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        yield Finding("torch", last, do)


_TORCH_SECONDS = 120.0


_TORCH_SCRIPT = """
if sys.platform == "linux":  # it ends with the process that waits for it
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)
import torch
print(f"device\tcpu, {torch.get_num_threads()} threads")
for number in range(torch.cuda.device_count()):
    print(f"device\tcuda:{number}, {torch.cuda.get_device_name(number)}")
from rtseg.gpu import cuda_missing
from rtseg.system import nvidia_driver
if nvidia_driver() and (why := cuda_missing(0)):
    do = "install torch for CUDA, by the command that pytorch.org/get-started/locally gives"
    print(f"NVIDIA GPU\tnot used: {why}\t{do}")
if torch.backends.mps.is_available():
    print("device\tmps")
try:
    import torchvision
    torch.ops.torchvision.nms
    print("torchvision operators\tload")
except Exception as error:
    print("torchvision operators\tdo not load; no model of rtseg needs them")
"""


def _onnx() -> Iterator[Finding]:
    from rtseg.backends.ort import provider_statuses
    from rtseg.backends.providers import PROVIDERS
    from rtseg.system import nvidia_driver

    unused = nvidia_driver()
    for provider, found in provider_statuses().items():
        unused &= (provider, found) != (PROVIDERS["cuda"], "runs")
        yield Finding(provider, found)
    if unused:
        yield Finding(
            "NVIDIA GPU", "not used", 'pip install --upgrade "onnxruntime-gpu[cuda,cudnn]"'
        )


def _display() -> Iterator[Finding]:
    reason = display_available()
    do = "write files instead: rtseg clip.mp4 -o out.mp4" if reason else ""
    yield Finding("window", reason or "can be opened", do)


def _codecs() -> Iterator[Finding]:
    import av

    for codec, use in CODECS.items():
        there = codec in av.codecs_available
        do = "" if there else "reinstall av from its own wheel: pip install --force-reinstall av"
        yield Finding(codec, use if there else "missing", do)


def _cache() -> Iterator[Finding]:
    from rtseg.cache import cache_dir, can_be_written

    folder = cache_dir()
    do = "" if can_be_written(folder) else "set RTSEG_CACHE to a writable folder"
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # another process has removed it since
                size += Path(place, name).stat().st_size
    yield Finding("folder", f"{folder} ({size / 1e6:.0f} MB)", do)


def _auto() -> Iterator[Finding]:
    from rtseg.backends.auto import saved_choices

    for choice in saved_choices():
        best, *others = [row for row in choice.rows if row.seconds is not None]
        times = [f"{row.backend} {row.precision} {(row.seconds or 0) * 1e3:.1f}" for row in others]
        before = f" ({', '.join(times)})" if times else ""
        lanes = f", {choice.lanes} at once" if choice.lanes > 1 else ""
        found = f"{best.backend} {best.precision} {(best.seconds or 0) * 1e3:.1f} ms{before}"
        yield Finding(choice.about, f"{found}{lanes}, {choice.date}")


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "versions": _versions,
    "torch": _torch,
    "onnxruntime, a tiny graph on each provider": _onnx,
    "display": _display,
    "codecs": _codecs,
    "cache": _cache,
    "fastest backends, as --backend auto measured them (--remeasure does it again)": _auto,
}
