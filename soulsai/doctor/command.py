"""The command ``soulsai doctor``, for a client and for a server."""

import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from soulsai import connect, runs
from soulsai.config.schema import Config
from soulsai.connect import SERVER_EXTRA
from soulsai.doctor import checks
from soulsai.doctor.texts import CheckResult, finding
from soulsai.errors import NoRun, SoulsAIError
from soulsai.wire.invite import Invite
from soulsai.wire.names import Role, checked
from soulsai.wire.secrets import Server, file_of, server_for

CLIENT_PACKAGES = ("numpy", "msgspec", "redis", "gymnasium", "onnxruntime", "lz4")
NODES: tuple[Role, ...] = ("training_node", "telemetry_node", "operator", "metrics", "admin")


def run(
    config: Config,
    invited: Invite | None,
    *,
    env: str = "",
    secret_file: Path | None = None,
    as_server: bool | None = None,
    as_json: bool = False,
) -> int:
    """Run all checks, print each finding at once, and return the exit code.

    Args:
        config: All settings.
        invited: The client's invite, if any.
        env: The environment of ``--env``, or empty.
        secret_file: The file of the client's password, if any.
        as_server: Whether this is the server; ``None`` decides by the secrets, and by a run here.
        as_json: Whether to print one line of JSON.
    """
    beside = file_of(Path(config.redis.secrets), "training_node").is_file()
    trains = not config.redis.url and runs.running(Path(config.run.saves)) is not None
    server = as_server if as_server is not None else invited is None and (beside or trains)
    if server:
        found = _server_findings(config)
    else:
        found = _client_findings(connect.with_name(config), invited, env, secret_file)
    findings: list[CheckResult] = []
    for one in found:
        findings.append(one)
        if not as_json:
            click.echo(one.line())
    failed = [one.check for one in findings if one.state == "failure"]
    if as_json:
        answer = {"side": "server" if server else "client", "failed": failed, "findings": findings}
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    return 1 if failed else 0


def _client_findings(
    config: Config, invited: Invite | None, env: str, secret_file: Path | None
) -> Iterator[CheckResult]:
    from soulsai.wire.redis.connection import RedisConnection

    yield checks.software(CLIENT_PACKAGES, "")
    yield checks.disk(Path(tempfile.gettempdir()), "temporary files")
    if env:
        yield from checks.game(env)
    try:
        checked("client.name", config.client.name)
        server = connect.client_server(config, secret_file, invited)
    except SoulsAIError as error:
        yield finding("settings.client", error=error)
        return
    reached = _reached(server)
    yield from reached
    if _failed(reached):
        return
    link = RedisConnection(server, "doctor")
    try:
        entered = checks.password("client", link)
        yield entered
        if entered.state == "failure":
            return
        yield from checks.rights("client", link, config.run.name, config.client.name)
        yield checks.clock_skew(link)
        yield checks.speed(link)
    finally:
        link.close()
    with connect.client(config, secret_file, invited) as wire:
        yield from checks.run(config, wire, env, pinned=bool(server.public_key))


def _server_findings(config: Config) -> Iterator[CheckResult]:
    from soulsai.client.probe import probe

    yield checks.software((*SERVER_EXTRA, "onnxruntime"), "server")
    yield checks.disk(Path(config.run.saves), "runs")
    try:
        redis = connect.find_server(config)
        private = not config.redis.url and redis.url.startswith("unix:")  # that of a run of `train`
        config = msgspec.structs.replace(config, redis=redis)
    except NoRun as error:
        yield finding("settings.server", error=error)
        return
    yield from checks.secrets(Path(redis.secrets))
    if not private:
        yield checks.signing(Path(redis.secrets))
    reached = _reached(server_for("training_node", redis))
    yield from reached
    if not _failed(reached):
        for role in NODES:
            if role == "training_node" or file_of(Path(redis.secrets), role).is_file():
                for one in _role_findings(config, role):
                    if not (private and one.check == "durability"):  # it ends with its run
                        yield one
        state = _status_finding(config)
        yield state
        private = private or state.state == "ok"
    if private:
        return  # the run plays its environment already
    try:
        spec = connect.read_spec(Path(file)) if (file := config.environment.spec_file) else None
        spec = spec or probe(config.environment, config.client)
    except SoulsAIError as error:
        yield finding("environment.spec", error=error)
    else:
        count = len(spec.obs)
        leaves = f"{count} observation {'leaf' if count == 1 else 'leaves'}"
        yield finding("environment.server", id=config.environment.id, leaves=leaves)


def _role_findings(config: Config, role: Role) -> Iterator[CheckResult]:
    from soulsai.wire.redis.connection import RedisConnection

    link = RedisConnection(server_for(role, config.redis), "doctor")
    try:
        entered = checks.password(role, link)
        yield entered
        if entered.state == "failure":
            return
        yield from checks.rights(role, link, config.run.name)
        if role == "metrics":
            yield from checks.server_settings(link)
        if role == "training_node":
            yield checks.clock_skew(link)
            yield checks.speed(link)
            yield checks.foreign(link)
    finally:
        link.close()


def _status_finding(config: Config) -> CheckResult:
    try:
        with connect.operator(config) as wire:
            status = wire.status()
    except SoulsAIError as error:
        return finding("run.unreachable", error=error)
    if status is None:
        return finding("run.away", name=repr(config.run.name))
    clients = sum(client.state != "lost" for client in status.clients)
    return finding(
        "run.alive",
        run=status.run,
        phase=status.phase,
        environment=status.environment,
        clients=f"{clients} client{'' if clients == 1 else 's'}",
    )


def _reached(server: Server) -> list[CheckResult]:
    found = [*checks.address(server)]
    if not _failed(found):
        found += checks.certificate(server, datetime.now(UTC))
    return found


def _failed(findings: list[CheckResult]) -> bool:
    return any(one.state == "failure" for one in findings)
