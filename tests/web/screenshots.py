"""Takes the pictures of the documentation: ``python -m tests.web.screenshots docs/images``.

They are of the runs and the training node that the tests of the page use, with a lander that
Gymnasium's own heuristic flies.
"""

import sys
import tempfile
from pathlib import Path

import gymnasium
from gymnasium.envs.box2d.lunar_lander import heuristic
from playwright.sync_api import Browser, sync_playwright

from soulsai.client.recording import Trace, write_trace
from soulsai.client.video import VideoLimits, VideoWriter
from soulsai.evaluations.record import FOLDER
from tests.contract import web_cases as cases
from tests.contract.evaluation_cases import write_evaluations
from tests.memory_server import MemoryServer

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
OTHERS = {
    "2026-11-20_09-11-05_lunarlander-v3_dqn_11aa": (1, 5e-4, 1500),
    "2026-11-20_12-41-40_lunarlander-v3_dqn_22bb": (2, 5e-4, 1600),
    "2026-11-21_08-30-12_lunarlander-v3_dqn_33cc": (3, 1e-3, 1400),
}
MODELS, RECORDED, SEED = 198, 2, 2_000_000  # up to 475,000 env steps
COMMANDS = (
    {"command": "quicksave"},
    {"command": "promote", "about": "000046"},
    {"command": "purge", "about": "volunteer-9d"},
)
PICTURES = {
    "run-light": ("run", 1280, 1000, "light"),
    "run-dark": ("run", 1280, 1000, "dark"),
    "run-phone": ("run", 390, 844, "light"),
    "clients": ("clients", 1280, 900, "light"),
    "models": ("models", 1280, 1150, "light"),
    "compare": ("compare", 1280, 900, "light"),
    "events": ("events", 1280, 620, "light"),
}


def write_runs(saves: Path) -> None:
    """Write the runs that the pictures show."""
    for name, (seed, rate, episodes) in OTHERS.items():
        cases.write_run(saves, name, episodes, seed=seed, lr=rate)
    live = cases.write_run(saves, cases.LIVE, 2000)
    write_evaluations(live, MODELS, RECORDED, seeds=1)
    for number in range(MODELS - RECORDED + 1, MODELS + 1):
        fly(live / FOLDER / f"{number:06d}" / f"episode-{SEED}.webm", number)


def fly(video: Path, version: int) -> None:
    """Record a landing."""
    env = gymnasium.make("LunarLander-v3", render_mode="rgb_array")
    obs, _ = env.reset(seed=SEED + version)
    fps = env.metadata["render_fps"]
    trace = Trace(1, version, SEED, fps, "probability", (4,), actions=[], scores=[], rewards=[])
    writer, over = VideoWriter(video, fps, VideoLimits()), False
    while True:
        so_far = sum(trace.rewards)
        writer.add(env.render(), f"version 1-{version}   return {so_far:.1f}   seed {SEED}")
        if over:
            break
        action = heuristic(env.unwrapped, obs)
        obs, reward, terminated, truncated, _ = env.step(action)
        trace.actions.append([float(action)])
        trace.scores.append([0.91 if choice == action else 0.03 for choice in range(4)])
        trace.rewards.append(float(reward))
        over = terminated or truncated
    writer.close()
    env.close()
    trace.frames, trace.terminated = writer.frames, terminated
    write_trace(video.with_suffix(".json"), trace)


def take(browser: Browser, url: str, folder: Path) -> None:
    """Write each picture of the page."""
    for name, (page_name, width, height, scheme) in PICTURES.items():
        size = {"width": width, "height": height}
        scale = 2 if width < 500 else 1
        context = browser.new_context(
            viewport=size, color_scheme=scheme, device_scale_factor=scale, timezone_id="UTC"
        )
        page = context.new_page()
        page.goto(f"{url}/#/{page_name}")
        page.locator("#controls button").first.wait_for()
        if page_name == "models":
            page.get_by_role("button", name="Side by side").click()
            for slider in page.get_by_role("slider").all():
                slider.fill("120")
            page.get_by_role("heading", name="Watch it play").scroll_into_view_if_needed()
        page.wait_for_timeout(2000)
        page.screenshot(path=folder / f"{name}.png")
        context.close()


def main(folder: Path) -> None:
    """Write all pictures into a folder."""
    with tempfile.TemporaryDirectory() as place:
        write_runs(Path(place))
        server = MemoryServer()
        with (
            cases.training(server),
            cases.telemetry(cases.settings(Path(place)), server, cases.Door()) as url,
            sync_playwright() as playwright,
        ):
            browser = cases.Browser(url)
            cases.until(lambda: browser.get("/api/v1/status")["status"])  # type: ignore[index]
            for command in COMMANDS:
                browser.post("/api/v1/commands", command)
            chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            take(chromium, url, folder)
            chromium.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
