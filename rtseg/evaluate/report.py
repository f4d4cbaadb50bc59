"""A score as plain values, for JSON: what was not measured is None."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rtseg._version import __version__
from rtseg.evaluate.clips import ClipScore
from rtseg.evaluate.scoring import Score

FORMAT = 1
"""Version of the JSON; raised when a key changes its meaning or goes."""


def report(
    scores: Sequence[Score], clips: Sequence[ClipScore] = (), *, complete: bool = True
) -> dict[str, Any]:
    """All scores of one run: {"rtseg_eval": 1, "version": ..., "complete": ..., "results": [...]},
    and those of clips without labels under "clips".

    Args:
        complete: whether every set and clip met every network.
    """
    return {
        "rtseg_eval": FORMAT,
        "version": __version__,
        "complete": complete
        and all(score.complete for score in scores)
        and all(clip.complete for clip in clips),
        "results": [result(score) for score in scores],
        "clips": [clip_result(clip) for clip in clips],
    }


def clip_result(clip: ClipScore) -> dict[str, Any]:
    """One network on one clip without labels: shares are 0 to 1, or None."""
    return {
        "clip": clip.clip,
        "network": clip.network,
        "smooth": clip.smooth,
        "complete": clip.complete,
        "frames": clip.frames,
        "pixels": clip.flicker.counted,
        "seconds": _known(clip.seconds),
        "flicker": _known(clip.flicker.share),
        "input": list(clip.input_size) if clip.input_size else None,
        "runs_on": asdict(clip.info) if clip.info else None,
    }


def result(score: Score) -> dict[str, Any]:
    """One network on one set: every figure is a share from 0 to 1, or None."""
    matrix = score.matrix
    return {
        "set": score.set_name,
        "network": score.network,
        "smooth": score.smooth,
        "complete": score.complete,
        "pictures": score.pictures,
        "pictures_chosen": score.chosen,
        "pictures_in_set": score.of,
        "pixels": matrix.pixels,
        "seconds": _known(score.seconds),
        "mean_iou": _known(matrix.mean_iou),
        "mean_accuracy": _known(matrix.mean_accuracy),
        "pixel_accuracy": _known(matrix.pixel_accuracy),
        "frequency_weighted_iou": _known(matrix.frequency_weighted_iou),
        "mean_boundary_f": _known(score.boundary.mean_score) if score.boundary else None,
        "flicker": _known(score.flicker.share),
        "classes": class_rows(score),
        "confusion": matrix.counts.tolist(),
        "mapping": list(score.mapping),
        "input_policy": score.policy,
        "inputs": [
            {"height": height, "width": width, "pictures": count}
            for (height, width), count in score.inputs.most_common()
        ],
        "runs_on": asdict(score.info) if score.info else None,
    }


def class_rows(score: Score) -> list[dict[str, Any]]:
    """Per class: name, IoU, accuracy, share of the known pixels, boundary F-score."""
    matrix = score.matrix
    boundary = score.boundary.class_score if score.boundary else [math.nan] * len(score.labels)
    true = matrix.true_pixels
    return [
        {
            "name": name,
            "iou": _known(matrix.class_iou[index]),
            "accuracy": _known(matrix.class_accuracy[index]),
            "share": _known(true[index] / matrix.pixels if matrix.pixels else math.nan),
            "boundary_f": _known(boundary[index]),
        }
        for index, name in enumerate(score.labels.names)
    ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
