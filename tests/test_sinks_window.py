"""The window: a real one under a real X server, and the ways not to have one."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from sink_frames import info
from x_server import click_close, x_server

from rtseg.errors import SinkError
from rtseg.labels import VOC
from rtseg.sinks import display as display_module
from rtseg.sinks import open_sink, window
from rtseg.sinks.display import (
    X11_XCB,
    Screen,
    display_available,
    display_connection,
    has_own_qt,
    prepare_qt,
)
from rtseg.sinks.window import Place, add_bars, fit_screen, place_in, scale

ROOT = Path(__file__).resolve().parents[1]
WINDOW = """
import sys, time
import numpy as np
from fractions import Fraction
from sink_frames import *
from rtseg.sinks.window import WindowEvents
mode, sar = sys.argv[1], Fraction(sys.argv[2])
sink = open_sink("window:", info(sample_aspect_ratio=sar), VOC, SinkOptions(title="rtseg test"))
image = np.zeros((240, 320, 3), np.uint8)
image[:, :160], image[:, 160:] = (0, 0, 255), (255, 0, 0)
def told(what):
    return lambda point: point and print(what, *(round(each, 2) for each in point), flush=True)
if mode == "mouse":
    sink.events = WindowEvents(lambda key: None, told("pointed"), told("clicked"))
until, shown = time.monotonic() + 20, 0
while sink.alive and time.monotonic() < until:
    if shown < 5 or mode == "write":
        sink.write(rendered(shown, image=image))
    else:
        sink.idle("reconnecting to camera 0" if mode == "banner" else None)
    shown += 1
    time.sleep(0.01)
    if shown == 20:
        sys.stdout.write("shown\\n"); sys.stdout.flush()
