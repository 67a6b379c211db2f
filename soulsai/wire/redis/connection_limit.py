"""Places on the server for its nodes: no client may hold most of its connections."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from soulsai.wire.names import CLIENT_USER
from soulsai.wire.redis.connection import RedisConnection

MOST_OWN = 32  # connections of an enrolled client, which needs three
MOST_SHARED = 3000  # of all clients that share one secret; servers permit 4096 in all
MOST_NAMELESS = 256  # that have not logged in for ``LOGIN_SECONDS``
LOGIN_SECONDS = 10


def excess(connections: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the ids of connections to close: the newest beyond the limit of their user.

    Args:
        connections: Fields of ``CLIENT LIST``, one mapping per connection.
    """
    ids: dict[str, list[int]] = defaultdict(list)
    for one in connections:
        user = one.get("user", "")
        is_limited = user == "client" or user.startswith(CLIENT_USER)
        if is_limited or (user == "default" and int(one["age"]) >= LOGIN_SECONDS):
            ids[user].append(int(one["id"]))
    most = {"client": MOST_SHARED, "default": MOST_NAMELESS}
    return [str(id) for user, own in ids.items() for id in sorted(own)[most.get(user, MOST_OWN) :]]


def close_excess(connection: RedisConnection) -> int:
    """Close the connections beyond the limits; return their number.

    Args:
        connection: A connection with the training node's rights.
    """
    lines = connection.execute("CLIENT", "LIST").decode("utf-8", "replace").splitlines()
    fields = (dict(word.partition("=")[::2] for word in line.split()) for line in lines)
    too_many = excess(fields)
    connection.execute_all([("CLIENT", "KILL", "ID", id) for id in too_many])
    return len(too_many)
