"Studies: runs that fail, are killed or use several processes; the keys of cells; what is recorded about them."

import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from prompt_transferability import experiments
from prompt_transferability import study as study_module
from prompt_transferability.backbones import Backbone
from prompt_transferability.cells import Store, StoreError, pack
from prompt_transferability.cli import main
from prompt_transferability.experiments import (
    KINDS,
    METHODS,
    PAPERS_METRICS,
    AnswerError,
    Fingerprints,
    Sources,
    answer,
    cell_label,
    operations,
)
from prompt_transferability.microworld import model_folder
from prompt_transferability.projectors import PROJECTION_METHODS, Projector, ProjectorError
from prompt_transferability.prompt_tuning import tune_prompt
from prompt_transferability.prompts import SoftPrompt, random_prompt, vocabulary_prompt
from prompt_transferability.provenance import LIBRARIES
from prompt_transferability.results import Results, write_report
from prompt_transferability.study import (
    PRESETS,
    CellsFailedError,
    CrossModel,
    Study,
    StudyError,
    recorded_fingerprints,
)
from prompt_transferability.tasks import ALL_TASKS, DataError, UnknownNameError, load_task, unify_label_words
from prompt_transferability.tpt_task import compare_starts
from prompt_transferability.zero_shot_transfer import evaluate

ROOT = Path(__file__).parents[1]
COMMAND = Path(sys.executable).with_name("prompt-transfer")
TINY = Study(
    name="tiny",
    backbones=("micro-bert",),
    tasks=("micro/sst2", "micro/mrpc"),
    length=6,
    steps=40,
    learning_rate=1e-2,
    eval_every=10,
    max_train=120,
    max_eval=40,
    random_seeds=(0,),
)


def cells_in(study, out):
    "The cells of a study, with the fingerprints recorded in its folder."
    return study.cells(recorded_fingerprints(out))


def answers(study, out):
    "The result of every cell, without times."
    found = {}
    for cell in cells_in(study, out):
        result = json.loads((Store(out).place(cell) / "result.json").read_text())
        result.get("curve", {}).pop("seconds", None)
        found[cell_label(cell)] = {name: value for name, value in result.items() if name not in TIMINGS}
    return found


TIMINGS = ("seconds", "examples_per_second")


def prompts(study, out):
    return [SoftPrompt.load(path) for path in sorted(out.glob("cells/tune/*/prompt.safetensors"))]


def halves(out):
    "Files and folders of unfinished cells."
    return [path.name for path in out.glob("cells/*/.*")]


@pytest.fixture(scope="module")
def one_thread():
    "As in a process started with OMP_NUM_THREADS=1, so sums are computed in the same order."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(one_thread, tmp_path_factory):
    "The tiny study, from one undisturbed run."
    return TINY.run(tmp_path_factory.mktemp("whole"), workers=1, progress=False)


# ---- interrupted runs


def test_a_failed_cell_leaves_no_files_and_the_next_run_completes(whole, tmp_path, monkeypatch):
    transfer = KINDS["transfer"]
    bad = next(
        cell for cell in cells_in(TINY, whole) if cell.kind == "transfer" and cell.asked["source"] == "micro/mrpc"
    )

    def raise_once(cell, sources, out, folder):
        (folder / "half.json").write_text("{")
        if cell.key == bad.key:
            raise RuntimeError("out of memory")
        (folder / "half.json").unlink()
        return transfer.answer(cell, sources, out, folder)

    monkeypatch.setitem(KINDS, "transfer", replace(transfer, answer=raise_once))
    with pytest.raises(CellsFailedError, match="RuntimeError: out of memory") as raised:
        TINY.run(tmp_path, workers=1, progress=False)
    assert [failure.key for failure in raised.value.report.failed] == [bad.key]
    assert "raise RuntimeError" in Store(tmp_path).failure(bad).traceback
    done = [cell for cell in cells_in(TINY, tmp_path) if Store(tmp_path).place(cell).exists()]
    assert bad not in done and [cell.kind for cell in done].count("tune") == 2 and len(done) > 2
    assert len(done) == len(TINY.cells()) - 1 and halves(tmp_path) == [f".{bad.key}.failed.json"]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("[!.]*") if path.is_file()}
    monkeypatch.undo()
    with pytest.raises(CellsFailedError, match="out of memory"):  # it is not tried again unasked
        TINY.run(tmp_path, workers=1, progress=False)
    TINY.run(tmp_path, workers=1, progress=False, retry_failed=True)
    assert halves(tmp_path) == []
    assert written.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}.items()
    assert answers(TINY, tmp_path) == answers(TINY, whole)


def test_a_killed_study_gives_the_same_results(whole, tmp_path, fork):
    out = tmp_path / "out"
    # The run gives way to the process that watches it, which would otherwise come too late on a busy machine.
    process = fork(lambda: (os.nice(19), TINY.run(out, workers=1, progress=False)) and None).process
    try:
        # In the middle: one prompt has been trained, and training of the second one has begun.
        while not (list(out.glob("cells/tune/[!.]*")) and list(out.glob("cells/tune/.*.checkpoint"))):
            assert process.is_alive(), "the run ended before it could be killed"
            time.sleep(0.005)
    finally:
        process.kill()
        process.join()
    done = [cell for cell in cells_in(TINY, out) if Store(out).place(cell).exists()]
    assert 0 < len(done) < len(TINY.cells())
    before = {path: path.stat().st_mtime_ns for cell in done for path in Store(out).place(cell).iterdir()}
    TINY.run(out, workers=1, progress=False)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert answers(TINY, out) == answers(TINY, whole)
    for ours, theirs in zip(prompts(TINY, out), prompts(TINY, whole), strict=True):
        assert torch.equal(ours.values, theirs.values) and ours.metadata == theirs.metadata
    assert halves(out) == [], "unfinished work of the killed process was not removed"


