"""The side-by-side figure: read back and looked at, pixel by pixel where it counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from rtseg.contracts import Rendered, SourceInfo
from rtseg.errors import SinkError, UsageError
from rtseg.figures import SUFFIXES
from rtseg.frame import Frame, Segmentation
from rtseg.labels import VOC, LabelSet
from rtseg.sinks import SinkOptions, open_sink
from rtseg.sinks.figure import draw_figure

INFO = SourceInfo("clip.mp4", 64, 48)
LABELS = LabelSet(("background", "blue thing"), ((0, 0, 0), (0, 0, 255)))


def rendered(level: int = 100, size: tuple[int, int] = (48, 64), labels: LabelSet = LABELS):
    """A picture that is all of the second class, in an even shade of red."""
    image = np.zeros((*size, 3), np.uint8)
    image[..., 2] = level
    scores = np.zeros((len(labels), 1, 1), np.float32)
    scores[1] = 1

    def not_to_be_called(frame: Frame, segmentation: Segmentation) -> np.ndarray:
        raise AssertionError("the figure blends for itself, whatever the view")

    frame = Frame(image, 0, 0.0, 0.0)
    return Rendered(frame, Segmentation(scores, labels, size), not_to_be_called)


def written(path: Path, *frames: Rendered, overwrite: bool = False, labels: LabelSet = LABELS):
    with open_sink(f"figure:{path}", INFO, labels, SinkOptions(overwrite=overwrite)) as sink:
        for frame in frames:
            sink.write(frame)
    return sink


def panes(path: Path) -> list[tuple[int, ...]]:
    """The colours (BGR) that fill much of the figure, white left out, left to right."""
    image = cv2.imread(str(path))
    colours, first, counts = np.unique(
        image.reshape(-1, 3), axis=0, return_index=True, return_counts=True
    )
    large = [
        (int(at % image.shape[1]), tuple(map(int, colour)))
        for colour, at, count in zip(colours, first, counts, strict=True)
        if count > 0.05 * image.shape[0] * image.shape[1] and colour.min() < 250
    ]
    return [colour for _, colour in sorted(large)]


def test_the_figure_shows_the_original_then_the_60_40_blend(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    written(path, rendered(100))
    assert panes(path) == [(0, 0, 100), (102, 0, 60)]


def test_the_figure_has_the_legend_in_the_class_colour(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    written(path, rendered(100))
    image = cv2.imread(str(path))
    blue = np.nonzero((image == (255, 0, 0)).all(2))
    assert len(blue[0]) > 100
    assert blue[1].min() > 0.7 * image.shape[1], "it stands on the right"
    dark = np.nonzero(image[:, int(0.75 * image.shape[1]) :].max(2) < 60)
    assert len(dark[0]) > 100, "there are letters beside it"


def test_rows_of_the_legend_are_the_classes_in_view_with_their_shares() -> None:
    scores = np.zeros((21, 1, 4), np.float32)
    scores[[15, 15, 15, 7], 0, [0, 1, 2, 3]] = 9
    seen = Segmentation(scores, VOC, (2, 8))
    rows = VOC.by_share(seen.shares)
    assert [(name, colour) for name, _, colour in rows] == [
        ("person", (192, 128, 128)),
        ("car", (128, 128, 128)),
    ]
    assert sum(share for _, share, _ in rows) == pytest.approx(1)


def test_the_first_frame_is_kept_and_the_summary_says_so(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    sink = written(path, rendered(100), rendered(200), rendered(250))
    assert panes(path)[0] == (0, 0, 100)
    assert sink.summary() == f"figure to {path}, of the first of 3 frames"
    assert written(tmp_path / "one.png", rendered()).summary() == f"figure to {tmp_path}/one.png"


def test_no_frame_leaves_no_file(tmp_path: Path) -> None:
    sink = written(tmp_path / "figure.png")
    assert sink.summary() == ""
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_the_figure_is_left(tmp_path: Path) -> None:
    written(tmp_path / "figure.png", rendered(), rendered())
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_an_existing_figure_is_kept_without_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(b"mine")
    with pytest.raises(UsageError, match="-y"):
        written(path, rendered())
    assert path.read_bytes() == b"mine"
    written(path, rendered(), overwrite=True)
    assert panes(path)[0] == (0, 0, 100)


def test_an_existing_figure_is_kept_until_there_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(b"mine")
    written(path, overwrite=True)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["figure.txt", "figure", "figure.mp4"])
def test_an_unknown_kind_of_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.png"):
        written(tmp_path / name, rendered())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_file_is_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"figure{suffix}"
    written(path, rendered())
    start = path.read_bytes()[:300]
    marks = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<svg"}
    assert marks.get(suffix, b"\xff\xd8\xff") in start


def test_a_missing_folder_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        open_sink(f"figure:{tmp_path}/no/figure.png", INFO, LABELS)


def test_a_disk_that_fills_up_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(SinkError, match=r"figure\.png.*No space left"):
        written(tmp_path / "figure.png", rendered())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (33, 47)], ids=str)
def test_pictures_of_any_size_make_a_figure(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "figure.png"
    written(path, rendered(size=size))
    height, width = cv2.imread(str(path)).shape[:2]
    assert 200 < height < 2000
    assert 800 < width < 4000


def test_names_that_the_font_lacks_raise_no_warning(tmp_path: Path) -> None:
    names = ("nothing", "人 $x_1$ คน Zürich")
    labels = LabelSet(names, ((0, 0, 0), (0, 0, 255)))
    written(tmp_path / "figure.png", rendered(labels=labels), labels=labels)
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_more_classes_than_fit_are_counted() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    rows = [(f"class{i}", 0.01, (i, i, i)) for i in range(60)]
    figure = draw_figure(image, image, rows, "title")
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "class23" in words
    assert "class24" not in words
    assert "+ 36 more" in words


def test_no_global_figure_is_left_behind(tmp_path: Path) -> None:
    import sys

    written(tmp_path / "figure.png", rendered())
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


DRAWN = {
    "run": """
