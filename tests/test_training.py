"Settings and the loop, and tuning one prompt and several: what a reader of the notebooks should not have to see."

import json
from dataclasses import replace
from inspect import signature

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector
from transformers import get_scheduler

from prompt_transferability.backbones import Backbone
from prompt_transferability.fine_tuning import fine_tune
from prompt_transferability.projectors import fit_prompt_mapping, fit_task_tuning, fit_token_mapping
from prompt_transferability.prompt_tuning import TuningJob, text_streams, tune_prompt, tune_prompts
from prompt_transferability.prompts import SoftPrompt, random_prompt
from prompt_transferability.tasks import PAPER_TASKS, UnknownNameError, load_task
from prompt_transferability.training import OPTIMIZERS, SCHEDULES, Loop, Training, TuningError
from prompt_transferability.zero_shot_transfer import evaluate

SETTINGS = dict(length=6, steps=20, batch_size=4, eval_every=4, progress=False)
RATES = {"adamw": 1e-2, "adafactor": 0.1, "sgd": 0.1}  # for vectors that begin with numbers of about 0.02
RELATIVE_RATES = {"adamw": 0.5, "adafactor": 0.1, "sgd": 250.0}  # the same as shares of that, for SGD of its square


@pytest.fixture(scope="module")
def backbone():
    return Backbone.from_pretrained("micro-bert", device="cpu")


@pytest.fixture(scope="module")
def data():
    return load_task("micro/sst2", max_train=200, max_eval=40)


@pytest.fixture(scope="module")
def easy_and_hard(backbone, data):
    "The task with the dev texts that a prompt of seed 0 has right, so that it cannot get better; and with the others."
    start = evaluate(backbone, random_prompt(backbone, 6, 0), data)
    right = start.predictions == start.labels
    return [replace(data, dev=data.dev.select(np.flatnonzero(those))) for those in (right, ~right)]


def interrupted(function, *given, at, monkeypatch, **settings):
    "What comes of a run that was killed before a step, and gone on with."
    advance, seen = Loop.advance, []

    def killed(loop):
        if loop.step == at and not seen:
            seen.append(at)
            raise KeyboardInterrupt
        advance(loop)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "advance", killed)
        with pytest.raises(KeyboardInterrupt):
            function(*given, **settings)
        return function(*given, **settings)


# ---- the order of the texts


def unevenness(labels: np.ndarray, batches: list[np.ndarray]) -> float:
    "Chi-square of the labels in batches, per degree of freedom."
    shares = np.bincount(labels) / len(labels)
    counts = np.array([np.bincount(labels[rows], minlength=len(shares)) for rows in batches])
    expected = counts.sum(1, keepdims=True) * shares
    return ((counts - expected) ** 2 / expected).sum() / ((len(batches) - 1) * (len(shares) - 1))


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_labels_are_as_even_in_batches_as_in_random_ones(name):
    roberta, data = Backbone.from_pretrained("micro-roberta", device="cpu"), load_task(f"micro/{name}")
    (stream,) = text_streams(roberta, [TuningJob(data)], 16)
    labels, per_epoch, epochs = stream.labels.numpy(), stream.batches.per_epoch, 40
    drawn = [[stream.batches[epoch * per_epoch + i] for i in range(per_epoch)] for epoch in range(epochs)]
    assert all((np.sort(np.concatenate(batches)) == np.arange(len(labels))).all() for batches in drawn)
    random, cuts = np.random.default_rng(1), range(16, len(labels), 16)
    null = [unevenness(labels, np.split(random.permutation(len(labels)), cuts)) for _ in range(400)]
    found = np.mean([unevenness(labels, batches) for batches in drawn])
    assert abs(found - np.mean(null)) < 4 * np.std(null) * (1 / epochs + 1 / len(null)) ** 0.5


