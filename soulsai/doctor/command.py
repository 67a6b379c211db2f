"""The command ``soulsai doctor``, on both ends."""

import sys
import tempfile
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import typer

from soulsai import connect
from soulsai.config.schema import Config, RedisSettings
from soulsai.connect import SERVER_EXTRA
from soulsai.doctor import machine, road
from soulsai.doctor.findings import CheckResult, failure, line, ok, warning
from soulsai.errors import NoRun, SoulsAIError
from soulsai.wire.invite import Invite
from soulsai.wire.names import checked
from soulsai.wire.secrets import Server, file_of, server_for

CLIENT_PACKAGES = ("numpy", "msgspec", "redis", "gymnasium", "onnxruntime", "lz4")


def run(
    config: Config,
    invited: Invite | None,
    *,
    env: str = "",
    secret_file: Path | None = None,
    as_server: bool | None = None,
    as_json: bool = False,
) -> int:
    """Examine, say each finding as it is found, and return the exit code."""
    beside = file_of(Path(config.redis.secrets), "training_node").is_file()
    server = as_server if as_server is not None else invited is None and beside
    if server:
        found = on_server(config)
    else:
        found = on_client(connect.with_name(config), invited, env, secret_file)
    findings: list[CheckResult] = []
    for finding in found:
        findings.append(finding)
        if not as_json:
            typer.echo(line(finding))
    failed = [finding.check for finding in findings if finding.state == "failure"]
    if as_json:
        answer = {"side": "server" if server else "client", "failed": failed, "findings": findings}
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    return 1 if failed else 0


def on_client(
    config: Config, invited: Invite | None, env: str, secret_file: Path | None
) -> Iterator[CheckResult]:
    """Examine all that a client needs."""
    from soulsai.doctor import rights, run
    from soulsai.wire.redis.connection import RedisConnection

    yield machine.software(CLIENT_PACKAGES, "")
    yield machine.disk(Path(tempfile.gettempdir()), "temporary files")
    try:
        checked("client.name", config.client.name)
        server = connect.client_server(config, secret_file, invited)
    except SoulsAIError as error:
        yield failure("settings", str(error), "see `soulsai client --help`")
        return
    unreachable = yield from _road(server)
    if unreachable:
        return
    link = RedisConnection(server, "doctor")
    try:
        entered = rights.password("client", link)
        yield entered
        if entered.state == "failure":
            return
        name = config.client.name
        yield from rights.rights("client", link, config.run.name, name)
        yield road.clock_skew(link)
        yield road.speed(link)
    finally:
        link.close()
    with connect.client(config, secret_file, invited) as wire:
        yield from run.examine(config, wire, env, pinned=bool(server.public_key))


def on_server(config: Config) -> Iterator[CheckResult]:
    """Examine all that the nodes need."""
    from soulsai.client.environment import probe
    from soulsai.doctor import server

    yield machine.software((*SERVER_EXTRA, "onnxruntime"), "server")
    yield machine.disk(Path(config.run.saves), "runs")
    try:
        redis = connect.place(config)
        config = msgspec.structs.replace(config, redis=redis)
    except NoRun as error:
        yield failure("settings", str(error), "name the server: --redis redis://localhost:6379")
        return
    yield from machine.secrets(Path(redis.secrets))
    yield _signing(redis)
    unreachable = yield from _road(server_for("training_node", redis))
    if not unreachable:
        yield from server.roles(config)
        yield from _with_link(config)
    try:
        spec = connect.read_spec(Path(file)) if (file := config.environment.spec_file) else None
        spec = spec or probe(config.environment)
    except SoulsAIError as error:
        mend = "name environment.spec_file, made by `soulsai check-env ID --save` where it runs"
        yield failure("environment", str(error), mend)
    else:
        yield ok(
            "environment", f"{config.environment.id}: {len(spec.obs)} leaves can be learnt from"
        )


def _with_link(config: Config) -> Iterator[CheckResult]:
    from soulsai.wire.redis.connection import RedisConnection

    link = RedisConnection(server_for("training_node", config.redis), "doctor")
    try:
        yield road.clock_skew(link)
        yield road.speed(link)
    finally:
        link.close()
    try:
        with connect.operator(config) as wire:
            status = wire.status()
    except SoulsAIError as error:
        yield failure("run", str(error), "see the findings above")
        return
    if status is None:
        mend = "start `soulsai training-node`, if you want one to learn"
        yield warning("run", f"no training node is alive under {config.run.name!r}", mend)
    else:
        clients = sum(client.state != "lost" for client in status.clients)
        yield ok("run", f"{status.run}: {status.phase}, {clients} clients")


def _road(server: Server) -> Generator[CheckResult, None, bool]:
    """Examine the way to a server; the generator's value is whether it leads nowhere."""
    found = [*road.address(server)]
    if not any(finding.state == "failure" for finding in found):
        found += road.certificate(server, datetime.now(UTC))
    yield from found
    return any(finding.state == "failure" for finding in found)


def _signing(redis: RedisSettings) -> CheckResult:
    from soulsai.wire.signing import signer_in

    try:
        signer = signer_in(Path(redis.secrets))
    except SoulsAIError as error:
        return failure("signature", str(error), "restore the key, or remove it and invite anew")
    if signer is None:
        mend = "`soulsai secrets init`, then give clients new invites"
        return warning("signature", "what the training node publishes is not signed", mend)
    return ok("signature", f"the training node signs; its key is {signer.public}")
