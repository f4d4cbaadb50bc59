"""Teachers: what they say of images, where they are trusted, and images that nobody labelled."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from clips import write_clip
from colour_network import make_network
from dataset_folders import COLOURS_BGR, NAMES, draw, write
from training import CHARTS, SMALLEST, Told, one_thread, quick, small  # noqa: F401 - autouse, and a fixture

from rtseg import cache
from rtseg.errors import DatasetError, UsageError
from rtseg.evaluation import sets
from rtseg.evaluation.sets import NetworkSpec, open_mix
from rtseg.labels import VOID
from rtseg.nets.state import read_checkpoint
from rtseg.sources import open_source
from rtseg.training import TrainOptions, augment, program
from rtseg.training import teachers as teaching
from rtseg.training.augment import UNTRUSTED
from rtseg.training.batches import TrainingImages, seeded
from rtseg.training.losses import borders, taught_loss, teacher_loss
from rtseg.training.prepare import build_trainable
from rtseg.training.program import train
from rtseg.training.teachers import ClassHead, doubted, read_soft, soft_labels
from rtseg.zoo import InputSpec

SIZE = (48, 64)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    for chart in CHARTS:
        monkeypatch.setattr(program, chart, lambda *arguments: None)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A labelled set, a folder of images alone, and a teacher that tells shapes by colour."""
    for number, picture in enumerate(draw(8, SIZE)):
        write(tmp_path / "known" / "images" / f"{number}.png", picture.image)
        write(tmp_path / "known" / "masks" / f"{number}.png", picture.mask)
    (tmp_path / "known" / "classes.json").write_text(json.dumps(list(NAMES)))
    for number, picture in enumerate(draw(5, SIZE, seed=9)):
        write(tmp_path / "alone" / f"{number}.png", picture.image)
    make_network(tmp_path / "teacher.onnx")
    path = tmp_path / "mix.toml"
    path.write_text(
        '[[set]]\npath = "known"\n[[set]]\npath = "alone"\nunlabelled = true\n'
        '[[network]]\nmodel = "teacher.onnx"\nimgsz = "48x64"\n'
    )
    return path


def ignore(done: int, total: int) -> None:
    pass


def teacher(path: Path) -> NetworkSpec:
    return NetworkSpec(str(path), imgsz=f"{SIZE[0]}x{SIZE[1]}")


def test_soft_labels_are_what_the_teacher_says(suite: Path) -> None:
    mix = open_mix(suite)
    found, _ = soft_labels(
        [teacher(suite.parent / "teacher.onnx")], mix.labels, mix.samples, ignore
    )
    assert sorted(found) == sorted(sample.name for sample in mix.samples)
    for sample, picture in zip(mix.samples[-5:], draw(5, SIZE, seed=9), strict=True):
        soft = read_soft(found[sample.name], len(NAMES))
        assert soft.shape == (len(NAMES) + 1, *SIZE)
        assert not soft[0].any(), "one teacher agrees with itself"
        assert np.abs(soft[1:].astype(int).sum(0) - 255).max() <= 2
        assert (soft[1:].argmax(0) == picture.mask).mean() > 0.98
        assert (sample.read_mask() == VOID).all()


def test_a_class_that_the_teacher_lacks_takes_nothing_of_its_background(suite: Path) -> None:
    mix = open_mix(suite)
    more = replace(mix.labels, names=(*NAMES, "dog"), colours=(*mix.labels.colours, (9, 9, 9)))
    teachers = [teacher(suite.parent / "teacher.onnx")]
    name = mix.samples[0].name
    plain, _ = soft_labels(teachers, mix.labels, mix.samples[:1], ignore)
    found, _ = soft_labels(teachers, more, mix.samples[:1], ignore)
    soft = read_soft(found[name], len(NAMES) + 1)
    assert not soft[-1].any()
    assert (soft[:-1] == read_soft(plain[name], len(NAMES))).all()


def test_soft_labels_are_computed_once(suite: Path) -> None:
    mix = open_mix(suite)
    teachers = [teacher(suite.parent / "teacher.onnx")]
    first, _ = soft_labels(teachers, mix.labels, mix.samples, ignore)
    before = {path: path.stat().st_ino for path in first.values()}
    damaged = first[mix.samples[0].name]
    damaged.write_bytes(damaged.read_bytes()[:40])
    again, _ = soft_labels(teachers, mix.labels, mix.samples, ignore)
    assert again == first
    assert {p for p in before if p.stat().st_ino != before[p]} == {damaged}
    read_soft(damaged, len(NAMES))


