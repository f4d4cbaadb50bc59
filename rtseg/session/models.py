"""The next network: loaded beside the one that runs, put in its place between two frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rtseg.contracts import Backend
from rtseg.errors import BackendError, RtsegError, UsageError
from rtseg.frame import Frame, Image
from rtseg.labels import LabelSet
from rtseg.segmentation import Segmentation
from rtseg.segmenter import Pair, Segmenter
from rtseg.stats import Clock
from rtseg.system import trim_memory
from rtseg.threads import Flow, Slot

Load = Callable[[str], Segmenter]
"""Loads the network of a name, warm, for the frames of this run; raises RtsegError."""


class Switch(Segmenter):
    """A segmenter whose network may be replaced at any time; each frame is all of one.

    Args:
        same_labels: whether outputs hold class indices, so that another needs the same classes.

    Attributes:
        current: what segments the next frame. One that was replaced is freed with the last frame
            that is still in it.
    """

    def __init__(self, first: Segmenter, *, same_labels: bool = False) -> None:
        self.current, self.refine = first, first.refine
        self._same_labels = same_labels
        self._lanes = first.backend.lanes

    @property
    def backend(self) -> Backend:  # type: ignore[override]  # read-only
        """The network that runs."""
        return self.current.backend

    @property
    def labels(self) -> LabelSet:  # type: ignore[override]  # read-only
        """Its classes."""
        return self.current.labels

    @property
    def selected(self) -> frozenset[int] | None:  # type: ignore[override]  # read-only
        """Those of its classes that were asked for."""
        return self.current.selected

    def replace_by(self, other: Segmenter) -> None:
        """Let another segment the frames from the next one on.

        Raises:
            UsageError: it has other classes where it must not, or takes fewer frames at once.
        """
        if self._same_labels and other.labels.names != self.labels.names:
            raise UsageError("it has other classes", found="masks or JSON lines are being written")
        if other.backend.lanes < self._lanes:
            raise UsageError(f"it does not take {self._lanes} frames at once, as this run does")
        self.current = other

    def __call__(self, image: Image) -> Segmentation:
        """Segment one picture."""
        return self.current(image)

    def together(self, frames: Sequence[Frame], clock: Clock) -> tuple[list[Pair], float, float]:
        """Segment frames in one call of one network."""
        return self.current.together(frames, clock)


class Arrived(NamedTuple):
    """A network that has been loaded, and what it says of the frame that was given along."""

    segmenter: Segmenter
    frame: Frame | None
    segmentation: Segmentation | None


class Networks:
    """The names that `m` goes through, and the one that is on its way.

    They are loaded in a thread, one after the other in the same: memory that one gave back is
    there for the next.

    Args:
        names: in their order; the first one runs.
        load: called in that thread.

    Attributes:
        present: the one that runs, or was last tried: after a failure `m` goes on to the next.
        coming: the one that is being loaded.
    """

    def __init__(self, names: Sequence[str], load: Load) -> None:
        self.names = tuple(names)
        self.present = self.names[0] if names else ""
        self.coming: str | None = None
        self._load = load
        self._asked: Slot[tuple[str, Frame | None]] = Slot()
        self._flow: Flow[Arrived | RtsegError] | None = None
        self._results: Iterator[Arrived | RtsegError | None] = iter(())

    def start(self, name: str, frame: Frame | None = None) -> None:
        """Begin to load; nothing else may be on its way.

        Args:
            frame: segmented once it is loaded, for a picture that stands still.
        """
        self.coming = self.present = name
        if self._flow is None:
            loaded = (self._loaded(*asked) for asked in self._asked)
            self._flow = Flow(loaded, name="load", interrupt=self._asked.close)
            self._flow.__enter__()
            self._results = self._flow.poll(0.0)
        self._asked.put((name, frame))

    def arrived(self) -> Arrived | None:
        """The network, once, as soon as it is loaded.

        Raises:
            RtsegError: it cannot be loaded, and is no longer on its way.
        """
        found = next(self._results, None) if self.coming is not None else None
        if found is None:
            return None
        self.coming = None
        if isinstance(found, RtsegError):
            raise found
        return found

    def close(self) -> bool:
        """Wait a moment for what is on its way; False where it had to be left behind."""
        flow, self._flow, self.coming = self._flow, None, None
        if flow is None:
            return True
        flow.__exit__(None, None, None)
        return not flow.hung

    def _loaded(self, name: str, frame: Frame | None) -> Arrived | RtsegError:
        try:
            segmenter = self._load(name)
            return Arrived(segmenter, frame, None if frame is None else segmenter(frame.image))
        except RtsegError as error:
            return error
        except (Exception, KeyboardInterrupt) as error:  # whatever a library says of a file
            return BackendError(f"cannot load {name}", found=str(error))
        finally:
            trim_memory()
