"""The command ``soulsai``: its commands in the order of their use."""

from collections.abc import Sequence
from pathlib import Path

import click
from click.exceptions import Exit

from soulsai import __version__, connect
from soulsai.cli import (
    bridge,
    compare,
    datasets,
    evaluate,
    identity,
    nodes,
    operator_commands,
    report,
    status,
    train,
)
from soulsai.cli.options import (
    config_argument,
    env_option,
    insecure_option,
    invite_option,
    json_option,
    load_settings,
    redis_option,
    secret_file_option,
    secrets_option,
    set_option,
)
from soulsai.config.yaml_file import defaults_yaml, dump


class _CommandGroup(click.Group):
    """Lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self.commands)


@click.command("config")
@config_argument
@click.option("--defaults", is_flag=True, help="Ignore all settings.")
@set_option
def show_config(config: Path | None, defaults: bool, sets: Sequence[str]) -> None:
    """Print the settings that result from all layers."""
    click.echo(defaults_yaml() if defaults else dump(load_settings(config, {}, sets)), nl=False)


@click.command()
@config_argument
@redis_option
@secrets_option
@secret_file_option
@invite_option
@insecure_option
@env_option
@click.option("--server/--client", default=None, help="Which end this is, if it is unclear.")
@set_option
@json_option
def doctor(
    config: Path | None,
    redis: str,
    secrets: str,
    secret_file: Path | None,
    invite: str,
    insecure: bool,
    env: str,
    server: bool | None,
    sets: Sequence[str],
    as_json: bool,
) -> None:
    """Find faults between here and the server, with remedies."""
    named = {
        "redis.url": redis,
        "redis.secrets": secrets,
        "redis.insecure": "true" if insecure else "",
    }
    invited = connect.invitation(invite)
    settings = connect.invited(load_settings(config, named, sets), invited)
    from soulsai.doctor.command import run

    raise Exit(
        run(settings, invited, env=env, secret_file=secret_file, as_server=server, as_json=as_json)
    )


@click.group(name="soulsai", cls=_CommandGroup)
@click.version_option(__version__, message="soulsai %(version)s")
def app() -> None:
    """Train one agent from many slow, remote, fragile environments."""


for _command in (
    train.train,
    train.serve,
    status.status,
    operator_commands.stop,
    evaluate.evaluate,
    status.list_runs,
    compare.compare,
    report.report,
    evaluate.check_env,
    datasets.record,
    datasets.export,
    datasets.import_data,
    show_config,
    nodes.client,
    bridge.bridge,
    doctor,
    nodes.training_node,
    nodes.telemetry_node,
    nodes.evaluator,
    operator_commands.quicksave,
    operator_commands.purge,
    operator_commands.pardon,
    identity.secrets_group,
    identity.enroll,
    identity.revoke,
    identity.clients,
    nodes.ray_clients,
):
    app.add_command(_command)
