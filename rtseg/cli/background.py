"""How frames are drawn, of what was asked: the view, and what lies behind what is found."""

from __future__ import annotations

from collections.abc import Sequence

from rtseg.cli.options import Flags
from rtseg.effects import ViewOptions
from rtseg.effects.backdrops import check_background, parse_background
from rtseg.errors import UsageError
from rtseg.sinks import find_kind
from rtseg.sinks.containers import find_encoder, no_alpha


def view_of(flags: Flags, files: Sequence[str], *, hud: bool) -> ViewOptions:
    """The view with its background, whose file is looked into.

    Args:
        files: the targets of the run, as `open_sink` takes them.

    Raises:
        UsageError: the view or its background cannot be drawn, or an output cannot hold it.
    """
    asked = flags.view
    view = ViewOptions(
        asked.view or ("overlay" if asked.background == "none" else "cutout"),
        asked.alpha,
        asked.legend,
        hud,
        asked.background,
        asked.feather,
        asked.matte_threshold,
    )
    wanted = parse_background(view.background)
    check_background(wanted)
    if wanted.kind == "transparent":
        for target in files:
            _check_holds_alpha(target, flags.output.codec, flags.output.crf)
    return view


def _check_holds_alpha(target: str, codec: str | None, crf: int | None) -> None:
    kind, path = find_kind(target)
    suffix = path.suffix.lower()
    if kind == "video":
        find_encoder(suffix, codec, crf, alpha=True)
    elif kind == "pictures" and suffix in (".jpg", ".jpeg"):
        raise no_alpha(suffix)
    elif kind in ("raw", "virtual"):
        what = "raw frames on stdout" if kind == "raw" else "a virtual camera"
        raise UsageError(
            f"a transparent background in {what}",
            found="no transparency goes there",
            do="Give a colour, as --background '#00b140'",
        )
