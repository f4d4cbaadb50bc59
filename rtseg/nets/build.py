"""The six segmentation networks of torchvision, by their builder names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rtseg.errors import ModelError
from rtseg.nets.torchvision_import import segmentation

LAST_LAYER = {
    "deeplabv3_resnet50": "classifier.4.weight",
    "deeplabv3_resnet101": "classifier.4.weight",
    "deeplabv3_mobilenet_v3_large": "classifier.4.weight",
    "fcn_resnet50": "classifier.4.weight",
    "fcn_resnet101": "classifier.4.weight",
    "lraspp_mobilenet_v3_large": "classifier.low_classifier.weight",
}
"""Builder names, and the weight in whose first axis the classes are."""

SEED = 0


def build(architecture: str, num_classes: int) -> nn.Module:
    """torchvision's network, untrained, in evaluation mode, without its auxiliary head.

    Its modules are `backbone` and `classifier`; it takes (N, 3, H, W) normalised RGB.

    Raises:
        ModelError: there is no such builder.
    """
    if architecture not in LAST_LAYER:
        known = ", ".join(LAST_LAYER)
        raise ModelError(f"unknown architecture {architecture!r}", found=f"rtseg builds {known}")
    builder: Any = getattr(segmentation(), architecture)
    network: nn.Module = builder(weights=None, weights_backbone=None, num_classes=num_classes)
    return network.eval()


def build_random(architecture: str, num_classes: int, seed: int = SEED) -> nn.Module:
    """The network with seeded random weights, whose activations are of the usual size.

    The statistics of its normalisation layers are those of one batch of random blots: with the
    ones that torch starts from, 101 layers of random weights overflow half precision, and a
    network that fell back to single precision would be timed. The caller's random numbers are
    untouched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(architecture, num_classes)
        # blots of colour: of noise without shape, deep layers see the same everywhere, and a
        # variance of almost nothing would blow up the picture of anything else
        blots = nn.functional.interpolate(torch.randn(4, 3, 6, 6), size=(96, 96), mode="nearest")
        _settle(network, blots + 0.5 * torch.randn(4, 3, 96, 96))
    return network


def _settle(network: nn.Module, batch: torch.Tensor) -> None:
    """Set every normalisation layer's statistics to those of `batch`."""
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()
