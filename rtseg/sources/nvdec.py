"""Video files decoded by an NVIDIA GPU, whose images stay in its memory."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import cv2  # noqa: F401  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
from av.codec.hwaccel import HWAccel

from rtseg.errors import DeviceError
from rtseg.files import reason
from rtseg.frame import Picture
from rtseg.sources.options import SourceOptions
from rtseg.sources.probe import display_name, not_a_video
from rtseg.yuv import FULL, is_converted

DECODE_TRIES = 8
"""Packets that must fail in a row before a file counts as ended."""

REMEDY = "Leave out --decoder nvdec to decode it on the CPU"


class NvdecPlayer:
    """A `rtseg.sources.capture.Player` whose images are `rtseg.decode.device.DevicePicture`.

    FFmpeg drives the GPU's decoder in torch's CUDA context, so that an image is copied once, within
    the GPU's memory.

    Args:
        options: `decoder` is "nvdec", or "nvdec:N" for another GPU than the first.
        accelerator: of FFmpeg; None decodes on the CPU, for tests.

    Raises:
        DeviceError: there is no such GPU, or it will not decode this video.
    """

    def __init__(self, target: str, options: SourceOptions, accelerator: Any = "nvdec") -> None:
        self._target = target
        self._container: Any = None
        if accelerator == "nvdec":
            accelerator = _accelerator(int(options.decoder.partition(":")[2] or 0))
        self._cuda = accelerator is not None
        self.note = f"decoded by NVDEC on cuda:{accelerator.device_id}" if self._cuda else ""
        remote = "://" in target
        try:
            self._container = av.open(
                target, hwaccel=accelerator, timeout=options.timeout if remote else None
            )
        except RuntimeError as error:  # FFmpeg's decoder of this codec, dav1d for one, has no GPU
            raise self._refused(str(error)) from error
        except (av.FFmpegError, OSError) as error:
            if self._cuda:
                raise self._refused(str(error)) from error
            raise not_a_video(target, reason(error)) from error
        self._stream = self._container.streams.video[0]
        self._last_error = ""
        self._frames = self._decoded()
        self._first = self._next()
        self._zero = self._at = 0.0
        self._turns, self._matrix, self.turned = 0, 0, False
        if self._first is None and self._last_error:
            raise self._refused(self._last_error)
        if self._first is not None:
            self._begin(self._first)

    def _begin(self, first: av.VideoFrame) -> None:
        if self._cuda and first.format.name != "cuda":
            raise self._refused(f"its frames come from the CPU, as {first.format.name}")
        self._turns = round(first.rotation / 90) % 4
        self.turned = self._turns % 2 == 1
        self._zero = self._at = first.time or 0.0
        context = self._stream.codec_context
        tags = (context.colorspace, context.color_primaries, context.color_trc)
        self._matrix = int(tags[0])
        if is_converted(tuple(int(tag) for tag in tags)):
            raise self._refused(
                "its wide-gamut or HDR colours are converted to BT.709 on the CPU only"
            )

    def _refused(self, found: str) -> DeviceError:
        self.release()
        asked = f"NVDEC cannot decode {display_name(self._target)}"
        return DeviceError(asked, found=found[:1].lower() + found[1:], do=REMEDY)

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """Frames until the end, without those of damaged packets.

        Raises:
            DeviceError: nothing can be decoded any more, as when the GPU is lost.
        """
        failed = 0
        packets = self._container.demux(self._stream)
        while failed < DECODE_TRIES:
            try:
                frames = next(packets).decode()
            except StopIteration:
                return
            except (av.FFmpegError, OSError) as error:
                self._last_error = str(error)
                failed += 1
                continue
            failed = 0
            yield from frames
        if self._cuda:
            raise self._refused(self._last_error)

    def _next(self) -> av.VideoFrame | None:
        return next(self._frames, None)

    def read(self) -> Picture | None:
        """As `Player`."""
        frame, self._first = self._first, None
        frame = frame or self._next()
        if frame is None:
            return None
        if frame.time is not None:
            self._at = frame.time
        from rtseg.decode.device import from_planes

        try:
            luma, chroma = self._planes(frame)
        except NotImplementedError as error:
            raise self._refused(str(error)) from error
        full_range = int(frame.color_range) == FULL
        return from_planes(
            luma, chroma, matrix=self._matrix, full_range=full_range, turns=self._turns
        )

    def _planes(self, frame: av.VideoFrame) -> tuple[Any, Any]:
        """DLPack capsules of luma and chroma.

        Raises:
            NotImplementedError: it is neither NV12 nor P010.
        """
        # torch would request a CUDA stream from the planes, which PyAV does not have
        luma, chroma = (plane.__dlpack__() for plane in frame.planes)
        return luma, chroma

    def position(self) -> float:
        """As `Player`."""
        return self._at

    def seek(self, seconds: float) -> None:
        """As `Player`: to the last keyframe before."""
        self._container.seek(int((seconds + self._zero) * av.time_base))
        self._first, self._frames = None, self._decoded()

    def release(self) -> None:
        """As `Player`."""
        if self._container is not None:
            self._container.close()


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
