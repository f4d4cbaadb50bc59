"""The cache: where it is, and that it does not grow for ever: what was used longest ago goes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rtseg import cache
from rtseg.backends import BackendOptions, open_backend
from rtseg.backends.auto import choice_path, open_fastest
from rtseg.cache import (
    CHOSEN,
    TRIED,
    YOUNG_SECONDS,
    add_checksum,
    is_intact,
    make_room,
    safe_name,
)
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


def test_of_small_files_the_newest_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of networks and choices, which takes no bytes to speak of."""
    monkeypatch.setattr(cache, "MADE_FILES", 3)
    for kind, name in ((TRIED, "{0:032x}-onnx"), (CHOSEN, "person-64x64-{0:016x}.json")):
        folder = tmp_path / name[-4:]
        folder.mkdir()
        for number in range(5):
            put(folder, name.format(number), 0, 50 - number)
        put(folder, "somebody's.txt", 0, 90)
        make_room(folder, kind)
        assert left(folder) == {name.format(number) for number in (2, 3, 4)} | {"somebody's.txt"}


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
    ".hidden",
    "a\\b",
    "C:x",
    "CON",
    "nul.txt",
    "trailing. ",
    "-rf",
    "~root",
    "$HOME",
    "x" * 200,
    "é" * 200,
    "é/ü",
    "e\u0301",
    "\uff0f..\uff0f\u2215x",
    "\U0001f600",
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


RESERVED = [f"{name}{end}" for name in ("CON", "nul", "Com1", "LPT9") for end in ("", ".txt", ".")]


@pytest.mark.parametrize(
    "name", [*STRANGE_NAMES, *RESERVED, "", "a\0b", "x" * 400, "..", "x\n", "a\u202eb"]
)
def test_a_safe_name_is_a_file_name_on_every_system(name: str) -> None:
    safe = safe_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}", safe)
    assert not safe.endswith(".")
    assert safe.partition(".")[0].upper() not in {"CON", "NUL", "COM1", "LPT9"}
    assert cache.cache_path("weights", safe).name == safe


@pytest.mark.parametrize("kind", ["", ".", "..", "a/b", "/etc"])
def test_a_folder_of_the_cache_is_not_a_path_either(kind: str) -> None:
    with pytest.raises(ValueError, match="not the name"):
        cache.cache_path(kind, "x")


def test_links_in_the_cache_are_replaced_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's folder, named as the cache: what its links point to is not touched."""
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    model, victim = find_model("person"), put(tmp_path, "victim", 100, 50)
    path = cached_onnx(model, (32, 32))
    before = victim.stat()
    for each in (path, path.with_suffix(".sha256")):
        each.unlink()
        each.symlink_to(victim)
    assert cached_onnx(model, (32, 32)) == path
    assert not path.is_symlink()
    assert victim.stat().st_mtime == before.st_mtime
    assert victim.read_bytes() == bytes(100)


# --- integrity -----------------------------------------------------------------------------------


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_file_is_intact_if_nothing_of_it_changed(tmp_path: Path) -> None:
    path, notes = put(tmp_path, "a.onnx", 100, 5), []
    assert not is_intact(path, notes), "without a checksum it may be incomplete"
    add_checksum(path)
    assert is_intact(path, notes)
    assert not notes
    damage(path)
    assert not is_intact(path, notes)
    assert "damaged" in notes[0]


@pytest.mark.parametrize("checksum", [b"", b"\xff\xfe", b"0" * 64, b"x" * 10_000_000, None])
def test_a_checksum_of_any_content_is_read(checksum: bytes | None, tmp_path: Path) -> None:
    path, notes = put(tmp_path, "a.onnx", 100, 5), []
    if checksum is None:
        path.with_suffix(".sha256").mkdir()
    else:
        path.with_suffix(".sha256").write_bytes(checksum)
    assert not is_intact(path, notes)


