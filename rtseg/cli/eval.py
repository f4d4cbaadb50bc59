"""The verb `eval`: open every set and network, measure each on each, say what came of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from rtseg.cache import safe_name
from rtseg.cli import options as values
from rtseg.cli.evaluate_flags import EvalFlags, FigureFlags, NetworkFlags, SetFlags
from rtseg.cli.options import input_flags_of, precision_of
from rtseg.cli.process import Stop
from rtseg.cli.report import (
    DownloadProgress,
    Progress,
    counted,
    describe_backend,
    length,
    print_table,
    say,
    write_json,
)
from rtseg.errors import ThresholdError, UsageError
from rtseg.evaluate import (
    ClipScore,
    InputPolicy,
    LabelledSet,
    Network,
    Score,
    SetSpec,
    open_set,
    score,
    score_clip,
)
from rtseg.evaluate.networks import in_words
from rtseg.evaluate.report import class_rows, report, write_confusion
from rtseg.evaluate.scoring import class_map
from rtseg.evaluate.sets import NetworkSpec, Suite, read_suite
from rtseg.figures import check_suffix
from rtseg.files import check_new, check_parent
from rtseg.nets import default_model, find_model
from rtseg.temporal import TemporalOptions
from rtseg.text import listed

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
    if flags.confusion:
        check_suffix(Path(flags.confusion))
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


FEW_CLASSES = 4
"""So many classes have columns of the table without being asked for."""


def on_picture(progress: Progress, score: Score) -> None:
    """Show how far the measurement of one network on one set is."""
    if progress.due:
        text = f"{_which(score)}, mIoU {figure(score.matrix.mean_iou)}"
        progress.update(score.pictures, score.chosen, text)


def on_frame(progress: Progress, score: ClipScore) -> None:
    """Show how far the measurement of one network on one clip is."""
    progress.update(score.frames, score.of or 0, f"{score.network} on {score.clip}")


def begin(sets: Sequence[LabelledSet], networks: Sequence[Network]) -> None:
    """What will be measured."""
    for chosen in sets:
        say("set", chosen.describe())
        for note in chosen.dataset.notes:
            say("note", note)
    for network in networks:
        say("network", f"{network.name}, {len(network.model.spec.labels)} classes")
        say("input", network.policy.describe(network.model.spec))
        for note in network.model.notes:
            say("note", note)


def measured(score: Score, said: set[str]) -> None:
    """How one score came about; lines in `said` are not said again."""
    say("done", f"{_which(score)}: {_pictures(score)} in {length(score.seconds)}")
    lines = [("classes", line) for line in score.mapping]
    if len(score.inputs) > 1:
        lines.append(("input", f"{in_words(score.inputs)} (HxW)"))
    if score.info is not None:
        lines.append(("runs on", describe_backend(score.info)))
        lines += [("note", note) for note in score.info.notes]
    for heading, line in lines:
        if line not in said:
            say(heading, line)
    said.update(line for _, line in lines)


def say_incomplete(done: int, asked: int) -> None:
    """Report that the run ended before everything was measured."""
    say("partial", f"{done} of {counted(asked, 'measurement')} finished; the rest is missing")


def tables(scores: Sequence[Score], show: Sequence[str]) -> None:
    """The figures of every network on every set; with a single one, those of its classes too."""
    if not scores:
        return
    shown = list(show) or _few(scores)
    extra = ["boundary F"] * any(s.boundary is not None for s in scores)
    extra += ["flicker"] * any(s.flicker.counted for s in scores)
    heads = ["set", "network", "pictures", *(f"IoU {name}" for name in shown)]
    heads += ["mIoU", "mean acc", "pixel acc", "fw IoU", *extra]
    print_table(heads, (_row(s, shown, extra) for s in scores), right=range(2, len(heads)))
    if len(scores) == 1:
        print()
        class_table(scores[0])


def class_table(score: Score) -> None:
    """One line per class."""
    keys = ["iou", "accuracy", "share", *(["boundary_f"] if score.boundary else [])]
    heads = ("class", "IoU", "accuracy", "share of truth", "boundary F")[: len(keys) + 1]
    rows = [(row["name"], *(figure(row[key]) for key in keys)) for row in class_rows(score)]
    print_table(heads, rows, right=range(1, len(heads)))


def _few(scores: Sequence[Score]) -> list[str]:
    names = dict.fromkeys(name for score in scores for name in score.labels.names)
    return list(names) if len(names) <= FEW_CLASSES else []


def _row(score: Score, shown: Sequence[str], extra: Sequence[str]) -> list[str]:
    matrix = score.matrix
    ious = dict(zip(score.labels.names, matrix.class_iou, strict=True))
    more = {
        "boundary F": score.boundary.mean_score if score.boundary else None,
        "flicker": score.flicker.share,
    }
    partly = "" if score.complete else f" of {score.chosen}"
    figures = [matrix.mean_iou, matrix.mean_accuracy, matrix.pixel_accuracy]
    figures += [matrix.frequency_weighted_iou]
    return [
        score.set_name,
        score.network,
        f"{score.pictures}{partly}",
        *(figure(ious.get(name)) for name in shown),
        *map(figure, figures),
        *(figure(more[name], 4) for name in extra),
    ]


def figure(value: float | None, digits: int = 3) -> str:
    """A share as text; "-" where nothing was measured."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _which(score: Score) -> str:
    return f"{score.network} on {score.set_name}"


