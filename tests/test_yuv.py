"""Matrices of YUV: what is written by them is read as it was, by whoever honours the tags."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from sink_frames import info, rendered, write

from rtseg.sinks.encoding import Encoder, video_frame
from rtseg.yuv import BT601, MATRICES, fill_i420, is_converted, luma

COLOURS = [(0, 0, 200), (0, 200, 0), (200, 0, 0), (200, 200, 0), (0, 200, 200), (200, 0, 200),
           (120, 120, 120), (235, 235, 235)]  # fmt: skip


def patches() -> np.ndarray:
    """(64, 256, 3) uint8 BGR: a patch of each colour, 32 pixels wide."""
    return np.repeat(np.array(COLOURS, np.uint8), 32, 0)[np.newaxis].repeat(64, 0)


def middles(image: np.ndarray) -> np.ndarray:
    return image[32, 16::32].astype(int)


def tagged(
    path: Path, matrix: int, *, full: bool = False, others: tuple[int, int] = (2, 2)
) -> Path:
    """A video of the patches whose matrix is FFmpeg's `matrix`, made without any of our code."""
    red, blue = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114),
                 7: (0.212, 0.087), 9: (0.2627, 0.0593)}[matrix]  # fmt: skip
    b, g, r = np.moveaxis(patches()[::2, ::2] / 255.0, 2, 0)
    light = red * r + (1 - red - blue) * g + blue * b
    chroma = [(b - light) / (2 - 2 * blue), (r - light) / (2 - 2 * red)]
    low, scale, strong = (0, 255, 255) if full else (16, 219, 224)
    planes = [low + scale * light.repeat(2, 0).repeat(2, 1), *(128 + strong * c for c in chroma)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height = 256, 64
        stream.pix_fmt = "yuvj420p" if full else "yuv420p"
        context = stream.codec_context
        context.colorspace, (context.color_primaries, context.color_trc) = matrix, others
        context.color_range = 2 if full else 1
        frame = av.VideoFrame(256, 64, stream.pix_fmt)
        for plane, values in zip(frame.planes, planes, strict=True):
            lines = np.zeros((plane.height, plane.line_size), np.uint8)
            lines[:, : plane.width] = np.round(values)
            plane.update(lines.tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def first(path: Path) -> np.ndarray:
    capture = cv2.VideoCapture(str(path))
    image = capture.read()[1]
    capture.release()
    return image


def values(plane: av.video.plane.VideoPlane, bits: int) -> np.ndarray:
    """(H, W) float, 0 to 255, of one component."""
    kind = np.uint8 if bits == 8 else np.uint16
    lines = np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width]
    return lines.astype(float) / 2 ** (bits - 8)


def by_ffmpeg(path: Path) -> np.ndarray:
    """The first picture, as FFmpeg's command shows it."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-frames:v", "1"]
    command += ["-f", "rawvideo", "-pix_fmt", "bgr24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(64, 256, 3)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("number", MATRICES)
def test_a_picture_by_every_matrix_and_range(number: int, full: bool) -> None:
    image = np.random.default_rng(number).integers(0, 256, (6, 10, 3), np.uint8)
    image[:2, :2], image[:2, 2:4], image[:2, 4:6] = (255, 0, 0), (0, 0, 255), 255
    red, blue = luma(number)
    b, g, r = np.moveaxis(image / 255.0, 2, 0)
    light = red * r + (1 - red - blue) * g + blue * b
    y, u, v = planes = [np.full(shape, 77, np.uint8) for shape in ((6, 16), (3, 8), (3, 8))]
    fill_i420(image, number, planes, full=full)
    low, scale, strong = (0, 255, 255) if full else (16, 219, 224)
    assert np.abs(y[:, :10] - (low + scale * light)).max() <= 0.51
    for colour, share, plane in ((b, blue, u), (r, red, v)):
        exact = 128 + strong * (colour - light) / (2 - 2 * share)
        mean = exact.reshape(3, 2, 5, 2).mean(axis=(1, 3))
        assert np.abs(plane[:, :5] - mean).max() <= 1.0
    assert (y[:, 10:] == 77).all(), "what follows a row in memory is not the picture's"
    assert (u[:, 5:] == 77).all()


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p"])
def test_a_frame_is_what_ffmpeg_makes_of_the_picture(pix_fmt: str) -> None:
    image = cv2.resize(
        np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8), (50, 30)
    )  # smooth, as its chroma comes from other places; rows longer than the picture's
    frame = video_frame(image, Encoder("", pix_fmt), info(colour_tags=None))
    theirs = av.VideoFrame.from_ndarray(image, "bgr24").reformat(format=pix_fmt)
    assert (frame.width, frame.height, frame.format.name) == (50, 30, pix_fmt)
    assert np.abs(frame.to_ndarray()[:30].astype(int) - theirs.to_ndarray()[:30]).max() <= 2
    assert np.abs(frame.to_ndarray().astype(int) - theirs.to_ndarray()).mean() <= 1
    sealed = image.copy()
    sealed.flags.writeable = False
    again = video_frame(sealed[:, ::-1][:, ::-1], Encoder("", pix_fmt), info(colour_tags=None))
    assert np.array_equal(again.to_ndarray(), frame.to_ndarray())


def test_by_the_usual_matrix_light_is_what_opencv_makes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    theirs = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
    frame = video_frame(image, Encoder("", "yuv420p"), info(colour_tags=None))
    assert np.abs(frame.to_ndarray()[:32].astype(int) - theirs[:32]).max() <= 1


def test_a_matrix_that_is_not_known_is_the_usual_one() -> None:
    assert luma(2) == luma(8) == luma(BT601)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [1, 5, 6, 7, 9])
def test_opencv_reads_by_the_matrix_that_a_video_names(tmp_path, matrix: int, full: bool) -> None:
    image = first(tagged(tmp_path / "clip.mp4", matrix, full=full))
    assert np.abs(middles(image) - COLOURS).max() <= 5


@pytest.mark.parametrize("matrix", [1, 5, 6, 7, 9])
@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mp4", "h264"), (".mp4", "hevc"), (".webm", "vp9"), (".mov", "prores"), (".mkv", "mjpeg"),
     (".mkv", "ffv1")],
)  # fmt: skip
def test_colours_of_a_tagged_source_come_out_as_they_were(tmp_path, matrix, suffix, codec) -> None:
    path = tmp_path / f"out{suffix}"
    about = info(colour_tags=(matrix, 2, 2, 1))
    write(str(path), [rendered(i, image=patches()) for i in range(2)], about, codec=codec, crf=None)
    assert np.abs(middles(first(path)) - COLOURS).max() <= 8
    if shutil.which("ffmpeg"):
        assert np.abs(middles(by_ffmpeg(path)) - COLOURS).max() <= 8


@pytest.mark.parametrize(
    "tags", [(9, 9, 14, 1), (9, 9, 16, 1), (9, 9, 18, 1), (1, 12, 1, 1), (1, 1, 18, 2)]
)
def test_wide_colours_and_hdr_were_turned_into_bt709(tmp_path: Path, tags: tuple[int, ...]) -> None:
    path = tmp_path / "out.mp4"
    write(str(path), [rendered(0, image=patches())], info(colour_tags=tags))
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
    assert np.abs(middles(first(path)) - COLOURS).max() <= 8


@pytest.mark.slow
def test_which_those_are(tmp_path: Path) -> None:
    """As `rtseg.yuv` says: of the others OpenCV changes nothing but the matrix."""
    seen = {}
    kept = ((2, 2), (1, 1), (4, 4), (5, 1), (6, 6), (7, 7), (22, 13))
    turned = ((8, 1), (9, 1), (9, 14), (11, 1), (12, 1), (1, 16), (1, 18))
    for primaries, transfer in kept + turned:
        path = tagged(tmp_path / f"{primaries}.mp4", 1, others=(primaries, transfer))
        far = np.abs(middles(first(path)) - COLOURS).max()
        seen[primaries, transfer] = far > 8
    assert seen == {pair: pair in turned for pair in seen}
    assert seen == {pair: is_converted((1, *pair)) for pair in seen}


def test_a_source_that_names_no_matrix_stays_so(tmp_path: Path) -> None:
    """Players guess by its size, of ours as of the source."""
    path = tmp_path / "out.mp4"
    about = info(colour_tags=(2, 2, 2, 0))
    write(str(path), [rendered(0, image=patches())], about)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert frame.colorspace == 2
    assert np.abs(middles(first(path)) - COLOURS).max() <= 8


@pytest.mark.parametrize(("pix_fmt", "bits"), [("yuva420p", 8), ("yuva444p10le", 10)])
def test_pictures_with_alpha_have_the_colours_of_those_without(pix_fmt: str, bits: int) -> None:
    alpha = np.full((64, 256, 1), 200, np.uint8)
    picture = np.concatenate([patches(), alpha], axis=2)
    frame = video_frame(picture, Encoder("", pix_fmt), info(colour_tags=(1, 1, 1, 1)))
    assert frame.format.name == pix_fmt
    light = patches()[0, 16::32] / 255 @ [0.0722, 0.7152, 0.2126]
    assert np.abs(values(frame.planes[0], bits)[32, 16::32] - (16 + 219 * light)).max() <= 1.5
    assert np.abs(values(frame.planes[3], bits)[32, 16::32] - 200).max() <= 1
