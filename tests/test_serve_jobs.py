"""Videos over HTTP: uploads that go on, what is refused, and files that are the command line's."""

from __future__ import annotations

import errno
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
import requests
from clips import write_clip
from servers import Served, served

from rtseg.errors import RtsegError
from rtseg.media import open_media
from rtseg.serve.jobs import FORMATS, PRODUCTS, Job, Jobs, open_place
from rtseg.serve.options import ServeOptions

MISSING = "0" * 32
NO_JOB = "there is no such job: it may have been removed"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """It starts no process: a video stays queued."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rtseg.serve.jobs.Jobs._run", _never)
        folder = str(tmp_path / "jobs")
        limits = {"max_jobs": 4, "max_video_megabytes": 2, "job_gigabytes": 0.005}
        with served("stub", job_dir=folder, token="none", **limits) as one:
            yield one


async def _never(jobs: Any, job: Any) -> None:
    import asyncio

    await asyncio.sleep(3600)


def create(url: str, **query: str) -> str:
    answer = requests.post(f"{url}/v1/jobs", params=query, timeout=60)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    return str(answer.json()["id"])


def put(url: str, job: str, body: Any, **headers: str) -> requests.Response:
    return requests.put(f"{url}/v1/jobs/{job}/input", data=body, headers=headers, timeout=60)


def look(url: str, job: str) -> dict[str, Any]:
    return requests.get(f"{url}/v1/jobs/{job}", timeout=60).json()  # type: ignore[no-any-return]


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(path)
    return path


def broken_put(port: int, job: str, content: bytes, first: int, sent: int) -> None:
    """Begin to send all that is left of a video, and break off."""
    head = (
        f"PUT /v1/jobs/{job}/input HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Length: {len(content) - first}\r\n"
        f"Content-Range: bytes {first}-{len(content) - 1}/{len(content)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(head.encode() + content[first : first + sent])
        time.sleep(0.1)


def test_an_upload_goes_on_where_it_stopped(server: Served, clip: Path, tmp_path: Path) -> None:
    content = clip.read_bytes()
    job = create(server.url, name="my clip.mp4")
    broken_put(server.port, job, content, 0, 700)
    wait_for(lambda: look(server.url, job)["received"] == 700)
    broken_put(server.port, job, content, 700, 300)
    wait_for(lambda: look(server.url, job)["received"] == 1000)
    wrong = put(
        server.url, job, content[900:], **{"Content-Range": f"bytes 900-{len(content) - 1}/*"}
    )
    assert wrong.status_code == 409
    rest = {"Content-Range": f"bytes 1000-{len(content) - 1}/{len(content)}"}
    answer = put(server.url, job, content[1000:], **rest)
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] in ("queued", "running")
    assert (tmp_path / "jobs" / job / "video.mp4").read_bytes() == content
    assert put(server.url, job, content).status_code == 409


def test_a_later_upload_takes_over(server: Served, clip: Path, tmp_path: Path) -> None:
    """A connection that died may look alive for a while."""
    content = clip.read_bytes()
    job = create(server.url)
    head = f"PUT /v1/jobs/{job}/input HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as first:
        first.sendall(head.encode() + content[:50])
        time.sleep(0.1)
        second = subprocess.Popen(
            ["curl", "-s", "-T", str(clip), f"{server.url}/v1/jobs/{job}/input"],
            stdout=subprocess.PIPE,
        )
        with suppress(ConnectionError):
            while second.poll() is None:
                first.sendall(content[50:60])
                time.sleep(0.05)
        assert second.stdout is not None
        assert json.loads(second.stdout.read())["state"] != "uploading"
        second.wait()
        second.stdout.close()
    assert (tmp_path / "jobs" / job / "video.mp4").read_bytes() == content


def test_jobs_are_kept_by_the_next_server(clip: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rtseg.serve.jobs.Jobs._run", _never)
        with served("stub", job_dir=str(tmp_path)) as one:
            half, whole = create(one.url, name="half"), create(one.url, view="mask", alpha="0.5")
            broken_put(one.port, half, clip.read_bytes(), 0, 500)
            put(one.url, whole, clip.read_bytes())
            wait_for(lambda: look(one.url, half)["received"] == 500)
            with pytest.raises(RtsegError, match="another server uses it"):
                open_place(ServeOptions(job_dir=str(tmp_path)))
        with served("stub", job_dir=str(tmp_path)) as one:
            listed = requests.get(f"{one.url}/v1/jobs", timeout=60).json()["jobs"]
            assert [job["id"] for job in listed] == [whole, half]
            assert [job["state"] for job in listed] == ["queued", "uploading"]
            assert listed[1]["received"] == 500
            assert requests.delete(f"{one.url}/v1/jobs/{whole}", timeout=60).status_code == 204
            assert not (tmp_path / whole).exists()


def test_a_job_with_which_servers_end_is_given_up(clip: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rtseg.serve.jobs.Jobs._run", _never)
        with served("stub", job_dir=str(tmp_path)) as one:
            job = create(one.url)
            put(one.url, job, clip.read_bytes())
    path = tmp_path / job / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "running", "tries": 3}))
    with served("stub", job_dir=str(tmp_path)) as one:
        found = wait_for(lambda: (now := look(one.url, job))["error"] and now)
        assert found["state"] == "failed"
        assert "the server ended 3 times" in found["error"]


def test_a_disk_that_is_full_ends_one_job_and_not_the_others(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    async def full(jobs: Jobs, job: Job) -> None:
        ran.append(job.id)
        raise OSError(28, "No space left on device", str(jobs.folder / job.id / "job.json"))

    monkeypatch.setattr("rtseg.serve.jobs.Jobs._run", full)
    with served("stub", job_dir=str(tmp_path)) as one:
        made = [create(one.url) for _ in range(2)]
        for job in made:
            put(one.url, job, clip.read_bytes())
        wait_for(lambda: ran == made)
        assert look(one.url, made[0])["error"] == "No space left on device"


def test_a_folder_that_vanishes_while_the_disk_is_looked_at_fails_no_job(
    server: Served, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, scan = create(server.url), os.scandir
    job = create(server.url)

    def late(path: Any) -> Any:
        if gone in str(path):
            shutil.rmtree(path, ignore_errors=True)
        return scan(path)

    monkeypatch.setattr("os.scandir", late)
    assert put(server.url, job, clip.read_bytes()).status_code == 200
    assert not (tmp_path / "jobs" / gone).exists()


@pytest.mark.parametrize("after", ["pass", "import time; time.sleep(100)"], ids=["ended", "quiet"])
def test_files_that_are_too_large_are_noticed_without_a_line_of_the_process(
    after: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import sys; from pathlib import Path; files = map(Path, sys.argv)\n"
        "for file in files: file.parent.name == 'out' and file.write_bytes(bytes(10**6))\n"
    )
    command = [sys.executable, "-c", script + after]
    monkeypatch.setattr("rtseg.serve.jobs.python_command", lambda _: command)
    with served("stub", job_dir=str(tmp_path), job_gigabytes=0.001) as one:
        job = create(one.url)
        put(one.url, job, clip.read_bytes())
        found = until(one.url, job, "failed", 20)
        assert found["error"] == "the disk has no room for its files"
        assert not (tmp_path / job / "out").exists()


REFUSED = {
    "playlist": b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n" + b"\n" * 600,
    "list": b"ffconcat version 1.0\nfile /etc/passwd\n" + b"\n" * 600,
    "manifest": b"<?xml version='1.0'?><MPD></MPD>" + b" " * 600,
    "archive": b"PK\x03\x04" + bytes(600),
    "text": b"hello",
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_what_is_not_a_video_is_refused(server: Served, content: bytes) -> None:
    job = create(server.url, name="video.mp4")
    answer = put(server.url, job, content)
    assert answer.status_code == 415
    assert look(server.url, job)["received"] == 0
    assert look(server.url, job)["state"] == "uploading"


def test_a_list_that_is_called_a_video_reads_no_other_file(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the process of a job is told, should FFmpeg find more in a file than its first bytes."""
    shutil.copy(clip, tmp_path / "clip.mp4")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile clip.mp4\n")
    with open_media(str(tmp_path / "list.mp4")) as container:
        assert container.format.name == "concat"
    monkeypatch.setenv("RTSEG_FORMATS", FORMATS)
    with pytest.raises(av.FFmpegError):
        open_media(str(tmp_path / "list.mp4"))
    with open_media(str(clip)) as container:
        assert "mp4" in container.format.name
        count = container.streams.video[0].frames
    (tmp_path / "joined.mp4").write_bytes(2 * clip.read_bytes())
    with open_media(str(tmp_path / "joined.mp4")) as container:
        packets = container.demux(*container.streams.video)
        assert sum(1 for packet in packets if packet.size) == 2 * count


