"Intervals and tests: what they cover, what they reject, and what they say where there is nothing to say."

import json
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata, spearmanr, t

from prompt_transferability.evidence import available_studies, compared
from prompt_transferability.recomputed import read_table
from prompt_transferability.results import LABELS
from prompt_transferability.results import TYPES as TYPES_OF
from prompt_transferability.similarity import (
    EMBEDDING_METRICS,
    _Comparison,
    by_source,
    partial_correlations,
    type_baseline,
    type_pairs,
)
from prompt_transferability.statistics import (
    FEWEST_UNITS,
    PermutationResult,
    auc,
    correlation_interval,
    interval,
    is_significant,
    jackknife_interval,
    median_interval,
    partial_permutation_test,
    permutation_test,
    side_of,
    weighted_spearman,
    wilson_interval,
)
from prompt_transferability.tasks import PAPER_TASKS

ROOT = Path(__file__).parents[1]
NAMES = [f"t{i}" for i in range(13)]
TYPES = dict(zip(NAMES, np.repeat(["SA", "NLI", "EJ", "PI"], [6, 3, 2, 2]), strict=True))


@pytest.mark.parametrize(("accuracy", "n"), [(85, 100), (-0.1, 100), (float("nan"), 100), (0.5, 0)])
def test_an_accuracy_in_percent_is_no_accuracy(accuracy, n):
    with pytest.raises(ValueError, match="a fraction of at least one example, from 0 to 1; got"):
        wilson_interval(accuracy, n)


@pytest.mark.parametrize("names", [list("abc"), list("abcdefghij")])
def test_every_value_has_a_unit(names):
    with pytest.raises(ValueError, match="the unit of each of the 8 values; got"):
        interval(range(8), by=names)


def table(cells):
    return pd.DataFrame(cells, NAMES[: len(cells)], NAMES[: len(cells)])


# ---- intervals


@pytest.mark.parametrize("n", range(1, FEWEST_UNITS))
def test_few_units_have_no_interval(n):
    values = np.arange(n, dtype=float)
    for ends in (
        interval(values),
        median_interval(values),
        correlation_interval(0.5, n),
        jackknife_interval(lambda counts: counts @ values, n),
    ):
        assert np.isnan(ends).all()


@pytest.mark.parametrize(
    "values", [[1.0] * 8, [0.1 + 0.2] * 4 + [0.3] * 4, [1, 2, 3, 4, 5, 6, np.inf], [np.nan] * 8, []]
)
def test_values_that_say_nothing_have_no_interval(values):
    assert np.isnan(interval(values)).all()


def test_unknown_values_are_left_out():
    values = [1.0, 2.0, 4.0, 3.0, 5.0, 7.0, 6.0]
    assert interval([np.nan, *values]) == interval(values)
    assert interval([np.nan, *values], by=["x", *"abcdefg"]) == interval(values)


@pytest.mark.parametrize("level", [0, 1, -0.5, 95])
def test_a_level_is_a_probability(level):
    with pytest.raises(ValueError, match="must be between 0 and 1; got"):
        interval(range(8), level=level)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("shift", [0.0, -3.0])
def test_an_interval_moves_and_grows_with_its_values(scale, shift):
    values = np.random.default_rng(0).exponential(size=9)
    assert interval(scale * (values + shift)) == pytest.approx(scale * (np.array(interval(values)) + shift))
    mirrored = interval(-values)
    assert (-mirrored[1], -mirrored[0]) == pytest.approx(interval(values))


@pytest.mark.parametrize("seed", range(5))
def test_an_interval_holds_students(seed):
    values = np.random.default_rng(seed).lognormal(size=8)
    low, high = t.interval(0.95, 7, values.mean(), values.std(ddof=1) / np.sqrt(8))
    assert interval(values)[0] <= low and high <= interval(values)[1]


