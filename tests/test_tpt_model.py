"""TPT-model (Table 6), and what carrying prompts without LayerNorm does (Appendix D)."""

import pandas as pd
import pytest
import torch
from torch.optim import AdamW

from prompt_transferability import layernorm_ablation as module
from prompt_transferability.backbones import Backbone
from prompt_transferability.layernorm_ablation import layernorm_ablation
from prompt_transferability.projectors import Projector
from prompt_transferability.prompt_tuning import TuningJob, tune_prompts
from prompt_transferability.prompts import SoftPrompt, random_prompt
from prompt_transferability.similarity import METRICS, similarity_matrix
from prompt_transferability.tasks import ALL_TASKS, load_task
from prompt_transferability.tpt_model import similarity_to_tuned, tune_from_model
from prompt_transferability.training import TuningError
from prompt_transferability.zero_shot_transfer import evaluate_prompts, recovered_by_kind

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


NAMES = ("micro/sst2", "micro/imdb", "micro/mnli")
GROUPS = [["micro/sst2", "micro/imdb"], ["micro/mnli"]]
TUNING = dict(length=4, steps=4, eval_every=2, progress=False)


@pytest.fixture(scope="module")
def arguments():
    source, target = (Backbone.from_pretrained(name) for name in ("micro-bert", "micro-roberta"))
    datas = [load_task(name, max_train=60, max_eval=30) for name in NAMES]
    prompts = {name: SoftPrompt(random_prompt(source, 4, 0).values, source.name, name) for name in NAMES}
    runs = tune_prompts(target, [TuningJob(data) for data in datas], **TUNING)
    fitting = dict(hidden_size=8, steps=4, eval_every=2, progress=False)
    return dict(
        target_backbone=target,
        prompts=prompts,
        datas=datas,
        runs=runs,
        fitted_on=GROUPS,
        fitting=fitting,
        tuning=TUNING,
    )


def test_each_group_has_its_rows(arguments):
    found = layernorm_ablation(**arguments)
    learned = ("sst2, imdb", "mnli")
    ways = [f"task tuning{kind} ({group})" for group in learned for kind in (" without LayerNorm", "")]
    assert list(found["table9"].index) == ["tuned", "random", *ways] and list(found["table9"]) == list(NAMES)
    assert found["table9"].notna().all(axis=None)
    noise = [random_prompt(arguments["target_backbone"], 4, seed) for seed in (0, 1, 2)]
    for data in arguments["datas"]:
        worth = [result.accuracy for result in evaluate_prompts(arguments["target_backbone"], noise, data)]
        assert found["table9"].loc["random", data.task.name] == pytest.approx(sum(worth) / 3)
    # The rows are those of a study, so what reads a study's reads these.
    types = {name: ALL_TASKS[name].task_type for name in NAMES}
    assert list(recovered_by_kind(found["table9"], types).index) == ways
    assert len(found["table10"]) == len(GROUPS) * 2 * len(NAMES) + 1 == len(found["table10"].index.unique())
    curves = found["figure10"].groupby(["fitted_on", "prompts", "task"]).size()
    assert len(curves) == len(NAMES) * (1 + 2 * len(GROUPS)) and set(curves) == {3}
    # A prompt that is tuned further begins where it came: in each group its own.
    first = found["figure10"].query("step == 0 and prompts == 'tpt_model'").set_index(["fitted_on", "task"]).accuracy
    for group, name in zip(map(", ".join, GROUPS), learned, strict=True):
        assert first[group].to_dict() == found["table9"].loc[f"task tuning ({name})"].to_dict()


def test_an_ablation_goes_on_where_it_was_interrupted(arguments, tmp_path, monkeypatch):
    whole, tune, calls = layernorm_ablation(**arguments), module.tune_from_model, []

    def breaks(*given, **settings):
        calls.append(given)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return tune(*given, **settings)

    monkeypatch.setattr(module, "tune_from_model", breaks)
    with pytest.raises(KeyboardInterrupt):
        layernorm_ablation(**arguments, checkpoints=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 + 4  # two projectors, four tuned prompts
    trained, step = [], AdamW.step
    monkeypatch.setattr(module, "tune_from_model", tune)
    monkeypatch.setattr(AdamW, "step", lambda self, *given: trained.append(self) or step(self, *given))
    again = layernorm_ablation(**arguments, checkpoints=tmp_path)
    assert len(trained) == 4 * (2 + 8)  # the other group's projectors, and the eight prompts that were left
    for name in whole:
        pd.testing.assert_frame_equal(whole[name], again[name])
