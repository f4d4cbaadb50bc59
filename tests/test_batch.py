"""`rtseg batch`: what is listed, done, remembered, claimed and reported."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from unittest import mock

import av
import numpy as np
import pytest
from clips import patches, write_clip
from PIL import Image

from rtseg.batch import cluster
from rtseg.batch.clips import Clip, find_clips, target_of, with_outputs
from rtseg.batch.ledger import Ledger, new_token, open_ledger, where
from rtseg.batch.local import shares_of_cores
from rtseg.batch.options import ENGINES, BatchOptions, EngineKind
from rtseg.batch.tasks import Event, Outcome, Task
from rtseg.batch.worker import Worker
from rtseg.cli.app import main
from rtseg.cli.options import Flags
from rtseg.errors import DeviceError, SourceError, UsageError
from rtseg.files import OutputFile

STUB = ("-m", "stub", "-b", "stub", "--imgsz", "64", "-q")


class Inline:
    """A pool whose workers run in this thread; some of them die."""

    deaths: ClassVar[deque[str]] = deque()
    given: ClassVar[list[str]] = []

    def __init__(self, flags: Flags, options: BatchOptions, workers: int) -> None:
        self._events: deque[Event] = deque()
        self._flags, self._workers = flags, dict[int, Worker]()

    def give(self, worker: int, task: Task) -> None:
        Inline.given.append(task.clip.name)
        if Inline.deaths and Inline.deaths[0] == task.clip.name:
            Inline.deaths.popleft()
            self._events.append(Event(worker, "died", "killed by signal 9"))
            return

        def report(kind: str, content: Any) -> None:
            self._events.append(Event(worker, kind, content))

        if worker not in self._workers:
            self._workers[worker] = Worker(self._flags, report)
        outcome = self._workers[worker].run(task)
        self._events.append(Event(worker, "done", outcome))

    def poll(self, seconds: float) -> Iterator[Event]:
        while self._events:
            yield self._events.popleft()

    def close(self) -> None:
        self._workers.clear()


def one_worker(flags: Flags, options: BatchOptions) -> int:
    return 1


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(
        ENGINES, "local", EngineKind(f"{__name__}:Inline", f"{__name__}:one_worker")
    )
    monkeypatch.chdir(tmp_path)
    Inline.deaths, Inline.given = deque(), []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three clips and an image, one of them in a folder."""
    clips = tmp_path / "in"
    (clips / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.mp4", "b.mkv", "sub/c.mp4")):
        write_clip(clips / name, frames=3 + number)
    import cv2

    cv2.imwrite(str(clips / "d.png"), patches())
    (clips / "notes.txt").write_text("not a clip\n")
    return clips


def run(*arguments: str) -> int:
    return main(["batch", *arguments, *STUB])


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def rows(*arguments: str) -> dict[str, dict[str, Any]]:
    """The rows of a batch's report, after it has run with these arguments."""
    run(*arguments, "--report", "report.json")
    found = json.loads(Path("report.json").read_text())["clips"]
    return {row["clip"]: row for row in found}


def frames_of(path: Path) -> list[tuple[int | None, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(f.pts, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


OUTPUTS = ["a.mp4", "b.mp4", "d.png", "sub/c.mp4"]
RECORDS = [".rtseg/a.mp4.json", ".rtseg/b.mkv.json", ".rtseg/d.png.json", ".rtseg/sub/c.mp4.json"]


def test_outputs_mirror_the_folder_and_equal_those_of_run(folder: Path, tmp_path: Path) -> None:
    assert run("in", "-o", "out") == 0
    assert files(tmp_path / "out") == RECORDS + OUTPUTS
    for source, output in zip(("a.mp4", "b.mkv", "sub/c.mp4"), ("a", "b", "sub/c"), strict=True):
        assert main([f"in/{source}", "-o", "alone.mp4", "-y", *STUB]) == 0
        one, other = frames_of(tmp_path / f"out/{output}.mp4"), frames_of(tmp_path / "alone.mp4")
        assert [pts for pts, _ in one] == [pts for pts, _ in other]
        assert len(one) > 2
        assert all((a == b).all() for (_, a), (_, b) in zip(one, other, strict=True))


def test_what_is_done_is_not_done_again(folder: Path, tmp_path: Path) -> None:
    run("in", "-o", "out")
    Inline.given.clear()
    assert run("in", "-o", "out") == 0
    assert Inline.given == []
    write_clip(folder / "a.mp4", frames=9)  # changed
    (tmp_path / "out/b.mp4").unlink()  # gone
    write_clip(folder / "e.mp4")  # new
    assert run("in", "-o", "out") == 0
    assert Inline.given == ["a.mp4", "b.mkv", "e.mp4"]
    assert len(frames_of(tmp_path / "out/a.mp4")) == 9
    Inline.given.clear()
    run("in", "-o", "out", "--view", "mask")  # other flags
    assert sorted(Inline.given) == ["a.mp4", "b.mkv", "d.png", "e.mp4", "sub/c.mp4"]
    Inline.given.clear()
    run("in", "-o", "out", "--view", "mask", "--threads", "1", "-y")  # the same outputs
    assert Inline.given == []


def test_what_a_file_of_a_flag_holds_counts(folder: Path) -> None:
    for colour in range(2):
        Path("colours.txt").write_text(f"{colour} 0 0\n" * 40)
        Inline.given.clear()
        run("in", "-o", "out", "--palette", "colours.txt")
        assert sorted(Inline.given) == ["a.mp4", "b.mkv", "d.png", "sub/c.mp4"]


def test_a_moved_tree_is_still_done(folder: Path, tmp_path: Path) -> None:
    run("in", "-o", "out")
    Inline.given.clear()
    folder.rename(tmp_path / "elsewhere")
    assert run(str(tmp_path / "elsewhere"), "-o", str(tmp_path / "out")) == 0
    assert Inline.given == []


def test_a_broken_clip_costs_itself_alone(folder: Path, tmp_path: Path) -> None:
    (folder / "a.mp4").write_bytes(b"no video at all" * 100)
    assert run("in", "-o", "out") == 3
    found = rows("in", "-o", "out")
    assert [found[name]["state"] for name in sorted(found)] == ["failed", "done", "done", "done"]
    assert found["a.mp4"]["exit_code"] == 3
    assert "a.mp4" in found["a.mp4"]["error"]
    assert found["b.mkv"]["frames"] == 4
    assert Inline.given.count("a.mp4") == 1  # not again
    write_clip(folder / "a.mp4")
    assert run("in", "-o", "out") == 0  # a changed one is
    assert files(tmp_path / "out") == RECORDS + OUTPUTS


def test_what_failed_is_tried_again_where_that_is_asked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.mp4").write_bytes(b"no video at all" * 100)
    run("in", "-o", "out")
    assert "a.mp4" in capsys.readouterr().err
    Inline.given.clear()
    assert run("in", "-o", "out", "--retry-failed") == 3
    assert Inline.given == ["a.mp4"]


def test_a_clip_with_which_a_worker_dies_is_done_once_more(folder: Path) -> None:
    Inline.deaths = deque(["b.mkv"])
    found = rows("in", "-o", "out")
    assert found["b.mkv"]["state"] == "done"
    assert found["b.mkv"]["attempts"] == 2


def test_a_clip_with_which_two_workers_die_has_failed(folder: Path, tmp_path: Path) -> None:
    Inline.deaths = deque(["b.mkv", "b.mkv"])
    assert run("in", "-o", "out") == 1
    found = rows("in", "-o", "out")
    assert (found["b.mkv"]["state"], found["b.mkv"]["attempts"]) == ("failed", 2)
    assert "signal 9" in found["b.mkv"]["error"]
    assert [found[name]["state"] for name in ("a.mp4", "d.png", "sub/c.mp4")] == ["done"] * 3
    assert not list((tmp_path / "out/.rtseg").glob("*.claim*"))


def test_workers_that_die_before_anything_is_loaded_end_the_batch(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Inline.deaths = deque(["a.mp4"] * 3)
    assert run("in", "-o", "out") == 1
    assert "signal 9" in capsys.readouterr().err
    assert files(tmp_path / "out") == []
    assert run("in", "-o", "out") == 0


def test_a_network_that_cannot_be_loaded_ends_the_batch(folder: Path, tmp_path: Path) -> None:
    assert main(["batch", "in", "-o", "out", "-m", "stub", "--classes", "unicorn", "-q"]) == 2
    assert Inline.given == ["a.mp4"]
    assert files(tmp_path / "out") == []
    assert main(["batch", "in", "-o", "out", "-m", "nonsense", "-q"]) == 2
    assert run("in", "-o", "out") == 0


def test_a_file_that_no_batch_wrote_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.mp4").write_text("mine")
    assert run("in", "-o", "out") == 2
    assert (tmp_path / "out/a.mp4").read_text() == "mine"
    assert Inline.given == []
    assert run("in", "-o", "out", "-y") == 0
    assert len(frames_of(tmp_path / "out/a.mp4")) == 3


def test_outputs_of_another_tree_are_not_replaced(folder: Path, tmp_path: Path) -> None:
    run("in", "-o", "out")
    before = (tmp_path / "out/a.mp4").read_bytes()
    (tmp_path / "other").mkdir()
    write_clip(tmp_path / "other/a.mp4", frames=7)
    assert run("other", "-o", "out") == 2
    assert (tmp_path / "out/a.mp4").read_bytes() == before


def test_several_outputs_each_in_its_place(folder: Path, tmp_path: Path) -> None:
    arguments = ("in/sub", "-o", "out/{name}.mkv", "--mask-output", "masks/", "--json")
    assert run(*arguments, "json/{name}.jsonl") == 0
    assert files(tmp_path / "out") == [".rtseg/c.mp4.json", "c.mkv"]
    assert files(tmp_path / "masks") == ["c.mkv"]
    assert len((tmp_path / "json/c.jsonl").read_text().splitlines()) >= 5
    (tmp_path / "masks/c.mkv").unlink()
    Inline.given.clear()
    run(*arguments, "json/{name}.jsonl")
    assert Inline.given == ["c.mp4"]


def test_a_file_of_the_same_name_elsewhere_is_not_an_output(folder: Path, tmp_path: Path) -> None:
    arguments = ("in/sub", "-o", "out/", "--mask-output")
    assert run(*arguments, "masks/") == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/c.mkv").write_text("mine")
    assert run(*arguments, "mine/") == 2
    assert run(*arguments, "mine/", "--view", "mask") == 2
    assert (tmp_path / "mine/c.mkv").read_text() == "mine"
    # what an earlier version wrote is known by its name
    record = json.loads((tmp_path / "out/.rtseg/c.mp4.json").read_text())
    assert record.pop("places") == ["c.mp4", "../masks/c.mkv"]
    (tmp_path / "out/.rtseg/c.mp4.json").write_text(json.dumps(record))
    Inline.given.clear()
    assert run(*arguments, "masks/") == 0
    assert Inline.given == []
    (tmp_path / "mine/c.mkv").unlink()
    assert run(*arguments, "mine/") == 0
    assert Inline.given == ["c.mp4"]
    (tmp_path / "all").mkdir()
    for name in ("out", "mine"):
        (tmp_path / name).rename(tmp_path / "all" / name)
    (tmp_path / "link").symlink_to("all/out")
    Inline.given.clear()
    assert run("in/sub", "-o", "link/", "--mask-output", "all/mine/") == 0
    assert run("in/sub", "-o", "all/out/", "--mask-output", f"{tmp_path}/all/mine") == 0
    assert Inline.given == []
    assert run("in/sub", "-o", "link/", "--mask-output", "all/mine/", "--view", "mask") == 0
    assert Inline.given == ["c.mp4"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["in"], 2),
        (["-o", "out"], 2),
        (["nowhere", "-o", "out"], 3),
        (["in", "-o", "out.mp4"], 2),
        (["in", "-o", "-"], 2),
        (["in", "-o", "out/%06d.png"], 2),
        (["in", "-o", "out/{n}.mp4"], 2),
        (["in", "-o", "out/{name}/"], 2),
        (["in", "-o", "out", "--mask-output", "masks/{name}"], 2),
        (["in", "-o", "out", "--json", "all.jsonl"], 2),
        (["in", "-o", "in"], 2),
        (["in/a.mp4", "-o", "in"], 2),
        (["in", "-o", "out", "--report", "rows.txt"], 2),
        (["in", "-o", "out", "--workers", "0"], 2),
        (["in", "-o", "out", "--smooth", "0.5", "--no-smooth"], 2),
        (["in", "-o", "out", "--codec", "nonsense"], 2),
        (["in", "-o", "out", "-o", "out"], 2),
        (["in", "-o", "https://127.0.0.1/out/"], 2),
        (["in", "-o", "rtsp://127.0.0.1/{name}.mp4"], 2),
        (["in", "-o", "out", "--json", "https://127.0.0.1/{name}.jsonl"], 2),
        (["in", "-o", "out", "--report", "s3://bucket/rows.json"], 2),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, arguments: list[str], code: int
) -> None:
    before = files(tmp_path)
    assert run(*arguments) == code
    assert files(tmp_path) == before
    assert Inline.given == []


def test_dry_run_lists_and_writes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("in", "-o", "out", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("out/a.mp4", "out/b.mp4", "out/sub/c.mp4", "out/d.png"))
    assert not (tmp_path / "out").exists()
    run("in/a.mp4", "-o", "out")
    run("in", "-o", "out", "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["done", "to", "to", "to"]


def test_reports_are_json_and_csv(folder: Path) -> None:
    run("in", "-o", "out", "--report", "rows.csv")
    with Path("rows.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["clip"] for row in table] == ["a.mp4", "b.mkv", "d.png", "sub/c.mp4"]
    assert [row["frames"] for row in table] == ["3", "4", "1", "5"]
    assert {row["state"] for row in table} == {"done"}
    assert {row["backend"] for row in table} == {"stub"}


def test_lists_globs_and_files(folder: Path, tmp_path: Path) -> None:
    def names(*inputs: str) -> list[str]:
        return [clip.name for clip in find_clips(inputs).clips]

    Path("list.txt").write_text("# clips\nin/a.mp4\n\nin/sub/c.mp4\nin/gone.mp4\n")
    assert names("list.txt") == ["in/a.mp4", "in/gone.mp4", "in/sub/c.mp4"]
    assert names("in/*.m*") == ["a.mp4", "b.mkv"]
    assert names("in/**/*.mp4") == ["a.mp4", "sub/c.mp4"]
    assert names("in/sub/c.mp4", "in/a.mp4") == ["a.mp4", "c.mp4"]
    assert names("in") == ["a.mp4", "b.mkv", "d.png", "sub/c.mp4"]
    assert names("in", "in/a.mp4", "in/*.mp4") == names("in")  # named twice, and one
    assert names("in", str(Path("in").absolute()), "in/../in") == names("in")
    Path("far.txt").write_text(f"{Path('in/a.mp4').absolute()}\nin/sub/c.mp4\nin/a.mp4")
    assert (
        names("far.txt") == names(str(Path("far.txt").absolute())) == ["in/a.mp4", "in/sub/c.mp4"]
    )
    Path("other").mkdir()
    Path("other/a.mp4").touch()
    with pytest.raises(UsageError):
        names("in", "other/a.mp4")
    Path("take [1]").mkdir()
    Path("take [1]/t.mp4").touch()
    assert names("take [1]/*.mp4") == names("take [1]/**/*.mp4") == ["t.mp4"]
    with pytest.raises(SourceError):
        names("in/*.webm")
    found = rows("list.txt", "-o", "out")
    assert [row["state"] for row in found.values()] == ["done", "failed", "done"]
    assert found["in/gone.mp4"]["exit_code"] == 3


@pytest.mark.parametrize(
    ("flag", "text", "advice"),
    [("-o", "out.mp4", "Name a folder/, or put {name} in the path, as FOLDER/{name}.mp4"),
     ("--mask-output", "mask:m.mkv", "Name a folder/, or put {name} in"),
     ("--json", "json:js/", "Put {name} in the path, as FOLDER/{name}.jsonl"),
     ("--figure", "figure:f/", "Put {name} in the path, as FOLDER/{name}.png")],
)  # fmt: skip
def test_one_output_for_all_clips_is_refused_with_what_would_do(
    flag: str, text: str, advice: str
) -> None:
    with pytest.raises(UsageError) as refused:
        target_of(flag, text)
    assert refused.value.do.startswith(advice)


def test_outputs_inside_the_folder_are_not_clips(folder: Path) -> None:
    run("in", "-o", "in/out")
    Inline.given.clear()
    write_clip(folder / "e.mp4")
    assert run("in", "-o", "in/out") == 0
    assert Inline.given == ["e.mp4"]
    assert run("in/**/*.mp4", "-o", "in/out") == 0
    assert Inline.given == ["e.mp4"]


def test_clips_of_one_name_keep_their_suffixes(tmp_path: Path) -> None:
    clips = [Clip(name, f"in/{name}", "") for name in ("a.mov", "a.mp4", "b.mov", "B.avi", "c.mp4")]
    listing = find_clips(())
    listing.clips = clips
    with_outputs(listing, [target_of("-o", "out/")])
    found = [clip.outputs[0] for clip in listing.clips]
    assert found == [f"out/{n}.mp4" for n in ("a.mov", "a.mp4", "b.mov", "B.avi", "c")]


def test_an_animation_becomes_a_video_and_an_image_stays_one(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (8, 6), colour) for colour in ("red", "blue"))
    for suffix in ("webp", "png", "avif"):
        first.save(tmp_path / f"still_{suffix}.{suffix}")
        first.save(tmp_path / f"moves_{suffix}.{suffix}", save_all=True, append_images=[second])
    listing = find_clips([str(tmp_path)])
    with_outputs(listing, [target_of("-o", "out/")])
    assert {clip.outputs[0] for clip in listing.clips} == {
        f"out/{name}"
        for suffix in ("webp", "png", "avif")
        for name in (f"still_{suffix}.png", f"moves_{suffix}.mp4")
    }


# --- claims


def ledger_in(folder: Path, lease: float = 60.0, token: str = "") -> Ledger:
    return open_ledger(str(folder), {}, lease, token)


ELSEWHERE = "0123456789ab-999999999-0"
"""A process of another machine."""

CLIP = Clip("sub/clip.mp4", "in/sub/clip.mp4", "3 bytes")


def aged(folder: Path, claim: str, seconds: float) -> None:
    path = folder / ".rtseg" / claim
    past = time.time() - seconds
    os.utime(path, (past, past))


def test_a_clip_is_claimed_once(tmp_path: Path) -> None:
    one, other = ledger_in(tmp_path, token=ELSEWHERE), ledger_in(tmp_path)
    claim = one.claim(CLIP)
    assert claim is not None
    assert one.holds(claim)
    assert other.claim(CLIP) is None
    one.release(claim)
    assert not one.holds(claim)
    assert other.claim(CLIP) is not None


def test_claims_are_listed_while_another_process_removes_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(str(tmp_path), {}, 60)
    assert ledger.claim(Clip("sub/a.mp4", "a.mp4", "1"))
    work = tmp_path / ".rtseg" / "unfinished" / "1"
    work.mkdir(parents=True)
    scandir = os.scandir

    def vanishing(path: Any) -> Any:
        if Path(path) == work:
            work.rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert ledger.store.names(".claim-") == ["sub/a.mp4.claim-0"]
    assert not work.exists()


def test_a_claim_is_taken_over_when_its_lease_has_ended(tmp_path: Path) -> None:
    one = ledger_in(tmp_path, token=ELSEWHERE)
    others = [ledger_in(tmp_path, token=f"{n}23456789abc-1-0") for n in range(2)]
    first = one.claim(CLIP)
    assert first is not None
    aged(tmp_path, first, 59)
    assert others[0].claim(CLIP) is None
    aged(tmp_path, first, 61)
    one.beat([first])
    assert others[0].claim(CLIP) is None
    aged(tmp_path, first, 61)
    taken = [other.claim(CLIP) for other in others]
    assert taken[0] is not None
    assert taken[1] is None  # the new one is fresh
    assert not one.holds(first)
    assert others[0].holds(taken[0])
    aged(tmp_path, taken[0], 61)
    assert others[1].claim(CLIP) is not None
    assert not others[0].holds(taken[0])


def test_a_claim_of_a_process_that_is_gone_from_here_needs_no_lease(tmp_path: Path) -> None:
    gone = ledger_in(tmp_path, token=f"{where()}-999999999-0")
    assert gone.claim(CLIP) is not None
    assert ledger_in(tmp_path).claim(CLIP) is not None
    alive = Clip("other.mp4", "other.mp4", "")
    assert ledger_in(tmp_path, token=new_token()).claim(alive) is not None
    assert ledger_in(tmp_path).claim(alive) is None


def test_a_worker_that_was_taken_over_names_nothing(folder: Path, tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path / "out", token=ELSEWHERE)
    clip = Clip("a.mp4", "in/a.mp4", "", ("out/a.mp4",))
    claim = ledger.claim(clip)
    assert claim is not None
    aged(tmp_path / "out", claim, 99)
    other = ledger_in(tmp_path / "out")
    assert other.claim(clip) is not None
    worker = Worker(Flags.of(model="stub", backend="stub", imgsz=(64, 64)), lambda *_: None)
    work = str(tmp_path / "out/.rtseg/unfinished/1")
    assert worker.run(Task(clip, claim, work, ("",), ledger)) == Outcome(None)
    assert not (tmp_path / "out/a.mp4").exists()
    assert not Path(work).exists()


def test_a_worker_whose_batch_was_taken_for_dead_records_nothing(
    folder: Path, tmp_path: Path
) -> None:
    """As an actor that outlives its batch: the next one removes what is not finished first."""
    ledger = ledger_in(tmp_path / "out")
    clip = Clip("a.mp4", "in/a.mp4", "", ("out/a.mp4",))
    claim = ledger.claim(clip)
    assert claim is not None
    work = tmp_path / "out/.rtseg/unfinished/1"
    flags = Flags.of(model="stub", backend="stub", imgsz=(64, 64))
    worker = Worker(flags, lambda *_: shutil.rmtree(work, ignore_errors=True))
    assert worker.run(Task(clip, claim, str(work), ("",), ledger)) == Outcome(None)
    assert files(tmp_path / "out") == [f".rtseg/{claim}"]


def test_clips_of_another_machine_are_waited_for(folder: Path, tmp_path: Path) -> None:
    """One clip is held by a machine that dies; its lease ends while this batch waits."""
    ledger = ledger_in(tmp_path / "out", token=ELSEWHERE)
    claim = ledger.claim(Clip("a.mp4", "in/a.mp4", ""))
    assert claim is not None
    (tmp_path / "out/.rtseg" / claim).write_text(ELSEWHERE)  # whatever its flags are
    assert run("in", "-o", "out", "--lease", "1") == 0
    assert Inline.given.count("a.mp4") == 1
    assert files(tmp_path / "out") == RECORDS + OUTPUTS


def test_outputs_between_name_and_record_are_the_batchs_own(folder: Path, tmp_path: Path) -> None:
    """Killed after an output got its name and before its record was written."""
    run("in", "-o", "out")
    record = tmp_path / "out/.rtseg/a.mp4.json"
    values = json.loads(record.read_text())
    record.write_text(json.dumps({**values, "state": "started"}))
    Inline.given.clear()
    assert run("in", "-o", "out") == 0
    assert Inline.given == ["a.mp4"]
    assert json.loads(record.read_text())["state"] == "done"


def test_what_killed_processes_left_is_removed(folder: Path, tmp_path: Path) -> None:
    left = tmp_path / f"out/.rtseg/unfinished/{where()}-999999999-0/1/0"
    left.mkdir(parents=True)
    (left / "a.mp4").write_text("half")
    assert run("in", "-o", "out") == 0
    assert files(tmp_path / "out") == RECORDS + OUTPUTS
    assert not (tmp_path / "out/.rtseg/unfinished").exists()


def test_claims_that_killed_processes_left_are_removed(folder: Path, tmp_path: Path) -> None:
    """Killed after the record was written and before its claim was given up."""
    run("in", "-o", "out")
    gone = ledger_in(tmp_path / "out", token=f"{where()}-999999999-0")
    assert gone.claim(Clip("sub/c.mp4", "in/sub/c.mp4", "")) is not None
    other = ledger_in(tmp_path / "out", token=ELSEWHERE)
    assert other.claim(Clip("a.mp4", "in/a.mp4", "")) is not None
    assert run("in", "-o", "out") == 0
    assert files(tmp_path / "out") == [".rtseg/a.mp4.claim-0", *RECORDS, *OUTPUTS]  # it may live


def test_a_part_of_each_clip(folder: Path, tmp_path: Path) -> None:
    assert run("in", "-o", "out", "--end", "0.12") == 0
    counts = [len(frames_of(tmp_path / f"out/{name}.mp4")) for name in ("a", "b", "sub/c")]
    assert counts == [3, 3, 3]
    assert (tmp_path / "out/d.png").is_file()


def test_a_record_that_cannot_be_read_is_none(folder: Path, tmp_path: Path) -> None:
    run("in", "-o", "out")
    for name, text in (("a.mp4", "{"), ("b.mkv", '{"rtseg_batch": 1, "x": 2}'), ("d.png", "[]")):
        (tmp_path / f"out/.rtseg/{name}.json").write_text(text)
    Inline.given.clear()
    assert run("in", "-o", "out") == 2  # outputs of which nothing is known
    assert run("in", "-o", "out", "-y") == 0
    assert Inline.given == ["a.mp4", "b.mkv", "d.png"]


def test_a_disk_that_refuses_records_ends_the_batch(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.rtseg").write_text("a file")
    assert run("in", "-o", "out") == 1
    assert "out" in capsys.readouterr().err


def test_a_claim_that_a_full_disk_cuts_short_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    ledger = ledger_in(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda path, mode: Full(path, mode))
        with pytest.raises(OSError, match="space"):
            ledger.claim(CLIP)
    assert files(tmp_path) == []
    assert ledger.claim(CLIP) is not None


def test_a_full_disk_ends_the_batch_and_the_next_one_goes_on(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It costs no other clip."""
    check = OutputFile.check_space

    def full(target: OutputFile, needed: int = 0) -> None:
        if Inline.given[-1] == "b.mkv":
            raise OSError(errno.ENOSPC, "No space left on device")
        check(target, needed)

    with monkeypatch.context() as patched:
        patched.setattr(OutputFile, "check_space", full)
        assert run("in", "-o", "out") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert Inline.given == ["a.mp4", "b.mkv"]
    assert files(tmp_path / "out") == [".rtseg/a.mp4.json", "a.mp4"]
    Inline.given.clear()
    assert run("in", "-o", "out") == 0
    assert Inline.given == ["b.mkv", "d.png", "sub/c.mp4"]
    assert files(tmp_path / "out") == [*RECORDS, *OUTPUTS]


def test_networks_stay_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rtseg.batch.worker as worker

    loaded = []
    load = worker.load_segmenter
    monkeypatch.setattr(
        worker, "load_segmenter", lambda *a, **k: loaded.append(a[2].name) or load(*a, **k)
    )
    write_clip(folder / "e.mp4", images=[patches(200, 100)] * 3)
    assert main(["batch", "in", "-o", "out", "-m", "stub", "-q"]) == 0
    assert loaded == ["a.mp4", "d.png", "e.mp4"]  # another shape, and one image at a time


def test_a_network_that_failed_is_loaded_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rtseg.backends.stub import StubBackend
    from rtseg.errors import BackendError

    call, calls = StubBackend.__call__, []

    def failing(self: StubBackend, batch: Any) -> Any:
        calls.append(id(self))
        if len(calls) == 1:
            raise BackendError("out of memory")
        return call(self, batch)

    monkeypatch.setattr(StubBackend, "__call__", failing)
    found = rows("in", "-o", "out")
    assert [found[n]["state"] for n in ("a.mp4", "b.mkv", "sub/c.mp4")] == [
        "failed",
        "done",
        "done",
    ]
    assert found["a.mp4"]["exit_code"] == 1
    assert "out of memory" in found["a.mp4"]["error"]
    assert len(set(calls)) > 1


def test_cores_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "sched_getaffinity"):
        assert shares_of_cores(2) == [[], []]
        return
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 5, 6, 7, 8})
    monkeypatch.setattr("rtseg.batch.local.usable_cores", lambda: 5)
    assert shares_of_cores(1) == [[]]
    assert shares_of_cores(2) == [[4, 5], [6, 7, 8]]
    assert shares_of_cores(3) == [[4], [5, 6], [7, 8]]
    assert shares_of_cores(6) == [[4], [5], [6], [7], [8], [4]]


class FakeRay:
    """Stands for the module ray: machines with CPUs and GPUs, and what was asked of them."""

    def __init__(self, *machines: tuple[int, int]) -> None:
        self.machines = [dict(zip(("CPU", "GPU"), each, strict=True)) for each in machines]
        self.asked: list[dict[str, Any]] = []
        self.exceptions = ModuleType("ray.exceptions")

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        gone = {"Alive": False, "Resources": {}}
        return [gone, *({"Alive": True, "Resources": each} for each in self.machines)]

    def cluster_resources(self) -> dict[str, int]:
        return {what: sum(each[what] for each in self.machines) for what in ("CPU", "GPU")}

    def remote(self, actor: Any) -> FakeRay:
        return self

    def options(self, **options: Any) -> Any:
        self.asked.append(options)
        return mock.MagicMock()


@pytest.mark.parametrize(
    ("machines", "gpus", "threads", "workers", "cores"),
    [
        ([(8, 0)], None, None, 4, 2),
        ([(8, 0)], None, 4, 2, 4),
        ([(8, 1)], 0.5, None, 2, 4),
        ([(8, 1)], 0.3, None, 3, 2),
        ([(8, 2), (8, 1)], 0.4, None, 6, 2),
        ([(8, 4), (2, 4)], 1, None, 6, 1),
        ([(8, 5)], 2, 4, 2, 4),
        ([(1, 0), (5, 0)], None, None, 2, 2),
    ],
)
def test_ray_is_asked_for_a_share_of_cores_and_gpus(
    monkeypatch: pytest.MonkeyPatch,
    machines: list[tuple[int, int]],
    gpus: float | None,
    threads: int | None,
    workers: int,
    cores: int,
) -> None:
    """As many workers as fit by default; each asks for its share, and gets threads of it."""
    ray = FakeRay(*machines)
    monkeypatch.setitem(sys.modules, "ray", ray)
    flags = Flags.of(model="stub", threads=threads)
    options = BatchOptions(engine="ray", gpus_per_worker=gpus)
    assert cluster.usual_workers(flags, options) == workers
    pool = cluster.Actors(flags, options, workers)
    pool.give(0, Task(Clip("a.mp4", "a.mp4", ""), "", "", (), ledger_in(Path())))
    assert ray.asked[0]["num_gpus"] == (gpus or 0)
    assert ray.asked[0]["num_cpus"] == cores
    with pytest.raises(UsageError):  # Ray would wait for ever
        cluster.Actors(flags, options, sum(c for c, _ in machines) + 1)


def test_gpus_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", FakeRay((8, 0)))
    options = BatchOptions(engine="ray", gpus_per_worker=0.5)
    with pytest.raises(DeviceError):
        cluster.Actors(Flags.of(model="stub"), options, 1)
    for engine, gpus in (("local", 0.5), ("ray", 1.5)):
        with pytest.raises(UsageError):
            BatchOptions(engine=engine, gpus_per_worker=gpus)


NAMES = [
    "a\nb.mp4",
    "c%03d.mp4",
    "d{n}.mp4",
    "e?f=1#.mp4",
    "test:g.mp4",
    "h%05d.png",
    "unfinished/i.mp4",
]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_names_that_look_like_something_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the current folder "test:g.mp4" and "0" would be an address and a camera, "h%05d.png" many
    images; a folder may be called as that of unfinished outputs, which is swept."""
    (folder / "unfinished").mkdir()
    for name in NAMES:
        (folder / name).write_bytes((folder / ("d.png" if "png" in name else "a.mp4")).read_bytes())
    for name in ("0", "-"):
        (folder / name).write_bytes((folder / "a.mp4").read_bytes())
    odd = os.fsdecode(b"\xff.mp4")
    (folder / "a.mp4").rename(folder / odd)
    monkeypatch.chdir(folder)
    names = [name for name in NAMES if "\n" not in name] + ["0", "-"]
    Path("list.txt").write_text("\n".join(names))
    made = [name if Path(name).suffix else f"{name}.mp4" for name in names]
    assert run("list.txt", "-o", "../listed") == 0
    assert [n for n in files(tmp_path / "listed") if n[:7] != ".rtseg/"] == sorted(made)
    Path("0").unlink()
    Path("-").unlink()
    report = ("--report", "../report.csv")
    assert run("../in", "-o", "../out", *report) == 0
    there = set(files(tmp_path / "out"))
    assert there > {*NAMES, odd, ".rtseg/unfinished/i.mp4.json"}
    assert "\\udcff.mp4" in Path("../report.csv").read_text("utf-8")
    old = tmp_path / "out/.rtseg/unfinished/"
    os.utime(old / "i.mp4.json", (1, 1))
    Inline.given.clear()
    Path("d.png").touch()
    assert run("../in", "-o", "../out") == 0
    assert Inline.given == ["d.png"]
    assert set(files(tmp_path / "out")) == there


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_linked_folders_are_entered_but_not_again(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (folder / "sub/c.mp4").rename(tmp_path / "real/c.mp4")
    (folder / "sub/linked").symlink_to(tmp_path / "real")
    (folder / "sub/up").symlink_to("..")
    (tmp_path / "real/back").symlink_to(folder / "sub")
    (tmp_path / "out").mkdir()
    (folder / "results").symlink_to(tmp_path / "out")
    found = [clip.name for clip in find_clips(["in"], ["out"]).clips]
    assert found == ["a.mp4", "b.mkv", "d.png", "sub/linked/c.mp4"]


def test_batches_with_other_flags_do_not_mix(folder: Path, tmp_path: Path) -> None:
    """One that begins while another is at work is refused; of two that began together one ends."""
    other = open_ledger("out/", {"other": "flags"}, 60.0, ELSEWHERE)
    clip = Clip("b.mkv", "in/b.mkv", "")
    claim = other.claim(clip)
    assert claim is not None
    assert run("in", "-o", "out") == 2
    assert Inline.given == []
    other.release(claim)
    give = Inline.give

    def meanwhile(self: Inline, worker: int, task: Task) -> None:
        other.write(clip, other.new(clip, "done"))
        give(self, worker, task)

    with mock.patch.object(Inline, "give", meanwhile):
        assert run("in", "-o", "out") == 2
    assert Inline.given == ["a.mp4"]
    assert not list((tmp_path / "out").rglob("*.claim-*"))
    assert run("in", "-o", "out") == 0  # later: what the other did is done again


def test_a_clock_that_is_wrong_costs_others_nothing(folder: Path, tmp_path: Path) -> None:
    """What another machine has not finished is aged by the clock of the file server."""
    work = tmp_path / "out/.rtseg/unfinished" / ELSEWHERE
    work.mkdir(parents=True)
    with mock.patch("time.time", return_value=time.time() + 1e6):
        assert run("in", "-o", "out") == 0
    assert work.is_dir()


def test_patterns_do_not_follow_links_round_in_circles(folder: Path, tmp_path: Path) -> None:
    (folder / "sub/up").symlink_to("../..")
    (folder / "self").symlink_to(".")
    (tmp_path / "elsewhere").mkdir()
    write_clip(tmp_path / "elsewhere/e.mp4", frames=2)
    (folder / "link").symlink_to("../elsewhere")
    (folder / ".hidden").mkdir()
    write_clip(folder / ".hidden/h.mp4", frames=2)
    for pattern in ("in/**/*.mp4", "in/**/**/*.mp4", "in/**"):
        found = [clip.name for clip in find_clips([pattern]).clips]
        assert [name for name in found if name.endswith(".mp4")] == [
            "a.mp4",
            "link/e.mp4",
            "sub/c.mp4",
        ]
    assert [clip.name for clip in find_clips(["**/c.*"]).clips] == ["in/sub/c.mp4"]
    assert len(find_clips(["in"]).clips) == 5
