"""What the backends share: device fallback, input sizes, arrays into and out of a network."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rtseg.backends.options import BACKENDS, STRIDE, BackendOptions, package_versions
from rtseg.cache import TRIED, cache_path, make_room
from rtseg.contracts import Backend
from rtseg.errors import BackendError, DeviceError, ModelError, RtsegError, UsageError
from rtseg.files import atomic
from rtseg.limits import MODEL_GB, MODEL_SECONDS
from rtseg.nets import INT8_FORM
from rtseg.nets.ir import SUFFIX, digest_of
from rtseg.nets.onnx_file import is_plain_file
from rtseg.options import MAX_SIDE, MIN_SIDE, imported, plain, typed
from rtseg.zoo import InputSpec, Model, ModelSpec

WARM_UP_RUNS = 3

MAX_ASPECT = 4.0
"""Longest input shape, as one side over the other."""


def fallback_note(device: str, found: str, strict: bool, instead: str = "cpu") -> str:
    """The note that another device runs instead of the requested one.

    Args:
        found: why the device cannot be used.

    Raises:
        DeviceError: `strict` forbids it.
    """
    if strict:
        raise DeviceError(
            f"device {device} was required", found=found, do="rtseg doctor shows what runs here"
        )
    return f"device {device} was requested, but {found}; running on {instead}"


class Closed(Backend):
    """Stands in for a backend that was closed: it says what ran, and runs no more."""

    def __init__(self, backend: Backend) -> None:
        self.spec, self.info = backend.spec, backend.info
        self.input_size = backend.input_size

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raise BackendError."""
        raise BackendError(f"{self.spec.name} was used after it was closed", do="Load it again")


# --- input sizes ---------------------------------------------------------------------------------


def input_size_of(spec: ModelSpec, asked: tuple[int, int] | None) -> tuple[int, int]:
    """(height, width) of the input: what was asked for, else what the network was made for.

    Raises:
        UsageError: the network takes one other size only, or a side is out of range.
    """
    if asked is None or asked == spec.input.size:
        return spec.input.size
    height, width = asked = typed("input_size", tuple[int, int], plain(asked))
    if spec.input.fixed:
        own = f"{spec.input.size[0]}x{spec.input.size[1]}"
        raise UsageError(
            f"input size {height}x{width} for {spec.name}", found=f"it takes {own} and no other"
        )
    if not MIN_SIDE <= min(asked) <= max(asked) <= MAX_SIDE:
        raise UsageError(
            f"input size {height}x{width}", found=f"each side is {MIN_SIDE} to {MAX_SIDE} pixels"
        )
    return asked


