"""All settings, as frozen structs with their defaults.

``config/config_d.yaml`` is generated from these structs and their field comments.
"""

import re
from collections.abc import Iterator
from ipaddress import ip_address
from itertools import pairwise
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from soulsai import episode_metrics
from soulsai.algorithms.registry import BUILT_IN, AlgorithmSections
from soulsai.algorithms.settings import DemonstrationSettings, LearnerSettings
from soulsai.errors import ConfigError
from soulsai.types import (
    MOST_ENVIRONMENTS,
    MOST_STAGES,
    Count,
    EnvironmentOffer,
    Kwargs,
    Natural,
    Positive,
    ScheduleStage,
    Wrappers,
)

NAME_PATTERN = r"\A[a-z0-9][a-z0-9_-]{0,63}\Z"
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
LIMIT = "max_episode_steps"  # listed in ``client_kwargs`` like an argument
MOST_CLIENT_KWARGS, LARGEST_NAME = 16, 64
ActionCheckMode = Literal["off", "report", "quarantine"]

# Wrappers of this package, behind settings of the environment
LEAVE_OUT, PICTURES, ACTION_RANGE = (
    f"soulsai.client.input_wrappers:{name}" for name in ("LeaveOut", "Pictures", "ActionRange")
)
_IMAGE = {"size": int, "grey": bool, "stack": int}


class RunSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The run as a whole."""

    name: Name = "soulsai"  # name by which clients find the run; two runs on one server need two
    saves: str = "saves"  # folder in which each run makes its own folder
    # seed of networks, sampling and local clients; empty: drawn at the start
    seed: Natural | None = None
    max_env_steps: Natural = 150_000  # end of the run, in admitted env steps; 0: never
    clients: Natural = 2  # local clients that `soulsai train` starts


class RedisSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The server between the nodes."""

    # address: redis://, rediss:// (TLS), unix:// or sentinel://; empty: `train` starts a server
    url: str = ""
    secrets: str = "config/secrets"  # folder of redis.secret and of each node's own secrets
    # certificate authority of rediss://; empty: ca.pem of the secrets, or the system's
    ca_file: str = ""
    insecure: bool = False  # let clients connect to another machine without TLS
    # entries kept for each client, approximately; raise it if a slow learner loses some
    stream_entries: Count = 4096


class StageSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """A stage of the schedule of an environment."""

    env_step: Count
    kwargs: Kwargs


class EnvironmentSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The environment that clients play."""

    # a Gymnasium id, "module:Id" or "file.py:make"; with "gym:" before it for the old Gym
    id: Annotated[str, Meta(max_length=256)] = "LunarLander-v3"
    # keyword arguments of the environment; "{index}" in a text becomes the environment's number,
    # and "{5005+index}" a port of its own
    kwargs: Kwargs = {}
    # arguments that each client may set by client.kwargs; max_episode_steps may be one of them
    client_kwargs: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=LARGEST_NAME)], ...],
        Meta(max_length=MOST_CLIENT_KWARGS),
    ] = ()
    # arguments that replace those of kwargs from an env step on, between episodes, as in
    # [{env_step: 20000, kwargs: {gravity: -9.0}}]; evaluations play the last of these stages
    schedule: Annotated[tuple[StageSettings, ...], Meta(max_length=MOST_STAGES)] = ()
    # wrappers with their arguments, from the innermost to the outermost: Gymnasium's by name, as in
    # FrameStackObservation: {stack_size: 4}, others as "module:Class"
    wrappers: Wrappers = {}
    # leaves of the observation to leave out, such as [mission, inner.time], or ["1"] of a tuple
    leave_out: tuple[str, ...] = ()
    # make pictures of bytes small, e.g. {size: 84, grey: true, stack: 4}; empty: they stay
    image: Kwargs = {}
    # [low, high] for numbers of actions that have no bounds; empty: none
    action_range: Annotated[tuple[float, ...], Meta(max_length=2)] = ()
    # environments that one client plays side by side; 0: as many as make 16 with all clients here,
    # if the learner waits for env steps and a measurement finds a step cheap, otherwise 1
    count: Annotated[int, Meta(ge=0, le=MOST_ENVIRONMENTS)] = 0
    # play them in one vector environment, if the package has one (gymnasium.make_vec); much faster
    # for small environments
    vector: bool = False
    # truncate episodes after this many steps; 0: leave it to the environment
    max_episode_steps: Natural = 0
    # largest reward of one step, with either sign; a larger one is a fault of the environment
    largest_reward: Annotated[float, Meta(gt=0, le=1e12)] = 1e6
    # set this for games that go on by themselves: they never wait for the learner
    realtime: bool = False
    # key of the info that holds the mask of valid actions, if there is one
    mask_key: str = "action_mask"
    # keys of the last step's info to record as numbers of each episode
    info_keys: tuple[str, ...] = ()
    spec_file: str = ""  # file of `check-env --save`, for a server that cannot make the environment
    # run the environment in its own process, so that it can be restarted when it hangs or crashes;
    # auto: only if it is realtime
    isolate: bool | Literal["auto"] = "auto"

    @property
    def offer(self) -> EnvironmentOffer:
        """The part that clients receive."""
        return EnvironmentOffer(
            id=self.id,
            kwargs=self.kwargs,
            client_kwargs=self.client_kwargs,
            wrappers=self.wrappers | self._own_wrappers(),
            count=max(1, self.count),
            max_episode_steps=self.max_episode_steps,
            mask_key=self.mask_key,
            info_keys=self.info_keys,
            realtime=self.realtime,
            largest_reward=self.largest_reward,
            vector=self.vector,
            schedule=tuple(ScheduleStage(one.env_step, one.kwargs) for one in self.schedule),
        )

    def _own_wrappers(self) -> Wrappers:
        """Return the wrappers of this package behind settings, the outermost last."""
        found: Wrappers = {}
        if self.leave_out:
            found[LEAVE_OUT] = {"names": list(self.leave_out)}
        if self.image:
            found[PICTURES] = self.image
        if self.action_range:
            found[ACTION_RANGE] = dict(zip(("low", "high"), self.action_range, strict=False))
        return found


class ClientSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """A client; each machine has its own values, and takes none from the server."""

    name: str = ""  # name of the client; empty: the host's name with a random end, and no spool
    # ids that it may play; empty: those that come with Gymnasium
    environments: tuple[str, ...] = ()
    # wrappers of this machine, inside those of the run; see environment.wrappers
    wrappers: Wrappers = {}
    # wrappers "module:Class" that a run may request; Gymnasium's own need no permission
    allowed_wrappers: tuple[str, ...] = ()
    # values of this machine for arguments that the run lists in environment.client_kwargs
    kwargs: Kwargs = {}
    # the same for the limit of an episode; empty: the run's
    max_episode_steps: Natural | None = None
    # give each client on this machine another one; "{index}" counts on from it
    number: Annotated[int, Meta(ge=1, le=10_000)] = 1
    outbox_mb: Positive = 64.0  # memory for experience while the server cannot be reached, in MB
    # disk space for the same, in MB; 0, or a client without a name: no spool on disk
    spool_mb: Annotated[float, Meta(ge=0)] = 256.0
    # largest file of the newest weights that all your clients on this machine share, so that one
    # downloads each version for all of them, in MB; 0: each downloads for itself
    shared_weights_mb: Annotated[float, Meta(ge=0)] = 64.0
    # record the steps of eight or more environments of one process together, which takes less time
    record_together: bool = True
    video: str = ""  # folder for videos of greedy episodes; empty: none are recorded
    videos: Count = 10  # newest videos that are kept there
    spool: str = ""  # folder of the spool; empty: soulsai/spool in the user's cache folder


class WatchdogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Restarts of an isolated environment; each machine has its own values, as for `client`."""

    step_seconds: Positive = 10.0  # restart it if a step takes longer, in seconds
    reset_seconds: Positive = 120.0  # restart it if a reset takes longer, in seconds
    start_seconds: Positive = 180.0  # restart it if its start takes longer, in seconds
    # restart it if it is slower than this; 0: never
    steps_per_minute: Annotated[float, Meta(ge=0)] = 0.0
    slow_seconds: Positive = 60.0  # time in the environment over which that is measured, in seconds
    # restart it if its processes use more memory, in MB; 0: no limit
    memory_mb: Annotated[float, Meta(ge=0)] = 0.0
    # time between planned restarts, against memory leaks, in hours; 0: none
    restart_hours: Annotated[float, Meta(ge=0)] = 0.0
    restart_episodes: Natural = 0  # episodes between planned restarts; 0: none
    most_faults: Count = 5  # faults in a row after which the client pauses
    rest_seconds: Positive = 300.0  # length of that pause, in seconds
    # names of programs (e.g. Game.exe) to kill together with the environment; every process of that
    # name is killed
    programs: tuple[str, ...] = ()


class FragmentSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The fragments in which clients send experience."""

    steps: Annotated[int, Meta(ge=1, le=512)] = 64  # env steps after which a fragment is sent
    seconds: Positive = 1.0  # time after which a shorter one is sent, in seconds


class TrainingSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The training node around the algorithm."""

    # shortest time between two versions of the weights, in seconds, unless clients wait for one
    publish_seconds: Positive = 1.0
    # the most that all clients together download as weights, in megabits per second: with many
    # clients or large networks, the time between two versions grows; 0: no limit
    weights_mbps: Annotated[float, Meta(ge=0)] = 240.0
    # number format in which matrices are sent: float32, or float16 with half the bytes; clients
    # act with the rounded numbers, and actions are checked against these
    weights_dtype: Literal["float32", "float16"] = "float32"
    # send most versions as the difference to the last whole one, in a quarter of the bytes, where
    # weights_mbps would make them rarer than publish_seconds
    weights_deltas: bool = True
    # longest time for which messages of more than 32 clients gather before they are read together,
    # in seconds; 0: they are read as they come, which costs a core for every thousand clients
    read_seconds: Annotated[float, Meta(ge=0, le=1)] = 0.2
    device: str = "cpu"  # device of the networks: cpu, mps, cuda or cuda:1
    # torch's threads; 0: two where a measurement at the start finds them much faster than one, and
    # there is a core that no local client needs
    threads: Natural = 0
    # compile updates to machine code; auto: where that is faster
    compile: Literal["auto", "never", "always"] = "auto"
    # find and set priorities of replay by code that is compiled at the start, in about 0.1 s;
    # false, or without a C++ compiler: by NumPy, which takes twice as long
    compile_replay: bool = True
    # keep what is compiled in the user's cache folder, so that the next run begins with it
    compile_cache: bool = True
    # number format in which compiled updates multiply the matrices of hidden layers: float32 or
    # bfloat16; auto: bfloat16 if this machine is faster with it
    matmul: Literal["auto", "float32", "bfloat16"] = "float32"
    # memory for recent versions, of which the best is saved later, in MB
    kept_weights_mb: Positive = 64.0
    # return to the checkpoint of the best model when the evaluator finds a far worse one
    rollback_on_regression: bool = False
    # folder in which each run keeps all experience as it comes, for `soulsai export`, in a folder
    # of its own; empty: nothing is kept
    keep_experience: str = ""
    keep_experience_mb: Positive = (
        1024.0  # with keep_experience: size per run; the oldest gives way
    )
    # a client may send at most this many times what the fastest other one sends; 0: no limit
    most_times: Annotated[float, Meta(ge=0)] = 50.0


class OfflineSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Learning from data sets alone, by `soulsai train --offline`."""

    updates: Count = 20_000  # updates in all
    # weight of the term against actions that the data do not hold
    conservative: Annotated[float, Meta(ge=0)] = 1.0


class StartSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Another policy to begin with: its networks and its normaliser, nothing else."""

    # a run by its id or folder, the folder of a checkpoint, or a policy.onnx; empty: none
    policy: str = ""
    partial: bool = False  # take the weights that fit, even if others do not


class TrustSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Checks of clients that do not play the published policy."""

    # on actions that do not follow the weights: report them, exclude the client (quarantine), or
    # off
    action_check: ActionCheckMode = "report"


class CheckpointSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Checkpoints, from which a run is resumed."""

    # longest time between two checkpoints, in minutes; 0: no limit
    minutes: Annotated[float, Meta(ge=0)] = 5.0
    every: Count = 10_000  # updates between two checkpoints, if those take less time
    keep: Count = 3  # number of checkpoints that are kept, the newest ones
    # save the replay buffer, too: slower, but a resumed run need not fill it again
    replay: bool = True


class EvaluateSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The evaluator, which plays checkpoints on fixed seeds beside the run."""

    # evaluate every so many checkpoints; 0: never; auto: each one, if `train` leaves a core free
    every: Natural | Literal["auto"] = "auto"
    # episodes of an evaluation; a model that may be a new best gets up to three times as many
    episodes: Annotated[int, Meta(ge=4, le=1000)] = 20
    seed: Natural = 2_000_000  # seed of the first one; the others follow
    # largest share of the time in which it works; it rests after each model, because learning
    # beside it is slower (by 6 % on two cores), and goes on with the newest checkpoint
    share: Annotated[float, Meta(gt=0, le=1)] = 0.3
    # a model is far worse than the best if it has lost this share of what the best has gained since
    # the first evaluation, and their intervals are as far apart
    regression: Annotated[float, Meta(ge=0, le=10)] = 0.25
    videos: Natural = 20  # best models of which videos are kept, the newest; 0: no videos
    video_episodes: Count = 2  # episodes that are recorded of each
    video_seconds: Positive = 60.0  # longest part of an episode in a video, in seconds
    video_mb: Positive = 8.0  # largest video, in MB


class TelemetrySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The record of episodes."""

    window: Count = 20  # episodes in the moving average by which models are compared
    figure_every: Count = 2  # episodes between two drawings of telemetry.png
    # additional numbers of each episode, such as {win: "reward > 200", hours: "timer / 3600"}
    metrics: dict[str, str] = {}
    # number by which the best model is chosen: reward, steps, seconds or a name of metrics
    best_metric: str = "reward"
    best_smaller: bool = False  # a smaller number is better
    tensorboard: bool = True  # write event files for TensorBoard into the run's folder
    wandb: str = ""  # project of Weights & Biases that receives the numbers; empty: none
    # offline: keep them in the run's folder, for `wandb sync`
    wandb_mode: Literal["online", "offline"] = "online"
    # file with the address that receives news, such as that of a chat; empty: none
    webhook: str = ""
    # sinks of other packages that receive the numbers, with options of each: {lines: {name: a.txt}}
    sinks: dict[str, dict[str, Any]] = {}
    record_mb: Positive = 64.0  # size at which results.jsonl is continued in a new file, in MB


class WebSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The page of the telemetry node, its API, and the data source for Grafana."""

    enabled: bool = True  # serve the page
    bind: str = "127.0.0.1"  # address to listen on; any but loopback needs an operator_token
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080  # port of the page; 0: any free one
    hosts: tuple[str, ...] = ()  # names under which browsers reach it, e.g. train.example.org
    # file of the token to look and to control; empty: none is needed on loopback
    operator_token: str = ""
    viewer_token: str = ""  # file of the token to look only; empty: there is none


class MetricsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The training node's metrics for Prometheus; those of the telemetry node are on its page."""

    bind: str = "127.0.0.1"  # address to listen on; everyone who reaches it may read the numbers
    port: Annotated[int, Meta(ge=0, le=65_535)] = 0  # port, such as 9101; 0: not served


class AlgorithmSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The algorithm; its settings are in the section of its name."""

    name: str = "dqn"  # one of the sections below, or an algorithm of another package
    options: dict[str, Any] = {}  # settings of an algorithm of another package


class Config(AlgorithmSections, frozen=True, forbid_unknown_fields=True):
    """All settings: the sections below, and one for each built-in algorithm."""

    run: RunSettings = RunSettings()
    redis: RedisSettings = RedisSettings()
    environment: EnvironmentSettings = EnvironmentSettings()
    client: ClientSettings = ClientSettings()
    watchdog: WatchdogSettings = WatchdogSettings()
    fragments: FragmentSettings = FragmentSettings()
    training: TrainingSettings = TrainingSettings()
    demonstrations: DemonstrationSettings = DemonstrationSettings()
    start: StartSettings = StartSettings()
    offline: OfflineSettings = OfflineSettings()
    trust: TrustSettings = TrustSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    web: WebSettings = WebSettings()
    metrics: MetricsSettings = MetricsSettings()
    algorithm: AlgorithmSettings = AlgorithmSettings()

    @property
    def learner(self) -> LearnerSettings | dict[str, Any]:
        """The settings of the chosen algorithm: its section, or the options of another package."""
        name = self.algorithm.name
        section: LearnerSettings | None = getattr(self, name) if name in BUILT_IN else None
        return self.algorithm.options if section is None else section


# Settings of earlier versions: the value that is ignored, and the reason against any other.
REMOVED: dict[str, tuple[Any, str]] = {
    "training.ranks": (
        1,
        "one learner no longer runs as several processes, which made it slower; remove this line, "
        "and add clients instead",
    ),
}


def check(config: Config) -> Config:
    """Return the settings, or raise ``ConfigError`` for the first that contradict each other."""
    for fault in _faults(config):
        raise ConfigError(fault)
    return config


def to_json(config: Config) -> str:
    """Return all settings as indented JSON, the form of a run's ``config.json``."""
    return msgspec.json.format(msgspec.json.encode(config), indent=2).decode() + "\n"


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return address == "localhost" or ip_address(address).is_loopback
    except ValueError:
        return False


