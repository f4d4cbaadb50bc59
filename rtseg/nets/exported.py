"""Networks that other libraries build, exported once to ONNX files in the cache.

They are transformers and segmentation_models_pytorch (smp). Later starts run that file, and do not
import them.
"""

from __future__ import annotations

import inspect
import os
import re
import warnings
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rtseg.cache import (
    EXPORTED,
    add_checksum,
    cache_path,
    is_intact,
    make_room,
    safe_name,
    sha256,
    short_digest,
)
from rtseg.documents import read_json, shown
from rtseg.errors import ModelError, first_line
from rtseg.files import atomic, reason
from rtseg.limits import MODEL_GB
from rtseg.nets.build import segmentation
from rtseg.nets.hub import CONFIG, SMP, TRANSFORMERS, WEIGHTS
from rtseg.nets.state import fill, read_checkpoint
from rtseg.text import did_you_mean

OPSET = 17
REVISION = 3
"""Raised when the exported graph changes, so that old files are not used."""

MOST_LAYERS, MOST_WIDE = 128, 2**16
"""Of numbers in a configuration: its layers, and anything else."""

MOST_SMP = 2048
"""Of any number in a configuration of smp."""

INSTALL = 'python -m pip install "rtseg[{}]"'


class _Type(NamedTuple):
    """How networks of a type are built.

    Attributes:
        network: the class.
        open: whether an exported file takes images of any size, in multiples of 16.
        masks: whether it gives masks, each with the probabilities of the classes.
        traced_open: whether it is exported as if it did: with constant sides, the exporter makes
            constants in double precision, which ONNX Runtime does not run.
    """

    network: str
    open: bool = True
    masks: bool = False
    traced_open: bool = False


TYPES = {
    "segformer": _Type("SegformerForSemanticSegmentation"),
    "mobilenet_v2": _Type("MobileNetV2ForSemanticSegmentation"),
    "mobilevit": _Type("MobileViTForSemanticSegmentation"),
    "mobilevitv2": _Type("MobileViTV2ForSemanticSegmentation"),
    "upernet": _Type("UperNetForSemanticSegmentation", open=False),
    "beit": _Type("BeitForSemanticSegmentation", open=False),
    "dpt": _Type("DPTForSemanticSegmentation", open=False),
    "eomt": _Type("EomtForUniversalSegmentation", open=False, masks=True),
    "mask2former": _Type(
        "Mask2FormerForUniversalSegmentation", open=False, masks=True, traced_open=True
    ),
}
assert set(TYPES) == set(TRANSFORMERS)
_OPEN = ("Unet", "DeepLabV3", "DeepLabV3Plus", "Segformer")
TYPES |= {f"smp:{name}": _Type(name, open=name in _OPEN) for name in SMP}


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
    digest = short_digest((files, kind, size, REVISION))
    name = safe_name(weights.parent.resolve().name)
    path = cache_path("onnx", f"{name}-{size[0]}x{size[1]}-exported-{digest}.onnx")
    if is_intact(path, notes):
        return path
    load = _load_smp if kind.startswith("smp:") else _load
    network = _Logits(load(weights.parent, kind), kind).eval()
    try:
        with atomic(path) as temporary:
            _write(network, temporary, _row(weights.parent, kind), size)
        add_checksum(path)
        make_room(path.parent, EXPORTED)
    except OSError as error:
        raise ModelError(f"cannot write {path}", found=reason(error)) from error
    # what networks raise that do not take the size, and torch for what it cannot export
    except Exception as error:
        found = f"{first_line(error)} (of an image of {size[0]}x{size[1]})"
        beside = weights.with_suffix(".toml").name
        do = f"If it takes one other size only, write size = [HEIGHT, WIDTH] in {beside} beside it"
        raise ModelError(f"cannot export {weights.parent}", found=found, do=do) from error
    return path


def _row(folder: Path, kind: str) -> _Type:
    """Of `TYPES`; backbones of timm may take one size only."""
    row = TYPES[kind]
    if not kind.startswith("smp:"):
        return row
    encoder = str(read_json(folder / CONFIG, dict[str, Any], ModelError).get("encoder_name"))
    return row._replace(open=row.open and not encoder.startswith(("tu-", "timm-")))


def _load(folder: Path, kind: str) -> nn.Module:
    segmentation()  # imports torchvision, whatever its build, before transformers does
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    asked = f"cannot open the model {folder}"
    try:
        import transformers
    except ImportError as error:
        found = f"its network ({kind}) is built by transformers, which is not installed"
        raise ModelError(asked, found=found, do=INSTALL.format("transformers")) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    builder = getattr(transformers, TYPES[kind].network)
    try:
        config = builder.config_class.from_pretrained(folder, local_files_only=True)
        _check(asked, config.to_dict())
        with torch.device("meta"):  # takes no memory
            _check_memory(asked, builder(config))
        network, report = builder.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report
            dtype=torch.float32,
        )
    except ModelError:
        raise
    # what transformers raises for the many ways in which files can be wrong
    except Exception as error:
        found = f"transformers cannot build it: {type(error).__name__}: {first_line(error)}"
        raise ModelError(asked, found=found) from error
    _check_report(asked, report, network.state_dict())
    loaded: nn.Module = network
    return loaded


