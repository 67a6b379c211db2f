"""Several processes as one training node: the first has the run, the others lend it their power.

``torchrun`` starts them alike. The first rank is a training node as ever: the wire, admission,
replay and checkpoints are its own. The others know nothing but what it tells them.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
import numpy as np
import torch

from soulsai import algorithms
from soulsai.algorithms.base import Algorithm
from soulsai.algorithms.compile.form import Form, NotCompilable, Package
from soulsai.algorithms.compile.job import Job
from soulsai.algorithms.group import Group
from soulsai.algorithms.sharing import Shareable, adopt
from soulsai.config.schema import Config
from soulsai.errors import ConfigError
from soulsai.training_node.start import Run
from soulsai.types import Fragment, Metrics

BEGIN, HOLD = "begin", "hold"
JOB = "job"

log = logging.getLogger(__name__)


def check(config: Config, size: int) -> None:
    """Raise ``ConfigError`` if so many ranks cannot share this learner's batches."""
    batches = {
        "dqn": ("dqn.batch_size", config.dqn.batch_size),
        "ppo": ("ppo.minibatch", config.ppo.minibatch),
        "sac": ("sac.batch_size", config.sac.batch_size),
    }
    where, batch = batches.get(config.algorithm.name, ("", 0))
    if batch % size:
        raise ConfigError(f"{where}: {batch} cannot be divided among {size} ranks")
    if config.training.device not in ("cpu", "cuda"):
        raise ConfigError(
            f"training.device: {config.training.device!r} cannot be shared by {size} ranks; "
            "choose cpu, or cuda for a GPU each"
        )


class Leading:
    """An algorithm that all ranks update together, as the node that leads them drives it."""

    def __init__(self, algorithm: Algorithm, group: Group, job: Job) -> None:
        shared = _shareable(algorithm, job.config, group)
        self.policy, self.parts = algorithm.policy, algorithm.parts
        self._algorithm = algorithm
        self._held = shared.held
        self._group = group
        shared.share(group)
        told = torch.from_numpy(np.frombuffer(msgspec.json.encode(job), np.uint8).copy())
        group.tell(BEGIN, {}, {JOB: told})
        log.info("learning with ranks=%d", group.size)

    def __repr__(self) -> str:
        return f"<Leading [{self._group.size} ranks]>"

    def learn(self, arrivals: Iterable[Sequence[Fragment]]) -> Iterator[Metrics]:
        """Let everybody begin with the weights as they are now."""
        self._group.tell(HOLD, {}, self._held())
        return self._algorithm.learn(arrivals)

    def forms(self) -> dict[str, Form]:
        """Say why nothing is compiled."""
        raise NotCompilable(f"{self._group.size} ranks update together")

    def adopt(self, packages: Mapping[str, Package]) -> None:
        """Do nothing: there are no packages."""


def lead(run: Run, group: Group) -> Run:
    """Return a run that all ranks learn together."""
    job = Job(run.config, run.spec.spec)
    return msgspec.structs.replace(run, algorithm=Leading(run.algorithm, group, job))


def beating(group: Group, stopped: Callable[[], bool]) -> Callable[[], bool]:
    """Return ``stopped``: whoever asks it goes round, and the other ranks are told so."""

    def asked() -> bool:
        group.beat()
        return stopped()

    return asked


def follow(group: Group) -> None:
    """Do what the first rank wants, until it wants no more."""
    heard = group.heard()
    first = next(heard, None)
    if first is None:  # it could not begin, and has said why
        return
    job = msgspec.json.decode(first.columns[JOB].numpy().tobytes(), type=Job)
    training = job.config.training
    torch.set_num_threads(training.threads)
    if training.device == "cuda":
        training = msgspec.structs.replace(training, device=f"cuda:{os.environ['LOCAL_RANK']}")
    config = msgspec.structs.replace(job.config, training=training)
    # Another seed: all that counts is told, but what each draws by itself must not be the same.
    algorithm = algorithms.build(config, job.spec, seed=(config.run.seed or 0) + group.rank)
    shared = _shareable(algorithm, config, group)
    steps = shared.share(group)
    device = torch.device(training.device)
    for step, columns in heard:
        adopt(shared.held(), columns)
        if step != HOLD:
            steps[step]({name: column.to(device) for name, column in columns.items()})


def _shareable(algorithm: Algorithm, config: Config, group: Group) -> Shareable:
    if isinstance(algorithm, Shareable):
        return algorithm
    name = config.algorithm.name
    raise ConfigError(f"algorithm.name: {name} cannot be shared by {group.size} ranks")
