"""What is timed, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from rtseg.backends.options import NAMES, PRECISIONS
from rtseg.errors import UsageError
from rtseg.options import Size, check, flag, option


@dataclass(frozen=True)
class BenchOptions:
    """What `rtseg bench` times: every combination of model, backend, precision and input size.

    Attributes:
        model: Names of `rtseg models`, or files; comma-separated or repeated.
        backend: torch, onnx, ... or auto; default all installed ones.
        precision: auto, fp32, tf32, fp16, bf16, int8; default auto.
        imgsz: Input sizes: HxW, one number, or auto (default), which follows the clip's shape.
        input: Video or images; default a panned portrait.
        duration: Seconds for each clock (model, pipeline, loop) in each round.
        frames: Also end each clock after this many frames.
        rounds: Number of rounds; all combinations take turns in each.
        encode: Encode the loop's output as H.264; --no-encode discards it.
        clocks: Keys of `rtseg.bench.clocks.CLOCKS`.
        data: Labelled images for the mean IoU.
        allow_outside: Read images that names or links in --data lead to, outside its folder.
        max_pictures: Use at most this many of them, evenly spaced.

    Raises:
        UsageError: a value makes no sense, or without another.
    """

    model: tuple[str, ...] = ()
    backend: tuple[str, ...] = option((), choices=NAMES)
    precision: tuple[str, ...] = option((), choices=PRECISIONS)
    imgsz: tuple[Size | None, ...] = ()
    input: str | None = None
    duration: float = option(3.0, least=1e-3)
    frames: int | None = option(None, least=1)
    rounds: int = option(3, least=1)
    encode: bool = True
    clocks: tuple[str, ...] = ("model", "pipeline", "loop")
    data: str | None = None
    allow_outside: bool = False
    max_pictures: int | None = option(None, least=1)

    def __post_init__(self) -> None:
        check(self)
        given = [name for name in ("max_pictures", "allow_outside") if getattr(self, name)]
        if given and self.data is None:
            do = "Add labelled images with --data"
            raise UsageError(f"{flag(given[0])} without --data", do=do)
