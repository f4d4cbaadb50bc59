"""Networks in whole numbers of 8 bits, their most sensitive layers left in float.

Static, per channel, in quantise/dequantise pairs (QDQ), by ONNX Runtime's own quantiser. Weights
take 7 of their 8 bits: processors with AVX2 and no VNNI add two products in 16 bits, which would
overflow with eight, and a file should give the same masks wherever it runs. Ranges are the least
and largest value seen: on `person`, the quantiser's entropy method agreed exactly as well in twenty
times the time, its percentiles by -0.2 to +0.5 points in ten times the time.
"""

from __future__ import annotations

import logging
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
from rtseg.export.frames import Watch
from rtseg.nets.onnx_file import INPUT_NAME, OUTPUT_NAME

KINDS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Layers worth quantising: those that hold the weights. What stands between stays in float, where
that is one rounding less, and where MobileNetV3's activations have no form in 8 bits."""

FIRST_KEPT = 2
MOST_KEPT = 0.5
"""The first attempt beyond none keeps so many layers in float; the last, this share of them."""

Batch = NDArray[np.uint8]


@dataclass(frozen=True)
class Attempt:
    """One try: which layers stayed in float, and what came of it.

    Attributes:
        agreement: with the float network, 0 to 1.
    """

    kept: tuple[str, ...]
    agreement: float


class Quantiser:
    """A float network in our form, calibrated, to be quantised with any of its layers in float.

    Args:
        source: the network, as an ONNX file.
        folder: where it may leave files.
        batches: (1, h, w, 3) uint8 RGB each, to calibrate on.

    Raises:
        ModelError: it has no layer that can be quantised.
    """

    def __init__(self, source: Path, folder: Path, batches: Sequence[Batch], watch: Watch) -> None:
        self._folder, self._batches, self._watch = folder, batches, watch
        self._source = folder / "prepared.onnx"
        self._content = _prepared(source, self._source)
        self.layers = tuple(node.name for node in self._content.graph.node if node.op_type in KINDS)
        if not self.layers:
            raise ModelError(
                f"precision int8 for {source.name}",
                found="it has no layer that can be quantised: " + ", ".join(KINDS),
            )
        self._ranges = self._calibrated()

    def write(self, path: Path, kept: Collection[str]) -> None:
        """Write the network with all layers but those named in 8 bits."""
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
        """The layers, by how far the scores move when that layer alone is quantised.

        The mean square over two batches; equal ones in the order of the network.
        """
        probes = [self._batches[0], self._batches[len(self._batches) // 2]]
        exact = _scores(self._source, probes)
        single = self._folder / "single.onnx"
        moved = {}
        for done, layer in enumerate(self.layers):
            self._watch("looking for the sensitive layers", done, len(self.layers))
            self.write(single, set(self.layers) - {layer})
            difference = _scores(single, probes) - exact
            moved[layer] = float(np.nan_to_num(np.square(difference).mean(), nan=np.inf))
        return tuple(sorted(self.layers, key=lambda layer: -moved[layer]))

    def _calibrated(self) -> Any:
        from onnxruntime.quantization import CalibrationMethod, create_calibrator

        calibrator = create_calibrator(
            self._source,
            list(KINDS),
            augmented_model_path=str(self._folder / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
            providers=["CPUExecutionProvider"],
        )
        calibrator.collect_data(_reader(self._batches, self._watch))
        return calibrator.compute_data()


def quantise(
    quantiser: Quantiser,
    path: Path,
    agreement: Callable[[Path], float],
    threshold: float,
) -> tuple[Attempt, ...]:
    """Write the network in int8, with as few layers in float as it takes.

    None at first; while the agreement is below `threshold`, the 2, 4, 8, ... most sensitive ones,
    up to half of them. `path` holds the last attempt, which may fail too.

    Args:
        agreement: of a file with the float network, 0 to 1.

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


def _reader(batches: Sequence[Batch], watch: Watch) -> Any:
    """The batches as the library reads them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc,unused-ignore]
        left = enumerate(batches)

        def get_next(self) -> dict[str, Batch] | None:
            done, batch = next(self.left, (0, None))
            watch("calibrating", done, len(batches))
            return None if batch is None else {INPUT_NAME: batch}

    return Reader()


def _prepared(source: Path, target: Path) -> onnx.ModelProto:
    """The network optimised, its shapes inferred, its operators named; also as a file."""
    from onnxruntime.quantization import quant_pre_process

    with _quiet():
        # its shapes are static but for the batch: ONNX's own inference knows them all
        quant_pre_process(source, target, skip_symbolic_shape=True)
    content = onnx.load(target)
    taken: set[str] = set()
    for index, node in enumerate(content.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)
    onnx.save(content, target)
    return content


def _scores(path: Path, batches: Sequence[Batch]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0] for batch in batches])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that the library logs as warnings: it is followed here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
