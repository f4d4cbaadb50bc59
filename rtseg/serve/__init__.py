"""rtseg as a server: a page, an API and streams over HTTP; the extra rtseg[serve].

`app()` is a plain ASGI application, for any server of those that runs its lifespan. It needs a host
of its own: below a path of another application its addresses would be wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from rtseg.segmenter import Segmenter


def app(segmenter: Segmenter | str | None = None, **options: Any) -> Starlette:
    """The application, which loads its network when it starts, unless it is given a loaded one.

    Whoever is not on this machine needs the token; without one, such clients are refused.

    Args:
        segmenter: a loaded network, which stays open and takes no videos, as those have processes
            of their own; or what `rtseg.load` takes.
        options: of `ServeOptions`, with underscores: token, allow_host, max_clients, ...

    Raises:
        UsageError: an option makes no sense, or the extra is not installed.
    """
    from rtseg.api import load
    from rtseg.documents import to_toml
    from rtseg.options import made
    from rtseg.segmenter import Segmenter
    from rtseg.serve.options import ServeOptions, check_installed

    check_installed()
    from rtseg.serve.application import build

    made_options = made(ServeOptions, options)
    if isinstance(segmenter, Segmenter):
        return build(segmenter, made_options, None)
    config = "" if segmenter is None else to_toml({"model": str(segmenter)})
    return build(lambda: load(segmenter), made_options, config)
