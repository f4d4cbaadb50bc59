"""A new sink, view, source or backend is one file and one row, and the command line offers it."""

from __future__ import annotations

import re
import subprocess
import sys
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


def rtseg(folder: Path, row: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with one more row, and the file beside it."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{row}"
    code += f"\nfrom rtseg.cli.app import main; sys.exit(main({list(arguments)!r}))"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=TESTS.parent, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


RUN = ("test://?frames=3&size=64x48", "-m", "stub", "-b", "stub")


def test_a_sink_is_one_file_and_one_row(tmp_path: Path) -> None:
    (tmp_path / "addon.py").write_text(SINK)
    target = f"count:{tmp_path / 'out.txt'}"
    done = rtseg(tmp_path, SINK_ROW, *RUN, "-o", target)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out.txt").read_text().split()) == 3
    assert "3 pixels to" in done.stderr
    refused = rtseg(tmp_path, SINK_ROW, *RUN, "-o", target)
    assert refused.returncode == 2, "the file exists"
    assert "count:FILE" in rtseg(tmp_path, SINK_ROW, "run", "--help").stdout


def test_a_view_is_one_file_and_one_row(tmp_path: Path) -> None:
    (tmp_path / "addon.py").write_text(VIEW)
    out = tmp_path / "%02d.png"
    done = rtseg(tmp_path, VIEW_ROW, *RUN, "--view", "negative", "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert (np.array(cv2.imread(str(tmp_path / "00.png"))) == 77).all()
    assert "negative" in rtseg(tmp_path, VIEW_ROW, "run", "--help").stdout


def test_a_source_is_one_file_and_one_row(tmp_path: Path) -> None:
    (tmp_path / "addon.py").write_text(SOURCE)
    run = ("grey:90", "-m", "stub", "-b", "stub", "--fps", "7")
    done = rtseg(tmp_path, SOURCE_ROW, *run, "-o", f"{tmp_path}/%02d.png")
    assert done.returncode == 0, done.stderr
    assert "grey 90 at 7" in done.stderr
    assert "--fps" not in done.stderr, "the row says that it has an effect"
    assert [path.name for path in sorted(tmp_path.glob("*.png"))] == ["00.png", "01.png", "02.png"]
    assert (cv2.imread(str(tmp_path / "00.png")) == 90).all()
    done = rtseg(tmp_path, SOURCE_ROW, *run, "grey:80", "-o", f"{tmp_path}/each_{{name}}.mp4")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.glob("*.mp4")} == {"each_grey.mp4", "each_grey_2.mp4"}
    assert "grey:0..255" in rtseg(tmp_path, SOURCE_ROW, "run", "--help").stdout


def test_a_backend_is_one_file_and_one_row(tmp_path: Path) -> None:
    (tmp_path / "addon.py").write_text(BACKEND)
    row = BACKEND_ROW
    run = ("test://?frames=3&size=64x48", "-m", "stub", "-b", "left", "-d", "npu")
    out = ("--view", "mask", "-o", f"{tmp_path}/%02d.png")
    done = rtseg(tmp_path, row, *run, "--precision", "int4", *out)
    assert done.returncode == 0, done.stderr
    assert "left on npu, int4" in done.stderr
    colours = cv2.imread(str(tmp_path / "00.png"))
    assert (colours[:, :24] == colours[0, 0]).all()
    assert (colours[:, 40:] == colours[0, -1]).all()
    assert (colours[0, 0] != colours[0, -1]).any()
    refused = rtseg(tmp_path, row, *run, "--precision", "fp16", *out, "-y")
    assert refused.returncode == 2
    assert "precision fp16 for the left backend: it has fp32, int4" in refused.stderr
    missing = rtseg(tmp_path, row.replace('"numpy"', '"nowhere"'), *run, *out, "-y")
    assert missing.returncode == 2
    assert "Install it: pip install numpy" in missing.stderr
    shown = rtseg(tmp_path, row, "run", "--help").stdout
    assert "left" in shown
    assert "int4" in shown


def test_a_family_of_networks_is_one_file_and_one_row(tmp_path: Path) -> None:
    (tmp_path / "addon.py").write_text(FAMILY)
    for backend in ("torch", "onnx"):
        run = ("test://?frames=3&size=64x48", "-m", "tiny", "--weights", "random", "-b", backend)
        done = rtseg(tmp_path, FAMILY_ROW, *run, "-d", "cpu", "-o", f"{tmp_path}/%02d.png", "-y")
        assert done.returncode == 0, done.stderr
    shown = rtseg(tmp_path, FAMILY_ROW, "models")
    assert shown.returncode == 0, shown.stderr
    assert "tiny" in shown.stdout
    code = (
        FAMILY_ROW
        + """
from rtseg.labels import PERSON
from rtseg.train.prepare import start
begun = start("tiny", "scratch", PERSON, aux=False, seed=0)
print(begun.network.classifier.last.out_channels, begun.spec.architecture)
"""
    )
    done = rtseg(tmp_path, code, "--version")
    assert done.stdout.startswith("2 tiny"), done.stderr
