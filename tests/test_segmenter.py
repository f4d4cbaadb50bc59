"""What the network is fed: the right colours, the right place, at any size."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rtseg
from rtseg.contracts import Backend, BackendInfo
from rtseg.draw import resized
from rtseg.errors import UsageError
from rtseg.frame import Frame
from rtseg.labels import PERSON
from rtseg.segmenter import Segmenter
from rtseg.session.inference import one_by_one, several_at_once
from rtseg.stats import Stats
from rtseg.zoo import InputSpec, ModelSpec


class Redness(Backend):
    """Class 1 where the RGB batch is red: right only if colour order and geometry are."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.spec = ModelSpec("redness", "stub", PERSON, InputSpec(size))
        self.input_size = size
        self.info = BackendInfo("stub", "cpu", "fp32")
        self.closed = 0

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        assert batch.shape == (1, *self.input_size, 3)
        assert batch.dtype == np.uint8
        values = batch.astype(np.float32)
        red = values[..., 0] - values[..., 1:].max(-1)
        return np.stack([127 - red, red - 127], axis=1)

    def close(self) -> None:
        self.closed += 1


def test_red_is_red() -> None:
    red = np.zeros((40, 60, 3), np.uint8)
    red[..., 2] = 255
    blue = red[..., ::-1]
    with Segmenter(Redness((32, 32))) as segmenter:
        assert (segmenter(red).mask == 1).all()
        assert (segmenter(np.ascontiguousarray(blue)).mask == 0).all()
        backend = segmenter.backend
    assert backend.closed == 1


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(40, 300), st.integers(40, 400)),
    net=st.tuples(st.sampled_from([32, 64, 96]), st.sampled_from([32, 64, 128])),
    corner=st.tuples(st.floats(0.1, 0.5), st.floats(0.1, 0.5)),
)
def test_a_painted_rectangle_comes_back_where_it_was(size, net, corner) -> None:
    """Edges within one network pixel, and no shift: the error is the same on both sides."""
    height, width = size
    top, left = int(height * corner[0]), int(width * corner[1])
    bottom, right = top + height // 3, left + width // 3
    image = np.zeros((height, width, 3), np.uint8)
    image[top:bottom, left:right, 2] = 255
    mask = Segmenter(Redness(net))(image).mask
    assert mask.shape == (height, width)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    slack_y, slack_x = max(1.0, height / net[0]), max(1.0, width / net[1])
    assert abs(rows[0] - top) <= slack_y
    assert abs(rows[-1] + 1 - bottom) <= slack_y
    assert abs(columns[0] - left) <= slack_x
    assert abs(columns[-1] + 1 - right) <= slack_x
    assert abs((rows[0] + rows[-1] + 1) / 2 - (top + bottom) / 2) <= slack_y / 2 + 0.5
    assert abs((columns[0] + columns[-1] + 1) / 2 - (left + right) / 2) <= slack_x / 2 + 0.5


def test_shrinking_averages_instead_of_skipping() -> None:
    """A one-pixel checkerboard turns grey at a quarter of its size."""
    board = np.repeat((np.indices((256, 256)).sum(0) % 2 * 255)[..., None], 3, 2).astype(np.uint8)
    small = resized(board, (64, 64))
    assert small.shape == (64, 64, 3)
    assert abs(int(small.min()) - 127) <= 1
    assert abs(int(small.max()) - 127) <= 1


def test_a_picture_shrunk_more_in_one_direction_is_averaged_there_too() -> None:
    columns = np.tile((np.arange(256) % 2 * 255)[None, :, None], (96, 1, 3)).astype(np.uint8)
    small = resized(columns, (64, 64))
    assert abs(int(small.min()) - 127) <= 1
    assert abs(int(small.max()) - 127) <= 1


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
        None,
    ],
)
def test_other_arrays_are_refused(image) -> None:
    with pytest.raises(ValueError, match="uint8 BGR, got"):
        Segmenter(Redness((32, 32)))(image)


@pytest.mark.parametrize("align_corners", [False, True])
def test_scores_lie_where_the_spec_says(align_corners) -> None:
    class Soft(Redness):
        def __call__(self, batch: np.ndarray) -> np.ndarray:
            return super().__call__(batch) / np.float32(127)

    backend = Soft((2, 2))
    backend.spec = replace(backend.spec, align_corners=align_corners)
    half = np.zeros((4, 9, 3), np.uint8)
    half[:, 5:, 2] = 255
    probability = Segmenter(backend)(half).probability("person")[0]
    # between the two samples the probability grows: over the whole frame, or its middle half
    assert (np.diff(probability) > 0).sum() == (8 if align_corners else 6)


def test_only_selected_classes_remain() -> None:
    red = np.zeros((40, 60, 3), np.uint8)
    red[..., 2] = 255
    segmenter = Segmenter(Redness((32, 32)), selected=frozenset())
    assert not segmenter(red).mask.any()


class TwoLanes(Redness):
    """Answers only when two threads ask at once."""

    lanes = 2

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(size)
        self.together = threading.Barrier(2, timeout=10)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.together.wait()
        return super().__call__(batch)


def test_frames_that_lie_ready_are_segmented_side_by_side_and_stay_in_order() -> None:
    def picture(index: int) -> np.ndarray:
        image = np.zeros((40, 60, 3), np.uint8)
        image[..., 2] = 255 * (index % 3 == 0)
        return image

    frames = [Frame(picture(i), i, i / 30, 0.0) for i in range(20)]
    stats = Stats()
    pairs = list(several_at_once(frames, Segmenter(TwoLanes((32, 32))), stats))
    assert [frame.index for frame, _ in pairs] == list(range(20))
    assert [int(found.mask[0, 0]) for _, found in pairs] == [int(i % 3 == 0) for i in range(20)]
    assert stats.stages["infer"].count == stats.stages["preprocess"].count == 20


def test_frames_that_come_one_by_one_are_segmented_as_they_come() -> None:
    class Alone(Redness):
        lanes = 2

    given: list[int] = []

    def frames() -> Iterator[Frame]:
        for index in range(5):
            given.append(index)
            yield Frame(np.zeros((40, 60, 3), np.uint8), index, index / 30, 0.0)

    for frame, _ in one_by_one(frames(), Segmenter(Alone((32, 32))), Stats()):
        assert given == list(range(frame.index + 1)), "no frame is waited for"


@pytest.mark.parametrize("name", ["imgsz", "frame_size"])
@pytest.mark.parametrize("size", [(640,), 640, (0, 640), (360.0, 640), "360x640", (1, 2, 3)])
def test_sizes_that_are_no_height_and_width_are_refused(name: str, size: object) -> None:
    with pytest.raises(UsageError, match=rf"{name}=.*Use two whole numbers"):
        rtseg.load("stub", **{name: size})
