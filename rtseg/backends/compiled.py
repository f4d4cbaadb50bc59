"""Networks run by torch, compiled for their one input size by torch.compile."""

from __future__ import annotations

from typing import Any

import torch

from rtseg.backends.devices import first_line
from rtseg.backends.pytorch import TorchBackend
from rtseg.clock import Clock
from rtseg.errors import DeviceError


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
