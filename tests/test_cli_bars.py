"""The bar that long verbs draw on a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from rtseg.cli.report import TerminalBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_how_far_it_is_and_what_it_is(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with TerminalBar() as bar:
        bar.draw(3, 7, "pictures [of] a set", "testing")
    assert "3/7" in terminal.getvalue()
    assert "testing" in terminal.getvalue()
    assert "pictures [of] a set" in terminal.getvalue()  # no markup of rich's


def test_after_it_was_cleared_it_is_drawn_again(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with TerminalBar() as bar:
        bar.draw(1, 0, "")
        bar.clear()
        seen = len(terminal.getvalue())
        bar.draw(2, 4, "")
        assert "2/4" in terminal.getvalue()[seen:]


@pytest.mark.parametrize(("stream", "quiet"), [(Terminal(), True), (io.StringIO(), False)])
def test_a_log_and_a_quiet_run_see_nothing(monkeypatch, stream, quiet) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with TerminalBar(quiet=quiet) as bar:
        bar.draw(1, 2, "about")
    assert not bar.shown
    assert stream.getvalue() == ""
