"""Sets: which images of which dataset are measured; suites: TOML files of sets and models."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rtseg.cache import cache_path, make_room, mark_used, sha256
from rtseg.datasets import Dataset, Problem, Sample, named_samples, open_dataset, refuse_root
from rtseg.datasets.checks import check_masks, degenerate
from rtseg.datasets.classes import ClassMap
from rtseg.datasets.contract import MovedMask, Table, refuse_outside
from rtseg.datasets.folders import SUFFIXES, split_of
from rtseg.datasets.split import leaks
from rtseg.documents import convert, read_toml
from rtseg.errors import DatasetError, SourceError, UsageError
from rtseg.files import reason, write_file
from rtseg.frame import Mask
from rtseg.images import IMAGE_SUFFIXES, holds_video, image_size, is_image
from rtseg.labels import MAX_NAME, VOC, VOID, LabelSet, is_name
from rtseg.nets import shipped
from rtseg.nets.find import SUFFIXES as MODEL_SUFFIXES
from rtseg.outputs import is_file
from rtseg.sources import SourceOptions, open_source
from rtseg.text import counted, file_name, listed
from rtseg.zoo import MODELS, family_named

MEASURED_SPLITS = ("val", "test")
PROBLEMS_SHOWN = 20

FRAMES = "frames"
"""The cache folder of frames of clips."""
KEPT_FRAMES = r"[0-9a-f]{32}-\d+(-\d+\.jpg|\.txt)"
FRAME_QUALITY = 95
"""Of their JPEG files."""

MOST_MOVED = 100
"""Pixels by which labels are moved."""


@dataclass(frozen=True)
class SetSpec:
    """What to measure on.

    Attributes:
        path: of the dataset, as `open_dataset` takes it.
        name: the name in results; "" is the path's last part.
        split: "" takes val, else test, else everything; "all" takes everything.
        classes: entries of `ClassMap.between`.
        min_share: class -> share of the image, 0 to 1, that it must cover in the truth.
        names: a text file with the names of the images to take, one per line; or the split.json of
            a training run, for its splits.
        without: likewise a text file, with the names of the images to leave out.
        allow_outside: as `open_dataset` takes it.
        max_pictures: take this many, spread evenly over the set; 0 takes all.
        share: of the images that training sees; 0 is the set's share of all images.
        unlabelled: a folder of images and clips, or a clip, to train on with teachers.
        sparse: not all objects are labelled: background where teachers see one is left out.
        move: pixels to the right and down by which all labels are moved, for labels that lie beside
            what they label; what comes in at the edges is unlabelled.
        every: take every Nth frame of a clip.
    """

    path: Path
    name: str = ""
    format: str = "auto"
    split: str = ""
    classes: tuple[str, ...] = ()
    min_share: Mapping[str, float] = field(default_factory=dict)
    names: Path | None = None
    without: Path | None = None
    max_pictures: int = 0
    share: float = 0.0
    unlabelled: bool = False
    sparse: bool = False
    move: tuple[int, int] = (0, 0)
    every: int = 25
    allow_outside: bool = False


@dataclass(frozen=True)
class LabelledSet:
    """An open set.

    Attributes:
        split: the split used; "" if the dataset has none, or all are used.
        samples: those of the split, and of `names` if given; `pick` takes fewer.
        present: the values in their masks.
    """

    name: str
    spec: SetSpec
    dataset: Dataset
    split: str
    samples: tuple[Sample, ...]
    present: frozenset[int]

    def describe(self) -> str:
        """The set in one line."""
        split = f", {self.split}" if self.split else ""
        total = counted(len(self.dataset), "image")
        of = "" if len(self.samples) == len(self.dataset) else f"{len(self.samples)} of "
        only = f", those in {self.spec.names.name}" if self.spec.names else ""
        return (
            f"{self.name}: {self.dataset.root} ({self.dataset.format}{split}), "
            f"{of}{total}{only}, {counted(len(self.dataset.labels), 'class', 'classes')}"
        )


def open_set(spec: SetSpec) -> LabelledSet:
    """Open a dataset and choose its images.

    Raises:
        DatasetError: it is not a dataset, some of the chosen images are broken (all are named at
            once), or nothing is left to measure.
    """
    dataset = open_dataset(spec.path, format=spec.format, allow_outside=spec.allow_outside)
    named = _named(dataset, spec)
    split = _split(spec, dataset, named)
    samples = tuple(sample for sample in named if split in ("", sample.split))
    stems = {sample.image_path.stem for sample in samples} if spec.names else None
    known = [problem for problem in dataset.problems if _concerns(problem, split, stems)]
    present: set[int] = set()
    problems = [*known, *check_masks(samples, present)]
    if problems:
        raise DatasetError(_summary(spec.path, [str(problem) for problem in problems]))
    if not samples:
        raise DatasetError(f"{spec.path} has no images to measure")
    name = spec.name or spec.path.resolve().name
    dataset = _with_notes(dataset, _leaks(named, split))
    return LabelledSet(name, spec, dataset, split, samples, frozenset(present))


def _named(dataset: Dataset, spec: SetSpec) -> tuple[Sample, ...]:
    """The samples that the set's lists leave, their labels moved as it says."""
    named = named_samples(dataset, spec.names) if spec.names else dataset.samples
    left_out = named_samples(dataset, spec.without) if spec.without else ()
    names = {sample.name for sample in left_out}
    kept = tuple(sample for sample in named if sample.name not in names)
    if not any(spec.move):
        return kept
    return tuple(replace(one, read_mask=MovedMask(one.read_mask, spec.move)) for one in kept)


