"""This project's website, also in a real browser: it runs without errors or network, fits phones, reads well.

Nothing else looks at the whole website, which takes a while to build: `make test` gives a file to one process.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import numpy as np
import pytest
import yaml
from scipy.stats import spearmanr

from prompt_transferability.plots import TYPE_COLORS

axe = pytest.importorskip("axe_playwright_python.base", reason="needs axe-playwright-python, which brings playwright")
playwright = pytest.importorskip("playwright.sync_api")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from link_origins import site_problems  # noqa: E402  (tools/ is no package)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
LISTED = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))["project"]["render"]
PAGES = [Path(page).with_suffix(".html").as_posix() for page in LISTED] + ["results/micro/files.html"]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1440, "height": 900}
NARROW = {"width": 320, "height": 640}  # to which WCAG asks that pages reflow
SHEET = {"width": 718, "height": 1000}  # A4 less its margins, in pixels of CSS

# What reaches over the right edge of the window and stands in nothing that can be scrolled: it is lost to the reader.
# The page's own width does not tell, since its frame cuts off what is too wide; nor do boxes alone, since words reach
# out of them.
LOST = """() => {
    const edge = document.documentElement.clientWidth + 1;
    const scrolls = (e) => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
    const scrolled = (e) => e && (scrolls(e) || scrolled(e.parentElement));
    const lost = [...document.body.querySelectorAll("*")].filter((e) =>
        !e.closest("svg svg, svg > *") && e.checkVisibility() && e.getBoundingClientRect().right > edge
        && !scrolled(e.parentElement));
    const found = lost.map((e) => `${e.outerHTML.slice(0, 100)} reaches ${e.getBoundingClientRect().right} px`);
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), range = document.createRange();
    for (let text = texts.nextNode(); text; text = texts.nextNode()) {
        if (!text.data.trim() || text.parentElement.closest("svg") || !text.parentElement.checkVisibility()) continue;
        range.selectNodeContents(text);
        const reach = Math.max(...[...range.getClientRects()].map((box) => box.right));
        if (reach > edge && !scrolled(text.parentElement)) found.push(`${text.data.trim()} reaches ${reach} px`);
    }
    return found;
}"""
# Names that reach into the cells beside them
CROWDED = """() => [...document.querySelectorAll("#explorer-matrix th")]
    .filter((name) => name.scrollWidth > name.clientWidth + 1).map((name) => name.textContent)"""
# Two frames on, what follows a change of the window has been done.
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
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
# Stylesheets are files, which no script may fetch: no preload.
VIOLATIONS = """() => axe.run(document, {
    runOnly: ["wcag2a", "wcag2aa"], resultTypes: ["violations"], preload: false,
}).then((found) => found.violations.flatMap((broken) => broken.nodes.map((node) =>
    `${broken.id}: ${node.html.slice(0, 150)} (${node.failureSummary.replace(/\\s+/g, " ").slice(0, 200)})`)))"""


@pytest.fixture(scope="module")
def website(tmp_path_factory) -> Path:
    "The website, built without Quarto, whether or not this machine has it."
    out = tmp_path_factory.mktemp("website") / "site"
    environment = os.environ | {"PATH": "", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tools/build_site.py"), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None and os.environ.get("CI"):
        pytest.fail("no Chromium or Chrome on PATH, and CI is to look at the website")
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


def test_the_site_builds_and_holds_together(website):
    assert len(list(website.rglob("*.html"))) > 1 and site_problems(website) == []


@pytest.mark.parametrize("page", [*PAGES, "results/micro/report/index.html"])
def test_page_loads_from_a_folder_fits_prints_and_is_accessible(browser, home, page):
    "Once, since to load and to draw a page takes longer than to look at it."
    with Tab(browser, home, PHONE).open(page) as tab:
        assert tab.page.locator("main h1").count() == 1
        for size in (PHONE, NARROW, DESK):
            tab.page.set_viewport_size(size)
            tab.page.evaluate(DRAWN)
            assert tab.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
            assert (tab.page.evaluate(LOST), tab.problems) == ([], [])
        tab.page.set_viewport_size(SHEET)
        tab.page.emulate_media(media="print")
        assert tab.page.evaluate(LOST) == []
        assert not tab.page.locator(".smalldocs-search, #quarto-sidebar").locator("visible=true").count()
        tab.page.evaluate(THINNED)
        tab.page.evaluate(axe.AXE_SCRIPT)
        schemes = ("light", "dark") if len(page) % 2 else ("dark", "light")  # all four take long: two for each page
        for size, scheme in zip((DESK, PHONE), schemes, strict=True):
            tab.page.emulate_media(media="screen", color_scheme=scheme, reduced_motion="reduce")  # no fading colors
            tab.page.set_viewport_size(size)
            tab.page.evaluate(DRAWN)
            assert tab.page.evaluate(VIOLATIONS) == [], scheme


def test_tables_heads_and_contents_are_as_readers_need_them(website):
    "Of every page: captions, true minus signs, a description, and no private name in the contents."
    for path in website.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        tables = re.findall(r"<table\b.*?</table>", page, re.S)
        assert all("<caption" in table for table in tables), path
        cells = [re.sub(r"<[^>]+>", "", cell) for table in tables for cell in re.findall(r"<td\b.*?</td>", table, re.S)]
        assert not [cell for cell in cells if re.match(r"\s*(-\d|−0(\.0+)?\s*$)", cell)], path
        assert "](" not in re.sub(r"<(pre|code|script|style|svg)\b.*?</\1>", "", page, flags=re.S), path
        assert '<meta name="description"' in page or path.parent == website, path
        assert 'data-scroll-target="#_' not in page and page.count('id="TOC"') <= 1
    for page in PAGES[:-1]:
        assert '<meta property="og:title"' in (website / page).read_text(encoding="utf-8"), page


def test_a_table_leads_to_its_cells_and_can_be_kept_as_csv(browser, home):
    page = browser.new_page()
    page.goto(f"{home}/nbs/paper/table3.html")
    table = page.locator("table", has_text="Our Table A.")
    origin = page.locator(".scroll:has-text('Our Table A.') + .table-origin")
    assert origin.locator("a").first.get_attribute("href") == "../../results/release/files.html"
    with page.expect_download() as kept:
        origin.locator("button").click()
    rows = [*csv.reader(StringIO(Path(kept.value.path()).read_text(encoding="utf-8-sig")))]
    heads = [table.locator("thead tr").nth(n).locator("th").all_inner_texts()[1:] for n in (0, 1)]
    assert rows[0][1::2] == rows[0][2::2] == heads[0] and rows[1][1:] == heads[1]  # a name over two columns is repeated
    assert len(rows) == table.locator("tr").count() and {len(row) for row in rows} == {len(rows[0])}
    assert kept.value.suggested_filename == "Our_Table_A.csv"
    page.close()


def test_a_tasks_row_leads_to_its_cells_with_their_numbers_and_command(browser, home):
    page = browser.new_page()
    page.goto(f"{home}/nbs/results/small.html")
    page.locator("th a", has_text="SST-2").first.click()
    names = page.locator("tbody th").locator("visible=true").all_inner_texts()
    assert 1 < len(names) < page.locator("tbody tr").count() and all("sst2" in name for name in names)
    [trained] = [name for name in names if name.startswith("tune sst2/0 on all-MiniLM")]
    assert re.fullmatch(r"\d\d\.\d", page.locator("tr", has_text=trained).locator("td").first.inner_text())
    assert "prompt-transfer study run small " in page.locator("#commands").inner_text()
    page.locator("#find").fill("transfer sst2 dev")
    left = page.locator("tbody th").locator("visible=true").all_inner_texts()
    assert left and all("transfer sst2" in name and "dev" in name for name in left)
    page.close()


def test_a_number_of_the_text_leads_to_its_row_and_to_its_files(browser, home):
    page = browser.new_page()
    page.goto(f"{home}/nbs/paper/table3.html")
    number = page.locator("main a.number:has(.interval)").first
    said = number.inner_text()
    number.click()
    assert page.locator("tr:has(> :target)").inner_text().split("\t")[1] == said
    page.locator("th:target a").click()
    page.wait_for_url("**/results/*/files.html")
    page.close()


@pytest.mark.parametrize("width", [1000, 1100])
def test_the_bar_fits_where_it_has_just_unfolded(browser, home, width):
    with Tab(browser, home, {"width": width, "height": 700}).open(PAGES[0]) as tab:
        assert tab.page.evaluate(LOST) == []
        tab.page.get_by_placeholder("Search").locator("visible=true").first.focus()
        tab.page.wait_for_timeout(300)  # it grows
        assert tab.page.evaluate(LOST) == []


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
            if not Path(unquote(urlsplit(address).path)).is_file():
                broken.append(f"{page}: {link} leads to no file")
            elif anchor and address in anchors and unquote(anchor) not in anchors[address]:
                broken.append(f"{page}: {link} leads to no anchor")
    assert broken == []
    assert sum(map(len, links.values())) > 10 * len(PAGES)


def test_the_folders_own_page_leads_home(browser, home):
    with Tab(browser, home) as tab:
        tab.open("index.html").page.wait_for_url(f"{home}/{PAGES[0]}")


def test_the_keyboard_can_skip_the_navigation(browser, home):
    with Tab(browser, home).open("nbs/paper/table2.html") as tab:
        page, press = tab.page, tab.page.keyboard.press
        press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to content"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
        press("Enter")
        press("Tab")
        assert page.evaluate("document.activeElement.closest('main') !== null")


def test_the_keyboard_opens_and_closes_a_section_of_the_sidebar(browser, home):
    with Tab(browser, home).open("nbs/paper/table2.html") as tab:
        section = tab.page.locator("#quarto-sidebar").get_by_role("button", name="Library", exact=True)
        link = tab.page.locator("#quarto-sidebar a[href$='library/tasks.html']")
        assert link.is_visible()
        section.focus()
        tab.page.keyboard.press("Enter")
        link.wait_for(state="hidden")
        tab.page.keyboard.press("Enter")
        link.wait_for(state="visible")


def test_each_part_of_the_navigation_has_a_name_of_its_own(browser, home):
    with Tab(browser, home).open("nbs/paper/table2.html") as tab:
        marks = "[...document.querySelectorAll('nav, [role=navigation]')].filter((part) => part.checkVisibility())"
        names = tab.page.evaluate(f"{marks}.map((part) => part.getAttribute('aria-label'))")
        assert None not in names and len(names) == len(set(names)) >= 4
        assert tab.page.evaluate("document.querySelector('h1, h2, h3').tagName") == "H1"


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


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ("TPT", "glossary.html#tpt"),
        ("regret", "glossary.html#regret"),
        ("does it reproduce", "(index|findings|reproduce).html"),
        ("roberta-base gpu", "(reproduce|your_own|real|speed|index).html"),
    ],
)
def test_search_finds_what_a_reader_means(browser, home, asked, first):
    with Tab(browser, home).open(PAGES[0]) as tab:
        tab.page.get_by_placeholder("Search").locator("visible=true").first.fill(asked)
        tab.page.locator("a.search-result").first.wait_for()
        found = tab.page.locator("a.search-result").evaluate_all("(all) => all.slice(0, 3).map((link) => link.href)")
        assert any(re.search(first, link) for link in found), found
        assert "/library/" not in found[0]


# ---------------------------------------------------------------- light and dark, on a phone


def test_the_reader_chooses_light_or_dark_for_all_pages(browser, home):
    dark = "getComputedStyle(document.body).backgroundColor"
    with Tab(browser, home).open(PAGES[0]) as tab:
        before = tab.page.evaluate(dark)
        tab.page.get_by_role("button", name="Dark mode").click()
        after = tab.page.evaluate(dark)
        assert before == "rgb(255, 255, 255)" != after
        tab.open(PAGES[1])
        assert tab.page.evaluate(dark) == after and tab.problems == []


def test_contents_and_the_drawing_are_whole_on_a_phone(browser, home):
    with Tab(browser, home, PHONE).open(PAGES[0]) as tab:
        drawing = tab.page.locator("figure img").first.bounding_box()
        assert 200 < drawing["width"] and drawing["x"] + drawing["width"] <= PHONE["width"]
        tab.page.get_by_text("On this page").locator("visible=true").click()
        claim = tab.page.locator("details.contents a", has_text="neurons")
        assert claim.bounding_box()["y"] < PHONE["height"]
        claim.click()
        row = tab.page.locator("tr:target")
        assert "neurons" in row.inner_text() and "cannot be decided" in row.inner_text()
        assert row.bounding_box()["width"] <= PHONE["width"]


def test_what_scrolls_is_reached_with_the_keyboard_and_keeps_names_in_view(browser, home):
    with Tab(browser, home, PHONE).open("nbs/paper/table3.html") as tab:
        wide = ".scroll[tabindex='0']:has(tbody th.row_heading)"
        tab.page.locator(wide).first.focus()
        name = f"document.querySelector(\"{wide}\").querySelector('tbody th').getBoundingClientRect().left"
        before = tab.page.evaluate(name)
        tab.page.keyboard.press("ArrowRight")
        tab.page.wait_for_function(f'document.querySelector("{wide}").scrollLeft > 0')
        assert tab.page.evaluate(name) == before


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
            ours = not collection["id"].startswith("published")
            whose = collection["name"] + (": not RoBERTa" if ours else ", published")
            parts = {"scatter": "similarity", "layers": "profile", "map": "maps", "curves": "curves"}
            owners = {"layers": collection.get("profile", {}).get("whose", whose)}  # of figures of other numbers
            for place in ("matrix", *parts):
                assert tab.page.inner_text(f"#explorer-{place} > p:first-child") == owners.get(place, whose)
            for place, part in parts.items():
                svgs = tab.page.locator(f"#explorer-{place} svg:not([aria-hidden])")
                assert svgs.count() > 0 if part in collection else svgs.count() == 0
                says = owners.get(place, whose)
                assert all(svg.get_attribute("aria-label").startswith(says) for svg in svgs.all())
            assert (tab.page.evaluate(LOST), tab.page.evaluate(CROWDED), tab.problems) == ([], [], [])


def test_the_explorer_opens_on_the_finding(explorer):
    "The best metric of embeddings by the published prompts' live vectors; the neurons are the paper's own numbers."
    offered = explorer.page.locator("#explorer-metric option:checked").inner_text()
    assert explorer.page.input_value("#explorer-whose") == "published-roberta-base"
    assert offered == "cosine_average (99 vectors, those that act)"
    assert f"predicts transfer best is {offered}" in explorer.page.inner_text("#explorer-says")
    assert (
        explorer.page.inner_text("#explorer-layers > p:first-child") == "RoBERTa-base, printed in the paper's Table 2"
    )
    controls, figure = (
        explorer.page.locator(name).bounding_box()["y"] for name in ("form.explorer", "#explorer-matrix")
    )
    assert controls < figure and controls < DESK["height"] / 2


def test_the_address_keeps_what_was_chosen(browser, home):
    with Tab(browser, home).open("nbs/explorer.html#the-data") as tab:
        of_model(tab, "small-all-MiniLM-L6-v2")
        tab.page.select_option("#explorer-metric", "1")
        tab.page.select_option("#explorer-target", "qqp")
        tab.page.uncheck("input[name=sources][value=NLI]")
        tab.page.check("#explorer-self")
        said, address = tab.page.inner_text("#explorer-scatter"), tab.page.url
        assert address.endswith("#the-data")
        with Tab(browser, home).open(address.removeprefix(f"{home}/")) as other:
            assert other.page.inner_text("#explorer-scatter") == said
            chosen = [other.page.input_value(f"#explorer-{name}") for name in ("whose", "metric", "target")]
            assert chosen == ["small-all-MiniLM-L6-v2", "1", "qqp"] and other.page.is_checked("#explorer-self")
            assert not other.page.is_checked("input[name=sources][value=NLI]")
            assert tab.problems == other.problems == []


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
    explorer.page.uncheck("input[name=sources][value=none]")
    assert count("#explorer-matrix tbody tr") == 10
    offered = explorer.page.locator("#explorer-target option").all_inner_texts()
    assert "micro MNLI" in offered and "micro SST-2" not in offered
    explorer.page.select_option("#explorer-target", "micro/mnli")
    assert count(".explorer-point") == 10
    explorer.page.uncheck("input[name=targets][value=NLI]")
    assert explorer.page.input_value("#explorer-target") == "" and count(".explorer-point") == 10 * 4 - 4
    for kind in ("EJ", "PI"):
        explorer.page.uncheck(f"input[name=targets][value={kind}]")
    assert "Tick at least one type" in explorer.page.inner_text("#explorer-matrix")
    assert "Tick at least one type" in explorer.page.inner_text("#explorer-scatter")


def test_correlations_need_sources(explorer):
    of_model(explorer, "micro-micro-roberta")
    said = lambda: explorer.page.inner_text("#explorer-correlation")  # noqa: E731
    explorer.page.uncheck("input[name=sources][value=none]")  # which are no points
    assert "p = " in said() or "p < " in said()
    for kind in ("SA", "EJ", "PI"):
        explorer.page.uncheck(f"input[name=sources][value={kind}]")
    assert said() == "Too few sources are selected for a correlation."
    explorer.page.select_option("#explorer-target", "micro/mnli")
    assert said() == "Too few sources are selected for a correlation."
    of_model(explorer, "micro-finetune-micro-roberta")  # four tasks
    assert explorer.page.locator("#explorer-scatter svg").count() == 0 and said() == ""


def test_a_targets_correlation_is_scipys(explorer):
    held = of_model(explorer, "micro-micro-roberta")
    names = [task["name"] for task in held["tasks"]]
    target = names.index("micro/mnli")
    others = [place for place in range(len(names)) if place != target]
    accuracy = np.array(held["transfer"]["accuracy"])
    similar = np.array(held["similarity"][held["opens_on"]]["values"])
    rho = spearmanr(accuracy[others, target], similar[others, target]).statistic
    explorer.page.select_option("#explorer-target", "micro/mnli")
    said = explorer.page.inner_text("#explorer-correlation").replace("−", "-")
    assert said == f"Spearman's ρ over the 12 sources of micro MNLI: {rho:.2f}."


def test_color_follows_accuracy_or_what_is_recovered(explorer):
    held = of_model(explorer, "micro-micro-roberta")
    explorer.page.select_option("#explorer-scale", "recovered")
    cells = explorer.page.locator("#explorer-matrix td[tabindex]")
    drawn = cells.evaluate_all("(all) => all.map((cell) => getComputedStyle(cell).backgroundColor)")
    accuracy = np.array(held["transfer"]["accuracy"])
    own, random = np.diag(accuracy), accuracy[held["transfer"]["rows"].index("random")]
    share = ((accuracy - random) / (own - random)).clip(0, 1)[..., None]
    light, dark = np.array([247, 245, 251]), np.array([52, 32, 104])
    expected = (light + share * (dark - light)).reshape(-1, 3)
    gained = np.broadcast_to(own - random >= 0.02, accuracy.shape).ravel()
    found = np.array([[float(part) for part in re.findall(r"[\d.]+", color)[:3]] for color in drawn])
    assert gained.any() and np.abs(found - expected)[gained].max() <= 0.51  # rounded


def test_curves_are_drawn_from_their_own_seeds(explorer):
    "One map from step and accuracy to the page serves all lines of a panel, and takes higher accuracy higher."
    held = of_model(explorer, "micro-micro-roberta")
    runs = held["curves"]["runs"]
    for place, task in enumerate(task["name"] for task in held["tasks"]):
        lines = explorer.page.locator(".explorer-panels figure").nth(place).locator("path")
        paths = lines.evaluate_all("(all) => all.map((line) => line.getAttribute('d'))")
        drawn = [np.array(re.findall(r"[-\d.e]+", path), float).reshape(-1, 2) for path in paths]
        asked = [np.array([run["step"], run["accuracy"]]).T for run in runs if run["task"] == task]
        follows(np.concatenate(asked), np.concatenate(drawn))


def follows(values, places):  # both [points, 2]
    "Whether both coordinates are drawn along straight axes, the second upwards."
    for axis, up in ((0, 1), (1, -1)):
        slope, start = np.polyfit(values[:, axis], places[:, axis], 1)
        assert up * slope > 0 and np.abs(slope * values[:, axis] + start - places[:, axis]).max() < 0.1


def marks(tab: Tab, where: str) -> list[tuple]:  # of each point: what it says, its place, its color and its shape
    attributes = "['transform', 'fill', 'd'].map((name) => mark.querySelector('path').getAttribute(name))"
    drawn = tab.page.locator(where).evaluate_all(
        f"(all) => all.map((mark) => [mark.getAttribute('aria-label'), ...{attributes}])"
    )
    return [(says, [float(at) for at in re.findall(r"-?[\d.]+", place)], *look) for says, place, *look in drawn]


def test_points_stand_where_the_numbers_are(explorer):
    held = of_model(explorer, "micro-micro-roberta")
    names = [task["title"] for task in held["tasks"]]
    points = marks(explorer, ".explorer-point")
    pairs = [re.match(r"(.+) on (.+?):", says).groups() for says, *_ in points]
    metric = held["similarity"][held["opens_on"]]
    tables = np.array(metric["values"]), np.array(held["transfer"]["accuracy"])
    asked = [[table[names.index(source), names.index(target)] for table in tables] for source, target in pairs]
    follows(np.array(asked), np.array([place for _, place, *_ in points]))
    mapped = held["maps"][0]
    title = {task["name"]: task["title"] for task in held["tasks"]}
    asked = {
        f"{title[task]}, seed {seed}": at for (task, seed), at in zip(mapped["prompts"], mapped["places"], strict=True)
    }
    points = marks(explorer, "#explorer-map svg g[role=img]")
    follows(np.array([asked[says] for says, *_ in points]), np.array([place for _, place, *_ in points]))


def test_each_type_has_its_color_and_its_mark(explorer):
    types = {task["title"]: task["type"] for task in of_model(explorer, "micro-micro-roberta")["tasks"]}
    for where in (".explorer-point", "#explorer-map svg g[role=img]"):
        looks = {(types[re.match(r"(.+?)(?: on |, )", says)[1]], *look) for says, _, *look in marks(explorer, where)}
        assert {kind: color for kind, color, _ in looks} == TYPE_COLORS
        assert len(looks) == len({shape for *_, shape in looks}) == len(TYPE_COLORS)


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
    for part in ("Prompt for IMDB", "the paper, Table 1: RoBERTa-base", "89.9 %", "published: RoBERTa-base", "89.7 %"):
        assert part in said
    ours = next(c for c in collections(explorer) if c["id"] == "micro-micro-roberta")["transfer"]
    (low, high), n = ours["interval"][0][0], ours["n"][0][0]
    assert f"{100 * low:.1f} % to {100 * high:.1f} %" in said and f"\t{n}" in said
    assert "ours: micro-roberta, study micro, generated tasks" in said
    rows = collections(explorer)[0]["transfer"]["rows"]
    cells = explorer.page.locator("#explorer-matrix tbody tr")
    cells.nth(rows.index("directly reused")).locator("td").first.click()
    assert "the paper, Table 4: RoBERTa-base\t50.3 %" in explorer.page.inner_text("#explorer-pair")
    cells.nth(rows.index("projected from bert-base-uncased")).locator("td").first.click()
    assert "see Table 4" in explorer.page.inner_text("#explorer-pair")


def test_keyboard_reaches_everything(explorer):
    "With Tab alone from the top of the page, and the arrow keys inside of what is one stop."
    page, press = explorer.page, explorer.page.keyboard.press
    stops, accuracy = [], of_model(explorer, "micro-micro-roberta")["transfer"]["accuracy"]
    explorer.page.evaluate("document.activeElement.blur()")
    where = (
        "(e) => e.closest('#explorer-matrix td') ? 'cell' : e.classList.contains('explorer-point') ? 'point' :"
        " e.id || (e.tagName === 'SUMMARY' ? `numbers of ${e.closest('[id]').id}` : e.value || e.textContent)"
    )
    while not stops or stops[-1] != "numbers of explorer-curves":
        assert len(stops) < 200
        press("Tab")
        stops.append(page.evaluate(f"({where})(document.activeElement)"))
        if stops[-1] == "cell":
            for key in ("ArrowRight", "ArrowDown", "ArrowDown"):
                press(key)
            focused = page.evaluate("[document.activeElement.textContent, document.activeElement.ariaLabel]")
            assert focused == [
                f"{100 * accuracy[2][1]:.1f}",
                f"micro laptop on micro SST-2, {100 * accuracy[2][1]:.1f} %",
            ]
            assert "Prompt for micro laptop (sentiment), on micro SST-2" in page.inner_text("#explorer-pair")
        if stops[-1] == "point":
            before = page.evaluate("document.activeElement.textContent")
            press("End")
            assert page.evaluate("document.activeElement.textContent") != before
            assert "Prompt for" in page.inner_text("#explorer-scatter-pair")
    figures = [f"numbers of explorer-{name}" for name in ("layers", "map", "curves")]
    chosen = [f"explorer-{name}" for name in ("whose", "scale", "metric", "target", "self", "of")]
    assert {*chosen, *figures, "cell", "point", "SA", "none"} <= {*stops}
    assert stops.count("cell") == stops.count("point") == 1  # each is one stop


def test_a_focused_cell_is_never_behind_the_names(browser, home):
    with Tab(browser, home, PHONE).open("nbs/explorer.html") as tab:
        tab.page.locator("#explorer-matrix td[tabindex]").first.focus()
        tab.page.keyboard.press("End")
        edges = (
            "[document.activeElement.getBoundingClientRect().left,"
            " document.activeElement.parentElement.querySelector('th').getBoundingClientRect().right]"
        )
        for _ in range(12):
            tab.page.keyboard.press("ArrowLeft")
            cell, name = tab.page.evaluate(edges)
            assert cell >= name - 1


@pytest.mark.parametrize("identity", ["micro-micro-roberta", "small-all-MiniLM-L6-v2"])
def test_other_numbers_are_accessible_too(explorer, identity):
    of_model(explorer, identity)
    explorer.page.evaluate(axe.AXE_SCRIPT)
    assert explorer.page.evaluate(VIOLATIONS) == []
