"""Temporary files: new, in the target's folder, one per process, and never somebody else's."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rtseg import files
from rtseg.errors import SinkError, UsageError
from rtseg.files import OutputFile, atomic, check_writable, leftovers, sweep, write_file

posix = pytest.mark.skipif(sys.platform == "win32", reason="locks, links and pipes of POSIX")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@posix
def test_what_lies_under_the_temporary_name_is_neither_followed_nor_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if somebody guessed it."""
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "0" * 2 * count)
    (tmp_path / "victim").write_text("mine")

    def write(place: Path) -> None:
        if place is part:
            OutputFile(tmp_path / "out.mp4", overwrite=True)
        else:
            write_file(tmp_path / "m.json", "{}")

    part = tmp_path / f".out-{'0' * 16}.part.mp4"
    temporary = tmp_path / f".m-{'0' * 16}.tmp.json"
    for place in (part, temporary):
        for trap in ("link", "dangling", "pipe", "file"):
            if trap == "link":
                place.symlink_to("victim")
            elif trap == "dangling":
                place.symlink_to("nowhere")
            elif trap == "pipe":
                os.mkfifo(place)
            else:
                place.write_text("theirs")
            with pytest.raises(SinkError, match="File exists"):
                write(place)
            assert names(tmp_path) == sorted(["victim", place.name])
            place.unlink()
    assert (tmp_path / "victim").read_text() == "mine"


def test_temporary_names_differ_and_lie_beside_the_target(tmp_path: Path) -> None:
    parts = [OutputFile(tmp_path / "out.mp4", overwrite=False) for _ in range(20)]
    assert len({each.part for each in parts}) == 20
    assert {each.part.parent for each in parts} == {tmp_path}
    for each in parts:
        each.discard()
    assert names(tmp_path) == []


