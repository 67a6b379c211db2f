"""What PPOSettings does where its settings leave it open: as suits the environment's actions."""

from typing import Any

from msgspec import Struct

from soulsai.algorithms.ppo.batches import Pace
from soulsai.algorithms.ppo.settings import PPOSettings
from soulsai.errors import ConfigError


class Choices(Struct, frozen=True):
    """The settings that depend on the environment, too."""

    batch_steps: int
    epochs: int
    lr: float
    entropy: float
    max_lag: int
    normalize_obs: bool
    pace: Pace


def choose(config: PPOSettings, *, is_box: bool, realtime: bool) -> Choices:
    """Return the settings that are left open, as suits the actions."""

    def given(value: Any, discrete: Any, box: Any) -> Any:
        return value if value is not None else box if is_box else discrete

    max_lag: int = given(config.max_lag, 8, 4)
    pace: Pace = config.pace if max_lag else "synchronous"
    if realtime and pace == "synchronous":
        raise ConfigError(
            "ppo.max_lag: 0 makes clients wait, but environment.realtime forbids it; choose 1"
        )
    return Choices(
        batch_steps=given(config.batch_steps, 2048, 4096),
        epochs=given(config.epochs, 4, 10),
        lr=given(config.lr, 1e-3, 3e-4),
        entropy=given(config.entropy, 0.01, 0.0),
        max_lag=max_lag,
        normalize_obs=given(config.normalize_obs, False, True),
        pace="free" if realtime else pace,
    )
