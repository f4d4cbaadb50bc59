"""ONNX files: their facts, which network they hold, and exporting networks to them.

A file that rtseg wrote describes itself. A foreign one is described by settings, shapes and
assumptions.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rtseg._version import __version__
from rtseg.cache import (
    EXPORTED,
    add_checksum,
    cache_path,
    is_intact,
    make_room,
    safe_name,
    sha256,
    short_digest,
    temporary_dir,
)
from rtseg.documents import shown
from rtseg.errors import ModelError, first_line
from rtseg.files import atomic, reason
from rtseg.labels import MAX_NAME, PERSON, VOC, LabelSet, voc_colours
from rtseg.nets.graph import check_graph, is_plain
from rtseg.nets.hub import describe
from rtseg.nets.merge import may_merge, read_merged
from rtseg.nets.settings import (
    Settings,
    Triple,
    output_kind,
    read_settings,
    refuse_flags,
    usual_scale,
)
from rtseg.options import Activation, Layout
from rtseg.text import printable, shortened
from rtseg.zoo import InputSpec, Model, ModelSpec

INPUT_NAME, OUTPUT_NAME = "image", "logits"
OPSET = 18
"""Version of the operators; 13, 17 and 21 gave ONNX Runtime the same speed on a CPU."""

REVISION = 5
"""Raised when the exported graph or the random weights change, so that old files are not used."""

MERGED = 2
"""Raised when merging heads gives other files, so that old ones are not used."""

METADATA_KEY = "rtseg"
"""Metadata key of the `ModelSpec` in a file that rtseg wrote."""

WEIGHTS_KEY = "rtseg_weights_sha256"
"""Metadata key of the digest of the weights that the file was made from."""

LARGEST_WHOLE = 2_000_000_000
"""Bytes of an ONNX file with its weights inside."""

Dims = tuple[int | None, ...]
"""The axes of a tensor; None where the file leaves the length open."""

DEFAULT_SIZE = (512, 512)
MAX_CLASSES = 255
"""Of a foreign file: its input where it is open, and the most channels that can be classes."""


# --- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnnxFacts:
    """Input, outputs and metadata of an ONNX file, or of one that is described likewise.

    Attributes:
        input: axes of the input.
        dtype: numpy's name of the input's dtype.
        outputs: axes of each output, by name.
        kinds: numpy's name of each output's dtype, by name.
        makers: the operator that computes each output, in lower case, by name.
        spec: rtseg's metadata; None in a foreign file.
    """

    input: Dims
    dtype: str
    outputs: dict[str, Dims]
    kinds: dict[str, str]
    makers: dict[str, str]
    spec: str | None


def read_facts(path: Path) -> OnnxFacts:
    """Read the facts of an ONNX file.

    Raises:
        ModelError: the file is not valid, does not have exactly one input, or cannot end.
    """
    import onnx

    graph = (content := _load(path)).graph
    check_graph(content, path)
    numbers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in numbers]
    if not (graph.node or graph.input or graph.output):
        found = "there is no model in it" if path.stat().st_size else "it is empty"
        raise ModelError(f"cannot use {path}", found=found, do="Export it again")
    if len(inputs) != 1 or not graph.output:
        raise ModelError(
            f"cannot use {path}",
            found=f"it has {len(inputs)} inputs and {len(graph.output)} outputs",
            do="A segmentation model takes one image and returns its classes",
        )
    if not all(value.type.tensor_type.HasField("shape") for value in graph.output):
        with suppress(RuntimeError, ValueError, onnx.shape_inference.InferenceError):
            graph = onnx.shape_inference.infer_shapes(content).graph
    return OnnxFacts(
        _dims(inputs[0]),
        _kind(inputs[0]),
        {value.name: _dims(value) for value in graph.output},
        {value.name: _kind(value) for value in graph.output},
        {value.name: _maker(graph, value.name) for value in graph.output},
        _metadata(content).get(METADATA_KEY),
    )


def precision_of(path: Path) -> str:
    """The precision of most of an ONNX file's numbers; ModelError if it cannot be read."""
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


