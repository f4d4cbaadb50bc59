"""The benchmark: what its clocks count, in which order, and what becomes of its figures."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest

from rtseg.backends import open_backend
from rtseg.backends.stub import StubBackend
from rtseg.bench import clocks
from rtseg.bench.clocks import (
    CLOCKS,
    LEAST_PASSES,
    UNCOUNTED,
    Block,
    Checkerboard,
    Limit,
    clip_info,
    samples,
    time_loop,
    time_model,
    time_pipeline,
    timed,
    write_portrait,
)
from rtseg.bench.options import BenchOptions
from rtseg.bench.program import measure, new_row
from rtseg.bench.record import (
    Agreement,
    Record,
    compare,
    keep_best,
    milliseconds,
    mismatches,
    peak_share,
    summarise,
)
from rtseg.bench.report import (
    changes,
    draw_plot,
    markdown,
    plain,
    render,
    tables,
    write_plot,
)
from rtseg.bench.worker import Combination, Loaded, Remote, Stopped, Subject, Yardstick
from rtseg.contracts import BackendInfo
from rtseg.effects import ViewOptions, open_effect
from rtseg.errors import BackendError, RtsegError, SinkError, UsageError
from rtseg.measure import batch_of
from rtseg.nets import find_model, flops
from rtseg.nets.flops import COPIED_BYTES, arithmetic_peak, copy_peak, network_flops, onnx_flops
from rtseg.segmenter import Segmenter
from rtseg.sinks import open_sink
from rtseg.sources import open_source
from rtseg.stats import ManualClock

DELAY = 0.1
CLIP = "test://?size=64x48&fps=30&frames=12"
SIZE = (48, 64)


def slow_stub(clock: ManualClock) -> StubBackend:
    return StubBackend(find_model("stub?delay=100ms"), SIZE, clock=clock)


def combination(**changed: Any) -> Combination:
    stub = Combination(find_model("stub"), "stub", "auto", "auto", SIZE)
    return replace(stub, **changed)


def record() -> Record:
    return Record(
        machine={
            "rtseg": "0.1",
            "git": "abc",
            "python": "3.12",
            "os": "Linux",
            "cpu": "A | B",
            "cores": 2,
            "gpu": "",
            "load_average": 0.1,
            "date": "2026-01-01T00:00:00+00:00",
            "versions": {"numpy": "2"},
        },
        clip={"name": "clip", "width": 64, "height": 48, "frame_rate": "30", "frame_count": 12},
        settings={
            "rounds": 2,
            "seconds": 1.0,
            "frames": None,
            "threads": None,
            "view": "overlay",
            "alpha": 0.4,
            "loop_ends_in": "h264",
            "data": None,
            "samples": 16,
        },
    )


class Scripted:
    """Stands for the process of a combination: notes what it is asked, fails where it is told."""

    def __init__(self, name: str, asked: list[tuple[Any, ...]], fails: str = "") -> None:
        self.name, self.asked, self.fails = name, asked, fails

    def call(self, method: str, *arguments: Any) -> Any:
        self.asked.append((self.name, method, *arguments))
        if method == self.fails:
            raise BackendError(f"{self.name} failed")
        block = Block(1.0, 4, [0.25] * 4)
        answers = {
            "describe": Loaded(BackendInfo(self.name, "cpu", "fp32"), 0.5),
            "first": 0.25,
            "measure": block,
            "memory": 100.0,
            "processor": {"decode": [2.0, 1.5], "draw": [0.5, None], "loop": [9.0, 6.0]},
            "mean_iou": 0.75,
            "flops": 2e9,
            "reference": None,
            "agreement": Agreement(0.9, 0.8, 8),
            "peak": 1e11,
            "copies": 2e10,
        }
        return deepcopy(answers[method])

    def close(self) -> None:
        self.asked.append((self.name, "close"))


def measured(
    backends: str, options: BenchOptions | None = None, **told: Any
) -> tuple[Record, list[tuple[Any, ...]]]:
    """A record of combinations with these backends, and what their processes were asked."""
    asked: list[tuple[Any, ...]] = []
    fails = told.pop("fails", {})
    missing = told.pop("missing", "")

    def opened(place: str, arguments: dict[str, Any]) -> Scripted:
        name = arguments["combination"].backend
        if name in missing:
            raise UsageError(f"there is no {name} here")
        return Scripted(name, asked, fails.get(name, ""))

    made = record()
    combinations = [combination(backend=name) for name in backends]
    measure(combinations, options or BenchOptions(input=CLIP), made, open_remote=opened, **told)
    return made, asked


@pytest.fixture
def full() -> Record:
    """Two rows with figures and one without."""
    made, _ = measured("ABC", missing="C")
    made.rows[0].gflop, made.rows[0].peak_share = 2.5, 0.5
    made.rows[0].agreement = Agreement(0.9999, 0.99, 16)
    made.peaks.append(
        {"device": "cpu", "precision": "fp32", "threads": None, "gflops": 200.0, "copy_gb_s": 20.0}
    )
    return made


# Clocks


def test_the_model_clock_counts_what_the_network_takes() -> None:
    clock = ManualClock()
    block = time_model(slow_stub(clock), samples(CLIP, 3), Limit(1.0), clock)
    assert block.count == len(block.passes) == 10
    assert block.passes == pytest.approx([DELAY] * 10)
    assert block.seconds == pytest.approx(1.0)


def test_a_device_that_has_a_clock_tells_the_time_of_the_model_itself() -> None:
    clock = ManualClock()
    backend = slow_stub(clock)
    backend.device_seconds = lambda passes: [0.25] * passes
    block = time_model(backend, samples(CLIP, 3), Limit(1.5), clock)
    assert block.passes == [0.25] * 6
    assert block.seconds == 1.5
    assert clock.now() == 0  # nothing was copied to it and back


def test_what_comes_before_the_block_is_not_counted() -> None:
    clock = ManualClock()
    calls: list[int] = []
    block = timed(lambda number: (calls.append(number), clock.sleep(1)), Limit(4.0), clock)
    assert block.count == 4
    assert len(calls) == 4 + UNCOUNTED
    assert clock.now() == block.seconds + UNCOUNTED


@pytest.mark.parametrize(
    ("limit", "count"),
    [(Limit(0.3), LEAST_PASSES), (Limit(5.0), 5), (Limit(5.0, 2), 2), (Limit(3.0, 99), 3)],
)
def test_a_block_ends_with_its_time_or_its_passes(limit: Limit, count: int) -> None:
    clock = ManualClock()
    assert timed(lambda number: clock.sleep(1), limit, clock).count == count


def test_the_pipeline_clock_holds_the_network_and_makes_a_picture_of_every_frame() -> None:
    clock = ManualClock()
    frames = samples(CLIP, 3)
    drawn = []

    def effect(frame, segmentation):
        clock.sleep(0.4)
        drawn.append(segmentation.mask.shape)
        return frame.image

    block = time_pipeline(Segmenter(slow_stub(clock)), effect, frames, Limit(2.5), clock)
    assert block.passes == pytest.approx([DELAY + 0.4] * 5)
    assert drawn == [(48, 64)] * (5 + UNCOUNTED)


def test_the_loop_writes_every_frame_of_the_clip_to_a_video_that_plays(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    with Segmenter(open_backend("stub", find_model("stub"))) as segmenter:
        effect = open_effect(ViewOptions(), segmenter.labels)
        with open_source(CLIP) as source:
            info = source.info
            block = time_loop(
                segmenter,
                effect,
                source,
                lambda: open_sink(str(target), info, segmenter.labels),
                Limit(60.0),
            )
    assert block.count == 12
    assert len(block.passes) == 11  # from one finished frame to the next
    assert sum(block.passes) < block.seconds
    assert block.counts == {"produced": 12, "shown": 12, "dropped": 0, "propagated": 0}
    assert "infer" in block.stages_ms
    with av.open(str(target)) as video:
        assert sum(1 for _ in video.decode(video=0)) == 12


def test_a_loop_that_is_cut_short_finishes_the_frames_on_their_way() -> None:
    with Segmenter(open_backend("stub", find_model("stub"))) as segmenter, open_source(CLIP) as s:
        block = time_loop(
            segmenter,
            lambda frame, _: frame.image,
            s,
            lambda: open_sink("null:", s.info, segmenter.labels),
            Limit(60.0, 5),
        )
    assert block.counts == {"produced": 5, "shown": 5, "dropped": 0, "propagated": 0}


def test_the_loop_draws_although_nobody_keeps_the_picture() -> None:
    drawn = []

    def effect(frame, _):
        drawn.append(frame.index)
        return frame.image

    with Segmenter(open_backend("stub", find_model("stub"))) as segmenter, open_source(CLIP) as s:
        time_loop(
            segmenter, effect, s, lambda: open_sink("null:", s.info, segmenter.labels), Limit(60.0)
        )
    assert drawn == list(range(12))


def every_neighbour_differs(scores: np.ndarray) -> bool:
    """Whether no two neighbours among (C, h, w) scores have the same arg-max."""
    top = scores.argmax(0)
    return bool((top[1:] != top[:-1]).all() and (top[:, 1:] != top[:, :-1]).all())


def test_on_the_checkerboard_every_cell_disagrees_and_the_network_still_runs() -> None:
    clock = ManualClock()
    board = Checkerboard(slow_stub(clock))
    scores = board(batch_of(samples(CLIP, 1)[0].image, SIZE))
    assert scores.shape[2:] == (6, 8)
    assert every_neighbour_differs(scores[0])
    assert clock.now() == pytest.approx(DELAY)


def test_the_checkerboard_takes_the_place_of_scores_that_stay_on_a_device() -> None:
    pytest.importorskip("triton", reason="Triton has no wheel for this system")
    import torch

    from rtseg.decode.device import DeviceBatch

    class Keeps(StubBackend):
        def segment(self, pictures):
            frames = torch.from_numpy(np.stack(pictures))
            return DeviceBatch(torch.rand(len(frames), 3, 6, 8), frames).each()

    board = Checkerboard(Keeps(find_model("stub"), SIZE))
    assert board.segment is not None
    for scores in board.segment([np.zeros((48, 64, 3), np.uint8)] * 2):
        assert every_neighbour_differs(scores.numpy())
        assert scores.shape == (3, 6, 8)


def test_a_batch_is_what_the_segmenter_feeds() -> None:
    fed = []

    class Spy(StubBackend):
        def __call__(self, batch):
            fed.append(batch)
            return super().__call__(batch)

    frame = samples("test://?size=200x150&frames=1", 1)[0]
    Segmenter(Spy(find_model("stub"), SIZE))(frame.image)
    assert np.array_equal(batch_of(frame.image, SIZE), fed[0])


# The clip


def test_samples_are_spread_over_the_clip() -> None:
    assert [frame.index for frame in samples("test://?size=64x48&frames=40", 4)] == [0, 10, 20, 30]


def test_a_live_source_is_no_clip() -> None:
    with pytest.raises(UsageError, match="live"):
        clip_info(CLIP + "&live=1")


def test_without_a_clip_the_portrait_becomes_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clocks, "PORTRAIT_SECONDS", 0.2)
    info = clip_info(str(write_portrait(tmp_path)))
    assert (info.width, info.height, info.frame_count) == (1280, 720, 6)


# Rounds


def test_combinations_take_turns_within_a_clock_and_clocks_within_a_round() -> None:
    _, asked = measured("AB", BenchOptions(input=CLIP, clocks=("model", "loop"), rounds=2))
    turns = [(name, given[0]) for name, method, *given in asked if method == "measure"]
    once = [("A", "model"), ("B", "model"), ("A", "loop"), ("B", "loop")]
    assert turns == once * 2


def test_all_are_loaded_before_anything_is_timed_and_closed_at_the_end() -> None:
    _, asked = measured("AB")
    methods = [method for _, method, *_ in asked]
    assert methods.index("measure") > max(
        i for i, method in enumerate(methods) if method == "describe"
    )
    assert sorted(asked[-2:]) == [("A", "close"), ("B", "close")]


def test_rows_hold_what_their_process_answered() -> None:
    made, _ = measured("A")
    row = made.rows[0]
    assert row.ran == BackendInfo("A", "cpu", "fp32")
    assert (row.load_seconds, row.first_seconds, row.peak_memory_mb) == (0.5, 0.25, 100.0)
    assert row.cold_start_seconds is not None
    assert row.cold_start_seconds > 0.25
    assert row.clocks["model"].fps == 4.0
    assert row.clocks["model"].passes == 12
    assert not made.partial


def test_what_cannot_be_loaded_has_a_row_that_says_why_and_the_others_go_on() -> None:
    made, _ = measured("ABC", missing="B")
    assert [row.error for row in made.rows] == ["", "there is no B here", ""]
    assert [len(row.clocks) for row in made.rows] == [3, 0, 3]


def test_what_fails_while_it_is_timed_is_asked_no_more() -> None:
    made, asked = measured("AB", fails={"A": "measure"})
    assert made.rows[0].error == "A failed"
    assert sum(name == "A" and method == "measure" for name, method, *_ in asked) == 1
    assert made.rows[1].clocks["loop"].passes == 12


def test_a_stopped_benchmark_keeps_what_is_done_and_says_so() -> None:
    class Impatient(Scripted):
        def call(self, method: str, *arguments: Any) -> Any:
            if sum(m == "measure" for _, m, *_ in self.asked) == 4:
                raise Stopped
            return super().call(method, *arguments)

    asked: list[tuple[Any, ...]] = []
    made = record()
    measure(
        [combination(backend=name) for name in "AB"],
        BenchOptions(input=CLIP, clocks=("model", "loop")),
        made,
        open_remote=lambda place, a: Impatient(a["combination"].backend, asked),
    )
    assert made.partial
    assert [len(row.clocks["loop"].rounds) for row in made.rows] == [1, 1]
    assert sum(method == "close" for _, method, *_ in asked) == 2


def test_every_step_is_told_before_it_is_taken() -> None:
    told: list[tuple[int, int, str]] = []
    measured(
        "AB",
        BenchOptions(input=CLIP, clocks=("model",), rounds=2),
        on_step=lambda *step: told.append(step),
    )
    assert [done for done, _, _ in told] == list(range(6))
    assert {total for _, total, _ in told} == {6}
    assert told[2][2].startswith("round 1, model: stub A")


def test_the_mean_iou_is_left_out_with_random_weights(tmp_path: Path) -> None:
    settings = BenchOptions(input=CLIP, clocks=("model",), data=str(tmp_path), max_pictures=5)
    real, asked = measured("A", settings)
    assert real.rows[0].miou == 0.75
    assert ("A", "mean_iou", tmp_path, 5, False) in asked

    made = record()
    model = replace(find_model("stub"), format="random")
    measure(
        [combination(model=model)],
        settings,
        made,
        open_remote=lambda place, _: Scripted("A", []),
    )
    row = made.rows[0]
    assert row.miou is None
    # what the others have, it has: 2 GFLOP in 250 ms, on a machine that does 100 in a second
    assert row.agreement == Agreement(0.9, 0.8, 8)
    assert (row.gflop, row.peak_share) == (2.0, pytest.approx(0.08))


# Figures


def test_percentiles_are_those_of_all_passes_in_milliseconds() -> None:
    row = milliseconds([n / 1000 for n in range(101)])
    assert row == pytest.approx({"p50": 50, "p95": 95, "p99": 99, "mean": 50, "max": 100})


def test_the_speed_is_the_median_of_the_rounds() -> None:
    blocks = [Block(1.0, count, [1 / count] * count) for count in (10, 2, 8)]
    figures = summarise(blocks)
    assert figures.fps == 8.0
    assert figures.rounds == [10.0, 2.0, 8.0]
    assert figures.passes == 20
    assert figures.ms["max"] == 500.0


def test_counts_are_of_all_rounds() -> None:
    blocks = [Block(1.0, 1, [1.0], {"shown": 3, "dropped": n}) for n in (1, 2)]
    assert summarise(blocks).counts == {"shown": 6, "dropped": 3}


def test_the_share_of_the_peak_is_that_of_its_device(full: Record) -> None:
    row = full.rows[0]
    row.gflop = 10.0  # at 250 ms: 40 GFLOP/s, of 200
    assert peak_share(row, full.peaks) == pytest.approx(0.2)
    assert row.ran is not None
    full.peaks.append({**full.peaks[0], "precision": "bf16", "gflops": 800.0})
    for precision, share in {"bf16": 0.05, "int8": 0.2}.items():
        row.ran = replace(row.ran, precision=precision)
        assert peak_share(row, full.peaks) == pytest.approx(share)
    row.ran = replace(row.ran, device="cuda:0 (A GPU)", precision="fp16")
    assert peak_share(row, full.peaks) is None


def test_of_several_products_the_best_is_the_peak() -> None:
    peaks: list[dict[str, Any]] = []
    for gflops in (90.0, 120.0, 100.0):
        keep_best(peaks, ("cpu", "fp32"), 2, gflops=gflops, copy_gb_s=100 - gflops / 2)
    keep_best(peaks, ("cuda:0", "fp16"), 2, gflops=5e5, copy_gb_s=3e3)
    assert [peak["gflops"] for peak in peaks] == [120.0, 5e5]
    assert [peak["copy_gb_s"] for peak in peaks] == [55.0, 3e3], "each is the best of its own"


def test_the_peak_is_that_of_products_or_convolutions_whichever_is_better(monkeypatch) -> None:
    seconds = {2: 0.5, 4: 0.25}  # of a product, which has two axes, and of a convolution
    monkeypatch.setattr(flops, "_quickest", lambda work, cuda: seconds[work().ndim])
    product, convolution = 2 * 1536**3 / 0.5, 18 * 256**2 * 64**2 / 0.25
    assert arithmetic_peak("cpu", "fp32", 1) == convolution > product
    seconds[4] = 5.0
    assert arithmetic_peak("cpu", "bf16", 1) == product


def test_the_peak_is_measured_where_torch_has_the_device() -> None:
    peak = arithmetic_peak("cpu", "fp32", 1)
    assert peak is not None
    assert peak > 1e8
    assert arithmetic_peak("mps", "fp32") is None


def test_copies_are_counted_as_read_and_written(monkeypatch) -> None:
    copied = []

    def half_a_second(work, cuda: bool) -> float:
        copied.append(work())
        return 0.5

    monkeypatch.setattr(flops, "_quickest", half_a_second)
    assert copy_peak("cpu", 1) == 2 * COPIED_BYTES["cpu"] / 0.5
    assert copied[0].numel() == COPIED_BYTES["cpu"]
    assert copy_peak("mps") is None


def test_the_arithmetic_of_a_known_network_is_what_was_published() -> None:
    model = find_model("lraspp_mobilenet_v3_large", weights="random")
    found = network_flops(model, (512, 512))
    assert found == pytest.approx(3.95e9, rel=0.02)
    assert network_flops(find_model("stub"), SIZE) is None


def test_shapes_in_a_file_give_the_count_that_torch_gives(tmp_path: Path) -> None:
    from rtseg.nets.onnx_file import write_onnx

    model = find_model("lraspp_mobilenet_v3_large", weights="random")
    write_onnx(model, (64, 96), tmp_path / "net.onnx")
    counted = onnx_flops(tmp_path / "net.onnx", (64, 96))
    assert counted == pytest.approx(network_flops(model, (64, 96)), rel=1e-3)


# A combination in its process


def test_the_network_runs_in_a_thread_of_its_own_as_in_a_run() -> None:
    names = []

    class Spy(StubBackend):
        def __call__(self, batch):
            names.append(threading.current_thread().name)
            return super().__call__(batch)

    subject = Subject(combination(), CLIP, ViewOptions())
    subject.backend = subject._segmenter.backend = Spy(find_model("stub"), SIZE)
    for clock in ("model", "pipeline", "loop"):
        subject.measure(clock, Limit(60.0, 3))
    assert set(names) == {"rtseg-inference"}


def test_a_subject_measures_every_clock() -> None:
    subject = Subject(combination(), CLIP, ViewOptions())
    assert subject.describe().info.name == "stub"
    assert subject.first() > 0
    for clock in CLOCKS:
        assert subject.measure(clock, Limit(60.0, 4)).count == 4
    memory = subject.memory()
    assert memory is None or memory > 10


@pytest.mark.slow
@pytest.mark.alone
def test_processor_time_of_stages_beside_that_of_the_bare_libraries(tmp_path: Path) -> None:
    clip = str(write_portrait(tmp_path))
    subject = Subject(combination(), clip, ViewOptions(), folder=tmp_path)
    found = subject.processor()
    assert list(found) == ["decode", "network", "draw", "encode", "loop"]
    ours, bare = (
        dict(zip(found, column, strict=True)) for column in zip(*found.values(), strict=True)
    )
    assert bare["draw"] is None
    parts = [bare[stage] for stage in ("decode", "network", "encode")]
    assert all(part is not None and part > 0 for part in parts)
    assert bare["loop"] == pytest.approx(sum(parts))
    assert ours["loop"] > 0.5 * sum(
        ours[stage] for stage in ("decode", "network", "draw", "encode")
    )
    assert not list(tmp_path.glob("rtseg-bench-*"))
    synthetic = Subject(combination(), CLIP, ViewOptions(), folder=tmp_path).processor()
    assert synthetic["decode"][1] is synthetic["loop"][1] is None


def test_processor_time_is_taken_of_a_loop_that_encodes() -> None:
    options = BenchOptions(input=CLIP, clocks=("loop",))
    made, asked = measured("AB", options)
    assert sum(method == "processor" for _, method, *_ in asked) == 2
    text = render(made, "md")
    assert "| 2.00 (1.50) | 0.50 | 9.00 (6.00) | 1.50x |" in text
    for other in (replace(options, encode=False), replace(options, clocks=("model",))):
        made, asked = measured("AB", other)
        assert not any(method == "processor" for _, method, *_ in asked)
        assert "CPU ms" not in render(made, "md")


def test_agreement_is_the_share_of_equal_pixels_on_average_and_at_worst(tmp_path: Path) -> None:
    subject = Subject(combination(), CLIP, ViewOptions())
    same = np.stack([subject._segmenter(frame.image).mask for frame in subject.frames])
    np.save(tmp_path / "same.npy", same)
    assert subject.agreement(tmp_path / "same.npy") == Agreement(1.0, 1.0, len(same))
    half = same.copy()
    half[0, :24] = 250
    np.save(tmp_path / "half.npy", half)
    found = subject.agreement(tmp_path / "half.npy")
    assert found.least == 0.5
    assert found.mean == pytest.approx(1 - 0.5 / len(same))


def test_the_reference_is_torch_in_fp32(tmp_path: Path) -> None:
    model = find_model("lraspp_mobilenet_v3_large", weights="random")
    Yardstick().reference(model, SIZE, CLIP, tmp_path / "masks.npy")
    torch = Subject(
        combination(model=model, backend="torch", precision="fp32", device="cpu"),
        CLIP,
        ViewOptions(),
    )
    assert torch.agreement(tmp_path / "masks.npy") == Agreement(1.0, 1.0, len(torch.frames))


def test_an_object_in_another_process_answers_and_its_failures_come_back() -> None:
    remote = Remote("fractions:Fraction", {"numerator": 2, "denominator": 6})
    try:
        assert str(remote.call("limit_denominator", 10)) == "1/3"
        with pytest.raises(RtsegError, match="AttributeError"):
            remote.call("no_such_thing")
        assert remote.call("__add__", 1) == remote.call("__radd__", 1)
    finally:
        remote.close()


def test_a_constructor_that_fails_elsewhere_raises_here() -> None:
    with pytest.raises(UsageError, match=r"unknown backend .nonsense."):
        Remote(
            "rtseg.bench.worker:Subject",
            {
                "combination": combination(backend="nonsense"),
                "clip": CLIP,
                "view": ViewOptions(),
            },
        )


def test_a_process_that_dies_is_an_error_with_its_exit_code() -> None:
    with pytest.raises(BackendError, match="exit code 3"):
        Remote("os:_exit", {"status": 3})


def test_a_question_ends_when_somebody_stops() -> None:
    polls: Iterator[bool] = iter([False, False, True])
    with pytest.raises(Stopped):
        Remote("time:sleep", {}, stop=lambda: next(polls, True))


HOLDS_A_WORKER = """
from rtseg.bench.worker import Remote
asked = []
def stop():
    if asked:  # a moment ago
        print(remote._child.pid, flush=True)
    return False
