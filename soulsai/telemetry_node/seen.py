"""Which episodes are known: each counts once, however often it is told. Pure."""

from soulsai.types import Episode

PAGE = 256  # episodes of one client's epoch per number: an episode costs a bit


class SeenEpisodes:
    """The episodes of a run by client, epoch and number.

    A training node that dies after it has told of an episode, and before a checkpoint covers it,
    is followed by one that tells of it again.
    """

    def __init__(self) -> None:
        self._pages: dict[tuple[str, int, int], int] = {}

    def add(self, episode: Episode) -> bool:
        """Note an episode; return whether it is new. One without an epoch always is."""
        if not episode.epoch:
            return True
        page, place = divmod(episode.episode, PAGE)
        key = (episode.client, episode.epoch, page)
        known = self._pages.get(key, 0)
        self._pages[key] = known | 1 << place
        return not known >> place & 1

    def holds(self, episode: Episode) -> bool:
        """Return whether an episode is known."""
        if not episode.epoch:
            return False
        page, place = divmod(episode.episode, PAGE)
        return bool(self._pages.get((episode.client, episode.epoch, page), 0) >> place & 1)
