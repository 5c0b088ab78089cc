#!/usr/bin/env python3
"""Measure the coverage of the intervals in `prompt_transferability.statistics`, and the size and power of its tests.

    python tools/coverage.py intervals --worlds 1000 --seed 0 --out results/statistics/coverage.csv
    python tools/coverage.py tests --worlds 300 --seed 0 --out results/statistics/tests.csv

Each world draws tasks, their types, how well prompts transfer between them and how similar their prompts are. The true
value of a statistic is its mean over all worlds of a kind, so bias of the statistic itself is not seen; its coverage is
the share of worlds whose interval contains this value. Statistics of whole matrices are slow, and are computed in a
third as many worlds. The same seed yields the same table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from prompt_transferability.files import atomic_write
from prompt_transferability.provenance import environment
from prompt_transferability.similarity import (
    _Comparison,
    by_source,
    correlation_gain,
    pair_means,
    pooled_correlation,
    same_task_auc,
    type_baseline,
    type_pairs,
)
from prompt_transferability.statistics import (
    correlation_interval,
    interval,
    jackknife_interval,
    median_interval,
    partial_permutation_test,
    spearman,
    wilson_interval,
)
from prompt_transferability.zero_shot_transfer import (
    recovered_by_type,
    recovered_overall,
    type_gap_test,
    type_means,
)

TYPE_SHARES = np.array([6, 3, 2, 2]) / 13  # as in the paper's 13 tasks
Found = Iterator[tuple[str, float, float, float]]  # name of the statistic, value, low, high


def _sizes_of_types(n: int) -> np.ndarray:
    return np.diff(np.round(np.cumsum([0, *TYPE_SHARES]) * n).astype(int))


class World:
    "Tasks, their types, a similarity and a transfer matrix, and three prompts of each task."

    def __init__(self, kind: str, n: int, random: np.random.Generator):
        # The types are fixed, like those of the paper's tasks, or drawn at random like the tasks.
        fixed = np.repeat(range(4), _sizes_of_types(n))
        numbers = fixed if kind == "given types" else random.choice(4, n, p=TYPE_SHARES)
        self.names = [f"task {i}" for i in range(n)]
        self.types = {name: f"type {number}" for name, number in zip(self.names, numbers, strict=True)}
        same = (numbers[:, None] == numbers).astype(float)
        similar, transfer = random.normal(size=(n, n)), random.normal(size=(n, n))
        similar = (similar + similar.T) / np.sqrt(2)
        if kind in ("types only", "given types"):
            similar, transfer = similar + 2 * same, transfer + 2 * same
        elif kind == "types of unlike strength":
            strength = random.gamma(2, 0.5, size=n)  # by target
            similar, transfer = similar + 2 * same, 0.3 * transfer + 3 * strength * same
        elif kind == "latent factors":
            factors = random.normal(size=(n, 3))
            shared = factors @ factors.T / np.sqrt(3)
            similar, transfer = similar + shared, transfer + shared
        elif kind == "strong factors":
            factors = random.normal(size=(n, 2))
            similar, transfer = 0.3 * similar + factors @ factors.T, 0.3 * transfer + factors @ factors.T
        elif kind == "task effects":
            of_task = random.normal(size=n)
            similar = similar + of_task[:, None] + of_task
            transfer = transfer + 2 * of_task[:, None] + 2 * random.normal(size=n)
        elif kind == "unrelated task effects":
            of_task = random.normal(size=n)
            similar = similar + of_task[:, None] + of_task
            transfer = transfer + 2 * random.normal(size=n)[:, None] + 2 * random.normal(size=n)
        elif kind == "skew":
            factors = random.exponential(size=(n, 2))
            similar, transfer = similar + factors @ factors.T, transfer + 0.5 * factors @ factors.T + same
        self.similarity = self.table(np.tanh(similar / 4))
        self.transfer = self.table(1 / (1 + np.exp(-transfer)))
        self.random = random

    def table(self, cells: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(cells, self.names, self.names)

    def accuracies(self) -> pd.DataFrame:
        "The accuracies if transfer is the share of its target's gain that a prompt keeps, with the random prompt's."
        gain = 0.2 + 0.4 * self.random.random(len(self.names))
        shares = self.transfer.mask(np.eye(len(gain), dtype=bool), 1.0)
        return pd.concat([0.35 + gain * shares, pd.DataFrame(0.35, ["random"], self.names)])

    def prompts(self, seeds: int = 3) -> tuple[pd.DataFrame, dict[str, str]]:
        "The similarity of several prompts of each task, and the task of each."
        names = [f"{name} {seed}" for name in self.names for seed in range(seeds)]
        n, of = len(self.names), np.repeat(range(len(self.names)), seeds)
        alike = self.similarity.to_numpy().copy()
        alike[np.diag_indices(n)] = np.abs(np.diag(alike)) + 0.1 + 0.2 * self.random.random(n)
        noise = 0.1 * self.random.normal(size=(len(names), len(names)))
        cells = alike[np.ix_(of, of)] + noise + noise.T
        return pd.DataFrame(cells, names, names), dict(zip(names, np.repeat(self.names, seeds), strict=True))


WORLDS = (
    "no relation",
    "types only",
    "given types",
    "types of unlike strength",
    "latent factors",
    "strong factors",
    "task effects",
    "unrelated task effects",
    "skew",
)


def of_matrices(world: World) -> Found:
    "The intervals of statistics computed from whole matrices."
    ends = ["low", "high"]
    baseline = type_baseline(world.types)
    for name, matrix in {"metric": world.similarity, "task type": baseline}.items():
        yield f"correlation of the {name}", *_Comparison(matrix, world.transfer, include_self=False).overall()
    row = correlation_gain(world.similarity, baseline, world.transfer).loc["overall"]
    yield "correlation beyond the type's", row["gain"], *row[ends]
    row = pooled_correlation(world.similarity, world.transfer, draws=1)
    yield "correlation over all pairs", row["rho"], *row[ends]
    prompts, tasks = world.prompts()
    means = pair_means(prompts, tasks, world.types)
    for kind in ("same task", "same type", "different type"):
        yield f"similarity, {kind}", means.at[kind, "mean"], *means.loc[kind, ends]
    found = same_task_auc(prompts, tasks)
    yield "AUC of the same task", found["auc"], *found[ends]
    first = world.names[:6]
    known, two = world.accuracies(), dict.fromkeys(world.names, "NLI") | dict.fromkeys(first, "SA")
    found = {
        "transfer": type_means(world.transfer[first], two),
        "share of the gain": recovered_by_type(known[first], two),
    }
    for what, means in found.items():
        for name in ("within", "across", "gap"):
            yield f"{what}, {'gap' if name == 'gap' else f'{name} a type'}", *means.loc["SA"][name][["mean", *ends]]
    for name, row in recovered_overall(known, world.types).iterrows():
        yield f"share of the gain, {name} all types", *row


def gains(kind: str, n: int, random: np.random.Generator) -> np.ndarray:
    "The gains of several tasks."
    noise = random.normal(size=n)
    return {
        "no relation": noise,
        "types only": noise + 2 * (random.random(n) < 0.3),
        "task effects": random.standard_t(4, size=n),
        "skew": random.exponential(size=n),
        "many zeros": random.exponential(size=n) * (random.random(n) < 0.6),
        "few tasks gain much": 0.3 * noise + random.exponential(size=n) * (random.random(n) < 0.4),
        "strong skew": random.lognormal(size=n),
        "one task in ten gains much": 0.1 * noise + 3.0 * (random.random(n) < 0.1),
        "a sample of types": 0.8 * noise + np.repeat(random.normal(size=4), _sizes_of_types(n)),
    }[kind]


GAINS = ("no relation", "types only", "task effects", "skew", "many zeros", "few tasks gain much")
# Worlds about which a few tasks say too little:
BEYOND = ("strong skew", "one task in ten gains much", "a sample of types")


def of_gains(kind: str, n: int, random: np.random.Generator) -> Found:
    "The intervals of statistics with one value per task."
    values = gains(kind, n, random)
    yield "mean of tasks", values.mean(), *interval(values)
    if kind != "many zeros":  # if many tasks share the median, no interval can miss it
        yield "median of tasks", np.median(values), *median_interval(values)
    three = np.stack([values - gains(kind, n, random) for _ in range(3)])
    yield "smallest of three gains, all zero", 0.0, *interval(three[three.mean(1).argmin()])
    tuned = 0.5 + 0.5 * random.random(n)
    kept = tuned * (0.4 + 0.1 * np.tanh(values))
    ends = jackknife_interval(lambda counts: (counts @ kept) / (counts @ tuned), n)
    yield "ratio of sums", kept.sum() / tuned.sum(), *ends


RELATIONS = {"no relation": 0.0, "weak relation": 0.4, "strong relation": 0.8}


def of_one_target(kind: str, n: int, random: np.random.Generator) -> Found:
    "The interval of one target's correlation, over its sources."
    x = random.normal(size=n)
    y = RELATIONS[kind] * x + np.sqrt(1 - RELATIONS[kind] ** 2) * random.normal(size=n)
    rho = float(spearman(x, y))
    yield "correlation of one target", rho, *correlation_interval(rho, n)


def coverage(draw: Callable[[], Found], worlds: int, **about: object) -> pd.DataFrame:
    "The share of worlds whose interval contains the mean over all worlds, and of those whose interval is below it."
    rows = pd.DataFrame([row for _ in range(worlds) for row in draw()], columns=["what", "value", "low", "high"])
    rows = rows.dropna()
    rows["true"] = rows.groupby("what")["value"].transform("mean")
    rows["holds"] = (rows["low"] <= rows["true"]) & (rows["true"] <= rows["high"])
    rows["below"] = rows["high"] < rows["true"]
    counted = {"share": ("holds", "mean"), "below": ("below", "mean"), "worlds": ("holds", "size")}
    found = rows.groupby("what", sort=False).agg(**counted)
    return found.reset_index().assign(**about)


def of_one_accuracy(worlds: int, random: np.random.Generator) -> pd.DataFrame:
    "The coverage of Wilson's interval, for which the true value is known."
    rows = []
    for n in (200, 500, 1000):
        true = 0.5 + 0.45 * random.random(worlds)
        hits = random.binomial(n, true)
        ends = np.array([wilson_interval(hit / n, n) for hit in hits])
        holds, below = (ends[:, 0] <= true) & (true <= ends[:, 1]), ends[:, 1] < true
        about = {"what": "one accuracy", "n": n, "world": "any accuracy from 50 to 95 %"}
        rows.append(about | {"share": holds.mean(), "below": below.mean(), "worlds": worlds})
    return pd.DataFrame(rows)


def rejections(kind: str, n: int, worlds: int, random: np.random.Generator) -> pd.DataFrame:
    "How often a test at 5 % rejects: its size if the similarity adds nothing to what is known, otherwise its power."
    found = {}
    for _ in range(worlds):
        world = World(kind, n, random)
        types = type_pairs(world.types)
        controls = {"permutation test": {}, "partial, types": types, "partial, all": types | by_source(world.names)}
        tested = {
            name: partial_permutation_test(world.similarity, world.transfer, known, draws=199, seed=0)
            for name, known in controls.items()
        }
        tested["types permuted"] = type_gap_test(world.accuracies(), world.types)
        for name, result in tested.items():
            found.setdefault(name, []).append(result.p <= 0.05)
    rows = [{"what": name, "share": np.mean(said), "worlds": worlds} for name, said in found.items()]
    return pd.DataFrame(rows).assign(n=n, world=kind)


def _counted(job: tuple[str, str, int, int, list[int]]) -> pd.DataFrame:
    "One kind of worlds, with its own seed, so the order of the jobs does not matter."
    what, kind, n, worlds, seed = job
    random = np.random.default_rng(seed)
    if what == "tests":
        return rejections(kind, n, worlds, random)
    if what == "one accuracy":
        return of_one_accuracy(worlds, random)
    draw = {
        "gains": lambda: of_gains(kind, n, random),
        "one target": lambda: of_one_target(kind, n, random),
        "matrices": lambda: of_matrices(World(kind, n, random)),
    }[what]
    return coverage(draw, worlds, n=n, world=kind)


SIZES = {  # the numbers of tasks that pages use
    "gains": (6, 7, 9, 10, 11, 12, 13),
    "one target": (9, 12, 13),
    "matrices": (9, 13),
    "tests": (9, 13),
}
KINDS = {"gains": (*GAINS, *BEYOND), "one target": tuple(RELATIONS), "matrices": WORLDS, "tests": WORLDS}


def simulate(
    what: str,  # "intervals" or "tests"
    worlds: int,
    seed: int,
    workers: int = 1,
) -> pd.DataFrame:
    "How often intervals contain the true value, or tests reject, in one table."
    groups = ("tests",) if what == "tests" else ("gains", "one target", "matrices")
    jobs = [] if what == "tests" else [("one accuracy", "", 0, worlds)]
    for group in groups:
        number = worlds // 3 if group == "matrices" else worlds
        jobs += [(group, kind, n, number) for n in SIZES[group] for kind in KINDS[group]]
    asked = [(*job, [seed, place]) for place, job in enumerate(jobs)]
    with ProcessPoolExecutor(workers) as pool:
        tables = list(pool.map(_counted, asked))
    found = pd.concat(tables, ignore_index=True)
    return found[[name for name in ("what", "n", "world", "share", "below", "worlds") if name in found]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("intervals", "tests"))
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="file for the table (.csv); its origin goes into .json")
    options = parser.parse_args()
    found = simulate(options.what, options.worlds, options.seed, options.workers)
    command = (
        f"python tools/coverage.py {options.what} --worlds {options.worlds} --seed {options.seed} --out {options.out}"
    )
    with atomic_write(options.out) as part:
        found.to_csv(part, index=False, float_format="%.4f")
    with atomic_write(options.out.with_suffix(".json")) as part:
        part.write_text(json.dumps({"command": command} | environment(), indent=1) + "\n")


if __name__ == "__main__":
    main()
