"""Painted walls, curtains and flags to put people before, which networks take for clothes."""

import math

import cv2
import numpy as np
from numpy.random import Generator
from person_pictures import Array, Floats


def backdrop(rng: Generator, side: int) -> Array:
    """Return (S,S,3) uint8: a studio's wall, a curtain or a flag in two to four colours.

    Stripes and dots of any width and direction, waved, shaded and in folds.
    """
    colours = rng.integers(0, 256, (int(rng.integers(2, 5)), 3)).astype(np.float32)
    grey = colours.mean(axis=1, keepdims=True)
    colours = grey + rng.random() * (colours - grey)
    waves = rng.uniform(0, 0.2) * _hills(rng, side)
    along, across = (_ramp(rng, side) + waves for _ in range(2))
    place = along * rng.uniform(0.5, 14) % len(colours)
    first = place.astype(int) % len(colours)  # what is a hair below 0 came out as their number
    sharp = np.clip((place - first - 0.5) * rng.choice((1.0, 12.0)) + 0.5, 0, 1)[..., None]
    image = colours[first] * (1 - sharp) + colours[(first + 1) % len(colours)] * sharp
    if rng.random() < 0.3:
        count, half = rng.uniform(3, 12), rng.uniform(0.1, 0.3)
        dots = np.hypot(along * count % 1 - 0.5, across * count % 1 - 0.5) < half
        image[dots & (_hills(rng, side) > 0.5)] = rng.integers(0, 256, 3)
    light = rng.uniform(0, 0.6) * (_hills(rng, side) - 0.5)
    if rng.random() < 0.5:
        folds = np.sin((_ramp(rng, side) + waves) * rng.uniform(10, 60))
        light += rng.uniform(0, 0.5) * folds * _hills(rng, side)
    return np.clip(image * (1 + light[..., None]), 0, 255).astype(np.uint8)


def _ramp(rng: Generator, side: int) -> Floats:
    """Return (S,S) float32 that rises by 1 over a side, in any direction."""
    rows, columns = np.mgrid[:side, :side].astype(np.float32) / side
    angle = np.float32(rng.uniform(0, 2 * math.pi))
    return columns * np.cos(angle) + rows * np.sin(angle)


def _hills(rng: Generator, side: int) -> Floats:
    """Return (S,S) float32, 0 to 1: smooth noise."""
    points = rng.random((int(rng.integers(3, 9)),) * 2, np.float32)
    return np.clip(cv2.resize(points, (side, side), interpolation=cv2.INTER_CUBIC), 0, 1)
