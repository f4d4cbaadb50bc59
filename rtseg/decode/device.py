"""Scores and frames that stay on the GPU: decoded, drawn and counted there.

The frame is uploaded once, and only results are downloaded. The kernels (kernels.py) do what
`rtseg.decode` does on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

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
        cuda = device.type == "cuda"
        with (
            device_errors(device),
            torch.cuda.stream(drawing_stream(device)) if cuda else nullcontext(),
        ):
            (image,) = Downloads([self.on(device)]).arrays()
        image.flags.writeable = False
        return image


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


def upload(picture: Picture, device: torch.device) -> Tensor:
    """(H, W, 3) uint8 BGR on `device`, for work in the current stream; uploaded if needed."""
    if isinstance(picture, DevicePicture):
        return picture.on(device)
    tensor = torch.from_numpy(np.require(in_memory(picture), requirements=["C", "W"]))
    if device.type != "cuda":
        return tensor.clone()
    # torch reuses pinned memory only after the copy out of it has ended
    staged = torch.empty(tensor.shape, dtype=torch.uint8, pin_memory=True)
    staged.copy_(tensor)
    return staged.to(device, non_blocking=True)


def shrink(frame: Tensor, into: Tensor) -> None:
    """Fill `into` (h, w, 3) uint8 RGB with the whole `frame` (H, W, 3) uint8 BGR.

    As `rtseg.draw.resized`, but rounded once instead of at each step: within 1 of 255 of it.
    """
    height, width = frame.shape[:2]
    out_height, out_width = into.shape[:2]
    box_y, box_x = halving_factor(height, out_height), halving_factor(width, out_width)
    kernels.shrink[(triton.cdiv(out_height * out_width, BLOCK),)](
        frame,
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

NO_PIXELS = torch.empty(0, dtype=torch.uint8)


class DeviceScores:
    """The scores of one frame on a device, and the frame itself.

    Args:
        scores: (C, h, w) float32 on the device; may be a view with any strides.
        frame: (H, W, 3) uint8 BGR on the same device.
        span: CUDA events around the work on them; both are complete after the second. None if they
            are complete.
    """

    def __init__(self, scores: Tensor, frame: Tensor, span: Span | None = None) -> None:
        self._scores, self._frame, self._span = scores, frame, span

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w)."""
        return tuple(self._scores.shape)

    def wait(self) -> float:
        """Return once they are complete: the seconds that the device took for them.

        Raises:
            DeviceError: it failed.
        """
        if self._span is None:
            return 0.0
        with device_errors(self._scores.device):
            self._span.end.synchronize()
            return float(self._span.begin.elapsed_time(self._span.end)) / 1000

    def numpy(self) -> NDArray[np.float32]:
        """(C, h, w) float32, contiguous, in main memory."""
        with self._stream():
            held = self._scores.contiguous()
            return Downloads([held]).arrays()[0]

    def replaced(self, make: Callable[[tuple[int, ...]], NDArray[np.float32]]) -> DeviceScores:
        """The same frame with the scores that `make` gives for their shape, uploaded once."""
        return DeviceScores(
            _made_on(self._scores.device, self.shape, make), self._frame, self._span
        )

    def decode(
        self, size: tuple[int, int], table: NDArray[np.uint8], *, align_corners: bool = False
    ) -> tuple[Mask, NDArray[np.int64]]:
        """The mask and its pixel counts, as `rtseg.decode.decode`."""
        with self._stream():
            mask, counts, _ = self._passes(size, table, None, align_corners)
            host_mask, host_counts = Downloads([mask, counts]).arrays()
        return host_mask, host_counts.astype(np.int64)

    def over(
        self, table: NDArray[np.uint8], blend: BlendTable, *, align_corners: bool = False
    ) -> Drawn:
        """The frame with its mask drawn over it, as `rtseg.draw.blend` does."""
        with self._stream():
            size = (self._frame.shape[0], self._frame.shape[1])
            mask, counts, canvas = self._passes(size, table, blend, align_corners)
            picture, host_counts = Downloads([canvas, counts]).arrays()
        return Drawn(picture, host_counts.astype(np.int64), mask, self._stream)

    def _passes(
        self,
        size: tuple[int, int],
        table: NDArray[np.uint8],
        blend: BlendTable | None,
        align_corners: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = self._scores.device
        classes, h, w = self._scores.shape
        height, width = size
        top = torch.empty((h, w), dtype=torch.uint8, device=device)
        strides = self._scores.stride()
        kernels.winners[(triton.cdiv(h * w, BLOCK),)](
            self._scores, top, classes, h, w, *strides, BLOCK=BLOCK
        )
        mask = torch.empty(size, dtype=torch.uint8, device=device)
        counts = torch.zeros(256, dtype=torch.int32, device=device)
        canvas = NO_PIXELS if blend is None else torch.empty_like(self._frame)
        weight, offset = _blend_on(device, blend) if blend else (NO_PIXELS, NO_PIXELS)
        kernels.decode[(height, triton.cdiv(width, RUN))](
            self._scores,
            top,
            *_axis_on(device, h, height, align_corners),
            *_axis_on(device, w, width, align_corners),
            _table_on(device, table.tobytes()),
            mask,
            counts,
            self._frame,
            canvas.to(device),
            weight,
            offset,
            classes,
            h,
            w,
            *strides,
            width,
            PAINT=blend is not None,
            BLOCK=RUN,
        )
        return mask, counts, canvas

    @contextmanager
    def _stream(self) -> Iterator[None]:
        """The drawing stream, after the scores are complete; nothing on the CPU.

        Raises:
            DeviceError: the work in it fails.
        """
        device = self._scores.device
        if device.type != "cuda":
            with device_errors(device):
                yield
            return
        stream = drawing_stream(device)
        with device_errors(device), torch.cuda.stream(stream):
            if self._span is not None:
                stream.wait_event(self._span.end)
            for held in (self._scores, self._frame):
                held.record_stream(stream)
            yield


class Span(NamedTuple):
    """CUDA events before and after some work."""

    begin: Any
    end: Any


class Drawn:
    """An image drawn on the device and downloaded; its mask is still there.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        counts: (256,) int64, pixels of the mask of each value.
    """

    def __init__(self, image: Image, counts: NDArray[np.int64], mask: Tensor, stream: Any) -> None:
        self.image, self.counts, self._mask, self._stream = image, counts, mask, stream

    def mask(self) -> Mask:
        """(H, W) uint8, downloaded now."""
        with self._stream():
            return Downloads([self._mask]).arrays()[0]


@lru_cache(maxsize=4)
def _made_on(
    device: torch.device,
    shape: tuple[int, ...],
    make: Callable[[tuple[int, ...]], NDArray[np.float32]],
) -> Tensor:
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
