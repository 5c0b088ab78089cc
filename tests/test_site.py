"""How the website is built: numbered references, math without scripts, links that lead somewhere, no other host."""

import json
import os
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from fastcore.nbio import NbCell
from nbdev.doclinks import nbdev_export

from prompt_transferability.cells import Store, pack
from prompt_transferability.study import Study

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from build_site import not_found  # noqa: E402  (tools/ is no package)
from link_origins import accuracies, folders_read, lead_to_sources, site_problems, with_origins  # noqa: E402
from mend_pages import finish, glossary_terms  # noqa: E402

MODULE = """\
def area(
    radius: float,  # in cm
) -> float:  # in cm^2
    "The area of a disc, as in Eq. 7."
    return 3 * radius**2
"""

PROSE = r"""A projector maps $P \in \mathbb{R}^{l \times d}$, as @eq-projector says; see @fig-line, @tbl-scores,
@tbl-rooms, [the details](#sec-details) and [details of `area`](#sec-details).
`area` is documented, and in code `@fig-line` and `$$ x $$ {#eq-x}` stay.

$$
\tilde{P} = \operatorname{LayerNorm}(W P + b)
$$ {#eq-projector}

Another one, $$a_i = \begin{aligned} b \\ c \end{aligned}$$ stands in a line.

| room | floor |
| --- | --- |
| tasks | 1 |

: The rooms {#tbl-rooms}

## Details {#sec-details}

::: {.callout-note}
[Home](../index.ipynb) and [some numbers](../../results/scores.csv).
:::
"""

BARE = ("code", "#| label: fig-bare\nplot()", {"image/svg+xml": "<svg></svg>"})
FIGURE = '#| label: fig-line\n#| fig-cap: "A line, $y = x$."\nplot()'
TABLE = '#| label: tbl-scores\n#| tbl-cap: "Scores."\nscores'


