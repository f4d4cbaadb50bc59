"""The verb `bench`: time every combination of the requested models, backends and sizes."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from rtseg.backends import BACKENDS
from rtseg.backends.base import fit_size
from rtseg.bench.clocks import SAMPLES, clip_info, write_portrait
from rtseg.bench.options import BenchOptions
from rtseg.bench.program import measure, new_row
from rtseg.bench.record import (
    Comparison,
    Record,
    Row,
    compare,
    is_busy,
    machine,
    mismatches,
)
from rtseg.bench.report import changes, markdown, plain, render, write_plot
from rtseg.bench.worker import Combination
from rtseg.cli.options import BenchFlags
from rtseg.cli.process import Stop, out
from rtseg.cli.report import DownloadProgress, Progress, say
from rtseg.contracts import SourceInfo
from rtseg.documents import read_json
from rtseg.errors import BackendError, DownloadError, RtsegError, ThresholdError, UsageError
from rtseg.figures import check_suffix
from rtseg.files import check_file, write_file
from rtseg.nets import default_model, find_model
from rtseg.nets.weights import is_intact, weights_path
from rtseg.outputs import Output, check_apart, read_by
from rtseg.text import counted
from rtseg.zoo import MODELS, Model

FORMAT_OF = {".json": "json", ".csv": "csv", ".md": "md", ".txt": "table"}

T = TypeVar("T")


def bench(flags: BenchFlags, stop: Stop) -> int:
    """Run the benchmark; returns 0, or the exit code of the signal that ended it.

    Raises:
        RtsegError: a flag has a wrong value, or nothing could be measured.
        UsageError: the older record is of another machine or clip.
        ThresholdError: a clock is slower than in the older record by more than `--threshold` and
            than noise, or none can be compared.
    """
    plan = make_plan(flags)
    with tempfile.TemporaryDirectory(prefix="rtseg-bench-") as folder:
        plan, info = stop.attend(lambda: _with_clip(plan, Path(folder)))
        record = _record(flags, plan, info)
        _check_comparable(record, plan.before, flags.report.compare)
        if is_busy(record.machine) and not flags.report.quiet:
            say("warning", f"the machine is busy: load {record.machine['load_average']}")
        combinations = list(_combinations(flags, plan, info, record, stop))
        if not record.rows:  # all models were found
            _check_common(combinations, plan.before)
        with Progress(quiet=flags.report.quiet, first_line=0.0) as progress:
            on_step = partial(progress.update, unit="steps", redraw=True)
            failure = measure(
                combinations, plan.options, record, view=flags.view, on_step=on_step, stop=stop
            )
    found = _show(record, plan, flags)
    if not record.partial:
        _check_lost(found)
        _require_any(record, failure)
        _check_speed(found, flags.report.threshold)
    return stop.exit_code


@dataclass(frozen=True)
class BenchPlan:
    """What to benchmark.

    Attributes:
        options: with the defaults of the lists, and each entry once; the clip is "" if none was
            given.
        files: output files and their formats.
        before: the older record to compare with.
    """

    options: BenchOptions
    files: tuple[tuple[Path, str], ...]
    plot: Path | None
    before: Record | None


def make_plan(flags: BenchFlags) -> BenchPlan:
    """Check that files can be read and written.

    Raises:
        UsageError: an output exists, or the record to compare with or the labelled images cannot
            be read.
    """
    asked, report = flags.options, flags.report
    options = replace(
        asked,
        model=_once(asked.model) or (default_model(),),
        backend=_once(asked.backend),
        precision=_once(asked.precision) or ("auto",),
        imgsz=_once(asked.imgsz) or (None,),
        clocks=("model", "pipeline", *(["worst"] if report.worst_case else []), "loop"),
    )
    paths = map(Path, report.output)
    plan = BenchPlan(
        options=options,
        files=tuple((path, FORMAT_OF.get(path.suffix.lower(), report.format)) for path in paths),
        plot=Path(report.plot) if report.plot else None,
        before=read_record(Path(report.compare)) if report.compare else None,
    )
    _check_files(plan, flags)
    _check_data(options)
    return plan


def _once(entries: tuple[T, ...]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(entries))


def read_record(path: Path) -> Record:
    """Read a record that `rtseg bench -o FILE.json` wrote.

    Raises:
        UsageError: the file does not exist, or is something else.
    """
    do = "Write one with rtseg bench -o FILE.json"
    return Record.from_json(read_json(path, dict, do=do), str(path))


def _check_comparable(now: Record, before: Record | None, name: str | None) -> None:
    """Refuse an older record of another machine or clip, before anything is measured."""
    if before is not None and (found := mismatches(now, before)):
        raise UsageError(
            f"cannot compare with {name}",
            found="; ".join(found),
            do="Compare with a record of this clip that was made on this machine",
        )


def _check_common(combinations: Sequence[Combination], before: Record | None) -> None:
    """Raise ThresholdError if no model and input size is in the older record."""
    if before is None:
        return
    old = _models([row for row in before.rows if row.clocks])
    new = _models([new_row(combination) for combination in combinations])
    if new and not {*old} & {*new}:
        raise _nothing_common(f"it has {', '.join(old) or 'no figures'}, not {', '.join(new)}")


def _models(rows: Sequence[Row]) -> tuple[str, ...]:
    """Each model and input size."""
    return _once(tuple(f"{row.model} {row.size}" for row in rows))


def _nothing_common(found: str) -> ThresholdError:
    return ThresholdError(
        "nothing to compare with the older record",
        found=found,
        do="Use the same models, backends and sizes as before",
    )


def _check_data(options: BenchOptions) -> None:
    """Open the labelled images now: they are measured last, and would fail last."""
    if options.data is not None:
        from rtseg.evaluation.sets import SetSpec, open_set

        open_set(
            SetSpec(
                path=Path(options.data),
                max_pictures=options.max_pictures or 0,
                allow_outside=options.allow_outside,
            )
        )


def _check_files(plan: BenchPlan, flags: BenchFlags) -> None:
    if plan.plot is not None:
        check_suffix(plan.plot)
    outputs = [Output.file(f"-o {path}", path) for path, _ in plan.files]
    outputs += [Output.file(f"--plot {plan.plot}", plan.plot)] if plan.plot else []
    for output in outputs:
        if str(output.path) == "-":
            found = "the figures go there anyway"
            raise UsageError(f"{output.asked} is stdout", found=found, do="Use --format")
        check_file(output.path, flags.report.overwrite)
    read = {
        "--input": plan.options.input,
        "--model": plan.options.model,
        "--weights": flags.network.weights,
        "--data": plan.options.data,
    }
    check_apart(outputs, read_by(read))


def _with_clip(plan: BenchPlan, folder: Path) -> tuple[BenchPlan, SourceInfo]:
    """The plan with a clip to read, and the clip's size, rate and length."""
    clip = plan.options.input
    if clip:
        return plan, clip_info(clip)
    path = str(write_portrait(folder))
    named = replace(clip_info(path), name="the portrait of rtseg demo")
    return replace(plan, options=replace(plan.options, input=path)), named


