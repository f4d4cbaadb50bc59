"""ONNX Runtime's execution providers: names, settings, order; imports no library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rtseg.backends.base import fallback_note, int8_advice
from rtseg.backends.options import BackendOptions, package_versions
from rtseg.cache import add_checksum, cache_dir, is_intact, safe_name
from rtseg.errors import UsageError
from rtseg.nets.ir import digest_of
from rtseg.nets.onnx_file import precision_of
from rtseg.system import GPU_UNUSED, nvidia_driver
from rtseg.zoo import Model

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
FAMILY_OF = {provider: family for family, provider in PROVIDERS.items()}
GRAPH_PROVIDERS = {PROVIDERS["cuda"], PROVIDERS["tensorrt"]}
"""Providers that can capture a run as a CUDA graph and replay it."""

CHAINS = {"auto": ("cuda", "directml", "coreml"), "tensorrt": ("tensorrt", "cuda")}
"""What is tried before the CPU, if it is more than the device itself. TensorRT builds engines for
minutes and must be requested; what it cannot run, CUDA can."""


def provider_options(family: str, number: int) -> dict[str, str]:
    """The settings of a provider.

    NVIDIA's capture a run as a CUDA graph, which needs fixed buffers (`BoundRun`) and every
    operator on the device; see `without_graphs`.

    Args:
        number: index of the device.
    """
    settings = {"device_id": str(number)} if family in ("cuda", "tensorrt", "directml") else {}
    if family == "cuda":
        # one shape for life: time every method of cuDNN once, with all the memory it wants
        settings |= {
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "cudnn_conv_use_max_workspace": "1",
            "enable_cuda_graph": "1",
            "use_tf32": "0",  # fp32 is fp32
        }
    if family == "tensorrt":
        settings["trt_cuda_graph_enable"] = "1"
        folder = cache_dir() / "tensorrt"  # building an engine takes minutes
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            settings |= {
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": str(folder),
                "trt_timing_cache_enable": "1",
                "trt_timing_cache_path": str(folder),
            }
    return settings


def for_file(chain: list[Any], network: Path, precision: str = "") -> list[Any]:
    """The same providers, with TensorRT engines cached under a name of this file alone.

    TensorRT's own names hold the file's name and nodes, but not its weights. Up to ONNX Runtime
    1.26 it computes in half precision only if it is told to, whatever the file's numbers are.
    """
    name = PROVIDERS["tensorrt"]
    if not any(entry[0] == name for entry in chain):
        return chain
    own = {"trt_engine_cache_prefix": engine_prefix(network)}
    if precision == "fp16" and ort_release() < (1, 27):
        own["trt_fp16_enable"] = "1"
    return [(name, entry[1] | own) if entry[0] == name else entry for entry in chain]


def ort_release() -> tuple[int, int]:
    """Major and minor version of the installed ONNX Runtime; (0, 0) if unknown."""
    versions = [v for name, v in package_versions().items() if name.startswith("onnxruntime")]
    found = re.match(r"(\d+)\.(\d+)", versions[0]) if versions else None
    return (int(found[1]), int(found[2])) if found else (0, 0)


def engine_prefix(network: Path) -> str:
    """How the names of the engines made from a file begin."""
    return f"{safe_name(network.stem)}-{digest_of(network)[:16]}"


def check_engines(network: Path, notes: list[str]) -> None:
    """Remove TensorRT engines of a file that were changed, or whose run was killed, from the cache.

    Args:
        notes: gets one for each that was changed.
    """
    for engine in (cache_dir() / "tensorrt").glob(f"{engine_prefix(network)}*.engine"):
        if not is_intact(engine, notes):
            with suppress(OSError):
                engine.unlink()


def keep_engines(network: Path) -> None:
    """Give the engines of a file their checksums, for `check_engines` in later runs."""
    for engine in (cache_dir() / "tensorrt").glob(f"{engine_prefix(network)}*.engine"):
        if not is_intact(engine, []):
            with suppress(OSError):
                add_checksum(engine)


def fallbacks(chain: list[Any]) -> Iterator[list[Any]]:
    """Chains to try in order: as it is, without CUDA graphs, from the next provider on, the CPU."""
    plain = without_graphs(chain)
    yield chain
    if plain != chain:
        yield plain
    if len(chain) > 1:
        yield from fallbacks(chain[1:])


def without_graphs(chain: list[Any]) -> list[Any]:
    """The same providers without CUDA graphs."""
    off = {"enable_cuda_graph": "0", "trt_cuda_graph_enable": "0"}
    return [
        entry
        if isinstance(entry, str)
        else (entry[0], {name: off.get(name, value) for name, value in entry[1].items()})
        for entry in chain
    ]


def resolve_precision(asked: str, model: Model, provider: str) -> str:
    """The precision to export a checkpoint in, or that an ONNX file has.

    Args:
        provider: the one that is tried first.

    Raises:
        UsageError: the file has, or the exporter writes, another precision only.
        ModelError: the file cannot be read.
    """
    if model.format == "onnx":
        assert model.file is not None
        found = precision_of(model.file)
        if asked not in ("auto", found):
            raise UsageError(
                f"precision {asked} for {model.spec.name}",
                found=f"its file is in {found}",
                do="Remove --precision, or use a file in that precision",
            )
        return found
    if asked in ("bf16", "int8"):
        raise UsageError(
            f"precision {asked} for {model.spec.name}",
            found="the onnx backend exports fp32 and fp16",
            do="Use --backend torch" if asked == "bf16" else int8_advice(model),
        )
    fast = provider in (PROVIDERS["cuda"], PROVIDERS["tensorrt"])
    return asked if asked != "auto" else "fp16" if fast else "fp32"


def tiny_graph() -> bytes:
    """One convolution of (1, 1, 4, 4) float32 "x", as an ONNX file."""
    from onnx import TensorProto, helper

    one = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 3, 3], [1.0] * 9)
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "tiny", [image], [result], [one])
    opset = helper.make_opsetid("", 13)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    return bytes(model.SerializeToString())


def compare(
    options: BackendOptions, running: str, built_in: list[str]
) -> tuple[bool, tuple[str, ...]]:
    """Whether the device is the requested one, and notes if it is not.

    Args:
        running: the session's first provider, read back.
        built_in: the providers that this build has.

    Raises:
        DeviceError: it is not, and the options are strict.
    """
    family = options.family
    if family == "auto":
        unused = running == PROVIDERS["cpu"] and nvidia_driver()
        why = why_missing(PROVIDERS["cuda"], built_in)
        return True, (f"{GPU_UNUSED}: {why}",) if unused else ()
    if running == PROVIDERS[family]:
        return True, ()
    device = f"{family}:{options.number}" if family in ("cuda", "tensorrt") else family
    instead = FAMILY_OF.get(running, running)
    why = why_missing(PROVIDERS[family], built_in)
    return False, (fallback_note(device, why, options.strict_device, instead),)


def why_missing(provider: str, built_in: list[str]) -> str:
    """Why a session does not have a provider that it was given; ONNX Runtime does not tell."""
    if provider not in built_in:
        return f"this ONNX Runtime is built without {provider}"
    if provider in (PROVIDERS["cuda"], PROVIDERS["tensorrt"]) and not nvidia_driver():
        return f"{provider} finds no NVIDIA driver"
    return f"{provider} does not load: a library it needs is missing or of another version"
