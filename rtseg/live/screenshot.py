"""One frame as three files: the picture, its mask, and what is shown of both."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from rtseg.contracts import Rendered
from rtseg.live.recorder import free_name
from rtseg.sinks.file_target import cannot_write
from rtseg.sinks.mask import palette, palette_png
from rtseg.sinks.pictures import encode


def save(rendered: Rendered, view: str, folder: Path, moment: datetime) -> list[Path]:
    """Write `rtseg-YYYYmmdd-HHMMSS.png`, `...-mask.png` and `...-VIEW.png`; replace nothing.

    The mask is a palette PNG whose pixels are class indices.

    Raises:
        SinkError: they cannot be written; none is left half written.
    """
    shown = f"-{view}.png" if view != "mask" else "-view.png"
    segmentation = rendered.segmentation
    written: list[Path] = []
    try:
        contents = {
            ".png": encode(rendered.frame.image, ".png"),
            "-mask.png": palette_png(segmentation.mask, palette(segmentation.labels)),
            shown: encode(rendered.picture, ".png"),
        }
        name = free_name(folder, moment, *contents)
        for ending, content in contents.items():
            path = name.with_name(f"{name.name}{ending}")
            written.append(path)
            path.write_bytes(content)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        do = "Name another folder with --screenshots"
        raise cannot_write(folder / "a screenshot", error, do) from error
    return written
