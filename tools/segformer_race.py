"""SegFormer-B0 with 150 classes, random weights: rtseg beside transformers, in turns in one run.

    python tools/segformer_race.py [--sizes 512x512,288x512] [--rounds 9] [--threads 1]

Needs `rtseg[transformers]`. transformers builds the network and writes a folder of the hub, which
both take. Prints, per size, medians of milliseconds of the thread that waits, and of processor
time, and their ratios:

- `plain` and `exact`: the file exported from transformers in ONNX Runtime, as it is and with
  the head that rtseg rewrites (see docs/models.md);
- `transformers` and `rtseg`: a 1280x720 frame to a drawn frame. One has SegformerImageProcessor,
  the network in torch and `post_process_semantic_segmentation`, then colours blended by OpenCV;
  the other is a segmenter and an effect of rtseg, in ONNX Runtime in fp32. The frame is squeezed to
  the size in both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import onnxruntime
import torch

import rtseg
from rtseg.labels import ADE20K
from rtseg.nets.build import segmentation
from rtseg.nets.merge import read_merged

segmentation()  # imports torchvision, whatever its build, before transformers does
import transformers  # noqa: E402

Size = tuple[int, int]


def main() -> None:
    """Build, check that both see the same, take turns, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="512x512,288x512")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    torch.manual_seed(0)
    names = dict(enumerate(ADE20K.names))
    network = transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(id2label=names)
    ).eval()
    with rtseg.open_source("test://?size=1280x720&frames=1") as source:
        frame = next(iter(source))
    for text in args.sizes.split(","):
        height, width = map(int, text.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            loops = _pairs(network, (height, width), frame, Path(folder), args.threads)
            _race(text, loops, args.rounds)


def _pairs(
    network: Any, size: Size, frame: rtseg.Frame, folder: Path, threads: int
) -> dict[str, Callable[[], object]]:
    processor = transformers.SegformerImageProcessor(size={"height": size[0], "width": size[1]})
    network.save_pretrained(folder / "net")
    processor.save_pretrained(folder / "net")
    plain, exact = folder / "plain.onnx", folder / "exact.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, *size),),
            str(plain),
            dynamo=False,
            opset_version=17,
            input_names=["pixel_values"],
            output_names=["logits"],
        )
    exact.write_bytes(read_merged(plain, size).SerializeToString())
    pixels = np.random.default_rng(0).normal(size=(1, 3, *size)).astype(np.float32)
    sessions = [_session(path, threads) for path in (plain, exact)]
    logits = [each.run(None, {"pixel_values": pixels})[0] for each in sessions]
    equal = (logits[0].argmax(1) == logits[1].argmax(1)).mean()
    print(f"logits differ by {np.abs(logits[0] - logits[1]).max():.1e}; {equal:.4%} equal")
    segmenter = rtseg.load(
        folder / "net", imgsz=size, backend="onnx", precision="fp32", device="cpu", threads=threads
    )
    effect = rtseg.open_effect(rtseg.ViewOptions(), segmenter.labels)
    colours = np.array(ADE20K.colours, np.uint8)[:, ::-1]

    def usual() -> np.ndarray:
        image = cv2.cvtColor(frame.image, cv2.COLOR_BGR2RGB)
        with torch.no_grad():
            given = network(**processor(image, return_tensors="pt"))
        mask = processor.post_process_semantic_segmentation(given, [frame.image.shape[:2]])[0]
        return cv2.addWeighted(frame.image, 0.5, colours[mask.numpy()], 0.5, 0)

    def ours() -> np.ndarray:
        return effect(frame, segmenter(frame.image))

    return {
        "plain": lambda: sessions[0].run(None, {"pixel_values": pixels}),
        "exact": lambda: sessions[1].run(None, {"pixel_values": pixels}),
        "transformers": usual,
        "rtseg": ours,
    }


def _session(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _race(text: str, loops: dict[str, Callable[[], object]], rounds: int) -> None:
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    for number in range(rounds + 1):
        for name, loop in loops.items():
            start, used = time.perf_counter(), time.process_time()
            loop()
            spent = time.perf_counter() - start, time.process_time() - used
            if number:  # the first is to warm up
                taken[name].append(spent)
    for name, spent in taken.items():
        wall, used = (1000 * median(column) for column in zip(*spent, strict=True))
        print(f"{text} {name}: {wall:.1f} ms, processor {used:.1f} ms")
    for slow, fast in (("plain", "exact"), ("transformers", "rtseg")):
        ratios = [
            [a / b for a, b in zip(x, y, strict=True)]
            for x, y in zip(taken[slow], taken[fast], strict=True)
        ]
        wall, used = (median(column) for column in zip(*ratios, strict=True))
        print(f"{text} {slow} over {fast}: {wall:.2f} in time, {used:.2f} in processor time")


if __name__ == "__main__":
    main()
