"""`--web`: a run on a page, encoded once however many look, and not at all if nobody does."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
import requests
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import rtseg
from rtseg.cli.commands import _joined_dashes
from rtseg.cli.options import Flags
from rtseg.cli.plan import make_grid_plan, make_plan
from rtseg.contracts import Rendered
from rtseg.errors import SinkError, UsageError
from rtseg.frame import Frame, Segmentation
from rtseg.serve import watch
from rtseg.serve.watch import HEADER, WatchSink

LABELS = rtseg.load("stub").labels


def rendered(level: int) -> Rendered:
    image = np.full((48, 64, 3), level, np.uint8)
    scores = np.zeros((len(LABELS), 4, 4), np.float32)
    frame = Frame(image, level, level / 30, time.perf_counter())
    return Rendered(frame, Segmentation(scores, LABELS, (48, 64)), lambda frame, found: frame.image)


@contextmanager
def running(sink: WatchSink) -> Iterator[str]:
    """Frames go into the sink all the time; gives its address."""
    over = threading.Event()

    def write() -> None:
        level = 0
        while not over.wait(0.01):
            level = (level + 1) % 256
            sink.write(rendered(level))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield sink.lines[0][1].rstrip("/")
    finally:
        over.set()
        thread.join()


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.01)


def level_of(content: bytes) -> float:
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (48, 64, 3)
    return float(image.mean())


def test_nothing_is_encoded_while_nobody_looks() -> None:
    with WatchSink(":0") as sink:
        assert not sink.wants_image
        sink.write(rendered(1))
        assert sink.summary() == "web page: 0 frames encoded, 0 watching at most"


def test_a_snapshot_is_the_next_frame() -> None:
    with WatchSink(":0") as sink, running(sink) as address:
        answer = requests.get(f"{address}/v1/watch.jpg", timeout=20)
        assert answer.headers["content-type"] == "image/jpeg"
        level_of(answer.content)
        assert not sink.wants_image


def test_a_snapshot_is_refused_if_no_frame_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "FRAME_SECONDS", 0.1)
    with WatchSink(":0") as sink:
        answer = requests.get(f"{sink.lines[0][1]}v1/watch.jpg", timeout=20)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


def test_viewers_get_new_frames_encoded_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = 0
    encode = cv2.imencode

    def counting(*arguments: object) -> object:
        nonlocal encoded
        encoded += 1
        return encode(*arguments)

    monkeypatch.setattr(watch.cv2, "imencode", counting)
    with WatchSink(":0") as sink:
        numbers: list[list[int]] = []

        def look() -> None:
            seen: list[int] = []
            with connect(address.replace("http", "ws") + "/v1/watch", open_timeout=20) as viewer:
                viewer.send(json.dumps({"type": "hello"}))
                for _ in range(10):
                    message = viewer.recv(20)
                    assert isinstance(message, bytes)
                    seen.append(HEADER.unpack_from(message)[0])
                    level_of(message[HEADER.size :])
                    viewer.send("next")
            numbers.append(seen)

        with running(sink) as address:
            viewers = [threading.Thread(target=look) for _ in range(4)]
            for viewer in viewers:
                viewer.start()
            for viewer in viewers:
                viewer.join()
        assert len(numbers) == 4
        assert all(seen == sorted(set(seen)) for seen in numbers)
        until = time.monotonic() + 20
        while sink._room._number != encoded:  # the last one is on its way to the room
            assert time.monotonic() < until, (sink._room._number, encoded)
            time.sleep(0.01)
        assert sink._room.most >= 1


def test_players_get_motion_jpeg() -> None:
    with WatchSink(":0") as sink, running(sink) as address:
        answer = requests.get(f"{address}/v1/watch.mjpg", stream=True, timeout=20)
        _, _, boundary = answer.headers["content-type"].partition("boundary=")
        body = b""
        for part in answer.iter_content(1000):
            body += part
            if body.count(b"--" + boundary.encode()) > 3:
                break
        answer.close()
        head, _, rest = body.split(b"--" + boundary.encode())[1].partition(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2])
        level_of(rest[:length])
        until = time.monotonic() + 10
        while sink.wants_image:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_viewers_are_let_go_at_the_end() -> None:
    sink = WatchSink(":0")
    address = sink.lines[0][1].replace("http", "ws") + "v1/watch"
    with connect(address, open_timeout=20) as viewer:
        viewer.send(json.dumps({"type": "hello"}))
        while not sink.wants_image:
            time.sleep(0.01)
        since = time.monotonic()
        sink.close()
        with pytest.raises(ConnectionClosed):
            viewer.recv(10)
        assert time.monotonic() - since < 5


@pytest.mark.parametrize("route", ["watch", "watch.mjpg"])
def test_viewers_who_leave_while_no_frame_comes_are_not_counted(route: str) -> None:
    with WatchSink(":0") as sink:
        address = f"{sink.lines[0][1]}v1/{route}"
        for _ in range(9):  # one more than may watch
            if route == "watch":
                with connect(address.replace("http", "ws"), open_timeout=20) as viewer:
                    viewer.send(json.dumps({"type": "hello"}))
                    wait_for(lambda: sink.wants_image)
            else:
                with requests.get(address, stream=True, timeout=20) as answer:
                    assert answer.status_code == 200
                    assert sink.wants_image
            wait_for(lambda: not sink.wants_image)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_player_that_is_paused_leaves_no_traceback_at_the_end() -> None:
    command = [sys.executable, "-m", "rtseg", "test://", "-m", "stub", "--web", ":0"]
    flags = ["--max-frames", "150", "--no-idle", "--view", "overlay"]
    with subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while not (line := process.stderr.readline()).startswith("serving"):
            assert line, "it ended"
        port = int(line.rpartition(":")[2].strip("/\n"))
        with socket.create_connection(("127.0.0.1", port), timeout=20) as player:
            player.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            player.sendall(b"GET /v1/watch.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert player.recv(12) == b"HTTP/1.1 200"
            said = process.stderr.read()
    assert process.returncode == 0
    assert "1 watching at most" in said
    assert "Traceback" not in said


def test_a_page_of_another_site_cannot_look() -> None:
    with WatchSink(":0") as sink:
        answer = requests.get(
            f"{sink.lines[0][1]}v1/watch.jpg", headers={"Origin": "http://evil.test"}, timeout=20
        )
        assert answer.status_code == 403


def test_off_the_loopback_a_token_is_needed() -> None:
    with WatchSink("0.0.0.0:0") as sink, running(sink) as address:
        token = address.partition("#token=")[2]
        port = address.partition("#")[0].rstrip("/").rpartition(":")[2]
        snapshot = f"http://127.0.0.1:{port}/v1/watch.jpg"
        assert requests.get(snapshot, timeout=20).status_code == 401
        assert requests.get(snapshot, auth=("", token), timeout=20).status_code == 200


def test_a_port_that_is_taken_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(SinkError) as caught:
            WatchSink(f":{taken.getsockname()[1]}")
        assert "in use" in caught.value.found


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--web"], ["--web=127.0.0.1:8765"]),
        (["--web", "clip.mp4"], ["--web=127.0.0.1:8765", "clip.mp4"]),
        (["--web", "--no-hud"], ["--web=127.0.0.1:8765", "--no-hud"]),
        (["--web", ":90", "0"], ["--web=:90", "0"]),
        (["--web", "0.0.0.0:90"], ["--web=0.0.0.0:90"]),
        (["--web=:1"], ["--web=:1"]),
        (["--web", "rtsp://host:554"], ["--web=127.0.0.1:8765", "rtsp://host:554"]),
    ],
)
def test_the_place_may_be_left_out(arguments: list[str], expected: list[str]) -> None:
    assert _joined_dashes(arguments) == expected


def test_a_figure_beside_a_page_ends_no_run() -> None:
    run = {"input": ("test://?frames=9",), "figure": "new.png"}
    assert make_plan(Flags.of(**run, web=":0")).source_options.max_frames is None
    assert make_plan(Flags.of(**run)).source_options.max_frames == 1


def test_a_run_on_a_page_opens_no_window_and_plays_at_its_own_speed() -> None:
    plan = make_plan(Flags.of(input=("test://?frames=9",), web=":0"))
    assert (plan.window, plan.paced, plan.outputs) == (False, True, ())
    for place in ("nonsense", ":99999", "host"):
        with pytest.raises(UsageError):
            make_plan(Flags.of(input=("test://",), web=place))
    with pytest.raises(UsageError) as caught:
        make_grid_plan(Flags.of(input=("test://", "9000"), web=":0"))
    assert "--web :9000" in caught.value.do, "as 9000 is a camera"
