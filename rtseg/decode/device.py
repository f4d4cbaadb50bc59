"""Scores and frames that stay on the GPU: decoded, drawn and counted there.

The frame is uploaded once, and only results are downloaded. The kernels (kernels.py) do what
`rtseg.decode` does on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, cached_property, lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from rtseg.decode import BlendTable, axis, kernels
from rtseg.draw import halving_factor
from rtseg.frame import Image, Mask, Picture, in_memory
from rtseg.gpu import device_errors, drawing_stream, on_device
from rtseg.yuv import luma as coefficients

BLOCK = 256

R = TypeVar("R")

Maker = Callable[[tuple[int, ...]], NDArray[np.float32]]
"""Makes the scores of a frame, given their shape (C, h, w)."""


class DevicePicture:
    """A `rtseg.frame.HeldPicture` that is a tensor.

    Args:
        tensor: (H, W, 3) uint8 BGR, not written to any more.
        ready: the CUDA event after which it is complete; None if it is.
    """

    def __init__(self, tensor: Tensor, ready: Any = None) -> None:
        self._tensor, self._ready = tensor, ready

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 3)."""
        height, width, channels = self._tensor.shape
        return height, width, channels

    def on(self, device: torch.device) -> Tensor:
        """The tensor, on `device`, for work in the current stream."""
        if self._tensor.device.type == "cuda":
            stream = torch.cuda.current_stream(self._tensor.device)
            stream.wait_event(self._ready)
            self._tensor.record_stream(stream)
        return self._tensor.to(device, non_blocking=True)

    def numpy(self) -> Image:
        """(H, W, 3) uint8 BGR in main memory, downloaded once; read-only.

        Raises:
            DeviceError: the device failed.
        """
        return self._here

    @cached_property
    def _here(self) -> Image:
        device = self._tensor.device
        with _drawing(device):
            (image,) = Downloads([self.on(device)]).arrays()
        image.flags.writeable = False
        return image


@contextmanager
def _drawing(device: torch.device) -> Iterator[Any]:
    """The drawing stream of a GPU, current meanwhile; None on the CPU.

    Raises:
        DeviceError: the work in it fails.
    """
    stream = drawing_stream(device) if device.type == "cuda" else None
    with device_errors(device), nullcontext() if stream is None else torch.cuda.stream(stream):
        yield stream


