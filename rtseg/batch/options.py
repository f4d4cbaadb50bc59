"""How `rtseg batch` spreads its clips, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rtseg.addresses import is_address, public_name
from rtseg.errors import UsageError
from rtseg.options import check, option


@dataclass(frozen=True)
class EngineKind:
    """A row of `ENGINES`.

    Attributes:
        open: "module:name", called as (flags, options, workers); returns a `Pool`.
        count: "module:name", called as (flags, options): how many workers there are by default.
    """

    open: str
    count: str


ENGINES: dict[str, EngineKind] = {
    "local": EngineKind("rtseg.batch.local:Processes", "rtseg.batch.local:usual_workers"),
    "ray": EngineKind("rtseg.batch.cluster:Actors", "rtseg.batch.cluster:usual_workers"),
}
"""What runs the workers."""

REPORT_SUFFIXES = (".json", ".csv")


@dataclass(frozen=True)
class BatchOptions:
    """How clips are spread over workers, and what is reported of them.

    Attributes:
        input: Folder, glob, or list file (.txt) of clips and images, also in buckets (s3://, gs://)
            or at https:// addresses; repeatable.
        output: Folder of the results, as the clips' folders: videos become .mp4, images .png; or a
            path with {name} for the clip, such as out/{name}.mkv; repeatable.
        mask_output: Folder of mask videos (.mkv) and PNGs, or a path with {name}.
        json: One JSON line per frame, with the share of each class: a path with {name}, such as
            out/{name}.jsonl.
        figure: A figure of each clip's first frame: a path with {name}, such as out/{name}.png.
        workers: Workers, each with the network loaded once; default one per two cores, or one if
            there is a GPU.
        engine: What runs the workers: local processes, or actors of Ray (needs rtseg[ray]), on the
            cluster of RAY_ADDRESS if that is set.
        gpus_per_worker: With --engine ray: GPUs of each worker, such as 0.5.
        lease: Seconds without a sign of life after which another machine takes over a clip.
        retry_failed: Also process the clips that failed before.
        dry_run: List the clips with what would be done, and exit.
        report: Write a row for each clip to a .json or .csv file; replaced if it exists.
        verbose: Print a line for each clip.
    """

    input: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    mask_output: str | None = None
    json: str | None = None
    figure: str | None = None
    workers: int | None = option(None, least=1, most=1024)
    engine: str = option("local", choices=ENGINES)
    gpus_per_worker: float | None = option(None, least=0, most=64)
    lease: float = option(60.0, least=1, most=86400)
    retry_failed: bool = False
    dry_run: bool = False
    report: str | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        check(self)
        if self.report is not None and is_address(self.report):
            found = "it is written to this machine"
            raise UsageError(f"--report {public_name(self.report)}", found=found, do="Name a file")
        if self.report is not None and Path(self.report).suffix.lower() not in REPORT_SUFFIXES:
            raise UsageError(f"--report {self.report}", do="Name a .json or .csv file")
        if self.gpus_per_worker is not None and self.engine != "ray":
            raise UsageError("--gpus-per-worker", found="it is for --engine ray", do="Use both")
        if (gpus := self.gpus_per_worker or 0) > 1 and gpus != int(gpus):
            raise UsageError(
                f"--gpus-per-worker {gpus:g}",
                found="Ray gives a fraction of one GPU, or whole ones",
                do="Use a number below 1, or a whole one",
            )
