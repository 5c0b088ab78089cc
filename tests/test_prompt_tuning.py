"Prompt tuning: what a reader of the notebook should not have to see."

import time
from dataclasses import replace
from functools import partial
from inspect import signature

import pytest
import torch

from prompt_transferability.backbones import Backbone
from prompt_transferability.prompt_tuning import TuningJob, tune_prompt, tune_prompts
from prompt_transferability.prompts import SoftPrompt, random_prompt
from prompt_transferability.tasks import load_task
from prompt_transferability.training import Loop, TuningError
from prompt_transferability.zero_shot_transfer import evaluate

SETTINGS = dict(length=8, steps=60, learning_rate=1e-2, eval_every=10, progress=False)


@pytest.fixture(scope="module")
def backbone():
    return Backbone.from_pretrained("micro-bert")


@pytest.fixture(scope="module")
def data():
    return load_task("micro/sst2", max_train=300)


def test_a_killed_run_ends_as_if_it_had_not_been_killed(backbone, data, tmp_path, fork):
    def run(name):
        found = tune_prompt(backbone, data, checkpoint=tmp_path / f"{name}.checkpoint", **SETTINGS)
        found.prompt.save(tmp_path / f"{name}.safetensors")

    assert fork(partial(run, "whole")).wait() == 0
    killed = fork(partial(run, "killed")).process
    while not (tmp_path / "killed.checkpoint").exists():
        time.sleep(0.01)
        assert killed.is_alive(), "the run ended before it could be killed"
    killed.kill()
    killed.join()
    assert not (tmp_path / "killed.safetensors").exists()
    assert fork(partial(run, "killed")).wait() == 0
    whole, resumed = (SoftPrompt.load(tmp_path / f"{name}.safetensors") for name in ("whole", "killed"))
    assert torch.equal(whole.values, resumed.values)
    assert whole.metadata == resumed.metadata


def test_resuming_continues_the_curve_and_the_optimizer(backbone, data, tmp_path, monkeypatch):
    whole = tune_prompt(backbone, data, **SETTINGS)
    steps, advance = [], Loop.advance

    def stop_at_35(self):
        if self.step == 35:
            raise KeyboardInterrupt
        steps.append(self.step)
        advance(self)

    monkeypatch.setattr(Loop, "advance", stop_at_35)
    with pytest.raises(KeyboardInterrupt):
        tune_prompt(backbone, data, checkpoint=tmp_path / "state", **SETTINGS)
    monkeypatch.setattr(Loop, "advance", lambda self: (steps.append(self.step), advance(self)))
    resumed = tune_prompt(backbone, data, checkpoint=tmp_path / "state", **SETTINGS)
    assert steps == [*range(35), *range(30, 60)]
    assert torch.equal(whole.prompt.values, resumed.prompt.values)
    assert whole.curve.drop(columns="seconds").equals(resumed.curve.drop(columns="seconds"))


def test_the_last_prompt_is_the_one_of_the_last_evaluation_even_where_others_train_on(backbone, data):
    "The optimiser's moments would move a prompt whose patience has ended."
    start = evaluate(backbone, random_prompt(backbone, SETTINGS["length"], 0), data)
    easy = replace(data, dev=data.dev.select((start.predictions == start.labels).nonzero()[0]))  # no new best, ever
    jobs = [TuningJob(easy), TuningJob(data)]
    runs = tune_prompts(backbone, jobs, **SETTINGS | dict(steps=30, patience=1))
    assert [run.curve.step.iloc[-1] > 10 for run in runs] == [False, True]
    for run, job in zip(runs, jobs, strict=True):
        steps = int(run.curve.step.iloc[-1])
        accuracy = evaluate(backbone, run.last, job.data).accuracy
        assert accuracy == run.curve.accuracy.iloc[-1] == run.last.metadata["accuracy"]
        assert run.last.metadata["steps"] == steps and run.last.task == run.prompt.task
        # The same start and the same texts: the same vectors after as many steps, but for rounding.
        alone = tune_prompt(backbone, job.data, **SETTINGS | dict(steps=steps)).last.values
        assert torch.allclose(run.last.values, alone, atol=1e-3)
    assert not torch.equal(runs[0].last.values, runs[0].prompt.values)


def test_patience_ends_a_run_early(backbone, data):
    run = tune_prompt(backbone, data, **SETTINGS | dict(learning_rate=1e-12, patience=2))
    assert list(run.curve.step) == [0, 10, 20]
    assert run.best_step == 0


