"""Why torch cannot use a GPU, in one clear line; as it would say on other machines."""

from __future__ import annotations

import warnings

import pytest
import torch

from rtseg import gpu

OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver by downloading and installing a new version"
)


def without_devices() -> bool:
    """As torch.cuda.is_available where the driver is unfit: it prints a paragraph."""
    warnings.warn(f"CUDA initialization: {OLD}", UserWarning, stacklevel=2)
    return False


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RuntimeError(OLD), "The NVIDIA driver on your system is too old (found version 11040)"),
        (RuntimeError("No CUDA GPUs are available"), "No CUDA GPUs are available"),
        (None, "it finds no NVIDIA GPU"),
    ],
)
def test_torch_says_why_it_cannot_use_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
    error: Exception | None,
    why: str,
) -> None:
    def init() -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", without_devices)
    monkeypatch.setattr(torch.cuda, "init", init)
    assert gpu.cuda_missing(0) == f"torch {torch.__version__} cannot use one: {why}"
    assert not recwarn.list


def test_torch_without_cuda_and_numbers_beyond_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert gpu.cuda_missing(0) == f"torch {torch.__version__} is built without CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert gpu.cuda_missing(1) == ""
    assert gpu.cuda_missing(2) == "there are 2 CUDA devices, numbered from 0"
