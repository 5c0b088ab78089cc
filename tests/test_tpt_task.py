"Starting from other tasks' prompts: what a reader of the notebook should not have to see."

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from prompt_transferability import tpt_task
from prompt_transferability.backbones import Backbone
from prompt_transferability.checkpoints import BackboneError
from prompt_transferability.fine_tuning import fine_tune
from prompt_transferability.prompt_tuning import TuningJob, tune_prompt, tune_prompts
from prompt_transferability.prompts import PromptError, SoftPrompt, random_prompt
from prompt_transferability.similarity import similarity_matrix
from prompt_transferability.statistics import interval
from prompt_transferability.tasks import DataError, UnknownNameError, load_task
from prompt_transferability.tpt_task import (
    compare_runs,
    loss_left,
    mixed_prompt,
    paired_times,
    regret_interval,
    score_sources,
    sooner_beyond_chance,
    sooner_by_rule,
    sooner_sign_test,
    task_vector,
    train_probe,
    tune_from_tasks,
)
from prompt_transferability.training import Loop, TuningError
from prompt_transferability.zero_shot_transfer import (
    MIN_GAIN,
    decided_by_type,
    evaluate,
    kept_share,
    least_gain,
    recovered_by_kind,
    recovered_by_task,
    recovered_by_type,
    recovered_overall,
    recovered_transfer,
    transfer_matrix,
    type_gap_test,
    type_means,
)

SHORT = dict(steps=4, learning_rate=1e-2, eval_every=2, progress=False)


def test_arguments_of_another_kind_are_one_sentence():
    model, data = Backbone.from_pretrained("micro-bert", device="cpu"), load_task("micro/sst2", max_train=8, max_eval=8)
    run = tune_prompt(model, data, length=2, **SHORT)
    for mistake, error, sentence in (
        (lambda: tune_prompt("micro-bert", data), BackboneError, "a Backbone; got 'micro-bert': load a model with"),
        (lambda: tune_prompt(data, model), BackboneError, "expected a Backbone; got a TaskData"),
        (lambda: tune_prompt(model, "micro/sst2"), DataError, "got 'micro/sst2': read the rows with load_task"),
        (lambda: tune_prompt(model, data.task), DataError, "got a Task: read the rows with load_task"),
        (lambda: tune_prompt(model, data, run), PromptError, "got a TuningRun: take its .prompt"),
        (lambda: tune_prompt(model, data, run.prompt.values), PromptError, "got a Tensor: put vectors into SoftPrompt"),
        (lambda: tune_prompts(model, TuningJob(data)), TuningError, r"even for a single prompt: \[TuningJob\(data\)\]"),
        (lambda: tune_prompts(model, [data]), TuningError, "jobs must be a list of TuningJob"),
        (lambda: evaluate("micro-bert", run.prompt, data), BackboneError, "load a model with Backbone.from_pretrained"),
        (lambda: evaluate(model, run, data), PromptError, "expected a SoftPrompt; got a TuningRun: take its .prompt"),
        (lambda: evaluate(model, "p.safetensors", data), PromptError, "read its file with SoftPrompt.load"),
        (lambda: transfer_matrix(model, run.prompt, [data]), PromptError, "put a single prompt into a list"),
        (lambda: transfer_matrix(model, [run.prompt], data), DataError, "put a single task into a list"),
        (lambda: transfer_matrix(model, [run.prompt], ["sst2"]), DataError, "got 'sst2': read the rows with load_task"),
        (lambda: run.prompt.values_for("micro-bert"), BackboneError, "load a model with Backbone.from_pretrained"),
    ):
        with pytest.raises(error, match=sentence) as found:
            mistake()
        assert "\n" not in str(found.value)


def test_training_needs_gradients_but_not_that_they_are_switched_on():
    model, data = Backbone.from_pretrained("micro-bert", device="cpu"), load_task("micro/sst2", max_train=8, max_eval=8)
    with torch.no_grad():
        found = tune_prompt(model, data, length=2, **SHORT).last
    assert torch.equal(found.values, tune_prompt(model, data, length=2, **SHORT).last.values)
    with torch.inference_mode(), pytest.raises(TuningError, match="inference_mode.* forbids; train outside of it"):
        tune_prompt(model, data, length=2, **SHORT)


