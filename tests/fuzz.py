"""Files damaged at random, and what rtseg makes of them.

Run as a program it is a worker: it takes the files that its standard input names, one a line, and
prints a line of JSON when it begins one and another when it is done, so that whoever reads these
knows which file a crash or a hang belongs to. With "main" it runs the command line too. With
"alone" it decodes in one thread: what FFmpeg's threads conceal depends on which is first.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

os.environ.setdefault("SVT_LOG", "0")
import cv2  # isort: skip - ahead of av
import av
import numpy as np
from av.codec.context import Flags

POISONS = ("165", "66")
"""Values of MALLOC_PERTURB_: glibc fills what it hands out with their complement."""


# --- whole files ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of file to damage."""

    suffix: str
    codec: str
    pix_fmt: str = "yuv420p"
    sound: str = ""
    size: tuple[int, int] = (96, 64)
    frames: int = 40
    interlaced: bool = False
    options: dict[str, str] = field(default_factory=dict)
    format: str | None = None


REALTIME = {"deadline": "realtime", "cpu-used": "-5"}  # a fixed speed: the same file every time

KINDS = {
    "mp4": Kind("mp4", "libx264", sound="aac", options={"bf": "2", "g": "12"}),
    "hevc": Kind(
        "mp4", "libx265", sound="aac", options={"x265-params": "log-level=none:keyint=12"}
    ),
    "av1": Kind("mp4", "libsvtav1", options={"g": "12", "preset": "12"}),
    "mkv": Kind("mkv", "libx264", sound="flac", options={"bf": "2", "g": "12"}, interlaced=True),
    "ffv1": Kind("mkv", "ffv1", "yuv422p", sound="pcm_s16le"),
    "webm": Kind("webm", "libvpx-vp9", sound="libopus", options=REALTIME),
    "vp8": Kind("webm", "libvpx", options=REALTIME),
    "avi": Kind("avi", "mpeg4", sound="libmp3lame", options={"g": "12"}),
    "mjpeg": Kind("avi", "mjpeg", "yuvj420p", sound="pcm_s16le"),
    "ts": Kind("ts", "libx264", sound="mp2", options={"g": "12", "bf": "2"}),
    "mpg": Kind("mpg", "mpeg2video", sound="mp2", interlaced=True, options={"bf": "2"}),
    "gif": Kind("gif", "gif", "rgb8"),
    "mov": Kind("mov", "prores_ks", "yuv422p10le", sound="pcm_s16le", frames=16),
    "flv": Kind("flv", "flv", sound="libmp3lame"),
    "ogv": Kind("ogv", "libvpx", options=REALTIME),
    "h264": Kind("h264", "libx264", options={"g": "12", "bf": "2"}),
    "mxf": Kind("mxf", "mpeg2video", size=(96, 64)),
    "dv": Kind("dv", "dvvideo", size=(720, 576), frames=5),
    "wmv": Kind("wmv", "wmv2", sound=""),
    "png": Kind("png", "png", "rgb24", frames=1, format="image2"),
    "jpg": Kind("jpg", "mjpeg", "yuvj420p", frames=1, format="image2"),
}


def moving(number: int, width: int, height: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB: a texture that moves, none of it black, green or a poison's grey."""
    y, x = np.mgrid[:height, :width]
    red = 150 + 60 * np.sin((x + 3 * number) / 9)
    blue = 140 + 50 * np.sin((y - 2 * number) / 7 + x / 31)
    return np.dstack([red, np.full_like(red, 60 + number), blue]).astype(np.uint8)


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """SVT-AV1, where it may, gives its whole process the highest priority that there is."""
    try:
        yield
    finally:
        if hasattr(os, "sched_setscheduler"):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def write_whole(path: Path, kind: Kind) -> Path:
    """A file of this kind that is whole, with a tone for sound."""
    with ordinary_priority(), av.open(str(path), "w", format=kind.format) as container:
        video: Any = container.add_stream(kind.codec, rate=25, options=dict(kind.options))
        video.width, video.height = kind.size
        video.pix_fmt = kind.pix_fmt
        if kind.interlaced:
            video.codec_context.flags |= Flags.interlaced_dct | Flags.interlaced_me
        sound: Any = None
        if kind.sound:
            sound = container.add_stream(kind.sound, rate=48000, layout="mono")
            resampler = av.AudioResampler(
                sound.codec_context.format.name if sound.codec_context.format else "s16",
                "mono", 48000,
            )  # fmt: skip
        for number in range(kind.frames):
            frame = av.VideoFrame.from_ndarray(moving(number, *kind.size), "rgb24")
            frame = frame.reformat(format=kind.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
            if sound is not None:
                at = np.arange(number * 1920, (number + 1) * 1920)
                tone = (8000 * np.sin(at / 17)).astype(np.int16)[None]
                part = av.AudioFrame.from_ndarray(tone, "s16", "mono")
                part.sample_rate, part.pts, part.time_base = 48000, at[0], Fraction(1, 48000)
                for each in resampler.resample(part):
                    container.mux(sound.encode(each))
        container.mux(video.encode())
        if sound is not None:
            container.mux(sound.encode())
    return path


# --- damage --------------------------------------------------------------------------------------


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 3, 10, 50, 300))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_bits_of_the_header(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 5))):
        data[rng.randrange(min(len(data), 1024))] ^= 1 << rng.randrange(8)


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def behead(data: bytearray, rng: random.Random) -> None:
    del data[: rng.randrange(1, max(2, len(data) // 2))]


def zero(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 4))):
        begin, size = _range(data, rng)
        data[begin : begin + size] = bytes(size)


def scribble(data: bytearray, rng: random.Random) -> None:
    begin, size = _range(data, rng)
    data[begin : begin + size] = rng.randbytes(size)


def drop_blocks(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 3))):
        begin, size = _range(data, rng)
        if len(data) > size + 1:
            del data[begin : begin + size]


