"""Videos decoded on a GPU; where there is none, a processor decodes for what comes after."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import DEVICE, _data_folder, on_the_device
from test_device_loop import OnProcessor
from test_sources_video import numbered

pytest.importorskip("triton", reason="Triton has no wheel for this system")
import torch

from rtseg.contracts import Sink, Source
from rtseg.decode import device as picture
from rtseg.decode.device import DevicePicture, from_planes
from rtseg.effects import ViewOptions, open_effect
from rtseg.errors import DeviceError, SourceError, UsageError
from rtseg.frame import Frame, Picture
from rtseg.segmenter import Segmenter
from rtseg.session.loop import run
from rtseg.sources import SourceOptions, open_source, video
from rtseg.sources.nvdec import NvdecPlayer
from rtseg.sources.options import SourceOptions as Options
from rtseg.sources.synthetic import read_number

pytestmark = pytest.mark.usefixtures("one_kernel_at_a_time")

CLIPS = sorted(p.name for p in (_data_folder() / "videos").glob("*.*"))
NVDEC = SourceOptions(decoder="nvdec")


class Stand(NvdecPlayer):
    """Plays as NVDEC does, but for the decoding itself, which the processor does."""

    def __init__(self, target: str, options: Options) -> None:
        super().__init__(target, options, accelerator=None)

    def _planes(self, frame: av.VideoFrame) -> tuple[object, object]:
        """The planes of 4:2:0 as NV12 has them."""
        if frame.format.name not in ("yuv420p", "yuvj420p"):
            raise NotImplementedError("unsupported sw_format for DLPack export")
        y, u, v = (torch.from_dlpack(plane) for plane in frame.planes)
        return y.clone().__dlpack__(), torch.stack([u, v], dim=2).__dlpack__()


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos are played as NVDEC plays them, but for the decoding itself."""
    monkeypatch.setattr(video, "open_player", Stand)
    monkeypatch.setattr(picture, "BLOCK", 1 << 16)  # for Triton's interpreter, a step is dear


