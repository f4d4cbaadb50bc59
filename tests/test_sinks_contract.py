"""What every sink promises, over the whole table."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from fakes import FakeVirtualCameras
from sink_frames import info, rendered, write

from rtseg.errors import SinkError, UsageError
from rtseg.labels import VOC
from rtseg.sinks import SINKS, SinkOptions, find_kind, open_sink
from rtseg.sinks.display import display_available

TARGETS = {
    "video": ["out.mp4", "out.mkv", "out.webm", "out.avi"],
    "pictures": ["folder/", "frames_%06d.png", "frames_%03d.jpg"],
    "raw": ["-"],
    "null": ["null:"],
    "window": ["window:"],
    "mask": ["mask:m.mkv", "mask:m.mp4", "mask:m.avi", "mask:masks/", "mask:m_%04d.png"],
    "json": ["json:out.jsonl", "json:-"],
    "figure": ["figure:out.png"],
    "virtual": ["virtual", "virtual:/dev/video10"],
}
ALL = [target for targets in TARGETS.values() for target in targets]
NO_FILES = ("-", "null:", "window:", "json:-", *TARGETS["virtual"])
FILES = [target for target in ALL if target not in NO_FILES]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pyvirtualcam", FakeVirtualCameras())
    return tmp_path


def found(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_every_sink_is_tried_here() -> None:
    assert TARGETS.keys() == SINKS.keys()
    for kind, targets in TARGETS.items():
        assert all(find_kind(target)[0] is SINKS[kind] for target in targets)


@pytest.mark.parametrize("target", ALL)
def test_takes_frames_and_leaves_only_what_was_asked_for(target, here, capfdbinary) -> None:
    if find_kind(target)[0].needs_display and display_available() is not None:
        pytest.skip(f"no window: {display_available()}")
    sink = open_sink(target, info(), VOC)
    assert sink.summary() == ""
    for index in range(5):
        assert sink.alive
        sink.idle(None)
        sink.write(rendered(index))
    sink.close()
    left = found(here)
    assert bool(left) == (target in FILES)
    assert not [name for name in left if ".part" in name or name.startswith(".")]
    assert all(path.stat().st_size for path in here.rglob("*"))
    if target in FILES:
        assert "5" in sink.summary() or "1" in sink.summary()


@pytest.mark.parametrize("target", FILES)
def test_refuses_what_exists_and_keeps_it(target, here) -> None:
    write(target, map(rendered, range(3)), info())
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"Pass -y to overwrite") as caught:
        open_sink(target, info(), VOC)
    assert caught.value.exit_code == 2
    assert before == {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    write(target, map(rendered, range(3)), info(), overwrite=True)
    assert found(here)


@pytest.mark.parametrize("target", FILES)
def test_what_was_there_stays_when_the_new_run_has_no_frame(target, here) -> None:
    write(target, map(rendered, range(3)), info())
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    write(target, [], info(), overwrite=True)
    assert before == {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}


@pytest.mark.parametrize("target", FILES)
def test_a_run_without_a_frame_leaves_nothing(target, here) -> None:
    assert write(target, [], info()) == ""
    assert found(here) == []


@pytest.mark.parametrize("target", FILES)
def test_a_missing_folder_is_named(target, here) -> None:
    role, colon, rest = target.rpartition(":")
    with pytest.raises(UsageError, match="there is no folder nowhere"):
        open_sink(f"{role}{colon}nowhere/{rest}", info(), VOC)
    assert found(here) == []


@pytest.mark.parametrize("target", FILES)
def test_a_folder_that_cannot_be_written(target, here, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SinkError, match="Permission denied") as caught:
        open_sink(target, info(), VOC)
    assert caught.value.exit_code == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(here) -> None:
    (here / "locked").mkdir(mode=0o500)
    with pytest.raises(SinkError, match="Permission denied"):
        open_sink("locked/out.mp4", info(), VOC)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("out.gif", r"unknown suffix \.gif.*\.mp4 \.mov \.mkv \.webm \.avi"),
        ("there", "it has no suffix"),
        ("", "cannot write ''"),
        ("json:out.txt", "JSON lines go to .jsonl"),
        ("json:", "names no file"),
        ("mask:", "names no file"),
        ("mask:m.webm", "would change the indices"),
        ("mask:m_%04d.jpg", "would change the indices"),
        ("mask:m.tif", r"not as \.tif"),
        ("mask:m.m4v", r"would change the indices"),
        ("m_%0300d.png", "too many digits"),
        ("one.png", "any number of frames"),
    ],
)
def test_targets_that_no_sink_takes(target, says, here) -> None:
    Path("there").touch()
    with pytest.raises(UsageError, match=says):
        open_sink(target, info(), VOC)
    assert found(here) == ["there"]


def test_interrupted_by_an_error_elsewhere_the_file_is_whole(here) -> None:
    def fail() -> None:
        with open_sink("out.mp4", info(), VOC, SinkOptions()) as sink:
            for index in range(4):
                sink.write(rendered(index))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert found(here) == ["out.mp4"]
