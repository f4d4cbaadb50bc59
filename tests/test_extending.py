"""A new sink, view, source or backend is one file and one row, and the command line offers it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

TESTS = Path(__file__).parent

SINK = """
from rtseg.contracts import Sink

class CountSink(Sink):
    def __init__(self, path, info, labels, options):
        self.path, self.pixels = path, []

    def write(self, rendered):
        self.pixels.append(int(rendered.image[0, 0, 0]))

    def close(self):
        self.path.write_text(" ".join(map(str, self.pixels)))

    def summary(self):
        return f"{len(self.pixels)} pixels to {self.path}"
"""
SINK_ROW = """
from rtseg.sinks import SINKS, SinkKind
SINKS["count"] = SinkKind("addon:CountSink", prefix=True, help="count:FILE", is_file=True)
"""
VIEW = """
import numpy as np

class Negative:
    def __init__(self, labels, options):
        self.alpha = options.alpha

    def __call__(self, frame, segmentation):
        return np.full_like(frame.image, 77)
"""
VIEW_ROW = """
from rtseg.effects import VIEWS, ViewKind
VIEWS["negative"] = ViewKind("addon:Negative")
"""
SOURCE = """
import numpy as np
from rtseg.contracts import Source, SourceInfo
from rtseg.frame import Frame

class GreySource(Source):
    def __init__(self, target, options, clock):
        super().__init__(clock)
        self.grey, self.index = int(target.partition(":")[2]), 0
        self.info = SourceInfo(f"grey {self.grey} at {options.fps:g}", 64, 48, frame_count=3)

    def _read(self):
        if self.index == 3:
            return None
        self.index += 1
        image = np.full((48, 64, 3), self.grey, np.uint8)
        return Frame(image, self.index - 1, self.index / 10, self.clock.now())
"""
SOURCE_ROW = """
from rtseg.sources import SOURCES, SourceKind
SOURCES["grey"] = SourceKind(
    "addon:GreySource", schemes=frozenset({"grey"}), help="grey:0..255", options=frozenset({"fps"})
)
"""
BACKEND = """
import numpy as np
from rtseg.contracts import Backend, BackendInfo

