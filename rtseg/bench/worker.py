"""Each combination of a benchmark runs in a process of its own, called over a pipe.

Its memory and loading are then its own, nothing that another library left running disturbs it, and
a crash affects no other. Between calls the process waits in a read and uses no CPU time.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rtseg import errors
from rtseg.backends import open_backend
from rtseg.bench import clocks
from rtseg.bench.clocks import Block, Limit, samples
from rtseg.bench.record import Agreement
from rtseg.contracts import BackendInfo, Sink, Source
from rtseg.effects import ViewOptions, open_effect
from rtseg.errors import BackendError, RtsegError
from rtseg.frame import Frame
from rtseg.measure import mask_agreement
from rtseg.options import imported
from rtseg.processes import Child, Line
from rtseg.segmenter import Segmenter
from rtseg.sinks import open_sink
from rtseg.sources import open_source
from rtseg.stats import Clock
from rtseg.system import usable_cores
from rtseg.threads import Flow
from rtseg.zoo import Model

POLL_SECONDS = 0.05
CLOSE_SECONDS = 5.0
_SERVE = "from rtseg.bench.worker import serve; serve()"


@dataclass(frozen=True)
class Combination:
    """A model, its backend and their options.

    Attributes:
        input_size: (height, width) of the model's input.
        asked_size: whether the size was requested, or follows the clip's frames.
        name: of the model in the record; "" is the model's own, which several files may share.
    """

    model: Model
    backend: str
    precision: str
    device: str
    input_size: tuple[int, int]
    asked_size: bool = True
    threads: int | None = None
    strict_device: bool = False
    name: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """As `open_backend` takes them."""
        return {
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads,
            "strict_device": self.strict_device,
        }


@dataclass(frozen=True)
class Loaded:
    """What was loaded, and how long it took."""

    info: BackendInfo
    seconds: float


class Subject:
    """One combination, loaded; every clock can be run on it.

    Args:
        clip: what `open_source` takes.
        encoded: whether the loop writes an H.264 file, or nothing.
        folder: for that file; removed by its creator, even if this process is killed.

    Raises:
        RtsegError: it cannot be loaded here.
    """

    def __init__(
        self,
        combination: Combination,
        clip: str,
        view: ViewOptions,
        encoded: bool = True,
        folder: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._combination, self._clip, self._encoded = combination, clip, encoded
        self._folder, self._clock = folder, clock or Clock()
        since = self._clock.now()
        self.backend = open_backend(
            combination.backend,
            combination.model,
            input_size=combination.input_size,
            **combination.options,
        )
        self.loaded = Loaded(self.backend.info, self._clock.now() - since)
        self._segmenter = Segmenter(self.backend)
        self._effect = open_effect(view, self._segmenter.labels)

    @cached_property
    def frames(self) -> list[Frame]:
        """The clip's samples."""
        return samples(self._clip)

    def describe(self) -> Loaded:
        """What was loaded."""
        return self.loaded

    def first(self) -> float:
        """Seconds from the first frame to its finished image, including compilation."""
        frame = self.frames[0]
        since = self._clock.now()
        self._effect(frame, self._segmenter(frame.image))
        return self._clock.now() - since

    def measure(self, clock: str, limit: Limit) -> Block:
        """One block of a clock of `CLOCKS`.

        The model runs in its own thread under every clock, as it does in a run: OpenMP, which
        torch uses, has a pool for each calling thread, and spins if there is only one, which made
        the same model 7 times as slow on a busy machine.
        """
        if clock == "loop":
            return self._loop(limit)
        with Flow((self._block(clock, limit) for _ in "1"), name="inference") as flow:
            return next(iter(flow))

    def _block(self, clock: str, limit: Limit) -> Block:
        if clock == "model":
            return clocks.time_model(self.backend, self.frames, limit, self._clock)
        segmenter = self._segmenter
        if clock == "worst":
            segmenter = Segmenter(clocks.Checkerboard(self.backend))
        return clocks.time_pipeline(segmenter, self._effect, self.frames, limit, self._clock)

    def agreement(self, reference: Path) -> Agreement:
        """Share of pixels with the same class as the masks in a file."""
        ours, theirs = masks(self._segmenter, self.frames), _load(reference)
        found = mask_agreement(zip(ours, theirs, strict=True))
        return Agreement(found.mean, found.worst, len(found.shares))

    def mean_iou(self, path: Path, max_pictures: int, allow_outside: bool = False) -> float:
        """Mean IoU of this combination on labelled images, as in `rtseg eval`.

        Raises:
            RtsegError: the dataset cannot be opened, or has no class in common with the model.
        """
        from rtseg.evaluation.networks import InputPolicy, Network
        from rtseg.evaluation.scoring import score
        from rtseg.evaluation.sets import SetSpec, open_set

        combination = self._combination
        policy = (
            InputPolicy("fixed", size=combination.input_size)
            if combination.asked_size
            else InputPolicy()
        )
        network = Network(
            combination.model.spec.name,
            combination.model,
            policy,
            backend=combination.backend,
            **combination.options,
        )
        with network:
            labelled = open_set(
                SetSpec(path, max_pictures=max_pictures, allow_outside=allow_outside)
            )
            return float(score(network, labelled).matrix.mean_iou)

    def processor(self) -> dict[str, list[float | None]]:
        """As `clocks.processor_ms`, of the loop with its H.264 file; in a thread, as `measure`."""

        def call() -> dict[str, list[float | None]]:
            with tempfile.TemporaryDirectory(prefix="rtseg-bench-", dir=self._folder) as folder:
                names = (str(Path(folder) / f"{number}.mp4") for number in count())
                return clocks.processor_ms(
                    self._clip,
                    self._whole,
                    self._effect,
                    lambda info: open_sink(next(names), info, self._segmenter.labels),
                )

        with Flow((call() for _ in "1"), name="inference") as flow:
            return next(iter(flow))

    def memory(self) -> float | None:
        """Peak resident memory of this process in MB; None if the system does not tell."""
        return peak_memory()

    @cached_property
    def _whole(self) -> Segmenter:
        """As for a file: one frame per core if the backend gains from it, in its own session."""
        combination = self._combination
        if combination.threads is not None or not self.backend.gains_by_lanes:
            return self._segmenter
        lanes = {**combination.options, "lanes": usable_cores()}
        return Segmenter(
            open_backend(
                combination.backend, combination.model, input_size=combination.input_size, **lanes
            )
        )

    def _loop(self, limit: Limit) -> Block:
        segmenter = self._whole
        with tempfile.TemporaryDirectory(prefix="rtseg-bench-", dir=self._folder) as folder:
            target = str(Path(folder) / "out.mp4") if self._encoded else "null:"
            with open_source(self._clip) as source:

                def opened(source: Source = source) -> Sink:
                    return open_sink(target, source.info, segmenter.labels)

                return clocks.time_loop(segmenter, self._effect, source, opened, limit)


