"""The picture of the web page at work, and the examples that it offers: `make record` makes both."""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

from phi_vision.client.process import ServerProcess, serve_command
from PIL import Image
from playwright.sync_api import sync_playwright

from documentation.results import ROOT

PICTURE = ROOT / "server" / "documentation" / "page.png"
EXAMPLES = ROOT / "server" / "phi_vision" / "page" / "examples"

_COLOURS = {"sign": 16, "shapes": 16, "invoice": 8}  # drawn pictures: as PNG files with a palette
_SCENE_PX = (480, 320)


def write_examples() -> None:
    """Small copies of test pictures; the page and all that it shows have 120 KB together."""
    images = ROOT / "tests" / "images"
    for name, colours in _COLOURS.items():
        with Image.open(images / f"{name}.png") as picture:
            small = picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
            small.save(EXAMPLES / f"{name}.png", optimize=True)
    with Image.open(images / "scene.jpg") as scene:
        small = scene.convert("RGB").resize(_SCENE_PX, Image.Resampling.LANCZOS)
        small.save(EXAMPLES / "scene.webp", quality=45, method=6)


def photographed(url: str) -> bytes:
    """The page of a server of the demo that has read the first example and named a colour, as PNG."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        page = browser.new_page(viewport={"width": 1280, "height": 905}, color_scheme="light")
        page.goto(url)
        page.get_by_role("button", name="Ask", exact=True).wait_for()
        for name, answer in (("Shapes", "Red"), ("Sign", "COFFEE")):
            page.get_by_role("button", name=name, exact=True).click()
            page.get_by_role("button", name="Ask", exact=True).click()
            page.locator("#text", has_text=answer).wait_for()
            page.locator("#ending", has_text="Complete").wait_for()
            if name == "Shapes":
                page.get_by_role("button", name="Start over").click()
        taken = page.screenshot()
        browser.close()
    return taken


def record() -> None:
    """Start the demo, use its page, and write the picture."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(serve_command("--model", "demo", "--port", "0"), Path(folder, "log.txt")) as server,
    ):
        server.wait_until_ready()
        taken = photographed(server.url)
    with Image.open(io.BytesIO(taken)) as picture:
        picture.convert("RGB").save(PICTURE, optimize=True)


if __name__ == "__main__":
    write_examples()
    record()
