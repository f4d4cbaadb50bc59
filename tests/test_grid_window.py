"""Several sources in a real window: one is lost and comes back, and no other minds."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_live_window import (
    STUB,
    WAYS,
    Dropping,
    Program,
    display,  # noqa: F401 - a fixture
    start,  # noqa: F401 - a fixture
)
from test_sources_stream import serving

from rtseg.labels import SHAPE_LABELS
from rtseg.session.grid import lay_out
from rtseg.sources import open_source

pytestmark = [pytest.mark.needs_display, pytest.mark.timeout(180)]

Start = Callable[..., Program]


def cell(program: Program, number: int, sizes: list[tuple[int, int]]) -> np.ndarray:
    """(h, w, 3) uint8 BGR: what the screen shows of one source."""
    layout = lay_out(sizes, (720, 1152))
    (top, left), (height, width) = layout.corners[number], layout.cell
    return program.screenshot()[top : top + height, left : left + width]


def kept(program: Program, name: str) -> None:
    if folder := os.environ.get("RTSEG_SCREENSHOTS"):
        cv2.imwrite(f"{folder}/{name}.png", program.screenshot())


@pytest.mark.slow
def test_a_camera_that_is_lost_has_a_banner_and_the_others_go_on(
    start: Start,  # noqa: F811
    tmp_path: Path,
) -> None:
    cut, back, over = threading.Event(), threading.Event(), threading.Event()
    scripted = {"cut": cut, "back": back, "over": over}
    sizes = [(480, 640)] * 3
    with serving(type("Scripted", (Dropping,), scripted)) as port:
        camera = f"http://127.0.0.1:{port}/video.mjpg"
        live, clip = "test://?size=640x480&fps=30&live=1", "test://?size=640x480&frames=15"
        program = start(camera, live, clip, *STUB, "-q", "--show", "--metrics", "m.json")

        def seen(words: str, look: Callable[[np.ndarray], bool], number: int = 0) -> None:
            program.until(lambda: words if look(cell(program, number, sizes)) else "")

        seen("white", lambda part: np.median(part) == 255)
        assert program.size() == lay_out(sizes, (720, 1152)).size[::-1]
        seen("ended, dimmed", lambda part: (part == (36, 108, 24)).all(-1).sum() > 500, 2)
        kept(program, "grid")
        cut.set()
        seen("banner", lambda part: np.median(part) == 153)
        kept(program, "grid_lost")
        first = cell(program, 1, sizes)
        seen("another frame", lambda part: (part != first).sum() > 1000, 1)
        assert np.median(cell(program, 0, sizes)) == 153
        back.set()
        seen("grey", lambda part: np.median(part) == 128)
        program.ask("xdotool", "windowfocus", "--sync", program.window)
        for _ in ("all figures", "none"):
            program.ask("xdotool", "key", "f")
            time.sleep(0.3)
        seen("no figures", lambda part: (part[:60, :200] == 128).mean() > 0.9)
        program.ask("xdotool", "key", "Tab")
        green = SHAPE_LABELS.colours[2][::-1]
        seen("masks alone", lambda part: (part == 0).all(-1).mean() > 0.5, 1)
        seen("a square", lambda part: (part == green).all(-1).sum() > 1000, 1)
        kept(program, "grid_masks")
        program.quit("q")
        code, said = program.end()
        over.set()
    assert code == 0
    assert said.startswith(f"warning  http://127.0.0.1:{port} (")
    assert " gives 160x128 since frame " in said
    assert said.count("\n") == 1
    figures = json.loads((tmp_path / "m.json").read_text())
    lost, lively, clip_figures = figures["sources"]
    assert lost["outages"] >= 1
    assert (lively["outages"], clip_figures["outages"]) == (0, 0)
    assert lively["frames"] > 20
    assert figures["total"]["lost"] == 0


@pytest.mark.slow
def test_a_grid_is_recorded_and_kept_as_a_picture(
    start: Start,  # noqa: F811
    tmp_path: Path,
) -> None:
    live = "test://?size=320x240&fps=20&live=1"
    program = start(live, f"{live}&seed=2", *STUB, "--show", "--screenshots", "kept")
    program.wait_for_picture()

    def press(key: str) -> None:
        program.ask("xdotool", "windowfocus", "--sync", program.window, "key", key)

    def files(ending: str) -> list[Path]:
        return [*(tmp_path / "kept").glob(f"rtseg-*{ending}")]

    press("r")
    time.sleep(1.5)
    press("h")
    press("s")
    program.until(lambda: "picture" if files(".png") else "")
    time.sleep(0.3)
    kept(program, "grid_help")
    press("r")
    program.until(lambda: "film" if files(".mp4") else "")
    program.quit("q")
    code, said = program.end()
    assert code == 0
    assert said.count("wrote") == 2
    size = lay_out([(240, 320)] * 2, (720, 1152)).size
    assert cv2.imread(str(files(".png")[0])).shape[:2] == size
    frames = list(open_source(str(files(".mp4")[0])))
    assert len(frames) > 20
    assert frames[0].size == tuple(side + side % 2 for side in size)
    assert frames[-1].pts > 1.0
    assert all(abs(frame.pts * 20 - round(frame.pts * 20)) < 0.1 for frame in frames)


@pytest.mark.slow
def test_a_grid_stands_still_and_goes_on(start: Start) -> None:  # noqa: F811
    live = "test://?size=320x240&fps=20&live=1"
    program = start(live, f"{live}&seed=2", *STUB, "--show", "--no-hud")
    program.wait_for_picture()

    def press(key: str) -> None:
        program.ask("xdotool", "windowfocus", "--sync", program.window, "key", key)

    def moves() -> bool:
        before = program.screenshot()
        time.sleep(0.4)
        return bool((program.screenshot() != before).any())

    assert moves()
    press("space")
    program.until(lambda: "still" if not moves() else "")
    kept(program, "grid_paused")
    stood = program.screenshot()
    press("period")
    program.until(lambda: "a step" if (program.screenshot() != stood).any() else "")
    program.until(lambda: "still again" if not moves() else "")
    press("space")
    program.until(lambda: "moving" if moves() else "")
    program.quit("q")
    assert program.end()[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("way", list(WAYS))
def test_every_way_to_quit_a_grid(start: Start, way: str, tmp_path: Path) -> None:  # noqa: F811
    live, hung = "test://?size=320x240&fps=30&live=1", "test://?size=320x240&live=1&hang=3"
    program = start(live, live, hung, *STUB, "-q", "--show", "--metrics", "m.json")
    program.wait_for_picture()
    program.quit(way)
    code, said = program.end()
    assert code == WAYS[way]
    assert "capture of test pattern 320x240 (3)" in said
    assert said.count("\n") == 1
    for source in json.loads((tmp_path / "m.json").read_text())["sources"]:
        assert source["frames"] + source["dropped"] == source["produced"]
