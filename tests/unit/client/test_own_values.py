"""A client's own values for arguments that the run lists, and numbers for ports."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulsai.client.environment_offer import check_offer
from soulsai.client.own_values import for_record, index_of, listed_only, numbered, with_own
from soulsai.config.schema import ClientSettings, Config, EnvironmentSettings, check
from soulsai.errors import ConfigError
from soulsai.types import EnvironmentOffer, Heartbeat
from soulsai.wire.codec import decode_entry, encode_message, pack
from soulsai.wire.protocols import Entry, Position
from tests.unit.client.uplink_cases import RUN

OFFER = EnvironmentOffer(
    "Game-v0", {"speed": 3, "level": 1}, ("speed", "max_episode_steps"), max_episode_steps=500
)


def test_own_values_replace_those_that_the_run_lists():
    mine = with_own(OFFER, ClientSettings(kwargs={"speed": 1.5}, max_episode_steps=0))
    assert mine.kwargs == {"speed": 1.5, "level": 1}
    assert mine.max_episode_steps == 0
    assert with_own(OFFER, ClientSettings()) == OFFER


@pytest.mark.parametrize(
    ("own", "named"),
    [
        (ClientSettings(kwargs={"level": 2}), r"client\.kwargs\.level: .* set speed, max_episode"),
        (ClientSettings(kwargs={"file": "x"}), r"client\.kwargs\.file: "),
        (ClientSettings(kwargs={"speed": 1, "x": 2}), r"client\.kwargs\.x: "),
    ],
)
def test_a_value_that_the_run_does_not_list_is_refused_by_name(own, named):
    with pytest.raises(ConfigError, match=named) as caught:
        with_own(OFFER, own)
    assert "\n" not in str(caught.value)


def test_the_limit_of_an_episode_is_refused_like_an_argument():
    bare = EnvironmentOffer("Game-v0", client_kwargs=("speed",))
    with pytest.raises(ConfigError, match=r"client\.max_episode_steps: the run lets .* set speed;"):
        with_own(bare, ClientSettings(max_episode_steps=9))
    own = ClientSettings(kwargs={"speed": 1, "x": 2}, max_episode_steps=9)
    assert with_own(bare, listed_only(own, bare)).kwargs == {"speed": 1}


def test_a_path_is_taken_from_the_own_settings_and_never_from_the_server():
    offer = EnvironmentOffer("CartPole-v1", {"exe": "/bin/sh"}, ("exe",))
    with pytest.raises(ConfigError, match="path in exe="):
        check_offer(with_own(offer, ClientSettings()), named="", listed=(), own_kwargs={})
    own = ClientSettings(kwargs={"exe": "C:\\game.exe"})
    mine = with_own(offer, own)
    assert check_offer(mine, named="", listed=(), own_kwargs=own.kwargs) == "CartPole-v1"
    assert mine.kwargs == own.kwargs


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        ("{index}", 7),
        ("{5005+index}", 5012),
        ("500{index}", 5007),
        ("copy-{index}", "copy-7"),
        (":{index}.{index}", ":7.7"),
        (["{index}", {"port": "{10+index}"}], [7, {"port": 17}]),
        ("{Index} {index+1} {}", "{Index} {index+1} {}"),
        ({"index": 1}, {"index": 1}),
        (True, True),
        (None, None),
        (2.5, 2.5),
    ],
)
def test_the_placeholder_becomes_the_number_of_the_environment(value, becomes):
    offer = EnvironmentOffer("Game-v0", {"x": value})
    got = numbered(offer, 7).kwargs["x"]
    assert (got, type(got)) == (becomes, type(becomes))
    assert offer.kwargs == {"x": value}


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json), st.integers(0, 10_000))
def test_values_without_a_placeholder_stay_as_they_are(kwargs, index):
    if "index}" not in str(kwargs):
        assert numbered(EnvironmentOffer("Game-v0", kwargs), index).kwargs == kwargs


@given(st.integers(1, 5), st.integers(1, 300))
def test_no_two_environments_of_one_machine_have_the_same_number(count, clients):
    indices = {index_of(n, count, k) for n in range(1, clients + 1) for k in range(count)}
    assert indices == set(range(1, clients * count + 1))  # 0 is left to others


@given(st.dictionaries(st.text(min_size=1), json, max_size=20), st.integers(0, 10**9))
def test_any_own_values_can_be_sent(kwargs, limit):
    offer = EnvironmentOffer("x", kwargs, (*kwargs, "max_episode_steps"), max_episode_steps=limit)
    sent = Heartbeat(1, 2, 3, 4, 5, kwargs=for_record(offer))
    entry = Entry("c", Position(9, 1), pack([encode_message(sent, RUN)]))
    assert decode_entry(entry, RUN) == [sent]
    assert len(msgspec.json.encode(sent)) < 20_000


def test_the_record_names_the_listed_arguments_only():
    assert for_record(OFFER) == {"speed": 3, "max_episode_steps": 500}
    assert for_record(EnvironmentOffer("x", {"a": 1}, ("b",))) == {}
    long = EnvironmentOffer("x", {"a": "é\n" * 90, "b": [1, {"c": 2}], "d": 10**40}, tuple("abd"))
    assert for_record(long) == {"a": "é?" * 50, "b": '[1,{"c":2}]', "d": str(10**40)}


@pytest.mark.parametrize("section", ["environment", "client"])
def test_a_placeholder_without_quotes_is_told(section):
    kwargs = {"port": {"index": None}}
    wrong = {
        "environment": Config(environment=EnvironmentSettings(kwargs=kwargs)),
        "client": Config(client=ClientSettings(kwargs=kwargs)),
    }[section]
    with pytest.raises(ConfigError, match=rf"{section}\.kwargs\.port: .*in quotes"):
        check(wrong)
