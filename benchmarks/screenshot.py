"""Draw the first screen of a report page as a person sees it, with Debian's Chromium: the picture in README.md.

python -m benchmarks.screenshot runs/<c>/report.html docs/report.png
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OFFLINE = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--height", type=int, default=1150, help="of the picture in pixels of the page (1150)")
    words = parser.parse_args(arguments)
    from playwright.sync_api import sync_playwright

    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        parser.exit(2, f"No browser is installed; looked for {', '.join(BROWSERS)}.\n")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", *OFFLINE])
        page = launched.new_page(viewport={"width": 1200, "height": words.height})
        page.goto(words.page.resolve().as_uri())
        page.screenshot(path=words.picture)
        launched.close()
    print(f"Written: {words.picture}")


if __name__ == "__main__":
    main()
