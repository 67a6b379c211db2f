"""The errors of this package; each message names the fault, its place and the remedy."""


class SoulsAIError(Exception):
    """The base of all errors here: one line for a person, and the exit code of the command."""

    exit_code = 1


class ConfigError(SoulsAIError):
    """A setting is missing, unknown, ill-typed or out of range; the message names its path."""

    exit_code = 2


class ProtocolError(SoulsAIError):
    """Client and server speak different versions of the protocol; trying again does not help."""

    exit_code = 3


class Rejected(SoulsAIError):
    """A message was not admitted; ``reason`` is the short word under which it is counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class WireError(SoulsAIError):
    """The server gave an answer that the protocol does not allow."""


class Unreachable(WireError):
    """The server cannot be reached now; the same call may succeed later."""


class AccessDenied(WireError):
    """The server refuses the credentials or the call; trying again does not help."""


class CredentialsRefused(AccessDenied):
    """The server refuses a password, for example of a client that has been revoked."""

    exit_code = 5


class WrongScheme(AccessDenied):
    """The server speaks TLS and the address is one without it, or the other way round."""

    exit_code = 2


class Forged(AccessDenied):
    """Published data lacks the signature of the expected training node."""


class ServerFull(WireError):
    """The server has no memory or no disk left for a write; trim, then try again."""


class NoRun(WireError):
    """No training run is published under this name yet."""


class Superseded(SoulsAIError):
    """Another process has taken over this name or run; the older one stops."""

    exit_code = 4


class RunFailed(SoulsAIError):
    """A run ended before its time; carries the exit code of the process that failed."""

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.exit_code = code


class EnvironmentFault(SoulsAIError):
    """The environment is unknown, has raised, or has left its own spaces."""


class CheckpointError(SoulsAIError):
    """A checkpoint is missing, damaged, or does not fit the run that loads it."""


class DatasetError(SoulsAIError):
    """A data set is missing, damaged, or does not fit the run; the message names the place."""

    exit_code = 2
