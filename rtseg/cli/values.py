"""Flags that the verbs bench, eval, train and export still write out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal, Optional, TypeVar

from cyclopts import Group, Parameter, Token

from rtseg.backends import BackendOptions
from rtseg.errors import UsageError


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


def flag(text: str, *names: str, negative: str | tuple[str, ...] = ()) -> Parameter:
    """A flag's help; `names` where the field's own will not do; a `--no-...` form if given."""
    return Parameter(name=names or None, help=text, negative=negative, show_default=_if_telling)


def _if_telling(default: object) -> str | None:
    """A default worth showing: not that a switch is off, or a list empty."""
    return None if default is None or isinstance(default, (bool, tuple)) else str(default)


MODEL = Group("Network", sort_key=2)


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