def quantised_operators(path: Path) -> set[str]:
    """The operators of an ONNX file that compute in int8; ModelError if it cannot be read."""
    return {node.op_type for node in _load(path).graph.node if node.op_type.startswith("QLinear")}


def is_plain_file(path: Path, size: tuple[int, int]) -> bool:
    """As `rtseg.nets.graph.is_plain`, of a file; ModelError also if it cannot be read."""
    return is_plain(_load(path), path, size)


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of an ONNX file, by key; ModelError if it cannot be read."""
    return _metadata(_load(path))


def weights_beside(path: Path) -> list[Path]:
    """The files in its folder, or below, that an ONNX file keeps weights in.

    Raises:
        OSError: the file cannot be read.
        ModelError: it is not valid.
    """
    if b"location" not in path.read_bytes():  # without onnx, which is slow to import
        return []
    places = (Path(place) for place in _places(_load(path)))
    inside = (path.parent / place for place in places if ".." not in place.parts)
    return [file for file in inside if file.is_relative_to(path.parent) and file.is_file()]


def _places(content: Any) -> list[str]:
    """The names of other files that hold weights, as the graph and those inside it have them."""
    entries = (entry for tensor in _tensors(content.graph) for entry in tensor.external_data)
    return sorted({entry.value for entry in entries if entry.key == "location"})


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for attribute in (each for node in graph.node for each in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)


def _metadata(content: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in content.metadata_props}


def convolutions(path: Path) -> dict[str, NDArray[np.float32]]:
    """Weights and biases of an ONNX file's convolutions, "0.weight", "0.bias", "1.weight" on.

    In the order in which they run; a convolution without a bias has one of zeros.

    Raises:
        ModelError: the file cannot be read, or keeps the weights of a convolution elsewhere.
    """
    from onnx import TensorProto, numpy_helper

    content = _load(path)
    numbers = {each.name: each for each in content.graph.initializer}
    found: dict[str, NDArray[np.float32]] = {}
    for node in (node for node in content.graph.node if node.op_type == "Conv"):
        held = [numbers.get(name) for name in node.input[1:3] if name]
        name = printable(shortened(node.name, 60))
        if not held or any(h is None or h.data_location == TensorProto.EXTERNAL for h in held):
            raise ModelError(
                f"cannot start from {path}",
                found=f"the weights of its convolution {name} are not in the graph",
                do="Give a file with float weights inside",
            )
        place = len(found) // 2
        try:
            weight, *bias = (numpy_helper.to_array(h).astype(np.float32) for h in held)
            found[f"{place}.weight"] = weight
            found[f"{place}.bias"] = bias[0] if bias else np.zeros(len(weight), np.float32)
        except (ValueError, TypeError, LookupError) as error:  # of what a file says of its tensors
            raise ModelError(
                f"cannot start from {path}",
                found=f"the weights of its convolution {name} cannot be read: {first_line(error)}",
            ) from error
    return found


def _load(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs

    try:
        # weights in other files are not needed here
        return onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a valid ONNX file"
        raise ModelError(f"cannot read {path}", found=reason) from error


_MOVES = frozenset(
    "Cast Clip DequantizeLinear Gather Identity QuantizeLinear Reshape Resize Slice Split Squeeze "
    "Transpose Unsqueeze Upsample".split()
)
"""Operators that move numbers without changing what they mean."""


def _maker(graph: Any, output: str) -> str:
    """The last operator that computes an output, skipping those that only move it."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in _MOVES:
        node = makers.get(node.input[0])
    return node.op_type.lower().removeprefix("qlinear") if node is not None else ""


def _kind(value: Any) -> str:
    import onnx

    number = value.type.tensor_type.elem_type
    return str(onnx.helper.tensor_dtype_to_np_dtype(number).name) if number else "float32"


