#!/usr/bin/env python3
"""Count how often conclusions about similarity metrics hold, over more than 100,000 variations of one computation.

    python tools/stability.py --out results/stability/atlas.csv

Table 3 of the paper ranks similarity metrics by how well they correlate with zero-shot transfer. This script repeats
the computation for each choice that could have been made: without up to two sources and up to one target, for each seed
and for all, with and without self pairs and the dead first vector, by three correlations within targets and, over all
cells at once, by two correlations of three measures of transfer. Within targets, Spearman's ranks of equal values are
shared, or follow the order of the table in either direction. Each row of the table counts the subsets of tasks for
which each conclusion holds. Nothing is trained, and no number is random.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, rankdata

from prompt_transferability.backbones import Backbone
from prompt_transferability.files import atomic_write
from prompt_transferability.microworld import MICRO_MODELS
from prompt_transferability.provenance import environment
from prompt_transferability.recomputed import read_table
from prompt_transferability.results import TYPES, Results
from prompt_transferability.similarity import (
    EMBEDDING_METRICS,
    activation_states,
    independent_pairs,
    overlap_matrix,
    similarity_matrix,
    task_means,
    type_baseline,
)
from prompt_transferability.tasks import PAPER_TASKS
from prompt_transferability.zero_shot_transfer import MIN_GAIN

ROOT = Path(__file__).resolve().parent.parent
MEASURES = ("accuracy", "share of the gain", "rank on the target")
POOLED = ("Spearman", "Pearson")
SHARED, BY_ORDER, REVERSED = "share a rank", "in the order of the table", "in reverse order"
WITHIN = (("Spearman", SHARED), ("Spearman", BY_ORDER), ("Spearman", REVERSED), ("Kendall", "any"), ("Pearson", "any"))
"Correlations within targets, and how the ranks of equal values are chosen."


@dataclass
class Case:
    "One similarity matrix per metric and one transfer matrix, for the same tasks."

    study: str
    prompts: str  # "seed 0" and so on, or "all seeds"
    vectors: str  # "all" or "without the first"
    similarity: dict[str, np.ndarray]  # [tasks, tasks] by metric
    accuracy: np.ndarray  # [sources, targets]
    random: np.ndarray  # [targets], accuracy of the random prompt


def published() -> Iterator[Case]:
    folder, tasks = ROOT / "results" / "release", list(PAPER_TASKS)
    transfer = read_table(folder, "transfer_roberta-base")
    table = (
        read_table(folder, "similarity_to_tuned").query("run == 'tuned'").set_index(["vectors", "tuned"], append=True)
    )
    for vectors, name in ((100, "all"), (99, "without the first")):
        found = {metric: table[metric].xs(vectors, level="vectors").unstack() for metric in EMBEDDING_METRICS}
        found = {metric: matrix.loc[tasks, tasks].to_numpy() for metric, matrix in found.items()}
        found["task type"] = type_baseline({task: TYPES[task] for task in tasks}).to_numpy()
        accuracy = transfer.loc[tasks, tasks].to_numpy()
        yield Case("published, RoBERTa-base", "seed 0", name, found, accuracy, transfer.loc["random", tasks].to_numpy())


def of_study(folder: str, title: str) -> Iterator[Case]:
    "Prompts of each seed, which started from the same vectors, and pairs of different seeds, which did not."
    results = Results(ROOT / "results" / folder)
    tasks, prompts = list(results.study.tasks), results.named_prompts()
    task_of = {name: prompt.task for name, prompt in prompts.items()}
    seed_of = {name: prompt.metadata["seed"] for name, prompt in prompts.items()}
    matrices = {metric: similarity_matrix(prompts, metric) for metric in EMBEDDING_METRICS}
    if results.study.backbones[0] in MICRO_MODELS:
        backbone = Backbone.from_pretrained(results.study.backbones[0], device="cpu")
        matrices["neuron_overlap"] = overlap_matrix(activation_states(prompts, backbone))
    types = type_baseline({task: TYPES[task] for task in tasks}).to_numpy()
    transfers = results.transfers()
    for seed in [*results.study.seeds, "all"]:
        if seed == "all" and len(results.study.seeds) == 1:
            continue
        if seed == "all":
            found = {
                metric: task_means(independent_pairs(matrix, seed_of), task_of) for metric, matrix in matrices.items()
            }
            transfer = results.transfer()
        else:
            names = {prompts[name].task: name for name in prompts if seed_of[name] == seed}
            found = {
                metric: matrix.loc[[*names.values()], [*names.values()]].set_axis([*names]).set_axis([*names], axis=1)
                for metric, matrix in matrices.items()
            }
            transfer = transfers[seed]
        found = {metric: matrix.loc[tasks, tasks].to_numpy() for metric, matrix in found.items()} | {"task type": types}
        accuracy, random = transfer.loc[tasks, tasks].to_numpy(), results.transfer().loc["random", tasks].to_numpy()
        yield Case(title, "all seeds" if seed == "all" else f"seed {seed}", "all", found, accuracy, random)


def subsets(n: int, most: int) -> list[np.ndarray]:
    "The indices that remain of n when at most `most` are left out."
    every = np.arange(n)
    return [np.delete(every, out) for size in range(most + 1) for out in combinations(range(n), size)]


def ranks(values: np.ndarray, ties: str) -> np.ndarray:
    "Ranks, with one of three treatments of equal values."
    if ties == REVERSED:
        return rankdata(values[::-1], method="ordinal")[::-1]
    return rankdata(values, method="ordinal" if ties == BY_ORDER else "average")


def within(kind: str, x: np.ndarray, y: np.ndarray, ties: str = SHARED) -> float:
    "A correlation; NaN if one side does not vary."
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    if kind == "Kendall":
        return float(kendalltau(x, y).statistic)
    if kind == "Spearman":
        x, y = ranks(x, ties), ranks(y, ties)
    return float(np.corrcoef(x, y)[0, 1])


def measured(case: Case, measure: str) -> np.ndarray:  # [sources, targets]
    "Transfer by a measure. The share of the gain divides by the target's own gain, the same for all its sources."
    if measure == "accuracy":
        return case.accuracy
    if measure == "rank on the target":
        return np.apply_along_axis(rankdata, 0, case.accuracy)
    gain = np.diag(case.accuracy) - case.random
    return (case.accuracy - case.random) / np.where(gain >= MIN_GAIN, gain, np.nan)


def correlations(case: Case, self_pairs: bool) -> Iterator[tuple[str, str, str, dict[str, np.ndarray]]]:
    "By correlation, ties and measure: the correlation of each metric, over all subsets of sources and targets."
    n = len(case.accuracy)
    sources, targets = subsets(n, 2), subsets(n, 1)
    for kind, ties in WITHIN:  # within a target the measures have the same order, or differ by a factor
        found = {}
        for metric, similar in case.similarity.items():
            by_target = np.full((len(sources), n), np.nan)
            for i, kept in enumerate(sources):
                for target in range(n):
                    rows = kept if self_pairs else kept[kept != target]
                    by_target[i, target] = within(kind, similar[rows, target], case.accuracy[rows, target], ties)
            found[metric] = np.stack([np.nanmean(by_target[:, kept], axis=1) for kept in targets], axis=1).ravel()
        yield f"{kind}, within targets", ties, "any", found
    for measure in MEASURES:
        values = measured(case, measure)
        for kind in POOLED:
            found = {metric: [] for metric in case.similarity}
            for rows in sources:
                for columns in targets:
                    cells = np.ix_(rows, columns)
                    used = np.isfinite(values[cells]) & (self_pairs | (rows[:, None] != columns))
                    for metric, similar in case.similarity.items():
                        found[metric].append(within(kind, similar[cells][used], values[cells][used]))
            ties = SHARED if kind == "Spearman" else "any"
            yield f"{kind}, all cells", ties, measure, {metric: np.array(rhos) for metric, rhos in found.items()}


def conclusions(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    "Which of the paper's conclusions hold, by variation; those about neurons only if there is neuron overlap."
    metrics = [metric for metric in found if metric != "task type"]
    best = np.max([found[metric] for metric in metrics], axis=0)
    holding = {
        "cosine above Euclidean, concatenated": found["cosine_concat"] > found["euclidean_concat"],
        "cosine above Euclidean, averaged": found["cosine_average"] > found["euclidean_average"],
        "Euclidean follows transfer poorly": np.maximum(found["euclidean_concat"], found["euclidean_average"]) < 0.2,
        "a metric is above the task types": best > found["task type"],
    }
    if "neuron_overlap" in found:
        holding["neurons are the best metric"] = found["neuron_overlap"] >= best
        holding["neurons above the task types"] = found["neuron_overlap"] > found["task type"]
    return holding


def atlas() -> pd.DataFrame:
    "One row per choice of study, prompts, vectors, self pairs, correlation and measure, over all subsets of tasks."
    rows = []
    cases = [*published(), *of_study("micro", "micro world"), *of_study("small", "all-MiniLM-L6-v2, real tasks")]
    for case in cases:
        for self_pairs in (True, False):
            for kind, ties, measure, found in correlations(case, self_pairs):
                about = {"study": case.study, "prompts": case.prompts, "vectors": case.vectors}
                about |= {"self pairs": self_pairs, "correlation": kind, "ties": ties, "measure": measure}
                order = np.argsort([-found[metric][0] for metric in found])  # with all tasks
                orders = np.argsort(-np.stack([*found.values()]), axis=0, kind="stable")
                rows.append(
                    about
                    | {"variations": len(next(iter(found.values())))}
                    | {"same order of metrics": int((orders == order[:, None]).all(axis=0).sum())}
                    | {name: int(np.sum(held)) for name, held in conclusions(found).items()}
                    | {
                        f"{metric}, {what}": round(float(value), 4)
                        for metric, rhos in found.items()
                        for what, value in zip(
                            ("all tasks", "lowest", "highest"), (rhos[0], np.nanmin(rhos), np.nanmax(rhos)), strict=True
                        )
                    }
                )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="file for the table (.csv); its origin goes into .json")
    options = parser.parse_args()
    found = atlas()
    with atomic_write(options.out) as part:
        found.to_csv(part, index=False)
    origin = {"command": f"python tools/stability.py --out {options.out}", "variations": int(found["variations"].sum())}
    with atomic_write(options.out.with_suffix(".json")) as part:
        part.write_text(json.dumps(origin | environment(), indent=1) + "\n")


if __name__ == "__main__":
    main()
