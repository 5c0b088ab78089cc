"Pages show every available study, including new ones, which are studies of tiny models here."

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from fastcore.nbio import read_nb

from prompt_transferability import evidence, zero_shot_transfer
from prompt_transferability.cells import Store, pack
from prompt_transferability.evidence import (
    CLAIMS,
    FAILS,
    HOLDS,
    OPEN,
    STUDIES,
    VERDICTS,
    Evidence,
    across,
    available_studies,
    by_carried,
    by_choice,
    by_further,
    by_layers,
    by_method,
    by_pair,
    by_projector,
    by_similarity,
    by_start,
    by_step,
    by_type,
    by_words,
    claims,
    compared,
    each_study,
    learned_tasks,
    metrics_against_transfer,
    progress,
    summarize_verdicts,
    tuned_on_dev,
    whole_matrix,
)
from prompt_transferability.results import Results
from prompt_transferability.study import CrossModel, Study

ROOT = Path(__file__).parents[1]
PAGES = [page for page in sorted((ROOT / "nbs").glob("*/*.ipynb")) if page.parent.name in ("paper", "results")]
ROWS = {
    "prompts": (by_pair, by_layers),
    "transfer": (by_type, by_similarity, by_choice),
    "starts": (by_start, by_step),
    "words": (by_words,),
    "fine-tuning": (by_method,),
    "models": (by_projector, by_further, by_carried, across),
}
FIRST = {question: names[:2] for question, names in STUDIES.items()}
TINY = Study(
    name="tiny",
    backbones=("micro-bert", "micro-roberta"),
    tasks=("micro/imdb", "micro/laptop", "micro/mnli", "micro/snli"),
    seeds=(0, 1),
    random_seeds=(0, 1),
    length=3,
    steps=2,
    learning_rate=0.5,  # large enough for prompts to differ after two steps
    eval_every=1,
    max_train=16,
    max_eval=8,
    tpt=("best",),
    cross_model=CrossModel(
        directions=(("micro-bert", "micro-roberta"),),
        fitted_on=(("micro/imdb",), ("micro/mnli",)),
        methods=("directly reused", "task tuning"),
        hidden_size=4,
        steps=2,
        eval_every=2,
        tpt_seeds=(0,),
    ),
)


