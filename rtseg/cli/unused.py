"""What was asked of a run and changes nothing in it: worth a word, and no reason to stop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from rtseg.cli.options import Flags
from rtseg.cli.plan import Plan
from rtseg.sinks import find_kind
from rtseg.sources import kind_of


class _Rule(NamedTuple):
    """Flags of a group, whether this run uses them, and why not where it does not."""

    group: Any
    names: str
    used: bool
    why: str


def unused(flags: Flags, plan: Plan) -> Iterator[str]:
    """A sentence for what was given in vain: flags, and sound that is not kept."""
    for rule in _rules(flags, plan):
        given = [f"--{name.replace('_', '-')}" for name in _given(rule.group, rule.names.split())]
        if given and not rule.used:
            change = "changes" if len(given) == 1 else "change"
            yield f"{' and '.join(given)} {change} nothing here: {rule.why}"
    yield from _lost_sound(flags, plan)


def _rules(flags: Flags, plan: Plan) -> tuple[_Rule, ...]:
    source, view, output = kind_of(plan.source), flags.view, flags.output
    sinks = {find_kind(target)[0] for target in plan.outputs}
    # in a window b goes through backgrounds, r records, s saves and m goes through networks
    matte = view.background != "none" or view.view == "cutout" or plan.window
    timed = source in ("camera", "stdin", "pictures")
    raw = source == "stdin" or "raw" in sinks
    return (
        _Rule(flags.source, "width height fourcc", source == "camera", "the source is no camera"),
        _Rule(flags.source, "fps", timed, "the source has a rate of its own"),
        _Rule(flags.source, "size", source == "stdin", "no raw frames come in"),
        _Rule(flags.source, "pix_fmt", raw, "no raw frames come or go"),
        _Rule(flags.model, "models", plan.window, "there is no window"),
        _Rule(view, "feather matte_threshold", matte, "there is no --background"),
        _Rule(output, "codec crf", "video" in sinks, "no video is written with -o"),
        _Rule(output, "rle", "json" in sinks, "there is no --json"),
        _Rule(output, "screenshots", plan.window, "there is no window"),
    )


def _given(group: Any, names: list[str]) -> Iterator[str]:
    """Those of the flags that are not as they are by themselves."""
    usual = {field.name: field.default for field in fields(group)}
    return (name for name in names if getattr(group, name) != usual[name])


def _lost_sound(flags: Flags, plan: Plan) -> Iterator[str]:
    """A file that is begun again, or replayed live, has pictures that its sound does not fit."""
    again = [f"--{name}" for name in ("loop", "live") if getattr(flags.source, name)]
    videos = any(find_kind(target)[0] == "video" for target in plan.outputs)
    if again and videos and flags.output.audio == "copy" and kind_of(plan.source) == "video":
        from rtseg.sinks.audio import has_sound

        if has_sound(Path(plan.source)):
            yield f"the sound is left out with {' and '.join(again)}"