def test_an_upload_that_trickles_is_ended_and_kept(
    server: Served, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtseg.serve.segment.BODY_SECONDS", 0.3)
    job = create(server.url)

    def trickle() -> Iterator[bytes]:
        yield clip.read_bytes()[:100]
        time.sleep(1)
        yield b"late"

    assert put(server.url, job, trickle()).status_code == 408
    assert look(server.url, job)["received"] == 100


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ({"as": "report"}, "as"),
        ({"as": "video,exe"}, "exe"),
        ({"view": "x"}, "view"),
        ({"alpha": "2"}, "alpha"),
        ({"smooth": "nan"}, "smooth"),
        ({"background": "/etc/passwd"}, "background"),
        ({"background": "blur:99"}, "blur"),
        ({"classes": "unicorn"}, "unicorn"),
        ({"output": "/tmp/x.mp4"}, "output"),
        ({"refine": "perhaps"}, "refine"),
    ],
)
def test_parameters_that_make_no_sense(server: Served, query: dict[str, str], word: str) -> None:
    answer = requests.post(f"{server.url}/v1/jobs", params=query, timeout=60)
    assert answer.status_code == 422
    assert word in answer.json()["error"]
    assert requests.get(f"{server.url}/v1/jobs", timeout=60).json()["jobs"] == []


