"""The verbs beside `run`: models, cameras, doctor, demo."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import rtseg
from rtseg import zoo
from rtseg.cli import doctor
from rtseg.cli.app import main
from rtseg.cli.cameras import describe_camera
from rtseg.exporting import program
from rtseg.nets.hub import PUBLISHED
from rtseg.nets.weights import weights_path
from rtseg.sources import open_source
from rtseg.sources.camera import Camera, Mode
from rtseg.zoo import MODELS, WeightsSpec

CLIP = ("--samples", "test://?size=96x64&frames=6")

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder and a cache of its own, without a display."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("arguments", [["models"], ["models", "list"]])
def test_models_lists_every_network(capsys: Capture, arguments: list[str]) -> None:
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for name, spec in MODELS.items():
        row = next(line for line in out.splitlines() if line.startswith(name + " "))
        assert spec.miou is None or f"{spec.miou:.1f}" in row
        assert spec.weights is None or "to download" in row
    for published in PUBLISHED:
        assert f"{published.address} " in out
        assert published.licence in out
    assert "default: " in out


def test_models_shows_one(capsys: Capture) -> None:
    assert main(["models", "show", "fcn_resnet50"]) == 0
    out = capsys.readouterr().out
    spec = MODELS["fcn_resnet50"]
    assert spec.weights is not None
    for words in (spec.weights.url, spec.weights.sha256, "person", "60.5", "to download"):
        assert words in out
    assert f"parameters    {spec.parameters:.1f} million" in out


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A published file in the folder, and a network that names it."""
    file = tmp_path / "tiny-weights.pth"
    file.write_bytes(b"some weights")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    weights = WeightsSpec("http://127.0.0.1:1/tiny-weights.pth", digest, "CC0", 0.1)
    spec = replace(MODELS["fcn_resnet50"], name="tiny", weights=weights)
    monkeypatch.setitem(zoo.MODELS, "tiny", spec)
    return file


def test_models_verify_and_the_state_of_a_download(capsys: Capture, tiny: Path) -> None:
    assert main(["models", "verify"]) == 0
    assert "nothing is downloaded" in capsys.readouterr().out
    weights = zoo.MODELS["tiny"].weights
    assert weights is not None
    cached = weights_path(weights)
    cached.parent.mkdir(parents=True)
    cached.write_bytes(tiny.read_bytes())
    assert main(["models", "verify"]) == 0
    assert "tiny: intact" in capsys.readouterr().out
    assert main(["models"]) == 0
    assert "downloaded" in capsys.readouterr().out
    assert main(["models", "download", "tiny"]) == 0, "it is there: no network is needed"
    assert str(cached) in capsys.readouterr().out
    cached.write_bytes(b"other weights")
    assert main(["models", "verify"]) == 1
    said = capsys.readouterr()
    assert "tiny: BROKEN" in said.out
    assert "rtseg models download tiny" in said.err


def test_an_unknown_model_is_not_lost_among_all(capsys: Capture, tiny: Path) -> None:
    assert main(["models", "download", "nosuch", "--all"]) == 2
    assert "nosuch" in capsys.readouterr().err


def test_a_download_without_a_network_says_what_to_do(capsys: Capture, tiny: Path) -> None:
    assert main(["models", "download", "tiny"]) == 1
    said = capsys.readouterr().err
    assert "http://127.0.0.1:1/tiny-weights.pth" in said
    assert str(Path("cache") / "weights" / "tiny-weights.pth") in said
    assert said.strip().count("\n") == 0


def test_a_camera_in_words() -> None:
    modes = (
        Mode("MJPG", 1280, 720, (Fraction(30), Fraction(30000, 1001))),
        Mode("YUYV", 640, 480),
    )
    camera = Camera(2, Path("/dev/video2"), "Cam", modes, True, modes[0], 29.64)
    assert describe_camera(camera) == [
        "2: Cam (/dev/video2)",
        "   1280x720 MJPG at 30, 29.97 fps",
        "   640x480 YUYV",
        "   measured 29.6 fps, requested 1280x720 MJPG at 30 fps",
    ]
    assert describe_camera(Camera(0, None, "", problem="busy")) == [
        "0: camera",
        "   not usable: busy",
    ]


