"""One run under attack: honest clients alone and attacked, in turns, and the state at the end."""

import json
import statistics
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, field

import psutil

from soulsai import connect
from soulsai.errors import WireError
from soulsai.identity.users import Enrolment, invite
from soulsai.types import Pardon
from soulsai.wire.redis.connection import RedisConnection, scan
from soulsai.wire.secrets import server_for
from tests.chaos.stage import LEARNER, TELEMETRY, Stage
from tests.chaos.watch import slowness

from .attacker import Attacker

ATTACKER = "villain"
ENVIRONMENT = "CartPole-v1"
STEP_SECONDS = 0.1  # of the honest games
HONEST = 8
SOLO_SECONDS = 20.0
ATTACK_SECONDS = 60.0
SETTLE_SECONDS = 4.0  # after a change of turns, not measured
WARM_SECONDS = 300.0  # before memory is expected to be steady
READY_SECONDS = 180.0
LEARN_STEPS = 50_000  # of the target T1
LEARN_SECONDS = 900.0
EPISODES = 100
PAGE_SECONDS = 5.0
VISIT_SECONDS = 15.0  # of a visitor under attack, on a machine that is busy

SHARE = 0.95
SLOPE = 1.0  # MB per minute
REWARD = 475.0
RECOVERY_SECONDS = 5.0

SETTINGS = (
    f"environment.id={ENVIRONMENT}",
    "environment.largest_reward=1",
    "run.max_env_steps=0",
    "run.clients=0",
    "run.seed=1",
    "algorithm.name=dqn",
    "dqn.replay_ratio=0.5",  # this and the next three: so that two cores keep up with the honest
    "dqn.hidden=[64, 64]",
    "dqn.quantiles=1",
    "training.compile=never",
    "training.kept_weights_mb=4",
    "dqn.capacity=20000",  # both are full after some minutes, so that memory can be steady
    "telemetry.figure_every=1000",
    "telemetry.tensorboard=false",
)


@dataclass
class Result:
    """The figures of one run; see ``faults``."""

    seed: int
    minutes: float = 0.0
    messages: int = 0  # that the server accepted
    messages_per_second: float = 0.0  # while the attacker attacked
    entries: int = 0
    attacks: dict = field(default_factory=dict)  # kind: how often
    errors: dict = field(default_factory=dict)  # of the attacker, by attack and kind
    ends: dict = field(default_factory=dict)  # of nodes and of the server
    rejected: dict = field(default_factory=dict)  # messages by reason
    solo: float = 0.0  # env steps per second of all honest clients
    attacked: float = 0.0
    shares: list = field(default_factory=list)  # attacked / solo, by turn
    share: float = 0.0
    slopes: dict = field(default_factory=dict)  # MB per minute, by process
    largest_mb: dict = field(default_factory=dict)
    page_seconds: float | None = None  # to an answer after the attack
    page_attacked: list = field(default_factory=list)  # seconds to an answer at the end of a turn
    recovery: dict = field(default_factory=dict)  # seconds, by attack
    slow: float = 1.0  # times slower than the reference machine
    load: float = 0.0  # mean number of running processes
    left: list = field(default_factory=list)  # keys, users and connections after revoke
    revoked: str = ""  # how the attacker noticed
    reward: float | None = None  # mean of greedy episodes at the end
    learnt_steps: int = 0  # after the purge
    notes: list = field(default_factory=list)


def faults(result, *, least=0, share=SHARE, learnt=True):
    """Return the promises that were broken.

    Args:
        result: The result of a run.
        least: Messages that must have been sent.
        share: Least ratio of the honest clients' rates under attack and alone.
        learnt: Whether learning was measured.
    """
    slow = {
        name: seconds
        for name, seconds in result.recovery.items()
        if seconds > RECOVERY_SECONDS * result.slow
    }
    checks = {
        f"{result.messages} messages of {least}": result.messages >= least,
        f"ends {result.ends}": not result.ends,
        f"honest share {result.share:.3f} below {share}": result.share >= share,
        f"memory grows by {result.slopes} MB per minute": all(
            slope <= SLOPE for slope in result.slopes.values()
        ),
        "the page does not answer": result.page_seconds is not None,
        f"a new node took {slow} s": not slow,
        f"left on the server: {result.left}": not result.left,
        f"the attacker was not shut out: {result.revoked!r}": result.revoked == "access denied",
        f"reward {result.reward} below {REWARD}": not learnt
        or (result.reward is not None and result.reward >= REWARD),
    }
    return [text for text, holds in checks.items() if not holds] + result.notes


