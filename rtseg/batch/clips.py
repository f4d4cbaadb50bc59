"""The clips of a batch: which files are meant, and where the outputs of each go."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rtseg.addresses import digest_of, is_address, public_name, remember
from rtseg.batch.bucket import Bucket, scheme_of, steady_part
from rtseg.errors import SourceError, UsageError
from rtseg.files import reason
from rtseg.images import ANIMATIONS, IMAGE_SUFFIXES, VIDEO_SUFFIXES
from rtseg.outputs import NUMBER
from rtseg.sinks import find_kind, split_prefix
from rtseg.sinks.options import is_folder, is_many
from rtseg.sources.options import is_animated, split_glob
from rtseg.text import natural_key, read_text, user_path
from rtseg.threads import parallel_map

NAME = "{name}"
"""In an output: the clip's path below INPUT, without its suffix."""

LOOK_UPS = 16
"""Objects of a list that are looked up at once."""

STATE = ".rtseg"
"""The folder beside the outputs with what is remembered of them."""


@dataclass(frozen=True)
class Clip:
    """One file, and what is made of it.

    Attributes:
        name: its path below INPUT, with "/"; unique.
        source: what `open_source` takes.
        identity: size and time of change; another one means that the file was changed.
        outputs: addresses, one for each output of the batch.
    """

    name: str
    source: str
    identity: str
    outputs: tuple[str, ...] = ()


@dataclass
class Listing:
    """What was found.

    Attributes:
        left_out: names of files that are neither videos nor images.
    """

    clips: list[Clip] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """One output of each clip.

    Attributes:
        role: "" for `-o`, else as "mask:".
        folder: address of the folder that everything goes to.
        form: path below it, with "{name}" in it; "" gives it a suffix by what the clip is.
        suffix: of a video's output, where `form` is "".
    """

    role: str
    folder: str
    form: str
    suffix: str

    def of(self, stem: str, *, still: bool) -> str:
        """The address of one clip's output.

        Args:
            stem: takes the place of "{name}".
            still: whether the clip is an image.
        """
        below = self.form.replace(NAME, stem) or stem + (".png" if still else self.suffix)
        return os.path.join(self.folder, below)  # noqa: PTH118 - may be an address


def target_of(flag: str, text: str) -> Target:
    """What an output flag means for each clip.

    Raises:
        UsageError: all clips would be written to one file, or one clip to many.
    """
    role, place = split_prefix(text)
    kind, _ = find_kind(text)
    if is_address(place) and not scheme_of(place):
        found = "a batch writes to folders and buckets"
        raise UsageError(f"{flag} {public_name(place)}", found=found, do="Name a folder/, or s3://")
    if not kind.is_file or place == "-":
        raise UsageError(f"{flag} {place}", found="a batch writes files", do="Name a folder/")
    if re.search(r"\{n\}", place):
        found = "numbers change where clips are added"
        raise UsageError(f"{flag} {place}", found=found, do=f"Use {NAME}")
    if NUMBER.search(place) or (NAME in place and kind.many_files and is_many(Path(place))):
        found = "a batch writes one file for each clip"
        raise UsageError(f"{flag} {place}", found=found, do=f"Use a folder/ or FOLDER/{NAME}.mkv")
    if NAME not in place:
        if not is_folder(place) or not kind.folder_suffix:
            suffix = kind.folder_suffix or Path(place).suffix
            suffix = suffix or {"json:": ".jsonl"}.get(role, ".png")
            put = "Name a folder/, or put" if kind.folder_suffix or not role else "Put"
            raise UsageError(
                f"{flag} {place}",
                found="each clip has an output of its own",
                do=f"{put} {NAME} in the path, as FOLDER/{NAME}{suffix}",
            )
        return Target(role, os.path.join(place, ""), "", kind.folder_suffix)  # noqa: PTH118
    folder, slash, rest = place.partition(NAME)
    folder, slash, start = folder.rpartition("/")
    return Target(role, folder + slash or "./", f"{start}{NAME}{rest}", "")


