"""The command line's grammar: verbs, names of flags, configuration files, help."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rtseg.backends.options import BACKENDS, PRECISIONS
from rtseg.cli.app import main
from rtseg.cli.flags import flags_of
from rtseg.cli.options import LAYOUTS, RUN
from rtseg.cli.reference import reference
from rtseg.effects import VIEWS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Capture = pytest.CaptureFixture[str]


def config_of(capsys: Capture, *arguments: str) -> dict[str, Any]:
    """The flags as the program understood them."""
    assert main([*arguments, "--print-config"]) == 0
    return tomllib.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments",
    [
        ("clip.mp4",),
        ("run", "clip.mp4"),
        ("-i", "clip.mp4"),
        ("--input", "clip.mp4"),
        ("--source", "clip.mp4"),
        ("run", "--source=clip.mp4"),
    ],
)
def test_every_way_to_name_a_source(capsys: Capture, arguments: tuple[str, ...]) -> None:
    assert config_of(capsys, *arguments)["input"] == "clip.mp4"


@pytest.mark.parametrize("verb", ["run", "models", "cameras", "doctor", "demo"])
def test_a_file_called_like_a_verb_is_given_with_i(capsys: Capture, verb: str) -> None:
    assert config_of(capsys, "-i", verb)["input"] == verb


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (("--camera", "0"), "camera", "0"),
        (("--half",), "half", True),
        (("--precision", "bf16"), "precision", "bf16"),
        (("--opacity", "0.7"), "alpha", 0.7),
        (("--alpha", "0.7"), "alpha", 0.7),
        (("--headless",), "show", False),
        (("--no-show",), "show", False),
        (("--show",), "show", True),
        (("--no-hud",), "hud", False),
        (("--hud",), "hud", True),
        (("--no-reconnect",), "reconnect", False),
        (("-y",), "overwrite", True),
        (("--color", "BGR"), "colour", "BGR"),
        (("-o", "a.mp4", "-o", "b/"), "output", ["a.mp4", "b/"]),
        (("-o", "-"), "output", ["-"]),
        (("--json", "-"), "json", "-"),
        (("--classes", "a,b", "--classes", "c"), "classes", ["a", "b", "c"]),
        (("-m", "net.onnx"), "model", "net.onnx"),
        (("-b", "onnx", "-d", "cuda:1"), "device", "cuda:1"),
        (("--rotate", "270"), "rotate", 270),
        (("--start", "1:02.5"), "start", 62.5),
        (("--imgsz", "384x640"), "imgsz", [384, 640]),
        (("--mean", "0.5"), "mean", [0.5, 0.5, 0.5]),
        (("--strict-device",), "strict-device", True),
        (("-v",), "verbose", True),
    ],
)
def test_flags_and_their_aliases(
    capsys: Capture, arguments: tuple[str, ...], name: str, value: Any
) -> None:
    assert config_of(capsys, *arguments)[name] == value


EVERYTHING = """
clip.mp4 --camera 0 --half --width 640 --height 480 --fps 29.97 --fourcc MJPG --size 64x48
--pix-fmt rgb24 --mirror --rotate 90 --loop --start 1:02.5 --end 70 --max-frames 9 --every 2
--no-reconnect --fps-cap 12.5 --no-idle --stream 1 --deinterlace off
--timeout 3 -m some.onnx --weights random -b onnx -d cpu --precision fp32 --imgsz 384x640
--threads 2
--strict-device --labels a,b --layout NHWC --colour BGR --mean 0.5 --std 1,2,3 --scale 1/255
--activation probabilities --no-align-corners --view side --background blur:9 --feather 3
--matte-threshold 0.4
--alpha 0.25 --classes a --classes b,c --palette ade20k
--legend --hud -o out.mp4 -o pics/ --mask-output m.mkv --json o.jsonl --rle --figure f.png --show
--web :9000 --codec h264 --crf 20 --audio none -y --policy newest --metrics m.json -v
--target-fps 20 --smooth 0.3 --propagate --key-every 9 --tta --window 320x480 --overlap 0.3
""".split()


@pytest.mark.parametrize("arguments", [["x.mp4"], EVERYTHING], ids=["defaults", "everything"])
def test_a_printed_configuration_repeats_the_run(
    capsys: Capture, tmp_path: Path, arguments: list[str]
) -> None:
    assert main([*arguments, "--print-config"]) == 0
    first = capsys.readouterr().out
    file = tmp_path / "rtseg.toml"
    file.write_text(first, "utf-8")
    assert main(["--config", str(file), "--print-config"]) == 0
    assert capsys.readouterr().out == first
    if arguments is EVERYTHING:
        assert "=\n" not in first, "a flag is missing from EVERYTHING, or from the file"


def test_the_command_line_wins_over_the_file(capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "rtseg.toml"
    file.write_text('input = "a.mp4"\nalpha = 0.9\noutput = ["x.mp4"]\nmax_frames = 3\n')
    found = config_of(capsys, f"--config={file}", "b.mp4", "-o", "y.mp4")
    assert (found["input"], found["alpha"], found["output"]) == ("b.mp4", 0.9, ["y.mp4"])
    assert found["max-frames"] == 3, "underscores are as good as dashes"
    file.write_text('camera = "0"\nhalf = true\nverbose = true\nno-smooth = true\n')
    given = ["a.mp4", "--precision", "fp32", "-q", "--smooth", "0.5"]
    found = config_of(capsys, f"--config={file}", *given)
    assert (found["input"], found["precision"], found["smooth"]) == ("a.mp4", "fp32", 0.5)
    assert found["quiet"]
    assert not any(found.get(name) for name in ("half", "no-smooth", "verbose", "camera"))
    found = config_of(capsys, f"--config={file}")
    assert found["half"]
    assert found["no-smooth"]
    assert found["camera"] == "0"


def test_a_file_may_hold_values_as_they_are_typed(capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "rtseg.toml"
    file.write_text(
        'imgsz = "384x640"\nsize = "64x48"\nstart = "1:02.5"\nscale = "1/255"\nmean = "0.5"\n'
        'classes = ["a,b", "c"]\noutput = "x.mp4"\ntimeout = 3\nopacity = 0.5\n'
    )
    found = config_of(capsys, "--config", str(file))
    assert (found["imgsz"], found["size"], found["start"]) == ([384, 640], [64, 48], 62.5)
    assert (found["scale"], found["mean"]) == (1 / 255, [0.5, 0.5, 0.5])
    assert (found["classes"], found["output"]) == (["a", "b", "c"], ["x.mp4"])
    assert (found["timeout"], found["alpha"]) == (3.0, 0.5)
    file.write_text("imgsz = 384\nmean = 0.5\nscale = 2\nstart = 3\n")
    found = config_of(capsys, "--config", str(file))
    assert (found["imgsz"], found["mean"]) == ([384, 384], [0.5, 0.5, 0.5])
    assert (found["scale"], found["start"]) == (2.0, 3.0)
    for wrong in ("imgsz = true", "imgsz = 0", "mean = [1, 2]", "size = 64"):
        file.write_text(wrong + "\n")
        assert main(["--config", str(file), "x.mp4", "--print-config"]) == 2


def test_standard_input_may_stand_among_other_sources(capsys: Capture) -> None:
    assert config_of(capsys, "a.mp4", "-", "b.mp4", "-o", "-")["input"] == ["a.mp4", "-", "b.mp4"]
    assert config_of(capsys, "-", "--size", "8x8")["input"] == "-"
    assert config_of(capsys, "-i", "-", "-o", "-")["output"] == ["-"]
    assert main(["demo", "-"]) == 2
    assert "unexpected argument: (standard input)" in capsys.readouterr().err


def test_awkward_names_survive_the_file(capsys: Capture, tmp_path: Path) -> None:
    name = 'we"ird\\ nämé\x7f\t😀.mp4'
    assert main(["-i", name, "--print-config"]) == 0
    file = tmp_path / "c.toml"
    file.write_text(capsys.readouterr().out, "utf-8")
    assert config_of(capsys, "--config", str(file))["input"] == name


def test_masked_addresses_are_said_to_be(capsys: Capture) -> None:
    assert main(["rtsp://me:geheim@host/x?token=abcdef123456", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert "geheim" not in printed
    assert "write them in full" in printed.splitlines()[1]
    assert 'input = "rtsp://host (' in printed
    assert main(["clip.mp4", "--print-config"]) == 0
    assert "in full" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("alpha = = 1", "is not TOML"),
        ("[view]\nalpha = 1", "table [view]"),
        ("nonsense = 1", "nonsense"),
        ('alpha = "red"', "alpha"),
    ],
)
def test_a_bad_file_is_a_usage_error(
    capsys: Capture, tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    assert main(["--config", str(file), "x.mp4", "--print-config"]) == 2
    assert words in capsys.readouterr().err


def test_choices_are_those_of_the_tables() -> None:
    choices = {one.name: one.field.metadata.get("choices") for one in flags_of(RUN)}
    assert choices["view"] is VIEWS
    assert choices["precision"] is PRECISIONS
    assert tuple(choices["backend"]) == ("auto", *BACKENDS)


@pytest.mark.parametrize("verb", LAYOUTS)
def test_a_default_of_several_values_is_shown_as_it_is_typed(verb: str) -> None:
    for one in flags_of(LAYOUTS[verb]):
        if isinstance(one.field.default, tuple) and one.field.default:
            assert one.shown_default is not None, one.names
            assert one.parse([one.shown_default]) == one.field.default


def test_help_is_grouped_and_complete() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rtseg", "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "100", "TERM": "dumb"},
    )
    assert done.stderr == ""
    groups = ["Source", "Model", "View", "Output", "Run"]
    places = [done.stdout.index(f"─ {group} ─") for group in groups]
    assert places == sorted(places)
    names = [word for word in EVERYTHING if word.startswith("--")]
    for name in [*names, "--no-show", "--headless", "--opacity", "--config"]:
        assert name in done.stdout, name


def test_help_without_a_verb_lists_the_verbs_on_one_screen(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for verb in (*LAYOUTS, "models", "--install-completion"):
        assert f"│ {verb} " in said
    assert "rtseg run --help" in said
    assert "--camera 0 " in said
    assert "--fourcc" not in said
    assert "Keys in the window" not in said


@pytest.mark.parametrize(
    ("verb", "window"),
    [("run", True), ("demo", True)]
    + [(verb, False) for verb in ("bench", "eval", "train", "export", "models", "cameras")],
)
def test_only_verbs_with_a_window_tell_of_its_keys(
    verb: str, window: bool, capsys: Capture
) -> None:
    assert main([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert ("Keys in the window" in said) is window
    assert ("--models" in said) is (verb == "run")


@pytest.mark.parametrize("arguments", ["--help", "--version", "x --print-config"])
def test_questions_are_answered_without_heavy_imports(arguments: str) -> None:
    code = (
        "import sys; from rtseg.cli.app import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'cv2', 'onnxruntime', 'av', 'numba', 'matplotlib', 'numpy'}; "
        "print(code, sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "0 []"


@pytest.mark.parametrize("written", [True, False], ids=["docs/reference.md", "generated"])
def test_the_reference_has_every_flag_and_its_text(written: bool) -> None:
    file = Path(__file__).parents[1] / "docs" / "reference.md"
    text = file.read_text("utf-8") if written else reference()
    pages = dict(re.findall(r"^## rtseg (\w+)$(.*?)(?=^## |\Z)", text, re.M | re.S))
    assert set(pages) == {*LAYOUTS, "models"}
    for verb, layout in LAYOUTS.items():
        for one in flags_of(layout):
            found = re.search(rf"^\* `[^`]*{one.names[0]}\b[^`]*`: (.*)", pages[verb], re.M)
            assert found, f"{verb} {one.names[0]}: run python -m rtseg.cli.reference"
            assert one.help
            line = found[1].replace("\\", "")
            assert line.startswith(one.help), "run python -m rtseg.cli.reference"