def open_mix(
    path: Path,
    *,
    allow_outside: bool = False,
    progress: Callable[[str, int, int], None] = lambda clip, done, total: None,
) -> Dataset:
    """The sets of a suite file as one dataset to train on, in classes that all of them have.

    Names of images begin with that of their set. `share` sets how often images are taken
    (`weighed`), and `split` which there are. Frames of clips are decoded once, into the cache.

    Args:
        progress: called as progress(clip, frames read, all of them or 0 if unknown).

    Raises:
        UsageError: the file cannot be read, has a wrong key or value, or its sets differ in their
            classes or have equal names.
        DatasetError: a set is not a dataset.
    """
    suite = read_suite(path)
    if (total := _total(spec.share for spec in suite.sets)) > 1:
        raise UsageError(f"the shares in {path} sum to {total:g}", found="their sum is 1 at most")
    samples: list[Sample] = []
    problems: list[Problem] = []
    notes: list[str] = []
    names = [spec.name or spec.path.resolve().stem for spec in suite.sets]
    first: tuple[str, LabelSet] | None = None
    for name, spec in zip(names, suite.sets, strict=True):
        if names.count(name) > 1:
            raise UsageError(f"two sets of {path} are named {name}", do="Give each a name")
        if spec.min_share:
            raise UsageError(f"min_share of {name} in {path}", found="it is for evaluation only")
        unlabelled = spec.unlabelled or _is_clip(spec.path)
        if (unlabelled or spec.sparse) and not suite.networks:
            kind = "unlabelled" if unlabelled else "sparse"
            raise UsageError(
                f"{name} in {path} is {kind}", found="no [[network]] is there to teach it"
            )
        allowed = allow_outside or spec.allow_outside
        dataset = (
            _unlabelled(spec, allowed, progress)
            if unlabelled
            else open_dataset(spec.path, format=spec.format, allow_outside=allowed)
        )
        named = _named(dataset, spec)
        split = _split(spec, dataset, named) if spec.split else ""
        kept = [sample for sample in named if split in ("", sample.split)]
        kept = _spread(kept, spec.max_pictures or len(kept))
        problems += [one for one in dataset.problems if _concerns(one, split, None)]
        notes += [f"{name}: {note}" for note in dataset.notes]
        notes.append(f"{name}: {counted(len(kept), 'image')}, {_often(spec)}")
        table = None
        if not unlabelled:
            classes = ClassMap.between(dataset.labels, None, spec.classes)
            first = first or (name, classes.labels)
            if classes.labels.names != first[1].names:
                raise UsageError(
                    f"the sets of {path} differ in their classes",
                    found=f"{first[0]} has {', '.join(first[1].names)}; {name} has "
                    + ", ".join(classes.labels.names),
                    do="Map them with classes = [...] of each set",
                )
            table = classes.from_dataset
            notes += classes.assumptions
        samples += [_mapped(sample, name, spec, table) for sample in kept]
    if first is None:
        raise UsageError(f"no set of {path} has labels")
    if frames := [one.image_path for one in samples if one.sequence and not one.labelled]:
        mark_used(frames)  # decoding all clips may take longer than files are young
        make_room(cache_path(FRAMES, "_").parent, KEPT_FRAMES, most_files=math.inf)
    return Dataset(path, "suite", first[1], tuple(samples), tuple(problems), tuple(notes))