def with_outputs(listing: Listing, targets: Sequence[Target]) -> None:
    """Give every clip its outputs: named as the clip, with its whole name where two are alike.

    Raises:
        UsageError: outputs would replace one another, or a clip.
    """
    stems = [clip.name.removesuffix(Path(clip.name).suffix) for clip in listing.clips]
    count = Counter(stem.casefold() for stem in stems)
    made: dict[str, str] = {}
    sources = {_place(clip.source) for clip in listing.clips}
    for place, (clip, stem) in enumerate(zip(listing.clips, stems, strict=True)):
        stem = clip.name if count[stem.casefold()] > 1 else stem
        suffix = Path(clip.name).suffix.lower()
        moves = suffix[1:].upper() in ANIMATIONS and is_animated(clip.source)
        still = suffix in IMAGE_SUFFIXES and not moves
        outputs = tuple(target.of(stem, still=still) for target in targets)
        for output in outputs:
            other = made.setdefault(os.path.normcase(output), clip.name)
            if other != clip.name or len(set(outputs)) < len(outputs):
                found = f"{clip.name} and {other}" if other != clip.name else "two flags"
                raise UsageError(
                    f"{output} would be written twice",
                    found=f"by {found}",
                    do="Give each its own name or folder",
                )
            if _place(output) in sources:
                raise UsageError(
                    f"the output of {clip.name}",
                    found=f"it would replace {output}, which is a clip",
                    do="Give -o another folder",
                )
        listing.clips[place] = Clip(clip.name, clip.source, clip.identity, outputs)


def _place(source: str) -> str:
    return source if is_address(source) else os.path.realpath(source)


def find_clips(inputs: Sequence[str], outside: Iterable[str] = ()) -> Listing:
    """The clips that are meant, in natural order.

    Args:
        inputs: folders, globs, and list files; paths in a list are relative to it.
        outside: folders of outputs, which are left out where they lie inside a folder of clips.

    Raises:
        SourceError: the folder or file does not exist, or has no clips.
        UsageError: two clips have one name.
    """
    listing = Listing()
    closed = {folder if scheme_of(folder) else os.path.realpath(folder) for folder in outside}
    for text in inputs:
        before = len(listing.clips)
        _add(text, listing, closed)
        if len(listing.clips) == before:
            more = f", but {len(listing.left_out)} other files" if listing.left_out else ""
            raise SourceError(f"no clips in {text}", found=f"it has no video or image{more}")
    named = sorted(dict.fromkeys(listing.clips), key=lambda clip: natural_key(clip.name))
    listing.clips = []
    for clip in named:
        last = listing.clips[-1] if listing.clips else None
        if last is None or last.name != clip.name:
            listing.clips.append(clip)
        elif _place(last.source) != _place(clip.source):
            raise UsageError(
                f"{last.source} and {clip.source}",
                found=f"both are called {clip.name} in the output",
                do="Name the folder above them, or run two batches",
            )
    return listing


def _add(text: str, listing: Listing, closed: set[str]) -> None:
    if is_address(text):
        _add_address(text, listing, closed)
        return
    path = user_path(text)
    try:
        if path.is_dir():
            _add_folder(path, listing, closed)
        elif path.is_file() and path.suffix.lower() == ".txt":
            folder = path.parent
            found = parallel_map(_listed(path), lambda line: _of_list(line, folder), LOOK_UPS)
            listing.clips += found
        elif path.is_file():
            _add_all([path], path.parent, listing)
        elif glob.has_magic(text):
            steady, pattern = split_glob(path)
            there = list(_matches(Path(glob.escape(str(steady))) / pattern))
            inside = [one for one in there if one.is_file() and not _is_in(one, closed)]
            _add_all(inside, steady, listing)
        else:
            raise SourceError(f"cannot open {text}", found="it does not exist", do="Check the path")
    except OSError as error:
        raise SourceError(f"cannot read {text}", found=reason(error).lower()) from error


def _add_address(text: str, listing: Listing, closed: set[str]) -> None:
    """Objects of a bucket; any other address is one clip."""
    if not scheme_of(text):
        listing.clips.append(_at(text))
        return
    if any(each.rstrip("/") == text.rstrip("/") for each in closed):
        raise _same_folder(text)
    try:
        found = Bucket(text).find(text)
    except FileNotFoundError:
        found = {}
    except OSError as error:
        raise SourceError(f"cannot list {public_name(text)}", found=reason(error)) from error
    root = steady_part(text)
    suffixes = VIDEO_SUFFIXES | IMAGE_SUFFIXES
    for below, identity in sorted(found.items()):
        address = f"{root}/{below}" if below else root
        hidden = any(part.startswith(".") for part in below.split("/"))
        if hidden or any(address.startswith(each.rstrip("/") + "/") for each in closed):
            continue
        if below and PurePosixPath(address).suffix.lower() not in suffixes:
            listing.left_out.append(address)
        else:
            listing.clips.append(Clip(below or _last(address), address, identity))


