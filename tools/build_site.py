"""Build the website into _docs/: run from anywhere with `python tools/build_site.py`.

nbdev processes the notebooks listed in _quarto.yml into _proc/. Quarto renders the site from there if it is on PATH;
otherwise smalldocs does, a pure-Python renderer of the same project file. `mend_pages.py` corrects the rendered pages;
`link_origins.py` links pages to their sources and results and checks every link.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

import yaml
from fastcore.nbio import NbCell, mk_cell, read_nb, write_nb
from link_origins import lead_methods_to_their_class, lead_to_sources, site_problems, with_origins
from mend_pages import SiteError, finish, glossary_terms, mend, search_without_server
from nbdev.processors import FilterDefaults
from smalldocs.config import load
from smalldocs.site import Page, Site

# Folders and files without pages or anything that pages link to
NOT_STAGED = (".*", "_docs", "_proc", "build", "dist", "runs", "models", "*.egg-info", "__pycache__")
# smalldocs warns of options that only Quarto reads
KNOWN_WARNING = re.compile(r"html-math-method is ignored|output-file is not read")

WITH_ORIGINS = ("nbs/index", "nbs/paper/", "nbs/results/")  # pages whose tables name the results they show
LABELED_EQUATION = re.compile(r"^\$\$((?:(?!\$\$).)*)\$\$[ \t]*\{#(eq-[\w-]+)\}", re.S | re.M)
NOT_FOUND = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Page not found</title><meta name="robots" content="noindex">
<style>:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.6 system-ui, sans-serif; margin: 3rem 1rem; background: Canvas; color: CanvasText; }}</style>
</head><body><main><h1>Page not found</h1>
<p>There is no page at this address. It may have moved.
<a href="{home}">Start at the home page</a>, where you can search all pages.</p>
</main></body></html>
"""
LINK_IN_LINK = re.compile(r"\[([^\[\]]*)\[(`[^`]+`)\]\([^)]*\)([^\[\]]*)\]\(")  # nbdev links code in a link's text too
SOURCE_LINK = re.compile(r"\[source\]\(/blob/[^)]*\)(\{[^}]*\})?\s*")


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
            for cell in notebook.cells:
                if cell.cell_type == "markdown":
                    cell.source = LINK_IN_LINK.sub(r"[\1\2\3](", cell.source)
            for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
                mend_documentation(output.get("data", {}))
            if page.startswith(WITH_ORIGINS):
                with_origins(page, notebook.cells, root)
            write_nb(notebook, staged / page)
    return staged


def declared(root: Path) -> dict:
    """The contents of _quarto.yml."""
    try:
        return yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise SiteError(f"_quarto.yml, line {mark.line + 1}: invalid YAML ({error.problem}); correct it.") from None


def check_first_cell(cell: NbCell, page: str) -> None:
    """Reject prose in the title's cell: nbdev reads that cell as metadata, so the prose would be lost."""
    title, *rest = cell.source.strip().splitlines()
    if not title.startswith("# ") or any(line.strip() and not line.startswith((">", "- ")) for line in rest):
        raise SiteError(f"{page}: the first cell must contain only '# Title' and a line '> summary'.")


def with_source(cell: NbCell) -> list[NbCell]:
    """A cell, followed by its code if it is exported, which nbdev hides: folded if its documentation is shown."""
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
    """Remove nbdev's links to an unknown repository, and the name of the module in which it runs cells."""
    if "text/markdown" in data:
        text = "".join(data["text/markdown"])
        data["text/markdown"] = SOURCE_LINK.sub("", text).replace("__main__.", "")


# ---------------------------------------------------------------- the two renderers


def render_with_quarto(staged: Path) -> Path:
    """Render the processed pages with Quarto, without running cells again."""
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
    """Render the processed pages with smalldocs, and add what it lacks."""
    site = MendedSite(load(staged), quiet=True)
    site.build()
    warnings = [warning for warning in site.warnings if not KNOWN_WARNING.search(warning)]
    if warnings:
        raise SiteError("smalldocs warned:\n  " + "\n  ".join(warnings))
    search_without_server(site.out)
    for page in site.out.rglob("*.html"):
        page.write_text(mend(page.read_text(encoding="utf-8"), page.relative_to(site.out)), encoding="utf-8")
    return site.out


# ---------------------------------------------------------------- the command


def redirect(home: str, icon: str) -> str:
    """The page that redirects from the site's folder to its home page."""
    target = Path(home).with_suffix(".html").as_posix()
    head = f'<!doctype html><html lang="en"><title>Home</title><link rel="icon" href="{icon}">'
    return f'{head}<meta http-equiv="refresh" content="0; url={target}"><a href="{target}">Home</a></html>\n'


def not_found(home: str) -> str:
    """The page that GitHub Pages shows for an address that does not exist, in any folder."""
    repository = os.environ.get("GITHUB_REPOSITORY")
    start = f"/{repository.split('/')[1]}/" if repository else ""
    return NOT_FOUND.format(home=start + Path(home).with_suffix(".html").as_posix())


def finish_pages(out: Path, title: str) -> None:
    """Add to every rendered page what neither renderer provides."""
    shutil.copy(Path(__file__).with_name("site.js"), out / "site_libs")
    glossary = out / "nbs" / "glossary.html"
    terms = glossary_terms(glossary.read_text(encoding="utf-8")) if glossary.is_file() else {}
    for page in out.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        if "<main" in text:
            page.write_text(finish(text, page.relative_to(out), terms, title), encoding="utf-8")


def build(
    root: Path,  # the project, which is the working directory
    out: Path,  # the folder to build into; its contents are replaced
) -> None:
    """Build the site and check it: every link has a target, and nothing is requested from another host."""
    if out.exists() and not (out / "site_libs").is_dir():
        raise SiteError(f"{out} already exists and is not a built site; name another folder, or remove it.")
    staged = stage(root)
    rendered = render_with_quarto(staged) if shutil.which("quarto") else render_with_smalldocs(staged)
    project = declared(root)
    if not (rendered / "index.html").exists():
        page = redirect(project["project"]["render"][0], project["website"]["favicon"])
        (rendered / "index.html").write_text(page, encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(rendered, out)
    finish_pages(out, project["website"]["title"])
    (out / "404.html").write_text(not_found(project["project"]["render"][0]), encoding="utf-8")
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
