"""`--metrics FILE.json`: the report of a run, for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rtseg.errors import SinkError
from rtseg.stats import Report


def write_metrics(path: str, report: Report) -> None:
    """Write the report's figures as JSON, under a temporary name first.

    Raises:
        SinkError: it cannot be written.
    """
    file = Path(path)
    unfinished = file.with_name(f".{file.name}.part")
    try:
        unfinished.write_text(json.dumps(asdict(report), indent=2) + "\n", "utf-8")
        unfinished.replace(file)
    except OSError as error:
        raise SinkError(f"--metrics {path} cannot be written", found=_reason(error)) from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
