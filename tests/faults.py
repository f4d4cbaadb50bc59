"""Runs of rtseg to which something happens: a signal, a full disk, a folder that vanishes.

Every run is forked from a process that has loaded the libraries, which saves two seconds each.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import cv2  # isort: skip - ahead of av
import av
import numpy as np
from colour_network import make_network
from dataset_folders import make_folder
from sink_frames import info, rendered, write

PRELOADED = (
    "rtseg.cli.commands rtseg.cli.run rtseg.cli.eval rtseg.cli.bench rtseg.cli.export "
    "rtseg.cli.demo rtseg.sinks.video rtseg.sinks.masks rtseg.sinks.figure rtseg.sinks.jsonl "
    "rtseg.sources.video "
    "rtseg.sources.pictures rtseg.decode rtseg.effects.hud rtseg.backends.stub onnxruntime "
    "matplotlib.figure rich.progress faults"
).split()

LIMIT_SECONDS = 300.0
"""A run that has not ended by then, after its fault, hangs."""

LEFT = re.compile(r"\..+-[0-9a-f]{16}\.(part|tmp)(\.[^.]*)?")
"""Names of temporary files."""

STUB = ("-m", "stub?delay=4ms", "-b", "stub", "--no-show", "-y")


@dataclass(frozen=True)
class Verb:
    """A command, and how often it is chosen.

    Attributes:
        span: seconds within which something happens to it.
    """

    arguments: tuple[str, ...]
    weight: int = 4
    span: float = 1.5


def _verb(text: str, *more: str, weight: int = 4, span: float = 1.5) -> Verb:
    return Verb((*text.split(), *more), weight, span)


VERBS = {
    "video": _verb("clip.mp4 -o out/out.mp4 --json out/out.jsonl --metrics out/m.json", *STUB),
    "mkv": _verb("clip.mp4 -o out/out.mkv --mask-output out/masks.mkv", *STUB),
    "pictures": _verb("clip.mp4 -o out/p/ --mask-output out/p/m_%06d.png", *STUB),
    "folder": _verb("shots/ -o out/q/ --figure out/figure.png", *STUB),
    "grid": _verb("clip.mp4 shots/ test://?frames=40 -o out/grid.mp4 --json out/g.jsonl", *STUB),
    "network": _verb("clip.mp4 -m net.onnx -b onnx --no-show -o out/out.mp4 -y"),
    "auto": _verb("clip.mp4 -m net.onnx --no-show -o out/out.mp4 --metrics out/m.json -y"),
    "cache": _verb("clip.mp4 -b onnx --imgsz 64x96 --no-show -o out/out.mp4 -y", span=3.0),
    "eval": _verb(
        "eval --data set -m net.onnx -b onnx --json out/eval.json --confusion out/c.png -y"
    ),
    "export": _verb(
        "export -m net.onnx -o out/net.onnx --samples clip.mp4 --overwrite", span=3.0
    ),
    "bench": _verb(
        "bench -m stub -i clip.mp4 --frames 5 --rounds 1 -o out/bench.json -y", weight=1, span=8.0
    ),
    "train": _verb(
        "train --dataset set --out out/run --epochs 1 --size 64x64 --batch-size 2 --workers 0",
        *"--model lraspp_mobilenet_v3_large --weights scratch --device cpu --max-steps 2".split(),
        weight=1, span=15.0,
    ),
    "demo": _verb("demo --no-show --seconds 1 -o out/demo.mp4 --overwrite", weight=2, span=3.0),
    "models": _verb("models", weight=1, span=0.3),
    "doctor": _verb("doctor", weight=1, span=1.0),
}  # fmt: skip

FAULTS = (
    *("term", "int", "hup", "twice", "kill", "kill", "fsize", "disk", "gone", "renamed"),
    *("source", "two", "two", "unread", "none"),
)
CODES = {0, 1, 2, 3, 4, 5, 129, 130, 143}
ENDED_BY = {"term": signal.SIGTERM, "int": signal.SIGINT, "hup": signal.SIGHUP}


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
        codes: exit codes; a negative one is the signal that killed it.
        wrong: what must not be.
        playable: of leftover videos of killed runs, how many can be played.
    """

    verb: str
    fault: str
    codes: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    left: int = 0
    playable: int = 0


def run_child(
    arguments: Sequence[str], root: str, cache: str, log: str, fsize: int, unread: bool
) -> None:
    """In the forked process: become the program.

    Args:
        fsize: the largest file that it may write, in bytes; 0 for any.
        unread: whether nobody reads its stderr.
    """
    os.setpgid(0, 0)
    os.chdir(root)
    tempfile.tempdir = str(Path(root, "tmp"))
    os.environ |= {"RTSEG_CACHE": cache, "TMPDIR": tempfile.tempdir}
    for number, target in ((1, os.devnull), (2, log)):
        opened = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        if unread and number == 2:
            nobody, opened = os.pipe()
            os.close(nobody)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    if fsize:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fsize, fsize))
    faulthandler.register(signal.SIGUSR1, file=sys.stderr)  # where it hangs
    sys.argv = ["rtseg", *arguments]
    from rtseg.__main__ import main

    main()