def test_ties_go_to_the_earliest(backbone, data):
    run = tune_prompt(backbone, data, **SETTINGS | dict(learning_rate=1e-12))
    assert run.curve.accuracy.nunique() == 1
    assert run.best_step == 0 == run.prompt.metadata["steps"]


def test_only_the_prompt_gets_gradients(backbone, data):
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    vectors = torch.randn(4, backbone.hidden_size, requires_grad=True)
    backbone.label_logits(vectors, [data.dev[0]], data.task).sum().backward()
    assert vectors.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_row_0_is_dead_in_the_authors_layout(data):
    authors = Backbone.from_pretrained("micro-roberta", layout="authors")
    vectors = torch.randn(4, authors.hidden_size, requires_grad=True)
    authors.label_logits(vectors, [data.dev[0]], data.task).sum().backward()
    assert vectors.grad[0].abs().sum() == 0 and (vectors.grad[1:].abs().sum(1) > 0).all()


def test_a_loss_that_is_no_number_stops_the_run(backbone, data, tmp_path):
    with pytest.raises(TuningError, match="loss of task 'micro/sst2' is nan at step .* smaller learning rate"):
        tune_prompt(backbone, data, **SETTINGS | dict(learning_rate=1e30))


def test_a_loss_that_is_no_number_is_seen_at_the_evaluation(backbone, data, tmp_path):
    "Also where no step follows, so that no accuracy and no checkpoint of such a prompt is kept."
    settings = SETTINGS | dict(learning_rate=1e30, steps=1, checkpoint=tmp_path / "state")
    with pytest.raises(TuningError, match="loss of task 'micro/sst2' is nan at step 1 "):
        tune_prompt(backbone, data, **settings)
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
def test_settings_that_no_run_can_have_are_refused(backbone, data, change, sentence):
    with pytest.raises(TuningError, match=sentence):
        tune_prompt(backbone, data, **SETTINGS | change)


def test_one_prompt_and_several_have_the_same_defaults():
    one, several = (
        {name: parameter.default for name, parameter in signature(function).parameters.items()}
        for function in (tune_prompt, tune_prompts)
    )
    assert several == {name: one.get(name, default) for name, default in several.items()}


def test_training_leaves_the_model_as_it_was(backbone, data):
    before = [parameter.clone() for parameter in backbone.parameters()]
    runs = tune_prompts(backbone, [TuningJob(data, seed=seed) for seed in (0, 1)], **SETTINGS | dict(steps=5))
    assert all(torch.equal(old, new) for old, new in zip(before, backbone.parameters(), strict=True))
    assert runs[0] == runs[0] and runs[0] != runs[1]  # and runs, which hold tables and tensors, can be compared


def test_prompts_side_by_side_are_the_same_again(backbone, data):
    jobs = [TuningJob(data, seed=seed) for seed in range(5)]
    settings = SETTINGS | dict(steps=15)
    first, second = (tune_prompts(backbone, jobs, **settings) for _ in range(2))
    assert all(torch.equal(a.prompt.values, b.prompt.values) for a, b in zip(first, second, strict=True))


def test_a_checkpoint_of_other_data_or_another_start_is_refused(backbone, data, tmp_path):
    start = random_prompt(backbone, 8, seed=5)
    settings = SETTINGS | dict(steps=10, checkpoint=tmp_path / "state")
    tune_prompt(backbone, data, init=start, **settings)
    reversed_start = replace(start, values=start.values.flip(0))
    with pytest.raises(TuningError, match="differs in inits"):
        tune_prompt(backbone, data, init=reversed_start, **settings)
    with pytest.raises(TuningError, match="differs in labels, texts"):
        tune_prompt(backbone, load_task("micro/sst2", max_train=300, seed=1), init=start, **settings)


def test_a_damaged_checkpoint_is_refused_by_name(backbone, data, tmp_path):
    (tmp_path / "state").write_text("not a checkpoint")
    with pytest.raises(TuningError, match="state' is not a checkpoint"):
        tune_prompt(backbone, data, checkpoint=tmp_path / "state", **SETTINGS)


def test_progress_can_be_silenced(backbone, data, capfd):
    tune_prompt(backbone, data, **SETTINGS | dict(steps=1))
    assert capfd.readouterr() == ("", "")
    tune_prompt(backbone, data, **SETTINGS | dict(steps=1, progress=True))
    assert "micro/sst2" in capfd.readouterr().err
