"""In which format a camera gives its pictures in time: asked for, read back, and measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2

from rtseg.clock import Clock
from rtseg.sources.capture import ask, fourcc_text
from rtseg.sources.modes import Mode, current_mode
from rtseg.sources.options import SourceOptions

AUTO = "auto"

PREFERRED = "MJPG"
"""A cable that carries ten raw pictures of 1280x720 a second carries thirty compressed ones."""

USUAL_RATE = 30.0
"""What is wanted where a size is asked for, but no rate."""

ENOUGH = 0.9
"""Of the asked rate: half a second of pictures does not tell it better."""

MEASURED_SECONDS = 0.5
MEASURED_PICTURES = 600
"""A device that gives pictures quicker than any camera is not listened to for longer."""


@dataclass(frozen=True)
class Trial:
    """What came when a camera was asked for a format.

    Attributes:
        asked: its fourcc; None when it was left alone.
        mode: what it says of itself then.
        measured: frames per second that came; None when that was not looked at, or nothing came.
    """

    asked: str | None
    mode: Mode
    measured: float | None = None

    @property
    def rate(self) -> float:
        """Frames per second: measured, else as it says itself, else 0."""
        claimed = float(self.mode.rates[0]) if self.mode.rates else 0.0
        return claimed if self.measured is None else self.measured

    def words(self) -> str:
        """ "1280x720 at 30 fps MJPG, measured 29.9 fps"."""
        rates = f"at {float(self.mode.rates[0]):g} fps" if self.mode.rates else ""
        size = f"{self.mode.width}x{self.mode.height}"
        text = " ".join(filter(None, (size, rates, self.mode.fourcc)))
        return text if self.measured is None else f"{text}, measured {self.measured:.1f} fps"

    def shortfall(self, options: SourceOptions, rate: float) -> str:
        """In what it is less than what was asked for, and `rate`, in words; "" when it is not."""
        size = f"{self.mode.width}x{self.mode.height}"
        missed = [f"it gave {size}"] if _distance(self.mode, options) else []
        if options.fourcc not in (None, AUTO, self.mode.fourcc):
            missed.append(f"it gave {self.mode.fourcc or 'no format that it tells'}")
        if self.rate < ENOUGH * rate:
            missed.append(f"{self.rate:.1f} fps came")
        return ", ".join(missed)


def settle(capture: cv2.VideoCapture, options: SourceOptions, clock: Clock) -> list[Trial]:
    """Ask for what is wanted, and leave the camera in the best of the formats tried.

    A named format is the only one; else, or with "auto", MJPG goes first, and the camera's own is
    tried where that falls short. Where nothing is wanted the camera keeps its own, and is not
    measured.

    Returns:
        The trial that is used, then the others.
    """
    own = fourcc_text(capture.get(cv2.CAP_PROP_FOURCC))
    if not (options.width or options.height or options.fps or options.fourcc):
        ask(capture)
        return [Trial(None, current_mode(capture))]
    named = options.fourcc not in (None, AUTO)
    trials = [_tried(capture, options.fourcc if named else PREFERRED, options, clock)]
    enough = not trials[0].shortfall(options, options.fps or USUAL_RATE)
    if not (enough or named or trials[0].mode.fourcc == own):
        trials.append(_tried(capture, own, options, clock))
    best = min(trials, key=lambda trial: _rank(trial, options))
    if best is not trials[-1]:
        _tried(capture, best.asked, options, None)
    return [best, *(trial for trial in trials if trial is not best)]


def ask_for(capture: cv2.VideoCapture, options: SourceOptions) -> None:
    """Ask a camera for what the options say; what they leave open stays as it is."""
    size = {"width": options.width, "height": options.height}
    ask(capture, **size, fps=options.fps, fourcc=options.fourcc)


def _tried(
    capture: cv2.VideoCapture, fourcc: str | None, options: SourceOptions, clock: Clock | None
) -> Trial:
    ask_for(capture, replace(options, fourcc=fourcc))
    measured = measure_rate(capture, MEASURED_SECONDS, clock) if clock else None
    return Trial(fourcc, current_mode(capture), measured)


def _rank(trial: Trial, options: SourceOptions) -> tuple[int, float]:
    """Less is better: first the size, then the rate as far as it is wanted."""
    return _distance(trial.mode, options), -min(trial.rate, options.fps or USUAL_RATE)


def _distance(mode: Mode, options: SourceOptions) -> int:
    """Pixels between the sides asked for and those that came."""
    width, height = options.width or mode.width, options.height or mode.height
    return abs(mode.width - width) + abs(mode.height - height)


def measure_rate(
    capture: cv2.VideoCapture, seconds: float = 1.0, clock: Clock | None = None
) -> float | None:
    """Frames per second that really come; None when none or only one comes.

    The first frame starts the count: what a camera needs to wake up is not its rate.
    """
    clock = clock or Clock()
    if not capture.grab():
        return None
    begun, count = clock.now(), 0
    while clock.now() - begun < seconds and count < MEASURED_PICTURES and capture.grab():
        count += 1
    elapsed = clock.now() - begun
    return count / elapsed if count and elapsed > 0 else None
