"""All keys and channels on the server, and the rights to them: one list for code and ACL."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from soulsai.errors import ConfigError

Role = Literal["client", "training_node", "telemetry_node", "operator", "metrics", "admin"]
Version = tuple[int, int]  # of a Redis, or of the Redis whose commands a Valkey knows
CommandingRole = Literal["operator", "telemetry"]

ROLES: tuple[Role, ...] = get_args(Role)
COMMANDING_ROLES: tuple[CommandingRole, ...] = get_args(CommandingRole)

OLDEST_SERVER: Version = (7, 0)  # before it, rights could not tell reading from writing
CLIENT_USER = "c-"  # what the users of enrolled clients begin with

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

# What Windows takes for a device, wherever a file would have that name.
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(10))]
)


def is_name(text: str) -> bool:
    """Whether a text may name a run, a client or a reply, and so become part of a key."""
    return _NAME.fullmatch(text) is not None and text not in _DEVICES


def checked(what: str, name: str) -> str:
    """Return ``name``; raise ``ConfigError`` if it may not be part of a key."""
    if not is_name(name):
        raise ConfigError(
            f"{what}: {name!r} is not a name; use 1 to 64 of a-z, 0-9, _ and -, "
            "beginning with a letter or digit"
        )
    return name


@dataclass(frozen=True)
class Keys:
    """The keys and channels of one run; all carry its hash tag, so that one slot holds them."""

    run: str

    def __post_init__(self) -> None:
        checked("run.name", self.run)

    @property
    def prefix(self) -> str:
        """What all of them begin with."""
        return f"soulsai:{{{self.run}}}:"

    @property
    def spec(self) -> str:
        """String: the ``RunSpec``."""
        return f"{self.prefix}spec"

    @property
    def program(self) -> str:
        """String: the ``Program``."""
        return f"{self.prefix}program"

    @property
    def manifest(self) -> str:
        """String: the ``Manifest`` of spec and program, signed by the training node."""
        return f"{self.prefix}manifest"

    @property
    def generation(self) -> str:
        """String: how many training nodes have opened the run."""
        return f"{self.prefix}generation"

    @property
    def model(self) -> str:
        """String: the ``Pointer`` to the newest weights; also the channel that hints at it."""
        return f"{self.prefix}model"

    def piece(self, generation: int, version: int, number: int) -> str:
        """Return the key of one piece of one version's weights (string)."""
        return f"{self.prefix}model:{generation}-{version}:{number}"

    @property
    def control(self) -> str:
        """String: the last ``Control``; also the channel that says it when it is said."""
        return f"{self.prefix}control"

    def notice(self, client: str) -> str:
        """Return the key of the training node's notice for one client (string)."""
        return f"{self.prefix}notice:{client}"

    @property
    def event(self) -> str:
        """Channel: ``Event``."""
        return f"{self.prefix}event"

    def experience(self, client: str) -> str:
        """Return the key of what one client says (stream)."""
        return f"{self.prefix}exp:{client}"

    @property
    def episodes(self) -> str:
        """Stream: stamped ``Episode`` of all clients."""
        return f"{self.prefix}episodes"

    def commands(self, who: CommandingRole) -> str:
        """Return the key of one role's commands (stream)."""
        return f"{self.prefix}cmd:{who}"

    def reply(self, who: CommandingRole, id: str) -> str:
        """Return the key of the answer to one command (list)."""
        return f"{self.prefix}reply:{who}:{id}"

    @property
    def status(self) -> str:
        """String: the ``Status``; it expires."""
        return f"{self.prefix}status"


_ANY = "soulsai:{*}:"
_LINK = "+ping +client|setname +time"
_WORDS = re.compile(r"\([^)]*\)|\S+")

# Every right is one that the implementation uses; tests hold the two together.
_RIGHTS: dict[Role, str] = {
    "training_node": (
        f"{_LINK} ~{_ANY}* &{_ANY}* +get +set +unlink +incr +expire +persist +scan "
        "+xadd +xread +xtrim +rpush +publish"
    ),
    "telemetry_node": (
        f"{_LINK} &{_ANY}event +subscribe +publish "
        f"(%R~{_ANY}spec %R~{_ANY}status +get) "
        f"(%R~{_ANY}episodes +xread) "
        f"(%W~{_ANY}cmd:telemetry +xadd) "
        f"(~{_ANY}reply:telemetry:* +blpop)"
    ),
    "operator": (
        f"{_LINK} "
        f"(%R~{_ANY}spec %R~{_ANY}status +get) "
        f"(%W~{_ANY}cmd:operator +xadd) "
        f"(%W~{_ANY}exp:* +unlink) "
        f"(~{_ANY}reply:operator:* +blpop)"
    ),
    "client": (
        f"{_LINK} &{_ANY}model &{_ANY}control +subscribe "
        f"(%R~{_ANY}spec %R~{_ANY}program %R~{_ANY}manifest %R~{_ANY}model* %R~{_ANY}control "
        f"%R~{_ANY}notice:{{client}} +getrange) "
        f"(%W~{_ANY}exp:{{client}} +xadd)"
    ),
    # Whoever watches the server itself; it sees no key. Never CONFIG: it prints passwords.
    "metrics": f"{_LINK} +info +client|list +slowlog|get +slowlog|len +latency|latest",
    # Enrolls and revokes clients, whose streams it deletes. It can make users with any rights,
    # so it is as good as the server itself.
    "admin": (
        f"{_LINK} +info +client|list +acl|setuser +acl|deluser +acl|users +acl|getuser +acl|save "
        f"(%W~{_ANY}exp:* +unlink)"
    ),
}


def parse_version(text: str) -> Version:
    """Return the version that a text like ``7.0.15`` begins with, 0.0 if it does not."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def user_name(role: Role, client: str = "") -> str:
    """Return the server's user of a role, or of one enrolled client."""
    return f"{CLIENT_USER}{checked('client', client)}" if client else role


def user_rules(
    role: Role, password: str, client: str = "", version: Version = OLDEST_SERVER
) -> list[str]:
    """Return what a user may do, as the words of ``ACL SETUSER``, with the password's digest only.

    A client that is named may use no stream but its own, as user ``c-<name>``; without a name it
    is the user ``client`` that all share who know the run's common secret.
    """
    if version < OLDEST_SERVER:
        raise ConfigError(
            f"a server of version {version[0]}.{version[1]} cannot tell rights to read from rights "
            "to write; use Redis or Valkey 7.0 or later"
        )
    rights = _RIGHTS[role].replace("{client}", client or "*")
    # Other libraries introduce themselves; a server before 7.2 would not start with that word.
    introduced = ["+client|setinfo"] if version >= (7, 2) else []
    sha256 = hashlib.sha256(password.encode()).hexdigest()
    return [
        *("on", f"#{sha256}", "resetchannels", "resetkeys", "-@all"),
        *introduced,
        *_WORDS.findall(rights),
    ]


def user_line(role: Role, password: str, client: str = "", version: Version = OLDEST_SERVER) -> str:
    """Return the line of one user in an ACL file."""
    rules = user_rules(role, password, client, version)
    return f"user {user_name(role, client)} {' '.join(rules)}"


def acl(passwords: Mapping[Role, str], version: Version = OLDEST_SERVER) -> str:
    """Return the ACL file of a server of that version: the roles given, and nobody else."""
    users = [user_line(role, passwords[role], version=version) for role in passwords]
    return "\n".join(["user default off", *users]) + "\n"
