"Masked neurons: which they are for every type of model, that the model is whole again, and what the script writes."

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from tiny_models import SENTIMENT, SINGLE, build
from transformers.pytorch_utils import Conv1D

from prompt_transferability.backbones import Backbone, BackboneError
from prompt_transferability.neurons import (
    CHOICES,
    accuracy_by_task,
    accuracy_difference,
    evaluate_masked,
    mask_neurons,
    mean_of_others,
    most_activated,
    random_neurons,
    share_of,
)
from prompt_transferability.prompts import SoftPrompt, random_prompt
from prompt_transferability.results import Results
from prompt_transferability.statistics import interval
from prompt_transferability.tasks import TaskData, UnknownNameError
from prompt_transferability.zero_shot_transfer import evaluate

ROOT = Path(__file__).parents[1]
MICRO = ["micro-bert", "micro-roberta", "micro-llama", "micro-t5"]
TINY = [
    *("distilbert", "albert", "albert: two layers a group", "electra", "modernbert"),
    *("gpt2", "gpt_neox", "opt", "llama", "qwen3", "gemma2", "phi3"),
    *("t5", "t5: v1.1", "mt5"),
]


@pytest.fixture(scope="module")
def data():
    rows = [row | {"label": i % 2} for i, row in enumerate(SINGLE * 4)]
    return TaskData(SENTIMENT, dev=Dataset.from_list(rows), test=Dataset.from_list(rows[:5]))


@pytest.fixture(scope="module", params=[*MICRO, *TINY])
def backbone(request, tmp_path_factory):
    name = request.param
    folder = name if name in MICRO else build(name, tmp_path_factory.mktemp("tiny"))
    return Backbone.from_pretrained(folder, device="cpu", max_length=60)


@pytest.fixture(scope="module")
def bert():
    return Backbone.from_pretrained("micro-bert", device="cpu")


def drawn(backbone, task="micro/sst2", seed=0, scale=1.0):
    values = torch.randn(6, backbone.embedding_size, generator=torch.Generator().manual_seed(seed)) * scale
    return SoftPrompt(values, backbone.name, task)


def hooks_of(backbone):
    return sum(len(module._forward_hooks) for module in backbone.model.modules())


# ---- every type of model


def masks_seen(monkeypatch):
    "The masks that are silenced from here on, in their order."
    seen, original = [], Backbone.without_neurons
    monkeypatch.setattr(Backbone, "without_neurons", lambda self, masked: seen.append(masked) or original(self, masked))
    return seen


def test_the_largest_pre_activations_of_all_layers_are_silenced(backbone, data, monkeypatch):
    prompt, before = drawn(backbone), hooks_of(backbone)
    values = backbone.neuron_values(prompt.values)[0].numpy()
    count = round(0.3 * values.size)
    own = torch.from_numpy(values >= np.sort(values, axis=None)[-count])
    with backbone.without_neurons(own):
        by_hand = evaluate(backbone, prompt, data)
    seen = masks_seen(monkeypatch)
    table = mask_neurons(backbone, prompt, data, 0.3, by=["own", "random", "random by layer"], draws=2)
    assert table["by"].tolist() == ["nothing", "own", *["random"] * 2, *["random by layer"] * 2]
    assert table["neurons"].tolist() == [0, *[count] * 5]
    assert table["accuracy"][0] == evaluate(backbone, prompt, data).accuracy
    assert torch.equal(seen[1], own) and not seen[0].any() and len(seen) == len(table)
    assert table["accuracy"][1] == by_hand.accuracy and table["of_own"][1] == 1
    assert (table["n"] == len(data.dev)).all() and hooks_of(backbone) == before


OUTGOING = r"(?<!attention\.)(output\.dense|lin2|down_proj|fc2|dense_4h_to_h|mlp\.(Wo|c_proj)|DenseReluDense\.wo)$"


@torch.no_grad()
def test_silenced_neurons_are_those_whose_outgoing_weights_are_zero(backbone, data):
    "Asked of the logits, which tell more than an accuracy; the other model is changed by hand, without a hook."
    if backbone.model.config.model_type == "albert":
        pytest.skip("its layers share their weights, so no neuron of one layer has weights of its own")
    last = [module for name, module in backbone.model.named_modules() if re.search(OUTGOING, name)]
    assert len(last) == backbone.num_layers
    prompt, rows = drawn(backbone), [data.dev[i] for i in range(3)]
    masked = most_activated(backbone.neuron_values(prompt.values)[0], 0.2)
    with backbone.without_neurons(masked):
        silenced = backbone.label_logits(prompt.values, rows, data.task)
    whole = backbone.label_logits(prompt.values, rows, data.task)
    kept = [module.weight.clone() for module in last]
    try:
        for module, neurons in zip(last, masked, strict=True):
            weight = module.weight.T if isinstance(module, Conv1D) else module.weight
            weight[:, neurons] = 0
        expected = backbone.label_logits(prompt.values, rows, data.task)
    finally:
        for module, weight in zip(last, kept, strict=True):
            module.weight.copy_(weight)
    assert torch.allclose(silenced, expected, atol=1e-4) and not torch.allclose(silenced, whole, atol=1e-3)


