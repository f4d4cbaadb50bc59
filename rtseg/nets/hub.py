"""Folders as the Hugging Face hub has them: an ONNX file, described by two JSON files.

`config.json` has the classes, `preprocessor_config.json` what happens to an image before the
network. Code and pickles of such a folder are never read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from msgspec import Struct

from rtseg.documents import read_json, shown
from rtseg.errors import ModelError
from rtseg.labels import ADE20K, CITYSCAPES, MAX_NAME, VOC
from rtseg.text import printable

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
ONNX_FILES = ("onnx/model.onnx", "model.onnx")
"""Where a folder has its network, the first that exists."""

MASK_CLASSIFICATION = frozenset(
    "detr eomt eomt_dinov3 mask2former maskformer oneformer videomt".split()
)
"""Types of networks whose outputs are masks with a class each, not scores per pixel."""

_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_HALF = {"image_mean": 0.5, "image_std": 0.5}
DEFAULTS: dict[str, dict[str, Any]] = {
    "segformer": {**_IMAGENET, "size": 512},
    "beit": {**_HALF, "size": 224},
    "dpt": {**_HALF, "size": 384},
    "mobilenetv2": {**_HALF, "size": 224},
    "mobilevit": {"do_normalize": False, "do_flip_channel_order": True, "size": 256},
}
"""What the image processors of transformers do where their file says nothing, by their names."""


class _Config(Struct):
    """What `config.json` says."""

    architectures: list[str] | None = None
    model_type: str = ""
    id2label: dict[str, str] | None = None
    auto_map: Any = None


class _Preprocessor(Struct):
    """What `preprocessor_config.json` says; None where nothing."""

    image_processor_type: str | None = None
    feature_extractor_type: str | None = None
    auto_map: Any = None
    do_rescale: bool | None = None
    rescale_factor: float | None = None
    do_normalize: bool | None = None
    image_mean: float | list[float] | None = None
    image_std: float | list[float] | None = None
    do_flip_channel_order: bool | None = None
    do_center_crop: bool | None = None
    size: int | dict[str, int | None] | None = None
    crop_size: int | dict[str, int | None] | None = None


def onnx_in(folder: Path) -> Path | None:
    """The network of a folder of the hub; None if the folder is not one.

    Raises:
        ModelError: it is one, without an ONNX file.
    """
    if not (folder / CONFIG).is_file():
        return None
    for name in ONNX_FILES:
        if (folder / name).is_file():
            return folder / name
    raise ModelError(
        f"cannot open the model {folder}",
        found=f"the folder has no {ONNX_FILES[0]}",
        do="Export its network to ONNX",
    )


def describe(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The settings of an ONNX file in a folder of the hub, as its TOML file would have them.

    Returns:
        The settings, for `read_settings`, and what was assumed; nothing if the file is not in such
        a folder.

    Raises:
        ModelError: the folder's files cannot be read, make no sense, need code of their own, or are
            of another kind of network.
    """
    folder = path.parent.parent if path.parent.name == "onnx" else path.parent
    if not ((folder / CONFIG).is_file() and (folder / PREPROCESSOR).is_file()):
        return {}, []
    config = read_json(folder / CONFIG, _Config, ModelError)
    images = read_json(folder / PREPROCESSOR, _Preprocessor, ModelError)
    _check_kind(folder, config, images)
    assumed: list[str] = []
    settings = {
        "name": printable(folder.resolve().name)[:MAX_NAME] or None,
        "layout": "NCHW",
        "labels": _labels(folder / CONFIG, config.id2label, assumed),
        **_preprocessing(folder / PREPROCESSOR, config, images),
    }
    return {key: value for key, value in settings.items() if value is not None}, assumed


def _check_kind(folder: Path, config: _Config, images: _Preprocessor) -> None:
    asked = f"cannot use the model in {folder}"
    if config.auto_map or images.auto_map:
        raise ModelError(
            asked,
            found="it needs Python code of its own (auto_map), which rtseg does not run",
            do="Move its ONNX file elsewhere, and describe it in a TOML file beside it",
        )
    if config.model_type in MASK_CLASSIFICATION:
        found = f"{config.model_type} returns masks with a class each, not scores per pixel"
        raise ModelError(asked, found=found, do="Use one for semantic segmentation")
    tasks = [task for each in config.architectures or () for task in _TASK.findall(each)]
    if tasks and not any(task.endswith("Segmentation") for task in tasks):
        found = f"it is for {printable(tasks[0])[:60]}"
        raise ModelError(asked, found=found, do="Use one for semantic segmentation")


_TASK = re.compile(r"[a-z0-9]For([A-Z]\w+)\Z")
"""At the end of an architecture's name, as in SegformerForSemanticSegmentation."""


def _labels(path: Path, named: dict[str, str] | None, assumed: list[str]) -> list[str] | None:
    """The names of the classes; None if they have none."""
    if not named:
        return None
    names = [named.get(str(index)) for index in range(len(named))]
    found = [name for name in names if name is not None]
    if len(found) < len(named):
        number = names.index(None)
        raise ModelError(f"cannot read {path}", found=f"id2label has no class {number}")
    if not all(re.fullmatch(r"LABEL_\d+", name) for name in found):
        return found
    for title, known in (("ADE20K", ADE20K), ("Cityscapes", CITYSCAPES), ("Pascal VOC", VOC)):
        if len(known) == len(found):
            assumed.append(f"the {len(found)} classes of {title}")
            return list(known.names)
    return None


def _preprocessing(path: Path, config: _Config, images: _Preprocessor) -> dict[str, Any]:
    named = images.image_processor_type or images.feature_extractor_type or config.model_type
    kind = re.sub(r"(ImageProcessor|FeatureExtractor)\w*\Z|_", "", named).lower()
    usual = DEFAULTS.get(kind, {})

    def said(name: str) -> Any:
        value = getattr(images, name)
        return usual.get(name) if value is None else value

    cropped = said("do_center_crop") and said("crop_size") is not None
    settings: dict[str, Any] = {
        "colour": "BGR" if said("do_flip_channel_order") else "RGB",
        "size": _size(path, said("crop_size" if cropped else "size")),
    }
    normalised = said("do_normalize") is not False
    mean, std = (said("image_mean"), said("image_std")) if normalised else (0.0, 1.0)
    if normalised and settings["colour"] == "BGR":
        raise ModelError(
            f"cannot use {path}",
            found="it normalises and flips the channels, in an order that it does not tell",
            do="Move the ONNX file elsewhere, and describe it in a TOML file beside it",
        )
    if mean is not None and std is not None:  # else they are assumed, with a note
        factor = 1 / 255 if images.rescale_factor is None else images.rescale_factor
        scale = 1.0 if images.do_rescale is False else factor
        settings |= {"mean": mean, "std": std, "scale": scale}
    return settings


def _size(path: Path, given: int | dict[str, int | None] | None) -> list[int] | None:
    """[height, width]; a shortest edge alone is both."""
    if given is None or isinstance(given, int):
        return None if given is None else [given, given]
    height, width = (given.get(name, given.get("shortest_edge")) for name in ("height", "width"))
    if given and (height is None or width is None):
        found = f"size is {shown(given)}, without height and width, or shortest_edge"
        raise ModelError(f"cannot read {path}", found=found)
    return [height, width] if height is not None and width is not None else None
