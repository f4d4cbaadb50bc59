"""The network that learns: one step, one measurement, and the state that goes on from there."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rtseg.datasets import Sample
from rtseg.datasets.contract import Table
from rtseg.errors import BackendError, UsageError
from rtseg.frame import VOID
from rtseg.labels import LabelSet
from rtseg.metrics import ConfusionMatrix
from rtseg.train.batches import Batch, Loader, batches
from rtseg.train.lightning_import import Fabric, MulticlassConfusionMatrix, SumMetric
from rtseg.train.settings import Settings

POLY_POWER = 0.9
"""Of the schedule of DeepLab (Chen et al., 2017, arXiv:1606.00915)."""


def pixel_loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over the labelled pixels, and what to divide it by for their mean.

    Apart, so that a batch without a labelled pixel counts for nothing instead of 0/0, and means
    over many batches are exact.

    Args:
        logits: (N, C, h, w).
        labels: (N, h, w) int64; 255 is not counted.
        weights: (C,) of the classes, or None.
    """
    total = nn.functional.cross_entropy(
        logits, labels, weight=weights, ignore_index=VOID, reduction="sum"
    )
    known = labels[labels != VOID]
    count = (
        weights[known].sum()
        if weights is not None
        else torch.tensor(float(known.numel())).to(total)
    )
    return total, count


def training_loss(
    outputs: Mapping[str, Tensor], labels: Tensor, weights: Tensor | None, aux_weight: float
) -> Tensor:
    """Mean cross-entropy of the network's output, plus `aux_weight` times its auxiliary head's."""
    tiny = torch.finfo(torch.float32).tiny
    means = {
        name: total / count.clamp(min=tiny)
        for name, output in outputs.items()
        for total, count in [pixel_loss(output, labels, weights)]
    }
    return means["out"] + aux_weight * means["aux"] if "aux" in means else means["out"]


