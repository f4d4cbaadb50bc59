"""Networks that transformers builds, exported once to ONNX files in the cache.

Later starts run that file, and do not import transformers.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rtseg.cache import EXPORTED, add_checksum, cache_path, is_intact, make_room, safe_name, sha256
from rtseg.errors import ModelError, first_line
from rtseg.files import atomic, reason
from rtseg.limits import MODEL_GB
from rtseg.nets.build import segmentation
from rtseg.nets.hub import CONFIG, TRANSFORMERS

OPSET = 17
REVISION = 1
"""Raised when the exported graph changes, so that old files are not used."""

MOST_LAYERS, MOST_WIDE = 128, 2**16
"""Of numbers in a configuration: its layers, and anything else."""

INSTALL = 'python -m pip install "rtseg[transformers]"'


class _Type(NamedTuple):
    """How networks of a type of transformers are built.

    Attributes:
        network: the class.
        open: whether an exported file takes images of any size.
        masks: whether it gives masks, each with the probabilities of the classes.
    """

    network: str
    open: bool = True
    masks: bool = False


TYPES = {
    "segformer": _Type("SegformerForSemanticSegmentation"),
    "mobilenet_v2": _Type("MobileNetV2ForSemanticSegmentation"),
    "mobilevit": _Type("MobileViTForSemanticSegmentation"),
    "mobilevitv2": _Type("MobileViTV2ForSemanticSegmentation"),
    "upernet": _Type("UperNetForSemanticSegmentation", open=False),
    "beit": _Type("BeitForSemanticSegmentation", open=False),
    "dpt": _Type("DPTForSemanticSegmentation", open=False),
    "eomt": _Type("EomtForUniversalSegmentation", open=False, masks=True),
}
assert set(TYPES) == set(TRANSFORMERS)


def exported(weights: Path, kind: str, size: tuple[int, int], notes: list[str]) -> Path:
    """The network of a folder of the hub as an ONNX file, exported on first use.

    Input "pixel_values" (1, 3, h, w) float32, normalised; output "logits" at the network's own
    stride.

    Args:
        weights: `model.safetensors`, with `config.json` beside it.
        kind: of `TYPES`.
        size: (height, width) that the network was trained for.
        notes: gets what the user should know.

    Raises:
        ModelError: transformers is not installed, or cannot build that network of these files.
    """
    files = [sha256(weights), sha256(weights.parent / CONFIG)]
    digest = hashlib.sha256(repr((files, kind, size, REVISION)).encode()).hexdigest()[:16]
    name = safe_name(weights.parent.resolve().name)
    path = cache_path("onnx", f"{name}-{size[0]}x{size[1]}-exported-{digest}.onnx")
    if is_intact(path, notes):
        return path
    network = _Logits(_load(weights.parent, kind), kind).eval()
    try:
        with atomic(path) as temporary:
            _write(network, temporary, kind, size)
        add_checksum(path)
        make_room(path.parent, EXPORTED)
    except OSError as error:
        raise ModelError(f"cannot write {path}", found=reason(error)) from error
    except (RuntimeError, ValueError) as error:  # as torch reports what it cannot export
        raise ModelError(f"cannot export {weights.parent}", found=first_line(error)) from error
    return path


def _load(folder: Path, kind: str) -> nn.Module:
    segmentation()  # imports torchvision, whatever its build, before transformers does
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    asked = f"cannot open the model {folder}"
    try:
        import transformers
    except ImportError as error:
        found = f"its network ({kind}) is built by transformers, which is not installed"
        raise ModelError(asked, found=found, do=INSTALL) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    builder = getattr(transformers, TYPES[kind].network)
    try:
        config = builder.config_class.from_pretrained(folder, local_files_only=True)
        _check(asked, config.to_dict())
        with torch.device("meta"):  # takes no memory
            numbers = sum(each.numel() for each in builder(config).parameters())
        if 4 * numbers > MODEL_GB.value() * 1e9:
            found = f"it has {numbers:.1e} parameters"
            raise ModelError(asked, found=found, do=MODEL_GB.advice)
        network, report = builder.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except ModelError:
        raise
    # what transformers raises for the many ways in which files can be wrong
    except Exception as error:
        raise ModelError(asked, found=first_line(error)) from error
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would leave them random
        found = f"{len(missing)} weights missing ({missing[0]}, ...)"
        raise ModelError(asked, found=found, do="Download it again")
    loaded: nn.Module = network
    return loaded


def _check(asked: str, value: Any, key: str = "") -> None:
    """Raise ModelError for numbers with which building would never end, and for other files."""
    if isinstance(value, dict):
        if value.get("use_timm_backbone") or value.get("backbone"):
            found = "its backbone comes from elsewhere (backbone, use_timm_backbone)"
            raise ModelError(asked, found=found, do="Export its network to ONNX")
        for name, each in value.items():
            if name not in ("id2label", "label2id"):
                _check(asked, each, str(name))
    elif isinstance(value, (list, tuple)):
        for each in value:
            _check(asked, each, key)
    elif isinstance(value, int):
        most = MOST_LAYERS if "layers" in key or "depths" in key else MOST_WIDE
        if value > most:
            raise ModelError(asked, found=f"its {CONFIG} has {key} {value}, more than {most}")


class _Logits(nn.Module):
    """A network up to its logits, before any of them are enlarged.

    Of masks with a class each, it gives their sum per class instead, each weighted by the
    probability of that class, at the size of the masks.
    """

    def __init__(self, network: Any, kind: str) -> None:
        super().__init__()
        self.network, self.kind = network, kind
        if kind == "dpt":
            assert isinstance(network.head.head[-1], nn.Upsample)
            network.head.head[-1] = nn.Identity()
        for module in list(network.modules()):
            if isinstance(module, nn.AdaptiveAvgPool2d):  # UperNet has them in plain lists too
                module.forward = partial(_pool, module.output_size)  # type: ignore[method-assign]
            if type(module).__name__ == "MobileViTV2Layer":
                patch = module.patch_height, module.patch_width
                module.unfolding = partial(_unfolded, patch)
                module.folding = partial(_folded, patch)

    def forward(self, pixel_values: Tensor) -> Tensor:
        if TYPES[self.kind].masks:
            given = self.network(pixel_values)
            masks = given.masks_queries_logits.sigmoid()
            classes = given.class_queries_logits.softmax(-1)[..., :-1].transpose(1, 2)
            return (classes @ masks.flatten(2)).unflatten(2, masks.shape[2:])
        if self.kind == "upernet":
            maps = self.network.backbone.forward_with_filtered_kwargs(pixel_values).feature_maps
            logits: Tensor = self.network.decode_head(maps)
        else:
            logits = self.network(pixel_values).logits
        return logits


def _unfolded(patch: tuple[int, int], features: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """(N, C, pixels of a patch, patches) of (N, C, h, w); what does not fill a patch is left out.

    As torch's `unfold`, which ONNX lacks.
    """
    (high, wide), (count, channels, height, width) = patch, features.shape
    rows, columns = height // high, width // wide
    kept = features[:, :, : rows * high, : columns * wide]
    split = kept.reshape(count, channels, rows, high, columns, wide).permute(0, 1, 3, 5, 2, 4)
    return split.reshape(count, channels, high * wide, rows * columns), (height, width)


def _folded(patch: tuple[int, int], patches: Tensor, size: tuple[int, int]) -> Tensor:
    """Undo `_unfolded`, with zeros for what was left out."""
    (high, wide), (height, width) = patch, size
    rows, columns = height // high, width // wide
    split = patches.reshape(*patches.shape[:2], high, wide, rows, columns)
    joined = split.permute(0, 1, 4, 2, 5, 3).reshape(
        *patches.shape[:2], rows * high, columns * wide
    )
    return nn.functional.pad(joined, (0, width - columns * wide, 0, height - rows * high))


def _pool(size: Any, features: Tensor) -> Tensor:
    """Adaptive pooling as two products with constant matrices, which ONNX has.

    Its exporter knows it only where the sizes divide one another.
    """
    if size in (1, (1, 1)):
        return features.mean((2, 3), keepdim=True)
    goals = size if isinstance(size, tuple) else (size, size)
    rows, columns = (
        _means(int(side), goal, features)
        for side, goal in zip(features.shape[2:], goals, strict=True)
    )
    return rows @ features @ columns.T


def _means(side: int, goal: int, like: Tensor) -> Tensor:
    """(goal, side) weights of the means that adaptive pooling takes."""
    weights = torch.zeros(goal, side, dtype=like.dtype)
    for index in range(goal):
        start, end = index * side // goal, -(-(index + 1) * side // goal)
        weights[index, start:end] = 1 / (end - start)
    return weights


def _write(network: nn.Module, path: Path, kind: str, size: tuple[int, int]) -> None:
    sides = {"pixel_values": {2: "height", 3: "width"}, "logits": {2: "rows", 3: "columns"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a trace takes for constant
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, *size),),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_axes=sides if TYPES[kind].open else None,
        )
