"""One frame as three files: the picture, its mask, and what is shown of both; or a grid as one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from rtseg.contracts import Rendered
from rtseg.session.recording import free_name
from rtseg.sinks.files import cannot_write
from rtseg.sinks.masks import palette, palette_png
from rtseg.sinks.pictures import encode


def save(
    rendered: Rendered, view: str | None, folder: Path, moment: datetime
) -> Callable[[], list[Path]]:
    """Draw a frame now; gives what packs and writes it, which any thread may call.

    That writes `rtseg-YYYYmmdd-HHMMSS.png`, `...-mask.png` and `...-VIEW.png`, replaces nothing,
    and gives the files. The mask is a palette PNG whose pixels are class indices. Without a view
    there is the picture alone.

    Raises:
        SinkError: by what is given: they cannot be written; none is left half written.
    """
    if view is None:
        image = rendered.picture
        return lambda: _write({".png": encode(image, ".png")}, folder, moment)
    shown = f"-{view}.png" if view != "mask" else "-view.png"
    segmentation, picture = rendered.segmentation, rendered.picture
    mask, colours = segmentation.mask, palette(segmentation.labels)

    def write() -> list[Path]:
        contents = {
            ".png": encode(rendered.frame.image, ".png"),
            "-mask.png": palette_png(mask, colours),
            shown: encode(picture, ".png"),
        }
        return _write(contents, folder, moment)

    return write


def _write(contents: dict[str, bytes], folder: Path, moment: datetime) -> list[Path]:
    """Write files by their endings; all of them or none."""
    written: list[Path] = []
    try:
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
