"""tools/gpu_measure.py runs from start to end, with the processor standing in for the GPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton has no wheel for this system")
import torch

from rtseg.backends.cuda import DeviceLoop
from rtseg.backends.pytorch import TorchBackend
from rtseg.cli.app import main

TOOL = Path(__file__).resolve().parents[1] / "tools" / "gpu_measure.py"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_kernel_at_a_time")]


def tool() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_measure", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clip(tmp_path: Path) -> str:
    path = tmp_path / "clip.mp4"
    source = ["test://?size=96x64&frames=40", "-m", "stub", "-b", "stub"]
    assert main([*source, "-o", str(path), "--no-show", "-q"]) == 0
    return str(path)


@pytest.fixture
def kept_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends on the processor keep frames, as they do on a GPU."""
    load = TorchBackend._load

    def keeping(self: TorchBackend, model: Any, device: Any, dtype: Any, notes: list[str]) -> None:
        load(self, model, device, dtype, notes)
        self._keep_frames(device, notes)

    monkeypatch.setattr(TorchBackend, "_load", keeping)
    for kernel in ("shrink", "winners", "decode"):
        monkeypatch.setattr(f"rtseg.decode.device.kernels.{kernel}", Quick())
    monkeypatch.setattr(TorchBackend, "_fuses", False)
    monkeypatch.setattr(DeviceLoop, "network_seconds", lambda self, passes: [0.001] * passes)


class Quick:
    """Stands for the kernels, which Triton's interpreter runs for seconds: no mask, and the frame
    as it is."""

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*given: Any, **constants: int) -> None:
            if len(given) < 11:  # shrink, winners
                return
            masks, counts, frames, canvas = given[7:11]
            masks.zero_()
            counts[:, 0] = masks[0].numel()
            if constants["PAINT"]:
                canvas.copy_(frames)

        return launch


SMALL = ["--device", "cpu", "--size", "32x64", "--seconds", "0.4", "--live-seconds", "2.5"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.usefixtures("kept_frames")
def test_every_figure_and_bar_is_written_and_a_failure_ends_nothing(
    clip: str, tmp_path: Path
) -> None:
    measure, out = tool(), tmp_path / "out.jsonl"
    one = measure.LRASPP
    # the smallest network takes the place of all
    person = [row for row in measure.PLAN if row[0] == "person"]
    measure.PLAN = ((one, "torch", 30, measure.FIRST), *person)
    code = measure.main([clip, *SMALL, "--minutes", "5", "--out", str(out)])
    rows = lines(out)
    # there is no NVDEC
    assert [row["failed"].partition(":")[0] for row in rows if "failed" in row] == ["file_nvdec"]
    assert code == 1
    assert not any("left_out" in row for row in rows)
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if "model" in row:
            found.setdefault(row["model"], {}).update(row)
    figures = found[one]
    for name in (
        "eager_ms eager_plain_ms model_ms unfused_ms memory_x1_fps memory_x8_fps naive_memory_fps "
        "naive_file_fps file_opencv_fps decode_opencv_fps encode_fps live_p99_ms "
        "live_smooth_p50_ms live_smooth_p99_ms load_s memory_over_naive eager_over_model"
    ).split():
        assert figures[name] > 0, name
    assert figures["on_device"]
    assert [note.partition(" (")[0] for note in figures["notes"]] == ["random weights"]
    assert 0 <= figures["agreement_worst"] <= figures["agreement"] <= 1
    assert figures["model_ms"] == pytest.approx(1.0)
    ratio = figures["memory_x8_fps"] / figures["naive_memory_fps"]
    assert figures["memory_over_naive"] == pytest.approx(ratio, rel=1e-3)
    bars = {(row["model"], row["bar"]): row for row in rows if "bar" in row}
    assert len(bars) == len(measure.BARS)
    assert bars[one, "memory_x8_fps >= 2500"]["reached"] is False
    assert bars[one, "eager_over_model >= 5"]["reached"] is (figures["eager_over_model"] >= 5)
    assert "value" in bars["person", "agreement >= 0.995"]
    assert bars[measure.R101, "memory_x8_fps >= 850"]["reached"] is None


def test_what_needs_more_time_than_is_left_is_left_out(clip: str, tmp_path: Path) -> None:
    measure, out = tool(), tmp_path / "out.jsonl"
    assert measure.main([clip, *SMALL, "--minutes", "0.05", "--out", str(out)]) == 0
    rows = lines(out)
    assert rows[0]["clip"] == "96x64"
    assert {row["left_out"] for row in rows if "left_out" in row} >= {"load"}
    assert sum("bar" in row for row in rows) == len(measure.BARS)


def test_frames_per_second_are_those_between_whole_batches() -> None:
    finished = tool().Finished()
    # 10 batches of 4, one each 0.1 s, whose frames are drawn within a moment
    finished.moments = [1 + k // 4 * 0.1 + k % 4 * 0.001 for k in range(40)]
    assert finished.fps(4) == pytest.approx(40.0)
    finished.moments = finished.moments[:3]
    with pytest.raises(ValueError, match="too few"):
        finished.fps(4)


BLOCKED = "cyclopts platformdirs pooch pycocotools rich onnx onnxruntime openvino timm lightning av"


def test_it_starts_with_torch_triton_numba_opencv_and_a_wheel_of_av_alone(tmp_path: Path) -> None:
    """All else that a full installation has cannot be imported."""
    import av

    folder = Path(av.__file__).parents[1]
    with zipfile.ZipFile(tmp_path / "av-1.0-cp311-any.whl", "w") as wheel:
        for path in sorted(folder.glob("av*/**/*")):
            wheel.write(path, path.relative_to(folder))
    start = f"""
import runpy, sys, importlib.abc, importlib.util
blocked = set({BLOCKED.split()!r})
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        inside = path and any("/av-" in str(p) for p in path)
        if name.partition(".")[0] in blocked and not inside:
            if name == "av" and any("/av-" in p for p in sys.path):
                return None
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Block())
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in blocked else find(name, *more)
sys.argv = ["gpu_measure.py", "test://?size=96x64&frames=20", "--device", "cpu", "--size", "32x64",
    "--minutes", "0"]
runpy.run_path({str(TOOL)!r}, run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", start], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert torch.__version__ in done.stdout
