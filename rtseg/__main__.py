"""`python -m rtseg` and the program `rtseg`."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    # where `python -m` would find a torch.py that lies around; not pathlib, which may lie there too
    _house = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    try:
        _here = sys.path[:1] == [os.getcwd()]  # noqa: PTH109
    except OSError:  # it was removed, see `check_surroundings`
        _here = False
    if _here and not os.path.samefile(sys.path[0], _house):  # noqa: PTH121
        del sys.path[0]

from rtseg.cli.app import main as run_program
from rtseg.cli.process import steady_streams, widen_terminal
from rtseg.system import return_freed_memory


def main() -> None:
    """Run the program and leave with its exit code."""
    steady_streams()
    widen_terminal()
    return_freed_memory()
    sys.exit(run_program())


if __name__ == "__main__":
    main()
