"""The types that all modules share: spaces, fragments, weights, commands and statuses."""

import zlib
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

Array = NDArray[Any]
Metrics = dict[str, float]
Kwargs = dict[str, str | int | float | bool | list[Any] | dict[str, Any] | None]  # JSON
Wrappers = dict[str, Kwargs]  # arguments by name, from the innermost to the outermost
ClientValues = dict[str, str | int | float | bool | None]

# A run's id becomes a folder: judged wherever it is decoded, for it may come from anybody.
_NO_DEVICE = r"(?!(?i:con|prn|aux|nul|com\d|lpt\d)(\.|\Z))"
RunId = Annotated[str, Meta(pattern=rf"\A{_NO_DEVICE}(?![.-])[A-Za-z0-9_.-]{{1,200}}(?<!\.)\Z")]

Positive = Annotated[float, Meta(gt=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
ActionKind = Literal["discrete", "multidiscrete", "box", "hybrid"]
HeadKind = Literal[
    "epsilon_greedy", "categorical", "gaussian", "scaled_gaussian", "squashed", "hybrid"
]

EpisodeKind = Literal["exploring", "greedy", "intervened"]
INTERVENED = "intervened"  # key of an episode's info: the steps that a person chose
MASK = "mask"  # the observation leaf that says which actions are valid
# 2: clients repeat the checksum that the spec carries, so they need not know all of its fields.
PROTOCOL = 2  # what this package speaks
OLDEST_PROTOCOL = 2  # what it still understands
WIDE = 1e6  # a bound of integers from which it says nothing about their usual size
UNBOUNDED = 1e30  # a bound of an action beyond this is none; JSON cannot carry infinity
CARD_FORMAT = 1  # of the cards that it writes, and the newest that it reads
MOST_ENVIRONMENTS = 256  # of one client
MOST_STAGES = 64  # of a schedule
STAGE = "stage"  # value published with each version: the stages of the schedule that have begun
LARGEST_NUMBER = 1e30  # of an episode's floats: their sums and squares stay finite


class Leaf(Struct, frozen=True):
    """One named array of every step: its shape, dtype and the meaning of its numbers.

    ``dtype`` is NumPy's code with byte order (``"<f4"``). ``categories`` > 0 marks integers that
    name one of that many things (a network sees them one-hot). ``low`` and ``high`` bound all
    elements, where the environment declares finite bounds.
    """

    shape: tuple[int, ...]
    dtype: str
    categories: int = 0
    low: float | None = None
    high: float | None = None

    @property
    def normalised(self) -> bool:
        """Whether mean and deviation scale the numbers: floats, and integers without near bounds.

        The bounds of many environments are those of their integers' type.
        """
        dtype = np.dtype(self.dtype)
        if dtype.kind not in "iu" or dtype.itemsize == 1 or self.categories:
            return dtype.kind == "f"
        if self.low is None or self.high is None:
            return True
        return max(-self.low, self.high) >= min(WIDE, float(np.iinfo(dtype).max))


class ActionPart(Struct, frozen=True):
    """One leaf of a nested action, in the environment.

    The parts of choices, in their order, share all choices, and those of numbers share all
    numbers. ``path`` holds keys and indices; ``shape`` is the leaf's.
    """

    path: tuple[str | int, ...]
    size: int  # choices or numbers
    numbers: bool
    shape: tuple[int, ...] = ()
    dtype: str = "<i8"


class ActionSpec(Struct, frozen=True):
    """The space of actions: ``discrete`` (one of ``sizes[0]``), ``multidiscrete`` or ``box``.

    ``sizes`` holds the number of choices per component; ``low`` and ``high`` the box's flat
    bounds, of shape ``shape``; a bound beyond ``UNBOUNDED`` is none. A ``hybrid`` action is one row
    of all choices and then all numbers. Choices count from zero; ``start`` is the environment's
    value of each component's first choice, and ``native_shape`` its shape of a multidiscrete
    action. ``parts`` says how a nested action is put together; no node reads it.
    """

    kind: ActionKind
    shape: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    start: tuple[int, ...] = ()
    native_shape: tuple[int, ...] = ()
    parts: tuple[ActionPart, ...] = ()

    @property
    def leaf(self) -> Leaf:
        """The encoding of an action: the smallest unsigned integer that holds it, or ``<f4``."""
        if self.low:
            return Leaf(self.shape, "<f4")
        largest = max(self.sizes)
        dtype = "|u1" if largest <= 2**8 else "<u2" if largest <= 2**16 else "<u4"
        return Leaf(self.shape, dtype)

    @property
    def bounded(self) -> bool:
        """Whether all numbers have bounds."""
        return all(abs(bound) < UNBOUNDED for bound in (*self.low, *self.high))


class LeafSource(Struct, frozen=True):
    """The place of a leaf in the environment's own observation.

    ``path`` holds the keys and indices to follow, none for the observation itself. ``start`` is the
    environment's value of the first category, for each element. ``info`` marks an action mask that
    stands in the info instead.
    """

    path: tuple[str | int, ...] = ()
    start: tuple[int, ...] = ()
    info: bool = False


class Spec(Struct, frozen=True):
    """The spaces of an environment: enough to build a network.

    ``obs`` are the named leaves of one observation, in wire order; an action mask is the leaf
    ``"mask"`` (bool, one element per choice). ``sources`` says where each leaf comes from; no node
    reads it, and it is not compared.
    """

    obs: dict[str, Leaf]
    action: ActionSpec
    sources: dict[str, LeafSource] = {}

    @property
    def seen(self) -> dict[str, Leaf]:
        """The leaves that a network reads: all but the mask."""
        return {name: leaf for name, leaf in self.obs.items() if name != MASK}


class Fragment(Struct, frozen=True, eq=False):
    """Consecutive steps of one episode of one environment, taken under one version of the weights.

    With T steps, ``obs`` leaves have T+1 rows (the last is the observation after the last action);
    ``action``, ``reward`` and ``extras`` have T. A fragment never crosses an episode's end, so
    ``terminated`` and ``truncated`` describe its last step; with neither it was merely cut, and
    continues in the fragment of the same ``(client, epoch, episode)`` that begins at
    ``start + T``. Only ``terminated`` zeroes a discount.
    """

    client: str
    epoch: int  # one life of the client process
    episode: int  # numbers the client's episodes within an epoch
    start: int  # index in the episode of the first step
    clock: int  # env steps that the client had taken in this epoch before this fragment
    generation: int
    version: int
    obs: dict[str, Array]
    action: Array
    reward: Array
    terminated: bool
    truncated: bool
    greedy: bool = False  # an evaluation episode: no exploration
    epsilon: float = 0.0  # share of uniform random actions; more where the knob ``random`` is more
    extras: dict[str, Array] = {}  # outputs of the head for each step, e.g. its log-probability
    memory: dict[str, Array] = {}  # of a recurrent policy before the first step
    intervened: Array | None = None  # [T] whether a person chose the action; none: nowhere
    granted: bool = True  # no update is owed for steps beyond the grants; the training node says it

    def __len__(self) -> int:
        """Return the number of env steps."""
        return len(self.reward)

    @property
    def ended(self) -> bool:
        """Whether the episode is over after the last step."""
        return self.terminated or self.truncated


class Episode(Struct, frozen=True):
    """The summary of one finished episode.

    The training node adds ``client``, ``epoch``, ``env_steps`` (admitted before it), ``time``
    (Unix seconds at receipt, because no client's clock is trusted) and ``verified``.
    """

    generation: int
    version: int  # the newest weights that took part in it
    episode: int
    reward: float
    steps: int
    seconds: float
    terminated: bool
    greedy: bool
    epsilon: float  # share of uniform random actions when it began
    info: dict[str, float] = {}  # numbers from the last step's info that the config asks for
    client: str = ""
    env_steps: int = 0
    time: float = 0.0
    epoch: int = 0  # with client and episode it names this episode for all time; 0: not known
    verified: bool = True  # all its steps were admitted, and their rewards add up to ``reward``
    kwargs: ClientValues = {}  # of the arguments that clients may set

    @property
    def kind(self) -> "EpisodeKind":
        """The episodes with which it can be compared: a person's part makes it one of its own."""
        if self.info.get(INTERVENED):
            return "intervened"
        return "greedy" if self.greedy else "exploring"


class Hello(Struct, frozen=True):
    """The first message of a client in every epoch."""

    run: str
    protocol: int
    software: str
    environment: str
    environments: int  # played side by side
    crc: int  # of the spec that it plays by


class Heartbeat(Struct, frozen=True):
    """The state of a client, sent once a second; all counters are of this epoch."""

    steps: int  # taken
    episodes: int  # finished
    dropped: int  # env steps thrown away: the outbox was full, or the environment broke
    queued: int  # messages waiting in the outbox
    version: int
    restarts: int = 0  # of the environment
    waiting: bool = False  # the quota is spent: no step until new weights come
    faults: dict[str, int] = {}  # of the environment, by kind
    trouble: str = ""  # the environment's last fault, in a line
    kwargs: ClientValues = {}  # of the arguments that clients may set


class Head(Struct, frozen=True):
    """The rule that turns a policy's outputs into actions; ``soulsai.heads`` computes each kind.

    ``epsilon_greedy`` reads ``q``, and ``categorical`` reads ``logits`` [sum of sizes];
    ``gaussian``, ``scaled_gaussian`` and ``squashed`` read ``mean`` and ``log_std`` [shape], and
    ``hybrid`` reads all three. The numbers of an action travel in units of the space, -1 to 1
    between its bounds; those of ``gaussian``, the head of runs before that, are the environment's
    own. ``noise`` names the leaves of the policy's memory that begin an episode as standard normal
    noise, if it explores.
    """

    kind: HeadKind
    epsilon_base: float = 0.4
    epsilon_alpha: float = 7.0
    eval_fraction: float = 0.05
    noise: tuple[str, ...] = ()


class Program(Struct, frozen=True):
    """The policy as a client runs it: an ONNX graph; its weights come separately.

    The graph's inputs are ``inputs`` (observation leaves) and then ``memory_<name>``, each with a
    leading batch axis; its outputs are ``outputs`` and then ``next_memory_<name>``.
    """

    graph: bytes
    location: str  # the external-data file name that the graph gives for its weights
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    head: Head
    weights: dict[str, Leaf]  # in wire order, by initialiser name
    memory: dict[str, Leaf] = {}


class PolicyCard(Struct, frozen=True):
    """The description in a ``policy.onnx`` for other programs, under the metadata key ``soulsai``.

    The file's graph has the weights inside, and the inputs and outputs of a ``Program``. A card
    that cannot be read as one of ``CARD_FORMAT`` gets another ``format``.
    """

    run: str
    generation: int
    version: int
    env_steps: int
    algorithm: str
    environment: "EnvironmentOffer"
    spec: Spec
    head: Head
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    memory: dict[str, Leaf] = {}
    format: int = 0  # 0: of a version without ``sources`` and ``start``


WeightsDtype = Literal["float32", "float16"]


class Delta(Struct, frozen=True, eq=False):
    """A version as the difference to an earlier whole one of the same generation."""

    base: int  # the number of that version
    data: bytes


class Weights(Struct, frozen=True, eq=False):
    """One version of the policy, with all that a client needs in order to act.

    ``quota`` bounds the env steps one client may take between this version and the next (``None``:
    no bound). ``exploration`` holds numbers for the player: ``random`` is the least share of
    uniform random actions of all episodes that explore, and ``stage`` the number of stages of the
    schedule that have begun. ``dtype`` is that in which matrices are sent.
    With a ``delta``, clients may download that instead.
    """

    run: str
    generation: int
    version: int
    arrays: dict[str, Array]
    quota: int | None = None
    exploration: dict[str, float] = {}
    dtype: WeightsDtype = "float32"
    delta: Delta | None = None


class WholeVersion(Struct, frozen=True):
    """An earlier version that is sent whole: its number, its bytes and their digest."""

    version: int
    bytes: int
    sha256: str
    dtype: WeightsDtype = "float32"


class DeltaPointer(Struct, frozen=True):
    """A delta of the newest version: its bytes, and the version that it is the difference to."""

    bytes: int
    base: WholeVersion


class Pointer(Struct, frozen=True):
    """The newest version: its place, checksum and values."""

    run: RunId
    generation: int
    version: int
    bytes: int
    sha256: str
    dtype: WeightsDtype = "float32"
    quota: int | None = None
    exploration: dict[str, float] = msgspec.field(default_factory=dict, name="knobs")  # on the wire
    delta: DeltaPointer | None = None  # of fewer bytes, for clients that can use it

    @property
    def order(self) -> tuple[int, int]:
        """The order of versions, also across restarts of the training node."""
        return self.generation, self.version


class ScheduleStage(Struct, frozen=True):
    """Arguments of the environment from an env step of the run on."""

    env_step: Count
    kwargs: Kwargs = {}


class EnvironmentOffer(Struct, frozen=True):
    """The environment of the server's run; a client checks it against its own list."""

    id: str
    kwargs: Kwargs = {}
    client_kwargs: tuple[str, ...] = ()  # arguments that each client may set for itself
    count: int = 1  # side by side in one client
    wrappers: Wrappers = {}
    max_episode_steps: int = 0  # 0: the environment's own limit
    mask_key: str = "action_mask"
    info_keys: tuple[str, ...] = ()
    realtime: bool = False  # it goes on by itself, and is therefore slow
    largest_reward: float = 1e6  # of one step, with either sign
    vector: bool = False  # the package's own environment plays all at once
    schedule: tuple[ScheduleStage, ...] = ()  # in the order of their env steps

    def begun(self, env_steps: int) -> int:
        """Return the number of stages that have begun after so many env steps of the run."""
        return sum(stage.env_step <= env_steps for stage in self.schedule)

    def at_stage(self, begun: int) -> "EnvironmentOffer":
        """Return the environment in which so many stages have begun, and no other ever will.

        The arguments of the last of them replace those of the offer; stages before it do not count.
        """
        kwargs = self.kwargs | self.schedule[begun - 1].kwargs if begun else self.kwargs
        return msgspec.structs.replace(self, kwargs=kwargs, schedule=())

    @property
    def last(self) -> "EnvironmentOffer":
        """The environment of the last stage."""
        return self.at_stage(len(self.schedule))


class RunSpec(Struct, frozen=True):
    """The facts of a run that clients need; published by the training node, never secret."""

    run: RunId  # unique: the name of the run's folder
    protocol: int
    oldest_protocol: int
    environment: EnvironmentOffer
    spec: Spec
    algorithm: str
    program_sha256: str
    fragment_steps: int = 64
    fragment_seconds: float = 1.0
    heartbeat_seconds: float = 1.0
    stream_entries: int = 4096  # a client's stream keeps about so many entries, newest last
    extras: dict[str, Leaf] = {}  # per-step columns that the head adds
    memory: dict[str, Leaf] = {}  # what a fragment says was remembered before its first step
    interventions: bool = False  # whether fragments may mark the steps that a person chose
    # Set before publication: a client of another version may not know all fields of this spec.
    published_crc: Annotated[int, Meta(ge=0, lt=2**32)] = 0

    @property
    def crc(self) -> int:
        """A short name for exactly this run and layout, carried by every message."""
        return self.published_crc or zlib.crc32(msgspec.msgpack.encode(self, order="deterministic"))


class EvaluationRequest(Struct, frozen=True):
    """Greedy episodes that each client is to play with exactly one version, between its others."""

    episodes: int
    pointer: bytes  # the signed ``Pointer`` to the version


class Control(Struct, frozen=True, omit_defaults=True):
    """A message of the training node to all clients at once."""

    op: Literal["pause", "resume", "stop"]
    evaluation: EvaluationRequest | None = None


class Event(Struct, frozen=True):
    """News of a run for all its viewers."""

    kind: Literal[
        "checkpoint", "best", "stopped", "client", "command", "purge", "regression", "evaluator"
    ]
    text: str  # of "purge": the client
    who: str = ""  # the operator behind a command


class Quicksave(Struct, frozen=True, tag="quicksave"):
    """Save everything now, under ``manual_save``."""

    replay: bool = True


class SaveBest(Struct, frozen=True, tag="save_best"):
    """Save a version of the weights as the best model so far."""

    generation: int
    version: int
    score: float
    checkpoint: str = ""  # the model that the evaluator has played, with exactly these weights


class ReturnTo(Struct, frozen=True, tag="return_to"):
    """Continue from an earlier checkpoint in place, because the policy has become far worse."""

    checkpoint: str
    reason: Annotated[str, Meta(max_length=500)] = ""


class Evaluate(Struct, frozen=True, tag="evaluate"):
    """Ask clients for greedy episodes with one version, which the server cannot play itself."""

    generation: int
    version: int
    episodes: Annotated[int, Meta(ge=1, le=10_000)]


class Stop(Struct, frozen=True, tag="stop"):
    """Save a last checkpoint, dismiss the clients, and end the run."""


class Pause(Struct, frozen=True, tag="pause"):
    """Stop learning and let the clients wait until ``Resume``."""


class Resume(Struct, frozen=True, tag="resume"):
    """Continue after a pause."""


class Purge(Struct, frozen=True, tag="purge"):
    """Remove one client's experience from replay, and keep the client out."""

    client: str


class Promote(Struct, frozen=True, tag="promote"):
    """Make a checkpoint's policy the best model, until a better average comes."""

    model: str  # a checkpoint's number, or ``manual_save``


class Pardon(Struct, frozen=True, tag="pardon"):
    """Admit a client again that is kept out."""

    client: str


Command = (
    Quicksave | SaveBest | ReturnTo | Evaluate | Stop | Pause | Resume | Purge | Pardon | Promote
)


class Answer(Struct, frozen=True):
    """The outcome of a command: done or not, with one line about it."""

    done: bool
    message: str


class ClientStatus(Struct, frozen=True):
    """The state of one client, by the count of the training node."""

    client: str
    state: Literal["active", "waiting", "lost", "quarantine"]
    steps_per_second: float
    admitted: int  # env steps
    rejected: int  # messages
    lost: int  # env steps that never arrived
    dropped: int  # env steps it threw away itself
    queued: int
    lag: int  # versions behind, of its last fragment
    seen: float  # seconds since it was heard of
    restarts: int = 0  # of its environments
    faults: dict[str, int] = {}  # of its environments, by kind
    trouble: str = ""  # the last of them, in a line
    held: str = ""  # why nothing of it is let in, if it is in quarantine
    finding: str = ""  # of the check of actions, if they do not follow the weights it names
    kwargs: ClientValues = {}  # of the arguments that clients may set


class Status(Struct, frozen=True):
    """The state of the training node, for terminal, page and tests."""

    run: RunId
    generation: int
    phase: Literal["starting", "waiting", "warming up", "learning", "paused", "stopping", "ended"]
    algorithm: str
    environment: str
    env_steps: int = 0  # admitted
    max_env_steps: int = 0  # 0: no end
    updates: int = 0
    version: int = 0
    episodes: int = 0
    seconds: float = 0.0
    env_steps_per_second: float = 0.0
    updates_per_second: float = 0.0
    replay_ratio: float = 0.0  # updates per env step since learning began
    reward_mean: float | None = None  # of the last episodes
    reward_trend: float | None = None  # of that mean against the one before
    reward_per_step: float | None = None  # of recent env steps, where episodes may never end
    lag: float = 0.0  # mean versions behind, of recent fragments
    rejected: dict[str, int] = {}  # messages by reason
    duplicates: int = 0  # messages
    lost: int = 0  # env steps
    dropped: int = 0  # env steps, by clients, or by the learner as too old or too many
    bytes_received: int = 0
    checkpoint: str = ""
    checkpoint_age: float | None = None  # seconds
    clients: tuple[ClientStatus, ...] = ()
    metrics: Metrics = {}
    notice: str = ""
    purged: dict[
        str, float
    ] = {}  # clients that an operator has purged, since when, in Unix seconds
    withheld: int = 0  # versions that were not published, because of their weights
    rollbacks: int = 0  # to the last good version
    restarts: int = 0  # of all clients' environments
    faults: dict[str, int] = {}  # of all clients' environments, by kind


def zeros(leaf: Leaf, *batch: int) -> Array:
    """Return an array of ``batch`` times one leaf, filled with zeros."""
    return np.zeros((*batch, *leaf.shape), leaf.dtype)
