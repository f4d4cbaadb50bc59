"""Combinations of what a video file can be, written by PyAV, and what PyAV reads of them."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("SVT_LOG", "0")

import cv2  # noqa: F401  # isort: skip - ahead of av
import av
import numpy as np
from av.codec.context import Flags
from clips import converted, display_numbers, filtered, patches

FRAMES = 16
CLICK_SECONDS = 0.25
NTSC = Fraction(30000, 1001)
VARIABLE_MS = (0, 40, 100, 133, 166, 300, 340, 380, 395, 500, 540, 600, 633, 700, 740, 780)


class Codec(NamedTuple):
    """What a codec is tried with.

    `tags` is whether it or its containers hold a matrix and a range; `by` is how far patches may
    be from those written.
    """

    containers: str
    pix_fmts: str = "yuv420p"
    options: dict[str, str] = {}  # noqa: RUF012 - never changed
    interlaced: bool = False
    variable: bool = True
    tags: bool = True
    by: int = 6
    size: tuple[int, int] = (96, 64)


QSCALE = {"flags": "+qscale", "global_quality": "236"}
CODECS = {
    "libx264": Codec(
        "mp4 mov mkv avi ts flv", "yuv420p yuv422p yuv444p yuv420p10le yuvj420p gray",
        {"crf": "4"}, interlaced=True,
    ),
    "libx264rgb": Codec("mp4 mkv", "bgr24", {"crf": "4"}),
    "libx265": Codec(
        "mp4 mov mkv ts", "yuv420p yuv422p yuv444p yuv420p10le",
        {"crf": "4", "preset": "ultrafast", "x265-params": "log-level=none"},
    ),
    "libvpx": Codec(
        "webm mkv", options={"crf": "4", "b": "8M", "deadline": "realtime"}, tags=False
    ),
    "libvpx-vp9": Codec(
        "webm mkv mp4", "yuv420p yuv422p yuv444p",
        {"crf": "4", "deadline": "realtime", "cpu-used": "8"},
    ),
    "libsvtav1": Codec("mp4 mkv webm", "yuv420p yuv420p10le", {"crf": "8", "preset": "12"}),
    "mpeg4": Codec("avi mp4 mov mkv", options=QSCALE, interlaced=True, tags=False),
    "mpeg2video": Codec(
        "mpg ts mkv mxf", "yuv420p yuv422p", QSCALE, interlaced=True, variable=False,
    ),
    "mpeg1video": Codec("mpg mkv", options=QSCALE, variable=False, tags=False),
    "mjpeg": Codec("avi mov mkv", "yuvj420p yuvj422p yuvj444p", QSCALE, tags=False),
    "prores_ks": Codec("mov mkv", "yuv422p10le yuv444p10le", interlaced=True),
    "ffv1": Codec("mkv avi", "yuv420p yuv444p yuv422p10le bgr0 gray", interlaced=True),
    "huffyuv": Codec("avi", "yuv422p rgb24", tags=False),
    "utvideo": Codec("avi", "yuv420p yuv422p gbrp", tags=False),
    "rawvideo": Codec("avi mov", "bgr24 uyvy422", tags=False),
    "qtrle": Codec("mov", "rgb24"),
    "png": Codec("mov avi", "rgb24"),
    "v210": Codec("mov", "yuv422p10le"),
    "cfhd": Codec("mov", "yuv422p10le"),
    "jpeg2000": Codec("mov mkv", "yuv420p rgb24"),
    "wmv2": Codec("wmv", options=QSCALE, tags=False),
    "msmpeg4": Codec("avi", options=QSCALE, tags=False),
    "flv": Codec("flv avi", options=QSCALE, tags=False),
    "dvvideo": Codec(
        "dv avi mov", "yuv420p", interlaced=True, variable=False, tags=False, size=(720, 576),
    ),
}  # fmt: skip

SOUNDS = {
    "mp4": "aac ac3 libmp3lame libopus alac",
    "mov": "aac ac3 alac pcm_s16le pcm_s24le",
    "mkv": "aac ac3 libmp3lame libopus flac alac pcm_s16le mp2",
    "webm": "libopus",
    "avi": "libmp3lame pcm_s16le ac3 mp2",
    "ts": "aac mp2 ac3",
    "mpg": "mp2",
    "flv": "aac libmp3lame",
    "wmv": "libmp3lame",
    "mxf": "pcm_s16le",
    "dv": "",
}

MATRICES = (2, 1, 4, 5, 6, 7, 9)
RANGES = (0, 1, 2)
DISPLAYS = (
    None, (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0),
    (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0),
)  # fmt: skip
RATES = (Fraction(25), NTSC, Fraction(60), Fraction(24000, 1001), None)
"""None is a variable rate."""

FIELDS = ("", "tff", "bff")

CONSTANT = frozenset({"avi", "mpg", "mxf", "dv"})
REORDERED = frozenset({"libx264", "mpeg4", "mpeg2video"})
RGB = frozenset({"bgr24", "rgb24", "bgr0", "gbrp"})
SHOWS_AS = frozenset({"mp4", "mov"})

CANNOT = (
    ("a variable rate", "avi mxf dv mpg", "the container or its codecs count frames"),
    ("a variable rate", "mpeg1video mpeg2video dvvideo", "the codec has a few constant rates"),
    ("a variable rate with B-frames", "mpeg4", "FFmpeg's encoder drops a frame"),
    ("a display matrix", "mkv webm avi ts flv mpg mxf wmv dv", "PyAV writes it to MP4, MOV alone"),
    ("a matrix or a range", "libvpx mpeg4 mpeg1video mjpeg wmv2 msmpeg4 flv dvvideo", "no place"),
    ("a matrix or a range", "huffyuv utvideo rawvideo in avi", "the container has no place either"),
    ("a matrix or a range", "bgr24 rgb24 bgr0 gbrp", "it is RGB"),
    ("full range", "gray", "FFmpeg takes grey for full range, unless it is tagged as limited"),
    ("mov", "ffv1 utvideo", "FFmpeg's muxer refuses it"),
    ("mkv", "huffyuv utvideo png", "PyAV refuses it"),
    ("exact times", "libmp3lame in avi", "FFmpeg's muxer pads for the delay of the encoder: the"
     " times are those of the chunks, not those written"),
)  # fmt: skip
"""(what, codecs, containers or pixel formats, why): what FFmpeg itself cannot do, and is not in
`CODECS` and `SOUNDS` or not compared."""


@dataclass(frozen=True)
class Case:
    """A combination."""

    codec: str
    container: str
    pix_fmt: str
    field: str
    matrix: int
    range: int
    display: tuple[int, int, int, int] | None
    rate: Fraction | None
    sound: str
    b_frames: int

    def __str__(self) -> str:
        turn = "".join("-0+"[n + 1] for n in self.display or ())
        rate = "vfr" if self.rate is None else f"{float(self.rate):.4g}"
        parts = (
            self.codec, self.container, self.pix_fmt, self.field, f"m{self.matrix}r{self.range}",
            turn, rate, self.sound, f"b{self.b_frames}",
        )  # fmt: skip
        return "-".join(part for part in parts if part)

    @property
    def times(self) -> list[float]:
        """Of the frames, in seconds."""
        if self.rate is None:
            return [at / 1000 for at in VARIABLE_MS]
        return [float(number / self.rate) for number in range(FRAMES)]

    def holds_colours(self, tags: tuple[int, int]) -> bool:
        """Whether a file that is read with these (matrix, range) has the colours written."""
        if self.is_rgb:
            return True
        full = self.range == 2 or self.pix_fmt.startswith("yuvj")
        return (
            self.pix_fmt != "gray"
            and (tags[0] == self.matrix or {tags[0], self.matrix} <= {2, 5, 6})
            and (tags[1] == 2) == full
        )

    @property
    def is_padded(self) -> bool:
        """Whether the muxer moves its frames; see `CANNOT`."""
        return self.container == "avi" and self.sound == "libmp3lame"

    @property
    def is_rgb(self) -> bool:
        return self.pix_fmt in RGB


def cases(count: int, seed: int = 22) -> list[Case]:
    """So many combinations, that hold each pair of two values that any of them holds."""
    rng = random.Random(seed)
    kinds = [
        (name, container, pix_fmt)
        for name, codec in CODECS.items()
        for container in codec.containers.split()
        for pix_fmt in codec.pix_fmts.split()
    ]
    chosen: list[Case] = []
    covered: set[Any] = set()
    while len(chosen) < count:
        kind = kinds[len(chosen) % len(kinds)]
        candidates = [drawn(kind, rng) for _ in range(30)]
        best = max(candidates, key=lambda case: len(pairs(case) - covered))
        if best in chosen:
            best = rng.choice(candidates)
        covered |= pairs(best)
        chosen.append(best)
    return chosen


def drawn(kind: tuple[str, str, str], rng: random.Random) -> Case:
    """A combination of this kind that FFmpeg can write; see `CANNOT`."""
    name, container, pix_fmt = kind
    codec = CODECS[name]
    tagged = codec.tags and pix_fmt not in RGB and rng.random() < 0.8
    full = pix_fmt.startswith("yuvj") and codec.tags
    rates = RATES if codec.variable and container not in CONSTANT else RATES[:-1]
    case = Case(
        *kind,
        rng.choice(FIELDS) if codec.interlaced else "",
        rng.choice(MATRICES) if tagged else 2,
        2 if full else rng.choice(RANGES) if tagged and pix_fmt != "gray" else 0,
        rng.choice(DISPLAYS) if container in SHOWS_AS else None,
        Fraction(25) if name == "dvvideo" else rng.choice(rates),
        rng.choice(["", *SOUNDS[container].split()]),
        0,
    )
    can = name in REORDERED and not (name == "mpeg4" and case.rate is None)
    return replace(case, b_frames=rng.choice((0, 2))) if can else case


def pairs(case: Case) -> set[Any]:
    return set(combinations(enumerate(vars(case).values()), 2))


# --- writing -------------------------------------------------------------------------------------


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 RGB: patches, and a square in the middle whose grey is the frame's number."""
    width, height = size
    image = patches(height, width)
    y, x = height // 2, width // 2
    image[y - 10 : y + 10, x - 10 : x + 10] = 48 + 12 * number
    return image


