"""What torch is slow at when it trains on a processor: person_kernels.cpp, as functions of tensors.

Compiled when they are first asked for, by `g++` or what the variable CXX names. With no compiler
there, or on a GPU, torch's own operations give the same numbers.
"""

import ctypes
import functools
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

SOURCE = Path(__file__).with_suffix(".cpp")
OPTIONS = (
    "-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC",
)  # fmt: skip
"""Not `-ffast-math`: a library made with it has the whole program lose its smallest numbers."""
WIDEST = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()
LEAST_CHANNELS, CHANNELS_STEP = 16, 8
KERNELS = (3, 5)
TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

Activation = Literal["none", "relu", "hardswish"]
ACTIVATIONS: dict[type[nn.Module], Activation] = {nn.ReLU: "relu", nn.Hardswish: "hardswish"}
PLAIN = {"none": lambda values: values, "relu": functional.relu, "hardswish": functional.hardswish}


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled functions, or None where nothing compiles them."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "person_kernels.so"
        done = subprocess.run(
            [compiler, *OPTIONS, *WIDEST, str(SOURCE), "-o", str(made)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            print(f"{compiler} did not compile {SOURCE.name}; torch's own are used:\n{done.stderr}")
            return None
        return ctypes.CDLL(str(made))


def depthwise(values: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """Return the depthwise convolution (N,C,H/stride,W/stride) of `values` (N,C,H,W).

    `weight` is (C,1,K,K); padded so that centres stay. Its gradients take a tenth of the time that
    torch's do.
    """
    kernel, channels = weight.shape[2], weight.shape[0]
    takes = kernel in KERNELS and channels >= LEAST_CHANNELS and 1 in (stride, dilation)
    if takes and _fits(values):
        return _Depthwise.apply(_at_autocast(values), weight, stride, dilation)
    margin = (kernel - 1) // 2 * dilation
    return functional.conv2d(values, weight, None, stride, margin, dilation, channels)


def biased(values: Tensor, bias: Tensor, activation: Activation) -> Tensor:
    """Return `values` (N,C,H,W) with `bias` (C,) float32 added, through the activation."""
    if _fits(values):
        return _Biased.apply(values, bias, activation)
    return PLAIN[activation](values + bias.to(values.dtype)[:, None, None])


def spatial_mean(values: Tensor) -> Tensor:
    """Return the means (N,C,1,1) of `values` (N,C,H,W).

    As torch's, to whose gradient it takes three times as long to add another.
    """
    return _Mean.apply(values)


def _fits(values: Tensor) -> bool:
    fits = values.device.type == "cpu" and values.shape[1] % CHANNELS_STEP == 0
    return fits and values.dtype in TYPES and library() is not None


def _at_autocast(values: Tensor) -> Tensor:
    on = torch.is_autocast_enabled("cpu")
    return values.to(torch.get_autocast_dtype("cpu")) if on else values


def _laid_out(values: Tensor) -> Tensor:
    return values.contiguous(memory_format=torch.channels_last)


def _call(name: str, like: Tensor, *given: Tensor | int) -> None:
    """Call a compiled function of the type of `like`; tensors go as their addresses."""
    told = (
        ctypes.c_void_p(each.data_ptr()) if isinstance(each, Tensor) else ctypes.c_long(each)
        for each in given
    )
    function = getattr(library(), name.format(TYPES[like.dtype]))
    function(*told, ctypes.c_int(torch.get_num_threads()))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        values, margin = _laid_out(values), (weight.shape[2] - 1) // 2 * dilation
        ctx.save_for_backward(values, weight)
        ctx.stride, ctx.dilation = stride, dilation
        return functional.conv2d(
            values, weight.to(values.dtype), None, stride, margin, dilation, len(weight)
        )

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        values, weight = ctx.saved_tensors
        slope = _laid_out(slopes[0].to(values.dtype))
        taps = weight.detach().float()[:, 0].permute(1, 2, 0).contiguous()
        to_values, to_taps = torch.empty_like(values), torch.empty_like(taps)
        count, channels, height, width = values.shape
        _call(
            "depthwise_{}", values, values, taps, count, height, width, channels, len(taps),
            ctx.stride, ctx.dilation, slope, *slope.shape[2:], to_values, to_taps,
        )  # fmt: skip
        return to_values, to_taps.permute(2, 0, 1)[:, None].to(weight.dtype), None, None


class _Biased(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, bias: Tensor, activation: Activation) -> Tensor:
        values, bias = _laid_out(values), bias.detach().float().contiguous()
        ctx.save_for_backward(values, bias)
        ctx.activation = activation
        made = torch.empty_like(values)
        pixels, channels = values.numel() // len(bias), len(bias)
        _call(activation + "_{}_forward", values, values, bias, made, pixels, channels)
        return made

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        values, bias = ctx.saved_tensors
        slope = _laid_out(slopes[0].to(values.dtype))
        to_values, to_bias = torch.empty_like(values), torch.empty_like(bias)
        pixels, channels = values.numel() // len(bias), len(bias)
        _call(
            ctx.activation + "_{}_backward", values, slope, values, bias, to_values, to_bias,
            pixels, channels,
        )  # fmt: skip
        return to_values, to_bias, None


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.shape = values.shape
        return values.mean((2, 3), keepdim=True)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor]:
        count, channels, height, width = ctx.shape
        each = (slopes[0] / (height * width)).reshape(count, 1, 1, channels)
        return (each.expand(count, height, width, channels).contiguous().permute(0, 3, 1, 2),)
