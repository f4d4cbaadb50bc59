"""Measures `rtseg serve` beside simpler servers of the same network, in one run, against its bars.

    python tools/serve_measure.py streams [--frames 10000] [--clients 1,4,8]
    python tools/serve_measure.py tabs [--frames 10000] [--clients 1,4,8]
    python tools/serve_measure.py fair [--seconds 30]
    python tools/serve_measure.py slow [--seconds 1800]
    python tools/serve_measure.py segment [--picture FILE] [--calls 96]
    python tools/serve_measure.py canvas --clip FILE [--seconds 30] [--turns 2] [--link]
    python tools/serve_measure.py pixels --pictures FOLDER [--count 20]
    python tools/serve_measure.py job --clip FILE [--seconds 30]

streams: whether each frame is answered once, with its own mask, over plain sockets, of which one
floods and one is slow.
tabs: the same for what a browser draws, in tabs of which one is throttled and one reloads all the
time; the camera's frames carry their numbers.
fair: Jain's index of the frames that eight clients get, of which one floods.
slow: ages of ordinary clients before and while one client reads slowly and one not at all, and the
server's memory; beside those of a second server, where one sends as much and reads at once.
segment: `POST /v1/segment` beside FastAPI.
canvas: the age of what a browser shows, from camera to canvas, in turns beside a page that sends
JPEGs of the camera's size and gets the overlay back, and beside aiortc, and the age of a frame in
the command line; with --link behind 10 Mbit/s and 20 ms in each direction.
pixels: masks that the page draws against those that the command line writes.
job: the files of a job in which the server is killed three times, against the command line's; ages
of a live client while a video is segmented; and how soon a cancelled job is gone.

Bars are for a quiet machine. canvas and segment need: python -m pip install fastapi aiortc
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import psutil
import requests

import rtseg
from rtseg.errors import SourceError
from rtseg.frame import Image
from rtseg.images import read_image
from rtseg.serve.jobs import BLOCK_BYTES
from rtseg.serve.stream import DROPPED, HEADER

SIZE = 200, 320
BACKEND = "onnx"
"""Of all servers."""

LINK_BYTES_PER_SECOND = 10e6 / 8
LINK_SECONDS = 0.02
"""Of the shaping relay, in each direction."""


def bar(what: str, value: float, least: float | None = None, most: float | None = None) -> None:
    """Print a figure and whether it is as good as it must be."""
    good = (least is None or value >= least) and (most is None or value <= most)
    asked = f"at least {least:g}" if least is not None else f"at most {most:g}"
    print(f"  {'ok  ' if good else 'MISS'} {what}: {value:.6g} ({asked})", flush=True)


# --- servers --------------------------------------------------------------------------------------


@contextmanager
def serving(*flags: str) -> Iterator[tuple[str, int]]:
    """`rtseg serve`: its address and the number of its process."""
    command = [sys.executable, "-m", "rtseg", "serve", "--port", "0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = ""
        while not line.startswith("serving"):
            line = process.stderr.readline()
            assert line, "it ended"
        address = line.split()[1].rstrip("/")
        _until_there(f"{address}/v1/health/ready")
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


STUB = ("-b", "stub", "--max-jobs", "0")
PERSON = ("-m", "person", "-b", BACKEND)


@contextmanager
def peer(kind: str) -> Iterator[tuple[str, int]]:
    """A server of `serve_peers.py`: its address and the number of its process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = Path(__file__).with_name("serve_peers.py")
    process = subprocess.Popen([sys.executable, script, kind, BACKEND, str(port)])
    try:
        _until_there(f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.kill()
        process.wait()


def _until_there(address: str) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            if requests.get(address, timeout=60).ok:
                return
        except requests.ConnectionError:
            assert time.monotonic() < until, "it did not come"
        time.sleep(0.2)


class Direction:
    """One direction of the relay, which all its connections share."""

    def __init__(self) -> None:
        self._free = 0.0

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send on what comes, no faster than the link is, and as late."""
        clock = asyncio.get_running_loop().time
        underway: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def deliver() -> None:
            while True:
                due, part = await underway.get()
                await asyncio.sleep(due - clock())
                if not part:
                    writer.close()
                    return
                writer.write(part)
                await writer.drain()

        delivering = asyncio.create_task(deliver())
        with suppress(ConnectionError):
            part = b"-"
            while part:
                part = await reader.read(1500)
                self._free = max(clock(), self._free) + len(part) / LINK_BYTES_PER_SECOND
                await asyncio.sleep(self._free - clock())
                await underway.put((clock() + LINK_SECONDS, part))
            await delivering


@contextmanager
def behind_a_link(address: str) -> Iterator[str]:
    """The address of a relay to a server over a slow link."""
    port = int(address.rpartition(":")[2])
    loop, ready, found = asyncio.new_event_loop(), threading.Event(), [0]
    up, down = Direction(), Direction()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port, limit=1 << 14)
        await asyncio.gather(up.pump(reader, back), down.pump(there, writer))

    async def listen() -> None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=1 << 14)
        found[0] = server.sockets[0].getsockname()[1]
        ready.set()

    def run() -> None:
        loop.create_task(listen())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait()
    yield f"http://127.0.0.1:{found[0]}"
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


# --- streams --------------------------------------------------------------------------------------


class Client:
    """A stream whose frames carry their number as the width of a block."""

    def __init__(self, address: str, window: int | None = None, pause: float = 0.0) -> None:
        self.address = address.replace("http", "ws") + "/v1/stream"
        self.window, self.pause = window, pause
        self.sent = self.shown = self.dropped = self.wrong = 0
        self.ages: list[tuple[float, float]] = []

    async def run(self, frames: int, seconds: float) -> None:
        """Send so many frames, or for so long; the window is the server's, unless one was given."""
        from websockets.asyncio.client import connect

        height, width = SIZE
        hello = {"type": "hello", "width": width, "height": height, "kind": "png"}
        async with connect(self.address, subprotocols=["rtseg.1"], open_timeout=60) as stream:  # type: ignore[list-item]
            await stream.send(json.dumps(hello))
            welcome = json.loads(await stream.recv())
            size = welcome["input"]["height"], welcome["input"]["width"]
            bodies, areas = blocks(size)
            checked = welcome["model"] == "stub"
            own, waiting, until = welcome["window"], dict[int, float](), time.monotonic() + seconds
            while True:
                more = self.sent < frames and time.monotonic() < until
                if more and len(waiting) < (self.window or own):
                    self.sent += 1
                    waiting[self.sent] = time.monotonic()
                    head = struct.pack("<IId", self.sent, 0, 0.0)
                    await stream.send(head + bodies[self.sent % 7])
                    continue
                if not waiting:
                    return
                message = await stream.recv()
                if isinstance(message, str):
                    own = json.loads(message).get("frames", own)
                    continue
                number, kind, *_ = HEADER.unpack_from(message)
                since = waiting.pop(number, None)
                if since is None:
                    self.wrong += 1
                elif kind == DROPPED:
                    self.dropped += 1
                else:
                    self.shown += 1
                    self.ages.append((time.monotonic(), time.monotonic() - since))
                    content = np.frombuffer(message[HEADER.size :], np.uint8)
                    alpha = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)[..., 3]
                    self.wrong += checked and _area(alpha) != areas[number % 7]
                if self.pause:
                    await asyncio.sleep(self.pause)


