"""Standard streams that are closed, narrow terminals, sources that go, names that begin oddly."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from sink_frames import info, rendered, write

from rtseg import threads
from rtseg.cli.app import main
from rtseg.cli.process import LEAST_COLUMNS, widen_terminal
from rtseg.contracts import Rendered
from rtseg.errors import SourceError
from rtseg.sinks.jsonl import JsonLinesSink
from rtseg.sinks.muxing import count_frames
from rtseg.sources import open_source

CLIP = "test://?size=64x48&frames=3"
STUB = ("-m", "stub", "-b", "stub", "--no-show", "-q")
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shell(command: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which "$@" is rtseg with its arguments; the code is rtseg's."""
    return subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}", "bash", sys.executable, "-m", "rtseg",
         *arguments],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **variables},
    )  # fmt: skip


@posix
@pytest.mark.parametrize("arguments", [("--help",), ("models",)])
def test_a_reader_that_goes_away_is_no_error(arguments: Sequence[str]) -> None:
    done = shell('"$@" | true', *arguments)
    assert (done.returncode, done.stderr) == (0, "")


@posix
@pytest.mark.parametrize("pipe", [("--json", "-"), ("-o", "-")])
def test_a_reader_that_goes_away_costs_no_file_its_end(pipe: Sequence[str]) -> None:
    arguments = ("test://?frames=200&size=64x48", *STUB, *pipe)
    done = shell('"$@" | head -c 100', *arguments, "--mask-output", "m.mkv")
    assert (done.returncode, done.stderr.count("warning")) == (0, 1)
    assert count_frames(Path("m.mkv")) == 200


@posix
def test_a_grid_ends_with_its_reader() -> None:
    endless = ("test://?size=64x48&live=1&fps=30", "test://?size=64x48&live=1&fps=30")
    done = shell('"$@" | head -c 10 > head', *endless, *STUB, "-o", "-")
    assert (done.returncode, done.stderr) == (0, "")


@posix
def test_json_is_utf_8_whatever_stdout_is() -> None:
    person = "\N{CJK UNIFIED IDEOGRAPH-4EBA}"
    Path(f"{person}.png").write_bytes(cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))[1])
    done = shell('"$@"', f"{person}.png", *STUB, "--json", "-", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["name"] == person


@posix
def test_only_a_closed_pipe_makes_an_exit_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """rich ends the program where it meets one; other libraries for reasons of their own."""

    def closed() -> int:
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            sys.exit(1)

    monkeypatch.setattr("rtseg.cli.app.discard_output", lambda _: None)
    monkeypatch.setattr("rtseg.cli.app._print_version", closed)
    assert main(["--version"]) == 0
    monkeypatch.setattr("rtseg.cli.app._print_version", lambda: sys.exit(3))
    assert main(["--version"]) == 3


@posix
@pytest.mark.parametrize("output", ["-o", "--json", "--metrics"])
def test_a_closed_stdout_is_an_error_before_the_run(output: str) -> None:
    done = shell('"$@" >&-', CLIP, *STUB, output, "-", "--figure", "f.png")
    assert done.returncode == 1
    assert done.stderr == "rtseg: error: cannot write stdout: it is closed\n"
    assert not Path("f.png").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="in /proc nobody can create a file")
@pytest.mark.parametrize(
    "arguments",
    [
        (CLIP, *STUB, "--metrics", "/proc/m.json", "--figure", "f.png"),
        (CLIP, *STUB, "--json", "/proc/m.jsonl", "--figure", "f.png"),
        ("bench", "-m", "stub", "-o", "/proc/b.json"),
        ("eval", "--clip", CLIP, "-m", "stub", "--json", "/proc/e.json"),
    ],
    ids=str,
)
def test_a_folder_that_cannot_be_written_is_found_before_the_run(
    arguments: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(arguments)) == 1
    said = capsys.readouterr()
    assert "cannot write /proc/" in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not Path("f.png").exists()


@posix
def test_what_is_only_printed_needs_a_stdout() -> None:
    assert shell('"$@" >&-', "models").returncode == 1


@posix
@pytest.mark.parametrize("columns", ["0", "1"])
def test_help_ends_in_a_narrow_terminal(columns: str) -> None:
    done = shell('ulimit -v 8000000; "$@"', "--help", COLUMNS=columns)
    assert done.returncode == 0, done.stderr
    assert "--camera" in done.stdout


@pytest.mark.parametrize(
    ("said", "becomes"), [("0", LEAST_COLUMNS), ("2", LEAST_COLUMNS), ("100", 100), ("x", None)]
)
def test_columns(said: str, becomes: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_terminal(number: int = 1) -> os.terminal_size:
        raise OSError

    monkeypatch.setattr(os, "get_terminal_size", no_terminal)
    monkeypatch.setenv("COLUMNS", said)
    widen_terminal()
    assert os.environ["COLUMNS"] == (said if becomes is None else str(becomes))


@posix
@pytest.mark.parametrize("variable", ["NUMBA_NUM_THREADS=0", "NUMBA_DISABLE_JIT=1"])
def test_numba_that_cannot_start_is_no_internal_error(variable: str) -> None:
    name, _, value = variable.partition("=")
    done = shell('"$@"', CLIP, *STUB, "-o", "out.mkv", **{name: value})
    assert done.returncode == 2
    assert "NUMBA_" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENCV_IO_MAX_IMAGE_PIXELS", "nan"),
        ("OPENCV_IO_MAX_IMAGE_WIDTH", ""),
        ("OPENCV_FOR_THREADS_NUM", "-1"),
        ("OPENCV_VIDEOIO_PRIORITY_FFMPEG", "x"),
        ("OPENCV_DUMP_CONFIG", "nan"),
        ("SOURCE_DATE_EPOCH", "x"),
    ],
)
def test_variables_at_which_libraries_fail_are_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["models"]) == 2
    assert f"{name}={value}" in capsys.readouterr().err
    monkeypatch.setenv(name, "1")
    assert main(["models"]) == 0


