"""`rtseg train`: fine-tune a torchvision model on labelled images.

`rtseg.training.program.train` does the work and needs `rtseg[train]`.
"""

from __future__ import annotations

import os

from rtseg.training.options import TrainOptions

__all__ = ["TrainOptions", "is_main", "require_extra"]


def require_extra() -> None:
    """Raise UsageError unless the packages of `rtseg[train]` are installed."""
    from importlib.util import find_spec

    from rtseg.errors import UsageError

    missing = [name for name in ("lightning", "torchmetrics") if find_spec(name) is None]
    if missing:
        raise UsageError(
            "rtseg train and rtseg data need Lightning and torchmetrics",
            found=f"{' and '.join(missing)} cannot be found",
            do='Install them: python -m pip install "rtseg[train]"',
        )


def is_main() -> bool:
    """Whether this is the main process, and not one that it started."""
    return all(int(os.environ.get(name) or 0) == 0 for name in ("RANK", "LOCAL_RANK", "NODE_RANK"))
