"""The site as ``make site`` builds it: no dead link, every public name, nothing from elsewhere."""

import ast
import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.site, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)]
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


class Links(HTMLParser):
    """What a page points to, what it loads, and the names of its places."""

    def __init__(self):
        super().__init__()
        self.links, self.loaded, self.ids = [], [], set()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif tag in ("script", "img", "source") and found.get("src"):
            self.loaded.append(found["src"])
        elif tag == "link" and found.get("rel") != "canonical" and found.get("href"):
            self.loaded.append(found["href"])


@cache
def read(page):
    links = Links()
    links.feed(page.read_text())
    return links


def test_no_link_is_dead(site):
    dead, seen = [], 0
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue
        for link in read(page).links + read(page).loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            seen += 1
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                dead.append((str(page.relative_to(site)), link))
                continue
            leads = not parts.fragment or target.suffix != ".html"
            if not leads and parts.fragment not in read(target).ids | {"__skip"}:
                dead.append((str(page.relative_to(site)), link))
    assert seen > 5000
    assert dead == []


def test_every_public_name_has_a_place(site):
    missing, seen = [], 0
    for path in sorted((ROOT / "soulsai").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if any(part.startswith(("_", "testing")) and part != "__init__" for part in parts[1:]):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        names = [
            node.name
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_"
        ]
        ids = read(site / "reference" / "api" / module / "index.html").ids
        seen += len(names)
        missing += [f"{module}.{name}" for name in names if f"{module}.{name}" not in ids]
    assert seen > 500
    assert missing == []


def test_nothing_is_loaded_from_elsewhere(site):
    foreign = {
        link for page in site.rglob("*.html") for link in read(page).loaded if urlsplit(link).netloc
    }
    assert foreign == set()
    styles = "".join(style.read_text() for style in site.rglob("*.css"))
    assert re.findall(r"url\((?:https?:)?//[^)]*", styles) == []
