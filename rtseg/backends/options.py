"""The table of backends, what each can run, and how a network is run; imports no library."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rtseg.errors import UsageError
from rtseg.options import (
    ACTIVATIONS,
    COLOUR_ORDERS,
    LAYOUTS,
    MIN_SIDE,
    check,
    check_size,
    option,
)
from rtseg.system import gpu_is_likely, installed_versions

if TYPE_CHECKING:
    from rtseg.zoo import Model


@dataclass(frozen=True)
class BackendKind:
    """All that the rest of rtseg knows about a backend.

    Attributes:
        open: "module:name" of what loads a network, called as `name(model, input_size, options)`;
            imported when it is first used.
        formats: the values of `Model.format` that it can load.
        devices: families of devices that it runs on.
        precisions: those that it may run in.
        module: the library that it needs, as it is imported; "" is none.
        packages: distributions of which any brings that library.
        install: the command that installs it.
        measured_on: devices on which `--backend auto` measures it, each with the reduced precisions
            that may pay there.
        slow_on: devices on which it is measured only where it may still win: in full precision
            where no other backend is installed, in reduced where no other offers one.
    """

    open: str
    formats: frozenset[str]
    devices: tuple[str, ...] = ("cpu",)
    precisions: tuple[str, ...] = ("fp32",)
    module: str = ""
    packages: tuple[str, ...] = ()
    install: str = ""
    measured_on: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    slow_on: tuple[str, ...] = ()

    @property
    def extra(self) -> bool:
        """Whether rtseg runs well without its library."""
        return "rtseg[" in self.install

    @property
    def installed(self) -> bool:
        """Whether its library can be imported; this does not import it."""
        return not self.module or find_spec(self.module) is not None


_CHECKPOINTS = frozenset({"torch", "random"})
_FILES = _CHECKPOINTS | {"onnx"}

BACKENDS: dict[str, BackendKind] = {
    "torch": BackendKind(
        "rtseg.backends.pytorch:TorchBackend",
        _CHECKPOINTS,
        devices=("cpu", "cuda", "mps"),
        precisions=("fp32", "tf32", "fp16", "bf16"),
        module="torch",
        packages=("torch",),
        install="python -m pip install torch torchvision",
        measured_on={"cpu": ("bf16",), "cuda": ("fp16",)},
        # in fp32 it took two to three times as long as the others with every network
        slow_on=("cpu",),
    ),
    "torch-compile": BackendKind(
        "rtseg.backends.compiled:CompiledBackend",
        _CHECKPOINTS,
        devices=("cpu", "cuda", "mps"),
        precisions=("fp32", "tf32", "fp16", "bf16"),
        module="torch",
        packages=("torch",),
        install="python -m pip install torch torchvision",
    ),
    "onnx": BackendKind(
        "rtseg.backends.ort:OnnxBackend",
        _FILES,
        devices=("cpu", "cuda", "tensorrt", "directml", "coreml"),
        precisions=("fp32", "fp16", "bf16", "int8"),
        module="onnxruntime",
        packages=("onnxruntime-gpu", "onnxruntime", "onnxruntime-directml"),
        install="python -m pip install onnxruntime",
        measured_on={"cpu": (), "cuda": ("fp16",)},
    ),
    "openvino": BackendKind(
        "rtseg.backends.openvino_runtime:OpenVinoBackend",
        _FILES | {"openvino"},
        precisions=("fp32", "fp16", "bf16", "int8"),
        module="openvino",
        packages=("openvino",),
        install='python -m pip install "rtseg[openvino]"',
        measured_on={"cpu": ("bf16", "fp16")},
    ),
    "stub": BackendKind(
        "rtseg.backends.stub:StubBackend",
        frozenset({"none"}),
        precisions=("fp32", "fp16", "bf16", "int8"),
    ),
}


class Choices(Collection[str]):
    """ "auto" and what the rows of `BACKENDS` name, also those of rows that are added later."""

    def __init__(self, names: Callable[[], Iterable[str]]) -> None:
        self._names = names

    def __iter__(self) -> Iterator[str]:
        return iter(("auto", *dict.fromkeys(self._names())))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in tuple(self)


NAMES = Choices(lambda: BACKENDS)
DEVICES = Choices(lambda: (device for kind in BACKENDS.values() for device in kind.devices))
"""Families of devices; of "cuda" and "tensorrt" one can be numbered, as cuda:1."""

PRECISIONS = Choices(lambda: (p for kind in BACKENDS.values() for p in kind.precisions))

NUMBERED = ("cuda", "tensorrt")

OVERLAP = 0.25
"""Usual share of a window that the next one covers again."""

STRIDE = 16
"""Sides of an input are multiples of it, which the networks' coarsest stride divides evenly."""