class Downloads:
    """Downloads of tensors to pinned memory, started at once."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._event = None
        if tensors[0].device.type != "cuda":
            self._here = [tensor.cpu() for tensor in tensors]
            return
        self._here = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
        for here, there in zip(self._here, tensors, strict=True):
            here.copy_(there, non_blocking=True)
        # a blocking event lets this thread sleep: the others of the loop need the interpreter
        self._event = torch.cuda.Event(blocking=True)
        self._event.record()

    def arrays(self) -> list[NDArray[Any]]:
        """The tensors as arrays, once they have arrived."""
        if self._event is not None:
            self._event.synchronize()
        return [tensor.numpy() for tensor in self._here]


def upload(pictures: Sequence[Picture], device: torch.device) -> Tensor:
    """(N, H, W, 3) uint8 BGR on `device`, for work in the current stream.

    Args:
        pictures: N of one size, in memory or on a device.
    """
    if any(isinstance(picture, DevicePicture) for picture in pictures):
        there = [
            each.on(device) if isinstance(each, DevicePicture) else upload([each], device)[0]
            for each in pictures
        ]
        return there[0][None] if len(there) == 1 else torch.stack(there)
    return _uploaded([in_memory(picture) for picture in pictures], device)


def _uploaded(arrays: Sequence[NDArray[Any]], device: torch.device) -> Tensor:
    """Arrays of one shape and type as one tensor on `device`, each copied once before."""
    kind = torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype
    shape = (len(arrays), *arrays[0].shape)
    # torch reuses pinned memory only after the copy out of it has ended
    staged = torch.empty(shape, dtype=kind, pin_memory=device.type == "cuda")
    for place, array in zip(staged.numpy(), arrays, strict=True):
        np.copyto(place, array)
    return staged.to(device, non_blocking=True)


def shrink(frames: Tensor, into: Tensor) -> None:
    """Fill `into` (N, h, w, 3) uint8 RGB with the whole `frames` (N, H, W, 3) uint8 BGR.

    As `rtseg.draw.resized`, but rounded once instead of at each step: within 1 of 255 of it.
    """
    count, height, width = frames.shape[:3]
    out_height, out_width = into.shape[1:3]
    box_y, box_x = halving_factor(height, out_height), halving_factor(width, out_width)
    kernels.shrink[(triton.cdiv(out_height * out_width, BLOCK), count)](
        frames,
        into,
        height,
        width,
        out_height,
        out_width,
        BOX_Y=box_y,
        BOX_X=box_x,
        BLOCK=BLOCK,
    )


def from_planes(
    luma: Any, chroma: Any, *, matrix: int, full_range: bool, turns: int = 0
) -> DevicePicture:
    """A frame that a video decoder left on a device, in the colours that OpenCV's decoder gives.

    Chroma is not interpolated: each sample holds for its four pixels.

    Args:
        luma: DLPack capsule of (H, W) uint8, or uint16 with the value in the upper bits.
        chroma: of ((H+1)/2, (W+1)/2, 2), as in NV12 and P010; a decoder may leave out samples that
            are half outside.
        matrix: FFmpeg's number; see `rtseg.yuv`.
        full_range: whether black is 0 and white 255, instead of 16 and 235.
        turns: quarter turns counter-clockwise.

    Raises:
        DeviceError: the device failed, or is out of memory.
    """
    bright, colour = torch.from_dlpack(luma), torch.from_dlpack(chroma)
    device, (height, width) = bright.device, bright.shape
    cuda = device.type == "cuda"
    # FFmpeg decodes in the default stream: there the planes are complete, and not reused yet
    with (
        device_errors(device),
        on_device(device),
        torch.cuda.stream(torch.cuda.default_stream(device)) if cuda else nullcontext(),
    ):
        picture = torch.empty((height, width, 3), dtype=torch.uint8, device=device)
        kernels.bgr[(triton.cdiv(height * width, BLOCK),)](
            bright,
            colour,
            picture,
            height,
            width,
            colour.shape[0],
            colour.shape[1],
            bright.stride(0),
            colour.stride(0),
            *coefficients(matrix),
            FULL=full_range,
            DEPTH=8 * bright.element_size(),
            BLOCK=BLOCK,
        )
        if turns % 4:
            picture = torch.rot90(picture, turns).contiguous()
        ready = None
        if cuda:
            ready = torch.cuda.Event()
            ready.record()
    return DevicePicture(picture, ready)


RUN = 512
"""Pixels of a row per program of the decode kernel."""


class DeviceBatch:
    """The scores of frames of one size on a device, and the frames themselves.

    What is wanted of one frame is made and downloaded of all that follow it too, in one go: they
    are shown in order, and in the same way unless a person changes it.

    Args:
        scores: (N, C, h, w) float32 on the device; may be a view with any strides.
        frames: (N, H, W, 3) uint8 BGR on the same device.
        span: CUDA events around the work on them; both are complete after the second. None if they
            are complete.
    """

    def __init__(self, scores: Tensor, frames: Tensor, span: Span | None = None) -> None:
        self.held, self.frames, self.span = scores, frames, span
        self._made: dict[Any, dict[int, Any]] = {}
        self._remade: dict[Maker, DeviceBatch] = {}

    def each(self) -> list[DeviceScores]:
        """The scores of each frame."""
        return [DeviceScores(self, number) for number in range(len(self.held))]

    def shared(self, number: int, key: Hashable, make: Callable[[slice], Sequence[R]]) -> R:
        """What `make` gives for a frame; once for all frames from the first on that is asked for.

        Args:
            key: of what is made; each frame's is kept until it is asked for.
        """
        waiting = self._made.get(key)
        if waiting is None:
            waiting = self._made[key] = dict(enumerate(make(slice(number, None)), number))
        found: R | None = waiting.pop(number, None)
        return make(slice(number, number + 1))[0] if found is None else found

    def remade(self, make: Maker) -> DeviceBatch:
        """The same frames, each with the scores that `make` gives for their shape."""
        if make not in self._remade:
            scores = _made_on(self.held.device, tuple(self.held.shape[1:]), make)
            self._remade[make] = DeviceBatch(
                scores.expand(len(self.held), *scores.shape), self.frames, self.span
            )
        return self._remade[make]

    def scores(self, part: slice) -> list[NDArray[np.float32]]:
        """(C, h, w) float32 of some frames, in main memory."""
        with self.stream():
            return list(Downloads([self.held[part].contiguous()]).arrays()[0])

    def decoded(
        self, part: slice, size: tuple[int, int], table: NDArray[np.uint8], align_corners: bool
    ) -> list[tuple[Mask, NDArray[np.int64]]]:
        """Masks of some frames, and their pixel counts."""
        with self.stream():
            masks, counts, _ = self._passes(part, size, table, None, align_corners)
            host_masks, host_counts = Downloads([masks, counts]).arrays()
        return list(zip(host_masks, host_counts.astype(np.int64), strict=True))

    def drawn(
        self, part: slice, table: NDArray[np.uint8], blend: BlendTable, align_corners: bool
    ) -> list[Drawn]:
        """Some frames with their masks drawn over them."""
        height, width = self.frames.shape[1:3]
        with self.stream():
            masks, counts, canvas = self._passes(part, (height, width), table, blend, align_corners)
            images, host_counts = Downloads([canvas, counts]).arrays()

        @cache
        def fetched() -> NDArray[np.uint8]:
            with _drawing(masks.device):
                return Downloads([masks]).arrays()[0]

        def mask(number: int) -> Mask:
            return fetched()[number]

        counted = host_counts.astype(np.int64)
        return [Drawn(images[n], counted[n], partial(mask, n)) for n in range(len(images))]

    def _passes(
        self,
        part: slice,
        size: tuple[int, int],
        table: NDArray[np.uint8],
        blend: BlendTable | None,
        align_corners: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        scores, frames = self.held[part], self.frames[part]
        device, (count, classes, h, w) = scores.device, scores.shape
        height, width = size
        top = torch.empty((count, h, w), dtype=torch.uint8, device=device)
        strides = scores.stride()
        kernels.winners[(triton.cdiv(h * w, BLOCK), count)](
            scores, top, classes, h, w, *strides, BLOCK=BLOCK
        )
        masks = torch.empty((count, *size), dtype=torch.uint8, device=device)
        counts = torch.zeros((count, 256), dtype=torch.int32, device=device)
        # without a blend three arguments are not used
        canvas = masks if blend is None else torch.empty_like(frames)
        weight, offset = _blend_on(device, blend) if blend else (counts, counts)
        kernels.decode[(height, triton.cdiv(width, RUN), count)](
            scores,
            top,
            *_axis_on(device, h, height, align_corners),
            *_axis_on(device, w, width, align_corners),
            _table_on(device, table.tobytes()),
            masks,
            counts,
            frames,
            canvas,
            weight,
            offset,
            classes,
            h,
            w,
            *strides,
            height,
            width,
            PAINT=blend is not None,
            BLOCK=RUN,
        )
        return masks, counts, canvas

    @contextmanager
    def stream(self) -> Iterator[None]:
        """The drawing stream, after the scores are complete; nothing on the CPU.

        Raises:
            DeviceError: the work in it fails.
        """
        with _drawing(self.held.device) as stream:
            if stream is not None:
                if self.span is not None:
                    stream.wait_event(self.span.end)
                for held in (self.held, self.frames):
                    held.record_stream(stream)
            yield


class DeviceScores:
    """The scores of one frame of a batch on a device: a `rtseg.frame.HeldScores`."""

    def __init__(self, batch: DeviceBatch, number: int = 0) -> None:
        self._batch, self._number = batch, number

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w)."""
        return tuple(self._batch.held.shape[1:])

    def wait(self) -> float:
        """Return once the batch is complete: the seconds that the device took for it.

        Raises:
            DeviceError: it failed.
        """
        span = self._batch.span
        if span is None:
            return 0.0
        with device_errors(self._batch.held.device):
            span.end.synchronize()
            return float(span.begin.elapsed_time(span.end)) / 1000

    def numpy(self) -> NDArray[np.float32]:
        """(C, h, w) float32, contiguous, in main memory."""
        return self._batch.shared(self._number, "scores", self._batch.scores)

    def with_scores(self, scores: NDArray[np.float32]) -> DeviceScores:
        """The same frame with other scores (C, h, w), uploaded now.

        Raises:
            DeviceError: the device failed, or is out of memory.
        """
        batch, frame = self._batch, slice(self._number, self._number + 1)
        with batch.stream():
            held = _uploaded([scores], batch.held.device)
        return DeviceScores(DeviceBatch(held, batch.frames[frame], batch.span))

    def replaced(self, make: Maker) -> DeviceScores:
        """The same frame with the scores that `make` gives for their shape, uploaded once."""
        return DeviceScores(self._batch.remade(make), self._number)

    def decode(
        self, size: tuple[int, int], table: NDArray[np.uint8], *, align_corners: bool = False
    ) -> tuple[Mask, NDArray[np.int64]]:
        """The mask and its pixel counts, as `rtseg.decode.decode`."""
        make = partial(self._batch.decoded, size=size, table=table, align_corners=align_corners)
        return self._batch.shared(self._number, (size, table.tobytes(), align_corners), make)

    def over(
        self, table: NDArray[np.uint8], blend: BlendTable, *, align_corners: bool = False
    ) -> Drawn:
        """The frame with its mask drawn over it, as `rtseg.draw.blend` does."""
        key = table.tobytes(), blend.weight.tobytes(), blend.offset.tobytes(), align_corners
        make = partial(self._batch.drawn, table=table, blend=blend, align_corners=align_corners)
        return self._batch.shared(self._number, key, make)