def _check_report(asked: str, report: dict[str, Any], own: Collection[str]) -> None:
    """Raise ModelError if weights and configuration are not of one network.

    Args:
        report: of transformers, which would leave weights random or out.
        own: the names of the network's weights.
    """
    do = f"Check that {CONFIG} belongs to {WEIGHTS}"
    if shapes := sorted(report["mismatched_keys"]):
        name, given, wanted = shapes[0]
        found = f"{name} is {list(given)}, and by {CONFIG} (id2label, sizes) {list(wanted)}"
        raise ModelError(asked, found=found, do=do)
    kinds = {_layers(name) for name in own}
    # weights of other kinds are those of heads that only training has, and buffers of old versions
    unused = [name for name in report["unexpected_keys"] if _layers(name) in kinds]
    for what, names in (("missing", report["missing_keys"]), ("of layers too many", unused)):
        if names:
            found = f"{len(names)} weights {what} ({min(names)}, ...)"
            raise ModelError(asked, found=found, do=do)


def _layers(name: str) -> str:
    """The name of weights, the same for all layers of a kind."""
    return re.sub(r"\d+", "0", name)


def _load_smp(folder: Path, kind: str) -> nn.Module:
    segmentation()  # as in `_load`
    asked = f"cannot open the model {folder}"
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        found = "its network is built by segmentation_models_pytorch, which is not installed"
        raise ModelError(asked, found=found, do=INSTALL.format("smp")) from error
    builder = getattr(smp, TYPES[kind].network)
    config = read_json(folder / CONFIG, dict[str, Any], ModelError)
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    # weights come from the folder; the network is cut before its activation, and has no other head
    given |= dict.fromkeys(("encoder_weights", "activation", "aux_params"))
    known = {*inspect.signature(builder).parameters, "dynamic_img_size"} - {"kwargs"}
    if unknown := sorted(given.keys() - known):  # would be passed on to timm
        found = f"{CONFIG} has {shown(unknown[0])}, which {builder.__name__} does not take"
        raise ModelError(asked, found=found)
    encoder = given.get("encoder_name")
    if not isinstance(encoder, str) or re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", encoder) is None:
        raise ModelError(asked, found=f"its encoder is {shown(encoder)}, which is not a name")
    _check(asked, given, most=MOST_SMP)
    try:
        with suppress(RuntimeError), torch.device("meta"):  # which some cannot be built on
            _check_memory(asked, builder(**given))
        network: nn.Module = builder(**given)
    except ModelError:
        raise
    except Exception as error:  # as in `_load`
        if unknown_encoder := _unknown_encoder(encoder, error):
            found = f"its encoder is {shown(encoder)}, which smp does not have"
            raise ModelError(asked, found=found, do=unknown_encoder) from error
        raise ModelError(asked, found=first_line(error)) from error
    _, state = read_checkpoint(folder / WEIGHTS)
    own = {key: value for key, value in state.items() if not key.startswith("classification_head")}
    fill(network, own, asked, do="Download it again")
    return network


def _unknown_encoder(name: str, error: Exception) -> str:
    """What to do about an encoder that smp does not have; "" if that is not what the error says."""
    import segmentation_models_pytorch as smp
    import timm

    if not isinstance(error, KeyError) and "Unknown model" not in str(error):
        return ""
    own = smp.encoders.get_encoder_names()
    names = [f"tu-{each}" for each in timm.list_models()] if name.startswith("tu-") else own
    plain = name.partition(".")[0]
    return "" if plain in names else did_you_mean(plain, names, f"See encoder_name in {CONFIG}")


def _check_memory(asked: str, network: nn.Module) -> None:
    """Raise ModelError for a network, without its numbers, that would not fit."""
    numbers = sum(each.numel() for each in network.parameters())
    if 4 * numbers > MODEL_GB.value() * 1e9:
        raise ModelError(asked, found=f"it has {numbers:.1e} parameters", do=MODEL_GB.advice)


def _check(asked: str, value: Any, key: str = "", most: int = MOST_WIDE) -> None:
    """Raise ModelError for numbers with which building would never end, and for other files."""
    if isinstance(value, dict):
        if value.get("use_timm_backbone") or value.get("backbone"):
            found = "its backbone comes from elsewhere (backbone, use_timm_backbone)"
            raise ModelError(asked, found=found, do="Export its network to ONNX")
        for name, each in value.items():
            if name not in ("id2label", "label2id"):
                _check(asked, each, str(name), most)
    elif isinstance(value, (list, tuple)):
        for each in value:
            _check(asked, each, key, most)
    elif isinstance(value, int):
        most = MOST_LAYERS if "layers" in key or "depths" in key else most
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
        if kind == "smp:DPT":
            network.segmentation_head = network.segmentation_head.head
        elif kind.startswith("smp:"):
            network.segmentation_head = network.segmentation_head[0]
        for module in list(network.modules()):
            if type(module).__name__ == "PSPBlock":  # in an export, it pools in another way
                module.forward = partial(_pooled, module.pool)
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
        elif self.kind.startswith("smp:"):
            logits = self.network(pixel_values)
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


def _pooled(pool: nn.Module, features: Tensor) -> Tensor:
    """Features pooled to few points, and enlarged again, as PSPNet does."""
    size = features.shape[2:]
    return nn.functional.interpolate(pool(features), size, mode="bilinear", align_corners=True)


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


def _write(network: nn.Module, path: Path, row: _Type, size: tuple[int, int]) -> None:
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
            dynamic_axes=sides if row.open or row.traced_open else None,
        )
    if row.traced_open:
        import onnx

        content = onnx.load(path)
        axes = content.graph.input[0].type.tensor_type.shape.dim[2:]
        for axis, side in zip(axes, size, strict=True):
            axis.dim_value = side
        onnx.save(content, path)