def test_limits_of_bytes_jobs_and_the_disk(server: Served, clip: Path) -> None:
    head = clip.read_bytes()[:100]
    first = create(server.url)
    assert put(server.url, first, bytes(2_000_001)).status_code == 413
    chunks = (part for part in [head, *[bytes(100_000)] * 30])
    assert put(server.url, first, chunks).status_code == 413
    beyond = {"Content-Range": "bytes 0-99/9999999"}
    assert put(server.url, first, head, **beyond).status_code == 413
    for _ in range(2):  # the disk has 5 MB
        assert put(server.url, create(server.url), head + bytes(1_900_000)).status_code == 200
    full = put(server.url, create(server.url), head + bytes(1_900_000))
    assert (full.status_code, full.headers["retry-after"]) == (507, "600")
    many = requests.post(f"{server.url}/v1/jobs", timeout=60)
    assert (many.status_code, many.headers["retry-after"]) == (429, "60")


def test_content_range_that_makes_no_sense(server: Served) -> None:
    job = create(server.url)
    for text in ("bytes 5-1/10", "bytes 0-10/5", "bytes */10", "lines 1-2/3", "bytes 0--1/5"):
        assert put(server.url, job, b"x", **{"Content-Range": text}).status_code == 422
    head = b"\x00\x00\x00\x18ftyp"
    assert put(server.url, job, head, **{"Content-Range": "bytes 0-7/3000000"}).status_code == 413
    begin = {"Content-Range": "bytes 0-7/1200000"}
    assert put(server.url, job, head, **begin).json()["received"] == 8
    for more in (bytes(3), bytes(1_150_000)):  # it costs that part alone
        refused = put(server.url, job, more, **{"Content-Range": "bytes 8-9/1200000"})
        assert (refused.status_code, "MB" in refused.json()["error"]) == (422, False)
        assert look(server.url, job)["received"] == 8


def test_old_jobs_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtseg.serve.jobs.SWEEP_SECONDS", 0.05)
    with served("stub", job_dir=str(tmp_path), keep_hours=0.4 / 3600) as one:
        job = create(one.url)
        begin = {"Content-Range": "bytes 0-7/100"}
        assert put(one.url, job, b"\x00\x00\x00\x18ftyp", **begin).status_code == 200
        assert look(one.url, job)["received"] == 8
        wait_for(lambda: look(one.url, job).get("error") == NO_JOB)
        assert not (tmp_path / job).exists()


