"""Codecs and containers, pixel formats and timestamps of video files."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np
from av.codec import codecs_available
from numpy.typing import NDArray

from rtseg.contracts import SourceInfo
from rtseg.draw import even, letterbox, with_square_pixels
from rtseg.errors import UsageError
from rtseg.files import reason
from rtseg.frame import Frame, Picture, in_memory
from rtseg.planes import Planes, planes_of
from rtseg.sinks.options import SinkOptions
from rtseg.system import usable_cores
from rtseg.yuv import BT601, LIMITED, Tags, fill_i420, luma, output_tags

JITTER_SECONDS = 0.00105
"""Containers that count milliseconds (Matroska, FLV) round a frame's time, and the first's."""

TICKS_PER_SECOND = 90_000
"""At least so many, unless a container has a constant rate."""

MOST_SECONDS = 1000
"""Of a frame, by the rate; a damaged header may declare more."""

DEFAULT_RATE, DEFAULT_LIVE_RATE = Fraction(25), Fraction(30)
"""For sources without a frame rate."""


@dataclass(frozen=True)
class Encoder:
    """A video encoder and its settings for real time.

    Attributes:
        library: FFmpeg's name for it.
        pix_fmt: FFmpeg's name of the pixel format it is given.
        options: FFmpeg's private options.
        crf: default constant rate factor; None for a codec without one.
        crf_options: the options that it is the value of.
        crf_max: the largest one.
        bit_rate: maximum in bits per second, for the codec whose crf needs one; 0 is no maximum.
        square: whether its files cannot state that pixels are not square.
    """

    library: str
    pix_fmt: str
    options: dict[str, str] = field(default_factory=dict)
    crf: int | None = None
    crf_options: tuple[str, ...] = ("crf",)
    crf_max: int = 51
    bit_rate: int = 0
    square: bool = False

    @property
    def is_yuv(self) -> bool:
        """Whether it is given YUV, by a matrix that its files state."""
        return self.pix_fmt.startswith(("yuv", "nv"))

    def takes_planes(self, info: SourceInfo) -> bool:
        """Whether it may be given frames of the source in planes, see `fitted_frame`."""
        as_they_are = not self.square or abs(float(info.sample_aspect_ratio) - 1) < 1e-3
        return self.pix_fmt == "yuv420p" and as_they_are and info.colour_tags is not None


# Half of the cores encode. x264's default is 1.5 threads per core, for which the network, which
# needs the cores more, has to wait: 18 against 16 ms of CPU time per frame with preset veryfast, 12
# against 9 with superfast.
_THREADS = str(max(1, usable_cores() // 2))

# Adaptive quantisation at its full strength spends much of the file, and of x264's time, on flat
# areas; without any, dark gradients have steps of more than one level. The other tools of superfast
# cost more than they gain. Against superfast as it is: 13 % less time and 8 % smaller files at
# +0.6 dB (street, 1280x720), 9 and 23 % at +0.4 dB (portrait), 17 and 39 % at -0.7 dB, 48.7 dB
# being left (cars, 768x432), 52 and 89 % at -0.3 dB (dark gradient); SSIM within 0.002.
_X264 = {
    "aq-strength": "0.4",
    "partitions": "none",
    "8x8dct": "0",
    "weightp": "0",
    "x264-params": "scenecut=0",
}

# No B-frames: packets come in display order, so that the last frame's duration is exact at variable
# rates, AVI (which has no presentation times) can hold them, and audio is interleaved.
_VP = {"deadline": "realtime", "lag-in-frames": "0", "auto-alt-ref": "0"}
ENCODERS = {
    "h264": Encoder(
        "libx264",
        "yuv420p",
        {"preset": "superfast", "bf": "0", "threads": _THREADS, **_X264},
        crf=21,
    ),
    "hevc": Encoder(
        "libx265",
        "yuv420p",
        {"preset": "veryfast", "x265-params": "bframes=0:log-level=none"},
        crf=24,
    ),
    "vp9": Encoder(
        "libvpx-vp9",
        "yuv420p",
        {**_VP, "cpu-used": "7", "row-mt": "1"},
        crf=30,
        crf_max=63,
        square=True,
    ),
    "vp8": Encoder(
        "libvpx",
        "yuv420p",
        {**_VP, "cpu-used": "5"},
        crf=10,
        crf_max=63,
        bit_rate=8_000_000,
        square=True,
    ),
    "mjpeg": Encoder("mjpeg", "yuvj420p", {"qmin": "2", "qmax": "4"}),
    "ffv1": Encoder("ffv1", "bgr0", {"level": "3"}, square=True),
    "prores": Encoder("prores_ks", "yuv422p10le", {"profile": "hq", "vendor": "apl0"}),
}
ALPHA_ENCODERS = {
    "vp9": replace(ENCODERS["vp9"], pix_fmt="yuva420p"),
    "ffv1": replace(ENCODERS["ffv1"], pix_fmt="bgra"),
    "prores": Encoder(
        "prores_ks", "yuva444p10le", {"profile": "4444", "alpha_bits": "16", "vendor": "apl0"}
    ),
}
"""The codecs that can hold an alpha channel, with their settings for it."""


HARDWARE = {
    "nvenc": Encoder(
        "h264_nvenc",
        "yuv420p",
        {"preset": "p4", "rc": "vbr", "bf": "0"},
        crf=24,
        crf_options=("cq",),
    ),
    "qsv": Encoder("h264_qsv", "nv12", {"bf": "0"}, crf=24, crf_options=("global_quality",)),
    "amf": Encoder(
        "h264_amf", "yuv420p", {"rc": "cqp", "bf": "0"}, crf=23, crf_options=("qp_i", "qp_p")
    ),
    # its quality is another scale, times FFmpeg's unit of 118
    "videotoolbox": Encoder(
        "h264_videotoolbox",
        "yuv420p",
        {"realtime": "1", "flags": "+qscale", "global_quality": str(60 * 118)},
    ),
}
"""Encoders of GPUs for H.264, by the name of `--encoder`."""


@dataclass(frozen=True)
class Container:
    """A container format.

    Attributes:
        codecs: keys of `ENCODERS`, the default first.
        audio_codecs: FFmpeg's names of the audio codecs that it can hold.
        audio_encoder: FFmpeg's name of the encoder for all others.
        variable: whether it can hold a variable frame rate.
        early_audio: whether audio may begin before the video (an edit list or a codec delay hides
            it), so that a decoder is primed when the first sample is due.
        codec_delay: whether that is a codec delay, in the header.
        options: of FFmpeg's muxer.
    """

    codecs: tuple[str, ...]
    audio_codecs: frozenset[str]
    audio_encoder: str
    variable: bool = True
    early_audio: bool = False
    codec_delay: bool = False
    options: dict[str, str] = field(default_factory=dict)


FRAGMENTS = {"movflags": "+hybrid_fragmented+delay_moov", "frag_duration": "1000000"}
"""MP4 and MOV grow in fragments of a second, so that what a killed run leaves can be played. At the
end FFmpeg makes an ordinary file of it in place; see `rtseg.sinks.muxing.index_first`. The first
fragment waits for all tracks to begin: the start times of audio are not known before."""

CLUSTERS = {"cluster_time_limit": "1000"}
"""Matroska and WebM likewise grow by a second; at the end they get their index and duration."""

CONTAINERS = {
    ".mp4": Container(
        ("h264", "hevc"),
        frozenset("aac mp3 ac3 eac3 alac opus".split()),
        "aac",
        early_audio=True,
        options=FRAGMENTS,
    ),
    ".mov": Container(
        ("h264", "hevc", "prores", "mjpeg"),
        frozenset("aac mp3 ac3 eac3 alac pcm_s16le pcm_s24le".split()),
        "aac",
        early_audio=True,
        options=FRAGMENTS,
    ),
    ".mkv": Container(
        ("h264", "hevc", "vp9", "vp8", "mjpeg", "ffv1"),
        frozenset("aac mp3 mp2 ac3 eac3 dts flac alac opus vorbis pcm_s16le pcm_s24le".split()),
        "aac",
        early_audio=True,
        codec_delay=True,
        options=CLUSTERS,
    ),
    ".webm": Container(
        ("vp9", "vp8"),
        frozenset(["opus", "vorbis"]),
        "libopus",
        early_audio=True,
        codec_delay=True,
        options=CLUSTERS,
    ),
    # AVI has no start times: compressed audio is copied only if it begins with the video
    ".avi": Container(
        ("h264", "mjpeg", "ffv1"),
        frozenset("aac mp3 mp2 ac3 pcm_s16le pcm_u8".split()),
        "pcm_s16le",
        variable=False,
    ),
}


def find_encoder(
    suffix: str,
    codec: str | None,
    crf: int | None,
    *,
    alpha: bool = False,
    encoder: str = "auto",
) -> Encoder:
    """The encoder for a container, with its options.

    Args:
        alpha: whether it must keep an alpha channel.
        encoder: of `SinkOptions`.

    Raises:
        UsageError: the container cannot hold the codec, one of them cannot hold alpha, the codec or
            encoder is not installed or does not fit the codec, or the crf is out of range.
    """
    encoders = ALPHA_ENCODERS if alpha else ENCODERS
    choices = tuple(key for key in CONTAINERS[suffix].codecs if key in encoders)
    if alpha and (not choices or (codec is not None and codec not in choices)):
        raise no_alpha(f"{suffix} with codec {codec}" if choices else suffix)
    name = codec or next((key for key in choices if _is_installed(key)), choices[0])
    if name not in choices:
        raise UsageError(
            f"codec {name!r} for {suffix}",
            found=f"{suffix} files are written as {', '.join(choices)}",
        )
    if not _is_installed(name):
        raise UsageError(
            f"codec {name!r}",
            found=f"this FFmpeg ({av.__version__}) lacks {ENCODERS[name].library}",
        )
    if encoder != "auto" and name != "h264":
        raise UsageError(
            f"--encoder {encoder} with codec {name}",
            found="it encodes h264",
            do="Remove one of them",
        )
    chosen = HARDWARE.get(encoder, encoders[name])
    if chosen.library not in codecs_available:
        raise UsageError(
            f"--encoder {encoder}",
            found=f"this FFmpeg ({av.__version__}) lacks {chosen.library}",
            do="Remove it, to encode with x264",
        )
    what = f"encoder {encoder}" if encoder in HARDWARE else f"codec {name}"
    return replace(chosen, options={**chosen.options, **_quality(what, chosen, crf)})


def check_video(path: Path, options: SinkOptions, alpha: bool) -> None:
    """Raise UsageError if a video cannot be encoded so."""
    asked = options.codec, options.crf
    find_encoder(path.suffix.lower(), *asked, alpha=alpha, encoder=options.encoder)


def open_encoder(
    path: Path, options: SinkOptions, info: SourceInfo, *, alpha: bool = False
) -> tuple[Encoder, str]:
    """The encoder for a video of a source, and a note if it is not the requested one.

    That of a GPU has encoded a frame of the source's size; where it cannot, as without such a GPU,
    it is x264. What fills frames is compiled before the first one waits for it.

    Raises:
        UsageError: as `find_encoder`.
    """
    which = path.suffix.lower(), options.codec, options.crf
    if alpha:
        return find_encoder(*which, alpha=True), ""
    asked, note = options.encoder, ""
    encoder = find_encoder(*which, encoder=asked)
    if asked in HARDWARE and (why := _refusal(encoder, info)):
        encoder = find_encoder(*which)
        note = f"encoded by x264, as {asked} cannot start here ({why})"
    video_frame(np.zeros((2, 2, 3), np.uint8), encoder, info)
    return encoder, note


def _refusal(encoder: Encoder, info: SourceInfo) -> str:
    """Why an encoder cannot encode a frame of the source's size; "" if it can."""
    image = even(np.zeros((info.height, info.width, 3), np.uint8))
    context: Any = av.CodecContext.create(encoder.library, "w")
    context.width, context.height, context.pix_fmt = *image.shape[1::-1], encoder.pix_fmt
    context.time_base, context.options = Fraction(1, 30), dict(encoder.options)
    frame = video_frame(image, encoder, info)
    frame.pts = 0
    try:
        packets = [*context.encode(frame), *context.encode(None)]
    except (av.FFmpegError, ValueError, NotImplementedError) as error:
        return reason(error)
    return "" if any(packet.size for packet in packets) else "it encodes nothing"


