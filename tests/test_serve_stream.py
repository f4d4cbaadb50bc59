"""`/v1/stream`: every frame is answered once, with its own mask or a cause; all get their turn."""

from __future__ import annotations

import io
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import cv2
import numpy as np
import pytest
import requests
from PIL import Image as PaletteImage
from servers import Served, served
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import rtseg
from rtseg.frame import Image, Segmentation
from rtseg.serve.stream import DROPPED, HEADER, LOGITS16, NEWER, PNG, UNREADABLE
from rtseg.session.engine import Channel, Engine
from rtseg.sinks.masks import quick_png
from rtseg.sources import open_source
from rtseg.temporal.options import USUAL_SMOOTH
from rtseg.temporal.smooth import Smoother

WIDTH, HEIGHT = 320, 200


@pytest.fixture
def server() -> Iterator[Served]:
    with served() as one:
        yield one


class Camera:
    """A client with a camera; frames carry their number in their colours."""

    def __init__(self, server: Served, kind: str = "png", **more: object) -> None:
        self.address = f"ws://127.0.0.1:{server.port}/v1/stream"
        self.hello = {"type": "hello", "width": WIDTH, "height": HEIGHT, "kind": kind, **more}

    def __enter__(self) -> Camera:
        with ExitStack() as stack:
            connection = connect(self.address, subprotocols=["rtseg.1"], open_timeout=20)  # type: ignore[list-item]
            self.socket: ClientConnection = stack.enter_context(connection)
            self.socket.send(json.dumps(self.hello))
            self.welcome = json.loads(self.socket.recv(20))
            self._stack = stack.pop_all()
        size = self.welcome["input"]
        self.size = size["height"], size["width"]
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def send(self, number: int, image: Image) -> None:
        content = cv2.imencode(".png", image)[1].tobytes()
        self.socket.send(struct.pack("<IId", number, 0, number * 1.5) + content)

    def answer(self) -> tuple[int, int, int, tuple[int, int], bytes]:
        """Number, kind, cause, (height, width), payload."""
        while isinstance(message := self.socket.recv(20), str):
            assert json.loads(message)["type"] == "window"  # as ages on a busy machine ask for
        number, kind, cause, client_ms, width, height, *_ = HEADER.unpack_from(message)
        assert client_ms == number * 1.5
        return number, kind, cause, (height, width), message[HEADER.size :]


def block(size: tuple[int, int], number: int) -> Image:
    """A picture of the stub's world whose block of class 1 is as wide as the number."""
    height, width = size
    red, green, blue = rtseg.load("stub").labels.colours[1]
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width * (number % 7 + 1) // 8] = blue, green, red
    return image


