"""Measures `rtseg serve` beside simpler servers of the same network, in one run, and prints ratios.

    python tools/serve_measure.py streams [--frames 10000] [--clients 1,4,8]
    python tools/serve_measure.py slow [--seconds 120]
    python tools/serve_measure.py segment [--picture FILE]
    python tools/serve_measure.py canvas --clip FILE [--seconds 15]

streams: frames with a wrong mask, and whether each was answered once; one client floods, and Jain's
index of the frames that each got. slow: ages of ordinary clients before and while one client reads
at half speed and one not at all, and the server's memory. segment: `POST /v1/segment` beside a
plain server. canvas: the age of what a browser shows, from camera to canvas, beside a page that
sends JPEGs of the camera's size and gets JPEGs with the overlay back; in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import requests

import rtseg
from rtseg.frame import Image
from rtseg.serve.stream import DROPPED, HEADER

SIZE = 200, 320
BACKEND = "onnx"
"""Of both."""

PLAIN = """
import asyncio, sys
import cv2, numpy as np, uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, WebSocketRoute
import rtseg
from rtseg.effects import ViewOptions, open_effect
from rtseg.frame import Frame
from rtseg.sinks.masks import palette, palette_png

segmenter = rtseg.load("person", backend=sys.argv[1])
effect = open_effect(ViewOptions(), segmenter.labels)
one = asyncio.Lock()

def mask(content):
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    found = segmenter(image)
    return palette_png(found.mask, palette(found.labels))

def overlay(content):
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    drawn = effect(Frame(image, 0, 0.0, 0.0), segmenter(image))
    return cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()

async def segment(request):
    body = await request.body()
    async with one:
        return Response(await run_in_threadpool(mask, body), media_type="image/png")

async def stream(socket):
    await socket.accept()
    while True:
        body = await socket.receive_bytes()
        await socket.send_bytes(await run_in_threadpool(overlay, body))

async def page(request):
    return HTMLResponse(PAGE)

PAGE = '''<!doctype html><canvas id=canvas></canvas><script>
const video = document.createElement("video"), whole = document.createElement("canvas");
const pen = document.getElementById("canvas").getContext("2d", {alpha: false});
let fresh = false, at = 0, busy = false;
window.ages = [];
const socket = new WebSocket("ws://" + location.host + "/stream");
socket.binaryType = "arraybuffer";
async function send() {
  if (!fresh || busy || socket.readyState !== 1) return;
  busy = true; fresh = false;
  const sent = at;
  [whole.width, whole.height] = [video.videoWidth, video.videoHeight];
  whole.getContext("2d", {alpha: false}).drawImage(video, 0, 0);
  const blob = await new Promise((done) => whole.toBlob(done, "image/jpeg", 0.85));
  socket.onmessage = async ({data}) => {
    busy = false;
    send();
    const bitmap = await createImageBitmap(new Blob([data], {type: "image/jpeg"}));
    [pen.canvas.width, pen.canvas.height] = [bitmap.width, bitmap.height];
    pen.drawImage(bitmap, 0, 0);
    requestAnimationFrame(() => ages.push(performance.now() - sent));
  };
  socket.send(await blob.arrayBuffer());
}
function each() {
  at = performance.now(); fresh = true; send();
  video.requestVideoFrameCallback(each);
}
const size = {width: {ideal: 1280}, height: {ideal: 720}};
navigator.mediaDevices.getUserMedia({video: size}).then(async (camera) => {
  video.srcObject = camera; video.muted = true; await video.play(); each();
});
</script>'''
post = Route("/segment", segment, methods=["POST"])
app = Starlette(routes=[Route("/", page), post, WebSocketRoute("/stream", stream)])
plain = {"ws": "websockets-sansio", "ws_per_message_deflate": False, "log_level": "critical"}
uvicorn.run(app, port=int(sys.argv[2]), **plain)
"""


@contextmanager
def serving(*flags: str) -> Iterator[tuple[str, int]]:
    """`rtseg serve`: its address and the number of its process."""
    command = [sys.executable, "-m", "rtseg", "serve", "--port", "0", "--max-jobs", "0", *flags]
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


@contextmanager
def plainly_serving() -> Iterator[str]:
    """The simplest server of the same network."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", PLAIN, BACKEND, str(port)])
    try:
        _until_there(f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}"
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
        async with connect(self.address, subprotocols=["rtseg.1"], open_timeout=60) as socket:  # type: ignore[list-item]
            await socket.send(json.dumps(hello))
            welcome = json.loads(await socket.recv())
            size = welcome["input"]["height"], welcome["input"]["width"]
            bodies = [cv2.imencode(".png", block(size, n))[1].tobytes() for n in range(7)]
            with rtseg.load("stub") as stub:
                areas = [_area(stub(block(size, n)).at_size(SIZE).mask) for n in range(7)]
            own, waiting, until = welcome["window"], dict[int, float](), time.monotonic() + seconds
            while True:
                more = self.sent < frames and time.monotonic() < until
                if more and len(waiting) < (self.window or own):
                    self.sent += 1
                    waiting[self.sent] = time.monotonic()
                    head = struct.pack("<IId", self.sent, 0, 0.0)
                    await socket.send(head + bodies[self.sent % 7])
                    continue
                if not waiting:
                    return
                message = await socket.recv()
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
                    self.wrong += _area(alpha) != areas[number % 7]
                if self.pause:
                    await asyncio.sleep(self.pause)