def test_an_interrupted_declaration_does_not_lock_the_folder(tmp_path, monkeypatch):
    "A run that is killed while it writes study.yaml can be started again."
    write = Path.write_text

    def break_off(path, text, *args, **kwargs):
        write(path, text[: len(text) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", break_off)
    with pytest.raises(OSError):
        TINY.run(tmp_path, workers=1, progress=False)
    monkeypatch.undo()
    monkeypatch.setattr(study_module, "answer", lambda *_, **__: ({}, {}))
    TINY.run(tmp_path, workers=1, progress=False)
    assert Study.from_file(tmp_path / "study.yaml") == TINY


# ---- several processes


@pytest.fixture(scope="module")
def local_data(tmp_path_factory):
    "A data folder with two tasks: one without a test split, one with an invalid label."
    folder = tmp_path_factory.mktemp("data")
    for name, source, splits in (
        ("mrpc", "micro/mrpc", ("train", "dev")),
        ("sst2", "micro/sst2", ("train", "dev", "test")),
    ):
        data = load_task(source)
        (folder / "tasks" / name).mkdir(parents=True)
        for split in splits:
            rows = [row | {"label": data.task.labels[row["label"]]} for row in data.split(split).select(range(150))]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / "tasks" / name / f"{split}.jsonl").write_text(lines)
    return folder


@pytest.fixture(scope="module")
def local(local_data, one_thread, tmp_path_factory):
    "A study on that folder, in one process."
    study = replace(TINY, name="local", tasks=("mrpc", "sst2"), steps=10)
    return study, study.run(tmp_path_factory.mktemp("local"), data=local_data, workers=1, progress=False)


def test_bad_data_is_reported_before_anything_is_computed(local, local_data, tmp_path):
    study, _ = local
    dev = local_data / "tasks" / "sst2" / "dev.jsonl"
    good = dev.read_text()
    try:
        dev.write_text(good.replace('"positive"', '"postive"'))
        with pytest.raises(DataError, match="dev.jsonl, line .*did you mean 'positive'"):
            study.run(tmp_path, data=local_data, workers=2, progress=False)
    finally:
        dev.write_text(good)
    assert not list(tmp_path.iterdir())


def test_two_processes_give_the_same_results(local, local_data, tmp_path):
    study, alone = local
    study.run(tmp_path, data=local_data, workers=2, progress=False)
    assert halves(tmp_path) == [] and study.status(tmp_path)["missing"].sum() == 0
    for (label, ours), theirs in zip(answers(study, tmp_path).items(), answers(study, alone).values(), strict=True):
        if label.startswith("data"):
            assert ours == theirs
        elif label.startswith("tune"):
            assert ours["rows"] == theirs["rows"] and ours["majority"] == theirs["majority"]
            assert ours["curve"]["step"] == theirs["curve"]["step"]
            assert ours["curve"]["loss"][1:] == pytest.approx(theirs["curve"]["loss"][1:], rel=1e-3)
            assert ours["accuracy"] == pytest.approx(theirs["accuracy"], abs=1 / 40)
        else:
            for task, found in ours["targets"].items():
                expected = theirs["targets"][task]
                assert found == expected or found["accuracy"] == pytest.approx(expected["accuracy"], abs=1 / 40)
    for ours, theirs in zip(prompts(study, tmp_path), prompts(study, alone), strict=True):
        assert torch.allclose(ours.values, theirs.values, atol=1e-2)


# ---- fine-tuning


def test_a_fine_tuned_model_is_evaluated_and_not_stored(one_thread, tmp_path):
    study = replace(TINY, tasks=("micro/sst2",), steps=20, fine_tuning_rates=(3e-4, 1e-12), random_seeds=())
    study.run(tmp_path, workers=1, progress=False)
    cells = [cell for cell in cells_in(study, tmp_path) if cell.kind == "fine_tune"]
    assert [cell_label(cell) for cell in cells] == [
        f"fine_tune micro/sst2/0 at {rate} on micro-bert" for rate in ("0.0003", "1e-12")
    ]
    moved, stood = (json.loads((Store(tmp_path).place(cell) / "result.json").read_text()) for cell in cells)
    assert moved["curve"]["step"] == [0, 10, 20] and moved["curve"]["seconds"] == sorted(moved["curve"]["seconds"])
    assert stood["step"] == 0 and moved["curve"]["accuracy"][0] == stood["accuracy"] != moved["accuracy"]
    assert moved["test"]["n"] == 40 and moved["test"]["accuracy"] > stood["test"]["accuracy"]
    assert {path.name for path in Store(tmp_path).place(cells[0]).iterdir()} == {
        "cell.json",
        "result.json",
        "provenance.json",
    }
    assert halves(tmp_path) == []


def test_fine_tuning_does_not_depend_on_settings_of_prompts():
    "Studies with prompts of another length or learning rate share the same answer."
    asked = [
        {cell.key for cell in study.cells() if cell.kind == "fine_tune"}
        for study in (
            replace(TINY, fine_tuning_rates=(1e-4,)),
            replace(TINY, fine_tuning_rates=("1e-4",), length=9, learning_rate=1),
        )
    ]
    assert asked[0] == asked[1] and len(asked[0]) == 2


# ---- evaluations


def test_a_target_without_the_split_is_recorded_as_having_none(local):
    study, out = local
    tested = {
        cell.asked["source"]: json.loads((Store(out).place(cell) / "result.json").read_text())["targets"]
        for cell in cells_in(study, out)
        if cell.kind == "transfer" and cell.asked["split"] == "test"
    }
    assert tested["mrpc"] == {"mrpc": None}
    assert tested["sst2"]["sst2"]["n"] == 40


def test_splits_are_always_limited_to_the_same_rows(whole):
    tuned = {}
    for cell in cells_in(TINY, whole):
        result = json.loads((Store(whole).place(cell) / "result.json").read_text())
        if cell.kind == "tune":
            assert result["rows"] == {"train": 120, "dev": 40, "test": 40}
            tuned[cell.asked["task"]] = result["accuracy"]
            continue
        if cell.kind == "data":
            assert result["rows"] == {"train": 120, "dev": 40, "test": 40}
            assert result["overlaps"] == {"dev in train": 0, "test in train": 0, "test in dev": 0}
            continue
        assert all(found["n"] == 40 == len(found["predictions"]) for found in result["targets"].values())
        if cell.asked["split"] == "dev" and cell.asked["source"] in tuned:
            # The prompt was selected on the rows that it is evaluated on, so the numbers are the same.
            assert result["targets"][cell.asked["source"]]["accuracy"] == tuned[cell.asked["source"]]
    assert tuned.keys() == set(TINY.tasks)
    capped, full = Sources().task("micro/sst2", None, 40), load_task("micro/sst2")
    texts = full.dev["text_a"]
    chosen = [texts.index(text) for text in capped.dev["text_a"]]
    assert chosen == sorted(chosen) and chosen != list(range(40)) and len(capped.train) == len(full.train)
    assert Sources().task("micro/sst2", None, 40).dev["text_a"][:] == capped.dev["text_a"][:]
    assert len(Sources().task("micro/sst2", None, 10**6).dev) == len(full.dev)


# ---- keys


def keys(study, kind):
    return {cell_label(cell): cell.key for cell in study.cells() if cell.kind == kind}


@pytest.mark.parametrize(
    "change",
    [
        *(dict(layout="authors"), dict(length=7), dict(max_length=64), dict(steps=41), dict(learning_rate=1.1e-2)),
        *(dict(batch_size=8), dict(eval_every=20), dict(patience=3), dict(max_train=None), dict(max_eval=41)),
        *(dict(backbones=("micro-roberta",)), dict(seeds=(1,)), dict(tasks=("micro/imdb", "micro/qqp"))),
        *(dict(unified_label_words=True), dict(dtype="bfloat16")),
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_key_changes_with_every_setting(change):
    other = replace(TINY, **change)
    for kind in ("tune", "transfer"):
        tuned = [
            {cell.key for cell in s.cells() if cell.kind == kind and cell.asked.get("source") != "random"}
            for s in (TINY, other)
        ]
        assert tuned[0] and not tuned[0] & tuned[1], kind


def test_keys_leave_out_later_settings_at_their_defaults():
    "Results computed before these settings existed are still found."
    assert not any({"unified_label_words", "dtype"} & cell.asked.keys() for cell in CROSS.cells())
    assert Study.from_preset("micro").status(ROOT / "results" / "micro")["missing"].sum() == 0


def test_fine_tuning_is_always_in_float32():
    tuned = replace(TINY, fine_tuning_rates=(1e-3,))
    assert keys(replace(tuned, dtype="bfloat16"), "fine_tune") == keys(tuned, "fine_tune")


def test_another_data_type_changes_results_and_is_recorded(whole, tmp_path):
    other = replace(TINY, dtype="bfloat16")
    other.run(tmp_path, device="cpu", workers=1, progress=False)
    assert answers(other, tmp_path) != answers(TINY, whole)
    for ours, theirs in zip(prompts(other, tmp_path), prompts(TINY, whole), strict=True):
        assert not torch.equal(ours.values, theirs.values)
    for study, out in ((TINY, whole), (other, tmp_path)):
        for cell in cells_in(study, out):
            written = json.loads((Store(out).place(cell) / "provenance.json").read_text())
            said = (None, None) if cell.kind == "data" else ("cpu", study.dtype)
            assert (written["device"], written["dtype"]) == said
    assert Study.from_file(tmp_path / "study.yaml") == other


def test_the_device_is_not_part_of_the_question(whole, tmp_path, monkeypatch):
    (tmp_path / "cells").symlink_to(whole / "cells")
    monkeypatch.setattr(study_module, "answer", lambda cell, *_: pytest.fail(f"{cell_label(cell)} was computed again"))
    TINY.run(tmp_path, device="cpu", workers=1, progress=False)
    with pytest.raises(ValueError, match="unknown study setting 'device'"):
        (tmp_path / "device.yaml").write_text(TINY.to_yaml() + "device: cpu\n")
        Study.from_file(tmp_path / "device.yaml")


def test_unified_label_words_are_trained_and_evaluated(monkeypatch, tmp_path):
    evaluated, evaluate = [], experiments.evaluate
    monkeypatch.setattr(
        experiments, "evaluate", lambda *asked: evaluated.append(asked[2].task.label_words) or evaluate(*asked)
    )
    unified = replace(TINY, steps=2, eval_every=2, unified_label_words=True)
    unified.run(tmp_path, workers=1, progress=False)
    assert {tuple(prompt.metadata["label_words"]) for prompt in prompts(unified, tmp_path)} == {("1", "2")}
    assert set(evaluated) == {("1", "2")}
    assert Study.from_file(tmp_path / "study.yaml") == unified


# ---- runs that start from other tasks

STARTS = replace(
    TINY,
    name="starts",
    tasks=("micro/sst2", "micro/imdb", "micro/mrpc"),
    steps=20,
    tpt=("best", "same type", "other types", "every"),
    tpt_mixes=("mean", "weighted", "task_vectors"),
    tpt_steps=10,
    probe_steps=10,
)


@pytest.fixture(scope="module")
def started(one_thread, tmp_path_factory):
    return STARTS.run(tmp_path_factory.mktemp("starts"), workers=1, progress=False)


def tpt_runs(out):
    "Target, candidates, mix and result of each run from other tasks."
    found = {}
    for cell in cells_in(STARTS, out):
        if cell.kind == "tpt":
            result = json.loads((Store(out).place(cell) / "result.json").read_text())
            found[cell.asked["task"], tuple(cell.asked["sources"]), cell.asked.get("mix")] = (cell, result)
    return found


def test_adding_runs_from_other_tasks_changes_no_other_key():
    "A study to which they are added recomputes nothing else."
    plain = replace(STARTS, tpt=(), tpt_mixes=(), tpt_steps=None, probe_steps=None)
    assert [cell.key for cell in plain.cells()] == [
        cell.key for cell in STARTS.cells() if cell.kind not in ("tpt", "probe")
    ]
    assert len({cell.key for cell in STARTS.cells()}) == len(STARTS.cells())


@pytest.mark.parametrize("change", [dict(tpt_steps=11), dict(length=7), dict(steps=21), dict(seeds=(1,))], ids=str)
def test_the_key_of_such_a_run_depends_on_its_settings_and_sources(change):
    "This includes the steps of the sources, because another prompt is another start."
    ours, others = (set(keys(study, "tpt").values()) for study in (STARTS, replace(STARTS, **change)))
    assert ours and not ours & others


def test_the_best_of_several_candidates_is_the_one_that_transfers_best(started):
    accuracy = {}
    for cell in cells_in(STARTS, started):
        if cell.kind == "transfer" and cell.asked["split"] == "dev":
            targets = json.loads((Store(started).place(cell) / "result.json").read_text())["targets"]
            accuracy |= {(cell.asked["source"], target): found["accuracy"] for target, found in targets.items()}
    runs = tpt_runs(started)
    assert len(runs) == 3 + 6 + 9  # what has one candidate only, of a type or not, is one of "every"
    for (target, candidates, mix), (_, result) in runs.items():
        taken = [source["name"] for source in result["init"]["sources"]]
        if mix is None:
            assert accuracy[taken[0], target] == max(accuracy[name, target] for name in candidates)
            assert result["curve"]["accuracy"][0] == accuracy[taken[0], target] and len(taken) == 1
        else:
            assert len(taken) == 2
        assert result["curve"]["step"] == [0, 10]


def test_the_weights_of_a_mix_are_similarities_to_the_probe(started):
    (cell, result) = next(run for (_, _, mix), run in tpt_runs(started).items() if mix == "weighted")
    (probe,) = [need for need in cell.needs if need.kind == "probe"]
    similarities = json.loads((Store(started).place(probe) / "result.json").read_text())["similarities"][
        "neuron_overlap"
    ]
    assert {source["name"]: source["score"] for source in result["init"]["sources"]} == similarities
    assert SoftPrompt.load(Store(started).place(probe) / "prompt.safetensors").metadata["steps"] == 10


def test_a_run_records_the_cost_of_its_choice_in_other_cells(started):
    "The evaluations and steps belong to other cells; their duration is unknown."
    for (_, candidates, mix), (_, result) in tpt_runs(started).items():
        steps, evaluations = (0, 0) if len(candidates) == 1 else (10, 2) if mix == "weighted" else (0, len(candidates))
        choice = result["init"]["choice"]
        assert (choice["steps"], choice["evaluations"]) == (steps, evaluations)
        assert (choice["seconds"] is None) == (len(candidates) > 1)
        assert result["init"]["chosen_by"] in (
            candidates if len(candidates) == 1 else ("neuron_overlap" if mix == "weighted" else "transfer",)
        )


def test_a_mix_has_at_least_two_sources():
    pair = replace(STARTS, tasks=("micro/sst2", "micro/imdb"))
    assert {cell.asked.get("mix") for cell in pair.cells() if cell.kind == "tpt"} == {None}


def test_a_prompt_records_its_start_and_its_test_accuracy_is_stored(started):
    for (target, _, _), (cell, result) in tpt_runs(started).items():
        prompt = SoftPrompt.load(Store(started).place(cell) / "prompt.safetensors")
        assert prompt.task == target and prompt.metadata["init"] == result["init"]
        assert result["test"]["n"] == 40


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(tpt=("bets",)), "unknown choice in tpt 'bets'; did you mean 'best'"),
        (dict(tpt_mixes=("man",)), "did you mean 'mean'"),
        (dict(tpt="best"), "tpt of study 'starts' must be a list of names"),
        (dict(tpt_steps=0), "tpt_steps of study 'starts' must be a whole number"),
        (dict(probe_steps=None), "which need probe_steps"),
    ],
    ids=str,
)
def test_invalid_starts_are_rejected(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(STARTS, **change)


def test_keys_change_with_the_code_version(monkeypatch):
    tune, transfer = keys(TINY, "tune"), keys(TINY, "transfer")
    monkeypatch.setitem(KINDS, "transfer", replace(KINDS["transfer"], version=2))
    assert keys(TINY, "tune") == tune and not set(keys(TINY, "transfer").values()) & set(transfer.values())
    monkeypatch.undo()
    # A prompt that would be trained differently is another prompt, wherever it is evaluated.
    monkeypatch.setitem(KINDS, "tune", replace(KINDS["tune"], version=2))
    assert not set(keys(TINY, "tune").values()) & set(tune.values())
    changed = {label for label, key in keys(TINY, "transfer").items() if key != transfer[label]}
    assert changed == {label for label in transfer if "random" not in label}


def test_cells_have_unique_keys_and_follow_the_cells_that_they_need():
    cells = replace(TINY, backbones=("micro-bert", "micro-roberta"), seeds=(0, 1), random_seeds=(0, 1)).cells()
    assert len({cell.key for cell in cells}) == len(cells) == 2 + 2 * (2 * 2 * 3 + 2 * 2)
    seen = set()
    for cell in cells:
        assert seen.issuperset(need.key for need in cell.needs)
        seen.add(cell.key)


def test_keys_do_not_depend_on_the_names_of_study_and_folder(whole, tmp_path, monkeypatch):
    "A study with another name finds the same cells in a folder that was moved."
    renamed = replace(TINY, name="other", random_seeds=(0,))
    assert [cell.key for cell in renamed.cells()] == [cell.key for cell in TINY.cells()]
    (tmp_path / "cells").symlink_to(whole / "cells")
    monkeypatch.setattr(study_module, "answer", lambda cell, *_: pytest.fail(f"{cell_label(cell)} was computed again"))
    renamed.run(tmp_path, data=tmp_path / "elsewhere", models=tmp_path / "models", workers=1, progress=False)


def test_studies_share_cells():
    more = replace(TINY, random_seeds=(0, 1))
    assert set(keys(TINY, "transfer").values()) < set(keys(more, "transfer").values())


def test_another_study_in_the_folder_is_rejected_and_changes_nothing(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    for change in (dict(steps=41), dict(tasks=("micro/sst2",)), dict(random_seeds=())):
        with pytest.raises(StudyError, match=f"contains study 'tiny', which differs in {next(iter(change))}"):
            replace(TINY, **change).run(whole, workers=1, progress=False)
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


# ---- records


def test_provenance_records_the_origin_of_a_cell(whole):
    for cell in cells_in(TINY, whole):
        written = json.loads((Store(whole).place(cell) / "provenance.json").read_text())
        assert written["libraries"].keys() == set(LIBRARIES) and written["libraries"]["torch"] == torch.__version__
        assert written["package"] and written["python"].startswith("3.")
        commit, changed = written["commit"], written["changed_since"]
        assert (commit is None) == (changed is None)
        assert commit is None or (len(commit) == 40 and set(commit) <= set("0123456789abcdef"))
        assert written["seed"] == cell.asked.get("seed") and written["seconds"] >= 0 and written["threads"] >= 1
        assert written["processor"] and written["cores"] >= 1 and "accelerator" in written
        assert time.strptime(written["started"], "%Y-%m-%dT%H:%M:%SZ")
        asked = json.loads((Store(whole).place(cell) / "cell.json").read_text())
        assert asked == {"kind": cell.kind, "code_version": KINDS[cell.kind].version, "asked": dict(cell.asked)}


def mentions(folder, word):
    return [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and word.encode() in path.read_bytes()
    ]


def test_no_absolute_path_is_written(local, local_data):
    study, out = local
    for place in (out, local_data, Path(study_module.__file__).parents[1], Path.home()):
        assert mentions(out, str(place)) == []


def test_no_absolute_path_is_written_by_the_command(whole, local_data, tmp_path, capsys):
    "The command is recorded in the provenance and shown in the report, without absolute paths."
    out = tmp_path / "out"
    study = replace(TINY, tasks=("mrpc", "sst2"), steps=2, eval_every=2)
    (tmp_path / "study.yaml").write_text(study.to_yaml())
    arguments = ["study", "run", str(tmp_path / "study.yaml"), "--out", str(out), "--data", str(local_data), "--json"]
    assert main([*arguments, "--workers", "1"]) == 0
    assert mentions(out, "prompt-transfer study run"), "the command is not recorded"
    for place in (tmp_path, local_data):
        assert mentions(out, str(place)) == []


# ---- declarations


def test_a_declaration_survives_writing_and_reading(tmp_path):
    odd = (replace(TINY, learning_rate=1e-7), replace(TINY, dtype="float16"))
    for study in (TINY, STARTS, *map(Study.from_preset, PRESETS), *odd):
        (tmp_path / "study.yaml").write_text(study.to_yaml())
        assert Study.from_file(tmp_path / "study.yaml") == study


@pytest.mark.parametrize(
    "line",
    [
        *("steps: many", "steps: 1.5", "length: 0", "seeds: 3", "seeds: [a]", "tasks: [[micro/sst2]]", "max_eval: 0"),
        *("learning_rate: fast", "batch_size: null", "patience: 0", "dtype: int8", "dtype: [float32]", "dtype: 16"),
    ],
)
def test_a_setting_of_the_wrong_type_is_rejected_when_it_is_read(line, tmp_path):
    "And not hours later, when the first cell needs it."
    name = line.partition(":")[0]
    lines = {"name": "name: x", "backbones": "backbones: [micro-bert]", name: line}
    (tmp_path / "study.yaml").write_text("\n".join(lines.values()))
    with pytest.raises(ValueError) as refused:
        Study.from_file(tmp_path / "study.yaml")
    assert name.removesuffix("s") in str(refused.value) and "\n" not in str(refused.value)


def test_a_learning_rate_may_be_written_in_scientific_notation(tmp_path):
    "YAML reads 1e-2 as a word, because it has no dot; everyone who writes it means the number."
    (tmp_path / "study.yaml").write_text("name: x\nbackbones: [micro-bert]\nlearning_rate: 1e-2\n")
    assert Study.from_file(tmp_path / "study.yaml").learning_rate == 0.01


# ---- mistakes that are reported before hours of work


@pytest.mark.parametrize(
    "change, error, sentence",
    [
        (dict(backbones=("micro-bert", "micro-brt")), FileNotFoundError, "micro-brt"),
        (dict(tasks=("micro/sst2", "micro/sst3")), ValueError, "did you mean 'micro/sst2'"),
    ],
)
def test_unknown_names_are_reported_before_anything_is_computed(tmp_path, change, error, sentence):
    with pytest.raises(error, match=sentence):
        replace(TINY, **change).run(tmp_path / "out", workers=1, progress=False)
    assert not (tmp_path / "out").exists()


def test_unsuitable_label_words_are_reported_before_anything_is_computed(tmp_path, monkeypatch):
    task = replace(ALL_TASKS["micro/mrpc"], label_words=("true", "antidisestablishment"))
    monkeypatch.setitem(ALL_TASKS, "micro/mrpc", task)
    with pytest.raises(ValueError, match="antidisestablishment"):
        TINY.run(tmp_path / "out", workers=1, progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [2024, "", None])
def test_a_study_needs_a_valid_name(name):
    with pytest.raises(StudyError, match="name of a study must be a word"):
        replace(TINY, name=name)


def test_negative_seeds_are_rejected():
    with pytest.raises(
        StudyError, match="seeds of study 'tiny' must be a list of one or more whole numbers of at least 0"
    ):
        replace(TINY, seeds=(-1,))


# ---- prompts mapped to other models

CROSS = replace(
    TINY,
    name="cross",
    backbones=("micro-bert", "micro-roberta", "micro-roberta-large"),
    tasks=("micro/sst2", "micro/imdb"),
    seeds=(0, 1),
    random_seeds=(0, 1),
    steps=10,
    cross_task=False,
    cross_model=CrossModel(
        directions=(("micro-bert", "micro-roberta"), ("micro-roberta", "micro-roberta-large")),
        fitted_on=(("micro/sst2",),),
        hidden_size=8,
        steps=4,
        mapping_steps=4,
        eval_every=2,
        tpt_seeds=(0,),
    ),
)


@pytest.fixture(scope="module")
def crossed(one_thread, tmp_path_factory):
    "The study whose prompts are mapped to other models."
    return CROSS.run(tmp_path_factory.mktemp("cross"), workers=1, progress=False)


def carried(out, method, direction=0, seed=0):
    source, target = CROSS.cross_model.directions[direction]
    found = [
        cell
        for cell in cells_in(CROSS, out)
        if cell.kind == "projected"
        and (cell.asked["source_backbone"], cell.asked["backbone"]) == (source, target)
        and (cell.asked["method"], cell.asked["seed"]) == (method, seed)
    ]
    (cell,) = found
    return cell, json.loads((Store(out).place(cell) / "result.json").read_text())


def test_every_method_is_computed_or_recorded_as_impossible(crossed):
    impossible = {
        (method, direction): carried(crossed, method, direction)[1]["impossible"]
        for method in METHODS
        for direction in (0, 1)
    }
    said = {method: sentence for method, sentence in impossible.items() if sentence is not None}
    assert set(said) == {("token mapping", 0), ("directly reused", 1)}
    assert "one vocabulary" in said["token mapping", 0]
    assert "prompts of 'micro-roberta' are 128 wide; 'micro-roberta-large' takes 144" in said["directly reused", 1]


def test_an_error_in_a_method_is_not_stored_as_its_answer(crossed, monkeypatch):
    cell, _ = carried(crossed, "linear map")

    def breaks(*models):
        raise ProjectorError("a mistake")

    monkeypatch.setitem(PROJECTION_METHODS, "linear map", breaks)
    with pytest.raises(ProjectorError, match="a mistake"):
        KINDS["projected"].answer(cell, Sources(), Store(crossed), crossed / "nowhere")


@pytest.mark.parametrize("method", ["directly reused", "linear map", "prompt mapping", "task tuning"])
def test_a_mapped_prompt_is_evaluated_on_its_task_and_an_untrained_one_on_all(crossed, method):
    cell, result = carried(crossed, method)
    rows = {
        tuple(row[name] for name in ("source", "seed", "target", "split")): row["accuracy"] for row in result["rows"]
    }
    splits = ("dev", "test")
    assert rows.keys() == {
        (s, n, t, split) for t in CROSS.tasks for s in (t, "random") for n in (0, 1) for split in splits
    }
    prompt = SoftPrompt.load(Store(crossed).place(cell) / "prompts" / "0" / "micro" / "imdb.safetensors")
    assert (prompt.backbone, prompt.task, prompt.length) == ("micro-roberta", "micro/imdb", 6)
    assert prompt.metadata["projected_from"]["backbone"] == "micro-bert"
    backbone, data = Backbone.from_pretrained("micro-roberta"), load_task("micro/imdb", max_eval=CROSS.max_eval)
    for split in splits:
        assert rows["micro/imdb", 0, "micro/imdb", split] == evaluate(backbone, prompt, data, split).accuracy
    # A method fitted on the prompts of one seed keeps those; one that was fitted on none keeps all.
    kept = {path.name for path in (Store(crossed).place(cell) / "prompts").iterdir()}
    assert kept == ({"0"} if METHODS[method] else {"0", "1"})


def test_the_stored_projector_gives_the_stored_prompts(crossed):
    cell, result = carried(crossed, "task tuning", seed=1)
    projector = Projector.load(Store(crossed).place(cell) / "projector.safetensors")
    assert projector.metadata == result["fit"] and projector.metadata["seed"] == 1
    (own,) = [need for need in cell.needs if (need.asked["task"], need.asked["seed"]) == ("micro/imdb", 1)]
    prompt = SoftPrompt.load(Store(crossed).place(own) / "prompt.safetensors")
    kept = SoftPrompt.load(Store(crossed).place(cell) / "prompts" / "1" / "micro" / "imdb.safetensors")
    assert torch.equal(projector.project(prompt, Backbone.from_pretrained("micro-roberta")).values, kept.values)


def test_further_tuning_starts_at_the_mapped_prompt(crossed):
    cells = [cell for cell in cells_in(CROSS, crossed) if cell.kind == "tpt_model"]
    assert len(cells) == 2 * 2 * 2  # directions, with and without LayerNorm, tasks; of seed 0 alone
    for cell in cells:
        result = json.loads((Store(crossed).place(cell) / "result.json").read_text())
        start = json.loads((Store(crossed).place(cell.needs[0]) / "result.json").read_text())
        task = cell.asked["task"]
        (first,) = [
            row["accuracy"]
            for row in start["rows"]
            if (row["source"], row["seed"], row["target"], row["split"]) == (task, 0, task, "dev")
        ]
        assert result["curve"]["accuracy"][0] == first
        assert result["init"]["projected_from"]["backbone"] == cell.needs[0].asked["source_backbone"]


def test_only_baselines_of_projectors_are_evaluated_on_other_tasks(crossed):
    "Prompts of the target models for the tasks that a projector is fitted on."
    rows = [cell.asked for cell in CROSS.cells() if cell.kind == "transfer" and cell.asked["prompt"]]
    wide = {(row["backbone"], row["source"], row["split"]) for row in rows if row["targets"] == [*CROSS.tasks]}
    assert wide == {(model, "micro/sst2", "dev") for model in ("micro-roberta", "micro-roberta-large")}
    alone = [row for row in rows if (row["backbone"], row["source"], row["split"]) not in wide]
    assert alone and all(row["targets"] == [row["source"]] for row in alone)


def test_a_study_across_models_survives_writing_and_reading(tmp_path):
    (tmp_path / "study.yaml").write_text(CROSS.to_yaml())
    assert Study.from_file(tmp_path / "study.yaml") == CROSS


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(directions=[["micro-bert", "roberta"]]), "unknown entry of cross_model.directions"),
        (dict(directions=[["micro-bert", "micro-bert"]]), "must be a list of pairs of two models"),
        (dict(directions=[["micro-bert", "micro-roberta", "micro-bert"]]), "must be a list of pairs"),
        (dict(directions=[["micro-bert", "micro-roberta", "micro-roberta-large"]]), "pairs of two models"),
        (dict(directions=[["micro-bert", "micro-roberta"]] * 2), "without repetition"),
        (dict(directions=[]), "pairs of two models"),
        (dict(fitted_on=["micro/sst2"]), "must be a list of lists"),
        (dict(fitted_on=[["micro/mnli"]]), "unknown entry of cross_model.fitted_on"),
        (dict(fitted_on=[["micro/sst2", "micro/sst2"]]), "must be a list of lists"),
        (dict(fitted_on=[["micro/sst2"], ["micro/sst2"]]), "none of them empty or repeated"),
        (dict(fitted_on=[[]]), "none of them empty"),
        (dict(fitted_on=[["micro/sst2", "micro/imdb"], ["micro/imdb", "micro/sst2"]]), "or repeated"),
        (dict(fitted_on=[]), "has no tasks that prompt mapping, task tuning, .* could learn from"),
        (dict(methods=[]), "cross_model.methods of study 'cross' must be a list of one or more names"),
        (dict(methods=["linear map"], tpt_seeds=[0]), "carried over, and its methods are linear map"),
        (dict(methods=["task tunning"]), "did you mean 'task tuning'"),
        (dict(methods="linear map"), "cross_model.methods of study 'cross' must be a list"),
        (dict(methods=[["linear map"]]), "cross_model.methods of study 'cross' must be a list of one or more names"),
        (dict(methods=["linear map", "linear map"]), "without repetition"),
        (dict(tpt_seeds=[2]), "unknown entry of cross_model.tpt_seeds"),
        (dict(tpt_seeds=0), "cross_model.tpt_seeds of study 'cross' must be a list"),
        (dict(hidden_size=0), "cross_model.hidden_size"),
        (dict(learning_rate="fast"), "cross_model.learning_rate"),
        (dict(hidden=8), "did you mean 'hidden_size'"),
    ],
)
def test_a_mistake_in_cross_model_is_one_sentence(change, sentence):
    good = dict(directions=[["micro-bert", "micro-roberta"]], fitted_on=[["micro/sst2"]])
    with pytest.raises(ValueError, match=sentence):
        replace(CROSS, cross_model=good | change)
    with pytest.raises(StudyError, match="must be a table"):
        replace(CROSS, cross_model="micro-roberta")


