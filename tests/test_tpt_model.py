"Tuning from another model's prompt: interruption, and many tasks at once."

import pytest
import torch

from prompt_transferability.backbones import Backbone
from prompt_transferability.projectors import Projector
from prompt_transferability.prompts import SoftPrompt, random_prompt
from prompt_transferability.similarity import METRICS, similarity_matrix
from prompt_transferability.tasks import load_task
from prompt_transferability.tpt_model import similarity_to_tuned, tune_from_model
from prompt_transferability.training import TuningError

SETTINGS = dict(steps=6, eval_every=2, progress=False)


@pytest.fixture(scope="module")
def target():
    return Backbone.from_pretrained("micro-roberta")


def prompt(seed: int, backbone: str = "micro-bert") -> SoftPrompt:
    values = torch.randn(4, 128, generator=torch.Generator().manual_seed(seed)) * 0.02
    return SoftPrompt(values, backbone, "micro/sst2", metadata={"seed": seed})


def test_a_run_goes_on_from_its_checkpoint_and_from_no_other_prompts(target, tmp_path):
    data, projector = load_task("micro/sst2", max_train=60, max_eval=40), Projector(128, 128, 4, 8)
    whole = tune_from_model(target, data, projector, prompt(0), **SETTINGS)
    predict, calls = target.predict, []

    def breaks(*given):
        calls.append(given)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return predict(*given)

    target.predict = breaks
    try:
        with pytest.raises(KeyboardInterrupt):
            tune_from_model(target, data, projector, prompt(0), **SETTINGS, checkpoint=tmp_path / "state")
    finally:
        del target.predict
    with pytest.raises(TuningError, match="differs in inits"):
        tune_from_model(target, data, projector, prompt(1), **SETTINGS, checkpoint=tmp_path / "state")
    resumed = tune_from_model(target, data, projector, prompt(0), **SETTINGS, checkpoint=tmp_path / "state")
    assert torch.equal(resumed.last.values, whole.last.values) and torch.equal(
        resumed.prompt.values, whole.prompt.values
    )
    assert resumed.prompt.metadata["init"] == whole.prompt.metadata["init"]
    assert whole.prompt.metadata["init"]["projected_from"] == {"backbone": "micro-bert", "seed": 0}


def test_each_task_is_compared_with_its_own_prompt(target):
    names = ("sst2", "imdb", "mnli")
    carried = {name: random_prompt(target, 4, seed) for seed, name in enumerate(names)}
    tuned = {name: random_prompt(target, 4, 10 + seed) for seed, name in enumerate(names)} | {"qqp": carried["sst2"]}
    table = similarity_to_tuned(target, carried, tuned)
    assert list(table.index) == list(names) and list(table) == list(METRICS)
    for metric in METRICS:
        pairs = {f"carried {name}": found for name, found in carried.items()} | tuned
        matrix = similarity_matrix(pairs, metric, target)
        for name in names:
            assert table.loc[name, metric] == pytest.approx(matrix.loc[f"carried {name}", name], abs=1e-6)
