"""What each container holds: codecs, their settings, and the sound it takes as it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2  # noqa: F401  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
from av.codec import codecs_available

from rtseg.errors import UsageError
from rtseg.threads import usable_cores


@dataclass(frozen=True)
class Encoder:
    """A video encoder and how it is set for real time.

    Attributes:
        library: FFmpeg's name of it.
        pix_fmt: what it is given.
        options: FFmpeg's private options.
        crf: the usual constant rate factor; None where the codec has none.
        crf_max: the largest one.
        bit_rate: its ceiling in bits per second, for the codec whose crf needs one; 0 is none.
    """

    library: str
    pix_fmt: str
    options: dict[str, str] = field(default_factory=dict)
    crf: int | None = None
    crf_max: int = 51
    bit_rate: int = 0


# Half of them encode. By itself x264 takes one and a half times as many threads as there are cores,
# and the network, which needs them more, waits: 18 against 16 ms of processor time per frame with
# preset veryfast, 12 against 9 with superfast. That preset, with a crf one higher, gives the same
# PSNR (44.2 dB; 1280x720, people in a street) in files larger by a third.
_THREADS = str(max(1, usable_cores() // 2))

# No B-frames: packets come in the order of display, so that the last frame's duration is exact at
# variable rates, AVI (which knows no presentation times) can hold them, and sound goes alongside.
_VP = {"deadline": "realtime", "lag-in-frames": "0", "auto-alt-ref": "0"}
ENCODERS = {
    "h264": Encoder(
        "libx264", "yuv420p", {"preset": "superfast", "bf": "0", "threads": _THREADS}, crf=21
    ),
    "hevc": Encoder(
        "libx265",
        "yuv420p",
        {"preset": "veryfast", "x265-params": "bframes=0:log-level=none"},
        crf=24,
    ),
    "vp9": Encoder(
        "libvpx-vp9", "yuv420p", {**_VP, "cpu-used": "7", "row-mt": "1"}, crf=30, crf_max=63
    ),
    "vp8": Encoder(
        "libvpx", "yuv420p", {**_VP, "cpu-used": "5"}, crf=10, crf_max=63, bit_rate=8_000_000
    ),
    "mjpeg": Encoder("mjpeg", "yuvj420p", {"qmin": "2", "qmax": "4"}),
    "ffv1": Encoder("ffv1", "bgr0", {"level": "3"}),
    "prores": Encoder("prores_ks", "yuv422p10le", {"profile": "hq", "vendor": "apl0"}),
}
ALPHA_ENCODERS = {
    "vp9": replace(ENCODERS["vp9"], pix_fmt="yuva420p"),
    "ffv1": replace(ENCODERS["ffv1"], pix_fmt="bgra"),
    "prores": Encoder(
        "prores_ks", "yuva444p10le", {"profile": "4444", "alpha_bits": "16", "vendor": "apl0"}
    ),
}
"""The codecs that can hold an alpha channel, and how they are set for it."""


@dataclass(frozen=True)
class Container:
    """A kind of file.

    Attributes:
        codecs: keys of `ENCODERS`, the usual one first.
        sounds: FFmpeg's names of the audio codecs it holds as they are.
        sound: the encoder for all others.
        variable: whether it can hold variable frame times.
        early_sound: whether sound may begin before the picture (an edit list hides it), so that
            a decoder is warmed up when the first sample is due.
        options: of FFmpeg's writer.
    """

    codecs: tuple[str, ...]
    sounds: frozenset[str]
    sound: str
    variable: bool = True
    early_sound: bool = False
    options: dict[str, str] = field(default_factory=dict)


CONTAINERS = {
    ".mp4": Container(
        ("h264", "hevc"),
        frozenset("aac mp3 ac3 eac3 alac opus".split()),
        "aac",
        early_sound=True,
        options={"movflags": "+faststart"},
    ),
    ".mov": Container(
        ("h264", "hevc", "prores", "mjpeg"),
        frozenset("aac mp3 ac3 eac3 alac pcm_s16le pcm_s24le".split()),
        "aac",
        early_sound=True,
        options={"movflags": "+faststart"},
    ),
    ".mkv": Container(
        ("h264", "hevc", "vp9", "vp8", "mjpeg", "ffv1"),
        frozenset("aac mp3 mp2 ac3 eac3 dts flac alac opus vorbis pcm_s16le pcm_s24le".split()),
        "aac",
    ),
    ".webm": Container(("vp9", "vp8"), frozenset(["opus", "vorbis"]), "libopus"),
    # AVI knows no start times: compressed sound is copied only when it begins with the picture
    ".avi": Container(
        ("h264", "mjpeg", "ffv1"),
        frozenset("aac mp3 mp2 ac3 pcm_s16le pcm_u8".split()),
        "pcm_s16le",
        variable=False,
    ),
}


def find_encoder(
    suffix: str, codec: str | None, crf: int | None, *, alpha: bool = False
) -> tuple[Encoder, dict[str, str]]:
    """The encoder for a container, and its options.

    Args:
        alpha: whether the pictures have an alpha channel that is to be kept.

    Raises:
        UsageError: the container does not hold the codec, or neither holds alpha, it is not
            installed, or the crf is out of its range.
    """
    encoders = ALPHA_ENCODERS if alpha else ENCODERS
    known = tuple(key for key in CONTAINERS[suffix].codecs if key in encoders)
    if alpha and (not known or (codec is not None and codec not in known)):
        raise no_alpha(f"{suffix} with codec {codec}" if known else suffix)
    name = codec or next((key for key in known if _installed(key)), known[0])
    if name not in known:
        raise UsageError(
            f"codec {name!r} for {suffix}",
            found=f"{suffix} files are written as {', '.join(known)}",
        )
    if not _installed(name):
        raise UsageError(
            f"codec {name!r}",
            found=f"this FFmpeg ({av.__version__}) lacks {ENCODERS[name].library}",
        )
    encoder = encoders[name]
    return encoder, {**encoder.options, **_quality(name, encoder, crf)}


def no_alpha(where: str) -> UsageError:
    """What to say of a place that cannot hold transparency; it names those that can."""
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
            raise UsageError(f"--crf {crf}", found=f"codec {name} has no constant rate factor")
        return {}
    crf = encoder.crf if crf is None else crf
    if not 0 <= crf <= encoder.crf_max:
        raise UsageError(f"--crf {crf}", found=f"{name} takes 0 to {encoder.crf_max}")
    return {"crf": str(crf)}


def _installed(name: str) -> bool:
    return ENCODERS[name].library in codecs_available
