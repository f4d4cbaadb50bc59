"""`--backend auto`: the backend and precision that run a network fastest on this machine.

What is installed is measured once, at the size and with the lanes of the run, and remembered.
Reduced precision takes part only where the processor gains by it, and wins only if its masks agree
with full precision's on real frames.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import cache
from typing import Any

from rtseg.backends import open_backend
from rtseg.backends.candidates import Candidate, candidates
from rtseg.backends.contest import LEAST_AGREEMENT, Failure, OpenCandidate, contest
from rtseg.backends.devices import UNUSED, nvidia_driver
from rtseg.backends.options import BackendOptions
from rtseg.backends.remembered import Choice, Measured, place_of, recall, remember
from rtseg.backends.side_by_side import Batch
from rtseg.backends.sizes import input_size_of, noise
from rtseg.clock import Clock
from rtseg.contracts import Backend
from rtseg.zoo import Model

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
    from rtseg.backends.ort_session import provider_found
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
