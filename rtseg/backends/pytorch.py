"""Networks run by PyTorch: CPU, NVIDIA GPU, Apple GPU."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rtseg.backends.base import WARM_UP_RUNS, check_batch, fallback_note, infinite_scores, noise
from rtseg.backends.options import BackendOptions
from rtseg.contracts import Backend, BackendInfo
from rtseg.errors import MORE_MEMORY, BackendError, DeviceError, UsageError, first_line
from rtseg.frame import HeldScores, Picture
from rtseg.gpu import best_device, cuda_missing, device_failures, device_missing
from rtseg.nets.build import SeamNetwork
from rtseg.nets.state import load_network
from rtseg.system import GPU_UNUSED, limited_cores, nvidia_driver
from rtseg.zoo import Model

NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
DTYPES = {name: dtype for dtype, name in NAMES.items()} | {"tf32": torch.float32}
FRAMES_AT_ONCE = 8
"""Frames of a recording in one batch on a GPU."""


class TorchBackend(Backend):
    """One network in eager PyTorch, channels last.

    Args:
        options: precision auto is fp16 on CUDA, else fp32; tf32, of NVIDIA GPUs, keeps float32 but
            multiplies with 10 bits of fraction (torch's own default; fp32 here does not). That
            choice and `threads` hold for the whole process.

    Raises:
        UsageError: the device has no such precision.
        ModelError: the weights are not the network's.
        DeviceError: the device failed, or is missing and `strict_device` is set.
    """

    name = "torch"
    _loop: Any = None
    _fuses = True

    def __init__(
        self,
        model: Model,
        input_size: tuple[int, int],
        options: BackendOptions = BackendOptions(),  # noqa: B008 - frozen
    ) -> None:
        self.spec, self.input_size = model.spec, input_size
        if (threads := options.threads or limited_cores()) is not None:
            torch.set_num_threads(threads)
        device, note = _find_device(options)
        if options.precision == "tf32" and device.type != "cuda":
            raise UsageError("precision tf32", found="only NVIDIA GPUs have it", do="Use fp32")
        torch.backends.cudnn.allow_tf32 = options.precision == "tf32"
        notes = [*model.notes, *([note] if note else [])]
        usual = torch.float16 if device.type == "cuda" else torch.float32
        dtype = DTYPES.get(options.precision, usual)
        try:
            self._load(model, device, dtype, notes)
        except DeviceError as error:
            if options.family != "auto" or device.type == "cpu" or options.strict_device:
                raise
            notes.append(f"{error}; running on cpu")
            self._free(device)
            self._load(model, torch.device("cpu"), torch.float32, notes)
        self.info = self._read_back(tuple(notes), kept=note is None or options.family == "auto")

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As the contract says; any number of images."""
        check_batch(batch, self.input_size)
        try:
            scores: NDArray[np.float32] = self._run(batch).cpu().numpy()
        except RuntimeError as error:
            raise self._failed(error) from error
        return scores

    def device_seconds(self, passes: int) -> list[float] | None:
        """By CUDA events, where frames are kept on the device."""
        return None if self.segment is None else self._loop.network_seconds(passes)

    def close(self) -> None:
        """Free the network's memory on the device."""
        self._free(self._offset.device)

    def _load(
        self, model: Model, device: torch.device, dtype: torch.dtype, notes: list[str]
    ) -> None:
        """Move the network to the device and warm it up; `notes` gets what to report.

        Raises:
            DeviceError: the device failed.
        """
        self._network = load_network(model)
        try:
            self._network = self._place(self._network, device, dtype)
            finite = self._warm_up(notes)
            if not finite and dtype != torch.float32:
                notes.append(f"{NAMES[dtype]} gave infinite scores; running in fp32")
                self._network = self._place(load_network(model), device, torch.float32)
                finite = self._warm_up(notes)
            if device.type == "cuda":
                self._keep_frames(device, notes)
        except (RuntimeError, BackendError) as error:  # torch.OutOfMemoryError is one
            full = isinstance(error, torch.OutOfMemoryError)
            raise DeviceError(
                f"not enough memory on {device}" if full else f"device {device} failed",
                found=first_line(error),
                do=MORE_MEMORY if full else "",
            ) from error
        if not finite:
            raise infinite_scores(self.spec)
        # A CPU gains nothing by batches: 31 ms an image, alone and in batches of four (288x512, two
        # cores with AVX2). One small image does not fill a GPU.
        self.batches = device.type == "cuda"

    def _keep_frames(self, device: torch.device, notes: list[str]) -> None:
        """Have frames shrunk, segmented, decoded and drawn on the device."""
        if find_spec("triton") is None:
            notes.append("Triton is not installed, so frames are shrunk and drawn by the CPU")
            return
        from rtseg.backends.cuda import open_loop

        self._loop = open_loop(self._network, self.input_size, device, notes, fuse=self._fuses)
        if self._loop is not None:
            self.segment, self.frames_at_once = self._segment, FRAMES_AT_ONCE

    def _segment(self, pictures: Sequence[Picture]) -> Sequence[HeldScores]:
        try:
            held: list[HeldScores] = self._loop(pictures)
        except device_failures() as error:
            raise self._failed(error) from error
        if self._loop.notes:  # of what happened meanwhile
            self.info = replace(self.info, notes=(*self.info.notes, *self._loop.notes))
            self._loop.notes = ()
        return held

    def _failed(self, error: Exception) -> BackendError | DeviceError:
        device = self._offset.device
        kind = DeviceError if device.type == "cuda" else BackendError
        return kind(
            f"{self.spec.name} failed on {device}",
            found=first_line(error),
            do=MORE_MEMORY if isinstance(error, torch.OutOfMemoryError) else "",
        )

    def _free(self, device: torch.device) -> None:
        self.segment = self._loop = None
        with suppress(RuntimeError):  # a lost device answers every call with one
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
        writable = np.require(batch, requirements=["C", "W"])
        # an axis that numpy added has stride 0, for which torch.compile would compile again
        image = torch.from_numpy(writable).view(writable.shape).to(self._offset.device)
        scores: torch.Tensor = self._network(image)
        return scores

    def _place(self, network: SeamNetwork, device: torch.device, dtype: torch.dtype) -> Any:
        """The network on the device, ready to run."""
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # one shape for life: let cuDNN time its methods
        return network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return,unused-ignore]

    def _warm_up(self, notes: list[str]) -> bool:
        """Run at the real shape; whether all scores are finite. `notes` gets what to report."""
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


def _find_device(options: BackendOptions) -> tuple[torch.device, str | None]:
    """The device that will run, and a note if it is not the requested one."""
    family, number = options.family, options.number
    if family == "auto":
        family = best_device()
        if family == "cpu" and nvidia_driver():
            return torch.device("cpu"), f"{GPU_UNUSED}: {cuda_missing(0)}"
    elif found := device_missing(family, number):
        wanted = f"cuda:{number}" if family == "cuda" else family
        return torch.device("cpu"), fallback_note(wanted, found, options.strict_device)
    return torch.device(family, number) if family == "cuda" else torch.device(family), None
