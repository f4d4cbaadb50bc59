"""What a person keeps of a live run: screenshots and recordings, which no frame waits for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from rtseg.contracts import Rendered
from rtseg.errors import RtsegError
from rtseg.live.aside import Aside
from rtseg.live.notices import Notices
from rtseg.live.screenshot import save
from rtseg.session.recording import Recorder

MOST_WAITING = 8
"""Frames that a key held down may keep in memory."""


class Keeping:
    """Writes files beside the run, and says what came of them.

    Args:
        recorder: one of the run's sinks.
        aside: packs screenshots.
        folder: where these go.
        now: the wall clock, for file names.
    """

    def __init__(
        self,
        recorder: Recorder,
        aside: Aside,
        notices: Notices,
        folder: Path = Path(),
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.recorder = recorder
        recorder.told, recorder.failed = notices.wrote, self._recording_failed
        self._aside, self._notices = aside, notices
        self._folder, self._now = folder, now

    def turn(self) -> None:
        """Between frames: tell of files that are finished."""
        self._aside.turn()

    def screenshot(self, rendered: Rendered, view: str | None) -> None:
        """Write a frame as picture, mask and `view`; not while many are still being written.

        Without a view the picture is all there is.
        """
        if self._aside.left >= MOST_WAITING:
            self._notices.say("the last screenshots are still being written")
            return
        self._aside.begin(
            save(rendered, view, self._folder, self._now()),
            lambda paths: self._notices.wrote(", ".join(map(str, paths))),
            lambda error: self._notices.warn(str(error)),
        )

    def record(self, *, transparent: bool) -> None:
        """Start to record, or finish the file."""
        if self.recorder.recording:
            if not self.recorder.stop():
                self._notices.say("nothing was recorded")
            return
        try:
            path = self.recorder.start(transparent=transparent)
            self._notices.say(f"recording {path}, r finishes it")
        except (RtsegError, OSError) as error:
            self._notices.warn(f"cannot record: {error}")

    def _recording_failed(self, error: RtsegError) -> None:
        self._notices.warn(f"the recording has ended: {error}")
