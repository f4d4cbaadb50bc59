"""Export a model: write the file, quantise it if requested, compare it, time it.

A foreign ONNX file is converted to rtseg's form: uint8 NHWC RGB in, float32 NCHW scores out.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from rtseg.backends import open_backend
from rtseg.backends.base import input_size_of
from rtseg.contracts import Backend
from rtseg.errors import ModelError, ThresholdError, UsageError, first_line
from rtseg.exporting import ExportOptions
from rtseg.exporting.int8 import Attempt, Quantiser, quantise
from rtseg.exporting.samples import OnProgress, Samples, parity_samples, quantising_samples
from rtseg.files import OutputFile, cannot_write, check_new
from rtseg.frame import Image
from rtseg.measure import batch_of, mask_agreement, time_each
from rtseg.nets import find_model
from rtseg.nets.merge import read_merged
from rtseg.nets.onnx_file import (
    INPUT_NAME,
    OPSET,
    OUTPUT_NAME,
    exported_spec,
    precision_of,
    read_facts,
    seal,
    write_onnx,
)
from rtseg.outputs import Output, check_apart
from rtseg.segmenter import Segmenter
from rtseg.system import int8_instructions
from rtseg.text import aligned
from rtseg.zoo import InputSpec, Model, ModelSpec

ROUNDS, LEAST_ROUNDS, SECONDS = 15, 3, 6.0
"""Timing takes 15 rounds, or fewer once 6 seconds have passed, but at least 3."""

LITTLE_VARIETY = 0.01
"""If fewer pixels than this differ from the commonest class, agreement is not meaningful."""


@dataclass(frozen=True)
class Parity:
    """Comparison of two models.

    Attributes:
        frames: number of frames compared.
        largest: largest difference of two scores; infinite if one is not finite.
        mean: share of pixels with the same class, at frame size, mean over the frames.
        worst: the share in the worst frame.
        worst_frame: index of that frame.
    """

    frames: int
    largest: float
    mean: float
    worst: float
    worst_frame: int


@dataclass(frozen=True, repr=False)
class Exported:
    """What was written, and how it compares with the original.

    Attributes:
        path: the file; None if none was kept.
        size: (height, width) of its input.
        original: what it was compared with: "torch fp32", or "original file" of a foreign one.
        samples: names of the sources of the frames.
        parity: with the original, on these frames.
        megabytes: of the files, by name; the last is this one.
        milliseconds: of one model-only run on the CPU, by name.
        layers: number of layers that can be int8; 0 in other precisions.
        attempts: at int8, in order; the last is the file.
        notes: information for the user.
    """

    path: Path | None
    size: tuple[int, int]
    original: str
    samples: str
    parity: Parity
    megabytes: Mapping[str, float]
    milliseconds: Mapping[str, float]
    layers: int = 0
    attempts: tuple[Attempt, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """A table of the files' sizes and times."""
        rows = [
            (
                name,
                f"{self.megabytes[name]:.2f}" if name in self.megabytes else "-",
                f"{ms:.1f}",
            )
            for name, ms in self.milliseconds.items()
        ]
        return aligned(("model only, on cpu", "MB", "ms"), rows, right={1, 2})

    def __repr__(self) -> str:
        height, width = self.size
        agree = f"{self.parity.mean:.3%} of the pixels as {self.original}"
        return "\n".join([f"{self.path}: input {height}x{width}, {agree}", *self.lines()])


class RejectedError(ThresholdError):
    """The file agrees too little with its original.

    Attributes:
        exported: the figures; the path is None unless the file was kept.
    """

    def __init__(self, asked: str, exported: Exported, *, found: str, do: str = "") -> None:
        super().__init__(asked, found=found, do=do)
        self.exported = exported


def export_network(
    model: Model,
    path: Path,
    options: ExportOptions,
    on_progress: OnProgress = lambda *_: None,
    samples: Samples | None = None,
) -> Exported:
    """Write a model as an ONNX file that rtseg, or plain ONNX Runtime, runs without settings.

    Input "image" (1, h, w, 3) uint8 RGB; output "logits" (1, C, h/s, w/s) float32 at the model's
    own stride; the normalisation is inside, the `ModelSpec` in the metadata. The file is always
    compared with the original on real frames, and gets its name only if the masks agree.

    Args:
        samples: the frames to use; None takes those that the options name.

    Raises:
        UsageError: the options do not fit the model, or the file exists.
        ModelError: the model cannot be exported with these options.
        RejectedError: the masks agree too little; no file is left, unless with `keep`.
        SourceError: the frames cannot be read.
        SinkError: the file cannot be written.
    """
    _require_exportable(model, path, options)
    size = input_size_of(model.spec, options.imgsz)
    with ExitStack() as stack:
        target = OutputFile(path, overwrite=options.overwrite)
        stack.callback(target.discard)
        samples = samples or _samples(options, on_progress)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rtseg-")))
        try:
            exported = _Export(model, size, options, folder, target.part, on_progress).run(samples)
        except OSError as error:
            raise cannot_write(path, error) from error
        if exported.parity.mean < options.threshold:
            raise _rejected(exported, target, options)
        target.commit()
    return replace(exported, path=path)


