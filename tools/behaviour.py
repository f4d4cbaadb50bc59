"""Record what the program does, to compare a rebuilt tree with the tree before it.

    python tools/behaviour.py record OUT.json [--tree DIR] [--cache DIR] [--only NAME,...]
    python tools/behaviour.py compare BEFORE.json AFTER.json [--texts]
    python tools/behaviour.py list

`record` runs every case with the rtseg of `--tree` (default: this checkout), by `python -m rtseg`,
each in a folder of its own. It keeps exit codes, the facts of every file written (frames, times,
colours, sound, hashes of decoded pixels), the counts of `--metrics`, JSON without its timings, the
flags that `--help` offers, and what the Python API returns. `compare` prints every difference and
exits with 1 if there is one. What the program prints for people is recorded beside these facts and
compared only with `--texts`: wording may change on purpose.

Networks run on one thread of the processor with a named backend, so that masks can be compared by
hash. Cases marked `live` depend on the clock: of these only what must always hold is kept. Exports
and compiled networks stay in `--cache`; keep one folder per tree. This file goes away when the
rebuild is done.
"""

from __future__ import annotations

import argparse
import difflib
import fractions
import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import PIL.Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).resolve()
FORMAT = 1
PATIENCE_SECONDS = 240.0

Json = Any

# --- cases ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One command of a case.

    Attributes:
        args: of `python -m rtseg`; @DATA, @IN, @TREE and addresses of servers are filled in.
        api: instead, the name of a function `api_NAME` below, which runs in a process of its own.
        stdin: file that is piped in.
        stdout: what stdout holds: "text", "json", "jsonl", "raw", "help" or "toml"; "full" for a
            device without space, "closed" for a pipe whose reader has gone.
        send: signal to send once `ready` says so, given the case's folder and the seconds so far.
        keys: pressed one after the other in the program's window.
        env: more environment.
    """

    args: tuple[str, ...] = ()
    api: str = ""
    stdin: str = ""
    stdout: str = "text"
    send: int = 0
    ready: Callable[[Path, float], bool] | None = None
    keys: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Case:
    """Commands that run one after the other in one folder.

    Attributes:
        live: whether counts and pixels depend on the clock.
    """

    name: str
    steps: tuple[Step, ...]
    live: bool = False

    @property
    def alone(self) -> bool:
        """Whether no other case should run beside it."""
        return self.live or self.name.startswith("window")


CASES: dict[str, Case] = {}


def add(name: str, *steps: Step | str, live: bool = False, **more: Any) -> None:
    """Add a case; a string is the arguments of a command, `more` belongs to its only step."""
    made = tuple(Step(tuple(s.split()), **more) if isinstance(s, str) else s for s in steps)
    assert name not in CASES, name
    CASES[name] = Case(name, made, live)


def command(text: str, **more: Any) -> Step:
    """A step from the arguments as one would type them; no argument holds a space."""
    return Step(tuple(text.split()), **more)


STUB = "-m stub -b stub"
ONNX = "-b onnx -d cpu --precision fp32 --threads 1"
TORCH = "-b torch -d cpu --precision fp32 --threads 1"
V = "@DATA/videos"
P = "@DATA/pictures"
NET = "@DATA/networks"
TEST = "test://?size=320x240&fps=30&frames=12"
OTHER = "test://?size=160x120&fps=15&frames=9&seed=4"
LIVE = "test://?size=320x240&fps=60&live=1"
ALL_FILES = "--json out.jsonl --metrics m.json"
ONE_THREAD = (("OMP_NUM_THREADS", "1"),)


def define_cases() -> None:
    """Fill CASES."""
    define_videos()
    define_views()
    define_sources()
    define_grids()
    define_verbs()
    define_learning()
    define_wrong()
    define_ends()
    for name in sorted(globals()):
        if name.startswith("api_") and name not in API_HELPERS:
            add(f"python_{name[4:]}", Step(api=name[4:], stdout="json", env=ONE_THREAD))


def define_videos() -> None:
    """From video files to video files."""
    masks = "--mask-output masks.mkv"
    add(
        "person_onnx",
        f"{V}/intel_asl_eat.mkv --max-frames 20 {ONNX} -o out.mp4 {masks} --rle {ALL_FILES}",
    )
    add(
        "person_torch",
        f"{V}/imageio_realshort.mp4 --max-frames 12 {TORCH} -o out.mp4 --mask-output masks/ "
        f"{ALL_FILES}",
    )
    add(
        "person_openvino",
        f"{V}/intel_asl_eat.mkv --max-frames 4 -b openvino -d cpu --precision fp32 --threads 1 "
        f"{masks} {ALL_FILES}",
    )
    add(
        "several_lanes", f"{V}/intel_asl_eat.mkv --max-frames 20 -b onnx -d cpu {masks} {ALL_FILES}"
    )
    add(
        "backend_auto",
        f"{V}/intel_asl_eat.mkv --max-frames 4 -o out.mp4 --metrics m.json",
        live=True,
    )
    add(
        "sound_and_pixel_aspect",
        f"{V}/liveportrait_d9.mp4 --start 2 --end 3 {ONNX} -o out.mp4 -o out.mkv {ALL_FILES}",
    )
    add(
        "sound_transcoded_to_webm",
        f"{V}/pyscenedetect_aspect-ratio.mp4 --start 5 --max-frames 8 {STUB} -o out.webm {masks}",
    )
    add("rotated", f"{V}/torchcodec_nasa_13013_rotated.mp4 {ONNX} -o out.mp4 {masks} {ALL_FILES}")
    add(
        "variable_rate",
        f"{V}/torchcodec_var_fps_video.mp4 --max-frames 60 {STUB} -o out.mp4 -o out.avi -o out.mkv",
    )
    add("first_pts_not_zero", f"{V}/torchcodec_test_non_zero_start.mp4 {STUB} -o out.mkv -o o.mp4")
    add(
        "full_range",
        f"{V}/torchcodec_bt709_full_range.mp4 --max-frames 6 {STUB} -o out.mp4 {masks}",
    )
    add("ntsc", f"{V}/pyscenedetect_testvideo.mp4 --max-frames 8 {ONNX} -o out.mp4 {ALL_FILES}")
    add(
        "avi_every_second_without_sound",
        f"{V}/omz_human_pose_video.avi --every 2 --max-frames 8 {ONNX} -o out.mp4 --audio none",
    )
    add("avi_with_sound", f"{V}/omz_human_pose_video.avi --end 0.3 {STUB} -o out.mp4 -o out.mov")
    add(
        "mjpeg_to_pictures", f"{V}/paddleseg_humanseg_test.avi {ONNX} -o frame_%06d.png {ALL_FILES}"
    )
    add(
        "start_and_end_as_clock_times",
        f"{V}/intel_car-detection.mp4 --start 0:02.5 --end 3.7 {STUB} -o out.mkv {ALL_FILES}",
    )
    for codec, suffix in ("hevc", "mp4"), ("mjpeg", "avi"), ("vp8", "webm"), ("ffv1", "mkv"):
        add(f"codec_{codec}", f"{TEST} {STUB} -o out.{suffix} --codec {codec}")
    add("codec_prores", f"{TEST} {STUB} -o out.mov --codec prores")
    add("crf", f"{TEST} {STUB} -o out.mp4 --crf 35")
    add("odd_size", f"test://?size=321x241&frames=6 {STUB} -o out.mp4 -o out.mkv {masks}")
    add("all_outputs", f"{TEST} {STUB} -o a.mp4 -o b/ --mask-output c/ --json d.jsonl --rle")
    tagged = f"{V}/torchcodec_bt709_full_range.mp4 --max-frames 4 {ONNX}"
    for suffix in ("mp4", "avi", "mkv"):
        add(f"masks_in_{suffix}", f"{tagged} --mask-output masks.{suffix}")
    add("smooth", f"{V}/intel_asl_eat.mkv --max-frames 20 {ONNX} --smooth 0.8 {masks} {ALL_FILES}")
    add(
        "refine",
        f"{V}/intel_asl_eat.mkv --max-frames 8 {ONNX} --refine -o o.mp4 {masks} {ALL_FILES}",
    )
    portrait = f"{V}/liveportrait_d18.mp4 --max-frames 60 {ONNX} --propagate"
    add("propagate", f"{portrait} -o out.mp4 {masks} {ALL_FILES}")
    add("propagate_key_every", f"{portrait} --key-every 7 {masks} {ALL_FILES}")
    add("propagate_smooth_refine", f"{portrait} --smooth 0.5 --refine {masks} {ALL_FILES}")
    add(
        "propagate_over_cuts",
        f"{V}/pyscenedetect_fades.mp4 --propagate --max-frames 80 {ONNX} {masks}",
    )
    add("idle", f"@IN/still.mkv --idle {ONNX} {masks} {ALL_FILES}")
    add("idle_propagate", f"@IN/still.mkv --idle --propagate {ONNX} {masks} {ALL_FILES}")


def define_views() -> None:
    """What is drawn."""
    clip = f"{V}/intel_asl_eat.mkv --max-frames 4 {ONNX}"
    for view in ("overlay", "mask", "side", "contours", "cutout"):
        add(f"view_{view}", f"{clip} --view {view} -o out.mkv --codec ffv1 --legend")
    add("alpha_palette", f"{TEST} {STUB} --alpha 0.9 --palette random:3 -o out.mkv --codec ffv1")
    add("palette_file", f"{TEST} {STUB} --palette @IN/palette.txt -o out/ --mask-output masks/")
    add("classes", f"{TEST} {STUB} --classes 1,3 -o out/ --mask-output masks/ {ALL_FILES}")
    add("classes_unseen", f"@IN/black.png {STUB} --classes 1 -o out.png {ALL_FILES}")
    for name, background in (
        ("blur", "blur"),
        ("strong_blur", "blur:15"),
        ("colour", "#00b140"),
        ("named_colour", "green"),
        ("picture", f"{P}/city_0.jpg"),
        ("video", f"{V}/imageio_realshort.mp4"),
    ):
        add(f"background_{name}", f"{clip} --background {background} -o out.mkv --codec ffv1")
    add(
        "background_transparent",
        f"{clip} --background transparent -o out/ -o out.webm -o out.mkv",
        f"{clip} --background transparent -o out.mov",
        f"{clip} --background transparent -o out.avi",
    )
    add(
        "feather",
        f"{clip} --background green --feather 5 --matte-threshold 0.3 -o out.mkv --codec ffv1",
    )
    add("hud", f"{TEST} {STUB} --hud -o out.mp4", live=True)


def define_sources() -> None:
    """Pictures, pipes, streams, and what applies to any source."""
    add(
        "picture",
        f"{P}/astronaut.jpg {ONNX} -o out.png --mask-output mask.png --figure figure.png "
        "--json out.jsonl --rle --metrics m.json",
    )
    add("picture_torch", f"{P}/humans_0.jpg {TORCH} -o out.jpg --mask-output mask.png {ALL_FILES}")
    add("picture_refined", f"{P}/humans_1.jpg {ONNX} --refine -o out.png --mask-output mask.png")
    add("picture_background", f"{P}/humans_1.jpg {ONNX} --background transparent -o out.png")
    add("folder", f"{P} {ONNX} -o out/ --mask-output masks/ {ALL_FILES}")
    add("folder_of_kinds", f"@IN/pictures {STUB} -o out/ --mask-output masks/ {ALL_FILES}")
    add("glob_to_video", f"{P}/humans_*.jpg --fps 5 {STUB} -o out.mp4 {ALL_FILES}")
    add("stdout_raw", f"{TEST} {STUB} -o -", stdout="raw")
    add("stdout_rgb", f"{TEST} {STUB} -o - --pix-fmt rgb24", stdout="raw")
    add("stdout_json", f"{TEST} {STUB} --json -", stdout="jsonl")
    add("stdout_metrics", f"{TEST} {STUB} --metrics - -q", stdout="json")
    raw = f"- --size 160x120 --fps 25 {STUB} -o out.mkv {ALL_FILES}"
    add("stdin_raw", raw, stdin="@IN/raw.bin")
    add("stdin_rgb", f"{raw} --pix-fmt rgb24", stdin="@IN/raw.bin")
    add("stdin_cut_off", raw, stdin="@IN/short.bin")
    add("rotate_mirror", f"{TEST} --rotate 90 --mirror {STUB} -o out.mkv {ALL_FILES}")
    add("rotate_clip", f"{V}/imageio_realshort.mp4 --rotate 270 --end 0.4 {STUB} -o out.mp4")
    add("loop", f"{TEST} --loop --max-frames 30 {STUB} -o out.mp4 {ALL_FILES}")
    add(
        "loop_clip", f"{V}/imageio_realshort.mp4 --loop --max-frames 50 {STUB} -o o.mp4 {ALL_FILES}"
    )
    add(
        "selection",
        "test://?size=320x240&fps=25&frames=100 --start 1 --end 3 --every 5 --max-frames 7 "
        f"{STUB} -o out.mkv {ALL_FILES}",
    )
    add("fps_cap", f"test://?size=96x64&fps=60&frames=40 --fps-cap 20 {STUB} -o o.mp4 {ALL_FILES}")
    add("fps_cap_clip", f"{V}/omz_human_pose_video.avi --end 1 --fps-cap 10 {STUB} {ALL_FILES}")
    add("jitter", f"test://?size=96x64&frames=20&jitter=9 {STUB} -o out.mp4 {ALL_FILES}")
    add("imgsz", f"{V}/imageio_realshort.mp4 --max-frames 3 {ONNX} --imgsz 128x192 {ALL_FILES}")
    add("imgsz_one_number", f"{P}/cat_0.jpg {ONNX} --imgsz 160 --mask-output mask.png {ALL_FILES}")
    add("quiet", f"{TEST} {STUB} -q -o out.mp4")
    add("verbose", f"{TEST} {STUB} -v --no-show")
    add("verb_run", f"run {TEST} {STUB} -o out.mp4")
    add("input_flag", f"-i {TEST} {STUB} -o out.mp4", f"--source {TEST} {STUB} -o out.mp4 -y")
    add("useless_flags", f"{TEST} {STUB} --feather 3 --rle --codec vp9 --fps 9 --width 5 --no-show")
    add("http_recording", f"@HTTP/clip.mp4 {STUB} -o out.mp4 {ALL_FILES}")
    add("http_part", f"@HTTP/clip.mp4 --start 0.3 --end 0.8 {STUB} -o out.mkv {ALL_FILES}")
    add("http_index_at_end", f"@HTTP/index_at_end.mp4 {STUB} --no-show")
    add("http_404", f"@HTTP/no.mp4 {STUB} --no-show")
    add("http_page", f"@HTTP/page.html {STUB} --no-show")
    add(
        "http_camera",
        f"@MJPEG {STUB} --no-reconnect --timeout 4 -o o.mp4 --metrics m.json",
        live=True,
    )
    add("rtsp", f"@RTSP {STUB} --max-frames 30 -o out.mkv {ALL_FILES}", live=True)
    add("udp", f"@UDP {STUB} --max-frames 20 --timeout 20 -o out.mp4 {ALL_FILES}", live=True)
    add("udp_silent", f"udp://127.0.0.1:@PORT {STUB} --timeout 1 --no-show")
    add("refused", f"rtsp://127.0.0.1:@PORT/live {STUB} --timeout 3 --no-show")
    replay = f"{V}/intel_asl_eat.mkv --live {ONNX} --max-frames 20"
    add("live_replay", f"{replay} -o out.mp4 {ALL_FILES}", live=True)
    add(
        "live_replay_every_frame",
        f"{replay} --policy all --no-idle -o out.mp4 {ALL_FILES}",
        live=True,
    )
    add("live_idle", f"@IN/still.mkv --live {ONNX} {ALL_FILES}", live=True)
    add("live_propagate", f"{replay} --propagate --no-smooth {ALL_FILES}", live=True)
    slow = "-m stub?delay=60ms -b stub"
    add("live_slow_network", f"{LIVE} {slow} --max-frames 12 -o out.mp4 {ALL_FILES}", live=True)
    add("live_target_fps", f"{replay} --target-fps 20 --no-idle {ALL_FILES}", live=True)
    add("policy_newest", f"{TEST} {slow} --policy newest -o out.mkv {ALL_FILES}", live=True)


def define_grids() -> None:
    """Several sources at once."""
    two = f"{V}/intel_asl_eat.mkv {V}/imageio_realshort.mp4 --max-frames 10 {ONNX}"
    add("grid_video", f"{TEST} {OTHER} {STUB} -o grid.mp4 {ALL_FILES}")
    add("grid_person", f"{two} -o grid.mkv --codec ffv1 --mask-output masks/ {ALL_FILES}")
    add(
        "grid_files_per_source",
        f"{TEST} {OTHER} {V}/torchcodec_test_non_zero_start.mp4 {STUB} -o out/ -o o_{{name}}.mp4 "
        f"-o n_{{n}}.mkv --mask-output masks/ {ALL_FILES} --rle",
    )
    add("grid_sound_per_source", f"{two} -o o_{{name}}.mp4 --mask-output m_{{n}}.mkv")
    add("grid_torch", f"{two.replace(ONNX, TORCH)} --mask-output m_{{n}}.mkv {ALL_FILES}")
    add("grid_smooth_refine", f"{two} --smooth 0.8 --refine --mask-output m_{{n}}.mkv {ALL_FILES}")
    add("grid_idle", f"@IN/still.mkv {OTHER} --idle {ONNX} --mask-output m_{{n}}.mkv {ALL_FILES}")
    add("grid_view", f"{TEST} {OTHER} {STUB} --view side --legend -o grid.mkv --codec ffv1")
    add("grid_background", f"{two} --background blur -o o_{{n}}.mkv --codec ffv1")
    add("grid_of_one", f"{TEST} --grid {STUB} -o grid.mp4 {ALL_FILES}")
    add(
        "grid_of_pictures",
        f"{P}/cat_0.jpg {P}/dog.jpg {P}/humans_0.jpg {STUB} -o g.mp4 {ALL_FILES}",
    )
    add("grid_selection", f"{TEST} {OTHER} --start 0.1 --every 2 --rotate 180 {STUB} -o g.mp4")
    add("grid_stdout", f"{TEST} {OTHER} {STUB} --metrics - -q --no-show", stdout="json")
    add("grid_raw", f"{TEST} {OTHER} {STUB} -o - -q", stdout="raw")
    failing = "test://?size=160x120&frames=9&fail=3"
    add("grid_lost_source", f"{TEST} {failing} {STUB} -o o_{{n}}.mkv {ALL_FILES}")
    add("grid_unopened_source", f"{TEST} nothing.mp4 {STUB} -o o_{{n}}.mkv --metrics m.json")
    add("grid_nothing_opens", f"nothing.mp4 no.mp4 {STUB} -o o_{{n}}.mkv --metrics m.json")
    add("grid_propagate", f"{TEST} {OTHER} {STUB} --propagate --no-show --metrics m.json")
    add("grid_live", f"{LIVE} {LIVE}&seed=2 {STUB} --max-frames 20 -o g.mp4 {ALL_FILES}", live=True)
    add(
        "grid_target_fps",
        f"{LIVE} {LIVE}&seed=2 {STUB} --target-fps 20 --max-frames 20 {ALL_FILES}",
        live=True,
    )
    add("grid_output_twice", f"{TEST} {OTHER} {STUB} -o out.mp4 -o out.mp4")


def define_verbs() -> None:
    """Verbs that need no learning."""
    verbs = ("", "run", "bench", "eval", "export", "train", "models", "cameras", "doctor", "demo")
    more = ("models list", "models show", "models download", "models verify")
    add("help", *(command(f"{verb} --help", stdout="help") for verb in (*verbs, *more)))
    add("version", "--version")
    add(
        "models",
        *("models", "models list", "models show person", "models show lraspp_mobilenet_v3_large"),
        *("models show stub", "models verify", f"models show {NET}/selfie_segmentation.onnx"),
        "models show @IN/colours.onnx",
    )
    add("doctor_json", "doctor --json", stdout="json", live=True)
    add("doctor", "doctor", live=True)
    add("cameras", command("cameras --json", stdout="json"), "cameras", "cameras --no-measure")
    add("demo", "demo --seconds 0.5 --no-show", "demo --seconds 0.3 -o own.mkv", live=True)
    config = f"{TEST} {STUB} --every 2 --rotate 90 --classes 1,2 -o a.mp4 -o b/ --json c.jsonl"
    add(
        "print_config",
        command(f"{config} --print-config", stdout="toml"),
        command(f"{TEST} {OTHER} --background blur --smooth 0.4 --print-config", stdout="toml"),
        command("clip.mp4 --config @IN/config.toml --print-config", stdout="toml"),
        command("clip.mp4 --config @IN/config.toml --alpha 0.1 --print-config", stdout="toml"),
    )
    add("config", f"{TEST} --config @IN/config.toml -o out.mkv {ALL_FILES}")
    short = "-i test://?size=64x48&fps=30&frames=8 --duration 0.01 --frames 4 --rounds 1"
    stub = f"bench -m stub --imgsz 64 {short}"
    add(
        "bench",
        command(f"{stub} --format json -q", stdout="json"),
        f"{stub} -o a.json -o a.csv -o a.md -o a.txt --plot a.png",
        f"{stub} -o a.json",
        live=True,
    )
    add(
        "bench_person",
        command(
            f"bench -m person,stub -b onnx,torch --imgsz 64x96 {short} --worst-case --no-encode "
            f"--data @IN/shapes --threads 1 --format json -q",
            stdout="json",
        ),
        live=True,
    )
    add(
        "bench_compare",
        f"{stub} -o a.json -q",
        Step(api="bench_was_faster"),
        f"{stub} --compare a.json -q",
        Step(api="bench_was_slower"),
        f"{stub} --compare a.json --format json -q",
        live=True,
    )
    add("bench_nothing_runs", command(f"{stub} -b torch --format json -q", stdout="json"))


def define_learning() -> None:
    """Labelled pictures, networks of others, training, export."""
    one = f"{ONNX} -q --json out.json"
    add("eval_voc", f"eval --data @DATA/voc -m person --classes person --max-pictures 6 {one}")
    add("eval_coco", f"eval --data @DATA/coco -m person --classes person --max-pictures 6 {one}")
    add(
        "eval_camvid",
        f"eval --data @DATA/camvid -m {NET}/deeplabv3_mobilenet_v2_voc.onnx --max-pictures 3 "
        f"--classes person=pedestrian --classes car=car --boundary {one}",
    )
    add(
        "eval_people",
        f"eval --data @DATA/people -m person --max-pictures 8 --boundary --refine {one}",
    )
    add(
        "eval_sequence",
        f"eval --data @IN/sequence -m person --classes person=* --smooth 0.8 --imgsz exact {one}",
    )
    add(
        "eval_clip",
        f"eval --clip {V}/intel_asl_eat.mkv --max-frames 12 -m person --smooth 0.8 {one}",
    )
    for layout in ("shapes", "shapes_voc", "shapes_coco", "shapes_cityscapes", "shapes_csv"):
        own = "--classes person --classes car" if layout.endswith(("voc", "cityscapes")) else ""
        net = "@IN/cars.onnx" if own else "@IN/colours.onnx"
        add(f"eval_{layout}", f"eval --data @IN/{layout} -m {net} --split all {own} {one}")
    add(
        "eval_all_outputs",
        "eval --data @IN/shapes @IN/shapes_coco -m @IN/colours.onnx @IN/small.onnx "
        f"--show-class box --confusion c.png --worst 2 --worst-to worst --json out.json {ONNX}",
        command(f"eval --data @IN/shapes -m @IN/colours.onnx --json - {ONNX}", stdout="json"),
    )
    add("eval_suite", f"eval --suite @IN/suite.toml --root @IN -m @IN/colours.onnx {one}")
    add(
        "eval_threshold",
        f"eval --data @IN/shapes -m @IN/colours.onnx --min-miou 0.9999 {one}",
        f"eval --data @IN/shapes -m @IN/colours.onnx --min-miou 0.5 -y {one}",
    )
    add(
        "eval_wrong",
        *("eval", "eval --data nothing -m person", "eval --data @IN/shapes -m no.onnx"),
        f"eval --data @IN/shapes -m @IN/cats.onnx {ONNX}",
        f"eval --data @IN/broken -m @IN/colours.onnx {ONNX}",
        "eval --data @IN/shapes --root .",
        "eval --data @IN/shapes --split nothing -m @IN/colours.onnx",
    )
    train = "train --data @IN/shapes --size 64 --batch-size 4 --workers 0 -d cpu --precision fp32"
    ours = f"{train} -m person --lr 1e-3"
    add(
        "train",
        command(f"{ours} --epochs 2 -o run", env=ONE_THREAD),
        command(f"{ours} --epochs 2 -o run", env=ONE_THREAD),
        f"@IN/shapes/images {TORCH} -m run --mask-output masks/ --json out.jsonl",
        f"@IN/shapes/images {ONNX} -m run/best.pth --json onnx.jsonl",
        f"eval --data @IN/shapes -m run --split all {one}",
        "models show run/best.pth",
    )
    add(
        "train_resume",
        command(f"{ours} --epochs 2 --max-steps 1 -o run --ema 0.9", env=ONE_THREAD),
        command("train -o run --resume --epochs 3", env=ONE_THREAD),
        command("train --data @IN/shapes -o run --resume --lr 5", env=ONE_THREAD),
    )
    add(
        "train_scratch",
        command(
            f"{train} -m lraspp_mobilenet_v3_large --weights scratch --epochs 1 --max-steps 2 "
            "--optimizer sgd --schedule cosine --class-weights auto --classes thing=disc,box "
            "--monitor miou --config @IN/train.toml -o run",
            env=ONE_THREAD,
        ),
    )
    add(
        "train_wrong",
        *("train", "train --data nothing", f"{ours} --epochs 0", f"{train} -m nothing -o run"),
        *("train --data @IN/broken -m person -d cpu -o run", "train -o nothing --resume"),
    )
    lraspp = "-m lraspp_mobilenet_v3_large --weights random --imgsz 64x96"
    samples = "--samples test://?size=96x64&frames=4&fps=10"
    add(
        "export_fp32",
        command(f"export {lraspp} {samples} -o net.onnx", env=ONE_THREAD),
        command(f"export {lraspp} {samples} -o net.onnx", env=ONE_THREAD),
        f"{P}/dog.jpg -m net.onnx {ONNX} --mask-output mask.png --json out.jsonl",
        "models show net.onnx",
    )
    people = f"export -m person --imgsz 128x192 --samples {P}/humans_0.jpg"
    add(
        "export_person",
        command(f"{people} -o net.onnx --dynamic-batch", env=ONE_THREAD),
        command(f"{people} -o net13.onnx --opset 13 -q", env=ONE_THREAD),
        f"{P}/humans_1.jpg -m net.onnx {ONNX} --mask-output mask.png",
    )
    add(
        "export_int8",
        command(
            f"{people} --precision int8 --calibration {P} --min-agreement 0.5 -o net8.onnx",
            env=ONE_THREAD,
        ),
        f"{P}/humans_1.jpg -m net8.onnx -b onnx -d cpu --threads 1 --mask-output mask.png",
    )
    add(
        "export_fp16_rejected",
        command(f"{people} --precision fp16 --min-agreement 1 --keep -o net.onnx", env=ONE_THREAD),
        command(f"{people} --precision fp16 --min-agreement 1 -o net.onnx", env=ONE_THREAD),
    )
    add(
        "export_wrong",
        "export -m person",
        "export -m nothing -o a.onnx",
        "export -m stub -o a.onnx",
    )
    masks = f"--mask-output mask.png --json out.jsonl {ONNX}"
    add("foreign_voc", f"{P}/dog.jpg -m {NET}/deeplabv3_mobilenet_v2_voc.onnx {masks} -o out.png")
    add("foreign_sidecar", f"{P}/humans_0.jpg -m @IN/selfie.onnx {masks}")
    add(
        "foreign_flags",
        f"{P}/humans_0.jpg -m {NET}/SINet_Softmax_simple.onnx --labels background,person "
        f"--activation probabilities --scale 1/255 --mean 0 --std 1 --colour BGR {masks}",
    )
    add("foreign_guessed", f"{P}/humans_0.jpg -m {NET}/mediapipe.onnx {masks}")
    add("foreign_wrong_labels", f"{P}/dog.jpg -m {NET}/mediapipe.onnx --labels a,b,c {masks}")
    add(
        "checkpoint_file",
        f"{P}/humans_0.jpg -m @TREE/models/person.safetensors {TORCH} --mask-output m.png",
    )
    add(
        "onnx_file_of_ours",
        f"{P}/humans_0.jpg -m @TREE/models/person.onnx --mask-output mask.png "
        "-b onnx -d cpu --threads 1",
    )
    add(
        "weights_random",
        f"{P}/dog.jpg -m deeplabv3_mobilenet_v3_large --weights random --imgsz 96 {TORCH} "
        "--mask-output mask.png --json out.jsonl",
    )


def define_wrong() -> None:
    """What must be refused, with which exit code, leaving nothing behind."""
    null = "-o null:"
    clip = f"test://?size=160x120&frames=5 {STUB}"
    there, text = "there.mp4", "text.mp4"
    ready = Step(api="prepare_wrong")
    usage = [
        *("", "--nonsense", "bnech", f"bnech {null}", "help", "list", "evaluate --data x"),
        *(f"a.mp4 {flags} {null}" for flags in WRONG_FLAGS),
        *("a.mp4 --config missing.toml", "a.mp4 -o", "a.mp4 -o out.xyz", f"a.mp4 -o {there}"),
        *(f"a.mp4 --json {there}", f"a.mp4 --metrics {there}", "a.mp4 -o no/such/out.mp4"),
        *("a.mp4 -o x.mp4 -o x.mp4", "a.mp4 -o x/ --mask-output x/", "a.mp4 -o - --json -"),
        *("a.mp4 --json x.jsonl --metrics x.jsonl", "a.mp4 -o x.mp4 --codec vp9"),
        *("a.mp4 -o x.mp4 --crf 99", f"{there} -o {there} -y", f"{there} -o {'x' * 300}.mp4"),
        *(f"gopher://host/x {null}", f"test://?nonsense=1 {null}", f"- {null}"),
        *("models show nonsense", "models download", "models nonsense"),
        *("demo --seconds 0 --no-show", f"{clip} --mask-output -", f"{clip} -o mask.mp4 --rle 3"),
    ]
    add("wrong_usage", ready, *usage)
    display = [there, f"{there} {text}", f"{there} --show -o x.mp4", "test://", "*.png", "a.mp4"]
    add("wrong_display", ready, *display)
    sources = [
        *("a.mp4", "empty.mp4", text, "text.png", f"{text}/x.mp4", "nothing/", "*.jpg"),
        *("--camera 97", "/dev/video97", "a.mp4 b.mp4", f"{there} a.mp4", "x" * 300 + ".png"),
    ]
    add("wrong_source", ready, *(f"{source} {STUB} {null}" for source in sources))
    networks = [
        *(
            f"test:// -m nonsense {null}",
            f"test:// -m text.onnx {null}",
            f"test:// -m no.onnx {null}",
        ),
        f"test:// -m person --weights text.onnx -b torch {null}",
        *(f"{clip} --classes unicorn {null}", f"{clip} --palette short.txt {null}"),
        *(f"test:// -m text.pth {null}", f"test:// -m stub -b torch {null}"),
    ]
    add("wrong_network", ready, *networks)
    devices = [
        *(
            f"a.mp4 -d abacus {null}",
            f"{clip} -d cuda --strict-device {null}",
            f"{clip} -d cuda {null}",
        ),
        f"{P}/cat_0.jpg -b onnx -d cuda --strict-device {null}",
        f"{P}/cat_0.jpg -b torch -d cuda --strict-device {null}",
        *(
            f"{P}/cat_0.jpg -b torch -d mps {null}",
            f"{V}/imageio_realshort.mp4 --decoder nvdec {null}",
        ),
        f"{P}/cat_0.jpg -b onnx -d tensorrt --strict-device {null}",
    ]
    add("wrong_device", ready, *devices)
    add("lost_on_the_way", f"test://?size=160x120&frames=9&fail=3 {STUB} -o out.mp4 {ALL_FILES}")
    add("debug", "missing.mp4 -o null: --debug")
    add("virtual_camera", f"{clip} -o virtual")
    add("cannot_write", f"{clip} -o /proc/out.mp4", f"{clip} --json /proc/a.jsonl")
    full = [f"{clip} -o -", "models", "--help", "a.mp4 --print-config", f"{clip} --json -"]
    add("disk_full", *(command(text, stdout="full") for text in full))
    closed = [f"{clip} --loop -o -", "models", f"{clip} --loop --json -"]
    add("reader_gone", *(command(text, stdout="closed") for text in closed))


WRONG_FLAGS = (
    *("--rotate 45", "--view sepia", "--backend nonsense", "--precision fp4", "--policy some"),
    *("--width wide", "--every 0", "--every 1.5", "--decoder gpu", "--max-frames 2.7"),
    *("--start soon", "--start 5 --end 3", "--imgsz 0x9", "--mean 1,2", "--alpha 1.5"),
    *("--threads 0", "--half --precision fp32", "--palette nonsense", "--classes ,"),
    *("--smooth 0.3 --no-smooth", "--smooth 2", "--key-every 3", "--propagate --key-every 0"),
    *("--background nonsense", "--background blur:99", "--feather -1", "--matte-threshold 2"),
    *("--fps-cap 0", "--timeout 0", "--target-fps 0", "--show --no-show", "--crf x"),
    *("--codec nonsense", "--audio some", "--idle --propagate --target-fps 9", "--camera 1"),
    *("--fourcc MJ", "--layout XYZ", "--std 0", "--pix-fmt gray12"),
)
"""Beside a file that does not exist: flags are checked before the source is."""


def define_ends() -> None:
    """Signals, and windows."""

    def grown(folder: Path, seconds: float) -> bool:
        return any(p.is_file() and p.stat().st_size > 3000 for p in folder.rglob("*"))

    def saved(folder: Path, seconds: float) -> bool:
        return any(folder.rglob("last.ckpt"))

    def waited(folder: Path, seconds: float) -> bool:
        return seconds > 5

    for name, number in (("ctrl_c", signal.SIGINT), ("sigterm", signal.SIGTERM)):
        more = {"send": int(number), "ready": grown, "live": True}
        add(f"{name}_video", f"{LIVE} {STUB} -o out.mp4 --metrics m.json", **more)
        add(f"{name}_pictures", f"{LIVE} {STUB} -o out/ --json out.jsonl", **more)
        add(f"{name}_grid", f"{LIVE} {OTHER} {STUB} -o out.mkv --metrics m.json", **more)
        add(f"{name}_file", f"{V}/omz_human_pose_video.avi --loop {STUB} -o out.mp4", **more)
        more = {"send": int(number), "ready": waited, "live": True}
        add(f"{name}_hung_source", f"test://?size=320x240&hang=20 {STUB} -o out.mp4", **more)
        slow = "bench -m stub?delay=20ms -i test://?size=64x48&frames=8 --duration 20"
        add(f"{name}_bench", slow, **more)
    train = "train --data @IN/shapes -m person --size 64 --batch-size 4 --workers 0 -d cpu -o run"
    add(
        "ctrl_c_train",
        command(f"{train} --precision fp32 --epochs 60 --patience 0", send=int(signal.SIGINT),
                ready=saved, env=ONE_THREAD),
        live=True,
    )  # fmt: skip
    if all(shutil.which(name) for name in ("Xvfb", "xdotool", "import")):
        still = f"{P}/humans_0.jpg {ONNX}"
        add("window_quit", still, keys=("q",))
        add("window_escape", f"{TEST.replace('=12', '=9000')} {STUB}", keys=("Escape",), live=True)
        add("window_save", still, keys=("s", "q"))
        add("window_view_and_save", f"{still} --screenshots shots", keys=("Tab", "s", "q"))
        add("window_keys", still, keys=(*"cblfeh+-1", "s", "q"))
        add("window_end", f"{TEST} {STUB} --show -o out.mp4", keys=())
        add("window_record", f"{LIVE} {STUB}", keys=("r", "r", "q"), live=True)
        add("window_models", f"{LIVE} {STUB} --models stub,person", keys=("m", "q"), live=True)
        add(
            "window_pause_step", f"{TEST} {STUB}", keys=("space", "period", "space", "q"), live=True
        )
        grid = f"{P}/cat_0.jpg {P}/dog.jpg {STUB} --no-hud"  # which shows the age
        add("window_grid_save", grid, keys=("s", "q"))
        add("window_grid_keys", grid, keys=(*"cl1", "Tab", "s", "q"))
        add("window_ctrl_c", f"{LIVE} {STUB}", send=int(signal.SIGINT), ready=waited, live=True,
            keys=("f",))  # fmt: skip


# --- inputs --------------------------------------------------------------------------------------

NAMES = ("background", "disc", "box")
COLOURS = np.array(((128, 128, 128), (40, 40, 220), (220, 60, 40)), np.uint8)  # BGR


def make_inputs(folder: Path, data: Path) -> None:
    """Files that the cases read, the same each time."""
    folder.mkdir()
    draw = np.random.default_rng(7)
    raw = draw.integers(0, 256, (10, 120, 160, 3), np.uint8)
    (folder / "raw.bin").write_bytes(raw.tobytes())
    (folder / "short.bin").write_bytes(raw.tobytes()[: -160 * 61])
    (folder / "palette.txt").write_text("".join(f"{9 * n} {255 - n} {n}\n" for n in range(8)))
    (folder / "page.html").write_text("<html><body>Sign in</body></html>" * 400)
    make_streamable(folder / "clip.mp4", data / "videos" / "imageio_realshort.mp4")
    shutil.copy(data / "videos" / "imageio_realshort.mp4", folder / "index_at_end.mp4")
    shutil.copy(data / "networks" / "selfie_segmentation.onnx", folder / "selfie.onnx")
    (folder / "selfie.toml").write_text(
        'layout = "NHWC"\ncolour = "RGB"\nsize = [256, 256]\nscale = 0.00392156862745098\n'
        'mean = 0\nstd = 1\nlabels = ["background", "person"]\nactivation = "sigmoid"\n'
    )
    (folder / "config.toml").write_text(
        'model = "stub"\nbackend = "stub"\nview = "contours"\nalpha = 0.7\nevery = 3\n'
        'classes = ["1", "2"]\nmirror = true\n'
    )
    (folder / "train.toml").write_text("size = 64\nbatch_size = 2\nrotation = 5\n")
    (folder / "suite.toml").write_text(
        '[[set]]\npath = "shapes"\nname = "shapes"\nclasses = ["thing=disc,box"]\n'
        '[[network]]\nname = "reference"\nmodel = "colours.onnx"\nimgsz = "32x32"\n'
    )
    cv2.imwrite(str(folder / "black.png"), np.zeros((48, 64, 3), np.uint8))
    make_pictures(folder / "pictures", data)
    make_still(folder / "still.mkv", data / "pictures" / "humans_0.jpg")
    make_sequence(folder / "sequence", data / "davis" / "dance-twirl")
    make_sets(folder)
    make_network(folder / "colours.onnx", NAMES)
    make_network(folder / "small.onnx", NAMES, size=(32, 32))
    make_network(folder / "cats.onnx", ("background", "cat", "dog"))
    make_network(folder / "cars.onnx", ("background", "person", "car"))


def make_streamable(path: Path, source: Path) -> None:
    """The same video and sound, with the index at the beginning."""
    fast = {"movflags": "faststart"}
    with av.open(str(source)) as given, av.open(str(path), "w", options=fast) as made:
        streams = {s.index: made.add_stream_from_template(s) for s in given.streams}
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                made.mux(packet)


def make_pictures(folder: Path, data: Path) -> None:
    """One picture in several forms: 16 bits, grey, alpha, EXIF orientation, CMYK, JPEG names."""
    folder.mkdir()
    small = cv2.resize(cv2.imread(str(data / "pictures" / "cat_0.jpg")), (96, 64))
    cv2.imwrite(str(folder / "16bit.png"), small.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "grey.png"), small[..., 0])
    cv2.imwrite(str(folder / "alpha.png"), np.dstack([small, small[..., :1]]))
    cv2.imwrite(str(folder / "a name.JPG"), small)
    cv2.imwrite(str(folder / "b.bmp"), small)
    cv2.imwrite(str(folder / "c.webp"), small)
    cv2.imwrite(str(folder / "d.tif"), small)
    picture = PIL.Image.fromarray(np.ascontiguousarray(small[..., ::-1]))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=exif)
    picture.convert("CMYK").save(folder / "cmyk.jpg")


def make_still(path: Path, picture: Path) -> None:
    """Forty frames of a picture that does not change but for one jump, lossless."""
    image = cv2.resize(cv2.imread(str(picture)), (256, 192))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=20)
        stream.width, stream.height, stream.pix_fmt = 256, 192, "bgr0"
        for number in range(40):
            shown = image if number < 25 else image[:, ::-1]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="bgr24")
            container.mux(stream.encode(frame.reformat(format="bgr0")))
        container.mux(stream.encode(None))


def make_sequence(folder: Path, source: Path) -> None:
    """Eight frames of a labelled sequence, in the layout of a folder with subfolders."""
    for kind in ("images", "masks"):
        (folder / kind / "dance").mkdir(parents=True)
    for frame in sorted((source / "frames").iterdir())[:8]:
        shutil.copy(frame, folder / "images" / "dance" / frame.name)
    for mask in sorted((source / "masks").iterdir())[:8]:
        shutil.copy(mask, folder / "masks" / "dance" / mask.name)
    (folder / "classes.json").write_text(json.dumps(["background", "person"]))


def shapes(count: int, seed: int) -> Iterator[tuple[str, np.ndarray, np.ndarray, list[Any]]]:
    """(name, image, mask, outlines) of noisy pictures of 48x64 with a disc, a box or both."""
    draw = np.random.default_rng(seed)
    for index in range(count):
        mask, outlines = np.zeros((48, 64), np.uint8), []
        for side, shape in enumerate((1, 2)):
            if index % 3 == 2 - side:
                continue
            r = int(draw.integers(6, 14))
            x, y = int(draw.integers(r + 1, 32 - r)) + 32 * side, int(draw.integers(r + 1, 48 - r))
            square = np.array([[x - r, y - r], [x + r, y - r], [x + r, y + r], [x - r, y + r]])
            disc = np.array(cv2.ellipse2Poly((x, y), (r, r), 0, 0, 359, 15))
            outlines.append((shape, disc if shape == 1 else square))
            cv2.fillPoly(mask, [outlines[-1][1].astype(np.int32)], shape)
        image = COLOURS[mask].astype(np.int16) + draw.integers(-20, 21, (48, 64, 3), np.int16)
        yield f"{seed:02}_{index:04}", image.clip(0, 255).astype(np.uint8), mask, outlines


def write(path: Path, image: np.ndarray) -> None:
    """A picture file; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def make_sets(folder: Path) -> None:
    """The same kind of labelled pictures in five layouts, and one set that is broken."""
    for name, image, mask, _ in shapes(12, 0):
        write(folder / "shapes" / "images" / f"{name}.png", image)
        write(folder / "shapes" / "masks" / f"{name}.png", mask)
    (folder / "shapes" / "classes.json").write_text(json.dumps(NAMES))
    shutil.copytree(folder / "shapes", folder / "broken")
    (folder / "broken" / "masks" / "00_0001.png").unlink()
    (folder / "broken" / "images" / "00_0002.png").write_bytes(b"not a picture")
    for number, split in enumerate(("train", "val")):
        made = list(shapes(6 - 2 * number, 1 + number))
        make_split(folder, split, made)
        lists = folder / "shapes_voc" / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name, *_ in made))
        csv = "".join(f"{value}, {name}\n" for value, name in enumerate(NAMES))
        split_folder = folder / "shapes_csv" / ("valid" if split == "val" else split)
        (split_folder / "_classes.csv").write_text("Pixel Value, Class\n" + csv)