def block(size: tuple[int, int], number: int) -> Image:
    """A block of class 1 of the stub, as wide as the number says."""
    height, width = size
    red, green, blue = rtseg.load("stub").labels.colours[1]
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width * (number + 1) // 8] = blue, green, red
    return image


def _area(mask: Any) -> int:
    return int(np.count_nonzero(mask))


def jain(values: list[float]) -> float:
    """Jain's index of fairness: 1 where all have the same."""
    return sum(values) ** 2 / (len(values) * sum(value**2 for value in values))


def streams(options: argparse.Namespace) -> None:
    """See the module."""
    for number in map(int, options.clients.split(",")):
        with serving("-m", "stub?delay=4ms", "-b", "stub") as (address, _):
            # one of several floods, one is throttled
            clients = [Client(address, 30 if n == 1 else None) for n in range(number)]
            clients[-1].pause = 0.05 if number > 2 else 0.0

            async def all_of_them(clients: list[Client] = clients) -> None:
                share = options.frames // len(clients)
                await asyncio.gather(*(client.run(share, 600) for client in clients))

            asyncio.run(all_of_them())
            sent, shown, dropped, wrong = (
                sum(getattr(client, name) for client in clients)
                for name in ("sent", "shown", "dropped", "wrong")
            )
            print(f"{number} clients: sent {sent} = shown {shown} + dropped {dropped}: "
                  f"{sent == shown + dropped}, wrong {wrong}", flush=True)  # fmt: skip
    with serving("-m", "stub?delay=20ms", "-b", "stub") as (address, _):
        clients = [Client(address, 30 if n == 0 else 3) for n in range(8)]

        async def for_a_while() -> None:
            await asyncio.gather(*(client.run(10**9, options.seconds) for client in clients))

        asyncio.run(for_a_while())
        got = [float(client.shown) for client in clients]
        print(f"8 clients, the first floods: shown {got}, Jain's index {jain(got):.4f}")


def slow(options: argparse.Namespace) -> None:
    """See the module."""
    with serving("-m", "stub?delay=10ms", "-b", "stub") as (address, number):
        process, third = psutil.Process(number), options.seconds / 3
        ordinary = [Client(address) for _ in range(2)]
        lazy = Client(address, window=3, pause=0.5)
        memory = {}

        async def stop_reading() -> None:
            from websockets.asyncio.client import connect

            where = address.replace("http", "ws") + "/v1/stream"
            async with connect(where, subprotocols=["rtseg.1"], max_queue=1) as socket:  # type: ignore[list-item]
                hello = {"type": "hello", "width": 1280, "height": 720, "kind": "png"}
                await socket.send(json.dumps(hello))
                size = json.loads(await socket.recv())["input"]
                random = np.random.default_rng(1)
                noise = random.integers(0, 255, (size["height"], size["width"], 3), np.uint8)
                body = cv2.imencode(".jpg", noise)[1].tobytes()
                sent, until = 0, time.monotonic() + third
                while time.monotonic() < until:
                    sent += 1
                    try:
                        await socket.send(struct.pack("<IId", sent, 0, 0.0) + body)
                    except Exception as error:
                        print(f"the client that stops reading was closed: {error}"[:100])
                        return
                    await asyncio.sleep(1 / 30)

        async def others() -> None:
            memory["before"] = process.memory_info().rss
            await asyncio.sleep(third)
            memory["quiet"] = process.memory_info().rss
            started = time.monotonic()
            stuck = asyncio.create_task(stop_reading())
            await lazy.run(10**9, third)
            stuck.cancel()
            memory["disturbed"] = process.memory_info().rss
            spans.append((started, time.monotonic()))

        spans: list[tuple[float, float]] = []

        async def everything() -> None:
            everybody = [client.run(10**9, options.seconds) for client in ordinary]
            await asyncio.gather(*everybody, others())

        asyncio.run(everything())
        begin, end = spans[0]
        ages = [row for client in ordinary for row in client.ages]
        alone = [age for at, age in ages if at < begin]
        along = [age for at, age in ages if begin <= at <= end]
        print("ages of others, alone", _percentiles(alone), "beside them", _percentiles(along))
        print({name: f"{value / 1e6:.0f} MB" for name, value in memory.items()})


