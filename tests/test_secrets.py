"""Nothing that rtseg writes holds what may be secret in an address, or moves the cursor."""

from __future__ import annotations

import http.server
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from colour_network import make_network
from dataset_folders import make_folder
from test_sources_stream import serving

from rtseg import addresses
from rtseg.addresses import detailed_name, public_name, remember, shown, without_secrets
from rtseg.batch.clips import Clip
from rtseg.batch.ledger import open_ledger
from rtseg.cli.app import MAX_ERROR, main
from rtseg.cli.batch import write_rows
from rtseg.cli.report import write_json
from rtseg.errors import RtsegError, SourceError
from rtseg.nets import find_model
from rtseg.nets.onnx_file import METADATA_KEY
from rtseg.sources import open_source
from rtseg.text import UNPRINTABLE, printable, shortened

TOKEN = "Zq7Kx-w9_Vb2"

FORMS = [
    "{s}://{h}/live?jwt={t}",
    "{s}://{h}/live?code={t}&n=1",
    "{s}://{h}/live?n=1;st={t}",
    "{s}://{h}/live;jwt={t}",
    "{s}://{h}/live?x%3D{t}",
    "{s}://{h}/live?a%26token%3D{t}",
    "{s}://{h}/{t}/index.m3u8",
    "{s}://{h}/{t}",
    "{s}://{h}/live/{t}.mp4",
    "{s}://{t}@{h}/live",
    "{s}://{t}:x@{h}/live",
    "{s}://me:{t}@{h}/live",
    "{s}://me:a/{t}@{h}/live",
    "{s}://me:a@{t}@{h}/live",
    "{s}://{h}/live#{t}",
    "{s}://{h}/live#access_token={t}",
    "{s}://{h}?{t}",
    "{s}://{h}/p?url=http://me:{t}@other/x",
    "{s}://{h}/p?url=http%3A%2F%2Fme%3A{t}%40other%2Fx",
    "{s}://{h}/p/http://other/{t}/x",
    " {s}://{h}/{t} ",
    "{s}:/{h}/{t}",
    "{S}://{h}/{t}?A={t}",
]


class Telling(http.server.BaseHTTPRequestHandler):
    """Answers with an error whose reason repeats what was requested, and more."""

    def do_GET(self) -> None:
        words = self.path.replace("%", "_") + " \x1b[31mred\x1b[0m \u202e"
        self.send_response_only(404, words.encode("utf-8").decode("latin-1"))
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(Telling) as number:
        yield number


@pytest.fixture(autouse=True)
def forgotten() -> None:
    addresses.forget()


def filled(form: str, host: str, scheme: str = "http") -> str:
    return form.format(s=scheme, S=scheme.upper(), h=host, t=TOKEN)