def test_a_group_of_layers_is_masked_in_these_layers(backbone, data, monkeypatch):
    seen, last = masks_seen(monkeypatch), backbone.num_layers
    table = mask_neurons(backbone, drawn(backbone), data, 0.25, layers=(last, last), draws=2)
    expected = round(0.25 * backbone.ffn_size)
    assert table["neurons"].tolist() == [0, *[expected] * 5]
    assert all(not masked[:-1].any() for masked in seen)
    values = backbone.neuron_values(drawn(backbone).values)[0][-1]
    assert set(values.topk(expected).indices.tolist()) == set(seen[1][-1].nonzero().flatten().tolist())


# ---- the model afterwards, and what is done once


def test_a_failure_in_the_middle_leaves_the_model_whole(bert, data, monkeypatch):
    prompt, before = drawn(bert), hooks_of(bert)
    whole, calls, predict = evaluate(bert, prompt, data).predictions, [], Backbone.predict

    def fails(self, *arguments):
        calls.append(hooks_of(self))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Backbone, "predict", fails)
        with pytest.raises(KeyboardInterrupt):
            mask_neurons(bert, prompt, data, 0.2)
    assert min(calls) > before == hooks_of(bert)
    assert (evaluate(bert, prompt, data).predictions == whole).all()


def test_texts_are_tokenized_once(bert, data, monkeypatch):
    calls, encode = [], Backbone.encode
    monkeypatch.setattr(Backbone, "encode", lambda self, rows: calls.append(len(rows)) or encode(self, rows))
    assert len(mask_neurons(bert, drawn(bert), data, 0.2, draws=4)) == 10
    assert calls == [len(data.dev)]


def test_the_split_that_is_asked_for(bert, data):
    assert set(mask_neurons(bert, drawn(bert), data, 0.2, by="own", split="test")["n"]) == {5}
    with pytest.raises(UnknownNameError, match="unknown split of micro/sst2 'train'"):
        mask_neurons(bert, drawn(bert), data, 0.2, split="train")


# ---- whose neurons


def test_other_prompts_are_told_apart(bert, data):
    prompt, twice = drawn(bert), [drawn(bert, seed=1), drawn(bert, seed=2)]
    table = mask_neurons(bert, prompt, data, 0.1, by=[twice[0], "own", twice[1], random_prompt(bert, 4, 0)])
    assert table["by"].tolist() == ["nothing", "own", *["other prompt"] * 3]
    assert table["prompt"].tolist() == ["", "", "micro/sst2 1", "micro/sst2 2", "random"]
    own, other = (most_activated(bert.neuron_values(one.values)[0], 0.1) for one in (prompt, twice[1]))
    assert table["of_own"][3] == share_of(other, own) < 1
    alone = mask_neurons(bert, prompt, data, 0.1, by=prompt)
    assert alone["by"].tolist() == ["nothing", "other prompt"] and alone["of_own"][1] == 1


def test_random_neurons_follow_the_seed_and_nest(bert):
    values = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    small, large = most_activated(values, 0.1), most_activated(values, 0.4)
    for by_layer in (False, True):
        few, many, others = (
            random_neurons(masked, 3, seed, by_layer=by_layer) for masked, seed in ((small, 0), (large, 0), (large, 1))
        )
        assert all((a <= b).all() for a, b in zip(few, many, strict=True)), "the same ranking, cut earlier"
        assert all((a != b).any() for a, b in zip(many, others, strict=True)) and (many[0] != many[1]).any()
        assert {int(masked.sum()) for masked in few} == {20}
    by_layer = random_neurons(large, 2, by_layer=True)
    assert all(torch.equal(masked.sum(1), large.sum(1)) for masked in by_layer)
    inside = random_neurons(most_activated(values, 0.5, (2, 3)), 2, layers=(2, 3))
    assert all(masked[1:3].sum() == 50 and not masked[[0, 3]].any() for masked in inside)


def test_equal_values_are_cut_in_one_order():
    assert most_activated(torch.zeros(2, 3), 0.5).tolist() == [[True] * 3, [False] * 3]
    assert most_activated(torch.zeros(2, 3), 1).all()


