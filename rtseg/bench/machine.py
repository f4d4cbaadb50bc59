"""What a benchmark ran on: without it, its figures mean nothing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import rtseg
from rtseg.threads import usable_cores

PACKAGES = (
    "torch torchvision onnx onnxruntime onnxruntime-gpu onnxruntime-directml openvino "
    "opencv-python av numpy numba"
).split()
BUSY = 0.5
"""Programs that run already, per core, from which figures are those of a busy machine."""


def machine() -> dict[str, Any]:
    """Versions, processor, GPU and load; see `rtseg.bench.record`."""
    return {
        "rtseg": rtseg.__version__,
        "git": git_version(),
        "python": platform.python_version(),
        "os": platform.platform(),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "gpu": gpu_name(),
        "load_average": load_average(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def is_busy(facts: dict[str, Any]) -> bool:
    """Whether the machine had other work when the record began."""
    return bool((facts["load_average"] or 0) > BUSY * facts["cores"])


def cpu_name() -> str:
    """The processor's model."""
    if platform.system() == "Linux":
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return models[0] if models else platform.machine()
    if platform.system() == "Darwin":
        return _said("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def gpu_name() -> str:
    """NVIDIA GPUs and their driver; "" where there is none."""
    return _said("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")


def load_average() -> float | None:
    """Programs that ran or waited to run over the last minute; None on Windows."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def git_version() -> str:
    """`git describe` of the checkout that rtseg runs from; "" where it is installed."""
    checkout = Path(rtseg.__file__).parents[1]
    if not (checkout / ".git").exists():
        return ""
    return _said("git", "-C", str(checkout), "describe", "--always", "--dirty", "--tags")


def _said(*command: str) -> str:
    """What a program prints, on one line; "" where there is no such program, or it fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "; ".join(done.stdout.strip().splitlines()) if done.returncode == 0 else ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
