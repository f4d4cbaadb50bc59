"""Whole loops against one another, alternately, on the same clip, network and weights.

    python tools/race.py CLIP [--naive PATH] [--models A,B] [--sizes 512x512,288x512] [--pairs 5]
        [--teacher FILE.onnx] [--propagate] [--precision bf16]

Three competitors, each a program of its own: the naive loop of tutorials (given with --naive; by
default ../shared/naive_loop.py beside the project, left out with a word when it is not there), a
plain ONNX Runtime loop (tools/plain_onnx_loop.py), both at 512x512, and ours
(tools/rtseg_loop.py), H.264 out, at each size. All are held to the same two cores. Prints, for
each: frames per second (median and spread), milliseconds of processor time per frame, and those
per stage; then the medians of the ratios of neighbouring runs, and how far our masks agree with
torchvision's network in float32.

Torchvision's networks have random weights but for the last layer, which ridge regression fits to
the logits of --teacher (image (1, H, W, 3) uint8 RGB to logits (1, 21, h, w)) on frames of the
clip: the masks of random weights are noise, which x264 cannot encode and no two precisions agree
on. The bundled network (--models person) has its own. --propagate adds ours with the network on
keyframes only, at the last of the sizes.

--live instead replays the clip as a camera with 30 frames per second for the bundled network at
288x512, recorded as H.264, and prints what was dropped and how old frames were when written.

Processor time per frame is of the loop, without loading; other programs on the machine disturb it
less than they disturb frames per second, except where threads spin while they wait for others.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

TOOLS = Path(__file__).resolve().parent
NAIVE = TOOLS.parents[1] / "shared" / "naive_loop.py"
TEACHER = NAIVE.parent / "data" / "networks" / "deeplabv3_mobilenet_v2_voc.onnx"
SMALL = "lraspp_mobilenet_v3_large,deeplabv3_mobilenet_v3_large"
CLASSES = 21
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LAUNCH = f"""
import runpy, sys, time
sys.path.insert(0, {str(TOOLS)!r})
import cv2
import race
race.offer_bundled()
opened, capture = [], cv2.VideoCapture
def open_capture(*args):
    opened.append(time.process_time())
    return capture(*args)
cv2.VideoCapture = open_capture
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(f"processor {{time.process_time() - opened[0]:.3f}} s")
"""
"""Runs a script of others with a torchvision that can be imported, see rtseg.nets, and that builds
the bundled networks too; says at the end what processor time it took from the opening of its clip,
when its network is made."""

FITTED = 12
"""Frames that the last layer is fitted on."""

RIDGE = 1e-3
"""Weight of the penalty, beside the mean square of the features."""

EVERY = 50
"""One frame of so many has its mask compared."""


@dataclass
class Loop:
    """One competitor: a command to which the number of frames is given, and what it did."""

    name: str
    command: list[str]
    frames: int
    fps: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    stages: str = ""

    def run(self) -> None:
        """Run once, and note frames per second and processor time."""
        command = [part.replace("FRAMES", str(self.frames)) for part in self.command]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = re.search(
            r"([\d.]+) fps over (\d+) frames; (.*)\nprocessor ([\d.]+) s", done.stdout
        )
        if done.returncode or found is None or int(found[2]) != self.frames:
            raise SystemExit(f"{self.name} failed:\n{done.stdout}{done.stderr[-2000:]}")
        self.fps.append(float(found[1]))
        self.cpu_ms.append(float(found[4]) / self.frames * 1e3)
        self.stages = found[3]

    def row(self) -> str:
        """The competitor's line of the table."""
        fps, cpu = self.fps, self.cpu_ms
        return (
            f"{self.name:<24}{median(fps):>8.2f}  {min(fps):.2f} to {max(fps):.2f}"
            f"{median(cpu):>9.1f}   {self.stages}"
        )


def main() -> None:
    """Race every network, and print."""
    args = arguments()
    hold_cores(args.cores)
    with tempfile.TemporaryDirectory() as folder:
        if args.live:
            replay(args, Path(folder))
            return
        for model in args.models.split(","):
            race(model, args, Path(folder))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip")
    parser.add_argument("--naive", type=Path, default=NAIVE)
    parser.add_argument("--models", default=SMALL)
    parser.add_argument("--sizes", default="512x512,288x512", help="of ours, HxW")
    parser.add_argument("--backend", default="auto", help="of ours")
    parser.add_argument("--precision", default="auto", help="of ours")
    parser.add_argument("--propagate", action="store_true", help="ours on keyframes only as well")
    parser.add_argument("--teacher", type=Path, default=TEACHER)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--live", action="store_true", help="instead: the clip as a live camera")
    parser.add_argument("--cores", type=int, default=2)
    return parser.parse_args()


