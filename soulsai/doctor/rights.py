"""Whether a password opens what its role needs, and nothing more; nothing is changed by asking."""

from collections.abc import Iterator

from soulsai.doctor.findings import CheckResult, failure, ok, warning
from soulsai.errors import AccessDenied, WireError
from soulsai.wire.names import Keys, Role
from soulsai.wire.redis.connection import RedisCommand, RedisConnection

Question = RedisCommand


def password(role: str, link: RedisConnection) -> CheckResult:
    """Examine whether we get in."""
    try:
        link.execute("PING")
    except AccessDenied as error:
        return failure(f"{role}", str(error), _password_mend(role, str(error)))
    except WireError as error:
        return failure(f"{role}", str(error), "see what the server's log says")
    return ok(f"{role}", "the password is right")


def rights(role: Role, link: RedisConnection, run: str, client: str = "") -> Iterator[CheckResult]:
    """Examine what a role may do: all that it needs, and not what only the server's owner may."""
    check = f"{role} rights"
    try:
        denied = [
            shown(question) for question in needed(role, run, client) if not may(link, question)
        ]
    except WireError as error:
        yield failure(check, str(error), "see what the server's log says")
        return
    if denied:
        yield failure(
            check,
            f"may not {', '.join(denied)}",
            "on the server: `soulsai secrets init`, give it the new users.acl and restart it"
            + (f"; or a new invite: `soulsai enroll {client} --renew`" if client else ""),
        )
    elif role != "admin" and may(link, ("ACL", "WHOAMI")):
        yield warning(
            check,
            "whoever has this password may do anything on the server",
            "the server asks for one password only; give it users: `soulsai secrets init`",
        )
    else:
        yield ok(check, "all that it needs, and no more")


def needed(role: Role, run: str, client: str = "") -> list[Question]:
    """Return questions that a role must be allowed to ask; none of them changes anything."""
    keys = Keys(run)
    never = ("NOMKSTREAM", "0-0", "d", "")  # an id that no stream takes
    questions: dict[Role, list[Question]] = {
        "client": [
            ("GETRANGE", keys.spec, 0, 0),
            ("GETRANGE", keys.program, 0, 0),
            ("GETRANGE", keys.manifest, 0, 0),
            ("GETRANGE", keys.model, 0, 0),
            ("GETRANGE", keys.control, 0, 0),
            ("XADD", keys.experience(client or "doctor"), *never),
        ],
        "training_node": [
            ("GET", keys.generation),
            ("SCAN", 0, "COUNT", 1),
            ("XADD", keys.episodes, *never),
            ("PERSIST", f"{keys.prefix}doctor"),
            ("UNLINK", f"{keys.prefix}doctor"),
        ],
        "telemetry_node": [
            ("GET", keys.status),
            ("XREAD", "COUNT", 1, "STREAMS", keys.episodes, "$"),
            ("XADD", keys.commands("telemetry"), *never),
        ],
        "operator": [
            ("GET", keys.spec),
            ("GET", keys.status),
            ("XADD", keys.commands("operator"), *never),
        ],
        "metrics": [("INFO", "memory"), ("SLOWLOG", "LEN"), ("LATENCY", "LATEST")],
        "admin": [("ACL", "USERS"), ("CLIENT", "LIST")],
    }
    return questions[role]


def may(link: RedisConnection, question: Question) -> bool:
    """Whether the server allows a command, however it answers it."""
    (reply,) = link.execute_all([question])
    return not isinstance(reply, AccessDenied)


def shown(question: Question) -> str:
    """Return a command as a person would name it."""
    return " ".join(str(word) for word in question[:2])


def _password_mend(role: str, said: str) -> str:
    if "NOAUTH" in said:
        return "put redis.secret into the folder of secrets (--secrets), or use an invite"
    if role == "client":
        return "compare redis.secret with the server's; an invite may be revoked: ask for a new one"
    return (
        f"{role}.secret must be that of the server's users.acl; `soulsai secrets init` makes both"
    )
