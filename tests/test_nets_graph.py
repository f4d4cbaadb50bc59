"""The seam network is torchvision's own, to the last digits."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import interpolate

from rtseg.errors import ModelError
from rtseg.nets.build import SeamNetwork, build, build_random
from rtseg.zoo import FAMILIES, MODELS, InputSpec, ModelSpec

SIZES = [(32, 32), (97, 40), (33, 49), (24, 81)]
NAME = "lraspp_mobilenet_v3_large"
SLOW = re.compile("resnet|segformer_b[1-5]")
INPUT = MODELS["lraspp_mobilenet_v3_large"].input


def pictures(size: tuple[int, int], count: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randint(0, 256, (count, *size, 3), generator=generator, dtype=torch.uint8)


def spec_of(architecture: str, taken: InputSpec = INPUT) -> ModelSpec:
    """The architecture with an input of its own."""
    return replace(MODELS[architecture], input=taken)


def by_torchvision(network: torch.nn.Module, image: torch.Tensor, spec: InputSpec) -> torch.Tensor:
    """Normalised as torchvision's presets do, through its own forward."""
    pixels = image.permute(0, 3, 1, 2).double() * spec.scale
    if spec.colour == "BGR":
        pixels = pixels[:, [2, 1, 0]]
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (spec.mean, spec.std)
    )
    return network((pixels - mean) / std)["out"]


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(n, marks=[pytest.mark.slow] if SLOW.search(n) else []) for n in FAMILIES],
)
def test_enlarged_logits_are_torchvisions_output(architecture: str) -> None:
    network = build_random(architecture, 21).double()
    seam = SeamNetwork(network, spec_of(architecture))
    sizes = SIZES[2:] if "resnet" in architecture else SIZES  # those are slow in double
    for size in sizes[:-1] if "segformer" in architecture else sizes:  # which takes 32 and more
        image = pictures(size)
        with torch.no_grad():
            logits = seam(image)
            expected = by_torchvision(network, image, INPUT)
        assert logits.shape[:2] == (1, 21)
        assert logits.shape[2] <= -(-size[0] // 4)  # the last enlargement is not run
        enlarged = interpolate(logits, size=size, mode="bilinear", align_corners=False)
        assert expected.std() > 1e-3  # a network that says nothing would agree with anything
        torch.testing.assert_close(enlarged, expected, rtol=0, atol=1e-9)


def test_classes_are_enlarged_instead_of_features() -> None:
    """Both networks resize once inside; ours resizes as few planes as there are classes."""
    planes = []
    real = interpolate

    def counting(image: torch.Tensor, *rest, **options) -> torch.Tensor:
        planes.append(image.shape[1])
        return real(image, *rest, **options)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "interpolate", counting)
        SeamNetwork(build(NAME, 5), spec_of(NAME))(pictures((64, 64)))
    assert planes == [5]


def test_other_normalisation_and_colour_order() -> None:
    spec = InputSpec((64, 64), colour="BGR", scale=1 / 127.5, mean=(1, 0.9, 1.1), std=(1, 0.5, 2))
    network = build_random(NAME, 3).double()
    image = pictures((72, 56), count=2)
    with torch.no_grad():
        logits = SeamNetwork(network, spec_of(NAME, spec))(image)
        expected = by_torchvision(network, image, spec)
    enlarged = interpolate(logits, size=(72, 56), mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarged, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [NAME, pytest.param("fcn_resnet50", marks=pytest.mark.slow)])
def test_random_weights_are_seeded_usual_in_size_and_leave_the_callers_numbers_alone(
    name: str,
) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = SeamNetwork(build_random(name, 5), spec_of(name))
    assert torch.equal(torch.rand(3), expected)
    second = SeamNetwork(build_random(name, 5), spec_of(name))
    image = pictures((64, 64))
    with torch.no_grad():
        logits = first(image)
        torch.testing.assert_close(logits, second(image))
    assert logits.dtype == torch.float32
    assert 1e-3 < logits.std() < 1e3


def test_source_network_stays_as_it_is() -> None:
    network = build_random(NAME, 2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    SeamNetwork(network, spec_of(NAME))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_no_batch_normalisation_and_no_auxiliary_head_are_left() -> None:
    for architecture in (NAME, "deeplabv3_resnet50"):
        seam = SeamNetwork(build(architecture, 21), spec_of(architecture))
        assert not [m for m in seam.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert not [name for name, _ in seam.named_modules() if "aux" in name]


def test_unknown_architecture() -> None:
    with pytest.raises(ModelError, match=r"unknown architecture 'unet'.*fcn_resnet50"):
        build("unet", 2)


BROKEN = """
import torch

def refuse(path):
    raise OSError(f"{path}: undefined symbol")

torch.ops.load_library = refuse
from rtseg.nets.build import build
network = build("lraspp_mobilenet_v3_large", 2)
import torchvision.extension
print(torchvision.extension._has_ops(), tuple(network(torch.zeros(1, 3, 32, 32))["out"].shape))
"""


@pytest.mark.slow
def test_torchvision_without_its_operators_still_builds() -> None:
    """Whatever torchvision is installed, its operators do not load here."""
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1) == ["False", "(1, 2, 32, 32)\n"]


def test_another_failure_of_torchvision_is_one_line() -> None:
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from rtseg.errors import ModelError\n"
        "from rtseg.nets.build import segmentation\n"
        "try:\n    segmentation()\nexcept ModelError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("cannot import torchvision: "), done.stderr
    assert done.stdout.count("\n") == 1
