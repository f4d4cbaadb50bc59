"""docs/reference.md: every verb with its flags, written by `python -m rtseg.cli.reference`."""

from __future__ import annotations

import re

from rtseg.cli.commands import build_app
from rtseg.cli.process import Stop

TITLE = """# Reference

Every verb and every flag, from what `--help` is made of; `python -m rtseg.cli.reference` writes
this page. A run's flags are also the keys of its TOML file, see `--config` and `--print-config`.

"""


def reference() -> str:
    """The reference of the command line as Markdown."""
    app = build_app(Stop())
    app.default_command = None  # its flags are those of the verb `run`
    # cyclopts adds "-m MODULE" to the usage if Python was started that way
    text = re.sub(r"^(rtseg[ a-z-]*?) -m [\w.]+", r"\1", app.generate_docs(), flags=re.MULTILINE)
    text = TITLE + text[text.index("**Commands**") :].replace(
        "(#rtseg-install", "(#rtseg---install"
    )
    return re.sub(r"^(rtseg .*  .*)$", r"    \1", text, flags=re.MULTILINE).rstrip() + "\n"


if __name__ == "__main__":
    print(reference(), end="")
