"""`rtseg.train`, `rtseg.evaluate` and `rtseg.export`: the verbs, called from Python."""

# ruff: noqa: F811 - fixtures are imported
from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from colour_network import make_network
from dataset_folders import make_folder
from training import CHARTS, one_thread, small  # noqa: F401 - autouse, and a fixture

import rtseg
from rtseg.cli.report import Progress
from rtseg.errors import DatasetError, ModelError, ThresholdError, UsageError
from rtseg.evaluation import scoring
from rtseg.training import program

Capture = pytest.CaptureFixture[str]

QUICK: dict[str, Any] = {
    "size": 64, "epochs": 2, "batch_size": 4, "workers": 0, "device": "cpu", "precision": "fp32"
}  # fmt: skip


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with a set and a network that knows its classes; no charts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    for chart in CHARTS:
        monkeypatch.setattr(program, chart, lambda *arguments: None)
    make_folder(tmp_path / "set", 8)
    make_network(tmp_path / "net.onnx")
    monkeypatch.setattr("rtseg.exporting.program.ROUNDS", 1)
    return tmp_path


def test_evaluate_returns_the_figures_and_prints_no_table(capsys: Capture) -> None:
    found = rtseg.evaluate(Path("set"), "net.onnx", max_pictures=np.int64(4), json="out.json")
    (score,) = found.scores
    assert found.complete
    assert score.pictures == 4
    assert score.ious["disc"] == score.matrix.class_iou[score.labels.names.index("disc")] > 0.8
    assert found.to_plain()["results"][0]["mean_iou"] == score.matrix.mean_iou
    assert Path("out.json").is_file()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "4 of 8 images" in printed.err
    lines = repr(found).splitlines()
    assert f"{score.matrix.mean_iou:.3f}" in lines[1].split()
    assert "disc" in [line.split()[0] for line in lines if line]
    assert repr(score).startswith("<Score of net on set: mIoU 0.")


def test_evaluate_takes_several_of_each_and_a_size_of_two_numbers(capsys: Capture) -> None:
    shown = {"min_share": {"disc": 0.001}, "imgsz": (48, 64), "quiet": True}
    found = rtseg.evaluate(["set"], ["net.onnx", "net.onnx"], **shown)
    assert [list(score.inputs) for score in found.scores] == [[(48, 64)], [(48, 64)]]
    assert capsys.readouterr().err == ""


def test_evaluate_raises_what_the_command_line_reports() -> None:
    with pytest.raises(ThresholdError):
        rtseg.evaluate("set", "net.onnx", min_miou=1.0, quiet=True)
    with pytest.raises(DatasetError):
        rtseg.evaluate("no set", "net.onnx")
    with pytest.raises(ModelError):
        rtseg.evaluate("set", "no net.onnx")
    with pytest.raises(UsageError, match="nothing to measure"):
        rtseg.evaluate(model="net.onnx")