def written_in(folder: Path) -> str:
    """Names and contents of all files."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return "\n".join(f"{path}\n{path.read_bytes()!r}" for path in files)


def is_clean(text: str) -> bool:
    return TOKEN not in text and "\x1b" not in text and "\u202e" not in text


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_an_error_holds_the_token(
    form: str, port: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address = filled(form, f"127.0.0.1:{port}")
    flags = ["-m", "stub", "--no-show", "--timeout", "0.5", "--no-reconnect", "--debug"]
    metrics = ["--metrics", str(tmp_path / "m.json")]
    code = main([address, *flags, *metrics])
    assert code in (2, 3)
    text = "".join(capfd.readouterr()) + written_in(tmp_path)
    assert "rtseg: error:" in text
    assert is_clean(text), text


@pytest.mark.parametrize("signature", ["a" * 300, "a/" * 3000])
def test_an_address_may_be_longer_than_the_name_of_a_file(port: int, signature: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(f"http://127.0.0.1:{port}/clip.mp4?X-Amz-Signature={signature}")
    assert "404" in caught.value.found


@pytest.mark.parametrize("form", [f"me:{TOKEN}{'x' * 300}@{{h}}", f"{{h}}/a?b={TOKEN}{'x' * 300}"])
def test_what_is_not_a_path_shows_no_token(
    form: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address = f"http://{form.format(h='127.0.0.1:9')}"
    for arguments in (["-o", address], ["-m", address, "--no-show"]):
        assert main(["test://?frames=1", *arguments]) == 2
        text = "".join(capfd.readouterr())
        assert is_clean(text), (arguments, text)


@pytest.mark.parametrize("form", FORMS[::7])
def test_a_refused_flag_beside_it_shows_no_token(
    form: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address = filled(form, "127.0.0.1:9")
    for arguments in (
        [address, "--no-such-flag"],
        [f"--no-such-flag={address}"],
        [address, "--alpha", address],
        [address, "--config", address],
        [address, "-o", address],
        ["--background", address, "test://?frames=1", "-m", "stub", "--no-show"],
        ["-m", address, "test://?frames=1", "--no-show"],
        ["--palette", address, "test://?frames=1", "-m", "stub", "--no-show"],
        [address, "--print-config"],
        ["bench", "-i", address, "-m", "none"],
        ["eval", address, "-m", "stub"],
        ["models", address],
    ):
        main(arguments)
        text = "".join(capfd.readouterr())
        assert text.strip(), arguments
        assert is_clean(text), (arguments, text)


def test_names_of_a_config_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "run.toml"
    config.write_text(f'source = "http://127.0.0.1:9/{TOKEN}?jwt={TOKEN}"\nmodel = "stub"\n')
    assert main(["--config", str(config), "--no-show", "--timeout", "0.2"]) != 0
    assert is_clean("".join(capfd.readouterr()))


class Picture(http.server.BaseHTTPRequestHandler):
    """Answers everything with one picture."""

    def do_GET(self) -> None:
        content = cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.slow
def test_outputs_of_a_run_and_of_a_grid_hold_no_token(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(Picture) as port:
        forms = [filled(form, f"127.0.0.1:{port}") for form in FORMS[:3] + FORMS[6:9]]
        common = ["-m", "stub", "--no-show", "-v", "--timeout", "2"]
        for number, address in enumerate(forms[:3]):
            folder = tmp_path / str(number)
            outputs = ["-o", f"{folder}/", "--json", f"{number}.jsonl", "--hud"]
            assert main([address, *common, *outputs, "--metrics", f"{number}.json"]) == 0
        outputs = ["-o", "grid.mp4", "-o", "each/{name}.png", "--json", "grid.jsonl"]
        Path("each").mkdir()
        assert main([*forms, *common, *outputs, "--metrics", "grid.json", "--hud"]) == 0
        text = "".join(capfd.readouterr())
    assert is_clean(text), text
    assert is_clean(written_in(tmp_path))
    names = {path.stem for path in Path("each").iterdir()}
    assert len(names) == len(forms), "addresses of one host have names of their own"
    source = json.loads(Path("0.json").read_text())["source"]
    assert source == public_name(forms[0])
    assert source.startswith(f"http://127.0.0.1:{port} (")


@pytest.mark.parametrize(
    ("form", "scheme"), list(itertools.product(FORMS, ["rtsp", "http", "srt"]))
)
def test_names_for_people(form: str, scheme: str) -> None:
    address = filled(form, "cam.example:554", scheme)
    for name in (public_name(address), detailed_name(address)):
        assert TOKEN not in name
        assert "cam.example:554" in name
    me = f"{scheme}://me:"
    other = address.replace(me, f"{scheme}://you:", 1) if address.startswith(me) else address
    assert public_name(address) == public_name(other)


def test_the_digest_tells_addresses_of_a_host_apart_and_knows_no_password() -> None:
    one, other = (public_name(f"rtsp://me:pw@host/{path}") for path in ("a", "b"))
    assert one != other
    assert one == public_name("rtsp://root:another@host/a")
    assert detailed_name("rtsp://me:pw@host/live/ch1?user=me&pwd=x").startswith(
        "rtsp://host/live/ch1?user=***&pwd=*** ("
    )


def test_python_errors_and_their_chains_hold_no_token(port: int) -> None:
    import traceback

    for form in FORMS[:-2]:
        with pytest.raises(RtsegError) as caught:
            open_source(filled(form, f"127.0.0.1:{port}"))
        lines = traceback.format_exception(caught.value)
        told = [line for line in lines if not line.startswith("  File")]
        assert TOKEN not in str(caught.value), form
        assert TOKEN not in "".join(told), (form, told)
        assert isinstance(caught.value, SourceError)


def test_text_of_others_is_cleaned_too() -> None:
    """As a library's message, a log of FFmpeg or a traceback may hold an address or a part."""
    remember([f"rtsp://me:{TOKEN}@host/live?st=abc123xyz"])
    for text in (
        f"HTTPConnectionPool: Max retries exceeded with url: /live?st=abc123xyz ({TOKEN})",
        f"[rtsp @ 0x55] method DESCRIBE failed: rtsp://me:{TOKEN}@host/live?st=abc123xyz",
        f"KeyError: '{TOKEN}'",
    ):
        assert TOKEN not in without_secrets(text)
        assert "abc123xyz" not in without_secrets(text)
    never_seen = without_secrets("see https://me:pw1234@site.example/a?key=k1 and https://x.org/a")
    assert never_seen == "see https://site.example/a?key=*** and https://x.org/a"


