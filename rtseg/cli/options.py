"""What each verb takes: the library's options, and what only the command line has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from rtseg import sinks, sources
from rtseg.backends.options import NetworkOptions
from rtseg.batch.options import BatchOptions
from rtseg.bench.options import BenchOptions
from rtseg.cli.flags import Row, collect
from rtseg.effects import ViewOptions
from rtseg.errors import UsageError
from rtseg.evaluation.options import EvalOptions
from rtseg.exporting import ExportOptions
from rtseg.options import Policy, check, keeps_newest, option
from rtseg.serve.options import ServeOptions
from rtseg.sinks import SinkOptions
from rtseg.sources import SourceOptions
from rtseg.temporal import TemporalOptions
from rtseg.temporal.options import USUAL_SMOOTH
from rtseg.training.options import TrainOptions

# ruff: noqa: RUF009 - the defaults are frozen


@dataclass(frozen=True)
class RunFlags:
    """What only the command line of `rtseg run` has.

    Attributes:
        input: Sources; several are shown as a grid:
        camera: Camera number or device path.
        models: Models that the m key cycles through; comma-separated or repeated.
        half: Same as --precision fp16.
        remeasure: Measure again which backend is fastest, and save the result.
        grid: Use the grid even for a single source.
        output: Where to write the result; repeatable:
        mask_output: Write class indices to a video or a folder of PNGs.
        json: Write one JSON line per frame, with the share of each class.
        figure: Write a figure of the first frame: original, classes, legend.
        web: Show the run on a web page at HOST:PORT, or :PORT; default 127.0.0.1:8765.
        show: Open a window; default if there are no outputs.
        screenshots: Folder for screenshots (s) and recordings (r) made in the window.
        policy: Frames to keep: auto is newest for live sources, all for files.
        target_fps: Live sources: keep this frame rate, shrinking the model input if needed.
        no_smooth: Same as --smooth 0.
        metrics: Write the figures of the report to a JSON file.
        verbose: Print opening times and more figures.
        quiet: Print only warnings and errors.
        debug: Print the traceback of an error.
        config: Read flags from a TOML file; the command line takes precedence.
        print_config: Print a TOML file that repeats this run, and exit.
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
    web: str | None = None
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
    Row("Model", NetworkOptions, "model"),
    Row("Model", RunFlags, "models"),
    Row("Model", NetworkOptions, "weights backend device precision"),
    Row("Model", RunFlags, "half"),
    Row("Model", NetworkOptions),
    Row("Model", RunFlags, "remeasure"),
    Row("View", ViewOptions),
    Row("View", NetworkOptions, "classes palette"),
    Row("View", RunFlags, "grid"),
    Row("Output", RunFlags, "output mask_output json figure web show screenshots"),
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
        raise UsageError(f"--half with --precision {network.precision}", do="Use only one of them")
    return replace(network, precision="fp16") if half else network


def temporal_of(flags: Flags, live: bool, *, watched: bool) -> TemporalOptions:
    """What a source gets by default: the network rests in a live one, and masks are smoothed where
    it is live or watched in a window. It rests at no keyframe of a recording.
    """
    temporal = flags.temporal
    if "smooth" not in flags.given and not flags.run.no_smooth and (live or watched):
        temporal = replace(temporal, smooth=USUAL_SMOOTH)
    if temporal.propagate and not keeps_newest(flags.run.policy, live):
        return replace(temporal, idle=False)
    return temporal if "idle" in flags.given else replace(temporal, idle=live)


@dataclass(frozen=True)
class Figures:
    """What only the command line has of a verb that measures.

    Attributes:
        overwrite: Replace existing files.
        quiet: Print only the figures and errors.
        debug: Print the traceback of an error.
    """

    overwrite: bool = False
    quiet: bool = False
    debug: bool = False


@dataclass(frozen=True)
class EvalReport(Figures):
    """What only the command line of `rtseg eval` has.

    Attributes:
        half: Same as --precision fp16.
        json: Write all figures to this JSON file; - is stdout.
    """

    half: bool = False
    json: str | None = None


