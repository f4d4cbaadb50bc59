"""How the masks of consecutive frames are tied together: what was asked for, and by default."""

from __future__ import annotations

from dataclasses import replace

from rtseg.cli.options import RunFlags
from rtseg.errors import UsageError
from rtseg.temporal import TemporalOptions
from rtseg.temporal.options import USUAL_SMOOTH


def asked_temporal(flags: RunFlags) -> TemporalOptions:
    """What the flags ask for, whatever the source.

    Raises:
        UsageError: they make no sense, or contradict one another.
    """
    if flags.no_smooth and flags.smooth:
        raise UsageError(f"--smooth {flags.smooth:g} and --no-smooth", do="Give one of them")
    return TemporalOptions(
        smooth=flags.smooth or 0.0,
        propagate=flags.propagate,
        key_every=flags.key_every,
        idle=bool(flags.idle),
    )


def temporal_of(flags: RunFlags, live: bool, *, watched: bool = False) -> TemporalOptions:
    """What a source gets, unless told otherwise: the network rests in a live one, and masks hold
    still where it is live or watched in a window.
    """
    asked = asked_temporal(flags)
    if flags.smooth is None and not flags.no_smooth and (live or watched):
        asked = replace(asked, smooth=USUAL_SMOOTH)
    return replace(asked, idle=live if flags.idle is None else flags.idle)