remote = Remote("rtseg.stats:Clock", {}, stop=stop)
asked.append(remote)
remote.call("sleep", 36000)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGHUP"])
@pytest.mark.slow
def test_a_process_ends_with_its_parent_even_in_the_middle_of_a_call(name: str) -> None:
    command = [sys.executable, "-c", HOLDS_A_WORKER]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        assert runs(worker)
        parent.send_signal(getattr(signal, name))
    until = time.monotonic() + 20  # it takes milliseconds, unless the machine is busy
    while runs(worker) and time.monotonic() < until:
        time.sleep(0.01)
    try:
        assert not runs(worker)
    finally:
        if runs(worker):
            worker.kill()


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended; perhaps nobody is there to read its exit code."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# The record as text


def test_json_gives_an_equal_record_back(full: Record) -> None:
    again = Record.from_json(json.loads(render(full, "json")))
    assert again == full
    assert again.rows[0].clocks["model"].fps == 4.0


@pytest.mark.parametrize("values", [{}, [], {"rtseg_bench": 1}, {"rtseg_bench": 99}])
def test_other_json_is_no_record(values: Any) -> None:
    with pytest.raises(UsageError, match=r"record|later version"):
        Record.from_json(values)


def test_csv_has_every_row_and_its_figures(full: Record) -> None:
    rows = list(csv.DictReader(io.StringIO(render(full, "csv"))))
    assert [row["backend"] for row in rows] == ["A", "B", "C"]
    assert float(rows[0]["model_fps"]) == float(rows[0]["model_fps_slowest"]) == 4.0
    assert float(rows[0]["loop_p99_ms"]) == 250.0
    assert rows[0]["cpu"] == "A | B"
    assert rows[2]["model_fps"] == ""
    assert rows[2]["error"] == "there is no C here"


