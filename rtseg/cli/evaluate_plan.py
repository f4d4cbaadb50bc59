"""What `rtseg eval` was asked, checked as far as that goes without opening anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rtseg.cli import values
from rtseg.cli.evaluate_flags import EvalFlags, FigureFlags, NetworkFlags, SetFlags
from rtseg.cli.network import input_flags_of, precision_of
from rtseg.errors import UsageError
from rtseg.evaluate import InputPolicy, SetSpec
from rtseg.evaluate.figure import SUFFIXES
from rtseg.evaluate.suite import NetworkSpec, Suite, read_suite
from rtseg.nets import default_model
from rtseg.sinks.files import check_new, check_parent
from rtseg.temporal import TemporalOptions

OTHER_SIZES = ("auto", "exact", "long:N")
_ONLY_DATA = ("format", "split", "classes", "min_share", "names")


@dataclass(frozen=True)
class EvalPlan:
    """A measurement whose flags make sense: every network meets every set and every clip."""

    sets: tuple[SetSpec, ...]
    clips: tuple[str, ...]
    networks: tuple[NetworkSpec, ...]
    precision: str


def make_plan(flags: EvalFlags) -> EvalPlan:
    """Check everything that is cheap and certain to fail.

    Raises:
        UsageError: flags that make no sense, or an output that exists.
    """
    _check_figures(flags.figures)
    suite = Suite((), ())
    if flags.sets.suite is not None:
        suite = read_suite(
            Path(flags.sets.suite), Path(flags.sets.root) if flags.sets.root else None
        )
    elif flags.sets.root is not None:
        raise UsageError("--root without --suite", do="Name the suite whose paths it is for")
    values.at_least("--max-pictures", flags.sets.max_pictures, 1)
    sets = (*suite.sets, *_sets(flags.sets))
    if flags.sets.max_pictures is not None:
        sets = tuple(replace(spec, max_pictures=flags.sets.max_pictures) for spec in sets)
    if not sets and not flags.sets.clip:
        raise UsageError(
            "nothing to measure on",
            do="Name labelled pictures: rtseg eval --data DIR, or a video with --clip",
        )
    values.at_least("--max-frames", flags.sets.max_frames, 2)
    if flags.sets.max_frames is not None and not flags.sets.clip:
        raise UsageError("--max-frames without --clip", do="For pictures, take --max-pictures")
    TemporalOptions(smooth=flags.figures.smooth or 0.0)
    policy_of(flags.networks.imgsz)
    return EvalPlan(
        sets, flags.sets.clip, _networks(flags.networks, suite), precision_of(flags.networks)
    )


def policy_of(imgsz: str | None) -> InputPolicy:
    """`--imgsz` as a policy.

    Raises:
        UsageError: it cannot be read.
    """
    text = imgsz or "auto"
    if text in ("auto", "exact"):
        return InputPolicy("exact" if text == "exact" else "auto")
    if text.startswith("long:"):
        size = values.input_size("--imgsz", text.removeprefix("long:"))
        if size is None or size[0] != size[1]:
            raise UsageError(f"--imgsz {text!r} cannot be read", do="Give long:N, as long:320")
        return InputPolicy("long", side=size[0])
    return InputPolicy("fixed", size=values.input_size("--imgsz", text, others=OTHER_SIZES))


def _sets(flags: SetFlags) -> list[SetSpec]:
    given = [name for name in _ONLY_DATA if getattr(flags, name) not in (None, (), "auto")]
    if given and not flags.data:
        flag = "--" + given[0].replace("_", "-")
        raise UsageError(f"{flag} without --data", do="Write it into the suite's [[set]]")
    return [
        SetSpec(
            path=Path(path),
            format=flags.format,
            split=flags.split or "",
            classes=flags.classes,
            min_share=_shares(flags.min_share),
            names=Path(flags.names) if flags.names else None,
        )
        for path in flags.data
    ]


def _shares(entries: Sequence[str]) -> Mapping[str, float]:
    """`("person=0.05",)` as {"person": 0.05}."""
    found = {}
    for entry in entries:
        name, equals, text = entry.rpartition("=")
        share = values.number("--min-share", text) if equals and name else None
        if share is None or not 0 <= share <= 1:
            raise UsageError(
                f"--min-share {entry!r} cannot be read",
                do="Give a class and a share from 0 to 1, as person=0.05",
            )
        found[name.strip()] = share
    return found


def _networks(flags: NetworkFlags, suite: Suite) -> tuple[NetworkSpec, ...]:
    given = input_flags_of(flags)
    if flags.align_corners is not None:
        given["align_corners"] = flags.align_corners
    models = flags.model or (() if suite.networks else (default_model(),))
    if len(models) != 1 and (given or flags.weights):
        flag = "--weights" if flags.weights else "--" + next(iter(given)).replace("_", "-")
        raise UsageError(
            f"{flag} with {len(models)} networks of -m",
            do="Give one, or describe each in a TOML file beside it",
        )
    return (*suite.networks, *(NetworkSpec(model, settings=given) for model in models))


def _check_figures(flags: FigureFlags) -> None:
    least = flags.min_miou
    if least is not None and not 0 <= least <= 1:
        hint = f"Did you mean {least / 100:g}?" if 1 < least <= 100 else ""
        raise UsageError(f"--min-miou {least:g}", found="it is a share from 0 to 1", do=hint)
    values.at_least("--worst", flags.worst, 1)
    if (flags.worst is None) != (flags.worst_to is None):
        raise UsageError("--worst and --worst-to go together", do="Give both: how many, and where")
    if flags.confusion and Path(flags.confusion).suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"cannot write a figure to {flags.confusion}",
            found=f"figures end in {' '.join(SUFFIXES)}",
        )
    for text in (flags.json, flags.confusion):
        if text not in (None, "-"):
            check_new(Path(text), flags.overwrite)
            check_parent(Path(text))
    folder = Path(flags.worst_to) if flags.worst_to else None
    if folder is not None and folder.exists():
        if not folder.is_dir():
            raise UsageError(f"--worst-to {folder}", found="it is no folder")
        if any(folder.iterdir()) and not flags.overwrite:
            raise UsageError(f"--worst-to {folder}", found="it is not empty", do="Pass -y to add")
