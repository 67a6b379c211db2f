"""Access control of the page: tokens, sessions, origins, and bounds on requests.

Without a token, only this machine can reach the page, and every user of it has all rights. With
one, a request needs it as a bearer token, or a session that was opened with it.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from soulsai.config.schema import WebSettings, is_loopback
from soulsai.errors import ConfigError
from soulsai.web.schemas import Problem
from soulsai.wire.secrets import read_secret

COOKIE = "soulsai_session"
SESSION_SECONDS = 30 * 24 * 3600
SHORTEST_TOKEN = 16
LARGEST_BODY = 64 * 1024
BODY_SECONDS = 10.0  # from the first look at a body to its end
MARK = "x-soulsai"  # a header that pages of other sites cannot send
PUBLIC = ("/api/v1/session", "/api/v1/login", "/api/v1/logout", "/healthz")
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}

Role = Literal["operator", "viewer", ""]
Credential = Literal["token", "session", ""]


class HttpRefusal(Struct, frozen=True):
    """The status and the reason of a refused request."""

    status: int
    detail: str


class PageAccess:
    """Check tokens and sessions; a session outlives the process, but not its token."""

    def __init__(
        self,
        tokens: Mapping[Role, str],
        bind: str = "127.0.0.1",
        hosts: tuple[str, ...] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        if not tokens and not is_loopback(bind):
            raise ConfigError(
                f"web.bind: {bind!r} can be reached from elsewhere; "
                "name the file of a token as web.operator_token"
            )
        self._tokens = dict(tokens)
        self._bind = bind
        self._hosts = {host.lower() for host in hosts}
        self._now = now

    @property
    def token_needed(self) -> bool:
        """Whether requests need a token or a session."""
        return bool(self._tokens)

    def role_of(self, token: str) -> Role:
        """Return the role of a token, or empty if it is wrong."""
        found: Role = ""
        for role, known in self._tokens.items():
            if hmac.compare_digest(token.encode(), known.encode()):
                found = role
        return found

    def session(self, role: Role) -> str:
        """Return the cookie value of a new session."""
        end = int(self._now()) + SESSION_SECONDS
        text = f"{role}.{end}.{secrets.token_hex(8)}"
        return f"{text}.{self._sign(role, text)}"

    def identify(self, headers: Headers) -> tuple[Role, Credential]:
        """Return the role of a request, and the credential that proves it."""
        if not self._tokens:
            return "operator", ""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.role_of(token.strip()), "token"
        return self._in_session(cookies(headers).get(COOKIE, "")), "session"

    def refusal(
        self, method: str, path: str, headers: Headers, role: Role, credential: Credential
    ) -> HttpRefusal | None:
        """Return the refusal of a request, or ``None`` if it is allowed.

        Args:
            method: The HTTP method.
            path: The path of the URL.
            headers: The request's headers.
            role: The role of the request.
            credential: The proof of the role. Browsers of other sites cannot send a token, so
                only requests with a valid token need no check of their origin.
        """
        bearer = bool(role) and credential == "token"
        host = headers.get("host", "")
        if not bearer and not self._own_host(host):
            return HttpRefusal(403, f"the name {host[:100]!r} is not in web.hosts")
        if method not in ("GET", "HEAD", "OPTIONS") and not bearer:
            if not _same_origin(headers, host):
                return HttpRefusal(403, "this request comes from another site")
            if not path.startswith("/grafana") and MARK not in headers:
                return HttpRefusal(403, f"the header {MARK} is missing")
        if path in PUBLIC or not path.startswith(("/api/", "/grafana", "/metrics")):
            return None
        if not role:
            return HttpRefusal(401, "a token is needed")
        if path == "/api/v1/commands" and method == "POST" and role != "operator":
            return HttpRefusal(403, "a viewer cannot control; ask with an operator's token")
        return None

    def _own_host(self, host: str) -> bool:
        """Return whether a host name is ours; other names may be DNS rebinding."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._hosts or name == "localhost" or name == self._bind:
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not is_loopback(self._bind)

    def _in_session(self, cookie: str) -> Role:
        text, _, signature = cookie.rpartition(".")
        word, _, rest = text.partition(".")
        end = rest.partition(".")[0]
        for role in self._tokens:
            if role == word and hmac.compare_digest(
                signature.encode(), self._sign(role, text).encode()
            ):
                return role if end.isdecimal() and int(end) > self._now() else ""
        return ""

    def _sign(self, role: Role, text: str) -> str:
        key = f"soulsai session {self._tokens[role]}".encode()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def access(web: WebSettings) -> PageAccess:
    """Return the access control of the settings; raise ``ConfigError`` if they are unsafe."""
    tokens: dict[Role, str] = {}
    named: tuple[tuple[Role, str], ...] = (
        ("operator", web.operator_token),
        ("viewer", web.viewer_token),
    )
    for role, file in named:
        if not file:
            continue
        tokens[role] = read_secret(Path(file))
        if len(tokens[role]) < SHORTEST_TOKEN or not tokens[role].isascii():
            raise ConfigError(
                f"web.{role}_token: {file}: a token has at least {SHORTEST_TOKEN} ASCII characters"
            )
    if "viewer" in tokens and "operator" not in tokens:
        raise ConfigError("web.viewer_token: there is no web.operator_token beside it")
    if len(set(tokens.values())) < len(tokens):
        raise ConfigError("web.viewer_token: is the same as web.operator_token")
    return PageAccess(tokens, web.bind, web.hosts)


