"""What a person does at a real window: keys and mouse of a real X server, and what is seen then."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import cv2  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np
import pytest
from test_live_window import Program
from x_server import x_server

from rtseg.session.overlay import HINT_SECONDS
from rtseg.session.state import NOTICE_SECONDS
from rtseg.sources import open_source
from rtseg.zoo import MODELS

pytestmark = [pytest.mark.needs_display, pytest.mark.timeout(120)]

STUB = ("-m", "stub", "-b", "stub")
SIZE = (320, 240)
STILL = "still.png"
"""One picture: what the window shows changes by what a person does alone."""


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    with x_server("-screen", "0", "1000x700x24") as name:
        yield name


@pytest.fixture
def desktop(display: str) -> Iterator[None]:
    """A window manager, without which nothing fills a screen."""
    if shutil.which("openbox") is None:
        pytest.skip("needs openbox")
    manager = subprocess.Popen(
        ["openbox", "--sm-disable"],
        env={**os.environ, "DISPLAY": display}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(1.0)
    yield
    manager.terminate()
    manager.wait()


class Hands(Program):
    """A program at whose window somebody sits."""

    def press(self, *keys: str) -> None:
        for key in keys:
            self.ask("xdotool", "windowfocus", "--sync", self.window, "key", key)

    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8 BGR: what the window shows."""
        command = ["import", "-window", self.window, "png:-"]
        done = subprocess.run(command, env=self.environment, check=True, capture_output=True)
        return cv2.imdecode(np.frombuffer(done.stdout, np.uint8), cv2.IMREAD_COLOR)

    def until_changed(self, before: np.ndarray) -> np.ndarray:
        seen: list[np.ndarray] = []

        def look() -> str:
            seen[:] = [self.picture()]
            same = seen[0].shape == before.shape and np.array_equal(seen[0], before)
            return "" if same else "changed"

        self.until(look)
        return seen[0]

    def until_still(self) -> np.ndarray:
        """The picture once it no longer changes: notices are gone."""
        time.sleep(NOTICE_SECONDS + 0.5)  # a notice stands still too
        seen = [self.picture()]

        def look() -> str:
            time.sleep(0.5)
            seen.append(self.picture())
            same = seen[-1].shape == seen[-2].shape and np.array_equal(seen[-1], seen[-2])
            return "still" if same else ""

        self.until(look)
        return seen[-1]


@pytest.fixture
def sit(display: str, tmp_path: Path) -> Iterator[object]:
    with open_source(f"test://?size={SIZE[0]}x{SIZE[1]}&frames=1") as source:
        cv2.imwrite(str(tmp_path / STILL), next(iter(source)).image)
    programs: list[Hands] = []

    def start(*arguments: str) -> Hands:
        programs.append(Hands(display, tmp_path, *arguments))
        programs[-1].wait_for_picture()
        time.sleep(HINT_SECONDS)
        return programs[-1]

    yield start
    for program in programs:
        program.process.kill()
        program.process.communicate()


def still_mask(folder: Path) -> np.ndarray:
    """(H, W) uint8: the classes of the still picture, by their colours."""
    image = cv2.imread(str(folder / STILL))[..., ::-1].astype(int)
    colours = np.array(MODELS["stub"].labels.colours)
    near = np.abs(image[:, :, None] - colours).sum(-1)
    return np.where(near.min(-1) < 20, near.argmin(-1), 0).astype(np.uint8)


def middle_of(mask: np.ndarray, number: int) -> tuple[int, int]:
    """(column, row) well inside a class."""
    depth = cv2.distanceTransform((mask == number).astype(np.uint8), cv2.DIST_L2, 3)
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(column), int(row)


@pytest.mark.slow
def test_keys_change_a_picture_that_stands_still_and_notices_go(sit, tmp_path: Path) -> None:
    program = sit(STILL, *STUB, "-q")
    plain = program.until_still()
    assert plain.shape == (SIZE[1], SIZE[0], 3)
    program.press("Tab")
    mask = program.until_changed(plain)
    mask = program.until_still()
    assert not np.array_equal(mask, plain)
    seen = mask
    for _ in range(4):  # one by one: of keys that come within one turn, OpenCV tells the last
        program.press("Tab")
        seen = program.until_changed(seen)
    assert np.array_equal(program.until_still(), plain), "five views, and no notice is left"
    program.press("h")
    helped = program.until_changed(plain)
    assert (helped != plain).any(2).mean() > 0.3, "the help lies over the picture"
    program.press("h")
    assert np.array_equal(program.until_still(), plain)
    program.press("q")
    assert program.end() == (0, "")