def _dims(value: Any) -> Dims:
    return tuple(
        axis.dim_value if axis.dim_value > 0 else None for axis in value.type.tensor_type.shape.dim
    )


# --- identity ------------------------------------------------------------------------------------


def onnx_spec(
    path: Path,
    flags: Mapping[str, Any] | None = None,
    described: tuple[dict[str, Any], list[str]] | None = None,
) -> tuple[ModelSpec, tuple[str, ...]]:
    """The identity of the network in an ONNX file, and a note on what was assumed.

    Args:
        flags: settings that override those of the TOML file beside it, and of its hub folder.
        described: what `describe` gives, if the file was exported from a folder elsewhere.

    Raises:
        ModelError: the file is not a segmentation network, or contradicts its settings.
        UsageError: rtseg wrote the file, and flags were given.
    """
    return spec_of(path, read_facts(path), flags, described)


def spec_of(
    path: Path,
    facts: OnnxFacts,
    flags: Mapping[str, Any] | None = None,
    described: tuple[dict[str, Any], list[str]] | None = None,
) -> tuple[ModelSpec, tuple[str, ...]]:
    """As `onnx_spec`, of a file with these facts."""
    if facts.spec is not None:
        refuse_flags(flags, path.name)
        spec = ModelSpec.from_json(facts.spec, f"the metadata of {path}")
        _check_described(path, facts, spec)
        return spec, ()
    known, assumed = described or describe(path)
    for key, found in (("size", None not in facts.input[2:]), ("layout", 3 in facts.input)):
        if found:  # the file itself tells
            known.pop(key, None)
    settings = read_settings(path, flags, known)
    taken = _input(path, facts, settings, assumed)
    name = settings.output or _first_output(facts, assumed)
    _require_output(path, facts, name)
    labels, layout = _output(path, facts, name, taken, settings, assumed)
    kind = settings.activation or _activation(facts.makers.get(name, ""), assumed)
    spec = ModelSpec(
        name=settings.name or printable(path.stem)[:MAX_NAME],
        architecture="onnx",
        labels=labels,
        input=taken,
        output=output_kind(kind),
        output_name=name,
        output_layout=layout,
        align_corners=settings.align_corners,
    )
    note = f"{path.name} does not describe itself fully; assumed: {', '.join(assumed)}"
    return spec, (note,) if assumed else ()


def _first_output(facts: OnnxFacts, assumed: list[str]) -> str:
    """The first output that has the shape of scores or class indices."""
    shaped = [name for name, dims in facts.outputs.items() if len(dims) == 4 or _whole(facts, name)]
    name = next(iter(shaped or facts.outputs))
    if len(shaped) > 1:
        assumed.append(f"output {name} of {printable(', '.join(facts.outputs))}")
    return name


def _whole(facts: OnnxFacts, name: str) -> bool:
    """Whether an output holds class indices, by its type or by what computes it."""
    indices = facts.kinds[name].startswith(("int", "uint")) or facts.makers.get(name) == "argmax"
    return indices and len(facts.outputs[name]) in (3, 4)


def _require_output(path: Path, facts: OnnxFacts, name: str) -> None:
    if name not in facts.outputs:
        raise ModelError(
            f"output {name!r} of {path}", found="its outputs are " + ", ".join(facts.outputs)
        )


def _check_described(path: Path, facts: OnnxFacts, spec: ModelSpec) -> None:
    """Raise ModelError where the metadata describes another network than the file holds."""
    _require_output(path, facts, spec.output_name or next(iter(facts.outputs)))
    dims = facts.outputs[spec.output_name or next(iter(facts.outputs))]
    wrong = ""
    if len(facts.input) == 4:
        _, height, width = _axes(facts.input, spec.input.layout)
        if any(a not in (None, b) for a, b in zip((height, width), spec.input.size, strict=True)):
            wrong = f"input.size is {spec.input.size}, the network takes {height}x{width}"
    if len(dims) == 4:
        count = dims[1 if spec.output_layout == "NCHW" else 3]
        if count is not None and count > 1 and count != len(spec.labels):
            wrong = f"labels are {len(spec.labels)}, the network has {count} classes"
    if wrong:
        raise ModelError(f"cannot use the metadata of {path}", found=wrong, do="Export it again")