def _record(flags: BenchFlags, plan: BenchPlan, info: SourceInfo) -> Record:
    """An empty record with facts of machine, clip and settings."""
    clip = {
        "name": info.name,
        "width": info.width,
        "height": info.height,
        "frame_rate": str(info.frame_rate) if info.frame_rate else None,
        "frame_count": info.frame_count,
    }
    settings: dict[str, Any] = {
        "rounds": plan.options.rounds,
        "seconds": plan.options.duration,
        "frames": plan.options.frames,
        "threads": flags.network.threads,
        "view": flags.view.view,
        "alpha": flags.view.alpha,
        "loop_ends_in": "h264" if plan.options.encode else "null",
        "data": plan.options.data,
        "samples": SAMPLES,
    }
    return Record(machine(), clip, settings)


def _combinations(
    flags: BenchFlags, plan: BenchPlan, info: SourceInfo, record: Record, stop: Stop
) -> Iterator[Combination]:
    """Every combination; models that cannot be downloaded get a row with the reason."""
    asked, options = flags.network, plan.options
    found: dict[str, Model] = {}
    for given in options.model:
        try:
            found[given] = stop.attend(lambda: _find(given, flags, stop))  # noqa: B023 - at once
        except DownloadError as error:
            record.rows.append(_missing(given, plan, flags, error))
    own = [model.spec.name for model in found.values()]
    for given, model in found.items():
        name = model.spec.name if own.count(model.spec.name) == 1 else given
        for backend, precision, size in product(
            options.backend or _default_backends(model), options.precision, options.imgsz
        ):
            yield Combination(
                model,
                backend,
                precision,
                asked.device,
                size or fit_size(model.spec, info.width, info.height),
                asked_size=size is not None,
                threads=asked.threads,
                strict_device=asked.strict_device,
                name=name,
            )


