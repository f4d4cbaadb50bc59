"""Damaged videos: what can be decoded is shown, and nothing that no decoder wrote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fuzz import KINDS, moving, rewrite, stray_share, write_whole

from rtseg.media import described
from rtseg.sources import open_source
from rtseg.sources.ffmpeg import FFmpegPlayer, Tail


def shown(path: Path) -> tuple[dict[int, np.ndarray], list[str]]:
    """Images by the number of the frame in the whole file, and warnings."""
    with open_source(path) as source:
        images = {round(frame.pts * 25): frame.image for frame in source}
        return images, source.warnings


def off(image: np.ndarray, number: int) -> float:
    """Mean difference from the frame that was written."""
    height, width = image.shape[:2]
    return float(np.abs(image[..., ::-1].astype(int) - moving(number, width, height)).mean())


def damaged(tmp_path: Path, name: str, keep: Callable[[int], int]) -> Path:
    """A clip of 20 frames without sound, of the tenth of which so many bytes are kept."""

    def change(contents: list[bytes]) -> None:
        contents[9] = contents[9][: keep(len(contents[9]))]

    kind = replace(KINDS[name], sound="", frames=20)
    whole = write_whole(tmp_path / f"whole.{kind.suffix}", kind)
    return rewrite(whole, tmp_path / f"damaged.{kind.suffix}", change)


@pytest.mark.parametrize("name", ["mov", "mjpeg"])
def test_a_frame_of_which_a_part_is_lost_is_left_out(tmp_path: Path, name: str) -> None:
    images, warnings = shown(damaged(tmp_path, name, lambda size: size // 3))
    assert set(images) == set(range(20)) - {9}
    assert "damaged" in warnings[0]
    assert max(off(image, number) for number, image in images.items()) < 6


@pytest.mark.parametrize(
    ("name", "keep"), [("vp8", lambda size: size // 3), ("wmv", lambda _: 2), ("mxf", lambda _: 22)]
)
def test_memory_that_no_decoder_wrote_is_not_shown(
    tmp_path: Path, name: str, keep: Callable[[int], int]
) -> None:
    images, _ = shown(damaged(tmp_path, name, keep))
    assert set(range(8)) <= set(images)
    assert max(map(stray_share, images.values())) < 0.01


def test_concealed_frames_are_kept_and_reported(tmp_path: Path) -> None:
    images, warnings = shown(damaged(tmp_path, "avi", lambda size: size // 2))
    assert set(images) == set(range(20))
    assert warnings == ["damaged.avi is damaged: 1 frame was concealed"]


@pytest.mark.parametrize("name", ["ffv1", "webm", "avi"])
@pytest.mark.parametrize("lost", [1, 3])
def test_frames_before_damage_at_the_end_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, lost: int
) -> None:
    monkeypatch.setattr(FFmpegPlayer, "threads", 8)

    def change(contents: list[bytes]) -> None:
        contents[-lost] = b"\xff" * 5

    kind = KINDS[name]
    whole = write_whole(tmp_path / f"w.{kind.suffix}", type(kind)(kind.suffix, kind.codec))
    images, _ = shown(rewrite(whole, tmp_path / f"d.{kind.suffix}", change))
    assert set(range(40 - lost)) <= set(images)


class Packet:
    def __init__(self, *, key: bool) -> None:
        self.is_keyframe, self.size = key, 10


@pytest.mark.parametrize(("every", "least"), [(1, 32), (12, 32), (250, 32)])
def test_a_tail_keeps_whole_intervals_and_not_much_more(every: int, least: int) -> None:
    tail = Tail(threads=8)
    for number in range(600):
        tail.sent(Packet(key=number % every == 0))
    kept = tail.packets()
    assert kept[0].is_keyframe
    assert least <= len(kept) < least + 2 * every


def test_a_tail_without_keyframes_keeps_nothing_for_ever() -> None:
    tail = Tail(threads=8)
    for number in range(5000):
        tail.sent(Packet(key=number == 0))
    assert not tail.packets()


def test_a_track_without_a_decoder_has_no_size_to_describe() -> None:
    class Unknown:
        codec_context = None

    class Known:
        codec_context, width, height = object(), 64, 48

    assert described([Known(), Unknown()]) == "2 video tracks: 0 (64x48), 1 (unknown)"