def _unlabelled(
    spec: SetSpec, allow_outside: bool, progress: Callable[[str, int, int], None]
) -> Dataset:
    """The images and frames of clips below a folder, or of one clip, with nothing labelled.

    A clip that cannot be read is a problem of the dataset.

    Raises:
        DatasetError: there are none.
        SinkError: the cache cannot be written.
    """
    if not spec.path.exists():
        raise DatasetError(f"cannot open {spec.path}", found="no such file or folder")
    root = spec.path if spec.path.is_dir() else spec.path.parent
    files = sorted(path for path in spec.path.rglob("*") if not path.name.startswith("."))
    files = files if spec.path.is_dir() else [spec.path]
    clips = [path for path in files if _is_clip(path)]
    images = [path for path in files if path.suffix.lower() in SUFFIXES and path not in clips]
    if not images and not clips:
        raise DatasetError(f"no images or clips in {spec.path}")
    if not allow_outside:
        given = tuple(Sample(path.name, path, partial(_nothing_known, path)) for path in files)
        refuse_outside(Dataset(root, "images", VOC, given))
    samples = [_alone(path.relative_to(root).with_suffix("").as_posix(), path) for path in images]
    problems: list[Problem] = []
    for clip in clips:
        name = clip.relative_to(root).as_posix()
        try:
            frames = clip_frames(clip, spec.every, partial(progress, name))
        except (SourceError, UsageError) as error:
            problems.append(Problem(clip, str(error), "train"))
            continue
        samples += [
            replace(_alone(f"{name}/{number:06d}", frame), sequence=name)
            for number, frame in zip(count(0, spec.every), frames, strict=False)
        ]
    notes = (f"{counted(len(clips), 'clip')}, 1 frame in {spec.every}",) if clips else ()
    return Dataset(spec.path, "images", VOC, tuple(samples), tuple(problems), notes)


def _alone(name: str, path: Path) -> Sample:
    return Sample(name, path, partial(_nothing_known, path), split="train", labelled=False)


def _is_clip(path: Path) -> bool:
    """Whether a file is a video or an animation."""
    if path.suffix.lower() in IMAGE_SUFFIXES or not path.is_file():
        return False
    return holds_video(path) and not is_image(path)


def clip_frames(clip: Path, every: int, progress: Callable[[int, int], None]) -> list[Path]:
    """Every Nth frame of a clip as JPEG files in the cache, in order; decoded once.

    Raises:
        SourceError: the clip cannot be read.
        UsageError: it is not a clip.
        SinkError: the cache cannot be written.
    """
    try:
        key = f"{sha256(clip)[:32]}-{every}"
    except OSError as error:
        raise SourceError(f"cannot read {clip}", found=reason(error)) from error
    listing = cache_path(FRAMES, f"{key}.txt")
    frames: list[Path] = []
    if listing.is_file():
        frames = [listing.with_name(name) for name in listing.read_text("utf-8").split()]
        if frames and all(path.is_file() for path in frames):
            mark_used([listing, *frames])
            return frames
    frames = []
    with open_source(clip.absolute(), SourceOptions(every=every)) as source:
        total = source.info.frame_count or 0
        for frame in source:
            path = listing.with_name(f"{key}-{every * len(frames):06d}.jpg")
            encoded = cv2.imencode(".jpg", frame.image, [cv2.IMWRITE_JPEG_QUALITY, FRAME_QUALITY])[
                1
            ]
            write_file(path, encoded.tobytes())
            frames.append(path)
            progress(len(frames), total)
    write_file(listing, "\n".join(path.name for path in frames).encode())
    return frames


def _nothing_known(path: Path) -> Mask:
    return np.full(image_size(path, DatasetError), VOID, np.uint8)


def _often(spec: SetSpec) -> str:
    return f"{spec.share:.0%} of what training sees" if spec.share else "as many as they are"


def _mapped(sample: Sample, name: str, spec: SetSpec, table: Table | None) -> Sample:
    """The sample of the set `name` in the classes that are trained; None if it has no labels."""
    return replace(
        sample,
        name=f"{name}/{sample.name}",
        sequence=f"{name}/{sample.sequence}" if sample.sequence else "",
        read_mask=sample.read_mask if table is None else partial(sample.read_as, table),
        sparse=spec.sparse,
        set_name=name,
        share=spec.share,
    )