class Yardstick:
    """What combinations are compared with: torch in fp32, FLOPs, and the machine's peak."""

    def reference(self, model: Model, size: tuple[int, int], clip: str, path: Path) -> None:
        """Write the masks of torch in fp32 on the CPU, at frame size, to a file.

        Raises:
            RtsegError: torch cannot run this model.
        """
        backend = open_backend("torch", model, input_size=size, device="cpu", precision="fp32")
        with Segmenter(backend) as segmenter:
            np.save(path, np.stack(masks(segmenter, samples(clip))))

    def flops(self, model: Model, size: tuple[int, int]) -> float | None:
        """As `network_flops`."""
        from rtseg.nets.flops import network_flops

        return network_flops(model, size)

    def peak(self, device: str, precision: str, threads: int | None) -> float | None:
        """As `arithmetic_peak`."""
        from rtseg.nets.flops import arithmetic_peak

        return arithmetic_peak(device, precision, threads)

    def copies(self, device: str, threads: int | None) -> float | None:
        """As `copy_peak`."""
        from rtseg.nets.flops import copy_peak

        return copy_peak(device, threads)


def masks(segmenter: Segmenter, frames: list[Frame]) -> list[NDArray[np.uint8]]:
    """(H, W) uint8 of each frame, at its own size."""
    return [segmenter(frame.image).mask for frame in frames]


def peak_memory() -> float | None:
    """Peak resident memory of this process in MB; None if the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():
        # not getrusage: on Linux it starts with the peak of the parent
        line = next(line for line in status.read_text().splitlines() if "VmHWM" in line)
        return int(line.split()[1]) * 1024 / 1e6
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return None


def _load(path: Path) -> NDArray[np.uint8]:
    loaded: NDArray[np.uint8] = np.load(path)
    return loaded


class Stopped(Exception):  # noqa: N818 - not an error
    """The benchmark was interrupted during a call."""


class RemoteObject(Protocol):
    """An object in another process: `Remote`, or its replacement in tests."""

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method."""

    def close(self) -> None:
        """End the process."""


class Remote:
    """Creates `place`, "module:Class", with these arguments in a new process.

    Args:
        stop: polled while waiting; if it returns True, the process is killed and Stopped raised.

    Raises:
        RtsegError: what the constructor raised, with the same type and text; or the process died.
        Stopped: `stop` returned True.
    """

    def __init__(
        self, place: str, arguments: dict[str, Any], *, stop: Callable[[], bool] = lambda: False
    ) -> None:
        self._stop = stop
        self._child = Child(_SERVE)
        try:
            self._request((place, arguments))
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method and return its result; raises as the constructor."""
        return self._request((method, arguments))

    def close(self) -> None:
        """End the process; may be called again."""
        self._child.close(CLOSE_SECONDS)

    def _request(self, question: Any) -> Any:
        with Flow((self._answer(q) for q in (question,)), name="bench") as flow:
            for answer in flow.poll(POLL_SECONDS):
                if self._stop():
                    self._child.kill()
                    raise Stopped
                if answer is not None:
                    return _unwrap(answer)
        raise AssertionError("a call had no answer")

    def _answer(self, question: Any) -> tuple[str, Any]:
        try:
            self._child.send(question)
            answer: tuple[str, Any] = self._child.receive()
        except (OSError, EOFError, ValueError) as error:
            how = self._child.how_it_ended()
            raise BackendError(
                "the process of this measurement died",
                found=how,
                do="It may have run out of memory" if how.startswith("killed by signal 9") else "",
            ) from error
        return answer


def _unwrap(answer: tuple[str, Any]) -> Any:
    kind, content = answer
    if kind == "value":
        return content
    raise getattr(errors, kind, RtsegError)(content)


def serve() -> None:
    """Create the object that the parent names first, then call the methods that it names."""
    served: list[Any] = []

    def create(place: str, arguments: dict[str, Any]) -> None:
        served.append(imported(place)(**arguments))

    def call(method: str, arguments: Sequence[Any]) -> Any:
        return getattr(served[0], method)(*arguments)

    line = Line()
    for name, arguments in line:
        try:
            line.answer(("value", (call if served else create)(name, arguments)))
        except RtsegError as error:
            line.answer((type(error).__name__, str(error)))
        except Exception as error:  # a bug of a library, or ours: it goes into the row
            text = f"internal error: {type(error).__name__}: {error}"
            line.answer((RtsegError.__name__, text))
