"""The verb `eval`: measure every model on every set and clip, and report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from rtseg.backends.options import NetworkOptions
from rtseg.cache import safe_name
from rtseg.cli.options import EvalFlags, with_half
from rtseg.cli.process import Stop, out
from rtseg.cli.report import (
    DownloadProgress,
    Progress,
    describe_backend,
    length,
    say,
    write_json,
)
from rtseg.errors import ThresholdError, UsageError
from rtseg.evaluation.networks import InputPolicy, Network, describe_inputs
from rtseg.evaluation.options import EvalOptions
from rtseg.evaluation.report import Evaluation, figure, write_confusion
from rtseg.evaluation.scoring import ClipScore, Score, class_map, score, score_clip, smoothed_name
from rtseg.evaluation.sets import (
    LabelledSet,
    NetworkSpec,
    SetSpec,
    Suite,
    open_set,
    read_suite,
)
from rtseg.figures import check_suffix
from rtseg.files import check_file, check_new
from rtseg.nets import default_model, find_model
from rtseg.options import flag
from rtseg.outputs import Output, check_apart, check_not_among, read_by
from rtseg.text import counted, listed

AnyScore = TypeVar("AnyScore", Score, ClipScore)


def evaluate(flags: EvalFlags, stop: Stop) -> int:
    """Measure every model on every set and clip, and print the figures.

    Returns:
        0, or the exit code of the signal that ended it.

    Raises:
        RtsegError: as `measured`.
    """
    measured(flags, stop, tables=flags.report.json != "-")
    return stop.exit_code


def measured(flags: EvalFlags, stop: Stop, *, tables: bool) -> Evaluation:
    """Measure every model on every set and clip, and write the files.

    Args:
        tables: print the figures on stdout, also of an evaluation that failed or was stopped.

    Raises:
        RtsegError: the first failure; what was measured before it is reported as partial.
        ThresholdError: a mean IoU is below `--min-miou`.
    """
    plan = make_plan(flags)
    sets = stop.attend(lambda: _open_sets(plan.sets))
    with ExitStack() as stack:
        networks = stop.attend(lambda: _find_models(plan, flags, stop))
        for network in networks:
            stack.enter_context(network)
        _check_classes(sets, networks, flags.options)
        _check_smooth(sets, flags.options)
        _check_apart(sets, networks, flags)
        if not flags.report.quiet:
            begin(sets, networks)
        scores: list[Score] = []
        clips: list[ClipScore] = []
        try:
            _measure(sets, networks, flags, stop, scores)
            measure_clips(networks, flags, stop, clips)
        finally:
            requested = (len(sets) + len(flags.options.clip)) * len(networks)
            done = sum([one.complete for one in scores] + [one.complete for one in clips])
            evaluation = Evaluation(with_smoothed(scores), with_smoothed(clips), done == requested)
            _write(evaluation, flags)
            if tables and (lines := evaluation.lines(flags.options.show_class)):
                out("\n".join(lines))  # last, as stdout may be closed
            if not evaluation.complete:
                say_incomplete(done, requested)
    if evaluation.complete:
        _check_min_miou(flags.options.min_miou, evaluation.scores)
    return evaluation


@dataclass(frozen=True)
class EvalPlan:
    """What to measure: every model on every set and every clip."""

    sets: tuple[SetSpec, ...]
    networks: tuple[NetworkSpec, ...]
    options: NetworkOptions


def make_plan(flags: EvalFlags) -> EvalPlan:
    """Check the flags against one another, and that outputs can be written.

    Raises:
        UsageError: they make no sense, or an output exists.
    """
    options = flags.options
    _check_outputs(flags)
    suite = Suite((), ())
    if options.suite is not None:
        suite = read_suite(Path(options.suite), Path(options.root) if options.root else None)
    sets = (*suite.sets, *_sets(options))
    if options.max_pictures is not None:
        sets = tuple(replace(spec, max_pictures=options.max_pictures) for spec in sets)
    if options.allow_outside:
        sets = tuple(replace(spec, allow_outside=True) for spec in sets)
    if not sets and not options.clip:
        raise UsageError(
            "nothing to measure",
            do="Add labelled images with --data DIR, or a video with --clip FILE",
        )
    InputPolicy.parse(options.imgsz)
    network = with_half(flags.network, half=flags.report.half)
    return EvalPlan(sets, _networks(flags, suite), network)


def _sets(options: EvalOptions) -> list[SetSpec]:
    return [
        SetSpec(
            path=Path(path),
            format=options.format,
            split=options.split or "",
            classes=options.classes,
            min_share=dict(options.min_share),
            names=Path(options.names) if options.names else None,
        )
        for path in options.data
    ]


def _networks(flags: EvalFlags, suite: Suite) -> tuple[NetworkSpec, ...]:
    given, weights = flags.network.foreign, flags.network.weights
    models = flags.options.model or (() if suite.networks else (default_model(),))
    if len(models) != 1 and (given or weights):
        name = "--weights" if weights else flag(next(iter(given)))
        raise UsageError(
            f"{name} with {len(models)} models",
            do="Use one -m, or describe each model in a TOML file beside it",
        )
    own = (NetworkSpec(model, settings=given, weights=weights) for model in models)
    return (*suite.networks, *own)


def _check_outputs(flags: EvalFlags) -> None:
    options, report = flags.options, flags.report
    if options.confusion:
        check_suffix(Path(options.confusion))
    for text in (report.json, options.confusion):
        if text is not None:
            check_file(Path(text), report.overwrite)
    folder = Path(options.worst_to) if options.worst_to else None
    if folder is not None and folder.exists():
        if not folder.is_dir():
            raise UsageError(f"--worst-to {folder}", found="it is not a folder")
        if any(folder.iterdir()) and not report.overwrite:
            raise UsageError(
                f"--worst-to {folder}", found="it is not empty", do="Pass -y to add to it"
            )


def _check_apart(
    sets: Sequence[LabelledSet], networks: Sequence[Network], flags: EvalFlags
) -> None:
    """Refuse outputs that replace one another or what is measured, or lie among the images."""
    options, report = flags.options, flags.report
    outputs = (
        [] if report.json is None else [Output.file(f"--json {report.json}", Path(report.json))]
    )
    if options.confusion is not None:
        path = Path(options.confusion)
        models = [network.name for network in networks]
        if options.smooth:
            models += [smoothed_name(name, options.smooth) for name in models]
        names = [f"{chosen.name}-{model}" for chosen in sets for model in models]
        for name in names:
            own = path if len(names) == 1 else _own_name(path, name)
            check_new(own, report.overwrite)
            outputs.append(Output.file(f"--confusion {own}", own))
    if options.worst_to is not None:
        asked, folder = f"--worst-to {options.worst_to}", Path(options.worst_to)
        outputs.append(Output(asked, folder, "", ".jpg", "anything"))
    inputs = [(sample.image_path, "measured") for chosen in sets for sample in chosen.samples]
    files = [network.model.file for network in networks]
    inputs += [(file, "a model") for file in files if file is not None]
    read = {
        "--data": options.data,
        "--clip": options.clip,
        "--suite": options.suite,
        "--names": options.names,
        "--labels": flags.network.labels,
    }
    check_apart(outputs, [*inputs, *read_by(read)])
    for chosen in sets:
        check_not_among(outputs, chosen.dataset.root, '"rtseg_eval"')


def _open_sets(specs: Sequence[SetSpec]) -> list[LabelledSet]:
    """Open all sets; raise one UsageError for everything wrong in any of them."""
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
        chosen if counts[chosen.name] == 1 else replace(chosen, name=str(chosen.spec.path))
        for chosen in opened
    ]


def _find_models(plan: EvalPlan, flags: EvalFlags, stop: Stop) -> list[Network]:
    """The models; they are opened when first used."""
    options = plan.options
    networks = []
    for spec in plan.networks:
        model = find_model(
            spec.model,
            weights=spec.weights,
            input_flags=spec.settings or None,
            progress=DownloadProgress(stop, quiet=flags.report.quiet),
        )
        networks.append(
            Network(
                _name(spec, plan.networks),
                model,
                InputPolicy.parse(spec.imgsz or flags.options.imgsz),
                backend=options.backend,
                refine=spec.refine or options.refine,
                averaging=options.averaging,
                **options.running(),
            )
        )
    return networks


def _name(spec: NetworkSpec, among: Sequence[NetworkSpec]) -> str:
    """The shortest unique name of a model."""
    short = [other.name or Path(other.model).stem for other in among]
    own = spec.name or Path(spec.model).stem
    return own if short.count(own) == 1 else spec.name or spec.model


def _check_classes(
    sets: Sequence[LabelledSet], networks: Sequence[Network], options: EvalOptions
) -> None:
    """Raise before anything runs if a set and a model share no class, or a set shows only one."""
    known: set[str] = set()
    for network in networks:
        for chosen in sets:
            labels = class_map(network, chosen).labels
            known |= set(labels.names)
            for name in chosen.spec.min_share:
                labels.index(name)
    for name in options.show_class:
        if name not in known:
            raise UsageError(
                f"unknown class {name!r} in --show-class",
                found="classes are " + ", ".join(sorted(known)),
            )


def _check_smooth(sets: Sequence[LabelledSet], options: EvalOptions) -> None:
    """Raise before anything runs if there are no sequences to smooth."""
    sequences = any(sample.sequence for chosen in sets for sample in chosen.samples)
    if options.smooth and not sequences and not options.clip:
        raise UsageError(
            f"--smooth {options.smooth:g}",
            found="no set has sequences of frames",
            do="Remove it, or add a video with --clip",
        )


def _measure(
    sets: Sequence[LabelledSet],
    networks: Sequence[Network],
    flags: EvalFlags,
    stop: Stop,
    scores: list[Score],
) -> None:
    """Append the score of each model on each set, including an unfinished one."""
    printed: set[str] = set()
    options = flags.options
    for chosen in sets:
        for network in networks:
            if stop():
                return
            with Progress(quiet=flags.report.quiet) as progress, network:
                done = score(
                    network,
                    chosen,
                    boundary=options.boundary,
                    worst=options.worst or 0,
                    worst_class=options.show_class[0] if options.show_class else None,
                    smooth=options.smooth,
                    on_picture=partial(on_picture, progress),
                    stop=stop,
                )
            scores.append(done)
            if not flags.report.quiet:
                report_score(done, printed)


def on_picture(progress: Progress, score: Score) -> None:
    """Update the progress of one model on one set."""
    if progress.due:
        text = f"{_which(score)}, mIoU {figure(score.matrix.mean_iou)}"
        progress.update(score.pictures, score.chosen, text, unit="images")


def measure_clips(
    networks: Sequence[Network], flags: EvalFlags, stop: Stop, clips: list[ClipScore]
) -> None:
    """Append the score of each model on each clip, including an unfinished one."""
    printed: set[str] = set()
    for target in flags.options.clip:
        for network in networks:
            if stop():
                return
            with Progress(quiet=flags.report.quiet) as progress, network:
                done = score_clip(
                    network,
                    target,
                    smooth=flags.options.smooth,
                    max_frames=flags.options.max_frames,
                    on_frame=partial(on_frame, progress),
                    stop=stop,
                )
            clips.append(done)
            if not flags.report.quiet:
                report_clip(done, printed)


def on_frame(progress: Progress, score: ClipScore) -> None:
    """Update the progress of one model on one clip."""
    text = f"{score.network} on {score.clip}"
    progress.update(score.frames, score.of or 0, text, unit="frames")


def with_smoothed(scores: Sequence[AnyScore]) -> tuple[AnyScore, ...]:
    """Each score, followed by its smoothed version, if measured."""
    return tuple(one for score in scores for one in (score, score.smoothed) if one is not None)


def begin(sets: Sequence[LabelledSet], networks: Sequence[Network]) -> None:
    """Report what will be measured."""
    for chosen in sets:
        say("set", chosen.describe())
        for note in chosen.dataset.notes:
            say("note", note)
    for network in networks:
        say("model", f"{network.name}, {len(network.model.spec.labels)} classes")
        say("input", network.policy.describe(network.model.spec))
        for note in network.model.notes:
            say("note", note)


def report_score(score: Score, printed: set[str]) -> None:
    """Report how one score was measured; lines in `printed` are not repeated."""
    say("done", f"{_which(score)}: {_pictures(score)} in {length(score.seconds)}")
    lines = [("classes", line) for line in score.mapping]
    if len(score.inputs) > 1:
        lines.append(("input", f"{describe_inputs(score.inputs)} (HxW)"))
    if score.info is not None:
        lines.append(("runs on", describe_backend(score.info)))
        lines += [("note", note) for note in score.info.notes]
    _say_new(lines, printed)


def report_clip(score: ClipScore, printed: set[str]) -> None:
    """Report how one clip was measured; lines in `printed` are not repeated."""
    stopped = "" if score.complete else ", stopped"
    frames = f"{counted(score.frames, 'frame')} in {length(score.seconds)}"
    say("done", f"{score.network} on {score.clip}: {frames}{stopped}")
    if score.info is not None:
        notes = [("note", note) for note in score.info.notes]
        _say_new([("runs on", describe_backend(score.info)), *notes], printed)


def _say_new(lines: Sequence[tuple[str, str]], printed: set[str]) -> None:
    for heading, line in lines:
        if line not in printed:
            say(heading, line)
    printed.update(line for _, line in lines)


def say_incomplete(done: int, requested: int) -> None:
    """Report that the run ended before everything was measured."""
    say("partial", f"{done} of {counted(requested, 'measurement')} finished")


def _which(score: Score) -> str:
    return f"{score.network} on {score.set_name}"


def _pictures(score: Score) -> str:
    if not score.complete:
        return f"{score.pictures} of {counted(score.chosen, 'image')}, stopped"
    of = f" of {score.of}" if score.chosen != score.of else ""
    return f"{score.pictures}{of} images" if of else counted(score.pictures, "image")


def _write(evaluation: Evaluation, flags: EvalFlags) -> None:
    """Write the files, also when the evaluation ended early."""
    options, json, scores = flags.options, flags.report.json, evaluation.scores
    if json is not None and (scores or evaluation.clips):
        write_json(json, evaluation.to_plain())
        _say_paths("figures", [json], flags)
    if options.confusion is not None and scores:
        _say_paths("wrote", _confusions(scores, Path(options.confusion)), flags)
    if options.worst_to is not None:
        _say_paths("wrote", _worst(scores, Path(options.worst_to)), flags)


def _say_paths(heading: str, paths: Sequence[object], flags: EvalFlags) -> None:
    if paths and not flags.report.quiet:
        say(heading, listed(paths, 1))


def _confusions(scores: Sequence[Score], path: Path) -> list[Path]:
    paths = [_own_path(path, one, scores) for one in scores]
    for one, place in zip(scores, paths, strict=True):
        write_confusion(one, place)
    return paths


def _worst(scores: Sequence[Score], folder: Path) -> list[Path]:
    paths = []
    for one in scores:
        if one.worst is not None:
            place = (
                folder if len(scores) == 1 else folder / _own_path(Path("x"), one, scores).name[2:]
            )
            paths += one.worst.write(place)
    return paths


def _own_path(path: Path, one: Score, scores: Sequence[Score]) -> Path:
    """`out.png`, or `out-SET-MODEL.png` if there are several."""
    if len(scores) == 1:
        return path
    return _own_name(path, f"{one.set_name}-{one.network}")


def _own_name(path: Path, name: str) -> Path:
    name = safe_name(name)
    return path.with_name(f"{path.stem}-{name}{path.suffix}")


def _check_min_miou(least: float | None, scores: Sequence[Score]) -> None:
    """Raise ThresholdError if a mean IoU is below `least`, or was not measured."""
    missed = [one for one in scores if least is not None and not one.matrix.mean_iou >= least]
    if missed:
        found = ", ".join(
            f"{one.network} on {one.set_name} {one.matrix.mean_iou:.4f}" for one in missed
        )
        raise ThresholdError(f"mean IoU below --min-miou {least:g}", found=found)