@pytest.mark.parametrize(
    ("asked", "error", "sentence"),
    [
        ({"ratio": 0}, ValueError, "ratio is 0; give the share of the 2048 neurons"),
        ({"ratio": -0.2}, ValueError, "ratio is -0.2"),
        ({"ratio": float("nan")}, ValueError, "ratio is nan"),
        ({"ratio": 1e-6}, ValueError, "ratio is 1e-06"),
        ({"ratio": 20}, ValueError, "ratio is 20"),
        ({"layers": (0, 2)}, ValueError, "there are no layers 0 to 2; give the first and the last of layers 1 to 4"),
        ({"layers": (3, 2)}, ValueError, "there are no layers 3 to 2"),
        ({"by": "Own"}, UnknownNameError, "unknown choice of neurons 'Own'; did you mean 'own'?"),
        ({"by": ["own", "others"]}, UnknownNameError, "unknown choice of neurons 'others'"),
        ({"draws": 0}, ValueError, "draws is 0; give 1 or more"),
    ],
)
def test_a_mistake_is_one_sentence(asked, error, sentence, bert, data):
    with pytest.raises(error) as found:
        mask_neurons(bert, drawn(bert), data, **{"ratio": 0.2} | asked)
    assert sentence in str(found.value) and "\n" not in str(found.value)


def test_a_mask_of_another_model(bert, data):
    with pytest.raises(BackboneError, match=r"masked must be bool \[4, 512\]"):
        evaluate_masked(bert, drawn(bert), data, [torch.zeros(2, 512, dtype=torch.bool)])


# ---- over tasks


def test_a_task_counts_once():
    rows = [("a", 0, "x", 0.5), ("a", 0, "x", 0.7), ("a", 0, "x", 0.6), ("a", 1, "x", 0.9), ("b", 0, "x", 0.4)]
    table = pd.DataFrame(rows, columns=["task", "seed", "by", "accuracy"]).assign(ratio=0.2)
    assert accuracy_by_task(table).loc[0.2, "x"].round(9).to_dict() == {"a": 0.75, "b": 0.4}


def test_a_difference_has_an_interval_and_a_test_from_six_tasks_on():
    one, other = pd.Series(np.arange(13) / 20), pd.Series(np.arange(13) / 25)
    found = accuracy_difference(one, other)
    assert found["mean"] == pytest.approx((one - other).mean()) and found["tasks"] == 13
    assert (found["low"], found["high"]) == interval(one - other) and found["p"] == 2 / 2**12
    few = accuracy_difference(one[:5], other[:5])
    assert np.isnan([few["low"], few["high"], few["p"]]).all() and few["tasks"] == 5


# ---- the script behind the page


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("masking", ROOT / "tools" / "masking.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_that_the_script_masks(script):
    draw = torch.Generator().manual_seed(0)
    values = {name: torch.randn(3, 40, generator=draw) for name in "abcd"}
    own = list(script.own_masks(values, "a", 0.25, draws=2, seed=0))
    assert [name for name, *_ in own] == [
        *("own", "shared", "specific"),
        *[name for name in ("random", "random by layer", "random by layer, as specific") for _ in range(2)],
    ]
    masks = {(name, draw): masked for name, _, draw, masked in own}
    assert {int(masked.sum()) for masked in masks.values()} == {30}
    others = sum(values[name] for name in "bcd") / 3
    assert torch.allclose(mean_of_others(values)["a"], others, atol=1e-6)
    assert torch.equal(masks["specific", 0], most_activated(values["a"] - others, 0.25))
    assert torch.equal(masks["random by layer, as specific", 1].sum(1), masks["specific", 0].sum(1))
    found = list(script.others_masks(values, "a", 0.25, dict(a="SA", b="NLI", c="SA", d="PI")))
    assert [(kind, name) for kind, name, *_ in found] == [
        ("other types", "b"),
        ("same type", "c"),
        ("other types", "d"),
    ]
    assert torch.equal(found[1][-1], most_activated(values["c"], 0.25))


def test_the_committed_tables_are_whole_and_say_where_they_come_from():
    files = sorted((ROOT / "results" / "masking").glob("*.csv"))
    assert files
    for file in files:
        table, origin = pd.read_csv(file), json.loads(file.with_suffix(".json").read_text())
        assert origin["command"].startswith("python tools/masking.py results/") and origin["seconds"] > 0
        assert {"commit", "libraries", "processor", "seed", "threads", "fingerprint"} <= origin.keys()
        assert {0.2} <= set(table["ratio"]) <= {0.05, 0.1, 0.2, 0.4} and table["accuracy"].between(0, 1).all()
        neurons = origin["layers"] * origin["neurons_in_a_layer"]
        masked = table[table["by"] != "nothing"]
        assert (masked["neurons"] == (masked["ratio"] * neurons).round()).all()
        at_20 = accuracy_by_task(table).loc[0.2]
        study = Results(ROOT / "results" / file.stem).study
        assert {*at_20.index} == {*study.tasks} and at_20.notna().all(axis=None)
        assert {*CHOICES, "other types", "shared", "specific"} <= {*at_20.columns}
        assert ("same type" in at_20) == (len({*study.types().values()}) < len(study.tasks))
