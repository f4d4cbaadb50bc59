"""docs/reference.md: every verb with its flags, written by `python -m rtseg.cli.reference`."""

from __future__ import annotations

import re

from rtseg.cli.commands import build_app
from rtseg.cli.process import Stop


def reference() -> str:
    """The reference of the command line as Markdown, from what `--help` is made of."""
    app = build_app(Stop())
    app.default_command = None  # its flags are those of the verb `run`
    text = app.generate_docs().replace(f" -m {__spec__.name}", "")
    return re.sub(r"^(rtseg .*  .*)$", r"    \1", text, flags=re.MULTILINE).rstrip() + "\n"


if __name__ == "__main__":
    print(reference(), end="")
