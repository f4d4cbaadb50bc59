"""The architecture, enforced: which floor may import which, and who may touch what."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "rtseg"

FLOORS = {
    5: {"batch", "cli", "serve", "__main__", "__init__", "api"},
    4: {"bench", "evaluation", "training", "exporting"},
    3: {"session", "segmenter"},
    2: {"sources", "backends", "effects", "sinks", "datasets"},
    1: {"answers", "cache", "contracts", "decode", "draw", "figures", "files", "frame", "gpu",
        "images", "jit", "matte", "measure", "media", "metrics", "nets", "notebook", "outputs",
        "planes", "player", "processes", "stats", "system", "temporal", "threads", "yuv"},
    0: {"_version", "addresses", "documents", "errors", "labels", "limits", "options",
        "text", "zoo"},
}  # fmt: skip
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
EDGES = FLOORS[2]

CORE_PATH = (
    "contracts.py",
    "frame.py",
    "segmenter.py",
    "session/engine.py",
    "threads.py",
    "decode/__init__.py",
    "sources/__init__.py",
    "sources/video.py",
    "backends/__init__.py",
    "backends/pytorch.py",
    "effects/__init__.py",
    "sinks/__init__.py",
    "sinks/video.py",
)
"""What a newcomer reads in an hour, in order; `docs/architecture.md` walks it."""

KEPT_APART = {
    "backends.ladder": "one network at several input sizes, for --target-fps",
    "nets.flops": "needs torch, which bench may not import",
    "session.overlay": "draws in the window alone; the controls work without one",
    "backends.dilated": "OpenVINO runs every network without it, slower",
    "training.depthwise": "gradients of one operator, which training works without",
    "session.recording": "sinks that open and close during a run, in a thread of their own",
}
"""Modules that one other module imports and no table names, each with its reason."""

ALLOWED = {
    "threading": {"threads", "session.sharing", "backends.fitted", "backends.ladder"},
    "concurrent": {"threads", "measure"},
    "torch": {
        "nets",
        "backends.pytorch",
        "backends.compiled",
        "backends.cuda",
        "decode.device",
        "gpu",
        "exporting",
        "training",
    },
    "triton": {"decode.device", "decode.kernels", "gpu"},
    "torchvision": {"nets", "training"},
    "timm": {"nets"},
    "lightning": {"training"},
    "onnxruntime": {"backends.ort", "exporting"},
    "openvino": {"backends.openvino_runtime", "backends.dilated"},
}
CALLS = {
    "threading.Thread": {"threads"},
    "cv2.imshow": {"sinks.window"},
    "cv2.waitKey": {"sinks.window"},
    "cv2.namedWindow": {"sinks.window"},
    "cv2.VideoCapture": {"sources.capture"},
    "cv2.imread": {"images"},
    "cv2.imdecode": {"images"},
    "print": {"cli.app", "cli.commands", "cli.process", "cli.reference", "cli.report"},
    "sys.exit": {"cli", "__main__"},
    "os._exit": {"cli", "batch.local", "processes"},
}


def modules() -> list[str]:
    found = PACKAGE.rglob("*.py")
    return sorted(".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in found)


@cache
def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / (module.replace(".", "/") + ".py")).read_text("utf-8"))


def room(module: str) -> str:
    return module.split(".")[0]


def imports(node: ast.AST) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            yield child.module or ""
            if child.module == "rtseg":
                yield from (f"rtseg.{alias.name}" for alias in child.names)


def within(module: str, rooms: set[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in rooms)


def breaches(module: str, tree: ast.Module) -> list[str]:
    """What a module imports or calls that its place forbids, in words."""
    here = FLOOR_OF[room(module)]
    found = []
    for name in imports(tree):
        top, _, rest = name.partition(".")
        if top in ALLOWED and not within(module, ALLOWED[top]):
            found.append(f"{module} imports {name}")
        if top != "rtseg" or not rest:
            continue
        there = FLOOR_OF.get(room(rest))
        if there is None:
            found.append(f"{module} imports {name}, which stands on no floor")
        elif there is not None and there > here:
            found.append(f"{module} (floor {here}) imports {name} (floor {there})")
        if {room(module), room(rest)} <= EDGES and room(module) != room(rest):
            found.append(f"edge {module} imports edge {name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CALLS and not within(module, CALLS[called]):
                found.append(f"{module} calls {called}")
    return found


def test_every_room_has_a_floor() -> None:
    assert set(FLOOR_OF) == {room(module) for module in modules()}


@pytest.mark.parametrize("module", modules())
def test_imports_go_down_and_laws_hold(module: str) -> None:
    assert room(module) in FLOOR_OF, f"{module} stands on no floor"
    if room(module) == "__init__":
        return  # the door names every room, for type checkers
    assert breaches(module, tree(module)) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("labels", "from rtseg.session.loop import run"),
        ("sinks.video", "import rtseg.sources"),
        ("sources.camera", "import threading"),
        ("session.sharing", "threading.Thread(target=f)"),
        ("effects.overlay", "import torch.nn"),
        ("segmenter", "from onnxruntime import InferenceSession"),
        ("effects.overlay", "cv2.imshow('x', y)"),
        ("sources.video", "cv2.VideoCapture(0)"),
        ("session.pipeline", "print('hello')"),
        ("session.pipeline", "sys.exit(1)"),
    ],
)
def test_each_law_can_be_broken(module: str, line: str) -> None:
    assert breaches(module, ast.parse(line))


def imported_modules(module: str) -> set[str]:
    """The modules of rtseg that a module imports, lazily too."""
    everything = {name.removesuffix(".__init__") for name in modules()}
    found: set[str] = set()
    for node in ast.walk(tree(module)):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("rtseg"):
            continue
        package = (node.module or "").removeprefix("rtseg").lstrip(".")
        for alias in node.names:
            inside = f"{package}.{alias.name}".lstrip(".")
            found.add(inside if inside in everything else package or "__init__")
    return found - {module.removesuffix(".__init__")}


def import_circles() -> list[set[str]]:
    """Modules that import one another, directly or through others (Tarjan's algorithm)."""
    graph = {name.removesuffix(".__init__"): imported_modules(name) for name in modules()}
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    circles: list[set[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in graph[name]:
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            group = set(stack[stack.index(name) :])
            del stack[stack.index(name) :]
            if len(group) > 1:
                circles.append(group)

    for name in graph:
        if name not in order:
            visit(name)
    return circles


def test_no_modules_import_one_another() -> None:
    assert import_circles() == []


def imported_once() -> dict[str, str]:
    """Modules that exactly one other imports, lazily too, and which one; not packages."""
    importers: dict[str, list[str]] = {}
    for name in modules():
        for other in imported_modules(name):
            importers.setdefault(other, []).append(name)
    return {
        name: importers[name][0]
        for name in modules()
        if len(importers.get(name, ())) == 1 and not name.endswith("__")
    }


def rows() -> set[str]:
    """Modules that a table names: "rtseg.module:name" in any of them, a home of a public name, a
    verb with its program and report, and what an option of `TemporalOptions` turns on."""
    import rtseg
    from rtseg.cli.options import LAYOUTS
    from rtseg.temporal import TemporalOptions

    found = {"cli.app", *rtseg._HOME.values()}
    found |= {f"cli.{verb}" for verb in (*LAYOUTS, "models")}
    found |= {f"{program}.{part}" for program in FLOORS[4] for part in ("program", "report")}
    found |= {f"temporal.{option.name}" for option in fields(TemporalOptions)}
    for module in modules():
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                row = re.fullmatch(r"rtseg\.([\w.]+):\w+", node.value)
                found |= {row[1]} if row else set()
    return found


def test_a_module_that_one_other_imports_is_a_row_or_has_a_reason() -> None:
    """A file of the core path, which must be short, may have one more to itself."""
    once = imported_once()
    core = {name.removesuffix(".py").replace("/", ".") for name in CORE_PATH}
    continued = [importer for name, importer in once.items() if importer in core]
    assert len(KEPT_APART) <= 6
    assert len(set(continued)) == len(continued), continued
    assert {name for name in once.keys() - rows() if once[name] not in core} == set(KEPT_APART)


def test_the_core_path_is_short() -> None:
    lines = {name: len((PACKAGE / name).read_text("utf-8").splitlines()) for name in CORE_PATH}
    assert len(lines) <= 13
    assert sum(lines.values()) <= 3000, lines


def test_the_tour_walks_the_core_path_in_order() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text("utf-8")
    tour = text.partition("## The core path")[2].partition("Three more files")[0]
    assert [line.split("`")[1] for line in tour.splitlines() if line.startswith("| `")] == [
        f"rtseg/{name}" for name in CORE_PATH
    ]


def test_no_module_is_named_like_its_library() -> None:
    names = {module.split(".")[-1] for module in modules()}
    assert not names & {"torch", "torchvision", "onnx", "onnxruntime", "cv2", "av", "numba"}


def test_importing_rtseg_loads_nothing_heavy() -> None:
    heavy = ["torch", "torchvision", "onnxruntime", "cv2", "numba", "av", "matplotlib"]
    code = f"import sys, rtseg; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_resolves() -> None:
    import rtseg

    for name in rtseg.__all__:
        assert getattr(rtseg, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = rtseg.nonsense