def test_soft_labels_of_a_large_dataset_stay(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one file per image, more than the other kinds of file may have."""
    monkeypatch.setattr(cache, "MADE_FILES", 2)
    mix = open_mix(suite)
    teachers = [teacher(suite.parent / "teacher.onnx")]
    aged(soft_labels(teachers, mix.labels, mix.samples, ignore)[0].values())
    soft_labels(teachers, mix.labels, mix.samples[:1], ignore)
    monkeypatch.delattr(teaching, "_asked")
    soft_labels(teachers, mix.labels, mix.samples, ignore)


def aged(paths: Iterable[Path]) -> None:
    for path in paths:
        old = time.time() - 2 * cache.YOUNG_SECONDS
        os.utime(path, (old, old))


def test_what_a_run_has_found_in_the_cache_outlives_what_it_adds(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soft labels and frames of clips, where the cache holds no more than is young."""
    monkeypatch.setattr(sets, "make_room", partial(cache.make_room, most_bytes=1))
    monkeypatch.setattr(teaching, "make_room", partial(cache.make_room, most_bytes=1))
    add_clip(suite, "a.mkv")
    frames = [sample.image_path for sample in open_mix(suite).samples if sample.sequence]
    aged(frames[0].parent.iterdir())
    add_clip(suite, "b.mkv", shown=4)
    mix = open_mix(suite)
    assert all(path.is_file() for path in frames)

    known = [teacher(suite.parent / "teacher.onnx")]
    soft = soft_labels(known, mix.labels, mix.samples[:2], ignore)[0].values()
    aged(soft)
    made = soft_labels(known, mix.labels, mix.samples, ignore)[0].values()
    assert all(path.is_file() for path in made)
    aged(made)
    soft_labels(known, mix.labels, mix.samples[:1], ignore)
    assert sum(path.is_file() for path in made) == 1


def test_other_teachers_have_other_soft_labels(suite: Path) -> None:
    mix = open_mix(suite)
    one = teacher(suite.parent / "teacher.onnx")
    other = teacher(make_network(suite.parent / "b.onnx", colours=COLOURS_BGR[::-1]))
    first, _ = soft_labels([one], mix.labels, mix.samples[:1], ignore)
    both, _ = soft_labels([one, other], mix.labels, mix.samples[:1], ignore)
    assert set(first.values()).isdisjoint(both.values())
    soft = read_soft(both[mix.samples[0].name], len(NAMES))
    mask = mix.samples[0].read_mask()
    # the order of colours is turned round: what was the first class is the last
    assert (soft[0][mask == 0] == UNTRUSTED).mean() > 0.95
    assert (soft[0][mask == 1] == 0).mean() > 0.95


def test_a_teacher_of_other_settings_has_other_soft_labels(suite: Path) -> None:
    mix, path = open_mix(suite), suite.parent / "teacher.toml"
    before, _ = soft_labels(
        [teacher(path.with_suffix(".onnx"))], mix.labels, mix.samples[:1], ignore
    )
    path.write_text(path.read_text().replace("RGB", "BGR"))
    after, _ = soft_labels(
        [teacher(path.with_suffix(".onnx"))], mix.labels, mix.samples[:1], ignore
    )
    assert set(before.values()).isdisjoint(after.values())


def test_soft_labels_with_all_classes_of_the_first_teacher(suite: Path) -> None:
    mix = open_mix(suite)
    few = replace(mix.labels, names=NAMES[:2], colours=mix.labels.colours[:2])
    teachers = [teacher(suite.parent / "teacher.onnx")]
    plain, none = soft_labels(teachers, few, mix.samples[:1], ignore)
    found, own = soft_labels(teachers, few, mix.samples[:1], ignore, own=True)
    assert (none, own) == ((), tuple(range(len(NAMES))))
    assert set(plain.values()).isdisjoint(found.values())
    name = mix.samples[0].name
    soft = read_soft(found[name], 2 + len(own))
    assert (soft[:3] == read_soft(plain[name], 2)).all()
    assert (soft[3:].argmax(0) == mix.samples[0].read_mask()).mean() > 0.98


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="missing or damaged"):
        read_soft(tmp_path / "none.npz", 2)


