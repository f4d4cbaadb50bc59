"""Models measured on labelled images, by the code that `rtseg run` uses."""

from __future__ import annotations

from rtseg.evaluate.networks import InputPolicy, Network
from rtseg.evaluate.scoring import ClipScore, Score, clip_flicker, score, score_clip
from rtseg.evaluate.sets import LabelledSet, SetSpec, open_set

__all__ = [
    "ClipScore",
    "InputPolicy",
    "LabelledSet",
    "Network",
    "Score",
    "SetSpec",
    "clip_flicker",
    "open_set",
    "score",
    "score_clip",
]
