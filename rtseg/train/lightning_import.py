"""Lightning's Fabric and torchmetrics, also where torchvision's operators do not load.

Both import torchvision, which must have been made importable first.
"""

from __future__ import annotations

from rtseg.nets.build import segmentation

segmentation()

from lightning.fabric import Fabric  # noqa: E402
from torchmetrics import SumMetric  # noqa: E402
from torchmetrics.classification import MulticlassConfusionMatrix  # noqa: E402

__all__ = ["Fabric", "MulticlassConfusionMatrix", "SumMetric"]
