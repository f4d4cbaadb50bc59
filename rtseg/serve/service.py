"""The network behind the server: one session engine, in which clients are sources."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from rtseg.contracts import Source, SourceInfo
from rtseg.effects import ViewOptions, open_effect
from rtseg.errors import RtsegError
from rtseg.frame import Frame, Image, Segmentation
from rtseg.matte import refine
from rtseg.segmenter import Segmenter
from rtseg.serve.metrics import Metrics
from rtseg.serve.options import ServeOptions
from rtseg.session.engine import Channel, Engine, Result
from rtseg.session.loop import TICK_SECONDS
from rtseg.temporal import TemporalOptions
from rtseg.threads import Flow

T = TypeVar("T")

TIMED_OUT = (TimeoutError, asyncio.TimeoutError)
"""What asyncio raises when a time is over; before Python 3.11 these are two classes."""

UPLOAD_SECONDS = 3.0
"""After which an upload loses its place if another image finds none."""


class RequestError(RtsegError):
    """A request that is not granted.

    Attributes:
        status: of HTTP.
        retry_seconds: when to try again; None if that would not help.
    """

    def __init__(
        self, status: int, asked: str, *, found: str = "", do: str = "", retry: int | None = None
    ) -> None:
        super().__init__(asked, found=found, do=do)
        self.status, self.retry_seconds = status, retry


class Client(Protocol):
    """Whose stream is open."""

    def figures(self) -> dict[str, Any]:
        """What became of its frames."""


class Inbox(Source):
    """The images of requests, none of which is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.info = SourceInfo("pictures", 1280, 720)
        self._coming: SimpleQueue[Frame | None] = SimpleQueue()

    def put(self, frame: Frame) -> None:
        """Add one; does not wait."""
        self._coming.put(frame)

    def interrupt(self) -> None:
        """End the iteration."""
        super().interrupt()
        self._coming.put(None)

    def _read(self) -> Frame | None:
        return self._coming.get()


class Admission:
    """A place of one image among those that are worked on.

    Attributes:
        since: when its upload began, in seconds of `time.monotonic`; None once it is complete.
        lost: whether another has got it.
    """

    def __init__(self) -> None:
        self.since: float | None = time.monotonic()
        self.lost = False


