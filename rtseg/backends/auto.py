"""`--backend auto`: the backend and precision that run a network fastest on this machine.

The installed backends are measured once, at the input size and with the lanes of the run, and the
result is remembered in the cache. Reduced precision takes part only where the hardware gains by it,
and wins only if its masks agree with full precision's, on frames of the demo and of the run's own
recording. A file in int8 beside the network takes part likewise.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rtseg._version import __version__
from rtseg.backends import open_backend
from rtseg.backends.base import input_size_of, noise
from rtseg.backends.options import BACKENDS, BackendOptions, backend_on, package_versions
from rtseg.cache import CHOSEN, cache_dir, cache_path, make_room, safe_name
from rtseg.contracts import Backend
from rtseg.documents import convert, read_json
from rtseg.errors import RtsegError, UsageError
from rtseg.files import atomic
from rtseg.measure import Agreement, Batch, backend_agreement, time_each
from rtseg.nets import INT8_FORM, find_model
from rtseg.nets.ir import digest_of, precision_in
from rtseg.stats import Clock
from rtseg.system import (
    GPU_UNUSED,
    int8_instructions,
    native_precisions,
    nvidia_driver,
    processor,
    usable_cores,
)
from rtseg.zoo import Model

FORMAT = 2
FOLDER = "auto"
"""Of the cache: one JSON file per choice."""

BUDGET_SECONDS = 1.5
"""For timing all candidates together; each is run twice, however long that takes."""

DROP_FACTOR = 1.4
"""A candidate that takes this many times as long as the fastest is not timed further."""

MIN_AGREEMENT, MIN_WORST, MIN_IOU = 0.99, 0.98, 0.97
"""How far masks of reduced precision must agree with full precision's: shares of pixels over all
frames and in the worst one, and the IoU of every class. Pixels alone say little where a class is
small: 99.9 % of them agreed on a street where the IoU of a class was 0.5."""

MIN_GAIN = 0.05
"""A candidate must be faster by this share than one before it in the list to be preferred: less is
noise, and the first ones are exact and load soonest."""

# what a library may raise when it is broken, beside our own errors
Failure = (RtsegError, ImportError, OSError, RuntimeError)

MOST_COMPARED = 100
"""Names of recordings that a choice remembers."""

INT8_GAINS = frozenset({"AVX-512 VNNI", "AVX-VNNI", "AMX"})
"""Instructions with which OpenVINO gains by int8."""


class Samples(NamedTuple):
    """Real frames to compare masks on.

    Attributes:
        name: what they come from, unique: "the demo", or a recording's state and path.
        frames: gives batches of one at an input's (height, width); none if it cannot be read.
    """

    name: str
    frames: Callable[[tuple[int, int]], Sequence[Batch]]


class Candidate(NamedTuple):
    """A backend, and the precision to run it in.

    Attributes:
        exact: whether its masks are taken as they are; others are compared with an exact one.
    """

    backend: str
    precision: str
    exact: bool = True

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"


@dataclass(frozen=True)
class Result:
    """How one candidate did.

    Attributes:
        seconds: per frame; None if it was not timed, and then `failure` says why.
        agreement: share (0..1) of pixels that agree with the exact one; None if not compared.
        worst: the same, of the worst frame.
        iou: the smallest IoU of a class.
    """

    backend: str
    precision: str
    seconds: float | None
    agreement: float | None = None
    failure: str = ""
    worst: float | None = None
    iou: float | None = None


@dataclass(frozen=True)
class Choice:
    """The outcome of a measurement.

    Attributes:
        about: network and input size, for people.
        winner: backend and precision.
        rows: all candidates: the winner first, then the others, fastest first.
        lanes: how many frames were worked on at once.
        date: of the measurement, as 2026-11-21.
        compared: number of frames that masks were compared on, by the name of their `Samples`.
        random: whether masks were not compared because the weights are random.
    """

    about: str
    winner: tuple[str, str]
    rows: tuple[Result, ...]
    lanes: int
    date: str
    compared: dict[str, int] = field(default_factory=dict)
    random: bool = False

    def __str__(self) -> str:
        at_once = f", {self.lanes} at once" if self.lanes > 1 else ""
        text = f"fastest here: {'; '.join(map(_describe, self.rows))} (per frame{at_once})"
        if self.random:
            return f"{text}; masks not compared: random weights"
        names = [Path(name).name for name in self.compared]
        names[3:] = [f"{len(names) - 3} more"] if len(names) > 3 else []
        count = sum(self.compared.values())
        return f"{text}; masks compared on {count} frames of {', '.join(names)}" if names else text


def open_fastest(
    model: Model,
    *,
    input_size: tuple[int, int] | None = None,
    samples: Sequence[Samples] = (),
    remeasure: bool = False,
    one_size: bool = True,
    on_measure: Callable[[str], None] = lambda candidates: None,
    clock: Clock | None = None,
    **options: Any,
) -> Backend:
    """Load a network in the backend that runs it fastest here.

    The backend's `info.notes` say what was measured, and when.

    Args:
        input_size: (height, width) of the network's input; None is the size it was made for.
        samples: to compare masks on; without them, what is not exact takes no part. Random
            weights are not compared: small differences change most of their masks. A remembered
            choice of reduced precision is compared on samples that are new to it.
        remeasure: ignore a remembered choice.
        one_size: whether the input keeps this size; else a file in int8 takes no part.
        on_measure: called with the candidates before they are measured.
        options: of `BackendOptions`.

    Raises:
        RtsegError: as `open_backend`, if no candidate can be loaded.
    """
    how = BackendOptions(**options)
    size = input_size_of(model.spec, input_size)

    quantised = int8_beside(model, size) if samples and one_size else None

    def load(candidate: Candidate) -> Backend:
        changed = {**options, "precision": candidate.precision}
        reduced = candidate.precision == "int8" and not candidate.exact
        if quantised is None or not reduced:
            return open_backend(candidate.backend, model, input_size=size, **changed)
        backend = open_backend(candidate.backend, quantised, input_size=size, **changed)
        # frames of other shapes go to the model, which may take other sizes
        backend.spec = replace(backend.spec, input=model.spec.input)
        return backend

    def find(on_gpu: Collection[str]) -> list[Candidate]:
        found = candidates(model, how, on_gpu=on_gpu, int8=quantised is not None)
        return [one for one in found if one.exact or samples]

    gpu = how.family in ("auto", "cuda") and nvidia_driver()
    field = find(_measured_on("cuda") if gpu else ())
    # whether a library can use the GPU takes seconds to find out: a remembered choice needs neither
    either = [*field, *find(())] if gpu else field
    path = choice_path(model, size, how, quantised) if len(either) > 1 else None
    choice = load_choice(path) if path and not remeasure else None
    if choice is not None and (found := _reopen(choice, either, load, samples, size)) is not None:
        backend, compared = found
        if path and compared != choice.compared:
            choice = replace(choice, compared=compared)
            save_choice(path, choice)
        return _with_note(backend, how, f"{choice}; remembered, measured {choice.date}")
    if gpu and path:
        field = find(backends_on_nvidia())
    if not field:
        return open_backend("auto", model, input_size=size, **options)
    if len(field) == 1 or path is None:
        return load(field[0])
    on_measure(", ".join(map(str, field)))
    is_random = model.format == "random"
    taken = {} if is_random or all(one.exact for one in field) else _taken(samples, size)
    frames = [batch for batches in taken.values() for batch in batches]
    trials = measure_candidates(field, load, frames or [noise(size)], clock, gate=not is_random)
    winner = trials[0]
    if winner.backend is None:
        why = winner.failure
        if model.format in BACKENDS["torch"].formats:  # it alone needs no cache
            with suppress(*Failure):
                backend = open_backend("torch", model, input_size=size, **options)
                return _with_note(backend, how, why)
        # the error of the usual backend is the one to read
        return open_backend("auto", model, input_size=size, **options)
    choice = Choice(
        about=f"{model.spec.name} at {size[0]}x{size[1]}",
        winner=(winner.candidate.backend, winner.candidate.precision),
        rows=tuple(trial.result() for trial in trials),
        lanes=how.lanes,
        date=datetime.now(timezone.utc).date().isoformat(),
        compared={name: len(batches) for name, batches in taken.items()},
        random=is_random and not all(one.exact for one in field),
    )
    unsaved = "" if save_choice(path, choice) else "; not remembered, the cache cannot be written"
    return _with_note(winner.backend, how, f"{choice}; measured now{unsaved}")


def _reopen(
    choice: Choice,
    field: Sequence[Candidate],
    load: Callable[[Candidate], Backend],
    samples: Sequence[Samples],
    size: tuple[int, int],
) -> tuple[Backend, dict[str, int]] | None:
    """The backend of a remembered choice, and what it is compared on by now.

    None if it is not a candidate, no longer loads, or fails the comparison on new samples.
    """
    winner = next((one for one in field if (one.backend, one.precision) == choice.winner), None)
    try:
        backend = load(winner) if winner else None
    except Failure:
        return None
    if winner is None or backend is None:
        return None
    if winner.exact or choice.random:
        return backend, choice.compared
    try:
        new = _taken([one for one in samples if one.name not in choice.compared], size)
        if not new:
            return backend, choice.compared
        frames = [batch for batches in new.values() for batch in batches]
        with closing(load(next(one for one in field if one.exact))) as reference:
            agreement = backend_agreement(backend, reference, frames)
    except Failure:
        agreement = None
    if agreement is None or _too_low(agreement.mean, agreement.worst, agreement.worst_iou):
        backend.close()
        return None
    kept = dict(list(choice.compared.items())[:MOST_COMPARED])
    return backend, kept | {name: len(batches) for name, batches in new.items()}


def _taken(samples: Sequence[Samples], size: tuple[int, int]) -> dict[str, Sequence[Batch]]:
    """The frames of all samples that give any."""
    return {one.name: frames for one in samples if (frames := one.frames(size))}


def int8_beside(model: Model, size: tuple[int, int]) -> Model | None:
    """The network in int8 that stands beside a file in full precision, as NAME-int8.onnx.

    None if there is none, if its classes or input size are others, or if the processor does not
    gain by int8.
    """
    if model.file is None or not INT8_GAINS & set(int8_instructions() or ()):
        return None
    path = model.file.with_name(f"{model.file.stem}{INT8_FORM}.onnx")
    try:
        found = find_model(path) if path.is_file() else None
        if found is None or found.spec.labels != model.spec.labels:
            return None
        input_size_of(found.spec, size)
    except (RtsegError, OSError):
        return None
    return found


def _with_note(backend: Backend, options: BackendOptions, note: str) -> Backend:
    notes = [*backend.info.notes, note]
    idle = options.family == "auto" and backend.info.device == "cpu" and nvidia_driver()
    if idle and not any(one.startswith(GPU_UNUSED) for one in notes):
        notes.append(f"{GPU_UNUSED}: rtseg doctor shows why; --remeasure once that is fixed")
    backend.info = replace(backend.info, notes=tuple(notes))
    return backend


def _describe(row: Result) -> str:
    name = f"{row.backend} {row.precision}"
    if row.seconds is None:
        return f"{name} failed: {row.failure}"
    words = f"{name} {row.seconds * 1e3:.1f} ms"
    if row.agreement is None or row.worst is None or row.iou is None:
        return words
    verdict = _too_low(row.agreement, row.worst, row.iou)
    words += f", masks agree on {row.agreement:.2%}"
    return f"{words} ({verdict})" if verdict else words


def _too_low(agreement: float, worst: float, iou: float) -> str:
    """What keeps masks from agreeing: "IoU of a class 0.50, below 0.97"; "" if they agree."""
    if agreement < MIN_AGREEMENT:
        return f"below {MIN_AGREEMENT:.0%}"
    if worst < MIN_WORST:
        return f"worst frame {worst:.2%}, below {MIN_WORST:.0%}"
    return f"IoU of a class {iou:.2f}, below {MIN_IOU}" if iou < MIN_IOU else ""


# --- candidates ----------------------------------------------------------------------------------


def candidates(
    model: Model,
    options: BackendOptions,
    *,
    installed: Callable[[str], bool] = lambda name: BACKENDS[name].installed,
    native: frozenset[str] | None = None,
    on_gpu: Collection[str] = (),
    int8: bool = False,
) -> list[Candidate]:
    """What is worth measuring; at equal speed, the first ones are preferred.

    Empty if a GPU was requested that no library can use. A requested precision counts as exact. An
    ONNX file has its own precision; OpenVINO may compute it in a lower one. Of foreign files, ONNX
    Runtime is exact where both are.

    Args:
        installed: whether a backend's library is installed.
        native: precisions that the processor computes in; None finds out.
        on_gpu: backends that can use an NVIDIA GPU; if there are any, the others are left out.
        int8: whether the network is there in int8 too.

    Raises:
        ModelError: the network's file cannot be read.
    """
    if model.format == "none":
        return [Candidate("stub", options.precision)]
    if options.family not in ("auto", "cpu", "cuda"):
        return [Candidate(backend_on(options.family, model.format), options.precision)]

    def usable(device: str) -> list[str]:
        found = [name for name in _measured_on(device) if installed(name)]
        return [name for name in found if model.format in BACKENDS[name].formats]

    on_gpu = [name for name in usable("cuda") if name in on_gpu]
    device = "cuda" if on_gpu and options.family != "cpu" else "cpu"
    if options.family == "cuda" and device == "cpu":
        return []
    names = on_gpu if device == "cuda" else usable("cpu")
    if options.precision != "auto":
        return [Candidate(name, options.precision) for name in names]
    full = (
        precision_in(model.file) if model.format in ("onnx", "openvino") and model.file else "fp32"
    )
    slow = {name for name in names if device in BACKENDS[name].slow_on}
    exact = [Candidate(name, full) for name in names if name not in slow or name == names[0]]
    if model.spec.architecture == "onnx" and any(one.backend == "onnx" for one in exact):
        # OpenVINO computes some operators of foreign files otherwise, such as Resize with antialias
        exact = [one._replace(exact=one.backend != "openvino") for one in exact]
    if full != "fp32":
        return exact
    fast = {"fp16"} if device == "cuda" else native_precisions() if native is None else native
    reduced = {name: BACKENDS[name].measured_on[device] for name in names}
    if model.format == "onnx":
        reduced["onnx"] = ()  # ONNX Runtime runs a file as it is
    if any(reduced[name] for name in names if name not in slow):
        reduced |= dict.fromkeys(slow, ())
    found = [(name, one) for name in names for one in reduced[name] if one in fast]
    if int8 and "openvino" in names:  # ONNX Runtime was no faster with int8
        found.append(("openvino", "int8"))
    return exact + [Candidate(*each, exact=False) for each in found]


@cache
def backends_on_nvidia() -> tuple[str, ...]:
    """Backends whose library can use an NVIDIA GPU here; loading the libraries takes seconds."""
    from rtseg.backends.ort import provider_status
    from rtseg.backends.providers import PROVIDERS
    from rtseg.gpu import cuda_missing

    runs = {"torch": cuda_missing(0) == "", "onnx": provider_status(PROVIDERS["cuda"]) == "runs"}
    return tuple(name for name in _measured_on("cuda") if runs.get(name))


def _measured_on(device: str) -> list[str]:
    """Backends that are measured on a device, the usually faster ones first."""
    names = [name for name, kind in BACKENDS.items() if device in kind.measured_on]
    return sorted(names, key=lambda name: device in BACKENDS[name].slow_on)


# --- measurement ---------------------------------------------------------------------------------


@dataclass
class Trial:
    """A candidate being measured; `backend` is None once it is out."""

    candidate: Candidate
    backend: Backend | None = None
    precision: str = ""
    seconds: float | None = None
    agreement: Agreement | None = None
    failure: str = ""

    def fail(self, failure: Exception | str) -> None:
        """Close it, and note why."""
        if isinstance(failure, RtsegError):
            failure = f"{failure.asked}: {failure.found}" if failure.found else failure.asked
        self.failure = str(failure).partition("\n")[0]
        self.close()

    def close(self) -> None:
        """Free what it holds."""
        if self.backend is not None:
            self.backend.close()
            self.backend = None

    def result(self) -> Result:
        """What is remembered of it."""
        seconds = None if self.failure else self.seconds
        precision = self.precision or self.candidate.precision
        found = self.agreement
        masks = (None, None, None) if found is None else (found.mean, found.worst, found.worst_iou)
        agreement, worst, iou = masks
        name = self.candidate.backend
        return Result(name, precision, seconds, agreement, self.failure, worst, iou)


def measure_candidates(
    field: Sequence[Candidate],
    load: Callable[[Candidate], Backend],
    frames: Sequence[Batch],
    clock: Clock | None = None,
    *,
    gate: bool = True,
) -> list[Trial]:
    """Load all candidates, time them, and keep the winner.

    Args:
        field: those to prefer first.
        load: loads one; a failure costs that candidate its place and nothing else.
        frames: at least one, to time on and to compare masks on.
        gate: whether masks of reduced precision must agree with an exact one's.

    Returns:
        The winner, which alone stays open; then the others, fastest first. If none is left, the
        first has no backend.
    """
    own = {candidate.precision for candidate in field if candidate.exact}
    trials = [_load(candidate, load, own) for candidate in field]
    try:
        _time(trials, frames[0], clock)
        winner = _pick(trials, frames, gate)
    except BaseException:
        for trial in trials:
            trial.close()
        raise
    for trial in trials:
        if trial is not winner:
            trial.close()
    return sorted(trials, key=lambda trial: (trial is not winner, trial.seconds or math.inf))


def _load(
    candidate: Candidate, load: Callable[[Candidate], Backend], own: Collection[str]
) -> Trial:
    """One to measure, unless it asks for less than the network's `own` precision and gets another.

    A file's own precision is what OpenVINO makes of it, such as bf16 of fp16.
    """
    trial = Trial(candidate)
    try:
        trial.backend = load(candidate)
    except Failure as error:
        trial.fail(error)
        return trial
    trial.precision = trial.backend.info.precision
    if candidate.precision not in own and trial.precision != candidate.precision:
        runs, trial.precision = trial.precision, candidate.precision
        trial.fail(f"{runs} runs instead")
    return trial


def _time(trials: Sequence[Trial], batch: Batch, clock: Clock | None) -> None:
    backends = {index: trial.backend for index, trial in enumerate(trials) if trial.backend}
    times, failures = time_each(
        backends, batch, seconds=BUDGET_SECONDS, drop_factor=DROP_FACTOR, clock=clock
    )
    for index, seconds in times.items():
        trials[index].seconds = seconds
    for index, error in failures.items():
        trials[index].fail(error)


def _pick(trials: Sequence[Trial], frames: Sequence[Batch], gate: bool) -> Trial | None:
    """The fastest that is exact or, if there is a `gate`, whose masks agree with an exact one's."""
    exact = [one for one in trials if one.candidate.exact]
    reference = next((one.backend for one in exact if one.backend), None)
    own = {one.candidate.precision for one in exact}
    for trial in _ranked(trials):
        assert trial.backend is not None
        if trial.candidate.exact or not gate:
            return trial
        if reference is None and trial.candidate.precision in own:
            return trial  # nothing else runs it
        if reference is None:
            continue
        try:
            found = trial.agreement = backend_agreement(trial.backend, reference, frames)
        except RtsegError as error:
            trial.fail(error)
            continue
        if not _too_low(found.mean, found.worst, found.worst_iou):
            return trial
    return None


