"""The arithmetic of a network, and how much of it a device can do per second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rtseg.gpu import has_cuda
from rtseg.nets.build import SeamNetwork, build
from rtseg.nets.graph import check_graph, shapes_at
from rtseg.nets.merge import read_merged
from rtseg.zoo import Model

HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
PEAK_SECONDS = 0.5
PRODUCT_SIDE = {"cpu": 1536, "cuda": 8192}
CONVOLUTION = {"cpu": (256, 64), "cuda": (1024, 128)}
"""Channels in and out, and the side of the image."""
COUNTED = frozenset("Conv ConvTranspose Gemm MatMul".split())
UNKNOWN = frozenset("ConvInteger QLinearConv QLinearMatMul MatMulInteger Einsum If Loop".split())
"""ONNX operators that are counted, and those whose arithmetic is not known; others are free."""

COPIED_BYTES = {"cpu": 2**27, "cuda": 2**30}
"""Far more than any processor cache holds."""


def network_flops(model: Model, size: tuple[int, int]) -> float | None:
    """Floating-point operations, 2 for a multiply and add, of one image up to the logits.

    Only convolutions and matrix products are counted, as is the custom: by torch for checkpoints,
    from the shapes in the file for ONNX files.

    Args:
        size: (height, width) of the network's input.

    Returns:
        None if it cannot be known.

    Raises:
        ModelError: the network cannot be built.
    """
    if model.format in ("none", "openvino"):
        return None
    if model.format == "onnx":
        assert model.file is not None
        return onnx_flops(model.file, size)
    from torch.utils.flop_counter import FlopCounterMode

    spec = model.spec
    # shapes only: nothing is computed, and the weights do not matter
    network = SeamNetwork(build(spec.architecture, len(spec.labels)), spec).to("meta")
    image = torch.zeros((1, *size, 3), dtype=torch.uint8, device="meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(image)
    return float(counter.get_total_flops())


def onnx_flops(path: Path, size: tuple[int, int]) -> float | None:
    """As `network_flops`, of a file; None if a shape in it is open or an operator unknown."""
    import onnx

    content = read_merged(path, size) or onnx.load(path, load_external_data=False)
    check_graph(content, path)
    shapes = shapes_at(content, size)
    graph = content.graph
    counted = [_node_flops(n, shapes) for n in graph.node if n.op_type in COUNTED | UNKNOWN]
    return float(sum(c for c in counted if c)) if None not in counted else None


def arithmetic_peak(device: str, precision: str, threads: int | None = None) -> float | None:
    """Operations per second: the best of large matrix products and of convolutions.

    Each is measured for half a second; on some CPUs, convolutions run in wider registers.

    Args:
        device: "cpu", measured in fp32, and for bf16 in that too; or "cuda:N".
        threads: of the CPU; None is torch's own choice.

    Returns:
        None on a device that torch cannot use.
    """
    if not _can_use(device, threads):
        return None
    if device.startswith("cuda"):
        with _tf32(precision == "tf32"):
            return _peak_in(HALVES.get(precision, torch.float32), device)
    peak = _peak_in(torch.float32, device)
    return max(peak, _peak_in(torch.bfloat16, device)) if precision == "bf16" else peak


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Whether NVIDIA GPUs may multiply float32 with 10 bits of fraction instead of 23."""
    switches: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = allowed
    try:
        yield
    finally:
        for switch, was in zip(switches, before, strict=True):
            switch.allow_tf32 = was


def _peak_in(dtype: torch.dtype, device: str) -> float:
    kind = "cuda" if device.startswith("cuda") else "cpu"
    return max(_product_rate(dtype, device, kind), _convolution_rate(dtype, device, kind))


def _product_rate(dtype: torch.dtype, device: str, kind: str) -> float:
    side = PRODUCT_SIDE[kind]
    left, right = (torch.rand(side, side, device=device, dtype=dtype) for _ in "ab")
    return 2.0 * side**3 / _quickest(lambda: torch.matmul(left, right), kind == "cuda")


def _convolution_rate(dtype: torch.dtype, device: str, kind: str) -> float:
    """Of 3x3 taps over pixels with channels last, as the networks' own are."""
    channels, side = CONVOLUTION[kind]
    taps, pixels = torch.rand(channels, channels, 3, 3), torch.rand(1, channels, side, side)
    weight, picture = (
        values.to(device, dtype).contiguous(memory_format=torch.channels_last)
        for values in (taps, pixels)
    )

    @torch.inference_mode()
    def work() -> torch.Tensor:
        return torch.nn.functional.conv2d(picture, weight, padding=1)

    return 18.0 * channels**2 * side**2 / _quickest(work, kind == "cuda")


def copy_peak(device: str, threads: int | None = None) -> float | None:
    """Bytes per second, read and written, of large copies within a device's memory.

    The best of half a second of them.

    Args:
        device, threads: as of `arithmetic_peak`.

    Returns:
        None on a device that torch cannot use.
    """
    if not _can_use(device, threads):
        return None
    cuda = device.startswith("cuda")
    source = torch.zeros(COPIED_BYTES["cuda" if cuda else "cpu"], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2.0 * source.numel() / _quickest(lambda: target.copy_(source), cuda)


def _can_use(device: str, threads: int | None) -> bool:
    """Whether torch can use the device; sets its CPU threads."""
    if threads is not None:
        torch.set_num_threads(threads)
    return device == "cpu" or (device.startswith("cuda") and has_cuda())


def _quickest(work: Callable[[], object], cuda: bool) -> float:
    """Seconds of the quickest run of `work`; the first is not counted."""
    best, until = math.inf, math.inf
    while (since := time.perf_counter()) < until:
        work()
        if cuda:
            torch.cuda.synchronize()
        now = time.perf_counter()
        if until == math.inf:
            until = now + PEAK_SECONDS
            continue
        best = min(best, now - since)
    return best


def _node_flops(node: Any, shapes: Mapping[str, Any]) -> float | None:
    taken, weight = (shapes.get(name) for name in node.input[:2])
    made = shapes.get(node.output[0])
    if node.op_type in UNKNOWN or not (taken and weight and made):
        return None
    if node.op_type == "Conv":  # a weight is (out, in / groups, height, width)
        return 2.0 * math.prod(made) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":  # (in, out / groups, height, width)
        return 2.0 * math.prod(taken) * math.prod(weight[1:])
    turned = any(a.name == "transA" and a.i for a in node.attribute)
    return 2.0 * math.prod(made) * taken[-2 if turned else -1]
