"""`rtseg bench` as a person types it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rtseg.bench import program, worker
from rtseg.bench.worker import Combination
from rtseg.cli import bench as verb
from rtseg.cli.app import main
from rtseg.cli.flags import SHARE, read
from rtseg.cli.options import BenchReport
from rtseg.errors import BackendError, DownloadError, UsageError
from rtseg.nets import find

Capture = pytest.CaptureFixture[str]

CLIP = "test://?size=64x48&fps=30&frames=8"
SHORT = ("-i", CLIP, "--duration", "0.01", "--frames", "4", "--rounds", "1")
STUB = ("bench", "-m", "stub", "--imgsz", "64", *SHORT)


class Here:
    """Stands for `Remote`: the object lives in this process."""

    def __init__(
        self, place: str, arguments: dict[str, Any], *, stop: Callable[[], bool] = lambda: False
    ) -> None:
        module, _, name = place.partition(":")
        self._object = getattr(import_module(module), name)(**arguments)

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._object, method)(*arguments)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder and a cache of its own, and no other processes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(program, "Remote", Here)
    return tmp_path


def test_it_prints_the_three_clocks_and_what_ran(capsys: Capture) -> None:
    assert main([*STUB]) == 0
    out, err = capsys.readouterr()
    for words in ("model fps", "pipeline fps", "loop fps", "stub fp32 cpu", "numpy", "64x64"):
        assert words in out
    assert "running" in err
    assert "internal" not in out + err


def test_a_backend_that_cannot_run_a_network_has_a_row_that_says_why(capsys: Capture) -> None:
    assert main([*STUB, "-b", "auto,torch", "--format", "json", "-q"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["asked"]["backend"] for row in rows] == ["auto", "torch"]
    assert rows[0]["clocks"]["model"]["passes"] == 4
    assert rows[0]["ran"]["name"] == "stub"
    assert "backend torch for stub" in rows[1]["error"]
    assert rows[1]["clocks"] == {}


def test_every_combination_is_measured(capsys: Capture) -> None:
    arguments = ["--imgsz", "64,96x128", "--precision", "fp32", "--precision", "auto"]
    assert main([*STUB, *arguments, "--format", "csv", "-q"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["height"], row["width"]) for row in rows] == [("64", "64"), ("96", "128")] * 2
    assert all(float(row["loop_fps"]) > 0 for row in rows)


def test_models_of_one_name_are_told_apart_by_what_was_given(inside: Path, capsys: Capture) -> None:
    both = ["bench", "-m", "stub,stub?delay=20ms", "--imgsz", "64", *SHORT, "--no-encode", "-q"]
    assert main([*both, "-o", "a.json"]) == 0
    rows = json.loads((inside / "a.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["stub", "stub?delay=20ms"]
    assert main([*both, "--compare", "a.json", "--threshold", "90%"]) == 0  # each with its own row
    assert "stub?delay=20ms  stub fp32 cpu" in capsys.readouterr().out.split("fps before")[1]


@pytest.mark.slow
def test_our_own_network_is_held_against_torch_and_against_the_peak(capsys: Capture) -> None:
    network = ("-m", "lraspp_mobilenet_v3_large", "--weights", "random", "-b", "torch")
    arguments = ("--imgsz", "64", "--worst-case", "--no-encode", "--format", "json", "-q")
    assert main(["bench", *network, *SHORT, *arguments]) == 0
    made = json.loads(capsys.readouterr().out)
    row = made["rows"][0]
    assert row["random_weights"]
    assert row["agreement"] == {"mean": 1.0, "least": 1.0, "frames": 8}
    assert set(row["clocks"]) == {"model", "pipeline", "worst", "loop"}
    assert made["peaks"][0]["gflops"] > 0.1
    achieved = row["gflop"] / (row["clocks"]["model"]["ms"]["p50"] / 1e3)
    assert row["peak_share"] == pytest.approx(achieved / made["peaks"][0]["gflops"])
    assert made["settings"]["loop_ends_in"] == "null"


def test_nothing_measured_is_a_failure(capsys: Capture) -> None:
    assert main([*STUB, "-b", "torch"]) == 2
    out, err = capsys.readouterr()
    assert "not measured" in out
    assert "nothing could be measured: backend torch for stub" in err


@pytest.mark.parametrize(
    ("arguments", "code"), [(("-b", "torch"), 2), (("-d", "cuda:97", "--strict-device"), 4)]
)
def test_the_exit_code_is_that_of_the_first_failure(
    arguments: tuple[str, ...], code: int, capsys: Capture
) -> None:
    assert main([*STUB, *arguments]) == code
    assert "nothing could be measured" in capsys.readouterr().err


def test_weights_that_cannot_be_had_are_one_row_and_the_others_go_on(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Path:
        raise DownloadError("cannot download", found="no answer")

    monkeypatch.setattr(find, "fetch", refuse)
    assert main([*STUB, "-m", "fcn_resnet50", "--format", "json", "-q"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["model"]: bool(row["clocks"]) for row in rows} == {
        "fcn_resnet50": False,
        "stub": True,
    }
    assert [row["error"] for row in rows if row["error"]] == ["cannot download: no answer"]


def test_random_weights_stand_in_only_for_those_that_are_not_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not verb._needs_no_download("fcn_resnet50")
    monkeypatch.setattr(verb, "is_intact", lambda path, weights: True)
    assert verb._needs_no_download("fcn_resnet50")
    assert verb._needs_no_download("stub")
    assert not verb._needs_no_download("segformer_b0")
    assert verb._needs_no_download("some/network.onnx")


def test_files_have_the_form_of_their_names(inside: Path, capsys: Capture) -> None:
    files = ("-o", "a.json", "-o", "a.csv", "-o", "a.md", "-o", "a.txt", "--plot", "a.png")
    assert main([*STUB, *files]) == 0
    table = capsys.readouterr().out
    assert json.loads((inside / "a.json").read_text())["rtseg_bench"] == 1
    assert (inside / "a.csv").read_text().startswith("model,")
    assert "| --- |" in (inside / "a.md").read_text()
    assert (inside / "a.txt").read_text() == table
    assert (inside / "a.png").read_bytes().startswith(b"\x89PNG")
    assert main([*STUB, *files]) == 2
    assert "a.json exists" in capsys.readouterr().err
    assert main([*STUB, *files, "-y"]) == 0


@pytest.fixture
def older(inside: Path, capsys: Capture) -> Callable[[float], Path]:
    """Writes a record that was so many times as fast as this machine is now."""

    def write(times: float) -> Path:
        assert main([*STUB, "-o", "older.json", "-q", "-y"]) == 0
        made = json.loads((inside / "older.json").read_text())
        for figures in made["rows"][0]["clocks"].values():
            figures["fps"] *= times
        (inside / "older.json").write_text(json.dumps(made))
        capsys.readouterr()
        return inside / "older.json"

    return write


def test_slower_than_before_is_exit_code_5(older: Callable[[float], Path], capsys: Capture) -> None:
    assert main([*STUB, "--compare", str(older(1e6))]) == 5
    out, err = capsys.readouterr()
    assert "-100.0%" in out
    assert "slower than before by more than 10%" in err
    assert "stub stub fp32 cpu 64x64 model -100.0%" in err


def test_faster_than_before_is_all_well(older: Callable[[float], Path], capsys: Capture) -> None:
    assert main([*STUB, "--compare", str(older(1e-6)), "--format", "json"]) == 0
    out, err = capsys.readouterr()
    json.loads(out)  # what changed goes to people, beside it
    assert "fps before" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-b", "nonsense"), "--backend nonsense: choices are auto"),
        (("--precision", "fp7"), "--precision fp7"),
        (("-d", "abacus"), "unknown device 'abacus'"),
        (("--imgsz", "big"), "--imgsz 'big'"),
        (("--rounds", "0"), "--rounds 0"),
        (("--duration", "-1"), "--duration -1"),
        (("--threshold", "ten"), "--threshold 'ten' is not valid. Use a share, such as 10%"),
        (("--max-pictures", "3"), "--max-pictures without --data"),
        (("--allow-outside", "-i", "test://?live=1"), "--allow-outside without --data"),
        (("--threshold", "5%", "-i", "test://?live=1"), "--threshold without --compare"),
        (("--plot", "a.txt"), "cannot write a figure to a.txt"),
        (("-o", "no/where.json"), "there is no folder no"),
        (("-o", "-"), "-o - is stdout"),
        (("-m", "nonsense", "-i", CLIP), "unknown model 'nonsense'"),
        (("-m", ","), "is empty"),
        (("--compare", "none.json"), "cannot read none.json"),
        (("--data", "nosuch"), "cannot open nosuch: no such file"),
        (("--threshold", "200%"), "it must be a share from 0 to 1. Use 10%"),
        (("-i", "test://?live=1"), "it is live"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_runs(
    capsys: Capture, arguments: tuple[str, ...], words: str
) -> None:
    assert main(["bench", *arguments]) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert out == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "it is not a record of rtseg bench"),
        ("[]", "expected object, got list"),
        ('{"rtseg_bench": 1}', "object missing required field machine"),
    ],
)
def test_a_record_of_something_else_is_not_compared_with(
    inside: Path, capsys: Capture, content: str, words: str
) -> None:
    (inside / "other.json").write_text(content)
    assert main([*STUB, "--compare", "other.json"]) == 2
    assert f"cannot read other.json: {words}. Write one" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "share"), [("10%", 0.1), ("0.25", 0.25), ("0", 0.0)])
def test_a_threshold_is_a_share_or_a_percentage(text: str, share: float) -> None:
    assert read(SHARE, "--threshold", text) == pytest.approx(share)


def test_a_threshold_of_ten_is_neither() -> None:
    with pytest.raises(UsageError, match="Use 10% or"):
        BenchReport(threshold=10)


def test_a_combination_travels_to_its_process() -> None:
    import pickle

    from rtseg.nets import find_model

    model = find_model("lraspp_mobilenet_v3_large", weights="random")
    there = Combination(model, "onnx", "fp32", "cpu", (64, 64))
    assert pickle.loads(pickle.dumps(there)) == there


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_ctrl_c_prints_what_is_done_and_says_partial(inside: Path) -> None:
    long = ("-m", "stub?delay=5ms", "-i", CLIP, "--duration", "0.1", "--rounds", "500")
    command = [sys.executable, "-m", "rtseg", "bench", *long, "--format", "json"]
    (inside / "temporary").mkdir()
    told = {**os.environ, "TMPDIR": str(inside / "temporary")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=told
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if re.search(r"round (?!1\D)\d", line):
                    break
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    made = json.loads(out)
    assert made["partial"]
    assert made["rows"][0]["clocks"]["loop"]["fps"] > 0
    assert "before the interruption" in err
    assert list((inside / "temporary").iterdir()) == []


def test_what_cannot_be_held_against_the_older_record_is_no_success(
    inside: Path, capsys: Capture
) -> None:
    other = ["96" if part == "64" else part for part in STUB]
    assert main([*STUB, "-o", "old.json"]) == 0
    capsys.readouterr()
    assert main([*other, "--compare", "old.json"]) == 5
    out, err = capsys.readouterr()
    assert "nothing to compare with" in err
    assert "it has stub 64x64, not stub 96x96" in err
    assert out == "", "nothing was measured"


def test_a_record_of_another_clip_or_machine_is_refused_before_anything_runs(
    older: Callable[[float], Path], capsys: Capture
) -> None:
    path = older(1.0)
    made = json.loads(path.read_text())
    made["machine"]["cpu"] = "another"
    made["clip"]["height"] = 96
    path.write_text(json.dumps(made))
    assert main([*STUB, "--compare", str(path)]) == 2
    out, err = capsys.readouterr()
    assert f"cannot compare with {path}: cpu was another, is " in err
    assert "clip height was 96, is 48" in err
    assert out == ""


def test_what_is_slower_within_noise_is_no_failure(
    older: Callable[[float], Path], capsys: Capture
) -> None:
    path = older(1e6)
    made = json.loads(path.read_text())
    for figures in made["rows"][0]["clocks"].values():
        figures["rounds"] = [figures["fps"] * share for share in (0.01, 1, 1.99)]
    path.write_text(json.dumps(made))
    assert main([*STUB[:-1], "2", "--compare", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "within noise" in out
    assert "3 of 3 clocks too noisy to be sure of 10%: use more --rounds" in err


def test_what_ran_before_and_fails_now_is_exit_code_5(
    older: Callable[[float], Path], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BackendError("it broke")

    before = str(older(1e-6))
    monkeypatch.setattr(worker.Subject, "measure", refuse)
    assert main([*STUB, "--compare", before]) == 5
    assert "combinations that used to run now fail: stub stub fp32 cpu 64x64: it broke" in (
        capsys.readouterr().err
    )
