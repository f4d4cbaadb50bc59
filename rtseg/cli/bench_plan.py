"""What `rtseg bench` was asked, checked as far as that goes without running anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rtseg.backends import BACKENDS, BackendOptions
from rtseg.bench.clocks import Limit
from rtseg.bench.plot import SUFFIXES as PLOTS
from rtseg.bench.record import Record
from rtseg.bench.rounds import Settings
from rtseg.cli import values
from rtseg.cli.bench_flags import BenchFlags, BenchNetworkFlags, ClockFlags
from rtseg.effects import ViewOptions
from rtseg.errors import UsageError
from rtseg.nets import default_model
from rtseg.sinks.files import check_new, check_parent

FORMAT_OF = {".json": "json", ".csv": "csv", ".md": "md", ".txt": "table"}

Size = tuple[int, int]


@dataclass(frozen=True)
class BenchPlan:
    """A benchmark whose flags make sense.

    Attributes:
        backends: names, "auto" included; empty means all that suit a network.
        sizes: (height, width) of inputs; None follows the clip.
        settings: of the rounds; its clip is "" where none was named.
        form: of stdout.
        files: what is written, and in which form.
        before: the older record to compare with.
        threshold: share of its speed that a clock may lose.
    """

    models: tuple[str, ...]
    backends: tuple[str, ...]
    precisions: tuple[str, ...]
    sizes: tuple[Size | None, ...]
    settings: Settings
    form: str
    files: tuple[tuple[Path, str], ...]
    plot: Path | None
    before: Record | None
    threshold: float


def make_plan(flags: BenchFlags) -> BenchPlan:
    """Check everything that is cheap and certain to fail.

    Raises:
        UsageError: flags that make no sense, an output that exists, no record to compare with, or
            no labelled pictures.
    """
    networks, figures = flags.networks, flags.figures
    form = figures.format or "table"
    plan = BenchPlan(
        models=_listed("--model", networks.model, (default_model(),)),
        backends=_backends(networks.backend),
        precisions=_precisions(networks),
        sizes=tuple(
            values.input_size("--imgsz", text)
            for text in _listed("--imgsz", networks.imgsz, ("auto",))
        ),
        settings=_settings(flags),
        form=form,
        files=tuple((Path(p), FORMAT_OF.get(Path(p).suffix.lower(), form)) for p in figures.output),
        plot=Path(figures.plot) if figures.plot else None,
        before=read_record(Path(figures.compare)) if figures.compare else None,
        threshold=_share("--threshold", figures.threshold),
    )
    _check_files(plan, figures.overwrite)
    _check_data(plan.settings)
    return plan


def read_record(path: Path) -> Record:
    """A record that `rtseg bench -o FILE.json` wrote.

    Raises:
        UsageError: there is no such file, or it is something else.
    """
    try:
        return Record.from_json(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot compare with {path}", found=words, do="Write one with rtseg bench -o FILE.json"
        ) from error


def _listed(flag: str, given: Sequence[str], default: tuple[str, ...]) -> tuple[str, ...]:
    """A comma list or repeated flag, each entry once."""
    found = tuple(dict.fromkeys(values.comma_list(given)))
    if given and not found:
        raise UsageError(f"{flag} {','.join(given)!r} names nothing")
    return found or default


def _backends(given: Sequence[str]) -> tuple[str, ...]:
    names = _listed("--backend", given, ())
    for name in names:
        if name not in ("auto", *BACKENDS):
            known = ", ".join(("auto", *BACKENDS))
            raise UsageError(f"unknown backend {name!r}", found=f"there are {known}")
    return names


def _precisions(flags: BenchNetworkFlags) -> tuple[str, ...]:
    names = _listed("--precision", flags.precision, ("auto",))
    for name in names:  # which are refused here rather than once per combination
        BackendOptions(device=flags.device, precision=name, threads=flags.threads)
    return names


def _settings(flags: BenchFlags) -> Settings:
    clocks, figures = flags.clocks, flags.figures
    values.at_least("--rounds", clocks.rounds, 1)
    values.at_least("--frames", clocks.frames, 1)
    values.at_least("--max-pictures", figures.max_pictures, 1)
    if not 0 < clocks.duration < float("inf"):
        raise UsageError(f"--duration {clocks.duration:g}", found="it is more than 0 seconds")
    if figures.max_pictures is not None and figures.data is None:
        raise UsageError("--max-pictures without --data", do="Name labelled pictures")
    return Settings(
        clip=clocks.input or "",
        clocks=_clocks(clocks),
        rounds=clocks.rounds,
        limit=Limit(clocks.duration, clocks.frames),
        view=ViewOptions(clocks.view, clocks.alpha),
        encoded=clocks.encode,
        data=Path(figures.data) if figures.data else None,
        max_pictures=figures.max_pictures or 0,
    )


def _clocks(flags: ClockFlags) -> tuple[str, ...]:
    return ("model", "pipeline", *(["worst"] if flags.worst_case else []), "loop")


def _share(flag: str, text: str) -> float:
    """`10%` or `0.1` as 0.1."""
    share = values.share(flag, text)
    if not 0 <= share < 1:
        raise UsageError(
            f"{flag} {text!r}", found="it is a share from 0 to 1", do="Give one as 10% or 0.1"
        )
    return share


def _check_data(settings: Settings) -> None:
    """Open the labelled pictures, which are measured last, and so would fail last."""
    if settings.data is not None:
        from rtseg.evaluate import SetSpec, open_set

        open_set(SetSpec(path=settings.data, max_pictures=settings.max_pictures))


def _check_files(plan: BenchPlan, overwrite: bool) -> None:
    if plan.plot is not None and plan.plot.suffix.lower() not in PLOTS:
        raise UsageError(f"cannot draw {plan.plot}", found=f"there are {' '.join(PLOTS)}")
    for path in [*(path for path, _ in plan.files), *([plan.plot] if plan.plot else [])]:
        check_new(path, overwrite)
        check_parent(path)
