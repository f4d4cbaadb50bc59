"""Backgrounds: what lies behind, that nothing of the old shows, and what each refuses."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np
import pytest
from clips import PATCHES, close, joined, patches, seen, write_clip
from fuzz import moving, rewrite

from rtseg.effects import ViewOptions, open_effect, open_view
from rtseg.effects.background import check_background, cover, parse_background
from rtseg.errors import UsageError
from rtseg.frame import Frame, Segmentation
from rtseg.labels import PERSON
from rtseg.sources import SourceOptions, open_source

SIZE = (240, 320)


def square(size: tuple[int, int] = SIZE) -> np.ndarray:
    """A person in the middle, (H, W) bool."""
    kept = np.zeros(size, bool)
    kept[size[0] // 3 : 2 * size[0] // 3, size[1] // 3 : 2 * size[1] // 3] = True
    return kept


def segmented(kept: np.ndarray) -> Segmentation:
    logits = np.where(kept, 8, -8).astype(np.float32)
    return Segmentation(np.stack([-logits, logits]), PERSON, (kept.shape[0], kept.shape[1]))


def scene(inside=(0, 0, 255), outside=(128, 128, 128), pts: float = 0.0, size=SIZE) -> Frame:
    kept = square(size)[..., None]
    return Frame(np.where(kept, inside, outside).astype(np.uint8), 0, pts, 0.0)


def drawn(background: str, frame: Frame | None = None, view: str = "cutout", **more) -> np.ndarray:
    frame = frame or scene()
    effect = open_view(ViewOptions(view, background=background, **more), PERSON)
    return effect(frame, segmented(square(frame.size)))


def away(pixels: int = 16, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W) bool: further than `pixels` from the person."""
    grown = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    return cv2.dilate(square(size).astype(np.uint8), grown) == 0


@pytest.mark.parametrize(
    ("name", "bgr"),
    [
        ("red", (0, 0, 255)),
        ("#00b140", (64, 177, 0)),
        ("#FfF", (255, 255, 255)),
        ("Navy", (128, 0, 0)),
    ],
)
def test_a_colour_is_behind_and_the_person_before_it(name: str, bgr: tuple[int, int, int]) -> None:
    picture = drawn(name, scene(inside=(10, 90, 170)))
    assert (picture[away()] == bgr).all()
    assert (picture[100:140, 130:190] == (10, 90, 170)).all()


@pytest.mark.parametrize("strength", ["blur", "blur:1", "blur:7.5", "blur:20"])
def test_a_person_does_not_shine_into_the_blurred_background(strength: str) -> None:
    picture = drawn(strength).astype(int)
    outside = picture[away(6)]
    assert np.abs(outside - 128).max() <= 2, "a plain blur of a red square leaves red around it"
    assert (picture[100:140, 130:190] == (0, 0, 255)).all()


def test_a_stronger_blur_leaves_less_detail() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    frame = Frame(noise, 0, 0.0, 0.0)
    spreads = [float(drawn(f"blur:{strength}", frame)[away()].std()) for strength in (1, 3, 8, 20)]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] < noise.std()
    means = drawn("blur:20", frame)[away()].mean()
    assert means == pytest.approx(noise[away()].mean(), abs=3)


@pytest.mark.parametrize("size", [(240, 320), (100, 400), (400, 100), (30, 31), (480, 640)])
def test_a_picture_covers_the_frame_undistorted_by_its_middle(size, tmp_path: Path) -> None:
    """A picture with a centred white disc on green: still centred, still round."""
    picture = np.full((200, 300, 3), (0, 255, 0), np.uint8)
    cv2.circle(picture, (150, 100), 40, (255, 255, 255), cv2.FILLED)
    fitted = cover(picture, size)
    assert fitted.shape == (*size, 3)
    scale = max(size[0] / 200, size[1] / 300)
    white = fitted[..., 0] > 127
    rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    assert len(rows) == pytest.approx(min(81 * scale, size[0]), abs=2)
    assert len(columns) == pytest.approx(min(81 * scale, size[1]), abs=2)
    assert (rows[0] + rows[-1]) / 2 == pytest.approx((size[0] - 1) / 2, abs=1)
    assert (columns[0] + columns[-1]) / 2 == pytest.approx((size[1] - 1) / 2, abs=1)
    path = tmp_path / "behind.png"
    cv2.imwrite(str(path), picture)
    behind = drawn(str(path), scene(size=size))
    np.testing.assert_array_equal(behind[away(16, size)], fitted[away(16, size)])