def colour_tags(encoder: Encoder, info: SourceInfo) -> Tags:
    """Those of the source; JPEG has BT.601 only."""
    return output_tags(None if encoder.pix_fmt.startswith("yuvj") else info.colour_tags)


def no_alpha(where: str) -> UsageError:
    """The error for a place that cannot hold transparency; it names those that can."""
    holders = (
        f"{suffix} ({' or '.join(key for key in container.codecs if key in ALPHA_ENCODERS)})"
        for suffix, container in CONTAINERS.items()
        if set(container.codecs) & set(ALPHA_ENCODERS)
    )
    return UsageError(
        f"a transparent background in {where}",
        found="it cannot hold transparency",
        do=f"Write {', '.join(holders)}, or PNG pictures: folder/ or frames_%06d.png",
    )


def _quality(name: str, encoder: Encoder, crf: int | None) -> dict[str, str]:
    if encoder.crf is None:
        if crf is not None:
            raise UsageError(f"--crf {crf}", found=f"{name} has no constant rate factor")
        return {}
    crf = encoder.crf if crf is None else crf
    if not 0 <= crf <= encoder.crf_max:
        raise UsageError(f"--crf {crf}", found=f"{name} takes 0 to {encoder.crf_max}")
    return dict.fromkeys(encoder.crf_options, str(crf))


