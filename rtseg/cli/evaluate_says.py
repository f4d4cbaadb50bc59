"""What `rtseg eval` says: tables on stdout, how it goes on stderr."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rtseg.cli.bars import TerminalBar
from rtseg.cli.report import counted, describe_backend, length, say
from rtseg.cli.tables import print_table
from rtseg.clock import Clock
from rtseg.evaluate import ClipScore, LabelledSet, Network, Score
from rtseg.evaluate.networks import in_words
from rtseg.evaluate.report import class_rows

FEW_CLASSES = 4
"""So many classes have columns of the table without being asked for."""

REFRESH_SECONDS = 0.1
FIRST_LINE_SECONDS = 2.0


class Progress:
    """How far it is, on stderr: a bar on a terminal, a line now and then in a log."""

    def __init__(self, *, quiet: bool, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._quiet = quiet
        self._bar = TerminalBar(quiet=quiet)
        self._pause = REFRESH_SECONDS if self._bar.shown else FIRST_LINE_SECONDS
        self._next = self._clock.now() + self._pause

    def __call__(self, score: Score) -> None:
        """Told after every picture; draws when it is time."""
        if self._quiet or (now := self._clock.now()) < self._next:
            return
        if self._bar.shown:
            about = f"{_which(score)}, mIoU {figure(score.matrix.mean_iou)}"
            self._bar.draw(score.pictures, score.chosen, about)
        else:
            self._pause *= 2
            say("running", f"{_which(score)}, {score.pictures} of {score.chosen} pictures")
        self._next = now + self._pause

    def clip(self, score: ClipScore) -> None:
        """Told after every frame of a clip."""
        if self._quiet or (now := self._clock.now()) < self._next:
            return
        about = f"{score.network} on {score.clip}"
        if self._bar.shown and score.of:
            self._bar.draw(score.frames, score.of, about)
        elif not self._bar.shown:
            self._pause *= 2
            say("running", f"{about}, {counted(score.frames, 'frame')}")
        self._next = now + self._pause

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.clear()


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


def partial(done: int, asked: int) -> None:
    """That not all was measured."""
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
