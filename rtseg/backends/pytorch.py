"""Networks run by torch: processor, NVIDIA GPU, Apple GPU."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from rtseg.backends.base import check_batch, noise
from rtseg.backends.options import UNUSED, BackendOptions, first_line, not_there, nvidia_driver
from rtseg.contracts import Backend, BackendInfo
from rtseg.errors import MORE_MEMORY, BackendError, DeviceError, UsageError
from rtseg.frame import Picture
from rtseg.gpu import cuda_missing, device_failures, has_cuda
from rtseg.nets.build import SeamNetwork
from rtseg.nets.state import load_network
from rtseg.stats import Clock
from rtseg.threads import limited_cores
from rtseg.zoo import Model

if TYPE_CHECKING:
    from rtseg.decode.device import DeviceScores


NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
DTYPES = {name: dtype for dtype, name in NAMES.items()} | {"tf32": torch.float32}
WARM_UP_RUNS = 3

FRAMES_AT_ONCE = 8
"""Of a recording, in one batch on a GPU."""


def has_gpu() -> bool:
    """Whether torch can use a GPU here."""
    return has_cuda() or torch.backends.mps.is_available()


class TorchBackend(Backend):
    """One network in eager torch, channels last, in half precision on an NVIDIA GPU.

    Args:
        options: precision auto is fp16 on CUDA, else fp32; tf32, for NVIDIA's GPUs, keeps float32
            but multiplies with 10 bits of fraction, which fp32 here does not, as torch would by
            itself. That choice and `threads` hold for the whole program.

    Raises:
        UsageError: torch cannot run on such a device, or with such a precision.
        ModelError: the weights are not the network's.
        DeviceError: the device failed, or is not there and `strict` is set.
    """

    name = "torch"
    _loop: Any = None

    def __init__(
        self,
        model: Model,
        input_size: tuple[int, int],
        options: BackendOptions = BackendOptions(),  # noqa: B008 - frozen
    ) -> None:
        if options.precision == "int8":
            raise UsageError(
                "precision int8", found="the torch backend has none", do="Take the onnx backend"
            )
        self.spec, self.input_size = model.spec, input_size
        if (threads := options.threads or limited_cores()) is not None:
            torch.set_num_threads(threads)
        device, note = _device(options)
        if options.precision == "tf32" and device.type != "cuda":
            raise UsageError("precision tf32", found="only NVIDIA's GPUs have it", do="Take fp32")
        torch.backends.cudnn.allow_tf32 = options.precision == "tf32"
        notes = [*model.notes, *([note] if note else [])]
        dtype = DTYPES.get(options.precision) or _usual_dtype(device)
        try:
            self._load(model, device, dtype, notes)
        except DeviceError as error:
            if options.family != "auto" or device.type == "cpu" or options.strict:
                raise
            notes.append(f"{error}; the processor runs instead")
            self._free(device)
            self._load(model, torch.device("cpu"), torch.float32, notes)
        self.info = self._read_back(tuple(notes), kept=note is None or options.family == "auto")

    def _load(
        self, model: Model, device: torch.device, dtype: torch.dtype, notes: list[str]
    ) -> None:
        """Bring the network to the device and warm it up; `notes` gets what was done otherwise.

        Raises:
            DeviceError: the device failed.
        """
        self._network = load_network(model)
        try:
            self._network = self._placed(self._network, device, dtype)
            finite = self._warm_up(notes)
            if not finite and dtype != torch.float32:
                notes.append(f"{NAMES[dtype]} gave infinite scores, so fp32 runs instead")
                self._network = self._placed(load_network(model), device, torch.float32)
                finite = self._warm_up(notes)
            if device.type == "cuda":
                self._keep_frames(device, notes)
        except (RuntimeError, BackendError) as error:  # torch.OutOfMemoryError is one
            raise _device_failed(device, error) from error
        if not finite:
            notes.append("the network gives infinite or undefined scores in fp32 too")
        # On a processor a batch gained nothing: 31 ms a picture, alone and in batches of four
        # (288x512, two cores with AVX2). One small picture does not fill a GPU.
        self.batches = device.type == "cuda"

    def _keep_frames(self, device: torch.device, notes: list[str]) -> None:
        """Have frames shrunk, segmented, decoded and drawn on the device."""
        if find_spec("triton") is None:
            notes.append("Triton is not installed, so frames are shrunk and drawn by the processor")
            return
        from rtseg.backends.cuda import DeviceLoop

        loop = DeviceLoop(self._network, self.input_size, device)
        loop.warm_up(1)
        try:
            loop.rehearse()
        except torch.OutOfMemoryError:
            raise
        except (DeviceError, *device_failures()) as error:  # type: ignore[misc]
            # without a C compiler, for one, Triton can do nothing; is it the device, this fails too
            self._run(noise(self.input_size)).cpu()
            notes.append(f"frames are shrunk and drawn by the processor: {first_line(error)}")
            return
        notes.extend(loop.notes)
        self._loop = loop
        self.see, self.frames_at_once = self._see, FRAMES_AT_ONCE

    def _see(self, pictures: Sequence[Picture]) -> list[DeviceScores]:
        try:
            return self._loop(pictures)
        except device_failures() as error:
            raise self._failed(error) from error

    def device_seconds(self, passes: int) -> list[float] | None:
        """By CUDA's events, where frames are kept on the device."""
        return None if self.see is None else self._loop.network_seconds(passes)

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As the contract says; any number of pictures."""
        check_batch(batch, self.input_size)
        try:
            scores: NDArray[np.float32] = self._run(batch).cpu().numpy()
        except RuntimeError as error:
            raise self._failed(error) from error
        return scores

    def _failed(self, error: Exception) -> BackendError | DeviceError:
        device = self._offset.device
        kind = DeviceError if device.type == "cuda" else BackendError
        return kind(
            f"{self.spec.name} failed on {device}",
            found=first_line(error),
            do=MORE_MEMORY if isinstance(error, torch.OutOfMemoryError) else "",
        )

    def close(self) -> None:
        """Free the network's memory on the device."""
        self._free(self._offset.device)

    def _free(self, device: torch.device) -> None:
        self.see = self._loop = None
        with suppress(RuntimeError):  # a device that was lost answers every call with that
            self._network = self._network.to("cpu")
        if device.type == "cuda":
            with suppress(RuntimeError):
                torch.cuda.empty_cache()

    @property
    def _offset(self) -> torch.Tensor:
        return self._network.offset

    @torch.inference_mode()
    def _run(self, batch: NDArray[np.uint8]) -> torch.Tensor:
        # torch warns of memory it may not write, though it only reads here: copy that
        ours = np.require(batch, requirements=["C", "W"])
        # and an axis that numpy added has stride 0, for which torch.compile would begin anew
        image = torch.from_numpy(ours).view(ours.shape).to(self._offset.device)
        scores: torch.Tensor = self._network(image)
        return scores

    def _placed(self, network: SeamNetwork, device: torch.device, dtype: torch.dtype) -> Any:
        """The network on the device, as it is run."""
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # one shape for life: let cuDNN time its methods
        return network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return,unused-ignore]

    def _warm_up(self, notes: list[str]) -> bool:
        """Run at the real shape; whether all scores are finite. `notes` gets what to tell of it."""
        batch = noise(self.input_size)
        scores = [self._run(batch) for _ in range(WARM_UP_RUNS)][-1]
        return bool(torch.isfinite(scores).all().item())

    def _read_back(self, notes: tuple[str, ...], kept: bool) -> BackendInfo:
        weight = next(self._network.parameters())
        device = str(weight.device)
        if weight.device.type == "cuda":
            device = f"{weight.device} ({torch.cuda.get_device_name(weight.device)})"
        provider = "cuDNN" if weight.device.type == "cuda" else "ATen"
        short = torch.backends.cudnn.allow_tf32 and weight.dtype == torch.float32
        precision = "tf32" if short and weight.device.type == "cuda" else NAMES[weight.dtype]
        return BackendInfo(self.name, device, precision, provider, notes, kept)