def test_sources_are_named_by_their_tasks_as_in_a_similarity_matrix():
    model, data = Backbone.from_pretrained("micro-bert", device="cpu"), load_task("micro/sst2", max_eval=8)
    prompts = [SoftPrompt(random_prompt(model, 2, seed).values, model.name, "mine") for seed in (0, 1)]
    matrix = transfer_matrix(model, prompts, [data], random_seeds=())
    assert [*matrix.index] == [*similarity_matrix(prompts, "cosine_average").index] == ["mine 1", "mine 2"]
    assert matrix["micro/sst2"].tolist() == [evaluate(model, prompt, data).accuracy for prompt in prompts]


@pytest.fixture(scope="module")
def backbone():
    return Backbone.from_pretrained("micro-bert", device="cpu")


@pytest.fixture(scope="module")
def data():
    return load_task("micro/sst2", max_train=200, max_eval=60)


@pytest.fixture(scope="module")
def sources(backbone):
    names = ("imdb", "mnli", "qqp")
    jobs = [TuningJob(load_task(f"micro/{name}", max_train=200, max_eval=60), seed=0) for name in names]
    runs = tune_prompts(backbone, jobs, length=6, **SHORT | dict(steps=20))
    return {name: run.prompt for name, run in zip(names, runs, strict=True)}


@pytest.fixture
def idle(monkeypatch):
    "Nothing may be measured or trained."

    def refuse(*args, **settings):
        raise AssertionError("something was computed")

    for name in ("evaluate_prompts", "tune_prompts", "tune_prompt"):
        monkeypatch.setattr(tpt_task, name, refuse)


# ---- choosing


def test_every_candidate_of_a_trial_is_tried_as_the_run_would_begin(backbone, data, sources):
    settings = dict(learning_rate=1e-2, seed=7, progress=False)
    scores = score_sources(backbone, data, sources, "trial", k=3, probe_steps=6, **settings)
    alone = {
        name: tune_prompt(backbone, data, init=prompt, steps=6, eval_every=6, **settings).best_accuracy
        for name, prompt in sources.items()
    }
    assert scores.values.to_dict() == pytest.approx(alone)
    assert (scores.steps, scores.evaluations) == (18, 9)


def test_the_seeds_of_a_trial(backbone, data, sources, monkeypatch):
    "What the order of texts is, few steps on an easy task may not show."
    seeds = []

    def spy(backbone, jobs, **settings):
        seeds.extend(job.seed for job in jobs)
        return tune_prompts(backbone, jobs, **settings)

    monkeypatch.setattr(tpt_task, "tune_prompts", spy)
    score_sources(backbone, data, sources, "trial", k=3, probe_steps=1, seed=7, progress=False)
    assert seeds == [7, 7, 7]


