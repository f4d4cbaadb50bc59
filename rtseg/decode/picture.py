"""Pictures on a device: brought up, made of what a video decoder left there, fetched."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from rtseg.decode import kernels
from rtseg.frame import Image, Picture
from rtseg.gpu import drawing_stream, failures_told, on_device
from rtseg.shrink import box
from rtseg.yuv import luma as coefficients

BLOCK = 256


class DevicePicture:
    """A `rtseg.frame.HeldPicture` that is a tensor.

    Args:
        tensor: (H, W, 3) uint8 BGR, not to be written to any more.
        ready: the CUDA event after which it is complete; None where it is.
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
        """(H, W, 3) uint8 BGR in the processor's memory, fetched once; read-only.

        Raises:
            DeviceError: the device failed.
        """
        return self._here

    @cached_property
    def _here(self) -> Image:
        device = self._tensor.device
        cuda = device.type == "cuda"
        with (
            failures_told(device),
            torch.cuda.stream(drawing_stream(device)) if cuda else nullcontext(),
        ):
            (image,) = Downloads([self.on(device)]).arrays()
        image.flags.writeable = False
        return image


class Downloads:
    """Tensors on their way to pinned memory of the processor, begun at once."""

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
    """(H, W, 3) uint8 BGR on `device`, for work in the current stream.

    From the processor's memory it goes through pinned memory; what is there already stays there.
    """
    if isinstance(picture, DevicePicture):
        return picture.on(device)
    image = picture if isinstance(picture, np.ndarray) else picture.numpy()
    ours = torch.from_numpy(np.require(image, requirements=["C", "W"]))
    if device.type != "cuda":
        return ours.clone()
    # torch keeps pinned memory for reuse until the copy out of it is over
    staged = torch.empty(ours.shape, dtype=torch.uint8, pin_memory=True)
    staged.copy_(ours)
    return staged.to(device, non_blocking=True)


def shrink(frame: Tensor, into: Tensor) -> None:
    """Fill `into` (h, w, 3) uint8 RGB with the whole `frame` (H, W, 3) uint8 BGR.

    As `rtseg.shrink.resized`, but rounded once instead of at each step: within 1 of 255 of it.
    """
    height, width = frame.shape[:2]
    out_height, out_width = into.shape[:2]
    box_y, box_x = box(height, out_height), box(width, out_width)
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
    """What a video decoder left on a device, in the colours that OpenCV's decoder gives.

    Each sample of chroma is that of its four pixels as it is.

    Args:
        luma: DLPack capsule of (H, W) uint8, or uint16 with the value in the upper bits.
        chroma: of ((H+1)/2, (W+1)/2, 2), as NV12 and P010 have it; a decoder may leave out what is
            half outside.
        matrix: FFmpeg's number; see `rtseg.yuv`.
        full_range: whether black is 0 and white 255, instead of 16 and 235.
        turns: quarter turns counter-clockwise.

    Raises:
        DeviceError: the device failed, or has not the memory.
    """
    bright, colour = torch.from_dlpack(luma), torch.from_dlpack(chroma)
    device, (height, width) = bright.device, bright.shape
    cuda = device.type == "cuda"
    # FFmpeg decodes in the default stream: in it, the planes are complete, and not yet reused
    with (
        failures_told(device),
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
