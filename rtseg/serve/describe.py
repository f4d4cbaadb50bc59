"""What the server is and can do: health, models, and the description of its API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from rtseg._version import __version__
from rtseg.serve.application import ROUTES, Way
from rtseg.serve.jobs import MADE, PARAMETERS, PRODUCTS, STATES
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
                "operationId": route.place.rpartition(".")[2].replace(":", "_"),
                "parameters": [*_in_path(route.path), *_parameters(route)],
                "responses": _answers(route),
                "security": [{"token": []}] if route.guarded else [],
            }
            if route.method in BODIES:
                schema = {"type": "string", "format": "binary"}
                body = {"application/octet-stream": {"schema": schema}}
                if route.path in BODIES[route.method]:
                    operation["requestBody"] = {"required": True, "content": body}
            paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "rtseg", "version": __version__},
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _object(error={"type": "string"}), "Job": _job()},
        },
    }


BODIES = {"POST": ("/v1/segment",), "PUT": ("/v1/jobs/{id}/input",)}
"""What takes bytes."""


def _in_path(path: str) -> list[dict[str, Any]]:
    """The number of a job."""
    schema = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
    row = {"name": "id", "in": "path", "required": True, "schema": schema}
    return [row] if "{id}" in path else []


def _parameters(route: Way) -> list[dict[str, Any]]:
    switch = {"type": "string", "enum": ["0", "1", "false", "true"]}
    classes = ("classes", "Classes to keep, by name or number; comma-separated.", _text())
    refine = ("refine", "Refine mask edges from image colours.", switch)
    rows: tuple[tuple[str, str, dict[str, Any]], ...] = ()
    if route.path == "/v1/segment":
        helps = "; ".join(f"{name}: {kind.help}" for name, kind in KINDS.items())
        rows = (
            ("as", f"What to answer with. {helps}", {"type": "string", "enum": list(KINDS)}),
            classes,
            refine,
            ("rle", "Include COCO run lengths in the JSON.", switch),
        )
    elif (route.method, route.path) == ("POST", "/v1/jobs"):
        helps = "; ".join(f"{name}: {product.help}" for name, product in PRODUCTS.items())
        rows = (
            ("as", f"What to make, comma-separated. {helps}", _text(f"^({MADE})(,({MADE}))*$")),
            ("name", "What the video is called.", _text()),
            classes,
            refine,
            *(
                (name, f"As --{name} of the command line: {words}.", _text(f"^({form})$"))
                for name, (_, form, words) in PARAMETERS.items()
            ),
        )
    elif route.path == "/v1/jobs/{id}/output":
        rows = (("as", "Which file.", {"type": "string", "enum": list(PRODUCTS)}),)
    return [
        {"name": name, "in": "query", "description": text, "schema": schema}
        for name, text, schema in rows
    ]


def _text(pattern: str = "") -> dict[str, Any]:
    return {"type": "string", **({"pattern": pattern} if pattern else {})}


def _whole() -> dict[str, Any]:
    return {"type": "integer", "minimum": 0}


def _answers(route: Way) -> dict[str, Any]:
    """What a route may answer, by status."""
    refusals: dict[str, Any] = dict(COMMON)
    media: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if route.path == "/v1/segment":
        media = {each: {} for kind in KINDS.values() for each in kind.media}
        refusals |= SEGMENT
    elif route.path == "/metrics":
        media = {"text/plain": {}}
    elif route.path.startswith("/v1/jobs"):
        job = {"$ref": "#/components/schemas/Job"}
        whole = route.path == "/v1/jobs" and route.method == "GET"
        schema = _object(jobs={"type": "array", "items": job}, most=_whole()) if whole else job
        media = {"application/json": {"schema": schema}}
        refusals |= JOBS
        if route.path.endswith("/events"):
            media = {"text/event-stream": {}}
        elif route.path.endswith("/output"):
            media = {product.media: {} for product in PRODUCTS.values()}
            refused = _refused("The range is not in the file.")
            refusals |= {"206": {"description": "A part.", "content": media}, "416": refused}
        elif route.method == "PUT":
            refusals |= UPLOAD
    done = {"description": "Done.", "content": media}
    status = "201" if (route.method, route.path) == ("POST", "/v1/jobs") else "200"
    if route.method == "DELETE":
        status, done = "204", {"description": "It is gone."}
    texts = {code: _refused(text) for code, text in refusals.items() if isinstance(text, str)}
    return {status: done, **refusals, **texts}


COMMON = {
    "401": "The token is missing or wrong.",
    "403": "The request comes from another site, or from another machine.",
    "421": "The server is not known by this name.",
    "503": "The server is not ready, or about to end.",
}
SEGMENT = {
    "408": "The body came too slowly.",
    "413": "The image has too many bytes or pixels.",
    "415": "The body is not an image, or damaged.",
    "422": "A parameter makes no sense, or the body is empty.",
    "429": "Too many images at once.",
    "500": "The network failed.",
}
JOBS = {
    "404": "There is no such job, or the server takes no videos.",
    "409": "The job is not in the state for this.",
    "422": "A parameter makes no sense.",
    "429": "Too many jobs.",
}
UPLOAD = {
    "408": "The video came too slowly; what came is kept.",
    "413": "The video has too many bytes.",
    "415": "The file is not a video.",
    "507": "The disk has no room for it.",
}
"""Refusals by status."""


def _refused(text: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _job() -> dict[str, Any]:
    number: dict[str, Any] = {"type": ["number", "null"]}
    output = _object(address=_text(), bytes=_whole())
    job = _object(
        id=_text(),
        name=_text(),
        state={"type": "string", "enum": list(STATES)},
        created={"type": "number", "description": "Seconds since 1970."},
        received={"type": "integer", "description": "Bytes of the video that are there."},
        size=number,
        error={"type": ["string", "null"]},
        notes={"type": "array", "items": _text()},
        outputs={"type": "object", "additionalProperties": output},
    )
    running = dict.fromkeys(("frames", "total", "fps", "seconds_left"), number)
    products = {"type": "array", "items": _text()}
    return {**job, "properties": {**job["properties"], **running, "as": products}}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}
