"""Downloads against a server that misbehaves, and files that are not what they should be."""

from __future__ import annotations

import argparse
import errno
import hashlib
import os
import pickle
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import pytest
import torch
from colour_network import make_network
from dataset_folders import COLOURS_BGR
from safetensors.torch import save_file

import rtseg
from rtseg.cli.app import main
from rtseg.errors import DownloadError, ModelError, UsageError
from rtseg.files import leftovers, resumable
from rtseg.labels import VOC, LabelSet
from rtseg.nets import find_model, shipped
from rtseg.nets import weights as nets_weights
from rtseg.nets.build import build, build_random
from rtseg.nets.state import load_network, read_checkpoint, save_checkpoint
from rtseg.nets.weights import CHUNK_BYTES, TRIES, fetch, is_intact, weights_path
from rtseg.zoo import MODELS, InputSpec, Model, ModelSpec, WeightsSpec

if sys.platform != "win32":
    import fcntl

NAME = "lraspp_mobilenet_v3_large"
TWO = LabelSet(("background", "person"), ((0, 0, 0), (1, 2, 3)))
CONTENT = bytes(range(256)) * 2048
CUT = 100_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """Answers as `faults` say, one after the other, then well."""

    port: int = 0
    faults: list[str] = field(default_factory=list)
    requests: int = 0
    gives_parts: bool = True
    sent: int = 0


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests += 1
            fault = state.faults.pop(0) if state.faults else ""
            if fault == "404":
                self.send_error(404)
                return
            body, part = CONTENT[::-1] if fault == "wrong" else CONTENT, self.headers["Range"]
            begin = int(part.removeprefix("bytes=").removesuffix("-")) if part else 0
            if begin >= len(body) and state.gives_parts:
                self.send_error(416)
                return
            body = body[begin:] if state.gives_parts else body
            self.send_response(206 if part and state.gives_parts else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            body = {"cut": body[:CUT], "nothing": b""}.get(fault, body)
            state.sent += len(body)
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    state.port = http.server_port
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(nets_weights, "PAUSE_SECONDS", 0.0)
    return tmp_path / "cache"


def published(server: Server, sha256: str = DIGEST[:8]) -> WeightsSpec:
    return WeightsSpec(f"http://127.0.0.1:{server.port}/net-{sha256}.pth", sha256, "none", 0.5)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def beside(path: Path, digit: str = "0", make: bool = False) -> Path:
    """The name of what a killed download of `path` leaves."""
    if make:
        path.parent.mkdir(parents=True)
    return path.with_name(f".{path.stem}-{digit * 16}.part{path.suffix}")


@pytest.mark.parametrize("digits", [8, 64])
def test_download_once_verified_and_reported(server: Server, cache: Path, digits: int) -> None:
    weights = published(server, DIGEST[:digits])
    told: list[tuple[str, int, int]] = []
    path = fetch(weights, lambda title, done, total: told.append((title, done, total)))
    assert path == weights_path(weights)
    assert path.read_bytes() == CONTENT
    assert files(cache) == [path]
    assert {title for title, _, _ in told} == {path.name}
    assert told[-1][1:] == (len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert fetch(weights) == path
    assert server.requests == 1


@pytest.mark.parametrize("gives_parts", [True, False])
def test_a_connection_that_breaks_off_is_made_again(server: Server, gives_parts: bool) -> None:
    server.faults, server.gives_parts = ["cut", "cut"], gives_parts
    told: list[tuple[int, int]] = []
    path = fetch(published(server), lambda title, done, total: told.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert server.requests == 3
    twice = server.sent - len(CONTENT)
    assert twice < 2 * CHUNK_BYTES if gives_parts else twice == 200_000
    assert {total for _, total in told} == {len(CONTENT)}
    assert told[-1] == (len(CONTENT), len(CONTENT))
    done = [done for done, _ in told]
    assert done == sorted(done) or not gives_parts


@pytest.mark.parametrize("gives_parts", [True, False])
@pytest.mark.parametrize(
    ("faults", "requests"), [(["cut", "nothing"], 2), (["cut"] * TRIES, TRIES), (["cut", "404"], 2)]
)
def test_a_download_that_fails_for_good_goes_on_at_the_next_call(
    server: Server, cache: Path, faults: list[str], requests: int, gives_parts: bool, monkeypatch
) -> None:
    monkeypatch.setattr(__import__(__name__), "CUT", 70_000)  # six times that is not all
    server.faults, server.gives_parts = list(faults), gives_parts
    weights, told = published(server), "404 Not Found" if "404" in faults else "broke off"
    with pytest.raises(DownloadError, match=told) as caught:
        fetch(weights)
    left = files(cache)
    assert left == leftovers(weights_path(weights))
    here = left[0].stat().st_size if gives_parts else 0  # who gives no parts gives all of it again
    assert here > 0 or not gives_parts
    assert server.requests == requests
    assert str(weights_path(weights)) in str(caught.value)
    server.sent = 0
    assert fetch(weights).read_bytes() == CONTENT
    assert server.sent == (len(CONTENT) - here if gives_parts else len(CONTENT))
    assert files(cache) == [weights_path(weights)]


@pytest.mark.parametrize("left", [b"another file", CONTENT + b"more", CONTENT[:-1] + b"x"])
def test_what_was_left_of_another_file_is_downloaded_anew(
    server: Server, cache: Path, left: bytes
) -> None:
    path = weights_path(published(server))
    path.parent.mkdir(parents=True)
    beside(path).write_bytes(left)
    assert fetch(published(server)).read_bytes() == CONTENT
    assert files(cache) == [path]


def test_a_person_who_interrupts_a_download_loses_nothing(server: Server, cache: Path) -> None:
    def interrupted(title: str, done: int, total: int) -> None:
        if done > 4 * CHUNK_BYTES:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(published(server), interrupted)
    server.sent = 0
    assert fetch(published(server)).read_bytes() == CONTENT
    assert server.sent <= len(CONTENT) - 4 * CHUNK_BYTES


def test_a_full_disk_is_left_no_fuller(server: Server, cache: Path, monkeypatch) -> None:
    def full(title: str, done: int, total: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DownloadError, match="No space left"):
        fetch(published(server), full)
    assert files(cache) == []


def test_wrong_content_is_refused_and_removed(server: Server, cache: Path) -> None:
    server.faults = ["wrong"]
    with pytest.raises(DownloadError, match=rf"SHA-256 .* but {DIGEST[:8]}\.\.\. was published"):
        fetch(published(server))
    assert files(cache) == []


def test_damaged_file_in_the_cache_is_downloaded_again(server: Server) -> None:
    weights = published(server)
    weights_path(weights).parent.mkdir(parents=True)
    weights_path(weights).write_bytes(CONTENT[:1000])
    assert not is_intact(weights_path(weights), weights)
    assert fetch(weights).read_bytes() == CONTENT
    assert is_intact(weights_path(weights), weights)


def test_damaged_file_survives_when_there_is_no_better_one(server: Server) -> None:
    weights = published(server)
    weights_path(weights).parent.mkdir(parents=True)
    weights_path(weights).write_bytes(b"half")
    server.faults = ["404"]
    with pytest.raises(DownloadError, match="404 Not Found"):
        fetch(weights)
    assert weights_path(weights).read_bytes() == b"half"


def test_server_down_says_url_path_and_what_to_do(server: Server) -> None:
    weights = replace(published(server), url="http://127.0.0.1:9/net.pth")
    with pytest.raises(DownloadError) as caught:
        fetch(weights)
    text = str(caught.value)
    assert "\n" not in text
    for part in (weights.url, "no connection", str(weights_path(weights)), "--weights random"):
        assert part in text


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "http://",
        "http://[half/x.pth",
        "http://[::1",
        "http://[::1/x.pth",
        "http://host:port/x.pth",
        "http://host:99999999/x.pth",
        "http://a..b/x.pth",
        "http://\x00/x.pth",
        "http://" + "a" * 300 + "/x.pth",
        "ftp://host/x.pth",
        "file:///etc/passwd",
        "javascript:x.pth",
        "//host/x.pth",
    ],
)
def test_an_address_that_is_not_valid_is_one_line(url: str, cache: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch(WeightsSpec(url, "00", "none", 1.0))
    assert "\n" not in str(caught.value)
    assert len(caught.value.found) < 400
    assert files(cache) == []


Answer = Callable[[socket.socket], None]


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., WeightsSpec]]:
    """Answers the requests for a file one after the other, byte for byte as it is told to."""
    monkeypatch.setattr(nets_weights, "TIMEOUT_SECONDS", 1.0)
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[Thread] = []

    def serve(answers: Sequence[Answer | bytes]) -> None:
        for answer in answers:
            with suppress(OSError), listener.accept()[0] as connection:
                connection.recv(65536)
                if isinstance(answer, bytes):
                    connection.sendall(answer)
                else:
                    answer(connection)

    def start(*answers: Answer | bytes) -> WeightsSpec:
        threads.append(Thread(target=serve, args=(answers,)))
        threads[-1].start()
        port = listener.getsockname()[1]
        return WeightsSpec(f"http://127.0.0.1:{port}/net-{DIGEST[:8]}.pth", DIGEST[:8], "", 0.5)

    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join()


