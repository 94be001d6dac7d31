"""Take the screenshot of docs/images/ (`make screenshot`): a page of `nas serve`, of a small search.

Needs Chromium and its driver (`apt-get install --no-install-recommends chromium chromium-driver`).
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

DOCS = Path(__file__).parent
TABLE = DOCS / "results" / "few_shot_table.csv.gz"
SIZE = (1280, 1080)
COLOURS = 96
"""Of the file: a page has few, and a palette keeps it small."""

SEARCH = (
    *("--space=few_shot", "--evaluator=surrogate", f"--set=evaluator.table={TABLE}"),
    *("--set=evaluator.metric=score_300", "--set=evaluator.input=[1,28,28]"),
    *("--trials=200", "--executor=inline"),
)


def take(file: Path) -> None:
    """Run two searches, open the page of one, and save what a visitor sees."""
    with tempfile.TemporaryDirectory() as folder:
        nas = [sys.executable, "-m", "nas"]
        db = "--db=sqlite:///nas.db"
        for controller in ("random", "evolution"):
            command = [*nas, "run", *SEARCH, f"--controller={controller}", f"--name={controller}", db]
            subprocess.run(command, cwd=folder, check=True)
        command = [*nas, "serve", "--port=0", db]
        with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as served:
            assert served.stderr is not None
            try:
                found = re.search(r"http://\S+", served.stderr.readline())
                assert found is not None
                picture = _seen(f"{found[0]}searches/evolution")
            finally:
                os.kill(served.pid, signal.SIGINT)
    image = Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    image.save(file, optimize=True)


def _seen(address: str) -> bytes:
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or sys.exit("There is no chromium.")
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.add_argument(f"--window-size={SIZE[0]},{SIZE[1]}")
    browser = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        browser.get(address)
        drawn = "return document.querySelectorAll('.chart .legend, .chart .plot').length >= 3"
        WebDriverWait(browser, 120).until(lambda driver: driver.execute_script(drawn))
        found: bytes = browser.get_screenshot_as_png()
        return found
    finally:
        browser.quit()


if __name__ == "__main__":
    take(DOCS / "images" / "page.png")
