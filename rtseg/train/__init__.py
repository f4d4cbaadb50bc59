"""`rtseg train`: a network of torchvision, fine-tuned on labelled pictures.

Only `Settings`, `Watch` and the run folder are here without torch; `rtseg.train.program.train`
does the work, and needs `rtseg[train]`.
"""

from __future__ import annotations

import os

from rtseg.train.folder import Row, RunFolder, Watch
from rtseg.train.settings import Settings

__all__ = ["Row", "RunFolder", "Settings", "Watch", "leads", "require_extra"]


def require_extra() -> None:
    """Check that what `rtseg[train]` installs is here.

    Raises:
        UsageError: it is not.
    """
    from importlib.util import find_spec

    from rtseg.errors import UsageError

    missing = [name for name in ("lightning", "torchmetrics") if find_spec(name) is None]
    if missing:
        raise UsageError(
            "rtseg train needs Lightning and torchmetrics",
            found=f"{' and '.join(missing)} cannot be found",
            do='Install them: python -m pip install "rtseg[train]"',
        )


def leads() -> bool:
    """Whether this is the process that a person started, and not one of those it started."""
    return all(int(os.environ.get(name) or 0) == 0 for name in ("RANK", "LOCAL_RANK", "NODE_RANK"))