def notebook(cells: list[tuple]) -> str:
    """A notebook of (kind, source[, output]) cells, where an output is the data of one displayed object."""
    made = []
    for n, (kind, source, *outputs) in enumerate(cells):
        cell = {"cell_type": kind, "id": f"cell-{n}", "metadata": {}, "source": source}
        if kind == "code":
            shown = [{"output_type": "display_data", "metadata": {}, "data": data} for data in outputs]
            cell |= {"execution_count": None, "outputs": shown}
        made.append(cell)
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    return json.dumps({"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5})


PAGE = [
    ("markdown", "# Projectors\n> From one space to another."),
    ("code", "#| default_exp demo"),
    ("markdown", PROSE),
    ("code", "#| export\n" + MODULE),
    ("code", "#| export\n_LIMIT = 3  # cm"),
    ("code", "area(2)", {"text/plain": "12"}),
    ("code", FIGURE, {"image/svg+xml": "<svg></svg>"}),
    ("code", TABLE, {"text/html": "<table><tr><td>0.80</td></tr></table>"}),
    ("code", "#| include: false\nassert area(1) == 3", {"text/plain": "a hidden output"}),
    ("code", '#| include: false\nread(root / "results" / "demo")'),
]
DEMO = Study("demo", ("tiny",), ("sst2",))
HOME = [("markdown", "# Home\n> Where it begins."), ("markdown", "See [projectors](library/demo.ipynb#sec-details).")]

QUARTO = """
project: {type: website, output-dir: _docs, render: [nbs/index.ipynb, nbs/library/demo.ipynb]}
website:
  title: tiny_site
  favicon: nbs/favicon.svg
  navbar: {logo-href: nbs/index.html, left: [{text: Home, href: nbs/index.ipynb}]}
  sidebar: {contents: [nbs/index.ipynb, nbs/library/demo.ipynb]}
format: {html: {theme: default, css: nbs/styles.css, toc: true, html-math-method: mathml}}
"""
PYPROJECT = '[project]\nname = "tiny_site"\n[tool.nbdev]\nnbs_path = "."\nlib_path = "tiny_site"\n'


def make_project(folder: Path, page: list[tuple] = PAGE, home: list[tuple] = HOME) -> Path:
    """A project of two pages and one module, with this project's site builder."""
    (folder / "nbs/library").mkdir(parents=True)
    (folder / "tiny_site").mkdir()
    (folder / "results").mkdir()
    (folder / "results/scores.csv").write_text("task,accuracy\nsst2,0.80\n")
    for name in ("demo", "other"):
        (folder / "results" / name).mkdir()
        (folder / "results" / name / "study.yaml").write_text(DEMO.to_yaml())
        cell = DEMO.cells()[0]
        with Store(folder / "results" / name).writing(cell) as (_, parts):
            sizes = {"train": 9, "dev": 3}
            parts["result"] = {"rows": sizes, "majority": {"train": 0.5, "dev": 0.5}, "overlaps": {"dev in train": 0}}
            parts["provenance"] = {"started": "2026-01-01T00:00:00Z", "seconds": 3.2, "libraries": {"torch": "2"}}
        pack(folder / "results" / name, folder / "results" / name, [cell])
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "_quarto.yml").write_text(QUARTO)
    (folder / "tiny_site/__init__.py").write_text('__version__ = "0.1.0"\n')
    (folder / "nbs/index.ipynb").write_text(notebook(home))
    (folder / "nbs/library/demo.ipynb").write_text(notebook(page))
    for name in ("styles.css", "favicon.svg"):
        shutil.copy(ROOT / "nbs" / name, folder / "nbs")
    # What installing the project would leave: nbdev finds the documented names through it.
    (folder / "tiny_site.dist-info").mkdir()
    (folder / "tiny_site.dist-info/METADATA").write_text("Metadata-Version: 2.4\nName: tiny_site\nVersion: 0.1.0\n")
    (folder / "tiny_site.dist-info/entry_points.txt").write_text("[nbdev]\ntiny_site = tiny_site._modidx:d\n")
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def build(fork) -> Callable:  # of a project and more words of the command line; what it gives is a process
    """Builds a site without Quarto, whether or not this machine has it."""

    def program(project: Path, arguments: tuple[str, ...]) -> None:
        os.environ.pop("GITHUB_REPOSITORY", None)  # where this runs on GitHub, pages would link to it
        nbdev_export()
        for tool in (ROOT / "tools").glob("*.py"):
            sys.modules.pop(tool.stem, None)  # the project has its own
        sys.path[:0] = [str(project / "tools"), str(project)]
        sys.argv = [str(project / "tools/build_site.py"), *arguments]
        runpy.run_path(sys.argv[0], run_name="__main__")

    return lambda project, *arguments: fork(partial(program, project, arguments), project, PATH="")


@pytest.fixture(scope="module")
def site(tmp_path_factory, build) -> Path:
    project = make_project(tmp_path_factory.mktemp("site"))
    done = build(project)
    assert done.returncode == 0, done.stdout + done.stderr
    return project / "_docs"


@pytest.fixture(scope="module")
def page(site) -> str:
    return (site / "nbs/library/demo.html").read_text(encoding="utf-8")


# ---------------------------------------------------------------- a small site


def test_references_are_numbered_and_linked(page):
    for label, words in {"eq-projector": "Equation", "fig-line": "Figure", "tbl-rooms": "Table"}.items():
        assert f'<a href="#{label}" class="quarto-xref">{words}&nbsp;1</a>' in page
        assert len(re.findall(f'id="{label}"', page)) == 1
    assert '<a href="#tbl-scores" class="quarto-xref">Table&nbsp;2</a>' in page
    assert "<code>@fig-line</code>" in page and "<code>$$ x $$ {#eq-x}</code>" in page


def test_captions_and_equations_show_their_numbers(page):
    assert re.search(r"<figcaption>Figure&nbsp;1: A line, <math", page)
    assert "<caption><span>Table&nbsp;2: Scores." in page
    assert '<span class="equation-number">(1)</span>' in page


def test_math_became_mathml(page):
    assert page.count("<math ") == 4
    prose = re.sub(r"<(script|pre|code)\b.*?</\1>", "", page, flags=re.S)  # as written in code, it stays
    assert not re.search(r"\\\(|\\\[|\$\$|katex|\\operatorname", prose)


def words(markup: str) -> str:
    return re.sub(r"<[^>]+>", "", markup)


def test_exported_code_stands_folded_below_its_documentation(page):
    documented = page[page.index('data-anchor-id="area"') :]
    (source,) = re.findall(r"<details>.*?</details>", documented, re.S)
    assert "return 3 * radius**2" in words(source) and "in cm^2" in words(source)
    assert "/blob/" not in page and "__main__" not in page


def test_exported_code_without_documentation_stands_as_it_is(page):
    assert "_LIMIT = 3  # cm" in words(page)


def test_names_in_prose_link_to_their_documentation(page):
    assert '<a href="demo.html#area"><code>area</code></a>' in page
    assert '<a href="#sec-details">details of <code>area</code></a>' in page  # it is a link already


def test_hidden_cells_stay_hidden(page):
    assert "a hidden output" not in page
    assert ">12</code>" in page


def test_site_works_from_a_folder(site):
    assert site_problems(site) == []
    assert 'url=nbs/index.html"' in (site / "index.html").read_text(encoding="utf-8")
    assert (site / "results/scores.csv").is_file()
    assert "search.json" not in (site / "site_libs/smalldocs.js").read_text(encoding="utf-8")
    assert "Projectors" in (site / "site_libs/search-index.js").read_text(encoding="utf-8")


def test_a_page_leads_to_its_source_and_to_the_results_that_it_reads(site, page):
    assert '<a href="demo.ipynb" download>nbs/library/demo.ipynb</a>' in page
    assert "assert area(1) == 3" in (site / "nbs/library/demo.ipynb").read_text(encoding="utf-8")
    assert re.findall(r'<a href="([^"]*files.html)">', page) == ["../../results/demo/files.html"]
    listed = (site / "results/demo/files.html").read_text(encoding="utf-8")
    key = DEMO.cells()[0].key
    assert f'<th scope="row">data sst2</th><td>–</td><td><a href="cells/{key}.json">{key}</a></td>' in listed
    assert '<ol id="commands"><li><code>not recorded</code></li></ol>' in listed and '<a href="study.yaml">' in listed
    answer = json.loads((site / f"results/demo/cells/{key}.json").read_text(encoding="utf-8"))
    assert answer["asked"]["task"] == "sst2" and answer["result"]["rows"] == {"train": 9, "dev": 3}
    assert listed.count("<th ") == listed.count('<th scope="row">') + listed.count('<th scope="col">') == 1 + 6
    assert "github" not in page
    assert "Its numbers" not in (site / "nbs/index.html").read_text(encoding="utf-8")


def test_a_table_names_the_results_that_its_numbers_are_read_from():
    sources = [
        'results = {name: Results(root / "results" / name) for name in ("micro", "small")}',
        'first = results["micro"].transfer()\nsecond = results["small"].transfer()\nfirst',
        "def both(table):\n    return table + second\n\n\nboth(first)",
        'each_study(root / "results", "starts", by_start)',
        "%time\nprinted(2)",
        "found = first.mean()\nprinted(2).join(found)",
        'first = printed(2)\nfirst.join([first for first in results["small"]])',
        'first, *rows = 1, {}\nfor second in (1, 2):\n    rows[second] = results["small"].size',
        'def size(results):\n    return len(results)\n\n\n{"size": size(rows), "none": 2} | {name: 1 for name in rows}',
    ]
    read, values = folders_read(sources, ["micro", "micro-tpt", "other", "small"])
    of_all = [["micro"], ["micro", "small"], ["micro-tpt", "small"], [], ["micro"], ["small"], ["small"], ["small"]]
    assert read == [[], *of_all] and values == {"size": ["small"], "none": []}


@pytest.mark.parametrize("study", [True, False])
def test_a_row_that_is_a_task_leads_to_the_cells_of_its_study(tmp_path, study):
    folder = tmp_path / "results" / "demo"
    folder.mkdir(parents=True)
    (folder / ("study.yaml" if study else "scores.csv")).write_text("")
    rows = "".join(f'<tr><th class="row_heading level0">{name}</th></tr>' for name in ("SST-2", "mean"))
    data = {"text/html": f"<table>{rows}</table>"}
    cell = NbCell(0, dict(cell_type="code", source='show("demo")', outputs=[{"data": data}]))
    with_origins("nbs/results/demo.ipynb", [cell], tmp_path)
    link = '<a href="../../results/demo/files.html?find=SST-2">SST-2</a>'
    assert (link in data["text/html"], "Each task links to its cells" in data["text/html"]) == (study, study)
    assert '">mean</th>' in data["text/html"] and '<a href="../../results/demo/files.html">' in data["text/html"]


def test_a_row_that_is_a_study_or_a_number_of_the_text_leads_to_its_files(tmp_path):
    (tmp_path / "results" / "demo").mkdir(parents=True)
    (tmp_path / "results" / "demo" / "study.yaml").write_text("")
    tables = [
        {"text/html": "".join(f'<table><tr><th class="row_heading level0">{name}</th></tr></table>' for name in names)}
        for names in (("demo: tiny", "best"), ("best", "other"))
    ]
    source = 'kept = Results(root / "results" / "demo")\n{"best": kept.best(), "other": 2}'
    text = NbCell(0, dict(cell_type="markdown", source="<!--=best-->0.9<!--/--> and <!--=other-->2<!--/-->"))
    outputs = [{"data": data} for data in tables]
    with_origins("nbs/index.ipynb", [text, NbCell(1, dict(cell_type="code", source=source, outputs=outputs))], tmp_path)
    link = '<th class="row_heading level0"><a href="../results/demo/files.html">'
    studies, numbers = (data["text/html"] for data in tables)
    assert f"{link}demo</a>: tiny</th>" in studies and ">best</th>" in studies
    assert f"{link}best</a></th>" in numbers and ">other</th>" in numbers


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ({"accuracy": 0.7114, "step": 3}, "71.1"),
        ({"targets": {"imdb": {"accuracy": 0.5}, "mnli": None, "sst2": {"accuracy": 0.625}}}, "imdb 50.0, sst2 62.5"),
        ({"rows": {"train": 9}}, "–"),
    ],
)
def test_the_accuracies_of_a_cell_stand_in_its_row(result, shown):
    assert accuracies(result) == shown


