"""The identity of an ONNX file: from our metadata, else from settings, shapes and assumptions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rtseg.errors import ModelError, UsageError
from rtseg.labels import PERSON, VOC, LabelSet, voc_colours
from rtseg.options import ACTIVATIONS, COLOUR_ORDERS, LAYOUTS
from rtseg.toml import read_toml
from rtseg.zoo import InputSpec, ModelSpec

Dims = tuple[int | None, ...]
"""The axes of a tensor; None where the file leaves the length open."""

METADATA_KEY = "rtseg"
"""Under which a file that rtseg wrote holds its `ModelSpec`."""


@dataclass(frozen=True)
class OnnxFacts:
    """What an ONNX file says of its input, its outputs and itself.

    Attributes:
        input: axes of its picture.
        dtype: of its picture, as numpy calls it.
        outputs: axes of each output, by name.
        kinds: what numbers each output holds, as numpy calls them, by name.
        makers: the operator that computes each output, by name.
        spec: the text under our metadata key; None in a foreign file.
    """

    input: Dims
    dtype: str
    outputs: dict[str, Dims]
    kinds: dict[str, str]
    makers: dict[str, str]
    spec: str | None


def read_facts(path: Path) -> OnnxFacts:
    """Read an ONNX file's surface.

    Raises:
        ModelError: it is no ONNX file, or has not exactly one input.
    """
    graph = (content := _load(path)).graph
    numbers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in numbers]
    if not (graph.node or graph.input or graph.output):
        found = "there is no network in it" if path.stat().st_size else "it is empty"
        raise ModelError(f"cannot use {path}", found=found, do="Export it again")
    if len(inputs) != 1 or not graph.output:
        raise ModelError(
            f"cannot use {path}",
            found=f"it has {len(inputs)} inputs and {len(graph.output)} outputs",
            do="A segmentation network takes one picture and gives its classes",
        )
    return OnnxFacts(
        _dims(inputs[0]),
        _kind(inputs[0]),
        {value.name: _dims(value) for value in graph.output},
        {value.name: _kind(value) for value in graph.output},
        {value.name: _maker(graph, value.name) for value in graph.output},
        _metadata(content).get(METADATA_KEY),
    )


def metadata_of(path: Path) -> dict[str, str]:
    """The texts that an ONNX file's makers put in it, by key; ModelError if it cannot be read."""
    return _metadata(_load(path))


def _metadata(content: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in content.metadata_props}