def test_words_of_a_path_are_no_secrets(capfd: pytest.CaptureFixture[str]) -> None:
    remember(["http://host/films/clip-2024.mp4"])
    assert without_secrets("wrote 3 frames to films/clip-2024.mp4") == (
        "wrote 3 frames to films/clip-2024.mp4"
    )


def test_figures_are_no_secrets(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Secrets are taken out of texts, never out of finished JSON or a number in CSV."""
    remember([f"http://me:1800@host/c.mp4?X-Amz-Expires=2024&b=true&sig={TOKEN}", "http://h/?1999"])
    assert without_secrets("2024 of 1999 frames") == "2024 of 1999 frames"
    assert without_secrets("me:1800") == "***"
    values = {"frames": 1800, "true": True, "error": f"no {TOKEN}", "notes": ["1800", "\x7f"]}
    told = {"frames": 1800, "true": True, "error": "no ***", "notes": ["***", "\x7f"]}
    write_json("-", values)
    assert json.loads(capfd.readouterr().out) == told
    write_json(str(tmp_path / "m.json"), values)
    assert json.loads((tmp_path / "m.json").read_text()) == told
    row = {"clip": "c.mp4", "outputs": ["c.mkv"]} | {n: values[n] for n in ("frames", "error")}
    write_rows(str(tmp_path / "rows.csv"), [row])
    assert (tmp_path / "rows.csv").read_text().splitlines()[1].startswith("c.mp4,,1800,")
    assert "no ***" in (tmp_path / "rows.csv").read_text()
    clip = Clip("c.mp4", "c.mp4", "1800 bytes", ("out/1800.mkv",))
    ledger = open_ledger(str(tmp_path), {}, 60)
    ledger.write(clip, ledger.new(clip, "failed", error=TOKEN, report=values))
    record = ledger.read(clip)
    assert record is not None
    assert (record.frames, record.error, record.identity) == (1800, "***", "1800 bytes")
    assert record.outputs == ["out/1800.mkv"]


# --- the terminal --------------------------------------------------------------------------------

EVIL = "a\x1b[2J\x1b]0;t\x07b\r\n\u202ec\u2066d\x9b31m\u2028e\x00\x7f\u200bf"


def test_nothing_unprintable_is_left() -> None:
    assert not UNPRINTABLE.search(printable(EVIL))
    assert printable("Straße 東京 \u200d👩\u200d🚀") == "Straße 東京 \u200d👩\u200d🚀"
    assert not UNPRINTABLE.search(shown(EVIL))


@pytest.mark.parametrize(
    "arguments",
    [
        ["{evil}.mp4"],
        ["{evil}"],
        ["test://?{evil}"],
        ["http://{evil}/x"],
        ["{evil}://x"],
        ["test://?frames=1", "-m", "{evil}"],
        ["test://?frames=1", "-m", "stub?{evil}"],
        ["test://?frames=1", "-m", "stub", "--{evil}"],
        ["test://?frames=1", "-m", "stub", "--alpha", "{evil}"],
        ["test://?frames=1", "-m", "stub", "--view", "{evil}"],
        ["test://?frames=1", "-m", "stub", "--classes", "{evil}"],
        ["test://?frames=1", "-m", "stub", "-o", "none/{evil}.mp4"],
        ["test://?frames=1", "-m", "stub", "--palette", "{evil}"],
        ["test://?frames=1", "-m", "stub", "--background", "{evil}.png"],
        ["test://?frames=1", "-m", "stub", "--config", "{evil}"],
        ["bench", "-m", "{evil}"],
        ["eval", "{evil}"],
        ["export", "-m", "{evil}"],
        ["models", "{evil}"],
        ["{evil}", "--debug"],
    ],
)
def test_flag_values_and_file_names_are_escaped(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    evil = EVIL.replace("\x00", "")
    code = main([argument.format(evil=evil) for argument in arguments])
    out, err = capfd.readouterr()
    assert code != 0
    assert not UNPRINTABLE.search((out + err).replace("\n", "")), (out, err)
    assert len(err.splitlines()) < 4 or "--debug" in arguments


def test_names_of_files_that_exist_are_escaped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / EVIL.replace("\x00", "")
    folder.mkdir()
    name = EVIL.replace("\x00", "") + ".png"
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((48, 64, 3), np.uint8))
    (tmp_path / "a.png").rename(folder / name)
    (folder / f"{name}.txt").write_text("not an image")
    flags = ["-m", "stub", "--no-show", "-v", "-o", f"{folder}/out.mp4", "--metrics", "-"]
    assert main([str(folder), *flags]) == 0
    assert main([str(folder / name), *flags, "-y", "--hud"]) == 0
    out, err = capfd.readouterr()
    assert not UNPRINTABLE.search((out + err).replace("\n", "")), (out, err)


def with_evil_names(path: Path, where: str) -> Path:
    """An ONNX file that has `EVIL` in its metadata, in the TOML file beside it, or as an output."""
    make_network(path)
    evil, content = EVIL.replace("\x00", ""), onnx.load(path)
    names = ("nothing", evil, "thing")
    if where == "toml":
        make_network(path, names=names)
        text = path.with_suffix(".toml").read_text().splitlines()
        labels = f"labels = {json.dumps(names)}"
        path.with_suffix(".toml").write_text(
            "\n".join(labels if line.startswith("labels") else line for line in text)
        )
        return path
    if where == "output":
        content.graph.output[0].name = content.graph.node[0].output[0] = evil
        with path.with_suffix(".toml").open("a") as file:
            file.write('\noutput = "y"')
    else:
        path.with_suffix(".toml").unlink()
        spec = json.loads(find_model(make_network(path.with_name("good.onnx"))).spec.to_json())
        spec["labels"]["names"] = list(names)
        onnx.helper.set_model_props(content, {METADATA_KEY: json.dumps(spec)})
    onnx.save(content, path)
    return path


@pytest.mark.parametrize("where", ["metadata", "toml", "output"])
@pytest.mark.parametrize(
    "command",
    [
        "run test://?frames=1 -v --no-show -m",
        "eval --data set -m",
        "export -o b.onnx -m",
        "models show",
    ],
)
def test_names_in_an_onnx_file_are_escaped(
    command: str, where: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_folder(Path("set"), 2)
    path = with_evil_names(Path("a.onnx"), where)
    assert main([*command.split(), str(path)]) != 0
    out, err = capfd.readouterr()
    assert "a.onnx" in err
    assert not UNPRINTABLE.search((out + err).replace("\n", "")), (out, err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["x" * 10_000_000],
        ["test://?frames=1", "-m", "stub", "--view", "x" * 1_000_000],
        ["test://?frames=1", "-m", "stub", "-o", "out/%0999999999d.png"],
        ["test://?frames=1", "-m", "stub", "-o", "out/%99999999d.png"],
        ["test://?frames=1", "-m", "stub", "--mask-output", "out/%0999999999d.png"],
        ["out/%0999999999d.png", "-m", "stub"],
        ["test://?frames=1", "-m", "stub", "--classes", ",".join("abcdefgh" * 10_000)],
        ["http://host/" + "x" * 1_000_000],
    ],
)
def test_an_error_is_a_few_lines(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    assert main([*arguments, "--no-show"]) in (1, 2, 3)
    out, err = capfd.readouterr()
    assert len(out + err) <= MAX_ERROR + 100
    assert not list(Path("out").iterdir())


def test_what_is_left_out_of_a_long_text_is_its_middle() -> None:
    assert shortened("abc", 5) == "abc"
    text = shortened("a" * 5000 + "b" * 5000, 100)
    assert len(text) == 100
    assert text.startswith("aaa")
    assert text.endswith("bbb")
