"""A network of ours as one ONNX file for every input size, from which one for a size is made
without torch: most of a first start is torch being loaded and exporting.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rtseg.cache import atomic, sha256
from rtseg.errors import ModelError
from rtseg.nets.onnx_facts import metadata_of
from rtseg.nets.onnx_file import INPUT_NAME, OPSET, OUTPUT_NAME, exported_spec, seal
from rtseg.zoo import Model

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