@pytest.mark.parametrize("refusal", [None, errno.EPERM, errno.EINVAL, errno.EACCES])
@pytest.mark.parametrize("overwrite", [True, False])
def test_of_several_that_write_one_file_one_wins_whole(
    overwrite: bool, refusal: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last with -y, else the first; where there are no hard links, too."""
    if refusal is not None:

        def refuse(*_: object) -> None:
            raise OSError(refusal, os.strerror(refusal))

        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "out.mp4"
    runs = [OutputFile(path, overwrite=overwrite) for _ in range(3)]
    for number, run in enumerate(runs):
        run.part.write_bytes(bytes([number]) * 1000)
    runs[0].commit()
    for run in runs[1:]:
        if overwrite:
            run.commit()
        else:
            with pytest.raises(SinkError, match="appeared") as caught:
                run.commit()
            assert str(run.part) in caught.value.found
    assert path.read_bytes() == bytes([2 if overwrite else 0]) * 1000
    assert len(names(tmp_path)) == (1 if overwrite else 3)


@pytest.mark.parametrize("how", ["removed", "renamed", "part removed"])
def test_a_folder_that_vanishes_promises_nothing(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    run = OutputFile(folder / "a.mp4", overwrite=False)
    if how == "renamed":
        folder.rename(tmp_path / "other")
    else:
        run.part.unlink()
    if how == "removed":
        folder.rmdir()
    with pytest.raises(SinkError) as caught:
        run.commit()
    if how == "renamed" and sys.platform == "linux":
        assert f"kept as {tmp_path / 'other' / run.part.name}" in caught.value.do
        return
    assert "kept as" not in str(caught.value)
    lost = run.part if how == "part removed" else folder
    assert f"{lost} was removed or renamed" in caught.value.do


@pytest.mark.skipif(sys.platform != "linux", reason="found by /proc")
def test_nothing_is_left_in_a_folder_that_was_renamed(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    run = OutputFile(folder / "a.mp4", overwrite=False)

    def write() -> None:
        with atomic(folder / "m.json") as part:
            part.write_text("{}")
            folder.rename(tmp_path / "other")

    with pytest.raises(FileNotFoundError):
        write()
    run.discard()
    assert names(tmp_path / "other") == []


def test_what_is_kept_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = OutputFile(tmp_path / "a.mp4", overwrite=True)
    run.part.write_bytes(b"much work")
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(SinkError) as caught:
        run.commit()
    assert run.part.read_bytes() == b"much work"
    assert str(run.part) in caught.value.do


@posix
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "link to a pipe"])
def test_what_is_not_a_file_is_not_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path(os.devnull)
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    before = path.lstat()
    with pytest.raises(UsageError):
        OutputFile(path, overwrite=True)
    assert path.lstat().st_ino == before.st_ino


@posix
def test_a_dangling_link_gets_its_file(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out.mp4").symlink_to("disk/real.mp4")
    run = OutputFile(tmp_path / "out.mp4", overwrite=False)
    assert run.part.parent == tmp_path / "disk"
    run.commit()
    assert names(tmp_path) == ["disk", "out.mp4"]
    assert names(tmp_path / "disk") == ["real.mp4"]


WRITER = """
import sys, time
from pathlib import Path
from rtseg.files import OutputFile, atomic
target = OutputFile(Path("out.mp4"), overwrite=False)
target.part.write_bytes(b"frames")
with atomic(Path("m.json")) as part:
    print("ready", flush=True)
    time.sleep(60)
"""


@posix
def test_what_a_killed_process_left_is_recognised(tmp_path: Path) -> None:
    (tmp_path / ".out-0000.part.mp4").write_text("of another program")
    (tmp_path / f".other-{'0' * 16}.part.mp4").write_text("of another output")
    os.mkfifo(tmp_path / f".out-{'0' * 16}.part.mp4")
    (tmp_path / f".out-{'1' * 16}.part.mp4").symlink_to("nowhere")
    others = names(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER], cwd=tmp_path, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        path = tmp_path / "out.mp4"
        (part,) = (one for one in tmp_path.glob(".out-*.part.mp4") if one.name not in others)
        (temporary,) = tmp_path.glob(".m-*.tmp.json")
        os.utime(temporary, (0, 0))
        sweep(tmp_path)
        assert leftovers(path) == [], "it is being written"
        assert temporary.exists()
        process.send_signal(signal.SIGKILL)
    assert leftovers(path) == [part]
    assert part.read_bytes() == b"frames"
    sweep(tmp_path)
    assert names(tmp_path) == sorted([*others, part.name])


@posix
def test_young_temporary_files_stay(tmp_path: Path) -> None:
    """Between its creation and its lock one looks abandoned."""
    young = tmp_path / f".a-{'0' * 16}.tmp.png"
    young.touch()
    sweep(tmp_path)
    assert young.exists()
    os.utime(young, (time.time() - 2 * files.SWEPT_SECONDS,) * 2)
    sweep(tmp_path)
    assert not young.exists()


def test_atomic_replaces_no_file_that_must_be_new(tmp_path: Path) -> None:
    path = tmp_path / "shot.png"

    def write() -> None:
        with atomic(path, new=True) as part:
            part.write_bytes(b"mine")
            path.write_bytes(b"theirs")

    with pytest.raises(FileExistsError):
        write()
    assert path.read_bytes() == b"theirs"
    assert names(tmp_path) == ["shot.png"]


def test_atomic_makes_a_folder_only_where_it_may(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "a" / "b", make_folder=False):
        pass
    assert names(tmp_path) == []


@posix
def test_files_are_not_executable_and_obey_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "m.json", "{}")
    finally:
        os.umask(before)
    assert (tmp_path / "m.json").stat().st_mode & 0o777 == 0o640


def test_checking_whether_a_folder_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "a.json")
    assert names(tmp_path) == []
    with pytest.raises(SinkError):
        check_writable(tmp_path / "none" / "a.json")


@posix
def test_an_unfinished_file_is_locked_before_others_can_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that fetch one file at the same time would else write to the same one."""
    flock, seen = files.fcntl.flock, []

    def looking(opened: int, how: int) -> None:
        monkeypatch.setattr(files.fcntl, "flock", flock)
        seen.append(leftovers(tmp_path / "a.bin"))
        seen.append([p for p in tmp_path.iterdir() if p.name.endswith(".part.bin")])
        flock(opened, how)

    monkeypatch.setattr(files.fcntl, "flock", looking)
    with files.resumable(tmp_path / "a.bin") as part:
        part.write_bytes(b"1")
        assert names(tmp_path) == [part.name]
    assert seen[-2:] == [[], []]
    assert names(tmp_path) == ["a.bin"]