@posix
@pytest.mark.parametrize("command", ['"$@"', 'mkdir gone; cd gone; rmdir ../gone; "$@"'])
def test_surroundings_that_end_the_program_do_so_in_one_line(command: str) -> None:
    variables = {} if "gone" in command else {"NUMBA_NUM_THREADS": "nan"}
    done = shell(command, CLIP, *STUB, "-o", "out.mkv", **variables)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert ("folder" if "gone" in command else "NUMBA_NUM_THREADS") in done.stderr


def test_log_settings_that_torch_does_not_know_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def import_torch(*_: object) -> int:
        from torch._logging._internal import _parse_log_settings

        _parse_log_settings("nonsense")
        return 0

    monkeypatch.setattr("rtseg.cli.app._dispatch", import_torch)
    assert main(["models"]) == 2
    assert capsys.readouterr().err == (
        "rtseg: error: TORCH_LOGS: PyTorch does not know its value. Unset it\n"
    )


def test_a_system_that_starts_no_more_threads_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert main([CLIP, *STUB, "-o", str(tmp_path / "a.mp4")]) == 1
    said = capsys.readouterr().err
    assert "starts no more threads" in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())
    threads._stop_all()  # as at the end of the process


@pytest.mark.parametrize(
    "arguments",
    [
        ("models",),
        (CLIP, *STUB, "-o", "out.mkv", "--screenshots", "~nobody-here/x"),
        (CLIP, *STUB, "-o", "out.mkv", "--palette", "~nobody-here/x"),
        (CLIP, "-m", "~nobody-here/x.pth", "-o", "out.mkv"),
        ("train", "--dataset", "~nobody-here/set"),
        ("eval", "--data", "~nobody-here/set", "-m", "stub"),
    ],
    ids=str,
)
def test_homes_of_nobody(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if arguments == ("models",):
        monkeypatch.setenv("RTSEG_CACHE", "~nobody-here/x")
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert "no such user" in said
    assert said.count("\n") == 1


NAMES = ["-5.mp4", "12:30.mp4", "concat:a.mp4", "subfile:a.mkv", "file:a.mp4", "pipe:1.mp4"]


@posix
@pytest.mark.parametrize("name", NAMES)
def test_files_of_any_name(name: str, tmp_path: Path) -> None:
    """As sources, named both ways, and as outputs."""
    write(f"./{name}", map(rendered, range(5)), info())
    for number, source in enumerate([(name,), ("-i", name)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        os.chdir(folder)
        shutil.copy(tmp_path / name, name)
        other = name.replace(".", "-out.")
        assert main([*source, *STUB, "-o", other, "--json", f"{other}.jsonl"]) == 0
        assert len(Path(f"./{other}.jsonl").read_text().splitlines()) == 5
        assert sorted(os.listdir()) == sorted([name, other, f"{other}.jsonl"])  # noqa: PTH208
        with open_source(f"./{other}") as written:
            assert sum(1 for _ in written) == 5


def test_a_video_that_is_removed_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "in.mkv"
    write(str(path), map(rendered, range(30)), info())
    with open_source(str(path)) as source:
        frames = iter(source)
        next(frames)
        path.unlink()
        assert sum(1 for _ in frames) == 29
        assert source.warnings == []


def test_pictures_that_are_removed_while_they_are_read(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(f"{tmp_path}/{number}.png", np.zeros((48, 64, 3), np.uint8))
    with open_source(str(tmp_path)) as source:
        frames = iter(source)
        for path in tmp_path.glob("*.png"):
            path.unlink()
        next(frames)  # it was read to open the source
        with pytest.raises(SourceError):
            next(frames)


def test_of_several_outputs_that_fail_each_is_reported_with_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, moved, count = tmp_path / "out", tmp_path / "moved", itertools.count()
    folder.mkdir()
    whole = JsonLinesSink.write

    def write(sink: JsonLinesSink, rendered: Rendered) -> None:
        whole(sink, rendered)
        if next(count) == 3:
            folder.rename(moved)

    monkeypatch.setattr(JsonLinesSink, "write", write)
    outputs = ["-o", f"{folder}/a.mp4", "-o", f"{folder}/b.mkv", "--json", f"{folder}/c.jsonl"]
    stub = ["-m", "stub", "-b", "stub", "--no-show", "--hud"]
    assert main(["test://?size=64x64&frames=30", *outputs, *stub]) == 1
    said = capsys.readouterr().err
    left = sorted(moved.iterdir(), key=lambda path: path.suffix)
    assert [path.suffix for path in left] == [".jsonl", ".mkv", ".mp4"]
    for path in left:
        assert str(path) in said
    assert "wrote" not in said
    assert said.count("rtseg: error: ") == 3
