"""A camera: opened in the format that keeps up, and found again when it was unplugged."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import cv2

from rtseg.clock import Clock
from rtseg.contracts import SourceInfo
from rtseg.errors import SourceError
from rtseg.sources.capture import nominal_rate, open_capture
from rtseg.sources.formats import USUAL_RATE, Trial, ask_for, settle
from rtseg.sources.live import LiveSource
from rtseg.sources.options import SourceOptions
from rtseg.sources.plugged import Whereabouts

BACKEND = cv2.CAP_V4L2 if sys.platform.startswith("linux") else cv2.CAP_ANY

FIRST_TRIES = 10
"""Some cameras give nothing for the first few reads after they were set."""


class CameraSource(LiveSource):
    """A camera by its index or device path; `info.notes` says what was asked of it and what came.

    Unplugged, it is waited for, also under another number where the system tells that it is the
    same device, and asked again for what it gave before.

    Raises:
        SourceError: it is absent, in use or not permitted, or gives no picture.
    """

    def __init__(
        self,
        target: str,
        options: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
        clock: Clock | None = None,
    ) -> None:
        super().__init__(options, clock)
        self._where, self._opened = Whereabouts(target), target
        self._name = f"camera {target}"
        self._capture = capture = open_camera(target)
        if capture is None:
            raise cannot_open(target)
        trials = settle(capture, options, self.clock)
        self._wanted = replace(options, fourcc=trials[0].asked)
        width, height = self._first_size()
        self.info = SourceInfo(
            self._name,
            width,
            height,
            nominal_rate(capture),
            live=True,
            notes=tuple(describe(options, trials, (width, height))),
        )

    def _first_size(self) -> tuple[int, int]:
        """(width, height) of the first picture, which is left: nobody wants one so old."""
        picture = next(filter(None, (self._grab() for _ in range(FIRST_TRIES))), None)
        if picture is None:
            self._release()
            raise SourceError(
                f"cannot use {self._name}",
                found="it opened, but gave no picture",
                do="Try another --width, --height or --fourcc",
            )
        height, width = picture[0].shape[:2]
        return width, height

    def _open(self) -> cv2.VideoCapture | None:
        target = self._where.now()
        capture = None if target is None else open_camera(target)
        if target is None or capture is None:
            return None
        if target != self._opened:
            self._opened = target
            self.warnings.append(f"{self._name} came back as camera {target}")
        ask_for(capture, self._wanted)
        return capture


def open_camera(target: str) -> cv2.VideoCapture | None:
    """A camera by its number or device path, as it is; None when it does not open."""
    return open_capture(int(target) if target.isdecimal() else target, BACKEND)


def describe(options: SourceOptions, trials: list[Trial], size: tuple[int, int]) -> list[str]:
    """What was asked and what came; only what came where nothing was asked.

    Args:
        trials: the one that is used, then those that were not.
        size: (width, height) of the pictures that really come.
    """
    used = replace(trials[0], mode=replace(trials[0].mode, width=size[0], height=size[1]))
    asked = _asked(options)
    if not asked:
        return [f"got {used.words()}"]
    notes = [f"asked {asked}, got {used.words()}"]
    for trial in trials[1:]:
        missed = trial.shortfall(options, options.fps or USUAL_RATE)
        notes.append(f"{trial.mode.fourcc} was left: {missed}")
    if missed := used.shortfall(options, options.fps or 0.0):
        notes.append(f"not what was asked: {missed}; `rtseg cameras` lists the modes it has")
    return notes


def _asked(options: SourceOptions) -> str:
    size = f"{options.width or '?'}x{options.height or '?'}"
    rate = f"at {options.fps:g} fps" if options.fps else ""
    sized = options.width or options.height
    return " ".join(filter(None, (size if sized else "", rate, options.fourcc)))


def device_path(target: str) -> Path | None:
    """The device file of a camera, where systems have such files."""
    if not target.isdecimal():
        return Path(target)
    return Path(f"/dev/video{target}") if sys.platform.startswith("linux") else None


def cannot_open(target: str) -> SourceError:
    """Why a camera does not open, as far as its device file tells."""
    asked = f"cannot open camera {target}"
    path = device_path(target)
    if path is not None and not path.exists():
        return SourceError(
            asked,
            found=f"there is no {path}",
            do="Plug it in; `rtseg cameras` lists those that are there",
        )
    if path is not None and not os.access(path, os.R_OK | os.W_OK):
        return SourceError(
            asked,
            found=f"no permission for {path}",
            do="Join its group, as with `sudo usermod -aG video $USER`, and log in again",
        )
    return SourceError(
        asked,
        found="it is absent, or in use by another program",
        do="Close other programs that show it; `rtseg cameras` lists those that are there",
    )
