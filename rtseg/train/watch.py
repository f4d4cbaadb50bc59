"""What a training run tells whoever watches it; only the command line prints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One epoch: a line of metrics.csv.

    Attributes:
        epoch: counted from 1.
        step: optimizer steps since the beginning.
        lr: learning rate of the last step.
        train_loss: mean over the epoch's steps, auxiliary loss included.
        val_loss: of the validation split, by pixels, without the auxiliary loss.
        miou, mean_accuracy, pixel_accuracy: of the validation split, 0 to 1.
        ious: one per class; NaN for a class in neither truth nor prediction.
        seconds: time that the epoch took.
        best: whether it was the best so far.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    val_loss: float
    miou: float
    mean_accuracy: float
    pixel_accuracy: float
    ious: tuple[float, ...]
    seconds: float
    best: bool


class Watch:
    """Sees nothing; the command line's says something."""

    def note(self, heading: str, text: str) -> None:
        """A line for the beginning or end of a run."""

    def wrong(self, text: str) -> None:
        """Something that is wrong with the dataset; never kept back."""

    def checked(self, done: int, total: int) -> None:
        """`done` of `total` labelled pictures have been looked at."""

    def fetched(self, title: str, done: int, total: int) -> None:
        """`done` of `total` bytes of the file `title` are here."""

    def stepped(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """`step` of the `steps` of epoch `epoch`, counted from 1, is done."""

    def validated(self, row: Row) -> None:
        """An epoch is done."""

    def tested(self, done: int, total: int) -> None:
        """`done` of `total` pictures of the test split have been segmented."""
