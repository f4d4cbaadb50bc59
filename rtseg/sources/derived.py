"""A source made of another source."""

from __future__ import annotations

from abc import abstractmethod

from rtseg.contracts import Source, SourceInfo
from rtseg.frame import Frame


class Derived(Source):
    """A source made of another one; it is that source to whoever stops, closes or asks it."""

    def __init__(self, inner: Source) -> None:
        super().__init__(inner.clock)
        self.warnings = inner.warnings
        self._take(inner)

    def _take(self, inner: Source) -> None:
        self._inner, self._frames = inner, iter(inner)
        self._described = inner.info
        self.info = self._describe(inner.info)

    @abstractmethod
    def _describe(self, info: SourceInfo) -> SourceInfo:
        """What the inner source's facts become."""

    def _next(self) -> Frame | None:
        """The inner source's next frame; its facts may have changed, after an outage."""
        frame = next(self._frames, None)
        if self._inner.info is not self._described:
            self._described = self._inner.info
            self.info = self._describe(self._inner.info)
        return frame

    @property
    def notice(self) -> str | None:  # type: ignore[override]  # read-only
        """Of the inner source."""
        return self._inner.notice

    @property
    def outages(self) -> int:  # type: ignore[override]  # read-only
        """Of the inner source."""
        return self._inner.outages

    @property
    def capped(self) -> int:  # type: ignore[override]  # read-only
        """Of the inner source."""
        return self._inner.capped

    @property
    def keeps_cap(self) -> bool:  # type: ignore[override]  # read-only
        """Of the inner source."""
        return self._inner.keeps_cap

    def interrupt(self) -> None:
        """Of the inner source as well."""
        super().interrupt()
        self._inner.interrupt()

    def _release(self) -> None:
        self._inner.close()
