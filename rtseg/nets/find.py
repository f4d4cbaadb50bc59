"""Find a network by what a person names: a name of the zoo, one that ships, or a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from rtseg.cache import sha256
from rtseg.errors import ModelError
from rtseg.nets.hub import (
    CONFIG,
    ONNX_FILES,
    PREFIX,
    WEIGHTS,
    built_elsewhere,
    describe,
    fetch_repository,
    network_in,
)
from rtseg.nets.ir import SUFFIX, ir_spec
from rtseg.nets.onnx_file import DEFAULT_SIZE, onnx_spec
from rtseg.nets.settings import (
    Settings,
    laid_over,
    number,
    read_beside,
    read_settings,
    refuse_flags,
    usual_scale,
)
from rtseg.nets.weights import Progress, fetch
from rtseg.options import imported
from rtseg.text import did_you_mean, read_text, user_path
from rtseg.zoo import MODELS, Model, ModelSpec, built_in

DEFAULT_MODEL = "person"
CHECKPOINTS = (".safetensors", ".pth", ".pt")
SUFFIXES = (*CHECKPOINTS, ".onnx", SUFFIX)
BEST = "best.pth"
"""The network in the folder of a training run."""

INT8_FORM = "-int8"
"""Ends the name of a network's int8 form, which `--backend auto` runs where it is faster."""

RANDOM = "random"
RANDOM_NOTE = "random weights (seed 0): fit for timing, the masks mean nothing"


def shipped() -> dict[str, Path]:
    """The networks that ship with rtseg, by name."""
    package = Path(__file__).parents[1]
    checkout = package.parent
    folder = package / "models"
    if not folder.is_dir() and (checkout / "pyproject.toml").is_file():
        folder = checkout / "models"
    # weights win over their ONNX form: they are exported for the size and device at hand
    return {
        path.stem: path
        for suffix in reversed(SUFFIXES)
        for path in sorted(folder.glob(f"*{suffix}"))
        if not path.stem.endswith(INT8_FORM)
    }


def default_model() -> str:
    """The name of the network that runs if none is named."""
    return DEFAULT_MODEL if DEFAULT_MODEL in shipped() else "stub"


