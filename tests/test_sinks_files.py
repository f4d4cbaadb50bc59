"""Pictures, masks, JSON lines and raw pipes: what is read back is what was written."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from sink_frames import info, rendered, segmentation, write

from rtseg import files
from rtseg.contracts import Rendered, Sink
from rtseg.errors import SinkError, UsageError
from rtseg.files import OutputFile, atomic, cut_name
from rtseg.frame import Frame
from rtseg.labels import PERSON, VOC, VOID, LabelSet
from rtseg.sinks import SinkOptions, open_sink
from rtseg.sinks.jsonl import JsonLinesSink


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# pictures


def test_a_folder_names_pictures_by_stem_or_number(tmp_path) -> None:
    frames = [rendered(0, name="cat"), rendered(1, name="Dog"), rendered(2, name="dog"),
              rendered(3, name="cat_000004"), rendered(4, name="cat"), rendered(7),
              rendered(8, name="a/b")]  # fmt: skip
    summary = write(f"{tmp_path}/out/", frames, info())
    assert names(tmp_path / "out") == [
        "000007.png",
        "Dog.png",
        "a_b.png",
        "cat.png",
        "cat_000004.png",
        "cat__000004.png",
        "dog_000002.png",
    ]
    assert summary == f"7 images to {tmp_path}/out"


def test_a_folder_may_hold_what_the_run_has_begun(tmp_path) -> None:
    targets = f"json:{tmp_path}/a.jsonl", f"mask:{tmp_path}/"
    lines, masks = (open_sink(target, info(), VOC) for target in targets)
    with lines, masks:
        lines.write(rendered(0))
        masks.write(rendered(0))
    assert names(tmp_path) == ["000000.png", "a.jsonl"]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_pattern_takes_the_frames_number(suffix, tmp_path) -> None:
    write(f"{tmp_path}/f_%04d.{suffix}", [rendered(3), rendered(4), rendered(12345)], info())
    assert names(tmp_path) == [f"f_0003.{suffix}", f"f_0004.{suffix}", f"f_12345.{suffix}"]
    read = cv2.imread(str(tmp_path / f"f_0004.{suffix}"))
    assert np.abs(read.astype(int) - rendered(4).image).max() <= (0 if suffix == "png" else 2)


def test_only_files_of_the_pattern_are_in_the_way(tmp_path) -> None:
    (tmp_path / "f_notes.png").write_bytes(b"mine")
    write(f"{tmp_path}/f_%03d.png", [rendered(1)], info())
    with pytest.raises(UsageError, match=r"f_001\.png"):
        write(f"{tmp_path}/f_%03d.png", [rendered(2)], info())
    write(f"{tmp_path}/f_%03d.png", [rendered(2)], info(), overwrite=True)
    assert names(tmp_path) == ["f_001.png", "f_002.png", "f_notes.png"]


def test_one_picture_for_a_source_of_one(tmp_path) -> None:
    target = f"{tmp_path}/out.jpg"
    write(target, [rendered(0, name="cat")], info(frame_count=1))
    assert names(tmp_path) == ["out.jpg"]
    with pytest.raises(UsageError, match="12 frames"):
        open_sink(f"{tmp_path}/b.png", info(frame_count=12), VOC)


def test_a_picture_that_its_format_cannot_hold(tmp_path) -> None:
    tall = np.zeros((1, 70_000, 3), np.uint8)
    with pytest.raises(SinkError, match="cannot hold 70000x1"):
        write(f"{tmp_path}/f_%d.jpg", [rendered(0, image=tall)], info())
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_keeps_the_pictures_before(tmp_path, monkeypatch) -> None:
    replace = Path.replace
    left = iter([True, True, False])

    def fills(part: Path, path: Path) -> None:
        if not next(left):
            raise OSError(28, "No space left on device")
        replace(part, path)

    monkeypatch.setattr(Path, "replace", fills)
    with pytest.raises(SinkError, match=r"No space left on device.* Kept: 2 pictures"):
        write(f"{tmp_path}/out/", map(rendered, range(5)), info())
    assert names(tmp_path / "out") == ["000000.png", "000001.png"]


# masks


def every_index(index: int) -> Rendered:
    """A mask that holds every value there is, VOID too, at an odd size."""
    labels = LabelSet(tuple(map(str, range(255))), tuple((i, 255 - i, 7) for i in range(255)))
    mask = np.roll(np.arange(77 * 101) % 256, index).astype(np.uint8).reshape(77, 101)
    given = segmentation(0, (77, 101))
    given.labels = labels
    given.__dict__["mask"] = mask
    return Rendered(Frame(np.zeros((77, 101, 3), np.uint8), index, index / 30, 0.0), given, None)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".avi"])
def test_mask_videos_give_back_every_index(suffix, tmp_path) -> None:
    path = tmp_path / f"m{suffix}"
    frames = [every_index(index) for index in range(4)]
    assert "4 masks" in write(f"mask:{path}", frames, info(Fraction(30000, 1001)))
    capture = cv2.VideoCapture(str(path))
    with av.open(str(path)) as container:
        for given, frame in zip(frames, container.decode(video=0), strict=True):
            mask = given.segmentation.mask
            assert np.array_equal(frame.to_ndarray(format="bgr24")[..., 1], mask)
            assert np.array_equal(capture.read()[1][..., 2], mask)
            if suffix != ".mp4":
                assert np.array_equal(frame.to_ndarray(format="gray"), mask)
    capture.release()


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".avi"])
@pytest.mark.parametrize("tags", [(1, 1, 1, 2), (9, 9, 16, 1)], ids=["BT.709", "HDR"])
def test_mask_videos_do_not_carry_the_colours_of_their_source(tags, suffix, tmp_path) -> None:
    """Indices are not colours: a reader that honours tags must have nothing to convert."""
    path = tmp_path / f"m{suffix}"
    write(f"mask:{path}", map(every_index, range(2)), info(colour_tags=tags))
    with av.open(str(path)) as container:
        c = container.streams.video[0].codec_context
        next(container.decode(video=0))
        unsaid, rgb = 2, 0
        assert c.colorspace == (rgb if suffix == ".mp4" else unsaid)
        assert (c.color_primaries, c.color_trc) == (unsaid, unsaid)


def test_mask_video_times_and_new_sizes(tmp_path) -> None:
    path = tmp_path / "m.mkv"
    wide = rendered(1, 0.5, image=np.zeros((96, 256, 3), np.uint8))
    write(f"mask:{path}", [rendered(0), wide, rendered(2, 0.7)], info(None))
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert [f.time for f in frames] == pytest.approx([0, 0.5, 0.7], abs=0.001)
    second = frames[1].to_ndarray(format="gray")
    assert second.shape == (96, 128)
    assert (second[:20] == VOID).all()
    assert set(np.unique(second)) == {0, 15, VOID}


def test_mask_pictures_are_indices_in_the_palette_of_the_labels(tmp_path) -> None:
    write(f"mask:{tmp_path}/m/", [rendered(0, name="cat"), rendered(5)], info())
    assert names(tmp_path / "m") == ["000005.png", "cat.png"]
    with Image.open(tmp_path / "m/cat.png") as read:
        assert read.mode == "P"
        assert np.array_equal(np.asarray(read), segmentation(0).mask)
        colours = np.asarray(read.convert("RGB"))
        assert (colours[segmentation(0).mask == 15] == VOC.colours[15]).all()
    with Image.open(tmp_path / "m/000005.png") as read:
        assert np.array_equal(np.asarray(read), segmentation(5).mask)


def test_mask_pictures_hold_every_index(tmp_path) -> None:
    write(f"mask:{tmp_path}/m_%d.png", [every_index(3)], info())
    with Image.open(tmp_path / "m_3.png") as read:
        assert np.array_equal(np.asarray(read), every_index(3).segmentation.mask)


def test_masks_draw_nothing(tmp_path) -> None:
    for target in (f"mask:{tmp_path}/m.mkv", f"json:{tmp_path}/o.jsonl", "null:"):
        with open_sink(target, info(), PERSON) as sink:
            assert not sink.wants_image
            sink.write(Rendered(rendered(0).frame, segmentation(0), None))


# JSON lines


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # decode's
def test_json_lines(tmp_path) -> None:
    path = tmp_path / "out.jsonl"
    frames = [rendered(0, name="cat"), rendered(9, 0.3)]
    assert "2 lines" in write(f"json:{path}", frames, info(), rle=True)
    first, second = map(json.loads, path.read_text("utf-8").splitlines())
    assert (first["frame"], first["pts"], first["name"]) == (0, 0.0, "cat")
    assert (second["frame"], second["pts"]) == (9, 0.3)
    assert "name" not in second
    for line, frame in zip((first, second), frames, strict=True):
        mask = frame.segmentation.mask
        (entry,) = line["classes"]
        assert (entry["id"], entry["name"]) == (15, "person")
        assert entry["share"] == pytest.approx((mask == 15).mean(), abs=1e-6)
        assert np.array_equal(coco.decode(entry["rle"]), mask == 15)


def test_json_lines_without_masks_are_short_and_flushed(tmp_path) -> None:
    with open_sink(f"json:{tmp_path}/out.jsonl", info(), VOC) as sink:
        sink.write(rendered(0))
        (part,) = tmp_path.iterdir()
        assert "rle" not in json.loads(part.read_text())["classes"][0]


def test_a_disk_that_fills_up_keeps_whole_lines(tmp_path) -> None:
    code = (
        "import resource, sys; from sink_frames import *; from rtseg.errors import SinkError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "try: write(sys.argv[1], map(rendered, range(99)), info())\n"
        "except SinkError as error: sys.stdout.write(str(error))"
    )
    done = python(code, f"json:{tmp_path}/out.jsonl")
    assert b"File too large" in done.stdout, done.stderr
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert f"The {len(lines)} lines until then are in it".encode() in done.stdout
    assert [json.loads(line)["frame"] for line in lines] == list(range(len(lines)))
    assert len(lines) > 2
    assert names(tmp_path) == ["out.jsonl"]


# raw


def python(code: str, *arguments: str, shell: str = "") -> subprocess.CompletedProcess[bytes]:
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    if shell:
        return subprocess.run(
            ["bash", "-c", f'"$0" "$@" {shell}', *command],
            capture_output=True, check=True, env=environment,
        )  # fmt: skip
    return subprocess.run(command, capture_output=True, check=True, env=environment)


@pytest.mark.parametrize(
    ("pix_fmt", "expected"),
    [("bgr24", [10, 20, 200]), ("rgb24", [200, 20, 10]), ("bgra", [10, 20, 200, 255]),
     ("rgba", [200, 20, 10, 255]), ("gray", [73]), ("yuv420p", [78]), ("nv12", [78])],
)  # fmt: skip
def test_raw_pixels(pix_fmt, expected, capfdbinary) -> None:
    image = np.empty((96, 128, 3), np.uint8)
    image[:] = 10, 20, 200
    write("-", [rendered(i, image=image) for i in range(3)], info(), pix_fmt=pix_fmt)
    pixels = np.frombuffer(capfdbinary.readouterr().out, np.uint8)
    each = 1.5 if pix_fmt in ("yuv420p", "nv12") else len(expected)
    assert pixels.size == 3 * 96 * 128 * each
    assert pixels[: len(expected)].tolist() == pytest.approx(expected, abs=1)


def test_raw_nv12_has_the_colours_of_yuv420p_in_turn(capfdbinary) -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    written = []
    for pix_fmt in ("yuv420p", "nv12"):
        write("-", [rendered(0, image=image)], info(), pix_fmt=pix_fmt)
        written.append(np.frombuffer(capfdbinary.readouterr().out, np.uint8))
    planar, mixed = written
    assert np.array_equal(planar[:36], mixed[:36])
    assert np.array_equal(planar[36:45], mixed[36::2])
    assert np.array_equal(planar[45:], mixed[37::2])


def test_raw_frames_keep_the_first_size(capfdbinary) -> None:
    write("-", [rendered(0), rendered(1, image=np.zeros((50, 70, 3), np.uint8))], info())
    assert len(capfdbinary.readouterr().out) == 2 * 96 * 128 * 3


def test_raw_refuses_an_unknown_format_and_a_terminal(monkeypatch) -> None:
    with pytest.raises(UsageError, match="there are bgr24, rgb24"):
        write("-", [], info(), pix_fmt="bgr8")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    with pytest.raises(UsageError, match="terminal"):
        write("-", [], info())


@pytest.mark.parametrize("target", ["-", "json:-"])
def test_a_reader_that_leaves_ends_it_quietly(target) -> None:
    code = (
        "import sys; from sink_frames import *\n"
        "sink = open_sink(sys.argv[1], info(), VOC); count = 0\n"
        "while sink.alive and count < 100_000: sink.write(rendered(count)); count += 1\n"
        "sink.close(); sys.stderr.write(f'{sink.alive} {count < 100_000}')"
    )
    done = python(code, target, shell="| head -c 100")
    assert len(done.stdout) == 100
    assert done.stderr == b"False True"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("target", ["-", "json:-"])
def test_a_pipe_that_cannot_take_it(target) -> None:
    code = (
        "import os, sys; from sink_frames import *; from rtseg.errors import SinkError\n"
        "try: write(sys.argv[1], [rendered(0)], info())\n"
        "except SinkError as error: sys.stderr.write(str(error))\n"
        "os.dup2(os.open('/dev/null', 1), 1)"
    )
    done = python(code, target, shell="> /dev/full")
    assert b"No space left on device" in done.stderr


@pytest.mark.parametrize(
    "target", ["", "/", "/%d.png", "/link/", "/7.png", "mask:", "figure:7.png"]
)
def test_the_sources_own_pictures_are_never_replaced(target, tmp_path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    original = tmp_path / "7.png"
    original.write_bytes(b"mine")
    role, _, name = target.rpartition(":")
    where = f"{role}:{tmp_path}/{name}" if role else f"{tmp_path}{name}"
    about = info(frame_count=1, pictures=(original,))
    with pytest.raises(UsageError, match=r"of the source"):
        write(where, [rendered(7, name="7")], about, overwrite=True)
    assert original.read_bytes() == b"mine"


def test_other_pictures_of_the_same_folder_may_be_written(tmp_path) -> None:
    about = info(frame_count=1, pictures=(tmp_path / "cat.jpg", tmp_path / "f_1.jpg"))
    for target in (f"{tmp_path}/out/", f"{tmp_path}/f_%d.png", f"{tmp_path}/cat.png"):
        write(target, [rendered(1, name="cat")], about)
    assert names(tmp_path) == ["cat.png", "f_1.png", "out"]


@pytest.mark.parametrize("target", ["out.mp4", "json:out.jsonl", "figure:out.png"])
def test_a_link_stays_and_the_file_lies_where_it_leads(target, tmp_path) -> None:
    (tmp_path / "disk").mkdir()
    role, _, name = target.rpartition(":")
    (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    write(f"{role}:{tmp_path}/{name}" if role else f"{tmp_path}/{name}", [rendered(0)], info())
    assert (tmp_path / name).is_symlink()
    assert names(tmp_path / "disk") == [name]


def test_a_name_that_is_no_text_leaves_the_line_text(tmp_path) -> None:
    name = os.fsdecode(b"lat\xe9")
    write(f"json:{tmp_path}/out.jsonl", [rendered(0, name=name)], info())
    line = json.loads((tmp_path / "out.jsonl").read_text("utf-8"))
    assert line["name"] == "lat\ufffd"


@pytest.mark.parametrize("letter", ["o", "\u957f"])
@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        *(("", suffix) for suffix in (".mp4", ".mkv", ".webm", ".avi", ".png", "_%d.jpg")),
        *(("mask:", suffix) for suffix in (".mkv", "_%d.png")),
        ("json:", ".jsonl"),
        ("figure:", ".png"),
        ("", "/"),
    ],
)
def test_names_of_255_bytes(prefix: str, suffix: str, letter: str, tmp_path: Path) -> None:
    name = cut_name(letter * 255, suffix, 256 if suffix == "/" else 255)
    write(f"{prefix}{tmp_path}/{name}", [rendered(0)], info(frame_count=1))
    (written,) = tmp_path.iterdir()
    assert written.name == name.rstrip("/").replace("%d", "0")


def test_temporary_names_are_as_short_as_they_must_be(tmp_path: Path) -> None:
    first = OutputFile(tmp_path / "out.mp4", overwrite=False)
    assert re.fullmatch(r"\.out-[0-9a-f]{16}\.part\.mp4", first.part.name)
    parts = {
        OutputFile(tmp_path / f"{name}.mp4", overwrite=False).part.name
        for name in ("a" * 251, "a" * 250 + "b", "\u957f" * 83)
    }
    assert len(parts) == 3
    assert all(len(name) < 60 and name.endswith(".part.mp4") for name in parts)
    with atomic(tmp_path / f"x.{'s' * 253}") as part:
        part.touch()
    assert (tmp_path / f"x.{'s' * 253}").exists()


class FullDisk(io.StringIO):
    """A file that takes no more."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.jsonl"])
@pytest.mark.parametrize("old", [True, False])
def test_a_disk_that_fills_costs_no_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, old: bool
) -> None:
    path = tmp_path / name
    if old:
        path.write_bytes(b"whole")

    def frames(sink: Sink) -> None:
        for number in range(30):
            if number == 5 and isinstance(sink, JsonLinesSink):
                sink._file.close()
                sink._file = FullDisk()
            elif number == 5:
                monkeypatch.setattr(files, "free_bytes", lambda folder: 0.0)
            sink.write(rendered(number))

    target = f"json:{path}" if name == "a.jsonl" else str(path)
    options = SinkOptions(overwrite=True)
    with pytest.raises(SinkError) as caught, open_sink(target, info(), VOC, options) as sink:
        frames(sink)
    found = {each.name: each for each in tmp_path.iterdir()}
    if old:
        assert found.pop(name).read_bytes() == b"whole"
        (part,) = found.values()
        assert str(part) in str(caught.value)
    else:
        (part,) = found.values()
        assert part == path
    if name == "a.jsonl":
        assert part.read_text().count("\n") == 5
    else:
        with av.open(str(part)) as container:
            assert sum(1 for _ in container.decode(video=0)) >= 1
