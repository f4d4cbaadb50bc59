"""The verb `bench`: every combination of what was asked, timed against the others."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from rtseg.backends import BACKENDS, fit_size
from rtseg.bench import Combination, Row, measure
from rtseg.bench.clip import SAMPLES, clip_info, write_portrait
from rtseg.bench.compare import Comparison, compare
from rtseg.bench.machine import is_busy, machine
from rtseg.bench.plot import write_plot
from rtseg.bench.record import Record
from rtseg.bench.tables import render
from rtseg.cli import bench_says as says
from rtseg.cli.bench_flags import BenchFlags
from rtseg.cli.bench_plan import BenchPlan, make_plan
from rtseg.cli.download import DownloadProgress
from rtseg.cli.process import Stop
from rtseg.cli.report import say
from rtseg.contracts import SourceInfo
from rtseg.errors import BackendError, DownloadError, RtsegError, ThresholdError
from rtseg.nets import find_model
from rtseg.nets.weights import is_intact, weights_path
from rtseg.zoo import MODELS, Model

SELDOM = ("stub", "torch-compile")
"""Backends that are measured only when they are named, or nothing else can run a network."""


def bench(flags: BenchFlags, stop: Stop) -> int:
    """Time everything; returns 0, or the code of the signal that ended it.

    Raises:
        RtsegError: the flags make no sense, or nothing could be measured. ThresholdError: a clock
            is slower than in the older record by more than `--threshold`, or none is comparable.
    """
    plan = make_plan(flags)
    with tempfile.TemporaryDirectory(prefix="rtseg-bench-") as folder:
        plan, info = stop.attend(lambda: _with_clip(plan, Path(folder)))
        record = _record(flags, plan, info)
        if is_busy(record.machine) and not flags.figures.quiet:
            say("warning", f"{record.machine['load_average']} programs run beside this one")
        combinations = list(_combinations(flags, plan, info, record, stop))
        with says.Progress(quiet=flags.figures.quiet) as progress:
            failure = measure(combinations, plan.settings, record, on_step=progress, stop=stop)
    found = _show(record, plan, flags)
    if not record.partial:
        _hold_to_what_ran(found)
        _require_any(record, failure)
        _hold_to(found, plan.threshold)
    return stop.exit_code


def _with_clip(plan: BenchPlan, folder: Path) -> tuple[BenchPlan, SourceInfo]:
    """The plan with a clip to read, and what that clip says of itself."""
    clip = plan.settings.clip
    if clip:
        return plan, clip_info(clip)
    path = str(write_portrait(folder))
    named = replace(clip_info(path), name="the portrait of rtseg demo")
    return replace(plan, settings=replace(plan.settings, clip=path)), named


def _record(flags: BenchFlags, plan: BenchPlan, info: SourceInfo) -> Record:
    """An empty record with its stamp."""
    clip = {
        "name": info.name,
        "width": info.width,
        "height": info.height,
        "frame_rate": str(info.frame_rate) if info.frame_rate else None,
        "frame_count": info.frame_count,
    }
    settings: dict[str, Any] = {
        "rounds": plan.settings.rounds,
        "seconds": plan.settings.limit.seconds,
        "frames": plan.settings.limit.passes,
        "threads": flags.networks.threads,
        "view": flags.clocks.view,
        "alpha": flags.clocks.alpha,
        "loop_ends_in": "h264" if flags.clocks.encode else "null",
        "data": flags.figures.data,
        "samples": SAMPLES,
    }
    return Record(machine(), clip, settings)


def _combinations(
    flags: BenchFlags, plan: BenchPlan, info: SourceInfo, record: Record, stop: Stop
) -> Iterator[Combination]:
    """Every one that can be tried; networks that cannot be had get rows that say why."""
    asked = flags.networks
    for name in plan.models:
        try:
            model = stop.attend(lambda: _find(name, flags, stop))  # noqa: B023 - at once
        except DownloadError as error:
            record.rows.append(_missing(name, plan, flags, error))
            continue
        for backend, precision, size in product(
            plan.backends or _usual(model), plan.precisions, dict.fromkeys(plan.sizes)
        ):
            yield Combination(
                model,
                backend,
                precision,
                asked.device,
                size or fit_size(model.spec, info.width, info.height),
                asked_size=size is not None,
                threads=asked.threads,
                strict=asked.strict_device,
            )


def _find(name: str, flags: BenchFlags, stop: Stop) -> Model:
    """The network; with `--weights random`, random ones where its own are not on this machine."""
    progress = DownloadProgress(stop, quiet=flags.figures.quiet)
    weights = flags.networks.weights
    if weights == "random" and _is_here(name):
        weights = None
    return find_model(name, weights=weights, progress=progress)


def _is_here(name: str) -> bool:
    """Whether a network can be had without a download."""
    published = MODELS[name].weights if name in MODELS else None
    return published is None or is_intact(weights_path(published), published)


def _usual(model: Model) -> tuple[str, ...]:
    """What can run a network, when nobody said: everything, but for a file what it is for."""
    if model.format in ("onnx", "none"):
        return ("auto",)
    return tuple(name for name in BACKENDS if name not in SELDOM)


def _missing(name: str, plan: BenchPlan, flags: BenchFlags, error: DownloadError) -> Row:
    """The one row of a network whose weights cannot be had, whatever was to run it."""
    asked = {
        "backend": ",".join(plan.backends) or "auto",
        "precision": ",".join(plan.precisions),
        "device": flags.networks.device,
    }
    return Row(name, asked, plan.sizes[0] or (0, 0), error=str(error))


def _show(record: Record, plan: BenchPlan, flags: BenchFlags) -> Comparison | None:
    """Print the figures and write the files; of a run that was stopped too."""
    says.figures(record, plan.form)
    for path, form in plan.files:
        says.write(path, render(record, form))
        _said(path, flags)
    if plan.plot is not None and any(row.clocks for row in record.rows):
        write_plot(record, plan.plot)
        _said(plan.plot, flags)
    found = None if plan.before is None else compare(record, plan.before)
    if found is not None:
        says.comparison(found, plan.form)
    says.ended(record)
    return found


def _said(path: Path, flags: BenchFlags) -> None:
    if not flags.figures.quiet:
        say("wrote", str(path))


def _require_any(record: Record, failure: RtsegError | None) -> None:
    """Raise when not one combination could be measured: what the first one failed with."""
    if not any(row.clocks for row in record.rows):
        first = next((row.error for row in record.rows if row.error), "")
        kind = BackendError if failure is None else type(failure)
        raise kind("nothing could be measured", found=str(failure or first))


def _hold_to_what_ran(found: Comparison | None) -> None:
    """Raise ThresholdError where something fails that ran before."""
    if found is not None and found.lost:
        raise ThresholdError("what ran before does not run", found="; ".join(found.lost))


def _hold_to(found: Comparison | None, threshold: float) -> None:
    """Raise ThresholdError where something is slower, or nothing could be compared."""
    if found is None:
        return
    if not found.changes:
        raise ThresholdError(
            "nothing is held against the older record",
            found="no row of the two has a partner in the other",
            do="Name the same networks, backends and sizes as then",
        )
    slower = found.slower_than(threshold)
    if slower:
        worst = sorted(slower, key=lambda change: change.share)
        words = ", ".join(
            f"{c.row.model} {c.row.runs_on} {c.row.size} {c.clock} {c.share:+.1%}" for c in worst
        )
        raise ThresholdError(f"slower than before by more than {threshold:.0%}", found=words)