def make_split(folder: Path, split: str, made: list[Any]) -> None:
    """One split of VOC, Cityscapes, COCO and Roboflow's masks."""
    images: list[Json] = []
    annotations: list[Json] = []
    voc, cityscapes = np.array([0, 15, 7], np.uint8), np.array([7, 24, 26], np.uint8)
    for number, (name, image, mask, outlines) in enumerate(made, 1):
        write(folder / "shapes_voc" / "JPEGImages" / f"{name}.jpg", image)
        lined = voc[mask]
        cv2.polylines(lined, [line.astype(np.int32) for _, line in outlines], True, 255)
        write(folder / "shapes_voc" / "SegmentationClass" / f"{name}.png", lined)
        city = folder / "shapes_cityscapes"
        frame = f"{split}ville_000000_{number:06}"
        write(city / "leftImg8bit" / split / f"{split}ville" / f"{frame}_leftImg8bit.png", image)
        labels = city / "gtFine" / split / f"{split}ville" / f"{frame}_gtFine_labelIds.png"
        write(labels, cityscapes[mask])
        write(folder / "shapes_coco" / f"{split}2017" / f"{name}.jpg", image)
        rows = folder / "shapes_csv" / ("valid" if split == "val" else split)
        write(rows / f"{name}.jpg", image)
        write(rows / f"{name}_mask.png", mask)
        images.append({"id": number, "file_name": f"{name}.jpg", "width": 64, "height": 48})
        for shape, line in outlines:
            box = [float(value) for value in cv2.boundingRect(line.astype(np.int32))]
            annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": 3 + shape}
            annotation |= {"segmentation": [line.astype(float).ravel().tolist()], "bbox": box}
            annotations.append(annotation | {"area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": 3 + n, "name": NAMES[n], "supercategory": "shapes"} for n in (1, 2)]
    path = folder / "shapes_coco" / "annotations" / f"instances_{split}2017.json"
    path.parent.mkdir(exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))