@dataclass(frozen=True)
class EvalFlags:
    """Everything `rtseg eval` was given."""

    options: EvalOptions
    network: NetworkOptions
    report: EvalReport
    given: frozenset[str] = frozenset()


EVAL = (
    Row("Labelled images", EvalOptions, "data clip max_frames suite root format split classes"),
    Row("Labelled images", EvalOptions, "min_share names allow_outside max_pictures"),
    Row("Model", EvalOptions, "model imgsz"),
    Row("Model", EvalReport, "half"),
    Row("Model", NetworkOptions, without="model imgsz classes palette"),
    Row("Results", EvalOptions),
    Row("Results", EvalReport, "json"),
    Row("Results", EvalReport),
)


@dataclass(frozen=True)
class TrainRun:
    """What only the command line of `rtseg train` has.

    Attributes:
        config: Read flags from a TOML file, such as a run's config.toml; the command line takes
            precedence.
        resume: Resume the run in the folder.
        overwrite: Replace the run in the folder.
        quiet: Print only warnings and errors.
    """

    config: str | None = None
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False


AUGMENTATION = (
    "scale aspect rotation flip brightness contrast saturation gamma grey blur jpeg noise paste "
    "margins"
)

TRAIN = (
    Row("Labelled images", TrainOptions, "dataset format split classes palette allow_outside"),
    Row("Model", TrainOptions, "model weights size"),
    Row("Training", TrainOptions),
    Row("Augmentation", TrainOptions, AUGMENTATION),
    Row("Run", TrainOptions, "out export logger device devices precision workers seed"),
    Row("Run", TrainRun),
)


@dataclass(frozen=True)
class DataReport:
    """What `rtseg data` prints and writes.

    Attributes:
        sheet: Draw augmented images with their masks, .png, .jpg, .pdf or .svg; needs rtseg[train].
        json: Write the figures as JSON; - is stdout.
        overwrite: Overwrite existing files.
        config: Read flags from a TOML file for rtseg train; the command line takes precedence.
    """

    sheet: str | None = None
    json: str | None = None
    overwrite: bool = False
    config: str | None = None


DATA = (
    Row("Labelled images", TrainOptions, "dataset format split classes palette seed allow_outside"),
    Row("Augmented images", TrainOptions, f"size {AUGMENTATION}"),
    Row("Results", DataReport),
)


@dataclass(frozen=True)
class BenchReport(Figures):
    """What only the command line of `rtseg bench` has.

    Attributes:
        worst_case: Also time the pipeline with checkerboard logits.
        format: Format of stdout, and of files without a known suffix.
        output: Also write a .json, .csv, .md or .txt file; repeatable.
        plot: Write a chart as .png, .svg, .pdf or .jpg.
        compare: Print the changes since an older .json file of the same clip and machine.
        threshold: Exit with 5 if --compare finds any clock slower by more than this, such as 10%,
            and by more than noise.
    """

    worst_case: bool = False
    format: Literal["table", "md", "csv", "json"] = "table"
    output: tuple[str, ...] = ()
    plot: str | None = None
    compare: str | None = None
    threshold: float = 0.1

    def __post_init__(self) -> None:
        check(self)
        if not 0 <= self.threshold < 1:
            found = "it must be a share from 0 to 1"
            raise UsageError(f"--threshold {self.threshold:g}", found=found, do="Use 10% or 0.1")


@dataclass(frozen=True)
class BenchFlags:
    """Everything `rtseg bench` was given."""

    options: BenchOptions
    network: NetworkOptions
    view: ViewOptions
    report: BenchReport
    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if "threshold" in self.given and self.report.compare is None:
            do = "Name an older record with --compare"
            raise UsageError("--threshold without --compare", do=do)


