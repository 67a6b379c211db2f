"""What ``redis.url`` may say, and what it says when it may not."""

import pytest

from soulsai.errors import ConfigError
from soulsai.wire.address import Sentinel, Tcp, Unix, parse


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
