"""ONNX Runtime with its input and output in fixed places on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray


class BoundRun:
    """One session whose input and output stay where they are from run to run.

    Spares an allocation and a copy on the host for each, and is what a CUDA graph needs: its
    launches name fixed addresses.

    Args:
        session: with one input and one output in use, of shapes known in advance.
        shapes: of the input and the output.
        dtypes: of both.
        device: as ONNX Runtime calls it: "cuda", "cpu".
    """

    def __init__(
        self,
        session: Any,
        names: tuple[str, str],
        shapes: tuple[tuple[int, ...], tuple[int, ...]],
        dtypes: tuple[np.dtype, np.dtype],
        device: str,
        number: int = 0,
    ) -> None:
        self._session, self._shared = session, device == "cpu"
        given, wanted = names
        self._input, self._output = (
            onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype), device, number)
            for shape, dtype in zip(shapes, dtypes, strict=True)
        )
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(given, self._input)
        self._binding.bind_ortvalue_output(wanted, self._output)
        self._run()

    def __call__(self, values: NDArray) -> NDArray:
        """The output for an input of the shape and dtype given at the start, contiguous."""
        self._input.update_inplace(values)
        self._run()
        output: NDArray = self._output.numpy()
        return output.copy() if self._shared else output

    def _run(self) -> None:
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
