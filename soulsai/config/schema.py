"""The whole configuration: frozen structs whose defaults are the product's defaults.

``config/config_d.yaml`` is generated from these structs and their field comments.
"""

import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from soulsai import episode_metrics
from soulsai.algorithms.registry import BUILT_IN, AlgorithmSections
from soulsai.algorithms.settings import LearnerSettings
from soulsai.errors import ConfigError
from soulsai.types import Count, Natural, Positive

NAME_PATTERN = r"\A[a-z0-9][a-z0-9_-]{0,63}\Z"
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
ActionCheckMode = Literal["off", "report", "quarantine"]


class RunSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The run as a whole."""

    name: Name = "soulsai"  # clients find the run under this name; two runs on one Redis need two
    saves: str = "saves"  # where run folders are made
    seed: Natural | None = None  # of networks, sampling and local clients; empty: drawn at start
    max_env_steps: Natural = 150_000  # admitted env steps after which the run ends; 0: never
    clients: Natural = 2  # local clients that `soulsai train` starts


class RedisSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The server between the nodes."""

    url: str = ""  # redis://, rediss://, unix:// or sentinel://; empty: `train` starts its own
    secrets: str = "config/secrets"  # folder of redis.secret and of the nodes' own secrets
    ca_file: str = ""  # authority for rediss://; empty: ca.pem of the secrets, or the system's
    insecure: bool = False  # let clients reach a server on another machine without TLS
    stream_entries: Count = 4096  # about so many entries are kept per client


class EnvironmentSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What is played."""

    id: str = "LunarLander-v3"  # a Gymnasium id, "module:Id" or "file.py:make"
    kwargs: dict[str, str | int | float | bool | None] = {}  # passed to the environment
    count: Count = 1  # environments side by side in one client
    max_episode_steps: Natural = 0  # truncate episodes after so many; 0: never ourselves
    realtime: bool = False  # never make this environment wait for the learner
    mask_key: str = "action_mask"  # the info key that says which actions are valid
    info_keys: tuple[str, ...] = ()  # numbers of the last info to keep with each episode
    spec_file: str = ""  # JSON written by `soulsai check-env --save`, if the server cannot make it
    isolate: bool | Literal["auto"] = "auto"  # in a process of its own; auto: if realtime


class ClientSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """A client's own affairs; nothing here is taken from the server."""

    name: str = ""  # empty: made from the host's name and a random suffix
    environments: tuple[str, ...] = ()  # ids it may play; empty: those that ship with Gymnasium
    outbox_mb: Positive = 64.0  # experience kept in memory while the server cannot be reached
    spool_mb: Annotated[float, Meta(ge=0)] = 256.0  # and on disk, if it has a name; 0: none
    spool: str = ""  # folder for that; empty: soulsai/spool in the user's folder for caches


class WatchdogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """When a client starts an isolated environment again; its own affair, as all of `client`."""

    step_seconds: Positive = 10.0  # without an answer to a step: it hangs
    reset_seconds: Positive = 120.0  # the same for a reset
    start_seconds: Positive = 180.0  # the same for its start
    steps_per_minute: Annotated[float, Meta(ge=0)] = 0.0  # fewer are too few; 0: any are enough
    slow_seconds: Positive = 60.0  # of the environment's time in which the steps are counted
    memory_mb: Annotated[float, Meta(ge=0)] = 0.0  # of all its processes; 0: no limit
    restart_hours: Annotated[float, Meta(ge=0)] = 0.0  # between planned restarts; 0: none
    restart_episodes: Natural = 0  # the same, in episodes
    most_faults: Count = 5  # in a row; then it rests for long between two attempts
    rest_seconds: Positive = 300.0  # so long
    programs: tuple[str, ...] = ()  # ended with it, by name, as Game.exe: all there are


class FragmentSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How clients cut experience."""

    steps: Annotated[int, Meta(ge=1, le=512)] = 64  # a fragment is sent after so many env steps
    seconds: Positive = 1.0  # or after so many seconds


class TrainingSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The training node around the algorithm."""

    publish_seconds: Positive = 1.0  # at most one version per so many seconds, unless clients wait
    device: str = "cpu"  # where the networks live: cpu, cuda, cuda:1
    threads: Count = 1  # of torch; one is fastest for small networks
    compile: Literal["auto", "never", "always"] = "auto"  # updates to machine code, if that pays
    kept_weights_mb: Positive = 64.0  # recent versions kept so that the best can still be saved
    most_times: Annotated[float, Meta(ge=0)] = 50.0  # as fast as all others one may be; 0: any


class TrustSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What the training node does about clients that do not play as they say."""

    action_check: ActionCheckMode = "report"  # actions unlike the weights: or "off", "quarantine"


class CheckpointSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What survives a crash."""

    every: Count = 10_000  # updates between two checkpoints
    keep: Count = 3  # newest checkpoints kept
    replay: bool = True  # save the replay buffer, too


class TelemetrySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The record of episodes."""

    window: Count = 20  # episodes in the moving average that decides what is best
    figure_every: Count = 2  # episodes between two drawings
    metrics: dict[str, str] = {}  # more numbers of each episode, such as win: "reward > 200"
    best_metric: str = "reward"  # in what the best is best: reward, steps, seconds or of the above
    best_smaller: bool = False  # whether less of it is better
    tensorboard: bool = True  # write event files into the run's folder
    wandb: str = ""  # project of Weights & Biases to tell; empty: none
    wandb_mode: Literal["online", "offline"] = "online"  # offline: kept in the run's folder
    webhook: str = ""  # file of an address to which news are posted, such as that of a chat
    record_mb: Positive = 64.0  # results.jsonl goes on in another file after so much


class WebSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The page that the telemetry node serves, its API, and the data source for Grafana."""

    enabled: bool = True
    bind: str = "127.0.0.1"  # address to listen on; any but loopback needs an operator's token
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080  # 0: any that is free
    hosts: tuple[str, ...] = ()  # names by which browsers ask for it, e.g. train.example.org
    operator_token: str = ""  # file of the token with which to look and to control
    viewer_token: str = ""  # file of the token with which only to look


class MetricsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What Prometheus may scrape of the training node; the telemetry node's is on its page."""

    bind: str = "127.0.0.1"  # address to listen on; whoever reaches it may read the numbers
    port: Annotated[int, Meta(ge=0, le=65_535)] = 0  # such as 9101; 0: not served


class AlgorithmSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Which algorithm learns; its settings stand in the section of its name."""

    name: str = "dqn"
    options: dict[str, Any] = {}  # for algorithms of other packages


class Config(AlgorithmSections, frozen=True, forbid_unknown_fields=True):
    """All settings: the sections below, and one for each built-in algorithm."""

    run: RunSettings = RunSettings()
    redis: RedisSettings = RedisSettings()
    environment: EnvironmentSettings = EnvironmentSettings()
    client: ClientSettings = ClientSettings()
    watchdog: WatchdogSettings = WatchdogSettings()
    fragments: FragmentSettings = FragmentSettings()
    training: TrainingSettings = TrainingSettings()
    trust: TrustSettings = TrustSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
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


# Settings of earlier versions: the value that is ignored, and why any other is refused.
REMOVED: dict[str, tuple[Any, str]] = {
    "training.ranks": (
        1,
        "one learner no longer runs as several processes, which made it slower; remove this line, "
        "and add clients instead",
    ),
}


def check(config: Config) -> Config:
    """Return the settings if they make sense together; raise ``ConfigError`` if they do not."""
    for fault in _faults(config):
        raise ConfigError(fault)
    return config


def to_json(config: Config) -> str:
    """Return all settings as indented JSON, as it is kept in the run's folder."""
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
    """Yield what is wrong with settings that are right one by one."""
    for path, value in (
        ("run.saves", config.run.saves),
        ("environment.id", config.environment.id),
        ("environment.mask_key", config.environment.mask_key),
    ):
        if not value.strip():
            yield f"{path}: must not be empty"
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