def test_every_line_of_a_markdown_table_has_the_columns_of_its_head(full: Record) -> None:
    text = render(full, "md")
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 4
    for block in blocks:
        bars = [line.replace("\\|", "").count("|") for line in block.splitlines()]
        assert len(set(bars)) == 1
    assert "| 4.0 (4.0-4.0) | 250 / 250 / 250 |" in blocks[0]
    assert "there is no C here" in blocks[3]


def test_the_table_says_how_many_frames_were_compared(full: Record) -> None:
    full.rows[0].agreement = Agreement(0.9999, 0.99, 8)
    assert "torch fp32 on 8 frames" in render(full, "table")


def test_the_table_keeps_clocks_apart_and_explains_each(full: Record) -> None:
    speed, quality, stages, failed = tables(full)
    assert [head for head in speed.heads if head.endswith("fps")] == [
        "model fps",
        "pipeline fps",
        "loop fps",
    ]
    assert "99.990% (99.000%)" in quality.rows[0]
    assert "50%" in quality.rows[0]
    assert stages.heads[0] == "model"
    assert failed.rows == [["stub", "C auto auto", "48x64", "there is no C here"]]
    text = render(full, "table")
    for clock in ("model", "pipeline", "loop"):
        assert f"\n{clock}: {CLOCKS[clock]}" in text
    assert "worst" not in text


