"""A figure of one frame: the original, the segmented image and a legend side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtseg.contracts import Rendered, Sink, SourceInfo
from rtseg.draw import blend, overlay_table
from rtseg.figures import check_suffix, new_figure, plain_text, show_image
from rtseg.files import OutputFile, cannot_write
from rtseg.frame import Image
from rtseg.labels import Colour, LabelSet
from rtseg.sinks.options import SinkOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHA = 0.4
"""The 60/40 blend, whatever the view."""

# In inches, but for the last two.
PANE = 6.0  # longer side of an image
LEGEND = 2.3  # width
MARGIN = 0.2
HEAD = 0.75  # height of title and captions
DOTS_PER_INCH = 160
MAX_ROWS = 24  # of the legend


class FigureSink(Sink):
    """Draws a figure of the first frame, and counts the others."""

    wants_image = False

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        check_suffix(path)
        self._path, self._labels = path, labels
        self._title = info.name
        self._table = overlay_table(labels, ALPHA)
        self._target: OutputFile | None = OutputFile(path, overwrite=options.overwrite)
        self.frames = 0

    def write(self, rendered: Rendered) -> None:
        """Draw the first frame and write the file at once.

        Raises:
            SinkError: it cannot be written.
        """
        target, self._target = self._target, None
        if target is None:
            self.frames += 1
            return
        frame, segmentation = rendered.frame, rendered.segmentation
        overlay = blend(frame.image, segmentation.mask, self._table)
        rows = self._labels.by_share(segmentation.shares)
        figure = draw_figure(frame.image, overlay, rows, frame.name or self._title)
        try:
            figure.savefig(target.part, dpi=DOTS_PER_INCH)
            target.commit()
        except OSError as error:
            raise cannot_write(self._path, error) from error
        finally:
            target.discard()
        self.frames = 1

    def close(self) -> None:
        """Leave nothing behind if there was no frame."""
        if self._target is not None:
            self._target.discard()

    def summary(self) -> str:
        """Where the figure is, and of how many frames it shows the first."""
        if not self.frames:
            return ""
        others = f", of the first of {self.frames} frames" if self.frames > 1 else ""
        return f"figure to {self._path}{others}"


def draw_figure(
    image: Image, overlay: Image, rows: list[tuple[str, float, Colour]], title: str
) -> Figure:
    """The figure.

    Args:
        image, overlay: (H, W, 3) uint8 BGR.
        rows: name, share in 0..1 and RGB colour of each class in the legend.
    """
    scale = PANE / max(image.shape[:2])
    width = max(image.shape[1] * scale, 1.5)
    height = max(image.shape[0] * scale, 1.5)
    figure = new_figure(2 * width + LEGEND + 4 * MARGIN, height + HEAD + MARGIN)
    total_width, total_height = figure.get_size_inches()

    def pane(left: float, wide: float, caption: str) -> Any:
        """Empty axes from the bottom of the figure to below its head, placed in inches."""
        box = left / total_width, MARGIN / total_height, wide / total_width, height / total_height
        axes = figure.add_axes(box)
        axes.set_axis_off()
        axes.set_title(caption, loc="left", fontsize=12)
        return axes

    show_image(pane(MARGIN, width, "original"), image)
    show_image(pane(2 * MARGIN + width, width, "segmented"), overlay)
    _draw_legend(pane(3 * MARGIN + 2 * width, LEGEND, "classes"), rows, height)
    top = 1 - 0.14 / total_height
    figure.text(MARGIN / total_width, top, plain_text(title), va="top", fontsize=11, color="0.4")
    return figure


def _draw_legend(axes: Any, rows: list[tuple[str, float, Colour]], height: float) -> None:
    """A square, a name and a share per row, from the top of empty axes."""
    from matplotlib.patches import Rectangle

    axes.set(xlim=(0, LEGEND), ylim=(-height, 0))
    shown = rows[:MAX_ROWS]
    step = min(0.3, height / (len(shown) + 1))
    for number, (name, share, colour) in enumerate(shown):
        middle = -(number + 0.5) * step
        square = (0.02, middle - 0.28 * step), 0.56 * step, 0.56 * step
        face = tuple(level / 255 for level in colour)
        axes.add_patch(Rectangle(*square, facecolor=face, edgecolor="0.4", linewidth=0.6))
        font = {"va": "center", "fontsize": min(11, 40 * step)}
        axes.text(0.02 + 0.85 * step, middle, plain_text(name), **font)
        axes.text(LEGEND, middle, _percent(share), ha="right", **font)
    if len(rows) != len(shown) or not rows:
        more = f"+ {len(rows) - len(shown)} more" if rows else "no class in view"
        axes.text(0.02, -(len(shown) + 0.5) * step, more, va="center", fontsize=10, color="0.35")


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"
