"""The loop of an ONNX Runtime tutorial, to compare with: nothing in it is tuned.

    python tools/plain_onnx_loop.py CLIP OUT.mp4 NETWORK.onnx FRAMES

One thread of Python, ONNX Runtime with its default settings, the network as torchvision exports it
(float input, the enlargement to the input's size inside), arg-max in numpy, the mask enlarged by
nearest neighbour, mp4v. Prints frames per second, mean milliseconds per stage,
and the seconds of processor time.
"""

from __future__ import annotations

import sys
import time

import cv2
import numpy as np
import onnxruntime

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


class Laps:
    """Seconds spent per stage."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Count the time since the last lap to `stage`."""
        now = time.perf_counter()
        self.spent[stage] = self.spent.get(stage, 0.0) + now - self._since
        self._since = now


def main() -> None:
    """Read, segment, draw and write, one frame after the other."""
    clip, out, network, frames = sys.argv[1:5]
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    _, classes, height, width = session.get_outputs()[0].shape
    colours = np.random.default_rng(0).integers(0, 256, (classes, 3), np.uint8)
    capture, writer = cv2.VideoCapture(clip), None
    session.run(None, {"input": np.zeros((1, 3, height, width), np.float32)})  # warm
    done, start, used, laps = 0, time.perf_counter(), time.process_time(), Laps()
    while done < int(frames):
        good, frame = capture.read()
        laps.lap("read")
        if not good:
            break
        small = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), (width, height))
        scaled = (small.astype(np.float32) / 255 - MEAN) / STD
        batch = np.ascontiguousarray(scaled.transpose(2, 0, 1)[np.newaxis])
        laps.lap("preprocess")
        (logits,) = session.run(None, {"input": batch})
        laps.lap("model")
        mask = logits[0].argmax(0).astype(np.uint8)
        laps.lap("argmax")
        mask = cv2.resize(mask, frame.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        blended = cv2.addWeighted(frame, 0.6, colours[mask], 0.4, 0)
        laps.lap("overlay")
        if writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(out, code, 30, frame.shape[1::-1])
        writer.write(blended)
        laps.lap("write")
        done += 1
    if writer is not None:
        writer.release()
    elapsed = time.perf_counter() - start
    stages = " ".join(f"{k}={v / max(done, 1) * 1e3:.1f}ms" for k, v in laps.spent.items())
    print(f"plain ONNX {width}x{height}: {done / elapsed:.2f} fps over {done} frames; {stages}")
    print(f"processor {time.process_time() - used:.3f} s")


if __name__ == "__main__":
    main()