@pytest.mark.parametrize("name", ["directions", "fitted_on"])
def test_missing_settings_of_cross_model_are_named(name, tmp_path):
    text = CROSS.to_yaml()
    there = text.index(f"  {name}:")
    following = next(place for place in (text.find(f"\n  {f.name}:", there) for f in fields(CrossModel)) if place > 0)
    (tmp_path / "study.yaml").write_text(text[:there] + text[following + 1 :])
    with pytest.raises(StudyError, match=f"CrossModel has no {name}, which is required"):
        Study.from_file(tmp_path / "study.yaml")


def test_methods_that_are_not_fitted_on_tasks_need_none():
    words = replace(CROSS.cross_model, fitted_on=(), methods=("linear map", "token mapping"), tpt_seeds=())
    assert {c.asked["method"] for c in replace(CROSS, cross_model=words).cells() if c.kind == "projected"} == {
        "linear map",
        "token mapping",
    }
    # The reverse direction is a different one.
    back = replace(words, directions=(("micro-bert", "micro-roberta"), ("micro-roberta", "micro-bert")))
    assert len([c for c in replace(CROSS, cross_model=back).cells() if c.kind == "projected"]) == 2 * (1 + 2)


def test_a_study_does_not_change_the_dictionary_it_is_given():
    given = replace(CROSS.cross_model, learning_rate="1e-3", methods=["task tuning"], fitted_on=[["micro/sst2"]])
    before = dict(vars(given))
    study = replace(CROSS, cross_model=given)
    assert vars(given) == before
    assert (study.cross_model.learning_rate, study.cross_model.fitted_on) == (0.001, (("micro/sst2",),))