from rtseg.sinks.figure import draw_figure
image = np.zeros((48, 64, 3), np.uint8)
figure = draw_figure(image, image, [("thing", 0.5, (0, 0, 255))], "a clip")
""",
    "eval": """
from rtseg.evaluation.report import draw_confusion
from rtseg.evaluation.scoring import Score
from rtseg.labels import PERSON
from rtseg.metrics import ConfusionMatrix
matrix = ConfusionMatrix(2)
matrix.update(np.array([[0, 1]], np.uint8), np.array([[0, 1]], np.uint8))
figure = draw_confusion(Score("set", "net", PERSON, (), "", 1, 1, matrix))
""",
    "bench": """
from rtseg.bench.record import Record
from rtseg.bench.report import draw_plot
machine = dict.fromkeys(["rtseg", "git", "python", "os", "cpu", "gpu", "date"], "x")
figure = draw_plot(Record(machine | {"cores": 1, "load_average": 0.1, "versions": {}},
    {"name": "clip", "width": 64, "height": 48, "frame_rate": "30", "frame_count": 1},
    {"rounds": 1, "seconds": 1.0, "frames": None, "threads": None, "view": "overlay",
     "alpha": 0.4, "loop_ends_in": "h264", "data": None, "samples": 1}))
""",
    "train": """
from rtseg.training.folder import Row
from rtseg.training.charts import Labelled, draw_curves, draw_samples
from rtseg.labels import PERSON
row = Row(1, 1, 1e-4, 0.5, 0.5, 0.5, 0.5, 0.5, (0.5, 0.5), 1.0, True)
draw_curves(Path("curves.png"), [row], PERSON)
image, mask = np.zeros((48, 64, 3), np.uint8), np.ones((48, 64), np.uint8)
draw_samples(Path("train.png"), [Labelled("a", image, mask, mask)], PERSON)
""",
}


@pytest.mark.slow
def test_figures_are_drawn_whatever_backend_the_environment_names(tmp_path: Path) -> None:
    """A notebook sets MPLBACKEND for the processes it starts, and its backend may be absent."""
    backend = "module://matplotlib_inline.backend_inline"
    code = "from pathlib import Path\nimport os, sys\nimport numpy as np\n"
    code += "from rtseg.figures import save_figure\n"
    for verb, drawn in DRAWN.items():
        code += f"{drawn}\nsave_figure(figure, Path('{verb}.png'))\n" if verb != "train" else drawn
    code += f"assert os.environ['MPLBACKEND'] == {backend!r}\n"
    environment = {**os.environ, "MPLBACKEND": backend}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{verb}.png" for verb in DRAWN), "curves.png",
    }  # fmt: skip
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