def sections(config: Config) -> dict[str, Struct]:
    """Return the sections by name, those of algorithms last."""
    found = msgspec.structs.asdict(config)
    return {name: found[name] for name in sorted(found, key=lambda name: name in BUILT_IN)}


def _faults(config: Config) -> Iterator[str]:
    """Yield each mistake in settings that are right one by one."""
    for path, value in (
        ("run.saves", config.run.saves),
        ("environment.id", config.environment.id),
        ("environment.mask_key", config.environment.mask_key),
    ):
        if not value.strip():
            yield f"{path}: must not be empty"
    yield from _environment_faults(config.environment)
    yield from _unquoted("environment.kwargs", config.environment.kwargs)
    for stage in config.environment.schedule:
        yield from _unquoted("environment.schedule", stage.kwargs)
    yield from _unquoted("client.kwargs", config.client.kwargs)
    if config.client.name and not re.match(NAME_PATTERN, config.client.name):
        yield f"client.name: {config.client.name!r} is not a name of a-z, 0-9, _ and -, at most 64"
    if not is_loopback(config.web.bind) and not config.web.operator_token and config.web.enabled:
        yield (
            f"web.bind: {config.web.bind!r} can be reached from elsewhere; "
            "name the file of a token as web.operator_token"
        )
    telemetry = config.telemetry
    keys = config.environment.info_keys
    yield from episode_metrics.faults(telemetry.metrics, telemetry.best_metric, keys)
    if not re.match(r"(cpu|mps|cuda(:\d+)?)\Z", config.training.device):
        yield f"training.device: {config.training.device!r}; choose cpu, mps, cuda or cuda:<number>"
    try:
        url = urlsplit(config.redis.url)
    except ValueError as error:
        yield f"redis.url: {error}"
        return
    if config.redis.url and url.scheme not in ("redis", "rediss", "unix", "sentinel"):
        yield f"redis.url: {config.redis.url!r}; begin with redis://, rediss://, unix://, sentinel://"
    if url.password:
        yield f"redis.url: holds a password; put it into {config.redis.secrets}/redis.secret"
    for name in BUILT_IN:
        section: LearnerSettings = getattr(config, name)
        yield from (f"{name}.{problem}" for problem in section.problems())


def _environment_faults(environment: EnvironmentSettings) -> Iterator[str]:
    for name, value in environment.image.items():
        wanted = _IMAGE.get(name)
        if wanted is None or type(value) is not wanted:
            yield f"environment.image: {name}: {value}; wanted size: 84, grey: true or stack: 4"
    if environment.vector and (environment.realtime or environment.isolate is True):
        yield (
            "environment.vector: the package's own vector environment is played in the client's "
            "process; set environment.realtime and environment.isolate to false"
        )
    if environment.vector and environment.schedule:
        yield (
            "environment.schedule: a vector environment begins its episodes by itself, and cannot "
            "take other arguments; set environment.vector to false"
        )
    steps = [stage.env_step for stage in environment.schedule]
    for before, after in pairwise(steps):
        if after <= before:
            yield f"environment.schedule: env_step {after} after {before}; wanted growing env steps"
    if len(environment.action_range) == 1:
        yield "environment.action_range: one number; wanted [low, high]"


def _unquoted(path: str, kwargs: Kwargs) -> Iterator[str]:
    for name, value in kwargs.items():
        if value == {"index": None}:
            yield f'{path}.{name}: {{index}} is a mapping in YAML; write "{{index}}", in quotes'