def test_an_old_job_that_is_removed_meanwhile_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a DELETE while the one before it is being removed."""
    real = Jobs.remove

    async def all_of_them(jobs: Jobs, job: Job) -> None:
        await real(jobs, job)
        for other in list(jobs._jobs.values()):
            await real(jobs, other)

    monkeypatch.setattr("rtseg.serve.jobs.SWEEP_SECONDS", 0.05)
    with served("stub", job_dir=str(tmp_path), keep_hours=0.4 / 3600) as one:
        several = [create(one.url) for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr("rtseg.serve.jobs.Jobs.remove", all_of_them)
            wait_for(lambda: look(one.url, several[1]).get("error") == NO_JOB)
        later = create(one.url)
        wait_for(lambda: look(one.url, later).get("error") == NO_JOB)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no locks")
def test_a_file_system_without_locks_keeps_jobs_in_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path))
    for _ in range(2):
        with closing(open_place(ServeOptions())) as place:
            assert place.folder == tmp_path / "jobs" / "8765"


def test_who_may_do_what(clip: Path, tmp_path: Path) -> None:
    """All needs the token but an output, whose address holds the number of the job."""
    paths = ["", f"/{MISSING}", f"/{MISSING}/events", f"/{MISSING}/input", f"/{MISSING}/output/x"]
    with served("stub", job_dir=str(tmp_path), token="a-token-of-mine") as one:
        for path in paths:
            assert requests.get(f"{one.url}/v1/jobs{path}", timeout=60).status_code == 401
        output = f"{one.url}/v1/jobs/{MISSING}/output"
        assert requests.get(output, timeout=60).status_code == 404
        assert requests.get(output, headers={"Host": "evil.test"}, timeout=60).status_code == 421
        foreign = {"Authorization": "Bearer a-token-of-mine", "Origin": "http://evil.test"}
        assert requests.post(f"{one.url}/v1/jobs", headers=foreign, timeout=60).status_code == 403


@pytest.mark.parametrize("name", ["..", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "lock", "config.toml"])
def test_a_job_is_not_a_path(server: Served, name: str) -> None:
    for path in ("", "/output", "/events"):
        url = f"http://127.0.0.1:{server.port}/v1/jobs/{name}{path}"
        assert requests.get(url, timeout=60).status_code == 404


# --- with the process of the command line ---------------------------------------------------------


@pytest.mark.slow
def test_a_process_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "child = 'from rtseg.cli.child import main; main(%d)' % os.getpid()\n"
        "flags = ['test://', '-m', 'stub', '-b', 'stub', '--live', '-o', sys.argv[1]]\n"
        "made = subprocess.Popen([sys.executable, '-c', child, *flags])\n"
        "print(made.pid, flush=True); time.sleep(60)"
    )
    output = str(tmp_path / "out.mp4")
    parent = subprocess.Popen(
        [sys.executable, "-c", code, output], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: not _runs(child), 60)


def _runs(number: int) -> bool:
    with_it = psutil.pid_exists(number)
    return with_it and psutil.Process(number).status() != psutil.STATUS_ZOMBIE


def decoded(path: Path) -> tuple[list[np.ndarray], list[bytes]]:
    """The frames of a file, and the packets of its sound."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        sound = [bytes(p) for p in container.demux(audio=0)] if container.streams.audio else []
    return frames, sound


COMMAND = (sys.executable, "-m", "rtseg")


