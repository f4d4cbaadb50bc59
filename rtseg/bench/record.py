"""The full record of a benchmark: written as JSON, and the source of all reports.

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
      input_size    [height, width]; [0, 0] if the model was not found
      error         why it was not, or not completely, measured; "" if it was
      ran           name, device, precision, provider, notes, kept: read back from the library
      clocks        model, pipeline, worst, loop, as far as asked for, each:
        fps         median of the rounds' frames per second
        rounds      frames per second of each round
        passes      how many frames or batches were timed
        ms          p50, p95, p99, mean, max, over the passes of all rounds
        counts      of the loop: frames produced, shown, dropped, propagated, over all rounds
        age_ms, stages_ms    of the loop's last round, as in `rtseg run --metrics`
      load_seconds         import the library, read the model (and export it if it is not in the
                           cache), warm up
      first_seconds        the first frame, to a finished image
      cold_start_seconds   from the start of a process to its first finished image
      peak_memory_mb       peak resident memory of the combination's own process, with Python,
                           the library and the clip's samples; not the GPU's
      agreement            mean and least share of pixels with torch's class in fp32 on the
                           processor, at frame size, over `frames` samples
      miou                 on `data`, 0 to 1
      gflop                of one image up to the logits; a multiply-add counts 2
      peak_share           gflop over the model clock's p50, over the peak of its device
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from rtseg._version import __version__
from rtseg.backends.options import package_versions
from rtseg.bench.clocks import Block
from rtseg.contracts import BackendInfo
from rtseg.documents import convert
from rtseg.errors import UsageError
from rtseg.system import PACKAGES, installed_versions, usable_cores

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

    def __post_init__(self) -> None:
        if not all(0 < rate < np.inf for rate in (self.fps, *self.rounds)):
            raise ValueError("rates are greater than 0")


@dataclass
class Agreement:
    """Share of pixels with the reference's class, over `frames` frames."""

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
    processor_ms: dict[str, list[float | None]] = field(default_factory=dict)
    agreement: Agreement | None = None
    miou: float | None = None
    gflop: float | None = None
    peak_share: float | None = None

    @property
    def backend(self) -> str:
        """The backend that ran, or the requested one if none did."""
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
        """The input as "288x512" (HxW); "auto" if unknown."""
        return "auto" if self.input_size == (0, 0) else f"{self.input_size[0]}x{self.input_size[1]}"

    @property
    def key(self) -> tuple[str, ...]:
        """Rows of two records with equal keys are compared."""
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
        """Plain values; the inverse is `from_json`."""
        return {"rtseg_bench": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any], where: str = "a record") -> Record:
        """Read what `to_json` returned, which `where` has.

        Raises:
            UsageError: it is not a record, or of a later version.
        """
        do = "Write one with rtseg bench -o FILE.json"
        fields = {**convert(values, dict, where, do=do)}
        version = fields.pop("rtseg_bench", None)
        if type(version) is not int or version > FORMAT:
            found = "it is not a record of rtseg bench"
            if type(version) is int:
                found, do = "it was written by a later version of rtseg", "Upgrade rtseg"
            raise UsageError(f"cannot read {where}", found=found, do=do)
        record = convert(fields, cls, where, do=do)
        convert(record.machine, _Machine, where, do=do)
        for row in record.rows:
            convert(row.asked, _Asked, where, do=do)
        return record


@dataclass
class _Asked:
    """What `Row.asked` holds."""

    backend: str
    precision: str
    device: str


class _Machine(Struct):
    """What a comparison needs of `Record.machine`."""

    versions: dict[str, str]
    gpu: str | None = None


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
    """p50, p95, p99 (interpolated), mean and max of seconds, in milliseconds."""
    values = np.asarray(passes, float) * 1e3
    row = {name: float(np.percentile(values, share)) for name, share in QUANTILES.items()}
    return row | {"mean": float(values.mean()), "max": float(values.max())}