def write(path: Path, case: Case) -> Path:
    codec = CODECS[case.codec]
    tags = None if case.is_rgb or not codec.tags else (case.matrix, 2, 2, case.range)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            case.codec, rate=case.rate or 25, options=dict(codec.options)
        )
        stream.width, stream.height = codec.size
        stream.pix_fmt = case.pix_fmt
        context = stream.codec_context
        base = Fraction(1, 1000) if case.rate is None else 1 / case.rate
        context.time_base = base
        if case.b_frames or case.codec == "libx264":
            context.options = {**codec.options, "bf": str(case.b_frames)}
        if case.field and case.codec != "rawvideo":
            context.flags |= Flags.interlaced_dct | Flags.interlaced_me
        if tags is not None:
            (context.colorspace, context.color_primaries, context.color_trc) = tags[:3]
            context.color_range = tags[3]
        if case.display is not None:
            stream.set_display_matrix(display_numbers(case.display, *codec.size))
        sound = Click(container, case.sound) if case.sound else None
        for number, at in enumerate(case.times):
            frame = av.VideoFrame.from_ndarray(picture(number, codec.size), "rgb24")
            frame = converted(frame, case.pix_fmt, tags)
            if case.field:
                frame = filtered(frame, f"setfield={case.field}")
            frame.pts = VARIABLE_MS[number] if case.rate is None else number
            frame.time_base = base
            container.mux(stream.encode(frame))
            if sound is not None:
                sound.write(at + 0.1)
        container.mux(stream.encode())
        if sound is not None:
            sound.write(case.times[-1] + 0.1, last=True)
    return path