@pytest.mark.slow
def test_the_mouse_names_a_class_and_a_click_shows_it_alone(sit, tmp_path: Path) -> None:
    program = sit(STILL, *STUB, "-q")
    plain = program.until_still()
    mask = still_mask(tmp_path)
    first, second = np.unique(mask)[[1, -1]]
    column, row = middle_of(mask, int(first))
    program.ask("xdotool", "mousemove", "--window", program.window, str(column), str(row))
    named = program.until_changed(plain)
    rows, columns = np.nonzero((named != plain).any(2))
    assert abs(rows - row).min() < 12, "the label lies beside the pointer"
    assert abs(columns - column).min() < 12
    program.ask("xdotool", "click", "1")
    program.until_changed(named)
    program.ask("xdotool", "mousemove", "--window", program.window, "2", "2")
    alone = program.until_still()
    picture = cv2.imread(str(tmp_path / STILL))
    other, chosen = middle_of(mask, int(second))[::-1], (row, column)
    assert np.array_equal(alone[other], picture[other]), "not painted any more"
    assert np.array_equal(alone[chosen], plain[chosen])
    program.press("q")
    assert program.end() == (0, "")


@pytest.mark.slow
def test_a_resized_window_keeps_the_aspect_and_right_coordinates(sit, tmp_path: Path) -> None:
    program = sit(STILL, *STUB, "-q")
    program.until_still()
    program.ask("xdotool", "windowsize", "--sync", program.window, "900", "480")
    wide = program.until_still()
    assert wide.shape == (480, 900, 3)
    assert (wide[:, :130] == 0).all()
    assert (wide[:, -130:] == 0).all()
    inner = cv2.resize(wide[:, 130:770], SIZE, interpolation=cv2.INTER_AREA).astype(int)
    picture = cv2.imread(str(tmp_path / STILL)).astype(int)
    background = still_mask(tmp_path) == 0
    assert np.abs(inner - picture)[background].mean() < 3
    mask = still_mask(tmp_path)
    column, row = middle_of(mask, int(np.unique(mask)[-1]))
    place = str(130 + 2 * column), str(2 * row)
    program.ask("xdotool", "mousemove", "--window", program.window, *place)
    named = program.until_changed(wide)
    rows, columns = np.nonzero((named != wide).any(2))
    assert abs(rows - 2 * row).min() < 20
    assert abs(columns - 130 - 2 * column).min() < 20
    program.press("q")
    assert program.end() == (0, "")


@pytest.mark.slow
def test_full_screen_fills_the_screen_and_goes_back(desktop, sit) -> None:
    program = sit(STILL, *STUB, "-q")
    program.press("F11")
    program.until(lambda: "full" if program.size() == (1000, 700) else "")
    seen = program.until_still()
    assert (seen[:, :33] == 0).all()
    assert (seen[:, 34:966].reshape(-1, 3).max(0) > 0).all()
    program.press("F11")
    program.until(lambda: "small" if program.size()[0] < 1000 else "")
    program.press("q")
    assert program.end() == (0, "")


@pytest.mark.slow
def test_s_and_r_save_files_that_can_be_read(sit, tmp_path: Path) -> None:
    clip = "test://?size=320x240&fps=25&frames=100000"
    program = sit(clip, *STUB, "--screenshots", "kept", "--no-hud")
    kept = tmp_path / "kept"
    program.press("s")
    program.until(lambda: "shot" if kept.is_dir() and len(list(kept.glob("*.png"))) == 3 else "")
    program.press("r")
    program.until(lambda: "begun" if list(kept.glob(".*.part.mp4")) else "")
    begun = program.picture()
    program.until_changed(begun)
    program.press("r")
    program.until(lambda: "done" if list(kept.glob("*.mp4")) else "")
    program.press("space")
    paused = program.until_still()
    program.press("period")
    program.until_changed(paused)
    program.press("x", "r", "q")
    code, said = program.end()
    assert code == 0, said
    first, *more = sorted(kept.glob("*.mp4"))
    assert more == [], "nothing came between the last r and q while it was paused"
    with av.open(str(first)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([i / 25 for i in range(len(times))], abs=1e-4)
    assert f"wrote    {len(times)} frames to {Path('kept') / first.name}" in said
    assert "wrote    kept/rtseg-" in said


@pytest.mark.slow
def test_m_changes_the_network_while_it_runs(sit) -> None:
    clip = "test://?size=320x240&fps=25&frames=100000"
    program = sit(clip, *STUB, "--models", "stub?delay=3ms,nonsense.onnx", "--show")
    program.until(lambda: program.picture() is not None and "seen")
    assert program.process.stderr is not None
    stderr, said = program.process.stderr.fileno(), ""
    while "nonsense.onnx cannot run" not in said:
        program.press("m")  # the second one, or while the first is loaded a later one
        if select.select([stderr], [], [], 1.0)[0]:
            said += os.read(stderr, 1 << 16).decode()
    program.press("q")
    assert program.end()[0] == 0
