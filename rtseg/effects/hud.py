"""Text over a view: the HUD with the figures of the run, and the legend."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np

from rtseg.contracts import BackendInfo, Effect, Source
from rtseg.draw import foreground, legend, panel
from rtseg.frame import Frame, Image, Segmentation
from rtseg.labels import Colour, LabelSet
from rtseg.planes import Planes
from rtseg.stats import Stats
from rtseg.text import counted

UNKNOWN = "-"

CAUSES = {
    "camera": "skipped by the camera",
    "reading": "read too late",
    "capture": "model busy",
    "display": "drawing busy",
    "pause": "paused",
}
"""Why frames are dropped; the report has the keys."""


class Captioned:
    """A view with the legend and the HUD over it, each only if requested.

    Args:
        legend: name the classes in view.
        hud: returns the lines of the HUD at this moment; None shows no HUD.
        mark: returns the lines below them, about this very frame.
    """

    def __init__(
        self,
        view: Effect,
        labels: LabelSet,
        *,
        legend: bool,
        hud: Callable[[], list[str]] | None,
        mark: Callable[[Segmentation], list[str]],
    ) -> None:
        self._view, self._labels, self._legend = view, labels, legend
        self._hud, self._mark = hud, mark
        self._has_text = legend or hud is not None

    @property
    def in_planes(self) -> Callable[[Planes, Segmentation], Planes] | None:
        """The view's, if it has it and no text is written over it."""
        return None if self._has_text else getattr(self._view, "in_planes", None)

    def __call__(self, frame: Frame, segmentation: Segmentation) -> Image:
        """The view's (H, W, 3) or (H, W, 4) uint8 image; text is opaque where it is transparent."""
        drawn = self._view(frame, segmentation)
        if drawn.shape[2] == 3:
            self._write(drawn, segmentation)
            return drawn
        from rtseg.matte import write_over

        image = cv2.cvtColor(drawn, cv2.COLOR_BGRA2BGR)
        self._write(image, segmentation)
        write_over(drawn, image)
        return drawn

    def _write(self, image: Image, segmentation: Segmentation) -> None:
        """Write over (H, W, 3) uint8 BGR, in place."""
        if self._has_text and (nothing := empty_line(segmentation)):
            panel(image, [nothing], "bottom left")
        if self._legend:
            legend(image, legend_rows(segmentation, self._labels))
        if self._hud is not None:
            panel(image, [*self._hud(), *self._mark(segmentation)])

    def warm_up(self) -> None:
        """Draw a black frame, so that all code is compiled before the first one."""
        frame = Frame(np.zeros((120, 160, 3), np.uint8), 0, 0.0, 0.0)
        scores = np.zeros((len(self._labels), 1, 1), np.float32)
        self(frame, Segmentation(scores, self._labels, frame.size))


def hud_lines(
    stats: Stats | None = None,
    source: Source | None = None,
    backend: BackendInfo | None = None,
    model: str = "",
    imgsz: tuple[int, int] | None = None,
) -> list[str]:
    """The HUD as lines for `draw.panel`: tabs separate columns, `!` begins a warning.

    Recent frames per second; age of the last frame, from capture until every sink had it; drops;
    milliseconds per stage, smoothed; the network and (height, width) of its input; backend, device
    and precision that really run. A figure that is not known yet is a dash.
    """
    return [
        *_loop_lines(stats),
        *_keyframe_lines(stats),
        *_network_lines(model, None if stats and stats.input else imgsz),
        *_input_lines(stats),
        *_backend_lines(backend),
        *_source_lines(source),
    ]


def hud_line(stats: Stats, backend: BackendInfo) -> str:
    """The HUD as one line: recent frames per second, age of the last frame, and the device."""
    rate = f"{stats.fps_now:.1f}" if stats.fps_now else UNKNOWN
    warning = "" if backend.kept else "!"
    return f"{warning}{rate} fps   {_milliseconds(stats.recent.get('age'), 0)}   {backend.device}"


