"""`rtseg eval --clip`: the flicker of clips without labels."""

from __future__ import annotations

from collections.abc import Sequence

from rtseg.cli.evaluate_flags import EvalFlags
from rtseg.cli.evaluate_says import Progress, figure
from rtseg.cli.process import Stop
from rtseg.cli.report import counted, describe_backend, length, say
from rtseg.cli.tables import print_table
from rtseg.evaluate import ClipScore, Network, score_clip


def measure_clips(
    networks: Sequence[Network], flags: EvalFlags, stop: Stop, clips: list[ClipScore]
) -> None:
    """Append the flicker of each network on each clip, the unfinished one too."""
    said: set[str] = set()
    for target in flags.sets.clip:
        for network in networks:
            if stop():
                return
            with Progress(quiet=flags.figures.quiet) as progress, network:
                done = score_clip(
                    network,
                    target,
                    smooth=flags.figures.smooth or 0.0,
                    max_frames=flags.sets.max_frames,
                    on_frame=progress.clip,
                    stop=stop,
                )
            clips.append(done)
            if not flags.figures.quiet:
                measured(done, said)


def measured(score: ClipScore, said: set[str]) -> None:
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
