"""Network streams, from real servers on this machine: lost, back, back at another size."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import FakeDevice, Plugged
from test_sources_video import numbered

from rtseg.errors import SourceError
from rtseg.frame import Frame
from rtseg.sources import SourceOptions, open_source
from rtseg.sources.options import public_name
from rtseg.sources.synthetic import read_number
from rtseg.stats import Clock, ManualClock

QUICK = SourceOptions(timeout=10.0)
SYSTEM_PYTHON = "/usr/bin/python3"


class Cameras(http.server.BaseHTTPRequestHandler):
    """An MJPEG camera: each request takes the next of `sizes`, and gets `count` pictures."""

    protocol_version = "HTTP/1.0"
    sizes: list[tuple[int, int]]
    count: int

    def do_GET(self) -> None:
        if not self.sizes:
            self.send_error(404)
            return
        width, height = self.sizes.pop(0)
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for frame in open_source(f"test://?size={width}x{height}&frames={self.count}"):
            jpeg = cv2.imencode(".jpg", frame.image)[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(handler: type) -> Iterator[int]:
    """A server in a thread, on a port of its own."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def cameras(*sizes: tuple[int, int], count: int = 12) -> type[Cameras]:
    return type("Scripted", (Cameras,), {"sizes": list(sizes), "count": count})


class Hurried(Clock):
    """The real clock, but waiting for a stream to come back takes no time."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def now(self) -> float:
        return super().now() + self.skipped

    def sleep(self, seconds: float) -> None:
        self.skipped += max(0.0, seconds)


def test_a_stream_drops_and_comes_back_at_another_size() -> None:
    with serving(cameras((320, 240), (160, 128), (96, 64))) as port:
        address = f"http://127.0.0.1:{port}/video.mjpg"
        frames: list[Frame] = []
        sizes = []
        with open_source(address, QUICK, clock=Hurried()) as source:
            assert source.info.live
            assert source.info.frame_count is None
            assert (source.info.width, source.info.height) == (320, 240)
            for frame in source:
                frames.append(frame)
                sizes.append((source.info.width, source.info.height))
                assert frame.size == sizes[-1][::-1]
                if sizes[-1] == (96, 64):
                    break
            assert source.outages == 2
            assert source.notice is None
    assert list(dict.fromkeys(sizes)) == [(320, 240), (160, 128), (96, 64)]
    assert [f.index for f in frames] == list(range(len(frames)))
    pts = [f.pts for f in frames]
    assert pts[0] == 0.0
    assert pts == sorted(pts)
    first_of_next = sizes.index((160, 128))
    assert frames[first_of_next].pts - frames[first_of_next - 1].pts >= 0.5
    # What came was what was sent: the number of its frame, through JPEG and HTTP.
    before = [read_number(f.image) for f in frames[:first_of_next]]
    assert before == list(range(before[0], before[0] + len(before)))
    assert len(before) >= 8


def test_a_stream_lost_for_good_is_an_error_without_reconnect() -> None:
    with serving(cameras((96, 64))) as port:
        options = SourceOptions(timeout=5.0, reconnect=False)
        with open_source(f"http://127.0.0.1:{port}/x", options) as source:
            got = []
            with pytest.raises(SourceError, match=r"http://127.0.0.1:\d+/x was lost"):
                got.extend(frame.index for frame in source)
            assert len(got) >= 8


def test_interrupt_ends_the_wait_for_a_lost_stream() -> None:
    class Interrupting(Hurried):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            notices.append(source.notice)
            if self.skipped > 3:
                source.interrupt()

    notices: list[str | None] = []
    with serving(cameras((96, 64))) as port:
        source = open_source(f"http://me:pw@127.0.0.1:{port}/x", QUICK, clock=Interrupting())
        assert len(list(source)) >= 8
        source.close()
    assert list(dict.fromkeys(notices)) == [
        f"reconnecting to http://me@127.0.0.1:{port}/x (try {n})" for n in (1, 2, 3)
    ]
    assert source.outages == 1


def test_a_server_that_says_no_at_first_is_an_error() -> None:
    with serving(cameras()) as port, pytest.raises(SourceError) as caught:
        open_source(f"http://me:pw@127.0.0.1:{port}/x?token=abc", QUICK)
    assert "127.0.0.1 answers: 404 Not Found. Check the path, the user and" in str(caught.value)
    assert "pw" not in str(caught.value)
    assert "abc" not in str(caught.value)


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers /401/..., /503/... with that status, whatever is asked for."""

    def do_GET(self) -> None:
        self.send_error(int(self.path.split("/")[1]))

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "401 Unauthorized"), (410, "4XX Client Error"), (503, "5XX Server Error")],
)
def test_how_a_server_refuses_is_told(status: int, said: str) -> None:
    with serving(Refusing) as port, pytest.raises(SourceError) as caught:
        open_source(f"http://127.0.0.1:{port}/{status}/live", QUICK)
    assert f"127.0.0.1 answers: {said}. Check the path" in str(caught.value)