class Service:
    """Runs the engine in a thread of its own, and answers in the event loop that entered it.

    Args:
        segmenter: of all clients; stays open.

    Attributes:
        ready: whether the network is warm and works.
        draining: whether no new work is taken, as the server is about to end.
        failure: what ended the engine, if it was not asked to.
        clients: whose streams are open.
    """

    def __init__(self, segmenter: Segmenter, options: ServeOptions) -> None:
        self.segmenter, self.options = segmenter, options
        self.metrics = Metrics()
        self.ready = self.draining = False
        self.failure: BaseException | None = None
        self.clients: list[Client] = []
        self._inbox = Inbox()
        self._orders: SimpleQueue[Callable[[Engine], None]] = SimpleQueue()
        self._receivers: dict[int, Callable[[Result], None]] = {}
        self._ending = False
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[Segmentation]] = {}
        self._inside: set[Admission] = set()
        self._codecs = asyncio.Semaphore(2)
        self._loop: asyncio.AbstractEventLoop
        self._settled = asyncio.Event()
        self._flow = Flow(self._run(), name="serve", interrupt=self._end)

    async def __aenter__(self) -> Service:
        self._loop = asyncio.get_running_loop()
        self._flow.__enter__()
        await self._settled.wait()
        if self.failure is not None:
            raise self.failure
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.draining, self.ready = True, False
        self._flow.stop()
        await asyncio.to_thread(self._flow.__exit__)
        self._fail(RequestError(503, "the server has ended"))

    def gauges(self) -> dict[str, float]:
        """What is now, for the metrics."""
        up = self.ready and not self.draining
        streams = len(self.clients)
        return {"rtseg_pictures": len(self._inside), "rtseg_streams": streams, "rtseg_up": up}

    def check_open(self) -> None:
        """Raise RequestError unless new work is taken."""
        if self.draining:
            raise RequestError(503, "the server is about to end", retry=5)
        if not self.ready:
            raise RequestError(503, "the network is not ready", retry=2)

    @contextmanager
    def room(self) -> Iterator[Admission]:
        """Room for one image more, as long as the `with` lasts.

        An upload that has taken a while already loses its place to one that finds none.

        Raises:
            RequestError: there is none.
        """
        self.check_open()
        most = self.options.max_pictures
        if len(self._inside) >= most:
            before = time.monotonic() - UPLOAD_SECONDS
            slow = [each for each in self._inside if (each.since or before) < before]
            if not slow:
                raise RequestError(
                    429, "too many images at once", found=f"{most} are being worked on", retry=1
                )
            slowest = min(slow, key=lambda each: each.since or 0.0)
            slowest.lost = True
            self._inside.remove(slowest)
        place = Admission()
        self._inside.add(place)
        try:
            yield place
        finally:
            self._inside.discard(place)

    @contextmanager
    def client(
        self,
        client: Client,
        source: Source,
        deliver: Callable[[Result], None],
        temporal: TemporalOptions,
    ) -> Iterator[None]:
        """Segment the frames of a client as long as the `with` lasts, in turns with all others.

        Args:
            deliver: called with each result, in the engine's thread.
            temporal: how the masks of its frames are tied together.

        Raises:
            RequestError: there are as many clients as may be.
        """
        self.check_open()
        most = self.options.max_clients
        if len(self.clients) >= most:
            raise RequestError(429, "busy", found=f"{most} streams are open", retry=10)
        number: list[int] = []

        def begin(engine: Engine) -> None:
            number.append(engine.add(Channel(source, temporal=temporal)))
            self._receivers[number[0]] = deliver

        def end(engine: Engine) -> None:
            del self._receivers[number[0]]
            engine.remove(number[0])

        self.clients.append(client)
        self._orders.put(begin)
        try:
            yield
        finally:
            self.clients.remove(client)
            source.interrupt()
            self._orders.put(end)

    async def in_pool(self, work: Callable[[], T]) -> T:
        """What `work` returns, which decodes or encodes an image in one of two threads."""
        async with self._codecs:
            return await asyncio.to_thread(work)

    async def segment(self, image: Image) -> Segmentation:
        """Segment an image, (H, W, 3) uint8 BGR, in its turn.

        Raises:
            RequestError: the server ended before that.
            RtsegError: the network failed.
        """
        number = next(self._numbers)
        future: asyncio.Future[Segmentation] = self._loop.create_future()
        self._waiting[number] = future
        try:
            self._inbox.put(Frame(image, number, 0.0, time.perf_counter()))
            return await future
        finally:
            self._waiting.pop(number, None)

    def _run(self) -> Iterator[None]:
        """The engine's reader, in its thread, until the inbox is interrupted."""
        try:
            _warm_up(self.segmenter)
            pictures = Channel(self._inbox, "pictures", newest=False)
            self._receivers[0] = self._return
            with Engine([pictures], self.segmenter, shared=True) as engine:
                self._loop.call_soon_threadsafe(self._begin)
                for results in engine.poll(TICK_SECONDS):
                    for result in results:
                        engine.done(result)
                    for result in results:
                        self._receivers[result.source](result)
                    while not self._orders.empty():
                        self._orders.get()(engine)
                    if self._ending:
                        break
        except BaseException as error:
            self._loop.call_soon_threadsafe(self._break, error)
        yield from ()

    def _end(self) -> None:
        self._ending = True
        self._inbox.interrupt()

    def _return(self, result: Result) -> None:
        self._loop.call_soon_threadsafe(self._answer, result)

    def _begin(self) -> None:
        self.ready = True
        self._settled.set()

    def _break(self, error: BaseException) -> None:
        self.failure, self.ready = error, False
        self._settled.set()
        self._fail(error)

    def _answer(self, result: Result) -> None:
        future = self._waiting.get(result.frame.index)
        if future is not None and not future.done():
            future.set_result(result.segmentation)

    def _fail(self, error: BaseException) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)


def _warm_up(segmenter: Segmenter) -> None:
    """Compile what draws, or load it compiled, before a client waits for it."""
    for options in (ViewOptions(), ViewOptions(view="cutout", background="transparent")):
        open_effect(options, segmenter.labels)
    refine.warm_up()
