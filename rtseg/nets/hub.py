"""Folders and repositories of the Hugging Face hub: an ONNX file, described by two JSON files.

`config.json` has the classes, `preprocessor_config.json` what happens to an image before the
network. Code and pickles of such a folder are never read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct, field
from safetensors import SafetensorError, safe_open

from rtseg.cache import add_checksum, cache_dir, is_intact, safe_name, sha256, short_digest
from rtseg.documents import read_json, shown
from rtseg.errors import DownloadError, ModelError, first_line
from rtseg.files import atomic, reason
from rtseg.labels import ADE20K, CITYSCAPES, COCO_STUFF, MAX_NAME, VOC
from rtseg.limits import MODEL_GB
from rtseg.nets.weights import Progress, fetch_to
from rtseg.text import printable
from rtseg.zoo import SEGFORMERS, WeightsSpec

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
ONNX_FILES = ("onnx/model.onnx", "model.onnx")
"""Where a folder has its network, the first that exists; else its weights are in `WEIGHTS`."""

IR_FILES = ("openvino_model.xml", "openvino/openvino_model.xml")
"""The same, as optimum writes it for OpenVINO; the last that is looked for."""

WEIGHTS = "model.safetensors"
SHARDS = f"{WEIGHTS}.index.json"
"""Names the files of weights that are too large for one."""

MASK_CLASSIFICATION = frozenset(
    "detr eomt eomt_dinov3 mask2former maskformer oneformer videomt".split()
)
"""Types of networks whose outputs are masks with a class each, not scores per pixel."""

TRANSFORMERS = tuple(
    "segformer mobilenet_v2 mobilevit mobilevitv2 upernet beit dpt eomt mask2former".split()
)
"""Types of networks that transformers builds for rtseg, see `rtseg.nets.exported`."""

SMP = (
    *("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus"),
    *("PAN", "UPerNet", "Segformer", "DPT"),
)
"""Classes of segmentation_models_pytorch, which builds them for rtseg likewise."""

ALBUMENTATIONS = "albumentations_config_eval.json"
"""What happens to an image, in some folders of segmentation_models_pytorch."""

DESCRIPTIONS = (CONFIG, PREPROCESSOR, ALBUMENTATIONS)

_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_HALF = {"image_mean": 0.5, "image_std": 0.5}
DEFAULTS: dict[str, dict[str, Any]] = {
    "segformer": {**_IMAGENET, "size": 512},
    "beit": {**_HALF, "size": 224},
    "dpt": {**_HALF, "size": 384},
    "mobilenetv2": {**_HALF, "size": 224},
    "mobilevit": {"do_normalize": False, "do_flip_channel_order": True, "size": 256},
    "mobilevitv2": {"do_normalize": False, "do_flip_channel_order": True, "size": 256},
    "eomt": {**_IMAGENET, "size": 640},
    "mask2former": {**_IMAGENET, "size": 800},
}
"""What the image processors of transformers do where their file says nothing, by their names."""


KNOWN_LABELS = {
    "ADE20K": ADE20K,
    "Cityscapes": CITYSCAPES,
    "Pascal VOC": VOC,
    "COCO-Stuff": COCO_STUFF,
}
"""What classes without names are taken for, by their number."""


class _Config(Struct):
    """What `config.json` says."""

    architectures: list[str] | None = None
    model_type: str = ""
    id2label: dict[str, str] | None = None
    auto_map: Any = None
    depths: Any = None
    hidden_sizes: Any = None
    decoder_hidden_size: Any = None
    num_attention_heads: Any = None
    sr_ratios: Any = None
    strides: Any = None
    patch_sizes: Any = None
    mlp_ratios: Any = None
    hidden_act: Any = "gelu"
    num_channels: Any = 3
    smp_class: str = field(name="_model_class", default="")
    encoder_name: Any = None
    in_channels: Any = 3
    classes: Any = 1
    activation: Any = None


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


def network_in(folder: Path) -> Path | None:
    """The network of a folder of the hub, an ONNX file or weights; None if the folder is not one.

    Raises:
        ModelError: it is one, without a file that rtseg can run.
    """
    if not (folder / CONFIG).is_file():
        return None
    for name in (*ONNX_FILES, WEIGHTS, SHARDS, *IR_FILES):
        if (folder / name).is_file():
            return _joined(folder) if name == SHARDS else folder / name
    raise ModelError(
        f"cannot open the model {folder}",
        found=f"the folder has neither {ONNX_FILES[0]} nor {WEIGHTS}",
        do="Export its network to ONNX",
    )


class _Shards(Struct):
    """What `SHARDS` says."""

    weight_map: dict[str, str]


def _joined(folder: Path) -> Path:
    """The weights of a folder that has them in several files as one file, in the cache.

    The folder's JSON files are beside it.

    Raises:
        ModelError: one of the files is missing or invalid, or the disk is full.
    """
    asked = f"cannot open the model {folder}"
    try:
        there = [each.name for each in folder.iterdir() if each.is_file()]
        parts = [folder / name for name in _shards(asked, folder, there)]
        described = [folder / name for name in DESCRIPTIONS if (folder / name).is_file()]
        if sum(part.stat().st_size for part in parts) > MODEL_GB.value() * 1e9:
            raise ModelError(
                asked, found=f"more than {MODEL_GB.value():.0f} GB", do=MODEL_GB.advice
            )
        digests = [sha256(each) for each in (*described, *parts)]
        place = cache_dir() / "joined" / short_digest(digests)
        path = place / safe_name(folder.resolve().name) / WEIGHTS
        if not is_intact(path, []):
            path.parent.mkdir(parents=True, exist_ok=True)
            for each in described:
                with atomic(path.with_name(each.name)) as temporary:
                    shutil.copyfile(each, temporary)
            with atomic(path) as temporary:
                _join(parts, temporary)
            add_checksum(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(asked, found=first_line(error), do="Download it again") from error
    return path


def _shards(asked: str, folder: Path, there: Collection[str]) -> list[str]:
    """The names of the files in `SHARDS`, all of them `there`."""
    names = sorted(set(read_json(folder / SHARDS, _Shards, ModelError).weight_map.values()))
    for name in names:
        known = re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", name)
        if known is None or name not in there:
            found = f"{SHARDS} names {shown(name)}, which is not a file of weights beside it"
            raise ModelError(asked, found=found, do="Download it again")
    return names


def _join(parts: Sequence[Path], target: Path) -> None:
    """Write the tensors of several safetensors files to one, byte by byte.

    Raises:
        ValueError: two of them have a tensor of the same name.
    """
    tensors: dict[str, Any] = {}
    starts, end = [], 0
    for part in parts:
        with safe_open(part, framework="numpy"):  # checks the file
            pass
        with part.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            own = json.loads(file.read(length))
        starts.append(8 + length)
        own.pop("__metadata__", None)
        for name, tensor in own.items():
            if name in tensors:
                raise ValueError(f"two files have the weights {shown(name)}")
            tensors[name] = {**tensor, "data_offsets": [end + at for at in tensor["data_offsets"]]}
        end += part.stat().st_size - starts[-1]
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    header += b" " * (-len(header) % 8)
    with target.open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        for part, start in zip(parts, starts, strict=True):
            with part.open("rb") as file:
                file.seek(start)
                shutil.copyfileobj(file, out)


def describe(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The settings of a network in a folder of the hub, as its TOML file would have them.

    Returns:
        The settings, for `read_settings`, and what was assumed; nothing if the file is not in such
        a folder.

    Raises:
        ModelError: the folder's files cannot be read, make no sense, need code of their own, or are
            of another kind of network.
    """
    inside = path.parent.name in ("onnx", "openvino")
    folder = path.parent.parent if inside else path.parent
    weights, described = path.name == WEIGHTS, (folder / PREPROCESSOR).is_file()
    known = weights or (described and path.suffix in (".onnx", ".xml"))
    if not (folder / CONFIG).is_file() or not known:
        return {}, []
    config = read_json(folder / CONFIG, _Config, ModelError)
    if weights and config.smp_class:
        return _of_smp(folder, config)
    images = _Preprocessor()
    if described:
        images = read_json(folder / PREPROCESSOR, _Preprocessor, ModelError)
    _check_kind(folder, config, images, weights)
    assumed: list[str] = []
    settings = {
        "name": printable(folder.resolve().name)[:MAX_NAME] or None,
        "layout": "NCHW",
        "architecture": _architecture(config) if weights else None,
        "labels": _labels(folder / CONFIG, config.id2label, assumed),
        "align_corners": config.model_type == "dpt" and weights,
        "activation": "probabilities" if config.model_type in MASK_CLASSIFICATION else None,
        **_preprocessing(folder / PREPROCESSOR, config, images),
    }
    return {key: value for key, value in settings.items() if value is not None}, assumed


