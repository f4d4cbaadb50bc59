"""JSON lines: one line per frame with the classes in it."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from rtseg.contracts import Rendered, Sink, SourceInfo
from rtseg.errors import SinkError, UsageError
from rtseg.files import OutputFile, cannot_write, discard_output
from rtseg.frame import Mask, Segmentation
from rtseg.labels import LabelSet
from rtseg.sinks.options import SinkOptions

SUFFIXES = (".jsonl", ".json", ".ndjson")


class JsonLinesSink(Sink):
    """`{"frame": 12, "pts": 0.4, "classes": [{"id": 15, "name": "person", "share": 0.31}]}`.

    A frame with a name has `"name"`, and one of several sources `"source"`. Propagated scores add
    `"propagated": true, "key": 8`, the index of the keyframe, or null before the first. A frame on
    which the network did not run because the image had not changed adds `"idle": true, "key": 8`.
    With `options.rle` every class has its mask as COCO run lengths, `{"size": [height, width],
    "counts": "..."}`. Every line is flushed.
    """

    wants_image = False

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        to_stdout = str(path) == "-"
        if not to_stdout and path.suffix.lower() not in SUFFIXES:
            raise UsageError(
                f"cannot write {path}", found="JSON lines go to .jsonl files, or to '-'"
            )
        self._name = Path("stdout") if to_stdout else path
        self.medium = "pipe" if to_stdout else "file"
        self._rle, self._broken = options.rle, False
        self._target: OutputFile | None = None
        self._file: IO[str] = sys.stdout
        if to_stdout and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as JSON is, whatever the terminal's
        self.lines = 0
        if not to_stdout:
            self._target = OutputFile(path, overwrite=options.overwrite)
            self._file = self._target.part.open("w", encoding="utf-8")
        self._named = self._failed = False

    @property
    def alive(self) -> bool:
        """False once the reader has closed the pipe."""
        return not self._broken

    def write(self, rendered: Rendered) -> None:
        """Append one line.

        Raises:
            SinkError: it cannot be written; the complete lines before it are kept.
        """
        text = json.dumps(describe(rendered, rle=self._rle), ensure_ascii=False)
        try:
            self._file.write(text + "\n")
            self._file.flush()
            self.lines += 1
        except BrokenPipeError:
            self._broken = True
            discard_output(self._file)
        except OSError as error:
            raise cannot_write(self._name, error, self._salvage()) from error

    def close(self) -> None:
        """Give the file its name, or remove it if it has no line."""
        target, self._target = self._target, None
        if target is None:
            return
        self._file.close()
        if self.lines:
            target.commit(whole=not self._failed)
            self._named = True
        else:
            target.discard()

    def summary(self) -> str:
        """Number of lines and where they are."""
        return f"{self.lines} lines to {self._name}" if self._named else ""

    def _salvage(self) -> str:
        """After a failure: cut off the incomplete line and keep the others."""
        target, self._failed = self._target, True
        if target is None:
            return ""
        with suppress(OSError):  # the same error again, for the rest of the line
            self._file.close()
        try:
            complete = target.part.read_bytes().rpartition(b"\n")[0] + b"\n"
            os.truncate(target.part, len(complete))
            self.close()
        except SinkError as error:
            return error.do or error.found
        except OSError:
            return target.keep()
        return f"The {self.lines} lines until then are in it." if self.lines else ""


def describe(rendered: Rendered, *, rle: bool = False) -> dict[str, Any]:
    """The JSON object of a frame."""
    frame, segmentation = rendered.frame, rendered.segmentation
    line: dict[str, Any] = {"source": _text(rendered.source)} if rendered.source else {}
    line |= {"frame": frame.index, "pts": round(frame.pts, 6)}
    if frame.name:
        line["name"] = _text(frame.name)
    if segmentation.carried is not None:
        why = "idle" if segmentation.carried.idle else "propagated"
        line |= {why: True, "key": segmentation.carried.key}
    line["classes"] = classes_of(segmentation, rle=rle)
    return line


def classes_of(segmentation: Segmentation, *, rle: bool = False) -> list[dict[str, Any]]:
    """Each class of a mask but the background, with its share, and if `rle` its run lengths."""
    found: list[dict[str, Any]] = [
        {"id": segmentation.labels.names.index(name), "name": name, "share": round(share, 6)}
        for name, share in segmentation.shares.items()
    ]
    if rle:
        for entry in found:
            entry["rle"] = run_lengths(segmentation.mask, entry["id"])
    return found


def _text(name: str) -> str:
    """A name as valid text, which file systems do not require: other bytes become U+FFFD."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def run_lengths(mask: Mask, index: int) -> dict[str, Any]:
    """One class of an (H, W) mask in COCO's compressed run-length format."""
    from pycocotools import mask as coco

    code = coco.encode(np.asfortranarray(mask == index, dtype=np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}
