"""Teach LR-ASPP's backbone what the class teacher sees, stage by stage; train_person.py goes on.

    python tools/person_data.py --out pack.npz --long-side 448
    python tools/distil_person.py pack.npz --out distilled.pth --minutes 13
    python tools/train_person.py pack.npz --out person/ --distilled distilled.pth --minutes 56

Two processes, a thread each. One trains the three stages of strides 2 to 8 on crops, together. The
other trains the four of stride 16, and a head for the 21 classes, on what the teacher said of crops
once for all: each stage is given the teacher's output of the stage before, so that all learn at
once; for the last part of the time its own. The loss is the squared distance to the teacher's
features, each channel with mean 0 and spread 1. No number of the teacher is taken over.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import torch
from person_pictures import DEFAULT_DATA
from person_student import Student, widened
from person_teacher import Spread, Teacher
from person_views import Crops, Pack
from torch import Tensor, nn
from torch.multiprocessing import get_context
from torch.nn import functional
from torch.utils.data import DataLoader

TEACHER = "deeplabv3_mobilenet_v2_voc.onnx"
EARLY, LATE = (0, 1, 2), (3, 4, 5, 6)
EARLY_SHARE = (0.3, 0.5, 1.0)
"""Of the loss; what the third stage gives is what all later ones see."""

EARLY_SIDE, EARLY_BATCH = 128, 24
LATE_SIDE, LATE_BATCH, LATE_CROPS = 192, 32, 5000
CHAINED = 0.6
"""From this share of the time on, late stages are given what those before them give."""

SPREAD_BATCHES, CACHE_BATCH = 12, 8
PEAK_RATE, WARM_UP, WEIGHT_DECAY = 3e-3, 0.05, 0.02
REPORT_STEPS = 100

Losses = Callable[[float], list[Tensor]]
"""Gives the losses of one batch, by the progress (0 to 1)."""


def main() -> None:
    """Read the command line and distil."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path, help="what person_data.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="the file to write (.pth)")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="where the teacher is")
    parser.add_argument("--minutes", type=float, default=13, help="of training")
    asked = parser.parse_args()
    teacher = asked.data / "networks" / TEACHER
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        remember(asked.pack, teacher, folder / "said.pth")
        processes = [
            get_context("spawn").Process(target=target, args=(*given, asked.minutes, folder / name))
            for target, given, name in (
                (train_early, (asked.pack, teacher, folder / "said.pth"), "early.pth"),
                (train_late, (folder / "said.pth",), "late.pth"),
            )
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise SystemExit("one of the two processes failed")
        early, late, said = (
            torch.load(folder / f"{name}.pth", weights_only=True)
            for name in ("early", "late", "said")
        )
    taken = tuple(f"net.backbone.{layer}." for layer in range(7))
    student = {key: (early if key.startswith(taken) else late)[key] for key in late}
    torch.save({"student": student, "spread": said["spread"]}, asked.out)


def remember(pack: Path, teacher: Path, path: Path) -> None:
    """Write what the teacher says of some crops: its stages from the third on, and its logits."""
    torch.manual_seed(0)
    network, spread = Teacher(teacher), Spread()
    batches = images_of(Pack(pack), LATE_SIDE, CACHE_BATCH, seed=100)
    said: list[list[Tensor]] = []
    with torch.inference_mode():
        spread.measure([network(next(batches))[0] for _ in range(SPREAD_BATCHES)])
        while len(said) * CACHE_BATCH < LATE_CROPS:
            stages, logits = network(next(batches))
            kept = [spread(number, stages[number]).half() for number in (EARLY[-1], *LATE)]
            said.append([*kept, logits.half()])
    planes = [torch.cat(outputs) for outputs in zip(*said, strict=True)]
    torch.save({"spread": spread.state_dict(), "planes": planes}, path)


def train_early(pack: Path, teacher: Path, said: Path, minutes: float, path: Path) -> None:
    """Train the first three stages on crops, and write the student."""
    student, network, spread = Student(), Teacher(teacher), Spread()
    spread.load_state_dict(torch.load(said, weights_only=True)["spread"])
    batches = images_of(Pack(pack), EARLY_SIDE, EARLY_BATCH, seed=7)

    def losses(progress: float) -> list[Tensor]:
        images = next(batches)
        with torch.inference_mode():
            wanted = [spread(n, w) for n, w in enumerate(network.stages(images, len(EARLY)))]
        values, found = normalised(images), []
        for number in EARLY:
            values = student.stage(number, values)
            distance = functional.mse_loss(student.repeated(number, values), wanted[number].clone())
            found.append(EARLY_SHARE[number] * distance)
        return found

    layers = [student.net.backbone[str(layer)] for layer in range(7)]
    optimise("early", nn.ModuleList(layers), losses, minutes)
    torch.save(student.state_dict(), path)


def train_late(said: Path, minutes: float, path: Path) -> None:
    """Train the other four stages and the class head on what the teacher said, and write both."""
    student = Student()
    *planes, logits = torch.load(said, weights_only=True)["planes"]

    def losses(progress: float) -> list[Tensor]:
        rows = torch.randint(0, len(logits), (LATE_BATCH,))
        wanted = [plane[rows].float() for plane in planes]
        values, found = widened(wanted[0], EARLY[-1]), []
        for number, target in zip(LATE, wanted[1:], strict=True):
            output = student.stage(number, values)
            found.append(functional.mse_loss(student.repeated(number, output), target))
            last = number == LATE[-1]
            values = output if last or progress > CHAINED else widened(target, number)
        said_so = student.classes(values).log_softmax(1)
        taught = logits[rows].float().softmax(1)
        return [*found, functional.kl_div(said_so, taught, reduction="none").sum(1).mean()]

    layers = [student.net.backbone[str(layer)] for layer in range(7, 17)]
    optimise("late", nn.ModuleList([*layers, student.classes, student.last]), losses, minutes)
    torch.save(student.state_dict(), path)


def optimise(name: str, trained: nn.Module, losses: Losses, minutes: float) -> None:
    """Make the sum of the losses small, with AdamW and a cosine over the minutes."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    parameters = list(trained.parameters())
    optimizer = torch.optim.AdamW(decaying(parameters, WEIGHT_DECAY), lr=PEAK_RATE, fused=True)
    since, steps = time.monotonic(), 0
    while (progress := (time.monotonic() - since) / 60 / minutes) < 1:
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * warm_cosine(progress, WARM_UP)
        found = losses(progress)
        optimizer.zero_grad()
        torch.stack(found).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        steps += 1
        if steps % REPORT_STEPS == 0:
            figures = " ".join(f"{loss.item():.3f}" for loss in found)
            print(f"{name:5} {progress:6.1%} {steps:6d} steps  {figures}", flush=True)


def images_of(pack: Pack, side: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Yield batches of crops for ever, (N,S,S,3) uint8 RGB, made by a process of its own."""
    cv2.setNumThreads(0)
    loader = DataLoader(Crops(pack, side, seed), batch, num_workers=1, prefetch_factor=4)
    return (images for images, *_ in loader)


def normalised(images: Tensor) -> Tensor:
    """Return (N,H,W,3) uint8 RGB as the network's (N,3,H,W) float32 input, channels last."""
    mean = torch.tensor((0.485, 0.456, 0.406), device=images.device)
    deviation = torch.tensor((0.229, 0.224, 0.225), device=images.device)
    return ((images.float() / 255 - mean) / deviation).permute(0, 3, 1, 2)


def decaying(parameters: Iterable[nn.Parameter], decay: float) -> list[dict]:
    """Return groups for AdamW that decay weights, but neither biases nor normalisation."""
    wide, narrow = [], []
    for parameter in parameters:
        (wide if parameter.ndim > 1 else narrow).append(parameter)
    return [{"params": wide, "weight_decay": decay}, {"params": narrow, "weight_decay": 0.0}]


def warm_cosine(progress: float, warm_up: float) -> float:
    """Return the learning rate as a share of its peak: linear warm-up, then cosine to 1 %."""
    if progress < warm_up:
        return max(progress / warm_up, 0.01)
    rest = min(1.0, (progress - warm_up) / (1 - warm_up))
    return 0.01 + 0.99 * (1 + math.cos(math.pi * rest)) / 2


if __name__ == "__main__":
    main()