def _input(path: Path, facts: OnnxFacts, settings: Settings, assumed: list[str]) -> InputSpec:
    dims = facts.input
    if len(dims) != 4:
        raise ModelError(
            f"cannot use {path}",
            found=f"its input has {len(dims)} axes",
            do="An image has four: N, C, H, W or N, H, W, C",
        )
    layout: Layout = settings.layout or _layout(dims, assumed)
    channels, height, width = _axes(dims, layout)
    if channels not in (3, None):
        raise ModelError(
            f"cannot use {path} with layout {layout}",
            found=f"its images have {channels} channels",
        )
    size, fixed = _size(path, (height, width), settings, assumed)
    scale, mean, std = _normalisation(facts.dtype, settings, assumed)
    if settings.colour is None:
        assumed.append("RGB")
    dtype: Literal["uint8", "float32"] = "uint8" if facts.dtype == "uint8" else "float32"
    try:
        return InputSpec(size, fixed, layout, dtype, settings.colour or "RGB", scale, mean, std)
    except ValueError as error:
        raise ModelError(f"cannot use {path}", found=str(error)) from error


def _activation(maker: str, assumed: list[str]) -> Activation:
    """The activation, by the operator that computes the output."""
    known: dict[str, Activation] = {
        "softmax": "softmax",
        "sigmoid": "sigmoid",
        "hardsigmoid": "sigmoid",
        "argmax": "none",
    }
    if maker in known:
        return known[maker]
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
    wanted = settings.size
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
    given = settings.normalises
    if not given and dtype == "uint8":
        return 1.0, (0, 0, 0), (1, 1, 1)  # pixels as they are
    if not given:
        usual = InputSpec(DEFAULT_SIZE)
        assumed.append("ImageNet's mean and std")
        return usual.scale, usual.mean, usual.std
    mean, std = settings.mean or (0, 0, 0), settings.std or (1, 1, 1)
    if settings.scale is not None:
        return settings.scale, mean, std
    scale = usual_scale(mean, std)
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
    labels, dims = settings.labels, facts.outputs[name]
    whole = _whole(facts, name)
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


# --- writing -------------------------------------------------------------------------------------


def cached_onnx(
    model: Model,
    size: tuple[int, int],
    precision: str = "fp32",
    notes: list[str] | None = None,
) -> Path:
    """The network as an ONNX file for images of `size` (height, width), exported on first use.

    torch exports it, or, much sooner, it is made from the ready file beside the weights. Its name
    holds a digest of all that shapes it: spec, size, precision, weights, and the versions that
    wrote it. A file that was changed since is made again. If the cache cannot be written, the file
    is a temporary one.

    Args:
        notes: gets what the user should know of it.

    Raises:
        ModelError: the weights cannot be read or are another network's; or there is no room.
    """
    notes = [] if notes is None else notes
    path = cache_path("onnx", f"{safe_name(model.spec.name)}-{_key(model, size, precision)}.onnx")
    if is_intact(path, notes):
        return path
    try:
        _make(model, size, path, precision)
        with suppress(OSError):  # it is exported again next time
            add_checksum(path)
            make_room(path.parent, EXPORTED)
        return path
    except OSError as error:
        failure = error
    try:
        instead = temporary_dir() / path.name
        if not instead.is_file():
            _make(model, size, instead, precision)
    except OSError as error:
        raise ModelError(
            f"cannot export {model.spec.name} to {path}",
            found=f"{reason(failure)}; and to a temporary folder: {reason(error)}",
            do="Set RTSEG_CACHE to a folder that can be written, or use --backend torch",
        ) from error
    note = f"cannot write to the cache {path.parents[1]} ({reason(failure)})"
    if note not in notes:
        notes.append(note)
    return instead


