"""What `rtseg run` was asked, checked as far as that goes without opening anything."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import Any

from rtseg.backends.options import NetworkOptions
from rtseg.cli.options import Flags, RunFlags, with_half
from rtseg.effects import ViewOptions
from rtseg.errors import SinkError, UsageError
from rtseg.files import check_file, check_parent
from rtseg.labels import palette
from rtseg.outputs import Output, check_apart, read_by
from rtseg.sinks import find_kind, split_prefix
from rtseg.sinks.display import display_available
from rtseg.sinks.options import is_folder, is_many
from rtseg.sources import SourceOptions, file_stem, source_kind
from rtseg.text import distinct, user_path


@dataclass(frozen=True)
class Plan:
    """A run whose flags make sense: what they mean together.

    Attributes:
        source: what `open_source` takes.
        network: with the precision that `--half` means.
        view: with the HUD on or off, and the view that goes with the background.
        outputs: targets as `open_sink` takes them, the window last.
        window: whether one is opened.
        paced: whether a recording plays at its own speed, as where it is only watched.
    """

    source: str
    source_options: SourceOptions
    network: NetworkOptions
    view: ViewOptions
    outputs: tuple[str, ...]
    window: bool
    paced: bool


def make_plan(flags: Flags) -> Plan:
    """Check everything that is cheap and certain to fail.

    Raises:
        UsageError: flags that make no sense together.
        SinkError: an output exists, or a window is wanted without a display.
    """
    run = flags.run
    source = _source(flags)
    files = [
        each_of(target, source, file_stem(source), 1) if FIELD.search(target) else target
        for target in _targets(run)
    ]
    _check_pairs(flags)
    check_outputs(files, flags, [source])
    check_folder("--screenshots", run.screenshots)
    if flags.network.palette is not None:
        palette(flags.network.palette, 2)  # whether it is long enough, the network's classes say
    window = run.show
    if window is None:
        window = not (files or run.metrics or run.web)
    if run.web is not None:
        check_web(run.web)
    if window or any(find_kind(target)[0].needs_display for target in files):
        require_display(source)
    return Plan(
        source=source,
        source_options=_for_outputs(flags.source, files, flags, window=window),
        network=with_half(flags.network, half=run.half),
        view=_view(flags, files, hud=window and not run.output),
        outputs=(*files, *(["window:"] if window else [])),
        window=window,
        paced=_is_watched(window or run.web is not None, files)
        and not source_kind(source).is_piped
        and run.policy != "newest",
    )


def _check_pairs(flags: Flags) -> None:
    """Raise UsageError for two flags that contradict one another."""
    run, smooth = flags.run, flags.temporal.smooth
    if run.quiet and run.verbose:
        raise UsageError("--quiet with --verbose", do="Use only one of them")
    if run.target_fps is not None and flags.temporal.propagate:
        raise UsageError(
            "--target-fps with --propagate",
            found="propagation already keeps the frame rate",
            do="Use only one of them",
        )
    if run.remeasure and flags.network.backend != "auto":
        raise UsageError(
            f"--remeasure with -b {flags.network.backend}",
            found="it is for --backend auto",
            do="Use only one of them",
        )
    if run.no_smooth and smooth:
        raise UsageError(f"--smooth {smooth:g} and --no-smooth", do="Use only one of them")


def _view(flags: Flags, files: Sequence[str], *, hud: bool) -> ViewOptions:
    """The view with its background, whose file is looked into; `hud` is the default.

    Raises:
        UsageError: the background cannot be drawn, or an output cannot hold it.
    """
    view = flags.view
    if "hud" not in flags.given:
        view = replace(view, hud=hud)
    if view.background == "none":
        return view
    if "view" not in flags.given:
        view = replace(view, view="cutout")
    from rtseg.effects.background import check_background, parse_background

    check_background(parse_background(view.background))
    if _is_transparent(view):
        _check_transparency(files, flags)
    return view


def _is_transparent(view: ViewOptions) -> bool:
    from rtseg.effects.background import parse_background

    return parse_background(view.background).kind == "transparent"


def _check_transparency(files: Sequence[str], flags: Flags) -> None:
    """Raise UsageError for an output that cannot hold transparent images."""
    for kind, path in map(find_kind, files):
        kind.check(path, flags.sink, True)


def check_web(place: str) -> None:
    """Raise UsageError unless a web page can be served there, as far as can be told by now."""
    from rtseg.serve.options import check_installed, place_options

    check_installed()
    place_options(place)


def check_folder(flag: str, text: str) -> None:
    """Raise UsageError unless a folder is there, or can be made when it is needed."""
    path = user_path(text)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{flag} {text}", found="it is a file", do="Use a folder")
    if not path.parent.is_dir():
        raise UsageError(f"{flag} {text}", found=f"there is no folder {path.parent}")


def _is_watched(window: bool, files: Sequence[str]) -> bool:
    """Whether frames are only looked at: in a window, or through a virtual camera."""
    return bool(window or files) and all(find_kind(target)[0].is_watched for target in files)


def require_display(source: str | None = None) -> None:
    """Refuse a window where none can be shown.

    Args:
        source: whose frames would be shown; None for several.

    Raises:
        SinkError: there is no display.
    """
    if reason := display_available():
        output = "a file with -o out.mp4"
        if source is not None and source_kind(source).is_pictures:
            output = "a file with -o out.png" if _is_still(source) else "a folder with -o out/"
        raise SinkError(
            "cannot open a window", found=reason, do=f"Write {output}, or run with --no-show"
        )


def _source(flags: Flags) -> str:
    if not flags.sources:
        raise UsageError(
            "no source given",
            do="Try rtseg --camera 0, rtseg clip.mp4, or rtseg demo; see rtseg --help",
        )
    return flags.sources[0]


def _for_outputs(
    options: SourceOptions, files: Sequence[str], flags: Flags, *, window: bool
) -> SourceOptions:
    """A figure is of the first frame: where nothing else is asked for, no more are taken."""
    figures = bool(files) and all(find_kind(target)[0].first_frame_only for target in files)
    more = window or flags.run.metrics or flags.run.web
    if more or not figures or options.max_frames is not None:
        return options
    return replace(options, max_frames=1)


def _targets(flags: RunFlags) -> list[str]:
    """Every file output, as `open_sink` takes it."""
    roles = {"mask": flags.mask_output, "json": flags.json, "figure": flags.figure}
    return [*flags.output, *(f"{role}:{path}" for role, path in roles.items() if path is not None)]


def check_outputs(
    files: Sequence[str], flags: Flags, sources: Sequence[str], new: Sequence[Path] = ()
) -> None:
    """Refuse what would overwrite something, cannot be encoded, or goes where another goes.

    Args:
        new: folders that are still to be made.
    """
    outputs: list[Output] = []
    numbered = not any(source_kind(source).is_pictures for source in sources)
    for target in files:
        kind, path = find_kind(target)
        if not kind.is_file:
            continue
        kind.check(path, flags.sink, False)
        prefix, text = split_prefix(target)
        asked = f"{FLAGS.get(prefix, '-o')} {text}"  # a kind that was added later has -o
        if kind.many_files and str(path) != "-" and is_many(path):
            outputs.append(Output.pictures(asked, path, numbered=numbered))
        else:
            outputs.append(Output.file(asked, path))
            if path.parent not in new:
                check_file(path, flags.sink.overwrite)
    if (metrics := flags.run.metrics) is not None:
        outputs.append(Output.file(f"--metrics {metrics}", Path(metrics)))
        check_file(Path(metrics), flags.sink.overwrite)
    check_apart(outputs, _inputs(flags))


FLAGS = {"": "-o", "mask:": "--mask-output", "json:": "--json", "figure:": "--figure"}
"""The flags of outputs, by the prefix of their target."""


def _inputs(flags: Flags) -> Iterator[tuple[Path, str]]:
    """The files that a run reads, and what they are."""
    for source in flags.sources:
        path = Path(source)
        if not source_kind(source).is_path:
            continue
        if path.is_file():
            yield path, "the source itself"
        elif source_kind(source).is_pictures:
            for one in pictures_of(source):
                yield one, "part of the source"
    network = flags.network
    yield from read_by(
        {
            "--model": network.model,
            "--models": flags.run.models,
            "--weights": network.weights,
            "--labels": network.labels,
            "--palette": network.palette,
            "--background": flags.view.background,
            "--config": flags.run.config,
        }
    )


def pictures_of(target: str) -> list[Path]:
    """The pictures of a folder or glob by their names alone."""
    from rtseg.images import IMAGE_SUFFIXES

    folder = Path(target)
    if not folder.is_dir():
        return [Path(name) for name in glob(target, recursive=True)]  # noqa: PTH207 - absolute too
    return [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]


MOST = 16
FIELD = re.compile(r"\{(name|n)\}")
"""In an output's name: one file for each source, with its name or number."""


