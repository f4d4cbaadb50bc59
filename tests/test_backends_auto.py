"""`--backend auto`: who takes part, who wins, and what is remembered of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from colour_network import make_network

import rtseg
from rtseg.backends import BackendOptions, auto, fitted, open_backend
from rtseg.backends.auto import (
    Candidate,
    Choice,
    Result,
    Trial,
    candidates,
    choice_path,
    load_choice,
    measure_candidates,
    save_choice,
)
from rtseg.backends.base import noise
from rtseg.backends.options import package_versions
from rtseg.contracts import Backend, BackendInfo
from rtseg.errors import DeviceError, ModelError
from rtseg.nets import find_model, shipped
from rtseg.stats import ManualClock
from rtseg.system import GPU_UNUSED, nvidia_driver
from rtseg.zoo import Model

NAME = "lraspp_mobilenet_v3_large"
SIZE = (64, 96)
ONNX, OPENVINO = Candidate("onnx", "fp32"), Candidate("openvino", "fp32")
BF16 = Candidate("openvino", "bf16", exact=False)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Fake(Backend):
    """Takes so long on its clock, and calls the left part of every picture class 1."""

    failure = DeviceError  # as a GPU fails; a processor does with a BackendError

    def __init__(
        self,
        candidate: Candidate,
        clock: ManualClock,
        seconds: float | Callable[[int], float],
        *,
        left: int = 6,
        fails: bool = False,
        runs: str = "",
    ) -> None:
        self.spec = find_model("stub").spec
        self.input_size = SIZE
        self.info = BackendInfo(candidate.backend, "cpu", runs or candidate.precision)
        self.calls = 0
        self.closed = False
        self._clock, self._seconds, self._left, self._fails = clock, seconds, left, fails

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        assert not self.closed
        if self._fails:
            raise self.failure("it broke", found="a wheel came off")
        cost = self._seconds(self.calls) if callable(self._seconds) else self._seconds
        self.calls += 1
        self._clock.sleep(cost)
        scores = np.zeros((1, 4, 8, 12), np.float32)
        scores[:, 1, :, : self._left] = 5
        return scores

    def close(self) -> None:
        self.closed = True


def frames(count: int = 2) -> list[np.ndarray]:
    return [np.zeros((1, *SIZE, 3), np.uint8) for _ in range(count)]


def held(
    *field: tuple[Candidate, Fake | Exception], clock: ManualClock | None = None
) -> list[Trial]:
    """A contest among fakes, or what they fail with when they are opened."""

    def opened(candidate: Candidate) -> Backend:
        found = dict(field)[candidate]
        if isinstance(found, Exception):
            raise found
        return found

    return measure_candidates(
        [candidate for candidate, _ in field], opened, frames(), clock or ManualClock()
    )


# --- who takes part ------------------------------------------------------------------------------


def names(model_name: str, reduced: Sequence[str] = (), absent: str = "", **asked) -> list[str]:
    model = find_model(model_name, weights="random" if model_name == NAME else None)
    options = BackendOptions(device="cpu", **asked)
    less = frozenset(reduced)
    return [
        str(c)
        for c in candidates(
            model, options, installed=lambda x: x not in absent.split(), native=less
        )
    ]


def test_what_is_not_installed_takes_no_part() -> None:
    assert names(NAME) == ["onnx fp32", "openvino fp32"]
    assert names(NAME, absent="openvino") == ["onnx fp32"]
    assert names(NAME, absent="onnx") == ["openvino fp32"]


def test_torch_is_loaded_where_it_may_win() -> None:
    assert names(NAME, absent="openvino", reduced=["bf16"]) == ["onnx fp32", "torch bf16"]
    assert names(NAME, absent="onnx openvino") == ["torch fp32"]


def test_reduced_precision_takes_part_where_the_processor_gains_by_it() -> None:
    reduced = names(NAME, reduced=["bf16", "fp16"])[2:]
    assert reduced == ["openvino bf16", "openvino fp16"]
    model = find_model(NAME, weights="random")
    field = candidates(model, BackendOptions(device="cpu"), native=frozenset({"bf16"}))
    assert [one.exact for one in field] == [one.precision != "bf16" for one in field]


def test_a_precision_that_was_asked_for_needs_no_gate() -> None:
    model = find_model(NAME, weights="random")
    field = candidates(model, BackendOptions(device="cpu", precision="bf16"))
    assert {one.precision for one in field} == {"bf16"}
    assert all(one.exact for one in field)


def test_an_onnx_file_keeps_its_precision_and_never_goes_to_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(make_network(tmp_path / "net.onnx"))
    assert names(path, reduced=["bf16"]) == ["onnx fp32", "openvino fp32", "openvino bf16"]
    assert names(path, absent="openvino", reduced=["bf16"]) == ["onnx fp32"]
    monkeypatch.setattr(auto, "precision_in", lambda file: "int8")
    assert names(path, reduced=["bf16"]) == ["onnx int8", "openvino int8"]


def test_openvino_takes_a_foreign_file_if_its_masks_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign, ours = find_model(make_network(tmp_path / "net.onnx")), find_model("person")
    for model, exact in ((foreign, ["onnx"]), (ours, ["onnx", "openvino"])):
        field = candidates(model, BackendOptions(device="cpu"), native=frozenset())
        assert [one.backend for one in field if one.exact] == exact
        assert {str(one) for one in field} == {"onnx fp32", "openvino fp32"}
    monkeypatch.setattr(auto, "precision_in", lambda file: "fp16")
    half = candidates(foreign, BackendOptions(device="cpu"), native=frozenset())
    assert [one.backend for one in half if one.exact] == ["onnx"]
    assert {str(one) for one in half} == {"onnx fp16", "openvino fp16"}
    monkeypatch.undo()
    alone = {"native": frozenset(), "installed": lambda name: name != "onnx"}
    assert candidates(foreign, BackendOptions(device="cpu"), **alone) == [OPENVINO]


def test_devices_with_one_backend_have_one_candidate() -> None:
    model = find_model(NAME, weights="random")
    assert candidates(model, BackendOptions(device="mps")) == [Candidate("torch", "auto")]
    assert candidates(model, BackendOptions(device="tensorrt")) == [Candidate("onnx", "auto")]
    assert candidates(find_model("stub"), BackendOptions())[0].backend == "stub"


def test_a_gpu_is_measured_on_with_what_reaches_it(tmp_path: Path) -> None:
    model, file = find_model(NAME, weights="random"), find_model(make_network(tmp_path / "n.onnx"))

    def field(model: Model, device: str, *on_gpu: str) -> list[str]:
        asked = BackendOptions(device=device)
        found = candidates(
            model, asked, installed=lambda _: True, native=frozenset(), on_gpu=on_gpu
        )
        return [str(one) for one in found]

    both = ["torch fp32", "onnx fp32", "torch fp16", "onnx fp16"]
    assert field(model, "auto", "torch", "onnx") == field(model, "cuda", "torch", "onnx") == both
    assert field(model, "auto", "torch") == ["torch fp32", "torch fp16"]
    assert field(model, "cpu", "torch", "onnx") == field(model, "auto") == both_on_cpu
    assert field(model, "cuda") == []
    assert field(file, "auto", "torch", "onnx") == ["onnx fp32"]
    assert field(file, "auto", "torch") == both_on_cpu, "torch does not run it"
    assert field(file, "cuda", "torch") == []


both_on_cpu = ["onnx fp32", "openvino fp32"]


@pytest.mark.skipif(nvidia_driver(), reason="there is an NVIDIA driver")
def test_a_gpu_that_is_not_there_costs_no_measurement(tmp_path: Path, cache: Path) -> None:
    told: list[str] = []
    model = find_model(make_network(tmp_path / "net.onnx"))
    backend = auto.open_fastest(model, device="cuda", on_measure=told.append)
    backend.close()
    assert backend.info.device == "cpu"
    assert "finds no NVIDIA driver; running on cpu" in backend.info.notes[0]
    assert told == []
    with pytest.raises(DeviceError):
        auto.open_fastest(model, device="cuda", strict_device=True)


@pytest.mark.slow
def test_a_driver_whose_gpu_no_library_reaches_is_told_of(
    cache: Path, driver_alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `pip install` on Windows: torch for the processor, no CUDA for ONNX Runtime."""
    model, told = find_model(NAME, weights="random"), list[str]()

    def notes() -> tuple[str, ...]:
        backend = auto.open_fastest(model, input_size=SIZE, on_measure=told.append)
        backend.close()
        assert (backend.info.device, backend.info.kept) == ("cpu", True)
        return backend.info.notes

    first = notes()
    assert any(note.startswith(GPU_UNUSED) for note in first)
    assert [words.split(", ") for words in told] == [["onnx fp32", "openvino fp32"]]
    monkeypatch.setattr(auto, "backends_on_nvidia", lambda: pytest.fail("it takes seconds"))
    second = notes()
    assert any(note.startswith(GPU_UNUSED) for note in second)
    assert any("remembered" in note for note in second)
    assert len(told) == 1
    for backend, why in (("torch", f"torch {torch.__version__}"), ("onnx", "CUDAExecutionProv")):
        info = open_backend(backend, model, input_size=SIZE).info
        assert f"{GPU_UNUSED}: {why}" in " ".join(info.notes)
        assert info.kept
        processor = open_backend(backend, model, input_size=SIZE, device="cpu").info
        assert GPU_UNUSED not in " ".join(processor.notes), "who asks for the processor has it"


