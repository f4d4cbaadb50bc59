"""The picture of the server's page in the README: `rtseg serve` in chromium.

    python tools/page_pictures.py [--data ../shared/data] [--out docs/pictures] [--all FOLDER]

page.jpg: the live page with a blurred background on a wide screen, and the page of videos on a
phone, dark. The camera is a clip of intel-iot-devkit/sample-videos (CC BY 4.0). `--all` also writes
every page at both sizes, light and dark. It needs chromium and pip's playwright.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from rtseg.frame import Image

ROOT = Path(__file__).resolve().parents[1]
CLIP, PICTURE = "intel_asl_book.mkv", "astronaut.jpg"
WIDE, PHONE = (1280, 660), (393, 851)
FLAGS = (
    "--no-sandbox",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 84]


def camera_file(clip: Path, path: Path) -> Path:
    """A clip as chromium's fake camera reads it."""
    with av.open(str(clip)) as container, path.open("wb") as file:
        for number, frame in enumerate(container.decode(video=0)):
            if not number:
                head = f"YUV4MPEG2 W{frame.width} H{frame.height} F30:1 Ip A1:1 C420jpeg\n"
                file.write(head.encode())
            file.write(b"FRAME\n" + frame.to_ndarray(format="yuv420p").tobytes())
    return path


def serving(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A server of `person`, and its address."""
    command = [sys.executable, "-m", "rtseg", "serve", "-m", "person", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--job-dir", str(folder / "jobs")], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    line = ""
    while not line.startswith("serving"):
        line = process.stderr.readline()
        assert line, "it ended"
    return process, line.split()[1]


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait without scripts from elsewhere, which the page forbids."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.1)


def live(page: Any, address: str, view: str) -> None:
    """The camera, some seconds after its start."""
    page.goto(f"{address}#live")
    page.click("#start")
    page.check(f"input[value={view}]")
    wait_for(lambda: page.evaluate("rtseg.figures().frames") > 40)
    label = "document.querySelector('#camera option').text = 'Camera 1'"  # a path in a fake one
    page.evaluate(label)


def picture(page: Any, address: str, path: Path) -> None:
    """A cut-out of an image."""
    page.goto(f"{address}#picture")
    page.check("input[name=as][value=cutout]")
    page.set_input_files("#file", path)
    page.wait_for_selector("#result:not([hidden])", timeout=60_000)


def video(page: Any, address: str, clip: Path) -> None:
    """A finished video that is played."""
    page.goto(f"{address}#video")
    if not page.locator("#jobs li").count():
        page.set_input_files("#film", clip)
    page.wait_for_selector("#jobs .state:has-text('Done')", timeout=300_000)
    page.click("#jobs button:has-text('Play')")
    wait_for(lambda: page.evaluate("document.getElementById('player').currentTime") > 1)
    page.evaluate("document.getElementById('player').pause()")


def shot(page: Any) -> Image:
    """(H, W, 3) uint8 BGR."""
    content = np.frombuffer(page.screenshot(), np.uint8)
    return cv2.imdecode(content, cv2.IMREAD_COLOR)


def beside(wide: Image, phone: Image) -> Image:
    """Both on one ground, the phone as high as the screen."""
    height = wide.shape[0]
    width = round(phone.shape[1] * height / phone.shape[0])
    phone = cv2.resize(phone, (width, height), interpolation=cv2.INTER_AREA)
    gap = np.full((height, 24, 3), 255, np.uint8)
    return np.hstack([wide, gap, phone])


def main() -> None:
    """Make them."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument("--all", type=Path)
    options = parser.parse_args()
    clip = options.data / "videos" / CLIP
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        camera = camera_file(clip, folder / "camera.y4m")
        process, address = serving(folder)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=[*FLAGS, f"--use-file-for-fake-video-capture={camera}"],
        )

        def screen(size: tuple[int, int], scheme: str) -> Any:
            context = browser.new_context(
                viewport={"width": size[0], "height": size[1]},
                color_scheme=scheme,
                reduced_motion="reduce",  # no switch is caught on its way
                device_scale_factor=1 if size == WIDE else 2,
            )
            return context.new_page()

        try:
            wide = screen(WIDE, "light")
            live(wide, address, "overlay")
            wide.uncheck("#figures")
            first = shot(wide)
            wide.close()
            phone = screen(PHONE, "dark")
            video(phone, address, clip)
            phone.evaluate("scrollTo(0, 0)")
            both = beside(first, shot(phone))
            cv2.imwrite(str(options.out / "page.jpg"), both, QUALITY)
            for size, label in ((WIDE, "wide"), (PHONE, "phone")) if options.all else ():
                for scheme in ("light", "dark"):
                    page = screen(size, scheme)
                    for kind, show in (
                        ("live", lambda page=page: live(page, address, "cutout")),
                        (
                            "picture",
                            lambda page=page: picture(
                                page, address, options.data / "pictures" / PICTURE
                            ),
                        ),
                        ("video", lambda page=page: video(page, address, clip)),
                    ):
                        show()
                        path = options.all / f"{kind}-{label}-{scheme}.png"
                        page.screenshot(path=path, full_page=size == PHONE)
                    page.close()
        finally:
            browser.close()
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
