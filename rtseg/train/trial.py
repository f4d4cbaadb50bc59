"""What the best network is worth, measured as it will run: through the live `Segmenter`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rtseg.datasets import Sample
from rtseg.evaluate.networks import Network
from rtseg.metrics import ConfusionMatrix
from rtseg.nets import find_model
from rtseg.train.charts import Seen
from rtseg.train.prepare import Prepared
from rtseg.train.watch import Watch

SHOWN = 4


@dataclass(frozen=True)
class TestFigures:
    """Figures of the test split, with masks at the pictures' own size.

    Attributes:
        pictures: how many.
        ious: one per class; NaN for a class in neither truth nor prediction.
    """

    __test__ = False  # no test of pytest's

    pictures: int
    miou: float
    mean_accuracy: float
    pixel_accuracy: float
    ious: tuple[float, ...]

    def to_plain(self, names: Sequence[str]) -> dict[str, object]:
        """For JSON, which has no NaN: None stands for it."""
        ious = {n: None if v != v else v for n, v in zip(names, self.ious, strict=True)}
        return {
            "pictures": self.pictures,
            "miou": self.miou,
            "mean_accuracy": self.mean_accuracy,
            "pixel_accuracy": self.pixel_accuracy,
            "class_iou": ious,
        }


class Trial:
    """The checkpoint in `best`, opened by torch in single precision, as `rtseg -m` opens it."""

    def __init__(self, best: Path, made: Prepared, device: torch.device) -> None:
        self._made = made
        where = str(device) if device.type == "cuda" else device.type
        model = find_model(best)
        self._network = Network("best", model, backend="torch", device=where, precision="fp32")

    def samples(self) -> list[Seen]:
        """Some pictures of the validation split, evenly spread, with truth and prediction."""
        val = self._made.split["val"]
        step = max(1, len(val) // SHOWN)
        return [self._see(sample) for sample in val[::step][:SHOWN]]

    def test(self, watch: Watch, stop: Callable[[], bool]) -> TestFigures | None:
        """Figures of the test split; None where there is none, or when asked to stop."""
        samples = self._made.split["test"]
        matrix = ConfusionMatrix(len(self._made.spec.labels))
        for done, sample in enumerate(samples):
            if stop():
                return None
            watch.tested(done, len(samples))
            seen = self._see(sample)
            matrix.update(seen.truth, seen.predicted)
        if not matrix.pixels:
            return None
        watch.tested(len(samples), len(samples))
        return TestFigures(
            len(samples),
            matrix.mean_iou,
            matrix.mean_accuracy,
            matrix.pixel_accuracy,
            tuple(float(iou) for iou in matrix.class_iou),
        )

    def _see(self, sample: Sample) -> Seen:
        image = sample.read_image()
        truth = sample.read_as(self._made.classes.from_dataset)
        return Seen(sample.name, image, truth, self._network(image).mask)

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._network.close()
