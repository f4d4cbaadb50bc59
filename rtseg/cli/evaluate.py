"""The verb `eval`: open every set and network, measure each on each, say what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from rtseg.cache import safe_name
from rtseg.cli import evaluate_says as says
from rtseg.cli.download import DownloadProgress
from rtseg.cli.evaluate_clips import clip_table, measure_clips
from rtseg.cli.evaluate_flags import EvalFlags, FigureFlags
from rtseg.cli.evaluate_plan import EvalPlan, make_plan, policy_of
from rtseg.cli.metrics import write_json
from rtseg.cli.process import Stop
from rtseg.cli.report import say
from rtseg.errors import ThresholdError, UsageError
from rtseg.evaluate import (
    ClipScore,
    LabelledSet,
    Network,
    Score,
    SetSpec,
    open_set,
    score,
)
from rtseg.evaluate.report import report
from rtseg.evaluate.scoring import class_map
from rtseg.evaluate.suite import NetworkSpec
from rtseg.nets import find_model

Steadied = TypeVar("Steadied", Score, ClipScore)


def evaluate(flags: EvalFlags, stop: Stop) -> int:
    """Measure every network on every set; returns 0, or the code of the signal that ended it.

    Raises:
        RtsegError: whatever failed first; what was measured until then is shown, and said to be
            partial. ThresholdError: a mean IoU is below `--min-miou`.
    """
    plan = make_plan(flags)
    sets = stop.attend(lambda: _sets(plan.sets))
    with ExitStack() as stack:
        networks = stop.attend(lambda: _networks(plan, flags, stop))
        for network in networks:
            stack.enter_context(network)
        _check_classes(sets, networks, flags.figures)
        _check_smooth(sets, plan, flags.figures)
        if not flags.figures.quiet:
            says.begin(sets, networks)
        scores: list[Score] = []
        clips: list[ClipScore] = []
        try:
            _measure(sets, networks, flags.figures, stop, scores)
            measure_clips(networks, flags, stop, clips)
        finally:
            asked = (len(sets) + len(plan.clips)) * len(networks)
            done = sum([one.complete for one in scores] + [one.complete for one in clips])
            whole = done == asked
            _show(with_steadied(scores), with_steadied(clips), flags.figures, whole=whole)
            if not whole:
                says.partial(done, asked)
    if whole:
        _hold_to(flags.figures.min_miou, scores)
    return stop.exit_code


def _sets(specs: Sequence[SetSpec]) -> list[LabelledSet]:
    """All sets, open; what is wrong in any of them is told at once."""
    opened, failures = [], []
    for spec in specs:
        try:
            opened.append(open_set(spec))
        except UsageError as error:
            failures.append(error)
    if len(failures) > 1:
        raise UsageError("; ".join(map(str, failures)))
    if failures:
        raise failures[0]
    counts = Counter(chosen.name for chosen in opened)
    return [
        chosen if counts[chosen.name] == 1 else chosen.named(str(chosen.spec.path))
        for chosen in opened
    ]


def _networks(plan: EvalPlan, flags: EvalFlags, stop: Stop) -> list[Network]:
    """All networks, found but not yet open."""
    asked = flags.networks
    networks = []
    for spec in plan.networks:
        model = find_model(
            spec.model,
            weights=asked.weights,
            input_flags=spec.settings or None,
            progress=DownloadProgress(stop, quiet=flags.figures.quiet),
        )
        networks.append(
            Network(
                _name(spec, plan.networks),
                model,
                policy_of(spec.imgsz or asked.imgsz),
                backend=asked.backend,
                refine=spec.refine or asked.refine,
                device=asked.device,
                precision=plan.precision,
                threads=asked.threads,
                strict=asked.strict_device,
            )
        )
    return networks


def _name(spec: NetworkSpec, among: Sequence[NetworkSpec]) -> str:
    """What a network is called: as short as it can be told from the others."""
    short = [other.name or Path(other.model).stem for other in among]
    own = spec.name or Path(spec.model).stem
    return own if short.count(own) == 1 else spec.name or spec.model


def _check_classes(
    sets: Sequence[LabelledSet], networks: Sequence[Network], flags: FigureFlags
) -> None:
    """Raise before anything runs where a set and a network have no class in common."""
    known: set[str] = set()
    for network in networks:
        for chosen in sets:
            labels = class_map(network, chosen).labels
            known |= set(labels.names)
            for name in chosen.spec.min_share:
                labels.index(name)
    for name in flags.show_class:
        if name not in known:
            raise UsageError(
                f"--show-class {name!r}", found="there are " + ", ".join(sorted(known))
            )


def _check_smooth(sets: Sequence[LabelledSet], plan: EvalPlan, flags: FigureFlags) -> None:
    """Raise before anything runs where nothing follows anything in time."""
    sequences = any(sample.sequence for chosen in sets for sample in chosen.samples)
    if flags.smooth and not sequences and not plan.clips:
        raise UsageError(
            f"--smooth {flags.smooth:g}",
            found="none of the sets has sequences of frames",
            do="Leave it out, or name a video with --clip",
        )


def _measure(
    sets: Sequence[LabelledSet],
    networks: Sequence[Network],
    flags: FigureFlags,
    stop: Stop,
    scores: list[Score],
) -> None:
    """Append the score of each network on each set, the unfinished one too."""
    said: set[str] = set()
    for chosen in sets:
        for network in networks:
            if stop():
                return
            with says.Progress(quiet=flags.quiet) as progress, network:
                done = score(
                    network,
                    chosen,
                    boundary=flags.boundary,
                    worst=flags.worst or 0,
                    worst_class=flags.show_class[0] if flags.show_class else None,
                    smooth=flags.smooth or 0.0,
                    on_picture=progress,
                    stop=stop,
                )
            scores.append(done)
            if not flags.quiet:
                says.measured(done, said)


def with_steadied(scores: Sequence[Steadied]) -> list[Steadied]:
    """Each score, and after it what smoothing over time makes of it, where that was measured."""
    return [one for score in scores for one in (score, score.steadied) if one is not None]


def _show(
    scores: Sequence[Score], clips: Sequence[ClipScore], flags: FigureFlags, *, whole: bool
) -> None:
    """Print the tables and write the files; of a run that ended early too."""
    if flags.json != "-":
        says.tables(scores, flags.show_class)
        clip_table(clips, apart=bool(scores))
    if flags.json is not None and (scores or clips):
        write_json(flags.json, report(scores, clips, complete=whole))
        _said("figures", [flags.json], flags)
    if flags.confusion is not None and scores:
        _said("wrote", _confusions(scores, Path(flags.confusion)), flags)
    if flags.worst_to is not None:
        _said("wrote", _worst(scores, Path(flags.worst_to)), flags)


def _said(heading: str, paths: Sequence[object], flags: FigureFlags) -> None:
    if paths and not flags.quiet:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        say(heading, f"{paths[0]}{more}")


def _confusions(scores: Sequence[Score], path: Path) -> list[Path]:
    from rtseg.evaluate.figure import write_confusion

    paths = [_apart(path, one, scores) for one in scores]
    for one, place in zip(scores, paths, strict=True):
        write_confusion(one, place)
    return paths


def _worst(scores: Sequence[Score], folder: Path) -> list[Path]:
    paths = []
    for one in scores:
        if one.worst is not None:
            place = folder if len(scores) == 1 else folder / _apart(Path("x"), one, scores).name[2:]
            paths += one.worst.write(place)
    return paths


def _apart(path: Path, one: Score, scores: Sequence[Score]) -> Path:
    """`out.png`, or `out-SET-NETWORK.png` where there are several."""
    if len(scores) == 1:
        return path
    name = safe_name(f"{one.set_name}-{one.network}")
    return path.with_name(f"{path.stem}-{name}{path.suffix}")


def _hold_to(least: float | None, scores: Sequence[Score]) -> None:
    """Raise ThresholdError when a mean IoU is below `least`, or there is none."""
    missed = [one for one in scores if least is not None and not one.matrix.mean_iou >= least]
    if missed:
        words = ", ".join(
            f"{one.network} on {one.set_name} {one.matrix.mean_iou:.4f}" for one in missed
        )
        raise ThresholdError(f"mean IoU below --min-miou {least:g}", found=words)
