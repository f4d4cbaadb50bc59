"""The way of whole frames through a network on a GPU: up once, shrunk, segmented, kept there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rtseg.backends.base import WARM_UP_RUNS
from rtseg.decode import blend_table
from rtseg.decode.device import DeviceScores, Span, shrink, upload
from rtseg.frame import Picture
from rtseg.gpu import on_device


class DeviceLoop:
    """Frames to scores that stay on the device; called by one thread.

    The network runs as a CUDA graph with fixed places for its input and output, one graph for each
    number of frames that it is called with, so that a batch costs one launch, whatever the number
    of its layers. Where a graph cannot be captured the network runs layer by layer, and `notes`
    says so.

    Args:
        network: (N, h, w, 3) uint8 RGB -> (N, C, h/s, w/s) float32, on `device`.
        input_size: (height, width).
        device: a GPU; or the processor, where everything is done at once, for tests.
    """

    def __init__(
        self, network: nn.Module, input_size: tuple[int, int], device: torch.device
    ) -> None:
        self.notes: tuple[str, ...] = ()
        self._network, self._size, self._device = network, input_size, device
        self._cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._cuda else None
        self._steps: dict[int, Step] = {}
        # graphs that never run at once, and whose outputs are copied before the next, can share
        self._pool = torch.cuda.graph_pool_handle() if self._cuda else None

    def warm_up(self, count: int) -> None:
        """Prepare for `count` frames at once: tune and capture.

        Raises:
            RuntimeError: the device failed, or has not the memory.
        """
        with torch.inference_mode(), on_device(self._device), self._in_stream():
            self._step(count)
        if self._stream is not None:
            self._stream.synchronize()

    def rehearse(self) -> None:
        """Take a blank frame all the way, so that kernels are compiled, and fail, before the first.

        Raises:
            Exception: one of `rtseg.gpu.device_failures`, or a DeviceError made of one.
        """
        (seen,) = self([np.zeros((*self._size, 3), np.uint8)])
        table = np.zeros(256, np.uint8)
        seen.decode(self._size, table)
        seen.over(table, blend_table(np.zeros((256, 3), np.uint8), np.zeros(256)))

    @torch.inference_mode()
    def network_seconds(self, passes: int) -> list[float]:
        """Seconds of each of `passes` runs of the network on one picture, by the device's clock."""
        with on_device(self._device), self._in_stream():
            step = self._step(1)
            marks = [self._mark()]
            for _ in range(passes):
                step.run()
                marks.append(self._mark())
            torch.cuda.current_stream().synchronize()
        return [a.elapsed_time(b) / 1000 for a, b in pairwise(marks) if a and b]

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Picture]) -> list[DeviceScores]:
        """Scores of (H, W, 3) uint8 BGR pictures, each of any size; those on the device stay there.

        Returns before the device has finished; whoever reads a result waits for it.

        Raises:
            RuntimeError: the device failed, or has not the memory.
        """
        with on_device(self._device), self._in_stream():
            step = self._ready_step(len(pictures))
            begin = self._mark()
            frames = [upload(picture, self._device) for picture in pictures]
            # a recording's last frames may be fewer than the step has places
            for frame, place in zip(frames, step.input, strict=False):
                shrink(frame, place)
            # the graph's own output is overwritten by its next run
            scores = step.run()[: len(frames)].clone()
            span = None if begin is None else Span(begin, self._mark())
        return [
            DeviceScores(planes, frame, span) for planes, frame in zip(scores, frames, strict=True)
        ]

    def _mark(self) -> torch.cuda.Event | None:
        """An event in the stream, of those whose time can be told; none on a processor."""
        if not self._cuda:
            return None
        # a blocking event lets the thread that waits for it sleep
        event = torch.cuda.Event(enable_timing=True, blocking=True)
        event.record()
        return event

    def _in_stream(self) -> Any:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _ready_step(self, count: int) -> Step:
        """For `count` frames or more: what is there is sooner done than another is tuned, but the
        one frame that is live, which never pays for more than itself.
        """
        larger = [ready for ready in self._steps if ready >= count > 1]
        return self._steps[min(larger)] if larger else self._step(count)

    def _step(self, count: int) -> Step:
        """For `count` frames, or up to twice as many where that is there already."""
        fitting = [ready for ready in self._steps if count <= ready <= 2 * count]
        if fitting:
            return self._steps[min(fitting)]
        if count not in self._steps:
            batch = torch.zeros((count, *self._size, 3), dtype=torch.uint8, device=self._device)
            step = Step(self._network, batch)
            if self._cuda and (why := step.capture(self._pool)):
                self.notes = (f"no CUDA graph: {why}",)
            self._steps[count] = step
        return self._steps[count]


class Step:
    """The network at one batch size, with a fixed place for its input.

    Attributes:
        input: (N, h, w, 3) uint8 RGB on the device, to be filled before each run.
    """

    def __init__(self, network: nn.Module, batch: Tensor) -> None:
        self.input = batch
        self._network = network
        self._graph: torch.cuda.CUDAGraph | None = None
        self._output: Tensor = batch

    def run(self) -> Tensor:
        """(N, C, h/s, w/s) float32 of what `input` holds; overwritten by the next run."""
        if self._graph is not None:
            self._graph.replay()
            return self._output
        scores: Tensor = self._network(self.input)
        return scores

    def capture(self, pool: Any) -> str:
        """Tune the network's methods, then record its launches; why not, or "".

        Args:
            pool: of memory, as `torch.cuda.graph_pool_handle` gives it.

        Raises:
            RuntimeError: the device failed, or has not the memory.
        """
        for _ in range(WARM_UP_RUNS):
            self._network(self.input)
        torch.cuda.current_stream().synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads may allocate meanwhile, as the one that draws does
            with torch.cuda.graph(
                graph,
                pool=pool,
                stream=torch.cuda.current_stream(),
                capture_error_mode="thread_local",
            ):
                self._output = self._network(self.input)
        except RuntimeError as error:
            del graph
            self._still_runs()
            return str(error).splitlines()[0]
        self._graph = graph
        return ""

    def _still_runs(self) -> None:
        """Raise what is wrong, if it is more than the capture: memory, or the device, may be gone,
        and a capture tells of both as of a capture that was broken off.
        """
        torch.cuda.current_stream().synchronize()
        self._output = self._network(self.input)
        torch.cuda.current_stream().synchronize()