@pytest.mark.parametrize(
    ("asked", "error", "sentence"),
    [
        (dict(k=0), ValueError, "k must be a whole number of at least 1; got 0"),
        (dict(k=-1, mix="mean"), ValueError, "k must be a whole number of at least 1; got -1"),
        (dict(k=2.0), ValueError, "k must be a whole number"),
        (dict(k=1, mix="mean"), ValueError, "at least two sources; got k=1"),
        (dict(choose="mnli", mix="mean"), ValueError, "at least two sources; got k=3, choose='mnli'"),
        (dict(choose="mnli", mix="weighted"), ValueError, "at least two sources"),
        (dict(choose="transfers"), UnknownNameError, "did you mean 'transfer'"),
        (dict(choose=["mnli", "qqp"]), UnknownNameError, "unknown method of choosing a source"),
        (dict(stepz=4), UnknownNameError, "'stepz'; did you mean 'steps'"),
        (dict(length=5), UnknownNameError, "unknown setting of a run that starts from sources 'length'"),
        (dict(init=None), UnknownNameError, "unknown setting of a run that starts from sources 'init'"),
        (dict(steps=0), TuningError, "steps must be a whole number of at least 1"),
        (dict(choose="trial", probe_steps=0), TuningError, "probe_steps must be a whole number of at least 1"),
        (dict(learning_rate=-1), TuningError, "learning_rate must be a number above 0"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused_before_anything_is_computed(
    backbone, data, sources, idle, asked, error, sentence
):
    with pytest.raises(error, match=sentence):
        tune_from_tasks(backbone, data, sources, **asked)


@pytest.mark.parametrize("name", ["transfer", "trial", "neuron_overlap"])
def test_a_source_is_not_called_as_a_way_to_choose_is(backbone, data, sources, idle, name):
    with pytest.raises(ValueError, match=f"a source is called '{name}'"):
        tune_from_tasks(backbone, data, {name: sources["mnli"], "qqp": sources["qqp"]})


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (None, "got NoneType"),
        ({}, "got none"),
        ({"imdb": float("nan"), "mnli": float("nan")}, "a finite number for each source"),
        ({"imdb": 1.0, "mnli": float("inf")}, "a finite number for each source"),
        ({"sst2": 1.0}, "got sst2"),
    ],
    ids=str,
)
def test_a_function_that_gives_no_numbers_is_refused(backbone, data, sources, idle, said, sentence):
    with pytest.raises(ValueError, match=sentence):
        tune_from_tasks(backbone, data, sources, choose=lambda *_: said)


def test_a_mix_takes_at_most_what_there_is(backbone, data, sources):
    run = tune_from_tasks(backbone, data, sources, mix="mean", k=10, **SHORT)
    assert [source["name"] for source in run.prompt.metadata["init"]["sources"]] == [
        *score_sources(backbone, data, sources, progress=False).values.index
    ]


def test_what_a_choice_cost_is_in_the_file_and_unknown_is_not_nothing(backbone, data, sources):
    def by_length(backbone, data, sources):
        return {name: len(name) for name in sources}

    cost = tune_from_tasks(backbone, data, sources, by_length, **SHORT).prompt.metadata["init"]["choice"]
    assert (cost["steps"], cost["evaluations"]) == (None, None) and cost["seconds"] >= 0
    measured = tune_from_tasks(backbone, data, sources, **SHORT).prompt.metadata["init"]["choice"]
    assert (measured["steps"], measured["evaluations"]) == (0, 3)


# ---- what a prompt began with


def test_a_prompt_that_began_with_another_has_no_task_vector(backbone, data, sources):
    "Seed and start are not the same thing: random vectors of its seed are not what it began with."
    run = tune_prompt(backbone, data, init=sources["mnli"], seed=3, **SHORT | dict(steps=1))
    from_tasks = tune_from_tasks(backbone, data, sources, choose="mnli", **SHORT)
    for prompt in (run.prompt, run.last, from_tasks.prompt, from_tasks.last):
        with pytest.raises(PromptError, match="the initial vectors of the prompt of 'micro/sst2' are not known"):
            task_vector(prompt, backbone)
    assert run.last.metadata["init"] == {"task": "micro/mnli", "backbone": "micro-bert", "seed": 0}
    random = tune_prompt(backbone, data, length=6, seed=3, **SHORT)
    assert "init" not in random.prompt.metadata and task_vector(random.last, backbone).norm() > 0


def test_prompts_of_another_model_are_neither_vectors_of_a_task_nor_mixed(backbone, sources):
    "Even where the width is the same."
    other = SoftPrompt(sources["mnli"].values, "micro-roberta", "micro/mnli", metadata={"seed": 0})
    with pytest.raises(PromptError, match="'micro-roberta'.*carry it over with a projector"):
        task_vector(other, backbone)
    for mix in tpt_task.MIXES:
        with pytest.raises(PromptError, match="carry it over with a projector"):
            mixed_prompt(backbone, {"a": other, "b": sources["qqp"]}, {"a": 1.0, "b": 1.0}, mix)


def test_a_run_that_was_interrupted_goes_on(backbone, data, sources, tmp_path, monkeypatch):
    asked = dict(choose="transfer", mix="mean", k=2, **SHORT | dict(steps=8))
    whole = tune_from_tasks(backbone, data, sources, **asked)
    advance, stopped = Loop.advance, []

    def killed(self):
        if self.step == 5 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        advance(self)

    monkeypatch.setattr(Loop, "advance", killed)
    with pytest.raises(KeyboardInterrupt):
        tune_from_tasks(backbone, data, sources, checkpoint=tmp_path / "state", **asked)
    assert stopped and (tmp_path / "state").is_file()
    resumed = tune_from_tasks(backbone, data, sources, checkpoint=tmp_path / "state", **asked)
    assert torch.equal(resumed.prompt.values, whole.prompt.values)
    origins = [run.prompt.metadata["init"] | {"choice": None} for run in (whole, resumed)]
    assert origins[0] == origins[1]
    with pytest.raises(TuningError, match="differs in inits"):
        tune_from_tasks(backbone, data, sources, checkpoint=tmp_path / "state", **asked | dict(mix="task_vectors"))


def test_a_probe_has_its_own_evaluations(backbone, data):
    with pytest.raises(TypeError, match="multiple values for keyword argument 'eval_every'"):
        train_probe(backbone, data, 6, 2, eval_every=1)


@pytest.mark.parametrize("choose", ["neuron_overlap", "trial"])
def test_what_watches_a_run_does_not_watch_the_choice(backbone, data, sources, choose):
    steps = []
    asked = SHORT | dict(watch=lambda loop, asked: steps.append(loop.step))
    tune_from_tasks(backbone, data, sources, choose, probe_steps=2, **asked)
    assert steps == [*range(SHORT["steps"] + 1)]


# ---- what the start saved

STEPS = [0, 50, 100, 150]
RISING, LATE = [0.5, 0.6, 0.8, 0.9], [0.5, 0.5, 0.6, 0.9]


def curves(**by_run):
    "Runs named task_seed, each its accuracies."
    return pd.concat(
        pd.DataFrame({"task": name.split("_")[0], "seed": int(name.split("_")[1]), "step": STEPS, "accuracy": values})
        for name, values in by_run.items()
    )


@pytest.mark.parametrize("tolerance", [0, 0.005, 0.05, 0.2])
def test_a_run_beside_itself_takes_all_its_time(tolerance):
    table = curves(a_0=RISING, a_1=LATE, b_0=LATE, b_1=[0.7] * 4)
    times = ["convergence_time", "comparable_time"]
    assert (compare_runs(table, table, tolerance)[times] == 1).all(axis=None)
    assert (paired_times(table, table, tolerance)[times] == 1).all(axis=None)


def test_the_other_runs_do_not_change_a_run():
    "A seed that was evaluated at other steps, or that another seed stands beside."
    sparse = curves(a_1=LATE).query("step != 50")
    together = paired_times(pd.concat([curves(a_0=RISING), sparse]), curves(a_0=LATE, a_1=RISING))
    for seed, alone in enumerate((curves(a_0=RISING), sparse)):
        expected = paired_times(alone, curves(a_0=LATE, a_1=RISING)).loc[("a", seed)]
        pd.testing.assert_series_equal(together.loc[("a", seed)], expected)
    assert together["comparable_time"].tolist() == [1, 1] and together["baseline_step"].tolist() == [150, 150]


def test_sooner_beyond_chance_is_beside_other_starts_of_the_same_task():
    "Half of the pairs of starts of task a are sooner; task b has one start, so nothing to compare with."
    at_once, quick = [0.9] * 4, [0.5, 0.9, 0.9, 0.9]
    baseline = curves(a_0=LATE, a_1=quick, b_0=LATE)
    found = sooner_beyond_chance(curves(a_0=at_once, a_1=at_once, b_0=at_once), baseline)
    assert found["a"] == 0.5 and np.isnan(found["b"])
    assert sooner_beyond_chance(curves(a_0=LATE), baseline)["a"] == -0.5


def test_what_is_left_of_the_loss_is_counted_from_the_first_loss_to_the_last():
    "Whatever the order of the rows; there is no loss before the first step."
    table = pd.concat([curves(a_0=LATE).assign(loss=[np.nan, 0.8, 0.9, 0.2]), curves(a_1=LATE).assign(loss=1.5)])
    pd.testing.assert_series_equal(loss_left(table[::-1]).sort_index(), loss_left(table).sort_index())
    assert loss_left(table)[("a", 0)] == pytest.approx(0.25) and loss_left(table)[("a", 1)] == 1


@pytest.mark.parametrize("compare", [compare_runs, paired_times])
@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (curves(a_0=RISING, a_1=[0.5, np.nan, 0.6, 0.9]), "task 'a' and seed 1 has a step without an accuracy"),
        (
            pd.concat([curves(a_0=RISING), curves(a_1=LATE)[1:]]),
            "task 'a' and seed 1 has a step without an accuracy, or none at step 0",
        ),
        (curves(a_0=[100 * x for x in RISING], a_1=LATE), "divide percentages by 100"),
    ],
    ids=("NaN", "a late start", "percentages"),
)
def test_broken_curves_are_refused(compare, broken, sentence):
    with pytest.raises(ValueError, match=sentence):
        compare(broken, curves(a_0=RISING, a_1=LATE))
    with pytest.raises(ValueError, match=sentence):
        compare(curves(a_0=RISING, a_1=LATE), broken)