class LeftBackend(Backend):
    def __init__(self, model, input_size, options):
        self.spec, self.input_size = model.spec, input_size
        self.info = BackendInfo("left", options.device, options.precision, "numpy")

    def __call__(self, batch):
        height, width = self.input_size
        scores = np.zeros((len(batch), len(self.spec.labels), height // 8, width // 8), np.float32)
        scores[:, 1, :, : width // 16] = 5
        return scores
"""
BACKEND_ROW = """
from rtseg.backends import BACKENDS, BackendKind
BACKENDS["left"] = BackendKind(
    "addon:LeftBackend", frozenset({"none"}), devices=("cpu", "npu"), precisions=("fp32", "int4"),
    module=MODULE, install="pip install addon",
)
"""
FAMILY = """
from collections import OrderedDict
from torch import nn

class Backbone(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, image):
        return {"deep": super().forward(image)}

class Tiny(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.backbone = Backbone()
        self.classifier = nn.Sequential(OrderedDict(last=nn.Conv2d(8, num_classes, 1)))

    def forward(self, image):
        scores = self.classifier(self.backbone(image)["deep"])
        return {"out": nn.functional.interpolate(scores, image.shape[-2:], mode="bilinear")}

def build(architecture, num_classes, aux=False):
    return Tiny(num_classes)
"""
FAMILY_ROW = """
from rtseg.zoo import FAMILIES, MODELS, Family, ModelSpec
spec = ModelSpec("tiny", "tiny")
row = Family("addon:build", ("classifier.last",), licence="MIT", models=(spec,), output="deep")
FAMILIES["tiny"], MODELS["tiny"] = row, spec
"""


def rtseg(folder: Path, row: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with one more row, and the file beside it."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{row}"
    code += f"\nfrom rtseg.cli.app import main; sys.exit(main({list(arguments)!r}))"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=TESTS.parent, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


RUN = ("test://?frames=3&size=64x48", "-m", "stub", "-b", "stub")


def test_a_sink_is_one_file_and_one_row(tmp_path: Path) -> None:
    (tmp_path / "addon.py").write_text(SINK)
    target = f"count:{tmp_path / 'out.txt'}"
    done = rtseg(tmp_path, SINK_ROW, *RUN, "-o", target)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out.txt").read_text().split()) == 3
    assert "3 pixels to" in done.stderr
    refused = rtseg(tmp_path, SINK_ROW, *RUN, "-o", target)
    assert refused.returncode == 2, "the file exists"
    assert "count:FILE" in rtseg(tmp_path, SINK_ROW, "run", "--help").stdout


def test_a_view_is_one_file_and_one_row(tmp_path: Path) -> None:
    (tmp_path / "addon.py").write_text(VIEW)
    out = tmp_path / "%02d.png"
    done = rtseg(tmp_path, VIEW_ROW, *RUN, "--view", "negative", "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert (np.array(cv2.imread(str(tmp_path / "00.png"))) == 77).all()
    assert "negative" in rtseg(tmp_path, VIEW_ROW, "run", "--help").stdout


def test_a_source_is_one_file_and_one_row(tmp_path: Path) -> None:
    (tmp_path / "addon.py").write_text(SOURCE)
    run = ("grey:90", "-m", "stub", "-b", "stub", "--fps", "7")
    done = rtseg(tmp_path, SOURCE_ROW, *run, "-o", f"{tmp_path}/%02d.png")
    assert done.returncode == 0, done.stderr
    assert "grey 90 at 7" in done.stderr
    assert "--fps" not in done.stderr, "the row says that it has an effect"
    assert [path.name for path in sorted(tmp_path.glob("*.png"))] == ["00.png", "01.png", "02.png"]
    assert (cv2.imread(str(tmp_path / "00.png")) == 90).all()
    done = rtseg(tmp_path, SOURCE_ROW, *run, "grey:80", "-o", f"{tmp_path}/each_{{name}}.mp4")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.glob("*.mp4")} == {"each_grey.mp4", "each_grey_2.mp4"}
    assert "grey:0..255" in rtseg(tmp_path, SOURCE_ROW, "run", "--help").stdout


def test_a_backend_is_one_file_and_one_row(tmp_path: Path) -> None:
    (tmp_path / "addon.py").write_text(BACKEND)
    row = BACKEND_ROW.replace("MODULE", repr("addon"))
    run = ("test://?frames=3&size=64x48", "-m", "stub", "-b", "left", "-d", "npu")
    out = ("--view", "mask", "-o", f"{tmp_path}/%02d.png")
    done = rtseg(tmp_path, row, *run, "--precision", "int4", *out)
    assert done.returncode == 0, done.stderr
    assert "left on npu, int4" in done.stderr
    colours = cv2.imread(str(tmp_path / "00.png"))
    assert (colours[:, :24] == colours[0, 0]).all()
    assert (colours[:, 40:] == colours[0, -1]).all()
    assert (colours[0, 0] != colours[0, -1]).any()
    refused = rtseg(tmp_path, row, *run, "--precision", "fp16", *out, "-y")
    assert refused.returncode == 2
    assert "precision fp16 for the left backend: it has fp32, int4" in refused.stderr
    missing = rtseg(tmp_path, BACKEND_ROW.replace("MODULE", repr("nowhere")), *run, *out, "-y")
    assert missing.returncode == 2
    assert "Install it: pip install addon" in missing.stderr
    shown = rtseg(tmp_path, row, "run", "--help").stdout
    assert "left" in shown
    assert "int4" in shown


def test_a_family_of_networks_is_one_file_and_one_row(tmp_path: Path) -> None:
    (tmp_path / "addon.py").write_text(FAMILY)
    for backend in ("torch", "onnx"):
        run = ("test://?frames=3&size=64x48", "-m", "tiny", "--weights", "random", "-b", backend)
        done = rtseg(tmp_path, FAMILY_ROW, *run, "-d", "cpu", "-o", f"{tmp_path}/%02d.png", "-y")
        assert done.returncode == 0, done.stderr
    shown = rtseg(tmp_path, FAMILY_ROW, "models")
    assert shown.returncode == 0, shown.stderr
    assert "tiny" in shown.stdout
    code = (
        FAMILY_ROW
        + """
from rtseg.labels import PERSON
from rtseg.train.prepare import start
begun = start("tiny", "scratch", PERSON, aux=False, seed=0)
print(begun.network.classifier.last.out_channels, begun.spec.architecture)
"""
    )
    done = rtseg(tmp_path, code, "--version")
    assert done.stdout.startswith("2 tiny"), done.stderr
