"""Commands, by their arguments and variables."""

from click.testing import CliRunner

from soulsai.cli.app import app
from soulsai.errors import ConfigError


def test_a_training_node_refuses_to_be_one_of_several_processes() -> None:
    outcome = CliRunner().invoke(app, ["training-node"], env={"TORCHELASTIC_RUN_ID": "1"})
    assert isinstance(outcome.exception, ConfigError)
    assert "without torchrun" in str(outcome.exception)