def _is_installed(name: str) -> bool:
    return ENCODERS[name].library in codecs_available


def video_frame(image: NDArray[np.uint8], encoder: Encoder, info: SourceInfo) -> Any:
    """An `av.VideoFrame` as the encoder takes it, in the colours of the source.

    Args:
        image: (H, W, 3) uint8 BGR, (H, W, 4) uint8 BGRA, or (H, W) uint8 class indices. For formats
            with subsampled chroma an odd last row or column is doubled. Where files cannot state
            the shape of pixels, it is enlarged so that they are square.
    """
    pix_fmt = encoder.pix_fmt
    if image.ndim == 2:
        if pix_fmt == "gray":
            return av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "gray")
        return av.VideoFrame.from_ndarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), "bgr24")
    if encoder.square:
        image = with_square_pixels(image, float(info.sample_aspect_ratio))
    matrix = colour_tags(encoder, info)[0]
    is_bt601 = luma(matrix) == luma(BT601)
    if encoder.is_yuv and "444" not in pix_fmt:
        image = even(image)
    if pix_fmt in ("yuv420p", "yuvj420p", "nv12") and image.shape[2] == 3:
        frame = av.VideoFrame(image.shape[1], image.shape[0], pix_fmt)
        planes = planes_of(frame)
        if pix_fmt == "nv12":  # U and V take turns
            chroma = np.empty((2, image.shape[0] // 2, image.shape[1] // 2), np.uint8)
            fill_i420(image, matrix, [planes[0], *chroma])
            planes[1][:, : image.shape[1]] = chroma.transpose(1, 2, 0).reshape(len(chroma[0]), -1)
        else:
            fill_i420(image, matrix, planes, full=pix_fmt == "yuvj420p")
        return frame
    order = "bgra" if image.shape[2] == 4 else "bgr24"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), order)
    if not encoder.is_yuv or is_bt601:
        return frame  # the encoder converts it, by BT.601
    return frame.reformat(format=pix_fmt, dst_colorspace=matrix, dst_color_range=LIMITED)


