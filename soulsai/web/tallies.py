"""What came of each client and of each version of the weights, as rows."""

import msgspec

from soulsai.types import Status
from soulsai.web.schemas import ClientRow, VersionRow
from soulsai.web.tables import Episodes, Tally

_NOTHING = Tally()


def client_rows(status: Status, episodes: Episodes) -> list[ClientRow]:
    """Return the clients of a run: what its training node says of them, and their episodes."""
    rows = []
    for client in status.clients:
        tally = episodes.clients.get(client.client, _NOTHING)
        rows.append(
            ClientRow(
                **msgspec.structs.asdict(client),
                episodes=tally.episodes,
                reward_mean=tally.reward_mean,
                recent_mean=tally.recent_mean,
                greedy_mean=tally.greedy_mean,
            )
        )
    return rows


def version_rows(episodes: Episodes, limit: int) -> list[VersionRow]:
    """Return the newest versions that have finished an episode, oldest first."""
    return [
        VersionRow(
            generation=generation,
            version=version,
            env_steps=tally.env_steps,
            episodes=tally.episodes,
            reward_mean=tally.exploring_mean,
            greedy_episodes=tally.greedy_episodes,
            greedy_mean=tally.greedy_mean,
            steps_mean=tally.steps / tally.episodes,
        )
        for (generation, version), tally in sorted(episodes.versions.copy().items())[-limit:]
        if tally.episodes
    ]