def test_no_cameras_is_an_answer(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from rtseg.cli import cameras

    monkeypatch.setattr(cameras, "list_cameras", lambda **asked: [])
    assert main(["cameras"]) == 0
    assert capsys.readouterr().out == "no cameras found\n"


def test_doctor_looks_at_everything(capsys: Capture, inside: Path) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for words in ("rtseg", "torchvision", "CPUExecutionProvider", "libx264", str(inside / "cache")):
        assert words in out
    assert "! window" in out
    assert "-o out.mp4" in out, "what to do without a display"
    row = next(line for line in out.splitlines() if "CPUExecutionProvider" in line)
    assert row.endswith("runs")


def test_doctor_says_what_to_do_about_a_gpu_that_no_library_reaches(
    capsys: Capture, driver_alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries = {
        name: doctor.CHECKS[name] for name in doctor.CHECKS if "torch" in name or "onnx" in name
    }
    monkeypatch.setattr(doctor, "CHECKS", libraries)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "! NVIDIA GPU                  not used: torch" in out
    assert "pytorch.org/get-started/locally" in out
    assert 'pip install --upgrade "onnxruntime-gpu[cuda,cudnn]"' in out


def test_doctor_as_json_for_reports(
    capsys: Capture, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(doctor.CHECKS, "torch")  # it takes a process, and seconds
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"][0] == {"what": "rtseg", "found": rtseg.__version__, "do": ""}
    assert any(one["do"] for one in found["display"])


def test_doctor_lists_every_backend_that_was_measured_with_its_precision(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rtseg.backends import auto

    pairs = [("openvino", each) for each in ("bf16", "fp16", "int8")]
    pairs += [("onnx", "fp32"), ("openvino", "fp32")]
    rows = tuple(auto.Result(*pair, seconds=0.1 + n) for n, pair in enumerate(pairs))
    choice = auto.Choice("person at 256x448", pairs[0], rows, 2, "2026-11-30")
    monkeypatch.setattr(auto, "saved_choices", lambda: [choice])
    name = next(name for name in doctor.CHECKS if "--remeasure" in name)
    monkeypatch.setattr(doctor, "CHECKS", {name: doctor.CHECKS[name]})
    assert main(["doctor"]) == 0
    assert (
        "openvino bf16 100.0 ms (openvino fp16 1100.0, openvino int8 2100.0, onnx fp32 3100.0, "
        "openvino fp32 4100.0), 2 at once, 2026-11-30"
    ) in capsys.readouterr().out


def test_doctor_survives_a_library_that_does_not_load(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> doctor.Iterator[doctor.Finding]:
        raise ImportError("libGL.so.1: cannot open shared object file")
        yield

    monkeypatch.setattr(doctor, "CHECKS", {"codecs": broken})
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "libGL.so.1" in out
    assert "apt-get install libgl1" in out


def test_doctor_survives_what_torch_prints_and_how_long_it_takes(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"torch": doctor.CHECKS["torch"]})
    script = "print('INFO: hello'); print('device\\tcpu'); print('a\\tb\\tc\\td')"
    monkeypatch.setattr(doctor, "_TORCH_SCRIPT", script)
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "cpu" in said
    assert "hello" not in said
    monkeypatch.setattr(doctor, "_TORCH_SCRIPT", "import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "_TORCH_SECONDS", 0.1)
    assert main(["doctor"]) == 0
    assert "within 0.1 s" in capsys.readouterr().out


def test_demo_writes_a_clip_without_a_display(capsys: Capture, inside: Path) -> None:
    (inside / "rtseg-demo.mp4").write_bytes(b"an earlier one, which it replaces")
    assert main(["demo", "--seconds", "0.1"]) == 0
    said = capsys.readouterr().err
    assert str(inside / "rtseg-demo.mp4") in said
    assert "fps (whole loop)" in said
    with av.open("rtseg-demo.mp4") as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (1280, 720, 30)
        assert sum(1 for _ in container.decode(stream)) == 3


@pytest.mark.slow
def test_demo_writes_what_is_named_and_replaces_that_when_told(
    capsys: Capture, inside: Path
) -> None:
    command = ["demo", "--seconds", "0.1", "-o", "mine.mp4"]
    (inside / "mine.mp4").write_bytes(b"an earlier one")
    assert main(command) == 2
    assert "mine.mp4 exists" in capsys.readouterr().err
    assert main([*command, "-y"]) == 0
    assert f"see {inside / 'mine.mp4'}" in capsys.readouterr().err
    with av.open("mine.mp4") as container:
        assert container.streams.video[0].frames == 3


def test_demo_into_a_pipe_names_no_file(capfd: pytest.CaptureFixture[str], inside: Path) -> None:
    assert main(["demo", "--seconds", "0.1", "-o", "-"]) == 0
    assert "see " not in capfd.readouterr().err


def test_the_portrait_moves_and_ends() -> None:
    with open_source("demo:0.5") as source:
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(15))
    assert frames[-1].pts == pytest.approx(14 / 30)
    assert frames[0].size == (720, 1280)
    assert np.abs(frames[7].image.astype(int) - frames[0].image).mean() > 5
    assert all(frame.image.std() > 20 for frame in frames)


def test_what_ships_and_what_is_a_file_need_no_download(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "SECONDS", 0.0)  # of timing
    assert main(["models", "download", "person"]) == 0
    assert "person: shipped, nothing to download" in capsys.readouterr().out
    network = tmp_path / "net.onnx"
    assert main(["export", "-m", "person", "--imgsz", "64x64", "-o", str(network), *CLIP]) == 0
    capsys.readouterr()
    assert main(["models", "show", str(network)]) == 0
    out = capsys.readouterr().out
    assert "a file" in out
    assert "to download" not in out
