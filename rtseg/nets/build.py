"""Networks in torch: how their families build them, and how they run, from bytes to logits."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rtseg.errors import ModelError, first_line
from rtseg.options import imported
from rtseg.zoo import (
    FAMILIES,
    OPEN_FAMILIES,
    Family,
    InputSpec,
    ModelSpec,
    WeightsSpec,
    family_named,
)

SEED = 0

BACKBONES = {
    "mobilenet_v2": "MobileNet_V2",
    "mobilenet_v3_large": "MobileNet_V3_Large",
    "resnet50": "ResNet50",
    "resnet101": "ResNet101",
}
"""End of an architecture's name -> torchvision's name of its backbone's ImageNet weights."""


class SeamNetwork(nn.Module):
    """(N, h, w, 3) uint8 RGB -> (N, C, h/s, w/s) float32 logits, s being its output stride.

    The same function as the network before its last enlargement: enlarging these logits (bilinear,
    align_corners=False) to (h, w) gives the network's own output. That enlargement and the
    auxiliary head are never run. Two things are folded, both exactly:

    - Normalisation. `(v * scale - mean) / std` is `(v - mean/scale) * (scale/std)`. The factor goes
      into the first convolution's weights. The difference stays at the input: the convolution pads
      with zeros, which must mean "the mean colour"; as a bias of the convolution it would be wrong
      along the border.
    - Batch normalisation, into the convolution before it.

    The backbone of an open family may have several first convolutions, as RepVGG has, or an
    activation inside its normalisation. It is left as it is, behind a convolution of one pixel that
    takes the factor.

    Left out, as they measured no better on a CPU: a fourth channel of ones in place of the
    subtraction at the input; the pooled branch of DeepLabV3 as a bias of its projection.

    Args:
        network: as `build` makes it, its weights loaded; it is copied.
        spec: its architecture, and the normalisation and colour order that it was trained with.
        folded: False leaves batch normalisation apart.
    """

    offset: Tensor

    def __init__(self, network: nn.Module, spec: ModelSpec, *, folded: bool = True) -> None:
        super().__init__()
        family = family_of(spec.architecture)
        network = copy.deepcopy(network).eval().requires_grad_(False)
        self.backbone = network.get_submodule("backbone")
        self.classifier = network.get_submodule("classifier")
        if family.head:
            self.classifier = imported(family.head)(self.classifier)
        self._output = family.output
        if family.spec:
            same = nn.Conv2d(3, 3, 1, bias=False).requires_grad_(False)
            nn.init.dirac_(same.weight)
            self.backbone = nn.Sequential(same.to(next(network.parameters())), self.backbone)
        self._fold_input(spec.input)
        if folded:
            _fold_normalisation(self.classifier if family.spec else self)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of (N, h, w, 3) uint8 RGB images."""
        # in this order, as TensorRT takes bytes into a cast and nothing else
        centred = image.to(self.offset.dtype).permute(0, 3, 1, 2) - self.offset
        features = self.backbone(centred)
        logits: Tensor = self.classifier(features[self._output] if self._output else features)
        # float32 out of half precision; double stays double, for tests
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _fold_input(self, spec: InputSpec) -> None:
        first = next(m for m in self.backbone.modules() if isinstance(m, nn.Conv2d))
        weight = first.weight.data
        mean, std = (weight.new_tensor(v).view(1, 3, 1, 1) for v in (spec.mean, spec.std))
        first.weight.data = weight * (spec.scale / std)
        offset = mean / spec.scale
        if spec.colour == "BGR":  # trained on BGR: put its channels in the order of RGB
            first.weight.data = first.weight.data.flip(1).contiguous()
            offset = offset.flip(1).contiguous()
        self.register_buffer("offset", offset)


def _fold_normalisation(module: nn.Module) -> None:
    """Fuse each batch normalisation under `module` with the convolution just before it."""
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and previous and isinstance(previous[1], nn.Conv2d):
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
            setattr(module, name, nn.Identity())
        _fold_normalisation(child)
        previous = (name, child)


# --- building ------------------------------------------------------------------------------------


def family_of(architecture: str) -> Family:
    """The family of an architecture.

    Raises:
        ModelError: rtseg does not build it.
    """
    if (family := family_named(architecture)) is None:
        found = "rtseg builds " + ", ".join((*FAMILIES, *OPEN_FAMILIES))
        raise ModelError(f"unknown architecture {architecture!r}", found=found)
    return family


def build(architecture: str, num_classes: int, *, aux: bool = False) -> nn.Module:
    """A network, untrained, in evaluation mode; takes (N, 3, H, W) normalised images.

    Args:
        aux: add the auxiliary head for training, if the family has one.

    Raises:
        ModelError: rtseg does not build this architecture.
    """
    builder = imported(family_of(architecture).build)
    network: nn.Module = builder(architecture, num_classes, aux=aux)
    return network.eval()


def build_random(architecture: str, num_classes: int, seed: int = SEED) -> nn.Module:
    """The network with seeded random weights, whose activations are of the usual size.

    The statistics of its normalisation layers are those of one batch of random blots: with torch's
    initial ones, 101 layers of random weights overflow half precision, and a network that fell
    back to single precision would be timed. The caller's random state is untouched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(architecture, num_classes)
        # of shapeless noise, deep layers see the same everywhere, and a variance near zero would
        # blow up any other image
        blots = nn.functional.interpolate(torch.randn(4, 3, 6, 6), size=(96, 96), mode="nearest")
        _settle(network, blots + 0.5 * torch.randn(4, 3, 96, 96))
    return network


