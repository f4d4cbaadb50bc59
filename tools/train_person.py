"""Train LR-ASPP MobileNetV3-Large to find people, from scratch, on what person_data.py packs.

    python tools/train_person.py pack.npz --out person/ --distilled distilled.pth --minutes 71
    python tools/train_person.py pack.npz --out person/ --minutes 25 --device cuda --workers 15
    python tools/train_person.py pack.npz --out more/ --goes-on person/ --fold --processes 2
    python tools/train_person.py pack.npz --out more/ --start models/person.safetensors --fold \
        --processes 2 --side 320 --minutes 92

With `--distilled` (what distil_person.py wrote) the network begins there, and for the first part of
the time its stages go on repeating the teacher's. The schedule runs on time: progress is the
training time so far, over all runs, divided by `--minutes`. Started again, it goes on from its last
saved state; `--for` ends one run early. Ctrl-C or SIGTERM saves and stops. `--start` begins from
weights, `--goes-on` from the average and the heads of a run that has ended, and its stages repeat
the teacher's again; all three begin with a lower peak of the learning rate. The network's input is
as `normalised` makes it; its logits (background, person) have stride 8. The saved file is the plain
float32 state dict of the averaged weights.
"""

import argparse
import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import torch
from distil_person import TEACHER, normalised, warm_cosine
from person_follow import fit_long, loaded, person_iou, small_sets
from person_losses import all_losses
from person_optimizer import Both, mixing_weights
from person_pictures import DEFAULT_DATA
from person_student import Student, fold
from person_teacher import Spread, Teacher
from person_together import Together, together
from person_views import Crops, Pack
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from rtseg.system import keep_freed_memory

WEIGHT_DECAY, WARM_UP = 0.03, 0.04
FEATURE_SHARES = (0.05, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2)
"""Of the loss, for each stage, at the beginning."""

FEATURES_UNTIL = 0.5
"""The share of the time after which stages no longer repeat the teacher's."""

PEAK_RATE, PEAK_RATE_FROM_WEIGHTS = 1.5e-3, 5e-4
"""Of batches of 16; they grow with the square root of the batch."""
MUON_SHARE = 1.5
"""Of that, the rate of `Muon`."""
CROPS = {"cpu": ((0.0, 160), (0.3, 224), (0.55, 320)), "cuda": ((0.0, 224), (0.4, 320), (0.8, 384))}
"""Sides, from which share of the time on. The last ones have the area of the network's input: in
smaller ones it never sees a person who fills the picture."""

BATCH = {"cpu": 16, "cuda": 128}
EMA_SAMPLES = 16000
"""How many samples the average of the weights looks back."""
STATE = "person_state.pth"
SEED_STEP = 100_003
"""Between the crops of two processes."""
SAVE_SECONDS, REPORT_SECONDS = 300, 600
HEAD_ALONE = 0.012
"""The share of the time, at first, for which a new class head learns and does not teach."""

# --- weights ------------------------------------------------------------------------------------


class Average:
    """An exponential moving average of a network's parameters and buffers, in float32."""

    def __init__(self, net: nn.Module, batch: int) -> None:
        self.state = {name: value.detach().clone() for name, value in net.state_dict().items()}
        self.steps = 0
        self._decay = math.exp(-batch / EMA_SAMPLES)

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move towards the network's present values, faster in the first steps."""
        self.steps += 1
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)


# --- training ---------------------------------------------------------------------------------


def crop_side(progress: float, sides: Sequence[tuple[float, int]]) -> int:
    """Return the side of the crops: small ones first, which is faster."""
    return [side for start, side in sides if progress >= start][-1]


class Example:
    """The teacher, and how far a student's stages are from its."""

    def __init__(self, data: Path, spread: dict[str, Tensor], device: str) -> None:
        self._teacher = Teacher(data / "networks" / TEACHER).to(device)
        self._spread = Spread()
        self._spread.load_state_dict(spread)
        self._spread.to(device)

    def loss(self, student: Student, stages: list[Tensor], images: Tensor) -> Tensor:
        """Return the mean squared distance of all stages, by their shares."""
        with torch.inference_mode():
            seen = self._teacher.stages(images)
            wanted = [self._spread(number, values) for number, values in enumerate(seen)]
        distances = [
            share * functional.mse_loss(student.repeated(number, output), target.clone())
            for number, (share, output, target) in enumerate(
                zip(FEATURE_SHARES, stages, wanted, strict=True)
            )
        ]
        return torch.stack(distances).sum()