def fit_size(spec: ModelSpec, frame_width: int, frame_height: int) -> tuple[int, int]:
    """(height, width) of the input for frames of a size: their shape, at the network's own area.

    Squeezing a wide frame into a square loses accuracy on thin things; the frame's own shape costs
    no more. Both sides are multiples of 16, at least 32; of those with no more pixels than the
    network was made for, the one whose shape and area come nearest. Frames more than four times as
    long as wide are squeezed to that. A network of one fixed size keeps it.

    A network made for sides of one pixel more than multiples of 16, as 513, gets such sides: where
    its coarsest samples lie on the image differs, and it has learned to make up for that.
    """
    if spec.input.fixed:
        return spec.input.size
    more = odd_pixel(spec.input.size)
    area = (spec.input.size[0] - more) * (spec.input.size[1] - more)
    shape = min(max(frame_width / frame_height, 1 / MAX_ASPECT), MAX_ASPECT)
    # beyond this side the other one would be under its minimum
    sides = range(MIN_SIDE, area // MIN_SIDE + 1, STRIDE)

    def loss(size: tuple[int, int]) -> float:
        height, width = size
        distortion = abs(math.log(width / height / shape))
        return distortion + 0.25 * math.log(area / (height * width))

    sizes = [(h, w) for h in sides for w in _multiples_near(h * shape, area // h)]
    if not sizes:
        return spec.input.size
    height, width = min(sizes, key=loss)
    return height + more, width + more


def odd_pixel(size: tuple[int, int]) -> int:
    """1 if both sides are one pixel more than multiples of 16, else 0."""
    return int(all(side % STRIDE == 1 for side in size))


def _multiples_near(width: float, limit: int) -> list[int]:
    """Multiples of 16 on both sides of `width`, from 32 to `limit`."""
    limit -= limit % STRIDE
    below = int(width) // STRIDE * STRIDE
    clamped = {max(MIN_SIDE, min(side, limit)) for side in (below, below + STRIDE)}
    return [side for side in sorted(clamped) if side <= limit]


def int8_advice(model: Model) -> str:
    """What to do for int8 where a backend does not quantise."""
    if model.file is not None:
        beside = model.file.with_name(f"{model.file.stem}{INT8_FORM}.onnx")
        if beside.is_file():
            return f"Use -m {beside}"
    return "Make an int8 file with rtseg export"


# --- trials ---------------------------------------------------------------------------------------

_TRIAL = "import sys; sys.path[:] = sys.argv[1:]; import rtseg.backends.base as b; b.run_trial()"
"""The folder that the process is started in is not on the path."""


def check_network(name: str, model: Model, size: tuple[int, int]) -> None:
    """Refuse a foreign file that would fill the memory or never end.

    Most show by their operators and shapes that they do not. Others, such as those with loops, are
    first run in another process, on the CPU, within limits of time and memory. The cache remembers
    those that passed.

    Args:
        name: of the backend.
        size: (height, width) of the network's input.

    Raises:
        ModelError: the file is beyond the limits, or the backend cannot run it.
    """
    if model.format not in ("onnx", "openvino") or model.file is None:
        return
    if model.format == "onnx" and is_plain_file(model.file, size):
        return
    spec = model.spec.to_json()
    limits = MODEL_GB.value(), MODEL_SECONDS.value()
    parts = (digest_of(model.file), spec, size, package_versions(), limits)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    passed = cache_path("tried", f"{key}-{name}")
    if passed.is_file():
        with suppress(OSError):  # a read-only cache
            passed.touch()  # see `make_room`
        return
    if (before := _refused.get(key)) is not None:
        raise ModelError(before[0], found=before[1], do=before[2])
    try:
        within = _runs_within_limits(name, model.file, spec, size)
    except ModelError as error:
        _refused[key] = error.asked, error.found, error.do
        raise
    if within:
        with suppress(OSError), atomic(passed) as temporary:
            temporary.touch()
        make_room(passed.parent, TRIED)


_refused: dict[str, tuple[str, str, str]] = {}
"""Networks that this process has tried, by all that counts but the backend: a second backend would
keep a person waiting as long."""


def _runs_within_limits(name: str, file: Path, spec: str, size: tuple[int, int]) -> bool:
    """Run a network in a process of its own; False if there is no way to."""
    if not sys.executable or hasattr(sys, "frozen"):  # a program that has no Python of its own
        return False
    seconds, gigabytes = MODEL_SECONDS.value(), MODEL_GB.value()
    task = json.dumps([name, str(file.absolute()), spec, size, seconds, gigabytes])
    asked = f"cannot use {file}"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRIAL, *sys.path],
            input=task,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        found = f"it does not run once within {seconds:.0f} seconds on the CPU"
        raise ModelError(asked, found=found, do=MODEL_SECONDS.advice) from None
    except (OSError, ValueError):  # no process can be started
        return False
    if done.returncode == 0:
        return True
    with suppress(ValueError, IndexError):
        asked, found, do = json.loads(done.stdout.splitlines()[-1])
        full = any(word in found for word in ("allocate", "bad_alloc", "exceeds the supported"))
        if full:
            found = f"it needs more than {gigabytes:.0f} GB of memory"
        raise ModelError(asked, found=found, do=MODEL_GB.advice if full else do)
    if done.returncode < 0:
        raise ModelError(asked, found="it crashes, or needs too much memory", do=MODEL_GB.advice)
    return False


def run_trial() -> None:
    """Load and run the network that standard input describes, for `check_network`."""
    name, file, spec, size, seconds, gigabytes = json.load(sys.stdin)
    if sys.platform != "win32":
        import resource

        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds * 64) + 1,) * 2)  # if left behind
            resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 1e9),) * 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    kind: Literal["onnx", "openvino"] = "openvino" if file.endswith(SUFFIX) else "onnx"
    model = Model(ModelSpec.from_json(spec), Path(file), kind)
    try:
        imported(BACKENDS[name].open)(model, tuple(size), BackendOptions(device="cpu"))
    except RtsegError as error:
        sys.stdout.write("\n" + json.dumps([error.asked, error.found, error.do]))
        raise SystemExit(1) from error
    except MemoryError as error:
        sys.stdout.write("\n" + json.dumps([f"cannot use {file}", "cannot allocate", ""]))
        raise SystemExit(1) from error


# --- arrays --------------------------------------------------------------------------------------


def check_batch(batch: NDArray[np.uint8], input_size: tuple[int, int]) -> None:
    """Raise BackendError for a batch that is not (N, h, w, 3), (h, w) being `input_size`."""
    if batch.ndim != 4 or batch.shape[1:] != (*input_size, 3):
        height, width = input_size
        raise BackendError(
            f"a batch of shape {batch.shape}", found=f"the model takes (N, {height}, {width}, 3)"
        )


def noise(input_size: tuple[int, int]) -> NDArray[np.uint8]:
    """(1, h, w, 3) uint8 to warm up with; not black, which would not overflow half precision."""
    return np.random.default_rng(0).integers(0, 256, (1, *input_size, 3), np.uint8)


def warm_up(backend: Backend) -> bool:
    """Run at the real shape; whether all scores are finite.

    Raises:
        ModelError: the network does not take this shape, or does not give scores.
        DeviceError: the device failed.
    """
    batch = noise(backend.input_size)
    try:
        scores = [backend(batch) for _ in range(WARM_UP_RUNS)][-1]
    except BackendError as error:
        raise ModelError(error.asked, found=error.found, do=error.do) from error
    return bool(np.isfinite(scores).all())


