"""The presets in ``examples/presets`` load, and what they ask for can be built."""

from pathlib import Path

import msgspec
import pytest

from soulsai.client.creation import extra_of
from soulsai.config import Config, load
from soulsai.training_node.start import build_algorithm
from soulsai.types import ActionSpec, Leaf, Spec

PRESETS = Path(__file__).parents[3] / "examples" / "presets"
FOUR = ActionSpec("discrete", (), (4,))
BOX = ActionSpec("box", (3,), (), (-1.0,) * 3, (1.0,) * 3)
SPECS = {
    "atari_pong": Spec({"obs": Leaf((4, 84, 84), "|u1")}, ActionSpec("discrete", (), (6,))),
    "minigrid_doorkey": Spec({"obs": Leaf((147,), "<f4")}, ActionSpec("discrete", (), (7,))),
    "mujoco_hopper": Spec({"obs": Leaf((11,), "<f8")}, BOX),
    "pendulum": Spec({"obs": Leaf((3,), "<f4")}, ActionSpec("box", (1,), (), (-2.0,), (2.0,))),
    "btr": Spec({"obs": Leaf((4, 84, 84), "|u1")}, FOUR),
    "droq": Spec({"obs": Leaf((3,), "<f4")}, ActionSpec("box", (1,), (), (-2.0,), (2.0,))),
    "minatar_breakout": Spec({"obs": Leaf((10, 10, 4), "|b1")}, FOUR),
}


def test_every_preset_is_tried():
    assert {path.stem for path in PRESETS.glob("*.yaml")} == set(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_a_preset_can_be_built(name):
    settings = load(PRESETS / f"{name}.yaml", {}, ["dqn.capacity=256", "sac.capacity=256"])
    assert settings != Config()
    algorithm = build_algorithm(settings, SPECS[name], seed=0)
    said = msgspec.structs.asdict(settings)[settings.algorithm.name]
    assert algorithm.policy.warmup == getattr(said, "learning_starts", 0)


@pytest.mark.parametrize("name", ["atari_pong", "minigrid_doorkey", "mujoco_hopper"])
def test_a_preset_names_the_extra_that_brings_its_environment(name):
    extra = extra_of(load(PRESETS / f"{name}.yaml", {}, []).environment.id)
    first, *_ = (PRESETS / f"{name}.yaml").read_text().partition("environment:")
    assert f"pip install 'soulsai[{extra}]'" in first
