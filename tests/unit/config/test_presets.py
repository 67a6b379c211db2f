"""The presets in ``examples/presets`` load, and what they ask for can be built."""

from pathlib import Path

import msgspec
import pytest

from soulsai.config import Config, load
from soulsai.training_node.start import build_algorithm
from soulsai.types import ActionSpec, Leaf, Spec

PRESETS = Path(__file__).parents[3] / "examples" / "presets"
FOUR = ActionSpec("discrete", (), (4,))
SPECS = {
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
    assert algorithm.policy.warmup == said.learning_starts
