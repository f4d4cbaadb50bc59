"""Small files that would take all memory or never end are refused, by header, count and time."""

from __future__ import annotations

import base64
import copy
import re
import resource
import struct
import subprocess
import time
import tracemalloc
import zipfile
import zlib
from fractions import Fraction
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2  # noqa: F401  # isort: skip - ahead of av
import av
import numpy as np
import onnx
import pytest
import torch
from clips import write_clip
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from pycocotools.mask import encode

from rtseg.backends import base, open_backend
from rtseg.cache import TRIED
from rtseg.datasets.coco import Outline, Outlines, paint, run_lengths
from rtseg.datasets.exports import _png
from rtseg.errors import DatasetError, ModelError, SourceError, UsageError
from rtseg.images import (
    image_size,
    is_animated,
    is_animation,
    is_image,
    read_image,
    read_stored,
    refusal,
)
from rtseg.limits import IMAGE_PIXELS, MODEL_GB, MODEL_SECONDS, VIDEO_PIXELS, Limit
from rtseg.media import over_paper
from rtseg.nets import find_model, shipped
from rtseg.nets.onnx_file import is_plain_file
from rtseg.nets.state import read_checkpoint
from rtseg.sources.pictures import AnimationSource, PictureSource
from rtseg.sources.video import VideoSource
from rtseg.training.loop import load_state

FLOAT = TensorProto.FLOAT
node = helper.make_node


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(base, "_refused", {})


def constant(name: str, value: Any, dtype: type = np.int64) -> Any:
    return numpy_helper.from_array(np.array(value, dtype), name)


def value(name: str, shape: Any = None, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def network(path: Path, nodes: list[Any], *constants: Any, functions: Any = ()) -> Path:
    """A network of a convolution, "c", and `nodes`, which end in "logits" (1, 2, 32, 32)."""
    weight = constant("w", np.ones((2, 3, 1, 1)), np.float32)
    graph = helper.make_graph(
        [node("Conv", ["image", "w"], ["c"]), *nodes],
        "g",
        [value("image", (1, 3, 32, 32))],
        [value("logits", (1, 2, 32, 32))],
        [weight, *constants],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    content = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)
    path.write_bytes(content.SerializeToString())
    return path


def added(name: str) -> list[Any]:
    """The largest number of a tensor, added to the convolution."""
    return [node("ReduceMax", [name], ["m"], keepdims=0), node("Add", ["c", "m"], ["logits"])]


def function(name: str, callee: str, times: int) -> Any:
    domain = "" if callee == "Identity" else "local"
    steps = [node(callee, [f"y{i}"], [f"y{i + 1}"], domain=domain) for i in range(times)]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["y0"], [f"y{times}"], steps, opsets)


def loop(trips: str, state: str = "c") -> Any:
    """An endless loop, or one of `trips`."""
    body = helper.make_graph(
        [node("Identity", ["going"], ["goes"]), node("Identity", ["v"], ["v2"])],
        "body",
        [value("i", [], TensorProto.INT64), value("going", [], TensorProto.BOOL), value("v")],
        [value("goes", [], TensorProto.BOOL), value("v2")],
    )
    return node("Loop", [trips, "true", state], ["logits" if state == "c" else "k"], body=body)


TRUE = constant("true", True, np.bool_)
MILLION = 10**6


def circles(path: Path) -> Path:
    return network(
        path,
        [
            node("Add", ["c", "b"], ["a"]),
            node("Relu", ["a"], ["b"]),
            node("Identity", ["b"], ["logits"]),
        ],
    )


def moves(path: Path) -> Path:
    return network(path, [node("Identity", ["b"], ["logits"]), node("Identity", ["logits"], ["b"])])


def branch(path: Path) -> Path:
    """A circle through what a branch reads from outside."""
    inner = helper.make_graph([node("Identity", ["logits"], ["x"])], "then", [], [value("x")])
    other = helper.make_graph([node("Identity", ["c"], ["y"])], "else", [], [value("y")])
    choice = node("If", ["true"], ["b"], then_branch=inner, else_branch=other)
    return network(path, [choice, node("Identity", ["b"], ["logits"])], TRUE)


