"""The classes of the synthetic scene and their flat colours: the test pattern draws them, and
the stub backend finds them again by colour."""

from __future__ import annotations

from rtseg.labels import LabelSet

SHAPE_LABELS = LabelSet(
    ("background", "circle", "square", "triangle"),
    ((0, 0, 0), (220, 40, 60), (40, 180, 60), (50, 90, 230)),
)

SHAPE_COLOURS: dict[int, tuple[int, int, int]] = {
    index: (blue, green, red)
    for index, (red, green, blue) in enumerate(SHAPE_LABELS.colours)
    if index != SHAPE_LABELS.background
}
"""BGR, by class index: each shape is filled with exactly this colour, without soft edges.

The scene's background and its frame number are grey, so no other pixel comes near them.
"""