class SecurityMiddleware:
    """Refuse requests, bound their bodies, and add security headers to every answer."""

    def __init__(self, app: ASGIApp, access: PageAccess) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        role, credential = self._access.identify(headers)
        guarded = _with_headers(send, scope["path"])
        refusal = _too_large(headers) or self._access.refusal(
            scope["method"], scope["path"], headers, role, credential
        )
        if refusal:
            body = msgspec.json.encode(Problem(refusal.detail))
            extra = {"www-authenticate": "Bearer"} if refusal.status == 401 else None
            response = Response(body, refusal.status, extra, "application/json")
            await response(scope, receive, guarded)
            return
        scope.setdefault("state", {})["role"] = role
        await self._app(scope, _bounded(receive), guarded)


def cookies(headers: Headers) -> dict[str, str]:
    """Return the cookies of a request."""
    pairs = (pair.partition("=") for pair in headers.get("cookie", "").split(";"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _same_origin(headers: Headers, host: str) -> bool:
    """Return whether a request comes from our own page, or from no page at all."""
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin", "")  # Grafana's proxy empties it
    try:
        return not origin or urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _too_large(headers: Headers) -> HttpRefusal | None:
    length = headers.get("content-length", "0")
    if length.isdecimal() and len(length) < 20 and int(length) <= LARGEST_BODY:
        return None
    return HttpRefusal(413, f"a body has at most {LARGEST_BODY} bytes")


def _bounded(receive: Receive) -> Receive:
    """Bound the size of a body, and the time of its arrival."""
    taken, complete = 0, False
    end: float | None = None  # of the time for the body, by the loop's clock

    async def bounded() -> Message:
        nonlocal taken, complete, end
        now = asyncio.get_running_loop().time()
        end = now + BODY_SECONDS if end is None else end
        try:
            message = await asyncio.wait_for(receive(), None if complete else max(0.0, end - now))
        except TimeoutError:
            raise HTTPException(408, "the body is not complete") from None
        complete = not message.get("more_body", False)
        taken += len(message.get("body", b""))
        if taken > LARGEST_BODY:
            raise HTTPException(413, f"a body has at most {LARGEST_BODY} bytes")
        return message

    return bounded


def _with_headers(send: Send, path: str) -> Callable[[Message], Awaitable[None]]:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            private = path.startswith(("/api/", "/grafana", "/metrics", "/healthz"))
            headers.setdefault("cache-control", "no-store" if private else "no-cache")
        await send(message)

    return guarded
