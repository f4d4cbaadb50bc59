"""How long `rtseg batch` takes, by simulation.

    python tools/batch_plan.py --clips 10000 --frames 250 --fps 30 --command 3 --start 5 \\
        --overhead 0.2 --workers 1 8 64 --megabytes 20 --bandwidth 500 --deaths 0.001

Clips are handed out in order. The command starts, then the first worker alone, the others once it
has its network. Fetching and uploading share the store's bandwidth, one clip at a time. A worker
that dies does so anywhere in a clip, which is done again by its successor, that starts anew.
"""

from __future__ import annotations

import argparse
import heapq
import random


def simulated(options: argparse.Namespace, workers: int) -> float:
    """Seconds until the last clip is done.

    Args:
        options: clips, frames of each, `spread` (its longest over the mean), fps of one worker,
            seconds of the command's start, a worker's, and the overhead of a clip, megabytes of a
            clip and its outputs, bandwidth in MB/s (0: none), deaths per clip.
        workers: at once.
    """
    chance = random.Random(28)
    cost = [
        options.overhead + options.frames * chance.uniform(2 - options.spread, options.spread)
        / options.fps
        for _ in range(options.clips)
    ]  # fmt: skip
    transfer = options.megabytes / options.bandwidth if options.bandwidth else 0.0
    ready = options.command + options.start
    begins = [ready, *[ready + options.start] * (workers - 1)]
    idle = begins[: len(cost)]
    heapq.heapify(idle)
    store_free = last = 0.0
    for seconds in cost:
        now = heapq.heappop(idle)
        if chance.random() < options.deaths:
            now += chance.random() * seconds + options.start
        store_free = max(now, store_free) + transfer
        now = store_free + seconds
        last = max(last, now)
        heapq.heappush(idle, now)
    return last


def main() -> None:
    """Print a row for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, usual in {
        "clips": 100, "frames": 250, "spread": 1.0, "fps": 30.0, "command": 3.0, "start": 5.0,
        "overhead": 0.2, "megabytes": 0.0, "bandwidth": 0.0, "deaths": 0.0,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=type(usual), default=usual)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    print("workers    seconds   hours  clips/hour")
    for workers in options.workers:
        seconds = simulated(options, workers)
        per_hour = options.clips / seconds * 3600
        print(f"{workers:7} {seconds:10.1f} {seconds / 3600:7.2f} {per_hour:11.0f}")


if __name__ == "__main__":
    main()
