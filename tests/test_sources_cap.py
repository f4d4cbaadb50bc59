"""A cap on the rate: never more than asked on average, hardly less, and what is left out counts."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from rtseg.cli.app import main
from rtseg.errors import UsageError
from rtseg.sources import SourceOptions, open_source
from rtseg.sources.wrappers import RateCap
from rtseg.stats import ManualClock


@pytest.mark.parametrize("jitter", [0.0, 0.3])
@pytest.mark.parametrize("cap", [29.0, 20.0, 15.0, 10.0, 1.0])
@pytest.mark.parametrize("rate", [30.0, 29.97, 59.94])
def test_so_many_frames_a_second_are_taken(rate: float, cap: float, jitter: float) -> None:
    dice = np.random.default_rng(3)
    times = (np.arange(round(60 * rate)) + dice.uniform(0, jitter, round(60 * rate))) / rate
    takes = RateCap(cap).takes
    taken = [at for at in times if takes(float(at))]
    assert len(taken) <= 60 * cap + 1
    assert len(taken) >= 0.97 * 60 * cap


@pytest.mark.parametrize("rate", [10.0, 17.0, 30.0])
def test_a_source_below_the_cap_loses_nothing(rate: float) -> None:
    takes = RateCap(30.0).takes
    dice = np.random.default_rng(3)
    times = (np.arange(300) + dice.uniform(0, 0.2, 300)) / rate
    assert all(takes(float(at)) for at in times)


def test_a_pause_is_not_made_up_for_and_a_step_back_begins_anew() -> None:
    takes = RateCap(10.0).takes
    assert [takes(at) for at in (0.0, 0.05, 0.1)] == [True, False, True]
    assert [takes(at) for at in (5.0, 5.03, 5.06, 5.1)] == [True, False, False, True]
    assert [takes(at) for at in (0.0, 0.05, 0.1)] == [True, False, True]


def test_a_recording_is_thinned_by_its_own_times() -> None:
    options = SourceOptions(fps_cap=10)
    with open_source("test://?size=64x48&fps=30&frames=91", options) as source:
        assert (source.info.frame_rate, source.info.frame_count) == (10, None)
        frames = list(source)
        assert source.capped == 60
    assert [frame.index for frame in frames] == list(range(0, 91, 3)), "a file's keep their numbers"
    assert [b.pts - a.pts for a, b in pairwise(frames)] == pytest.approx([0.1] * 30)


def test_frames_that_are_left_out_do_not_count_among_those_that_were_asked_for() -> None:
    options = SourceOptions(fps_cap=10, max_frames=5)
    with open_source("test://?size=64x48&fps=30&frames=91", options) as source:
        assert [frame.index for frame in source] == [0, 3, 6, 9, 12]


def test_a_slower_recording_is_what_it_was() -> None:
    with open_source("test://?size=64x48&fps=5&frames=9", SourceOptions(fps_cap=10)) as source:
        assert (source.info.frame_rate, source.info.frame_count) == (5, 9)
        assert len(list(source)) == 9
        assert source.capped == 0


def test_a_live_source_s_frames_are_recounted() -> None:
    options = SourceOptions(fps_cap=10, mirror=True)
    clock = ManualClock()
    with open_source("test://?size=64x48&fps=30&frames=30&live=1", options, clock=clock) as source:
        frames = list(source)
        assert source.capped == 20
    assert [frame.index for frame in frames] == list(range(10))


def test_a_cap_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="fps-cap 0"):
        SourceOptions(fps_cap=0)


@pytest.mark.parametrize("live", ["", "&live=1"])
def test_what_is_left_out_has_its_own_cause_in_the_report(
    live: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, out = tmp_path / "m.json", tmp_path / "out.mp4"
    clip = f"test://?size=64x48&fps=60&frames=61{live}"
    asked = ["--fps-cap", "20", "--metrics", str(figures), "-o", str(out)]
    assert main([clip, "-m", "stub", *asked]) == 0
    report = json.loads(figures.read_text())
    assert report["dropped_by"]["cap"] == 40
    assert report["frames"] + report["dropped"] == report["produced"] == 61
    assert "(cap 40" in capsys.readouterr().err.replace("camera", "")
    with av.open(out) as container:
        assert sum(1 for _ in container.decode(video=0)) == report["frames"]
        assert container.duration / av.time_base == pytest.approx(1.0, abs=0.1)


def test_the_processor_s_share_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "m.json"
    assert main(["test://?size=64x48&frames=9", "-m", "stub", "--metrics", str(figures)]) == 0
    report = json.loads(figures.read_text())
    assert 0 < report["cpu_share"] <= 1.05
    assert report["cores"] >= 1
    assert f"CPU {report['cpu_share']:.0%} of {report['cores']} core" in capsys.readouterr().err
