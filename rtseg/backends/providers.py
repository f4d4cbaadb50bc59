"""What ONNX Runtime calls its devices, and what is asked of each; loads no library."""

from __future__ import annotations

from rtseg.backends.devices import not_there, nvidia_driver
from rtseg.backends.options import BackendOptions
from rtseg.errors import UsageError
from rtseg.nets.onnx_facts import precision_of
from rtseg.zoo import Model

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
FAMILY_OF = {provider: family for family, provider in PROVIDERS.items()}
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


def provider_options(family: str, number: int) -> dict[str, str]:
    """The settings of a provider: which of several devices."""
    return {"device_id": str(number)} if family in ("cuda", "tensorrt", "directml") else {}


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
        cuda = PROVIDERS["cuda"]
        usable = nvidia_driver() and cuda in there
        silent = running == PROVIDERS["cpu"] and usable
        note = f"the GPU is not used: {why_not(cuda, there)}"
        return True, (note,) if silent else ()
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
