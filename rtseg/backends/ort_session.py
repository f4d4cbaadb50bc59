"""Sessions of ONNX Runtime: their device, their settings, and what they say when they fail."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from rtseg.backends.devices import first_line, nvidia_driver
from rtseg.backends.providers import (
    CHAINS,
    FAMILY_OF,
    PROVIDERS,
    provider_options,
    tiny_graph,
    why_not,
)
from rtseg.errors import DeviceError, ModelError

FATAL = 4

# Errors of ONNX Runtime are bare subclasses of Exception, one by one.
Failure: tuple[type[Exception], ...] = (
    *(
        value
        for value in vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ),
    RuntimeError,
    ValueError,
)

# It writes to stderr what we read back and say in one line.
onnxruntime.set_default_logger_severity(FATAL)
if sys.platform == "win32":  # elsewhere a variable of `rtseg/__init__.py` does more, and earlier
    onnxruntime.disable_telemetry_events()


def available_providers_that_run() -> dict[str, str]:
    """Every provider that this build has, and "runs" or why not."""
    return {provider: provider_found(provider) for provider in built_in()}


def provider_found(provider: str) -> str:
    """ "runs", or why it does not: a tiny graph is run on it."""
    if provider not in built_in():
        return why_not(provider, built_in())
    try:
        preload(FAMILY_OF.get(provider, ""))
        session = open_session(tiny_graph(), [provider], threads=1)
        session.run(None, {"x": np.ones((1, 1, 4, 4), np.float32)})
        real = session.get_providers()[0]
        return "runs" if real == provider else why_not(provider, built_in())
    except DeviceError:  # its own words name lines of C++
        return why_not(provider, built_in())
    except Failure as error:
        return first_line(error)


def open_session(
    network: Path | bytes, providers: list[Any], threads: int
) -> onnxruntime.InferenceSession:
    """Load a network; where none of the `providers` but the last can be had, some raise, and others
    are left out in silence.

    Raises:
        ModelError: it is no network, or one that this ONNX Runtime does not know.
        DeviceError: a provider failed.
    """
    name = network.name if isinstance(network, Path) else "the graph"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its threads spin while an operator of the run is awaited: to wake one that sleeps costs more
    # than most operators of a small network do (22.2 ms a frame instead of 25.1, person at 288x512
    # on two cores). Between runs they would spin on the cores that decoding and drawing need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(
            str(network) if isinstance(network, Path) else network,
            options,
            providers=providers,
            enable_fallback=0,  # its own fallback prints; ours is read back and said
        )
    except Failure as error:
        if any(kind in type(error).__name__ for kind in ("Protobuf", "Graph", "NoSuch", "NoModel")):
            # "..., Error No Op registered for X" is worth knowing; other words are C++'s own
            words = first_line(error).partition(", Error ")[2] or "it is no ONNX file, or damaged"
            raise ModelError(f"cannot load the network {name}", found=words) from error
        if providers != [PROVIDERS["cpu"]]:
            raise DeviceError(
                f"{names_of(providers)[0]} cannot load {name}", found=first_line(error)
            ) from error
        raise ModelError(f"cannot load the network {name}", found=first_line(error)) from error


def chain_of(family: str, number: int) -> list[Any]:
    """What to hand to the session: the device's provider where this build has it, then the CPU."""
    there = built_in()
    chain: list[Any] = []
    for name in CHAINS.get(family, (family,)):
        nvidia = name in ("cuda", "tensorrt")
        if name == "cpu" or PROVIDERS[name] not in there or (nvidia and not nvidia_driver()):
            continue
        preload(name)
        chain.append((PROVIDERS[name], provider_options(name, number)))
    return [*chain, PROVIDERS["cpu"]]


def names_of(providers: list[Any]) -> list[str]:
    """Providers without their options."""
    return [entry if isinstance(entry, str) else entry[0] for entry in providers]


def preload(family: str) -> None:
    """Load the libraries that NVIDIA's own wheels, and torch's, bring of CUDA, cuDNN and TensorRT,
    where the system has none; nothing for other devices.
    """
    if family not in ("cuda", "tensorrt") or not nvidia_driver():
        return
    load = getattr(onnxruntime, "preload_dlls", None)  # since 1.21
    if load is not None:
        with redirect_stdout(io.StringIO()):  # it prints what it does not find
            load()
    if family == "tensorrt":
        with suppress(ImportError, OSError):
            import_module("tensorrt")  # its wheel's libraries lie where no loader looks


def built_in() -> list[str]:
    """The providers that this build of ONNX Runtime has, loadable or not."""
    return list(onnxruntime.get_available_providers())
