"""Outputs that would replace one another, or what is read, are refused before anything runs."""

from __future__ import annotations

import os
import sys
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_folders import make_folder, make_roboflow

from rtseg import outputs
from rtseg.cli.app import main
from rtseg.errors import UsageError
from rtseg.outputs import Output, check_apart

STUB = ("-m", "stub", "-b", "stub", "--no-show")
COCO = "coco/train/_annotations.coco.json"
posix = pytest.mark.skipif(sys.platform == "win32", reason="links of POSIX")


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def output(text: str) -> Output:
    """ "p/" and "p/%d.png" are many files, "p/*" a folder of any names, others are one."""
    if text.endswith("/*"):
        return Output.pictures(text, Path(text[:-2]), numbered=False)
    if text.endswith("/") or "%" in text:
        return Output.pictures(text, Path(text), numbered=True)
    return Output.file(text, Path(text))


MEET = [
    ("a.mp4", "a.mp4"),
    ("a.mp4", "./x/../a.mp4"),
    ("a.mp4", "{here}/a.mp4"),
    ("-", "-"),
    ("p/", "p/"),
    ("p/", "p/../p/"),
    ("p/", "p/%06d.png"),
    ("p/", "p/%d.png"),
    ("p/", "p/1%d.png"),
    ("p/", "p/000001.png"),
    ("p/", "p"),
    ("p/%03d.png", "p/%06d.png"),
    ("p/1%d.png", "p/%d.png"),
    ("p/f%d.png", "p/f1%d.png"),
    ("p/f%d.png", "p/f12.png"),
    ("p/*", "p/f%d.png"),
    ("p/*", "p/figure.png"),
    ("new/p/", "new/./p/%06d.png"),
]

APART = [
    ("a.mp4", "b.mp4"),
    ("a.mp4", "x/a.mp4"),
    ("p/", "q/"),
    ("p/", "p/%06d.jpg"),
    ("p/", "p/f_%06d.png"),
    ("p/", "p/figure.png"),
    ("p/", "p/m.json"),
    ("p/", "p/p/"),
    ("p/f%d.png", "p/g%d.png"),
    ("p/f%d.png", "p/fx.png"),
    ("p/f%d.png", "p/f.png"),
    ("p/*", "p/out.jsonl"),
    ("new/p/", "new/q/%06d.png"),
]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("pair", MEET, ids=str)
def test_outputs_that_meet(pair: tuple[str, str], there: bool, tmp_path: Path) -> None:
    if there and "p" not in pair:
        (tmp_path / "p").mkdir()
    for one, two in permutations(text.replace("{here}", str(tmp_path)) for text in pair):
        with pytest.raises(UsageError):
            check_apart([output("other.avi"), output(one), output(two)])


@pytest.mark.parametrize("pair", APART, ids=str)
def test_outputs_that_do_not(pair: tuple[str, str]) -> None:
    for one, two in permutations(pair):
        check_apart([output(one), output(two)])


@posix
def test_through_links(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "link").symlink_to("p")
    (tmp_path / "a.mp4").write_bytes(b"mine")
    (tmp_path / "soft.mp4").symlink_to("a.mp4")
    os.link("a.mp4", "hard.mp4")
    (tmp_path / "dangling.mp4").symlink_to("p/real.mp4")
    for one, two in (
        ("p/", "link/%06d.png"),
        ("p/x.json", "link/x.json"),
        ("a.mp4", "soft.mp4"),
        ("a.mp4", "hard.mp4"),
        ("soft.mp4", "hard.mp4"),
        ("dangling.mp4", "link/real.mp4"),
    ):
        with pytest.raises(UsageError):
            check_apart([output(one), output(two)])
        if "dangling" not in one and "." in two and "%" not in two and "json" not in two:
            with pytest.raises(UsageError, match="which is read"):
                check_apart([output(one)], [(Path(two), "read")])
    check_apart([output("dangling.mp4"), output("p/other.mp4")])


def test_names_without_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p").mkdir()
    pairs = (("p/A.mp4", "p/a.mp4"), ("new/a.json", "NEW/a.json"), ("p/", "p/000001.PNG"))
    monkeypatch.setattr(outputs, "ignores_case", lambda folder: True)
    for one, two in pairs:
        with pytest.raises(UsageError):
            check_apart([output(one), output(two)])
    monkeypatch.setattr(outputs, "ignores_case", lambda folder: False)
    for one, two in pairs[:2]:
        check_apart([output(one), output(two)])


@posix
def test_a_picture_that_is_a_link_is_read_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    (tmp_path / "real" / "000001.png").write_bytes(b"mine")
    (tmp_path / "links" / "a.png").symlink_to("../real/000001.png")
    with pytest.raises(UsageError, match=r"links/a\.png"):
        check_apart([output("real/")], [(Path("links/a.png"), "read")])


