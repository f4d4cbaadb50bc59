"""Exported networks: what is in the file, and when it is used again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from rtseg.backends import open_backend
from rtseg.errors import ModelError
from rtseg.nets import find_model, onnx_file
from rtseg.nets.onnx_file import cached_onnx, exported_spec, seal, write_onnx
from rtseg.zoo import Model, ModelSpec

NAME = "lraspp_mobilenet_v3_large"
SIZE = (64, 96)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def model() -> Model:
    return find_model(NAME, weights="random")


def test_the_file_is_whole(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    write_onnx(model, SIZE, path)
    content = onnx.load(path)
    onnx.checker.check_model(content, full_check=True)
    graph = content.graph
    assert content.opset_import[0].version == 18
    taken, given = graph.input[0], graph.output[0]
    assert [len(graph.input), taken.name, len(graph.output), given.name] == [
        1,
        "image",
        1,
        "logits",
    ]
    assert taken.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value for d in taken.type.tensor_type.shape.dim] == [1, 64, 96, 3]
    assert [d.dim_value for d in given.type.tensor_type.shape.dim] == [1, 21, 8, 12]
    assert given.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert not [n for n in graph.node if n.op_type == "BatchNormalization"]
    assert sum(n.op_type == "Resize" for n in graph.node) == 1  # inside; not the last enlargement
    text = {entry.key: entry.value for entry in content.metadata_props}["rtseg"]
    spec = ModelSpec.from_json(text)
    assert (spec.name, spec.labels) == (NAME, model.spec.labels)
    assert (spec.input.size, spec.input.fixed, spec.input.dtype) == (SIZE, True, "uint8")


def test_the_file_needs_no_other_flag(model: Model, tmp_path: Path) -> None:
    write_onnx(model, SIZE, tmp_path / "renamed.onnx")
    found = find_model(tmp_path / "renamed.onnx")
    assert (found.spec.name, found.notes, found.format) == (NAME, (), "onnx")
    picture = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    direct = open_backend("onnx", found, device="cpu")
    through = open_backend("onnx", model, input_size=SIZE, device="cpu")
    assert direct.input_size == SIZE
    np.testing.assert_array_equal(direct(picture), through(picture))


def test_exported_once_per_identity(model: Model, cache: Path, monkeypatch) -> None:
    written = []
    monkeypatch.setattr(onnx_file, "write_onnx", lambda m, s, path, p: _write(written, path))
    first = cached_onnx(model, SIZE)
    assert cached_onnx(model, SIZE) == first
    assert len(written) == 1
    assert first.is_relative_to(cache)
    others = [
        cached_onnx(model, (64, 64)),
        cached_onnx(model, SIZE, "fp16"),
        cached_onnx(replace(model, spec=replace(model.spec, labels=_renamed(model))), SIZE),
    ]
    assert len({first, *others}) == 4
    monkeypatch.setattr(onnx_file, "__version__", "99")
    assert cached_onnx(model, SIZE) != first


def test_other_weights_are_another_file(tmp_path: Path, model: Model, monkeypatch) -> None:
    monkeypatch.setattr(onnx_file, "write_onnx", lambda m, s, path, p: _write([], path))
    (tmp_path / "w.pth").write_bytes(b"one")
    trained = Model(model.spec, tmp_path / "w.pth", "torch")
    first = cached_onnx(trained, SIZE)
    (tmp_path / "w.pth").write_bytes(b"two")
    assert cached_onnx(trained, SIZE) != first


@pytest.mark.parametrize("damage", ["cut", "flipped", "unsealed"])
def test_damaged_files_are_made_again(model: Model, monkeypatch, damage: str) -> None:
    written: list[Path] = []
    monkeypatch.setattr(onnx_file, "write_onnx", lambda m, s, path, p: _write(written, path))
    path = cached_onnx(model, SIZE)
    whole = path.read_bytes()
    if damage == "unsealed":
        path.with_suffix(".sha256").unlink()
    else:
        path.write_bytes(whole[:-3] if damage == "cut" else whole[:-1] + b"?")
    assert cached_onnx(model, SIZE) == path
    assert path.read_bytes() == whole
    assert len(written) == 2


def test_an_export_that_fails_leaves_nothing(model: Model, cache: Path, monkeypatch) -> None:
    def broken(content: object, full_check: bool) -> None:
        raise onnx.checker.ValidationError("broken")

    monkeypatch.setattr(onnx.checker, "check_model", broken)
    with pytest.raises(onnx.checker.ValidationError):
        cached_onnx(model, SIZE)
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_a_cache_that_cannot_be_written(model: Model, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "file"))
    notes: list[str] = []
    first = cached_onnx(model, SIZE, notes=notes)
    assert first.is_file()
    assert not first.is_relative_to(tmp_path)
    assert len(notes) == 1
    assert cached_onnx(model, SIZE) == first, "made once per process"
    first.unlink()
    monkeypatch.setattr("rtseg.nets.onnx_file.temporary_dir", lambda: tmp_path / "file" / "x")
    with pytest.raises(ModelError, match="Set RTSEG_CACHE"):
        cached_onnx(model, SIZE)


def _write(written: list[Path], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"a graph")
    written.append(path)


def _renamed(model: Model):
    labels = model.spec.labels
    return replace(labels, names=("nothing", *labels.names[1:]))


def test_opset_and_open_batch(model: Model, tmp_path: Path) -> None:
    write_onnx(model, SIZE, tmp_path / "net.onnx", opset=14, dynamic_batch=True)
    content = onnx.load(tmp_path / "net.onnx")
    assert content.opset_import[0].version == 14
    for value, last in ((content.graph.input[0], 3), (content.graph.output[0], 12)):
        dims = value.type.tensor_type.shape.dim
        assert (dims[0].dim_param, dims[3].dim_value) == ("batch", last)


def test_a_seal_replaces_the_one_before(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    write_onnx(model, SIZE, path)
    seal(path, replace(exported_spec(model.spec, SIZE), name="other"))
    assert find_model(path).spec.name == "other"
    assert len(onnx.load(path).metadata_props) == 1
