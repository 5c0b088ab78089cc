"A few hundred of the fuzzing script's cases; the script itself runs 100,000 (`tools/fuzz.py`)."

import importlib.util
import json
import random
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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