def _architecture(config: _Config) -> str | None:
    """The network of ours that these weights are of; None if there is none."""
    usual = {
        "num_attention_heads": [1, 2, 5, 8],
        "sr_ratios": [8, 4, 2, 1],
        "strides": [4, 2, 2, 2],
        "patch_sizes": [7, 3, 3, 3],
        "mlp_ratios": [4, 4, 4, 4],
    }
    if config.model_type != "segformer" or (config.hidden_act, config.num_channels) != ("gelu", 3):
        return None
    if any(getattr(config, name) not in (None, values) for name, values in usual.items()):
        return None
    base = SEGFORMERS["segformer_b0"]  # what a file leaves out is as B0 has it
    wanted = (
        config.depths or list(base.depths),
        config.hidden_sizes or list(base.channels),
        config.decoder_hidden_size or base.decoder,
    )
    for name, kind in SEGFORMERS.items():
        if wanted == (list(kind.depths), list(kind.channels), kind.decoder):
            return name
    return None


def built_elsewhere(weights: Path) -> str | None:
    """The type of the network that these weights of a folder of the hub are of, for `exported`."""
    path = weights.parent / CONFIG
    if weights.name != WEIGHTS or not path.is_file():
        return None
    return _kind(read_json(path, _Config, ModelError))


