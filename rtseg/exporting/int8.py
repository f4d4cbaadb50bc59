"""Quantise models to int8, with their most sensitive layers left in float.

Static, per channel, in quantise/dequantise pairs (QDQ), by ONNX Runtime's quantiser. Weights use 7
of their 8 bits: x86 CPUs without VNNI or AMX add two products in 16 bits, which would overflow with
8, and a file should give the same masks everywhere. Ranges are the minimum and maximum seen:
on `person`, the quantiser's entropy method agreed exactly as well in 20 times the time, its
percentiles by -0.2 to +0.5 points in 10 times the time.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from rtseg.errors import ModelError
from rtseg.exporting.samples import OnProgress
from rtseg.nets.onnx_file import INPUT_NAME, OUTPUT_NAME

KINDS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Layers that are quantised: those with weights. The rest stays in float, which saves a rounding;
MobileNetV3's activations have no int8 form."""

HARD_SWISH_OPSET = 14

FIRST_KEPT = 2
MOST_KEPT = 0.5
"""Number of float layers in the second attempt; share of float layers in the last."""

Batch = NDArray[np.uint8]


@dataclass(frozen=True)
class Attempt:
    """One attempt.

    Attributes:
        kept: layers left in float.
        agreement: with the float model, 0 to 1.
    """

    kept: tuple[str, ...]
    agreement: float


class Quantiser:
    """Quantises a float model, calibrated once, with any of its layers left in float.

    Args:
        source: the ONNX file in rtseg's form.
        folder: for temporary files.
        batches: (1, h, w, 3) uint8 RGB each, to calibrate on.

    Raises:
        ModelError: it has no layer that can be quantised.
    """

    def __init__(
        self, source: Path, folder: Path, batches: Sequence[Batch], on_progress: OnProgress
    ) -> None:
        self._folder, self._batches, self._on_progress = folder, batches, on_progress
        self._source = folder / "prepared.onnx"
        self._content = _prepare(source, self._source)
        self.layers = tuple(node.name for node in self._content.graph.node if node.op_type in KINDS)
        if not self.layers:
            raise ModelError(
                f"precision int8 for {source.name}",
                found="it has no layer that can be quantised: " + ", ".join(KINDS),
            )
        self._ranges = self._calibrate()

    def write(self, path: Path, kept: Collection[str]) -> None:
        """Write the model with all layers but `kept` in int8."""
        from onnxruntime.quantization import QDQQuantizer, QuantType

        content = onnx.ModelProto()
        content.CopyFrom(self._content)
        chosen = [layer for layer in self.layers if layer not in kept]
        quantiser = QDQQuantizer(
            content,
            per_channel=True,
            reduce_range=True,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=self._ranges,
            nodes_to_quantize=chosen,
            nodes_to_exclude=[],
            op_types_to_quantize=list(KINDS),
            extra_options={},
        )
        with _quiet():
            quantiser.quantize_model()
        quantiser.model.save_model_to_file(str(path), False)

    def most_sensitive_first(self) -> tuple[str, ...]:
        """The layers by how much the scores change if that layer alone is quantised.

        Mean square over two batches; equal ones in the order of the model.
        """
        probes = [self._batches[0], self._batches[len(self._batches) // 2]]
        exact = _scores(self._source, probes)
        single = self._folder / "single.onnx"
        moved = {}
        for done, layer in enumerate(self.layers):
            self._on_progress("ranking layers by sensitivity", done, len(self.layers))
            self.write(single, set(self.layers) - {layer})
            difference = _scores(single, probes) - exact
            moved[layer] = float(np.nan_to_num(np.square(difference).mean(), nan=np.inf))
        return tuple(sorted(self.layers, key=lambda layer: -moved[layer]))

    def _calibrate(self) -> Any:
        from onnxruntime.quantization import CalibrationMethod, create_calibrator

        calibrator = create_calibrator(
            self._source,
            list(KINDS),
            augmented_model_path=str(self._folder / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
            providers=["CPUExecutionProvider"],
        )
        calibrator.collect_data(_reader(self._batches, self._on_progress))
        return calibrator.compute_data()


def quantise(
    quantiser: Quantiser,
    path: Path,
    agreement: Callable[[Path], float],
    threshold: float,
) -> tuple[Attempt, ...]:
    """Write the model in int8, with as few layers in float as possible.

    Attempts keep none, then the 2, 4, 8, ... most sensitive layers in float, up to half of them,
    until the agreement reaches `threshold`. `path` holds the last attempt, which may fail too.

    Args:
        agreement: measures a file's agreement with the float model, 0 to 1.

    Returns:
        The attempts, in order.
    """
    attempts: list[Attempt] = []
    ranking: tuple[str, ...] = ()
    for count in _counts(len(quantiser.layers)):
        if count and not ranking:
            ranking = quantiser.most_sensitive_first()
        quantiser.write(path, ranking[:count])
        attempts.append(Attempt(ranking[:count], agreement(path)))
        if attempts[-1].agreement >= threshold:
            break
    return tuple(attempts)


def _counts(layers: int) -> Iterator[int]:
    """0, 2, 4, 8, ... and half of the layers."""
    most, count = int(layers * MOST_KEPT), FIRST_KEPT
    yield 0
    while count < most:
        yield count
        count *= 2
    if most:
        yield most


def _reader(batches: Sequence[Batch], on_progress: OnProgress) -> Any:
    """The batches in the library's interface."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc,unused-ignore]
        left = enumerate(batches)

        def get_next(self) -> dict[str, Batch] | None:
            done, batch = next(self.left, (0, None))
            on_progress("calibrating", done, len(batches))
            return None if batch is None else {INPUT_NAME: batch}

    return Reader()


def _prepare(source: Path, target: Path) -> onnx.ModelProto:
    """Optimise the model, infer its shapes and name its operators; also written to `target`."""
    from onnxruntime.quantization import quant_pre_process

    with _quiet():
        # shapes are static but for the batch, so that ONNX's own inference is enough
        quant_pre_process(source, target, skip_symbolic_shape=True)
    content = onnx.load(target)
    taken: set[str] = set()
    for index, node in enumerate(content.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)
    if any(each.domain == "" and each.version >= HARD_SWISH_OPSET for each in content.opset_import):
        _join_hard_swish(content.graph)
    onnx.save(content, target)
    return content


def _join_hard_swish(graph: onnx.GraphProto) -> None:
    """Join each x * HardSigmoid(x) to a HardSwish.

    ONNX Runtime's optimiser splits it, and splits it again when it runs the file. To OpenVINO the
    halves are two layers in float, with which `person` in int8 took 16.4 instead of 11.9 ms.
    """
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(output.name for output in graph.output)
    gates = {node.output[0]: node for node in graph.node if _is_swish_gate(node)}
    for node in list(graph.node):  # of which some are removed
        if node.op_type != "Mul":
            continue
        for gated, x in (node.input, node.input[::-1]):
            if gated in gates and gates[gated].input[0] == x and uses[gated] == 1:
                graph.node.remove(gates.pop(gated))
                node.op_type, node.input[:] = "HardSwish", [x]
                break


def _is_swish_gate(node: onnx.NodeProto) -> bool:
    """Whether it is the HardSigmoid of a HardSwish: max(0, min(1, x / 6 + 1/2))."""
    slope = {each.name: each.f for each in node.attribute}
    found = slope.get("alpha", 0.2), slope.get("beta", 0.5)
    return node.op_type == "HardSigmoid" and np.allclose(found, (1 / 6, 0.5))


def _scores(path: Path, batches: Sequence[Batch]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0] for batch in batches])


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence advice that the library logs as warnings, and that is followed here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
