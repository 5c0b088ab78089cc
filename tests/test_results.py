"Results: numbers computed by hand from cells written here, incomplete studies, and the report."

import csv
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from prompt_transferability.cells import Store
from prompt_transferability.explorer import gather, read_script, write_explorer
from prompt_transferability.prompts import SoftPrompt
from prompt_transferability.provenance import LIBRARIES
from prompt_transferability.results import FIGURES, Results, write_report
from prompt_transferability.study import CrossModel, Study, StudyError
from prompt_transferability.tasks import UnknownNameError
from prompt_transferability.tpt_task import compare_runs

STUDY = Study(
    name="made up",
    backbones=("micro-bert",),
    tasks=("sst2", "imdb", "mnli"),
    seeds=(0, 1),
    random_seeds=(0, 1),
    steps=20,
    eval_every=10,
)
HUNDRED = 100  # rows of every split
TESTED = ("sst2", "imdb")  # MNLI has no labeled test split
MAJORITY = {"sst2": 0.5, "imdb": 0.75, "mnli": 0.25}


def correct(source, seed, target, split):
    "Correct answers out of a hundred: numbers that differ between cells and are easy to add."
    base = {"sst2": 80, "imdb": 60, "mnli": 40, "random": 30}[source]
    return base + 4 * seed - 5 * (source != target) + {"sst2": 0, "imdb": 1, "mnli": 2}[target] + (split == "test")


def evaluation(hits):
    share = hits / HUNDRED
    return dict(accuracy=share, low=share - 0.1, high=share + 0.1, n=HUNDRED, f1=None, predictions="0" * HUNDRED)


def carried_over(study, fitted_seed):
    "The accuracies of prompts, and of untrained vectors, on another model."
    return [
        {"source": source, "seed": seed, "target": target, "split": split} | evaluation(hits)
        for target in study.tasks
        for split in ("dev", "test")
        for source, seeds in ((target, study.seeds), ("random", study.random_seeds))
        for seed in seeds
        for hits in [10 + seed * (1 + 3 * fitted_seed) + 40 * (source == target) + (split == "test")]
    ]


def write(study, out, tested=TESTED, done=lambda cell: True):
    "Cells of a study, as if they had been computed."
    out.mkdir(parents=True, exist_ok=True)
    (out / "study.yaml").write_text(study.to_yaml())
    for cell in filter(done, study.cells()):
        asked = cell.asked
        if cell.kind in ("data", "tune", "fine_tune"):
            splits = [split for split in ("train", "dev", "test") if split != "test" or asked["task"] in tested]
        if cell.kind == "data":
            result = {
                "rows": {split: 1000 if split == "train" else HUNDRED for split in splits},
                "overlaps": {"dev in train": 2} | ({"test in train": 3, "test in dev": 0} if "test" in splits else {}),
            }
        elif cell.kind in ("tune", "fine_tune"):
            result = {
                "accuracy": 0.5,
                "seconds": 4.0,
                "step": 10,
                "curve": {"step": [0, 10, 20], "loss": [None, 0.7, 0.6], "accuracy": [0.4, 0.5, 0.5]},
                "rows": {split: 1000 if split == "train" else HUNDRED for split in splits},
                "majority": {split: MAJORITY[asked["task"]] for split in splits},
            }
            if cell.kind == "fine_tune":
                result["curve"]["seconds"] = [0.0, 1.0, 4.0]  # missing in curves of earlier versions
        elif cell.kind == "tpt":
            result = {
                "accuracy": 0.55,
                "step": 10,
                "curve": {"step": [0, 10], "loss": [None, 0.6], "accuracy": [0.45 + 0.05 * asked["seed"], 0.55]},
                "init": {"sources": [{"name": name} for name in list(asked["sources"])[: asked.get("k", 1)]]},
                "test": {"accuracy": 0.52} if asked["task"] in tested else None,
            }
        elif cell.kind == "projected":
            impossible = "two vocabularies" if asked["method"] == "token mapping" else None
            result = {"impossible": impossible, "rows": [] if impossible else carried_over(study, asked["seed"])}
        elif cell.kind == "tpt_model":
            result = {
                "accuracy": 0.55,
                "curve": {"step": [0, 10], "loss": [None, 0.6], "accuracy": [0.45, 0.55]},
                "test": {"accuracy": 0.52} if asked["task"] in tested else None,
            }
        else:
            source, seed, split = asked["source"], asked["seed"], asked["split"]
            result = {
                "targets": {
                    target: evaluation(correct(source, seed, target, split))
                    if split == "dev" or target in tested
                    else None
                    for target in asked["targets"]
                }
            }
        provenance = {
            "package": "0.1.0",
            "commit": None,
            "command": "prompt-transfer <study>",
            "started": "2025-01-01T00:00:00Z",
            "python": "3.11",
            "libraries": {name: "1.0" for name in LIBRARIES},
            "processor": "a processor",
            "cores": 2,
            "threads": 1,
            "accelerator": None,
            "seed": asked.get("seed"),
            "seconds": 36.0,
        }
        folder = Store(out).place(cell)
        folder.mkdir(parents=True)
        for name, content in (("cell", dict(asked)), ("result", result), ("provenance", provenance)):
            (folder / f"{name}.json").write_text(json.dumps(content))
    return Results(out)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write(STUDY, tmp_path_factory.mktemp("made-up"))


