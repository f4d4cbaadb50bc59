"""Documents that nobody should trust: valid ones, changed at random, and arbitrary ones.

`python tests/hostile.py COUNT SEED` gives COUNT of them to whatever reads documents. Anything but
a value or an error of rtseg fails, and so do 200 MB of memory more than whole documents take, and
5 seconds for one. Hypothesis prints the smallest document that fails.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import re
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataset_folders import MAKERS
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, save

from rtseg.backends.auto import load_choice
from rtseg.bench.record import compare, mismatches
from rtseg.cli.app import main
from rtseg.cli.bench import read_record
from rtseg.datasets import named_samples, open_dataset
from rtseg.datasets.classes import read_names
from rtseg.documents import read_toml
from rtseg.errors import RtsegError
from rtseg.evaluation.sets import open_mix, read_suite
from rtseg.labels import LabelSet, palette
from rtseg.nets import find_model
from rtseg.options import from_values
from rtseg.training.options import TrainOptions
from rtseg.zoo import MODELS, InputSpec, ModelSpec

MOST_BYTES = 200_000_000
MOST_SECONDS = 5

DEEP = "@deep@"
"""Stands for 10^5 nested lists."""

NASTY: tuple[Any, ...] = (
    None, True, "", "x", " ", "0", "none", -1, 0, 1, 2, 0.5, 1e308, float("nan"), float("inf"),
    float("-inf"), 255, 256, 1_000_000, 10**9, 2**63, 10**25, 10**400, [], {}, [1], [[]], [{}],
    {"a": 1}, "\0", "a\0b", "\ud800", "\x1b[31m", "a" * 100_000, DEEP, "../../x", "/etc/passwd",
    "é", "\u202e", ["a", "a"], [""], [0] * 1000, [float("nan")] * 6, [1e30] * 6, [[1e30] * 6],
    [-5, 3], [10**9, 10**9], {"size": [10**6, 10**6], "counts": [10**12]}, "1/0", "1e999",
    {"size": [48, 64], "counts": "o" * 100_000}, "person=", "name\nname", "1" * 5000,
)  # fmt: skip

Edit = tuple[str, int, Any]
"""(what to do, where, with what)."""

EDITS = st.tuples(
    st.sampled_from(("replace", "replace", "replace", "delete", "rename", "insert")),
    st.integers(0, 10_000),
    st.sampled_from(NASTY),
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from places(inner)


def changed(value: Any, edits: list[Edit]) -> Any:
    """The document after these changes."""
    value = copy.deepcopy(value)
    for what, where, new in edits:
        every = list(places(value)) if isinstance(value, (dict, list)) else []
        if not every:
            return copy.deepcopy(new)
        holder, key = every[where % len(every)]
        if what == "replace":
            holder[key] = copy.deepcopy(new)
        elif what == "delete":
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(new))
        elif what == "rename":
            holder[str(new)] = holder.pop(key)
        else:
            holder[str(where)] = copy.deepcopy(new)
    return value


def as_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text.replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000)


def as_toml(value: Any) -> str:
    """TOML as far as it can say this: more is part of the test."""
    if not isinstance(value, dict):
        return f"x = {_inline(value)}"
    return "\n".join(f"{_key(key)} = {_inline(inner)}" for key, inner in value.items())


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"{_key(key)} = {_inline(inner)}" for key, inner in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return as_json(value).replace("NaN", "nan").replace("Infinity", "inf")


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)


@st.composite
def documents(draw: st.DrawFn, whole: str, form: Callable[[Any], str] | None) -> bytes:
    """A document like `whole`; `form` writes a value as text, None for other kinds of text."""
    way = draw(st.sampled_from(("edit", "edit", "edit", "edit", "any", "text", "bytes")))
    if way == "bytes":
        return draw(st.binary(max_size=200))
    if way == "edit" and form is not None:
        text = form(changed(json.loads(whole), draw(st.lists(EDITS, min_size=1, max_size=3))))
    elif way == "any" and form is not None:
        value = draw(JSONS)
        text = form(value if form is as_json else {"x": value})
    else:
        text = whole if form in (None, as_json) else form(json.loads(whole))
        for _ in range(draw(st.integers(1, 3))):
            words = list(re.finditer(r"[\w.-]+|[^\s\w]", text)) or [re.search("", text)]
            word = words[draw(st.integers(0, 10_000)) % len(words)]
            new = draw(st.sampled_from(NASTY))
            new = new if isinstance(new, str) else json.dumps(new)
            text = text[: word.start()] + new + text[word.end() :]
    text = text.replace(DEEP, "[" * 100_000)
    encoding = draw(st.sampled_from(("utf-8",) * 8 + ("utf-8-sig", "utf-16", "latin-1")))
    content = text.encode(encoding, "surrogatepass" if encoding != "latin-1" else "replace")
    return (
        content[: draw(st.integers(0, len(content)))] if draw(st.integers(0, 9)) == 9 else content
    )


@dataclass(frozen=True)
class Kind:
    """A kind of document.

    Attributes:
        whole: a valid one, as JSON where `form` writes a value, else as it is.
        read: what reads it; called with the document's file, which it may not rely on.
    """

    whole: str
    form: Callable[[Any], str] | None
    path: Path
    read: Callable[[Path], object]


SPEC = replace(
    MODELS["lraspp_mobilenet_v3_large"],
    labels=LabelSet(("background", "a", "b"), ((0, 0, 0), (1, 2, 3), (4, 5, 6))),
    input=InputSpec((32, 48)),
)
SIDECAR = {
    "size": [32, 48], "scale": "1/255", "mean": [0.5, 0.5, 0.5], "std": 1, "background": 0,
    "labels": ["a", "b", "c"], "layout": "NCHW", "colour": "RGB", "activation": "none",
    "output": "y", "align_corners": True, "name": "net",
}  # fmt: skip
CONFIG = {
    "input": "test://", "output": ["x.mp4"], "alpha": 0.5, "imgsz": [320, 320], "fps": 10,
    "classes": ["person"], "start": 1.5, "size": [64, 48], "hud": True, "smooth": 0.5, "crf": 20,
    "max-frames": 3, "threads": 2, "device": "cpu", "mean": [0.5, 0.5, 0.5], "palette": "voc",
}  # fmt: skip
SUITE = {
    "root": ".", "set": [{"path": "x", "name": "a", "split": "val", "min_share": {"person": 0.5},
    "max_pictures": 3, "classes": ["a=b"], "format": "auto"}],
    "network": [{"model": "person", "name": "p", "imgsz": "320", "refine": True, "scale": "1/255"}],
}  # fmt: skip
CHOICE = {
    "rtseg_auto": 1, "about": "person at 320x320", "winner": ["onnx", "fp32"], "lanes": 1,
    "rows": [{"backend": "onnx", "precision": "fp32", "seconds": 0.01, "agreement": 0.99,
    "failure": ""}], "date": "2026-11-21",
}  # fmt: skip
RECORD = {
    "rtseg_bench": 1, "machine": {"cpu": "x", "cores": 2, "versions": {"a": "1"}, "gpu": "a, 1"},
    "clip": {"name": "c", "width": 64}, "settings": {"threads": 2}, "peaks": [], "partial": False,
    "rows": [{"model": "m", "asked": {"backend": "onnx", "precision": "fp32", "device": "cpu"},
    "input_size": [64, 64], "random_weights": False, "error": "", "ran": {"name": "onnx",
    "device": "cpu", "precision": "fp32", "notes": ["a"]}, "clocks": {"model":
    {"fps": 10.0, "passes": 3, "rounds": [9.0, 10.0, 11.0], "ms": {"p50": 100.0, "p95": 1.0,
    "p99": 1.0, "mean": 1.0, "max": 2.0}, "counts": {}, "age_ms": {}, "stages_ms": {}}},
    "load_seconds": 1.0, "first_seconds": 1.0, "cold_start_seconds": None, "peak_memory_mb": 1.0,
    "agreement": {"mean": 1.0, "least": 1.0, "frames": 3}, "miou": None, "gflop": 1.0,
    "peak_share": None}],
}  # fmt: skip
HUB = {
    "architectures": ["SegformerForSemanticSegmentation"], "model_type": "segformer",
    "id2label": {"0": "a", "1": "b", "2": "c"}, "torch_dtype": "float32",
}  # fmt: skip
HUB_IMAGES = {
    "image_processor_type": "SegformerImageProcessor", "do_resize": True, "do_rescale": True,
    "rescale_factor": 0.00392156862745098, "do_normalize": True, "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6], "size": {"height": 32, "width": 48}, "resample": 2,
    "do_flip_channel_order": False, "do_center_crop": False,
}  # fmt: skip
MIX = {
    "root": ".", "set": [{"path": "a", "name": "a", "share": 0.5, "max_pictures": 3,
    "classes": [], "format": "auto", "sparse": False}, {"path": "b", "every": 2, "share": 0.25}],
}  # fmt: skip
TRAIN = {"dataset": "x", "epochs": 3, "size": [64, 64], "lr": 0.1, "split": "80/10/10"}


def write_onnx(path: Path, metadata: str = "") -> Path:
    shape = [1, 3, 32, 48]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph)
    if metadata:
        helper.set_model_props(model, {"rtseg": metadata})
    save(model, path)
    return path


def text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def read_metadata(path: Path) -> None:
    net = path.with_name("sealed.onnx")
    net.unlink(missing_ok=True)
    with contextlib.suppress(ValueError):  # protobuf takes no half characters
        find_model(write_onnx(net, text_of(path)))
    spec = ModelSpec.from_json(path.read_bytes(), "it")
    assert 2 <= len(spec.labels) <= 255
    assert max(spec.input.size) <= 8192
    spec.to_json().encode()


def read_sidecar(path: Path) -> None:
    spec = find_model(path.with_suffix(".onnx")).spec
    assert len(spec.labels) == 3
    assert spec.input.size == (32, 48)
    assert all(0 < value < 1e30 for value in spec.input.std)
    spec.to_json().encode()


def read_hub(path: Path) -> None:
    root = path.parent
    spec = find_model(root).spec
    assert len(spec.labels) == 3
    assert all(0 < abs(value) < 1e30 for value in spec.input.std)
    spec.to_json().encode()


def read_mix(path: Path) -> None:
    dataset = open_mix(path)
    assert 2 <= len(dataset.labels) <= 255
    assert len({sample.name for sample in dataset.samples}) == len(dataset)
    for sample in dataset.samples:
        assert sample.image_path.resolve().is_relative_to(path.parent.resolve())
        assert 0 < sample.weight < 1e30


def read_config(path: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(said):
        code = main(["--config", str(path), "--print-config"])
    assert code in (0, 2), said.getvalue()[-2000:]
    assert "internal error" not in said.getvalue(), said.getvalue()[-2000:]
    assert code == 0 or len(said.getvalue()) < 5000, said.getvalue()[:300]


def read_benchmark(path: Path) -> None:
    record = read_record(path)
    mismatches(record, record)
    compare(record, record)


def read_dataset(path: Path, root: Path) -> None:
    dataset = open_dataset(root)
    assert 2 <= len(dataset.labels) <= 255
    for sample in dataset.samples:
        assert sample.image_path.resolve().is_relative_to(root.resolve())
        with contextlib.suppress(RtsegError):
            mask = sample.read_mask()
            assert mask.shape == (48, 64)
            assert all(value < len(dataset.labels) or value == 255 for value in set(mask.flat))


def kinds(folder: Path) -> dict[str, Kind]:
    """Every kind of document, in files below `folder`."""

    def place(name: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    write_onnx(place("side/net.onnx"))
    listed = MAKERS["folder"](folder / "listed", 4)
    names = [sample.name for sample in open_dataset(listed).samples]
    for name in ("hub-config", "hub-images"):
        write_onnx(place(f"{name}/onnx/model.onnx"))
        place(f"{name}/config.json").write_text(json.dumps(HUB))
        place(f"{name}/preprocessor_config.json").write_text(json.dumps(HUB_IMAGES))
    for name in "ab":
        MAKERS["folder"](folder / "mix" / name, 4)
    found = {
        "hub config": Kind(
            json.dumps(HUB), as_json, place("hub-config/config.json"), read_hub
        ),
        "hub images": Kind(
            json.dumps(HUB_IMAGES), as_json, place("hub-images/preprocessor_config.json"), read_hub
        ),
        "mix": Kind(json.dumps(MIX), as_toml, place("mix/mix.toml"), read_mix),
        "spec": Kind(SPEC.to_json(), as_json, place("spec/spec.json"), read_metadata),
        "sidecar": Kind(json.dumps(SIDECAR), as_toml, place("side/net.toml"), read_sidecar),
        "config": Kind(json.dumps(CONFIG), as_toml, place("config/c.toml"), read_config),
        "suite": Kind(json.dumps(SUITE), as_toml, place("suite/s.toml"), read_suite),
        "run": Kind(
            json.dumps(TRAIN), as_toml, place("run/config.toml"),
            lambda path: from_values(TrainOptions, read_toml(path)),
        ),
        "choice": Kind(
            json.dumps(CHOICE), as_json, place("auto/x.json"), lambda path: str(load_choice(path))
        ),
        "record": Kind(json.dumps(RECORD), as_json, place("bench/b.json"), read_benchmark),
        "split": Kind(
            json.dumps({"from": "x", "train": names[:2], "val": names[2:], "test": []}), as_json,
            place("split/split.json"),
            lambda path: named_samples(open_dataset(listed), path),
        ),
        "palette": Kind(
            '[[1, 2, 3], "#aabbcc", [4, 5, 6]]', as_json, place("palette/p.json"),
            lambda path: palette(str(path), 2),
        ),
        "palette lines": Kind(
            "1 2 3 a\n#aabbcc b\n4,5,6\n", None, place("palette/p.txt"),
            lambda path: palette(str(path), 2),
        ),
        "names": Kind(
            '{"names": ["background", "a", {"name": "b"}]}', as_json, place("names/classes.json"),
            lambda path: read_names(path).labels,
        ),
        "numbered names": Kind(
            '{"0": "background", "1": "a", "2": "b"}', as_json, place("names/labels.json"),
            lambda path: read_names(path).labels,
        ),
        "name lines": Kind(
            "name,r,g,b\nbackground,0,0,0\na,1,2,3\n", None, place("names/class_dict.csv"),
            lambda path: read_names(path).labels,
        ),
    }  # fmt: skip
    for layout, file in (
        ("coco", "annotations/instances_train2017.json"),
        ("labelme", "00_0000.json"),
        ("supervisely", "train/ann/00_0000.jpg.json"),
        ("supervisely", "meta.json"),
        ("folder", "classes.json"),
        ("masks-csv", "train/_classes.csv"),
        ("voc", "ImageSets/Segmentation/train.txt"),
        ("cvat", "annotations.xml"),
        ("yolo", "data.yaml"),
        ("yolo", "labels/train/00_0000.txt"),
    ):
        root = folder / f"{layout}-{Path(file).name}"
        MAKERS[layout](root, 3)
        path = root / file
        form = as_json if path.suffix == ".json" else None
        read = lambda path, root=root: read_dataset(path, root)  # noqa: E731
        found[f"{layout} {file}"] = Kind(path.read_text(), form, path, read)
    return found


def check(kind: Kind, content: bytes) -> None:
    """Read one document, within 5 seconds."""
    kind.path.write_bytes(content)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)  # processor time, so that load is no fault
    try:
        kind.read(kind.path)
    except RtsegError as error:
        str(error).encode()  # the command line bounds it, and escapes what cannot be printed
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)


def too_long(*_: object) -> None:
    raise AssertionError(f"it took more than {MOST_SECONDS} seconds")


def run(count: int, number: int, only: str = "") -> int:
    """Give `count` random documents to the readers; returns how many were read."""
    signal.signal(signal.SIGPROF, too_long)
    done = 0
    with tempfile.TemporaryDirectory() as place:
        every = {k: v for k, v in kinds(Path(place)).items() if only in k}
        for kind in every.values():
            text = kind.form(json.loads(kind.whole)) if kind.form else kind.whole
            kind.path.write_text(text)
            kind.read(kind.path)  # a whole one is read without an error

        @seed(number)
        @settings(
            max_examples=count, database=None, deadline=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(st.data())
        def every_document(data: st.DataObject) -> None:
            nonlocal done
            name = data.draw(st.sampled_from(sorted(every)))
            content = data.draw(documents(every[name].whole, every[name].form))
            check(every[name], content)
            done += 1

        every_document()
    return done


if __name__ == "__main__":
    warnings.simplefilter("error")
    print(run(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
