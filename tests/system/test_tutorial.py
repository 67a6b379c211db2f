"""The tutorial's commands, as they stand on its page, lead to an agent that plays."""

import json
import shlex
import shutil

from tests.documents.blocks import ROOT, blocks
from tests.system.train_cases import soulsai

QUIET = ("--set", "web.enabled=false", "--clients", "1")


def test_ten_episodes_lead_to_a_trained_agent(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    page = [block for block in blocks() if block.page.name == "demonstrations.md"]
    here = [each for block in page for each in block.commands if not each.elsewhere]
    commands = [each for each in here if each.line.startswith("soulsai ")]
    assert len(commands) == 4
    for command in commands:
        _, *words = shlex.split(command.line)
        if words[0] == "train":
            words += QUIET
        if words[0] == "evaluate":
            words += ["--json"]
        done = soulsai(*words, cwd=tmp_path, timeout=200)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mean"] >= 400