def _percentiles(seconds: list[float]) -> str:
    values = np.percentile(np.array(seconds) * 1e3, [50, 95, 99])
    return " / ".join(f"{value:.0f}" for value in values) + f" ms of {len(seconds)}"


# --- images ---------------------------------------------------------------------------------------


def segment(options: argparse.Namespace) -> None:
    """See the module."""
    image = cv2.imread(str(options.picture)) if options.picture else _noise()
    body = cv2.imencode(".jpg", cv2.resize(image, (1280, 720)))[1].tobytes()
    with serving("-m", "person", "-b", BACKEND) as (ours, _), plainly_serving() as plain:
        for callers in (1, 4, 16):
            rows = []
            for name, url in (("rtseg", f"{ours}/v1/segment"), ("plain", f"{plain}/segment")) * 2:
                seconds, total = asyncio.run(_calls(url, body, callers, options.calls))
                rows.append((name, float(np.median(seconds)), len(seconds) / total))
            print(callers, "callers:", _beside(rows), flush=True)


def _beside(rows: list[tuple[str, float, float]]) -> str:
    own, other = (
        [np.mean([row[n] for row in rows if row[0] == name]) for n in (1, 2)]
        for name in ("rtseg", "plain")
    )
    return (
        f"p50 {own[0] * 1e3:.0f} ms beside {other[0] * 1e3:.0f} ms ({own[0] / other[0]:.2f}), "
        f"{own[1]:.1f} a second beside {other[1]:.1f} ({own[1] / other[1]:.2f})"
    )


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


# --- camera to canvas -----------------------------------------------------------------------------


def canvas(options: argparse.Namespace) -> None:
    """See the module."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        camera = Path(folder) / "camera.y4m"
        scaled = ["-vf", "scale=1280:720,fps=30", "-pix_fmt", "yuv420p", "-frames:v", "150"]
        subprocess.run(["ffmpeg", "-v", "error", "-i", options.clip, *scaled, camera], check=True)
        with serving("-m", "person", "-b", BACKEND) as (ours, _), plainly_serving() as plain:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"),
                args=[
                    "--no-sandbox",
                    "--use-fake-ui-for-media-stream",
                    "--use-fake-device-for-media-stream",
                    f"--use-file-for-fake-video-capture={camera}",
                ],
            )
            found: dict[str, list[float]] = {"rtseg": [], "rtseg, steady": [], "plain": []}
            for name in list(found) * options.turns:
                page = browser.new_page()
                page.goto(plain if name == "plain" else ours)
                if name != "plain":
                    page.set_checked("#steady", "steady" in name)
                    page.click("#start")
                time.sleep(3 + options.seconds)  # the first are warming up
                script = "ages" if name == "plain" else "rtseg.ages().map((row) => row[1])"
                ages = page.evaluate(script)
                found[name] += [age / 1e3 for age in ages[-round(len(ages) * 0.8) :]]
                page.close()
            browser.close()
    for name, ages in found.items():
        print(f"{name}: {_percentiles(ages)}")
    half = [float(np.median(found[name])) for name in ("rtseg", "rtseg, steady", "plain")]
    print(f"p50 beside the plain loop's: {half[0] / half[2]:.2f}, steady {half[1] / half[2]:.2f}")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("streams", "slow", "segment", "canvas"))
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--clients", default="1,4,8")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--calls", type=int, default=48)
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    globals()[options.what](options)


if __name__ == "__main__":
    main()