def _kind(config: _Config) -> str | None:
    """The type of a network that other libraries build; None if it is not a known one."""
    if config.smp_class:
        return f"smp:{config.smp_class}" if config.smp_class in SMP else None
    return config.model_type if config.model_type in TRANSFORMERS else None


class _Transform(Struct):
    """A step of albumentations."""

    name: str = field(name="__class_fullname__", default="")
    height: int | None = None
    width: int | None = None
    mean: float | list[float] | None = None
    std: float | list[float] | None = None
    max_pixel_value: float | None = 255.0
    normalization: str = "standard"


class _Transforms(Struct):
    transforms: list[_Transform] = field(default_factory=list)


class _Albumentations(Struct):
    """What `ALBUMENTATIONS` says."""

    transform: _Transforms = field(default_factory=_Transforms)


def _of_smp(folder: Path, config: _Config) -> tuple[dict[str, Any], list[str]]:
    """As `describe`, of a folder of segmentation_models_pytorch, which names no classes."""
    asked = f"cannot use the model in {folder}"
    if config.smp_class not in SMP:
        found = f"it is a {printable(config.smp_class)[:60]} of segmentation_models_pytorch"
        raise ModelError(asked, found=found, do=f"Use one of {', '.join(SMP)}")
    if config.in_channels != 3:
        raise ModelError(
            asked, found=f"its images have {shown(config.in_channels)} channels, not 3"
        )
    if not isinstance(config.classes, int):
        raise ModelError(asked, found=f"it has {shown(config.classes)} classes")
    overlap = config.activation == "sigmoid" and config.classes != 1
    if overlap or config.activation not in _ACTIVATIONS:
        found = f"it has {shown(config.classes)} classes and the activation "
        found += shown(config.activation)
        raise ModelError(asked, found=found, do="Use one that gives each pixel one class")
    assumed: list[str] = []
    labels = None
    if config.classes > 2:
        unnamed = {str(index): f"LABEL_{index}" for index in range(min(config.classes, 256))}
        labels = _labels(folder / CONFIG, unnamed, assumed)
    else:
        labels = ["background", "foreground"]
        assumed.append("the classes background and foreground")
    settings = {
        "name": printable(folder.resolve().name)[:MAX_NAME] or None,
        "layout": "NCHW",
        "labels": labels,
        "align_corners": True,
        "activation": "logits",
        **_of_albumentations(folder / ALBUMENTATIONS),
    }
    return {key: value for key, value in settings.items() if value is not None}, assumed


