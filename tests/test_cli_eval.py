"""`rtseg eval` as a person uses it: tables, files, exit codes, what is said when it goes wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from colour_network import make_network
from dataset_folders import make_folder, make_voc, write

from rtseg.cli.app import main
from rtseg.evaluation.sets import read_suite
from rtseg.labels import SHAPE_LABELS
from rtseg.nets import find_model
from rtseg.zoo import Model

Capture = pytest.CaptureFixture[str]
TOOLS = Path(__file__).resolve().parents[1] / "tools"


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with a set, a network, and another that knows no class of the set."""
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "set", 4)
    make_network(tmp_path / "net.onnx")
    make_network(tmp_path / "cats.onnx", names=["background", "cat", "dog"])
    return tmp_path


NET = ("-m", "net.onnx")
SET = ("--data", "set")


def rows(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines() if line]


def test_one_network_on_one_set_gives_two_tables_and_json(capsys: Capture) -> None:
    assert main(["eval", *SET, *NET, "--json", "out.json"]) == 0
    said = capsys.readouterr()
    found = json.loads(Path("out.json").read_text())
    first = found["results"][0]
    assert found["complete"] is first["complete"] is True
    assert (first["set"], first["network"], first["pictures"]) == ("set", "net", 4)
    assert 0.9 < first["mean_iou"] < 1
    table = rows(said.out)
    assert table[1][:3] == ["set", "net", "4"]
    assert f"{first['mean_iou']:.3f}" in table[1]
    disc = next(row for row in table if row[0] == "disc")
    assert disc[1:] == [f"{first['classes'][1][key]:.3f}" for key in ("iou", "accuracy", "share")]
    for words in (
        "disc: dataset disc; model disc",
        "as in rtseg run",
        "CPUExecutionProvider",
        "48x64",
    ):
        assert words in said.err


def test_the_sum_of_the_json_s_matrix_gives_its_figures() -> None:
    assert main(["eval", *SET, *NET, "--json", "out.json", "-q"]) == 0
    first = json.loads(Path("out.json").read_text())["results"][0]
    counts = np.array(first["confusion"])
    assert counts.sum() == first["pixels"] == 4 * 48 * 64
    assert first["pixel_accuracy"] == pytest.approx(counts.trace() / counts.sum(), abs=1e-12)
    assert first["classes"][2]["accuracy"] == pytest.approx(counts[2, 2] / counts[2].sum())
    assert first["classes"][2]["share"] == pytest.approx(counts[2].sum() / counts.sum())


