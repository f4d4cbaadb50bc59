"""How good the person network is while it trains: IoU on some pictures of two sets kept aside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from distil_person import normalised
from person_pictures import IGNORE, PERSON, Array, Picture, people_pictures, voc_pictures
from person_student import Segmenter, lraspp
from torch import Tensor
from torch.nn import functional

Sizing = Callable[[int, int], tuple[int, int]]


def fit_long(long_side: int) -> Sizing:
    """Return a rule from (height, width) to (height, width) that keeps the shape, in 16ths."""

    def size(height: int, width: int) -> tuple[int, int]:
        scale = long_side / max(height, width)
        return max(16, round(height * scale / 16) * 16), max(16, round(width * scale / 16) * 16)

    return size


def loaded(state: dict[str, Tensor]) -> Segmenter:
    """Return the segmenter with these weights, ready to measure."""
    net = lraspp()
    net.load_state_dict({name: value.cpu() for name, value in state.items()})
    return net.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def person_mask(net: Segmenter, image: Array, size: Sizing) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return where the network sees people, (H,W) bool, in an (H,W,3) uint8 RGB picture."""
    height, width = size(*image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    logits = net.classifier(net.backbone(normalised(torch.from_numpy(small)[None])))
    margin = functional.interpolate(logits[:, 1:] - logits[:, :1], image.shape[:2], mode="bilinear")
    return margin[0, 0].numpy() > 0


def person_iou(net: Segmenter, pictures: list[Picture], size: Sizing) -> float:
    """Return the IoU of person, pooled over the pixels of all pictures at their own size."""
    both = either = 0
    for picture in pictures:
        found = person_mask(net, picture.image, size)
        known, truth = picture.label != IGNORE, picture.label == PERSON
        both += int((found & truth & known).sum())
        either += int(((found | truth) & known).sum())
    return both / max(either, 1)


def small_sets(data: Path) -> dict[str, list[Picture]]:
    """Return 40 pictures each of VOC val and people/, to follow the training with."""
    voc, people = list(voc_pictures(data, "val")), list(people_pictures(data))
    return {"voc-val": voc[:: len(voc) // 40][:40], "people": people[:: len(people) // 40][:40]}
