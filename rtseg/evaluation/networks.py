"""A model opened at as many input sizes as the images need."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rtseg.backends import open_backend
from rtseg.backends.averaged import Averaged
from rtseg.backends.base import fit_size
from rtseg.backends.fitted import FittedBackend
from rtseg.backends.options import STRIDE
from rtseg.contracts import Backend, BackendInfo
from rtseg.errors import UsageError
from rtseg.frame import Image, Segmentation
from rtseg.options import Size
from rtseg.segmenter import Segmenter
from rtseg.text import listed
from rtseg.zoo import Model, ModelSpec

_WIDE = (9 / 8, 5 / 4, 4 / 3, 3 / 2, 16 / 9, 2, 5 / 2, 3, 4)
SHAPES = (*(1 / shape for shape in reversed(_WIDE)), 1.0, *_WIDE)
"""Width over height of the inputs of `auto`: usual aspect ratios, and some between them."""


@dataclass(frozen=True)
class InputPolicy:
    """How the input size follows from the image size.

    `auto` is what `rtseg run` does: the model's own area in the image's aspect ratio, but rounded
    to the nearest of `SHAPES`, so that any set of images needs at most 19 inputs. Images of 4:3,
    3:2 or 16:9 get exactly their live input; others are stretched by at most 6 %, by 9 % between
    3:2 and 2:1, and more only beyond. `exact` keeps every aspect ratio. `long` gives the longer
    side `side` pixels and the other in proportion, both multiples of 16. `fixed` resizes every
    image to `size`. A model with one fixed input size always gets that size.
    """

    kind: Literal["auto", "exact", "long", "fixed"] = "auto"
    side: int = 0
    size: Size | None = None

    @classmethod
    def parse(cls, text: str) -> InputPolicy:
        """The policy that `--imgsz` names: auto, exact, HxW, one number, or long:N.

        Raises:
            UsageError: it is none of these.
        """
        kind, _, number = text.rpartition(":")
        if text in ("auto", "exact"):
            return cls("exact" if text == "exact" else "auto")
        if kind == "long" and re.fullmatch("[1-9][0-9]*", number):
            return cls("long", side=int(number))
        sides = re.fullmatch(r"([1-9][0-9]*)(?:[xX]([1-9][0-9]*))?", text)
        if sides is None:
            do = "Give HxW, as 384x640, one number, auto, exact, or long:N"
            raise UsageError(f"--imgsz {text!r} is not valid", do=do)
        return cls("fixed", size=(int(sides[1]), int(sides[2] or sides[1])))

    def size_for(self, spec: ModelSpec, height: int, width: int) -> Size:
        """(height, width) of the input for an image of this height and width."""
        if spec.input.fixed:
            return spec.input.size
        if self.kind == "fixed" and self.size is not None:
            return self.size
        if self.kind == "long":
            scale = self.side / max(height, width)
            return _sixteenths(height * scale), _sixteenths(width * scale)
        if self.kind == "auto":
            width, height = round(_nearest_shape(width / height) * 10_000), 10_000
        return fit_size(spec, width, height)

    def describe(self, spec: ModelSpec) -> str:
        """The input size in one line."""
        height, width = self.size or spec.input.size
        if spec.input.fixed:
            return f"{spec.input.size[0]}x{spec.input.size[1]} (HxW), the only size it takes"
        if self.kind == "fixed":
            return f"{height}x{width} (HxW) for every image"
        if self.kind == "long":
            return f"the image's aspect ratio, long side {self.side}, in multiples of {STRIDE}"
        area = f"the area of {spec.input.size[0]}x{spec.input.size[1]}"
        if self.kind == "exact":
            return f"{area} in the image's aspect ratio, as in rtseg run"
        return f"{area} in the nearest usual aspect ratio, as in rtseg run for cameras"


def _sixteenths(side: float) -> int:
    return max(2 * STRIDE, round(side / STRIDE) * STRIDE)


def _nearest_shape(shape: float) -> float:
    return min(SHAPES, key=lambda usual: abs(math.log(shape / usual)))


class Network:
    """Segments images of any size with the `Segmenter` that `rtseg run` uses.

    A backend has one input size, and ONNX files are exported per size (about a second each, kept
    in the cache): hence the policy, which needs few sizes.

    Args:
        name: the name in results; "refined" is added with `refine`.
        model: opened when the first image comes.
        policy: from image size to input size.
        backend: name of a backend, or "auto".
        refine: refine mask edges from image colours.
        averaging: of `Averaged`: tta, window, overlap; "tta" and "windows" are added to the name.
        options: of `BackendOptions`: device, precision, threads, strict_device.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        policy: InputPolicy | None = None,
        *,
        backend: str = "auto",
        refine: bool = False,
        averaging: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._averaging = dict(averaging or {})
        self._window: Size | None = self._averaging.get("window")
        extra = [
            ("tta", self._averaging.get("tta")),
            ("windows", self._window),
            ("refined", refine),
        ]
        self.name = ", ".join([name, *(word for word, given in extra if given)])
        self.model, self._refine = model, refine
        self.policy = policy or InputPolicy()
        self.info: BackendInfo | None = None
        self._backend, self._options = backend, options
        self._segmenter: Segmenter | None = None

    def __call__(self, image: Image) -> Segmentation:
        """Segment one (H, W, 3) uint8 BGR image.

        Raises:
            RtsegError: the model cannot be opened at this size, or failed.
        """
        if self._segmenter is None:
            first = self._opened(self.input_size(image.shape[0], image.shape[1]))
            self.info = self.info or first.info
            backend: Backend = FittedBackend(first, self._opened, self.input_size)
            if self._averaging:
                backend = Averaged(backend, **self._averaging)
                self.info = backend.info
            self._segmenter = Segmenter(backend, refine=self._refine)
        return self._segmenter(image)

    def input_size(self, height: int, width: int) -> Size:
        """(height, width) of the input for an image of this height and width, or its windows."""
        if self._window is not None:
            height, width = min(height, self._window[0]), min(width, self._window[1])
        return self.policy.size_for(self.model.spec, height, width)

    def close(self) -> None:
        """Free the device; the next image opens it again."""
        if self._segmenter is not None:
            self._segmenter.close()
        self._segmenter = None

    def _opened(self, size: Size) -> Backend:
        return open_backend(self._backend, self.model, input_size=size, **self._options)

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def describe_inputs(inputs: Counter[Size]) -> str:
    """Input sizes by number of images: "320x432 (67), 304x464 (26) and 8 more"."""
    return listed([f"{h}x{w} ({count})" for (h, w), count in inputs.most_common()], 3)
