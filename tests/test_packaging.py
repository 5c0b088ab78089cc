"""The metadata, the distributions, the modules, their map, the workflows and README agree with each other."""

import ast
import configparser
import filecmp
import importlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from graphlib import TopologicalSorter
from operator import attrgetter
from pathlib import Path
from tempfile import gettempdir

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import prompt_transferability

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "prompt_transferability"
PACKAGES = (PACKAGE, "prompt_hub")  # the second holds the import paths of the authors' README
SCRIPTS = Path(sysconfig.get_path("scripts"))


@pytest.fixture(scope="module")
def settings() -> configparser.SectionProxy:
    config = configparser.ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The working tree as it is, uncommitted changes included, without what was built in it."""
    target = tmp_path_factory.mktemp("copy") / "project"
    built = shutil.ignore_patterns(
        ".*", "_docs", "_proc", "build", "dist", "runs", "models", "*.egg-info", "__pycache__"
    )
    shutil.copytree(ROOT, target, ignore=built)
    return target


@pytest.fixture(scope="module")
def distributions(copy) -> dict[str, Path]:
    """The sdist of the copy, and the wheel that is built from that sdist."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {"sdist": next((copy / "dist").glob("*.tar.gz")), "wheel": next((copy / "dist").glob("*.whl"))}


def requirements(settings, key: str) -> list[Requirement]:
    return [Requirement(line) for line in settings[key].splitlines() if line]


def package_files() -> set[str]:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    return {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}


# ---------------------------------------------------------------- metadata


