"The script behind the page on a real causal model: what its file says of each run."

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("causal_tuning", ROOT / "benchmarks" / "causal_tuning.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.main


def test_each_run_keeps_its_own_settings(main, tmp_path, capsys):
    file = tmp_path / "found.json"

    def run(task, seed):
        main(["micro-llama", "--tasks", task, "--length", "4", "--steps", "21", "--seed", seed, "--out", str(file)])
        return json.loads(file.read_text())["runs"]

    first = run("micro/sst2", "0")["micro/sst2"]
    assert first["seed"] == 0 and first["training"]["steps"] == 21 and "--seed 0" in first["command"]
    assert run("micro/sst2", "0")["micro/sst2"] == first  # not run again
    with pytest.raises(SystemExit):
        run("micro/sst2", "1")
    assert "has a run of micro/sst2 with another seed; name another --out" in capsys.readouterr().err
    both = run("micro/snli", "1")
    assert both["micro/sst2"] == first and both["micro/snli"]["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_the_committed_runs_say_where_they_come_from():
    for file in (ROOT / "results" / "causal").glob("*.json"):
        for run in json.loads(file.read_text())["runs"].values():
            assert run["command"].startswith("python benchmarks/causal_tuning.py ")
            assert {"commit", "libraries", "processor"} <= run["provenance"].keys() and run["training"]["steps"] == 500