def _loop_lines(stats: Stats | None) -> list[str]:
    recent = dict(stats.recent) if stats else {}
    rate = f"{stats.fps_now:.1f}" if stats and stats.fps_now else UNKNOWN
    dropped = str(stats.dropped) if stats else UNKNOWN
    age = _milliseconds(recent.get("age"), decimals=0)
    optional = [stage for stage in ("smooth", "encode") if stage in recent]
    return [
        f"fps\t{rate}\tage\t{age}\tdropped\t{dropped}",
        _stage_cells(recent, "capture", "preprocess", "infer"),
        _stage_cells(recent, "decode", "draw", "write"),
        *([_stage_cells(recent, *optional)] if optional else []),
        *_drop_lines(stats),
    ]


def _stage_cells(recent: Mapping[str, float], *stages: str) -> str:
    return "\t".join(f"{stage}\t{_milliseconds(recent.get(stage))}" for stage in stages)


def _milliseconds(seconds: float | None, decimals: int = 1) -> str:
    """No decimals from 100 ms on, so that columns keep their width."""
    if seconds is None:
        return UNKNOWN
    return f"{seconds * 1e3:.{decimals if seconds < 0.0995 else 0}f} ms"


def mark_lines(stats: Stats | None, segmentation: Segmentation) -> list[str]:
    """Whether the network ran on this very frame; nothing in a run where it runs on every frame."""
    carried = segmentation.carried
    if carried is None:
        return ["keyframe"] if stats and stats.keyframes else []
    if carried.key is None:
        return ["!no keyframe yet"]
    if carried.idle:
        return [f"idle, model ran {counted(carried.frames, 'frame')} ago"]
    frames = counted(abs(carried.frames), "frame")
    return [f"propagated, key {frames} {'ago' if carried.frames >= 0 else 'ahead'}"]


def _keyframe_lines(stats: Stats | None) -> list[str]:
    """The network's own rate, when it does not run on every frame."""
    if stats and stats.idle:
        return [f"model\t{stats.network_fps:.1f} fps\tidle\t{stats.idle / stats.shown:.0%}"]
    if not stats or not stats.keyframes:
        return []
    count = sum(dict(stats.keyframes).values())
    return [f"model\t{stats.network_fps:.1f} fps\tkeyframes\t{count}"]


def _drop_lines(stats: Stats | None) -> list[str]:
    causes = dict(stats.dropped_by) if stats else {}
    parts = ", ".join(f"{CAUSES.get(cause, cause)} {count}" for cause, count in causes.items())
    return [f"dropped: {parts}"] if parts else []


def _network_lines(model: str, imgsz: tuple[int, int] | None) -> list[str]:
    size = f"{imgsz[0]}x{imgsz[1]}" if imgsz else ""
    text = " ".join(part for part in (model, size) if part)
    return [text] if text else []


def _input_lines(stats: Stats | None) -> list[str]:
    """The network's present input size, where it adapts to the speed."""
    if not stats or not stats.input:
        return []
    height, width = stats.input
    return [f"input\t{height}x{width}\tsteps\t{stats.steps}"]


def _backend_lines(backend: BackendInfo | None) -> list[str]:
    if backend is None:
        return []
    facts = (backend.name, backend.device, backend.precision, backend.provider)
    notes = [] if backend.kept else list(backend.notes) or ["not the requested device"]
    return [" · ".join(fact for fact in facts if fact), *(f"!{note}" for note in notes)]


def _source_lines(source: Source | None) -> list[str]:
    if source is None:
        return []
    lines = [f"!{source.notice}"] if source.notice else []
    return [*lines, f"!outages {source.outages}"] if source.outages else lines


def legend_rows(segmentation: Segmentation, labels: LabelSet) -> list[tuple[str, Colour]]:
    """Name, share of the frame, and colour of the classes in view, the largest first."""
    rows = labels.by_share(segmentation.shares)
    return [(f"{name}\t{percent(share)}", colour) for name, share, colour in rows]


def percent(share: float) -> str:
    """A share in 0..1 in whole percent; a class in view is never at 0 %."""
    return f"{share:.0%}" if share >= 0.01 else "<1%"


def empty_line(segmentation: Segmentation) -> str | None:
    """The message when no pixel has a selected class; None when one does."""
    labels = segmentation.labels
    if segmentation.counts[foreground(labels)].any():
        return None
    sought = labels.foreground(segmentation.selected)
    return f"no pixels of: {labels.join_names(sought)}" if sought else None
