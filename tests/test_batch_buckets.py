"""`rtseg batch` of clips and outputs that are in buckets, or at addresses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import fsspec
import pytest
import requests
from clips import write_clip
from test_batch import Inline, frames_of, inline, run  # noqa: F401 - a fixture
from test_sinks_audio import served

from rtseg.batch.clips import Clip
from rtseg.batch.ledger import open_ledger

SECRET = "wJalrXUtnFEMI0K7MDENG0bPxRfiCY"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Any]:
    """A bucket in this process, with three clips."""
    files = fsspec.filesystem("memory")
    for name in ("a.mp4", "sub/b.mp4", "sub/.hidden.mp4", "notes.txt"):
        clip = tmp_path / Path(name).name
        if clip.suffix == ".mp4":
            write_clip(clip, frames=3)
        else:
            clip.write_text("not a clip")
        files.pipe_file(f"/bucket/in/{name}", clip.read_bytes())
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def objects(files: Any, folder: str = "/bucket/out") -> list[str]:
    return sorted(name.removeprefix(f"{folder}/") for name in files.find(folder))


IN, OUT = "memory://bucket/in", "memory://bucket/out"
MADE = [".rtseg/a.mp4.json", ".rtseg/sub/b.mp4.json", "a.mp4", "sub/b.mp4"]


def test_a_bucket_is_read_written_and_resumed(memory: Any, tmp_path: Path) -> None:
    assert run(IN, "-o", OUT) == 0
    assert objects(memory) == MADE
    memory.get_file("/bucket/out/sub/b.mp4", "b.mp4")
    assert len(frames_of(Path("b.mp4"))) == 3
    Inline.given.clear()
    assert run(f"{IN}/", "-o", f"{OUT}/") == 0
    assert Inline.given == []
    write_clip(tmp_path / "a.mp4", frames=5)
    memory.pipe_file("/bucket/in/a.mp4", (tmp_path / "a.mp4").read_bytes())
    memory.rm_file("/bucket/out/sub/b.mp4")
    assert run(IN, "-o", OUT) == 0
    assert Inline.given == ["a.mp4", "sub/b.mp4"]
    assert objects(memory) == MADE


def test_folders_globs_and_lists_mix_with_buckets(memory: Any, tmp_path: Path) -> None:
    assert run(f"{IN}/*.mp4", "-o", "out") == 0
    assert (tmp_path / "out/a.mp4").is_file()
    Path("list.txt").write_text(f"{IN}/sub/b.mp4\na.mp4\n{IN}/gone.mp4\n")
    assert run("list.txt", "-o", OUT, "--json", "lines/{name}.jsonl") == 3
    assert objects(memory) == [".rtseg/a.mp4.json", ".rtseg/b.mp4.json", ".rtseg/gone.mp4.json",
                               "a.mp4", "b.mp4"]  # fmt: skip
    assert sorted(path.name for path in Path("lines").iterdir()) == ["a.jsonl", "b.jsonl"]
    failed = json.loads(memory.cat_file("/bucket/out/.rtseg/gone.mp4.json"))
    assert failed["state"] == "failed"
    assert "gone.mp4" in failed["error"]


def test_an_output_that_no_batch_wrote_is_not_replaced(memory: Any) -> None:
    memory.pipe_file("/bucket/out/a.mp4", b"mine")
    assert run(IN, "-o", OUT) == 2
    assert memory.cat_file("/bucket/out/a.mp4") == b"mine"
    assert run(IN, "-o", IN) == 2


def test_claims_in_a_bucket(memory: Any) -> None:
    clip = Clip("sub/a.mp4", f"{IN}/a.mp4", "")
    one, other = (open_ledger(OUT, {}, 60.0, f"{n}23456789abc-999999999-0") for n in range(2))
    claim = one.claim(clip)
    assert claim is not None
    assert other.claim(clip) is None
    one.beat([claim])
    hasty = open_ledger(OUT, {}, -1.0, "ffffffffffff-999999999-0")
    assert hasty.claim(clip) is not None
    assert not one.holds(claim)
    hasty.release(claim.replace("claim-0", "claim-1"))
    assert objects(memory) == []


@pytest.mark.parametrize(
    "address", ["s4://bucket/in", "github://in", "s3://me:secret7word@bucket/in"]
)
def test_addresses_that_nothing_reads(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(address, "-o", "out") == 2
    said = capsys.readouterr().err
    assert "secret7word" not in said
    assert len(said.splitlines()) == 1


def test_a_library_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert run("gs://bucket/in", "-o", "out") == 2
    assert "rtseg[gs]" in capsys.readouterr().err


def test_a_store_that_fails_is_an_error_of_the_batch(
    memory: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(memory), "pipe_file", refused)
    assert run(IN, "-o", OUT) == 1
    assert "access denied" in capsys.readouterr().err


# --- S3


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """moto's server on this machine, with an empty bucket."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    files = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=10)
    files.mkdir("archive")
    yield files
    server.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_s3_is_read_and_written_by_two_batches_at_once(s3: Any, tmp_path: Path) -> None:
    names = [f"{number % 3}/{number}.mp4" for number in range(12)]
    for number, name in enumerate(names):
        write_clip(tmp_path / "clip.mp4", frames=3 + number)
        s3.put_file(str(tmp_path / "clip.mp4"), f"archive/in/{name}")
    s3.pipe_file("archive/in/broken.mp4", b"no video" * 99)
    program = "import sys; from rtseg.cli.app import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "batch", "s3://archive/in", "-o", "s3://archive/out"]
    command += ["-m", "stub", "-b", "stub", "--imgsz", "64", "--workers", "1", "-v", "--report"]
    running = [
        subprocess.Popen(
            [*command, f"rows{n}.json"], cwd=tmp_path, text=True, stderr=subprocess.PIPE
        )
        for n in range(2)
    ]
    said = [process.communicate(timeout=600)[1] for process in running]
    assert [process.returncode for process in running] == [3, 3], said
    made = [name.removeprefix("archive/out/") for name in s3.find("archive/out")]
    wanted = [*names, *(f".rtseg/{name}.json" for name in (*names, "broken.mp4"))]
    assert sorted(made) == sorted(wanted)
    for number, name in enumerate(names):
        s3.get_file(f"archive/out/{name}", str(tmp_path / "out.mp4"))
        assert len(frames_of(tmp_path / "out.mp4")) == 3 + number
    did = [line.split()[2] for line in "".join(said).splitlines() if line.startswith("worker ")]
    assert sorted(did) == sorted(f"{name}:" for name in names)
    texts = [*said, *((tmp_path / f"rows{n}.json").read_text() for n in range(2))]
    texts += [s3.cat_file(f"archive/out/.rtseg/{name}.json").decode() for name in names]
    assert not any(SECRET in text or "AKIAIOSFODNN7EXAMPLE" in text for text in texts)
    assert "s3://archive/out/0/0.mp4" in texts[2]
    assert subprocess.run([*command, "rows.json"], cwd=tmp_path, check=False).returncode == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_s3_that_refuses_is_one_line(
    s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("s3://nowhere/in", "-o", "out") == 3
    write_clip(tmp_path / "a.mp4")
    assert run("a.mp4", "-o", "s3://nowhere/out") == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line[:13] for line in lines] == ["rtseg: error:"] * 2
    assert SECRET not in "".join(lines)


