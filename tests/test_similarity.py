"Similarity: precision and speed on published prompts, blocks, resampling done the long way, and what is refused."

import time
from itertools import combinations, combinations_with_replacement

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import rankdata, spearmanr

from prompt_transferability import similarity as module
from prompt_transferability.backbones import Backbone
from prompt_transferability.prompts import PromptError, SoftPrompt, random_prompt
from prompt_transferability.release import load_release
from prompt_transferability.release import published as published_files
from prompt_transferability.similarity import (
    EMBEDDING_METRICS,
    METRICS,
    activation_states,
    active_share,
    correlation_gain,
    euclidean_average,
    independent_pairs,
    layer_groups,
    neuron_overlap,
    overlap_by_chance,
    overlap_matrix,
    overlap_profile,
    pair_means,
    pooled_correlation,
    same_task_auc,
    similarity_matrix,
    task_means,
    transferability_correlation,
    type_baseline,
)
from prompt_transferability.statistics import jackknife_interval, weighted_spearman
from prompt_transferability.tasks import UnknownNameError

NAMES = [f"{task} {seed}" for task in "abcde" for seed in range(3)]
TASKS = {name: name[0] for name in NAMES}
SEEDS = {name: name[-1] for name in NAMES}
TYPES = dict(zip("abcde", ("SA", "SA", "NLI", "NLI", "PI"), strict=True))


def reference(p, q):
    "The four embedding metrics of two prompts in double precision, by the distances of `scipy`."
    p, q = p.double().numpy(), q.double().numpy()
    units = [values / np.sqrt((values**2).sum(1, keepdims=True)) for values in (p, q)]
    found = {
        "euclidean_average": 1 / (1 + cdist(p, q).mean()),
        "cosine_average": (units[0] @ units[1].T).mean(),
    }
    if p.shape == q.shape:
        found["euclidean_concat"] = 1 / (1 + cdist(p.reshape(1, -1), q.reshape(1, -1)).item())
        found["cosine_concat"] = (p * q).sum() / np.sqrt((p**2).sum() * (q**2).sum())
    return found


def prompts_of(values, backbone="some-model", layout="paper"):
    return {f"p{i}": SoftPrompt(matrix, backbone, f"task{i}", layout) for i, matrix in enumerate(values)}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def symmetric(names, seed=0):
    values = np.random.default_rng(seed).random((len(names), len(names)))
    values = (values + values.T) / 2
    np.fill_diagonal(values, 1)
    return pd.DataFrame(values, names, names)


# ---- the embedding metrics


@pytest.fixture(scope="module")
def published(real_data):
    "All published prompts of 100 vectors of 768 numbers, whatever the model; here they are points of one space."
    folder = real_data / "authors-release" / "Prompt-Transferability-1.0" / "task_prompt_emb"
    files = sorted(folder.rglob("task_prompt"))
    if not files:
        pytest.skip("needs the published prompts: authors-release/ beside the tasks")
    found = {
        str(path.parent.relative_to(folder)): SoftPrompt.from_authors(path, "any", path.parent.name) for path in files
    }
    return {name: prompt for name, prompt in found.items() if prompt.values.shape == (100, 768)}


def test_65_published_prompts_are_compared_exactly_and_fast(published):
    prompts = dict(list(published.items())[:65])
    assert len(prompts) == 65
    started = time.process_time()
    matrices = {metric: similarity_matrix(prompts, metric) for metric in EMBEDDING_METRICS}
    assert time.process_time() - started < 10  # on two cores, 5 s by the clock
    for one, other in [*combinations(prompts, 2)][::7] + [(name, name) for name in prompts]:
        for metric, expected in reference(prompts[one].values, prompts[other].values).items():
            assert matrices[metric].at[one, other] == pytest.approx(expected, rel=1e-6, abs=1e-15)


