"""The network in training: device and precision (Lightning Fabric), loss, one step, validation."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rtseg.backends.options import parse_device
from rtseg.documents import convert
from rtseg.errors import BackendError, DeviceError, UsageError
from rtseg.figures import import_matplotlib
from rtseg.gpu import cuda_missing, has_cuda
from rtseg.labels import VOID
from rtseg.metrics import ConfusionMatrix
from rtseg.nets.build import segmentation
from rtseg.nets.state import TRAINING_ONLY
from rtseg.system import GPU_UNUSED, native_precisions, nvidia_driver
from rtseg.training.batches import Batch, Loader, batches
from rtseg.training.depthwise import with_fast_gradients
from rtseg.training.losses import Recipe, pixel_loss
from rtseg.training.options import TrainOptions

# Fabric and torchmetrics import torchvision, which may need help where its operators do not load,
# and matplotlib.
segmentation()
import_matplotlib()

from lightning.fabric import Fabric  # noqa: E402
from torchmetrics import SumMetric  # noqa: E402
from torchmetrics.classification import MulticlassConfusionMatrix  # noqa: E402

PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""Our precision -> Fabric's."""

POLY_POWER = 0.9
"""Exponent of DeepLab's schedule (Chen et al., 2017, arXiv:1606.00915)."""


def open_fabric(options: TrainOptions) -> tuple[Fabric, str]:
    """Fabric for the device and precision of the options, not yet launched, and its precision.

    Training does not fall back to another device: it would take days instead of hours.

    Raises:
        UsageError: torch cannot train on this device, or not in this precision.
        DeviceError: the device does not exist.
    """
    family, number = parse_device(options.device)
    if family == "auto":
        family = "cuda" if has_cuda() else "cpu"
        if family == "cpu" and torch.backends.mps.is_available() and options.devices == 1:
            family = "mps"
    _check_device(family, number, options.devices)
    precision = _precision(family, options.precision)
    first = range(number, number + options.devices)
    devices: Any = list(first) if family == "cuda" else options.devices
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)  # rtseg reports this itself
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about devices that are not used
        fabric = Fabric(
            accelerator=family,
            devices=devices,
            precision=PRECISIONS[precision],
            strategy=_strategy(options),
        )
    return fabric, precision


def _strategy(options: TrainOptions) -> str:
    if options.devices == 1:
        return "auto"
    return "ddp_find_unused_parameters_true" if options.freeze else "ddp"


def describe(fabric: Fabric, precision: str) -> str:
    """Device, precision and processes in one line."""
    device = fabric.device
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    mixed = "" if precision == "fp32" else " mixed"
    many = f", {fabric.world_size} processes" if fabric.world_size > 1 else ""
    return f"{device}{name}, {precision}{mixed}{many}"


def unused_gpu(options: TrainOptions, fabric: Fabric) -> str:
    """Why the CPU is used although there is an NVIDIA driver; "" if it is not."""
    if options.device != "auto" or fabric.device.type != "cpu" or not nvidia_driver():
        return ""
    return f"{GPU_UNUSED}: {cuda_missing(0)}; rtseg doctor says what to do"


def _check_device(family: str, number: int, devices: int) -> None:
    if family not in ("cpu", "cuda", "mps"):
        raise UsageError(f"--device {family}", found="training runs on cpu, cuda and mps")
    have = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if number + devices > have.get(family, number + devices):
        asked = f"{devices} {family} device{'s' if devices > 1 else ''} from {family}:{number} on"
        raise DeviceError(
            asked if family == "cuda" else f"{devices} of {family}",
            found=f"torch {torch.__version__} finds {have[family]}",
            do="Run rtseg doctor to see what is available",
        )


def _precision(family: str, requested: str) -> str:
    if requested == "auto":
        if family == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        return "bf16" if family == "cpu" and _cpu_gains_from_bf16() else "fp32"
    if requested == "fp16" and family != "cuda":
        raise UsageError(
            f"--precision fp16 on {family}",
            found="its loss scaling needs an NVIDIA GPU",
            do="Use bf16 or fp32",
        )
    return requested


def _cpu_gains_from_bf16() -> bool:
    """Whether bf16 is faster: without hardware support torch converts every value, 10x slower."""
    return "bf16" in native_precisions() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@dataclass(frozen=True)
class Figures:
    """The result of a validation.

    Attributes:
        loss: mean cross-entropy of the labelled pixels; NaN if there are none.
    """

    loss: float
    matrix: ConfusionMatrix