def make_network(path: Path, names: Sequence[str], size: tuple[int, int] | None = None) -> None:
    """An ONNX network that gives each pixel the class of the nearest colour, and its TOML file."""
    import onnx
    from onnx import TensorProto, helper

    rgb = COLOURS[:, ::-1].astype(np.float32) / 255
    sides = list(size or ("h", "w"))
    values = [
        helper.make_tensor("w", TensorProto.FLOAT, (3, 3, 1, 1), 2 * rgb.ravel()),
        helper.make_tensor("b", TensorProto.FLOAT, (3,), -(rgb**2).sum(1)),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, *sides])
        for name in ("x", "y")
    ]
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"])
    graph = helper.make_graph([node], "colours", ends[:1], ends[1:], values)
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    lines = [
        'colour = "RGB"',
        'scale = "1/255"',
        f"labels = {list(names)!r}",
        'activation = "none"',
    ]
    lines += [] if size else ["size = [48, 64]"]
    path.with_suffix(".toml").write_text("\n".join(lines))


# --- servers -------------------------------------------------------------------------------------


class Camera(http.server.BaseHTTPRequestHandler):
    """An MJPEG camera that gives 25 pictures to the first who asks, and 404 to all others."""

    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:  # noqa: D102
        asked = self.server.__dict__.setdefault("asked", [])
        asked.append(1)
        if len(asked) > 1:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(25):
            image = np.full((240, 320, 3), number, np.uint8)
            cv2.circle(image, (20 + 10 * number, 120), 15, (0, 0, 255), -1)
            jpeg = cv2.imencode(".jpg", image)[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")

    def log_message(self, *args: object) -> None:  # noqa: D102
        pass


class Files(http.server.SimpleHTTPRequestHandler):
    """A folder over HTTP, without ranges."""

    def log_message(self, *args: object) -> None:  # noqa: D102
        pass


@contextmanager
def serving(handler: Any) -> Iterator[int]:
    """A server in a thread, on a port of its own."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def free_port() -> int:
    """A port of the loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(arguments: Sequence[str], ready: bool = False) -> Iterator[None]:
    """A program beside the case; with `ready`, wait for its first line."""
    program = subprocess.Popen(
        list(arguments), stdout=subprocess.PIPE if ready else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        if ready:
            assert program.stdout is not None
            program.stdout.readline()
        yield
    finally:
        program.kill()
        program.communicate()


def fill(arguments: Sequence[str], places: dict[str, str], stack: ExitStack) -> list[str]:
    """The arguments with their places; servers that they name are started, and end with `stack`."""
    text = "\0".join(arguments)
    if "@HTTP" in text:
        handler = functools.partial(Files, directory=places["@IN"])
        text = text.replace("@HTTP", f"http://127.0.0.1:{stack.enter_context(serving(handler))}")
    if "@MJPEG" in text:
        port = stack.enter_context(serving(Camera))
        text = text.replace("@MJPEG", f"http://127.0.0.1:{port}/video.mjpg")
    if "@RTSP" in text:
        port = free_port()
        script = HERE.parents[1] / "tests" / "rtsp_server.py"
        server = ["/usr/bin/python3", str(script), str(port), "320", "240"]
        stack.enter_context(running(server, ready=True))
        text = text.replace("@RTSP", f"rtsp://127.0.0.1:{port}/live")
    if "@UDP" in text:
        address = f"udp://127.0.0.1:{free_port()}"
        encoder = "-c:v libx264 -tune zerolatency -g 10 -pix_fmt yuv420p -f mpegts".split()
        pattern = ["-re", "-f", "lavfi", "-i", "testsrc=size=320x240:rate=25"]
        server = ["ffmpeg", "-v", "error", *pattern, *encoder, f"{address}?pkt_size=1316"]
        stack.enter_context(running(server))
        text = text.replace("@UDP", address)
    text = text.replace("@PORT", str(free_port()))
    for name, place in places.items():
        text = text.replace(name, place)
    return text.split("\0") if text else []


@contextmanager
def screen() -> Iterator[str]:
    """The name of an X display without a screen."""
    read, write_end = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write_end), "-screen", "0", "1000x700x24"],
        pass_fds=[write_end], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(write_end)
    try:
        with os.fdopen(read) as pipe:
            yield f":{pipe.readline().strip()}"
    finally:
        server.terminate()
        server.wait()