def block(size: tuple[int, int], number: int) -> Image:
    """A block of class 1 of the stub, as wide as the number says."""
    height, width = size
    red, green, blue = STUB_COLOUR
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width * (number + 1) // 8] = blue, green, red
    return image


@cache
def blocks(size: tuple[int, int]) -> tuple[list[bytes], list[int]]:
    """Seven images as PNGs, and the pixels of the stub's masks of them at the camera's size."""
    images = [block(size, n) for n in range(7)]
    with rtseg.load("stub") as stub:
        areas = [_area(stub(image).at_size(SIZE).mask) for image in images]
    return [cv2.imencode(".png", image)[1].tobytes() for image in images], areas


STUB_COLOUR = rtseg.load("stub").labels.colours[1]


def _area(mask: Any) -> int:
    return int(np.count_nonzero(mask))


def jain(values: list[float]) -> float:
    """Jain's index of fairness: 1 where all have the same."""
    return sum(values) ** 2 / (len(values) * sum(value**2 for value in values))


def answered(address: str) -> tuple[int, int]:
    """Frames that the server has answered with a mask, and that it has dropped."""
    text = requests.get(f"{address}/metrics", timeout=60).text
    rows = re.findall(r'rtseg_stream_frames_total\{result="(\w+)"\} (\d+)', text)
    shown = sum(int(count) for result, count in rows if result == "shown")
    return shown, sum(int(count) for _, count in rows) - shown


def streams(options: argparse.Namespace) -> None:
    """See the module."""
    for number in map(int, options.clients.split(",")):
        with serving("-m", "stub?delay=4ms", *STUB) as (address, _):
            # one of several floods, one is throttled
            clients = [Client(address, 30 if n == 1 else None) for n in range(number)]
            clients[-1].pause = 0.05 if number > 2 else 0.0

            async def all_of_them(clients: list[Client] = clients) -> None:
                share = options.frames // len(clients)
                await asyncio.gather(*(client.run(share, 7200) for client in clients))

            asyncio.run(all_of_them())
            sent, shown, dropped, wrong = (
                sum(getattr(client, name) for client in clients)
                for name in ("sent", "shown", "dropped", "wrong")
            )
            print(f"{number} clients: sent {sent}, shown {shown}, dropped {dropped}")
            bar("wrong frames", wrong, most=0)
            bar("sent - shown - dropped", abs(sent - shown - dropped), most=0)
            there = answered(address)
            bar("server's shown and dropped less the clients'",
                abs(there[0] - shown) + abs(there[1] - dropped), most=0)  # fmt: skip


