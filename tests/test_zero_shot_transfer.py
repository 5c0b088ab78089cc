"Zero-shot transfer on the small real tasks and with made-up numbers."

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from prompt_transferability.backbones import Backbone
from prompt_transferability.prompts import random_prompt
from prompt_transferability.tasks import load_task
from prompt_transferability.zero_shot_transfer import (
    decided_by_type,
    evaluate,
    kept_share,
    recovered_by_kind,
    recovered_by_task,
    recovered_by_type,
    recovered_overall,
    recovered_transfer,
    transfer_matrix,
    type_gap_test,
    type_means,
)

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


def test_ways_by_kind_of_task_need_columns_with_types_and_names_of_their_own():
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
    with pytest.raises(ValueError, match="do not tell micro/imdb from other columns"):
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
