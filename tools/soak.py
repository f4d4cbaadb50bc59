"""A long live run with somebody at the keys and a camera that is not to be relied on.

    python tools/soak.py                       # half an hour, in a window where there is a display
    python tools/soak.py --minutes 3 -m person --imgsz 288x512

The camera is synthetic: it changes its size and rate, jitters, and goes away for seconds. The keys
come by chance, from a seed, a second or so apart: every one but q, and the mouse. Each recording is
read back. It prints how much memory grew, what went wrong, and how old frames were when shown, and
exits with 1 past the limits: 30 MB, nothing, 100 ms at the 99th percentile.

Memory is that of the process (resident), its median over the last tenth of the run less that over
the second tenth: what is loaded once, as networks, encoders and compiled code, is loaded by the
first keys, which are the same every time. Seconds in which a recording is being made are left out:
an encoder holds tens of megabytes, and a chance recording at either end is no growth.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import median

import cv2  # noqa: F401  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import psutil

from rtseg.backends import open_backend
from rtseg.cli.flags import INPUT_SIZE, read
from rtseg.contracts import Sink, Source
from rtseg.effects import ViewOptions
from rtseg.frame import Frame
from rtseg.nets import find_model
from rtseg.segmenter import Segmenter
from rtseg.session.controls import Controls, open_controls
from rtseg.session.engine import Channel
from rtseg.session.keys import KEYS
from rtseg.session.loop import run
from rtseg.session.overlay import Overlay
from rtseg.sinks import SinkOptions, open_sink
from rtseg.sinks.display import display_available
from rtseg.sinks.pictures import NullSink
from rtseg.sources import open_source
from rtseg.stats import Clock, Report, Stats
from rtseg.system import return_freed_memory
from rtseg.temporal import TemporalOptions

MOST_MEGABYTES = 30.0
MOST_AGE_MS = 100.0

SCENES = (
    "test://?size=1280x720&fps=30&live=1",
    "test://?size=1280x720&fps=30&live=1&jitter=10",
    "test://?size=640x480&fps=25&live=1&seed=3",
    "test://?size=1280x720&fps=30&live=1&seed=4",
)
SCENE_SECONDS, OUTAGE_SECONDS = 20.0, 2.5
RECORDING_TURNS, PAUSE_TURNS = 6, 2

FIRST_KEYS = ("m", "m", "r", "m", "m", "s", "m", "r", "m", "z", "z", *"\t\t\t\t\t", *"bbb")
"""What is loaded once is loaded by these, half a second apart, before memory is compared."""


Sample = tuple[float, bool]
"""Megabytes of the process, and whether a recording was being made."""


class Camera(Source):
    """One scene after the other, an outage between every two of them."""

    def __init__(self) -> None:
        super().__init__()
        self._scene, self._index = 0, 0
        self._inner = iter(self._open())
        self._first_at = self._since = self.clock.now()

    def _open(self) -> Source:
        self._source = open_source(SCENES[self._scene % len(SCENES)])
        self.info = replace(self._source.info, name="soak", frame_count=None)
        return self._source

    def _read(self) -> Frame | None:
        if self.clock.now() - self._since > SCENE_SECONDS:
            self._be_away()
        frame = next(self._inner, None)
        if frame is None:
            return None
        self._index += 1
        return replace(frame, index=self._index - 1, pts=frame.captured_at - self._first_at)

    def _be_away(self) -> None:
        self._source.close()
        self.outages += 1
        self.notice = "reconnecting to the soak's camera"
        self.wait(OUTAGE_SECONDS)
        self.notice = None
        self._scene += 1
        self._inner = iter(self._open())
        self._since = self.clock.now()

    def _release(self) -> None:
        self._source.close()


class Person:
    """Presses keys and moves the mouse, as the seed says; puts back what would end the fun."""

    def __init__(
        self, controls: Controls, clock: Clock, folder: Path, seed: int, pause: float
    ) -> None:
        self._controls, self._folder = controls, folder
        self._clock, self._dice, self._pause = clock, random.Random(seed), pause
        self._next = self._clock.now() + pause
        self._keys = [name for key in KEYS for name in key.names if key.action != "quit"] + ["x"]
        self._first = list(FIRST_KEYS)
        self._paused = self._recording = 0
        self.pressed: Counter[str] = Counter()

    def turn(self) -> None:
        """Do the next thing, if it is time."""
        controls, now = self._controls, self._clock.now()
        if now < self._next:
            return
        if self._first:
            self._next = now + 0.5
            self.press(self._first.pop(0))
            return
        self._next = now + self._dice.uniform(0.5, 1.5) * self._pause
        self._paused = self._paused + 1 if controls.state.paused else 0
        self._recording = self._recording + 1 if controls.captures.recorder.recording else 0
        if self._paused > PAUSE_TURNS:
            self.press(" ")
        elif self._recording > RECORDING_TURNS:
            self.press("r")
        elif self._dice.random() < 0.2:
            self._use_mouse()
        else:
            self.press(self._dice.choice(self._keys))

    def press(self, name: str) -> None:
        """Press a key, and tidy up after a screenshot, which would fill the disk."""
        self.pressed[name] += 1
        self._controls.press(name)
        if name == "s":
            for picture in self._folder.glob("*.png"):
                picture.unlink()

    def _use_mouse(self) -> None:
        self.pressed["mouse"] += 1
        at = self._dice.random(), self._dice.random()
        self._controls.point(at)
        if self._dice.random() < 0.3:
            self._controls.click(at)


def main() -> int:
    """Run it, and say what came of it."""
    asked = _arguments()
    return_freed_memory()  # as the program does
    with tempfile.TemporaryDirectory() as place:
        try:
            report, memory, told, person = soak(asked, Path(place))
        except Exception:
            traceback.print_exc()
            print("unhandled error: the run did not last")
            return 1
        wrong = [text for heading, text in told if heading == "warning"] + report.hung
        recordings, broken = read_back(Path(place))
    wrong += broken + [thread.name for thread in threading.enumerate() if "rtseg" in thread.name]
    grown, age = growth(memory), report.age_ms["p99"]
    print(f"{report.seconds / 60:.1f} minutes, {report.frames} frames, {report.fps:.1f} fps, "
          f"{report.outages} outages, {sum(person.pressed.values())} actions "
          f"of {len(person.pressed)} kinds, {recordings} recordings read back")  # fmt: skip
    print("dropped " + ", ".join(f"{cause} {n}" for cause, n in report.dropped_by.items()))
    most = max(megabytes for megabytes, _ in memory)
    print(f"memory  {grown:+.1f} MB (limit {MOST_MEGABYTES:g}), at most {most:.0f} MB")
    print(f"errors  {len(wrong)} (limit 0)" + "".join(f"\n        {text}" for text in wrong))
    rest = ", ".join(f"{name} {report.age_ms[name]:.0f}" for name in ("p50", "p95", "max"))
    print(f"age p99 {age:.0f} ms (limit {MOST_AGE_MS:g}); {rest}")
    return int(grown > MOST_MEGABYTES or bool(wrong) or age > MOST_AGE_MS)


def soak(
    asked: argparse.Namespace, folder: Path
) -> tuple[Report, list[Sample], list[tuple[str, str]], Person]:
    """The run: its report, memory once a second, what was told, and who pressed the keys."""
    told: list[tuple[str, str]] = []
    memory: list[Sample] = []
    process = psutil.Process()
    with Camera() as camera, load(asked.model[0], asked.imgsz, asked.backend) as segmenter:
        clock, stats = camera.clock, Stats(camera.clock)
        channel = Channel(camera, stats=stats)
        controls = open_controls(
            ViewOptions(), [channel], segmenter, camera.info,
            names=asked.model, load=lambda name: load(name, asked.imgsz, asked.backend), hud="all",
            folder=folder, log=lambda heading, text: told.append((heading, text)),
        )  # fmt: skip
        recorder = controls.captures.recorder
        person = Person(controls, clock, folder, asked.seed, asked.pause)
        ends = clock.now() + 60 * asked.minutes

        def turn() -> None:
            controls.turn()
            person.turn()
            if len(memory) < asked.minutes * 60 - (ends - clock.now()):
                memory.append((process.memory_info().rss / 1e6, recorder.recording))

        with open_window(camera, segmenter) as window, recorder:
            if not isinstance(window, NullSink):
                Overlay(controls, channel).attach(window)
            report = run(
                camera, controls.segmenter, controls.effects[0], [window, recorder], stats=stats,
                temporal=TemporalOptions(smooth=asked.smooth), control=controls,
                stop=lambda: clock.now() > ends, on_tick=turn,
            )  # fmt: skip
        if not controls.close():
            told.append(("warning", "a network was still being loaded"))
    return report, memory, told, person


def load(name: str, imgsz: str, backend: str) -> Segmenter:
    """A network on a processor."""
    model = find_model(name)
    backend = "stub" if model.format == "none" else backend
    return Segmenter(open_backend(backend, model, input_size=read(INPUT_SIZE, "--imgsz", imgsz)))


def open_window(source: Source, segmenter: Segmenter) -> Sink:
    """A window where there is a display; else pictures are drawn for nobody."""
    if display_available() is None:
        title = SinkOptions(title="rtseg soak")
        return open_sink("window:", source.info, segmenter.labels, title)
    sink = open_sink("null:", source.info, segmenter.labels)
    sink.wants_image = True
    return sink


def read_back(folder: Path) -> tuple[int, list[str]]:
    """How many recordings there are, and which cannot be played."""
    paths, broken = sorted(folder.glob("rtseg-*.mp4")), []
    for path in paths:
        with av.open(str(path)) as container:
            times = [frame.time for frame in container.decode(video=0)]
        if not times or times != sorted(set(times)):
            broken.append(f"{path.name} holds {len(times)} frames, out of order or none")
    broken += [f"{path.name} was left" for path in folder.glob(".*")]
    return len(paths), broken


def growth(memory: list[Sample]) -> float:
    """Megabytes from the second tenth of a run to its last, recordings left out."""
    tenth = max(1, len(memory) // 10)
    return usual(memory[-tenth:]) - usual(memory[tenth : 2 * tenth] or memory)


def usual(memory: list[Sample]) -> float:
    """The median while nothing was recorded; of all, where there was no such second."""
    alone = [megabytes for megabytes, recording in memory if not recording]
    return median(alone or [megabytes for megabytes, _ in memory])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("-m", "--model", default="person,stub", help="networks of the key m")
    parser.add_argument("--imgsz", default="288x512")
    parser.add_argument("-b", "--backend", default="onnx")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between keys, on average")
    parser.add_argument("--smooth", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    asked.model = asked.model.split(",")
    return asked


if __name__ == "__main__":
    sys.exit(main())
