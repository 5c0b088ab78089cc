"""The Explorer's data: what the committed results give, gathered from any studies that are there."""

import csv
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from prompt_transferability.cells import Store
from prompt_transferability.explorer import gather, read_script, write_explorer
from prompt_transferability.results import Results

ROOT = Path(__file__).resolve().parent.parent

COMPUTED = ("similarity", "maps", "profile")  # by floating-point arithmetic, which differs a little between machines


def flat(value) -> list:
    """The leaves of nested lists and dictionaries, with their keys."""
    if isinstance(value, dict):
        return [leaf for key in value for leaf in [key, *flat(value[key])]]
    return [leaf for part in value for leaf in flat(part)] if isinstance(value, list) else [value]


def test_the_committed_file_is_what_the_results_give():
    held = read_script((ROOT / "nbs/explorer/data.js").read_text(encoding="utf-8"))
    now = json.loads(json.dumps(gather(ROOT / "results")))
    hint = "results/ has changed: run `make explorer` and commit nbs/explorer/data.js"
    assert held["colors"] == now["colors"] and len(held["collections"]) == len(now["collections"]), hint
    for old, new in zip(held["collections"], now["collections"], strict=True):
        assert old.keys() == new.keys(), hint
        for name in new:
            if name not in COMPUTED:
                assert old[name] == new[name], hint
        for name in set(COMPUTED) & new.keys():
            was, is_now = flat(old[name]), flat(new[name])
            words = [type(leaf) is str for leaf in is_now]
            assert words == [type(leaf) is str for leaf in was], hint
            for one, other, word in zip(was, is_now, words, strict=True):
                assert one == (other if word or other is None else pytest.approx(other, abs=0.005)), hint


def test_cells_are_those_of_the_result_files():
    "Ten cells of a study and ten that were published, read by other code; transposed they would differ."
    held = read_script((ROOT / "nbs/explorer/data.js").read_text(encoding="utf-8"))["collections"]
    held = {collection["id"]: collection for collection in held}
    found = {}
    for row in pq.read_table(ROOT / "results/micro/cells.parquet").to_pylist():
        asked = json.loads(row["cell"])["asked"]
        if row["kind"] == "transfer" and asked["split"] == "dev":
            targets = json.loads(row["result"])["targets"]
            found |= {(asked["source"], name, asked["seed"]): one for name, one in targets.items()}
    for place in range(10):
        collection = held["micro-micro-roberta"]
        source, target = collection["tasks"][place]["name"], collection["tasks"][place + 3]["name"]
        seeds = [found[source, target, seed] for seed in (0, 1, 2)]
        cell = {name: values[place][place + 3] for name, values in collection["transfer"].items() if name != "rows"}
        assert cell["by_seed"] == [pytest.approx(seed["accuracy"], abs=1e-5) for seed in seeds]
        assert cell["accuracy"] == pytest.approx(sum(seed["accuracy"] for seed in seeds) / 3, abs=1e-5)
        ends = [min(seed["low"] for seed in seeds), max(seed["high"] for seed in seeds)]
        assert cell["interval"] == pytest.approx(ends, abs=1e-5) and cell["n"] == seeds[0]["n"]
    with (ROOT / "results/release/transfer_roberta-base.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for place in range(10):
        collection = held["published-roberta-base"]
        row, target = rows[place], collection["tasks"][place + 3]["name"]
        assert collection["transfer"]["rows"][place] == row["source"]
        assert collection["transfer"]["accuracy"][place][place + 3] == pytest.approx(float(row[target]), abs=1e-5)


def test_the_paper_is_beside_the_rows_that_it_prints():
    held = read_script((ROOT / "nbs/explorer/data.js").read_text(encoding="utf-8"))["collections"][0]
    printed = {(cell["source"], cell["target"]): (cell["accuracy"], cell["where"]) for cell in held["paper"]}
    assert printed["imdb", "imdb"] == ("89.9", "Table 1") and printed["random", "imdb"] == ("50.6", "Table 4")
    assert printed["directly reused", "imdb"] == ("50.3", "Table 4")
    for row in held["transfer"]["rows"][13:]:
        assert (row, "imdb") in printed or row in held["elsewhere"] or row == "projected from t5-base"


def test_a_study_without_a_matrix_is_passed_over_and_a_partial_one_is_shown(tmp_path):
    shutil.copytree(ROOT / "results/release", tmp_path / "release")
    for name in ("begun", "partial"):
        (tmp_path / name).mkdir()
        shutil.copy(ROOT / "results/small/study.yaml", tmp_path / name)
    cells = [cell for cell, _ in Results(ROOT / "results/small").answered]
    gone = [cell for cell in cells if cell.kind == "transfer" and cell.asked["source"] == "mnli"]
    kept = [cell for cell in cells if cell not in gone]
    assert Store(tmp_path / "partial").take(kept, [Store(ROOT / "results/small")]) == len(kept)
    out = tmp_path / "data.js"
    write_explorer(tmp_path, out)
    *published, partial = read_script(out.read_text(encoding="utf-8"))["collections"]
    assert gone and all(collection["id"].startswith("published") for collection in published)
    assert partial["source"] == "results/partial/files.html" and "mnli" not in partial["transfer"]["rows"]
