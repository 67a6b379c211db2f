"""The locked requirements are those of the project, in the tested versions, each with its hash."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE
    )
}


def locked(name):
    """Return the text of each locked requirement by its name."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    parts = re.split(r"^(?=[\w])", text, flags=re.MULTILINE)
    lines = [part for part in parts if not part.startswith("#") and part.strip()]
    return {canonicalize_name(re.match(r"[\w.-]+", part)[0]): part for part in lines}


@pytest.mark.parametrize(("name", "extras"), [("client", []), ("server", ["server"])])
def test_the_lock_is_that_of_the_project(name, extras):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = list(project["dependencies"])
    for extra in ("box2d", *extras):
        needs += project["optional-dependencies"][extra]
    found = locked(name)
    for need in map(Requirement, needs):
        entry = found[canonicalize_name(need.name)]
        assert need.specifier.contains(re.search(r"==([^\s;]+)", entry)[1]), "run `make lock`"
    for package, entry in found.items():
        assert "--hash=sha256:" in entry, package
        if package in PINS:
            assert f"=={PINS[package]}" in entry, f"{package}: run `make lock`"
    assert len(set(found) & set(PINS)) > 15
