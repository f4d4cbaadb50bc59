"""`/v1/stream`: a client's camera. Frames come in over a WebSocket, masks go out.

Up goes `<u32 number, u32 0, f64 milliseconds>` and an image of the network's input size; down comes
`HEADER`, and scores or a PNG. Numbers grow. Each frame is answered once: with its mask, or with the
cause for which it was dropped. JSON in text messages controls the stream.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections import Counter, deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocketDisconnect

from rtseg.contracts import Source, SourceInfo
from rtseg.frame import Frame, Segmentation
from rtseg.serve.application import first_message, parsed, refuse
from rtseg.serve.segment import read_picture
from rtseg.serve.service import TIMED_OUT, RequestError, Service
from rtseg.session.engine import Result
from rtseg.sinks.masks import palette, quick_png
from rtseg.stats import Durations
from rtseg.temporal import TemporalOptions
from rtseg.temporal.options import USUAL_SMOOTH

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.websockets import WebSocket

PROTOCOL = "rtseg.1"
UP = struct.Struct("<IId")
HEADER = struct.Struct("<IHHdHHfff")
"""Number, kind, cause, milliseconds as they came, width, height, milliseconds from the frame's
arrival to its answer, of these in and before the network, and 0."""

DROPPED, LOGITS16, LOGITS32, PNG = range(4)
KINDS = {"logits16": LOGITS16, "logits32": LOGITS32, "png": PNG}
NEWER, UNREADABLE, UNREAD = 1, 2, 3
CAUSES = {NEWER: "newer", UNREADABLE: "unreadable", UNREAD: "unread"}

IDLE_SECONDS = 30.0
"""After which a client that sends nothing is let go."""

MAX_UNREAD = 256
"""Answers that may wait for a client that does not read them."""

MAX_SIDE = 8192
MAX_WINDOW = 3
"""Frames that a client may have on their way. As many masks that the system does not take are not
being read: the network works for others until they are."""


class Upload(NamedTuple):
    """A frame as it came; `arrived` is in seconds of `time.perf_counter`."""

    number: int
    client_ms: float
    arrived: float
    content: bytes


class Camera(Source):
    """The frames of a client, of which one waits; decoded in the thread that reads them.

    Attributes:
        sizes: (height, width) that frames may have.
    """

    def __init__(self, client: Client, most_pixels: int) -> None:
        super().__init__()
        self.info = SourceInfo("client", client.width, client.height, live=True)
        self.sizes: tuple[tuple[int, int], ...] = ()
        self._client, self._most = client, most_pixels
        self._newest: deque[Upload] = deque(maxlen=1)
        self._came: SimpleQueue[None] = SimpleQueue()

    def put(self, upload: Upload) -> Upload | None:
        """Take a frame; returns the one that it replaces."""
        try:
            replaced = self._newest.popleft()
        except IndexError:  # it was read
            replaced = None
        self._newest.append(upload)
        self._came.put(None)
        return replaced

    def interrupt(self) -> None:
        """End the iteration."""
        super().interrupt()
        self._came.put(None)

    def _read(self) -> Frame | None:
        while True:
            self._came.get()
            if self._interrupted:
                return None
            try:
                upload = self._newest.popleft()
            except IndexError:  # this one was replaced
                continue
            try:
                image = read_picture(upload.content, self._most)
            except RequestError:
                image = None
            if image is not None and (image.shape[0], image.shape[1]) in self.sizes:
                return Frame(image, upload.number, upload.arrived, upload.arrived)
            self._client.soon(self._client.drop, upload.number, UNREADABLE)


class Client:
    """One stream, from its hello to its end; all of it runs in the event loop but `deliver`.

    Attributes:
        width, height: of the camera, in pixels.
        received, shown, dropped: frames that came, were answered with a mask, or were not, by
            cause; `received` is the sum of the others and of those on their way.
        ages: from camera to screen, as the client reports them, in seconds.
    """

    def __init__(self, socket: WebSocket, service: Service) -> None:
        self._socket, self._service = socket, service
        self._loop = asyncio.get_running_loop()
        self._outbox: asyncio.Queue[bytes | str] = asyncio.Queue()
        self._pending: dict[int, Upload] = {}
        self._unread_masks = 0
        self._last = -1
        self._kind = "png"
        self._selected = service.segmenter.selected
        self._window, self._turn = 1, 0.0
        self.width = self.height = 0
        self.since = time.monotonic()
        self.received = self.shown = 0
        self.dropped: Counter[str] = Counter()
        self.ages = Durations()
        self._camera: Camera

    def soon(self, call: Any, *values: Any) -> None:
        """Call in the event loop, from any thread."""
        self._loop.call_soon_threadsafe(call, *values)

    def figures(self) -> dict[str, Any]:
        """For `/v1/sessions`."""
        return {
            "seconds": round(time.monotonic() - self.since, 1),
            "camera": {"width": self.width, "height": self.height},
            "kind": self._kind,
            "window": self._window,
            "received": self.received,
            "shown": self.shown,
            "dropped": dict(self.dropped),
            "waiting": len(self._pending),
            "age_ms": self.ages.milliseconds(),
        }

    async def run(self, hello: dict[str, Any]) -> None:
        """Serve the client until it leaves.

        Raises:
            RequestError: it does what it may not, or sends nothing.
        """
        self._kind = str(hello.get("kind", "png"))
        labels = self._service.segmenter.labels
        if self._kind not in KINDS or (self._kind != "png" and len(labels) != 2):
            raise RequestError(422, f"kind {self._kind[:20]}", found="it is not for this model")
        self._set_size(hello)
        self._camera = Camera(self, int(self._service.options.max_megapixels * 1e6))
        self._welcome()
        smooth = hello.get("smooth", False)
        if not isinstance(smooth, bool):
            raise RequestError(422, "smooth", found="it is not true or false")
        temporal = TemporalOptions(smooth=USUAL_SMOOTH if smooth else 0.0)
        with self._service.client(self, self._camera, self.deliver, temporal):
            sending = asyncio.create_task(self._send())
            try:
                await self._receive()
            finally:
                sending.cancel()

    async def _receive(self) -> None:
        while True:
            try:
                message = await asyncio.wait_for(self._socket.receive(), IDLE_SECONDS)
            except TIMED_OUT:
                found = f"no frame for {IDLE_SECONDS:.0f} seconds"
                raise RequestError(408, "the stream was idle", found=found) from None
            if message["type"] == "websocket.disconnect":
                return
            if message.get("bytes") is not None:
                self._take(message["bytes"])
            else:
                self._control(parsed(message.get("text") or ""))
            if self._outbox.qsize() > MAX_UNREAD:
                raise RequestError(429, "the client reads too slowly")

    def _take(self, message: bytes) -> None:
        if len(message) <= UP.size:
            raise RequestError(422, "a frame is too short")
        number, _, client_ms = UP.unpack_from(message)
        if number <= self._last:
            raise RequestError(422, f"frame {number} after {self._last}", found="numbers must grow")
        self._last = number
        self.received += 1
        upload = Upload(number, client_ms, time.perf_counter(), message[UP.size :])
        self._pending[number] = upload
        if self._unread_masks >= MAX_WINDOW:
            self.drop(number, UNREAD)
            return
        replaced = self._camera.put(upload)
        if replaced is not None:
            self.drop(replaced.number, NEWER)

    def _control(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "camera":
            self._set_size(message)
            self._welcome()
        elif kind == "classes":
            ids = message.get("ids")
            known = range(len(self._service.segmenter.labels))
            if not isinstance(ids, list) or not all(type(i) is int and i in known for i in ids):
                raise RequestError(422, "classes", found="they are not numbers of classes")
            self._selected = frozenset(ids)
        elif kind == "painted":
            self._painted(_numbers(message.get("ages")), _numbers(message.get("trips")))
        else:
            raise RequestError(422, f"unknown message {str(kind)[:40]!r}")

    def _set_size(self, message: dict[str, Any]) -> None:
        sides = message.get("width"), message.get("height")
        if not all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
            raise RequestError(422, "the camera's size", found="it is not two numbers of pixels")
        most = self._service.options.max_megapixels
        if message["width"] * message["height"] > most * 1e6:
            raise RequestError(422, "the camera's size", found=f"at most {most:g} MP are taken")
        self.width, self.height = message["width"], message["height"]

    def _welcome(self) -> None:
        segmenter = self._service.segmenter
        labels, spec = segmenter.labels, segmenter.backend.spec
        height, width = segmenter.backend.size_for((self.height, self.width))
        sizes = (height, width), (self.height, self.width)
        self._camera.sizes = (*self._camera.sizes[-2:], *sizes)  # frames of the last on their way
        rows = enumerate(zip(labels.names, labels.colours, strict=True))
        self._say(
            type="welcome",
            model=spec.name,
            device=f"{segmenter.info.device}, {segmenter.info.precision}",
            width=self.width,
            height=self.height,
            input={"width": width, "height": height},
            classes=[{"id": n, "name": name, "colour": list(rgb)} for n, (name, rgb) in rows],
            background=labels.background,
            selected=None if segmenter.selected is None else sorted(segmenter.selected),
            align_corners=spec.align_corners,
            probabilities=spec.output == "probabilities",
            window=self._window,
        )

    def _painted(self, ages: list[float], trips: list[float]) -> None:
        """Note what the client saw; more frames on their way where most of a trip is the network
        between us, so that ours is not idle meanwhile."""
        for age in ages:
            self.ages.add(age / 1e3)
            self._service.metrics.observe("rtseg_stream_age_seconds", age / 1e3)
        if not trips or not self._turn:
            return
        between = sum(trips) / len(trips) / 1e3 - self._turn
        fitting = min(MAX_WINDOW, 1 + max(0, int(between / self._turn)))
        if fitting != self._window:
            self._window += 1 if fitting > self._window else -1
            self._say(type="window", frames=self._window)

    # --- answers ---------------------------------------------------------------------------------

    def deliver(self, result: Result) -> None:
        """Send a mask; called in the engine's thread."""
        found, number = result.segmentation, result.frame.index
        if self._kind == "png":
            shape = self.height, self.width
            payload = _png(found.at_size(shape).selecting(self._selected))
        else:
            margin = found.scores[1] - found.scores[0]
            shape = margin.shape[0], margin.shape[1]
            payload = margin.astype("<f2" if self._kind == "logits16" else "<f4").tobytes()
        self.soon(self._answer, number, shape, payload, time.perf_counter())

    def _answer(self, number: int, shape: tuple[int, int], payload: bytes, at: float) -> None:
        for older in [each for each in self._pending if each < number]:
            self.drop(older, NEWER)
        upload = self._pending.pop(number, None)
        if upload is None:
            return
        seconds = time.perf_counter() - upload.arrived
        self._turn = 0.8 * (self._turn or seconds) + 0.2 * seconds
        self.shown += 1
        self._service.metrics.count("rtseg_stream_frames_total", result="shown")
        self._service.metrics.observe("rtseg_stream_server_seconds", seconds)
        height, width = shape
        head = (number, KINDS[self._kind], 0, upload.client_ms, width, height, seconds * 1e3)
        self._unread_masks += 1
        self._outbox.put_nowait(HEADER.pack(*head, (at - upload.arrived) * 1e3, 0) + payload)

    def drop(self, number: int, cause: int) -> None:
        """Answer a frame with the cause for which it has no mask."""
        upload = self._pending.pop(number, None)
        if upload is None:
            return
        self.dropped[CAUSES[cause]] += 1
        self._service.metrics.count("rtseg_stream_frames_total", result=CAUSES[cause])
        head = (number, DROPPED, cause, upload.client_ms, 0, 0, 0, 0, 0)
        self._outbox.put_nowait(HEADER.pack(*head))

    def _say(self, **message: Any) -> None:
        self._outbox.put_nowait(json.dumps(message))

    async def _send(self) -> None:
        while True:
            message = await self._outbox.get()
            try:
                if isinstance(message, str):
                    await self._socket.send_text(message)
                else:
                    await self._socket.send_bytes(message)
                    self._unread_masks -= len(message) > HEADER.size
            except (WebSocketDisconnect, RuntimeError):
                return  # it is gone, as `_receive` will see


def _png(found: Segmentation) -> bytes:
    """A palette PNG in which what is not a class is transparent."""
    labels = found.labels
    opaque = bytes(255 * (n < len(labels) and n != labels.background) for n in range(256))
    return quick_png(found.mask, palette(labels), opaque)


def _numbers(values: Any) -> list[float]:
    if not isinstance(values, list) or not all(type(each) in (int, float) for each in values):
        raise RequestError(422, "ages and trips", found="they are not lists of numbers")
    return [each for each in values[:1000] if 0 <= each < 1e6]


async def stream(socket: WebSocket) -> None:
    """Serve one client."""
    service: Service = socket.app.state.service
    offered = socket.scope.get("subprotocols") or ()
    await socket.accept(PROTOCOL if PROTOCOL in offered else None)
    try:
        await Client(socket, service).run(await first_message(socket))
    except RequestError as error:
        await refuse(socket, error)
    except WebSocketDisconnect:
        pass


async def sessions(request: Request) -> Response:
    """The figures of each stream that is open."""
    service: Service = request.app.state.service
    return JSONResponse({"sessions": [client.figures() for client in service.clients]})