STARTS = replace(
    TINY,
    backbones=("micro-bert",),
    seeds=(0,),
    cross_model=None,
    fine_tuning_rates=(1e-4,),
    controls=("vocabulary start", "twice the steps"),
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "A complete study of four generated tasks."
    return TINY.run(tmp_path_factory.mktemp("tiny"), workers=1, progress=False)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    "A folder of results with two tiny studies for every question, packed like the committed ones."
    results = tmp_path_factory.mktemp("root") / "results"
    starts = STARTS.run(tmp_path_factory.mktemp("starts"), workers=1, progress=False, reuse=[tiny])
    for name in {name for names in FIRST.values() for name in names}:
        run = starts if name in (*FIRST["fine-tuning"], "smollm-starts") else tiny
        pack(run, results / name, [cell for cell, _ in Results(run).answered])
    return results


def test_a_row_is_labeled_by_the_study_itself_and_not_by_its_folder(folder):
    for question in STUDIES:
        found = available_studies(folder, question)
        assert list(dict.fromkeys(study.name for study in found)) == list(FIRST[question])
        assert all(": micro-" in study.label and "4 generated tasks" in study.label for study in found)
    assert available_studies(folder, "models")[0].label.startswith("paper: micro-bert to micro-roberta")


@pytest.mark.parametrize(("question", "row"), [(question, row) for question, rows in ROWS.items() for row in rows])
def test_a_new_study_answers_every_question(question, row, folder):
    table = each_study(folder, question, row)
    assert any(label.startswith(f"{STUDIES[question][0]}: ") for label in table.index)
    assert (table != "–").any(axis=1).all()
    verdicts = [name for name in table if name in VERDICTS]
    assert [*table][: len(verdicts)] == verdicts  # what a phone shows first


def test_verdicts_list_all_studies(folder):
    found = claims(folder)
    assert {*found.index.unique("claim")} == {*CLAIMS} and {*found["verdict"]} <= {HOLDS, FAILS, OPEN}
    for claim, (question, *_) in CLAIMS.items():
        there = " ".join(found.loc[claim].index)
        assert all(f"{name}: " in there for name in FIRST[question])


def test_missing_studies_are_left_out(folder, tmp_path):
    assert each_study(tmp_path, "transfer", by_type).empty and claims(tmp_path).empty
    assert summarize_verdicts(each_study(tmp_path, "transfer", by_type)) == "No study in this repository decides this."
    shutil.copytree(folder / "smollm", tmp_path / "smollm")
    assert [study.name for study in available_studies(tmp_path, "transfer")] == ["smollm", "smollm"]
    assert each_study(tmp_path, "models", across).empty
    assert progress(tmp_path, ("smollm", "gemma"))["cells"].tolist()[1] == "not run"


def test_an_unfinished_study_is_labeled_and_shows_its_complete_tasks(tiny, tmp_path):
    results = Results(tiny)
    of = [(cell.kind, cell.asked.get("backbone"), cell.asked.get("source")) for cell, _ in results.answered]
    kept = [
        cell
        for (cell, _), (kind, backbone, source) in zip(results.answered, of, strict=True)
        if kind in ("data", "tune") or (kind == "transfer" and backbone == "micro-bert" and source != "micro/snli")
    ]
    assert Store(tmp_path / "smollm").take(kept, [Store(tiny)]) == len(kept)
    (tmp_path / "smollm" / "study.yaml").write_text((tiny / "study.yaml").read_text())
    (half,) = available_studies(tmp_path, "transfer")
    assert "unfinished" in half.label and half.backbone == "micro-bert"
    assert "2 seeds" in half.label
    first = [cell for cell in kept if cell.kind == "data" or (cell.kind == "tune" and cell.asked["seed"] == 0)]
    assert Store(tmp_path / "gemma").take(first, [Store(tiny)]) == len(first)
    (tmp_path / "gemma" / "study.yaml").write_text((tiny / "study.yaml").read_text())
    *_, one = available_studies(tmp_path, "prompts")
    assert one.name == "gemma" and "1 of 2 seeds" in one.label
    shutil.rmtree(tmp_path / "gemma")
    trained = available_studies(tmp_path, "prompts")
    assert [study.backbone for study in trained] == [*TINY.backbones]
    on_dev = tuned_on_dev(half.results, "micro-roberta")
    assert [*on_dev.index] == [*TINY.tasks] and (on_dev["accuracy"] >= on_dev["start"]).all()
    assert [*whole_matrix(half).columns] == [*TINY.tasks[:3]]
    assert by_type(half)["tasks learned"].endswith("of 3") and metrics_against_transfer(half).empty
    assert [*each_study(tmp_path, "transfer", by_choice).index] == [half.label]
    assert each_study(tmp_path, "starts", by_start).empty


def test_single_seeds_follow_their_mean(folder):
    table = each_study(folder, "transfer", by_type, each_seed=True)
    assert len(table) == 3 * len(available_studies(folder, "transfer"))
    study = available_studies(folder, "transfer")[0]
    matrices = [whole_matrix(replace(study, seed=seed)) for seed in TINY.seeds]
    pd.testing.assert_frame_equal(sum(matrices) / 2, whole_matrix(study), check_names=False)


def test_a_learned_task_is_above_both_baselines_intervals(folder, monkeypatch):
    results = Results(folder / "paper")
    rows = {"accuracy": [0.9, 0.6, 0.9, 0.9], "random": [0.5, 0.5, 0.85, 0.5], "majority": [0.5, 0.5, 0.5, None]}
    of = pd.DataFrame(rows, [*TINY.tasks], dtype=float).assign(n=100)
    summary = of.join(of.add_prefix("test_"))
    summary["test_n"] = pd.array([100, 100, 100, None], "Int64")
    monkeypatch.setattr(Results, "summary", lambda *_: summary)
    found = learned_tasks(results)
    assert found["learned"].tolist() == [True, False, False, False]
    assert found["split"].tolist() == ["test", "test", "test", "dev"]


def test_task_tuning_must_beat_noise_and_own_prompts(monkeypatch, folder):
    study = available_studies(folder, "models")[0]
    for carried, noise, own, said_so in ((0.9, 0.5, 0.6, HOLDS), (0.9, 0.95, 0.6, FAILS), (0.6, 0.5, 0.6, FAILS)):
        methods = {"task tuning (imdb)": carried, "own prompt (imdb)": own, "task tuning (mnli)": carried}
        tables = iter([methods | {"own prompt (mnli)": own}, dict.fromkeys(methods, noise)])
        shares = lambda *_, tables=tables: pd.DataFrame(  # noqa: E731
            {kind: next(tables) for kind in ["same type"]}
        ).assign(**{"other types": 0.0})
        monkeypatch.setattr(evidence, "recovered_by_kind", shares)
        assert {row["verdict"] for row in by_projector(study).values()} == {said_so}


def test_one_seed_cannot_decide_a_claim_about_several(folder):
    study = Evidence(Results(folder / "paper"), "micro-bert", seed=0)
    assert by_similarity(study)["predicts best"] == OPEN
    assert compared(study)[1].shape == (4, 4)


@pytest.mark.parametrize("row", [by_type, by_similarity])
def test_no_verdict_depends_on_the_draws(row, monkeypatch):
    "Permutation tests with other random permutations: p moves by up to four standard errors, and no verdict changes."
    partial_correlations, permutation_test, moved = (
        evidence.partial_correlations,
        zero_shot_transfer.permutation_test,
        0,
    )

    def p_of(p, draws):
        return p if not draws else min(max(p + moved * (p * (1 - p) / draws) ** 0.5, 1 / (draws + 1)), 1)

    @cache
    def of_study(name):
        found, transfer = compared(studies[name])
        tasks = [studies[name].results.study.task(task) for task in transfer]
        types, labels = {task.name: task.task_type for task in tasks}, {task.name: len(task.labels) for task in tasks}
        return partial_correlations(found, transfer, types, labels, draws=1999)

    def moved_test(*args, **how):
        tested = permutation_test(*args, **how)
        return tested._replace(p=p_of(tested.p, tested.draws))

    def moved_partials(*args, **how):
        table = of_study(name).copy()
        table["p"] = [p_of(*pair) for pair in zip(table["p"], table["draws"], strict=True)]
        return table

    monkeypatch.setattr(evidence, "DECLARED", ("",))  # every study says what the rule would say of it
    monkeypatch.setattr(zero_shot_transfer, "permutation_test", moved_test)
    monkeypatch.setattr(evidence, "partial_correlations", moved_partials)
    studies = {study.name: study for study in available_studies(ROOT / "results", "transfer")}
    assert {"micro", "small", "smollm"} <= studies.keys()

    def verdicts(by):
        nonlocal moved
        moved = by
        return {column: text for column, text in row(studies[name]).items() if column in VERDICTS}

    for name in studies:
        said = verdicts(0)
        assert said or (row, name) == (by_similarity, "small")  # whose model's neurons were not stored
        assert verdicts(-4) == said == verdicts(4), name


def test_similarities_are_stored_for_pages_without_the_model(folder, tmp_path):
    shutil.copytree(folder / "smollm", tmp_path / "smollm")
    out = tmp_path / "similarity" / "smollm.csv"
    out.parent.mkdir()
    command = [sys.executable, ROOT / "tools" / "similarities.py", tmp_path / "smollm", "--out", out]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    origin = json.loads(out.read_text().splitlines()[0][2:])
    assert origin["command"].startswith("python tools/similarities.py smollm") and {*origin["models"]} == {
        *TINY.backbones
    }
    for study in available_studies(tmp_path, "transfer"):
        kept, own = (
            evidence.similarities(study),
            evidence.similarities(replace(study, results=Results(folder / "smollm"))),
        )
        assert [*kept] == [*own]
        for metric, matrix in own.items():
            pd.testing.assert_frame_equal(kept[metric], matrix, rtol=1e-4)


def evidence_cells(page):
    "The imports of a page, and the cells that compute its tables of all studies."
    sources = [cell.source for cell in read_nb(page).cells if cell.cell_type == "code"]
    first = next(source for source in sources if "from pathlib import Path" in source)
    return [
        first,
        *(
            source
            for source in sources
            if re.search(
                r"\b(each_study|claims|progress|summarize_verdicts|real_models|metrics_against_transfer)\(", source
            )
        ),
    ]


SHOWN = [page for page in PAGES if len(evidence_cells(page)) > 1]


def test_each_page_about_the_paper_shows_all_studies():
    """The only exception is Figure 10: it shows curves of the micro world; the paper's appendix shows one run."""
    paper = {page.stem for page in PAGES if page.parent.name == "paper"}
    assert paper - {page.stem for page in SHOWN} == {"figure10"} and "real" in {page.stem for page in SHOWN}


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.stem)
def test_a_page_needs_no_edit_for_a_new_study(page, folder, tmp_path):
    for results in (folder, tmp_path / "results"):
        names = {"root": results.parent}
        first, *tables = evidence_cells(page)
        exec(first, names)
        for source in tables:
            exec(source, names)
        made = [value for value in names.values() if isinstance(value, pd.DataFrame)]
        new = [str(table.index.to_list()) for table in made]
        assert any("paper: micro" in index or "paper-finetune: micro" in index for index in new) == (results == folder)