def _make(model: Model, size: tuple[int, int], path: Path, precision: str) -> None:
    ready = ready_beside(model) if precision == "fp32" else None
    if ready is None:
        write_onnx(model, size, path, precision)
    else:
        write_fitted(ready, model, size, path)


def _key(model: Model, size: tuple[int, int], precision: str) -> str:
    weights = sha256(model.file) if model.file else model.format
    versions = (__version__, version("torch"), version("torchvision"))
    parts = (model.spec.to_json(), weights, precision, OPSET, REVISION, *versions)
    return f"{size[0]}x{size[1]}-{precision}-{short_digest(parts)}"


def runnable_onnx(model: Model, size: tuple[int, int], notes: list[str] | None = None) -> Path:
    """The file of a foreign network; a copy with merged heads in the cache if it has any.

    Args:
        size: (height, width) of the images; that copy takes no others.
        notes: gets what the user should know of it.

    Raises:
        ModelError: the file cannot be read.
    """
    from onnx.checker import ValidationError

    assert model.file is not None
    if not may_merge(plain := _load(model.file)):
        return model.file
    notes = [] if notes is None else notes
    try:
        path = cache_path(
            "onnx", f"{safe_name(model.spec.name)}-{_merged_key(model, plain, size)}.onnx"
        )
        if is_intact(path, notes):
            return path
        content = read_merged(model.file, size)
        if content is None or content.ByteSize() > LARGEST_WHOLE:
            return model.file
        with atomic(path) as temporary:
            temporary.write_bytes(content.SerializeToString())
        add_checksum(path)
        make_room(path.parent, EXPORTED)
        return path
    except (OSError, ValueError, ValidationError) as error:
        note = f"the head of {model.file.name} runs as it is ({first_line(error)})"
        if note not in notes:
            notes.append(note)
        return model.file


def _merged_key(model: Model, content: Any, size: tuple[int, int]) -> str:
    """What a merged file is known by: all files of the network, its size, and how it is merged."""
    assert model.file is not None
    files = [model.file, *(model.file.parent / place for place in _places(content))]
    folder = model.file.parent.resolve()
    for path in files[1:]:
        if not (path.resolve().is_relative_to(folder) and path.is_file()):
            raise OSError(f"it has weights in {shown(path.name)}, which is not a file beside it")
    digest = short_digest(([*map(sha256, files)], MERGED))
    return f"{size[0]}x{size[1]}-merged-{digest}"


def write_onnx(
    model: Model,
    size: tuple[int, int],
    path: Path,
    precision: str = "fp32",
    *,
    opset: int = OPSET,
    dynamic_batch: bool = False,
) -> None:
    """Write the network: input "image" (1, h, w, 3) uint8 RGB, output "logits" float32.

    Args:
        precision: fp32, or fp16 for weights and arithmetic in half.
        dynamic_batch: leave the batch size open, at some cost in speed.

    Raises:
        ModelError: the weights cannot be read or are another network's.
        OSError: the file cannot be written.
    """
    import torch

    from rtseg.nets.state import load_network

    network = load_network(model)
    if precision == "fp16":
        network = network.half()
    image = torch.zeros((1, *size, 3), dtype=torch.uint8)
    names = (INPUT_NAME, OUTPUT_NAME)
    with atomic(path) as temporary:
        with warnings.catch_warnings():
            # The TorchScript exporter is deprecated, and still the better one here: 1.2 s instead
            # of 5.4 s for lraspp, the same graph after ONNX Runtime's optimiser, and the new one
            # needs onnxscript.
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.onnx.export(
                network,
                (image,),
                str(temporary),
                dynamo=False,
                opset_version=opset,
                input_names=names[:1],
                output_names=names[1:],
                dynamic_axes={name: {0: "batch"} for name in names} if dynamic_batch else None,
            )
        seal(temporary, exported_spec(model.spec, size))


