"""The website in a real browser: it runs without errors or network, fits phones, reads well, and can be searched."""

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
import yaml

axe = pytest.importorskip("axe_playwright_python.base", reason="needs axe-playwright-python, which brings playwright")
playwright = pytest.importorskip("playwright.sync_api")

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
LISTED = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))["project"]["render"]
PAGES = [Path(page).with_suffix(".html").as_posix() for page in LISTED]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1440, "height": 900}

# What reaches over the right edge of the window and stands in nothing that can be scrolled: it is lost to the reader.
# The page's own width does not tell, since its frame cuts off what is too wide.
LOST = """() => {
    const edge = document.documentElement.clientWidth + 1;
    const scrolls = (e) => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
    const scrolled = (e) => e && (scrolls(e) || scrolled(e.parentElement));
    const lost = [...document.body.querySelectorAll("*")].filter((e) =>
        !e.closest("svg svg, svg > *") && e.checkVisibility() && e.getBoundingClientRect().right > edge
        && !scrolled(e.parentElement));
    return lost.map((e) => `${e.outerHTML.slice(0, 100)} reaches ${Math.round(e.getBoundingClientRect().right)} px`);
}"""
# Measuring contrasts is slow, and code and figures are thousands of elements: one word of each kind of highlighted code
# stands for all, and figures are left to the tests of `plots`, since axe does not know how SVG colors its text.
THINNED = """() => {
    document.querySelectorAll("svg[role=img]").forEach((svg) => svg.replaceChildren());
    const seen = new Set();
    for (const word of document.querySelectorAll("pre code span")) {
        if (seen.has(word.className)) word.replaceWith(...word.childNodes);
        seen.add(word.className);
    }
}"""
# Chromium lets the keyboard scroll whatever scrolls, so that rule has nothing to say. Stylesheets are files, which no
# script may fetch: no preload.
VIOLATIONS = """() => axe.run(document, {
    runOnly: ["wcag2a", "wcag2aa"], resultTypes: ["violations"], preload: false,
    rules: {"scrollable-region-focusable": {enabled: false}},
}).then((found) => found.violations.flatMap((broken) => broken.nodes.map((node) =>
    `${broken.id}: ${node.html.slice(0, 150)} (${node.failureSummary.replace(/\\s+/g, " ").slice(0, 200)})`)))"""


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("needs a browser: Chromium or Chrome on PATH")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


class Tab:
    "A fresh tab, and whatever went wrong in it: errors, warnings, and requests that leave the site."

    def __init__(self, browser, home: str, size: dict = DESK):  # home: the address that every request must begin with
        self.home, self.problems = home, []
        self.page = browser.new_page(viewport=size)
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.problems.append(said.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("requestfailed", lambda request: self.problems.append(f"{request.url} does not load"))
        self.page.on("request", lambda request: self.check(request.url))

    def check(self, url: str) -> None:
        if not url.startswith((self.home, "data:", "blob:")):
            self.problems.append(f"{url} is outside the site")

    def open(self, page: str) -> "Tab":
        self.page.goto(f"{self.home}/{page}")
        return self

    def __enter__(self) -> "Tab":
        return self

    def __exit__(self, *_) -> None:
        self.page.close()


@pytest.fixture(scope="module")
def home(website) -> str:
    return website.as_uri()


@pytest.fixture
def served(website) -> Iterator[str]:
    "The address of the site on this machine, as `make serve` shows it."
    handler = type("Silent", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=website)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# ---------------------------------------------------------------- every page


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_page_loads_from_a_folder_and_fits(browser, home, page, size):
    with Tab(browser, home, size).open(page) as tab:
        assert tab.page.locator("main h1").count() == 1
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert (tab.page.evaluate(LOST), tab.problems) == ([], [])


@pytest.mark.parametrize("page", PAGES)
def test_page_is_accessible(browser, home, page):
    with Tab(browser, home).open(page) as tab:
        tab.page.evaluate(THINNED)
        tab.page.evaluate(axe.AXE_SCRIPT)
        assert tab.page.evaluate(VIOLATIONS) == []


def test_links_of_the_running_pages_lead_somewhere(browser, home):
    "As the browser sees them: what scripts add counts, and so do anchors."
    links, anchors = {}, {}
    with Tab(browser, home) as tab:
        for page in PAGES:
            tab.open(page)
            links[page] = set(tab.page.evaluate("[...document.links].map((link) => link.href)"))
            ids = tab.page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
            anchors[f"{home}/{page}"] = set(ids)
    broken = []
    for page, found in links.items():
        for link in (link for link in found if link.startswith("file:")):
            address, anchor = urldefrag(link)
            if not Path(unquote(address.removeprefix("file://"))).is_file():
                broken.append(f"{page}: {link} leads to no file")
            elif anchor and address in anchors and unquote(anchor) not in anchors[address]:
                broken.append(f"{page}: {link} leads to no anchor")
    assert broken == []
    assert sum(map(len, links.values())) > 10 * len(PAGES)


def test_the_folders_own_page_leads_home(browser, home):
    with Tab(browser, home) as tab:
        tab.open("index.html").page.wait_for_url(f"{home}/{PAGES[0]}")


# ---------------------------------------------------------------- search


@pytest.mark.parametrize("place", ["home", "served"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_search_finds_a_term_of_the_paper(browser, request, place, size):
    with Tab(browser, request.getfixturevalue(place), size).open(PAGES[0]) as tab:
        if size is PHONE:
            tab.page.get_by_role("button", name="Toggle navigation").first.click()
        tab.page.get_by_placeholder("Search").locator("visible=true").first.fill("overlapping rate")
        tab.page.locator("a.search-result", has_text="overlapping rate").first.wait_for()
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_url("**/nbs/**/*.html#*")
        assert "overlapping rate" in tab.page.locator("main").inner_text()
        assert tab.problems == []
