"Fine-tuning: what a reader of the notebook should not have to see."

from inspect import signature

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from prompt_transferability.backbones import Backbone
from prompt_transferability.fine_tuning import fine_tune
from prompt_transferability.prompt_tuning import tune_prompt
from prompt_transferability.tasks import load_task
from prompt_transferability.training import Loop, TuningError

SETTINGS = dict(steps=12, learning_rate=3e-4, eval_every=4, progress=False)


@pytest.fixture(scope="module")
def backbone():
    return Backbone.from_pretrained("micro-bert", device="cpu")


@pytest.fixture(scope="module")
def data():
    return load_task("micro/sst2", max_train=300, max_eval=60)


def weights(backbone):
    return parameters_to_vector(backbone.parameters())


def test_resuming_ends_with_the_same_model(backbone, data, tmp_path, monkeypatch):
    whole, steps = fine_tune(backbone, data, **SETTINGS), []
    advance = Loop.advance

    def stop_at_10(self):
        if self.step == 10:
            raise KeyboardInterrupt
        advance(self)

    monkeypatch.setattr(Loop, "advance", stop_at_10)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(backbone, data, checkpoint=tmp_path / "state", **SETTINGS)
    monkeypatch.setattr(Loop, "advance", lambda self: (steps.append(self.step), advance(self)))
    resumed = fine_tune(backbone, data, checkpoint=tmp_path / "state", **SETTINGS)
    assert steps == [8, 9, 10, 11]
    assert torch.equal(weights(whole.backbone), weights(resumed.backbone))
    assert whole.curve.drop(columns="seconds").equals(resumed.curve.drop(columns="seconds"))
    assert resumed.curve.seconds.is_monotonic_increasing


def test_the_best_model_is_kept_and_not_the_last(backbone, data, monkeypatch):
    right = np.array(data.dev["label"])
    answers = iter([1 - right, right, 1 - right, 1 - right, 1 - right, right])
    monkeypatch.setattr(Backbone, "predict", lambda *_: next(answers))
    long, short = (fine_tune(backbone, data, **SETTINGS | dict(steps=steps)) for steps in (12, 4))
    assert list(long.curve.accuracy) == [0, 1, 0, 0] and long.best_step == short.best_step == 4
    assert torch.equal(weights(long.backbone), weights(short.backbone))


def test_it_may_end_early_and_ties_go_to_the_earliest(backbone, data):
    run = fine_tune(backbone, data, **SETTINGS | dict(learning_rate=1e-12, patience=2))
    assert list(run.curve.step) == [0, 4, 8] and run.best_step == 0
    assert torch.equal(weights(run.backbone), weights(backbone))


@pytest.mark.parametrize("name, layout", [("micro-bert", "paper"), ("micro-roberta", "authors")])
def test_the_given_model_stays_as_it_is(name, layout, data):
    backbone = Backbone.from_pretrained(name, layout, device="cpu")
    before = weights(backbone).clone()
    run = fine_tune(backbone, data, **SETTINGS | dict(steps=2))
    assert torch.equal(weights(backbone), before) and not torch.equal(weights(run.backbone), before)
    assert backbone.name == name and run.backbone.name == f"{name} tuned on micro/sst2"
    assert run.backbone.layout == layout
    assert all(weight.grad is None and not weight.requires_grad for weight in backbone.parameters())


def test_a_prompt_can_be_tuned_on_what_was_fine_tuned(backbone, data):
    tuned = fine_tune(backbone, data, **SETTINGS).backbone
    before = weights(tuned).clone()
    run = tune_prompt(tuned, data, length=4, **SETTINGS)
    assert run.prompt.backbone == tuned.name and torch.equal(weights(tuned), before)


def test_a_model_of_half_precision_is_trained_in_single(data):
    half = Backbone.from_pretrained("micro-bert", device="cpu", dtype="bfloat16")
    run = fine_tune(half, data, **SETTINGS | dict(steps=2))
    assert half.dtype == torch.bfloat16 and run.backbone.dtype == torch.float32


def test_a_checkpoint_of_another_training_is_refused(backbone, data, tmp_path):
    fine_tune(backbone, data, checkpoint=tmp_path / "state", **SETTINGS)
    with pytest.raises(TuningError, match="differs in seeds;"):
        fine_tune(backbone, data, seed=1, checkpoint=tmp_path / "state", **SETTINGS)
    with pytest.raises(TuningError, match="differs in backbone, fingerprint, length, trained;"):
        tune_prompt(backbone, data, length=4, checkpoint=tmp_path / "state", **SETTINGS)


def test_it_is_asked_as_a_prompt_is_but_for_its_start_and_rate():
    model, prompt = (
        {name: parameter.default for name, parameter in signature(function).parameters.items()}
        for function in (fine_tune, tune_prompt)
    )
    assert prompt.keys() - model.keys() == {"init", "length", "watch"}
    assert {name for name in model if model[name] != prompt[name]} == {"learning_rate"}
