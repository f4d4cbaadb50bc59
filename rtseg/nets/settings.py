"""The identity of an ONNX file: from rtseg's metadata, else settings, shapes and assumptions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rtseg.errors import ModelError, UsageError
from rtseg.labels import PERSON, VOC, LabelSet, voc_colours
from rtseg.nets.onnx_file import Dims, OnnxFacts, read_facts
from rtseg.options import ACTIVATIONS, COLOUR_ORDERS, LAYOUTS
from rtseg.text import read_text
from rtseg.toml import read_toml
from rtseg.zoo import InputSpec, ModelSpec

Layout = Literal["NCHW", "NHWC"]
Triple = tuple[float, float, float]

Settings = dict[str, Any]
"""Of a network file, as a TOML file beside it or flags give them; `KEYS` are the keys."""

DEFAULT_SIZE = (512, 512)
MAX_CLASSES = 255

KEYS = frozenset(
    "layout colour dtype size scale mean std labels background activation output align_corners "
    "architecture name".split()
)
CHOICES = {
    "layout": LAYOUTS,
    "colour": COLOUR_ORDERS,
    "dtype": ("float32", "uint8"),
    "align_corners": (True, False),
    "activation": ACTIVATIONS,
}
NAMED_LABELS = {"voc": VOC, "person": PERSON}
BACKGROUND_NAMES = {"background", "null", "nothing", "unlabelled", "unlabeled", "__background__"}


def onnx_spec(
    path: Path, flags: Mapping[str, Any] | None = None
) -> tuple[ModelSpec, tuple[str, ...]]:
    """The identity of the network in an ONNX file, and a note on what was assumed.

    Args:
        flags: settings that override those of the TOML file beside it.

    Raises:
        ModelError: the file is not a segmentation network, or contradicts its settings.
        UsageError: rtseg wrote the file, and flags were given.
    """
    facts = read_facts(path)
    if facts.spec is not None:
        refuse_flags(flags, path.name)
        try:
            return ModelSpec.from_json(facts.spec), ()
        except ValueError as error:
            raise ModelError(f"cannot read the metadata of {path}", found=str(error)) from error
    settings = read_settings(path, flags)
    assumed: list[str] = []
    taken = _input(path, facts, settings, assumed)
    name = settings.get("output") or next(iter(facts.outputs))
    if name not in facts.outputs:
        raise ModelError(
            f"output {name!r} of {path}", found="its outputs are " + ", ".join(facts.outputs)
        )
    labels, layout = _output(path, facts, name, taken, settings, assumed)
    if "activation" not in settings:
        settings = {**settings, "activation": _activation(facts.makers.get(name, ""), assumed)}
    spec = ModelSpec(
        name=str(settings.get("name", path.stem)),
        architecture="onnx",
        labels=labels,
        input=taken,
        output=output_kind(settings),
        output_name=name,
        output_layout=layout,
        align_corners=settings.get("align_corners", False),
    )
    note = f"{path.name} does not describe itself fully; assumed: {', '.join(assumed)}"
    return spec, (note,) if assumed else ()


def _input(path: Path, facts: OnnxFacts, settings: Settings, assumed: list[str]) -> InputSpec:
    dims = facts.input
    if len(dims) != 4:
        raise ModelError(
            f"cannot use {path}",
            found=f"its input has {len(dims)} axes",
            do="An image has four: N, C, H, W or N, H, W, C",
        )
    layout: Layout = settings.get("layout") or _layout(dims, assumed)
    channels, height, width = _axes(dims, layout)
    if channels not in (3, None):
        raise ModelError(
            f"cannot use {path} with layout {layout}",
            found=f"its images have {channels} channels",
        )
    size, fixed = _size(path, (height, width), settings, assumed)
    scale, mean, std = _normalisation(facts.dtype, settings, assumed)
    if "colour" not in settings:
        assumed.append("RGB")
    return InputSpec(
        size,
        fixed,
        layout,
        settings.get("dtype") or ("uint8" if facts.dtype == "uint8" else "float32"),
        settings.get("colour", "RGB"),
        scale,
        mean,
        std,
    )


def _activation(maker: str, assumed: list[str]) -> str:
    """The activation, by the operator that computes the output."""
    if maker in ("softmax", "sigmoid"):
        return maker
    if maker == "argmax":
        return "none"
    assumed.append("an output of logits")
    return "none"


def _layout(dims: Dims, assumed: list[str]) -> Layout:
    if 3 in (dims[1], dims[3]):
        return "NCHW" if dims[1] == 3 else "NHWC"
    assumed.append("layout NCHW")
    return "NCHW"


def _axes(dims: Dims, layout: Layout) -> Dims:
    """(channels, height, width)."""
    return (dims[1], dims[2], dims[3]) if layout == "NCHW" else (dims[3], dims[1], dims[2])


def _size(
    path: Path, found: Dims, settings: Settings, assumed: list[str]
) -> tuple[tuple[int, int], bool]:
    wanted = size_of(settings["size"]) if "size" in settings else None
    height, width = found
    if height is not None and width is not None:
        if wanted not in (None, (height, width)):
            raise ModelError(
                f"size {wanted} for {path}", found=f"it takes {height}x{width} and no other"
            )
        return (height, width), True
    if wanted is None:
        assumed.append(f"size {DEFAULT_SIZE[0]}x{DEFAULT_SIZE[1]}")
    return wanted or DEFAULT_SIZE, False


def _normalisation(
    dtype: str, settings: Settings, assumed: list[str]
) -> tuple[float, Triple, Triple]:
    given = {"scale", "mean", "std"} & settings.keys()
    if not given and dtype == "uint8":
        return 1.0, (0, 0, 0), (1, 1, 1)  # pixels as they are
    if not given:
        usual = InputSpec(DEFAULT_SIZE)
        assumed.append("ImageNet's mean and std")
        return usual.scale, usual.mean, usual.std
    mean = triple(settings.get("mean", 0), "mean")
    std = triple(settings.get("std", 1), "std")
    if "scale" in settings:
        return number(settings["scale"], "scale"), mean, std
    scale = 1.0 if max(std) > 2 else 1 / 255  # a larger std is of pixels from 0 to 255
    assumed.append("scale 1" if scale == 1 else "scale 1/255")
    return scale, mean, std


def _output(
    path: Path,
    facts: OnnxFacts,
    name: str,
    taken: InputSpec,
    settings: Settings,
    assumed: list[str],
) -> tuple[LabelSet, Layout]:
    labels, dims = labels_of(settings), facts.outputs[name]
    whole = facts.kinds[name].startswith(("int", "uint")) or facts.makers.get(name) == "argmax"
    single = len(dims) == 3 or 1 in dims[1:]
    if labels is not None and len(labels) > 2 and single and not whole:
        assumed.append("an output of class indices")
        whole = True
    if whole and single:  # class indices do not tell how many classes there are
        return labels or _labels(path, None, assumed), "NCHW"
    if len(dims) != 4:
        raise ModelError(
            f"cannot use {path}",
            found=f"its output {name} has {len(dims)} axes",
            do="Scores per class have four; name another output in the TOML file beside it",
        )
    layout = _output_layout(dims, taken, labels)
    channels = dims[1] if layout == "NCHW" else dims[3]
    if labels is None:
        return _labels(path, channels, assumed), layout
    if channels is not None and max(channels, 2) != len(labels):
        raise ModelError(
            f"{len(labels)} labels for {path}", found=f"its output has {channels} classes"
        )
    return labels, layout


def _output_layout(dims: Dims, taken: InputSpec, labels: LabelSet | None) -> Layout:
    """The layout of the output, by the first test that tells the two apart.

    The axis of the classes is the one as long as the labels; else the one that leaves the input's
    shape; else the only one short enough; else the input's channel axis.
    """
    layouts: tuple[Layout, Layout] = ("NCHW", "NHWC")
    axes = [_axes(dims, layout) for layout in layouts]
    counts = {len(labels), *([1] if len(labels) == 2 else [])} if labels else set()
    for fits in (
        [count in counts for count, _, _ in axes],
        [taken.fixed and _of_shape(height, width, taken.size) for _, height, width in axes],
        [count is not None and count <= MAX_CLASSES for count, _, _ in axes],
    ):
        if fits[0] != fits[1]:
            return layouts[fits.index(True)]
    return taken.layout


def _of_shape(height: int | None, width: int | None, size: tuple[int, int]) -> bool:
    """Whether scores of that size cover an image of `size` at one stride, rounded either way."""
    if height is None or width is None:
        return False
    return abs(height * size[1] - width * size[0]) <= max(size)


def _labels(path: Path, channels: int | None, assumed: list[str]) -> LabelSet:
    if channels is None or channels > MAX_CLASSES:
        raise ModelError(
            f"cannot tell the classes of {path}",
            found=f"its output has {channels or 'an unknown number of'} channels",
            do=f"Name them in {path.with_suffix('.toml').name} beside it, or with --labels",
        )
    if channels == len(VOC):
        assumed.append("the 21 classes of Pascal VOC")
        return VOC
    if channels <= 2:
        assumed.append("the classes background and person")
        return PERSON
    assumed.append(f"{channels} classes without names")
    return _numbered(channels)


def _numbered(count: int) -> LabelSet:
    """Classes named by their numbers."""
    return LabelSet(tuple(f"class {i}" for i in range(count)), voc_colours(count), None)


# --- settings ------------------------------------------------------------------------------------


def read_settings(path: Path, flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings of a network file: of the TOML file beside it, overridden by `flags`.

    A flag that is None was not given.

    Raises:
        ModelError: the TOML file cannot be read, or a key or choice is unknown.
    """
    sidecar = path.with_suffix(".toml")
    settings = read_toml(sidecar, ModelError) if sidecar.is_file() else {}
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    for where, values in ((str(sidecar), settings), ("the flags", given)):
        _check(where, values)
    return {**settings, **given}