# --- Google's store


@pytest.fixture
def gs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An emulator on this machine, with an empty bucket. It creates an object twice, which Google's
    store refuses as gcsfs asks it to; so does this one."""
    server_module = pytest.importorskip("gcp_storage_emulator.server")
    pytest.importorskip("gcsfs")
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects as handlers

    upload = handlers._multipart_upload

    def unless_there(request: Any, response: Any, storage: Any) -> Any:
        if request.query.get("ifGenerationMatch") == ["0"]:
            name = request.query.get("name", [request.data["meta"].get("name")])[0]
            with suppress(NotFound):
                storage.get_file_obj(request.params["bucket_name"], name)
                response.status = HTTPStatus.PRECONDITION_FAILED
                return None
        return upload(request, response, storage)

    monkeypatch.setattr(handlers, "_multipart_upload", unless_there)
    server = server_module.create_server("127.0.0.1", 0, in_memory=True, default_bucket="archive")
    server.start()
    port = server._api._httpd.socket.getsockname()[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    # the library would ask over gRPC, which the emulator has not, for a minute
    import gcsfs.core

    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "gs", gcsfs.core.GCSFileSystem)
    yield fsspec.filesystem("gs", use_listings_cache=False, skip_instance_cache=True)
    server.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_gs_is_read_written_and_claimed(gs: Any, tmp_path: Path) -> None:
    for number, name in enumerate(("0/a.mp4", "0/b.mp4", "c.mp4")):
        write_clip(tmp_path / "clip.mp4", frames=3 + number)
        gs.put_file(str(tmp_path / "clip.mp4"), f"archive/in/{name}")
    other = open_ledger("gs://archive/out", {}, 60.0, "023456789abc-1-0")
    clip = Clip("c.mp4", "gs://archive/in/c.mp4", "")
    claim = other.claim(clip)
    assert claim is not None
    assert open_ledger("gs://archive/out", {}, 60.0, "123456789abc-1-0").claim(clip) is None
    other.release(claim)
    assert run("gs://archive/in", "-o", "gs://archive/out") == 0
    made = objects(gs, "archive/out")
    names = ["0/a.mp4", "0/b.mp4", "c.mp4"]
    assert made == sorted([*(f".rtseg/{name}.json" for name in names), *names])
    gs.get_file("archive/out/c.mp4", "c.mp4")
    assert len(frames_of(Path("c.mp4"))) == 5
    Inline.given.clear()
    write_clip(tmp_path / "clip.mp4", frames=9)
    gs.put_file(str(tmp_path / "clip.mp4"), "archive/in/0/b.mp4")
    assert run("gs://archive/in", "-o", "gs://archive/out") == 0
    assert Inline.given == ["0/b.mp4"]


def test_an_address_of_the_web_is_a_clip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "web").mkdir()
    clip = write_clip(tmp_path / "web/clip.mp4", frames=4)
    clip.rename(f"{clip}?Signature={SECRET}")  # as the server looks for it
    with served(tmp_path / "web", ranges=True) as address:
        Path("list.txt").write_text(f"{address}/clip.mp4?Signature={SECRET}\n")
        assert run("list.txt", "-o", "out", "--report", "rows.json") == 0
    assert len(frames_of(tmp_path / "out/clip.mp4")) == 4
    assert run("list.txt", "-o", "out") == 0
    assert Inline.given == ["clip.mp4"]
    texts = [path.read_text() for path in (tmp_path / "out").rglob("*.json")]
    texts += [Path("rows.json").read_text(), capsys.readouterr().err]
    assert len(texts) == 3
    assert not any(SECRET in text for text in texts)