class Page(HTMLParser):
    "The tags, links and text of a page."

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        addresses = [value for name, value in attrs if name in ("href", "src", "xlink:href")]
        self.addresses += [address for address in addresses if not address.startswith(("#", "data:"))]

    def handle_data(self, data):
        self.text += data + " "


def test_the_matrix_contains_means_over_seeds(results):
    matrix = results.transfer()
    assert list(matrix.index) == ["sst2", "imdb", "mnli", "random"] and list(matrix.columns) == ["sst2", "imdb", "mnli"]
    for source in matrix.index:
        for target in matrix.columns:
            expected = np.mean([correct(source, seed, target, "dev") for seed in (0, 1)]) / HUNDRED
            assert matrix.loc[source, target] == pytest.approx(expected)


def similar(study):
    "Prompts of one seed have similarity 9; others have the numbers of their tasks, plus a tenth for the same task."
    runs = [(task, seed) for seed in study.seeds for task in range(3)]
    cells = [[9 if a[1] == b[1] else a[0] + b[0] + 0.1 * (a[0] == b[0]) for b in runs] for a in runs]
    names = [f"{study.tasks[task]} {seed}" for task, seed in runs]
    return pd.DataFrame(cells, names, names)


def test_prompts_of_two_tasks_are_compared_between_different_seeds(results, tmp_path):
    found = results.task_similarity(similar(STUDY))
    assert list(found) == list(found.index) == list(STUDY.tasks)
    np.testing.assert_allclose(found, [[0.1, 1, 2], [1, 2.1, 3], [2, 3, 4.1]])
    one_seed = replace(STUDY, seeds=(1,))
    alone = write(one_seed, tmp_path / "one").task_similarity(similar(one_seed))
    np.testing.assert_allclose(alone, np.where(np.eye(3), np.nan, 9))
    with pytest.raises(ValueError, match="'qqp 0'"):
        results.task_similarity(similar(STUDY).rename(index={"sst2 0": "qqp 0"}, columns={"sst2 0": "qqp 0"}))


def test_the_summary_matches_a_computation_by_hand(results):
    table = results.summary()
    assert list(table.index) == ["sst2", "imdb", "mnli"]
    row = table.loc["sst2"]  # 80 and 84 of 100 on dev, one more on test; random prompts 25 and 29
    assert row["accuracy"] == pytest.approx(0.82) and row["random"] == pytest.approx(0.27)
    assert row["gain"] == pytest.approx(0.82 - 0.5)  # the majority class is the better of the two
    assert table.loc["mnli", "gain"] == pytest.approx(0.44 - 0.29)  # here it is the random prompts
    assert (row["n"], row["train"], row["test_n"]) == (100, 1000, 100)
    assert row["test_accuracy"] == pytest.approx(0.83) and row["test_majority"] == 0.5
    assert row["test_random"] == pytest.approx(0.28) and row["test_gain"] == pytest.approx(0.83 - 0.5)
    # from the lower end of the seed with 80 to the upper end of the seed with 84
    assert (row["low"], row["high"]) == (pytest.approx(0.70), pytest.approx(0.94))
    assert table.loc["mnli", ["test_accuracy", "test_low", "test_n", "test_majority"]].isna().all()


