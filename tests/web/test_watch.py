"""The evaluations in a browser: the curve, and episodes that play, step and stand side by side."""

import pytest

from tests.contract.evaluation_cases import FRAMES, write_evaluations
from tests.contract.web_cases import LIVE, Browser, settings, telemetry, until, write_run
from tests.memory_server import MemoryServer
from tests.web.test_access import axe

PHONE = (390, 844)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    saves = tmp_path_factory.mktemp("saves")
    write_evaluations(write_run(saves, LIVE, 200), count=30, recorded=4)
    with telemetry(settings(saves), MemoryServer()) as url:
        until(lambda: Browser(url).get("/api/v1/recordings"))
        yield f"{url}/#/models"


def wait_for(page, condition):
    """Wait until an expression is true; the page's own rules let nobody else evaluate it."""
    until(lambda: page.evaluate(condition), 30)


def watched(page):
    """Return the first viewer of the page, with its trace."""
    page.get_by_text(f"step 0 of {FRAMES}").first.wait_for()
    return page.locator(".viewer").first


def told(viewer):
    return viewer.get_by_role("status").inner_text()


def test_the_curve_is_drawn_with_its_interval(place, opened):
    page = opened(place)
    page.get_by_role("heading", name="Evaluation", exact=True).wait_for()
    page.locator("[aria-labelledby=evaluation-title] canvas").wait_for()
    assert "Mean of an evaluation" in page.locator(
        "[aria-labelledby=evaluation-title] .chart"
    ).get_attribute("aria-label")
    page.get_by_text("8 episodes each on the same seeds, by reward").wait_for()


def test_an_episode_plays_and_its_steps_follow(place, opened):
    page = opened(place)
    viewer = watched(page)
    viewer.locator("video").evaluate("video => video.play()")
    wait_for(page, "document.querySelector('.viewer video').ended")
    wait_for(
        page,
        f"document.querySelector('.viewer [role=status]').textContent.includes('step {FRAMES} of')",
    )
    assert "return so far 30" in told(viewer)
    assert "terminated" in told(viewer)


def test_steps_show_the_frame_the_action_and_what_the_policy_thought(place, opened):
    page = opened(place)
    viewer = watched(page)
    on = viewer.get_by_role("button", name="Episode: step on")
    for _ in range(4):
        on.click()
    assert told(viewer) == (
        f"step 4 of {FRAMES} · return so far 2 · reward 0.5 · action 1 · value 1"
    )
    scores = viewer.locator(".scores li")
    assert [scores.nth(i).inner_text().split("\n")[0] for i in range(3)] == [
        "action 0", "action 1", "action 2",
    ]  # fmt: skip
    assert "not allowed" in scores.nth(2).inner_text()
    assert scores.nth(1).get_attribute("class") == "chosen"
    wait_for(page, "!document.querySelector('.viewer video').seeking")
    time = viewer.locator("video").evaluate("video => video.currentTime")
    assert time == pytest.approx(4.5 / 20, abs=0.02)
    shade = viewer.locator("video").evaluate(
        """async video => {
          const canvas = document.createElement("canvas");
          const read = () => {
            const pen = canvas.getContext("2d");
            pen.drawImage(video, 0, 0, 300, 150);
            return pen.getImageData(20, 20, 1, 1).data[0];
          };
          await new Promise(done => setTimeout(done, 200));
          return read();
        }"""
    )
    assert shade == pytest.approx(16, abs=6), "frame 4 of a video that becomes brighter"


def test_the_keyboard_alone_steps_and_chooses(place, opened):
    page = opened(place)
    viewer = watched(page)
    slider = viewer.get_by_role("slider", name="Episode: step")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert told(viewer).startswith(f"step 3 of {FRAMES}")
    page.keyboard.press("End")
    assert told(viewer).startswith(f"step {FRAMES} of {FRAMES}")
    page.keyboard.press("Home")
    assert told(viewer).startswith(f"step 0 of {FRAMES}")
    choice = viewer.get_by_role("combobox", name="Episode")
    choice.focus()
    page.keyboard.press("ArrowDown")
    wait_for(page, "document.querySelector('.viewer video').src.includes('2000001')")


def test_two_versions_stand_side_by_side_on_the_same_seed(place, opened):
    page = opened(place)
    watched(page)
    page.get_by_role("button", name="Side by side").click()
    wait_for(
        page,
        "[...document.querySelectorAll('.viewer [role=status]')]"
        ".every(told => told.textContent.startsWith('step 0'))",
    )
    names = page.locator(".viewer select").evaluate_all(
        "selects => selects.map(one => one.selectedOptions[0].textContent)"
    )
    assert [name.split(" · ")[0] for name in names] == ["version 1-30", "version 1-27"]
    assert len({name.split("seed ")[1] for name in names}) == 1
    page.get_by_role("button", name="Play both").click()
    wait_for(
        page,
        "[...document.querySelectorAll('.viewer video')].every(video => video.currentTime > 0.3)",
    )


def test_it_fits_a_phone_and_axe_finds_no_serious_fault(place, opened, node_modules):
    page = opened(place, viewport=PHONE)
    watched(page)
    page.get_by_role("button", name="Side by side").click()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE[0]
    assert axe(page, node_modules) == []


def test_ten_thousand_evaluations_and_a_thousand_videos_open_within_a_second(
    tmp_path, visit, record_property
):
    write_evaluations(write_run(tmp_path, LIVE, 200), count=10_000, recorded=1000, seeds=1)
    with telemetry(settings(tmp_path), MemoryServer()) as url:
        until(lambda: Browser(url).get("/api/v1/recordings"), 60)
        assert len(Browser(url).get("/api/v1/recordings")) == 1000
        took = []
        while len(took) < 3 or (min(took) > 1.0 and len(took) < 12):  # others use this machine
            with visit(f"{url}/#/models") as page:
                wait_for(
                    page,
                    "document.querySelectorAll('.viewer option').length >= 1000"
                    " && document.querySelector('[aria-labelledby=evaluation-title] canvas')",
                )
                took.append(page.evaluate("performance.now()") / 1000)
                page.get_by_text(f"step 0 of {FRAMES}").first.wait_for()
    record_property("seconds", took)
    print("opened with evaluations in seconds:", [round(value, 2) for value in took])
    assert min(took) <= 1.0


def test_the_board_shows_who_has_played_and_exports_it(place, opened):
    page = opened(place.replace("#/models", "#/clients"))
    board = page.get_by_role("region", name="Table of contributors")
    board.get_by_role("rowheader", name="client-1").wait_for()
    assert board.get_by_role("row").count() == 5
    page.get_by_role("button", name="All runs").click()
    assert page.get_by_role("button", name="All runs").get_attribute("aria-pressed") == "true"
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert download.value.suggested_filename == "contributors.csv"