def test_dropped_and_propagated_frames_have_a_column_where_there_are_any(full: Record) -> None:
    assert not any("dropped" in head for head in tables(full)[0].heads)
    full.rows[0].clocks["loop"].counts = {"dropped": 3, "propagated": 20}
    assert tables(full)[0].heads[-1] == "loop dropped / propagated"
    assert [row[-1] for row in tables(full)[0].rows] == ["3 / 20", "0 / 0"]


@pytest.mark.parametrize("form", ["table", "md", "csv", "json"])
def test_a_record_without_rows_is_still_a_record(form: str) -> None:
    assert render(record(), form).endswith("\n")


def test_the_stamp_says_busy_and_partial() -> None:
    made = record()
    assert "busy" not in render(made, "table")
    made.machine["load_average"], made.partial = 1.5, True
    text = render(made, "table")
    assert "busy machine: load 1.5" in text
    assert "partial" in text


def test_the_chart_has_a_bar_for_every_clock_of_every_row(full: Record, tmp_path: Path) -> None:
    figure = draw_plot(full)
    widths = [bar.get_width() for bars in figure.axes[0].containers[::2] for bar in bars]
    assert widths == [4.0] * 6
    write_plot(full, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SinkError, match="cannot write"):
        write_plot(full, tmp_path / "chart.png" / "chart.png")


