"""The built-in algorithms: one line each; nothing outside their folders knows another name.

Algorithms of other packages need no line here: see ``build``.
"""

from importlib.metadata import entry_points

from msgspec import Struct

from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.algorithms.ppo.settings import PPOSettings
from soulsai.algorithms.sac.settings import SACSettings


class AlgorithmSections(Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of every built-in algorithm, in a section of its name."""

    dqn: DQNSettings = DQNSettings()
    ppo: PPOSettings = PPOSettings()
    sac: SACSettings = SACSettings()


BUILT_IN: tuple[str, ...] = AlgorithmSections.__struct_fields__
GROUP = "soulsai.algorithms"  # the entry points by which other packages add their algorithms


def algorithm_names() -> list[str]:
    """Return the names of all algorithms, built-in and installed ones, without loading any."""
    return sorted({*BUILT_IN, *entry_points(group=GROUP).names})
