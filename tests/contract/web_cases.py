"""Runs on disk, a training node that answers, and a page over them, for the tests of the page."""

import contextlib
import hashlib
import http.client
import json
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from soulsai.config.schema import (
    Config,
    EnvironmentSettings,
    RunSettings,
    TelemetrySettings,
    WebSettings,
)
from soulsai.errors import ConfigError, Unreachable
from soulsai.telemetry_node.node import serve
from soulsai.types import (
    PROTOCOL,
    ActionSpec,
    Answer,
    ClientStatus,
    EnvironmentOffer,
    Episode,
    Head,
    Leaf,
    Pardon,
    Pause,
    Program,
    Promote,
    Purge,
    Resume,
    RunSpec,
    Spec,
    Status,
    Stop,
)
from soulsai.wire.weights import program_digest
from tests.memory_server import MemoryServer

PROGRAM = Program(b"graph", "weights", ("obs",), ("q",), Head("epsilon_greedy"), {})
LIVE = "2026-11-22_16-05-33_lunarlander-v3_dqn_7f3a"
ANYWHERE = WebSettings(port=0)
BEGAN = 1_795_363_533.0  # Unix seconds


def settings(saves: Path, web: WebSettings = ANYWHERE, seed: int = 7, lr: float = 5e-4) -> Config:
    config = Config(
        run=RunSettings(saves=str(saves), seed=seed, max_env_steps=1_000_000),
        environment=EnvironmentSettings(info_keys=("landed",)),
        telemetry=TelemetrySettings(figure_every=10**9),
        web=web,
    )
    return msgspec.structs.replace(config, dqn=msgspec.structs.replace(config.dqn, lr=lr))


def episode(number: int, total: int, rng: random.Random, began: float = BEGAN) -> Episode:
    """Return one episode of a run that learns."""
    share = number / total
    skill = -180 + 420 / (1 + math.exp(-9 * (share - 0.4)))
    greedy = rng.random() < 0.08
    reward = skill + rng.gauss(0, 45 if greedy else 70)
    return Episode(
        generation=1, version=1 + number // 4, episode=number, reward=round(reward, 3),
        steps=max(60, int(rng.gauss(240, 60))), seconds=2.5, terminated=rng.random() < 0.9,
        greedy=greedy, epsilon=0.0 if greedy else 0.1,
        info={"landed": float(reward > 200)},
        client=f"client-{1 + number % 4}", env_steps=240 * (number + 1), time=began + 3.0 * number,
    )  # fmt: skip


def status(run: str = LIVE, **changes: object) -> Status:
    """Return the status of a training node at work."""
    clients = [
        client("client-1", "active"), client("client-2", "active"),
        client("client-3", "waiting", queued=3), client("volunteer-9d", "lost", seen=312.0),
    ]  # fmt: skip
    fields: dict[str, object] = {
        "run": run, "generation": 1, "phase": "learning", "algorithm": "dqn",
        "environment": "LunarLander-v3", "env_steps": 480_000, "max_env_steps": 1_000_000,
        "updates": 478_000, "version": 501, "episodes": 2000, "seconds": 6000.0,
        "env_steps_per_second": 1480.0, "updates_per_second": 1475.0, "replay_ratio": 0.996,
        "reward_mean": 214.6, "reward_trend": 8.2, "lag": 1.4,
        "rejected": {"stale": 12, "action": 1}, "duplicates": 4, "lost": 64, "dropped": 0,
        "bytes_received": 26_000_000, "checkpoint": "000047", "checkpoint_age": 41.0,
        "clients": tuple(clients), "metrics": {"loss": 0.412, "q_mean": 61.3, "grad_norm": 3.1},
    }  # fmt: skip
    return Status(**(fields | changes))