def test_every_pair_of_published_prompts_agrees_with_double_precision(real_data):
    "Of each model, since prompts of different models cannot be compared."
    if not (real_data / "authors-release").is_dir():
        pytest.skip("needs the published prompts: authors-release/ beside the tasks")
    release, listed = load_release(real_data), published_files().query("kind == 'prompt' and copy_of.isna()")
    assert len(listed) == 130  # of 133 files, three repeat another
    for backbone, files in listed.groupby("backbone"):
        prompts = {f"{row.task} {row.run}": release.prompt(row.task, backbone, row.run) for row in files.itertuples()}
        assert len(prompts) == len(files)
        angled = {name: prompt for name, prompt in prompts.items() if prompt.values.any(1).all()}
        assert prompts.keys() - angled.keys() <= {"random random"}  # RoBERTa-large's is zero but for one vector
        matrices = {
            metric: similarity_matrix(angled if metric == "cosine_average" else prompts, metric)
            for metric in EMBEDDING_METRICS
        }
        for one, other in combinations_with_replacement(prompts, 2):
            for metric, expected in reference(prompts[one].values, prompts[other].values).items():
                if {one, other} <= set(matrices[metric]):
                    found = matrices[metric].at[one, other]
                    assert found == pytest.approx(expected, rel=1e-6, abs=1e-15), (metric, one, other)


@pytest.mark.parametrize("apart", [0, 1e-12, 1e-9, 1e-6, 1e-3, 1])
@pytest.mark.parametrize("offset", [0, 1, 1e3])
def test_distances_of_vectors_that_are_nearly_the_same(apart, offset):
    "In a prompt whose vectors all lie within `apart` of each other, far from the origin."
    p, q = (offset + 3 + apart * drawn(20, 64, seed=seed).double() for seed in (0, 1))
    distances = cdist(p, q)
    assert euclidean_average(p, q) == pytest.approx(1 / (1 + distances.mean()), rel=1e-9)
    found = module._distances(p, q).numpy()
    assert found == pytest.approx(distances, rel=1e-6, abs=0)
    assert (module._distances(p, p).diagonal() == 0).all()


@pytest.mark.parametrize("block", [1, 7, 30, 1024])
@pytest.mark.parametrize("metric", METRICS)
def test_the_size_of_a_block_does_not_matter(metric, block, monkeypatch):
    backbone = Backbone.from_pretrained("micro-bert", device="cpu")
    lengths = [5] * 8 if metric.endswith("concat") else [5, 3, 5, 5, 8, 3, 1, 5]
    values = [drawn(length, backbone.hidden_size, seed=seed) for seed, length in enumerate(lengths)]
    prompts = prompts_of(values, backbone.name)
    monkeypatch.setattr(module, "_BLOCK", block)
    matrix = similarity_matrix(prompts, metric, backbone if metric == "neuron_overlap" else None)
    assert list(matrix.index) == list(matrix.columns) == list(prompts)
    assert (matrix == matrix.T).all(axis=None)
    for (i, one), (j, other) in combinations(enumerate(prompts), 2):
        if metric == "neuron_overlap":
            states = [backbone.neuron_states(values[k]).flatten().double() for k in (i, j)]
            expected = torch.cosine_similarity(*states, dim=0).item()
            assert matrix.at[one, other] == pytest.approx(expected, abs=2e-3)  # a state near zero may go either way
        else:
            assert matrix.at[one, other] == pytest.approx(reference(values[i], values[j])[metric], rel=1e-9)


def test_prompts_in_half_precision_are_compared_in_double():
    p, q = drawn(6, 8), drawn(6, 8, seed=1)
    expected = euclidean_average(p.half().double(), q.half().double())
    assert euclidean_average(p.half(), q.half()) == expected


def test_arrays_are_compared_as_tensors_are():
    p, q = drawn(6, 8), drawn(6, 8, seed=1)
    assert euclidean_average(p.numpy(), q.numpy()) == euclidean_average(p, q)
    assert neuron_overlap((p > 0).numpy(), (q > 0).numpy()) == neuron_overlap(p > 0, q > 0)


def test_neurons_are_no_way_out_for_prompts_of_different_widths():
    for width, advised in ((8, True), (7, False)):
        other = SoftPrompt(drawn(5, width), "another", "x")
        with pytest.raises(PromptError, match="project one of them") as raised:
            similarity_matrix(prompts_of([drawn(5, 8)]) | {"b": other}, "cosine_average")
        assert ("compare them by neuron_overlap" in str(raised.value)) == advised


