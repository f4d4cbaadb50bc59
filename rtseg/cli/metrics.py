"""JSON for programs: `--metrics FILE.json` of a run, and the figures of other verbs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rtseg.sinks.files import FileTarget, cannot_write
from rtseg.stats import Report


def write_metrics(path: str, report: Report) -> None:
    """Write the report's figures as JSON; as `write_json`."""
    write_json(path, asdict(report))


def write_json(path: str, values: dict[str, Any]) -> None:
    """Write values as JSON, whole or not at all; "-" is stdout.

    Raises:
        SinkError: it cannot be written.
    """
    text = json.dumps(values, indent=2)
    if path == "-":
        print(text)
        return
    target = FileTarget(Path(path), overwrite=True)  # whether it may is asked before the run
    try:
        target.part.write_text(text + "\n", "utf-8")
    except OSError as error:
        target.discard()
        raise cannot_write(target.path, error) from error
    target.commit()
