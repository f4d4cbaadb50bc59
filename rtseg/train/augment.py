"""From a picture and its mask to what the network is fed: turned, scaled, cropped, normalised.

The transforms are torchvision's (`transforms.v2`), which move pictures (bilinear) and masks
(nearest) together. What lies outside a picture has the mean colour, which is 0 once normalised, and
label 255, which no loss and no figure counts.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import cv2
import torch
from torch import Tensor, nn

from rtseg.frame import VOID, Image, Mask
from rtseg.nets.torchvision_import import segmentation
from rtseg.train.settings import Settings
from rtseg.zoo import InputSpec

Pair = tuple[Tensor, Tensor]
"""(3, h, w) float32 as the network takes it, and (h, w) int64 class indices."""

Transform = Callable[[Image, Mask], Pair]
"""From a picture (H, W, 3) uint8 BGR and its mask (H, W) uint8 to a `Pair`; uses torch's random
numbers."""


def training(settings: Settings, spec: InputSpec) -> Transform:
    """Random scale, rotation, crop, mirror, brightness, contrast and noise."""
    v2, tensors = _v2(), _tensors()
    fill = {tensors.Image: _mean_colour(spec), tensors.Mask: VOID}
    moved = v2.Compose(
        [
            _Scale(settings.size, settings.scale),
            v2.RandomRotation(
                settings.rotation, interpolation=v2.InterpolationMode.BILINEAR, fill=fill
            ),
            v2.RandomCrop(settings.size, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(settings.flip),
            v2.ColorJitter(brightness=settings.brightness, contrast=settings.contrast),
        ]
    )
    return _ending(moved, [_Noise(settings.noise)] if settings.noise else [], spec)


def plain(size: tuple[int, int], spec: InputSpec) -> Transform:
    """The whole picture, as large as fits into `size` (height, width); nothing random."""
    fitted = _v2().Compose([_Scale(size, (1.0, 1.0)), _Pad(size, _mean_colour(spec))])
    return _ending(fitted, [], spec)


def _ending(moved: Callable[..., Any], changed: list[nn.Module], spec: InputSpec) -> Transform:
    """`moved` on 8 bits, `changed` on 0 to 1, then the network's own normalisation."""
    v2, tensors = _v2(), _tensors()
    unit = 255 * spec.scale  # the spec normalises v * scale, and v / 255 is what comes here
    mean, std = ([value / unit for value in triple] for triple in (spec.mean, spec.std))
    coloured = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), *changed, v2.Normalize(mean, std)]
    )

    def transform(image: Image, mask: Mask) -> Pair:
        if spec.colour == "RGB":
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        planes = torch.from_numpy(image.copy()).permute(2, 0, 1).contiguous()
        picture, labels = moved(tensors.Image(planes), tensors.Mask(torch.from_numpy(mask)))
        return coloured(picture).as_subclass(Tensor), labels.as_subclass(Tensor).long()

    return transform


class _Noise(nn.Module):
    """Gaussian noise of a random strength, clipped to 0..1, on one picture."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most

    def forward(self, picture: Tensor) -> Tensor:
        """The picture with noise whose standard deviation is uniform in 0..most."""
        sigma = self.most * float(torch.rand(()))
        noisy: Tensor = _v2().functional.gaussian_noise(picture, sigma=sigma)
        return noisy


class _Scale(nn.Module):
    """Scale to a random share of the largest size that fits into `size` (height, width).

    Not `v2.ScaleJitter`, which takes the sides of that size for one another (torchvision 0.28).
    """

    def __init__(self, size: tuple[int, int], scale: tuple[float, float]) -> None:
        super().__init__()
        self.size, self.scale = size, scale

    def forward(self, picture: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Both in their own shape."""
        height, width = picture.shape[-2:]
        ratio = min(self.size[0] / height, self.size[1] / width)
        ratio *= self.scale[0] + float(torch.rand(())) * (self.scale[1] - self.scale[0])
        size = [max(1, round(side * ratio)) for side in (height, width)]
        resize = _v2().functional.resize
        return resize(picture, size, antialias=True), resize(labels, size)


class _Pad(nn.Module):
    """Pad to `size` on the right and below, with a colour and with no class."""

    def __init__(self, size: tuple[int, int], colour: list[int]) -> None:
        super().__init__()
        self.size, self.colour = size, colour

    def forward(self, picture: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Both at `size`."""
        pad = _v2().functional.pad
        height, width = picture.shape[-2:]
        edges = [0, 0, self.size[1] - width, self.size[0] - height]
        return pad(picture, edges, fill=self.colour), pad(labels, edges, fill=VOID)


def _mean_colour(spec: InputSpec) -> list[int]:
    return [min(255, max(0, round(value / spec.scale))) for value in spec.mean]


def _v2() -> ModuleType:
    segmentation()  # makes torchvision importable, whatever its build
    from torchvision.transforms import v2

    return v2


def _tensors() -> ModuleType:
    segmentation()
    from torchvision import tv_tensors

    return tv_tensors
