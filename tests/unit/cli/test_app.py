"""Commands, by their arguments and variables."""

from click.testing import CliRunner

from soulsai.cli.app import app
from soulsai.errors import ConfigError


def test_a_training_node_refuses_to_be_one_of_several_processes() -> None:
    outcome = CliRunner().invoke(app, ["training-node"], env={"TORCHELASTIC_RUN_ID": "1"})
    assert isinstance(outcome.exception, ConfigError)
    assert "without torchrun" in str(outcome.exception)


def test_no_command_is_described_by_a_line_that_is_cut() -> None:
    shown = CliRunner().invoke(app, ["--help"], terminal_width=80).output.splitlines()
    listed = shown[shown.index("Commands:") + 1 :]
    assert len(listed) == len(app.commands)
    assert [line for line in listed if line.endswith("...")] == []