def _load(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs

    try:
        # weights kept in other files are not needed to know what the network is
        return onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no ONNX file, or damaged"
        raise ModelError(f"cannot read {path}", found=reason) from error


def precision_of(path: Path) -> str:
    """The precision that most of an ONNX file's numbers have; ModelError if it cannot be read."""
    import onnx

    kinds = {
        onnx.TensorProto.FLOAT: "fp32",
        onnx.TensorProto.FLOAT16: "fp16",
        onnx.TensorProto.BFLOAT16: "bf16",
        onnx.TensorProto.INT8: "int8",
        onnx.TensorProto.UINT8: "int8",
    }
    counts: dict[str, int] = {}
    graph = _load(path).graph
    constants = [a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute]
    for tensor in [*graph.initializer, *constants]:
        if tensor.data_type in kinds:
            kind = kinds[tensor.data_type]
            counts[kind] = counts.get(kind, 0) + math.prod(tensor.dims)
    return max(counts, key=lambda kind: counts[kind], default="fp32")


_MOVES = {"Transpose", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Resize"}
"""Operators that carry numbers on without making others of them."""


def _maker(graph: Any, output: str) -> str:
    """The operator that computes an output, in lower case, before any that only moves it."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in _MOVES:
        node = makers.get(node.input[0])
    return node.op_type.lower() if node is not None else ""


def _kind(value: Any) -> str:
    import onnx

    number = value.type.tensor_type.elem_type
    return str(onnx.helper.tensor_dtype_to_np_dtype(number).name) if number else "float32"


def _dims(value: Any) -> Dims:
    return tuple(axis.dim_value or None for axis in value.type.tensor_type.shape.dim)


Settings = dict[str, Any]

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
KNOWN_LABELS = {"voc": VOC, "person": PERSON}
NOTHING = {"background", "null", "nothing", "unlabelled", "unlabeled", "__background__"}


def read_settings(path: Path, flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings of the network file at `path`: of `path` with suffix .toml, then of `flags`.

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


def refuse(flags: Mapping[str, Any] | None, name: str) -> None:
    """Refuse flags for a network that brings what they say.

    Raises:
        UsageError: one was given.
    """
    given = [key for key, value in (flags or {}).items() if value is not None]
    if given:
        raise UsageError(
            f"{', '.join(f'--{key}' for key in given)} for {name}",
            found="it says itself what its input and its classes are",
            do=f"Leave {'them' if len(given) > 1 else 'it'} out",
        )


def _check(where: str, values: Settings) -> None:
    for key, value in values.items():
        if key not in KEYS:
            known = ", ".join(sorted(KEYS))
            raise ModelError(f"unknown setting {key!r} in {where}", found=f"there are {known}")
        if key in CHOICES and value not in CHOICES[key]:
            choices = ", ".join(map(str, CHOICES[key]))
            raise ModelError(f"{key} = {value!r} in {where}", found=f"it is one of {choices}")


def triple(value: Any, key: str) -> tuple[float, float, float]:
    """Three numbers, out of one, three, or their text."""
    parts = value.split(",") if isinstance(value, str) else value
    numbers = [number(v, key) for v in (parts if isinstance(parts, (list, tuple)) else [parts])]
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or (key == "std" and 0 in numbers):
        raise ModelError(f"{key} = {value!r}", found="it is one number or three", do=_NOT_ZERO)
    return numbers[0], numbers[1], numbers[2]


_NOT_ZERO = "None of std may be 0"


def number(value: Any, key: str) -> float:
    """A number, or its text, which may be a fraction: "1/255"."""
    try:
        above, _, below = str(value).partition("/")
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{key} = {value!r}", found="it is no number") from error


def size_of(value: Any) -> tuple[int, int]:
    """(height, width), out of one number, two, or their text "HxW"."""
    parts = value.lower().split("x") if isinstance(value, str) else value
    parts = parts if isinstance(parts, (list, tuple)) else [parts]
    try:
        numbers = [int(part) for part in parts]
    except (ValueError, TypeError) as error:
        raise ModelError(f"size = {value!r}", found="it is height and width in pixels") from error
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise ModelError(f"size = {value!r}", found="it is height and width in pixels")
    return numbers[0], numbers[-1]


def output_kind(settings: Settings) -> Literal["logits", "probabilities"]:
    """What the output holds."""
    probable = settings.get("activation", "none") in ("softmax", "sigmoid", "probabilities")
    return "probabilities" if probable else "logits"


def labels_of(settings: Settings) -> LabelSet | None:
    """The classes, where the settings say them.

    Raises:
        ModelError: they cannot be read, are too few or too many, or the background is none of them.
    """
    given = settings.get("labels")
    if given is None:
        return None
    if isinstance(given, str) and given.lower() in KNOWN_LABELS:
        found = KNOWN_LABELS[given.lower()]
    else:
        found = _named(_names(given))
    return _with_background(found, settings["background"]) if "background" in settings else found


def _names(given: Any) -> tuple[str, ...]:
    if isinstance(given, str) and "," not in given:
        try:
            given = Path(given).read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            known = " or ".join(KNOWN_LABELS)
            raise ModelError(
                f"cannot read the labels {given!r}",
                found=getattr(error, "strerror", None) or "it is no text",
                do=f"Give {known}, a comma list, or a file with one name a line",
            ) from error
    if isinstance(given, str):
        given = given.split(",")
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise ModelError(f"labels = {given!r}", found="they are a list of names")
    return tuple(name.strip() for name in given if name.strip())


def _named(names: tuple[str, ...]) -> LabelSet:
    if len(names) == 1:  # of a network with one output channel: this, or nothing
        names = ("background", *names)
    try:
        nothing = 0 if names[:1] and names[0].casefold() in NOTHING else None
        return LabelSet(names, voc_colours(len(names)), nothing)
    except ValueError as error:
        raise ModelError(f"{len(names)} labels", found=str(error)) from error


def _with_background(found: LabelSet, background: Any) -> LabelSet:
    nothing = str(background).casefold() == "none"
    index = None if nothing else found.index(background)
    return LabelSet(found.names, found.colours, index)


def numbered(count: int) -> LabelSet:
    """Classes called by their numbers; nothing is known of them."""
    return LabelSet(tuple(f"class {i}" for i in range(count)), voc_colours(count), None)


Layout = Literal["NCHW", "NHWC"]
USUAL_SIZE = (512, 512)
MOST_CLASSES = 255


def onnx_spec(
    path: Path, flags: Mapping[str, Any] | None = None
) -> tuple[ModelSpec, tuple[str, ...]]:
    """Who the network in an ONNX file is, and what had to be assumed.

    Args:
        flags: settings over those of the TOML file beside it.

    Raises:
        ModelError: it is no segmentation network, or contradicts its settings.
        UsageError: it is a file of ours, and flags were given.
    """
    facts = read_facts(path)
    if facts.spec is not None:
        refuse(flags, path.name)
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
    note = f"{path.name} does not say everything; assumed: {', '.join(assumed)}"
    return spec, (note,) if assumed else ()


def _input(path: Path, facts: OnnxFacts, settings: Settings, assumed: list[str]) -> InputSpec:
    dims = facts.input
    if len(dims) != 4:
        raise ModelError(
            f"cannot use {path}",
            found=f"its input has {len(dims)} axes",
            do="A picture has four: N, C, H, W or N, H, W, C",
        )
    layout: Layout = settings.get("layout") or _layout(dims, assumed)
    channels, height, width = _axes(dims, layout)
    if channels not in (3, None):
        raise ModelError(
            f"cannot use {path} with layout {layout}",
            found=f"its pictures have {channels} channels",
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
    """What the operator that computes the output makes of it."""
    if maker in ("softmax", "sigmoid"):
        return maker
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
        assumed.append(f"size {USUAL_SIZE[0]}x{USUAL_SIZE[1]}")
    return wanted or USUAL_SIZE, False


Triple = tuple[float, float, float]


def _normalisation(
    dtype: str, settings: Settings, assumed: list[str]
) -> tuple[float, Triple, Triple]:
    given = {"scale", "mean", "std"} & settings.keys()
    if not given and dtype == "uint8":
        return 1.0, (0, 0, 0), (1, 1, 1)  # pixels as they are
    if not given:
        usual = InputSpec(USUAL_SIZE)
        assumed.append("ImageNet's mean and std")
        return usual.scale, usual.mean, usual.std
    mean = triple(settings.get("mean", 0), "mean")
    std = triple(settings.get("std", 1), "std")
    if "scale" in settings:
        return number(settings["scale"], "scale"), mean, std
    scale = 1.0 if max(std) > 2 else 1 / 255  # such a std is one of pixels from 0 to 255
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
    indices = facts.kinds[name].startswith(("int", "uint")) and (len(dims) == 3 or 1 in dims[1:])
    if indices:  # of classes, one a pixel, which may be far fewer than there are
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
    """The axis of the classes, by what tells the two readings apart.

    It is the one as long as the labels; else what it leaves has the input's shape; else it is the
    only one short enough; else where the input has its channels.
    """
    readings: tuple[Layout, Layout] = ("NCHW", "NHWC")
    axes = [_axes(dims, layout) for layout in readings]
    counts = {len(labels), *([1] if len(labels) == 2 else [])} if labels else set()
    for fits in (
        [count in counts for count, _, _ in axes],
        [taken.fixed and _of_shape(height, width, taken.size) for _, height, width in axes],
        [count is not None and count <= MOST_CLASSES for count, _, _ in axes],
    ):
        if fits[0] != fits[1]:
            return readings[fits.index(True)]
    return taken.layout


def _of_shape(height: int | None, width: int | None, size: tuple[int, int]) -> bool:
    """Whether scores of that size cover a picture of `size`, at one stride, rounded either way."""
    if height is None or width is None:
        return False
    return abs(height * size[1] - width * size[0]) <= max(size)


def _labels(path: Path, channels: int | None, assumed: list[str]) -> LabelSet:
    if channels is None or channels > MOST_CLASSES:
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
    return numbered(channels)