def fair(options: argparse.Namespace) -> None:
    """See the module."""
    seconds = options.seconds or 30
    with serving("-m", "stub?delay=20ms", *STUB) as (address, _):
        clients = [Client(address, 30 if n == 0 else 3) for n in range(8)]

        async def for_a_while() -> None:
            await asyncio.gather(*(client.run(10**9, seconds) for client in clients))

        asyncio.run(for_a_while())
        got = [float(client.shown) for client in clients]
        print("8 clients, the first floods: shown", *(f"{count:.0f}" for count in got))
        bar("Jain's index", jain(got), least=0.98)


def slow(options: argparse.Namespace) -> None:
    """See the module."""
    third = (options.seconds or 1800) / 3
    with (
        serving("-m", "stub?delay=10ms", *STUB) as (address, number),
        serving("-m", "stub?delay=10ms", *STUB) as (calm, _),
    ):
        process = psutil.Process(number)
        # at the rate of a camera: who asks for all there is shares it with whoever comes
        ordinary = [Client(address, window=1, pause=0.05) for _ in range(2)]
        control = [Client(calm, window=1, pause=0.05) for _ in range(2)]
        lazy, prompt = Client(address, window=3, pause=0.5), Client(calm, window=1, pause=0.5)
        memory: list[tuple[float, int]] = []
        closed, span = [0], [0.0, 0.0]

        async def remember() -> None:
            while True:
                memory.append((time.monotonic(), process.memory_info().rss))
                await asyncio.sleep(max(0.2, third / 300))

        async def stop_reading() -> None:
            from websockets.asyncio.client import connect
            from websockets.exceptions import ConnectionClosed

            where = address.replace("http", "ws") + "/v1/stream"
            hello = {"type": "hello", "width": 1280, "height": 720, "kind": "png"}
            while True:
                async with connect(where, subprotocols=["rtseg.1"], max_queue=1) as stream:  # type: ignore[list-item]
                    await stream.send(json.dumps(hello))
                    size = json.loads(await stream.recv())["input"]
                    random = np.random.default_rng(1)
                    noise = random.integers(0, 255, (size["height"], size["width"], 3), np.uint8)
                    body, sent = cv2.imencode(".jpg", noise)[1].tobytes(), 0
                    with suppress(ConnectionClosed):
                        while True:
                            sent += 1
                            await stream.send(struct.pack("<IId", sent, 0, 0.0) + body)
                            await asyncio.sleep(1 / 30)
                closed[0] += 1

        async def others() -> None:
            while min(len(client.ages) for client in (*ordinary, *control)) < 10:
                await asyncio.sleep(0.1)
            await asyncio.sleep(third)
            span[0] = time.monotonic()
            stuck = asyncio.create_task(stop_reading())
            await asyncio.gather(*(each.run(10**9, 2 * third) for each in (lazy, prompt)))
            stuck.cancel()
            span[1] = time.monotonic()

        async def everything() -> None:
            remembering = asyncio.create_task(remember())
            everyone = (*ordinary, *control)
            running = [asyncio.create_task(client.run(10**9, 1e9)) for client in everyone]
            await others()
            for task in (remembering, *running):
                task.cancel()

        asyncio.run(everything())
    begin, end = span

    def ages(clients: list[Client], since: float, until: float) -> list[float]:
        return [age for each in clients for at, age in each.ages if since <= at < until]

    alone, along = ages(ordinary, 0, begin), ages(ordinary, begin, end)
    without = ages(control, 0, begin), ages(control, begin, end)
    print("ages of others: alone", _percentiles(alone), "; beside them", _percentiles(along))
    print("of a second server's clients meanwhile:", *map(_percentiles, without), sep=" ; ")
    print("ages of the slow client", _percentiles([age for _, age in lazy.ages]))
    print(f"the client that stops reading was closed {closed[0]} times")
    p99 = [float(np.percentile(each, 99)) for each in (alone, along, *without)]
    bar("p99 of the others, beside them against alone", p99[1] / p99[0], most=1.15)
    # what else the machine does falls on both servers
    bar("the same against the second server's", p99[1] / p99[0] / (p99[3] / p99[2]), most=1.15)
    # the second half of what they disturb against its first quarter: what has grown, grows on
    disturbed = [rss for at, rss in memory if begin <= at <= end]
    early, late = disturbed[len(disturbed) // 8 : len(disturbed) // 4], disturbed[-50:]
    bar("growth of memory in MB", (np.median(late) - np.median(early)) / 1e6, most=10)
    print(f"memory {memory[0][1] / 1e6:.0f} MB at first, {max(disturbed) / 1e6:.0f} MB at most")


def _percentiles(seconds: list[float]) -> str:
    values = np.percentile(np.array(seconds) * 1e3, [50, 95, 99])
    return " / ".join(f"{value:.0f}" for value in values) + f" ms of {len(seconds)}"


# --- browsers -------------------------------------------------------------------------------------


@contextmanager
def browser(camera: Path | None = None, *flags: str) -> Iterator[Any]:
    """Chromium, whose camera is a file."""
    from playwright.sync_api import sync_playwright

    fake = [] if camera is None else [f"--use-file-for-fake-video-capture={camera}"]
    usual = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with sync_playwright() as playwright:
        program = shutil.which("chromium")
        yield playwright.chromium.launch(executable_path=program, args=[*usual, *fake, *flags])


def new_page(program: Any, **context: Any) -> Any:
    """A page that waits even on a machine that is busy with other work."""
    made = program.new_context(**context)
    made.set_default_timeout(300_000)
    return made.new_page()


NUMBERS = 64
"""Frames of the numbered camera."""


def numbered_camera(path: Path) -> Path:
    """The stub's world at 640x360: a block of class 1 whose width changes by 40 pixels
    from frame to frame, and the frame's number in eight black or white bits at the top."""
    red, green, blue = STUB_COLOUR
    with path.open("wb") as file:
        file.write(b"YUV4MPEG2 W640 H360 F30:1 Ip A1:1 C420jpeg\n")
        for number in range(NUMBERS):
            image = np.zeros((360, 640, 3), np.uint8)
            image[120:, : 80 + 40 * (number % 13)] = blue, green, red
            _write_number(image, number, 60)
            file.write(b"FRAME\n" + cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420).tobytes())
    return path


