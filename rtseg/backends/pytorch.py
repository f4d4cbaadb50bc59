"""Networks run by torch: processor, NVIDIA GPU, Apple GPU."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from rtseg.backends.devices import first_line, not_there
from rtseg.backends.options import BackendOptions
from rtseg.backends.sizes import check_batch, noise
from rtseg.contracts import Backend, BackendInfo
from rtseg.errors import BackendError, DeviceError, UsageError
from rtseg.nets.graph import SeamNetwork
from rtseg.nets.state import load_network
from rtseg.zoo import Model

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
WARM_UP_RUNS = 3


def has_gpu() -> bool:
    """Whether torch can use a GPU here."""
    return torch.cuda.is_available() or torch.backends.mps.is_available()


class TorchBackend(Backend):
    """One network in eager torch, channels last, in half precision on an NVIDIA GPU.

    Args:
        options: precision auto is fp16 on CUDA, else fp32; threads sets torch's for the whole
            program.

    Raises:
        UsageError: torch cannot run on such a device, or with such a precision.
        ModelError: the weights are not the network's.
        DeviceError: the device failed, or is not there and `strict` is set.
    """

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
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        device, note = _device(options)
        notes = [*model.notes, *([note] if note else [])]
        dtype = DTYPES.get(options.precision) or _usual_dtype(device)
        network = load_network(model)
        try:
            self._network = _placed(network, device, dtype)
            finite = self._warm_up()
            if not finite and dtype != torch.float32:
                notes.append(f"{NAMES[dtype]} gave infinite scores, so fp32 runs instead")
                self._network = _placed(load_network(model), device, torch.float32)
                finite = self._warm_up()
        except (RuntimeError, BackendError) as error:  # torch.OutOfMemoryError is one
            raise _device_failed(device, error) from error
        if not finite:
            notes.append("the network gives infinite or undefined scores in fp32 too")
        self.info = self._read_back(tuple(notes), kept=note is None)

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As the contract says; any number of pictures."""
        check_batch(batch, self.input_size)
        try:
            scores: NDArray[np.float32] = self._run(batch).cpu().numpy()
        except RuntimeError as error:
            asked = f"{self.spec.name} failed on {self._offset.device}"
            raise BackendError(asked, found=first_line(error)) from error
        return scores

    def close(self) -> None:
        """Free the network's memory on the device."""
        cuda = self._offset.device.type == "cuda"
        self._network = self._network.to("cpu")
        if cuda:
            torch.cuda.empty_cache()

    @property
    def _offset(self) -> torch.Tensor:
        return self._network.offset

    @torch.inference_mode()
    def _run(self, batch: NDArray[np.uint8]) -> torch.Tensor:
        # torch warns of memory it may not write, though it only reads here: copy that
        ours = np.require(batch, requirements=["C", "W"])
        image = torch.from_numpy(ours).to(self._offset.device)
        scores: torch.Tensor = self._network(image)
        return scores

    def _warm_up(self) -> bool:
        """Run at the real shape; whether all scores are finite."""
        batch = noise(self.input_size)
        scores = [self._run(batch) for _ in range(WARM_UP_RUNS)][-1]
        return bool(torch.isfinite(scores).all().item())

    def _read_back(self, notes: tuple[str, ...], kept: bool) -> BackendInfo:
        weight = next(self._network.parameters())
        device = str(weight.device)
        if weight.device.type == "cuda":
            device = f"{weight.device} ({torch.cuda.get_device_name(weight.device)})"
        provider = "cuDNN" if weight.device.type == "cuda" else "ATen"
        return BackendInfo("torch", device, NAMES[weight.dtype], provider, notes, kept)


def _device(options: BackendOptions) -> tuple[torch.device, str | None]:
    """The device that will run, and a note if it is not the one asked for."""
    family, number, strict = options.family, options.number, options.strict
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if family == "auto":
        family = "cuda" if cuda else "mps" if mps else "cpu"
    if family not in ("cpu", "cuda", "mps"):
        raise UsageError(
            f"device {family} for the torch backend",
            found="it has cpu, cuda and mps",
            do="Take the onnx backend",
        )
    if family == "cuda" and (found := _cuda_missing(number)):
        return torch.device("cpu"), not_there(f"cuda:{number}", found, strict)
    if family == "mps" and not mps:
        found = f"torch {torch.__version__} finds no Apple GPU"
        return torch.device("cpu"), not_there("mps", found, strict)
    return torch.device(family, number) if family == "cuda" else torch.device(family), None


def _cuda_missing(number: int) -> str:
    """Why CUDA device `number` cannot be used; "" when it can."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no NVIDIA GPU or driver"
    count = torch.cuda.device_count()
    return "" if number < count else f"there are {count} CUDA devices, numbered from 0"


def _usual_dtype(device: torch.device) -> torch.dtype:
    return torch.float16 if device.type == "cuda" else torch.float32


def _placed(network: SeamNetwork, device: torch.device, dtype: torch.dtype) -> SeamNetwork:
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # one shape for life: let cuDNN time its methods
    return network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return,unused-ignore]


def _device_failed(device: torch.device, error: Exception) -> Exception:
    """What to raise for a failure while loading or warming up."""
    if isinstance(error, torch.OutOfMemoryError):
        return DeviceError(
            f"not enough memory on {device}",
            found=first_line(error),
            do="Take a smaller --imgsz or network, or --device cpu",
        )
    return DeviceError(f"device {device} failed", found=first_line(error))
