"""OpenVINO gives what ONNX Runtime gives, and says what it really computes in."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rtseg.backends import open_backend
from rtseg.errors import BackendError, DeviceError, UsageError
from rtseg.frame import Frame
from rtseg.nets import default_model, find_model
from rtseg.segmenter import Segmenter
from rtseg.session.inference import several_at_once
from rtseg.stats import Stats

SIZE = (96, 160)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    pytest.importorskip("openvino")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RTSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def blots(seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 10, 3), np.uint8)
    return small.repeat(16, 0).repeat(16, 1)


def shipped(**options) -> Segmenter:
    return Segmenter(open_backend(model=find_model(default_model()), input_size=SIZE, **options))


SIGNALLED = """
import faulthandler, gc, signal
from rtseg.backends import open_backend
from rtseg.nets import default_model, find_model

faulthandler.enable()  # which brings a stack for signals of its own, as pytest does
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))

def opened():
    return open_backend("openvino", find_model(default_model()), input_size=(96, 160))

first = opened()
second = opened()
for one in (first, second):
    one.close()
del first, second, one
gc.collect()
signal.raise_signal(signal.SIGTERM)
assert heard == [1]
print("alive")
"""
"""Networks one after the other, as the race of backends and the key m open them; then a signal."""


def test_signals_are_still_heard_when_networks_have_come_and_gone() -> None:
    done = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr


def test_its_masks_are_those_of_onnx_runtime() -> None:
    with shipped(name="openvino") as ours, shipped(name="onnx", device="cpu") as theirs:
        for seed in range(4):
            first, second = ours(blots(seed)), theirs(blots(seed))
            np.testing.assert_allclose(first.scores, second.scores, rtol=1e-3, atol=1e-3)
            assert np.mean(first.mask != second.mask) < 1e-3


def test_every_lane_gives_what_one_gives() -> None:
    frames = [Frame(blots(i), i, i / 30, 0.0) for i in range(7)]
    with shipped(name="openvino", lanes=3) as many, shipped(name="openvino") as alone:
        assert many.backend.lanes == 3
        found = [segmentation for _, segmentation in several_at_once(iter(frames), many, Stats())]
        for frame, segmentation in zip(frames, found, strict=True):
            np.testing.assert_allclose(
                segmentation.scores, alone(frame.image).scores, rtol=1e-3, atol=1e-3
            )


def test_a_precision_that_the_processor_lacks_is_said() -> None:
    with shipped(name="openvino", precision="bf16") as segmenter:
        info = segmenter.info
        assert info.precision in ("bf16", "fp32")
        assert any("bf16 was requested" in note for note in info.notes) == (
            info.precision == "fp32"
        )


def test_it_quantises_nothing_and_has_no_gpu() -> None:
    with pytest.raises(UsageError, match="int8 file with rtseg export"):
        shipped(name="openvino", precision="int8")
    with pytest.raises(DeviceError, match="cuda was required"):
        shipped(name="openvino", device="cuda", strict_device=True)


def test_closed_is_closed() -> None:
    segmenter = shipped(name="openvino")
    segmenter.close()
    with pytest.raises(BackendError, match="after it was closed"):
        segmenter(blots(0))


def test_without_the_package_the_command_that_installs_it_is_given(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match=r'pip install "rtseg\[openvino\]"') as caught:
        shipped(name="openvino")
    assert caught.value.exit_code == 2


def test_a_foreign_file_runs_with_its_settings(data: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(data / "networks" / "selfie_segmentation.onnx", tmp_path))
    path.with_suffix(".toml").write_text(
        'layout = "NHWC"\ncolour = "RGB"\nsize = [256, 256]\nscale = 0.00392156862745098\n'
        'mean = 0\nstd = 1\nlabels = ["background", "person"]\nactivation = "sigmoid"\n'
    )
    model = find_model(path)
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    with (
        Segmenter(open_backend("openvino", model)) as ours,
        Segmenter(open_backend("onnx", model, device="cpu")) as theirs,
    ):
        np.testing.assert_allclose(ours(image).scores, theirs(image).scores, rtol=1e-2, atol=1e-3)
