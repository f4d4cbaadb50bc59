"""Networks: found by name or file, their weights fetched and verified, exported to ONNX.

Nothing here loads torch or onnx before a network is built or a file is read.
"""

from __future__ import annotations

from rtseg.nets.find import DEFAULT_MODEL, INT8_FORM, default_model, find_model, shipped
from rtseg.nets.weights import Progress

__all__ = ["DEFAULT_MODEL", "INT8_FORM", "Progress", "default_model", "find_model", "shipped"]
