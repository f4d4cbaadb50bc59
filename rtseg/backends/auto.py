"""`--backend auto`: the backend and precision that run a network fastest on this machine.

What is installed is measured once, at the size and with the lanes of the run, and remembered.
Reduced precision takes part only where the processor gains by it, and wins only if its masks agree
with full precision's on real frames.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rtseg._version import __version__
from rtseg.backends import open_backend
from rtseg.backends.base import input_size_of, noise
from rtseg.backends.options import UNUSED, BackendOptions, nvidia_driver
from rtseg.cache import cache_dir, cache_path, safe_name, sha256
from rtseg.contracts import Backend
from rtseg.errors import RtsegError
from rtseg.files import atomic
from rtseg.measure import Batch, backend_agreement, time_each
from rtseg.nets.foreign import precision_of
from rtseg.stats import Clock
from rtseg.threads import usable_cores
from rtseg.zoo import Model

BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
FP16_FLAGS = {"avx512_fp16", "amx_fp16", "asimdhp"}
"""What a processor calls its own arithmetic in 16 bits, x86 and Arm; without it, bf16 and fp16 are
done in 32 bits at the cost of turning them to and fro."""


class Candidate(NamedTuple):
    """A backend, and the precision to ask of it.

    Attributes:
        exact: whether its masks are taken as they are; others are held against an exact one.
    """

    backend: str
    precision: str
    exact: bool = True

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"


def installed(library: str) -> bool:
    """Whether a library can be imported; it is not."""
    return find_spec(library) is not None


@cache
def reduced_precisions() -> frozenset[str]:
    """Those of bf16 and fp16 that this processor computes in; none where it does not say."""
    info = Path("/proc/cpuinfo")
    words = set(info.read_text("utf-8").split()) if info.is_file() else set()
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        words.add("asimdhp")
    known = {"bf16": BF16_FLAGS, "fp16": FP16_FLAGS}
    return frozenset(name for name, flags in known.items() if words & flags)


def candidates(
    model: Model,
    options: BackendOptions,
    *,
    there: Callable[[str], bool] = installed,
    reduced: frozenset[str] | None = None,
    on_gpu: Collection[str] = (),
) -> list[Candidate]:
    """What is worth measuring, what is taken where nothing else is faster first.

    Nothing is where a GPU was asked for that no library reaches: the usual backend tells so at
    once. A precision that a person asked for is exact enough for that person. A file of another's
    has its own precision, and OpenVINO may compute it in less.

    Args:
        there: whether a library is installed.
        reduced: precisions that the processor gains by; None asks it.
        on_gpu: backends whose library reaches an NVIDIA GPU; the others stay out where there are
            any.

    Raises:
        ModelError: the network's file cannot be read.
    """
    family = options.family
    if model.format == "none":
        return [Candidate("stub", options.precision)]
    if family not in ("auto", "cpu", "cuda"):
        name = "torch" if family == "mps" and model.format != "onnx" else "onnx"
        return [Candidate(name, options.precision)]
    fit = {
        gpu: [
            name
            for name, library in libraries.items()
            if there(library) and (name != "torch" or model.format != "onnx")
        ]
        for gpu, libraries in _LIBRARIES.items()
    }
    reaching = [name for name in fit[True] if name in on_gpu]
    gpu = family != "cpu" and bool(reaching)
    if family == "cuda" and not gpu:
        return []
    names = reaching if gpu else fit[False]
    if options.precision != "auto":
        return [Candidate(name, options.precision) for name in names]
    full = precision_of(model.file) if model.format == "onnx" and model.file else "fp32"
    exact = [Candidate(n, full) for n in names if n not in _OUTDONE[gpu] or n == names[0]]
    if full != "fp32":
        return exact
    less = {"fp16"} if gpu else reduced_precisions() if reduced is None else reduced
    return exact + [
        Candidate(name, precision, exact=False)
        for name, precisions in _gains(model, names, gpu=gpu).items()
        for precision in precisions
        if precision in less
    ]


def _gains(model: Model, names: Sequence[str], *, gpu: bool) -> dict[str, tuple[str, ...]]:
    """Reduced precisions that each of the backends may gain by.

    On x86 processors ONNX Runtime has no kernels for them: it turns each tensor to 32 bits and
    back. It runs a file of another's as that is.
    """
    known: dict[str, tuple[str, ...]]
    if gpu:
        known = {"torch": ("fp16",), "onnx": () if model.format == "onnx" else ("fp16",)}
    elif "openvino" in names:
        known = {"openvino": ("bf16", "fp16")}
    else:
        known = {"torch": ("bf16",)}
    return {name: known.get(name, ()) for name in names}


_LIBRARIES = {
    False: {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"},
    True: {"torch": "torch", "onnx": "onnxruntime"},
}
"""The library of each backend worth trying, on a processor and on an NVIDIA GPU."""

_OUTDONE: dict[bool, tuple[str, ...]] = {False: ("torch",), True: ()}
"""Not worth the seconds that it takes to load where anything else is installed, likewise: on
processors, in fp32, torch took twice to three times as long as the others with every network."""


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


BUDGET_SECONDS = 1.5
"""For all backends together; each is run twice, however long that takes."""

HOPELESS = 1.4
"""A backend that takes this many times as long as the quickest gets no further turn."""

LEAST_AGREEMENT = 0.99
"""Share of pixels that reduced precision must give the class that full precision gives."""

LEAST_GAIN = 0.05
"""By this share must a candidate be faster than one before it in the list to be preferred: less is
noise, and the first ones are exact and start soonest."""

OpenCandidate = Callable[[Candidate], Backend]

# what a library may raise when it is broken, beside what we raise of it
Failure = (RtsegError, ImportError, OSError, RuntimeError)


@dataclass
class Entry:
    """A candidate in the contest; `backend` is None once it is out."""

    candidate: Candidate
    backend: Backend | None = None
    precision: str = ""
    seconds: float | None = None
    agreement: float | None = None
    failure: str = ""

    def out(self, failure: Exception | str) -> None:
        """It takes no further part."""
        if isinstance(failure, RtsegError):
            failure = f"{failure.asked}: {failure.found}" if failure.found else failure.asked
        self.failure = str(failure).partition("\n")[0]
        self.close()

    def close(self) -> None:
        """Free what it holds."""
        if self.backend is not None:
            self.backend.close()
            self.backend = None

    def measured(self) -> Measured:
        """What is remembered of it."""
        seconds = None if self.failure else self.seconds
        precision = self.precision or self.candidate.precision
        return Measured(self.candidate.backend, precision, seconds, self.agreement, self.failure)


def contest(
    field: Sequence[Candidate],
    opened: OpenCandidate,
    frames: Sequence[Batch],
    clock: Clock | None = None,
) -> list[Entry]:
    """Open all candidates, time them, and keep the winner.

    Args:
        field: those to prefer first.
        opened: loads one; what fails in it costs that candidate its place and nothing else.
        frames: at least one, to time on and to compare masks on.

    Returns:
        The winner first, and it alone open; then the others, the quickest first. Where none is
        left, the first has no backend.
    """
    entries = [_enter(candidate, opened) for candidate in field]
    try:
        _time(entries, frames[0], clock)
        winner = _trusted(entries, frames)
    except BaseException:
        for entry in entries:
            entry.close()
        raise
    for entry in entries:
        if entry is not winner:
            entry.close()
    return sorted(entries, key=lambda entry: (entry is not winner, entry.seconds or math.inf))


def _enter(candidate: Candidate, opened: OpenCandidate) -> Entry:
    entry = Entry(candidate)
    try:
        entry.backend = opened(candidate)
    except Failure as error:
        entry.out(error)
        return entry
    entry.precision = entry.backend.info.precision
    if not candidate.exact and entry.precision != candidate.precision:
        runs, entry.precision = entry.precision, candidate.precision
        entry.out(f"{runs} runs instead")
    return entry


def _time(entries: Sequence[Entry], batch: Batch, clock: Clock | None) -> None:
    """Note the seconds per frame of each; those that fail are out."""
    backends = {i: entry.backend for i, entry in enumerate(entries) if entry.backend}
    times, failures = time_each(
        backends, batch, seconds=BUDGET_SECONDS, drop_factor=HOPELESS, clock=clock
    )
    for index, seconds in times.items():
        entries[index].seconds = seconds
    for index, error in failures.items():
        entries[index].out(error)


def _trusted(entries: Sequence[Entry], frames: Sequence[Batch]) -> Entry | None:
    """The quickest whose masks are those of full precision; those that fail are out."""
    reference = next((one.backend for one in entries if one.backend and one.candidate.exact), None)
    for entry in _ranked(entries):
        assert entry.backend is not None
        if entry.candidate.exact:
            return entry
        if reference is None:
            return None
        try:
            entry.agreement = backend_agreement(entry.backend, reference, frames).mean
        except RtsegError as error:
            entry.out(error)
            continue
        if entry.agreement >= LEAST_AGREEMENT:
            return entry
    return None


def _ranked(entries: Sequence[Entry]) -> list[Entry]:
    """The quickest first; among those that differ by noise, the one to prefer."""
    left = [(entry.seconds, entry) for entry in entries if entry.backend and entry.seconds]
    ranked = []
    while left:
        limit = min(seconds for seconds, _ in left) / (1 - LEAST_GAIN)
        first = next(one for one in left if one[0] <= limit)
        ranked.append(first[1])
        left.remove(first)
    return ranked


NVIDIA_BACKENDS = ("torch", "onnx")
"""Those whose library may reach an NVIDIA GPU."""

Frames = Callable[[tuple[int, int]], Sequence[Batch]]
"""Real frames as batches of one, at an input's (height, width)."""


