"""`rtseg batch` in processes that are killed, together with others, and over 10 000 clips."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import psutil
import pytest
from clips import patches, write_clip
from fuzz import KINDS, write_whole

from rtseg.batch.ledger import Ledger
from rtseg.batch.options import ENGINES, BatchOptions, EngineKind
from rtseg.batch.tasks import Event, Outcome, Task
from rtseg.cli.app import main
from rtseg.cli.options import Flags

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no kill -9"),
]

STUB = ("-m", "stub", "-b", "stub", "--imgsz", "64")


_STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """End what a test that failed has started."""
    yield
    while _STARTED:
        process = _STARTED.pop()
        process.kill()
        finish(process)


def start(*arguments: str, code: str = "", folder: Path) -> subprocess.Popen[str]:
    """The program in a process; `code` runs in it before."""
    program = f"import sys; {code}\nfrom rtseg.cli.app import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "batch", *arguments]
    _STARTED.append(subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True))
    return _STARTED[-1]


def finish(process: subprocess.Popen[str], seconds: float = 600) -> str:
    """What it printed, once it has ended."""
    try:
        if process.stderr is None or process.stderr.closed:
            return ""
        return process.communicate(timeout=seconds)[1]
    finally:
        process.kill()
        process.wait()


def until(condition: Any, seconds: float = 300) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children()
    except psutil.NoSuchProcess:
        return []


def content(path: Path) -> list[Any]:
    """Frames with their times, then sound with its times; of an image its pixels."""
    if path.suffix == ".png":
        return [cv2.imread(str(path), cv2.IMREAD_UNCHANGED)]
    found: list[Any] = []
    with av.open(str(path)) as container:
        for packet in container.demux():
            for frame in packet.decode():
                found += [type(frame).__name__, frame.pts, frame.time_base, frame.to_ndarray()]
    return found


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        for a, b in zip(one, other, strict=True)
    )


def records(out: Path) -> dict[str, dict[str, Any]]:
    state = out / ".rtseg"
    found = state.rglob("*.json")
    return {p.relative_to(state).as_posix()[:-5]: json.loads(p.read_text()) for p in found}


def write_kinds(folder: Path, count: int) -> list[Path]:
    """As many clips and images of every kind, in folders, of up to a second."""
    written: list[Path] = []
    made: dict[str, Path] = {}
    for number in range(count):
        name, kind = list(KINDS.items())[number % len(KINDS)]
        kind = replace(kind, frames=max(1, min(kind.frames, 25) - number // len(KINDS) % 3))
        key = repr(kind)
        path = folder / f"{number // 25}" / f"{number}_{name}.{kind.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        made[key] = shutil.copy(made[key], path) if key in made else write_whole(path, kind)
        written.append(path)
    return written


def check_outputs(outputs: dict[Path, Path], folder: Path) -> None:
    """Each output, by its source, equals that of `rtseg run`, which runs once for equal sources."""
    alone: dict[bytes, Path] = {}
    for source, output in outputs.items():
        key = hashlib.sha256(source.read_bytes()).digest()
        if key not in alone:
            alone[key] = folder / f"alone{len(alone)}{output.suffix}"
            own = str(alone[key])
            assert main([str(source), "-o", own, "-y", "--end", "1", "-q", *STUB]) == 0
        assert same(content(output), content(alone[key])), source


@pytest.mark.timeout(1800)
def test_kill_9_of_workers_and_parents_costs_nothing(tmp_path: Path) -> None:
    """Started again after each, every output is there once and equals that of `rtseg run`."""
    count = int(os.environ.get("RTSEG_CLIPS", "100"))
    clips = tmp_path / "in"
    sources = write_kinds(clips, count)
    shared = Path(os.environ.get("RTSEG_DATA", "")) / "videos"
    for number, path in enumerate(sorted(shared.glob("*.*"))[:12] if shared.is_dir() else []):
        place = clips / "shared" / f"{number}{path.suffix}"
        place.parent.mkdir(exist_ok=True)
        sources.append(Path(shutil.copy(path, place)))
    chance = random.Random(28)
    arguments = ("in", "-o", "out", "--workers", "2", "--end", "1", "--retry-failed", "-q", *STUB)
    # by what is done, as machines differ: at how many records, and whom
    kills = [(count * (n + chance.random()) / 12, n % 3 == 0) for n in range(12)]
    for _ in range(60):
        process = start(*arguments, folder=tmp_path)
        while process.poll() is None:
            time.sleep(0.02)
            # `os.walk` passes over folders that vanish meanwhile
            files = [name for *_, names in os.walk(tmp_path / "out" / ".rtseg") for name in names]
            done = sum(name.endswith(".json") for name in files)
            if kills and done >= kills[0][0] and (workers := workers_of(process)):
                victim = process if kills.pop(0)[1] else chance.choice(workers)
                victim.send_signal(signal.SIGKILL)
        finish(process)
        done = len(records(tmp_path / "out")) if (tmp_path / "out").exists() else 0
        if process.returncode == 0 and done == len(sources):
            break
    assert process.returncode == 0
    assert not kills
    found = records(tmp_path / "out")
    assert set(found) == {path.relative_to(clips).as_posix() for path in sources}
    assert {record["state"] for record in found.values()} == {"done"}
    outputs = [tmp_path / record["outputs"][0] for record in found.values()]
    left = [p for p in (tmp_path / "out").rglob("*") if p.is_file() and p not in outputs]
    assert sorted(p.suffix for p in left) == [".json"] * len(sources)
    assert len(set(outputs)) == len(sources)
    by_source = {clips / name: tmp_path / one["outputs"][0] for name, one in found.items()}
    check_outputs(by_source, tmp_path)


def test_two_machines_share_a_folder_and_one_dies(tmp_path: Path) -> None:
    """The other waits for the lease, takes over, and no clip is done twice."""
    (tmp_path / "in").mkdir()
    for number in range(8):
        write_clip(tmp_path / "in" / f"{number}.mp4", frames=12)
    elsewhere = "import rtseg.batch.ledger as l; l.where = lambda: '0123456789ab'"
    slow = ("-m", "stub?delay=150ms", "-b", "stub", "--imgsz", "64")
    arguments = ("in", "-o", "out", "--lease", "4", "--workers", "1", "-v")
    one = start(*arguments, *slow, code=elsewhere, folder=tmp_path)
    until(lambda: list((tmp_path / "out").glob("*.mp4")))
    two = start(*arguments, *slow, folder=tmp_path)
    until(lambda: len(list((tmp_path / "out/.rtseg").glob("*.claim-0"))) == 2)
    one.send_signal(signal.SIGKILL)
    said = [finish(one), finish(two)]
    assert two.returncode == 0, said[1]
    found = records(tmp_path / "out")
    assert len(found) == 8
    assert {record["state"] for record in found.values()} == {"done"}
    did = [line for line in "".join(said).splitlines() if line.startswith("worker ")]
    assert len({line.split()[2] for line in did}) == len(did)  # none twice
    assert len({record["worker"] for record in found.values()}) == 2
    assert not list((tmp_path / "out").rglob("*.claim*"))


@pytest.mark.parametrize("twice", [False, True])
def test_ctrl_c_finishes_what_is_in_flight_and_twice_stops_at_once(
    tmp_path: Path, twice: bool
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(6):
        write_clip(tmp_path / "in" / f"{number}.mp4", frames=50)
    delay = "1s" if twice else "100ms"
    slow = ("-m", f"stub?delay={delay}", "-b", "stub", "--imgsz", "64", "--workers", "1")
    process = start("in", "-o", "out", *slow, folder=tmp_path)
    until(lambda: list((tmp_path / "out").rglob("unfinished/*/*/0/.*part*")))
    process.send_signal(signal.SIGINT)
    if twice:  # two signals at once are one
        assert process.stderr is not None
        assert any(line.startswith("stopping") for line in process.stderr)
        since = time.monotonic()
        process.send_signal(signal.SIGINT)
    said = finish(process)
    assert process.returncode == 130, said
    done = [record for record in records(tmp_path / "out").values() if record["state"] == "done"]
    if twice:
        assert time.monotonic() - since < 25  # of the clip's 50
        assert not done
    else:
        assert len(done) == 1
        assert not list((tmp_path / "out").rglob("*.claim*"))
        assert not (tmp_path / "out/.rtseg/unfinished").exists()
    process = start("in", "-o", "out", "-q", "--workers", "2", *STUB, folder=tmp_path)
    assert finish(process) == ""
    assert process.returncode == 0
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 6
    assert not list((tmp_path / "out").rglob(".*part*"))


def relatives(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All that it started, and what they started."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def is_actor(process: psutil.Process) -> bool:
    try:
        return "_Actor" in " ".join(process.cmdline())
    except psutil.Error:
        return False


@pytest.mark.timeout(7200)
def test_kill_9_of_rays_actors_and_parents_costs_nothing(tmp_path: Path) -> None:
    """At random numbers of finished clips; 200 clips with RTSEG_RAY_CLIPS=200."""
    pytest.importorskip("ray")
    count = int(os.environ.get("RTSEG_RAY_CLIPS", "16"))
    clips, out = tmp_path / "in", tmp_path / "out"
    sources = write_kinds(clips, count)
    (clips / "broken.mp4").write_bytes(b"no video" * 99)
    slow = ("-m", "stub?delay=30ms", "-b", "stub", "--imgsz", "64")
    ray = ("--engine", "ray", "--workers", "2", "--retry-failed", "--report", "rows.json")
    chance = random.Random(28)
    moments = sorted(chance.sample(range(2, count - 4), 2 * max(1, count // 40)))
    kills = deque(zip(moments, ("actor", "parent") * count, strict=False))
    starts = 0
    while True:
        process = start("in", "-o", "out", *slow, *ray, folder=tmp_path)
        starts += 1
        while process.poll() is None:
            time.sleep(0.05)
            if not kills or len(list(out.glob("*/*.*"))) < kills[0][0]:
                continue
            if kills[0][1] == "parent":
                process.kill()  # its actors are left to Ray while the next one begins
            elif actors := [each for each in relatives(process) if is_actor(each)]:
                chance.choice(actors).kill()
            else:
                continue
            kills.popleft()
        said = finish(process)
        if process.returncode == -signal.SIGKILL:
            continue
        if "cannot use Ray" not in said:
            break
        assert starts < 20, said  # a part of Ray that does not start within 15 s on a busy machine
    assert not kills
    assert process.returncode == 3, said
    assert "broken.mp4" in said
    found = json.loads((tmp_path / "rows.json").read_text())["clips"]
    assert [row["clip"] for row in found if row["state"] != "done"] == ["broken.mp4"]
    assert len(found) == len(sources) + 1
    done = [row for row in found if row["state"] == "done"]
    outputs = {tmp_path / row["outputs"][0] for row in done}
    assert len(outputs) == len(sources)
    left = [p for p in out.rglob("*") if p.is_file() and p not in outputs]
    assert sorted(p.suffix for p in left) == [".json"] * len(found)
    assert not (out / ".rtseg/unfinished").exists()
    for row in done:
        output = tmp_path / row["outputs"][0]
        alone = tmp_path / f"alone{output.suffix}"
        assert main([str(tmp_path / row["source"]), "-o", str(alone), "-y", "-q", *STUB]) == 0
        assert same(content(output), content(alone)), row
    print(f"{count} clips, {starts} starts, at {moments} clips")


class Copies:
    """A pool whose workers copy an image: what is left is the batch's own work."""

    def __init__(self, flags: Flags, options: BatchOptions, workers: int) -> None:
        self._events: deque[Event] = deque()

    def give(self, worker: int, task: Task) -> None:
        ledger: Ledger = task.ledger
        self._events.append(Event(worker, "loaded"))
        ledger.write(task.clip, ledger.new(task.clip, "started"))
        output = Path(task.clip.outputs[0])
        output.parent.mkdir(parents=True, exist_ok=True)
        os.link(task.clip.source, output)
        assert ledger.holds(task.claim)
        record = ledger.new(task.clip, "done", report={"frames": 1})
        ledger.write(task.clip, record)
        self._events.append(Event(worker, "done", Outcome(record)))

    def poll(self, seconds: float) -> Iterator[Event]:
        while self._events:
            yield self._events.popleft()

    def close(self) -> None:
        """Nothing to end."""


