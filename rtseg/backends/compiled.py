"""Networks run by torch.compile: the torch backend, with fused machine code or GPU kernels."""

from __future__ import annotations

from typing import Any

import torch

from rtseg.backends.pytorch import TorchBackend
from rtseg.errors import DeviceError, first_line
from rtseg.stats import Clock


class CompiledBackend(TorchBackend):
    """The torch backend, its network compiled at load.

    That takes seconds to minutes the first time (`info.notes` say how long), and less once torch
    has it in its own cache. CPUs need a C++ compiler for it, GPUs Triton. Frames, batches and CUDA
    graphs are those of the torch backend.

    Raises:
        DeviceError: torch cannot compile here.
    """

    name = "torch-compile"
    _fuses = False  # torch does

    def _place(self, network: Any, device: torch.device, dtype: torch.dtype) -> Any:
        return torch.compile(super()._place(network, device, dtype), dynamic=False)

    def _warm_up(self, notes: list[str]) -> bool:
        clock = Clock()
        start = clock.now()
        try:
            finite = super()._warm_up(notes)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise DeviceError(
                "torch.compile failed",
                found=first_line(error),
                do="Use --backend torch, or install a C++ compiler",
            ) from error
        notes.append(f"compiled in {clock.now() - start:.1f} s")
        return finite
