"""The settings of proximal policy optimisation."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from soulsai.algorithms.settings import LearnerSettings, is_custom
from soulsai.errors import ConfigError
from soulsai.types import ActionKind, Count, Fraction, Natural, Positive

BatchPace = Literal["free", "hold", "synchronous"]  # see ``batches``


class PPOSettings(LearnerSettings, frozen=True, forbid_unknown_fields=True):
    """Proximal policy optimisation, from fresh experience of all clients."""

    learner = "soulsai.algorithms.ppo.learner:PPO"
    waits_for_steps = True
    actions = ("discrete", "multidiscrete", "box", "hybrid")
    fixed = ("hidden", "activation", "network", "feature_extractor", "memory", "normalize_obs")

    hidden: tuple[Count, ...] = (64, 64)  # widths of the hidden layers of actor and critic
    activation: Literal["tanh", "relu"] = "tanh"  # tanh, or relu with layer normalisation
    # layers: plain MLPs; or a network of your own, as module:Class or file.py:Class, of which actor
    # and critic are one each
    network: str = "layers"
    # module:Class from observations to features, below actor and critic; empty: vision encoders
    feature_extractor: str = ""
    memory: Natural = 0  # width of an LSTM, where one observation does not tell the state; 0: none
    unroll: Count = 128  # with memory: env steps through which gradients flow back
    batch_steps: Count | None = None  # env steps per iteration; empty: 2048, box actions 4096
    epochs: Count | None = None  # passes over a batch; empty: 4, box actions 10
    minibatch: Count = 64  # env steps per gradient step
    lr: Positive | None = None  # learning rate of Adam; empty: 1e-3, box actions 3e-4
    anneal_lr: bool = True  # lower the learning rate to zero over the planned steps
    adam_eps: Positive = 1e-5  # epsilon of Adam
    gamma: Annotated[float, Meta(gt=0, le=1)] = 0.99  # discount of rewards per env step
    # lambda of generalised advantage estimation: 0 trusts the critic, 1 the returns
    gae_lambda: Fraction = 0.95
    # estimator of advantages; vtrace corrects for fragments of older versions
    estimator: Literal["gae", "vtrace"] = "gae"
    clip: Positive = 0.2  # largest relative change of an action's probability per iteration
    anneal_clip: bool = False  # lower the clip range to zero over the planned steps
    # weight of the entropy bonus; empty: 0.01, box actions 0
    entropy: Annotated[float, Meta(ge=0)] | None = None
    value: Annotated[float, Meta(ge=0)] = 0.5  # weight of the critic's loss
    grad_clip: Positive = 0.5  # largest norm of a gradient; larger ones are scaled down
    # an iteration ends early at 1.5 times this divergence from the old policy; 0: never
    target_kl: Annotated[float, Meta(ge=0)] = 0.02
    # oldest fragments that are learnt from, in iterations; empty: 8, box actions 4; 0: clients wait
    # for every version
    max_lag: Natural | None = None
    weight_cap: Positive = 5.0  # largest importance weight of a step
    deadline: Positive = 10.0  # time after which 60 % of a batch is enough, in seconds
    # hold: clients play at most one batch ahead; free: nobody waits
    pace: Literal["hold", "free"] = "hold"
    balance: bool = False  # no client contributes more than the mean client
    # share of episodes played greedily, to measure the policy; not learnt from
    eval_fraction: Fraction = 0.02
    # scale observations to mean 0 and deviation 1; empty: only with box actions
    normalize_obs: bool | None = None
    normalize_rewards: bool = True  # divide rewards by the deviation of discounted returns

    def problems(self) -> Iterator[str]:
        """Yield the memory, too, which a custom network cannot have."""
        yield from LearnerSettings.problems(self)
        if self.memory and is_custom(self.network):
            yield (
                "memory: a network of your own has none; set it to 0, or name a feature_extractor, "
                "which the LSTM follows, instead of a network"
            )

    def rows_per_update(self, kind: ActionKind) -> tuple[float, int]:
        """Return the rows of all epochs of a batch, of the actor and the critic."""
        resolved = resolve(self, is_box=kind == "box", realtime=False)
        return 2.0 * resolved.epochs * resolved.batch_steps, self.minibatch

    def updates(self, env_steps: int, kind: ActionKind) -> float:
        """Return the iterations of a run of so many env steps."""
        return env_steps / resolve(self, is_box=kind == "box", realtime=False).batch_steps


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
