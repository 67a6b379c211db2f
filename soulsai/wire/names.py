"""Keys and channels on the server and the rights to them: one list for code and ACL."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from soulsai.errors import ConfigError

Role = Literal["client", "training_node", "telemetry_node", "operator", "metrics", "admin"]
Version = tuple[int, int]  # of Redis; Valkey names the Redis version it is compatible with
CommandingRole = Literal["operator", "telemetry"]

ROLES: tuple[Role, ...] = get_args(Role)
COMMANDING_ROLES: tuple[CommandingRole, ...] = get_args(CommandingRole)

OLDEST_SERVER: Version = (7, 0)  # the first with separate rights to read and to write
CLIENT_USER = "c-"  # prefix of the users of enrolled clients
EVERY_RUN = "*"

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_RUNS = re.compile(r"[a-z0-9*][a-z0-9*_-]{0,63}")

# Windows opens a device instead of a file with one of these names.
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(10))]
)


def is_name(text: str) -> bool:
    """Return whether a text may name a run, a client or a reply, and so become part of a key."""
    return _NAME.fullmatch(text) is not None and text not in _DEVICES


def checked(setting: str, name: str) -> str:
    """Return ``name``; raise ``ConfigError``, which names the setting, if it is not valid."""
    if not is_name(name):
        raise ConfigError(
            f"{setting}: {name!r} is not a name; use 1 to 64 of a-z, 0-9, _ and -, "
            "beginning with a letter or digit"
        )
    return name


@dataclass(frozen=True)
class Keys:
    """The keys and channels of one run; their common hash tag places them in one cluster slot."""

    run: str

    def __post_init__(self) -> None:
        checked("run.name", self.run)

    @property
    def prefix(self) -> str:
        """The common beginning of all keys."""
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
        """String: the number of training nodes that have opened the run."""
        return f"{self.prefix}generation"

    @property
    def model(self) -> str:
        """String: the ``Pointer`` to the newest weights; also the channel that announces it."""
        return f"{self.prefix}model"

    def piece(self, generation: int, version: int, number: int) -> str:
        """Return the key of one piece of one version's weights (string).

        Args:
            generation: Generation of the training node.
            version: Version of the weights.
            number: Number of the piece, from 0.
        """
        return f"{self.prefix}model:{generation}-{version}:{number}"

    def delta_piece(self, generation: int, version: int, number: int) -> str:
        """Return the key of one piece of the delta of one version's weights (string).

        Args:
            generation: Generation of the training node.
            version: Version of the weights.
            number: Number of the piece, from 0.
        """
        return f"{self.prefix}model:{generation}-{version}:d{number}"

    @property
    def control(self) -> str:
        """String: the last ``Control``; also the channel of all controls."""
        return f"{self.prefix}control"

    def notice(self, client: str) -> str:
        """Return the key of the training node's notice for one client (string)."""
        return f"{self.prefix}notice:{client}"

    def received(self, client: str) -> str:
        """Return the key of the ``Position`` up to which a client's entries were read (string)."""
        return f"{self.prefix}received:{client}"

    @property
    def event(self) -> str:
        """Channel: ``Event``."""
        return f"{self.prefix}event"

    def experience(self, client: str) -> str:
        """Return the key of one client's messages (stream)."""
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


_RUN = "soulsai:{@}:"  # @ stands for the pattern of the run
_LINK = "+ping +client|setname +time"
_NODE_LINK = f"{_LINK} +client|no-evict"  # clients that hoard replies must not displace nodes
_WORDS = re.compile(r"\([^)]*\)|\S+")

