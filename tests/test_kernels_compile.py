"""Triton's compiler takes every kernel: what its interpreter, which runs them here, cannot tell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton has no wheel for this system")


@pytest.mark.parametrize(
    "how",
    [
        ("75", "once"),
        pytest.param(("75",), marks=pytest.mark.slow),  # Turing
        pytest.param(("90",), marks=pytest.mark.slow),  # Hopper
    ],
)
@pytest.mark.slow
def test_every_kernel_compiles_for_nvidias_gpus(tmp_path: Path, how: tuple[str, ...]) -> None:
    settings = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    program = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run(
        [sys.executable, str(program), *how],
        capture_output=True,
        text=True,
        env=settings | {"TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"shrink", "bgr", "winners", "decode", "epilogue"}