def test_a_frame_gets_its_mask_at_the_size_of_the_camera(server: Served) -> None:
    with Camera(server) as camera:
        image = block(camera.size, 3)
        camera.send(1, image)
        number, kind, _, size, payload = camera.answer()
        assert (number, kind, size) == (1, PNG, (HEIGHT, WIDTH))
        shown = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_UNCHANGED)
        with rtseg.load("stub") as segmenter:
            mask = segmenter(image).at_size((HEIGHT, WIDTH)).mask
        assert np.array_equal(shown[..., 3] > 0, mask > 0)
        assert mask.any()
        red, green, blue = camera.welcome["classes"][1]["colour"]
        assert shown[HEIGHT // 2, 3].tolist() == [blue, green, red, 255]


def test_two_classes_come_as_the_difference_of_their_scores() -> None:
    labels = rtseg.load("stub").labels
    two = rtseg.LabelSet(labels.names[:2], labels.colours[:2])
    with rtseg.load("stub") as segmenter:
        backend = segmenter.backend
        call = backend.__class__.__call__
        pair = TwoClasses(backend, call)
        segmenter.backend, segmenter.labels = pair, two  # type: ignore[assignment]
        with served(segmenter) as server, Camera(server, "logits16") as camera:
            image = block(camera.size, 2)
            camera.send(1, image)
            number, kind, _, (height, width), payload = camera.answer()
            assert (number, kind) == (1, LOGITS16)
            found = np.frombuffer(payload, "<f2").reshape(height, width)
            scores = segmenter(image).scores
            assert np.array_equal(found, (scores[1] - scores[0]).astype(np.float16))
            assert (found > 0).any()
            assert (found < 0).any()


class TwoClasses:
    """The stub, of which two classes are left."""

    def __init__(self, inner: object, call: object) -> None:
        self.inner, self.call = inner, call

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return self.inner(batch)[:, :2]  # type: ignore[operator]


def test_masks_are_steadied_for_each_client(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for one source alone, while another client sends other images."""
    monkeypatch.setattr("rtseg.temporal.smooth.MAX_GAP_SECONDS", 60.0)  # on a busy machine
    random = np.random.default_rng(3)
    with (
        Camera(server, smooth=True) as steady,
        Camera(server) as plain,
        rtseg.load("stub") as segmenter,
    ):
        smooth, changed = Smoother(USUAL_SMOOTH), 0
        for number in range(1, 9):
            image = block(steady.size, 3)
            image[random.random(steady.size) < 0.2] = 0
            alone = segmenter(image)
            scores = smooth(alone.scores, image, number / 30)
            wanted = Segmentation(scores, alone.labels, alone.size).at_size((HEIGHT, WIDTH)).mask
            found = []
            for camera in (steady, plain):
                camera.send(number, image if camera is steady else block(plain.size, number))
                payload = camera.answer()[-1]
                shown = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_UNCHANGED)
                found.append(shown[..., 3] > 0)
            assert np.array_equal(found[0], wanted > 0)
            mask = segmenter(block(plain.size, number)).at_size((HEIGHT, WIDTH)).mask
            assert np.array_equal(found[1], mask > 0)
            changed += np.count_nonzero(wanted != alone.at_size((HEIGHT, WIDTH)).mask)
        assert changed


def test_many_classes_have_no_difference(server: Served) -> None:
    with pytest.raises(ConnectionClosed, match="kind logits16"), Camera(server, "logits16"):
        pass


FEW = 6
"""Masks that each client gets at least."""


def run_clients(model: str, windows: list[int], seconds: float) -> list[int]:
    """How many masks clients got who may have so many frames on their way; each of them its own,
    and each frame an answer."""
    with rtseg.load(model) as segmenter, served(segmenter) as server:
        shown = [0] * len(windows)

        def goes_on(until: float) -> bool:
            """Until the time is over; on a busy machine, until there is something to compare."""
            now = time.monotonic()
            return now < until or (min(shown) < FEW and now < until + 60)

        def run(client: int, window: int) -> None:
            with Camera(server) as camera:
                pictures = [
                    cv2.imencode(".png", block(camera.size, n))[1].tobytes() for n in range(7)
                ]
                masks = [
                    np.count_nonzero(segmenter(block(camera.size, n)).at_size((HEIGHT, WIDTH)).mask)
                    for n in range(7)
                ]
                ready.wait(30)
                until, number, waiting = time.monotonic() + seconds, 0, set()
                while goes_on(until) or waiting:
                    if len(waiting) < window and goes_on(until):
                        number += 1
                        waiting.add(number)
                        camera.socket.send(
                            struct.pack("<IId", number, 0, number * 1.5) + pictures[number % 7]
                        )
                        continue
                    answered, kind, cause, _, payload = camera.answer()
                    waiting.remove(answered)
                    if kind == DROPPED:
                        assert cause == NEWER
                        continue
                    content = np.frombuffer(payload, np.uint8)
                    alpha = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)[..., 3]
                    assert np.count_nonzero(alpha) == masks[answered % 7]
                    shown[client] += 1

        ready = threading.Barrier(len(windows))
        threads = [threading.Thread(target=run, args=row) for row in enumerate(windows)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return shown


def test_every_frame_is_answered_once_with_its_own_mask() -> None:
    """Several clients, one of which floods: no frame is lost, and no mask is another's."""
    flood, *others = run_clients("stub?delay=50ms", [30, 3, 3], 2.0)
    assert min(flood, *others) >= FEW
    assert flood <= 3 * min(others)  # of ten times as many in flight


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(300)
@pytest.mark.parametrize("clients", [1, 4, 8])
def test_thousands_of_frames_and_fair_shares(clients: int) -> None:
    """By Jain's index, which is 1 where all get the same."""
    shown = run_clients("stub?delay=20ms", [30] + [3] * (clients - 1), 20.0)
    assert sum(shown) > 200
    assert sum(shown) ** 2 / (clients * sum(count**2 for count in shown)) > 0.95


def test_what_is_not_an_image_is_dropped_and_the_next_frame_is_shown(server: Served) -> None:
    with Camera(server) as camera:
        camera.socket.send(struct.pack("<IId", 1, 0, 1.5) + b"not a picture")
        assert camera.answer()[:3] == (1, DROPPED, UNREADABLE)
        camera.send(2, block((64, 64), 1))  # of a size that nobody asked for
        assert camera.answer()[:3] == (2, DROPPED, UNREADABLE)
        camera.send(3, block(camera.size, 1))
        assert camera.answer()[:2] == (3, PNG)
        (figures,) = requests.get(f"{server.url}/v1/sessions", timeout=10).json()["sessions"]
        assert figures["received"] == figures["shown"] + sum(figures["dropped"].values())


def test_classes_camera_and_ages_are_told(server: Served) -> None:
    with Camera(server) as camera:
        camera.socket.send(json.dumps({"type": "classes", "ids": [0]}))
        camera.send(1, block(camera.size, 3))
        payload = camera.answer()[4]
        assert not cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_UNCHANGED)[
            ..., 3
        ].any()
        camera.socket.send(json.dumps({"type": "camera", "width": 200, "height": 320}))
        welcome = json.loads(camera.socket.recv(20))
        assert (welcome["width"], welcome["height"]) == (200, 320)
        assert welcome["input"]["height"] > welcome["input"]["width"]
        camera.socket.send(json.dumps({"type": "painted", "ages": [50.0, 70.0], "trips": [40.0]}))
        camera.send(2, block(camera.size, 3))
        assert camera.answer()[:2] == (2, PNG)
        (figures,) = requests.get(f"{server.url}/v1/sessions", timeout=10).json()["sessions"]
        assert figures["age_ms"]["max"] == 70.0


def test_classes_of_the_server_are_shown_until_others_are_chosen() -> None:
    with rtseg.load("stub") as segmenter:
        segmenter.selected = frozenset({2})
        with served(segmenter) as server, Camera(server) as camera:
            assert camera.welcome["selected"] == [2]
            found = []
            for number in (1, 2):
                camera.send(number, block(camera.size, 3))
                payload = np.frombuffer(camera.answer()[4], np.uint8)
                found.append(cv2.imdecode(payload, cv2.IMREAD_UNCHANGED)[..., 3].any())
                camera.socket.send(json.dumps({"type": "classes", "ids": [1]}))
            assert found == [False, True]


@pytest.mark.parametrize(
    "message",
    [
        "not json",
        "[]",
        '{"type": "nonsense"}',
        '{"type": "classes", "ids": [99]}',
        '{"type": "camera", "width": 0, "height": 5}',
        '{"type": "camera", "width": 8192, "height": 8192}',
        '{"type": "painted", "ages": ["x"]}',
        "[" * 60_000,
        '{"type": "\\ud800"}',
        json.dumps({"type": "\U0001f600" * 60}, ensure_ascii=False),
        b"short",
    ],
)
def test_nonsense_ends_the_stream(server: Served, message: str | bytes) -> None:
    with Camera(server) as camera:
        camera.socket.send(message)
        with pytest.raises(ConnectionClosed) as caught:
            camera.answer()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1008
    assert requests.get(f"{server.url}/v1/health/ready", timeout=10).status_code == 200


def test_numbers_grow_from_any(server: Served) -> None:
    with Camera(server) as camera:
        camera.send(0, block(camera.size, 0))
        assert camera.answer()[:2] == (0, 3)
        camera.send(0, block(camera.size, 0))
        with pytest.raises(ConnectionClosed) as caught:
            camera.answer()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1008


def test_a_flood_of_messages_does_not_keep_others_waiting(server: Served) -> None:
    with Camera(server) as flooding, Camera(server) as other:
        other.send(1, block(other.size, 3))
        other.answer()
        painted = json.dumps({"type": "painted", "ages": [50.0] * 1000, "trips": [40.0] * 1000})
        over = threading.Event()

        def flood() -> None:
            with suppress(ConnectionClosed):
                while not over.is_set():
                    flooding.socket.send(painted)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            since = time.monotonic()
            for number in range(2, 12):
                other.send(number, block(other.size, 3))
                assert other.answer()[0] == number
            assert time.monotonic() - since < 10
        finally:
            over.set()
            thread.join()


def test_a_message_that_is_too_long_ends_the_stream(server: Served) -> None:
    with Camera(server) as camera:
        camera.socket.send(json.dumps({"type": "painted", "ages": [50.0] * 100_000, "trips": []}))
        with pytest.raises(ConnectionClosed) as caught:
            camera.answer()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1008


@pytest.mark.parametrize("hello", ["[" * 60_000, '{"token": "\\ud800"}', '{"kind": "\\ud800"}'])
def test_a_hello_that_makes_no_sense_is_refused(server: Served, hello: str) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/v1/stream", open_timeout=20) as socket:
        socket.send(hello)
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(20)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1008


def test_frames_of_the_camera_before_are_still_shown_and_no_others(server: Served) -> None:
    with Camera(server) as camera:
        for side in (100, 200, 300):
            camera.socket.send(json.dumps({"type": "camera", "width": side, "height": 90}))
            assert json.loads(camera.socket.recv(20))["width"] == side
        camera.send(1, np.zeros((90, 200, 3), np.uint8))
        assert camera.answer()[1] == PNG
        camera.send(2, np.zeros((90, 100, 3), np.uint8))
        assert camera.answer()[1:3] == (DROPPED, UNREADABLE)


def test_streams_are_limited_and_a_place_becomes_free_again() -> None:
    with served(max_clients=1) as server:
        with (
            Camera(server),
            pytest.raises(ConnectionClosed, match="busy"),
            Camera(server) as second,
        ):
            second.answer()
        for _ in range(3):  # one after another, in the same place
            while server.service.clients:
                time.sleep(0.01)
            with Camera(server) as camera:
                camera.send(1, block(camera.size, 1))
                assert camera.answer()[:2] == (1, PNG)


def test_the_token_comes_in_the_first_message() -> None:
    with served(token="s3cret-t0ken") as server:
        with pytest.raises(ConnectionClosed, match="token"), Camera(server):
            pass
        with Camera(server, token="s3cret-t0ken") as camera:
            assert camera.welcome["model"] == "stub"


@pytest.mark.parametrize(
    ("host", "origin"), [("127.0.0.1", "http://evil.test"), ("evil.test", None)]
)
def test_pages_of_other_sites_get_no_socket(server: Served, host: str, origin: str | None) -> None:
    address = f"ws://{host}:{server.port}/v1/stream"
    there = socket.create_connection(("127.0.0.1", server.port))
    with (
        pytest.raises(InvalidStatus) as caught,
        connect(address, sock=there, origin=origin),  # type: ignore[arg-type]
    ):
        pass
    assert caught.value.response.status_code == 403


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_client_that_stops_reading_costs_the_others_nothing_and_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rtseg.serve.listen.UNREAD_SECONDS", 2)
    colours = np.array([rgb[::-1] for rgb in rtseg.load("stub").labels.colours], np.uint8)
    with served() as server, Camera(server) as camera:
        camera.socket.send(json.dumps({"type": "camera", "width": 1280, "height": 720}))
        size = json.loads(camera.socket.recv(20))["input"]
        random = np.random.default_rng(1)
        image = colours[random.integers(0, len(colours), (size["height"], size["width"]))]
        content = cv2.imencode(".jpg", image)[1].tobytes()
        (client,) = server.service.clients
        until = time.monotonic() + 150
        for number in range(1, 10_000):
            if not server.service.clients:
                break
            assert time.monotonic() < until, "it is still open"
            with suppress(ConnectionClosed):
                camera.socket.send(struct.pack("<IId", number, 0, 0.0) + content)
            time.sleep(0.01)
        assert 0 < client.shown < 100  # of more than 256
        assert client.dropped["unread"] > 2 * client.shown
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # else the connection waits for it to read
            closed = False
            while not closed and time.monotonic() < until:
                try:
                    camera.socket.send(content)
                except ConnectionClosed:
                    closed = True
                time.sleep(0.1)
            assert closed


def test_an_idle_stream_is_closed(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtseg.serve.stream.IDLE_SECONDS", 0.2)
    with Camera(server) as camera, pytest.raises(ConnectionClosed, match="idle"):
        camera.answer()


def test_the_page_comes_with_all_its_parts_and_loads_nothing_else(server: Served) -> None:
    page = requests.get(server.url, timeout=10)
    assert "script-src 'self'" in page.headers["content-security-policy"]
    size = len(page.content)
    parts = {word.split('"')[0] for word in page.text.split('"/page/')[1:]}
    assert parts == {"icon.svg", "page.css", "page.js", "video.js"}
    for name in (*parts, "painter.js", "watch.html", "watch.js"):
        answer = requests.get(f"{server.url}/page/{name}", timeout=10)
        assert answer.status_code == 200
        size += len(answer.content)
    assert size < 60_000
    for name in ("../serve/options.py", "%2e%2e/options.py", "nothing.js"):
        assert requests.get(f"{server.url}/page/{name}", timeout=10).status_code == 404


def test_an_engine_gives_the_number_of_a_removed_source_again() -> None:
    with rtseg.load("stub") as segmenter:
        channels = [Channel(open_source("test://?frames=1000&fps=50"), newest=True)]
        with Engine(channels, segmenter, shared=True) as engine:
            for _ in range(3):
                assert engine.add(Channel(open_source("test://?frames=1000"))) == 1
                seen = set()
                for results in engine.poll(0.05):
                    for result in results:
                        engine.done(result)
                        seen.add(result.source)
                    if seen == {0, 1}:
                        break
                engine.remove(1)
            assert len(engine.channels) == 2


@pytest.mark.parametrize("classes", [1, 2, 3, 256])
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (64, 80)])
def test_a_png_of_a_mask_has_its_indices_and_colours(classes: int, size: tuple[int, int]) -> None:
    indices = np.arange(size[0] * size[1]) % classes
    mask = indices.reshape(size).astype(np.uint8)
    random = np.random.default_rng(classes)
    colours, opacity = random.integers(0, 256, (256, 3)), random.integers(0, 256, 256)
    content = quick_png(mask, colours.ravel().tolist(), bytes(opacity.tolist()))
    with PaletteImage.open(io.BytesIO(content)) as image:
        assert np.array_equal(np.array(image), mask)
        drawn = np.array(image.convert("RGBA"))
    assert np.array_equal(drawn[..., :3], colours[mask])
    assert np.array_equal(drawn[..., 3], opacity[mask])
    if classes > 1:
        found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        assert found.shape == (*size, 4)
