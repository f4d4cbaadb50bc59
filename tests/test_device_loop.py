"""Frames that stay on the device give what frames on the processor give, alone and in batches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("triton", reason="Triton has no wheel for this system")
import torch
from torch import nn

from rtseg.backends import open_backend
from rtseg.backends.cuda import DeviceLoop
from rtseg.backends.stub import StubBackend
from rtseg.contracts import Backend, Sink, SourceInfo
from rtseg.draw import overlay_table
from rtseg.effects import ViewOptions, open_effect
from rtseg.errors import BackendError, DeviceError, SourceError, UsageError
from rtseg.frame import Frame, Image
from rtseg.nets import find_model
from rtseg.segmenter import Segmenter
from rtseg.session.inference import one_by_one, read_ahead, several_at_once, smoothed
from rtseg.session.loop import run
from rtseg.sources import SourceOptions, open_source
from rtseg.stats import Clock, Stats

pytestmark = pytest.mark.usefixtures("one_kernel_at_a_time")

SIZE = (16, 32)
FRAMES = [
    np.random.default_rng(n).integers(0, 256, (10, 20, 3), np.uint8).repeat(2, 0).repeat(2, 1)
    for n in range(5)
]


class ColourNetwork(nn.Module):
    """Scores of four classes at stride 8 from the mean colour, as a network gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        weight = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0.4, 0.4, 0.4]])
        self.weight = nn.Parameter(weight[:, :, None, None], requires_grad=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        planes = nn.functional.avg_pool2d(image.permute(0, 3, 1, 2).float(), 8)
        return nn.functional.conv2d(planes, self.weight)


class OnProcessor(Backend):
    """The same network behind the plain seam, and, where asked for, behind the device's."""

    def __init__(self, keeps_frames: bool, at_once: int = 1) -> None:
        stub = StubBackend(find_model("stub"), SIZE)
        self.spec, self.info, self.input_size = stub.spec, stub.info, SIZE
        self.network = ColourNetwork()
        self.loop = DeviceLoop(self.network, SIZE, torch.device("cpu"))
        self.frames_at_once = at_once
        self.seen: list[int] = []
        if keeps_frames:
            self.segment = self._segment

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return self.network(torch.from_numpy(batch)).numpy()

    def _segment(self, images: Sequence[Image]) -> list:
        self.seen.append(len(images))
        return self.loop(images)


def frames(count: int = 5) -> list[Frame]:
    return [Frame(FRAMES[n], n, n / 30, 0.0) for n in range(count)]


def scores(segmenter: Segmenter, ahead: bool) -> list[np.ndarray]:
    given = iter(frames())
    segmented = several_at_once if ahead else one_by_one
    pairs = segmented(given, segmenter, Stats())
    return [s.scores for _, s in pairs]


@pytest.mark.parametrize(("ahead", "at_once"), [(False, 4), (True, 1), (True, 2), (True, 4)])
def test_scores_are_those_of_the_plain_seam_in_order(ahead: bool, at_once: int) -> None:
    plain = scores(Segmenter(OnProcessor(keeps_frames=False)), ahead=False)
    backend = OnProcessor(keeps_frames=True, at_once=at_once)
    kept = scores(Segmenter(backend), ahead=ahead)
    assert len(kept) == 5
    for ours, theirs in zip(kept, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1.0)  # the shrunk pictures differ by 1 of 255
    assert sum(backend.seen) == 5
    assert max(backend.seen) == (at_once if ahead else 1)


def test_one_picture_goes_the_same_way() -> None:
    plain = Segmenter(OnProcessor(keeps_frames=False))(FRAMES[0])
    kept = Segmenter(OnProcessor(keeps_frames=True))(FRAMES[0])
    np.testing.assert_allclose(kept.scores, plain.scores, atol=1.0)
    assert np.mean(kept.mask != plain.mask) < 0.02


def test_a_batch_that_is_not_full_uses_the_step_that_is_there() -> None:
    loop = OnProcessor(keeps_frames=True).loop
    alone = [loop([image])[0].numpy() for image in FRAMES[:3]]
    loop = OnProcessor(keeps_frames=True).loop
    loop.warm_up(4)
    together = loop(FRAMES[:3])
    assert len(together) == 3
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-6)


def test_the_next_batch_is_begun_before_the_first_is_waited_for() -> None:
    backend = OnProcessor(keeps_frames=True, at_once=2)
    stream = several_at_once(iter(frames()), Segmenter(backend), Stats())
    next(stream)
    assert backend.seen == [2, 2]
    assert [pair[0].index for pair in stream] == [1, 2, 3, 4]
    assert backend.seen == [2, 2, 1]


