"""Build the website into _docs/: run from anywhere with `python tools/build_site.py`.

nbdev processes the notebooks that _quarto.yml lists into _proc/. From there Quarto renders the site where it is on
PATH, and smalldocs, a pure-Python renderer of the same project file, does elsewhere. What smalldocs lacks is mended
here: numbered cross references, math as MathML, and pages that ask no other host for anything.
"""

import argparse
import ast
import html
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path, PurePosixPath

import yaml
from check_site import site_problems
from fastcore.nbio import NbCell, mk_cell, read_nb, write_nb
from latex2mathml.converter import convert as latex_to_mathml
from nbdev.processors import FilterDefaults
from smalldocs.config import load
from smalldocs.site import Page, Site

from prompt_transferability.experiments import cell_label
from prompt_transferability.results import Results, write_report
from prompt_transferability.study import StudyError

# What holds no page, and nothing that a page links to
NOT_STAGED = (".*", "_docs", "_proc", "build", "dist", "runs", "models", "*.egg-info", "__pycache__")
# smalldocs says so of options that only Quarto reads
KNOWN_WARNING = re.compile(r"html-math-method is ignored|output-file is not read")

LABELS = {"fig": "Figure", "tbl": "Table", "eq": "Equation"}
REFERENCE = re.compile(r"(?<![\w@`/])\[?@((?:fig|tbl|eq|sec)-[\w-]*\w)\]?")
MATH = re.compile(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', re.S)
LABELED_EQUATION = re.compile(r"^\$\$((?:(?!\$\$).)*)\$\$[ \t]*\{#(eq-[\w-]+)\}", re.S | re.M)
# What is no prose: tags, and whole elements whose text is shown as it stands
NOT_PROSE = re.compile(r"(<(pre|code|script|style|math)\b.*?</\2>|<!--.*?-->|<[^>]+>)", re.S)
# The page that lists a folder of results, in a style of its own: neither renderer knows of it
FILES_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Files of results/{folder}</title><link rel="icon" href="../../nbs/favicon.svg">
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; color: #1d2730; margin: 1rem; }} a {{ color: #0b6e6e; }}
table {{ border-collapse: collapse; font-size: 0.85rem; }} div {{ overflow-x: auto; }}
th, td {{ border-bottom: 1px solid #dde3e8; padding: 0.2rem 0.7rem; text-align: left; font-weight: normal; }}</style>
</head><body><main><h1>results/{folder}</h1>
<p>What the site's pages read. <a href="../../index.html">Home</a></p>
<div><table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody></table></div></main></body></html>
"""
FOLDER_HEAD = '<th scope="col">folder</th><th scope="col">files</th>'
STUDY_HEAD = "".join(f'<th scope="col">{name}</th>' for name in ("cell", "answer", "begun", "seconds"))
NAVIGATION = {  # how smalldocs begins each part that has no name, and what it is
    '<nav class="navbar': "Site",
    '<nav class="quarto-secondary-nav"': "Place in the site",
    '<nav id="quarto-sidebar"': "Pages",
    '<nav id="TOC"': "On this page",
    '<nav class="page-navigation"': "Page before and after",
}
SOURCE_LINK = re.compile(r"\[source\]\(/blob/[^)]*\)(\{[^}]*\})?\s*")


class SiteError(Exception):
    """A site that cannot be built, with a sentence that says why."""


# ---------------------------------------------------------------- notebooks, before either renderer


def stage(
    root: Path,  # the project, which is the working directory
) -> Path:  # the folder with the processed pages
    """Copy the project, and process the listed notebooks as nbdev does, with the exported code put back in."""
    pages = declared(root)["project"]["render"]
    missing = [page for page in pages if not (root / page).is_file()]
    if missing:
        raise SiteError(f"_quarto.yml lists pages that do not exist: {', '.join(missing)}; write them or unlist them.")
    staged = root / "_proc"
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(root, staged, ignore=shutil.ignore_patterns(*NOT_STAGED))
    os.environ["IN_TEST"] = "1"  # as nbdev sets it while it builds pages
    for page in pages:
        if page.endswith(".ipynb"):
            notebook = read_nb(root / page)
            check_first_cell(notebook.cells[0], page)
            notebook.cells = [part for cell in notebook.cells for part in with_source(cell)]
            FilterDefaults()(notebook)
            for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
                mend_documentation(output.get("data", {}))
            write_nb(notebook, staged / page)
    return staged


def declared(root: Path) -> dict:
    """What _quarto.yml says."""
    try:
        return yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise SiteError(f"_quarto.yml, line {mark.line + 1}: no YAML ({error.problem}); mend that line.") from None


def check_first_cell(cell: NbCell, page: str) -> None:
    """Refuse prose in the title's cell: nbdev reads that cell as metadata, so the prose would be lost."""
    title, *rest = cell.source.strip().splitlines()
    if not title.startswith("# ") or any(line.strip() and not line.startswith((">", "- ")) for line in rest):
        raise SiteError(f"{page}: the first cell holds '# Title', a line '> summary' and nothing else.")


def with_source(cell: NbCell) -> list[NbCell]:
    """A cell, and after an exported one its code, which nbdev hides: folded where documentation stands for it."""
    directives = cell.directives if cell.cell_type == "code" else {}
    if "export" not in directives or directives.get("include") == "false":
        return [cell]
    code = "".join(line for line in cell.source.splitlines(True) if not line.startswith("#|")).strip()
    defined = ast.parse(code).body
    if all(isinstance(node, ast.Import | ast.ImportFrom) for node in defined):
        return [cell]
    shown = f"```python\n{code}\n```"
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    if any(isinstance(node, documented) and not node.name.startswith("_") for node in defined):
        shown = f"<details><summary>Source</summary>\n\n{shown}\n\n</details>"
    return [cell, mk_cell(shown, "markdown")]


def mend_documentation(data: dict) -> None:
    """Drop nbdev's links to a repository that it does not know, and the name of the module that it runs cells in."""
    if "text/markdown" in data:
        text = "".join(data["text/markdown"])
        data["text/markdown"] = SOURCE_LINK.sub("", text).replace("__main__.", "")


# ---------------------------------------------------------------- the two renderers


def render_with_quarto(staged: Path) -> Path:
    """Render the processed pages with Quarto, which runs no cell again."""
    subprocess.run(["quarto", "render", str(staged), "--no-execute"], check=True)
    return staged / "_docs"


class MendedSite(Site):
    """A smalldocs site whose labeled equations, `$$ ... $$ {#eq-label}`, are divisions with that id."""

    def read(self, src: PurePosixPath) -> Page:
        """A page with its options, not yet rendered."""
        page = super().read(src)
        page.body = LABELED_EQUATION.sub(r"::: {#\2 .equation}\n$$\1$$\n:::", page.body)
        return page


def render_with_smalldocs(staged: Path) -> Path:
    """Render the processed pages with smalldocs, and mend what it lacks."""
    site = MendedSite(load(staged), quiet=True)
    site.build()
    warnings = [warning for warning in site.warnings if not KNOWN_WARNING.search(warning)]
    if warnings:
        raise SiteError("smalldocs warns of:\n  " + "\n  ".join(warnings))
    search_without_server(site.out)
    for page in site.out.rglob("*.html"):
        page.write_text(mend(page.read_text(encoding="utf-8"), page.relative_to(site.out)), encoding="utf-8")
    return site.out


def search_without_server(rendered: Path) -> None:
    """Put the search index into the script that searches it: a page opened from a folder may fetch no file."""
    fetching = 'const r = await fetch(offset + "search.json");\n      index = await r.json();'
    script = rendered / "site_libs" / "smalldocs.js"
    text = script.read_text(encoding="utf-8")
    if fetching not in text:
        raise SiteError("smalldocs searches in another way than its version 0.5.4 did; mend search_without_server.")
    index = (rendered / "search.json").read_text(encoding="utf-8")
    script.write_text(text.replace(fetching, f"index = {index};"), encoding="utf-8")


def mend(page: str, name: Path) -> str:
    """Turn math into MathML, number what is labelled, link the references, and drop what other hosts would serve."""
    page = re.sub(r'<link [^>]*href="https://cdn[^>]*>|<script [^>]*src="https://cdn[^>]*></script>', "", page)
    page = mend_navigation(page)
    page = re.sub(r'(?<=<h1 class="title">)[^<]*', lambda m: m[0].replace("_", "_<wbr>"), page)
    page = re.sub(r"(<(?:fig)?caption[^>]*>)(.*?)(?=</(?:fig)?caption>)", caption_math, page, flags=re.S)
    page = MATH.sub(lambda m: mathml(html.unescape(m[2]), m[1], name), page)
    page, targets = number(page, name)

    def link(m: re.Match) -> str:
        if m[1] not in targets:
            raise SiteError(f"{name}: @{m[1]} refers to nothing on its page; label something so, or write a link.")
        return f'<a href="#{m[1]}" class="quarto-xref">{targets[m[1]]}</a>'

    pieces = NOT_PROSE.split(page)[::3]  # the pattern has two groups, so every third piece is prose
    marks = [m[0] for m in NOT_PROSE.finditer(page)]
    linked = [REFERENCE.sub(link, piece) for piece in pieces]
    return "".join(piece + mark for piece, mark in zip(linked, [*marks, ""], strict=True))


def mend_navigation(page: str) -> str:
    """Let the keyboard skip the navigation and open its sections, and name each part of it."""
    skip = '<a class="skip-link" href="#quarto-document-content">Skip to content</a>'
    page = re.sub(r"(<body[^>]*>)", rf"\1{skip}", page, count=1)
    section = r'<a (class="sidebar-item-text[^>]*) role="navigation"([^>]*)>(.*?)</a>'
    page = re.sub(section, r'<button type="button" \1\2>\3</button>', page, flags=re.S)
    # The arrow beside it does the same, for the mouse
    page = re.sub(r'(<a class="sidebar-item-toggle[^>]*) role="navigation"', r'\1 aria-hidden="true"', page)
    for start, label in NAVIGATION.items():
        page = page.replace(start, start.replace("<nav", f'<nav aria-label="{label}"'))
    # Before the title, and so no heading of what it stands beside
    return re.sub(r'<h2 id="toc-title">(.*?)</h2>', r'<p id="toc-title">\1</p>', page)


def caption_math(m: re.Match) -> str:
    """Mark the math of a cell's caption, which smalldocs takes as plain text."""
    return m[1] + re.sub(r"\$([^$]+)\$", r'<span class="math inline">\\(\1\\)</span>', m[2])


def mathml(latex: str, display: str, name: Path) -> str:
    """Turn a formula into MathML, which browsers draw without any script."""
    known = latex.strip().replace("{aligned}", "{split}")  # the same layout, by the name that latex2mathml knows
    markup = latex_to_mathml(known, display="block" if display == "display" else "inline")
    if re.search(r"\\[a-zA-Z]+|<mi>&</mi>", markup):
        raise SiteError(f"{name}: latex2mathml cannot read all of this formula; write it more plainly: {latex.strip()}")
    return markup


def number(page: str, name: Path) -> tuple[str, dict[str, str]]:
    """Number figures, tables and equations in page order; also returns the words that a reference to each id shows."""
    targets, counts = {}, dict.fromkeys(LABELS, 0)
    for m in re.finditer(r'<\w+ id="((fig|tbl|eq)-[\w-]+)"', page):
        label, kind = m[1], m[2]
        if label.endswith("-caption"):  # smalldocs' own id inside a captioned table
            continue
        counts[kind] += 1
        targets[label] = f"{LABELS[kind]}&nbsp;{counts[kind]}"
    for label, words in targets.items():
        start = page.index(f'id="{label}"')
        if label.startswith("eq-"):
            end = page.index("</math>", start) + len("</math>")
            page = f'{page[:end]}<span class="equation-number">({words.split(";")[1]})</span>{page[end:]}'
            continue
        own = page.find("<div id=", start)  # the next cell or labeled element begins here
        caption = re.compile(r"<(fig)?caption[^>]*>\s*").search(page, start, own if own > 0 else len(page))
        if caption is None:
            raise SiteError(f"{name}: {label} has no caption; give the cell fig-cap or tbl-cap.")
        page = f"{page[: caption.end()]}{words}: {page[caption.end() :]}"
    for m in re.finditer(r'<h\d class="anchored" data-anchor-id="(sec-[\w-]+)">(.*?)</h\d>', page, re.S):
        targets[m[1]] = m[2]
    return page, targets


# ---------------------------------------------------------------- where pages come from


def lead_to_sources(root: Path, out: Path, pages: list[str]) -> None:
    """Let every page lead to the file that it is made from, and to the results that its numbers are read from."""
    for name in result_folders(root):
        list_files(root / "results" / name, out / "results" / name)
    for source in pages:
        page = out / Path(source).with_suffix(".html")
        shutil.copy(root / source, page.parent)
        up = "../" * source.count("/")
        links = [f'<a href="{Path(source).name}" download>{source}</a>']
        if repository := os.environ.get("GITHUB_REPOSITORY"):  # set where GitHub builds the site
            branch = os.environ.get("GITHUB_REF_NAME", "main")
            links.append(f'<a href="https://github.com/{repository}/blob/{branch}/{source}">on GitHub</a>')
        numbers = [f'<a href="{up}results/{name}/files.html">results/{name}</a>' for name in read_by(root, source)]
        origin = f"This page: {', '.join(links)}." + (f" Its numbers: {', '.join(numbers)}." if numbers else "")
        text = page.read_text(encoding="utf-8")
        text = inserted(f'<p class="page-source">{origin}</p>\n', text, "</main>")
        if "tutorials" in Path(source).parts:
            taken = f'<a href="{Path(source).name}" download>Download this notebook</a>'
            if repository:
                colab = f"https://colab.research.google.com/github/{repository}/blob/{branch}/{source}"
                install = f"%pip install git+https://github.com/{repository}@{branch}"
                taken += f', or <a href="{colab}">open it in Colab</a> and run <code>{install}</code> there first'
            text = inserted(f'<p class="page-take">{taken}; <code>make lab</code> opens all.</p>\n', text, "</header>")
        page.write_text(text, encoding="utf-8")


def inserted(addition: str, text: str, end: str) -> str:
    """A page with an addition inside what ends with the last such tag."""
    before, tag, after = text.rpartition(end)
    return before + addition + tag + after


def read_by(root: Path, source: str) -> list[str]:
    """The folders under results/ that a page's code reads: it joins "results" to a path, and names them."""
    if not source.endswith(".ipynb"):
        return []
    code = "\n".join(cell.source for cell in read_nb(root / source).cells if cell.cell_type == "code")
    return [name for name in result_folders(root) if '"results"' in code and f'"{name}"' in code]


def result_folders(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "results").iterdir() if path.is_dir())


def list_files(folder: Path, out: Path) -> None:
    """Copy the files of a folder of results, and write a page that leads to each, or to each cell of a study."""
    shutil.copytree(folder, out, dirs_exist_ok=True)
    study = (folder / "study.yaml").is_file()
    head, rows = (STUDY_HEAD, study_rows(folder, out)) if study else (FOLDER_HEAD, file_rows(folder))
    page = FILES_PAGE.format(folder=folder.name, head=head, rows="\n".join(rows))
    (out / "files.html").write_text(page, encoding="utf-8")


def file_rows(folder: Path) -> list[str]:
    """A row a folder, with a link to each file."""
    rows = []
    for place, _, names in sorted(os.walk(folder)):
        links = ", ".join(f'<a href="{(Path(place) / name).relative_to(folder)}">{name}</a>' for name in sorted(names))
        where = Path(place).relative_to(folder).as_posix()
        rows += [f'<tr><th scope="row">{where}</th><td>{links}</td></tr>'] if names else []
    return rows


def study_rows(folder: Path, out: Path) -> list[str]:
    """A row a cell, with a link to what was asked, what came out and where that is from; and the report, if any."""
    results, rows = Results(folder), []
    (out / "cells").mkdir(exist_ok=True)
    for cell, result in results.answered:
        origin = results.store.read(cell, "provenance")
        whole = {"kind": cell.kind, "asked": dict(cell.asked), "result": result, "provenance": origin}
        (out / "cells" / f"{cell.key}.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        label, link = html.escape(cell_label(cell)), f'<a href="cells/{cell.key}.json">{cell.key}</a>'
        begun = html.escape(origin["started"][:16].replace("T", "\u00a0"))
        facts = f"<td>{begun}</td><td>{origin['seconds']:.0f}</td>"
        rows.append(f'<tr><th scope="row">{label}</th><td>{link}</td>{facts}</tr>')
    with suppress(StudyError):  # a study that takes others' prompts over has no matrix of its own
        write_report(results, out / "report")
        rows.insert(
            0, '<tr><th scope="row">report</th><td><a href="report/index.html">figures</a></td><td></td><td></td></tr>'
        )
    return rows


# ---------------------------------------------------------------- the command


def lead_methods_to_their_class(out: Path) -> None:
    """Let nbdev's links to a method without documentation of its own lead to its class, which has some."""
    ids = {path: set(re.findall(r'\bid="([^"]+)"', path.read_text(encoding="utf-8"))) for path in out.rglob("*.html")}
    for path in ids:

        def led(link: re.Match, path: Path = path) -> str:
            file, owner, method = link.groups()
            found = ids.get((path.parent / file).resolve() if file else path, set())
            return link[0] if f"{owner}.{method}" in found or owner not in found else f'href="{file}#{owner}"'

        page = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r'href="([\w./-]*)#(\w+)\.(\w+)"', led, page), encoding="utf-8")


def redirect(home: str, icon: str) -> str:
    """The page that leads from the site's folder to its home."""
    target = Path(home).with_suffix(".html").as_posix()
    head = f'<!doctype html><html lang="en"><title>Home</title><link rel="icon" href="{icon}">'
    return f'{head}<meta http-equiv="refresh" content="0; url={target}"><a href="{target}">Home</a></html>\n'


def build(
    root: Path,  # the project, which is the working directory
    out: Path,  # the folder to build into; what it held is replaced
) -> None:
    """Build the site and check it: every link leads somewhere, and nothing is asked of another host."""
    if out.exists() and not (out / "site_libs").is_dir():
        raise SiteError(f"{out} is there already and is no built site; name another folder, or remove it.")
    staged = stage(root)
    rendered = render_with_quarto(staged) if shutil.which("quarto") else render_with_smalldocs(staged)
    project = declared(root)
    if not (rendered / "index.html").exists():
        page = redirect(project["project"]["render"][0], project["website"]["favicon"])
        (rendered / "index.html").write_text(page, encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(rendered, out)
    lead_methods_to_their_class(out)
    lead_to_sources(root, out, project["project"]["render"])
    problems = site_problems(out)
    if problems:
        raise SiteError("the built pages have faults:\n  " + "\n  ".join(problems))


def main() -> None:
    """Build the site of the project that this file belongs to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=Path, default=root / "_docs", help="the folder to build into")
    out = parser.parse_args().out.resolve()
    os.chdir(root)  # nbdev looks for its project from here
    try:
        build(root, out)
    except SiteError as error:
        sys.exit(f"build_site: {error}")
    print(f"The site is at {out / 'index.html'}")


if __name__ == "__main__":
    main()
