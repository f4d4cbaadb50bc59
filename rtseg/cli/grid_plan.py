"""What a run of several sources was asked, checked as far as that goes without opening anything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rtseg.cli.options import Flags
from rtseg.cli.plan import Plan, check_outputs, make_plan, require_display
from rtseg.errors import UsageError
from rtseg.many.names import distinct
from rtseg.sinks import find_kind, is_folder
from rtseg.sinks.files import check_parent
from rtseg.sources import kind_of

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
    _check_sources(targets, flags)
    names = distinct([file_name(target) for target in targets], "{}_{}")
    own, films = split(flags)
    json = flags.output.json
    shared_json = json if json is not None and not FIELD.search(json) else None
    files = [*films, *([f"json:{shared_json}"] if shared_json else [])]
    window = flags.output.show
    if window is None:
        window = not (files or own or flags.run.metrics)
    if window:
        require_display()
    plans = tuple(
        _plan_of(target, [each_of(output, target, name, n + 1) for output in own], flags)
        for n, (target, name) in enumerate(zip(targets, names, strict=True))
    )
    folders = tuple(Path(folder) for folder in map(folder_of, own) if folder is not None)
    _check_outputs([target for plan in plans for target in plan.outputs], files, folders, flags)
    watched = not own and not shared_json and all(find_kind(t)[0] == "virtual" for t in films)
    return GridPlan(
        names=tuple(names),
        plans=plans,
        folders=folders,
        films=tuple(films),
        json=shared_json,
        window=window,
        watched=watched and bool(window or films),
        hud=flags.view.hud if flags.view.hud is not None else window and not films,
    )


def split(flags: Flags) -> tuple[list[str], list[str]]:
    """Outputs that each source has a file of, and those of the grid, as `open_sink` takes them.

    Raises:
        UsageError: an output of one source has no place for the names of several.
    """
    output = flags.output
    own = [target for target in output.output if is_folder(target) or FIELD.search(target)]
    films = [target for target in output.output if target not in own]
    if output.json is not None and FIELD.search(output.json):
        own.append(f"json:{output.json}")
    if output.mask_output is not None:
        if not (is_folder(output.mask_output) or FIELD.search(output.mask_output)):
            raise UsageError(
                f"--mask-output {output.mask_output} for several sources",
                found="each has masks of its own",
                do="Name a folder/, or put {name} or {n} into the file's name",
            )
        own.append(f"mask:{output.mask_output}")
    return own, films


def each_of(target: str, source: str, name: str, number: int) -> str:
    """The target of one source: `{name}` and `{n}` filled in; in a folder a video of its name, or a
    picture of a picture.
    """
    if folder := folder_of(target):
        role = "mask:" if target.startswith("mask:") else ""
        suffix = ".png" if _is_still(source) else ".mkv" if role else ".mp4"
        return f"{role}{Path(folder) / (name + suffix)}"
    return FIELD.sub(lambda field: name if field[1] == "name" else str(number), target)


def _is_still(source: str) -> bool:
    """Whether it is one picture, and not a folder of them or one that moves."""
    path = Path(source)
    return kind_of(source) == "pictures" and path.is_file() and path.suffix.lower() != ".gif"


def folder_of(target: str) -> str | None:
    """The folder that a target means, without its role; None where it is a file."""
    path = target.removeprefix("mask:")
    return path if is_folder(path) and not FIELD.search(path) else None


def file_name(target: str) -> str:
    """What files of a source are called: "camera_0", "clip", "host_stream"."""
    kind = kind_of(target)
    if kind == "camera":
        number = target.removeprefix("/dev/video")
        return f"camera_{number}" if number.isdecimal() else Path(target).name
    if kind == "stream":
        from rtseg.sources.options import public_name

        address = public_name(target).partition("://")[2].partition("?")[0]
        return re.sub(r"[^\w.-]+", "_", address.rpartition("@")[2]).strip("_")
    if kind in ("stdin", "test", "demo"):
        return kind
    return re.sub(r"[^\w.-]+", "_", Path(target).stem).strip("_") or "source"


def _plan_of(target: str, outputs: Sequence[str], flags: Flags) -> Plan:
    """The plan of one source by itself, to which its own outputs belong."""
    alone = replace(
        flags,
        input=target,
        more=(),
        source=replace(flags.source, camera=None),
        output=replace(flags.output, output=(), mask_output=None, json=None, show=False),
        run=replace(flags.run, metrics=None),
    )
    return replace(make_plan(alone), outputs=tuple(outputs))


def _check_sources(targets: Sequence[str], flags: Flags) -> None:
    if len(targets) > MOST:
        raise UsageError(
            f"{len(targets)} sources",
            found=f"a grid has at most {MOST}",
            do='For many pictures name their folder, or quote their pattern: "shots/*.png"',
        )
    if targets.count("-") > 1:
        raise UsageError("standard input is named twice as a source", do="Name it once")
    single = {
        "--propagate": flags.run.propagate,
        "--idle": flags.run.idle,
        "--figure": flags.output.figure is not None,
    }
    for name, given in single.items():
        if given:
            raise UsageError(f"{name} with a grid", found="it is for one source", do="Leave it out")


def _check_outputs(
    own: Sequence[str], shared: Sequence[str], folders: Sequence[Path], flags: Flags
) -> None:
    """As for one source; what lies in a folder that is still to be made overwrites nothing."""
    new = [folder for folder in folders if not folder.exists()]
    for folder in new:
        check_parent(folder)
    there = [target for target in own if find_kind(target)[1].parent not in new]
    for source in flags.sources:
        check_outputs([*there, *shared], flags, source)
