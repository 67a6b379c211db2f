"""The documentation of the API, made from the types that it answers with."""

from typing import Any

import msgspec
from fastapi import FastAPI

from soulsai.web.schemas import Problem

CSV, SSE, TAR = "text/csv", "text/event-stream", "application/x-tar"
_REFERENCE = "#/components/schemas/{name}"
_REFUSALS = {
    401: "A token is needed.",
    403: "This may not be asked, or not from there.",
    404: "There is no such thing.",
    409: "It cannot be done now.",
    413: "Too much was sent.",
    422: "A parameter or the body makes no sense.",
    429: "Too much is being asked for.",
}
_types: dict[str, Any] = {}


def answer(type: Any, *others: str) -> dict[str, Any]:
    """Return what a route's documentation says of an answer in JSON, and of ``others``."""
    _types[str(type)] = type
    (schema,), _ = msgspec.json.schema_components([type], ref_template=_REFERENCE)
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    content |= {media: {"schema": {"type": "string"}} for media in others}
    return _route(content)


def text(media: str) -> dict[str, Any]:
    """Return what a route's documentation says of an answer in text."""
    return _route({media: {"schema": {"type": "string"}}})


def file(media: str) -> dict[str, Any]:
    """Return what a route's documentation says of a download."""
    return _route({media: {"schema": {"type": "string", "format": "binary"}}})


def asks(type: Any) -> dict[str, Any]:
    """Return what a route's documentation says of a body."""
    _types[str(type)] = type
    (schema,), _ = msgspec.json.schema_components([type], ref_template=_REFERENCE)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def document(app: FastAPI) -> None:
    """Complete the application's documentation with the types of all answers."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            types = [*_types.values(), Problem]
            _, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
            whole = plain()
            known = whole.setdefault("components", {})
            known["schemas"] = components
            known["securitySchemes"] = {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "soulsai_session"},
            }
            whole["security"] = [{}, {"token": []}, {"session": []}]
            app.openapi_schema = whole
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation has it


def _route(content: dict[str, Any]) -> dict[str, Any]:
    problem = {"application/json": {"schema": {"$ref": _REFERENCE.format(name="Problem")}}}
    refusals = {
        status: {"description": why, "content": problem} for status, why in _REFUSALS.items()
    }
    return {
        "response_model": None,
        "responses": {200: {"description": "The answer.", "content": content}, **refusals},
    }