# Comparison


def faster(record: Record, by: float) -> Record:
    """The record with every clock so many times as fast."""
    made = deepcopy(record)
    for row in made.rows:
        for figures in row.clocks.values():
            figures.fps *= by
    return made


def test_a_change_is_a_share_of_the_older_speed(full: Record) -> None:
    found = compare(faster(full, 0.8), full)
    assert len(found.changes) == 6
    assert all(change.share == pytest.approx(-0.2) for change in found.changes)
    assert len(found.slower_than(0.1)) == 6
    assert found.slower_than(0.25) == []
    assert compare(faster(full, 2.0), full).slower_than(0.0) == []
    assert found.warnings == ()


def test_the_table_of_changes_gives_each_clock_its_line(full: Record) -> None:
    table = changes(compare(faster(full, 1.5), full))
    assert [row[3] for row in table.rows[:3]] == ["model", "pipeline", "loop"]
    assert all(row[-3:] == ["+50.0%", "±0.0%", "faster"] for row in table.rows)
    assert "+50.0%" in plain(table)
    assert "+50.0%" in markdown(table)


def spread(record: Record, *rounds: float) -> Record:
    """The record with these frames per second in the rounds of every clock."""
    made = deepcopy(record)
    for row in made.rows:
        for name, figures in row.clocks.items():
            row.clocks[name] = replace(figures, rounds=list(rounds), fps=float(np.median(rounds)))
    return made


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        ((99, 100, 101), (79, 80, 81), "slower"),
        ((99, 100, 101), (119, 120, 121), "faster"),
        ((70, 100, 130), (60, 80, 100), "within noise"),
        ((100, 100, 100), (60, 80, 100), "within noise"),
        ((99, 100, 101), (99, 100, 101), ""),
        ((100,), (79, 80, 81), ""),
        ((100,), (80,), ""),
    ],
)
def test_rounds_that_differ_among_themselves_make_a_change_noise(
    before: tuple[float, ...], now: tuple[float, ...], verdict: str, full: Record
) -> None:
    found = compare(spread(full, *now), spread(full, *before))
    assert {row[-1] for row in changes(found).rows} == {verdict}
    slow = np.median(now) < 90 and verdict != "within noise"
    assert len(found.slower_than(0.1)) == (6 if slow else 0)