def test_projectors_are_trained_with_and_without_layer_norm(crossed):
    for method, layer_norm in (("task tuning", True), ("task tuning without LayerNorm", False)):
        cell, _ = carried(crossed, method)
        assert Projector.load(Store(crossed).place(cell) / "projector.safetensors").layer_norm is layer_norm


def test_projectors_use_the_label_words_and_random_seeds_of_the_study(one_thread, tmp_path):
    crossing = replace(CROSS.cross_model, directions=CROSS.cross_model.directions[:1], methods=("task tuning",))
    study = replace(
        CROSS,
        name="unified",
        backbones=CROSS.backbones[:2],
        tasks=("micro/sst2",),
        seeds=(0,),
        random_seeds=(4, 5),
        steps=2,
        eval_every=2,
        unified_label_words=True,
        cross_model=replace(crossing, tpt_seeds=()),
    )
    study.run(tmp_path, workers=1, progress=False)
    (cell,) = [cell for cell in cells_in(study, tmp_path) if cell.kind == "projected"]
    projector = Projector.load(Store(tmp_path).place(cell) / "projector.safetensors")
    assert projector.metadata["label_words"] == [["1", "2"]]
    result = json.loads((Store(tmp_path).place(cell) / "result.json").read_text())
    accuracies = {(row["source"], row["seed"]): row["accuracy"] for row in result["rows"] if row["split"] == "dev"}
    assert accuracies.keys() == {("micro/sst2", 0), ("random", 4), ("random", 5)}
    backbone, data = Backbone.from_pretrained("micro-roberta"), load_task("micro/sst2", max_eval=CROSS.max_eval)
    in_words = replace(data, task=unify_label_words([data.task])["micro/sst2"])
    for seed in (4, 5):
        noise = random_prompt(Backbone.from_pretrained("micro-bert"), study.length, seed)
        assert accuracies["random", seed] == evaluate(backbone, projector.project(noise, backbone), in_words).accuracy


def test_keys_of_mapped_prompts_include_the_seeds_of_untrained_vectors():
    ours, theirs = (
        {cell.key for cell in study.cells() if cell.kind == "projected"}
        for study in (CROSS, replace(CROSS, random_seeds=(2, 3)))
    )
    assert ours and not ours & theirs


@pytest.mark.parametrize("name", [*PRESETS, "cross"])
def test_labels_of_cells_are_unique(name):
    labels = [cell_label(cell) for cell in (CROSS if name == "cross" else Study.from_preset(name)).cells()]
    assert len(set(labels)) == len(labels)


def test_the_paper_preset_has_the_papers_directions():
    crossing = Study.from_preset("paper").cross_model
    assert crossing.directions == (("bert-base-uncased", "roberta-base"), ("roberta-base", "roberta-large"))
    assert crossing.fitted_on == (("imdb", "laptop"), ("mnli",)) and crossing.methods == (*METHODS,)
    assert (crossing.hidden_size, crossing.learning_rate, crossing.mapping_learning_rate) == (768, 5e-3, 1e-4)


def test_keys_depend_on_the_settings_of_a_method():
    slower = replace(CROSS, cross_model=replace(CROSS.cross_model, mapping_steps=5))
    ours, theirs = ([cell for cell in s.cells() if cell.kind == "projected"] for s in (CROSS, slower))
    changed = {one.asked["method"] for one, other in zip(ours, theirs, strict=True) if one.key != other.key}
    assert changed == {"token mapping", "prompt mapping"}


# ---- initial vectors and learning rates


