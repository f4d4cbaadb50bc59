"""`python -m rtseg` and the program `rtseg`."""

from __future__ import annotations

import sys

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
