"""Python programs that do the unexpected: wrong arguments, held generators, forks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rtseg
from rtseg.backends import open_backend
from rtseg.backends.options import NetworkOptions
from rtseg.bench.options import BenchOptions
from rtseg.contracts import SourceInfo
from rtseg.errors import UsageError
from rtseg.labels import VOC
from rtseg.nets import find_model
from rtseg.segmenter import Segmenter
from rtseg.sinks import SinkOptions, open_sink
from rtseg.sources import open_source
from rtseg.text import file_name
from rtseg.training import TrainOptions

CLIP = "test://?frames=2&size=64x48"


@pytest.fixture(scope="module")
def segmenter() -> Iterator[Segmenter]:
    with rtseg.load("stub") as loaded:
        yield loaded


@pytest.mark.parametrize("value", [["overlay"], {}, np.array(["overlay", "mask"]), (["mask"],)])
@pytest.mark.parametrize(
    ("options", "name"),
    [
        (rtseg.ViewOptions, "view"),
        (NetworkOptions, "backend"),
        (BenchOptions, "backend"),
        (TrainOptions, "logger"),
    ],
)
def test_what_is_not_one_of_the_choices(options: Any, name: str, value: Any) -> None:
    with pytest.raises(UsageError, match="choices are"):
        options(**{name: value})


@pytest.mark.parametrize(
    "options",
    [
        {"frame_size": (10**9, 10**9)},
        {"frame_size": "x"},
        {"frame_size": (1, 10**6)},
        {"frame_size": (True, 3)},
        {"frame_size": (60000, 60000)},
        {"classes": np.array([1, 99])},
        {"threads": "x"},
        {"threads": 1.5},
        {"threads": float("nan")},
        {"device": None},
        {"device": 3},
        {"backend": None},
        {"precision": None},
        {"precision": 2},
        {"classes": [None]},
        {"classes": (1.5,)},
        {"palette": 3},
        {"refine": "x"},
        {"imgsz": (10**9, 64)},
        {"lanes": "2"},
        {"lanes": True},
        {"lanes": None},
        {"strict_device": "x"},
        {"weights": 3},
        {"nonsense": 1},
    ],
)
def test_what_load_does_not_take(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        rtseg.load("stub", **options)


def test_what_load_takes() -> None:
    """Numbers of NumPy, a list or a name of classes."""
    size = np.array([64, 96])
    with rtseg.load("stub", imgsz=tuple(size), lanes=np.int64(1), classes="circle") as loaded:
        assert loaded.input_size == (64, 96)
        assert loaded.selected == frozenset({1})


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (None, {}),
        (1.5, {}),
        (b"x", {}),
        (CLIP, {"policy": 3}),
        (CLIP, {"temporal": 3}),
        (CLIP, {"width": "x"}),
        (CLIP, {"start": "a"}),
        (CLIP, {"end": "x"}),
        (CLIP, {"every": 1.5}),
        (CLIP, {"size": 3}),
        (CLIP, {"timeout": None}),
        (CLIP, {"decoder": None}),
        (CLIP, {"fourcc": 3}),
        (CLIP, {"nonsense": 1}),
    ],
)
def test_what_stream_does_not_take(
    source: Any, options: dict[str, Any], segmenter: Segmenter
) -> None:
    with pytest.raises(UsageError):
        list(rtseg.stream(source, segmenter, **options))


def test_what_is_no_segmenter_and_no_list(segmenter: Segmenter) -> None:
    for wrong in (None, "x", 3):
        with pytest.raises(UsageError, match="segmenter"):
            list(rtseg.stream(CLIP, wrong))  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="segmenter"):
            list(rtseg.stream_many([CLIP], wrong))  # type: ignore[arg-type]
    for wrong in (None, CLIP, CLIP.encode()):
        with pytest.raises(UsageError, match="list of sources"):
            list(rtseg.stream_many(wrong, segmenter))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="on_end"):
        list(rtseg.stream_many([CLIP], segmenter, on_end=3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "effect",
    [
        lambda frame, segmentation: None,
        lambda frame, segmentation: frame.image[..., 0],
        lambda frame, segmentation: frame.image.astype(float),
        lambda frame, segmentation: [1],
        lambda frame, segmentation: frame.image[:0],
        lambda frame, segmentation: np.zeros((4, 4, 2), np.uint8),
        3,
        None,
    ],
)
def test_what_is_no_effect(effect: Any, segmenter: Segmenter, tmp_path: Path) -> None:
    with (
        rtseg.open_source(CLIP) as source,
        rtseg.open_sink(str(tmp_path / "a.mp4"), source.info, segmenter.labels) as sink,
        pytest.raises(UsageError, match="effect"),
    ):
        rtseg.run(source, segmenter, effect, [sink])


HELD = """
import sys, threading, rtseg
segmenter = rtseg.load("{model}", backend="{backend}", imgsz=(128, 128))
clip = "test://?size=320x240&fps=200&frames=100000"
if {many}:
    held = rtseg.stream_many([clip, clip], segmenter)