def test_nothing_is_compared_that_cannot_be():
    one, other = drawn(5, 8), drawn(5, 8, seed=1)
    for metric in EMBEDDING_METRICS:
        with pytest.raises(
            PromptError, match=f"{metric} cannot compare 'p0' .backbone 'some-model'. with 'b' .backbone"
        ):
            similarity_matrix(prompts_of([one]) | {"b": SoftPrompt(other, "another", "x")}, metric)
        with pytest.raises(PromptError, match="layout 'paper'. with 'b' .layout 'authors'.: .* overwrites the first"):
            similarity_matrix(prompts_of([one]) | {"b": SoftPrompt(other, "some-model", "x", "authors")}, metric)
        with pytest.raises(PromptError, match="'p0' is 8 wide and 'p1' 7; .* projector"):
            similarity_matrix(prompts_of([one, other[:, :7]]), metric)
        with pytest.raises(ValueError, match="layers belong to neuron_overlap"):
            similarity_matrix(prompts_of([one, other]), metric, layers=(1, 2))
    for metric in ("euclidean_concat", "cosine_concat"):
        with pytest.raises(PromptError, match="'p0' has 5 vectors and 'p1' 4; .*: use .*_average"):
            similarity_matrix(prompts_of([one, other[:4]]), metric)
    for metric, values in (("cosine_concat", 0 * one), ("cosine_average", torch.cat([one[1:], torch.zeros(1, 8)]))):
        with pytest.raises(PromptError, match="'p1' has a vector of zeros"):
            similarity_matrix(prompts_of([one, values]), metric)
    with pytest.raises(UnknownNameError, match="unknown metric 'cosine_concta'; did you mean 'cosine_concat'"):
        similarity_matrix(prompts_of([one]), "cosine_concta")
    with pytest.raises(ValueError, match="no prompts to compare"):
        similarity_matrix([], "cosine_concat")


# ---- neurons


@pytest.mark.parametrize("layout", ["paper", "authors"])
def test_states_of_prompts_of_several_lengths(layout):
    backbone = Backbone.from_pretrained("micro-roberta", layout, device="cpu")
    prompts = {f"{length} {seed}": random_prompt(backbone, length, seed) for length in (7, 3, 5) for seed in (0, 1)}
    states = activation_states(prompts, backbone)
    assert list(states) == list(prompts)
    for name, state in states.items():
        alone = backbone.neuron_states(prompts[name].values)
        assert (state == alone).float().mean() > 0.999 and state.shape == (backbone.num_layers, backbone.ffn_size)
    assert active_share(states).columns.tolist() == [*range(1, backbone.num_layers + 1)]
    assert active_share(states).loc["3 0", 2] == states["3 0"][1].double().mean()


@pytest.mark.parametrize("depth", range(1, 30))
def test_groups_of_layers_are_as_equal_as_can_be(depth):
    groups = layer_groups(depth)
    assert len(groups) == min(4, depth)
    assert [layer for first, last in groups for layer in range(first, last + 1)] == [*range(1, depth + 1)]
    sizes = [last - first + 1 for first, last in groups]
    assert max(sizes) - min(sizes) <= 1


def test_overlap_of_some_layers():
    states = {str(seed): drawn(6, 40, seed=seed) > 0 for seed in range(3)}
    for layers in ((1, 1), (2, 4), (6, 6), None):
        first, last = layers or (1, 6)
        s, t = (states[name][first - 1 : last].flatten() for name in "02")
        expected = (s & t).sum() / (s.sum() * t.sum()).sqrt()
        assert neuron_overlap(states["0"], states["2"], layers) == pytest.approx(expected.item(), rel=1e-6)
        assert overlap_matrix(states, layers).at["0", "2"] == neuron_overlap(states["0"], states["2"], layers)
    assert np.diagonal(overlap_matrix(states)) == pytest.approx(1)


def test_states_that_are_refused():
    s, t = drawn(4, 10) > 0, drawn(4, 10, seed=1) > 0
    for layers in ((0, 2), (3, 5), (3, 2)):
        with pytest.raises(ValueError, match=r"there are no layers \d to \d; .* layers 1 to 4"):
            neuron_overlap(s, t, layers)
    with pytest.raises(ValueError, match=r"states of one model .* \[4, 10\] and the second prompt \[3, 10\]"):
        neuron_overlap(s, t[:3])
    silent = t.clone()
    silent[1] = False
    assert neuron_overlap(s, silent) > 0
    with pytest.raises(ValueError, match="b activates no neuron of these layers"):
        overlap_matrix({"a": s, "b": silent}, (2, 2))
    for function in (overlap_matrix, active_share, lambda states: overlap_profile(states, {})):
        with pytest.raises(ValueError, match="no prompts to compare"):
            function({})
        with pytest.raises(ValueError, match=r"true or false, .*; b has torch.float32 \[4, 10\]: use the output"):
            function({"a": s, "b": t.float()})
        with pytest.raises(ValueError, match=r"true or false, .*; a has torch.bool \[10\]: use the output"):
            function({"a": s[0], "b": t[0]})
    with pytest.raises(ValueError, match="0 layers cannot be grouped"):
        layer_groups(0)


