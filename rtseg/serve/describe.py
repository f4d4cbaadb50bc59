"""What the server is and can do: health, models, and the description of its API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from rtseg._version import __version__
from rtseg.serve.application import ROUTES
from rtseg.serve.segment import KINDS

if TYPE_CHECKING:
    from starlette.requests import Request


async def live(request: Request) -> Response:
    """The process answers."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> Response:
    """The network is warm, and new requests are taken."""
    service = request.app.state.service
    service.check_open()
    return JSONResponse({"ready": True})


async def models(request: Request) -> Response:
    """The model that is served, its classes and what runs it."""
    segmenter = request.app.state.service.segmenter
    spec, info, labels = segmenter.spec, segmenter.info, segmenter.labels
    height, width = segmenter.input_size
    classes = [
        {"id": number, "name": name, "colour": list(colour)}
        for number, (name, colour) in enumerate(zip(labels.names, labels.colours, strict=True))
    ]
    model = {
        "name": spec.name,
        "architecture": spec.architecture,
        "licence": spec.licence,
        "classes": classes,
        "background": labels.background,
        "input": {"height": height, "width": width},
        "backend": info.name,
        "device": info.device,
        "precision": info.precision,
        "notes": list(info.notes),
    }
    return JSONResponse({"models": [model]})


async def openapi(request: Request) -> Response:
    """This description."""
    return JSONResponse(description())


def description() -> dict[str, Any]:
    """The API as OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        if route.summary:
            operation = {
                "summary": route.summary,
                "operationId": route.place.rpartition(":")[2],
                "responses": _answers(route.path),
                "security": [{"token": []}] if route.guarded else [],
            }
            if route.path == "/v1/segment":
                operation |= {"parameters": _parameters(), "requestBody": _picture()}
            paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "rtseg", "version": __version__},
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _object(error={"type": "string"})},
        },
    }


def _parameters() -> list[dict[str, Any]]:
    helps = "; ".join(f"{name}: {kind.help}" for name, kind in KINDS.items())
    switch = {"type": "string", "enum": ["0", "1", "false", "true"]}
    rows: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("as", f"What to answer with. {helps}", {"type": "string", "enum": list(KINDS)}),
        ("classes", "Classes to keep, by name or number; comma-separated.", {"type": "string"}),
        ("refine", "Refine mask edges from image colours.", switch),
        ("rle", "Include COCO run lengths in the JSON.", switch),
    )
    return [
        {"name": name, "in": "query", "description": text, "schema": schema}
        for name, text, schema in rows
    ]


def _picture() -> dict[str, Any]:
    schema = {"type": "string", "format": "binary"}
    return {"required": True, "content": {"application/octet-stream": {"schema": schema}}}


def _answers(path: str) -> dict[str, Any]:
    def refused(text: str) -> dict[str, Any]:
        schema = {"$ref": "#/components/schemas/Error"}
        return {"description": text, "content": {"application/json": {"schema": schema}}}

    common = {
        "401": refused("The token is missing or wrong."),
        "403": refused("The request comes from another site, or from another machine."),
        "421": refused("The server is not known by this name."),
        "503": refused("The server is not ready, or about to end."),
    }
    if path == "/metrics":
        return {"200": {"description": "Figures.", "content": {"text/plain": {}}}, **common}
    if path != "/v1/segment":
        return {"200": {"description": "Done.", "content": {"application/json": {}}}, **common}
    media = dict.fromkeys(media for kind in KINDS.values() for media in kind.media)
    return {
        "200": {"description": "Done.", "content": {each: {} for each in media}},
        **common,
        "408": refused("The body came too slowly."),
        "413": refused("The image has too many bytes or pixels."),
        "415": refused("The body is not an image, or damaged."),
        "422": refused("A parameter makes no sense, or the body is empty."),
        "429": refused("Too many images at once."),
        "500": refused("The network failed."),
    }


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}
