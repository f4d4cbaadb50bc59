"""Network streams, from real servers on this machine: lost, back, back at another size."""

from __future__ import annotations

import functools
import http.server
import io
import itertools
import os
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
import traceback
from base64 import b64encode
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from hashlib import md5
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2  # isort: skip - ahead of av
import av
import numpy as np
import pytest
from clips import write_clip
from fakes import FakeDevice, Plugged
from PIL import Image
from test_sources_video import numbered

from rtseg.addresses import public_name
from rtseg.cli.app import main
from rtseg.errors import SourceError
from rtseg.frame import Frame
from rtseg.media import open_media
from rtseg.sources import SourceOptions, open_source
from rtseg.sources import http as web
from rtseg.sources.ffmpeg import LivePlayer
from rtseg.sources.stream import StreamSource
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
            with pytest.raises(SourceError, match=r"http://127.0.0.1:\d+ \(\w{6}\) was lost"):
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
        f"reconnecting to {public_name(f'http://127.0.0.1:{port}/x')} (try {n})" for n in (1, 2, 3)
    ]
    assert source.outages == 1


def test_a_server_that_says_no_at_first_is_an_error() -> None:
    with serving(cameras()) as port, pytest.raises(SourceError) as caught:
        open_source(f"http://me:pw@127.0.0.1:{port}/x?token=abc", QUICK)
    assert "127.0.0.1 answers: 404 Not Found. Check the path" in str(caught.value)
    assert "pw" not in str(caught.value)
    assert "abc" not in str(caught.value)


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers /401/..., /503/... with that status, whatever is asked for."""

    def do_GET(self) -> None:
        self.send_error(int(self.path.split("/")[1]))

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "said", "do"),
    [
        (401, "401 Unauthorized", "Check the user and the password"),
        (403, "403 Forbidden", "Check the user and the password"),
        (404, "404 Not Found", "Check the path"),
        (410, "410 Gone", "Check the path"),
        (503, "503 Service Unavailable", ""),
    ],
)
def test_how_a_server_refuses_is_reported(status: int, said: str, do: str) -> None:
    with serving(Refusing) as port, pytest.raises(SourceError) as caught:
        open_source(f"http://127.0.0.1:{port}/{status}/live", QUICK)
    assert caught.value.found == f"127.0.0.1 answers: {said}"
    assert do in caught.value.do


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

    with serving(Page) as port, pytest.raises(SourceError, match="it is a web page, not a video"):
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
    with pytest.raises(SourceError, match=r"cannot open rtsp://host:\*\*\* "):
        open_source("rtsp://host:many/live", QUICK)


def test_a_stream_is_decoded_without_delay(tmp_path: Path) -> None:
    """Frame threads hold frames back: each is here when the packets up to it have come."""
    clip = write_clip(tmp_path / "a.ts", frames=30, options={"bf": "0", "g": "10"})
    frames, packets = [0], [0]
    player = LivePlayer(str(clip), SourceOptions(timeout=2.5))
    assert player._decoder.thread_count == 1
    demux = player._packets

    def counted() -> Iterator[av.Packet]:
        for packet in demux:
            packets[0] += bool(packet.size)
            yield packet

    player._packets = counted()
    while player.grab():
        frames[0] += 1
        assert packets[0] <= frames[0] + 1
    assert frames[0] == 30
    player.release()


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
    assert "None" in done.stdout.splitlines()  # OpenCV's may follow, at the process's end
    assert (done.stdout + done.stderr != "None\n") == heard


@contextmanager
def sending(*contents: bytes) -> Iterator[int]:
    """A TCP port at which each connection gets the next of some recordings, again and again."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        stop = threading.Event()

        def serve() -> None:
            for content in contents:
                with suppress(OSError), server.accept()[0] as client:
                    at = 0
                    while not stop.is_set():
                        client.sendall(content[at : at + 1880])
                        at = (at + 1880) % (len(content) // 188 * 188)
                        stop.wait(0.001)

        done = pool.submit(serve)
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            with suppress(OSError), socket.create_connection(server.getsockname(), 1):
                pass
            done.result()


def test_opening_is_bounded_in_all_and_reading_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [np.full((48, 64, 3), level, np.uint8) for level in range(60, 160, 2)]
    content = write_clip(tmp_path / "a.ts", codec="mpeg2video", images=images).read_bytes()
    options = SourceOptions(timeout=5.0, reconnect=False)
    monkeypatch.setattr("rtseg.player.OPENING_TIMEOUTS", 0.1)
    with sending(content * 200) as port:
        player = LivePlayer(f"tcp://127.0.0.1:{port}", options)
        try:
            assert player.grab()
            time.sleep(0.5)  # what is in time for a frame is too late for the beginning
            assert not player.grab()
        finally:
            player.release()
    monkeypatch.setattr("rtseg.player.OPENING_TIMEOUTS", 3)
    with sending(content * 200) as port:
        player = LivePlayer(f"tcp://127.0.0.1:{port}", options)
        try:
            assert all(player.grab() for _ in range(3))
            player._opened_by = 0.0
            assert all(player.grab() for _ in range(20))
        finally:
            player.release()


def test_a_stream_of_sound_alone_is_refused_as_such(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.ts"), "w") as output:
        stream = output.add_stream("mp2", rate=48_000, layout="mono")
        for number in range(200):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = 48_000, 1152 * number
            output.mux(stream.encode(frame))
    content = (tmp_path / "a.ts").read_bytes()
    with sending(content) as port, pytest.raises(SourceError) as raised:
        open_source(f"tcp://127.0.0.1:{port}", QUICK)
    assert raised.value.found == "it has no video stream but sound"


def test_a_stream_of_which_nothing_more_can_be_decoded_is_reopened(tmp_path: Path) -> None:
    """FFmpeg keeps the codec that a transport stream began with."""
    images = [np.full((48, 64, 3), level, np.uint8) for level in range(60, 160, 2)]
    first = write_clip(tmp_path / "a.ts", images=images * 5, options={"crf": "5"}).read_bytes()
    second = write_clip(tmp_path / "b.ts", codec="mpeg2video", images=images).read_bytes()
    with sending(first + 200 * second, 200 * second) as port:
        address = f"tcp://127.0.0.1:{port}"
        with open_source(address, SourceOptions(timeout=0.5), clock=Hurried()) as source:
            for frame in source:
                if source.outages and frame.size == (48, 64):
                    break
    assert source.outages == 1


def test_damage_and_deinterlacing_of_a_stream_are_reported(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    images = [np.roll(noise, 3 * number, 1) for number in range(50)]
    plain = write_clip(tmp_path / "a.ts", images=images).read_bytes()
    combed = write_clip(tmp_path / "b.ts", images=images, interlaced=True).read_bytes()
    packets = [combed[at : at + 188] for at in range(0, len(combed), 188)]
    damaged = b"".join(each for number, each in enumerate(packets) if number % 9)
    with (
        sending(5 * plain + combed + damaged + combed) as port,
        open_source(f"tcp://127.0.0.1:{port}", QUICK) as source,
    ):
        assert source.info.notes == ()
        list(itertools.islice(source, 400))
    assert any("deinterlaced" in text for text in source.warnings)
    assert any(
        re.search(r"was damaged: \d+ packets? could not be", text) for text in source.warnings
    )


def test_the_wait_doubles_up_to_eight_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    plugs = [Plugged(frames=1), *[None] * 6, Plugged()]
    monkeypatch.setattr(cv2, "VideoCapture", FakeDevice(plugs))
    clock = ManualClock()
    with open_source("0", clock=clock) as source:
        next(iter(source))
    assert clock.time == pytest.approx(0.5 + 1 + 2 + 4 + 8 + 8 + 8)
    assert source.outages == 1


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("rtsp://host/live", "rtsp://host (785875)"),
        ("rtsp://me:secret@host:554/live", "rtsp://host:554 (e49dde)"),
        ("rtsp://host:554/live", "rtsp://host:554 (e49dde)"),
        ("rtsp://me:se@cr:et@host/live", "rtsp://host (785875)"),
        ("rtsp://me:se/cr@host/live?a=1", "rtsp://host (ac4084)"),
        ("http://host/x?mail=a:b@c", "http://host (876a7f)"),
        ("udp://@:1234", "udp://:1234"),
        ("rtsp://host:554/a@b", "rtsp://host:554 (840bde)"),
        ("rtsp://me:se#cr@host/live", "rtsp://host (785875)"),
        ("rtsp://me:se?cr@host/live", "rtsp://host (785875)"),
        ("rtsp://me:12#34@host/live", "rtsp://host (785875)"),
        ("rtsp://me:12/34@10.0.0.5:554/live", "rtsp://10.0.0.5:554 (6a514d)"),
        ("rtsp:/me:secret@host/live", "rtsp:/host (5700ae)"),
        (" rtsp://me:secret@host/live", "rtsp://host (785875)"),
        ("rtsp://me:se[cr@host/live", "rtsp://host (785875)"),
        ("rtsp://secret@host/live", "rtsp://host (785875)"),
        ("http://[::1]:8080/x?a=b@c", "http://[::1]:8080 (5797bd)"),
        ("http://host?jwt=secret", "http://host (f6f3a9)"),
        ("rtsp://admin:secret", "rtsp://admin:***"),
        ("http://host/", "http://host"),
        ("test://?size=64x48", "test://?size=64x48"),
        ("C:/clips/a.mp4", "C:/clips/a.mp4"),
        ("12:30:05.mp4", "12:30:05.mp4"),
        ("Talk: part 1 @home.mp4", "Talk: part 1 @home.mp4"),
    ],
)
def test_names_hold_no_password(address: str, name: str) -> None:
    assert public_name(address) == name


def test_no_error_in_a_chain_holds_the_password(tmp_path: Path) -> None:
    """As a program that uses rtseg may log its traceback."""
    content = index_at_its_end(tmp_path / "a.mp4")

    class Damaged(Answering):
        def do_GET(self) -> None:
            self.answer("video/mp4", content[: len(content) // 2], length=len(content) // 2)

    with serving(Damaged) as damaged, serving(Refusing) as refusing:
        for address in (
            f"http://me:secret@127.0.0.1:{damaged}/a.mp4",
            f"http://me:secret@127.0.0.1:{refusing}/404/x",
            f"rtsp://me:secret@127.0.0.1:{free_port()}/x",
        ):
            with pytest.raises(SourceError) as caught:
                open_source(address, QUICK)
            assert "secret" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(av.FFmpegError) as raised:
        open_media(f"http://me:secret@127.0.0.1:{free_port()}/x", 5)
    assert "refused" in str(raised.value)
    assert "secret" not in "".join(traceback.format_exception(raised.value, chain=True)[-1:])


RAW_PASSWORDS = [
    "Ge#heim", "Ge/heim", "Ge?heim", "Ge@he/im", "Ge:he#im", "12#heim", "12/heim", "#heim", "/heim",
    "Ge[heim", "Ge\u2100heim",
]  # fmt: skip


@pytest.mark.parametrize(
    ("scheme", "password"),
    [
        pytest.param(scheme, password, marks=() if scheme == "rtsp" or first else pytest.mark.slow)
        for scheme in ("rtsp", "http", "rtmp")
        for password in RAW_PASSWORDS
        for first in (password == RAW_PASSWORDS[0],)
    ],
)
def test_a_password_that_is_not_encoded_is_refused_and_not_shown(
    scheme: str, password: str, capfd: pytest.CaptureFixture[str]
) -> None:
    address = f"{scheme}://admin:{password}@127.0.0.1:9/x"
    with pytest.raises(SourceError, match="%") as caught:
        open_source(address, QUICK)
    assert main([address, "-m", "stub", "--no-show", "--debug"]) == 3
    assert main([address, address, "-m", "stub", "--no-show"]) == 3
    assert main([f" {address} ".replace("://", ":/"), "-m", "stub", "--no-show"]) == 3
    printed = str(caught.value) + "".join(capfd.readouterr())
    assert "127.0.0.1:9" in printed
    assert "heim" not in printed
    assert "admin" not in printed


@pytest.mark.parametrize("scheme", ["Basic", "Digest"])
def test_a_password_that_is_encoded_reaches_the_server(scheme: str) -> None:
    heard: list[str | None] = []
    challenge = {"Basic": 'Basic realm="camera"', "Digest": 'Digest realm="camera", nonce="n"'}

    class Locked(Answering):
        def do_GET(self) -> None:
            heard.append(self.headers["Authorization"])
            if heard[-1] is None:
                self.send_response(401)
                self.send_header("WWW-Authenticate", challenge[scheme])
                self.end_headers()
                return
            self.answer("multipart/x-mixed-replace; boundary=x", part("image/jpg", jpeg(90)) * 9)

    with serving(Locked) as port:
        address = f"http://me:a%23%2F%3Ab@127.0.0.1:{port}/"
        with open_source(address, SourceOptions(timeout=5, reconnect=False)) as source:
            assert source.info.name == f"http://127.0.0.1:{port}"
            assert abs(next(iter(source)).image.mean() - 90) < 2
    if scheme == "Basic":
        assert heard[-1] == "Basic " + b64encode(b"me:a#/:b").decode()
    else:
        first = md5(b"me:camera:a#/:b").hexdigest()
        second = md5(b"GET:/").hexdigest()
        assert f'response="{md5(f"{first}:n:{second}".encode()).hexdigest()}"' in str(heard[-1])


def jpeg(level: int, size: tuple[int, int] = (64, 96)) -> bytes:
    return cv2.imencode(".jpg", np.full((*size, 3), level, np.uint8))[1].tobytes()


def part(kind: str | None, content: bytes, *, length: bool = True, delimiter: str = "x") -> bytes:
    head = f"--{delimiter}\r\n"
    head += f"Content-Type: {kind}\r\n" if kind is not None else ""
    head += f"Content-Length: {len(content)}\r\n" if length else ""
    return head.encode() + b"\r\n" + content + b"\r\n"


@pytest.mark.parametrize("kind", ["headers", "continue", "head", "part", "line", "chunk"])
def test_a_server_that_drips_is_given_up_in_time(kind: str) -> None:
    """Each byte renews a socket's timeout: lines and headers are bounded in all."""
    ok, over = b"HTTP/1.1 200 OK\r\n", threading.Event()
    parts = ok + b"Content-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n--b\r\n"
    begin, piece = {
        "headers": (ok, b"X: y\r\n"),
        "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        "head": (ok + b"\r\n", b"x"),
        "part": (parts, b"X: y\r\n"),
        "line": (parts, b"x"),
        "chunk": (ok + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    }[kind]

    class Dripping(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                self.request.sendall(begin)
                while not over.wait(0.02):
                    self.request.sendall(piece)

    since = time.monotonic()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Dripping) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}/x"
        try:
            with pytest.raises(SourceError):
                web._by_request(address, replace(QUICK, timeout=0.4), None, SourceError("no video"))
        finally:
            over.set()
            server.shutdown()
            thread.join()
    assert time.monotonic() - since < 5


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers with what a subclass gives to `answer`; reads no ranges."""

    def answer(self, kind: str, *pieces: bytes, length: int | None = None) -> None:
        self.send(kind, pieces, length)

    def send(self, kind: str, pieces: Iterable[bytes], length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        try:
            for piece in pieces:
                self.wfile.write(piece)
        except OSError:
            pass  # the client has what it wants

    def log_message(self, *args: object) -> None:
        pass


MIXED = "multipart/x-mixed-replace; boundary="


@pytest.mark.parametrize(
    ("header", "kind", "length", "delimiter"),
    [
        (f"{MIXED}x", "image/jpg", True, "x"),
        (f"{MIXED}x", None, True, "x"),
        (f"{MIXED}x", None, False, "x"),
        (f"{MIXED}x", "image/pjpeg; charset=utf-8", False, "x"),
        (f'{MIXED}"--x"', "image/jpg", True, "x"),
        (f"{MIXED}--x", "application/octet-stream", False, "x"),
        (f"{MIXED}announced", "image/jpg", True, "another"),
        ("multipart/x-mixed-replace", "image/jpg", True, "x"),
        (f"{MIXED}x", "image/png", True, "x"),
    ],
)
def test_parts_of_any_kind_are_read(
    header: str, kind: str | None, length: bool, delimiter: str
) -> None:
    class Camera(Answering):
        def do_GET(self) -> None:
            levels = range(20, 220, 10)
            pieces = [jpeg(level) for level in levels]
            if kind == "image/png":
                flat = [np.full((64, 96, 3), level, np.uint8) for level in levels]
                pieces = [cv2.imencode(".png", image)[1].tobytes() for image in flat]
            parts = [part(kind, piece, length=length, delimiter=delimiter) for piece in pieces]
            self.answer(header, *parts)

    with serving(Camera) as port:
        options = SourceOptions(timeout=5.0, reconnect=False)
        with open_source(f"http://127.0.0.1:{port}/", options) as source:
            assert (source.info.live, source.info.width, source.info.height) == (True, 96, 64)
            got = []
            with pytest.raises(SourceError, match="was lost"):
                got.extend(frame.image.mean() for frame in source)
    steps = np.diff(got)
    assert len(got) >= 15
    assert np.abs(steps - 10).max() < 3  # none is lost or repeated
    assert abs(got[-1] - 210) < 2


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("ts", "libx264"), ("h264", "libx264"), ("mpg", "mpeg2video"), ("ogv", "libvpx")],
)
def test_a_file_of_a_length_in_bytes_is_no_live_stream(
    suffix: str, codec: str, tmp_path: Path
) -> None:
    """Whose duration FFmpeg does not find, as the server is not read from the middle."""
    content = write_clip(tmp_path / f"clip.{suffix}", codec=codec, frames=30).read_bytes()

    class Files(Answering):
        def do_GET(self) -> None:
            self.answer("application/octet-stream", content, length=len(content))

    with serving(Files) as port, open_source(f"http://127.0.0.1:{port}/clip", QUICK) as source:
        assert not source.info.live
        assert len(list(source)) == 30
        assert not source.warnings


def test_odd_parts_drop_and_come_back_at_another_size() -> None:
    sizes = [(64, 96), (64, 96), (32, 48)]  # FFmpeg's request is the first

    class Camera(Answering):
        def do_GET(self) -> None:
            if not sizes:
                self.send_error(503)
                return
            size = sizes.pop(0)
            text = part("text/plain", b"still here")
            damaged = part("image/jpg", jpeg(90, size)[:-20])
            self.answer(f"{MIXED}x", *[text + damaged + part("image/jpg", jpeg(90, size))] * 8)

    with serving(Camera) as port:
        address = f"http://127.0.0.1:{port}/"
        with open_source(address, QUICK, clock=Hurried()) as source:
            seen = []
            for frame in source:
                seen.append(frame.size)
                if frame.size == (32, 48):
                    break
            assert source.outages == 1
    assert list(dict.fromkeys(seen)) == [(64, 96), (32, 48)]
    assert len(seen) >= 6


def test_parts_that_stop_coming_count_as_lost_in_time() -> None:
    ended = threading.Event()

    class Camera(Answering):
        def do_GET(self) -> None:
            self.answer(f"{MIXED}x", *[part("image/jpg", jpeg(90))] * 4)
            ended.wait(20)

    with serving(Camera) as port:
        options = SourceOptions(timeout=0.5, reconnect=False)
        begun = time.monotonic()
        with open_source(f"http://127.0.0.1:{port}/", options) as source:
            with pytest.raises(SourceError, match="was lost"):
                list(source)
            assert time.monotonic() - begun < 10
        ended.set()


def test_parts_that_are_no_images_are_named() -> None:
    class Events(Answering):
        def do_GET(self) -> None:
            self.answer(f"{MIXED}x", *[part("text/xml", b"<event/>")] * 30)

    with (
        serving(Events) as port,
        pytest.raises(SourceError, match="its parts, text/xml, hold no images"),
    ):
        open_source(f"http://127.0.0.1:{port}/", QUICK)


def transport_stream(frames: int) -> tuple[bytes, bytes]:
    """Bytes of video with sound, and of sound that goes on without it."""
    written = io.BytesIO()
    ends = []
    at_once = {"max_interleave_delta": "1"}  # the sound does not wait for more video
    with av.open(written, "w", "mpegts", at_once, buffer_size=188) as container:
        video, audio = (
            container.add_stream("mpeg2video", rate=25),
            container.add_stream("mp2", 44100),
        )
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        for number in range(3 * frames):
            if number < frames:
                image = np.full((64, 96, 3), number * 5, np.uint8)
                container.mux(video.encode(av.VideoFrame.from_ndarray(image)))
            if number == frames:
                container.mux(video.encode())
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 2304), np.int16), "s16", "stereo")
            sound.sample_rate = 44100
            container.mux(audio.encode(sound))
            ends.append(written.tell())
    both, last = ends[2 * frames], ends[-1]
    assert last - both > 10_000
    return written.getvalue()[:both], written.getvalue()[both:last]


ENDLESS = {
    "empty parts": (f"{MIXED}", b"", b"--\r\nContent-Type: image/jpeg\r\n\r\n"),
    "parts of nothing": (f"{MIXED}x", b"", part("image/jpeg", b"")),
    "junk": (f"{MIXED}x", b"", part("image/jpeg", b"junk" * 99)),
    "junk after video": (
        f"{MIXED}x",
        part("image/jpeg", jpeg(90)) * 9,
        part("image/jpeg", b"x" * 99),
    ),
    "headers": (f"{MIXED}x", b"--x\r\n", b"X: y\r\n"),
    "sound after video": ("video/mp2t", *transport_stream(25)),
}


def read(address: str, options: SourceOptions) -> None:
    with open_source(address, options) as source:
        for _ in source:
            pass


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_server_that_sends_for_ever_and_no_frame_is_given_up_in_time(kind: str) -> None:
    header, begin, piece = ENDLESS[kind]
    over = threading.Event()

    class Endless(Answering):
        def do_GET(self) -> None:
            pieces = iter(lambda: piece if not over.wait(0.005) else b"", b"")
            self.send(header, itertools.chain([begin], pieces))

    with serving(Endless) as port:
        since = time.monotonic()
        try:
            with pytest.raises(SourceError):
                read(f"http://127.0.0.1:{port}/", SourceOptions(timeout=0.4, reconnect=False))
        finally:
            over.set()
    assert time.monotonic() - since < 10


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".avif", ".gif"])
@pytest.mark.parametrize("kind", ["image/jpeg", "application/octet-stream"])
def test_an_image_at_an_address_is_shown_once(suffix: str, kind: str) -> None:
    image = np.full((48, 64, 3), 255, np.uint8)
    image[:24] = (0, 0, 255)
    content = cv2.imencode(suffix, image)[1].tobytes()

    class Snapshots(Answering):
        def do_GET(self) -> None:
            self.answer(kind, content, length=len(content))

    with serving(Snapshots) as port, open_source(f"http://127.0.0.1:{port}/now", QUICK) as source:
        assert (source.info.live, source.info.frame_count) == (False, 1)
        (frame,) = source
    assert np.abs(frame.image.astype(int) - image)[2:20].max() <= 3
    assert np.abs(frame.image.astype(int) - image)[28:].max() <= 3


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "avif"])
def test_an_animation_at_an_address_is_played_as_from_a_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    first, *others = (Image.new("RGB", (64, 48), (v, v, v)) for v in (30, 90, 150, 210))
    first.save(path, save_all=True, append_images=others, duration=[100, 200, 100, 100])
    with open_source(path) as source:
        local = [(f.image.tobytes(), f.pts) for f in source]
    content = path.read_bytes()

    class Animations(Answering):
        def do_GET(self) -> None:
            self.answer("application/octet-stream", content, length=len(content))

    with serving(Animations) as port, open_source(f"http://127.0.0.1:{port}/a", QUICK) as source:
        assert not source.info.live
        assert [(f.image.tobytes(), f.pts) for f in source] == local
    assert len(local) == 4


def test_a_dash_manifest_is_refused_by_name(tmp_path: Path) -> None:
    content = b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>'
    (tmp_path / "a.mpd").write_bytes(content)

    class Manifests(Answering):
        def do_GET(self) -> None:
            self.answer("application/dash+xml", content, length=len(content))

    with serving(Manifests) as port:
        for target in (str(tmp_path / "a.mpd"), f"http://127.0.0.1:{port}/a.mpd"):
            with pytest.raises(SourceError, match="DASH"):
                open_source(target, QUICK)


def test_frames_of_hls_are_due_one_by_one_and_not_all_as_their_segment_comes(
    tmp_path: Path,
) -> None:
    options = {"hls_time": "1", "hls_list_size": "0", "hls_flags": "omit_endlist"}
    with av.open(str(tmp_path / "a.m3u8"), "w", format="hls", options=options) as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for level in range(40):
            picture = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 6 * level, np.uint8), "bgr24")
            picture.pts, picture.time_base = level, Fraction(1, 10)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))

    class Folder(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(tmp_path))

        def log_message(self, *args: object) -> None:
            pass

    with serving(Folder) as port:
        address = f"http://127.0.0.1:{port}/a.m3u8"
        with open_source(address, QUICK, clock=ManualClock()) as source:
            assert source.info.live
            frames = list(itertools.islice(source, 20))
            source.interrupt()
    assert [frame.pts for frame in frames] == pytest.approx([n / 10 for n in range(20)])
    levels = [int(frame.image.mean()) for frame in frames]
    assert np.diff(levels).tolist() == pytest.approx([6] * 19, abs=2)


class Segments:
    """A capture with the times at which its frames are due, and those at which it gives them."""

    def __init__(self, clock: ManualClock, due: list[float], given: list[float]) -> None:
        self.clock, self.frames, self.due = clock, list(zip(due, given, strict=True)), 0.0

    def grab(self) -> bool:
        self.due, given = self.frames.pop(0)
        self.clock.time = max(self.clock.time, given)
        return True

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.zeros((64, 96, 3), np.uint8)

    def release(self) -> None:
        pass


@pytest.mark.parametrize(
    ("due", "given", "times"),
    [
        ([0, 1, 2, 3, 4], [0, 0, 0, 2, 2], [1, 2, 3, 4]),
        ([0, 1, 2, 3, 4], [0, 0, 2.1, 0, 0], [1, 2.1, 3, 4]),  # a short delay is caught up with
        ([0, 1, 2, 3, 4], [0, 0, 6, 6, 6], [1, 6, 7, 8]),  # a long one moves what follows
        ([0, 1, 900, 901, 902], [0] * 5, [1, 1, 2, 3]),  # times that jump
        ([0, 1, 5, 6, 7], [0] * 5, [1, 1, 2, 3]),  # by a segment that is gone
        ([900, 901, 0, 1, 2], [0] * 5, [1, 1, 2, 3]),
    ],
)
def test_segments_that_come_late_or_jump_in_time(
    due: list[float], given: list[float], times: list[float]
) -> None:
    clock = ManualClock()
    capture = Segments(clock, due, given)
    with StreamSource("rtsp://camera/1", QUICK, clock, capture, lambda: None) as source:
        captured = [frame.captured_at for frame in itertools.islice(source, 4)]
    assert captured == pytest.approx(times)


def index_at_its_end(path: Path) -> bytes:
    """A clip whose index FFmpeg writes at its end, too long for what FFmpeg keeps in memory."""
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10", "g": "5"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for level in range(40):
            image = np.roll(noise, 7 * level, (0, 1))
            image[:40] = level * 6
            picture = av.VideoFrame.from_ndarray(image, "bgr24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    assert content.rindex(b"moov") > content.index(b"mdat")
    assert len(content) > 100_000
    return content


@pytest.mark.parametrize("length", [True, False])
def test_a_recording_that_cannot_be_read_from_the_middle_is_fetched(
    tmp_path: Path, length: bool
) -> None:
    content = index_at_its_end(tmp_path / "a.mp4")

    class Plain(Answering):
        def do_GET(self) -> None:
            self.answer("video/mp4", content, length=len(content) if length else None)

    with serving(Plain) as port:
        address = f"http://me:pw@127.0.0.1:{port}/a.mp4"
        with open_source(address, QUICK) as source:
            frames = list(source)
            assert source.info.name == public_name(f"http://127.0.0.1:{port}/a.mp4")
            assert "fetched whole" in source.info.notes[-1]
            assert Path(str(source.info.media)).stat().st_size == len(content)
        with open_source(address, SourceOptions(start=1.0)) as part:
            assert abs(next(iter(part)).image[:30].mean() - 150) < 5
    assert len(frames) == 40
    assert [f.pts for f in frames] == pytest.approx([i / 25 for i in range(40)])
    for number, frame in enumerate(frames):
        assert abs(frame.image[:30].mean() - number * 6) < 5


def test_what_is_too_large_or_breaks_off_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = index_at_its_end(tmp_path / "a.mp4")

    class Breaking(Answering):
        def do_GET(self) -> None:
            self.answer("video/mp4", content[:-1000], length=len(content))

    with serving(Breaking) as port:
        address = f"http://127.0.0.1:{port}/a.mp4"
        with pytest.raises(SourceError, match=r"the connection broke after 0\.\d MB"):
            open_source(address, QUICK)
        monkeypatch.setattr(web, "MAX_FETCHED_BYTES", 1000)
        with pytest.raises(SourceError, match="Download the file"):
            open_source(address, QUICK)
        monkeypatch.undo()
        monkeypatch.setattr(web.shutil, "disk_usage", lambda folder: SimpleNamespace(free=99))
        with pytest.raises(SourceError, match="has no room for it"):
            open_source(address, QUICK)


def test_one_byte_now_and_then_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte renews the connection's timeout."""
    monkeypatch.setattr(web, "STALL_SECONDS", 0.3)

    class Dripping(Answering):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(bytes(600))
                while True:
                    self.wfile.write(b"x")
                    time.sleep(0.02)

    with serving(Dripping) as port:
        address = f"http://127.0.0.1:{port}/a.mp4"
        start = time.monotonic()
        answer = web.request(address, 5)
        with answer.response, pytest.raises((SourceError, TimeoutError), match="only"):
            web.Fetched(answer, "a")
        assert time.monotonic() - start < 3


@pytest.mark.parametrize("length", [None, 10**9])
def test_what_may_never_end_is_not_fetched_for_ever(
    monkeypatch: pytest.MonkeyPatch, length: int | None
) -> None:
    monkeypatch.setattr(web, "FETCH_SECONDS" if length else "ENDLESS_SECONDS", 0.3)
    over = threading.Event()

    class Endless(Answering):
        def do_GET(self) -> None:
            boxes = b"\0\0\0\x08free" * 500
            pieces = iter(lambda: boxes if not over.wait(0.005) else b"", b"")
            self.send("video/mp4", pieces, length)

    with serving(Endless) as port:
        begun = time.monotonic()
        answer = web.request(f"http://127.0.0.1:{port}/a.mp4", 5)
        with answer.response, pytest.raises(SourceError, match=r"came in 0\.3 seconds"):
            web.Fetched(answer, "a")
        assert time.monotonic() - begun < 5
        over.set()


def test_redirects_that_take_their_time_are_given_up_in_time() -> None:
    class Redirecting(Refusing):
        def do_GET(self) -> None:
            time.sleep(0.3)
            self.send_response(302)
            self.send_header("Location", f"{self.path}x")
            self.end_headers()

    with serving(Redirecting) as port:
        begun = time.monotonic()
        with pytest.raises(SourceError, match=r"gave no video within 0\.5 s"):
            open_source(f"http://127.0.0.1:{port}/", SourceOptions(timeout=0.5))
        assert time.monotonic() - begun < 2.5  # ten of them, twice, take 6


def test_the_name_in_an_address_does_not_make_a_video(tmp_path: Path) -> None:
    noise, raw = np.random.default_rng(22).bytes(200_000), tmp_path / "a.mjpeg"
    with av.open(str(raw), "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for _ in range(5):
            image = np.full((48, 64, 3), 90, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))

    class Named(Answering):
        def do_GET(self) -> None:
            content = raw.read_bytes() if "mjpeg" in self.path else noise
            self.answer("application/octet-stream", content, length=len(content))

    with serving(Named) as port:
        for name in ("a.cdg", "a.h261"):
            with pytest.raises(SourceError):
                open_source(f"http://127.0.0.1:{port}/{name}", QUICK)
        with open_source(f"http://127.0.0.1:{port}/a.mjpeg", QUICK) as source:
            assert abs(next(iter(source)).image.mean() - 90) < 3


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
