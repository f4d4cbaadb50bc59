"""The gradients of depthwise convolutions in training are torch's, only faster."""

import copy

import pytest
import torch
from torch import Tensor, nn

from rtseg.nets.lite import build_lite
from rtseg.training.depthwise import image_gradient, weight_gradient, with_fast_gradients


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("size", [(9, 12), (16, 7), (1, 1), (2, 31)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [3, 5, 7, 9])
def test_gradients_are_those_of_autograd(side: int, stride: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    images, weight = drawn(2, 4, *size).requires_grad_(), drawn(4, 1, side, side).requires_grad_()
    values = nn.functional.conv2d(images, weight, None, stride, side // 2, groups=4)
    gradient = drawn(*values.shape)
    values.backward(gradient)
    plain = images.detach(), weight.detach()
    torch.testing.assert_close(image_gradient(*plain, gradient, stride), images.grad)
    torch.testing.assert_close(weight_gradient(*plain, gradient, stride), weight.grad)


def test_a_network_trains_with_the_same_gradients() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, bias=False)]
    for side, stride in ((5, 1), (3, 2), (5, 2), (7, 1)):
        layers.append(nn.Conv2d(8, 8, side, stride, side // 2, groups=8, bias=False))
    usual = nn.Sequential(*layers)
    fast = copy.deepcopy(with_fast_gradients(copy.deepcopy(usual)))  # as a moving average does
    assert all("forward" in vars(layer) for layer in list(fast)[1:])
    images = torch.randn(2, 3, 40, 40)
    for network in (usual, fast):
        with torch.autocast("cpu", torch.bfloat16):
            network(images).float().square().mean().backward()
    for expected, found in zip(usual.parameters(), fast.parameters(), strict=True):
        assert expected.grad is not None
        assert found.grad is not None
        assert found.grad.dtype == torch.float32
        error = (found.grad - expected.grad).norm() / expected.grad.norm()
        assert error < 0.02
    with torch.no_grad():
        assert torch.equal(fast(images), usual(images))


def test_only_what_is_slow_is_changed() -> None:
    network = with_fast_gradients(build_lite("fpn_efficientnet_lite0", 2))
    changed = [layer for layer in network.modules() if "forward" in vars(layer)]
    assert len(changed) == 11
    for layer in changed:
        assert isinstance(layer, nn.Conv2d)
        assert layer.groups == layer.in_channels
        assert layer.kernel_size == (5, 5) or layer.stride == (2, 2)
