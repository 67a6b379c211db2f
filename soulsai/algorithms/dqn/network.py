"""The network that values actions, as clients run it."""

from typing import NamedTuple

import torch
from torch import Tensor

from soulsai.algorithms.base import Policy, Tensors
from soulsai.algorithms.dqn.sampled import SampledHead
from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.algorithms.networks import Encoder, Observation, QuantileHead
from soulsai.algorithms.quantiles import expected
from soulsai.errors import ConfigError
from soulsai.types import Head, Leaf, Spec

MOST = 100.0  # standard deviations
NOISE = "noise"  # the leaf of the policy's memory that holds an episode's noise


class Chance(NamedTuple):
    """What chance decides of one evaluation of the network; nothing, when it acts."""

    levels: Tensor | None = None  # [B, N] of the quantiles that are asked for, if they are sampled
    noise: Tensor | None = None  # [1, noises] standard normal, for noisy layers


NONE = Chance()


class QPolicy(Policy):
    """Values of all actions; the head picks the best, or a random one."""

    def __init__(self, config: DQNSettings, spec: Spec) -> None:
        noisy = (NOISE,) if config.noisy else ()
        explores = config.epsilon_base, config.epsilon_alpha, config.eval_fraction
        super().__init__(Head("epsilon_greedy", *explores, noise=noisy), spec, outputs=("q",))
        if config.network == "residual" and len(set(config.hidden)) != 1:
            raise ConfigError(f"dqn.hidden: residual blocks are equally wide, not {config.hidden}")
        self.observation = Observation(spec.seen, normalize=config.normalize_obs)
        self.encoder = Encoder(
            self.observation,
            config.hidden,
            layer_norm=config.layer_norm,
            residual=config.network == "residual",
            vision=config.vision,
        )
        kind = SampledHead if config.sampled else QuantileHead
        self.values = kind(
            self.encoder.width,
            spec.action.sizes[0],
            config.quantiles,
            dueling=config.dueling,
            noisy=config.noisy,
        )
        if config.noisy:
            self.memory = {NOISE: Leaf((self.values.out.noises,), "<f4")}
        self._shown: tuple[QPolicy, ...] = ()  # not a module of ours, so not in our state

    def show(self, average: "QPolicy") -> None:
        """Let clients act with ``average``, which has our shape and steadier weights."""
        self._shown = (average,)

    def twin(self) -> "QPolicy":
        """Return what clients act with."""
        return self._shown[0] if self._shown else self

    def forward(self, obs: Tensors, memory: Tensors) -> tuple[Tensors, Tensors]:
        """Return the value of each action, ``q`` [B, A]; an episode's noise stays as it is."""
        chance = Chance(noise=memory.get(NOISE))
        q = expected(self.quantiles(self.observation.parts(obs), chance))
        # A graph whose output is one of its inputs does not export; this changes no noise
        return {"q": q}, {name: noise.clamp(-MOST, MOST) for name, noise in memory.items()}

    def quantiles(self, parts: list[Tensor], chance: Chance = NONE) -> Tensor:
        """Map the parts of an observation to quantiles of each action's return [B, A, N]."""
        return self.values.quantiles(self.encoder.features(parts), chance.levels, chance.noise)

    def draw(self, batch: int, luck: torch.Generator) -> Chance:
        """Leave to chance what one evaluation of a batch leaves to it."""
        levels = noise = None
        device = self.values.out.weight.device
        if isinstance(self.values, SampledHead):
            n = self.values.samples
            levels = torch.rand(batch, n, generator=luck, device=device)
        if self.memory:
            noise = torch.randn(1, *self.memory[NOISE].shape, generator=luck, device=device)
        return Chance(levels, noise)
