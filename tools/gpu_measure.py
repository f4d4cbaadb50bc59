"""Everything that is claimed of a GPU, measured in one command, in one process, one after another.

    PYTHONPATH=. python3 tools/gpu_measure.py CLIP [--out gpu_measure.jsonl] [--minutes 5.5]

It needs torch, torchvision, Triton, Numba, OpenCV and PyAV, which may lie as a wheel (`av-*.whl`)
in this folder or one below. For each network, with random weights, as speed does not depend on
them, at 512x512 in half precision, on frames of the clip held in memory:

    eager       torchvision's network, half precision, channels last, one picture, cuDNN tuned:
                the hardest baseline; and as it comes: not channels last, not tuned
    model       ours: folded, layers fused, as a CUDA graph, one picture; and without fused layers
    memory x1   frames in memory to finished frames in memory, one at a time, stages overlapping
    memory x8   the same in batches of eight
    naive       the loop that tutorials write, on the same frames and GPU: fp32 (TF32, torch's
                default), one thread, every step but the network on the processor
    agreement   share of pixels with the class that fp32 on the processor gives

and for the first of them also:

    file        clip to H.264 file, decoded by the processor and by NVDEC; beside it what decoding
                and encoding alone reach, and the naive loop to MPEG-4
    live        the clip replayed as a camera, with and without smoothing: age of frames when shown

and, if time is left, torch.compile's networks. Every figure is written when it is there, so that
a run that is cut leaves what it measured; one that fails is written with its error, and ends the
run with exit code 1. The last lines compare figures with the bars. With --device cpu it runs on a
processor, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

if find_spec("av") is None and (wheels := sorted(Path.cwd().glob("**/av-*.whl"))):
    unpacked = tempfile.mkdtemp(prefix="av-")
    zipfile.ZipFile(wheels[-1]).extractall(unpacked)
    sys.path.append(unpacked)

import cv2  # before PyAV, see rtseg.sinks.window
import numpy as np
import torch

from rtseg.backends import open_backend
from rtseg.contracts import Rendered, Sink, Source, SourceInfo
from rtseg.effects import ViewOptions, open_effect
from rtseg.frame import Frame
from rtseg.nets import find_model
from rtseg.nets.build import build
from rtseg.nets.flops import arithmetic_peak, copy_peak, network_flops
from rtseg.nets.state import load_network
from rtseg.segmenter import Segmenter
from rtseg.session.loop import run
from rtseg.sinks import open_sink
from rtseg.sources import SourceOptions, open_source
from rtseg.stats import Clock
from rtseg.temporal import TemporalOptions
from rtseg.zoo import Model

R50, LRASPP = "deeplabv3_resnet50", "lraspp_mobilenet_v3_large"
MBV3, R101 = "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet101"

BARS = (
    (R50, "model_ms", "<=", 0.95),
    (R50, "memory_x1_fps", ">=", 850),
    (R50, "memory_x8_fps", ">=", 1200),
    (R50, "memory_over_naive", ">=", 15),
    (R50, "file_over_naive", ">=", 15),
    (R50, "live_smooth_p99_ms", "<=", 5),
    (R50, "eager_over_model", ">=", 2),
    (R101, "memory_x8_fps", ">=", 850),
    (R101, "eager_over_model", ">=", 2),
    (MBV3, "memory_x8_fps", ">=", 2300),
    (MBV3, "eager_over_model", ">=", 5),
    (LRASPP, "memory_x8_fps", ">=", 2500),
    (LRASPP, "eager_over_model", ">=", 5),
    ("person", "agreement", ">=", 0.995),
)
"""Of an H200: network, figure, and what it must reach. `person` alone has trained weights here."""

RATIOS = {
    "eager_over_model": ("eager_ms", "model_ms"),
    "memory_over_naive": ("memory_x8_fps", "naive_memory_fps"),
    "file_over_naive": ("file_opencv_fps", "naive_file_fps"),
}

HELD = 64
"""Frames of the clip that are held in memory."""

CHECKED = 8
"""Frames whose masks are compared."""

AT_ONCE = 8
"""Frames in a batch, of `memory_x8`."""


class Sheet:
    """Figures, written line by line as they are measured.

    Args:
        until: `time.perf_counter` after which no figure is begun.
    """

    def __init__(self, path: Path, until: float, gpu: bool) -> None:
        self._file = path.open("w", encoding="utf-8", buffering=1)
        self._until, self._gpu = until, gpu
        self.found: dict[tuple[str, str], Any] = {}
        self.failed = False

    def write(self, row: dict[str, Any]) -> None:
        """One line, in the file and on the terminal."""
        text = json.dumps(row, default=float)
        self._file.write(text + "\n")
        print(text, flush=True)

    def measure(self, model: str, needs: float, call: Callable[[], dict[str, Any]]) -> None:
        """Write the figures that a call gives, unless it needs more seconds than are left."""
        name, since = getattr(call, "__name__", "figures"), time.perf_counter()
        if since + needs > self._until:
            self.write({"model": model, "left_out": name})
            return
        row: dict[str, Any] = {"model": model}
        try:
            figures = call()
        except Exception as error:  # the others are measured nevertheless
            self.failed = True
            figures, row["failed"] = {}, f"{name}: {type(error).__name__}: {error}"[:400]
        self.found |= {(model, key): value for key, value in figures.items()}
        for key, (above, below) in RATIOS.items():
            one, other = self.found.get((model, above)), self.found.get((model, below))
            if {above, below} & figures.keys() and one and other:
                figures[key] = self.found[model, key] = one / other
        took = {"seconds": time.perf_counter() - since, "gpu": self._state()}
        self.write(row | {k: _short(v) for k, v in {**figures, **took}.items()})

    def compare(self) -> None:
        """Write whether each bar is reached, by what was measured, and close the file."""
        for model, figure, sign, bar in BARS:
            value = self.found.get((model, figure))
            reached = None if value is None else value <= bar if sign == "<=" else value >= bar
            self.write(
                {"model": model, "bar": f"{figure} {sign} {bar}", "reached": reached}
                | ({} if value is None else {"value": _short(value)})
            )
        self._file.close()

    def _state(self) -> str:
        """Clock, power and temperature, as nvidia-smi gives them."""
        query = "--query-gpu=clocks.sm,power.draw,temperature.gpu"
        command = ["nvidia-smi", query, "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip().splitlines()[0] if self._gpu and done.stdout.strip() else ""


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


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


class Finished(Sink):
    """Wants every picture and keeps none; notes when each was there, and how old it was."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        self.ages: list[float] = []

    def write(self, rendered: Rendered) -> None:
        """Note the time of a finished picture."""
        _ = rendered.image
        now = time.perf_counter()
        self.moments.append(now)
        self.ages.append(now - rendered.frame.captured_at)

    def fps(self, at_once: int = 1) -> float:
        """Frames per second between the ends of whole batches, without the first tenth of them."""
        ends = self.moments[at_once - 1 :: at_once]
        ends = ends[len(ends) // 10 + 1 :] if len(ends) > 3 else ends
        if len(ends) < 2:
            raise ValueError(f"{len(self.moments)} frames are too few")
        return (len(ends) - 1) * at_once / (ends[-1] - ends[0])

    def aged(self) -> dict[str, float]:
        """Ages in ms, without the first second."""
        first = self.moments[0] + 1.0 if self.moments else 0.0
        kept = [a * 1000 for a, at in zip(self.ages, self.moments, strict=True) if at >= first]
        if len(kept) < 2:
            raise ValueError(f"{len(self.moments)} frames are too few")
        middle, late = (float(each) for each in np.percentile(kept, (50, 99)))
        return {"p50_ms": middle, "p99_ms": late, "max_ms": max(kept), "frames": len(kept)}


class Network:
    """One network, open, and what is measured of it.

    Args:
        name: of a model.
        size: (height, width).
    """

    def __init__(
        self, name: str, args: argparse.Namespace, frames: list[Frame], backend: str = "torch"
    ) -> None:
        self.model: Model = find_model(name, weights=None if name == "person" else "random")
        self.size, self.frames, self.clip = args.size, frames, args.clip
        self.seconds, self.live_seconds = args.seconds, args.live_seconds
        self.device = torch.device(args.device)
        gpu = self.device.type == "cuda"
        self.half = torch.float16 if gpu else torch.float32
        self.decoders = ("opencv", "nvdec") if gpu else ("opencv",)
        since = time.perf_counter()
        self.segmenter = Segmenter(
            open_backend(
                backend,
                self.model,
                input_size=self.size,
                device=args.device,
                precision="fp16" if gpu else "fp32",
                strict_device=True,
            )
        )
        self.load_seconds = time.perf_counter() - since
        self.effect = open_effect(ViewOptions(), self.segmenter.labels)

    def opened(self) -> dict[str, Any]:
        """What runs."""
        backend = self.segmenter.backend
        return {
            "load_s": self.load_seconds,
            "device": backend.info.device,
            "precision": backend.info.precision,
            "on_device": backend.segment is not None,
            "notes": list(backend.info.notes),
        }

    def eager(self) -> dict[str, float]:
        """torchvision's own network, one picture already on the device."""
        found = {}
        for key, layout in (("eager_ms", torch.channels_last), ("eager_plain_ms", None)):
            tuned = layout is not None
            network: Any = build(self.model.spec.architecture, 21, aux=not tuned).eval()
            picture = torch.rand(1, 3, *self.size, device=self.device, dtype=self.half)
            network = network.to(self.device, self.half)
            if layout is not None:
                network, picture = (each.to(memory_format=layout) for each in (network, picture))
            with torch.inference_mode(), _cudnn(benchmark=tuned):
                for _ in range(5):
                    network(picture)
                passes = self._timed(partial(network, picture))
                found[key] = median(passes) * 1000
        return found

    def alone(self) -> dict[str, float | None]:
        """Our network alone, and what share of the arithmetic peak that is."""
        backend = self.segmenter.backend
        if backend.device_seconds(1) is None:
            small = cv2.resize(self.frames[0].image, self.size[::-1])[None]
            passes = self._timed(lambda: backend(small))
        else:
            passes = []
            until = time.perf_counter() + self.seconds
            while time.perf_counter() < until or not passes:
                passes += backend.device_seconds(20) or []
        flops = network_flops(self.model, self.size)
        milliseconds = median(passes) * 1000
        return {"model_ms": milliseconds, "tflops": flops and flops / milliseconds * 1e-9}

    def unfused(self) -> dict[str, float]:
        """Our network without fused layers, as a CUDA graph."""
        if self.segmenter.backend.segment is None:
            return {}
        from rtseg.backends.cuda import DeviceLoop

        network: Any = load_network(self.model)
        network = network.to(self.device, self.half, memory_format=torch.channels_last)
        passes = DeviceLoop(network, self.size, self.device).network_seconds(100)
        return {"unfused_ms": median(passes) * 1000}

    def memory_x1(self) -> dict[str, float]:
        """From memory to memory, frame by frame."""
        return {"memory_x1_fps": self._memory(1)}

    def memory_x8(self) -> dict[str, float]:
        """From memory to memory, in batches."""
        return {"memory_x8_fps": self._memory(AT_ONCE)}

    def _memory(self, at_once: int) -> float:
        self.segmenter.backend.frames_at_once = at_once
        finished = Finished()
        run(InMemory(self.frames, self.seconds), self.segmenter, self.effect, [finished])
        return finished.fps(at_once)

    def naive_memory(self) -> dict[str, float]:
        """The naive loop from memory to memory."""
        return {"naive_memory_fps": self._naive(cycle(frame.image for frame in self.frames), None)}

    def naive_file(self) -> dict[str, float]:
        """The naive loop from file to file."""
        capture = cv2.VideoCapture(self.clip)
        height, width = self.frames[0].size
        with tempfile.TemporaryDirectory() as folder:
            path, code = str(Path(folder, "naive.mp4")), cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(path, code, 30, (width, height))
            fps = self._naive(_frames_of(capture), writer.write)
            writer.release()
        capture.release()
        return {"naive_file_fps": fps}

    def _naive(self, images: Any, write: Callable[[Any], object] | None) -> float:
        """Every step on the host, a full-size arg-max, the mask enlarged to its nearest pixels."""
        network: Any = build(self.model.spec.architecture, 21).eval().to(self.device)
        colours = np.random.RandomState(0).randint(0, 256, (21, 3), np.uint8)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        moments: list[float] = []
        with torch.no_grad(), _cudnn(benchmark=False):
            for image in images:
                small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), self.size[::-1])
                values = torch.from_numpy(small).permute(2, 0, 1).contiguous().float() / 255
                batch = ((values - mean[:, None, None]) / std[:, None, None])[None]
                scores = network(batch.to(self.device))["out"]
                mask = scores.argmax(1)[0].cpu().numpy().astype(np.uint8)
                mask = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
                blended = cv2.addWeighted(image, 0.6, colours[mask], 0.4, 0)
                if write is not None:
                    write(blended)
                moments.append(time.perf_counter())
                if len(moments) > 8 and moments[-1] - moments[4] > 1.5 * self.seconds:
                    break
        if len(moments) < 6:
            raise ValueError(f"{len(moments)} frames are too few")
        return (len(moments) - 5) / (moments[-1] - moments[4])

    def live_smooth(self) -> dict[str, float]:
        """A camera with smoothing, as it is on by default."""
        return self._live("live_smooth", TemporalOptions(smooth=0.8))

    def live(self) -> dict[str, float]:
        """A camera without smoothing."""
        return self._live("live", TemporalOptions())

    def _live(self, name: str, temporal: TemporalOptions) -> dict[str, float]:
        finished = Finished()
        with open_source(self.clip, SourceOptions(live=True, loop=True)) as source:
            until = time.perf_counter() + self.live_seconds
            report = run(
                source,
                self.segmenter,
                self.effect,
                [finished],
                temporal=temporal,
                stop=lambda: time.perf_counter() > until,
            )
        found = {f"{name}_{key}": value for key, value in finished.aged().items()}
        return {**found, f"{name}_dropped": report.dropped}

    def file_opencv(self) -> dict[str, float]:
        """Clip to file, decoded by the processor."""
        return self._file("opencv")

    def file_nvdec(self) -> dict[str, float]:
        """Clip to file, decoded by NVDEC."""
        return self._file("nvdec")

    def _file(self, decoder: str) -> dict[str, float]:
        options = SourceOptions(decoder=decoder, loop=True)
        finished = Finished()
        with open_source(self.clip, options) as source, tempfile.TemporaryDirectory() as folder:
            target = str(Path(folder, "out.mp4"))
            until = time.perf_counter() + 2 * self.seconds
            with open_sink(target, source.info, self.segmenter.labels) as sink:
                run(
                    source,
                    self.segmenter,
                    self.effect,
                    [sink, finished],
                    stop=lambda: time.perf_counter() > until and len(finished.moments) > 40,
                )
        with open_source(self.clip, options) as source:
            since = time.perf_counter()
            count = sum(1 for _ in islice(source, 200))
            alone = count / (time.perf_counter() - since)
        at_once = self.segmenter.backend.frames_at_once
        return {f"file_{decoder}_fps": finished.fps(at_once), f"decode_{decoder}_fps": alone}

    def encode(self) -> dict[str, float]:
        """Encoding alone."""
        segmentation = self.segmenter(self.frames[0].image)
        with open_source(self.clip, SourceOptions()) as source:
            info = source.info
        with tempfile.TemporaryDirectory() as folder:
            since = time.perf_counter()
            with open_sink(str(Path(folder, "e.mp4")), info, self.segmenter.labels) as sink:
                for number, frame in enumerate(islice(cycle(self.frames), 200)):
                    numbered = Frame(frame.image, number, number / 30, 0.0)
                    sink.write(Rendered(numbered, segmentation, lambda frame, _: frame.image))
            return {"encode_fps": 200 / (time.perf_counter() - since)}

    def agreement(self) -> dict[str, float]:
        """Share of pixels whose class is that of torch in fp32 on the processor."""
        plain = open_backend(
            "torch", self.model, input_size=self.size, device="cpu", precision="fp32"
        )
        with Segmenter(plain) as reference:
            shares = [
                float(np.mean(self.segmenter(f.image).mask == reference(f.image).mask))
                for f in self.frames[:: max(1, len(self.frames) // CHECKED)]
            ]
        return {"agreement": float(np.mean(shares)), "agreement_worst": min(shares)}

    def _timed(self, call: Callable[[], object]) -> list[float]:
        passes: list[float] = []
        until = time.perf_counter() + self.seconds
        while time.perf_counter() < until or len(passes) < 3:
            if self.device.type == "cuda":
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


def _frames_of(capture: cv2.VideoCapture) -> Iterator[Any]:
    while (read := capture.read())[0]:
        yield read[1]


def _cudnn(*, benchmark: bool) -> Any:
    """cuDNN as torch has it by itself, whatever a backend set for the process."""
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=benchmark, deterministic=False, allow_tf32=True
    )


# of each network: figures, and the seconds that each may need on an H200
COMMON = (("opened", 0), ("eager", 8), ("alone", 3), ("memory_x8", 12), ("memory_x1", 4))
FIRST = (
    *COMMON,
    *(("naive_memory", 6), ("live_smooth", 12), ("file_opencv", 8), ("naive_file", 6)),
    *(("file_nvdec", 8), ("live", 12), ("encode", 3), ("unfused", 8), ("agreement", 12)),
)
OTHERS = (*COMMON, ("naive_memory", 6), ("unfused", 8))
PLAN = (
    *((R50, "torch", 30, FIRST), (LRASPP, "torch", 30, OTHERS), (MBV3, "torch", 30, OTHERS)),
    ("person", "torch", 30, (("opened", 0), ("alone", 3), ("agreement", 6))),
    (R101, "torch", 40, OTHERS),
    *((name, "torch-compile", 75, (("opened", 0), ("alone", 3), ("memory_x8", 12)))
      for name in (LRASPP, R50)),
)  # fmt: skip
"""Model, backend, the seconds that loading may need, and figures; most important first."""


def limits(device: torch.device) -> dict[str, Any]:
    """TFLOP/s of a product or convolution, and GB/s of a copy: what is read and written."""
    where = str(device) if device.type == "cuda" else "cpu"
    flops = arithmetic_peak(where, "fp16" if device.type == "cuda" else "fp32")
    copied = copy_peak(where)
    return {"peak_tflops": flops and flops / 1e12, "copy_gb_s": copied and copied / 1e9}


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, measure, and write one JSON line for each figure; 1 if one failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clip")
    parser.add_argument("--models", help="of the plan, separated by commas; all by default")
    parser.add_argument("--size", default="512x512", help="height x width of the network's input")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each figure")
    parser.add_argument("--live-seconds", type=float, default=10.0, help="of each live run")
    parser.add_argument("--minutes", type=float, default=5.5, help="after which none is begun")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu_measure.jsonl"))
    args = parser.parse_args(arguments)
    args.size = tuple(map(int, args.size.split("x")))
    since, device = time.perf_counter(), torch.device(args.device)
    gpu = device.type == "cuda"
    sheet = Sheet(args.out, since + 60 * args.minutes, gpu)
    with open_source(args.clip, SourceOptions()) as source:
        frames = list(islice(source, HELD))
    sheet.write(
        {
            "torch": torch.__version__,
            "gpu": torch.cuda.get_device_name(device) if gpu else "",
            "clip": f"{frames[0].size[1]}x{frames[0].size[0]}",
            "size": args.size,
        }
    )
    sheet.measure("", 10, lambda: limits(device))
    for name, backend, needs, figures in PLAN:
        if args.models and name not in args.models.split(","):
            continue
        label = name if backend == "torch" else f"{name} {backend}"
        opened: list[Network] = []

        def load(
            name: str = name, backend: str = backend, opened: list[Network] = opened
        ) -> dict[str, Any]:
            opened.append(Network(name, args, frames, backend))
            return {}

        sheet.measure(label, needs, load)
        for network in opened:
            at_once = network.segmenter.backend.frames_at_once
            for figure, seconds in figures:
                network.segmenter.backend.frames_at_once = at_once
                sheet.measure(label, seconds, getattr(network, figure))
            network.segmenter.close()
    sheet.compare()
    return int(sheet.failed)


if __name__ == "__main__":
    sys.exit(main())
