"""The whole play of a demonstrator is marked, and nobody else's."""

import msgspec

from soulsai.identity.folder import set_demonstrator
from soulsai.training_node.admission import Arrival, Mark
from soulsai.training_node.demonstrators import READ_SECONDS, Demonstrators
from soulsai.types import Episode
from soulsai.wire.secrets import DEMONSTRATORS
from tests.unit.algorithms.learning_cases import episode

EPISODE = Episode(1, 1, 0, 9.0, 9, 1.0, terminated=True, greedy=False, epsilon=0.0)


def arrival(client):
    return Arrival(client, Mark(), 1, fragments=(episode(9, client=client),), episodes=(EPISODE,))


def test_demonstrators_are_those_of_the_file_and_may_come_and_go(tmp_path):
    now = [0.0]
    marking = Demonstrators(tmp_path, taken=True, clock=lambda: now[0])
    assert marking.marked(arrival("anna")).fragments[0].intervened is None
    set_demonstrator(tmp_path, "anna", demonstrates=True)
    set_demonstrator(tmp_path, "bert", demonstrates=True)
    now[0] += READ_SECONDS
    whole = marking.marked(arrival("anna"))
    assert whole.fragments[0].intervened.all()
    assert whole.episodes[0].info == {"intervened": 9.0}
    other = arrival("annabel")
    assert marking.marked(other) is other
    set_demonstrator(tmp_path, "anna", demonstrates=False)
    assert (tmp_path / DEMONSTRATORS).read_text() == "bert\n"
    assert marking.marked(arrival("anna")).fragments[0].intervened.all(), "read now and then"
    now[0] += READ_SECONDS
    assert marking.marked(arrival("anna")).fragments[0].intervened is None


def test_a_run_that_takes_none_marks_none(tmp_path):
    set_demonstrator(tmp_path, "anna", demonstrates=True)
    marking = Demonstrators(tmp_path, taken=False, clock=lambda: 0.0)
    assert marking.marked(arrival("anna")).fragments[0].intervened is None


def test_a_file_that_is_damaged_names_nobody(tmp_path):
    (tmp_path / DEMONSTRATORS).write_bytes(b"\xff\xfe")
    marking = Demonstrators(tmp_path, taken=True, clock=lambda: 0.0)
    assert marking.marked(arrival("anna")).fragments[0].intervened is None
    silent = msgspec.structs.replace(arrival("anna"), fragments=(), episodes=())
    assert marking.marked(silent) is silent
