"""SAC against an independent sketch of its equations; pace, spaces, and what a crash may cost."""

import copy
from itertools import islice

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from soulsai.algorithms.base import Forgetful
from soulsai.algorithms.sac.learner import SAC
from soulsai.algorithms.sac.settings import SACSettings
from soulsai.replay.ring import Batch
from soulsai.training_node.saving import state_file
from soulsai.types import ActionSpec, Fragment, Leaf, Spec

BOX = ActionSpec("box", (2,), low=(-1.0, -3.0), high=(1.0, 3.0))
SPEC = Spec({"obs": Leaf((3,), "<f4")}, BOX)
SMALL = {"hidden": (16, 16), "quantiles": 5, "batch_size": 16, "capacity": 500}


def build(*, seed=0, spec=SPEC, steps=1000, realtime=False, **changes) -> SAC:
    settings = {**SMALL, "learning_starts": 32, "slack_steps": 64, **changes}
    return SAC(SACSettings(**settings), spec, seed=seed, steps=steps, realtime=realtime)


def fragments(count, *, steps=16, first=0, spec=SPEC):
    """Cuts of episodes of five fragments each; what is seen depends on what was done."""
    made = []
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        shape = (steps, *spec.action.shape)
        action = rng.uniform(-1, 1, shape).astype("<f4")
        obs = {
            n: rng.normal(2, 3, (steps + 1, *leaf.shape)).astype("<f4")
            for n, leaf in spec.obs.items()
        }
        part = number % 5
        made.append(
            Fragment(
                client="a",
                epoch=1,
                episode=number // 5,
                start=part * steps,
                clock=number * steps,
                generation=0,
                version=0,
                obs=obs,
                action=action,
                reward=-np.square(action).reshape(steps, -1).sum(1),
                terminated=part == 4 and number % 2 == 0,
                truncated=part == 4 and number % 2 == 1,
            )
        )
    return made


def fed(arrived, idle=10_000):
    """One fragment at a time, and then nothing more."""
    for fragment in arrived:
        yield [fragment]
    for _ in range(idle):
        yield []


def run(algorithm, arrived) -> list[dict[str, float]]:
    return list(algorithm.learn(fed(arrived)))


def weights(algorithm) -> dict[str, Tensor]:
    modules = ("policy", "critics", "target", "temperature")
    return {
        f"{name}.{key}": tensor.detach().clone()
        for name in modules
        for key, tensor in algorithm.parts[name].state_dict().items()
    }


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Sketch:
    """The equations of SAC and TQC in float64, by autograd, with torch's own Adam."""

    def __init__(self, algorithm: SAC) -> None:
        self.c = algorithm.config
        self.luck = torch.Generator()
        self.luck.set_state(algorithm._generator.get_state())
        self.actor = copy.deepcopy(algorithm.policy).double()
        self.critics = copy.deepcopy(algorithm.critics).double()
        self.target = copy.deepcopy(algorithm.target).double()
        self.log_alpha = algorithm.temperature.log.detach().double().requires_grad_()
        adam = {"lr": self.c.lr, "eps": self.c.adam_eps}
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), **adam)
        self.critic_adam = torch.optim.Adam(self.critics.parameters(), **adam)
        self.alpha_adam = torch.optim.Adam([self.log_alpha], **adam)

    def act(self, obs):
        mean, log_std = self.actor.parameters_of([obs])
        noise = torch.randn(mean.shape, generator=self.luck).double()
        law = torch.distributions.Normal(mean, log_std.exp())
        drawn = mean + log_std.exp() * noise
        action = torch.tanh(drawn)
        return action, (law.log_prob(drawn) - torch.log(1 - action**2)).sum(-1)

    def judge(self, critics, obs, action):
        x = torch.cat([obs, action], 1)
        return torch.stack([tower(x) for tower in critics.towers])  # [C, B, N]

    def update(self, batch, *, improve):
        rows = {name: torch.from_numpy(column).double() for name, column in batch.rows.items()}
        weight = torch.from_numpy(batch.weights).double()
        alpha = self.log_alpha.detach().exp()
        obs, next_obs = rows["obs.obs"], rows["next_obs.obs"]
        with torch.no_grad():
            action, logp = self.act(next_obs)
            pool = self.judge(self.target, next_obs, action)  # [C, B, N]
            pool = pool.transpose(0, 1).flatten(1).sort(1).values
            n, critics = self.c.quantiles, self.c.critics
            kept = pool[:, :1] if n == 1 else pool[:, : (n - self.c.drop) * critics]
            goal = self.c.reward_scale * rows["ret"][:, None]
            goal = goal + rows["discount"][:, None] * (kept - alpha * logp[:, None])
        loss = torch.zeros((), dtype=torch.float64)
        for z in self.judge(self.critics, obs, rows["action"]):
            loss = loss + (weight * self.critic_loss(z, goal)).mean() / critics
        self.step(self.critic_adam, loss)
        with torch.no_grad():
            for old, new in zip(self.target.parameters(), self.critics.parameters(), strict=True):
                old.lerp_(new, self.c.target_ema)
        if improve:
            action, logp = self.act(obs)
            z = self.judge(self.critics, obs, action)
            worth = z.min(0).values.squeeze(1) if n == 1 else z.mean((0, 2))
            self.step(self.actor_adam, (alpha * logp - worth).mean())
            wanted = self.c.entropy_per_dim * action.shape[1]
            self.step(self.alpha_adam, -(self.log_alpha * (logp.detach() + wanted)).mean())

    def critic_loss(self, z, goal):
        n = z.shape[1]
        if n == 1:
            return 0.5 * (z - goal).squeeze(1) ** 2
        level = (torch.arange(n).double() + 0.5)[None, :, None] / n
        error = goal[:, None, :] - z[:, :, None]
        huber = torch.nn.functional.huber_loss(
            z[:, :, None].expand_as(error), goal[:, None, :].expand_as(error), reduction="none"
        )
        return ((level - (error < 0).double()).abs() * huber).mean(2).sum(1)

    @staticmethod
    def step(adam, loss):
        adam.zero_grad()
        loss.backward()
        adam.step()