def test_how_an_rtsp_server_refuses_is_told() -> None:
    class NotFound(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            request = b""
            while line := self.rfile.readline():
                request += line
                if line == b"\r\n":
                    number = re.search(rb"CSeq: (\d+)", request)
                    assert number is not None
                    answer = b"RTSP/1.0 404 Not Found\r\nCSeq: " + number[1] + b"\r\n\r\n"
                    self.wfile.write(answer)
                    request = b""

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), NotFound) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        port = server.server_address[1]
        with pytest.raises(SourceError, match=r"127.0.0.1 answers: 404 Not Found"):
            open_source(f"rtsp://127.0.0.1:{port}/live", QUICK)
        server.shutdown()
        thread.join()


def test_a_page_is_not_video() -> None:
    class Page(Refusing):
        def do_GET(self) -> None:
            page = b"<html><body>Sign in</body></html>" * 400
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

    with serving(Page) as port, pytest.raises(SourceError, match="what it sends is not video"):
        open_source(f"http://127.0.0.1:{port}/", QUICK)


def test_a_server_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(SourceError, match=f"port {port} of 127.0.0.1: connection refused"):
            open_source(f"rtsp://127.0.0.1:{port}/live", QUICK)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_server_that_is_silent_is_given_up_in_time(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        begun = time.monotonic()
        with pytest.raises(SourceError, match=r"gave no video within 0.5 s"):
            open_source(f"{scheme}://127.0.0.1:{port}/live", SourceOptions(timeout=0.5))
        assert time.monotonic() - begun < 20  # FFmpeg's own limit is 30 s


def test_a_port_that_is_no_number() -> None:
    with pytest.raises(SourceError, match="cannot open rtsp://host:many/live"):
        open_source("rtsp://host:many/live", QUICK)


def test_a_stream_is_decoded_without_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice([Plugged()])
    monkeypatch.setattr(cv2, "VideoCapture", device)
    open_source("rtsp://host/live", SourceOptions(timeout=2.5)).close()
    ((_, backend, params),) = device.opened
    asked = dict(zip(params[::2], params[1::2], strict=True))
    assert backend == cv2.CAP_FFMPEG
    assert asked == {
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: 2500,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC: 2500,
        cv2.CAP_PROP_N_THREADS: 1,
    }


@pytest.mark.parametrize(("level", "heard"), [("", False), ("INFO", True)])
def test_libraries_are_heard_only_by_those_who_ask(tmp_path: Path, level: str, heard: bool) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 999)
    code = (
        "import sys; from rtseg.sources.capture import open_capture; "
        "print(open_capture(sys.argv[1]))"
    )
    asked = {k: v for k, v in os.environ.items() if not k.startswith("OPENCV")}
    asked |= {"OPENCV_LOG_LEVEL": level, "OPENCV_FFMPEG_LOGLEVEL": "32"} if level else {}
    command = [sys.executable, "-c", code, str(tmp_path / "broken.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, env=asked)
    assert done.stdout.endswith("None\n")
    assert (done.stdout + done.stderr != "None\n") == heard


def test_the_wait_doubles_up_to_eight_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    plugs = [Plugged(frames=1), *[None] * 6, Plugged()]
    monkeypatch.setattr(cv2, "VideoCapture", FakeDevice(plugs))
    clock = ManualClock()
    with open_source("rtsp://host/live", clock=clock) as source:
        next(iter(source))
    assert clock.time == pytest.approx(0.5 + 1 + 2 + 4 + 8 + 8 + 8)
    assert source.outages == 1


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("rtsp://host/live", "rtsp://host/live"),
        ("rtsp://me:secret@host:554/live", "rtsp://me@host:554/live"),
        ("rtsp://me:se@cr:et@host/live", "rtsp://me@host/live"),
        ("rtsp://me:se/cr@host/live?a=1", "rtsp://me@host/live?a=1"),
        ("http://host/x?user=me&password=pw&n=1", "http://host/x?user=me&password=***&n=1"),
        ("http://host/x?access_token=abc", "http://host/x?access_token=***"),
        ("http://host/x?mail=a:b@c", "http://host/x?mail=a:b@c"),
        ("udp://@:1234", "udp://@:1234"),
        ("rtsp://host:554/a@b", "rtsp://host:554/a@b"),
    ],
)
def test_names_hold_no_password(address: str, name: str) -> None:
    assert public_name(address) == name