class Click:
    """Silence with a burst of a tone at `CLICK_SECONDS`, written up to a time."""

    def __init__(self, container: Any, codec: str) -> None:
        self._container, self._position = container, 0
        options = {"strict": "-2"} if codec == "libopus" else {}
        self._stream = container.add_stream(codec, rate=48000, layout="stereo", options=options)
        if codec in ("aac", "ac3", "libmp3lame", "mp2", "libopus"):
            self._stream.bit_rate = 192_000
        formats = self._stream.codec_context.codec.audio_formats
        self._resampler = av.AudioResampler(formats[0].name if formats else "s16", "stereo", 48000)

    def write(self, until: float, *, last: bool = False) -> None:
        end = round(until * 48000)
        at = np.arange(self._position, end)
        since = at - round(CLICK_SECONDS * 48000)
        burst = np.where((since >= 0) & (since < 2400), np.sin(since / 48000 * 2 * np.pi * 1500), 0)
        samples = np.repeat((20000 * burst).astype(np.int16), 2)[None]
        if len(at):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "s16", "stereo")
            frame.sample_rate, frame.pts = 48000, self._position
            frame.time_base = Fraction(1, 48000)
            self._encode(frame)
        self._position = end
        if last:
            self._encode(None)
            self._container.mux(self._stream.encode(None))

    def _encode(self, frame: Any) -> None:
        for part in self._resampler.resample(frame):
            if part is not None:
                self._container.mux(self._stream.encode(part))


# --- reading -------------------------------------------------------------------------------------


class Read(NamedTuple):
    """What PyAV reads of a file, by numpy alone.

    Times are seconds after the first picture; colours are RGB of the four patches and the square of
    the middle, of each frame, as stored. `click` is None without sound.
    """

    times: list[float]
    end: float
    colours: np.ndarray
    tags: tuple[int, int]
    click: float | None
    size: tuple[int, int]


