"""What a run shows, in a browser: a sink that encodes a frame once, and only if someone looks."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import cv2
import uvicorn
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocketDisconnect

from rtseg.contracts import Rendered, Sink
from rtseg.errors import RtsegError, SinkError, UsageError
from rtseg.serve.application import Way, assemble, first_message, refuse
from rtseg.serve.listen import CutOff, greeting, listening, server_config
from rtseg.serve.options import place_options
from rtseg.serve.service import TIMED_OUT, RequestError
from rtseg.threads import Flow

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.websockets import WebSocket

ROUTES = (
    Way("/", "rtseg.serve.pages:watch", guarded=False),
    Way("/page/{name}", "rtseg.serve.pages:part", guarded=False),
    Way("/v1/health/live", "rtseg.serve.describe:live", guarded=False),
    Way("/v1/watch", "rtseg.serve.watch:frames", "WS"),
    Way("/v1/watch.mjpg", "rtseg.serve.watch:motion_jpeg"),
    Way("/v1/watch.jpg", "rtseg.serve.watch:snapshot"),
)

HEADER = struct.Struct("<Iff")
"""Before each JPEG of `/v1/watch`: number, milliseconds from capture to encoding, and 0."""

QUALITY = 85
START_SECONDS = 5.0
FRAME_SECONDS = 10.0
"""How long a snapshot waits for a frame, and a viewer that has one may take to ask for the next."""

DRAIN_SECONDS = 1
BOUNDARY = "rtseg-frame"


class Room:
    """The newest frame, and who waits for the next; it lives in the event loop.

    Attributes:
        viewers: how many look; read from any thread.
        most: how many there were at once.
    """

    def __init__(self, limit: int) -> None:
        self.viewers = self.most = 0
        self._limit = limit
        self._number = 0
        self._frame = b""
        self._age = 0.0
        self._over = False
        self._changed = asyncio.Event()

    @contextmanager
    def viewer(self) -> Iterator[int]:
        """Count one viewer as long as the `with` lasts; gives the number of the last frame.

        Raises:
            RequestError: there are as many as may be.
        """
        if self.viewers >= self._limit:
            raise RequestError(429, "busy", found=f"{self._limit} are watching", retry=10)
        self.viewers += 1
        self.most = max(self.most, self.viewers)
        try:
            yield self._number
        finally:
            self.viewers -= 1

    def publish(self, frame: bytes, age: float) -> None:
        """Show a JPEG, captured `age` seconds ago."""
        self._number, self._frame, self._age = self._number + 1, frame, age
        self._wake()

    def end(self) -> None:
        """Let all viewers go."""
        self._over = True
        self._wake()

    async def newer(self, seen: int) -> tuple[int, bytes, float] | None:
        """Number, JPEG and age of the first frame after `seen`, or the newest; None at the end."""
        while self._number <= seen and not self._over:
            await self._changed.wait()
        return None if self._over else (self._number, self._frame, self._age)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class WatchSink(Sink):
    """Serves the frames of a run to browsers and players, from a thread.

    Attributes:
        lines: what is open to whom, as headings and texts.

    Args:
        place: HOST:PORT, or :PORT on this machine alone.

    Raises:
        UsageError: the place makes no sense.
        SinkError: it cannot be listened on.
    """

    def __init__(self, place: str) -> None:
        options = place_options(place)
        self._stack = ExitStack()
        try:
            listener = self._stack.enter_context(listening(options))
        except UsageError:
            raise
        except RtsegError as error:
            raise SinkError(error.asked, found=error.found, do="Use another port") from error
        token = options.settled_token()
        listener.listen(64)
        self.lines = list(greeting(options, listener.getsockname(), token))
        self._room: Room
        self._loop: asyncio.AbstractEventLoop | None = None
        self._frames = 0

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            self._room = app.state.room = Room(options.max_clients)
            self._loop = asyncio.get_running_loop()
            yield
            self._loop = None

        app = assemble(ROUTES, options, token, lifespan)
        self._server = uvicorn.Server(server_config(app, options, DRAIN_SECONDS))

        def serving() -> Iterator[None]:
            asyncio.run(self._server.serve(sockets=[listener]))
            yield from ()

        self._stack.enter_context(CutOff())  # players that are paused
        self._flow = Flow(serving(), name="web", interrupt=self._end)
        self._stack.enter_context(self._flow)
        until = time.monotonic() + START_SECONDS
        while not self._server.started and self._flow.error is None and time.monotonic() < until:
            time.sleep(0.005)
        if not self._server.started:
            self._stack.close()
            raise SinkError(f"cannot serve on {place}") from self._flow.error

    @property
    def wants_image(self) -> bool:  # type: ignore[override]
        """Whether anybody looks."""
        return self._room.viewers > 0

    def write(self, rendered: Rendered) -> None:
        """Encode a frame if anybody looks."""
        if not self.wants_image:
            return
        done, content = cv2.imencode(".jpg", rendered.image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        age = time.perf_counter() - rendered.frame.captured_at
        if done and self._loop is not None:
            self._frames += 1
            self._loop.call_soon_threadsafe(self._room.publish, content.tobytes(), age)

    def close(self) -> None:
        """Let viewers go, and end the server."""
        self._stack.close()

    def summary(self) -> str:
        """How many frames went to how many."""
        return f"web page: {self._frames} frames encoded, {self._room.most} watching at most"

    def _end(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._room.end)
        self._server.should_exit = True


async def frames(socket: WebSocket) -> None:
    """Each frame as `HEADER` and a JPEG, the newest whenever the client has asked for the next."""
    room: Room = socket.app.state.room
    await socket.accept()
    try:
        await first_message(socket)
        with room.viewer() as seen, _asking(socket) as ask:
            asked = ask()
            while (newest := await _newer(room, seen, asked)) is not None:
                seen, frame, age = newest
                await socket.send_bytes(HEADER.pack(seen, age * 1e3, 0) + frame)
                await asyncio.wait_for(asked, FRAME_SECONDS)
                asked = ask()
        await socket.close(1001, "the run has ended")
    except RequestError as error:
        await refuse(socket, error)
    except TIMED_OUT:
        await socket.close(1008, "the client reads too slowly")
    except (WebSocketDisconnect, KeyError, RuntimeError):
        pass


@contextmanager
def _asking(socket: WebSocket) -> Iterator[Callable[[], asyncio.Task[str]]]:
    """A function that begins to wait for the next message, of which none is left behind."""
    asked: list[asyncio.Task[str]] = []

    def ask() -> asyncio.Task[str]:
        asked[:] = [asyncio.create_task(socket.receive_text())]
        asked[0].add_done_callback(lambda task: task.cancelled() or task.exception())
        return asked[0]

    try:
        yield ask
    finally:
        asked[0].cancel()


async def _newer(
    room: Room, seen: int, asked: asyncio.Task[str]
) -> tuple[int, bytes, float] | None:
    """As `Room.newer`; raises as `asked` if that fails first, as the client has left."""
    coming = asyncio.create_task(room.newer(seen))
    try:
        await asyncio.wait((coming, asked), return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            asked.result()
        return await coming
    finally:
        coming.cancel()


async def motion_jpeg(request: Request) -> Response:
    """All frames as one endless answer, for players."""
    room: Room = request.app.state.room
    stack = ExitStack()
    first = stack.enter_context(room.viewer())

    async def parts() -> AsyncIterator[bytes]:
        seen = first
        with stack:
            while (newest := await room.newer(seen)) is not None:
                if await request.is_disconnected():
                    return
                seen, frame, _ = newest
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(frame)}"
                yield head.encode() + b"\r\n\r\n" + frame + b"\r\n"

    media = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
    return StreamingResponse(parts(), media_type=media, headers={"Cache-Control": "no-store"})


async def snapshot(request: Request) -> Response:
    """The next frame."""
    room: Room = request.app.state.room
    with room.viewer() as seen:
        try:
            newest = await asyncio.wait_for(room.newer(seen), FRAME_SECONDS)
        except TIMED_OUT:
            newest = None
    if newest is None:
        raise RequestError(503, "no frame came", retry=2)
    return Response(newest[1], media_type="image/jpeg", headers={"Cache-Control": "no-store"})
