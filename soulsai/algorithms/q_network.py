"""The network that values actions, as clients run it."""

from torch import Tensor

from soulsai.algorithms.base import Policy, Tensors
from soulsai.algorithms.networks import Encoder, Observation, QuantileHead
from soulsai.algorithms.quantiles import expected
from soulsai.config import DQN
from soulsai.types import Head, Spec


class QPolicy(Policy):
    """Values of all actions; the head picks the best, or a random one."""

    def __init__(self, config: DQN, spec: Spec) -> None:
        head = Head(
            "epsilon_greedy", config.epsilon_base, config.epsilon_alpha, config.eval_fraction
        )
        super().__init__(head, spec, outputs=("q",))
        self.observation = Observation(spec.seen, normalize=config.normalize_obs)
        self.encoder = Encoder(self.observation, config.hidden, layer_norm=config.layer_norm)
        self.values = QuantileHead(
            self.encoder.width, spec.action.sizes[0], config.quantiles, dueling=config.dueling
        )
        self._shown: tuple[QPolicy, ...] = ()  # not a module of ours, so not in our state

    def show(self, average: "QPolicy") -> None:
        """Let clients act with ``average``, which has our shape and steadier weights."""
        self._shown = (average,)

    def twin(self) -> "QPolicy":
        """Return what clients act with."""
        return self._shown[0] if self._shown else self

    def forward(self, obs: Tensors, memory: Tensors) -> tuple[Tensors, Tensors]:
        """Return the value of each action, ``q`` [B, A]."""
        return {"q": expected(self.quantiles(self.observation.parts(obs)))}, memory

    def quantiles(self, parts: list[Tensor]) -> Tensor:
        """Map the parts of an observation to quantiles of each action's return [B, A, N]."""
        return self.values.quantiles(self.encoder.features(parts))