# --- running -------------------------------------------------------------------------------------


@dataclass
class Run:
    """Everything that is the same for all cases of one record."""

    tree: Path
    work: Path
    cache: Path
    data: Path
    texts: list[str] = field(default_factory=list)

    @property
    def places(self) -> dict[str, str]:
        """What stands in arguments for a folder."""
        return {"@DATA": str(self.data), "@IN": str(self.work / "in"), "@TREE": str(self.tree)}

    def environment(self, step: Step) -> dict[str, str]:
        """Of every program: no display, a fixed width, a cache of its own."""
        dropped = ("DISPLAY", "WAYLAND_DISPLAY", "PYTHONPATH", "RTSEG_CACHE", "COLUMNS")
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        fixed = {"PYTHONPATH": str(self.tree), "RTSEG_CACHE": str(self.cache), "COLUMNS": "100"}
        return {**kept, **fixed, "PYTHONWARNINGS": "default", **dict(step.env)}

    def case(self, case: Case) -> Json:
        """Run one case in a folder of its own."""
        folder = self.work / case.name
        folder.mkdir()
        self.texts = []
        results, said = [], []
        for step in case.steps:
            facts, text = self.step(step, case, folder)
            results.append(facts)
            said.append(text)
        files = {
            self.plain_name(str(path.relative_to(folder))): self.file(path, live=case.live)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        shutil.rmtree(folder)
        return {"steps": results, "files": files, "texts": {"said": said, "in": self.texts}}

    def step(self, step: Step, case: Case, folder: Path) -> tuple[Json, Json]:
        """Run one command; its facts, and what it said."""
        with ExitStack() as stack:
            arguments = fill(step.args, self.places, stack)
            environment = self.environment(step)
            if case.name.startswith("window"):
                environment["DISPLAY"] = stack.enter_context(screen())
            start = [str(HERE), "api", step.api] if step.api else ["-m", "rtseg", *arguments]
            source: Any = subprocess.DEVNULL
            if step.stdin:
                path = fill([step.stdin], self.places, stack)[0]
                source = stack.enter_context(Path(path).open("rb"))
            program = subprocess.Popen(
                [sys.executable, *start], cwd=folder, env=environment, stdin=source,
                stdout=stack.enter_context(target(step)), stderr=subprocess.PIPE,
            )  # fmt: skip
            out, err, late = finish(program, step, folder, environment)
        error = self.clean(err.decode("utf-8", "replace"))
        shown = " ".join((step.api and f"api {step.api}", *step.args)).strip()
        facts: dict[str, Json] = {"command": shown, "exit": program.returncode}
        facts["errors"] = sum(line.startswith("rtseg: error:") for line in error.splitlines())
        facts["traceback"] = "Traceback" in error
        if late:
            facts["late"] = late
        facts["stdout"] = self.stdout(out or b"", step.stdout, live=case.live)
        readable = out.decode("utf-8", "replace") if out and step.stdout in ("text", "help") else ""
        return facts, {"stdout": self.clean(readable), "stderr": error}

    def stdout(self, out: bytes, kind: str, *, live: bool) -> Json:
        """The facts of what went to stdout."""
        if kind == "raw":
            return {"bytes": len(out), "hash": digest(out)}
        text = out.decode("utf-8", "replace")
        try:
            if kind == "json":
                return self.plain(json.loads(text), live=live)
            if kind == "jsonl":
                return self.lines(text, live=live)
            if kind == "toml":
                commented = re.findall(r"^# ([\w-]+) =", text, re.MULTILINE)
                return {"values": self.plain(tomllib.loads(text)), "open": commented}
        except ValueError as error:
            return {"unreadable": type(error).__name__, "bytes": len(out)}
        if kind == "help":
            return sorted(set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", text)))
        return {"empty": not out}

    # --- facts of files

    def file(self, path: Path, *, live: bool) -> Json:
        """The facts of one file."""
        suffix = path.suffix.lower()
        try:
            if suffix in (".mp4", ".mov", ".mkv", ".webm", ".avi"):
                return video_facts(path, live=live)
            if suffix in (".png", ".jpg", ".jpeg"):
                return picture_facts(path, live=live)
            if suffix == ".jsonl":
                return self.lines(path.read_text("utf-8"), live=live)
            if suffix == ".json":
                return self.plain(json.loads(path.read_text("utf-8")), live=live)
            if suffix == ".toml":
                return self.plain(tomllib.loads(path.read_text("utf-8")), live=live)
            if suffix == ".csv":
                return table_facts(path, live=live)
            if suffix == ".onnx":
                return onnx_facts(path)
            if suffix in (".pth", ".ckpt"):
                return checkpoint_facts(path, live=live)
        except Exception as error:
            return {"unreadable": f"{type(error).__name__}: {self.clean(str(error))}"}
        if suffix in (".md", ".txt"):
            self.texts.append(self.clean(path.read_text("utf-8")))
            return {"text": True}
        return {"bytes": path.stat().st_size, "hash": digest(path.read_bytes())}

    def lines(self, text: str, *, live: bool) -> Json:
        """JSON lines: keys, count and hash; the first line in full."""
        rows = [self.plain(json.loads(line)) for line in text.splitlines()]
        if live:
            return {"lines": bool(rows), "keys": sorted({key for row in rows for key in row})}
        keys = sorted({key for row in rows for key in row})
        rows.sort(key=lambda row: row.get("source", ""))  # in which order sources come is chance
        brief = [{k: v for k, v in row.items() if k != "classes"} for row in rows]
        hashed = digest(json.dumps(rows, sort_keys=True).encode())
        return {"lines": len(rows), "keys": keys, "hash": hashed, "rows": brief}

    def plain(self, value: Json, *, live: bool = False, key: str = "") -> Json:
        """JSON without what changes from run to run: timings and wording become their kind."""
        if key in VOLATILE:
            stages = key == "stages_ms" and not live
            # a short run may end before it asks how long encoding took
            return sorted(value.keys() - {"encode"}) if stages else kind_of(value)
        if key in WORDING:
            self.texts.append(f"{key}: {self.clean(json.dumps(value, ensure_ascii=False))}")
            return kind_of(value)
        if (live and key in COUNTS) or key.startswith("fastest"):  # a heading of doctor
            return type(value).__name__ if isinstance(value, (dict, list)) else kind_of(value)
        if isinstance(value, dict):
            made = {self.plain_name(k): self.plain(v, live=live, key=k) for k, v in value.items()}
            if {"frames", "produced", "dropped"} <= value.keys():
                made["adds up"] = value["frames"] + value["dropped"] == value["produced"]
            return made
        if isinstance(value, list):
            return [self.plain(item, live=live) for item in value]
        if isinstance(value, float):
            return kind_of(value) if live else float(f"{value:.10g}")
        return self.clean(value) if isinstance(value, str) else value

    # --- words

    def plain_name(self, name: str) -> str:
        """A file name or key without its date and place."""
        return re.sub(r"\d{8}-\d{6}", "DATE", self.placed(name))

    def placed(self, text: str) -> str:
        """Text without the places of this record."""
        for name, place in (
            *self.places.items(),
            ("@CACHE", str(self.cache)),
            ("@", str(self.work)),
        ):
            text = text.replace(place, name)
        return text

    def clean(self, text: str) -> str:
        """What a program said, without timings, dates, addresses, and how far it was."""
        return quiet(self.placed(text))


def quiet(text: str, *, live: bool = False) -> str:
    """Text without what changes from run to run; of live cases without any number."""
    for pattern, instead in NOISE:
        text = pattern.sub(instead, text)
    if live:
        text = re.sub(r"\d+(\.\d+)?", "#", text)
        text = re.sub(
            r", (dropped #|# of them idle|input size changed #( times?)?)( \([^)]*\))?", "", text
        )
    text = re.sub(r"(?<=\S) {2,}|(?<=[\s]) +(?=[+-]?#)", " ", text)
    dropped = ("running", "auto ", "         encode ")
    kept = (line for line in text.splitlines() if not line.startswith(dropped))
    return "\n".join(line.rstrip() for line in kept)


VOLATILE = frozenset(
    """fps seconds age_ms stages_ms network_fps cpu_share load_average date rounds ms load_seconds
    first_seconds cold_start_seconds peak_memory_mb peak_share gflops copy_gb_s machine git
    milliseconds passes""".split()
)
"""Keys whose values are timings, or of the machine."""
WORDING = frozenset("notes error found do what mapping input_policy".split())
"""Keys whose values are sentences."""
COUNTS = frozenset(
    """frames produced dropped dropped_by propagated keyframes inputs steps idle outages imgsz
    backend precision provider counts agreement miou mean least""".split()
)
"""Keys whose values depend on the clock where a case is live."""

NOISE = tuple(
    (re.compile(pattern, re.MULTILINE), instead)
    for pattern, instead in (
        (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
        (r"port \d+ of", "port PORT of"),
        (r"\d{8}-\d{6}", "DATE"),
        (r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d)?)?", "DATE"),
        (r"0x[0-9a-f]{6,}", "0xADDRESS"),
        (r"(?<![\w.])\d+(\.\d+)?(?= ?(s|ms|fps|MB|GB|GFLOP/s|GB/s|%)(?!\w))", "#"),
        (r"(?<![\w.])\d+(\.\d+)?(?= s,)", "#"),
        (r"^( {2,}\w+)( +\d+\.\d+){3,}$", r"\1 #"),
        (r"^( {9}.+ \d+) +\d+\.\d+ +\d+( +[\d.#-]+( ms)?)+", r"\1 #"),
        (r"^((torch|onnx|openvino) \w+ +\S+) +\d+\.\d$", r"\1 #"),
        (r"measured now|remembered, measured DATE", "measured"),
        (r"(dropped|of them|repeated) \d+( of \d+)?", r"\1 #"),
        (r"\d+ (of them )?idle", r"# \1idle"),
        (r"\((capture|stop|wait|cap|late)[^)]*\)", r"(\1 #)"),
    )
)


def kind_of(value: Json) -> Json:
    """A value by its kind: names of keys, and of types."""
    if isinstance(value, dict):
        return {key: kind_of(inner) for key, inner in sorted(value.items())}
    if isinstance(value, list):
        return [kind_of(value[0])] if value else []
    if isinstance(value, bool) or value is None:
        return str(value)
    return "number" if isinstance(value, (int, float)) else type(value).__name__


@contextmanager
def target(step: Step) -> Iterator[Any]:
    """Where a step's stdout goes."""
    if step.stdout == "full":
        with Path("/dev/full").open("wb") as device:
            yield device
    elif step.stdout == "closed":
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "wb") as pipe:
            yield pipe
    else:
        yield subprocess.PIPE


def finish(
    program: subprocess.Popen[bytes], step: Step, folder: Path, environment: dict[str, str]
) -> tuple[bytes | None, bytes, str]:
    """Wait for the end, pressing keys and sending the signal on the way; says what came late."""
    outcome: list[Any] = []
    reader = threading.Thread(target=lambda: outcome.append(program.communicate()))
    reader.start()
    since, late = time.monotonic(), ""

    def lasts() -> bool:
        return reader.is_alive() and time.monotonic() - since < PATIENCE_SECONDS

    if step.keys:
        press(program, step.keys, folder, environment, lasts)
    if step.send and step.ready is not None:
        while lasts() and not step.ready(folder, time.monotonic() - since):
            time.sleep(0.02)
        program.send_signal(step.send)
    while lasts():
        reader.join(0.2)
    if reader.is_alive():
        late = "killed, it did not end"
        program.kill()
    reader.join()
    return (*outcome[0], late)


def press(
    program: subprocess.Popen[bytes],
    keys: Sequence[str],
    folder: Path,
    environment: dict[str, str],
    lasts: Callable[[], bool],
) -> None:
    """Press keys in the program's window once it shows a picture; wait for a picture it saves."""

    def ask(*command: str) -> bytes:
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(command, env=environment, capture_output=True, timeout=20)
            return done.stdout
        return b""

    search = ("xdotool", "search", "--onlyvisible", "--pid", str(program.pid), "--name", "^rtseg")
    window = ""
    while lasts() and not window:
        window = ask(*search).decode().strip().partition("\n")[0]
        time.sleep(0.1)
    while lasts():
        seen = np.frombuffer(ask("import", "-window", "root", "png:-"), np.uint8)
        image = cv2.imdecode(seen, cv2.IMREAD_COLOR) if seen.size else None
        if image is not None and np.ptp(image, axis=-1).max() > 60:  # an empty window is grey
            break
        time.sleep(0.2)
    time.sleep(1.0)
    for key in keys:
        before = sum(1 for _ in folder.rglob("*.png"))
        ask("xdotool", "windowfocus", "--sync", window, "key", key)
        until = time.monotonic() + 15
        while key == "s" and lasts() and time.monotonic() < until:
            if sum(1 for _ in folder.rglob("*.png")) > before:
                break
            time.sleep(0.1)
        time.sleep(1.0)


# --- facts ---------------------------------------------------------------------------------------


def digest(*parts: bytes) -> str:
    """A short hash."""
    made = hashlib.sha256()
    for part in parts:
        made.update(part)
    return made.hexdigest()[:16]


def video_facts(path: Path, *, live: bool) -> Json:
    """Everything a player could notice about a video file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        facts: dict[str, Json] = {
            "streams": [s.type for s in container.streams],
            "codec": context.name,
            "size": [context.width, context.height],
            "pix_fmt": context.pix_fmt,
            "sar": str(stream.sample_aspect_ratio),
            "tags": [str(getattr(context, name)) for name in
                     ("colorspace", "color_primaries", "color_trc", "color_range")],
            "profile": str(context.profile),
            "metadata": metadata(container.metadata) | metadata(stream.metadata),
        }  # fmt: skip
        if not live:
            facts["rate"] = str(stream.average_rate)
            facts["header frames"] = stream.frames
            facts["duration"] = container.duration
    facts |= frames_facts(path, live=live)
    facts["audio"] = sound_facts(path, live=live)
    return facts


def metadata(tags: dict[str, str]) -> Json:
    """Tags of a file, without those that name the encoder's version or a duration."""
    dropped = ("encoder", "duration", "creation_time")
    return {key.lower(): value for key, value in tags.items() if key.lower() not in dropped}


def frames_facts(path: Path, *, live: bool) -> Json:
    """Count, times and pixels of the frames."""
    times, turned, made, keys = [], set(), hashlib.sha256(), 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        for frame in decoded(container, stream):
            times.append(str(fractions.Fraction(frame.pts or 0) * stream.time_base))
            turned.add(frame.rotation)
            keys += bool(frame.key_frame)
            made.update(pixels(frame))
    facts: dict[str, Json] = {"rotation": sorted(turned)}
    if live:
        seconds = [fractions.Fraction(text) for text in times]
        return facts | {"frames": bool(times), "ordered": seconds == sorted(set(seconds))}
    facts |= {"frames": len(times), "first": times[:3], "last": times[-1:], "key frames": keys}
    facts["times"] = digest(" ".join(times).encode())
    if context.name != "vp8":  # libvpx adapts its effort to the time it has
        facts["pixels"] = made.hexdigest()[:16]
    return facts


def decoded(container: Any, stream: Any) -> Iterator[Any]:
    """The frames; of VP9 with alpha by the library that decodes it."""
    if stream.metadata.get("alpha_mode") or stream.metadata.get("ALPHA_MODE"):
        decoder = av.CodecContext.create("libvpx-vp9", "r")
        for packet in container.demux(stream):
            yield from decoder.decode(packet if packet.size else None)
    else:
        yield from container.decode(stream)


def pixels(frame: Any) -> bytes:
    """The pixels of a frame in its own format, else as RGBA of 16 bits."""
    try:
        return frame.to_ndarray().tobytes()
    except (ValueError, NotImplementedError):
        return frame.reformat(format="rgba64le").to_ndarray().tobytes()


def sound_facts(path: Path, *, live: bool) -> Json:
    """Every sound track: codec, layout, packets, their times and bytes."""
    facts = []
    with av.open(str(path)) as container:
        tracks = list(container.streams.audio)
        packets: dict[int, list[Any]] = {track.index: [] for track in tracks}
        for packet in container.demux(tracks) if tracks else ():
            if packet.size:
                packets[packet.stream.index].append((packet.pts, packet.duration, bytes(packet)))
        for track in tracks:
            made, context = packets[track.index], track.codec_context
            row: dict[str, Json] = {
                "codec": context.name, "rate": context.sample_rate, "layout": context.layout.name,
                "metadata": metadata(track.metadata),
            }  # fmt: skip
            if not live:
                times = " ".join(f"{(pts or 0) * track.time_base}" for pts, *_ in made)
                row |= {"packets": len(made), "times": digest(times.encode())}
                ends = [f"{(made[n][0] or 0) * track.time_base}" for n in (0, -1)] if made else []
                row |= {"ends": ends, "hash": digest(*(content for *_, content in made))}
            facts.append(row)
    return facts


def picture_facts(path: Path, *, live: bool) -> Json:
    """Mode, size, pixels and palette of a picture."""
    with PIL.Image.open(path) as picture:
        facts: dict[str, Json] = {"mode": picture.mode, "size": list(picture.size)}
        if live:
            return facts
        facts["pixels"] = digest(picture.tobytes())
        if picture.mode == "P":
            facts["palette"] = digest(bytes(picture.getpalette() or []))
    return facts


def table_facts(path: Path, *, live: bool) -> Json:
    """A CSV file: its heading, and its rows but for timings."""
    heading, *rows = [line.split(",") for line in path.read_text("utf-8").splitlines()]
    if live:
        return {"heading": heading, "rows": len(rows) if "bench" not in heading else None}
    kept = [n for n, name in enumerate(heading) if "second" not in name and "fps" not in name]
    return {"heading": heading, "rows": [[row[n] for n in kept if n < len(row)] for row in rows]}


def onnx_facts(path: Path) -> Json:
    """What a network file takes and gives, its identity, its operators, its numbers."""
    import onnx
    from onnx import numpy_helper

    content = onnx.load(str(path))
    graph = content.graph
    ends = {
        end.name: [end.type.tensor_type.elem_type]
        + [side.dim_value or side.dim_param for side in end.type.tensor_type.shape.dim]
        for end in (*graph.input, *graph.output)
    }
    operators: dict[str, int] = {}
    for node in graph.node:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    numbers = sorted(numpy_helper.to_array(tensor).tobytes() for tensor in graph.initializer)
    about = {entry.key: entry.value for entry in content.metadata_props}
    return {
        "ends": ends,
        "opset": [[opset.domain, opset.version] for opset in content.opset_import],
        "operators": operators,
        "numbers": digest(*numbers),
        "spec": json.loads(about.get("rtseg", "null")),
        "metadata": sorted(about),
    }


def checkpoint_facts(path: Path, *, live: bool) -> Json:
    """Names, shapes and numbers of a checkpoint's tensors, and its other entries."""
    import torch

    content = torch.load(path, map_location="cpu", weights_only=False)
    tensors: dict[str, Any] = {}
    others: list[str] = []

    def walk(value: Any, place: str) -> None:
        if isinstance(value, torch.Tensor):
            tensors[place] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{place}.{key}")
        else:
            others.append(f"{place}: {type(value).__name__}")

    walk(content, "")
    shapes_of = " ".join(f"{name}{tuple(value.shape)}" for name, value in sorted(tensors.items()))
    facts = {
        "tensors": len(tensors),
        "shapes": digest(shapes_of.encode()),
        "others": sorted(others),
    }
    if live or path.suffix == ".ckpt":
        return facts | {"others": sorted({re.sub(r"\d+", "N", other) for other in others})}
    numbers = [tensors[name].contiguous().numpy().tobytes() for name in sorted(tensors)]
    return facts | {"numbers": digest(*numbers)}


# --- the Python API, each in a process of its own ------------------------------------------------

API_HELPERS = ("api_prepare_wrong", "api_bench_was_faster", "api_bench_was_slower")
"""Steps of other cases."""


def data_folder() -> Path:
    """The folder of real clips and pictures."""
    return Path(os.environ["RTSEG_DATA"])


def picture(name: str) -> Any:
    """(H, W, 3) uint8 BGR of the data folder."""
    image = cv2.imread(str(data_folder() / "pictures" / name))
    assert image is not None
    return image


def hashed(array: Any) -> Json:
    """Shape, type and hash of an array."""
    array = np.ascontiguousarray(array)
    return [list(array.shape), str(array.dtype), digest(array.tobytes())]


def api_prepare_wrong() -> Json:
    """Files of the wrong kind, in the current folder."""
    for name in ("there.mp4", "empty.mp4"):
        Path(name).write_bytes(b"")
    for name in ("text.mp4", "text.png", "text.onnx", "text.pth"):
        Path(name).write_text("this is a text, not what its name says\n" * 50)
    Path("short.txt").write_text("0 0 0\n255 0 0\n")
    Path("nothing").mkdir()
    return None


def api_bench_was_faster() -> Json:
    """Make a.json a record that was a million times as fast."""
    return _bench_was(1e6)


def api_bench_was_slower() -> Json:
    """Make a.json a record that was much slower than both."""
    return _bench_was(1e-9)


def _bench_was(times: float) -> Json:
    made = json.loads(Path("a.json").read_text())
    for row in made["rows"]:
        for figures in row["clocks"].values():
            figures["fps"] *= times
    Path("a.json").write_text(json.dumps(made))


def api_import() -> Json:
    """What the package offers, and what importing it loads."""
    import rtseg

    heavy = ("torch", "torchvision", "onnxruntime", "openvino", "numba", "lightning")
    loaded = [name for name in heavy if name in sys.modules]  # cv2 and av are loaded by this file
    listed = set(rtseg.__all__) <= set(dir(rtseg))
    return {"all": sorted(rtseg.__all__), "in dir": listed, "loaded": loaded}


def api_sources() -> Json:
    """Facts and first frames of every clip."""
    import rtseg

    found = {}
    for path in sorted((data_folder() / "videos").iterdir()):
        with rtseg.open_source(path) as source:
            info, frames = source.info, []
            for frame, _ in zip(source, range(4), strict=False):
                frames.append([frame.index, round(frame.pts, 9), hashed(frame.image)])
        found[path.name] = {
            "name": info.name, "size": [info.width, info.height], "rate": str(info.frame_rate),
            "count": info.frame_count, "live": info.live, "sar": str(info.sample_aspect_ratio),
            "tags": list(info.colour_tags or ()), "media_start": round(info.media_start, 9),
            "frames": frames, "warnings": len(source.warnings),
        }  # fmt: skip
    return found


def api_source_options() -> Json:
    """Which frames each option leaves, and how they look."""
    import rtseg

    clip, found = "test://?size=96x64&fps=30&frames=40", {}
    for options in (
        {}, {"mirror": True}, {"rotate": 90}, {"rotate": 180, "mirror": True}, {"every": 7},
        {"start": 0.5}, {"end": 0.3}, {"start": 0.2, "end": 0.9, "every": 3}, {"max_frames": 5},
        {"loop": True, "max_frames": 90}, {"fps_cap": 9.0},
    ):  # fmt: skip
        with rtseg.open_source(clip, rtseg.SourceOptions(**options)) as source:
            frames = list(source)
            found[json.dumps(options)] = [
                len(frames), [frame.index for frame in frames],
                digest(*(np.ascontiguousarray(frame.image).tobytes() for frame in frames)),
                digest(" ".join(f"{frame.pts:.9f}" for frame in frames).encode()),
            ]  # fmt: skip
    return found


def api_masks() -> Json:
    """The networks' answers on pictures, by backend."""
    import rtseg

    found: dict[str, Json] = {}
    for backend in ("torch", "onnx", "openvino"):
        for options in ({}, {"frame_size": (480, 640)}, {"imgsz": (128, 160), "refine": True}):
            chosen: dict[str, Any] = {"device": "cpu", "precision": "fp32", "threads": 1, **options}
            with rtseg.load(backend=backend, **chosen) as segmenter:
                key = f"{backend} {json.dumps(options)}"
                info = segmenter.info
                found[key] = [list(segmenter.input_size), info.name, info.device, info.precision]
                for name in ("astronaut.jpg", "humans_0.jpg"):
                    segmentation = segmenter(picture(name))
                    shares = {index: round(v, 9) for index, v in segmentation.shares.items()}
                    found[f"{key} {name}"] = [
                        hashed(segmentation.mask), shares,
                        hashed(segmentation.probability("person")), repr(segmentation),
                        digest(segmentation._repr_png_()),
                    ]  # fmt: skip
    return found


def api_networks() -> Json:
    """Other networks: of the zoo with random weights, of others, the stand-in."""
    import rtseg

    networks = data_folder() / "networks"
    found: dict[str, Json] = {}
    for name, options in (
        (
            "lraspp_mobilenet_v3_large",
            {"weights": "random", "imgsz": (96, 128), "backend": "torch"},
        ),
        ("lraspp_mobilenet_v3_large", {"weights": "random", "imgsz": (96, 128), "backend": "onnx"}),
        ("deeplabv3_resnet50", {"weights": "random", "imgsz": (64, 64), "backend": "torch"}),
        (networks / "deeplabv3_mobilenet_v2_voc.onnx", {"backend": "onnx"}),
        (networks / "selfie_segmentation.onnx", {"backend": "onnx"}),
        ("stub", {"backend": "stub"}),
    ):
        chosen: dict[str, Any] = {**options, "threads": 1, "device": "cpu"}
        if options["backend"] != "stub":
            chosen["precision"] = "fp32"
        with rtseg.load(name, **chosen) as segmenter:
            labels, size = segmenter.spec.labels, list(segmenter.input_size)
            identity = [list(labels.names), list(labels.colours), labels.background, size]
            mask = hashed(segmenter(picture("dog.jpg")).mask)
            found[f"{Path(name).name} {options['backend']}"] = [*identity, mask]
    return found


def api_select_classes() -> Json:
    """Classes by name and number."""
    import rtseg

    with rtseg.load("stub", backend="stub", classes=["1", 2]) as segmenter:
        labels = segmenter.labels
        with rtseg.open_source("test://?size=96x64&frames=2") as source:
            masks = [
                hashed(segmentation.mask) for _, segmentation in rtseg.stream(source, segmenter)
            ]
    return [masks, [labels.index(name) for name in labels.names], sorted(labels.select(["1", 3]))]


def _streamed(clip: Any, segmenter: Any, **options: Any) -> Json:
    import rtseg

    rows, made = [], hashlib.sha256()
    for frame, segmentation in rtseg.stream(clip, segmenter, **options):
        rows.append([frame.index, round(frame.pts, 9), _carried(segmentation)])
        made.update(segmentation.mask.tobytes())
    return [rows, made.hexdigest()[:16]]


def _carried(segmentation: Any) -> Json:
    carried = segmentation.carried
    return None if carried is None else [carried.key, carried.idle]


def _person(**options: Any) -> Any:
    import rtseg

    given: dict[str, Any] = {"backend": "onnx", "device": "cpu", "precision": "fp32", "threads": 1}
    return rtseg.load(**{**given, **options})


def api_stream() -> Json:
    """Frames and masks of a clip, with every way that frames are tied together."""
    import rtseg

    clip, found = data_folder() / "videos" / "intel_asl_eat.mkv", {}
    for options in (
        {}, {"smooth": 0.8}, {"propagate": True}, {"propagate": True, "key_every": 6},
        {"propagate": True, "smooth": 0.5}, {"idle": True},
    ):  # fmt: skip
        with _person(frame_size=(480, 640)) as segmenter:
            temporal = rtseg.TemporalOptions(**options)
            found[json.dumps(options)] = _streamed(
                clip, segmenter, temporal=temporal, max_frames=30
            )
    with _person(frame_size=(480, 640), lanes=2) as segmenter:
        found["two lanes"] = _streamed(clip, segmenter, max_frames=30)
    return found


def api_stream_many() -> Json:
    """Several sources through one network; of each, frames in order and their masks."""
    import rtseg

    clips = data_folder() / "videos"
    sources = [clips / "intel_asl_eat.mkv", clips / "imageio_realshort.mp4", "nothing.mp4",
               "test://?size=96x64&frames=9&fail=4"]  # fmt: skip
    rows: dict[int, list[Json]] = {}
    made: dict[int, Any] = {}
    ended: dict[int, Json] = {}

    def on_end(number: int, error: Exception | None) -> None:
        ended[number] = type(error).__name__

    with _person(frame_size=(240, 320)) as segmenter:
        for number, frame, segmentation in rtseg.stream_many(
            sources, segmenter, on_end=on_end, max_frames=15
        ):
            rows.setdefault(number, []).append([frame.index, round(frame.pts, 9)])
            made.setdefault(number, hashlib.sha256()).update(segmentation.mask.tobytes())
    return {str(n): [rows.get(n), made[n].hexdigest()[:16] if n in made else None, ended.get(n)]
            for n in range(len(sources))}  # fmt: skip


def api_views() -> Json:
    """What every view and background draws."""
    import rtseg

    image, found = picture("humans_0.jpg"), {}
    with _person() as segmenter:
        frame = rtseg.Frame(image, 0, 0.0, 0.0)
        for options in (
            *({"view": view} for view in ("overlay", "mask", "side", "contours", "cutout")),
            *({"background": b} for b in ("blur", "blur:9", "red", "#102030", "transparent")),
            {"background": str(data_folder() / "pictures" / "city_0.jpg")},
            {"view": "side", "background": "blur"}, {"legend": True}, {"alpha": 0.9},
            {"background": "green", "feather": 4.0, "matte_threshold": 0.3},
        ):  # fmt: skip
            effect = rtseg.open_effect(rtseg.ViewOptions(**options), segmenter.labels)
            key = json.dumps(options).replace(str(data_folder()), "@DATA")
            found[key] = hashed(effect(frame, segmenter(image)))
    return found


def api_run() -> Json:
    """The whole loop with an effect and a sink of one's own, and every kind of sink."""
    import rtseg

    shown: list[Json] = []

    class Own(rtseg.Sink):
        """Keeps what it was given."""

        def write(self, rendered: Any) -> None:
            shown.append([rendered.frame.index, hashed(rendered.image), hashed(rendered.picture)])

    def only_people(frame: Any, segmentation: Any) -> Any:
        return frame.image * (segmentation.mask > 0)[..., None]

    files = ("a.mp4", "b.mkv", "pictures/", "f_%03d.png", "mask:m.mkv", "mask:masks/", "null:",
             "json:j.jsonl", "figure:figure.png")  # fmt: skip
    with ExitStack() as stack:
        source = stack.enter_context(rtseg.open_source("test://?size=96x64&frames=6"))
        segmenter = stack.enter_context(rtseg.load("stub", backend="stub"))
        sinks = [stack.enter_context(Own())]
        for target_name in files:
            options = rtseg.SinkOptions(rle=True, crf=None)
            sink = rtseg.open_sink(target_name, source.info, segmenter.labels, options)
            sinks.append(stack.enter_context(sink))
        report = rtseg.run(source, segmenter, only_people, sinks)
    names = ("frames", "produced", "dropped", "backend", "device", "model", "source")
    figures = {name: getattr(report, name) for name in names}
    told = {"fields": sorted(vars(report)), "figures": figures}
    return {"shown": shown, **told, "stages": sorted(report.stages_ms)}


def api_options() -> Json:
    """Fields and defaults of the options."""
    from dataclasses import fields

    import rtseg

    names = (
        "SourceOptions",
        "ViewOptions",
        "SinkOptions",
        "TemporalOptions",
        "SourceInfo",
        "Frame",
    )
    return {name: {one.name: repr(one.default) for one in fields(getattr(rtseg, name))
                   if "MISSING" not in repr(one.default)} for name in names}  # fmt: skip


def api_errors() -> Json:
    """What is raised: its class, its exit code, and the order of its fields."""
    import rtseg

    def opened(**options: Any) -> Any:
        return rtseg.SourceOptions(**options)

    def stub() -> Any:
        return rtseg.load("stub", backend="stub")

    tried: dict[str, Callable[[], Any]] = {
        "missing source": lambda: rtseg.open_source("nothing.mp4"),
        "unknown scheme": lambda: rtseg.open_source("gopher://host/x"),
        "bad setting": lambda: rtseg.open_source("test://?nonsense=1"),
        "failing source": lambda: list(rtseg.open_source("test://?size=96x64&fail=0")),
        "unknown network": lambda: rtseg.load("nonsense"),
        "missing network": lambda: rtseg.load("nothing.onnx"),
        "unknown backend": lambda: rtseg.load("stub", backend="nonsense"),
        "unknown class": lambda: rtseg.load("stub", backend="stub", classes=["unicorn"]),
        "bad size": lambda: rtseg.load("stub", backend="stub", imgsz=(3, 0)),
        "no such device": lambda: rtseg.load(device="cuda", backend="torch", strict_device=True),
        "bad rotation": lambda: opened(rotate=45),
        "bad every": lambda: opened(every=0),
        "bad end": lambda: opened(start=3.0, end=2.0),
        "bad view": lambda: rtseg.ViewOptions(view="sepia"),
        "bad background": lambda: rtseg.ViewOptions(background="no.such"),
        "bad smooth": lambda: rtseg.TemporalOptions(smooth=2.0),
        "bad keys": lambda: rtseg.TemporalOptions(key_every=3),
        "bad target": lambda: rtseg.open_sink(
            "out.xyz", rtseg.open_source("test://").info, stub().labels
        ),
        "bad labels": lambda: rtseg.LabelSet(("a",), ((0, 0, 0),)),
        "not a picture": lambda: stub()(np.zeros((4, 4), np.uint8)),
        "float picture": lambda: stub()(np.zeros((4, 4, 3), np.float32)),
    }
    found = {}
    for name, attempt in tried.items():
        try:
            attempt()
            found[name] = None
        except Exception as error:
            found[name] = [type(error).__name__, getattr(error, "exit_code", None),
                           isinstance(error, rtseg.RtsegError)]  # fmt: skip
    return found


# --- record and compare --------------------------------------------------------------------------


def record(args: argparse.Namespace) -> int:
    """Run the cases, and write what they did."""
    tree, data = args.tree.resolve(), args.data.resolve()
    work = Path(tempfile.mkdtemp(prefix="rtseg-behaviour-"))
    cache = (args.cache or Path(tempfile.mkdtemp(prefix="rtseg-cache-"))).resolve()
    cache.mkdir(parents=True, exist_ok=True)
    os.environ["RTSEG_DATA"] = str(data)
    run = Run(tree, work, cache, data)
    check_tree(run)
    make_inputs(work / "in", data)
    results: dict[str, Json] = {}
    if args.append and args.out.is_file():
        results = json.loads(args.out.read_text())["cases"]
    since = time.monotonic()
    chosen = [case for case in CASES.values() if wanted(case.name, args.only)]

    saving = threading.Lock()

    def run_one(case: Case) -> None:
        began = time.monotonic()
        found = replace(run, texts=[]).case(case)
        codes = [step["exit"] for step in found["steps"]]
        print(f"{case.name:<34}{time.monotonic() - began:6.1f} s  exit {codes}", flush=True)
        with saving:
            results[case.name] = found
            kept = {name: results[name] for name in [*CASES, *results] if name in results}
            args.out.write_text(json.dumps({"format": FORMAT, "cases": kept}, indent=1) + "\n")

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(run_one, (case for case in chosen if not case.alone)))
    for case in chosen:
        if case.alone:
            run_one(case)
    shutil.rmtree(work)
    if args.cache is None:
        shutil.rmtree(cache)
    print(f"{len(chosen)} cases in {time.monotonic() - since:.0f} s, written to {args.out}")
    return 0


