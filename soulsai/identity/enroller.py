"""Letting clients in from the page of a telemetry node, where admin.secret is beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from soulsai import connect
from soulsai.config.schema import Config
from soulsai.errors import SoulsAIError
from soulsai.identity import users
from soulsai.identity.users import Enrolment
from soulsai.wire.invite import to_line
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.secrets import server_for

ADMIN = "admin.secret"
Result = TypeVar("Result")


class PageEnroller:
    """Enrolls and revokes over a connection of its own, which ends with each request."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def can_enroll(self) -> bool:
        """Return whether an invite can name the address of the server."""
        try:
            users.invite(connect.find_server(self._config), self._config.run.name, "client", "")
        except SoulsAIError:  # a server for this machine only
            return False
        return True

    def enroll(self, client: str) -> str:
        """Return the invite of a new client."""
        place, run = connect.find_server(self._config), self._config.run.name
        users.invite(place, run, client, "")  # fails before anything is changed
        password = self._with(lambda enrolment: enrolment.enroll(client))
        return to_line(users.invite(place, run, client, password))

    def revoke(self, client: str) -> str:
        """Shut a client out at once, and delete the entries that it has sent."""

        def act(enrolment: Enrolment) -> None:
            enrolment.revoke(client)
            enrolment.delete_stream(self._config.run.name, client)

        self._with(act)
        return f"{client} is shut out"

    def _with(self, act: Callable[[Enrolment], Result]) -> Result:
        place = connect.find_server(self._config)
        link = RedisConnection(server_for("admin", place), "admin")
        try:
            enrolment = Enrolment(link, Path(place.secrets))
            done = act(enrolment)
            enrolment.keep()
            return done
        finally:
            link.close()


def enroller(config: Config) -> PageEnroller | None:
    """Return the page's enroller if this node has admin.secret."""
    return PageEnroller(config) if (Path(config.redis.secrets) / ADMIN).is_file() else None
