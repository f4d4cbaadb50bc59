"""OpenVINO's own files: the graph in `NAME.xml`, the weights in `NAME.bin` beside it.

They are read without OpenVINO, which later runs them as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rtseg.cache import sha256
from rtseg.errors import ModelError, first_line
from rtseg.files import reason
from rtseg.nets.onnx_file import (
    METADATA_KEY,
    Dims,
    OnnxFacts,
    precision_of,
    spec_of,
    weights_beside,
)
from rtseg.zoo import ModelSpec

SUFFIX = ".xml"
LARGEST_GRAPH = 200_000_000
"""Bytes of the XML; real ones have some millions."""

_KINDS = {"FP32": "float32", "FP16": "float16", "BF16": "float32", "FP64": "float64"}
_PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
_MAKERS = {"topk": "argmax"}
"""Operators by OpenVINO's names and by those of ONNX, where they differ."""

_MOVES = frozenset(
    "Clamp Convert FakeQuantize Gather Identity Interpolate Reshape Slice Split Squeeze "
    "StridedSlice Transpose Unsqueeze VariadicSplit".split()
)
"""Operators that move numbers without changing what they mean."""


def ir_spec(
    path: Path,
    flags: Mapping[str, Any] | None = None,
) -> tuple[ModelSpec, tuple[str, ...]]:
    """The identity of the network, and a note on what was assumed, as `onnx_spec` of an ONNX file.

    Raises:
        ModelError: the files are not a segmentation network, lack weights, or contradict their
            settings.
        UsageError: it was made from a file of rtseg, and flags were given.
    """
    return spec_of(path, _facts(path), flags)


def precision_in(path: Path) -> str:
    """The precision of most numbers of an ONNX file or of OpenVINO's, or int8 if those quantise.

    Raises:
        ModelError: it cannot be read.
    """
    if path.suffix != SUFFIX:
        return precision_of(path)
    root = _read(path)
    if root.find("./layers/layer[@type='FakeQuantize']") is not None:
        return "int8"
    counts: dict[str, int] = {}
    for data in _constants(root):
        if (kind := _PRECISIONS.get(data.get("element_type", ""))) is not None:
            counts[kind] = counts.get(kind, 0) + _whole(data.get("size"))
    return max(counts, key=lambda kind: counts[kind], default="fp32")


def digest_of(path: Path) -> str:
    """The SHA-256 of a network's file; with weights in other files, one digest of all.

    Raises:
        OSError: the file cannot be read.
        ModelError: it is not valid.
    """
    others = weights_beside(path) if path.suffix == ".onnx" else []
    if path.suffix == SUFFIX and (weights := path.with_suffix(".bin")).is_file():
        others = [weights]
    parts = [sha256(each) for each in (path, *others)]
    return hashlib.sha256("".join(parts).encode()).hexdigest() if others else parts[0]


def _read(path: Path) -> ElementTree.Element:
    asked = f"cannot read {path}"
    try:
        if path.stat().st_size > LARGEST_GRAPH:
            raise ModelError(asked, found=f"it has more than {LARGEST_GRAPH / 1e6:.0f} MB")
        content = path.read_bytes()
        if b"<!" in content:  # entities, which can grow without end
            raise ModelError(asked, found="it declares a document type, as no OpenVINO model does")
        root = ElementTree.fromstring(content)
    except OSError as error:
        raise ModelError(asked, found=reason(error)) from error
    except (ElementTree.ParseError, ValueError) as error:
        raise ModelError(asked, found=f"not valid XML ({first_line(error)})") from error
    if root.tag != "net" or root.find("layers") is None:
        raise ModelError(asked, found="not an OpenVINO model")
    return root


def _facts(path: Path) -> OnnxFacts:
    root = _read(path)
    _check_weights(path, root)
    layers = {layer.get("id", ""): layer for layer in root.iterfind("./layers/layer")}
    before = {
        (edge.get("to-layer", ""), edge.get("to-port", "")): (
            edge.get("from-layer", ""),
            edge.get("from-port", ""),
        )
        for edge in root.iterfind("./edges/edge")
    }
    inputs = [layer for layer in layers.values() if layer.get("type") == "Parameter"]
    results = [key for key, layer in layers.items() if layer.get("type") == "Result"]
    if len(inputs) != 1 or not results:
        raise ModelError(
            f"cannot use {path}",
            found=f"it has {len(inputs)} inputs and {len(results)} outputs",
            do="A segmentation model takes one image and returns its classes",
        )
    taken = inputs[0].find("./output/port")
    outputs: dict[str, Dims] = {}
    kinds, makers = {}, {}
    for number, key in enumerate(results):
        port = layers[key].find("./input/port")
        if port is None or taken is None:
            raise ModelError(f"cannot read {path}", found="its input or an output has no shape")
        name = _name(layers, before.get((key, port.get("id", ""))), number)
        outputs[name], kinds[name] = _dims(port), _kind(port)
        makers[name] = _maker(layers, before, key)
    spec = root.find(f"./rt_info/framework/{METADATA_KEY}")
    described = None if spec is None else spec.get("value")
    assert taken is not None
    return OnnxFacts(_dims(taken), _kind(taken), outputs, kinds, makers, described)


def _check_weights(path: Path, root: ElementTree.Element) -> None:
    """Raise ModelError if there are fewer weights beside the graph than it names."""
    needed = max(
        (_whole(c.get("offset")) + _whole(c.get("size")) for c in _constants(root)), default=0
    )
    weights = path.with_suffix(".bin")
    held = weights.stat().st_size if weights.is_file() else None
    if needed and (held is None or held < needed):
        raise ModelError(
            f"cannot use {path}",
            found=f"its weights, {weights.name} beside it, are missing"
            if held is None
            else f"its weights, {weights.name}, have {held} bytes of {needed}",
            do="Copy or convert both files again",
        )


def _constants(root: ElementTree.Element) -> list[ElementTree.Element]:
    return root.findall(".//layer[@type='Const']/data")


def _name(
    layers: Mapping[str, ElementTree.Element], maker: tuple[str, str] | None, number: int
) -> str:
    """What OpenVINO calls an output; by its number if it has no name."""
    if maker is not None and maker[0] in layers:
        for port in layers[maker[0]].iterfind("./output/port"):
            if port.get("id") == maker[1] and port.get("names"):
                return str(port.get("names")).partition(",")[0]
    return f"output {number}"


def _maker(
    layers: Mapping[str, ElementTree.Element],
    before: Mapping[tuple[str, str], tuple[str, str]],
    at: str,
) -> str:
    """The last operator that computes an output, as ONNX calls it, skipping those that move it."""
    for _ in layers:
        at, _ = before.get((at, "0"), ("", ""))
        kind = layers[at].get("type", "") if at in layers else ""
        if kind not in _MOVES:
            return _MAKERS.get(kind.lower(), kind.lower())
    return ""


def _kind(port: ElementTree.Element) -> str:
    name = port.get("precision", "FP32")
    whole = {"I": "int", "U": "uint"}.get(name[:1], "")
    return _KINDS.get(name, f"{whole}{name[1:]}" if whole else name.lower())


def _dims(port: ElementTree.Element) -> Dims:
    sides = [_whole(side.text) for side in port.iterfind("dim")]
    return tuple(side if side > 0 else None for side in sides)


def _whole(text: str | None) -> int:
    """A number of the file; 0 for anything else."""
    return int(text) if text is not None and len(text) < 16 and text.isdecimal() else 0