def test_a_gpu_that_somebody_hides_is_not_missed(
    cache: Path, driver_alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        info = open_backend("onnx", find_model(NAME, weights="random"), input_size=SIZE).info
        assert GPU_UNUSED not in " ".join(info.notes)


def test_a_gpu_that_was_asked_for_and_is_not_reached_costs_no_measurement(
    cache: Path, driver_alone: None
) -> None:
    model, told = find_model(NAME, weights="random"), list[str]()
    backend = auto.open_fastest(model, input_size=SIZE, device="cuda", on_measure=told.append)
    backend.close()
    assert not backend.info.kept
    assert told == []


# --- who wins ------------------------------------------------------------------------------------


def test_the_quickest_wins_and_the_others_are_closed() -> None:
    clock = ManualClock()
    slow, quick = Fake(ONNX, clock, 0.030), Fake(OPENVINO, clock, 0.020)
    entries = held((ONNX, slow), (OPENVINO, quick), clock=clock)
    assert [entry.candidate for entry in entries] == [OPENVINO, ONNX]
    assert [entry.seconds for entry in entries] == pytest.approx([0.020, 0.030])
    assert (slow.closed, quick.closed) == (True, False)


def test_a_gain_within_noise_is_no_reason_to_leave_the_usual_one() -> None:
    clock = ManualClock()
    usual, other = Fake(ONNX, clock, 0.0300), Fake(OPENVINO, clock, 0.0290)
    entries = held((ONNX, usual), (OPENVINO, other), clock=clock)
    assert entries[0].candidate == ONNX
    assert other.closed


@pytest.mark.parametrize(
    "failure", [ModelError("no"), ImportError("libfoo.so"), RuntimeError("x"), OSError("y")]
)
def test_one_that_does_not_open_never_fails_the_run(failure: Exception) -> None:
    clock = ManualClock()
    entries = held((ONNX, failure), (OPENVINO, Fake(OPENVINO, clock, 0.02)), clock=clock)
    assert entries[0].candidate == OPENVINO
    assert (entries[1].backend, entries[1].seconds) == (None, None)
    assert entries[1].result().failure == str(failure)


def test_one_that_breaks_while_running_is_out_and_says_why() -> None:
    clock = ManualClock()
    broken = Fake(ONNX, clock, 0.01, fails=True)
    entries = held((ONNX, broken), (OPENVINO, Fake(OPENVINO, clock, 0.02)), clock=clock)
    assert entries[0].candidate == OPENVINO
    assert entries[1].failure == "it broke: a wheel came off"
    assert broken.closed


def test_where_all_fail_nobody_wins() -> None:
    entries = held((ONNX, DeviceError("a")), (OPENVINO, DeviceError("b")))
    assert [entry.backend for entry in entries] == [None, None]


def test_an_interrupt_closes_all() -> None:
    clock = ManualClock()

    def interrupted(call: int) -> float:
        raise KeyboardInterrupt

    first, second = Fake(ONNX, clock, 0.01), Fake(OPENVINO, clock, interrupted)
    with pytest.raises(KeyboardInterrupt):
        held((ONNX, first), (OPENVINO, second), clock=clock)
    assert first.closed
    assert second.closed


# --- the gate ------------------------------------------------------------------------------------


def test_reduced_precision_wins_if_its_masks_agree() -> None:
    clock = ManualClock()
    full, less = Fake(ONNX, clock, 0.030), Fake(BF16, clock, 0.015)
    entries = held((ONNX, full), (BF16, less), clock=clock)
    assert entries[0].candidate == BF16
    assert entries[0].agreement is not None
    assert entries[0].agreement.mean == entries[0].agreement.worst_iou == 1.0


def test_reduced_precision_whose_masks_differ_loses_to_a_slower_one() -> None:
    clock = ManualClock()
    full, less = Fake(ONNX, clock, 0.030, left=6), Fake(BF16, clock, 0.015, left=7)
    entries = held((ONNX, full), (BF16, less), clock=clock)
    assert entries[0].candidate == ONNX
    assert entries[1].agreement is not None
    assert entries[1].agreement.mean == pytest.approx(11 / 12, abs=0.01)
    choice = Choice("x", ("onnx", "fp32"), tuple(e.result() for e in entries), 1, "2026-01-02")
    assert "masks agree on 91." in str(choice)
    assert "below 99%" in str(choice)


class Spot(Fake):
    """Calls one cell of every picture class 2 if it is to be `seen`, 1 % of the pixels."""

    seen = True

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        scores = super().__call__(batch)
        scores[:, 2] = -4
        scores[:, 2, 4, 9] += 8 * self.seen
        return scores


def test_a_small_class_that_is_lost_fails_the_gate_though_most_pixels_agree() -> None:
    clock = ManualClock()
    full, less = Spot(ONNX, clock, 0.030), Spot(BF16, clock, 0.015)
    less.seen = False
    entries = held((ONNX, full), (BF16, less), clock=clock)
    assert entries[0].candidate == ONNX
    found = entries[1].agreement
    assert found is not None
    assert found.worst > auto.MIN_AGREEMENT
    assert found.ious[2] == found.worst_iou == 0
    assert "IoU of a class 0.00, below 0.97" in auto._describe(entries[1].result())
    less = Spot(BF16, clock, 0.015)
    assert held((ONNX, Spot(ONNX, clock, 0.03)), (BF16, less), clock=clock)[0].candidate == BF16


def test_one_frame_that_differs_fails_the_gate() -> None:
    clock = ManualClock()
    full, less = Fake(ONNX, clock, 0.030), Fake(BF16, clock, 0.015)

    class Once(Fake):
        def __call__(self, batch: np.ndarray) -> np.ndarray:
            scores = super().__call__(batch)
            scores[:, 1, 0, 6:10] = 5 * bool(batch[0, 0, 0, 0])  # 4 of 96 cells
            return scores

    less = Once(BF16, clock, 0.015)
    many = [*frames(30), np.ones((1, *SIZE, 3), np.uint8)]
    opened = {ONNX: full, BF16: less}
    entries = measure_candidates([ONNX, BF16], opened.__getitem__, many, clock)
    assert entries[0].candidate == ONNX
    found = entries[1].agreement
    assert found is not None
    assert found.mean > auto.MIN_AGREEMENT
    assert "worst frame 9" in auto._describe(entries[1].result())


def test_random_weights_have_no_gate() -> None:
    clock = ManualClock()
    full, less = Fake(ONNX, clock, 0.030, left=6), Fake(BF16, clock, 0.015, left=2)
    opened = {ONNX: full, BF16: less}
    entries = measure_candidates([ONNX, BF16], opened.__getitem__, frames(), clock, gate=False)
    assert entries[0].candidate == BF16
    assert entries[0].agreement is None
    rows = tuple(entry.result() for entry in entries)
    choice = Choice("x", ("openvino", "bf16"), rows, 1, "2026-01-02", random=True)
    assert str(choice).endswith("; masks not compared: random weights")


def test_reduced_precision_is_never_taken_on_its_own_word() -> None:
    clock = ManualClock()
    less = Fake(BF16, clock, 0.015)
    entries = held((ONNX, ModelError("no")), (BF16, less), clock=clock)
    assert entries[0].backend is None
    assert less.closed


def test_what_onnx_runtime_cannot_run_is_openvinos() -> None:
    clock = ManualClock()
    fakes = [(OPENVINO._replace(exact=False), 0.02), (BF16, 0.01)]
    field = [(one, Fake(one, clock, seconds)) for one, seconds in fakes]
    first, *_ = held((ONNX, DeviceError("it lacks an operator")), *field, clock=clock)
    assert first.candidate == OPENVINO._replace(exact=False)


def test_a_precision_that_the_processor_does_not_run_is_out() -> None:
    clock = ManualClock()
    less = Fake(BF16, clock, 0.015, runs="fp32")
    entries = held((ONNX, Fake(ONNX, clock, 0.03)), (BF16, less), clock=clock)
    assert entries[0].candidate == ONNX
    assert entries[1].failure == "fp32 runs instead"


# --- what is remembered --------------------------------------------------------------------------


def choice() -> Choice:
    rows = (Result("onnx", "fp32", 0.024), Result("torch", "fp32", None, None, "no memory"))
    return Choice(f"{NAME} at 64x96", ("onnx", "fp32"), rows, 1, "2026-11-21")


def test_a_choice_is_remembered_as_it_was(tmp_path: Path) -> None:
    place = tmp_path / "auto" / "x.json"
    assert load_choice(place) is None
    assert save_choice(place, choice())
    assert load_choice(place) == choice()


def test_choices_of_long_ago_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtseg.cache.MADE_FILES", 2)
    old, older = (
        choice_path(find_model("stub"), (64, 32 * side), BackendOptions()) for side in (2, 3)
    )
    for age, path in enumerate((old, older), 1):
        (tmp_path / path.name).touch()
        os.utime(tmp_path / path.name, (1e9 - age, 1e9 - age))
    assert save_choice(tmp_path / f"net-64x64-{'0' * 16}.json", choice())
    assert not (tmp_path / older.name).exists()
    assert (tmp_path / old.name).exists()


NOISE = [auto.Samples("noise", lambda size: [noise(size)])]

PLACES = {"the demo": 0, "/a/street.avi": 1, "/a/faces.avi": 2}


class Contest:
    """`open_fastest` among fakes; bf16 is wrong on pictures of the value `wrong`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.wrong, self.told = ManualClock(), -1, list[str]()
        monkeypatch.setattr(auto, "native_precisions", lambda: frozenset({"bf16"}))
        monkeypatch.setattr(auto, "open_backend", self._opened)

    def _opened(self, name: str, model: Model, *, precision: str, **_: object) -> Backend:
        contest = self

        class Opened(Fake):
            def __call__(self, batch: np.ndarray) -> np.ndarray:
                self._left = 6 + (precision == "bf16" and batch[0, 0, 0, 0] == contest.wrong)
                return super().__call__(batch)

        seconds = 0.01 if precision in ("bf16", "int8") else 0.02 if name == "openvino" else 0.03
        return Opened(Candidate(name, precision), self.clock, seconds)

    def __call__(self, *names: str, model: str = "person") -> Backend:
        samples = [
            auto.Samples(name, lambda size, n=PLACES[name]: [np.full((1, *size, 3), n, np.uint8)])
            for name in names
        ]
        weights = "random" if model == NAME else None
        network = find_model(model, weights=weights)
        return auto.open_fastest(
            network,
            input_size=SIZE,
            samples=samples,
            clock=self.clock,
            device="cpu",
            on_measure=self.told.append,
        )


@pytest.fixture
def contest(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Contest:
    pytest.importorskip("openvino")
    return Contest(monkeypatch)


def test_a_choice_remembers_what_it_was_compared_on(contest: Contest, cache: Path) -> None:
    first = contest("the demo", "/a/street.avi")
    assert first.info.precision == "bf16"
    assert "masks compared on 2 frames of the demo, street.avi" in first.info.notes[-1]
    contest("the demo", "/a/faces.avi")
    assert len(contest.told) == 1
    (place,) = (cache / "auto").glob("*.json")
    assert set(json.loads(place.read_text())["compared"]) == set(PLACES)
    contest.wrong = 2  # no longer looked at: these frames are known to agree
    assert contest("the demo", "/a/faces.avi").info.precision == "bf16"
    assert len(contest.told) == 1


def test_a_remembered_choice_that_fails_on_a_new_recording_is_made_again(contest: Contest) -> None:
    assert contest("the demo").info.precision == "bf16"
    contest.wrong = 1
    second = contest("the demo", "/a/street.avi")
    assert (second.info.name, second.info.precision) == ("openvino", "fp32")
    assert len(contest.told) == 2
    assert "openvino bf16 10.0 ms, masks agree on 9" in second.info.notes[-1]


def test_random_weights_run_in_the_fastest_precision(contest: Contest) -> None:
    contest.wrong = 0
    found = contest("the demo", model=NAME)
    assert found.info.precision == "bf16"
    assert "masks not compared: random weights" in found.info.notes[-1]


def test_a_file_in_int8_takes_part_where_the_processor_gains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    network = find_model(make_network(tmp_path / "net.onnx"))
    size = network.spec.input.size
    monkeypatch.setattr(auto, "int8_instructions", lambda: ("AVX-VNNI",))
    assert auto.int8_beside(network, size) is None
    make_network(tmp_path / "net-int8.onnx")
    found = auto.int8_beside(network, size)
    assert found is not None
    assert found.file == tmp_path / "net-int8.onnx"
    options = BackendOptions(device="cpu")
    field = candidates(network, options, native=frozenset(), int8=True)
    assert field[-1] == Candidate("openvino", "int8", exact=False)
    without = candidates(
        network, options, native=frozenset(), int8=True, installed=lambda name: name != "openvino"
    )
    assert "int8" not in {one.precision for one in without}
    paths = {choice_path(network, size, options, int8) for int8 in (None, found)}
    assert len(paths) == 2
    for instructions in ((), None, ("Arm dot products",)):
        monkeypatch.setattr(auto, "int8_instructions", lambda found=instructions: found)
        assert auto.int8_beside(network, size) is None


def test_the_int8_form_that_ships_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "int8_instructions", lambda: ("AVX-VNNI",))
    person = find_model("person")
    found = auto.int8_beside(person, (256, 448))
    assert found is not None
    assert found.file == shipped()["person"].with_name("person-int8.onnx")
    assert auto.int8_beside(person, (288, 512)) is None
    assert "person-int8" not in shipped()


def test_frames_of_other_shapes_go_past_int8_of_one_size(
    monkeypatch: pytest.MonkeyPatch, contest: Contest
) -> None:
    monkeypatch.setattr(auto, "int8_instructions", lambda: ("AVX-VNNI",))
    opened, size = contest._opened, (256, 448)
    person, asked = find_model("person"), []

    def follow(name: str, model: Model, **how: Any) -> Backend:
        asked.append((model.file, how["input_size"], how["precision"]))
        backend = opened(name, model, **how)
        backend.spec, backend.input_size = model.spec, how["input_size"]
        return backend

    def fastest(**how: Any) -> Backend:
        samples = [auto.Samples("the demo", lambda size: [np.zeros((1, *size, 3), np.uint8)])]
        return auto.open_fastest(
            person, input_size=size, samples=samples, clock=contest.clock, device="cpu", **how
        )

    monkeypatch.setattr(auto, "native_precisions", frozenset)
    monkeypatch.setattr(auto, "open_backend", follow)
    monkeypatch.setattr(fitted, "open_backend", follow)
    first = fastest()
    assert first.info.precision == "int8"
    both = fitted.fitted(first, person, precision="auto")
    assert both.size_for((360, 640)) == first.input_size == size
    other = both.size_for((640, 360))
    assert other != size
    both(np.zeros((1, *other, 3), np.uint8))
    assert asked[-1] == (person.file, other, "auto")
    assert fastest(one_size=False).info.precision == "fp32"


def test_frames_of_a_recording_are_taken_apart(tmp_path: Path) -> None:
    from rtseg.session import fastest
    from rtseg.sources import SourceOptions

    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((48, 64, 3), number * 9, np.uint8))
    (tmp_path / "text.avi").write_text("no video")
    options = SourceOptions()
    batches = fastest._recording_batches(str(tmp_path / "*.png"), options, (32, 64))
    assert [int(batch[0, 0, 0, 0]) for batch in batches] == [0, 9, 18]
    played = SourceOptions(live=True, loop=True, every=2, fps_cap=0.1)
    since = time.monotonic()
    batches = fastest._recording_batches(str(tmp_path / "*.png"), played, (32, 64))
    assert [int(batch[0, 0, 0, 0]) for batch in batches] == [0, 9, 18]
    assert time.monotonic() - since < 2.0, "not at the pace of the run, which takes 20 s"
    assert fastest._recording_batches(str(tmp_path / "text.avi"), options, (32, 64)) == []
    local = [(str(tmp_path), options), ("rtsp://host/a", options), ("0", options), ("-", options)]
    assert [fastest._is_local(one) for one in local] == [True, False, False, False]


def test_a_recording_that_changed_is_another(tmp_path: Path) -> None:
    from rtseg.session import fastest
    from rtseg.sources import SourceOptions

    def name(path: Path, **options: Any) -> str:
        return fastest._samples((str(path), SourceOptions(**options))).name

    clip = tmp_path / "clip.avi"
    clip.write_bytes(b"one")
    names = [name(clip), name(clip, start=3), name(tmp_path)]
    assert names[0] == name(clip, end=9)
    clip.write_bytes(b"another")
    (tmp_path / "new.png").touch()
    names += [name(clip), name(tmp_path)]
    assert len(set(names)) == 5
    assert {Path(one).name for one in names} == {"clip.avi", tmp_path.name}


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"rtseg_auto": 2}', '{"rtseg_auto": 1}'])
def test_what_cannot_be_read_is_measured_again(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    assert load_choice(tmp_path / "x.json") is None


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not save_choice(tmp_path / "file" / "below.json", choice())


def test_everything_that_matters_has_a_place_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model, options = find_model(NAME, weights="random"), BackendOptions()
    other = replace(model, spec=replace(model.spec, miou=1.0))
    places = [
        choice_path(model, SIZE, options),
        choice_path(other, SIZE, options),
        choice_path(model, (96, 64), options),
        choice_path(model, SIZE, BackendOptions(lanes=2)),
        choice_path(model, SIZE, BackendOptions(threads=1)),
        choice_path(model, SIZE, BackendOptions(precision="fp16")),
    ]
    monkeypatch.setattr(auto, "package_versions", lambda: {"onnxruntime": "99"})
    places.append(choice_path(model, SIZE, options))
    monkeypatch.setattr(auto, "machine_facts", lambda: {"cores": 1000})
    places.append(choice_path(model, SIZE, options))
    assert len(set(places)) == len(places)
    assert choice_path(model, SIZE, options) == places[-1]


def test_the_machine_is_told_by_processor_and_cores() -> None:
    facts = auto.machine_facts()
    assert facts["cpu"]
    assert facts["cores"] >= 1
    assert package_versions()


# --- the whole of it, with real backends ---------------------------------------------------------


def test_it_is_measured_once_and_remembered_until_asked_again(cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = find_model(make_network(tmp_path / "net.onnx"))
    told: list[str] = []

    def opened(remeasure: bool = False) -> Backend:
        how: dict[str, Any] = {"device": "cpu", "samples": NOISE, "on_measure": told.append}
        return auto.open_fastest(model, remeasure=remeasure, **how)

    first = opened()
    assert len(told) == 1
    assert "onnx fp32" in told[0]
    note = first.info.notes[-1]
    assert note.startswith("fastest here: ")
    assert note.endswith("measured now")
    (place,) = (cache / "auto").glob("*.json")
    kept = json.loads(place.read_text())
    assert tuple(kept["winner"]) == (first.info.name, first.info.precision)
    assert first(np.zeros((1, *first.input_size, 3), np.uint8)).shape[:2] == (1, 3)
    second = opened()
    assert len(told) == 1
    assert second.info.name == first.info.name
    assert "; remembered, measured 20" in second.info.notes[-1]
    other = {"onnx": "openvino", "openvino": "onnx"}[first.info.name]
    kept["winner"] = [other, "fp32"]
    place.write_text(json.dumps(kept))
    assert opened().info.name == other  # it is the memory that decides, nothing is timed
    kept["winner"] = ["gone", "fp32"]
    place.write_text(json.dumps(kept))
    assert opened().info.name != "gone"
    assert len(told) == 2
    opened(remeasure=True)
    assert len(told) == 3


def test_where_nothing_can_run_the_usual_failure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    pytest.importorskip("openvino")
    asked: list[str] = []

    def failing(name: str, *_: object, **__: object) -> Backend:
        asked.append(name)
        raise DeviceError(f"{name} fails")

    monkeypatch.setattr(auto, "native_precisions", frozenset)
    monkeypatch.setattr(auto, "open_backend", failing)
    model = find_model(make_network(tmp_path / "net.onnx"))
    with pytest.raises(DeviceError, match="auto fails"):
        auto.open_fastest(model, device="cpu", samples=NOISE)
    assert asked == ["onnx", "openvino", "auto"]
    assert not (cache / "auto").exists()


def test_the_stub_is_not_measured(cache: Path) -> None:
    backend = auto.open_fastest(find_model("stub"), input_size=SIZE)
    assert (backend.info.name, backend.info.notes) == ("stub", ())
    assert not (cache / "auto").exists()


def test_a_run_says_what_was_measured_and_uses_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rtseg.cli.app import main

    pytest.importorskip("openvino")
    clip = ["test://?size=96x64&frames=4", "-m", str(make_network(tmp_path / "net.onnx"))]
    outputs = ["-d", "cpu", "--no-show", "--json", str(tmp_path / "a.jsonl"), "-y"]
    assert main([*clip, *outputs]) == 0
    assert "measuring onnx fp32" in capsys.readouterr().err
    assert main([*clip, *outputs]) == 0
    said = capsys.readouterr().err
    assert "remembered, measured" in said
    assert "measuring" not in said
    assert main([*clip, *outputs, "-b", "onnx"]) == 0
    assert "fastest here" not in capsys.readouterr().err
    assert main([*clip, *outputs, "-b", "onnx", "--remeasure"]) == 2
    assert "--remeasure with -b onnx" in capsys.readouterr().err


def test_the_api_measures_when_asked_to(cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = make_network(tmp_path / "net.onnx")
    for ending in ("measured now", "remembered"):
        with rtseg.load(path, backend="fastest", device="cpu") as segmenter:
            info = segmenter.info
        note = info.notes[-1]
        assert note.startswith(f"fastest here: {info.name} {info.precision}")
        assert ending in note
    with rtseg.load("stub", backend="fastest") as stub:
        assert stub.info.name == "stub"


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"rtseg_auto": 1, "winner": 5}', None]
)
def test_a_remembered_choice_of_any_content_is_measured_again(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path))
    model = find_model("person")
    size, options = (32, 32), auto.BackendOptions(device="cpu")
    path = auto.choice_path(model, size, options)
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    assert auto.load_choice(path) is None
    assert not list(auto.saved_choices())
