"""Hundreds of combinations of codec, container, format, fields, colours, turn, rate and sound: what
rtseg shows and writes against what PyAV reads of the same file on its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clips import PATCHES
from matrix import (
    CASES,
    CODECS,
    DISPLAYS,
    FIELDS,
    FRAMES,
    MATRICES,
    RANGES,
    RATES,
    SOUNDS,
    Case,
    colours_at,
    moved,
    read,
    write,
)  # fmt: skip

from rtseg.cli.app import main
from rtseg.sources import open_source

TIME = 1.05e-3
"""Seconds; containers count milliseconds."""

WRITTEN = ("mp4", "mkv", "mov", "avi", "webm")

THROUGH = [case for number, case in enumerate(CASES) if number % 6 == 0]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_shown_is_what_the_file_holds(tmp_path: Path, case: Case) -> None:
    path = write(tmp_path / f"clip.{case.container}", case)
    own = read(path)
    with open_source(path) as source:
        frames = list(source)
        assert not source.warnings
    assert len(frames) == FRAMES == len(own.times)
    times = np.array([frame.pts for frame in frames])
    assert times == pytest.approx(own.times, abs=1e-3)
    if not case.is_padded:
        assert times == pytest.approx(case.times, abs=TIME)
    end = times[-1] + (frames[-1].lasts or 1 / float(source.info.frame_rate or 25))
    if case.rate:
        assert end == pytest.approx(own.times[-1] + 1 / float(case.rate), abs=2e-3)

    height, width = frames[0].image.shape[:2]
    turned = case.display is not None and not case.display[0]
    assert (width, height) == (own.size[::-1] if turned else own.size)
    found = np.array([colours_at(frame.image[..., ::-1]) for frame in frames])
    wanted = np.array([moved(colours, case.display) for colours in own.colours])
    assert np.abs(found[:, :4] - wanted[:, :4]).max() <= 3.5
    # the square in the middle tells the order; deinterlaced, it is mixed with its neighbours
    assert np.abs(found[:, 4] - wanted[:, 4]).max() <= (25 if case.field else 8)
    if case.holds_colours(own.tags):
        patches = moved(np.array([*PATCHES, (0, 0, 0)]), case.display)[:4]
        assert np.abs(found[:, :4] - patches).max() <= 6


@pytest.mark.slow
@pytest.mark.parametrize("case", THROUGH, ids=str)
def test_what_is_written_is_what_the_file_holds(
    tmp_path: Path, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / f"clip.{case.container}", case)
    suffix = WRITTEN[THROUGH.index(case) % len(WRITTEN)]
    if suffix == "avi" and (not case.rate or case.is_padded):
        suffix = "mkv"
    out = tmp_path / f"out.{suffix}"
    assert main([str(path), "-m", "stub", "--alpha", "0", "--no-show", "-o", str(out)]) == 0
    said = capsys.readouterr().err
    assert "incomplete" not in said
    own, again = read(path), read(out)
    assert again.times == pytest.approx(own.times, abs=TIME)
    end = max(own.end, own.times[-1] + 1 / float(case.rate or 25))
    assert again.end == pytest.approx(end, abs=2e-3)
    found = again.colours[:, :4]
    wanted = np.array([moved(colours, case.display) for colours in own.colours])
    assert np.abs(found - wanted[:, :4]).max() <= 12
    if own.click is None:
        assert again.click is None
    else:
        assert again.click == pytest.approx(own.click, abs=5e-3)


def test_the_matrix_holds_every_value_of_every_dimension() -> None:
    assert len(set(CASES)) == 400
    wanted = (MATRICES, RANGES, DISPLAYS, RATES, FIELDS)
    names = ("matrix", "range", "display", "rate", "field")
    for name, values in zip(names, wanted, strict=True):
        assert {getattr(case, name) for case in CASES} == set(values)
    assert {case.codec for case in CASES} == set(CODECS)
    assert {(case.container, case.sound) for case in CASES} >= {
        (container, sound) for container, sounds in SOUNDS.items() for sound in sounds.split()
    }