# ---- optimizers, schedules, relative rates


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_prompts_side_by_side_are_as_alone_whatever_the_optimizer(backbone, easy_and_hard, optimizer, relative):
    "Also where the patience of one ends before that of the others, and where they begin with vectors of other sizes."
    easy, hard = easy_and_hard
    larger = SoftPrompt(5 * random_prompt(backbone, 6, 0).values, backbone.name, "random")
    jobs = [TuningJob(hard), TuningJob(easy), TuningJob(hard, larger, seed=1)]
    rate = (RELATIVE_RATES if relative else RATES)[optimizer]
    settings = dict(optimizer=optimizer, learning_rate=rate, relative=relative, weight_decay=1e-4, warmup=3, patience=4)
    together = tune_prompts(backbone, jobs, **SETTINGS | settings)
    assert [int(run.curve.step.iloc[-1]) for run in together] == [20, 16, 20]
    for job, run in zip(jobs, together, strict=True):
        alone = tune_prompt(backbone, job.data, job.init, seed=job.seed, **SETTINGS | settings)
        assert list(alone.curve.step) == list(run.curve.step)
        moved = (alone.last.values - (job.init or random_prompt(backbone, 6, job.seed)).values).norm()
        assert (alone.last.values - run.last.values).norm() < 0.02 * moved


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_relative_rate_means_the_same_for_vectors_of_any_size(backbone, data, optimizer):
    "The model's first LayerNorm takes the size out, so a prompt 25 times as large is the same prompt."
    start = random_prompt(backbone, 6, 0).values
    rate = RELATIVE_RATES[optimizer]
    settings = dict(optimizer=optimizer, learning_rate=rate, weight_decay=1e-4, relative=True)
    once, scaled = (
        tune_prompt(backbone, data, SoftPrompt(k * start, backbone.name, "random"), **SETTINGS | settings).last.values
        / k
        for k in (1, 25)
    )
    assert (once - scaled).norm() < 0.02 * (once - start).norm()


def test_vectors_without_size_have_no_relative_rate(backbone, data):
    zeros = SoftPrompt(torch.zeros(6, 128), backbone.name, "zeros")
    with pytest.raises(TuningError, match="task 'micro/sst2' starts from values of size 0.0"):
        tune_prompt(backbone, data, zeros, relative=True, **SETTINGS)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_is_what_torch_and_transformers_do_by_hand(backbone, data, schedule):
    settings = dict(optimizer="sgd", learning_rate=0.1, weight_decay=0.01, schedule=schedule, warmup=4)
    run = tune_prompt(backbone, data, seed=3, **SETTINGS | settings | dict(eval_every=20))
    prompt = torch.nn.Parameter(random_prompt(backbone, 6, 3).values.clone())
    optimizer = torch.optim.SGD([prompt], lr=0.1, weight_decay=0.01)
    theirs = "constant_with_warmup" if schedule == "constant" else schedule
    scheduler = get_scheduler(theirs, optimizer, num_warmup_steps=4, num_training_steps=20)
    (stream,) = text_streams(backbone, [TuningJob(data, seed=3)], 4)
    for step in range(20):
        text, labels = stream.batch(step)
        optimizer.zero_grad()
        F.cross_entropy(backbone.read_out(backbone.read_out_states(prompt, text), data.task), labels).backward()
        optimizer.step()
        scheduler.step()
    assert torch.allclose(run.last.values, prompt, atol=1e-5)


def test_losses_are_float32_whatever_the_model_computes_in(backbone, data, monkeypatch):
    read_out, curves = Backbone.read_out, []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(Backbone, "read_out", lambda *given, dtype=dtype: read_out(*given).to(dtype))
        run = tune_prompt(backbone, data, **SETTINGS | dict(steps=4))
        curves.append(run.curve.loss.iloc[-1])
        assert run.last.values.dtype == torch.float32
    coarse = torch.tensor(curves[1] * 4, dtype=torch.float64)
    assert curves[0] == pytest.approx(curves[1], abs=0.01) and coarse != coarse.bfloat16()