# Tests compare this list with the commands that the implementation uses.
_RIGHTS: dict[Role, str] = {
    "training_node": (
        f"{_NODE_LINK} ~{_RUN}* &{_RUN}* +get +set +unlink +incr +expire +persist +scan "
        "+client|list +client|kill +xadd +xread +xtrim +rpush +publish"
    ),
    "telemetry_node": (
        f"{_NODE_LINK} &{_RUN}event +subscribe +publish "
        f"(%R~{_RUN}spec %R~{_RUN}status +get) "
        f"(%R~{_RUN}episodes +xread) "
        f"(%W~{_RUN}cmd:telemetry +xadd) "
        f"(~{_RUN}reply:telemetry:* +blpop)"
    ),
    "operator": (
        f"{_NODE_LINK} "
        f"(%R~{_RUN}spec %R~{_RUN}status +get) "
        f"(%W~{_RUN}cmd:operator +xadd) "
        f"(%W~{_RUN}exp:* +unlink) "
        f"(~{_RUN}reply:operator:* +blpop)"
    ),
    "client": (
        f"{_LINK} &{_RUN}model &{_RUN}control +subscribe "
        f"(%R~{_RUN}spec %R~{_RUN}program %R~{_RUN}manifest %R~{_RUN}model* %R~{_RUN}control "
        f"%R~{_RUN}notice:{{client}} %R~{_RUN}received:{{client}} +getrange) "
        f"(%W~{_RUN}exp:{{client}} +xadd)"
    ),
    # For monitoring the server; it sees no key. Never CONFIG: it prints passwords.
    "metrics": f"{_NODE_LINK} +info +client|list +slowlog|get +slowlog|len +latency|latest",
    # For enrolling and revoking. It can create users with any rights.
    "admin": (
        f"{_NODE_LINK} +info +client|list +acl|setuser +acl|deluser +acl|users +acl|getuser "
        f"+acl|save +scan (%W~{_RUN}exp:* %W~{_RUN}notice:* %W~{_RUN}received:* +unlink)"
    ),
}


def parse_version(text: str) -> Version:
    """Return the version at the beginning of a text like ``7.0.15``, or 0.0 without one."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def user_name(role: Role, client: str = "") -> str:
    """Return the user name of a role, or of one enrolled client."""
    return f"{CLIENT_USER}{checked('client', client)}" if client else role


def user_rules(
    role: Role,
    password: str,
    client: str = "",
    version: Version = OLDEST_SERVER,
    runs: str = EVERY_RUN,
) -> list[str]:
    """Return the rights of a user as the words of ``ACL SETUSER``, with the password's digest only.

    Args:
        role: Role of the user.
        password: Password, which only its digest leaves.
        client: Name of an enrolled client, which may write no other stream. Empty for the user
            that all holders of the common secret share.
        version: Version of the server.
        runs: Name of the run, or a pattern with ``*``.

    Raises:
        ConfigError: The server is too old, or the pattern is not valid.
    """
    if version < OLDEST_SERVER:
        raise ConfigError(
            f"a server of version {version[0]}.{version[1]} cannot tell rights to read from rights "
            "to write; use Redis or Valkey 7.0 or later"
        )
    if not _RUNS.fullmatch(runs):
        raise ConfigError(f"--runs: {runs!r} is not the name of a run, nor a pattern like lander-*")
    rights = _RIGHTS[role].replace("{client}", client or "*").replace("@", runs)
    # redis-py and others send their name with this command, which is unknown before 7.2.
    introduced = ["+client|setinfo"] if version >= (7, 2) else []
    sha256 = hashlib.sha256(password.encode()).hexdigest()
    return [
        *("on", f"#{sha256}", "resetchannels", "resetkeys", "-@all"),
        *introduced,
        *_WORDS.findall(rights),
    ]


def user_line(
    role: Role,
    password: str,
    client: str = "",
    version: Version = OLDEST_SERVER,
    runs: str = EVERY_RUN,
) -> str:
    """Return the line of one user in an ACL file.

    Args:
        role: Role of the user.
        password: Password of the user.
        client: Name of an enrolled client, or empty.
        version: Version of the server.
        runs: Name of the run, or a pattern with ``*``.
    """
    rules = user_rules(role, password, client, version, runs)
    return f"user {user_name(role, client)} {' '.join(rules)}"


def acl(passwords: Mapping[Role, str], version: Version = OLDEST_SERVER) -> str:
    """Return the ACL file of a server of that version, with users for the given roles only."""
    users = [user_line(role, passwords[role], version=version) for role in passwords]
    return "\n".join(["user default off", *users]) + "\n"