MAX_COUNT = 1024
"""More threads or lanes than any machine has cores; libraries start as many as they are told."""


def parse_device(text: str) -> tuple[str, int]:
    """Family and index of a device: ("cuda", 1) for "cuda:1"; the index defaults to 0.

    Raises:
        UsageError: no backend has such a device.
    """
    match = re.fullmatch(r"([a-z]+)(?::(\d{1,4}))?", text.strip().lower())
    if match and match[1] in DEVICES and (match[2] is None or match[1] in NUMBERED):
        return match[1], int(match[2] or 0)
    names = (f"{family}[:N]" if family == "cuda" else family for family in DEVICES)
    raise UsageError(f"unknown device {text!r}", found="choices are " + ", ".join(names))


@dataclass(frozen=True)
class BackendOptions:
    """How a network is run.

    Attributes:
        device: auto, cpu, cuda[:N], mps; with onnx also tensorrt, directml, coreml.
        precision: Numeric precision; auto picks what suits the device best.
        threads: CPU threads of the model; default is the library's choice.
        strict_device: Fail (exit 4) instead of running on another device.
        lanes: Frames of a recording to work on at once, where the backend gains by that.
        beside: Another thread uses the GPU meanwhile, such as a decoder.

    Raises:
        UsageError: there is no such device or precision, or a number is out of its range.
    """

    device: str = "auto"
    precision: str = option("auto", choices=PRECISIONS)
    threads: int | None = option(None, least=1, most=MAX_COUNT)
    strict_device: bool = False
    lanes: int = option(1, least=1, most=MAX_COUNT)
    beside: bool = False

    def __post_init__(self) -> None:
        check(self)
        parse_device(self.device)

    @property
    def family(self) -> str:
        """The device's family: "cuda" of "cuda:1"."""
        return parse_device(self.device)[0]

    @property
    def number(self) -> int:
        """The device's index in its family: 1 of "cuda:1"."""
        return parse_device(self.device)[1]