# ---- resuming


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_prompts_go_on_to_the_same_end(backbone, easy_and_hard, optimizer, schedule, tmp_path, monkeypatch):
    settings = dict(optimizer=optimizer, learning_rate=RELATIVE_RATES[optimizer], relative=True, schedule=schedule)
    settings |= SETTINGS | dict(warmup=3, weight_decay=1e-4, patience=4)
    jobs, run = [TuningJob(those) for those in easy_and_hard], tune_prompts
    whole = run(backbone, jobs, **settings)
    resumed = interrupted(
        run, backbone, jobs, checkpoint=tmp_path / "state", at=18, monkeypatch=monkeypatch, **settings
    )
    assert [int(run.curve.step.iloc[-1]) for run in resumed] == [16, 20]
    for ours, theirs in zip(resumed, whole, strict=True):
        assert torch.equal(ours.last.values, theirs.last.values) and torch.equal(
            ours.prompt.values, theirs.prompt.values
        )
        assert ours.curve.drop(columns="seconds").equals(theirs.curve.drop(columns="seconds"))
        assert ours.prompt.metadata == theirs.prompt.metadata and ours.examples == theirs.examples


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_models_and_projectors_go_on_to_the_same_end(backbone, data, optimizer, tmp_path, monkeypatch):
    source = SoftPrompt(random_prompt(backbone, 6, 0).values, "micro-roberta", "micro/sst2")
    settings = dict(steps=6, eval_every=2, learning_rate=1e-2, optimizer=optimizer, schedule="linear", progress=False)
    for function, given in ((fine_tune, (data,)), (fit_task_tuning, ([source], [data]))):
        file = tmp_path / function.__name__
        whole = function(backbone, *given, **settings)
        resumed = interrupted(function, backbone, *given, at=5, checkpoint=file, monkeypatch=monkeypatch, **settings)
        ours, theirs = (getattr(one, "backbone", one).parameters() for one in (resumed, whole))
        assert torch.equal(parameters_to_vector(ours), parameters_to_vector(theirs))
        assert resumed.curve.loss.equals(whole.curve.loss)


def test_a_checkpoint_says_what_it_said_before_there_was_a_choice(backbone, data, tmp_path):
    "So that a run with the defaults has the identity that it always had."
    tune_prompt(backbone, data, checkpoint=tmp_path / "state", **SETTINGS)
    with safe_open(tmp_path / "state", framework="pt") as file:
        asked = json.loads(file.metadata()["asked"])
    of_the_run = {
        "backbone",
        "layout",
        "revision",
        "fingerprint",
        "dtype",
        "tasks",
        "label words",
        "texts",
        "labels",
        "seeds",
        "inits",
    }
    assert asked.keys() == of_the_run | {"jobs", "length", "steps", "learning_rate", "batch_size", "eval_every"}
    assert (asked["learning_rate"], asked["batch_size"], asked["jobs"], asked["length"]) == (1e-3, 4, 1, 6)


@pytest.mark.parametrize(
    "change",
    [dict(optimizer="sgd"), dict(schedule="cosine"), dict(warmup=2), dict(weight_decay=0.1), dict(relative=True)],
)
def test_the_checkpoint_of_other_settings_is_rejected(backbone, data, tmp_path, change):
    tune_prompt(backbone, data, checkpoint=tmp_path / "state", **SETTINGS)
    with pytest.raises(TuningError, match=f"differs in {next(iter(change))};"):
        tune_prompt(backbone, data, checkpoint=tmp_path / "state", **SETTINGS | change)


def test_the_state_of_an_earlier_version_is_rejected(backbone, data, tmp_path):
    tune_prompt(backbone, data, checkpoint=tmp_path / "state", **SETTINGS)
    with safe_open(tmp_path / "state", framework="pt") as file:
        header = file.metadata()
    save_file({"values": torch.zeros(1, 6, 128), "first_moment": torch.zeros(1, 6, 128)}, tmp_path / "state", header)
    with pytest.raises(
        TuningError, match="does not contain the state of a run in the format of this version; remove it"
    ):
        tune_prompt(backbone, data, checkpoint=tmp_path / "state", **SETTINGS)


# ---- settings by name


