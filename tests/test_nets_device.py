"""What a network does on a GPU, without one: no tensor left behind, and no waiting within.

torch's fake tensors have a device, shape and kind, and no memory: an operation that mixes devices,
or asks for a value on the way, which no CUDA graph can hold, is refused as on the real device.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

from rtseg.nets import find_model
from rtseg.nets.state import load_network

GPU = torch.device("cuda:0")


def there(mode: FakeTensorMode, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of the same shape and strides, as if it were on a GPU."""
    kind = dtype if like.dtype.is_floating_point else like.dtype
    empty = torch.empty_strided(like.shape, like.stride(), dtype=kind, device="meta")
    return FakeTensor(mode, empty, GPU)


def moved(network: nn.Module, mode: FakeTensorMode, dtype: torch.dtype) -> nn.Module:
    """The network with all its tensors there, as `Module.to` leaves them."""
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    fake = there(mode, tensor.data, dtype)
                    parameter = isinstance(tensor, nn.Parameter)
                    tensors[name] = nn.Parameter(fake, requires_grad=False) if parameter else fake
    return network


@pytest.mark.parametrize(
    "dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "name",
    [
        "person",
        "deeplabv3_mobilenet_v3_large",
        pytest.param("deeplabv3_resnet50", marks=pytest.mark.slow),
        pytest.param("fcn_resnet50", marks=pytest.mark.slow),
    ],
)
def test_a_batch_of_bytes_becomes_scores_on_the_gpu_alone(name: str, dtype: torch.dtype) -> None:
    model = find_model(name, weights=None if name == "person" else "random")
    network = load_network(model)
    mode = FakeTensorMode()
    network = moved(network, mode, dtype)
    batch = there(mode, torch.empty(8, 256, 448, 3, dtype=torch.uint8), dtype)
    with mode, torch.inference_mode():
        scores = network(batch)
    assert (scores.device, scores.dtype) == (GPU, torch.float32)
    assert scores.shape[:2] == (8, len(model.spec.labels))


def test_what_is_left_behind_or_asked_for_is_found() -> None:
    mode = FakeTensorMode()
    picture = there(mode, torch.empty(1, 3, 8, 8), torch.float16)
    with mode, pytest.raises(RuntimeError, match="at least two devices"):
        _ = picture + torch.ones(1, 3, 8, 8)
    with mode, pytest.raises(DataDependentOutputException):
        bool(picture.sum() > 0)
