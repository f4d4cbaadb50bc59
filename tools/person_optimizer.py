"""How train_person.py takes its steps: Muon for what mixes channels, AdamW for everything else."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the polynomial that drives singular values towards 1, and how often it is applied."""

ROUNDS = 5
FEWEST_CHANNELS = 16


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonal matrices, for weights of pointwise convolutions.

    Every direction of the weights moves equally far, also those that few pictures ask for. A step
    is as large as one of AdamW with the same rate. After Jordan et al., "Muon: An optimizer for
    hidden layers in neural networks", 2024, and for that size Liu et al., "Muon is scalable for LLM
    training", 2025.
    """

    def __init__(
        self, weights: Iterable[Tensor], lr: float, weight_decay: float, *, half: bool = False
    ) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay})
        self._type = torch.bfloat16 if half else torch.float32

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move all weights that have a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
                ahead = weight.grad.lerp(momentum, MOMENTUM).flatten(1)
                size = 0.2 * math.sqrt(max(ahead.shape))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                way = orthogonal(ahead, self._type).view_as(weight)
                weight.add_(way, alpha=-group["lr"] * size)


def orthogonal(matrix: Tensor, counted_in: torch.dtype = torch.float32) -> Tensor:
    """Return (M,N) `matrix` with all its singular values near 1: between 0.7 and 1.2.

    bfloat16 is exact enough to count in, and of half the time where the processor has it.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    found = ((matrix if wide else matrix.T) / (matrix.norm() + 1e-12)).to(counted_in)
    linear, cubic, fifth = COEFFICIENTS
    for _ in range(ROUNDS):
        square = found @ found.T
        found = linear * found + (cubic * square + fifth * (square @ square)) @ found
    return (found if wide else found.T).to(matrix.dtype)


class Both:
    """Two optimizers as one; rates are shares of each one's peak.

    Args:
        module: what is trained.
        mixing: those of its weights that get `Muon`.
        peak, muon_peak: highest rates of AdamW, and of Muon.
        half: Muon counts in bfloat16.
    """

    def __init__(
        self,
        module: nn.Module,
        mixing: Sequence[nn.Parameter],
        *,
        peak: float,
        muon_peak: float,
        weight_decay: float,
        half: bool = False,
    ) -> None:
        known = {id(weight) for weight in mixing}
        others = [p for p in module.parameters() if id(p) not in known]
        # neither biases nor normalisation decay
        groups = [
            {"params": [p for p in others if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
        ]
        adam = torch.optim.AdamW(groups, lr=peak, fused=True)
        self._peaks = {"adam": peak, "muon": muon_peak}
        self._each: dict[str, torch.optim.Optimizer] = {
            "adam": adam,
            "muon": Muon(mixing, muon_peak, weight_decay, half=half),
        }

    def step(self, share: float) -> None:
        """Take one step at `share` of the highest rates, and forget the gradients."""
        for name, one in self._each.items():
            for group in one.param_groups:
                group["lr"] = share * self._peaks[name]
            one.step()
            one.zero_grad()

    def state_dict(self) -> dict[str, dict]:
        """Return what goes on where this one ends."""
        return {name: one.state_dict() for name, one in self._each.items()}

    def load_state_dict(self, state: dict[str, dict]) -> None:
        """Go on where `state` ended."""
        for name, one in self._each.items():
            one.load_state_dict(state[name])


def mixing_weights(module: nn.Module) -> list[nn.Parameter]:
    """Return the weights of pointwise convolutions between many channels."""
    return [
        part.weight
        for part in module.modules()
        if isinstance(part, nn.Conv2d)
        and part.kernel_size == (1, 1)
        and part.groups == 1
        and min(part.weight.shape[:2]) >= FEWEST_CHANNELS
    ]
