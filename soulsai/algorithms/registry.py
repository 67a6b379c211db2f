"""The built-in algorithms: one line each; nothing outside their folders knows another name.

Algorithms of other packages need no line here: see ``build``.
"""

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