def _require_exportable(model: Model, path: Path, options: ExportOptions) -> None:
    if path.suffix != ".onnx":
        raise UsageError(
            f"cannot export to {path}", found="the suffix must be .onnx", do="Name it NAME.onnx"
        )
    if model.format == "none":
        raise ModelError(f"cannot export {model.spec.name}", found="it is not a model with weights")
    if model.format == "openvino":
        found = "it is an OpenVINO model, which cannot become an ONNX file"
        raise ModelError(f"cannot export {model.spec.name}", found=found, do="Export its original")
    if model.format == "onnx" and options.opset is not None:
        raise UsageError(
            f"opset {options.opset} for {model.spec.name}",
            found="an ONNX file keeps its own",
            do="Convert it with onnx.version_converter first",
        )
    if options.keep:
        check_new(_rejected_path(path), options.overwrite)
    written = [path, *([_rejected_path(path)] if options.keep else [])]
    inputs = [(Path(name), "part of --calibration") for name in options.calibration]
    inputs += [(Path(options.samples), "part of --samples")] if options.samples else []
    inputs += [(model.file, "the model itself")] if model.file is not None else []
    check_apart(
        [Output.file(f"-o {place}", place) for place in written],
        [(place, what) for place, what in inputs if place.is_file()],
    )


def _samples(options: ExportOptions, on_progress: OnProgress) -> Samples:
    if options.precision == "int8":
        return quantising_samples(options.samples, options.calibration, on_progress)
    return parity_samples(options.samples, on_progress)


def _rejected_path(path: Path) -> Path:
    """The name of a file that is kept although it was rejected."""
    return path.with_name(f"{path.stem}.rejected{path.suffix}")


def _rejected(exported: Exported, target: OutputFile, options: ExportOptions) -> RejectedError:
    """The error; with `keep`, the file is renamed first."""
    rejected = None
    if options.keep:
        rejected = _rejected_path(target.path)
        target.reject(rejected)
    parity = exported.parity
    return RejectedError(
        f"{options.precision} agrees with {exported.original} on {parity.mean:.3%} of the pixels, "
        f"{parity.worst:.3%} in the worst frame",
        replace(exported, path=rejected),
        found=f"at least {options.threshold:.3%} is required",
        do=f"The file is kept as {rejected}" if rejected else "No file was kept",
    )


