"""The progress of long verbs: a bar on a terminal, lines in a log."""

from __future__ import annotations

import io
import sys

import pytest

from rtseg.cli.process import Stop
from rtseg.cli.report import DownloadProgress, Progress
from rtseg.stats import Clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Time(Clock):
    """A clock that stands where it is put."""

    seconds = 0.0

    def now(self) -> float:
        return self.seconds


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal in the place of stderr, from now to the end of the test."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", made := Terminal())
    return made


def test_a_terminal_shows_count_total_and_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with Progress() as progress:
        progress.update(3, 7, "pictures [of] a set", heading="testing", redraw=True)
    assert "3/7" in terminal.getvalue()
    assert "testing" in terminal.getvalue()
    assert "pictures [of] a set" in terminal.getvalue()  # rich's markup is off


def test_an_unknown_total_becomes_a_bar_once_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with Progress() as progress:
        progress.update(1, 0, "waiting", redraw=True)
        assert "waiting" in terminal.getvalue()
        assert "1/" not in terminal.getvalue()
        progress.update(2, 4, "counting", redraw=True)
        assert "2/4" in terminal.getvalue()


def test_a_cleared_bar_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with Progress() as progress:
        progress.update(1, 4, redraw=True)
        progress.clear()
        before = len(terminal.getvalue())
        progress.update(2, 4, redraw=True)
        assert "2/4" in terminal.getvalue()[before:]


def test_a_terminal_is_redrawn_ten_times_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    clock = Time()
    with Progress(clock=clock) as progress:
        for step in range(1000):
            clock.seconds = step / 1000
            progress.update(step, 1000)
    assert terminal.getvalue().count("/1000") <= 11


def test_a_log_gets_lines_whose_pauses_double(capsys: pytest.CaptureFixture[str]) -> None:
    clock, at = Time(), []
    with Progress(first_line=2.0, clock=clock) as progress:
        for second in range(40):
            clock.seconds = float(second)
            progress.update(second, 40, "30.0 fps", unit="frames")
            if said := capsys.readouterr().err:
                at.append(second)
                assert said == f"running  {second} of 40 frames, 30.0 fps\n"
    assert at == [2, 6, 14, 30]


def test_each_heading_of_a_log_starts_anew(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Time()
    progress = Progress(first_line=10.0, clock=clock)
    progress.update(0, 9, heading="checking")
    clock.seconds = 9.0
    progress.update(9, 9, heading="checking")
    clock.seconds = 11.0
    progress.update(0, 5, heading="testing")
    assert capsys.readouterr().err == ""
    clock.seconds = 21.0
    progress.update(4, 5, unit="images", heading="testing")
    assert capsys.readouterr().err == "testing  4 of 5 images\n"


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_quiet_prints_nothing(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(quiet=True, first_line=0.0) as progress:
        progress.update(1, 2, "about", redraw=True)
    DownloadProgress(Stop(), quiet=True)("net.pth", 1, 2)
    assert stream.getvalue() == ""


def test_a_download_in_a_log_is_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    progress = DownloadProgress(Stop())
    for done in (0, 3_000_000, 7_000_000):
        progress("net.pth", done, 7_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "fetching net.pth, 7 MB",
        "fetched  net.pth, 7 MB",
    ]


def test_a_download_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    progress = DownloadProgress(Stop())
    progress("net.pth", 3_000_000, 7_000_000)
    assert "3.0/7.0 MB" in terminal.getvalue()
