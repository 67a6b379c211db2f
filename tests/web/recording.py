"""Records a run: ``python tests/web/recording.py docs/images/run.webp``.

CartPole is learnt in a terminal and with its page; each picture shows both at one moment, as
they were. A picture is taken every few seconds, and shown for a part of one.
"""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import matplotlib
import pyte
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PORT = 8098
STEPS = 12_000
COLUMNS, ROWS = 112, 15
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"
LETTER = (8, 17)  # pixels of a letter in a terminal
WIDE = COLUMNS * LETTER[0]
PAGE = (1280, 900)
EVERY, SHOWN = 2.5, 400  # seconds between two pictures, and milliseconds of each
DARK, LIGHT = "#181a1f", "#dcdfe4"
COLOURS = {
    "red": "#e06c75", "green": "#98c379", "brown": "#e5c07b", "blue": "#61afef",
    "magenta": "#c678dd", "cyan": "#56b6c2", "black": "#5c6370", "brightblack": "#7f848e",
}  # fmt: skip
MOST_BYTES, MOST_PICTURES = 1_000_000, 24


class Terminal:
    """A command in a terminal, and the letters on its screen."""

    def __init__(self, words: list[str]) -> None:
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self._end, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        environ = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
        self.process = subprocess.Popen(words, stdin=other, stdout=other, stderr=other, env=environ)
        os.close(other)

    def read(self, seconds: float) -> None:
        """Take in what the command writes for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self._end], [], [], left)[0]:
                try:
                    self._stream.feed(os.read(self._end, 65536))
                except OSError:  # the command has ended
                    return

    def picture(self) -> Image.Image:
        """Return the screen."""
        image = Image.new("RGB", (WIDE, ROWS * LETTER[1]), DARK)
        draw, font = ImageDraw.Draw(image), ImageFont.truetype(str(FONT), 13)
        for row in range(ROWS):
            for column in range(COLUMNS):
                cell = self._screen.buffer[row][column]
                if cell.data.strip():
                    place = (column * LETTER[0], row * LETTER[1])
                    draw.text(place, cell.data, _colour(cell.fg), font)
        return image

    def close(self) -> None:
        """Press Ctrl-C, and wait for the end."""
        os.write(self._end, b"\x03")
        while self.process.poll() is None:
            self.read(0.5)
        os.close(self._end)


def _colour(name: str) -> str:
    return f"#{name}" if len(name) == 6 and name not in COLOURS else COLOURS.get(name, LIGHT)


def main(path: Path) -> None:
    """Train, record, and write the animation."""
    with tempfile.TemporaryDirectory() as saves, sync_playwright() as playwright:
        words = ["train", "--env", "CartPole-v1", "--max-env-steps", str(STEPS), "--seed", "1"]
        named = ["--saves", saves, "--set", f"web.port={PORT}"]
        terminal = Terminal([sys.executable, "-m", "soulsai", *words, *named])
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        size = {"width": PAGE[0], "height": PAGE[1]}
        page = chromium.new_context(viewport=size, color_scheme="dark").new_page()
        try:
            pictures = list(_pictures(terminal, page))
        finally:
            terminal.close()
            chromium.close()
    write(pictures, path)


def _pictures(terminal: Terminal, page: Page) -> Iterator[Image.Image]:
    """Yield a picture of both every few seconds, until the run has ended."""
    is_open = False
    while terminal.process.poll() is None:
        terminal.read(EVERY)
        if not is_open:
            try:
                page.goto(f"http://127.0.0.1:{PORT}/")
                page.locator("#controls button").first.wait_for()
                is_open = True
            except Exception as error:
                sys.stderr.write(f"not yet: {type(error).__name__}\n")
                continue
        shot = Image.open(BytesIO(page.screenshot()))
        small = shot.convert("RGB").resize((WIDE, WIDE * PAGE[1] // PAGE[0]))
        above = terminal.picture()
        both = Image.new("RGB", (WIDE, above.height + small.height + 6), DARK)
        both.paste(above, (0, 0))
        both.paste(small, (0, above.height + 6))
        yield both


def write(pictures: list[Image.Image], path: Path) -> None:
    """Write the animation with the best quality that keeps it small."""
    step = -(-len(pictures) // MOST_PICTURES)
    first, *rest = [*pictures[:-1:step], pictures[-1]]
    for quality in (60, 35, 15):
        first.save(
            path, save_all=True, append_images=rest, duration=[SHOWN] * len(rest) + [3000],
            loop=0, quality=quality, method=4,
        )  # fmt: skip
        if path.stat().st_size < MOST_BYTES:
            sys.stderr.write(f"{1 + len(rest)} pictures, {path.stat().st_size} bytes\n")
            return
    raise SystemExit(f"{path}: {path.stat().st_size} bytes; take fewer pictures")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