class _Export:
    """One export.

    Args:
        size: (height, width) of the input.
        folder: for temporary files.
        target: the file to write.
    """

    def __init__(
        self,
        model: Model,
        size: tuple[int, int],
        options: ExportOptions,
        folder: Path,
        target: Path,
        on_progress: OnProgress,
    ) -> None:
        self.model, self.size, self.options = model, size, options
        self.folder, self.target, self.on_progress = folder, target, on_progress
        self.base = folder / "fp32.onnx"
        self.foreign = model.format == "onnx"

    def run(self, samples: Samples) -> Exported:
        """Write the file and compare it on the samples."""
        self.on_progress("writing the model", 0, 0)
        self._write_base()
        with ExitStack() as stack:
            original = self._original(stack)
            reference = _Reference(original, samples.parity, self.on_progress)
            layers, attempts = self._write(reference, samples)
            backends = {"original file" if self.foreign else "torch fp32": original}
            files = {"onnx fp32": self.base, f"onnx {self.options.precision}": self.target}
            backends |= {name: self._opened(path, stack) for name, path in files.items()}
            parity = reference.compare(list(backends.values())[-1], self.on_progress)
            took = self._timed(backends, samples.parity[0])
        return Exported(
            path=self.target,
            size=self.size,
            original=next(iter(backends)),
            samples=samples.names,
            parity=parity,
            megabytes={name: path.stat().st_size / 1e6 for name, path in files.items()},
            milliseconds=took,
            layers=layers,
            attempts=attempts,
            notes=tuple(self._notes(reference, took)),
        )

    def _write_base(self) -> None:
        """Write the model in single precision."""
        dynamic = self.options.dynamic_batch
        if self.foreign:
            convertible = self.options.precision != "fp32"
            write_foreign(
                self.model,
                self.size,
                self.base,
                dynamic_batch=dynamic,
                convertible=convertible,
            )
            self._seal(self.base)
        else:
            opset = self.options.opset or OPSET
            write_onnx(self.model, self.size, self.base, opset=opset, dynamic_batch=dynamic)

    def _write(self, reference: _Reference, samples: Samples) -> tuple[int, tuple[Attempt, ...]]:
        """Write the file; returns the number of int8 layers and the attempts."""
        if self.options.precision == "int8":
            return self._write_int8(reference, samples)
        if self.options.precision == "fp32":
            shutil.copyfile(self.base, self.target)
        elif self.foreign:
            write_half(self.base, self.target)
            self._seal(self.target)
        else:
            opset, dynamic = self.options.opset or OPSET, self.options.dynamic_batch
            write_onnx(
                self.model, self.size, self.target, "fp16", opset=opset, dynamic_batch=dynamic
            )
        return 0, ()

    def _write_int8(
        self, reference: _Reference, samples: Samples
    ) -> tuple[int, tuple[Attempt, ...]]:
        batches = [batch_of(image, self.size) for image in samples.calibration]
        quantiser = Quantiser(self.base, self.folder, batches, self.on_progress)

        def agreement(path: Path) -> float:
            self._seal(path)
            with ExitStack() as stack:
                return reference.compare(self._opened(path, stack), self.on_progress).mean

        attempts = quantise(quantiser, self.target, agreement, self.options.threshold)
        return len(quantiser.layers), attempts

    def _original(self, stack: ExitStack) -> Backend:
        """What the file must agree with: torch, or a foreign file itself."""
        name = "onnx" if self.foreign else "torch"
        precision = "auto" if self.foreign else "fp32"
        backend = open_backend(
            name, self.model, input_size=self.size, device="cpu", precision=precision
        )
        stack.callback(backend.close)
        return backend

    def _opened(self, path: Path, stack: ExitStack) -> Backend:
        """A written file, opened with default settings."""
        backend = open_backend("onnx", find_model(path), device="cpu")
        stack.callback(backend.close)
        return backend

    def _timed(self, backends: Mapping[str, Backend], image: Image) -> dict[str, float]:
        """Milliseconds of one model-only run of each backend."""
        times, failures = time_each(
            backends,
            batch_of(image, self.size),
            seconds=SECONDS,
            least_rounds=LEAST_ROUNDS,
            most_rounds=ROUNDS,
            on_round=lambda done: self.on_progress("timing", done, ROUNDS),
        )
        for error in failures.values():
            raise error
        return {name: 1e3 * times[name] for name in backends}

    def _seal(self, path: Path) -> None:
        try:
            seal(path, exported_spec(self.model.spec, self.size))
        except onnx.checker.ValidationError as error:
            raise ModelError(
                f"cannot export {self.model.spec.name} in {self.options.precision}",
                found=f"the result is not a valid ONNX file: {first_line(error)}",
            ) from error

    def _notes(self, reference: _Reference, took: Mapping[str, float]) -> list[str]:
        notes = list(self.model.notes)
        if reference.variety < LITTLE_VARIETY:
            notes.append(
                f"{100 * (1 - reference.variety):.1f} % of all pixels are of one class, so that "
                "agreement is not meaningful: use --samples in which the classes appear"
            )
        precision = self.options.precision
        if precision != "fp32" and took[f"onnx {precision}"] >= took["onnx fp32"]:
            why = "; it pays off on GPUs" if precision == "fp16" else why_slow(int8_instructions())
            notes.append(f"{precision} is not faster than fp32 on this machine{why}")
        return notes


def why_slow(instructions: Sequence[str] | None) -> str:
    """Whether int8 could be faster on this processor, as the end of a note.

    Args:
        instructions: the processor's for products of 8-bit numbers; None if unknown.
    """
    if instructions is None:
        return "; it needs a processor with VNNI, AMX or Arm dot products"
    if not instructions:
        return ": the processor has no instructions for it (VNNI, AMX, Arm dot products)"
    return f", although the processor has instructions for it ({', '.join(instructions)})"


