"""Foreign networks in half precision; our own are written so by torch."""

from __future__ import annotations

import warnings
from pathlib import Path


def write_half(source: Path, target: Path) -> None:
    """The same network with weights and arithmetic in half precision, input and output as before.

    ONNX Runtime's own converter, which keeps operators in single precision that have no half.
    """
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():  # of every weight that half precision cuts off
        warnings.simplefilter("ignore", UserWarning)
        converted = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    ordered = ONNXModel(converted)  # it puts casts after those who read them
    ordered.topological_sort()
    onnx.save(ordered.model, target)
