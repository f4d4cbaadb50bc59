"""On what it trains: Lightning Fabric for the device, the precision and the processes."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch

from rtseg.backends import parse_device
from rtseg.errors import DeviceError, UsageError
from rtseg.gpu import cuda_missing, has_cuda
from rtseg.system import GPU_UNUSED, native_precisions, nvidia_driver
from rtseg.train.lightning_import import Fabric
from rtseg.train.settings import Settings

PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def open_fabric(settings: Settings) -> tuple[Fabric, str]:
    """Fabric for what was asked, not yet launched; and the precision that it has.

    Training does not fall back to another device: it would take days instead of hours.

    Raises:
        UsageError: torch cannot train there, or not in that precision.
        DeviceError: the device is not here.
    """
    family, number = parse_device(settings.device)
    if family == "auto":
        family = "cuda" if has_cuda() else "cpu"
        if family == "cpu" and torch.backends.mps.is_available() and settings.devices == 1:
            family = "mps"
    _require(family, number, settings.devices)
    precision = _precision(family, settings.precision)
    first = range(number, number + settings.devices)
    devices: Any = list(first) if family == "cuda" else settings.devices
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)  # what it has to say, our lines say
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of devices that were found and not asked for
        fabric = Fabric(
            accelerator=family,
            devices=devices,
            precision=PRECISIONS[precision],
            strategy="ddp" if settings.devices > 1 else "auto",
        )
    return fabric, precision


def describe(fabric: Fabric, precision: str) -> str:
    """What really runs, in one line."""
    device = fabric.device
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    mixed = "" if precision == "fp32" else " mixed"
    many = f", {fabric.world_size} processes" if fabric.world_size > 1 else ""
    return f"{device}{name}, {precision}{mixed}{many}"


def unused_gpu(settings: Settings, fabric: Fabric) -> str:
    """Why a processor trains where a driver says that there is a GPU; "" where none does."""
    if settings.device != "auto" or fabric.device.type != "cpu" or not nvidia_driver():
        return ""
    return f"{GPU_UNUSED}: {cuda_missing(0)}; rtseg doctor says what to do"


def _require(family: str, number: int, devices: int) -> None:
    if family not in ("cpu", "cuda", "mps"):
        raise UsageError(f"--device {family}", found="training runs on cpu, cuda and mps")
    have = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if number + devices > have.get(family, number + devices):
        asked = f"{devices} {family} device{'s' if devices > 1 else ''} from {family}:{number} on"
        raise DeviceError(
            asked if family == "cuda" else f"{devices} of {family}",
            found=f"torch {torch.__version__} finds {have[family]}",
            do="rtseg doctor shows what runs here",
        )


def _precision(family: str, asked: str) -> str:
    if asked == "auto":
        if family == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        return "bf16" if family == "cpu" and _processor_gains() else "fp32"
    if asked == "fp16" and family != "cuda":
        raise UsageError(
            f"--precision fp16 on {family}",
            found="its loss scaling needs an NVIDIA GPU",
            do="Take bf16 or fp32",
        )
    return asked


def _processor_gains() -> bool:
    """Whether bf16 is quicker: elsewhere torch turns every number to and fro, ten times slower."""
    return "bf16" in native_precisions() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
