"""Every command that a page shows can be typed, and has a place where it is run."""

import re
import shlex

import pytest

from soulsai.cli.app import app
from tests.documents.blocks import ROOT, blocks, unmarked
from tests.documents.test_run_blocks import TYPED

BLOCKS = blocks()
COMMANDS = [(block, command) for block in BLOCKS for command in block.commands]
OURS = [(block, command) for block, command in COMMANDS if "soulsai " in command.line]

# Counted, so that no block and no exception comes or goes unseen.
ALL, ELSEWHERE = 37, 16


def test_blocks_and_exceptions_are_those_that_are_known():
    away = [block.name for block in BLOCKS if all(each.elsewhere for each in block.commands)]
    assert (len(BLOCKS), len(away)) == (ALL, ELSEWHERE), away
    assert all(block.commands for block in BLOCKS), "a line without a prompt is no command"
    assert unmarked() == []
    assert sum(not each.elsewhere for _, each in COMMANDS) == TYPED


@pytest.mark.parametrize(
    "elsewhere", sorted({each.elsewhere for _, each in COMMANDS if each.elsewhere})
)
def test_an_exception_has_a_reason_and_a_place(elsewhere):
    reason, _, place = elsewhere.rpartition("; ")
    assert len(reason.split()) > 1
    assert (ROOT / place).exists(), place


@pytest.mark.parametrize(
    ("block", "command"), OURS, ids=lambda it: getattr(it, "name", "") or it.line[:40]
)
def test_commands_of_ours_take_these_words(block, command):
    line = command.line.replace("\\\n", " ")
    for part in re.split(r"&&|>+", line):
        words = [word for word in shlex.split(part.replace("\\", "/")) if word]
        if words[:1] != ["soulsai"]:
            continue
        words = words[1:]
        context = app.make_context("soulsai", words, resilient_parsing=True)
        name, inner, rest = app.resolve_command(context, words)
        while hasattr(inner, "commands"):
            name, inner, rest = inner.resolve_command(context, rest)
        known = {option for each in inner.params for option in (*each.opts, *each.secondary_opts)}
        given = [word.partition("=")[0] for word in rest if word.startswith("--")]
        assert set(given) <= known, (block.name, name)
