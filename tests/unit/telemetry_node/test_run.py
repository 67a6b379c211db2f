"""Each episode counts once, whoever tells of it how often."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from soulsai.telemetry_node.run import PAGE, EpisodeSet
from soulsai.types import Episode

EPISODE = Episode(1, 1, 0, 1.0, 4, 0.1, True, False, 0.0, client="c", epoch=5)
KEYS = st.tuples(st.sampled_from("ab"), st.integers(1, 3), st.integers(0, 3 * PAGE))


@given(st.lists(KEYS, max_size=60))
def test_it_knows_what_a_set_knows(keys):
    seen, known = EpisodeSet(), set()
    for client, epoch, number in keys:
        one = msgspec.structs.replace(EPISODE, client=client, epoch=epoch, episode=number)
        assert (one in seen) == ((client, epoch, number) in known)
        assert seen.add(one) == ((client, epoch, number) not in known)
        known.add((client, epoch, number))


def test_an_episode_of_an_unknown_epoch_is_always_new():
    seen, one = EpisodeSet(), msgspec.structs.replace(EPISODE, epoch=0)
    assert seen.add(one)
    assert one not in seen
    assert seen.add(one)
