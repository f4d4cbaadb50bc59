"""What the flags say of the network: its arithmetic, and what a foreign file is told."""

from __future__ import annotations

from typing import Any

from rtseg.backends import BackendOptions
from rtseg.cli import values
from rtseg.cli.options import ModelFlags
from rtseg.errors import UsageError


def precision_of(flags: ModelFlags) -> str:
    """The arithmetic asked for; raises UsageError where device, threads or it make no sense."""
    values.at_least("--threads", flags.threads, 1)
    BackendOptions(device=flags.device, threads=flags.threads)
    if flags.half and flags.precision not in ("auto", "fp16"):
        raise UsageError(f"--half and --precision {flags.precision} contradict", do="Give one")
    return "fp16" if flags.half else flags.precision


def input_flags_of(flags: ModelFlags) -> dict[str, Any]:
    """What a foreign ONNX file is told of its input; only what was given."""
    given = {
        "labels": flags.labels,
        "layout": flags.layout,
        "colour": flags.colour,
        "mean": values.triple("--mean", flags.mean),
        "std": values.triple("--std", flags.std),
        "scale": values.number("--scale", flags.scale),
        "activation": flags.activation,
    }
    return {name: value for name, value in given.items() if value is not None}