def four(flags: Flags, options: BatchOptions) -> int:
    return 4


def test_ten_thousand_clips_cost_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(ENGINES, "local", EngineKind(f"{__name__}:Copies", f"{__name__}:four"))
    cv2.imwrite("one.png", patches(8, 8))
    for number in range(10_000):
        path = tmp_path / "in" / f"{number % 20}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link("one.png", path)
    memory, rss = [], psutil.Process().memory_info
    give = Copies.give

    def giving(self: Copies, worker: int, task: Task) -> None:
        memory.append(rss().rss)
        give(self, worker, task)

    monkeypatch.setattr(Copies, "give", giving)
    times = []
    for _ in range(2):
        since, cpu = time.monotonic(), time.process_time()
        assert main(["batch", "in", "-o", "out", "-q", "--report", "rows.csv", *STUB]) == 0
        times.append((time.monotonic() - since, time.process_time() - cpu))
    print(f"all {times[0]}, nothing to do {times[1]}, {(memory[-1] - memory[1000]) / 1e6:.1f} MB")
    assert len(memory) == 10_000
    assert len(Path("rows.csv").read_text().splitlines()) == 10_001
    assert times[0][1] < 60  # seconds of processor time, of which slow machines need 25
    assert times[1][1] < 30
    assert memory[-1] - memory[1000] < 10e6