def hold_cores(count: int) -> None:
    """Hold this program, and those it starts, to the first `count` cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    os.environ["OMP_NUM_THREADS"] = str(count)  # torch counts all cores otherwise


def race(model: str, args: argparse.Namespace, folder: Path) -> None:
    """Run all competitors on one network, alternately, and print the table."""
    weights, network = export(model, args, folder)
    out, python = str(folder / "out.mp4"), sys.executable
    named = [args.clip, out, model, "FRAMES"]
    if not is_bundled(model):
        named += ["--weights", str(weights)]
    classes = ["--num-classes", str(class_count(model))]
    others, ours = [], []
    if args.naive.is_file():
        others.append(
            Loop(
                "naive 512x512",
                [python, "-c", LAUNCH, str(args.naive), *named, *classes],
                args.frames,
            )
        )
    else:
        print(f"no naive loop: {args.naive} is not there (--naive PATH)", file=sys.stderr)
    plain = [python, str(TOOLS / "plain_onnx_loop.py"), args.clip, out, str(network), "FRAMES"]
    others.append(Loop("plain ONNX 512x512", plain, args.frames))
    for size in args.sizes.split(","):
        command = [python, str(TOOLS / "rtseg_loop.py"), *named, "--size", size]
        command += ["--backend", args.backend, "--precision", args.precision]
        ours.append(Loop(f"rtseg {size}", command, args.frames))
    if args.propagate:
        named_so = f"{ours[-1].name} propagated"
        ours.append(Loop(named_so, [*ours[-1].command, "--propagate"], args.frames))
    for _ in range(args.pairs):
        for loop in (*others, *ours):
            loop.run()
    print(f"\n{model}, {args.frames} frames, {args.pairs} rounds, {args.cores} cores")
    print(f"{'':<24}{'fps':>8}  {'spread':<14}{'cpu ms':>7}   ms per stage")
    for loop in (*others, *ours):
        print(loop.row())
    for loop in ours:
        for other in others:
            say_ratio(loop, other)
        size = loop.name.split()[1]
        if loop.name.endswith(size):
            share = agreement(model, weights, size, args)
            print(f"{loop.name}: {share:.3%} of the mask as torch fp32")


def say_ratio(ours: Loop, other: Loop) -> None:
    """Print the median ratio of neighbouring runs, and that of processor time."""
    ratios = [a / b for a, b in zip(ours.fps, other.fps, strict=True)]
    cpu = median(other.cpu_ms) / median(ours.cpu_ms)
    print(
        f"{ours.name} over {other.name}: {median(ratios):.2f}x in frames per second "
        f"({min(ratios):.2f} to {max(ratios):.2f}), {cpu:.2f}x in processor time"
    )


def fit(network: Any, args: argparse.Namespace) -> None:
    """Fit the last layer to the teacher's logits on frames of the clip."""
    import numpy as np
    import onnxruntime
    import torch

    import rtseg

    head = network.classifier
    last = (
        [head[-1]] if hasattr(head, "__getitem__") else [head.low_classifier, head.high_classifier]
    )
    seen: dict[Any, Any] = {}
    for layer in last:
        layer.register_forward_hook(lambda layer, inputs, _: seen.update({layer: inputs[0]}))
    teacher = onnxruntime.InferenceSession(str(args.teacher), providers=["CPUExecutionProvider"])
    (given,) = teacher.get_inputs()
    with rtseg.open_source(args.clip) as source:
        count = source.info.frame_count or args.frames
    options = rtseg.SourceOptions(every=max(1, min(count, 400) // FITTED), max_frames=FITTED)
    squares, products, pairs = 0.0, 0.0, []
    with rtseg.open_source(args.clip, options) as source, torch.inference_mode():
        for frame in source:
            network(torch.from_numpy(scaled(resized_rgb(frame.image, (512, 512))[np.newaxis])))
            cells = torch.cat([seen[layer] for layer in last], 1)[0]
            shape = cells.shape[1:]
            features = torch.cat([cells, torch.ones(1, *shape)]).flatten(1).double()
            image = resized_rgb(frame.image, given.shape[1:3])[np.newaxis]
            logits = torch.from_numpy(teacher.run(None, {given.name: image})[0])
            wanted = torch.nn.functional.interpolate(logits, shape, mode="bilinear")[0].flatten(1)
            squares, products = (
                squares + features @ features.T,
                products + features @ wanted.double().T,
            )
            pairs.append((features, wanted.argmax(0)))
    penalty = RIDGE * squares.diagonal().mean() * torch.eye(len(squares), dtype=torch.float64)
    solution = torch.linalg.solve(squares + penalty, products).T.float()
    at = 0
    for layer in last:
        width = layer.in_channels
        layer.weight.data[:] = solution[:, at : at + width, None, None]
        layer.bias.data[:] = solution[:, -1] if at == 0 else 0
        layer._forward_hooks.clear()
        at += width
    same = [((solution.double() @ features).argmax(0) == wanted) for features, wanted in pairs]
    print(
        f"the last layer agrees with the teacher on {torch.cat(same).double().mean():.1%} of cells"
    )


def resized_rgb(image: Any, size: tuple[int, int]) -> Any:
    """(h, w, 3) uint8 RGB of an image in BGR."""
    import cv2

    return cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), (size[1], size[0]))