@dataclass(frozen=True)
class GridPlan:
    """A run of several sources whose flags make sense.

    Attributes:
        names: of the sources as far as they are known before they are open.
        plans: one for each source, with the outputs that are its own.
        folders: to be made for these.
        films: outputs of the grid, as `open_sink` takes them.
        json: where one line per frame of any source goes.
        window: whether one is opened.
        watched: whether pictures go to eyes alone, so that recordings play at their own speed.
        hud: whether each cell has its figures.
    """

    names: tuple[str, ...]
    plans: tuple[Plan, ...]
    folders: tuple[Path, ...]
    films: tuple[str, ...]
    json: str | None
    window: bool
    watched: bool
    hud: bool

    @property
    def common(self) -> Plan:
        """What all sources share is that of the first."""
        return self.plans[0]


def make_grid_plan(flags: Flags) -> GridPlan:
    """Check everything that is cheap and certain to fail.

    Raises:
        UsageError: flags that make no sense, contradict one another, or are for one source.
        SinkError: an output exists, or a window is wanted without a display.
    """
    targets = flags.sources
    _source(flags)
    _check_sources(targets, flags)
    names = distinct([file_stem(target) for target in targets], "{}_{}")
    own, films = split(flags)
    json = flags.run.json
    shared_json = json if json is not None and not FIELD.search(json) else None
    files = [*films, *([f"json:{shared_json}"] if shared_json else [])]
    window = flags.run.show
    if window is None:
        window = not (files or own or flags.run.metrics)
    if window:
        require_display()
    plans = tuple(
        _plan_of(target, [each_of(output, target, name, n + 1) for output in own], flags)
        for n, (target, name) in enumerate(zip(targets, names, strict=True))
    )
    if _is_transparent(plans[0].view):
        if films:
            raise UsageError(
                f"--background transparent in {films[0]}",
                found="a grid is one opaque image",
                do="Write a file for each source, as -o 'out_{name}.webm', or give a colour",
            )
        for plan in plans:
            _check_transparency(plan.outputs, flags)
    folders = tuple(Path(folder) for folder in map(folder_of, own) if folder is not None)
    _check_outputs([target for plan in plans for target in plan.outputs], files, folders, flags)
    watched = not own and not shared_json and all(find_kind(t)[0].is_watched for t in films)
    return GridPlan(
        names=tuple(names),
        plans=plans,
        folders=folders,
        films=tuple(films),
        json=shared_json,
        window=window,
        watched=watched and bool(window or films),
        hud=flags.view.hud if "hud" in flags.given else window and not films,
    )