def itself(path: Path) -> Path:
    call = node("f", ["c"], ["logits"], domain="local")
    return network(path, [call], functions=[function("f", "f", 1)])


def each_other(path: Path) -> Path:
    call = node("f", ["c"], ["logits"], domain="local")
    return network(path, [call], functions=[function("f", "g", 1), function("g", "f", 1)])


def laughs(path: Path) -> Path:
    """Nine functions, each calling the next one ten times."""
    call = node("f0", ["c"], ["logits"], domain="local")
    names = [f"f{i}" for i in range(9)] + ["Identity"]
    functions = [function(names[i], names[i + 1], 10) for i in range(9)]
    return network(path, [call], functions=functions)


@pytest.mark.parametrize("make", [circles, moves, branch, itself, each_other, laughs])
def test_a_graph_that_cannot_end_is_refused_when_it_is_read(make: Any, tmp_path: Path) -> None:
    path = make(tmp_path / "x.onnx")
    with pytest.raises(ModelError, match=r"circle|calls itself|amount to 1e\+09"):
        find_model(str(path))


def grown(path: Path, operator: str, tensor: str, *constants: Any, **attributes: Any) -> Path:
    made = node(operator, [tensor, *(each.name for each in constants)], ["k"], **attributes)
    made.input[:] = [name for name in made.input if name != "-"]
    return network(path, [made, *added("k")], *constants)


HUGE = {
    "ConstantOfShape": lambda path: grown(
        path, "ConstantOfShape", "-", constant("s", [MILLION, MILLION])
    ),
    "ConstantOfShape of 2^80": lambda path: grown(
        path, "ConstantOfShape", "-", constant("s", [2**40, 2**40])
    ),
    "Expand": lambda path: grown(path, "Expand", "c", constant("s", [MILLION, MILLION, 2, 32, 32])),
    "Resize": lambda path: network(
        path,
        [node("Resize", ["c", "", "s"], ["k"]), *added("k")],
        constant("s", [1, 1, 1e6, 1e6], np.float32),
    ),
    "Pad": lambda path: grown(
        path, "Pad", "c", constant("s", [0, 0, 0, 0, 0, 0, MILLION, MILLION])
    ),
    "OneHot": lambda path: grown(
        path,
        "OneHot",
        "-",
        constant("i", [1]),
        constant("d", 10**12),
        constant("v", [0, 1], np.float32),
    ),
    "RandomNormal": lambda path: grown(path, "RandomNormal", "-", shape=[MILLION, MILLION]),
    "Concat": lambda path: network(
        path,
        [
            *(
                node("Concat", [f"d{i}" if i else "c"] * 2, [f"d{i + 1}"], axis=1)
                for i in range(30)
            ),
            *added("d30"),
        ],
    ),
    "MatMul": lambda path: network(
        path,
        [
            node("Tile", ["c", "t"], ["e"]),
            node("Reshape", ["e", "s"], ["a"]),
            node("Reshape", ["e", "z"], ["b"]),
            node("MatMul", ["a", "b"], ["k"]),
            *added("k"),
        ],
        constant("t", [100, 1, 1, 1]),
        constant("s", [-1, 1]),
        constant("z", [1, -1]),
    ),
}


@pytest.mark.parametrize("kind", HUGE)
def test_a_huge_tensor_is_refused_by_its_shape(kind: str, tmp_path: Path) -> None:
    path = HUGE[kind](tmp_path / "x.onnx")
    with pytest.raises(ModelError) as caught:
        is_plain_file(path, (32, 32))
    assert kind.split()[0] in caught.value.found
    assert MODEL_GB.variable in caught.value.do


def test_a_long_list_of_sides_is_not_followed(tmp_path: Path) -> None:
    """Following the values of a shape that is doubled 40 times would take all memory."""
    doubled = [node("Concat", [f"s{i}"] * 2, [f"s{i + 1}"], axis=0) for i in range(40)]
    steps = [node("Shape", ["c"], ["s0"]), *doubled, node("Cast", ["s40"], ["k"], to=FLOAT)]
    path = network(tmp_path / "x.onnx", [*steps, *added("k")])
    with pytest.raises(ModelError, match="Concat"):
        is_plain_file(path, (32, 32))


