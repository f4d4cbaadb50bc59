"""Dilated convolutions as products and moves give what they gave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from rtseg.backends import dilated, open_backend, openvino_runtime
from rtseg.nets import find_model

ov = pytest.importorskip("openvino")

CHANNELS, OUTPUTS = 6, 4


def network(
    size: tuple[int, int],
    dilation: int,
    *,
    stride: int = 1,
    pad: int | None = None,
    kind: type = np.float32,
) -> Any:
    """A convolution of 3x3 with bias, whose result is the output `scores`."""
    rng = np.random.default_rng(dilation)
    weights = rng.standard_normal((OUTPUTS, CHANNELS, 3, 3), np.float32).astype(kind)
    attributes = {
        "dilations": [dilation] * 2,
        "pads": [dilation if pad is None else pad] * 4,
        "strides": [stride] * 2,
    }
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["scores"], **attributes)],
        "network",
        [helper.make_tensor_value_info("image", number, [1, CHANNELS, *size])],
        [helper.make_tensor_value_info("scores", number, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return ov.Core().read_model(model.SerializeToString())


def result(network: Any) -> np.ndarray:
    core = ov.Core()
    compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    shape = list(compiled.input(0).shape)
    image = np.random.default_rng(7).standard_normal(shape, np.float32)
    image = image.astype(compiled.input(0).element_type.to_dtype())
    return np.array(compiled([image])["scores"])


def convolutions(network: Any) -> list[Any]:
    return [op for op in network.get_ops() if op.get_type_name() == "Convolution"]


@pytest.mark.parametrize(
    ("size", "dilation", "taps"),
    [((20, 31), 4, 9), ((11, 40), 12, 3), ((40, 11), 12, 3), ((9, 9), 9, 1), ((9, 10), 9, 3)],
)
def test_the_scores_stay(
    size: tuple[int, int], dilation: int, taps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dilated, "LEAST_CHANNELS", CHANNELS)
    before, changed = network(size, dilation), network(size, dilation)
    assert dilated.with_separate_taps(changed) == 1
    (product,) = convolutions(changed)
    assert list(product.get_dilations()) == [1, 1]
    assert list(product.input_value(1).get_shape()) == [taps * OUTPUTS, CHANNELS, 1, 1]
    expected = result(before)
    assert expected.std() > 1
    np.testing.assert_allclose(result(changed), expected, atol=1e-4)


def test_files_in_half_precision_are_rewritten_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dilated, "LEAST_CHANNELS", CHANNELS)
    before, changed = (network((20, 31), 4, kind=np.float16) for _ in range(2))
    assert dilated.with_separate_taps(changed) == 1
    np.testing.assert_allclose(result(changed), result(before), atol=0.05)


@pytest.mark.parametrize(
    ("asked", "channels"),
    [
        ({"dilation": 2}, CHANNELS),  # near
        ({"dilation": 4}, CHANNELS + 1),  # few channels, and every tap sees the image
        ({"dilation": 4, "stride": 2}, CHANNELS),
        ({"dilation": 4, "pad": 3}, CHANNELS),  # smaller than the image
    ],
)
def test_others_are_left(
    asked: dict[str, int], channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dilated, "LEAST_CHANNELS", channels)
    kept = network((20, 31), **asked)
    assert dilated.with_separate_taps(kept) == 0
    (convolution,) = convolutions(kept)
    assert list(convolution.get_dilations()) == [asked["dilation"]] * 2


@pytest.mark.parametrize(("tiles", "precision"), [(True, "bf16"), (False, "bf16"), (True, "fp32")])
def test_only_bfloat16_with_amx_is_rewritten(
    tiles: bool, precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Also after the same network came out of the cache without it."""
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path))
    seen: list[Any] = []
    monkeypatch.setattr(openvino_runtime, "with_separate_taps", seen.append)
    model = find_model("person")
    for each in (False, tiles):
        monkeypatch.setattr(openvino_runtime, "multiplies_tiles", lambda each=each: each)
        open_backend("openvino", model, input_size=(64, 96), precision=precision).close()
    assert len(seen) == (tiles and precision == "bf16")