def test_numpys_integers_are_whole_numbers(backbone, data, tmp_path):
    plain = dict(length=6, steps=4, eval_every=2, batch_size=8, patience=2, seed=3, warmup=1)
    numpys = {name: np.int64(value) for name, value in plain.items()}
    ours, theirs = (
        tune_prompt(backbone, data, learning_rate=rate, checkpoint=tmp_path / "state", progress=False, **settings)
        for rate, settings in ((np.float64(1e-2), numpys), (1e-2, plain))
    )  # the second goes on from the first's checkpoint, so both are one run
    assert ours.prompt.metadata == theirs.prompt.metadata and ours.curve.equals(theirs.curve)
    ours.prompt.save(tmp_path / "prompt.safetensors")
    fine_tune(
        backbone, data, steps=np.int32(2), eval_every=2, seed=np.int64(1), checkpoint=tmp_path / "m", progress=False
    )
    source = SoftPrompt(random_prompt(backbone, 6, 0).values, "micro-roberta", "micro/sst2")
    settings = dict(steps=np.int64(2), seed=np.int64(1), checkpoint=tmp_path / "p", progress=False)
    fit_task_tuning(backbone, [source], [data], **settings).save(tmp_path / "projector.safetensors")


def test_a_setting_that_there_is_not_is_shown_beside_its_nearest(backbone, data):
    prompt = SoftPrompt(random_prompt(backbone, 6, 0).values, "micro-roberta", "micro/sst2")
    own = SoftPrompt(prompt.values, backbone.name, "micro/sst2")
    for function, *given in (
        (tune_prompt, backbone, data),
        (tune_prompts, backbone, [TuningJob(data)]),
        (fine_tune, backbone, data),
        (fit_task_tuning, backbone, [prompt], [data]),
        (fit_prompt_mapping, [(prompt, own)]),
        (fit_token_mapping, backbone, backbone),
    ):
        with pytest.raises(UnknownNameError, match=f"setting of {function.__name__} 'step'; did you mean 'steps'"):
            function(*given, step=5)
    with pytest.raises(UnknownNameError, match="'lenght'; did you mean 'length'"):
        tune_prompt(backbone, data, lenght=5)


def test_settings_are_what_they_were_validated_as():
    with pytest.raises(AttributeError):
        Training().steps = 5
    assert Training(steps=np.int64(7)) == Training(steps=7) and type(Training(steps=np.int64(7)).steps) is int


def test_what_is_no_number_is_named():
    class Broken:
        names, weights = ["the job"], [{"w": torch.nn.Parameter(torch.ones(1))}]

        def __init__(self, loss, score):
            self.loss, self.value = loss, score

        def losses(self, jobs, step):
            return self.weights[0]["w"] * self.loss, 1

        def score(self, job):
            return self.value

    for what, given in {"loss": (float("nan"), 1.0), "score": (1.0, float("nan"))}.items():
        with pytest.raises(TuningError, match=f"the {what} of the job is nan at step 0, before any training"):
            Loop(Broken(*given), Training()).evaluate()


# ---- checkpoints that are not what a run wrote


@pytest.fixture(scope="module")
def state(backbone, data, tmp_path_factory):
    "The checkpoint of a short run, its header and its tensors."
    file = tmp_path_factory.mktemp("state") / "state"
    tune_prompt(backbone, data, checkpoint=file, **SETTINGS | dict(steps=4, eval_every=2))
    with safe_open(file, framework="pt") as opened:
        return opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}


def resumed(backbone, data, file):
    return tune_prompt(backbone, data, checkpoint=file, **SETTINGS | dict(steps=4, eval_every=2))


def is_refused(backbone, data, state, tmp_path, tensors=None, **entries):
    header, whole = state
    file = tmp_path / "state"
    save_file(
        {name: value for name, value in (whole | (tensors or {})).items() if value is not None}, file, header | entries
    )
    before = file.read_bytes()
    with pytest.raises(
        TuningError, match="state'.*remove it or choose another file|entry '.*' of the checkpoint"
    ) as error:
        resumed(backbone, data, file)
    assert "\n" not in str(error.value) and file.read_bytes() == before


def test_the_same_state_goes_on(backbone, data, state, tmp_path):
    save_file(state[1], tmp_path / "state", state[0])
    assert int(resumed(backbone, data, tmp_path / "state").curve.step.iloc[-1]) == 4


ROW = {"step": 0, "loss": None, "score": 0.5, "seconds": 0.0}