def test_noise_is_four_standard_errors_of_the_change(full: Record) -> None:
    first = compare(spread(full, 90, 100, 110), spread(full, 90, 100, 110)).changes[0]
    assert first.noise == pytest.approx(4 * (2 * 10**2 / 3) ** 0.5 / 100)
    more = compare(spread(full, *[90, 100, 110] * 9), spread(full, *[90, 100, 110] * 9))
    assert more.changes[0].noise < first.noise / 2.9
    assert len(more.unsure_of(0.05)) == 6
    assert more.unsure_of(0.1) == []


def test_equal_speeds_seldom_seem_to_differ_and_slower_ones_seldom_do_not(full: Record) -> None:
    random = np.random.default_rng(0)

    def wrong(now: float) -> int:
        drawn = ([random.normal(fps, 2, 3) for fps in (100, now)] for _ in range(500))
        found = [compare(spread(full, *new), spread(full, *old)) for old, new in drawn]
        return sum(bool(one.slower_than(0.0)) for one in found)

    assert wrong(100) < 15
    assert wrong(80) > 485


def test_another_version_or_setting_is_warned_of(full: Record) -> None:
    other = deepcopy(full)
    other.machine["versions"] = {"numpy": "1"}
    other.settings["threads"] = 4
    assert compare(full, other).warnings == ("threads was 4, is none", "numpy was 1, is 2")
    assert mismatches(full, other) == []


