"""The network that estimates the values of actions, as clients run it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from soulsai.algorithms.base import Policy, Tensors
from soulsai.algorithms.custom_networks import (
    CustomNetwork,
    NamedParts,
    custom_features,
    custom_network,
)
from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.algorithms.networks import (
    Encoder,
    Observation,
    QuantileHead,
    dueling_values,
    output_layer,
)
from soulsai.algorithms.quantiles import expected
from soulsai.algorithms.settings import is_custom
from soulsai.errors import ConfigError
from soulsai.types import Head, Leaf, Spec

COSINES = 64  # features of a quantile level
ACTING_LEVELS = 32  # levels that are averaged when the network acts
LARGEST_NOISE = 100.0  # standard deviations
NOISE = "noise"  # the leaf of the policy's memory that holds an episode's noise


class Noise(NamedTuple):
    """The random numbers of one evaluation of the network."""

    levels: Tensor | None = None  # [B, N] quantile levels, if they are sampled
    layers: Tensor | None = None  # [1, noises] standard normal, if the last layer is noisy


NO_NOISE = Noise()


class QPolicy(Policy):
    """Estimates the values of all actions; the head chooses the best or a random one.

    An action of several components has one branch for each (arXiv:1711.08946).
    """

    def __init__(self, config: DQNSettings, spec: Spec) -> None:
        noisy = (NOISE,) if config.noisy else ()
        explores = config.epsilon_base, config.epsilon_alpha, config.eval_fraction
        super().__init__(Head("epsilon_greedy", *explores, noise=noisy), spec, outputs=("q",))
        if config.network == "residual" and len(set(config.hidden)) != 1:
            raise ConfigError(
                f"dqn.hidden: residual blocks need layers of equal width, not {config.hidden}"
            )
        named = bool(config.custom)
        self.observation = Observation(spec.seen, normalize=config.normalize_obs, named=named)
        self.sizes = spec.action.sizes
        self.encoder: Encoder | NamedParts
        self.values: QuantileHead | SampledQuantileHead | CustomQuantiles
        if is_custom(config.network):
            self.encoder, self.values = _custom(config, spec)
        else:
            self.encoder, self.values = _layers(config, spec, self.observation)
        if config.noisy:
            self.memory = {NOISE: Leaf((self.values.noises,), "<f4")}
        self._acting: tuple[QPolicy, ...] = ()  # a tuple, so that it is no submodule

    def act_with(self, average: "QPolicy") -> None:
        """Let clients act with ``average``, a network of the same shape with steadier weights."""
        self._acting = (average,)

    def twin(self) -> "QPolicy":
        """Return the network that clients act with."""
        return self._acting[0] if self._acting else self

    def forward(self, obs: Tensors, memory: Tensors) -> tuple[Tensors, Tensors]:
        """Return the values ``q`` [B, A]; the noise of an episode stays as it is."""
        noise = Noise(layers=memory.get(NOISE))
        q = expected(self.quantiles(self.observation.parts(obs), noise))
        # A graph whose output is one of its inputs does not export; this changes no noise.
        kept = {name: value.clamp(-LARGEST_NOISE, LARGEST_NOISE) for name, value in memory.items()}
        return {"q": q}, kept

    def quantiles(self, parts: list[Tensor], noise: Noise = NO_NOISE) -> Tensor:
        """Map the parts of observations to quantiles of each action's return [B, A, N]."""
        features: Any = self.encoder.features(parts)
        return self.values.quantiles(features, noise.levels, noise.layers)

    def draw(self, batch: int, rng: torch.Generator) -> Noise:
        """Draw the random numbers for one evaluation of ``batch`` observations."""
        levels = layers = None
        device = next(self.parameters()).device
        if isinstance(self.values, SampledQuantileHead):
            levels = torch.rand(batch, self.values.samples, generator=rng, device=device)
        if self.memory:
            layers = torch.randn(1, *self.memory[NOISE].shape, generator=rng, device=device)
        return Noise(levels, layers)


class CustomQuantiles(nn.Module):
    """Quantiles of the return by a network that is not ours.

    Args:
        network: Maps the parts of observations to A times N numbers.
        actions: Number of choices A.
        quantiles: Number of quantiles N.
    """

    noises = 0

    def __init__(self, network: CustomNetwork, actions: int, quantiles: int) -> None:
        super().__init__()
        self.network, self._shape = network, (actions, quantiles)

    def quantiles(
        self, parts: list[Tensor], levels: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Map parts [B, ...] to quantiles [B, A, N]; neither levels nor noise are read."""
        del levels, noise
        values: Tensor = self.network(parts).view(-1, *self._shape)
        return values


class SampledQuantileHead(nn.Module):
    """Quantiles of the return at any levels: implicit quantile networks (arXiv:1806.06923)."""

    def __init__(
        self,
        features: int,
        sizes: Sequence[int],
        samples: int,
        *,
        dueling: bool,
        noisy: bool = False,
    ) -> None:
        super().__init__()
        self.samples = samples  # levels drawn per evaluation in an update
        self.sizes, self.dueling = list(sizes), dueling
        self.level = nn.Linear(COSINES, features)
        self.out = output_layer(features, sum(sizes) + dueling, noisy=noisy)
        self.noises = self.out.noises

    def quantiles(
        self, features: Tensor, levels: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Return quantiles [B, A, N].

        Args:
            features: Output of the encoder [B, F].
            levels: Quantile levels [B, N]; without them, ``ACTING_LEVELS`` evenly spread ones.
            noise: Noise of the last layer [B or 1, noises].
        """
        if levels is None:
            levels = torch.arange(ACTING_LEVELS, device=features.device) + 0.5
            levels = (levels / ACTING_LEVELS)[None]
        k = torch.arange(COSINES, device=features.device) * torch.pi
        embedded = self.level((levels.unsqueeze(-1) * k).cos()).relu()  # [B or 1, N, F]
        noises = None if noise is None else noise.unsqueeze(1)
        out: Tensor = self.out(features.unsqueeze(1) * embedded, noises)  # [B, N, A]
        values = out.transpose(1, 2)
        return dueling_values(values, self.sizes) if self.dueling else values


def _custom(config: DQNSettings, spec: Spec) -> tuple[NamedParts, CustomQuantiles]:
    actions = sum(spec.action.sizes)
    outputs = actions * config.quantiles
    network = custom_network("dqn.network", config.network, spec.seen, outputs)
    return NamedParts(), CustomQuantiles(network, actions, config.quantiles)


def _layers(
    config: DQNSettings, spec: Spec, observation: Observation
) -> tuple[Encoder, QuantileHead | SampledQuantileHead]:
    encoder = Encoder(
        observation,
        config.hidden,
        layer_norm=config.layer_norm,
        residual=config.network == "residual",
        vision=config.vision,
        extractor=custom_features("dqn.feature_extractor", config.feature_extractor, spec.seen),
    )
    kind = SampledQuantileHead if config.sampled else QuantileHead
    head = kind(
        encoder.width,
        spec.action.sizes,
        config.quantiles,
        dueling=config.dueling,
        noisy=config.noisy,
    )
    return encoder, head
