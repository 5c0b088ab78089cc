"""Check a built website: every internal link and anchor leads somewhere, and no page asks another host for anything."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes that a browser follows by itself; `href` counts for <link> and not for <a>
REQUESTS = {("link", "href"), ("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src")}
REMOTE = re.compile(r"^(https?:)?//")
REMOTE_IN_CSS = re.compile(r"""(?:url\(|@import)\s*["']?\s*((?:https?:)?//[^"')\s;]+)""")
REMOTE_IN_SCRIPT = re.compile(r"""\bimport\b[^;\n]*?["'](https?://[^"']+)""")


class Page(HTMLParser):
    """What a page defines and what it points to."""

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
) -> list[str]:  # one line for each fault; empty when there is none
    """Every broken link, every link to an anchor that is not there, and every request to another host."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    problems = []
    for path, page in pages.items():
        name = path.relative_to(folder)
        problems += [f"{name}: asks another host for {url}" for url in sorted(page.requests)]
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
        problems += [f"{path.relative_to(folder)}: asks another host for {url}" for url in remote]
    return problems
