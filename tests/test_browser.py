"""The pages in a real browser: what a visitor does, where requests go, and whether everybody can use them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from command_line import start

from nas import counts
from nas.storage.store import Store

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("plotly", reason="needs the extra web")
pytest.importorskip("selenium", reason="needs selenium of the extra dev")

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        None in (BROWSER, DRIVER),
        reason="needs Chromium: apt-get install --no-install-recommends chromium chromium-driver",
    ),
]

PATIENCE = 60
"""Seconds until something that is waited for has to be there, on a machine that has other things to do."""

TRIALS = 2000

SCRIPTED = (
    *("--space=nasbench201", "--controller=random", "--tasks=glyphs", "--learner=prototypical"),
    *("--evaluator=nas.testing.evaluators:Scripted", "--set=evaluator.seconds=0.3", "--executor=inline"),
)


class Visitor:
    """A browser that notes where its requests go, and what it complains of."""

    def __init__(self, driver: Chrome) -> None:
        self._driver = driver
        self.asked: set[str] = set()
        self.complaints: list[str] = []

    def open(self, address: str) -> None:
        self._driver.get(address)
        self.note()

    def note(self) -> None:
        """Read what the browser logged since it was last asked."""
        for entry in self._driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.asked.add(message["params"]["request"]["url"])
        self.complaints += [entry["message"] for entry in self._driver.get_log("browser")]

    def one(self, selector: str) -> Any:
        return self._driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[Any]:
        return self._driver.find_elements(By.CSS_SELECTOR, selector)

    def column(self, place: int) -> list[str]:
        """Return the texts of a column of the trials."""
        cells = f"#trials tbody td:nth-child({place})"  # read at once: a live page replaces them
        found: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((cell) => cell.innerText)", cells
        )
        return found

    def place(self, name: str) -> int:
        """Return which column of the trials has a name, from 1."""
        heads = [re.sub(r"\W+$", "", head.text) for head in self.all("#trials thead th")]
        return 1 + heads.index(name)

    def wait(self, there: Callable[[], object]) -> None:
        def seen(driver: Chrome) -> object:
            return there()

        WebDriverWait(self._driver, PATIENCE, ignored_exceptions=[Exception]).until(seen)

    def run(self, script: str, *arguments: object) -> Any:
        return self._driver.execute_script(script, *arguments)

    def later(self, script: str, *arguments: object) -> Any:
        return self._driver.execute_async_script(script, *arguments)

    def resize(self, width: int, *, dark: bool) -> None:
        self._driver.set_window_size(width, 900)
        look = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": look})

    def click(self, selector: str) -> None:
        """Click what may lie outside the window."""
        self.run("arguments[0].scrollIntoView({block: 'center'})", self.one(selector))
        self.one(selector).click()


@pytest.fixture(scope="module")
def driver() -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = Chrome(options=options, service=Service(DRIVER))
    browser.set_page_load_timeout(PATIENCE)
    browser.set_script_timeout(PATIENCE)
    yield browser
    browser.quit()


@pytest.fixture
def visitor(driver: Chrome) -> Iterator[Visitor]:
    """Yield a browser; at the end no request has left the server's origin, and nothing is complained of."""
    found = Visitor(driver)
    driver.get("about:blank")
    found.note()
    found.asked.clear()
    found.complaints.clear()
    found.resize(1280, dark=False)
    yield found
    found.note()
    assert {urlsplit(address).hostname for address in found.asked if address != "about:blank"} == {
        "127.0.0.1"
    }
    assert found.complaints == []


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[str]:
    """Serve the database of a folder; yield the address."""
    served = start("serve", "--db=sqlite:///nas.db", "--port=0", *options, folder=folder)
    try:
        assert served.stderr is not None
        found = re.search(r"http://\S+", served.stderr.readline())
        assert found is not None
        yield found[0].rstrip("/")
    finally:
        os.killpg(served.pid, signal.SIGINT)
        served.communicate(timeout=PATIENCE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a database of two long searches, which ended."""
    folder = tmp_path_factory.mktemp("browser")
    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    try:
        from web_page import fill
    finally:
        sys.path.pop(0)
    fill(f"sqlite:///{folder}/nas.db", TRIALS, ("long", "rnd"))
    return folder


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[str]:
    with serving(folder) as address:
        yield address


def test_trials_appear_and_the_search_is_stopped_by_those_who_may(visitor: Visitor, tmp_path: Path) -> None:
    running = start("run", *SCRIPTED, "--trials=500", "--name=live", "--db=sqlite:///nas.db", folder=tmp_path)
    try:
        visitor.wait(lambda: Store(f"sqlite:///{tmp_path}/nas.db").search("live"))
        with serving(tmp_path) as looking, serving(tmp_path, "--allow-control") as stopping:
            visitor.open(looking)
            visitor.one("#searches tbody a").click()
            visitor.run("window.same = true")
            visitor.wait(lambda: int(visitor.column(1)[0]) >= 0)
            newest = int(visitor.column(1)[0])
            visitor.wait(lambda: int(visitor.column(1)[0]) > newest + 2)
            visitor.wait(lambda: visitor.all("#figures .js-plotly-plot"))
            assert visitor.run("return window.same")  # the page was not loaded again
            assert visitor.all("form[method=post]") == []
            status = visitor.later(
                "const done = arguments[0]; "
                "fetch('/searches/live/stop', {method: 'POST'}).then((answer) => done(answer.status))"
            )
            visitor.note()
            refused = [complaint for complaint in visitor.complaints if "/stop" in complaint]
            assert (status, len(refused)) == (403, 1)  # the browser itself tells of it
            visitor.complaints.clear()
            visitor.open(f"{stopping}/searches/live")
            visitor.click("form[method=post] button")
            visitor.wait(
                lambda: (
                    "asked to stop" in visitor.one("#state").text or "stopped" in visitor.one("#state").text
                )
            )
            visitor.wait(lambda: visitor.one("#state strong").text == "stopped")
            visitor.open("about:blank")
            assert running.wait(PATIENCE) == 0
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()


def test_many_trials_are_sorted_filtered_and_turned(visitor: Visitor, site: str) -> None:
    visitor.open(f"{site}/searches/long")
    visitor.one("#trials thead").find_element(By.LINK_TEXT, "score").click()
    place = visitor.place("score")
    best = [float(value) for value in visitor.column(place)]
    assert len(best) == 50
    assert best == sorted(best, reverse=True)
    Select(visitor.one("select[name=state]")).select_by_visible_text("completed")
    visitor.one("input[name=max_parameters]").send_keys("50k")
    visitor.click("form[role=search] button")
    visitor.wait(lambda: "max_parameters=50k" in visitor.run("return location.href"))
    assert set(visitor.column(visitor.place("state"))) == {"completed"}
    small = [counts.read(value) for value in visitor.column(visitor.place("parameters"))]
    assert max(small) <= 50_000
    first = visitor.column(1)
    visitor.click("#turns a")
    visitor.wait(lambda: visitor.column(1)[:1] != first[:1])
    assert not {*visitor.column(1)} & {*first}
    kept = visitor.run("return location.href")
    visitor.open(kept)
    assert "max_parameters=50k" in kept
    assert set(visitor.column(visitor.place("state"))) == {"completed"}


def test_a_trial_is_drawn_and_searches_are_compared(visitor: Visitor, site: str) -> None:
    visitor.open(f"{site}/searches/long")
    visitor.one("#trials tbody td:first-child a").click()
    visitor.wait(lambda: visitor.run("return document.querySelector('.drawing img').naturalWidth") > 100)
    visitor.open(f"{site}/compare")
    visitor.one("input[name=search]").send_keys("long rnd")
    visitor.one("form button").click()
    visitor.wait(lambda: len(visitor.all("#groups tbody tr")) == 2)
    visitor.wait(lambda: visitor.all(".js-plotly-plot"))
    assert {"evolution", "random"} == {row.text.split()[0] for row in visitor.all("#groups tbody tr")}


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1280])
def test_everybody_can_use_them(visitor: Visitor, site: str, width: int, dark: bool) -> None:
    """What axe-core finds serious or critical, on every page; and no page is wider than its window."""
    axe = pytest.importorskip("axe_core_python", reason="needs axe-core-python of the extra dev")
    source = (Path(axe.__file__).parent / "axe.min.js").read_text()
    visitor.resize(width, dark=dark)
    faults = []
    for page in (
        "",
        "/searches/long?sort=score",
        "/searches/long/trials/7",
        "/leaderboard",
        "/compare?search=long&search=rnd",
    ):
        visitor.open(f"{site}{page}")
        if "searches" in page or "compare" in page:
            visitor.wait(lambda: len(visitor.all(".js-plotly-plot")) == len(visitor.all(".chart")))
        visitor.run(source)
        found = visitor.later("axe.run().then(arguments[0])")
        for fault in found["violations"]:
            if fault["impact"] in ("serious", "critical"):
                faults += [(page, fault["id"], node["html"][:120]) for node in fault["nodes"]]
        inner, outer = visitor.run("return [document.documentElement.scrollWidth, window.innerWidth]")
        if inner > outer:
            faults.append((page, "width", f"{inner} > {outer}"))
    assert faults == []
