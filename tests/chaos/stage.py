"""A server, both nodes and clients as processes, restarted as the product restarts them."""

import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from soulsai import runs
from soulsai.config import load
from soulsai.config.layers import PREFIX
from soulsai.config.schema import ClientSettings
from soulsai.launch.child_process import Child

from . import stamps
from .broker import Broker
from .links import US

ROOT = Path(__file__).parents[2]
LEARNER, TELEMETRY = "learner", "telemetry"
SETTINGS = (
    "run.max_env_steps=0",
    "run.seed=1",
    "telemetry.figure_every=100000",
    "web.enabled=false",
)
REPLAYS = (  # of algorithms with a replay, which is the learner's ledger
    "environment.realtime=true",  # clients play on, whatever happens to the learner
    "{0}.hidden=32",
    "{0}.n_step=1",  # so that a step is a transition as soon as it is counted
    "{0}.prioritized=false",
    "{0}.capacity=4000000",  # all there will be
    "{0}.learning_starts=200",
    "{0}.replay_ratio=0.25",
    "checkpoint.every=100",
)
ROLLOUTS = ("ppo.batch_steps=256", "ppo.epochs=2", "checkpoint.every=2")
ALGORITHMS = {
    "dqn": ("dqn", stamps.Stamped, (*REPLAYS, "dqn.quantiles=1")),
    "sac": (
        "sac",
        stamps.StampedBox,
        (*REPLAYS, "sac.quantiles=1", "sac.drop=0", "sac.batch_size=32"),
    ),
    "ppo": ("ppo", stamps.Stamped, (*ROLLOUTS, "ppo.hidden=32")),  # clients wait for the learner
    "recurrent": (  # and here they do not
        "ppo",
        stamps.Stamped,
        (*ROLLOUTS, "ppo.hidden=32", "ppo.memory=16", "environment.realtime=true"),
    ),
}
PLAYER = "tests.chaos.player"
BUG = "CHAOS_BUG"  # the variable that names a bug which the product is to have
ENDING_SECONDS = 60.0


class Actor(Child):
    """A child process that can be paused, and whose command may be any module's."""

    module = "soulsai"
    _older = None  # a process that our newest one is to take over from

    def command_line(self):
        return [sys.executable, "-m", self.module, *self.words(self.starts)]

    def pause(self):
        self.send(signal.SIGSTOP)

    def go_on(self):
        self.send(signal.SIGCONT)

    def kill_now(self):
        """End the process as a crash would, whatever state it is in."""
        self.send(signal.SIGKILL)

    def double(self):
        """Start the same once more, beside the first: which must notice, and end."""
        self._older = self._process
        self.start()

    def replaced(self):
        """Return the exit code of the first, once it has ended."""
        return self._older.poll() if self._older is not None else None

    def kill(self):
        if self._older is not None and self._older.poll() is None:
            self._older.kill()
            self._older.wait()
        super().kill()

    def left(self):
        """Return the exit code if the process has ended, and forget it then."""
        code = self._process.poll() if self._process is not None else None
        if code is not None:
            self.wait(0.0)
        return code