class FaultRun:
    """One fault: a folder with what a run reads, what lies there already, and what happens."""

    def __init__(self, seed: int, folder: Path, model: Path, cache: Path) -> None:
        self.dice = random.Random(seed)
        self.root = folder / f"{seed:06}"
        shutil.copytree(model, self.root)
        names = list(VERBS)
        verb = self.dice.choices(names, [VERBS[name].weight for name in names])[0]
        self.found = Outcome(verb, self.dice.choice(FAULTS))
        self.verb = VERBS[verb]
        self.cache = cache if self.dice.random() < 0.5 else self.root / "cache"
        self.log = self.root / "log"
        self.out = self.root / "out"
        self.mounted = False
        if self.found.fault == "disk":
            self._mount()
        self._fill()
        self.before = self._snapshot()
        self.old = {path: path.read_bytes() for path in self._files(self.out)}

    def run(self) -> Outcome:
        """Run it; returns what became of it."""
        context = multiprocessing.get_context("forkserver")
        fault, dice = self.found.fault, self.dice
        fsize = dice.choice((4_000, 30_000, 200_000)) if fault == "fsize" else 0
        given = (
            self.verb.arguments,
            str(self.root),
            str(self.cache),
            str(self.log),
            fsize,
            fault == "unread",
        )
        processes = [
            context.Process(target=run_child, args=given, daemon=True)
            for _ in range(2 if fault == "two" else 1)
        ]
        for process in processes:
            process.start()
            if fault == "two":
                time.sleep(dice.uniform(0, 0.3))
        try:
            until = time.monotonic() + LIMIT_SECONDS * (dice.random() < 0.7 and fault != "unread")
            while processes[0].is_alive() and time.monotonic() < until and not self._speaks():
                time.sleep(0.01)
            time.sleep(dice.uniform(0, self.verb.span))
            self._happen(processes[0].pid or 0)
            for process in processes:
                process.join(LIMIT_SECONDS)
                if process.is_alive():
                    os.kill(process.pid or 0, signal.SIGUSR1)
                    time.sleep(1)
                    self.found.wrong.append(f"hangs: {self.log.read_text('utf-8', 'replace')}")
        finally:
            for process in processes:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid or 0, signal.SIGKILL)
                process.join(10)
                self.found.codes.append(process.exitcode if process.exitcode is not None else -99)
        try:
            self._judge()
        finally:
            if self.mounted:
                subprocess.run(["umount", "-l", self.out], check=True)
            if not self.found.wrong:
                shutil.rmtree(self.root, ignore_errors=True)
        return self.found

    def _speaks(self) -> bool:
        """Whether the program has begun, which takes long on a busy machine."""
        return self.log.exists() and self.log.stat().st_size > 0

    def _mount(self) -> None:
        """A small disk under the outputs, where this user may mount one; else a limit of size."""
        size = self.dice.choice((700, 1000, 2000))
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(self.out)]
        done = subprocess.run(command, capture_output=True, check=False)
        self.mounted = done.returncode == 0
        if not self.mounted:
            self.found.fault = "fsize"

    def _fill(self) -> None:
        """What lies in the folder of outputs: some of their names, and files of others."""
        for name in ("keep.txt", ".hidden", ".out-0.part.mp4", "p/keep.txt", "q/keep.txt"):
            (self.out / name).parent.mkdir(exist_ok=True)
            (self.out / name).write_text(f"of somebody else: {name}")
        whole = {
            "out.mp4": "clip.mp4", "out.mkv": "clip.mkv", "net.onnx": "net.onnx",
            "figure.png": "shots/0.png", "q/0.png": "shots/0.png",
        }  # fmt: skip
        for name, source in whole.items():
            if self.dice.random() < 0.7:
                shutil.copy(self.root / source, self.out / name)
        for name in ("m.json", "eval.json", "out.jsonl"):
            (self.out / name).write_text('{"old": true}\n')

    def _files(self, folder: Path) -> list[Path]:
        return [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []

    def _snapshot(self) -> dict[Path, bytes]:
        """Everything that is not written: what a run reads, and what is of others."""
        ours = (self.out, self.root / "cache", self.root / "tmp", self.root / "moved")
        files = [
            path
            for path in self._files(self.root)
            if not any(path.is_relative_to(folder) for folder in ours) and path != self.log
        ]
        return {path: path.read_bytes() for path in files}

    def _happen(self, pid: int) -> None:
        fault = self.found.fault
        with suppress(ProcessLookupError):
            if fault in ENDED_BY:
                os.kill(pid, ENDED_BY[fault])
            elif fault == "twice":
                os.kill(pid, signal.SIGINT)
                time.sleep(self.dice.uniform(0, 0.5))
                os.kill(pid, signal.SIGTERM)
            elif fault == "kill":
                os.kill(pid, signal.SIGKILL)
        if fault == "gone":
            shutil.rmtree(self.out, ignore_errors=True)
        elif fault == "renamed":
            self.out.rename(self.root / "moved")
        elif fault == "source":
            for name in ("clip.mp4", "shots", "set", "net.onnx"):
                path = self.root / name
                (shutil.rmtree if path.is_dir() else Path.unlink)(path)  # type: ignore[operator]
                self.before = {
                    file: content
                    for file, content in self.before.items()
                    if not file.is_relative_to(path)
                }

    def _judge(self) -> None:
        found, wrong = self.found, self.found.wrong
        said = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        for word in ("Traceback", "internal error", "Exception ignored", "Segmentation", "Aborted"):
            if word in said:
                wrong.append(f"said {word}: {said[-600:]}")
        killed = found.fault in ("kill", "twice")
        early = {-ENDED_BY.get(found.fault, 0), -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL}
        for code in found.codes:
            if code not in CODES and not (code < 0 and code in early):
                wrong.append(f"exit code {code}: {said[-600:]}")
        out = self.root / "moved" if (self.root / "moved").is_dir() else self.out
        there = self._files(out)
        if found.fault != "gone":
            for path, content in self.old.items():
                place = out / path.relative_to(self.out)
                if place.name in ("keep.txt", ".hidden", ".out-0.part.mp4"):
                    if not place.is_file() or place.read_bytes() != content:
                        wrong.append(f"touched {place.name}")
                elif not place.is_file():
                    wrong.append(f"lost {place.name}: {said[-300:]}")
        for path in there:
            place = self.out / path.relative_to(out)
            if LEFT.fullmatch(path.name):
                found.left += 1
                found.playable += path.suffix in (".mp4", ".mkv") and is_whole(path)
                if not killed and found.codes != [-2] and path.name not in said:
                    wrong.append(f"left {path.name}: {said[-300:]}")
            elif self.old.get(place) != path.read_bytes() and not is_whole(path):
                wrong.append(f"half a file: {path.name}: {said[-300:]}")
        for path, content in self.before.items():
            if not path.is_file() or path.read_bytes() != content:
                wrong.append(f"touched {path.relative_to(self.root)}")
        for path in set(self._snapshot()) - set(self.before):
            wrong.append(f"made {path.relative_to(self.root)}")


def is_whole(path: Path) -> bool:
    """Whether a file of an output is complete, by its suffix."""
    try:
        return _CHECKS.get(path.suffix, lambda path: True)(path)
    except (OSError, ValueError, av.FFmpegError):
        return False


def _plays(path: Path) -> bool:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0)) > 0


