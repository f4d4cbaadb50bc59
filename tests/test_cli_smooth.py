"""When masks smoothed over time: wherever somebody watches, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtseg.cli.app import main
from rtseg.cli.options import Flags, temporal_of
from rtseg.cli.plan import make_plan
from rtseg.errors import UsageError
from rtseg.temporal.options import USUAL_SMOOTH


@pytest.mark.parametrize(
    ("flags", "live", "watched", "expected"),
    [
        (Flags.of(), False, False, 0.0),
        (Flags.of(), True, False, USUAL_SMOOTH),
        (Flags.of(), False, True, USUAL_SMOOTH),
        (Flags.of(smooth=0.0), True, True, 0.0),
        (Flags.of(no_smooth=True), True, True, 0.0),
        (Flags.of(smooth=0.3), True, False, 0.3),
        (Flags.of(smooth=0.3), False, False, 0.3),
    ],
)
def test_it_is_on_where_somebody_watches(
    flags: Flags, live: bool, watched: bool, expected: float
) -> None:
    assert temporal_of(flags, live, watched=watched).smooth == expected


def test_both_at_once_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--smooth 0\.3 and --no-smooth"):
        make_plan(Flags.of(input=("0",), smooth=0.3, no_smooth=True, show=False))


@pytest.mark.parametrize(
    ("query", "more", "on"),
    [("live=1", [], True), ("live=1", ["--no-smooth"], False), ("", [], False)],
    ids=["live", "live, off", "file"],
)
def test_a_run_says_when_it_smooths_and_times_it(
    query: str, more: list[str], on: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = f"test://?size=160x120&fps=60&frames=8&{query}"
    figures = tmp_path / "m.json"
    outputs = ["-o", "null:", "--no-show", "--metrics", str(figures), "--policy", "all"]
    assert main([clip, "-m", "stub", *outputs, *more]) == 0
    assert ("masks smoothed" in capsys.readouterr().err) == on
    assert ('"smooth"' in figures.read_text()) == on