BENCH = (
    Row("Model", BenchOptions, "model"),
    Row("Model", NetworkOptions, "weights"),
    Row("Model", BenchOptions, "backend precision imgsz"),
    Row("Model", NetworkOptions, "device threads strict_device"),
    Row("Clip and timing", BenchOptions, "input duration frames rounds encode"),
    Row("Clip and timing", BenchReport, "worst_case"),
    Row("Clip and timing", ViewOptions, "view alpha"),
    Row("Results", BenchOptions),
    Row("Results", BenchReport, "format output plot compare threshold"),
    Row("Results", BenchReport),
)


@dataclass(frozen=True)
class ExportReport:
    """What only the command line of `rtseg export` has.

    Attributes:
        output: File to write, such as net.onnx.
        quiet: Print only the table and errors.
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
    Row("Verification", ExportOptions, "samples calibration min_agreement keep"),
    Row("Verification", ExportReport),
)


@dataclass(frozen=True)
class DemoFlags:
    """What `rtseg demo` has.

    Attributes:
        seconds: Length of the clip in seconds.
        no_show: Write rtseg-demo.mp4 instead of opening a window.
        output: Write this instead of opening a window, as rtseg -o does.
        overwrite: Replace existing files.
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
        measure: Measure the frame rate of each camera for a second.
        json: Print JSON.
    """

    measure: bool = True
    json: bool = False


@dataclass(frozen=True)
class DoctorFlags:
    """What `rtseg doctor` has.

    Attributes:
        json: Print JSON, for a bug report.
    """

    json: bool = False


@dataclass(frozen=True)
class ServeRun:
    """What only the command line of `rtseg serve` has.

    Attributes:
        half: Same as --precision fp16.
        remeasure: Measure again which backend is fastest, and save the result.
        quiet: Print only the address, warnings and errors.
    """

    half: bool = False
    remeasure: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class ServeFlags:
    """Everything `rtseg serve` was given."""

    options: ServeOptions
    network: NetworkOptions
    run: ServeRun
    given: frozenset[str] = frozenset()


SERVE = (
    Row("Server", ServeOptions, "host port token allow_host allow_origin tls_cert tls_key"),
    Row("Limits", ServeOptions),
    Row("Model", NetworkOptions, "model weights backend device precision"),
    Row("Model", ServeRun, "half"),
    Row("Model", NetworkOptions, without="tta window overlap refine"),
    Row("Model", ServeRun, "remeasure"),
    Row("Run", ServeRun),
)


@dataclass(frozen=True)
class BatchFlags(Flags):
    """Everything `rtseg batch` was given: the flags of each run, and how they are spread."""

    batch: BatchOptions = BatchOptions()


BATCH = (
    Row("Clips", BatchOptions, "input"),
    Row("Clips", SourceOptions, "start end max_frames every fps fps_cap"),
    Row("Clips", SourceOptions, "mirror rotate decoder stream deinterlace"),
    Row("Model", NetworkOptions, "model weights backend device precision"),
    Row("Model", RunFlags, "half"),
    Row("Model", NetworkOptions),
    Row("View", ViewOptions),
    Row("View", NetworkOptions, "classes palette"),
    Row("Output", BatchOptions, "output mask_output json figure"),
    Row("Output", SinkOptions),
    Row("Time", TemporalOptions),
    Row("Time", RunFlags, "no_smooth"),
    Row("Batch", BatchOptions),
    Row("Batch", RunFlags, "quiet debug config"),
)

DEMO = (Row("Demo", DemoFlags),)
CAMERAS = (Row("Cameras", CamerasFlags),)
DOCTOR = (Row("Doctor", DoctorFlags),)

LAYOUTS = {
    "run": RUN,
    "bench": BENCH,
    "eval": EVAL,
    "train": TRAIN,
    "data": DATA,
    "export": EXPORT,
    "serve": SERVE,
    "batch": BATCH,
    "demo": DEMO,
    "cameras": CAMERAS,
    "doctor": DOCTOR,
}
"""The flags of every verb that has options."""