def planes(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """NV12 of a random picture: (H, W) and (H/2, W/2, 2) uint8, chroma of any strength."""
    random = np.random.default_rng(height)
    luma = random.integers(0, 256, (height, width), np.uint8)
    return luma, random.integers(0, 256, ((height + 1) // 2, (width + 1) // 2, 2), np.uint8)


def made_of(luma: np.ndarray, chroma: np.ndarray, **how) -> np.ndarray:
    there = (torch.from_numpy(plane).to(DEVICE).__dlpack__() for plane in (luma, chroma))
    return from_planes(*there, **{"matrix": 6, "full_range": False, **how}).numpy()


@on_the_device
def test_colours_are_those_of_opencv() -> None:
    luma, chroma = planes(36, 52)
    luma = luma.clip(16)  # what is blacker than black, OpenCV's own conversion cuts off
    nv12 = np.vstack([luma, chroma.reshape(18, 52)])
    expected = cv2.cvtColor(nv12, cv2.COLOR_YUV2BGR_NV12)
    ours = made_of(luma, chroma)
    assert not ours.flags.writeable
    assert np.abs(ours.astype(int) - expected).max() <= 1


@on_the_device
def test_full_range_has_black_at_nothing() -> None:
    luma = np.array([[0, 255], [128, 64]], np.uint8)
    grey = np.full((1, 1, 2), 128, np.uint8)
    assert made_of(luma, grey, full_range=True)[..., 1].tolist() == luma.tolist()
    assert made_of(luma, grey)[..., 1].tolist() == [[0, 255], [130, 56]]
    red = made_of(luma, np.array([[[128, 200]]], np.uint8), full_range=True)
    assert red[1, 0].tolist() == [128, 77, 229]  # 128 + 1.402 * 72, 128 - 0.714136 * 72


@on_the_device
def test_the_matrix_is_that_which_the_video_names(tmp_path: Path) -> None:
    luma, chroma = np.full((2, 2), 128, np.uint8), np.array([[[90, 200]]], np.uint8)
    seen = made_of(luma, chroma, full_range=True, matrix=1)[0, 0]
    assert seen.tolist() == [57, 101, 241]  # 1.8556, 0.1873 and 0.4681, 1.5748


@on_the_device
def test_ten_bits_lie_in_the_upper_ones_of_sixteen() -> None:
    luma, chroma = planes(14, 22)
    deep = [plane.astype(np.uint16) << 8 for plane in (luma, chroma)]
    np.testing.assert_array_equal(made_of(*deep), made_of(luma, chroma))


@on_the_device
def test_lines_with_room_at_the_end_and_sides_that_are_odd() -> None:
    luma, chroma = planes(13, 21)
    expected = made_of(luma, chroma)
    wide = np.zeros((13, 32), np.uint8)
    wide[:, :21] = luma
    room = np.zeros((7, 16, 2), np.uint8)
    room[:, :11] = chroma
    np.testing.assert_array_equal(made_of(wide[:, :21], room[:, :11]), expected)
    # a decoder that tells of no chroma that is half outside: its neighbour's is taken
    short = made_of(luma, chroma[:6, :10])
    np.testing.assert_array_equal(short[:12, :20], expected[:12, :20])


@on_the_device
def test_pictures_are_turned_where_they_lie() -> None:
    luma, chroma = planes(8, 12)
    upright = made_of(luma, chroma)
    for turns in range(4):
        np.testing.assert_array_equal(made_of(luma, chroma, turns=turns), np.rot90(upright, turns))


def same(ours: Sequence[Frame], theirs: Sequence[Frame]) -> None:
    """Frames of two decoders: equal but for rounding, at equal times."""
    for a, b in zip_longest(ours, theirs):
        assert isinstance(a.picture, DevicePicture)
        assert (a.index, a.size) == (b.index, b.size)
        assert a.pts == pytest.approx(b.pts, abs=1e-4)
        # swscale cuts off what it ought to round, and is darker by one
        difference = np.abs(a.image.astype(int) - b.image)
        assert difference.mean() < 1.5
        assert np.mean(difference > 4) < 0.02


def four_two_zero(clip: Path) -> None:
    """Skip what has its colours in another way than NVDEC gives them."""
    with av.open(str(clip)) as container:
        if "420p" not in (container.streams.video[0].codec_context.pix_fmt or ""):
            pytest.skip("NVDEC gives 4:2:0")


@pytest.mark.slow
@pytest.mark.needs_data
@pytest.mark.parametrize("clip", CLIPS)
def test_real_clips_are_those_that_opencv_plays(data: Path, clip: str, request) -> None:
    options = SourceOptions(max_frames=2)
    four_two_zero(data / "videos" / clip)
    with open_source(data / "videos" / clip, options) as source:
        theirs, info = list(source), source.info
    request.getfixturevalue("processor")
    with open_source(data / "videos" / clip, options) as source:
        assert source.info == info
        same(list(source), theirs)


@pytest.mark.slow
@pytest.mark.usefixtures("processor")
def test_every_frame_of_a_variable_rate_from_anywhere(tmp_path: Path) -> None:
    times = [40 * n + 7 * (n % 3) for n in range(30)]
    clip = numbered(tmp_path / "clip.mkv", frames=30, times=times)
    with open_source(clip) as source:
        frames = list(source)
    assert [read_number(frame.image) for frame in frames] == list(range(30))
    assert [frame.pts for frame in frames] == pytest.approx([t / 1000 for t in times], abs=1e-6)
    assert source.warnings == []
    with open_source(clip, SourceOptions(start=1.1, end=1.2)) as source:
        part = [read_number(frame.image) for frame in source]
    assert part == [n for n, t in enumerate(times) if 1100 <= t < 1200]


@pytest.mark.slow
@pytest.mark.usefixtures("processor")
def test_damage_costs_pictures_and_not_the_rest(tmp_path: Path) -> None:
    clip = numbered(tmp_path / "clip.mp4")
    content = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        for packet in packets[23:26]:
            content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    clip.write_bytes(content)
    with open_source(clip) as source:
        frames = list(source)
    sound = frames[:20] + frames[-20:]  # those between are of the group of pictures that was hit
    assert [read_number(frame.image) for frame in sound] == [*range(20), *range(40, 60)]
    times = [frame.pts for frame in sound]
    assert times == pytest.approx([n / 30 for n in (*range(20), *range(40, 60))])


@pytest.mark.usefixtures("processor")
def test_what_is_no_video_is_told_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"no video at all" * 100)
    with pytest.raises(SourceError, match="not a video"):
        open_source(path)


def saved(path: Path, source: Source) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for frame in source:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.image, format="bgr24")))
        container.mux(stream.encode())
    return path


class Pictures(Sink):
    def __init__(self) -> None:
        self.images: list[np.ndarray] = []

    def write(self, rendered) -> None:
        self.images.append(rendered.image)


