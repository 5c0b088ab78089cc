"""The map of the house is true: the floors and imports on the page are the sources', and so are the names."""

import importlib
import json
import re
from graphlib import TopologicalSorter
from operator import attrgetter
from pathlib import Path

import pytest

import prompt_transferability

PAGE = Path(__file__).parents[1] / "nbs" / "house" / "architecture.ipynb"
ROOMS = {path.stem: path for path in Path(prompt_transferability.__file__).parent.glob("[!_]*.py")}


@pytest.fixture(scope="module")
def page() -> str:
    "The page's prose, and what its cells show."
    cells = json.loads(PAGE.read_text(encoding="utf-8"))["cells"]
    shown = [output["data"].get("text/markdown", "") for cell in cells for output in cell.get("outputs", [])]
    return "\n".join("".join(text) for text in [*(cell["source"] for cell in cells), *shown])


def test_no_room_imports_one_above_it(page):
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.*) \|$", page, re.M)
    mapped = {room: (int(floor), set(re.findall(r"\w+", imports))) for floor, room, imports in rows}
    imports = {
        room: set(
            re.findall(r"^\s*from (?:prompt_transferability)?\.(\w+) import", path.read_text(encoding="utf-8"), re.M)
        )
        for room, path in ROOMS.items()
    }
    floors = {}
    for room in TopologicalSorter(imports).static_order():
        floors[room] = 1 + max((floors[below] for below in imports[room]), default=-1)
    assert mapped == {room: (floors[room], imports[room]) for room in ROOMS}, f"run {PAGE.name} anew, and store it"


def test_the_page_names_what_is_public(page):
    rows = dict(re.findall(r"^\| \[(\w+)\]\(\.\./library/\1\.ipynb\) \| .*<br>(.*) \|$", page, re.M))
    assert rows.keys() == ROOMS.keys()
    for room, names in rows.items():
        module = importlib.import_module(f"prompt_transferability.{room}")
        named = set(re.findall(r"`([\w.]+)`", names))
        assert {name for name in module.__all__ if callable(getattr(module, name))} <= named
        for name in named:
            attrgetter(name)(module)