def test_evaluations_and_curves_name_their_cells(results):
    evaluations = results.evaluations()
    assert len(evaluations) == 2 * 3 * 3 + 2 * 2 + 2 * 3 + 2 * 2
    one = evaluations.query("source == 'imdb' and seed == 1 and target == 'sst2' and split == 'dev'")
    assert one["accuracy"].tolist() == [0.59]
    curves = results.curves()
    assert list(curves.columns) == ["task", "seed", "step", "loss", "accuracy"] and len(curves) == 3 * 2 * 3
    assert curves["loss"].isna().sum() == 6 and curves.groupby(["task", "seed"])["step"].max().eq(20).all()


def test_runs_from_other_tasks_are_distinguished_by_their_starts(tmp_path):
    starts = replace(STUDY, tpt=("best", "same type", "every"), tpt_mixes=("mean",), tpt_steps=10)
    results = write(starts, tmp_path)
    counts = {choice: len(results.tpt_runs(choice)) for choice in (*starts.tpt, *starts.tpt_mixes)}
    assert counts == {"best": 2 * 3, "same type": 2 * 2, "every": 2 * 3 * 2, "mean": 2 * 3}  # NLI has one task here
    assert set(results.tpt_runs("mean").source) == {"imdb, mnli", "sst2, mnli", "sst2, imdb"}
    same = results.tpt_runs("same type").set_index(["task", "seed"])
    assert same.loc[("sst2", 1)].to_dict() == pytest.approx(
        {"source": "imdb", "before": 0.5, "accuracy": 0.55, "step": 10, "test_accuracy": 0.52}
    )
    assert results.tpt_runs("every").query("task == 'mnli'")["test_accuracy"].isna().all()
    assert len(results.tpt_curves("every")) == 2 * 3 * 2 * 2 and len(results.curves()) == 3 * 2 * 3
    with pytest.raises(ValueError, match="unknown start of this study 'weighted'"):
        results.tpt_runs("weighted")


@pytest.mark.parametrize("steps", [10, 20, None])
def test_the_report_names_cut_runs_without_convergence_times(tmp_path, steps):
    results = write(replace(STUDY, tpt=("best", "same type", "every"), tpt_mixes=("mean",), tpt_steps=steps), tmp_path)
    page, cut = Page(write_report(results).read_text()).text, steps == 10
    compared = pd.read_csv(tmp_path / "report" / "tpt_same_type.csv", index_col="task")
    # PT reaches its 50 % after 10 steps; TPT of seed 1 reaches it at once, and the mean of both after 10 steps.
    assert compared.loc["sst2", ["comparable_time", "reached", "sooner"]].tolist() == [1, 2, 1]
    assert ("same type, cut at 10 of 20 steps" in page) == ("cut" in page) == cut and "same type" in page
    assert any("convergence" in name for name in compared) != cut
    assert ("convergence time" in page) != cut and "comparable time" in page


def test_the_report_leaves_out_starts_that_no_task_has(tmp_path):
    "Neither of the two tasks has another task of its type."
    results = write(replace(STUDY, tasks=("sst2", "mnli"), tpt=("same type", "other types")), tmp_path)
    write_report(results)
    assert {path.name for path in (tmp_path / "report").glob("tpt_*")} == {"tpt_other_types.csv"}


