"""The network that learns: one step, one measurement, and the state that goes on from there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rtseg.errors import BackendError
from rtseg.train.batches import Batch, Loader, batches
from rtseg.train.figures import Figures, Validation
from rtseg.train.lightning_import import Fabric
from rtseg.train.loss import make_optimizer, training_loss
from rtseg.train.settings import Settings


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