def seal(path: Path, spec: ModelSpec) -> None:
    """Write the spec into the metadata of an ONNX file, and check the file.

    Raises:
        onnx.checker.ValidationError: the file is not valid.
    """
    import onnx

    content = onnx.load(path)
    # with an open batch, the exporter leaves the size of the output open too
    content = onnx.shape_inference.infer_shapes(content, data_prop=True)
    onnx.helper.set_model_props(content, {**_metadata(content), METADATA_KEY: spec.to_json()})
    onnx.checker.check_model(content, full_check=True)
    onnx.save(content, path)


def exported_spec(spec: ModelSpec, size: tuple[int, int]) -> ModelSpec:
    """The identity of the exported file: its input is raw bytes, normalisation is inside."""
    taken = replace(
        spec.input,
        size=size,
        fixed=True,
        layout="NHWC",
        dtype="uint8",
        colour="RGB",
        scale=1.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    return replace(spec, input=taken, output_name=OUTPUT_NAME, output_layout="NCHW")


def ready_beside(model: Model) -> Path | None:
    """The ready file beside the weights, if it was made from these very weights."""
    if model.file is None or model.format != "torch":
        return None
    path = model.file.with_suffix(".onnx")
    if not path.is_file():
        return None
    try:
        made_of = metadata_of(path).get(WEIGHTS_KEY)
    except ModelError:  # another file of that name
        return None
    return path if made_of == sha256(model.file) else None


def write_ready(model: Model, path: Path) -> None:
    """Write the network with open height and width: "image" (1, h, w, 3) uint8 RGB to "logits".

    Numbers are stored in half precision where that loses nothing, and cast to float32 inside;
    batch normalisation is not folded, as the products would lose something. A runtime folds it at
    load.

    Raises:
        ModelError: the weights cannot be read or are another network's.
        OSError: the file cannot be written.
    """
    import onnx
    import torch

    from rtseg.nets.state import load_network

    assert model.file is not None
    network = load_network(model, folded=False)
    sides = {INPUT_NAME: {1: "height", 2: "width"}, OUTPUT_NAME: {2: "rows", 3: "columns"}}
    with atomic(path) as temporary:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in `write_onnx`
            torch.onnx.export(
                network,
                (torch.zeros((1, 64, 96, 3), dtype=torch.uint8),),
                str(temporary),
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_axes=sides,
                training=torch.onnx.TrainingMode.PRESERVE,  # else it folds batch normalisation
                do_constant_folding=False,
            )
        content = onnx.load(temporary)
        _halve(content.graph)
        onnx.helper.set_model_props(content, {WEIGHTS_KEY: sha256(model.file)})
        onnx.save(content, temporary)
        spec = exported_spec(model.spec, model.spec.input.size)
        seal(temporary, replace(spec, input=replace(spec.input, fixed=False)))


def write_fitted(ready: Path, model: Model, size: tuple[int, int], path: Path) -> None:
    """Write a ready file's network for images of `size` (height, width) only, in float32.

    Raises:
        OSError: the file cannot be written.
    """
    import onnx

    content = onnx.load(ready)
    _restore(content.graph)
    del content.graph.value_info[:]
    for axis, side in zip(
        content.graph.input[0].type.tensor_type.shape.dim[1:3], size, strict=True
    ):
        axis.dim_value = side
    for axis in content.graph.output[0].type.tensor_type.shape.dim[2:]:
        axis.Clear()  # `seal` infers them
    with atomic(path) as temporary:
        onnx.save(content, temporary)
        seal(temporary, exported_spec(model.spec, size))


def _halve(graph: Any) -> None:
    """Store numbers in half precision if they lose nothing, with casts where they are used."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        full = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = full.astype(np.float16)
        if np.array_equal(half.astype(np.float32), full):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _restore(graph: Any) -> None:
    """Undo `_halve`: casts of constants become constants."""
    from onnx import TensorProto, numpy_helper

    halves = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT16}
    kept = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in halves:
            tensor = halves[node.input[0]]
            full = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(full, node.output[0]))
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