def filmed_camera(path: Path, clip: Path) -> Path:
    """A clip at 1280x720 and 30 frames a second, with the frames' numbers at the top."""
    made = ["-vf", "scale=1280:720,fps=30", "-frames:v", "150", "-pix_fmt", "bgr24"]
    whole = ["ffmpeg", "-v", "error", "-stream_loop", "9", "-i", str(clip), *made]
    command = [*whole, "-f", "rawvideo", "-"]
    raw = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    images = np.frombuffer(raw, np.uint8).reshape(-1, 720, 1280, 3).copy()
    with path.open("wb") as file:
        file.write(b"YUV4MPEG2 W1280 H720 F30:1 Ip A1:1 C420jpeg\n")
        for number, image in enumerate(images):
            _write_number(image, number, 64)
            file.write(b"FRAME\n" + cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420).tobytes())
    return path


def _write_number(image: Image, number: int, rows: int) -> None:
    width = image.shape[1] // 8
    for bit in range(8):
        image[:rows, width * bit : width * bit + width] = 255 * (number >> bit & 1)


CHECKED = """() => {
  const tiny = Object.assign(document.createElement("canvas"), {width: 640, height: 2});
  const pen = tiny.getContext("2d", {willReadFrequently: true});
  const {painter} = rtseg, draw = painter.draw.bind(painter);
  window.checked = {right: 0, wrong: 0};
  painter.draw = async (bitmap, ...rest) => {
    await draw(bitmap, ...rest);
    pen.drawImage(bitmap, 0, 30, 640, 1, 0, 0, 640, 1);
    pen.drawImage(painter.canvas, 0, 300, 640, 1, 0, 1, 640, 1);
    const {data} = pen.getImageData(0, 0, 640, 2);
    let number = 0, width = 0;
    for (let bit = 0; bit < 8; bit++) number += (data[4 * (80 * bit + 40) + 1] > 127) << bit;
    const lit = (at) => data[at] > 60 || data[at + 1] > 60 || data[at + 2] > 60;
    for (let x = 640; x < 1280; x++) width += lit(4 * x);
    window.checked[Math.abs(width - 80 - 40 * (number % 13)) <= 16 ? "right" : "wrong"] += 1;
  };
}"""

COUNTED = """async () => {
  const {count} = rtseg, total = (drops) => Object.values(drops).reduce((sum, n) => sum + n, 0);
  const open = () => count.sent - count.shown - total(count.dropped) - rtseg.inFlight();
  const pause = () => new Promise((done) => setTimeout(done, 2));
  for (let turn = 0; turn < 2000 && open(); turn++) await pause();
  return {...checked, unanswered: open(), foreign: count.wrong, sent: count.sent};
}"""
"""What was drawn; and frames neither answered nor on their way, at a time when none is drawn."""


