"""The cache: where it is, and that it does not grow for ever: what was used longest ago goes."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rtseg import cache
from rtseg.backends import BackendOptions
from rtseg.backends.auto import choice_path
from rtseg.cache import YOUNG_SECONDS, make_room
from rtseg.nets import find_model
from rtseg.nets.onnx_file import cached_onnx
from rtseg.nets.weights import weights_path
from rtseg.zoo import WeightsSpec

ANY = ".*"


def put(folder: Path, name: str, size: int, hours: float) -> Path:
    """A file of the cache, last used so many hours ago."""
    path = folder / name
    path.write_bytes(bytes(size))
    at = time.time() - 3600 * hours
    os.utime(path, (at, at))
    return path


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_was_used_longest_ago_goes_first_and_no_more_than_must(tmp_path: Path) -> None:
    for number, hours in enumerate((50, 10, 30, 20)):
        put(tmp_path, f"{number}.blob", 100, hours)
    make_room(tmp_path, ANY, 400)
    assert len(left(tmp_path)) == 4
    make_room(tmp_path, ANY, 250)
    assert left(tmp_path) == {"1.blob", "3.blob"}


def test_a_network_and_its_checksum_go_together_and_by_the_later_of_their_times(
    tmp_path: Path,
) -> None:
    put(tmp_path, "a.onnx", 100, 90)
    put(tmp_path, "a.sha256", 1, 5)
    put(tmp_path, "b.onnx", 100, 40)
    put(tmp_path, "b.sha256", 1, 40)
    make_room(tmp_path, ANY, 150)
    assert left(tmp_path) == {"a.onnx", "a.sha256"}


def test_what_is_young_or_being_written_stays(tmp_path: Path) -> None:
    put(tmp_path, "young.onnx", 100, 0.9 * YOUNG_SECONDS / 3600)
    put(tmp_path, ".half-made.onnx", 100, 50)
    put(tmp_path, "old.onnx", 100, 50)
    make_room(tmp_path, ANY, 0)
    assert left(tmp_path) == {"young.onnx", ".half-made.onnx"}


def test_a_folder_that_is_not_there_has_room(tmp_path: Path) -> None:
    make_room(tmp_path / "none", ANY, 0)


def test_an_exported_network_makes_room_and_one_that_is_used_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path))
    folder = tmp_path / "onnx"
    folder.mkdir()
    old = put(folder, f"old-64x64-fp32-{'0' * 16}.onnx", 100, 50)
    first = cached_onnx(find_model("person"), (64, 64))
    assert first.is_file()
    assert old.is_file(), "there is room"
    monkeypatch.setattr(
        "rtseg.nets.onnx_file.make_room", lambda folder, ours: make_room(folder, ours, 50)
    )
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))
    assert cached_onnx(find_model("person"), (64, 64)) == first  # used now: young
    assert cached_onnx(find_model("person"), (64, 96)).is_file()
    assert first.is_file()
    assert not old.exists()


def test_without_a_home_the_cache_is_a_private_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a container's user: nothing of a home can be made."""
    monkeypatch.delenv("RTSEG_CACHE", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    usual = cache.cache_dir()
    assert not usual.is_relative_to(tmp_path)
    monkeypatch.setattr(cache, "can_be_written", lambda folder: False)
    found = cache.cache_dir()
    assert found == tmp_path / f"rtseg-{os.getuid()}"
    assert found.stat().st_mode & 0o777 == 0o700
    found.chmod(0o777)
    assert cache.cache_dir() == usual, "anybody may have put something there"
    found.rmdir()
    found.symlink_to(tmp_path)
    assert cache.cache_dir() == usual, "somebody else's link"
    monkeypatch.setenv("RTSEG_CACHE", "elsewhere")
    assert cache.cache_dir() == Path("elsewhere"), "what was asked for is not replaced"


STRANGE_NAMES = [
    "/etc/x",
    "../../../x",
    "..",
    ".",
    "",
    ".hidden",
    "a\\b",
    "C:x",
    "a\0b",
    "x" * 400,
    "é/ü",
]


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_a_network_s_name_is_never_a_path(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    model = find_model("person")
    model = replace(model, spec=replace(model.spec, name=name))
    path = cached_onnx(model, (32, 32))
    assert path.parent == tmp_path / "cache" / "onnx"
    assert path.is_file()
    assert choice_path(model, (32, 32), BackendOptions()).parent == tmp_path / "cache" / "auto"
    assert left(tmp_path) == {"cache"}
    assert not path.name.startswith(".")


@pytest.mark.parametrize("url", ["https://host/a/..", "https://host/", "https://host/a%2Fb\\c"])
def test_weights_lie_in_the_cache_whatever_their_address(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path))
    path = weights_path(WeightsSpec(url, "0" * 64, "BSD-3-Clause", 1.0))
    assert path.parent == tmp_path / "weights"
    assert path.name == cache.safe_name(path.name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "C:x", "a\0b"])
def test_the_cache_refuses_a_path_for_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a file"):
        cache.cache_path("onnx", name)


def test_only_files_that_rtseg_made_make_room(tmp_path: Path) -> None:
    victim = put(tmp_path, "outside", 100, 50)
    folder = tmp_path / "folder"
    folder.mkdir()
    others = ("holiday.mp4", "notes.txt", "mine.onnx", "mine.sha256", "2024.blob.txt")
    for name in others:
        put(folder, name, 100, 50)
    made = f"net-64x64-fp32-{'0' * 16}.onnx"
    put(folder, made, 100, 50)
    link = folder / f"link-64x64-fp32-{'0' * 16}.onnx"
    link.symlink_to(victim)
    make_room(folder, cache.EXPORTED, 0)
    assert left(folder) == {*others, link.name}
    assert victim.is_file()
    put(folder, "12345678901234567890.blob", 100, 50)
    make_room(folder, cache.COMPILED, 0)
    assert left(folder) == {*others, link.name}


def test_a_file_that_names_its_network_like_a_path_writes_into_the_cache_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an attacker would send it: the name is inside the file, its neighbours are the victims."""
    import onnx

    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    victim = tmp_path / "victim"
    victim.mkdir()
    put(victim, "holiday.mp4", 100, 50)
    model = find_model("person")
    spec = replace(model.spec, name=f"{victim}/x", weights=None)
    checkpoint = tmp_path / "net.safetensors"
    from safetensors.numpy import load_file, save_file

    save_file(load_file(model.file), checkpoint, {"rtseg": spec.to_json()})
    sent = find_model(str(checkpoint))
    assert sent.spec.name == spec.name
    written = cached_onnx(sent, (32, 32))
    assert written.parent == tmp_path / "cache" / "onnx"
    assert onnx.load(written).graph.node
    assert left(victim) == {"holiday.mp4"}