OK = b"HTTP/1.1 200 OK\r\n"
END = b"\r\n"


def endlessly(connection: socket.socket) -> None:
    connection.sendall(OK + END)
    while True:
        connection.sendall(bytes(1 << 16))


def endless_chunks(connection: socket.socket) -> None:
    connection.sendall(OK + b"Transfer-Encoding: chunked\r\n" + END)
    while True:
        connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def too_much(connection: socket.socket) -> None:
    connection.sendall(OK + b"Content-Length: %d\r\n" % 2**62 + END)
    while True:
        connection.sendall(bytes(1 << 16))


@pytest.mark.parametrize("answer", [endlessly, endless_chunks, too_much])
def test_a_download_ends_at_the_size_in_the_table(answer: Answer, raw, cache: Path) -> None:
    with pytest.raises(DownloadError, match="the file has at most 550502") as caught:
        fetch(raw(answer))
    assert "\n" not in str(caught.value)
    assert files(cache) == []


@pytest.mark.parametrize("length", [b"", b"Content-Length: x\r\n", b"Content-Length: -5\r\n"])
def test_a_length_that_is_missing_or_not_valid_harms_nothing(
    length: bytes, raw, cache: Path
) -> None:
    weights = raw(OK + length + END + CONTENT)
    with suppress(DownloadError):  # urllib3 refuses some lengths itself
        assert fetch(weights).read_bytes() == CONTENT
    assert files(cache) in ([], [weights_path(weights)])


