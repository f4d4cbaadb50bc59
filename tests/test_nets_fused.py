"""Convolutions that take over the layers after them give what the plain network gives."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("triton", reason="Triton has no wheel for this system")
import torch
from conftest import DEVICE, ON_GPU, on_the_device
from torch import nn

from rtseg.backends import cuda
from rtseg.backends.cuda import ACTIVATIONS, PLAIN, epilogue, fused, fused_checked
from rtseg.nets import find_model
from rtseg.nets.state import load_network

pytestmark = on_the_device

DTYPE = torch.float16 if ON_GPU else torch.float32


def random(*shape: int, last: bool = True) -> torch.Tensor:
    values = np.random.default_rng(len(shape)).normal(0, 4, shape).astype(np.float32)
    layout = torch.channels_last if last and len(shape) == 4 else torch.contiguous_format
    return torch.from_numpy(values).to(DEVICE).contiguous(memory_format=layout)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The activations of all launches of the kernel."""
    seen: list[str] = []
    kernel = cuda.kernels.epilogue

    class Spy:
        def __getitem__(self, grid: tuple[int, ...]):
            def launch(*values, **constants) -> None:
                seen.append(constants["ACTIVATION"])
                kernel[grid](*values, **constants)

            return launch

    monkeypatch.setattr(cuda.kernels, "epilogue", Spy())
    return seen


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("activation", list(PLAIN))
def test_the_kernel_is_bias_sum_and_activation(
    launches: list[str], activation: str, add: bool, last: bool
) -> None:
    values, residual = random(2, 5, 7, 17, last=last), random(2, 5, 7, 17, last=last).flip(0)
    residual = residual.contiguous(
        memory_format=torch.channels_last if last else torch.contiguous_format
    )
    bias = random(5)
    values[0, 0, 0, 0] = torch.nan
    expected = PLAIN[activation](values + bias[:, None, None] + (residual if add else 0))
    found = epilogue(values, bias, residual if add else None, activation)
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert found is values
    assert launches == [activation]


def test_layouts_that_differ_are_summed_by_torch(launches: list[str]) -> None:
    values, residual, bias = random(2, 5, 7, 9), random(2, 5, 7, 9, last=False), random(5)
    expected = torch.relu(values + bias[:, None, None] + residual)
    torch.testing.assert_close(epilogue(values, bias, residual, "relu"), expected)
    assert launches == []


class Block(nn.Module):
    """All that may follow a convolution, as networks write it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.norm, self.relu = nn.Identity(), nn.ReLU(inplace=True)
        self.rest = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout(), activation())
            for activation in ACTIVATIONS
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        kept = self.first(image)
        out = self.norm(self.second(self.relu(kept)))
        out += image
        out = self.relu(out)
        for layer in self.rest:
            out = out + layer(out)
        twice = self.third(out)
        return self.relu(twice) + twice


def test_layers_are_fused_where_nothing_else_reads_between(launches: list[str]) -> None:
    network = nn.Sequential(Block()).eval().to(DEVICE, memory_format=torch.channels_last)
    image = random(2, 4, 6, 10)
    with torch.inference_mode():
        expected = network(image.clone())
        found = fused(network)(image.clone())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    # the last convolution's result is read twice
    assert launches == ["relu", "relu", *ACTIVATIONS.values()]


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("lraspp_mobilenet_v3_large", 6),
        pytest.param("deeplabv3_mobilenet_v3_large", 6, marks=pytest.mark.slow),
        pytest.param("deeplabv3_resnet50", 5, marks=pytest.mark.slow),
    ],
)
def test_networks_keep_their_scores_and_lose_their_activations(
    launches: list[str], name: str, most: int
) -> None:
    network = load_network(find_model(name, weights="random"))
    network = network.to(DEVICE, DTYPE, memory_format=torch.channels_last)
    joined = fused(network)
    layers = [
        module.get_submodule(node.target)
        for module in (joined.backbone, joined.classifier)
        for node in module.graph.nodes
        if node.op == "call_module"
    ]
    assert not any(type(layer) in ACTIVATIONS for layer in layers)
    # left are those of a squeeze, of a shortcut and at the end
    assert sum(isinstance(each, nn.Conv2d) and each.bias is not None for each in layers) <= most
    image = torch.randint(0, 256, (1, 32, 64, 3), dtype=torch.uint8, device=DEVICE)
    with torch.inference_mode():
        plain, found = network(image), joined(image)
    assert (found - plain).std() < (0.05 if ON_GPU else 1e-4) * plain.std()
    assert len(launches) >= 50


@pytest.mark.slow
def test_what_deeplab_joins_stays_channels_last() -> None:
    """A point enlarged to a plane is not by itself, and would turn all that it is joined to."""
    network = load_network(find_model("deeplabv3_mobilenet_v3_large", weights="random"))
    network = network.to(DEVICE, DTYPE, memory_format=torch.channels_last)
    joined, layouts = fused(network), []
    for layer in joined.modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels == 1280 and layer.bias is None:
            layer.register_forward_pre_hook(
                lambda _, given: layouts.append(
                    given[0].is_contiguous(memory_format=torch.channels_last)
                )
            )
    with torch.inference_mode():
        joined(torch.zeros(1, 64, 64, 3, dtype=torch.uint8, device=DEVICE))
    assert layouts == [True]


@pytest.mark.parametrize("fault", ["wrong", "broken", "not followed", "infinite"])
def test_a_kernel_or_network_that_fails_leaves_the_network_as_it_is(
    monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    network = nn.Sequential(Block()).eval().to(DEVICE, memory_format=torch.channels_last)
    image, notes = random(2, 4, 6, 10), []
    joined = fused_checked(network, image, notes)
    assert joined is not network
    assert notes == []

    def instead(values: torch.Tensor, *_: object) -> torch.Tensor:
        if fault == "broken":
            raise RuntimeError("no such instruction\nmore words")
        return values * (torch.inf if fault == "infinite" else 2)

    if fault == "not followed":
        monkeypatch.setattr(Block, "forward", lambda self, x: x if x.sum() > 0 else -x)
    else:
        monkeypatch.setattr(cuda, "epilogue", instead)
    assert fused_checked(network, image, notes) is network
    (note,) = notes
    assert note.startswith("layers are not fused: ")
    assert "more words" not in note


def test_memory_that_runs_out_is_not_taken_for_a_broken_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    network = nn.Sequential(Block()).eval().to(DEVICE)
    monkeypatch.setattr(cuda, "epilogue", full)
    with pytest.raises(torch.OutOfMemoryError):
        fused_checked(network, random(2, 4, 6, 10), [])