else:
    held = rtseg.stream(clip, segmenter, policy="all")
def take():
    for _ in range(3):
        next(held)
if {thread}:
    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
else:
    take()
{end}
"""


def ended(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("end", ["", "sys.exit(0)", "segmenter.close()"])
def test_a_program_may_end_while_it_holds_a_stream(many: bool, thread: bool, end: str) -> None:
    code = HELD.format(model="person", backend="onnx", many=many, thread=thread, end=end)
    done = ended(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_held_stream_does_not_abort_the_program() -> None:
    done = ended(HELD.format(model="stub", backend="stub", many=False, thread=False, end=""))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_loaded_before_a_fork_is_an_error_after_it(segmenter: Segmenter) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            segmenter(np.zeros((48, 64, 3), np.uint8))
            text = "no error"
        except UsageError as error:
            text = str(error)
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        assert "forked" in answer.read()
    os.waitpid(child, 0)
    assert segmenter(np.zeros((48, 64, 3), np.uint8)).mask.shape == (48, 64)


FORKED = """
import os, sys
import numpy as np
import rtseg
segmenter = rtseg.load("person", backend="{backend}", imgsz=(64, 64), threads=2)
segmenter(np.zeros((64, 64, 3), np.uint8))
child = os.fork()
if child == 0:
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
segmenter(np.zeros((64, 64, 3), np.uint8))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("backend", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_process_forked_after_a_model_was_loaded_begins_and_ends(backend: str) -> None:
    """As those that read images for a training in a notebook: freeing the network would hang."""
    done = ended(FORKED.format(backend=backend))
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_segmented_shows_its_picture(segmenter: Segmenter) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    assert segmenter(image).picture is image
    assert (
        repr(segmenter)
        == "<Segmenter of <ModelSpec stub: 4 classes, input 512x512> by stub on cpu>"
    )
    for frame, segmentation in rtseg.stream(CLIP, segmenter):
        assert segmentation.picture is frame.picture
    for _, frame, segmentation in rtseg.stream_many([CLIP, CLIP], segmenter):
        assert segmentation.picture is frame.picture


INFO = SourceInfo("x", 4, 4)


@pytest.mark.parametrize("wrong", [3, None, "x", {"fps": 3}, True, np.zeros(2)], ids=repr)
def test_options_of_another_type_are_refused(tmp_path: Path, wrong: Any) -> None:
    target = str(tmp_path / "x.mp4")
    calls: list[Callable[[], object]] = [
        lambda: open_source("test://?frames=1", wrong),
        lambda: open_sink(target, INFO, VOC, wrong),
        lambda: open_sink(target, wrong, VOC),
        lambda: open_sink(target, INFO, wrong),
        lambda: open_backend("stub", wrong),
        lambda: open_backend("stub", find_model("stub"), nonsense=wrong),
    ]
    for call in calls:
        with pytest.raises(UsageError):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", ["a\0b.mp4", "\ud800.mp4", b"x.mp4", None, [], object()])
def test_what_cannot_be_a_path_is_refused(
    wrong: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (lambda: open_source(wrong), lambda: open_sink(wrong, INFO, VOC)):
        with pytest.raises(UsageError):
            call()


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("C:\\" + "\u540d" * 200 + "\\" + "x" * 200, True),
        ("x" * 256, False),
        ("C:\\" + "\U0001f600" * 128, False),
    ],
)
def test_names_under_windows_have_255_units(
    path: str, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    if allowed:
        assert file_name(path) == path
    else:
        with pytest.raises(UsageError):
            file_name(path)


@pytest.mark.parametrize("size", ["x", (1, 2, 3), 64, (64, float("nan")), (64, "64"), [-1, 10**30]])
def test_input_sizes_that_are_none(size: Any) -> None:
    with pytest.raises(UsageError):
        open_backend("stub", find_model("stub"), input_size=size)


def test_a_sink_takes_a_path_too(tmp_path: Path) -> None:
    with open_sink(tmp_path / "x", INFO, VOC):
        pass


LONG = ["a" * 300, "a" * 5000, "b/" * 3000, "é" * 200]


@pytest.mark.parametrize("name", LONG)
def test_names_too_long_for_a_file_are_refused(segmenter: Segmenter, name: str) -> None:
    info = SourceInfo("x", 64, 48, None)
    calls: list[Callable[[], object]] = [
        lambda: rtseg.load(name),
        lambda: rtseg.load(f"{name}.onnx"),
        lambda: rtseg.load("lraspp_mobilenet_v3_large", weights=f"{name}.pth"),
        lambda: rtseg.load("stub", palette=name),
        lambda: open_sink(f"{name}.mp4", info, VOC),
        lambda: open_sink(f"mask:{name}/", info, VOC),
        lambda: open_sink(f"json:{name}.jsonl", info, VOC),
        lambda: open_sink(name, info, VOC),
        lambda: rtseg.evaluate(data=name, model="stub", quiet=True),
        lambda: rtseg.export(model="person", output=f"{name}.onnx", quiet=True),
        lambda: rtseg.export(model="person", samples=name, output="x.onnx", quiet=True),
        lambda: rtseg.train(dataset=name, quiet=True),
        lambda: rtseg.train(dataset="x", out=name, quiet=True),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(rtseg.RtsegError) as caught:
            call()
        assert caught.value.exit_code == 2, number


@pytest.mark.parametrize("name", ["", " "])
def test_no_name_is_not_the_default_model(name: str) -> None:
    with pytest.raises(UsageError, match="no model was named"):
        rtseg.load(name)


@pytest.mark.parametrize(
    "size", [(0, 0), (-1, 5), (10**9, 10**9), "x", None, (1.5, 2), (float("nan"), 1), 5, (True, 2)]
)
def test_sizes_that_no_mask_has(segmenter: Segmenter, size: Any) -> None:
    segmentation = segmenter(np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(UsageError, match="in pixels"):
        segmentation.at_size(size)
    assert segmentation.at_size((np.int64(20), np.int32(30))).mask.shape == (20, 30)


@pytest.mark.parametrize("backend", ["stub", "onnx", "openvino", "torch"])
def test_a_closed_segmenter_raises(backend: str) -> None:
    segmenter = rtseg.load(
        "stub" if backend == "stub" else "person", backend=backend, imgsz=(64, 64)
    )
    image = np.zeros((48, 64, 3), np.uint8)
    segmenter(image)
    segmenter.close()
    segmenter.close()
    calls: list[Callable[[], object]] = [
        lambda: segmenter(image),
        lambda: list(rtseg.stream(CLIP, segmenter)),
        lambda: list(rtseg.stream_many([CLIP], segmenter)),
    ]
    for call in calls:
        with pytest.raises(rtseg.RtsegError, match="used after it was closed"):
            call()
    assert segmenter.info.name == backend


def test_sources_and_sinks_by_name_are_refused_by_run(segmenter: Segmenter) -> None:
    def effect(frame: Any, segmentation: Any) -> Any:
        return frame.image

    with open_source(CLIP) as source:
        for given in ((CLIP, segmenter, []), (source, "stub", []), (source, segmenter, "x.mp4"),
                      (source, segmenter, ["x.mp4"]), (source, segmenter, [None]),
                      (source, segmenter, None)):  # fmt: skip
            with pytest.raises(UsageError, match="is wanted"):
                rtseg.run(given[0], given[1], effect, given[2])
        with pytest.raises(UsageError, match="is wanted"):
            rtseg.run(source, segmenter, effect, [], temporal=None)  # type: ignore[arg-type]


def test_sinks_may_be_given_one_by_one(segmenter: Segmenter, tmp_path: Path) -> None:
    def effect(frame: Any, segmentation: Any) -> Any:
        return frame.image

    paths = [tmp_path / name for name in ("a.mkv", "b.mkv")]
    with open_source(CLIP) as source, ExitStack() as stack:
        sinks = [stack.enter_context(open_sink(p, source.info, segmenter.labels)) for p in paths]
        rtseg.run(source, segmenter, effect, iter(sinks))
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize(
    "wrong", [{"audio": False}, {"crf": "20"}, {"encoder": "x265"}, {"rle": "no"}, {"codec": 264}]
)
def test_how_to_write_is_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SinkOptions(**wrong)


def test_one_open_source_twice_is_refused(segmenter: Segmenter) -> None:
    with open_source(CLIP) as source, pytest.raises(UsageError, match="given twice"):
        list(rtseg.stream_many([source, source], segmenter))
    assert len(list(rtseg.stream_many([CLIP, CLIP], segmenter))) == 4


def test_names_of_a_label_set_are_not_a_text() -> None:
    colours = ((0, 0, 0),) * 3
    for names in ("abc", ["a", "b", "c"], None):
        with pytest.raises(ValueError, match="tuples"):
            rtseg.LabelSet(names, colours)  # type: ignore[arg-type]


def test_classes_may_be_an_array() -> None:
    with rtseg.load("stub", classes=np.array([1, 2])) as segmenter:
        assert segmenter.selected == {1, 2}
