"""Flags that have no effect in a run are told of, and the run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from rtseg.cli import plan
from rtseg.cli.app import main
from rtseg.cli.options import Flags
from rtseg.cli.plan import make_plan
from rtseg.cli.report import unused

Capture = pytest.CaptureFixture[str]

CLIP = "test://?size=64x48&fps=30&frames=4"
STUB = ("-m", "stub", "-b", "stub", "-o", "null:")


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(**given: Any) -> list[str]:
    flags = Flags.of(**{"input": (CLIP,), "output": ("null:",), **given})
    return list(unused(flags, make_plan(flags)))


def test_nothing_is_said_of_flags_that_were_not_given() -> None:
    assert told() == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"width": 640, "height": 480}, "--width and --height have no effect"),
        ({"fourcc": "MJPG"}, "--fourcc has no effect on a source that is not"),
        ({"fps": 12}, "--fps has no effect on a source with a rate"),
        ({"stream": 1, "deinterlace": "on"}, "--stream and --deinterlace have no effect on a"),
        ({"size": (64, 48)}, "--size has no effect"),
        ({"pix_fmt": "rgb24"}, "--pix-fmt has no effect"),
        ({"models": ("stub",)}, "--models has no effect without a win"),
        ({"feather": 4}, "--feather has no effect without --backgr"),
        ({"matte_threshold": 0.4}, "--matte-threshold has no effect"),
        ({"output": ("a/",), "codec": "hevc", "crf": 20}, "--codec and --crf have no eff"),
        ({"timeout": 3.0, "reconnect": False}, "--timeout and --no-reconnect have no effect on a"),
        ({"alpha": 0.9, "view": "mask"}, "--alpha has no effect with --view mask"),
        ({"alpha": 0.9, "view": "cutout"}, "--alpha has no effect with --view cutout"),
        ({"alpha": 0.9, "view": "contours"}, "--alpha has no effect with --view contours"),
        ({"output": ("a/",), "audio": "none"}, "--audio has no effect without a video"),
        ({"rle": True}, "--rle has no effect"),
        ({"screenshots": "s"}, "--screenshots has no effect"),
        ({"background": "blur", "view": "mask"}, "--background has no effect with --view mask"),
    ],
)
def test_what_changes_nothing_is_told_with_the_reason(flags: dict, words: str) -> None:
    (line,) = told(**flags)
    assert line.startswith(words)


@pytest.mark.parametrize(
    ("target", "flags"),
    [
        ("0", {"width": 640, "height": 480, "fourcc": "MJPG", "fps": 30}),
        ("-", {"size": (64, 48), "pix_fmt": "rgb24", "fps": 12}),
        (CLIP, {"feather": 4, "matte_threshold": 0.4, "background": "blur"}),
        (CLIP, {"feather": 4, "view": "cutout"}),
        (CLIP, {"background": "blur", "view": "side"}),
        (CLIP, {"background": "blur", "view": "contours"}),
        (CLIP, {"output": ("a.mp4",), "codec": "hevc", "crf": 20}),
        (CLIP, {"output": ("a.mp4",), "audio": "none"}),
        (CLIP, {"alpha": 0.9, "view": "side"}),
        ("0", {"timeout": 3.0, "reconnect": False}),
        ("rtsp://host/a", {"timeout": 3.0, "reconnect": False}),
        ("http://host/a", {"timeout": 3.0, "reconnect": False}),
        (CLIP, {"output": (), "json": "a.jsonl", "rle": True}),
    ],
)
def test_what_is_used_is_not_told_of(target: str, flags: dict) -> None:
    assert told(input=(target,), **flags) == []


def test_a_window_uses_what_its_keys_may_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "require_display", lambda *_: None)
    assert told(feather=4, models=("stub",), output=(), screenshots="s", audio="none") == []
    assert told(output=(), alpha=0.9, view="mask") == []


def with_sound(path: Path, *, sound: bool = True) -> str:
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=48_000) if sound else None
        for number in range(5):
            picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="bgr24")
            picture.pts = number
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        if audio is not None:
            tone = np.zeros((1, 1024), np.float32)
            samples = av.AudioFrame.from_ndarray(tone, "fltp", layout="mono")
            samples.sample_rate = 48_000
            container.mux([*audio.encode(samples), *audio.encode(None)])
    return path.name


def test_sound_that_a_repeated_recording_cannot_keep_is_told_of(tmp_path: Path) -> None:
    clip, silent = with_sound(tmp_path / "a.mp4"), with_sound(tmp_path / "b.mp4", sound=False)
    loop: dict[str, Any] = {"loop": True, "max_frames": 9}
    film: dict[str, Any] = {"input": (clip,), "output": ("out.mp4",)}
    assert told(**film, **loop) == ["audio is not kept with --loop"]
    assert told(**film, live=True) == ["audio is not kept with --live"]
    assert told(**{**film, "input": (silent,)}, **loop) == []
    assert told(**film) == []
    assert told(**{**film, "output": ("pictures/",)}, **loop) == []
    assert told(**film, **loop, audio="none") == []


def test_it_is_a_note_and_the_run_goes_on(capsys: Capture) -> None:
    assert main([CLIP, *STUB, "--feather", "4"]) == 0
    said = capsys.readouterr().err
    assert "note     --feather has no effect without --background" in said
    assert "4 frames" in said
    assert main([CLIP, *STUB, "--feather", "4", "-q"]) == 0
    assert "--feather" not in capsys.readouterr().err


def test_in_a_grid_what_one_source_or_output_uses_has_an_effect(capsys: Capture) -> None:
    run = [CLIP, CLIP, "-m", "stub", "-b", "stub", "--no-show"]
    assert main([*run, "--mask-output", "m/", "--crf", "20", "--rle", "--width", "64"]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "no effect" in line]
    assert [note.split()[1] for note in notes] == ["--width", "--crf", "--rle"]
    shared = ["-o", "grid.mp4", "--json", "g.jsonl"]
    assert main([*run, *shared, "--crf", "20", "--rle"]) == 0
    assert "no effect" not in capsys.readouterr().err


def test_a_batch_says_it_too(capsys: Capture) -> None:
    Path("in").mkdir()
    with_sound(Path("in/a.mp4"), sound=False)
    flags = ["--crf", "20", "--rle", "--feather", "2", "--fps-cap", "9"]
    assert main(["batch", "in", "-o", "out", "-m", "stub", "-b", "stub", "--dry-run", *flags]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "no effect" in line]
    assert [note.split()[1] for note in notes] == ["--feather", "--rle"]
