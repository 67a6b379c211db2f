"""Names that may become part of a key, the keys, and the users' rights as text."""

import hashlib

import pytest

from soulsai.errors import ConfigError
from soulsai.wire.names import (
    COMMANDING_ROLES,
    ROLES,
    Keys,
    acl,
    is_name,
    parse_version,
    user_line,
    user_rules,
)

GOOD = ["a", "0", "c1", "lab-pc_7", "x" * 64]
EVIL = [
    "", "A", "-a", "_a", "a\n", "a ", " a", "a\0", "a.b", "a/b", "..", "../a", "a:b", "{a}", "a*",
    "a?", "[a]", "ä", "a\u200b", "x" * 65, "x" * 10_000, "a\r\nDEL x", "\u0430",
    "con", "nul", "com1", "lpt9",
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_good_name_becomes_part_of_keys(name):
    assert is_name(name)
    assert Keys(name).experience(name) == f"soulsai:{{{name}}}:exp:{name}"


@pytest.mark.parametrize("name", EVIL)
def test_an_evil_name_becomes_part_of_nothing(name):
    assert not is_name(name)
    with pytest.raises(ConfigError, match="is not a name"):
        Keys(name)
    if name:  # without a name it is the users' common line
        with pytest.raises(ConfigError):
            user_line("client", "secret", name)


def all_keys(run: str) -> list[str]:
    keys = Keys(run)
    return [
        keys.spec,
        keys.program,
        keys.manifest,
        keys.generation,
        keys.model,
        keys.piece(1, 2, 3),
        keys.control,
        keys.event,
        keys.experience("c1"),
        keys.episodes,
        *(keys.commands(who) for who in COMMANDING_ROLES),
        *(keys.reply(who, "ab") for who in COMMANDING_ROLES),
        keys.status,
    ]


def test_keys_are_distinct_and_in_one_slot_of_their_own_run():
    one, other = all_keys("a"), all_keys("b")
    assert len(set(one + other)) == len(one) + len(other)
    assert all(key.startswith("soulsai:{a}:") for key in one)
    assert [key for key in one if key.startswith(Keys("a").experience(""))] == [
        Keys("a").experience("c1")
    ]


def test_the_acl_holds_digests_and_no_password():
    text = acl({role: f"secret-of-{role}" for role in ROLES})
    assert "secret-of" not in text
    assert text.splitlines()[0] == "user default off"
    for role in ROLES:
        (line,) = [line for line in text.splitlines() if line.startswith(f"user {role} ")]
        assert f"#{hashlib.sha256(f'secret-of-{role}'.encode()).hexdigest()} " in line
        assert "resetchannels resetkeys -@all" in line
        for never in (
            "+@",
            "allkeys",
            "allcommands",
            "nopass",
            "+config",
            "client|setinfo",
            "+eval",
        ):
            assert never not in line


def test_an_enrolled_client_has_its_own_stream_only():
    line = user_line("client", "secret", "lab-pc")
    assert line.startswith("user c-lab-pc on #")
    assert "(%W~soulsai:{*}:exp:lab-pc +xadd)" in line
    assert "exp:*" not in line
    assert "(%W~soulsai:{*}:exp:* +xadd)" in user_line("client", "secret")


def test_rules_are_the_words_of_the_line():
    rules = user_rules("client", "secret", "lab")
    assert f"user c-lab {' '.join(rules)}" == user_line("client", "secret", "lab")
    assert "(%W~soulsai:{*}:exp:lab +xadd)" in rules, "what is in brackets is one word"


def test_each_version_of_a_server_gets_what_it_understands():
    passwords = dict.fromkeys(ROLES, "secret")
    assert "setinfo" not in acl(passwords, (7, 0))
    assert acl(passwords, (7, 2)).count("+client|setinfo") == len(ROLES)
    assert acl(passwords, (9, 1)) == acl(passwords, (7, 2))
    with pytest.raises(ConfigError, match=r"6\.2 cannot tell .* 7\.0 or later"):
        acl(passwords, (6, 2))


@pytest.mark.parametrize(
    ("text", "version"),
    [("7.0.15", (7, 0)), ("9.1.2 sha=00", (9, 1)), ("7.2", (7, 2)), ("", (0, 0)), ("x", (0, 0))],
)
def test_versions_are_read(text, version):
    assert parse_version(text) == version
