"""The wires of all roles over a Redis or Valkey server, 7.0 or later."""

from soulsai.wire.client_role import ClientRole
from soulsai.wire.protocols import ClientWire, OperatorWire, TelemetryWire, TrainingWire
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.secrets import Server
from soulsai.wire.shared_weights import SharedWeights
from soulsai.wire.signing import Signer, Verifier
from soulsai.wire.training_role import TrainingRole
from soulsai.wire.watching_roles import OperatorRole, TelemetryRole


def connect_client(
    server: Server, run_name: str, client: str, shared: SharedWeights | None = None
) -> ClientWire:
    """Return a client's wire; the first call that needs the connection makes it.

    Args:
        server: Address and credentials.
        run_name: Name of the run.
        client: Name of the client.
        shared: Weights that clients of this machine share, if they do; the wire closes it.
    """
    verifier = Verifier(server.public_key) if server.public_key else None
    connection = RedisConnection(server, f"client:{client}")
    return ClientRole(connection, run_name, client, verifier, shared)


def connect_training(
    server: Server,
    run_name: str,
    signer: Signer | None = None,
) -> TrainingWire:
    """Return the training node's wire; the first call that needs the connection makes it.

    Args:
        server: Address and credentials.
        run_name: Name of the run.
        signer: Signs spec, program and pointers, if given.
    """
    return TrainingRole(RedisConnection(server, "training_node"), run_name, signer)


def connect_telemetry(server: Server, run_name: str) -> TelemetryWire:
    """Return the telemetry node's wire."""
    return TelemetryRole(RedisConnection(server, "telemetry_node"), run_name)


def connect_operator(server: Server, run_name: str) -> OperatorWire:
    """Return an operator's wire."""
    return OperatorRole(RedisConnection(server, "operator"), run_name)