FOREIGN = ("labels", "layout", "colour", "mean", "std", "scale", "activation", "align_corners")
"""Fields of `NetworkOptions` that describe a file which does not describe itself."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class NetworkOptions(BackendOptions):
    """Which network, with which weights, and how it is run.

    Attributes:
        model: A name of `rtseg models`, an ONNX or OpenVINO file, a checkpoint, or a folder;
            default is person.
        weights: Weights file, or "random" for timing only.
        backend: Library that runs the model.
        imgsz: Input size: HxW, one number, or auto (default), which follows the frame's shape.
        refine: Refine mask edges from image colours.
        tta: Average probabilities over the image, its mirror image and three input scales; slow.
        window: Segment large images in overlapping windows of HxW pixels, each at the input size.
        overlap: Share of a --window that the next one covers again.
        labels: Foreign ONNX: class names, as a file or comma-separated.
        layout: Foreign ONNX: axis order.
        colour: Foreign ONNX: channel order.
        mean: Foreign ONNX: mean to subtract, one number or R,G,B.
        std: Foreign ONNX: standard deviation to divide by, one number or R,G,B.
        scale: Foreign ONNX: factor applied before mean and std, such as 1/255.
        activation: Foreign ONNX: activation of its output.
        align_corners: Foreign ONNX: its corner scores lie on the corner pixels.
        classes: Keep these classes, by name or number; comma-separated or repeated.
        palette: Class colours: voc, cityscapes, ade20k, names, random:SEED, or a file.

    Raises:
        UsageError: there is no such device or choice, or a size makes no sense.
    """

    model: str | None = None
    weights: str | None = None
    backend: str = option("auto", choices=NAMES)
    imgsz: tuple[int, int] | None = None
    refine: bool = False
    tta: bool = False
    window: tuple[int, int] | None = None
    overlap: float = option(OVERLAP, least=0, most=0.9)
    labels: str | None = None
    layout: str | None = option(None, choices=LAYOUTS)
    colour: str | None = option(None, choices=COLOUR_ORDERS)
    mean: Triple | None = None
    std: Triple | None = None
    scale: float | None = None
    activation: str | None = option(None, choices=ACTIVATIONS)
    align_corners: bool | None = None
    classes: tuple[str | int, ...] = ()
    palette: str | None = None

    def __post_init__(self) -> None:
        check_size("imgsz", self.imgsz)
        check_size("window", self.window)
        super().__post_init__()
        if self.window is not None and min(self.window) < MIN_SIDE:
            height, width = self.window
            raise UsageError(
                f"--window {height}x{width}", found=f"each side must be {MIN_SIDE} or more"
            )
        if self.window is None and self.overlap != OVERLAP:
            raise UsageError(f"--overlap {self.overlap:g} without --window", do="Use both")

    @property
    def averaging(self) -> dict[str, Any]:
        """For `rtseg.backends.averaged.Averaged`; empty if there is a single pass."""
        if not self.tta and self.window is None:
            return {}
        return {"tta": self.tta, "window": self.window, "overlap": self.overlap}

    @property
    def foreign(self) -> dict[str, Any]:
        """What was given of `FOREIGN`, by name."""
        values = {name: getattr(self, name) for name in FOREIGN}
        return {name: value for name, value in values.items() if value is not None}

    def of_another(self, model: str) -> NetworkOptions:
        """The options for another network: without what describes this one and its weights."""
        own: dict[str, Any] = dict.fromkeys(FOREIGN)
        weights = "random" if self.weights == "random" else None
        return replace(self, model=model, weights=weights, **own)

    def running(self, **changes: Any) -> dict[str, Any]:
        """The fields of `BackendOptions`, for `open_backend`, with changes."""
        return {one.name: getattr(self, one.name) for one in fields(BackendOptions)} | changes


def backend_on(family: str, format: str) -> str:
    """The first backend that runs a `Model.format` on a family of devices; else "onnx"."""
    fitting = (n for n, k in BACKENDS.items() if family in k.devices and format in k.formats)
    return next(fitting, "onnx")


def default_backend(model: Model, family: str) -> str:
    """What "auto" stands for, without measuring anything."""
    if model.format == "none":
        return "stub"
    if model.format == "openvino":
        return "openvino"
    if family not in ("auto", "cpu", "cuda"):
        return backend_on(family, model.format)
    # importing torch to ask for a GPU takes two seconds
    if model.format == "onnx" or family == "cpu" or not gpu_is_likely():
        return "onnx"
    from rtseg.gpu import best_device

    return "onnx" if best_device() == "cpu" else "torch"


def check_backend(name: str, model: Model, options: BackendOptions) -> None:
    """Raise UsageError for a network, device or precision that the backend does not take.

    A backend of the CPU alone is not refused for its device: it runs there with a note.
    """
    kind = BACKENDS[name]
    if model.format not in kind.formats:
        fitting = [other for other, row in BACKENDS.items() if model.format in row.formats]
        raise UsageError(
            f"backend {name} for {model.spec.name}",
            found=f"{name} cannot load it; {', '.join(fitting)} can",
            do=f"Use --backend {fitting[0]}, or auto",
        )
    if kind.devices != ("cpu",):
        _check_value("device", options.family, name, {n: k.devices for n, k in BACKENDS.items()})
    precisions = {n: k.precisions for n, k in BACKENDS.items()}
    _check_value("precision", options.precision, name, precisions)
    if not kind.installed:
        raise UsageError(
            f"the {name} backend was requested",
            found=f"{kind.module} is not installed",
            do=f"Install it: {kind.install}",
        )


def _check_value(what: str, value: str, name: str, table: Mapping[str, tuple[str, ...]]) -> None:
    if value in ("auto", *table[name]):
        return
    others = [other for other, values in table.items() if value in values and other != "stub"]
    raise UsageError(
        f"{what} {value} for the {name} backend",
        found=f"it has {', '.join(table[name])}",
        do=f"Use --backend {others[0]}, or another {what}",
    )


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that run networks, by package."""
    return installed_versions(package for kind in BACKENDS.values() for package in kind.packages)