class Validation(nn.Module):
    """Sums up batches on the device, and processes in `compute`, with torchmetrics."""

    def __init__(self, num_classes: int, weights: Tensor | None = None) -> None:
        super().__init__()
        self.weights = weights
        self.counts = MulticlassConfusionMatrix(num_classes, ignore_index=VOID, validate_args=False)
        # not torchmetrics' MeanMetric, which with nan_strategy="disable" ignores weights too
        self.loss = SumMetric(nan_strategy="disable")
        self.pixels = SumMetric(nan_strategy="disable")

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: (N, C, h, w) logits at the labels' size, (N, h, w) int64 labels."""
        total, count = pixel_loss(logits.float(), labels, self.weights)
        self.loss.update(total)
        self.pixels.update(count)
        self.counts.update(logits.argmax(1), labels)

    def compute(self) -> Figures:
        """The figures over all processes; every process must call this."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about a process that added nothing
            counts = self.counts.compute()
            loss, pixels = float(self.loss.compute()), float(self.pixels.compute())
        matrix = ConfusionMatrix(len(counts))
        matrix.counts[:, :-1] = counts.cpu().to(torch.int64).numpy()
        return Figures(loss / pixels if pixels else float("nan"), matrix)


class Trainable:
    """A network with its optimizer, on its device, in its precision.

    Args:
        fabric: launched.
        network: torchvision's, in training mode, with or without its auxiliary head.
        recipe: of the loss.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        options: TrainOptions,
        num_classes: int,
        recipe: Recipe,
    ) -> None:
        self.fabric, self._num_classes, self._recipe = fabric, num_classes, recipe
        self._options = options
        self.network = _laid_out(network, fabric)
        optimizer = make_optimizer(options, self.network)
        self._module, self.optimizer = fabric.setup(self.network, optimizer)
        self._average = None
        if options.ema is not None:
            mean = moving_average(options.ema)
            self._average = AveragedModel(self.network, multi_avg_fn=mean, use_buffers=True)

    @property
    def final(self) -> nn.Module:
        """The network that is validated and saved: the moving average if there is one."""
        return self.network if self._average is None else self._average.module

    def train_mode(self, *, frozen: bool = False) -> None:
        """Switch to training mode; `frozen` leaves the backbone as it is, statistics included."""
        self._module.train()
        backbone = self.network.get_submodule("backbone")
        backbone.requires_grad_(not frozen)
        if frozen:
            backbone.eval()

    def step(self, batch: Batch, learning_rate: float) -> float:
        """Take one optimizer step, in `accumulate` parts; returns the batch's loss before it.

        Raises:
            BackendError: the loss is no longer a number.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["factor"]
        self.optimizer.zero_grad()
        parts = list(zip(*(part.chunk(self._options.accumulate) for part in batch), strict=True))
        value = 0.0
        for i, part in enumerate(parts):
            images, labels, *soft = self.fabric.to_device(part)
            with self.fabric.no_backward_sync(self._module, enabled=i < len(parts) - 1):
                loss = self._recipe.loss(self._module(images), labels, *soft) / len(parts)
                value += loss.item()
                self.fabric.backward(loss)
        if not math.isfinite(value):
            raise BackendError(f"the loss is {value}", do="Try a smaller --lr, or --precision fp32")
        if self._options.clip is not None:
            self.fabric.clip_gradients(self._module, self.optimizer, max_norm=self._options.clip)
        self.optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self.network)
        return value

    @torch.no_grad()
    def measure(self, loader: Loader, stop: Callable[[], bool]) -> Figures | None:
        """Validate `final` over the images of all processes; None if stopped."""
        network = self.final.eval()
        if self.fabric.world_size > 1:
            _broadcast_buffers(network)
        validation = Validation(self._num_classes, self._recipe.classes)
        counted: Validation = self.fabric.to_device(validation)
        for batch in batches(loader):
            images, labels = self.fabric.to_device(batch)
            with self.fabric.autocast():
                logits = network(images)["out"]
            counted.add(logits, labels)
            if self.fabric.world_size == 1 and stop():
                return None
        return None if self.any_stopped(stop) else counted.compute()

    @torch.no_grad()
    def predict(self, images: Tensor) -> NDArray[np.uint8]:
        """The (N, h, w) class indices that `final` gives (N, 3, h, w) input."""
        network = self.final.eval()
        with self.fabric.autocast():
            logits = network(self.fabric.to_device(images))["out"]
        predicted: NDArray[np.uint8] = logits.argmax(1).to(torch.uint8).cpu().numpy()
        return predicted

    def any_stopped(self, stop: Callable[[], bool]) -> bool:
        """Whether any process should stop: they stop together."""
        if self.fabric.world_size == 1:
            return stop()
        stopped = torch.tensor(float(stop()), device=self.fabric.device)
        return bool(self.fabric.all_reduce(stopped, reduce_op="sum") > 0)

    def mean(self, value: float) -> float:
        """The mean of every process's `value`; every process must call this."""
        if self.fabric.world_size == 1:
            return value
        return float(self.fabric.all_reduce(torch.tensor(value, device=self.fabric.device)))

    def weights(self) -> dict[str, Tensor]:
        """The weights of `final`, on the CPU, without heads that serve training only."""
        return {
            key: value.detach().cpu().clone()
            for key, value in self.final.state_dict().items()
            if not key.startswith(TRAINING_ONLY)
        }

    def state(self) -> dict[str, Any]:
        """Everything that `load` needs to continue exactly."""
        return {
            "network": self.network.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
        }

    def load(self, state: dict[str, Any], steps: int) -> None:
        """Restore what `state` returned after so many steps.

        Raises:
            Exception: of any type, as torch raises many for what is of another run.
        """
        _check_numbers("its weights", state["network"].items())
        self.network.load_state_dict(state["network"])
        optimizer = self.optimizer.optimizer  # Fabric's copy of its attributes is older
        usual = [_settings(group) for group in optimizer.param_groups]
        optimizer.load_state_dict(state["optimizer"])
        if [_settings(group) for group in optimizer.param_groups] != usual:
            raise ValueError("the settings of its optimizer are others")
        for weight, values in optimizer.state.items():
            kept = {name: value for name, value in values.items() if value is not None}
            _check_numbers("what its optimizer remembers", kept.items())
            if any(value.shape not in (weight.shape, ()) for value in kept.values()):
                raise ValueError("what its optimizer remembers is of other weights")
            _check_count("its optimizer", kept.get("step", 0), steps)
        self._load_scaler(convert(state["scaler"], dict[str, float], "its scaler"))
        if (state["average"] is None) != (self._average is None):
            raise ValueError("it has a moving average, or lacks it")
        if self._average is not None:
            _check_numbers("its moving average", state["average"].items())
            self._average.load_state_dict(state["average"])
            _check_count("its moving average", self._average.n_averaged, steps)

    def _load_scaler(self, saved: dict[str, float]) -> None:
        precision = self.fabric.strategy.precision
        usual = precision.state_dict()
        if not all(0 <= value < math.inf for value in saved.values()) or saved.get("scale") == 0:
            raise ValueError("its loss scaling is not of positive numbers")
        if usual and saved:  # else one of the two is a run without it, on another device
            precision.load_state_dict({name: type(usual[name])(saved[name]) for name in usual})