def test_json_to_stdout_is_all_that_stdout_gets(capsys: Capture) -> None:
    assert main(["eval", *SET, *NET, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["rtseg_eval"] == 1


def test_several_networks_on_several_sets_make_one_table(capsys: Capture, inside: Path) -> None:
    make_folder(inside / "other" / "set", 2, seed=5)
    make_network(inside / "small.onnx", size=(32, 32))
    arguments = ["--data", "set", "other/set", "-m", "net.onnx", "small.onnx"]
    assert main(["eval", *arguments, "--show-class", "box", "-q"]) == 0
    said = capsys.readouterr()
    table = rows(said.out)
    assert len(table) == 5
    assert table[0][3:5] == ["IoU", "box"]
    names = [tuple(row[:2]) for row in table[1:]]
    assert names == [
        ("set", "net"), ("set", "small"), ("other/set", "net"), ("other/set", "small"),
    ]  # fmt: skip
    assert [row[2] for row in table[1:]] == ["4", "4", "2", "2"]
    assert said.err == ""


def test_imgsz_is_for_the_networks_that_can_have_it(capsys: Capture, inside: Path) -> None:
    make_network(inside / "small.onnx", size=(32, 32))
    arguments = [*SET, *NET, "-m", "small.onnx", "--imgsz", "long:96", "--json", "out.json"]
    assert main(["eval", *arguments]) == 0
    any_size, one_size = json.loads(Path("out.json").read_text())["results"]
    assert any_size["inputs"] == [{"height": 64, "width": 96, "pictures": 4}]
    assert one_size["inputs"] == [{"height": 32, "width": 32, "pictures": 4}]
    assert "32x32 (HxW), the only size it takes" in capsys.readouterr().err


def test_a_suite_measures_its_networks_beside_others(capsys: Capture, inside: Path) -> None:
    suite = """
        [[set]]
        path = "set"
        name = "shapes"
        classes = ["thing=disc,box"]
        [[network]]
        name = "reference"
        model = "net.onnx"
        imgsz = "32x32"
    """
    (inside / "suite.toml").write_text(suite)
    arguments = ["--suite", "suite.toml", *NET, "--imgsz", "96", "--max-pictures", "2"]
    assert main(["eval", *arguments, "--json", "out.json"]) == 0
    reference, own = json.loads(Path("out.json").read_text())["results"]
    assert (reference["network"], own["network"]) == ("reference", "net")
    assert (reference["inputs"][0]["height"], own["inputs"][0]["height"]) == (32, 96)
    assert [row["name"] for row in own["classes"]] == ["background", "thing"]
    assert own["pictures"] == 2
    assert "IoU thing" in capsys.readouterr().out


def test_weights_are_for_the_model_beside_a_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("suite.toml").write_text('[[set]]\npath = "set"\n[[network]]\nmodel = "net.onnx"\n')
    asked = {}

    def find(model: str, *, weights: str | None, **more: object) -> Model:
        asked[Path(model).name] = weights
        return find_model("net.onnx")

    monkeypatch.setattr("rtseg.cli.eval.find_model", find)
    arguments = ["--suite", "suite.toml", "-m", "own", "--weights", "own.pth", "-q"]
    assert main(["eval", *arguments]) == 0
    assert asked == {"net.onnx": None, "own": "own.pth"}


def test_pictures_of_what_went_wrong(inside: Path, capsys: Capture) -> None:
    files = ["--confusion", "matrix.png", "--worst", "2", "--worst-to", "worst"]
    assert main(["eval", *SET, *NET, *files]) == 0
    assert cv2.imread("matrix.png") is not None
    assert len(list((inside / "worst").glob("0.*.jpg"))) == 2
    assert main(["eval", *SET, *NET, *files]) == 2, "what is there is not replaced"
    assert "Pass -y" in capsys.readouterr().err
    assert main(["eval", *SET, *NET, *files, "-y"]) == 0


@pytest.mark.parametrize("how", ["link", "dots"])
def test_worst_to_copies_no_image_from_outside_of_the_set(inside: Path, how: str) -> None:
    image = inside / "set" / "images" / "00_0000.jpg"
    secret = write(inside / "secret.jpg", np.full((48, 64, 3), (20, 200, 90), np.uint8))
    if how == "link":
        image.unlink()
        image.symlink_to(secret)
    else:
        pairs = ["../secret.jpg masks/00_0000.png", "images/00_0001.jpg masks/00_0001.png"]
        (inside / "set" / "train.txt").write_text("\n".join(pairs))
    files = ["--worst", "1", "--worst-to", "worst", "-q"]
    assert main(["eval", *SET, *NET, *files]) == 2
    assert not (inside / "worst").exists()
    assert main(["eval", *SET, *NET, *files, "--allow-outside"]) == 0
    (copied,) = (inside / "worst").iterdir()
    assert copied.stem.endswith(("_00_0000", "_secret")), "nothing matches its mask"


def test_several_matrices_get_a_name_each(inside: Path) -> None:
    make_network(inside / "b.onnx", size=(32, 32))
    assert main(["eval", *SET, "-m", "net.onnx", "b.onnx", "--confusion", "m.png", "-q"]) == 0
    assert sorted(path.name for path in inside.glob("m*.png")) == ["m-set-b.png", "m-set-net.png"]


@pytest.mark.parametrize(("least", "code"), [("0.5", 0), ("0.999", 5)])
def test_a_mean_iou_below_the_threshold_is_exit_5(capsys: Capture, least: str, code: int) -> None:
    assert main(["eval", *SET, *NET, "--min-miou", least]) == code
    said = capsys.readouterr()
    assert len(rows(said.out)) > 2, "the table is there all the same"
    assert ("below --min-miou 0.999: net on set 0.9" in said.err) == (code == 5)


BAD: list[tuple[list[str], str]] = [
    ([*NET], "nothing to measure"),
    (["--data", "nowhere", *NET], "no such file or folder"),
    (["--data", "net.toml", *NET], "net.toml"),
    ([*SET, "-m", "none.onnx"], "none.onnx"),
    ([*SET, "-m", "cats.onnx"], "no class in common"),
    ([*SET, *NET, "--split", "test"], "no split 'test'"),
    ([*SET, *NET, "--format", "nonsense"], "unknown format 'nonsense'"),
    ([*SET, *NET, "--format", "voc"], "it does not have the layout voc: JPEGImages/, "),
    ([*SET, *NET, "--format", "voc"], "It looks like folder: leave out --format"),
    ([*SET, *NET, "--names", "none.txt"], "the list none.txt: No such file or directory"),
    ([*SET, *NET, "--classes", "thing=cat"], "'cat'"),
    (
        [*SET, *NET, "--show-class", "cat"],
        "unknown class 'cat' in --show-class: classes are background, box, disc",
    ),
    ([*SET, *NET, "--min-share", "disc"], "--min-share 'disc' is not valid"),
    ([*SET, *NET, "--min-share", "disc=5"], "share from 0 to 1"),
    ([*SET, *NET, "--min-share", "cat=0.1"], "unknown class 'cat'"),
    ([*SET, *NET, "--min-share", "disc=0.9"], "no image of set is left"),
    ([*SET, *NET, "--max-pictures", "0"], "--max-pictures 0"),
    ([*SET, *NET, "--min-miou", "60"], "Did you mean 0.6?"),
    ([*SET, *NET, "--min-miou", "-1"], "--min-miou -1"),
    ([*SET, *NET, "--imgsz", "long"], "Give HxW, as 384x640, one number, auto, exact, or long:N"),
    ([*SET, *NET, "--imgsz", "long:3x4"], "--imgsz 'long:3x4'"),
    ([*SET, *NET, "--imgsz", "7"], "each side is 32 to 8192"),
    ([*SET, *NET, "--worst", "3"], "--worst and --worst-to need each other"),
    ([*SET, *NET, "--confusion", "matrix.txt"], "figures end in"),
    ([*SET, *NET, "--confusion", "nowhere/m.png"], "there is no folder nowhere"),
    ([*SET, *NET, "--json", "net.toml"], "net.toml exists"),
    ([*SET, *NET, "-m", "cats.onnx", "--layout", "NCHW"], "--layout with 2 models"),
    (["--suite", "none.toml", *NET], "cannot read none.toml"),
    (["--suite", "none.toml", "--split", "val"], "--split without --data"),
    ([*SET, *NET, "--root", "."], "--root without --suite"),
    ([*SET, *NET, "--nonsense"], "Unknown option"),
    *[
        (["--clip", "clip.mkv", *NET, *flags], f"{flags[0]} without labelled images")
        for flags in (
            ["--min-miou", "0.9"],
            ["--confusion", "m.png"],
            ["--boundary"],
            ["--worst", "3"],
            ["--show-class", "disc"],
            ["--allow-outside"],
        )
    ],
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_what_makes_no_sense_is_one_line_and_exit_2(
    capsys: Capture, inside: Path, arguments: list[str], words: str
) -> None:
    before = sorted(inside.rglob("*"))
    assert main(["eval", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err.splitlines()[-1], said.err
    assert said.err.splitlines()[-1].startswith("rtseg: error:")
    assert said.out == ""
    assert sorted(inside.rglob("*")) == before


def test_two_broken_sets_are_told_of_in_one_go(capsys: Capture, inside: Path) -> None:
    make_folder(inside / "second", 3)
    (inside / "set" / "masks" / "00_0001.png").unlink()
    (inside / "second" / "masks" / "00_0002.png").unlink()
    assert main(["eval", "--data", "set", "second", *NET]) == 2
    said = capsys.readouterr().err
    assert "00_0001" in said
    assert "00_0002" in said


def test_a_picture_that_breaks_in_the_middle_leaves_a_partial_table(
    capsys: Capture, inside: Path
) -> None:
    other = make_folder(inside / "other", 3)
    picture = other / "images" / "00_0001.jpg"
    picture.write_bytes(picture.read_bytes()[:-300])
    assert main(["eval", "--data", "set", "other", *NET]) == 2
    said = capsys.readouterr()
    assert rows(said.out)[1][:3] == ["set", "net", "4"]
    assert "partial  1 of 2 measurements finished" in said.err
    assert "00_0001.jpg" in said.err.splitlines()[-1]


def test_the_input_of_a_foreign_network_is_told_by_flags(inside: Path) -> None:
    (inside / "net.toml").unlink()
    flags = ["--labels", "background,disc,box", "--scale", "1/255", "--activation", "none"]
    flags += ["--mean", "0", "--std", "1", "--no-align-corners", "--imgsz", "48x64"]
    assert main(["eval", *SET, *NET, *flags, "--min-miou", "0.9"]) == 0
    swapped = [*flags, "--colour", "BGR"]
    assert main(["eval", *SET, *NET, *swapped, "--min-miou", "0.9"]) == 5
    names = Path("names.txt")
    names.write_text("background\ndisc\nbox\n")
    flags[1] = str(names)
    assert main(["eval", *SET, *NET, *flags, "--json", str(names), "-y"]) == 2
    assert names.read_text() == "background\ndisc\nbox\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_ctrl_c_leaves_a_table_that_is_said_to_be_partial(inside: Path) -> None:
    for number in range(40):
        mask = np.full((32, 32), number % 4, np.uint8)
        colours = np.array(SHAPE_LABELS.colours, np.uint8)[:, ::-1]
        write(inside / "slow" / "images" / f"{number:02}.png", colours[mask])
        write(inside / "slow" / "masks" / f"{number:02}.png", mask)
    (inside / "slow" / "classes.json").write_text(json.dumps(SHAPE_LABELS.names))
    command = [sys.executable, "-m", "rtseg", "eval", "--data", "slow", "-m", "stub?delay=500ms"]
    with subprocess.Popen(
        [*command, "--json", "out.json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=inside,
        env=os.environ,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("running"):  # said after two seconds, of at least twenty
                break
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "partial  0 of 1 measurement" in said
    done, of, chosen = rows(out)[1][2:5]
    assert (of, chosen) == ("of", "40")
    assert 0 < int(done) < 40
    found = json.loads(Path("out.json").read_text())
    assert found["complete"] is found["results"][0]["complete"] is False
    assert found["results"][0]["pictures"] == int(done)
    assert found["results"][0]["mean_iou"] == 1.0


def test_voc_is_measured_on_val_with_the_classes_both_know(inside: Path, capsys: Capture) -> None:
    make_voc(inside / "voc", 6)
    make_network(inside / "two.onnx", names=["background", "person", "car"])
    arguments = ["--data", "voc", "-m", "two.onnx", "--classes", "person", "--json", "out.json"]
    assert main(["eval", *arguments]) == 0
    first = json.loads(Path("out.json").read_text())["results"][0]
    assert [row["name"] for row in first["classes"]] == ["background", "person"]
    assert first["pictures"] == 3
    assert "(voc, val), 3 of 9 images" in capsys.readouterr().err


# --- the references ------------------------------------------------------------------------------


def test_the_suite_of_the_person_sets_names_what_is_there(data: Path) -> None:
    suite = read_suite(TOOLS / "person_sets.toml", data)
    names = (TOOLS / "clothing_kept_aside.txt").read_text().split()
    masks = sorted(path.stem for path in (data / "clothing" / "masks").iterdir())
    assert names == masks[::9][:100]
    assert all(one.path.is_dir() for one in suite.sets)
    assert all(one.model == "person" or Path(one.model).is_file() for one in suite.networks)


@pytest.mark.slow
def test_the_suite_of_the_person_sets_is_measured_whole(data: Path) -> None:
    """With few images of each set."""
    suite = str(TOOLS / "person_sets.toml")
    arguments = ["--suite", suite, "--root", str(data), "--json", "out.json", "-q"]
    assert main(["eval", *arguments, "--max-pictures", "4"]) == 0
    results = json.loads(Path("out.json").read_text())["results"]
    assert [one["pictures"] for one in results] == [4] * 12
    assert {one["network"] for one in results} == {
        "MediaPipe selfie", "DeepLabV3-MobileNetV2", "person, refined",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_references_on_the_person_sets(data: Path) -> None:
    """Person IoU of both, as a separate script measured it."""
    tables = re.split(r"(?m)^(?=\[\[)", (TOOLS / "person_sets.toml").read_text())
    others = ('name = "coco', 'name = "clothing', 'name = "person"')
    Path("suite.toml").write_text("".join(t for t in tables if not any(n in t for n in others)))
    arguments = ["--suite", "suite.toml", "--root", str(data), "--json", "out.json", "-q"]
    assert main(["eval", *arguments]) == 0
    results = json.loads(Path("out.json").read_text())["results"]
    assert len(results) == 4
    found = {(one["set"].split()[0], one["network"]): one["classes"][1]["iou"] for one in results}
    deeplab, selfie = "DeepLabV3-MobileNetV2", "MediaPipe selfie"
    for name, expected in {"people": 0.863, "voc": 0.820}.items():
        assert found[name, deeplab] == pytest.approx(expected, abs=0.01)
    for name, expected in {"people": 0.900, "voc": 0.620}.items():
        assert found[name, selfie] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (255, "no pixel has a label of a scored class"),
        (0, "all labelled pixels are of one class, background"),
        (1, "all labelled pixels are of one class, disc"),
    ],
)
def test_a_degenerate_set_is_refused(value: int, words: str, capsys: Capture) -> None:
    for mask in Path("set/masks").iterdir():
        write(mask, np.full((48, 64), value, np.uint8))
    assert main(["eval", *SET, *NET, "--json", "out.json"]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not Path("out.json").exists()


def test_a_set_whose_classes_are_all_ignored_is_refused(capsys: Capture) -> None:
    classes = [f"ignore={name}" for name in ("disc", "box")]
    flags = [part for each in classes for part in ("--classes", each)]
    assert main(["eval", *SET, *NET, *flags]) == 2


def test_measured_images_with_copies_in_train_are_warned_about(capsys: Capture) -> None:
    make_folder(Path("both"), 4, splits=("train", "val"))
    for part in ("images/{}.jpg", "masks/{}.png"):
        source = Path("both/train") / part.format("00_0001")
        (Path("both/val") / part.format("copy")).write_bytes(source.read_bytes())
    assert main(["eval", "--data", "both", *NET]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "val and train share copies of images" in said
    assert "(1): copy (00_0001)" in said
