"""Nothing is told to anybody: libraries that would by themselves are kept from it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OPEN = """
import sys, rtseg
segmenter = rtseg.load("person", backend=sys.argv[1], device="cpu")
segmenter.close()
print("openvino_telemetry" in sys.modules)
"""


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_backends_leave_no_identity_behind(tmp_path: Path, backend: str) -> None:
    """ONNX Runtime keeps its number of this machine in ~/.cache/Microsoft, OpenVINO in ~/intel."""
    if backend == "openvino":
        pytest.importorskip("openvino")
    quiet = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "TF_BUILD", "GITHUB_ACTIONS")
    surroundings = {name: value for name, value in os.environ.items() if name not in quiet}
    surroundings |= {"HOME": str(tmp_path), "RTSEG_CACHE": str(tmp_path / "cache")}
    surroundings.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(
        [sys.executable, "-c", OPEN, backend],
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"
    left = {path.name for path in tmp_path.rglob("*")}
    assert not left & {"Microsoft", "deviceid", "onnxruntime.db", "intel", "openvino_ga_cid"}


def test_who_wants_it_told_has_it_told() -> None:
    code = "import os, rtseg; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for given, found in (({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")):
        surroundings = {n: v for n, v in os.environ.items() if n != "ORT_DISABLE_TELEMETRY"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=surroundings | given, capture_output=True, text=True
        )
        assert done.stdout.strip() == found