@pytest.mark.parametrize("tolerance", [-0.01, float("nan"), 0.5, 1])
@pytest.mark.parametrize("compare", [compare_runs, paired_times])
def test_tolerances_that_are_none_are_refused(compare, tolerance):
    with pytest.raises(ValueError, match="half a point is 0.005; got"):
        compare(curves(a_0=RISING), curves(a_0=LATE), tolerance)


def test_intervals_are_over_six_tasks_or_more():
    flat, up = [0.5] * 4, [0.5, 0.5, 0.5, 0.7]
    for tasks in (5, 6):
        names = "abcdef"[:tasks]
        ends = {f"{name}_0": [0.5, 0.5, 0.5, 0.6 + 0.05 * i] for i, name in enumerate(names)}
        found = compare_runs(curves(**ends), curves(**{f"{name}_0": flat for name in names}))
        gains, overall = found["gain"].iloc[:-1], found.loc["overall"]
        assert overall["gain"] == pytest.approx(gains.mean())
        if tasks < 6:
            assert overall[["gain_low", "gain_high", "comparable_time_low"]].isna().all()
        else:
            assert (overall["gain_low"], overall["gain_high"]) == pytest.approx(interval(gains))
            assert overall["gain_low"] < gains.mean() < overall["gain_high"]
        assert found[["gain_low", "gain_high"]].iloc[:-1].isna().all(axis=None)
    six_seeds = {f"a_{seed}": up for seed in range(6)}
    assert np.isnan(compare_runs(curves(**six_seeds), curves(**dict.fromkeys(six_seeds, flat))).at["a", "gain_low"])


