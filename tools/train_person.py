"""Train LR-ASPP MobileNetV3-Large to find people, from scratch, on what person_data.py packs.

    python tools/train_person.py --cache ../train_cache --minutes 95
    python tools/train_person.py --evaluate ../train_cache/person_ema.pth --size 320 --size 512x512

The schedule runs on time: progress is the training time so far, over all runs, divided by
`--minutes`. Started again, it goes on from its last saved state. Ctrl-C or SIGTERM saves and stops.
Input of the network: RGB / 255, less MEAN, divided by STD. Its logits (background, person) have
stride 8. The saved file is the plain float32 state dict of the averaged weights.
"""

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.random import Generator
from person_data import (
    BACKGROUND,
    DEFAULT_DATA,
    IGNORE,
    PERSON,
    Array,
    Floats,
    Picture,
    clothing_pictures,
    coco_pictures,
    people_pictures,
    voc_pictures,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OUTSIDE = 254
CLASSES, HIGH_CHANNELS, HIGH_STRIDE = 21, 960, 16
BATCH, PEAK_RATE, WEIGHT_DECAY, WARM_UP = 16, 1.5e-3, 0.03, 0.04
CROPS = ((0.0, 160), (0.6, 192), (0.85, 224))
EMA_DECAY = 0.998
SAVE_SECONDS, REPORT_SECONDS = 300, 600
SHARES = {
    "voc-train": 0.36,
    "coco-train": 0.18,
    "clothing-train": 0.24,
    "clothing-unlabelled": 0.08,
    "frames": 0.14,
}
PASTE, PASTE_ON_EMPTY = 0.25, 0.7
LABELLED_TEACHER, IGNORED_TEACHER, CLASS_TEACHER = 0.15, 0.4, 0.4

# torchvision's LRASPP: an nn.Module whose `backbone` and `classifier` are called one by one.
Segmenter = Any

_declared: list[torch.library.Library] = []


def lraspp(num_classes: int = 2) -> Segmenter:
    """Return torchvision's LR-ASPP MobileNetV3-Large without weights.

    Some torchvision builds fail to import because their compiled operators are missing; the network
    needs none of them, so their schemas are declared and the import tried again.
    """
    try:
        from torchvision.models.segmentation import lraspp_mobilenet_v3_large
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        from torchvision.models.segmentation import lraspp_mobilenet_v3_large
    return lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=num_classes)


# --- augmentation -----------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """One augmented crop of side S.

    `image` (S,S,3) uint8 RGB; `label` (S,S) uint8 of 0, 1, 254 (outside), 255 (ignore); `teacher`
    (S,S) uint8 probability of person times 255; `classes` (21,S/16,S/16) float32 teacher logits.
    """

    image: Array
    label: Array
    teacher: Array
    classes: Floats


class Pack:
    """The packed arrays, mapped from disk, and which rows serve as empty scenes and cut-outs."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text())
        self.sizes: list[tuple[int, int]] = [(h, w) for h, w in index["sizes"]]
        self.sources = np.array(index["sources"])
        self.images, self.labels, self.teacher, self.classes = (
            np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in ("images", "labels", "teacher", "classes")
        )
        people = np.array([self._share(row, PERSON) for row in range(len(self.sizes))])
        unsure = np.array([self._share(row, IGNORE) for row in range(len(self.sizes))])
        labelled = ~np.isin(self.sources, ("clothing-unlabelled", "frames"))
        self.empty = np.flatnonzero((people == 0) & (unsure < 0.02))
        self.cut_outs = np.flatnonzero(labelled & (people > 0.05) & (people < 0.7))
        self.rows = {source: np.flatnonzero(self.sources == source) for source in SHARES}

    def _share(self, row: int, value: int) -> float:
        height, width = self.sizes[row]
        return float(np.mean(self.labels[row, :height, :width] == value))


