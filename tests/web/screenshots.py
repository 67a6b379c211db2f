"""Takes the pictures of the documentation: ``python tests/web/screenshots.py URL docs/images``."""

import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PICTURES = {
    "run-light": ("run", 1280, 1000, "light"),
    "run-dark": ("run", 1280, 1000, "dark"),
    "run-phone": ("run", 390, 844, "light"),
    "clients": ("clients", 1280, 620, "light"),
    "clients-phone": ("clients", 390, 844, "dark"),
    "models": ("models", 1280, 720, "light"),
    "compare": ("compare", 1280, 900, "light"),
    "events": ("events", 1280, 620, "light"),
}


def take(browser: Browser, url: str, folder: Path) -> None:
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
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        take(chromium, sys.argv[1].rstrip("/"), Path(sys.argv[2]))
        chromium.close()
