"""Colours by name, from a seed, and from files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rtseg.errors import UsageError
from rtseg.labels import (
    ADE20K,
    ATR,
    CITYSCAPES,
    COCO_STUFF,
    LIP,
    PALETTES,
    VOC,
    LabelSet,
    colours_by_name,
    palette,
)
from rtseg.nets.settings import NAMED_LABELS


def test_voc_is_the_published_table() -> None:
    assert palette("voc", 21) == VOC.colours
    assert palette("voc", 21)[15] == (192, 128, 128)  # person
    assert palette("voc", 21)[20] == (0, 64, 128)  # tvmonitor


@pytest.mark.parametrize(
    ("name", "colour"),
    [("road", (128, 64, 128)), ("person", (220, 20, 60)), ("sky", (70, 130, 180)),
     ("car", (0, 0, 142)), ("bicycle", (119, 11, 32)), ("traffic light", (250, 170, 30))],
)  # fmt: skip
def test_cityscapes_is_the_published_table(name: str, colour: tuple[int, int, int]) -> None:
    assert CITYSCAPES.colours[CITYSCAPES.index(name)] == colour
    assert len(CITYSCAPES) == 19
    assert CITYSCAPES.background is None
    assert palette("cityscapes", 19) == CITYSCAPES.colours


@pytest.mark.parametrize(
    ("index", "name", "colour"),
    [(0, "wall", (120, 120, 120)), (2, "sky", (6, 230, 230)), (12, "person", (150, 5, 61)),
     (20, "car", (0, 102, 200)), (80, "bus", (255, 0, 245)), (127, "bicycle", (255, 245, 0)),
     (149, "flag", (92, 0, 255))],
)  # fmt: skip
def test_ade20k_is_the_published_table(index: int, name: str, colour: tuple[int, int, int]) -> None:
    assert ADE20K.names[index] == name
    assert ADE20K.colours[index] == colour
    assert len(set(ADE20K.names)) == 150
    assert palette("ade", 150) == palette("ade20k", 150) == ADE20K.colours


@pytest.mark.parametrize("name", [*PALETTES, "random:1", " VOC "])
def test_every_palette_gives_as_many_colours_as_asked(name: str) -> None:
    colours = palette(name, 19)
    assert len(colours) == 19
    assert all(len(c) == 3 and all(type(v) is int and 0 <= v <= 255 for v in c) for c in colours)


@pytest.mark.parametrize(("name", "count"), [("cityscapes", 20), ("ade20k", 151), ("voc", 256)])
def test_a_table_that_is_too_short_is_refused(name: str, count: int) -> None:
    with pytest.raises(UsageError, match=f"{count} classes.*random:0"):
        palette(name, count)


def test_random_colours_are_the_same_for_the_same_seed() -> None:
    assert palette("random:7", 30) == palette("random:7", 30)
    assert palette("random:7", 30) != palette("random:8", 30)
    assert palette("random", 5) == palette("random:0", 5)


def test_more_random_colours_begin_with_the_same() -> None:
    assert palette("random:7", 255)[:21] == palette("random:7", 21)


@pytest.mark.parametrize("seed", range(5))
def test_random_colours_are_black_then_far_apart(seed: int) -> None:
    colours = np.array(palette(f"random:{seed}", 21))
    assert colours[0].tolist() == [0, 0, 0]
    apart = np.abs(colours[:, None] - colours[None]).max(2) + 999 * np.eye(21, dtype=int)
    assert apart.min() >= 40
    assert colours[1:].max(1).min() >= 80, "no class is nearly black"


@pytest.mark.parametrize("seed", ["x", "-1", "1.5", "0x10"])
def test_a_seed_is_a_whole_number(seed: str) -> None:
    with pytest.raises(UsageError, match="whole number"):
        palette(f"random:{seed}", 3)


def written(folder: Path, text: str, name: str = "colours.txt") -> str:
    path = folder / name
    path.write_text(text, "utf-8")
    return str(path)


def test_a_colour_file_has_one_class_per_line(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "# comment\n0 0 0 background\n\n255 0 10 a red thing\n#00fF80 Zürich\n 1,2,3\n4 5 6 7\n",
    )
    assert palette(path, 5) == ((0, 0, 0), (255, 0, 10), (0, 255, 128), (1, 2, 3), (4, 5, 6))
    assert palette(path, 2) == ((0, 0, 0), (255, 0, 10))


def test_a_colour_file_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert palette(written(tmp_path, "\ufeff1 2 3\r\n4 5 6\r\n"), 2) == ((1, 2, 3), (4, 5, 6))


def test_a_json_file_holds_a_list(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps([[0, 0, 0], "#ff8000", [1, 2, 3]]), "colours.json")
    assert palette(path, 3) == ((0, 0, 0), (255, 128, 0), (1, 2, 3))


@pytest.mark.parametrize(
    "line", ["256 0 0", "-1 0 0", "1 2", "red", "#12345", "#1234567", "#12345g", "1.5 2 3", "² 0 0"]
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    path = written(tmp_path, f"0 0 0\n\n{line}\n")
    with pytest.raises(UsageError, match=r"colours\.txt:3") as raised:
        palette(path, 2)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    "text", ["[[0,0,0],[1,2]]", '[[0,0,0],"red"]', "[[0,0,0],[1,2,true]]", "[[0,0,0],[1,2,3.5]]",
             "[[0,0,0],null]", "[[0,0,0],[1,2,999]]"],
)  # fmt: skip
def test_a_bad_colour_in_json_is_named_by_its_number(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="colour 2"):
        palette(written(tmp_path, text, "colours.json"), 2)


@pytest.mark.parametrize("text", ["", "{}", "[1", '"red"'])
def test_json_that_is_no_list_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"JSON|expected list"):
        palette(written(tmp_path, text, "colours.json"), 1)


def test_a_file_with_too_few_colours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"for 3 classes.*2 colours"):
        palette(written(tmp_path, "0 0 0\n1 1 1\n"), 3)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "colours.txt"
    path.write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        palette(str(path), 2)


@pytest.mark.parametrize("name", ["nonsense", "no/such/file.txt", "", ".", "a\0b", "x" * 5000])
def test_an_unknown_palette_names_those_there_are(name: str) -> None:
    with pytest.raises(UsageError) as raised:
        palette(name, 2)
    assert any(
        words in str(raised.value) for words in ("cityscapes", "cannot be read", "not a path")
    )


PEOPLE = {
    "ade20k": [12],
    "cityscapes": [11],
    "voc": [15],
    "person": [1],
    "coco-stuff": [0],
    "lip": [*range(1, 20)],
    "atr": [*range(1, 18)],
}


@pytest.mark.parametrize("name", NAMED_LABELS)
def test_a_person_is_known_in_every_label_set(name: str) -> None:
    assert sorted(NAMED_LABELS[name].select(["Person "])) == PEOPLE[name]


def test_parts_are_a_person_only_where_nothing_else_is() -> None:
    mixed = (*LIP.names[:4], "car", "tree", "sky", "road")
    labels = LabelSet(mixed, colours_by_name(mixed))
    with pytest.raises(UsageError, match="person"):
        labels.select(["person"])
    assert sorted(LIP.select(["hat", "Face"])) == [1, 13]
    spelled = ("Background", "Upper Clothes", "LeftArm", "left_shoe")  # other spellings
    assert LabelSet(spelled, colours_by_name(spelled)).select(["person"]) == {1, 2, 3}


def test_synonyms_and_spaces_of_a_name() -> None:
    names = ("wall", "person, individual, someone", "bed ")
    labels = LabelSet(names, colours_by_name(names), None)
    assert labels.select(["person", "bed"]) == {1, 2}


def test_the_known_label_sets() -> None:
    assert [len(each) for each in (COCO_STUFF, LIP, ATR)] == [171, 20, 18]
    assert (COCO_STUFF.names[170], COCO_STUFF.names[80]) == ("wood", "banner")
    assert (COCO_STUFF.background, LIP.background, ATR.background) == (None, 0, 0)
    assert (LIP.names[13], ATR.names[11], ATR.names[17]) == ("face", "face", "scarf")


def test_colours_by_name_are_those_of_the_class_in_every_network() -> None:
    sets = list(NAMED_LABELS.values())
    found = [palette("names", len(each), each.names) for each in sets]
    assert all(len(set(colours)) == len(colours) for colours in found)
    for name in ("person", "car", "bicycle", "bus"):
        colours = {
            colour
            for each, colours in zip(sets, found, strict=True)
            for own, colour in zip(each.names, colours, strict=True)
            if own == name
        }
        assert colours == {CITYSCAPES.colours[CITYSCAPES.index(name)]}
    assert found[0][0] == (0, 0, 0)
    assert palette("names", 2, ("sofa", "x")) == palette("names", 2, ("couch", "x"))


def test_left_and_right_are_each_other_in_a_mirror_image() -> None:
    mirrored = [LIP.names[index] for index in LIP.mirrored]
    swapped = {"left-arm": "right-arm", "left-leg": "right-leg", "left-shoe": "right-shoe"}
    swapped |= {other: one for one, other in swapped.items()}
    assert mirrored == [swapped.get(name, name) for name in LIP.names]
    names = ("Bright", "armLEFT", "arm, left", "leftover", "ArmRight", "left")
    assert LabelSet(names, colours_by_name(names), None).mirrored == (0, 4, 2, 3, 1, 5)
