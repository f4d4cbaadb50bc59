"""What lives in the processes of a benchmark: one loaded combination, and the yardstick."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtseg.backends import open_backend
from rtseg.bench import clocks
from rtseg.bench.clocks import Block, Limit, samples
from rtseg.bench.record import Agreement
from rtseg.contracts import BackendInfo, Sink, Source
from rtseg.effects import ViewOptions, open_effect
from rtseg.frame import Frame
from rtseg.measure import mask_agreement
from rtseg.segmenter import Segmenter
from rtseg.sinks import open_sink
from rtseg.sources import open_source
from rtseg.stats import Clock
from rtseg.threads import Flow, usable_cores
from rtseg.zoo import Model


@dataclass(frozen=True)
class Combination:
    """A network, what runs it, and how.

    Attributes:
        input_size: (height, width) of the network's input.
        asked_size: whether a person named that size, or it follows the clip's frames.
    """

    model: Model
    backend: str
    precision: str
    device: str
    input_size: tuple[int, int]
    asked_size: bool = True
    threads: int | None = None
    strict_device: bool = False

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
    """What was loaded, and in how many seconds."""

    info: BackendInfo
    seconds: float


class Subject:
    """One combination, loaded; every clock can be run on it.

    Args:
        clip: what `open_source` takes.
        encoded: whether the loop ends in an H.264 file, or nowhere.
        folder: for that file; whoever made it removes it, also when this process was killed.

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
        self._asked, self._clip, self._encoded = combination, clip, encoded
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
        """Seconds of the first frame's way to a picture, which compiles what is still to be."""
        frame = self.frames[0]
        since = self._clock.now()
        self._effect(frame, self._segmenter(frame.image))
        return self._clock.now() - since

    def measure(self, clock: str, limit: Limit) -> Block:
        """One block of a clock of `CLOCKS`.

        The network runs in a thread of its own under every clock, as it does in a run. It matters:
        OpenMP, which torch uses, has a pool for each thread that calls it, and where there is but
        one it spins, which on a busy machine made the same network 7 times as slow.
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
        """Share of pixels whose class is that of the masks in a file."""
        ours, theirs = masks(self._segmenter, self.frames), _load(reference)
        found = mask_agreement(zip(ours, theirs, strict=True))
        return Agreement(found.mean, found.worst, len(found.shares))

    def mean_iou(self, path: Path, max_pictures: int) -> float:
        """Of this combination on labelled pictures, by the code of `rtseg eval`.

        Raises:
            RtsegError: they are no labelled pictures, or have no class of the network.
        """
        from rtseg.evaluate.networks import InputPolicy, Network
        from rtseg.evaluate.scoring import score
        from rtseg.evaluate.sets import SetSpec, open_set

        asked = self._asked
        policy = InputPolicy("fixed", size=asked.input_size) if asked.asked_size else InputPolicy()
        network = Network(
            asked.model.spec.name, asked.model, policy, backend=asked.backend, **asked.options
        )
        with network:
            chosen = open_set(SetSpec(path=path, max_pictures=max_pictures))
            return float(score(network, chosen).matrix.mean_iou)

    def memory(self) -> float | None:
        """The most memory, in MB, that this process has had resident; None where nobody says."""
        return peak_memory()

    @cached_property
    def _whole(self) -> Segmenter:
        """As a file is run: a frame per core where the backend can, its own session then."""
        asked = self._asked
        if asked.threads is not None or not self.backend.gains_by_lanes:
            return self._segmenter
        lanes = {**asked.options, "lanes": usable_cores()}
        return Segmenter(
            open_backend(asked.backend, asked.model, input_size=asked.input_size, **lanes)
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
    """What combinations are held against: torch in fp32, arithmetic, and the machine's peak."""

    def reference(self, model: Model, size: tuple[int, int], clip: str, path: Path) -> None:
        """Write the masks of torch in fp32 on the processor, at frame size, to a file.

        Raises:
            RtsegError: torch cannot run this network.
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
    """The most memory, in MB, that this process has had resident; None where nobody says."""
    status = Path("/proc/self/status")
    if status.is_file():
        # not getrusage: on Linux that begins with the most its parent had
        line = next(line for line in status.read_text().splitlines() if "VmHWM" in line)
        return int(line.split()[1]) * 1024 / 1e6
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return None


def _load(path: Path) -> NDArray[np.uint8]:
    loaded: NDArray[np.uint8] = np.load(path)
    return loaded