@pytest.mark.parametrize("length", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_wrong_length_is_noticed(length: int, raw, cache: Path) -> None:
    answer = OK + b"Content-Length: %d\r\n" % length + END + CONTENT
    weights = raw(answer, answer)
    if length > len(CONTENT):  # what came is kept, is the whole file, and needs no more
        with suppress(DownloadError):
            fetch(weights)
    else:
        with pytest.raises(DownloadError, match="SHA-256"):
            fetch(weights)
        assert files(cache) == []


def test_one_byte_now_and_then_is_not_waited_for(raw, cache: Path, monkeypatch) -> None:
    """Each byte renews the connection's timeout."""
    monkeypatch.setattr(nets_weights, "TIMEOUT_SECONDS", 0.3)

    def drip(connection: socket.socket) -> None:
        connection.sendall(OK + b"Content-Length: %d\r\n" % len(CONTENT) + END)
        for number in range(1000):
            connection.sendall(CONTENT[number : number + 1])
            time.sleep(0.02)

    weights, start = raw(drip), time.monotonic()
    with pytest.raises(DownloadError, match=r"only \d+ bytes came in"):
        fetch(weights)
    assert time.monotonic() - start < 5
    (left,) = files(cache)
    assert CONTENT.startswith(left.read_bytes()), "the next run goes on from here"


@pytest.mark.parametrize("kind", ["status", "headers", "continue", "chunk", "trailer", "redirect"])
def test_what_lies_around_the_body_is_not_waited_for_either(
    kind: str, raw, cache: Path, monkeypatch
) -> None:
    monkeypatch.setattr(nets_weights, "TIMEOUT_SECONDS", 0.3)
    chunked, over = OK + b"Transfer-Encoding: chunked\r\n\r\n", Event()

    def drip(connection: socket.socket) -> None:
        begin, piece = {
            "status": (b"", b"H"),
            "headers": (OK, b"X: y\r\n"),
            "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
            "chunk": (chunked, b"0"),
            "trailer": (chunked + b"0\r\n", b"X: y\r\n"),
            "redirect": (b"HTTP/1.1 302 Found\r\nLocation: /\r\n", b"X: y\r\n"),
        }[kind]
        connection.sendall(begin)
        while not over.wait(0.02):
            connection.sendall(piece)

    weights, start = raw(*[drip] * TRIES), time.monotonic()
    try:
        with pytest.raises(DownloadError):
            fetch(weights)
    finally:
        over.set()
    assert time.monotonic() - start < 5
    assert files(cache) == []


def test_a_silent_server_is_not_waited_for(raw, cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(nets_weights, "TIMEOUT_SECONDS", 0.2)
    done = Event()
    weights = raw(lambda connection: done.wait(10))
    with pytest.raises(DownloadError, match="does not answer"):
        fetch(weights)
    done.set()
    assert files(cache) == []


@pytest.mark.parametrize("status", [b"429 Slow down", b"500 Oops", b"503 Service Unavailable"])
def test_a_busy_server_is_asked_again(status: bytes, raw, cache: Path) -> None:
    busy = b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n" + END
    good = OK + b"Content-Length: %d\r\n" % len(CONTENT) + END + CONTENT
    assert fetch(raw(busy, busy, good)).read_bytes() == CONTENT


def test_a_server_that_stays_busy_is_one_line(raw, cache: Path) -> None:
    busy = b"HTTP/1.1 503 " + b"word " * 1000 + b"\r\nContent-Length: 0\r\n" + END
    with pytest.raises(DownloadError, match="answers 503 word") as caught:
        fetch(raw(*[busy] * TRIES))
    assert len(caught.value.found) < 150
    assert files(cache) == []


@pytest.mark.parametrize(
    "to", [b"file:///etc/passwd", b"ftp://127.0.0.1/x", b"gopher://x", b"http://[::1", b"", b"/\0"]
)
def test_a_redirect_to_anything_else_than_the_web_is_not_followed(
    to: bytes, raw, cache: Path
) -> None:
    away = b"HTTP/1.1 302 Found\r\nLocation: " + to + b"\r\nContent-Length: 0\r\n" + END
    with pytest.raises(DownloadError) as caught:
        fetch(raw(*[away] * 3))
    assert "\n" not in str(caught.value)
    assert files(cache) == []


def test_redirects_in_a_circle_end(raw, cache: Path) -> None:
    away = b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n"
    with pytest.raises(DownloadError, match="redirects"):
        fetch(raw(*[away + END] * 40))
    assert files(cache) == []


@pytest.mark.parametrize(
    ("urls", "safe"),
    [
        (["https://a/x", "https://b/y"], True),
        (["https://a/x", "http://b/y"], False),
        (["https://a/x", "http://b/y", "https://c/z"], False),
        (["http://a/x", "http://b/y"], True),
    ],
)
def test_a_redirect_does_not_leave_https(urls: list[str], safe: bool) -> None:
    answers = [SimpleNamespace(url=url) for url in urls]
    answers[-1].history = answers[:-1]
    if safe:
        nets_weights._check_redirects(urls[0], answers[-1])
    else:
        with pytest.raises(OSError, match="not https"):
            nets_weights._check_redirects(urls[0], answers[-1])


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")
@pytest.mark.parametrize("kind", ["symlink", "link", "fifo", "folder"])
def test_what_only_looks_like_a_leftover_is_left_alone(
    server: Server, tmp_path: Path, kind: str
) -> None:
    path, victim = weights_path(published(server)), tmp_path / "victim"
    victim.write_bytes(b"precious")
    path.parent.mkdir(parents=True)
    for place in (beside(path), path.with_name(f"{path.name}.part")):
        make = {
            "symlink": lambda it: it.symlink_to(victim),
            "link": lambda it: it.hardlink_to(victim),
            "fifo": os.mkfifo,
            "folder": Path.mkdir,
        }
        make[kind](place)
    assert fetch(published(server)).read_bytes() == CONTENT
    assert victim.read_bytes() == b"precious"


@pytest.mark.skipif(sys.platform == "win32", reason="files that are open can be renamed")
def test_what_a_killed_download_left_is_gone_on_with(server: Server, cache: Path) -> None:
    path = weights_path(published(server))
    path.parent.mkdir(parents=True)
    beside(path, "0").write_bytes(CONTENT[:400_000])
    beside(path, "1").write_bytes(CONTENT[:100])
    with resumable(path.with_name("other.pth")) as other:
        other.write_bytes(b"of another file")
    running = beside(path, "2")
    with running.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(CONTENT[:450_000])
        file.flush()
        assert fetch(published(server)).read_bytes() == CONTENT
    assert server.sent == len(CONTENT) - 400_000
    assert set(files(cache)) == {path, running, path.with_name("other.pth")}


def test_two_downloads_of_one_file_at_once(server: Server, cache: Path) -> None:
    beside(weights_path(published(server)), "0", make=True).write_bytes(CONTENT[:1000])
    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(lambda _: fetch(published(server)).read_bytes(), range(3)))
    assert got == [CONTENT] * 3
    assert files(cache) == [weights_path(published(server))]


def test_cache_that_cannot_be_written(server: Server, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(DownloadError, match=r"below.*Put the file at"):
        fetch(published(server))


def test_zoo_name_downloads_and_loads(server: Server, monkeypatch, tmp_path: Path) -> None:
    trained = build_random(NAME, 21, seed=5)
    extra = {"aux_classifier.0.weight": torch.zeros(3)}  # a head that served the training only
    torch.save({**trained.state_dict(), **extra}, tmp_path / "published.pth")
    content = (tmp_path / "published.pth").read_bytes()
    monkeypatch.setattr(__import__(__name__), "CONTENT", content)
    digest = hashlib.sha256(content).hexdigest()[:8]
    spec = replace(MODELS[NAME], weights=replace(published(server, digest), megabytes=12.5))
    monkeypatch.setitem(MODELS, NAME, spec)
    model = find_model(NAME)
    assert (model.spec, model.format) == (spec, "torch")
    stem = load_network(model).backbone.state_dict()
    assert torch.isfinite(stem["0.0.weight"]).all()
    assert server.requests == 1


# --- files -----------------------------------------------------------------------------------


def same(found: torch.nn.Module, state: dict[str, torch.Tensor]) -> bool:
    key = "classifier.low_classifier.weight"
    return torch.equal(found.state_dict()[key], state[key])


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_checkpoint_of_ours_needs_no_other_flag(tmp_path: Path, suffix: str) -> None:
    spec = ModelSpec("mine", NAME, TWO, InputSpec((96, 128)))
    state = build(NAME, 2).state_dict()
    path = tmp_path / f"mine{suffix}"
    save_checkpoint(path, spec, state)
    model = find_model(path)
    assert (model.spec, model.file, model.format) == (spec, path, "torch")
    assert same(load_network(model), state)
    assert find_model(NAME, weights=path).spec == spec
    assert find_model(path, weights="random").format == "random"
    for asked in ({"name_or_path": path}, {"name_or_path": NAME, "weights": path}):
        with pytest.raises(UsageError, match="--labels for mine"):
            find_model(**asked, input_flags={"labels": "a,b"})
    with pytest.raises(ModelError, match=f"they are of {NAME}"):
        find_model("fcn_resnet50", weights=path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_can_be_read_by_whom_the_umask_allows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    before = os.umask(0o027)
    try:
        save_checkpoint(path, ModelSpec("mine", NAME, TWO), {"a": torch.zeros(1)})
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_state_dict_needs_its_name_and_labels(tmp_path: Path) -> None:
    state = build(NAME, 2).state_dict()
    path = tmp_path / "bare.pth"
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, path)
    with pytest.raises(ModelError, match=r"cannot tell which model .*--model NAME --weights"):
        find_model(path)
    with pytest.raises(ModelError, match=r"it has 2 classes, .* has 21"):
        load_network(find_model(NAME, weights=path))
    flagged = find_model(NAME, weights=path, input_flags={"labels": "sky, ground", "std": None})
    assert flagged.spec.labels.names == ("sky", "ground")
    assert flagged.spec.miou is None
    path.with_suffix(".toml").write_text(
        f'architecture = "{NAME}"\nlabels = ["background", "dog"]\nsize = [64, 96]\nmean = 0.5\n'
    )
    by_sidecar = find_model(path)
    assert by_sidecar.spec.labels.names == ("background", "dog")
    assert (by_sidecar.spec.input.size, by_sidecar.spec.input.mean) == ((64, 96), (0.5, 0.5, 0.5))
    assert same(load_network(by_sidecar), state)
    named: dict[str, object] = {"labels": "sky, ground"}
    scaled = find_model(NAME, weights=path, input_flags=named | {"mean": 127.5, "std": 58})
    assert scaled.spec.input.scale == 1
    others = {"layout": "NHWC", "activation": "sigmoid", "output": "y", "align_corners": True}
    for other, value in others.items():
        with pytest.raises(ModelError, match=f"{other} for weights of {NAME}"):
            find_model(NAME, weights=path, input_flags=named | {other: value})


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_of_other_things_beside_a_checkpoint_do_not_change_it(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"best{suffix}"
    spec = replace(MODELS[NAME], weights=None, name="best", labels=TWO)
    save_checkpoint(path, spec, build(NAME, 2).state_dict())
    path.with_suffix(".json").write_text('{"rtseg_eval": 1, "results": []}')
    path.with_suffix(".toml").write_text('dataset = "voc"\n')
    path.with_suffix(".onnx").write_bytes(b"junk")
    assert find_model(path).spec == spec
    assert find_model(NAME, weights=path).spec == spec
    for text in ("[1]", "{", '{"rtseg": "0.1.0"}'):
        path.with_suffix(".json").write_text(text)
        assert find_model(path).spec == spec
    path.with_suffix(".json").write_text(replace(spec, name="beside").to_json())
    assert find_model(path).spec.name == "beside"


def test_a_spec_of_a_later_version_beside_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    torch.save(build(NAME, 21).state_dict(), tmp_path / "bare.pth")
    (tmp_path / "bare.json").write_text('{"rtseg": 2}')
    with pytest.raises(ModelError, match=r"bare\.json: it was written by a later version"):
        find_model(tmp_path / "bare.pth")


def test_checkpoints_of_torchvisions_training_scripts_are_read(tmp_path: Path) -> None:
    state, path = build(NAME, 21).state_dict(), tmp_path / "model_29.pth"
    flags = argparse.Namespace(model=NAME, lr=0.01, output_dir=".", aux_loss=True)
    torch.save(
        {"model": state, "optimizer": {}, "lr_scheduler": {}, "epoch": 29, "args": flags}, path
    )
    assert same(load_network(find_model(NAME, weights=path)), state)


def test_weights_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(build("deeplabv3_mobilenet_v3_large", 21).state_dict(), path)
    with pytest.raises(ModelError, match=r"\d+ weights missing \(.*\d+ weights unexpected"):
        load_network(find_model(NAME, weights=path))


def damaged(kind: str, path: Path) -> None:
    whole = path.with_name("whole.pth")
    torch.save(build(NAME, 21).state_dict(), whole)
    content = whole.read_bytes()
    if kind == "code":
        path.write_bytes(pickle.dumps(Model, protocol=2))
    elif kind == "code in a checkpoint":
        torch.save({"state_dict": {"a": Path("x")}}, path)
    elif kind == "no tensors":
        torch.save({"a": 1}, path)
    elif kind == "a tensor":
        torch.save(torch.zeros(3), path)
    else:
        path.write_bytes({"empty": b"", "junk": b"junk" * 999, "cut": content[:-9999]}[kind])


@pytest.mark.parametrize(
    "kind", ["empty", "junk", "cut", "code", "code in a checkpoint", "no tensors", "a tensor"]
)
def test_files_that_are_no_weights_give_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad.pth"
    damaged(kind, path)
    with pytest.raises(ModelError) as caught:
        load_network(find_model(NAME, weights=path))
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    assert ("run code" in text) == kind.startswith("code")


def _dense(value: torch.Tensor) -> torch.Tensor:
    return value if value.dim() else value.reshape(1)


KINDS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "sparse": (lambda v: _dense(v).to_sparse(), "a sparse tensor"),
    "compressed": (lambda v: _dense(v).reshape(1, -1).to_sparse_csr(), "a sparse tensor"),
    "meta": (lambda v: v.to("meta"), "without data"),
    "complex": (lambda v: v.to(torch.complex64), "a tensor of complex64"),
    "quantised": (lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8), "quantised"),
    "float8": (lambda v: v.to(torch.float8_e4m3fn), "a tensor of float8_e4m3fn"),
    "whole": (lambda v: v.long(), "a tensor of int64"),
    "nested": (lambda v: torch.nested.nested_tensor([_dense(v), _dense(v)]), "a nested tensor"),
    "undefined": (lambda v: v * float("nan"), "holds infinite or undefined numbers"),
    "infinite": (lambda v: v.index_fill(0, torch.tensor([0]), -torch.inf), "infinite"),
    "view": (lambda v: torch.full((1,), torch.nan).expand(10**12), "holds infinite"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, while the files are made
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("key", ["a.weight", "a.running_var"])
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_a_network_does_not_take_as_they_are(
    tmp_path: Path, kind: str, key: str, suffix: str
) -> None:
    if suffix == ".safetensors" and kind not in ("complex", "float8", "whole", "undefined"):
        pytest.skip("that format has no such tensors")
    convert, found = KINDS[kind]
    state = {"other.weight": torch.ones(3), f"module.{key}": convert(torch.linspace(-1, 1, 8))}
    path = tmp_path / f"other{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path)
    assert f"{key!r} " in caught.value.found
    assert found in caught.value.found


def test_a_network_of_undefined_weights_is_refused_and_quiet_does_not_hide_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = dict(build_random(NAME, 21).state_dict())
    state["classifier.low_classifier.bias"][3] = torch.nan
    path = tmp_path / "nan.pth"
    save_checkpoint(path, MODELS[NAME], state)
    assert main(["test://?frames=2", "-m", str(path), "--no-show", "-q"]) == 2
    assert "'classifier.low_classifier.bias' holds" in capsys.readouterr().err


def test_what_serves_training_only_may_be_undefined(tmp_path: Path) -> None:
    path = tmp_path / "aux.pth"
    state = {
        "a.weight": torch.ones(3, dtype=torch.float16),
        "a.num_batches_tracked": torch.tensor(5),
        "a.position_index": torch.zeros(4, 4, dtype=torch.int64),
        "a.bias": torch.zeros(1).expand(9),
        "aux_classifier.4.bias": torch.full((21,), torch.nan),
    }
    torch.save(state, path)
    assert set(read_checkpoint(path)[1]) == set(state)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_a_network_of_undefined_scores_is_refused(tmp_path: Path, backend: str) -> None:
    path = make_network(tmp_path / "odd.onnx", colours=[(float("nan"), 0, 0), *COLOURS_BGR[1:]])
    with pytest.raises(ModelError, match="infinite or undefined scores"):
        rtseg.load(path, backend=backend, device="cpu").close()


@pytest.mark.parametrize("content", [b"", b"junk" * 99])
def test_damaged_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a valid safetensors file"):
        find_model(path)
    with pytest.raises(ModelError, match="not a valid safetensors file"):
        read_checkpoint(path)


def test_missing_files_and_wrong_kinds(tmp_path: Path) -> None:
    for name in ("none.pth", "none.onnx", "none.safetensors"):
        with pytest.raises(ModelError, match=f"{name}.*no such file"):
            find_model(tmp_path / name)
        with pytest.raises(ModelError, match="no such file"):
            find_model(NAME, weights=tmp_path / name)
    (tmp_path / "x.onnx").write_bytes(b"junk")
    with pytest.raises(ModelError, match="an ONNX file is a whole model"):
        find_model(NAME, weights=tmp_path / "x.onnx")
    with pytest.raises(ModelError, match="has its own"):
        find_model(tmp_path / "x.onnx", weights="random")
    with pytest.raises(ModelError, match=r"x\.onnx.*not a valid ONNX file"):
        find_model(tmp_path / "x.onnx")
    (tmp_path / "x.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match=r"cannot use .*x\.onnx: it is empty"):
        find_model(tmp_path / "x.onnx")


def test_the_folder_of_a_run_stands_for_its_best_network(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the folder has neither best\.pth"):
        find_model(tmp_path)
    spec = replace(MODELS["lraspp_mobilenet_v3_large"], name="mine", weights=None)
    save_checkpoint(tmp_path / "best.pth", spec, build_random(spec.architecture, 21).state_dict())
    assert find_model(tmp_path).spec.name == "mine"


def test_weights_for_what_has_its_own_are_named_as_the_network() -> None:
    with pytest.raises(ModelError, match=r"has its own\. Use -m x\.pth"):
        find_model(shipped()["person"], weights="x.pth")


def test_random_weights_are_said_aloud() -> None:
    model = find_model(NAME, weights="random")
    assert (model.file, model.format, model.spec.labels) == (None, "random", VOC)
    assert "random weights" in model.notes[0]
    assert model.spec.miou is None