def split(flags: Flags) -> tuple[list[str], list[str]]:
    """Outputs that each source has a file of, and those of the grid, as `open_sink` takes them.

    Raises:
        UsageError: an output of one source has no place for the names of several.
    """
    output = flags.run
    own = [target for target in output.output if _is_folder(target) or FIELD.search(target)]
    films = [target for target in output.output if target not in own]
    if output.json is not None and FIELD.search(output.json):
        own.append(f"json:{output.json}")
    if output.mask_output is not None:
        if not (is_folder(output.mask_output) or FIELD.search(output.mask_output)):
            raise UsageError(
                f"--mask-output {output.mask_output} for several sources",
                found="each has its own masks",
                do="Use a folder/, or put {name} or {n} in the file name",
            )
        own.append(f"mask:{output.mask_output}")
    return own, films


def _is_folder(target: str) -> bool:
    """Whether an output is a folder; a device such as `virtual:/dev/video10` is not."""
    return is_folder(target) and not find_kind(target)[0].is_watched


def each_of(target: str, source: str, name: str, number: int) -> str:
    """The target of one source: `{name}` and `{n}` filled in; in a folder a video of its name, or a
    picture of a picture.
    """
    if folder := folder_of(target):
        suffix = ".png" if _is_still(source) else find_kind(target)[0].folder_suffix
        return f"{split_prefix(target)[0]}{Path(folder) / (name + suffix)}"
    return FIELD.sub(lambda field: name if field[1] == "name" else str(number), target)


def _is_still(source: str) -> bool:
    """Whether it is one picture, and not a folder of them or one that moves."""
    return source_kind(source).is_pictures and Path(source).is_file()


def folder_of(target: str) -> str | None:
    """The folder that a target means, without its role; None where it is a file."""
    path = split_prefix(target)[1]
    if not is_folder(path) or FIELD.search(path):
        return None
    return path if find_kind(target)[0].folder_suffix else None


def _plan_of(target: str, outputs: Sequence[str], flags: Flags) -> Plan:
    """The plan of one source by itself, to which its own outputs belong."""
    nowhere: dict[str, Any] = {"output": (), "mask_output": None, "json": None, "metrics": None}
    alone = replace(flags.run, input=(target,), camera=None, show=False, **nowhere)
    return replace(make_plan(replace(flags, run=alone)), outputs=tuple(outputs))


def _check_sources(targets: Sequence[str], flags: Flags) -> None:
    if len(targets) > MOST:
        raise UsageError(
            f"{len(targets)} sources",
            found=f"a grid has at most {MOST}",
            do='For many images pass their folder, or a quoted pattern: "shots/*.png"',
        )
    if sum(source_kind(target).is_piped for target in targets) > 1:
        raise UsageError("standard input is given twice as a source", do="Use - only once")
    if flags.run.web is not None:
        do = "Remove it; a port has a colon, as in --web :9000"
        raise UsageError("--web with a grid", found="it shows one source", do=do)
    if flags.run.figure is not None:
        raise UsageError("--figure with a grid", found="it is for one source", do="Remove it")


def _check_outputs(
    own: Sequence[str], shared: Sequence[str], folders: Sequence[Path], flags: Flags
) -> None:
    """As for one source; what lies in a folder that is still to be made overwrites nothing."""
    new = [folder for folder in folders if not folder.exists()]
    for folder in new:
        check_parent(folder)
    check_outputs([*own, *shared], flags, flags.sources, new)