def client(name: str, state: str, **changes: object) -> ClientStatus:
    fields: dict[str, object] = {
        "client": name, "state": state, "steps_per_second": 490.0 if state == "active" else 0.0,
        "admitted": 160_000, "rejected": 3, "lost": 0, "dropped": 0, "queued": 0, "lag": 1,
        "seen": 0.4, "kwargs": {"game_speed": 1.5, "max_episode_steps": 500},
    }  # fmt: skip
    return ClientStatus(**(fields | changes))


def write_run(
    saves: Path, name: str, episodes: int, *, seed: int = 7, lr: float = 5e-4, began: float = BEGAN
) -> Path:
    """Write a run's folder as the nodes leave it."""
    folder = saves / name
    folder.mkdir(parents=True)
    rng = random.Random(seed)
    config = settings(saves, seed=seed, lr=lr)
    (folder / "config.json").write_bytes(msgspec.json.encode(config))
    lines = []
    for number in range(episodes):
        some = msgspec.json.encode(episode(number, max(episodes, 2000), rng, began))
        lines.append(b'{"id":"%d-0",' % (number + 1) + some[1:] + b"\n")
    (folder / "results.jsonl").write_bytes(b"".join(lines))
    over = status(name, phase="ended", env_steps=240 * episodes, episodes=episodes, clients=())
    (folder / "status.json").write_bytes(msgspec.json.encode(over))
    best = {"score": 231.7, "generation": 1, "version": 480, "env_steps": 220 * episodes,
            "episodes": episodes, "greedy": True, "time": began, "saved": True}  # fmt: skip
    (folder / "best.json").write_text(json.dumps(best))
    samples = []
    for i in range(200):
        x = i / 200
        samples.append({
            "time": began + 30.0 * i, "env_steps": 2400.0 * i, "updates": 2390.0 * i,
            "env_steps_per_second": 1480 + rng.gauss(0, 40),
            "updates_per_second": 1475 + rng.gauss(0, 40), "clients": 3.0,
            "replay_ratio": 1 - 0.3 * math.exp(-9 * x), "lag": 1.4 + rng.random(),
            "loss": 2 * math.exp(-4 * x) + rng.random() / 5,
            "q_mean": 80 / (1 + math.exp(-8 * (x - 0.4))),
            "grad_norm": 3 + rng.random(),
        })  # fmt: skip
    text = b"".join(msgspec.json.encode(sample) + b"\n" for sample in samples)
    (folder / "training.jsonl").write_bytes(text)
    write_model(folder / "best_model", {"policy.onnx": b"best", "about.json": msgspec.json.encode(
        {"type": "save_best", "generation": 1, "version": 480, "score": 231.7})})  # fmt: skip
    for number in (45, 46, 47):
        progress = {"run": name, "generation": 1, "version": 10 * number,
                    "env_steps": 5 * number * episodes, "updates": 10_000 * number}  # fmt: skip
        write_model(folder / "checkpoints" / f"{number:06d}", {
            "policy.onnx": b"policy" * number, "progress.json": msgspec.json.encode(progress),
            "network.safetensors": bytes(1 << 18)})  # fmt: skip
    return folder


