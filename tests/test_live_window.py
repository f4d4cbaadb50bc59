"""The program with a real window: every way to quit it, and what it shows meanwhile."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import cv2  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np
import pytest
from test_sources_stream import serving
from x_server import click_close, x_server

from rtseg.sources import open_source

pytestmark = [pytest.mark.needs_display, pytest.mark.timeout(120)]

STUB = ("-m", "stub", "-b", "stub")
SCREEN = (1280, 800)
PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    with x_server("-screen", "0", f"{SCREEN[0]}x{SCREEN[1]}x24") as name:
        yield name


@pytest.fixture
def start(display: str, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def run(*arguments: str) -> Program:
        programs.append(Program(display, tmp_path, *arguments))
        return programs[-1]

    yield run
    for program in programs:
        program.process.kill()
        program.process.communicate()


class Program:
    """rtseg, run in a folder, with its window open."""

    def __init__(self, display: str, folder: Path, *arguments: str) -> None:
        self.environment = {**os.environ, "DISPLAY": display}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rtseg", *arguments],
            cwd=folder, env=self.environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.window = self.until(self.find_window)

    def find_window(self) -> str:
        command = ["xdotool", "search", "--onlyvisible", "--pid", str(self.process.pid)]
        found = subprocess.run(
            [*command, "--name", "^rtseg - "], env=self.environment, capture_output=True, text=True
        )
        return found.stdout.strip().partition("\n")[0]

    def until(self, look: Callable[[], str]) -> str:
        """What `look` gives, asked until it gives something."""
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            assert self.process.poll() is None, self.process.communicate()[1]
            if seen := look():
                return seen
            time.sleep(0.05)  # the program needs the cores more
        raise AssertionError("it was never seen")

    def ask(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.environment, check=True, capture_output=True, text=True, timeout=30
        ).stdout

    def screenshot(self) -> np.ndarray:
        """(H, W, 3) uint8 BGR: the screen."""
        command = ["import", "-window", "root", "png:-"]
        done = subprocess.run(command, env=self.environment, check=True, capture_output=True)
        return cv2.imdecode(np.frombuffer(done.stdout, np.uint8), cv2.IMREAD_COLOR)

    def size(self) -> tuple[int, int]:
        """(width, height) of the window."""
        words = self.ask("xdotool", "getwindowgeometry", "--shell", self.window).split()
        facts = dict(word.split("=") for word in words)
        return int(facts["WIDTH"]), int(facts["HEIGHT"])

    def wait_for_picture(self) -> None:
        """Return once a shape of the pattern is seen; the window alone is grey."""
        self.until(lambda: "seen" if np.ptp(self.screenshot(), axis=-1).max() > 100 else "")

    def quit(self, way: str) -> None:
        if way in WAYS_OF_SIGNALS:
            self.process.send_signal(WAYS_OF_SIGNALS[way])
        elif way == "X":
            click_close(self.environment, self.window)
        else:
            self.ask("xdotool", "windowfocus", "--sync", self.window, "key", way)

    def end(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said


WAYS_OF_SIGNALS = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}
WAYS = {"q": 0, "Escape": 0, "X": 0, "Ctrl-C": 130, "SIGTERM": 143}

SOURCES = {
    "file": "test://?size=320x240&fps=30&frames=100000",
    "slides": "slides",
    "live": "test://?size=320x240&fps=60&live=1",
    "hung": "test://?size=320x240&hang=1",
    "picture": "one.png",
    "folder": "folder",
}
STILL = ("hung", "slides", "picture")
"""What brings no new frame, at which a window could wait."""


def make(folder: Path, source: str) -> None:
    """Pictures: one, many, or two that are to be seen for half an hour each."""
    with open_source("test://?size=320x240") as pattern:
        picture = next(iter(pattern)).image
    (folder / source).mkdir()
    for number in range({"folder": 400, "slides": 2}.get(source, 0)):
        cv2.imwrite(str(folder / source / f"{number}.png"), picture)
    cv2.imwrite(str(folder / "one.png"), picture)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "way"),
    [
        (source, way)
        for source in SOURCES
        for way in (WAYS if source in STILL else ("q", "SIGTERM"))
    ],
)
def test_every_way_to_quit(source: str, way: str, start, tmp_path: Path) -> None:
    make(tmp_path, source)
    slow = ("--fps", "0.001") if source == "slides" else ()
    program = start(SOURCES[source], *slow, *STUB, "-q", "--show", "--metrics", "m.json")
    program.wait_for_picture()
    since = time.monotonic()
    program.quit(way)
    code, said = program.end()
    took = time.monotonic() - since
    assert code == WAYS[way], said
    if source == "hung":
        assert "'capture'" in said
        assert said.count("\n") == 1
    else:
        assert said == ""
    assert took < 5, f"{took:.1f} s"  # two seconds, on a machine with nothing else to do
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["frames"] + metrics["dropped"] == metrics["produced"]
    assert metrics["frames"] >= 1


@pytest.mark.slow
def test_a_file_plays_at_its_own_speed(start, tmp_path: Path) -> None:
    clip = "test://?size=320x240&fps=10&frames=20"
    code, said = start(clip, *STUB, "-q", "--show", "--metrics", "m.json").end()
    assert (code, said) == (0, "")
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["frames"] == 20
    assert metrics["seconds"] >= 1.85
    assert metrics["stages_ms"]["wait"]["max"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("size", [(3840, 2160), (1080, 1920)])
def test_a_large_picture_fits_the_screen(size: tuple[int, int], start) -> None:
    program = start(f"test://?size={size[0]}x{size[1]}&live=1", *STUB, "-q", "--show")
    program.wait_for_picture()
    width, height = program.size()
    assert width <= SCREEN[0]
    assert height <= SCREEN[1]
    assert width / height == pytest.approx(size[0] / size[1], rel=0.01)
    program.quit("SIGTERM")
    assert program.end() == (143, "")


@pytest.mark.slow
@pytest.mark.alone
def test_a_minute_of_a_camera_with_a_slow_network(start, tmp_path: Path) -> None:
    camera = "test://?size=1280x720&fps=60&live=1&frames=3600"
    slow = ("-m", "stub?delay=100ms", "-b", "stub")
    program = start(camera, *slow, "-q", "--show", "--metrics", "m.json")
    program.wait_for_picture()
    memory = Path(f"/proc/{program.process.pid}/statm")
    pages: list[int] = []
    while program.process.poll() is None:
        try:
            pages.append(int(memory.read_text().split()[1]))
            program.process.wait(1.0)
        except (subprocess.TimeoutExpired, IndexError):
            pass
    assert program.end() == (0, "")
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["produced"] == 3600
    assert metrics["frames"] + metrics["dropped"] == 3600
    # a queue would be a minute long by the end; the machine may take its processor away for moments
    assert metrics["age_ms"]["p50"] < 250
    assert metrics["age_ms"]["max"] < 1500
    grown = (pages[-2] - pages[len(pages) // 4]) * os.sysconf("SC_PAGESIZE")
    assert grown < 20e6


class Dropping(http.server.BaseHTTPRequestHandler):
    """An MJPEG camera that is white, goes away when `cut`, and when `back` is smaller and grey."""

    cut: threading.Event
    back: threading.Event
    over: threading.Event

    def do_GET(self) -> None:
        kind = type(self)
        if not kind.cut.is_set():
            self.stream(np.full((480, 640, 3), 255, np.uint8), self.cut)
        else:
            self.back.wait(60)
            self.stream(np.full((128, 160, 3), 128, np.uint8), self.over)

    def stream(self, picture: np.ndarray, until: threading.Event) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        try:
            while not until.wait(0.05):
                self.wfile.write(head.encode() + jpeg + b"\r\n")
        except ConnectionError:
            pass

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.slow
def test_a_stream_that_drops_is_waited_for(start, tmp_path: Path) -> None:
    cut, back, over = threading.Event(), threading.Event(), threading.Event()
    scripted = {"cut": cut, "back": back, "over": over}
    with serving(type("Scripted", (Dropping,), scripted)) as port:
        address = f"http://127.0.0.1:{port}/video.mjpg"
        outputs = ("-o", "out.mp4", "--show", "--no-hud", "--metrics", "m.json")
        program = start(address, *STUB, "-q", *outputs)
        program.until(lambda: "white" if (program.screenshot() == 255).sum() > 8e5 else "")
        assert program.size() == (640, 480)
        cut.set()
        program.until(lambda: "dimmed" if (program.screenshot() == 153).sum() > 8e5 else "")
        banner = program.screenshot()
        if folder := os.environ.get("RTSEG_SCREENSHOTS"):
            cv2.imwrite(f"{folder}/banner.png", banner)
        assert (banner.min(-1) < 60).sum() - (banner == 0).all(-1).sum() > 5000, "a dark plate"
        back.set()
        program.until(lambda: "smaller" if program.size() == (160, 128) else "")
        program.until(lambda: "grey" if (program.screenshot() == 128).sum() > 3e4 else "")
        program.quit("SIGTERM")
        code, said = program.end()
        over.set()
    assert code == 143, said
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["outages"] >= 1
    with av.open(tmp_path / "out.mp4") as container:
        duration = float(container.duration / av.time_base)
        pictures = list(container.decode(video=0))
    assert duration == pytest.approx(metrics["seconds"], abs=0.7)
    assert max(b.time - a.time for a, b in pairwise(pictures)) > 0.5
    shapes = {(picture.width, picture.height) for picture in pictures}
    assert shapes == {(640, 480)}, "a file keeps its size, and the smaller picture lies in it"
    assert len(pictures) == metrics["frames"]
    last = pictures[-1].to_ndarray(format="gray")
    assert last[240, 320] == pytest.approx(128, abs=4)