def test_missing_runs(tmp_path):
    starts = replace(STUDY, tpt=("same type", "every"), tpt_mixes=("mean",))
    results = write(
        starts, tmp_path, done=lambda cell: cell.kind != "tpt" or ("mix" not in cell.asked and cell.asked["seed"] == 0)
    )
    assert (results.finished_seeds("every"), results.finished_seeds("mean")) == ([0], [])
    assert (len(results.tpt_asked("every")), len(results.tpt_cells("every"))) == (12, 6)
    for ask in (results.tpt_curves, results.tpt_runs, results.tpt_cells):
        with pytest.raises(StudyError, match="has no run of 'mean' yet; run it first"):
            ask("mean")
    assert results.accuracy_from_each(1).isna().all(axis=None)
    with pytest.raises(ValueError, match="unknown seed of this study '7'"):
        results.accuracy_from_each(7)


def test_the_best_accuracy_of_a_run_from_each_source_within_some_steps(tmp_path):
    results = write(replace(STUDY, tpt=("every",)), tmp_path)
    for steps, accuracy in ((0, 0.5), (9, 0.5), (10, 0.55), (None, 0.55)):
        found = results.accuracy_from_each(1, steps)
        assert list(found.index) == list(found.columns) == ["sst2", "imdb", "mnli"]
        assert found.isna().to_numpy().diagonal().all()
        assert found.stack().dropna().tolist() == [accuracy] * 6


def test_provenance_has_a_row_for_every_cell(results):
    table = results.provenance()
    assert len(table) == len(STUDY.cells()) == table["cell"].nunique()
    assert set(table["kind"]) == {"data", "tune", "transfer"} and table["seconds"].eq(36).all()


def test_the_rows_of_a_task_and_rows_shared_by_two_splits(results):
    rows = results.rows()
    assert list(rows.index) == ["sst2", "imdb", "mnli"]
    assert list(rows.columns) == ["train", "dev", "test", "dev in train", "test in train", "test in dev"]
    assert rows.loc["sst2"].tolist() == [1000, HUNDRED, HUNDRED, 2, 3, 0]
    assert rows.loc["mnli", ["test", "test in dev"]].isna().all()
    page = Page(write_report(results).read_text()).text
    assert re.search(r"dev in train\s+test in train\s+test in dev\s+SST-2\s+1000\s+100\s+100\s+2\s+3\s+0\s", page)


def test_an_unfinished_cell_is_not_an_answer(tmp_path):
    "The folder of an unfinished cell is next to those of complete ones."
    results = write(STUDY, tmp_path, done=lambda cell: cell.kind == "tune")
    cell = STUDY.cells()[-1]
    Store(tmp_path).place(cell).with_name(f".{cell.key}.1234").mkdir(parents=True)
    assert len(results.answered) == 6
    assert len(results.curves()) == 18
    with pytest.raises(StudyError, match="has no 'transfer' cell of 'micro-bert' yet; run it first"):
        results.transfer()
    with pytest.raises(StudyError, match="run it first"):
        write_report(results)
    assert not (tmp_path / "report").exists()


def test_fine_tuned_models_are_listed_with_prompts(results, tmp_path):
    found = write(replace(STUDY, fine_tuning_rates=(1e-4, 1e-5)), tmp_path).trainings()
    assert list(found.columns) == ["method", "task", "seed", "learning_rate", "step", "loss", "accuracy"]
    steps = found.groupby(["method", "task", "seed", "learning_rate"])["step"].apply(list)
    assert steps.loc["prompt"].tolist() == [[0, 10, 20]] * 6
    assert steps.loc["whole model"].tolist() == [[0, 10, 20]] * 12
    assert (tmp_path / "study.yaml").is_file() and write_report(Results(tmp_path)).with_name("trainings.csv").is_file()
    with pytest.raises(StudyError, match="has no 'fine_tune' cell of 'micro-bert' yet; run it first"):
        results.trainings()


def test_a_study_with_missing_tasks(tmp_path):
    some = write(STUDY, tmp_path, done=lambda cell: "mnli" not in (cell.asked.get("task"), cell.asked.get("source")))
    assert list(some.transfer().index) == ["sst2", "imdb", "random"]
    assert list(some.summary().index) == ["sst2", "imdb"]
    page = write_report(some).read_text()
    assert f"{len(some.answered)} of {len(STUDY.cells())}" in page


