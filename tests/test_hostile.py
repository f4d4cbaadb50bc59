"""Whatever a document says: a value or one clear error, in little time and memory."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rtseg.documents import parse_json, read_json, read_toml, shown
from rtseg.errors import ModelError, UsageError
from rtseg.zoo import MODELS, ModelSpec

HERE = Path(__file__).parent


def run(count: int, seed: int, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "hostile.py"), str(count), str(seed), *more]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_hundreds_of_random_documents_are_read_or_refused() -> None:
    done = run(250, 1)
    assert (done.returncode, done.stdout) == (0, "250\n"), done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [2, 3])
def test_thousands_of_random_documents_are_read_or_refused(seed: int) -> None:
    done = run(2500, seed)
    assert (done.returncode, done.stdout) == (0, "2500\n"), done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reader", "words"),
    [
        ("lambda path: bytearray(300_000_000)", "MemoryError"),
        ("lambda path: [None for _ in iter(int, 1)]", "more than 5 seconds|MemoryError"),
        ("lambda path: {}['x']", "KeyError"),
    ],
)
def test_the_limits_hold(tmp_path: Path, reader: str, words: str) -> None:
    """So that the tests above can fail."""
    code = f"""
import signal, hostile
from pathlib import Path
signal.signal(signal.SIGPROF, hostile.too_long)
hostile.check(hostile.Kind("", None, Path({str(tmp_path / "x")!r}), {reader}), b"x")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert any(word in done.stderr for word in words.split("|")), done.stderr[-2000:]


SPEC = json.loads(MODELS["lraspp_mobilenet_v3_large"].to_json())
SIZES = [[0, 5], [-1, 5], [10**9, 10**9], [8193, 8193], [1.5, 2], [5], [5, 5, 5], "5x5", None, 5]
FACTORS = [0, -1, math.nan, math.inf, -math.inf, 10**400, "1", None, True, []]
NAMES = [
    [], ["a"], ["a"] * 21, ["a", "", "b"], [*map(str, range(256))], "abc", [1, 2], {},
    [*map(str, range(20)), ""], [*map(str, range(20)), "  "], [*map(str, range(20)), "0"],
    [*map(str, range(20)), "a\0"], [*map(str, range(20)), "\x1b[2J"],
    [*map(str, range(20)), "x" * 201], [*map(str, range(20)), "\ud800"],
]  # fmt: skip
BAD = [
    *(("input.size", value) for value in SIZES),
    *(("input.scale", value) for value in FACTORS),
    *(("input.std", [1, value, 1]) for value in FACTORS),
    *(("input.mean", [0, value, 0]) for value in [math.nan, math.inf, "1", None, 10**400]),
    *(("labels.names", value) for value in NAMES),
    *(("labels.colours", value) for value in ([], [[0, 0, 0]], [[0, 0, 256]] * 21, "red")),
    *(("labels.background", value) for value in (21, -1, "x", True, 0.5, [])),
    *(("name", value) for value in ("", " ", 5, None, "a" * 201, "a\nb", "\x1b[31m", "a\0")),
    ("architecture", ""),
    ("architecture", None),
    ("input.layout", "HWC"),
    ("input.dtype", "float64"),
    ("input.colour", "rgb"),
    ("input.fixed", "yes"),
    ("input.fixed", 1),
    ("input", []),
    ("input.sise", [5, 5]),
    ("labels", None),
    ("output", "argmax"),
    ("output_name", 3),
    ("output_layout", "HWC"),
    ("align_corners", "no"),
    ("miou", math.nan),
    ("miou", -1),
    ("parameters", "3"),
    ("weights", {"url": 3}),
    ("weights.sha", "x"),
    ("unknown", 1),
]


@pytest.mark.parametrize(("place", "value"), BAD)
def test_a_wrong_value_in_a_spec_is_named_with_its_file(place: str, value: Any) -> None:
    spec = json.loads(json.dumps(SPEC))
    *above, last = place.split(".")
    holder = spec
    for name in above:
        holder = holder[name]
    holder[last] = value
    with pytest.raises(ModelError, match=r"net\.onnx") as caught:
        ModelSpec.from_json(json.dumps(spec), "net.onnx")
    text = str(caught.value)
    assert len(text) < 500
    text.encode()
    if "half a character" not in text:
        words = [word.rstrip("s") for word in (*place.split("."), *("class" for _ in above))]
        assert any(word in text for word in words), text


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """json alone takes the last one."""
    path = tmp_path / "a.json"
    path.write_text('{"a": 1, "b": {"c": 1, "c": 2}}')
    with pytest.raises(UsageError, match="'c' occurs twice"):
        read_json(path, dict)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 1500 + "]" * 1500])
def test_nests_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="nested too deeply"):
        parse_json(text, dict, "it")
    path = tmp_path / "a.toml"
    path.write_text("a = " + text.replace(":", "="))
    with pytest.raises(UsageError, match=r"nested too deeply|not TOML|longer than"):
        read_toml(path)


@pytest.mark.parametrize("text", ["a" + ".a" * 3000 + " = 1", "[" + "'a' . " * 3000 + "a]"])
def test_a_key_of_thousands_of_parts_is_refused_at_once(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match="nested too deeply"):
        read_toml(path)


@pytest.mark.parametrize(
    "text", ['o = "a\\u0000b"', "[[s]]\nx = ['', \"\\U00000000\"]", '"a\\u0000" = 1']
)
def test_toml_with_nul_in_a_text_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match="a text holds NUL"):
        read_toml(path)
    path.write_text(text.replace("\\", "\\\\"))
    assert read_toml(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"ä": 1}', encoding)
    assert read_json(path, dict) == {"ä": 1}
    path.write_text("name = 'ä'", encoding)
    assert read_toml(path) == {"name": "ä"}


def test_other_encodings_and_endless_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes('{"ä": 1}'.encode("latin-1"))
    with pytest.raises(UsageError, match="not UTF-8"):
        read_json(path, dict)
    with pytest.raises(UsageError, match="longer than"):
        read_json(Path("/dev/zero"), dict)
    with pytest.raises(UsageError, match="longer than"):
        read_toml(Path("/dev/zero"))


def test_a_value_is_shown_short_and_printable() -> None:
    assert shown("a\x1b[2J\ud800") == r"'a\x1b[2J\ud800'"
    for value in ("x" * 10**6, [[[[1]]]] * 1000, 10**5000, {"a": "b" * 1000}):
        assert len(shown(value)) < 200
