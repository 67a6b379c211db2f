"""Takes the pictures of the documentation: ``python tests/web/screenshots.py docs/images``.

It trains LunarLander three times for a short while, and then once for some minutes with an
evaluator beside it; the pictures are of that run while it goes on.
"""

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PORT = 8099
SHORT, LONG, SHOWN = 15_000, 150_000, 60_000  # env steps, and those after which pictures are taken
PATIENCE = 1800.0
PICTURES = {
    "run-light": ("run", 1280, 1000, "light"),
    "run-dark": ("run", 1280, 1000, "dark"),
    "run-phone": ("run", 390, 844, "light"),
    "clients": ("clients", 1280, 900, "light"),
    "clients-phone": ("clients", 390, 844, "dark"),
    "models": ("models", 1280, 1150, "light"),
    "compare": ("compare", 1280, 900, "light"),
    "events": ("events", 1280, 620, "light"),
}


def main(folder: Path) -> None:
    """Train, and write the pictures into a folder."""
    with tempfile.TemporaryDirectory() as saves:
        for seed, rate in ((1, "5e-4"), (2, "5e-4"), (3, "1e-3")):
            words = train(saves, seed, SHORT, f"dqn.lr={rate}", "web.enabled=false")
            subprocess.run(words, check=True, capture_output=True)
        shown = train(
            saves, 4, LONG, "dqn.lr=5e-4", f"web.port={PORT}", "evaluate.every=1",
            "checkpoint.every=5000", "run.clients=4",
        )  # fmt: skip
        process = subprocess.Popen(shown, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            await_run(f"http://127.0.0.1:{PORT}")
            with sync_playwright() as playwright:
                chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
                take(chromium, f"http://127.0.0.1:{PORT}", folder)
                chromium.close()
        finally:
            process.terminate()
            process.wait()


def train(saves: str, seed: int, steps: int, *settings: str) -> list[str]:
    """Return the command of a run."""
    sets = [word for setting in settings for word in ("--set", setting)]
    named = ["--saves", saves, "--seed", str(seed), "--max-env-steps", str(steps)]
    return [sys.executable, "-m", "soulsai", "train", *named, *sets]


def await_run(url: str) -> None:
    """Wait until the run has something to show."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        status, recordings = read(f"{url}/api/v1/status"), read(f"{url}/api/v1/recordings")
        steps = ((status or {}).get("status") or {}).get("env_steps", 0)
        if steps >= SHOWN and len(recordings or ()) >= 2:
            return
        time.sleep(1)
    raise SystemExit(f"{url}: the run has nothing to show after {PATIENCE:.0f} s")


def read(address: str) -> Any:
    """Return the answer of the page's API; nothing while it is not there."""
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return json.load(answer)
    except OSError:
        return None


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
        page.wait_for_timeout(2000)
        page.screenshot(path=folder / f"{name}.png")
        context.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