def _pictures(score: Score) -> str:
    if not score.complete:
        return f"{score.pictures} of {counted(score.chosen, 'picture')}, stopped"
    of = f" of {score.of}" if score.chosen != score.of else ""
    return f"{score.pictures}{of} pictures" if of else counted(score.pictures, "picture")


def measure_clips(
    networks: Sequence[Network], flags: EvalFlags, stop: Stop, clips: list[ClipScore]
) -> None:
    """Append the flicker of each network on each clip, the unfinished one too."""
    said: set[str] = set()
    for target in flags.sets.clip:
        for network in networks:
            if stop():
                return
            with Progress(quiet=flags.figures.quiet, unit="frames") as progress, network:
                done = score_clip(
                    network,
                    target,
                    smooth=flags.figures.smooth or 0.0,
                    max_frames=flags.sets.max_frames,
                    on_frame=partial(on_frame, progress),
                    stop=stop,
                )
            clips.append(done)
            if not flags.figures.quiet:
                clip_measured(done, said)


def clip_measured(score: ClipScore, said: set[str]) -> None:
    """How one clip's score came about; lines in `said` are not said again."""
    stopped = "" if score.complete else ", stopped"
    frames = f"{counted(score.frames, 'frame')} in {length(score.seconds)}"
    say("done", f"{score.network} on {score.clip}: {frames}{stopped}")
    if score.info is None:
        return
    for line in (describe_backend(score.info), *score.info.notes):
        if line not in said:
            say("runs on" if line == describe_backend(score.info) else "note", line)
    said.update((describe_backend(score.info), *score.info.notes))


def clip_table(scores: Sequence[ClipScore], *, apart: bool) -> None:
    """The flicker of every network on every clip; `apart` from a table above."""
    if not scores:
        return
    if apart:
        print()
    rows = (
        [one.clip, one.network, str(one.frames), figure(100 * one.flicker.share, 3)]
        for one in scores
    )
    print_table(["clip", "network", "frames", "flicker %"], rows, right=(2, 3))


Steadied = TypeVar("Steadied", Score, ClipScore)


def evaluate(flags: EvalFlags, stop: Stop) -> int:
    """Measure every network on every set; returns 0, or the code of the signal that ended it.

    Raises:
        RtsegError: whatever failed first; what was measured until then is shown, and said to be
            partial. ThresholdError: a mean IoU is below `--min-miou`.
    """
    plan = make_plan(flags)
    sets = stop.attend(lambda: _evaluate_sets(plan.sets))
    with ExitStack() as stack:
        networks = stop.attend(lambda: _evaluate_networks(plan, flags, stop))
        for network in networks:
            stack.enter_context(network)
        _check_classes(sets, networks, flags.figures)
        _check_smooth(sets, plan, flags.figures)
        if not flags.figures.quiet:
            begin(sets, networks)
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
                say_incomplete(done, asked)
    if whole:
        _hold_to(flags.figures.min_miou, scores)
    return stop.exit_code


def _evaluate_sets(specs: Sequence[SetSpec]) -> list[LabelledSet]:
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


def _evaluate_networks(plan: EvalPlan, flags: EvalFlags, stop: Stop) -> list[Network]:
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
            with Progress(quiet=flags.quiet, unit="pictures") as progress, network:
                done = score(
                    network,
                    chosen,
                    boundary=flags.boundary,
                    worst=flags.worst or 0,
                    worst_class=flags.show_class[0] if flags.show_class else None,
                    smooth=flags.smooth or 0.0,
                    on_picture=partial(on_picture, progress),
                    stop=stop,
                )
            scores.append(done)
            if not flags.quiet:
                measured(done, said)


def with_steadied(scores: Sequence[Steadied]) -> list[Steadied]:
    """Each score, and after it what smoothing over time makes of it, where that was measured."""
    return [one for score in scores for one in (score, score.steadied) if one is not None]


def _show(
    scores: Sequence[Score], clips: Sequence[ClipScore], flags: FigureFlags, *, whole: bool
) -> None:
    """Print the tables and write the files; of a run that ended early too."""
    if flags.json != "-":
        tables(scores, flags.show_class)
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
        say(heading, listed(paths, 1))


def _confusions(scores: Sequence[Score], path: Path) -> list[Path]:
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
