"""Split lists: `train.txt`, `val.txt`, `test.txt` of names, or of pictures and their masks."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from rtseg.datasets.contract import Problem
from rtseg.datasets.files import PICTURE_SUFFIXES
from rtseg.datasets.pairs import SPLITS, Pair, listed, read_lines, repeated

LIST_FOLDERS = (".", "splits", "lists", "list", "ImageSets", "ImageSets/*")
"""Where lists lie, below the folder that was named."""


@dataclass
class Splits:
    """What lists say, and what is wrong with it.

    Attributes:
        pairs: those listed, in the split of the first list that names them.
    """

    pairs: dict[str, Pair] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, pair: Pair, list_path: Path) -> None:
        """Put the pair in a split, or tell that it was in another."""
        before = self.pairs.get(pair.key)
        if before is None:
            self.pairs[pair.key] = pair
        elif before.split != pair.split:
            words = f"{pair.key} is in {before.split} too, and stays there"
            self.problems.append(Problem(list_path, words, pair.split))


def split_lists(root: Path, folders: Sequence[str] = LIST_FOLDERS) -> dict[Path, str]:
    """The list files named like a split below a folder -> "train", "val" or "test"."""
    found = {
        path: SPLITS[path.stem.casefold()]
        for folder in folders
        for path in sorted(root.glob(f"{folder}/*.txt") if folder != "." else root.glob("*.txt"))
        if path.stem.casefold() in SPLITS
    }
    return dict(sorted(found.items(), key=lambda item: ("train val test".find(item[1]), item[0])))


def assign_lists(
    root: Path, pairs: list[Pair]
) -> tuple[list[Pair], list[Problem], tuple[str, ...]]:
    """The pairs that lists name, in their splits; all as they are where there are no lists."""
    lists = split_lists(root)
    if not lists:
        return pairs, [], ()
    by_word = _words(root, pairs)
    splits = Splits()
    for path, split in lists.items():
        _read_list(root, path, split, by_word, splits)
    left = len({pair.key for pair in pairs} - set(splits.pairs))
    said = "splits are those of " + listed([path.relative_to(root) for path in lists])
    notes = (said, *([f"{left} labelled pictures are in no list and left out"] if left else []))
    return list(splits.pairs.values()), splits.problems, notes


def _read_list(
    root: Path, path: Path, split: str, by_word: dict[str, list[Pair]], splits: Splits
) -> None:
    lines = read_lines(path)
    if not lines:
        splits.problems.append(Problem(path, "the list is empty", split))
    twice = [Problem(path, f"{name} is listed twice", split) for name in repeated(lines)]
    splits.problems += twice
    for line in lines:
        found = list(_meant(root, line, by_word))
        if not found:
            words = f"no labelled picture is called {line}"
            splits.problems.append(Problem(path, words, split))
        for pair in found:
            splits.add(replace(pair, split=split), path)


def _meant(root: Path, line: str, by_word: dict[str, list[Pair]]) -> Iterable[Pair]:
    """The pairs that a line means: a name, a path, a sequence, or a picture and its mask."""
    if line in by_word:
        return by_word[line]
    image, *masks = [word.lstrip("/") for word in re.split(r"[\s,;]+", line)]
    found = by_word.get(image, [])
    if len(masks) != 1 or not ((root / image).is_file() and (root / masks[0]).is_file()):
        return found
    key = PurePosixPath(image).with_suffix("").as_posix()
    pair = found[0] if len(found) == 1 else Pair(key, root / image, root / masks[0])
    return [replace(pair, mask=root / masks[0])]


def _words(root: Path, pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
    """What a list may call a pair -> the pairs so called; nothing that could mean two pictures."""
    found: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        for word in dict.fromkeys(_called(root, pair)):
            found[word].append(pair)
    sequences = {pair.sequence for pair in pairs if pair.sequence}
    ends = {PurePosixPath(sequence).name for sequence in sequences}
    return {
        word: meant for word, meant in found.items() if len(meant) == 1 or word in sequences | ends
    }


def _called(root: Path, pair: Pair) -> Iterator[str]:
    """Names of a pair: its key, its picture's path and stem, its sequence."""
    yield pair.key
    yield PurePosixPath(pair.key).name
    if pair.image.suffix.lower() in PICTURE_SUFFIXES and pair.image.is_relative_to(root):
        relative = pair.image.relative_to(root)
        yield relative.as_posix()
        yield relative.with_suffix("").as_posix()
    yield pair.image.name
    if pair.sequence:
        yield pair.sequence
        yield PurePosixPath(pair.sequence).name