@pytest.mark.parametrize(
    "changes",
    [
        {"step": "2"},
        {"step": 2.5},
        {"step": -1},
        {"step": 10**6},
        {"step": None},
        {"step": True},
        {"seconds": "NaN"},
        {"seconds": float("nan")},
        {"seconds": -1.0},
        {"seconds": float("inf")},
        {"examples": 2.5},
        {"examples": -3},
        {"examples": []},
        {"curves": None},
        {"curves": 2},
        {"curves": []},
        {"curves": [[]]},
        {"curves": [[], []]},
        {"curves": [None]},
        {"curves": [[5]]},
        {"curves": [[{}]]},
        {"curves": [[ROW | {"score": 127}]]},
        {"curves": [[ROW | {"score": -0.1}]]},
        {"curves": [[ROW | {"score": float("nan")}]]},
        {"curves": [[ROW | {"score": "0.5"}]]},
        {"curves": [[ROW | {"score": None}]]},
        {"curves": [[ROW | {"loss": float("nan")}]]},
        {"curves": [[ROW | {"step": 99}]]},
        {"curves": [[ROW, ROW]]},
        {"curves": [[ROW | {"more": 1}]]},
        {"sizes": None},
        {"sizes": ["1"]},
        {"sizes": []},
        {"sizes": [1.0, 1.0]},
        {"sizes": [float("nan")]},
    ],
    ids=str,
)
def test_facts_that_no_run_has_are_refused(backbone, data, state, tmp_path, changes):
    facts = json.loads(state[0]["facts"])
    is_refused(backbone, data, state, tmp_path, facts=json.dumps(facts | changes))


@pytest.mark.parametrize("entry", ["facts", "asked"])
@pytest.mark.parametrize("text", ["2", "[]", "null", "", "{", "[" * 1000, "9" * 4301, '{"step": 1, "step": 2}', "NaN"])
def test_entries_that_are_no_tables_are_refused(backbone, data, state, tmp_path, entry, text):
    is_refused(backbone, data, state, tmp_path, **{entry: text})


@pytest.mark.parametrize(
    "tensors",
    [
        {"0 best prompt": torch.zeros(128, 6)},
        {"0 best prompt": torch.zeros(5, 128)},
        {"0 best prompt": torch.zeros(6, 128).half()},
        {"0 best prompt": torch.full((6, 128), float("nan"))},
        {"0 best prompt": None},
        {"0 now prompt": torch.zeros(1, 128)},
        {"0 now prompt": torch.full((6, 128), float("inf"))},
        {"0 now prompt": None},
        {"optimizer 0 exp_avg": torch.full((6, 128), float("nan"))},
        {"optimizer 0 exp_avg": torch.zeros(128)},
        {"optimizer 0 step": torch.zeros(6)},
        {"optimizer 0 exp_avg": None},
        {"optimizer 0 exp_avg": None, "optimizer 0 exp_evg": torch.zeros(6, 128)},
        {"optimizer 0 more": torch.zeros(6, 128)},
        {"optimizer 7 exp_avg": torch.zeros(6, 128)},
        {"optimizer -1 exp_avg": torch.zeros(6, 128)},
        {"something else": torch.zeros(2)},
        {"more": torch.zeros(2)},
        {"0 now other": torch.zeros(2)},
    ],
    ids=lambda tensors: " ".join(tensors),
)
def test_tensors_that_are_not_those_of_the_run_are_refused(backbone, data, state, tmp_path, tensors):
    is_refused(backbone, data, state, tmp_path, tensors)


# ---- the whole model

OF_MODELS = dict(steps=12, learning_rate=3e-4, eval_every=4, progress=False)


def weights(backbone):
    return parameters_to_vector(backbone.parameters())


def test_resuming_ends_with_the_same_model(backbone, data, tmp_path, monkeypatch):
    whole, steps = fine_tune(backbone, data, **OF_MODELS), []
    advance = Loop.advance

    def stop_at_10(self):
        if self.step == 10:
            raise KeyboardInterrupt
        advance(self)

    monkeypatch.setattr(Loop, "advance", stop_at_10)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(backbone, data, checkpoint=tmp_path / "state", **OF_MODELS)
    monkeypatch.setattr(Loop, "advance", lambda self: (steps.append(self.step), advance(self)))
    resumed = fine_tune(backbone, data, checkpoint=tmp_path / "state", **OF_MODELS)
    assert steps == [8, 9, 10, 11]
    assert torch.equal(weights(whole.backbone), weights(resumed.backbone))
    assert whole.curve.drop(columns="seconds").equals(resumed.curve.drop(columns="seconds"))
    assert resumed.curve.seconds.is_monotonic_increasing


