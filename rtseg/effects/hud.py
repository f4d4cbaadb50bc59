"""The figures of the run, as lines of text: what is not known yet is a dash."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np

from rtseg.contracts import BackendInfo, Effect, Source
from rtseg.draw import foreground, legend, panel
from rtseg.frame import Frame, Image
from rtseg.labels import Colour, LabelSet
from rtseg.segmentation import Segmentation
from rtseg.stats import Stats

UNKNOWN = "-"

CAUSES = {
    "camera": "skipped by the camera",
    "capture": "network busy",
    "display": "drawing busy",
    "pause": "paused",
}
"""Why frames are dropped, for people; the report has the keys."""


def hud_lines(
    stats: Stats | None = None,
    source: Source | None = None,
    backend: BackendInfo | None = None,
    model: str = "",
    imgsz: tuple[int, int] | None = None,
) -> list[str]:
    """Lines for `draw.panel`, in columns where a tab stands, warnings after a `!`.

    Frames per second of late; age of the frame last shown, from capture until every sink had it;
    drops; milliseconds per stage, smoothed; the network with the width and height of its input;
    and what really runs.
    """
    return [
        *_loop_lines(stats),
        *_keyframe_lines(stats),
        *_network_lines(model, None if stats and stats.input else imgsz),
        *_input_lines(stats),
        *_backend_lines(backend),
        *_source_lines(source),
    ]


def _loop_lines(stats: Stats | None) -> list[str]:
    recent = dict(stats.recent) if stats else {}
    rate = f"{stats.fps_now:.1f}" if stats and stats.fps_now else UNKNOWN
    dropped = str(stats.dropped) if stats else UNKNOWN
    age = _milliseconds(recent.get("age"), decimals=0)
    also = [stage for stage in ("smooth", "encode") if stage in recent]  # not every run has them
    return [
        f"fps\t{rate}\tage\t{age}\tdropped\t{dropped}",
        _stage_cells(recent, "capture", "preprocess", "infer"),
        _stage_cells(recent, "decode", "draw", "write"),
        *([_stage_cells(recent, *also)] if also else []),
        *_drop_lines(stats),
    ]


def _stage_cells(recent: Mapping[str, float], *stages: str) -> str:
    return "\t".join(f"{stage}\t{_milliseconds(recent.get(stage))}" for stage in stages)


def _milliseconds(seconds: float | None, decimals: int = 1) -> str:
    """Short, so that columns hold still: no decimal from 100 on."""
    if seconds is None:
        return UNKNOWN
    return f"{seconds * 1e3:.{decimals if seconds < 0.0995 else 0}f} ms"


def mark_lines(stats: Stats | None, segmentation: Segmentation) -> list[str]:
    """Whether the network saw this very frame; nothing in a run where it sees every one."""
    carried = segmentation.carried
    if carried is None:
        return ["keyframe"] if stats and stats.keyframes else []
    if carried.key is None:
        return ["!no keyframe yet"]
    if carried.idle:
        return [f"idle, looked {carried.frames} frame{'' if carried.frames == 1 else 's'} ago"]
    count = abs(carried.frames)
    frames = f"{count} frame{'' if count == 1 else 's'}"
    return [f"propagated, key {frames} {'ago' if carried.frames >= 0 else 'ahead'}"]


def _keyframe_lines(stats: Stats | None) -> list[str]:
    """The network's own rate, which is not that of what is shown."""
    if stats and stats.idle:
        return [f"network\t{stats.network_fps:.1f} fps\tidle\t{stats.idle / stats.shown:.0%}"]
    if not stats or not stats.keyframes:
        return []
    count = sum(dict(stats.keyframes).values())
    return [f"network\t{stats.network_fps:.1f} fps\tkeyframes\t{count}"]


def _drop_lines(stats: Stats | None) -> list[str]:
    causes = dict(stats.dropped_by) if stats else {}
    told = ", ".join(f"{CAUSES.get(cause, cause)} {count}" for cause, count in causes.items())
    return [f"dropped: {told}"] if told else []


