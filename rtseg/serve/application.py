"""The application: its routes, who may call them, and what an error becomes."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from rtseg.documents import parse_json
from rtseg.errors import RtsegError, UsageError
from rtseg.options import imported
from rtseg.segmenter import Segmenter
from rtseg.serve.jobs import Jobs, Place, open_place
from rtseg.serve.options import ServeOptions, is_loopback
from rtseg.serve.service import TIMED_OUT, RequestError, Service

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send
    from starlette.websockets import WebSocket


HOST = re.compile(r"(\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[\w.-]*))(:[0-9]{0,5})?", re.ASCII)
"""A Host header: an address of IPv6, or a name or an address, and a port (RFC 9110, 7.2)."""

MAX_MESSAGE = 1 << 16
"""Characters of a message in JSON."""

MAX_REASON = 123
"""Bytes of the reason in a close frame (RFC 6455, 5.5)."""

HELLO_SECONDS = 10.0
"""In which the first message of a WebSocket must come."""


@dataclass(frozen=True)
class Way:
    """A row of `ROUTES`.

    Attributes:
        method: of HTTP, or WS for a WebSocket.
        place: "module:function" that answers, imported when the application is built.
        summary: for the description of the API; "" leaves it out.
        guarded: whether it needs the token.
    """

    path: str
    place: str
    method: str = "GET"
    summary: str = ""
    guarded: bool = True

    def matches(self, path: str) -> bool:
        """Whether it is for a path."""
        return re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", self.path), path) is not None

    def route(self) -> BaseRoute:
        """As Starlette has it."""
        if self.method == "WS":
            return WebSocketRoute(self.path, imported(self.place))
        return Route(self.path, imported(self.place), methods=[self.method])


ROUTES = (
    Way("/", "rtseg.serve.pages:page", guarded=False),
    Way("/page/{name}", "rtseg.serve.pages:part", guarded=False),
    Way("/v1/health/live", "rtseg.serve.describe:live", summary="Is it alive?", guarded=False),
    Way("/v1/health/ready", "rtseg.serve.describe:ready", summary="Is it ready?", guarded=False),
    Way("/v1/models", "rtseg.serve.describe:models", summary="The model that is served"),
    Way("/v1/openapi.json", "rtseg.serve.describe:openapi", summary="This description"),
    Way("/v1/segment", "rtseg.serve.segment:segment", "POST", "Segment an image"),
    Way("/v1/stream", "rtseg.serve.stream:stream", "WS"),
    Way("/v1/jobs", "rtseg.serve.jobs:create", "POST", "A job for a video, which is sent next"),
    Way("/v1/jobs", "rtseg.serve.jobs:jobs", summary="All jobs, the newest first"),
    Way("/v1/jobs/{id}", "rtseg.serve.jobs:one", summary="A job"),
    Way("/v1/jobs/{id}", "rtseg.serve.jobs:remove", "DELETE", "Cancel a job, remove its files"),
    Way("/v1/jobs/{id}/input", "rtseg.serve.jobs:upload", "PUT", "Send its video, or go on"),
    Way("/v1/jobs/{id}/events", "rtseg.serve.jobs:events", summary="Its progress, as events"),
    Way(
        "/v1/jobs/{id}/output",
        "rtseg.serve.jobs:output",
        summary="A file that it made; the address is secret enough",
        guarded=False,
    ),
    Way("/v1/sessions", "rtseg.serve.stream:sessions", summary="Figures of open streams"),
    Way("/metrics", "rtseg.serve.metrics:metrics", summary="Figures for Prometheus"),
)
"""Every route; a new one is a function and a row."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer that does not have its own."""

EXPOSED = (
    "Content-Disposition",
    "Content-Range",
    "Location",
    "Retry-After",
    "Rtseg-Device",
    "Rtseg-Model",
    "Server-Timing",
)
"""Headers that pages elsewhere may read, where they may call."""


