"""SegFormer (Xie et al., 2021, arXiv:2105.15203): B0 to B5, random or from files of the hub.

Layers and their constants are those of the SegFormer of transformers, so that its weights fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from rtseg.nets.lite import Network
from rtseg.zoo import SEGFORMERS, SegFormer

DROP_PATH, DROPOUT = 0.1, 0.1
"""Share of residual branches left out at the last block in training, and of the head's features."""

STRIDES, KERNELS, HEADS, REDUCTIONS = (4, 2, 2, 2), (7, 3, 3, 3), (1, 2, 5, 8), (8, 4, 2, 1)
LEVELS = ("4", "8", "16", "32")
"""Of the four stages: strides and kernels of their first convolutions, heads of their attention,
by how much keys are thinned out per side; and output strides."""

WIDER = 4
"""Channels inside a feed-forward network, over those outside."""


class Backbone(nn.Module):
    """MiT: four stages of attention, each at half the size of the one before."""

    def __init__(self, kind: SegFormer) -> None:
        super().__init__()
        last = sum(kind.depths) - 1
        drops = [DROP_PATH * block / last for block in range(last + 1)]
        channels, stages = 3, []
        for index, (depth, wide) in enumerate(zip(kind.depths, kind.channels, strict=True)):
            stages.append(_Stage(index, channels, wide, [drops.pop(0) for _ in range(depth)]))
            channels = wide
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Features of (N, 3, H, W) images by output stride."""
        features = {}
        for level, stage in zip(LEVELS, self.stages, strict=True):
            image = features[level] = stage(image)
        return features


class _Stage(nn.Module):
    def __init__(self, index: int, channels: int, wide: int, drops: list[float]) -> None:
        super().__init__()
        kernel = KERNELS[index]
        self.embed = nn.Conv2d(channels, wide, kernel, STRIDES[index], kernel // 2)
        self.embed_norm = nn.LayerNorm(wide)
        self.blocks = nn.ModuleList(_Block(index, wide, drop) for drop in drops)
        self.norm = nn.LayerNorm(wide)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, C, H, W) of those of the stage before."""
        features = self.embed(features)
        size = (features.shape[2], features.shape[3])
        tokens = self.embed_norm(features.flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens = block(tokens, size)
        return _image(self.norm(tokens), size)


class _Block(nn.Module):
    """Attention and a feed-forward network, on tokens (N, H * W, C)."""

    def __init__(self, index: int, channels: int, drop: float) -> None:
        super().__init__()
        self.drop = drop
        self.norm1 = nn.LayerNorm(channels)
        self.attention = _Attention(channels, HEADS[index], REDUCTIONS[index])
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = _FeedForward(channels)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        tokens = tokens + self._dropped(self.attention(self.norm1(tokens), size))
        return tokens + self._dropped(self.mlp(self.norm2(tokens), size))

    def _dropped(self, branch: Tensor) -> Tensor:
        """In training, nothing for some images, and more for the others."""
        if not self.training or self.drop == 0:
            return branch
        kept = branch.new_empty((len(branch), 1, 1)).bernoulli_(1 - self.drop)
        return branch * kept / (1 - self.drop)


class _Attention(nn.Module):
    """Attention of all points to those of a thinned-out image."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(channels, channels) for _ in range(4)
        )
        self.reduce: nn.Module | None = None
        if reduction > 1:
            self.reduce = nn.Conv2d(channels, channels, reduction, reduction)
            self.reduce_norm = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        others = tokens
        if self.reduce is not None:
            small: Tensor = self.reduce(_image(tokens, size))
            others = self.reduce_norm(small.flatten(2).transpose(1, 2))
        split = [
            each.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for each in (self.query(tokens), self.key(others), self.value(others))
        ]
        mixed = functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
        result: Tensor = self.out(mixed)
        return result


class _FeedForward(nn.Module):
    """Two products with a convolution per channel between, which tells where a point lies."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = channels * WIDER
        self.fc1 = nn.Linear(channels, wide)
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.fc2 = nn.Linear(wide, channels)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        wide = self.depthwise(_image(self.fc1(tokens), size))
        result: Tensor = self.fc2(functional.gelu(wide.flatten(2).transpose(1, 2)))
        return result


class Head(nn.Module):
    """Projects the features of all stages, enlarges them to the first's size, and mixes them."""

    def __init__(self, kind: SegFormer, num_classes: int) -> None:
        super().__init__()
        wide = kind.decoder
        self.projections = nn.ModuleList(nn.Linear(each, wide) for each in kind.channels)
        self.fuse = nn.Conv2d(len(kind.channels) * wide, wide, 1, bias=False)
        self.norm = nn.BatchNorm2d(wide)
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Conv2d(wide, num_classes, 1)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """(N, C, H/4, W/4) logits."""
        size = features[LEVELS[0]].shape[-2:]
        levels = []
        for level, projection in zip(LEVELS, self.projections, strict=True):
            large = projection(features[level].movedim(1, -1)).movedim(-1, 1)
            levels.append(functional.interpolate(large, size, mode="bilinear", align_corners=False))
        mixed = self.norm(self.fuse(torch.cat(levels[::-1], 1)))
        logits: Tensor = self.classifier(self.dropout(functional.relu(mixed)))
        return logits


class MergedHead(nn.Module):
    """`Head` outside training, its mixing multiplied into the projections: the same logits.

    See `rtseg.nets.merge`, which does it to ONNX files.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        assert isinstance(head, Head)
        norm, fuse = head.norm, head.fuse
        assert norm.running_mean is not None
        assert norm.running_var is not None
        factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        parts = (fuse.weight[:, :, 0, 0].double() * factor[:, None]).chunk(len(LEVELS), 1)
        bias = norm.bias.double() - norm.running_mean.double() * factor
        self.levels = nn.ModuleList()
        # the head concatenates the coarsest first
        for projection, part in zip(head.projections, parts[::-1], strict=True):
            assert isinstance(projection, nn.Linear)
            level = nn.Conv2d(projection.in_features, len(bias), 1, bias=not self.levels)
            product = part @ projection.weight.double()
            level.weight.data = product.to(fuse.weight.dtype)[:, :, None, None]
            bias = bias + part @ projection.bias.double()
            self.levels.append(level.requires_grad_(False))
        first = self.levels[0]
        assert isinstance(first, nn.Conv2d)
        assert first.bias is not None
        first.bias.data = bias.to(fuse.weight.dtype)
        self.classifier = head.classifier

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """(N, C, H/4, W/4) logits."""
        mixed = self.levels[0](features[LEVELS[0]])
        size = mixed.shape[-2:]
        for level, layer in list(zip(LEVELS, self.levels, strict=True))[1:]:
            mixed = mixed + functional.interpolate(
                layer(features[level]), size, mode="bilinear", align_corners=False
            )
        logits: Tensor = self.classifier(functional.relu(mixed))
        return logits


def build_segformer(architecture: str, num_classes: int, *, aux: bool = False) -> nn.Module:
    """`segformer_b0` to `segformer_b5`; without an auxiliary head."""
    kind = SEGFORMERS[architecture]
    return Network(Backbone(kind), Head(kind, num_classes)).apply(_initialise)


_RENAMED = (
    (r"\A(segformer\.)?encoder\.", "encoder."),
    (r"encoder\.patch_embeddings\.(\d)\.proj\.", r"backbone.stages.\1.embed."),
    (r"encoder\.patch_embeddings\.(\d)\.layer_norm\.", r"backbone.stages.\1.embed_norm."),
    (r"encoder\.layer_norm\.(\d)\.", r"backbone.stages.\1.norm."),
    (r"encoder\.block\.(\d)\.(\d+)\.", r"backbone.stages.\1.blocks.\2."),
    (r"\.layer_norm_([12])\.", r".norm\1."),
    (r"\.attention\.self\.(query|key|value)\.", r".attention.\1."),
    (r"\.attention\.self\.sr\.", ".attention.reduce."),
    (r"\.attention\.self\.layer_norm\.", ".attention.reduce_norm."),
    (r"\.attention\.output\.dense\.", ".attention.out."),
    (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.depthwise."),
    (r"decode_head\.linear_c\.(\d)\.proj\.", r"classifier.projections.\1."),
    (r"decode_head\.linear_fuse\.", "classifier.fuse."),
    (r"decode_head\.batch_norm\.", "classifier.norm."),
    (r"decode_head\.classifier\.", "classifier.classifier."),
)  # fmt: skip


def hub_state(architecture: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in a file of the hub under their names here; others as they are."""
    renamed = {}
    for key, value in state.items():
        for pattern, name in _RENAMED:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    return renamed


def _image(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Tokens (N, H * W, C) as features (N, C, H, W)."""
    return tokens.transpose(1, 2).unflatten(2, size)


def _initialise(module: nn.Module) -> None:
    """As the paper's code does."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=(2 / (fan_out // module.groups)) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