def test_a_prompt_may_start_from_the_vocabulary_with_a_falling_relative_rate(one_thread, tmp_path):
    settings = dict(init="vocabulary", relative=True, schedule="linear", warmup=5, learning_rate=0.1)
    study = replace(TINY, name="begun", tasks=("micro/sst2",), **settings)
    study.run(tmp_path, workers=1, progress=False)
    (cell,) = [cell for cell in cells_in(study, tmp_path) if cell.kind == "tune"]
    backbone, data = Backbone.from_pretrained("micro-bert"), load_task("micro/sst2", max_train=120, max_eval=40)
    training = {name: getattr(study, name) for name in ("steps", "eval_every", *settings) if name != "init"}
    run = tune_prompt(backbone, data, vocabulary_prompt(backbone, study.length, 0), progress=False, **training)
    kept = SoftPrompt.load(Store(tmp_path).place(cell) / "prompt.safetensors")
    assert torch.equal(kept.values, run.prompt.values)
    assert {name: cell.asked[name] for name in settings} == settings
    plain = {name for other in TINY.cells() for name in other.asked}
    assert not plain & {"init", "relative", "schedule", "warmup"}  # the keys of other studies do not change


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"init": "zeros"}, "unknown init 'zeros'"),
        ({"schedule": "linaer"}, "did you mean 'linear'"),
        ({"warmup": -1}, "warmup of study 'tiny' must be a whole number of at least 0"),
        ({"relative": "yes"}, "relative of study 'tiny' must be true or false"),
        ({"relative": True, "probe_steps": 5}, "probes of study 'tiny' start from random vectors"),
    ],
)
def test_an_unknown_initialization_is_rejected(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(TINY, **settings)


# ---- models and data that change under the same name


@pytest.fixture
def two_tasks(local_data, tmp_path):
    "A copy of that data folder, to be modified."
    shutil.copytree(local_data, tmp_path / "data")
    return tmp_path / "data"


SHORT = replace(TINY, name="short", tasks=("mrpc", "sst2"), steps=2, eval_every=2, random_seeds=())


def test_changed_rows_are_recognized_before_anything_is_computed(two_tasks, tmp_path, one_thread):
    out = SHORT.run(tmp_path / "out", data=two_tasks, workers=1, progress=False)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    dev = two_tasks / "tasks" / "sst2" / "dev.jsonl"
    dev.write_text(dev.read_text().replace("the", "a"))
    more = replace(SHORT, seeds=(0, 1))
    for study in (SHORT, more):
        with pytest.raises(StudyError, match="the dev rows of 'sst2' changed since then|differs in seeds"):
            study.run(out, data=two_tasks, workers=1, progress=False)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_label_words_are_part_of_the_rows(monkeypatch):
    data = load_task("micro/mrpc", max_eval=10)
    other = replace(data, task=replace(data.task, label_words=("yes", "no")))
    assert data.fingerprint("dev") != other.fingerprint("dev")
    assert data.fingerprint("dev") == load_task("micro/mrpc", max_eval=10).fingerprint("dev")
    assert data.fingerprint("dev") != load_task("micro/mrpc", max_eval=9).fingerprint("dev")


@pytest.fixture
def two_models(tmp_path):
    "Two folders with the same name and different weights, each in its own models folder."
    places = []
    for place, micro in (("a", "micro-bert"), ("b", "micro-bert")):
        shutil.copytree(model_folder(micro), tmp_path / place / "checkpoint-500")
        places.append(tmp_path / place)
    file = places[1] / "checkpoint-500" / "model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    return places


def test_changed_weights_are_recognized(two_models, tmp_path, one_thread):
    study = replace(TINY, backbones=("checkpoint-500",), tasks=("micro/sst2",), steps=2, eval_every=2, random_seeds=())
    out = study.run(tmp_path / "out", models=two_models[0], workers=1, progress=False)
    study.run(out, models=two_models[0], workers=1, progress=False)
    with pytest.raises(StudyError, match="the weights of 'checkpoint-500' changed since then"):
        study.run(out, models=two_models[1], workers=1, progress=False)


def test_a_checkpoint_of_another_model_with_the_same_name_is_rejected(two_models, tmp_path):
    one, other = (Backbone.from_pretrained(place / "checkpoint-500") for place in two_models)
    data, settings = load_task("micro/sst2", max_train=60, max_eval=20), dict(steps=2, eval_every=2, progress=False)
    run = tune_prompt(one, data, length=4, checkpoint=tmp_path / "checkpoint", **settings)
    with pytest.raises(ValueError, match="belongs to another run: it differs in fingerprint"):
        tune_prompt(other, data, length=4, checkpoint=tmp_path / "checkpoint", **settings)
    assert (run.prompt.belongs_to(one), run.prompt.belongs_to(other)) == (True, False)
    saved = SoftPrompt.load(run.prompt.save(tmp_path / "prompt.safetensors"))
    assert (saved.belongs_to(one), saved.belongs_to(other)) == (True, False)
    with pytest.warns(UserWarning, match="was trained for a model other than 'checkpoint-500'"):
        evaluate(other, saved, data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(one, saved, data)


def test_the_command_reports_whether_a_prompt_belongs_to_the_model(two_models, tmp_path, capsys):
    one, data = Backbone.from_pretrained(two_models[0] / "checkpoint-500"), load_task("micro/sst2", max_train=60)
    run = tune_prompt(one, data, length=4, steps=1, eval_every=1, progress=False)
    file = run.prompt.save(tmp_path / "prompt.safetensors")
    for place, belongs in zip(two_models, (True, False), strict=True):
        assert main(["evaluate", str(file), "micro/sst2", "--backbone", str(place / "checkpoint-500"), "--json"]) == 0
        said = capsys.readouterr()
        assert json.loads(said.out)["trained_for_this_model"] is belongs
        assert ("was trained for a model other than" in said.err) == (not belongs)


def test_rows_that_change_during_a_study_are_not_mixed_with_the_others(two_tasks, tmp_path, monkeypatch):
    dev, tune = two_tasks / "tasks" / "sst2" / "dev.jsonl", KINDS["tune"]

    def change_then_tune(*asked):
        dev.write_text(dev.read_text().replace("the", "a"))
        experiments.forget()  # as in another process
        return tune.answer(*asked)

    monkeypatch.setitem(KINDS, "tune", replace(tune, answer=change_then_tune))
    with pytest.raises(CellsFailedError, match="the dev rows of 'sst2' changed while the study ran"):
        SHORT.run(tmp_path / "out", data=two_tasks, workers=1, progress=False)


def test_a_study_may_grow_and_change_irrelevant_settings(two_tasks, tmp_path, one_thread):
    out = SHORT.run(tmp_path / "out", data=two_tasks, workers=1, progress=False)
    written = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/[!.]*/*")}
    for grown in (replace(SHORT, tpt_steps=1), replace(SHORT, name="grown", random_seeds=(0,))):
        grown.run(out, data=two_tasks, workers=1, progress=False)
        assert written.items() <= {path: path.stat().st_mtime_ns for path in out.glob("cells/*/[!.]*/*")}.items()
        assert Study.from_file(out / "study.yaml") == grown and grown.status(out)["missing"].sum() == 0
    with pytest.raises(StudyError, match="which differs in random_seeds"):
        SHORT.run(out, data=two_tasks, workers=1, progress=False)


def test_a_packed_study_may_grow_too(two_tasks, tmp_path, one_thread):
    out = SHORT.run(tmp_path / "out", data=two_tasks, workers=1, progress=False)
    assert main(["study", "pack", str(out), "--json"]) == 0
    grown = replace(SHORT, random_seeds=(0,))
    grown.run(out, data=two_tasks, workers=1, progress=False)
    assert len(Store(out).keys()) == len(grown.cells()) and grown.status(out)["missing"].sum() == 0


def test_a_folder_of_an_earlier_version_can_be_read_but_not_continued(two_tasks, tmp_path, one_thread):
    "Its questions have no fingerprints."
    out = SHORT.run(tmp_path / "out", data=two_tasks, workers=1, progress=False)
    known = cells_in(SHORT, out)
    for cell, old in zip(known, SHORT.cells(), strict=True):
        Store(out).place(cell).rename(Store(out).place(old))
    (out / "study.yaml").write_text(SHORT.to_yaml())
    assert SHORT.status(out)["missing"].sum() == 0
    with pytest.warns(UserWarning, match="an earlier version computed it"):  # it is finished, so nothing is to be done
        SHORT.run(out, data=two_tasks, workers=1, progress=False)
    with pytest.raises(StudyError, match="which differs in random_seeds"):
        replace(SHORT, random_seeds=(0,)).run(out, data=two_tasks, workers=1, progress=False)


@pytest.mark.parametrize(
    "noted",
    ["3", "[]", "{models: {}}", "{models: {a: 1}, rows: {}}", "{models: {}, rows: {a: b}}", "{rows: 3, models: 3}"],
)
def test_invalid_fingerprints_are_rejected(noted, tmp_path):
    (tmp_path / "study.yaml").write_text(TINY.to_yaml() + f"fingerprints: {noted}\n")
    with pytest.raises(StudyError, match="are not valid"):
        recorded_fingerprints(tmp_path)


def test_a_new_metric_or_method_does_not_enter_existing_studies(monkeypatch):
    before = [[cell.key for cell in Study.from_preset(name).cells()] for name in PRESETS]
    monkeypatch.setitem(METHODS, "a new method", ())
    named = ("euclidean_concat", "euclidean_average", "cosine_concat", "cosine_average", "neuron_overlap")
    untuned = ("directly reused", "linear map", "relative representations", "token mapping", "prompt mapping")
    assert named == PAPERS_METRICS == Study.from_preset("micro-sources").metrics
    tuned = ("task tuning", "task tuning without LayerNorm")
    assert (*untuned, *tuned) == study_module.PAPERS_METHODS == Study.from_preset("paper").cross_model.methods
    source = (
        Path(study_module.__file__).with_name("experiments.py").read_text() + Path(study_module.__file__).read_text()
    )
    for name in ("PAPERS_METRICS", "PAPERS_METHODS"):  # the words themselves, not whatever there is
        assert re.search(rf'^{name} = \("', source, re.M), name
    assert [[cell.key for cell in Study.from_preset(name).cells()] for name in PRESETS] == before
    asked = [cell.asked for cell in replace(STARTS, metrics=("cosine_concat",)).cells() if cell.kind == "probe"]
    assert asked and all(one["metrics"] == ["cosine_concat"] for one in asked)


# ---- answers of other folders


def test_answers_of_another_study_are_copied_instead_of_computed(two_tasks, tmp_path, one_thread, monkeypatch):
    out = SHORT.run(tmp_path / "out", data=two_tasks, workers=1, progress=False)
    pack(out, tmp_path / "packed", cells_in(SHORT, out))
    more = replace(SHORT, name="more", random_seeds=(0,))
    computed = []
    monkeypatch.setattr(
        study_module, "answer", lambda cell, *args, **given: computed.append(cell.kind) or answer(cell, *args, **given)
    )
    for source in (out, tmp_path / "packed"):
        again = more.run(tmp_path / f"from-{source.name}", data=two_tasks, reuse=[source], workers=1, progress=False)
        assert computed == ["transfer", "transfer"] and more.status(again)["missing"].sum() == 0
        computed.clear()
        for cell in cells_in(SHORT, out):
            for file in Store(out).place(cell).iterdir():
                assert (Store(again).place(cell) / file.name).read_bytes() == file.read_bytes()


def test_parts_of_a_study_are_merged(two_tasks, tmp_path, one_thread, capsys, monkeypatch):
    monkeypatch.setattr(study_module, "run_cells", partial(study_module.run_cells, patience=0))
    whole = SHORT.run(tmp_path / "whole", data=two_tasks, workers=1, progress=False)
    parts = [tmp_path / "a", tmp_path / "b"]
    for number, part in enumerate(parts, 1):
        with suppress(CellsFailedError):  # what needs the other part's prompts waits
            SHORT.run(part, data=two_tasks, workers=1, progress=False, shard=(number, 2))
    assert main(["study", "merge", str(tmp_path / "all"), *map(str, parts), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    taken = [said[str(part)] for part in parts]
    assert all(taken) and sum(taken) + said["missing"] == len(SHORT.cells())
    assert len(Store(tmp_path / "all").keys()) == sum(taken) == sum(len(Store(part).keys()) for part in parts)
    SHORT.run(tmp_path / "all", data=two_tasks, workers=1, progress=False)
    assert answers(SHORT, tmp_path / "all") == answers(SHORT, whole)


# ---- own tasks

REVIEWS = {"reviews": {"task_type": "SA", "label_words": {"negative": "bad", "positive": ["good", "great"]}}}


@pytest.fixture
def reviews(local_data, tmp_path):
    "A data folder with a task that is described only by its study or its own file."
    folder = tmp_path / "data" / "tasks" / "reviews"
    folder.mkdir(parents=True)
    for split in ("train", "dev"):
        shutil.copy(local_data / "tasks" / "sst2" / f"{split}.jsonl", folder)
    shutil.copytree(local_data / "tasks" / "mrpc", folder.parent / "mrpc")
    (folder / "task.yaml").write_text(yaml.safe_dump(REVIEWS["reviews"]))
    return folder.parents[1]


def test_a_study_may_have_its_own_tasks(reviews, tmp_path, one_thread):
    study = replace(SHORT, tasks=("reviews", "mrpc"), own_tasks=REVIEWS, tpt=("other types",), tpt_steps=1)
    (tmp_path / "own.yaml").write_text(study.to_yaml())
    assert Study.from_file(tmp_path / "own.yaml") == study
    out = study.run(tmp_path / "out", data=reviews, workers=2, progress=False)
    assert study.status(out)["missing"].sum() == 0
    (prompt,) = (prompt for prompt in prompts(study, out) if prompt.task == "reviews")
    assert prompt.metadata["label_words"] == ["bad", ["good", "great"]]
    assert (write_report(Results(out)).parent / "transfer.csv").is_file()


def test_a_task_folder_is_accepted_on_the_command_line(reviews, tmp_path, capsys):
    folder, file = str(reviews / "tasks" / "reviews"), str(tmp_path / "prompt.safetensors")
    assert (
        main(
            [
                "tune",
                folder,
                "--backbone",
                "micro-bert",
                "--length",
                "4",
                "--steps",
                "2",
                "--eval-every",
                "1",
                "--out",
                file,
            ]
        )
        == 0
    )
    assert SoftPrompt.load(file).task == "reviews"
    capsys.readouterr()
    assert main(["evaluate", file, folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == len(load_task(folder).dev) == 150


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        *(("3", "declares no task"), ("task_type: SA", "declares no task"), ("task_type: [", "not YAML")),
        ("task_type: SA\nlabel_words: {a: b, c: d}\nlabels: 3", "declares no task"),
        ("task_type: SB\nlabel_words: {a: b, c: d}", "unknown task type 'SB'"),
        ("task_type: SA\nlabel_words: {a: 1, c: d}", "must have text for every"),
        ("task_type: SA\nlabel_words: {a: [x, true], c: d}", "must have text for every"),
        ("task_type: SA\nlabel_words: {a: b}", "needs at least two labels"),
        ("task_type: SA\nname: ../x\nlabel_words: {a: b, c: d}", "a task cannot be named '../x'"),
    ],
)
def test_an_invalid_task_file_is_one_sentence(text, sentence, tmp_path):
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        load_task(tmp_path)


# ---- disks, paths, pipes and damaged files


@contextmanager
def no_file_above(size):
    "As on a full disk: this process, and those that it starts, cannot write a longer file."
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_fails_cells_and_leaves_nothing_incomplete(tmp_path, workers, one_thread, capsys):
    (tmp_path / "short.yaml").write_text(replace(SHORT, tasks=("micro/mrpc", "micro/sst2")).to_yaml())
    words = ["study", "run", str(tmp_path / "short.yaml"), "--out", str(tmp_path / "out"), "--workers"]
    with no_file_above(2000):
        assert main([*words, str(workers)]) == 1
    said = capsys.readouterr().err
    assert "File too large" in said and "Traceback" not in said
    study = Study.from_file(tmp_path / "out" / "study.yaml")
    assert study.status(tmp_path / "out").loc["tune", "done"] == 0
    assert not list((tmp_path / "out").glob("cells/*/*.part"))
    assert main([*words, "1", "--retry-failed"]) == 0
    assert study.status(tmp_path / "out")["missing"].sum() == 0


@pytest.mark.parametrize("place", ["a file", "/dev/null"])
def test_a_path_that_is_not_a_folder_is_one_sentence(place, tmp_path, capsys):
    (tmp_path / "a file").touch()
    assert main(["study", "run", "micro", "--out", place if place[0] == "/" else str(tmp_path / place)]) == 2
    said = capsys.readouterr().err
    assert "is not a folder" in said and said.count("\n") == 1


def test_the_reader_of_an_answer_may_stop_early():
    "This includes the answer of a failed run, in JSON: see `test_control_characters_in_a_failure_are_escaped`."
    said = subprocess.run(f"{COMMAND} release list | true", shell=True, capture_output=True, text=True)
    assert said.stderr == ""


def test_a_script_from_standard_input_cannot_have_workers(tmp_path):
    script = (
        f"from prompt_transferability.study import Study\nStudy.from_preset('micro').run({str(tmp_path)!r}, workers=2)"
    )
    said = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True)
    assert "StoreError: a script that was read from <stdin> cannot be started again" in said.stderr


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (TINY.to_yaml().encode() + "# é".encode("latin-1"), "UTF-8"),
        (
            TINY.to_yaml().encode() + b"fine_tuning_rates: [[1e-4]]",
            "fine_tuning_rates.* twice|twice.*fine_tuning_rates",
        ),
        (TINY.to_yaml().replace("fine_tuning_rates: []", "fine_tuning_rates: [[1e-4]]").encode(), "fine_tuning_rates"),
        (b"", "declares no study"),
        (TINY.to_yaml().encode()[:10], "declares no study"),
    ],
)
def test_unreadable_study_files_are_one_sentence(content, sentence, tmp_path):
    (tmp_path / "study.yaml").write_bytes(content)
    with pytest.raises(StudyError, match=sentence) as refused:
        Study.from_file(tmp_path / "study.yaml")
    assert "\n" not in str(refused.value)


