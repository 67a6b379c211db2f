"""Environments whose arguments are no text, as a user would write them in a file."""

from importlib import import_module
from typing import Any

import gymnasium
import numpy as np


def trading() -> Any:
    """Make a market of prices that walk at random."""
    pandas = import_module("pandas")
    import_module("gym_trading_env")  # registers it
    rng = np.random.default_rng(0)
    close = 100 * np.exp(rng.normal(0, 0.01, 1000).cumsum())
    days = pandas.date_range("2020-01-01", periods=1000, freq="D")
    table = {"open": close, "high": close, "low": close, "close": close, "volume": 1.0}
    prices = pandas.DataFrame(table, index=days)
    prices["feature_change"] = prices["close"].pct_change().fillna(0.0)
    return gymnasium.make("TradingEnv", df=prices, positions=[-1, 0, 1], verbose=0)


def real_time() -> Any:
    """Make a point that goes on moving between two steps of 20 ms."""
    rtgym = import_module("rtgym")

    class Point(rtgym.RealTimeGymInterface):  # type: ignore[misc]
        def get_observation_space(self):
            return gymnasium.spaces.Tuple((gymnasium.spaces.Box(-9.0, 9.0, (1,)),))

        def get_action_space(self):
            return gymnasium.spaces.Box(-1.0, 1.0, (1,))

        def get_default_action(self):
            return np.zeros(1, np.float32)

        def send_control(self, control):
            self.at = float(np.clip(self.at + 0.1 * control[0], -9, 9))

        def reset(self, seed=None, options=None):
            self.at = 1.0
            return [np.array([self.at], np.float32)], {}

        def get_obs_rew_terminated_info(self):
            return [np.array([self.at], np.float32)], -abs(self.at), False, {}

    config = {**rtgym.DEFAULT_CONFIG_DICT, "interface": Point, "time_step_duration": 0.02}
    config |= {"start_obs_capture": 0.02, "time_step_timeout_factor": 1.0, "ep_max_length": 100}
    return gymnasium.make("real-time-gym-ts-v1", config=config)
