"""Operators' commands are announced to the telemetry node, with the role behind them."""

import pytest

from soulsai.training_node.command_handler import CommandHandler
from soulsai.types import Answer, Event, Pause, Purge, SaveBest
from soulsai.wire.protocols import Request


class Fake:
    """Stands for the wire, the saver, the quarantine and the log."""

    def __init__(self, requests):
        self.pending, self.announced, self.answered = requests, [], []

    def requests(self):
        pending, self.pending = self.pending, []
        return pending

    def announce(self, event):
        self.announced.append(event)

    def answer(self, request, answer):
        self.answered.append(answer)

    def attempt(self, act):
        act(self)
        return True

    def tell(self, control): ...

    def forget(self, client): ...

    def write(self, kind, **fields): ...

    def purge(self, client):
        return Answer(client != "nobody", f"purged {client}")


@pytest.mark.parametrize(
    ("who", "command", "announced"),
    [
        (
            "operator",
            Purge("lab"),
            [
                Event("purge", "lab"),
                Event("command", "purge lab: done, purged lab", "operator, command line"),
            ],
        ),
        (
            "operator",
            Purge("nobody"),
            [Event("command", "purge nobody: refused, purged nobody", "operator, command line")],
        ),
        ("operator", Pause(), [Event("command", "pause: done, paused", "operator, command line")]),
        ("telemetry", Pause(), []),
        ("telemetry", Purge("lab"), [Event("purge", "lab")]),
        ("telemetry", SaveBest(1, 1, 1.0), []),
    ],
)
def test_commands_are_announced(who, command, announced):
    fake = Fake([Request(who, "1", command)])
    CommandHandler(fake, fake, fake, fake, lambda *_: None).serve()
    assert fake.announced == announced