def make_optimizer(settings: Settings, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that was asked for."""
    lr, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=settings.momentum, weight_decay=decay)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr, weight_decay=decay)


def schedule(kind: str, steps: int) -> Callable[[int], float]:
    """By what the learning rate is multiplied at a step, counted from 0, of so many.

    A function of the step alone: a run that is resumed needs nothing else to go on.
    """
    if kind == "poly":
        return lambda step: max(0.0, 1 - step / steps) ** POLY_POWER
    if kind == "cosine":
        return lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return lambda step: 1.0


def class_weights(
    asked: str, labels: LabelSet, samples: Sequence[Sample], table: Table
) -> tuple[float, ...] | None:
    """A weight per class for the loss: none, those given, or by median frequency.

    "auto" is median frequency balancing (Eigen and Fergus, 2015, arXiv:1411.4734): the median of
    the classes' shares over a class's own, a share being taken over the pictures that have the
    class. A class that is in no picture weighs 1.

    Raises:
        UsageError: they cannot be read, or are not one positive number per class.
    """
    if asked == "none":
        return None
    if asked == "auto":
        return _balanced(len(labels), samples, table)
    return given_weights(asked, labels)


def given_weights(asked: str, labels: LabelSet) -> tuple[float, ...]:
    """The weights that were written out, one per class.

    Raises:
        UsageError: they cannot be read, or are not one positive number per class.
    """
    try:
        given = tuple(float(part) for part in asked.split(","))
    except ValueError:
        given = ()
    if len(given) != len(labels) or not all(0 <= w < math.inf for w in given) or not any(given):
        raise UsageError(
            f"--class-weights {asked}",
            found=f"it is none, auto, or {len(labels)} numbers with commas between, for "
            + ", ".join(labels.names),
        )
    return given


def _balanced(count: int, samples: Sequence[Sample], table: Table) -> tuple[float, ...]:
    pixels, room = np.zeros(count), np.zeros(count)
    for sample in samples:
        found = np.bincount(sample.read_as(table).ravel(), minlength=256)[:count]
        pixels += found
        room += found.sum() * (found > 0)
    shares = np.divide(pixels, room, out=np.full(count, np.nan), where=room > 0)
    weights = np.nanmedian(shares) / shares
    return tuple(float(w) for w in np.nan_to_num(weights, nan=1.0))


@dataclass(frozen=True)
class Figures:
    """What a validation found.

    Attributes:
        loss: mean cross-entropy of the labelled pixels; NaN where there are none.
        matrix: of truth and prediction.
    """

    loss: float
    matrix: ConfusionMatrix


class Validation(nn.Module):
    """Adds up batches; `compute` adds up the processes.

    torchmetrics keeps the counts where the network is, and sums them over all processes.
    """

    def __init__(self, num_classes: int, weights: Tensor | None = None) -> None:
        super().__init__()
        self.weights = weights
        self.counts = MulticlassConfusionMatrix(num_classes, ignore_index=VOID, validate_args=False)
        # not torchmetrics' MeanMetric: told to leave NaN alone, it leaves the weights alone too
        self.loss = SumMetric(nan_strategy="disable")
        self.pixels = SumMetric(nan_strategy="disable")

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: (N, C, h, w) logits at the labels' size, (N, h, w) int64 labels."""
        total, count = pixel_loss(logits.float(), labels, self.weights)
        self.loss.update(total)
        self.pixels.update(count)
        self.counts.update(logits.argmax(1), labels)

    def compute(self) -> Figures:
        """The figures of all that every process added; every process must ask."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a process may have added nothing
            counts = self.counts.compute()
            loss, pixels = float(self.loss.compute()), float(self.pixels.compute())
        matrix = ConfusionMatrix(len(counts))
        matrix.counts[:, :-1] = counts.cpu().to(torch.int64).numpy()
        return Figures(loss / pixels if pixels else float("nan"), matrix)


class Learner:
    """A network with its optimizer, on its device, in its precision.

    Args:
        fabric: launched.
        network: torchvision's, in training mode, perhaps with its auxiliary head.
        num_classes: of the network.
        weights: one per class for the loss, or None.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        settings: Settings,
        num_classes: int,
        weights: tuple[float, ...] | None = None,
    ) -> None:
        self.fabric, self._num_classes, self._aux = fabric, num_classes, settings.aux_weight
        self.network = _suited(network, fabric)
        optimizer = make_optimizer(settings, self.network.parameters())
        self._module, self.optimizer = fabric.setup(self.network, optimizer)
        self._average = None
        if settings.ema is not None:
            mean = get_ema_multi_avg_fn(settings.ema)
            self._average = AveragedModel(self.network, multi_avg_fn=mean, use_buffers=True)
        self._weights = None if weights is None else fabric.to_device(torch.tensor(weights))

    @property
    def kept(self) -> nn.Module:
        """The network that is measured and kept: the moving average where there is one."""
        return self.network if self._average is None else self._average.module

    def learning(self) -> None:
        """Switch to training mode."""
        self._module.train()

    def step(self, batch: Batch, learning_rate: float) -> float:
        """One step of the optimizer; returns the batch's loss before it.

        Raises:
            BackendError: the loss is no longer a number.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        pictures, labels = self.fabric.to_device(batch)
        self.optimizer.zero_grad()
        loss = training_loss(self._module(pictures), labels, self._weights, self._aux)
        value = loss.item()
        if not math.isfinite(value):
            raise BackendError(f"the loss is {value}", do="Try a smaller --lr, or --precision fp32")
        self.fabric.backward(loss)
        self.optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self.network)
        return value

    @torch.no_grad()
    def measure(self, loader: Loader, stop: Callable[[], bool]) -> Figures | None:
        """Figures of `kept` over the pictures of every process; None if asked to stop."""
        network = self.kept.eval()
        if self.fabric.world_size > 1:
            _agree(network)
        validation = Validation(self._num_classes, self._weights)
        counted: Validation = self.fabric.to_device(validation)
        for batch in batches(loader):
            pictures, labels = self.fabric.to_device(batch)
            with self.fabric.autocast():
                logits = network(pictures)["out"]
            counted.add(logits, labels)
            if self.fabric.world_size == 1 and stop():
                return None
        return None if self.asked(stop) else counted.compute()

    def asked(self, stop: Callable[[], bool]) -> bool:
        """Whether any of the processes was asked to stop: they end together."""
        if self.fabric.world_size == 1:
            return stop()
        asked = torch.tensor(float(stop()), device=self.fabric.device)
        return bool(self.fabric.all_reduce(asked, reduce_op="sum") > 0)

    def mean(self, value: float) -> float:
        """Of every process's `value`; every process must ask."""
        if self.fabric.world_size == 1:
            return value
        return float(self.fabric.all_reduce(torch.tensor(value, device=self.fabric.device)))

    def weights(self) -> dict[str, Tensor]:
        """Those of `kept`, on the CPU, without the auxiliary head, which never runs live."""
        return {
            key: value.detach().cpu().clone()
            for key, value in self.kept.state_dict().items()
            if not key.startswith("aux_classifier.")
        }

    def state(self) -> dict[str, Any]:
        """All that `load` needs to go on as if nothing had happened."""
        return {
            "network": self.network.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take what `state` gave; raises KeyError, ValueError or RuntimeError if it cannot."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])


def _suited(network: nn.Module, fabric: Fabric) -> nn.Module:
    """The network as GPUs like it: channels last, batch statistics over all of them."""
    if fabric.device.type != "cuda":
        return network
    if fabric.world_size > 1:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return,unused-ignore]


def _agree(network: nn.Module) -> None:
    """Give every process the first one's running statistics, as the checkpoint will have them."""
    for buffer in network.buffers():
        torch.distributed.broadcast(buffer, 0)
