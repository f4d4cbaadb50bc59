"""Video files decoded by an NVIDIA GPU, whose images stay in its memory."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import cv2  # noqa: F401  # isort: skip - ahead of av, see rtseg/sinks/window.py
from av.codec.hwaccel import HWAccel

from rtseg.errors import DeviceError
from rtseg.frame import Picture
from rtseg.media import Matrix, display_matrix
from rtseg.player import Shot
from rtseg.sources.ffmpeg import FilePlayer
from rtseg.sources.options import SourceOptions
from rtseg.yuv import FULL, is_converted

DECODE_TRIES = 8
"""Packets that must fail in a row before the GPU counts as lost."""

REMEDY = "Leave out --decoder nvdec to decode it on the CPU"


class NvdecPlayer(FilePlayer):
    """A `rtseg.sources.probe.Player` whose pictures are `rtseg.decode.device.DevicePicture`.

    FFmpeg drives the GPU's decoder in torch's CUDA context, so that an image is copied once, within
    the GPU's memory. Interlaced frames are shown as they are.

    Args:
        options: `decoder` is "nvdec", or "nvdec:N" for another GPU than the first.
        accelerator: of FFmpeg; None decodes on the CPU, for tests.

    Raises:
        DeviceError: there is no such GPU, or it will not decode this video.
    """

    looked_ahead = 1  # each frame takes one of the few surfaces of the GPU's decoder

    def __init__(self, target: str, options: SourceOptions, accelerator: Any = "nvdec") -> None:
        if accelerator == "nvdec":
            accelerator = _accelerator(int(options.decoder.partition(":")[2] or 0))
        self._cuda, self._failed = accelerator is not None, 0
        self._device = f"cuda:{accelerator.device_id}" if self._cuda else ""
        try:
            super().__init__(target, options, hwaccel=accelerator)
        except RuntimeError as error:  # FFmpeg's decoder of this codec, dav1d for one, has no GPU
            raise self._refused(str(error)) from error
        if not self._ahead and self.trouble:
            raise self._refused(self.trouble)
        if self._ahead:
            self._check(self._ahead[0])

    def _check(self, first: Any) -> None:
        """Refuse what would have to be converted on the CPU."""
        if self._cuda and first.format.name != "cuda":
            raise self._refused(f"its frames come from the CPU, as {first.format.name}")
        if is_converted(tuple(map(int, self.header.colour_tags))):
            raise self._refused(
                "its wide-gamut or HDR colours are converted to BT.709 on the CPU only"
            )
        if self.cropping:
            raise self._refused("it is cropped, which is done on the CPU only")
        matrix = display_matrix(first)
        if matrix is not None and _quarters(matrix) is None:
            raise self._refused("it is mirrored, which is done on the CPU only")

    @property
    def notes(self) -> list[str]:
        """As `Player`."""
        return [f"decoded by NVDEC on {self._device}"] * self._cuda + super().notes

    def _refused(self, found: str) -> DeviceError:
        self.release()
        asked = f"NVDEC cannot decode {self._name}"
        return DeviceError(asked, found=found[:1].lower() + found[1:], do=REMEDY)

    def _is_interlaced(self, frame: Any) -> bool:
        return False

    def _damage(self, error: Exception | None) -> None:
        super()._damage(error)
        self._failed = 0 if error is None else self._failed + 1
        if self._cuda and self._failed == DECODE_TRIES:
            raise self._refused(self.trouble)

    def read(self, *, planar: bool = False) -> Shot | None:
        """As `FFmpegPlayer`; never in planes of main memory."""
        return super().read()

    def picture(self, frame: Any) -> Picture:
        """As `FFmpegPlayer`; a `rtseg.decode.device.DevicePicture`."""
        from rtseg.decode.device import from_planes

        try:
            luma, chroma = self._planes(frame)
        except NotImplementedError as error:
            raise self._refused(str(error)) from error
        matrix = display_matrix(frame)
        return from_planes(
            luma,
            chroma,
            matrix=int(self.header.colour_tags[0]),
            full_range=int(frame.color_range) == FULL,
            turns=0 if matrix is None else _quarters(matrix) or 0,
        )

    def _planes(self, frame: Any) -> tuple[Any, Any]:
        """DLPack capsules of luma and chroma.

        Raises:
            NotImplementedError: it is neither NV12 nor P010.
        """
        # torch would request a CUDA stream from the planes, which PyAV does not have
        luma, chroma = (plane.__dlpack__() for plane in frame.planes)
        return luma, chroma


def _quarters(matrix: Matrix) -> int | None:
    """Quarter turns counterclockwise of a display matrix; None if it mirrors."""
    a, b, c, d = matrix
    turns = {(1, 0, 0, 1): 0, (0, -1, 1, 0): 1, (-1, 0, 0, -1): 2, (0, 1, -1, 0): 3}
    return turns.get((round(a), round(b), round(c), round(d)))


def _accelerator(number: int) -> HWAccel:
    """The decoder of GPU `number`.

    Raises:
        DeviceError: there is none, or Triton is not installed.
    """
    asked = f"NVDEC on cuda:{number}"
    if find_spec("triton") is None:
        raise DeviceError(asked, found="Triton is not installed", do=REMEDY)
    from rtseg.gpu import cuda_missing, make_current

    if missing := cuda_missing(number):
        raise DeviceError(asked, found=missing, do=REMEDY)
    make_current(number)
    # FFmpeg refuses the primary context, as torch set it up with other flags; it accepts the
    # current one
    return HWAccel(
        "cuda",
        device=str(number),
        allow_software_fallback=False,
        options={"primary_ctx": "0", "current_ctx": "1"},
        is_hw_owned=True,
    )
