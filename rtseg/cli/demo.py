"""The verb `demo`: segment a panned and zoomed portrait with the shipped model."""

from __future__ import annotations

from pathlib import Path

from rtseg.cli.options import DemoFlags, Flags
from rtseg.cli.plan import make_plan
from rtseg.cli.process import Stop
from rtseg.cli.report import say
from rtseg.cli.run import run_plan
from rtseg.nets import default_model, shipped
from rtseg.sinks import find_kind
from rtseg.sinks.display import display_available

DEMO_FILE = Path("rtseg-demo.mp4")


def run_demo(asked: DemoFlags, stop: Stop) -> int:
    """Show the demo in a window; without a display, or with an output, write it to a file.

    Without an output the file is `rtseg-demo.mp4`, which is overwritten.

    Raises:
        RtsegError: as `rtseg run`.
    """
    reason = "--no-show" if asked.no_show else display_available()
    file = str(asked.output or DEMO_FILE) if asked.output or reason else None
    if file and not asked.output:
        say("demo", f"no window ({reason}): writing {file}")
    flags = _flags(asked.seconds, file, overwrite=asked.overwrite or not asked.output)
    code = run_plan(flags, make_plan(flags), stop)
    kind, path = find_kind(file or "window:")
    say("demo", f"see {path.resolve()}" if kind.is_file and str(path) != "-" else "finished")
    say("", "next: rtseg --camera 0, or rtseg clip.mp4 -o out.mp4")
    return code


def _flags(seconds: float, file: str | None, *, overwrite: bool) -> Flags:
    ships = default_model() in shipped()
    if not ships:
        say("demo", "no model is shipped: using a synthetic clip and the stub model")
    clip = f"demo:{seconds:g}" if ships else f"test://?frames={max(1, round(30 * seconds))}"
    network = {} if ships else {"model": "stub", "backend": "stub"}
    output = (file,) if file else ()
    return Flags.of(input=(clip,), output=output, show=not file, overwrite=overwrite, **network)
