"""Describe msgspec types in FastAPI's OpenAPI document.

FastAPI generates the paths and parameters. It knows pydantic models only, so the schemas of
answers and bodies come from ``msgspec.json.schema_components``.
"""

from typing import Any

import msgspec
from fastapi import FastAPI

from soulsai.web.schemas import Problem

CSV, SSE, TAR, JSON = "text/csv", "text/event-stream", "application/x-tar", "application/json"
_REFUSALS = {
    401: "A token is needed.",
    403: "These rights, or this origin, do not allow it.",
    404: "The object does not exist.",
    409: "The present state does not allow it.",
    413: "The request is too large.",
    422: "A parameter or the body is invalid.",
    429: "Too many requests at once.",
}
_types: dict[str, Any] = {}


def answer(type: Any, *others: str) -> dict[str, Any]:
    """Return a route's documentation: the type of its JSON answer, and other media types."""
    texts = {media: {"schema": {"type": "string"}} for media in others}
    return _responses({JSON: {"schema": _schema(type)}} | texts)


def stream(media: str, format: str = "") -> dict[str, Any]:
    """Return the documentation of a route that answers with text, or with ``binary`` data."""
    schema = {"type": "string", **({"format": format} if format else {})}
    return _responses({media: {"schema": schema}})


def accepts(type: Any) -> dict[str, Any]:
    """Return the documentation of a route with a JSON body."""
    body = {"required": True, "content": {JSON: {"schema": _schema(type)}}}
    return {"methods": ["POST"], "openapi_extra": {"requestBody": body}}


def complete(app: FastAPI) -> None:
    """Add the schemas and the ways to authenticate to the application's document."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            whole = plain()
            _, schemas = _components([*_types.values(), Problem])
            whole["components"] = {
                "schemas": schemas,
                "securitySchemes": {
                    "token": {"type": "http", "scheme": "bearer"},
                    "session": {"type": "apiKey", "in": "cookie", "name": "soulsai_session"},
                },
            }
            whole["security"] = [{}, {"token": []}, {"session": []}]
            app.openapi_schema = whole
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation shows


def _components(types: list[Any]) -> tuple[Any, dict[str, Any]]:
    return msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")


def _schema(type: Any) -> Any:
    _types[str(type)] = type
    return _components([type])[0][0]


def _responses(content: dict[str, Any]) -> dict[str, Any]:
    problem = {JSON: {"schema": _schema(Problem)}}
    refusals = {
        status: {"description": text, "content": problem} for status, text in _REFUSALS.items()
    }
    answered = {200: {"description": "The answer.", "content": content}}
    return {"response_model": None, "responses": answered | refusals}
