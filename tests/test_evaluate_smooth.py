"""`rtseg eval --smooth` and `--clip`: what smoothing buys and costs, beside the plain figures."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from colour_network import make_network
from dataset_folders import COLOURS_BGR, make_folder, write

from rtseg.cli.app import main
from rtseg.errors import SourceError, UsageError
from rtseg.evaluation.networks import Network
from rtseg.evaluation.report import Evaluation, clip_result, result
from rtseg.evaluation.scoring import FlickerCounter, score, score_clip
from rtseg.evaluation.sets import SetSpec, open_set
from rtseg.nets import find_model
from rtseg.sources import open_source
from rtseg.temporal.options import USUAL_SMOOTH

Capture = pytest.CaptureFixture[str]
SIZE = (48, 64)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_network(tmp_path / "net.onnx")
    return tmp_path


@pytest.fixture
def network(inside: Path) -> Network:
    """Tells discs and boxes by their colours."""
    return Network("net", find_model(inside / "net.onnx"))


def trembling(count: int = 12) -> list[np.ndarray]:
    """A disc's half over a still ground; on its rim, its colour comes and goes by a hair."""
    rough = np.random.default_rng(0).integers(0, 9, (*SIZE, 3))
    ground, disc = (np.array(colour, float) for colour in COLOURS_BGR[:2])
    frames = []
    for index in range(count):
        share = np.zeros(SIZE)
        share[:, :32] = 1
        share[:, 32:40] = 0.5 + (0.02 if index % 2 else -0.02)
        frames.append((ground + share[..., None] * (disc - ground) + rough).clip(0, 255))
    return [frame.astype(np.uint8) for frame in frames]


def sequence(folder: Path) -> Path:
    for walk in ("a", "b"):
        for number, image in enumerate(trembling()):
            mask = np.zeros(SIZE, np.uint8)
            mask[:, :36] = 1
            write(folder / "images" / walk / f"{number:03}.png", image)
            write(folder / "masks" / walk / f"{number:03}.png", mask)
    (folder / "classes.json").write_text(json.dumps(["background", "disc", "box"]))
    return folder


def clip(folder: Path) -> Path:
    folder.mkdir()
    for number, image in enumerate(trembling()):
        cv2.imwrite(str(folder / f"{number:03}.png"), image)
    return folder


def test_a_sequence_is_measured_plain_and_smoothed(inside: Path, network: Network) -> None:
    chosen = open_set(SetSpec(sequence(inside / "set")))
    plain = score(network, chosen)
    both = score(network, chosen, smooth=0.8)
    assert plain.smoothed is None
    assert result(both) == {**result(plain), "seconds": both.seconds}
    assert both.smoothed is not None
    assert both.flicker.share > 0.05
    assert both.smoothed.flicker.share < 0.5 * both.flicker.share
    assert both.smoothed.flicker.counted == both.flicker.counted
    assert both.smoothed.pictures == both.pictures == 24
    assert result(both.smoothed)["smooth"] == 0.8
    assert result(both.smoothed)["network"] == "net, smooth 0.8"


def test_smoothing_begins_anew_with_each_sequence(inside: Path, network: Network) -> None:
    """The last frame of one does not colour the first of the next, which is another picture."""
    chosen = open_set(SetSpec(sequence(inside / "set")))
    whole = score(network, chosen, smooth=1.0).smoothed
    first = score(network, open_set(SetSpec(sequence(inside / "same"))), smooth=1.0).smoothed
    assert whole is not None
    assert first is not None
    halves = [sample.name for sample in chosen.samples if "b" in sample.sequence]
    (inside / "b.txt").write_text("\n".join(halves))
    last = score(
        network, open_set(SetSpec(inside / "set", names=inside / "b.txt")), smooth=1.0
    ).smoothed
    assert last is not None
    # both sequences are alike, so that each gives half of all counts
    assert (2 * last.matrix.counts == whole.matrix.counts).all()


def test_single_pictures_are_not_smoothed(inside: Path, network: Network) -> None:
    single = score(network, open_set(SetSpec(make_folder(inside / "one", 3))), smooth=0.8)
    assert single.smoothed is None


def test_the_flicker_of_a_clip_is_that_of_its_pairs(inside: Path, network: Network) -> None:
    folder = clip(inside / "clip")
    found = score_clip(network, str(folder))

    counter = FlickerCounter()
    with network, open_source(folder) as source:
        for frame in source:
            counter.add((frame, network(frame.image)))
    assert found.flicker == counter.flicker
    assert found.flicker.share > 0.05
    assert (found.frames, found.complete, found.smoothed) == (12, True, None)


