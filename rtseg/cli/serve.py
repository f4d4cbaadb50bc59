"""The verb `serve`: load a network, listen, and answer until a signal comes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from rtseg.backends.options import NetworkOptions
from rtseg.cli.flags import Row, print_config
from rtseg.cli.options import Flags, RunFlags, ServeFlags, with_half
from rtseg.cli.plan import Plan
from rtseg.cli.process import Stop
from rtseg.cli.report import describe_backend, describe_model, say, say_where
from rtseg.cli.run import load_segmenter
from rtseg.contracts import SourceInfo
from rtseg.effects import ViewOptions
from rtseg.errors import UsageError
from rtseg.files import reason
from rtseg.segmenter import Segmenter
from rtseg.serve.listen import CutOff, greeting, listening, server_config
from rtseg.serve.options import check_installed
from rtseg.sources import SourceOptions
from rtseg.text import counted

if TYPE_CHECKING:
    from rtseg.serve.jobs import Place

FRAME_SIZE = 720, 1280
"""(height, width) of frames that are expected; others get their own input size."""

DRAIN_SECONDS = 10
"""In which requests must be answered once the server is to end."""


def serve(flags: ServeFlags, stop: Stop) -> int:
    """Listen until a signal comes.

    Returns:
        The code of the signal.

    Raises:
        UsageError: an option makes no sense, or the extra is not installed.
        RtsegError: the address cannot be listened on, or the network failed.
    """
    check_installed()
    from rtseg.serve.jobs import open_place

    options = flags.options
    with listening(options) as listener, ExitStack() as stack:
        place = stack.enter_context(closing(open_place(options))) if options.max_jobs else None
        segmenter = stop.attend(lambda: _load(flags, stop))
        with segmenter:
            stop.check()
            with CutOff() as cut_off:
                asyncio.run(_run(listener, place, segmenter, flags, stop, cut_off))
    return stop.exit_code


def _load(flags: ServeFlags, stop: Stop) -> Segmenter:
    network = with_half(flags.network, half=flags.run.half)
    height, width = FRAME_SIZE
    info = SourceInfo("clients", width, height, live=True)
    plan = Plan("", SourceOptions(), network, ViewOptions(), (), window=False, paced=False)
    run = RunFlags(quiet=flags.run.quiet, remeasure=flags.run.remeasure)
    loading = Flags(network=network, run=run)
    return load_segmenter(loading, plan, info, stop, lanes=1)


async def _run(
    listener: socket.socket,
    place: Place | None,
    segmenter: Segmenter,
    flags: ServeFlags,
    stop: Stop,
    cut_off: CutOff,
) -> None:
    import uvicorn

    from rtseg.serve.application import build

    options = flags.options
    network = with_half(flags.network, half=flags.run.half)
    chosen = Flags(network=network, given=flags.given)
    app = build(
        segmenter, options, print_config(chosen, (Row("", NetworkOptions),), without=()), place
    )

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # they are the program's own

        async def on_tick(self, counter: int) -> bool:
            if not stop() and app.state.service.failure is None:
                return await super().on_tick(counter)
            app.state.service.draining = True
            return True

    try:
        config = server_config(app, options, DRAIN_SECONDS)
        config.lifespan = "off"  # it is ours, as uvicorn hides its errors
        config.load()
    except OSError as error:
        where = f"--tls-cert {options.tls_cert}, --tls-key {options.tls_key}"
        raise UsageError(where, found=reason(error).lower()) from error
    server = Server(config)
    async with app.router.lifespan_context(app):
        listener.listen(128)
        if not flags.run.quiet:
            say("model", describe_model(segmenter))
            say("device", describe_backend(segmenter.info))
            if place is not None:
                hours = f"{options.keep_hours:g} hours"
                say("videos", f"kept for {hours} in {place.folder}")
        lines = list(greeting(options, listener.getsockname(), app.state.token))
        say_where(lines, quiet=flags.run.quiet)
        await server.serve(sockets=[listener])
    failure = app.state.service.failure
    if failure is not None:
        raise failure
    if not flags.run.quiet:
        several = counted(cut_off.count, "request")
        ended = f"{several} cut off" if cut_off.count else "all requests were answered"
        say("ended", ended)