sys.stdout.write("timed out" if sink.alive else "closed")
sink.close()
"""


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    with x_server("-screen", "0", "1000x700x24") as name:
        yield name


@pytest.fixture
def show(display: str) -> Iterator[Callable[..., Shown]]:
    programs: list[Shown] = []

    def start(*arguments: str) -> Shown:
        programs.append(Shown(display, *arguments))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()


class Shown:
    """A program with a window, on a display of its own."""

    def __init__(self, display: str, mode: str, ratio: str = "1") -> None:
        here = Path(__file__).parent
        self.environment = {
            **os.environ,
            "DISPLAY": display,
            "PYTHONPATH": f"{here}{os.pathsep}{here.parent}",
        }
        self.program = subprocess.Popen(
            [sys.executable, "-c", WINDOW, mode, ratio],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment,
        )  # fmt: skip
        assert self.program.stdout is not None
        assert self.program.stdout.readline() == "shown\n", self.program.communicate()[1]
        self.window = self.ask("xdotool", "search", "--name", "^rtseg test$").split()[-1]

    def ask(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.environment, check=True, capture_output=True, text=True, timeout=10
        ).stdout

    def screenshot(self, path: Path) -> np.ndarray:
        self.ask("import", "-window", "root", str(path))
        return cv2.imread(str(path))

    def close_button(self) -> None:
        click_close(self.environment, self.window)

    def kill(self) -> None:
        self.program.kill()
        self.program.communicate()

    def end(self) -> str:
        out, errors = self.program.communicate(timeout=30)
        assert errors == ""
        assert self.program.returncode == 0
        return out


@pytest.mark.needs_display
def test_the_title_may_be_a_name_in_another_encoding(display: str) -> None:
    code = (
        "from sink_frames import *\n"
        'title = SinkOptions(title="caf\\udce9 \\x1b[31m")\n'
        'with open_sink("window:", info(), VOC, title) as sink: sink.write(rendered(0))\n'
    )
    here = Path(__file__).parent
    path = f"{here}{os.pathsep}{here.parent}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DISPLAY": display, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.needs_display
@pytest.mark.parametrize(
    ("key", "mode"),
    [
        ("q", "idle"),
        ("shift+q", "write"),
        ("Escape", "write"),
        pytest.param("q", "write", marks=pytest.mark.slow),
        pytest.param("shift+q", "idle", marks=pytest.mark.slow),
        pytest.param("Escape", "idle", marks=pytest.mark.slow),
    ],
)
def test_keys_close_it(key, mode, show) -> None:
    shown = show(mode)
    shown.ask("xdotool", "mousemove", "100", "100", "windowfocus", shown.window)
    shown.ask("xdotool", "key", key)
    assert shown.end() == "closed"


@pytest.mark.needs_display
def test_the_mouse_is_reported_where_it_is(show) -> None:
    shown = show("mouse")
    shown.ask("xdotool", "mousemove", "--window", shown.window, "80", "180", "click", "1")
    assert shown.program.stdout is not None
    seen: list[str] = []
    for line in shown.program.stdout:
        seen.append(line)
        if "clicked" in line:
            break
    assert "pointed 0.25 0.75\n" in seen
    assert seen[-1] == "clicked 0.25 0.75\n"
    shown.close_button()
    assert shown.end() == "closed"


@pytest.mark.needs_display
@pytest.mark.slow  # as the tests below end
@pytest.mark.parametrize("mode", ["write", "idle"])
def test_the_x_of_the_window_closes_it(mode, show) -> None:
    """What a window manager does: it sends WM_DELETE_WINDOW."""
    shown = show(mode)
    shown.close_button()
    assert shown.end() == "closed"


@pytest.mark.needs_display
def test_the_picture_is_on_the_screen(show, tmp_path) -> None:
    shown = show("write")
    seen = shown.screenshot(tmp_path / "shot.png")
    red, blue = ((seen == colour).all(-1) for colour in [(0, 0, 255), (255, 0, 0)])
    assert red.sum() == pytest.approx(160 * 240, rel=0.02)
    assert blue.sum() == pytest.approx(160 * 240, rel=0.02)
    assert np.argwhere(red)[:, 1].max() < np.argwhere(blue)[:, 1].min(), "not mirrored"
    shown.close_button()
    assert shown.end() == "closed"


@pytest.mark.needs_display
def test_pixels_that_are_not_square_are_stretched(show, tmp_path) -> None:
    shown = show("write", "3/2")
    seen = shown.screenshot(tmp_path / "shot.png")
    red = (seen == (0, 0, 255)).all(-1)
    height, width = np.ptp(np.argwhere(red), axis=0) + 1
    assert (height, width) == pytest.approx((240, 240), abs=3)
    shown.close_button()
    assert shown.end() == "closed"


@pytest.mark.needs_display
def test_the_banner_lies_over_the_last_picture(show, tmp_path) -> None:
    shown = show("banner")
    seen = shown.screenshot(tmp_path / "shot.png")
    reddish = (seen[..., 2] > 100) & (seen[..., 0] < 20) & (seen[..., 1] < 20)
    assert reddish.sum() > 10_000, "the last picture stays"
    assert not (seen == (0, 0, 255)).all(-1).any(), "dimmed"
    assert (seen.min(-1) > 200).sum() > 50, "white letters"
    shown.close_button()
    assert shown.end() == "closed"


@pytest.mark.needs_display
def test_the_x_server_is_asked_and_tells_its_size(display, monkeypatch) -> None:
    monkeypatch.setenv("DISPLAY", display)
    assert display_available() is None
    with display_connection() as size:
        assert size == Screen(1000, 700)


@pytest.mark.skipif(sys.platform != "linux", reason="displays are named so on Linux")
@pytest.mark.parametrize(
    ("display", "says"),
    [("", "neither DISPLAY nor WAYLAND_DISPLAY is set"),
     (":4711", "no X server answers"),
     ("localhost:4711", "no X server answers"),
     ("nonsense", "no X server answers")],
)  # fmt: skip
def test_no_display_is_told_before_qt_can_abort(display, says, monkeypatch) -> None:
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SinkError, match=says) as caught:
        open_sink("window:", info(), VOC)
    assert "--no-show" in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.needs_display
def test_a_server_that_wants_a_cookie_gets_the_one_of_the_authority_file(
    tmp_path, monkeypatch, capfd
) -> None:
    cookie = bytes(range(16))
    name = b"MIT-MAGIC-COOKIE-1"

    def entry(number: bytes, value: bytes) -> bytes:
        fields = [b"", number, name, value]
        return b"\xff\xff" + b"".join(len(f).to_bytes(2, "big") + f for f in fields)

    authority = tmp_path / "authority"
    authority.write_bytes(entry(b"", cookie))
    with x_server("-auth", str(authority)) as display:
        monkeypatch.setenv("DISPLAY", display)
        monkeypatch.setenv("XAUTHORITY", str(tmp_path / "none"))
        reason = display_available() or ""
        assert "refuses the connection" in reason
        assert "uthorization" in reason, "in the server's words"
        assert capfd.readouterr().err == ""
        authority.write_bytes(entry(b"99999", bytes(16)) + entry(b"", cookie))
        monkeypatch.setenv("XAUTHORITY", str(authority))
        assert display_available() is None


@pytest.mark.skipif(sys.platform != "linux", reason="Qt's platforms of Linux")
def test_a_wheel_that_knows_only_x_cannot_use_wayland(monkeypatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    monkeypatch.setattr(display_module, "_qt_plugins", lambda: {"xcb": Path("libqxcb.so")})
    assert "through X only" in (display_available() or "")
    monkeypatch.setattr(display_module, "_qt_plugins", dict)
    assert display_available() is None


@pytest.mark.skipif(sys.platform != "linux", reason="Qt's platforms of Linux")
def test_a_qt_that_lacks_a_library_is_told_before_it_aborts(display, monkeypatch, tmp_path) -> None:
    """As in a container that has been given a display, and no libSM."""
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setattr(display_module, "_qt_plugins", lambda: {"xcb": tmp_path / "libqxcb.so"})
    with pytest.raises(SinkError, match=r"libqxcb.so") as caught:
        open_sink("window:", info(), VOC)
    assert "apt-get install libsm6 libxext6" in str(caught.value)


def test_an_opencv_without_windows_is_told(monkeypatch) -> None:
    monkeypatch.setattr(display_module, "_no_display", lambda: None)
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "")
    with pytest.raises(SinkError, match="pip uninstall -y opencv-python-headless"):
        open_sink("window:", info(), VOC)


def test_a_desktop_of_high_density_does_not_enlarge_the_window(monkeypatch) -> None:
    monkeypatch.setattr(display_module, "_qt_plugins", dict)
    monkeypatch.setenv("QT_SCALE_FACTOR", "2")
    monkeypatch.setenv("QT_AUTO_SCREEN_SCALE_FACTOR", "1")
    monkeypatch.delenv("QT_SCREEN_SCALE_FACTORS", raising=False)
    monkeypatch.delenv("QT_ENABLE_HIGHDPI_SCALING", raising=False)
    prepare_qt()
    assert os.environ["QT_SCALE_FACTOR"] == "1"
    assert os.environ["QT_AUTO_SCREEN_SCALE_FACTOR"] == "0"


def test_qt_gets_fonts_and_its_own_platform(monkeypatch) -> None:
    monkeypatch.setattr(display_module, "_qt_plugins", lambda: {"xcb": Path("libqxcb.so")})
    monkeypatch.setenv("QT_QPA_PLATFORM", "wayland;xcb")
    monkeypatch.setenv("QT_QPA_FONTDIR", "/nowhere")
    prepare_qt()
    assert os.environ["QT_QPA_PLATFORM"] == "xcb"
    assert list(Path(os.environ["QT_QPA_FONTDIR"]).glob("DejaVuSans.ttf"))


EACH_ALONE = """
import importlib, os, sys
import matplotlib.figure, numba, rich.console  # neither cv2 nor av, which each child imports anew
assert not {"cv2", "av"} & set(sys.modules)
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        importlib.import_module(name)
        names = list(sys.modules)
        os._exit(names.index("cv2") > names.index("av"))
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.slow
def test_pyav_never_comes_before_opencv() -> None:
    """With PyAV's X libraries loaded first, OpenCV's windows hang: each module alone is right."""
    users = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "rtseg").rglob("*.py")
        if re.search(r"^(import av|from av)\b", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert "rtseg.sinks.video" in users
    done = subprocess.run(
        [sys.executable, "-c", EACH_ALONE, *users], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (0, "".join(f"{user} 0\n" for user in users))


@pytest.mark.needs_display
def test_a_program_that_imports_pyav_first_is_told(display) -> None:
    code = (
        "import av, sys; from rtseg.sinks import open_sink; from rtseg.errors import SinkError\n"
        "from rtseg.contracts import SourceInfo; from rtseg.labels import VOC\n"
        "try: open_sink('window:', SourceInfo('x', 4, 4), VOC)\n"
        "except SinkError as error: sys.stdout.write(str(error))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DISPLAY": display},
        cwd=ROOT, check=True, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    if has_own_qt():
        assert "import cv2 first" in done.stdout


@pytest.mark.needs_display
@pytest.mark.skipif(not has_own_qt(), reason="only the wheels mix X libraries")
def test_qt_and_xlib_agree_on_who_reads_the_events(display, tmp_path) -> None:
    """Else Xlib takes an Expose now and then, and the window stays black: see display.py."""
    try:
        ctypes.CDLL(X11_XCB)
    except OSError:
        pytest.skip(f"needs {X11_XCB}")
    code = "from sink_frames import *; open_sink('window:', info(), VOC).close()"
    trace = {"LD_DEBUG": "bindings", "LD_DEBUG_OUTPUT": str(tmp_path / "bindings")}
    here = Path(__file__).parent
    path = f"{here}{os.pathsep}{ROOT}"
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **trace, "DISPLAY": display, "PYTHONPATH": path},
        check=True, timeout=60,
    )  # fmt: skip
    said = "".join(found.read_text("utf-8") for found in tmp_path.glob("bindings.*"))
    found = re.findall(r"binding file \S+ \[0\] to (\S+) .*`XSetEventQueueOwner'", said)
    assert [Path(library).name for library in found] == [X11_XCB]


