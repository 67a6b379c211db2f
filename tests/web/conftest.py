"""A browser, the page in it, and what it complains of; ``make test-web`` installs all that."""

import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "contract"))  # where the page's cases are

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
NODE_MODULES = ROOT / ".venv" / "node" / "node_modules"
WATCH = """
window.reports = [];
window.drawn = new Promise((done) => {
  const look = new MutationObserver(() => {
    const note = document.querySelector(".stage + .row .small");
    if (note?.textContent.includes("points for")) done(performance.now());
  });
  look.observe(document, { subtree: true, childList: true, characterData: true });
});
addEventListener("securitypolicyviolation", (event) =>
  window.reports.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`));
"""


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.web)


@pytest.fixture(autouse=True)
def nothing_left_over():
    """The browser lives as long as the session."""
    return


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def node_modules():
    """Return the folder of packages for Node, put there by ``make test-web``."""
    assert NODE_MODULES.is_dir(), "run `make test-web`, which installs them"
    return NODE_MODULES


@pytest.fixture
def opened(chromium):
    """Give ``opened(url, ...)``: a page in a fresh context that must not complain of anything."""
    with ExitStack() as stack:
        yield lambda url, **options: stack.enter_context(_opened(chromium, url, **options))


@pytest.fixture
def visit(chromium):
    """Give ``visit(url, ...)``: the same for as long as a block lasts."""
    return partial(_opened, chromium)


@contextmanager
def _opened(chromium, url, *, patient=False, viewport=(1280, 900), **options):
    """Open a page; ``patient`` expects that requests fail while the node is away."""
    complaints, strangers = [], []
    size = {"width": viewport[0], "height": viewport[1]}
    context = chromium.new_context(viewport=size, timezone_id="UTC", **options)
    context.set_default_timeout(20_000)
    context.add_init_script(WATCH)
    page = context.new_page()
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on(
        "dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss())
    )
    page.on("request", lambda request: strangers.append(request.url))
    page.goto(url)
    page.complaints = complaints
    yield page
    reports = page.evaluate("window.reports")
    context.close()
    assert reports == []
    if patient:
        complaints[:] = [text for text in complaints if "net::ERR" not in text]
    assert complaints == []
    own = url.partition("#")[0].rstrip("/")
    assert [one for one in strangers if not one.startswith((own, "blob:", "data:"))] == []
