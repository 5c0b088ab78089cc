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
PAGES = [Path(page).with_suffix(".html").as_posix() for page in LISTED] + ["results/micro/files.html"]
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
# Names that reach into the cells beside them
CROWDED = """() => [...document.querySelectorAll("#explorer-matrix th")]
    .filter((name) => name.scrollWidth > name.clientWidth + 1).map((name) => name.textContent)"""
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


# ---------------------------------------------------------------- the explorer


@pytest.fixture
def explorer(browser, home) -> Iterator[Tab]:
    with Tab(browser, home).open("nbs/explorer.html") as tab:
        yield tab
        assert tab.problems == []


def collections(tab: Tab) -> list[dict]:
    return tab.page.evaluate("window.promptTransferExplorer.collections")


def of_model(tab: Tab, identity: str) -> dict:
    "The collection of that name, chosen."
    tab.page.select_option("#explorer-whose", identity)
    return next(collection for collection in collections(tab) if collection["id"] == identity)


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_every_collection_is_drawn_and_named(browser, home, size):
    with Tab(browser, home, size).open("nbs/explorer.html") as tab:
        for collection in collections(tab):
            of_model(tab, collection["id"])
            assert collection["says"] in tab.page.inner_text("#explorer-says")
            drawn = [
                float(text) for text in tab.page.locator("#explorer-matrix td[tabindex]").all_inner_texts() if text
            ]
            held = [100 * value for row in collection["transfer"]["accuracy"] for value in row if value is not None]
            assert drawn == pytest.approx(held, abs=0.05001)
            for place, part in {
                "scatter": "similarity",
                "layers": "profile",
                "map": "maps",
                "curves": "curves",
            }.items():
                svgs = tab.page.locator(f"#explorer-{place} svg:not([aria-hidden])").count()
                assert svgs > 0 if part in collection else svgs == 0
            assert (tab.page.evaluate(LOST), tab.page.evaluate(CROWDED), tab.problems) == ([], [], [])


def test_filters_change_what_is_drawn(explorer):
    of_model(explorer, "micro-micro-roberta")
    count = lambda where: explorer.page.locator(where).count()  # noqa: E731
    assert (count("#explorer-matrix tbody tr"), count("#explorer-matrix thead th")) == (14, 13)
    assert (count(".explorer-point"), count("#explorer-map g"), count(".explorer-panels figure")) == (13 * 12, 39, 13)
    explorer.page.uncheck("input[name=sources][value=NLI]")
    explorer.page.uncheck("input[name=targets][value=SA]")
    assert (count("#explorer-matrix tbody tr"), count("#explorer-matrix thead th")) == (11, 7)
    assert (count(".explorer-point"), count("#explorer-map g"), count(".explorer-panels figure")) == (
        10 * 7 - 4,
        30,
        10,
    )
    assert "some types are left out" in explorer.page.inner_text("#explorer-correlation")
    explorer.page.select_option("#explorer-target", "micro/mnli")
    assert count(".explorer-point") == 10
    for kind in ("NLI", "EJ", "PI"):
        explorer.page.uncheck(f"input[name=targets][value={kind}]")
    assert "tick at least one type" in explorer.page.inner_text("#explorer-matrix")
    assert "tick at least one type" in explorer.page.inner_text("#explorer-scatter")


def test_color_follows_accuracy_or_what_is_recovered(explorer):
    of_model(explorer, "micro-micro-roberta")
    styles = "[...document.querySelectorAll('#explorer-matrix td')].map((cell) => cell.getAttribute('style'))"
    by_accuracy = explorer.page.evaluate(styles)
    explorer.page.select_option("#explorer-scale", "recovered")
    assert explorer.page.evaluate(styles) != by_accuracy
    cells = explorer.page.locator("#explorer-matrix td.own")
    assert (
        len(set(cells.evaluate_all("(own) => own.map((cell) => cell.style.background)"))) == 1
    )  # all of it, everywhere


@pytest.mark.parametrize("identity", ["published-roberta-base", "micro-micro-roberta", "small-all-MiniLM-L6-v2"])
def test_correlations_are_those_of_the_library(explorer, identity):
    "The page computes them from what is drawn; with nothing left out they are what `transferability_correlation` gave."
    for n, metric in enumerate(of_model(explorer, identity)["similarity"]):
        explorer.page.select_option("#explorer-metric", str(n))
        for with_self, known in enumerate(metric["overall"]):
            explorer.page.set_checked("#explorer-self", bool(with_self))
            said = explorer.page.inner_text("#explorer-correlation").replace("−", "-").replace("-0.00", "0.00")
            rho, low, high = (f"{known[name]:.2f}".replace("-0.00", "0.00") for name in ("rho", "low", "high"))
            assert f"mean of {known['n']} targets: {rho} [{low}, {high}]" in said


def test_pair_shows_the_paper_the_published_and_ours(explorer):
    of_model(explorer, "published-roberta-base")
    explorer.page.locator("#explorer-matrix td.own").first.click()
    said = explorer.page.inner_text("#explorer-pair")
    for part in ("Prompt of IMDB", "the paper, Table 1: RoBERTa-base", "89.9 %", "published: RoBERTa-base", "89.7 %"):
        assert part in said
    ours = next(c for c in collections(explorer) if c["id"] == "micro-micro-roberta")["transfer"]
    (low, high), n = ours["interval"][0][0], ours["n"][0][0]
    assert f"{100 * low:.1f} % to {100 * high:.1f} %" in said and f"\t{n}" in said
    assert "ours: micro-roberta, study micro, generated tasks" in said


def test_keyboard_reaches_everything(explorer):
    page, press = explorer.page, explorer.page.keyboard.press
    focused = lambda: page.evaluate("document.activeElement.textContent")  # noqa: E731
    accuracy = collections(explorer)[0]["transfer"]["accuracy"]
    page.focus("#explorer-scale")
    press("Tab")
    assert focused() == f"{100 * accuracy[0][0]:.1f}"
    for key in ("ArrowRight", "ArrowDown", "ArrowDown"):
        press(key)
    assert focused() == f"{100 * accuracy[2][1]:.1f}"
    assert "Prompt of laptop (sentiment), on SST-2" in page.inner_text("#explorer-pair")
    press("Tab")  # one stop for the whole matrix
    assert page.evaluate("document.activeElement.closest('#explorer-matrix')") is None
    page.focus("#explorer-self")
    press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('class')") == "explorer-point"
    assert "Prompt of" in page.inner_text("#explorer-scatter-pair")
    before = focused()
    press("End")
    assert focused() != before


@pytest.mark.parametrize("identity", ["micro-micro-roberta", "small-all-MiniLM-L6-v2"])
def test_other_numbers_are_accessible_too(explorer, identity):
    of_model(explorer, identity)
    explorer.page.evaluate(axe.AXE_SCRIPT)
    assert explorer.page.evaluate(VIOLATIONS) == []
