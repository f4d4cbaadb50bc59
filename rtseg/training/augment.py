"""Random views of training images, and the plain ones that are validated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rtseg.frame import Image, Mask
from rtseg.images import decode_image
from rtseg.labels import VOID
from rtseg.nets.build import segmentation
from rtseg.training.options import TrainOptions
from rtseg.training.teachers import Soft
from rtseg.zoo import InputSpec

View = tuple[Tensor, ...]
"""(3, h, w) float32 network input, (h, w) int64 class indices, and, with teachers, (K + 1, h, w)
uint8 soft labels as in `rtseg.training.teachers.Soft`."""

Another = Callable[[], tuple[Image, Mask]]
"""Reads a random labelled image."""

UNTRUSTED = 255
"""In the first plane of soft labels; what lies outside of an image is, too."""

SOFT_EDGE = 1.0
"""Standard deviation of the blur at the edge of what is pasted, in pixels."""

BLUR = (0.4, 2.0)
QUALITY = (20, 90)
"""Of JPEG."""

MARGIN_WIDTHS = (0.35, 0.8)
"""Width of an upright video as a share of the wide picture that it is shown in."""


@dataclass(frozen=True)
class Transform:
    """From an image (H, W, 3) uint8 BGR and its mask (H, W) uint8 to a `View`.

    Uses torch's random numbers.

    Attributes:
        geometry: of uint8 pixels and labels together.
        colours: of uint8 pixels.
        noise: of pixels in 0..1.
        spec: the network's colour order and normalisation.
        paste: share of the views that get the objects of another image.
        margins: share of the views that get margins.
        background: the class that is not pasted, and that margins are; None if there is none.
    """

    geometry: Callable[..., Any]
    spec: InputSpec
    colours: tuple[nn.Module, ...] = ()
    noise: tuple[nn.Module, ...] = ()
    paste: float = 0.0
    margins: float = 0.0
    background: int | None = None

    def __call__(
        self, image: Image, mask: Mask, another: Another | None = None, soft: Soft | None = None
    ) -> View:
        """A view of an image, with what may be on top of it."""
        pixels, labels, *taught = self._placed(image, mask, soft)
        if another is not None and _chance(self.paste):
            pixels, labels, objects = self._pasted(pixels, labels, *self._placed(*another()))
            for planes in taught:
                planes[:1, objects] = UNTRUSTED
        if _chance(self.margins):
            pixels, labels, outside = self._with_margins(pixels, labels)
            for planes in taught:
                planes[:1, outside] = UNTRUSTED
        for change in self.colours:
            pixels = change(pixels)
        unit = (
            255 * self.spec.scale
        )  # the spec normalises v * scale, and v / 255 is what comes here
        mean, std = ([value / unit for value in each] for each in (self.spec.mean, self.spec.std))
        v2 = _v2().functional
        values = v2.to_dtype(pixels, torch.float32, scale=True)
        for change in self.noise:
            values = change(values)
        return v2.normalize(values, mean, std).as_subclass(Tensor), labels.long(), *taught

    def _placed(self, image: Image, mask: Mask, soft: Soft | None = None) -> list[Tensor]:
        """All after `geometry`: (3, h, w) in the network's colour order, (h, w), (K + 1, h, w)."""
        tensors = _tensors()
        if self.spec.colour == "RGB":
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        planes = torch.from_numpy(image.copy()).permute(2, 0, 1).contiguous()
        masks = [mask] if soft is None else [mask, soft]
        placed = self.geometry(
            tensors.Image(planes), *(tensors.Mask(torch.from_numpy(each)) for each in masks)
        )
        return [each.as_subclass(Tensor) for each in placed]

    def _pasted(
        self, pixels: Tensor, labels: Tensor, others: Tensor, masks: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The view with another's objects on top, and where (Ghiasi et al., arXiv:2012.07177)."""
        objects = masks != VOID
        if self.background is not None:
            objects &= masks != self.background
        alpha = _blurred(objects[None].float(), SOFT_EDGE)
        blended = pixels * (1 - alpha) + others * alpha
        return blended.round().to(torch.uint8), masks.where(objects, labels), objects

    def _with_margins(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The middle of the view, as an upright video, before itself larger and blurred.

        The last value is where the margins are.
        """
        height, width = labels.shape
        share = MARGIN_WIDTHS[0] + float(torch.rand(())) * (MARGIN_WIDTHS[1] - MARGIN_WIDTHS[0])
        wide = max(1, round(width * share))
        left = (width - wide) // 2
        v2 = _v2().functional
        top, side = round(0.2 * height), round(0.2 * width)
        large = v2.resize(pixels[:, top : height - top, side : width - side], [height, width])
        framed = _blurred(large, max(1.0, 0.03 * width))
        outside = VOID if self.background is None else self.background
        classes = torch.full_like(labels, outside)
        middle = slice(left, left + wide)
        framed[:, :, middle], classes[:, middle] = pixels[:, :, middle], labels[:, middle]
        margins = torch.ones_like(labels, dtype=torch.bool)
        margins[:, middle] = False
        return framed, classes, margins


def training(
    options: TrainOptions,
    spec: InputSpec,
    background: int | None = None,
    mirrored: tuple[int, ...] = (),
) -> Transform:
    """Random scale, shape, rotation, crop and flip; what is pasted; colours, blur, JPEG, noise.

    Args:
        background: the class that is no object.
        mirrored: the class that each becomes where an image is flipped, as `LabelSet.mirrored`;
            then, counted on, those of the teacher. Empty if none changes.
    """
    v2 = _v2()
    geometry = _Crop(
        options.size,
        options.scale,
        options.aspect,
        options.rotation,
        options.flip,
        _mean_colour(spec),
        mirrored,
    )
    jitter = v2.ColorJitter(options.brightness, options.contrast, options.saturation)
    colours = [
        jitter,
        *([_Gamma(options.gamma)] if options.gamma else []),
        *([v2.RandomGrayscale(options.grey)] if options.grey else []),
        *([v2.RandomApply([_Blur()], options.blur)] if options.blur else []),
        *([v2.RandomApply([_Jpeg()], options.jpeg)] if options.jpeg else []),
    ]
    return Transform(
        geometry,
        spec,
        tuple(colours),
        (_Noise(options.noise),) if options.noise else (),
        options.paste,
        options.margins,
        background,
    )


def plain(size: tuple[int, int], spec: InputSpec) -> Transform:
    """The whole image, as large as fits into `size` (height, width); nothing random."""
    geometry = _v2().Compose([_Fit(size), _Pad(size, _mean_colour(spec))])
    return Transform(geometry, spec)


def as_image(pixels: Tensor, spec: InputSpec) -> Image:
    """(H, W, 3) uint8 BGR of (3, H, W) float32 network input."""
    planes = pixels.permute(1, 2, 0).numpy() * np.array(spec.std) + np.array(spec.mean)
    image = np.rint(planes / spec.scale).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(image[..., ::-1] if spec.colour == "RGB" else image)


def _chance(share: float) -> bool:
    return share > 0 and float(torch.rand(())) < share


class _Noise(nn.Module):
    """Gaussian noise of a random strength, clipped to 0..1."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most

    def forward(self, image: Tensor) -> Tensor:
        """The image with noise whose standard deviation is uniform in 0..most."""
        sigma = self.most * float(torch.rand(()))
        noisy: Tensor = _v2().functional.gaussian_noise(image, sigma=sigma)
        return noisy


class _Gamma(nn.Module):
    """Darker or brighter, by a gamma between 1 / (1 + most) and 1 + most."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most

    def forward(self, image: Tensor) -> Tensor:
        """The uint8 image."""
        power = (1 + self.most) ** (2 * float(torch.rand(())) - 1)
        changed: Tensor = _v2().functional.adjust_gamma(image, power)
        return changed


class _Blur(nn.Module):
    """Out of focus, by a random standard deviation."""

    def forward(self, image: Tensor) -> Tensor:
        """The (3, h, w) uint8 image."""
        return _blurred(image, _uniform(*BLUR))


class _Jpeg(nn.Module):
    """As saved by JPEG; OpenCV's, as torchvision's needs operators that may not load."""

    def forward(self, image: Tensor) -> Tensor:
        """The (3, h, w) uint8 image."""
        quality = int(torch.randint(*QUALITY, ()))
        pixels = image.permute(1, 2, 0).contiguous().numpy()
        _, content = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, quality))
        return torch.from_numpy(decode_image(content.tobytes())).permute(2, 0, 1).contiguous()


class _Crop(nn.Module):
    """A random part of the image: scaled, stretched, rotated about its middle, cropped, flipped.

    All in one warp: enlarging and rotating whole images first took ten times as long where soft
    labels of 21 classes come with them.

    Multiples of the size that covers the crop with its shorter side are spread evenly in their
    logarithm: half as large is as frequent as twice as large.

    Args:
        size: (height, width) of the crop; an image that is smaller lies somewhere inside it.
        aspect: stretch one side by up to this share of the other.
        rotation: by up to this many degrees.
        flip: share of the crops that are flipped.
        fill: colour outside of the image; labels and soft labels are 255 there.
        mirrored: as of `training`.
    """

    def __init__(
        self,
        size: tuple[int, int],
        scale: tuple[float, float],
        aspect: float,
        rotation: float,
        flip: float,
        fill: list[int],
        mirrored: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.size, self.scale, self.aspect = size, scale, aspect
        self.rotation, self.flip, self.fill = rotation, flip, fill
        self.mirrored = mirrored if sorted(mirrored) != list(mirrored) else ()

    def forward(self, image: Tensor, *masks: Tensor) -> tuple[Tensor, ...]:
        """The crop of the (3, H, W) image, of its (H, W) labels and (C, H, W) soft labels."""
        height, width = image.shape[-2:]
        ratio = max(self.size[0] / height, self.size[1] / width)
        ratio *= self.scale[0] * (self.scale[1] / self.scale[0]) ** _uniform(0, 1)
        stretch = (1 + self.aspect) ** _uniform(-0.5, 0.5)
        scaled = max(1, round(height * ratio / stretch)), max(1, round(width * ratio * stretch))
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        less = min(width, scaled[1]), min(height, scaled[0])
        if less != (width, height):  # a warp alone would skip pixels
            pixels = cv2.resize(pixels, less, interpolation=cv2.INTER_AREA)
        place, flipped = self._place(scaled)

        def warped(plane: NDArray[np.uint8], smooth: bool, fill: list[int]) -> Tensor:
            flags = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
            to_crop = (place @ _scaling(plane.shape[:2], scaled))[:2]
            crop = cv2.warpAffine(plane, to_crop, self.size[::-1], flags=flags, borderValue=fill)
            return torch.from_numpy(crop)

        crops = [warped(pixels, True, self.fill).permute(2, 0, 1).contiguous()]
        for mask in masks:
            stored = self._in_mirror(mask.numpy()) if flipped else mask.numpy()
            if mask.ndim == 2:
                crops.append(warped(stored, False, [VOID]))
            else:
                planes = enumerate(stored)  # the first is sharp: untrusted where VOID is
                crops.append(torch.stack([warped(p, i > 0, [UNTRUSTED]) for i, p in planes]))
        return tuple(crops)

    def _in_mirror(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Labels, or soft labels, with the classes that they become where the image is flipped."""
        if not self.mirrored:
            return mask
        if mask.ndim == 3:
            return mask[[0, *(1 + index for index in self.mirrored[: len(mask) - 1])]]
        table = np.arange(VOID + 1, dtype=np.uint8)
        labels = self.mirrored[:VOID]  # those of the teacher, further on, are in no mask
        table[: len(labels)] = np.array(labels).clip(max=VOID)
        return table[mask]

    def _place(self, scaled: tuple[int, int]) -> tuple[NDArray[np.float64], bool]:
        """A random (3, 3) map from pixels of the scaled image, (height, width), to the crop's.

        And whether it flips.
        """
        middle = (scaled[1] - 1) / 2, (scaled[0] - 1) / 2
        angle = _uniform(-self.rotation, self.rotation)
        turned = np.vstack([cv2.getRotationMatrix2D(middle, angle, 1.0), (0, 0, 1)])
        left, top = (
            round(_uniform(0, abs(free))) * (1 if free > 0 else -1)
            for free in (scaled[1] - self.size[1], scaled[0] - self.size[0])
        )
        moved = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]], np.float64)
        if flipped := _chance(self.flip):
            moved = np.array([[-1, 0, self.size[1] - 1], [0, 1, 0], [0, 0, 1]]) @ moved
        return moved @ turned, flipped


