"""A server of rtseg in a thread, at a free port of this machine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

import rtseg
from rtseg.segmenter import Segmenter
from rtseg.serve import app
from rtseg.serve.listen import listening, server_config
from rtseg.serve.options import ServeOptions
from rtseg.serve.service import Service


class Served:
    """A running server: its address, its application's service."""

    def __init__(self, port: int, service: Service) -> None:
        self.port, self.service = port, service
        self.url = f"http://127.0.0.1:{port}"


@contextmanager
def served(segmenter: Segmenter | str | None = None, **options: object) -> Iterator[Served]:
    with rtseg.load("stub") as stub, listening(ServeOptions(port=0)) as listener:
        application = app(segmenter or stub, **options)
        server = uvicorn.Server(server_config(application, ServeOptions(), 2))
        thread = threading.Thread(
            target=lambda: asyncio.run(server.serve(sockets=[listener])), name="server"
        )
        thread.start()
        try:
            while not server.started and thread.is_alive():
                thread.join(0.01)
            yield Served(listener.getsockname()[1], application.state.service)
        finally:
            server.should_exit = True
            thread.join(20)
