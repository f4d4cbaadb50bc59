"""What is remembered of each clip beside the outputs: its record, and who is working on it.

The record of `sub/clip.mp4` is `.rtseg/sub/clip.mp4.json`. It is written before the outputs get
their names ("started") and after ("done", "failed"), so that an output without a record is not
the batch's own. A clip is claimed by the exclusive creation of `.rtseg/sub/clip.mp4.claim-0`. Its
owner touches it; when it has been still for the lease, or its process is known to be gone, another
one takes over by creating `claim-1`, which again only one can. Nobody removes another's claim
before the clip is finished. An owner that was only slow asks whether its claim still `holds` before
its outputs get their names.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rtseg.addresses import clean_values, public_name
from rtseg.batch.bucket import scheme_of
from rtseg.batch.clips import STATE, Clip
from rtseg.options import imported

if TYPE_CHECKING:
    from rtseg.batch.store import Store

FORMAT = 1
MOST_NAME = 200
"""Bytes of a record's name; of a longer one it is a digest."""


@dataclass(frozen=True)
class Record:
    """What became of a clip.

    Attributes:
        state: "started" means that its outputs were about to get their names.
        fingerprint: of the clip, the network, the flags and the version; another one means that it
            is to be done again.
        source: where the clip was.
        identity: as of `Clip`.
        outputs: addresses.
        error: why it failed, and the exit code that `rtseg run` would have had.
        attempts: how often it was begun, as workers died.
        seconds: that it took, with opening and finishing.
        worker: host and process.
        settings: digest of all that outputs depend on beside the clip.
        report: the figures of the run, as `--metrics` has them.
        places: of the outputs, relative to the folder that the records are beside.
    """

    state: Literal["started", "done", "failed"]
    fingerprint: str
    source: str
    identity: str
    outputs: list[str]
    error: str = ""
    exit_code: int = 0
    attempts: int = 1
    seconds: float = 0.0
    worker: str = ""
    settings: str = ""
    report: dict[str, Any] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """That were written."""
        return int(self.report.get("frames", 0))


@cache
def where() -> str:
    """This machine, or container: the same for all of its processes that see one another."""
    facts = [platform.node()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(),
        lambda: str(Path("/proc/self/ns/pid").readlink()),
    ):
        with suppress(OSError):
            facts.append(read())
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def new_token() -> str:
    """A name for this process: where it runs, its number, and something random."""
    return f"{where()}-{os.getpid()}-{secrets.token_hex(4)}"


def is_token(name: str) -> bool:
    """Whether it was made by `new_token`."""
    return re.fullmatch(r"[0-9a-f]{12}-\d+-[0-9a-f]+", name) is not None


def is_gone(token: str) -> bool:
    """Whether a process is known to have ended: it ran here, and there is none of its number."""
    place, _, rest = token.partition("-")
    number = rest.partition("-")[0]
    if place != where() or not number.isdecimal():
        return False
    import psutil

    return not psutil.pid_exists(int(number))


def fingerprint_of(clip: Clip, settings: Mapping[str, Any]) -> str:
    """Digest of a clip and all that its outputs depend on."""
    return _digest([FORMAT, clip.name, clip.identity, settings])


