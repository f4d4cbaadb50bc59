"""Which class of a dataset is which of a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtseg.datasets.classes import ClassMap, label_set
from rtseg.errors import UsageError
from rtseg.labels import CITYSCAPES, PERSON, VOC, VOID, LabelSet
from rtseg.nets.settings import read_settings


def labels(text: str) -> LabelSet:
    return label_set(text.split(), Path("there"))


PEOPLE = labels("background foreground")
CLOTHES = labels("null bag skin t-shirt wallet")


def dataset_side(mapped: ClassMap, dataset: LabelSet) -> dict[str, str]:
    return _side(mapped, dataset, mapped.from_dataset)


def network_side(mapped: ClassMap, network: LabelSet) -> dict[str, str]:
    assert mapped.from_network is not None
    return _side(mapped, network, mapped.from_network)


def _side(mapped: ClassMap, side: LabelSet, table) -> dict[str, str]:
    names = dict(enumerate(mapped.labels.names)) | {VOID: "-"}
    assert table.dtype == "uint8"
    assert table.shape == (256,)
    assert (table[len(side) :] == VOID).all(), "values that are no class are not scored"
    return {name: names[int(table[index])] for index, name in enumerate(side.names)}


def test_for_training_the_datasets_classes_stay_as_they_are() -> None:
    mapped = ClassMap.between(VOC, None, [])
    assert mapped.labels == VOC
    assert mapped.from_network is None
    assert dataset_side(mapped, VOC) == {name: name for name in VOC.names}


def test_a_network_of_fewer_classes_is_scored_on_those_and_the_rest_is_background() -> None:
    mapped = ClassMap.between(VOC, PERSON, [])
    assert mapped.labels.names == ("background", "person")
    assert mapped.labels.background == 0
    side = dataset_side(mapped, VOC)
    assert side["person"] == "person"
    assert {side[name] for name in VOC.names if name != "person"} == {"background"}
    assert network_side(mapped, PERSON) == {"background": "background", "person": "person"}


def test_a_dataset_of_fewer_classes_makes_the_networks_others_background() -> None:
    side = network_side(ClassMap.between(PERSON, VOC, []), VOC)
    assert side["person"] == "person"
    assert side["dog"] == side["background"] == "background"


def test_where_only_the_network_has_a_background_the_datasets_other_classes_are_ignored() -> None:
    mapped = ClassMap.between(CITYSCAPES, VOC, [])
    assert mapped.labels.background is None
    assert set(mapped.labels.names) == {"person", "car", "bus", "train", "motorbike", "bicycle"}
    assert dataset_side(mapped, CITYSCAPES)["road"] == "-"
    assert network_side(mapped, VOC)["background"] == "-"
    assert network_side(mapped, VOC)["car"] == "car"


def test_one_common_class_is_told_from_the_background_that_only_one_side_has() -> None:
    mapped = ClassMap.between(CITYSCAPES, PERSON, [])
    assert mapped.labels.names == ("background", "person")
    assert dataset_side(mapped, CITYSCAPES)["road"] == "background"


def test_names_match_whatever_their_case_and_joints_and_the_same_thing_by_two_names() -> None:
    coco = labels("background Person potted_plant Dining-Table TV airplane couch motorcycle")
    common = dataset_side(ClassMap.between(coco, VOC, []), coco)
    assert common == {
        "background": "background",
        "Person": "person",
        "potted_plant": "pottedplant",
        "Dining-Table": "diningtable",
        "TV": "tvmonitor",
        "airplane": "aeroplane",
        "couch": "sofa",
        "motorcycle": "motorbike",
    }


def test_a_nameless_foreground_is_the_only_class_of_a_network_and_it_is_said() -> None:
    mapped = ClassMap.between(PEOPLE, PERSON, [])
    assert dataset_side(mapped, PEOPLE) == {"background": "background", "foreground": "person"}
    assert mapped.describe()[-1] == "the dataset's only class, foreground, counts as person"


@pytest.mark.parametrize("network", [VOC, labels("background dog")])
def test_a_class_with_a_name_of_its_own_is_never_taken_for_another(network: LabelSet) -> None:
    with pytest.raises(UsageError, match="no class in common") as raised:
        ClassMap.between(labels("background horseshoe"), network, [])
    assert "horseshoe" in str(raised.value)
    assert "dog" in str(raised.value)
    assert "TARGET=NAME" in str(raised.value)


def test_an_entry_names_what_is_scored_and_the_background_comes_by_itself() -> None:
    mapped = ClassMap.between(PEOPLE, VOC, ["person=foreground"])
    assert mapped.labels.names == ("background", "person")
    assert dataset_side(mapped, PEOPLE) == {"background": "background", "foreground": "person"}
    side = network_side(mapped, VOC)
    assert side["person"] == "person"
    assert side["dog"] == "background"


def test_a_star_is_every_class_that_no_entry_names() -> None:
    entries = ["person=*", "background=null,bag,wallet"]
    mapped = ClassMap.between(CLOTHES, PERSON, entries)
    assert mapped.labels.names == ("background", "person")
    assert mapped.labels.colours[1] == PERSON.colours[1]
    assert dataset_side(mapped, CLOTHES) == {
        "null": "background",
        "bag": "background",
        "wallet": "background",
        "skin": "person",
        "t-shirt": "person",
    }


def test_a_star_adds_to_the_class_that_bears_the_targets_name() -> None:
    dataset = labels("background person rider")
    mapped = ClassMap.between(dataset, PERSON, ["person=*"])
    assert mapped.from_dataset[:3].tolist() == [0, 1, 1]


def test_a_star_leaves_the_background_and_the_networks_other_classes_alone() -> None:
    mapped = ClassMap.between(CLOTHES, VOC, ["person=*"])
    assert dataset_side(mapped, CLOTHES)["null"] == "background"
    assert network_side(mapped, VOC)["dog"] == "background"


def test_a_star_takes_the_networks_classes_too_where_none_bears_the_targets_name() -> None:
    mapped = ClassMap.between(PEOPLE, VOC, ["thing=*"])
    side = network_side(mapped, VOC)
    assert {side[name] for name in VOC.names[1:]} == {"thing"}
    assert side["background"] == "background"


def test_what_is_ignored_is_not_scored_and_its_prediction_counts_as_background() -> None:
    mapped = ClassMap.between(VOC, VOC, ["person=person", "ignore=dog,cat"])
    side = dataset_side(mapped, VOC)
    assert (side["dog"], side["cat"], side["cow"]) == ("-", "-", "background")
    assert network_side(mapped, VOC)["dog"] == "background"
    assert any("not scored: dataset cat, dog" in line for line in mapped.describe())


def test_where_only_ignored_classes_are_named_all_others_are_trained_as_they_are() -> None:
    mapped = ClassMap.between(CITYSCAPES, None, ["ignore=Sky", "ignore=pole,car"])
    left = [name for name in CITYSCAPES.names if name not in ("sky", "pole", "car")]
    assert list(mapped.labels.names) == left
    assert mapped.labels.background is None
    side = dataset_side(mapped, CITYSCAPES)
    assert {name for name in side if side[name] == "-"} == {"sky", "pole", "car"}
    assert all(side[name] == name for name in left)
    assert mapped.labels.colours[-1] == CITYSCAPES.colours[-1]
    clothes = ClassMap.between(CLOTHES, None, ["ignore=bag"])
    assert (clothes.labels.names, clothes.labels.background) == (
        ("null", "skin", "t-shirt", "wallet"),
        0,
    )
    with pytest.raises(UsageError, match="--classes leaves only null"):
        ClassMap.between(CLOTHES, None, ["ignore=bag,skin,t-shirt,wallet"])


def test_where_only_ignored_classes_are_named_the_others_are_scored_by_name() -> None:
    mapped = ClassMap.between(VOC, VOC, ["ignore=dog,cat"])
    assert mapped.labels.names == tuple(n for n in VOC.names if n not in ("dog", "cat"))
    side = dataset_side(mapped, VOC)
    assert (side["dog"], side["cat"], side["cow"]) == ("-", "-", "cow")
    assert network_side(mapped, VOC)["dog"] == "background"


def test_classes_of_a_dataset_are_grouped_for_training() -> None:
    mapped = ClassMap.between(CITYSCAPES, None, ["human=person,rider", "background=*"])
    assert mapped.labels.names == ("background", "human")
    side = dataset_side(mapped, CITYSCAPES)
    assert [name for name in side if side[name] == "human"] == ["person", "rider"]
    assert set(side.values()) == {"human", "background"}


def test_two_classes_of_a_dataset_that_the_network_does_not_tell_apart_are_one() -> None:
    mapped = ClassMap.between(labels("background sofa couch"), VOC, [])
    assert mapped.labels.names == ("background", "sofa")
    assert mapped.from_dataset[:3].tolist() == [0, 1, 1]


def test_the_background_is_whatever_class_means_nothing() -> None:
    mapped = ClassMap.between(CLOTHES, PERSON, ["null=bag", "person=skin"])
    assert mapped.labels.names == ("null", "person")
    assert mapped.labels.background == 0
    assert dataset_side(mapped, CLOTHES)["wallet"] == "null"
    assert network_side(mapped, PERSON)["background"] == "null"


@pytest.mark.parametrize("name", ["bg", "None", "__background__", "unlabelled", "sky"])
def test_datasets_and_networks_call_the_same_class_background(name: str, tmp_path: Path) -> None:
    (tmp_path / "net.toml").write_text(f'labels = ["{name}", "person"]')
    network = read_settings(tmp_path / "net.onnx", None).labels
    dataset = label_set((name, "person"), tmp_path)
    assert network is not None
    assert network.background == dataset.background == (None if name == "sky" else 0)


def test_names_alone_are_their_own_targets() -> None:
    mapped = ClassMap.between(VOC, None, ["person,dog"])
    assert mapped.labels.names == ("background", "person", "dog")
    assert mapped.labels.colours[1:] == (VOC.colours[15], VOC.colours[12])


def test_the_same_target_may_be_named_twice() -> None:
    mapped = ClassMap.between(VOC, None, ["pet=dog", "Pet=cat"])
    assert mapped.labels.names == ("background", "pet")
    assert dataset_side(mapped, VOC)["cat"] == "pet"


def test_a_name_that_neither_side_has_is_told_with_the_near_ones_and_all() -> None:
    with pytest.raises(UsageError, match="unknown class") as raised:
        ClassMap.between(CLOTHES, PERSON, ["person=walet"])
    assert "Did you mean wallet?" in str(raised.value)
    assert "null, bag, skin, t-shirt, wallet" in str(raised.value)
    assert "the model has background, person" in str(raised.value)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["person="], "TARGET=NAME"),
        (["=person"], "TARGET=NAME"),
        (["person=dog,,cat"], "TARGET=NAME"),
        (["a,b=dog"], "TARGET=NAME"),
        (["a=dog", "b=dog"], "both a and b"),
        (["a=*", "b=*"], "both a and b"),
        (["human=dog"], "the model has no class for human"),
        (["ignore=*"], "names only what to ignore"),
        (["ignore=person,dog"], "no class in common"),
    ],
)
def test_entries_that_make_no_sense_are_refused(entries: list[str], words: str) -> None:
    network = labels("background person dog") if entries != ["human=dog"] else labels("null person")
    dataset = labels("person dog cat")
    with pytest.raises(UsageError, match=words.replace("*", r"\*")):
        ClassMap.between(dataset, network, entries)


def test_one_class_and_no_background_is_refused_with_what_to_add() -> None:
    with pytest.raises(UsageError, match='Add --classes "background=') as raised:
        ClassMap.between(CITYSCAPES, None, ["person=person"])
    assert raised.value.exit_code == 2


def test_a_person_is_told_what_became_what() -> None:
    lines = ClassMap.between(CLOTHES, PERSON, ["person=skin,t-shirt"]).describe()
    assert lines == (
        "background: dataset null, bag, wallet; model background",
        "person: dataset skin, t-shirt; model person",
    )
