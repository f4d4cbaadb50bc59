"""Whole frames through a network on a GPU: uploaded once, shrunk, segmented, kept there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rtseg.backends.base import WARM_UP_RUNS
from rtseg.decode.device import DeviceScores, Span, shrink, upload
from rtseg.draw import blend_table
from rtseg.errors import first_line
from rtseg.frame import Picture
from rtseg.gpu import on_device


class DeviceLoop:
    """Frames to scores that stay on the device; called by one thread.

    The network runs as CUDA graphs with fixed buffers for input and output, one per batch size, so
    that a batch costs one launch, however many layers it has. If a graph cannot be captured, the
    network runs layer by layer, and `notes` says why.

    Args:
        network: (N, h, w, 3) uint8 RGB -> (N, C, h/s, w/s) float32, on `device`.
        input_size: (height, width).
        device: a GPU; or the CPU, where everything is synchronous, for tests.
    """

    def __init__(
        self, network: nn.Module, input_size: tuple[int, int], device: torch.device
    ) -> None:
        self.notes: tuple[str, ...] = ()
        self._network, self._size, self._device = network, input_size, device
        self._cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._cuda else None
        self._steps: dict[int, Step] = {}
        # graphs that never run at once, and whose outputs are copied before the next run, can share
        self._pool = torch.cuda.graph_pool_handle() if self._cuda else None

    def warm_up(self, count: int) -> None:
        """Prepare for `count` frames at once: tune and capture.

        Raises:
            RuntimeError: the device failed, or is out of memory.
        """
        with torch.inference_mode(), on_device(self._device), self._in_stream():
            self._step(count)
        if self._stream is not None:
            self._stream.synchronize()

    def rehearse(self) -> None:
        """Run a blank frame through all kernels, so that they compile, or fail, at load.

        Raises:
            Exception: one of `rtseg.gpu.device_failures`, or a DeviceError made of one.
        """
        (scores,) = self([np.zeros((*self._size, 3), np.uint8)])
        table = np.zeros(256, np.uint8)
        scores.decode(self._size, table)
        scores.over(table, blend_table(np.zeros((256, 3), np.uint8), np.zeros(256)))

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
        """Scores of (H, W, 3) uint8 BGR images, each of any size.

        Returns before the device has finished; reading a result waits for it.

        Raises:
            RuntimeError: the device failed, or is out of memory.
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
        """A timing event in the stream; None on the CPU."""
        if not self._cuda:
            return None
        # a blocking event lets the thread that waits for it sleep
        event = torch.cuda.Event(enable_timing=True, blocking=True)
        event.record()
        return event

    def _in_stream(self) -> Any:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _ready_step(self, count: int) -> Step:
        """For `count` frames or more: an existing step beats tuning another.

        A single frame, which may be live, never pays for more than itself.
        """
        larger = [ready for ready in self._steps if ready >= count > 1]
        return self._steps[min(larger)] if larger else self._step(count)

    def _step(self, count: int) -> Step:
        """For `count` frames, or an existing one for up to twice as many."""
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
    """The network at one batch size, with a fixed buffer for its input.

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
        """Let cuDNN tune the network, then capture its launches; why that failed, or "".

        Args:
            pool: of memory, as `torch.cuda.graph_pool_handle` gives it.

        Raises:
            RuntimeError: the device failed, or is out of memory.
        """
        for _ in range(WARM_UP_RUNS):
            self._network(self.input)
        torch.cuda.current_stream().synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads, such as the drawing one, may allocate meanwhile
            with torch.cuda.graph(
                graph,
                pool=pool,
                stream=torch.cuda.current_stream(),
                capture_error_mode="thread_local",
            ):
                self._output = self._network(self.input)
        except RuntimeError as error:
            del graph
            self._run_once()
            return first_line(error)
        self._graph = graph
        return ""

    def _run_once(self) -> None:
        """Raise if more than the capture failed.

        Out of memory and a lost device look like a broken capture in its error.
        """
        torch.cuda.current_stream().synchronize()
        self._output = self._network(self.input)
        torch.cuda.current_stream().synchronize()
