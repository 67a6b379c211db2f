"""What cannot work is refused at the start, before any client."""

import msgspec
import pytest

from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.algorithms.ppo.settings import PPOSettings
from soulsai.algorithms.sac.settings import SACSettings
from soulsai.config.schema import AlgorithmSettings, Config
from soulsai.errors import ConfigError
from soulsai.training_node import start
from soulsai.types import ActionSpec, Head, Leaf, Program, Spec

SCREEN = Leaf((240, 320, 3), "|u1")
DISCRETE = ActionSpec("discrete", (), (6,))
BOX = ActionSpec("box", (2,), (), (-1.0,) * 2, (1.0,) * 2)


def config(name, **settings) -> Config:
    kinds = {"dqn": DQNSettings, "ppo": PPOSettings, "sac": SACSettings}
    small = {} if name == "ppo" else {"capacity": 500}
    section = {name: kinds[name](**small, **settings)}
    return msgspec.structs.replace(Config(algorithm=AlgorithmSettings(name)), **section)


def test_a_weight_that_cannot_be_sent_is_a_mistake_of_the_settings():
    spec = Spec({"obs": Leaf((4,), "<f4")}, DISCRETE)
    settings = config("dqn", hidden=(4200, 4200))
    algorithm = start.build_algorithm(settings, spec, seed=0)
    with pytest.raises(ConfigError, match=r"linear\.1\.weight.* 67 MiB.* narrower layers") as told:
        start.export(settings, algorithm.policy, spec)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "action", "settings"),
    [
        ("dqn", DISCRETE, {}),
        ("dqn", DISCRETE, {"hidden": (512,), "vision": "nature"}),
        ("dqn", DISCRETE, {"vision": "impala"}),
        ("ppo", DISCRETE, {}),
        ("sac", BOX, {}),
    ],
)
def test_a_policy_of_a_whole_screen_weighs_little(name, action, settings):
    spec = Spec({"screen": SCREEN}, action)
    algorithm = start.build_algorithm(config(name, **settings), spec, seed=0)
    sizes = [weight.nbytes for weight in algorithm.policy.twin().state_dict().values()]
    assert sum(sizes) <= 8 * 2**20


@pytest.mark.parametrize("kind", ["gaussian", "scaled_gaussian"])
def test_a_resumed_run_keeps_the_units_of_its_actions(kind):
    algorithm = start.build_algorithm(config("ppo"), Spec({"obs": Leaf((4,), "<f4")}, BOX), seed=0)
    kept = Program(b"", "", ("obs",), ("mean", "log_std"), Head(kind), {})
    start.keep_units(kept, algorithm)
    assert algorithm.policy.head == Head(kind, eval_fraction=0.02)
