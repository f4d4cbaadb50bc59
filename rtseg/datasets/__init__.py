"""Labelled pictures: one table, one `open_dataset`, one small file per layout."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

from rtseg.datasets.contract import Dataset, Layout, Problem, Sample
from rtseg.datasets.folders import SPLITS, read_lines, subfolders
from rtseg.errors import DatasetError, UsageError
from rtseg.text import listed

__all__ = [
    "DATASETS",
    "Dataset",
    "Layout",
    "Problem",
    "Sample",
    "layout_of",
    "named_samples",
    "open_dataset",
]

DATASETS: dict[str, str] = {
    "coco": "rtseg.datasets.coco:LAYOUT",
    "masks-csv": "rtseg.datasets.masks_csv:LAYOUT",
    "cityscapes": "rtseg.datasets.cityscapes:LAYOUT",
    "voc": "rtseg.datasets.voc:LAYOUT",
    "folder": "rtseg.datasets.folders:LAYOUT",
}
"""Format -> the `Layout` that recognises and reads it; the first that recognises it has it."""


def open_dataset(
    path: str | Path,
    *,
    format: str = "auto",
    split: str | None = None,
) -> Dataset:
    """Index labelled pictures, whatever folders and files they lie in; opens no picture yet.

    Args:
        path: the folder, or the COCO-JSON file.
        format: a row of `DATASETS`; "auto" takes the first that recognises what lies there.
        split: keep only this split's samples.

    Raises:
        UsageError: there is no such format.
        DatasetError: nothing is there, it is of no known layout, it holds no labelled picture, or
            there is no such split.
    """
    root = Path(path).expanduser()
    if format != "auto" and format not in DATASETS:
        raise UsageError(f"unknown format {format!r}", found="there are " + ", ".join(DATASETS))
    if not root.exists():
        raise DatasetError(f"cannot open {root}", found="there is no such file or folder")
    dataset = _indexed(root, format)
    if not dataset.samples:
        raise _nothing_in(root, format, dataset)
    return dataset if split is None else _only_split(dataset, split)


def layout_of(path: str | Path) -> str | None:
    """The row of `DATASETS` that a folder or file looks like; None where it looks like none."""
    root = Path(path).expanduser()
    return next((name for name in DATASETS if _layout(name).found_at(root)), None)


def _layout(name: str) -> Layout:
    module, _, attribute = DATASETS[name].partition(":")
    layout: Layout = getattr(import_module(module), attribute)
    return layout


def _indexed(root: Path, format: str) -> Dataset:
    if format != "auto":
        return _layout(format).index(root)
    at = root
    while (name := layout_of(at)) is None:
        inner = subfolders(at) if at.is_dir() else []
        if len(inner) != 1:  # an unpacked archive is often one folder in another
            raise _unknown(root)
        at = inner[0]
    return _layout(name).index(at)


def _unknown(root: Path) -> DatasetError:
    looked = "".join(f"\n  {name}: {_layout(name).looks_for}" for name in DATASETS)
    return DatasetError(
        f"no labelled pictures of a known layout in {root}", found="looked for" + looked
    )


def _nothing_in(root: Path, format: str, dataset: Dataset) -> DatasetError:
    """The error for a place where nothing was found; with another layout's name, if it has one."""
    asked, found = f"no labelled pictures in {root}", _told(dataset.problems)
    if found or format == "auto" or _layout(format).found_at(root):
        return DatasetError(asked, found=found or "it is empty")
    looks_like = layout_of(root)
    return DatasetError(
        asked,
        found=f"it has not the layout {format}: {_layout(format).looks_for}",
        do=f"It looks like {looks_like}: leave --format out" if looks_like else "",
    )


def _only_split(dataset: Dataset, split: str) -> Dataset:
    wanted = SPLITS.get(split.casefold(), split)
    kept = tuple(sample for sample in dataset.samples if sample.split == wanted)
    if not kept:
        raise DatasetError(
            f"no split {split!r} in {dataset.root}",
            found="there are " + ", ".join(dataset.splits) if dataset.splits else "it has none",
        )
    return replace(dataset, samples=kept)


def named_samples(dataset: Dataset, path: Path) -> tuple[Sample, ...]:
    """The samples that a text file names, one per line, in the dataset's order.

    Raises:
        DatasetError: the file cannot be read or is empty, or there is no such name.
    """
    wanted = read_lines(path)
    unknown = sorted(set(wanted) - {sample.name for sample in dataset.samples})
    if unknown or not wanted:
        example = dataset.samples[0].name
        raise DatasetError(
            f"cannot keep the pictures that {path} names",
            found=f"there is no {listed(unknown)}" if unknown else "it is empty",
            do=f"Names look like {example}, one per line.",
        )
    kept = set(wanted)
    return tuple(sample for sample in dataset.samples if sample.name in kept)


def _told(problems: tuple[Problem, ...]) -> str:
    return listed([str(problem) for problem in problems], 3)