def open_fastest(
    model: Model,
    *,
    input_size: tuple[int, int] | None = None,
    frames: Frames | None = None,
    again: bool = False,
    on_measure: Callable[[str], None] = lambda words: None,
    clock: Clock | None = None,
    **options: Any,
) -> Backend:
    """Load a network in whatever runs it fastest here.

    The backend's `info.notes` say what was measured, and when.

    Args:
        input_size: as of `open_backend`.
        frames: to compare masks on; without them, reduced precision takes no part.
        again: measure, whatever is remembered.
        on_measure: told what is about to be measured.
        options: of `BackendOptions`.

    Raises:
        RtsegError: as `open_backend`, where no candidate can be loaded.
    """
    asked = BackendOptions(**options)
    size = input_size_of(model.spec, input_size)

    def opened(candidate: Candidate) -> Backend:
        how = {**options, "precision": candidate.precision}
        return open_backend(candidate.backend, model, input_size=size, **how)

    def field_of(on_gpu: Collection[str]) -> list[Candidate]:
        field = candidates(model, asked, on_gpu=on_gpu)
        return [one for one in field if one.exact or frames is not None]

    likely = NVIDIA_BACKENDS if asked.family in ("auto", "cuda") and nvidia_driver() else ()
    field = field_of(likely)
    either = [*field, *field_of(())] if likely else field  # which of them, takes seconds to ask
    place = place_of(model, size, asked) if len(either) > 1 else None
    known = recall(place) if place and not again else None
    if known is not None and (backend := _reopened(known, either, opened)) is not None:
        return _noted(backend, asked, f"{in_words(known)}; remembered, measured {known.date}")
    if likely and place:
        field = field_of(reaching_nvidia())
    if not field:
        return open_backend("auto", model, input_size=size, **options)
    if len(field) == 1 or place is None:
        return opened(field[0])
    on_measure(", ".join(map(str, field)))
    compared = frames(size) if frames and not all(one.exact for one in field) else []
    entries = contest(field, opened, compared or [noise(size)], clock)
    winner = entries[0]
    if winner.backend is None:  # what the usual one fails with is what a person should read
        return open_backend("auto", model, input_size=size, **options)
    choice = Choice(
        about=f"{model.spec.name} at {size[0]}x{size[1]}",
        winner=(winner.candidate.backend, winner.candidate.precision),
        rows=tuple(entry.measured() for entry in entries),
        lanes=asked.lanes,
        date=datetime.now(timezone.utc).date().isoformat(),
    )
    kept = "" if remember(place, choice) else ", and not kept: the cache cannot be written"
    return _noted(winner.backend, asked, f"{in_words(choice)}; measured now{kept}")


