"""Compiles every kernel for NVIDIA's GPUs, which needs none; a program of its own.

Triton's interpreter takes what its compiler refuses, and whether a kernel is for the one or the
other is settled when its module is imported.
"""

from __future__ import annotations

import sys

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as build

from rtseg.decode import kernels

INTEGER, REAL, BYTES, REALS = "i32", "fp32", "*u8", "*fp32"
FRAME = {"frames": BYTES, "small": BYTES, "height": INTEGER, "width": INTEGER}
PLANES = {
    **dict.fromkeys(("luma", "chroma", "picture"), BYTES),
    **dict.fromkeys(
        "height width chroma_height chroma_width luma_line chroma_line".split(), INTEGER
    ),
    **dict.fromkeys(("kr", "kb"), REAL),
}
STRIDES = dict.fromkeys("classes h w stride_n stride_c stride_y stride_x".split(), INTEGER)
SCORES = {"scores": REALS, "top": BYTES, **STRIDES}
DECODED = {
    **SCORES,
    "rows": "*i32",
    "row_weights": REALS,
    "columns": "*i32",
    "column_weights": REALS,
    **dict.fromkeys(("table", "masks", "frames", "canvas"), BYTES),
    "counts": "*i32",
    "weight": REALS,
    "offset": REALS,
    "height": INTEGER,
    "width": INTEGER,
}
UNPAINTED = {**DECODED, "weight": "*i32", "offset": "*i32"}
JOINED = {
    **dict.fromkeys(("values", "bias", "residual"), "*fp16"),
    **dict.fromkeys(("count", "channels"), INTEGER),
}
WIDE = {**PLANES, "luma": "*u16", "chroma": "*u16"}

# kernel, types, constants; Triton makes a constant of an argument that is 1
CASES = (
    *(
        (kernels.shrink, FRAME | {"out_height": INTEGER, "out_width": INTEGER}, box)
        for box in ({"BOX_Y": 1, "BOX_X": 1}, {"BOX_Y": 4, "BOX_X": 2})
    ),
    (kernels.shrink, FRAME, {"out_height": 1, "out_width": 1, "BOX_Y": 2, "BOX_X": 2}),
    *((kernels.bgr, PLANES, {"FULL": full, "DEPTH": 8}) for full in (True, False)),
    *((kernels.bgr, WIDE, {"FULL": full, "DEPTH": 16}) for full in (True, False)),
    (kernels.winners, SCORES, {}),
    (kernels.winners, SCORES, {"stride_c": 1}),
    (kernels.decode, DECODED, {"PAINT": True}),
    (kernels.decode, DECODED, {"PAINT": True, "stride_c": 1}),
    (kernels.decode, DECODED, {"PAINT": True, "h": 1, "w": 1}),
    (kernels.decode, UNPAINTED, {"PAINT": False}),
    *(
        (kernels.epilogue, JOINED, {"inner": inner, "ADD": add, "ACTIVATION": name})
        for inner, add, name in (
            (1, True, "none"),
            (1, False, "relu"),
            (1, False, "relu6"),
            (1, False, "hardsigmoid"),
            (1, True, "hardswish"),
        )
    ),
    (kernels.epilogue, JOINED | {"inner": INTEGER}, {"ADD": True, "ACTIVATION": "relu"}),
)


def compiled(kernel: object, types: dict[str, str], constants: dict[str, object]) -> str:
    """The assembly of a kernel."""
    constants = {"BLOCK": 512 if kernel is kernels.decode else 256} | constants
    names = kernel.arg_names  # type: ignore[attr-defined]
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    return str(build(ASTSource(kernel, signature, values, {}), target=target).asm["ptx"])


if __name__ == "__main__":
    once = {case[0]: case for case in CASES}  # of each kernel the last
    for case in once.values() if "once" in sys.argv else CASES:
        assert ".visible .entry" in compiled(*case)
        print(case[0].__name__)  # type: ignore[attr-defined]