def swap_blocks(data: bytearray, rng: random.Random) -> None:
    size = rng.choice((188, 512, 2048))
    for _ in range(3):
        if len(data) >= 2 * size:
            one, two = sorted(rng.sample(range(len(data) // size), 2))
            a, b = slice(one * size, (one + 1) * size), slice(two * size, (two + 1) * size)
            data[a], data[b] = data[b], data[a]


def repeat_block(data: bytearray, rng: random.Random) -> None:
    begin, size = _range(data, rng)
    data[begin:begin] = data[begin : begin + size]


DAMAGE: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bits,
    flip_bits_of_the_header,
    cut,
    behead,
    zero,
    scribble,
    drop_blocks,
    swap_blocks,
    repeat_block,
)


def _range(data: bytearray, rng: random.Random) -> tuple[int, int]:
    size = min(rng.choice((16, 188, 700, 4000)), max(1, len(data) // 3))
    return rng.randrange(max(1, len(data) - size)), size


def rewrite(whole: Path, path: Path, change: Callable[[list[bytes]], None]) -> Path:
    """A file of the packets of another, after `change`; those that are then empty are left out."""
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        packets = [p for p in source.demux() if p.size]
        contents = [bytes(p) for p in packets]
        change(contents)
        for packet, content in zip(packets, contents, strict=True):
            if not content:
                continue
            again = av.Packet(content)
            again.pts, again.dts, again.time_base = packet.pts, packet.dts, packet.time_base
            again.duration, again.is_keyframe = packet.duration, packet.is_keyframe
            again.stream = streams[packet.stream_index]
            with suppress(av.FFmpegError, ValueError):
                target.mux(again)
    return path


def harm_packets(contents: list[bytes], rng: random.Random) -> None:
    """Some lost, swapped, damaged or shortened."""
    how = rng.choice(("lose", "swap", "damage", "shorten"))
    for _ in range(rng.choice((1, 3, 8))):
        one, two = rng.randrange(len(contents)), rng.randrange(len(contents))
        if how == "lose":
            contents[one] = b""
        elif how == "swap":
            contents[one], contents[two] = contents[two], contents[one]
        elif contents[one] and how == "damage":
            content = bytearray(contents[one])
            flip_bits(content, rng)
            contents[one] = bytes(content)
        elif contents[one]:
            contents[one] = contents[one][: rng.randrange(1, len(contents[one]) + 1)]


def damaged(whole: Path, path: Path, rng: random.Random) -> str:
    """Write a damaged copy of a file; returns what was done to it."""
    if rng.random() < 0.25 and whole.suffix not in (".png", ".jpg", ".dv", ".gif"):
        try:
            rewrite(whole, path, lambda contents: harm_packets(contents, rng))
            if path.stat().st_size:
                return "harm_packets"
        except (av.FFmpegError, ValueError, OSError):
            pass
    data = bytearray(whole.read_bytes())
    names = []
    for _ in range(rng.choice((1, 1, 2))):
        harm = rng.choice(DAMAGE)
        harm(data, rng)
        names.append(harm.__name__)
    path.write_bytes(data)
    return "+".join(names)


# --- the worker ----------------------------------------------------------------------------------


def work() -> None:
    """Try the files that standard input names; see above."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    with_main = "main" in sys.argv
    if "alone" in sys.argv:
        from rtseg.sources.ffmpeg import FilePlayer

        FilePlayer.threads = 1
    for line in sys.stdin:
        path = Path(line.strip())
        print(json.dumps({"begin": str(path)}), file=out)
        print(json.dumps({"end": str(path), **tried(path, with_main)}), file=out)


def tried(path: Path, with_main: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"shown": shown(path)}
    if with_main:
        found["decodable"] = decodable(path)
        found |= through_main(path)
    return found


def shown(path: Path) -> Any:
    """Checksums of the frames of rtseg's source, or its error."""
    from rtseg.errors import RtsegError
    from rtseg.sources import open_source

    sums: list[int] = []
    stray: list[float] = []
    try:
        with open_source(path) as source:
            for frame in source:
                sums.append(zlib.crc32(frame.image.tobytes()))
                stray.append(stray_share(frame.image))
    except RtsegError as error:
        return {"sums": sums, "stray": stray, "code": error.exit_code, "error": str(error)}
    except Exception:
        return {"sums": sums, "stray": stray, "code": -1, "error": traceback.format_exc()}
    return {"sums": sums, "stray": stray, "code": 0, "warnings": source.warnings}


def _stray_colours() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Lowest and highest BGR within 3 of zeros and poisons, each taken as YUV and as RGB."""
    poisons = [int(poison) for poison in POISONS]
    found = []
    for value in (0, *poisons, *(255 - poison for poison in poisons)):
        y, c = 1.164 * (value - 16), value - 128
        bgr = np.clip([y + 2.017 * c, y - 0.392 * c - 0.813 * c, y + 1.596 * c], 0, 255)
        for colour in (bgr, np.full(3, value)):
            low, high = np.ceil(colour - 3).clip(0), np.floor(colour + 3).clip(max=255)
            found.append((tuple(map(int, low)), tuple(map(int, high))))
    return found


STRAY = _stray_colours()


def stray_share(image: np.ndarray) -> float:
    """Share of pixels that look like memory nobody wrote."""
    found = np.zeros(image.shape[:2], np.uint8)
    for low, high in STRAY:
        found |= cv2.inRange(image, low, high)
    return round(cv2.countNonZero(found) / found.size, 3)


def decodable(path: Path) -> int:
    """Frames that FFmpeg gives of the first video track, whatever packets fail."""
    count = 0
    errors = (av.FFmpegError, OSError, ValueError, LookupError, UnicodeError)
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                return 0
            for packet in container.demux(container.streams.video[0]):
                with suppress(*errors):
                    count += sum(not frame.is_corrupt for frame in packet.decode())
    except errors:
        pass
    return count


def through_main(path: Path) -> dict[str, Any]:
    from rtseg.cli.app import main

    target = path.with_name(path.name + ".out.mkv")
    said, wrote = io.StringIO(), io.StringIO()
    with redirect_stderr(said), redirect_stdout(wrote):
        code = main([str(path), "-m", "stub", "--alpha", "0", "--no-show", "-o", str(target)])
    written, trouble = 0, ""
    if target.exists():
        try:
            with av.open(str(target)) as container:
                written = sum(1 for _ in container.decode(video=0))
        except (av.FFmpegError, OSError, ValueError, LookupError) as error:
            trouble = str(error)
        target.unlink()
    left = [each.name for each in path.parent.glob(f"*{path.name}.out*")]
    return {
        "exit": code,
        "said": said.getvalue(),
        "written": written,
        "unplayable": trouble,
        "left": left,
    }


# --- the runner ----------------------------------------------------------------------------------


def run_all(
    files: Sequence[Path], poison: str, limit: float, *flags: str
) -> Iterator[dict[str, Any]]:
    """What workers find of each file, in order: a "file" that ended one has "hung" or "died"."""
    left = list(files)
    while left:
        with tempfile.TemporaryFile("w+") as names:  # a pipe does not hold thousands of them
            names.write("".join(f"{path}\n" for path in left))
            names.seek(0)
            worker = subprocess.Popen(
                [sys.executable, __file__, *flags],
                stdin=names, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env={**os.environ, "MALLOC_PERTURB_": poison, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        with worker:
            assert worker.stdout is not None
            for line in watched(worker, worker.stdout, limit):
                said = json.loads(line)
                if "end" in said:
                    yield {"file": said.pop("end"), **said}
                    left.pop(0)
        if left:
            how = "hung" if worker.returncode == -signal.SIGKILL else "died"
            yield {"file": str(left.pop(0)), how: worker.returncode}


def watched(worker: subprocess.Popen[str], lines: IO[str], limit: float) -> Iterator[str]:
    """Lines of a worker, which is killed if it is silent for `limit` seconds."""
    while True:
        timer = threading.Timer(limit, worker.kill)
        timer.start()
        line = lines.readline()
        timer.cancel()
        if not line:
            return
        yield line


if __name__ == "__main__":
    work()
