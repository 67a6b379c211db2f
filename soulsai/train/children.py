"""Who works on a run on this machine: the two nodes and the clients, each as a child process."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from soulsai.config.layers import PREFIX
from soulsai.config.schema import Config
from soulsai.train.child_process import Child

TRAINING, TELEMETRY = "training-node", "telemetry-node"
STARTING = ".starting-"  # the folder of the logs begins so, until the run's folder is known


class Crew:
    """The child processes of one run, and where they log."""

    def __init__(
        self,
        config: Config,
        private: Path,
        logs: Path,
        *,
        names: str,
        start: int,
        resume: Callable[[], str],
    ) -> None:
        """Line them up; nobody is started yet.

        Args:
            config: The settings for all of them, with an address and a seed.
            private: A folder that only we can read, for those settings.
            logs: The folder for their logs.
            names: What the clients' names begin with.
            start: Tells the clients' seeds of this start from those of others.
            resume: Gives the id of the run that a training node is to go on with, or nothing.
        """
        settings = private / "config.json"
        settings.touch(mode=0o600)
        settings.write_bytes(msgspec.json.encode(config))
        # These are in the settings already, and must not override the command line's once more.
        environ = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}

        def training(life: int) -> list[str]:
            del life
            run = resume()
            return [TRAINING, str(settings), *(["--resume", run] if run else [])]

        def telemetry(life: int) -> list[str]:
            del life
            return [TELEMETRY, str(settings)]

        def client(number: int) -> Callable[[int], list[str]]:
            return lambda life: [
                *("client", str(settings)),
                *("--env", config.environment.id),  # the user's own choice, so it is allowed
                *("--name", f"{names}-{number}"),
                *("--seed", str(seed(config.run.seed, start, number, life))),
            ]

        self.logs = logs
        self.training = Child(TRAINING, training, logs / f"{TRAINING}.log", environ)
        self.telemetry = Child(TELEMETRY, telemetry, logs / f"{TELEMETRY}.log", environ)
        self.clients = [
            Child(f"{names}-{number}", client(number), logs / f"client-{number}.log", environ)
            for number in range(1, config.run.clients + 1)
        ]

    def __iter__(self) -> Iterator[Child]:
        yield self.training
        yield self.telemetry
        yield from self.clients

    def move_logs(self, folder: Path) -> None:
        """Move the logs into the run's folder, now that it is known; open files move along."""
        if not self.logs.name.startswith(STARTING):
            return
        self.logs = self.logs.rename(folder / "logs")
        for child in self:
            child.log = self.logs / child.log.name

    def kill(self) -> None:
        """End all that still runs, now."""
        for child in self:
            child.kill()


def seed(run: int | None, start: int, number: int, life: int) -> int:
    """Return a client's seed: no two clients, nor two lives of one, see the same episodes."""
    return random.Random(f"{run}/{start}/{number}/{life}").getrandbits(31)
