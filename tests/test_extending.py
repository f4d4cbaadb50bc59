"""A new sink, view, source or backend is one file and one row, and the command line offers it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

TESTS = Path(__file__).parent

PAGE = (TESTS.parent / "docs" / "contributing.md").read_text("utf-8")


def recipe(name: str) -> list[str]:
    """The file and the row that docs/contributing.md shows under "Add a ..."."""
    section = re.search(rf"^### Add a {name}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section, f"docs/contributing.md has no section: Add a {name}"
    return re.findall(r"^```python\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)


SINK, SINK_ROW = recipe("sink")
VIEW, VIEW_ROW = recipe("view")
SOURCE, SOURCE_ROW = recipe("source")
BACKEND, BACKEND_ROW = recipe("backend")
FAMILY, FAMILY_ROW = recipe("model")


def rtseg(folder: Path, row: str, *commands: Sequence[str]) -> tuple[list[int], str, str]:
    """Run command lines in one process, with one more row and the file beside it.

    Returns:
        The exit code of each, and stdout and stderr of all.
    """
    lines = [list(command) for command in commands]
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{row}"
    code += f"\nfrom rtseg.cli.app import main\ncodes = [main(line) for line in {lines!r}]"
    code += (
        f"\nimport pathlib; pathlib.Path({str(folder / 'codes.json')!r}).write_text(repr(codes))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=TESTS.parent, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "codes.json").read_text()), done.stdout, done.stderr


RUN = ("test://?frames=3&size=64x48", "-m", "stub", "-b", "stub")


HELP = ("run", "--help")


def test_a_sink_is_one_file_and_one_row(tmp_path: Path) -> None:
    (tmp_path / "addon.py").write_text(SINK)
    run = (*RUN, "-o", f"count:{tmp_path / 'out.txt'}")
    codes, out, said = rtseg(tmp_path, SINK_ROW, run, run, HELP)
    assert codes == [0, 2, 0], f"the second time, the file exists: {said}"
    assert len((tmp_path / "out.txt").read_text().split()) == 3
    assert "3 pixels to" in said
    assert "count:FILE" in out


def test_a_view_is_one_file_and_one_row(tmp_path: Path) -> None:
    (tmp_path / "addon.py").write_text(VIEW)
    run = (*RUN, "--view", "negative", "-o", str(tmp_path / "%02d.png"))
    codes, out, said = rtseg(tmp_path, VIEW_ROW, run, HELP)
    assert codes == [0, 0], said
    assert (np.array(cv2.imread(str(tmp_path / "00.png"))) == 77).all()
    assert "negative" in out


def test_a_source_is_one_file_and_one_row(tmp_path: Path) -> None:
    (tmp_path / "addon.py").write_text(SOURCE)
    run = ("grey:90", "-m", "stub", "-b", "stub", "--fps", "7")
    one = (*run, "-o", f"{tmp_path}/%02d.png")
    two = (*run, "grey:80", "-o", f"{tmp_path}/each_{{name}}.mp4")
    codes, out, said = rtseg(tmp_path, SOURCE_ROW, one, two, HELP)
    assert codes == [0, 0, 0], said
    assert "grey 90 at 7" in said
    assert "--fps" not in said, "the row says that it has an effect"
    assert [path.name for path in sorted(tmp_path.glob("*.png"))] == ["00.png", "01.png", "02.png"]
    assert (cv2.imread(str(tmp_path / "00.png")) == 90).all()
    assert {path.name for path in tmp_path.glob("*.mp4")} == {"each_grey.mp4", "each_grey_2.mp4"}
    assert "grey:0..255" in out


def test_a_backend_is_one_file_and_one_row(tmp_path: Path) -> None:
    (tmp_path / "addon.py").write_text(BACKEND)
    run = ("test://?frames=3&size=64x48", "-m", "stub", "-b", "left", "-d", "npu", "-y")
    run += ("--view", "mask", "-o", f"{tmp_path}/%02d.png")
    half = (*run, "--precision", "fp16")
    codes, out, said = rtseg(tmp_path, BACKEND_ROW, (*run, "--precision", "int4"), half, HELP)
    assert codes == [0, 2, 0], said
    assert "left on npu, int4" in said
    colours = cv2.imread(str(tmp_path / "00.png"))
    assert (colours[:, :24] == colours[0, 0]).all()
    assert (colours[:, 40:] == colours[0, -1]).all()
    assert (colours[0, 0] != colours[0, -1]).any()
    assert "precision fp16 for the left backend: it has fp32, int4" in said
    assert "left" in out
    assert "int4" in out
    codes, _, said = rtseg(tmp_path, BACKEND_ROW.replace('"numpy"', '"nowhere"'), run)
    assert codes == [2]
    assert "Install it: pip install numpy" in said


STARTED = """
from rtseg.labels import PERSON
from rtseg.training.prepare import start
begun = start("tiny", "scratch", PERSON, aux=False, seed=0)
print(begun.network.classifier.last.out_channels, begun.spec.architecture)
"""


def test_a_family_of_networks_is_one_file_and_one_row(tmp_path: Path) -> None:
    (tmp_path / "addon.py").write_text(FAMILY)
    run = ("test://?frames=3&size=64x48", "-m", "tiny", "--weights", "random", "-d", "cpu", "-y")
    run += ("-o", f"{tmp_path}/%02d.png")
    runs = [(*run, "-b", backend) for backend in ("torch", "onnx")]
    codes, out, said = rtseg(tmp_path, FAMILY_ROW + STARTED, *runs, ("models",))
    assert codes == [0, 0, 0], said
    assert out.startswith("2 tiny"), said
    assert "tiny" in out.partition("\n")[2]