@pytest.mark.parametrize("good", [0, 1, 3, 4, 5])
@pytest.mark.parametrize("where", ["source", "network"])
def test_frames_before_an_error_are_all_delivered(good: int, where: str) -> None:
    def broken():
        yield from frames(good)
        if where == "source":
            raise SourceError("the next picture", found="it is damaged")
        yield from frames(2)

    backend = OnProcessor(keeps_frames=True, at_once=2)
    seen, segment = 0, backend.segment

    def fails(pictures):
        nonlocal seen
        seen += len(pictures)
        if where == "network" and seen > good:
            raise DeviceError("the network", found="the device was lost")
        return segment(pictures)

    backend.segment = fails
    delivered = []

    def deliver() -> None:
        for frame, _ in several_at_once(broken(), Segmenter(backend), Stats()):
            delivered.append(frame.index)

    with pytest.raises((SourceError, DeviceError)):
        deliver()
    # a batch that fails is lost whole
    assert delivered == list(range(good if where == "source" else good // 2 * 2))


class Downloaded:
    """Counts what is downloaded, and notes when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from rtseg.decode.device import Downloads

        self.shapes: list[list[tuple[int, ...]]] = []
        start = Downloads.__init__

        def spy(downloads: Downloads, tensors: list[torch.Tensor]) -> None:
            self.shapes.append([tuple(each.shape) for each in tensors])
            start(downloads, tensors)

        monkeypatch.setattr(Downloads, "__init__", spy)


def test_a_recording_is_drawn_in_batches_and_no_mask_is_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend, sink = OnProcessor(keeps_frames=True, at_once=4), Pictures()
    prepared: list[tuple[list[int], list[list[tuple[int, ...]]]]] = []
    downloaded = Downloaded(monkeypatch)
    with open_source("test://?size=48x32&frames=6", SourceOptions()) as source:
        read = source._read

        def first_read():
            prepared[:] = prepared or [(list(backend.seen), list(downloaded.shapes))]
            return read()

        monkeypatch.setattr(source, "_read", first_read)
        segmenter = Segmenter(backend)
        report = run(source, segmenter, open_effect(ViewOptions(), segmenter.labels), [sink])
    assert report.frames == len(sink.images) == 6
    ((seen, shapes),) = prepared
    assert seen == [4]  # before a frame was read, and drawn at the size of the source
    assert shapes == [[(4, 32, 48), (4, 256)], [(4, 32, 48, 3), (4, 256)]]
    assert backend.seen == [4, 4, 2]
    assert downloaded.shapes[2:] == [[(4, 32, 48, 3), (4, 256)], [(2, 32, 48, 3), (2, 256)]]


def test_live_frames_are_followed_while_the_device_works_and_drawn_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rtseg.decode.device import DeviceScores
    from rtseg.temporal.smooth import Smoother

    events: list[str] = []

    def noting(owner: type, name: str, word: str) -> None:
        plain = getattr(owner, name)

        def spy(self, *given, **more):
            events.append(word)
            return plain(self, *given, **more)

        monkeypatch.setattr(owner, name, spy)

    for owner, name, word in (
        (OnProcessor, "_segment", "begin"),
        (Smoother, "follow", "follow"),
        (DeviceScores, "wait", "wait"),
        (DeviceScores, "numpy", "scores"),
        (DeviceScores, "over", "draw"),
    ):
        noting(owner, name, word)
    smoother, stats = Smoother(0.8), Stats()
    segmenter = Segmenter(OnProcessor(keeps_frames=True))
    effect = open_effect(ViewOptions(), segmenter.labels)
    pairs = smoothed(one_by_one(iter(frames(2)), segmenter, stats, smoother), smoother, stats)
    alone = one_by_one(iter(frames(2)), Segmenter(OnProcessor(keeps_frames=False)), Stats())
    plain = list(smoothed(alone, Smoother(0.8), Stats()))
    events.clear()
    for (frame, ours), (_, theirs) in zip(pairs, plain, strict=True):
        picture = effect(frame, ours)
        assert events == ["begin", "follow", "wait", "scores", "draw"]
        assert np.mean(np.abs(picture.astype(int) - effect(frame, theirs)) > 2) < 0.03
        events.clear()


class Pictures(Sink):
    def __init__(self) -> None:
        self.images: list[np.ndarray] = []

    def write(self, rendered) -> None:
        self.images.append(rendered.image)


@pytest.mark.parametrize(
    "view",
    ["overlay", "contours", *(pytest.param(v, marks=pytest.mark.slow) for v in ("side", "mask"))],
)
@pytest.mark.slow
def test_every_view_draws_what_it_draws_of_the_processors_scores(view: str) -> None:
    drawn = []
    for keeps in (False, True):
        sink = Pictures()
        with open_source("test://?size=48x32&frames=2", SourceOptions()) as source:
            segmenter = Segmenter(OnProcessor(keeps, at_once=2))
            effect = open_effect(ViewOptions(view), segmenter.labels)
            report = run(source, segmenter, effect, [sink])
        assert report.frames == 2
        drawn.append(sink.images)
    for ours, theirs in zip(*drawn, strict=True):
        assert ours.shape == theirs.shape
        assert np.mean(np.abs(ours.astype(int) - theirs) > 2) < 0.03


@pytest.mark.parametrize("when", ["decode", "draw", "fetch"])
def test_a_device_that_fails_later_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """What a GPU does is begun by one call and fails in another."""

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure\nmore words")

    segmentation = Segmenter(OnProcessor(keeps_frames=True))(FRAMES[0])
    monkeypatch.setattr(torch, "empty", fails)
    monkeypatch.setattr(torch.Tensor, "contiguous", fails)
    table = overlay_table(segmentation.labels, 0.4)
    with pytest.raises(DeviceError, match=r"^cpu failed: CUDA error: unspecified launch failure$"):
        {
            "decode": lambda: segmentation.mask,
            "draw": lambda: segmentation.over(FRAMES[0], table),
            "fetch": lambda: segmentation.scores,
        }[when]()


def test_a_failure_names_the_network_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model = find_model("lraspp_mobilenet_v3_large", weights="random")
    backend = open_backend("torch", model, input_size=(32, 32), device="cpu")

    def fails(images: Sequence[Image]) -> list:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nmore words")

    backend._loop = fails
    with pytest.raises(BackendError, match=r"(?s)out of memory.*--imgsz") as caught:
        backend._segment([FRAMES[0]])
    assert "more words" not in str(caught.value)
    backend.close()


def test_a_gpu_that_fails_at_the_start_gives_way_to_the_processor_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rtseg.backends import pytorch

    def gpu(options) -> tuple[torch.device, None]:
        return torch.device("meta"), None  # a device on which nothing can be read back

    monkeypatch.setattr(pytorch, "_find_device", gpu)
    model = find_model("lraspp_mobilenet_v3_large", weights="random")
    backend = open_backend("torch", model, input_size=(32, 32))
    assert backend.info.device == "cpu"
    assert "running on cpu" in " ".join(backend.info.notes)
    backend.close()
    with pytest.raises(DeviceError):
        open_backend("torch", model, input_size=(32, 32), strict_device=True)


def kept_in(backend) -> list[str]:
    """What is noted when a backend on the processor is made to keep frames there."""
    notes: list[str] = []
    backend._keep_frames(torch.device("cpu"), notes)
    return notes


@pytest.mark.slow
def test_kernels_that_do_not_compile_cost_nothing_but_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import subprocess

    from triton.errors import TritonError

    model = find_model("lraspp_mobilenet_v3_large", weights="random")
    backend = open_backend("torch", model, input_size=(32, 32), device="cpu")
    assert kept_in(backend) == []  # kernels have run, and frames are kept
    assert backend.segment is not None
    backend.segment = None
    for error in (
        TritonError("no such instruction"),
        RuntimeError("Failed to find C compiler"),
        subprocess.CalledProcessError(1, ["gcc"]),
    ):

        def fails(self: DeviceLoop, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(DeviceLoop, "rehearse", fails)
        (note,) = kept_in(backend)
        assert note == f"frames are shrunk and drawn by the CPU: {error}"
        assert backend.segment is None

    def lost(batch: torch.Tensor) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(backend._network, "forward", lost)  # the device itself has failed
    with pytest.raises(RuntimeError, match="launch failure"):
        kept_in(backend)
    backend.close()


def test_kernels_that_fail_later_are_a_failure_of_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from triton.errors import TritonError

    from rtseg.decode import device

    class Fails:
        def __getitem__(self, grid: object) -> None:
            raise TritonError("out of resource: shared memory")

    segmentation = Segmenter(OnProcessor(keeps_frames=True))(FRAMES[0])
    monkeypatch.setattr(device.kernels, "decode", Fails())
    with pytest.raises(DeviceError, match="out of resource"):
        _ = segmentation.mask


def test_closing_after_the_device_was_lost_says_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = find_model("lraspp_mobilenet_v3_large", weights="random")
    backend = open_backend("torch", model, input_size=(32, 32), device="cpu")

    def lost(*_: object) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(backend._network, "to", lost)
    backend.close()


@pytest.mark.slow
def test_a_last_group_takes_the_step_of_more_frames_and_one_frame_its_own() -> None:
    loop = OnProcessor(keeps_frames=True).loop
    loop.warm_up(1)
    loop(FRAMES * 2)
    assert len(loop(FRAMES[:2])) == 2
    assert len(loop(FRAMES[:1])) == 1
    assert sorted(loop._steps) == [1, 10]


def test_a_batch_that_does_not_fit_goes_through_the_step_that_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = [scores.numpy() for scores in OnProcessor(keeps_frames=True).loop(FRAMES)]
    backend = OnProcessor(keeps_frames=True)
    loop, prepared = backend.loop, []
    step = DeviceLoop._step

    def fits_two(self: DeviceLoop, count: int):
        if count not in self._steps:
            prepared.append(count)
        if count > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore")
        return step(self, count)

    monkeypatch.setattr(DeviceLoop, "_step", fits_two)
    loop.warm_up(2)
    for _ in range(2):
        for one, other in zip(loop(FRAMES), alone, strict=True):
            np.testing.assert_allclose(one.numpy(), other, rtol=1e-6)
    assert prepared.count(5) == 1  # it is tried once
    assert loop.notes == ("batches of 2, not 5: CUDA out of memory. Tried to allocate 9 GiB",)


def test_very_large_frames_share_the_network_but_are_drawn_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rtseg.backends import cuda

    backend = OnProcessor(keeps_frames=True)
    alone = [backend.loop([image])[0].numpy() for image in FRAMES]
    calls = backend.network.calls
    monkeypatch.setattr(cuda, "MOST_BYTES", 2 * FRAMES[0].nbytes)
    downloaded = Downloaded(monkeypatch)
    for one, other in zip(backend.loop(FRAMES), alone, strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-6)
    assert backend.network.calls == calls + 1
    assert [shapes[0][0] for shapes in downloaded.shapes] == [2, 2, 1]


@pytest.mark.parametrize(
    ("at_once", "size", "ahead"),
    [(1, (720, 1280), 2), (8, (720, 1280), 16), (8, (2160, 3840), 10), (8, (9000, 9000), 2)],
)
def test_two_batches_are_read_ahead_where_memory_allows(
    at_once: int, size: tuple[int, int], ahead: int
) -> None:
    segmenter = Segmenter(OnProcessor(keeps_frames=True, at_once=at_once))
    assert read_ahead(segmenter, SourceInfo("a", size[1], size[0])) == ahead


def test_without_a_step_that_is_there_memory_that_runs_out_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: DeviceLoop, count: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DeviceLoop, "_step", full)
    with pytest.raises(torch.OutOfMemoryError):
        OnProcessor(keeps_frames=True).loop(FRAMES)


class Gpu:
    """torch.cuda, as far as the loop uses it, on the processor: it notes what happens in which
    stream, and captures by running."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, captures: bool = True) -> None:
        self.log: list[tuple[str, str]] = []
        self.stream, self.captures, self.made = "default", captures, 0
        self.run: object = None
        fakes = {
            "Stream": self._new_stream,
            "stream": self._in,
            "current_stream": lambda device=None: _Stream(self, self.stream),
            "Event": lambda **_: _Event(self),
            "graph_pool_handle": lambda: (0, 7),
            "CUDAGraph": lambda: _Graph(self),
            "graph": self._capture,
            "empty_cache": lambda: None,
            "current_device": lambda: 3,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(
            torch.Tensor, "record_stream", lambda _, stream: self.note(f"kept for {stream.name}")
        )
        monkeypatch.setattr(
            torch._C,
            "_cuda_endAllocateToPool",
            lambda device, pool: self.note(f"ended pool {pool} of {device}"),
            raising=False,
        )

    def note(self, what: str) -> None:
        self.log.append((self.stream, what))

    def loop(self, network: nn.Module) -> DeviceLoop:
        loop = DeviceLoop(network, SIZE, torch.device("cpu"))
        loop._cuda, loop._pool = True, torch.cuda.graph_pool_handle()
        loop._copies, loop._stream = _Stream(self, "copies"), _Stream(self, "compute")
        return loop

    def _new_stream(self, device: torch.device, **_: int):
        return _Stream(self, "another")

    @contextmanager
    def _in(self, stream):
        before, self.stream = self.stream, stream.name
        yield
        self.stream = before

    @contextmanager
    def _capture(self, graph, *, pool: object, stream: object, capture_error_mode: str):
        self.note("capture")
        yield
        if not self.captures:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")


class _Stream:
    def __init__(self, gpu: Gpu, name: str) -> None:
        self.gpu, self.name = gpu, name

    def synchronize(self) -> None:
        self.gpu.note("waited")

    def wait_event(self, event: _Event) -> None:
        self.gpu.note(f"waits for {event.place}")


class _Event:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.place = gpu, ""

    def record(self) -> None:
        self.place = self.gpu.stream

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: _Event) -> float:
        return 2.0


class _Graph:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def replay(self) -> None:
        self.gpu.note("replay")


def test_frames_are_uploaded_beside_the_network_which_waits_for_them_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rtseg.backends import cuda

    gpu = Gpu(monkeypatch)
    upload, shrink = cuda.upload, cuda.shrink
    monkeypatch.setattr(cuda, "upload", lambda *given: gpu.note("upload") or upload(*given))
    monkeypatch.setattr(cuda, "shrink", lambda *given: gpu.note("shrink") or shrink(*given))
    loop = gpu.loop(ColourNetwork())
    loop.warm_up(5)
    assert [what for _, what in gpu.log].count("capture") == 1
    gpu.log.clear()
    assert loop(FRAMES)[-1].wait() == pytest.approx(0.002)
    assert gpu.log == [
        ("copies", "upload"),
        ("compute", "waits for copies"),
        ("compute", "kept for compute"),
        ("compute", "shrink"),
        ("compute", "replay"),
    ]


def test_a_capture_that_fails_leaves_no_pool_recording_and_the_network_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(monkeypatch, captures=False)
    network = ColourNetwork()
    loop = gpu.loop(network)
    loop.warm_up(1)
    ended = [what for _, what in gpu.log if what.startswith("ended")]
    assert ended == ["ended pool (0, 7) of 3"]
    assert loop.notes == ("no CUDA graph: operation not permitted when stream is capturing",)
    calls = network.calls
    plain = OnProcessor(keeps_frames=True).loop(FRAMES[:1])[0].numpy()
    np.testing.assert_allclose(loop(FRAMES[:1])[0].numpy(), plain, rtol=1e-6)
    assert network.calls == calls + 1
    assert "replay" not in [what for _, what in gpu.log]


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_tf32_is_refused_where_no_nvidia_gpu_runs(backend: str) -> None:
    model = find_model("lraspp_mobilenet_v3_large", weights="random")
    with pytest.raises(UsageError, match="precision tf32"):
        open_backend(backend, model, input_size=(32, 32), device="cpu", precision="tf32")


@pytest.mark.needs_cuda
def test_on_a_gpu_masks_and_pictures_agree_with_the_processor_in_fp32() -> None:
    model = find_model("lraspp_mobilenet_v3_large", weights="random")
    size = (96, 160)
    clip = [np.random.default_rng(n).integers(0, 256, (18, 32, 3), np.uint8) for n in range(9)]
    images = [image.repeat(20, 0).repeat(20, 1) for image in clip]
    numbered = [Frame(image, n, n / 30, 0.0) for n, image in enumerate(images)]
    options = {"input_size": size, "precision": "fp32"}
    with (
        Segmenter(open_backend("torch", model, device="cpu", **options)) as plain,
        Segmenter(open_backend("torch", model, device="cuda", **options)) as ours,
    ):
        assert ours.backend.segment is not None
        effect = open_effect(ViewOptions(), plain.labels)
        for frame, kept in several_at_once(iter(numbered), ours, Stats()):
            expected = plain(frame.image)
            picture = effect(frame, kept)
            assert np.mean(kept.mask != expected.mask) < 0.01
            assert np.mean(np.abs(picture.astype(int) - effect(frame, expected)) > 2) < 0.01
        seconds = ours.backend.device_seconds(5)
        assert seconds is not None
        assert len(seconds) == 5
        assert min(seconds) > 0


@pytest.mark.needs_cuda
def test_on_a_gpu_the_loop_is_honest_about_its_time() -> None:
    model = find_model("deeplabv3_resnet50", weights="random")
    backend = open_backend("torch", model, input_size=(512, 512), device="cuda")
    clock = Clock()
    with Segmenter(backend) as segmenter:
        image = np.zeros((720, 1280, 3), np.uint8)
        _, _, taken = segmenter.together([Frame(image, 0, 0.0, 0.0)], clock)
        assert taken >= 0.8 * min(backend.device_seconds(5) or [0.0])