def film(path: Path, rate: Fraction, count: int, size: tuple[int, int] = (48, 64)) -> Path:
    """A lossless video of greys: 10 for the first picture, 20 for the second, and so on."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "bgr0"
        for index in range(count):
            grey = np.full((*size, 3), 10 * (index + 1), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, "bgr24")))
        container.mux(stream.encode(None))
    return path


def grey_behind(effect, pts: float) -> int:
    frame = scene(pts=pts)
    return int(effect(frame, segmented(square()))[5, 5, 0])


def test_a_video_plays_at_its_own_rate_by_the_frames_time_and_loops(tmp_path: Path) -> None:
    path = film(tmp_path / "behind.mkv", Fraction(10), 5)  # half a second
    effect = open_view(ViewOptions("cutout", background=str(path)), PERSON)
    at_50_fps = [grey_behind(effect, index / 50) for index in range(60)]
    assert at_50_fps == [10 * (index // 5 % 5 + 1) for index in range(60)]
    assert grey_behind(effect, 7.31) == 40, "frames between were dropped"
    assert grey_behind(effect, 7.31) == 40, "the same frame, the same picture"


def test_a_video_that_is_skipped_through_before_its_end_is_known(tmp_path: Path) -> None:
    path = film(tmp_path / "behind.mkv", Fraction(10), 5)
    effect = open_view(ViewOptions("cutout", background=str(path)), PERSON)
    assert grey_behind(effect, 0) == 10
    assert grey_behind(effect, 9.2) == 30


def test_a_video_waits_while_the_source_is_away_or_goes_back(tmp_path: Path) -> None:
    path = film(tmp_path / "behind.mkv", Fraction(10), 5)
    effect = open_effect(ViewOptions("cutout", background=str(path)), PERSON)
    times = [1000.0, 1000.1, 1000.2, 5.0, 5.1, 700.0, 700.2]
    assert [grey_behind(effect, pts) for pts in times] == [10, 20, 30, 30, 40, 40, 10]


def test_a_video_goes_on_behind_images_that_stand_for_longer(tmp_path: Path) -> None:
    path = film(tmp_path / "behind.mkv", Fraction(10), 5)
    effect = open_effect(ViewOptions("cutout", background=str(path)), PERSON)
    slides = [replace(scene(pts=pts), lasts=12.1) for pts in (0, 12.1, 24.2, 36.3)]
    shown = [int(effect(slide, segmented(square()))[5, 5, 0]) for slide in slides]
    assert shown == [10, 20, 30, 40]


def test_a_video_of_one_picture_stands_still(tmp_path: Path) -> None:
    path = film(tmp_path / "one.mkv", Fraction(10), 1)
    effect = open_view(ViewOptions("cutout", background=str(path)), PERSON)
    assert [grey_behind(effect, pts) for pts in (0, 0.05, 3)] == [10] * 3


@pytest.mark.parametrize("size", [(48, 64), (97, 31), (300, 1000)])
def test_a_video_of_any_size_covers_the_frame(size: tuple[int, int], tmp_path: Path) -> None:
    path = film(tmp_path / "behind.mkv", Fraction(10), 2, size)
    picture = drawn(str(path))
    assert np.abs(picture[away()].astype(int) - 10).max() <= 1


def steps(count: int, first: int = 0) -> list[np.ndarray]:
    """Images whose grey tells their number."""
    return [np.full((48, 64, 3), 20 + 10 * (first + n), np.uint8) for n in range(count)]


def joined_ts(folder: Path) -> Path:
    parts = [
        write_clip(
            folder / f"{offset}.ts",
            images=steps(10, first),
            container_options={"output_ts_offset": str(offset)},
        )
        for first, offset in ((0, 100), (10, 0))
    ]
    return joined(folder / "joined.ts", *parts)


def with_a_damaged_packet(folder: Path) -> Path:
    whole = write_clip(folder / "whole.avi", codec="mjpeg", pix_fmt="yuvj420p", images=steps(20))

    def change(contents: list[bytes]) -> None:
        contents[9] = contents[9][: len(contents[9]) // 3]

    return rewrite(whole, folder / "damaged.avi", change)


LOOPS = {
    "joined": joined_ts,
    "interlaced": lambda folder: write_clip(folder / "i.mkv", images=steps(20), interlaced=True),
    "damaged": with_a_damaged_packet,
    "gif": lambda folder: write_clip(
        folder / "g.gif", codec="gif", pix_fmt="gray", images=steps(20)
    ),
    "untimed": lambda folder: write_clip(folder / "raw.h264", images=steps(20)),
}


@pytest.mark.parametrize("kind", LOOPS)
def test_a_video_of_any_kind_is_read_as_a_source_reads_it_and_loops(
    kind: str, tmp_path: Path
) -> None:
    path = LOOPS[kind](tmp_path)
    left_out = {9} if kind == "damaged" else set()
    wanted = [max(n - (n in left_out), 0) for n in range(20)] * 2
    effect = open_view(ViewOptions("cutout", background=str(path)), PERSON)
    greys = [grey_behind(effect, number / 25 + 0.01) for number in range(40)]
    assert [round((grey - 20) / 10) for grey in greys] == wanted


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "AVIF"])
def test_an_animated_image_plays_and_loops(kind: str, tmp_path: Path) -> None:
    from PIL import Image, features

    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / f"a.{kind.lower()}"
    first, *rest = map(Image.fromarray, steps(5))
    first.save(path, kind, save_all=True, append_images=rest, duration=[200] * 5, quality=95)
    effect = open_view(ViewOptions("cutout", background=str(path)), PERSON)
    greys = [grey_behind(effect, number / 5 + 0.01) for number in range(12)]
    assert [round((grey - 20) / 10) for grey in greys] == [n % 5 for n in range(12)]


def test_an_interlaced_video_is_deinterlaced_behind(tmp_path: Path) -> None:
    images = [moving(4 * number, 320, 240) for number in range(4)]
    for image, after in pairwise(images):
        image[1::2] = after[1::2]  # the lower field is half a frame later
    path = write_clip(tmp_path / "i.mkv", images=images, interlaced=True)
    behind = drawn(str(path), scene(pts=0.041))
    shown = {}
    for how in ("auto", "off"):
        with open_source(path, SourceOptions(deinterlace=how)) as source:
            shown[how] = list(source)[1].image
    assert (behind[away()] == shown["auto"][away()]).all()
    assert (behind[away()] != shown["off"][away()]).any()


def test_a_turned_and_mirrored_video_is_upright_behind(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "turned.mov", frames=2, display=(0, 1, 1, 0))
    found = seen(drawn(str(path), scene(size=(512, 384))))
    assert close(found, [PATCHES[n] for n in (0, 2, 1, 3)], by=8)


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libvpx", "prores_ks"])
def test_transparent_parts_of_a_video_are_white_behind(codec: str, tmp_path: Path) -> None:
    image = np.dstack([patches(), np.full((96, 128), 255, np.uint8)])
    image[:48, :64, 3] = 0
    is_prores = codec == "prores_ks"
    path = write_clip(
        tmp_path / ("a.mov" if is_prores else "a.webm"),
        codec=codec,
        pix_fmt="yuva444p10le" if is_prores else "yuva420p",
        images=[image] * 2,
        options={} if is_prores else {"auto-alt-ref": "0"},
    )
    found = seen(drawn(str(path), scene(size=(384, 512))))
    assert close(found, [(255, 255, 255), *PATCHES[1:]], by=12)


def test_a_size_that_changes_within_a_video_still_covers_the_frame(tmp_path: Path) -> None:
    small = write_clip(tmp_path / "a.ts", images=steps(5))
    tall = write_clip(
        tmp_path / "b.ts",
        images=[np.full((180, 60, 3), 20 + 10 * n, np.uint8) for n in range(5, 10)],
    )
    path = joined(tmp_path / "both.ts", small, tall)
    effect = open_view(ViewOptions("cutout", background=str(path)), PERSON)
    for number in range(20):
        frame = scene(pts=number / 25 + 0.01)
        grey = effect(frame, segmented(square()))[away()]
        assert np.abs(grey.astype(int) - 20 - 10 * (number % 10)).max() <= 4


def test_transparent_is_bgra_and_hides_what_was_behind() -> None:
    picture = drawn("transparent")
    assert picture.shape == (*SIZE, 4)
    assert picture.dtype == np.uint8
    assert (picture[away()] == 0).all(), "the old background cannot be brought back"
    assert (picture[100:140, 130:190] == (0, 0, 255, 255)).all()


@pytest.mark.parametrize("view", ["overlay", "contours", "mask"])
def test_a_view_is_drawn_over_the_new_background(view: str) -> None:
    frame = scene()
    picture = drawn("blue", frame, view)
    cut = drawn("blue", frame)
    plain = open_view(ViewOptions(view), PERSON)
    replaced = Frame(cut, 0, 0.0, 0.0)
    np.testing.assert_array_equal(picture, plain(replaced, segmented(square())))


def test_side_by_side_the_left_stays_as_it_was() -> None:
    frame = scene()
    picture = drawn("transparent", frame, "side")
    assert picture.shape == (SIZE[0], 2 * SIZE[1], 4)
    np.testing.assert_array_equal(picture[:, : SIZE[1], :3], frame.image)
    assert picture[:, : SIZE[1], 3].min() == 255
    assert picture[5, SIZE[1] + 5, 3] == 0


def test_what_is_written_over_a_transparent_picture_can_be_read() -> None:
    options = ViewOptions("cutout", background="transparent", hud=True)
    picture = open_effect(options, PERSON)(scene(), segmented(square()))
    bare = drawn("transparent")
    written = (picture[..., :3] != bare[..., :3]).any(2)
    assert written.sum() > 500
    assert picture[written, 3].min() == 255
    np.testing.assert_array_equal(picture[~written], bare[~written])


def test_none_leaves_the_view_alone() -> None:
    frame = scene()
    plain = open_view(ViewOptions("overlay"), PERSON)(frame, segmented(square()))
    np.testing.assert_array_equal(drawn("none", frame, "overlay"), plain)


@pytest.mark.parametrize("background", ["blur", "teal", "transparent"])
def test_a_background_is_pure(background: str) -> None:
    frame = scene()
    before = frame.image.copy()
    effect = open_view(ViewOptions("cutout", background=background), PERSON)
    first = effect(frame, segmented(square()))
    kept = first.copy()
    second = effect(frame, segmented(square()))
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(first, second)
    assert not np.shares_memory(first, second)
    assert first.flags.writeable
    np.testing.assert_array_equal(frame.image, before)


def test_frames_may_change_their_size_and_need_not_be_contiguous(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((10, 10, 3), 99, np.uint8))
    for background in ("blur", str(tmp_path / "a.png"), "transparent"):
        effect = open_view(ViewOptions("cutout", background=background), PERSON)
        for size in [(240, 320), (120, 100), (1, 1), (240, 320)]:
            mirrored = Frame(scene(size=size).image[:, ::-1], 0, 0.0, 0.0)
            assert effect(mirrored, segmented(square(size))).shape[:2] == size


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no colour or file"),
        ("nowhere.jpg", "no colour or file"),
        ("#12345", "no colour or file"),
        ("blur:", "strength of 1 to 20"),
        ("blur:much", "strength of 1 to 20"),
        ("blur:0", "strength of 1 to 20"),
        ("blur:nan", "strength of 1 to 20"),
        (".", "folder"),
    ],
)
def test_what_is_no_background_is_refused_at_once(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ViewOptions(background=text)


def test_a_file_that_is_neither_picture_nor_video_is_refused(tmp_path: Path) -> None:
    for name, content in [
        ("a.jpg", b"no picture"),
        ("b.mp4", b""),
        ("c.png", b"\x89PNG\r\n\x1a\n"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"cannot be read as an image or a video|the image"):
            open_view(ViewOptions("cutout", background=str(path)), PERSON)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="feather"):
        ViewOptions(feather=-1)
    with pytest.raises(UsageError, match="--matte-threshold 1"):
        ViewOptions(matte_threshold=1.0)


def test_words_win_over_files_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("red").write_bytes(b"")
    assert parse_background("red").kind == "colour"
    assert parse_background("./red").kind == "file"


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
def test_a_name_that_is_no_text_is_read_as_well(tmp_path: Path) -> None:
    for made, name in ((tmp_path / "b.png", b"b\xff.png"), (tmp_path / "b.mp4", b"b\xff.mp4")):
        if made.suffix == ".png":
            cv2.imwrite(str(made), np.full((8, 8, 3), 200, np.uint8))
        else:
            film(made, Fraction(25), 3)
        named = tmp_path / os.fsdecode(name)
        made.rename(named)
        check_background(parse_background(str(named)))
