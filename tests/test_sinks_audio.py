"""Sound: copied, cut, in time with the picture, transcoded where it must be."""

from __future__ import annotations

import http.server
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from threading import Thread

import av
import numpy as np
import pytest
from sink_frames import clip_info, info, packets, picture, rendered, sound, write

from rtseg.sinks import audio
from rtseg.sources import SourceOptions, open_source

CLIPS = [
    "intel_car-detection.mp4", "liveportrait_d9.mp4", "liveportrait_d18.mp4",
    "omz_human_pose_video.avi", "pyscenedetect_aspect-ratio.mp4", "imageio_realshort.mp4",
]  # fmt: skip
CONTAINERS = [".mp4", ".mkv", ".webm", ".avi"]


def copy(source: Path, path: Path, start: float = 0.0, seconds: float | None = None, **options):
    """Write as many small pictures as the cut of the clip has, with its sound."""
    about = clip_info(source, start)
    whole = seconds is None
    count = len(packets(source, "video")) if whole else round(seconds * about.frame_rate)
    small = picture(0, (32, 48))
    frames = (rendered(i, float(i / about.frame_rate), image=small) for i in range(count))
    return write(str(path), frames, about, **options)


def tone(path: Path, *, codec: str = "aac", offset: float = 0.0, seconds: float = 4.0) -> Path:
    """A clip at 25 fps whose sound is a chirp (so that any shift is seen), `offset` late."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        audio = output.add_stream(codec, rate=48_000)
        audio.codec_context.layout = "stereo"
        for index in range(round(seconds * 25)):
            image = av.VideoFrame.from_ndarray(picture(index, (32, 48)), "bgr24")
            image.pts, image.time_base = index, Fraction(1, 25)
            output.mux(video.encode(image))
        output.mux(video.encode(None))
        samples = chirp(seconds)
        frame = av.AudioFrame.from_ndarray(np.stack([samples, samples]), "fltp", layout="stereo")
        frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
        frame.pts = round(offset * 48_000)
        output.mux(audio.encode(frame))
        output.mux(audio.encode(None))
    return path


def chirp(seconds: float, rate: int = 48_000) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * math.pi * (200 * t + 300 * t * t))).astype(np.float32)


def lag(path: Path, reference: np.ndarray, at: float, seconds: float = 0.4) -> float:
    """By how many seconds the file's sound is late against `reference`, both at 48 kHz.

    `at` is the time in the file of the piece that is compared; found by correlation.
    """
    samples, rate, start = sound(path)
    assert rate == 48_000
    begin = round((at - start) * rate)
    piece = samples[begin : begin + round(seconds * rate)]
    best = np.correlate(reference, piece, "valid")
    assert best.max() > 0.9 * float(piece @ piece), "it is the same sound"
    return float(-np.argmax(best)) / rate


@pytest.mark.parametrize("name", CLIPS)
def test_mp4_holds_the_very_packets(name, data, tmp_path) -> None:
    source, path = data / "videos" / name, tmp_path / "out.mp4"
    assert "sound" not in copy(source, path)
    theirs, ours = packets(source, "audio"), packets(path, "audio")
    assert [bytes(p) for p in ours] == [bytes(p) for p in theirs]
    for a, b in ((theirs[0], ours[0]), (theirs[-1], ours[-1])):
        assert float(a.pts * a.time_base) == pytest.approx(float(b.pts * b.time_base), abs=0.001)
    with av.open(str(source)) as a, av.open(str(path)) as b:
        first, second = a.streams.audio[0], b.streams.audio[0]
        assert float(second.start_time * second.time_base) == pytest.approx(
            float(first.start_time * first.time_base), abs=0.001
        )
        assert b.duration / 1e6 == pytest.approx(a.duration / 1e6, abs=0.04)


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".avi"])
@pytest.mark.parametrize("name", ["liveportrait_d18.mp4", "imageio_realshort.mp4"])
def test_other_containers_keep_all_of_it(name, suffix, data, tmp_path) -> None:
    source, path = data / "videos" / name, tmp_path / f"out{suffix}"
    assert "sound" not in copy(source, path)
    a, rate_a, start_a = sound(source)
    b, rate_b, start_b = sound(path)
    assert start_b == pytest.approx(start_a, abs=0.024)
    assert len(b) / rate_b == pytest.approx(len(a) / rate_a, abs=0.05)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.name == {
            ".mkv": "aac", ".webm": "opus", ".avi": "aac" if "real" in name else "pcm_s16le",
        }[suffix]  # fmt: skip


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("start", [0.0, 0.52, 2.6])
def test_a_cut_begins_and_ends_with_the_picture(start, suffix, tmp_path) -> None:
    source, path = tone(tmp_path / "source.mp4"), tmp_path / f"out{suffix}"
    assert "sound" not in copy(source, path, start, 1.0)
    heard = chirp(4.0)
    for at in (0.1, 0.5):
        # against the source from `start` on: 0 is in time; chirps tell every shift
        reference = heard[round((start + at - 0.05) * 48_000) : round((start + at + 0.6) * 48_000)]
        assert lag(path, reference, at) == pytest.approx(-0.05, abs=0.0015)
    samples, rate, begin = sound(path)
    # FFmpeg 9 leaves the first packet in Matroska out, as the delay of an encoder
    assert -0.03 <= begin <= 0.036
    assert begin + len(samples) / rate == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_sound_that_begins_late_stays_late(suffix, tmp_path) -> None:
    source, path = tone(tmp_path / "source.mkv", offset=0.7), tmp_path / f"out{suffix}"
    copy(source, path, 0.0, 3.0)
    assert lag(path, chirp(4.0)[: round(0.8 * 48_000)], 0.9) == pytest.approx(-0.2, abs=0.0025)


def test_a_packet_hours_after_the_picture_is_left_out(tmp_path) -> None:
    lost = tone(tmp_path / "lost.mkv", codec="mp2", seconds=1, offset=1_000_000)
    assert "42 packets left out" in copy(lost, tmp_path / "o.mp4")
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert container.duration < 2_000_000


def test_packets_come_along_with_the_pictures_and_not_after_them(data, tmp_path) -> None:
    path = tmp_path / "out.mkv"
    copy(data / "videos/liveportrait_d18.mp4", path)
    with av.open(str(path)) as container:
        kinds = [packet.stream.type for packet in container.demux() if packet.size]
    for half in (kinds[: len(kinds) // 2], kinds[len(kinds) // 2 :]):
        assert half.count("audio") / len(half) == pytest.approx(310 / 526, abs=0.05)


@pytest.mark.parametrize(
    ("codec", "suffix", "becomes"),
    [("pcm_s16le", ".mp4", "aac"), ("libmp3lame", ".webm", "opus"), ("flac", ".avi", "pcm_s16le"),
     ("libopus", ".webm", "opus"), ("flac", ".mkv", "flac"), ("libmp3lame", ".mp4", "mp3float")],
)  # fmt: skip
def test_what_each_container_holds(codec, suffix, becomes, tmp_path) -> None:
    source, path = tone(tmp_path / "source.mkv", codec=codec), tmp_path / f"out{suffix}"
    assert "sound" not in copy(source, path)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.name == becomes
    assert lag(path, chirp(4.0)[: 3 * 48_000], 1.0) == pytest.approx(-1.0, abs=0.0015)


def test_all_tracks_are_kept(tmp_path) -> None:
    one, source, path = tone(tmp_path / "one.mkv"), tmp_path / "two.mkv", tmp_path / "out.mp4"
    with av.open(str(one)) as a, av.open(str(source), "w") as b:
        video, audio = a.streams.video[0], a.streams.audio[0]
        streams = [b.add_stream_from_template(video, opaque=True)]
        streams += [b.add_stream_from_template(audio) for _ in range(2)]
        for packet in a.demux(video, audio):
            if packet.size and packet.stream is video:
                packet.stream = streams[0]
                b.mux(packet)
            elif packet.size:
                content, base = bytes(packet), packet.time_base
                for stream in streams[1:]:
                    twin = av.Packet(content)
                    twin.pts, twin.dts, twin.time_base = packet.pts, packet.dts, base
                    twin.duration, twin.stream = packet.duration, stream
                    b.mux(twin)
    copy(source, path)
    with av.open(str(path)) as container:
        assert len(container.streams.audio) == 2


def test_audio_none(data, tmp_path) -> None:
    path = tmp_path / "out.mp4"
    copy(data / "videos/imageio_realshort.mp4", path, audio="none")
    with av.open(str(path)) as container:
        assert not container.streams.audio


def test_a_live_source_or_a_silent_file_has_no_sound(data, tmp_path) -> None:
    for number, media in enumerate((None, data / "videos/intel_asl_eat.mkv")):
        path = tmp_path / f"{number}.mp4"
        assert "sound" not in write(str(path), map(rendered, range(5)), info(media=media))
        with av.open(str(path)) as container:
            assert not container.streams.audio


@pytest.mark.parametrize("broken", ["missing", "text", "cut"])
def test_broken_sound_never_loses_the_picture(broken, tmp_path) -> None:
    media, path = tmp_path / "media.mkv", tmp_path / "out.mp4"
    if broken == "text":
        media.write_text("not a video")
    if broken == "cut":
        content = bytearray(tone(media, codec="flac").read_bytes())
        content[len(content) // 3 : -500] = bytes(len(content) * 2 // 3 - 500 + len(content) % 3)
        media.write_bytes(content)
    small = picture(0, (32, 48))
    frames = [rendered(i, i / 25, image=small) for i in range(100)]
    summary = write(str(path), frames, info(Fraction(25), media=media))
    assert len(packets(path, "video")) == 100
    if broken != "cut":
        assert "sound incomplete" in summary


def test_an_error_while_decoding_is_told_and_ends_the_sound(tmp_path, monkeypatch) -> None:
    source, path = tone(tmp_path / "source.mkv", codec="pcm_s16le"), tmp_path / "out.mp4"

    def fail(*_: object) -> None:
        raise av.error.InvalidDataError(1, "Invalid data found")

    monkeypatch.setattr(audio.EncodedTrack, "_encode", fail)
    assert "sound incomplete: Invalid data found" in copy(source, path)
    assert len(packets(path, "video")) == 100


def encoded(
    path: Path,
    video: str,
    audio: str,
    seconds: float = 2.0,
    sounds: float = 2.0,
    options: dict[str, str] | None = None,
) -> Path:
    """A clip at 25 fps in any codecs, whose chirp may last longer than the picture."""
    with av.open(str(path), "w", container_options=options or {}) as output:
        pictures = output.add_stream(video, rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 48, 32, "yuv420p"
        track = output.add_stream(audio, rate=48_000)
        track.codec_context.layout, track.codec_context.bit_rate = "mono", 128_000
        for index in range(round(seconds * 25)):
            image = av.VideoFrame.from_ndarray(picture(index, (32, 48)), "bgr24")
            image.pts, image.time_base = index, Fraction(1, 25)
            output.mux(pictures.encode(image))
        output.mux(pictures.encode(None))
        form = track.codec_context.format.name
        frame = av.AudioFrame.from_ndarray(chirp(sounds)[None], "fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 48_000, Fraction(1, 48_000), 0
        resampler = av.AudioResampler(form, "mono", 48_000)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(track.encode(part))
        output.mux(track.encode(None))
    return path


def test_sound_whose_last_samples_have_no_time_is_kept(tmp_path) -> None:
    source = encoded(tmp_path / "in.wmv", "wmv2", "wmav2")
    assert "sound incomplete" not in copy(source, tmp_path / "out.mp4")
    samples, rate, _ = sound(tmp_path / "out.mp4")
    assert len(samples) / rate == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("flags", ["frag_keyframe", "frag_keyframe+empty_moov", "dash"])
def test_the_beginning_of_the_sound_of_a_fragmented_file_is_kept(flags, tmp_path) -> None:
    source = encoded(tmp_path / "in.mp4", "libx264", "aac", options={"movflags": flags})
    copy(source, tmp_path / "out.mp4")
    samples, rate, at = sound(tmp_path / "out.mp4")
    assert at == pytest.approx(0, abs=0.001)
    assert np.abs(samples[: rate // 50]).max() > 0.2


def test_a_track_that_nothing_decodes_is_left_out_and_told(tmp_path) -> None:
    source = tmp_path / "in.mov"
    with av.open(str(source), "w") as output:
        video = output.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        tracks = [output.add_stream("pcm_s16le", rate=48_000) for _ in "ab"]
        for track in tracks:
            track.codec_context.layout = "mono"
        for index in range(25):
            image = av.VideoFrame.from_ndarray(picture(index, (32, 48)), "bgr24")
            image.pts, image.time_base = index, Fraction(1, 25)
            output.mux(video.encode(image))
        output.mux(video.encode(None))
        for track in tracks:
            values = (chirp(1.0) * 30_000).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(values, "s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = 48_000, Fraction(1, 48_000), 0
            output.mux(track.encode(frame))
            output.mux(track.encode(None))
    content = source.read_bytes()
    at = content.rindex(b"sowt")
    source.write_bytes(content[:at] + b"apac" + content[at + 4 :])
    assert "no decoder" in copy(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as output:
        assert len(output.streams.video) == len(output.streams.audio) == 1


def test_a_fault_of_any_kind_in_the_sound_is_told_and_the_picture_kept(
    tmp_path, monkeypatch
) -> None:
    def fails(*_: object) -> None:
        raise TypeError("unsupported operand")

    monkeypatch.setattr(audio.CopiedTrack, "take", fails)
    assert "unsupported operand" in copy(tone(tmp_path / "in.mp4"), tmp_path / "out.mp4")
    assert len(packets(tmp_path / "out.mp4", "video")) == 100


def test_avi_does_not_make_the_sound_early(tmp_path) -> None:
    source = encoded(tmp_path / "in.avi", "libx264", "pcm_s16le")
    copy(source, tmp_path / "out.mkv")
    assert lag(tmp_path / "out.mkv", chirp(2.0), 1.0) + 1.0 == pytest.approx(0, abs=0.01)


def test_a_tail_of_sound_is_kept_whatever_the_container_tells(tmp_path) -> None:
    for suffix in (".mp4", ".mkv"):
        source = encoded(tmp_path / f"in{suffix}", "libx264", "aac", sounds=3.0)
        copy(source, tmp_path / "out.mp4", overwrite=True)
        samples, rate, _ = sound(tmp_path / "out.mp4")
        assert len(samples) / rate == pytest.approx(3.0, abs=0.1)


class Serving(http.server.BaseHTTPRequestHandler):
    """Files of a folder, whole, or with `ranges` what is asked for of them."""

    folder: Path
    ranges: bool

    def do_GET(self) -> None:
        content = (self.folder / self.path.lstrip("/")).read_bytes()
        begin = int((self.headers["Range"] or "bytes=0-").split("=")[1].split("-")[0])
        partly = self.ranges and begin > 0
        self.send_response(206 if partly else 200)
        rest = content[begin:] if partly else content
        if partly:
            where = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", where)
        if self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        with suppress(ConnectionError):  # who seeks hangs up
            self.wfile.write(rest)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path, *, ranges: bool) -> Iterator[str]:
    handler = type("Handler", (Serving,), {"folder": folder, "ranges": ranges})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("start", [None, 3.0])
@pytest.mark.parametrize(("name", "ranges"), [("a.mp4", True), ("a.mkv", True), ("a.mkv", False)])
def test_a_recording_behind_an_address_keeps_its_sound(
    name: str, ranges: bool, start: float | None, tmp_path: Path
) -> None:
    source = tone(tmp_path / name, seconds=5.0)
    options = SourceOptions(start=start)
    for number, folder in enumerate((str(tmp_path), "served")):
        with served(tmp_path, ranges=ranges) as address:
            target = f"{folder}/{name}" if folder != "served" else f"{address}/{name}"
            with open_source(target, options) as frames:
                shown = (rendered(f.index, f.pts, image=f.image) for f in frames)
                assert "sound" not in write(str(tmp_path / f"{number}.mp4"), shown, frames.info)
    local, remote = (packets(tmp_path / f"{number}.mp4", "audio") for number in (0, 1))
    assert [bytes(p) for p in remote] == [bytes(p) for p in local]
    assert [p.pts for p in remote] == [p.pts for p in local]
    assert len(local) * 1024 / 48_000 == pytest.approx(5.0 - (start or 0), abs=0.1)
    assert source.exists()


def test_sound_behind_an_address_that_is_lost_costs_no_picture(tmp_path: Path) -> None:
    about = replace(info(Fraction(25)), media="http://127.0.0.1:9/a.mp4")
    frames = (rendered(i, i / 25, image=picture(i, (32, 48))) for i in range(5))
    assert "sound" in write(str(tmp_path / "out.mp4"), frames, about)
    assert len(packets(tmp_path / "out.mp4", "video")) == 5
