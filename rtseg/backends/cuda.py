"""Whole frames through a network on a GPU: uploaded once, shrunk, segmented, kept there."""

from __future__ import annotations

import copy
import operator
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional

from rtseg.backends.base import WARM_UP_RUNS, noise
from rtseg.decode import kernels
from rtseg.decode.device import DeviceBatch, DeviceScores, Span, shrink, upload
from rtseg.draw import blend_table
from rtseg.errors import DeviceError, first_line
from rtseg.frame import Picture
from rtseg.gpu import device_failures, on_device

MOST_BYTES = 2**28
"""Of frames that are drawn together: ten of 4K, two of 8K."""

MOST_DIFFERENT = 0.1
"""Of fused layers' scores from the plain network's, as a share of their deviation. Half precision
differs by a few hundredths in networks of random weights, a wrong layer by about 1."""


def open_loop(
    network: nn.Module,
    input_size: tuple[int, int],
    device: torch.device,
    notes: list[str],
    *,
    fuse: bool,
) -> DeviceLoop | None:
    """A loop that has run once; None if Triton cannot compile for the device.

    Args:
        notes: gets what to report.
        fuse: whether convolutions take over the layers after them, see `fused`.

    Raises:
        RuntimeError: the device failed, or is out of memory.
    """
    batch = torch.from_numpy(noise(input_size)).to(device)
    try:
        joined = fused_checked(network, batch, notes) if fuse else network
        loop = DeviceLoop(joined, input_size, device)
        loop.warm_up(1)
        loop.rehearse()
    except torch.OutOfMemoryError:
        raise
    except (DeviceError, *device_failures()) as error:  # type: ignore[misc]
        # Triton needs a C compiler, for one; if the device itself failed, this fails too
        with torch.inference_mode():
            network(batch).cpu()
        notes.append(f"frames are shrunk and drawn by the CPU: {first_line(error)}")
        return None
    notes.extend(loop.notes)
    loop.notes = ()
    return loop


