"""The settings of proximal policy optimisation."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from soulsai.algorithms.settings import LearnerSettings
from soulsai.errors import ConfigError
from soulsai.types import Count, Fraction, Natural, Positive

BatchPace = Literal["free", "hold", "synchronous"]  # see ``batches``


class PPOSettings(LearnerSettings, frozen=True, forbid_unknown_fields=True):
    """Proximal policy optimisation from the fresh experience of whoever is there."""

    learner = "soulsai.algorithms.ppo.learner:PPO"
    actions = ("discrete", "multidiscrete", "box")

    hidden: tuple[Count, ...] = (64, 64)  # widths of the layers of actor and critic
    activation: Literal["tanh", "relu"] = "tanh"  # relu comes with layer normalisation
    memory: Natural = 0  # width of an LSTM, for what one observation does not tell; 0: none
    unroll: Count = 128  # env steps through which it learns to remember
    batch_steps: Count | None = None  # env steps per iteration; empty: 2048, box actions 4096
    epochs: Count | None = None  # passes over a batch; empty: 4, box actions 10
    minibatch: Count = 64  # env steps per gradient step
    lr: Positive | None = None  # empty: 1e-3, box actions 3e-4
    anneal_lr: bool = True  # to zero, over the planned steps
    adam_eps: Positive = 1e-5
    gamma: Annotated[float, Meta(gt=0, le=1)] = 0.99
    gae_lambda: Fraction = 0.95
    estimator: Literal["gae", "vtrace"] = "gae"  # of advantages
    clip: Positive = 0.2  # how far the probability of an action may move per iteration
    anneal_clip: bool = False  # to zero, over the planned steps
    entropy: Annotated[float, Meta(ge=0)] | None = None  # bonus; empty: 0.01, box actions 0
    value: Annotated[float, Meta(ge=0)] = 0.5  # weight of the critic's loss
    grad_clip: Positive = 0.5
    target_kl: Annotated[float, Meta(ge=0)] = 0.02  # epochs end at 1.5 times that; 0: never
    max_lag: Natural | None = None  # in iterations; empty: 8, box actions 4; 0: clients wait
    weight_cap: Positive = 5.0  # of importance weights
    deadline: Positive = 10.0  # seconds after which 60 % of a batch will do
    pace: Literal["hold", "free"] = "hold"  # hold: simulators get at most a batch ahead
    balance: bool = False  # no client counts for more than the mean client
    eval_fraction: Fraction = 0.02  # of episodes played greedily, to measure by; not learnt from
    normalize_obs: bool | None = None  # empty: only with box actions
    normalize_rewards: bool = True  # divide by the deviation of discounted returns


class ResolvedSettings(Struct, frozen=True):
    """The settings that depend on the environment."""

    batch_steps: int
    epochs: int
    lr: float
    entropy: float
    max_lag: int
    normalize_obs: bool
    pace: BatchPace


def resolve(config: PPOSettings, *, is_box: bool, realtime: bool) -> ResolvedSettings:
    """Fill in settings that are empty.

    Args:
        config: The settings.
        is_box: Whether actions are continuous.
        realtime: Whether environments cannot wait for the learner.

    Raises:
        ConfigError: ``max_lag: 0`` makes clients wait, and they cannot.
    """

    def _either(value: Any, discrete: Any, box: Any) -> Any:
        return value if value is not None else box if is_box else discrete

    max_lag: int = _either(config.max_lag, 8, 4)
    pace: BatchPace = config.pace if max_lag else "synchronous"
    if realtime and pace == "synchronous":
        raise ConfigError(
            "ppo.max_lag: 0 makes clients wait, but environment.realtime forbids it; choose 1"
        )
    return ResolvedSettings(
        batch_steps=_either(config.batch_steps, 2048, 4096),
        epochs=_either(config.epochs, 4, 10),
        lr=_either(config.lr, 1e-3, 3e-4),
        entropy=_either(config.entropy, 0.01, 0.0),
        max_lag=max_lag,
        normalize_obs=_either(config.normalize_obs, False, True),
        pace="free" if realtime else pace,
    )