class Stage:
    """Starts everybody, and restarts who dies; ``tend`` must be called ten times a second."""

    def __init__(
        self,
        folder,
        links,
        *,
        clients=3,
        sets=(),
        step_delay=0.01,
        durable=True,
        memory_mb=256,
        bug="",
        environ=None,
        algorithm="dqn",
        binary=None,
    ):
        self.algorithm = algorithm
        self.folder, self.links = folder, links
        self.saves, self.logs, self.ledgers = (folder / n for n in ("saves", "logs", "ledgers"))
        for path in (self.saves, self.logs, self.ledgers):
            path.mkdir(parents=True, exist_ok=True)  # it may be a disk of its own
        self.broker = Broker(
            folder / "redis",
            links.url(US),
            links.listen(),
            durable=durable,
            memory_mb=memory_mb,
            binary=binary,
        )
        self._sets = sets
        self._step_delay = step_delay
        self.environ = {
            **{key: value for key, value in os.environ.items() if not key.startswith(PREFIX)},
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
            BUG: bug,
            **(environ or {}),
        }
        learner = "tests.chaos.broken" if bug or algorithm not in ("dqn", "sac") else "soulsai"
        self.learner = self._actor(LEARNER, self._learner_words, learner)
        self.telemetry = self._actor(TELEMETRY, self._telemetry_words)
        self.clients = [self.client(number) for number in range(1, clients + 1)]
        self.over = []  # who gave up, and why

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for child in self.everybody:
            child.kill()
        self.broker.stop()

    @property
    def everybody(self):
        return [self.learner, self.telemetry, *self.clients]

    def client(self, number, **environ):
        """Return one more client, not started yet."""
        name = f"client-{number}"

        def words(life):
            ledger = self.ledgers / f"{name}-{life}.jsonl"
            return [
                str(self.settings(name)),
                *("--number", str(number), "--life", str(life), "--ledger", str(ledger)),
                *("--step-delay", str(self._step_delay)),
            ]

        return self._actor(name, words, PLAYER, **environ)

    def chosen(self):
        """Return the settings of the algorithm and its environment."""
        name, environment, settings = ALGORITHMS[self.algorithm]
        return [
            f"algorithm.name={name}",
            f"environment.id={stamps.__file__}:{environment.__name__}",
            *SETTINGS,
            *(setting.format(name) for setting in settings),
        ]

    def config(self, who=US):
        """Return the settings of one of us."""
        sets = [*self.chosen(), *self._sets, f"run.saves={self.saves}"]
        sets += [f"redis.url={self.links.url(who)}", f"redis.secrets={self.broker.secrets}"]
        config = load(None, {}, sets)
        client = ClientSettings(name=who, outbox_mb=config.client.outbox_mb)
        return msgspec.structs.replace(config, client=client) if who != US else config

    def settings(self, who):
        """Write the settings of one of us into a file, and return that."""
        path = self.folder / f"{who}.json"
        path.write_bytes(msgspec.json.encode(self.config(who)))
        return path

    def start(self):
        """Start the server, and everybody else."""
        self.broker.start()
        for child in self.everybody:
            child.start()

    def tend(self):
        """Restart who has died and is due; return the names of those who have begun a new life."""
        begun = []
        now = time.monotonic()
        for child in self.everybody:
            verdict = child.poll(now)
            if verdict is not None and verdict.then == "give up":
                self.over.append(f"{child.name} {verdict.reason}: {child.tail(3)}")
            if child.state == "restarting" and now >= child.due and child.starts:
                child.worked = True
                child.start()
                begun.append(child.name)
        return begun

    @property
    def run_folder(self):
        """The folder of the run, once there is one."""
        return next(iter(runs.every(self.saves)), None)

    def end(self, children, seconds=ENDING_SECONDS):
        """Ask some to end; return the seconds each took and its exit code, by name."""
        began = time.monotonic()
        ended = {}
        children = [child for child in children if child.pid is not None]
        for child in children:
            child.go_on()
            child.send(signal.SIGTERM)
        while len(ended) < len(children) and time.monotonic() - began < seconds:
            for child in children:
                code = child.left()
                if code is not None:
                    ended[child.name] = (time.monotonic() - began, code)
            time.sleep(0.01)
        return ended

    def _actor(self, name, words, module="soulsai", **environ):
        actor = Actor(name, words, self.logs / f"{name}.log", {**self.environ, **environ})
        actor.module = module
        return actor

    def _learner_words(self, life):
        del life
        run = self.run_folder
        saved = run is not None and any(run.glob("checkpoints/[0-9]*"))
        resume = ["--resume", run.name] if saved else []
        return ["training-node", str(self.settings(LEARNER)), *resume]

    def _telemetry_words(self, life):
        del life
        return ["telemetry-node", str(self.settings(TELEMETRY))]