def test_an_opencv_without_windows(monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(window, "display_available", lambda: None)
    monkeypatch.setattr(window, "_av_first", lambda: None)
    monkeypatch.setattr(window, "prepare_qt", lambda: None)
    monkeypatch.setattr(cv2, "namedWindow", fail)
    with pytest.raises(SinkError, match=r"built without windows.*--no-show"):
        open_sink("window:", info(), VOC)


def test_sizes_of_the_window() -> None:
    assert fit_screen((640, 480), Screen(1920, 1080)) == (640, 480)
    assert fit_screen((3840, 2160), Screen(1920, 1080)) == (1728, 972)


@pytest.mark.parametrize(
    ("shape", "window", "place"),
    [
        ((640, 480), (640, 480), Place(0, 0, 640, 480)),
        ((640, 480), (1280, 800), Place(106, 0, 1067, 800)),
        ((640, 480), (1000, 300), Place(300, 0, 400, 300)),
        ((640, 480), (320, 800), Place(0, 280, 320, 240)),
        ((1280, 720), (853, 480), Place(0, 0, 853, 480)),
        ((1, 1000), (5, 10), Place(2, 0, 1, 10)),
    ],
)
def test_a_picture_lies_whole_and_undistorted_in_any_window(shape, window, place) -> None:
    assert place_in(shape, window) == place
    picture = np.full((place.height, place.width, 3), 9, np.uint8)
    canvas = add_bars(picture, place, window)
    assert canvas.shape == (window[1], window[0], 3)
    inside = canvas[place.top : place.top + place.height, place.left : place.left + place.width]
    assert (inside == 9).all()
    assert canvas.sum() == picture.sum(), "black around it"


def test_points_of_the_window_are_points_of_the_picture() -> None:
    place = place_in((640, 480), (1000, 300))
    assert place.point(299, 10) is None
    assert place.point(700, 10) is None
    assert place.point(300, 0) == pytest.approx((0.5 / 400, 0.5 / 300))
    x, y = place.point(699, 299)
    assert (int(x * 640), int(y * 480)) == (639, 479)
    assert place.point(500, 150) == pytest.approx((0.50125, 0.50167), abs=1e-4)


def test_a_picture_too_large_for_the_screen_is_averaged() -> None:
    fine = np.zeros((2160, 3840, 3), np.uint8)
    fine[::2] = 200
    small = scale(fine, (1728, 972))
    assert small.shape == (972, 1728, 3)
    assert np.abs(small.astype(int) - 100).max() < 25, "no row is left out"
    assert scale(small, (1728, 972)) is small