def test_on_github_a_tutorial_opens_in_colab(tmp_path, monkeypatch):
    for folder in ("project/nbs/tutorials", "project/results", "out/nbs/tutorials"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "project/nbs/tutorials/one.ipynb").write_text(notebook(HOME))
    built = tmp_path / "out/nbs/tutorials/one.html"
    for repository, blob in ((None, None), ("someone/prompts", "someone/prompts/blob/next/nbs/tutorials/one.ipynb")):
        if repository:
            monkeypatch.setenv("GITHUB_REPOSITORY", repository)
            monkeypatch.setenv("GITHUB_REF_NAME", "next")
        else:
            monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
        built.write_text("<header>Navigation</header><header>Title</header><main>Text</main>")
        lead_to_sources(tmp_path / "project", tmp_path / "out", ["nbs/tutorials/one.ipynb"])
        text = built.read_text()
        assert text.index("Title") < text.index("Download this notebook") < text.index("Text") < text.index("This page")
        assert (f"https://colab.research.google.com/github/{blob}" in text) == bool(repository)
        assert ("<code>%pip install git+https://github.com/someone/prompts@next</code>" in text) == bool(repository)
        assert (f"https://github.com/{blob}" in text) == ("github" in text) == bool(repository)


def test_the_navigation_can_be_skipped_and_has_names(page):
    assert re.search(r'<body[^>]*><a class="skip-link" href="#(.+?)">', page)[1] in re.findall(
        r'<main[^>]* id="(.+?)"', page
    )
    assert 'role="navigation"' not in page and page.index("<h1") < page.index("<h2")
    named = re.findall(r"<nav [^>]*aria-label=", page)
    assert len(named) == len(re.findall("<nav", page)) > 3


