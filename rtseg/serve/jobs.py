"""`/v1/jobs`: a video comes in, the command line segments it in a process of its own, files go out.

A job is a folder: `job.json`, the upload, and in `out/` what the command wrote. What a server that
was killed left is gone on with by the next one: uploads where they stopped, and videos anew, as
their process ends with the server.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

from rtseg.cache import cache_dir
from rtseg.effects import VIEWS, ViewOptions
from rtseg.errors import RtsegError
from rtseg.files import free_bytes, reason, write_file
from rtseg.limits import Pace
from rtseg.options import made
from rtseg.serve.options import ServeOptions
from rtseg.serve.segment import BODY_SECONDS, discard, in_time, switch
from rtseg.serve.service import TIMED_OUT, RequestError, Service
from rtseg.system import python_command
from rtseg.temporal import TemporalOptions
from rtseg.text import counted

if TYPE_CHECKING:
    from starlette.datastructures import QueryParams
    from starlette.requests import Request

if sys.platform != "win32":
    import fcntl

HEAD_BYTES = 512
"""By which a video is recognised."""

BLOCK_BYTES = 1 << 20
"""That are written at a time."""

RESERVE_BYTES = 1 << 28
"""Of the disk that jobs leave free."""

LOOK_SECONDS = 1.0
"""After which the disk is looked at while a process says nothing."""

SWEEP_SECONDS = 60.0
EVENT_SECONDS = 0.5
ALIVE_SECONDS = 15.0
"""After which an event stream without events says that it lives."""

MOST_TRIES = 3
"""Servers that may end while a job runs before the job is given up."""

MAX_LINE, MAX_NOTES = 1 << 20, 50

NO_ROOM = "the disk has no room for its files"

FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg"
"""What FFmpeg may take an upload for: no playlist, which could name other files."""


@dataclass(frozen=True)
class Product:
    """A row of `PRODUCTS`: a file of a job, and the flag that asks for it."""

    file: str
    flag: str
    media: str
    help: str


PRODUCTS = {
    "video": Product("video.mp4", "-o", "video/mp4", "the video as it is drawn, with its sound"),
    "mask": Product("masks.mkv", "--mask-output", "video/x-matroska", "lossless class indices"),
    "json": Product("classes.jsonl", "--json", "application/x-ndjson", "shares in each frame"),
    "report": Product("report.json", "--metrics", "application/json", "figures of the run"),
}
"""The files of a job, by name."""

MADE = "|".join(name for name in PRODUCTS if name != "report")
"""What `as=` may list; the report is always made."""

ENDED = ("done", "failed", "cancelled")
STATES = ("uploading", "queued", "running", *ENDED)


@dataclass
class Job:
    """What `job.json` has.

    Attributes:
        flags: of the command line.
        size: of the video in bytes, once it is known.
        changed: when the state last did, in seconds of the epoch.
        tries: processes that were started.
        file: name of the video in the folder, once it is complete.
    """

    id: str
    name: str
    products: list[str]
    flags: list[str]
    created: float
    changed: float
    state: str = "uploading"
    size: int | None = None
    file: str = ""
    error: str = ""
    notes: list[str] = field(default_factory=list)
    tries: int = 0


class Progress:
    """What is known of a running job, and of an upload, as long as the server lives."""

    def __init__(self) -> None:
        self.frames = self.total = 0
        self.since = time.monotonic()
        self.process: Process | None = None
        self.lock = asyncio.Lock()
        self.uploader: object = None

    def note(self, line: dict[str, Any]) -> None:
        """Take a line of the process."""
        if line.get("unit") == "frames" and line.get("done"):
            if not self.frames:
                self.since = time.monotonic()
            self.frames, self.total = int(line["done"]), int(line.get("total") or 0)

    def figures(self) -> dict[str, Any]:
        """Frames, and seconds that are left if that is known."""
        fps = self.frames / max(time.monotonic() - self.since, 0.5) if self.frames else 0.0
        left = (self.total - self.frames) / fps if fps and self.total else None
        found = {"frames": self.frames, "total": self.total or None, "fps": round(fps, 1)}
        return found | {"seconds_left": None if left is None else round(max(left, 0.0), 1)}


class Place(NamedTuple):
    """The folder of the jobs of one server, and the file by which it is locked."""

    folder: Path
    lock: IO[str]

    def close(self) -> None:
        """Leave it to others."""
        self.lock.close()


class Jobs:
    """All jobs of a folder, of which one runs at a time, as long as the `async with` lasts.

    Args:
        place: what `open_place` returned; it is left at the end.
        config: of the network, in TOML, as `rtseg --config` reads it.
    """

    def __init__(self, place: Place, service: Service, options: ServeOptions, config: str) -> None:
        self.service, self.options = service, options
        self.folder, self._place = place.folder, place
        self._config = config
        self._jobs: dict[str, Job] = {}
        self._progress: dict[str, Progress] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Jobs:
        write_file(self.folder / "config.toml", self._config)
        for path in sorted(self.folder.glob("*/job.json")):
            try:
                job = Job(**json.loads(path.read_text("utf-8")))
            except (OSError, ValueError, TypeError):
                continue  # of another version, or not ours
            self._jobs[job.id], self._progress[job.id] = job, Progress()
            if job.state == "running":
                self._set(job, "queued")
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._place.close()

    def gauges(self) -> dict[str, float]:
        """What is now, for the metrics."""
        waiting = [job for job in self._jobs.values() if job.state in ("queued", "running")]
        return {"rtseg_jobs": len(waiting), "rtseg_jobs_bytes": self._used()}

    # --- for the routes --------------------------------------------------------------------------

    def all(self) -> list[dict[str, Any]]:
        """Every job, the newest first."""
        newest = sorted(self._jobs.values(), key=lambda job: job.created, reverse=True)
        return [self.describe(job) for job in newest]

    def find(self, name: str) -> Job:
        """Raises RequestError if there is none."""
        if name not in self._jobs:
            raise RequestError(404, "there is no such job", found="it may have been removed")
        return self._jobs[name]

    def describe(self, job: Job) -> dict[str, Any]:
        """As the API has it."""
        found: dict[str, Any] = {
            "id": job.id,
            "name": job.name,
            "state": job.state,
            "created": job.created,
            "as": job.products,
            "received": self._received(job),
            "size": job.size,
            "error": job.error or None,
            "notes": job.notes,
            "outputs": {},
        }
        if job.state == "running":
            found |= self._progress[job.id].figures()
        if job.state == "done":
            for name in job.products:
                with suppress(OSError):
                    size = self.output(job, name).stat().st_size
                    address = f"/v1/jobs/{job.id}/output?as={name}"
                    found["outputs"][name] = {"address": address, "bytes": size}
        return found

    def create(self, query: QueryParams) -> Job:
        """A job that waits for its video.

        Raises:
            RequestError, UsageError: there are too many, or a parameter makes no sense.
        """
        self.service.check_open()
        products, flags = flags_of(query, self.service)
        most = self.options.max_jobs
        if len(self._jobs) >= most:
            raise RequestError(
                429,
                "too many jobs",
                found=f"{most} are kept",
                do="Delete one with DELETE /v1/jobs/ID",
                retry=60,
            )
        name = re.sub(r"[\x00-\x1f\x7f/\\]", "_", query.get("name", "video"))[:200] or "video"
        now = time.time()
        job = Job(secrets.token_hex(16), name, products, flags, now, now)
        write_file(self._file_of(job), _as_json(job))  # first: the disk may be full
        self._jobs[job.id], self._progress[job.id] = job, Progress()
        return job

    async def receive(self, job: Job, request: Request) -> None:
        """Append what comes to the video of a job.

        Raises:
            RequestError: it does not begin where the video ends so far, is too long, too slow, or
                not a video.
            ClientDisconnect: it breaks off; what came until then is kept.
        """
        progress, mine = self._progress[job.id], object()
        first, last, total = content_range(request.headers.get("content-range"))
        most = int(self.options.max_video_megabytes * 1e6)
        if total is None and request.headers.get("content-length", "").isdecimal():
            total = int(request.headers["content-length"]) if last is None else None
        if max(total or 0, (last or 0) + 1) > most:
            await discard(request.stream().__aiter__(), BLOCK_BYTES)
            raise self._too_long()
        progress.uploader = mine  # one that is under way ends
        async with progress.lock:
            received = self._received(job)
            if job.state != "uploading":
                raise RequestError(409, "the video is complete", found=f"the job is {job.state}")
            if first not in (0, received):
                raise RequestError(
                    409, f"it begins at byte {first}", found=f"{received} bytes are there"
                )
            if total is not None and job.size not in (None, total) and first:
                raise RequestError(409, f"it has {total} bytes", found=f"it had {job.size}")
            job.size = total
            try:
                received = await self._append(job, request, mine, first, last)
            finally:
                job.changed = time.time()
                self._keep(job)
            if last is None:
                job.size = received
            if received == job.size:
                await self._complete(job)

    def output(self, job: Job, name: str) -> Path:
        """The file of a product, which may not exist."""
        return self.folder / job.id / "out" / PRODUCTS[name].file

    async def remove(self, job: Job) -> None:
        """End a job, and forget it."""
        del self._jobs[job.id]
        progress = self._progress.pop(job.id)
        progress.uploader = None
        if job.state not in ENDED:
            job.state = "cancelled"
            self.service.metrics.count("rtseg_jobs_total", result="cancelled")
        if progress.process is not None:
            with suppress(ProcessLookupError):
                progress.process.kill()
            await progress.process.wait()
        async with progress.lock:
            await asyncio.to_thread(shutil.rmtree, self.folder / job.id, ignore_errors=True)

    # --- uploads ---------------------------------------------------------------------------------

    async def _append(
        self, job: Job, request: Request, mine: object, first: int, last: int | None
    ) -> int:
        """Write a body from byte `first` on, at most to byte `last`; returns where it ends."""
        progress, pace = self._progress[job.id], Pace(BODY_SECONDS)
        path, parts = self.folder / job.id / "upload", request.stream().__aiter__()
        at, buffer = first, bytearray()
        most = int(self.options.max_video_megabytes * 1e6) if last is None else last + 1
        with path.open("ab" if first else "wb", buffering=0) as file:
            room = self._room()
            try:
                async for part in in_time(parts):
                    if progress.uploader is not mine:
                        raise RequestError(409, "another upload of this video has begun")
                    self.service.check_open()  # it goes on with the next server
                    buffer += part
                    at += len(part)
                    if at > most and last is not None:
                        raise RequestError(422, "Content-Range", found="the body is longer")
                    if at > most:
                        raise self._too_long()
                    if len(buffer) > room:
                        raise RequestError(507, "the disk has no room for this video", retry=600)
                    pace(len(part))
                    if len(buffer) >= BLOCK_BYTES:
                        if at - len(buffer) == 0:
                            suffix_of(bytes(buffer[:HEAD_BYTES]))
                        await asyncio.to_thread(_write, file, bytes(buffer))
                        buffer.clear()
                        room = self._room()  # other uploads take of it, too
            except TIMED_OUT:
                raise RequestError(408, "the video came too slowly") from None
            except RequestError as error:
                if error.status in (413, 415, 422, 507):
                    buffer.clear()
                    file.truncate(first if error.status == 422 else 0)
                    await discard(parts, BLOCK_BYTES)
                raise
            finally:
                _write(file, bytes(buffer))
        return at

    def _too_long(self) -> RequestError:
        most = self.options.max_video_megabytes
        return RequestError(
            413,
            "the video is too long",
            found=f"at most {most:g} MB are taken",
            do="Send a shorter one, or start the server with a higher --max-video-megabytes",
        )

    async def _complete(self, job: Job) -> None:
        upload = self.folder / job.id / "upload"
        with upload.open("rb") as file:
            head = file.read(HEAD_BYTES)
        try:
            suffix = suffix_of(head)
        except RequestError:
            upload.write_bytes(b"")
            raise
        job.file = f"video{suffix}"
        upload.replace(upload.with_name(job.file))
        self._set(job, "queued")
        self._wake.set()

    # --- running ---------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Run the jobs one by one, and remove those that are old."""
        while True:
            self._wake.clear()
            await self._sweep()
            queued = [job for job in self._jobs.values() if job.state == "queued"]
            if queued:
                job = min(queued, key=lambda job: job.changed)
                try:
                    await self._run(job)
                except (OSError, RtsegError) as error:  # a full disk ends this job, not all
                    words = reason(error) if isinstance(error, OSError) else str(error)
                    job.state, job.error = "failed", self._plain(job, words)
                continue
            with suppress(*TIMED_OUT):
                await asyncio.wait_for(self._wake.wait(), SWEEP_SECONDS)

    async def _sweep(self) -> None:
        before = time.time() - self.options.keep_hours * 3600
        for job in list(self._jobs.values()):
            old = job.changed < before and job.state not in ("queued", "running")
            if old and job.id in self._jobs:  # it may have been removed meanwhile
                await self.remove(job)

    async def _run(self, job: Job) -> None:
        job.tries += 1
        if job.tries > MOST_TRIES:
            job.error = f"the server ended {counted(MOST_TRIES, 'time')} while it ran"
            self._set(job, "failed")
            return
        job.notes.clear()
        progress = self._progress[job.id]
        progress.frames = progress.total = 0
        self._set(job, "running")
        out = self.folder / job.id / "out"
        await asyncio.to_thread(shutil.rmtree, out, ignore_errors=True)
        out.mkdir()
        progress.process = process = await asyncio.create_subprocess_exec(
            *python_command(f"from rtseg.cli.child import main; main({os.getpid()})"),
            *("run", str(self.folder / job.id / job.file), "--no-show"),
            *("--config", str(self.folder / "config.toml"), *job.flags),
            *(text for name in job.products for text in self._wanted(job, name)),
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
            limit=MAX_LINE,
            start_new_session=True,  # without Ctrl-C, which the server handles
            env=os.environ | self._environment(),
        )
        minutes = self.options.max_job_minutes
        try:
            error = await asyncio.wait_for(self._follow(job, process, progress), minutes * 60)
        except asyncio.CancelledError:
            job.tries -= 1  # the server ends as it should
            raise
        except TIMED_OUT:
            error = f"it took more than {minutes:g} minutes"
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            progress.process = None
            self._keep(job)
        if job.state != "running":  # it was removed
            return
        if not error and not all(self.output(job, name).is_file() for name in job.products):
            error = "it ended without its files"
        job.error = error
        if error:  # what is incomplete takes no room from others
            await asyncio.to_thread(shutil.rmtree, out, ignore_errors=True)
        self._set(job, "failed" if error else "done")

    def _wanted(self, job: Job, name: str) -> Iterator[str]:
        yield from (PRODUCTS[name].flag, str(self.output(job, name)))

    def _environment(self) -> dict[str, str]:
        pixels = self.options.max_megapixels * 1e6
        return {"RTSEG_FORMATS": FORMATS, "RTSEG_MAX_PIXELS": f"{pixels:.0f}"}

    async def _follow(self, job: Job, process: Process, progress: Progress) -> str:
        """Read what a process says to its end; returns why it failed, "" if it did not."""
        assert process.stderr is not None
        error = ""
        while self._room() >= 0:
            try:
                read = asyncio.wait_for(process.stderr.readline(), LOOK_SECONDS)
                line = (await read).decode("utf-8", "replace").rstrip()
            except TIMED_OUT:
                continue
            except ValueError:  # longer than any of ours
                continue
            if not line and process.stderr.at_eof():
                code = await process.wait()
                if code:
                    return error or f"it ended with code {code}"
                return NO_ROOM if self._room() < 0 else ""
            if line.startswith("{"):
                with suppress(ValueError):
                    progress.note(json.loads(line))
            elif line.startswith("rtseg: error: "):
                error = error or self._plain(job, line.removeprefix("rtseg: error: "))
            elif line.startswith("warning ") and len(job.notes) < MAX_NOTES:
                job.notes.append(self._plain(job, line.removeprefix("warning ").strip()))
        return NO_ROOM

    def _plain(self, job: Job, text: str) -> str:
        """A message without our paths."""
        return text.replace(f"{self.folder / job.id}{os.sep}", "").replace(job.file, job.name)

    # --- the folder ------------------------------------------------------------------------------

    def _set(self, job: Job, state: str) -> None:
        job.state, job.changed = state, time.time()
        self._keep(job)
        if state in ENDED:
            self.service.metrics.count("rtseg_jobs_total", result=state)

    def _keep(self, job: Job) -> None:
        if job.id in self._jobs:
            write_file(self._file_of(job), _as_json(job))

    def _file_of(self, job: Job) -> Path:
        return self.folder / job.id / "job.json"

    def _received(self, job: Job) -> int:
        try:
            return (self.folder / job.id / (job.file or "upload")).stat().st_size
        except OSError:
            return 0

    def _used(self) -> int:
        total = 0
        for folder, _, names in os.walk(self.folder):  # it passes over folders that vanish
            for name in names:
                with suppress(OSError):
                    total += Path(folder, name).stat().st_size
        return total

    def _room(self) -> float:
        """Bytes that may still be written; below 0 if there are too many already."""
        own = self.options.job_gigabytes * 1e9 - self._used()
        return min(own, free_bytes(self.folder) - RESERVE_BYTES)