def test_a_jackknife_of_a_mean_of_pairs_takes_the_noise_of_pairs_once():
    "Where there is nothing but noise in the pairs, the plain jackknife would give twice its variance."
    random, n, wide, held = np.random.default_rng(0), 12, 0, 0
    off = 1 - np.eye(n)
    for _ in range(400):
        noise = random.normal(size=(n, n)) * off

        def mean(counts, noise=noise):
            both = np.einsum("di,dj->dij", counts, counts) * off
            return (both * noise).sum((1, 2)) / both.sum((1, 2))

        low, high = jackknife_interval(mean, n)
        held += low <= 0 <= high
        wide += high - low
    assert 0.92 <= held / 400 <= 0.99
    assert wide / 400 < 1.6 * 2 * 1.96 / np.sqrt(n * (n - 1))


def test_correlations_stay_below_one():
    random = np.random.default_rng(0)
    x = random.normal(size=8)
    pairs = np.stack([x, x + 0.5 * random.normal(size=8)])

    def rho(counts):
        return np.array([np.corrcoef(np.repeat(pairs, row.astype(int), axis=1))[0, 1] for row in counts])

    low, high = jackknife_interval(rho, 8, correlation=True)
    assert 0 < low < rho(np.ones((1, 8)))[0] < high < 1
    pairs[1] = pairs[0] + 0.01 * random.normal(size=8)
    assert np.isnan(jackknife_interval(rho, 8, correlation=True)).all()  # leaving out says nothing of its spread


def test_levels_that_so_few_values_cannot_hold_have_no_interval():
    assert np.isnan(median_interval(range(6), level=0.99)).all()
    for function in (median_interval, interval):
        with pytest.raises(ValueError, match="must be between 0 and 1"):
            function(range(8), level=1.5)
    assert np.isnan(correlation_interval(1.0, 13)).all()


def test_a_statistic_that_needs_every_unit_has_no_interval():
    assert np.isnan(jackknife_interval(lambda counts: np.where(counts.all(1), 1.0, np.nan), 8)).all()


@pytest.mark.parametrize(("n", "ranks"), [(6, (1, 2)), (9, (2, 3)), (13, (3, 4)), (40, (14, 15))])
def test_the_interval_of_a_median_lies_between_two_ordered_values(n, ranks):
    values = np.sort(np.random.default_rng(n).normal(size=n))
    low, high = median_interval(np.random.default_rng(0).permutation(values))
    assert values[ranks[0] - 1] <= low <= values[ranks[1] - 1] and values[-ranks[1]] <= high <= values[-ranks[0]]


def test_the_auc_of_nothing_is_none():
    assert np.isnan(auc(np.array([1.0, 2.0]), np.array([True, True]))).all()
    assert auc(np.array([1.0, 1.0]), np.array([True, False])) == 0.5


# ---- tests


def test_a_permutation_test_counts_both_sides():
    "Of the 24 orders of four, one is the order itself and one its reverse."
    x = np.arange(4.0)
    there = permutation_test(lambda orders: np.array([spearmanr(x[order], x).statistic for order in orders]), 4)
    back = permutation_test(lambda orders: np.array([spearmanr(x[order], -x).statistic for order in orders]), 4)
    assert there == (pytest.approx(1), 2 / 24, 0) and back == (pytest.approx(-1), 2 / 24, 0)


def test_all_orders_are_looked_at_where_they_are_few():
    values = np.random.default_rng(0).normal(size=(5, 5))
    similarity, transfer = table(values + values.T), table(np.random.default_rng(1).normal(size=(5, 5)))
    found = partial_permutation_test(similarity, transfer)
    chance = []
    for order in permutations(range(5)):
        moved = similarity.to_numpy()[np.ix_(order, order)]
        rhos = [
            spearmanr(np.delete(moved[:, k], k), np.delete(transfer.to_numpy()[:, k], k)).statistic for k in range(5)
        ]
        chance.append(np.mean(rhos))
    center = np.mean(chance)
    expected = np.mean(np.abs(np.array(chance) - center) >= abs(chance[0] - center) - 1e-9)
    assert found.value == pytest.approx(chance[0]) and found.p == pytest.approx(expected) and found.draws == 0


