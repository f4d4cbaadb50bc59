"""Weights in files: state dicts, checkpoints, safetensors. No file may run code."""

from __future__ import annotations

import argparse
import errno
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rtseg.errors import ModelError, first_line
from rtseg.files import atomic
from rtseg.limits import MODEL_GB
from rtseg.nets.build import SeamNetwork, build, build_random, family_of
from rtseg.options import imported
from rtseg.zoo import Model, ModelSpec

State = Mapping[str, Tensor]

ZIP = b"PK\x03\x04"
MAX_EXPANSION, SMALL_BYTES = 4, 64 << 20
"""A checkpoint may be that many times as large in memory as on disk, and any small one."""

FLOATS = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
COUNTS = frozenset((torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool))
"""Types of the numbers in a network that were not trained, as numbers of batches."""

WEIGHTS = frozenset(("weight", "bias", "running_mean", "running_var"))
"""Last words of the names of others."""

TRAINING_ONLY = ("aux_classifier.", "teacher_classifier.")
"""Heads that serve training only."""


def load_network(model: Model, *, folded: bool = True) -> SeamNetwork:
    """The network of a checkpoint or of random weights, as rtseg runs it, on the CPU.

    Args:
        folded: whether batch normalisation goes into the convolutions.

    Raises:
        ModelError: the file cannot be read, or holds the weights of another network.
    """
    spec = model.spec
    if model.format == "random":
        network = build_random(spec.architecture, len(spec.labels))
        return SeamNetwork(network, spec, folded=folded)
    if model.format != "torch" or model.file is None:
        raise ModelError(
            f"no weights that torch can load for {spec.name}",
            found=f"its format is {model.format!r}",
            do="Use --backend onnx, or name a checkpoint",
        )
    network = build(spec.architecture, len(spec.labels))
    load_state(network, spec, read_checkpoint(model.file)[1], model.file)
    return SeamNetwork(network, spec, folded=folded)