def _network_lines(model: str, imgsz: tuple[int, int] | None) -> list[str]:
    size = f"{imgsz[0]}x{imgsz[1]}" if imgsz else ""
    text = " ".join(part for part in (model, size) if part)
    return [text] if text else []


def _input_lines(stats: Stats | None) -> list[str]:
    """The input that the network has now, where it follows the speed."""
    if not stats or not stats.input:
        return []
    height, width = stats.input
    return [f"input\t{height}x{width}\tsteps\t{stats.steps}"]


def _backend_lines(backend: BackendInfo | None) -> list[str]:
    if backend is None:
        return []
    facts = (backend.name, backend.device, backend.precision, backend.provider)
    notes = [] if backend.kept else list(backend.notes) or ["not the device asked for"]
    return [" · ".join(fact for fact in facts if fact), *(f"!{note}" for note in notes)]


def _source_lines(source: Source | None) -> list[str]:
    if source is None:
        return []
    lines = [f"!{source.notice}"] if source.notice else []
    return [*lines, f"!outages {source.outages}"] if source.outages else lines


class Finish:
    """Draws a view, then writes over its picture: nothing at all, where no words are asked for.

    Args:
        legend: name the classes in view.
        hud: gives the lines of the figures at this moment; None shows none.
        mark: gives the lines below them, on this very frame.
    """

    def __init__(
        self,
        view: Effect,
        labels: LabelSet,
        *,
        legend: bool = False,
        hud: Callable[[], list[str]] | None = None,
        mark: Callable[[Segmentation], list[str]] = lambda segmentation: [],
    ) -> None:
        self._view, self._labels, self._legend = view, labels, legend
        self._hud, self._mark = hud, mark

    def __call__(self, frame: Frame, segmentation: Segmentation) -> Image:
        """The view's picture, written over; where it is transparent too, so that it can be read."""
        picture = self._view(frame, segmentation)
        if picture.shape[2] == 3:
            self._write(picture, segmentation)
            return picture
        from rtseg.matte import write_over

        image = cv2.cvtColor(picture, cv2.COLOR_BGRA2BGR)
        self._write(image, segmentation)
        write_over(picture, image)
        return picture

    def _write(self, image: Image, segmentation: Segmentation) -> None:
        """All words, over (H, W, 3) uint8 BGR, in place."""
        with_words = self._legend or self._hud is not None
        if with_words and (nothing := empty_line(segmentation)):
            panel(image, [nothing], "bottom left")
        if self._legend:
            legend(image, legend_rows(segmentation, self._labels))
        if self._hud is not None:
            panel(image, [*self._hud(), *self._mark(segmentation)])

    def warm_up(self) -> None:
        """Draw a picture of nothing, so that the first frame finds all code compiled."""
        frame = Frame(np.zeros((120, 160, 3), np.uint8), 0, 0.0, 0.0)
        scores = np.zeros((len(self._labels), 1, 1), np.float32)
        self(frame, Segmentation(scores, self._labels, frame.size))


def legend_rows(segmentation: Segmentation, labels: LabelSet) -> list[tuple[str, Colour]]:
    """Name, share of the frame, and colour of the classes in view, the largest first."""
    largest = sorted(segmentation.shares.items(), key=lambda item: -item[1])
    return [
        (f"{_one_cell(labels.names[index])}\t{percent(share)}", labels.colours[index])
        for index, share in largest
    ]


def percent(share: float) -> str:
    """A share of 1 in whole percent; what is there is never 0 %."""
    return f"{share:.0%}" if share >= 0.01 else "<1%"


def empty_line(segmentation: Segmentation) -> str | None:
    """What to say when no pixel shows a class that was asked for; None when one does."""
    labels = segmentation.labels
    if segmentation.counts[foreground(labels)].any():
        return None
    sought = labels.sought(segmentation.selected)
    return f"no pixels of: {_one_cell(labels.listed(sought))}" if sought else None


def _one_cell(name: str) -> str:
    """A name without what a panel takes for columns."""
    return name.replace("\t", " ").strip()
