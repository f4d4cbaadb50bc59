"""What is measured, and on what."""

from __future__ import annotations

from dataclasses import dataclass

from rtseg.errors import UsageError
from rtseg.options import check, flag, option

ONLY_DATA = ("format", "split", "classes", "min_share", "names")
"""Fields that describe `data`."""
ONLY_LABELLED = (
    "show_class",
    "boundary",
    "min_miou",
    "confusion",
    "worst",
    "worst_to",
    "allow_outside",
)
"""Fields on labelled images, and on what is measured against labels, of which clips have none."""


@dataclass(frozen=True)
class EvalOptions:
    """What `rtseg eval` measures.

    Attributes:
        data: Folder or file of labelled images; several may follow.
        clip: Unlabelled video or folder of frames to measure flicker on; several may follow.
        max_frames: Stop each --clip after this many frames.
        suite: TOML file of sets and models; see rtseg/evaluation/sets.py.
        root: Folder that paths in the suite are relative to; default its own.
        format: Layout of --data: auto, coco, cityscapes, voc, ...
        split: Split of --data, or all; default val, else test, else everything.
        classes: Map classes of --data to the model's, such as person=*; repeatable.
        min_share: Only images of --data in which a class has at least this share: person=0.05.
        names: Only images of --data that are listed in this file, one per line; or a run's
            split.json, for its splits.
        allow_outside: Read images that names or links in datasets lead to, outside their folders.
        max_pictures: Use at most this many images of each set, evenly spaced.
        model: Names of `rtseg models`, or files; several may follow.
        imgsz: Input size: auto (as in rtseg run, in the usual shape nearest to the image's), exact
            (the image's own shape), HxW, one number, or long:N (long side N, shape kept).
        show_class: Add a column with the IoU of this class; repeatable.
        smooth: Also measure sequences and clips with temporal smoothing of this strength, 0 to 1.
        boundary: Also measure the boundary F-score.
        min_miou: Exit with 5 if any mean IoU is below this, 0 to 1.
        confusion: Write the confusion matrix as an image.
        worst: Save this many of the worst images; needs --worst-to.
        worst_to: Folder for the worst images: truth and prediction.

    Raises:
        UsageError: a value makes no sense, or without another.
    """

    data: tuple[str, ...] = ()
    clip: tuple[str, ...] = ()
    max_frames: int | None = option(None, least=2)
    suite: str | None = None
    root: str | None = None
    format: str = "auto"
    split: str | None = None
    classes: tuple[str, ...] = ()
    min_share: tuple[tuple[str, float], ...] = ()
    names: str | None = None
    allow_outside: bool = False
    max_pictures: int | None = option(None, least=1)
    model: tuple[str, ...] = ()
    imgsz: str = "auto"
    show_class: tuple[str, ...] = ()
    smooth: float = option(0.0, least=0, most=1)
    boundary: bool = False
    min_miou: float | None = None
    confusion: str | None = None
    worst: int | None = option(None, least=1)
    worst_to: str | None = None

    def __post_init__(self) -> None:
        check(self)
        least = self.min_miou
        if least is not None and not 0 <= least <= 1:
            hint = f"Did you mean {least / 100:g}?" if 1 < least <= 100 else ""
            found = "it must be a share from 0 to 1"
            raise UsageError(f"--min-miou {least:g}", found=found, do=hint)
        if self.root is not None and self.suite is None:
            do = "--root is the folder that paths in a suite are relative to"
            raise UsageError("--root without --suite", do=do)
        if self.max_frames is not None and not self.clip:
            raise UsageError("--max-frames without --clip", do="Use --max-pictures for images")
        if self.max_pictures is not None and not (self.data or self.suite):
            raise UsageError("--max-pictures without images", do="Use --max-frames for clips")
        for name in () if self.data or self.suite else ONLY_LABELLED:
            if getattr(self, name) != getattr(type(self), name):
                do = "Name labelled images with --data or --suite"
                raise UsageError(f"{flag(name)} without labelled images", do=do)
        if (self.worst is None) != (self.worst_to is None):
            do = "Use both: how many, and where"
            raise UsageError("--worst and --worst-to need each other", do=do)
        given = [name for name in ONLY_DATA if getattr(self, name) not in (None, (), "auto")]
        if given and not self.data:
            do = "For a suite, write it in the file's [[set]]"
            raise UsageError(f"{flag(given[0])} without --data", do=do)
