"""The page that a browser gets, from the files in `rtseg/serve/page/`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request

FOLDER = Path(__file__).parent / "page"

TYPES = {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "painter.js": "text/javascript",
    "video.js": "text/javascript",
    "watch.html": "text/html",
    "watch.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""The files, and no others."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""What the page may load: what comes from here."""


async def page(request: Request) -> Response:
    """The page."""
    return _file("index.html")


async def watch(request: Request) -> Response:
    """The page that shows a run."""
    return _file("watch.html")


async def part(request: Request) -> Response:
    """What the page loads."""
    return _file(request.path_params["name"])


def _file(name: str) -> Response:
    if name not in TYPES:
        raise HTTPException(404)
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
    return Response((FOLDER / name).read_bytes(), media_type=TYPES[name], headers=headers)