@cache
def reaching_nvidia() -> tuple[str, ...]:
    """Those of `NVIDIA_BACKENDS` whose library does, here: they are loaded and asked, which takes
    seconds.
    """
    from rtseg.backends.ort import provider_found
    from rtseg.backends.providers import PROVIDERS
    from rtseg.gpu import cuda_missing

    missing = {"torch": cuda_missing(0) != "", "onnx": provider_found(PROVIDERS["cuda"]) != "runs"}
    return tuple(name for name in NVIDIA_BACKENDS if not missing[name])


def in_words(choice: Choice) -> str:
    """Every candidate's milliseconds per frame, agreement or failure, in one line."""
    at_once = f", {choice.lanes} at once" if choice.lanes > 1 else ""
    return f"fastest here: {'; '.join(map(_row_in_words, choice.rows))} (a frame{at_once})"


def _row_in_words(row: Measured) -> str:
    name = f"{row.backend} {row.precision}"
    if row.seconds is None:
        return f"{name} failed: {row.failure}"
    words = f"{name} {row.seconds * 1e3:.1f} ms"
    if row.agreement is None:
        return words
    verdict = "" if row.agreement >= LEAST_AGREEMENT else f", below {LEAST_AGREEMENT:.0%}"
    return f"{words}, masks agree on {row.agreement:.2%}{verdict}"


def _reopened(choice: Choice, field: Sequence[Candidate], opened: OpenCandidate) -> Backend | None:
    """The backend that won before; None where it takes no part, or does not open any more."""
    winner = next((one for one in field if (one.backend, one.precision) == choice.winner), None)
    try:
        return opened(winner) if winner else None
    except Failure:
        return None


def _noted(backend: Backend, asked: BackendOptions, note: str) -> Backend:
    notes = [*backend.info.notes, note]
    idle = asked.family == "auto" and backend.info.device == "cpu" and nvidia_driver()
    if idle and not any(one.startswith(UNUSED) for one in notes):
        notes.append(f"{UNUSED}: rtseg doctor says why; --remeasure when that is mended")
    backend.info = replace(backend.info, notes=tuple(notes))
    return backend
