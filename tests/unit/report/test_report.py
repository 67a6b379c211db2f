"""The report of a run: whole, the same each time, and harmless whatever a run holds."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import msgspec
import pytest

from soulsai.report.write import html, write
from soulsai.web.journal import Note
from tests.contract.evaluation_cases import write_evaluations
from tests.contract.web_cases import BEGAN, LIVE, write_run

EVIL = "<script>alert(1)</script>"


class Reader(HTMLParser):
    """Collects the elements of a page, and what they would load."""

    def __init__(self):
        super().__init__()
        self.elements, self.loads, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.loads += [
            value for name, value in attrs if name in ("src", "href", "xlink:href", "poster")
        ]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def folder(tmp_path):
    folder = write_run(tmp_path, LIVE, 300)
    write_evaluations(folder, count=90, recorded=2, seeds=1)
    notes = [Note(1, BEGAN, "evaluator", EVIL), Note(2, BEGAN + 1, "best", "no fault")]
    (folder / "events.jsonl").write_bytes(
        b"".join(msgspec.json.encode(note) + b"\n" for note in notes)
    )
    (folder / "versions.json").write_text('{"soulsai": "1.2.3", "torch": "2.9"}')
    return folder


def read(text):
    reader = Reader()
    reader.feed(text)
    return reader


def test_it_holds_everything_and_loads_nothing(folder):
    reader = read(html(folder))
    text = " ".join(" ".join(reader.text).split())
    for word in (
        LIVE, "LunarLander-v3", "000090", "far worse than the best", "client-1", "messages not",
        "dqn.lr", "1.2.3", "torch", "mean and 95 % interval", "version 1-90",
    ):  # fmt: skip
        assert word in text, word
    assert reader.elements.count("svg") == 2
    assert reader.elements.count("video") == 1
    own = [load for load in reader.loads if load.startswith(("data:video/webm;base64,", "#"))]
    assert reader.loads == own
    assert "script" not in reader.elements
    assert "ppo.clip" not in text, "only the settings of the algorithm that learns"


def test_texts_of_others_are_only_text(folder):
    text = html(folder)
    assert EVIL not in text
    assert EVIL in "".join(read(text).text)
    assert "no fault" not in text


def test_the_same_run_gives_the_same_bytes_in_any_process(folder, tmp_path):
    assert write(folder, tmp_path / "a.html") == len(html(folder).encode())
    code = (
        "import sys; from pathlib import Path; from soulsai.report.write import write;"
        "write(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    other = tmp_path / "b.html"
    subprocess.run([sys.executable, "-c", code, str(folder), str(other)], check=True, timeout=120)
    assert other.read_bytes() == (tmp_path / "a.html").read_bytes()
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_run_that_has_just_begun_has_a_report(tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    text = " ".join(read(html(folder)).text)
    assert "Nothing was evaluated." in text
    assert "Nobody has finished an episode." in text
    assert not re.search(r"\bnan\b|None", text)