def drawn(count=3, size=16):
    """Batches of transitions, some of which end."""
    rng = np.random.default_rng(5)

    def column(*shape):
        return rng.normal(size=(size, *shape)).astype("<f4")

    for _ in range(count):
        rows = {"obs.obs": column(3), "next_obs.obs": column(3), "ret": 3 * column()}
        rows["action"] = np.tanh(column(2))
        rows["discount"] = np.where(rng.random(size) < 0.3, 0.0, 0.97).astype("<f4")
        yield Batch(rows, np.arange(size), rng.uniform(0.2, 1.0, size).astype("<f4"))


@pytest.mark.parametrize(
    "settings",
    [
        {"quantiles": 1, "layer_norm": False, "policy_delay": 1},
        {"quantiles": 5, "drop": 1, "critics": 3, "reward_scale": 0.5},
    ],
    ids=["plain", "truncated"],
)
def test_an_update_is_what_the_equations_say(settings):
    algorithm = build(normalize_obs=False, lr=1e-2, adam_eps=1e-2, target_ema=0.1, **settings)
    sketch = Sketch(algorithm)
    for number, batch in enumerate(drawn()):
        for _ in algorithm._updates(batch, 1):
            algorithm.experience.pace.updates += 1
        sketch.update(batch, improve=number % algorithm.config.policy_delay == 0)
    pairs = ((algorithm.policy, sketch.actor), (algorithm.critics, sketch.critics))
    for ours, theirs in (*pairs, (algorithm.target, sketch.target)):
        moved = dict(theirs.named_parameters())
        for name, tensor in ours.named_parameters():
            torch.testing.assert_close(tensor.double(), moved[name], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        algorithm.temperature.log.detach().double(), sketch.log_alpha.detach()
    )


def test_only_every_so_manieth_update_moves_the_actor():
    algorithm = build(policy_delay=3)
    learning = algorithm.learn(fed(fragments(20)))
    next(learning)
    for _ in range(3):
        before = weights(algorithm)
        for step in range(3):
            next(learning)
            after = weights(algorithm)
            moved = not torch.equal(before["policy.tower.out.bias"], after["policy.tower.out.bias"])
            warmed = not torch.equal(before["temperature.log"], after["temperature.log"])
            assert moved == warmed == (step == 2)
            assert not torch.equal(
                before["target.towers.0.out.bias"], after["target.towers.0.out.bias"]
            )
            before = after


def test_what_is_broadcast_is_the_actor_and_what_it_sees_through():
    policy = build().policy
    names = set(policy.twin().state_dict())
    assert {name.split(".")[0] for name in names} == {"tower", "observation"}
    assert policy.outputs == ("mean", "log_std")
    assert policy.extras == policy.memory == {}


def test_the_actor_keeps_its_deviations_within_bounds():
    policy = build().policy
    with torch.no_grad():
        policy.tower.out.bias.copy_(torch.tensor([0.0, 0.0, 1e6, -1e6]))
        outputs, _ = policy({"obs": torch.zeros(1, 3)}, {})
    assert outputs["log_std"].tolist() == [[2.0, -5.0]]


def test_clients_act_at_random_until_learning_starts():
    algorithm = build(learning_starts=40)
    assert algorithm.policy.exploration == {"random": 1.0}
    assert algorithm.policy.quota == 40 + 64
    learning = algorithm.learn(fed(fragments(4)))
    next(learning)
    assert algorithm.policy.exploration == {"random": 0.0}
    assert algorithm.experience.pace.steps == 48


@pytest.mark.parametrize("ratio", [0.25, 2.0])
def test_the_replay_ratio_is_held(ratio):
    algorithm = build(replay_ratio=ratio, learning_starts=64)
    updates = len(run(algorithm, fragments(6)))
    assert updates == ratio * (96 - 64)
    assert algorithm.policy.quota == 64


def test_hold_stops_clients_that_are_ahead_and_free_never_does():
    held, free = build(slack_steps=32), build(slack_steps=32, realtime=True)
    for algorithm in (held, free):
        next(algorithm.learn(iter([fragments(20)])))
    assert held.policy.quota == 0
    assert free.policy.quota is None
    assert free.experience.pace.owed == 32 - 1


