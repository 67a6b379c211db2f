"""Small specs, fragments and fleets, for tests of what learns on policy."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch

from soulsai import heads
from soulsai.algorithms.ppo.learner import PPO
from soulsai.algorithms.ppo.settings import PPOSettings
from soulsai.types import MASK, ActionSpec, Array, Fragment, Leaf, Spec

ACTIONS = 3
DISCRETE = ActionSpec("discrete", (), (ACTIONS,))


def spec(action: ActionSpec = DISCRETE, *, width: int = 2, masked: bool = False) -> Spec:
    mask = {MASK: Leaf((sum(action.sizes),), "|b1")} if masked else {}
    return Spec({"obs": Leaf((width,), "<f4"), **mask}, action)


def settings(**changes) -> PPOSettings:
    """A learner small enough for tests."""
    small = {"hidden": (8,), "batch_steps": 64, "minibatch": 16, "epochs": 2, "lr": 1e-2}
    return PPOSettings(**{**small, "deadline": 1e6, "eval_fraction": 0.0, **changes})


def ppo(spec: Spec, *, seed=0, steps=0, realtime=False, clock=lambda: 0.0, **changes) -> PPO:
    torch.set_num_threads(1)
    config = settings(**changes)
    return PPO(config, spec, seed=seed, steps=steps, realtime=realtime, clock=clock)


def fragment(
    steps: int,
    *,
    client="a",
    episode=0,
    start=0,
    version=1,
    generation=1,
    terminated=False,
    truncated=False,
    greedy=False,
    memory: int = 0,
    epoch: int = 1,
) -> Fragment:
    """Steps whose numbers are drawn from where they stand, so that copies are equal."""
    rng = np.random.default_rng((steps, episode, start, *client.encode()))
    return Fragment(
        client=client,
        epoch=epoch,
        episode=episode,
        start=start,
        clock=start,
        generation=generation,
        version=version,
        obs={"obs": rng.normal(size=(steps + 1, 2)).astype("<f4")},
        action=rng.integers(ACTIONS, size=steps).astype("|u1"),
        reward=rng.normal(size=steps).astype("<f4"),
        terminated=terminated,
        truncated=truncated,
        greedy=greedy,
        extras={"logp": np.full(steps, -np.log(ACTIONS), "<f4")},
        memory={name: np.zeros(memory, "<f4") for name in ("h", "c")} if memory else {},
    )


def cut(whole: Fragment, at: Sequence[int]) -> list[Fragment]:
    """Cut an episode before each of the steps ``at``."""
    edges = [0, *at, len(whole)]
    return [part(whole, a, b) for a, b in pairwise(edges)]


def part(whole: Fragment, first: int, last: int) -> Fragment:
    end = last == len(whole)
    return Fragment(
        client=whole.client,
        epoch=whole.epoch,
        episode=whole.episode,
        start=whole.start + first,
        clock=whole.clock + first,
        generation=whole.generation,
        version=whole.version,
        obs={name: rows[first : last + 1] for name, rows in whole.obs.items()},
        action=whole.action[first:last],
        reward=whole.reward[first:last],
        terminated=whole.terminated and end,
        truncated=whole.truncated and end,
        extras={name: rows[first:last] for name, rows in whole.extras.items()},
        memory=whole.memory,
    )


class Fleet:
    """Clients with one environment each, who take turns and obey the quota."""

    def __init__(self, algorithm: PPO, spec: Spec, make, *, clients=4, steps=16, seed=0) -> None:
        self.algorithm, self.spec, self.steps = algorithm, spec, steps
        self.rng = np.random.default_rng(seed)
        self.seats = [_Seat(f"c{i}", make(), spec, algorithm, i) for i in range(clients)]
        self.rewards: list[float] = []  # of finished episodes
        self.taken = 0

    def arrivals(self, most: int) -> Iterator[list[Fragment]]:
        """Play until so many env steps are taken."""
        version = 0
        while self.taken < most:
            version += 1
            iteration = self.algorithm.batches.ages.iteration
            quota, used = self.algorithm.policy.quota, 0
            while quota is None or used < quota:
                fragments = self._play(version)
                used += sum(map(len, fragments))
                yield fragments
                if self.algorithm.batches.ages.iteration != iteration:
                    break
            while self.algorithm.batches.ages.iteration == iteration:
                yield []
            self.taken += used

    def _play(self, version: int) -> list[Fragment]:
        """Let every client play one fragment."""
        fragments: list[Fragment] = []
        playing = self.seats
        for seat in playing:
            seat.begin()
        while playing:
            actions, logp = self._act(playing)
            for seat, action, one in zip(playing, actions, logp, strict=True):
                given = heads.to_environment(self.algorithm.policy.head, self.spec.action, action)
                seen, reward, over, cut_off, info = seat.env.step(given)
                seat.add(action, reward, one, seen, info)
                if over or cut_off or len(seat.actions) == self.steps:
                    fragments.append(seat.cut(version, over, cut_off))
                if over or cut_off:
                    self.rewards.append(seat.reset())
            playing = [seat for seat in playing if seat.actions]
        return fragments

    def _act(self, playing: "list[_Seat]") -> tuple[Array, Array]:
        policy = self.algorithm.policy
        now = {n: torch.from_numpy(np.array([s.last[n] for s in playing])) for n in self.spec.obs}
        memory = {
            n: torch.from_numpy(np.array([s.memory[n] for s in playing])) for n in policy.memory
        }
        with torch.no_grad():
            outputs, after = policy({name: now[name] for name in policy.inputs}, memory)
        for i, seat in enumerate(playing):
            seat.memory = {name: rows[i].numpy() for name, rows in after.items()}
        actions, extras = heads.act(
            policy.head,
            self.spec.action,
            {name: output.numpy() for name, output in outputs.items()},
            mask=now[MASK].numpy() if MASK in now else None,
            greedy=np.zeros(len(playing), bool),
            epsilon=np.zeros(len(playing)),
            random=False,
            rng=self.rng,
        )
        return actions, extras["logp"]


class _Seat:
    """One client's environment."""

    def __init__(self, client: str, env, spec: Spec, algorithm: PPO, seed: int) -> None:
        self.client, self.env, self.spec, self.policy = client, env, spec, algorithm.policy
        self.episode, self.reward = -1, 0.0
        self.reset(seed)

    def reset(self, seed: int | None = None) -> float:
        earned, self.reward = self.reward, 0.0
        self.last, self.start = self.look(*self.env.reset(seed=seed)), 0
        self.episode += 1
        self.memory = {
            n: np.zeros(leaf.shape, leaf.dtype) for n, leaf in self.policy.memory.items()
        }
        return earned

    def look(self, seen: Array, info) -> dict[str, Array]:
        mask = {MASK: np.asarray(info["action_mask"], bool)} if MASK in self.spec.obs else {}
        return {"obs": np.asarray(seen).astype(self.spec.obs["obs"].dtype), **mask}

    def begin(self) -> None:
        self.seen = {name: [row] for name, row in self.last.items()}
        self.actions, self.rewards, self.logp = [], [], []
        self.before = dict(self.memory)

    def add(self, action, reward, logp, seen, info) -> None:
        self.last = self.look(seen, info)
        for name, row in self.last.items():
            self.seen[name].append(row)
        self.actions.append(action)
        self.rewards.append(reward)
        self.logp.append(logp)
        self.reward += reward

    def cut(self, version: int, terminated: bool, truncated: bool) -> Fragment:
        start, self.start = self.start, self.start + len(self.actions)
        result = Fragment(
            client=self.client,
            epoch=1,
            episode=self.episode,
            start=start,
            clock=0,
            generation=1,
            version=version,
            obs={name: np.array(rows) for name, rows in self.seen.items()},
            action=np.array(self.actions, self.spec.action.leaf.dtype),
            reward=np.array(self.rewards, "<f4"),
            terminated=terminated,
            truncated=truncated,
            extras={"logp": np.array(self.logp, "<f4")},
            memory=self.before,
        )
        self.actions = []
        return result
