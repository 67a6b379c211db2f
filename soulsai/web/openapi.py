"""The routes of the page's API: their parameters from signatures, and their OpenAPI document.

Starlette serves the routes, and msgspec reads parameters and describes all types.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from soulsai.web.queries import BadRequest
from soulsai.web.schemas import Problem

CSV, SSE, TAR, JSON = "text/csv", "text/event-stream", "application/x-tar", "application/json"
RENAMED = {"begin": "from", "end": "to"}  # parameters whose names are Python's own words
_REFUSALS = {
    401: "A token is needed.",
    403: "These rights, or this origin, do not allow it.",
    404: "The object does not exist.",
    409: "The present state does not allow it.",
    413: "The request is too large.",
    422: "A parameter or the body is invalid.",
    429: "Too many requests at once.",
}

Handler = Callable[..., Awaitable[Response]]


class Content(Struct, frozen=True):
    """A type of data in a request or an answer: text of a media type, unless it is JSON."""

    media: str = JSON
    type: Any = str
    binary: bool = False

    def schema(self) -> dict[str, Any]:
        """Return the content in the form of an OpenAPI document."""
        if self.media == JSON:
            return {"schema": _components([self.type])[0][0]}
        return {"schema": {"type": "string", **({"format": "binary"} if self.binary else {})}}


class Operation:
    """One route with a handler, whose signature names its parameters.

    Those in the path are parts of it; all others are of the query, with the constraints and the
    description of ``msgspec.Meta``.
    """

    def __init__(
        self, path: str, handler: Handler, answers: Sequence[Content], body: Any = None
    ) -> None:
        """Read the handler's signature.

        Args:
            path: The path, with parameters in braces.
            handler: Answers a request; takes the parameters by name, and perhaps ``request``.
            answers: The contents with which it may answer.
            body: The type of a JSON body, which makes it a POST.
        """
        self.path = path
        self.method = "GET" if body is None else "POST"
        self._handler = handler
        self._answers = answers
        self._body = body
        hints = get_type_hints(handler, include_extras=True)
        signature = inspect.signature(handler).parameters
        self._takes_request = "request" in signature
        fields = [
            (name, hints[name])
            if parameter.default is parameter.empty
            else (name, hints[name], _fresh(parameter.default))
            for name, parameter in signature.items()
            if name != "request"
        ]
        of_path = [field for field in fields if f"{{{field[0]}}}" in path]
        of_query = [field for field in fields if field not in of_path]
        self._path = msgspec.defstruct("PathParameters", of_path)
        self._query = msgspec.defstruct("QueryParameters", of_query, rename=RENAMED)
        self._lists = {RENAMED.get(name, name) for name, kind, *_ in of_query if _is_list(kind)}

    def posts(self) -> "Operation":
        """Return this operation as a POST without a body."""
        self.method = "POST"
        return self

    def route(self) -> Route:
        """Return the route; a HEAD of an endless stream would never end, so there is none."""
        route = Route(self.path, self._endpoint, methods=[self.method])
        route.methods = {self.method}
        return route

    async def _endpoint(self, request: Request) -> Response:
        given = request.query_params
        query = {
            name: given.getlist(name) if name in self._lists else given[name] for name in given
        }
        values = _read(self._path, request.path_params) | _read(self._query, query)
        if self._takes_request:
            values["request"] = request
        return await self._handler(**values)

    def document(self) -> dict[str, Any]:
        """Return the operation in the form of an OpenAPI document."""
        name = self._handler.__name__.lstrip("_")
        root = f"{self.path}root" if self.path.endswith("/") else self.path
        refused = {JSON: Content(JSON, Problem).schema()}
        answered = {each.media: each.schema() for each in self._answers}
        whole: dict[str, Any] = {
            "summary": name.replace("_", " ").title(),
            "description": inspect.getdoc(self._handler),
            "operationId": re.sub(r"\W+", "_", f"{name}{root}").strip("_"),
        }
        parameters = [*_parameters("path", self._path), *_parameters("query", self._query)]
        if parameters:
            whole["parameters"] = parameters
        if self._body is not None:
            content = {JSON: Content(JSON, self._body).schema()}
            whole["requestBody"] = {"required": True, "content": content}
        whole["responses"] = {"200": {"description": "The answer.", "content": answered}} | {
            str(status): {"description": text, "content": refused}
            for status, text in _REFUSALS.items()
        }
        return {self.method.lower(): whole}

    def types(self) -> list[Any]:
        """Return the types of bodies and answers."""
        answers = [each.type for each in self._answers if each.media == JSON]
        return [*answers, *([] if self._body is None else [self._body])]


def document(operations: Sequence[Operation], **info: str) -> dict[str, Any]:
    """Return the OpenAPI document of all operations; ``info`` are title, version and text."""
    kinds = [kind for each in operations for kind in each.types()]
    return {
        "openapi": "3.1.0",
        "info": info,
        "paths": {each.path: each.document() for each in operations},
        "components": {
            "schemas": _components([*kinds, Problem])[1],
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "soulsai_session"},
            },
        },
        "security": [{}, {"token": []}, {"session": []}],
    }


def _read(kind: type[Struct], given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = msgspec.convert(dict(given), kind, strict=False)
    except (msgspec.MsgspecError, ValueError) as error:
        text, _, place = str(error).partition(" - at `$.")
        name = place.strip("`").partition("[")[0]
        raise BadRequest(f"{name}: {text}" if name else text) from None
    return {field: getattr(found, field) for field in found.__struct_fields__}


def _parameters(place: str, kind: type[Struct]) -> list[dict[str, Any]]:
    ((_,), schemas) = _components([kind])
    whole = schemas[kind.__name__]
    required = whole.get("required", ())
    return [
        {
            "name": name,
            "in": place,
            "required": name in required,
            **({"description": schema["description"]} if "description" in schema else {}),
            "schema": {key: value for key, value in schema.items() if key != "description"},
        }
        for name, schema in whole["properties"].items()
    ]


def _is_list(kind: Any) -> bool:
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return get_origin(kind) is list


def _fresh(default: Any) -> Any:
    """Return a default that no two requests share."""
    if isinstance(default, list):
        return msgspec.field(default_factory=lambda: list(default))
    return default


def _components(types: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
    return msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
