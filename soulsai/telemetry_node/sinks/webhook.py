"""Post news of a run to a webhook of Slack, Discord, Mattermost or a similar chat."""

import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from soulsai.errors import ConfigError
from soulsai.wire.secrets import read_secret

PATIENCE = 5.0  # seconds for one post
BEST_REST = 600.0  # seconds between two posts of a best model: early in a run, each is one
MOST = 100  # posts that wait
KINDS = ("best", "node", "phase", "notice", "stopped", "regression", "evaluator")
LONGEST = 1500  # letters

_log = logging.getLogger(__name__)
Post = Callable[[urllib.request.Request, float], None]


class News(Struct, frozen=True):
    """One event of a run."""

    run: str
    kind: str
    text: str
    time: float  # Unix seconds


class Webhook:
    """Post news as JSON; chats show the keys ``text`` and ``content``."""

    def __init__(
        self, url: str, clock: Callable[[], float] = time.monotonic, post: Post | None = None
    ) -> None:
        self._url = url
        self._clock = clock
        self._post = post or _post
        self._best_due = -float("inf")

    def write(self, item: News) -> None:
        """Post an event if its kind is one of ``KINDS``."""
        if item.kind not in KINDS:
            return
        if item.kind == "best" and self._clock() < self._best_due:
            return
        line = f"{item.run}: {item.text}"[:LONGEST]
        about = {"run": item.run, "kind": item.kind, "time": item.time}
        body = msgspec.json.encode(about | {"text": line, "content": line})
        headers = {"Content-Type": "application/json", "User-Agent": "soulsai"}
        request = urllib.request.Request(self._url, body, headers, method="POST")  # noqa: S310
        self._post(request, PATIENCE)
        if item.kind == "best":
            self._best_due = self._clock() + BEST_REST

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def abort(self) -> None:
        """Do nothing: a post ends by itself."""


def address(file: str) -> str:
    """Return the URL in a file; raise ``ConfigError`` if it holds none."""
    url = read_secret(Path(file))
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ConfigError(f"telemetry.webhook: {file}: holds no address; write https://...")
    return url


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuse redirects, so that posts go to the named address only."""

    def redirect_request(self, *_: object) -> None:
        """Refuse the redirect."""
        return


def _post(request: urllib.request.Request, patience: float) -> None:
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=patience) as answer:
            answer.read(1000)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 429 or error.code >= 500:
            raise OSError(f"answered {error.code}") from None
        # Other refusals are permanent, so a retry is useless.
        _log.warning("webhook refused code=%d", error.code)