def test_times_that_are_never_reached_reach_into_the_interval():
    names = "abcdef"
    soon = {f"{name}_0": [0.5, 0.9, 0.9, 0.9] for name in names[:5]} | {"f_0": [0.5] * 4}
    late = {f"{name}_0": [0.5, 0.5, 0.5, 0.9] for name in names}
    overall = compare_runs(curves(**soon), curves(**late), tolerance=0).loc["overall"]
    assert overall["comparable_time"] < 1 and overall["comparable_time_high"] == np.inf


def test_every_run_is_counted():
    found = compare_runs(curves(a_0=RISING, a_1=[0.5] * 4), curves(a_0=LATE, a_1=LATE), tolerance=0)
    assert found.loc["a", ["runs", "reached", "sooner"]].tolist() == [2, 1, 0]


def test_runs_of_two_models_are_not_compared(backbone, data):
    other = Backbone.from_pretrained("micro-roberta", device="cpu")
    runs = [tune_prompt(model, data, length=4, **SHORT | dict(steps=2)) for model in (backbone, other)]
    with pytest.raises(ValueError, match="got runs of micro-bert, micro-roberta"):
        compare_runs(*runs)
    assert compare_runs(runs[0], runs[0]).loc["overall", "gain"] == 0
    whole = fine_tune(backbone, data, **SHORT | dict(steps=1))
    with pytest.raises(ValueError, match="got a FineTuningRun"):
        compare_runs(whole, runs[0])


# ---- rules of what is sooner


def curves_of(by_run):
    "Accuracies at steps 0, 10, 20 … of runs by task and seed."
    return pd.concat(
        pd.DataFrame({"task": task, "seed": seed, "step": 10 * np.arange(len(values)), "accuracy": values})
        for (task, seed), values in by_run.items()
    )


def test_rules_of_what_is_sooner_part_where_they_should():
    pt = curves_of({(task, seed): [0.5, 0.6, 0.8] for task in ("a", "b", "c") for seed in (0, 1)})
    tpt = {("a", seed): [0.5, 0.8, 0.8] for seed in (0, 1)}  # both seeds are sooner: by every rule
    tpt |= {
        ("b", 0): [0.9, 0.4, 0.4],
        ("b", 1): [0.5, 0.7, 0.7],
    }  # the best so far is, one step earlier than the plain mean
    tpt |= {("c", seed): [0.5, 0.793, 0.7] for seed in (0, 1)}  # within a point, and not within half a point
    rules = sooner_by_rule(curves_of(tpt), pt)
    assert rules["best so far, exactly"] == rules["best so far, within half a point"] == 2
    assert rules["best so far, within one point"] == 3
    assert rules["plain mean, to its best"] == rules["plain mean, to its last"] == 1
    assert rules["every seed"] == 1 and rules["median of single runs"] == 1
    shuffled = sooner_by_rule(curves_of(tpt).sample(frac=1, random_state=0), pt.sample(frac=1, random_state=1))
    assert shuffled.equals(rules)
    more = pd.concat([pt, curves_of({("a", 2): [1.0, 1.0, 1.0], ("d", 0): [0.0, 0.0, 1.0]})])
    assert sooner_by_rule(curves_of(tpt), more).equals(
        rules
    )  # the baseline's runs of other tasks and seeds have no say