def test_a_partial_correlation_is_that_of_what_regressions_leave():
    random = np.random.default_rng(0)
    similarity, transfer, other = (table(random.normal(size=(13, 13))) for _ in range(3))
    controls = {"type": type_baseline(TYPES), "other": other}

    def ranks(matrix):
        columns = []
        for k in range(13):
            ranked = rankdata(np.delete(matrix.to_numpy()[:, k], k))
            ranked = ranked - ranked.mean()
            columns.append(ranked / np.linalg.norm(ranked))
        return np.concatenate(columns)

    known = np.stack([ranks(matrix) for matrix in controls.values()], axis=1)
    left = [
        ranks(matrix) - known @ np.linalg.lstsq(known, ranks(matrix), rcond=None)[0]
        for matrix in (similarity, transfer)
    ]
    expected = left[0] @ left[1] / np.linalg.norm(left[0]) / np.linalg.norm(left[1])
    assert partial_permutation_test(similarity, transfer, controls, draws=99).value == pytest.approx(expected)


def test_a_similarity_that_is_its_own_control_says_nothing_more():
    random = np.random.default_rng(0)
    similarity, transfer = (table(random.normal(size=(13, 13))) for _ in range(2))
    found = partial_permutation_test(similarity, transfer, {"itself": similarity})
    assert np.isnan(found.value) and np.isnan(found.p) and is_significant(found) is None


def test_what_the_sources_explain_is_taken_out():
    "Where good sources are similar to all and nothing else is shared, hardly anything is left to be found."
    left, found = [], 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        hub = random.exponential(size=13)
        similarity = table(random.normal(size=(13, 13)) + hub[:, None] + hub)
        transfer = table(random.normal(size=(13, 13)) + 2 * hub[:, None])
        tested = partial_permutation_test(similarity, transfer, by_source(NAMES), draws=199)
        left.append(tested.value)
        found += tested.p <= 0.05
    assert abs(np.mean(left)) < 0.05 and found <= 12


def test_types_of_unlike_strength_are_taken_out():
    "Where similarity and transfer share what any two types are to each other, and nothing else."
    found, kinds = 0, np.repeat(range(4), [6, 3, 2, 2])
    for seed in range(60):
        random = np.random.default_rng(seed)
        affinity = random.normal(size=(4, 4))
        shared = (affinity + affinity.T)[np.ix_(kinds, kinds)]
        similarity, transfer = (table(random.normal(size=(13, 13)) + 2 * shared) for _ in range(2))
        found += partial_permutation_test(similarity, transfer, type_pairs(TYPES), draws=199).p <= 0.05
    assert found <= 12


@pytest.mark.parametrize(
    ("p", "draws", "said"),
    [(0.04, 0, True), (0.06, 0, False), (0.0001, 9999, True), (0.049, 9999, None), (0.5, 9, None), (0.01, 99, None)],
)
def test_what_the_draws_can_tell(p, draws, said):
    assert is_significant(PermutationResult(0.3, p, draws)) is said


def test_sides_of_an_interval():
    assert (side_of(0.1, 0.2), side_of(-0.2, -0.1), side_of(-0.1, 0.1)) == ("above", "below", None)
    assert side_of(0.1, 0.2, 0.5) == "below"
    assert side_of(np.nan, np.nan) is None


def verdicts_of(p, estimated_with, draws):
    "The verdicts that other seeds can reach: `p` was estimated with some draws, and a page uses another number."
    spread = np.sqrt(p * (1 - p) * (1 / estimated_with + 1 / draws)) + 1 / estimated_with
    reached = np.clip([p - 4 * spread, p, p + 4 * spread], 1 / (1 + draws), 1)
    return {is_significant(PermutationResult(0.3, one, int(draws))) for one in reached}