def test_a_study_without_a_test_split(tmp_path):
    "A study of tasks like MNLI only."
    results = write(STUDY, tmp_path, tested=())
    table = results.summary()
    assert table["accuracy"].notna().all() and table["test_accuracy"].isna().all()
    assert write_report(results).is_file()


def test_a_study_that_stopped_before_the_test_splits(tmp_path):
    results = write(STUDY, tmp_path, done=lambda cell: cell.kind == "tune" or cell.asked.get("split") == "dev")
    assert results.summary()["test_accuracy"].isna().all()


def test_a_study_without_random_prompts(tmp_path):
    study = Study(**{name: getattr(STUDY, name) for name in ("name", "backbones", "tasks")}, random_seeds=())
    results = write(study, tmp_path)
    table = results.summary()
    assert list(results.transfer().index) == ["sst2", "imdb", "mnli"] and table["random"].isna().all()
    assert table.loc["sst2", "gain"] == pytest.approx(0.80 - 0.5)
    assert write_report(results).is_file()


def test_the_tables_of_the_report_contain_the_numbers(results):
    folder = write_report(results).parent
    assert {path.name for path in folder.iterdir()} == {
        "index.html",
        *(f"{name}.csv" for name in ("transfer", "type_means", "summary", "curves", "rows")),
        *(f"{name}.svg" for name in FIGURES),
    }
    for name, table in (("transfer", results.transfer()), ("summary", results.summary())):
        read = pd.read_csv(folder / f"{name}.csv", index_col=0)
        assert list(read.index) == list(table.index) and list(read.columns) == list(table.columns)
        assert np.allclose(read.to_numpy(float), table.astype(float).to_numpy(), equal_nan=True)
    assert len(pd.read_csv(folder / "curves.csv")) == len(results.curves())


def test_a_report_is_the_same_when_it_is_written_again(results):
    "A committed report changes only if its numbers change."
    folder = write_report(results).parent
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_report(Results(results.out))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_report_is_self_contained(results):
    text = write_report(results).read_text()
    page = Page(text)
    assert "script" not in page.tags and page.tags.count("svg") == len(FIGURES)
    assert page.addresses and all((results.out / "report" / address).is_file() for address in page.addresses)
    assert f"{len(STUDY.cells()) / 100:.2f}" in page.text  # hours of computing: every cell took 36 seconds
    assert str(results.out) not in text


def test_a_report_starts_with_its_findings_and_their_model(results):
    "The numbers follow from `correct` by hand: MNLI is the only task of its type, and seeds differ by 4."
    page = Page(text := write_report(results).read_text())
    assert page.tags.count("main") == page.tags.count("h1") == 1 and page.tags.count("caption") == page.tags.count(
        "table"
    )
    within = np.mean([correct(*pair, "dev") for pair in pairs(alike=True)])
    across = np.mean([correct(*pair, "dev") for pair in pairs(alike=False)])
    title = re.search(r"<h1>(.*?)</h1>", text)[1]
    kinds = f"{within:.0f} % on other tasks of their type and {across:.0f} % on tasks of other types"
    assert title == f"Prompts of micro-bert reach {kinds}"
    assert text.index("<h1>") < text.index("made-up language") < text.index("<li>") < text.index("<h2>")
    assert text.count("<li>") == 3 and not re.search(r"\binf\b", page.text)
    assert f"{np.mean([correct(t, s, t, 'dev') for t in STUDY.tasks for s in (0, 1)]):.1f} % on dev" in page.text


def pairs(alike):
    "Sources, seeds and targets of the study whose tasks have the same type, or different types."
    types = {"sst2": "SA", "imdb": "SA", "mnli": "NLI"}
    return [
        (source, seed, target)
        for source in types
        for target in types
        for seed in (0, 1)
        if source != target and (types[source] == types[target]) == alike
    ]


def test_names_are_not_interpreted_as_html(tmp_path):
    study = Study(name="<script>alert(1)</script> & more", backbones=("<b>bold</b>/micro",), tasks=("sst2", "imdb"))
    page = Page(write_report(write(study, tmp_path)).read_text())
    assert not {"script", "b", "study"} & set(page.tags)
    assert "<script>alert(1)</script> & more" in page.text and "prompt-transfer <study>" in page.text


