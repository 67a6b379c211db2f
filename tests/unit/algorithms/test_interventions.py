"""Steps that a person chose: learnt from as demonstrations, and out of the ratio of PPO."""

import msgspec
import numpy as np
import pytest
import torch

from soulsai.algorithms.demonstrations import interventions
from soulsai.algorithms.dqn.learner import DQN
from soulsai.algorithms.ppo.rollouts import lay_out
from soulsai.algorithms.settings import DemonstrationSettings
from tests.contract.algorithm_cases import CASES, Case, make, stream
from tests.unit.algorithms.learning_cases import cut, episode, settings, spec

TAKES = DemonstrationSettings(interventions=True)


def marked(fragment, chosen):
    marks = np.zeros(len(fragment), bool)
    marks[list(chosen)] = True
    return msgspec.structs.replace(fragment, intervened=marks)


def test_marked_steps_are_copied_with_their_whole_look_ahead():
    learner = DQN(settings(n_step=3), spec(), seed=0, steps=0, realtime=False)
    learner.prepare_demonstrations(TAKES)
    whole = marked(episode(20), [3, 4, 9])
    parts = [
        msgspec.structs.replace(
            part, intervened=whole.intervened[part.start : part.start + len(part)]
        )
        for part in cut(whole, [5, 8])
    ]
    learner.experience.ingest(parts[:1])
    learner.experience.ingest(parts[1:])
    shown = learner.experience.demonstrations.replay.ring.rows(np.arange(3))
    assert len(learner.experience.demonstrations) == 3
    assert shown["obs.obs"][:3, 0].tolist() == [3, 4, 9]
    alone = DQN(settings(n_step=3), spec(), seed=0, steps=0, realtime=False)
    alone.experience.ingest([whole])
    ring = alone.experience.replay.ring.rows(np.array([3, 4, 9]))
    for name in ("ret", "discount", "action", "next_obs.obs"):
        np.testing.assert_array_equal(shown[name], ring[name], name)
    assert len(learner.experience.replay) == 20, "they are experience, too"


def test_marks_that_wait_for_their_look_ahead_survive_a_checkpoint():
    one, other = (DQN(settings(n_step=3), spec(), seed=0, steps=0, realtime=False) for _ in "ab")
    whole = marked(episode(20), [4])
    first, second = (
        msgspec.structs.replace(p, intervened=whole.intervened[p.start : p.start + len(p)])
        for p in cut(whole, [5])
    )
    for learner in (one, other):
        learner.prepare_demonstrations(TAKES)
    one.experience.ingest([first])
    assert len(one.experience.demonstrations) == 0
    other.experience.returns.load_state_dict(one.experience.returns.state_dict())
    other.experience.ingest([second])
    assert other.experience.demonstrations.replay.ring.columns["obs.obs"][0, 0] == 4


def test_few_interventions_are_not_half_of_a_batch():
    learner = DQN(settings(), spec(), seed=0, steps=0, realtime=False)
    learner.prepare_demonstrations(TAKES)
    learner.experience.ingest([marked(episode(40), [1, 2])])
    assert learner.experience.shown == 2
    assert len(learner.experience.sample().ids) == learner.config.batch_size


def test_stretches_of_steps_become_fragments():
    fragment = marked(episode(9), [0, 1, 5, 8])
    parts = interventions(fragment)
    assert [(part.start, len(part), part.terminated) for part in parts] == [
        (0, 2, False),
        (5, 1, False),
        (8, 1, True),
    ]
    np.testing.assert_array_equal(parts[1].obs["obs"], fragment.obs["obs"][5:7])
    assert interventions(episode(9)) == []


def taking(name: str) -> Case:
    case = CASES[name]
    return case._replace(config=msgspec.structs.replace(case.config, demonstrations=TAKES))


@pytest.mark.parametrize("name", ["ppo", "ppo, recurrent", "ppo, box"])
def test_ppo_s_gradient_does_not_see_a_person_s_action(name):
    """Another action of the person changes no gradient of the ratio, but the cloning learns it."""
    weights = []
    for action in (0, 1):
        quiet = msgspec.structs.replace(TAKES, clone_weight=0.0)
        case = taking(name)
        config = msgspec.structs.replace(case.config, demonstrations=quiet)
        algorithm = make(case._replace(config=config), 1)
        groups = []
        for group in stream(case, 240):
            changed = []
            for fragment in group:
                marks = np.arange(len(fragment)) % 4 == 0
                done = fragment.action.copy()
                done[marks] = action
                changed.append(msgspec.structs.replace(fragment, action=done, intervened=marks))
            groups.append(changed)
        metrics = list(algorithm.learn(iter(groups)))
        assert metrics[-1]["intervened"] > 0
        assert len(algorithm.parts["demonstrations"]) > 0
        weights.append(algorithm.weights.clone())
    assert torch.equal(*weights)


def test_rows_are_marked():
    rollout = lay_out([marked(CASES_FRAGMENT, [1])])
    assert rollout.intervened.tolist() == [False, True, False, False]


CASES_FRAGMENT = msgspec.structs.replace(episode(3), extras={"logp": np.zeros(3, "<f4")})


@pytest.mark.parametrize("name", ["dqn", "sac", "ppo", "ppo, choices and numbers, recurrent"])
def test_a_run_with_interventions_resumes_bit_for_bit(name):
    case = taking(name)
    rng = np.random.default_rng(0)
    groups = [
        [msgspec.structs.replace(f, intervened=rng.random(len(f)) < 0.2) for f in group]
        for group in stream(case, 480)
    ]
    straight, first, second = make(case, 1), make(case, 1), make(case, 2)
    list(straight.learn(iter(groups)))
    list(first.learn(iter(groups[:90])))
    for part, state in ((n, p.state_dict()) for n, p in first.parts.items()):
        second.parts[part].load_state_dict(state)
    list(second.learn(iter(groups[90:])))
    one, other = straight.policy.state_dict(), second.policy.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert len(straight.parts["demonstrations"]) == len(second.parts["demonstrations"]) > 0
