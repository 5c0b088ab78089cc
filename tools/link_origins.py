"""Link every page to its source and to the results that it reads, and check all links of the site."""

import ast
import html
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fastcore.nbio import read_nb

from prompt_transferability.evidence import STUDIES
from prompt_transferability.experiments import cell_label
from prompt_transferability.results import Results, write_report
from prompt_transferability.study import StudyError
from prompt_transferability.tasks import ALL_TASKS

# The page that lists a folder of results; it has its own style, because neither renderer processes it
FILES_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Files of results/{folder}</title>
<meta name="description" content="The files of results/{folder}, from which pages of the site are computed.">
<link rel="icon" href="../../nbs/favicon.svg">
<style>:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 1rem; background: Canvas; color: CanvasText; }}
caption {{ font-weight: bold; text-align: left; padding: 1.2rem 0 0.4rem; }} a, code {{ overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; font-size: 0.85rem; }} div {{ overflow-x: auto; }}
th, td {{ border-bottom: 1px solid #8a949c; padding: 0.2rem 0.7rem; text-align: left; font-weight: normal; }}
@media screen {{ td:nth-child(n+3) {{ white-space: nowrap; }} td:nth-child(2) {{ min-width: 5rem; }} }}
@media print {{ div {{ overflow-x: visible; }} table {{ font-size: 7pt; }} td, th {{ overflow-wrap: anywhere; }} }}
</style>
</head><body><main><h1>results/{folder}</h1>
<p>Pages of the site are computed from these files. <a href="../../index.html">Home</a>{contents}</p>
{tables}
</main></body></html>
"""
# Shows the cells whose names contain the words that a reader types, or that an address gives: `files.html?find=sst2`
FIND = """<p><label>Find cells: <input type="search" id="find"></label> <span id="found" role="status"></span></p>
<script>
document.addEventListener("DOMContentLoaded", () => {
  const plain = (text) => text.toLowerCase().replace(/[^a-z0-9 ]/g, "");
  const rows = [...document.querySelectorAll("tbody tr")].map((row) => [row, plain(row.cells[0].textContent)]);
  const box = document.getElementById("find");
  const find = () => {
    const words = plain(box.value).split(" ").filter(Boolean);
    for (const [row, text] of rows) row.hidden = !words.every((word) => text.includes(word));
    for (const part of document.querySelectorAll("main > div")) {
      part.hidden = !part.querySelector("tbody tr:not([hidden])");
    }
    const left = rows.filter(([row]) => !row.hidden).length;
    document.getElementById("found").textContent = `${left} of ${rows.length}`;
  };
  box.value = new URLSearchParams(location.search).get("find") || "";
  box.addEventListener("input", find);
  find();
});
</script>
"""
FILES_TABLE = """<div id="{name}" tabindex="0" role="region" aria-label="{caption}"><table>
<caption>{caption}</caption>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody></table></div>"""
COMMANDS = """<p>These commands computed the cells of the study, which <a href="study.yaml">study.yaml</a> declares:</p>
<ol id="commands">{lines}</ol>
<p>To compute one cell again and compare, run this in the study's folder:
<code>prompt-transfer study run study.yaml --reuse . --only KEY --out again</code>, then
<code>prompt-transfer study diff . again</code>. KEY is the cell's key in the tables below. If the commands above name
data or models, name them here too. Without <code>--reuse . --only KEY</code>, the whole study is computed.</p>
"""
BACK = '<p><a href="../../../index.html">Home</a> · <a href="../files.html">Every cell of this study</a></p>'
FOLDER_HEAD = '<th scope="col">folder</th><th scope="col">files</th>'
STUDY_HEAD = "".join(
    f'<th scope="col">{name}</th>'
    for name in ("cell", "accuracy, %", "key, with settings and result", "started", "seconds", "command")
)
# The heading of a table's row that is a task's title
TASK_ROW = re.compile(
    rf"(<th[^>]*row_heading[^>]*>)({'|'.join(re.escape(of.title) for of in ALL_TASKS.values() if of.title)})(</th>)"
)
# The heading of a row that is named in code: a study, before what its label says of it, or a number of the page's text
NAMED_ROW = re.compile(r"(<th[^>]*row_heading[^>]*>)([\w.-]+)(?=: |</th>)")
MARK = re.compile(r"<!--=([\w.]+)-->")
# Attributes that a browser follows by itself; `href` counts for <link> and not for <a>
REQUESTS = {("link", "href"), ("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src")}
REMOTE = re.compile(r"^(https?:)?//")
REMOTE_IN_CSS = re.compile(r"""(?:url\(|@import)\s*["']?\s*((?:https?:)?//[^"')\s;]+)""")
REMOTE_IN_SCRIPT = re.compile(r"""\bimport\b[^;\n]*?["'](https?://[^"']+)""")


def with_origins(source: str, cells: Sequence, root: Path) -> None:
    """Add below each table of a page the results that its numbers are read from, and a button for its CSV.

    A row that is a task links to its cells if all numbers of the table are from one study. A row that is a study, or a
    number in the page's text that is read from one folder, links to the files there.
    """
    folders, up = result_folders(root), "../" * source.count("/")
    studies = [name for name in folders if (root / "results" / name / "study.yaml").is_file()]
    code = [cell for cell in cells if cell.cell_type == "code"]
    marked = {name for cell in cells if cell.cell_type == "markdown" for name in MARK.findall(cell.source)}
    shown_by_cell, read_by_key = folders_read([cell.source for cell in code], folders)

    def linked(table: str) -> str:
        of_text = marked.issuperset(name for _, name in NAMED_ROW.findall(table))  # it lists numbers of the text

        def link(m: re.Match) -> str:
            start, name = m.groups()
            of = [name] if name in studies else read_by_key.get(name, []) if of_text else []
            return f'{start}<a href="{up}results/{of[0]}/files.html">{name}</a>' if len(of) == 1 else m[0]

        return NAMED_ROW.sub(link, table)

    for cell, read in zip(code, shown_by_cell, strict=True):
        links = [f'<a href="{up}results/{name}/files.html">results/{name}</a>' for name in read]
        origin = f"Numbers: {', '.join(links)}. " if links else ""
        button = '<button type="button" class="to-csv" hidden>CSV</button>'
        for output in cell.get("outputs", []):
            if "<table" in (shown := "".join(output.get("data", {}).get("text/html", ""))):
                tasks = 0
                if len(read) == 1 and read[0] in studies:
                    cells_of = rf'\1<a href="{up}results/{read[0]}/files.html?find=\2">\2</a>\3'
                    shown, tasks = TASK_ROW.subn(cells_of, shown)
                said = f"{origin}Each task links to its cells. " if tasks else origin
                output["data"]["text/html"] = f'{linked(shown)}<p class="table-origin">{said}{button}</p>'


def folders_read(
    sources: Sequence[str],  # of a page's code cells, in order
    folders: Sequence[str],  # under results/
) -> tuple[list[list[str]], dict[str, list[str]]]:  # what each cell's output is read from, and each dictionary's values
    """The results that each cell shows: a name counts as all results read by the statements that defined it."""
    read, found, by_key = {}, [], {}
    for source in sources:
        shown = set()
        for statement in ast.parse(re.sub(r"^[%!].*$", "", source, flags=re.M)).body:
            for target, value in _assigned(statement):
                taken = _read_in(value, read, folders)
                again = isinstance(target, ast.Name | ast.Tuple)  # what the name stood for before no longer counts
                read |= {name: taken if again else read.get(name, set()) | taken for name in _stored(target)}
            if not isinstance(statement, ast.Assign | ast.FunctionDef | ast.Import | ast.ImportFrom | ast.Assert):
                shown |= _read_in(statement, read, folders)
            for node in ast.walk(statement):
                if isinstance(node, ast.Dict):
                    for key, value in zip(node.keys, node.values, strict=True):
                        if isinstance(key, ast.Constant):
                            by_key[key.value] = sorted(_read_in(value, read, folders))
        found.append([name for name in folders if name in shown])
    return found, by_key


def _assigned(statement: ast.stmt) -> list[tuple[ast.AST, ast.AST]]:
    """What a statement binds, and what to: each name of a tuple to its own value, if both are written out."""
    match statement:
        case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)) if len(names) == len(values):
            return [*zip(names, values, strict=True)]
        case ast.Assign(targets=[target], value=value):
            return [(target, value)]
    return [(statement, statement)]


def _stored(node: ast.AST) -> set[str]:
    """The names that a piece of code binds, and those of the objects in which it sets an item."""
    own = {name for part in ast.walk(node) if isinstance(part, ast.comprehension) for name in ast.walk(part.target)}
    found = set()
    for part in ast.walk(node):
        match part:
            case ast.Name(id=name, ctx=ast.Store()) if part not in own:
                found.add(name)
            case ast.FunctionDef(name=name) | ast.Subscript(value=ast.Name(id=name), ctx=ast.Store()):
                found.add(name)
    return found


def _read_in(node: ast.AST, read: Mapping[str, set[str]], folders: Sequence[str]) -> set[str]:
    """The folders that a piece of code reads, by itself or by the names in it."""
    match node:
        case ast.Constant(value=str(name)):
            return {name} & {*folders}
        case ast.Name(id=name, ctx=ast.Load()):
            return read.get(name, set())
        case ast.Subscript(value=ast.Name(), slice=ast.Constant(value=str(name))) if name in folders:
            return {name}  # one of several studies, by name
        case ast.Call(func=ast.Name(id="row_of"), args=[_, ast.Constant(value=str(name))]) if name in folders:
            return {name}
        case ast.Call(func=ast.Name(id="each_study" | "available_studies"), args=[_, ast.Constant(value=question), *_]):
            return {*STUDIES[question]} & {*folders}
        case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
            for part in node.generators:
                read = {**read, **dict.fromkeys(_stored(part.target), _read_in(part.iter, read, folders))}
            made = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            parts = [*made, *(condition for part in node.generators for condition in part.ifs)]
        case ast.FunctionDef() | ast.Lambda():
            own = {part.arg for part in ast.walk(node.args) if isinstance(part, ast.arg)} | _stored(node)
            read, parts = {**read, **dict.fromkeys(own, set())}, ast.iter_child_nodes(node)
        case _:
            parts = ast.iter_child_nodes(node)
    return set().union(*(_read_in(part, read, folders) for part in parts))


def lead_to_sources(root: Path, out: Path, pages: list[str]) -> None:
    """Link every page to the file that it is made from, and to the results that its numbers are read from."""
    for name in result_folders(root):
        list_files(root / "results" / name, out / "results" / name)
    for source in pages:
        page = out / Path(source).with_suffix(".html")
        shutil.copy(root / source, page.parent)
        up = "../" * source.count("/")
        links = [f'<a href="{Path(source).name}" download>{source}</a>']
        if repository := os.environ.get("GITHUB_REPOSITORY"):  # set if GitHub builds the site
            branch = os.environ.get("GITHUB_REF_NAME", "main")
            links.append(f'<a href="https://github.com/{repository}/blob/{branch}/{source}">on GitHub</a>')
        numbers = [f'<a href="{up}results/{name}/files.html">results/{name}</a>' for name in read_by(root, source)]
        origin = f"This page: {', '.join(links)}." + (f" Its numbers: {', '.join(numbers)}." if numbers else "")
        text = page.read_text(encoding="utf-8")
        if 'class="number"' in text:
            origin += " Each number in the text links to a table below, next to the code that computes it."
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
    """A page with an addition before the last occurrence of a closing tag."""
    before, tag, after = text.rpartition(end)
    return before + addition + tag + after


def read_by(root: Path, source: str) -> list[str]:
    """The folders under results/ that a page's code reads: those it names if it joins "results" to a path."""
    if not source.endswith(".ipynb"):
        return []
    code = "\n".join(cell.source for cell in read_nb(root / source).cells if cell.cell_type == "code")
    return [name for name in result_folders(root) if '"results"' in code and f'"{name}"' in code]


def result_folders(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "results").iterdir() if path.is_dir())


def list_files(folder: Path, out: Path) -> None:
    """Copy the files of a folder of results, and write a page that links to each, or to each cell of a study."""
    shutil.copytree(folder, out, dirs_exist_ok=True)
    if (folder / "study.yaml").is_file():
        contents, tables = study_tables(folder, out)
    else:
        rows, caption = "\n".join(file_rows(folder)), f"Files of results/{folder.name}"
        contents, tables = "", FILES_TABLE.format(name="files", caption=caption, head=FOLDER_HEAD, rows=rows)
    page = FILES_PAGE.format(folder=folder.name, contents=contents, tables=tables)
    (out / "files.html").write_text(page, encoding="utf-8")


def file_rows(folder: Path) -> list[str]:
    """One row per folder, with a link to each file."""
    rows = []
    for place, _, names in sorted(os.walk(folder)):
        links = ", ".join(f'<a href="{(Path(place) / name).relative_to(folder)}">{name}</a>' for name in sorted(names))
        where = Path(place).relative_to(folder).as_posix()
        rows += [f'<tr><th scope="row">{where}</th><td>{links}</td></tr>'] if names else []
    return rows


def study_tables(folder: Path, out: Path) -> tuple[str, str]:
    """Links to the report, if any, and to a table for each kind of cell; and the tables.

    Each row is a cell, with a link to its question, result and provenance.
    """
    results, rows, links, commands = Results(folder), defaultdict(list), [], {}
    (out / "cells").mkdir(exist_ok=True)
    for cell, result in results.answered:
        origin = results.store.read(cell, "provenance")
        whole = {"kind": cell.kind, "asked": dict(cell.asked), "result": result, "provenance": origin}
        (out / "cells" / f"{cell.key}.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        label, link = html.escape(cell_label(cell)), f'<a href="cells/{cell.key}.json">{cell.key}</a>'
        started = html.escape(origin["started"][:16].replace("T", "\u00a0"))
        number = commands.setdefault(origin.get("command"), len(commands) + 1)
        facts = [
            html.escape(accuracies(result)),
            link,
            started,
            f"{origin['seconds']:.0f}",
            f'<a href="#commands">{number}</a>',
        ]
        rows[cell.kind].append(f'<tr><th scope="row">{label}</th>{"".join(f"<td>{fact}</td>" for fact in facts)}</tr>')
    with suppress(StudyError):  # a study that reuses another study's prompts has no matrix
        report = write_report(results, out / "report")
        text = report.read_text(encoding="utf-8").replace("<main>", f"<main>\n{BACK}", 1)
        report.write_text(text, encoding="utf-8")
        links.append('<a href="report/index.html">Report, with figures</a>')
    links += [f'<a href="#{kind}">{len(of)} × {kind}</a>' for kind, of in rows.items()]
    captions = {kind: f"Cells of the kind {kind} in results/{folder.name}" for kind in rows}
    tables = [
        FILES_TABLE.format(name=kind, caption=captions[kind], head=STUDY_HEAD, rows="\n".join(of))
        for kind, of in rows.items()
    ]
    contents = "".join(f" · {link}" for link in links)
    return contents, "\n".join([COMMANDS.format(lines=command_lines(commands)), FIND, *tables])


def accuracies(result: Mapping) -> str:
    """The accuracies of a cell, in %: its own, or one for each target."""
    of = {"": result} if "accuracy" in result else result.get("targets", {})
    return ", ".join(f"{name} {100 * one['accuracy']:.1f}".strip() for name, one in of.items() if one) or "–"


def command_lines(commands: Mapping[str | None, int]) -> str:
    """The recorded commands as items of a list, in the order of their numbers."""
    return "".join(f"<li><code>{html.escape(command or 'not recorded')}</code></li>" for command in commands)


def lead_methods_to_their_class(out: Path) -> None:
    """Redirect nbdev's links to a method without its own documentation to the documentation of its class."""
    ids = {path: set(re.findall(r'\bid="([^"]+)"', path.read_text(encoding="utf-8"))) for path in out.rglob("*.html")}
    for path in ids:

        def led(link: re.Match, path: Path = path) -> str:
            file, owner, method = link.groups()
            found = ids.get((path.parent / file).resolve() if file else path, set())
            return link[0] if f"{owner}.{method}" in found or owner not in found else f'href="{file}#{owner}"'

        page = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r'href="([\w./-]*)#(\w+)\.(\w+)"', led, page), encoding="utf-8")


# ---------------------------------------------------------------- checking links


class Page(HTMLParser):
    """The anchors of a page, its links, and its requests."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors, self.links, self.requests = set(), set(), set()
        self.feed(text)
        self.requests |= set(REMOTE_IN_CSS.findall(text)) | set(REMOTE_IN_SCRIPT.findall(text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in ("id", "name") and value:
                self.anchors.add(value)
            if key in ("href", "src") and value:
                self.links.add(value)
                if (tag, key) in REQUESTS and REMOTE.match(value):
                    self.requests.add(value)


def site_problems(
    folder: Path,  # a built site
) -> list[str]:  # one line per problem
    """Every broken link, every link to a missing anchor, and every request to another host."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    problems = []
    for path, page in pages.items():
        name = path.relative_to(folder)
        problems += [f"{name}: requests {url} from another host" for url in sorted(page.requests)]
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                problems.append(f"{name}: {link} leads to no file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                problems.append(f"{name}: {link} leads to no anchor")
    for path in sorted(folder.rglob("*.css")):
        remote = sorted(set(REMOTE_IN_CSS.findall(path.read_text(encoding="utf-8"))))
        problems += [f"{path.relative_to(folder)}: requests {url} from another host" for url in remote]
    return problems
