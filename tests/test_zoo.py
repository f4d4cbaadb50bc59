"""The table of networks is what torchvision publishes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rtseg.errors import ModelError, UsageError
from rtseg.labels import VOC
from rtseg.nets import DEFAULT_MODEL, default_model, find, find_model, shipped
from rtseg.nets.build import build, segmentation
from rtseg.nets.state import save_checkpoint
from rtseg.zoo import FAMILIES, MODELS, SEGFORMERS, ModelSpec

ENUMS = {
    "deeplabv3_resnet50": "DeepLabV3_ResNet50_Weights",
    "deeplabv3_resnet101": "DeepLabV3_ResNet101_Weights",
    "deeplabv3_mobilenet_v3_large": "DeepLabV3_MobileNet_V3_Large_Weights",
    "fcn_resnet50": "FCN_ResNet50_Weights",
    "fcn_resnet101": "FCN_ResNet101_Weights",
    "lraspp_mobilenet_v3_large": "LRASPP_MobileNet_V3_Large_Weights",
}


TO_TRAIN = {"fpn_efficientnet_lite0", "fpn_efficientnet_lite2", "fpn_mobilenet_v2", *SEGFORMERS}


def test_the_table_has_torchvisions_six_what_is_to_be_trained_and_the_stub() -> None:
    assert set(MODELS) == {*ENUMS, *TO_TRAIN, "stub"} == {*FAMILIES, "stub"}
    assert all(name == spec.name for name, spec in MODELS.items())


@pytest.mark.parametrize("name", ENUMS)
def test_spec_is_what_torchvision_publishes(name: str) -> None:
    theirs = getattr(segmentation(), ENUMS[name]).COCO_WITH_VOC_LABELS_V1
    ours, preset, meta = MODELS[name], theirs.transforms(), theirs.meta
    assert ours.weights is not None
    assert ours.weights.url == theirs.url
    assert f"-{ours.weights.sha256}.pth" in theirs.url
    assert len(ours.weights.sha256) == 8
    assert ours.weights.megabytes == meta["_file_size"]
    assert round(ours.parameters * 1e6) == meta["num_params"]
    assert {ours.dataset: ours.miou} == {k: v["miou"] for k, v in meta["_metrics"].items()}
    assert ours.input.size == (preset.resize_size[0],) * 2
    assert list(ours.input.mean) == preset.mean
    assert list(ours.input.std) == preset.std
    assert [n.replace("__background__", "background") for n in meta["categories"]] == list(
        VOC.names
    )
    assert ours.labels == VOC


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", *sorted(TO_TRAIN)])
def test_parameters_are_those_of_the_network(name: str) -> None:
    """The published count is without the auxiliary head, or with it: ours is the file's."""
    count = sum(p.numel() for p in build(name, 21).parameters())
    assert round(MODELS[name].parameters * 1e6) == count


@pytest.mark.parametrize("name", MODELS)
def test_specs_survive_json(name: str) -> None:
    assert ModelSpec.from_json(MODELS[name].to_json()) == MODELS[name]


def test_json_without_the_later_fields_is_read() -> None:
    values = json.loads(MODELS["fcn_resnet50"].to_json())
    del values["output_name"], values["output_layout"]
    assert ModelSpec.from_json(json.dumps(values)) == MODELS["fcn_resnet50"]


def test_finding_by_name_loads_no_library() -> None:
    code = (
        "import sys\nfrom rtseg.nets import find_model, shipped, default_model\n"
        "find_model('stub'); find_model('fcn_resnet50', weights='random'); shipped()\n"
        "heavy = ['torch', 'torchvision', 'onnx', 'onnxruntime', 'cv2', 'requests']\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_unknown_names_list_the_known_and_the_near() -> None:
    with pytest.raises(ModelError, match=r"'fcn_resnet'.*deeplabv3_resnet50.*Did you mean fcn_"):
        find_model("fcn_resnet")
    with pytest.raises(ModelError, match=r"'zzz'.*A file must end in \.onnx"):
        find_model("zzz")


def test_the_stub_takes_a_delay() -> None:
    assert find_model("stub").delay_seconds == 0
    for text in ("100ms", "0.1s", "0.1"):
        assert find_model(f"stub?delay={text}").delay_seconds == pytest.approx(0.1)
    for text in ("delay=soon", "delay=-1", "delay=", "delays=1"):
        with pytest.raises(ModelError):
            find_model(f"stub?{text}")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with an empty models/ folder; returns that folder."""
    (tmp_path / "rtseg").mkdir()
    (tmp_path / "rtseg" / "__init__.py").touch()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(find, "__file__", str(tmp_path / "rtseg" / "nets" / "find.py"))
    return tmp_path / "models"


def test_files_in_models_are_names(installed: Path) -> None:
    assert shipped() == {}
    assert default_model() == "stub"
    name = "lraspp_mobilenet_v3_large"
    spec = ModelSpec(DEFAULT_MODEL, name, MODELS["stub"].labels)
    save_checkpoint(installed / "person.safetensors", spec, build(name, 4).state_dict())
    (installed / "person.onnx").write_bytes(b"another form of the same")
    (installed / "street.onnx").write_bytes(b"")
    assert shipped() == {
        "person": installed / "person.safetensors",
        "street": installed / "street.onnx",
    }
    assert default_model() == "person"
    assert find_model("person").spec == spec


def test_a_shipped_file_that_changed_is_refused(installed: Path) -> None:
    import torch

    from rtseg.cache import sha256
    from rtseg.zoo import WeightsSpec

    name = "lraspp_mobilenet_v3_large"
    path = installed / "person.pth"
    torch.save(build(name, 4).state_dict(), path)
    weights = WeightsSpec("", sha256(path), "Apache-2.0", 12.0)
    spec = ModelSpec("person", name, MODELS["stub"].labels, weights=weights)
    path.with_suffix(".json").write_text(spec.to_json())
    assert find_model("person").spec == spec
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ModelError, match="its SHA-256 is not"):
        find_model("person")


def test_another_packages_models_folder_is_not_ours(installed: Path) -> None:
    (installed / "other.onnx").touch()
    (installed.parent / "pyproject.toml").unlink()  # as in site-packages
    assert shipped() == {}


@pytest.mark.parametrize(
    ("name", "weights"), [("stub", None), ("fcn_resnet50", "random"), ("fcn_resnet50", None)]
)
def test_flags_for_a_network_that_brings_what_they_say_are_refused(name: str, weights) -> None:
    with pytest.raises(UsageError, match=rf"--labels, --mean for {name}: the model describes"):
        find_model(name, weights=weights, input_flags={"labels": "a,b", "mean": 0, "std": None})
    if weights or name == "stub":
        find_model(name, weights=weights, input_flags={"labels": None})