def test_sooner_and_later_are_tested_without_ties():
    assert sooner_sign_test([0.2] * 6 + [1.0] * 3).p == pytest.approx(2 / 2**6)
    assert sooner_sign_test([0.2, np.inf]).tolist() == [1, 0, 1, 1.0]


# ---- zero-shot transfer

TYPES = {"imdb": "SA", "sst2": "SA", "laptop": "SA", "mnli": "NLI", "snli": "NLI"}


def test_every_example_of_a_split_counts():
    backbone, data = Backbone.from_pretrained("micro-bert"), load_task("micro/mrpc")
    result = evaluate(backbone, random_prompt(backbone, 5, seed=0), data, "test")
    assert result.n == len(data.test) == len(result.predictions)
    assert list(result.labels) == list(data.test["label"])
    assert result == result and result != replace(result)
    low, high = result.interval
    assert result.as_dict() == {
        "accuracy": result.accuracy,
        "low": low,
        "high": high,
        "n": len(data.test),
        "f1": result.f1,
    }


def test_the_random_row_is_the_mean_of_its_prompts():
    backbone, data = Backbone.from_pretrained("micro-bert"), load_task("micro/mrpc")
    matrix = transfer_matrix(backbone, {"x": random_prompt(backbone, 5, seed=9)}, [data], random_seeds=(3, 4))
    each = [evaluate(backbone, random_prompt(backbone, 5, seed), data).accuracy for seed in (3, 4)]
    assert matrix.loc["random", "micro/mrpc"] == pytest.approx(np.mean(each))
    assert matrix.loc["x", "micro/mrpc"] == evaluate(backbone, random_prompt(backbone, 5, 9), data).accuracy


def test_recovered_transfer_is_the_share_of_tunings_gain():
    names = ["imdb", "sst2"]
    matrix = pd.DataFrame([[0.9, 0.4], [0.7, 0.51], [0.5, 0.5]], [*names, "random"], names)
    recovered = recovered_transfer(matrix)
    assert np.allclose(recovered["imdb"], [1, 0.5, 0]) and recovered["sst2"].isna().all()
    assert recovered_transfer(matrix, min_gain=0)["sst2"].tolist() == pytest.approx([-10, 1, 0])
    assert recovered_transfer(matrix.rename({"random": "uniform"}), "uniform").equals(
        recovered.rename({"random": "uniform"})
    )
    with pytest.raises(ValueError, match="the row 'random', which the matrix lacks"):
        recovered_transfer(matrix.drop("random"))


def test_no_share_is_shown_of_a_gain_within_noise_over_the_random_prompt_or_the_most_frequent_label():
    known = {"accuracy": 0.60, "low": 0.56, "random": 0.50, "majority": 0.50, "n": 500}
    tuned = pd.DataFrame(
        {
            "clear": known,
            "few rows": known | {"low": 0.46, "n": 50},
            "a frequent label": known | {"majority": 0.58},
            "a good random prompt": known | {"random": 0.57},
            "one bad seed": known | {"low": 0.50},
            "no random prompt": known | {"random": np.nan},
        }
    ).T
    least = least_gain(tuned)
    assert least[least == MIN_GAIN].index.tolist() == ["clear"] and np.isinf(least.drop("clear")).all()
    names = [*tuned.index]
    matrix = pd.DataFrame(0.55, [*names, "random"], names)
    matrix.loc["random"], matrix.loc["tuned"] = 0.5, 0.6
    shares = recovered_transfer(matrix, min_gain=least, tuned_row="tuned")
    assert shares["clear"].tolist() == pytest.approx([0.5] * 6 + [0, 1]) and shares.drop(columns="clear").isna().all(
        axis=None
    )
    by_task = recovered_by_task(
        matrix.rename({"few rows": "task tuning (clear)"}), dict.fromkeys(names, "SA"), min_gain=least
    )
    assert by_task.loc[("fitted on", "task tuning (clear)"), "clear"] == pytest.approx(0.5)
    assert by_task.loc[("same type", "task tuning (clear)")].isna().all()


