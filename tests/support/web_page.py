"""What a user does on the server's web page, for tests in a browser."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.pictures import encoded, reference_picture

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

_FILES = """files => {
  const data = new DataTransfer();
  for (const { name, type, base64 } of files) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    data.items.add(new File([bytes], name, { type }));
  }
  return data;
}"""


@dataclass(frozen=True)
class File:
    """What is dropped, pasted or chosen."""

    name: str
    content: bytes
    media_type: str = "image/png"


PICTURE = File("waves.png", encoded(reference_picture(400, 300, seed=1)))


@dataclass(frozen=True)
class WebPage:
    """The page in a tab."""

    tab: Page

    def wait_until_ready(self) -> WebPage:
        """Until the server's tasks are there."""
        self.button("Ask").wait_for()
        return self

    def drop(self, *files: File) -> None:
        """Drop them onto the page."""
        self._give("drop", files, "dataTransfer")
        self.shown("#strip li")

    def paste(self, *files: File) -> None:
        """Paste them into the page."""
        self._give("paste", files, "clipboardData")
        self.shown("#strip li")

    def _give(self, event: str, files: tuple[File, ...], field: str) -> None:
        described = [
            {"name": file.name, "type": file.media_type, "base64": base64.b64encode(file.content).decode()}
            for file in files
        ]
        kind = "DragEvent" if event == "drop" else "ClipboardEvent"
        self.tab.evaluate(
            f"""files => document.body.dispatchEvent(new {kind}("{event}",
            {{ bubbles: true, cancelable: true, {field}: ({_FILES})(files) }}))""",
            described,
        )

    def task(self, name: str) -> None:
        """Choose the task of this name."""
        self.tab.get_by_role("radio", name=name).check()

    def option(self, label: str) -> Locator:
        """A field of the options, which are opened."""
        self.tab.locator("#options").evaluate("options => { options.open = true; }")
        return self.tab.get_by_label(label)

    def ask(self, question: str = "") -> None:
        """Ask, by the button."""
        if question:
            self.tab.get_by_label("Question", exact=True).fill(question)
        self.button("Ask").click()

    def button(self, name: str) -> Locator:
        """The button of exactly this name."""
        return self.tab.get_by_role("button", name=name, exact=True)

    def shown(self, selector: str, pattern: str = "") -> Locator:
        """Wait until the first such element with a matching text is seen."""
        found = self.tab.locator(selector).filter(has_text=re.compile(pattern)).first
        found.wait_for()
        return found

    def ended(self, pattern: str) -> None:
        """Wait until the answer has ended in such words."""
        self.shown("#ending", pattern)

    @property
    def answer(self) -> str:
        """The text of the answer as it is read, without what only screen readers say."""
        text: str = self.tab.locator("#text").evaluate(
            "box => [...box.querySelectorAll('.words')].map((words) => {"
            "  const copy = words.cloneNode(true);"
            "  copy.querySelectorAll('.unseen').forEach((each) => each.remove());"
            "  return copy.textContent; }).join('\\n---\\n')"
        )
        return text
