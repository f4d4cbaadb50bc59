"""The full record of a benchmark: what is written as JSON, and all else is made from.

The JSON is one object; a figure that was not measured is null.

    rtseg_bench     version of this form, 1
    partial         whether it was stopped before its end
    machine         rtseg, git, python, os, cpu, cores, gpu, load_average, date, versions{}
    clip            name, width, height, frame_rate, frame_count
    settings        rounds, seconds, frames, threads, view, alpha, loop_ends_in, data, samples
    peaks[]         device, precision, threads; gflops: the best product or convolution;
                    copy_gb_s: the best copy within the device's memory, read and written
    rows[]          one per combination:
      model, asked{backend, precision, device}, random_weights
      input_size    [height, width]; [0, 0] where the network was not even found
      error         why it was not, or not wholly, measured; "" when all is well
      ran           name, device, precision, provider, notes, kept: read back from the library
      clocks        model, pipeline, worst, loop, as far as asked for, each:
        fps         median of the rounds' frames per second
        rounds      frames per second of each round
        passes      how many frames or batches were timed
        ms          p50, p95, p99, mean, max, over the passes of all rounds
        counts      of the loop: frames produced, shown, dropped, propagated, over all rounds
        age_ms, stages_ms    of the loop's last round, as in `rtseg run --metrics`
      load_seconds         library imported, network read (exported where it was not in the
                           cache), its own warm-up included
      first_seconds        the first frame, to a finished picture
      cold_start_seconds   from the start of a process to its first finished picture
      peak_memory_mb       most resident memory of the combination's own process, of which
                           Python, the library and the clip's samples are a part; not the GPU's
      agreement            mean and least share of pixels with torch's class in fp32 on the
                           processor, at frame size, over `frames` samples
      miou                 on `data`, 0 to 1
      gflop                of one picture up to the logits, 2 for a multiply and add
      peak_share           gflop over the model clock's p50, over the peak of its device
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rtseg.bench.clocks import Block
from rtseg.contracts import BackendInfo

FORMAT = 1
QUANTILES = {"p50": 50, "p95": 95, "p99": 99}


@dataclass
class ClockFigures:
    """One clock of one combination, over all rounds."""

    fps: float
    passes: int
    rounds: list[float]
    ms: dict[str, float]
    counts: dict[str, int] = field(default_factory=dict)
    age_ms: dict[str, float] = field(default_factory=dict)
    stages_ms: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass
class Agreement:
    """Share of pixels with the reference's class, over `frames` pictures."""

    mean: float
    least: float
    frames: int


@dataclass
class Row:
    """One combination."""

    model: str
    asked: dict[str, str]
    input_size: tuple[int, int]
    random_weights: bool = False
    error: str = ""
    ran: BackendInfo | None = None
    clocks: dict[str, ClockFigures] = field(default_factory=dict)
    load_seconds: float | None = None
    first_seconds: float | None = None
    cold_start_seconds: float | None = None
    peak_memory_mb: float | None = None
    agreement: Agreement | None = None
    miou: float | None = None
    gflop: float | None = None
    peak_share: float | None = None

    @property
    def backend(self) -> str:
        """What ran, or was asked for where nothing did."""
        return self.ran.name if self.ran else self.asked["backend"]

    @property
    def precision(self) -> str:
        """As `backend`."""
        return self.ran.precision if self.ran else self.asked["precision"]

    @property
    def device(self) -> str:
        """As `backend`."""
        return self.ran.device if self.ran else self.asked["device"]

    @property
    def runs_on(self) -> str:
        """Backend, precision and device, as "onnx fp32 cpu"."""
        return f"{self.backend} {self.precision} {self.device}"

    @property
    def size(self) -> str:
        """The input as "288x512", height first; "auto" where it was never known."""
        return "auto" if self.input_size == (0, 0) else f"{self.input_size[0]}x{self.input_size[1]}"

    @property
    def key(self) -> tuple[str, ...]:
        """By which rows of two records are matched."""
        return (self.model, self.backend, self.precision, self.size, self.device)


@dataclass
class Record:
    """A whole benchmark."""

    machine: dict[str, Any]
    clip: dict[str, Any]
    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    peaks: list[dict[str, Any]] = field(default_factory=list)
    partial: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` gives an equal record back."""
        return {"rtseg_bench": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Record:
        """Read what `to_json` gave.

        Raises:
            ValueError: it is no such thing, or of a later version.
        """
        if not isinstance(values, dict) or "rtseg_bench" not in values:
            raise ValueError("it is no record of rtseg bench")
        try:
            if values["rtseg_bench"] > FORMAT:
                raise ValueError("written by a later version of rtseg; upgrade it")
            fields = {key: value for key, value in values.items() if key != "rtseg_bench"}
            return cls(**{**fields, "rows": [_row(row) for row in values["rows"]]})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a damaged record of rtseg bench: {_lacking(error)}") from error


def _lacking(error: Exception) -> str:
    """What is wrong with the fields, in words."""
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def _row(values: dict[str, Any]) -> Row:
    ran, agreement = values["ran"], values["agreement"]
    height, width = values["input_size"]
    return Row(
        **{
            **values,
            "input_size": (height, width),
            "ran": BackendInfo(**{**ran, "notes": tuple(ran["notes"])}) if ran else None,
            "clocks": {name: ClockFigures(**one) for name, one in values["clocks"].items()},
            "agreement": Agreement(**agreement) if agreement else None,
        }
    )


def summarise(blocks: Sequence[Block]) -> ClockFigures:
    """The rounds of one clock as figures; at least one round."""
    rounds = [block.count / block.seconds for block in blocks]
    last = blocks[-1]
    return ClockFigures(
        fps=float(np.median(rounds)),
        passes=sum(block.count for block in blocks),
        rounds=rounds,
        ms=milliseconds([seconds for block in blocks for seconds in block.passes]),
        counts={name: sum(block.counts[name] for block in blocks) for name in last.counts},
        age_ms=last.age_ms,
        stages_ms=last.stages_ms,
    )


def milliseconds(passes: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 (between two passes in proportion), mean and max, of seconds in ms."""
    values = np.asarray(passes, float) * 1e3
    row = {name: float(np.percentile(values, share)) for name, share in QUANTILES.items()}
    return row | {"mean": float(values.mean()), "max": float(values.max())}
