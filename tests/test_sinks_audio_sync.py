"""Sound of every kind stays in time with the picture: a click is where a flash is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from sink_frames import rendered, write
from test_sinks_audio import served

from rtseg.cli.app import main
from rtseg.files import leftovers
from rtseg.sources import SourceOptions, open_source

MARKS = (0.52, 1.28)
"""Seconds at which it clicks and flashes."""

SECONDS, RATE = 1.6, 48_000
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
VIDEO_CODECS = {".webm": "libvpx", ".mpg": "mpeg2video"}


class Sound:
    """A track to be made.

    Args:
        begin: seconds at which it begins.
        lost, bad: numbers of packets that are missing, or hold garbage.
        wrong: seconds to add to the times of packets.
    """

    def __init__(
        self,
        codec: str,
        rate: int = RATE,
        layout: str = "stereo",
        *,
        form: str | None = None,
        begin: float = 0.0,
        seconds: float = SECONDS,
        lost: Iterable[int] = (),
        bad: Iterable[int] = (),
        wrong: dict[int, float] | None = None,
        tags: dict[str, str] | None = None,
        flags: Disposition = Disposition(0),  # noqa: B008 - immutable
    ) -> None:
        self.codec, self.rate, self.layout, self.form = codec, rate, layout, form
        self.begin, self.seconds = begin, seconds
        self.lost, self.bad, self.wrong = set(lost), set(bad), wrong or {}
        self.tags, self.flags = tags or {}, flags

    def add_to(self, output: Any) -> None:
        self.stream = output.add_stream(self.codec, rate=self.rate)
        self.stream.codec_context.layout = self.layout
        if self.form is not None:
            self.stream.codec_context.format = self.form
        self.stream.metadata.update(self.tags)
        self.stream.disposition = self.flags

    def packets(self) -> list[Any]:
        """All that are left, some of them garbage."""
        encoded: list[Any] = []
        for frame in self._frames():
            encoded += self.stream.encode(frame)
        for number, seconds in self.wrong.items():
            encoded[number].pts += round(seconds / encoded[number].time_base)
        kept = [packet for n, packet in enumerate(encoded) if n not in self.lost | self.bad]
        for packet in (packet for n, packet in enumerate(encoded) if n in self.bad):
            garbage = av.Packet(bytes(8) + bytes(packet)[8:])
            garbage.pts, garbage.dts, garbage.time_base = packet.pts, packet.dts, packet.time_base
            garbage.duration, garbage.stream = packet.duration, packet.stream
            kept.append(garbage)
        return kept

    def _frames(self) -> Iterable[Any]:
        times = np.arange(round(self.seconds * self.rate)) / self.rate + self.begin
        samples = 0.01 * np.sin(2 * np.pi * 200 * times)
        for mark in MARKS:
            since = times - mark
            click = 0.8 * np.sin(2 * np.pi * min(1500, self.rate / 5) * since)
            samples += np.where((since >= 0) & (since < 0.004), click, 0)
        channels = av.AudioLayout(self.layout).nb_channels
        every = np.repeat(samples.astype(np.float32), channels)
        for at in range(0, len(samples), 1024):
            piece = every[at * channels : (at + 1024) * channels].reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(piece, "flt", layout=self.layout)
            frame.sample_rate, frame.time_base = self.rate, Fraction(1, self.rate)
            frame.pts = at + round(self.begin * self.rate)
            yield frame
        yield None


def made(path: Path, *sounds: Sound, begin: float = 0.0, seconds: float = SECONDS) -> Path:
    """A clip at 25 fps, whose picture begins at `begin`."""
    as_is = {"avoid_negative_ts": "disabled"} if begin < 0 else {}
    with av.open(str(path), "w", container_options=as_is) as output:
        video: Any = output.add_stream(VIDEO_CODECS.get(path.suffix, "libx264"), rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        if path.suffix not in VIDEO_CODECS:
            video.options = {"bf": "0", "g": "12", "preset": "ultrafast"}
        for sound in sounds:
            sound.add_to(output)
        packets: list[Any] = []
        for index in range(round(seconds * 25)):
            at = begin + index / 25
            flash = any(mark - 1e-6 <= at < mark + 0.039 for mark in MARKS)
            image = np.full((48, 64, 3), 250 if flash else 16, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, "bgr24")
            frame.pts, frame.time_base = index + round(begin * 25), Fraction(1, 25)
            packets += video.encode(frame)
        packets += video.encode(None)
        for sound in sounds:
            packets += sound.packets()
        for packet in sorted(packets, key=lambda each: each.dts * each.time_base):
            output.mux(packet)
    return path


def copied(source: Path, path: Path, **options: Any) -> str:
    """Write every frame of a file with its sound; returns what is missing."""
    with open_source(str(source), SourceOptions(**options)) as frames:
        shown = (rendered(f.index, f.pts, image=f.image) for f in frames)
        return write(str(path), shown, frames.info, overwrite=True).split(str(path))[1]


def clicks(path: Path, track: int = 0) -> tuple[list[float], float]:
    """(times of the clicks, seconds that can be decoded) of a track."""
    found: list[float] = []
    heard = 0.0
    with av.open(str(path)) as container:
        stream = container.streams.audio[track]
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            for frame in frames:
                loud = _loudness(frame)
                heard += len(loud) / frame.sample_rate
                for at in np.flatnonzero(loud > 0.25) / frame.sample_rate:
                    when = float(frame.pts * frame.time_base) + at
                    if not found or when > found[-1] + 0.1:
                        found.append(when)
    return found, heard


def _loudness(frame: Any) -> Any:
    """Absolute samples of the first channel, at most 1."""
    kind, channels = frame.format.packed.name, frame.layout.nb_channels
    (packed,) = av.AudioResampler(kind, frame.layout, frame.sample_rate).resample(frame)
    samples = packed.to_ndarray().reshape(-1, channels)[:, 0].astype(np.float64)
    if kind == "u8":
        samples -= 128
    return np.abs(samples) / {"u8": 128, "s16": 2**15, "s32": 2**31}.get(kind, 1)


def flashes(path: Path) -> list[float]:
    """Times of the flashes. AVI has decoding times only."""
    with av.open(str(path)) as container:
        bright = [
            frame.to_ndarray(format="gray").mean() > 128 for frame in container.decode(video=0)
        ]
    with av.open(str(path)) as container:
        is_untimed = container.format.name == "avi"
        ticks = sorted(
            packet.dts if is_untimed else packet.pts
            for packet in container.demux(video=0)
            if packet.size
        )
        base = container.streams.video[0].time_base
    starts = [n for n, on in enumerate(bright) if on and not (n and bright[n - 1])]
    return [float(ticks[n] * base) for n in starts]


def sound_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def pictures(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def check(path: Path, count: int = len(MARKS), track: int = 0, slack: float = 0.005) -> float:
    """Assert that so many clicks are within 5 ms of their flashes; returns the seconds of sound."""
    heard, seconds = clicks(path, track)
    assert len(heard) == count
    assert heard == pytest.approx(flashes(path), abs=slack)
    return seconds


@pytest.mark.parametrize(
    ("rate", "becomes"), [(22_254, 22_050), (192_000, 96_000), (176_400, 96_000), (11_024, 11_025),
                          (6_000, 7_350), (5_512, 7_350)],
)  # fmt: skip
def test_a_rate_that_the_encoder_lacks_becomes_the_nearest(rate, becomes, tmp_path) -> None:
    source = made(tmp_path / "in.mkv", Sound("pcm_s16le", rate))
    assert "sound" not in copied(source, tmp_path / "out.mp4")
    assert check(tmp_path / "out.mp4") == pytest.approx(SECONDS, abs=2048 / becomes)
    with av.open(str(tmp_path / "out.mp4")) as output:
        assert output.streams.audio[0].codec_context.sample_rate == becomes


@pytest.mark.parametrize(
    ("layout", "suffix", "becomes"),
    [("mono", ".mp4", "mono"), ("5.1", ".webm", "5.1"), ("5.1(side)", ".mp4", "5.1"),
     ("7.1", ".mp4", "7.1"), ("6 channels", ".webm", "5.1"), ("16 channels", ".mp4", "stereo")],
)  # fmt: skip
def test_channels_are_kept_where_the_encoder_has_them(layout, suffix, becomes, tmp_path) -> None:
    source = made(tmp_path / "in.mkv", Sound("pcm_s16le", layout=layout))
    assert "sound" not in copied(source, tmp_path / f"out{suffix}")
    check(tmp_path / f"out{suffix}")
    with av.open(str(tmp_path / f"out{suffix}")) as output:
        assert output.streams.audio[0].codec_context.layout.name == becomes


@pytest.mark.parametrize(
    ("codec", "container"), [("pcm_u8", ".mkv"), ("pcm_s24le", ".mkv"), ("pcm_f64le", ".mkv"),
                             ("pcm_mulaw", ".mov"), ("adpcm_ms", ".avi")],
)  # fmt: skip
def test_sample_formats(codec, container, tmp_path) -> None:
    source = made(tmp_path / f"in{container}", Sound(codec))
    assert "sound" not in copied(source, tmp_path / "out.mp4")
    check(tmp_path / "out.mp4")


@pytest.mark.parametrize("suffix", [".mov", ".mkv", ".avi"])
def test_pcm_is_kept_to_the_bit(suffix, tmp_path) -> None:
    source = made(tmp_path / "in.mkv", Sound("pcm_s16le"))
    copied(source, tmp_path / f"out{suffix}")

    def samples(path: Path) -> Any:
        with av.open(str(path)) as container:
            return np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])

    assert np.array_equal(samples(tmp_path / f"out{suffix}"), samples(source))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sound_from_before_the_first_picture_is_kept(suffix, tmp_path) -> None:
    sound = Sound("aac", begin=0.0)
    source, path = made(tmp_path / "in.mkv", sound, begin=0.4, seconds=1.2), tmp_path / f"o{suffix}"
    assert "sound" not in copied(source, path)
    assert check(path) == pytest.approx(SECONDS, abs=0.05)
    assert flashes(path)[0] == pytest.approx(MARKS[0], abs=0.0025)
    # AVI has no start times: the first picture is repeated
    assert pictures(path) == (40 if suffix == ".avi" else 30)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_from_just_before_the_first_picture_is_kept(suffix, tmp_path) -> None:
    source = made(tmp_path / "in.mkv", Sound("mp2"), begin=0.08, seconds=1.52)
    copied(source, tmp_path / f"out{suffix}")
    assert check(tmp_path / f"out{suffix}") == pytest.approx(SECONDS, abs=0.03)
    assert flashes(tmp_path / f"out{suffix}")[0] == pytest.approx(MARKS[0], abs=0.003)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_pictures_before_0_that_matroska_gives_no_times_are_counted_back(suffix, tmp_path) -> None:
    source = made(tmp_path / "in.mkv", Sound("flac"), begin=-0.12)
    with av.open(str(source)) as container:
        assert [frame.pts for frame in container.decode(video=0)][:3] == [None] * 3
    copied(source, tmp_path / f"out{suffix}")
    check(tmp_path / f"out{suffix}")
    assert flashes(tmp_path / f"out{suffix}") == pytest.approx([m + 0.12 for m in MARKS], abs=0.001)


def test_pictures_before_0_behind_an_address_are_counted_back(tmp_path) -> None:
    made(tmp_path / "in.mkv", Sound("flac"), begin=-0.12)
    with served(tmp_path, ranges=True) as address, open_source(f"{address}/in.mkv") as frames:
        shown = (rendered(f.index, f.pts, image=f.image) for f in frames)
        assert "sound" not in write(str(tmp_path / "out.mkv"), shown, frames.info)
    check(tmp_path / "out.mkv")
    assert flashes(tmp_path / "out.mkv") == pytest.approx([m + 0.12 for m in MARKS], abs=0.001)


def test_sound_from_before_the_start_is_cut(tmp_path) -> None:
    source = made(tmp_path / "in.mkv", Sound("aac"), begin=0.4, seconds=1.2)
    copied(source, tmp_path / "out.mp4", start=0.6)  # at 1.0 of the sound
    assert check(tmp_path / "out.mp4", 1) == pytest.approx(SECONDS - 1.0, abs=0.06)
    assert flashes(tmp_path / "out.mp4")[0] == pytest.approx(MARKS[1] - 1.0, abs=0.001)


@pytest.mark.parametrize("start", [0.0, MARKS[0]])
@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("aac", ".mkv"), ("flac", ".mkv"), ("libmp3lame", ".mkv"), ("libmp3lame", ".mp4"),
     ("ac3", ".mkv"), ("libopus", ".webm"), ("libopus", ".mp4")],
)  # fmt: skip
def test_copied_sound_is_heard_from_the_first_picture_on(codec, suffix, start, tmp_path) -> None:
    """The packet that it begins in is kept, with those that its decoder needs, and hidden."""
    source, path = made(tmp_path / "in.mkv", Sound(codec)), tmp_path / f"out{suffix}"
    assert "sound" not in copied(source, path, start=start)
    assert clicks(path)[0] == pytest.approx([mark - start for mark in MARKS], abs=0.002)
    assert flashes(path) == pytest.approx([mark - start for mark in MARKS], abs=0.001)
    assert set(sound_packets(path)) <= set(sound_packets(source))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_copied_aac_of_a_stream_gets_a_header_in_place_of_its_own(suffix, tmp_path) -> None:
    copied(made(tmp_path / "in.ts", Sound("aac")), tmp_path / f"out{suffix}")
    check(tmp_path / f"out{suffix}")
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        head = container.streams.audio[0].codec_context.extradata
        first = next(container.demux(audio=0))
    assert head[:2] == b"\x11\x90"  # MPEG-4 AAC LC, 48 kHz, stereo
    assert not bytes(first).startswith(b"\xff")  # ADTS


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("libmp3lame", ".mp4"), ("libmp3lame", ".avi"), ("libmp3lame", ".mkv"), ("pcm_s16le", ".mov")],
)
def test_missing_packets_are_a_gap(codec, suffix, tmp_path) -> None:
    source = made(tmp_path / "in.mkv", Sound(codec, lost=range(30, 40)))
    assert "sound" not in copied(source, tmp_path / f"out{suffix}")
    check(tmp_path / f"out{suffix}")


@pytest.mark.parametrize(
    ("bad", "gaps", "at", "lasts"),
    [((5,), "a gap", 0.1, 24), ((0,), "a gap", 0.0, 34), ((30, 31, 40), "2 gaps", 0.7, 72)],
)  # the first one with the 10 ms by which the encoder is late
def test_a_damaged_packet_is_a_gap_as_long(bad, gaps, at, lasts, tmp_path) -> None:
    source = made(tmp_path / "in.mkv", Sound("mp2", begin=0.0101, bad=bad))  # from 0 on
    said = copied(source, tmp_path / "out.mp4")
    assert f"sound has {gaps}" in said
    assert f"{lasts} ms" in said
    assert f"{at} s" in said
    assert check(tmp_path / "out.mp4") == pytest.approx(SECONDS, abs=0.06)


@pytest.mark.parametrize("number", [0, 30])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_one_wrong_time_moves_nothing(number, suffix, tmp_path) -> None:
    source = made(tmp_path / "in.mkv", Sound("aac", wrong={number: 500.0}))
    copied(source, tmp_path / f"out{suffix}")
    assert check(tmp_path / f"out{suffix}") == pytest.approx(SECONDS, abs=0.06)
    with av.open(str(tmp_path / f"out{suffix}")) as output:
        assert output.duration / av.time_base == pytest.approx(SECONDS, abs=0.06)


def test_a_bad_track_harms_no_other(tmp_path) -> None:
    source = made(
        tmp_path / "in.mkv", Sound("aac"), Sound("mp2", bad=range(100)), Sound("pcm_s16le", 22_254)
    )
    summary = copied(source, tmp_path / "out.mp4")
    assert "sound track 2 incomplete" in summary
    assert summary.count("track") == 1
    for track in (0, 1):
        assert check(tmp_path / "out.mp4", track=track) == pytest.approx(SECONDS, abs=0.1)
    assert pictures(tmp_path / "out.mp4") == 40


def test_packets_that_the_container_refuses_are_left_out_and_told(tmp_path) -> None:
    source = made(tmp_path / "in.mkv", Sound("ac3", bad=(5, 6, 30)))
    assert "3 packets left out" in copied(source, tmp_path / "out.mp4")
    assert check(tmp_path / "out.mp4") == pytest.approx(SECONDS - 3 * 0.032, abs=0.04)
    assert pictures(tmp_path / "out.mp4") == 40


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "aac"), (".mkv", "flac"), (".webm", "flac")]
)
def test_language_title_and_flags_of_a_track_are_kept(suffix, codec, tmp_path) -> None:
    source = made(
        tmp_path / "in.mkv",
        Sound(codec, tags={"language": "deu"}),
        Sound(
            codec, tags={"language": "fra", "title": "Comment"},
            flags=Disposition.default | Disposition.comment,
        ),
    )  # fmt: skip
    copied(source, tmp_path / f"out{suffix}")
    with av.open(str(tmp_path / f"out{suffix}")) as output:
        one, two = output.streams.audio
        assert [each.metadata.get("language") for each in (one, two)] == ["deu", "fra"]
        assert two.metadata.get("name" if suffix == ".mp4" else "title") == "Comment"
        assert not one.disposition & Disposition.default
        assert two.disposition & Disposition.default
        if suffix == ".mkv":
            assert two.disposition & Disposition.comment


def joined(path: Path, parts: Sequence[float], codec: str) -> Path:
    """A clip, several times in a row in a transport stream, each from another time on."""
    clip = made(path.with_suffix(".mkv"), Sound(codec))
    content = b""
    for number, offset in enumerate(parts):
        part = path.with_suffix(f".{number}.ts")
        with av.open(str(clip)) as source, av.open(str(part), "w", format="mpegts") as output:
            streams = [output.add_stream_from_template(s, opaque=True) for s in source.streams]
            for packet in source.demux():
                if packet.dts is not None:
                    packet.pts += round(offset / packet.time_base)
                    packet.dts += round(offset / packet.time_base)
                    packet.stream = streams[packet.stream_index]
                    output.mux(packet)
        content += part.read_bytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("parts", [(60, 0), (0, 98), (20, 100, 60)])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_sound_follows_times_that_jump(parts, suffix, tmp_path) -> None:
    source = joined(tmp_path / "in.ts", parts, "aac")
    copied(source, tmp_path / f"out{suffix}")
    seconds = check(tmp_path / f"out{suffix}", 2 * len(parts))
    assert seconds == pytest.approx(SECONDS * len(parts), abs=0.15)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_sound_behind_what_is_written_is_reported(suffix, tmp_path) -> None:
    """Recordings in NUT that were joined byte for byte, which begin anew at 0."""
    source = made(tmp_path / "in.nut", Sound("mp2", seconds=3), seconds=3)
    assert "sound" not in copied(source, tmp_path / f"once{suffix}")
    source.write_bytes(2 * source.read_bytes())
    assert "packets left out, whose times jump back" in copied(source, tmp_path / f"twice{suffix}")


@pytest.mark.parametrize(
    ("later", "suffix"),
    [
        (Sound("aac"), ".mkv"),  # copied
        (Sound("aac"), ".avi"),
        (Sound("aac", 32_000, "mono"), ".mkv"),
        (Sound("libmp3lame", 44_100), ".mp4"),
    ],
)
@pytest.mark.parametrize("container", [".mkv", ".mp4", ".flv"])
def test_joined_files_have_their_sound(later, suffix, container, tmp_path) -> None:
    """Parts whose times begin anew, with other formats of sound."""
    if container == ".flv" and later.rate != 44_100:
        later = Sound(later.codec, 44_100, later.layout)
    first = made(tmp_path / f"one{container}", Sound("aac", 44_100))
    second = made(tmp_path / f"two{container}", later)
    (tmp_path / f"in{container}").write_bytes(
        first.read_bytes() + second.read_bytes() + first.read_bytes()
    )
    missing = copied(tmp_path / f"in{container}", tmp_path / f"out{suffix}")
    assert "sound" not in missing
    assert pictures(tmp_path / f"out{suffix}") == 3 * 40
    seconds = check(tmp_path / f"out{suffix}", 6)
    assert seconds == pytest.approx(3 * SECONDS, abs=0.1)


def test_sound_that_the_first_of_joined_files_lacks_is_reported(tmp_path) -> None:
    silent = made(tmp_path / "silent.mkv").read_bytes()
    heard = made(tmp_path / "heard.mkv", Sound("aac")).read_bytes()
    (tmp_path / "in.mkv").write_bytes(silent + heard)
    assert "sound incomplete" in copied(tmp_path / "in.mkv", tmp_path / "out.mkv")
    (tmp_path / "in.mkv").write_bytes(heard + silent + heard)
    assert "sound" not in copied(tmp_path / "in.mkv", tmp_path / "out.mkv")
    heard_at, _ = clicks(tmp_path / "out.mkv")
    shown_at = flashes(tmp_path / "out.mkv")
    assert heard_at == pytest.approx([*shown_at[:2], *shown_at[4:]], abs=0.005)


def test_a_part_of_a_joined_file_has_its_sound(tmp_path) -> None:
    copied(joined(tmp_path / "in.ts", (60, 0), "mp2"), tmp_path / "out.mp4", start=2.6, end=3.0)
    assert check(tmp_path / "out.mp4", 1) == pytest.approx(0.4, abs=0.06)
    clip = made(tmp_path / "in.mkv", Sound("aac"))
    clip.write_bytes(3 * clip.read_bytes())
    copied(clip, tmp_path / "out.mp4", start=2.6, end=3.0)
    assert check(tmp_path / "out.mp4", 1) == pytest.approx(0.4, abs=0.06)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi"])
def test_a_part_ends_with_its_picture_and_a_whole_clip_with_its_sound(suffix, tmp_path) -> None:
    source = made(tmp_path / "in.mkv", Sound("aac", seconds=2.5))
    copied(source, tmp_path / f"out{suffix}", end=1.0)
    assert check(tmp_path / f"out{suffix}", 1) == pytest.approx(1.0, abs=0.06)
    copied(source, tmp_path / f"out{suffix}")
    assert check(tmp_path / f"out{suffix}") == pytest.approx(2.5, abs=0.06)


@pytest.mark.parametrize("thinned", [["--every", "15"], ["--fps-cap", "0.7"]])
def test_a_clip_of_which_frames_are_left_out_keeps_all_of_its_sound(thinned, tmp_path) -> None:
    source = made(tmp_path / "in.mp4", Sound("aac"))
    out = tmp_path / "out.mp4"
    assert main([str(source), "-m", "stub", "-q", "-o", str(out), *thinned]) == 0
    assert clicks(out) == clicks(source)
    with av.open(str(out)) as container:
        (video,) = container.streams.video
        assert 1 < video.frames < 4
        assert float(video.duration * video.time_base) == pytest.approx(SECONDS, abs=0.001)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi"])
def test_sound_begins_with_the_first_picture_that_is_written(suffix, tmp_path) -> None:
    source, out = made(tmp_path / "in.mkv", Sound("aac")), tmp_path / f"out{suffix}"
    with open_source(str(source)) as frames:
        kept = (rendered(f.index, f.pts, image=f.image) for f in frames if f.pts > 0.4)
        write(str(out), kept, frames.info)
    assert flashes(out)[0] == pytest.approx(0.08, abs=0.001)
    assert check(out) == pytest.approx(SECONDS - 0.44, abs=0.06)


SOURCES = {
    ".mp4": "aac libmp3lame mp2 ac3 eac3 flac libopus alac",
    ".mov": "aac pcm_s16le pcm_s24le pcm_s16be alac pcm_mulaw adpcm_ima_qt",
    ".mkv": "aac libmp3lame mp2 ac3 eac3 flac libopus pcm_s16le pcm_u8 pcm_f32le",
    ".webm": "libopus",
    ".ts": "aac mp2 ac3 libmp3lame",
    ".mpg": "mp2 ac3",
    ".flv": "aac libmp3lame",
    ".avi": "pcm_s16le pcm_u8 adpcm_ms",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("container", "codec"),
    [(container, codec) for container, names in SOURCES.items() for codec in names.split()],
)
def test_every_codec_from_every_container_to_every_other(container, codec, tmp_path) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [({}, {})]
    if container not in (".avi", ".flv", ".mpg"):
        cases += [
            ({"seconds": 1.2, "begin": 0.4}, {}),  # the picture later
            ({}, {"begin": 0.3, "seconds": SECONDS - 0.3}),  # the sound later
        ]
        if not codec.startswith(("pcm", "adpcm")) or container != ".mov":  # it has no times for it
            cases.append(({}, {"lost": range(30, 40)}))
    for number, (video, audio) in enumerate(cases):
        source = made(tmp_path / f"in{number}{container}", Sound(codec, **audio), **video)
        marks = len(clicks(source)[0])
        for suffix in SUFFIXES:
            path = tmp_path / f"out{number}{suffix}"
            assert "sound" not in copied(source, path)
            check(path, marks)


KILLED = """
import os, sys
from rtseg.sources import SourceOptions, open_source
from sink_frames import rendered, info
from rtseg.labels import VOC
from rtseg.sinks import SinkOptions, open_sink
source, path, kill_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open_source(source, SourceOptions()) as frames:
    sink = open_sink(path, frames.info, VOC, SinkOptions())
    for frame in frames:
        sink.write(rendered(frame.index, frame.pts, image=frame.image))
        if frame.index == kill_at:
            sink._file._thread.finish()  # all until here has gone to the encoder
            os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        ("aac", ".mp4"),
        *(
            pytest.param(codec, suffix, marks=pytest.mark.slow)
            for codec, suffix in (
                ("pcm_s16le", ".mp4"),
                ("aac", ".mov"),
                ("pcm_s16le", ".mov"),
                ("aac", ".mkv"),
                ("libopus", ".webm"),
            )
        ),
    ],
)
@pytest.mark.slow
def test_what_a_killed_run_leaves_plays_in_time(codec: str, suffix: str, tmp_path: Path) -> None:
    """Pictures and clicks, at the times that the finished file has."""
    source = made(tmp_path / "in.mkv", Sound(codec, seconds=12), seconds=12)
    whole, killed = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    copied(source, whole)
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(source), str(killed), "274"],
        env={**os.environ, "PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert not killed.exists()
    (part,) = leftovers(killed)
    assert part.suffix == suffix
    times = times_of(part)
    assert len(times) > 175, "at most four seconds of eleven are lost"
    assert times == times_of(whole)[: len(times)]
    heard, seconds = clicks(part)
    assert heard == pytest.approx(clicks(whole)[0], abs=0.001)
    assert seconds > 7


def times_of(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [frame.pts * stream.time_base for frame in container.decode(stream)]
