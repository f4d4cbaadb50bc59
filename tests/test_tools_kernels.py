"""The compiled operations that the person network is trained with: torch's numbers, sooner."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import person_kernels

CONVOLUTIONS = {
    "every second pixel": (40, 5, 1, 2),
    "a step of two": (24, 3, 2, 1),
    "blocks of 64 and what is left": (136, 5, 2, 1),
    "neighbours": (64, 3, 1, 1),
}
"""Channels, kernel, stride, dilation."""

SIZES = [(9, 12), (2, 2), (1, 3)]


@pytest.fixture(params=["compiled", "torch's own"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch's own":
        monkeypatch.setattr(person_kernels, "library", lambda: None)
    elif person_kernels.library() is None:
        pytest.skip("no compiler here")
    return request.param


def laid_out(*shape: int, dtype: torch.dtype) -> Tensor:
    made = torch.randn(*shape).to(dtype).contiguous(memory_format=torch.channels_last)
    return made.requires_grad_()


def exact(tensor: Tensor) -> Tensor:
    return tensor.detach().double().requires_grad_()


def distance(found: Tensor | None, wanted: Tensor | None) -> float:
    assert found is not None
    assert wanted is not None
    assert found.shape == wanted.shape
    far = (found.detach().double() - wanted.detach()).abs().max()
    return float(far / wanted.detach().abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("threads", "size"), [(1, SIZES[0]), (2, SIZES[0]), (1, SIZES[1]), (1, SIZES[2])]
)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_depthwise_convolution_and_its_gradients(
    name: str,
    threads: int,
    size: tuple[int, int],
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    channels, kernel, stride, dilation = CONVOLUTIONS[name]
    values, weight = (
        laid_out(2, channels, *size, dtype=dtype),
        torch.randn(channels, 1, kernel, kernel),
    )
    weight = weight.to(dtype).float().requires_grad_()  # numbers that both types have
    wanted_values, wanted_weight = exact(values), exact(weight)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = person_kernels.depthwise(values, weight, stride, dilation)
    margin = (kernel - 1) // 2 * dilation
    wanted = functional.conv2d(
        wanted_values, wanted_weight, None, stride, margin, dilation, channels
    )
    slope = torch.randn_like(wanted).to(dtype)
    found.backward(slope)
    wanted.backward(slope.double())
    near = 2e-6 if dtype == torch.float32 else 1e-2
    assert distance(found, wanted) < near
    assert distance(values.grad, wanted_values.grad) < near
    assert distance(weight.grad, wanted_weight.grad) < near


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", list(person_kernels.PLAIN))
def test_a_bias_and_an_activation_with_their_gradients(
    activation: person_kernels.Activation, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    values = (laid_out(2, 24, 5, 7, dtype=dtype) * 3).detach().requires_grad_()
    bias = torch.randn(24).to(dtype).float().requires_grad_()
    wanted_values, wanted_bias = exact(values), exact(bias)
    found = person_kernels.biased(values, bias, activation)
    wanted = person_kernels.PLAIN[activation](wanted_values + wanted_bias[:, None, None])
    # where a sum rounds to the other side of a bend its slope is another's, and no error
    bends = {"none": [], "relu": [0.0], "hardswish": [-3.0, 3.0]}[activation]
    sums = wanted_values + wanted_bias[:, None, None]
    clear = torch.stack([(sums - bend).abs() > 0.05 for bend in [1e9, *bends]]).all(0)
    slope = (torch.randn_like(wanted) * clear).to(dtype)
    found.backward(slope)
    wanted.backward(slope.double())
    near = 1e-6 if dtype == torch.float32 else 1.5e-2
    assert distance(found, wanted) < near
    assert distance(values.grad, wanted_values.grad) < near
    assert distance(bias.grad, wanted_bias.grad) < near


def test_a_mean_and_its_gradient() -> None:
    values = laid_out(2, 24, 5, 7, dtype=torch.float32)
    found = person_kernels.spatial_mean(values)
    assert torch.allclose(found, functional.adaptive_avg_pool2d(values, 1))
    slope = torch.randn_like(found)
    found.backward(slope)
    assert values.grad is not None
    assert torch.allclose(values.grad, (slope / 35).expand(2, 24, 5, 7))
    assert values.grad.is_contiguous(memory_format=torch.channels_last)


def test_channels_that_no_block_fits_go_torchs_way(way: str) -> None:
    values, weight = torch.randn(1, 12, 6, 6, requires_grad=True), torch.randn(12, 1, 3, 3)
    found = person_kernels.depthwise(values, weight, 1, 1)
    assert torch.allclose(found, functional.conv2d(values, weight, padding=1, groups=12), atol=1e-6)
    biased = person_kernels.biased(values, torch.ones(12), "relu")
    assert torch.equal(biased, (values + 1).relu())


def test_a_compiler_that_fails_is_told_of(
    way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if way != "compiled":
        pytest.skip("that is where it is asked for")
    monkeypatch.setenv("CXX", "false")
    assert person_kernels.library.__wrapped__() is None
    assert "torch's own are used" in capsys.readouterr().out
    monkeypatch.setenv("CXX", "there-is-no-such-compiler")
    assert person_kernels.library.__wrapped__() is None