def test_neurons_of_one_model_compare_prompts_of_several():
    backbone = Backbone.from_pretrained("micro-bert", device="cpu")
    values = drawn(4, backbone.hidden_size)
    theirs = {"mine": SoftPrompt(values, backbone.name, "a"), "theirs": SoftPrompt(values, "another", "a")}
    assert similarity_matrix(theirs, "neuron_overlap", backbone).at["mine", "theirs"] == 1
    with pytest.raises(PromptError, match="carry it over with a projector"):
        similarity_matrix(prompts_of([values[:, :9]]), "neuron_overlap", backbone)
    with pytest.raises(ValueError, match="give the backbone"):
        similarity_matrix(theirs, "neuron_overlap")


# ---- pairs


def kinds_of(one, other, tasks, types):
    "What a pair of prompts is called in `pair_means`."
    if tasks[one] == tasks[other]:
        return {"same task"}
    return {"same type" if types[tasks[one]] == types[tasks[other]] else "different type", "different task"}


EIGHT = [f"{task} {seed}" for task in "abcdefgh" for seed in range(3)]
TASK_OF = {name: name[0] for name in EIGHT}
TYPE_OF = dict(zip("abcdefgh", ("SA", "SA", "SA", "NLI", "NLI", "PI", "PI", "PI"), strict=True))


def left_out(statistic, tasks):
    "The interval of a statistic that is computed anew from the tasks that are kept."
    return jackknife_interval(
        lambda counts: np.array([statistic([task for task, n in zip(tasks, row, strict=True) if n]) for row in counts]),
        len(tasks),
    )


@pytest.mark.parametrize("empty", [False, True])
def test_pair_means_and_their_intervals_done_the_long_way(empty):
    matrix = independent_pairs(symmetric(EIGHT), {name: name[-1] for name in EIGHT}) if empty else symmetric(EIGHT)
    means = pair_means(matrix, TASK_OF, TYPE_OF)

    def values(kind, kept):
        return [
            matrix.at[one, other]
            for one, other in combinations(EIGHT, 2)
            if np.isfinite(matrix.at[one, other])
            and {TASK_OF[one], TASK_OF[other]} <= {*kept}
            and kind in kinds_of(one, other, TASK_OF, TYPE_OF)
        ]

    for kind, row in means.iterrows():
        assert row["mean"] == pytest.approx(np.mean(values(kind, "abcdefgh")))
        assert row["pairs"] == len(values(kind, "abcdefgh"))
        expected = left_out(lambda kept: np.mean(values(kind, kept)), "abcdefgh")  # noqa: B023
        assert (row["low"], row["high"]) == pytest.approx(expected)


def test_pairs_of_few_tasks_have_no_interval():
    matrix = symmetric(EIGHT)
    means = pair_means(matrix, TASK_OF, dict.fromkeys("abc", "SA") | dict(zip("defgh", "vwxyz", strict=True)))
    assert means.loc["same type", ["low", "high"]].isna().all()  # three tasks of one type, and no other type has two
    assert means.loc[["same task", "different type"], ["low", "high"]].notna().all(axis=None)


def test_pairs_with_self_are_the_cells_of_the_matrix():
    "With one prompt a task, as in Table 7."
    matrix = symmetric(list(TYPES))
    means = pair_means(matrix, {task: task for task in TYPES}, TYPES)
    of_type = np.array([[TYPES[one] == TYPES[other] for other in TYPES] for one in TYPES])
    assert means.at["same type", "with_self"] == pytest.approx(matrix.to_numpy()[of_type].mean())
    assert means.at["different type", "with_self"] == pytest.approx(matrix.to_numpy()[~of_type].mean())
    assert means.at["same task", "with_self"] == 1 and np.isnan(means.at["same task", "mean"])


