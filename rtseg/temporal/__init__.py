"""Temporal coherence: smoothing, propagation from keyframes, idle detection.

Pure mechanisms: no threads and no clock; time is a frame's pts.
"""

from __future__ import annotations

from rtseg.temporal.options import TemporalOptions

__all__ = ["TemporalOptions"]
