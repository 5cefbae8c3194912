"""Write docs/figures/report.png: the top of the demo's report, as a browser shows it. See `make picture`.

python docs/make_picture.py edgespa-demo/report.html
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parent / "figures" / "report.png"
WIDTH, HEIGHT, COLOURS = 1180, 1190, 64


def main(page: Path) -> None:
    """Open a page, wait for its charts, and take the picture.

    Args:
        page: A report.
    """
    from PIL import Image
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        sys.exit("no Chromium is installed (on Debian: apt-get install chromium)")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        opened.goto(page.resolve().as_uri())
        opened.wait_for_selector("#quality .plot .scatterlayer .point")
        content = opened.screenshot()
        browser.close()
    picture = Image.open(io.BytesIO(content)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    TARGET.parent.mkdir(exist_ok=True)
    picture.save(TARGET, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
