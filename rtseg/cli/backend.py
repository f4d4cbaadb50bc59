"""The backend of a run: the one that was named, else the one that is fastest here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rtseg.backends import open_backend
from rtseg.backends.adaptive import AdaptiveBackend, open_adaptive
from rtseg.cli.options import Flags
from rtseg.cli.report import say
from rtseg.contracts import Backend, Source
from rtseg.errors import UsageError
from rtseg.session.fastest import open_measured
from rtseg.session.pipeline import keeps_newest
from rtseg.stats import Stats
from rtseg.zoo import Model

Size = tuple[int, int]
"""(height, width) in pixels."""


def open_for_run(
    flags: Flags,
    source: Source,
    model: Model,
    input_size: Size,
    *,
    sources: int = 1,
    **options: Any,
) -> Backend:
    """Load the network as the flags say; at several input sizes if it is to keep a frame rate.

    Args:
        sources: how many share it.
        options: of `BackendOptions`.

    Raises:
        UsageError: a frame rate is to be kept where every frame is.
        RtsegError: as `open_backend`.
    """
    rate = flags.run.target_fps
    check_rate(flags, source)
    first = _open_named_or_fastest(flags, source, model, input_size, options)
    if rate is None:
        return first
    same = {**options, "precision": first.info.precision}

    def opened(size: Size) -> Backend:
        return open_backend(first.info.name, model, input_size=size, **same)

    return open_adaptive(first, opened, rate * sources)


def check_rate(flags: Flags, source: Source) -> None:
    """Raise UsageError if a frame rate is to be kept of a source whose every frame is."""
    rate = flags.run.target_fps
    if rate is not None and not keeps_newest(flags.run.policy, source.info.live):
        raise UsageError(
            f"--target-fps {rate:g} for {source.info.name}",
            found="it is not live: every frame is kept, however long it takes",
            do="Add --live to replay a recording as a camera, or leave it out",
        )


def attend(backend: Backend, stats: Stats, sources: Sequence[Stats] = ()) -> None:
    """Let a backend that follows the speed of a run know its figures, and each source's."""
    if isinstance(backend, AdaptiveBackend):
        backend.attend(stats, sources)


def share(backend: Backend, flags: Flags, sources: int) -> None:
    """Let a backend that keeps a frame rate know that so many sources share it from now on."""
    if isinstance(backend, AdaptiveBackend) and flags.run.target_fps and sources:
        backend.keep(flags.run.target_fps * sources)


def _open_named_or_fastest(
    flags: Flags, source: Source, model: Model, input_size: Size, options: dict[str, Any]
) -> Backend:
    """One picture is not worth a measurement: there the usual backend is taken."""
    name = flags.model.backend
    if name != "auto" or (source.info.frame_count == 1 and not flags.run.remeasure):
        return open_backend(name, model, input_size=input_size, **options)

    def on_measure(candidates: str) -> None:
        if not flags.run.quiet:
            say("auto", f"measuring {candidates}: once for this network and size on this machine")

    return open_measured(
        model,
        input_size=input_size,
        again=flags.run.remeasure,
        on_measure=on_measure,
        **options,
    )