BUSY = 0.5
"""Load per core above which the machine counts as busy."""


def machine() -> dict[str, Any]:
    """Versions, processor, GPU and load; see `rtseg.bench.record`."""
    return {
        "rtseg": __version__,
        "git": git_version(),
        "python": platform.python_version(),
        "os": platform.platform(),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "gpu": gpu_name(),
        "load_average": load_average(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": package_versions() | installed_versions(PACKAGES),
    }


def is_busy(facts: dict[str, Any]) -> bool:
    """Whether the machine was busy when the benchmark started."""
    return bool((facts["load_average"] or 0) > BUSY * facts["cores"])


def cpu_name() -> str:
    """The processor's model."""
    if platform.system() == "Linux":
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return models[0] if models else platform.machine()
    if platform.system() == "Darwin":
        return _output_of("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def gpu_name() -> str:
    """NVIDIA GPUs and their driver, or ""."""
    return _output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")


def load_average() -> float | None:
    """Load average over the last minute; None on Windows."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def git_version() -> str:
    """`git describe` of the checkout that rtseg runs from; "" if it is installed."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return ""
    return _output_of("git", "-C", str(checkout), "describe", "--always", "--dirty", "--tags")


def _output_of(*command: str) -> str:
    """The output of a program on one line; "" if it does not exist or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "; ".join(done.stdout.strip().splitlines()) if done.returncode == 0 else ""


STANDARD_ERRORS = 4.0
"""A change of fewer is noise. Of two records of three rounds at the same speed, 1 % of the clocks
seem slower by more, and a change of 8 standard deviations of a round is found in 99.8 %
(simulated, normal noise)."""


@dataclass(frozen=True)
class Change:
    """One clock of one row, before and now, in frames per second.

    Attributes:
        noise: the share of `before` by which the two may differ at the same speed, from the spread
            of their rounds; None if one of them has a single round.
    """

    row: Row
    clock: str
    before: float
    now: float
    noise: float | None = None

    @property
    def share(self) -> float:
        """0.1 is a tenth faster, -0.1 a tenth slower."""
        return self.now / self.before - 1

    @property
    def within_noise(self) -> bool:
        """Whether the rounds differ too much among themselves for this change to mean anything."""
        return self.noise is not None and abs(self.share) <= self.noise


def noise(before: ClockFigures, now: ClockFigures) -> float | None:
    """The noise of a change from one clock's figures to another's, see `Change`."""
    if min(len(before.rounds), len(now.rounds)) < 2:
        return None
    variance = sum(np.var(one.rounds, ddof=1) / len(one.rounds) for one in (before, now))
    return float(STANDARD_ERRORS * np.sqrt(variance) / before.fps)


@dataclass(frozen=True)
class Comparison:
    """The changes between two records.

    Attributes:
        warnings: why figures may not be comparable, and rows that only one record has.
        lost: what ran before and failed now.
    """

    changes: tuple[Change, ...]
    warnings: tuple[str, ...]
    lost: tuple[str, ...] = ()

    def slower_than(self, threshold: float) -> list[Change]:
        """The changes beyond noise that are slower by more than `threshold`, 0.1 being a tenth."""
        slower = [change for change in self.changes if change.share < -threshold]
        return [change for change in slower if not change.within_noise]

    def unsure_of(self, threshold: float) -> list[Change]:
        """The changes whose noise would hide one of `threshold`."""
        return [change for change in self.changes if (change.noise or 0.0) > threshold]


def compare(now: Record, before: Record) -> Comparison:
    """Compare rows of the same model, backend, precision, input size and device."""
    old = {row.key: row for row in before.rows if row.clocks}
    new = {row.key: row for row in now.rows if row.clocks}
    changes = [
        Change(row, clock, was.fps, figures.fps, noise(was, figures))
        for key, row in new.items()
        if key in old
        for clock, figures in row.clocks.items()
        if (was := old[key].clocks.get(clock)) is not None
    ]
    alone = [
        *(f"not in the older record: {' '.join(key)}" for key in new if key not in old),
        *(f"only in the older record: {' '.join(key)}" for key in old if key not in new),
    ]
    lost = [
        f"{row.model} {row.runs_on} {row.size}: {row.error}"
        for row in now.rows
        if row.error and any(_has_lost(row, one) for one in old.values())
    ]
    return Comparison(tuple(changes), (*_differences(now, before), *alone), tuple(lost))


def _has_lost(row: Row, before: Row) -> bool:
    """Whether a failed row lacks a clock that it had before.

    The row of a model that was not found stands for all its combinations, separated by commas.
    """
    same = row.model == before.model and row.input_size in ((0, 0), before.input_size)
    same = same and all(before.asked[name] in text.split(",") for name, text in row.asked.items())
    return same and not before.clocks.keys() <= row.clocks.keys()


def _differences(now: Record, before: Record) -> list[str]:
    facts = [
        *((name, before.machine.get(name), now.machine.get(name)) for name in _FACTS),
        *((name, before.settings.get(name), now.settings.get(name)) for name in _SETTINGS),
        *_versions(before.machine["versions"], now.machine["versions"]),
    ]
    partial = "one of the two records was stopped before its end"
    return [*_words(facts), *([partial] if now.partial or before.partial else [])]


def mismatches(now: Record, before: Record) -> list[str]:
    """What makes the figures of two records incomparable: another machine, or another clip."""
    old, new = (_without_driver(one.machine.get("gpu") or "") for one in (before, now))
    facts = [
        *((name, before.machine.get(name), now.machine.get(name)) for name in ("cpu", "cores")),
        ("gpu", old, new),
        *(("clip " + name, before.clip.get(name), now.clip.get(name)) for name in _CLIP),
    ]
    return _words(facts)


def _words(facts: Iterable[tuple[str, Any, Any]]) -> list[str]:
    return [
        f"{name} was {old or 'none'}, is {new or 'none'}" for name, old, new in facts if old != new
    ]


def _without_driver(gpus: str) -> str:
    """The names in what `gpu_name` returns."""
    return "; ".join(gpu.rpartition(",")[0] or gpu for gpu in gpus.split("; "))


_FACTS = ("gpu", "os", "python", "rtseg")
_CLIP = ("name", "width", "height", "frame_rate", "frame_count")
_SETTINGS = ("threads", "view", "loop_ends_in", "seconds", "frames")


def _versions(before: dict[str, str], now: dict[str, str]) -> Sequence[tuple[str, str, str]]:
    return [(name, before.get(name, ""), now.get(name, "")) for name in sorted({*before, *now})]


Peak = dict[str, Any]
"""One of `peaks` of the record."""


def keep_best(
    peaks: list[Peak], place: tuple[str, str], threads: int | None, **found: float
) -> None:
    """Add measurements (`gflops`, `copy_gb_s`); the best per device and precision is kept."""
    for peak in peaks:
        if _place(peak) == place:
            peak.update({name: max(peak[name], value) for name, value in found.items()})
            return
    device, precision = place
    peaks.append({"device": device, "precision": precision, "threads": threads, **found})


def peak_place(row: Row) -> tuple[str, str]:
    """Device and precision of the peak for a row: on a CPU, fp32 or bf16."""
    device = row.device.split()[0]
    own = device.startswith("cuda") or row.precision == "bf16"
    return device, row.precision if own else "fp32"


def peak_share(row: Row, peaks: Sequence[Peak]) -> float | None:
    """Operations per second of the model clock's p50, over the peak of its device."""
    peak = next((p["gflops"] for p in peaks if _place(p) == peak_place(row)), None)
    if not peak or row.gflop is None or "model" not in row.clocks:
        return None
    return float(row.gflop / (row.clocks["model"].ms["p50"] / 1e3) / peak)


def _place(peak: Peak) -> tuple[str, str]:
    return peak["device"], peak["precision"]