class _Reference:
    """The results of a model on some frames, to compare others with.

    Args:
        backend: may be closed afterwards.
        images: (H, W, 3) uint8 BGR, of any sizes.
    """

    def __init__(self, backend: Backend, images: Sequence[Image], on_progress: OnProgress) -> None:
        self._images = images
        self._expected = []
        segmenter = Segmenter(backend)
        for done, image in enumerate(images):
            on_progress(f"running {backend.info.name} {backend.info.precision}", done, len(images))
            self._expected.append(segmenter(image))

    @property
    def variety(self) -> float:
        """Share of pixels that are not of the commonest class."""
        counts = sum(np.bincount(one.mask.reshape(-1), minlength=256) for one in self._expected)
        return float(1 - np.max(counts) / np.sum(counts))

    def compare(self, backend: Backend, on_progress: OnProgress) -> Parity:
        """Run another model on the same frames.

        Raises:
            BackendError: it failed, or returned scores of another shape.
        """
        segmenter = Segmenter(backend)
        largest = 0.0
        masks = []
        for done, (image, expected) in enumerate(zip(self._images, self._expected, strict=True)):
            on_progress(
                f"comparing {backend.info.name} {backend.info.precision}", done, len(self._images)
            )
            found = segmenter(image)
            difference = float(np.abs(found.scores - expected.scores).max())
            largest = max(largest, difference if np.isfinite(difference) else np.inf)
            masks.append((found.mask, expected.mask))
        shares = mask_agreement(masks)
        return Parity(len(masks), largest, shares.mean, shares.worst, shares.worst_frame)


KINDS = ("float32", "float16", "uint8")
"""Types that an input may have."""

PREFIX = "rtseg/"

CONVERTIBLE_OPSET = 13
"""The first with per-channel scales and optional inputs of Resize."""


def write_foreign(
    model: Model,
    size: tuple[int, int],
    path: Path,
    *,
    dynamic_batch: bool = False,
    convertible: bool = False,
) -> None:
    """Write a foreign model with its preprocessing inside, for an input of `size`.

    Its input settings become operators before it: exact, padding included. Its last layer stays
    as it is: one channel becomes two, probabilities stay probabilities. Heads are merged.

    Args:
        convertible: raise the opset if it is too old for conversion to fp16 or int8.

    Raises:
        ModelError: the file cannot be converted.
    """
    assert model.file is not None
    _check_usable(model, dynamic_batch)
    content = read_merged(model.file, size) or onnx.load(model.file)
    if convertible:
        content = _raise_opset(content, model.spec.name)
    batch: int | str = "batch" if dynamic_batch else 1
    _free_names(content.graph)
    _prepend_preprocessing(content.graph, model.spec.input, [batch, *size, 3])
    _append_scores(content.graph, model.spec, batch)
    content.ir_version = max(content.ir_version, 8)  # since 4, weights need not be inputs
    del content.graph.value_info[:]  # may be of other shapes
    try:
        whole = onnx.shape_inference.infer_shapes(content, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        found = str(error).strip().splitlines()[-1]
        raise ModelError(f"cannot export {model.spec.name} at {size}", found=found) from error
    onnx.save(whole, path)


def _raise_opset(content: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model in a newer opset, its Resize operators without unused inputs."""
    found = next(entry.version for entry in content.opset_import if entry.domain in ("", "ai.onnx"))
    try:
        if found < CONVERTIBLE_OPSET:
            content = version_converter.convert_version(content, CONVERTIBLE_OPSET)
    except RuntimeError as error:
        raise ModelError(
            f"cannot convert {name}",
            found=f"its opset {found} cannot be raised to {CONVERTIBLE_OPSET}: {first_line(error)}",
            do="Export it again from its framework in a newer opset",
        ) from error
    empty = {tensor.name for tensor in content.graph.initializer if 0 in tensor.dims}
    for node in content.graph.node:
        if node.op_type == "Resize":
            # two that share an empty input become invalid when converted to fp16
            node.input[1:] = ["" if name in empty else name for name in node.input[1:]]
    return content


def _check_usable(model: Model, dynamic_batch: bool) -> None:
    assert model.file is not None
    facts = read_facts(model.file)
    name = model.spec.output_name or next(iter(facts.outputs))
    asked = f"cannot export {model.spec.name}"
    if facts.kinds[name].startswith(("int", "uint")) or facts.makers[name] == "argmax":
        raise ModelError(asked, found="it returns class indices, not scores")
    if facts.dtype not in KINDS:
        raise ModelError(asked, found=f"its input type is {facts.dtype}")
    if facts.dtype == "uint8" and not _is_plain(model.spec.input):
        raise ModelError(asked, found="its input is quantised")
    if (found := precision_of(model.file)) != "fp32":
        raise ModelError(asked, found=f"its file is in {found}", do="Start from the fp32 file")
    if dynamic_batch and facts.input[0] is not None:
        raise ModelError(
            f"--dynamic-batch for {model.spec.name}", found=f"its file takes {facts.input[0]}"
        )


def _is_plain(spec: InputSpec) -> bool:
    """Whether pixels are not normalised."""
    return spec.scale == 1 and set(spec.mean) == {0} and set(spec.std) == {1}


def _free_names(graph: Any) -> None:
    """Rename what has the names of our input and output, and name every operator."""
    for index, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{index}"
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = _freed(name)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = _freed(value.name)


def _freed(name: str) -> str:
    return f"{PREFIX}{name}" if name in (INPUT_NAME, OUTPUT_NAME) else name


def _prepend_preprocessing(graph: Any, spec: InputSpec, dims: list[int | str]) -> None:
    """Insert operators that convert uint8 RGB to the model's own input."""
    numbers = {tensor.name for tensor in graph.initializer}
    theirs = next(value for value in graph.input if value.name not in numbers)
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, dims))
    nodes: list[Any] = []
    at = INPUT_NAME

    def then(operator: str, *inputs: str, **attributes: Any) -> None:
        nonlocal at
        name = f"{PREFIX}in/{len(nodes)}"
        nodes.append(helper.make_node(operator, [at, *inputs], [name], name=name, **attributes))
        at = name

    def number(name: str, values: Any, dtype: type) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(values, dtype), PREFIX + name))
        return PREFIX + name

    if spec.colour == "BGR":
        then("Gather", number("colours", [2, 1, 0], np.int64), axis=3)
    kind = theirs.type.tensor_type.elem_type
    if kind != TensorProto.UINT8 and not _is_plain(spec):
        std = np.array(spec.std, np.float64)
        then("Cast", to=TensorProto.FLOAT)
        then("Mul", number("factor", spec.scale / std, np.float32))
        then("Sub", number("shift", np.array(spec.mean) / std, np.float32))
    if kind != TensorProto.UINT8:
        then("Cast", to=kind)
    if spec.layout == "NCHW":
        then("Transpose", perm=[0, 3, 1, 2])
    nodes.append(helper.make_node("Identity", [at], [theirs.name], name=f"{PREFIX}in/last"))
    after = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *after])


