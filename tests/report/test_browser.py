"""The report page in a real browser: wide and narrow, light and dark, and on paper, with names of the worst kind."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.report_pages import Page, Site

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
FOUND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(FOUND is None, reason="needs the browser Chromium (Debian: apt-get install chromium)")

OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
LEAST_CONTRAST = 4.5

# Returns the visible texts whose contrast with their ground is too low: each with its ratio, colours and first words.
CONTRAST = """(least) => {
  const numbers = colour => {
    const found = colour.match(/[\\d.]+/g).map(Number);
    return found.length < 4 ? [...found, 1] : found;
  };
  const over = (above, below) => [0, 1, 2].map(n => above[n] * above[3] + below[n] * (1 - above[3])).concat(1);
  const luminance = colour => {
    const parts = colour.slice(0, 3).map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    return .2126 * parts[0] + .7152 * parts[1] + .0722 * parts[2];
  };
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  const ground = element => {
    const layers = [];
    for (let each = element; each; each = each.parentElement)
      layers.push(numbers(getComputedStyle(each).backgroundColor));
    return layers.reverse().reduce((below, above) => over(above, below), dark ? [18, 18, 18, 1] : [255, 255, 255, 1]);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const poor = new Set();
  let texts = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element);
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest('title')) continue;
    texts += 1;
    const colour = numbers(element.closest('svg') ? style.fill : style.color), below = ground(element);
    let opacity = 1;
    for (let each = element; each; each = each.parentElement) opacity *= Number(getComputedStyle(each).opacity);
    colour[3] *= opacity;
    const [low, high] = [luminance(over(colour, below)), luminance(below)].sort((a, b) => a - b);
    const ratio = (high + .05) / (low + .05);
    if (ratio < least) poor.add(`${ratio.toFixed(2)}: ${colour} on ${below}: ${walker.currentNode.data.slice(0, 40)}`);
  }
  return [texts, [...poor]];
}"""
# Returns what reaches beyond the right edge of the window, except below what scrolls by itself.
TOO_WIDE = """() => {
  const root = document.documentElement, scrolls = element => element.closest('.scroll, svg');
  const wide = [...document.querySelectorAll('body *')].filter(
    each => each.getBoundingClientRect().right > innerWidth + 1 && !scrolls(each.parentElement));
  return [Math.max(root.scrollWidth, document.body.scrollWidth) - innerWidth,
    wide.map(each => `${each.tagName}.${each.className} ${each.textContent.slice(0, 40)}`)];
}"""
IMAGES = "() => [...document.images].map(each => [each.complete, each.naturalWidth])"
NAMELESS = """() => [...document.querySelectorAll('img, svg')].filter(
  each => !(each.matches('img') ? each.alt : each.getAttribute('role') === 'img' && each.ariaLabel)).length"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=FOUND, args=[*OPTIONS])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(hostile: Site, digits: Site) -> dict[str, Path]:
    """A page with names of the worst kind, and one of digits."""
    return {"hostile": hostile.layout.report, "digits": digits.layout.report}


class Window:
    """A window with the page at `path`, and what has happened in it.  options: of the window."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(20_000)
        self.page = self.context.new_page()
        self.foreign: list[str] = []
        self.troubles: list[str] = []
        own = path.as_uri()
        self.page.on("request", lambda request: self._look(request.url, own))
        self.page.on("console", lambda message: self.troubles.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("dialog", self._dismiss)
        self.page.goto(own, wait_until="load")

    def _look(self, address: str, own: str) -> None:
        if address != own and not address.startswith("data:"):
            self.foreign.append(address)

    def _dismiss(self, dialog: Any) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def __enter__(self) -> "Window":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def open_all(self) -> None:
        """Open what is folded."""
        self.page.evaluate("() => document.querySelectorAll('details').forEach(each => each.open = true)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("name", ["hostile", "digits"])
def test_the_page_is_whole_and_readable(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    with Window(browser, pages[name], viewport={"width": width, "height": 900}, color_scheme=scheme) as window:
        for folded in (True, False):
            if not folded:
                window.open_all()
            assert window.page.evaluate(TOO_WIDE) == [0, []]
            texts, poor = window.page.evaluate(CONTRAST, LEAST_CONTRAST)
            assert texts > 100 and poor == []
        images = window.page.evaluate(IMAGES)
        assert len(images) > 20 and all(complete and wide for complete, wide in images)
        assert window.page.evaluate(NAMELESS) == 0
        assert (window.foreign, window.troubles) == ([], [])


@pytest.mark.parametrize("name", ["hostile", "digits"])
def test_the_page_can_be_printed(browser: Any, pages: dict[str, Path], name: str) -> None:
    """On A4, also from a dark screen: dark ink on white, and nothing is cut off."""
    with Window(browser, pages[name], viewport={"width": 718, "height": 1000}, color_scheme="dark") as window:
        window.page.emulate_media(media="print")
        assert window.page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        window.open_all()
        assert window.page.evaluate(TOO_WIDE) == [0, []]
        window.page.emulate_media(media="print", color_scheme="light")  # as browsers print
        texts, poor = window.page.evaluate(CONTRAST, LEAST_CONTRAST)
        assert texts > 100 and poor == []
        assert window.page.pdf(format="A4").startswith(b"%PDF")
        assert (window.foreign, window.troubles) == ([], [])


@pytest.mark.parametrize("name", ["hostile", "digits"])
def test_the_headings_are_in_order(pages: dict[str, Path], name: str) -> None:
    levels = [int(tag[1]) for tag, _ in Page(pages[name].read_text()).headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_a_keyboard_reaches_what_scrolls_and_what_is_folded(browser: Any, pages: dict[str, Path]) -> None:
    with Window(browser, pages["digits"], viewport={"width": 390, "height": 900}) as window:
        reached = set()
        for _ in range(60):
            window.page.keyboard.press("Tab")
            reached.add(window.page.evaluate("() => document.activeElement.tagName"))
        assert {"A", "DIV", "SUMMARY", "PRE"} <= reached
        window.page.click("nav a[href='#repeat']")
        assert window.page.url.endswith("#repeat")
        assert (window.foreign, window.troubles) == ([], [])
