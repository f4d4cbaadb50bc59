"""A network that ships as ONNX for every size: the same function; a first start needs no torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from rtseg.labels import PERSON
from rtseg.nets import find_model, onnx_file
from rtseg.nets.build import build_random
from rtseg.nets.find import shipped
from rtseg.nets.onnx_file import (
    cached_onnx,
    read_facts,
    ready_beside,
    write_fitted,
    write_onnx,
    write_ready,
)
from rtseg.nets.state import save_checkpoint
from rtseg.zoo import InputSpec, Model, ModelSpec

SIZES = [(64, 96), (80, 48)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A checkpoint in half precision, as ours ship; its normalisation is not at rest."""
    spec = ModelSpec(
        "tiny", "lraspp_mobilenet_v3_large", PERSON, InputSpec((64, 96)), licence="Apache-2.0"
    )
    network = build_random(spec.architecture, 2)
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = torch.rand(module.num_features, generator=generator) - 0.5
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
    halved = {
        key: value.half() if value.is_floating_point() else value
        for key, value in network.state_dict().items()
    }
    path = tmp_path_factory.mktemp("ready") / "tiny.safetensors"
    save_checkpoint(path, spec, halved)
    made = find_model(path)
    write_ready(made, path.with_suffix(".onnx"))
    return made


def run(path: Path, size: tuple[int, int]) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batch = np.random.default_rng(7).integers(0, 256, (1, *size, 3)).astype(np.uint8)
    return session.run(["logits"], {"image": batch})[0]


@pytest.mark.parametrize("size", [SIZES[0], pytest.param(SIZES[1], marks=pytest.mark.slow)])
def test_it_is_the_network_that_torch_exports(
    model: Model, size: tuple[int, int], tmp_path: Path
) -> None:
    ready = ready_beside(model)
    assert ready is not None
    write_onnx(model, size, tmp_path / "exported.onnx")
    write_fitted(ready, model, size, tmp_path / "fitted.onnx")
    expected = run(tmp_path / "exported.onnx", size)
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(run(tmp_path / "fitted.onnx", size), expected, atol=tolerance)
    np.testing.assert_allclose(run(ready, size), expected, atol=tolerance)
    # and what it says of itself is what the exported file says
    ours, theirs = (read_facts(tmp_path / name) for name in ("fitted.onnx", "exported.onnx"))
    assert ours.input == theirs.input == (1, *size, 3)
    assert ours.outputs == theirs.outputs
    assert ours.spec == theirs.spec


def test_it_is_half_the_size_and_is_fitted_in_float32(model: Model, tmp_path: Path) -> None:
    ready = ready_beside(model)
    assert ready is not None
    write_fitted(ready, model, SIZES[0], tmp_path / "fitted.onnx")
    assert ready.stat().st_size < 0.6 * (tmp_path / "fitted.onnx").stat().st_size
    kinds = {t.data_type for t in onnx.load(tmp_path / "fitted.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 not in kinds


def test_other_weights_do_not_take_it(model: Model, tmp_path: Path) -> None:
    assert model.file is not None
    weights = tmp_path / "tiny.safetensors"
    weights.write_bytes(model.file.read_bytes())
    beside = weights.with_suffix(".onnx")
    beside.write_bytes(model.file.with_suffix(".onnx").read_bytes())
    same = replace(model, file=weights)
    assert ready_beside(same) == beside
    save_checkpoint(weights, model.spec, build_random(model.spec.architecture, 2).state_dict())
    assert ready_beside(same) is None
    for content in (b"", b"junk" * 99):
        beside.write_bytes(content)
        assert ready_beside(same) is None
    beside.unlink()
    assert ready_beside(same) is None


def test_a_file_whose_numbers_lie_elsewhere_is_not_taken(model: Model, tmp_path: Path) -> None:
    assert model.file is not None
    weights = tmp_path / "tiny.safetensors"
    weights.write_bytes(model.file.read_bytes())
    beside = weights.with_suffix(".onnx")
    content = onnx.load(model.file.with_suffix(".onnx"))
    del content.metadata_props[:]
    onnx.save(content, beside, save_as_external_data=True, location="numbers", size_threshold=0)
    (tmp_path / "numbers").unlink()
    assert ready_beside(replace(model, file=weights)) is None


def test_the_cache_takes_it_for_float32_and_torch_exports_the_rest(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path))
    exported: list[str] = []

    def export(*args: object, **options: object) -> None:
        exported.append(str(args[3]))
        write_onnx(*args, **options)

    monkeypatch.setattr(onnx_file, "write_onnx", export)
    cached_onnx(model, SIZES[0])
    assert exported == []
    cached_onnx(model, SIZES[0], "fp16")
    assert exported == ["fp16"]


def test_every_shipped_network_has_one_made_of_its_weights() -> None:
    for name, path in shipped().items():
        assert ready_beside(find_model(name)) == path.with_suffix(".onnx")


def test_the_first_start_of_a_shipped_network_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, rtseg; network = rtseg.load('person', backend='onnx', imgsz=(64, 96));"
        "print(network.info.provider, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"RTSEG_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["CPUExecutionProvider", "False"]