def _is_model(path: Path) -> bool:
    import onnx

    onnx.checker.check_model(onnx.load(path))
    return True


def _is_lines(path: Path) -> bool:
    return all(isinstance(json.loads(line), dict) for line in path.read_text("utf-8").splitlines())


_CHECKS: dict[str, Callable[[Path], bool]] = {
    ".mp4": _plays,
    ".mkv": _plays,
    ".png": lambda path: cv2.imread(str(path)) is not None,
    ".json": lambda path: json.loads(path.read_text("utf-8")) is not None,
    ".jsonl": _is_lines,
    ".onnx": _is_model,
    ".pth": zipfile.is_zipfile,
    ".ckpt": zipfile.is_zipfile,
}


def make_model(folder: Path) -> Path:
    """The folder that every run gets a copy of: a clip, pictures, a set, a network."""
    for name in ("out", "tmp", "shots", "others"):
        (folder / name).mkdir(parents=True)
    (folder / "others" / "mine.mp4").write_text("not to be touched")
    images = [np.roll(np.arange(96 * 128 * 3, dtype=np.uint8).reshape(96, 128, 3), 7 * n, 1)
              for n in range(80)]  # fmt: skip
    for suffix in (".mp4", ".mkv"):
        frames = (rendered(number, image=image) for number, image in enumerate(images))
        write(str(folder / f"clip{suffix}"), frames, info())
    for number in range(12):
        cv2.imwrite(str(folder / "shots" / f"{number}.png"), images[number])
    make_folder(folder / "set", 8)
    make_network(folder / "net.onnx")
    return folder