def test_a_clip_is_steadier_smoothed(inside: Path, network: Network) -> None:
    told: list[int] = []
    folder = str(clip(inside / "clip"))
    found = score_clip(
        network, folder, smooth=0.8, max_frames=10, on_frame=lambda one: told.append(one.frames)
    )
    assert told == list(range(11))
    assert found.smoothed is not None
    assert found.smoothed.flicker.share < 0.5 * found.flicker.share
    values = clip_result(found.smoothed)
    assert (values["network"], values["smooth"], values["frames"]) == ("net, smooth 0.8", 0.8, 10)
    assert values["runs_on"]["name"] == "onnx"


def test_a_clip_that_is_stopped_says_so(inside: Path, network: Network) -> None:
    seen: list[int] = []
    found = score_clip(
        network,
        str(clip(inside / "clip")),
        on_frame=lambda one: seen.append(one.frames),
        stop=lambda: len(seen) > 4,
    )
    assert found.frames == 4
    assert not found.complete
    assert Evaluation((), (found,)).to_plain()["complete"] is False


def test_what_is_live_or_absent_has_no_flicker(network: Network) -> None:
    with pytest.raises(UsageError, match="it is live"):
        score_clip(network, "test://?size=64x48&frames=3&live=1")
    with pytest.raises(SourceError, match="there is no such file"):
        score_clip(network, "nope.mp4")


def test_tables_and_json_have_both(inside: Path, capsys: Capture) -> None:
    sequence(inside / "set")
    clip(inside / "clip")
    asked = ["--data", "set", "--clip", "clip", "-m", "net.onnx", "--smooth", "0.8"]
    assert main(["eval", *asked, "--json", "o.json"]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    names = [line[1].strip() for line in lines if len(line) > 2]
    assert names.count("net") == 2
    assert names.count("net, smooth 0.8") == 2
    found = json.loads((inside / "o.json").read_text())
    assert found["complete"] is True
    assert [one["smooth"] for one in found["results"]] == [0.0, 0.8]
    plain, smoothed = (one["flicker"] for one in found["clips"])
    assert smoothed < 0.5 * plain


def test_the_matrix_of_the_smoothed_masks_is_not_replaced(inside: Path) -> None:
    sequence(inside / "set")
    asked = ["eval", "--data", "set", "-m", "net.onnx", "--smooth", "0.8", "--confusion", "m.png"]
    assert main([*asked, "-q"]) == 0
    plain, smoothed = sorted(inside.glob("m-*.png"))
    plain.unlink()
    smoothed.write_bytes(b"kept")
    assert main([*asked, "-q"]) == 2
    assert smoothed.read_bytes() == b"kept"
    assert main([*asked, "-q", "-y"]) == 0
    assert smoothed.read_bytes() != b"kept"


def test_clips_alone_are_enough(inside: Path, capsys: Capture) -> None:
    clip(inside / "clip")
    assert main(["eval", "--clip", "clip", "-m", "net.onnx", "--max-frames", "5", "-q"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["clip", "model", "frames", "flicker", "%"]
    assert rows[1][1:3] == ["net", "5"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--smooth", "2", "--clip", "clip"), "--smooth 2: it must be 0 to 1"),
        (("--smooth", "0.5", "--data", "one"), "no set has sequences"),
        (("--max-frames", "9", "--data", "one"), "--max-frames without --clip"),
        (("--max-pictures", "9", "--clip", "a.mp4"), "--max-pictures without images"),
        (("--max-frames", "1", "--clip", "clip"), "--max-frames 1: it must be 2 or more"),
    ],
)
def test_what_makes_no_sense_is_exit_2(
    flags: tuple[str, ...], words: str, inside: Path, capsys: Capture
) -> None:
    make_folder(inside / "one", 2)
    clip(inside / "clip")
    assert main(["eval", "-m", "net.onnx", *flags]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_the_usual_strength_on_real_clips_and_sequences(data: Path, inside: Path) -> None:
    """Less than half of the flicker before a camera, and no half point of IoU where it is known."""
    for name in ("dance-twirl", "parkour"):
        for ours, theirs in (("images", "frames"), ("masks", "masks")):
            (inside / "davis" / ours).mkdir(parents=True, exist_ok=True)
            (inside / "davis" / ours / name).symlink_to(data / "davis" / name / theirs)
    (inside / "davis" / "classes.json").write_text('["background", "person"]')
    network = Network("mediapipe", find_model(data / "networks" / "mediapipe.onnx"))
    with network:
        for name in ("liveportrait_d9.mp4", "liveportrait_d13.mp4"):
            path = str(data / "videos" / name)
            found = score_clip(network, path, smooth=USUAL_SMOOTH, max_frames=30)
            assert found.smoothed is not None
            assert found.smoothed.flicker.share < 0.5 * found.flicker.share
        labelled = score(
            network, open_set(SetSpec(inside / "davis", allow_outside=True)), smooth=USUAL_SMOOTH
        )
    assert labelled.smoothed is not None
    plain, steadied = (one.matrix.class_iou[1] for one in (labelled, labelled.smoothed))
    assert steadied > plain - 0.005
