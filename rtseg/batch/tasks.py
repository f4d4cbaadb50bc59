"""What a batch and its workers say to one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from rtseg.batch.clips import Clip
from rtseg.batch.ledger import Ledger, Record
from rtseg.cli.options import Flags

WORKER = "rtseg.batch.worker:Worker"
"""What does the tasks, imported where they are done; called as (flags, on_event)."""


@dataclass(frozen=True)
class Task:
    """One clip for a worker.

    Attributes:
        claim: under which it is done.
        work: a folder of its own for what is not finished.
        roles: of its outputs, as "mask:".
        ledger: in which it is recorded.
        attempt: 1, or more after a worker died with it.
    """

    clip: Clip
    claim: str
    work: str
    roles: tuple[str, ...]
    ledger: Ledger
    attempt: int = 1


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        record: as it was written; None if another machine has taken the clip over.
        loading: whether it failed because the network could not be loaded.
        full: whether it failed because a disk is full, as any other clip would.
    """

    record: Record | None
    loading: bool = False
    full: bool = False


class Event(NamedTuple):
    """What a worker reports.

    Attributes:
        worker: its number.
        kind: "loaded" a network; "frames" are done, content is (done, total or 0); "done" with a
            task, content is an `Outcome`; "died", content says how.
    """

    worker: int
    kind: str
    content: Any = None


class Pool(Protocol):
    """Workers, each of which does one task at a time and loads its networks once.

    A worker that died is started again with its next task.
    """

    def give(self, worker: int, task: Task) -> None:
        """Have an idle worker do a task; does not wait."""

    def poll(self, seconds: float) -> Iterator[Event]:
        """What happened since, after at most this many seconds."""

    def close(self) -> None:
        """End the workers, whatever they are doing."""


OnEvent = Callable[[str, Any], None]
"""Called by a worker with the kind and the content of an `Event`."""


def one_run(flags: Flags, source: str, roles: Sequence[str], outputs: Sequence[str]) -> Flags:
    """The flags of the run of one clip.

    Args:
        roles: of the outputs, as "mask:"; "" is for `-o`.
    """
    paths: dict[str, list[str]] = {}
    for role, output in zip(roles, outputs, strict=True):
        paths.setdefault(role, []).append(output)
    run = replace(
        flags.run,
        input=(source,),
        output=tuple(paths.get("", ())),
        mask_output=next(iter(paths.get("mask:", ())), None),
        json=next(iter(paths.get("json:", ())), None),
        figure=next(iter(paths.get("figure:", ())), None),
        show=False,
        quiet=True,
    )
    return replace(flags, run=run)