def random_affine(rng: Generator, size: tuple[int, int], side: int) -> Floats:
    """Return a (2,3) float32 map from picture to crop pixels: scale, shape, turn, flip, place.

    `size` is the picture's (height, width); the crop lies inside the picture where it fits.
    """
    scale = math.exp(rng.uniform(math.log(0.6), math.log(1.9))) * math.sqrt(side / 224)
    stretch = math.exp(rng.uniform(-0.2, 0.2))
    angle = math.radians(rng.normal(0, 7))
    flip = rng.choice((-1.0, 1.0))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = turn @ np.diag([flip * scale * stretch, scale / stretch])
    extent = side / scale / np.array([stretch, 1 / stretch])
    room = np.array([size[1], size[0]]) - extent
    centre = extent / 2 + room * rng.random(2)
    return np.column_stack([linear, side / 2 - 0.5 - linear @ centre]).astype(np.float32)


def warped_classes(logits: Floats, size: tuple[int, int], affine: Floats, side: int) -> Floats:
    """Return (21,S/16,S/16) float32: the teacher's (33,33,21) logits seen through `affine`."""
    inverse = cv2.invertAffineTransform(affine)
    centres = np.arange(side // HIGH_STRIDE) * HIGH_STRIDE + HIGH_STRIDE / 2 - 0.5
    columns, rows = np.meshgrid(centres, centres)
    points = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ inverse.T
    grid = points / (np.array([size[1], size[0]]) - 1) * 2 - 1
    planes = torch.from_numpy(logits.astype(np.float32)).permute(2, 0, 1)[None]
    sampled = functional.grid_sample(
        planes, torch.from_numpy(grid).float()[None], padding_mode="border", align_corners=True
    )
    return sampled[0].numpy()


def random_view(rng: Generator, pack: Pack, row: int, side: int) -> View:
    """Return a random crop of the row's picture, its colours untouched."""
    height, width = pack.sizes[row]
    affine = random_affine(rng, (height, width), side)

    def warp(plane: Array, flags: int, border: tuple[int, ...]) -> Array:
        cut = np.ascontiguousarray(plane[row, :height, :width])
        return cv2.warpAffine(cut, affine, (side, side), flags=flags, borderValue=border)

    fill = tuple(int(value) for value in rng.integers(0, 256, 3))
    return View(
        warp(pack.images, cv2.INTER_LINEAR, fill),
        warp(pack.labels, cv2.INTER_NEAREST, (OUTSIDE,)),
        warp(pack.teacher, cv2.INTER_LINEAR, (0,)),
        warped_classes(pack.classes[row], (height, width), affine, side),
    )


def pasted(rng: Generator, scene: View, cut_out: View) -> View:
    """Return `scene` with the people of `cut_out` on it; its class logits become NaN (unknown)."""
    soft = cv2.GaussianBlur(
        (cut_out.label == PERSON).astype(np.float32), (0, 0), rng.uniform(0.5, 1.5)
    )
    on_top = soft > 0.5
    alpha = soft[:, :, None]
    image = scene.image * (1 - alpha) + coloured(rng, cut_out.image) * alpha
    return View(
        np.round(image).astype(np.uint8),
        np.where(on_top, PERSON, scene.label).astype(np.uint8),
        np.where(on_top, 255, scene.teacher).astype(np.uint8),
        np.full_like(scene.classes, np.nan),
    )


def coloured(rng: Generator, image: Array) -> Array:
    """Return the (S,S,3) uint8 picture with other brightness, contrast, gamma, tint, saturation."""
    ramp = np.linspace(0, 1, 256)[:, None] ** math.exp(rng.normal(0, 0.3))
    ramp = (ramp - 0.5) * math.exp(rng.normal(0, 0.25)) + 0.5 + rng.normal(0, 0.1)
    ramp = np.clip(ramp * np.exp(rng.normal(0, 0.08, 3)) * 255, 0, 255)
    image = cv2.LUT(image, np.round(ramp).astype(np.uint8)[None])
    saturation = 0.0 if rng.random() < 0.06 else rng.uniform(0.4, 1.4)
    grey = np.full((3, 3), (1 - saturation) / 3, np.float32)
    return cv2.transform(image, grey + saturation * np.eye(3, dtype=np.float32))


def degraded(rng: Generator, image: Array) -> Array:
    """Return the (S,S,3) uint8 picture with, each at times, blur, noise and JPEG blocks."""
    if rng.random() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 2.0))
    if rng.random() < 0.2:
        noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(2, 14)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        _, code = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 90))))
        image = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), dtype=np.uint8)
    return image