def test_what_a_file_claims_of_its_shapes_does_not_count(tmp_path: Path) -> None:
    path = HUGE["Pad"](tmp_path / "x.onnx")
    content = onnx.load(path)
    content.graph.value_info.append(value("k", (1, 2, 32, 32)))
    onnx.save(content, path)
    with pytest.raises(ModelError, match="Pad"):
        is_plain_file(path, (32, 32))


@pytest.mark.parametrize("size", [(64, 96), (288, 512), (1088, 1920)])
def test_the_shipped_network_needs_no_trial(size: tuple[int, int]) -> None:
    assert is_plain_file(shipped()["person"].with_suffix(".onnx"), size)


UNBOUNDED = {
    "a loop": lambda path: network(path, [loop("n")], TRUE, constant("n", 3)),
    "a shape from the image": lambda path: network(
        path,
        [
            node("Cast", ["c"], ["whole"], to=TensorProto.INT64),
            node("Reshape", ["whole", "flat"], ["r"]),
            node("Slice", ["r", "zero", "one"], ["s"]),
            node("Abs", ["s"], ["t"]),
            node("ConstantOfShape", ["t"], ["k"]),
            *added("k"),
        ],
        constant("flat", [-1]),
        constant("zero", [0]),
        constant("one", [1]),
    ),
    "an operator of unknown work": lambda path: network(
        path, [node("Einsum", ["c"], ["logits"], equation="abcd->abcd")]
    ),
    "much work": lambda path: network(
        path,
        [
            node("ConstantOfShape", ["s"], ["a"]),
            node("MatMul", ["a", "a"], ["b"]),
            node("MatMul", ["b", "b"], ["k"]),
            *added("k"),
        ],
        constant("s", [8192, 8192]),
    ),
    "a large kernel": lambda path: network(
        path,
        [
            node("Pad", ["c", "p"], ["d"]),
            node("MaxPool", ["d"], ["k"], kernel_shape=[1000, 1000]),
            *added("k"),
        ],
        constant("p", [0, 0, 0, 0, 0, 0, 4000, 4000]),
    ),
}


