"""Networks measured on labelled pictures, through the code that runs live."""

from __future__ import annotations

from rtseg.evaluate.clips import ClipScore, clip_flicker, score_clip
from rtseg.evaluate.networks import InputPolicy, Network
from rtseg.evaluate.scoring import Score, score
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