@pytest.mark.parametrize("empty", [False, True])
def test_the_auc_and_its_interval_done_the_long_way(empty):
    matrix = symmetric(EIGHT, seed=1).round(1)  # with ties
    matrix = independent_pairs(matrix, {name: name[-1] for name in EIGHT}) if empty else matrix

    def wins(kept):
        pairs = [pair for pair in combinations(EIGHT, 2) if {TASK_OF[name] for name in pair} <= {*kept}]
        same = [matrix.at[pair] for pair in pairs if TASK_OF[pair[0]] == TASK_OF[pair[1]]]
        different = [matrix.at[pair] for pair in pairs if TASK_OF[pair[0]] != TASK_OF[pair[1]]]
        return np.mean([(s > d) + (s == d) / 2 for s in same for d in different if np.isfinite(s + d)])

    found = same_task_auc(matrix, TASK_OF)
    assert found["auc"] == pytest.approx(wins("abcdefgh"))
    ends = left_out(lambda kept: np.arctanh(2 * wins(kept) - 1), "abcdefgh")
    assert (found["low"], found["high"]) == pytest.approx(tuple((1 + np.tanh(ends)) / 2))
    assert (found["same_task"], found["different_task"]) == (24, 168 if empty else 252)


def test_task_means_never_pair_a_prompt_with_itself():
    matrix = symmetric(NAMES)
    means = task_means(matrix, TASKS)
    assert list(means) == list(TYPES) and np.allclose(means, means.T)
    assert means.at["b", "b"] == pytest.approx(np.mean([matrix.at[a, b] for a, b in combinations(NAMES[3:6], 2)]))
    assert means.at["a", "c"] == pytest.approx(matrix.loc[NAMES[:3], NAMES[6:9]].to_numpy().mean())
    alone = task_means(matrix.loc[NAMES[2:], NAMES[2:]], TASKS)
    assert np.isnan(alone.at["a", "a"]) and alone.isna().sum().sum() == 1
    apart = task_means(independent_pairs(matrix, SEEDS), TASKS)
    expected = [matrix.at[a, b] for a in NAMES[:3] for b in NAMES[6:9] if a[-1] != b[-1]]
    assert apart.at["a", "c"] == pytest.approx(np.mean(expected)) and apart.at["b", "b"] == means.at["b", "b"]


def test_pairs_with_one_start_are_left_out():
    matrix = symmetric(NAMES)
    left = independent_pairs(matrix, SEEDS)
    for one in NAMES:
        for other in NAMES:
            if one != other and one[-1] == other[-1]:
                assert np.isnan(left.at[one, other])
            else:
                assert left.at[one, other] == matrix.at[one, other]
    with pytest.raises(ValueError, match="the start must be given for every name; 'a 1'"):
        independent_pairs(matrix, {"a 0": 0})


def test_a_profile_is_a_mean_by_layer():
    states = {name: drawn(5, 30, seed=seed) > 0 for seed, name in enumerate(NAMES)}
    profile = overlap_profile(states, TASKS, TYPES, layers=layer_groups(5))
    assert profile.index.unique("layers").tolist() == ["1-2", "3", "4", "5"]
    matrix = overlap_matrix(states, (1, 2))
    pd.testing.assert_frame_equal(profile.loc["1-2"], pair_means(matrix, TASKS, TYPES))
    apart = overlap_profile(states, TASKS, TYPES, layer_groups(5), SEEDS)
    expected = pair_means(independent_pairs(matrix, SEEDS), TASKS, TYPES)
    pd.testing.assert_frame_equal(apart.loc["1-2"], expected)


def test_pairs_that_are_refused():
    matrix = symmetric(NAMES)
    with pytest.raises(ValueError, match="the task must be given for every name; 'e 0', 'e 1', 'e 2' has none"):
        pair_means(matrix, {name: task for name, task in TASKS.items() if task != "e"})
    with pytest.raises(ValueError, match="the type must be given for every name; 'e' has none"):
        pair_means(matrix, TASKS, {task: kind for task, kind in TYPES.items() if task != "e"})
    for odd in (matrix.iloc[1:], matrix.iloc[::-1], matrix.set_axis(["x"] * 15).set_axis(["x"] * 15, axis=1)):
        for function in (pair_means, same_task_auc, task_means):
            with pytest.raises(ValueError, match="the same names in its rows and columns"):
                function(odd, TASKS)
    empty = matrix.iloc[:0, :0]
    for function in (pair_means, same_task_auc, task_means, transferability_correlation):
        with pytest.raises(ValueError, match="the same names in its rows and columns, in the same"):
            function(empty, empty)
    for names in (NAMES[:3], NAMES[::3]):
        with pytest.raises(ValueError, match="several seeds of several tasks"):
            same_task_auc(matrix.loc[names, names], TASKS)


# ---- correlation with transfer

MANY = [f"t{i}" for i in range(12)]


def transfer_of(names=MANY, seed=5):
    return pd.DataFrame(np.random.default_rng(seed).random((len(names), len(names))), names, names)