@pytest.mark.slow
@pytest.mark.parametrize(("view", "fetched"), [("overlay", 0), ("side", 2)])
@pytest.mark.usefixtures("processor")
def test_pictures_are_fetched_only_by_who_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: str, fetched: int
) -> None:
    with open_source("test://?size=48x32&frames=2&fps=25") as source:
        clip = saved(tmp_path / "clip.mp4", source)
    asked: list[DevicePicture] = []
    numpy = DevicePicture.numpy
    monkeypatch.setattr(DevicePicture, "numpy", lambda self: asked.append(self) or numpy(self))
    seen: list[Picture] = []
    drawn = []
    for keeps in (True, False):
        asked.clear()
        backend = OnProcessor(keeps, at_once=2)
        if keeps:
            loop = backend.loop
            backend.segment = lambda pictures, loop=loop: seen.extend(pictures) or loop(pictures)
        segmenter, sink = Segmenter(backend), Pictures()
        with open_source(clip) as source:
            run(source, segmenter, open_effect(ViewOptions(view), segmenter.labels), [sink])
        if keeps:
            assert len(set(asked)) == fetched
        drawn.append(sink.images)
    assert not np.any(seen[:2])  # two blank ones, before a frame is read
    assert all(isinstance(picture, DevicePicture) for picture in seen[2:])
    assert len(seen) == 4
    for ours, theirs in zip(*drawn, strict=True):
        assert np.mean(np.abs(ours.astype(int) - theirs) > 2) < 0.03


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_else_is_taken_in_its_place(tmp_path: Path) -> None:
    clip = numbered(tmp_path / "clip.mp4", frames=3)
    with pytest.raises(DeviceError, match=r"NVDEC on cuda:0: torch .*Leave out --decoder nvdec"):
        open_source(clip, NVDEC)


def test_what_the_gpu_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = numbered(tmp_path / "clip.mp4", frames=3)

    class Software:
        """Stands in for an accelerator that FFmpeg silently leaves aside."""

        device_id = 0

    opened = av.open

    def refuses(*_, hwaccel, **__):
        raise NotImplementedError("No supported hardware config for <av.Codec('h264')>")

    monkeypatch.setattr(av, "open", refuses)
    with pytest.raises(DeviceError, match=r"NVDEC cannot decode clip\.mp4: no supported") as caught:
        NvdecPlayer(str(clip), NVDEC, accelerator=Software())
    assert caught.value.exit_code == 4
    monkeypatch.setattr(av, "open", lambda target, **_: opened(target))
    with pytest.raises(DeviceError, match="its frames come from the CPU, as yuv420p"):
        NvdecPlayer(str(clip), NVDEC, accelerator=Software())


def test_a_codec_that_has_no_gpu_decoder_in_ffmpeg_is_told(tmp_path: Path) -> None:
    from av.codec.hwaccel import HWAccel

    clip = tmp_path / "clip.mkv"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        picture = np.zeros((48, 64, 3), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())
    accelerator = HWAccel("cuda", device="0", allow_software_fallback=False, is_hw_owned=True)
    with pytest.raises(DeviceError, match=r"NVDEC cannot decode clip\.mkv: .*no stream is compat"):
        NvdecPlayer(str(clip), NVDEC, accelerator=accelerator)


def test_a_gpu_that_is_lost_while_it_decodes_is_no_end_of_the_file(tmp_path: Path) -> None:
    player = Stand(str(numbered(tmp_path / "clip.mp4", frames=30)), NVDEC)

    class Lost:
        def decode(self, packet: av.Packet) -> list[av.VideoFrame]:
            raise OSError("Generic error in an external library")

    player._cuda, player._decoder = True, Lost()
    player._frames = player._decoded()
    player._ahead.clear()
    with pytest.raises(DeviceError, match=r"cannot decode clip\.mp4: generic error in an external"):
        player.read()


@pytest.mark.parametrize("target", ["0", "test://", "-"])
def test_what_is_no_video_file_has_no_such_decoder(target: str) -> None:
    with pytest.raises(UsageError, match="--decoder nvdec is for video files"):
        open_source(target, NVDEC)


@pytest.mark.parametrize("decoder", ["cuda", "nvdec:", "nvdec:x", ""])
def test_decoders_that_are_none(decoder: str) -> None:
    with pytest.raises(UsageError, match="ffmpeg, opencv, nvdec or nvdec:N"):
        SourceOptions(decoder=decoder)


@pytest.mark.needs_cuda
@pytest.mark.needs_data
@pytest.mark.parametrize("clip", [clip for clip in CLIPS if clip.startswith("torchcodec")])
def test_nvdec_plays_what_opencv_plays(data: Path, clip: str) -> None:
    four_two_zero(data / "videos" / clip)
    with open_source(data / "videos" / clip, SourceOptions(max_frames=40)) as source:
        theirs = list(source)
    with open_source(data / "videos" / clip, SourceOptions(max_frames=40, decoder="nvdec")) as both:
        ours = list(both)
    assert both.info.notes == ("decoded by NVDEC on cuda:0",)
    same(ours, theirs)


@pytest.mark.needs_cuda
def test_nvdec_gives_every_frame_in_order(tmp_path: Path) -> None:
    with open_source(numbered(tmp_path / "clip.mp4"), NVDEC) as source:
        assert [read_number(frame.image) for frame in source] == list(range(60))
