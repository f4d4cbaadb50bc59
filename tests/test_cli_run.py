"""A run from the command line: what it says, what it writes, what it measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2  # isort: skip - ahead of av
import av
import numpy as np
import pytest

from rtseg.cli import report as says
from rtseg.cli.app import main
from rtseg.cli.report import Seen, _describe_target, live_line
from rtseg.contracts import BackendInfo, Rendered, SourceInfo
from rtseg.frame import Frame, Segmentation
from rtseg.labels import LabelSet
from rtseg.stats import Report

STUB = ("-m", "stub", "-b", "stub")
CLIP = ("test://?size=320x240&fps=30&frames=12", *STUB)

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in a folder of its own, without a display."""
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def program(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "rtseg", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,  # type: ignore[call-overload]
    )


def test_every_output_at_once(capsys: Capture, inside: Path) -> None:
    outputs = ("-o", "a.mp4", "-o", "b/", "--mask-output", "masks/", "--json", "c.jsonl")
    assert main([*CLIP, *outputs, "--metrics", "m.json"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    for name in ("a.mp4", "b", "masks", "c.jsonl", "m.json"):
        assert (inside / name).exists()
        assert name in said.err
    with av.open("a.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 12
    assert len(list((inside / "masks").iterdir())) == 12
    assert len((inside / "c.jsonl").read_text().splitlines()) == 12


@pytest.mark.parametrize(("cores", "threads"), [(2, 1), (8, 3)])
def test_opencv_has_one_thread_on_few_cores(
    cores: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cv2.getNumThreads()
    monkeypatch.setattr("rtseg.session.inference.usable_cores", lambda: cores)
    try:
        cv2.setNumThreads(3)
        assert main([*CLIP, "-o", "null:", "-q"]) == 0
        assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)


def test_the_collector_leaves_out_what_was_loaded_while_frames_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import gc

    from rtseg.cli import run as module

    events: list[str] = []
    monkeypatch.setattr(gc, "freeze", lambda: events.append("freeze"))
    monkeypatch.setattr(gc, "unfreeze", lambda: events.append("unfreeze"))
    loop = module.Loop.run
    monkeypatch.setattr(module.Loop, "run", lambda self: (events.append("frames"), loop(self))[1])
    assert main(["test://?frames=2", "-m", "stub", "-b", "stub", "--no-show", "-q"]) == 0
    assert events == ["freeze", "frames", "unfreeze"]


def test_a_figure_alone_takes_one_frame(capsys: Capture, inside: Path) -> None:
    assert main([*CLIP, "--figure", "a.png"]) == 0
    assert "done     1 frame in" in capsys.readouterr().err
    assert main([*CLIP, "--figure", "b.png", "--json", "c.jsonl"]) == 0
    assert "figure to b.png, of the first of 12 frames" in capsys.readouterr().err
    assert (inside / "a.png").exists()


def test_the_start_says_what_runs_and_why(capsys: Capture) -> None:
    assert main([*CLIP, "--no-show"]) == 0
    said = capsys.readouterr().err
    for words in ("320x240", "30 fps", "12 frames", "stub on cpu, fp32", "file: every frame"):
        assert words in said
    live = "test://?size=320x240&fps=60&frames=6&live=1"
    assert main([live, *STUB, "--no-show"]) == 0
    assert "live: newest frame, older ones dropped" in capsys.readouterr().err
    assert main([live, *STUB, "--no-show", "--policy", "all"]) == 0
    assert "--policy all: every frame" in capsys.readouterr().err


def test_the_report_has_the_figures(capsys: Capture) -> None:
    assert main([*CLIP, "-o", "x.mp4"]) == 0
    said = capsys.readouterr().err
    assert "12 frames in" in said
    assert "(whole loop)" in said
    for stage in ("capture", "preprocess", "infer", "decode", "draw", "write", "age"):
        assert f"\n         {stage} " in said
    assert "p50 p95 p99" in " ".join(said.split())


def test_quiet_says_nothing(inside: Path, capsys: Capture) -> None:
    assert main([*CLIP, "-o", "x.mp4", "-q"]) == 0
    cv2.imwrite("grey.png", np.full((40, 60, 3), 9, np.uint8))  # no class is seen in it
    (inside / "words.txt").touch()
    assert main(["grey.png", *STUB, "-o", "y.png", "-q"]) == 0
    assert main([".", *STUB, "-o", "z/", "-q"]) == 0
    assert main(["grey.png", "x.mp4", *STUB, "-o", "grid/", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_new_name_without_a_suffix_is_a_folder(inside: Path) -> None:
    assert main([*CLIP, "-o", "overlays", "--mask-output", "masks", "-q"]) == 0
    assert len(list((inside / "overlays").glob("*.png"))) == 12
    assert len(list((inside / "masks").glob("*.png"))) == 12
    cv2.imwrite("a.png", np.zeros((40, 60, 3), np.uint8))
    assert main(["a.png", *STUB, "-o", "one", "--mask-output", "one_mask", "-q"]) == 0
    assert [path.name for path in (inside / "one").iterdir()] == ["a.png"]
    assert main(["a.png", *CLIP, "-o", "grid", "--mask-output", "grid_masks", "-q"]) == 0
    assert {path.suffix for path in (inside / "grid").iterdir()} == {".png", ".mp4"}
    assert {path.suffix for path in (inside / "grid_masks").iterdir()} == {".png", ".mkv"}
    (inside / "file").touch()
    assert main([*CLIP, "-o", "file"]) == 2


def test_without_a_display_the_suggestion_suits_the_source(inside: Path, capsys: Capture) -> None:
    cv2.imwrite("a.png", np.zeros((40, 60, 3), np.uint8))
    for source, suggestion in {
        "a.png": "-o out.png",
        ".": "-o out/",
        CLIP[0]: "-o out.mp4",
    }.items():
        assert main([source, *STUB]) == 1
        assert f"{suggestion}, or" in capsys.readouterr().err


def test_metrics_have_exactly_the_keys_of_the_report(inside: Path) -> None:
    assert main([*CLIP, "-o", "x.mp4", "--metrics", "m.json", "-q"]) == 0
    figures = json.loads((inside / "m.json").read_text())
    assert set(figures) == {
        *(
            "fps frames produced dropped dropped_by outages backend device precision provider"
        ).split(),
        *("imgsz model source seconds age_ms stages_ms notes hung").split(),
        *("propagated keyframes network_fps inputs steps idle cpu_share cores refine").split(),
    }
    assert (figures["frames"], figures["produced"], figures["dropped"]) == (12, 12, 0)
    assert (figures["backend"], figures["device"], figures["precision"]) == ("stub", "cpu", "fp32")
    assert figures["fps"] > 0
    assert len(figures["imgsz"]) == 2
    rows = [figures["age_ms"], *figures["stages_ms"].values()]
    assert {"capture", "infer", "decode", "draw", "write"} <= set(figures["stages_ms"])
    assert all(0 <= row["p50"] <= row["p95"] <= row["p99"] <= row["max"] for row in rows)


def test_metrics_are_written_of_a_run_that_failed_too(capsys: Capture, inside: Path) -> None:
    failing = "test://?size=320x240&frames=30&fail=5"
    assert main([failing, *STUB, "-o", "x.mp4", "--metrics", "m.json"]) == 3
    assert json.loads((inside / "m.json").read_text())["frames"] == 5
    assert "5 frames in" in capsys.readouterr().err
    with av.open("x.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 5


def test_metrics_go_to_stdout_too(capsys: Capture, inside: Path) -> None:
    assert main([*CLIP, "--metrics", "-", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 12
    assert list(inside.iterdir()) == []


def test_metrics_alone_need_no_window(inside: Path) -> None:
    assert main([*CLIP, "--metrics", "m.json", "-q"]) == 0
    assert main([*CLIP, "--metrics", "m.json", "-q"]) == 2, "it exists"
    assert main([*CLIP, "--metrics", "m.json", "-q", "-y"]) == 0
    assert sorted(path.name for path in inside.iterdir()) == ["m.json"]


def test_imgsz_is_taken_or_follows_the_frame(inside: Path) -> None:
    assert main([*CLIP, "--metrics", "a.json", "-q", "--imgsz", "64x96"]) == 0
    assert json.loads((inside / "a.json").read_text())["imgsz"] == [64, 96]
    assert main([*CLIP, "--metrics", "b.json", "-q"]) == 0
    height, width = json.loads((inside / "b.json").read_text())["imgsz"]
    assert width > height, "the frames are wide"


def test_raw_frames_leave_stdout_clean() -> None:
    process = program(*CLIP, "-o", "-")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(out) == 12 * 320 * 240 * 3
    assert b"12 frames in" in err


@pytest.mark.slow
def test_raw_frames_go_through_two_programs() -> None:
    first = program(*CLIP, "-o", "-", "-q")
    second = program(
        *("-", "--size", "320x240", "--fps", "30", *STUB, "-o", "x.mp4"), stdin=first.stdout
    )
    _, err = second.communicate(timeout=60)
    first.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0), err
    with av.open("x.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 12


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_a_reader_who_has_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "rtseg", *CLIP, "--loop", "-o", "-"]
    with os.fdopen(writer, "wb") as pipe:
        process = subprocess.Popen(command, stdout=pipe, stderr=subprocess.PIPE, text=True)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "rror" not in err
    assert "Traceback" not in err


def test_classes_that_never_came_are_named(capsys: Capture) -> None:
    from rtseg.zoo import MODELS

    names = MODELS["stub"].labels.names
    assert main([*CLIP, "--no-show"]) == 0
    assert "no pixels of" not in capsys.readouterr().err
    black = "black.png"
    import cv2

    cv2.imwrite(black, np.zeros((48, 64, 3), np.uint8))
    assert main([black, *STUB, "--no-show", "--classes", names[1]]) == 0
    assert f"no pixels of: {names[1]}" in capsys.readouterr().err


def rendered(*classes: int) -> Rendered:
    scores = np.zeros((8, 1, len(classes)), np.float32)
    for place, index in enumerate(classes):
        scores[index, 0, place] = 1
    labels = LabelSet(tuple("abcdefgh"), ((0, 0, 0),) * 8)
    frame = Frame(np.zeros((4, 4, 3), np.uint8), 0, 0.0, 0.0)
    return Rendered(frame, Segmentation(scores, labels, (4, 4)), lambda f, s: f.image)


def test_seen_looks_until_it_has_seen() -> None:
    labels = LabelSet(tuple("abcdefgh"), ((0, 0, 0),) * 8)
    seen = Seen(labels, frozenset({2, 3}))
    seen.write(rendered(1))
    assert seen.summary() == "no pixels of: c, d"
    seen.write(rendered(0, 3))
    assert seen.summary() == ""
    everything = Seen(labels, None)
    everything.write(rendered(0))
    assert everything.summary() == "no pixels of: b, c, d, e, f, g and 1 more"
    assert not seen.wants_image


REPORT = Report(
    fps=20.04,
    frames=100,
    produced=112,
    dropped=12,
    dropped_by={"capture": 10, "stop": 2},
    outages=1,
    backend="onnx",
    device="cpu",
    precision="fp32",
    provider="",
    imgsz=(1, 1),
    model="m",
    source="s",
    seconds=5.0,
    age_ms={},
    stages_ms={},
)


def test_drops_are_told_with_their_causes() -> None:
    line = says.describe_frames(REPORT)
    assert line == (
        "100 frames in 5.0 s, 20.0 fps (whole loop), dropped 12 of 112 (capture 10, stop 2), "
        "1 outage"
    )
    assert "dropped" not in says.describe_frames(replace(REPORT, dropped=0, outages=0))


def test_a_source_in_one_line() -> None:
    info = SourceInfo("clip.mp4", 1280, 720, Fraction(30000, 1001), 300)
    assert says.describe_source(info) == "clip.mp4, 1280x720, 29.97 fps, 300 frames, 10.0 s"
    assert says.describe_source(SourceInfo("camera 0", 640, 480, live=True)) == (
        "camera 0, 640x480, live"
    )
    picture = SourceInfo("a.png", 10, 20, Fraction(25), 1)
    assert says.describe_source(picture) == "a.png, 10x20, 1 frame"
    assert says.describe_backend(BackendInfo("onnx", "cpu", "fp32", "X")) == "onnx on cpu, fp32 (X)"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (99.94, "99.9 s"), (100, "1:40"), (3723, "1:02:03")]
)
def test_lengths(seconds: float, text: str) -> None:
    assert says.length(seconds) == text


def test_the_live_line_tells_why_no_frame_comes() -> None:
    from rtseg.sources import open_source
    from rtseg.stats import Stats

    with open_source("test://?live=1&size=64x48") as source:
        assert "age" in live_line(source.info, Stats())
        assert live_line(source.info, Stats(), waited=12.0) == "no frame for 12.0 s"


@pytest.mark.parametrize("name", ["results", "m%20.json"])
def test_figures_replace_nothing_unasked(name: str, capsys: Capture) -> None:
    Path(name).write_text("keep")
    assert main([*CLIP, "-o", "null:", "--metrics", name]) == 2
    assert f"{name} exists" in capsys.readouterr().err
    assert Path(name).read_text() == "keep"
    Path("folder").mkdir()
    assert main([*CLIP, "-o", "null:", "--metrics", "folder", "-y"]) == 2
    assert "it is a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "output"),
    [("a%20b.mp4", ("-o", "a%20b.mp4")), ("clip", ("--metrics", "./clip"))],
)
def test_no_output_is_the_source_itself(
    name: str, output: tuple[str, str], capsys: Capture
) -> None:
    assert main([*CLIP, "-o", "made.mp4"]) == 0
    before = Path("made.mp4").rename(name).read_bytes()
    assert main([f"./{name}", *STUB, "--no-show", *output, "-y"]) == 2
    assert "the source itself" in capsys.readouterr().err
    assert Path(name).read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
def test_a_pipe_is_not_replaced_by_a_file(capsys: Capture) -> None:
    os.mkfifo("pipe.json")
    for flag in ("--metrics", "--json"):
        assert main([*CLIP, "-o", "null:", flag, "pipe.json", "-y"]) == 2
        assert "a device or a pipe" in capsys.readouterr().err
    assert Path("pipe.json").is_fifo()


@pytest.mark.parametrize(
    ("target", "shown"),
    [("mask:m/", "m/ (mask)"), (r"C:\me\out.mp4", r"C:\me\out.mp4"), ("a:b.mp4", "a:b.mp4")],
)
def test_outputs_are_named_with_their_role(target: str, shown: str) -> None:
    assert _describe_target(target) == shown
