"""A training node in a thread, an algorithm that only counts, and clients that say what we like."""

import threading
import time
from functools import cache

import msgspec
import numpy as np
import onnx
import torch

from soulsai.algorithms.base import Policy
from soulsai.config.schema import (
    CheckpointSettings,
    Config,
    EnvironmentSettings,
    RunSettings,
    TrainingSettings,
)
from soulsai.errors import NoRun
from soulsai.training_node import node, start
from soulsai.training_node.node import serve
from soulsai.types import (
    PROTOCOL,
    ActionSpec,
    Episode,
    Fragment,
    Head,
    Heartbeat,
    Hello,
    Leaf,
    Program,
    Spec,
)
from soulsai.wire.codec import encode_message, pack
from soulsai.wire.protocols import Position

SPEC = Spec({"obs": Leaf((2,), "<f4")}, ActionSpec("discrete", (), (3,)))
PATIENCE = 60.0  # seconds; for machines that have much else to do


class Linear(Policy):
    def __init__(self):
        super().__init__(Head("epsilon_greedy"), SPEC, ("q",))
        self.linear = torch.nn.Linear(2, 3)

    def forward(self, obs, memory):
        return {"q": self.linear(obs["obs"])}, memory


@cache
def program():
    """Return what export makes of ``Linear``, without its seconds."""
    inside = onnx.TensorProto
    kept_apart = {"linear.weight": Leaf((3, 2), "<f4"), "linear.bias": Leaf((3,), "<f4")}
    tensors = []
    for name, leaf in kept_apart.items():
        tensor = inside(name=name, data_type=inside.FLOAT, dims=leaf.shape)
        tensor.data_location = inside.EXTERNAL
        tensor.external_data.add(key="location", value="weights")
        tensors.append(tensor)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gemm", ["obs", *kept_apart], ["q"], transB=1)],
        "linear",
        [onnx.helper.make_tensor_value_info("obs", inside.FLOAT, ["batch", 2])],
        [onnx.helper.make_tensor_value_info("q", inside.FLOAT, ["batch", 3])],
        tensors,
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    head = Head("epsilon_greedy")
    return Program(model.SerializeToString(), "weights", ("obs",), ("q",), head, kept_apart)


class Counting:
    """Owes one update per ``per_update`` env steps; an update adds 1 to every weight.

    The reward of a step is its name, so ``names`` says what was learnt from, in order.
    """

    def __init__(self, per_update=4):
        self.policy = Linear()
        with torch.no_grad():
            for parameter in self.policy.parameters():
                parameter.zero_()
        self.names = []
        self.updates = 0
        self.per_update = per_update
        self.parts = {"policy": self.policy, "names": self}
        self.before_update = lambda: None

    def learn(self, arrivals):
        for fragments in arrivals:
            for fragment in fragments:
                self.names += fragment.reward.tolist()
            if len(self.names) // self.per_update > self.updates:
                self.before_update()
                with torch.no_grad():
                    for parameter in self.policy.parameters():
                        parameter += 1
                self.updates += 1
                yield {"updates": float(self.updates)}

    def state_dict(self):
        return {"names": np.array(self.names), "updates": self.updates}

    def load_state_dict(self, state_dict):
        self.names = state_dict["names"].tolist()
        self.updates = state_dict["updates"]


def config(saves, *, max_env_steps=0, every=10**6, keep=3, name="fake", **training):
    return Config(
        run=RunSettings(saves=str(saves), max_env_steps=max_env_steps, seed=1, clients=1),
        environment=EnvironmentSettings(id="Fake-v0"),
        checkpoint=CheckpointSettings(every=every, keep=keep),
        training=TrainingSettings(publish_seconds=0.05, **training),
    )


def wait_for(condition, what="it"):
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.005)
    return found


class Node:
    """A training node that runs while ``with`` does; leaving stops it as SIGTERM would."""

    def __init__(self, monkeypatch, server, settings, *, algorithm=None, resume="", wire=None):
        self.algorithm = algorithm or Counting()
        self.server = server
        self.operator = server.operator()
        self.status = self.error = None
        self._stop = threading.Event()
        self._settings, self._resume = settings, resume
        self._wire = wire or server.training()
        self._patch(monkeypatch)
        self._thread = threading.Thread(target=self._run, name="node")

    def _patch(self, monkeypatch):
        monkeypatch.setattr(start, "build", lambda *_, **__: self.algorithm)
        monkeypatch.setattr(node, "REPORT_SECONDS", 0.05)
        monkeypatch.setattr(start, "export", lambda *_: program())

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, kind, error, trace):
        self._stop.set()
        self.join()

    def join(self):
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the node does not end"
        if self.error is not None:
            raise self.error
        return self.status

    def ended(self):
        return not self._thread.is_alive()

    def told(self, condition=lambda status: True):
        """Return the first reported status of which ``condition`` is true."""

        def look():
            status = self.operator.status()
            return status if status is not None and condition(status) else None

        return wait_for(look, "a status")

    def _run(self):
        try:
            self.status = serve(
                self._settings, SPEC, self._wire, resume=self._resume, stopped=self._stop.is_set
            )
        except BaseException as error:
            self.error = error


class Player:
    """A client whose env steps have names: 0, 1, 2, ... over all its epochs."""

    def __init__(self, server, name="player"):
        self.wire = server.client(name)
        self.name = name
        self.named, self.episodes = 0, -1
        self.greet()

    def greet(self):
        self.spec = wait_for(self._spec, "a run")
        offer = self.spec.environment.id
        self.position = self.wire.hello(
            Hello(self.spec.run, PROTOCOL, "test", offer, 1, self.spec.crc)
        )
        self.clock = self.start = 0
        self.reward = 0.0
        self.episodes += 1

    def pointer(self):
        return wait_for(self.wire.pointer, "a version")

    def play(self, steps=4, *, ended=False, greedy=False, **changes):
        pointer = self.pointer()
        fragment = Fragment(
            client=self.name,
            epoch=self.position.epoch,
            episode=self.episodes,
            start=self.start,
            clock=self.clock,
            generation=pointer.generation,
            version=pointer.version,
            obs={"obs": np.zeros((steps + 1, 2), "f4")},
            action=np.zeros(steps, "u1"),
            reward=np.arange(self.named, self.named + steps, dtype="f4"),
            terminated=ended,
            truncated=False,
            greedy=greedy,
        )
        messages = [msgspec.structs.replace(fragment, **changes)]
        self.clock += steps
        self.named += steps
        self.start += steps
        self.reward += float(fragment.reward.sum())
        if ended:
            episode = Episode(
                pointer.generation, pointer.version, self.episodes, self.reward,
                self.start, 0.1, True, greedy, 0.0,
            )  # fmt: skip
            messages.append(episode)
            self.episodes += 1
            self.start, self.reward = 0, 0.0
        self.say(*messages)

    def beat(self, **fields):
        said = {"steps": self.clock, "episodes": 0, "dropped": 0, "queued": 0, "version": 0}
        self.say(Heartbeat(**{**said, **fields}))

    def say(self, *messages):
        self.push(pack([encode_message(message, self.spec) for message in messages]))

    def push(self, data):
        self.position = Position(self.position.epoch, self.position.seq + 1)
        self.wire.push([(self.position, data)])

    def lose(self):
        """Let an entry vanish on its way."""
        self.position = Position(self.position.epoch, self.position.seq + 1)

    def controls(self):
        return [control.op for control in self.wire.wait(0.0)]

    def _spec(self):
        try:
            return self.wire.spec()
        except NoRun:
            return None
