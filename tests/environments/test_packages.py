"""Each package in an environment of its own: checked, trained on for a short time, evaluated.

``make test-environments`` writes ``docs/reference/environments.md`` from what was seen. A package
that is not tried keeps its line.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

import pytest

from tests.environments.packages import NOT_PLAYED, PACKAGES, Package

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "environments"
PAGE = ROOT / "docs" / "reference" / "environments.md"
STEPS = 1500
SMALL = (
    f"run.max_env_steps={STEPS}", "run.clients=2", "web.enabled=false",
    "training.compile=never",
    "dqn.learning_starts=300", "dqn.replay_ratio=0.1", "sac.learning_starts=300",
    "sac.replay_ratio=0.1", "ppo.batch_steps=512",
)  # fmt: skip
HEAD = """\
# Released packages

Written by `make test-environments`, with Python {python} and gymnasium {gymnasium}: each package in
an environment of its own, `soulsai check-env`, training for {steps:,} env steps with two clients,
and `soulsai evaluate`.

| {columns} |
|---|---|---|---|---|---|---|
"""
COLUMNS = (
    "package", "version", "environment", "observations; actions", "algorithm",
    "env steps/s alone", "to know",
)  # fmt: skip
TAIL = """

## Not played

| package | why |
|---|---|
"""


def installed(package: Package) -> Path:
    """Return the Python of an environment that has a package, and ours behind it."""
    folder = BUILD / package.name
    python = folder / "bin" / "python"
    ready = folder / "ready"
    wanted = " ".join(package.requirements)
    if ready.is_file() and ready.read_text() == wanted:
        return python
    venv.create(folder, clear=True, with_pip=True)
    (site,) = folder.glob("lib/python*/site-packages")
    ours = sysconfig.get_path("purelib")
    (site / "behind.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    run([python, "-m", "pip", "install", "-q", *package.requirements], folder, 1200)
    ready.write_text(wanted)
    return python


def run(words: list, cwd: Path, timeout: float = 900) -> str:
    environ = {**os.environ, "SDL_VIDEODRIVER": "dummy", "MUJOCO_GL": "disabled"}
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, cwd=cwd, env=environ, timeout=timeout
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def leaves(report: dict) -> str:
    obs = ", ".join(
        f"{name} {'x'.join(map(str, leaf['shape'])) or 1} {leaf['dtype'].strip('<|')}"
        for name, leaf in report["spec"]["obs"].items()
    )
    action = report["spec"]["action"]
    size = "x".join(map(str, action["sizes"] or action["shape"]))
    return f"{obs}; {action['kind']} {size}"


def write_page() -> None:
    """Write the page from all results there are, and from its own lines of other packages."""
    before = {line.split(" | ")[0].removeprefix("| "): line for line in old_lines()}
    rows = []
    for package in PACKAGES:
        file = BUILD / package.name / "result.json"
        if not file.is_file():
            rows += [before[package.name]] if package.name in before else []
            continue
        seen = json.loads(file.read_text())
        rows.append(
            f"| {package.name} | {seen['version']} | `{package.id}` | {seen['leaves']} | "
            f"{package.algorithm} | {seen['speed']:,.0f} | {package.needs} |"
        )
    head = HEAD.format(
        python=sys.version.split()[0],
        gymnasium=metadata.version("gymnasium"),
        steps=STEPS,
        columns=" | ".join(COLUMNS),
    )
    missing = "\n".join(f"| {name} | {reason} |" for name, reason in NOT_PLAYED.items())
    PAGE.write_text(head + "\n".join(rows) + TAIL + missing + "\n")


def old_lines() -> list[str]:
    lines = PAGE.read_text().splitlines() if PAGE.is_file() else []
    return [line for line in lines if line.count(" | ") == 6]


@pytest.mark.environments
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_is_checked_trained_on_and_evaluated(tmp_path, package):
    python = installed(package)
    (site,) = (BUILD / package.name).glob("lib/python*/site-packages")
    own = [each.replace("SITE", str(site)) for each in package.sets]
    sets = [f"algorithm.name={package.algorithm}", *SMALL, *own]
    words = [word for each in sets for word in ("--set", each)]
    soulsai = [python, "-m", "soulsai"]
    said = run([*soulsai, "check-env", package.id, "--json", *words], tmp_path)
    report = json.loads(said.splitlines()[-1])  # panda-gym prints before it
    said = run([*soulsai, "train", "--env", package.id, "--json", *words], tmp_path)
    summary = json.loads(said.splitlines()[-1])
    assert summary["env_steps"] >= STEPS
    assert summary["updates"] > 0
    assert (summary["rejected"], summary["lost"]) == ({}, 0)
    said = run([*soulsai, "evaluate", "latest", "--episodes", 2, "--json"], tmp_path)
    assert json.loads(said.splitlines()[-1])["episodes"] == 2
    seen = {
        "version": package.requirements[0].partition("==")[2],
        "leaves": leaves(report),
        "speed": report["steps_per_second"],
    }
    (BUILD / package.name / "result.json").write_text(json.dumps(seen))
    write_page()