def _ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Fastest first; of those that differ by noise only, the preferred one."""
    left = [(trial.seconds, trial) for trial in trials if trial.backend and trial.seconds]
    ranked = []
    while left:
        limit = min(seconds for seconds, _ in left) / (1 - MIN_GAIN)
        first = next(one for one in left if one[0] <= limit)
        ranked.append(first[1])
        left.remove(first)
    return ranked


# --- memory --------------------------------------------------------------------------------------


def choice_path(
    model: Model, size: tuple[int, int], options: BackendOptions, int8: Model | None = None
) -> Path:
    """The file that remembers the choice for a network, size, options, machine and versions.

    Args:
        int8: the network in int8, if there is one beside it.

    Raises:
        OSError: the network's file cannot be read.
    """
    facts = {
        "rtseg": __version__,
        "machine": machine_facts(),
        "versions": package_versions(),
        "network": [model.spec.to_json(), digest_of(model.file) if model.file else model.format],
        "size": size,
        "options": asdict(options),
        "int8": digest_of(int8.file) if int8 is not None and int8.file else "",
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return cache_path(FOLDER, f"{safe_name(model.spec.name)}-{size[0]}x{size[1]}-{digest}.json")


def machine_facts() -> Mapping[str, Any]:
    """The processor, the cores that may be used, and the GPU's driver."""
    gpu = Path("/proc/driver/nvidia/version")
    return {
        "cpu": processor(),
        "cores": usable_cores(),
        "gpu": gpu.read_text("utf-8") if gpu.is_file() else "",
    }


def load_choice(path: Path) -> Choice | None:
    """The choice in a file; None if it is missing or not valid."""
    if not path.is_file():
        return None
    try:
        saved = read_json(path, dict)
        if saved.pop("rtseg_auto", None) != FORMAT:
            return None
        return convert(saved, Choice, str(path))
    except UsageError:
        return None


def save_choice(path: Path, choice: Choice) -> bool:
    """Write a choice to its file; False if the cache cannot be written."""
    try:
        with atomic(path) as temporary:
            text = json.dumps({"rtseg_auto": FORMAT, **asdict(choice)}, indent=1)
            temporary.write_text(text, "utf-8")
    except OSError:
        return False
    make_room(path.parent, CHOSEN)
    return True


def saved_choices() -> Iterator[Choice]:
    """All remembered choices, by network name."""
    choices = (load_choice(path) for path in sorted((cache_dir() / FOLDER).glob("*.json")))
    return (choice for choice in choices if choice is not None)