def read(path: Path) -> Read:
    """Read a file independently of rtseg."""
    chunks: list[tuple[float, float]] = []
    times, colours, tags, size = [], [], (2, 0), (0, 0)
    with av.open(str(path)) as container:
        for packet in container.demux(container.streams.video[0]):
            at = packet.dts if path.suffix == ".avi" else packet.pts
            if packet.size and at is not None:
                lasts = packet.duration or 0
                chunks.append((at * packet.time_base, (at + lasts) * packet.time_base))
            for frame in packet.decode():
                times.append(float(frame.pts * frame.time_base))
                colours.append(colours_of(frame))
                tags = int(frame.colorspace), int(frame.color_range)
                size = frame.width, frame.height
    if path.suffix == ".avi":  # which has no presentation times: FFmpeg's are late with B-frames
        times = sorted(float(begin) for begin, _ in chunks)
    zero = times[0]
    end = float(max((end for _, end in chunks), default=0))
    click = click_of(path, zero)
    return Read([at - zero for at in times], end - zero, np.array(colours), tags, click, size)


MATRIX = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""kr and kb of ITU-T H.273; BT.601 for others."""


def places(height: int, width: int) -> list[tuple[int, int]]:
    """(y, x) of the patches and the middle."""
    across, down = (width // 4, width - width // 4), (height // 4, height - height // 4)
    return [*((y, x) for y in down for x in across), (height // 2, width // 2)]


def colours_at(image: np.ndarray) -> np.ndarray:
    """(5, 3) at `places` of an image, as the mean of 5 by 5 pixels around each."""
    height, width = image.shape[:2]
    spots = places(height, width)
    return np.array([image[y - 2 : y + 3, x - 2 : x + 3].mean((0, 1)) for y, x in spots])


def colours_of(frame: Any) -> list[tuple[float, ...]]:
    """RGB at `places` of a decoded frame, from its planes by the formulas of ITU-T H.273."""
    name = frame.format.name
    spots = places(frame.height, frame.width)
    if not name.startswith(("yuv", "gray", "uyvy")):
        image = frame.to_ndarray(format="rgb24")
        return [tuple(each) for each in colours_at(image)]
    if name.startswith(("uyvy", "yuyv")):
        frame = frame.reformat(format="yuv422p")
    depth = frame.format.components[0].bits
    # FFmpeg takes grey for full range unless it is tagged otherwise
    full = name.startswith(("yuvj", "gray")[: 1 + (int(frame.color_range) != 1)])
    full = full or int(frame.color_range) == 2
    planes = [plane_of(plane, depth) for plane in frame.planes]
    found = []
    for y, x in spots:
        values = []
        for plane in planes:
            down, across = plane.shape[0] / frame.height, plane.shape[1] / frame.width
            rows = slice(int((y - 2) * down), int((y + 3) * down))
            values.append(float(plane[rows, int((x - 2) * across) : int((x + 3) * across)].mean()))
        luma = values[0] / 255 if full else (values[0] - 16) / 219
        blue, red = ((v - 128) / (255 if full else 224) for v in (values[1:] or (128.0, 128.0)))
        kr, kb = MATRIX.get(int(frame.colorspace), (0.299, 0.114))
        r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
        g = (luma - kr * r - kb * b) / (1 - kr - kb)
        found.append(tuple(float(np.clip(255 * v, 0, 255)) for v in (r, g, b)))
    return found


def plane_of(plane: Any, depth: int) -> np.ndarray:
    """A plane in levels of 0 to 255."""
    kind = np.uint8 if depth == 8 else np.uint16
    values = np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width]
    return values / float(1 << (depth - 8))


def click_of(path: Path, zero: float) -> float | None:
    """Seconds at which the burst begins, after `zero` by the file's clock."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        level, times = [], []
        for frame in container.decode(audio=0):
            samples = frame.to_ndarray().astype(float)
            if not frame.format.is_planar:
                samples = samples.reshape(-1, frame.layout.nb_channels).T
            level.append(np.abs(samples).max(0))
            rate = frame.sample_rate
            times.append(float(frame.pts * frame.time_base) + np.arange(samples.shape[1]) / rate)
    loud, at = np.concatenate(level), np.concatenate(times)
    return float(at[np.argmax(loud > 0.35 * loud.max())]) - zero


def moved(colours: np.ndarray, display: tuple[int, int, int, int] | None) -> np.ndarray:
    """(5, 3) colours of patches and middle, as they lie after a display matrix."""
    if display is None:
        return colours
    a, b, c, d = display
    corners = {}
    for place in range(4):
        x, y = 2 * (place % 2) - 1, 2 * (place // 2) - 1
        corners[a * x + c * y, b * x + d * y] = colours[place]
    turned = [corners[corner] for corner in ((-1, -1), (1, -1), (-1, 1), (1, 1))]
    return np.array([*turned, colours[4]])


CASES = cases(400)