_ACTIVATIONS = (None, "identity", "sigmoid", "softmax", "softmax2d", "logsoftmax")
"""Of segmentation_models_pytorch: those that leave the order of the classes as it is."""


def _of_albumentations(path: Path) -> dict[str, Any]:
    """Size, mean, std and scale of the last steps that have them; nothing without a file."""
    settings: dict[str, Any] = {}
    if not path.is_file():
        return settings
    for step in read_json(path, _Albumentations, ModelError).transform.transforms:
        if step.name == "Resize":
            settings["size"] = [step.height, step.width]
        elif step.name == "Normalize":
            if step.normalization != "standard" or None in (step.mean, step.std):
                raise ModelError(
                    f"cannot use {path}", found=f"it normalises by {step.normalization}"
                )
            scale = 1 / (step.max_pixel_value or 1)
            settings |= {"mean": step.mean, "std": step.std, "scale": scale, "colour": "RGB"}
    return settings


def _check_kind(folder: Path, config: _Config, images: _Preprocessor, weights: bool) -> None:
    asked = f"cannot use the model in {folder}"
    if config.auto_map or images.auto_map:
        raise ModelError(
            asked,
            found="it needs Python code of its own (auto_map), which rtseg does not run",
            do="Move its ONNX file elsewhere, and describe it in a TOML file beside it",
        )
    if config.model_type in MASK_CLASSIFICATION and not (
        weights and config.model_type in TRANSFORMERS
    ):
        found = f"{config.model_type} returns masks with a class each, not scores per pixel"
        raise ModelError(asked, found=found, do=f"Use one with {WEIGHTS} of {_BUILT}")
    tasks = [task for each in config.architectures or () for task in _TASK.findall(each)]
    if tasks and not any(task.endswith("Segmentation") for task in tasks):
        found = f"it is for {printable(tasks[0])[:60]}"
        raise ModelError(asked, found=found, do="Use one for semantic segmentation")


_BUILT = " or ".join(sorted(MASK_CLASSIFICATION.intersection(TRANSFORMERS)))
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
    for title, known in KNOWN_LABELS.items():
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


# --- repositories --------------------------------------------------------------------------------

PREFIX = "hf:"
LARGEST_FILE, LARGEST_LISTING = 4_000_000_000, 8_000_000
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ADDRESS = re.compile(
    rf"hf:(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[A-Za-z0-9._/-]{{1,100}}))?"
    rf"(?::(?P<file>(?:{_PART}/)*{_PART}\.(?:onnx|xml)))?"
)
NVIDIA = "research or evaluation only (NVIDIA)"


class Published(NamedTuple):
    """A network of the hub that people ask for.

    Attributes:
        address: for `fetch_repository`.
        miou: in percent, of one scale, as OpenMMLab trained it.
        megabytes: of its weights.
    """

    address: str
    classes: str
    miou: float
    megabytes: float
    licence: str


PUBLISHED = (
    *(
        Published(
            f"hf:nvidia/segformer-b{number}-finetuned-ade-{size}-{size}",
            "150 of ADE20K",
            miou,
            4 * SEGFORMERS[f"segformer_b{number}"].parameters,
            NVIDIA,
        )
        for number, (miou, size) in enumerate(
            ((37.4, 512), (41.0, 512), (45.6, 512), (47.8, 512), (48.5, 512), (49.1, 640))
        )
    ),
    Published("hf:Xenova/segformer-b0-finetuned-ade-512-512", "150 of ADE20K", 37.4, 15.3, NVIDIA),
)
"""Networks that `rtseg models` lists beside those of the zoo."""


