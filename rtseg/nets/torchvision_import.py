"""torchvision's segmentation builders, also where its compiled operators do not load."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch

from rtseg.errors import ModelError

_declared: list[Any] = []  # a torch.library.Library takes its schemas back when it is collected


def segmentation() -> ModuleType:
    """The module `torchvision.models.segmentation`.

    A CPU build of torch beside a CUDA build of torchvision (both are what their indexes give by
    default) cannot load torchvision's compiled library; importing torchvision then fails where it
    registers shapes for operators that do not exist ("operator torchvision::nms does not exist").
    Our networks need none of these operators, so their schemas are declared, without an
    implementation, and torchvision is imported again from the start.

    Raises:
        ModelError: torchvision cannot be imported for another reason.
    """
    try:
        import torchvision.models.segmentation as module
    except ImportError as error:
        raise _broken(error) from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise _broken(error) from error
        module = _import_again()
    return module


def _import_again() -> ModuleType:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported: what ran before the failure must run again
    try:
        import torchvision.models.segmentation as module
    except (ImportError, RuntimeError) as error:
        raise _broken(error) from error
    return module


def _broken(error: Exception) -> ModelError:
    return ModelError(
        "cannot import torchvision",
        found=str(error).splitlines()[0],
        do="Install the torchvision release that belongs to the installed torch",
    )
