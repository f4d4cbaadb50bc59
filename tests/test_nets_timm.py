"""Backbones of timm by name: built, started from a file of weights, trained, exported."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_folders import make_folder
from training import one_thread  # noqa: F401 - autouse

import rtseg
from rtseg.errors import ModelError, UsageError
from rtseg.labels import LabelSet
from rtseg.nets import find_model
from rtseg.nets.build import SeamNetwork, build_random, segmentation
from rtseg.training import program
from rtseg.training.prepare import start
from rtseg.zoo import InputSpec, ModelSpec, built_in, family_named

SMALL = "fpn_timm:mobilenetv4_conv_small"
LABELS = LabelSet(("nothing", "disc", "box"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))

needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")


def test_without_timm_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    for call in (find_model, lambda name: start(name, "scratch", LABELS, aux=False, seed=0)):
        with pytest.raises(UsageError, match=r"rtseg\[timm\]"):
            call(SMALL)


def test_only_the_open_family_takes_any_name() -> None:
    assert family_named(SMALL) is not None
    assert family_named("fpn_timm") is family_named("other:resnet18") is None
    assert built_in("other:resnet18") is None


@needs_timm
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mobilenetv4_conv_smal", "Did you mean .*mobilenetv4_conv_small"),
        ("hf-hub:someone/something", "timm has none"),
        ("resnet18:x", "unknown backbone"),
        ("", "unknown backbone"),
        ("vit_tiny_patch16_224", "stride 4"),
        ("resnet18.no_such_weights", "Did you mean resnet18"),
        ("coatnet_pico_rw_224", "images of any size"),
        ("levit_128", "as a backbone"),
    ],
)
def test_what_cannot_be_a_backbone(name: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        start(f"fpn_timm:{name}", "scratch", LABELS, aux=False, seed=0)


@needs_timm
@pytest.mark.parametrize(
    "name",
    [
        "mobilenetv4_conv_small",
        pytest.param("convnext_atto", marks=pytest.mark.slow),
        "repvgg_a0",
        pytest.param("eca_nfnet_l0", marks=pytest.mark.slow),
        pytest.param("resnet18", marks=pytest.mark.slow),
        pytest.param("regnety_004", marks=pytest.mark.slow),
    ],
)
def test_folding_changes_no_score(name: str) -> None:
    """RepVGG's image goes into two convolutions; timm's normalisation may have an activation."""
    network = build_random(f"fpn_timm:{name}", 3).double()
    size = InputSpec((64, 96), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    seam = SeamNetwork(network, ModelSpec("x", f"fpn_timm:{name}", labels=LABELS, input=size))
    image = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (size.mean, size.std))
    centred = (image.double() / 255 - mean) / std
    with torch.no_grad():
        wanted = network.classifier(network.backbone(centred.permute(0, 3, 1, 2)))
        found = seam(image)
    assert found.shape == (2, 3, 16, 24)
    assert wanted.std() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


@needs_timm
def test_weights_of_timm_in_a_file_are_the_start(tmp_path: Path) -> None:
    segmentation()
    import timm

    theirs = timm.create_model("mobilenetv4_conv_small", pretrained=False).state_dict()
    torch.save(theirs, tmp_path / "timm.pth")
    begun = start(SMALL, str(tmp_path / "timm.pth"), LABELS, aux=False, seed=0)
    own = begun.network.state_dict()
    names = [key for key in theirs if f"backbone.net.{key}" in own]
    assert len(names) == sum(key.startswith("backbone.") for key in own)
    assert all(torch.equal(own[f"backbone.net.{key}"], theirs[key]) for key in names)
    other = timm.create_model("resnet18", pretrained=False).state_dict()
    torch.save(other, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="backbone are missing"):
        start(SMALL, str(tmp_path / "other.pth"), LABELS, aux=False, seed=0)


@needs_timm
def test_joined_names_of_timm_are_found(tmp_path: Path) -> None:
    """ConvNeXt's `stages.0.` is `stages_0.` where it gives features."""
    segmentation()
    import timm

    theirs = timm.create_model("convnext_atto", pretrained=False).state_dict()
    torch.save(theirs, tmp_path / "timm.pth")
    begun = start("fpn_timm:convnext_atto", str(tmp_path / "timm.pth"), LABELS, aux=False, seed=0)
    found = begun.network.state_dict()["backbone.net.stages_1.blocks.0.conv_dw.weight"]
    assert torch.equal(found, theirs["stages.1.blocks.0.conv_dw.weight"])


@needs_timm
def test_timms_own_downloads_are_left_to_timm() -> None:
    with pytest.raises(ModelError, match="pretrained=True"):
        start(SMALL, None, LABELS, aux=False, seed=0)
    with pytest.raises(ModelError, match=f"rtseg train -m {SMALL}"):
        find_model(SMALL)


@needs_timm
@pytest.mark.slow
def test_it_is_trained_exported_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for chart in ("draw_curves", "draw_samples"):
        monkeypatch.setattr(program, chart, lambda *arguments: None)
    make_folder(tmp_path / "set", 8)
    quick = {"size": 64, "epochs": 1, "workers": 0, "device": "cpu", "batch_size": 4}
    result = rtseg.train("set", model=SMALL, weights="scratch", quiet=True, **quick)
    assert result.best is not None
    done = rtseg.export("run", "net.onnx", samples="set/images", quiet=True)
    assert done.parity.mean > 0.999
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    with rtseg.load("run", backend="torch") as one, rtseg.load("net.onnx") as other:
        assert one.spec.architecture == SMALL
        assert (one(image).mask == other(image).mask).mean() > 0.99