def test_the_best_model_is_kept_and_not_the_last(backbone, data, monkeypatch):
    right = np.array(data.dev["label"])
    answers = iter([1 - right, right, 1 - right, 1 - right, 1 - right, right])
    monkeypatch.setattr(Backbone, "predict", lambda *_: next(answers))
    long, short = (fine_tune(backbone, data, **OF_MODELS | dict(steps=steps)) for steps in (12, 4))
    assert list(long.curve.accuracy) == [0, 1, 0, 0] and long.best_step == short.best_step == 4
    assert torch.equal(weights(long.backbone), weights(short.backbone))


def test_it_may_end_early_and_ties_go_to_the_earliest(backbone, data):
    run = fine_tune(backbone, data, **OF_MODELS | dict(learning_rate=1e-12, patience=2))
    assert list(run.curve.step) == [0, 4, 8] and run.best_step == 0
    assert torch.equal(weights(run.backbone), weights(backbone))


@pytest.mark.parametrize("name, layout", [("micro-bert", "paper"), ("micro-roberta", "authors")])
def test_the_given_model_stays_as_it_is(name, layout):
    data = load_task("micro/sst2", max_train=300, max_eval=60)
    backbone = Backbone.from_pretrained(name, layout, device="cpu")
    before = weights(backbone).clone()
    run = fine_tune(backbone, data, **OF_MODELS | dict(steps=2))
    assert torch.equal(weights(backbone), before) and not torch.equal(weights(run.backbone), before)
    assert backbone.name == name and run.backbone.name == f"{name} tuned on micro/sst2"
    assert run.backbone.layout == layout
    assert all(weight.grad is None and not weight.requires_grad for weight in backbone.parameters())


def test_a_prompt_can_be_tuned_on_what_was_fine_tuned(backbone, data):
    tuned = fine_tune(backbone, data, **OF_MODELS).backbone
    before = weights(tuned).clone()
    run = tune_prompt(tuned, data, length=4, **OF_MODELS)
    assert run.prompt.backbone == tuned.name and torch.equal(weights(tuned), before)


def test_a_model_of_half_precision_is_trained_in_single(data):
    half = Backbone.from_pretrained("micro-bert", device="cpu", dtype="bfloat16")
    run = fine_tune(half, data, **OF_MODELS | dict(steps=2))
    assert half.dtype == torch.bfloat16 and run.backbone.dtype == torch.float32


def test_a_checkpoint_of_another_training_is_refused(backbone, data, tmp_path):
    fine_tune(backbone, data, checkpoint=tmp_path / "state", **OF_MODELS)
    with pytest.raises(TuningError, match="differs in seeds;"):
        fine_tune(backbone, data, seed=1, checkpoint=tmp_path / "state", **OF_MODELS)
    with pytest.raises(TuningError, match="differs in backbone, fingerprint, length, trained;"):
        tune_prompt(backbone, data, length=4, checkpoint=tmp_path / "state", **OF_MODELS)


def test_it_is_asked_as_a_prompt_is_but_for_its_start_and_rate():
    model, prompt = (
        {name: parameter.default for name, parameter in signature(function).parameters.items()}
        for function in (fine_tune, tune_prompt)
    )
    assert prompt.keys() - model.keys() == {"init", "length", "watch"}
    assert {name for name in model if model[name] != prompt[name]} == {"learning_rate"}


# ---- tuning one prompt and several

TUNING = dict(length=8, steps=60, learning_rate=1e-2, eval_every=10, progress=False)


@pytest.fixture(scope="module")
def reviews():
    return load_task("micro/sst2", max_train=300)