def scaled(batch: Any) -> Any:
    """(N, 3, h, w) float32 as torchvision's networks take it, of (N, h, w, 3) uint8 RGB."""
    import numpy as np

    planes = (
        ((batch / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32).transpose(0, 3, 1, 2)
    )
    return np.ascontiguousarray(planes)


def export(model: str, args: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """A file of weights, the same for all, and torchvision's own graph of it for ONNX."""
    import warnings

    import torch

    network: Any = untouched(model)
    if is_bundled(model):
        pass  # it has weights
    elif args.teacher.is_file():
        fit(network, args)
    else:
        print(f"random last layer: {args.teacher} is not there (--teacher FILE)", file=sys.stderr)
    weights, path = folder / f"{model}.pth", folder / f"{model}.onnx"
    torch.save(network.state_dict(), weights)

    class Out(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            return self.network(picture)["out"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Out().eval(), (torch.zeros(1, 3, 512, 512),), str(path), dynamo=False,
            opset_version=17, input_names=["input"], output_names=["out"],
        )  # fmt: skip
    return weights, path


def is_bundled(model: str) -> bool:
    """Whether the network ships with rtseg."""
    from rtseg.nets.find import shipped

    return model in shipped()


def class_count(model: str) -> int:
    """How many classes the network tells apart here."""
    from rtseg.nets.find import find_model

    return len(find_model(model).spec.labels) if is_bundled(model) else CLASSES


def offer_bundled() -> None:
    """Give torchvision builders of the networks that ship, for scripts that name them."""
    from rtseg.nets.build import segmentation
    from rtseg.nets.find import shipped

    for name in shipped():
        setattr(segmentation(), name, lambda name=name, **_: bundled(name))


def bundled(name: str) -> Any:
    """A network that ships, unchanged, for images that are normalised as torchvision's."""
    import torch

    from rtseg.nets.build import build
    from rtseg.nets.find import find_model
    from rtseg.nets.state import load_state, read_checkpoint

    model = find_model(name)
    spec, path = model.spec, Path(str(model.file))
    network = build(spec.architecture, len(spec.labels))
    load_state(network, spec, read_checkpoint(path)[1], path)
    measures = (MEAN, STD, spec.input.mean, spec.input.std)
    mean, std, own_mean, own_std = (torch.tensor(each).view(1, 3, 1, 1) for each in measures)
    factor, shift = std / own_std, (mean - own_mean) / own_std
    network.register_forward_pre_hook(lambda _, images: (images[0] * factor + shift,))
    return network


def untouched(model: str) -> Any:
    """The network as the naive loop makes it: a bundled one, or torchvision's, random."""
    import torch

    from rtseg.nets.build import segmentation

    if is_bundled(model):
        return bundled(model)
    torch.manual_seed(0)
    build = getattr(segmentation(), model)
    return build(weights=None, weights_backbone=None, num_classes=CLASSES).eval()


def agreement(model: str, weights: Path, size: str, args: argparse.Namespace) -> float:
    """Share of pixels, at the network's input size, that are as torchvision in float32 says."""
    import numpy as np
    import torch

    import rtseg
    from rtseg.decode import decode

    network = untouched(model)
    network.load_state_dict(torch.load(weights, weights_only=True))
    own = None if is_bundled(model) else weights
    imgsz = tuple(map(int, size.split("x")))
    same = []
    with (
        rtseg.open_source(args.clip, rtseg.SourceOptions(every=EVERY)) as source,
        rtseg.load(
            model, weights=own, imgsz=imgsz, backend=args.backend, precision=args.precision
        ) as segmenter,
    ):
        for frame in source:
            batch = segmenter._batch([frame.image])
            with torch.inference_mode():
                logits = network(torch.from_numpy(scaled(batch)))["out"]
            expected = logits[0].argmax(0).numpy()
            same.append((expected == decode(segmenter.backend(batch)[0], imgsz)[0]).mean())
    return float(np.mean(same))


def replay(args: argparse.Namespace, folder: Path) -> None:
    """The bundled network on the clip at 30 frames per second, as a live camera, recorded."""
    clip = at_30(args.clip, folder / "clip30.mp4")
    command = [sys.executable, str(TOOLS / "rtseg_loop.py"), str(clip), str(folder / "out.mp4")]
    command += ["person", str(args.frames), "--size", "288x512", "--live"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout or done.stderr)


def at_30(clip: str, target: Path) -> Path:
    """The clip's pictures, 30 a second."""
    import av

    with av.open(clip) as source, av.open(str(target), "w") as output:
        pictures = source.streams.video[0]
        stream = output.add_stream("libx264", rate=30, options={"crf": "16", "preset": "superfast"})
        stream.width, stream.height, stream.pix_fmt = pictures.width, pictures.height, "yuv420p"
        for index, picture in enumerate(source.decode(pictures)):
            picture.pts, picture.time_base = index, Fraction(1, 30)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return target


if __name__ == "__main__":
    main()
