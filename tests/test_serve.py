"""The server's API: what it answers, and whom it refuses before it reads anything."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests
from PIL import Image as Pillow
from servers import Served, served

import rtseg
from rtseg.cli.app import main
from rtseg.cli.report import say_where
from rtseg.documents import read_toml
from rtseg.errors import BackendError, SinkError, UsageError
from rtseg.frame import Image
from rtseg.serve import app
from rtseg.serve.listen import listening, qr_code
from rtseg.serve.options import ServeOptions
from rtseg.serve.watch import WatchSink
from rtseg.sinks.jsonl import run_lengths


def shapes(width: int = 320, height: int = 200) -> Image:
    """A picture of the stub's world."""
    image = np.zeros((height, width, 3), np.uint8)
    labels = rtseg.load("stub").labels
    red, green, blue = labels.colours[1]
    image[40:120, 60:200] = blue, green, red
    return image


def png(image: Image) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


@pytest.fixture
def server() -> Iterator[Served]:
    with served(max_megapixels=1, max_megabytes=1, allow_host=("proxy.test",), token="none") as one:
        yield one


def post(server: Served, body: bytes | Iterator[bytes], **query: str) -> requests.Response:
    return requests.post(f"{server.url}/v1/segment", data=body, params=query, timeout=20)


def opened(answer: requests.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Pillow.open(io.BytesIO(answer.content)))


def test_every_kind_of_answer_is_that_of_the_segmenter(server: Served) -> None:
    image = shapes()
    with rtseg.load("stub") as segmenter:
        found = segmenter(image)
        labels = segmenter.labels
    assert found.mask.max() == 1
    body = png(image)
    mask = post(server, body, **{"as": "mask"})
    assert np.array_equal(opened(mask), found.mask)
    palette = Pillow.open(io.BytesIO(mask.content)).getpalette()
    assert palette is not None
    assert tuple(palette[3:6]) == labels.colours[1]
    assert np.array_equal(opened(post(server, body, **{"as": "index"})), found.mask)
    cutout = opened(post(server, body, **{"as": "cutout"}))
    assert cutout[80, 130, 3] == 255
    assert cutout[5, 5, 3] == 0
    overlay = opened(
        requests.post(
            f"{server.url}/v1/segment?as=overlay",
            data=body,
            headers={"Accept": "image/png"},
            timeout=20,
        )
    )
    assert overlay.shape == (200, 320, 3)
    assert post(server, body, **{"as": "overlay"}).headers["content-type"] == "image/jpeg"
    answer = post(server, body, **{"as": "json", "rle": "1"})
    assert answer.json()["classes"] == [
        {
            "id": 1,
            "name": labels.names[1],
            "share": round(found.shares[labels.names[1]], 6),
            "rle": run_lengths(found.mask, 1),
        }
    ]
    assert (answer.json()["width"], answer.json()["height"]) == (320, 200)
    scores = np.load(io.BytesIO(post(server, body, **{"as": "logits"}).content))
    assert np.array_equal(scores, found.scores)
    assert {"decode", "network", "encode"} == {
        part.partition(";")[0] for part in answer.headers["server-timing"].split(", ")
    }


def test_accept_decides_where_nothing_is_named(server: Served) -> None:
    kinds = {"application/json": "application/json", "image/jpeg": "image/jpeg", "*/*": "image/png"}
    for accept, media in kinds.items():
        answer = requests.post(
            f"{server.url}/v1/segment", data=png(shapes()), headers={"Accept": accept}, timeout=20
        )
        assert answer.headers["content-type"] == media


def test_classes_are_kept(server: Served) -> None:
    body = png(shapes())
    assert not opened(post(server, body, classes="0")).any()
    assert post(server, body, classes="no such").status_code == 422


def test_classes_of_the_server_are_kept_unless_others_are_asked_for() -> None:
    with rtseg.load("stub") as segmenter:
        segmenter.selected = frozenset({2})
        with served(segmenter) as server:
            assert not opened(post(server, png(shapes()))).any()
            assert opened(post(server, png(shapes()), classes="1")).any()