# ---------------------------------------------------------------- mistakes


def replaced(cell: int, *new: str) -> list[tuple]:
    return [*PAGE[:cell], ("markdown", *new), *PAGE[cell + 1 :]]


@pytest.mark.parametrize(
    ("page", "home", "message"),
    [
        (replaced(2, "See @fig-nowhere."), HOME, "@fig-nowhere refers to nothing on its page"),
        (replaced(2, r"A formula: $\nosuchcommand{x}$."), HOME, "cannot read all of this formula"),
        (replaced(2, "[A page](nowhere.ipynb)"), HOME, "broken link nowhere.ipynb"),
        (replaced(2, "[A place](#nowhere)"), [HOME[0]], "#nowhere leads to no anchor"),
        (
            replaced(2, '<img src="https://example.org/a.png">'),
            [HOME[0]],
            "requests https://example.org/a.png from another host",
        ),
        (replaced(0, "# Title\n> Summary.\n\nProse."), HOME, "the first cell must contain only '# Title'"),
        ([*PAGE[:5], BARE, *PAGE[5:]], HOME, "fig-bare has no caption"),
    ],
)
def test_a_mistake_is_named(tmp_path, page, home, message, build):
    done = build(make_project(tmp_path, page, home))
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_listed_page_that_is_missing_is_named(tmp_path, build):
    project = make_project(tmp_path)
    (project / "nbs/library/demo.ipynb").unlink()
    done = build(project)
    assert done.returncode == 1
    assert "lists pages that do not exist: nbs/library/demo.ipynb" in done.stderr


