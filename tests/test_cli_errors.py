"""Bad input: one clear line, the documented exit code, no traceback, nothing half made."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rtseg.cli.app import main

STUB = ("-m", "stub", "-b", "stub")
CLIP = ("test://?size=160x120&frames=5", *STUB)
NULL = ("-o", "null:")


def rtseg(
    *arguments: str, folder: Path, timeout: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The real program, without a display, in `folder`."""
    env = {name: value for name, value in os.environ.items() if "DISPLAY" not in name}
    command = [sys.executable, "-m", "rtseg", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env={**env, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )


CASES: list[tuple[tuple[str, ...], int, str]] = [
    # what the command line got wrong
    ((), 2, "no source given"),
    (("--nonsense",), 2, "Unknown option"),
    (("bnech",), 2, "Did you mean rtseg bench?"),
    (("bnech", *NULL), 2, "Did you mean rtseg bench?"),
    (("evaluate", "--data", "x"), 2, "Did you mean rtseg eval?"),
    (("help",), 2, "Did you mean rtseg --help?"),
    (("list",), 2, "Did you mean rtseg models?"),
    (("devices",), 2, "Did you mean rtseg doctor?"),
    (("a.mp4", "b.mp4", *NULL), 3, "cannot open a.mp4"),
    (("a.mp4", "-o"), 2, "requires an argument"),
    (("a.mp4", "--rotate", "45"), 2, "--rotate"),
    (("a.mp4", "--view", "sepia"), 2, "--view"),
    (("a.mp4", "--backend", "nonsense"), 2, "--backend"),
    (("a.mp4", "--precision", "fp4"), 2, "--precision"),
    (("a.mp4", "--policy", "some"), 2, "--policy"),
    (("a.mp4", "--width", "wide"), 2, "--width"),
    (("a.mp4", "--every", "0", *NULL), 2, "every"),
    (("a.mp4", "--loop", "2", *NULL), 2, "cannot loop camera 2: only files"),
    (("a.mp4", "--every", "1.5", *NULL), 2, "'1.5' is not valid. Use a whole number"),
    (("a.mp4", "--decoder", "gpu", *NULL), 2, "it must be ffmpeg, opencv, nvdec or nvdec:N"),
    (("a.mp4", "--max-frames", "2.7", *NULL), 2, "'2.7' is not valid. Use a whole number"),
    (("a.mp4", "--start", "soon", *NULL), 2, "--start 'soon'"),
    (("a.mp4", "--start", "5", "--end", "3", *NULL), 2, "end"),
    (("a.mp4", "--imgsz", "0x9", *NULL), 2, "--imgsz '0x9'"),
    (("a.mp4", "--mean", "1,2", *NULL), 2, "--mean '1,2'"),
    (("a.mp4", "--alpha", "1.5", *NULL), 2, "alpha"),
    (("a.mp4", "--threads", "0", *NULL), 2, "--threads"),
    (("a.mp4", "--half", "--precision", "fp32", *NULL), 2, "--half"),
    (("a.mp4", "--palette", "nonsense", *NULL), 2, "nonsense"),
    (("a.mp4", "--config", "missing.toml"), 2, "missing.toml"),
    (("a.mp4", "-o", "out.xyz"), 2, "out.xyz"),
    (("a.mp4", "-o", "there.mp4"), 2, "there.mp4 exists"),
    (("a.mp4", "--json", "there.mp4"), 2, "there.mp4 exists"),
    (("a.mp4", "--metrics", "there.mp4"), 2, "there.mp4 exists"),
    (("a.mp4", "-o", "no/such/out.mp4"), 2, "no folder"),
    (("a.mp4", "-o", "x.mp4", "-o", "x.mp4"), 2, "twice"),
    (("a.mp4", "-o", "x.mp4", "-o", "nothing/../x.mp4"), 2, "twice"),
    (("a.mp4", "-o", "x/", "--mask-output", "x/"), 2, "twice"),
    (("a.mp4", "--classes", ",", *NULL), 2, "is empty"),
    (("a.mp4", "-o", "-", "--json", "-"), 2, "twice"),
    (("a.mp4", "--json", "x.jsonl", "--metrics", "x.jsonl"), 2, "twice"),
    (("a.mp4", "-o", "x/", "--mask-output", "x/%06d.png"), 2, "replace one another"),
    (("a.mp4", "-o", "x/%03d.png", "--mask-output", "x/%06d.png"), 2, "replace one another"),
    (("a.mp4", "-o", "x/", "--metrics", "x"), 2, "twice"),
    (("there.mp4", "--metrics", "there.mp4", "-y"), 2, "source itself"),
    (("there.mp4", "-m", "text.onnx", "--metrics", "text.onnx", "-y"), 2, "read by --model"),
    (("a.mp4", "--metrics", "no/such/m.json"), 2, "no folder"),
    (("a.mp4", "-o", "x.mp4", "--codec", "vp9"), 2, "'vp9' for .mp4"),
    (("a.mp4", "-o", "x.mp4", "--crf", "99"), 2, "--crf 99"),
    (("there.mp4", "-o", "there.mp4", "-y"), 2, "source itself"),
    (("there.mp4", "-o", "x" * 300 + ".mp4"), 2, "too long"),
    (("gopher://host/x", *NULL), 2, "gopher"),
    (("test://?nonsense=1", *NULL), 2, "nonsense"),
    (("-", *NULL), 2, "size"),
    (("models", "show", "nonsense"), 2, "unknown model 'nonsense'"),
    (("test://", "-m", "no/run/", *NULL), 2, "no/run/: there is no such file or folder"),
    (("models", "download"), 2, "--all"),
    (("models", "nonsense"), 2, "nonsense"),
    (("demo", "--seconds", "0", "--no-show"), 2, "--seconds"),
    # no display
    (("there.mp4",), 1, "--no-show"),
    (("there.mp4", "text.mp4"), 1, "--no-show"),
    (("there.mp4", "--show", "-o", "x.mp4"), 1, "-o"),
    (("test://",), 1, "--no-show"),
    (("*.png",), 1, "--no-show"),
    (("a.mp4",), 3, "cannot open a.mp4: there is no such file"),
    (("there.mp4", "a.mp4"), 3, "cannot open a.mp4: there is no such file"),
    # what the source got wrong
    (("a.mp4", *NULL), 3, "a.mp4"),
    (("empty.mp4", *NULL), 3, "empty.mp4"),
    (("text.mp4", *NULL), 3, "text.mp4"),
    (("text.png", *NULL), 3, "text.png"),
    (("x" * 300 + ".png", *NULL), 2, "too many for the name of a file"),
    (("text.mp4/x.mp4", *NULL), 3, "not a directory"),
    (("nothing/", *NULL), 3, "nothing"),
    (("*.jpg", *NULL), 3, "*.jpg"),
    (("--camera", "97", *NULL), 3, "97"),
    (("/dev/video97", *NULL), 3, "video97"),
    # what the network got wrong
    (("test://", "-m", "nonsense", *NULL), 2, "nonsense"),
    (("test://", "-m", "text.onnx", *NULL), 2, "text.onnx"),
    (("test://", "-m", "missing.onnx", *NULL), 2, "missing.onnx"),
    ((*CLIP, "--classes", "unicorn", *NULL), 2, "unknown class 'unicorn'"),
    ((*CLIP, "--mask-output", "-"), 2, "masks cannot go to stdout"),
    ((*CLIP, "--palette", "short.txt", *NULL), 2, "short.txt"),
    # devices
    (("a.mp4", "-d", "abacus", *NULL), 2, "abacus"),
    ((*CLIP, "-d", "cuda", "--strict-device", *NULL), 4, "cuda"),
    # what failed on the way
    (("test://?size=160x120&frames=9&fail=3", *STUB, *NULL), 3, "frame 3"),
]


SAMPLE = ("Unknown option", "--no-show", "empty.mp4", "cuda", "frame 3")
"""A case of each exit code, by its words, that the real program gets too."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bad")
    for name in ("there.mp4", "empty.mp4"):
        (path / name).write_bytes(b"")
    for name in ("text.mp4", "text.png", "text.onnx"):
        (path / name).write_text("this is a text, not what its name says\n" * 50)
    (path / "short.txt").write_text("0 0 0\n255 0 0\n")
    (path / "nothing").mkdir()
    return path


@pytest.fixture
def bare(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in `folder`, without a display."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    return folder


def is_one_line(err: str, words: str) -> bool:
    """Whether the last line is the error, and nothing of a traceback stands above it."""
    last = err.strip().splitlines()[-1]
    return last.startswith("rtseg: error: ") and words in last and "Traceback" not in err


@pytest.mark.parametrize(("arguments", "code", "words"), CASES, ids=lambda value: str(value)[:50])
def test_bad_input(
    bare: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    before = sorted(bare.rglob("*"))
    found = main(list(arguments))
    said = capfd.readouterr()
    assert found == code, said.err
    assert is_one_line(said.err, words), said.err
    assert said.out == ""
    assert sorted(bare.rglob("*")) == before, "something was left behind"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param(
            *next(case for case in CASES if case[2] == words),
            marks=() if words in ("Unknown option", "empty.mp4") else pytest.mark.slow,
        )
        for words in SAMPLE
    ],
    ids=SAMPLE,
)
def test_bad_input_in_the_real_program(
    folder: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = rtseg(*arguments, folder=folder)
    assert done.returncode == code, done.stderr
    assert is_one_line(done.stderr, words), done.stderr
    assert done.stdout == ""


def test_a_missing_source_is_found_before_a_network_is_loaded(
    bare: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["missing.mp4", "-m", "missing.onnx", *NULL]) == 3
    assert "missing.mp4" in capfd.readouterr().err


def test_no_display_is_found_before_a_source_is_opened(
    bare: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["text.mp4"]) == 1
    assert "text.mp4" not in capfd.readouterr().err


def test_a_source_that_is_not_there_is_told_before_a_missing_display(
    bare: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["missing.mp4"]) == 3
    said = capfd.readouterr().err
    assert is_one_line(said, "cannot open missing.mp4: there is no such file")


@pytest.mark.parametrize("verb", [("missing.mp4", *NULL), ("batch", "missing", "-o", "out")])
@pytest.mark.parametrize("in_file", [False, True])
def test_debug_shows_where(
    in_file: bool,
    verb: tuple[str, ...],
    bare: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "c.toml").write_text("debug = true\n")
    flags = ["--config", str(tmp_path / "c.toml")] if in_file else ["--debug"]
    assert main([*verb, *flags]) == 3
    said = capfd.readouterr().err
    assert "Traceback" in said
    assert said.strip().splitlines()[-1].startswith("rtseg: error: ")


def test_an_unexpected_error_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rtseg.cli import app

    def surprise(arguments: object, stop: object) -> int:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(app, "_dispatch", surprise)
    assert app.main(["x"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "internal error: ZeroDivisionError: two lines" in err
    assert "--debug" in err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ImportError("libGL.so.1: cannot open shared object file"), "install libgl1 libglib2.0-0"),
        (OSError("libcudnn.so.9: cannot open shared object file"), "rtseg doctor shows"),
        (ModuleNotFoundError("No module named 'av'"), "Install rtseg again"),
    ],
)
def test_a_library_that_does_not_load_is_no_error_of_ours(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    words: str,
) -> None:
    from rtseg.cli import app

    def bare(arguments: object, stop: object) -> int:
        raise error

    monkeypatch.setattr(app, "_dispatch", bare)
    assert app.main(["x"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"rtseg: error: cannot load a library: {error}. ")
    assert words in err


def test_an_error_of_a_package_without_a_number_is_not_of_the_system(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import UnidentifiedImageError

    from rtseg.cli import app

    def unknown(arguments: object, stop: object) -> int:
        raise UnidentifiedImageError("cannot identify image file")

    monkeypatch.setattr(app, "_dispatch", unknown)
    assert app.main(["x"]) == 1
    said = "internal error: UnidentifiedImageError: cannot identify image file"
    assert said in capsys.readouterr().err


def test_what_failed_first_is_said_and_counts_when_closing_fails_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rtseg.cli import app
    from rtseg.errors import SinkError, SourceError

    def lost_and_full(arguments: object, stop: object) -> int:
        try:
            raise SourceError("camera 0 was lost")
        finally:
            raise SinkError("cannot write out.mp4")

    monkeypatch.setattr(app, "_dispatch", lost_and_full)
    assert app.main(["x"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["rtseg: error: camera 0 was lost", "rtseg: error: cannot write out.mp4"]


def test_an_unwritable_folder_is_exit_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if os.geteuid() == 0:
        target = "/proc/out.mp4"  # root may write anywhere but there
    else:
        (tmp_path / "locked").mkdir(mode=0o500)
        target = "locked/out.mp4"
    assert main([*CLIP, "-o", target]) == 1
    said = capfd.readouterr().err
    assert "cannot write" in said
    assert "Traceback" not in said


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is of Linux")
def test_a_full_disk_is_exit_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rtseg", *CLIP, "-o", "-"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell closes them")
@pytest.mark.parametrize(
    "closed",
    [
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("<&-", ">&-", "2>&-")),
        "<&- >&- 2>&-",
        "2>/dev/full",
    ],
)
def test_work_goes_on_without_standard_streams(closed: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rtseg", *CLIP, "-o", "out.mkv", "--json", "out.jsonl"]
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(command)} {closed}"], cwd=tmp_path, check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "out.mkv").read_bytes().startswith(b"\x1aE\xdf\xa3")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.mkv"]


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is of Linux")
@pytest.mark.parametrize("arguments", [("models",), ("--help",), ("a.mp4", "--print-config")])
def test_a_list_that_cannot_be_printed_is_exit_1(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "rtseg", *arguments]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert is_one_line(done.stderr, "cannot write stdout: No space left"), done.stderr
    assert done.stderr.count("\n") == 1
