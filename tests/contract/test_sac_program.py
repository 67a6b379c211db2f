"""The actor as a client gets it: a program that says what the network says, for any batch."""

from soulsai.algorithms.sac.learner import SAC
from soulsai.algorithms.sac.settings import SACSettings
from soulsai.training_node import onnx_export
from soulsai.types import ActionSpec, Leaf, Spec


def test_the_actor_is_exported_whole():
    action = ActionSpec("box", (2,), low=(-1.0, -1.0), high=(1.0, 1.0))
    spec = Spec({"see": Leaf((8, 8, 3), "|u1"), "feel": Leaf((4,), "<f4")}, action)
    policy = SAC(SACSettings(capacity=300), spec, seed=0, steps=0, realtime=False).policy
    program = onnx_export.program(policy, spec)
    assert program.head.kind == "squashed"
    assert set(program.weights) == set(policy.state_dict())
    onnx_export.verify(program, policy, spec)  # with another batch size, and other weights
