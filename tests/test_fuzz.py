"""Files damaged at random: no hang, crash, internal error or stray memory; what can be decoded is
kept. RTSEG_FUZZ is the number of files, RTSEG_FUZZ_SEED tells which: thousands of them are run in
pieces, each with a seed of its own. What is found of each file is written down as it comes.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz import KINDS, POISONS, damaged, run_all, write_whole

COUNT = int(os.environ.get("RTSEG_FUZZ", "150"))
SEED = int(os.environ.get("RTSEG_FUZZ_SEED", "22"))
LIMIT = 60.0

PICTURES = ("png", "jpg")
"""Refused if any of it is lost."""

PARTIAL = (
    "mjpeg",
    "mov",
    "dv",
    "ffv1",
    "mxf",
    "mpg",
    "wmv",
    "vp8",
    "ogv",
    "avi",
    "flv",
    "gif",
    "ts",
)
"""Of which frames are left out that FFmpeg shows with parts that it did not decode, or that it
decodes from frames of another part; a GIF of one frame is a picture."""

LEAST_KEPT = 0.85
"""Share of all frames of these that has to be kept."""

MOST_STRAY = 0.02
"""Share of all frames that may look as if parts of them were not decoded: no decoder flags them."""


class Fuzz:
    """Files, what was done to each, and what workers found of them.

    The files stay in `folder`, with `found.jsonl`: a line for each, as soon as it was tried.
    """

    def __init__(self, folder: Path) -> None:
        self._log = folder / "found.jsonl"
        print(f"seed {SEED}: {self._log}", flush=True)
        rng = random.Random(SEED)
        wholes = {
            name: write_whole(folder / f"whole_{name}.{kind.suffix}", kind)
            for name, kind in KINDS.items()
        }
        self.files = list(wholes.values())
        self.how = dict.fromkeys(map(str, self.files), "whole")
        self.kind = {str(path): name for name, path in wholes.items()}
        for number in range(COUNT):
            name = list(KINDS)[number % len(KINDS)]
            path = folder / f"{number:04}_{name}.{KINDS[name].suffix}"
            self.how[str(path)] = damaged(wholes[name], path, rng)
            self.kind[str(path)] = name
            self.files.append(path)
        self.found = self._run(POISONS[0], "main")
        self.alone = [self._run(poison, "alone") for poison in POISONS]

    def _run(self, poison: str, flag: str) -> dict[str, dict[str, Any]]:
        """What workers find of each file, by its path."""
        found = {}
        with self._log.open("a", buffering=1) as log:
            for each in run_all(self.files, poison, LIMIT, flag):
                found[each["file"]] = each
                how = {"how": self.how[each["file"]], "run": f"{flag} {poison}"}
                log.write(json.dumps({**how, **each}) + "\n")
        return found

    def __iter__(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """(file and what was done to it, kind, what was found)."""
        for file, found in self.found.items():
            if "shown" in found:
                yield f"{Path(file).name} ({self.how[file]})", self.kind[file], found


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Fuzz:
    return Fuzz(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.slow
@pytest.mark.timeout(600 + 10 * COUNT)  # each file has a limit of its own
def test_nothing_hangs_or_crashes(fuzz: Fuzz) -> None:
    every = [fuzz.found, *fuzz.alone]
    ended = [each for found in every for each in found.values() if "shown" not in each]
    assert not [(each, fuzz.how[each["file"]]) for each in ended]
    assert all(len(found) == len(fuzz.files) for found in every)


@pytest.mark.slow
def test_what_was_not_damaged_is_read_to_the_end(fuzz: Fuzz) -> None:
    for name, kind, found in fuzz:
        if name.endswith("(whole)"):
            assert found["exit"] == 0, name
            assert found["written"] == KINDS[kind].frames, name
            assert not found["shown"].get("warnings"), name


@pytest.mark.slow
def test_exit_codes_and_messages_are_the_documented_ones(fuzz: Fuzz) -> None:
    wrong = []
    for name, _, found in fuzz:
        said, code = found["said"], found["exit"]
        errors = [line for line in said.splitlines() if line.startswith("rtseg: error:")]
        right = (code == 0 and not errors) or (code == 3 and len(errors) == 1)
        if not right or "Traceback" in said or "internal error" in said:
            wrong.append((name, code, said[-500:]))
        if found["shown"]["code"] not in (0, 3):
            wrong.append((name, found["shown"]["code"], found["shown"]["error"][-500:]))
    assert not wrong


@pytest.mark.slow
def test_what_can_be_decoded_is_kept(fuzz: Fuzz) -> None:
    wrong, decodable, kept = [], 0, 0
    for name, kind, found in fuzz:
        shown = len(found["shown"]["sums"])
        if found["exit"] == 0 and (found["written"] != shown or found["unplayable"]):
            wrong.append((name, shown, found["written"], found["unplayable"], found["said"][-300:]))
        if found["left"]:
            wrong.append((name, found["left"]))
        if kind in PARTIAL:
            decodable, kept = decodable + found["decodable"], kept + shown
        elif kind not in PICTURES and shown + 1 < found["decodable"]:
            wrong.append((name, shown, found["decodable"], found["said"][-300:]))
    assert not wrong
    assert kept >= LEAST_KEPT * decodable


@pytest.mark.slow
def test_no_frame_shows_memory_that_nobody_wrote(fuzz: Fuzz) -> None:
    """Two runs, in each of which fresh memory has another value, show the same."""
    one, other = ({file: each["shown"] for file, each in alone.items()} for alone in fuzz.alone)
    assert [file for file in one if one[file] != other[file]] == []
    shares = [share for shown in one.values() for share in shown["stray"]]
    assert sum(share > 0.05 for share in shares) <= MOST_STRAY * len(shares)
