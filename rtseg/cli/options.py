"""What each verb takes: the library's options, and what only the command line has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from rtseg import sinks, sources
from rtseg.backends.options import NetworkOptions
from rtseg.bench.options import BenchOptions
from rtseg.cli.flags import Row, collect
from rtseg.effects import ViewOptions
from rtseg.errors import UsageError
from rtseg.evaluate.options import EvalOptions
from rtseg.export import ExportOptions
from rtseg.options import Policy, check, option
from rtseg.sinks import SinkOptions
from rtseg.sources import SourceOptions
from rtseg.temporal import TemporalOptions
from rtseg.temporal.options import USUAL_SMOOTH
from rtseg.train.options import TrainOptions

# ruff: noqa: RUF009 - the defaults are frozen


@dataclass(frozen=True)
class RunFlags:
    """What only the command line of `rtseg run` has.

    Attributes:
        input: Sources; several are shown as a grid:
        camera: Camera number or device path.
        models: Networks that m cycles through in the window; comma list or repeated.
        half: The same as --precision fp16.
        remeasure: Measure again which backend is fastest, and replace the remembered result.
        grid: Show a single source as a grid, too.
        output: Where results go; repeatable:
        mask_output: Class indices: a video, or a folder of PNGs.
        json: One JSON line per frame: share per class.
        figure: Figure of one picture: original, classes, legend.
        show: Open a window; the default without outputs.
        screenshots: Folder for what s and r save in the window; default the current one.
        policy: Frames to keep: auto is newest for live sources, all for files.
        target_fps: Live: keep this rate, by a smaller network input if necessary.
        no_smooth: The same as --smooth 0.
        metrics: Write the figures of the report to this JSON file.
        verbose: Print how long opening took, and more figures.
        quiet: Print nothing but errors.
        debug: Show the traceback of an error.
        config: TOML file with the names of these flags; the command line wins.
        print_config: Print a TOML file that repeats this run, and stop.
    """

    input: tuple[str, ...] = option((), forms=sources.target_help())
    camera: str | None = None
    models: tuple[str, ...] = ()
    half: bool = False
    remeasure: bool = False
    grid: bool = False
    output: tuple[str, ...] = option((), forms=sinks.target_help())
    mask_output: str | None = None
    json: str | None = None
    figure: str | None = None
    show: bool | None = None
    screenshots: str = "."
    policy: Policy = "auto"
    target_fps: float | None = option(None, least=0.1)
    no_smooth: bool = False
    metrics: str | None = None
    verbose: bool = False
    quiet: bool = False
    debug: bool = False
    config: str | None = None
    print_config: bool = False

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Flags:
    """Everything `rtseg run` was given; `given` are the names of the fields that were."""

    source: SourceOptions = SourceOptions()
    network: NetworkOptions = NetworkOptions()
    view: ViewOptions = ViewOptions()
    sink: SinkOptions = SinkOptions()
    temporal: TemporalOptions = TemporalOptions()
    run: RunFlags = RunFlags()
    given: frozenset[str] = frozenset()

    @classmethod
    def of(cls, **given: Any) -> Flags:
        """The flags of a run from the fields that are not as usual, whatever class they are of."""
        return collect(cls, RUN, given)

    @property
    def sources(self) -> tuple[str, ...]:
        """All that were named, a `--camera` first."""
        camera = () if self.run.camera is None else (self.run.camera,)
        return (*camera, *self.run.input)


RUN = (
    Row("Source", RunFlags, "input camera"),
    Row("Source", SourceOptions),
    Row("Network", NetworkOptions, "model"),
    Row("Network", RunFlags, "models"),
    Row("Network", NetworkOptions, "weights backend device precision"),
    Row("Network", RunFlags, "half"),
    Row("Network", NetworkOptions),
    Row("Network", RunFlags, "remeasure"),
    Row("View", ViewOptions),
    Row("View", NetworkOptions, "classes palette"),
    Row("View", RunFlags, "grid"),
    Row("Output", RunFlags, "output mask_output json figure show screenshots"),
    Row("Output", SinkOptions),
    Row("Run", RunFlags, "policy target_fps"),
    Row("Run", TemporalOptions),
    Row("Run", RunFlags),
)


def with_half(network: NetworkOptions, *, half: bool) -> NetworkOptions:
    """The network's options with the precision that `--half` means.

    Raises:
        UsageError: another one was given.
    """
    if half and network.precision not in ("auto", "fp16"):
        raise UsageError(f"--half and --precision {network.precision} contradict", do="Give one")
    return replace(network, precision="fp16") if half else network


def temporal_of(flags: Flags, live: bool, *, watched: bool = False) -> TemporalOptions:
    """What a source gets by default: the network rests in a live one, and masks are smoothed where
    it is live or watched in a window.
    """
    temporal = flags.temporal
    if "smooth" not in flags.given and not flags.run.no_smooth and (live or watched):
        temporal = replace(temporal, smooth=USUAL_SMOOTH)
    return temporal if "idle" in flags.given else replace(temporal, idle=live)


@dataclass(frozen=True)
class EvalReport:
    """What only the command line of `rtseg eval` has.

    Attributes:
        half: The same as --precision fp16.
        json: Write every figure to this JSON file, - for stdout.
        overwrite: Replace existing files.
        quiet: Print only the table, and errors.
        debug: Show the traceback of an error.
    """

    half: bool = False
    json: str | None = None
    overwrite: bool = False
    quiet: bool = False
    debug: bool = False


@dataclass(frozen=True)
class EvalFlags:
    """Everything `rtseg eval` was given."""

    options: EvalOptions
    network: NetworkOptions
    report: EvalReport
    given: frozenset[str] = frozenset()


EVAL = (
    Row("Labelled images", EvalOptions, "data clip max_frames suite root format split classes"),
    Row("Labelled images", EvalOptions, "min_share names max_pictures"),
    Row("Network", EvalOptions, "model imgsz"),
    Row("Network", EvalReport, "half"),
    Row("Network", NetworkOptions, without="model imgsz classes palette"),
    Row("Figures", EvalOptions),
    Row("Figures", EvalReport),
)


@dataclass(frozen=True)
class TrainRun:
    """What only the command line of `rtseg train` has.

    Attributes:
        config: TOML file with the names of these flags, as a run's config.toml; the command line
            wins.
        resume: Go on with the run in the folder.
        overwrite: Replace the run in the folder.
        quiet: Print nothing but errors.
    """

    config: str | None = None
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False


TRAIN = (
    Row("Labelled images", TrainOptions, "dataset format classes"),
    Row("Network", TrainOptions, "model weights size"),
    Row("Training", TrainOptions),
    Row("Augmentation", TrainOptions, "rotation brightness contrast flip noise scale"),
    Row("Run", TrainOptions, "out device devices precision workers seed"),
    Row("Run", TrainRun),
)


@dataclass(frozen=True)
class BenchReport:
    """What only the command line of `rtseg bench` has.

    Attributes:
        worst_case: Time the pipeline with checkerboard logits, too.
        format: Format of stdout, and of files whose name does not say.
        output: Write .json, .csv, .md or .txt, too; repeatable.
        plot: Write a chart: .png, .svg, .pdf, .jpg.
        compare: Print the change against an older .json.
        threshold: Exit with 5 if --compare finds any clock slower by more than this share, as 10%.
        overwrite: Replace existing files.
        quiet: Print only the figures, and errors.
        debug: Show the traceback of an error.
    """

    worst_case: bool = False
    format: Literal["table", "md", "csv", "json"] = "table"
    output: tuple[str, ...] = ()
    plot: str | None = None
    compare: str | None = None
    threshold: float = 0.1
    overwrite: bool = False
    quiet: bool = False
    debug: bool = False

    def __post_init__(self) -> None:
        check(self)
        if not 0 <= self.threshold < 1:
            found = "it must be a share from 0 to 1"
            raise UsageError(f"--threshold {self.threshold:g}", found=found, do="Write 10% or 0.1")


@dataclass(frozen=True)
class BenchFlags:
    """Everything `rtseg bench` was given."""

    options: BenchOptions
    network: NetworkOptions
    view: ViewOptions
    report: BenchReport
    given: frozenset[str] = frozenset()


BENCH = (
    Row("Network", BenchOptions, "model"),
    Row("Network", NetworkOptions, "weights"),
    Row("Network", BenchOptions, "backend precision imgsz"),
    Row("Network", NetworkOptions, "device threads strict_device"),
    Row("Clip and clocks", BenchOptions, "input duration frames rounds encode"),
    Row("Clip and clocks", BenchReport, "worst_case"),
    Row("Clip and clocks", ViewOptions, "view alpha"),
    Row("Figures", BenchOptions),
    Row("Figures", BenchReport),
)


@dataclass(frozen=True)
class ExportReport:
    """What only the command line of `rtseg export` has.

    Attributes:
        output: The file to write, as net.onnx.
        quiet: Print only the table, and errors.
    """

    output: str | None = None
    quiet: bool = False


@dataclass(frozen=True)
class ExportFlags:
    """Everything `rtseg export` was given."""

    options: ExportOptions
    network: NetworkOptions
    report: ExportReport
    given: frozenset[str] = frozenset()


EXPORT = (
    Row("File", NetworkOptions, "model weights"),
    Row("File", ExportReport, "output"),
    Row("File", ExportOptions),
    Row("Proof", ExportOptions, "samples calibration min_agreement keep"),
    Row("Proof", ExportReport),
)


@dataclass(frozen=True)
class DemoFlags:
    """What `rtseg demo` has.

    Attributes:
        seconds: Length of the clip.
        no_show: Write rtseg-demo.mp4 instead of opening a window.
        output: Write this instead, as rtseg -o does.
        overwrite: Replace what -o names.
    """

    seconds: float = option(10.0, least=0.1)
    no_show: bool = False
    output: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class CamerasFlags:
    """What `rtseg cameras` has.

    Attributes:
        measure: Read each for a second, and report the rate that really comes.
        json: Print JSON.
    """

    measure: bool = True
    json: bool = False


@dataclass(frozen=True)
class DoctorFlags:
    """What `rtseg doctor` has.

    Attributes:
        json: Print JSON, to attach to a bug report.
    """

    json: bool = False


DEMO = (Row("Demo", DemoFlags),)
CAMERAS = (Row("Cameras", CamerasFlags),)
DOCTOR = (Row("Doctor", DoctorFlags),)

LAYOUTS = {
    "run": RUN,
    "bench": BENCH,
    "eval": EVAL,
    "train": TRAIN,
    "export": EXPORT,
    "demo": DEMO,
    "cameras": CAMERAS,
    "doctor": DOCTOR,
}
"""The flags of every verb that has options."""
