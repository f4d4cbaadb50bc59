"""Put a trained network into models/: in half precision, with a digest, and as ONNX beside it.

    python tools/ship.py runs/person/best.pth --size 256x448

Writes models/NAME.safetensors (float16); models/NAME.json, the `ModelSpec` with the SHA-256 of the
weights, which is checked whenever they are loaded; and models/NAME.onnx, the same numbers for every
input size, of which a first start makes its file without torch.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from rtseg.cache import sha256
from rtseg.labels import PERSON
from rtseg.nets import find_model
from rtseg.nets.onnx_file import write_ready
from rtseg.nets.state import load_network, read_checkpoint, save_checkpoint
from rtseg.zoo import Model, WeightsSpec

MODELS = Path(__file__).resolve().parents[1] / "models"
DATA = "VOC 2012, COCO, clothing-co-parsing, video clips; see models/person.md"


def main() -> None:
    """Read the command line and write the three files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="best.pth of `rtseg train`")
    parser.add_argument("--size", default="256x448", help="height x width it is meant for")
    parser.add_argument("--name", default="person")
    args = parser.parse_args()
    height, width = (int(side) for side in args.size.split("x"))
    trained = find_model(args.checkpoint)
    _, state = read_checkpoint(args.checkpoint)
    spec = replace(
        trained.spec,
        name=args.name,
        labels=PERSON,
        input=replace(trained.spec.input, size=(height, width)),
        dataset=DATA,
        miou=None,
        licence="Apache-2.0",
        weights=None,
    )
    path = MODELS / f"{args.name}.safetensors"
    save_checkpoint(path, spec, {key: _halved(value) for key, value in state.items()})
    load_network(Model(spec, path, "torch"))  # raises if it is not that network
    digest = WeightsSpec("", sha256(path), spec.licence, round(path.stat().st_size / 1e6, 1))
    path.with_suffix(".json").write_text(replace(spec, weights=digest).to_json() + "\n", "utf-8")
    write_ready(find_model(path), path.with_suffix(".onnx"))
    print(f"{path.name}: {digest.megabytes} MB, SHA-256 {digest.sha256}")


def _halved(value: torch.Tensor) -> torch.Tensor:
    return value.half() if value.is_floating_point() else value


if __name__ == "__main__":
    main()
