"""Every console block of README and docs, typed as written, in order, in fresh environments.

``checkout`` is a copy of this checkout with nothing installed; ``server`` and ``volunteer`` have
only Python, and find a wheel of this checkout where pip looks. Their name server knows the pages'
``train.example.org`` as this machine. Runs that would go on to their end have fewer env steps.
"""

import json
import shutil
import subprocess
import sys
import time

import pytest

from tests.documents.blocks import ROOT, blocks
from tests.documents.machines import COMMAND_SECONDS, Machine, copy_checkout, ready_word

pytestmark = [pytest.mark.documents, pytest.mark.timeout(3600)]


@pytest.fixture
def machines(tmp_path):
    wheels = tmp_path / "wheels"
    source = tmp_path / "source"
    source.mkdir()
    copy_checkout(source)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels)]
    subprocess.run([*build, str(source)], check=True)
    made = {
        "checkout": Machine(tmp_path / "checkout", wheels, has_python=False),
        "server": Machine(tmp_path / "server", wheels),
        "volunteer": Machine(tmp_path / "volunteer", wheels),
    }
    copy_checkout(made["checkout"].folder)
    yield made
    for machine in made.values():
        machine.kill_all()


def test_every_block_works_as_written(machines, capsys):
    section, typed = "", []
    for block in blocks():
        if all(command.elsewhere for command in block.commands):
            continue
        if (block.page, block.section) != section:
            section = block.page, block.section
            for machine in machines.values():
                machine.leave_all()
        machine = machines[block.machine]
        if block.beside:
            beside = machine.start(block.beside, "0")
            machine.going.append(beside)
            beside.until(ready_word(block.beside), COMMAND_SECONDS)
        if block.machine == "volunteer":
            carry_invites(machines)
        for command in block.commands:
            if command.elsewhere:
                continue
            with capsys.disabled():
                print(f"{block.name}: {command.line}", flush=True)
            machine.run(command.line, interrupted=command.is_interrupted)
            typed.append(command)
        if block.machine == "volunteer":
            until_learnt_from(machines["server"])
    for machine in machines.values():
        machine.leave_all()
    assert len(typed) == TYPED


TYPED = 48  # commands; counted, so that none is left out unseen


def carry_invites(machines):
    """Bring the invites from the server to the volunteer, as the text says."""
    for file in machines["server"].folder.glob("*.invite"):
        shutil.copy(file, machines["volunteer"].folder)


def until_learnt_from(server):
    """Wait until the server has accepted experience."""
    deadline = time.monotonic() + COMMAND_SECONDS
    while True:
        status = json.loads(server.run("soulsai status --json").splitlines()[-1])
        if status["env_steps"] > 0:
            return
        assert time.monotonic() < deadline, status
        time.sleep(0.5)


def test_the_checkout_is_this_one(tmp_path):
    copy_checkout(tmp_path)
    assert (tmp_path / "README.md").read_bytes() == (ROOT / "README.md").read_bytes()
    assert not (tmp_path / ".venv").exists()