def find_model(
    name_or_path: str | Path,
    *,
    weights: str | Path | None = None,
    input_flags: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Model:
    """Find a network, and have its weights on this machine.

    Args:
        name_or_path: a name of the zoo or of `shipped()`; an ONNX file or the XML of OpenVINO's, or
            a folder of the hub with one, or "hf:OWNER/NAME" there; a checkpoint, or the folder of
            the training run that made it; "stub?delay=100ms" for a slow network.
        weights: a state dict, checkpoint or safetensors file for a named architecture, or
            "random" for seeded random weights; None is the published ones, downloaded once.
        input_flags: settings of a foreign file, over those of the TOML file beside it; the keys
            are those of `rtseg.nets.settings`.
        progress: shows a download.

    Raises:
        ModelError: there is no such network, or its file is not valid.
        UsageError: flags were given for a network that does not need them.
        DownloadError: the weights are not in the cache and cannot be fetched.
    """
    text = str(name_or_path)
    name, _, query = text.partition("?")
    if name == "stub":
        refuse_flags(input_flags, text)
        if weights is not None and str(weights) != RANDOM:
            raise ModelError(f"weights {weights} for {text}", found="the stub has none")
        return _stub(query)
    if text.startswith(PREFIX):
        return _from_hub(text, weights, input_flags, progress)
    if (spec := built_in(text)) is not None:
        return _named(spec, weights, input_flags, progress)
    path = shipped().get(text) or _in_folder(user_path(text))
    if path.suffix not in SUFFIXES:
        raise _unknown(text)
    _require_file(path, f"cannot open the model {text}")
    if path.suffix in (".onnx", SUFFIX):
        return _from_graph(path, weights, input_flags)
    return _from_checkpoint(path, weights, input_flags)


def _in_folder(path: Path) -> Path:
    """The network of a folder, of a training run or of the hub; any other path as it is."""
    if not path.is_dir():
        return path
    if (path / BEST).is_file():
        return path / BEST
    if (found := network_in(path)) is not None:
        return found
    neither = f"the folder has neither {BEST} nor {CONFIG} with {ONNX_FILES[0]}"
    raise ModelError(f"cannot open the model {path}", found=neither)


def _unknown(text: str) -> ModelError:
    if "/" in text and not user_path(text).exists():
        found, do = "there is no such file or folder", "Check the path"
        return ModelError(f"cannot open the model {text}", found=found, do=do)
    names = [*shipped(), *MODELS]
    files = "A file must end in .onnx, .xml, .pth, .pt or .safetensors"
    return ModelError(
        f"unknown model {text!r}",
        found="models are " + ", ".join(names),
        do=did_you_mean(text, names, files),
    )


def _require_file(path: Path, asked: str) -> None:
    if not path.is_file():
        found = "it is a folder" if path.is_dir() else "there is no such file"
        raise ModelError(asked, found=found)


def _stub(query: str) -> Model:
    options = dict(parse_qsl(query, keep_blank_values=True))
    delay = options.pop("delay", "0")
    if options:
        raise ModelError(
            f"unknown option {next(iter(options))!r} of the stub",
            found="its only option is delay=100ms",
        )
    return Model(MODELS["stub"], None, "none", delay_seconds=_seconds(delay))


def _seconds(text: str) -> float:
    """ "100ms", "0.1s" or "0.1" in seconds."""
    for suffix, factor in (("ms", 1e-3), ("s", 1.0), ("", 1.0)):
        if text.endswith(suffix):
            try:
                value = number(text.removesuffix(suffix)) * factor
            except ValueError:
                value = -1
            break
    if not 0 <= value <= 3600:
        raise ModelError(f"delay={text}", found="it must be a time such as 100ms or 0.1s")
    return value


def _named(
    spec: ModelSpec,
    weights: str | Path | None,
    flags: Mapping[str, Any] | None,
    progress: Progress | None,
) -> Model:
    if weights is None or str(weights) == RANDOM:
        refuse_flags(flags, spec.name)
    if weights is None and spec.weights is not None:
        return Model(spec, fetch(spec.weights, progress), "torch")
    if weights is None:
        raise ModelError(
            f"{spec.name} has no weights",
            found="none are published that rtseg could download",
            do=f"Train it: rtseg train -m {spec.name} --data DATASET; or time it: --weights random",
        )
    if str(weights) == RANDOM:
        return _random(spec)
    path = user_path(weights)
    _require_file(path, f"cannot open the weights {weights}")
    if path.suffix == ".onnx":
        raise ModelError(
            f"weights {path} for {spec.name}",
            found="an ONNX file is a whole model",
            do=f"Use it as the model: --model {path}",
        )
    own = _spec_of(path)
    if own is not None and own.architecture != spec.architecture:
        raise ModelError(f"weights {path} for {spec.name}", found=f"they are of {own.architecture}")
    if own is not None:
        refuse_flags(flags, path.name)
    unpublished = replace(spec, weights=None, miou=None, dataset="", licence="")
    return Model(own or _changed(unpublished, read_settings(path, flags)), path, "torch")


def _random(spec: ModelSpec) -> Model:
    return Model(replace(spec, weights=None, miou=None), None, "random", (RANDOM_NOTE,))


def _from_graph(path: Path, weights: str | Path | None, flags: Mapping[str, Any] | None) -> Model:
    """The network of an ONNX file or of OpenVINO's files."""
    is_onnx = path.suffix == ".onnx"
    if weights is not None:
        raise ModelError(
            f"weights {weights} for {path}",
            found="an ONNX file has its own" if is_onnx else "they are beside it",
            do="Remove --weights, or pass the architecture with --model",
        )
    spec, notes = (onnx_spec if is_onnx else ir_spec)(path, flags)
    return Model(spec, path, "onnx" if is_onnx else "openvino", notes)


def _from_hub(
    text: str,
    weights: str | Path | None,
    flags: Mapping[str, Any] | None,
    progress: Progress | None,
) -> Model:
    found = fetch_repository(text, progress)
    is_graph = found.file.suffix in (".onnx", SUFFIX)
    open_file = _from_graph if is_graph else _from_checkpoint
    model = open_file(found.file, weights, flags)
    spec = replace(model.spec, name=found.repo, licence=found.licence)
    note = f"{found.repo} at commit {found.commit[:12]}; {found.licence}"
    return replace(model, spec=spec, notes=(note, *model.notes))


def _from_checkpoint(
    path: Path, weights: str | Path | None, flags: Mapping[str, Any] | None
) -> Model:
    notes: tuple[str, ...] = ()
    if (spec := _spec_of(path)) is not None:
        refuse_flags(flags, spec.name)
    else:
        known, assumed = describe(path)
        notes = (f"{path.parent.name}: assumed {', '.join(assumed)}",) if assumed else ()
        settings = read_settings(path, flags, known)
        base = built_in(settings.architecture or "")
        if base is None and weights is None and (kind := built_elsewhere(path)):
            return _from_elsewhere(path, kind, flags, (known, assumed), settings.size)
        if base is None:
            raise _unknown_weights(path)
        spec = _changed(replace(base, weights=None, miou=None, dataset="", licence=""), settings)
    if weights is not None and str(weights) != RANDOM:
        raise ModelError(
            f"weights {weights} for {path}",
            found="a checkpoint has its own",
            do=f"Use -m {weights}, or name the architecture of the weights with -m NAME",
        )
    if weights is not None:
        return _random(spec)
    if spec.weights and len(spec.weights.sha256) == 64 and sha256(path) != spec.weights.sha256:
        raise ModelError(
            f"cannot trust {path}",
            found=f"its SHA-256 is not {spec.weights.sha256[:16]}..., as in its spec",
            do="Install rtseg again",
        )
    return Model(spec, path, "torch", notes)


def _from_elsewhere(
    path: Path,
    kind: str,
    flags: Mapping[str, Any] | None,
    described: tuple[dict[str, Any], list[str]],
    size: tuple[int, int] | None,
) -> Model:
    """The network of a hub folder that rtseg does not build itself, as an ONNX file."""
    notes: list[str] = []
    file = imported("rtseg.nets.exported:exported")(path, kind, size or DEFAULT_SIZE, notes)
    known, missing = described
    spec, assumed = onnx_spec(file, flags, (laid_over(known, read_beside(path)), missing))
    return Model(spec, file, "onnx", (*notes, *assumed))


def _unknown_weights(path: Path) -> ModelError:
    if (path.parent / CONFIG).is_file() and path.name == WEIGHTS:
        return ModelError(
            f"cannot open the model {path.parent}",
            found=f"it has no {ONNX_FILES[0]}, and rtseg does not build a network of its {CONFIG}",
            do="Export its network to ONNX",
        )
    return ModelError(
        f"cannot tell which model {path} belongs to",
        found="it holds weights only",
        do=f"Name the model: --model NAME --weights {path}",
    )


def _changed(spec: ModelSpec, settings: Settings) -> ModelSpec:
    """The spec with a state dict's settings: labels, size, normalisation.

    Raises:
        ModelError: they have others, which are of foreign networks.
    """
    usual = {
        "layout": (None, "NCHW"),
        "activation": (None, "none", "logits"),
        "output": (None,),
        "align_corners": (False, spec.align_corners),
    }
    others = [name for name, each in usual.items() if getattr(settings, name) not in each]
    if others:
        raise ModelError(
            f"{', '.join(others)} for weights of {spec.name}",
            found="rtseg builds the network itself, and knows them",
            do="Remove them from the flags or the TOML file beside the weights",
        )
    names = ("size", "colour", "scale", "mean", "std")
    given = {name: getattr(settings, name) for name in names}
    taken = replace(spec.input, **{name: each for name, each in given.items() if each is not None})
    if settings.scale is None and (settings.mean or settings.std):
        mean, std = settings.mean or (0.0, 0.0, 0.0), settings.std or (1.0, 1.0, 1.0)
        if usual_scale(mean, std) == 1:  # of pixels, unlike the network's own
            taken = replace(taken, scale=1.0, mean=mean, std=std)
        else:
            taken = replace(taken, scale=1 / 255)
    labels = settings.labels or spec.labels
    return replace(spec, name=settings.name or spec.name, labels=labels, input=taken)


_IS_SPEC = re.compile(r'"rtseg"\s*:\s*-?\d+\s*[,}]')


def _spec_of(path: Path) -> ModelSpec | None:
    """The spec in a checkpoint, or in a JSON file beside it, unless that has other data."""
    beside = path.with_suffix(".json")
    if beside.is_file():
        with suppress(OSError, UnicodeDecodeError):
            if _IS_SPEC.search(text := read_text(beside)):
                return ModelSpec.from_json(text, str(beside))
    if path.suffix == ".safetensors":
        return _safetensors_spec(path)
    from rtseg.nets.state import read_checkpoint

    return read_checkpoint(path)[0]


def _safetensors_spec(path: Path) -> ModelSpec | None:
    """As `read_checkpoint`, without loading torch."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get("rtseg")
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"cannot read weights from {path}",
            found=f"not a valid safetensors file ({error})",
            do="Download or export them again",
        ) from error
    return None if text is None else ModelSpec.from_json(text, f"the spec in {path}")
