"""A container being written: one stream of pictures, and the sound that goes along."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from rtseg.sinks.audio import Sound

HELD_BACK = 32
"""Frames that an encoder may look ahead at before the first comes out, at these settings."""


class Muxer:
    """Encodes pictures and writes their packets, each with its duration, sound alongside.

    Args:
        output: the open `av` container, its header begun.
        stream: the one stream of pictures in it.
        time_base: seconds of one tick of the pictures' times.
        sound: what goes along, if anything does.
    """

    def __init__(self, output: Any, stream: Any, time_base: Fraction, sound: Sound | None) -> None:
        self._output, self._stream = output, stream
        self._time_base, self._sound = time_base, sound
        self._held: Any = None
        self._frames = self._written = 0

    def encoded(self, image: Any, tick: int) -> Iterable[Any]:
        """Give the encoder an `av.VideoFrame`, and return the packets that come out for it."""
        image.pts, image.time_base = tick, self._time_base
        packets: Iterable[Any] = self._stream.encode(image)
        self._frames += 1
        return packets

    def mux(self, packets: Iterable[Any]) -> None:
        """Write each packet once the next is known, and so its duration; sound goes alongside."""
        for packet in packets:
            if self._held is not None:
                self._held.duration = packet.pts - self._held.pts
                self._write(self._held)
            self._held = packet

    def bytes_to_finish(self) -> int:
        """Room that `finish` may need: for what the encoder still holds back, and the index."""
        mean = self._written // max(1, self._frames - HELD_BACK)
        return HELD_BACK * mean + 64 * self._frames

    def finish(self, end: int) -> None:
        """Write what is held back, the last picture until `end`, the sound's rest and the index."""
        self.mux(self._stream.encode(None))
        if self._held is not None:
            self._held.duration = end - self._held.pts
            self._write(self._held)
            self._held = None
        if self._sound is not None:
            self._write_sound(self._sound.rest(Fraction(end) * self._time_base))
        self._output.close()

    def _write(self, packet: Any) -> None:
        due = (packet.pts + packet.duration) * self._time_base
        self._written += packet.size
        self._output.mux(packet)
        if self._sound is not None:
            self._write_sound(self._sound.until(due))

    def _write_sound(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            try:
                self._output.mux(packet)
            except ValueError as error:  # a packet that the container refuses, not a full disk
                assert self._sound is not None
                self._sound.drop(error)
                return