def refuse_flags(flags: Mapping[str, Any] | None, name: str) -> None:
    """Refuse flags for a network that describes itself.

    Raises:
        UsageError: a flag was given.
    """
    given = [key for key, value in (flags or {}).items() if value is not None]
    if given:
        raise UsageError(
            f"{', '.join(f'--{key}' for key in given)} for {name}",
            found="the model describes its own input and classes",
            do=f"Remove {'them' if len(given) > 1 else 'it'}",
        )


def labels_of(settings: Settings) -> LabelSet | None:
    """The classes; None if the settings do not name them.

    Raises:
        ModelError: they cannot be read, are too few or too many, or lack the background's.
    """
    given = settings.get("labels")
    if given is None:
        return None
    if isinstance(given, str) and given.lower() in NAMED_LABELS:
        found = NAMED_LABELS[given.lower()]
    else:
        found = _named(_names(given))
    return _with_background(found, settings["background"]) if "background" in settings else found


def size_of(value: Any) -> tuple[int, int]:
    """(height, width) from one number, two, or a text "HxW"."""
    parts = value.lower().split("x") if isinstance(value, str) else value
    parts = parts if isinstance(parts, (list, tuple)) else [parts]
    try:
        numbers = [int(part) for part in parts]
    except (ValueError, TypeError) as error:
        raise ModelError(f"size = {value!r}", found="it is height and width in pixels") from error
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise ModelError(f"size = {value!r}", found="it is height and width in pixels")
    return numbers[0], numbers[-1]


