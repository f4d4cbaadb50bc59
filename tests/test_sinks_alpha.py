"""Transparent pictures into files: alpha comes back, or the file is refused by name."""

from __future__ import annotations

from pathlib import Path

import cv2  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np
import pytest
from sink_frames import SIZE, info, rendered, write

from rtseg.contracts import Rendered
from rtseg.errors import RtsegError, SinkError, UsageError
from rtseg.sinks.encoding import ALPHA_ENCODERS, CONTAINERS, find_encoder

HOLDERS = [
    (suffix, codec)
    for suffix, container in CONTAINERS.items()
    for codec in container.codecs
    if codec in ALPHA_ENCODERS
]


def picture(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A ramp of alpha from left to right, and a colour that tells the number."""
    made = np.empty((*size, 4), np.uint8)
    made[..., :3] = (40, 200 - 10 * index, 90)
    made[..., 3] = np.linspace(0, 255, size[1]).astype(np.uint8)
    return made


def transparent(index: int, size: tuple[int, int] = SIZE) -> Rendered:
    plain = rendered(index)
    return Rendered(plain.frame, plain.segmentation, lambda frame, _: picture(index, size))


def decoded(path: Path) -> list[np.ndarray]:
    """All pictures as BGRA; VP9 by libvpx, as FFmpeg's own decoder leaves alpha out."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        name = "libvpx-vp9" if stream.codec_context.name == "vp9" else stream.codec_context.name
        codec = av.CodecContext.create(name, "r")
        codec.extradata = stream.codec_context.extradata
        codec.width, codec.height = stream.width, stream.height
        codec.pix_fmt = stream.codec_context.pix_fmt
        frames = [frame for packet in container.demux(stream) for frame in codec.decode(packet)]
        return [frame.to_ndarray(format="bgra") for frame in frames]


@pytest.mark.parametrize(("suffix", "codec"), HOLDERS)
def test_alpha_survives(suffix: str, codec: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    write(str(path), (transparent(index) for index in range(5)), info(), codec=codec)
    found = decoded(path)
    assert len(found) == 5
    for index, frame in enumerate(found):
        wanted = picture(index)
        assert np.abs(frame[..., 3].astype(int) - wanted[..., 3]).max() <= 6
        seen = wanted[..., 3] > 128
        assert np.abs(frame[seen].astype(int) - wanted[seen]).max() <= 12


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".webm", "vp9"), (".mov", "prores"), (".mkv", "vp9"), (".avi", "ffv1")]
)
def test_without_a_codec_the_first_that_holds_alpha_is_taken(
    suffix: str, codec: str, tmp_path: Path
) -> None:
    path = tmp_path / f"out{suffix}"
    write(str(path), [transparent(0)], info())
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == codec
    assert np.abs(decoded(path)[0][..., 3].astype(int) - picture(0)[..., 3]).max() <= 6


def test_sizes_that_are_odd_are_padded_or_kept(tmp_path: Path) -> None:
    frames = [transparent(0, (33, 51))]
    for suffix, size in {".webm": (34, 52), ".mov": (33, 51)}.items():
        path = tmp_path / f"odd{suffix}"
        write(str(path), frames, info())
        assert decoded(path)[0].shape[:2] == size


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.mp4", {}), ("a.mov", {"codec": "h264"}), ("a.mkv", {"codec": "hevc"}), ("a.jpg", {})],
)
def test_what_cannot_hold_alpha_is_refused_and_leaves_nothing(
    name: str, options: dict[str, str], tmp_path: Path
) -> None:
    about = info(frame_count=1)
    with pytest.raises(RtsegError, match=r"cannot hold transparency.*(\.mov|\.png)") as failed:
        write(str(tmp_path / name), [transparent(0)], about, **options)
    assert isinstance(failed.value, (UsageError, SinkError))
    assert list(tmp_path.iterdir()) == []


def test_the_refusal_names_every_file_that_holds_alpha() -> None:
    with pytest.raises(UsageError) as failed:
        find_encoder(".mp4", None, None, alpha=True)
    for suffix, codec in HOLDERS:
        assert suffix in str(failed.value)
        assert codec in str(failed.value)


def test_a_file_that_began_opaque_goes_on_over_black_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "out.avi"
    frames = [rendered(0), transparent(1), transparent(2), rendered(3)]
    said = write(str(path), frames, info(), codec="ffv1")
    found = decoded(path)
    assert len(found) == 4
    assert np.abs(found[1][:, :3, :3]).max() <= 6, "black where it was transparent"
    assert found[1][:, -1, 1].tolist() == [190] * SIZE[0]
    assert "2 of them transparent" in said


def test_a_file_that_began_transparent_takes_opaque_pictures(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    write(str(path), [transparent(0), rendered(1)], info(), codec="ffv1")
    assert decoded(path)[1][..., 3].min() == 255


def test_png_keeps_alpha_exactly(tmp_path: Path) -> None:
    write(f"{tmp_path}/pics/", [transparent(0), transparent(1)], info())
    write(f"{tmp_path}/one_%03d.png", [transparent(1)], info())
    for index, path in enumerate(sorted((tmp_path / "pics").iterdir())):
        found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(found, picture(index))
    single = cv2.imread(str(tmp_path / "one_001.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(single, picture(1))


def test_sinks_without_alpha_see_the_picture_over_black() -> None:
    image = transparent(0).image
    assert image.shape == (*SIZE, 3)
    assert image[:, 0].max() == 0
    assert image[:, -1].tolist() == [[40, 200, 90]] * SIZE[0]


@pytest.mark.parametrize("codec", ["prores", "h264", "hevc", "mjpeg"])
def test_mov_holds_opaque_video(codec: str, tmp_path: Path) -> None:
    path = tmp_path / "out.mov"
    write(str(path), (rendered(index) for index in range(6)), info(), codec=codec)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        greys = [frame.to_ndarray(format="bgr24").mean() for frame in container.decode(stream)]
        assert stream.average_rate == 30
    assert greys == pytest.approx([40 + 4 * index for index in range(6)], abs=2.5)
