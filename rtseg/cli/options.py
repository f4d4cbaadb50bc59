"""The flags of `rtseg run`, in the groups in which `--help` shows them.

Fields hold what a person typed; `values.py` turns the odd ones into numbers, so that
`--print-config` can print them again as they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Optional

from cyclopts import Group, Parameter

from rtseg.cli.flag import Real, Text, Whole, flag, whole

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
        Optional[Literal["overlay", "mask", "side", "contours", "cutout"]],  # noqa: UP045
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
            "out.mp4 .mov .mkv .webm .avi, folder/, frames_%06d.png, - (raw) or virtual[:DEVICE] "
            "(a virtual camera); repeatable.",
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