@contextmanager
def program(folder: Path, *flags: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`rtseg serve` in a process of its own; its address."""
    process = subprocess.Popen(
        [*COMMAND, *"serve -m stub -b stub --port 0 --job-dir".split(), str(folder), *flags],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = ""
        while not line.startswith("serving"):
            line = process.stderr.readline()
            assert line, "it ended"
        yield line.split()[1].rstrip("/"), process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


NO_FFMPEG = shutil.which("ffmpeg") is None


def with_a_film(test: Any) -> Any:
    skip = pytest.mark.skipif(NO_FFMPEG, reason="makes a video with the ffmpeg command")
    return pytest.mark.timeout(400)(pytest.mark.slow(skip(test)))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds of noise, which takes a while, with sound."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    noise = "testsrc2=size=480x270:rate=25:duration=12,noise=alls=20:allf=t"
    made = f"ffmpeg -v error -f lavfi -i {noise} -f lavfi -i sine=duration=12 -preset ultrafast"
    subprocess.run([*made.split(), str(path)], check=True)
    return path


def worker_of(server: int) -> psutil.Process:
    """The process of the job that runs, which has a low priority."""
    found = psutil.Process(server).children()
    worker = next(each for each in found if "rtseg.cli.child" in " ".join(each.cmdline()))
    assert worker.nice() > psutil.Process(server).nice()
    with suppress(OSError):  # of Linux
        assert Path(f"/proc/{worker.pid}/autogroup").read_text().split()[-1] == "10"
    return worker


def until(url: str, job: str, state: str, seconds: float = 300) -> dict[str, Any]:
    """The job, once it is in a state; it has a low priority."""

    def reached() -> dict[str, Any] | None:
        found = look(url, job)
        assert found["state"] == state or found["state"] not in ("done", "failed"), found
        return found if found["state"] == state else None

    return wait_for(reached, seconds)  # type: ignore[no-any-return]


def download(url: str, job: str, name: str, path: Path) -> Path:
    answer = requests.get(f"{url}/v1/jobs/{job}/output", params={"as": name}, timeout=60)
    assert answer.status_code == 200
    path.write_bytes(answer.content)
    return path


@with_a_film
def test_files_are_those_of_the_command_line(film: Path, tmp_path: Path) -> None:
    own = {name: tmp_path / f"own.{name}" for name in ("mp4", "mkv", "jsonl")}
    flags = ["-m", "stub", "-b", "stub", "--view", "contours", "--alpha=0.7", "-q"]
    outputs = ["-o", own["mp4"], "--mask-output", own["mkv"], "--json", own["jsonl"]]
    subprocess.run([*COMMAND, film, *flags, *outputs], check=True)
    with program(tmp_path / "jobs") as (url, _):
        job = create(
            url, name="a film.mp4", view="contours", alpha="0.7", **{"as": "video,mask,json"}
        )
        with requests.get(f"{url}/v1/jobs/{job}/events", stream=True, timeout=60) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            with film.open("rb") as body:
                assert put(url, job, body).status_code == 200
            lines = stream.iter_lines()
            events = [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]
        assert [events[0]["state"], events[-1]["state"]] == ["uploading", "done"]
        running = [event for event in events if event["state"] == "running"]
        assert 0 < running[-1]["frames"] <= running[-1]["total"] == 300
        assert running[-1]["seconds_left"] is not None
        assert {name: row["bytes"] for name, row in events[-1]["outputs"].items()} == {
            name: (tmp_path / "jobs" / job / "out" / file).stat().st_size
            for name, file in FILES.items()
        }
        for name, suffix in (("video", "mp4"), ("mask", "mkv")):
            frames, sound = decoded(download(url, job, name, tmp_path / f"served.{suffix}"))
            wanted, wanted_sound = decoded(own[suffix])
            assert len(frames) == len(wanted) == 300
            assert all(map(np.array_equal, frames, wanted))
            assert sound == wanted_sound
            assert bool(sound) == (name == "video")
        lines = download(url, job, "json", tmp_path / "served.jsonl").read_text().splitlines()
        assert lines == own["jsonl"].read_text().splitlines()
        report = requests.get(f"{url}/v1/jobs/{job}/output?as=report", timeout=60)
        assert report.json()["frames"] == 300
        _check_ranges(f"{url}/v1/jobs/{job}/output?as=mask", own["mkv"].stat().st_size)


FILES = {
    "video": "video.mp4",
    "mask": "masks.mkv",
    "json": "classes.jsonl",
    "report": "report.json",
}


def _check_ranges(url: str, size: int) -> None:
    whole = requests.get(url, timeout=60)
    assert 'filename="a film-masks.mkv"' in _unquoted(whole.headers["content-disposition"])
    tag = whole.headers["etag"]
    part = requests.get(url, headers={"Range": "bytes=100-299", "If-Range": tag}, timeout=60)
    assert (part.status_code, part.content) == (206, whole.content[100:300])
    stale = requests.get(url, headers={"Range": "bytes=100-299", "If-Range": '"x"'}, timeout=60)
    assert (stale.status_code, len(stale.content)) == (200, size)
    assert requests.get(url, headers={"Range": f"bytes={size}-"}, timeout=60).status_code == 416
    many = {"Range": "bytes=" + ",".join(f"{n}-{n}" for n in range(5000))}
    answer = requests.get(url, headers=many, timeout=60)
    assert (answer.status_code, len(answer.content)) == (200, size)


def _unquoted(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text).replace("filename*=utf-8''", 'filename="') + '"'


@with_a_film
def test_jobs_go_on_after_the_server_was_killed(film: Path, tmp_path: Path) -> None:
    """In upload, run and download."""
    content, folder = film.read_bytes(), tmp_path / "jobs"
    half = len(content) // 2
    with program(folder) as (url, process):
        job = create(url, view="mask")
        port = int(url.rpartition(":")[2])
        broken_put(port, job, content, 0, half)
        wait_for(lambda: look(url, job)["received"] == half)
        process.kill()
    with program(folder) as (url, process):
        found = look(url, job)
        assert (found["state"], found["received"]) == ("uploading", half)
        rest = {"Content-Range": f"bytes {half}-{len(content) - 1}/{len(content)}"}
        assert put(url, job, content[half:], **rest).status_code == 200
        wait_for(lambda: look(url, job).get("frames"), 60)
        worker = worker_of(process.pid)
        process.kill()
        process.wait()
        wait_for(lambda: not _runs(worker.pid), 60)
    with program(folder) as (url, process):
        until(url, job, "done")
        address = f"{url}/v1/jobs/{job}/output"
        first = requests.get(address, headers={"Range": "bytes=0-999"}, timeout=60)
        process.kill()
    with program(folder) as (url, process):
        same = {"Range": "bytes=1000-", "If-Range": first.headers["etag"]}
        rest_of_it = requests.get(f"{url}/v1/jobs/{job}/output", headers=same, timeout=60)
        assert rest_of_it.status_code == 206
        (tmp_path / "out.mp4").write_bytes(first.content + rest_of_it.content)
        assert len(decoded(tmp_path / "out.mp4")[0]) == 300
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_an_upload_gives_way_to_the_end_of_the_server_and_goes_on_with_the_next(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "jobs"
    with program(folder) as (url, process):
        job, since = create(url), time.monotonic()

        def slowly() -> Iterator[bytes]:
            for number in range(400):
                if number == 10:
                    process.send_signal(signal.SIGTERM)
                yield bytes([0, 0, 0, 24]) + b"ftypisom" + bytes(988)
                time.sleep(0.05)

        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        headers = {"Content-Length": "400000"}
        with suppress(ConnectionError):  # it is closed once it is answered
            connection.request("PUT", f"/v1/jobs/{job}/input", slowly(), headers)
        assert connection.getresponse().status == 503
        connection.close()
        assert process.wait(20) == 143
        assert time.monotonic() - since < 8  # not 20, or 10 after the signal
        assert process.stderr is not None
        assert process.stderr.read().splitlines()[1:] == ["ended    all requests were answered"]
    with program(folder) as (url, _):
        assert look(url, job)["state"] == "uploading"
        assert 10_000 <= look(url, job)["received"] < 100_000


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_download_that_is_cut_off_at_the_end_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    with program(folder) as (url, process):
        job = create(url)
    about = folder / job / "job.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"state": "done"}))
    (folder / job / "out").mkdir()
    (folder / job / "out" / PRODUCTS["video"].file).write_bytes(bytes(20_000_000))
    with program(folder) as (url, process):
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as reading:
            head = f"GET /v1/jobs/{job}/output HTTP/1.1\r\nHost: localhost\r\n\r\n"
            reading.sendall(head.encode())
            assert reading.recv(12) == b"HTTP/1.1 200"
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 143
        assert process.stderr is not None
        assert process.stderr.read().splitlines()[1:] == ["ended    1 request cut off"]


@with_a_film
def test_a_job_is_cancelled_at_once_and_the_next_one_runs(
    film: Path, clip: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "jobs"
    with program(folder, "--max-megapixels", "0.5") as (url, process):
        first, second, large = (create(url, name=f"{n}.mp4") for n in range(3))
        assert put(url, first, film.read_bytes()).json()["state"] in ("queued", "running")
        wait_for(lambda: look(url, first).get("frames"), 60)
        assert put(url, second, clip.read_bytes()).json()["state"] == "queued"
        worker = worker_of(process.pid)
        since = time.monotonic()
        assert requests.delete(f"{url}/v1/jobs/{first}", timeout=60).status_code == 204
        assert not _runs(worker.pid)
        assert time.monotonic() - since < 3  # below 1 unless others want the processors
        assert not (folder / first).exists()
        until(url, second, "running")
        wide = write_clip(tmp_path / "wide.mp4", images=[np.zeros((800, 800, 3), np.uint8)] * 3)
        put(url, large, wide.read_bytes())
        until(url, second, "done")
        until(url, large, "failed")
        assert "megapixels" in look(url, large)["error"]
        assert str(folder) not in look(url, large)["error"]
        gone = requests.get(f"{url}/v1/jobs/{large}/output", timeout=60)
        assert gone.status_code == 409


@with_a_film
def test_a_job_may_not_take_all_time_or_all_of_the_disk(film: Path, tmp_path: Path) -> None:
    size = film.stat().st_size / 1e9
    for flags, words in (
        (("--max-job-minutes", "0.005"), "more than 0.005 minutes"),  # its start takes longer
        (("--job-gigabytes", f"{size + 2e-4}"), "no room"),
    ):
        with program(tmp_path / words, *flags) as (url, _):
            job = create(url)
            assert put(url, job, film.read_bytes()).status_code == 200
            assert words in until(url, job, "failed")["error"]