def test_a_killed_run_ends_as_if_it_had_not_been_killed(backbone, reviews, tmp_path, whole_and_killed):
    def run(name):
        found = tune_prompt(backbone, reviews, checkpoint=tmp_path / f"{name}.checkpoint", **TUNING)
        found.prompt.save(tmp_path / f"{name}.safetensors")

    whole, resumed = (SoftPrompt.load(path) for path in whole_and_killed(run))
    assert torch.equal(whole.values, resumed.values)
    assert whole.metadata == resumed.metadata


def test_resuming_continues_the_curve_and_the_optimizer(backbone, reviews, tmp_path, monkeypatch):
    whole = tune_prompt(backbone, reviews, **TUNING)
    steps, advance = [], Loop.advance

    def stop_at_35(self):
        if self.step == 35:
            raise KeyboardInterrupt
        steps.append(self.step)
        advance(self)

    monkeypatch.setattr(Loop, "advance", stop_at_35)
    with pytest.raises(KeyboardInterrupt):
        tune_prompt(backbone, reviews, checkpoint=tmp_path / "state", **TUNING)
    monkeypatch.setattr(Loop, "advance", lambda self: (steps.append(self.step), advance(self)))
    resumed = tune_prompt(backbone, reviews, checkpoint=tmp_path / "state", **TUNING)
    assert steps == [*range(35), *range(30, 60)]
    assert torch.equal(whole.prompt.values, resumed.prompt.values)
    assert whole.curve.drop(columns="seconds").equals(resumed.curve.drop(columns="seconds"))


def test_the_last_prompt_is_the_one_of_the_last_evaluation_even_where_others_train_on(backbone, reviews):
    "The optimizer's moments would move a prompt whose patience has ended."
    start = evaluate(backbone, random_prompt(backbone, TUNING["length"], 0), reviews)
    easy = replace(
        reviews, dev=reviews.dev.select((start.predictions == start.labels).nonzero()[0])
    )  # no new best, ever
    jobs = [TuningJob(easy), TuningJob(reviews)]
    runs = tune_prompts(backbone, jobs, **TUNING | dict(steps=30, patience=1))
    assert [run.curve.step.iloc[-1] > 10 for run in runs] == [False, True]
    for run, job in zip(runs, jobs, strict=True):
        steps = int(run.curve.step.iloc[-1])
        accuracy = evaluate(backbone, run.last, job.data).accuracy
        assert accuracy == run.curve.accuracy.iloc[-1] == run.last.metadata["accuracy"]
        assert run.last.metadata["steps"] == steps and run.last.task == run.prompt.task
        # The same start and the same texts: the same vectors after as many steps, but for rounding.
        alone = tune_prompt(backbone, job.data, **TUNING | dict(steps=steps)).last.values
        assert torch.allclose(run.last.values, alone, atol=1e-3)
    assert not torch.equal(runs[0].last.values, runs[0].prompt.values)


def test_patience_ends_a_run_early(backbone, reviews):
    run = tune_prompt(backbone, reviews, **TUNING | dict(learning_rate=1e-12, patience=2))
    assert list(run.curve.step) == [0, 10, 20]
    assert run.best_step == 0


def test_ties_go_to_the_earliest(backbone, reviews):
    run = tune_prompt(backbone, reviews, **TUNING | dict(learning_rate=1e-12))
    assert run.curve.accuracy.nunique() == 1
    assert run.best_step == 0 == run.prompt.metadata["steps"]


def test_only_the_prompt_gets_gradients(backbone, reviews):
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    vectors = torch.randn(4, backbone.hidden_size, requires_grad=True)
    backbone.label_logits(vectors, [reviews.dev[0]], reviews.task).sum().backward()
    assert vectors.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_row_0_is_dead_in_the_authors_layout(reviews):
    authors = Backbone.from_pretrained("micro-roberta", layout="authors")
    vectors = torch.randn(4, authors.hidden_size, requires_grad=True)
    authors.label_logits(vectors, [reviews.dev[0]], reviews.task).sum().backward()
    assert vectors.grad[0].abs().sum() == 0 and (vectors.grad[1:].abs().sum(1) > 0).all()


def test_a_loss_that_is_no_number_stops_the_run(backbone, reviews, tmp_path):
    with pytest.raises(TuningError, match="loss of task 'micro/sst2' is nan at step .* smaller learning rate"):
        tune_prompt(backbone, reviews, **TUNING | dict(learning_rate=1e30))