class DeviceLoop:
    """Frames to scores that stay on the device; called by one thread.

    The network runs as CUDA graphs with fixed buffers for input and output, one per batch size, so
    that a batch costs one launch, however many layers it has. If a graph cannot be captured, the
    network runs layer by layer, and `notes` says why. Frames are uploaded beside the batch before.

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
        self._copies = torch.cuda.Stream(device) if self._cuda else None
        self._steps: dict[int, Step] = {}
        self._most = sys.maxsize
        # graphs that never run at once, and whose outputs are copied before the next run, can share
        self._pool = torch.cuda.graph_pool_handle() if self._cuda else None

    def warm_up(self, count: int) -> None:
        """Prepare for `count` frames at once: tune and capture.

        Raises:
            RuntimeError: the device failed, or is out of memory.
        """
        with torch.inference_mode(), on_device(self._device), _in(self._stream):
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
        with on_device(self._device), _in(self._stream):
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
        if len(pictures) > self._most:
            starts = range(0, len(pictures), self._most)
            return [each for n in starts for each in self(pictures[n : n + self._most])]
        try:
            with on_device(self._device), _in(self._stream):
                step = self._ready_step(len(pictures))
        except torch.OutOfMemoryError as error:
            if max(self._steps, default=len(pictures)) >= len(pictures):
                raise
            self._most = max(self._steps)
            self.notes += (f"batches of {self._most}, not {len(pictures)}: {first_line(error)}",)
            torch.cuda.empty_cache()
            return self(pictures)
        # frames of one size are drawn together, unless they are very large
        alike = len({picture.shape for picture in pictures}) == 1
        together = max(1, MOST_BYTES // prod(pictures[0].shape)) if alike else 1
        groups = [pictures[n : n + together] for n in range(0, len(pictures), together)]
        with on_device(self._device):
            with _in(self._copies):
                batches = [upload(group, self._device) for group in groups]
                copied = torch.cuda.Event() if self._cuda else None
                if copied is not None:
                    copied.record()
            with _in(self._stream):
                begin = self._mark()
                if copied is not None:
                    torch.cuda.current_stream().wait_event(copied)
                place = 0
                for frames in batches:
                    if self._cuda:
                        frames.record_stream(torch.cuda.current_stream())
                    # a recording's last frames may be fewer than the step has places
                    shrink(frames, step.input[place : place + len(frames)])
                    place += len(frames)
                # the graph's own output is overwritten by its next run
                scores = step.run()[:place].clone()
                span = None if begin is None else Span(begin, self._mark())
        parts = scores.split([len(frames) for frames in batches])
        return [
            each
            for part, frames in zip(parts, batches, strict=True)
            for each in DeviceBatch(part, frames, span).each()
        ]

    def _mark(self) -> torch.cuda.Event | None:
        """A timing event in the stream; None on the CPU."""
        if not self._cuda:
            return None
        # a blocking event lets the thread that waits for it sleep
        event = torch.cuda.Event(enable_timing=True, blocking=True)
        event.record()
        return event

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
        self._failed: torch.cuda.CUDAGraph | None = None
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
            # torch leaves its allocator recording for the graph: blocks that several streams used
            # would not be freed any more
            self._failed = graph
            with suppress(AttributeError, RuntimeError):
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
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


def _in(stream: torch.cuda.Stream | None) -> Any:
    return nullcontext() if stream is None else torch.cuda.stream(stream)


# --- layers after a convolution ------------------------------------------------------------------

ACTIVATIONS: dict[Any, str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
}
PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda values: values,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "hardswish": functional.hardswish,
    "hardsigmoid": functional.hardsigmoid,
}
SUMS = (operator.add, operator.iadd, torch.add)

LAUNCHED = 1024
"""Values per program of the epilogue kernel."""


def fused_checked(network: nn.Module, batch: Tensor, notes: list[str]) -> nn.Module:
    """The network as `fused` gives it, if that works and its scores are the plain network's.

    Args:
        batch: (N, h, w, 3) uint8 RGB to compare scores on.
        notes: gets why the network stays as it is.

    Raises:
        RuntimeError: the plain network fails, or the device is out of memory.
    """
    with torch.inference_mode(), on_device(batch.device):
        plain = network(batch)
        try:
            joined = fused(network)
            error = (joined(batch) - plain).std() / plain.std()
            if not error < MOST_DIFFERENT:
                raise ValueError(f"scores differ by {error:.0%}")
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # torch.fx raises what a network's own code raises
            notes.append(f"layers are not fused: {first_line(error)}")
            return network
    return joined


def fused(network: nn.Module) -> nn.Module:
    """A `SeamNetwork` in which one kernel does all that follows a convolution.

    torch runs a convolution with a bias and an activation as three kernels, and a sum as a fourth;
    each reads and writes the whole result. The weights are shared with `network`.

    Raises:
        Exception: torch.fx cannot follow the network.
    """
    joined = copy.copy(network)
    joined._modules = {
        name: child and _with_epilogues(torch.fx.symbolic_trace(child))
        for name, child in network._modules.items()
    }
    return joined


def _with_epilogues(traced: torch.fx.GraphModule) -> torch.fx.GraphModule:
    graph, modules = traced.graph, dict(traced.named_modules())
    for node in graph.nodes:
        if node.op == "call_module" and isinstance(modules[node.target], (nn.Identity, nn.Dropout)):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    for node in list(graph.nodes):
        layer = modules.get(node.target) if node.op == "call_module" else None
        if type(layer) is not nn.Conv2d or layer.bias is None:
            continue
        ends, residual, activation = [node], None, "none"
        after = _only_user(node)
        if after is not None and after.target in SUMS and len(after.args) == 2 and not after.kwargs:
            others = [each for each in after.args if each is not node]
            if len(others) == 1 and isinstance(others[0], torch.fx.Node):
                residual = others[0]
                ends.append(after)
                after = _only_user(after)
        if after is not None and after.op == "call_module":
            activation = ACTIVATIONS.get(type(modules[after.target]), "none")
            ends += [after] if activation != "none" else []
        if len(ends) == 1:
            continue
        bare = copy.copy(layer)
        bare._parameters = {**layer._parameters, "bias": None}
        traced.add_submodule(f"{node.target}_bare", bare)
        with graph.inserting_before(node):
            values = graph.call_module(f"{node.target}_bare", node.args)
            bias = graph.get_attr(f"{node.target}.bias")
        with graph.inserting_before(ends[-1]):
            whole = graph.call_function(epilogue, (values, bias, residual, activation))
        ends[-1].replace_all_uses_with(whole)
        for end in reversed(ends):
            graph.erase_node(end)
    traced.recompile()
    return traced


def _only_user(node: torch.fx.Node) -> torch.fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def epilogue(values: Tensor, bias: Tensor, residual: Tensor | None, activation: str) -> Tensor:
    """`activation(values + bias (+ residual))`, over `values` where their layouts allow it.

    Args:
        values: (N, C, h, w), the fresh result of a convolution.
        bias: (C,).
        activation: a row of `PLAIN`.
    """
    last = values.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    held = [values] if residual is None else [values, residual]
    alike = all(
        each.is_contiguous(memory_format=layout)
        and (each.shape, each.dtype) == (values.shape, values.dtype)
        for each in held
    )
    if not alike or values.numel() >= 2**31 - LAUNCHED:
        return PLAIN[activation](sum(held[1:], values + bias[:, None, None]))
    channels, height, width = values.shape[1:]
    kernels.epilogue[(-(-values.numel() // LAUNCHED),)](
        values,
        bias,
        held[-1],
        values.numel(),
        channels,
        1 if last else height * width,
        ADD=residual is not None,
        ACTIVATION=activation,
        BLOCK=LAUNCHED,
    )
    return values