def _settle(network: nn.Module, batch: Tensor) -> None:
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


def backbone_weights(architecture: str) -> WeightsSpec:
    """Weights of the network's backbone, pretrained for classification.

    Raises:
        ModelError: none are published.
    """
    if not (place := family_of(architecture).backbone_weights):
        raise ModelError(f"no backbone weights are published for {architecture}")
    found: WeightsSpec = imported(place)(architecture)
    return found


def backbone_state(architecture: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a file as that of `backbone_weights`, under their names inside the network."""
    if not (place := family_of(architecture).backbone_state):
        return {}
    renamed: dict[str, Tensor] = imported(place)(architecture, state)
    return renamed


# --- torchvision's networks ----------------------------------------------------------------------


def build_torchvision(architecture: str, num_classes: int, *, aux: bool = False) -> nn.Module:
    """A segmentation network of torchvision; LRASPP has no auxiliary head."""
    builder: Any = getattr(segmentation(), architecture)
    options = {} if architecture.startswith("lraspp") else {"aux_loss": aux}
    network: nn.Module = builder(
        weights=None, weights_backbone=None, num_classes=num_classes, **options
    )
    return network


def imagenet_weights(architecture: str) -> WeightsSpec:
    """The ImageNet weights that torchvision's authors start this network from."""
    segmentation()  # makes torchvision importable, whatever its build
    import torchvision.models as tables

    end = next(end for end in BACKBONES if architecture.endswith(end))
    entry = getattr(tables, f"{BACKBONES[end]}_Weights").IMAGENET1K_V1
    digest = Path(entry.url).stem.rpartition("-")[2]
    return WeightsSpec(entry.url, digest, "BSD-3-Clause", entry.meta["_file_size"])


def imagenet_state(architecture: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's weights for classification, under their names inside a segmentation network."""
    return {
        f"backbone.{key.removeprefix('features.')}": value
        for key, value in state.items()
        if not key.startswith(("fc.", "classifier."))
    }


class LowClassHead(nn.Module):
    """torchvision's `LRASPPHead`, classifying its coarse features before it enlarges them.

    A 1x1 convolution works on each point alone, and bilinear weights sum to one, so the two
    commute, bias included. Planes of classes are enlarged instead of 128 of features, and a
    quarter of the points is classified: 2 to 3 % of the network's time on a CPU.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.cbr = head.get_submodule("cbr")
        self.scale = head.get_submodule("scale")
        self.low_classifier = head.get_submodule("low_classifier")
        self.high_classifier = head.get_submodule("high_classifier")

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Scores of both feature maps, summed at the size of the finer one."""
        low, high = features["low"], features["high"]
        coarse = self.high_classifier(self.cbr(high) * self.scale(high))
        size = low.shape[-2:]
        fine = nn.functional.interpolate(coarse, size, mode="bilinear", align_corners=False)
        scores: Tensor = self.low_classifier(low) + fine
        return scores


def segmentation() -> ModuleType:
    """The module `torchvision.models.segmentation`.

    A CPU build of torch beside a CUDA build of torchvision (both are what their indexes give by
    default) cannot load torchvision's compiled library; importing torchvision then fails where it
    registers shapes for operators that do not exist ("operator torchvision::nms does not exist").
    Our networks need none of these operators, so their schemas are declared, without an
    implementation, and torchvision is imported again from the start.

    Raises:
        ModelError: torchvision cannot be imported for another reason.
    """
    try:
        import torchvision.models.segmentation as module
    except ImportError as error:
        raise _broken(error) from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise _broken(error) from error
        module = _import_again()
    return module


_declared: list[Any] = []  # a torch.library.Library takes its schemas back when it is collected


def _import_again() -> ModuleType:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported: what ran before the failure must run again
    try:
        import torchvision.models.segmentation as module
    except (ImportError, RuntimeError) as error:
        raise _broken(error) from error
    return module


def _broken(error: Exception) -> ModelError:
    return ModelError(
        "cannot import torchvision",
        found=first_line(error),
        do="Install the torchvision release that belongs to the installed torch",
    )
