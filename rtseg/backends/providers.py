"""What ONNX Runtime calls its devices, and what is asked of each; loads no library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rtseg.backends.options import UNUSED, BackendOptions, not_there, nvidia_driver
from rtseg.cache import cache_dir, sha256
from rtseg.errors import UsageError
from rtseg.nets.foreign import precision_of
from rtseg.zoo import Model

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
FAMILY_OF = {provider: family for family, provider in PROVIDERS.items()}
REPLAYED = {PROVIDERS["cuda"], PROVIDERS["tensorrt"]}
"""Providers that can record their launches once and replay them."""

CHAINS = {"auto": ("cuda", "directml", "coreml"), "tensorrt": ("tensorrt", "cuda")}
"""What is tried before the processor, where it is more than the device itself. TensorRT builds for
minutes and must be asked for; what it cannot run, CUDA can."""


def check_device(family: str) -> None:
    """Raise UsageError for a device that ONNX Runtime has no provider for."""
    if family not in ("auto", *PROVIDERS):
        raise UsageError(
            f"device {family} for the onnx backend",
            found="it has " + ", ".join(PROVIDERS),
            do="Take the torch backend, or coreml on Apple machines" if family == "mps" else "",
        )


def provider_options(family: str, number: int, *, graph: bool = True) -> dict[str, str]:
    """The settings of a provider.

    Args:
        number: which of several devices.
        graph: whether NVIDIA's record their launches once and replay them, which needs fixed places
            for input and output (`BoundRun`) and every operator on the device.
    """
    settings = {"device_id": str(number)} if family in ("cuda", "tensorrt", "directml") else {}
    replay = "1" if graph else "0"
    if family == "cuda":
        # one shape for life: every method of cuDNN is timed once, with all the memory it asks for
        settings |= {
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "cudnn_conv_use_max_workspace": "1",
            "enable_cuda_graph": replay,
            "use_tf32": "0",  # fp32 is fp32
        }
    if family == "tensorrt":
        folder = cache_dir() / "tensorrt"  # building an engine takes minutes
        folder.mkdir(parents=True, exist_ok=True)
        engines = str(folder)
        settings |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": engines,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": engines,
            "trt_cuda_graph_enable": replay,
        }
    return settings


def for_file(chain: list[Any], network: Path) -> list[Any]:
    """The same providers, with engines in the cache that are this file's and no other's.

    TensorRT's own names for them hold the file's name and its nodes, but not its weights.
    """
    name = PROVIDERS["tensorrt"]
    if not any(entry[0] == name for entry in chain):
        return chain
    prefix = {"trt_engine_cache_prefix": f"{network.stem}-{sha256(network)[:16]}"}
    return [(name, entry[1] | prefix) if entry[0] == name else entry for entry in chain]


def fallbacks(chain: list[Any]) -> Iterator[list[Any]]:
    """The chain; the same without replay, which a network may not allow; then that of the next
    provider, and at last the processor.
    """
    plain = without_replay(chain)
    yield chain
    if plain != chain:
        yield plain
    if len(chain) > 1:
        yield from fallbacks(chain[1:])


def without_replay(chain: list[Any]) -> list[Any]:
    """The same providers, launching anew for every run."""
    off = {"enable_cuda_graph": "0", "trt_cuda_graph_enable": "0"}
    return [
        entry
        if isinstance(entry, str)
        else (entry[0], {name: off.get(name, value) for name, value in entry[1].items()})
        for entry in chain
    ]


def wanted_precision(asked: str, model: Model, provider: str) -> str:
    """The precision to export our networks in, or that an ONNX file has.

    Args:
        provider: the one that will be tried first.

    Raises:
        UsageError: the file, or the exporter, has no such precision.
        ModelError: the file cannot be read.
    """
    if model.format == "onnx":
        assert model.file is not None
        found = precision_of(model.file)
        if asked not in ("auto", found):
            raise UsageError(
                f"precision {asked} for {model.spec.name}",
                found=f"its file is in {found}",
                do="Leave --precision out, or name a file in that precision",
            )
        return found
    if asked in ("bf16", "int8"):
        raise UsageError(
            f"precision {asked} for {model.spec.name}",
            found="the onnx backend exports fp32 and fp16",
            do="Take the torch backend" if asked == "bf16" else "Name an ONNX file in int8",
        )
    fast = provider in (PROVIDERS["cuda"], PROVIDERS["tensorrt"])
    return asked if asked != "auto" else "fp16" if fast else "fp32"


def tiny_graph() -> bytes:
    """One convolution of (1, 1, 4, 4) float32 "x", as an ONNX file."""
    from onnx import TensorProto, helper

    one = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 3, 3], [1.0] * 9)
    picture = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "tiny", [picture], [result], [one])
    opset = helper.make_opsetid("", 13)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    return bytes(model.SerializeToString())


def compare(
    options: BackendOptions, running: str, there: list[str]
) -> tuple[bool, tuple[str, ...]]:
    """Whether the device is the one asked for, and what to say if it is not.

    Args:
        running: the session's first provider, read back.
        there: the providers that this build has.

    Raises:
        DeviceError: it is not, and the options are strict.
    """
    family = options.family
    if family == "auto":
        silent = running == PROVIDERS["cpu"] and nvidia_driver()
        return True, (f"{UNUSED}: {why_not(PROVIDERS['cuda'], there)}",) if silent else ()
    if running == PROVIDERS[family]:
        return True, ()
    device = f"{family}:{options.number}" if family in ("cuda", "tensorrt") else family
    instead = FAMILY_OF.get(running, running)
    return False, (not_there(device, why_not(PROVIDERS[family], there), options.strict, instead),)


def why_not(provider: str, there: list[str]) -> str:
    """Why a session that was asked for a provider does not have it; the library does not say."""
    if provider not in there:
        return f"this ONNX Runtime is built without {provider}"
    if provider in (PROVIDERS["cuda"], PROVIDERS["tensorrt"]) and not nvidia_driver():
        return f"{provider} finds no NVIDIA driver"
    return f"{provider} does not load: a library it needs is missing or of another version"
