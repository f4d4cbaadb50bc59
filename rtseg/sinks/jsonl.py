"""JSON lines: what is in every frame, one line each."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from rtseg.contracts import Rendered, Sink, SourceInfo
from rtseg.errors import UsageError
from rtseg.frame import Mask
from rtseg.labels import LabelSet
from rtseg.sinks import SinkOptions
from rtseg.sinks.files import FileTarget, cannot_write
from rtseg.sinks.raw import silence


class JsonLinesSink(Sink):
    """`{"frame": 12, "pts": 0.4, "classes": [{"id": 15, "name": "person", "share": 0.31}]}`.

    A frame that has a name carries it, and one of several sources the source's, as `"source"`. One
    with propagated scores says so, and whence: `"propagated": true, "key": 8`; the key is null
    where no class is known yet. One at which the network rested, as the picture had not changed,
    says `"idle": true, "key": 8`. With `options.rle` every class carries its mask as COCO run
    lengths, `{"size": [height, width], "counts": "..."}`. Lines are flushed one by one.
    """

    wants_image = False

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        if path.suffix.lower() not in (".jsonl", ".json", ".ndjson") and str(path) != "-":
            raise UsageError(
                f"cannot write {path}", found="JSON lines go to .jsonl files, or to '-'"
            )
        self._path, self._rle, self._reader_left = path, options.rle, False
        self._name = Path("stdout") if str(path) == "-" else path
        self._target: FileTarget | None = None
        self._file: IO[str] = sys.stdout
        self.lines = 0
        if str(path) != "-":
            self._target = FileTarget(path, overwrite=options.overwrite)
            self._file = self._target.part.open("w", encoding="utf-8")

    @property
    def alive(self) -> bool:
        """False once the reader of the pipe has gone."""
        return not self._reader_left

    def write(self, rendered: Rendered) -> None:
        """Append one line.

        Raises:
            SinkError: it cannot be written; whole lines until then are kept.
        """
        text = json.dumps(describe(rendered, rle=self._rle), ensure_ascii=False)
        try:
            self._file.write(text + "\n")
            self._file.flush()
            self.lines += 1
        except BrokenPipeError:
            self._reader_left = True
            silence(self._file)
        except OSError as error:
            raise cannot_write(self._name, error, self._keep()) from error

    def close(self) -> None:
        """Put the file in place; without a line leave nothing."""
        target, self._target = self._target, None
        if target is None:
            return
        self._file.close()
        if self.lines:
            target.commit()
        else:
            target.discard()

    def summary(self) -> str:
        """How many lines went where."""
        return (
            f"{self.lines} lines to {self._path}" if self.lines and str(self._path) != "-" else ""
        )

    def _keep(self) -> str:
        """After a failure: cut the half-written line off and keep the others."""
        if self._target is None:
            return ""
        with suppress(OSError):  # the same refusal again, of the same half line
            self._file.close()
        whole = self._target.part.read_bytes().rpartition(b"\n")[0] + b"\n"
        with self._target.part.open("r+b") as file:
            file.truncate(len(whole))
        self.close()
        return f"The {self.lines} lines until then are in it." if self.lines else ""


def describe(rendered: Rendered, *, rle: bool = False) -> dict[str, Any]:
    """What one line says of a frame."""
    frame, segmentation = rendered.frame, rendered.segmentation
    line: dict[str, Any] = {"source": rendered.source} if rendered.source else {}
    line |= {"frame": frame.index, "pts": round(frame.pts, 6)}
    if frame.name:
        # a name that is no text, which file systems allow, would make the line no UTF-8
        line["name"] = frame.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if segmentation.carried is not None:
        why = "idle" if segmentation.carried.idle else "propagated"
        line |= {why: True, "key": segmentation.carried.key}
    line["classes"] = [
        {"id": index, "name": segmentation.labels.names[index], "share": round(share, 6)}
        for index, share in segmentation.shares.items()
    ]
    if rle:
        for entry in line["classes"]:
            entry["rle"] = run_lengths(segmentation.mask, entry["id"])
    return line


def run_lengths(mask: Mask, index: int) -> dict[str, Any]:
    """One class of an (H, W) mask in COCO's compressed run-length form."""
    from pycocotools import mask as coco

    code = coco.encode(np.asfortranarray(mask == index, dtype=np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}
