"""Labelled images in any of the layouts of `DATASETS`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from msgspec.structs import asdict

from rtseg.datasets.contract import Dataset, Layout, Problem, Sample, SplitFile, refuse_outside
from rtseg.datasets.folders import read_lines, split_of, subfolders
from rtseg.documents import read_json
from rtseg.errors import DatasetError, UsageError
from rtseg.options import imported
from rtseg.text import listed, user_path

__all__ = [
    "DATASETS",
    "Dataset",
    "Layout",
    "Problem",
    "Sample",
    "SplitFile",
    "layout_of",
    "named_samples",
    "open_dataset",
]

DATASETS: dict[str, str] = {
    "coco": "rtseg.datasets.coco:LAYOUT",
    "masks-csv": "rtseg.datasets.masks_csv:LAYOUT",
    "cityscapes": "rtseg.datasets.cityscapes:LAYOUT",
    "voc": "rtseg.datasets.voc:LAYOUT",
    "labelme": "rtseg.datasets.exports:LABELME",
    "cvat": "rtseg.datasets.exports:CVAT",
    "supervisely": "rtseg.datasets.exports:SUPERVISELY",
    "yolo": "rtseg.datasets.exports:YOLO",
    "folder": "rtseg.datasets.folders:LAYOUT",
}
"""Format -> the `Layout` that reads it; with several that match a path, the first is used."""


def open_dataset(
    path: str | Path,
    *,
    format: str = "auto",
    split: str | None = None,
    allow_outside: bool = False,
) -> Dataset:
    """Index labelled images; no image is opened yet.

    Args:
        path: the folder, or the COCO JSON file.
        format: a row of `DATASETS`; "auto" takes the first that matches.
        split: keep only the samples of this split.
        allow_outside: whether names and links may lead to images outside the dataset's folder.

    Raises:
        UsageError: the format is unknown.
        DatasetError: the path does not exist, has no known layout, or holds no labelled image, or
            the split does not exist, or an image lies outside.
    """
    root = user_path(path)
    if format != "auto" and format not in DATASETS:
        raise UsageError(f"unknown format {format!r}", found="formats are " + ", ".join(DATASETS))
    if not root.exists():
        raise DatasetError(f"cannot open {root}", found="no such file or folder")
    refuse_root(root)
    dataset = _index(root, format)
    if not dataset.samples:
        raise _no_samples(root, format, dataset)
    if not allow_outside:
        refuse_outside(replace(dataset, root=root))
    return dataset if split is None else _only_split(dataset, split)


def refuse_root(path: Path) -> None:
    """Raise DatasetError for the whole of a disk, which would be searched for days."""
    if path.resolve() == Path(path.resolve().anchor):
        raise DatasetError(f"{path} is not a dataset", found="it is the root of a disk")


def layout_of(path: str | Path) -> str | None:
    """The row of `DATASETS` that matches a folder or file, or None."""
    root = user_path(path)
    return next((name for name in DATASETS if _layout(name).matches(root)), None)


def named_samples(dataset: Dataset, path: Path) -> tuple[Sample, ...]:
    """The samples that a file lists, in the dataset's order.

    Args:
        path: text with one name per line; or the split.json of a training run, whose splits the
            samples then have.

    Raises:
        DatasetError: the file cannot be read or is empty, or a name is unknown.
    """
    splits = _read_splits(path) if path.suffix.lower() == ".json" else {}
    wanted = list(splits) or read_lines(path)
    unknown = sorted(set(wanted) - {sample.name for sample in dataset.samples})
    if unknown or not wanted:
        example = dataset.samples[0].name
        raise DatasetError(
            f"cannot select the images listed in {path}",
            found=f"not in the dataset: {listed(unknown)}" if unknown else "the file is empty",
            do=f"Write names like {example}, one per line.",
        )
    kept = set(wanted)
    return tuple(
        replace(sample, split=splits.get(sample.name, sample.split))
        for sample in dataset.samples
        if sample.name in kept
    )


def _read_splits(path: Path) -> dict[str, str]:
    """Sample name -> split, from the split.json of a training run; raises DatasetError."""
    do = "Give the split.json of a run, or a text file with one name per line."
    named = read_json(path, SplitFile, DatasetError, do=do)
    return {name: split for split, names in asdict(named).items() for name in names}


def _layout(name: str) -> Layout:
    layout: Layout = imported(DATASETS[name])
    return layout


def _index(root: Path, format: str) -> Dataset:
    if format != "auto":
        return _layout(format).index(root)
    folder = root
    while (name := layout_of(folder)) is None:
        inner = subfolders(folder) if folder.is_dir() else []
        if len(inner) != 1:  # an unpacked archive is often one folder in another
            raise _unknown_layout(root)
        folder = inner[0]
    try:
        return _layout(name).index(folder)
    except DatasetError as error:
        if (name == "folder" or root.is_file()) and (named := _refused(root)):
            raise named from error
        raise


def _refused(root: Path) -> DatasetError | None:
    from rtseg.datasets.exports import refused

    return refused(root)


def _unknown_layout(root: Path) -> DatasetError:
    if named := _refused(root):
        return named
    layouts = "".join(f"\n  {name}: {_layout(name).description}" for name in DATASETS)
    return DatasetError(
        f"no labelled images of a known layout in {root}", found="looked for" + layouts
    )


def _no_samples(root: Path, format: str, dataset: Dataset) -> DatasetError:
    """The error for a dataset without samples; suggests another layout if one matches."""
    asked = f"no labelled images in {root}"
    if dataset.problems or format == "auto" or _layout(format).matches(root):
        if not dataset.problems and (named := _refused(root)):
            return named
        why = listed(dataset.problems, 3) or listed(dataset.notes, 3) or "it is empty"
        return DatasetError(asked, found=why)
    other = layout_of(root)
    return DatasetError(
        asked,
        found=f"it does not have the layout {format}: {_layout(format).description}",
        do=f"It looks like {other}: leave out --format" if other else "",
    )


def _only_split(dataset: Dataset, split: str) -> Dataset:
    wanted = split_of(split) or split
    kept = tuple(sample for sample in dataset.samples if sample.split == wanted)
    if not kept:
        raise DatasetError(
            f"no split {split!r} in {dataset.root}",
            found="splits are " + ", ".join(dataset.splits) if dataset.splits else "it has none",
        )
    return replace(dataset, samples=kept)
