"""The command ``soulsai``: its commands in the order of their use."""

from typing import Annotated

import typer

from soulsai import __version__, connect
from soulsai.cli import compare, evaluate, identity, nodes, operator_commands, status, train
from soulsai.cli.options import (
    Environment,
    Insecure,
    InviteFile,
    Json,
    SecretFile,
    Secrets,
    Sets,
    Settings,
    Url,
    load_settings,
)
from soulsai.config.yaml_file import defaults_yaml, dump

app = typer.Typer(
    name="soulsai",
    help="Train one agent from many slow, remote, fragile environments.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def show_config(
    config: Settings = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="Ignore all settings.")] = False,
    sets: Sets = None,
) -> None:
    """Print the settings that result from all layers."""
    typer.echo(defaults_yaml() if defaults else dump(load_settings(config, {}, sets)), nl=False)


def doctor(
    config: Settings = None,
    redis: Url = "",
    secrets: Secrets = "",
    secret_file: SecretFile = None,
    invite: InviteFile = "",
    insecure: Insecure = False,
    env: Environment = "",
    server: Annotated[
        bool | None, typer.Option("--server/--client", help="Which end this is, if it is unclear.")
    ] = None,
    sets: Sets = None,
    as_json: Json = False,
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

    raise typer.Exit(
        run(settings, invited, env=env, secret_file=secret_file, as_server=server, as_json=as_json)
    )


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"soulsai {__version__}")
        raise typer.Exit


@app.callback()
def soulsai(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train one agent from many slow, remote, fragile environments."""
    del version


app.command()(train.train)
app.command()(train.serve)
app.command()(status.status)
app.command("stop")(operator_commands.stop)
app.command()(evaluate.evaluate)
app.command("runs")(status.list_runs)
app.command("compare")(compare.compare)
app.command()(evaluate.check_env)
app.command("config")(show_config)
app.command()(nodes.client)
app.command()(doctor)
app.command()(nodes.training_node)
app.command()(nodes.telemetry_node)
app.command()(operator_commands.quicksave)
app.command()(operator_commands.purge)
app.command()(operator_commands.pardon)
app.add_typer(identity.app, name="secrets")
app.command()(identity.enroll)
app.command()(identity.revoke)
app.command()(identity.clients)
app.command()(nodes.ray_clients)
