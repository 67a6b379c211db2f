"""Names that try to become code: in clients, environments, metrics, events and settings."""

import random

import msgspec
import pytest

from soulsai.types import Event
from tests.contract.web_cases import (
    LIVE,
    Browser,
    client,
    episode,
    settings,
    telemetry,
    training,
    until,
    write_run,
)
from tests.memory_server import MemoryServer

PAYLOADS = (
    "<script>hacked()</script>",
    "<img src=x onerror=hacked()>",
    "<svg onload=hacked()>",
    "<svg><script>hacked()</script></svg>",
    "\"><script>hacked()</script>",
    "'><img src=x onerror=hacked()>",
    "javascript:hacked()",
    "<a href=javascript:hacked()>x</a>",
    "<iframe src=javascript:hacked()></iframe>",
    "<iframe srcdoc='<script>parent.hacked()</script>'>",
    "<body onload=hacked()>",
    "<input autofocus onfocus=hacked()>",
    "<details open ontoggle=hacked()>",
    "<video><source onerror=hacked()>",
    "<marquee onstart=hacked()>",
    "<object data=javascript:hacked()>",
    "<embed src=javascript:hacked()>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=hacked()>",
    "</title><script>hacked()</script>",
    "</option></select><script>hacked()</script>",
    "</td></tr></table><script>hacked()</script>",
    "\" onmouseover=\"hacked()\" x=\"",
    "' style='x:expression(hacked())' '",
    "<style>@import 'javascript:hacked()';</style>",
    "<link rel=stylesheet href=javascript:hacked()>",
    "<meta http-equiv=refresh content=\"0;url=javascript:hacked()\">",
    "<base href=//evil.example/>",
    "{{constructor.constructor('hacked()')()}}",
    "${hacked()}",
    "\u2028hacked()//\u2029<!--",
)  # fmt: skip
PAGES = ("run", "clients", "models", "compare", "events")


def test_there_are_thirty():
    assert len(set(PAYLOADS)) == 30


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    saves = tmp_path_factory.mktemp("hostile")
    folder = write_run(saves, LIVE, 20)
    config = msgspec.json.decode((folder / "config.json").read_bytes())
    config["algorithm"]["options"] = {name: name for name in PAYLOADS}
    config["environment"]["id"] = PAYLOADS[0]
    (folder / "config.json").write_bytes(msgspec.json.encode(config))
    write_run(saves, "2026-11-20_09-11-02_other", 20, seed=1)
    server = MemoryServer()
    with training(server) as trainer:
        trainer.status = msgspec.structs.replace(
            trainer.status,
            environment=PAYLOADS[1], algorithm=PAYLOADS[2], notice=PAYLOADS[3],
            checkpoint=PAYLOADS[4], clients=tuple(client(name, "active") for name in PAYLOADS),
            rejected=dict.fromkeys(PAYLOADS, 1), metrics=dict.fromkeys(PAYLOADS[:18], 1.0),
        )  # fmt: skip
        with telemetry(settings(saves), server) as url:
            browser = Browser(url)
            until(lambda: browser.get("/api/v1/status")["status"])
            rng = random.Random(0)
            for number, name in enumerate(PAYLOADS):
                some = episode(20 + number, 2000, rng)
                trainer.play(msgspec.structs.replace(some, client=name, info={name: 1.0}))
                trainer.wire.announce(Event("best", name))
            until(lambda: browser.get("/api/v1/status")["episode"] == 50)
            until(lambda: len(browser.get("/api/v1/events?limit=100")) > 30)
            yield url


@pytest.mark.parametrize("name", PAGES)
def test_thirty_names_stay_names(hostile, opened, name):
    page = opened(hostile)
    page.evaluate("void (window.hacked = () => { window.was = true; })")
    page.goto(f"{hostile}/#/{name}")
    page.get_by_role("heading", level=1).first.wait_for(state="attached")
    page.wait_for_timeout(1500)
    assert page.evaluate("window.was") is None
    strays = "main script, main img, main iframe, main object, main embed, main marquee, main base"
    assert page.locator(strays).count() == 0
    if name == "clients":
        for payload in PAYLOADS:
            assert page.locator("tbody th", has_text=" ".join(payload.split())).count() >= 1
    if name == "events":
        page.get_by_label("Show").select_option("best")
        page.get_by_text(PAYLOADS[5], exact=True).first.wait_for()
