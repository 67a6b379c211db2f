"""What YAML would quietly misread, or an attacker would send, is one clear line instead."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulsai.config.yaml_file import LARGEST, emit, parse, parse_value, read
from soulsai.errors import ConfigError


def complaint(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "mine.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


REFUSED = "refused"  # by the reader of YAML 1.1 that came before, with a line to say so

# Each scalar, its value in the reader of YAML 1.1 that came before, and its value now.
SCALARS = [
    ("1e-3", REFUSED, 1e-3),
    ("1e5", REFUSED, 1e5),
    ("2.5e5", REFUSED, 2.5e5),
    ("-.5", REFUSED, -0.5),
    ("no", REFUSED, "no"),
    ("Yes", REFUSED, "Yes"),
    ("ON", REFUSED, "ON"),
    ("off", REFUSED, "off"),
    ("y", "y", "y"),
    ("12:30", REFUSED, "12:30"),
    ("1:30.5", REFUSED, "1:30.5"),
    ("010", REFUSED, 10),
    ("08", REFUSED, 8),
    ("0o17", REFUSED, 15),
    ("2026-11-22", REFUSED, "2026-11-22"),
    ("=", REFUSED, "="),
    ("1.0e-3", 1e-3, 1e-3),
    ("1.e+5", 1e5, 1e5),
    (".5", 0.5, 0.5),
    ("1.", 1.0, 1.0),
    ("100_000", 100_000, 100_000),
    ("1__0", 10, 10),
    ("1_0.5", 10.5, 10.5),
    ("_1", "_1", "_1"),
    ("-3", -3, -3),
    ("+1", 1, 1),
    ("0", 0, 0),
    ("0.5", 0.5, 0.5),
    ("0x1F", 31, 31),
    ("0b11", 3, 3),
    ("true", True, True),
    ("False", False, False),
    ("TRUE", True, True),
    ("tRue", "tRue", "tRue"),
    ("null", None, None),
    ("~", None, None),
    ("", None, None),
    ("1,000", "1,000", "1,000"),
    ("LunarLander-v3", "LunarLander-v3", "LunarLander-v3"),
    ("file.py:make", "file.py:make", "file.py:make"),
    ("[1, [2, {a: b}]]", [1, [2, {"a": "b"}]], [1, [2, {"a": "b"}]]),
    ("|\n  two\n  lines", "two\nlines", "two\nlines"),
]


@pytest.mark.parametrize(("scalar", "before", "now"), SCALARS)
def test_a_scalar_has_its_value_in_yaml_1_2(scalar: str, before: object, now: object) -> None:
    found = parse(f"a: {scalar}", "mine.yaml")[0]["a"]
    assert found == now
    assert type(found) is type(now)
    assert before in (REFUSED, now), "an old file never loads to another value"


@pytest.mark.parametrize("scalar", ["1E+400", ".inf", "-.inf", ".nan", "9" * 500])
def test_a_number_that_is_none_names_its_line(scalar: str) -> None:
    assert complaint(f"a:\n  b: 1\n  c: {scalar}\n").startswith("mine.yaml, line 3: a.c: ")


def test_lines_are_known() -> None:
    assert parse("a:\n  b: 1\n\n  c: 2\n", "x")[1] == {("a",): 1, ("a", "b"): 2, ("a", "c"): 4}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: a stands here twice"),
        ("a: {b: 1, b: 2}", "a.b stands here twice"),
        ("a: &x 1\nb: *x", "line 1: an anchor or alias (x)"),
        ("a: *x", "alias 'x'"),
        ("a: !!python/object/apply:os.system [ls]", "a tag"),
        ("a: !mine 1", "a tag"),
        ("a: !!binary aGk=", "a tag"),
        ("a: !!int x", "line 1: a: "),
        ("%YAML 1.1\n---\na: 1", "line 1: not YAML: settings have no % directives"),
        ("a: 1\n---\nb: 2", "second document"),
        ("[" * 5000, "levels of nesting"),
        ("- 1\n- 2", "wanted `section:` lines"),
        ("just text", "wanted `section:` lines"),
        ("1: 2", "a key must be text"),
        ("a: [1", "line 1"),
        ("a: 1\n\tb: 2", "line 2"),
        ("a: b: c", "line 1"),
        ("? [a]\n: 1", "a key must be text"),
        ("a: \x07", "not YAML"),
        ("%YAML 9.9\n---\na: 1", "not YAML"),
    ],
)
def test_what_has_no_place_in_settings_is_refused(text: str, words: str) -> None:
    assert words in complaint(text)


def test_an_alias_bomb_is_refused_at_once() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert "anchor or alias" in complaint(bomb)


def test_files_that_cannot_be_settings(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: 1\nb: \xe9\n")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (LARGEST + 1))
    for path, words in (
        (latin, "line 2: not UTF-8"),
        (large, "256 kB"),
        (tmp_path, "cannot be read"),
        (tmp_path / "no.yaml", "no such file"),
    ):
        with pytest.raises(ConfigError, match=words):
            read(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-1_000", -1000),
        ("1e-3", 1e-3),
        (" true ", True),
        ("{a: 'no'}", {"a": "no"}),
        ("a: b", "a: b"),
    ],
)
def test_a_typed_value_is_read_by_the_same_rules(text: str, value: object) -> None:
    assert parse_value(text, "x") == value


plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.from_regex(r"[-+0-9eE:._oxnyfs~<=]{1,8}", fullmatch=True),
)
nested = st.recursive(
    plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


@given(value=nested)
def test_what_is_emitted_is_read_back_equal(value: object) -> None:
    assert parse(f"a: {emit(value)}", "x")[0] == {"a": value}


@given(text=st.text() | st.from_regex(r"[\[\]{},:'\"&*!|>?#a1 \n-]{0,40}", fullmatch=True))
def test_any_text_gives_values_or_our_error(text: str) -> None:
    for function in (parse, parse_value):
        with suppress(ConfigError):
            function(text, "x")