def test_type_means_leave_the_diagonal_and_the_random_row_out():
    names = list(TYPES)
    same = np.array([[TYPES[a] == TYPES[b] for b in names] for a in names])
    values = np.where(same, 0.8, 0.4)
    np.fill_diagonal(values, 1.0)
    matrix = pd.DataFrame(values, names, names)
    matrix.loc["random"] = 0.0
    means = type_means(matrix, TYPES)
    assert np.allclose([means[name, "mean"] for name in ("within", "across", "gap")], [[0.8] * 2, [0.4] * 2, [0.4] * 2])
    assert means.drop(columns="mean", level=1).isna().all(axis=None)  # of fewer than six tasks


def test_type_means_need_the_type_of_every_target():
    matrix = pd.DataFrame(0.5, ["a", "b"], ["a", "b"])
    with pytest.raises(ValueError, match="the type of every target; it lacks 'b'"):
        type_means(matrix, {"a": "SA"})


def test_type_means_have_an_interval_that_grows_with_the_spread_between_tasks():
    random, names = np.random.default_rng(0), [f"{kind}{i}" for kind in "ab" for i in range(6)]
    types = {name: name[0] for name in names}
    narrow, wide = (
        pd.DataFrame(0.5 + spread * random.normal(size=(12, 1)) @ np.ones((1, 12)), names, names)
        for spread in (0.01, 0.1)
    )
    for matrix, least, most in ((narrow, 0.005, 0.05), (wide, 0.05, 0.5)):
        means = type_means(matrix, types)
        width = means["within"]["high"] - means["within"]["low"]
        assert width.between(least, most).all()
        assert (means["within"]["low"] <= means["within"]["mean"]).all()


def test_methods_by_kind_of_task_need_columns_with_types_and_names_of_their_own():
    matrix = pd.DataFrame(
        {"micro/imdb": [0.9, 0.5, 0.7], "micro/sst2": [0.8, 0.5, 0.8], "micro/mrpc": [0.51, 0.5, 0.9]},
        index=["tuned", "random", "task tuning (imdb)"],
    )
    types = {"micro/imdb": "SA", "micro/sst2": "SA", "micro/mrpc": "SA"}
    found = recovered_by_kind(matrix, types).loc["task tuning (imdb)"]
    assert found["fitted on"] == pytest.approx(0.5)
    assert found["same type"] == pytest.approx((0.3 + 0.4) / (0.3 + 0.01))  # a ratio of sums, SST-2 and MRPC
    by_task = recovered_by_task(matrix, types).loc[("same type", "task tuning (imdb)")]
    assert by_task["micro/sst2"] == pytest.approx(1) and np.isnan(by_task["micro/mrpc"])  # tuning gains one point
    nothing = matrix.assign(**{"micro/sst2": [0.51, 0.5, 0.8]})
    assert np.isnan(recovered_by_kind(nothing, types).loc["task tuning (imdb)", "same type"])
    with pytest.raises(ValueError, match="it lacks 'micro/sst2'"):
        recovered_by_kind(matrix, {name: kind for name, kind in types.items() if name != "micro/sst2"})
    with pytest.raises(ValueError, match="cannot distinguish micro/imdb from other columns"):
        recovered_by_kind(matrix.assign(**{"other/imdb": 0.5}), types | {"other/imdb": "SA"})


def test_tasks_may_come_as_a_mapping_and_seeds_as_numpys():
    backbone = Backbone.from_pretrained("micro-bert", device="cpu")
    datas = {name: load_task(f"micro/{name}", splits=["dev"], max_eval=20) for name in ("sst2", "mnli")}
    prompts = {"a": random_prompt(backbone, 5, 3)}
    listed = transfer_matrix(backbone, prompts, [*datas.values()], random_seeds=[0, 1])
    named = transfer_matrix(backbone, prompts, datas, random_seeds=np.arange(2))
    assert [*named.columns] == ["sst2", "mnli"] and [*listed.columns] == ["micro/sst2", "micro/mnli"]
    assert (named.to_numpy() == listed.to_numpy()).all()
    alone = transfer_matrix(backbone, prompts, datas, random_seeds=())
    assert alone.equals(named.loc[["a"]]) and transfer_matrix(
        backbone, prompts, datas, random_seeds=np.array([], int)
    ).equals(alone)


