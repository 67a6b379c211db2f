"""Each episode counts once, whoever tells of it how often."""

import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from soulsai.config.schema import TelemetrySettings
from soulsai.telemetry_node.run import MOST_PAGES, PAGE, EpisodeSet, FollowedRun
from soulsai.testing.policy import toy_run
from soulsai.types import EnvironmentOffer, Episode

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


class Painter:
    """Counts drawings, and is always ready."""

    def __init__(self):
        self.drawn = []

    def ready(self):
        return True

    def draw(self, snapshot):
        self.drawn.append(snapshot.title.split(" · ")[-2])

    def close(self, last):
        del last


def test_numbers_drawn_at_random_take_bounded_memory_and_nobody_elses_episodes():
    seen, rng = EpisodeSet(), random.Random(1)
    honest = [msgspec.structs.replace(EPISODE, client="a", epoch=3, episode=n) for n in range(600)]
    assert all(seen.add(episode) for episode in honest)
    for _ in range(2 * MOST_PAGES):
        seen.add(
            msgspec.structs.replace(EPISODE, client="b", epoch=3, episode=rng.randrange(2**47))
        )
    assert sum(map(len, seen._clients.values())) == MOST_PAGES
    assert not any(seen.add(episode) for episode in honest)


def test_the_figure_is_drawn_after_every_other_episode_unless_told_otherwise(tmp_path, monkeypatch):
    spec, *_ = toy_run(EnvironmentOffer("soulsai.testing:ToyEnv"))
    for every, drawn in ((None, [2, 4, 6]), (3, [3, 6])):
        settings = TelemetrySettings(tensorboard=False)
        if every:
            settings = msgspec.structs.replace(settings, figure_every=every)
        painter = Painter()
        monkeypatch.setattr("soulsai.telemetry_node.painter.Painter", lambda _, p=painter: p)
        run = FollowedRun(tmp_path / str(every), spec, settings)
        for number in range(1, 7):
            one = msgspec.structs.replace(EPISODE, episode=number, env_steps=4 * number)
            run.take([(f"{number}-0", one)], gap=False)
            run.show()
        assert painter.drawn == [f"{number} episodes" for number in drawn]
        run.close()
