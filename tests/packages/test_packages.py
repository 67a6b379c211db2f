"""The wheel and the sdist of ``make dist``, installed where nothing of the repository is near."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.documents.blocks import ROOT
from tests.documents.machines import Machine, copy_checkout
from tests.documents.test_run_blocks import carry_invites, until_learnt_from

pytestmark = [pytest.mark.dist, pytest.mark.timeout(1800)]

MOST_PACKAGES, MOST_MB = 25, 180  # of a client
MOST_SECONDS = 60  # of a volunteer, from the wheel to the first accepted experience
INSTALLERS = {"pip", "setuptools"}  # of the fresh environment; no client of ours needs them

INSTALLED = """
import importlib.metadata as metadata, os
found = {}
for each in metadata.distributions():
    files = [each.locate_file(file) for file in each.files or () if file.suffix != ".pyc"]
    found[each.name.lower()] = sum(os.path.getsize(file) for file in files if file.exists())
for name, size in found.items():
    print(name, size)
"""


def build(source, out):
    """Build both packages from a copy of the checkout."""
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(words, check=True, capture_output=True)
    return sorted(Path(out).iterdir())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    copy_checkout(source)
    return build(source, tmp_path_factory.mktemp("dist"))


@pytest.fixture
def machines(built, tmp_path):
    sdist, wheel = sorted(built, key=lambda file: file.suffix)
    made = {}
    for name, package in (("server", sdist), ("volunteer", wheel)):
        shelf = tmp_path / f"{name}-packages"
        shelf.mkdir()
        (shelf / package.name).write_bytes(package.read_bytes())
        made[name] = Machine(tmp_path / name, shelf)
    yield made
    for machine in made.values():
        machine.kill_all()


def test_a_build_from_another_folder_at_another_time_has_equal_bytes(built, tmp_path):
    source = tmp_path / "elsewhere"
    source.mkdir()
    copy_checkout(source)
    for file in source.rglob("*.py"):
        file.touch()
    again = build(source, tmp_path / "dist")
    assert [file.name for file in again] == [file.name for file in built]
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in built]


def test_the_index_would_take_them(built):
    words = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_volunteer_with_the_wheel_plays_for_a_server_with_the_sdist(machines):
    server, volunteer = machines["server"], machines["volunteer"]
    server.run('pip install "soulsai[server,box2d]"')
    version = server.run("soulsai --version").split()[-1]
    assert f'__version__ = "{version}"' in (ROOT / "soulsai" / "__init__.py").read_text()
    server.run("soulsai serve --host train.example.org")
    server.run("soulsai enroll lab --out lab.invite")
    carry_invites(machines)
    began = time.monotonic()
    volunteer.run('pip install "soulsai[box2d]"')
    volunteer.run("soulsai client --invite lab.invite")
    until_learnt_from(server)
    seconds = time.monotonic() - began
    for machine in machines.values():
        machine.leave_all()

    listed = volunteer.run(f"python -c '{INSTALLED}'").splitlines()
    sizes = {name: int(size) for name, size in map(str.split, listed)}
    others = {*INSTALLERS, "box2d", "pygame-ce"}  # of LunarLander, and of no other environment
    client = {name: size for name, size in sizes.items() if name not in others}
    megabytes = sum(client.values()) / 1e6
    print(f"{len(client)} packages, {megabytes:.0f} MB, first experience after {seconds:.0f} s")
    assert len(client) <= MOST_PACKAGES, client
    assert megabytes <= MOST_MB, client
    assert seconds <= MOST_SECONDS


def test_the_main_job_needs_nothing_of_the_repository(machines):
    server = machines["server"]
    server.run('pip install "soulsai[server,box2d]"')
    said = server.run("soulsai train --max-env-steps 1500")
    assert re.search(r"best average|mean reward|Next: ", said), said
    server.run("soulsai evaluate latest --episodes 2")