@pytest.mark.parametrize("name", ["published", "micro", "small", "smollm"])
def test_no_seed_says_otherwise_of_the_pages_metrics(name):
    "All tables of partial tests: p is so far from 0.05 that no seed can change the verdict, or ten seeds agree."
    labels, types = LABELS, TYPES_OF
    if name == "published":
        table = read_table(ROOT / "results" / "release", "similarity_to_tuned").query("run == 'tuned'")
        table, tasks = table.set_index(["vectors", "tuned"], append=True), list(PAPER_TASKS)
        found = {
            f"{metric}, {vectors} vectors": table[metric].xs(vectors, level="vectors").unstack().loc[tasks, tasks]
            for metric in EMBEDDING_METRICS
            for vectors in (99, 100)
        }
        transfer = read_table(ROOT / "results" / "release", "transfer_roberta-base").loc[tasks]
        found["task type"] = type_baseline({task: types[task] for task in tasks})
    else:
        study = next(one for one in available_studies(ROOT / "results", "transfer") if one.name == name)
        found, transfer = compared(study, by_layer=True)
        known = [study.results.study.task(task) for task in transfer]
        types, labels = {task.name: task.task_type for task in known}, {task.name: len(task.labels) for task in known}

    def tested(metric, held, **how):
        return partial_correlations({metric: found[metric]}, transfer, types, labels, **how).loc[(metric, held)]

    drawn = partial_correlations(found, transfer, types, labels, draws=999)
    assert len(drawn) >= 3 * 7
    for (metric, held), row in drawn[drawn["draws"] > 0].dropna().iterrows():
        if len(verdicts_of(row["p"], row["draws"], 9999)) == 1:
            continue
        row = tested(metric, held)
        if len(verdicts_of(row["p"], row["draws"], row["draws"])) > 1:
            rows = [row, *(tested(metric, held, seed=seed) for seed in range(1, 10))]
            said = {is_significant(PermutationResult(0.3, one["p"], int(one["draws"]))) for one in rows}
            # No sentence counts the verdicts of the micro world, so there a cell may be "no" or "undecided".
            assert len(said) == 1 or (name == "micro" and said == {False, None}), (metric, held, said)


# ---- the table of the page


@pytest.fixture(scope="module")
def coverage():
    sys.path.insert(0, str(ROOT / "tools"))
    import coverage as module

    yield module
    sys.path.remove(str(ROOT / "tools"))


def test_the_intervals_cover_what_the_page_says(coverage):
    "A few worlds of another seed: as many hold the true value as in the page's table, within what chance allows."
    kept = pd.read_csv(ROOT / "results" / "statistics" / "coverage.csv").set_index(["what", "n", "world"])["share"]
    kind, random = "skew", np.random.default_rng(99)
    gains = coverage.coverage(lambda: coverage.of_gains(kind, 13, random), 400, n=13, world=kind)
    matrices = coverage.coverage(lambda: coverage.of_matrices(coverage.World(kind, 13, random)), 50, n=13, world=kind)
    for row in pd.concat([gains, matrices]).itertuples():
        said = kept[row.what, row.n, row.world]
        assert abs(row.share - said) <= 4 * np.sqrt(said * (1 - said) / row.worlds) + 0.03


def test_what_is_called_95_percent_covers_92_to_98_on_average_and_rarely_less_than_87():
    rows = pd.read_csv(ROOT / "results" / "statistics" / "coverage.csv")
    for name, what in {"coverage": "intervals", "tests": "tests"}.items():
        origin = json.loads((ROOT / "results" / "statistics" / f"{name}.json").read_text())
        assert origin["command"].startswith(f"python tools/coverage.py {what} --worlds") and origin["commit"]
    rows = rows[~rows["world"].isin(["strong skew", "one task in ten gains much", "a sample of types"])]
    shares = rows["share"]
    assert len(shares) > 400 and set(rows.loc[rows["what"] == "mean of tasks", "n"]) == {6, 7, *range(9, 14)}
    assert rows.groupby(["what", "n"])["share"].mean().between(0.92, 0.98).all()
    assert shares.min() >= 0.87 and (shares < 0.92).mean() < 0.06 and (shares > 0.98).mean() < 0.11