def tabs(options: argparse.Namespace) -> None:
    """See the module."""
    with tempfile.TemporaryDirectory() as folder:
        camera = numbered_camera(Path(folder) / "camera.y4m")
        for number in map(int, options.clients.split(",")):
            with serving("-m", "stub", *STUB) as (address, _), browser(camera) as program:
                _count_in_tabs(program, address, number, options.frames)


def _count_in_tabs(program: Any, address: str, number: int, frames: int) -> None:
    pages = [new_page(program) for _ in range(number)]
    found = {"right": 0, "wrong": 0, "unanswered": 0, "foreign": 0, "sent": 0}

    def begin(page: Any) -> None:
        page.goto(f"{address}?path=2d")
        page.evaluate(CHECKED)
        page.uncheck("#mirror")
        page.uncheck("#steady")
        page.check("input[name=view][value=mask]", force=True)
        page.click("#start")

    def collect(page: Any) -> None:
        for name, count in page.evaluate(COUNTED).items():
            found[name] += count

    for page in pages:
        begin(page)
    if number > 1:  # one of them is throttled
        throttled = pages[1].context.new_cdp_session(pages[1])
        throttled.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    reloads, last = 0, time.monotonic()
    unequal = 0
    while found["right"] + sum(page.evaluate("checked.right") for page in pages) < frames:
        time.sleep(1)
        for row in requests.get(f"{address}/v1/sessions", timeout=60).json()["sessions"]:
            unequal += (
                row["received"] != row["shown"] + sum(row["dropped"].values()) + row["waiting"]
            )
        if time.monotonic() - last > 5:  # and one reloads
            collect(pages[-1])
            begin(pages[-1])
            reloads, last = reloads + 1, time.monotonic()
    for page in pages:
        collect(page)
    print(f"{number} tabs: {found['right'] + found['wrong']} frames drawn, {reloads} reloads")
    bar("frames with a mask that is not theirs", found["wrong"], most=0)
    bar("answers to no frame", found["foreign"], most=0)
    bar("pages: sent - shown - dropped - on their way", abs(found["unanswered"]), most=0)
    bar("server: times that received was not shown + dropped + waiting", unequal, most=0)


def canvas(options: argparse.Namespace) -> None:
    """See the module."""
    seconds = options.seconds or 30
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        camera = filmed_camera(Path(folder) / "camera.y4m", options.clip)
        ours = stack.enter_context(serving(*PERSON, "--max-jobs", "0"))[0]
        places = {
            "rtseg": ours,
            "rtseg, steady": ours,
            "plain": stack.enter_context(peer("plain"))[0],
        }
        if options.link:
            places = {name: stack.enter_context(behind_a_link(places[name])) for name in places}
        else:
            places["aiortc"] = stack.enter_context(peer("webrtc"))[0]
        program = stack.enter_context(browser(camera))
        ages: dict[str, list[float]] = {name: [] for name in places}
        for name, address in list(places.items()) * options.turns:
            own = _ages(program, name, address, seconds)
            ages[name] += own
            print(f"{name}: {_percentiles(own)}, {len(own) / seconds:.1f} a second", flush=True)
    p50 = {name: float(np.median(own)) * 1e3 for name, own in ages.items()}
    for name, own in ages.items():
        print(f"{name}, all: {_percentiles(own)}")
    for name in ("rtseg", "rtseg, steady"):
        bar(f"{name}: p50 against the plain loop's", p50[name] / p50["plain"],
            most=0.5 if options.link else 1.0)  # fmt: skip
        if not options.link:
            bar(f"{name}: p50 against aiortc's", p50[name] / p50["aiortc"], most=0.4)
    if not options.link:
        own = command_age(seconds)
        print(
            f"the command line's own age: {own['p50']:.0f} / {own['p95']:.0f} / {own['p99']:.0f} ms"
        )
        bar("rtseg: p50 less the command line's, ms", p50["rtseg"] - own["p50"], most=25)


def _ages(program: Any, name: str, address: str, seconds: float) -> list[float]:
    """Ages of what a page shows, in seconds, once it runs."""
    page = new_page(program)
    page.goto(address)
    script = "ages"
    if name.startswith("rtseg"):
        page.set_checked("#steady", "steady" in name)
        page.click("#start")
        script = "rtseg.ages()"
    until = time.monotonic() + 300
    while page.evaluate(f"{script}.length") < 10:
        assert time.monotonic() < until, f"{name} shows nothing"
        time.sleep(0.2)
    time.sleep(3)
    begin = page.evaluate("performance.now()")
    found: dict[float, float] = {}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(max(0.0, min(3.0, until - time.monotonic())))
        found |= {at: age for at, age in page.evaluate(script) if at > begin}
    page.close()
    return [age / 1e3 for age in found.values()]