def open_place(options: ServeOptions) -> Place:
    """The folder of this server's jobs, which no other server gets until it is closed.

    Raises:
        RtsegError: the folder cannot be used, or another server uses it.
    """
    usual = options.job_dir is None
    base = Path(options.job_dir or cache_dir() / "jobs" / str(options.port))
    for number in count(1):
        folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = (folder / "lock").open("w")
        except OSError as error:
            do = "Give another --job-dir, or --max-jobs 0 for a server without jobs"
            raise RtsegError(f"cannot keep jobs in {folder}", found=reason(error), do=do) from error
        try:
            if sys.platform != "win32":
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            if usual:
                continue
            found = "another server uses it"
            raise RtsegError(f"--job-dir {folder}", found=found, do="Give each its own") from error
        except OSError:
            pass  # a file system without locks
        return Place(folder.absolute(), lock)
    raise AssertionError


def _as_json(job: Job) -> str:
    return json.dumps(asdict(job), indent=1)


def _write(file: Any, content: bytes) -> None:
    """All of it: a raw file may take a part."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


def suffix_of(head: bytes) -> str:
    """The suffix of a video by its first bytes.

    Raises:
        RequestError: it is of no kind that is taken.
    """
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return ".mp4"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return ".mkv"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return ".avi"
    if head[:1] == head[188:189] == b"G":
        return ".ts"
    if head[:4] == b"\x00\x00\x01\xba":
        return ".mpg"
    raise RequestError(
        415, "the file is not a video", do="Send MP4, MOV, MKV, WebM, AVI, or an MPEG stream"
    )


def content_range(text: str | None) -> tuple[int, int | None, int | None]:
    """First and last byte, and the size, of a Content-Range.

    Raises:
        RequestError: it is none.
    """
    if text is None:
        return 0, None, None
    found = re.fullmatch(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)", text)
    first, last = (int(found[1]), int(found[2])) if found else (1, 0)
    total = int(found[3]) if found and found[3] != "*" else None
    if first > last or (total is not None and last >= total):
        raise RequestError(422, "Content-Range", found="it is not of the kind bytes 1000-1999/5000")
    return first, last, total


def flags_of(query: QueryParams, service: Service) -> tuple[list[str], list[str]]:
    """The products that a request wants, and the flags of the command line.

    Raises:
        RequestError, UsageError: a parameter makes no sense.
    """
    known = {"as", "name", "classes", "refine", *PARAMETERS}
    if unknown := [name for name in query if name not in known]:
        found = "there are " + ", ".join(sorted(known))
        raise RequestError(422, f"unknown parameter {unknown[0][:40]!r}", found=found)
    wanted = query.get("as", "video")
    if re.fullmatch(f"({MADE})(,({MADE}))*", wanted) is None:
        choices = MADE.replace("|", ", ")
        raise RequestError(422, f"as={wanted[:40]}", found=f"choices are {choices}; with commas")
    products = [name for name in PRODUCTS if name in wanted.split(",") or name == "report"]
    flags: list[str] = []
    classes = [part.strip() for part in query.get("classes", "").split(",") if part.strip()]
    if classes:
        service.segmenter.labels.select(classes)
        flags.append(f"--classes={','.join(classes)}")
    if switch(query, "refine"):
        flags.append("--refine")
    values: dict[type, dict[str, Any]] = {ViewOptions: {}, TemporalOptions: {}}
    for name, (options, form, words) in PARAMETERS.items():
        if name not in query:
            continue
        text = query[name]
        if re.fullmatch(form, text) is None:
            raise RequestError(422, f"{name}={text[:40]}", found=f"it must be {words}")
        values[options][name] = float(text) if form == NUMBER else text
        flags.append(f"--{name}={text}")
    for cls, given in values.items():
        made(cls, given)
    return products, flags


NUMBER = r"\d(\.\d{1,6})?"

PARAMETERS: dict[str, tuple[type, str, str]] = {
    "view": (ViewOptions, "|".join(VIEWS), "one of " + ", ".join(VIEWS)),
    "alpha": (ViewOptions, NUMBER, "a number from 0 to 1"),
    "background": (
        ViewOptions,
        r"none|blur(:\d{1,2})?|#[0-9a-fA-F]{6}",
        "none, blur, blur:1 to blur:20 or a colour such as #00b140",
    ),
    "smooth": (TemporalOptions, NUMBER, "a number from 0 to 1"),
}
"""Parameters that are flags of the command line: whose, their form, and that in words. A background
is no name of a file."""


# --- routes ---------------------------------------------------------------------------------------


def _jobs(request: Request) -> Jobs:
    jobs: Jobs | None = request.app.state.jobs
    if jobs is None:
        raise RequestError(404, "this server takes no videos", do="Start it with --max-jobs")
    return jobs


async def jobs(request: Request) -> Response:
    """All jobs, the newest first, and how many may be kept."""
    here: Jobs | None = request.app.state.jobs
    most = 0 if here is None else here.options.max_jobs
    return JSONResponse({"jobs": [] if here is None else here.all(), "most": most})


async def create(request: Request) -> Response:
    """A new job, to which the video is sent next."""
    all_jobs = _jobs(request)
    job = all_jobs.create(request.query_params)
    headers = {"Location": f"/v1/jobs/{job.id}"}
    return JSONResponse(all_jobs.describe(job), 201, headers)


async def one(request: Request) -> Response:
    """A job."""
    all_jobs = _jobs(request)
    return JSONResponse(all_jobs.describe(all_jobs.find(request.path_params["id"])))


async def upload(request: Request) -> Response:
    """The video of a job, or the part of it that Content-Range names."""
    all_jobs = _jobs(request)
    job = all_jobs.find(request.path_params["id"])
    try:
        await all_jobs.receive(job, request)
    except ClientDisconnect:
        return Response(status_code=400)  # to nobody
    return JSONResponse(all_jobs.describe(job))


async def events(request: Request) -> Response:
    """A job whenever it changes, as server-sent events, until it ends."""
    all_jobs = _jobs(request)
    job = all_jobs.find(request.path_params["id"])

    async def changes() -> AsyncIterator[str]:
        last, said = None, time.monotonic()
        while True:
            now = all_jobs.describe(job)
            if now != last:
                last, said = now, time.monotonic()
                yield f"event: job\ndata: {json.dumps(now)}\n\n"
            elif time.monotonic() - said > ALIVE_SECONDS:
                said = time.monotonic()
                yield ": alive\n\n"
            if job.state in ENDED or all_jobs.service.draining:
                return
            await asyncio.sleep(EVENT_SECONDS)

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(changes(), media_type="text/event-stream", headers=headers)


async def remove(request: Request) -> Response:
    """Cancel a job, and remove its files."""
    all_jobs = _jobs(request)
    await all_jobs.remove(all_jobs.find(request.path_params["id"]))
    return Response(status_code=204)


async def output(request: Request) -> Response:
    """A file that a job has made; whoever has its address may have it."""
    all_jobs = _jobs(request)
    job = all_jobs.find(request.path_params["id"])
    name = request.query_params.get("as", job.products[0])
    if name not in job.products:
        raise RequestError(404, f"as={name[:40]}", found=f"it makes {', '.join(job.products)}")
    if job.state != "done":
        raise RequestError(409, "there is no output", found=f"the job is {job.state}")
    product = PRODUCTS[name]
    called = f"{Path(job.name).stem}-{product.file}"
    if "," in request.headers.get("range", ""):  # several parts, of which nobody has a use
        request.scope["headers"] = [row for row in request.scope["headers"] if row[0] != b"range"]
    headers = {"Cache-Control": "private, no-cache"}
    return FileResponse(
        all_jobs.output(job, name), media_type=product.media, filename=called, headers=headers
    )
