"""Everything this package raises on purpose: what went wrong, where, and what to do about it."""


class SoulsAIError(Exception):
    """The base of all our errors: one line for a person, and the exit code of the command."""

    exit_code = 1


class ConfigError(SoulsAIError):
    """A setting is missing, unknown, ill-typed or out of range; the message names its path."""

    exit_code = 2


class ProtocolError(SoulsAIError):
    """Client and server speak different versions of the protocol; asking again does not help."""

    exit_code = 3


class Rejected(SoulsAIError):
    """A message was not admitted; ``reason`` is the short word under which it is counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class WireError(SoulsAIError):
    """The server answered, but not with what the wire promises."""


class Unreachable(WireError):
    """No connection to the server now; the same call may succeed later."""


class AccessDenied(WireError):
    """The server knows us not, or does not allow this; asking again does not help."""


class Forged(AccessDenied):
    """What was published is not signed by the training node whose key we know."""


class ServerFull(WireError):
    """The server has no memory or no disk left for a write; trim, then try again."""


class NoRun(WireError):
    """No training run is published under this name yet."""


class Superseded(SoulsAIError):
    """Another process has taken over this name or this run; the older one stops."""

    exit_code = 4


class EnvironmentFault(SoulsAIError):
    """The environment is unknown, raised, or broke the promise of its own spaces."""


class CheckpointError(SoulsAIError):
    """A checkpoint is missing, damaged, or of another shape than the run that wants it."""