def _check_numbers(what: str, tensors: Iterable[tuple[str, Any]]) -> None:
    """Raise ValueError for what is not a tensor of finite numbers."""
    for name, value in tensors:
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_complex():
            raise ValueError(f"{what}: {name} is not plain numbers")
        if not torch.isfinite(value).all():
            raise ValueError(f"{what}: {name} holds infinite or undefined numbers (NaN)")


def _check_count(what: str, count: Tensor | int, steps: int) -> None:
    if not 0 <= float(count) <= steps:
        raise ValueError(f"{what} counts {float(count):g} of {steps} steps")


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """Of a group of an optimizer's weights, what no step changes."""
    return {name: value for name, value in group.items() if name not in ("params", "lr")}


def _laid_out(network: nn.Module, fabric: Fabric) -> nn.Module:
    """Channels last, faster on CPUs too, and on GPUs batch statistics over all processes."""
    if fabric.device.type == "cuda" and fabric.world_size > 1:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    if fabric.device.type == "mps":
        return network
    if fabric.device.type == "cpu":
        network = with_fast_gradients(network)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return,unused-ignore]


def _broadcast_buffers(network: nn.Module) -> None:
    """Give every process the main process's running statistics, as saved in the checkpoint."""
    for buffer in network.buffers():
        torch.distributed.broadcast(buffer, 0)


def make_optimizer(options: TrainOptions, network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of the options; "factor" of a group multiplies its learning rate."""
    lr, decay = options.learning_rate, options.weight_decay
    backbone = [p for name, p in network.named_parameters() if name.startswith("backbone.")]
    others = [p for name, p in network.named_parameters() if not name.startswith("backbone.")]
    groups = [
        {"params": parameters, "factor": factor}
        for parameters, factor in ((backbone, options.backbone_lr), (others, 1.0))
        if parameters
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr, momentum=options.momentum, weight_decay=decay)
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr, weight_decay=decay)


def moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """The update of a moving average that follows closely at first, so that short runs have one.

    After n updates it decays by min(decay, (n + 1) / (n + 10)), as TensorFlow's with `num_updates`.
    """

    def update(averages: Any, values: Any, count: Any) -> None:
        done = int(count)
        get_ema_multi_avg_fn(min(decay, (done + 1) / (done + 10)))(averages, values, count)

    return update


def schedule(kind: str, steps: int, warmup: int = 0) -> Callable[[int], float]:
    """The factor on the learning rate at a step, counted from 0, of `steps`.

    It rises evenly for `warmup` steps, then follows `kind`. Depends only on the step, so that a
    resumed run needs no other state.
    """

    def falling(step: int) -> float:
        if kind == "poly":
            return max(0.0, 1 - step / steps) ** POLY_POWER
        if kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
        return 1.0

    return lambda step: min(1.0, (step + 1) / (warmup + 1)) * falling(step)
