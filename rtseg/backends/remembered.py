"""What was measured before: one small file in the cache for each network, size and machine."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rtseg import __version__
from rtseg.backends.options import BackendOptions
from rtseg.cache import atomic, cache_dir, cache_path, safe_name, sha256
from rtseg.threads import usable_cores
from rtseg.zoo import Model

FORMAT = 1
FOLDER = "auto"

PACKAGES = "torch onnxruntime onnxruntime-gpu onnxruntime-directml openvino".split()


@dataclass(frozen=True)
class Measured:
    """How one candidate did.

    Attributes:
        seconds: per frame; None if it was not timed, and then `failure` says why.
        agreement: share (0..1) of pixels with the class of the exact one; None if not compared.
    """

    backend: str
    precision: str
    seconds: float | None
    agreement: float | None = None
    failure: str = ""


@dataclass(frozen=True)
class Choice:
    """What came of a contest.

    Attributes:
        about: network and input size, for people.
        winner: backend and precision.
        rows: all candidates: the winner, then the others, the quickest first.
        lanes: how many frames were worked on at once.
        date: of the measurement, as 2026-11-21.
    """

    about: str
    winner: tuple[str, str]
    rows: tuple[Measured, ...]
    lanes: int
    date: str


def recall(place: Path) -> Choice | None:
    """What was remembered there; None where nothing is that can be read."""
    try:
        kept: Any = json.loads(place.read_text("utf-8"))
        if kept.pop("rtseg_auto") != FORMAT:
            return None
        kept["rows"] = tuple(Measured(**row) for row in kept["rows"])
        kept["winner"] = tuple(kept["winner"])
        return Choice(**kept)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def remember(place: Path, choice: Choice) -> bool:
    """Write it down; False where the cache cannot be written: it will be measured again."""
    try:
        with atomic(place) as temporary:
            text = json.dumps({"rtseg_auto": FORMAT, **asdict(choice)}, indent=1)
            temporary.write_text(text, "utf-8")
    except OSError:
        return False
    return True


def remembered() -> Iterator[Choice]:
    """All that is remembered, in the order of its network's name."""
    choices = (recall(path) for path in sorted(_folder().glob("*.json")))
    return (choice for choice in choices if choice is not None)


def place_of(model: Model, size: tuple[int, int], options: BackendOptions) -> Path:
    """The file for a network at a size, run so, on this machine with these libraries.

    Raises:
        OSError: the network's file cannot be read.
    """
    facts = {
        "rtseg": __version__,
        "machine": machine_facts(),
        "versions": versions(),
        "network": [model.spec.to_json(), sha256(model.file) if model.file else model.format],
        "size": size,
        "options": asdict(options),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return cache_path(FOLDER, f"{safe_name(model.spec.name)}-{size[0]}x{size[1]}-{digest}.json")


def machine_facts() -> Mapping[str, Any]:
    """The processor's model, the cores that may be used, and the GPU's driver."""
    gpu = Path("/proc/driver/nvidia/version")
    return {
        "cpu": _processor(),
        "cores": usable_cores(),
        "gpu": gpu.read_text("utf-8") if gpu.is_file() else "",
    }


def versions() -> dict[str, str]:
    """Of the libraries that are installed and can run a network."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _folder() -> Path:
    return cache_dir() / FOLDER


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    pairs = (line.partition(":") for line in lines)
    facts = {name.strip(): value.strip() for name, _, value in pairs}
    # what it can do besides what it is called: a virtual machine may hide either
    told = (facts.get("model name"), facts.get("flags") or facts.get("Features"))
    return " ".join(word for word in told if word) or f"{platform.machine()} {platform.processor()}"
