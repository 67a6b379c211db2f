"""How a command reaches the server: by its settings, or that of the run on this machine."""

import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from soulsai.config import Config, Redis
from soulsai.errors import ConfigError, NoRun, SoulsAIError
from soulsai.process import unique_name
from soulsai.types import Spec
from soulsai.wire import ClientWire, OperatorWire, TelemetryWire, TrainingWire

SERVER_EXTRA = ("torch", "onnx", "onnxscript", "matplotlib")


class Refused(SoulsAIError):
    """The training node answered a command with no."""


class Missing(SoulsAIError):
    """Something that this command needs is not installed."""


def need_server_extra() -> None:
    """Raise ``Missing`` unless all is installed that a node needs; imports none of it."""
    missing = [name for name in SERVER_EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise Missing(f'{", ".join(missing)}: not installed; pip install "soulsai[server]"')


def begin_log() -> None:
    """Send the log to stderr, one line per change of state."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname).1s %(name)s: %(message)s",
    )


def with_name(config: Config) -> Config:
    """Return the settings of a client that has a name: its own, or one that nobody else has."""
    name = config.client.name or unique_name()
    return msgspec.structs.replace(config, client=msgspec.structs.replace(config.client, name=name))


def read_spec(file: Path) -> Spec:
    """Return what ``soulsai check-env --save`` has written."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Spec)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"environment.spec_file: {file}: {error}") from error


@contextmanager
def training(config: Config) -> Iterator[TrainingWire]:
    """Give the training node its wire."""
    from soulsai.wire.redis import connect_training
    from soulsai.wire.secrets import server_for

    wire = connect_training(server_for("training_node", _named(config)), config.run.name)
    try:
        yield wire
    finally:
        wire.close()


@contextmanager
def telemetry(config: Config) -> Iterator[TelemetryWire]:
    """Give the telemetry node its wire."""
    from soulsai.wire.redis import connect_telemetry
    from soulsai.wire.secrets import server_for

    wire = connect_telemetry(server_for("telemetry_node", _named(config)), config.run.name)
    try:
        yield wire
    finally:
        wire.close()


@contextmanager
def client(config: Config, secret_file: Path | None) -> Iterator[ClientWire]:
    """Give a client, whose name is in its settings, its wire."""
    from soulsai.wire.redis import connect_client
    from soulsai.wire.secrets import PASSWORD_FILE, server_for

    environ = dict(os.environ)
    if secret_file is not None:
        environ[PASSWORD_FILE] = str(secret_file)
    server = server_for("client", _named(config), environ)
    wire = connect_client(server, config.run.name, config.client.name)
    try:
        yield wire
    finally:
        wire.close()


@contextmanager
def operator(config: Config) -> Iterator[OperatorWire]:
    """Give an operator his wire: without a URL, to the newest run on this machine."""
    from soulsai import runs
    from soulsai.wire.redis import connect_operator
    from soulsai.wire.secrets import server_for

    redis = config.redis
    if not redis.url:
        private = runs.running(Path(config.run.saves))
        if private is None:
            raise NoRun(f"no run is going on in {config.run.saves}, and there is no --redis URL")
        redis = msgspec.structs.replace(redis, url=private.url, secrets=private.secrets)
    wire = connect_operator(server_for("operator", redis), config.run.name)
    try:
        yield wire
    finally:
        wire.close()


def nobody(config: Config) -> SoulsAIError:
    """Return the error that nobody learns under the run's name."""
    return NoRun(f"no training node is alive under the name {config.run.name!r} (run.name)")


def _named(config: Config) -> Redis:
    if not config.redis.url:
        raise ConfigError("redis.url: no server; name it with --redis redis://host:6379")
    return config.redis
