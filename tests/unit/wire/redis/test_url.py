"""What ``redis.url`` may say, and what it says when it may not."""

import pytest

from soulsai.errors import ConfigError
from soulsai.wire.redis.url import Sentinel, Tcp, Unix, check_encrypted, parse


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://host", Tcp("host", 6379)),
        ("redis://host:7000", Tcp("host", 7000)),
        ("redis://host:7000/", Tcp("host", 7000)),
        ("redis://host:7000/3", Tcp("host", 7000, False, 3)),
        ("redis://[::1]:7000", Tcp("::1", 7000)),
        ("rediss://example.org:6380", Tcp("example.org", 6380, True)),
        ("unix:///tmp/redis.sock", Unix("/tmp/redis.sock")),
        ("unix:///tmp/redis.sock?db=2", Unix("/tmp/redis.sock", 2)),
        ("sentinel://a:1,b/main", Sentinel((("a", 1), ("b", 26379)), "main")),
        ("sentinel://a:1/main/4", Sentinel((("a", 1),), "main", 4)),
    ],
)
def test_an_address_is_understood(url, address):
    assert parse(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "", "host:6379", "http://host", "redis://", "redis:///x", "redis://host:port",
        "redis://host:70000", "redis://host/x", "unix://tmp/x", "unix://", "sentinel://a:1",
        "sentinel:///main", "sentinel://a:x/main", "sentinel://,/main",
    ],
)  # fmt: skip
def test_anything_else_names_what_could_be_written(url):
    with pytest.raises(ConfigError, match=r"redis\.url: .*redis://host:6379"):
        parse(url)


@pytest.mark.parametrize("url", ["redis://:hunter2@host", "redis://me:hunter2@host:6379"])
def test_a_password_in_the_url_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError, match=r"redis\.secret") as caught:
        parse(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


PRIVATE = [
    "redis://localhost", "redis://127.0.0.1:1", "redis://[::1]", "rediss://train.example.org",
    "unix:///tmp/redis.sock", "sentinel://localhost,127.0.0.1/games",
]  # fmt: skip
OPEN = [
    "redis://train.example.org", "redis://10.0.0.7", "redis://0.0.0.0", "redis://localhost.evil",
    "redis://[2001:db8::1]", "sentinel://localhost,10.0.0.7/games",
]  # fmt: skip


@pytest.mark.parametrize("url", PRIVATE)
def test_what_nobody_can_read_along_is_allowed(url):
    check_encrypted(url, insecure=False)


@pytest.mark.parametrize("url", OPEN)
def test_what_leaves_the_machine_is_encrypted_or_allowed_by_name(url):
    with pytest.raises(ConfigError, match=r"rediss://.*--insecure") as caught:
        check_encrypted(url, insecure=False)
    assert "\n" not in str(caught.value)
    check_encrypted(url, insecure=True)