# ---- worlds that were written without looking at those of the page


def inside(found, true=None):
    "The share of the intervals that contain the true value, or else the mean of the values."
    value, low, high = np.array(found).T
    true = value.mean() if true is None else true
    return ((low <= true) & (true <= high)).mean()


@pytest.mark.parametrize("n", [6, 9, 13])
def test_a_mean_of_strongly_skewed_gains_is_covered_less_often(n):
    random = np.random.default_rng(7)
    found = [(0, *interval(random.lognormal(size=n))) for _ in range(800)]
    assert 0.84 < inside(found, true=np.exp(0.5)) < 0.94


@pytest.mark.parametrize(("n", "low", "high"), [(6, 0.73, 0.85), (13, 0.92, 0.98)])
def test_a_mean_of_values_that_are_mostly_zero_is_covered_only_by_many(n, low, high):
    random, regrets = np.random.default_rng(7), np.array([0, 0, 0.8, 0.4, 0, 0, 9, 5.4, 13.2, 0, 0.2, 0.4, 0.8])
    found = [(0, *interval(random.choice(regrets, n))) for _ in range(800)]
    known = [row for row in found if np.isfinite(row).all()]
    assert len(known) > 780 and low < inside(known, true=regrets.mean()) < high


def test_a_mean_of_gains_is_covered():
    random = np.random.default_rng(7)
    assert 0.92 < inside([(0, *interval(random.normal(size=7))) for _ in range(800)], true=0) < 0.98


def test_the_smallest_of_three_gains_errs_on_one_side():
    random, sides = np.random.default_rng(1), []
    for _ in range(2000):
        gains = random.standard_t(4, size=13) - 0.8 * random.standard_t(4, size=(3, 13))
        sides.append(side_of(*interval(gains[gains.mean(1).argmin()])))
    assert 0.03 < sides.count("below") / 2000 < 0.065 and sides.count("above") / 2000 < 0.01


def test_types_that_decide_transfer_are_covered_less_often():
    "Accuracies between chance and each target's own, by a type effect of unlike strength."
    random, found = np.random.default_rng(0), []
    for _ in range(150):
        kinds = random.choice(4, 13, p=np.array([6, 3, 2, 2]) / 13)
        strength, own = np.minimum(1, 0.7 * random.gamma(2, 0.5, size=13)), random.uniform(0.1, 0.5, 13)
        noise = random.normal(0, 0.05, (13, 1)) + random.normal(0, 0.1, (13, 13))
        kept = (kinds[:, None] == kinds) * strength + noise
        accuracy = table(random.uniform(0.33, 0.5, 13) + own * kept.clip(-0.3, 1.1))
        found.append(_Comparison(type_baseline(dict(zip(NAMES, kinds, strict=True))), accuracy, False).overall())
    assert 0.82 < inside(found) < 0.94


# ---- values that are not known


def test_values_that_are_not_known_give_no_number_and_no_wrong_one():
    positive, values = np.array([True, False, True, False]), np.array([0.9, 0.1, np.nan, 0.4])
    assert np.isnan(auc(values, positive)).all() and auc(np.nan_to_num(values, nan=0.5), positive) == [1.0]
    weights = np.ones((2, 4))
    assert np.isnan(weighted_spearman(values, np.arange(4.0), weights)).all()
    assert np.isnan(weighted_spearman(np.arange(4.0), values, weights)).all()


def test_values_of_an_unnamed_unit_are_a_unit_and_not_dropped():
    values = [1.0, 2, 3, 4, 5, 6, 7]
    assert interval(values, by=["a", "b", "c", "d", "e", "f", None]) == interval(values)