@pytest.mark.parametrize("name", ["<b>x", '"><img src=x onerror=alert(1)>', "a&b;", "x' y", "q?a=1#b"])
def test_names_of_backbones_in_links_are_not_interpreted_as_html(tmp_path, name):
    study = Study(name="two", backbones=("micro-bert", f"{name}/micro"), tasks=("sst2", "imdb"))
    report = write_report(write(study, tmp_path))
    page = Page(report.read_text())
    assert not {"b", "img"} & set(page.tags) and len(page.addresses) == 8
    assert all((report.parent / unquote(address)).is_file() for address in page.addresses)


def test_two_backbones_have_their_own_files_and_numbers(tmp_path):
    study = Study(name="two", backbones=("micro-bert", "org/micro-roberta"), tasks=("sst2", "imdb"))
    results = write(study, tmp_path)
    folder = write_report(results).parent
    assert {"micro-bert_transfer.csv", "org_micro-roberta_transfer.csv"} <= {path.name for path in folder.iterdir()}
    page = Page((folder / "index.html").read_text())
    assert len(page.addresses) == 8 and all((folder / address).is_file() for address in page.addresses)
    for cell, _ in results.cells("tune", "org/micro-roberta"):
        assert cell.asked["backbone"] == "org/micro-roberta"
    with pytest.raises(ValueError, match="did you mean 'org/micro-roberta'"):
        results.summary("org/micro-robert")


# ---- prompts carried to another model

CROSS = replace(
    STUDY,
    name="across",
    backbones=("micro-bert", "micro-roberta"),
    cross_task=False,
    random_seeds=(0, 1, 2),
    cross_model=CrossModel(
        directions=(("micro-bert", "micro-roberta"),),
        fitted_on=(("sst2",),),
        methods=("directly reused", "token mapping", "task tuning"),
        tpt_seeds=(0,),
    ),
)
MODELS = CROSS.cross_model.directions[0]


def test_carried_prompts_match_a_computation_by_hand(tmp_path):
    results = write(CROSS, tmp_path)
    (tuning,) = [method for method in results.cross_model(*MODELS).index if method.startswith("task tuning")]
    table = results.cross_model(*MODELS)
    assert list(table.index) == ["tuned", "random", "own prompt (sst2)", "directly reused", tuning]
    assert table.loc["own prompt (sst2)", "imdb"] == pytest.approx((76 + 80) / 2 / HUNDRED)

    def percent(**choice):
        return (
            results.cross_model(*MODELS, **choice).loc[[tuning, "directly reused"], "imdb"].mul(100).round(6).tolist()
        )

    assert percent() == [(50 + 54) / 2, (50 + 51) / 2]
    assert percent(split="test") == [(51 + 55) / 2, (51 + 52) / 2]
    assert percent(seeds="others") == [(51 + 50) / 2, (50 + 51) / 2]
    # Untrained vectors have seeds 0 to 2; for a learned method, "others" excludes those of its own seed.
    assert percent(seeds="others", untrained=True) == [(11 + 12 + 10 + 18) / 4, 11]


@pytest.mark.parametrize("untrained", [False, True])
def test_prompts_by_seed_use_the_projector_of_their_own_seed(tmp_path, untrained):
    results = write(CROSS, tmp_path)
    by_seed = results.cross_model_by_seed(*MODELS, "task tuning (sst2)", untrained)
    means = results.cross_model(*MODELS, untrained=untrained)
    assert list(by_seed.index) == ["tuned", "random", *CROSS.seeds] and list(by_seed) == list(means)
    if not untrained:
        assert by_seed.loc[[*CROSS.seeds], "imdb"].mul(100).round(6).tolist() == [50, 54]
    pd.testing.assert_series_equal(
        by_seed.loc[[*CROSS.seeds]].mean(), means.loc["task tuning (sst2)"], check_names=False
    )
    with pytest.raises(UnknownNameError, match="did you mean 'task tuning .sst2.'"):
        results.cross_model_by_seed(*MODELS, "task tuning (sst)")


