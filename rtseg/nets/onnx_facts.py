"""What an ONNX file says of itself, read without running it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtseg.errors import ModelError

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