def _append_scores(graph: Any, spec: ModelSpec, batch: int | str) -> None:
    """Append operators that convert the model's output to float32 NCHW scores."""
    wanted = _freed(spec.output_name) if spec.output_name else graph.output[0].name
    theirs = next(value for value in graph.output if value.name == wanted)
    dims = theirs.type.tensor_type.shape.dim
    channels = dims[1 if spec.output_layout == "NCHW" else 3].dim_value
    at = theirs.name
    if spec.output_layout == "NHWC":
        graph.node.append(helper.make_node("Transpose", [at], [f"{PREFIX}out"], perm=[0, 3, 1, 2]))
        at = f"{PREFIX}out"
    if theirs.type.tensor_type.elem_type != TensorProto.FLOAT:
        node = helper.make_node("Cast", [at], [f"{PREFIX}float"], to=TensorProto.FLOAT)
        graph.node.append(node)
        at = f"{PREFIX}float"
    if channels == 1 and len(spec.labels) == 2:
        at = _two_channels(graph, at, spec.output == "probabilities")
    graph.node.append(helper.make_node("Identity", [at], [OUTPUT_NAME], name=f"{PREFIX}out/last"))
    del graph.output[:]
    open_dims = [batch, len(spec.labels), None, None]
    graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, open_dims))


def _two_channels(graph: Any, at: str, probable: bool) -> str:
    """Turn one channel p into two: (1 - p, p), or for a logit (0, p)."""
    # the other channel is p * -1 + 1 or p * 0 + 0
    factor, rest = (-1, 1) if probable else (0, 0)
    for name, value in (("factor", factor), ("rest", rest)):
        tensor = numpy_helper.from_array(np.array(value, np.float32), f"{PREFIX}out/{name}")
        graph.initializer.append(tensor)
    product, other, both = (f"{PREFIX}out/{name}" for name in ("product", "other", "both"))
    graph.node.extend(
        [
            helper.make_node("Mul", [at, f"{PREFIX}out/factor"], [product]),
            helper.make_node("Add", [product, f"{PREFIX}out/rest"], [other]),
            helper.make_node("Concat", [other, at], [both], axis=1),
        ]
    )
    return both


def write_half(source: Path, target: Path) -> None:
    """Convert weights and arithmetic to half precision; input and output keep their types.

    By ONNX Runtime's converter, which leaves operators without a half-precision form as they are.
    """
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():  # about every weight that is truncated
        warnings.simplefilter("ignore", UserWarning)
        converted = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    ordered = ONNXModel(converted)  # it puts casts after their readers
    ordered.topological_sort()
    onnx.save(ordered.model, target)
