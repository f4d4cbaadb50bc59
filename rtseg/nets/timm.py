"""Backbones of timm (PyTorch Image Models) under the top-down decoder of `rtseg.nets.lite`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from rtseg.errors import ModelError, UsageError, first_line
from rtseg.nets.build import segmentation
from rtseg.nets.lite import DECODER, Decoder, Network
from rtseg.text import did_you_mean
from rtseg.zoo import InputSpec, ModelSpec, WeightsSpec

TRIED = (80, 112)
"""(height, width) of an image that a new backbone is tried on: multiples of 16, but not of 32."""


class Backbone(nn.Module):
    """A network of timm that gives its features by output stride, channels first.

    Raises:
        ModelError: it has no features at strides 4 to 32, or takes only images of its own size.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        with _refusing(name):
            self.net = library().create_model(name, pretrained=False, features_only=True)
            strides = [str(stride) for stride in self.net.feature_info.reduction()]
            if lacking := [level for level in DECODER if level not in strides]:
                raise ValueError(f"it has no features at stride {', '.join(reversed(lacking))}")
        self.places = {level: strides.index(level) for level in DECODER}
        channels = self.net.feature_info.channels()
        self.channels = {level: channels[place] for level, place in self.places.items()}
        with _refusing(name, "it does not take images of any size: "):
            self.channels_last = self._channels_last()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Features of (N, 3, H, W) images by output stride."""
        features = self.net(image)
        taken = {level: features[place] for level, place in self.places.items()}
        if self.channels_last:
            taken = {level: x.permute(0, 3, 1, 2) for level, x in taken.items()}
        return taken

    def _channels_last(self) -> bool:
        """Whether its features are (N, h, w, C), found by running it once."""
        training = self.net.training
        with torch.no_grad():
            x = self.net.eval()(torch.zeros(1, 3, *TRIED))[self.places["16"]]
        self.net.train(training)
        wide, size = self.channels["16"], (TRIED[0] // 16, TRIED[1] // 16)
        if tuple(x.shape[1:]) not in ((wide, *size), (*size, wide)):
            raise ValueError(f"its features are {tuple(x.shape)}")
        return tuple(x.shape[1:]) == (*size, wide)


@contextmanager
def _refusing(name: str, why: str = "") -> Iterator[None]:
    """What timm raises for a network that cannot do this, as a ModelError."""
    try:
        yield
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ModelError(f"{name} as a backbone", found=why + first_line(error)) from error


def build_timm(architecture: str, num_classes: int, *, aux: bool = False) -> nn.Module:
    """`fpn_timm:NAME`; it has no auxiliary head.

    Raises:
        UsageError: timm is not installed.
        ModelError: timm has no such network, or it cannot be a backbone.
    """
    backbone = Backbone(_name(architecture))
    return Network(backbone, Decoder(backbone.channels, num_classes))


def timm_spec(architecture: str) -> ModelSpec:
    """`fpn_timm:NAME` before training, with the normalisation that NAME was pretrained with.

    Raises:
        UsageError: timm is not installed.
        ModelError: timm has no such network.
    """
    config = _config(architecture)
    mean, std = tuple(config.mean), tuple(config.std)
    size = InputSpec((512, 512), mean=mean, std=std)
    return ModelSpec(architecture, architecture, input=size, licence="Apache-2.0")


def timm_weights(architecture: str) -> WeightsSpec:
    """Never returns: timm publishes no digests, and downloads its weights itself.

    Raises:
        ModelError: always, with how to save the weights.
    """
    name = _name(architecture)
    saving = f"torch.save(timm.create_model({name!r}, pretrained=True).state_dict(), 'timm.pth')"
    raise ModelError(
        f"no weights for {architecture}",
        found="rtseg does not download those of timm",
        do=f'Save them: python -c "import timm, torch; {saving}", and start from --weights '
        "timm.pth; or from --weights scratch",
    )


def timm_state(architecture: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's weights of a classifier, under their names inside the network.

    timm joins the first two parts of some names where a network gives features: `stages.0.` is
    `stages_0.`
    """
    theirs = dict(state)
    for key, value in state.items():
        first, _, rest = key.partition(".")
        second, _, rest = rest.partition(".")
        theirs.setdefault(f"{first}_{second}.{rest}", value)
    own = Backbone(_name(architecture)).net.state_dict()
    return {f"backbone.net.{key}": theirs[key] for key in own if key in theirs}


def library() -> ModuleType:
    """The module `timm`.

    Raises:
        UsageError: it is not installed.
    """
    segmentation()  # makes torchvision importable, whatever its build
    try:
        import timm
    except ImportError as error:
        raise UsageError(
            "backbones of timm need the package timm",
            found=first_line(error),
            do='Install it: python -m pip install "rtseg[timm]"',
        ) from error
    module: ModuleType = timm
    return module


def _name(architecture: str) -> str:
    """timm's name of a backbone, which may end in the tag of its weights."""
    _config(architecture)
    return architecture.partition(":")[2]


def _config(architecture: str) -> Any:
    """timm's facts on a backbone, as it has them at hand: a name from a file downloads nothing."""
    name = architecture.partition(":")[2]
    timm = library()
    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        plain = name.partition(".")[0]
        raise ModelError(
            f"unknown backbone {name[:80]!r}",
            found="timm has none of this name",
            do=did_you_mean(plain, timm.list_models(), "See timm.list_models()"),
        ) from error