@pytest.mark.parametrize("include_self", [False, True])
def test_correlations_are_spearmans(include_self):
    matrix, transfer = symmetric(MANY), transfer_of().round(1)  # with ties
    transfer.loc["random"] = 0.5
    transfer.loc["t3", "t7"] = np.nan
    found = transferability_correlation(matrix, transfer[["t7", "t2"]], include_self, draws=20)
    for target in ("t7", "t2"):
        used = [name for name in MANY if (include_self or name != target) and not np.isnan(transfer.at[name, target])]
        expected = spearmanr(matrix.loc[used, target], transfer.loc[used, target]).statistic
        assert found.at[target, "rho"] == pytest.approx(expected)
        assert found.at[target, "n"] == len(used) == {"t7": 10, "t2": 11}[target] + include_self
    assert found.index.tolist() == ["t7", "t2", "overall"]
    assert found.at["overall", "rho"] == pytest.approx(found["rho"].iloc[:2].mean())
    assert found.at["overall", "n"] == 2


@pytest.mark.parametrize("include_self", [False, True])
def test_the_interval_of_correlations_done_the_long_way(include_self):
    matrix, transfer = symmetric(MANY), transfer_of()

    def mean(kept):
        "The target itself stays where its self pair is meant, and is no source otherwise."
        rhos = []
        for target in kept:
            names = [name for name in kept if include_self or name != target]
            rhos.append(spearmanr(matrix.loc[names, target], transfer.loc[names, target]).statistic)
        return np.arctanh(np.mean(rhos))

    found = transferability_correlation(matrix, transfer, include_self, draws=40).loc["overall"]
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.tanh(left_out(mean, MANY))))


