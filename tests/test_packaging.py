"""The metadata agrees wherever it stands, the distributions hold what they should, and no module has drifted."""

import ast
import configparser
import filecmp
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
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
    assert scripts == {"prompt-transfer": f"{PACKAGE}.cli:main"}


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
        for place in (str(ROOT), str(Path.home()), "site-packages/"):
            assert place not in text, f"{notebook.name} holds {place}"