class Span(NamedTuple):
    """CUDA events before and after some work."""

    begin: Any
    end: Any


class Drawn(NamedTuple):
    """An image drawn on the device and downloaded; its mask is still there.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        counts: (256,) int64, pixels of the mask of each value.
        mask: gives the mask, (H, W) uint8, downloaded with those of the batch.
    """

    image: Image
    counts: NDArray[np.int64]
    mask: Callable[[], Mask]


@lru_cache(maxsize=4)
def _made_on(device: torch.device, shape: tuple[int, ...], make: Maker) -> Tensor:
    return torch.from_numpy(make(shape)).to(device)


@lru_cache(maxsize=64)
def _axis_on(
    device: torch.device, small: int, large: int, align_corners: bool
) -> tuple[Tensor, Tensor]:
    first, weight = axis(small, large, align_corners)
    return torch.from_numpy(first).to(device), torch.from_numpy(weight).to(device)


@lru_cache(maxsize=16)
def _table_on(device: torch.device, table: bytes) -> Tensor:
    return torch.frombuffer(bytearray(table), dtype=torch.uint8).to(device)


def _blend_on(device: torch.device, blend: BlendTable) -> tuple[Tensor, Tensor]:
    return _blend_bytes_on(device, blend.weight.tobytes(), blend.offset[:, :3].tobytes())


@lru_cache(maxsize=16)
def _blend_bytes_on(device: torch.device, weight: bytes, offset: bytes) -> tuple[Tensor, Tensor]:
    on = (torch.frombuffer(bytearray(part), dtype=torch.float32) for part in (weight, offset))
    first, second = (part.to(device) for part in on)
    return first, second