def test_lockstep_repeats_itself_bit_by_bit():
    runs = []
    for _ in range(2):
        algorithm = build(pace="lockstep", dropout=0.1, prioritized=True)
        torch.manual_seed(len(runs))  # torch's own generator must not matter
        run(algorithm, fragments(8))
        runs.append(weights(algorithm))
    assert same(*runs)
    other = build(seed=1, pace="lockstep", dropout=0.1, prioritized=True)
    run(other, fragments(8))
    assert not same(runs[0], weights(other))


RESUMED = {
    "dropout": 0.1,
    "prioritized": True,
    "n_step": 3,
    "replay_ratio": 1.0,
    "slack_steps": 10**6,
    "updates_per_call": 4,
}


def halfway(algorithm, *, seen=14, updates=20):
    """Learn until the middle of an episode; return every part as a checkpoint holds it."""
    learning = algorithm.learn(fed(fragments(seen)[:-1], idle=0))
    list(learning)
    assert len(list(islice(algorithm.learn(fed(fragments(1, first=seen - 1))), updates))) == updates
    return {
        name: state_file.decode(b"".join(map(bytes, state_file.encode(part.state_dict()))))
        for name, part in algorithm.parts.items()
    }


def onwards(algorithm, *, first=14):
    run(algorithm, fragments(6, first=first))
    return weights(algorithm)


@pytest.fixture(scope="module")
def uninterrupted():
    algorithm = build(**RESUMED)
    saved = halfway(algorithm)
    return saved, onwards(algorithm)


def resumed(saved, left_out=""):
    algorithm = build(seed=9, **RESUMED)
    for name, part in algorithm.parts.items():
        if name != left_out:
            part.load_state_dict(saved[name])
    return onwards(algorithm)


def test_a_resumed_run_goes_on_bit_by_bit(uninterrupted):
    saved, wanted = uninterrupted
    assert same(resumed(saved), wanted)


@pytest.mark.parametrize("part", sorted(build().parts))
def test_no_part_can_be_left_out_of_a_checkpoint(uninterrupted, part):
    saved, wanted = uninterrupted
    assert not same(resumed(saved, left_out=part), wanted)


def test_a_gradient_that_is_not_finite_is_skipped_and_counted():
    algorithm = build()
    run(algorithm, fragments(4))
    before = weights(algorithm)
    rows = next(drawn())
    rows.rows["ret"][3] = np.inf
    for _ in algorithm._updates(rows, 1):
        pass
    assert same(before, weights(algorithm))
    assert algorithm.skips.total == 1


def test_metrics_are_numbers():
    metrics = run(build(), fragments(6))[-1]
    names = {"q_mean", "td_error", "grad_norm", "temperature", "replay_size", "skipped"}
    assert metrics.keys() == names | {"actor_loss", "entropy"}
    assert all(np.isfinite(number) for number in metrics.values())


def test_actions_of_any_shape_and_several_leaves():
    action = ActionSpec("box", (2, 2), low=(-1.0,) * 4, high=(1.0,) * 4)
    spec = Spec({"a": Leaf((3,), "<f4"), "b": Leaf((2, 2), "<f8")}, action)
    algorithm = build(spec=spec)
    assert run(algorithm, fragments(6, spec=spec))
    outputs, _ = algorithm.policy({"a": torch.zeros(5, 3), "b": torch.zeros(5, 2, 2)}, {})
    assert outputs["mean"].shape == outputs["log_std"].shape == (5, 2, 2)


def test_it_finds_the_best_action():
    best = np.array([0.4, -0.6], "<f4")
    algorithm = build(lr=1e-2, policy_delay=1, gamma=0.5, temperature=0.1, batch_size=32)
    arrived = []
    for fragment in fragments(14):
        reward = -4 * np.square(fragment.action - best).sum(1)
        arrived.append(Fragment(**{**_fields(fragment), "reward": reward, "terminated": False}))
    run(algorithm, arrived)
    outputs, _ = algorithm.policy({"obs": torch.full((1, 3), 2.0)}, {})
    assert torch.tanh(outputs["mean"])[0].tolist() == pytest.approx(best, abs=0.25)


def _fields(fragment):
    return {name: getattr(fragment, name) for name in fragment.__struct_fields__}


def test_purging_a_client_takes_its_observations_out_of_the_statistics():
    honest, mixed = build(), build()
    honest.experience.ingest(fragments(20))
    for each in fragments(20):
        obs = {name: leaf + 1e6 for name, leaf in each.obs.items()}
        absurd = msgspec.structs.replace(each, client="b", obs=obs)
        mixed.experience.ingest([each, absurd])
    buffers = [algorithm.policy.observation.state_dict() for algorithm in (honest, mixed)]
    assert not torch.allclose(buffers[0]["inv_std"], buffers[1]["inv_std"], rtol=0.5)
    for part in mixed.parts.values():
        if isinstance(part, Forgetful):
            part.forget("b")
    for name in buffers[0]:
        torch.testing.assert_close(buffers[0][name], buffers[1][name], rtol=0.1, atol=0.1)