def build(
    segmenter: Segmenter | Callable[[], Segmenter],
    options: ServeOptions,
    config: str | None,
    place: Place | None = None,
) -> Starlette:
    """The application; see `rtseg.serve.app`. Its `state` has the token, and the service and the
    jobs once it has started.

    Args:
        config: of the network for processes of their own, in TOML; without it, no videos are taken.
        place: where jobs are, if that is already open.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            own = None if isinstance(segmenter, Segmenter) else stack.enter_context(segmenter())
            service = Service(own or segmenter, options)  # type: ignore[arg-type]
            if config is not None and options.max_jobs:
                jobs = Jobs(place or open_place(options), service, options, config)
                app.state.jobs = await stack.enter_async_context(jobs)
            app.state.service = await stack.enter_async_context(service)
            yield

    app = assemble(ROUTES, options, options.settled_token(), lifespan)
    app.state.jobs = None
    return app


def assemble(
    ways: Sequence[Way], options: ServeOptions, token: str | None, lifespan: Lifespan[Starlette]
) -> Starlette:
    """An application of these routes, guarded; its `state` has the token."""
    app = Starlette(
        routes=[way.route() for way in ways],
        lifespan=lifespan,
        exception_handlers={
            RtsegError: _failed,
            HTTPException: _no_such,
            Exception: _internal,
        },
    )
    app.state.token, app.state.ways = token, ways
    app.add_middleware(Guard, ways=ways, options=options, token=token, state=app.state)
    if options.allow_origin:  # before the guard, as a browser asks whether it may without the token
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.allow_origin,
            allow_methods=sorted({way.method for way in ways} - {"WS"}),
            allow_headers=("Authorization", "Content-Range", "Content-Type", "Range"),
            expose_headers=EXPOSED,
        )
    return app


async def first_message(socket: WebSocket) -> dict[str, Any]:
    """The first message of an accepted WebSocket, a JSON object with the token if there is one.

    Raises:
        RequestError: it is something else, or does not come in time.
    """
    try:
        text = await asyncio.wait_for(socket.receive_text(), HELLO_SECONDS)
    except (*TIMED_OUT, KeyError):
        raise RequestError(408, "the first message must be a hello") from None
    hello, token = parsed(text), socket.app.state.token
    given = str(hello.get("token") or "").encode()
    if token is not None and not secrets.compare_digest(given, token.encode()):
        raise RequestError(401, "the token is missing or wrong")
    return hello


def parsed(text: str) -> dict[str, Any]:
    """A message; raises RequestError for what is not a JSON object, or too long."""
    if len(text) > MAX_MESSAGE:
        raise RequestError(422, "a message is too long", found=f"at most {MAX_MESSAGE} characters")
    try:
        return parse_json(text, dict[str, Any], "a message")
    except UsageError:
        raise RequestError(422, "a message is not a JSON object") from None


async def refuse(socket: WebSocket, error: RequestError) -> None:
    """Close a WebSocket, with the reason as far as a close frame has room for it."""
    words = str(error).encode(errors="replace")[:MAX_REASON].decode(errors="ignore")
    with suppress(WebSocketDisconnect):  # it has gone by itself
        await socket.close(1013 if error.retry_seconds else 1008, words)


async def _failed(request: Request, error: Exception) -> Response:
    retry = error.retry_seconds if isinstance(error, RequestError) else None
    headers = {"Connection": "close"}  # or uvicorn reads what is left of the body, without end
    headers |= {} if retry is None else {"Retry-After": str(retry)}
    return JSONResponse({"error": str(error)}, _status(error), headers)


def _status(error: Exception) -> int:
    if isinstance(error, RequestError):
        return error.status
    return 422 if isinstance(error, UsageError) else 500


async def _no_such(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "unknown address; see /v1/openapi.json", 405: "it takes other methods"}
    text = words.get(error.status_code, error.detail)
    headers = dict(error.headers or {})
    if error.status_code == 405:  # Starlette names those of one route
        path, ways = request.scope["path"], request.app.state.ways
        headers["Allow"] = ", ".join(way.method for way in ways if way.matches(path))
    return JSONResponse({"error": text}, error.status_code, headers)


async def _internal(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"internal error: {type(error).__name__}"}, 500)


class Guard:
    """Lets in who may enter, before anything of a request but its head is read.

    The server must be called by a name of its own, or a page elsewhere could have its name point
    here. A page of another origin is refused, whatever it asks for. Other machines need the token,
    as `Authorization: Bearer TOKEN`, or as the password of HTTP's basic authentication.
    """

    def __init__(
        self,
        app: ASGIApp,
        ways: Sequence[Way],
        options: ServeOptions,
        token: str | None,
        state: Any,
    ) -> None:
        self._app, self._ways = app, ways
        self._options, self._token, self._state = options, token, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI says."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope)
        except RequestError as refusal:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})  # before it was accepted: status 403
                return
            answer = JSONResponse({"error": str(refusal)}, refusal.status)
            if refusal.status == 401:
                answer.headers["WWW-Authenticate"] = 'Basic realm="rtseg", charset="UTF-8"'
            answer.headers["Connection"] = "close"
            await answer(scope, receive, sending)
        else:
            await self._app(scope, receive, sending)
        finally:
            path = next((way.path for way in self._ways if way.matches(scope["path"])), "other")
            service = getattr(self._state, "service", None)
            if service is not None and scope["type"] == "http":
                service.metrics.count("rtseg_requests_total", route=path, status=str(status))

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._options.allows_host(_name(host)):
            raise RequestError(
                421,
                f"this server is not known as {host[:100]!r}",
                do="Start it with --allow-host and that name, if it is right",
            )
        origin = headers.get("origin")
        if origin is not None and not self._is_ours(origin, host):
            raise RequestError(
                403,
                f"a page of {origin[:100]!r} may not call this server",
                do="Start it with --allow-origin and that address, if it is right",
            )
        if not any(way.matches(scope["path"]) for way in self._ways if not way.guarded):
            self._check_token(scope, headers)

    def _is_ours(self, origin: str, host: str) -> bool:
        _, there, where = origin.partition("://")
        return origin in self._options.allow_origin or bool(there and where == host)

    def _check_token(self, scope: Scope, headers: Mapping[str, str]) -> None:
        if self._token is not None:
            if scope["type"] == "websocket":
                return  # browsers cannot send it before the first message
            if not secrets.compare_digest(_given(headers).encode(), self._token.encode()):
                raise RequestError(401, "the token is missing or wrong")
            return
        here = (scope.get("server") or ("localhost", None))[0]
        if self._options.token != "none" and not (here.startswith("/") or is_loopback(here)):
            raise RequestError(
                403,
                "this server has no token, and so answers only its own machine",
                do="Give it a token, as app(token=...)",
            )


def _name(host: str) -> str:
    """The name in a Host header, without its port; "" if that is none."""
    found = HOST.fullmatch(host)
    return (found["address"] or found["name"]) if found else ""


def _given(headers: Mapping[str, str]) -> str:
    """The token in a request; "" if there is none."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return ""
