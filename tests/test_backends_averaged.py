"""Test-time augmentation and windows: several passes, one mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from colour_network import make_network
from dataset_folders import make_folder
from PIL import Image

import rtseg
from rtseg.backends.averaged import SCALES, Averaged, Box, merged, windows
from rtseg.backends.base import fit_size
from rtseg.backends.fitted import FittedBackend
from rtseg.cli.app import main
from rtseg.contracts import Backend, BackendInfo
from rtseg.errors import UsageError
from rtseg.labels import LabelSet
from rtseg.segmenter import Segmenter
from rtseg.zoo import InputSpec, ModelSpec

LABELS = LabelSet(("dark", "left", "bright"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))


class Brightness(Backend):
    """Logits from the mean brightness of 8x8 blocks; "left" grows towards the left border of the
    input, which mirrored passes must take back."""

    def __init__(self, size: tuple[int, int], *, tilted: bool = False, **spec: Any) -> None:
        given = InputSpec(size, fixed=spec.pop("fixed", False))
        self.spec = ModelSpec("brightness", "onnx", labels=LABELS, input=given, **spec)
        self.info, self.input_size = BackendInfo("test", "cpu", "fp32"), size
        self.tilted, self.batches_seen = tilted, []

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.batches_seen.append(batch.shape)
        count, height, width, _ = batch.shape
        light = batch.mean(3).reshape(count, height // 8, 8, width // 8, 8).mean((2, 4)) / 255
        left = np.full_like(light, -1.0)
        if self.tilted:
            left += np.linspace(3, 0, width // 8)
        return np.stack([0.5 - light, left, light - 0.5], 1).astype(np.float32) * 4


def fitted(**options: Any) -> tuple[FittedBackend, list[tuple[int, int]]]:
    sizes: list[tuple[int, int]] = []

    def load(size: tuple[int, int]) -> Backend:
        sizes.append(size)
        return Brightness(size, **options)

    first = Brightness((64, 64), **options)
    return FittedBackend(first, load, lambda h, w: fit_size(first.spec, w, h)), sizes


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Large blots."""
    generator = np.random.default_rng(0)
    return cv2.resize(generator.integers(0, 256, (6, 8, 3), np.uint8), (512, 384))


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_one_pass_is_the_network_alone(image: np.ndarray, output: Any) -> None:
    inner, _ = fitted(output=output)
    alone, once = Segmenter(inner)(image), Segmenter(Averaged(inner))(image)
    assert once.scores.shape == alone.scores.shape
    assert np.array_equal(once.mask, alone.mask)
    whole = Segmenter(Averaged(inner, window=(9999, 9999), overlap=0.25))(image)
    assert np.array_equal(whole.mask, alone.mask)


def test_passes_are_mirrored_back_and_scales_change_the_input(image: np.ndarray) -> None:
    inner, sizes = fitted(tilted=True)
    usual = inner.size_for(image.shape[:2])
    segmentation = Segmenter(Averaged(inner, tta=True))(image)
    assert len(SCALES) == len({usual, *sizes}) == 3
    assert max(sizes)[0] > usual[0] > min(sizes)[0]
    left = np.exp(segmentation.scores[1])
    assert np.allclose(left.sum(), left[:, ::-1].sum(), rtol=1e-5)
    plain, mirrored = fitted()[0], image[:, ::-1]
    both = [Segmenter(Averaged(plain, tta=True))(each) for each in (image, mirrored)]
    assert np.allclose(both[0].scores, both[1].scores[..., ::-1], atol=1e-5)


class Sides(Brightness):
    """The left side of its input is one class, the right side another."""

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        dark, _, _ = np.moveaxis(super().__call__(batch), 1, 0)
        slope = np.broadcast_to(np.linspace(4, -4, dark.shape[2], dtype=np.float32), dark.shape)
        return np.stack([np.full_like(dark, -4), slope, -slope], 1)


def test_left_and_right_change_places_in_mirrored_passes(image: np.ndarray) -> None:
    network = Sides((64, 64), fixed=True)
    network.spec = replace(network.spec, labels=replace(LABELS, names=("none", "left", "Right")))
    alone, both = (Segmenter(Averaged(network, tta=tta))(image) for tta in (False, True))
    assert (both.mask == alone.mask).all()
    differences = (each.scores - each.scores[:1] for each in (both, alone))
    assert np.allclose(*differences, atol=1e-4)
    assert (both.mask[:, :256] == 1).all()


def test_the_mean_is_of_probabilities() -> None:
    box = Box(0, 0, 8, 8)
    one, other = np.full((2, 1, 1), 0.5, np.float32), np.array([[[1.0]], [[0.0]]], np.float32)
    mean = merged([(box, one), (box, other)], (8, 8), align_corners=False)
    assert mean.ravel().tolist() == [0.75, 0.25]


def test_a_network_of_one_size_is_only_mirrored(image: np.ndarray) -> None:
    inner = Brightness((64, 64), fixed=True)
    Segmenter(Averaged(inner, tta=True))(image)
    assert inner.batches_seen == [(1, 64, 64, 3)] * 2


