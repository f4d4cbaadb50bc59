"""The recipe of the person network: what is packed, cropped and trained, on pictures made here."""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import person_data  # noqa: E402
import person_errors  # noqa: E402
import person_follow  # noqa: E402
import person_losses  # noqa: E402
import person_optimizer  # noqa: E402
import person_pictures  # noqa: E402
import person_student  # noqa: E402
import person_views  # noqa: E402
import train_person  # noqa: E402
from person_together import Together  # noqa: E402

SOURCES = [*person_views.SHARES, "voc-train", "frames"]


def disc(source: str, radius: int, *, labelled: bool = True) -> person_pictures.Picture:
    """A bright person on a dark street; without a radius, the street alone."""
    image = np.full((120, 160, 3), 40, np.uint8)
    label = np.zeros((120, 160), np.uint8)
    if radius:
        cv2.circle(image, (80, 60), radius, (200, 180, 160), -1)
        cv2.circle(label, (80, 60), radius, person_pictures.PERSON, -1)
    return person_pictures.Picture(f"{source}{radius}", source, image, label if labelled else None)


def scenes(_data: Path) -> Iterator[person_pictures.Picture]:
    for source in SOURCES:
        labelled = source not in ("clothing-unlabelled", "frames")
        yield disc(source, 40, labelled=labelled)
    yield disc("coco-train", 0)


class Seeing:
    """Stands for both teachers: person is what is bright."""

    def __init__(self, networks: Path) -> None:
        pass

    def class_logits(self, image: np.ndarray) -> np.ndarray:
        grey = cv2.resize(image, (33, 33), interpolation=cv2.INTER_AREA).mean(2)
        logits = np.zeros((33, 33, 21), np.float32)
        logits[:, :, person_pictures.VOC_PERSON] = (grey - 100) / 4
        return logits

    def selfie(self, image: np.ndarray) -> np.ndarray:
        return (image.mean(2) > 100).astype(np.float32)


