"""`POST /v1/segment`: an image in; its mask, overlay, cut-out, classes or scores out."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from rtseg.draw import checked
from rtseg.effects import ViewOptions, open_view
from rtseg.frame import Frame, Image, Segmentation
from rtseg.images import content_size, decode_image, is_image_content
from rtseg.limits import Pace
from rtseg.matte.refine import Refined
from rtseg.serve.service import TIMED_OUT, Admission, RequestError, Service
from rtseg.sinks.jsonl import classes_of
from rtseg.sinks.masks import palette, palette_png

if TYPE_CHECKING:
    from starlette.datastructures import Headers, QueryParams
    from starlette.requests import Request

BODY_SECONDS = 10.0
"""In each of which a body must make progress."""

JPEG_QUALITY = 90
MAX_JPEG_SIDE = 65500
"""That libjpeg writes."""

PNG, JPEG, JSON, NPY = "image/png", "image/jpeg", "application/json", "application/x-npy"


def _mask(pair: Pair) -> bytes:
    return palette_png(pair.segmentation.mask, palette(pair.segmentation.labels))


def _index(pair: Pair) -> bytes:
    return _encoded(".png", pair.segmentation.mask)


def _overlay(pair: Pair) -> bytes:
    suffix = ".png" if pair.media == PNG else ".jpg"
    return _encoded(suffix, _drawn(pair, ViewOptions(view="overlay")))


def _cutout(pair: Pair) -> bytes:
    return _encoded(".png", _drawn(pair, ViewOptions(view="cutout", background="transparent")))


def _json(pair: Pair) -> bytes:
    height, width = pair.segmentation.size
    answer = {"width": width, "height": height}
    return json.dumps(answer | {"classes": classes_of(pair.segmentation, rle=pair.rle)}).encode()


def _logits(pair: Pair) -> bytes:
    file = io.BytesIO()
    np.save(file, pair.segmentation.scores, allow_pickle=False)
    return file.getvalue()


def _drawn(pair: Pair, options: ViewOptions) -> Image:
    view = open_view(options, pair.segmentation.labels)
    return checked(view(Frame(pair.image, 0, 0.0, 0.0), pair.segmentation))


def _encoded(suffix: str, image: Any) -> bytes:
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == ".jpg" else []
    if suffix == ".jpg" and max(image.shape[:2]) > MAX_JPEG_SIDE:
        raise RequestError(
            422,
            f"the answer is too long for a JPEG, of at most {MAX_JPEG_SIDE} pixels a side",
            do="Ask for a PNG, with the header Accept: image/png",
        )
    done, content = cv2.imencode(suffix, image, settings)
    if not done:
        raise RequestError(500, f"the answer cannot be encoded as {suffix}")
    return content.tobytes()


@dataclass(frozen=True)
class Kind:
    """A row of `KINDS`.

    Attributes:
        encode: makes the body.
        media: types that it can have, the usual one first.
        help: one line.
    """

    encode: Callable[[Pair], bytes]
    media: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Pair:
    """An image, (H, W, 3) uint8 BGR, its segmentation, and how it is to be written."""

    image: Image
    segmentation: Segmentation
    media: str
    rle: bool


KINDS = {
    "mask": Kind(_mask, (PNG,), "PNG of class indices in the palette of the classes"),
    "index": Kind(_index, (PNG,), "grey PNG of class indices"),
    "overlay": Kind(_overlay, (JPEG, PNG), "the image with its classes in colour"),
    "cutout": Kind(_cutout, (PNG,), "PNG of the selected classes, transparent elsewhere"),
    "json": Kind(_json, (JSON,), "classes with their shares, and with rle=1 COCO run lengths"),
    "logits": Kind(_logits, (NPY,), "NumPy file of the network's scores, (C, h, w) float32"),
}
"""What `as=` may be."""

USUAL = {JSON: "json", JPEG: "overlay", PNG: "mask"}
"""By the first type in Accept, where there is no `as=`."""


@dataclass(frozen=True)
class Ask:
    """What a request wants.

    Attributes:
        selected: classes to keep; None keeps all.
    """

    kind: Kind
    media: str
    selected: frozenset[int] | None
    refine: bool
    rle: bool

    @classmethod
    def of(cls, query: QueryParams, headers: Headers, service: Service) -> Ask:
        """Read a request.

        Raises:
            RequestError, UsageError: it makes no sense.
        """
        known = {"as", "classes", "refine", "rle"}
        if unknown := [name for name in query if name not in known]:
            raise RequestError(
                422, f"unknown parameter {unknown[0][:40]!r}", found="there are as, classes, ..."
            )
        accepted = [part.partition(";")[0].strip() for part in headers.get("accept", "").split(",")]
        name = query.get("as", next((USUAL[m] for m in accepted if m in USUAL), "mask"))
        if name not in KINDS:
            raise RequestError(422, f"as={name[:40]}", found="choices are " + ", ".join(KINDS))
        kind = KINDS[name]
        media = next((each for each in accepted if each in kind.media), kind.media[0])
        names = [part for part in query.get("classes", "").split(",") if part.strip()]
        own = service.segmenter
        selected = own.labels.select(names) if names else own.selected
        return cls(kind, media, selected, switch(query, "refine"), switch(query, "rle"))


def switch(query: QueryParams, name: str) -> bool:
    """Whether a parameter is on; raises RequestError for what is neither on nor off."""
    value = query.get(name, "0")
    if value not in ("0", "1", "false", "true"):
        raise RequestError(422, f"{name}={value[:40]}", found="choices are 0, 1")
    return value in ("1", "true")


async def segment(request: Request) -> Response:
    """Segment the image in the body."""
    service: Service = request.app.state.service
    ask = Ask.of(request.query_params, request.headers, service)
    with service.room() as place:
        body = await read_body(request, int(service.options.max_megabytes * 1e6), place)
        since = time.perf_counter()
        image = await service.in_pool(
            lambda: read_picture(body, int(service.options.max_megapixels * 1e6))
        )
        decoded = time.perf_counter()
        found = (await service.segment(image)).selecting(ask.selected)
        segmented = time.perf_counter()
        if ask.refine:
            found = Refined(found, image)
        pair = Pair(image, found, ask.media, ask.rle)
        content = await service.in_pool(lambda: ask.kind.encode(pair))
    times = {
        "decode": decoded - since,
        "network": segmented - decoded,
        "encode": time.perf_counter() - segmented,
    }
    for stage, seconds in times.items():
        service.metrics.observe("rtseg_stage_seconds", seconds, stage=stage)
    info = service.segmenter.info
    return Response(
        content,
        media_type=ask.media,
        headers={
            "Server-Timing": ", ".join(f"{n};dur={s * 1e3:.1f}" for n, s in times.items()),
            "Rtseg-Model": service.segmenter.spec.name,
            "Rtseg-Device": f"{info.device}, {info.precision}, {info.name}",
            "Cache-Control": "no-store",
        },
    )


async def read_body(request: Request, most: int, place: Admission) -> bytes:
    """The body, of at most as many bytes, whatever its header says.

    Raises:
        RequestError: it is empty, too long, comes too slowly, or lost its place to another.
    """
    too_long = RequestError(
        413,
        "the body is too long",
        found=f"at most {most / 1e6:g} MB are taken",
        do="Send a smaller image, or start the server with a higher --max-megabytes",
    )
    length = request.headers.get("content-length", "0")
    body, pace = bytearray(), Pace(BODY_SECONDS)
    parts = request.stream().__aiter__()
    try:
        if length.isdecimal() and int(length) > most:
            raise too_long
        async for part in in_time(parts):
            if place.lost:
                raise TimeoutError
            body += part
            if len(body) > most:
                raise too_long
            pace(len(part))
    except TIMED_OUT:
        raise RequestError(408, "the body came too slowly") from None
    except ClientDisconnect:
        raise RequestError(400, "the client went before its body had come") from None
    except RequestError:
        await discard(parts, most)
        raise
    if place.lost:
        raise RequestError(408, "the body came too slowly")
    place.since = None
    if not body:
        raise RequestError(422, "the body is empty", do="Send its bytes as the body")
    return bytes(body)


async def in_time(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The parts; raises TimeoutError if none comes for a while."""
    while True:
        try:
            yield await asyncio.wait_for(parts.__anext__(), BODY_SECONDS)
        except StopAsyncIteration:
            return


async def discard(parts: AsyncIterator[bytes], most: int) -> None:
    """Read on for a moment: a client that still sends when the connection is closed may not see
    the answer."""
    discarded = 0
    with suppress(*TIMED_OUT, ClientDisconnect):
        async for part in in_time(parts):
            discarded += len(part)
            if discarded > most:
                return


def read_picture(content: bytes, most: int) -> Image:
    """(H, W, 3) uint8 BGR, upright; its size is checked before it is decoded.

    Raises:
        RequestError: it is too large, damaged, or not an image.
    """
    if not is_image_content(content):
        raise RequestError(
            415, "the body is not an image", do="Send a JPEG, PNG, WebP or another image"
        )
    try:
        height, width = content_size(content)
        if height * width > most:
            raise RequestError(
                413,
                f"the image has {height * width / 1e6:.1f} megapixels",
                found=f"at most {most / 1e6:g} are taken",
                do="Send a smaller one, or start the server with a higher --max-megapixels",
            )
        return decode_image(content)
    except (ValueError, OSError) as error:
        raise RequestError(415, "the image cannot be read", found=str(error)) from error
