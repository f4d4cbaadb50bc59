"""A network that is open at as many input sizes as the pictures ask for."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

from rtseg.backends import open_backend
from rtseg.contracts import BackendInfo
from rtseg.evaluate.sizes import InputPolicy, Size
from rtseg.frame import Image
from rtseg.segmentation import Segmentation
from rtseg.segmenter import Segmenter
from rtseg.zoo import Model

KEPT_OPEN = 4
"""Input sizes open at once; pictures come sorted by size, so that few are opened twice."""


class Network:
    """Segments pictures of any size through the `Segmenter` that runs live.

    A backend has one input size for its life, and ONNX files of ours are exported per size (about
    a second each, kept in the cache): hence the policy, which asks for few sizes.

    Args:
        name: what the results call it.
        model: the network; a `Model` is only named, and opened when the first picture comes.
        policy: from a picture's size to the input's.
        backend: name of a backend, or "auto".
        refine: whether the edges of masks follow the picture's; the name then says so.
        options: of `BackendOptions`: device, precision, threads, strict.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        policy: InputPolicy | None = None,
        *,
        backend: str = "auto",
        refine: bool = False,
        **options: Any,
    ) -> None:
        self.name, self.model, self._refine = f"{name}, refined" if refine else name, model, refine
        self.policy = policy or InputPolicy()
        self.info: BackendInfo | None = None
        self._backend, self._options = backend, options
        self._open: OrderedDict[Size, Segmenter] = OrderedDict()

    def __call__(self, image: Image) -> Segmentation:
        """Segment one (H, W, 3) uint8 BGR picture.

        Raises:
            RtsegError: the network cannot be opened at this size, or failed.
        """
        return self.segmenter(self.input_size(image.shape[0], image.shape[1]))(image)

    def input_size(self, height: int, width: int) -> Size:
        """(height, width) of the input for a picture of that height and width."""
        return self.policy.size_for(self.model.spec, height, width)

    def segmenter(self, size: Size) -> Segmenter:
        """The segmenter whose input has that size, opened if it is not.

        Raises:
            RtsegError: as `open_backend`.
        """
        if size not in self._open:
            while len(self._open) >= KEPT_OPEN:
                self._open.popitem(last=False)[1].close()
            opened = open_backend(self._backend, self.model, input_size=size, **self._options)
            self.info = self.info or opened.info
            self._open[size] = Segmenter(opened, refine=self._refine)
        self._open.move_to_end(size)
        return self._open[size]

    def close(self) -> None:
        """Free the device; a later picture opens it again."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def in_words(inputs: Counter[Size]) -> str:
    """Input sizes and how many pictures had them: "320x432 (67), 304x464 (26) and 8 more"."""
    most = [f"{height}x{width} ({count})" for (height, width), count in inputs.most_common(3)]
    more = f" and {len(inputs) - len(most)} more" if len(inputs) > len(most) else ""
    return ", ".join(most) + more