def triple(value: Any, key: str) -> tuple[float, float, float]:
    """Three numbers from one, three, or a text."""
    parts = value.split(",") if isinstance(value, str) else value
    numbers = [number(v, key) for v in (parts if isinstance(parts, (list, tuple)) else [parts])]
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or (key == "std" and 0 in numbers):
        do = "No value of std may be 0" if key == "std" else ""
        raise ModelError(f"{key} = {value!r}", found="it is one number or three", do=do)
    return numbers[0], numbers[1], numbers[2]


def number(value: Any, key: str) -> float:
    """A number, or a text, which may be a fraction: "1/255"."""
    try:
        above, _, below = str(value).partition("/")
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{key} = {value!r}", found="not a number") from error


def output_kind(settings: Settings) -> Literal["logits", "probabilities"]:
    """What the output holds."""
    probable = settings.get("activation", "none") in ("softmax", "sigmoid", "probabilities")
    return "probabilities" if probable else "logits"


def _check(where: str, values: Settings) -> None:
    for key, value in values.items():
        if key not in KEYS:
            known = ", ".join(sorted(KEYS))
            raise ModelError(f"unknown setting {key!r} in {where}", found=f"settings are {known}")
        if key in CHOICES and value not in CHOICES[key]:
            choices = ", ".join(map(str, CHOICES[key]))
            raise ModelError(f"{key} = {value!r} in {where}", found=f"it is one of {choices}")


def _names(given: Any) -> tuple[str, ...]:
    if isinstance(given, str) and "," not in given:
        try:
            given = read_text(Path(given)).splitlines()
        except (OSError, ValueError) as error:
            known = " or ".join(NAMED_LABELS)
            raise ModelError(
                f"cannot read the labels {given!r}",
                found=getattr(error, "strerror", None) or "not a text file",
                do=f"Give {known}, a comma list, or a file with one name per line",
            ) from error
    if isinstance(given, str):
        given = given.split(",")
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise ModelError(f"labels = {given!r}", found="they are a list of names")
    return tuple(name.strip() for name in given if name.strip())


def _named(names: tuple[str, ...]) -> LabelSet:
    if len(names) == 1:  # a network with one output channel: this class or background
        names = ("background", *names)
    try:
        background = 0 if names[:1] and names[0].casefold() in BACKGROUND_NAMES else None
        return LabelSet(names, voc_colours(len(names)), background)
    except ValueError as error:
        raise ModelError(f"{len(names)} labels", found=str(error)) from error


def _with_background(found: LabelSet, background: Any) -> LabelSet:
    index = None if str(background).casefold() == "none" else found.index(background)
    return LabelSet(found.names, found.colours, index)
