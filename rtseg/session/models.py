"""Changing the model while it runs: loaded in the background, swapped in between two frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rtseg.errors import BackendError, RtsegError, UsageError
from rtseg.frame import Frame, Segmentation
from rtseg.segmenter import Segmenter
from rtseg.session.sharing import SegmenterProxy
from rtseg.system import trim_memory
from rtseg.threads import Flow, Slot

Load = Callable[[str], Segmenter]
"""Loads a model by name, warm, for the frames of this run; raises RtsegError."""


class ReplaceableSegmenter(SegmenterProxy):
    """A segmenter whose network can be replaced while it runs; every frame is all of one.

    A network that was replaced is freed with the last frame that is still in it.

    Args:
        same_labels: whether outputs hold class indices, so that another needs the same classes.

    Attributes:
        target: segments the next frame.
    """

    def __init__(self, first: Segmenter, *, same_labels: bool = False) -> None:
        super().__init__(first)
        self._same_labels = same_labels
        self._lanes = first.backend.lanes

    def replace_by(self, other: Segmenter) -> None:
        """Let another segment the frames from the next one on.

        Raises:
            UsageError: it has other classes where it must not, or takes fewer frames at once.
        """
        if self._same_labels and other.labels.names != self.labels.names:
            raise UsageError("it has other classes", found="masks or JSON lines are being written")
        if other.backend.lanes < self._lanes:
            raise UsageError(f"it does not take {self._lanes} frames at once, as this run does")
        other.refine = self.refine
        self.target = other


class Loaded(NamedTuple):
    """A model that was loaded, and its segmentation of the frame given with the request."""

    segmenter: Segmenter
    frame: Frame | None
    segmentation: Segmentation | None


class ModelLoader:
    """The models that `m` cycles through, and the one being loaded.

    They are loaded one after another in the same thread, so that memory that one gave back is
    there for the next.

    Args:
        names: in order; the first one runs.
        load: called in that thread.

    Attributes:
        present: the one that runs, or was tried last: after a failure `m` goes on to the next.
        loading: the one being loaded.
    """

    def __init__(self, names: Sequence[str], load: Load) -> None:
        self.names = tuple(names)
        self.present = self.names[0] if names else ""
        self.loading: str | None = None
        self._load = load
        self._requests: Slot[tuple[str, Frame | None]] = Slot()
        self._flow: Flow[Loaded | RtsegError] | None = None
        self._results: Iterator[Loaded | RtsegError | None] = iter(())

    def start(self, name: str, frame: Frame | None = None) -> None:
        """Begin to load a model; no other may be loading.

        Args:
            frame: segmented once it is loaded, for an image that stands still.
        """
        self.loading = self.present = name
        if self._flow is None:
            loaded = (self._loaded(*request) for request in self._requests)
            self._flow = Flow(loaded, name="load", interrupt=self._requests.close)
            self._flow.__enter__()
            self._results = self._flow.poll(0.0)
        self._requests.put((name, frame))

    def loaded(self) -> Loaded | None:
        """The model, once, as soon as it is loaded.

        Raises:
            RtsegError: it cannot be loaded, and is no longer loading.
        """
        result = next(self._results, None) if self.loading is not None else None
        if result is None:
            return None
        self.loading = None
        if isinstance(result, RtsegError):
            raise result
        return result

    def close(self) -> bool:
        """Wait a moment for the model being loaded; False if its thread had to be abandoned."""
        flow, self._flow, self.loading = self._flow, None, None
        if flow is None:
            return True
        flow.__exit__(None, None, None)
        return not flow.hung

    def _loaded(self, name: str, frame: Frame | None) -> Loaded | RtsegError:
        try:
            segmenter = self._load(name)
            return Loaded(segmenter, frame, None if frame is None else segmenter(frame.image))
        except RtsegError as error:
            return error
        except (Exception, KeyboardInterrupt) as error:  # whatever a library raises for a file
            return BackendError(f"cannot load {name}", found=str(error))
        finally:
            trim_memory()