def test_another_network_s_file_is_not_intact(tmp_path: Path) -> None:
    put(tmp_path, "a.onnx", 100, 5)
    add_checksum(tmp_path / "a.onnx")
    for suffix in (".onnx", ".sha256"):
        (tmp_path / f"b{suffix}").write_bytes((tmp_path / f"a{suffix}").read_bytes())
    assert not is_intact(tmp_path / "b.onnx", [])


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    name = f"net-64x64-fp32-{'0' * 16}"
    kept = {
        put(tmp_path, f".{name}-{'1' * 16}.tmp.onnx", 9, 0).name,  # perhaps about to be locked
        put(tmp_path, ".holiday-01234567.mp4", 9, 50).name,
        put(tmp_path, ".bashrc", 9, 50).name,
        put(tmp_path, f".{name}.onnx", 9, 50).name,
    }
    put(tmp_path, f".{name}-{'2' * 16}.tmp.onnx", 9, 50)
    put(tmp_path, f".{name}-{'2' * 16}.tmp.sha256", 9, 50)
    make_room(tmp_path, cache.EXPORTED)
    assert left(tmp_path) == kept


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)


@pytest.mark.parametrize(("backend", "suffix"), [("onnx", "onnx"), ("openvino", "blob")])
def test_a_damaged_network_is_made_again_with_a_note(
    backend: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: np.ndarray
) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path))
    model = find_model("person")
    first = open_backend(backend, model, input_size=(64, 64))
    wanted = first(noise)
    assert not first.info.notes
    (path,) = tmp_path.rglob(f"*.{suffix}")
    stamp = path.stat().st_mtime_ns
    assert not open_backend(backend, model, input_size=(64, 64)).info.notes
    assert path.stat().st_mtime_ns == stamp, "kept"
    for change in (damage, lambda path: path.write_bytes(b""), lambda path: os.truncate(path, 999)):
        change(path)
        again = open_backend(backend, model, input_size=(64, 64))
        assert "damaged" in " ".join(again.info.notes)
        np.testing.assert_array_equal(again(noise), wanted)
        assert not open_backend(backend, model, input_size=(64, 64)).info.notes


@pytest.mark.slow
def test_a_compiled_network_of_other_settings_is_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path))
    model = find_model("person")
    for options in ({}, {"lanes": 2}, {"threads": 1}, {"input_size": (64, 96)}):
        open_backend("openvino", model, **{"input_size": (64, 64), **options}).close()
    assert len(list(tmp_path.rglob("*.blob"))) == 4
    for path in (tmp_path / "openvino").iterdir():
        assert re.fullmatch(cache.COMPILED, path.name)
    assert left(tmp_path) == {"onnx", "openvino"}


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_a_cache_that_cannot_be_written_is_one_note(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: np.ndarray
) -> None:
    (tmp_path / "file").touch()
    model = find_model("person")
    wanted = open_backend(backend, model, input_size=(64, 64))(noise)
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "file"))
    opened = open_backend(backend, model, input_size=(64, 64))
    assert [note for note in opened.info.notes if "cannot write to the cache" in note] == list(
        opened.info.notes
    )
    assert len(opened.info.notes) == 1
    np.testing.assert_array_equal(opened(noise), wanted)


def test_where_nothing_can_be_written_torch_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("rtseg.nets.onnx_file.temporary_dir", lambda: tmp_path / "file" / "x")
    backend = open_fastest(find_model("person"), input_size=(64, 64))
    assert backend.info.name == "torch"
    assert sum("cannot export" in note for note in backend.info.notes) == 1


def fill(folder: str, name: str) -> None:
    """Load one network in a process of its own."""
    os.environ["RTSEG_CACHE"] = folder
    backend = open_backend(name, find_model("person"), input_size=(64, 64))
    assert not [note for note in backend.info.notes if "cache" in note], backend.info.notes


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_two_processes_fill_one_cache_at_once(backend: str, tmp_path: Path) -> None:
    code = f"import test_nets_cache as t; t.fill({str(tmp_path)!r}, {backend!r})"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    for _ in range(3):
        both = [
            subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
            for _ in range(3)
        ]
        assert [each.wait(100) for each in both] == [0, 0, 0]
        assert not list(tmp_path.rglob(".*"))
        for file in tmp_path.rglob("*.sha256"):
            file.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.3, 0.6, 0.9, 1.2])
def test_an_export_that_is_killed_harms_nobody(moment: float, tmp_path: Path) -> None:
    code = f"import test_nets_cache as t; t.fill({str(tmp_path)!r}, 'openvino')"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    for wait in (moment, None):
        process = subprocess.Popen([sys.executable, "-c", code], env=environment)
        with suppress(subprocess.TimeoutExpired):
            process.wait(wait)
        process.kill()
        assert process.wait() == (0 if wait is None else process.returncode)