def shots(folder: Path) -> list[bytes]:
    folder.mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f"{number:06}.png"), np.full((48, 64, 3), number, np.uint8))
    return contents(folder)


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]


@pytest.mark.parametrize(
    "flags",
    [
        ("-o", "shots/"),
        ("-o", "shots/%06d.png"),
        ("--mask-output", "shots/"),
        ("-o", "shots/000001.png"),
        ("--metrics", "shots/000001.png"),
        ("--json", "shots/../shots/x.jsonl", "--metrics", "shots/000001.png"),
        ("--figure", "shots/000002.png"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("source", ["shots/", "shots/*.png"])
def test_the_pictures_of_the_source_stay(
    flags: tuple[str, ...], source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = shots(tmp_path / "shots")
    assert main([source, *STUB, *flags, "-y"]) == 2
    assert "part of the source" in capsys.readouterr().err
    assert contents(tmp_path / "shots") == before
    assert [path.name for path in tmp_path.iterdir()] == ["shots"]


def test_masks_beside_images_of_other_names(tmp_path: Path) -> None:
    clip = "test://?size=64x48&frames=3"
    assert main([clip, *STUB, "-o", "p/", "--mask-output", "p/m_%06d.png"]) == 0
    assert len(list((tmp_path / "p").iterdir())) == 6


def test_of_several_stills_masks_and_images_need_two_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shots(tmp_path / "shots")
    stills = ("shots/000000.png", "shots/000001.png")
    assert main([*stills, *STUB, "-o", "p/", "--mask-output", "p/"]) == 2
    assert "given twice" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ("--json", "set/images/a.json"),
        ("--confusion", "set/images/PICTURE"),
        ("--worst-to", "set/images"),
        ("--json", "r.json", "--confusion", "r.json"),
    ],
    ids=" ".join,
)
def test_labelled_images_stay(
    flags: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path / "set", 2)
    images = sorted(path for path in root.rglob("*") if path.suffix in (".png", ".jpg"))
    (root / "images" / "a.json").parent.mkdir(exist_ok=True)
    (root / "images" / "a.json").write_text('{"annotations": []}')
    before = contents(root)
    places = {"set/images/PICTURE": images[0], "set/images": images[0].parent}
    flags = tuple(str(places.get(flag, flag)) for flag in flags)
    code = main(["eval", "--data", "set", "-m", "stub", "-b", "stub", *flags, "-y"])
    said = capsys.readouterr().err
    assert code == 2, said
    assert contents(root) == before


def test_figures_of_an_earlier_evaluation_may_be_replaced(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", 2)
    arguments = ["eval", "--data", "set", "-m", "stub", "-b", "stub", "-q", "--json", "set/r.json"]
    code = main(arguments)
    assert main([*arguments, "-y"]) == code


@pytest.mark.parametrize(
    "flags",
    [
        ("-o", "a.json", "-o", "./a.json"),
        ("-o", "a.json", "--plot", "a.png", "-o", "a.png"),
        ("-i", "clip.mp4", "-o", "clip.mp4", "-y"),
    ],
    ids=" ".join,
)
def test_bench_records(
    flags: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"mine")
    assert main(["bench", "-m", "stub", *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "clip.mp4").read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(
    "flags",
    [
        ("data", "--data", "coco", "--json", COCO),
        ("data", "--data", COCO, "--json", COCO),
        ("data", "--data", "set", "--palette", "p.json", "--json", "p.json"),
        ("data", "--data", "set", "--json", "x.png", "--sheet", "x.png"),
        ("bench", "-m", "net.onnx", "-o", "net.onnx"),
        ("bench", "-m", "deeplabv3_resnet50", "--weights", "net.onnx", "-o", "net.onnx"),
        ("bench", "-m", "stub", "--data", COCO, "-o", COCO),
        ("test://", *STUB, "--palette", "p.json", "--metrics", "p.json"),
        ("test://", "-m", "stub", "--show", "--models", "net.onnx", "--metrics", "net.onnx"),
        ("batch", "set", *STUB[:4], "--palette", "p.json", "-o", "out/", "--report", "p.json"),
    ],
    ids=" ".join,
)
def test_what_is_read_stays(
    flags: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("rtseg.cli.plan.display_available", lambda: "")
    make_folder(tmp_path / "set", 6)
    make_roboflow(tmp_path / "coco", 6)
    (tmp_path / "net.onnx").write_bytes(b"mine")
    (tmp_path / "p.json").write_text(str([[n, n, n] for n in range(30)]))
    before = contents(tmp_path)
    again = () if flags[0] == "batch" else ("-y",)
    assert main([*flags, *again]) == 2
    said = capsys.readouterr().err
    assert "would replace" in said or "twice" in said
    assert contents(tmp_path) == before