def test_the_seed_moves_the_p_values_alone():
    matrix, transfer = symmetric(MANY), transfer_of()
    first, again, other = (transferability_correlation(matrix, transfer, draws=200, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    pd.testing.assert_frame_equal(*(found.drop(columns=["p", "draws"]) for found in (first, other)))
    assert (first["p"] != other["p"]).any()


@pytest.mark.parametrize("include_self", [False, True])
def test_chance_is_found_as_often_as_it_says(include_self):
    "Also where some tasks are easy for all prompts, and some prompts good at all tasks, which makes cells dependent."
    ps, itself = [], np.eye(12, dtype=bool)
    for seed in range(200):
        random = np.random.default_rng(seed)
        transfer = transfer_of(seed=seed) + random.normal(size=(12, 1)) + random.normal(size=12)
        matrix = symmetric(MANY, seed=1000 + seed) + np.add.outer(*2 * [random.normal(size=12)])
        tables = matrix.mask(itself, 9), transfer.mask(itself, 9)  # each prompt is its own nearest and best
        ps.append(transferability_correlation(*tables, include_self, draws=99, seed=seed)["p"].to_numpy()[[0, 1, -1]])
    for values in np.transpose(ps):
        assert np.mean(values <= 0.05) < 0.1 and 0.4 < np.mean(values <= 0.5) < 0.6


def test_what_is_no_chance_is_found():
    matrix = symmetric(MANY)
    transfer = matrix + np.random.default_rng(0).normal(0, 0.1, matrix.shape)
    found = transferability_correlation(matrix, transfer, draws=500)
    assert found.at["overall", "p"] == 1 / 501 and found.at["overall", "low"] > 0.3
    assert transferability_correlation(-matrix, transfer, draws=500).at["overall", "p"] == 1 / 501


def test_self_pairs_raise_the_correlation_and_are_no_evidence():
    matrix, transfer = symmetric(MANY), transfer_of()
    transfer = transfer.mask(np.eye(12, dtype=bool), 2)
    without, with_self = (transferability_correlation(matrix, transfer, own).loc["overall"] for own in (False, True))
    assert with_self["rho"] > without["rho"] + 0.1
    assert without["p"] > 0.05 and with_self["p"] > 0.05


def test_a_self_pair_stays_one_in_every_permutation():
    "With four tasks that are most like themselves, the worst order of the other three still has a correlation of 0.2."
    names, itself = MANY[:4], np.eye(4, dtype=bool)
    tables = symmetric(names).mask(itself, 9), transfer_of(names).mask(itself, 9)
    found = transferability_correlation(*tables, include_self=True)
    assert (found["draws"] == 0).all()  # all orders were looked at
    assert found["p"].iloc[:4].isin([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1]).all()
    assert (found["rho"] >= 0.2 - 1e-9).all()


def test_columns_without_differences_have_no_correlation():
    names = ["a", "b", "c", "d", "e"]
    types = dict(zip(names, ("SA", "SA", "NLI", "NLI", "PI"), strict=True))
    baseline, transfer = type_baseline(types), transfer_of(names)
    transfer["a"] = 0.5
    found = transferability_correlation(baseline, transfer, draws=100)
    assert found.loc[["a", "e"], ["rho", "low", "high", "p"]].isna().all(axis=None)  # the other is one of a kind
    assert found.at["overall", "n"] == 3 and found["rho"].iloc[1:4].notna().all()
    assert found.at["overall", "rho"] == pytest.approx(found["rho"].iloc[1:4].mean())
    flat = transferability_correlation(baseline * 0, transfer, draws=100)
    assert flat[["rho", "p"]].isna().all(axis=None) and flat.at["overall", "n"] == 0


def test_two_sources_are_too_few():
    names = ["a", "b", "c"]
    found = transferability_correlation(symmetric(names), transfer_of(names), draws=50)
    assert found["rho"].isna().all()
    assert transferability_correlation(symmetric(names), transfer_of(names), True, draws=50)["rho"].notna().all()


def test_a_gain_is_a_difference_of_correlations():
    matrix, transfer = symmetric(MANY), transfer_of()
    other = symmetric(MANY, seed=9)
    gains = correlation_gain(matrix, other, transfer)
    both = [transferability_correlation(table, transfer, draws=60)["rho"] for table in (matrix, other)]
    assert gains["gain"].to_numpy() == pytest.approx((both[0] - both[1]).to_numpy())
    overall = gains.loc["overall"]
    assert overall["low"] < overall["gain"] < overall["high"]
    assert gains[["low", "high"]].iloc[:-1].isna().all(axis=None)
    same = correlation_gain(matrix, np.exp(matrix), transfer)  # the ranks of the one are those of the other
    assert (same["gain"] == 0).all() and same[["low", "high"]].isna().all(axis=None)
    shuffled = correlation_gain(matrix, other.loc[MANY[::-1], MANY[::-1]], transfer)
    pd.testing.assert_frame_equal(shuffled, gains)


@pytest.mark.parametrize("draws", [0, -1])
def test_no_draws_say_nothing(draws):
    with pytest.raises(ValueError, match=f"draws is {draws}; give 1 or more"):
        transferability_correlation(symmetric(MANY), transfer_of(), draws=draws)


def test_correlations_that_are_refused():
    matrix, transfer = symmetric(MANY), transfer_of()
    few = matrix.loc[MANY[:5], MANY[:5]]
    with pytest.raises(ValueError, match="the similarity matrix lacks the target 't5'; both matrices"):
        transferability_correlation(few, transfer)
    with pytest.raises(ValueError, match="the transfer matrix lacks the source 't3'"):
        transferability_correlation(matrix, transfer.drop("t3"))
    assert transferability_correlation(few, transfer[MANY[:3]], draws=10).at["t0", "n"] == 4
    with pytest.raises(ValueError, match="names a source twice"):
        transferability_correlation(matrix, pd.concat([transfer, transfer]))
    with pytest.raises(ValueError, match="the same names in its rows and columns"):
        transferability_correlation(matrix.iloc[1:], transfer)
    without_self = matrix.mask(np.eye(12, dtype=bool))
    transferability_correlation(without_self, transfer, draws=10)
    with pytest.raises(ValueError, match="empty cells; leave out those tasks, or the self pairs"):
        transferability_correlation(without_self, transfer, include_self=True)
    with pytest.raises(ValueError, match="empty cells"):
        transferability_correlation(matrix.mask(matrix < 0.3), transfer)
    with pytest.raises(ValueError, match="the baseline must name the same tasks"):
        correlation_gain(matrix, few, transfer)


def test_ranks_of_a_resample_are_those_of_the_sample_written_out():
    random = np.random.default_rng(0)
    values, often = random.integers(0, 4, 9).astype(float), random.integers(0, 4, (30, 9))
    other = random.random(9)
    for weights in often:
        expected = np.corrcoef(rankdata(np.repeat(values, weights)), rankdata(np.repeat(other, weights)))[0, 1]
        assert weighted_spearman(values, other, weights[None]) == pytest.approx(expected)


def test_all_pairs_at_once_share_their_tasks():
    random, names = np.random.default_rng(0), list("abcdefgh")
    similarity, transfer = (pd.DataFrame(random.random((8, 8)), names, names) for _ in range(2))
    transfer.iloc[2, 5] = np.nan
    found = pooled_correlation(similarity, transfer, draws=199)

    def rho(kept, order=range(8)):
        pairs = [(s, t) for s in kept for t in kept if s != t and (s, t) != (2, 5)]
        similar = [similarity.iloc[order[s], order[t]] for s, t in pairs]
        return spearmanr(similar, [transfer.iloc[pair] for pair in pairs]).statistic

    assert (found["n"], found["rho"]) == (8 * 7 - 1, pytest.approx(rho(range(8))))
    expected = jackknife_interval(lambda c: np.array([rho(np.flatnonzero(row)) for row in c]), 8, correlation=True)
    assert (found["low"], found["high"]) == pytest.approx(expected)
    assert found["p"] > 0.05 > pooled_correlation(transfer.fillna(0.5), transfer, draws=199)["p"]
    with pytest.raises(ValueError, match="must name the same tasks"):
        pooled_correlation(similarity, transfer.drop(index="a"))


def test_chance_leaves_out_what_the_overlap_leaves_out():
    shares = {"a 0": 0.1, "a 1": 0.4, "b 0": 0.9}
    states = {name: (torch.arange(100) < 100 * share)[None] for name, share in shares.items()}
    tasks = {name: name[0] for name in states}
    every = overlap_by_chance(states, tasks)
    assert every.index.tolist() == [1]
    assert every[1] == pytest.approx((np.sqrt(0.1 * 0.9) + np.sqrt(0.4 * 0.9)) / 2)
    apart = overlap_by_chance(states, tasks, starts={name: name[2] for name in states})
    assert apart[1] == pytest.approx(np.sqrt(0.4 * 0.9))


def test_self_pairs_without_a_value_change_no_interval():
    "With one seed, a task has no similarity to itself; leaving out a task as source still has to count."
    draw = np.random.default_rng(0)
    whole = pd.DataFrame(draw.random((8, 8)), [*"abcdefgh"], [*"abcdefgh"])
    whole = (whole + whole.T) / 2
    transfer = pd.DataFrame(draw.random((8, 8)), whole.index, whole.columns)
    gaps = whole.mask(np.eye(8, dtype=bool))
    for of in (
        lambda matrix: transferability_correlation(matrix, transfer, draws=10),
        lambda matrix: correlation_gain(matrix, whole.T**2, transfer),
    ):
        pd.testing.assert_frame_equal(of(gaps), of(whole))


# ---- measures of one's own


def test_a_measure_of_ones_own_is_computed_like_the_papers_whatever_the_lengths():
    drawn = torch.Generator().manual_seed(0)
    prompts = {
        f"p{i}": SoftPrompt(torch.randn(length, 8, generator=drawn), "m", "t") for i, length in enumerate([3, 5, 3, 40])
    }

    def closeness(p, q):  # [m, l, d], [k, h, d] -> [m, k]
        pairs = torch.cdist(p.double().flatten(0, 1), q.double().flatten(0, 1))
        return 1 / (1 + pairs.view(len(p), p.shape[1], len(q), q.shape[1]).mean((1, 3)))

    found = similarity_matrix(prompts, closeness)
    pd.testing.assert_frame_equal(found, similarity_matrix(prompts, "euclidean_average"))
    with pytest.raises(ValueError, match=r"must have the shape \[2, 2\]; got \[2\]"):
        similarity_matrix(prompts, lambda p, q: p.mean((1, 2)))
    with pytest.raises(ValueError, match="layers belong to neuron_overlap; closeness compares only"):
        similarity_matrix(prompts, closeness, layers=(1, 2))
    with pytest.raises(PromptError, match="closeness cannot compare 'p0'"):
        similarity_matrix(prompts | {"q": SoftPrompt(torch.ones(3, 8), "another", "t")}, closeness)


def test_pairs_of_prompts_are_compared_as_well_as_pairs_of_matrices():
    p, q = (SoftPrompt(torch.randn(4, 8, generator=torch.Generator().manual_seed(seed)), "m", "t") for seed in (0, 1))
    assert euclidean_average(p, q) == euclidean_average(p.values, q) == euclidean_average(p.values, q.values)


@pytest.mark.parametrize("layers", [2, (1, 2, 3), "12"[:1]])
def test_layers_are_the_first_and_the_last(layers):
    states = torch.ones(3, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"give the first and the last, as in \(1, 3\)"):
        neuron_overlap(states, states, layers)
