"""Every frame gets the mask that it gets alone, whatever shapes came before it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

import rtseg
from rtseg.backends import fitted, open_backend
from rtseg.backends.base import fit_size
from rtseg.backends.fitted import FittedBackend
from rtseg.cli.app import main
from rtseg.contracts import Backend, Source, SourceInfo
from rtseg.errors import BackendError
from rtseg.frame import Frame, Image
from rtseg.nets import find_model
from rtseg.stats import Stats

SHAPES = {"narrow": (240, 60), "wide": (120, 400), "square": (200, 200), "usual": (180, 240)}
"""(height, width) of pictures."""


def picture(height: int, width: int) -> Image:
    """A person's colour in a disc on noise, whose mask depends on the input's shape."""
    random = np.random.default_rng(height * width)
    image = random.integers(0, 90, (height, width, 3), np.uint8)
    person = find_model("stub").spec.labels.colours[1]
    centre, side = (width // 2, height // 2), min(height, width) // 3
    cv2.circle(image, centre, side, tuple(map(int, reversed(person))), -1)
    return image


PICTURES = {name: picture(*shape) for name, shape in SHAPES.items()}


def read(path: Path) -> Image:
    return np.asarray(PIL.Image.open(path))


def masks_of(names: Sequence[str], folder: Path, *flags: str) -> dict[str, Image]:
    """The masks that `rtseg` writes for a folder of those pictures, or for one alone."""
    source = folder / "in"
    source.mkdir(parents=True)
    for place, name in enumerate(names):
        cv2.imwrite(str(source / f"{place}-{name}.png"), PICTURES[name])
    target = str(source) if len(names) > 1 else str(next(source.iterdir()))
    out = folder / "out"
    flags = flags or ("-m", "stub")
    assert main([target, *flags, "--mask-output", f"{out}/", "--no-show", "-q"]) == 0
    return {path.stem.partition("-")[2]: read(path) for path in out.iterdir()}


def stretched(name: str) -> Image:
    """The mask of a picture at the input of the narrow one."""
    size = fit_size(find_model("stub").spec, 60, 240)
    with rtseg.load("stub", imgsz=size) as segmenter:
        return segmenter(PICTURES[name]).mask


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    folder = tmp_path_factory.mktemp("alone")
    each = [masks_of([name], folder / name)[name] for name in SHAPES]
    return dict(zip(SHAPES, each, strict=True))


@pytest.mark.parametrize("order", list(itertools.permutations(SHAPES))[::5])
def test_a_folder_in_any_order_gives_the_masks_of_each_picture_alone(
    order: Sequence[str], alone: dict[str, Image], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    found = masks_of(order, tmp_path)
    for name, mask in alone.items():
        assert np.array_equal(found[name], mask), name
    assert (alone["usual"] != stretched("usual")).any(), "the shape matters"


def test_the_run_reports_its_input_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks_of(list(SHAPES), tmp_path)
    out = tmp_path / "metrics.json"
    assert main([str(tmp_path / "in"), "-m", "stub", "--no-show", "--metrics", str(out)]) == 0
    import json

    inputs = json.loads(out.read_text())["inputs"]
    assert sorted(inputs.values()) == [1, 1, 1, 1]
    assert "input size changed 3 times" in capsys.readouterr().err


def test_one_size_for_all_is_what_imgsz_says(tmp_path: Path) -> None:
    size = fit_size(find_model("stub").spec, 60, 240)
    flags = ("-m", "stub", "--imgsz", f"{size[0]}x{size[1]}")
    found = masks_of(["wide", "usual"], tmp_path, *flags)
    assert np.array_equal(found["usual"], stretched("usual"))


def test_python_gives_the_same(alone: dict[str, Image]) -> None:
    with rtseg.load("stub", frame_size=SHAPES["narrow"]) as segmenter:
        for name in (*SHAPES, *reversed(SHAPES)):
            assert np.array_equal(segmenter(PICTURES[name]).mask, alone[name]), name


class Changing(Source):
    """A stream whose size changes with every frame."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        height, width = SHAPES[names[0]]
        self.info = SourceInfo("changing", width, height)
        self._left = list(enumerate(names))

    def _read(self) -> Frame | None:
        if not self._left:
            return None
        index, name = self._left.pop(0)
        return Frame(PICTURES[name].copy(), index, index / 25, 0.0, name)


def test_a_stream_whose_size_changes(alone: dict[str, Image]) -> None:
    names = [*SHAPES, *SHAPES]
    with rtseg.load("stub") as segmenter, Changing(names) as source:
        found = [segmentation.mask for _, segmentation in rtseg.stream(source, segmenter)]
    for name, mask in zip(names, found, strict=True):
        assert np.array_equal(mask, alone[name]), name


def test_several_sources_in_one_batch(alone: dict[str, Image]) -> None:
    """The stub gains by batches, so frames of all sources are given to it together."""
    names = list(SHAPES)
    sources = [Changing([*names[k:], *names[:k]] * 3) for k in range(4)]
    counted = [0] * 4
    with rtseg.load("stub") as segmenter:
        for number, frame, segmentation in rtseg.stream_many(sources, segmenter, policy="all"):
            counted[number] += 1
            assert np.array_equal(segmentation.mask, alone[str(frame.name)]), frame.name
    assert counted == [12] * 4