def test_videos_get_the_model_by_its_name_whatever_its_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtseg.serve.application.build", lambda _, options, config: config)
    name, path = 'm\U0001f600"\\.onnx', tmp_path / "config.toml"
    path.write_text(str(app(name)), "utf-8")
    assert read_toml(path) == {"model": name}


def test_images_of_every_shape_at_once(server: Served) -> None:
    """Each answer belongs to its own image."""
    sizes = [(320, 200), (200, 320), (321, 99), (64, 64)] * 4
    found: dict[int, tuple[int, int]] = {}

    def ask(number: int) -> None:
        width, height = sizes[number]
        mask = opened(post(server, png(shapes(width, height))))
        found[number] = (mask.shape[1], mask.shape[0])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(sizes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(len(sizes))] == sizes


def huge_png(side: int) -> bytes:
    """A few bytes that say they are a picture of side x side."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"not an image", 415),
        (b"#EXTM3U\nfile:///etc/passwd\n", 415),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", 415),
        (png(shapes())[:200], 415),
        (huge_png(50_000), 415),
        (png(np.zeros((1001, 1000, 3), np.uint8)), 413),
        (bytes(1_000_001), 413),
    ],
    ids="empty text playlist concat cut huge pixels bytes".split(),
)
def test_bad_bodies_are_refused(server: Served, body: bytes, status: int) -> None:
    answer = post(server, body)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


def test_what_is_too_long_for_a_jpeg_comes_as_png(server: Served) -> None:
    body = png(np.zeros((66_000, 4, 3), np.uint8))
    assert post(server, body, **{"as": "overlay"}).status_code == 422
    headers = {"Accept": "image/png"}
    answer = requests.post(
        f"{server.url}/v1/segment?as=overlay", data=body, headers=headers, timeout=20
    )
    assert opened(answer).shape == (66_000, 4, 3)


def test_a_client_that_goes_amid_its_body_is_no_error_of_the_server(
    capfd: pytest.CaptureFixture[str], server: Served
) -> None:
    head = f"POST /v1/segment HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: "
    for length in ("900", "99999999999"):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(f"{head}{length}\r\n\r\nabc".encode())
            if length == "900":
                while not server.service._inside:
                    time.sleep(0.01)
    while server.service._inside:
        time.sleep(0.01)
    assert post(server, png(shapes())).status_code == 200
    assert "Exception" not in capfd.readouterr().err


def test_a_body_without_a_length_is_cut_off_at_the_limit(server: Served) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while True:
            sent += 100_000
            yield bytes(100_000)

    with suppress(requests.ConnectionError):  # it was closed while we were still sending
        assert post(server, endless()).status_code == 413
    assert sent < 50_000_000


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.test"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "evil.test:80"}, 421),
        ({"Host": "localhost:1/x"}, 421),
        ({"Host": "localhost:port"}, 421),
        ({"Host": "user@localhost"}, 421),
        ({"Host": "[::1]evil.test"}, 421),
        ({"Host": "127.0.0.1.evil.test"}, 421),
        ({"Host": "192.168.1.7"}, 421),
        ({"Host": "proxy.test"}, 200),
        ({"Host": "localhost:1234"}, 200),
        ({"Host": "[::1]:1234"}, 200),
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:5", "Origin": "http://localhost:6"}, 403),
        ({"Host": "localhost:5", "Origin": "http://localhost:5"}, 200),
    ],
)
def test_host_and_origin(server: Served, headers: dict[str, str], status: int) -> None:
    answer = requests.get(f"{server.url}/v1/models", headers=headers, timeout=10)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_page_elsewhere_may_call_where_its_origin_is_listed() -> None:
    token, origin = "s3cret-t0ken", "https://example.org"
    asks = {"Access-Control-Request-Method": "PUT"}
    asks |= {"Access-Control-Request-Headers": "authorization,content-range"}
    with served(token=token, allow_origin=(origin,)) as server:
        address = f"{server.url}/v1/jobs/{0:032x}/input"
        may = requests.options(address, headers=asks | {"Origin": origin}, timeout=10)
        assert may.status_code == 200
        assert may.headers["access-control-allow-origin"] == origin
        assert "PUT" in may.headers["access-control-allow-methods"]
        bearer = {"Authorization": f"Bearer {token}"}
        for headers, status in ((bearer, 200), ({}, 401)):
            headers = headers | {"Origin": origin}
            answer = requests.get(f"{server.url}/v1/models", headers=headers, timeout=10)
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == origin
        for other in ("https://evil.test", "null", server.url):
            headers = bearer | {"Origin": other}
            answer = requests.get(f"{server.url}/v1/models", headers=headers, timeout=10)
            assert answer.status_code == (200 if other == server.url else 403)
            may = requests.options(address, headers=asks | headers, timeout=10)
            for each in (answer, may):
                assert "access-control-allow-origin" not in each.headers


def test_a_token_is_needed_where_one_is_set() -> None:
    token = "s3cret-t0ken"
    with served(token=token) as server:
        models = f"{server.url}/v1/models"
        for headers in ({}, {"Authorization": "Bearer wrong-token"}, {"Authorization": "Basic eA"}):
            answer = requests.get(models, headers=headers, timeout=10)
            assert (answer.status_code, token in answer.text) == (401, False)
        bearer = {"Authorization": f"Bearer {token}"}
        assert requests.get(models, headers=bearer, timeout=10).status_code == 200
        assert requests.get(models, auth=("", token), timeout=10).status_code == 200
        assert requests.get(f"{models}?token={token}", timeout=10).status_code == 401
        assert post(server, png(shapes())).status_code == 401
        assert requests.get(f"{server.url}/metrics", timeout=10).status_code == 401
        assert requests.get(f"{server.url}/v1/health/live", timeout=10).status_code == 200


def test_one_more_image_than_there_is_room_for_is_refused() -> None:
    with rtseg.load("stub?delay=300ms") as slow, served(slow, max_pictures=1) as server:
        first = threading.Thread(target=post, args=(server, png(shapes())))
        first.start()
        while not server.service.gauges()["rtseg_pictures"]:
            time.sleep(0.005)
        answer = post(server, png(shapes()))
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        first.join()
        assert post(server, png(shapes())).status_code == 200


def test_slow_uploads_lose_their_places_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtseg.serve.service.UPLOAD_SECONDS", 0.2)
    body, size = png(shapes()), 2
    head = f"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with served(max_pictures=size) as server, ExitStack() as stack:
        address = ("127.0.0.1", server.port)
        slow = []
        for number in range(size):
            slow.append(stack.enter_context(socket.create_connection(address, timeout=20)))
            slow[-1].sendall(head.encode() + body[:-1])
            while len(server.service._inside) <= number:
                time.sleep(0.01)
        assert post(server, body).status_code in (200, 429)
        time.sleep(0.25)  # now both are slow, and the first one the slowest
        assert post(server, body).status_code == 200
        for connection in slow:
            connection.sendall(body[-1:])
        answers = [connection.recv(100).split()[1] for connection in slow]
        assert answers == [b"408", b"200"]


def test_a_network_that_fails_ends_the_service() -> None:
    with rtseg.load("stub") as segmenter, served(segmenter) as server:
        segmenter.backend = Broken(segmenter.backend)
        assert post(server, png(shapes())).status_code == 500
        assert post(server, png(shapes())).status_code == 503
        assert requests.get(f"{server.url}/v1/health/ready", timeout=10).status_code == 503
        assert isinstance(server.service.failure, BackendError)


class Broken:
    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        raise BackendError("out of order")


def test_draining_refuses_new_work(server: Served) -> None:
    server.service.draining = True
    try:
        answer = post(server, png(shapes()))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert requests.get(f"{server.url}/v1/health/ready", timeout=10).status_code == 503
        assert requests.get(f"{server.url}/v1/health/live", timeout=10).status_code == 200
    finally:
        server.service.draining = False


def test_metrics_count_requests(server: Served) -> None:
    def requests_counted() -> float:
        lines = requests.get(f"{server.url}/metrics", timeout=10).text.splitlines()
        name = 'rtseg_requests_total{route="/v1/segment",status="200"}'
        return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)

    before = requests_counted()
    post(server, png(shapes()))
    assert requests_counted() == before + 1


def test_the_description_names_every_route(server: Served) -> None:
    described = requests.get(f"{server.url}/v1/openapi.json", timeout=10).json()
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            url = server.url + path.replace("{id}", "0" * 32)
            answer = requests.request(method, url, data=png(shapes()), timeout=10)
            given = operation["responses"].get(str(answer.status_code))
            assert given is not None, (path, answer.status_code)
            assert answer.headers["content-type"].partition(";")[0] in given["content"]


def test_unknown_addresses_and_methods(server: Served) -> None:
    assert requests.get(f"{server.url}/v1/../../etc/passwd", timeout=10).status_code == 404
    wrong = requests.get(f"{server.url}/v1/segment", timeout=10)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    several = requests.put(f"{server.url}/v1/jobs/{'0' * 32}", timeout=10)
    assert (several.status_code, several.headers["allow"]) == (405, "GET, DELETE")
    assert post(server, png(shapes()), path="/etc/passwd").status_code == 422
    for unknown in ("tiff", ""):
        assert post(server, png(shapes()), **{"as": unknown}).status_code == 422
    assert post(server, png(shapes()), refine="perhaps").status_code == 422


@pytest.mark.parametrize(
    "options",
    [
        {"port": 70000},
        {"token": "short"},
        {"token": "with space in it"},
        {"tls_cert": "cert.pem"},
        {"allow_origin": ("example.org",)},
        {"max_clients": 0},
    ],
)
def test_options_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ServeOptions(**options)  # type: ignore[arg-type]


def test_a_token_is_made_up_unless_only_this_machine_can_connect() -> None:
    assert ServeOptions().settled_token() is None
    assert ServeOptions(host="localhost").settled_token() is None
    assert ServeOptions(host="::1").settled_token() is None
    assert ServeOptions(token="none", host="0.0.0.0").settled_token() is None
    for options in (ServeOptions(host="0.0.0.0"), ServeOptions(allow_host=("proxy.test",))):
        token = options.settled_token()
        assert token is not None
        assert len(token) >= 20
        assert token != options.settled_token()


def test_a_port_is_not_shared_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(ServeOptions(port=0)) as listener:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr("socket.SO_EXCLUSIVEADDRUSE", socket.SO_KEEPALIVE, raising=False)
    with listening(ServeOptions(port=0)) as listener:
        assert not listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_the_code_for_telephones_is_that_of_the_address() -> None:
    """Read from the half blocks of the terminal by another library."""
    address = "http://192.168.1.17:8765/#token=abcdefghijklmnopqrstuvwx"
    dark = {" ": (0, 0), "▀": (255, 0), "▄": (0, 255), "█": (255, 255)}
    rows = [[dark[letter] for letter in line] for line in qr_code(address).splitlines()]
    image = np.array(rows, np.uint8).transpose(0, 2, 1).reshape(2 * len(rows), -1)
    image = cv2.resize(image, None, fx=8, fy=8, interpolation=cv2.INTER_NEAREST)
    assert cv2.QRCodeDetector().detectAndDecode(image)[0] == address


@pytest.mark.parametrize(
    ("place", "quiet", "drawn"),
    [("0.0.0.0:0", False, True), ("0.0.0.0:0", True, False), (":0", False, False)],
)
def test_a_run_on_a_page_draws_the_code_too_if_others_can_come(
    place: str,
    quiet: bool,
    drawn: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with WatchSink(place) as sink:
        lines = sink.lines
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    say_where(lines, quiet=quiet)
    said = capsys.readouterr().err
    assert lines[0][1] in said  # in one piece
    assert not drawn or qr_code(lines[0][1]) in said
    assert ("█" in said) == drawn


def test_an_application_without_a_token_answers_its_own_machine_alone() -> None:
    """Under another server rtseg does not know the address that is listened on."""
    import asyncio

    def status(address: str) -> int:
        answers: list[dict[str, object]] = []

        async def send(message: dict[str, object]) -> None:
            answers.append(message)

        async def receive() -> dict[str, object]:
            return {"type": "http.request"}

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/v1/openapi.json",
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
            "server": (address, 80),
        }
        asyncio.run(app("stub")(scope, receive, send))  # type: ignore[arg-type]
        return answers[0]["status"]  # type: ignore[return-value]

    assert [status(each) for each in ("10.0.0.5", "127.0.0.1")] == [403, 200]


def test_a_connection_that_sends_no_request_is_closed(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtseg.serve.connection.HEAD_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as slow:
        for letter in b"GET / HT":
            slow.send(bytes([letter]))
            time.sleep(0.01)
        assert slow.recv(1) == b""


def test_thousands_of_connections_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one takes the place of the oldest without a request, not of one that is served."""
    most = 20
    monkeypatch.setattr("rtseg.serve.listen.MOST_CONNECTIONS", most)
    with served() as server, ExitStack() as stack, requests.Session() as session:
        address, ready = ("127.0.0.1", server.port), f"{server.url}/v1/health/ready"
        uploading = stack.enter_context(socket.create_connection(address, timeout=20))
        head = "POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
        uploading.sendall(head.encode())
        while not server.service.gauges()["rtseg_pictures"]:
            time.sleep(0.01)
        idle = [
            stack.enter_context(socket.create_connection(address, timeout=20))
            for _ in range(3 * most)
        ]
        assert session.get(ready, timeout=20).status_code == 200
        assert idle[0].recv(1) == b""
        uploading.sendall(b"no image.")
        assert uploading.recv(100).split()[1] == b"415"


