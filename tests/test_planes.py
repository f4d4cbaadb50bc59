"""Images in planes: shrunk, painted and encoded as in BGR, and only where nothing needs BGR."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import patches, write_clip

import rtseg
from rtseg.contracts import Sink, Source
from rtseg.draw import blend_table, overlay_table, resized
from rtseg.effects import ViewOptions, open_effect
from rtseg.frame import Frame
from rtseg.labels import PERSON, VOC, VOID
from rtseg.media import Converter
from rtseg.planes import Planes, small_rgb
from rtseg.segmenter import Segmenter
from rtseg.session.loop import Outlet, offer_planes, run
from rtseg.sinks import SinkOptions, open_sink
from rtseg.sources import SourceOptions, open_source
from rtseg.temporal import TemporalOptions
from rtseg.yuv import BT601, BT709, FULL, LIMITED, MATRICES, ONE, luma, weights


def planar(height: int = 40, width: int = 52, matrix: int = BT601, seed: int = 0) -> Planes:
    """Smooth colours in planes; rows of 52 pixels are longer in memory."""
    random = np.random.default_rng(seed)
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane in frame.planes:
        coarse = random.integers(40, 215, (3, 4), np.uint8)
        values = np.kron(coarse, np.ones((plane.height // 3 + 1, plane.width // 4 + 1), np.uint8))
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        rows[:, : plane.width] = values[: plane.height, : plane.width]
    frame.colorspace = matrix
    return Planes(frame)


def stored(picture: Planes) -> list[np.ndarray]:
    """Y, U and V."""
    return [
        np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width].copy()
        for p in picture.frame.planes
    ]


def forward(matrix: int) -> np.ndarray:
    return weights(luma(matrix), full=False) / ONE


def rgb(planes: Sequence[np.ndarray], matrix: int) -> np.ndarray:
    """(H, W, 3) float from planes, chroma repeated."""
    y, u, v = (plane.astype(float) for plane in planes)
    u, v = (np.kron(plane, np.ones((2, 2))) for plane in (u, v))
    yuv = np.stack([y - 16, u - 128, v - 128], axis=-1)
    return np.clip(yuv @ np.linalg.inv(forward(matrix)).T, 0, 255)[..., ::-1]


def blended(picture: Planes, mask: np.ndarray, alpha: np.ndarray, colours: np.ndarray) -> list:
    """What `painted` gives, pixel by pixel in float."""
    a = alpha[mask]
    level = colours[mask].astype(float) @ forward(picture.matrix).T + (16, 128, 128)
    result = []
    for k, plane in enumerate(stored(picture)):
        share, part = a, a * level[..., k]
        if k:
            height, width = plane.shape
            share = share.reshape(height, 2, width, 2).mean((1, 3))
            part = part.reshape(height, 2, width, 2).mean((1, 3))
        result.append(plane * (1 - share) + part)
    return result


def masks_of(height: int, width: int) -> dict[str, np.ndarray]:
    """Masks of four classes whose runs begin and end anywhere."""
    random = np.random.default_rng(1)
    y, x = np.mgrid[:height, :width]
    coarse = random.integers(0, 4, (height // 8 + 2, width // 8 + 2))
    return {
        "noise": random.integers(0, 4, (height, width)),
        "columns": x // 3 % 4,
        "rows": y // 3 % 4,
        "blocks": coarse[(y + 3) // 8, (x + 1) // 8],
        "one": np.full((height, width), 2),
        "void": np.where(random.random((height, width)) < 0.3, VOID, 1),
    }


@pytest.mark.parametrize("kind", masks_of(2, 2))
@pytest.mark.parametrize(("height", "width"), [(2, 2), (40, 52), (16, 700)])
@pytest.mark.parametrize("matrix", [2, *MATRICES])
def test_planes_are_painted_as_every_pixel_alone(
    kind: str, height: int, width: int, matrix: int
) -> None:
    random = np.random.default_rng(1)
    picture = planar(height, width, matrix)
    before = stored(picture)
    mask = masks_of(height, width)[kind].astype(np.uint8)
    colours = random.integers(0, 256, (256, 3), np.uint8)
    alpha = np.zeros(256)
    alpha[:4] = 0, 0.4, 1, 0.73
    painted = picture.painted(mask, blend_table(colours, alpha))
    for got, wanted in zip(stored(painted), blended(picture, mask, alpha, colours), strict=True):
        assert np.abs(got - wanted).max() <= 0.51
    assert all((a == b).all() for a, b in zip(stored(picture), before, strict=True))


def test_what_has_no_colour_is_left_as_it_is() -> None:
    picture = planar()
    mask = np.zeros((40, 52), np.uint8)
    mask[11:20, 7:30] = 1
    painted = stored(picture.painted(mask, overlay_table(PERSON, 0.4)))
    for got, old, step in zip(painted, stored(picture), (1, 2, 2), strict=True):
        touched = mask.reshape(40 // step, step, 52 // step, step).any((1, 3))
        assert (got == old)[~touched].all()
        assert (got != old)[touched].mean() > 0.5


@pytest.mark.parametrize("matrix", [2, *MATRICES])
@pytest.mark.parametrize("size", [(40, 52), (20, 26), (12, 20), (64, 64)])
def test_planes_are_shrunk_as_rgb_is(matrix: int, size: tuple[int, int]) -> None:
    picture = planar(80, 104, matrix)
    exact = rgb(stored(picture), matrix)
    whole = small_rgb(picture, (80, 104)).astype(int)
    inner = np.zeros((80, 104), bool)  # chroma is interpolated at the edges of its blocks
    inner[8:20, 8:20] = True
    assert np.abs(whole - exact)[inner].max() <= 1
    small = small_rgb(picture, size).astype(int)
    wanted = resized(np.rint(exact).astype(np.uint8), size).astype(int)
    assert np.abs(small - wanted).mean() < 2.5
    assert np.abs(small.mean((0, 1)) - wanted.mean((0, 1))).max() < 1.5, (
        "but for colours that RGB cannot hold"
    )


def test_planes_become_bgr_as_the_converter_makes_it() -> None:
    picture = planar(matrix=BT709)
    assert picture.shape == (40, 52, 3)
    assert (picture.numpy() == Converter()(picture.frame)).all()
    assert not picture.numpy().flags.writeable
    assert (Frame(picture, 0, 0.0, 0.0).image == picture.numpy()).all()


def decoded(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, True),
        ({"tags": (BT709, BT709, BT709, LIMITED)}, True),
        ({"tags": (9, BT709, BT709, LIMITED)}, True),
        ({"tags": (9, 9, 16, LIMITED)}, False),  # PQ
        ({"tags": (BT709, 9, BT709, LIMITED)}, False),  # wide gamut
        ({"tags": (BT709, BT709, BT709, FULL)}, False),
        ({"tags": (8, BT709, BT709, LIMITED)}, False),  # YCgCo
        ({"pix_fmt": "yuv444p"}, False),
        ({"pix_fmt": "yuv420p10le"}, False),
        ({"pix_fmt": "yuvj420p"}, False),
        ({"display": (0, 1, -1, 0)}, False),
        ({"images": [patches(97, 129)[:96, :128]] * 2}, True),
        ({"images": [patches(96, 129)] * 2, "codec": "ffv1", "suffix": ".mkv"}, False),
    ],
)
def test_only_frames_shown_as_they_are_stored_stay_in_planes(
    tmp_path: Path, changes: dict[str, Any], kept: bool
) -> None:
    suffix = changes.pop("suffix", ".mp4")
    clip = write_clip(tmp_path / f"clip{suffix}", **{"frames": 2, **changes})
    with open_source(clip) as source:
        source.planar = True
        frames = list(source)
    assert [isinstance(frame.picture, Planes) for frame in frames] == [kept] * 2
    with open_source(clip) as source:
        plain = list(source)
    assert all(isinstance(frame.picture, np.ndarray) for frame in plain)
    assert all((a.image == b.image).all() for a, b in zip(frames, plain, strict=True))


def clip_of_shapes(path: Path, count: int = 6) -> Path:
    """Patches that move, coded without loss."""
    images = [np.roll(patches(), 2 * number, axis=1) for number in range(count)]
    return write_clip(path, images=images, options={"crf": "0"})


def written(
    clip: Path,
    out: Path,
    options: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
) -> tuple[list[np.ndarray], bool]:
    """Run the stub from file to file without loss; the masks, and whether planes were used."""
    masks: list[np.ndarray] = []

    class Kept(Sink):
        wants_image = False

        def write(self, rendered: Any) -> None:
            masks.append(rendered.segmentation.mask)

    segmenter = rtseg.load("stub", imgsz=(96, 128))
    with (
        segmenter,
        open_source(clip, options) as source,
        open_sink(str(out), source.info, segmenter.labels, SinkOptions(crf=0)) as sink,
    ):
        effect = open_effect(ViewOptions(), segmenter.labels)
        run(source, segmenter, effect, [sink, Kept()])
        used = source.planar
    return masks, used


def test_a_file_keeps_every_pixel_without_a_class_and_blends_the_others(tmp_path: Path) -> None:
    """Without a loss in the codec, what is written is exact."""
    clip, out = clip_of_shapes(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    masks, used = written(clip, out)
    assert used
    labels = rtseg.load("stub").labels
    alpha = np.zeros(256)
    alpha[: len(labels)] = 0.4
    alpha[labels.background or 0] = 0
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(labels)] = np.array(labels.colours)[:, ::-1]
    read = list(zip(decoded(clip), decoded(out), masks, strict=True))
    assert len(read) == 6
    assert any(mask.any() for _, _, mask in read)
    for original, made, mask in read:
        picture, result = Planes(original), stored(Planes(made))
        wanted = blended(picture, mask, alpha, colours)
        for got, exact in zip(result, wanted, strict=True):
            assert np.abs(got - exact).max() <= 0.51
        assert (result[0] == stored(picture)[0])[mask == 0].all()


@pytest.mark.parametrize(
    "options",
    [
        SourceOptions(every=2),
        SourceOptions(max_frames=3),
        SourceOptions(start=0.08),
        SourceOptions(loop=True, max_frames=14),
        SourceOptions(fps_cap=12),
    ],
)
def test_planes_pass_what_selects_frames(tmp_path: Path, options: SourceOptions) -> None:
    clip, out = clip_of_shapes(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    masks, used = written(clip, out, options)
    assert used
    with open_source(clip, options) as source:
        wanted = [frame.image for frame in source]
    made = [Converter()(frame) for frame in decoded(out)]
    assert len(made) == len(wanted) == len(masks)
    for got, image, mask in zip(made, wanted, masks, strict=True):
        inside = np.kron((mask == 0).reshape(48, 2, 64, 2).all((1, 3)), np.ones((2, 2), bool))
        assert (got == image)[inside].all()


def test_rotated_frames_are_written_upright(tmp_path: Path) -> None:
    clip = clip_of_shapes(tmp_path / "in.mp4", 2)
    masks, _ = written(clip, tmp_path / "out.mp4", SourceOptions(rotate=90))
    with open_source(clip, SourceOptions(rotate=90)) as source:
        wanted = [frame.image for frame in source]
    for frame, image, mask in zip(decoded(tmp_path / "out.mp4"), wanted, masks, strict=True):
        got = Converter()(frame)
        assert got.shape == image.shape == (128, 96, 3)
        assert np.abs(got.astype(int) - image)[mask == 0].mean() < 3


def test_a_size_that_changes_is_fitted(tmp_path: Path) -> None:
    small = write_clip(tmp_path / "a.ts", frames=3, codec="mpeg2video")
    large = write_clip(tmp_path / "b.ts", images=[patches(192, 128)] * 3, codec="mpeg2video")
    clip = tmp_path / "both.ts"
    clip.write_bytes(small.read_bytes() + large.read_bytes())
    masks, used = written(clip, tmp_path / "out.mp4")
    assert used
    assert {mask.shape for mask in masks} == {(96, 128), (192, 128)}
    frames = decoded(tmp_path / "out.mp4")
    assert {(frame.width, frame.height) for frame in frames} == {(128, 96)}
    assert len(frames) == len(masks)
    bar = Converter()(frames[-1])[:, :20]
    assert bar.max() < 20, "the upright image stands between black bars"


def of(path: Path, **options: Any) -> tuple[Source, Segmenter]:
    return open_source(path), rtseg.load("stub", **options)


@pytest.mark.parametrize(
    ("outputs", "view", "temporal", "refine", "offered"),
    [
        (["out.mp4"], {}, {}, False, True),
        (["out.mp4", "json:out.jsonl"], {}, {}, False, True),
        (["out.mp4", "out.avi"], {}, {}, False, False),  # each writes its times into a frame
        (["out.mp4", "frames_%03d.png"], {}, {}, False, False),
        (["frames_%03d.png"], {}, {}, False, False),
        (["out.webm"], {}, {}, False, True),
        (["out.avi"], {}, {}, False, True),
        (["json:out.jsonl"], {}, {}, False, False),
        (["out.mp4"], {"legend": True}, {}, False, False),
        (["out.mp4"], {"hud": True}, {}, False, False),
        (["out.mp4"], {"view": "side"}, {}, False, False),
        (["out.mp4"], {"background": "blur"}, {}, False, False),
        (["out.mp4"], {}, {"propagate": True}, False, False),
        (["out.mp4"], {}, {}, True, False),
    ],
)  # fmt: skip
def test_planes_are_offered_only_where_nothing_needs_bgr(
    tmp_path: Path,
    outputs: list[str],
    view: dict[str, Any],
    temporal: dict[str, Any],
    refine: bool,
    offered: bool,
) -> None:
    source, segmenter = of(clip_of_shapes(tmp_path / "in.mp4", 2), refine=refine)
    sinks = []
    with source, segmenter:
        for name in outputs:
            kind, _, rest = name.rpartition(":")
            target = f"{kind}:{tmp_path / rest}" if kind else str(tmp_path / rest)
            sinks.append(open_sink(target, source.info, segmenter.labels, SinkOptions()))
        effect = open_effect(ViewOptions(**view), segmenter.labels)
        how = replace(TemporalOptions(), **temporal)
        offer_planes(source, segmenter, Outlet(effect, sinks), how)
        assert source.planar is offered
        for sink in sinks:
            sink.close()


def test_an_effect_of_ones_own_gets_bgr(tmp_path: Path) -> None:
    source, segmenter = of(clip_of_shapes(tmp_path / "in.mp4", 2))
    seen = []

    def effect(frame: Frame, segmentation: Any) -> np.ndarray:
        seen.append(type(frame.picture))
        return frame.image

    with source, segmenter:
        sink = open_sink(str(tmp_path / "out.mp4"), source.info, VOC, SinkOptions())
        with sink:
            run(source, segmenter, effect, [sink])
    assert seen == [np.ndarray] * 2


@pytest.mark.parametrize("in_planes", [True, False])
def test_the_buffers_of_frames_are_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_planes: bool
) -> None:
    """Without waiting for cycles to be collected, which may take hundreds of frames."""
    clip = write_clip(tmp_path / "clip.mp4", images=[patches()] * 60)
    buffers = []
    keeps, convert = Converter.keeps, Converter.__call__

    def kept(self: Converter, frame: Any) -> bool:
        buffers.append(frame.planes[0].buffer_ptr)
        return keeps(self, frame)

    def converted(self: Converter, frame: Any) -> Any:
        buffers.append(frame.planes[0].buffer_ptr)
        return convert(self, frame)

    monkeypatch.setattr(Converter, "keeps", kept)
    monkeypatch.setattr(Converter, "__call__", converted)
    gc.collect()
    gc.disable()
    try:
        with open_source(str(clip)) as source:
            source.planar = in_planes
            for _ in source:
                pass
    finally:
        gc.enable()
    assert len(buffers) >= 60
    assert len(set(buffers)) < 30