def _digest(facts: Any) -> str:
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Ledger:
    """The records and claims of a batch.

    Args:
        store: where they are.
        root: the folder beside whose outputs they are.
        settings: all that outputs depend on, beside the clip.
        lease: seconds after which a claim that was not touched is nobody's.
        token: of this process.
    """

    def __init__(
        self, store: Store, root: str, settings: Mapping[str, Any], lease: float, token: str = ""
    ) -> None:
        self.store, self.settings, self._lease = store, settings, lease
        self._root = _settled(os.path.join(root, ""))  # noqa: PTH118 - may be an address
        self.token = token or new_token()
        self.digest = _digest(settings)
        self._stores: dict[str, Store] = {}

    def read(self, clip: Clip) -> Record | None:
        """The record of a clip; None if there is none that can be read."""
        return self._parsed(self.store.read(f"{_file(clip)}.json"))

    def read_all(self, clips: Iterable[Clip]) -> Iterator[Record | None]:
        """As `read`, of many clips in order."""
        return map(self._parsed, self.store.read_all(f"{_file(clip)}.json" for clip in clips))

    def _parsed(self, content: bytes | None) -> Record | None:
        try:
            values = json.loads(content or b"null")
            if values and values.pop("rtseg_batch") == FORMAT:
                return Record(**values)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        return None

    def write(self, clip: Clip, record: Record) -> None:
        """Replace the record of a clip."""
        told = clean_values({"error": record.error, "report": record.report})
        text = json.dumps({"rtseg_batch": FORMAT, **asdict(record), **told}, indent=1)
        self.store.write(f"{_file(clip)}.json", text.encode())

    def forget(self, clip: Clip) -> None:
        """Remove the record of a clip."""
        self.store.remove(f"{_file(clip)}.json")

    def new(self, clip: Clip, state: Literal["started", "done", "failed"], **more: Any) -> Record:
        """A record of a clip as it is now."""
        return Record(
            state,
            fingerprint_of(clip, self.settings),
            public_name(clip.source),
            clip.identity,
            [public_name(output) for output in clip.outputs],
            worker=f"{platform.node()}:{os.getpid()}",
            settings=self.digest,
            places=list(map(self._place, clip.outputs)),
            **more,
        )

    def is_current(self, clip: Clip, record: Record | None) -> bool:
        """Whether a record is of this clip as it is, with these flags."""
        return record is not None and record.fingerprint == fingerprint_of(clip, self.settings)

    def is_done(self, clip: Clip, record: Record | None) -> bool:
        """Whether nothing is left to do for a clip."""
        if record is None or record.state != "done" or not self.is_current(clip, record):
            return False
        return all(self._names(record, output) and self.has(output) for output in clip.outputs)

    def foreign(self, clip: Clip, record: Record | None) -> str:
        """An output that is there and was not made from this clip; "" if there is none."""
        others: Iterable[str] = clip.outputs
        if record is not None and (
            record.source == public_name(clip.source) or record.identity == clip.identity
        ):
            others = (output for output in others if not self._names(record, output))
        return next(filter(self.has, others), "")

    def _names(self, record: Record, output: str) -> bool:
        """Whether an output is of a record."""
        if not record.places:  # of an earlier version
            return _last(output) in map(_last, record.outputs)
        return self._place(output) in record.places

    def _place(self, output: str) -> str:
        """Where an output is from the folder of the batch, so that all may be moved together."""
        if scheme_of(output) or scheme_of(self._root):
            return public_name(output.removeprefix(self._root))
        path = _settled(output)
        try:
            return os.path.relpath(path, self._root)
        except ValueError:  # on another drive of Windows
            return path

    def has(self, output: str) -> bool:
        """Whether there is an output at an address."""
        return self._outputs(output).has(output)

    def put(self, path: Path, output: str) -> None:
        """Move a finished local file to an address, where it appears whole."""
        self._outputs(output).put(path, output)

    def _outputs(self, output: str) -> Store:
        scheme = scheme_of(output)
        if scheme not in self._stores:
            self._stores[scheme] = store_of(output)
        return self._stores[scheme]

    # --- claims

    def claim(self, clip: Clip) -> str | None:
        """Claim a clip: the claim's name, or None while it is another's."""
        name = _file(clip)
        mine = f"{self.token} {self.digest}".encode()
        if self.store.create(f"{name}.claim-0", mine):
            return f"{name}.claim-0"
        number = 0
        while self.store.read(f"{name}.claim-{number + 1}") is not None:
            number += 1
        claim = f"{name}.claim-{number}"
        if self._is_live(claim) is not False:
            return None
        claim = f"{name}.claim-{number + 1}"
        return claim if self.store.create(claim, mine) else None

    def _is_live(self, claim: str) -> bool | None:
        """Whether a claim is held; None if it was finished in this moment."""
        age, owner = self.store.age(claim), self.store.read(claim)
        if age is None or owner is None:
            return None
        return age < self._lease and not is_gone(owner.decode("ascii", "replace"))

    def rival(self) -> str:
        """A claim that is held by a batch with other settings; "" if there is none."""
        for claim in self.store.names(".claim-"):
            _, _, digest = (self.store.read(claim) or b"").decode("ascii", "replace").partition(" ")
            if digest not in ("", self.digest) and self._is_live(claim):
                return claim
        return ""

    def beat(self, claims: Iterable[str]) -> None:
        """Show that this process lives; call it several times in a lease."""
        for claim in claims:
            self.store.touch(claim)

    def holds(self, claim: str) -> bool:
        """Whether a claim is still its owner's: nobody has taken over."""
        name, _, number = claim.rpartition(".claim-")
        later = f"{name}.claim-{int(number) + 1}"
        return self.store.read(claim) is not None and self.store.read(later) is None

    def release(self, claim: str) -> None:
        """Give a claim up, with those that it took over."""
        name, _, number = claim.rpartition(".claim-")
        for each in range(int(number) + 1):
            self.store.remove(f"{name}.claim-{each}")

    def sweep(self, clips: Iterable[Clip]) -> None:
        """Remove what processes that died have left of claims to clips that are finished."""
        finished = set(map(_file, clips))
        for claim in self.store.names(".claim-"):
            if claim.rpartition(".claim-")[0] in finished and self._is_live(claim) is False:
                self.store.remove(claim)


def _settled(path: str) -> str:
    """A path without links to its folder; an address as it is."""
    if scheme_of(path):
        return path
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)  # noqa: PTH118


def _last(address: str) -> str:
    return address.rpartition("/")[2]


def _file(clip: Clip) -> str:
    """The name of a clip's record, without suffix."""
    folder, slash, name = clip.name.rpartition("/")
    raw = os.fsencode(name)
    if len(raw) > MOST_NAME:
        name = hashlib.sha256(raw).hexdigest()
    return f"{folder}{slash}{name}"


STORES = {"": "rtseg.batch.store:Folder", "bucket": "rtseg.batch.bucket:Bucket"}
"""What keeps records and outputs: of paths, and of addresses."""


def store_of(address: str) -> Store:
    """The store of what is below an address or a path; raises as `Bucket`."""
    store: Store = imported(STORES["bucket" if scheme_of(address) else ""])(address)
    return store


def open_ledger(root: str, settings: Mapping[str, Any], lease: float, token: str = "") -> Ledger:
    """The ledger beside the outputs in the folder `root`; raises as `Bucket`."""
    return Ledger(store_of(os.path.join(root, STATE)), root, settings, lease, token)  # noqa: PTH118