def test_a_grid(alone: dict[str, Image], tmp_path: Path) -> None:
    """Sources of a grid keep their own shapes."""
    for name in SHAPES:
        cv2.imwrite(str(tmp_path / f"{name}.png"), PICTURES[name])
    targets = [str(tmp_path / f"{name}.png") for name in SHAPES]
    out = tmp_path / "out"
    out.mkdir()
    flags = ["--mask-output", f"{out}/{{name}}.png", "-m", "stub", "--no-show", "-q"]
    assert main([*targets, *flags]) == 0
    found = {p: read(p) for p in out.rglob("*.png")}
    assert len(found) == len(alone)
    for path, mask in found.items():
        (name,) = [name for name in alone if name in str(path)]
        assert np.array_equal(mask, alone[name]), path


# --- what stays open ----------------------------------------------------------------------------


class Counting:
    """Opens stubs, and counts those that are open."""

    def __init__(self) -> None:
        self.model = find_model("stub")
        self.opened: list[tuple[int, int]] = []
        self.closed: list[tuple[int, int]] = []

    def __call__(self, size: tuple[int, int]) -> Backend:
        backend = open_backend("stub", self.model, input_size=size)
        self.opened.append(size)
        backend.close = lambda: self.closed.append(size)  # type: ignore[method-assign]
        return backend


def run_at(backend: Backend, size: tuple[int, int]) -> None:
    backend(np.zeros((1, *size, 3), np.uint8))


def test_a_bounded_number_of_sizes_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted, "KEPT_OPEN", 3)
    load = Counting()
    backend = FittedBackend(load((32, 32)), load, lambda height, width: (height, width))
    sizes = [(32, 48), (32, 64), (32, 48), (32, 80), (32, 96)]
    for size in sizes:
        run_at(backend, size)
        assert len(load.opened) - len(load.closed) <= 3
    assert load.closed == [(32, 32), (32, 64)], "what was used longest ago is closed first"
    backend.close()
    assert sorted(load.closed) == sorted(load.opened), "each is closed once"
    run_at(backend, (32, 48))
    backend.close()


def test_a_size_in_use_is_not_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted, "KEPT_OPEN", 1)
    load, inside, go_on = Counting(), threading.Event(), threading.Event()
    first = load((32, 32))

    class Slow(type(first)):  # type: ignore[misc]
        def __call__(self, batch):
            inside.set()
            assert go_on.wait(5)
            return super().__call__(batch)

    first.__class__ = Slow
    backend = FittedBackend(first, load, lambda height, width: (height, width))
    thread = threading.Thread(target=run_at, args=(backend, (32, 32)))
    thread.start()
    assert inside.wait(5)
    run_at(backend, (32, 48))
    assert load.closed == []
    go_on.set()
    thread.join()
    run_at(backend, (32, 64))
    assert load.closed == [(32, 32), (32, 48)]
    backend.close()


def test_a_size_that_fails_to_open_says_why_and_the_others_go_on() -> None:
    load = Counting()

    def failing(size: tuple[int, int]) -> Backend:
        raise BackendError("no memory")

    backend = FittedBackend(load((32, 32)), failing, lambda height, width: (height, width))
    with pytest.raises(BackendError, match="no memory"):
        run_at(backend, (32, 48))
    run_at(backend, (32, 32))


def test_frames_are_counted_once_there_are_several_sizes() -> None:
    load, stats = Counting(), Stats()
    backend = FittedBackend(load((32, 32)), load, lambda height, width: (height, width))
    backend.attend(stats)
    run_at(backend, (32, 48))
    stats.start()
    run_at(backend, (32, 32))
    run_at(backend, (32, 32))
    assert not stats.inputs
    run_at(backend, (32, 48))
    assert stats.inputs == {(32, 32): 2, (32, 48): 1}
    assert stats.steps == 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnx", "openvino", "torch"])
def test_the_shipped_network_gives_each_picture_its_own_mask(backend: str, tmp_path: Path) -> None:
    with rtseg.open_source("demo:0.3") as source:
        frame = next(iter(source)).image
    width = frame.shape[1]
    PICTURES["narrow"] = frame[:, width // 2 - 100 : width // 2 + 100]
    PICTURES["usual"], PICTURES["wide"] = frame, frame[150:400]
    flags = ("-m", "person", "-b", backend, "-d", "cpu")
    names = ["narrow", "usual", "wide"]
    alone = {name: masks_of([name], tmp_path / name, *flags)[name] for name in names}
    assert (alone["usual"] > 0).mean() > 0.2
    for place, order in enumerate(itertools.permutations(names)):
        found = masks_of(order, tmp_path / str(place), *flags)
        for name in names:
            assert np.array_equal(found[name], alone[name]), (order, name)