def test_a_loss_that_is_no_number_is_seen_at_the_evaluation(backbone, reviews, tmp_path):
    "Also where no step follows, so that no accuracy and no checkpoint of such a prompt is kept."
    settings = TUNING | dict(learning_rate=1e30, steps=1, checkpoint=tmp_path / "state")
    with pytest.raises(TuningError, match="loss of task 'micro/sst2' is nan at step 1 "):
        tune_prompt(backbone, reviews, **settings)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(seed=-1), "seed must be a whole number of at least 0; got -1"),
        (dict(seed=1.5), "seed must be a whole number of at least 0; got 1.5"),
        (dict(steps=2.5), "steps must be a whole number of at least 1; got 2.5"),
        (dict(steps="10"), "steps must be a whole number of at least 1; got '10'"),
        (dict(batch_size=True), "batch_size must be a whole number of at least 1; got True"),
        (dict(eval_every=None), "eval_every must be a whole number of at least 1; got None"),
        (dict(patience=0), "patience must be a whole number of at least 1; got 0"),
        (dict(learning_rate="1e-3"), "learning_rate must be a number above 0 and finite; got '1e-3'"),
        (dict(learning_rate=True), "learning_rate must be a number above 0 and finite; got True"),
        (dict(learning_rate=float("nan")), "learning_rate must be a number above 0 and finite; got nan"),
    ],
)
def test_settings_that_no_run_can_have_are_refused(backbone, reviews, change, sentence):
    with pytest.raises(TuningError, match=sentence):
        tune_prompt(backbone, reviews, **TUNING | change)


def test_one_prompt_and_several_have_the_same_defaults():
    one, several = (
        {name: parameter.default for name, parameter in signature(function).parameters.items()}
        for function in (tune_prompt, tune_prompts)
    )
    assert several == {name: one.get(name, default) for name, default in several.items()}


def test_training_leaves_the_model_as_it_was(backbone, reviews):
    before = [parameter.clone() for parameter in backbone.parameters()]
    runs = tune_prompts(backbone, [TuningJob(reviews, seed=seed) for seed in (0, 1)], **TUNING | dict(steps=5))
    assert all(torch.equal(old, new) for old, new in zip(before, backbone.parameters(), strict=True))
    assert runs[0] == runs[0] and runs[0] != runs[1]  # and runs, which hold tables and tensors, can be compared


def test_prompts_side_by_side_are_the_same_again(backbone, reviews):
    jobs = [TuningJob(reviews, seed=seed) for seed in range(5)]
    settings = TUNING | dict(steps=15)
    first, second = (tune_prompts(backbone, jobs, **settings) for _ in range(2))
    assert all(torch.equal(a.prompt.values, b.prompt.values) for a, b in zip(first, second, strict=True))


def test_a_checkpoint_of_other_data_or_another_start_is_refused(backbone, reviews, tmp_path):
    start = random_prompt(backbone, 8, seed=5)
    settings = TUNING | dict(steps=10, checkpoint=tmp_path / "state")
    tune_prompt(backbone, reviews, init=start, **settings)
    reversed_start = replace(start, values=start.values.flip(0))
    with pytest.raises(TuningError, match="differs in inits"):
        tune_prompt(backbone, reviews, init=reversed_start, **settings)
    with pytest.raises(TuningError, match="differs in labels, texts"):
        tune_prompt(backbone, load_task("micro/sst2", max_train=300, seed=1), init=start, **settings)


def test_a_damaged_checkpoint_is_refused_by_name(backbone, reviews, tmp_path):
    (tmp_path / "state").write_text("not a checkpoint")
    with pytest.raises(TuningError, match="state' is not a checkpoint"):
        tune_prompt(backbone, reviews, checkpoint=tmp_path / "state", **TUNING)


def test_progress_can_be_silenced(backbone, reviews, capfd):
    tune_prompt(backbone, reviews, **TUNING | dict(steps=1))
    assert capfd.readouterr() == ("", "")
    tune_prompt(backbone, reviews, **TUNING | dict(steps=1, progress=True))
    assert "micro/sst2" in capfd.readouterr().err
