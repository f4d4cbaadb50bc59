"""The verb `models`: list, show, download, verify."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from rtseg.cli.process import Stop, out
from rtseg.cli.report import DownloadProgress, print_table
from rtseg.errors import DownloadError, UsageError
from rtseg.nets import default_model, find_model, shipped
from rtseg.nets.hub import PREFIX, PUBLISHED
from rtseg.nets.weights import fetch, is_intact, weights_path
from rtseg.zoo import MODELS, ModelSpec, built_in

COLUMNS = ("name", "architecture", "classes", "mIoU %", "MB", "weights", "licence")
HUB_COLUMNS = ("name", "classes", "mIoU %", "MB", "licence")


def list_models() -> int:
    """Print the table of models, and the default."""
    specs = {name: find_model(name).spec for name in shipped()} | MODELS
    print_table(COLUMNS, (_row(name, spec) for name, spec in specs.items()), right={2, 3, 4})
    out("\nof the Hugging Face hub:")
    rows = (
        (p.address, p.classes, f"{p.miou:.1f}", f"{p.megabytes:.1f}", p.licence) for p in PUBLISHED
    )
    print_table(HUB_COLUMNS, rows, right={2, 3})
    out(f"\ndefault: {default_model()}")
    return 0


def show_model(name: str) -> int:
    """Print everything about one model."""
    spec = _named(name)
    rows = asdict(spec) | {"labels": ", ".join(spec.labels.names)}
    if spec.parameters is not None:
        rows["parameters"] = f"{spec.parameters:.1f} million"
    rows |= {"classes": len(spec.labels), "state": _state(name, spec), "file": _file(name, spec)}
    for key, value in rows.items():
        if isinstance(value, dict):
            given = {part: inner for part, inner in value.items() if inner not in (None, "")}
            value = ", ".join(f"{part} {_plain(inner)}" for part, inner in given.items())
        if value not in (None, ""):
            out(f"{key:<14}{_plain(value)}")
    return 0


def _plain(value: object) -> str:
    """A value without Python's brackets."""
    if isinstance(value, tuple):
        return "/".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _file(name: str, spec: ModelSpec) -> Path | None:
    """Where the model's file is, or will be."""
    if name in shipped():
        return shipped()[name]
    if name not in MODELS and Path(name).is_file():
        return Path(name)
    return weights_path(spec.weights) if spec.weights else None


def download_models(names: Iterable[str], *, everything: bool, stop: Stop) -> int:
    """Download published weights into the cache, unless they are there already.

    Raises:
        ModelError: a model is unknown.
        DownloadError: weights cannot be downloaded.
    """
    names = (*names, *(MODELS if everything else ()))
    if not names:
        raise UsageError("no model given", do="Name models, or use --all")
    specs = {name: _named(name) for name in names}
    for name, spec in specs.items():
        if spec.weights is not None and name in MODELS:
            out(f"{name}: {fetch(spec.weights, DownloadProgress(stop))}")
        elif not everything:
            out(f"{name}: {_state(name, spec)}, nothing to download")
    return 0


def verify_models() -> int:
    """Check every downloaded file against its published checksum.

    Raises:
        DownloadError: a file differs from what was published.
    """
    broken = []
    for name, spec in MODELS.items():
        if spec.weights is None or not weights_path(spec.weights).is_file():
            continue
        intact = is_intact(weights_path(spec.weights), spec.weights)
        broken += [] if intact else [name]
        out(f"{name}: {'intact' if intact else 'BROKEN'}, {weights_path(spec.weights)}")
    if not any(_state(name, spec) == "downloaded" for name, spec in MODELS.items()):
        out("nothing is downloaded yet")
    for name in shipped():
        find_model(name)  # a shipped model is checked whenever it is found
        out(f"{name}: intact, {shipped()[name]}")
    if broken:
        raise DownloadError(
            f"broken weights: {', '.join(broken)}",
            do=f"Download them again with rtseg models download {' '.join(broken)}",
        )
    return 0


def _named(name: str) -> ModelSpec:
    return built_in(name) or find_model(name).spec


def _row(name: str, spec: ModelSpec) -> tuple[str, ...]:
    weights = spec.weights
    return (
        name,
        spec.architecture,
        str(len(spec.labels)),
        f"{spec.miou:.1f}" if spec.miou is not None else "-",
        f"{weights.megabytes:.1f}" if weights else "-",
        _state(name, spec),
        ((weights.licence if weights else "") or spec.licence or "-").partition(";")[0],
    )


def _state(name: str, spec: ModelSpec) -> str:
    if name in shipped():
        return "shipped"
    if name not in MODELS and Path(name).exists():
        return "a file"
    if name.startswith(PREFIX):
        return "downloaded"
    if spec.weights is None:
        return "needs none" if spec.architecture == "stub" else "to train"
    return "downloaded" if weights_path(spec.weights).is_file() else "to download"
