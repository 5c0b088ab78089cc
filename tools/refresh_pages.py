"""Run pages of results and write the numbers that they compute into their text.

`python tools/refresh_pages.py` runs all pages that mark numbers, or only the pages named as arguments.
"""

import argparse
import os
from pathlib import Path

from execnb.shell import CaptureShell
from fastcore.nbio import read_nb, write_nb

from prompt_transferability.articles import refreshed

ROOT = Path(__file__).parents[1]


def is_left_out(cell) -> bool:
    "Whether a cell reads the published files, or compares the page with computed numbers that it does not have yet."
    return "check_page(" in cell.source or cell.source.startswith("#| data")


def refresh(page: Path) -> bool:
    "Run a page, and write its outputs and numbers into it; returns whether a number changed."
    notebook, shell = read_nb(page), CaptureShell(path=page.parent)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    shell.run_all(notebook, exc_stop=True, preproc=is_left_out)
    changed = False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = refreshed(cell.source, shell.user_ns.get("numbers", {}))
            changed, cell.source = changed or text != cell.source, text
    write_nb(notebook, page)
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path, help="notebooks (default: all that mark numbers)")
    pages = parser.parse_args().pages or sorted(
        page
        for page in (ROOT / "nbs").rglob("*.ipynb")
        if "check_page(" in page.read_text(encoding="utf-8") and page.parent.name != "library"
    )
    for page in pages:
        print(page, "changed" if refresh(page.resolve()) else "unchanged")


if __name__ == "__main__":
    main()
