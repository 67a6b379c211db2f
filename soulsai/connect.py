"""Connections of the commands to the server that settings, an invite or a local run name."""

import importlib.util
import logging
import os
import sys
from contextlib import AbstractContextManager, closing
from getpass import getpass
from pathlib import Path

import msgspec

from soulsai.config.cache_folder import cache_folder
from soulsai.config.schema import Config, RedisSettings
from soulsai.errors import ConfigError, NoRun, SoulsAIError
from soulsai.process import unique_name
from soulsai.types import Spec
from soulsai.wire.invite import PREFIX, Invite, from_line
from soulsai.wire.protocols import ClientWire, OperatorWire, TelemetryWire, TrainingWire
from soulsai.wire.secrets import PASSWORD_FILE, Server, server_for

INVITE = "SOULSAI_INVITE"  # variable that holds an invite
INVITE_FILE = "SOULSAI_INVITE_FILE"  # variable that names the file of one
_LONGEST = 20_000  # letters of a file that may be an invite
SERVER_EXTRA = ("torch", "onnx", "onnxscript", "matplotlib")


class Refused(SoulsAIError):
    """The training node refused a command."""


class Missing(SoulsAIError):
    """A package that this command needs is not installed."""


def need_server_extra() -> None:
    """Raise ``Missing`` if the nodes cannot run here: the system, or a package that they need."""
    if sys.platform == "win32":
        raise Missing("a server and its nodes run on Linux and macOS; on Windows, run them in WSL2")
    need(*SERVER_EXTRA, extra="server")


def need(*modules: str, extra: str) -> None:
    """Raise ``Missing`` if modules are not installed that come with an extra of this package."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise Missing(f'{", ".join(missing)}: not installed; pip install "soulsai[{extra}]"')


def begin_log() -> None:
    """Send the log to stderr, one line per change of state."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname).1s %(name)s: %(message)s",
    )


def with_name(config: Config) -> Config:
    """Return the settings of a client with its name, or with a new unique one."""
    name = config.client.name or unique_name()
    return msgspec.structs.replace(config, client=msgspec.structs.replace(config.client, name=name))


def spool_folder(config: Config) -> Path | None:
    """Return the folder of the spool; ``None`` for a client without a lasting name."""
    if not config.client.name or not config.client.spool_mb:
        return None
    if config.client.spool:
        return Path(config.client.spool)
    return cache_folder() / "spool"


def read_spec(file: Path) -> Spec:
    """Return the description that ``soulsai check-env --save`` has written."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Spec)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"environment.spec_file: {file}: {error}") from error


def training(config: Config) -> AbstractContextManager[TrainingWire]:
    """Connect the training node."""
    from soulsai.wire.redis.roles import connect_training
    from soulsai.wire.signing import signer_in

    server = server_for("training_node", _named(config))
    signer = signer_in(Path(config.redis.secrets))
    return closing(connect_training(server, config.run.name, signer=signer))


def telemetry(config: Config) -> AbstractContextManager[TelemetryWire]:
    """Connect the telemetry node."""
    from soulsai.wire.redis.roles import connect_telemetry

    return closing(connect_telemetry(server_for("telemetry_node", _named(config)), config.run.name))


def client(
    config: Config, secret_file: Path | None, invited: Invite | None = None
) -> AbstractContextManager[ClientWire]:
    """Connect a client.

    Args:
        config: All settings, with the client's name.
        secret_file: The file of the server's password; ``None``: the usual place.
        invited: The client's invite, if it has one.
    """
    from soulsai.wire.redis.roles import connect_client
    from soulsai.wire.shared_weights import SharedWeights

    server = client_server(config, secret_file, invited)
    limit = int(1e6 * config.client.shared_weights_mb)
    shared = SharedWeights(cache_folder() / "weights", limit) if limit else None
    return closing(connect_client(server, config.run.name, config.client.name, shared))


def client_server(config: Config, secret_file: Path | None, invited: Invite | None) -> Server:
    """Return the server with the client's credentials: its invite, or the shared secret.

    Args:
        config: All settings.
        secret_file: The file of the server's password; ``None``: the usual place.
        invited: The client's invite, if it has one.
    """
    if invited is not None:
        return invited.server(config.redis)
    environ = dict(os.environ)
    if secret_file is not None:
        environ[PASSWORD_FILE] = str(secret_file)
    return server_for("client", _named(config, ", or give your invite: --invite FILE"), environ)


def operator(config: Config) -> AbstractContextManager[OperatorWire]:
    """Connect an operator; without a URL, to the newest run on this machine."""
    from soulsai.wire.redis.roles import connect_operator

    return closing(connect_operator(server_for("operator", find_server(config)), config.run.name))


def find_server(config: Config) -> RedisSettings:
    """Return the named server, or else that of the newest run, or of the secrets, here."""
    from soulsai import runs

    redis = config.redis
    if not redis.url and (private := runs.running(Path(config.run.saves))) is not None:
        redis = msgspec.structs.replace(redis, url=private.url, secrets=private.secrets)
    redis = with_own_server(msgspec.structs.replace(config, redis=redis)).redis
    if not redis.url:
        raise NoRun(
            f"no run is going on in {config.run.saves}; one that starts is found after some "
            "seconds, and one on another machine by --redis URL"
        )
    return redis


def with_own_server(config: Config) -> Config:
    """Return settings with the address of the server in ``redis.secrets``, if they name none."""
    from soulsai.wire.redis import server_settings

    redis = config.redis
    file = Path(redis.secrets) / server_settings.FILE
    if redis.url or not file.is_file():
        return config
    redis = msgspec.structs.replace(redis, url=server_settings.local_url(file))
    return msgspec.structs.replace(config, redis=redis)


def invitation(named: str) -> Invite | None:
    """Return the invite of a client, from a file, typed in, or from a variable, if there is one."""
    if named == "-":
        hidden = sys.stdin.isatty()
        return from_line(getpass("Invite: ") if hidden else sys.stdin.read(), "the invite typed in")
    if named.startswith(PREFIX):
        sys.stderr.write(
            "soulsai: other users of this machine can read the invite in the list of processes; "
            "give it as a file, or as - to type it in\n"
        )
        return from_line(named, "--invite")
    if file := named or os.environ.get(INVITE_FILE, ""):
        return from_line(_read(Path(file)), file)
    line = os.environ.get(INVITE, "")
    return from_line(line, f"the variable {INVITE}") if line else None


def invited(config: Config, invite: Invite | None) -> Config:
    """Return the settings with those of an invite; an address in the settings has precedence."""
    if invite is None:
        return config
    redis = msgspec.structs.replace(config.redis, url=config.redis.url or invite.url)
    run = msgspec.structs.replace(config.run, name=invite.run)
    client = msgspec.structs.replace(config.client, name=invite.client)
    return msgspec.structs.replace(config, redis=redis, run=run, client=client)


def no_run(config: Config) -> SoulsAIError:
    """Return the error for a name under which no training node is alive."""
    return NoRun(f"no training node is alive under the name {config.run.name!r} (run.name)")


def _read(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as opened:
            return opened.read(_LONGEST)
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no such file, which should hold the invite") from None
    except (OSError, ValueError) as error:  # a zero byte in the name, or a file that is no text
        raise ConfigError(f"{file}: cannot be read as an invite ({type(error).__name__})") from None


def _named(config: Config, other_way: str = "") -> RedisSettings:
    if not config.redis.url:
        way = f"name it with --redis redis://host:6379{other_way}"
        raise ConfigError(f"redis.url: no server; {way}")
    return config.redis