def _at(address: str) -> Clip:
    """The clip at an address, which is not looked up: it is known by its address alone."""
    remember([address])
    plain = re.split("[?#]", address)[0]
    return Clip(_last(plain.rstrip("/")) or "clip", address, f"at {digest_of(plain)}")


def _last(address: str) -> str:
    return address.rpartition("/")[2]


def _add_folder(folder: Path, listing: Listing, closed: set[str]) -> None:
    """Every video and image below a folder; not what is hidden."""
    if os.path.realpath(folder) in closed:
        raise _same_folder(str(folder))
    suffixes = VIDEO_SUFFIXES | IMAGE_SUFFIXES
    for here, names in _walk(folder, closed):
        for name in names:
            path = here / name
            if name.startswith("."):
                continue
            if path.suffix.lower() in suffixes:
                listing.clips.append(_clip(path, folder))
            else:
                listing.left_out.append(str(path))


def _walk(folder: Path, closed: Container[str] = ()) -> Iterator[tuple[Path, list[str]]]:
    """A folder and all below it with the names of their files; not what is hidden or closed. What
    links lead to is entered, but not from inside it."""
    for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        here = Path(place)
        folders[:] = [
            each
            for each in folders
            if not each.startswith(".")
            and os.path.realpath(here / each) not in closed
            and not _leads_back(here / each, folder)
        ]
        yield here, names


def _matches(pattern: Path) -> Iterator[Path]:
    """As `glob.iglob`, which would follow links round in circles."""
    if "**" not in pattern.parts:
        yield from map(Path, glob.iglob(str(pattern)))  # noqa: PTH207
        return
    at = pattern.parts.index("**")
    below = pattern.parts[at + 1 :] or ("*",)
    for start in _matches(Path(*pattern.parts[:at])):
        if start.is_dir():
            for here, _ in _walk(start):
                yield from _matches(Path(glob.escape(str(here)), *below))


def _leads_back(path: Path, folder: Path) -> bool:
    """Whether it is a link to a folder that it lies in, as reached, or one above `folder`."""
    if not path.is_symlink():
        return False
    inside = (each for each in path.parents if each == folder or folder in each.parents)
    return any(map(path.samefile, inside)) or path.resolve() in folder.resolve().parents


def _same_folder(folder: str) -> UsageError:
    return UsageError(
        f"the output folder {folder} is the folder of clips",
        found="the next batch would take outputs for clips",
        do="Give -o another folder; it may be inside",
    )


def _is_in(path: Path, closed: set[str]) -> bool:
    return any(os.path.realpath(folder) in closed for folder in path.parents)


def _raise(error: OSError) -> None:
    raise error


def _add_all(paths: Iterable[Path], root: Path, listing: Listing) -> None:
    """Files that were named, whatever their suffix."""
    listing.clips += [_clip(path, root) for path in paths]


def _of_list(line: str, folder: Path) -> Clip:
    if not is_address(line):
        return _clip(folder / user_path(line), folder)
    clip = _at(line)
    if not scheme_of(line):
        return clip
    try:
        found = Bucket(line).find(line)
    except OSError:  # its row says why it cannot be read
        found = {}
    return Clip(clip.name, line, found.get("", ""))


def _listed(path: Path) -> Iterator[str]:
    """The lines of a list that name something."""
    try:
        lines = read_text(path).split("\n")
    except UnicodeDecodeError as error:
        raise SourceError(f"cannot read {path}", found="it is not text") from error
    for line in lines:
        if (name := line.strip()) and not name.startswith("#"):
            yield name


def _clip(path: Path, root: Path) -> Clip:
    try:
        facts = path.stat()
        identity = f"{facts.st_size} bytes, {facts.st_mtime_ns}"
    except OSError:  # its row says why it cannot be read
        identity = ""
    try:
        name = path.absolute().relative_to(root.absolute()).as_posix()
    except ValueError:  # a list names a file elsewhere
        name = path.name
    if ".." in name.split("/"):
        name = path.name
    # "0" would be a camera, "-" standard input
    source = str(path) if path.parent.name else os.path.join(path.parent, path)  # noqa: PTH118
    return Clip(name, source, identity)
