"""Writes what a server is made of, as CycloneDX: each package with its version and licence.

``python script/sbom.py build/soulsai.cdx.json`` describes the environment that it runs in, without
the tools of developers. It fails if something that is needed is not there: a list of nothing would
look as good as any other.
"""

import argparse
import json
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
EXTRAS = {"server", "box2d"}
ROOT = "root-component"  # as cyclonedx-py calls the project

Graph = dict[str, set[str]]  # what each package needs, by canonical name


def main() -> int:
    """Write the list; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--python", default=sys.executable, help="whose environment")
    given = parser.parse_args()
    path = asked(given.python, "-c", "import json, sys; print(json.dumps(sys.path))")
    installed = {canonicalize_name(one.name): one for one in distributions(path=path)}
    needs, missing = graph(installed)
    if missing:
        sys.stderr.write(f"sbom: not installed in {given.python}: {', '.join(sorted(missing))}\n")
        return 1
    words = ["--pyproject", str(PROJECT), "--mc-type", "application", "--output-reproducible"]
    bill = asked(sys.executable, "-m", "cyclonedx_py", "environment", *words, given.python)
    restrict(bill, needs)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(bill, indent=2) + "\n")
    bare = [one["name"] for one in bill["components"] if not one.get("licenses")]
    said = f", without a licence in their metadata: {', '.join(bare)}" if bare else ""
    print(f"{given.out}: {len(bill['components'])} packages{said}")
    return 0


def asked(*command: str) -> Any:
    """Return the JSON that a command prints."""
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)  # noqa: S603 - Pythons only
    return json.loads(done.stdout)


def graph(installed: dict[str, Distribution]) -> tuple[Graph, set[str]]:
    """Return what a server needs, directly or not, and what of that is not installed."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    lines = list(project["dependencies"])
    for extra in sorted(EXTRAS):
        lines += project["optional-dependencies"][extra]
    needs: Graph = {}
    missing: set[str] = set()
    left = [(ROOT, line, "") for line in lines]
    seen = set(left)
    while left:
        above, line, extra = left.pop()
        need = Requirement(line)
        if need.marker and not need.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(need.name)
        needs.setdefault(above, set()).add(name)
        needs.setdefault(name, set())
        if name not in installed:
            missing.add(name)
            continue
        for each in installed[name].requires or []:
            for more in ("", *need.extras):
                step = (name, each, more)
                if step not in seen:
                    seen.add(step)
                    left.append(step)
    return needs, missing


def restrict(bill: dict, needs: Graph) -> None:
    """Keep of a list only what is needed."""
    refs = {canonicalize_name(one["name"]): one["bom-ref"] for one in bill["components"]}
    refs[ROOT] = ROOT
    kept = {refs[name] for name in needs}
    bill["components"] = [one for one in bill["components"] if one["bom-ref"] in kept]
    bill["dependencies"] = [
        {"ref": refs[name], "dependsOn": sorted(refs[need] for need in needs[name])}
        for name in sorted(needs)
    ]


if __name__ == "__main__":
    sys.exit(main())