def test_shares_over_all_targets_are_ratios_of_sums():
    random = np.random.default_rng(0)
    tasks, kinds = list("abcdefg"), dict(zip("abcdefg", "XXXXYYZ", strict=True))
    matrix = pd.DataFrame(random.random((8, 7)), [*tasks, "random"], tasks)
    gains = matrix.loc[tasks] - matrix.loc["random"]
    expected = {}
    for name in ("within", "across"):
        pairs = [(s, t) for s in tasks for t in tasks if s != t and (kinds[s] == kinds[t]) == (name == "within")]
        expected[name] = sum(gains.loc[pair] for pair in pairs) / sum(gains.loc[target, target] for _, target in pairs)
    found = recovered_overall(matrix, kinds)
    assert found["mean"].to_dict() == pytest.approx(expected)
    assert np.isfinite(found.loc["across", ["low", "high"]].to_numpy(float)).all()
    by_type = recovered_by_type(matrix[list("abcd")], kinds)[("within", "mean")]
    of_one = recovered_overall(matrix.loc[[*"abcd", "random"], list("abcd")], kinds)
    assert of_one.loc["within", "mean"] == pytest.approx(by_type["X"])


# ---- what the types decide


def matrix_of(kinds, noise=0.02):
    "Accuracies of tasks that transfer within their types, with a random prompt that is at chance."
    names, chance = [f"task {i}" for i in range(len(kinds))], np.random.default_rng(0)
    alike = np.array([[one == other for other in kinds] for one in kinds])
    cells = 0.5 + 0.3 * alike + 0.1 * np.eye(len(kinds)) + noise * chance.random(alike.shape)
    table = pd.DataFrame(cells, names, names)
    table.loc["random"] = 0.5
    return table, dict(zip(names, kinds, strict=True))


def test_types_that_decide_everything_decide_every_comparison():
    matrix, types = matrix_of("AAAABBBB")
    assert decided_by_type(matrix, types) == 1
    flat = matrix * 0 + 0.5
    assert decided_by_type(flat, types) == 0.5
    own = matrix.copy()
    own.iloc[range(8), range(8)] = 0  # self pairs have no say
    assert decided_by_type(own, types) == 1


def test_types_that_decide_nothing_are_not_found():
    matrix, types = matrix_of("AAAABBBB")
    found = type_gap_test(matrix, types)
    assert 0.6 < found.value < 0.9 and found.p < 0.05
    others = dict(zip(types, "ABABABAB", strict=True))
    assert type_gap_test(matrix, others).p > 0.05
    alike = np.array([[types[one] == types[other] for other in types] for one in types])
    shares = kept_share(matrix, alike & ~np.eye(8, dtype=bool))[0], kept_share(matrix, ~alike)[0]
    assert found.value == pytest.approx(shares[0] - shares[1])


def test_a_share_that_is_kept_has_the_tasks_of_its_pairs():
    matrix, types = matrix_of("AAAAAABB")
    pairs = np.zeros((8, 8), dtype=bool)
    pairs[:6, :6] = ~np.eye(6, dtype=bool)
    share, low, high = kept_share(matrix, pairs)
    gains = (matrix.iloc[:8] - matrix.loc["random"]).to_numpy()
    assert low < share < high and share == pytest.approx((gains * pairs).sum() / (np.diag(gains) * pairs).sum())
    names = [*matrix.columns[:6]]
    alone = kept_share(matrix.loc[[*names, "random"], names], pairs[:6, :6])
    assert alone == pytest.approx((share, low, high))
    assert kept_share(matrix, pairs, than=matrix)[0] == 0


def test_a_regret_has_no_interval_below_zero():
    regrets = pd.Series([0, 0, 0, 0, 0.01, 0.2, 0.0])
    mean, low, high = regret_interval(regrets)
    assert mean == pytest.approx(0.03) and low == 0 > interval(regrets)[0] and high == interval(regrets)[1]
    away = regrets + 1
    assert regret_interval(away)[1:] == interval(away)
    assert np.isnan(regret_interval(regrets[:5])[1:]).all()  # too few targets