def wanted(name: str, only: str) -> bool:
    """Whether a case is asked for: by its name, or by a beginning that ends in *."""
    names = [one for one in only.split(",") if one]
    return not names or any(
        name.startswith(one[:-1]) if one.endswith("*") else name == one for one in names
    )


def check_tree(run: Run) -> None:
    """Make sure that the rtseg of the tree is the one that runs."""
    code = "import rtseg; print(rtseg.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=run.environment(Step()), capture_output=True, text=True,
        cwd=run.work, check=True,
    )  # fmt: skip
    if not Path(done.stdout.strip()).is_relative_to(run.tree):
        raise SystemExit(f"python imports {done.stdout.strip()}, not the rtseg of {run.tree}")


def compare(args: argparse.Namespace) -> int:
    """Print every difference between two records; 1 if there is one."""
    before = json.loads(args.before.read_text())["cases"]
    after = json.loads(args.after.read_text())["cases"]
    differing = 0
    for name in [*before, *(name for name in after if name not in before)]:
        if not wanted(name, args.only):
            continue
        if name not in before or name not in after:
            missing = [f"only in {args.before if name in before else args.after}"]
            if args.partial:
                continue
        else:
            missing = []
        found = missing or list(differences(name, before[name], after[name], args.texts))
        if found:
            differing += 1
            print(f"\n{name}")
            print("\n".join(f"  {line}" for line in found))
    shared = len(before.keys() & after.keys())
    print(f"\n{differing} cases differ" if differing else f"no difference in {shared} cases")
    return 1 if differing else 0


