"""Between rtseg's batches and what an ONNX file takes and gives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtseg.errors import BackendError
from rtseg.zoo import InputSpec, ModelSpec


class Feed:
    """Turns (N, h, w, 3) uint8 RGB batches into a network's input, as its `InputSpec` says.

    Args:
        dtype: of the input, as the file declares it.
    """

    def __init__(self, spec: InputSpec, dtype: np.dtype) -> None:
        self.dtype = dtype
        self._flip = spec.colour == "BGR"
        self._planes = spec.layout == "NCHW"
        # (v * scale - mean) / std = v * factor + shift, in the network's own colour order
        std = np.array(spec.std, np.float64)
        self._factor = (spec.scale / std).astype(np.float32)
        self._shift = (-np.array(spec.mean, np.float64) / std).astype(np.float32)
        self._as_it_is = bool((self._factor == 1).all() and (self._shift == 0).all())

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray:
        """The network's input, contiguous, in its layout, colour order and dtype."""
        pixels: NDArray = batch[..., ::-1] if self._flip else batch
        if not self._as_it_is:
            pixels = pixels * self._factor + self._shift
            if self.dtype.kind in "iu":  # quantised by the file's own scale: whole numbers
                limits = np.iinfo(self.dtype)
                pixels = np.clip(np.rint(pixels), limits.min, limits.max)
        if self._planes:
            pixels = pixels.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(pixels, self.dtype)


def as_scores(output: NDArray, spec: ModelSpec) -> NDArray[np.float32]:
    """A network's output as (N, C, h, w) float32, C being the number of its labels.

    One channel p, of a network with two classes, becomes (1 - p, p), or as a logit (0, p). Class
    indices, which some networks give, become one-hot.

    Raises:
        BackendError: the output has another shape than its labels ask for.
    """
    count = len(spec.labels)
    if output.dtype.kind in "iu" and (output.ndim == 3 or 1 in (output.shape[1], output.shape[-1])):
        return _one_hot(output, count)
    if output.ndim == 4 and spec.output_layout == "NHWC":
        output = output.transpose(0, 3, 1, 2)
    scores = np.ascontiguousarray(output, np.float32)
    if scores.ndim == 4 and scores.shape[1] == 1 and count == 2:
        other = 1 - scores if spec.output == "probabilities" else np.zeros_like(scores)
        scores = np.concatenate([other, scores], axis=1)
    if scores.ndim != 4 or scores.shape[1] != count:
        raise BackendError(
            f"{spec.name} gave an output of shape {output.shape}",
            found=f"its {count} labels ask for {count} channels",
            do="Name its labels and layout in a TOML file beside it",
        )
    return scores


def _one_hot(indices: NDArray, count: int) -> NDArray[np.float32]:
    """(N, h, w), (N, 1, h, w) or (N, h, w, 1) of class indices."""
    if indices.ndim == 4:
        indices = indices.squeeze(1 if indices.shape[1] == 1 else 3)
    classes = np.arange(count).reshape(1, -1, 1, 1)
    return (indices[:, None] == classes).astype(np.float32)
