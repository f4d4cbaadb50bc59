"""The flags of `rtseg run`, in the groups in which `--help` shows them.

Fields hold what a person typed; `values.py` turns the odd ones into numbers, so that
`--print-config` can print them again as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, TypeVar

from cyclopts import Group, Parameter, Token

from rtseg.backends import BackendOptions
from rtseg.effects import VIEWS, ViewOptions
from rtseg.errors import UsageError
from rtseg.sinks import SinkOptions, find_kind, target_help
from rtseg.temporal import TemporalOptions
from rtseg.temporal.options import USUAL_SMOOTH


def whole(kind: object, tokens: Sequence[Token]) -> int:
    """A whole number: cyclopts by itself would round 1.5."""
    text = tokens[0].value
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no whole number") from error


# Optional[X], not X | None: cyclopts evaluates these at run time, under Python 3.10 too.
Text = Optional[str]  # noqa: UP045
Whole = Annotated[Optional[int], Parameter(converter=whole)]  # noqa: UP045
Real = Optional[float]  # noqa: UP045
if TYPE_CHECKING:
    ViewName = str
else:
    ViewName = Literal[tuple(VIEWS)]


def flag(text: str, *names: str, negative: str | tuple[str, ...] = ()) -> Parameter:
    """A flag's help; `names` where the field's own will not do; a `--no-...` form if given."""
    return Parameter(name=names or None, help=text, negative=negative, show_default=_if_telling)


def _if_telling(default: object) -> str | None:
    """A default worth showing: not that a switch is off, or a list empty."""
    return None if default is None or isinstance(default, (bool, tuple)) else str(default)


SOURCE = Group("Source", sort_key=1)
MODEL = Group("Network", sort_key=2)
VIEW = Group("View", sort_key=3)
OUTPUT = Group("Output", sort_key=4)
RUN = Group("Run", sort_key=5)


@Parameter(name="*", group=SOURCE)
@dataclass(frozen=True)
class SourceFlags:
    """Where frames come from."""

    camera: Annotated[Text, flag("Camera number or device path.")] = None
    width: Annotated[Whole, flag("Ask the camera for this width.")] = None
    height: Annotated[Whole, flag("Ask the camera for this height.")] = None
    fps: Annotated[Real, flag("Ask the camera for this rate; the rate of raw frames.")] = None
    fourcc: Annotated[Text, flag("Ask the camera for this format, as MJPG; auto prefers that.")] = (
        None
    )
    size: Annotated[Text, flag("Size of raw frames on stdin, as 1280x720.")] = None
    pix_fmt: Annotated[
        Literal["bgr24", "rgb24"], flag("Pixels of raw frames on stdin and stdout.")
    ] = "bgr24"
    mirror: Annotated[bool, flag("Flip left and right.")] = False
    rotate: Annotated[Literal[0, 90, 180, 270], flag("Turn clockwise by these degrees.")] = 0
    loop: Annotated[bool, flag("Begin again at the end.")] = False
    live: Annotated[bool, flag("Replay a recording as a camera: late frames are dropped.")] = False
    fps_cap: Annotated[Real, flag("Leave out frames that come faster than this a second.")] = None
    start: Annotated[Text, flag("Begin here: seconds, or 1:02.5.")] = None
    end: Annotated[Text, flag("Stop here: seconds, or 1:02.5.")] = None
    max_frames: Annotated[Whole, flag("Stop after so many frames.")] = None
    every: Annotated[int, flag("Take one frame of so many."), Parameter(converter=whole)] = 1
    decoder: Annotated[
        str, flag("What decodes video files: opencv, or nvdec[:N] on an NVIDIA GPU.")
    ] = "opencv"
    reconnect: Annotated[
        bool, flag("Reopen a camera or stream that was lost.", negative="--no-reconnect")
    ] = True
    timeout: Annotated[float, flag("Seconds to wait for a camera or stream.")] = 10.0


@Parameter(name="*", group=MODEL)
@dataclass(frozen=True)
class ModelFlags:
    """Which network, and what runs it."""

    model: Annotated[
        Text,
        flag(
            "A name of `rtseg models`, an ONNX file, a checkpoint, or a folder of `rtseg train`.",
            "--model",
            "-m",
        ),
    ] = None
    models: Annotated[
        tuple[str, ...],
        flag("Networks that m goes through in the window; comma list or repeated."),
    ] = ()
    weights: Annotated[Text, flag('Weights file, or "random" to time a network.')] = None
    backend: Annotated[
        Literal["auto", "torch", "torch-compile", "onnx", "openvino", "stub"],
        flag("Library that runs the network.", "--backend", "-b"),
    ] = "auto"
    device: Annotated[
        str,
        flag(
            "auto, cpu, cuda[:N], mps; with onnx also tensorrt, directml, coreml.", "--device", "-d"
        ),
    ] = "auto"
    precision: Annotated[
        Literal["auto", "fp32", "tf32", "fp16", "bf16", "int8"], flag("Arithmetic of the network.")
    ] = "auto"
    half: Annotated[bool, flag("The same as --precision fp16.")] = False
    imgsz: Annotated[
        Text, flag("Input size HxW or one number; auto follows the frame's shape.")
    ] = "auto"
    threads: Annotated[Whole, flag("Processor threads of the network.")] = None
    strict_device: Annotated[bool, flag("Fail (exit 4) rather than run on another device.")] = False
    labels: Annotated[Text, flag("Foreign ONNX: class names, a file or a comma list.")] = None
    layout: Annotated[
        Optional[Literal["NCHW", "NHWC"]], flag("Foreign ONNX: order of the axes.")  # noqa: UP045
    ] = None
    colour: Annotated[
        Optional[Literal["RGB", "BGR"]],  # noqa: UP045
        flag("Foreign ONNX: colour order.", "--colour", "--color"),
    ] = None
    mean: Annotated[Text, flag("Foreign ONNX: one number or R,G,B.")] = None
    std: Annotated[Text, flag("Foreign ONNX: one number or R,G,B.")] = None
    scale: Annotated[Text, flag("Foreign ONNX: factor before mean and std, as 1/255.")] = None
    activation: Annotated[
        Optional[Literal["none", "logits", "softmax", "sigmoid", "probabilities"]],  # noqa: UP045
        flag("Foreign ONNX: what its output holds."),
    ] = None


@Parameter(name="*", group=VIEW)
@dataclass(frozen=True)
class ViewFlags:
    """What is drawn."""

    view: Annotated[
        Optional[ViewName],  # noqa: UP045
        flag("What to draw: overlay by default, cutout with --background."),
    ] = None
    background: Annotated[
        str,
        flag(
            "Behind what is found: none, blur, blur:1 to blur:20, transparent, a colour (name or "
            "'#rrggbb'), a picture or a video."
        ),
    ] = "none"
    feather: Annotated[
        float, flag("With a background: fade the edge inwards over so many pixels more.")
    ] = 0.0
    matte_threshold: Annotated[
        float, flag("With a background: keep from this probability on, 0 to 1; lower keeps more.")
    ] = 0.5
    alpha: Annotated[float, flag("Opacity of the colours, 0 to 1.", "--alpha", "--opacity")] = 0.4
    classes: Annotated[
        tuple[str, ...], flag("Keep these classes, by name or number; comma list or repeated.")
    ] = ()
    palette: Annotated[
        Text, flag("voc, cityscapes, ade20k, random:SEED, or a file of colours.")
    ] = None
    legend: Annotated[bool, flag("Name the classes in view.", negative="--no-legend")] = False
    hud: Annotated[
        Optional[bool],  # noqa: UP045
        flag("Draw speed, age and device; default in a window only.", negative="--no-hud"),
    ] = None
    grid: Annotated[bool, flag("Show a grid of one source too; several are one in any case.")] = (
        False
    )


@Parameter(name="*", group=OUTPUT)
@dataclass(frozen=True)
class OutputFlags:
    """Where results go; without any of these, to a window."""

    output: Annotated[
        tuple[str, ...],
        flag(
            f"{target_help()}; repeatable.",
            "--output",
            "-o",
        ),
    ] = ()
    mask_output: Annotated[Text, flag("Class indices: a video, or a folder of PNGs.")] = None
    json: Annotated[Text, flag("One JSON line per frame: shares per class.")] = None
    rle: Annotated[bool, flag("Put COCO run-length masks into the JSON lines.")] = False
    figure: Annotated[Text, flag("Figure of one picture: original, classes, legend.")] = None
    show: Annotated[
        Optional[bool],  # noqa: UP045
        flag(
            "Open a window; the default without outputs.",
            "--show",
            negative=("--no-show", "--headless"),
        ),
    ] = None
    screenshots: Annotated[
        str, flag("Folder in which s and r save in the window; default the current one.")
    ] = "."
    codec: Annotated[
        Text, flag("Codec of videos: h264, hevc, vp9, vp8, mjpeg, ffv1 or prores.")
    ] = None
    crf: Annotated[Whole, flag("Quality of videos; lower is better and larger.")] = None
    audio: Annotated[Literal["copy", "none"], flag("Keep the source's audio, or drop it.")] = "copy"
    overwrite: Annotated[bool, flag("Replace existing files.", "--overwrite", "-y")] = False


@Parameter(name="*", group=RUN)
@dataclass(frozen=True)
class RunFlags:
    """How it runs, and what it says."""

    policy: Annotated[
        Literal["auto", "newest", "all"],
        flag("Frames to keep: auto is newest for live sources, all for files."),
    ] = "auto"
    target_fps: Annotated[
        Real, flag("Live: keep this rate by a smaller network input where it must be.")
    ] = None
    smooth: Annotated[
        Real,
        flag("Hold masks still over time: 0 (off) to 1; default 0.8 in a window and live, else 0."),
    ] = None
    no_smooth: Annotated[bool, flag("The same as --smooth 0.")] = False
    refine: Annotated[bool, flag("Let the edges of masks follow the picture's.")] = False
    propagate: Annotated[
        bool, flag("Run the network on keyframes; carry their masks to the frames between.")
    ] = False
    key_every: Annotated[
        Whole,
        flag("With --propagate: a keyframe every so many frames; default a second's."),
    ] = None
    remeasure: Annotated[
        bool, flag("Measure again which backend is fastest; what is remembered is replaced.")
    ] = False
    idle: Annotated[
        Optional[bool],  # noqa: UP045
        flag(
            "Let the network rest while the picture does not change; default live.",
            "--idle",
            negative="--no-idle",
        ),
    ] = None
    metrics: Annotated[Text, flag("Write the report's figures to this JSON file.")] = None
    verbose: Annotated[
        bool, flag("Say how long opening took, and more figures.", "--verbose", "-v")
    ] = False
    quiet: Annotated[bool, flag("Say nothing but errors.", "--quiet", "-q")] = False
    debug: Annotated[bool, flag("Show the traceback of an error.")] = False
    config: Annotated[
        Text, flag("TOML file with the names of these flags; the command line wins.")
    ] = None
    print_config: Annotated[bool, flag("Print a TOML file that repeats this run, and stop.")] = (
        False
    )


@dataclass(frozen=True)
class Flags:
    """Everything `rtseg run` was asked; `more` are sources beside `input`."""

    input: str | None
    source: SourceFlags
    model: ModelFlags
    view: ViewFlags
    output: OutputFlags
    run: RunFlags
    more: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """All that were named, a `--camera` first."""
        named = (self.source.camera, self.input, *self.more)
        return tuple(name for name in named if name is not None)


T = TypeVar("T")


def seconds(flag: str, text: str | None) -> float | None:
    """`12.5`, `1:02.5` or `1:00:00` as seconds; None stays None."""
    return _read(flag, text, _clock_time, "Give seconds, as 12.5, or 1:02.5")


def width_height(flag: str, text: str | None) -> tuple[int, int] | None:
    """`1280x720` as (width, height); None stays None."""
    return _read(flag, text, _two_sizes, "Give WIDTHxHEIGHT, as 1280x720")


def input_size(
    flag: str, text: str | None, others: Sequence[str] = ("auto",)
) -> tuple[int, int] | None:
    """`512` or `384x512` as (height, width); None for None and "auto".

    Args:
        others: what else the flag takes, for the error's advice.
    """
    text = None if text == "auto" else text
    *more, last = ("HxW, as 384x640", "one number", *others)
    return _read(flag, text, _one_or_two_sizes, f"Give {', '.join(more)}, or {last}")


def number(flag: str, text: str | None) -> float | None:
    """`0.5` or `1/255`; None stays None."""
    return _read(flag, text, _number, "Give a number, as 0.5 or 1/255")


def share(flag: str, text: str) -> float:
    """`10%` or `0.1` as 0.1."""
    found = _read(flag, text, _share, "Give a share, as 10% or 0.1")
    assert found is not None
    return found


def triple(flag: str, text: str | None) -> tuple[float, float, float] | None:
    """`0.5` or `0.485,0.456,0.406` as three numbers; None stays None."""
    return _read(flag, text, _triple, "Give one number, or three with commas between")


def pair(flag: str, text: str | None) -> tuple[float, float] | None:
    """`0.5,2` as two numbers; None stays None."""
    return _read(flag, text, _pair, "Give two numbers with a comma between, as 0.5,2")


def comma_list(texts: Iterable[str]) -> tuple[str, ...]:
    """`("person,cat", "dog")` as `("person", "cat", "dog")`."""
    return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())


def at_least(flag: str, value: float | None, least: float) -> None:
    """Refuse a number below `least`.

    Raises:
        UsageError: it is.
    """
    if value is not None and not value >= least:
        raise UsageError(f"{flag} {value:g}", found=f"it is below {least:g}")


def _read(flag: str, text: str | None, read: Callable[[str], T], do: str) -> T | None:
    if text is None:
        return None
    try:
        return read(text)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"{flag} {text!r} cannot be read", do=do) from None


def _clock_time(text: str) -> float:
    *larger, last = text.split(":")
    if len(larger) > 2 or not 0 <= float(last) < float("inf"):
        raise ValueError(text)
    total = 0
    for part in larger:
        total = total * 60 + _natural(part)
    return total * 60 + float(last)


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)


def _positive(text: str) -> int:
    if (value := _natural(text)) == 0:
        raise ValueError(text)
    return value


def _two_sizes(text: str) -> tuple[int, int]:
    first, second = text.lower().split("x")
    return _positive(first), _positive(second)


def _one_or_two_sizes(text: str) -> tuple[int, int]:
    return _two_sizes(text if "x" in text.lower() else f"{text}x{text}")


def _number(text: str) -> float:
    return float(Fraction(text.replace(" ", "")))


def _share(text: str) -> float:
    plain = text.strip().removesuffix("%")
    return _number(plain) / (1 if plain == text.strip() else 100)


def _triple(text: str) -> tuple[float, float, float]:
    parts = [_number(part) for part in text.split(",")]
    red, green, blue = parts * 3 if len(parts) == 1 else parts
    return red, green, blue


def _pair(text: str) -> tuple[float, float]:
    first, second = map(_number, text.split(","))
    return first, second


def precision_of(flags: ModelFlags) -> str:
    """The arithmetic asked for; raises UsageError where device, threads or it make no sense."""
    at_least("--threads", flags.threads, 1)
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
        "mean": triple("--mean", flags.mean),
        "std": triple("--std", flags.std),
        "scale": number("--scale", flags.scale),
        "activation": flags.activation,
    }
    return {name: value for name, value in given.items() if value is not None}


def asked_temporal(flags: RunFlags) -> TemporalOptions:
    """What the flags ask for, whatever the source.

    Raises:
        UsageError: they make no sense, or contradict one another.
    """
    if flags.no_smooth and flags.smooth:
        raise UsageError(f"--smooth {flags.smooth:g} and --no-smooth", do="Give one of them")
    return TemporalOptions(
        smooth=flags.smooth or 0.0,
        propagate=flags.propagate,
        key_every=flags.key_every,
        idle=bool(flags.idle),
    )


def temporal_of(flags: RunFlags, live: bool, *, watched: bool = False) -> TemporalOptions:
    """What a source gets, unless told otherwise: the network rests in a live one, and masks hold
    still where it is live or watched in a window.
    """
    asked = asked_temporal(flags)
    if flags.smooth is None and not flags.no_smooth and (live or watched):
        asked = replace(asked, smooth=USUAL_SMOOTH)
    return replace(asked, idle=live if flags.idle is None else flags.idle)


def view_of(flags: Flags, files: Sequence[str], *, hud: bool) -> ViewOptions:
    """The view with its background, whose file is looked into.

    Args:
        files: the targets of the run, as `open_sink` takes them.

    Raises:
        UsageError: the view or its background cannot be drawn, or an output cannot hold it.
    """
    asked = flags.view
    view = ViewOptions(
        asked.view or ("overlay" if asked.background == "none" else "cutout"),
        asked.alpha,
        asked.legend,
        hud,
        asked.background,
        asked.feather,
        asked.matte_threshold,
    )
    if view.background == "none":
        return view
    from rtseg.effects.background import check_background, parse_background

    background = parse_background(view.background)
    check_background(background)
    if background.kind == "transparent":
        options = SinkOptions(codec=flags.output.codec, crf=flags.output.crf)
        for kind, path in map(find_kind, files):
            kind.check(path, options, True)
    return view