def damaged(out, kind):
    "A copy of the answer of a cell of this kind, to be damaged."
    cell = next(cell for cell in cells_in(SHORT, out) if cell.kind == kind)
    return Store(out).place(cell)


@pytest.mark.parametrize(
    ("kind", "file", "change"),
    [
        *((kind, "result.json", lambda text: "") for kind in ("data", "tune", "transfer")),
        *((kind, "result.json", lambda text: text[: len(text) // 2]) for kind in ("data", "tune", "transfer")),
        *((kind, "result.json", lambda text: "{}") for kind in ("data", "tune", "transfer")),
        *((kind, "result.json", lambda text: "3") for kind in ("data", "tune", "transfer")),
        ("tune", "result.json", lambda text: text.replace('"majority"', '"minority"')),
        ("tune", "result.json", lambda text: text.replace('"step": [\n   0,', '"step": [')),
        ("tune", "result.json", lambda text: re.sub(r'"accuracy": 0\.\d+', '"accuracy": 127', text, count=1)),
        ("transfer", "result.json", lambda text: re.sub(r'"accuracy": [\d.]+', '"accuracy": 255', text)),
        ("transfer", "result.json", lambda text: re.sub(r'"accuracy": [\d.]+', '"accuracy": NaN', text)),
        ("transfer", "result.json", lambda text: text.replace('"mrpc"', '"mrcp"').replace('"sst2"', '"sts2"')),
        *((kind, "provenance.json", lambda text: "{}") for kind in ("data", "tune")),
        ("tune", "provenance.json", lambda text: text.replace('"seconds": ', '"seconds": -')),
        ("tune", "provenance.json", lambda text: text.replace('"libraries": {', '"libraries": 3, "x": {')),
    ],
)
def test_an_incomplete_answer_is_named(kind, file, change, two_tasks, tmp_path, short, capsys):
    shutil.copytree(short, tmp_path / "out")
    path = damaged(tmp_path / "out", kind) / file
    path.write_text(change(before := path.read_text()))
    assert path.read_text() != before
    assert main(["study", "report", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and (path.parent.name in said or path.name in said)


@pytest.fixture(scope="module")
def short(local_data, one_thread, tmp_path_factory):
    return SHORT.run(tmp_path_factory.mktemp("short"), data=local_data, workers=1, progress=False)


def test_links_in_a_report_are_replaced_and_not_followed(short, tmp_path):
    shutil.copytree(short, tmp_path / "out")
    report, outside = tmp_path / "out" / "report", tmp_path / "outside"
    report.mkdir()
    outside.write_text("mine")
    for name in ("index.html", "summary.csv", "transfer.svg"):
        (report / name).symlink_to(outside)
    (tmp_path / "out" / ".study.yaml.part").symlink_to(outside)
    write_report(Results(tmp_path / "out"))
    assert outside.read_text() == "mine" and not (report / "index.html").is_symlink()
    shutil.rmtree(report)
    (tmp_path / "elsewhere").mkdir()
    report.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StudyError, match="is not a folder of this study"):
        write_report(Results(tmp_path / "out"))
    assert not list((tmp_path / "elsewhere").iterdir())


# ---- the cost of a study, and the differences between two runs


def test_a_plan_counts_what_is_computed(two_tasks, tmp_path, short):
    study = replace(SHORT, random_seeds=(0,), fine_tuning_rates=(1e-4,), tpt=("other types",), tpt_steps=1)
    table = study.plan(short, data=two_tasks)
    assert table["cells"].sum() == len(study.cells())
    assert table.loc[("tune", "micro-bert"), ["cells", "done", "learned", "hours"]].tolist() == [2, 2, 0, 0]
    dev, test = {"mrpc": 40, "sst2": 40}, {"sst2": 40}
    expected = {"fine_tune": (2 * 2 * 16, 2 * sum(dev.values()) + 40), "tpt": (2 * 16, 2 * sum(dev.values()) + 40)}
    expected["transfer"] = (0, sum(dev.values()) + sum(test.values()))  # those of the random prompt
    for kind, (learned, read) in expected.items():
        row = table.loc[(kind, "micro-bert")]
        assert (row["learned"], row["read"]) == (learned, read) and row["hours"] > 0 and row["operations"] > 0


@pytest.mark.parametrize(("kind", "times"), [("tune", 2), ("fine_tune", 3), ("transfer", 0)])
def test_training_costs_a_backward_pass_and_gradients_of_weights(kind, times):
    study = replace(SHORT, fine_tuning_rates=(1e-4,))
    cell = next(cell for cell in study.cells() if cell.kind == kind)
    rows = {task: {"dev": 7, "test": 3} for task in study.tasks}
    learned, read = KINDS[kind].texts(cell, rows)
    assert operations(cell, rows, weights=10, positions=5) == 2 * 10 * 5 * (times * learned + read) > 0


def test_the_command_plans_and_prints_a_slurm_script(two_tasks, tmp_path, capsys):
    (tmp_path / "short.yaml").write_text(SHORT.to_yaml())
    assert main(["study", "plan", str(tmp_path / "short.yaml"), "--data", str(two_tasks), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["cells"] == len(SHORT.cells()) and said["done"] == 0 and said["hours"] > 0
    words = ["study", "slurm", str(tmp_path / "short.yaml"), "--out", "/shared/my study", "--parts", "7", "--gpu"]
    assert main(words) == 0
    script = capsys.readouterr().out
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert "#SBATCH --array=1-7\n" in script and "#SBATCH --gres=gpu:1\n" in script
    assert "--out '/shared/my study'" in script and '--shard "$SLURM_ARRAY_TASK_ID/7"' in script


def test_differences_between_two_runs_are_listed(two_tasks, tmp_path, short, capsys):
    shutil.copytree(short, tmp_path / "same")
    other = replace(SHORT, steps=20, eval_every=20, learning_rate=1).run(
        tmp_path / "other", data=two_tasks, workers=1, progress=False
    )
    assert main(["study", "diff", str(short), str(tmp_path / "same"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["different"], said["outside"], said["first"], said["second"]) == (0, 0, 0, 0) and said["numbers"] > 5
    assert main(["study", "diff", str(short), str(other), "--csv", str(tmp_path / "all.csv"), "--json"]) == 0
    said, table = json.loads(capsys.readouterr().out), pd.read_csv(tmp_path / "all.csv")
    assert said["numbers"] == len(table) and said["different"] == (table["difference"] != 0).sum() > 0
    assert ((table["other"] - table["one"]) - table["difference"]).abs().max() < 1e-12
    within = (table["other"] >= table["low"]) & (table["other"] <= table["high"])
    assert (within == table["inside"]).all() and said["outside"] == (~within).sum()


def test_selected_cells_are_recomputed_from_the_answers_that_they_need(two_tasks, tmp_path, short, capsys):
    shutil.copytree(short, tmp_path / "kept")
    cells = SHORT.cells(recorded_fingerprints(short))
    chosen = next(cell for cell in cells if cell.kind == "transfer" and cell.needs)
    (needed,) = (cell for cell in chosen.needs if cell.kind == "tune")
    (Store(tmp_path / "kept").place(chosen) / "result.json").write_text('{"wrong": 1}')  # it is not read
    words = ["study", "run", str(tmp_path / "kept" / "study.yaml"), "--reuse", str(tmp_path / "kept")]
    words += ["--data", str(two_tasks), "--out", str(tmp_path / "again"), "--workers", "1", "--json", "--only"]
    assert main([*words, chosen.key]) == 0
    again = Store(tmp_path / "again")
    assert again.read(chosen) == Store(short).read(chosen)
    assert again.keys() < Store(short).keys() and {chosen.key, needed.key} <= again.keys()
    assert again.read(needed, "provenance") == Store(short).read(needed, "provenance")  # copied
    assert again.read(chosen, "provenance")["command"] != Store(short).read(chosen, "provenance")["command"]
    assert main(["study", "diff", str(short), str(again.folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["both"], told["second"], told["different"]) == (len(again.keys()), 0, 0)
    assert main([*words, "0123456789abcdef"]) == 2 and "has no cell 0123456789abcdef" in capsys.readouterr().err
    words[words.index("--out") + 1] = str(tmp_path / "one")
    assert main([*words, needed.key]) == 0 and not (tmp_path / "one" / "report").exists()  # too little for a report


def test_runs_of_different_studies_are_not_equal(two_tasks, tmp_path, short, capsys):
    other = replace(SHORT, tasks=("mrpc",), backbones=("micro-roberta",), random_seeds=(), cross_task=False, steps=1)
    other.run(tmp_path / "other", data=two_tasks, workers=1, progress=False)
    (tmp_path / "kept.csv").write_text("mine")
    assert main(["study", "diff", str(short), str(tmp_path / "other"), "--csv", str(tmp_path / "kept.csv")]) == 2
    assert "have no number in common; give two runs of one study" in capsys.readouterr().err
    assert (tmp_path / "kept.csv").read_text() == "mine"
    assert main(["study", "diff", str(short), str(short)]) == 0
    assert "largest: none\n" in capsys.readouterr().out


# ---- shards that need each other


def test_parts_that_run_at_the_same_time_wait_for_each_other(short, two_tasks, tmp_path, fork):
    (tmp_path / "short.yaml").write_text(SHORT.to_yaml())
    out = tmp_path / "out"
    words = ["study", "run", tmp_path / "short.yaml", "--data", two_tasks, "--out", out, "--workers", "1", "--shard"]
    parts = [fork(partial(main, [*map(str, words), f"{i}/2"])) for i in (1, 2)]
    codes = [part.wait() for part in parts]
    assert 0 in codes  # the last one at least had nothing left to wait for
    assert answers(SHORT, out) == answers(SHORT, short)


def test_a_part_with_too_few_cells_for_a_report_succeeds(two_tasks, tmp_path, capsys):
    (tmp_path / "short.yaml").write_text(SHORT.to_yaml())
    words = ["study", "run", tmp_path / "short.yaml", "--data", two_tasks, "--out", tmp_path / "out", "--workers", "1"]
    assert main([*map(str, words), "--shard", f"1/{len(SHORT.cells())}"]) == 0, capsys.readouterr().err
    assert [path.parent.name for path in (tmp_path / "out" / "cells").glob("*/*")] == ["data"]


# ---- the studies of the paper, with models that are small enough for a test


@pytest.fixture(scope="module")
def small_papers(tmp_path_factory):
    "Models and tasks of the micro world under the names of the paper's."
    models, data = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("data")
    names = {"roberta-base": "micro-roberta", "bert-base-uncased": "micro-bert", "roberta-large": "micro-roberta-large"}
    for name, micro in names.items():
        shutil.copytree(model_folder(micro), models / name)
    for task in PAPERS_FEW:
        (data / "tasks" / task).mkdir(parents=True)
        for split, rows in load_task(f"micro/{task}", max_train=16, max_eval=4).splits().items():
            rows = rows.to_pandas()
            rows["label"] = [ALL_TASKS[task].labels[label] for label in rows["label"]]
            rows.to_json(data / "tasks" / task / f"{split}.jsonl", orient="records", lines=True)
    return {"models": models, "data": data}


PAPERS_FEW = ("imdb", "laptop", "mnli")  # those that projectors learn from


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("paper")])
def test_the_studies_of_the_paper_run_completely(name, small_papers, one_thread, tmp_path):
    study = Study.from_preset(name)
    smaller = dict(length=3, seeds=(0,), random_seeds=study.random_seeds[:1], steps=2, eval_every=2)
    asked = {cell.kind for cell in study.cells()}
    if study.cross_model is not None:
        crossing = replace(study.cross_model, tpt_seeds=(0,), hidden_size=4, steps=2, mapping_steps=2, eval_every=2)
        smaller["cross_model"] = crossing
    study = replace(study, tasks=tuple(task for task in PAPERS_FEW if task in study.tasks), **smaller)
    results = Results(study.run(tmp_path, **small_papers, workers=1, progress=False))
    for kind in asked:
        assert len(results.table(kind)) > 0, kind
    if name == "paper":
        assert {"fine_tune", "control", "probe"} == KINDS.keys() - asked
        assert results.transfer("roberta-large").shape == (len(PAPERS_FEW) + 1, len(PAPERS_FEW))
    write_report(results)


# ---- kills at random moments


@pytest.mark.parametrize("moment", range(int(os.environ.get("MOMENTS", "2"))))
def test_a_run_that_ends_at_any_moment_loses_nothing(moment, short, two_tasks, tmp_path, fork):
    "The run or one of its workers is killed or terminated; MOMENTS=40 tries forty moments."
    chance = random.Random(moment)
    (tmp_path / "short.yaml").write_text(SHORT.to_yaml())
    out = tmp_path / "out"
    words = ["study", "run", tmp_path / "short.yaml", "--data", two_tasks, "--out", out, "--workers", "2"]
    run = fork(partial(main, [*map(str, words)]), OMP_NUM_THREADS="1")
    time.sleep(chance.uniform(0, 10))
    family = [run.pid, *descendants(run.pid)]
    with suppress(ProcessLookupError):
        os.kill(chance.choice(family), chance.choice((signal.SIGKILL, signal.SIGTERM)))
    run.wait(60)
    deadline = time.monotonic() + 10
    while any(map(alive, family)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, family)), "a process outlived its run"
    for place in out.glob("cells/*/[!.]*"):
        assert {"cell.json", "result.json", "provenance.json"} <= {path.name for path in place.iterdir()}
        assert json.loads((place / "result.json").read_text())
    SHORT.run(out, data=two_tasks, workers=1, progress=False, retry_failed=True)
    assert halves(out) == [] and answers(SHORT, out) == answers(SHORT, short)
    for cell in cells_in(SHORT, short):
        for file in Store(short).place(cell).glob("*.safetensors"):
            assert (Store(out).place(cell) / file.name).read_bytes() == file.read_bytes()


def descendants(process):
    children = [
        int(pid) for path in Path(f"/proc/{process}/task").glob("*/children") for pid in path.read_text().split()
    ]
    return children + [below for child in children for below in descendants(child)]


def alive(process):
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# ---- fingerprints in questions


@pytest.mark.parametrize("kind", [*KINDS])
def test_every_question_contains_the_fingerprints_of_what_is_read(kind):
    "Other weights or rows under the same name change the question of every kind that reads them."
    study = replace(
        CROSS,
        cross_task=True,
        fine_tuning_rates=(1e-4,),
        tpt=("best", "every"),
        tpt_mixes=("mean", "weighted"),
        probe_steps=2,
        controls=("vocabulary start",),
    )
    rows = {task: {split: f"{task} {split}" for split in ("train", "dev", "test")} for task in study.tasks}
    known = Fingerprints({name: name for name in study.backbones}, rows)
    plain = {cell_label(cell): cell for cell in study.cells(known) if cell.kind == kind}
    assert plain
    for name in study.backbones:
        other = study.cells(replace(known, models=known.models | {name: "others"}))
        for cell in (cell for cell in other if cell.kind == kind):
            before = plain[cell_label(cell)]
            reads = name in (before.asked.get("backbone"), before.asked.get("source_backbone"))
            assert cell.key != before.key or not reads
    for task in study.tasks:
        for split in ("train", "dev", "test"):
            other = study.cells(replace(known, rows=rows | {task: rows[task] | {split: "others"}}))
            for cell in (cell for cell in other if cell.kind == kind):
                before, asked = plain[cell_label(cell)], cell.asked
                if kind == "transfer":
                    reads = task in asked["targets"] and split == asked["split"]
                else:
                    reads = task in asked.get("tasks", [asked.get("task")])
                assert cell.key != before.key or not reads


def changed_folder(folder, name, change):
    (folder / name).write_text(json.dumps(change(json.loads((folder / name).read_text()))))
    return Backbone.from_pretrained(folder)


def test_settings_and_vocabulary_are_part_of_a_model(tmp_path):
    folders = [Path(shutil.copytree(model_folder("micro-bert"), tmp_path / name / "model")) for name in "abcd"]
    one = Backbone.from_pretrained(folders[0])
    others = [changed_folder(folders[1], "config.json", lambda config: config | {"hidden_act": "relu"})]
    others += [changed_folder(folders[2], "config.json", lambda config: config | {"num_attention_heads": 1})]

    def swapped(tokenizer):
        words = tokenizer["model"]["vocab"]
        words["good"], words["bad"] = words["bad"], words["good"]
        return tokenizer

    others += [changed_folder(folders[3], "tokenizer.json", swapped)]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 4
    noted = changed_folder(folders[0], "config.json", lambda config: config | {"transformers_version": "0.1"})
    assert noted.fingerprint == one.fingerprint
    run = tune_prompt(one, load_task("micro/sst2", max_train=32, max_eval=8), length=2, steps=1, progress=False)
    assert [run.prompt.belongs_to(other) for other in (one, *others)] == [True, False, False, False]
    in_memory = Backbone(one.model, one.tokenizer, one.name)
    assert run.prompt.belongs_to(in_memory) is None  # the two kinds of fingerprints say nothing of each other
    assert vocabulary_prompt(one, 3, 0).belongs_to(others[0]) is None


def test_mapped_prompts_are_evaluated_on_the_requested_rows(two_tasks, tmp_path, monkeypatch, one_thread):
    crossing = CrossModel(directions=(("micro-bert", "micro-roberta"),), fitted_on=(), methods=("directly reused",))
    study = replace(SHORT, backbones=("micro-bert", "micro-roberta"), cross_task=False, cross_model=crossing)
    dev, tune = two_tasks / "tasks" / "sst2" / "dev.jsonl", KINDS["tune"]

    def tune_then_cut(*asked):
        found = tune.answer(*asked)
        dev.write_text("".join(dev.read_text().splitlines(keepends=True)[:7]))
        return found

    monkeypatch.setitem(KINDS, "tune", replace(tune, answer=tune_then_cut))
    with suppress(CellsFailedError):
        study.run(tmp_path / "out", data=two_tasks, workers=1, progress=False)
    (cell,) = [cell for cell in cells_in(study, tmp_path / "out") if cell.kind == "projected"]
    rows = Store(tmp_path / "out").read(cell)["rows"] if cell in Store(tmp_path / "out") else []
    assert {row["n"] for row in rows if row["split"] == "dev"} <= {40}


def test_a_declaration_extended_in_its_folder_can_be_read(short, two_tasks, tmp_path):
    shutil.copytree(short, tmp_path / "out")
    declared = yaml.safe_load((tmp_path / "out" / "study.yaml").read_text())
    declared["tasks"].append("qqp")
    declared["backbones"].append("micro-roberta")
    (tmp_path / "out" / "study.yaml").write_text(yaml.safe_dump(declared))
    extended = Study.from_file(tmp_path / "out" / "study.yaml")
    assert extended.status(tmp_path / "out")["missing"].sum() > 0
    assert main(["study", "status", str(tmp_path / "out")]) == 0


def test_an_empty_result_is_reported_with_what_to_do(short, tmp_path, capsys):
    shutil.copytree(short, tmp_path / "out")
    for content in ("", '{"accuracy": 0.5', "{}"):
        place = next((tmp_path / "out" / "cells" / "tune").glob("*/result.json"))
        place.write_text(content)
        assert main(["study", "report", str(tmp_path / "out")]) == 2
        assert "remove its folder and run the study again" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["micro-unified", "micro-finetune"])
def test_the_plan_of_a_finished_folder_has_nothing_left_to_do(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of folders that an earlier version computed
        plan = Study.from_preset(name).plan(ROOT / "results" / name)
    assert (plan["done"] == plan["cells"]).all() and plan["hours"].sum() == 0


# ---- controls


def test_controls_and_rates_have_separate_cells(short, two_tasks, tmp_path):
    study = replace(
        SHORT,
        tasks=("imdb", "mrpc", "sst2", "qqp"),
        tpt=("same type", "other types, as many"),
        controls=("vocabulary start", "twice the steps"),
        rates=(3e-3,),
    )
    plain, planned = replace(study, controls=(), rates=()), study.cells()
    assert {cell.key for cell in plain.cells()} < {cell.key for cell in planned}
    of_kind = [cell.asked for cell in planned if cell.kind == "control"]
    assert len(of_kind) == 4 * (1 + 2 * 2)  # each task: as tuned at the other rate, two controls at both
    assert {(asked["control"], asked["steps"]) for asked in of_kind} == {
        ("as tuned", 2),
        ("vocabulary start", 2),
        ("twice the steps", 4),
    }
    assert {asked.get("init") for asked in of_kind if asked["control"] == "vocabulary start"} == {"vocabulary"}
    runs = [cell.asked for cell in planned if cell.kind == "tpt"]
    assert len(runs) == 4 * 2 * 2 and {asked["learning_rate"] for asked in runs} == {study.learning_rate, 3e-3}
    types = study.types()
    for asked in runs:
        alike = [types[name] == types[asked["task"]] for name in asked["sources"]]
        assert len(alike) == 1 and (all(alike) or not any(alike))


def test_starts_are_compared_at_their_own_rates(two_tasks, tmp_path):
    study = replace(SHORT, tpt=("best",), controls=("vocabulary start", "twice the steps"), rates=(3e-3,))
    results = Results(study.run(tmp_path / "out", data=two_tasks, workers=1, progress=False))
    runs = results.starts()
    counts = runs.groupby(["start", "learning_rate"]).size()
    assert (counts == 2).all() and len(counts) == 4 * 2
    assert runs.groupby("start")["steps"].first().to_dict() == {
        "random start": 2,
        "vocabulary start": 2,
        "twice the steps": 4,
        "best": 2,
    }
    assert set(results.tpt_runs("best", rate=3e-3)["task"]) == {"mrpc", "sst2"}
    ends = results.table("control").groupby(["control", "learning_rate"])["step"].max().unstack()
    assert ends.loc["twice the steps"].eq(4).all() and ends.loc["vocabulary start"].eq(2).all()
    compared = compare_starts(runs, "random start")
    assert compared.loc["random start", "gain"] == 0 and compared["tasks"].max() <= 2
    assert compared[["low", "high"]].isna().all(axis=None)


def test_unknown_controls_are_named():
    with pytest.raises(UnknownNameError, match="unknown control 'more coffee'"):
        replace(SHORT, controls=("more coffee",))


# ---- results changed by hand


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("transfer", lambda result: result["targets"].pop("sst2")),
        ("transfer", lambda result: result["targets"].update(mnli=result["targets"]["sst2"])),
        ("probe", lambda result: result["similarities"].pop("cosine_concat")),
        ("probe", lambda result: result["similarities"]["neuron_overlap"].clear()),
        ("probe", lambda result: result["similarities"].update(unknown={})),
        ("data", lambda result: result["rows"].update(more="\x1b[2J")),
        ("data", lambda result: result["rows"].pop("train")),
        ("tune", lambda result: result["curve"]["accuracy"].pop()),
    ],
)
def test_invalid_results_are_named(short, two_tasks, tmp_path, kind, damage):
    study = replace(SHORT, probe_steps=2)
    shutil.copytree(short, tmp_path / "out")
    study.run(tmp_path / "out", data=two_tasks, workers=1, progress=False)
    place = next((tmp_path / "out" / "cells" / kind).glob("*/result.json"))
    result = json.loads(place.read_text())
    damage(result)
    place.write_text(json.dumps(result))
    with pytest.raises(AnswerError, match=f"the result of .* cells/{kind}/.*, is not") as error:
        Results(tmp_path / "out").rows()
    assert str(error.value).isprintable()


# ---- copied answers


def test_incomplete_answers_are_not_copied(short, two_tasks, tmp_path):
    shutil.copytree(short, tmp_path / "part")
    cell = next(cell for cell in cells_in(SHORT, short) if cell.kind == "tune")
    place = Store(tmp_path / "part").place(cell)
    for damage, sentence in (
        (lambda: (place / "prompt.safetensors").unlink(), "has no prompt.safetensors"),
        (lambda: (place / "result.json").write_text('{"accuracy": 255}'), "is not valid"),
    ):
        damage()
        with pytest.raises(AnswerError, match=sentence):
            SHORT.run(tmp_path / "new", data=two_tasks, reuse=[tmp_path / "part"], workers=1, progress=False)


def test_folders_that_cannot_be_copied_from_are_named(short, two_tasks, tmp_path, capsys):
    with pytest.raises(StudyError, match="'.*nowhere' is not the folder of a study"):
        SHORT.run(tmp_path / "out", data=two_tasks, reuse=[tmp_path / "nowhere"], workers=1, progress=False)
    assert main(["study", "merge", str(tmp_path / "all"), str(short), str(tmp_path / "nowhere")]) == 2
    assert "is not the folder of a study" in capsys.readouterr().err and not (tmp_path / "all").exists()
    dev = two_tasks / "tasks" / "sst2" / "dev.jsonl"
    dev.write_text(dev.read_text().replace("the", "a"))
    other = SHORT.run(tmp_path / "other", data=two_tasks, workers=1, progress=False)
    assert main(["study", "merge", str(tmp_path / "all"), str(short), str(other)]) == 2
    assert "was computed with different inputs: the dev rows of 'sst2'" in capsys.readouterr().err


def test_a_folder_in_use_is_not_packed(short, tmp_path):
    shutil.copytree(short, tmp_path / "out")
    for shard in ((1, 1), (2, 3)):
        with Store(tmp_path / "out").owned(shard), pytest.raises(StoreError, match="has been using"):
            pack(tmp_path / "out", tmp_path / "out", cells_in(SHORT, short))


def test_a_packed_study_survives_a_kill_while_its_declaration_is_written(short, tmp_path):
    pack(short, tmp_path / "out", cells_in(SHORT, short))
    (tmp_path / "out" / "study.yaml").write_text(replace(SHORT, name="grown").to_yaml(recorded_fingerprints(short)))
    assert replace(SHORT, name="grown").status(tmp_path / "out")["missing"].sum() == 0


def test_several_processes_may_declare_one_study(tmp_path):
    script = "import sys; from prompt_transferability.cells import Store\n"
    script += "for i in range(200): Store(sys.argv[1]).declare('x')"
    both = [subprocess.Popen([sys.executable, "-c", script, tmp_path]) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0] and (tmp_path / "study.yaml").read_text() == "x"


# ---- invalid declarations


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        (
            {"task_type": "SA", "label_words": {True: "good", False: "bad"}},
            "a label is a text or a whole number; got True",
        ),
        ({"task_type": "SA", "label_words": {"a": True, "b": "no"}}, "own_tasks.r.label_words"),
        ({"task_type": "SA", "label_words": {"a": "b"}}, "needs at least two labels"),
        ({"task_type": "SA", "label_words": {"a": "b", "c": "b"}}, "b"),
        ({"task_type": "SA", "label_words": {"a": [], "c": "b"}}, "without a word"),
        (3, "own_tasks.r"),
        (None, "own_tasks.r"),
    ],
)
def test_an_invalid_own_task_is_one_sentence(own, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        Study("x", ("micro-bert",), tasks=("r",), own_tasks={"r": own})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        *(dict(own_tasks=3), dict(own_tasks={"../x": REVIEWS["reviews"]}), dict(own_tasks={3: REVIEWS["reviews"]})),
        *(
            dict(cross_model={None: 3}),
            dict(cross_model={"directions": 10**5000}),
            dict(steps=10**5000),
            dict(steps=True),
        ),
        *(dict(learning_rate=True), dict(learning_rate="1_0"), dict(fine_tuning_rates=[True]), dict(seeds=[2**64])),
        *(dict(name="\ud800"), dict(name="a\x1b[31m"), dict(backbones=["a\nb"])),
        *(dict(tasks={"micro/sst2", "micro/imdb"}), dict(seeds={0: 1}), dict(name="a\nb" * 100, steps=0)),
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_an_invalid_declaration_is_one_sentence(wrong):
    with pytest.raises(ValueError) as refused:
        Study(**{"name": "x", "backbones": ("micro-bert",), "tasks": ("micro/sst2",)} | wrong)
    assert isinstance(refused.value, StudyError | UnknownNameError) and "\n" not in str(refused.value)


def test_numpy_numbers_are_accepted():
    study = replace(TINY, seeds=(np.int64(3),), steps=np.int32(7), learning_rate=np.float32(0.5))
    assert (study.seeds, study.steps, study.learning_rate) == ((3,), 7, 0.5)
    assert Study("x", ["micro-bert"]).backbones == ("micro-bert",)


def test_control_characters_in_a_failure_are_escaped(short, two_tasks, tmp_path, capsys):
    shutil.copytree(short, tmp_path / "out")
    cell = next(cell for cell in cells_in(SHORT, short) if cell.kind == "transfer")
    shutil.rmtree(Store(tmp_path / "out").place(cell))
    forged = {"kind": "x", "key": "y", "error": "\x1b[31mred\nprompt-transfer: all is well", "traceback": ""}
    Store(tmp_path / "out").sibling(cell, "failed.json").write_text(json.dumps(forged))
    (tmp_path / "short.yaml").write_text(SHORT.to_yaml())
    words = ["study", "run", tmp_path / "short.yaml", "--data", two_tasks, "--out", tmp_path / "out", "--workers", "1"]
    assert main([*map(str, words)]) == 1
    said = capsys.readouterr().err
    assert "red" in said and "\x1b" not in said and "\nprompt-transfer: all is well" not in said
    piped = f"{shlex.join(map(str, [COMMAND, *words, '--json']))} | true"
    said = subprocess.run(piped, shell=True, capture_output=True, text=True)
    assert "Traceback" not in said.stderr and "BrokenPipe" not in said.stderr


@pytest.mark.parametrize(
    "name", ["micro", "micro-tpt", "micro-sources", "micro-unified", "micro-finetune", "micro-cross"]
)
def test_a_preset_accepts_its_finished_folder(name, tmp_path):
    out = Path(shutil.copytree(ROOT / "results" / name, tmp_path / name))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of folders that an earlier version computed
        Study.from_preset(name).run(out, workers=1, progress=False)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("content", [b"", b"{", b"\xff" * 100, None])
def test_a_truncated_prompt_of_a_cell_is_named(content, short, tmp_path, capsys):
    shutil.copytree(short, tmp_path / "out")
    cell = next(cell for cell in cells_in(SHORT, short) if cell.kind == "tune")
    file = Store(tmp_path / "out").place(cell) / "prompt.safetensors"
    file.write_bytes(file.read_bytes()[:-9] if content is None else content)
    with pytest.raises(StoreError, match=f"cells/tune/{cell.key} in 'out' is damaged: .*remove it"):
        Results(tmp_path / "out").prompts()
