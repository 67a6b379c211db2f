"""What may be asked of the training node, and what it answers."""

from msgspec import Struct


class Quicksave(Struct, frozen=True, tag="quicksave"):
    """Save everything now, under ``manual_save``."""

    replay: bool = True


class SaveBest(Struct, frozen=True, tag="save_best"):
    """Save that version of the weights, as the best model so far."""

    generation: int
    version: int
    score: float


class Stop(Struct, frozen=True, tag="stop"):
    """Take a last checkpoint, tell the clients, and end the run."""


class Pause(Struct, frozen=True, tag="pause"):
    """Stop learning and let the clients wait, until told to resume."""


class Resume(Struct, frozen=True, tag="resume"):
    """Go on after a pause."""


class Purge(Struct, frozen=True, tag="purge"):
    """Remove what was learnt from one client, as far as it is remembered, and keep it out."""

    client: str


class Promote(Struct, frozen=True, tag="promote"):
    """Make a checkpoint's policy the best model, until a better average comes."""

    model: str  # a checkpoint's number, or ``manual_save``


class Pardon(Struct, frozen=True, tag="pardon"):
    """Let a client in again that is kept out."""

    client: str


Command = Quicksave | SaveBest | Stop | Pause | Resume | Purge | Pardon | Promote


class Answer(Struct, frozen=True):
    """What became of a command: done or not, and one line about it."""

    done: bool
    message: str
