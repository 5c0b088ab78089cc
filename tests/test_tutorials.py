"""The tutorials stand in one line: each says how to run it, and leads to the next one of the sidebar."""

import re
import resource
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from fastcore.nbio import read_nb
from nbdev.test import test_nb as run_notebook  # under its own name pytest takes it for a test

ROOT = Path(__file__).parent.parent
SIDEBAR = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))["website"]["sidebar"]["contents"]
LINE = next(section["contents"] for section in SIDEBAR if section.get("section") == "Learn")


def prose(page):
    return "\n\n".join(cell.source for cell in read_nb(ROOT / page).cells if cell.cell_type == "markdown")


def test_every_tutorial_is_in_the_sidebar():
    assert sorted(LINE) == sorted(f"nbs/tutorials/{path.name}" for path in (ROOT / "nbs/tutorials").glob("*.ipynb"))


@pytest.mark.parametrize("page", LINE)
def test_a_tutorial_says_how_to_run_it(page):
    note = re.search(r"^::: \{\.callout-note\}\n## To run this page\n(.*?)^:::$", prose(page), re.S | re.M)
    assert "`make lab`" in note[1] and f"`{page}`" in note[1]


@pytest.mark.parametrize(("page", "following"), list(pairwise(LINE)))
def test_a_tutorial_leads_to_the_next(page, following):
    to_do = re.search(r"^- \*\*Next:\*\*.*?(?=^- |\Z)", prose(page), re.S | re.M)[0]
    assert re.findall(r"\]\(([^)]*)\)", to_do) == [Path(following).name]


@pytest.mark.parametrize("page", LINE)
def test_what_a_tutorial_links_to_is_there(page):
    for link in re.findall(r"\]\(([^):#]+)[^)]*\)", prose(page)):
        assert (ROOT / page).parent.joinpath(link).is_file(), link


@pytest.mark.parametrize("page", LINE)
def test_a_tutorial_takes_less_than_two_minutes_of_cpu(page, fork, tmp_path):
    """Of the processor's time, which what else runs changes little, and not of the clock's; with no real model.

    `make test` runs the tutorials here, and leaves them out where it runs the other notebooks.
    """
    spent = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])  # noqa: E731
    before = spent()
    done = fork(lambda: not run_notebook(page)[0], ROOT, GGUF=str(tmp_path))
    assert done.wait() == 0, done.stderr
    assert 1 < spent() - before < 120  # below 1 nothing can have been trained