def test_a_project_file_that_is_no_yaml_is_named(tmp_path, build):
    project = make_project(tmp_path)
    (project / "_quarto.yml").write_text("project: {type: website}\nwebsite:\n  title: [unclosed\nformat: html\n")
    done = build(project)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "_quarto.yml, line 4: invalid YAML" in done.stderr


def test_a_folder_that_is_no_site_is_left_alone(tmp_path, build):
    project, kept = make_project(tmp_path / "project"), tmp_path / "mine" / "notes.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    done = build(project, "--out", str(kept.parent))
    assert done.returncode == 1 and "is not a built site" in done.stderr
    assert kept.read_text() == "mine"


@pytest.mark.parametrize(
    ("markup", "problem"),
    [
        ('<script src="https://cdn.example.org/a.js"></script>', "from another host"),
        ('<link rel="stylesheet" href="//cdn.example.org/a.css">', "from another host"),
        ('<script type="module">import m from "https://cdn.example.org/m.mjs";</script>', "from another host"),
        ("<style>@import url(https://fonts.example.org/css);</style>", "from another host"),
        ('<div style="background: url(https://example.org/a.png)"></div>', "from another host"),
        ('<a href="missing.html">x</a>', "leads to no file"),
        ('<a href="folder/">x</a>', "leads to no file"),
        ('<a href="#missing">x</a>', "leads to no anchor"),
        ('<a href="other.html#missing">x</a>', "leads to no anchor"),
    ],
)
def test_the_check_finds(tmp_path, markup, problem):
    (tmp_path / "folder").mkdir()
    (tmp_path / "other.html").write_text('<p id="here"></p>')
    fine = '<a href="https://example.org">x</a> <a href="other.html#here">y</a> <img src="data:image/png;base64,AA">'
    (tmp_path / "page.html").write_text(fine)
    assert site_problems(tmp_path) == []
    (tmp_path / "page.html").write_text(markup)
    (found,) = site_problems(tmp_path)
    assert problem in found


# ---------------------------------------------------------------- what readers get


MAIN = """<html><head><title>A page – tiny</title></head><body><nav id="TOC"><p>On this page</p><ul><li><a href="#a"
id="toc-a" class="nav-link">Part</a></li></ul></nav><main><header><h1>A page</h1></header><h2>Part</h2>
<p>See <a href="x.html">TPT</a>, <code>TPT</code> and PTs; TPT-task and micro worlds. TPT again, a layout.</p>
<table><tr><th>sst2</th><td>-0.35 [-0.70, 0.10]</td><td>-0.00, 12%</td><td>2026-01-02, 1e-05</td></tr></table>
<table><tr><td><a href="x.html">It <em>works</em></a></td>
<td><strong>holds</strong></td><td>With <!--=best-->0.9 [0.8, 1.0]<!--/--> %, p = 0.01</td></tr></table>
<div id="cell-1" class="cell"><details class="code-fold"><summary>How this is computed</summary>one</details>
</div>
<div id="cell-2" class="cell"><details class="code-fold"><summary>How this is computed</summary>two</details></div>
<table><tr><th id="T_1" class="row_heading level0"><a href="files.html">best</a></th><td>0.9</td></tr>
<tr><th>one_two</th><td id="T_2" class="data row0">words of some length</td></tr></table>
<p>Our Table A. Told.</p>
<div class="cell"><details><pre>code</pre></details><div class="sd-table"><table><tr><td>a</td></tr></table></div></div>
<div class="cell-output cell-output-display">
<svg role="img"><g></g></svg></div>
</div>
<p>Our Figure A. What to see.</p></main></body></html>"""
GLOSSARY = """<h3 class="anchored" data-anchor-id="tpt">TPT</h3><p>Training.</p>
<h3 class="anchored" data-anchor-id="micro-world">Micro world</h3><p>Made.</p>
<h3 class="anchored" data-anchor-id="layout">Layout</h3><p>Where.</p>"""


