"""`rtseg export`, as a person types it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rtseg.cli.app import main
from rtseg.cli.export import ExportProgress
from rtseg.cli.process import Interrupted, Stop
from rtseg.exporting import int8, program
from rtseg.exporting.int8 import Quantiser
from rtseg.nets import find_model

NAME = "lraspp_mobilenet_v3_large"
CLIP = "test://?size=96x64&frames=6"
RANDOM = ["export", "-m", NAME, "--weights", "random", "--imgsz", "64x96"]
USUAL = [*RANDOM, "--samples", CLIP]

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder and a cache of its own; one thread, as the pictures are small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(program, "ROUNDS", 2)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_export_writes_a_file_and_proves_it(capsys: Capture) -> None:
    assert main([*USUAL, "-o", "net.onnx"]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["model", "only,"],
        ["torch", "fp32"],
        ["onnx", "fp32"],
    ]
    assert "with torch fp32 on 6 frames of" in err
    assert "have the same class" in err
    assert "random weights" in err
    assert "net.onnx" in err.splitlines()[-1]
    assert find_model("net.onnx").spec.name == NAME
    assert main(["test://?size=96x64&frames=2", "-m", "net.onnx", "-o", "null:"]) == 0
    assert main([*USUAL, "-o", "net.onnx"]) == 2
    assert "Pass -y to overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_int8_lists_its_attempts_and_exits_5_below_the_threshold(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the order is tested where the network is small
    monkeypatch.setattr(Quantiser, "most_sensitive_first", lambda self: self.layers)
    monkeypatch.setattr(int8, "FIRST_KEPT", 20)
    arguments = [*USUAL, "--precision", "int8", "--min-agreement", "1"]
    assert main([*arguments, "-o", "net.onnx", "--keep"]) == 5
    out, err = capsys.readouterr()
    assert "0 of 66 layers in float" in err
    assert "20 of 66 layers in float" in err
    assert "33 of 66 layers in float" in err
    assert "float layers, most sensitive first" in err
    assert "and 25 more" in err
    assert "at least 100.000% is required" in err.splitlines()[-1]
    assert "onnx int8" in out
    assert not Path("net.onnx").exists()
    assert Path("net.rejected.onnx").is_file()


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ([], 2, "Name one with -o net.onnx"),
        (["-o", "net.engine"], 2, "Name it NAME.onnx"),
        (["-o", "gone/net.onnx"], 2, "there is no folder gone"),
        (["-o", "net.onnx", "--precision", "bf16"], 2, "bf16"),
        (["-o", "net.onnx", "--calibration", "a.mp4"], 2, "only int8 needs it"),
        (["-o", "net.onnx", "--min-agreement", "99"], 2, "0 to 1"),
        (["-o", "net.onnx", "--samples", "gone.mp4"], 3, "gone.mp4"),
        (["-o", "net.onnx", "--samples", "test://?live=1"], 2, "it is live"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    capsys: Capture, flags: list[str], code: int, words: str
) -> None:
    assert main([*RANDOM, *flags]) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("rtseg: error:")
    assert words in last
    assert not [p for p in Path().iterdir() if p.suffix in (".onnx", ".engine")]


def test_ctrl_c_is_heard_between_frames() -> None:
    stop = Stop()
    progress = ExportProgress(stop, quiet=True)
    progress("comparing", 0, 2)
    stop.signal = 2
    with pytest.raises(Interrupted):
        progress("comparing", 1, 2)


def test_help_names_the_flags(capsys: Capture) -> None:
    assert main(["export", "--help"]) == 0
    out = capsys.readouterr().out
    for flag in ("--precision", "--dynamic-batch", "--calibration", "--min-agreement", "--keep"):
        assert flag in out


def test_the_stub_is_not_exported(capsys: Capture) -> None:
    assert main(["export", "-m", "stub", "-o", "net.onnx"]) == 2
    assert "it is not a model with weights" in capsys.readouterr().err
