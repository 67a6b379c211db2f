"""The list of what a server is made of names all of it, and is red when it would be empty."""

import json
import subprocess
import sys
import tomllib
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "script" / "sbom.py"


def write(*words):
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def test_it_names_what_runs_with_its_versions_and_licences_and_no_tools(tmp_path):
    done = write(tmp_path / "new" / "bom.json")
    assert done.returncode == 0, done.stderr
    bill = json.loads((tmp_path / "new" / "bom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "soulsai"
    found = {canonicalize_name(one["name"]): one for one in bill["components"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"] + project["optional-dependencies"]["server"]:
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate():  # of another system
            continue
        name = canonicalize_name(needed.name)
        assert found[name]["version"] == metadata.version(name)
        kind, _, rest = found[name]["purl"].partition("pkg:pypi/")
        assert (kind, canonicalize_name(rest.partition("@")[0])) == ("", name)
    assert {"starlette", "sympy", "box2d", "cffi"} <= found.keys()  # which others need
    assert not {"pytest", "mypy", "ruff", "cyclonedx-bom"} & found.keys()
    assert sum("licenses" in one for one in found.values()) >= 0.9 * len(found)
    refs = {one["bom-ref"] for one in bill["components"]} | {"root-component"}
    for one in bill["dependencies"]:
        assert {one["ref"], *one.get("dependsOn", [])} <= refs


def test_of_an_environment_without_anything_there_is_no_list(tmp_path):
    venv.create(tmp_path / "empty", with_pip=False)
    done = write(tmp_path / "bom.json", "--python", tmp_path / "empty" / "bin" / "python")
    assert done.returncode == 1
    assert "not installed" in done.stderr
    assert "numpy" in done.stderr
    assert not (tmp_path / "bom.json").exists()