def command_age(seconds: float) -> dict[str, float]:
    """Milliseconds from capture to the sink in a run over a camera of the same size."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        source = f"test://?size=1280x720&fps=30&frames={30 * seconds:.0f}&live=1"
        command = [sys.executable, "-m", "rtseg", source, *PERSON, "--no-show", "-q"]
        subprocess.run([*command, "--metrics", report], check=True)
        return json.loads(report.read_text())["age_ms"]  # type: ignore[no-any-return]


# --- images ---------------------------------------------------------------------------------------


def segment(options: argparse.Namespace) -> None:
    """See the module."""
    image = read_image(options.picture, SourceError) if options.picture else _noise()
    body = cv2.imencode(".jpg", cv2.resize(image, (1280, 720)))[1].tobytes()
    with serving(*PERSON, "--max-jobs", "0") as ours, peer("plain") as plain:
        servers = {
            "rtseg": (f"{ours[0]}/v1/segment", ours[1]),
            "plain": (f"{plain[0]}/segment", plain[1]),
        }
        for callers in (1, 4, 16):
            rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in servers}
            for name, (url, process) in list(servers.items()) * 2:
                before = _processor_seconds(process)
                seconds, total = asyncio.run(_calls(url, body, callers, options.calls))
                used = (_processor_seconds(process) - before) / len(seconds)
                rows[name].append((float(np.median(seconds)), len(seconds) / total, used))
            own, other = (np.mean(rows[name], axis=0) for name in servers)
            print(f"{callers} callers: p50 {own[0] * 1e3:.0f} ms beside {other[0] * 1e3:.0f} ms, "
                  f"{own[1]:.1f} a second beside {other[1]:.1f}, processor time "
                  f"{own[2] * 1e3:.1f} ms an image beside {other[2] * 1e3:.1f}")  # fmt: skip
            bar("p50 against FastAPI's", own[0] / other[0], most=1.05)
            bar("images a second against FastAPI's", own[1] / other[1], least=0.95)
            bar("processor time against FastAPI's", own[2] / other[2], most=1.1)


def _processor_seconds(process: int) -> float:
    """That a process has used, which the load of the machine hardly changes."""
    times = psutil.Process(process).cpu_times()
    return times.user + times.system


async def _calls(url: str, body: bytes, callers: int, calls: int) -> tuple[list[float], float]:
    seconds: list[float] = []
    since = time.monotonic()

    async def caller(session: requests.Session) -> None:
        for _ in range(max(3, calls // callers)):
            begin = time.monotonic()
            answer = await asyncio.to_thread(session.post, url, data=body, timeout=120)
            assert answer.ok, answer.text
            seconds.append(time.monotonic() - begin)

    await asyncio.gather(*(caller(requests.Session()) for _ in range(callers)))
    return seconds, time.monotonic() - since


def _noise() -> Image:
    return np.random.default_rng(1).integers(0, 255, (720, 1280, 3), np.uint8)


# --- pixels ---------------------------------------------------------------------------------------

SHRUNK = """async ([address, width, height]) => { // as the page does
  const bitmap = await createImageBitmap(await (await fetch(address)).blob());
  const small = Object.assign(document.createElement("canvas"), {width, height});
  const pen = small.getContext("2d", {alpha: false});
  pen.imageSmoothingQuality = "medium";
  pen.drawImage(bitmap, 0, 0, width, height);
  return small.toDataURL("image/jpeg", 0.99);
}"""

DRAWN = """async ([kind, width, height, payload, full, network]) => {
  const blank = Object.assign(document.createElement("canvas"), {width: full[0], height: full[1]});
  blank.getContext("2d");
  Object.assign(rtseg.painter, {network, keep: new Set([1])});
  const bytes = Uint8Array.from(atob(payload), (letter) => letter.charCodeAt(0));
  await rtseg.painter.draw(await createImageBitmap(blank), kind, width, height, bytes.buffer);
  const copy = Object.assign(document.createElement("canvas"), {width: full[0], height: full[1]});
  copy.getContext("2d").drawImage(rtseg.painter.canvas, 0, 0);
  return copy.toDataURL("image/png");
}"""


def pixels(options: argparse.Namespace) -> None:
    """See the module."""
    from websockets.sync.client import connect

    names = sorted(path for path in options.pictures.iterdir() if path.is_file())
    chosen = names[:: max(1, len(names) // options.count)][: options.count]
    equal: dict[str, list[float]] = {"png": [], "logits32": [], "logits16": [], "small": []}
    ious: list[float] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        inputs, masks = folder / "in", folder / "masks"
        inputs.mkdir()
        images = {}
        for number, path in enumerate(chosen):  # of the camera's size, without loss
            image = read_image(path, SourceError)
            images[number] = cv2.resize(image, (1280, 720), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(inputs / f"{number:04}.png"), images[number])
        command = [sys.executable, "-m", "rtseg", str(inputs), *PERSON, "-q", "--no-show"]
        subprocess.run([*command, "--mask-output", f"{masks}/"], check=True)
        address, _ = stack.enter_context(serving(*PERSON, "--max-jobs", "0"))
        software = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
        program = stack.enter_context(browser(None, *software))
        pages = {}
        for way in ("2d", "gl"):
            pages[way] = new_page(program, bypass_csp=True)
            pages[way].goto(f"{address}?path={way}")
            pages[way].check("input[name=view][value=mask]", force=True)
            pages[way].uncheck("#mirror")
        for number, image in images.items():
            (path,) = masks.glob(f"{number:04}*.png")
            own = _indices(path)
            for kind in ("png", "logits32", "logits16"):
                where = address.replace("http", "ws") + "/v1/stream"
                with connect(where, open_timeout=60, max_size=None) as stream:
                    hello = {"type": "hello", "width": 1280, "height": 720, "kind": kind}
                    stream.send(json.dumps(hello))
                    network = json.loads(stream.recv())
                    bodies = {kind: cv2.imencode(".png", image)[1].tobytes()}
                    if kind == "png":
                        url = "data:image/png;base64," + base64.b64encode(bodies[kind]).decode()
                        size = [network["input"]["width"], network["input"]["height"]]
                        bodies["small"] = _content(pages["2d"].evaluate(SHRUNK, [url, *size]))
                    for turn, (name, body) in enumerate(bodies.items()):
                        stream.send(struct.pack("<IId", turn + 1, 0, 0.0) + body)
                        answer = stream.recv()
                        assert isinstance(answer, bytes)
                        _, code, _, _, width, height, *_ = HEADER.unpack_from(answer)
                        payload = base64.b64encode(answer[HEADER.size :]).decode()
                        page = pages["2d" if kind == "png" else "gl"]
                        given = [code, width, height, payload, [1280, 720], network]
                        shown = _content(page.evaluate(DRAWN, given))
                        drawn = cv2.imdecode(np.frombuffer(shown, np.uint8), cv2.IMREAD_COLOR)
                        mask = drawn.any(-1)
                        equal[name].append(float(np.mean(mask == (own == 1))))
                        if name == "small":
                            either = np.count_nonzero(mask | (own == 1))
                            both = np.count_nonzero(mask & (own == 1))
                            ious.append(both / either if either else 1.0)
    print(f"{len(chosen)} images at 1280x720, pixels as the command line's, mean (worst):")
    for name, least in (("png", 1), ("logits32", 1), ("logits16", 0.99999), ("small", 0.998)):
        print(f"  {name}: {np.mean(equal[name]):.7f} ({min(equal[name]):.7f})")
        bar(name, float(np.mean(equal[name])), least=least)
    bar("small: IoU", float(np.mean(ious)), least=0.99)


def _content(address: str) -> bytes:
    """Of a data: address."""
    return base64.b64decode(address.partition(",")[2])


def _indices(path: Path) -> Any:
    """(H, W) indices of a palette PNG."""
    from PIL import Image as Pillow

    with Pillow.open(path) as image:
        return np.array(image)


# --- jobs -----------------------------------------------------------------------------------------


def job(options: argparse.Namespace) -> None:
    """See the module."""
    seconds = options.seconds or 30
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _killed(film_of(options.clip, folder / "short.mp4", min(8.0, seconds)), folder)
        film = film_of(options.clip, folder / "film.mp4", 4 * seconds)
        address, _ = stack.enter_context(serving(*PERSON, "--job-dir", str(folder / "jobs")))
        alone, along = Client(address), Client(address)
        asyncio.run(alone.run(10**9, seconds))
        where = _sent(address, film)
        _until_frames(where)
        asyncio.run(along.run(10**9, seconds))
        found = requests.get(where, timeout=60).json()
        assert found["state"] == "running", f"it is {found['state']}: give a shorter --seconds"
        (worker,) = [
            each
            for each in psutil.process_iter(["cmdline"])
            if str(folder / "jobs") in " ".join(each.info["cmdline"] or ())
            and "rtseg.cli.child" in " ".join(each.info["cmdline"])
        ]
        since = time.monotonic()
        requests.delete(where, timeout=60)
        cancelled = time.monotonic() - since
        ended = not psutil.pid_exists(worker.pid)
    print("the job made", found["frames"], "frames meanwhile")
    both = [[age for _, age in client.ages] for client in (alone, along)]
    print("ages: alone", _percentiles(both[0]), "; beside the job", _percentiles(both[1]))
    p99 = [float(np.percentile(ages, 99)) for ages in both]
    bar("p99 beside a job against alone", p99[1] / p99[0], most=1.3)
    bar("seconds until a cancelled job is gone", cancelled if ended else np.inf, most=1)


def _killed(film: Path, folder: Path) -> None:
    """kill -9 of the server in upload, run and download; the files against the command line's."""
    content, own, served = film.read_bytes(), folder / "own.mp4", folder / "served.mp4"
    command = [sys.executable, "-m", "rtseg", film, *PERSON, "--no-show", "-q", "-o", own]
    subprocess.run(command, check=True)
    flags, half = (*PERSON, "--job-dir", str(folder / "killed")), len(content) // 2
    written = max(0, half - BLOCK_BYTES)  # the rest may wait for more of its block

    def part(first: int) -> dict[str, str]:
        return {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}

    with serving(*flags) as (address, server):
        name = requests.post(f"{address}/v1/jobs", timeout=60).json()["id"]

        def body() -> Iterator[bytes]:
            yield content[:half]
            until = time.monotonic() + 60
            while requests.get(where, timeout=60).json()["received"] < written:
                assert time.monotonic() < until
            psutil.Process(server).kill()
            yield content[half:]

        where = f"{address}/v1/jobs/{name}"
        with suppress(requests.ConnectionError):
            requests.put(f"{where}/input", data=body(), headers=part(0), timeout=60)
    with serving(*flags) as (address, server):
        where = f"{address}/v1/jobs/{name}"
        received = requests.get(where, timeout=60).json()["received"]
        bar("bytes of a broken upload that were kept", received, least=written)
        requests.put(
            f"{where}/input", data=content[received:], headers=part(received), timeout=600
        ).raise_for_status()
        frames = _until_frames(where)
        psutil.Process(server).kill()
    with serving(*flags) as (address, server):
        where = f"{address}/v1/jobs/{name}"
        while (found := requests.get(where, timeout=60).json())["state"] != "done":
            assert found["state"] in ("queued", "running"), found
            time.sleep(0.2)
        size = found["outputs"]["video"]["bytes"]
        with requests.get(f"{where}/output", stream=True, timeout=60) as answer:
            tag, first = answer.headers["etag"], answer.raw.read(size // 2)
            psutil.Process(server).kill()
    with serving(*flags) as (address, _):
        rest = {"Range": f"bytes={len(first)}-", "If-Range": tag}
        answer = requests.get(f"{address}/v1/jobs/{name}/output", headers=rest, timeout=60)
        bar("status of the rest of a broken download", answer.status_code, least=206, most=206)
        served.write_bytes(first + answer.content)
    ours, theirs = _decoded(served), _decoded(own)
    print(f"killed at {half} bytes of the upload, {frames} frames and {len(first)} bytes of the "
          f"result; {len(theirs[0])} frames and {len(theirs[1])} packets of sound")  # fmt: skip
    for what, mine, other in zip(("frames", "packets of sound"), ours, theirs, strict=True):
        differ = abs(len(mine) - len(other)) + sum(
            a != b for a, b in zip(mine, other, strict=False)
        )
        bar(f"{what} that are not the command line's", differ, most=0)


def film_of(clip: Path, path: Path, seconds: float) -> Path:
    """A clip again and again, at 1280x720, with sound."""
    loop = ["-stream_loop", "-1", "-i", clip, "-f", "lavfi", "-i", "sine", "-t", f"{seconds:g}"]
    made = ["-map", "0:v", "-map", "1:a", "-vf", "scale=1280:720", "-preset", "ultrafast", path]
    subprocess.run(["ffmpeg", "-v", "error", *loop, *made], check=True)
    return path


def _sent(address: str, film: Path) -> str:
    """The address of a new job for a film."""
    name = requests.post(f"{address}/v1/jobs", timeout=60).json()["id"]
    with film.open("rb") as body:
        requests.put(f"{address}/v1/jobs/{name}/input", data=body, timeout=600).raise_for_status()
    return f"{address}/v1/jobs/{name}"


def _until_frames(where: str) -> int:
    """Frames of a job, once it has made some."""
    while not (frames := requests.get(where, timeout=60).json().get("frames")):
        time.sleep(0.1)
    return int(frames)


def _decoded(path: Path) -> tuple[list[bytes], list[bytes]]:
    """The frames of a file, and the packets of its sound."""
    with av.open(str(path)) as file:
        frames = [frame.to_ndarray().tobytes() for frame in file.decode(video=0)]
    with av.open(str(path)) as file:
        return frames, [bytes(packet) for packet in file.demux(audio=0)]


MEASURES = {
    each.__name__: each for each in (streams, tabs, fair, slow, segment, canvas, pixels, job)
}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--clients", default="1,4,8")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--calls", type=int, default=96)
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--link", action="store_true")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--count", type=int, default=20)
    options = parser.parse_args()
    needed = {"canvas": "clip", "job": "clip", "pixels": "pictures"}.get(options.what)
    if needed and getattr(options, needed) is None:
        parser.error(f"{options.what} needs --{needed}")
    MEASURES[options.what](options)


if __name__ == "__main__":
    main()