def _find(name: str, flags: BenchFlags, stop: Stop) -> Model:
    """The model; with `--weights random`, random weights if its own are not in the cache."""
    progress = DownloadProgress(stop, quiet=flags.report.quiet)
    weights = flags.network.weights
    if weights == "random" and _needs_no_download(name):
        weights = None
    return find_model(name, weights=weights, progress=progress)


def _needs_no_download(name: str) -> bool:
    """Whether a model needs no download."""
    published = MODELS[name].weights if name in MODELS else None
    if published is None:
        return name not in MODELS or MODELS[name].architecture == "stub"
    return is_intact(weights_path(published), published)


def _default_backends(model: Model) -> tuple[str, ...]:
    """Default backends of a model: all of them, or for an ONNX or OpenVINO file "auto"."""
    if model.format in ("onnx", "openvino", "none"):
        return ("auto",)
    return tuple(name for name, kind in BACKENDS.items() if kind.measured_on)


def _missing(name: str, plan: BenchPlan, flags: BenchFlags, error: DownloadError) -> Row:
    """The row of a model whose weights cannot be downloaded."""
    asked = {
        "backend": ",".join(plan.options.backend) or "auto",
        "precision": ",".join(plan.options.precision),
        "device": flags.network.device,
    }
    return Row(name, asked, plan.options.imgsz[0] or (0, 0), error=str(error))


def _show(record: Record, plan: BenchPlan, flags: BenchFlags) -> Comparison | None:
    """Print the figures and write the files, also after an interruption."""
    for path, form in plan.files:  # before stdout, which may be closed
        write_file(path, render(record, form))
        _say_wrote(path, flags)
    if plan.plot is not None and any(row.clocks for row in record.rows):
        write_plot(record, plan.plot)
        _say_wrote(plan.plot, flags)
    print_record(record, flags.report.format)
    found = None if plan.before is None else compare(record, plan.before)
    if found is not None:
        print_comparison(found, flags.report.format)
        warn_of_noise(found, flags.report.threshold)
    report_partial(record)
    return found


def print_record(record: Record, form: str) -> None:
    """Print the record."""
    sys.stdout.write(render(record, form))
    sys.stdout.flush()


def print_comparison(found: Comparison, form: str) -> None:
    """Print the changes: on stdout with a table, on stderr with a machine-readable format."""
    for warning in found.warnings:
        say("warning", warning)
    if not found.changes:
        say("compare", "the two records have no row in common")
        return
    readable = form in ("table", "md")
    drawn = markdown(changes(found)) if form == "md" else plain(changes(found))
    out(f"\n{drawn}", to=sys.stdout if readable else sys.stderr)


def warn_of_noise(found: Comparison, threshold: float) -> None:
    """Warn if the rounds differ too much to find a change of the threshold."""
    if unsure := found.unsure_of(threshold):
        say(
            "warning",
            f"{len(unsure)} of {counted(len(found.changes), 'clock')} too noisy to be sure of "
            f"{threshold:.0%}: use more --rounds, or a machine that is not busy",
        )


def report_partial(record: Record) -> None:
    """Report an interrupted benchmark."""
    if record.partial:
        done = sum(bool(row.clocks) for row in record.rows)
        say(
            "partial",
            f"{done} of {counted(len(record.rows), 'row')} measured before the interruption",
        )


def _say_wrote(path: Path, flags: BenchFlags) -> None:
    if not flags.report.quiet:
        say("wrote", str(path))


def _require_any(record: Record, failure: RtsegError | None) -> None:
    """Raise the first error if no combination could be measured."""
    if not any(row.clocks for row in record.rows):
        first = next((row.error for row in record.rows if row.error), "")
        kind = BackendError if failure is None else type(failure)
        raise kind("nothing could be measured", found=str(failure or first))


def _check_lost(found: Comparison | None) -> None:
    """Raise ThresholdError if something that ran before fails."""
    if found is not None and found.lost:
        raise ThresholdError("combinations that used to run now fail", found="; ".join(found.lost))


def _check_speed(found: Comparison | None, threshold: float) -> None:
    """Raise ThresholdError if something is slower, or nothing can be compared."""
    if found is None:
        return
    if not found.changes:
        raise _nothing_common("the two records have no row in common")
    slower = found.slower_than(threshold)
    if slower:
        worst = sorted(slower, key=lambda change: change.share)
        words = ", ".join(
            f"{c.row.model} {c.row.runs_on} {c.row.size} {c.clock} {c.share:+.1%}" for c in worst
        )
        raise ThresholdError(f"slower than before by more than {threshold:.0%}", found=words)