@pytest.fixture
def packed(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(person_data, "Teachers", Seeing)
    monkeypatch.setattr(person_data, "training_pictures", scenes)
    path = tmp_path / "pack.npz"
    assert person_data.pack(tmp_path, path, 80) == len(SOURCES) + 1
    return path


def test_a_pack_gives_back_pictures_labels_and_what_teachers_said(packed) -> None:
    pictures = list(person_data.read_pack(packed))
    assert [one.source for one in pictures] == [*SOURCES, "coco-train"]
    for one in pictures:
        assert one.image.shape == (60, 80, 3)
        assert one.label.shape == one.teacher.shape == (60, 80)
        assert one.classes.shape == (33, 33, 21)
    labelled, unlabelled, empty = pictures[0], pictures[SOURCES.index("frames")], pictures[-1]
    assert abs(labelled.image[30, 40].astype(int) - (200, 180, 160)).max() < 8
    assert set(np.unique(labelled.label)) == {0, 1}
    assert (labelled.label == 1).mean() == pytest.approx(np.pi * 20**2 / 4800, abs=0.01)
    assert labelled.teacher[30, 40] > 250
    assert labelled.teacher[2, 2] < 5
    assert 255 in unlabelled.label, "where the two teachers differ nothing is known"
    assert unlabelled.label[30, 40] == 1
    assert not empty.label.any()


def test_crops_are_whole_and_the_same_for_the_same_seed(packed) -> None:
    pack = person_views.Pack(packed)
    assert len(pack.empty) == 1
    streams = [iter(person_views.Crops(pack, 64, seed)) for seed in (1, 1, 2)]
    crops = [[next(stream) for _ in range(24)] for stream in streams]
    for image, label, teacher, classes in crops[0]:
        assert image.shape == (64, 64, 3)
        assert set(np.unique(label)) <= {0, 1, person_views.OUTSIDE, 255}
        assert teacher.shape == (64, 64)
        assert classes.shape == (21, 4, 4)
        known = ~np.isnan(classes)
        assert known.all() or not known.any(), "of a pasted person the teacher has said nothing"
    same = [
        all(
            np.array_equal(a, b, equal_nan=a.dtype == np.float32) for a, b in zip(x, y, strict=True)
        )
        for x, y in zip(crops[0], crops[1], strict=True)
    ]
    assert all(same)
    assert not np.array_equal(crops[0][0][0], crops[2][0][0])


def unsettled() -> person_student.Student:
    """With statistics that are not those of a network just made."""
    torch.manual_seed(0)
    student = person_student.Student()
    for layer in student.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    return student.eval()


@pytest.mark.slow
def test_stages_with_dilation_split_are_the_networks_own() -> None:
    student, images = unsettled(), torch.rand(2, 3, 64, 64)
    plain = person_student.lraspp()
    plain.load_state_dict(student.net.state_dict())
    plain.eval()
    with torch.no_grad():
        own = plain.classifier(plain.backbone(images))
        logits, classes = student(images)
    assert torch.allclose(logits, own, atol=1e-5)
    assert classes.shape == (2, 21, 4, 4)


def test_folding_changes_no_number_and_still_trains_everything() -> None:
    student, images = unsettled(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = student(images)[0]
    person_student.fold(student)
    after = student(images)[0]
    assert torch.allclose(after, before, atol=1e-5)
    after.square().sum().backward()
    names = [name for name, one in student.net.named_parameters() if one.grad is None]
    assert names == []


def test_orthogonal_steps_go_equally_far_in_every_direction() -> None:
    torch.manual_seed(0)
    for shape in ((16, 40), (40, 16)):
        matrix = torch.randn(*shape) * torch.logspace(0, -1, shape[1])
        spread = torch.linalg.svdvals(matrix)
        assert spread.max() > 5 * spread.min()
        for counted_in in (torch.float32, torch.bfloat16):
            found = torch.linalg.svdvals(person_optimizer.orthogonal(matrix, counted_in))
            assert 0.5 < found.min() < found.max() < 1.3


def test_both_optimizers_step_and_go_on_where_they_ended() -> None:
    torch.manual_seed(0)

    def made() -> tuple[torch.nn.Module, person_optimizer.Both]:
        net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 24, 1),
            torch.nn.ReLU(), torch.nn.Conv2d(24, 2, 1),
        )  # fmt: skip
        mixing = person_optimizer.mixing_weights(net)
        assert [tuple(weight.shape) for weight in mixing] == [(24, 16, 1, 1)]
        both = person_optimizer.Both(net, mixing, peak=3e-3, muon_peak=2e-2, weight_decay=0.01)
        return net, both

    pictures = torch.randn(8, 3, 12, 12)
    labels = (pictures.mean(dim=1)[:, 1:-1, 1:-1] > 0).long()

    def train(net: torch.nn.Module, both: person_optimizer.Both, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            loss = torch.nn.functional.cross_entropy(net(pictures), labels)
            loss.backward()
            both.step(1.0)
            losses.append(loss.item())
        return losses

    net, both = made()
    losses = train(net, both, 60)
    assert losses[-1] < 0.3 < 0.6 < losses[0]
    assert all(p.grad is None for p in net.parameters())
    again, other = made()
    again.load_state_dict(net.state_dict())
    other.load_state_dict(copy.deepcopy(both.state_dict()))
    assert train(again, other, 3) == train(net, both, 3)


def asked(packed: Path, out: Path, **other: object) -> argparse.Namespace:
    given = {
        "pack": packed, "out": out, "data": packed.parent / "absent", "minutes": 60.0, "only": 0.05,
        "start": None, "distilled": None, "goes_on": None, "fold": False, "device": "cpu",
        "side": None, "workers": 0, "processes": 1,
    }  # fmt: skip
    return argparse.Namespace(**{**given, **other})


@pytest.fixture
def small(monkeypatch) -> None:
    monkeypatch.setitem(train_person.BATCH, "cpu", 2)
    monkeypatch.setitem(train_person.CROPS, "cpu", ((0.0, 64),))


def state(folder: Path) -> dict:
    return torch.load(folder / train_person.STATE, weights_only=True)


def test_overlap_is_that_of_all_people_of_a_batch_where_there_are_labels() -> None:
    labels = torch.zeros(2, 8, 8, dtype=torch.uint8)
    labels[0, :4] = person_pictures.PERSON
    labels[:, :, 6:] = person_pictures.IGNORE
    found = torch.full((2, 1, 4, 4), -40.0)
    found[0, 0, 1:3] = 40  # one row of cells of the person, one beside
    found[1, 0, :, 3] = 40  # where nothing is labelled
    loss = person_losses.overlap_loss(found, labels)
    assert loss.item() == pytest.approx(1 - 3 / 9)
    assert person_losses.overlap_loss(found[1:], labels[1:]).item() == pytest.approx(0, abs=1e-6)


def test_overlap_is_best_at_a_soft_label() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[0, :, ::4] = person_pictures.PERSON  # half of every other cell

    def loss(share: float) -> float:
        margin = torch.full((1, 1, 4, 4), -40.0)
        margin[..., ::2] = torch.logit(torch.tensor(share))
        return person_losses.overlap_loss(margin, labels).item()

    assert loss(0.5) == pytest.approx(0, abs=1e-6)
    assert loss(0.9) > loss(0.7) > loss(0.5) < loss(0.3)


def test_edges_count_more_and_are_the_labels_own() -> None:
    labels = torch.zeros(1, 40, 40, dtype=torch.uint8)
    labels[..., :20] = person_pictures.PERSON
    labels[:, :8] = person_pictures.IGNORE
    person, _ = person_losses.person_and_known(labels)
    edge = person_losses.at_edges(person)[0, 0]
    assert edge[10].nonzero().flatten().tolist() == list(range(7, 13))
    wrong, teacher = torch.zeros(1, 1, 20, 20), torch.full((1, 40, 40), 128, dtype=torch.uint8)

    def loss(row: int, column: int, *, taught: int = 128) -> float:
        margin, said = wrong.clone(), teacher.clone()
        margin[..., row, column] = 1.0
        said[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = taught
        return (
            400
            * (
                person_losses.person_loss(margin, labels, said)
                - person_losses.person_loss(wrong, labels, said)
            ).item()
        )

    inside, at_edge = loss(10, 2), loss(10, 9)
    assert at_edge < 2.5 * inside < 0  # a person is found: the loss falls, at the edge by more
    assert loss(10, 2, taught=0) > inside + 0.05  # a teacher that says otherwise holds it back
    assert loss(10, 9, taught=0) == pytest.approx(at_edge, abs=1e-3)  # but not at the edge
    assert loss(1, 9, taught=255) < loss(1, 9, taught=0)  # where nothing is labelled, it alone


def test_backdrops_and_margins_hold_nobody() -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        scene = person_views.empty_scene(person_views.backdrop(rng, 64))
        assert not scene.label.any()
        assert not scene.teacher.any()
        assert scene.image.std() > 0
        full = np.full((64, 64), person_pictures.PERSON, np.uint8)
        grey = np.full((64, 64, 3), 100, np.uint8)
        crop = person_views.View(grey, full, full * 255, np.zeros((21, 4, 4), np.float32))
        framed = person_views.with_margins(rng, crop)
        people = framed.label == person_pictures.PERSON
        assert (people == (framed.teacher == 255)).all()
        assert 0.3 < people.all(axis=0).mean() < 0.85  # whole columns, and none beside them
        assert people.all(axis=0).mean() == people.mean()
        assert (framed.image[people] == 100).all()
        assert np.isnan(framed.classes).all()


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_run_is_gone_on_with_and_begun_from(packed, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(train_person, "Example", lambda *given: SimpleNamespace(loss=lambda *_: 0))
    first, second = tmp_path / "first", tmp_path / "second"
    train_person.train(asked(packed, first), Together())
    once = state(first)
    assert once["samples"] == 2 * once["steps"] > 0
    train_person.train(asked(packed, first), Together())
    assert state(first)["samples"] > once["samples"]
    assert state(first)["elapsed_seconds"] > once["elapsed_seconds"]
    once = {**state(first), "spread": {"mean0": torch.zeros(1)}}
    torch.save(once, first / train_person.STATE)
    train_person.train(asked(packed, second, goes_on=first, fold=True, only=1e-6), Together())
    begun = state(second)
    assert begun["spread"] == once["spread"]
    frozen = [name for name in begun["average"] if "running_" in name]
    assert frozen
    assert all(torch.equal(begun["average"][name], once["average"][name]) for name in frozen)
    person_follow.loaded(torch.load(second / "person_ema.pth", weights_only=True))


@pytest.mark.slow
def test_two_processes_train_one_network(packed, tmp_path) -> None:
    from person_together import together

    together(train_person.train, asked(packed, tmp_path / "both", fold=True), 2)
    assert state(tmp_path / "both")["samples"] >= 2 * train_person.BATCH["cpu"]


# --- labels that lie where the picture's edges do -------------------------------------------------


def test_void_along_an_edge_is_halved_and_wider_void_stays() -> None:
    label = np.zeros((20, 40), np.uint8)
    label[:, :15] = person_pictures.PERSON
    label[:, 15:20] = person_pictures.IGNORE  # five pixels between person and street
    label[5:15, 25:38] = person_pictures.IGNORE  # something difficult, in the street
    halved = person_pictures.halved_rim(label)
    assert (halved[:, :17] == person_pictures.PERSON).all()
    assert (halved[:, 18:25] == person_pictures.BACKGROUND).all()
    assert (halved[5:15, 25:38] == person_pictures.IGNORE).all()
    nobody = np.where(label == person_pictures.PERSON, person_pictures.BACKGROUND, label)
    assert np.array_equal(person_pictures.halved_rim(nobody), nobody), (
        "far from people it says nothing"
    )


def test_a_label_moves_by_parts_of_pixels_and_goes_on_at_its_margins() -> None:
    label = np.zeros((10, 12), np.uint8)
    label[4:, 6:] = 1
    there = person_pictures.moved(label, -1.2, -0.9)
    wanted = np.zeros_like(label)
    wanted[3:, 5:] = 1
    assert np.array_equal(there, wanted)
    assert np.array_equal(person_pictures.moved(label, 0.4, -0.4), label)


def test_an_outline_covers_the_pixels_whose_middles_it_holds_and_a_crowd_is_ignored(
    tmp_path,
) -> None:
    pytest.importorskip("pycocotools")
    person, dog = ([2, 1, 7, 1, 7, 5, 2, 5], [0, 0, 10, 0, 10, 8, 0, 8])
    crowd = {"counts": [64, 8, 8], "size": [8, 10]}  # the last column but one
    annotations = [
        {"id": 1, "category_id": 18, "iscrowd": 0, "segmentation": [dog]},
        {"id": 2, "category_id": 1, "iscrowd": 0, "segmentation": [person]},
        {"id": 3, "category_id": 1, "iscrowd": 1, "segmentation": crowd},
    ]
    picture = tmp_path / "street.png"
    cv2.imwrite(str(picture), np.zeros((8, 10, 3), np.uint8))
    wanted = np.zeros((8, 10), np.uint8)
    wanted[1:5, 2:7] = person_pictures.PERSON
    wanted[:, 8] = person_pictures.IGNORE
    assert np.array_equal(person_pictures.coco_label(annotations, picture), wanted)


def test_of_pictures_without_labels_the_sharper_teacher_tells_the_edge() -> None:
    class Blurred(Seeing):
        def class_logits(self, image: np.ndarray) -> np.ndarray:
            logits = super().class_logits(image)
            return np.asarray(cv2.GaussianBlur(logits, (0, 0), 2))

    picture = disc("frames", 40, labelled=False)
    _, teacher, logits = person_data.taught(picture, Blurred(Path()))
    coarse = person_data.person_probability(logits, picture.image.shape[:2])
    unsure = (coarse > 0.2) & (coarse < 0.8)
    assert unsure.mean() > 0.02
    assert set(np.unique(teacher[unsure])) == {0, 255}


def test_every_wrong_pixel_counts_once_by_where_it_lies() -> None:
    label, bags = np.zeros((40, 60), np.uint8), np.zeros((40, 60), bool)
    label[10:30, 10:30] = 1
    bags[15:20, 32:40] = True
    found = np.zeros((40, 60), bool)
    found[10:30, 12:40] = True  # misses two columns, and goes ten beyond
    found[0:5, 50:55] = True  # somebody else
    picture = person_pictures.Picture(
        "p", "clothing-val", np.zeros((40, 60, 3), np.uint8), label, bags
    )
    errors = person_errors.errors_of(found, picture)
    assert errors == person_errors.Errors(
        both=20 * 18,
        union=20 * 30 + 25,
        near_outside=20 * 4 - 5 * 2,
        near_inside=20 * 2,
        apart=25,
        bags=5 * 8,
    )
    assert "apart 0.040" in person_errors.told("clothing", errors)
    assert "IoU 0.576 (0.600 without what is apart)" in person_errors.told("clothing", errors)
    two = errors.plus(errors)
    assert person_errors.told("x", two) == person_errors.told("x", errors)