def read_checkpoint(path: Path) -> tuple[ModelSpec | None, State]:
    """The spec, if the file has one, and the weights of a .pth, .pt or .safetensors file.

    Raises:
        ModelError: the file cannot be read, is damaged, or holds more than numbers.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = _unpickle(path)
    spec = content.get("spec")
    for key in ("state_dict", "model"):  # ours; that of torchvision's training scripts
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    state = {_plain(str(key)): value for key, value in content.items()}
    others = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        found = f"{others[0]!r} is not a tensor" if others else "it is empty"
        raise _unreadable(path, f"not a state dict: {found}")
    check_weights(path, state)
    return _spec(path, spec), state


def check_weights(path: Path, state: State) -> None:
    """Raise ModelError for tensors that a network does not take as they are."""
    for key, value in state.items():
        if kind := _kind(key, value):
            raise ModelError(
                f"cannot use the weights in {path}",
                found=f"{key!r} is {kind}",
                do="Save its state dict as dense tensors of float32 or float16",
            )
        if key.startswith(TRAINING_ONLY):
            continue
        # of a view that repeats what it stores, which costs nothing in a file, that is enough
        stored = value.untyped_storage().nbytes() // value.element_size()
        numbers = (
            value if value.numel() <= stored else value.new_empty(0).set_(value.untyped_storage())
        )
        if not torch.isfinite(numbers).all():
            raise ModelError(
                f"cannot use the weights in {path}",
                found=f"{key!r} holds infinite or undefined numbers (NaN)",
                do="Train it again, or use an earlier checkpoint",
            )


def _kind(key: str, value: Tensor) -> str:
    """What a tensor is, if it does not hold plain numbers: "a sparse tensor"; else ""."""
    if value.is_nested:
        return "a nested tensor"
    if value.is_quantized:
        return "a quantised tensor"
    if value.layout != torch.strided:
        return "a sparse tensor"
    if value.device.type != "cpu":
        return f"a tensor without data, on the device {value.device.type!r}"
    weighs = key.rpartition(".")[2] in WEIGHTS
    if value.dtype not in FLOATS and (weighs or value.dtype not in COUNTS):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')}"
    return ""


def save_checkpoint(path: Path, spec: ModelSpec, state: State) -> None:
    """Write weights and spec into one file, .safetensors or else .pth, atomically.

    Raises:
        OSError: it cannot be written.
    """
    if path.suffix != ".safetensors":
        save_archive(path, {"spec": spec.to_json(), "state_dict": dict(state)})
        return
    from safetensors.torch import save

    whole = {key: value.contiguous() for key, value in state.items()}
    with atomic(path) as temporary:  # its own save_file makes one that only its owner can read
        temporary.write_bytes(save(whole, metadata={"rtseg": spec.to_json()}))


def save_archive(path: Path, content: dict[str, Any]) -> None:
    """Write what torch loads, whole or not at all; raises OSError."""
    with atomic(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # torch's own writer does not report the system's reason
            reason = f"the disk is probably full ({first_line(error)})"
            raise OSError(errno.ENOSPC, reason) from error


def load_state(network: nn.Module, spec: ModelSpec, state: State, path: Path) -> None:
    """Put the weights into the network.

    Raises:
        ModelError: they belong to another network, or to another number of classes.
    """
    state = own_names(spec.architecture, state)
    given = {key: value for key, value in state.items() if not key.startswith(TRAINING_ONLY)}
    wanted = network.state_dict()
    asked = f"cannot load {path} as {spec.architecture}"
    last = f"{family_of(spec.architecture).class_layers[0]}.weight"
    if last in given and given[last].shape[:1] != wanted[last].shape[:1]:
        raise ModelError(
            asked,
            found=f"it has {len(given[last])} classes, {spec.name} has {len(wanted[last])}",
            do=f"Name its classes with --labels or in {path.with_suffix('.toml').name} beside it",
        )
    fill(network, given, asked, do="Name the model that these weights belong to with --model")


def fill(network: nn.Module, state: State, asked: str, do: str) -> None:
    """Put weights into a network that has just these; else raise ModelError."""
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in state and "num_batches" not in key]
    unexpected = [key for key in state if key not in wanted]
    shapes = [k for k in state if k in wanted and state[k].shape != wanted[k].shape]
    if missing or unexpected or shapes:
        raise ModelError(asked, found=_differences(missing, unexpected, shapes), do=do)
    network.load_state_dict(state, strict=False)


def own_names(architecture: str, state: State) -> State:
    """Weights of such a network as others publish them, under the names that rtseg gives them."""
    place = family_of(architecture).state
    return imported(place)(architecture, state) if place else state


def _differences(missing: list[str], unexpected: list[str], shapes: list[str]) -> str:
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return ", ".join(
        f"{len(keys)} weights {kind} ({keys[0]}{', ...' if len(keys) > 1 else ''})"
        for kind, keys in kinds.items()
        if keys
    )


def _plain(key: str) -> str:
    """The key without the prefix of DistributedDataParallel."""
    return key.removeprefix("module.")


def check_archive(path: Path) -> None:
    """Raise ModelError for a checkpoint that would be far larger in memory than on disk.

    torch compresses nothing, so its files are as large as their contents.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(ZIP)) != ZIP:
                return  # of torch before 1.6, which is not an archive
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise _unreadable(path, "not a valid PyTorch file") from error
    found = f"it is {path.stat().st_size / 1e6:.1f} MB, and unpacked {unpacked / 1e6:.1f} MB"
    if unpacked > max(MAX_EXPANSION * path.stat().st_size, SMALL_BYTES):
        raise ModelError(f"refused to load {path}", found=found, do="Save it uncompressed")
    if unpacked > MODEL_GB.value() * 1e9:
        raise ModelError(f"refused to load {path}", found=found, do=MODEL_GB.advice)


def _unpickle(path: Path) -> Mapping[str, Any]:
    check_archive(path)
    try:
        with warnings.catch_warnings():  # a file that may not be torch's: we report it below
            warnings.simplefilter("ignore", UserWarning)
            # torchvision's training scripts save their flags as one; making one runs no code
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise ModelError(
                f"refused to load {path}",
                found="it holds Python objects besides tensors, and loading them can run code",
                do="Save its state dict alone, or as .safetensors",
            ) from error
        raise _unreadable(path, "not a valid PyTorch file") from error
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    # what torch raises for the many ways in which a file can be damaged
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _unreadable(path, "not a valid PyTorch file") from error
    if not isinstance(content, Mapping):
        raise _unreadable(path, f"not a state dict but a {type(content).__name__}")
    return content


def _read_safetensors(path: Path) -> tuple[ModelSpec | None, State]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            spec = (file.metadata() or {}).get("rtseg")
            state = {_plain(key): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except SafetensorError as error:
        raise _unreadable(path, f"not a valid safetensors file ({error})") from error
    check_weights(path, state)
    return _spec(path, spec), state


def _spec(path: Path, text: object) -> ModelSpec | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise _unreadable(path, "its spec is not text")
    return ModelSpec.from_json(text, f"the spec in {path}")


def _unreadable(path: Path, found: str) -> ModelError:
    return ModelError(
        f"cannot read weights from {path}", found=found, do="Download or export them again"
    )