def test_impossible_methods_have_a_reason_and_no_rows(tmp_path):
    results = write(
        CROSS,
        tmp_path,
        done=lambda cell: cell.kind not in ("projected", "tpt_model") or cell.asked.get("method") == "token mapping",
    )
    assert results.impossible(*MODELS) == {"token mapping": "two vocabularies"}
    assert list(results.cross_model(*MODELS).index) == ["tuned", "random", "own prompt (sst2)"]
    assert results.carried(*MODELS).empty and "method_name" in results.carried(*MODELS)
    assert "No token mapping: two vocabularies." in write_report(results).read_text()
    with pytest.raises(StudyError, match="no prompts can be carried by 'token mapping': two vocabularies"):
        results.carried_prompts(*MODELS, "token mapping", 0)
    with pytest.raises(UnknownNameError, match="unknown method of carrying"):
        results.carried_prompts(*MODELS, "directly reused", 0)


def test_methods_without_training_carry_the_prompts_of_every_seed(tmp_path):
    results = write(CROSS, tmp_path)
    for cell, _ in results.cells("projected", MODELS[1]):
        for task in CROSS.tasks:
            for seed in CROSS.seeds if cell.asked["method"] == "directly reused" else [cell.asked["seed"]]:
                values = torch.full((2, 3), float(seed))
                path = Store(tmp_path).place(cell) / "prompts" / str(seed) / f"{task}.safetensors"
                SoftPrompt(values, MODELS[1], task).save(path)
    for method in ("directly reused", "task tuning (sst2)"):
        for seed in CROSS.seeds:
            assert results.carried_prompts(*MODELS, method, seed)["imdb"].values[0, 0] == seed


def test_the_columns_of_table_6_come_from_stored_curves(tmp_path):
    results = write(CROSS, tmp_path)
    curves = results.tpt_model_curves(*MODELS, "task tuning (sst2)")
    assert list(curves) == ["task", "seed", "step", "loss", "accuracy"] and set(curves.seed) == {0}
    table = compare_runs(curves, results.curves(MODELS[1]))
    assert table.loc["imdb", "gain"] == pytest.approx(0.05) and table.loc["imdb", "comparable_time"] == 1
    with pytest.raises(StudyError, match="has tuned no prompt carried by 'directly reused'"):
        results.tpt_model_curves(*MODELS, "directly reused")


def test_choices_outside_the_study_are_unknown(tmp_path):
    results, method = write(CROSS, tmp_path), "task tuning (sst2)"
    with pytest.raises(UnknownNameError, match="unknown split of carried prompts 'tset'.*did you mean 'test'"):
        results.cross_model(*MODELS, split="tset")
    with pytest.raises(UnknownNameError, match="unknown seed of the prompts carried by task tuning .sst2. '99'"):
        results.carried_prompts(*MODELS, method, 99)
    # Seed 1 was carried but not tuned further.
    for seed in (1, 99):
        with pytest.raises(UnknownNameError, match=f"carried by task tuning .sst2. and tuned further '{seed}'"):
            results.tpt_model_prompts(*MODELS, method, seed)
    for ask in (results.tpt_model_curves, results.tpt_model_by_kind):
        with pytest.raises(UnknownNameError, match="did you mean 'task tuning .sst2.'"):
            ask(*MODELS, "task tuning (sst)")


def test_finished_runs_are_shown_before_the_others_end(tmp_path):
    study = replace(CROSS, cross_model=replace(CROSS.cross_model, tpt_seeds=(0, 1)))

    def done(cell):
        start = cell.needs[0] if cell.kind == "tpt_model" else cell
        return start.kind != "projected" or start.asked["method"] != "task tuning" or start.asked["seed"] == 0

    results = write(study, tmp_path, done=done)
    assert set(results.tpt_model_curves(*MODELS, "task tuning (sst2)").seed) == {0}
    nothing = write(study, tmp_path / "nothing", done=lambda cell: cell.kind != "tpt_model")
    with pytest.raises(StudyError, match="has tuned no prompt carried by 'task tuning .sst2.'"):
        nothing.tpt_model_curves(*MODELS, "task tuning (sst2)")