def test_names_and_versions_agree(settings, project):
    assert project["project"]["name"] == settings["lib_name"] == project["tool"]["nbdev"]["lib_path"] == PACKAGE
    assert prompt_transferability.__version__ == settings["version"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {settings['version']}\n" in citation


def test_python_version_agrees(settings, project):
    assert project["tool"]["ruff"]["target-version"] == "py" + settings["min_python"].replace(".", "")
    refused = re.search(r"sys\.version_info < \((\d+), (\d+)\)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert ".".join(refused.groups()) == settings["min_python"]


def test_every_requirement_is_pinned_inside_its_range(settings):
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version
    for key in [key for key in settings if key.endswith("requirements")]:
        for requirement in requirements(settings, key):
            name = canonicalize_name(requirement.name)
            assert name in pins, f"{name} of {key} is not in constraints.txt"
            assert requirement.specifier.contains(pins[name]), f"{requirement} excludes its pin {pins[name]}"


def imported_distributions() -> set[str]:
    """What the package's modules import, at the top or inside a function, beside the standard library."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / PACKAGE).glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    others = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {PACKAGE}
    provided = importlib.metadata.packages_distributions()
    return {canonicalize_name(provided[name][0]) for name in others}


def test_requirements_are_what_the_modules_import(settings):
    required = {canonicalize_name(r.name) for r in requirements(settings, "requirements")}
    extras = ("peft_requirements", "gguf_requirements", "ray_requirements")
    optional = {canonicalize_name(r.name) for key in extras for r in requirements(settings, key)}
    assert imported_distributions() - optional == required


# ---------------------------------------------------------------- sdist and wheel


def test_sdist_holds_what_building_needs(distributions):
    with tarfile.open(distributions["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = ["settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE", "constraints.txt", "CITATION.cff"]
    assert {*files, *package_files()} <= names


def test_wheel_holds_the_packages_alone(distributions):
    names = zipfile.ZipFile(distributions["wheel"]).namelist()
    package = {name for name in names if ".dist-info/" not in name}
    assert package == package_files()
    assert any(name.endswith("/LICENSE") for name in names)


def test_wheel_requires_only_the_run_time_requirements(distributions, settings):
    found = next(importlib.metadata.distributions(path=[str(distributions["wheel"])]))
    always = {str(r) for r in map(Requirement, found.requires) if r.marker is None}
    assert always == {str(r) for r in requirements(settings, "requirements")}
    extras = {key.removesuffix("_requirements") for key in settings if key.endswith("_requirements")}
    assert set(found.metadata.get_all("Provides-Extra")) == extras
    assert found.version == settings["version"]
    assert found.metadata["Requires-Python"] == f">={settings['min_python']}"
    scripts = {e.name: e.value for e in found.entry_points if e.group == "console_scripts"}
    assert scripts == {"prompt-transfer": f"{PACKAGE}.__main__:main"}


def closure(names: list[Requirement]) -> set[str]:
    """The installed distributions that some requirements bring along, themselves included."""
    seen, todo = set(), [(canonicalize_name(r.name), extra) for r in names for extra in ["", *r.extras]]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for line in importlib.metadata.distribution(name).requires or []:
            r = Requirement(line)
            if r.marker is None or r.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(r.name), wanted) for wanted in ["", *r.extras]]
    return {name for name, _ in seen}


IMPORT_ALL = f"""
import importlib, pkgutil, sys
sys.path.append(sys.argv[1])
import {PACKAGE}
assert {PACKAGE}.__file__.startswith(sys.argv[1]), {PACKAGE}.__file__
for module in pkgutil.iter_modules({PACKAGE}.__path__):
    importlib.import_module("{PACKAGE}." + module.name)
from prompt_hub.hub import PromptHub
from prompt_hub.training_args import PromptTrainingArguments
from transformers import HfArgumentParser
HfArgumentParser(PromptTrainingArguments).parse_args_into_dataclasses(["--seed", "1"])
print(importlib.util.find_spec("nbdev"), importlib.util.find_spec("IPython"), importlib.util.find_spec("pytest"))
"""


def test_wheel_imports_with_only_the_run_time_requirements(distributions, settings, tmp_path):
    # An environment of links to the installed run-time requirements: what a fresh installation has, without the wait.
    for name in closure(requirements(settings, "requirements")):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files if file.parts[0] not in ("..", "__pycache__")}:
            link = tmp_path / top
            if not link.exists():
                link.symlink_to(distribution.locate_file(top))
    zipfile.ZipFile(distributions["wheel"]).extractall(tmp_path)
    command = [sys.executable, "-I", "-S", "-c", IMPORT_ALL, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["None"] * 3


# ---------------------------------------------------------------- notebooks and what is made from them


def run_nbdev(command: str, folder: Path) -> None:
    done = subprocess.run([SCRIPTS / command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_modules_are_what_the_notebooks_export(copy):
    for module in (copy / PACKAGE).glob("*.py"):
        if module.name != "__init__.py":
            module.unlink()
    run_nbdev("nbdev-export", copy)
    present, exported = ({path.name for path in (root / PACKAGE).glob("*.py")} for root in (ROOT, copy))
    _, differing, missing = filecmp.cmpfiles(ROOT / PACKAGE, copy / PACKAGE, present | exported, shallow=False)
    drifted = sorted(differing + missing)
    assert not drifted, f"{drifted}: run nbdev-export; edit the notebooks, never the modules"


def test_notebooks_are_clean(copy):
    run_nbdev("nbdev-clean", copy)
    notebooks = [path.relative_to(copy) for path in (copy / "nbs").rglob("*.ipynb")]
    unclean = [str(path) for path in notebooks if not filecmp.cmp(ROOT / path, copy / path, shallow=False)]
    assert notebooks and not unclean, f"{unclean}: run nbdev-clean"


# ---------------------------------------------------------------- make


def test_make_refuses_an_old_python(copy, tmp_path):
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(["make", "study", f"PYTHON={old}"], cwd=copy, capture_output=True, text=True, env=environment)
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert not (copy / ".venv").exists()


@pytest.mark.parametrize("target", ["study", "test", "site", "serve", "lab", "models", "bench", "dist", "clean"])
def test_make_help_names_every_target(target):
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)
    assert f"make {target} " in done.stdout


def test_no_notebook_holds_a_path_of_the_machine_that_ran_it():
    "A warning of Python begins with one."
    for notebook in (ROOT / "nbs").rglob("*.ipynb"):
        text = notebook.read_text(encoding="utf-8")
        for place in (str(ROOT), str(Path.home()), f"{gettempdir()}/", "site-packages/"):
            assert place not in text, f"{notebook.name} holds {place}"


WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))


def steps(workflow: Path) -> list[dict]:
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_calls_what_is_there(workflow):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    called = [target for step in steps(workflow) for target in re.findall(r"make (\w+)", step.get("run", ""))]
    assert called and set(called) <= set(targets)
    versions = [step["with"]["python-version"] for step in steps(workflow) if "python-version" in step.get("with", {})]
    oldest = re.search(r"^min_python = (.+)$", (ROOT / "settings.ini").read_text(encoding="utf-8"), re.M)[1]
    assert versions == [oldest]


def test_only_what_was_tested_is_deployed():
    deploy, test = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in WORKFLOWS)
    assert deploy[True] == {  # YAML 1.1 reads `on` so
        "workflow_run": {"workflows": [test["name"]], "types": ["completed"], "branches": ["main"]},
        "workflow_dispatch": None,
    }
    condition = deploy["jobs"]["deploy"]["if"]
    assert "workflow_run.conclusion == 'success'" in condition and "workflow_run.event == 'push'" in condition
    checkout, *_ = deploy["jobs"]["deploy"]["steps"]
    assert "workflow_run.head_sha" in checkout["with"]["ref"]
    assert deploy["permissions"] == {"contents": "read", "pages": "write", "id-token": "write"}
    assert test["permissions"] == {"contents": "read"} and {"push", "pull_request"} < test[True].keys()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_torch_comes_without_cuda(workflow):
    assert yaml.safe_load(workflow.read_text(encoding="utf-8"))["env"]["PIP_EXTRA_INDEX_URL"].endswith("/whl/cpu")


def test_the_site_is_tested_and_deployed():
    assert [path.stem for path in WORKFLOWS] == ["deploy", "test"]
    (uploaded,) = (step["with"]["path"] for step in steps(WORKFLOWS[0]) if "upload" in step.get("uses", ""))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^site:.*into (\S+)/$", makefile, re.M)[1] == uploaded


VERDICTS = ("holds", "partly", "does not hold", "cannot be decided")


def words(page: str) -> str:
    "The text of a page's Markdown cells, without the marks of its numbers."
    cells = json.loads((ROOT / "nbs" / page).read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"<!--=[\w.]+-->|<!--/-->", "", text)


def claims(text: str) -> list[list[str]]:
    "The rows of the first table of claims: the claim, which leads to its page; verdict; evidence."
    rows = text[text.index("| the paper claims | verdict | evidence |") :].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_opens_with_the_claims_of_home():
    home = [[cell.replace("](", "](nbs/") for cell in row] for row in claims(words("index.ipynb"))]
    assert claims(readme()) == home, "copy the first table of nbs/index.ipynb into README.md"


def claim_of(cell: str) -> str:
    "The words of a claim, without the link that they are."
    (claim,) = re.findall(r"^\[(.+)\]\(\S+\)$", cell)
    return claim


def test_a_claim_has_one_verdict_on_all_pages():
    found = {claim_of(claim): verdict for claim, verdict, _ in claims(words("paper/findings.ipynb"))}
    assert all(any(f"**{verdict}**" in said for verdict in VERDICTS) for said in found.values())
    for claim, verdict, _ in claims(words("index.ipynb")):
        assert found[claim_of(claim)] == verdict


def test_home_and_readme_count_the_verdicts_of_their_tables():
    said = "Two hold (the first for sentiment only), one holds in part, and three cannot be decided."
    for text in (words("index.ipynb"), readme()):
        verdicts = [re.search(r"\*\*(.+?)\*\*", verdict)[1] for _, verdict, _ in claims(text)]
        assert said in " ".join(text.split())
        assert [verdicts.count(verdict) for verdict in ("holds", "partly", "cannot be decided")] == [2, 1, 3]


def test_the_pages_of_claims_are_there():
    for claim, *_ in claims(readme()):
        (link,) = re.findall(r"\]\((.+?)\)", claim)
        assert (ROOT / link).is_file(), link


def test_twenty_lines_are_twenty_and_name_what_there_is():
    (code,) = re.findall(r"```python\n(.*?)```", readme(), re.S)
    assert len([line for line in code.splitlines() if line]) <= 20
    imports = [node for node in ast.parse(code).body if isinstance(node, ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "README.md", "exec"), {})


# ---------------------------------------------------------------- the map of the house


MAP = Path(__file__).parents[1] / "nbs" / "house" / "architecture.ipynb"
ROOMS = {path.stem: path for path in Path(prompt_transferability.__file__).parent.glob("[!_]*.py")}


@pytest.fixture(scope="module")
def map_page() -> str:
    "The page's prose, and what its cells show."
    cells = json.loads(MAP.read_text(encoding="utf-8"))["cells"]
    shown = [output["data"].get("text/markdown", "") for cell in cells for output in cell.get("outputs", [])]
    return "\n".join("".join(text) for text in [*(cell["source"] for cell in cells), *shown])


def test_no_room_imports_one_above_it(map_page):
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.*) \|$", map_page, re.M)
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
    assert mapped == {room: (floors[room], imports[room]) for room in ROOMS}, f"run {MAP.name} anew, and store it"


def test_the_page_names_what_is_public(map_page):
    rows = dict(re.findall(r"^\| \[(\w+)\]\(\.\./library/\1\.ipynb\) \| .*<br>(.*) \|$", map_page, re.M))
    assert rows.keys() == ROOMS.keys()
    for room, names in rows.items():
        module = importlib.import_module(f"prompt_transferability.{room}")
        named = set(re.findall(r"`([\w.]+)`", names))
        assert {name for name in module.__all__ if callable(getattr(module, name))} <= named
        for name in named:
            attrgetter(name)(module)
