"""One export: write the file, quantise it where asked, compare it, time it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from rtseg.backends import open_backend
from rtseg.contracts import Backend
from rtseg.errors import ModelError, first_line
from rtseg.export.foreign import write_foreign, write_half
from rtseg.export.frames import Samples, Watch
from rtseg.export.int8 import Attempt, Quantiser, quantise
from rtseg.export.options import ExportOptions
from rtseg.frame import Image
from rtseg.measure import batch_of, mask_agreement, time_each
from rtseg.nets import find_model
from rtseg.nets.onnx_file import OPSET, exported_spec, seal, write_onnx
from rtseg.segmenter import Segmenter
from rtseg.zoo import Model


@dataclass(frozen=True)
class Parity:
    """What the comparison of two networks found.

    Attributes:
        frames: how many were compared.
        largest: difference of two scores, over all; infinite where one is not finite.
        mean: share of pixels with the same class, at frame size, mean over the frames.
        worst: the same, of the frame where it is least.
        worst_frame: which one that is, from 0.
    """

    frames: int
    largest: float
    mean: float
    worst: float
    worst_frame: int


class Reference:
    """What a network says of some frames; others are held against it.

    Args:
        backend: the network; it may be closed afterwards.
        images: (H, W, 3) uint8 BGR, each of any size.
    """

    def __init__(self, backend: Backend, images: Sequence[Image], watch: Watch) -> None:
        self._images = images
        self._expected = []
        segmenter = Segmenter(backend)
        for done, image in enumerate(images):
            watch(f"running {backend.info.name} {backend.info.precision}", done, len(images))
            self._expected.append(segmenter(image))

    @property
    def variety(self) -> float:
        """Share of pixels that are not of the commonest class; of nothing else, all agree."""
        counts = sum(np.bincount(one.mask.reshape(-1), minlength=256) for one in self._expected)
        return float(1 - np.max(counts) / np.sum(counts))

    def compare(self, backend: Backend, watch: Watch) -> Parity:
        """Run another network on the same frames.

        Raises:
            BackendError: it failed, or gives scores of another shape.
        """
        segmenter = Segmenter(backend)
        largest = 0.0
        masks = []
        for done, (image, expected) in enumerate(zip(self._images, self._expected, strict=True)):
            watch(
                f"comparing {backend.info.name} {backend.info.precision}", done, len(self._images)
            )
            found = segmenter(image)
            difference = float(np.abs(found.scores - expected.scores).max())
            largest = max(largest, difference if np.isfinite(difference) else np.inf)
            masks.append((found.mask, expected.mask))
        shares = mask_agreement(masks)
        return Parity(len(masks), largest, shares.mean, shares.worst, shares.worst_frame)


ROUNDS, LEAST_ROUNDS, SECONDS = 15, 3, 6.0
"""Timing takes fifteen rounds, or fewer once six seconds have passed, but at least three."""


LITTLE = 0.01
"""Where fewer pixels than this differ from the commonest class, agreement says little."""


@dataclass(frozen=True)
class Exported:
    """What was written, and how it compares.

    Attributes:
        path: where the file lies; None where nothing was left.
        size: (height, width) of the pictures it takes.
        original: what it was compared with: "torch fp32", or "original file" of a foreign one.
        samples: where the frames came from, for people.
        parity: with the original, on those frames.
        megabytes: of the files, by what they are; the last is this one.
        milliseconds: of one run of the model only, on the processor, in the same order.
        layers: how many could be in int8; 0 in other precisions.
        attempts: at int8, in order; the last is the file.
        notes: what a person should know.
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


class Work:
    """One export on its way.

    Args:
        size: (height, width) of the pictures that the file takes.
        folder: for what is needed meanwhile.
        target: the file to write.
    """

    def __init__(
        self,
        model: Model,
        size: tuple[int, int],
        options: ExportOptions,
        folder: Path,
        target: Path,
        watch: Watch,
    ) -> None:
        self.model, self.size, self.options = model, size, options
        self.folder, self.target, self.watch = folder, target, watch
        self.base = folder / "fp32.onnx"
        self.foreign = model.format == "onnx"

    def do(self, samples: Samples) -> Exported:
        """Write the file, and compare it on the samples."""
        self.watch("writing the network", 0, 0)
        self._write_base()
        with ExitStack() as stack:
            original = self._original(stack)
            reference = Reference(original, samples.parity, self.watch)
            layers, attempts = self._write(reference, samples)
            backends = {"original file" if self.foreign else "torch fp32": original}
            files = {"onnx fp32": self.base, f"onnx {self.options.precision}": self.target}
            backends |= {name: self._opened(path, stack) for name, path in files.items()}
            parity = reference.compare(list(backends.values())[-1], self.watch)
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
        """The network in single precision."""
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

    def _write(self, reference: Reference, samples: Samples) -> tuple[int, tuple[Attempt, ...]]:
        """The file itself; how many layers int8 can have, and the attempts at it."""
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
        self, reference: Reference, samples: Samples
    ) -> tuple[int, tuple[Attempt, ...]]:
        batches = [batch_of(image, self.size) for image in samples.calibration]
        quantiser = Quantiser(self.base, self.folder, batches, self.watch)

        def agreement(path: Path) -> float:
            self._seal(path)
            with ExitStack() as stack:
                return reference.compare(self._opened(path, stack), self.watch).mean

        attempts = quantise(quantiser, self.target, agreement, self.options.threshold)
        return len(quantiser.layers), attempts

    def _original(self, stack: ExitStack) -> Backend:
        """What the file must agree with: torch, or for a foreign file that file itself."""
        name = "onnx" if self.foreign else "torch"
        precision = "auto" if self.foreign else "fp32"
        backend = open_backend(
            name, self.model, input_size=self.size, device="cpu", precision=precision
        )
        stack.callback(backend.close)
        return backend

    def _opened(self, path: Path, stack: ExitStack) -> Backend:
        """A file of ours, opened as anybody opens it: with no other setting."""
        backend = open_backend("onnx", find_model(path), device="cpu")
        stack.callback(backend.close)
        return backend

    def _timed(self, backends: Mapping[str, Backend], image: Image) -> dict[str, float]:
        """Milliseconds of one run of each network: the model only, no frame is shrunk or drawn."""
        times, failures = time_each(
            backends,
            batch_of(image, self.size),
            seconds=SECONDS,
            least_rounds=LEAST_ROUNDS,
            most_rounds=ROUNDS,
            on_round=lambda done: self.watch("timing", done, ROUNDS),
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
                found=f"what came of it is no valid ONNX file: {first_line(error)}",
            ) from error

    def _notes(self, reference: Reference, took: Mapping[str, float]) -> list[str]:
        notes = list(self.model.notes)
        if reference.variety < LITTLE:
            notes.append(
                f"{100 * (1 - reference.variety):.1f} % of all pixels are of one class, so that "
                "agreement says little: name --samples in which the classes are seen"
            )
        precision = self.options.precision
        if precision != "fp32" and took[f"onnx {precision}"] >= took["onnx fp32"]:
            pays = "on GPUs" if precision == "fp16" else "on processors with VNNI or AMX"
            notes.append(f"{precision} is no faster than fp32 on this machine; it pays {pays}")
        return notes
