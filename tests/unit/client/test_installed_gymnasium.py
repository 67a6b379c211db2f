"""An old gymnasium, to which a package of environments may have gone back."""

import sys
import tomllib
from importlib import metadata, reload
from pathlib import Path

import pytest

import soulsai.client
from soulsai.client.installed_versions import OLDEST_GYMNASIUM, check_gymnasium
from soulsai.errors import ConfigError


@pytest.mark.parametrize("version", ["1.1", "1.1.0rc1", "1.4.0", "1.10.2", "2.0"])
def test_newer_ones_work(version):
    check_gymnasium(version)


@pytest.mark.parametrize("version", ["0.29.1", "1.0.0", "1"])
def test_an_old_one_is_refused_in_one_line(version):
    with pytest.raises(ConfigError) as raised:
        check_gymnasium(version)
    assert str(raised.value).startswith(f"gymnasium {version} is installed, and 1.1 is the oldest")
    assert "\n" not in str(raised.value)


def test_it_is_refused_before_anything_of_a_client_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "soulsai.client", soulsai.client)
    monkeypatch.setattr(metadata, "version", lambda name: "0.29.1")
    with pytest.raises(ConfigError, match=r"gymnasium 0\.29\.1 is installed"):
        reload(soulsai.client)


def test_the_oldest_is_that_of_the_package():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    oldest = ".".join(map(str, OLDEST_GYMNASIUM))
    assert f"gymnasium>={oldest}" in project["project"]["dependencies"]