def _device(options: BackendOptions) -> tuple[torch.device, str | None]:
    """The device that will run, and a note if it is not the one asked for."""
    family, number, strict = options.family, options.number, options.strict
    cuda, mps = has_cuda(), torch.backends.mps.is_available()
    if family == "auto":
        family = "cuda" if cuda else "mps" if mps else "cpu"
        if family == "cpu" and nvidia_driver():
            return torch.device("cpu"), f"{UNUSED}: {cuda_missing(0)}"
    if family not in ("cpu", "cuda", "mps"):
        raise UsageError(
            f"device {family} for the torch backend",
            found="it has cpu, cuda and mps",
            do="Take the onnx backend",
        )
    if family == "cuda" and (found := cuda_missing(number)):
        return torch.device("cpu"), not_there(f"cuda:{number}", found, strict)
    if family == "mps" and not mps:
        found = f"torch {torch.__version__} finds no Apple GPU"
        return torch.device("cpu"), not_there("mps", found, strict)
    return torch.device(family, number) if family == "cuda" else torch.device(family), None


def _usual_dtype(device: torch.device) -> torch.dtype:
    return torch.float16 if device.type == "cuda" else torch.float32


def _device_failed(device: torch.device, error: Exception) -> Exception:
    """What to raise for a failure while loading or warming up."""
    if isinstance(error, torch.OutOfMemoryError):
        return DeviceError(
            f"not enough memory on {device}",
            found=first_line(error),
            do=MORE_MEMORY,
        )
    return DeviceError(f"device {device} failed", found=first_line(error))


class CompiledBackend(TorchBackend):
    """The torch backend, its network turned into fused machine code or GPU kernels at load.

    That takes seconds to minutes the first time, which `info.notes` tell, and less once torch has
    it in its own cache; processors need a C++ compiler for it, GPUs Triton. Frames, batches and
    CUDA graphs are those of the torch backend.

    Raises:
        DeviceError: torch cannot compile here.
    """

    name = "torch-compile"

    def _placed(self, network: Any, device: torch.device, dtype: torch.dtype) -> Any:
        placed = super()._placed(network, device, dtype)
        return torch.compile(placed, dynamic=False)

    def _warm_up(self, notes: list[str]) -> bool:
        clock = Clock()
        since = clock.now()
        try:
            finite = super()._warm_up(notes)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise DeviceError(
                "torch.compile failed",
                found=first_line(error),
                do="Take --backend torch, or install a C++ compiler",
            ) from error
        notes.append(f"compiled in {clock.now() - since:.1f} s")
        return finite
