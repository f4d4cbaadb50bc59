"""Settings of the documentation: `python -m sphinx -W -b html docs build/docs`."""

from typing import Any

project = "rtseg"
author = "the rtseg authors"
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "rtseg"
html_show_copyright = False


def setup(app: Any) -> None:
    """The model's card lies beside the model; `person.md` includes it as a page."""

    def link_card(app: Any, name: str, text: list[str]) -> None:
        text[0] = text[0].replace("](../models/person.md)", "](person.md)")

    app.connect("source-read", link_card)