def half_pays(device: str) -> bool:
    """Say whether bfloat16 is quicker: on processors without it, it is ten times slower."""
    return device == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Trainer:
    """A training run that can be stopped and gone on with; its files lie in `folder`."""

    def __init__(
        self, pack: Path, folder: Path, options: argparse.Namespace, among: Together
    ) -> None:
        self._folder, self._device, self._among = folder, options.device, among
        self._budget, self._workers = options.minutes * 60, options.workers
        self._sides = ((0.0, options.side),) if options.side else CROPS[self._device]
        self._batch, self._half = BATCH[self._device], half_pays(self._device)
        self._pack = Pack(pack)
        self._student = Student()
        self._example: Example | None = None
        self._spread: dict[str, Tensor] | None = None
        if options.start:
            self._student.net.load_state_dict(started_from(options.start))
        if options.distilled:
            distilled = torch.load(options.distilled, weights_only=True)
            self._student.load_state_dict(distilled["student"])
            self._spread = distilled["spread"]
        if options.goes_on:
            ended = torch.load(options.goes_on / STATE, weights_only=True)
            self._student.load_state_dict(ended["student"])
            self._student.net.load_state_dict(ended["average"])
            self._spread = ended["spread"]
        if self._spread is not None:
            self._example = Example(options.data, self._spread, self._device)
        if options.fold:
            fold(self._student)
        self._alone = HEAD_ALONE if options.start else 0.0
        weighed = options.start or options.distilled or options.goes_on
        base = PEAK_RATE_FROM_WEIGHTS if weighed else PEAK_RATE
        self._peak = base * math.sqrt(self._batch * among.count / 16)
        self._folded = options.fold
        self._student.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = Both(
            self._student,
            mixing_weights(self._student.net),
            peak=self._peak,
            muon_peak=MUON_SHARE * self._peak,
            weight_decay=WEIGHT_DECAY,
            half=self._half,
        )
        self._average = Average(self._student.net, self._batch * among.count)
        self._samples, self._elapsed_before = 0, 0.0
        self._held_out = small_sets(options.data) if options.data.is_dir() else {}
        self._stop = False
        if self._state_path.exists():
            self._load()
        self._started = time.monotonic()
        self._until = self._started + (options.only or options.minutes) * 60
        self._progress, self._ends = 0.0, False
        self._agree()

    @property
    def _state_path(self) -> Path:
        return self._folder / STATE

    @property
    def _elapsed(self) -> float:
        return self._elapsed_before + time.monotonic() - self._started

    @property
    def _side(self) -> int:
        return crop_side(self._progress, self._sides)

    def _load(self) -> None:
        state = torch.load(self._state_path, weights_only=True, map_location=self._device)
        self._student.load_state_dict(state["student"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._average.state, self._average.steps = state["average"], state["steps"]
        self._samples, self._elapsed_before = state["samples"], state["elapsed_seconds"]

    def save(self) -> None:
        """Write the state to go on from, and the averaged weights; a crash leaves the old files."""
        if self._among.rank:
            return
        state = {
            "spread": self._spread,
            "student": self._student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.state,
            "steps": self._average.steps,
            "samples": self._samples,
            "elapsed_seconds": self._elapsed,
        }
        average = {name: value.cpu() for name, value in self._average.state.items()}
        for path, content in (
            (self._state_path, state),
            (self._folder / "person_ema.pth", average),
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
            for batch in self._batches(self._side):
                self._agree()
                loss = self._step(*(plane.to(self._device, non_blocking=True) for plane in batch))
                now = time.monotonic()
                if self._average.steps % 100 == 0:
                    self._log(f"loss {float(loss):.4f}")
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
        return self._ends

    def _agree(self) -> None:
        """All processes end after the same step, and have the same rate and size of crops."""
        stops = self._stop or self._elapsed >= self._budget or time.monotonic() >= self._until
        self._ends = self._among.most(float(stops)) > 0
        self._progress = self._among.most(self._elapsed / self._budget)

    def _batches(self, side: int) -> Iterator[list[Tensor]]:
        """Yield batches of crops of `side` for as long as that is the side to train with."""
        crops = Crops(self._pack, side, seed=self._samples + SEED_STEP * self._among.rank)
        loader = DataLoader(
            crops,
            self._batch,
            num_workers=self._workers,
            prefetch_factor=4 if self._workers else None,
            pin_memory=self._device == "cuda",
            worker_init_fn=leave_signals_to_the_parent,
        )
        for batch in loader:
            yield batch
            if self._over or self._side != side:
                return

    def _step(self, images: Tensor, labels: Tensor, teacher: Tensor, classes: Tensor) -> Tensor:
        self._student.train(not self._folded)
        with torch.autocast(self._device, torch.bfloat16, enabled=self._half):
            seen = self._student.seen(normalised(images))
            logits, class_logits = self._student.heads(seen, alone=self._progress < self._alone)
        total = all_losses(logits, class_logits, labels, teacher, classes)
        repeating = max(0.0, 1 - self._progress / FEATURES_UNTIL)
        if self._example is not None and repeating:
            total += repeating * self._example.loss(self._student, seen.stages, images)
        total.backward()
        self._among.average(self._student.parameters())
        nn.utils.clip_grad_norm_(self._student.parameters(), 5.0)
        self._optimizer.step(warm_cosine(self._progress, WARM_UP))
        self._average.update(self._student.net)
        self._samples += len(images) * self._among.count
        return total.detach()

    def _report(self) -> None:
        if self._among.rank:
            return
        net = loaded(self._average.state)
        for name, pictures in self._held_out.items():
            self._log(
                f"{name} ({len(pictures)}) IoU {person_iou(net, pictures, fit_long(320)):.4f}"
            )

    def _log(self, text: str) -> None:
        if self._among.rank:
            return
        minutes = self._elapsed / 60
        print(
            f"{minutes:6.1f} min {self._progress:6.1%} {self._samples:7d} samples  {text}",
            flush=True,
        )


def leave_signals_to_the_parent(_worker: int) -> None:
    """Let a process that makes crops live on when Ctrl-C reaches the whole group."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def started_from(weights: Path) -> dict[str, Tensor]:
    """Return the float32 state dict of a checkpoint (.safetensors) to begin from."""
    from safetensors.torch import load_file

    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in load_file(weights).items()
    }


def train(options: argparse.Namespace, among: Together) -> None:
    """Train from the pack until all runs together have taken the minutes asked for."""
    # the workers are forked: OpenCV's threads must not have begun in this process by then
    cv2.setNumThreads(0)
    keep_freed_memory()
    torch.manual_seed(among.rank)
    options.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(options.pack, options.out, options, among)
    signal.signal(signal.SIGTERM, trainer.stop)
    signal.signal(signal.SIGINT, trainer.stop)
    trainer.run()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path, help="what person_data.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="held-out sets, to follow")
    parser.add_argument("--minutes", type=float, default=95, help="training time over all runs")
    parser.add_argument("--for", dest="only", type=float, help="minutes of this run alone")
    parser.add_argument("--start", type=Path, help="weights to begin with (.safetensors)")
    parser.add_argument("--distilled", type=Path, help="what distil_person.py wrote, likewise")
    parser.add_argument("--goes-on", type=Path, help="folder of a run that has ended, likewise")
    parser.add_argument("--fold", action="store_true", help="freeze batch normalisation, folded")
    parser.add_argument("--processes", type=int, default=1, help="that train, with a thread each")
    parser.add_argument("--side", type=int, help="of all crops, in pixels; else it grows")
    parser.add_argument("--device", choices=list(BATCH), default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes that make crops")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    together(train, options, options.processes)


if __name__ == "__main__":
    main()
