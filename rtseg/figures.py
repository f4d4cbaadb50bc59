"""Figures drawn with matplotlib, without its global state: `MPLBACKEND` and pyplot play no part.

matplotlib is imported when the first figure is made.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtseg.errors import UsageError
from rtseg.files import atomic, cannot_write
from rtseg.frame import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")


def import_matplotlib() -> None:
    """Import matplotlib, whatever backend `MPLBACKEND` names.

    A notebook sets it for the processes it starts, too, in which its backend may not exist: then
    matplotlib cannot be imported.
    """
    if "matplotlib" in sys.modules:
        return
    named = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib  # noqa: F401
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named


def check_suffix(path: Path) -> None:
    """Raise UsageError unless a figure can be written in the format that the suffix names."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"cannot write a figure to {path}", found=f"figures end in {' '.join(SUFFIXES)}"
        )


def new_figure(width: float, height: float, *, constrained: bool = False) -> Figure:
    """An empty figure on an Agg canvas of its own; sizes in inches.

    Args:
        constrained: let matplotlib arrange the axes.
    """
    import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained" if constrained else None)
    FigureCanvasAgg(figure)
    return figure


def save_figure(
    figure: Figure, path: Path, *, dots_per_inch: int = 150, crop: bool = False
) -> None:
    """Write the figure, whole or not at all.

    Args:
        crop: cut off empty margins.

    Raises:
        SinkError: it cannot be written.
    """
    margins: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.12} if crop else {}
    try:
        with atomic(path) as temporary:
            figure.savefig(temporary, dpi=dots_per_inch, **margins)
    except OSError as error:
        raise cannot_write(path, error) from error


def show_image(axes: Any, image: Image) -> None:
    """Show a (H, W, 3) uint8 BGR image in its own shape, without ticks or a frame.

    Small images keep hard pixels.
    """
    import_matplotlib()
    from matplotlib.image import AxesImage

    height, width = image.shape[:2]
    interpolation = "antialiased" if min(height, width) >= 64 else "nearest"
    drawn = AxesImage(axes, interpolation=interpolation, extent=(0, width, height, 0))
    drawn.set_data(image[..., ::-1])
    axes.add_image(drawn)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axes.set_axis_off()


def plain_text(text: str) -> str:
    """`text` without mathematics, and letters that the font lacks spelled as `u4eba`."""
    import_matplotlib()
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    letters = (c if font.get_char_index(ord(c)) else f"u{ord(c):04x}" for c in text)
    return "".join(letters).replace("$", r"\$")
