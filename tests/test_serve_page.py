"""The page in a real browser, with a camera whose frames carry their numbers."""

from __future__ import annotations

import asyncio
import base64
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from clips import write_clip
from servers import served

import rtseg
from rtseg.contracts import Rendered
from rtseg.errors import SourceError
from rtseg.frame import Frame, Image, Segmentation
from rtseg.images import read_image
from rtseg.serve.watch import WatchSink

PAGE = Path(rtseg.__file__).parent / "serve" / "page"

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,  # a browser that draws with the processor
    pytest.mark.timeout(300),
    pytest.mark.skipif(BROWSER is None, reason="chromium is not installed"),
]

WIDTH, HEIGHT = 640, 360
FLAGS = (
    "--no-sandbox",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
)


@contextmanager
def browser(*flags: str, but: str = "", **context: Any) -> Iterator[Any]:
    """A page of a new browser; fails if a script on it does, or reports an error `but` that one."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        program = playwright.chromium.launch(executable_path=BROWSER, args=[*FLAGS, *flags])
        page = program.new_context(**context).new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        yield page
        program.close()
        assert [error for error in errors if not but or but not in error] == []


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.1)


def camera_file(folder: Path) -> Path:
    """A video of the stub's world for a fake camera: a block of class 1 whose width grows, and the
    same width as eight black or white bits in the top row."""
    red, green, blue = rtseg.load("stub").labels.colours[1]
    path = folder / "camera.y4m"
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F30:1 Ip A1:1 C420jpeg\n".encode())
        for number in range(64):
            image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            image[120:, : 80 + 8 * number] = blue, green, red
            for bit in range(8):
                image[:60, 80 * bit : 80 * bit + 80] = 255 * (number >> bit & 1)
            planes = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
            file.write(b"FRAME\n" + planes.tobytes())
    return path


PIXELS = """async () => {
  const canvas = document.getElementById("canvas"), copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const pen = copy.getContext("2d");
  pen.drawImage(canvas, 0, 0);
  return [copy.width, copy.height, copy.toDataURL("image/png")];
}"""


def drawn(page: Any) -> Image:
    width, height, address = page.evaluate(PIXELS)
    content = base64.b64decode(address.partition(",")[2])
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (height, width, 3)
    return image


def number_of(image: Image) -> int:
    """The number that a drawn frame carries."""
    bits = [image[30, 80 * bit + 40].mean() > 127 for bit in range(8)]
    return sum(1 << bit for bit, on in enumerate(bits) if on)


def in_colour(image: Image, colour: tuple[int, ...]) -> int:
    """How many pixels of a row through the block have an RGB colour."""
    return np.count_nonzero(np.abs(image[300, :, ::-1].astype(int) - colour).max(-1) < 50)


def test_every_drawn_mask_is_that_of_its_frame(tmp_path: Path) -> None:
    """The frame tells its number in bits, and the mask in its width, in a colour of its own."""
    camera, own = camera_file(tmp_path), (255, 0, 255)
    with rtseg.load("stub") as segmenter:
        original = segmenter.labels.colours[1]
        colours = (segmenter.labels.colours[0], own, *segmenter.labels.colours[2:])
        segmenter.labels = segmenter.labels.with_colours(colours)
        with (
            served(segmenter) as server,
            browser(f"--use-file-for-fake-video-capture={camera}") as page,
        ):
            page.goto(f"{server.url}?path=2d")
            page.uncheck("#mirror")
            page.uncheck("#steady")
            page.fill("#opacity", "1")
            page.click("#start")
            seen = set()
            for _ in range(12):
                before = page.evaluate("rtseg.count.shown")
                wait_for(lambda seen=before: page.evaluate("rtseg.count.shown") > seen)  # type: ignore[misc]
                image = drawn(page)
                number = number_of(image)
                assert abs(in_colour(image, own) - (80 + 8 * number)) <= 16, number
                assert in_colour(image, original) <= 16, number
                seen.add(number)
            assert len(seen) > 3
            page.check("#mirror")
            wait_for(lambda: _mirrored(page, own))
            (client,) = server.service.clients
            wait_for(lambda: client.ages.count > 3)
            assert "age" in page.inner_text("#hud")
            page.click("#stop")
            wait_for(lambda: not server.service.clients)
            count = page.evaluate("rtseg.count")
            assert count["wrong"] == 0
            assert client.received == client.shown + sum(client.dropped.values()) + len(
                client._pending
            )
            assert count["sent"] - count["shown"] - sum(count["dropped"].values()) <= 3


def _mirrored(page: Any, colour: tuple[int, ...]) -> bool:
    """Whether the block is at the right of what the page shows."""
    content = page.locator("#canvas").screenshot(type="png")
    shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    row = shown[shown.shape[0] * 5 // 6, :, ::-1].astype(int)
    found = np.abs(row - colour).max(-1) < 50
    return bool(found[-20] and not found[20])


ASLEEP = """() => {
  const next = HTMLVideoElement.prototype.requestVideoFrameCallback;
  HTMLVideoElement.prototype.requestVideoFrameCallback = function (call) {
    return document.hidden ? 0 : next.call(this, call);
  };
  window.asleep = true;
  Object.defineProperty(document, "hidden", { get: () => window.asleep });
}"""

AWAKE = """() => {
  window.asleep = false;
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_tab_in_the_background_goes_on_when_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A browser gives no frames of the camera to a hidden tab, so its stream is let go."""
    monkeypatch.setattr("rtseg.serve.stream.IDLE_SECONDS", 3.0)
    with served() as server, browser() as page:
        page.goto(f"{server.url}?path=2d")
        page.click("#start")
        wait_for(lambda: page.evaluate("rtseg.count.shown") > 2)
        page.evaluate(ASLEEP)
        wait_for(lambda: "no frame for 3 seconds" in page.inner_text("#words"))
        assert server.service.clients == []
        page.evaluate(AWAKE)
        wait_for(lambda: len(server.service.clients) == 1)
        wait_for(lambda: page.evaluate("rtseg.count.shown") > 2)
        assert page.is_hidden("#welcome")


def test_classes_that_are_left_out_stay_so_in_the_next_stream() -> None:
    with served() as server, browser() as page:
        page.goto(f"{server.url}?path=2d")
        page.click("#start")
        wait_for(lambda: page.evaluate("rtseg.count.shown") > 0)
        page.uncheck("#classes input >> nth=0")
        (client,) = server.service.clients
        wait_for(lambda: page.evaluate("1") and client._selected is not None)
        page.click("#steady")  # a stream of its own
        wait_for(lambda: page.evaluate("1") and server.service.clients not in ([], [client]))
        (later,) = server.service.clients
        wait_for(lambda: page.evaluate("1") and later._selected == client._selected)


def test_the_boxes_of_classes_are_those_of_the_server() -> None:
    with rtseg.load("stub") as segmenter:
        segmenter.selected = frozenset({2})
        with served(segmenter) as server, browser() as page:
            page.goto(f"{server.url}?path=2d")
            page.click("#start")
            wait_for(lambda: page.evaluate("rtseg.count.shown") > 0)
            boxes = page.query_selector_all("#classes input")
            assert [box.get_attribute("value") for box in boxes if box.is_checked()] == ["2"]


WAITING = """() => {
  window.waiting = [];
  HTMLVideoElement.prototype.requestVideoFrameCallback = (call) => window.waiting.push(call);
}"""


def test_each_stream_has_one_loop_of_frames() -> None:
    """What waits for a frame of the camera when its stream ends does not go on in the next."""
    with served() as server, browser() as page:
        page.goto(f"{server.url}?path=2d")
        page.evaluate(WAITING)
        page.click("#start")
        for number in (1, 2):
            wait_for(lambda number=number: page.evaluate("waiting.length") == number)  # type: ignore[misc]
            page.click("#steady")
        wait_for(lambda: page.evaluate("waiting.length") == 3)
        page.evaluate("waiting.splice(0).forEach((call) => call())")
        assert page.evaluate("waiting.length") == 1


DRAW = """async ([scores, width, height, network]) => {
  const blank = document.createElement("canvas");
  [blank.width, blank.height] = [640, 360];
  Object.assign(rtseg.painter, { network, keep: new Set([1]) });
  const bitmap = await createImageBitmap(blank);
  await rtseg.painter.draw(bitmap, 1, width, height, new Uint16Array(scores).buffer);
}"""


@pytest.mark.needs_data
def test_webgl_draws_the_mask_of_the_command_line(data: Path) -> None:
    """Scores as float16 through WebGL2 against the mask that is decoded here."""
    first = min((data / "people" / "images").iterdir())
    image = cv2.resize(read_image(first, SourceError), (WIDTH, HEIGHT))
    with rtseg.load("person") as segmenter, served(segmenter) as server:
        found, labels = segmenter(image), segmenter.labels
        margin = (found.scores[1] - found.scores[0]).astype(np.float16)
        height, width = margin.shape
        colours = enumerate(labels.colours)
        network = {
            "classes": [{"id": n, "colour": list(colour)} for n, colour in colours],
            "background": labels.background,
            "align_corners": segmenter.backend.spec.align_corners,
            "probabilities": False,
        }
        with browser() as page:
            page.goto(f"{server.url}?path=gl")
            assert page.evaluate("rtseg.painter.kind") == "logits16"
            page.check("input[name=view][value=mask]", force=True)
            page.uncheck("#mirror")
            scores = margin.view(np.uint16).ravel().tolist()
            page.evaluate(DRAW, [scores, width, height, network])
            shown = drawn(page).any(-1)
    mask = found.mask == 1
    assert 0.02 < mask.mean() < 0.98
    assert np.mean(shown == mask) >= 0.99999


def test_a_picture_is_dropped_and_its_mask_is_shown(tmp_path: Path) -> None:
    red, green, blue = rtseg.load("stub").labels.colours[1]
    image = np.zeros((200, 320, 3), np.uint8)
    image[40:160, 60:200] = blue, green, red
    path = tmp_path / "shapes.png"
    cv2.imwrite(str(path), image)
    (tmp_path / "text.png").write_text("not an image")
    with served(token="s3cret-t0ken") as server, browser() as page:
        page.goto(f"{server.url}#token=s3cret-t0ken")
        assert "s3cret" not in page.evaluate("location.href")
        page.click("#to-picture")
        page.set_input_files("#file", path)
        page.wait_for_selector("#result:not([hidden])", timeout=60_000)
        assert page.evaluate("document.getElementById('result').naturalWidth") == 320
        assert page.inner_text("#shares").split()[-1] == "%"
        assert page.get_attribute("#save", "download") == "shapes-overlay.jpg"


def test_answers_that_overtake_each_other_are_shown_with_their_own_name(tmp_path: Path) -> None:
    held: list[Any] = []
    for name, width in (("a", 320), ("b", 200)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((100, width, 3), np.uint8))
    with served() as server, browser() as page:
        page.route("**/v1/segment*", lambda route: held.append(route))
        page.goto(f"{server.url}#picture")
        for number, name in enumerate("ab", 1):
            page.set_input_files("#file", tmp_path / f"{name}.png")
            wait_for(lambda number=number: page.evaluate("1") and len(held) == 2 * number)  # type: ignore[misc]
        for routes in (held[2:], held[:2]):
            for route in routes:
                route.continue_()
            page.wait_for_selector("#result:not([hidden])")
            page.wait_for_timeout(500)
            assert page.evaluate("document.getElementById('result').naturalWidth") == 200
            assert page.get_attribute("#save", "download") == "b-overlay.jpg"


def test_an_upload_outlasts_errors_of_a_proxy_and_an_empty_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtseg.serve.jobs.Jobs._run", lambda *_: asyncio.sleep(3600))
    statuses = [502, 504]
    (tmp_path / "empty.mp4").touch()
    with served("stub", job_dir=str(tmp_path / "jobs")) as server, browser(but="of 50") as page:
        page.route(
            "**/input",
            lambda route: route.fulfill(status=statuses.pop(0)) if statuses else route.continue_(),
        )
        page.goto(f"{server.url}#video")
        page.set_input_files("#film", tmp_path / "empty.mp4")
        page.wait_for_selector("#film-trouble:has-text('empty.mp4 is empty')")
        page.set_input_files("#film", write_clip(tmp_path / "clip.mp4", frames=3))
        page.wait_for_selector("#jobs .state:has-text('Waits for its turn')")
        assert statuses == []
        assert page.locator("#jobs li").count() == 1
        assert page.inner_text("#film-trouble") == ""


def test_a_video_is_sent_segmented_played_and_removed(tmp_path: Path) -> None:
    """Its upload breaks off with the page, and goes on when the file is chosen again."""
    path = write_clip(tmp_path / "clip.mp4", images=clip_images(), options={"crf": "0"})
    assert path.stat().st_size > 3 * 200_000
    folder = str(tmp_path / "jobs")
    with served("stub", job_dir=folder, token="s3cret-t0ken") as server, browser() as page:
        small = "const PART = 2e5;"
        page.route("**/page/video.js", lambda route: with_parts_of(route, small))
        page.route("**/input", lambda route: (time.sleep(0.3), route.continue_()))
        page.goto(f"{server.url}#token=s3cret-t0ken")
        page.click("#to-video")
        page.check("input[value=contours]")
        page.check("input[value=json]")
        page.set_input_files("#film", path)
        page.wait_for_selector("#jobs .state:has-text('Uploading')")
        page.reload()
        page.wait_for_selector("#jobs .state:has-text('choose the same file')")
        page.set_input_files("#film", path)
        page.wait_for_selector("#jobs .state:has-text('Done')", timeout=240_000)  # at low priority
        assert page.locator("#jobs li").count() == 1
        page.click("#jobs button:has-text('Play')")
        wait_for(lambda: page.evaluate("document.getElementById('player').currentTime") > 0.2)
        assert page.evaluate("document.getElementById('player').videoWidth") == WIDTH
        for text, suffix in (("Save", "video.mp4"), ("JSON lines", "classes.jsonl")):
            with page.expect_download() as saved:
                page.locator("#jobs a", has_text=text).click()
            assert saved.value.suggested_filename == f"clip-{suffix}"
        saved.value.save_as(tmp_path / "lines.jsonl")
        assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == 40
        page.click("#jobs .remove")
        page.wait_for_selector("#no-jobs:not([hidden])")
        assert page.is_visible("#choose")
        assert not page.is_visible("#player")


def test_an_upload_goes_on_with_its_own_options_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtseg.serve.jobs.Jobs._run", lambda *_: asyncio.sleep(3600))
    path = write_clip(tmp_path / "clip.mp4", frames=3)
    part = f"const PART = {path.stat().st_size // 20};"
    with served("stub", job_dir=str(tmp_path / "jobs")) as server, browser() as page:
        page.route("**/page/video.js", lambda route: with_parts_of(route, part))
        page.route("**/input", lambda route: (time.sleep(0.2), route.continue_()))
        page.goto(f"{server.url}#video")
        for options, count in (["contours"], 1), (["side"], 2), (["mask", "side"], 2), ([], 2):
            for option in options:
                page.check(f"input[name=drawn][value={option}]")
            page.set_input_files("#film", path)
            page.wait_for_selector("#jobs .state:has-text('Uploading')")
            page.wait_for_timeout(500)
            assert page.locator("#jobs li").count() == count
            page.reload()
            page.wait_for_selector("#jobs .state:has-text('Stopped')")


def with_parts_of(route: Any, line: str) -> None:
    text = (PAGE / "video.js").read_text()
    assert "const PART = 2e6;" in text
    route.fulfill(body=text.replace("const PART = 2e6;", line), content_type="text/javascript")


def clip_images() -> list[Image]:
    """Noise that moves, which no codec makes small."""
    random = np.random.default_rng(1)
    return [random.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(40)]


def test_the_page_says_why_there_is_no_camera() -> None:
    """Plain http under another name: browsers give no camera."""
    flag = "--host-resolver-rules=MAP example.test 127.0.0.1"
    with served(allow_host=("example.test",), token="none") as server, browser(flag) as page:
        page.goto(f"http://example.test:{server.port}/")
        page.click("#start")
        assert "https" in page.inner_text("#welcome h2")
        assert not page.is_visible("#start")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (393, 851)], ids=["desktop", "phone"])
def test_the_page_is_accessible_and_fits(scheme: str, size: tuple[int, int]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    viewport = {"width": size[0], "height": size[1]}
    with (
        served() as server,
        browser(viewport=viewport, color_scheme=scheme, bypass_csp=True) as page,
    ):
        for place in ("#live", "#picture", "#video"):
            page.goto(f"{server.url}/{place}")
            found = axe.run(page)
            assert found.violations_count == 0, found.generate_report()
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= size[0]
            assert page.evaluate("scrollY") == 0, "the header is in view"


def test_a_run_is_watched(tmp_path: Path) -> None:
    """The page of `--web` shows the frames of the run, with a token off the loopback."""
    sink = WatchSink("0.0.0.0:0")
    over = threading.Event()

    def write() -> None:
        image = np.full((90, 160, 3), (0, 128, 255), np.uint8)
        scores = np.zeros((2, 4, 4), np.float32)
        labels = rtseg.LabelSet(("background", "thing"), ((0, 0, 0), (255, 0, 0)))
        while not over.wait(0.02):
            frame = Frame(image, 0, 0.0, time.perf_counter())
            found = Segmentation(scores, labels, (90, 160))
            sink.write(Rendered(frame, found, lambda frame, found: frame.image))

    thread = threading.Thread(target=write)
    with sink, browser() as page:
        thread.start()
        try:
            where = sink.lines[0][1]
            address = "http://127.0.0.1:" + where.rpartition(":")[2]
            page.goto(address)
            wait_for(lambda: page.evaluate("rtseg.shown") > 5)
            assert drawn(page)[45, 80].astype(int) == pytest.approx([0, 128, 255], abs=6)
            assert "fps" in page.inner_text("#hud")
            with page.expect_download() as saved:
                page.click("#snapshot")
            saved.value.save_as(tmp_path / "shot.jpg")
            assert read_image(tmp_path / "shot.jpg", SourceError).shape == (90, 160, 3)
        finally:
            over.set()
            thread.join()