def test_another_machine_or_clip_cannot_be_compared(full: Record) -> None:
    assert mismatches(full, full) == []
    for change, words in {
        ("machine", "cpu", "another"): "cpu was another, is A | B",
        ("machine", "cores", 64): "cores was 64, is 2",
        ("machine", "gpu", "A GPU, 550.1"): "gpu was A GPU, is none",
        ("clip", "name", "other"): "clip name was other, is clip",
        ("clip", "width", 1280): "clip width was 1280, is 64",
        ("clip", "frame_count", 99): "clip frame_count was 99, is 12",
    }.items():
        other = deepcopy(full)
        part, name, value = change
        getattr(other, part)[name] = value
        assert mismatches(full, other) == [words]


def test_another_driver_is_the_same_machine(full: Record) -> None:
    full.machine["gpu"] = "A GPU, 550.1; A GPU, 550.1"
    other = deepcopy(full)
    other.machine["gpu"] = "A GPU, 600.2; A GPU, 600.2"
    assert mismatches(full, other) == []
    assert any("600.2" in warning for warning in compare(full, other).warnings)


def test_rows_without_a_partner_are_named(full: Record) -> None:
    older = deepcopy(full)
    older.rows[0].input_size = (512, 512)
    found = compare(full, older)
    assert len(found.changes) == 3
    assert found.warnings == (
        "not in the older record: stub A fp32 48x64 cpu",
        "only in the older record: stub A fp32 512x512 cpu",
    )


