"""Several sources from the command line: what is shown, written, said and measured."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import PIL.Image
import pytest

import rtseg
from rtseg.backends.ladder import AdaptiveBackend
from rtseg.cli.app import main
from rtseg.cli.options import Flags
from rtseg.cli.plan import make_grid_plan
from rtseg.cli.run import Session, _ended
from rtseg.errors import SourceError
from rtseg.frame import Frame
from rtseg.labels import SHAPE_LABELS
from rtseg.segmenter import Segmenter
from rtseg.session.engine import Channel
from rtseg.session.loop import Loop
from rtseg.sources import file_stem, open_source
from rtseg.sources.synthetic import SyntheticSource, read_number
from rtseg.temporal import TemporalOptions

STUB = ("-m", "stub", "-b", "stub")
ONE = "test://?size=320x240&fps=30&frames=12"
TWO = "test://?size=160x120&fps=15&frames=9&seed=4"
LIVE = "test://?size=320x240&fps=30&live=1"

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in a folder of its own, without a display."""
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def pictures(path: str | Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def facts(path: str | Path) -> tuple[Fraction, float]:
    """Frames per second and duration in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return Fraction(stream.average_rate), float(stream.duration * stream.time_base)


def figures(path: str = "m.json") -> dict:
    return json.loads(Path(path).read_text())


def test_each_source_gets_a_file_of_its_own_with_every_frame(capsys: Capture) -> None:
    outputs = ("-o", "out/", "-o", "other_{n}.mkv", "-o", "third_{name}.mp4")
    assert main([ONE, TWO, *STUB, *outputs, "--mask-output", "masks/"]) == 0
    for first, second in (
        ("out/test.mp4", "out/test_2.mp4"),
        ("other_1.mkv", "other_2.mkv"),
        ("third_test.mp4", "third_test_2.mp4"),
        ("masks/test.mkv", "masks/test_2.mkv"),
    ):
        a, b = pictures(first), pictures(second)
        assert (len(a), len(b)) == (12, 9)
        assert (a[0].shape, b[0].shape) == ((240, 320, 3), (120, 160, 3))
    assert [read_number(image) for image in pictures("out/test.mp4")] == list(range(12))
    assert facts("out/test_2.mp4") == (15, pytest.approx(0.6))
    assert "wrote    9 frames to out/test_2.mp4" in capsys.readouterr().err


def test_one_source_fills_in_its_name_too() -> None:
    assert main([ONE, *STUB, "-o", "a_{name}_{n}.mkv", "--json", "{name}.jsonl"]) == 0
    assert len(pictures("a_test_1.mkv")) == 12
    assert len(Path("test.jsonl").read_text().splitlines()) == 12


def test_recordings_are_written_beside_each_other_by_their_own_times() -> None:
    """At each moment of the grid both cells show the frame that is due in each file."""
    one, two = "test://?size=320x240&fps=30&frames=20", "test://?size=320x240&fps=15&frames=12"
    assert main([one, two, *STUB, "-o", "grid.mp4", "-q"]) == 0
    assert facts("grid.mp4") == (30, pytest.approx(0.8))
    grid = pictures("grid.mp4")
    left = [read_number(image[:, :320]) for image in grid]
    right = [read_number(image[:, -320:]) for image in grid]
    assert right == [n // 2 for n in range(24)]
    assert left[:20] == list(range(20))
    assert grid[0].shape == (240, 644, 3)


def test_beside_one_that_cannot_be_opened_recordings_keep_their_own_times() -> None:
    """They are not paced, lose no frame and give the film its rate, as without it."""
    one = "test://?size=160x120&fps=10&frames=40"
    outputs = ("-o", "grid.mp4", "--metrics", "m.json", "-q")
    assert main([one, "nosuch.mp4", *STUB, *outputs]) == 3
    assert facts("grid.mp4") == (10, pytest.approx(4.0))
    assert len(pictures("grid.mp4")) == 40
    assert figures()["total"]["dropped"] == 0
    assert figures()["total"]["seconds"] < 3.5


def test_each_cell_shows_the_mask_of_its_own_frame() -> None:
    one, two = "test://?size=320x240&frames=12&seed=1", "test://?size=320x240&frames=12&seed=2"
    arguments = ("--view", "mask", "--codec", "ffv1", "-o", "grid.mkv", "-q")
    assert main([one, two, *STUB, *arguments]) == 0
    colours = np.array(SHAPE_LABELS.colours, np.uint8)[:, ::-1]
    grid = pictures("grid.mkv")
    for target, left in ((one, 0), (two, 324)):
        source = SyntheticSource(target)
        for number in (0, 5, 11):
            shown = grid[number][:, left : left + 320]
            right = (shown == colours[source.mask_of(number)]).all(-1)
            stale = (shown == colours[source.mask_of((number + 6) % 12)]).all(-1)
            assert right.mean() > 0.98
            assert stale.mean() < right.mean() - 0.01, "another frame's mask would be told"


def test_edges_follow_the_pictures_in_a_grid_and_in_the_files_of_each() -> None:
    one, two = "test://?size=320x240&frames=3&seed=1", "test://?size=320x240&frames=3&seed=2"
    outputs = ("--view", "mask", "--codec", "ffv1", "-o", "grid.mkv", "--mask-output", "masks_{n}/")
    truth = SyntheticSource(one).mask_of(0)
    colours = np.array(SHAPE_LABELS.colours, np.uint8)[:, ::-1]
    shown, written = [], []
    for refine in ((), ("--refine",)):
        assert main([one, two, *STUB, "--imgsz", "32x64", *outputs, *refine, "-q", "-y"]) == 0
        shown.append((pictures("grid.mkv")[0][:, :320] == colours[truth]).all(-1).mean())
        mask = np.array(PIL.Image.open(sorted(Path("masks_1").iterdir())[0]))
        written.append((mask == truth).mean())
    assert shown[1] > shown[0]
    assert written[1] > written[0]


@pytest.mark.slow
def test_a_written_grid_of_live_sources_lasts_as_long_as_the_world_did() -> None:
    live = "test://?size=160x120&fps=17&live=1&frames=34"
    assert main([live, TWO, *STUB, "-o", "grid.mp4", "--metrics", "m.json", "-q"]) == 0
    rate, seconds = facts("grid.mp4")
    assert rate == 17
    assert seconds == pytest.approx(figures()["total"]["seconds"], abs=0.25)
    assert len(pictures("grid.mp4")) == round(seconds * 17)


def test_lines_carry_the_name_of_their_source() -> None:
    cv2.imwrite("photo.png", np.zeros((48, 64, 3), np.uint8))
    assert main([ONE, TWO, "photo.png", *STUB, "--json", "all.jsonl", "-q"]) == 0
    lines = [json.loads(line) for line in Path("all.jsonl").read_text().splitlines()]
    of = {name: [x["frame"] for x in lines if x["source"] == name] for name in
          {line["source"] for line in lines}}  # fmt: skip
    assert of == {
        "test pattern 320x240": list(range(12)),
        "test pattern 160x120": list(range(9)),
        "photo.png": [0],
    }
    assert main([ONE, TWO, *STUB, "--json", "{n}.jsonl", "-q"]) == 0
    assert len(Path("2.jsonl").read_text().splitlines()) == 9


def test_metrics_have_a_section_for_each_source_and_the_totals(capsys: Capture) -> None:
    assert main([ONE, TWO, ONE, *STUB, "--metrics", "m.json"]) == 0
    found = figures()
    names = [source["source"] for source in found["sources"]]
    assert names == ["test pattern 320x240", "test pattern 160x120", "test pattern 320x240 (2)"]
    assert [source["frames"] for source in found["sources"]] == [12, 9, 12]
    total = found["total"]
    assert (total["frames"], total["produced"], total["dropped"], total["lost"]) == (33, 33, 0, 0)
    assert total["fps"] > max(source["fps"] for source in found["sources"])
    assert total["backend"] == "stub"
    for source in found["sources"]:
        assert source["age_ms"]["p50"] <= source["age_ms"]["p99"] <= total["age_ms"]["max"]
        assert source["error"] is None
    said = capsys.readouterr().err
    assert "33 frames of 3 sources" in said
    assert "test pattern 320x240 (2)" in said


def test_one_source_that_fails_stops_no_other_and_is_said(capsys: Capture) -> None:
    failing = "test://?size=320x240&frames=30&fail=4"
    arguments = [failing, TWO, "missing.mp4", *STUB, "-o", "out/", "--metrics", "m.json", "-q"]
    assert main(arguments) == 3
    found = figures()
    assert [source["frames"] for source in found["sources"]] == [4, 9, 0]
    assert "fails at frame 4" in found["sources"][0]["error"]
    assert "missing.mp4" in found["sources"][2]["error"]
    assert found["total"]["lost"] == 2
    said = capsys.readouterr().err
    assert "lost     test pattern 320x240 was lost: it fails at frame 4" in said
    assert "lost     cannot open missing.mp4" in said
    assert (len(pictures("out/test.mp4")), len(pictures("out/test_2.mp4"))) == (4, 9)
    assert sorted(path.name for path in Path("out").iterdir()) == ["test.mp4", "test_2.mp4"]


def test_a_cell_shows_what_happened_in_the_film_too() -> None:
    failing = "test://?size=320x240&frames=30&fail=4"
    assert main([failing, ONE, *STUB, "-o", "grid.mp4", "-q"]) == 3
    grid = pictures("grid.mp4")
    last, after = grid[3][:, :320].astype(int), grid[4][:, :320].astype(int)
    assert read_number(grid[3][:, :320]) == 3, "the last frame has its time"
    assert after.mean() < 0.75 * last.mean(), "then it is dimmed"
    assert read_number(grid[-1][:, -320:]) == 11


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("no.mp4", "nor.mp4", "--no-show"), 3, "cannot open no.mp4"),
        (("no.mp4", "--camera", "0", "--no-show"), 3, "camera 0"),
        ((ONE, TWO, "--figure", "f.png"), 2, "--figure with a grid"),
        ((LIVE, TWO, "--target-fps", "5", "--no-show"), 2, "every frame is kept"),
        (("p.png", "p.png", "--target-fps", "5", "--no-show"), 2, "--target-fps 5 for p.png"),
        ((ONE, TWO, "--mask-output", "m.mkv"), 2, "{name}"),
        ((ONE, TWO, "-o", "a.mp4", "-o", "a.mp4"), 2, "given twice"),
        ((ONE, TWO, "-o", "there.mp4"), 2, "there.mp4 exists"),
        ((ONE, TWO, "-o", "nowhere/{name}.mp4"), 2, "no folder nowhere"),
        ((ONE, TWO, "-o", "grid.xyz"), 2, ".xyz"),
        ((ONE, "test://?size=1x1", "--no-show"), 2, "size=1x1"),
        ((ONE, TWO), 1, "--no-show"),
        (("--grid", "-o", "grid.mp4"), 2, "no source given"),
        ((ONE,) * 17, 2, "at most 16"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    capsys: Capture, arguments: tuple[str, ...], code: int, words: str
) -> None:
    Path("there.mp4").write_bytes(b"mine")
    cv2.imwrite("p.png", np.zeros((48, 64, 3), np.uint8))
    assert main([*arguments, *STUB]) == code
    said = capsys.readouterr()
    assert words in said.err
    assert "Traceback" not in said.err
    assert Path("there.mp4").read_bytes() == b"mine"


def test_a_virtual_camera_shows_the_grid_and_a_folder_has_a_file_of_each_source() -> None:
    camera = "virtual:/dev/video10"
    plan = make_grid_plan(Flags.of(input=(ONE, TWO), output=(camera, "new/")))
    assert plan.films == (camera,)
    assert [one.outputs for one in plan.plans] == [("new/test.mp4",), ("new/test_2.mp4",)]


def test_one_source_can_be_a_grid(capsys: Capture) -> None:
    assert main([ONE, "--grid", *STUB, "-o", "grid.mp4", "--hud"]) == 0
    assert len(pictures("grid.mp4")) == 12
    assert "12 frames of 1 source in" in capsys.readouterr().err


def test_a_live_source_keeps_its_pace_beside_a_file(capsys: Capture) -> None:
    live = "test://?size=160x120&fps=20&live=1&frames=20"
    assert main([live, TWO, *STUB, "--metrics", "m.json"]) == 0
    camera, clip = figures()["sources"]
    assert camera["frames"] + camera["dropped"] == camera["produced"] == 20
    total = figures()["total"]
    assert (total["produced"], total["dropped"]) == (29, camera["dropped"])
    assert total["dropped_by"] == camera["dropped_by"]
    assert (clip["frames"], clip["dropped"]) == (9, 0)
    assert clip["seconds"] >= 8 / 15, "a file beside something live plays at its own speed"
    said = capsys.readouterr().err
    assert "live: newest frame" in said
    assert "file: every frame in order, at its own speed" in said


def test_the_sources_of_a_grid_keep_a_rate_each_with_one_input(capsys: Capture) -> None:
    live = f"{LIVE}&frames=40"
    rate = ("--target-fps", "100000", "--imgsz", "96x160", "--no-idle")  # more than anything can
    assert main([live, live, *STUB, *rate, "--metrics", "m.json"]) == 0
    total = figures()["total"]
    assert sum(total["inputs"].values()) >= total["frames"] > 40
    assert list(total["inputs"]) == ["96x160", "48x80"], "at once the smallest"
    assert total["steps"] == 1
    assert (
        f"input size changed 1 time (96x160 {total['inputs']['96x160']}" in capsys.readouterr().err
    )


def test_sources_of_other_shapes_keep_theirs_at_a_rate(capsys: Capture) -> None:
    lives = [f"test://?size={size}&fps=30&live=1&frames=20" for size in ("160x90", "90x160")]
    assert main([*lives, *STUB, "--target-fps", "0.1", "--no-idle", "--metrics", "m.json"]) == 0
    (wide, wide_frames), (tall, tall_frames) = figures()["total"]["inputs"].items()
    assert wide.split("x") == tall.split("x")[::-1]
    assert min(wide_frames, tall_frames) > 1


def test_frames_that_are_ready_before_the_loop_begins_are_counted_by_size(monkeypatch) -> None:
    run = Loop.run

    def late(loop: Loop) -> None:
        channels = loop.engine.channels
        while not all(channel.stats.stages["infer"].count for channel in channels):
            threading.Event().wait(0.01)
        run(loop)

    monkeypatch.setattr(Loop, "run", late)
    clips = [f"test://?size={size}&fps=30&frames=5" for size in ("160x90", "90x160")]
    assert main([*clips, *STUB, "--metrics", "m.json", "-o", "out.mp4"]) == 0
    total = figures()["total"]
    assert sorted(total["inputs"].values()) == [5, 5]
    assert total["frames"] == 10


def test_the_rate_of_a_source_that_ended_is_for_the_others(monkeypatch) -> None:
    kept: list[float] = []
    monkeypatch.setattr(AdaptiveBackend, "keep", lambda _self, rate: kept.append(rate))
    lives = [f"{LIVE}&frames={count}" for count in (4, 30, 12)]
    assert main([*lives, *STUB, "--target-fps", "5", "--imgsz", "96x160", "--no-show"]) == 0
    assert kept == [10.0, 5.0]


def test_the_model_that_m_chose_keeps_the_rate_of_the_sources_that_are_left(monkeypatch) -> None:
    kept: list[tuple[object, float]] = []
    monkeypatch.setattr(AdaptiveBackend, "keep", lambda self, rate: kept.append((self, rate)))
    first: Any
    chosen: Any
    first, chosen = (SimpleNamespace(backend=object.__new__(AdaptiveBackend)) for _ in range(2))
    channels = [Channel(open_source(LIVE), f"{n}") for n in range(3)]
    channels[1].ended = True
    some: Any = SimpleNamespace(run=SimpleNamespace(target_fps=5.0))
    session = Session(some, some, some, channels, some, first, some, some)
    assert session.running is first
    session.controls = some = SimpleNamespace(segmenter=chosen)
    assert session.running is chosen, "the report is about it"
    _ended(session, channels[1])
    assert kept == [(chosen.backend, 10.0)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_finishes_every_file(inside: Path) -> None:
    import signal

    arguments = (LIVE, LIVE, *STUB, "-o", "out/", "-o", "grid.mp4", "--json", "-", "-q")
    command = [sys.executable, "-m", "rtseg", *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # communicate() does not see what readline() has read ahead
    )
    assert process.stdout is not None
    for _ in range(6):
        assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    seen = 6 + len(out.splitlines())
    assert len(pictures("out/test.mp4")) + len(pictures("out/test_2.mp4")) == seen
    assert pictures("grid.mp4")


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("0", "camera_0"),
        ("/dev/video2", "camera_2"),
        ("rtsp://user:secret@host:554/live/a?token=b", "host_554_fc631d"),
        ("some folder/my clip.mp4", "my_clip"),
        ("test://?frames=3", "test"),
        ("-", "stdin"),
    ],
)
def test_files_are_named_after_their_source(target: str, name: str) -> None:
    assert file_stem(target) == name


def test_stream_many_yields_every_source_with_its_number() -> None:
    ends: list[tuple[int, str]] = []
    with rtseg.load("stub") as segmenter:
        looks = list(
            rtseg.stream_many(
                [ONE, "missing.mp4", TWO],
                segmenter,
                on_end=lambda source, error: ends.append((source, str(error))),
            )
        )
    assert [frame.index for source, frame, _ in looks if source == 0] == list(range(12))
    assert [frame.index for source, frame, _ in looks if source == 2] == list(range(9))
    for source, frame, segmentation in looks:
        size = (240, 320) if source == 0 else (120, 160)
        assert frame.size == segmentation.mask.shape == size
    assert sorted(end[0] for end in ends) == [0, 1, 2]
    assert "missing.mp4" in dict(ends)[1]
    assert dict(ends)[0] == "None"


def test_stream_many_raises_the_first_failure_after_the_others_have_ended() -> None:
    seen = []
    with rtseg.load("stub") as segmenter:
        looks = rtseg.stream_many(["missing.mp4", TWO], segmenter)
        with pytest.raises(SourceError, match=r"missing\.mp4"):
            seen.extend((source, frame.index) for source, frame, _ in looks)
    assert seen == [(1, n) for n in range(9)]


def test_stream_many_leaves_open_sources_open() -> None:
    with rtseg.load("stub") as segmenter, open_source(LIVE) as source:
        for _, frame, _ in rtseg.stream_many([source], segmenter):
            assert isinstance(frame, Frame)
            break
        assert isinstance(segmenter, Segmenter)
        assert not source._closed


def test_each_of_several_sources_is_propagated_by_itself() -> None:
    found: dict[int, list[tuple[int, bool]]] = {0: [], 1: []}
    temporal = TemporalOptions(propagate=True, key_every=4)
    with rtseg.load("stub") as segmenter:
        for source, frame, seg in rtseg.stream_many([ONE, TWO], segmenter, temporal=temporal):
            found[source].append((frame.index, seg.carried is None))
    assert [index for index, _ in found[0]] == list(range(12))
    assert [index for index, _ in found[1]] == list(range(9))
    for frames in found.values():
        keyframes = [index for index, is_key in frames if is_key]
        assert keyframes[:3] == [0, 4, 8], "every fourth frame, whatever the other source does"


def test_a_grid_propagates_and_idles_by_flags() -> None:
    flags = ("--propagate", "--key-every", "4", "--no-show", "--metrics", "m.json", "-o", "g.mp4")
    assert main([ONE, TWO, *STUB, *flags]) == 0
    found = figures()
    assert [source["frames"] for source in found["sources"]] == [12, 9]
    for source in found["sources"]:
        assert sum(source["keyframes"].values()) + source["propagated"] == source["frames"]
        assert source["propagated"] >= 6
    assert main([ONE, ONE, *STUB, "--idle", "-o", "g.mp4", "-y", "-q"]) == 0


def test_pictures_among_several_sources_become_pictures() -> None:
    for name in ("one.png", "two.png"):
        cv2.imwrite(name, np.full((60, 80, 3), 90, np.uint8))
    assert main(["one.png", "two.png", ONE, *STUB, "-o", "out/", "--mask-output", "masks/"]) == 0
    written = {path.name for path in Path("out").iterdir()}
    assert written == {"one.png", "two.png", "test.mp4"}
    assert {path.name for path in Path("masks").iterdir()} == {"one.png", "two.png", "test.mkv"}
    assert cv2.imread("masks/two.png", cv2.IMREAD_UNCHANGED).shape[:2] == (60, 80)


@pytest.mark.parametrize(
    ("output", "word"),
    [("grid.webm", "opaque"), ("grid_%03d.png", "opaque"), ("each_{n}.mp4", ".mp4")],
)
def test_transparency_that_an_output_of_several_sources_cannot_hold_is_refused(
    output: str, word: str, capsys: Capture
) -> None:
    assert main([ONE, TWO, *STUB, "--background", "transparent", "-o", output]) == 2
    said = capsys.readouterr().err
    assert word in said
    assert "source 1" not in said  # nothing was opened
    assert not list(Path().iterdir())


def test_each_source_can_have_a_transparent_file() -> None:
    outputs = ("-o", "each_{n}.mov", "--mask-output", "masks/")
    assert main([ONE, TWO, *STUB, "--background", "transparent", *outputs]) == 0
    with av.open("each_2.mov") as container:
        frame = next(container.decode(video=0))
    alpha = frame.to_ndarray(format="bgra")[..., 3]
    assert (alpha.min(), alpha.max()) == (0, 255)
