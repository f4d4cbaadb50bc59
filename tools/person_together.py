"""Several processes that train one network: each has its own crops, gradients are averaged.

On a processor two processes of one thread each take half as many crops again as one of two threads.
"""

import os
import signal
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch
from torch import distributed
from torch.multiprocessing import get_context
from torch.nn import Parameter

T = TypeVar("T")


class Together:
    """This process among those that train; by itself it is the only one.

    Attributes:
        rank: its number; number 0 writes and reports.
        count: how many there are.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    def most(self, value: float) -> float:
        """The largest of all processes' values; each has to ask."""
        if self.count == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64)
        distributed.all_reduce(told, op=distributed.ReduceOp.MAX)
        return float(told)

    def average(self, parameters: Iterable[Parameter]) -> None:
        """Give every process the mean of all gradients."""
        if self.count == 1:
            return
        gradients = [each.grad for each in parameters if each.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        parts = flat.div_(self.count).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def together(work: Callable[[T, Together], None], asked: T, count: int) -> None:
    """Do `work` in as many processes, each with one thread; one does it here, as it is.

    SIGTERM and Ctrl-C reach all of them.

    Raises:
        SystemExit: one of them failed.
    """
    if count == 1:
        work(asked, Together())
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        processes = [
            get_context("spawn").Process(target=_one, args=(work, asked, rank, count, meeting))
            for rank in range(count)
        ]
        for process in processes:
            process.start()

        def pass_on(number: int, _frame: object) -> None:
            for process in processes:
                if process.pid is not None and process.is_alive():
                    os.kill(process.pid, number)

        signal.signal(signal.SIGTERM, pass_on)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells the others itself
        for process in processes:
            process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("one of the processes failed")


def _one(
    work: Callable[[T, Together], None], asked: T, rank: int, count: int, meeting: Path
) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=meeting.as_uri(), rank=rank, world_size=count
    )
    try:
        work(asked, Together(rank, count))
    finally:
        distributed.destroy_process_group()
