"""What frames have in common with those before them: smoothing, and carrying scores along.

Pure mechanisms: no thread, no clock; the time of a frame is its pts.
"""

from __future__ import annotations

from rtseg.temporal.options import TemporalOptions

__all__ = ["TemporalOptions"]