def test_what_ran_before_and_fails_now_is_lost(full: Record) -> None:
    now = deepcopy(full)
    now.rows[0].clocks, now.rows[0].ran, now.rows[0].error = {}, None, "it broke"
    (lost,) = compare(now, full).lost
    assert "it broke" in lost
    assert compare(full, full).lost == ()
    now.rows[0].input_size = (0, 0)
    now.rows[0].asked["backend"] += ",another"
    assert compare(now, full).lost, "a network that is not even found has one row for all"
    now.rows[0].input_size = (512, 512)
    assert compare(now, full).lost == ()
    now.rows[0].input_size = full.rows[0].input_size
    now.rows[0].asked = {**now.rows[0].asked, "backend": "another"}
    assert compare(now, full).lost == ()


def test_a_clock_that_failed_is_lost_though_others_ran(full: Record) -> None:
    now = deepcopy(full)
    del now.rows[0].clocks["loop"]
    assert compare(now, full).lost == ()
    now.rows[0].error = "the encoder broke"
    (lost,) = compare(now, full).lost
    assert "the encoder broke" in lost


def test_new_rows_know_what_was_asked() -> None:
    row = new_row(combination(backend="onnx", precision="int8", device="cuda:1"))
    assert row.asked == {"backend": "onnx", "precision": "int8", "device": "cuda:1"}
    assert row.runs_on == "onnx int8 cuda:1"
    assert row.size == "48x64"