def infinite_scores(spec: ModelSpec) -> ModelError:
    """The error for a network that gives such scores in full precision too."""
    return ModelError(
        f"cannot use {spec.name}",
        found="it gives infinite or undefined scores (NaN), so its masks would mean nothing",
        do="Check its weights, and the input that it expects: mean, std and scale",
    )


class InputEncoder:
    """Turns (N, h, w, 3) uint8 RGB batches into a network's input, as its `InputSpec` says.

    Args:
        dtype: of the input, as the file declares it.
    """

    def __init__(self, spec: InputSpec, dtype: np.dtype) -> None:
        self.dtype = dtype
        self._flip = spec.colour == "BGR"
        self._planes = spec.layout == "NCHW"
        # (v * scale - mean) / std = v * factor + shift, in the network's own colour order
        std = np.array(spec.std, np.float64)
        self._factor = (spec.scale / std).astype(np.float32)
        self._shift = (-np.array(spec.mean, np.float64) / std).astype(np.float32)
        self._raw = bool((self._factor == 1).all() and (self._shift == 0).all())

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray:
        """The network's input, contiguous, in its layout, colour order and dtype."""
        pixels: NDArray = batch[..., ::-1] if self._flip else batch
        if not self._raw:
            pixels = pixels * self._factor + self._shift
            if self.dtype.kind in "iu":  # quantised by the file's own scale: whole numbers
                limits = np.iinfo(self.dtype)
                pixels = np.clip(np.rint(pixels), limits.min, limits.max)
        if self._planes:
            pixels = pixels.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(pixels, self.dtype)


def as_scores(output: NDArray, spec: ModelSpec) -> NDArray[np.float32]:
    """A network's output as (N, C, h, w) float32, C being the number of its labels.

    One channel p, of a network with two classes, becomes (1 - p, p), or as a logit (0, p). Class
    indices, which some networks give as whole numbers of any dtype, become one-hot, as logits of 0
    and `CERTAIN`; so do masks of 0 and 255, whose second class is 255.

    Raises:
        BackendError: the output's shape or its values do not fit the labels.
    """
    count = len(spec.labels)
    single = output.ndim == 3 or 1 in (output.shape[1], output.shape[-1])
    if single and (output.dtype.kind in "iu" or count > 2 or _is_mask(output)):
        sure = 1 if spec.output == "probabilities" else CERTAIN
        return _one_hot(output, spec) * np.float32(sure)
    if output.ndim == 4 and spec.output_layout == "NHWC":
        output = output.transpose(0, 3, 1, 2)
    scores = np.ascontiguousarray(output, np.float32)
    if scores.ndim == 4 and scores.shape[1] == 1 and count == 2:
        if spec.output == "probabilities" and (scores.max() > 1.05 or scores.min() < -0.05):
            raise BackendError(
                f"{spec.name} gave values from {scores.min():.4g} to {scores.max():.4g}",
                found="its output was to be probabilities, from 0 to 1",
                do="Name the right activation and labels in a TOML file beside it",
            )
        other = 1 - scores if spec.output == "probabilities" else np.zeros_like(scores)
        scores = np.concatenate([other, scores], axis=1)
    if scores.ndim != 4 or scores.shape[1] != count:
        raise BackendError(
            f"{spec.name} gave an output of shape {output.shape}",
            found=f"its {count} labels need {count} channels",
            do="Name its labels and layout in a TOML file beside it",
        )
    return scores


CERTAIN = 255.0
"""The logit of a class that a network names outright, beside 0 of all others."""


def _is_mask(output: NDArray) -> bool:
    """Whether all numbers of one channel are 0, and 1 or 255."""
    most = output.max()
    return most in (0, 1, 255) and bool(((output == 0) | (output == most)).all())


def _one_hot(indices: NDArray, spec: ModelSpec) -> NDArray[np.float32]:
    """Zeros and ones of (N, h, w), (N, 1, h, w) or (N, h, w, 1) class indices."""
    count = len(spec.labels)
    if not np.array_equal(whole := np.rint(indices), indices):
        raise BackendError(
            f"{spec.name} gave one channel of scores",
            found=f"its {count} labels need {count} channels, or whole class indices",
        )
    if whole.ndim == 4:
        whole = whole.squeeze(1 if whole.shape[1] == 1 else 3)
    if count == 2 and _is_mask(whole):
        whole = whole != 0
    elif whole.min() < 0 or whole.max() >= count:
        wrong = whole.min() if whole.min() < 0 else whole.max()
        raise BackendError(
            f"{spec.name} gave class {wrong:.0f}",
            found=f"it has {count} labels, for classes 0 to {count - 1}",
            do="Name all its classes with --labels, or in a TOML file beside it",
        )
    classes = np.arange(count).reshape(1, -1, 1, 1)
    return (whole[:, None] == classes).astype(np.float32)
