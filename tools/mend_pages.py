"""Complete rendered pages: add what smalldocs lacks compared with Quarto, and what neither renderer does.

Pages from smalldocs get numbered cross references, math as MathML, a labeled navigation and a search without a server.
All pages get scrolling tables with captions, figures with captions, true minus signs, links from the first use of each
term to the glossary, a table of contents on phones, light and dark themes, and a preview for shared links.
"""

import html
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from latex2mathml.converter import convert as latex_to_mathml

from prompt_transferability.tasks import PAPER_TASKS

LABELS = {"fig": "Figure", "tbl": "Table", "eq": "Equation"}
REFERENCE = re.compile(r"(?<![\w@`/])\[?@((?:fig|tbl|eq|sec)-[\w-]*\w)\]?")
MATH = re.compile(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', re.S)
# Markup that is not prose: tags, and whole elements whose text is shown verbatim; and markup without links inside
NOT_PROSE = re.compile(r"(<(pre|code|script|style|math)\b.*?</\2>|<!--.*?-->|<[^>]+>)", re.S)
NOT_RUNNING = re.compile(r"(<(a|pre|code|script|style|math|svg|summary|button)\b.*?</\2>|<!--.*?-->|<[^>]+>)", re.S)
NAVIGATION = {  # how each unnamed part starts in smalldocs' pages, and its name
    '<nav class="navbar': "Site",
    '<nav class="quarto-secondary-nav"': "Place in the site",
    '<nav id="quarto-sidebar"': "Pages",
    '<nav id="TOC"': "On this page",
    '<nav class="page-navigation"': "Page before and after",
}
LONGEST_ENTRY = 1500  # characters of a section of the API in the search index


class SiteError(Exception):
    """A site that cannot be built, with a sentence that says why."""


# ---------------------------------------------------------------- additions for smalldocs


def search_without_server(rendered: Path) -> None:
    """Let the site's search read its index from a script, since a page opened from a folder cannot fetch files."""
    script = rendered / "site_libs" / "smalldocs.js"
    text = script.read_text(encoding="utf-8")
    fetching = 'const r = await fetch(offset + "search.json");\n      index = await r.json();'
    ranking = re.compile(r"if \(window\.Fuse\) \{.*?\n    \}\n", re.S)
    if fetching not in text or not ranking.search(text):
        raise SiteError("the search of smalldocs differs from that of version 0.5.4; adapt search_without_server.")
    text = ranking.sub("fuse = window.siteSearch(index);\n", text.replace(fetching, "index = await siteIndex(offset);"))
    script.write_text(text, encoding="utf-8")
    index = json.loads((rendered / "search.json").read_text(encoding="utf-8"))
    for entry in index:  # for the API's code, the beginning is enough
        entry["text"] = entry["text"][: LONGEST_ENTRY if "/library/" in entry["href"] else None]
    lines = ",\n".join(json.dumps(entry) for entry in index)
    (rendered / "site_libs" / "search-index.js").write_text(f"window.searchIndex = [{lines}];\n", encoding="utf-8")
    (rendered / "search.json").unlink()
    shutil.rmtree(rendered / "site_libs" / "fuse", ignore_errors=True)


def mend(page: str, name: Path) -> str:
    """Convert math to MathML, number labeled elements, link references, and remove requests to other hosts."""
    page = re.sub(r'<link [^>]*href="https://cdn[^>]*>|<script [^>]*src="https://cdn[^>]*></script>', "", page)
    page = re.sub(r'<script [^>]*src="[^"]*fuse\.min\.js"></script>', "", page)
    page = mend_navigation(page)
    page = re.sub(r'(?<=<h1 class="title">)[^<]*', lambda m: m[0].replace("_", "_<wbr>"), page)
    page = re.sub(r"(<(?:fig)?caption[^>]*>)(.*?)(?=</(?:fig)?caption>)", caption_math, page, flags=re.S)
    page = MATH.sub(lambda m: mathml(html.unescape(m[2]), m[1], name), page)
    page, targets = number(page, name)

    def link(m: re.Match) -> str:
        if m[1] not in targets:
            raise SiteError(f"{name}: @{m[1]} refers to nothing on its page; add that label, or write a link.")
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
    # The arrow next to it does the same, for the mouse
    page = re.sub(r'(<a class="sidebar-item-toggle[^>]*) role="navigation"', r'\1 aria-hidden="true"', page)
    for start, label in NAVIGATION.items():
        page = page.replace(start, start.replace("<nav", f'<nav aria-label="{label}"'))
    # It precedes the page's title, so it must not be a heading
    return re.sub(r'<h2 id="toc-title">(.*?)</h2>', r'<p id="toc-title">\1</p>', page)


def caption_math(m: re.Match) -> str:
    """Mark the math of a cell's caption, which smalldocs takes as plain text."""
    return m[1] + re.sub(r"\$([^$]+)\$", r'<span class="math inline">\\(\1\\)</span>', m[2])


def mathml(latex: str, display: str, name: Path) -> str:
    """Convert a formula to MathML, which browsers draw without a script."""
    known = latex.strip().replace("{aligned}", "{split}")  # the same layout, under the name that latex2mathml supports
    markup = latex_to_mathml(known, display="block" if display == "display" else "inline")
    if re.search(r"\\[a-zA-Z]+|<mi>&</mi>", markup):
        raise SiteError(f"{name}: latex2mathml cannot read all of this formula; simplify it: {latex.strip()}")
    return markup


def number(page: str, name: Path) -> tuple[str, dict[str, str]]:
    """Number figures, tables and equations in page order; also returns the text of a reference to each id."""
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
        own = page.find("<div id=", start)  # the next cell or labeled element starts here
        caption = re.compile(r"<(fig)?caption[^>]*>\s*").search(page, start, own if own > 0 else len(page))
        if caption is None:
            raise SiteError(f"{name}: {label} has no caption; add fig-cap or tbl-cap to the cell.")
        page = f"{page[: caption.end()]}{words}: {page[caption.end() :]}"
    for m in re.finditer(r'<h\d class="anchored" data-anchor-id="(sec-[\w-]+)">(.*?)</h\d>', page, re.S):
        targets[m[1]] = m[2]
    return page, targets


# ---------------------------------------------------------------- additions for both renderers

TABLE = re.compile(r'(<div class="sd-table">\s*)?(<table\b[^>]*>)(.*?)(</table>)(\s*</div>)?', re.S)
CELL = re.compile(r"(<t[dh]\b[^>]*>)(.*?)(?=</t[dh]>)", re.S)
LONG = re.compile(r'(<td [^>]*class=")(?=data[^>]*>[^<[(]{15,}</td>)')  # a cell of words, or of several numbers
HEADING = re.compile(r"<h[1-4]\b[^>]*>(.*?)</h[1-4]>", re.S)
INTERVAL = re.compile(r"\[[−+]?[\d.,]+(?: ?%)?, [−+]?[\d.,]+(?: ?%)?\]|\([\d–]+ to [\d–]+\)")
HYPHEN = re.compile(r"(?<![\w.\])–/-])-(?=\.?\d)")
NEGATIVE_ZERO = re.compile(r"−(?=0(?:\.0+)?(?![\d.]|,\d))")
DOCUMENTED = re.compile(
    r"<th[^>]*>\s*(?:<strong>)?Type(?:</strong>)?\s*</th>"
)  # nbdev's table of a function's parameters
OUR_FIGURE = re.compile(
    r'(<div class="cell-output cell-output-display">)\s*(<svg\b(?:(?!</div>).)*)(</div>\s*</div>)\s*'
    r"<p>(Our Figure [A-Z]\..*?)</p>",
    re.S,
)
OUR_TABLE = re.compile(
    r"<p>(Our Table [A-Z]\.(?:(?!</p>).)*)</p>((?:(?!<p\b|<h\d|<table\b).)*<table\b[^>]*>)(?!\s*<caption)", re.S
)  # its caption is above the cell that computes it
# A number in the text, and its row in the table that the cell shows which computes it; links and code come before
MARKED = re.compile(r"<(a|pre|code|script|style|svg)\b.*?</\1>|<!--=([\w.]+)-->((?:(?!<a\b|<!--).)*)<!--/-->", re.S)
NUMBER_ROW = re.compile(r'<th id="(\w+)" class="row_heading[^>]*>(?:<a [^>]*>)?([\w.]+)(?:</a>)?</th>')
TITLES = {name: task.title for name, task in PAPER_TASKS.items()}
TITLED = ("nbs/paper/", "nbs/results/", "nbs/index")  # pages that name tasks as the paper does
UNLINKED = ("nbs/glossary", "nbs/house/", "CONTRIBUTING")  # pages whose terms are not linked to the glossary
EVERYDAY = {"layout", "backbone", "published-files", "small-study"}  # entries whose words have other meanings too
# Between two folded cells of which the first shows nothing: they become one
FOLDED_AGAIN = re.compile(
    r'</details>\s*</div>\s*<div id="cell-\d+" class="cell">\s*<details class="code-fold">\s*'
    r"<summary>How this is computed</summary>"
)
NOT_APART = re.compile(r"(?<=\d) (?=%)|^ (?=%)|(?<=\bp) (?==|&lt;)|(?<==|;) (?=0\.\d)")
CLAIM = re.compile(
    r"<tr>(\s*<td>)((?:(?!</td>).)*)(?=</td>\s*<td><strong>)", re.S
)  # the row of a claim and its verdict
CONTENTS = re.compile(r'<nav [^>]*id="TOC"[^>]*>.*?(<ul>.*?</ul>)\s*</nav>', re.S)
TOGGLE = (
    '<button type="button" class="theme-toggle btn" aria-pressed="false" aria-label="Dark mode" hidden>'
    '<i class="bi bi-moon" aria-hidden="true"></i></button>'
)


def finish(
    page: str,  # a rendered page
    name: Path,  # its path in the site
    terms: dict[str, re.Pattern],  # of `glossary_terms`
    site: str,  # the site's title
) -> str:
    """A page for readers: scrolling tables and figures with captions, terms linked to the glossary, both themes."""
    page = with_head(page, name, site)
    before, start, rest = page.partition("<main")
    main, end, after = rest.rpartition("</main>")
    main = OUR_FIGURE.sub(r'\1<figure class="ours">\2<figcaption>\4</figcaption></figure>\3', main)
    rows = {number: row for row, number in NUMBER_ROW.findall(main)}  # of two of the same name, the last
    main = with_tables(OUR_TABLE.sub(r"\2<caption>\1</caption>", main), name)
    main = FOLDED_AGAIN.sub("", main)
    main = outside(main, NOT_PROSE, lambda text: NOT_APART.sub("&nbsp;", text))
    main = outside(main, NOT_RUNNING, lambda text: INTERVAL.sub(r'<span class="interval">\g<0></span>', text))
    main = MARKED.sub(lambda m: f'<a class="number" href="#{rows[m[2]]}">{m[3]}</a>' if m[2] in rows else m[0], main)
    if not name.as_posix().startswith(UNLINKED):
        main = with_terms(main, terms, "../" * (len(name.parts) - 2) + "glossary.html" if terms else "")
    if contents := CONTENTS.search(before):
        claims = [re.sub(r"</?a\b[^>]*>", "", m[2]) for m in CLAIM.finditer(main)]
        number = iter(range(len(claims)))
        main = CLAIM.sub(lambda m: f'<tr id="claim-{next(number)}">{m[1]}{m[2]}', main)
        links = [f'<li><a href="#claim-{n}" class="nav-link">{claim}</a></li>' for n, claim in enumerate(claims)]
        small = re.sub(r'\s(?:id|data-scroll-target)="[^"]*"', "", contents[1])
        small = small.replace("<ul>", f"<ul>{''.join(links)}", 1)
        small = f'<summary>On this page</summary><nav aria-label="Contents">{small}</nav>'
        main = main.replace("</header>", f'</header><details class="contents">{small}</details>', 1)
    return before + start + main + end + after


def outside(text: str, marks: re.Pattern, change: Callable[[str], str]) -> str:
    """A text with changes everywhere except in matches of a pattern that has two groups."""
    pieces = marks.split(text)[::3]
    found = [m[0] for m in marks.finditer(text)]
    return "".join(change(piece) + mark for piece, mark in zip(pieces, [*found, ""], strict=True))


def with_head(page: str, name: Path, site: str) -> str:
    """Add a title for shared links, and a choice of light or dark."""
    title = re.search(r"<title>(.*?)</title>", page, re.S)[1]
    description = re.search(r'<meta name="description" content="([^"]*)"', page)
    tags = {"og:type": "article", "og:site_name": html.escape(site), "og:title": title.split(" – ")[0]}
    if description:
        tags["og:description"] = description[1]
    else:
        page = page.replace(
            "<title>", f'<meta name="description" content="{title}: a page of {html.escape(site)}."><title>', 1
        )
    if address := os.environ.get("GITHUB_REPOSITORY"):
        owner, repository = address.split("/")
        tags["og:url"] = f"https://{owner.lower()}.github.io/{repository}/{name.as_posix()}"
    lines = "".join(f'<meta property="{key}" content="{value}">' for key, value in tags.items())
    script = "../" * (len(name.parts) - 1) + "site_libs/site.js"
    page = page.replace("</title>", f'</title>{lines}<script src="{script}"></script>', 1)
    return page.replace('<div class="quarto-navbar-tools">', f'<div class="quarto-navbar-tools">{TOGGLE}', 1)


def with_tables(main: str, name: Path) -> str:
    """Make tables scroll, add captions, and format numbers and task names for readers."""
    titled, seen = name.as_posix().startswith(TITLED), Counter()

    def finished(m: re.Match) -> str:
        _, tag, body, close, _ = m.groups()
        body = CELL.sub(lambda cell: cell[1] + outside(cell[2], NOT_PROSE, true_numbers), body)
        body = LONG.sub(r"\1long ", body)
        if titled:
            body = re.sub(r"(<th\b[^>]*>)([a-z0-9_]+)(?=</th>)", lambda th: th[1] + TITLES.get(th[2], th[2]), body)
        body = re.sub(r"(?<=>)\w+_\w+(?=(?:</a>)?</th>)", lambda name: name[0].replace("_", "_<wbr>"), body)
        if "<caption" not in body:
            heading = [*HEADING.finditer(main, 0, m.start())]
            words = re.sub(r"<[^>]+>", "", heading[-1][1]) if heading else "Table"
            words = f"Parameters of {words}" if DOCUMENTED.search(body) else words
            seen[words] += 1
            again = f", table {seen[words]}" if seen[words] > 1 else ""
            body = f'<caption class="visually-hidden">{words}{again}</caption>{body}'
        else:
            body = re.sub(r"(<caption[^>]*>)(.*?)(?=</caption>)", r"\1<span>\2</span>", body, count=1, flags=re.S)
            body = re.sub(r"(?<=<span>)Our Table [A-Z]+\.", r"<strong>\g<0></strong>", body, count=1)
        styles = main[main.rfind('<div class="cell', 0, m.start()) : m.start()]
        colored = " colored" if "background-color" in styles else ""
        return f'<div class="scroll{colored}">{tag}{body}{close}</div>'

    return TABLE.sub(finished, main)


def true_numbers(text: str) -> str:
    """Numbers with a true minus, zero without a minus, and a nonbreaking space before a percent sign."""
    text = NEGATIVE_ZERO.sub("", HYPHEN.sub("−", text))
    return re.sub(r"(?<=\d) ?%", "&nbsp;%", text).replace("&lt; ", "&lt;&nbsp;")


def glossary_terms(page: str) -> dict[str, re.Pattern]:
    """The terms of a rendered glossary: a pattern for each term in prose, by its anchor."""
    found = {}
    for anchor, heading in re.findall(r'<h3 class="anchored" data-anchor-id="([\w-]+)">(.*?)</h3>', page, re.S):
        term = html.unescape(heading)
        spelled = term if term.isupper() else f"[{term[0].upper()}{term[0].lower()}]{re.escape(term[1:])}s?"
        if anchor not in EVERYDAY:
            found[anchor] = re.compile(rf"(?<![\w-]){spelled}(?!\w)")
    return found


def with_terms(main: str, terms: dict[str, re.Pattern], glossary: str) -> str:
    """Link the first use of each term in the running text to its explanation."""
    pieces, left = re.split(r"(<(?:p|li)\b[^>]*>)(.*?)(?=</(?:p|li)>|<ul|<ol)", main, flags=re.S), dict(terms)
    for place in range(2, len(pieces), 3):
        for anchor in [anchor for anchor, term in left.items() if term.search(pieces[place])]:
            link = rf'<a class="term" href="{glossary}#{anchor}">\g<0></a>'
            parts = NOT_RUNNING.split(pieces[place])[::3]
            marks = [m[0] for m in NOT_RUNNING.finditer(pieces[place])]
            first = next((n for n, part in enumerate(parts) if left[anchor].search(part)), None)
            if first is not None:
                parts[first] = left.pop(anchor).sub(link, parts[first], count=1)
                pieces[place] = "".join(part + mark for part, mark in zip(parts, [*marks, ""], strict=True))
    return "".join(pieces)