def test_a_teacher_of_other_things_is_refused(suite: Path) -> None:
    mix = open_mix(suite)
    other = teacher(make_network(suite.parent / "c.onnx", names=["sky", "sea", "sand"]))
    with pytest.raises(UsageError, match="no class in common"):
        soft_labels([other], mix.labels, mix.samples, ignore)


def test_unlabelled_images_need_a_teacher(suite: Path) -> None:
    text = suite.read_text()
    suite.write_text(text.partition("[[network]]")[0])
    with pytest.raises(UsageError, match="unlabelled"):
        open_mix(suite)


def test_background_of_a_sparse_set_is_unknown_where_the_teacher_sees_an_object(
    suite: Path,
) -> None:
    text = suite.read_text()
    suite.write_text(text.replace('path = "known"', 'path = "known"\nsparse = true'))
    for path in (suite.parent / "known" / "masks").iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        mask[:, : SIZE[1] // 2] = 0  # nobody labelled what is on the left
        write(path, mask)
    mix = open_mix(suite)
    files, _ = soft_labels(
        [teacher(suite.parent / "teacher.onnx")], mix.labels, mix.samples, ignore
    )
    options = TrainOptions("x", size=SIZE, scale=(1.0, 1.0), rotation=0, flip=0)
    images = TrainingImages(
        mix.samples,
        np.arange(256, dtype=np.uint8),
        augment.training(options, InputSpec(SIZE), background=0),
        lambda sample: read_soft(files[sample.name], len(NAMES)),
        len(NAMES),
    )
    taught = np.stack([images[index, 0][1].numpy() for index in range(8)])
    drawn = np.stack([picture.mask for picture in draw(8, SIZE)])
    left, right = np.s_[..., : SIZE[1] // 2 - 4], np.s_[..., SIZE[1] // 2 :]
    assert (taught[left][drawn[left] > 0] == VOID).mean() > 0.9
    assert (taught[left][drawn[left] == 0] == 0).mean() > 0.9
    assert (taught[right][drawn[right] > 0] == drawn[right][drawn[right] > 0]).all()


def test_teachers_are_not_believed_near_what_is_labelled() -> None:
    mask = np.zeros((100, 100), np.uint8)
    mask[40:60, 40:60] = 1
    soft = np.zeros((3, 100, 100), np.uint8)
    soft[2] = 255  # the teacher sees class 1 everywhere
    soft[0, :20] = UNTRUSTED
    found = doubted(mask, soft, background=0)
    assert (found[40:60, 40:60] == 1).all()
    assert (found[38:40, 40:60] == 0).all()
    assert (found[:20] == 0).all()
    assert (found[70:] == VOID).all()


def add_clip(suite: Path, name: str, every: int = 4, shown: int = 10) -> list[np.ndarray]:
    """Write a lossless clip beside the images alone; returns what it shows, BGR."""
    images = [picture.image for picture in draw(shown, SIZE, seed=3)]
    path = suite.parent / "alone" / name
    write_clip(path, codec="ffv1", pix_fmt="bgr0", images=[image[..., ::-1] for image in images])
    text = suite.read_text().replace(f"every = {every}\n", "")
    suite.write_text(text.replace("unlabelled", f"every = {every}\nunlabelled"))
    return images


def test_clips_give_every_nth_frame_and_are_read_once(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = add_clip(suite, "a.mkv")
    seen: list[tuple[str, int, int]] = []
    mix = open_mix(suite, progress=lambda *progress: seen.append(progress))
    frames = [sample for sample in mix.samples if sample.sequence]
    assert [sample.name for sample in frames] == [f"alone/a.mkv/{i:06d}" for i in (0, 4, 8)]
    assert [name for name, _, _ in seen] == ["a.mkv"] * 3
    assert len(mix) == 8 + 5 + 3
    assert "alone: 1 clip, 1 frame in 4" in mix.notes
    for number, sample in zip((0, 4, 8), frames, strict=True):
        both = [
            cv2.resize(i, (8, 6), interpolation=cv2.INTER_AREA)
            for i in (sample.read_image(), shown[number])
        ]
        assert np.abs(np.subtract(*both, dtype=int)).max() < 10  # noise and JPEG aside
        assert (sample.read_mask() == VOID).all()
        assert (sample.split, sample.labelled) == ("train", False)

    opened: list[object] = []
    monkeypatch.setattr(sets, "open_source", lambda *a: opened.append(a) or open_source(*a))
    assert open_mix(suite).samples == mix.samples
    assert not opened
    frames[1].image_path.unlink()
    assert open_mix(suite).samples == mix.samples
    assert len(opened) == 1
    assert frames[1].image_path.is_file()


def test_a_clip_is_a_set(suite: Path) -> None:
    add_clip(suite, "a.mkv")
    text = suite.read_text().replace('"alone"', '"alone/a.mkv"').replace("unlabelled = true", "")
    suite.write_text(text)
    names = [sample.name for sample in open_mix(suite).samples if not sample.labelled]
    assert names == [f"a/a.mkv/{i:06d}" for i in (0, 4, 8)]


def test_a_clip_that_cannot_be_read_is_a_fault_of_the_dataset(suite: Path) -> None:
    add_clip(suite, "a.mkv")
    clip = suite.parent / "alone" / "b.mkv"
    clip.write_bytes((suite.parent / "alone" / "a.mkv").read_bytes()[:200])
    mix = open_mix(suite)
    assert [problem.path for problem in mix.problems] == [clip]
    assert sum(bool(sample.sequence) for sample in mix.samples) == 3


def test_a_linked_clip_elsewhere_is_refused(suite: Path, tmp_path: Path) -> None:
    add_clip(suite, "a.mkv")
    (tmp_path / "elsewhere").mkdir()
    clip = (suite.parent / "alone" / "a.mkv").rename(tmp_path / "elsewhere" / "a.mkv")
    (suite.parent / "alone" / "a.mkv").symlink_to(clip)
    with pytest.raises(DatasetError, match="outside its folder"):
        open_mix(suite)
    assert len(open_mix(suite, allow_outside=True)) == 16


def soft_of(labels: torch.Tensor, classes: int, sure: float = 1.0) -> torch.Tensor:
    """(N, C + 1, h, w) uint8: trusted everywhere, `sure` of these labels."""
    hot = torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float()
    shares = hot * sure + (1 - hot) * (1 - sure) / (classes - 1)
    return torch.cat([torch.zeros_like(labels)[:, None], (255 * shares).round()], 1).to(torch.uint8)


def test_the_teachers_loss_is_cross_entropy_with_its_shares() -> None:
    logits = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    said = torch.randint(0, 3, (2, 6, 6), generator=torch.Generator().manual_seed(1))
    unknown = torch.full((2, 6, 6), VOID)
    soft = soft_of(said, 3, sure=0.8)
    shares = soft[:, 1:].float() / soft[:, 1:].float().sum(1, keepdim=True)
    expected = torch.nn.functional.cross_entropy(logits, shares)
    loss = teacher_loss(logits, unknown, soft, borders(unknown, 1))
    assert loss.item() == pytest.approx(float(expected), rel=1e-4)


def test_softer_shares_by_a_temperature() -> None:
    logits = torch.tensor([[[[2.0]], [[0.0]]]])
    soft = torch.tensor([[[[0]], [[204]], [[51]]]], dtype=torch.uint8)  # 0.8 and 0.2
    shares = torch.tensor([0.8, 0.2]).sqrt() / torch.tensor([0.8, 0.2]).sqrt().sum()
    expected = -(shares * torch.tensor([1.0, 0.0]).log_softmax(0)).sum() * 4
    unknown, nowhere = torch.full((1, 1, 1), VOID), torch.zeros(1, 1, 1)
    loss = teacher_loss(logits, unknown, soft, nowhere, temperature=2.0)
    assert loss.item() == pytest.approx(float(expected), rel=1e-4)


def test_a_teacher_is_not_trusted_where_labels_know_better() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[:, :, 4:] = 1
    said = labels.clone()
    said[:, 0, 0] = 1  # wrong
    soft = soft_of(said, 2)
    soft[:, 0, 7, 7] = UNTRUSTED
    logits = torch.zeros(1, 2, 8, 8, requires_grad=True)
    teacher_loss(logits, labels, soft, borders(labels, 1)).backward()
    assert logits.grad is not None
    taught = logits.grad.abs().sum(1)[0] > 0
    expected = torch.ones(8, 8, dtype=torch.bool)
    expected[:, 3:5] = expected[0, 0] = expected[7, 7] = False
    assert (taught == expected).all()


def test_soft_labels_move_with_their_image() -> None:
    picture = next(draw(1, SIZE))
    said = torch.from_numpy(picture.mask).long()[None]
    soft = soft_of(said, len(NAMES))[0].numpy()
    options = TrainOptions("x", size=SIZE, scale=(0.7, 1.5))
    transform = augment.training(options, InputSpec(SIZE), background=0)
    for seed in range(5):
        with seeded(seed):
            _, labels, moved = transform(picture.image, picture.mask, None, soft)
        outside = labels == VOID
        assert (moved[0] == UNTRUSTED)[outside].all()
        between = borders(labels[None], 1)[0] > 0  # where soft labels are in between as well
        assert (moved[1:].argmax(0) == labels)[~outside & ~between].all()


def test_soft_labels_of_a_left_arm_are_those_of_a_right_one_in_a_mirrored_image() -> None:
    """Of the classes that are trained, and of those that the teacher has in another order."""
    mask = np.zeros(SIZE, np.uint8)
    mask[:, :10], mask[:, 40:] = 1, 2
    own = np.array([2, 0, 1], np.uint8)[mask]  # left, right, nothing
    planes = [mask == index for index in range(3)] + [own == index for index in range(3)]
    soft = np.stack([np.zeros(SIZE), *planes]).astype(np.uint8) * 255
    options = TrainOptions("x", size=SIZE, scale=(1.0, 1.0), rotation=0, flip=1.0)
    transform = augment.training(options, InputSpec(SIZE), 0, (0, 2, 1, 3 + 1, 3 + 0, 3 + 2))
    _, labels, moved = transform(np.zeros((*SIZE, 3), np.uint8), mask, None, soft)
    expected = np.array([0, 2, 1], np.uint8)[mask[:, ::-1]]
    assert (labels.numpy() == expected).all()
    assert (moved[1:4].argmax(0).numpy() == expected).all()
    assert (moved[4:].argmax(0).numpy() == np.array([2, 0, 1])[expected]).all()


def test_what_is_pasted_is_not_the_teachers() -> None:
    picture = next(draw(1, SIZE))
    soft = soft_of(torch.zeros(1, *SIZE, dtype=torch.int64), len(NAMES))[0].numpy()
    options = TrainOptions("x", size=SIZE, scale=(1.0, 1.0), rotation=0, flip=0, paste=1.0)
    transform = augment.training(options, InputSpec(SIZE), background=0)
    nothing = np.zeros(SIZE, np.uint8)
    _, labels, moved = transform(
        picture.image, nothing, lambda: (picture.image, picture.mask), soft
    )
    assert (moved[0] == UNTRUSTED).numpy().tolist() == (labels != 0).numpy().tolist()
    assert (labels.numpy() == picture.mask).all()


def test_a_mix_with_a_teacher_is_trained_and_goes_on(
    suite: Path,
    small: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planes: list[int] = []
    monkeypatch.setattr(program, "fitting_workers", lambda n, *rest: planes.append(rest[-1]) or n)
    add_clip(suite, "a.mkv", every=5)
    options = quick(suite, small, suite.parent / "run", max_steps=3)
    told = Told()
    result = train(options, callback=told)
    assert result.best is not None
    assert "teacher.onnx" in told.said("teachers")
    assert planes == [1 + len(NAMES), 0], "soft labels are only of training images"
    split = json.loads((suite.parent / "run" / "split.json").read_text())
    assert {f"alone/{i}" for i in range(5)} <= set(split["train"])
    assert {"alone/a.mkv/000000", "alone/a.mkv/000005"} <= set(split["train"])
    assert not any(name.startswith("alone") for name in split["val"])
    assert train(options, resume=True).rows == result.rows


@pytest.mark.slow
def test_teachers_change_what_is_learnt(suite: Path, small: Path) -> None:  # noqa: F811
    losses = []
    for weight in (0.0, 0.5, 1.0):
        told = Told()
        out = suite.parent / f"run{weight}"
        train(quick(suite, small, out, max_steps=1, teacher_weight=weight), callback=told)
        losses += told.losses
    assert losses[1] > losses[0] + 0.01
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)


def test_the_loss_of_a_teachers_classes_is_cross_entropy_where_it_has_seen_the_image() -> None:
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    soft = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    soft[:, 0, :, :4], soft[:, 2, :, 4:] = 255, 255
    distrust = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    distrust[..., 4:, :] = UNTRUSTED
    expected = -logits.log_softmax(1)[0, (0, 2), 0, (0, 1)].mean()
    assert taught_loss(logits, soft, distrust) == pytest.approx(float(expected))
    assert taught_loss(logits, soft, torch.full_like(distrust, UNTRUSTED)) == 0


@pytest.mark.parametrize(
    ("size", "cells"),
    [((256, 288), (8, 9)), ((64, 512), (2, 16)), ((512, 64), (16, 2)), ((500, 90), (16, 3))],
)
def test_the_loss_of_a_teachers_classes_is_sampled_as_it_would_be_pooled(
    size: tuple[int, int], cells: tuple[int, int]
) -> None:
    random = torch.Generator().manual_seed(5)
    coarse = torch.rand(1, 4, 3, 4, generator=random)
    shares = torch.nn.functional.interpolate(coarse, size, mode="bilinear").softmax(1)
    soft = (255 * shares).round().to(torch.uint8)
    distrust = torch.zeros(1, 1, *size, dtype=torch.uint8)
    distrust[..., : size[1] // 3] = UNTRUSTED
    logits = torch.randn(1, 4, *cells, generator=random)

    pooled = torch.nn.functional.adaptive_avg_pool2d(soft.float(), cells)
    trusted = torch.nn.functional.adaptive_avg_pool2d(distrust.float(), cells)[:, 0] < 128
    each = -(pooled / pooled.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1)
    assert taught_loss(logits, soft, distrust) == pytest.approx(float(each[trusted].mean()), 2e-3)


def test_a_teachers_classes_are_sampled_along_each_side_by_its_own_cells() -> None:
    """Logits whose cells are wide: what lies between the samples of a coarser grid counts too."""
    soft = torch.zeros(1, 2, 64, 24, dtype=torch.uint8)
    soft[:, 0], soft[:, 0, :, ::2], soft[:, 1, :, ::2] = 255, 0, 255
    distrust = torch.zeros(1, 1, 64, 24, dtype=torch.uint8)
    logits = torch.tensor([2.0, -1.0])[None, :, None, None].expand(1, 2, 2, 6)
    expected = -logits.log_softmax(1).mean()
    assert taught_loss(logits, soft, distrust) == pytest.approx(float(expected))


@pytest.mark.parametrize("architecture", ["fpn_mobilenet_v2", SMALLEST, "segformer_b0"])
def test_a_class_head_speaks_in_training_only(architecture: str) -> None:
    network = build_trainable(architecture, 2, aux=False)
    ClassHead(network, 5)
    image = torch.randn(2, 3, 64, 64)
    outputs = network(image)
    assert outputs["taught"].shape[:2] == (2, 5)
    outputs["taught"].sum().backward()
    assert all(p.grad is not None for p in network.get_submodule("backbone").parameters())
    copied = deepcopy(network)
    with torch.no_grad():
        copied.get_submodule(ClassHead.NAME).layer.bias.fill_(9)  # type: ignore[union-attr]
        assert copied(image)["taught"].mean() > network(image)["taught"].mean() + 5
    assert set(network.eval()(image)) == {"out"}


@pytest.mark.slow
def test_a_backbone_learns_a_teachers_classes(suite: Path, small: Path) -> None:  # noqa: F811
    losses = []
    for weight in (0.0, 1.0, 2.0):
        told = Told()
        out = suite.parent / f"run{weight}"
        options = quick(suite, small, out, max_steps=1, teacher_weight=0, teacher_classes=weight)
        result = train(options, callback=told)
        losses += told.losses
        state = read_checkpoint(result.folder.best)[1]
        assert not any(key.startswith(ClassHead.NAME) for key in state)
    assert losses[1] > losses[0] + 0.5, "the head begins with about log 4"
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-2)
    assert train(options, resume=True).rows == result.rows
    assert ", and all its classes, weight 2" in told.said("teachers")


def test_a_teachers_classes_need_a_teacher(suite: Path, small: Path) -> None:  # noqa: F811
    options = quick(suite.parent / "known", small, suite.parent / "run", teacher_classes=1)
    with pytest.raises(UsageError, match="has no teachers"):
        train(options)