class _Stored(Struct):
    """A large file of a repository."""

    sha256: str


class _File(Struct):
    rfilename: str
    size: int | None = None
    lfs: _Stored | None = None


class _Card(Struct):
    license: str | list[str] | None = None
    license_name: str | None = None
    base_model: str | list[str] | None = None


class _Listing(Struct):
    """A repository at a commit, as the hub's API tells it."""

    sha: str
    siblings: list[_File]
    card: _Card | None = field(name="cardData", default=None)


class _Kept(Struct):
    """What was fetched for an address: the commit, and the SHA-256 of each file of it."""

    commit: str
    licence: str
    model: str
    files: dict[str, str]


@dataclass(frozen=True)
class Fetched:
    """A network of the hub on this machine."""

    repo: str
    commit: str
    licence: str
    file: Path


def fetch_repository(text: str, progress: Progress | None) -> Fetched:
    """The network at "hf:OWNER/NAME[@REVISION][:FILE]", downloaded once.

    The commit that the revision led to, and the SHA-256 of every file, are kept with them: later
    runs ask no server, and use nothing that was changed. The licence is part of the titles that
    `progress` gets, before anything of a file has come.

    Raises:
        ModelError: that is not such an address, or the repository has no such ONNX file.
        DownloadError: it cannot be fetched, or has files that differ from what was fetched before.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or ".." in text:
        raise ModelError(
            f"cannot open the model {shown(text)}",
            found="it is not the address of a model of the hub",
            do="Write hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:OWNER/NAME:onnx/FILE.onnx",
        )
    repo, revision = found["repo"], found["revision"] or "main"
    folder = cache_dir() / "hub" / safe_name(repo.replace("/", "--"))
    record = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    kept = read_json(record, _Kept, DownloadError, do="Remove it") if record.is_file() else None
    if kept is None or not _is_whole(folder, kept):
        kept = _fetch(
            text, repo, kept.commit if kept else revision, found["file"], folder, progress, kept
        )
        with atomic(record) as temporary:
            temporary.write_bytes(msgspec.json.encode(kept))
    own = folder / kept.commit
    file = _joined(own) if kept.model == SHARDS else own / kept.model
    return Fetched(repo, kept.commit, kept.licence, file)


def _is_whole(folder: Path, kept: _Kept) -> bool:
    paths = {folder / kept.commit / name: digest for name, digest in kept.files.items()}
    return all(path.is_file() and sha256(path) == digest for path, digest in paths.items())


def _fetch(
    text: str,
    repo: str,
    revision: str,
    file: str | None,
    folder: Path,
    progress: Progress | None,
    kept: _Kept | None,
) -> _Kept:
    asked = f"cannot fetch {text}"
    server = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    listing = _listing(asked, f"{server}/api/models/{repo}/revision/{revision}?blobs=true")
    sizes = {each.rfilename: each for each in listing.siblings}
    places = (*ONNX_FILES, WEIGHTS, SHARDS, *IR_FILES)
    model = file or next((name for name in places if name in sizes), None)
    if model is None or model not in sizes:
        others = [name for name in sizes if name.endswith(".onnx")]
        raise ModelError(
            asked,
            found=f"the repository has no {file or ONNX_FILES[0]}, "
            + (f"but {shown(', '.join(others))}" if others else "and no other ONNX file"),
            do="Name one: hf:OWNER/NAME:FILE.onnx" if others else "Export its network to ONNX",
        )
    licence = _licence(repo, listing.card or _Card())
    digests: dict[str, str] = {}

    def take(name: str) -> None:
        size, large = sizes[name].size, sizes[name].lfs
        if size is None or not 0 <= size <= LARGEST_FILE:
            raise DownloadError(asked, found=f"{name} has {shown(size)} bytes")
        target = folder / listing.sha / name
        digest = large.sha256 if large else kept.files.get(name, "") if kept else ""
        url = f"{server}/{repo}/resolve/{listing.sha}/{name}"
        weights = WeightsSpec(url, digest, licence, size / 1e6)
        title = _titled(f"{name} of {repo} ({licence})", progress)
        if digest:
            _fetch_file(target, weights, title)
        else:  # anew, as nothing tells whether the one that is there is still what was fetched
            _fetch_anew(target, weights, title)
        digests[name] = sha256(target)
        if name == CONFIG and model in (WEIGHTS, SHARDS):
            _check_built(asked, target)
        if target.stat().st_size != size or (kept and kept.files.get(name) != digests[name]):
            target.unlink()
            raise DownloadError(asked, found=f"{name} is not the file that was published")

    stem = re.escape(model.removesuffix(".xml"))
    beside = rf"{stem}\.bin" if model.endswith(".xml") else rf"{stem}[._]data(_\d+)?"
    for name in (*DESCRIPTIONS, model, *(name for name in sizes if re.fullmatch(beside, name))):
        if name in sizes:
            take(name)
    if model == SHARDS:
        names = _shards(asked, folder / listing.sha, sizes)
        if sum(sizes[name].size or 0 for name in names) > MODEL_GB.value() * 1e9:
            found = f"its weights have more than {MODEL_GB.value():.0f} GB"
            raise ModelError(asked, found=found, do=MODEL_GB.advice)
        for name in names:
            take(name)
    return _Kept(listing.sha, licence, model, digests)


def _fetch_anew(target: Path, weights: WeightsSpec, progress: Progress | None) -> None:
    """Fetch a file beside its place and put it there, whoever else does so at the same time."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".new-", dir=target.parent) as place:
            _fetch_file(Path(place) / target.name, weights, progress).replace(target)
    except OSError as error:
        raise DownloadError(f"cannot write {target}", found=reason(error)) from error


