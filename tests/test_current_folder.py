"""Python files that lie in the current folder are not run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rtseg

NAMES = "torch numpy cv2 onnxruntime av numba ctypes json pathlib openvino onnx rich".split()


def trap(folder: Path) -> Path:
    """Modules that leave a file when they are run."""
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'ran')!r}, 'a').write({name!r})\n")
    return folder / "ran"


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    house = str(Path(rtseg.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": house}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor"],
        ["bench", "-m", "stub", "--seconds", "0.2"],
        ["test://?frames=1", "-m", "stub", "--no-show"],
    ],
)
def test_modules_in_the_current_folder_are_not_run(arguments: list[str], tmp_path: Path) -> None:
    ran = trap(tmp_path)
    done = run(tmp_path, "-m", "rtseg", *arguments)
    assert not ran.exists(), ran.read_text()
    assert "Traceback" not in done.stderr


def test_children_do_not_find_them(tmp_path: Path) -> None:
    ran = trap(tmp_path)
    code = "import json, pathlib, ctypes; print('done')"
    script = f"from rtseg.system import python_command as c; print(*c({code!r})[2:])"
    script = run(tmp_path.parent, "-c", script).stdout
    done = run(tmp_path, "-c", script)
    assert (done.stdout.strip(), ran.exists()) == ("done", False)
