"""The identity of an ONNX file: from our metadata, else from settings, shapes and assumptions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rtseg.errors import ModelError
from rtseg.labels import PERSON, VOC, LabelSet
from rtseg.nets import settings as said
from rtseg.nets.onnx_facts import Dims, OnnxFacts, read_facts
from rtseg.nets.settings import Settings
from rtseg.zoo import InputSpec, ModelSpec

Layout = Literal["NCHW", "NHWC"]
USUAL_SIZE = (512, 512)
MOST_CLASSES = 255


def onnx_spec(
    path: Path, flags: Mapping[str, Any] | None = None
) -> tuple[ModelSpec, tuple[str, ...]]:
    """Who the network in an ONNX file is, and what had to be assumed.

    Args:
        flags: settings over those of the TOML file beside it.

    Raises:
        ModelError: it is no segmentation network, or contradicts its settings.
        UsageError: it is a file of ours, and flags were given.
    """
    facts = read_facts(path)
    if facts.spec is not None:
        said.refuse(flags, path.name)
        try:
            return ModelSpec.from_json(facts.spec), ()
        except ValueError as error:
            raise ModelError(f"cannot read the metadata of {path}", found=str(error)) from error
    settings = said.read_settings(path, flags)
    assumed: list[str] = []
    taken = _input(path, facts, settings, assumed)
    name = settings.get("output") or next(iter(facts.outputs))
    if name not in facts.outputs:
        raise ModelError(
            f"output {name!r} of {path}", found="its outputs are " + ", ".join(facts.outputs)
        )
    labels, layout = _output(path, facts, name, taken, settings, assumed)
    if "activation" not in settings:
        settings = {**settings, "activation": _activation(facts.makers.get(name, ""), assumed)}
    spec = ModelSpec(
        name=str(settings.get("name", path.stem)),
        architecture="onnx",
        labels=labels,
        input=taken,
        output=said.output_kind(settings),
        output_name=name,
        output_layout=layout,
        align_corners=settings.get("align_corners", False),
    )
    note = f"{path.name} does not say everything; assumed: {', '.join(assumed)}"
    return spec, (note,) if assumed else ()


def _input(path: Path, facts: OnnxFacts, settings: Settings, assumed: list[str]) -> InputSpec:
    dims = facts.input
    if len(dims) != 4:
        raise ModelError(
            f"cannot use {path}",
            found=f"its input has {len(dims)} axes",
            do="A picture has four: N, C, H, W or N, H, W, C",
        )
    layout: Layout = settings.get("layout") or _layout(dims, assumed)
    channels, height, width = _axes(dims, layout)
    if channels not in (3, None):
        raise ModelError(
            f"cannot use {path} with layout {layout}",
            found=f"its pictures have {channels} channels",
        )
    size, fixed = _size(path, (height, width), settings, assumed)
    scale, mean, std = _normalisation(facts.dtype, settings, assumed)
    if "colour" not in settings:
        assumed.append("RGB")
    return InputSpec(
        size,
        fixed,
        layout,
        settings.get("dtype") or ("uint8" if facts.dtype == "uint8" else "float32"),
        settings.get("colour", "RGB"),
        scale,
        mean,
        std,
    )


def _activation(maker: str, assumed: list[str]) -> str:
    """What the operator that computes the output makes of it."""
    if maker in ("softmax", "sigmoid"):
        return maker
    assumed.append("an output of logits")
    return "none"


def _layout(dims: Dims, assumed: list[str]) -> Layout:
    if 3 in (dims[1], dims[3]):
        return "NCHW" if dims[1] == 3 else "NHWC"
    assumed.append("layout NCHW")
    return "NCHW"


def _axes(dims: Dims, layout: Layout) -> Dims:
    """(channels, height, width)."""
    return (dims[1], dims[2], dims[3]) if layout == "NCHW" else (dims[3], dims[1], dims[2])


def _size(
    path: Path, found: Dims, settings: Settings, assumed: list[str]
) -> tuple[tuple[int, int], bool]:
    wanted = said.size(settings["size"]) if "size" in settings else None
    height, width = found
    if height is not None and width is not None:
        if wanted not in (None, (height, width)):
            raise ModelError(
                f"size {wanted} for {path}", found=f"it takes {height}x{width} and no other"
            )
        return (height, width), True
    if wanted is None:
        assumed.append(f"size {USUAL_SIZE[0]}x{USUAL_SIZE[1]}")
    return wanted or USUAL_SIZE, False


Triple = tuple[float, float, float]


def _normalisation(
    dtype: str, settings: Settings, assumed: list[str]
) -> tuple[float, Triple, Triple]:
    given = {"scale", "mean", "std"} & settings.keys()
    if not given and dtype == "uint8":
        return 1.0, (0, 0, 0), (1, 1, 1)  # pixels as they are
    if not given:
        usual = InputSpec(USUAL_SIZE)
        assumed.append("ImageNet's mean and std")
        return usual.scale, usual.mean, usual.std
    mean = said.triple(settings.get("mean", 0), "mean")
    std = said.triple(settings.get("std", 1), "std")
    if "scale" in settings:
        return said.number(settings["scale"], "scale"), mean, std
    scale = 1.0 if max(std) > 2 else 1 / 255  # such a std is one of pixels from 0 to 255
    assumed.append("scale 1" if scale == 1 else "scale 1/255")
    return scale, mean, std


def _output(
    path: Path,
    facts: OnnxFacts,
    name: str,
    taken: InputSpec,
    settings: Settings,
    assumed: list[str],
) -> tuple[LabelSet, Layout]:
    labels, dims = said.labels(settings), facts.outputs[name]
    indices = facts.kinds[name].startswith(("int", "uint")) and (len(dims) == 3 or 1 in dims[1:])
    if indices:  # of classes, one a pixel, which may be far fewer than there are
        return labels or _labels(path, None, assumed), "NCHW"
    if len(dims) != 4:
        raise ModelError(
            f"cannot use {path}",
            found=f"its output {name} has {len(dims)} axes",
            do="Scores per class have four; name another output in the TOML file beside it",
        )
    layout = _output_layout(dims, taken, labels)
    channels = dims[1] if layout == "NCHW" else dims[3]
    if labels is None:
        return _labels(path, channels, assumed), layout
    if channels is not None and max(channels, 2) != len(labels):
        raise ModelError(
            f"{len(labels)} labels for {path}", found=f"its output has {channels} classes"
        )
    return labels, layout


def _output_layout(dims: Dims, taken: InputSpec, labels: LabelSet | None) -> Layout:
    """The axis of the classes, by what tells the two readings apart.

    It is the one as long as the labels; else what it leaves has the input's shape; else it is the
    only one short enough; else where the input has its channels.
    """
    readings: tuple[Layout, Layout] = ("NCHW", "NHWC")
    axes = [_axes(dims, layout) for layout in readings]
    counts = {len(labels), *([1] if len(labels) == 2 else [])} if labels else set()
    for fits in (
        [count in counts for count, _, _ in axes],
        [taken.fixed and _of_shape(height, width, taken.size) for _, height, width in axes],
        [count is not None and count <= MOST_CLASSES for count, _, _ in axes],
    ):
        if fits[0] != fits[1]:
            return readings[fits.index(True)]
    return taken.layout


def _of_shape(height: int | None, width: int | None, size: tuple[int, int]) -> bool:
    """Whether scores of that size cover a picture of `size`, at one stride, rounded either way."""
    if height is None or width is None:
        return False
    return abs(height * size[1] - width * size[0]) <= max(size)


def _labels(path: Path, channels: int | None, assumed: list[str]) -> LabelSet:
    if channels is None or channels > MOST_CLASSES:
        raise ModelError(
            f"cannot tell the classes of {path}",
            found=f"its output has {channels or 'an unknown number of'} channels",
            do=f"Name them in {path.with_suffix('.toml').name} beside it, or with --labels",
        )
    if channels == len(VOC):
        assumed.append("the 21 classes of Pascal VOC")
        return VOC
    if channels <= 2:
        assumed.append("the classes background and person")
        return PERSON
    assumed.append(f"{channels} classes without names")
    return said.numbered(channels)
