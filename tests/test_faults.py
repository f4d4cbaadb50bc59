"""Faults at random moments: no hang, no traceback, no file lost that was whole, none touched.

RTSEG_FAULTS is their number, RTSEG_FAULTS_SEED tells which.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

COUNT = int(os.environ.get("RTSEG_FAULTS", "40"))
SEED = int(os.environ.get("RTSEG_FAULTS_SEED", "23"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="kills, forks and mounts")
def test_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from faults import PRELOADED, FaultRun, make_model

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    model, cache = make_model(tmp_path / "model"), tmp_path / "cache"
    runs = [SEED * 1000 + number for number in range(COUNT)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda seed: FaultRun(seed, tmp_path, model, cache).run(), runs))
    faults = Counter(one.fault for one in found)
    codes = Counter(code for one in found for code in one.codes)
    left = [one for one in found if one.fault == "kill"]
    with capsys.disabled():
        print(f"\n{len(found)} faults: {dict(faults.most_common())}")
        print(f"verbs: {dict(Counter(one.verb for one in found).most_common())}")
        print(f"exit codes: {dict(sorted(codes.items()))}")
        kept = f"{sum(one.left for one in left)} temporary files"
        print(
            f"left by kill -9: {kept}, {sum(one.playable for one in left)} of them videos that play"
        )
    wrong = [f"{seed} {one.verb} {one.fault} {one.codes}: {text}"
             for seed, one in zip(runs, found, strict=True) for text in one.wrong]  # fmt: skip
    assert not wrong, "\n".join([f"{len(wrong)} of {COUNT}", *wrong])