def _fetch_file(path: Path, weights: WeightsSpec, progress: Progress | None = None) -> Path:
    """As `fetch_to`, whose advice is for weights that need nothing beside them."""
    try:
        return fetch_to(path, weights, progress)
    except DownloadError as error:
        error.do = "Try again later, or name a folder with a copy of the repository: -m FOLDER"
        raise


def _check_built(asked: str, path: Path) -> None:
    """Raise ModelError if rtseg does not build the network that a `config.json` describes."""
    config = read_json(path, _Config, ModelError)
    if _architecture(config) is None and _kind(config) is None:
        kind = printable(config.smp_class or config.model_type)[:60] or "without a type"
        found = f"it has no ONNX file, and rtseg does not build its network ({kind})"
        raise ModelError(asked, found=found, do="Export its network to ONNX")


def _titled(title: str, progress: Progress | None) -> Progress | None:
    if progress is None:
        return None
    return lambda _, done, total: progress(title, done, total)


def _listing(asked: str, url: str) -> _Listing:
    place = WeightsSpec(url, "", "", LARGEST_LISTING / 1e6)
    with TemporaryDirectory() as own:  # others may ask at the same time
        path = _fetch_file(Path(own) / "listing.json", place)
        listing = read_json(path, _Listing, DownloadError)
    if re.fullmatch(r"[0-9a-f]{40}", listing.sha) is None:
        raise DownloadError(asked, found=f"the server names no commit, but {shown(listing.sha)}")
    return listing


def _licence(repo: str, card: _Card) -> str:
    """The licence of a repository's weights, as its card tells, and what it comes from."""
    bases = [card.base_model] if isinstance(card.base_model, str) else card.base_model or []
    if any(name.lower().startswith("nvidia/") for name in (repo, *bases)):
        return NVIDIA
    named = card.license if isinstance(card.license, str) else ", ".join(card.license or ())
    text = card.license_name if named == "other" and card.license_name else named
    return f"licence: {printable(text)[:MAX_NAME]}" if text else "no licence named"
