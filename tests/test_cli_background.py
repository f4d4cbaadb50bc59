"""`--background` as a person types it: what is written, and what is refused before it begins."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from rtseg.cli.app import main
from rtseg.labels import SHAPE_COLOURS

CLIP = ("test://?size=160x120&frames=4", "-m", "stub", "-b", "stub", "--no-show")


def run(*arguments: str) -> int:
    return main([*CLIP, *arguments])


def pictures(folder: Path) -> list[np.ndarray]:
    return [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(folder.iterdir())]


def test_a_colour_goes_behind_without_the_tint_of_the_overlay(tmp_path: Path) -> None:
    assert run("--background", "#00b140", "-o", f"{tmp_path}/out/") == 0
    found = pictures(tmp_path / "out")
    assert len(found) == 4
    for picture in found:
        assert (picture == (64, 177, 0)).all(2).mean() > 0.3
    seen = {tuple(pixel) for picture in found for pixel in picture.reshape(-1, 3)}
    assert seen & set(SHAPE_COLOURS.values()), "shapes in their own colours"


def test_a_view_that_is_asked_for_is_drawn_over_the_background(tmp_path: Path) -> None:
    assert run("--background", "white", "--view", "mask", "-o", f"{tmp_path}/mask/") == 0
    assert run("--view", "mask", "-o", f"{tmp_path}/plain/") == 0
    for one, other in zip(pictures(tmp_path / "mask"), pictures(tmp_path / "plain"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_transparent_pictures_have_alpha(tmp_path: Path) -> None:
    assert run("--background", "transparent", "-o", f"{tmp_path}/out/") == 0
    for picture in pictures(tmp_path / "out"):
        assert picture.shape == (120, 160, 4)
        assert picture[..., 3].min() == 0
        assert picture[..., 3].max() == 255


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--background", "transparent", "-o", "x.mp4"), ".webm (vp9)"),
        (("--background", "transparent", "-o", "x.jpg"), "PNG pictures"),
        (("--background", "transparent", "-o", "x.mov", "--codec", "h264"), "with codec h264"),
        (("--background", "transparent", "-o", "-"), "raw frames on stdout"),
        (("--background", "transparent", "-o", "virtual"), "a virtual camera"),
        (("--background", "beach.jpg", "-o", "x.mp4"), "no colour or file has this name"),
        (("--background", "text.jpg", "-o", "x.mp4"), "cannot be read as an image or a video"),
        (("--background", "blur:0", "-o", "x.mp4"), "a blur has a strength of 1 to 20"),
        (("--background", "red", "--feather", "-1", "-o", "x.mp4"), "feather"),
        (("--background", "red", "--matte-threshold", "1", "-o", "x.mp4"), "--matte-threshold 1"),
        (("--codec", "prores", "-o", "x.mp4"), "written as h264, hevc"),
    ],
)
def test_what_cannot_work_is_said_before_anything_opens(
    arguments: tuple[str, ...],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.jpg").write_text("no picture")
    assert run(*arguments) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["text.jpg"]
