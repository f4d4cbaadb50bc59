"""The verb `serve`: load a network, listen, and answer until a signal comes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rtseg.cli.options import Flags, RunFlags, ServeFlags, with_half
from rtseg.cli.plan import Plan
from rtseg.cli.process import Stop
from rtseg.cli.report import describe_backend, describe_model, say
from rtseg.cli.run import load_segmenter
from rtseg.contracts import SourceInfo
from rtseg.effects import ViewOptions
from rtseg.errors import RtsegError, UsageError
from rtseg.files import reason
from rtseg.segmenter import Segmenter
from rtseg.serve import check_installed
from rtseg.serve.options import ServeOptions, is_loopback
from rtseg.sources import SourceOptions

FRAME_SIZE = 720, 1280
"""(height, width) of frames that are expected; others get their own input size."""

DRAIN_SECONDS = 10
"""In which requests must be answered once the server is to end."""


MOST_CONNECTIONS = 512


def serve(flags: ServeFlags, stop: Stop) -> int:
    """Listen until a signal comes.

    Returns:
        The code of the signal.

    Raises:
        UsageError: an option makes no sense, or the extra is not installed.
        RtsegError: the address cannot be listened on, or the network failed.
    """
    check_installed()
    options = flags.options
    with _listening(options) as listener:
        segmenter = stop.attend(lambda: _load(flags, stop))
        with segmenter:
            stop.check()
            asyncio.run(_run(listener, segmenter, flags, stop))
    return stop.exit_code


def _load(flags: ServeFlags, stop: Stop) -> Segmenter:
    network = with_half(flags.network, half=flags.run.half)
    height, width = FRAME_SIZE
    info = SourceInfo("clients", width, height, live=True)
    plan = Plan("", SourceOptions(), network, ViewOptions(), (), window=False, paced=False)
    run = RunFlags(quiet=flags.run.quiet, remeasure=flags.run.remeasure)
    loading = Flags(network=network, run=run)
    return load_segmenter(loading, plan, info, stop, lanes=1)


@contextmanager
def _listening(options: ServeOptions) -> Iterator[socket.socket]:
    """A socket at the address, bound before the network is loaded.

    Raises:
        RtsegError: it is in use, or not this machine's.
    """
    asked = f"cannot listen on {options.host}, port {options.port}"
    try:
        found = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UsageError(asked, found=_reason(error)) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        yield listener
    except OSError as error:
        do = "Use another --port; 0 is any free one"
        raise RtsegError(asked, found=_reason(error), do=do) from error
    finally:
        listener.close()


def _reason(error: Exception) -> str:
    return reason(error).lower() if isinstance(error, OSError) else "it is not a name"


async def _run(
    listener: socket.socket, segmenter: Segmenter, flags: ServeFlags, stop: Stop
) -> None:
    import uvicorn

    from rtseg.serve.application import build

    options = flags.options
    app = build(segmenter, options)

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
        config = uvicorn.Config(
            app,
            http="rtseg.serve.connection:Connection",
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            ssl_certfile=options.tls_cert,
            ssl_keyfile=options.tls_key,
        )
        config.load()
    except OSError as error:
        where = f"--tls-cert {options.tls_cert}, --tls-key {options.tls_key}"
        raise UsageError(where, found=reason(error).lower()) from error
    server = Server(config)
    listener.listen(128)
    if not flags.run.quiet:
        say("model", describe_model(segmenter))
        say("device", describe_backend(segmenter.info))
    for heading, text in _greeting(options, listener.getsockname(), app.state.token):
        say(heading, text)
    await server.serve(sockets=[listener])
    failure = app.state.service.failure
    if failure is not None:
        raise failure
    if not flags.run.quiet:
        say("ended", "all requests were answered")


def _greeting(
    options: ServeOptions, address: tuple[Any, ...], token: str | None
) -> Iterator[tuple[str, str]]:
    """What is open to whom."""
    host, port = address[:2]
    scheme = "http" if options.tls_cert is None else "https"
    name = _reachable(host)
    name = f"[{name}]" if ":" in name else name
    fragment = f"/#token={token}" if token else "/"
    yield "serving", f"{scheme}://{name}:{port}{fragment}"
    whom = "programs and browsers on this machine"
    if not is_loopback(host):
        whom = "everyone who can reach this machine"
    elif options.allow_host:
        whom += f", and who comes through {', '.join(options.allow_host)}"
    yield "open to", f"{whom}, {'with the token' if token else 'without a token'}"
    if not is_loopback(host) and scheme == "http":
        yield "warning", "http is not encrypted: others on the network can read images and token"


def _reachable(host: str) -> str:
    """The address of this machine that others see, for one that means every network."""
    if host not in ("0.0.0.0", "::"):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks which way out there is
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
