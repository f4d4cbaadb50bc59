"""The verb `data`: what is in a dataset, before hours of training go into it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from rtseg.cli.flags import of_class, with_config
from rtseg.cli.options import TRAIN, DataReport
from rtseg.cli.process import Stop, out
from rtseg.cli.report import print_table, say, write_json
from rtseg.cli.train import TrainProgress
from rtseg.errors import UsageError
from rtseg.figures import SUFFIXES as FIGURES
from rtseg.figures import check_suffix
from rtseg.files import check_file
from rtseg.labels import VOID
from rtseg.outputs import Output, check_apart, check_not_among, read_by
from rtseg.training import TrainOptions, require_extra

if TYPE_CHECKING:
    from rtseg.training.prepare import Contents, Data


def describe(given: dict[str, Any], stop: Stop) -> int:
    """Check a dataset and print what is in it.

    Raises:
        DatasetError: it has problems, all of which are printed.
        RtsegError: a flag has a wrong value, or a file cannot be written.
    """
    report = DataReport(**of_class(DataReport, given))
    asked = of_class(TrainOptions, with_config(TRAIN, given))
    if not asked.get("dataset"):
        raise UsageError("no dataset given", do="Try rtseg data --data PATH; see rtseg data --help")
    options = TrainOptions(**asked)
    for text in filter(None, (report.sheet, report.json)):
        check_file(Path(text), report.overwrite)
    if report.sheet:
        check_suffix(Path(report.sheet))
    require_extra()
    with TrainProgress(stop, quiet=False) as progress:
        from rtseg.training.prepare import open_data

        data = open_data(options, progress)
        assert data.contents is not None, "the main process checks"
        _check_apart(report, options, data)
        figures = _figures(data, data.contents)
    if report.json != "-":
        _print(figures)
    if report.json:
        write_json(report.json, figures)
    if report.sheet:
        from rtseg.training.charts import draw_views

        draw_views(Path(report.sheet), data, options)
        say("wrote", report.sheet)
    return stop.exit_code


def _check_apart(report: DataReport, options: TrainOptions, data: Data) -> None:
    """Refuse outputs that replace one another or what is read."""
    named = {"--json": report.json, "--sheet": report.sheet}
    outputs = [Output.file(f"{flag} {text}", Path(text)) for flag, text in named.items() if text]
    read = {"--data": options.dataset, "--palette": options.palette, "--config": report.config}
    inputs = [
        (path, "a labelled image")
        for sample in data.dataset.samples
        for path in (sample.image_path, sample.mask_path)
        if path is not None
    ]
    check_apart(outputs, [*inputs, *read_by(read)])
    others = [output for output in outputs if output.path.suffix.lower() not in FIGURES]
    check_not_among(others, data.dataset.root, '"images": {')


def _figures(data: Data, contents: Contents) -> dict[str, Any]:
    """Numbers of images, pixels and sizes, for people and programs."""
    names, table = data.classes.labels.names, data.classes.from_dataset
    pixels = {split: np.zeros(256, np.int64) for split in data.split}
    images = {split: np.zeros(256, np.int64) for split in data.split}
    for split, samples in data.split.items():
        for sample in samples:
            counts = np.zeros(256, np.int64)
            np.add.at(counts, table, contents.counts[sample.name])
            pixels[split] += counts
            images[split] += counts > 0
    total = np.sum(list(pixels.values()), axis=0)
    labelled = max(1, int(total[: len(names)].sum()))
    sizes = [contents.sizes[sample.name] for samples in data.split.values() for sample in samples]
    return {
        "images": {split: len(samples) for split, samples in data.split.items()},
        "classes": [
            {
                "name": name,
                "share": round(int(total[index]) / labelled, 6),
                "images": {split: int(images[split][index]) for split in images},
            }
            for index, name in enumerate(names)
        ],
        "unlabelled": round(int(total[VOID]) / max(1, int(total.sum())), 6),
        "height": _spread([height for height, _ in sizes]),
        "width": _spread([width for _, width in sizes]),
    }


def _spread(values: Sequence[int]) -> dict[str, float]:
    return {"least": min(values), "median": median(values), "most": max(values)}


def _print(figures: dict[str, Any]) -> None:
    splits = list(figures["images"])
    rows = [
        (one["name"], f"{one['share']:.2%}", *(str(one["images"][split]) for split in splits))
        for one in figures["classes"]
    ]
    heads = ("class", "of labelled pixels", *(f"images of {split}" for split in splits))
    print_table(heads, rows, right=range(1, 2 + len(splits)))
    sizes = ", ".join(
        f"{side} {figures[side]['least']:g} to {figures[side]['most']:g}, "
        f"median {figures[side]['median']:g}"
        for side in ("height", "width")
    )
    out(f"\n{figures['unlabelled']:.2%} of all pixels have no label; {sizes} pixels")