def test_a_server_that_cannot_start_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As with a full disk, or a network that fails when it is warmed up."""

    def full(path: Path, content: str) -> None:
        raise SinkError(f"cannot write {path}", found="No space left on device")

    monkeypatch.setattr("rtseg.serve.jobs.write_file", full)
    flags = ["-m", "stub", "-b", "stub", "--port", "0", "--job-dir", str(tmp_path), "-q"]
    assert main(["serve", *flags]) == SinkError.exit_code
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "No space left" in lines[0]


@pytest.mark.slow
def test_the_command_line_serves_and_ends_by_a_signal() -> None:
    command = [sys.executable, "-m", "rtseg", "serve", "-m", "stub", "-b", "stub", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert process.stderr is not None
        lines = []
        while not any(line.startswith("open to") for line in lines):
            lines.append(process.stderr.readline())
            assert lines[-1], "".join(lines)
        address = next(line.split()[1] for line in lines if line.startswith("serving"))
        assert lines[-1].rstrip().endswith("programs and browsers on this machine, without a token")
        answer = requests.post(f"{address}v1/segment?as=json", data=png(shapes()), timeout=20)
        assert json.loads(answer.text)["width"] == 320
        port = address.rpartition(":")[2].strip("/")
        taken = subprocess.run(
            [*command[:-1], port], stderr=subprocess.PIPE, text=True, check=False
        )
        assert (taken.returncode, taken.stderr.count("\n")) == (1, 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_refined_masks_are_those_of_the_segmenter(server: Served) -> None:
    image = shapes()
    image[40:120, 60:203] = image[41, 61]  # an edge between the network's samples
    with rtseg.load("stub", refine=True) as refining, rtseg.load("stub") as plain:
        refined, mask = refining(image).mask, plain(image).mask
    assert (refined != mask).any()
    assert np.array_equal(opened(post(server, png(image), refine="1")), refined)