def differences(name: str, before: Json, after: Json, texts: bool) -> Iterator[str]:
    """Lines that tell where two results of one case differ."""
    for part in ("steps", "files"):
        yield from unequal(before[part], after[part], part)
    if texts:
        live = name in CASES and CASES[name].live
        yield from unequal_texts(before, after, live=live)


def unequal(before: Json, after: Json, place: str) -> Iterator[str]:
    """Where two values differ, from the outside in."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            inner = f"{place} / {key}"
            if key not in after:
                yield f"{inner}: gone, was {brief(before[key])}"
            elif key not in before:
                yield f"{inner}: new, {brief(after[key])}"
            else:
                yield from unequal(before[key], after[key], inner)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            named = isinstance(one, dict) and one.get("command")
            inner = f"`rtseg {named}`" if named else f"{place} [{number}]"
            yield from unequal(one, other, inner)
    elif before != after and all(map(is_names, (before, after))):
        gone, new = sorted(set(before) - set(after)), sorted(set(after) - set(before))
        yield f"{place}: gone {gone}, new {new}" if gone or new else f"{place}: in another order"
    elif before != after:
        yield f"{place}: {brief(before)} -> {brief(after)}"


def is_names(value: Json) -> bool:
    """Whether a value is a list of strings, none of them twice."""
    return (
        isinstance(value, list)
        and all(isinstance(item, str) for item in value)
        and len(set(value)) == len(value)
    )


def unequal_texts(before: Json, after: Json, *, live: bool) -> Iterator[str]:
    """What was said otherwise, line by line."""
    one, other = before["texts"], after["texts"]
    for number, step in enumerate(before["steps"]):
        for stream in ("stdout", "stderr"):
            pair = [
                texts["said"][number][stream] if number < len(texts["said"]) else ""
                for texts in (one, other)
            ]
            if lines := list(changed(*pair, live=live)):
                yield f"`rtseg {step['command']}` {stream}:"
                yield from (f"  {line}" for line in lines)
    yield from changed("\n".join(one["in"]), "\n".join(other["in"]), live=live)


def changed(before: str, after: str, *, live: bool) -> Iterator[str]:
    """Lines that are gone, and new ones."""
    pair = [quiet(text, live=live).splitlines() for text in (before, after)]
    lines = list(difflib.unified_diff(*pair, lineterm="", n=0))[2:]
    return (line for line in lines if not line.startswith("@@"))


def brief(value: Json, most: int = 160) -> str:
    """A value in one line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[:most]}..."