def write_model(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    manifest = {}
    for name, data in files.items():
        (folder / name).write_bytes(data)
        manifest[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@dataclass
class Trainer:
    """A training node as the page sees it: it reports once a moment, and answers commands."""

    server: MemoryServer
    run: str = LIVE
    status: Status = field(default_factory=status)
    answers: bool = True
    silent: bool = False
    asked: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wire = self.server.training()
        spec = RunSpec(
            run=self.run, protocol=PROTOCOL, oldest_protocol=PROTOCOL,
            environment=EnvironmentOffer("LunarLander-v3"),
            spec=Spec({"obs": Leaf((8,), "<f4")}, ActionSpec("discrete", sizes=(4,))),
            algorithm="dqn", program_sha256=program_digest(PROGRAM),
        )  # fmt: skip
        self.wire.open(spec, PROGRAM, fresh=True)

    def play(self, *episodes: Episode) -> None:
        """Record episodes, as they ended just now."""
        self.wire.record(list(episodes))

    def work(self, over: threading.Event) -> None:
        report = 0.0
        while not over.wait(0.02):
            with contextlib.suppress(Unreachable):
                report = self.turn(report)

    def turn(self, report: float) -> float:
        for request in self.wire.requests():
            self.asked.append(request.command)
            if self.answers:
                self.wire.answer(request, self.answer(request.command))
            report = 0.0
        if not self.silent and time.monotonic() >= report:
            report = time.monotonic() + 0.5
            self.wire.report(self.status)
        return report

    def answer(self, command: object) -> Answer:
        if isinstance(command, Pause | Resume | Stop):
            phase = {Pause: "paused", Resume: "learning", Stop: "ended"}[type(command)]
            self.status = msgspec.structs.replace(self.status, phase=phase)
            return Answer(True, {Pause: "paused", Resume: "resumed", Stop: "saved"}[type(command)])
        if isinstance(command, Purge | Pardon):
            if command.client == "nobody":
                return Answer(False, "there is no client nobody")
            return Answer(True, f"{type(command).__name__.lower()}d {command.client}")
        if isinstance(command, Promote):
            return Answer(True, f"{command.model} is the best model now")
        return Answer(True, "saved 478000 updates, 480000 env steps in manual_save")


@contextmanager
def training(server: MemoryServer) -> Iterator[Trainer]:
    trainer, over = Trainer(server), threading.Event()
    thread = threading.Thread(target=trainer.work, args=(over,))
    thread.start()
    try:
        yield trainer
    finally:
        over.set()
        thread.join()


class Door:
    """Lets clients in, as ``soulsai enroll`` does."""

    def __init__(self) -> None:
        self.guests = {"volunteer-9d"}

    def can_enroll(self) -> bool:
        return True

    def enroll(self, client: str) -> str:
        if client in self.guests:
            raise ConfigError(f"{client} is enrolled already")
        self.guests.add(client)
        return f"invite-of-{client}"

    def revoke(self, client: str) -> str:
        if client not in self.guests:
            raise ConfigError(f"{client} is not enrolled")
        self.guests.remove(client)
        return f"{client} is shut out"


@contextmanager
def telemetry(config: Config, server: MemoryServer, door: Door | None = None) -> Iterator[str]:
    """Serve a telemetry node with its page; gives the page's address."""
    over, wire = threading.Event(), server.telemetry()
    failed: list[BaseException] = []
    heard: list[str] = []

    def run() -> None:
        try:
            serve(config, wire, stopped=over.is_set, connect=server.telemetry, enroller=door)
        except BaseException as error:
            failed.append(error)

    with listening(heard):
        thread = threading.Thread(target=run)
        thread.start()
        try:
            until(lambda: heard or failed)
            if not failed:
                yield heard[0]
        finally:
            over.set()
            thread.join()
    if failed:
        raise failed[0]


@contextmanager
def listening(heard: list[str]) -> Iterator[None]:
    """Hear from the log where the page is."""
    import logging

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.msg == "page url=%s" and record.args:
                heard.append(str(record.args[0]))

    logger, ear = logging.getLogger("soulsai.web.app"), Ear()
    before = logger.level
    logger.addHandler(ear)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(ear)
        logger.setLevel(before)


@dataclass
class Browser:
    """Asks a page over one connection, as a program does."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)

    def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=30)
        sent = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        if data is not None:
            sent = {"content-type": "application/json", "x-soulsai": "1"} | sent
        try:
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            kept = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, kept, answer.read()
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> object:
        code, _, data = self.ask("GET", path, **headers)
        assert code == 200, data
        return json.loads(data)

    def post(self, path: str, body: object, **headers: str) -> object:
        code, _, data = self.ask("POST", path, body, **headers)
        assert code == 200, data
        return json.loads(data)


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until a condition holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    tick = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        tick.wait(0.01)