def augmented(rng: Generator, pack: Pack, side: int) -> View:
    """Return one random training crop of side `side`."""
    source = rng.choice(list(SHARES), p=list(SHARES.values()))
    row = int(rng.choice(pack.rows[source]))
    chance = PASTE
    if rng.random() < 0.15:
        row, chance = int(rng.choice(pack.empty)), PASTE_ON_EMPTY
    view = random_view(rng, pack, row, side)
    if rng.random() < chance:
        cut_out = random_view(rng, pack, int(rng.choice(pack.cut_outs)), side)
        view = pasted(rng, view, cut_out)
    image = degraded(rng, coloured(rng, view.image))
    return View(image, view.label, view.teacher, view.classes)


class Crops(IterableDataset):
    """An endless stream of (image, label, teacher, classes) arrays, fixed by `seed`."""

    def __init__(self, pack: Pack, side: int, seed: int) -> None:
        self._pack, self._side, self._seed = pack, side, seed

    def __iter__(self) -> Iterator[tuple[Array, Array, Array, Floats]]:
        rng = np.random.default_rng(self._seed)
        while True:
            view = augmented(rng, self._pack, self._side)
            yield view.image, view.label, view.teacher, view.classes


# --- network and loss -------------------------------------------------------------------------


class Student(nn.Module):
    """The segmenter and a head, used in training only, that repeats the teacher's 21 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.net: Segmenter = lraspp()
        self.classes = nn.Conv2d(HIGH_CHANNELS, CLASSES, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N,2,S/8,S/8) and class logits (N,21,S/16,S/16) of (N,3,S,S) float."""
        features = self.net.backbone(images)
        return self.net.classifier(features), self.classes(features["high"])