def _blurred(planes: Tensor, sigma: float) -> Tensor:
    """(C, h, w) uint8 or float32 after a Gaussian filter; OpenCV's is ten times faster."""
    pixels = planes.permute(1, 2, 0).contiguous().numpy()
    blurred = cv2.GaussianBlur(pixels, (0, 0), sigma).reshape(pixels.shape)
    return torch.from_numpy(blurred).permute(2, 0, 1).contiguous()


def _scaling(size: tuple[int, ...], scaled: tuple[int, int]) -> NDArray[np.float64]:
    """The (3, 3) map of pixel centres of an image of `size` (height, width) scaled to `scaled`."""
    y, x = scaled[0] / size[0], scaled[1] / size[1]
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]], np.float64)


def _uniform(least: float, most: float) -> float:
    return least + (most - least) * float(torch.rand(()))


class _Fit(nn.Module):
    """Scale to the size that fits into `size` (height, width), at the image's own aspect ratio."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Tensor, *masks: Tensor) -> tuple[Tensor, ...]:
        """All of them."""
        height, width = image.shape[-2:]
        ratio = min(self.size[0] / height, self.size[1] / width)
        size = [max(1, round(height * ratio)), max(1, round(width * ratio))]
        resize = _v2().functional.resize
        return resize(image, size, antialias=True), *(resize(mask, size) for mask in masks)


class _Pad(nn.Module):
    """Pad to `size` on the right and below, with a colour and with 255."""

    def __init__(self, size: tuple[int, int], colour: list[int]) -> None:
        super().__init__()
        self.size, self.colour = size, colour

    def forward(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Both at `size`."""
        pad = _v2().functional.pad
        height, width = image.shape[-2:]
        edges = [0, 0, self.size[1] - width, self.size[0] - height]
        return pad(image, edges, fill=self.colour), pad(labels, edges, fill=VOID)


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