@pytest.mark.parametrize("kind", UNBOUNDED)
def test_what_shapes_do_not_bound_is_tried_first(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = UNBOUNDED[kind](tmp_path / "x.onnx")
    assert not is_plain_file(path, (32, 32))

    def slow(*given: object) -> bool:
        raise ModelError("it does not run once")

    monkeypatch.setattr(base, "_runs_within_limits", slow)
    for backend in ("onnx", "openvino"):
        with pytest.raises(ModelError, match="does not run once"):
            open_backend(backend, find_model(str(path)))


def test_a_trial_that_passed_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, trials = UNBOUNDED["a loop"](tmp_path / "x.onnx"), []
    monkeypatch.setattr(base, "_runs_within_limits", lambda *given: trials.append(given) or True)
    pruned: list[tuple[Path, str]] = []
    monkeypatch.setattr(base, "make_room", lambda *given: pruned.append(given))
    for _ in range(2):
        open_backend("onnx", find_model(str(path))).close()
    assert len(trials) == 1
    network(path, [loop("n")], TRUE, constant("n", 4))
    open_backend("onnx", find_model(str(path))).close()
    assert len(trials) == 2, "another file"
    folder = pruned[0][0]
    assert pruned == [(folder, TRIED)] * 2
    assert all(re.fullmatch(TRIED, each.name) for each in folder.iterdir())


ENDLESS = {
    "Loop": lambda path: network(path, [loop("")], TRUE),
    "Loop of 2^62": lambda path: network(path, [loop("n")], TRUE, constant("n", 2**62)),
    "constant Loop": lambda path: network(
        path,
        [loop("n", "one"), node("Add", ["c", "k"], ["logits"])],
        TRUE,
        constant("n", 2**62),
        constant("one", 1, np.float32),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_a_network_that_never_ends_is_refused_in_time(
    kind: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MODEL_SECONDS.variable, "5")
    model = find_model(str(ENDLESS[kind](tmp_path / "x.onnx")))
    start = time.monotonic()
    with pytest.raises(ModelError) as caught:
        open_backend(backend, model)
    assert time.monotonic() - start < 20
    # OpenVINO does not know every kind of loop
    assert MODEL_SECONDS.variable in caught.value.do or backend == "openvino"
    start = time.monotonic()
    with pytest.raises(ModelError):
        open_backend("onnx", model)
    if MODEL_SECONDS.variable in caught.value.do:
        assert time.monotonic() - start < 2, "the second backend keeps nobody waiting"


@pytest.mark.slow
def test_a_network_that_takes_all_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop keeps every state: 10^8 times 8 kB."""
    monkeypatch.setenv(MODEL_GB.variable, "2")
    endless = loop("n")
    body = endless.attribute[0].g
    body.node.append(node("Identity", ["v"], ["kept"]))
    body.output.append(value("kept"))
    endless.output.append("all")
    path = network(tmp_path / "x.onnx", [endless], TRUE, constant("n", 10**8))
    with pytest.raises(ModelError) as caught:
        open_backend("onnx", find_model(str(path)))
    assert MODEL_GB.variable in caught.value.do


@pytest.mark.slow
def test_a_real_loop_runs(tmp_path: Path) -> None:
    backend = open_backend("onnx", find_model(str(UNBOUNDED["a loop"](tmp_path / "x.onnx"))))
    assert backend(base.noise((32, 32))).shape == (1, 2, 32, 32)
    backend.close()


# --- images and videos ---------------------------------------------------------------------------

SIDE = 40_000


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@cache
def png(width: int, height: int, extra: bytes = b"") -> bytes:
    """A PNG of one bit per pixel that is complete, and small."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    packing = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packing.compress(row * 64) for _ in range(height // 64)) + packing.flush()
    return (
        b"\x89PNG\r\n\x1a\n" + header + extra + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    )


def saved(kind: str, **options: Any) -> bytearray:
    content = BytesIO()
    Image.new("RGB", (64, 64)).save(content, kind, **options)
    return bytearray(content.getvalue())


def patched(content: bytearray, at: int, sides: bytes) -> bytes:
    content[at : at + len(sides)] = sides
    return bytes(content)


def jpeg(**options: Any) -> bytes:
    content = saved("JPEG", **options)
    at = content.index(b"\xff\xc2" if options else b"\xff\xc0") + 5
    return patched(content, at, struct.pack(">HH", SIDE, SIDE))


def animated_webp() -> bytes:
    frames = [Image.new("RGB", (16, 16), (90 * i, 0, 0)) for i in range(3)]
    content = BytesIO()
    frames[0].save(content, "WEBP", save_all=True, append_images=frames[1:])
    whole = bytearray(content.getvalue())
    return patched(whole, whole.index(b"VP8X") + 12, SIDE.to_bytes(3, "little") * 2)


BOMBS = {
    "a.png": lambda: png(SIDE, 64 * (SIDE // 64)),
    "a.jpg": jpeg,
    "progressive.jpg": lambda: jpeg(progressive=True),
    "a.webp": animated_webp,
    "a.gif": lambda: patched(saved("GIF"), 6, struct.pack("<HH", SIDE, SIDE)),
    "a.bmp": lambda: patched(saved("BMP"), 18, struct.pack("<ii", SIDE, SIDE)),
    "a.ppm": lambda: b"P6 40000 40000 255\n" + bytes(1000),
    "a.tga": lambda: patched(saved("TGA"), 12, struct.pack("<HH", SIDE, SIDE)),
    "a.qoi": lambda: b"qoif" + struct.pack(">II", SIDE, SIDE) + b"\3\0" + bytes(3000),
    "another name.jpg": lambda: png(SIDE, 64 * (SIDE // 64)),
}


def many_gif_frames(count: int) -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", 64, 48, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0"
    return screen + frame * count + b";"


def many_tiff_pages(count: int) -> bytes:
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 278: 8, 279: 64}
    page = struct.pack("<H", len(tags))
    page += b"".join(struct.pack("<HHII", tag, 4, 1, found) for tag, found in tags.items())
    first, step = 8 + 64, len(page) + 4
    ends = (first + step * (number + 1) for number in range(count))
    pages = b"".join(page + struct.pack("<I", end) for end in ends)
    return b"II*\0" + struct.pack("<I", first) + bytes(64) + pages[:-4] + bytes(4)


def animation(kind: str) -> bytearray:
    frames = [Image.new("RGB", (64, 48), (90 * i, 0, 0)) for i in range(3)]
    content = BytesIO()
    frames[0].save(content, kind, save_all=True, append_images=frames[1:], duration=40)
    return bytearray(content.getvalue())


def many_webp_frames(count: int) -> bytes:
    whole = animation("WEBP")
    at = whole.index(b"ANMF")
    length = 8 + int.from_bytes(whole[at + 4 : at + 8], "little")
    body = bytes(whole[8:at]) + bytes(whole[at : at + length + length % 2]) * count
    return b"RIFF" + struct.pack("<I", len(body)) + body


def declared_png_frames(count: int) -> bytes:
    whole = animation("PNG")
    at = whole.index(b"acTL")
    declared = png_chunk(b"acTL", struct.pack(">II", count, 0))
    return bytes(whole[: at - 4] + declared + whole[at + 16 :])


MANY = {
    "a.gif": lambda: many_gif_frames(1_000_000),
    "a.tif": lambda: many_tiff_pages(40_000),
    "a.webp": lambda: many_webp_frames(40_000),
    "a.png": lambda: declared_png_frames(2**31 - 1),
}


@pytest.mark.parametrize("name", MANY)
def test_the_first_of_millions_of_images_is_read_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(MANY[name]())
    start = time.process_time()
    assert is_animated(path)
    assert is_animation(path) == (name in ("a.webp", "a.png"))
    assert refusal(path) == ("animated" if name == "a.gif" else "")
    assert image_size(path, SourceError) == read_stored(path, SourceError).values.shape[:2]
    with PictureSource(str(path)) as source:
        assert len(list(source)) == 1
    assert len(source.warnings) == 1
    if is_animation(path):
        with AnimationSource(str(path)) as source:
            assert next(iter(source)).index == 0
    assert time.process_time() - start < 2, "seconds"


def test_an_animation_ends_with_an_error_where_declared_images_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(declared_png_frames(2**31 - 1))
    with AnimationSource(str(path)) as source:
        frames = iter(source)
        assert [next(frames).index for _ in range(3)] == [0, 1, 2]
        with pytest.raises(SourceError, match="damaged"):
            next(frames)


@pytest.mark.parametrize("name", BOMBS)
def test_an_image_of_too_many_pixels_is_refused_by_its_header(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(BOMBS[name]())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (read_image, read_stored, image_size):
        with pytest.raises(SourceError) as caught:
            read(tmp_path / name, SourceError)
        assert IMAGE_PIXELS.variable in str(caught.value)
    assert is_image(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"


def test_the_limit_of_pixels_is_set_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "a.png", tmp_path / "a.jpg"]
    for path in paths:
        Image.new("RGB", (64, 64)).save(path)
    monkeypatch.setenv(IMAGE_PIXELS.variable, "4096")
    assert [read_image(path, SourceError).shape for path in paths] == [(64, 64, 3)] * 2
    monkeypatch.setenv(IMAGE_PIXELS.variable, "4095")
    for path in paths:
        with pytest.raises(SourceError, match=IMAGE_PIXELS.variable):
            read_image(path, SourceError)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_text_in_a_png_that_unpacks_to_gigabytes_is_refused(kind: bytes, tmp_path: Path) -> None:
    packing = zlib.compressobj(9)
    packed = b"".join(packing.compress(bytes(1 << 20)) for _ in range(80)) + packing.flush()
    flags = b"k\0\1\0\0\0" if kind == b"iTXt" else b"k\0\0"
    path = tmp_path / "a.png"
    path.write_bytes(png(64, 64, png_chunk(kind, flags + packed)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SourceError):
        read_image(path, SourceError)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"


def test_no_image_starts_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands EPS to Ghostscript."""
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    monkeypatch.setattr(subprocess, "check_call", lambda *given: pytest.fail("a program"))
    for read in (read_image, read_stored):
        with pytest.raises(SourceError):
            read(path, SourceError)


def video(path: Path, side: int) -> Path:
    """A video of PNGs that says of itself that it is 64 pixels wide."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("png", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "monob"
        content = png(side, side)
        for number in range(3):
            packet = av.Packet(content)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream = Fraction(1, 25), stream
            file.mux(packet)
    return path


def test_a_video_of_too_many_pixels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = video(tmp_path / "a.mov", 1024)
    with VideoSource(str(path)) as source:
        assert len(list(source)) == 3
    monkeypatch.setenv(VIDEO_PIXELS.variable, f"{1024 * 1024 - 1}")
    with pytest.raises(SourceError) as caught:
        VideoSource(str(path))
    assert VIDEO_PIXELS.variable in caught.value.do


def test_a_video_that_declares_too_many_pixels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "a.mp4")  # 128x96
    monkeypatch.setenv(VIDEO_PIXELS.variable, "8000")
    with pytest.raises(SourceError) as caught:
        VideoSource(str(path))
    assert VIDEO_PIXELS.variable in caught.value.do


@pytest.mark.slow
def test_a_video_of_16k_takes_no_memory(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mov", 16000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SourceError, match=VIDEO_PIXELS.variable):
        VideoSource(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"


# --- checkpoints and datasets --------------------------------------------------------------------


def archive(path: Path, members: dict[str, int], compression: int) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, size in members.items():
            with file.open(name, "w") as member:
                for _ in range(size >> 20):
                    member.write(bytes(1 << 20))
    return path


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_checkpoint_that_unpacks_to_gigabytes_is_refused(suffix: str, tmp_path: Path) -> None:
    path = archive(tmp_path / f"a{suffix}", {"a/data.pkl": 100 << 20}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (read_checkpoint, load_state):
        with pytest.raises(ModelError, match="unpacked 104"):
            read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"


def test_an_archive_whose_entries_share_their_bytes_is_refused(tmp_path: Path) -> None:
    """The central directory names one stored file a thousand times."""
    path = archive(tmp_path / "a.pth", {"a/data.pkl": 1 << 20}, zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, "a") as file:
        entry = file.infolist()[0]
        for number in range(1000):
            other = copy.copy(entry)
            other.filename = other.orig_filename = f"a/data/{number}"
            file.filelist.append(other)
        file._didModify = True
    with pytest.raises(ModelError, match="unpacked 1049"):
        read_checkpoint(path)


def test_a_large_checkpoint_that_is_not_compressed_is_read_up_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pth"
    torch.save({"w": torch.zeros(25_000_000)}, path)  # 100 MB
    assert read_checkpoint(path)[1]["w"].numel() == 25_000_000
    monkeypatch.setenv(MODEL_GB.variable, "0.09")
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path)
    assert MODEL_GB.variable in caught.value.do


def outlines(tmp_path: Path, size: tuple[int, int], segmentation: Any) -> Outlines:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg")
    return Outlines(tmp_path / "a.json", tmp_path / "a.jpg", size, (Outline(1, 1, segmentation),))


@pytest.mark.parametrize(
    ("size", "segmentation"),
    [
        ((10**6, 10**6), {"size": [10**6, 10**6], "counts": [10**12]}),
        ((10**6, 10**6), [[0, 0, 5, 0, 5, 5]]),
        ((10**18, 10**18), [[0, 0, 5, 0, 5, 5]]),
        ((48, 64), {"size": [48, 64], "counts": "o" * 1_000_000}),
        ((48, 64), {"size": [48, 64], "counts": [48 * 64] + [0] * 7 + [10**30]}),
        ((48, 64), [[0, 0, 64, 0] * 200_000]),
        ((48, 64), [[0, 0, 1e300, 0, 5, 5]]),
    ],
)
def test_outlines_that_would_fill_the_memory_are_refused(
    size: tuple[int, int], segmentation: Any, tmp_path: Path
) -> None:
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DatasetError):
        outlines(tmp_path, size, segmentation)()
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kB"


def test_a_packed_bitmap_that_unpacks_to_gigabytes_is_refused() -> None:
    packing = zlib.compressobj(9)
    packed = b"".join(packing.compress(bytes(1 << 20)) for _ in range(80)) + packing.flush()
    with pytest.raises(ValueError, match="larger than 64 MB"):
        _png(base64.b64encode(packed).decode(), packed=True)
    with pytest.raises(ValueError, match=IMAGE_PIXELS.variable):
        _png(base64.b64encode(png(SIDE, 64 * (SIDE // 64))).decode(), packed=False)


def test_objects_of_an_image_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (64, 48)).save(image)
    square = [[1.0, 1.0, 20.0, 1.0, 20.0, 20.0]]
    outlines = tuple(Outline(str(number), 1, square) for number in range(50))
    whole = Outlines(tmp_path / "a.json", image, (48, 64), outlines)
    assert whole().any()
    monkeypatch.setenv("RTSEG_MAX_OUTLINES", "49")
    with pytest.raises(DatasetError, match="RTSEG_MAX_OUTLINES") as caught:
        whole()
    assert "a.png has 50 objects" in caught.value.found
    monkeypatch.delenv("RTSEG_MAX_OUTLINES")
    each = paint(np.zeros((64, 48), np.uint8), run_lengths(square, 48, 64), 1)
    assert each <= 20 * 48, "of its own columns"
    monkeypatch.setenv("RTSEG_MAX_OUTLINE_PIXELS", str(50 * each - 1))
    with pytest.raises(DatasetError, match="RTSEG_MAX_OUTLINE_PIXELS"):
        whole()
    monkeypatch.setenv("RTSEG_MAX_OUTLINE_PIXELS", str(50 * each))
    assert whole().any()


def test_only_the_columns_of_an_object_are_painted_and_all_of_them() -> None:
    random = np.random.default_rng(5)
    masks = [np.zeros((7, 9), np.uint8), np.ones((7, 9), np.uint8)]
    masks += [(random.random((7, 9)) < share).astype(np.uint8) for share in (0.02, 0.1, 0.9) * 9]
    for number, mask in enumerate(masks):
        columns = np.full((9, 7), 5, np.uint8)
        lengths = encode(np.asfortranarray(mask))
        looked_at = paint(columns, lengths, 1)
        assert (np.where(mask, 1, 5) == columns.T).all(), number
        found = np.flatnonzero(mask.any(axis=0))
        assert looked_at == (7 * (found[-1] - found[0] + 1) if found.size else 0)


def test_transparent_frames_need_little_more_memory_than_they_have() -> None:
    image = np.random.default_rng(3).integers(0, 256, (1500, 2000, 4), np.uint8)
    tracemalloc.start()
    try:
        shown = over_paper(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    alpha = image[..., 3:].astype(float) / 255
    assert np.abs(shown - (image[..., :3] * alpha + 255 * (1 - alpha))).max() <= 0.501
    assert peak < 2 * image.nbytes


# --- the limits themselves -----------------------------------------------------------------------


@pytest.mark.parametrize("text", ["x", "0", "-1", "nan", "1e999x"])
def test_a_limit_that_is_not_a_number_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(IMAGE_PIXELS.variable, text)
    with pytest.raises(UsageError, match=IMAGE_PIXELS.variable):
        IMAGE_PIXELS.value()


def test_a_limit_is_replaced_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = Limit("RTSEG_MAX_TEST", 7)
    assert limit.value() == 7
    monkeypatch.setenv(limit.variable, "1e3")
    assert limit.value() == 1000