@pytest.fixture(scope="module")
def finished() -> str:
    return finish(MAIN, Path("nbs/paper/page.html"), glossary_terms(GLOSSARY), "tiny")


def test_the_first_use_of_a_term_leads_to_the_glossary(finished):
    linked = re.findall(r'<a class="term" href="([^"]*)">(.*?)</a>(\S*)', finished)
    assert linked == [("../glossary.html#tpt", "TPT", "-task"), ("../glossary.html#micro-world", "micro worlds", ".")]


def test_tables_have_captions_and_true_numbers_and_scroll(finished):
    assert (
        '<td>−0.35 <span class="interval">[−0.70, 0.10]</span></td><td>0.00, 12&nbsp;%</td><td>2026-01-02, 1e-05</td>'
        in finished
    )
    assert finished.count('<div class="scroll">') == finished.count("<caption") == 4 and "<th>SST-2</th>" in finished
    assert '<th>one_<wbr>two</th><td id="T_2" class="long data row0">' in finished
    assert '<caption class="visually-hidden">Part</caption>' in finished and "<strong>Our Table A.</strong>" in finished


def test_a_number_leads_to_its_row_and_is_not_broken(finished):
    number = '<a class="number" href="#T_1">0.9 <span class="interval">[0.8, 1.0]</span></a>'
    assert f"{number}&nbsp;%, p&nbsp;=&nbsp;0.01" in finished


def test_folded_cells_in_a_row_are_one(finished):
    assert finished.count("How this is computed") == 1 and re.search(r"</summary>one\s*two</details>", finished)


def test_claims_are_in_the_contents_of_a_phone(finished):
    assert '<ul><li><a href="#claim-0" class="nav-link">It <em>works</em></a></li><li><a href="#a"' in finished
    assert re.search(r'<tr id="claim-0">\s*<td><a href="x.html">', finished)


def test_figures_have_captions(finished):
    assert "</g></svg><figcaption>Our Figure A. What to see.</figcaption></figure>" in finished
    assert "<p>Our Figure" not in finished


def test_a_page_can_be_shared_and_has_contents_on_a_phone(finished, monkeypatch):
    assert '<meta property="og:title" content="A page">' in finished and "og:url" not in finished
    assert '<script src="../../site_libs/site.js"></script>' in finished and finished.count('id="toc-a"') == 1
    assert '<details class="contents"><summary>On this page</summary>' in finished
    monkeypatch.setenv("GITHUB_REPOSITORY", "Someone/prompts")
    named = finish(MAIN, Path("nbs/paper/page.html"), {}, "tiny")
    assert 'content="https://someone.github.io/prompts/nbs/paper/page.html"' in named


def test_an_unknown_address_leads_home(site, monkeypatch):
    assert 'href="nbs/index.html"' in (site / "404.html").read_text(encoding="utf-8")
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/prompts")
    assert 'href="/prompts/nbs/index.html"' in not_found("nbs/index.ipynb")


def test_every_table_of_the_site_is_as_it_should_be(site):
    for path in site.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        tables = re.findall(r"<table\b.*?</table>", page, re.S)
        assert all("<caption" in table for table in tables), path
        numbers = [words(cell) for table in tables for cell in re.findall(r"<td[^>]*>(.*?)</td>", table, re.S)]
        assert not [cell for cell in numbers if re.match(r"-\d|−0(\.0+)?$", cell)], path
        assert '<meta name="description"' in page or path.parent == site, path
