"""Where masks lie: a network's samples must not be displaced from what they show."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import rtseg


def displacement(folder: Path, size: tuple[int, int], pictures: int = 80) -> np.ndarray:
    """(x, y) in input pixels by which masks lie off their labels, over all pictures.

    The one motion that explains the difference best, by least squares on the gradients (Lucas and
    Kanade, 1981).
    """
    normal, moment = np.zeros((2, 2)), np.zeros(2)
    with rtseg.load("person", backend="torch", device="cpu", imgsz=size) as segmenter:
        for path in sorted((folder / "images").iterdir())[:pictures]:
            (label,) = (folder / "masks").glob(path.stem + ".*")
            planes = (
                segmenter(cv2.imread(str(path))).probability("person"),
                (cv2.imread(str(label), cv2.IMREAD_GRAYSCALE) > 0).astype(np.float32),
            )
            found, wanted = (
                cv2.GaussianBlur(cv2.resize(p, size[::-1], interpolation=cv2.INTER_AREA), (0, 0), 2)
                for p in planes
            )
            down, across = np.gradient((found + wanted) / 2)
            gradients = np.stack([across.ravel(), down.ravel()])
            normal += gradients @ gradients.T
            moment -= gradients @ (found - wanted).ravel()
    return np.linalg.solve(normal, moment)


@pytest.mark.slow
@pytest.mark.needs_data
@pytest.mark.parametrize("size", [(192, 192), (224, 288), (320, 320)])
def test_masks_lie_within_half_a_pixel_of_their_labels(data: Path, size: tuple[int, int]) -> None:
    assert np.abs(displacement(data / "people", size)).max() < 0.5


@pytest.mark.slow
@pytest.mark.needs_data
def test_the_measure_finds_the_shift_of_a_size_between(data: Path) -> None:
    assert np.abs(displacement(data / "people", (257, 257))).max() > 1