def test_a_recording_over_http_is_read_like_a_file(tmp_path: Path) -> None:
    numbered(tmp_path / "clip.mp4", 30)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with serving(functools.partial(Quiet, directory=str(tmp_path))) as port:
        address = f"http://127.0.0.1:{port}/clip.mp4"
        with open_source(address, QUICK) as source:
            frames = list(source)
        with open_source(address, SourceOptions(start=0.5)) as part:
            assert read_number(next(iter(part)).image) == 15
    assert [read_number(f.image) for f in frames] == list(range(30))
    assert [f.pts for f in frames] == pytest.approx([i / 30 for i in range(30)])
    assert (source.info.live, source.info.frame_count, source.info.media) == (False, 30, address)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ffmpeg(*arguments: object) -> subprocess.Popen[bytes]:
    command = ["ffmpeg", "-v", "error", "-re", "-f", "lavfi", "-i", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def listening(port: int) -> bool:
    """Whether somebody listens, without using up the one connection that may be all there is."""
    hexadecimal = f":{port:04X} "
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(hexadecimal in row[:24] and row.split()[3] == "0A" for row in rows)


def await_listening(port: int) -> None:
    until = time.monotonic() + 10
    while not listening(port):
        assert time.monotonic() < until, "the server did not start"
        time.sleep(0.02)


MPEGTS = "-c:v libx264 -tune zerolatency -g 10 -pix_fmt yuv420p -f mpegts".split()


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg program")
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's list of ports")
def test_ffmpeg_serves_http() -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}/live"
    server = ffmpeg("testsrc=size=320x240:rate=25", *MPEGTS, "-listen", 1, address)
    try:
        await_listening(port)
        with open_source(address, QUICK) as source:
            assert source.info.live
            frames = [frame for frame, _ in zip(source, range(20), strict=False)]
        assert {f.size for f in frames} == {(240, 320)}
        assert len({f.image.tobytes() for f in frames}) > 10
    finally:
        server.kill()
        server.wait()


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg program")
def test_udp() -> None:
    port = free_port()
    server = ffmpeg(
        "testsrc=size=320x240:rate=25", *MPEGTS, f"udp://127.0.0.1:{port}?pkt_size=1316"
    )
    try:
        with open_source(f"udp://127.0.0.1:{port}", QUICK) as source:
            assert source.info.live
            frames = [frame for frame, _ in zip(source, range(20), strict=False)]
        assert {f.size for f in frames} == {(240, 320)}
    finally:
        server.kill()
        server.wait()


def test_udp_that_never_comes() -> None:
    with pytest.raises(SourceError, match=r"no video came within 0\.5 s"):
        open_source(f"udp://127.0.0.1:{free_port()}", SourceOptions(timeout=0.5))


def rtsp_missing() -> str:
    """Why no RTSP server can run here; "" when one can."""
    code = "import gi; gi.require_version('GstRtspServer', '1.0')"
    if not Path(SYSTEM_PYTHON).exists():
        return "needs the system's Python"
    done = subprocess.run([SYSTEM_PYTHON, "-c", code], capture_output=True)
    return "" if done.returncode == 0 else "needs gir1.2-gst-rtsp-server-1.0 and python3-gi"


@contextmanager
def rtsp_server(port: int, width: int, height: int) -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).with_name("rtsp_server.py")
    command = [SYSTEM_PYTHON, script, str(port), str(width), str(height)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == "ready\n"
        yield server
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


@pytest.mark.slow
@pytest.mark.skipif(bool(rtsp_missing()), reason=rtsp_missing() or "an RTSP server is here")
def test_rtsp_that_is_killed_and_comes_back_at_another_size() -> None:
    port = free_port()
    with rtsp_server(port, 320, 240) as server:
        source = open_source(f"rtsp://127.0.0.1:{port}/live", SourceOptions(timeout=3.0))
        frames = iter(source)
        first = [next(frames) for _ in range(75)]
        assert {f.size for f in first} == {(240, 320)}
        assert len({np.ascontiguousarray(f.image).tobytes() for f in first}) > 15
        # FFmpeg gathers about a second while opening; the rest arrives at its own pace.
        assert 0.5 < first[-1].pts - first[0].pts < 4.0
        server.kill()
        server.wait()
    with rtsp_server(port, 160, 128):
        for frame in frames:
            if frame.size == (128, 160):
                break
        assert source.outages == 1
        assert source.notice is None
        assert (source.info.width, source.info.height) == (160, 128)
        source.close()
