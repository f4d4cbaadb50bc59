"""Our networks as ONNX files: written whole or not at all, kept in the cache, checked at reuse."""

from __future__ import annotations

import hashlib
import warnings
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from rtseg._version import __version__
from rtseg.cache import EXPORTED, cache_path, make_room, safe_name, sha256
from rtseg.errors import ModelError
from rtseg.files import atomic
from rtseg.nets.foreign import METADATA_KEY, metadata_of
from rtseg.zoo import Model, ModelSpec

INPUT_NAME, OUTPUT_NAME = "image", "logits"
OPSET = 18
"""Version of the operators; 13, 17 and 21 gave ONNX Runtime the same speed on a processor."""

REVISION = 5
"""Raised when our graph or the random weights change, so that older files are not taken."""


def cached_onnx(model: Model, size: tuple[int, int], precision: str = "fp32") -> Path:
    """The network as an ONNX file for pictures of `size` (height, width), made on first use: by
    torch, or, much sooner, out of the ready file beside the weights.

    The name holds a digest of all that shapes the file: the spec, the size, the precision, the
    weights, and the versions that wrote it. A file that is not as it was written is made again.

    Raises:
        ModelError: the weights cannot be read or are another network's.
    """
    path = cache_path("onnx", f"{safe_name(model.spec.name)}-{_key(model, size, precision)}.onnx")
    seal = path.with_suffix(".sha256")
    if path.is_file() and seal.is_file() and seal.read_text("ascii") == sha256(path):
        with suppress(OSError):  # a cache that is only read
            seal.touch()  # not every disk notes that a file was read, see `make_room`
        return path
    try:
        _make(model, size, path, precision)
        with atomic(seal) as temporary:
            temporary.write_text(sha256(path), "ascii")
        make_room(path.parent, EXPORTED)
    except OSError as error:
        raise ModelError(
            f"cannot export {model.spec.name} to {path}",
            found=error.strerror or str(error),
            do="Set RTSEG_CACHE to a folder that can be written, or take the torch backend",
        ) from error
    return path


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
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    return f"{size[0]}x{size[1]}-{precision}-{digest}"


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
        dynamic_batch: leave the number of pictures open, at some cost in speed.

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
            # The exporter that follows TorchScript is deprecated, and still the better one here:
            # 1.2 s against 5.4 s for lraspp, the same graph after ONNX Runtime's optimiser, and
            # the new one needs onnxscript besides.
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
    """Put the spec into the metadata of an ONNX file, in place of any other, and check the file.

    Raises:
        onnx.checker.ValidationError: it is no valid ONNX file.
    """
    import onnx

    content = onnx.load(path)
    # where only the batch is open, the exporter leaves the size of the output open too
    content = onnx.shape_inference.infer_shapes(content, data_prop=True)
    metadata = {entry.key: entry.value for entry in content.metadata_props}
    onnx.helper.set_model_props(content, {**metadata, METADATA_KEY: spec.to_json()})
    onnx.checker.check_model(content, full_check=True)
    onnx.save(content, path)


def exported_spec(spec: ModelSpec, size: tuple[int, int]) -> ModelSpec:
    """The identity of the exported file: it takes bytes as they are, normalisation is inside."""
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


WEIGHTS_KEY = "rtseg_weights_sha256"
"""Under which the metadata say of which weights the file was made."""


def ready_beside(model: Model) -> Path | None:
    """The ready file beside the weights, if it was made of these very weights."""
    if model.file is None or model.format != "torch":
        return None
    path = model.file.with_suffix(".onnx")
    if not path.is_file():
        return None
    try:
        made_of = metadata_of(path).get(WEIGHTS_KEY)
    except ModelError:  # some other file that is called alike
        return None
    return path if made_of == sha256(model.file) else None


def write_ready(model: Model, path: Path) -> None:
    """Write the network with open height and width: "image" (1, h, w, 3) uint8 RGB to "logits".

    Numbers are kept in half precision where that loses nothing, and are float32 again inside; batch
    normalisation stays apart from the convolutions, whose product would lose something. Whoever
    loads the file folds it.

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
            warnings.simplefilter("ignore")  # of the exporter itself, see `write_onnx`
            torch.onnx.export(
                network,
                (torch.zeros((1, 64, 96, 3), dtype=torch.uint8),),
                str(temporary),
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_axes=sides,
                training=torch.onnx.TrainingMode.PRESERVE,  # it would fold what it knows is eval
                do_constant_folding=False,
            )
        content = onnx.load(temporary)
        _halve(content.graph)
        onnx.helper.set_model_props(content, {WEIGHTS_KEY: sha256(model.file)})
        onnx.save(content, temporary)
        spec = exported_spec(model.spec, model.spec.input.size)
        seal(temporary, replace(spec, input=replace(spec.input, fixed=False)))


def write_fitted(ready: Path, model: Model, size: tuple[int, int], path: Path) -> None:
    """Write a ready file's network for pictures of `size` (height, width) alone, in float32.

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
        axis.Clear()  # `seal` finds them
    with atomic(path) as temporary:
        onnx.save(content, temporary)
        seal(temporary, exported_spec(model.spec, size))


def _halve(graph: Any) -> None:
    """Keep in half precision the numbers that lose nothing by it, cast where they are used."""
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
