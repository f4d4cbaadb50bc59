"""A frame, and its segmentation: its scores, and the mask decoded from them.

A full-size image is **BGR** everywhere. RGB exists only inside the segmenter, after the image has
been shrunk for the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rtseg.labels import VOID, LabelSet
from rtseg.notebook import over_picture, with_names
from rtseg.options import check_size

if TYPE_CHECKING:
    from rtseg.decode import BlendTable, Painting

Image = NDArray[np.uint8]
"""(H, W, 3) uint8 BGR."""

Mask = NDArray[np.uint8]
"""(H, W) uint8 class indices; 255 is "no class", `VOID`."""


class HeldPicture(Protocol):
    """An image on a device, or in planes, fetched on demand."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 3)."""

    def numpy(self) -> Image:
        """(H, W, 3) uint8 BGR in main memory, fetched once; read-only."""


Picture = Image | HeldPicture


def in_memory(picture: Picture) -> Image:
    """(H, W, 3) uint8 BGR; fetched now if it is held elsewhere."""
    return picture if isinstance(picture, np.ndarray) else picture.numpy()


ScoreKind = Literal["logits", "probabilities"]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image, sealed: threads share it without copying.

    Attributes:
        picture: (H, W, 3) uint8 BGR, made read-only; or an image on a device, or in planes.
        index: position in the source, from 0; a gap is a drop.
        pts: presentation time in seconds from the source's first frame.
        captured_at: monotonic seconds at which the image was taken or read.
        name: of the image if it has one (a file's stem), otherwise "".
        lasts: seconds for which it is shown; 0 where the source does not tell.

    Raises:
        ValueError: the image has another shape or dtype.
    """

    picture: Picture
    index: int
    pts: float
    captured_at: float
    name: str = ""
    lasts: float = 0.0

    def __post_init__(self) -> None:
        image = self.picture
        if not isinstance(image, np.ndarray):
            return
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"a frame's image is (H, W, 3) uint8, got {image.shape} {image.dtype}")
        image.flags.writeable = False

    @property
    def image(self) -> Image:
        """(H, W, 3) uint8 BGR, read-only; fetched now if it is held elsewhere."""
        return in_memory(self.picture)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.picture.shape[0], self.picture.shape[1]

    def __repr__(self) -> str:
        return f"<Frame {self.index}, {self.size[1]}x{self.size[0]}, at {self.pts:.3f} s>"


class Carried(NamedTuple):
    """Where the scores of a frame that the network did not see come from.

    Attributes:
        key: number of the nearest keyframe, which the network saw; None if there was none yet, and
            the frame has no classes.
        frames: how many frames ago that was; negative if it is yet to come.
        idle: whether the scores are the keyframe's own, as the image has not changed since.
    """

    key: int | None
    frames: int = 0
    idle: bool = False


class HeldScores(Protocol):
    """Scores on a device, with their frame, which are decoded and drawn there."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w)."""

    def numpy(self) -> NDArray[np.float32]:
        """(C, h, w) float32 in main memory."""

    def with_scores(self, scores: NDArray[np.float32]) -> HeldScores:
        """The same frame with other scores (C, h, w)."""

    def decode(
        self, size: tuple[int, int], table: NDArray[np.uint8], *, align_corners: bool
    ) -> tuple[Mask, NDArray[np.int64]]:
        """As `rtseg.decode.decode`, without a painting."""

    def over(self, table: NDArray[np.uint8], blend: BlendTable, *, align_corners: bool) -> Any:
        """The frame with the mask drawn over it: `image`, `counts`, and `mask()` to fetch it."""

    def wait(self) -> float:
        """Wait until they are complete; returns the seconds that the device took."""


class Segmentation:
    """The scores of one frame and the names of their classes; the mask is decoded on demand.

    Args:
        scores: (C, h, w) float32 at the network's output stride, or scores on a device.
        labels: the C classes.
        size: (height, width) of the frame, and so of the mask.
        kind: of the scores; both decode alike, they differ in `probability`.
        selected: classes to keep; the others become background, or VOID if there is none.
        align_corners: where the scores lie on the frame; see `rtseg.decode.decode`.
        carried: where the scores come from, if the network did not see this very frame.

    Attributes:
        given: the scores as they were given, in memory or on a device.
        picture: the image, (H, W, 3) uint8 BGR, not copied, for notebooks; None if unknown.
    """

    def __init__(
        self,
        scores: NDArray[np.float32] | HeldScores,
        labels: LabelSet,
        size: tuple[int, int],
        *,
        kind: ScoreKind = "logits",
        selected: frozenset[int] | None = None,
        align_corners: bool = False,
        carried: Carried | None = None,
    ) -> None:
        self.given = scores
        self._held = None if isinstance(scores, np.ndarray) else scores
        self._fetch_mask: Callable[[], Mask] | None = None
        self.picture: Picture | None = None
        self.labels = labels
        self.size = size
        self.kind = kind
        self.selected = selected
        self.align_corners = align_corners
        self.carried = carried

    def with_scores(
        self, scores: NDArray[np.float32] | HeldScores, carried: Carried | None = None
    ) -> Segmentation:
        """The same with other scores of the same network."""
        return self._like(scores=scores, carried=carried)

    def at_size(self, size: tuple[int, int]) -> Segmentation:
        """The same scores for the same image at another (height, width); raises UsageError."""
        check_size("size", () if size is None else size)
        return self._like(size=(int(size[0]), int(size[1])))

    def selecting(self, selected: frozenset[int] | None) -> Segmentation:
        """The same scores with other classes kept."""
        return self._like(selected=selected)

    def _like(self, **others: Any) -> Segmentation:
        names = ("scores", "labels", "size", "kind", "selected", "align_corners", "carried")
        same = {name: getattr(self, name) for name in names if name not in others}
        return Segmentation(**same, **others)

    @cached_property
    def scores(self) -> NDArray[np.float32]:
        """(C, h, w) float32 at the network's output stride."""
        return self.given if isinstance(self.given, np.ndarray) else self.given.numpy()

    @cached_property
    def mask(self) -> Mask:
        """(H, W) uint8 class indices at frame size, decoded once; read-only."""
        from rtseg.decode import NOTHING

        if self._fetch_mask is not None:
            return _sealed(self._fetch_mask())
        return self._decode(NOTHING)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(256,) int64: number of pixels of the mask with each value."""
        from rtseg.decode import NOTHING, paint

        mask = self.mask  # decoding it counts as well
        counted: NDArray[np.int64] | None = self.__dict__.get("counts")
        return paint(mask, NOTHING) if counted is None else counted

    def over(
        self, picture: Picture, table: BlendTable, canvas: Image | None = None, left: int = 0
    ) -> Image:
        """The mask drawn over an image on a canvas, which is returned, as by `blend`; a mask that
        is not decoded yet is decoded in the same pass over memory.

        Args:
            picture: (H, W, 3) uint8 BGR, of the frame's size.
            canvas, left: see `blend`.

        Raises:
            ValueError: the picture is not of the frame's size, or the canvas cannot hold it.
        """
        from rtseg.decode import paint, start_painting

        if picture.shape[:2] != self.size:
            raise ValueError(f"a mask of {self.size} does not fit an image of {picture.shape[:2]}")
        decoded = "mask" in self.__dict__
        if self._held is not None and not decoded:
            return self._over_held(self._held, table, canvas, left)
        painting, canvas = start_painting(in_memory(picture), table, canvas, left)
        if decoded:
            paint(self.mask, painting)
        else:
            self.__dict__["mask"] = self._decode(painting)
        return canvas

    def _decode(self, painting: Painting) -> Mask:
        """Decode the mask and count its pixels, and paint."""
        from rtseg.decode import decode

        kept = self.labels.lookup_table(self.selected)
        if self._held is not None:
            found = self._held.decode(self.size, kept, align_corners=self.align_corners)
        else:
            found = decode(self.scores, self.size, kept, painting, align_corners=self.align_corners)
        mask, self.__dict__["counts"] = found
        return _sealed(mask)

    def _over_held(
        self, held: HeldScores, table: BlendTable, canvas: Image | None, left: int
    ) -> Image:
        """The mask drawn on the device, over the frame that is there already."""
        from rtseg.decode import start_painting

        kept = self.labels.lookup_table(self.selected)
        drawn = held.over(kept, table, align_corners=self.align_corners)
        self.__dict__["counts"], self._fetch_mask = drawn.counts, drawn.mask
        if canvas is None and left == 0:
            return drawn.image
        return start_painting(drawn.image, table, canvas, left)[1]

    @cached_property
    def shares(self) -> dict[str, float]:
        """Name -> share of the frame's pixels, for each class present but the background."""
        skip = {self.labels.background, VOID}
        present = [int(i) for i in np.flatnonzero(self.counts) if int(i) not in skip]
        pixels = self.size[0] * self.size[1]  # of the mask, which may still be on a device
        return {self.labels.names[i]: float(self.counts[i]) / pixels for i in present}

    def probability(self, name_or_id: str | int) -> NDArray[np.float32]:
        """(H, W) float32 in 0..1: how much of each pixel is this class, with soft edges.

        The margin of the class over all others is enlarged, then squashed: exact for two classes,
        and at the network's own samples for more.

        Raises:
            UsageError: there is no such class.
        """
        from rtseg.decode import enlarge

        enlarged = partial(enlarge, size=self.size, align_corners=self.align_corners)
        index = self.labels.index(name_or_id)
        if self.kind == "probabilities":
            return np.clip(enlarged(self.scores[index]), 0.0, 1.0)
        others = np.delete(self.scores, index, axis=0)
        top = others.max(0)
        rest = top + np.log(np.exp(others - top).sum(0))
        margin = enlarged(self.scores[index] - rest)
        return (0.5 * (1.0 + np.tanh(0.5 * margin))).astype(np.float32)

    def __repr__(self) -> str:
        height, width = self.size
        return f"<Segmentation {width}x{height} of {len(self.labels)} classes>"

    _repr_png_, _repr_html_ = over_picture, with_names


def _sealed(mask: Mask) -> Mask:
    mask.flags.writeable = False
    return mask
