"""The page in a real browser: how soon it shows what, and that every control does what it says."""

import random
import time

import msgspec
import pytest

from soulsai.config.schema import WebSettings
from soulsai.types import Pardon, Promote, Purge
from tests.contract.evaluation_cases import write_evaluations
from tests.contract.web_cases import (
    LIVE,
    Browser,
    Door,
    client,
    episode,
    settings,
    telemetry,
    training,
    until,
    write_run,
)
from tests.memory_server import MemoryServer

OLD = "2026-11-20_09-11-02_lunarlander-v3_dqn_11aa"
PAGES = ("run", "clients", "models", "compare", "events")
DRAWN = ".chart.large canvas"


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Give a page over 100,000 episodes."""
    saves = tmp_path_factory.mktemp("many")
    write_run(saves, LIVE, 100_000)
    server = MemoryServer()
    with training(server) as trainer, telemetry(settings(saves), server) as url:
        until(lambda: Browser(url).get("/api/v1/status")["status"], 60)
        until(lambda: Browser(url).get("/api/v1/status")["episode"] == 100_000, 60)
        yield url, trainer


@pytest.fixture
def few(tmp_path):
    write_run(tmp_path, LIVE, 500)
    write_run(tmp_path, OLD, 300, seed=1)
    server = MemoryServer()
    with training(server) as trainer, telemetry(settings(tmp_path), server) as url:
        until(lambda: Browser(url).get("/api/v1/status")["status"])
        yield url, trainer


def test_it_opens_with_data_within_a_second(many, visit, record_property):
    url, _ = many
    took = []
    while len(took) < 5 or (min(took) > 1.0 and len(took) < 20):  # others use this machine, too
        with visit(url) as page:
            page.get_by_text("points for 100,000 episodes").wait_for()
            assert page.locator(DRAWN).count() == 1
            took.append(page.evaluate("window.drawn") / 1000)  # since the browser was sent there
    record_property("seconds", took)
    print("opened with data in seconds:", [round(value, 2) for value in took])
    assert min(took) <= 1.0


def test_an_episode_is_on_screen_within_two_seconds(many, opened, record_property):
    url, trainer = many
    page = opened(url)
    page.wait_for_selector(DRAWN)
    rng, took = random.Random(0), []
    first = Browser(url).get("/api/v1/status")["episode"]
    for number in range(first, first + 5):
        began = time.perf_counter()
        trainer.play(episode(number, 130_000, rng))
        page.get_by_text(f"points for {number + 1:,} episodes").wait_for(timeout=5000)
        took.append(time.perf_counter() - began)
    record_property("seconds", took)
    print("on screen after seconds:", [round(value, 2) for value in took])
    assert max(took) <= 2.0


def test_twenty_tabs_of_one_browser_all_work(few, chromium):
    url, trainer = few
    context = chromium.new_context()
    try:
        pages = [context.new_page() for _ in range(20)]
        for page in pages:
            page.goto(url)
        for page in pages:
            page.get_by_text("500 episodes", exact=True).wait_for()
        trainer.play(episode(500, 2000, random.Random(0)))
        for page in pages:
            page.get_by_text("501 episodes", exact=True).wait_for()
    finally:
        context.close()


def test_it_goes_on_after_a_restart_of_the_node_without_reload(tmp_path, opened):
    write_run(tmp_path, LIVE, 100)
    server = MemoryServer()
    with training(server) as trainer:
        with telemetry(settings(tmp_path), server) as url:
            page = opened(url, patient=True)
            page.get_by_text("100 episodes", exact=True).wait_for()
            page.evaluate("window.same = true")
        page.get_by_text("connecting…").wait_for()
        again = settings(tmp_path, WebSettings(port=int(url.rpartition(":")[2])))
        trainer.play(episode(100, 2000, random.Random(0)))
        with telemetry(again, server):
            page.get_by_text("101 episodes", exact=True).wait_for()
            page.get_by_text("connecting…").wait_for(state="detached")
            trainer.play(episode(101, 2000, random.Random(0)))
            page.get_by_text("102 episodes", exact=True).wait_for()
            assert page.evaluate("window.same")


def test_every_control_asks_and_shows_the_answer(few, opened):
    url, trainer = few
    page = opened(url)
    for button, asks, answer, phase in (
        ("Pause", "Pause the training?", "paused", "paused"),
        ("Resume", "Resume the training?", "resumed", "learning"),
        ("Quicksave", "Save the training now?", "saved 478000 updates", "learning"),
        ("Stop", "Stop the training?", "saved", "ended"),
    ):
        page.locator("#controls").get_by_role("button", name=button).click()
        dialog = page.locator("dialog[open]")
        dialog.get_by_role("heading", name=asks).wait_for()
        dialog.get_by_role("button", name=button).click()
        dialog.locator(".answer.done").wait_for()
        assert answer in dialog.locator(".answer").inner_text()
        dialog.get_by_role("button", name="Close").click()
        page.locator("#phase", has_text=phase).wait_for()
    assert page.locator("#controls button").count() == 0
    names = [type(command).__name__ for command in trainer.asked]
    assert [name for name in names if name != "SaveBest"] == [
        "Pause",
        "Resume",
        "Quicksave",
        "Stop",
    ]
    page.get_by_role("link", name="Events").click()
    page.get_by_text("quicksave: done").wait_for()


def test_every_command_about_somebody_asks_and_shows_the_answer(tmp_path, opened):
    write_run(tmp_path, LIVE, 50)
    server, door = MemoryServer(), Door()
    with training(server) as trainer, telemetry(settings(tmp_path), server, door) as url:
        until(lambda: Browser(url).get("/api/v1/status")["status"])
        page = opened(f"{url}/#/clients", patient=True)

        def confirm(button, asks, says):
            dialog = page.locator("dialog[open]")
            dialog.get_by_role("heading", name=asks).wait_for()
            dialog.get_by_role("button", name=button, exact=True).click()
            dialog.locator(".answer.done, .answer.refused").wait_for()
            assert says in dialog.locator(".answer").inner_text()
            invite = dialog.locator("textarea")
            shown = invite.input_value() if invite.count() else ""
            dialog.get_by_role("button", name="Close").click()
            return shown

        page.get_by_role("button", name="Purge client-1").click()
        assert not confirm("Purge", "Purge this client's experience?", "purged client-1")
        page.get_by_label("Add a client").fill("new-one")
        page.get_by_role("button", name="Enroll", exact=True).click()
        assert confirm("Enroll", "Enroll this client?", "new-one may") == "invite-of-new-one"
        page.get_by_role("button", name="Revoke volunteer-9d").click()
        assert not confirm("Revoke", "Shut this client out?", "volunteer-9d is shut out")
        page.get_by_role("button", name="Revoke client-2").click()
        assert not confirm("Revoke", "Shut this client out?", "client-2 is not enrolled")
        assert door.guests == {"new-one"}

        clients = (client("bad-one", "quarantine"), *trainer.status.clients)
        trainer.status = msgspec.structs.replace(trainer.status, clients=clients)
        page.get_by_role("button", name="Pardon bad-one").click()
        assert not confirm("Pardon", "Let this client in again?", "pardond bad-one")

        page.get_by_role("link", name="Models").click()
        page.get_by_role("button", name="Promote 000047").click()
        assert not confirm("Promote", "Make this the best model?", "000047 is the best model now")
        asked = [one for one in trainer.asked if type(one).__name__ != "SaveBest"]
        assert asked == [Purge("client-1"), Pardon("bad-one"), Promote("000047")]
        page.get_by_role("link", name="Events").click()
        page.get_by_text("enroll new-one: done").wait_for()
        assert page.get_by_text("invite-of").count() == 0  # it is for no record


def test_a_cancelled_control_asks_nobody(few, opened):
    url, trainer = few
    page = opened(url)
    page.locator("#controls").get_by_role("button", name="Stop").click()
    page.locator("dialog[open]").get_by_role("button", name="Cancel").click()
    page.locator("dialog[open]").wait_for(state="detached")
    assert [command for command in trainer.asked if type(command).__name__ == "Stop"] == []


def test_events_come_by_themselves(few, opened):
    url, trainer = few
    page = opened(f"{url}/#/events")
    page.get_by_text("the training node is learning").wait_for()
    trainer.status = msgspec.structs.replace(trainer.status, phase="paused")
    page.get_by_text("learning → paused").wait_for()


def test_every_page_shows_something(few, opened):
    url, _ = few
    page = opened(url)
    for name, text in (
        ("Clients", "3 of 4 clients alive"),
        ("Clients", "game_speed=1.5, max_episode_steps=500"),
        ("Models", "Checkpoint 000047"),
        ("Compare", "2 seeds, median and quartiles"),
        ("Events", "the training node is learning"),
        ("Run", "500 episodes"),
    ):
        page.get_by_role("link", name=name, exact=True).click()
        page.get_by_text(text).first.wait_for()


def test_curves_can_be_drawn_over_anything(few, opened):
    url, _ = few
    page = opened(url)
    page.wait_for_selector(DRAWN)
    for name in ("Episodes", "Time", "Relative", "Env steps"):
        page.get_by_role("radio", name=name).check(force=True)
        page.wait_for_selector(DRAWN)
    page.locator("#window").fill("5")
    page.get_by_text("100 episodes").first.wait_for()
    page.get_by_role("button", name="greedy").click()
    page.get_by_label("Single episodes").uncheck()
    with page.expect_download() as png:
        page.get_by_role("button", name="PNG").click()
    assert png.value.suggested_filename == "reward.png"
    with page.expect_download() as csv:
        page.get_by_role("link", name="CSV").click()
    text = csv.value.path().read_text()
    assert text.startswith("episode,env_steps,time,reward")


def test_a_model_can_be_downloaded(few, opened):
    url, _ = few
    page = opened(f"{url}/#/models")
    with page.expect_download() as found:
        page.get_by_role("link", name="policy.onnx of 000047").click()
    assert found.value.path().read_bytes() == b"policy" * 47
    with page.expect_download() as found:
        page.get_by_role("link", name="Download policy.onnx").click()
    assert found.value.path().read_bytes() == b"best"


def test_each_version_shows_what_it_earned(few, opened):
    url, _ = few
    page = opened(f"{url}/#/models")
    chart = page.get_by_role("img", name="Mean reward by version")
    chart.locator("canvas").wait_for()
    chart.hover()
    page.locator(".readout", has_text="version").wait_for(state="attached")


def test_an_old_run_can_be_looked_at(few, opened):
    url, _ = few
    page = opened(url)
    page.wait_for_selector(DRAWN)
    page.locator("#run").select_option(OLD)
    page.get_by_text("300 episodes", exact=True).wait_for()
    assert page.locator("#controls button").count() == 0
    assert OLD in page.url
    page.locator("#run").select_option(LIVE)
    page.get_by_text("500 episodes", exact=True).wait_for()


def test_a_token_opens_the_page(tmp_path, opened):
    write_run(tmp_path / "saves", LIVE, 50)
    (tmp_path / "operator").write_text("operator-0123456789")
    (tmp_path / "viewer").write_text("viewer-0123456789")
    web = WebSettings(
        port=0, operator_token=str(tmp_path / "operator"), viewer_token=str(tmp_path / "viewer")
    )
    server = MemoryServer()
    with training(server), telemetry(settings(tmp_path / "saves", web), server) as url:
        page = opened(url, patient=True)
        page.get_by_label("Token").fill("viewer-0123456789")
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_selector(DRAWN)
        page.locator("#phase", has_text="learning").wait_for()
        assert page.locator("#controls button").count() == 0
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("Token").fill("operator-0123456789")
        page.get_by_role("button", name="Sign in").click()
        page.locator("#controls").get_by_role("button", name="Pause").wait_for()


def test_before_the_first_episode(tmp_path, opened):
    server = MemoryServer()
    with training(server) as trainer:
        trainer.status = msgspec.structs.replace(trainer.status, clients=(), checkpoint="")
        with telemetry(settings(tmp_path), server) as url:
            page = opened(url, patient=True)
            drawn = "the reward per env step is drawn below."
            page.get_by_text(f"The first episode has not ended yet; {drawn}").wait_for()
            trainer.play(episode(0, 2000, random.Random(0)))
            page.get_by_text("1 episode", exact=True).wait_for()
            page.get_by_role("link", name="Clients").click()
            page.get_by_text("No client has connected").wait_for()


def test_episodes_that_a_person_took_over_are_drawn_apart(few, opened):
    url, trainer = few
    page = opened(url)
    page.wait_for_selector(DRAWN)
    button = page.get_by_role("button", name="taken over by a person")
    assert button.count() == 0, "nobody has"
    rng = random.Random(0)
    first = Browser(url).get("/api/v1/status")["episode"]
    for number in range(first, first + 3):
        one = episode(number, 500, rng)
        steered = one.info | {"intervened": 7.0}
        trainer.play(msgspec.structs.replace(one, info=steered))
    button.wait_for(timeout=5000)
    rows = Browser(url).get("/api/v1/series?metrics=reward&kind=intervened")
    assert len(rows) == 3
    page.get_by_role("heading", name="Env steps chosen by a person").wait_for()


def test_the_best_model_is_named_and_what_it_is_the_mean_of(tmp_path, opened):
    live = write_run(tmp_path, LIVE, 200)
    write_evaluations(live, count=10, recorded=1)
    server = MemoryServer()
    with training(server), telemetry(settings(tmp_path), server) as url:
        page = opened(url, patient=True)
        page.get_by_text("best model 220, mean of 8 evaluation episodes").wait_for()
        page.goto(f"{url}/#/models")
        on = page.get_by_role("button", name="Episode: step on")
        on.wait_for()
        assert on.evaluate("button => getComputedStyle(button, '::before').content") == "none"


def test_the_table_of_clients_fits_beside_its_buttons(tmp_path, opened):
    write_run(tmp_path, LIVE, 200)
    server = MemoryServer()
    with training(server), telemetry(settings(tmp_path), server, Door()) as url:
        page = opened(f"{url}/#/clients", patient=True)
        page.get_by_role("button", name="Revoke client-1").wait_for()
        table = page.get_by_role("region", name="Table of clients")
        assert table.evaluate("region => region.scrollWidth <= region.clientWidth")