def fitted_frame(
    image: NDArray[np.uint8] | Picture, size: tuple[int, int], encoder: Encoder, info: SourceInfo
) -> Any:
    """As `video_frame`, of an image letterboxed to (height, width), which may be in planes."""
    if (
        isinstance(image, Planes)
        and image.shape[:2] == size
        and encoder.takes_planes(info)
        and luma(image.matrix) == luma(colour_tags(encoder, info)[0])
    ):
        return image.frame
    return video_frame(letterbox(in_memory(image), size), encoder, info)


class Timeline:
    """Turns the times of a source's frames into strictly increasing ticks.

    Frames within the jitter of a constant-rate grid are put on it, until the first that is not:
    from there on the source has a variable rate, and its times are kept to the tick. Live sources
    are timed by `captured_at`.

    Attributes:
        rate: nominal frames per second.
        time_base: seconds per tick; a frame at `rate` lasts a whole number of ticks.
    """

    def __init__(self, info: SourceInfo) -> None:
        rate = info.frame_rate if info.frame_rate and info.frame_rate > 0 else None
        default = DEFAULT_LIVE_RATE if info.live else DEFAULT_RATE
        self.rate = max((rate or default).limit_denominator(100_000), Fraction(1, MOST_SECONDS))
        factor = max(1, -(-TICKS_PER_SECOND // self.rate.numerator))
        self.time_base = Fraction(1, self.rate.numerator * factor)
        self._ticks_per_frame = self.rate.denominator * factor
        self._live = info.live
        self._constant = rate is not None and not info.live
        self._first: float | None = None
        self._last = -1
        self._gap = self._ticks_per_frame
        self._lasts = 0.0

    def tick(self, frame: Frame) -> int:
        """The time of the next frame, in ticks from the first."""
        seconds = frame.captured_at if self._live else frame.pts
        if self._first is None:
            self._first = seconds
        tick = max(self._snap(seconds - self._first), self._last + 1)
        if self._last >= 0:
            self._gap = tick - self._last
        self._last, self._lasts = tick, frame.lasts
        return tick

    @property
    def end(self) -> int:
        """The tick at which the last frame ends.

        As its source declares. Otherwise, at a constant rate, it lasts one frame. At a variable
        rate it lasts as long as the frame before it, but at most a nominal frame, or one second if
        live, where the nominal rate may be far off: a longer gap was a pause.
        """
        declared = round(self._lasts / self.time_base)
        if self._constant:  # not the rounding of a container's clock
            much = abs(declared - self._ticks_per_frame) > self._ticks_per_frame / 4
            return self._last + (declared if declared and much else self._ticks_per_frame)
        if declared:
            return self._last + declared
        longest = self.time_base.denominator if self._live else self._ticks_per_frame
        return self._last + min(self._gap, longest)

    def _snap(self, seconds: float) -> int:
        if self._constant:
            nearest = round(seconds * self.rate)
            off = abs(seconds - float(nearest / self.rate))
            if off <= min(JITTER_SECONDS, 0.45 / float(self.rate)):
                return nearest * self._ticks_per_frame
            self._constant = False
        return round(seconds / self.time_base)