def normalised(images: Tensor) -> Tensor:
    """Return (N,H,W,3) uint8 RGB as the network's (N,3,H,W) float32 input, channels last."""
    return ((images.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of `values` under `weights`, 0 if these are all 0."""
    return (values * weights).sum() / weights.sum().clamp(min=1)


def person_loss(logits: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
    """Return cross-entropy against labels and teacher at stride 2.

    `logits` (N,2,S/8,S/8) float; `labels` (N,S,S) uint8; `teacher` (N,S,S) uint8.
    """
    margin = (logits[:, 1:] - logits[:, :1]).float()
    margin = functional.interpolate(margin, scale_factor=4, mode="bilinear")
    person, known, ignored, taught = (
        functional.avg_pool2d(plane.float()[:, None], 2)
        for plane in (
            labels == PERSON,
            (labels == PERSON) | (labels == BACKGROUND),
            labels == IGNORE,
            teacher,
        )
    )
    hard = functional.binary_cross_entropy_with_logits(
        margin, person / known.clamp(min=0.25), reduction="none"
    )
    soft = functional.binary_cross_entropy_with_logits(margin, taught / 255, reduction="none")
    trust = LABELLED_TEACHER * known + IGNORED_TEACHER * ignored
    return (hard * known + soft * trust).mean()


def class_loss(logits: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return soft cross-entropy with the teacher's classes, where these are known and inside.

    `logits`, `teacher` (N,21,S/16,S/16) float, NaN where unknown; `labels` (N,S,S) uint8.
    """
    inside = functional.avg_pool2d((labels != OUTSIDE).float()[:, None], HIGH_STRIDE)[:, 0] > 0.5
    known = (inside & ~teacher[:, 0].isnan()).float()
    target = teacher.nan_to_num().softmax(dim=1)
    return weighted_mean(-(target * logits.float().log_softmax(dim=1)).sum(dim=1), known)


class Average:
    """An exponential moving average of a network's parameters and buffers, in float32."""

    def __init__(self, net: nn.Module) -> None:
        self.state = {name: value.detach().clone() for name, value in net.state_dict().items()}
        self.steps = 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move towards the network's present values, faster in the first steps."""
        self.steps += 1
        decay = min(EMA_DECAY, (1 + self.steps) / (10 + self.steps))
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)


# --- training ---------------------------------------------------------------------------------


def rate_factor(progress: float) -> float:
    """Return the learning rate as a share of its peak: linear warm-up, then cosine to 1 %."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.01)
    rest = min(1.0, (progress - WARM_UP) / (1 - WARM_UP))
    return 0.01 + 0.99 * (1 + math.cos(math.pi * rest)) / 2


def crop_side(progress: float) -> int:
    """Return the side of the crops: small ones first, which is faster."""
    return [side for start, side in CROPS if progress >= start][-1]


def optimizer_for(student: Student) -> torch.optim.AdamW:
    """Return AdamW that decays weights but neither biases nor normalisation."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in student.parameters() if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in student.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, fused=True)


class Trainer:
    """A training run that can be stopped and gone on with; its files lie in `folder`."""

    def __init__(self, folder: Path, data: Path, budget_seconds: float) -> None:
        self._folder, self._budget = folder, budget_seconds
        self._pack = Pack(folder)
        self._student = Student()
        self._student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = optimizer_for(self._student)
        self._average = Average(self._student.net)
        self._samples, self._elapsed_before = 0, 0.0
        self._held_out = small_sets(data)
        self._stop = False
        if self._state_path.exists():
            self._load()
        self._started = time.monotonic()

    @property
    def _state_path(self) -> Path:
        return self._folder / "person_state.pth"

    @property
    def _elapsed(self) -> float:
        return self._elapsed_before + time.monotonic() - self._started

    @property
    def _progress(self) -> float:
        return self._elapsed / self._budget

    def _load(self) -> None:
        state = torch.load(self._state_path, weights_only=True)
        self._student.load_state_dict(state["student"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._average.state, self._average.steps = state["average"], state["steps"]
        self._samples, self._elapsed_before = state["samples"], state["elapsed_seconds"]

    def save(self) -> None:
        """Write the state to go on from, and the averaged weights; a crash leaves the old files."""
        state = {
            "student": self._student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.state,
            "steps": self._average.steps,
            "samples": self._samples,
            "elapsed_seconds": self._elapsed,
        }
        for path, content in (
            (self._state_path, state),
            (self._folder / "person_ema.pth", self._average.state),
        ):
            torch.save(content, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)

    def stop(self, *_: object) -> None:
        """Ask the run to save and end after the step under way (fit as a signal handler)."""
        self._stop = True

    def run(self) -> None:
        """Train until the budget is spent or `stop` is called, then save."""
        saved = reported = time.monotonic()
        while not self._over:
            for batch in self._batches(crop_side(self._progress)):
                loss = self._step(*batch)
                now = time.monotonic()
                if self._average.steps % 50 == 0:
                    self._log(f"loss {loss:.4f}")
                if now - saved > SAVE_SECONDS:
                    self.save()
                    saved = now
                if now - reported > REPORT_SECONDS:
                    self._report()
                    reported = now
        self.save()
        self._report()

    @property
    def _over(self) -> bool:
        return self._stop or self._progress >= 1

    def _batches(self, side: int) -> Iterator[list[Tensor]]:
        """Yield batches of crops of `side` for as long as that is the side to train with."""
        crops = Crops(self._pack, side, seed=self._samples)
        for batch in DataLoader(crops, BATCH, num_workers=1, prefetch_factor=4):
            yield batch
            if self._over or crop_side(self._progress) != side:
                return

    def _step(self, images: Tensor, labels: Tensor, teacher: Tensor, classes: Tensor) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = PEAK_RATE * rate_factor(self._progress)
        self._student.train()
        with torch.autocast("cpu", torch.bfloat16):
            logits, class_logits = self._student(normalised(images))
        loss = person_loss(logits, labels, teacher)
        total = loss + CLASS_TEACHER * class_loss(class_logits, classes, labels)
        self._optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self._student.parameters(), 5.0)
        self._optimizer.step()
        self._average.update(self._student.net)
        self._samples += len(images)
        return float(total.detach())

    def _report(self) -> None:
        net = loaded(self._average.state)
        for name, pictures in self._held_out.items():
            self._log(
                f"{name} ({len(pictures)}) IoU {person_iou(net, pictures, fit_long(320)):.4f}"
            )

    def _log(self, text: str) -> None:
        minutes = self._elapsed / 60
        print(
            f"{minutes:6.1f} min {self._progress:6.1%} {self._samples:7d} samples  {text}",
            flush=True,
        )


def train(folder: Path, data: Path, minutes: float) -> None:
    """Train from the arrays in `folder` until all runs together have taken `minutes`."""
    # the workers are forked: OpenCV's threads must not have begun in this process by then
    cv2.setNumThreads(0)
    torch.manual_seed(0)
    trainer = Trainer(folder, data, minutes * 60)
    signal.signal(signal.SIGTERM, trainer.stop)
    signal.signal(signal.SIGINT, trainer.stop)
    trainer.run()


# --- evaluation -------------------------------------------------------------------------------

Sizing = Callable[[int, int], tuple[int, int]]


def fit_long(long_side: int) -> Sizing:
    """Return a rule from (height, width) to (height, width) that keeps the shape, in 16ths."""

    def size(height: int, width: int) -> tuple[int, int]:
        scale = long_side / max(height, width)
        return max(16, round(height * scale / 16) * 16), max(16, round(width * scale / 16) * 16)

    return size


def sizing(text: str) -> Sizing:
    """Return the rule for "320" (long side, shape kept) or "512x384" (squashed, width first)."""
    if "x" not in text:
        return fit_long(int(text))
    width, height = (int(side) for side in text.split("x"))
    return lambda *_: (height, width)


def loaded(state: dict[str, Tensor]) -> Segmenter:
    """Return the segmenter with these weights, ready to measure."""
    net = lraspp()
    net.load_state_dict(state)
    return net.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def person_mask(net: Segmenter, image: Array, size: Sizing) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return where the network sees people, (H,W) bool, in an (H,W,3) uint8 RGB picture."""
    height, width = size(*image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    logits = net.classifier(net.backbone(normalised(torch.from_numpy(small)[None])))
    margin = functional.interpolate(logits[:, 1:] - logits[:, :1], image.shape[:2], mode="bilinear")
    return margin[0, 0].numpy() > 0


def person_iou(net: Segmenter, pictures: list[Picture], size: Sizing) -> float:
    """Return the IoU of person, pooled over the pixels of all pictures at their own size."""
    both = either = 0
    for picture in pictures:
        found = person_mask(net, picture.image, size)
        known, truth = picture.label != IGNORE, picture.label == PERSON
        both += int((found & truth & known).sum())
        either += int(((found | truth) & known).sum())
    return both / max(either, 1)


def small_sets(data: Path) -> dict[str, list[Picture]]:
    """Return 40 pictures each of VOC val and people/, to follow the training with."""
    voc, people = list(voc_pictures(data, "val")), list(people_pictures(data))
    return {"voc-val": voc[:: len(voc) // 40][:40], "people": people[:: len(people) // 40][:40]}


def measured_sets(data: Path) -> dict[str, list[Picture]]:
    """Return the held-out sets in full; of COCO val the pictures with at least 5 % people."""
    coco = [p for p in coco_pictures(data, "val") if np.mean(p.label == PERSON) >= 0.05]
    return {
        "people": list(people_pictures(data)),
        "voc-val": list(voc_pictures(data, "val")),
        "coco-val": coco,
        "clothing-val": list(clothing_pictures(data, kept_aside=True)),
    }


def evaluate(weights: Path, data: Path, sizes: list[str]) -> None:
    """Print the IoU of person on every held-out set at each input size."""
    net = loaded(torch.load(weights, weights_only=True))
    for name, pictures in measured_sets(data).items():
        for text in sizes:
            score = person_iou(net, pictures, sizing(text))
            print(
                f"{name:14s} {len(pictures):4d} pictures  input {text:8s} IoU {score:.4f}",
                flush=True,
            )


def main() -> None:
    """Read the command line, then train or evaluate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of labelled sets")
    parser.add_argument(
        "--cache", type=Path, help="folder packed by person_data.py; gets the weights"
    )
    parser.add_argument("--minutes", type=float, default=95, help="training time over all runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--evaluate", type=Path, metavar="FILE", help="measure these weights instead"
    )
    parser.add_argument(
        "--size", action="append", help="320 (long side) or 512x512; may be repeated"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.evaluate:
        evaluate(args.evaluate, args.data, args.size or ["320"])
    elif args.cache:
        train(args.cache, args.data, args.minutes)
    else:
        parser.error("give --cache to train or --evaluate to measure")


if __name__ == "__main__":
    main()
