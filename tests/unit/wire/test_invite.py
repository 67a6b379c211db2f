"""The invite: one line that is whole or refused, and who may see it."""

import io
import string
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulsai import connect
from soulsai.config.schema import Config, RedisSettings, RunSettings
from soulsai.errors import ConfigError
from soulsai.wire.invite import PREFIX, Invite, from_line, to_line
from soulsai.wire.secrets import Server

INVITE = Invite("rediss://train.example.org:6390", "soulsai", "lab", "s3cr3t", "PEM", "ed25519:x")
LINE = to_line(INVITE)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=50)


@given(TEXT, TEXT, TEXT)
def test_it_arrives_as_it_was_made(password, ca, key):
    invite = Invite("redis://h", "run", "c-1", password, ca, key)
    line = to_line(invite)
    assert from_line(line, "test") == invite
    assert set(line) <= set(string.ascii_letters + string.digits + "-_:"), "any mail carries it"


def test_a_line_broken_by_a_mail_program_is_whole():
    broken = "\r\n ".join(LINE[at : at + 70] for at in range(0, len(LINE), 70))
    assert from_line(f"\n{broken}\n", "test") == INVITE


@given(st.integers(0, len(LINE) - 1), st.sampled_from(string.ascii_letters + string.digits))
def test_one_wrong_letter_is_noticed(at, letter):
    changed = LINE[:at] + letter + LINE[at + 1 :]
    if at == len(LINE) - 1 or changed == LINE:
        return  # the last letter of base64 may carry bits that mean nothing
    with pytest.raises(ConfigError, match="invite") as caught:
        from_line(changed, "test")
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "hello", PREFIX, LINE[:-9], LINE[:60], LINE * 20, PREFIX + "é"]
)
def test_what_is_not_whole_is_refused_with_what_to_do(text):
    with pytest.raises(ConfigError, match=r"copy the whole line|one line like"):
        from_line(text, "test")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"client": "../lab"}, "is not a name"),
        ({"run": "a\nb"}, "is not a name"),
        ({"url": "http://x"}, "not an address"),
        ({"url": "redis://user:pass@x"}, "leave user and password out"),
    ],
)
def test_what_it_says_is_judged_like_any_setting(changes, said):
    values = {"url": "redis://h", "run": "r", "client": "c", "password": "p"} | changes
    with pytest.raises(ConfigError, match=said):
        from_line(to_line(Invite(**values)), "test")


def test_neither_its_repr_nor_that_of_its_server_shows_the_secret():
    server = INVITE.server(RedisSettings(url=INVITE.url))
    assert server == Server(INVITE.url, "c-lab", "s3cr3t", ca_data="PEM", public_key="ed25519:x")
    for shown in (repr(INVITE), str(INVITE), repr(server), repr([server, INVITE])):
        assert "s3cr3t" not in shown


def test_an_authority_of_ones_own_takes_the_place_of_the_invites():
    server = INVITE.server(RedisSettings(url=INVITE.url, ca_file="mine.pem"))
    assert (server.ca_file, server.ca_data) == ("mine.pem", "")


def test_an_unencrypted_way_is_refused_with_an_invite_too():
    with pytest.raises(ConfigError, match="--insecure"):
        INVITE.server(RedisSettings(url="redis://train.example.org"))
    INVITE.server(RedisSettings(url="redis://train.example.org", insecure=True))


def test_it_sets_run_name_and_address_and_keeps_an_address_of_the_users_own():
    config = connect.invited(Config(), INVITE)
    assert (config.redis.url, config.run.name, config.client.name) == (INVITE.url, "soulsai", "lab")
    own = connect.invited(
        Config(redis=RedisSettings(url="rediss://other"), run=RunSettings(name="x")), INVITE
    )
    assert (own.redis.url, own.run.name) == ("rediss://other", "soulsai")
    assert connect.invited(own, None) == own


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "lab.invite"
    path.write_text(f"{LINE[:40]}\n{LINE[40:]}\n")
    return path


def test_it_is_found_in_a_file_or_a_variable(file, monkeypatch, capsys):
    assert connect.invitation("") is None
    assert connect.invitation(str(file)) == INVITE
    monkeypatch.setenv(connect.INVITE, LINE)
    assert connect.invitation("") == INVITE
    monkeypatch.setenv(connect.INVITE, "x")
    monkeypatch.setenv(connect.INVITE_FILE, str(file))
    assert connect.invitation("") == INVITE, "a file comes first"
    assert capsys.readouterr().err == ""


def test_it_is_typed_in_or_piped(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(LINE))
    assert connect.invitation("-") == INVITE

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(connect, "getpass", lambda _: LINE)
    assert connect.invitation("-") == INVITE


def test_on_the_command_line_it_works_with_a_warning(capsys):
    assert connect.invitation(LINE) == INVITE
    said = capsys.readouterr().err
    assert "list of processes" in said
    assert "s3cr3t" not in said


@pytest.mark.parametrize("data", [None, b"\xff\xfe", b""])
def test_a_file_that_holds_none_is_said_by_name(tmp_path, data):
    path = tmp_path / "lab.invite"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"lab\.invite"):
        connect.invitation(str(path))
