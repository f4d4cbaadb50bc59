"""Where the person network is wrong, on two of the sets that measure it, for its card.

    python tools/person_errors.py [-m person] [--data ../shared/data]

Of each set the IoU of person, pooled over all pixels, and which shares of the union are missing:
pixels near the label's edge, what does not touch a labelled person (mostly people whom the labels
leave out), bags, and the rest. The labels of the clothing pictures lie beside what they show, as
`CLOTHING_OFF` says, so these are measured a second time moved back; and what the labels themselves
would reach, held against themselves moved back, is more than any mask of what is seen can.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from person_pictures import (
    CLOTHING_OFF,
    DEFAULT_DATA,
    PERSON,
    Picture,
    clothing_pictures,
    moved,
    people_pictures,
)

import rtseg

Where = NDArray[np.bool_]
NEAR = 4
"""Pixels of the picture from the edge."""


class Errors(NamedTuple):
    """Pixels of one picture, or of all."""

    both: int
    union: int
    near_outside: int
    near_inside: int
    apart: int
    bags: int

    def plus(self, other: Errors) -> Errors:
        """Of both."""
        return Errors(*(a + b for a, b in zip(self, other, strict=True)))


NONE = Errors(0, 0, 0, 0, 0, 0)


def errors_of(found: Where, picture: Picture) -> Errors:
    """Compare a mask (H, W) with the picture's label."""
    assert picture.label is not None
    person = picture.label == PERSON
    outside, inside = found & ~person, person & ~found
    apart = outside & ~touching(found, person)
    bags = picture.certain_background
    bag = outside & ~apart & bags if bags is not None else np.zeros_like(found)
    return Errors(
        int((found & person).sum()),
        int((found | person).sum()),
        int((outside & ~apart & ~bag & (distance_to(person) <= NEAR)).sum()),
        int((inside & (distance_to(~person) <= NEAR)).sum()),
        int(apart.sum()),
        int(bag.sum()),
    )


def touching(found: Where, person: Where) -> Where:
    """Those parts of `found` that touch a person."""
    _, parts = cv2.connectedComponents(found.astype(np.uint8))
    reach = cv2.dilate(person.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return np.isin(parts, np.unique(parts[reach & found]))


def distance_to(where: Where) -> NDArray[np.float32]:
    """(H, W) float32: pixels to the nearest of them."""
    away = (~where).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_5), np.float32)


def moved_back(picture: Picture) -> Picture:
    """The clothing picture, its label where its edges are."""
    assert picture.label is not None
    assert picture.certain_background is not None
    bags = moved(picture.certain_background, *CLOTHING_OFF) > 0
    label = moved(picture.label, *CLOTHING_OFF)
    return replace(picture, label=label, certain_background=bags)


def told(name: str, errors: Errors) -> str:
    """The line of one set."""
    both, union, outside, inside, apart, bags = errors
    rest = union - both - outside - inside - apart - bags
    shares = {
        f"within {NEAR} pixels outside": outside,
        "inside": inside,
        "apart": apart,
        "bags": bags,
        "rest": rest,
    }
    listed = ", ".join(f"{what} {count / union:.3f}" for what, count in shares.items())
    alone = both / (union - apart)
    return f"{name}: IoU {both / union:.3f} ({alone:.3f} without what is apart); {listed}"


def main() -> None:
    """Read the command line and print the lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", "--model", default="person")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    args = parser.parse_args()

    @cache
    def segmenter(size: tuple[int, int]) -> rtseg.Segmenter:
        return rtseg.load(args.model, frame_size=size)

    def masks(pictures: Iterator[Picture]) -> Iterator[tuple[Where, Picture]]:
        for picture in pictures:
            bgr = np.ascontiguousarray(picture.image[:, :, ::-1])
            yield segmenter(bgr.shape[:2])(bgr).mask > 0, picture

    people, clothing, back, labels = NONE, NONE, NONE, NONE
    for found, picture in masks(people_pictures(args.data)):
        people = people.plus(errors_of(found, picture))
    for found, picture in masks(clothing_pictures(args.data, kept_aside=True)):
        there = moved_back(picture)
        assert there.label is not None
        clothing = clothing.plus(errors_of(found, picture))
        back = back.plus(errors_of(found, there))
        labels = labels.plus(errors_of(there.label == PERSON, picture))
    print(told("people", people))
    print(told("clothing", clothing))
    print(told("clothing, labels moved back", back))
    print(told("clothing, labels against themselves moved back", labels))


if __name__ == "__main__":
    main()