@pytest.mark.parametrize("size", [(384, 512), (100, 100), (33, 700), (257, 129)])
@pytest.mark.parametrize("window", [(128, 128), (64, 200), (100, 100)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
def test_windows_cover_the_image(
    size: tuple[int, int], window: tuple[int, int], overlap: float
) -> None:
    covered = np.zeros(size, int)
    for box in windows(size, window, overlap):
        assert (box.height, box.width) == (min(size[0], window[0]), min(size[1], window[1]))
        assert box.top >= 0
        assert box.left >= 0
        covered[box.top : box.top + box.height, box.left : box.left + box.width] += 1
    assert covered.shape == size
    assert covered.min() >= 1


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_windows_of_a_linear_function_join_without_a_seam(
    overlap: float, align_corners: bool
) -> None:
    """Planes that are samples of a ramp over the image, whatever window they are of."""
    size, planes = (300, 420), []
    for box in windows(size, (128, 160), overlap):
        rows, columns = box.height // 8, box.width // 8

        def places(count: int, length: int) -> np.ndarray:
            if align_corners:
                return np.arange(count) * (length - 1) / (count - 1)
            return (np.arange(count) + 0.5) * length / count - 0.5

        y, x = places(rows, box.height) + box.top, places(columns, box.width) + box.left
        planes.append((box, np.stack([y[:, None] + 0 * x, x + 0 * y[:, None]]).astype(np.float32)))
    found = merged(planes, size, align_corners=align_corners)
    y, x = places(found.shape[1], size[0]), places(found.shape[2], size[1])
    inside = slice(2, -2)  # at the very border a plane has no sample beyond its last
    assert np.abs(found[0] - y[:, None])[inside].max() < 0.2
    assert np.abs(found[1] - x)[:, inside].max() < 0.2


def test_windows_that_differ_are_faded_into_each_other() -> None:
    """Windows of which each has its own number everywhere: no step between two columns."""
    size = (128, 420)
    boxes = windows(size, (128, 160), 0.5)
    planes = [
        (box, np.full((1, box.height // 8, box.width // 8), number, np.float32))
        for number, box in enumerate(boxes)
    ]
    row = merged(planes, size, align_corners=False)[0, 8]
    assert row[0] == pytest.approx(0, abs=1e-6)
    assert row[-1] == pytest.approx(len(boxes) - 1, abs=1e-6)
    steps = np.diff(row)
    assert steps.min() >= -1e-6
    assert steps.max() < 0.25


def test_windows_find_what_is_too_small_for_the_input(image: np.ndarray) -> None:
    inner, _ = fitted()
    dark = np.zeros_like(image)
    cv2.circle(dark, (400, 100), 14, (255, 255, 255), -1)
    assert not (Segmenter(inner)(dark).mask == 2).any()
    found = Segmenter(Averaged(inner, window=(64, 64), overlap=0.25))(dark).mask == 2
    truth = dark[..., 0] > 0
    assert (found & truth).sum() / (found | truth).sum() > 0.5


def test_the_note_names_the_passes() -> None:
    inner, _ = fitted()
    notes = Averaged(inner, tta=True, window=(64, 96), overlap=0.25).info.notes
    assert any("0.75, 1, 1.25" in note and "64x96, 25% overlapping" in note for note in notes)


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "set", 3)
    make_network(tmp_path / "net.onnx")
    return tmp_path


def test_eval_reports_the_figures_as_with_tta_and_windows(inside: Path) -> None:
    plain = rtseg.evaluate("set", "net.onnx", quiet=True).scores[0]
    (score,) = rtseg.evaluate("set", "net.onnx", tta=True, window=(32, 32), quiet=True).scores
    assert score.network == "net, tta, windows"
    assert score.info is not None
    assert any("averaged" in note for note in score.info.notes)
    assert score.matrix.mean_iou > 0.8
    assert not np.array_equal(score.matrix.counts, plain.matrix.counts)
    assert list(score.inputs) != list(plain.inputs), "the input is of a window's shape"


def test_run_and_load_take_windows(inside: Path) -> None:
    picture = str(next(Path("set/images").iterdir()))
    given = ["-m", "net.onnx", "--window", "32", "--overlap", "0.5", "-q"]
    assert main([picture, *given, "--mask-output", "mask.png"]) == 0
    with rtseg.load("net.onnx", window=(32, 32), overlap=0.5) as segmenter:
        mask = segmenter(cv2.imread(picture)).mask
    written = np.array(Image.open("mask.png"))  # indices; OpenCV would read the palette's colours
    assert np.array_equal(written, mask)
    assert set(np.unique(mask)) == {0, 1, 2}


@pytest.mark.parametrize(
    "options",
    [
        {"window": (8, 8)},
        {"window": 3},
        {"window": (64, 64), "overlap": 1},
        {"overlap": 0.5},
        {"tta": "x"},
    ],
)
def test_what_makes_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        rtseg.load("stub", **options)


def test_a_frame_rate_cannot_be_kept_by_several_passes(inside: Path) -> None:
    clip = ["test://?frames=4&size=64x48", "--live", "--headless"]
    assert main([*clip, "-m", "net.onnx", "--tta", "--target-fps", "20"]) == 2
