"""rtseg's own loop, in the form of those it is compared with by tools/race.py.

    python tools/rtseg_loop.py CLIP OUT.mp4 NETWORK FRAMES --weights FILE --size HxW

What `rtseg CLIP -o OUT.mp4` does, its effect and its H.264 file included. The clock runs from the
first read until the file is finished and checked; loading and warm-up are not counted, and the
file's check is. Prints frames per second, the median milliseconds per
stage, and the seconds of processor time.
"""

from __future__ import annotations

import argparse
import time

import rtseg
from rtseg.system import usable_cores


def main() -> None:
    """Load, run, close, and print one line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("clip")
    parser.add_argument("out")
    parser.add_argument("network")
    parser.add_argument("frames", type=int)
    parser.add_argument("--weights")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--propagate", action="store_true", help="the network on keyframes only")
    parser.add_argument("--live", action="store_true", help="as a camera: late frames are dropped")
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    options = rtseg.SourceOptions(max_frames=args.frames, live=args.live)
    with (
        rtseg.open_source(args.clip, options) as source,
        rtseg.load(
            args.network,
            weights=args.weights,
            imgsz=(height, width),
            backend=args.backend,
            precision=args.precision,
            lanes=1 if args.live else usable_cores(),
        ) as segmenter,
    ):
        effect = rtseg.open_effect(rtseg.ViewOptions(), segmenter.labels)
        out = rtseg.open_sink(
            args.out, source.info, segmenter.labels, rtseg.SinkOptions(overwrite=True)
        )
        temporal = rtseg.TemporalOptions(propagate=args.propagate)
        start, used = time.perf_counter(), time.process_time()
        with out:
            report = rtseg.run(source, segmenter, effect, [out], temporal=temporal)
        elapsed, used = time.perf_counter() - start, time.process_time() - used
    stages = " ".join(f"{name}={row['p50']:.1f}ms" for name, row in report.stages_ms.items())
    print(
        f"{args.network} {report.backend} {report.precision} {args.size}: "
        f"{report.frames / elapsed:.2f} fps over {report.frames} frames; {stages}"
    )
    print(f"processor {used:.3f} s")
    if args.live:
        age = report.age_ms
        print(
            f"{report.frames} of {report.produced} frames, {report.dropped} dropped; "
            f"age p50={age['p50']:.1f} p99={age['p99']:.1f} max={age['max']:.1f} ms"
        )


if __name__ == "__main__":
    main()
