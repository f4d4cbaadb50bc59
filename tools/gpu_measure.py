"""Everything that is claimed of a GPU, measured in one command, in one process, one after another.

    python tools/gpu_measure.py CLIP [--models A,B] [--size 512x512] [--seconds 3] [--json out.json]

For each network (random weights do: speed does not depend on them; give --weights for agreement
that means something), on frames of the clip held in memory:

    eager       torchvision's network, half precision, channels last, one picture, by events
    model       ours: folded, as a CUDA graph, one picture, by events
    memory x1   frames in memory to finished frames in memory, one at a time, stages overlapping
    memory x8   the same in batches of eight
    file        clip to H.264 file, decoded by the processor and by NVDEC; beside it what decoding
                and encoding alone reach
    live        the clip replayed as a camera: age of frames when shown, and drops
    agreement   share of pixels with the class that fp32 on the processor gives

and the machine's own limits: matrix products and convolutions in half precision, a copy within its
memory. With --device cpu it runs on a processor, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import cv2  # before PyAV, see rtseg.sinks.window
import numpy as np
import torch

from rtseg.backends import open_backend
from rtseg.contracts import Rendered, Sink, Source, SourceInfo
from rtseg.effects import ViewOptions, open_effect
from rtseg.errors import RtsegError
from rtseg.frame import Frame
from rtseg.nets import find_model
from rtseg.nets.build import build
from rtseg.nets.flops import arithmetic_peak, copy_peak, network_flops
from rtseg.segmenter import Segmenter
from rtseg.session.loop import run
from rtseg.sinks import open_sink
from rtseg.sources import SourceOptions, open_source
from rtseg.stats import Clock
from rtseg.zoo import Model

MODELS = (
    "lraspp_mobilenet_v3_large,deeplabv3_mobilenet_v3_large,deeplabv3_resnet50,deeplabv3_resnet101"
)
HELD = 64
"""Frames of the clip that are held in memory."""

CHECKED = 8
"""Frames whose masks are compared."""


class InMemory(Source):
    """The same frames again and again, for so many seconds; as fast as they are taken."""

    def __init__(self, frames: list[Frame], seconds: float) -> None:
        super().__init__(Clock())
        height, width = frames[0].size
        self.info = SourceInfo("memory", width, height)
        self._frames = cycle(frames)
        self._seconds, self._until = seconds, 0.0
        self._given = 0

    def _read(self) -> Frame | None:
        now = self.clock.now()
        self._until = self._until or now + self._seconds
        if now >= self._until:
            return None
        frame = next(self._frames)
        self._given += 1
        return Frame(frame.image, self._given - 1, frame.pts, now)


class Drawn(Sink):
    """Wants every picture and keeps none; notes when the first and the last were there."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def write(self, rendered: Rendered) -> None:
        """Note the time of a finished picture."""
        _ = rendered.image
        self.moments.append(time.perf_counter())

    def fps(self) -> float:
        """Frames per second after the first tenth, which is warm-up."""
        kept = self.moments[len(self.moments) // 10 :]
        return (len(kept) - 1) / max(kept[-1] - kept[0], 1e-9) if len(kept) > 1 else 0.0


def eager_ms(name: str, size: tuple[int, int], device: torch.device, seconds: float) -> float:
    """Median milliseconds of torchvision's own network, one picture already on the device."""
    half = torch.float16 if device.type == "cuda" else torch.float32
    network: Any = build(name, 21).eval().to(device, half, memory_format=torch.channels_last)
    picture = torch.rand(1, 3, *size, device=device, dtype=half)
    picture = picture.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        for _ in range(5):
            network(picture)
        return median(_timed(lambda: network(picture), device, seconds)) * 1000


def _timed(call: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    passes: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(passes) < 3:
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in "12")
            begin.record()
            call()
            end.record()
            end.synchronize()
            passes.append(begin.elapsed_time(end) / 1000)
        else:
            since = time.perf_counter()
            call()
            passes.append(time.perf_counter() - since)
    return passes


def model_ms(segmenter: Segmenter, frames: list[Frame], seconds: float) -> float:
    """Median milliseconds of our network alone."""
    backend = segmenter.backend
    if backend.device_seconds(1) is not None:
        passes: list[float] = []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            passes += backend.device_seconds(20) or []
        return median(passes) * 1000
    small = cv2.resize(frames[0].image, segmenter.input_size[::-1])[None]
    return median(_timed(lambda: backend(small), torch.device("cpu"), seconds)) * 1000


def memory_fps(segmenter: Segmenter, frames: list[Frame], at_once: int, seconds: float) -> float:
    """Finished frames per second, from memory to memory."""
    segmenter.backend.frames_at_once = at_once
    drawn = Drawn()
    effect = open_effect(ViewOptions(), segmenter.labels)
    run(InMemory(frames, seconds), segmenter, effect, [drawn])
    return drawn.fps()


def file_fps(
    segmenter: Segmenter, clip: str, folder: Path, decoder: str
) -> dict[str, float | str | None]:
    """Frames per second of the whole loop with a decoder, and of this alone; why not, if not."""
    effect, options = open_effect(ViewOptions(), segmenter.labels), SourceOptions(decoder=decoder)
    try:
        with open_source(clip, options) as source:
            sink = open_sink(str(folder / f"{decoder}.mp4"), source.info, segmenter.labels)
            since = time.perf_counter()
            with sink:
                report = run(source, segmenter, effect, [sink])
            whole = report.frames / (time.perf_counter() - since)
        with open_source(clip, options) as source:
            since = time.perf_counter()
            count = sum(1 for _ in islice(source, 300))
            alone = count / (time.perf_counter() - since)
    except RtsegError as error:
        return {f"file_{decoder}": None, f"decode_{decoder}": str(error)}
    return {f"file_{decoder}": whole, f"decode_{decoder}": alone}


def encode_fps(segmenter: Segmenter, clip: str, folder: Path) -> float:
    """Frames per second of encoding alone."""
    with open_source(clip, SourceOptions()) as source:
        frames = list(islice(source, 300))
        segmentation = segmenter(frames[0].image)
        sink = open_sink(str(folder / "encoded.mp4"), source.info, segmenter.labels)
        since = time.perf_counter()
        with sink:
            for frame in frames:
                sink.write(Rendered(frame, segmentation, lambda frame, _: frame.image))
        return len(frames) / (time.perf_counter() - since)


def live(segmenter: Segmenter, clip: str, seconds: float) -> dict[str, float]:
    """Age of frames when shown, in ms, and frames that were dropped."""
    effect = open_effect(ViewOptions(), segmenter.labels)
    with open_source(clip, SourceOptions(live=True, loop=True)) as source:
        until = time.perf_counter() + max(seconds, 3.0)
        report = run(source, segmenter, effect, [Drawn()], stop=lambda: time.perf_counter() > until)
    return {**report.age_ms, "dropped": report.dropped, "shown": report.frames}


def agreement(segmenter: Segmenter, model: Model, frames: list[Frame]) -> float:
    """Share of pixels whose class is that of torch in fp32 on the processor."""
    size = segmenter.input_size
    plain = open_backend("torch", model, input_size=size, device="cpu", precision="fp32")
    with Segmenter(plain) as reference:
        return float(
            np.mean(
                [
                    np.mean(segmenter(frame.image).mask == reference(frame.image).mask)
                    for frame in frames[:CHECKED]
                ]
            )
        )


def limits(device: torch.device) -> dict[str, float | None]:
    """TFLOP/s of a product or convolution, and GB/s of a copy: what is read and written."""
    where = str(device) if device.type == "cuda" else "cpu"
    flops = arithmetic_peak(where, "fp16" if device.type == "cuda" else "fp32")
    copied = copy_peak(where)
    return {"tflops": flops and flops / 1e12, "copy_gb_s": copied and copied / 1e9}


def measure(name: str, args: argparse.Namespace, frames: list[Frame]) -> dict[str, Any]:
    """Every figure of one network."""
    model = find_model(name, weights=args.weights or "random")
    height, width = map(int, args.size.split("x"))
    device = torch.device(args.device)
    precision = "fp16" if device.type == "cuda" else "fp32"
    since = time.perf_counter()
    backend = open_backend(
        "torch",
        model,
        input_size=(height, width),
        device=args.device,
        precision=precision,
        strict_device=True,
    )
    row: dict[str, Any] = {"model": name, "load_s": time.perf_counter() - since}
    flops = network_flops(model, (height, width))
    with Segmenter(backend) as segmenter, tempfile.TemporaryDirectory() as folder:
        row["device"], row["notes"] = backend.info.device, list(backend.info.notes)
        row["eager_ms"] = eager_ms(model.spec.architecture, (height, width), device, args.seconds)
        row["model_ms"] = model_ms(segmenter, frames, args.seconds)
        row["eager_over_model"] = row["eager_ms"] / row["model_ms"]
        row["tflops"] = flops and flops / row["model_ms"] * 1e-9
        for at_once in (1, 8):
            row[f"memory_x{at_once}_fps"] = memory_fps(segmenter, frames, at_once, args.seconds)
        for decoder in ("opencv", "nvdec") if device.type == "cuda" else ("opencv",):
            row |= file_fps(segmenter, args.clip, Path(folder), decoder)
        row["encode"] = encode_fps(segmenter, args.clip, Path(folder))
        row["live_ms"] = live(segmenter, args.clip, args.seconds)
        row["agreement"] = agreement(segmenter, model, frames)
    return row


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The limits of the machine, then each network."""
    with open_source(args.clip, SourceOptions()) as source:
        frames = list(islice(source, HELD))
    yield {"limits": limits(torch.device(args.device)), "torch": torch.__version__}
    for name in args.models.split(","):
        yield measure(name, args, frames)


def main() -> None:
    """Read the command line, measure, and print one JSON line for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip")
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--weights")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each figure")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, help="write all of it here as well")
    args = parser.parse_args()
    found = []
    for row in rows(args):
        found.append(row)
        print(json.dumps(row, default=lambda value: round(float(value), 4)), flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1, default=float) + "\n", "utf-8")


if __name__ == "__main__":
    main()
