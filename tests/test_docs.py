"""README and docs/: as the program is, with links and commands that hold."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
from test_laws import FLOORS

from rtseg.cli.reference import reference

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = sorted([README, *(ROOT / "docs").glob("*.md")])
FLAG = re.compile(r"(?<![\w-])-(?:-[a-z][a-z0-9-]*|[a-z]\b)")
VERBS = {
    title: set(FLAG.findall(text))
    for title, text in re.findall(
        r"^#{2,3} rtseg ([a-z ]+)\n(.*?)(?=^## |^### |\Z)", reference(), re.MULTILINE | re.DOTALL
    )
}
"""Verb -> its flags."""


def commands(page: Path) -> list[list[str]]:
    """The arguments of every `rtseg ...` of a page, indented or in backticks, without comments."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("    ")]
    lines += re.findall(r"`(rtseg [^`]*)`", text)
    parts = [part for line in lines for part in re.split(r"&&|\|", line.partition("    #")[0])]
    found = [shlex.split(part, comments=True) for part in parts if part.split()[:1] == ["rtseg"]]
    return [words[1:] for words in found]


def anchors(page: Path) -> set[str]:
    """What headings of a page are called in links, as GitHub and MyST call them."""
    titles = re.findall(r"^#+ (.*)", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_reference_is_what_the_program_generates() -> None:
    committed = (ROOT / "docs" / "reference.md").read_text("utf-8")
    assert committed == reference(), "python -m rtseg.cli.reference > docs/reference.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_use_flags_of_their_verb(page: Path) -> None:
    for words in commands(page):
        if words[:1] == ["grey:90"]:
            continue  # of the recipes
        verb = words[0] if words and words[0] in VERBS else "run"
        flags = {word.partition("=")[0] for word in words if FLAG.match(word)}
        flags -= {"--help", "--version"}
        assert flags <= VERBS[verb], f"rtseg {' '.join(words)}: {flags - VERBS[verb]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_flag_that_is_named_exists(page: Path) -> None:
    known = set(FLAG.findall(reference())) | {"--help"}
    others = {"--cpus", "--force-reinstall", "--extra-index-url", "--upgrade", "--no-deps"}
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))
    assert named <= known | others, named - known - others


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for link, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", text):
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"
    for name in re.findall(r"`((?:rtseg|tests|tools|docs|models)/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_is_valid(page: Path) -> None:
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
        ast.parse(code)


def test_the_names_that_the_tour_points_at_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "rtseg").rglob("*.py"))
    defined = set(re.findall(r"^ *(?:def|class) (\w+)", code, re.MULTILINE))
    defined |= set(re.findall(r"^ *(\w+)(?:: .*)? =", code, re.MULTILINE))
    found = re.findall(r"`(?:([A-Z]\w+)\.)?(\w+)(?:\(.*?\))?`", text)
    names = {name for pair in found for name in pair if pair[0] or re.search("[A-Z_]", pair[1])}
    names -= {"", "Fraction"}
    assert len(names) > 40
    assert names <= defined, names - defined


def test_the_floors_of_the_tour_are_those_of_the_laws() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    table = text[text.index("| floor |") : text.index("`tests/test_laws.py`")]
    rows = [set(re.findall(r"`(\w+)", row)) for row in table.splitlines()[2:] if row]
    floors = [FLOORS[floor] - {"__init__", "_version"} for floor in sorted(FLOORS, reverse=True)]
    assert rows == floors


def test_setting_up_takes_two_commands_and_ci_runs_the_second() -> None:
    readme = README.read_text("utf-8")
    second = 'python -m pip install -e ".[dev]" && tools/check'
    assert "    python -m pip install . && rtseg demo\n" in readme
    assert f"    {second}\n" in readme
    assert second in (ROOT / ".ci" / "run").read_text("utf-8").replace("install -q", "install")


def test_the_readme_is_short_and_pictures_are_small() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 150
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert picture.stat().st_size < 2_000_000, picture
