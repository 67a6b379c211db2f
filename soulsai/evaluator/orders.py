"""The orders to a job of the evaluator, and its replies: lines of JSON between two processes."""

from msgspec import Struct

from soulsai.client.video import VideoLimits
from soulsai.config.schema import ClientSettings, WatchdogSettings
from soulsai.types import Episode


class PlayOrder(Struct, frozen=True, tag="play"):
    """Play greedy episodes, the i-th with ``seed + i``."""

    policy: str  # file
    environment: str
    own: ClientSettings
    limits: WatchdogSettings
    episodes: int
    seed: int
    first_index: int  # of the environments, see ``own_values.numbered``


class RecordOrder(Struct, frozen=True, tag="record"):
    """Play greedy episodes with these seeds, and write a video and a trace of each."""

    policy: str  # file
    environment: str
    own: ClientSettings
    seeds: tuple[int, ...]
    folder: str
    video: VideoLimits
    first_index: int


JobOrder = PlayOrder | RecordOrder


class Reply(Struct, frozen=True):
    """One line of a job: a sign of life, or its outcome."""

    done: bool = False
    fault: str = ""
    unplayable: bool = False  # the fault: the environment cannot be made here at all
    episodes: tuple[Episode, ...] = ()
    left_out: int = 0
    files: tuple[str, ...] = ()  # that were recorded
    notice: str = ""  # about a recording that is not complete