class HonestStage(Stage):
    """A stage whose clients are those of the product."""

    def chosen(self):
        """Return the settings of the run."""
        return SETTINGS

    def client(self, number):
        """Return one more client, not started yet."""
        name = f"client-{number}"

        def words(life):
            del life
            return [
                "client", str(self.settings(name)), "--step-delay", str(STEP_SECONDS),
                "--seed", str(number), "--set", f"client.spool={self.folder / 'spools'}",
            ]  # fmt: skip

        return self._actor(name, words)


class Trial:
    """A stage, its attacker and its measurements."""

    def __init__(self, stage, result, *, per_second, page, say):
        self.stage, self.result, self.say = stage, result, say
        self.samples = []  # (seconds, {process: MB}) while attacked or not
        self._page, self._per_second = page, per_second
        self._loads = []
        self._open = ExitStack()
        self._sampled = 0.0
        self._began = time.monotonic()
        self._redis = stage.config().redis
        self._run = stage.config().run.name

    def begin(self):
        """Start everybody, enrol the attacker, and wait until the honest clients play."""
        self.stage.start()
        config = self.stage.config()
        self.wire = self._open.enter_context(connect.telemetry(config))
        self.operator = self._open.enter_context(connect.operator(config))
        link = RedisConnection(server_for("admin", self._redis), "admin")
        try:
            password = Enrolment(link, self.stage.broker.secrets).enroll(ATTACKER, run=self._run)
        finally:
            link.close()
        line = invite(self._redis, self._run, ATTACKER, password, self._redis.url)
        self.attacker = Attacker(
            line, self.result.seed, per_second=self._per_second, page=self._page
        )
        if self.until(self._is_learning, READY_SECONDS) is None:
            tails = [(child.name, child.tail(3)) for child in self.stage.everybody]
            raise OSError(f"it did not begin: {self.stage.over} {tails}")

    def _is_learning(self):
        status = self.status()
        learns = status is not None and status.phase == "learning"
        return learns and len(self.admitted()) == len(self.stage.clients)

    def close(self):
        """Close our connections."""
        self._open.close()

    def status(self):
        """Return the newest status, or ``None``."""
        try:
            return self.wire.status()
        except WireError:
            return None

    def admitted(self):
        """Return the admitted env steps of the honest clients that have any."""
        status = self.status()
        clients = status.clients if status is not None else ()
        return {c.client: c.admitted for c in clients if c.client != ATTACKER and c.admitted}

    def tend(self):
        """Restart processes that ended, and count their ends."""
        for name in self.stage.tend():
            self.result.ends[name] = self.result.ends.get(name, 0) + 1
            self.say(f"{name} ended and was started again")
        now = time.monotonic()
        if now - self._sampled >= 2.0:
            self._sampled = now
            self.samples.append((now - self._began, self._memory()))
            self._loads.append(psutil.getloadavg()[0])
            self.result.load = round(statistics.fmean(self._loads), 1)

    def until(self, holds, seconds):
        """Wait until something holds; return the seconds that took, or ``None``."""
        began = time.monotonic()
        while not holds():
            self.tend()
            if self.stage.over or time.monotonic() - began > seconds:
                return None
            time.sleep(0.05)
        return time.monotonic() - began

    def pace(self, seconds):
        """Return the honest env steps per second over the next seconds."""
        self.until(lambda: False, SETTLE_SECONDS)
        before, began = self.admitted(), time.monotonic()
        self.until(lambda: False, seconds)
        after, took = self.admitted(), time.monotonic() - began
        return sum(after.get(name, 0) - steps for name, steps in before.items()) / took

    def turns(self, seconds, *, solo=SOLO_SECONDS, attack=ATTACK_SECONDS, least=0):
        """Let the honest clients play alone and attacked, in turns, until time and number are up.

        Args:
            seconds: Least duration.
            solo: Seconds of a turn without attack.
            attack: Seconds of a turn with attack.
            least: Messages to send.
        """
        began, attacked = time.monotonic(), 0.0
        alone, under = [], []
        limit = 2 * seconds
        while (spent := time.monotonic() - began) < seconds or (
            self.attacker.sent < least and spent < limit
        ):
            if self.stage.over:
                break
            alone.append(self.pace(solo))
            self._pardon()
            self.attacker.active.set()
            since = time.monotonic()
            under.append(self.pace(attack))
            self._visit()
            self.attacker.active.clear()
            attacked += time.monotonic() - since
            status = self.status()
            self.say(
                f"{spent:6.0f} s  solo {alone[-1]:.1f}  attacked {under[-1]:.1f} env steps/s  "
                f"{self.attacker.sent} messages  memory {self.samples[-1][1]}  "
                f"reward {status.reward_mean if status else None}"
            )
        result = self.result
        result.minutes = round((time.monotonic() - began) / 60, 2)
        result.messages, result.entries = self.attacker.sent, self.attacker.entries
        result.messages_per_second = round(self.attacker.sent / attacked, 1)
        result.solo = round(statistics.fmean(alone), 2)
        result.attacked = round(statistics.fmean(under), 2)
        result.shares = [round(u / a, 3) if a else 0.0 for a, u in zip(alone, under, strict=True)]
        result.share = round(result.attacked / result.solo, 4) if result.solo else 0.0

    def recover(self, attacks):
        """Kill the training node after each attack, and measure when the next one serves."""
        for attack in attacks:
            self._pardon()
            self.attacker.only(attack)
            status = self.status()
            if status is None:
                self.result.notes.append(f"no status after {attack}")
                return
            generation = status.generation
            self.stage.learner.kill_now()
            began = time.monotonic()
            self.stage.learner.wait(5.0)
            self.stage.learner.start()
            took = self.until(lambda g=generation: self._serves(g), READY_SECONDS)
            if took is None:
                self.result.notes.append(f"no node serves after {attack}")
                return
            self.result.recovery[attack] = round(time.monotonic() - began, 2)
        self.result.slow = slowness()

    def _serves(self, generation):
        status = self.status()
        return status is not None and status.generation > generation and status.env_steps_per_second

    def judge(self):
        """Note what lives, and how memory grows."""
        if self.stage.broker.tail() and not psutil.pid_exists(self.stage.broker.pid):
            self.result.ends["redis"] = 1
        self.result.ends |= {line.partition(" ")[0]: 1 for line in self.stage.over}
        status = self.status()
        if status is None:
            self.result.notes.append("no status at the end")
        else:
            self.result.rejected = dict(status.rejected)
        if self._page:
            self.result.page_seconds = self._answered("/healthz", PAGE_SECONDS)
        late = [(at, mb) for at, mb in self.samples if at >= WARM_SECONDS]
        for name in self.samples[-1][1]:
            self.result.largest_mb[name] = max(mb[name] for _, mb in self.samples if name in mb)
            points = [(at / 60, mb[name]) for at, mb in late if name in mb]
            if len(points) > 60:
                slope, _ = statistics.linear_regression(*zip(*points, strict=True))
                self.result.slopes[name] = round(slope, 3)
        self.result.attacks = dict(self.attacker.done)
        self.result.errors = {
            f"{attack}: {kind}": n for (attack, kind), n in sorted(self.attacker.errors.items())
        }
        if self.attacker.failure:
            self.result.notes.append(f"the attacker failed: {self.attacker.failure}")

    def revoke(self):
        """Purge and revoke the attacker as an operator does; note what is left on the server."""
        self.attacker.active.set()
        for command in ("purge", "revoke"):
            self._soulsai(command, ATTACKER)
        self.until(lambda: bool(self.attacker.failure), 10.0)
        self.result.revoked = self.attacker.failure
        self.until(lambda: False, 2.0)
        link = RedisConnection(server_for("admin", self._redis), "admin")
        try:
            left = [key for key in scan(link, "*") if ATTACKER in key]
            users = link.execute("ACL", "USERS")
            listed = link.execute("CLIENT", "LIST").decode().splitlines()
        finally:
            link.close()
        left += [user.decode() for user in users if ATTACKER in user.decode()]
        left += [line for line in listed if ATTACKER in line]
        self.result.left = left

    def learn(self, steps=LEARN_STEPS):
        """Let the honest clients play on; evaluate the last checkpoint."""
        status = self.status()
        first = status.env_steps if status else 0
        self.until(lambda: (s := self.status()) and s.env_steps >= first + steps, LEARN_SECONDS)
        status = self.status()
        self.result.learnt_steps = status.env_steps - first if status else 0
        run = self.stage.run_folder
        self.stage.end(self.stage.clients)
        for name, (_, code) in self.stage.end([self.stage.learner, self.stage.telemetry]).items():
            if code:
                self.result.notes.append(f"{name} ended with {code}")
        said = self._soulsai("evaluate", str(run), "--episodes", str(EPISODES), server=False)
        self.result.reward = json.loads(said.splitlines()[-1])["mean"] if said else None

    def _pardon(self):
        status = self.status()
        held = [c.client for c in status.clients if c.held] if status is not None else []
        if ATTACKER in held:
            self.operator.command(Pardon(ATTACKER), timeout=30.0)

    def _soulsai(self, *words, server=True):
        """Run a command with the operator's settings; return its output."""
        options = ["--redis", self._redis.url, "--secrets", str(self.stage.broker.secrets)]
        command = [sys.executable, "-m", "soulsai", *words, *(options if server else []), "--json"]
        done = subprocess.run(
            command, env=self.stage.environ, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            self.result.notes.append(f"{words[0]} failed: {done.stderr.strip()}")
        return done.stdout

    def _visit(self):
        """Look at the page as a visitor does while the attacker attacks."""
        if self._page:
            self.result.page_attacked.append(self._answered("/api/v1/runs", VISIT_SECONDS))

    def _answered(self, path, patience):
        """Return the seconds to a whole answer of the page, or ``None`` and a note."""
        began = time.monotonic()
        url = f"http://127.0.0.1:{self._page}{path}"
        try:
            with urllib.request.urlopen(url, timeout=patience) as answer:
                answer.read()
        except OSError as error:
            self.result.notes.append(f"page: {path}: {error}")
            return None
        return round(time.monotonic() - began, 3)

    def _memory(self):
        pids = {
            LEARNER: self.stage.learner.pid,
            TELEMETRY: self.stage.telemetry.pid,
            "redis": self.stage.broker.pid,
        }
        sizes = {}
        for name, pid in pids.items():
            if pid is not None and psutil.pid_exists(pid):
                sizes[name] = round(psutil.Process(pid).memory_info().rss / 2**20, 1)
        return sizes


def run(
    folder, links, result, *, seconds, least, per_second, page, say,
    clients=HONEST, sets=(), learn=LEARN_STEPS, recoveries=(), **turns,
):  # fmt: skip
    """Attack a run; fill in the result.

    Args:
        folder: Folder for all that is written.
        links: The links between everybody and the server.
        result: The ``Result`` to fill in.
        seconds: Least duration of the turns.
        least: Messages to send.
        per_second: Messages per second while the attacker attacks.
        page: Port for the page.
        say: Receives lines about the progress.
        clients: Number of honest clients.
        sets: More settings.
        learn: Env steps to learn after the purge; 0 for none.
        recoveries: The attacks after which a new node is measured; empty for all.
        turns: Of ``Trial.turns``.
    """
    settings = (*sets, "web.enabled=true", f"web.port={page}")
    with HonestStage(folder, links, clients=clients, sets=settings) as stage:
        trial = Trial(stage, result, per_second=per_second, page=page, say=say)
        try:
            trial.begin()
            with trial.attacker:
                trial.turns(seconds, least=least, **turns)
                trial.judge()
                trial.recover(recoveries or trial.attacker.single)
                trial.revoke()
            if learn:
                trial.learn(learn)
        finally:
            trial.close()