def weighed(path: Path, samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The training samples of a mix, weighed so that those of a set with a share have that share.

    Raises:
        UsageError: the shares leave nothing for the sets without one.
    """
    counts = Counter(sample.set_name for sample in samples)
    given = _total({sample.set_name: sample.share for sample in samples}.values())
    free = sum(not sample.share for sample in samples)
    if given == 1 and free:
        raise UsageError(
            f"the shares in {path} sum to 1",
            found=f"sets without a share have {counted(free, 'image')} to train on",
        )
    whole = free / (1 - given) if free else 1.0
    return tuple(
        replace(one, weight=one.share * whole / counts[one.set_name] if one.share else 1.0)
        for one in samples
    )


def _total(shares: Iterable[float]) -> float:
    return round(sum(shares), 6)  # ten times 0.1 is 1


def _concerns(problem: Problem, split: str, stems: set[str] | None) -> bool:
    """Whether a problem may concern the chosen images.

    Args:
        stems: of the chosen files, if a list named them; None for the whole split.
    """
    if split and problem.split not in ("", split):
        return False
    of_one_image = problem.path.suffix.lower() in SUFFIXES
    return stems is None or not of_one_image or problem.path.stem in stems


def _with_notes(dataset: Dataset, notes: Sequence[str]) -> Dataset:
    """The dataset with these notes, and one on its problems, none of which concerns the images."""
    if dataset.problems:
        others = listed([str(problem) for problem in dataset.problems], 1)
        notes = (f"problems in images that are not measured: {others}", *notes)
    return replace(dataset, notes=(*dataset.notes, *notes))


def _leaks(samples: Sequence[Sample], split: str) -> tuple[str, ...]:
    """Warnings about measured images that are copies of others."""
    parts: dict[str, list[Sample]] = {}
    for sample in samples:
        parts.setdefault(sample.split, []).append(sample)
    return leaks(parts, (split,)) if split and len(parts) > 1 else ()


def check_classes(chosen: LabelledSet, classes: ClassMap) -> None:
    """Raise DatasetError if the truth has less than two of the scored classes.

    Every figure would be perfect, or empty, whatever the model predicts.
    """
    if why := degenerate(chosen.present, classes):
        raise DatasetError(
            f"cannot measure on {chosen.name}",
            found=f"in {counted(len(chosen.samples), 'image')}, {why}",
            do="Measure on images that show at least two classes, or choose other --classes.",
        )


def pick(chosen: LabelledSet, classes: ClassMap, stop: Callable[[], bool]) -> tuple[Sample, ...]:
    """The images to measure, after `min_share` and `max_pictures`.

    Raises:
        UsageError: a class of `min_share` is not one of `classes`.
        DatasetError: no image is left, or a mask cannot be read.
    """
    shares = {classes.labels.index(name): s for name, s in chosen.spec.min_share.items()}
    samples: Sequence[Sample] = chosen.samples
    if shares:
        samples = [s for s in samples if not stop() and _covers(s, classes, shares)]
    if not samples and not stop():
        required = " and ".join(f"{name} {s:.1%}" for name, s in chosen.spec.min_share.items())
        raise DatasetError(
            f"no image of {chosen.name} is left",
            found=f"none of {len(chosen.samples)} has at least {required}",
        )
    return tuple(_spread(samples, chosen.spec.max_pictures or len(samples)))


def _covers(sample: Sample, classes: ClassMap, shares: Mapping[int, float]) -> bool:
    truth = sample.read_as(classes.from_dataset)
    return all(np.mean(truth == index) >= share for index, share in shares.items())


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` samples at even distances, starting with the first."""
    if count >= len(samples):
        return list(samples)
    return [samples[index * len(samples) // count] for index in range(count)]


def _split(spec: SetSpec, dataset: Dataset, named: Sequence[Sample]) -> str:
    """The split to use, "" for all; a split that has only problems exists too."""
    if spec.split == "all":
        return ""
    broken = [] if spec.names else [problem.split for problem in dataset.problems]
    splits = list(filter(None, dict.fromkeys([*(sample.split for sample in named), *broken])))
    if not spec.split:
        return next((split for split in MEASURED_SPLITS if split in splits), "")
    split = split_of(spec.split) or spec.split
    if split not in splits:
        found = "splits are " + ", ".join(splits) if splits else "it has none"
        raise DatasetError(f"no split {spec.split!r} in {spec.path}", found=found)
    return split


def _summary(where: Path, problems: Sequence[str]) -> str:
    shown = "; ".join(problems[:PROBLEMS_SHOWN])
    more = f"; and {len(problems) - PROBLEMS_SHOWN} more" if len(problems) > PROBLEMS_SHOWN else ""
    return f"{where} has {counted(len(problems), 'problem')}: {shown}{more}"


@dataclass(frozen=True)
class NetworkSpec:
    """Which model to measure.

    Attributes:
        model: as `find_model` takes it.
        name: the name in results; "" is the model's own.
        imgsz: as `--imgsz`; None is what the command line says.
        refine: refine mask edges, whatever the command line says.
        classes: as a teacher in training: entries of `ClassMap.between`.
        weight: as a teacher, beside others.
        settings: of a foreign file, over those of the TOML file beside it.
        weights: as `find_model` takes them.
    """

    model: str
    name: str = ""
    imgsz: str | None = None
    refine: bool = False
    classes: tuple[str, ...] = ()
    weight: float = 1.0
    settings: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None


@dataclass(frozen=True)
class Suite:
    """The sets and models of a suite file."""

    sets: tuple[SetSpec, ...]
    networks: tuple[NetworkSpec, ...]


def read_suite(path: Path, root: Path | None = None) -> Suite:
    """Read a suite file.

    Args:
        root: the folder that paths are relative to; overrides the file's own.

    Raises:
        UsageError: the file cannot be read, or has a wrong key or value.
    """
    content = convert(read_toml(path), _SuiteFile, str(path))
    base = root or path.parent / content.root
    sets = tuple(_set(path, base, table) for table in content.set)
    networks = tuple(_network(path, base, table) for table in content.network)
    if not sets:
        raise UsageError(f"the suite {path} has no [[set]]")
    return Suite(sets, networks)


@dataclass(frozen=True)
class _SetTable:
    """A [[set]] of a suite file; see `SetSpec`."""

    path: str
    name: str = ""
    format: str = "auto"
    split: str = ""
    classes: tuple[str, ...] = ()
    min_share: dict[str, float] = field(default_factory=dict)
    names: str | None = None
    without: str | None = None
    max_pictures: int = 0
    share: float = 0.0
    unlabelled: bool = False
    sparse: bool = False
    move: tuple[int, int] = SetSpec.move
    every: int = SetSpec.every
    allow_outside: bool = False

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.share, *self.min_share.values())):
            raise ValueError("shares must be from 0 to 1, as in min_share = { person = 0.05 }")
        if self.max_pictures < 0:
            raise ValueError("max_pictures must be 0 or more")
        if max(map(abs, self.move)) > MOST_MOVED:
            raise ValueError(f"move must be at most {MOST_MOVED} pixels, as in move = [-1, -1]")
        if self.every < 1:
            raise ValueError("every must be 1 or more")
        _check_name(self.name)


@dataclass(frozen=True)
class _SuiteFile:
    root: str = ""
    set: tuple[_SetTable, ...] = ()
    network: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class _NetworkTable:
    """A [[network]] of a suite file; see `NetworkSpec`."""

    model: str
    name: str = ""
    imgsz: str | None = None
    refine: bool = False
    classes: tuple[str, ...] = ()
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ValueError("weight must be above 0, 1 at most")
        _check_name(self.name)


def _check_name(name: str) -> None:
    if name and not is_name(name):
        raise ValueError(f"name is not 1 to {MAX_NAME} plain characters")


def _set(path: Path, base: Path, table: _SetTable) -> SetSpec:
    if not table.path.strip():
        raise UsageError(f"a [[set]] of {path} has an empty path", do="Name a folder or a file")
    file_name(base / table.path)
    refuse_root(base / table.path)
    paths = {
        "path": base / table.path,
        "names": None if table.names is None else path.parent / table.names,
        "without": None if table.without is None else path.parent / table.without,
    }
    return SetSpec(**(asdict(table) | paths))


def _is_file(model: str, base: Path) -> bool:
    """Whether a model is a file or folder of a suite, and not a name."""
    if model in {*shipped(), *MODELS} or family_named(model) or model.startswith(("hf:", "stub?")):
        return False
    if Path(model).suffix in MODEL_SUFFIXES:
        return True
    try:
        return (base / model).exists()
    except (OSError, ValueError):  # not a file name
        return False


def _network(path: Path, base: Path, table: dict[str, Any]) -> NetworkSpec:
    own = {one.name for one in fields(_NetworkTable)}
    known = {key: value for key, value in table.items() if key in own}
    one = convert(known, _NetworkTable, f"a [[network]] of {path}")
    model = str(base / one.model) if _is_file(one.model, base) else one.model
    settings = {key: value for key, value in table.items() if key not in own}
    labels = settings.get("labels")
    if isinstance(labels, str) and "," not in labels and is_file(str(path.parent / labels)):
        settings["labels"] = str(path.parent / labels)
    return NetworkSpec(**(asdict(one) | {"model": model}), settings=settings)