def default_data() -> Path:
    """`shared/data` beside the project, or above."""
    for parent in HERE.parents:
        if (parent / "shared" / "data").is_dir():
            return parent / "shared" / "data"
    return Path(os.environ.get("RTSEG_DATA", "data"))


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    recording = verbs.add_parser("record")
    recording.add_argument("out", type=Path)
    recording.add_argument("--only", default="", help="names of cases; NAME* for a beginning")
    recording.add_argument("--tree", type=Path, default=HERE.parents[1])
    recording.add_argument("--data", type=Path, default=default_data())
    recording.add_argument("--cache", type=Path, help="folder of exports, kept between records")
    recording.add_argument(
        "--jobs", type=int, default=2, help="cases at once, but for live ones and windows"
    )
    recording.add_argument("--append", action="store_true", help="keep the other cases of OUT")
    comparing = verbs.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--texts", action="store_true", help="compare what is printed, too")
    comparing.add_argument("--partial", action="store_true", help="only cases that both have")
    comparing.add_argument("--only", default="")
    verbs.add_parser("list")
    calling = verbs.add_parser("api")
    calling.add_argument("name")
    args = parser.parse_args()
    define_cases()
    if args.verb == "api":
        print(json.dumps(globals()[f"api_{args.name}"]()))
        return 0
    if args.verb == "list":
        for case in CASES.values():
            print(f"{case.name:<34}{len(case.steps)} steps{', live' if case.live else ''}")
        return 0
    return record(args) if args.verb == "record" else compare(args)


if __name__ == "__main__":
    sys.exit(main())
