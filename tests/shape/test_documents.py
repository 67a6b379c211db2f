"""Pages that are made from the code are up to date, and links lead somewhere."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("config/*.md")])


def test_commands_are_documented_as_they_are():
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    assert generate["PAGE"].read_text() == generate["text"](), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    missing = [
        target for target in targets if "://" not in target and not (page.parent / target).exists()
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_a_page_names_are_there(page):
    named = re.findall(r"`(tests/[\w/]+\.py)", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_threat_names_the_test_that_shows_its_protection():
    text = (ROOT / "docs" / "security.md").read_text()
    rows = re.findall(r"^\| T\d.*$", text, re.MULTILINE)
    assert len(rows) >= 30
    for row in rows:
        shown = row.strip("|").split("|")[-1].strip()
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", shown)
        assert named, row
        for file, test in named:
            source = (ROOT / "tests" / file).read_text()
            assert re.search(rf"^def {test}\(", source, re.MULTILINE), f"{file}::{test}"