def test_the_report_shows_the_control_with_carried_prompts(tmp_path):
    results = write(CROSS, tmp_path)
    page = write_report(results).read_text()
    for name, choice in {
        "prompts": {},
        "prompts_of_other_seeds": dict(seeds="others"),
        "untrained": dict(seeds="others", untrained=True),
    }.items():
        file = f"micro-bert_to_micro-roberta_{name}.csv"
        assert f'href="{file}"' in page
        written = pd.read_csv(tmp_path / "report" / file, index_col=0)
        expected = results.cross_model(*MODELS, **choice)
        if "untrained" in choice:  # the target's own prompts were trained
            expected = expected.drop("own prompt (sst2)")
        pd.testing.assert_frame_equal(written, expected, check_names=False)
    further = pd.read_csv(tmp_path / "report" / "micro-bert_to_micro-roberta_tuned_further.csv", index_col=[0, 1])
    of_imdb = further.loc[("task tuning (sst2)", "same type")]
    assert of_imdb[["start", "gain", "runs", "sooner"]].tolist() == pytest.approx([0.45, 0.05, 1, 0])


def test_further_tuning_is_compared_in_an_unfinished_study(tmp_path):
    whole = write(CROSS, tmp_path / "whole").tpt_model_by_kind(*MODELS, "task tuning (sst2)")
    test = correct("imdb", 0, "imdb", "test") / HUNDRED
    assert whole.loc["same type", "test_gain"] == pytest.approx(0.52 - test)

    def without(kind, **asked):
        return lambda cell: cell.kind != kind or any(cell.asked.get(name) != value for name, value in asked.items())

    untested = without("transfer", backbone=MODELS[1], source="imdb", seed=0, split="test")
    some = write(CROSS, tmp_path / "untested", done=untested).tpt_model_by_kind(*MODELS, "task tuning (sst2)")
    assert np.isnan(some.loc["same type", "test_gain"]) and some.loc["same type", "gain"] == pytest.approx(0.05)
    untuned = without("tune", backbone=MODELS[1], task="imdb", seed=0)
    fewer = write(CROSS, tmp_path / "untuned", done=untuned).tpt_model_by_kind(*MODELS, "task tuning (sst2)")
    assert "same type" not in fewer.index and "fitted on" in fewer.index
    # Without a run from random vectors of that seed there is no comparison, and the report leaves it out.
    none = write(CROSS, tmp_path / "none", done=without("tune", backbone=MODELS[1], seed=0))
    assert none.tpt_model_by_kind(*MODELS, "task tuning (sst2)").empty
    assert "tuned_further" not in write_report(none).read_text()


# ---- the Explorer's data

ROOT = Path(__file__).resolve().parent.parent

COMPUTED = ("similarity", "maps", "profile")  # by floating-point arithmetic, which differs slightly between machines


def flat(value) -> list:
    """The leaves of nested lists and dictionaries, with their keys."""
    if isinstance(value, dict):
        return [leaf for key in value for leaf in [key, *flat(value[key])]]
    return [leaf for part in value for leaf in flat(part)] if isinstance(value, list) else [value]


def test_the_committed_file_matches_the_results():
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


def test_cells_match_the_result_files():
    "Ten cells of a study and ten published ones, read by other code; a transposed matrix would differ."
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


def test_rows_that_the_paper_prints_include_its_numbers():
    held = read_script((ROOT / "nbs/explorer/data.js").read_text(encoding="utf-8"))["collections"][0]
    printed = {(cell["source"], cell["target"]): (cell["accuracy"], cell["where"]) for cell in held["paper"]}
    assert printed["imdb", "imdb"] == ("89.9", "Table 1") and printed["random", "imdb"] == ("50.6", "Table 4")
    assert printed["directly reused", "imdb"] == ("50.3", "Table 4")
    for row in held["transfer"]["rows"][13:]:
        assert (row, "imdb") in printed or row in held["elsewhere"] or row == "projected from t5-base"


def test_a_study_without_a_matrix_is_skipped_and_a_partial_one_is_shown(tmp_path):
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
