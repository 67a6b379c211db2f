"""For everybody: no serious fault that axe-core finds, and no page that is wider than a phone."""

import pytest

from tests.contract.web_cases import LIVE, Browser, settings, telemetry, training, until, write_run
from tests.memory_server import MemoryServer

PAGES = ("run", "clients", "models", "compare", "events")
SIZES = {"desk": (1280, 900), "phone": (360, 740)}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    saves = tmp_path_factory.mktemp("saves")
    write_run(saves, LIVE, 500)
    write_run(saves, "2026-11-20_09-11-02_lunarlander-v3_dqn_11aa", 300, seed=1)
    server = MemoryServer()
    with training(server), telemetry(settings(saves), server) as url:
        until(lambda: Browser(url).get("/api/v1/status")["status"])
        yield url


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_no_serious_fault(url, opened, node_modules, size, scheme):
    page = opened(url, viewport=SIZES[size], color_scheme=scheme)
    page.locator("#controls button").first.wait_for()
    found = []
    for name in PAGES:
        page.goto(f"{url}/#/{name}")
        page.wait_for_timeout(700)
        found += [(name, *fault) for fault in axe(page, node_modules)]
    page.locator("#controls").get_by_role("button", name="Stop").click()
    found += [("dialog", *fault) for fault in axe(page, node_modules)]
    assert found == []


def axe(page, node_modules):
    """Return the serious faults of what is shown; the checker comes past the page's own rules."""
    page.evaluate((node_modules / "axe-core" / "axe.min.js").read_text())
    found = page.evaluate("axe.run({resultTypes: ['violations']})")
    page.evaluate("delete window.axe")
    return [
        (fault["id"], node["html"][:200], node["any"][0]["message"] if node["any"] else "")
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_shows_all_of_a_page(url, opened, name):
    page = opened(f"{url}/#/{name}", viewport=SIZES["phone"], device_scale_factor=2)
    page.wait_for_timeout(700)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_everything_can_be_reached_by_keyboard(url, opened):
    page = opened(url)
    page.locator("#controls button").first.wait_for()
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.textContent.trim().slice(0, 20)"))
    assert {"Skip to content", "Pause", "Stop", "Clients", "Events", "PNG", "CSV"} <= seen


def test_the_choice_of_light_or_dark_is_kept(url, opened):
    page = opened(url, color_scheme="light")
    back = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(back)
    page.get_by_role("button", name="Switch between light and dark").click()
    dark = page.evaluate(back)
    assert dark != light
    page.reload()
    assert page.evaluate(back) == dark
