"""A new sink, view, source or backend is one file and one row, and the command line offers it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

TESTS = Path(__file__).parent

PAGE = (TESTS.parent / "docs" / "contributing.md").read_text("utf-8")


def recipe(name: str) -> list[str]:
    """The file and the row that docs/contributing.md shows under "Add a ..."."""
    section = re.search(rf"^### Add a {name}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section, f"docs/contributing.md has no section: Add a {name}"
    return re.findall(r"^```python\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)


KINDS = ("sink", "view", "source", "backend", "model")
ROWS = """
import contextlib, importlib, io, json, sys
from pathlib import Path

folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))
for place in sorted(folder.glob("row_*.py")):
    exec(place.read_text())
from rtseg.cli.app import main
from rtseg.labels import PERSON
from rtseg.training.prepare import start

def told(line):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = main(line)
    return code, out.getvalue(), said.getvalue()

commands = json.loads((folder / "commands.json").read_text())
found = {name: [told(line) for line in lines] for name, lines in commands.items()}
exec((folder / "row_backend.py").read_text().replace('"numpy"', '"nowhere"'))
found["missing"] = [told(commands["backend"][0])]
begun = start("tiny", "scratch", PERSON, aux=False, seed=0)
found["begun"] = [begun.network.classifier.last.out_channels, begun.spec.architecture]
(folder / "found.json").write_text(json.dumps(found))
"""
RUN = ("test://?frames=3&size=64x48", "-m", "stub", "-b", "stub")
GREY = ("grey:90", "-m", "stub", "-b", "stub", "--fps", "7")
LEFT = ("test://?frames=3&size=64x48", "-m", "stub", "-b", "left", "-d", "npu", "-y")
LEFT += ("--view", "mask", "-o", "left/%02d.png")
TINY = ("test://?frames=3&size=64x48", "-m", "tiny", "--weights", "random", "-d", "cpu", "-y")
COMMANDS = {
    "sink": [(*RUN, "-o", "count:out.txt")] * 2,
    "view": [(*RUN, "--view", "negative", "-o", "view/%02d.png")],
    "source": [(*GREY, "-o", "grey/%02d.png"), (*GREY, "grey:80", "-o", "grey/each_{name}.mp4")],
    "backend": [(*LEFT, "--precision", "int4"), (*LEFT, "--precision", "fp16")],
    "model": [*((*TINY, "-o", "tiny/%02d.png", "-b", name) for name in ("torch", "onnx"))],
    "listed": [("run", "--help"), ("models",)],
}


class Extended(NamedTuple):
    """rtseg with one more row in each table, in a process of its own.

    Attributes:
        found: what became of each of `COMMANDS`: its exit code, stdout and stderr.
        listed: `rtseg run --help` and `rtseg models`.
    """

    folder: Path
    found: dict[str, Any]
    listed: str

    def of(self, name: str) -> tuple[list[int], str]:
        """Exit codes and stderr of the commands of a kind."""
        codes, _, said = zip(*self.found[name], strict=True)
        return [*codes], "".join(said)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Extended:
    """Files and rows of all recipes at once: none is in another's way."""
    folder = tmp_path_factory.mktemp("extended")
    for kind in KINDS:
        content, row = recipe(kind)
        (folder / f"addon_{kind}.py").write_text(content)
        (folder / f"row_{kind}.py").write_text(row.replace("addon:", f"addon_{kind}:"))
    for name in ("view", "grey", "left", "tiny"):
        (folder / name).mkdir()
    (folder / "commands.json").write_text(json.dumps(COMMANDS))
    done = subprocess.run(
        [sys.executable, "-c", ROWS, str(folder)], cwd=folder,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "found.json").read_text())
    return Extended(folder, found, "".join(out for _, out, _ in found["listed"]))


@pytest.mark.slow
def test_a_sink_is_one_file_and_one_row(extended: Extended) -> None:
    codes, said = extended.of("sink")
    assert codes == [0, 2], f"the second time, the file exists: {said}"
    assert len((extended.folder / "out.txt").read_text().split()) == 3
    assert "3 pixels to" in said
    assert "count:FILE" in extended.listed


def test_a_view_is_one_file_and_one_row(extended: Extended) -> None:
    codes, said = extended.of("view")
    assert codes == [0], said
    assert (np.array(cv2.imread(str(extended.folder / "view" / "00.png"))) == 77).all()
    assert "negative" in extended.listed


def test_a_source_is_one_file_and_one_row(extended: Extended) -> None:
    codes, said = extended.of("source")
    assert codes == [0, 0], said
    assert "grey 90 at 7" in said
    assert "--fps" not in said, "the row says that it has an effect"
    assert {path.name for path in (extended.folder / "grey").iterdir()} == {
        "00.png", "01.png", "02.png", "each_grey.mp4", "each_grey_2.mp4",
    }  # fmt: skip
    assert (cv2.imread(str(extended.folder / "grey" / "00.png")) == 90).all()
    assert "grey:0..255" in extended.listed


def test_a_backend_is_one_file_and_one_row(extended: Extended) -> None:
    codes, said = extended.of("backend")
    assert codes == [0, 2], said
    assert "left on npu, int4" in said
    colours = cv2.imread(str(extended.folder / "left" / "00.png"))
    assert (colours[:, :24] == colours[0, 0]).all()
    assert (colours[:, 40:] == colours[0, -1]).all()
    assert (colours[0, 0] != colours[0, -1]).any()
    assert "precision fp16 for the left backend: it has fp32, int4" in said
    assert "left" in extended.listed
    assert "int4" in extended.listed
    codes, said = extended.of("missing")
    assert codes == [2]
    assert "Install it: pip install numpy" in said


def test_a_family_of_networks_is_one_file_and_one_row(extended: Extended) -> None:
    codes, said = extended.of("model")
    assert codes == [0, 0], said
    assert extended.found["begun"] == [2, "tiny"]
    assert "tiny" in extended.listed