@pytest.mark.parametrize(
    ("call", "options"),
    [
        (rtseg.train, {"nonsense": 1}),
        (rtseg.train, {"epochs": "x"}),
        (rtseg.train, {"epochs": 1.5}),
        (rtseg.train, {"size": (1, 2, 3)}),
        (rtseg.train, {"size": np.zeros(2)}),
        (rtseg.train, {"loss": [3]}),
        (rtseg.train, {"dataset": 3}),
        (rtseg.train, {"model": b"x"}),
        (rtseg.train, {"overwrite": "yes"}),
        (rtseg.train, {}),
        (rtseg.evaluate, {"nonsense": 1}),
        (rtseg.evaluate, {"data": 3}),
        (rtseg.evaluate, {"data": "set", "backend": "nonsense"}),
        (rtseg.export, {"nonsense": 1}),
        (rtseg.export, {"model": "net.onnx"}),
        (rtseg.export, {"model": "net.onnx", "output": "x.onnx", "precision": 3}),
    ],
)
def test_what_the_programs_do_not_take(call: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        call(**options)


def test_export_returns_the_file_and_how_it_compares(capsys: Capture) -> None:
    done = rtseg.export(Path("net.onnx"), Path("out.onnx"), imgsz=(64, 96), samples="set/images")
    assert done.path == Path("out.onnx")
    assert done.path.is_file()
    assert done.size == (64, 96)
    assert done.parity.mean == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "out.onnx" in printed.err
    assert repr(done).startswith("out.onnx: input 64x96, 100.000% of the pixels")
    with pytest.raises(UsageError, match="exists"):
        rtseg.export("net.onnx", "out.onnx", quiet=True)
    rtseg.export("net.onnx", "out.onnx", samples="set/images", overwrite=True, quiet=True)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_train_evaluate_and_export_follow_one_another(small: Path, capsys: Capture) -> None:
    result = rtseg.train("set", model=small, split="50/25/25", out=Path("run"), **QUICK)
    assert [row.epoch for row in result.rows] == [1, 2]
    assert result.best is not None
    assert result.test is not None
    assert repr(result).startswith("<Result in run: 2 epochs, best is ")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "epoch    2" in printed.err
    again = rtseg.train(out="run", resume=True, epochs=3, quiet=True)
    assert [row.epoch for row in again.rows] == [1, 2, 3]
    found = rtseg.evaluate("set", "run", names="run/split.json", split="test", quiet=True)
    assert found.scores[0].matrix.mean_iou == pytest.approx(again.test.miou, abs=1e-3)
    done = rtseg.export("run", "run.onnx", samples="set/images", quiet=True)
    image = cv2.imread(str(next(Path("set/images").iterdir())))
    with rtseg.load(done.path) as segmenter:
        assert segmenter(image).mask.shape == image.shape[:2]


@pytest.mark.slow
def test_an_interrupt_saves_the_run_and_is_raised(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupt(self: Any, epoch: int, step: int, *rest: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr("rtseg.cli.train.TrainProgress.on_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            rtseg.train("set", model=small, split="50/50", out="run", **QUICK)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(rtseg.train(out="run", resume=True, quiet=True).rows) == 2


def test_a_second_interrupt_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(*arguments: Any) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("rtseg.cli.eval.on_picture", twice)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        rtseg.evaluate("set", "net.onnx")
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_ends_an_evaluation(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[scoring.Score] = []

    def once(progress: object, score: scoring.Score) -> None:
        seen.append(score)
        if score.pictures == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("rtseg.cli.eval.on_picture", once)
    with pytest.raises(KeyboardInterrupt):
        rtseg.evaluate("set", "net.onnx")
    assert seen[-1].pictures == 2
    assert "partial" in capsys.readouterr().err


def test_a_thread_evaluates_too() -> None:
    """Only the main thread can listen for an interrupt."""
    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.append(rtseg.evaluate("set", "net.onnx", quiet=True))
    )
    thread.start()
    thread.join()
    assert found[0].complete


def test_a_notebook_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    shown: list[str] = []
    kernel: Any = ModuleType("ipykernel")
    module: Any = ModuleType("IPython.display")
    module.HTML = str
    module.display = lambda html, display_id: SimpleNamespace(update=shown.append)
    monkeypatch.setitem(sys.modules, "ipykernel", kernel)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    with Progress() as progress:
        progress.update(3, 8, "<b>", unit="images", heading="checking", redraw=True)
        progress.update(5, 0, redraw=True)
    assert shown[0] == '<progress max="8" value="3"></progress> checking 3 of 8 images, &lt;b&gt;'
    assert shown[1:] == ["", " 5", ""]
    with Progress(in_bytes=True) as progress:
        progress.update(1_500_000, 3_000_000, heading="net.pth", redraw=True)
    assert "net.pth 1.5 of 3.0 MB" in shown[-2]
    with Progress(quiet=True) as progress:
        progress.update(1, 2, redraw=True)
    assert len(shown) == 6
    assert capsys.readouterr().err == ""
